"""Data sets that runs need: whether they are there, which command makes them, how many tokens they hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..data.layouts import ALPACA_COLUMNS
from ..data.paper import STEPS
from ..data.records import SUFFIXES, read_rows
from ..data.registry import HUBS, Registry
from ..errors import OGPSAError
from ..lab.datasets import FOLDER as MINI_FOLDER
from ..lab.world import Sizes
from ..pipeline.chain import Stage


CHARACTERS_PER_TOKEN = 4  # of English text; within a fifth for tokenizers of this size of vocabulary
TEMPLATE_TOKENS = 20  # what a chat template puts around one turn
_REFERENCE_KEY = "ogpsa_reference_dataset"
_BUILD_MINI = "ogpsa lab build"

# Sets of tables.yaml that are chosen out of others: the pools, and how many rows.
_MIXED: dict[str, tuple[str, int]] = {
    "mixed_ref_sft": ("ultrafeedback_ref_sft,halueval_ref_sft", 400),
    "mini_mixed_ref": ("mini_ref_helpful,mini_ref_recall", 400),
}
# Assumed where a set is not there yet: tokens of the prompt, of the answer (the chosen one), of the rejected answer.
_ASSUMED: dict[str, tuple[int, int, int]] = {
    "saferlhf": (35, 60, 150),
    "ultrafeedback": (190, 320, 230),
    "general": (190, 320, 230),
    "halueval": (25, 10, 15),
    "mixed": (110, 165, 120),
    "mini": (8, 6, 6),
}


@dataclass(frozen=True)
class Size:
    """How large a set is.

    Attributes:
        rows: their number.
        first: mean tokens of a row's prompt and answer, of pairs the chosen one.
        second: of pairs, mean tokens of the prompt and the rejected answer; 0 otherwise.
        measured: whether the file was read.
    """

    rows: int
    first: float
    second: float
    measured: bool


def sets_of(stage: Stage) -> list[str]:
    """The data sets that a stage trains on.

    Args:
        stage: a stage of a pipeline.

    Returns:
        Their names; none where it merges.
    """
    return _words(stage.config.get("dataset"))


def references_of(stage: Stage) -> list[str]:
    """The reference sets that a stage projects against; none without OGPSA."""
    used = str(stage.config.get("stage", "")).startswith("ogpsa_") or stage.config.get("use_ogpsa")
    return _words(stage.config.get(_REFERENCE_KEY)) if used else []


def missing(stages: Iterable[Stage]) -> dict[str, str]:
    """Find the data sets that are not there.

    Args:
        stages: of pipelines.

    Returns:
        By the set's name, the command that makes it, or what else to do.

    Raises:
        OGPSAError: a registry cannot be read.
    """
    found: dict[str, str] = {}
    for stage in stages:
        folder = Path(str(stage.config.get("dataset_dir", "data")))
        for name in [*sets_of(stage), *references_of(stage)]:
            if name in found or _there(folder, name):
                continue
            for part in _words(_MIXED[name][0]) if name in _MIXED else []:
                if not _there(folder, part):
                    found[part] = _command(part, folder)
            found[name] = _command(name, folder)
    return found


def refuse_missing(stages: Iterable[Stage]) -> None:
    """Refuse to start where a data set is not there.

    Args:
        stages: of pipelines.

    Raises:
        OGPSAError: with the commands that make what is missing.
    """
    absent = missing(stages)
    if absent:
        commands = "\n".join(f"    {command}" for command in dict.fromkeys(absent.values()))
        raise OGPSAError(
            f"Nothing was started. Data sets are missing: {', '.join(absent)}. Make them with\n{commands}"
        )


@cache
def size_of(folder: Path, name: str, cutoff: int) -> Size:
    """Measure a set, or assume what it will be where it is not there yet.

    Args:
        folder: LLaMA-Factory's `dataset_dir`.
        name: of the set.
        cutoff: tokens of a sequence at most.

    Returns:
        Its size; characters are divided by four, and every sequence gets 20 tokens for its template.

    Raises:
        OGPSAError: its file cannot be read, or nothing is known of a set that is not there.
    """
    if not _there(folder, name):
        return _assumed(name)
    entry = Registry(folder).entry(name)
    if any(hub in entry for hub in HUBS):
        raise OGPSAError(f"{name} in {folder} comes from a hub, so its tokens cannot be counted before it is fetched.")
    rows, first, second = 0, 0.0, 0.0
    for row in _rows(Registry(folder).file_of(name, outside=True)):
        prompt, answer, rejected = _characters(row, entry)
        rows += 1
        first += min(cutoff, (prompt + answer) / CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS)
        second += min(cutoff, (prompt + rejected) / CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS) if rejected else 0
    if not rows:
        raise OGPSAError(f"{name} in {folder} has no rows.")
    return Size(rows, first / rows, second / rows, True)


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    files = sorted(each for each in path.iterdir() if each.suffix in SUFFIXES) if path.is_dir() else [path]
    for file in files:
        for row in read_rows(file):
            yield row.value


def _characters(row: Mapping[str, Any], entry: Mapping[str, Any]) -> tuple[int, int, int]:
    """Characters of prompt, answer and rejected answer; messages count as the prompt, whoever wrote them."""
    columns = {**ALPACA_COLUMNS, "chosen": "chosen", "rejected": "rejected", **(entry.get("columns") or {})}
    prompt = sum(_length(row.get(columns.get(key, key))) for key in ("system", "prompt", "query", "messages"))
    answer = _length(row.get(columns["chosen" if entry.get("ranking") else "response"]))
    return prompt, answer, _length(row.get(columns["rejected"])) if entry.get("ranking") else 0


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_length, parts))


def _there(folder: Path, name: str) -> bool:
    entry = Registry(folder).entries.get(name)
    if entry is None:
        return False
    return any(hub in entry for hub in HUBS) or (folder / str(entry.get("file_name", name))).exists()


def _step_of(name: str) -> str | None:
    """The step of `ogpsa data build` that makes a set."""
    for step, facts in STEPS.items():
        if name in (*facts.sets.values(), *facts.aliases.values()):
            return step
    return None


def _command(name: str, folder: Path) -> str:
    step = _step_of(name)
    if step is not None:
        return f"ogpsa data build {step}" + (f" --output {folder}" if folder != Path("data") else "")
    if name in _MIXED:
        pools, rows = _MIXED[name]
        place = f" --dataset-dir {folder}" if folder != Path("data") else ""
        return f"ogpsa data select {pools} --by random --samples {rows} --name {name}{place}"
    if name.startswith(f"{MINI_FOLDER}_"):
        return _BUILD_MINI
    return f"ogpsa data add FILE --name {name}"


def _assumed(name: str) -> Size:
    kind = _step_of(name) or ("mixed" if name in _MIXED else MINI_FOLDER if name.startswith(MINI_FOLDER) else None)
    if kind is None:
        raise OGPSAError(f"{name} is not in dataset_info.json, so nothing can be planned with it. Add it first.")
    prompt, answer, rejected = (tokens for tokens in _ASSUMED[kind])
    if kind in STEPS:
        rows = STEPS[kind].samples
    elif name in _MIXED:
        rows = _MIXED[name][1]
    else:
        rows = Sizes().reference if "_ref_" in name else Sizes().safety
    pairs = name.endswith("_dpo")
    first = prompt + answer + TEMPLATE_TOKENS
    return Size(rows, first, prompt + rejected + TEMPLATE_TOKENS if pairs else 0, False)


def _words(value: Any) -> list[str]:
    words = value.split(",") if isinstance(value, str) else map(str, value or [])
    return [word.strip() for word in words if word.strip()]
