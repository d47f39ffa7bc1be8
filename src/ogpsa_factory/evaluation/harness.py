"""One model through one benchmark by lm-eval, and what it said, row by row."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OGPSAError
from ..files import replaced_file
from .recorded import RecordedLM
from .suite import Benchmark
from .tasks import Loaded


if TYPE_CHECKING:
    from .backends import EndpointLM


Sample = dict[str, Any]
SAMPLES = "samples.jsonl"


def run(lm: RecordedLM | EndpointLM, loaded: Loaded, seed: int, system: str | None, template: bool) -> list[Sample]:
    """Run a benchmark; what the model has answered before is not generated again.

    Args:
        lm: the model.
        loaded: the benchmark.
        seed: of examples in prompts and of sampling.
        system: the system message; None for that of the model's template.
        template: whether the model's chat template is applied.

    Returns:
        One sample a row: `id`, `task`, `prompt` (rendered), `answer` or `likelihoods` (nats, one a choice), `target`,
        `figures` of lm-eval by name, `doc` (the row), `cut` where the prompt was too long for the model, and `failure`
        where there is no answer.

    Raises:
        OGPSAError: the model cannot run it, or lm-eval has no figure of the name that the suite asks for.
    """
    import numpy
    import torch
    from lm_eval.evaluator import evaluate

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    try:
        results = evaluate(
            lm=lm,
            task_dict={"tasks": {task.task_name: task for task in loaded.tasks}},
            limit=loaded.benchmark.limit,
            bootstrap_iters=0,
            apply_chat_template=template,
            fewshot_as_multiturn=template,
            system_instruction=system,
        )
    except OGPSAError:
        raise
    except torch.cuda.OutOfMemoryError:
        raise OGPSAError("the GPU's memory is full. Set a lower --batch-size; finished answers are kept.") from None
    except AssertionError as error:
        raise OGPSAError(f"{error} A lower --max-new-tokens may help.") from error
    figure, _, kind = loaded.benchmark.score.partition("@")
    samples = []
    for task, records in results["samples"].items():
        chosen = [record for record in records if not kind or record["filter"] == kind]
        if not chosen or (figure and figure not in chosen[0]):
            there = sorted({f"{name}@{record['filter']}" for record in records for name in record["metrics"]})
            raise OGPSAError(
                f"task {task} has no figure {loaded.benchmark.score}. There are: "
                f"{', '.join(there)} (without @FILTER where it is none)."
            )
        first = chosen[0]["filter"]
        samples += [_sample(lm, task, record) for record in chosen if record["filter"] == first]
    return samples


def _sample(lm: RecordedLM | EndpointLM, task: str, record: dict[str, Any]) -> Sample:
    prompt = str(record["arguments"][0][0])
    sample = {
        "id": f"{task}/{record['doc_id']}-{record['doc_hash'][:8]}",
        "task": task,
        "prompt": prompt,
        "target": record["target"],
        "figures": {name: record[name] for name in record["metrics"]},
        "doc": record["doc"],
    }
    first = record["resps"][0][0]
    if isinstance(first, str):
        sample["answer"] = first
    else:
        sample["likelihoods"] = [float(answers[0][0]) for answers in record["resps"]]
    if isinstance(lm, RecordedLM) and lm.room is not None:
        options = record["arguments"][0][1]
        more = options["max_gen_toks"] if isinstance(options, dict) else 1
        if lm.measure(prompt) + more > lm.room:  # lm-eval cuts such a prompt at its beginning
            sample["cut"] = True
    if prompt in lm.failures:
        sample["failure"] = lm.failures[prompt]
    return sample


def items_of(benchmark: Benchmark, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """What lm-eval's own figures make of samples; a judge's verdicts are turned into items elsewhere.

    Args:
        benchmark: which one.
        samples: those of `run`.

    Returns:
        `id`, `task` and `value` in [0, 1], or label and prediction for AdvGLUE. Samples without answer are left out.
    """
    answered = [sample for sample in samples if "failure" not in sample]
    if benchmark.aggregation == "advglue":
        return [
            {
                "id": sample["id"],
                "task": str(sample["task"]).removeprefix("ogpsa_advglue_"),
                "label": int(sample["target"]),
                "prediction": max(range(len(sample["likelihoods"])), key=sample["likelihoods"].__getitem__),
            }
            for sample in answered
        ]
    name = benchmark.score.partition("@")[0]
    for sample in answered[:1]:
        if isinstance(sample["figures"][name], bool | int | float):
            continue
        raise OGPSAError(f"{name} is no number of each row, so there is no mean of it. Take another.")
    return [{"id": each["id"], "task": each["task"], "value": float(each["figures"][name])} for each in answered]


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write JSON Lines, whole or not at all.

    Args:
        path: the file.
        rows: what to write; values that are no JSON are written as text.
    """
    with replaced_file(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
