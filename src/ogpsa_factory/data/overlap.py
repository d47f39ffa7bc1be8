"""Which prompts of one set are, in whole or in part, in another: by normalised n-grams of words.

Two prompts overlap where they share `WORDS` words in a row, or are the same as a whole where one is shorter. Case,
punctuation and space do not count. 13 words are what GPT-3's authors used to look for benchmark questions in training
data (arXiv 2005.14165, appendix C).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import NamedTuple


WORDS = 13
_WORD = re.compile(r"\w+")


class Shared(NamedTuple):
    """Where a prompt was seen before, and the words that both have."""

    name: str
    place: str
    words: str


class OverlapIndex:
    """The n-grams of the prompts of some sets; memory is proportional to their number of words."""

    def __init__(self) -> None:
        self._seen: dict[bytes, tuple[str, str]] = {}

    def add(self, name: str, place: str, prompt: str) -> None:
        """Remember a prompt.

        Args:
            name: of its set.
            place: of its row.
            prompt: the text.
        """
        for key, _ in _grams(prompt):
            self._seen.setdefault(key, (name, place))

    def find(self, prompt: str) -> Shared | None:
        """Look a prompt up.

        Args:
            prompt: the text.

        Returns:
            The first of the remembered prompts that it shares words with.
        """
        for key, words in _grams(prompt):
            if key in self._seen:
                return Shared(*self._seen[key], words)
        return None


def _grams(text: str) -> Iterator[tuple[bytes, str]]:
    """Every run of `WORDS` words, or the whole of a shorter text, with a hash of 64 bits."""
    words = _WORD.findall(text.lower())
    for start in range(max(len(words) - WORDS + 1, min(len(words), 1))):
        gram = " ".join(words[start : start + WORDS])
        yield hashlib.blake2b(gram.encode(errors="replace"), digest_size=8).digest(), gram
