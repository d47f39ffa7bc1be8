"""The models that a grid needs: worlds with their base models, trained models, and averages.

A model is named by the hash of what makes it: its resolved arguments, the model it starts from, its world, the code
that makes worlds, trains and measures, and the versions of the libraries. Two points that need the same model share
it, and a second run finds it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from .definition import Grid, Method
from .source import source_digest, versions


_FIRST_TRAINING_SEED = 42  # of seed 0, which is that of the examples
_QUIET = {"plot_loss": False, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}


@dataclass(frozen=True)
class Node:
    """A model: its name, what makes it, and the names of the models that must be there before."""

    key: str
    spec: dict[str, Any]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of a grid: a model seen as the result of a method.

    Args:
        method: its name in the grid.
        pipeline: its name in the grid.
        level: number of the learning rates, from 0.
        rates: learning rate of each stage, the method's factor included.
        seed: of the replica.
        key: name of the model.
    """

    method: str
    pipeline: str
    level: int
    rates: dict[str, float]
    seed: int
    key: str


@dataclass(frozen=True)
class Plan:
    """All models of a grid, those that others need first, and what they are in it."""

    nodes: dict[str, Node]
    bases: dict[int, str]  # seed -> name of the base model
    points: list[Point]


def plan(grid: Grid) -> Plan:
    """List the models of a grid.

    Args:
        grid: what was asked for.

    Returns:
        The plan; models that several points share are there once.
    """
    made = Plan({}, {}, [])
    for seed in grid.seeds:
        base = _add(made, {"kind": "world", **grid.world, "seed": seed})
        made.bases[seed] = base
        for name, method in grid.methods.items():
            for pipeline in method.pipelines:
                stages = grid.pipelines[pipeline]
                for level in range(len(next(iter(stages.values())))):
                    rates = {stage: float(f"{values[level] * method.rate:.6g}") for stage, values in stages.items()}
                    key = _chain(made, method, rates, seed, base)
                    point = Point(method=name, pipeline=pipeline, level=level, rates=rates, seed=seed, key=key)
                    made.points.append(point)
    return made


def _chain(made: Plan, method: Method, rates: dict[str, float], seed: int, base: str) -> str:
    """Add the models of one point and name the last."""
    start = base
    for stage, rate in rates.items():
        own = {"learning_rate": rate, "seed": _FIRST_TRAINING_SEED + seed, **_QUIET}
        spec: dict[str, Any] = {"kind": "train", "start": start, "arguments": {**method.arguments[stage], **own}}
        if method.osf is not None:
            spec["osf"] = method.osf
        start = _add(made, {**spec, "world": base}, start, base)
    if method.merge is not None:
        merged = {"kind": "merge", "base": base, "aligned": start, "weight": method.merge, "world": base}
        start = _add(made, merged, start, base)
    return start


def _add(made: Plan, spec: dict[str, Any], *needs: str) -> str:
    spec = {**spec, "versions": versions(), "source": source_digest()}
    text = json.dumps(spec, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    made.nodes.setdefault(key, Node(key, spec, tuple(dict.fromkeys(needs))))
    return key
