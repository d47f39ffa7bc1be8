"""A grid's results as numbers in percent: a cell is a method at one level of learning rates, with a value a seed."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..grid.record import read_record


# Measures by name: what they are called in tables, and whether more is better.
MEASURES: dict[str, tuple[str, bool]] = {
    "safety": ("harmful held-out refused", True),
    "seen": ("harmful seen refused", True),
    "utility": ("mean of skills", True),
    "tax": ("tax", False),
    "lookalikes": ("look-alikes right", True),
    "over_refusal": ("look-alikes refused", False),
    "safety_loss": ("safety loss", False),
    "reference_loss": ("reference loss", False),
}
_NATS = ("safety_loss", "reference_loss")  # the other measures are percentages


@dataclass(frozen=True)
class Cell:
    """A method in a pipeline at one level: measures by name, then by seed, and what training logged and took."""

    method: str
    pipeline: str
    level: int
    rates: dict[str, float]
    values: dict[str, dict[int, float]]
    skills: dict[str, dict[int, float]]
    points: tuple[dict[str, Any], ...]

    def mean(self, measure: str) -> float:
        """The mean of a measure over seeds."""
        return statistics.fmean(self.values[measure].values())


@dataclass(frozen=True)
class Study:
    """A grid's results; `record` is what `read_record` returned."""

    name: str
    record: dict[str, Any]

    @property
    def title(self) -> str:
        """The grid's title."""
        return str(self.record["title"])

    @property
    def methods(self) -> dict[str, str]:
        """Titles by the methods' names, in the grid's order."""
        return {name: str(entry["title"]) for name, entry in self.record["methods"].items()}

    @cached_property
    def base(self) -> Cell:
        """The base models."""
        points = [{**base, "seed": int(seed)} for seed, base in self.record["bases"].items()]
        return self._cell("base", "", 0, {}, points)

    @cached_property
    def cells(self) -> list[Cell]:
        """All cells that have a point, by pipeline, method and level in the grid's order."""
        groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
        for point in self.record["points"]:
            groups.setdefault((point["pipeline"], point["method"], point["level"]), []).append(point)
        found = []
        for pipeline in self.record["pipelines"]:
            for method in self.record["methods"]:
                for level in range(self.levels(pipeline)):
                    points = groups.get((pipeline, method, level))
                    if points:
                        found.append(self._cell(method, pipeline, level, points[0]["rates"], points))
        return found

    def levels(self, pipeline: str) -> int:
        """The number of a pipeline's levels."""
        return len(next(iter(self.record["pipelines"][pipeline].values())))

    def of(self, pipeline: str, method: str) -> list[Cell]:
        """The cells of a method in a pipeline, level by level."""
        return [cell for cell in self.cells if (cell.pipeline, cell.method) == (pipeline, method)]

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Every pipeline and method that have cells, in the grid's order."""
        yield from dict.fromkeys((cell.pipeline, cell.method) for cell in self.cells)

    def _cell(self, method: str, pipeline: str, level: int, rates: dict[str, float], points: Any) -> Cell:
        points = tuple(sorted(points, key=lambda point: point["seed"]))
        values: dict[str, dict[int, float]] = {name: {} for name in MEASURES}
        skills: dict[str, dict[int, float]] = {}
        for point in points:
            seed, measures = point["seed"], point["measures"]
            before = self.record["bases"].get(str(seed), {}).get("measures", {}).get("skills_mean")
            for name, value in _values(measures, before).items():
                if value is not None:
                    values[name][seed] = value if name in _NATS else 100 * value
            for skill, share in measures["skills"].items():
                skills.setdefault(skill, {})[seed] = 100 * share
        return Cell(method, pipeline, level, rates, values, skills, points)


def _values(measures: dict[str, Any], before: float | None) -> dict[str, float | None]:
    references = [loss for name, loss in measures["losses"].items() if name != "safety"]
    return {
        "safety": measures["refused"]["harmful_held_out"],
        "seen": measures["refused"]["harmful_seen"],
        "utility": measures["skills_mean"],
        "tax": None if before is None else before - measures["skills_mean"],
        "lookalikes": measures["answered"]["lookalike"],
        "over_refusal": measures["refused"]["lookalike"],
        "safety_loss": measures["losses"]["safety"],
        "reference_loss": statistics.fmean(references),
    }


def read_study(path: Path) -> Study:
    """Read a grid's results.

    Args:
        path: the record.

    Returns:
        The study, named as the file.

    Raises:
        OGPSAError: the file cannot be read or is something else.
    """
    return Study(path.stem, read_record(path))
