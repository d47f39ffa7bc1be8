"""Kinds of worlds of one structure, with other subjects, facts, phrasings and rules: what holds in one may be luck."""

from __future__ import annotations

from ...errors import OGPSAError
from .harbour import HARBOUR
from .theme import Theme
from .town import TOWN


THEMES = {theme.name: theme for theme in (TOWN, HARBOUR)}


def find_theme(name: str) -> Theme:
    """Find a theme.

    Args:
        name: of it.

    Returns:
        The theme.

    Raises:
        OGPSAError: there is none of this name.
    """
    if name not in THEMES:
        raise OGPSAError(f"There is no theme {name!r}. There are {', '.join(THEMES)}.")
    return THEMES[name]
