"""One model's score with its interval, and two models' difference with interval and test, on one benchmark."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from .features import Items, percent
from .models import Model
from .statistics import LEVEL, Floats, holm, interval, resampled_sums, sums, swapped_sums, two_sided_p


@dataclass(frozen=True)
class Random:
    """How often to draw, and from which seed."""

    replicates: int
    seed: int

    def generator(self, *names: str) -> np.random.Generator:
        """A generator that depends on the seed and on these names only, not on what else is in the report."""
        return np.random.default_rng([self.seed, *(zlib.crc32(name.encode()) for name in names)])


@dataclass(frozen=True)
class Difference:
    """A model's score less another's, in points; without items there is neither interval nor test."""

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    pairs: int | None = None

    def verdict(self, higher_is_better: bool) -> str:
        """What may be said: nothing is better or worse unless the corrected test and the interval agree.

        Args:
            higher_is_better: the benchmark's direction.

        Returns:
            A phrase for people.
        """
        if self.p_holm is None or self.low is None or self.high is None:
            return "not tested: no items to pair"
        apart = self.low > 0 or self.high < 0
        if self.p_holm >= 1 - LEVEL or not apart:
            return f"not significant (p = {p_text(self.p_holm)})"
        return f"{'better' if (self.value > 0) == higher_is_better else 'worse'} (p = {p_text(self.p_holm)})"


def p_text(p: float) -> str:
    """A p-value for people.

    Args:
        p: the value.

    Returns:
        Two significant digits, never 0.
    """
    return f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def replicated(items: Items, rng: np.random.Generator, replicates: int) -> Floats:
    """Bootstrap a score.

    Args:
        items: of a model on a benchmark.
        rng: source of random numbers.
        replicates: how often to resample.

    Returns:
        Scores in percent, of shape `[replicates]`.
    """
    names, tallies = items.tallies()
    return percent(items.aggregation, names, resampled_sums(tallies, replicates, rng))


def jointly_replicated(
    first: Items, second: Items, common: bool, rng: np.random.Generator, replicates: int
) -> tuple[Floats, Floats]:
    """Bootstrap two models' scores on one benchmark, with the same items in each resample.

    Args:
        first: the items of one.
        second: the items of the other.
        common: take only what both have; if False, an item that one lacks counts for the other.
        rng: source of random numbers.
        replicates: how often to resample.

    Returns:
        Scores in percent, two of shape `[replicates]`.
    """
    names, tallies, _ = first.paired(second, common)
    drawn = resampled_sums(tallies, replicates, rng)
    width = drawn.shape[-1] // 2
    return (
        percent(first.aggregation, names, drawn[..., :width]),
        percent(first.aggregation, names, drawn[..., width:]),
    )


def difference(first: Items, second: Items, random: Random, *names: str) -> tuple[Difference, Floats] | None:
    """Compare two models on the items that both have.

    Args:
        first: one model's.
        second: the other's, of the same aggregation.
        random: how often to draw.
        names: what the random numbers depend on.

    Returns:
        The difference with an interval (paired bootstrap) and a p-value (approximate randomisation), and its
        replicates of shape `[replicates]`; None where no item is in both.
    """
    tasks, pairs, number = first.paired(second, common=True)
    if not number:
        return None
    totals = sums(pairs)
    width = totals.shape[-1] // 2

    def gap(ours: Floats, theirs: Floats) -> Floats:
        return percent(first.aggregation, tasks, ours) - percent(first.aggregation, tasks, theirs)

    observed = float(gap(totals[..., :width], totals[..., width:]))
    drawn = resampled_sums(pairs, random.replicates, random.generator("bootstrap", *names))
    resampled = gap(drawn[..., :width], drawn[..., width:])
    shuffled = gap(*swapped_sums(pairs, random.replicates, random.generator("swap", *names)))
    found = Difference(observed, *interval(resampled), p=two_sided_p(observed, shuffled), pairs=number)
    return found, resampled


def comparable(model: Model, other: Model) -> set[str]:
    """The benchmarks on which two models' scores may be compared.

    Args:
        model: one.
        other: the other.

    Returns:
        Names: both have a score there, by the same judge.
    """
    both = model.benchmarks.keys() & other.benchmarks.keys()
    pairs = {name: (model.benchmarks[name], other.benchmarks[name]) for name in both}
    return {
        name
        for name, (ours, theirs) in pairs.items()
        if ours.score is not None and theirs.score is not None and ours.judge == theirs.judge
    }


def differences(model: Model, other: Model, random: Random) -> tuple[dict[str, Difference], dict[str, Floats]]:
    """Compare two models on every benchmark where they are comparable; p-values are corrected over these.

    Args:
        model: one.
        other: the one it is compared with.
        random: how often to draw.

    Returns:
        Differences by benchmark, and their replicates where there are items.
    """
    found: dict[str, Difference] = {}
    replicates: dict[str, Floats] = {}
    names = comparable(model, other)
    for name, ours in model.benchmarks.items():
        if name not in names:
            continue
        theirs = other.benchmarks[name]
        assert ours.score is not None and theirs.score is not None
        found[name] = Difference(ours.score - theirs.score)
        if ours.items is None or theirs.items is None or ours.aggregation != theirs.aggregation:
            continue
        paired = difference(ours.items, theirs.items, random, name, model.name, other.name)
        if paired is not None:
            found[name], replicates[name] = paired
    return _corrected(found), replicates


def _corrected(found: Mapping[str, Difference]) -> dict[str, Difference]:
    tested = {name: entry.p for name, entry in found.items() if entry.p is not None}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {name: replace(entry, p_holm=corrected.get(name)) for name, entry in found.items()}
