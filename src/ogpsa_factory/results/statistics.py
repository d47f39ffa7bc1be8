"""Bootstrap intervals and paired tests of benchmark scores.

Every score is a function of sums over items: of a row of features per item (`features.py`), added up task by task.
Items of one task with equal rows are interchangeable. So a resample is a draw of how often each distinct row occurs,
and a swap of two models' outcomes a draw of how many of each distinct pair are swapped: exact, and independent of the
number of items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


Floats = NDArray[np.float64]
LEVEL = 0.95
_CHUNK = 2_000_000  # drawn numbers that are held at a time
_EQUAL = 1e-9  # two differences that are equal but for rounding


class Tally(NamedTuple):
    """The items of one task: distinct rows of features `[distinct, features]`, and how many items have each."""

    rows: Floats
    counts: NDArray[np.int64]


def tally(tasks: NDArray[np.int64], rows: Floats) -> list[Tally]:
    """Count equal rows within each task.

    Args:
        tasks: of shape `[items]`, the number of each item's task, from 0; every task has an item.
        rows: of shape `[items, features]`.

    Returns:
        One tally per task.
    """
    found = []
    for task in range(int(tasks.max(initial=-1)) + 1):
        distinct, counts = np.unique(rows[tasks == task], axis=0, return_counts=True)
        found.append(Tally(distinct, counts))
    return found


def sums(tallies: Sequence[Tally]) -> Floats:
    """Add the rows up.

    Args:
        tallies: one per task.

    Returns:
        Sums of shape `[tasks, features]`.
    """
    return np.stack([task.counts @ task.rows for task in tallies])


def resampled_sums(tallies: Sequence[Tally], replicates: int, rng: np.random.Generator) -> Floats:
    """Draw the items of each task anew, with replacement.

    Args:
        tallies: one per task.
        replicates: how often.
        rng: source of random numbers.

    Returns:
        Sums of shape `[replicates, tasks, features]`.
    """
    drawn = np.empty((replicates, len(tallies), tallies[0].rows.shape[1]))
    for number, (rows, counts) in enumerate(tallies):
        shares = counts / counts.sum()
        for part in _parts(replicates, len(counts)):
            drawn[part, number] = rng.multinomial(counts.sum(), shares, size=part.stop - part.start) @ rows
    return drawn


def swapped_sums(pairs: Sequence[Tally], replicates: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Swap the outcomes of two models, item by item, each with probability one half.

    Args:
        pairs: one tally per task; the first half of the features is one model's, the second the other's.
        replicates: how often.
        rng: source of random numbers.

    Returns:
        The sums of both models, each of shape `[replicates, tasks, features of one]`.
    """
    width = pairs[0].rows.shape[1] // 2
    first = np.empty((replicates, len(pairs), width))
    second = np.empty_like(first)
    for number, (rows, counts) in enumerate(pairs):
        ours, theirs = rows[:, :width], rows[:, width:]
        for part in _parts(replicates, len(counts)):
            swapped = rng.binomial(counts, 0.5, size=(part.stop - part.start, len(counts)))
            moved = swapped @ (theirs - ours)
            first[part, number] = counts @ ours + moved
            second[part, number] = counts @ theirs - moved
    return first, second


def _parts(replicates: int, distinct: int) -> Iterator[slice]:
    size = max(1, _CHUNK // distinct)
    for start in range(0, replicates, size):
        yield slice(start, min(start + size, replicates))


def interval(values: Floats) -> tuple[float, float]:
    """The percentile interval of a bootstrap.

    Args:
        values: of shape `[replicates]`, finite.

    Returns:
        Its ends, which hold `LEVEL` of the values.
    """
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def two_sided_p(observed: float, shuffled: Floats) -> float:
    """The p-value of an approximate randomisation test, which is never 0.

    Args:
        observed: the difference that was found.
        shuffled: of shape `[replicates]`, differences after random swaps.

    Returns:
        (1 + number of at least as large differences) / (1 + replicates).
    """
    as_large = int(np.count_nonzero(np.abs(shuffled) >= abs(observed) - _EQUAL))
    return (1 + as_large) / (1 + len(shuffled))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number, by Holm's method.

    Args:
        p_values: of one family of tests.

    Returns:
        The corrected ones, in the same order, at most 1.
    """
    corrected = [0.0] * len(p_values)
    so_far = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = so_far
    return corrected
