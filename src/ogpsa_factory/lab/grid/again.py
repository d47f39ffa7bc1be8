"""Recorded points made again: the same weights to the last bit, and the same measures."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from ...errors import OGPSAError
from .definition import read_grid
from .nodes import Node, plan
from .record import asked_for, in_columns, read_record
from .runner import finished
from .source import versions


def drawn_points(path: Path, count: int, seed: int) -> tuple[list[dict[str, Any]], dict[str, Node]]:
    """Draw points of a record.

    Args:
        path: the record; the grid's file must be where it was, as seen from here.
        count: number of points; all where there are fewer.
        seed: of the choice.

    Returns:
        The points as recorded, with the names that their models have now; and the models needed to make them, those
        that others need first.

    Raises:
        OGPSAError: the grid, or a library, is not what it was when the record was written.
    """
    record = read_record(path)
    if count < 1:
        raise OGPSAError(f"--points is {count}: take 1 or more.")
    other = [name for name, number in versions().items() if record["versions"].get(name) != number]
    if other:
        name = other[0]
        raise OGPSAError(
            f"{path} was made with {name} {record['versions'].get(name)}, and {versions()[name]} is installed: "
            "results differ in their last bits between versions. Install the recorded ones to compare."
        )
    grid = read_grid(Path(record["file"]))
    if asked_for(grid) != {name: record[name] for name in asked_for(grid)}:
        raise OGPSAError(f"{record['file']} has changed since {path} was written: run `ogpsa lab run` again.")
    made = plan(grid)
    # Not by name: other code may name a model otherwise and make the same one, which is what is to be found out.
    keys = {_place(vars(point)): point.key for point in made.points}
    drawn = Random(seed).sample(record["points"], min(count, len(record["points"])))
    points = [{**point, "key": keys[_place(point)]} for point in drawn]
    needed: dict[str, Node] = {}

    def need(key: str) -> None:
        for other in made.nodes[key].needs:
            need(other)
        needed[key] = made.nodes[key]

    for point in points:
        need(point["key"])
    return points, needed


def _place(point: dict[str, Any]) -> tuple[Any, ...]:
    rates = tuple(point["rates"].items())
    return point["method"], point["pipeline"], point["level"], rates, point["seed"]


def compare(point: dict[str, Any], output: Path) -> str | None:
    """Compare a point with its record.

    Args:
        point: as recorded.
        output: folder of the results in which it was made again.

    Returns:
        What differs; None where nothing does.
    """
    result = finished(output, point["key"])
    if result is None:
        return "it was not made"
    if result["measures"] != point["measures"]:
        return "its measures differ from those recorded"
    if "curves" in point and in_columns(result["curves"]) != point["curves"]:
        return "its curves differ from those recorded"
    if result["weights"] != point["weights"]:
        return f"its weights have the SHA-256 {result['weights']}, and {point['weights']} is recorded"
    return None
