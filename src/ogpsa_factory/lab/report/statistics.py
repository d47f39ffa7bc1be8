"""Means over seeds, their intervals, and paired comparisons. A seed is a replica: its own world, base and training."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats


LEVEL = 0.95
_DIGITS = 9  # differences that are equal but for rounding are equal


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its interval of `LEVEL`; the ends are None where there are fewer than two seeds."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """A mean of differences within seeds, its interval, and the two-sided p of a paired t-test (None: no test)."""

    mean: float
    low: float | None
    high: float | None
    p: float | None


def estimate(values: Sequence[float]) -> Estimate:
    """Estimate a mean by Student's t.

    Args:
        values: one a seed, at least one.

    Returns:
        The mean with its interval; where all values are equal, the interval has no width.
    """
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return Estimate(mean, None, None)
    half = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * statistics.stdev(values) / math.sqrt(count)
    return Estimate(mean, mean - half, mean + half)


def difference(ours: dict[int, float], theirs: dict[int, float]) -> Difference | None:
    """Compare two methods seed by seed.

    Args:
        ours: values by seed.
        theirs: values by seed; seeds that only one has are left out.

    Returns:
        Ours less theirs; None where they share no seed. Where all differences are equal there is no test, except that
        p is 1 where they are 0.
    """
    pairs = [round(ours[seed] - theirs[seed], _DIGITS) for seed in sorted(ours.keys() & theirs.keys())]
    if not pairs:
        return None
    found = estimate(pairs)
    if len(pairs) < 2:
        p = None
    elif len(set(pairs)) == 1:
        p = 1.0 if pairs[0] == 0 else None
    else:
        t = found.mean / (statistics.stdev(pairs) / math.sqrt(len(pairs)))
        p = float(2 * stats.t.sf(abs(t), len(pairs) - 1))
    return Difference(found.mean, found.low, found.high, p)


def rank_correlation(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Spearman's correlation of two orders.

    Args:
        ours: a value of each method.
        theirs: values of the same methods.

    Returns:
        From -1 to 1; None where it is not defined.
    """
    if len(set(ours)) < 2 or len(set(theirs)) < 2:
        return None
    return float(stats.spearmanr(ours, theirs).statistic)
