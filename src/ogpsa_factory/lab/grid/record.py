"""A grid's results in one file, which needs no other: what was asked for, and what came out."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...errors import OGPSAError
from ...files import read_json, write_text
from .definition import Grid
from .nodes import Plan
from .runner import MODELS, finished
from .source import processor, versions


FORMAT = 1
_KEYS = (
    *("format", "file", "title", "axis", "curves", "world", "seeds", "pipelines", "methods", "versions", "planned"),
    *("processor", "bases", "points"),
)
_KEPT = ("weights", "measures", "seconds")
_MEANS = ("ogpsa/cos/", "ogpsa/cos_after/", "ogpsa/leak/", "ogpsa/reference_loss/")  # by reference set


def record_path(output: Path, grid: Grid) -> Path:
    """The file of a grid's results.

    Args:
        output: folder of a lab's results.
        grid: the grid.

    Returns:
        Named as the grid's file.
    """
    return output / f"{grid.file.stem}.json"


def make_record(grid: Grid, plan: Plan, output: Path) -> dict[str, Any]:
    """Collect what is finished of a grid.

    Args:
        grid: the grid.
        plan: its models.
        output: folder of a lab's results.

    Returns:
        Plain values for `write_record`.
    """
    bases = {str(seed): _kept(output, key, False) for seed, key in plan.bases.items()}
    points = [{**asdict(point), **kept} for point in plan.points if (kept := _kept(output, point.key, grid.curves))]
    return {
        "format": FORMAT,
        "file": grid.file.as_posix(),
        "title": grid.title,
        "axis": grid.axis,
        "curves": grid.curves,
        **asked_for(grid),
        "versions": versions(),
        "processor": processor(),
        "planned": len(plan.points),
        "bases": {seed: base for seed, base in bases.items() if base},
        "points": points,
    }


def in_columns(log: Sequence[dict[str, float]]) -> dict[str, list[float | None]]:
    """The log of a run in little room: a list a figure, and of figures by reference set the mean of their sizes.

    Args:
        log: an entry a logged step.

    Returns:
        Lists of equal length; None where a step has no such figure.
    """
    rows = []
    for entry in log:
        row = {name: value for name, value in entry.items() if not name.startswith(_MEANS)}
        for prefix in _MEANS:
            found = [abs(value) for name, value in entry.items() if name.startswith(prefix)]
            if found:
                row[f"{prefix}mean"] = float(f"{statistics.fmean(found):.4g}")
        rows.append(row)
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}


def in_rows(columns: dict[str, list[float | None]]) -> list[dict[str, Any]]:
    """The log of a run, from what `in_columns` returned.

    Args:
        columns: a list a figure.

    Returns:
        An entry a logged step.
    """
    return [
        {name: value for name, value in zip(columns, row, strict=True) if value is not None}
        for row in zip(*columns.values(), strict=True)
    ]


def asked_for(grid: Grid) -> dict[str, Any]:
    """What was asked for, as a record has it.

    Args:
        grid: the grid.

    Returns:
        Plain values, as they are read from JSON again.
    """
    asked = {
        "world": grid.world,
        "seeds": list(grid.seeds),
        "pipelines": {name: {stage: list(rates) for stage, rates in p.items()} for name, p in grid.pipelines.items()},
        "methods": {
            name: {key: value for key, value in asdict(method).items() if value is not None}
            for name, method in grid.methods.items()
        },
    }
    return dict(json.loads(json.dumps(asked)))


def _kept(output: Path, key: str, with_curves: bool) -> dict[str, Any]:
    result = finished(output, key)
    if result is None:
        return {}
    try:
        kept = {"key": key, **{name: result[name] for name in _KEPT}}
        kept["steps"] = max((entry["step"] for entry in result["curves"]), default=0)
        kept["refreshes"] = result.get("refreshes", 0)
        return {**kept, "curves": in_columns(result["curves"])} if with_curves else kept
    except (KeyError, TypeError):
        raise OGPSAError(
            f"{output / MODELS / key} holds a result of another version: delete this folder, and run again."
        ) from None


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record, a line a point, so that two of them can be compared by line.

    Where one with more points is there, as after a change of the code or of a library, it is kept as `FILE.json.old`.

    Args:
        path: the file.
        record: what `make_record` returned.
    """
    if find_records([path] if path.exists() else []) and len(read_json(path)["points"]) > len(record["points"]):
        os.replace(path, path.with_name(f"{path.name}.old"))
    head = {name: value for name, value in record.items() if name not in ("bases", "points")}
    lines = [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in head.items()]
    bases = [f"{json.dumps(seed)}: {json.dumps(base)}" for seed, base in record["bases"].items()]
    points = [json.dumps(point) for point in record["points"]]
    lines.append('"bases": {\n' + ",\n".join(bases) + "\n}")
    lines.append('"points": [\n' + ",\n".join(points) + "\n]")
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def is_record(value: Any) -> bool:
    """Tell a grid's results from other JSON.

    Args:
        value: what a file holds.

    Returns:
        Whether `read_record` takes it.
    """
    return isinstance(value, dict) and set(_KEYS) <= set(value)


def read_record(path: Path) -> dict[str, Any]:
    """Read a grid's results.

    Args:
        path: the file.

    Returns:
        What `make_record` returned.

    Raises:
        OGPSAError: it cannot be read or is something else.
    """
    record = read_json(path)
    if not is_record(record):
        raise OGPSAError(f"{path} does not hold the results of `ogpsa lab run`.")
    if record.get("format") != FORMAT:
        raise OGPSAError(f"{path} has the format {record.get('format')}, and this version reads {FORMAT} only.")
    return dict(record)


def find_records(folders: Sequence[Path]) -> list[Path]:
    """Find the results of grids.

    Args:
        folders: where to look; a file stands for itself.

    Returns:
        The files, in the order of the folders and by name.
    """
    found = []
    for folder in folders:
        for path in [folder] if folder.is_file() else sorted(folder.glob("*.json")):
            try:
                fits = is_record(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError):
                fits = False
            found += [path] if fits else []
    return found
