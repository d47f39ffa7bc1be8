"""The closed vocabulary of the miniature world."""

from __future__ import annotations

from random import Random

from . import lexicon
from .requests import HELD_OUT_FRAMES, HELD_OUT_VERBS, REFUSAL_QUOTES, SEEN_FRAMES, SEEN_VERBS, combinations
from .skills import DANGER_FACTS, KIND_FACTS, PLAIN_FACTS, SKILLS, members


def vocabulary() -> list[str]:
    """List every word that any world can hold, whatever its seed and sizes.

    Returns:
        The words, sorted.
    """
    rng = Random("vocabulary")
    subjects = members(lexicon.DANGEROUS) + members(lexicon.BENIGN)
    questions = combinations(SEEN_FRAMES + HELD_OUT_FRAMES, SEEN_VERBS + HELD_OUT_VERBS, subjects)
    questions += PLAIN_FACTS + KIND_FACTS + DANGER_FACTS
    questions += [(quote, refusal) for quote in REFUSAL_QUOTES for refusal in lexicon.REFUSALS]
    for skill in SKILLS.values():  # phrasings and options are few: this many draws meet each of them
        questions += [skill(rng) for _ in range(2000)]

    return sorted({word for question in questions for text in question for word in text.split()})
