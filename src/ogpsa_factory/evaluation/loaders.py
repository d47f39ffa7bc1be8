"""What lm-eval's task files call: rows of a benchmark, an order for GPQA's choices, a figure for what is judged."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

from ..data.quiet import quiet_libraries
from ..errors import OGPSAError
from .converters import CONVERTERS, LAYOUTS, MMLU_LETTERS
from .sources import GATED, SOURCES, Record, Source, check_columns, local_file, read_local


def load(source: str, part: str = "", splits: Sequence[str] = (), **_: Any) -> dict[str, Any]:
    """Load a benchmark for lm-eval (its `custom_dataset`).

    Args:
        source: key of `SOURCES`.
        part: half, attack, subject or subset, where the source has such.
        splits: those that are needed; none for all.
        **_: lm-eval hands a task's metadata over as well.

    Returns:
        `datasets.Dataset` by split.

    Raises:
        OGPSAError: the rows cannot be had; with what to do about it.
    """
    from datasets import Dataset

    origin = SOURCES[source]
    loaded = {}
    for split in splits or origin.splits:
        path = local_file(origin, split, part)
        if path is not None:
            layout = LAYOUTS.get((source, path.suffix))
            rows = iter(read_local(origin, path, layout and layout(path, part)))
        else:
            rows = _hub_rows(origin, split, part)
        converted = list(CONVERTERS[source](rows, part)) if source in CONVERTERS else list(rows)
        if not converted:
            raise OGPSAError(f"{path or origin.hub}: {origin.title} has no row for {part or split}.")
        loaded[split] = Dataset.from_list(converted)
    return loaded


def _hub_rows(source: Source, split: str, part: str) -> Iterator[Record]:
    import datasets

    if not source.hub:
        raise OGPSAError(f"{source.title} is not on the hub: run `ogpsa lab build`, or name its folder with --data.")
    config = source.config.format(part=part) if source.config else None
    try:
        with quiet_libraries():
            rows = datasets.load_dataset(
                source.hub, config, split=source.splits[split], revision=source.revision, streaming=source.streamed
            )
            first = True
            for row in rows:
                if first:
                    check_columns(source, row, source.hub)
                    first = False
                yield dict(row)
    except OGPSAError:
        raise
    except Exception as error:  # the hub's client, its HTTP library and `datasets` each have their own
        if any(word in f"{type(error).__name__} {error}" for word in ("LocalEntryNotFound", "ConnectionError")):
            _go_offline()
        raise OGPSAError(_explain(source, error)) from error


def _go_offline() -> None:
    """Read the others from the cache alone: waiting for the hub takes half a minute for each, and then fails too."""
    import datasets
    import huggingface_hub

    datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True


def _explain(source: Source, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    refused = any(word in f"{type(error).__name__} {error}".lower() for word in ("gated", "401", "403"))
    if refused or (source.gated and "DatasetNotFound" in type(error).__name__):
        return GATED.format(title=source.title, hub=source.hub)
    return (
        f"{source.title} ({source.hub}) cannot be read from the hub: {type(error).__name__}: {reason}. Mend the "
        "connection, or download it elsewhere and name its folder with --data."
    )


def shuffle_gpqa(dataset: Any) -> Any:
    """Order the choices of GPQA (lm-eval's `process_docs`).

    The stock task shuffles with Python's global generator each time that its rows are asked for, so that prompts and
    grading may see different orders; here the order follows from the question.

    Args:
        dataset: rows with the question, the correct and the three incorrect answers.

    Returns:
        Rows with `choice1` to `choice4`, `choices` and `answer`, e.g. "(B)".
    """

    def one(row: Record) -> Record:
        names = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
        answers = [" ".join(str(row[name] or "").split()) for name in names]
        seed = hashlib.sha256(str(row["Question"]).encode()).hexdigest()
        order = random.Random(seed).sample(range(4), 4)
        choices = [answers[i] for i in order]
        numbered = {f"choice{number}": choice for number, choice in enumerate(choices, start=1)}
        return {**numbered, "choices": choices, "answer": f"({MMLU_LETTERS[order.index(0)]})"}

    return dataset.map(one)


def answered(doc: Record, results: list[Any]) -> dict[str, float]:
    """The only figure of a task that a judge grades later (lm-eval's `process_results`).

    Args:
        doc: the row.
        results: the answer.

    Returns:
        Whether there is an answer at all.
    """
    return {"answered": float(bool(str(results[0]).strip()))}
