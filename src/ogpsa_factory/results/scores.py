"""Reading of what `ogpsa evaluate` wrote: every `scores.json` below some folders, and the items beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import OGPSAError
from ..files import read_json
from .features import ADVGLUE_TASKS, FEATURES, Items, make_items
from .models import AXES, SETTINGS, Benchmark, Model


SCORES = "scores.json"
FORMAT = 1
DEFAULT_FOLDER = Path("results") / "evaluation"
_ROUNDING = 0.011  # percent: a score may have been rounded to two decimals
_AGAIN = "Evaluate this model again."


def read_scores(folders: Sequence[Path]) -> list[Model]:
    """Read every evaluated model below some folders.

    Args:
        folders: to look through; `results/evaluation` where there are none.

    Returns:
        The models, in the order of their paths.

    Raises:
        OGPSAError: there is none, one is damaged or of another format, or two have one name.
    """
    models: dict[str, Model] = {}
    for folder in folders or [DEFAULT_FOLDER]:
        if not folder.is_dir():
            raise OGPSAError(f"There is no folder {folder}: run `ogpsa evaluate` first, or name its output folder.")
        found = sorted({path.resolve(): path for path in folder.rglob(SCORES)}.values())
        if not found:
            raise OGPSAError(f"There is no {SCORES} below {folder}: run `ogpsa evaluate` first.")
        for path in found:
            model = read_model(path)
            other = models.setdefault(model.name, model)
            if Path(other.source).resolve() != path.resolve():
                raise OGPSAError(
                    f"Two evaluations are of a model named {model.name!r}: {other.source} and {path}. "
                    "Name folders that hold only one of them."
                )
    return list(models.values())


def read_model(path: Path) -> Model:
    """Read one model's scores and items.

    Args:
        path: its `scores.json`.

    Returns:
        The model.

    Raises:
        OGPSAError: a file is damaged, or a score does not follow from its items.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise OGPSAError(f"{path} is not of format {FORMAT}, which this version of ogpsa_factory reads. {_AGAIN}")
    record = _get(content, "model", dict, path)
    name = _get(record, "name", str, path, "model")
    benchmarks = {}
    for key, entry in _get(content, "benchmarks", dict, path).items():
        if not isinstance(entry, dict):
            raise OGPSAError(f"{path}: benchmarks.{key} is not an object. {_AGAIN}")
        benchmarks[key] = _read_benchmark(path, key, entry)
    return Model(
        name=name,
        source=str(path),
        benchmarks=benchmarks,
        record=record,
        suite=_get(content, "suite", dict, path),
        versions=_get(content, "versions", dict, path),
        backend=_get(content, "backend", (str, type(None)), path),
        settings={key: content[key] for key in SETTINGS if key in content},
    )


def _get(entry: Mapping[str, Any], key: str, kind: type | tuple[type, ...], path: Path, where: str = "") -> Any:
    """A value that must be there and of a type; a bool is no number, nor is nan."""
    value = entry.get(key)
    odd = (isinstance(value, bool) and kind is not bool) or (isinstance(value, float) and not math.isfinite(value))
    if key not in entry or not isinstance(value, kind) or odd:
        raise OGPSAError(f"{path}: {where + '.' if where else ''}{key} is missing or of a wrong type. {_AGAIN}")
    return value


def _optional(entry: Mapping[str, Any], key: str, kind: type, path: Path, where: str) -> Any:
    """A value that earlier versions do not write."""
    return None if entry.get(key) is None else _get(entry, key, kind, path, where)


def _read_benchmark(path: Path, name: str, entry: Mapping[str, Any]) -> Benchmark:
    where = f"benchmarks.{name}"
    axis = _get(entry, "axis", str, path, where)
    title = _get(entry, "title", str, path, where)
    higher = _get(entry, "higher_is_better", bool, path, where)
    if axis not in AXES:
        raise OGPSAError(f"{path}: {where}.axis is {axis!r}, not one of {', '.join(AXES)}. {_AGAIN}")
    if axis != "extra" and not higher:
        raise OGPSAError(
            f"{path}: {where} is lower where better, so it cannot be part of a mean of axis {axis!r}: "
            "give it the axis 'extra' in the suite."
        )
    if "gap" in entry:
        return Benchmark(name, axis, title, higher, gap=_get(entry, "gap", str, path, where))

    score = float(_get(entry, "score", (int, float), path, where))
    further = _get(entry, "details", dict, path, where)
    kinds = (int, float, type(None))  # no figure where there is nothing to divide by
    details = {key: _get(further, key, kinds, path, f"{where}.details") for key in further}
    aggregation = _get(entry, "aggregation", str, path, where)
    if aggregation not in FEATURES:
        raise OGPSAError(f"{path}: {where}.aggregation is {aggregation!r}, not one of {', '.join(FEATURES)}.")
    items = _read_items(path, _get(entry, "items", str, path, where), aggregation)
    samples = _get(entry, "samples", int, path, where)
    recomputed = items.score()
    if samples != len(items.keys) or not abs(recomputed - score) <= _ROUNDING:  # `not`: without items it is nan
        raise OGPSAError(
            f"{path}: {where} has score {score:.2f} of {samples} samples, but its items give {recomputed:.2f} "
            f"of {len(items.keys)}. {_AGAIN}"
        )
    return Benchmark(
        name,
        axis,
        title,
        higher,
        score=recomputed,
        samples=samples,
        failed=_get(entry, "failed", int, path, where),
        unparsed=_get(entry, "unparsed", int, path, where),
        judge=_get(entry, "judge", (str, type(None)), path, where),
        note=_get(entry, "note", (str, type(None)), path, where),
        aggregation=aggregation,
        details=details,
        items=items,
        settings=_optional(entry, "settings", str, path, where),
        rows=_optional(entry, "rows", str, path, where),
        origins=tuple(map(str, _optional(entry, "origins", list, path, where) or ())),
    )


def _read_items(path: Path, relative: str, aggregation: str) -> Items:
    """Read an items file; every line is checked, and no id may come twice."""
    file = path.parent / relative
    lines: list[dict[str, Any]] = []
    seen: set[str] = set()
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise OGPSAError(f"Cannot read {file}, which {path} names: {error}. {_AGAIN}") from error
    for number, row in enumerate(text.split("\n"), start=1):
        if not row.strip():
            continue
        try:
            line = json.loads(row)
        except ValueError:
            line = None
        if not isinstance(line, dict) or not _is_item(line, aggregation):
            raise OGPSAError(f"{file}, line {number}: not an item of aggregation {aggregation!r}. {_AGAIN}")
        if line["id"] in seen:
            raise OGPSAError(f"{file}, line {number}: the id {line['id']!r} comes twice. {_AGAIN}")
        seen.add(line["id"])
        lines.append(line)
    return make_items(aggregation, lines)


def _is_item(line: Mapping[str, Any], aggregation: str) -> bool:
    if not isinstance(line.get("id"), str) or not isinstance(line.get("task"), str):
        return False
    if aggregation == "advglue":
        numbers = (line.get("label"), line.get("prediction"))
        return line["task"] in ADVGLUE_TASKS and all(type(number) is int for number in numbers)
    value = line.get("value")
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1  # nan is not
