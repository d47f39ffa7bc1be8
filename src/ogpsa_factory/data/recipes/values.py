"""Values of public data sets as they come: CSV has words for everything, and any field may be missing."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple


class Pair(NamedTuple):
    """A prompt with the answer to prefer and the one not to give."""

    prompt: str
    chosen: str
    rejected: str


def as_text(value: Any) -> str | None:
    """A text without the space around it; None where there is none."""
    if not isinstance(value, str):
        return None
    # JSON inside of a CSV may hold half of a surrogate pair, which no file can.
    text = value if value.isascii() else value.encode(errors="replace").decode()
    return text.strip() or None


def as_flag(value: Any) -> bool | None:
    """True or false, also from 0, 1 and the words for them; None for anything else."""
    if isinstance(value, str):
        return {"true": True, "1": True, "false": False, "0": False}.get(value.strip().lower())
    return bool(value) if isinstance(value, (bool, int)) and value in (0, 1) else None


def as_number(value: Any, low: float, high: float) -> float | None:
    """A number in a range, also from a word for one; None for anything else.

    Args:
        value: what a field holds.
        low: the least that is meant.
        high: the most that is meant.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and low <= number <= high else None


def as_structure(value: Any) -> Any:
    """A list or an object, also from JSON in a text (as CSV has it)."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value
