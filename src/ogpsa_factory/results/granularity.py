"""How many samples each column of the paper's Table 1 can be a share of.

A share of n samples is k / n for a whole k, so a column of such shares, in percent with two decimals, lies on a grid
that tells n. Single scores may be misprints, or of other samples; so the smallest n <= `LARGEST` is looked for that
explains all scores, all but one, and all but two, and of the three the one that chance explains least is told.

Chance is a column of as many different scores, each any hundredth of a percent with equal probability. The probability
that some number up to n explains it as well is at most the sum of the single probabilities over these numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import comb

import numpy as np
from numpy.typing import NDArray

from .document import NONE, Cell, Line, Table
from .markdown import table_to_markdown
from .paper import GENERAL, SAFETY, paper_table


LARGEST = 5000
EXCEPTIONS = 2
_STEPS = 10_000  # hundredths of a percent
_DOUBTFUL = 1e-3  # what chance explains more often than this is not told


@dataclass(frozen=True)
class Grid:
    """The number of samples that explains a column: all of `different` scores but the `exceptions`."""

    samples: int
    different: int
    exceptions: tuple[float, ...]
    others: tuple[int, ...]  # numbers <= LARGEST that explain as many scores, without multiples of `samples`
    expected: float  # scores of a random column that would be on the grid of `samples`
    chance: float  # probability that a random column is explained as well by any number up to `samples`


def smallest_grid(scores: Sequence[float]) -> Grid | None:
    """Find the number of samples that scores are shares of.

    Args:
        scores: in percent, rounded to two decimals; equal ones count once.

    Returns:
        The number, with what speaks for it; None where no number up to `LARGEST` stands out from chance.
    """
    values = np.unique(np.round(100 * np.array(scores)).astype(np.int64))  # of shape [different]
    numbers = np.arange(1, LARGEST + 1)
    fits = _on_grid(values[:, None], numbers[None, :])  # of shape [different, numbers]
    missed = (~fits).sum(axis=0)
    best: Grid | None = None
    for allowed in range(EXCEPTIONS + 1):
        enough = numbers[missed <= allowed]
        if not enough.size:
            continue
        n = int(enough[0])
        grid = Grid(
            samples=n,
            different=len(values),
            exceptions=tuple(float(value) / 100 for value in values[~fits[:, n - 1]]),
            others=tuple(int(other) for other in enough if other % n),
            expected=len(values) * _densities()[n - 1],
            chance=sum(_probability(len(values), allowed, density) for density in _densities()[:n]),
        )
        if best is None or grid.chance < best.chance:
            best = grid
    return best if best and best.chance < _DOUBTFUL else None


def _on_grid(values: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a value in hundredths of a percent is k / n, rounded, for a whole k; halves may go either way."""
    remainder = values * numbers % _STEPS  # distance to the next lower k, times n
    return 2 * np.minimum(remainder, _STEPS - remainder) <= numbers


@cache
def _densities() -> list[float]:
    """The share of all hundredths of a percent that are on the grid of each number from 1 to `LARGEST`."""
    every = np.arange(_STEPS + 1)
    return [float(_on_grid(every, np.array(n)).mean()) for n in range(1, LARGEST + 1)]


def _probability(different: int, allowed: int, density: float) -> float:
    """That all but `allowed` of random scores are on a grid."""
    return sum(
        comb(different, off) * (1 - density) ** off * density ** (different - off) for off in range(allowed + 1)
    )


def granularity_table() -> str:
    """The grid of every column of the paper's Table 1.

    Returns:
        A table in Markdown.
    """
    rows = paper_table("table1")
    lines = []
    for name in (*SAFETY, *GENERAL):
        scores = [float(row[name]) for row in rows]
        texts = _texts(smallest_grid(scores), len(set(scores)))
        lines.append(Line((name,), tuple(map(Cell, texts))))
    titles = (
        "different scores",
        "samples",
        "explained",
        "not explained",
        f"other numbers up to {LARGEST} that explain as many",
        "by chance explained",
        "chance of a random column",
    )
    return table_to_markdown(Table(("Benchmark",), titles, tuple(lines)))


def _texts(grid: Grid | None, different: int) -> list[str]:
    if grid is None:
        return [str(different), f"none up to {LARGEST}", *[NONE] * 5]
    return [
        str(grid.different),
        str(grid.samples),
        str(grid.different - len(grid.exceptions)),
        ", ".join(f"{score:.2f}" for score in grid.exceptions) or "none",
        ", ".join(map(str, grid.others)) or "none but multiples",
        f"{grid.expected:.1f}",
        f"{grid.chance:.0e}",
    ]
