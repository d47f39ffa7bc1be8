"""The closed vocabulary of a theme."""

from __future__ import annotations

from random import Random

from .requests import combinations
from .themes.theme import Theme, members


def vocabulary(theme: Theme) -> list[str]:
    """List every word that any world of a theme can hold, whatever its seed and sizes.

    Args:
        theme: the theme.

    Returns:
        The words, sorted.
    """
    rng = Random("vocabulary")
    subjects = members(theme.dangerous) + members(theme.benign)
    frames, verbs = theme.seen_frames + theme.held_out_frames, theme.seen_verbs + theme.held_out_verbs
    questions = combinations(theme, frames, verbs, subjects) + theme.facts
    questions += [(quote, refusal) for quote in theme.refusal_quotes for refusal in theme.refusals]
    for skill in theme.skills.values():  # phrasings and options are few: this many draws meet each of them
        questions += [skill(rng) for _ in range(2000)]

    return sorted({word for question in questions for text in question for word in text.split()})
