"""An evaluation: every model through every benchmark, then the judge, then the scores."""

from __future__ import annotations

import gc
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .. import __version__
from ..endpoint import OnReply
from ..errors import OGPSAError
from ..files import locked
from .backends import EndpointLM, Running, open_model
from .harness import Sample, run, write_lines
from .judging.judge import Judge
from .models import Model, fingerprint
from .recorded import RecordedLM
from .scores import gap, samples_file, score, write_scores
from .suite import Suite
from .tasks import Loaded, TaskLoader


Report = Callable[[str, str], OnReply]  # what is done and with what -> how far it is
_VERSIONS = ("lm_eval", "transformers", "torch", "peft", "datasets", "vllm")


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be evaluated.

    Attributes:
        suite: which benchmarks.
        models: which models.
        running: how they are run.
        judge: who grades; None to leave it for later.
        output: folder of the results.
        system: the system message; None for that of the models' templates.
        temperature: of sampling; 0 for greedy decoding.
        skip_missing: whether benchmarks whose rows cannot be had are left out, and shown as gaps.
    """

    suite: Suite
    models: list[Model]
    running: Running
    judge: Judge | None
    output: Path
    system: str | None = None
    temperature: float = 0.0
    skip_missing: bool = False


def evaluate(order: Order, report: Report, say: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Evaluate; the same order goes on where it was interrupted.

    Args:
        order: what and how.
        report: makes a progress report for one benchmark of one model.
        say: prints a line.

    Returns:
        The entries of every model's `scores.json`, by name.

    Raises:
        OGPSAError: before a model is loaded where rows are missing (without `skip_missing`) or a model has no chat
            template; later where a model or the judge fails. What was generated and judged by then is kept.
    """
    busy = f"Another evaluation writes to {order.output}. Wait until it ends, or use another --output."
    with locked(order.output / ".lock", busy):
        benchmarks = _load(order, say)
        prints = {model.name: _fingerprint(model, order) for model in order.models}
        for model in order.models:
            _open(model, order, prints).close()  # a template that is missing is found before anything takes long
        for model in order.models:
            _generate(model, order, benchmarks, prints, report)
        return {model.name: _score(model, order, benchmarks, prints, report, say) for model in order.models}


def check(order: Order, say: Callable[[str], None]) -> None:
    """Load the rows of every benchmark, and say what would be measured; nothing is written and no model is loaded.

    Args:
        order: what and how.
        say: prints a line.

    Raises:
        OGPSAError: rows are missing (without `skip_missing`).
    """
    for loaded in _load(order, say):
        if loaded.gap:
            continue
        benchmark = loaded.benchmark
        rows = sum(min(len(task.task_docs), benchmark.limit or len(task.task_docs)) for task in loaded.tasks)
        what = f"answers of up to {benchmark.max_new_tokens} tokens" if loaded.generates else "likelihoods of choices"
        judged = f", judged ({benchmark.judge})" if benchmark.judge else ""
        say(f"{benchmark.name}: {rows:,} rows, {what}{judged}. {benchmark.title}.")


def _load(order: Order, say: Callable[[str], None]) -> list[Loaded]:
    loader = TaskLoader(order.suite, order.temperature)
    loaded = []
    for benchmark in order.suite.benchmarks:
        each = loader.load(benchmark)
        if not each.gap and order.running.backend == "openai" and not each.generates:
            each = Loaded(benchmark, gap="it needs likelihoods of given texts, which chat endpoints do not give")
        elif each.gap and not order.skip_missing:
            missing = [f"{benchmark.name}: {each.gap}"]
            rest = order.suite.benchmarks[order.suite.benchmarks.index(benchmark) + 1 :]
            missing += [f"{other.name}: {found.gap}" for other in rest if (found := loader.load(other)).gap]
            raise OGPSAError(
                "rows of these benchmarks cannot be had:\n" + "\n".join(f"- {line}" for line in missing) + "\n"
                "--skip-missing leaves them out and shows the gaps; --benchmarks chooses others."
            )
        if each.gap or each.note:
            say(f"{benchmark.name}: {each.gap or each.note}")
        loaded.append(each)
    return loaded


def _fingerprint(model: Model, order: Order) -> dict[str, Any]:
    endpoint = order.running.endpoint
    if endpoint is not None:  # nobody outside knows its weights
        return {"fingerprint": f"{model.base} at {endpoint.url.rstrip('/')}"}
    return fingerprint(model, order.output)


def _open(model: Model, order: Order, prints: dict[str, dict[str, Any]]) -> RecordedLM | EndpointLM:
    return open_model(model, order.running, prints[model.name]["fingerprint"], order.output / model.name)


def _generate(
    model: Model, order: Order, benchmarks: list[Loaded], prints: dict[str, dict[str, Any]], report: Report
) -> None:
    """Have a model answer, and write its samples."""
    lm = _open(model, order, prints)
    try:
        for loaded in benchmarks:
            if loaded.gap:
                continue
            lm.on_progress = report(model.name, loaded.benchmark.name)
            samples = run(lm, loaded, order.suite.seed, order.system, order.running.template)
            write_lines(samples_file(order.output / model.name, loaded.benchmark), samples)
    finally:
        lm.close()
        gc.collect()  # the next model needs the memory
        _empty_cache()


def _empty_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _score(
    model: Model,
    order: Order,
    benchmarks: list[Loaded],
    prints: dict[str, dict[str, Any]],
    report: Report,
    say: Callable[[str], None],
) -> dict[str, Any]:
    folder = order.output / model.name
    entries: dict[str, Any] = {}
    for loaded in benchmarks:
        name = loaded.benchmark.name
        if loaded.gap:
            entries[name] = gap(loaded.benchmark, loaded.gap)
            continue
        samples = _read_samples(samples_file(folder, loaded.benchmark))
        entries[name] = score(folder, samples, order.judge, lambda name: report(f"{model.name}, judge", name), loaded)
    write_scores(folder, _record(model, order, prints[model.name]), entries)
    return entries


def _read_samples(path: Path) -> list[Sample]:
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def _record(model: Model, order: Order, print_of: dict[str, Any]) -> dict[str, Any]:
    suite, running = order.suite, order.running
    limits = {each.limit for each in suite.benchmarks}
    return {
        "model": {"name": model.name, "path": model.base, "adapters": list(model.adapters), **print_of},
        "suite": {
            "name": suite.name,
            "title": suite.title,
            "fingerprint": suite.fingerprint,
            "seed": suite.seed,
            "limit": max((limit for limit in limits if limit is not None), default=None),
        },
        "backend": running.backend,
        "dtype": running.dtype,
        "arguments": running.arguments,
        "chat_template": running.template,
        "system": order.system,
        "temperature": order.temperature,
        "versions": {"ogpsa_factory": __version__, "python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
