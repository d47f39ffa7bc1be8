"""Arguments of a stage that a plan counts with; they may have come from the command line, as any text."""

from __future__ import annotations

import math
from typing import Any

from ..errors import OGPSAError


def whole(config: dict[str, Any], key: str, default: int, least: int | None = 1) -> int:
    """Read a whole number.

    Args:
        config: a stage's arguments.
        key: of the number.
        default: where it is not given.
        least: that it must be; None for any.

    Returns:
        The number.

    Raises:
        OGPSAError: naming the key and what it is.
    """
    value = config.get(key, default)
    try:
        found = int(value)
    except (TypeError, ValueError, OverflowError):
        found = None
    if found is None or isinstance(value, bool) or found != float(value) or (least is not None and found < least):
        bound = "" if least is None else f", at least {least}"
        raise OGPSAError(f"{key} is {value!r}: it must be a whole number{bound}.")
    return found


def number(config: dict[str, Any], key: str, default: float) -> float:
    """Read a number above zero.

    Args:
        config: a stage's arguments.
        key: of the number.
        default: where it is not given.

    Returns:
        The number.

    Raises:
        OGPSAError: naming the key and what it is.
    """
    value = config.get(key, default)
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if isinstance(value, bool) or not 0 < found < math.inf:
        raise OGPSAError(f"{key} is {value!r}: it must be a number above 0.")
    return found
