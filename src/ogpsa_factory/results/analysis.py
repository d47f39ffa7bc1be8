"""All figures of a report: every model's scores, means and gains, and its differences from the naive model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .compare import Difference, Random, comparable, differences, jointly_replicated, replicated
from .merit import mean, relative_gains, shares_of_difference, usable_bases
from .models import AXES, Model, in_order
from .statistics import Floats, interval


MAIN = ("safety", "general")


@dataclass(frozen=True)
class Settings:
    """What the user chose."""

    base: str = "base"
    naive: str = "naive"
    near_zero: float = 5.0
    replicates: int = 10_000
    seed: int = 0

    @property
    def random(self) -> Random:
        """How often to draw, and from which seed."""
        return Random(self.replicates, self.seed)


@dataclass(frozen=True)
class Column:
    """A benchmark of the report."""

    name: str
    axis: str
    title: str
    higher_is_better: bool
    judges: tuple[str, ...]  # "" for a score that needs none


@dataclass(frozen=True)
class Mean:
    """A mean over benchmarks: `over` these of the `of` benchmarks that there are."""

    value: float | None
    over: tuple[str, ...]
    of: int
    low: float | None = None
    high: float | None = None

    @property
    def whole(self) -> bool:
        """Whether no benchmark is missing."""
        return len(self.over) == self.of


@dataclass(frozen=True)
class Versus:
    """A model against the naive model of its pipeline, over what both have."""

    naive: str
    benchmarks: Mapping[str, Difference]
    safety: Mean
    general: Mean
    shares: Mapping[str, float]  # of the difference between the average gains, in points

    @property
    def gain(self) -> float | None:
        """The difference between the average gains, over the benchmarks of `shares`."""
        return sum(self.shares.values()) if self.shares else None


@dataclass(frozen=True)
class Result:
    """A model's figures."""

    model: Model
    intervals: Mapping[str, tuple[float, float]]
    safety: Mean
    general: Mean
    gain: Mean
    gain_without: Mean  # without near-zero bases
    versus: Versus | None


@dataclass(frozen=True)
class Analysis:
    """One base and the models aligned from it."""

    title: str
    settings: Settings
    columns: tuple[Column, ...]
    base: Result | None
    results: tuple[Result, ...]

    @property
    def everyone(self) -> list[Result]:
        """The base, where there is one, and the others."""
        return [*([self.base] if self.base else []), *self.results]

    def named(self, *axes: str) -> list[Column]:
        """The benchmarks of some axes."""
        return [column for column in self.columns if column.axis in axes]

    @property
    def near_zero(self) -> list[str]:
        """The benchmarks whose base is near zero."""
        scores = self.base.model.scores(*MAIN) if self.base else {}
        return [name for name, score in scores.items() if score < self.settings.near_zero]


def analyse(models: Sequence[Model], settings: Settings, title: str) -> Analysis:
    """Work out all figures.

    Args:
        models: of different names.
        settings: who is the base, who is naive, and how often to draw.
        title: of the family of models.

    Returns:
        The figures; models are sorted as in the paper.
    """
    columns = _columns(models)
    of = {axis: sum(column.axis == axis for column in columns) for axis in AXES}
    base = next((model for model in models if model.name == settings.base), None)
    others = in_order([model for model in models if model is not base])
    naive = {model.pipeline: model for model in others if settings.naive in (model.method, model.name)}
    make = partial(_result, base=base, of=of, settings=settings)
    results = tuple(make(model, naive=naive.get(model.pipeline)) for model in others)
    return Analysis(title, settings, columns, make(base, naive=None) if base else None, results)


def _columns(models: Sequence[Model]) -> tuple[Column, ...]:
    """The benchmarks that any model has, by axis; with a gap, too."""
    names = list(dict.fromkeys(name for model in models for name in model.benchmarks))
    found = []
    for name in names:
        entries = [model.benchmarks[name] for model in models if name in model.benchmarks]
        first = entries[0]
        judges = tuple(dict.fromkeys(entry.judge or "" for entry in entries if entry.score is not None))
        found.append(Column(name, first.axis, first.title, first.higher_is_better, judges))
    return tuple(sorted(found, key=lambda column: AXES.index(column.axis)))


def _result(
    model: Model, naive: Model | None, base: Model | None, of: Mapping[str, int], settings: Settings
) -> Result:
    random = settings.random
    drawn = {
        name: replicated(entry.items, random.generator("score", name, model.name), random.replicates)
        for name, entry in model.benchmarks.items()
        if entry.items is not None
    }
    usable = usable_bases(base.scores(*MAIN)) if base and model is not base else {}
    usable = {name: start for name, start in usable.items() if base and name in comparable(model, base)}
    gains = relative_gains(model.scores(*MAIN), usable)
    drawn_gains = _drawn_gains(model, base, gains, random) if base else {}
    large = set(usable_bases(usable, settings.near_zero))
    main = of["safety"] + of["general"]
    return Result(
        model=model,
        intervals={name: interval(values) for name, values in drawn.items()},
        safety=_mean(model.scores("safety"), drawn, of["safety"]),
        general=_mean(model.scores("general"), drawn, of["general"]),
        gain=_mean(gains, drawn_gains, main),
        gain_without=_mean({name: gain for name, gain in gains.items() if name in large}, drawn_gains, main),
        versus=_versus(model, naive, usable, of, random) if naive and naive is not model else None,
    )


def _drawn_gains(model: Model, base: Model, gains: Mapping[str, float], random: Random) -> dict[str, Floats]:
    """Gains in resamples of the items of model and base. A base that is 0 in one of them allows no interval."""
    found = {}
    for name in gains:
        ours, theirs = model.benchmarks[name].items, base.benchmarks[name].items
        if ours is None or theirs is None or ours.aggregation != theirs.aggregation:
            continue
        rng = random.generator("gain", name, model.name)
        scores, starts = jointly_replicated(ours, theirs, False, rng, random.replicates)
        if np.isfinite(scores).all() and (starts > 0).all():
            found[name] = 100 * (scores - starts) / starts
    return found


def _mean(values: Mapping[str, float], drawn: Mapping[str, Floats], of: int) -> Mean:
    """A mean, with an interval where every part of it could be resampled; benchmarks are drawn independently."""
    over = tuple(values)
    if not over or not all(name in drawn for name in over):
        return Mean(mean(values.values()), over, of)
    return Mean(mean(values.values()), over, of, *interval(np.mean([drawn[name] for name in over], axis=0)))


def _versus(model: Model, naive: Model, usable: Mapping[str, float], of: Mapping[str, int], random: Random) -> Versus:
    found, drawn = differences(model, naive, random)
    by_axis = {
        axis: {name: entry.value for name, entry in found.items() if model.benchmarks[name].axis == axis}
        for axis in MAIN
    }
    return Versus(
        naive=naive.name,
        benchmarks=found,
        safety=_mean(by_axis["safety"], drawn, of["safety"]),
        general=_mean(by_axis["general"], drawn, of["general"]),
        shares=shares_of_difference(
            model.scores(*MAIN), {name: score for name, score in naive.scores(*MAIN).items() if name in found}, usable
        ),
    )
