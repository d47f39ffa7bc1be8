"""Figures of merit, from scores by benchmark. A benchmark that one side lacks counts for neither.

The paper's headline is the average performance gain: the mean over its ten benchmarks of (score - base) / base. A
base near zero makes one benchmark rule that mean; so there is the same figure without such benchmarks, and each one's
share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


Scores = Mapping[str, float]  # percent, by benchmark


def mean(values: Iterable[float]) -> float | None:
    """The mean.

    Args:
        values: numbers.

    Returns:
        Their mean, or None where there are none.
    """
    listed = list(values)
    return sum(listed) / len(listed) if listed else None


def usable_bases(base: Scores, near_zero: float = 0.0) -> dict[str, float]:
    """The benchmarks on which a gain relative to the base can be stated.

    Args:
        base: the base's scores.
        near_zero: leave out bases below this many percent.

    Returns:
        The base's scores on them: above zero, and not below `near_zero`.
    """
    return {name: score for name, score in base.items() if score > 0 and score >= near_zero}


def relative_gains(scores: Scores, base: Scores) -> dict[str, float]:
    """Gains relative to the base.

    Args:
        scores: a model's.
        base: the base's, above zero (`usable_bases`).

    Returns:
        100 (score - base) / base, by benchmark that both have.
    """
    return {name: 100 * (scores[name] - start) / start for name, start in base.items() if name in scores}


def shares_of_difference(scores: Scores, other: Scores, base: Scores) -> dict[str, float]:
    """Each benchmark's share of the difference between two models' average gains.

    Args:
        scores: a model's.
        other: the model that it is compared with.
        base: the base's, above zero.

    Returns:
        Points, by benchmark that all three have; their sum is the difference over these benchmarks.
    """
    ours, theirs = relative_gains(scores, base), relative_gains(other, base)
    both = [name for name in ours if name in theirs]
    return {name: (ours[name] - theirs[name]) / len(both) for name in both}
