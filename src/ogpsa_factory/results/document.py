"""A report as headings, paragraphs, lists, tables and a picture, whatever it is written as afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


NONE = "\N{EN DASH}"  # where there is no figure


@dataclass(frozen=True)
class Cell:
    """A cell: its text, and its rank in its column (1 is best, 2 second best, 0 neither)."""

    text: str
    rank: int = 0


@dataclass(frozen=True)
class Line:
    """A row: the texts that name it, its cells, and what it is: `base`, `quoted` or `measured`."""

    labels: tuple[str, ...]
    cells: tuple[Cell, ...]
    kind: str = "measured"


@dataclass(frozen=True)
class Table:
    """A table: the heads of its labels and of its cells, and whether these are numbers."""

    label_heads: tuple[str, ...]
    heads: tuple[str, ...]
    lines: tuple[Line, ...]
    numeric: bool = True


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Some sentences."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of remarks or notes."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """A PNG file beside the report."""

    name: str
    description: str


Block = Heading | Paragraph | Bullets | Table | Picture


def ranks(values: Sequence[float | None], higher_is_better: bool = True) -> list[int]:
    """Find the best and the second best, as shown to two decimals; equal ones share a rank.

    Args:
        values: None takes no part.
        higher_is_better: the direction.

    Returns:
        1, 2 or 0 each; 0 everywhere where nothing differs.
    """
    shown = [None if value is None else round(value, 2) for value in values]
    distinct = sorted({value for value in shown if value is not None}, reverse=higher_is_better)
    if len(distinct) < 2:
        return [0] * len(shown)
    return [distinct.index(value) + 1 if value in distinct[:2] else 0 for value in shown]


def figure(value: float | None, signed: bool = False) -> str:
    """A number to two decimals.

    Args:
        value: the number.
        signed: with a plus sign where it is above zero.

    Returns:
        The text; a dash for None.
    """
    if value is None:
        return NONE
    return f"{value + 0.0:+.2f}" if signed else f"{value + 0.0:.2f}"


def span(low: float | None, high: float | None) -> str:
    """An interval.

    Args:
        low: its lower end.
        high: its upper end.

    Returns:
        The text; a dash where there is none.
    """
    return NONE if low is None or high is None else f"[{low:.2f}, {high:.2f}]"
