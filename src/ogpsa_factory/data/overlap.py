"""Which prompts of one set are, in whole or in part, in another: by normalised n-grams of words.

Two prompts overlap where they share `WORDS` words in a row, or where one of fewer words stands in the other as a
whole; one of fewer than `FEW` words must be the other. Case, punctuation and space do not count; a Chinese or Japanese
character is a word. GPT-3's authors looked for benchmark questions by 13 words, too (arXiv 2005.14165, appendix C).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import NamedTuple


WORDS = 13
FEW = 4
_CHARACTERS = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # of scripts that are written without spaces
_WORD = re.compile(rf"[{_CHARACTERS}]|[^\W{_CHARACTERS}]+")


class Shared(NamedTuple):
    """Where a prompt was seen before, and the words that both have."""

    name: str
    place: str
    words: str


class OverlapIndex:
    """The n-grams of the prompts of some sets; memory is proportional to their number of words."""

    def __init__(self) -> None:
        self._seen: dict[bytes, dict[str, str]] = {}  # hash of an n-gram -> set -> place
        self._whole: dict[int, None] = {}  # lengths of the prompts that are shorter than `WORDS`

    def add(self, name: str, place: str, prompt: str) -> None:
        """Remember a prompt.

        Args:
            name: of its set.
            place: of its row.
            prompt: the text.
        """
        words = _WORD.findall(prompt.lower())
        if len(words) < WORDS:
            self._whole[len(words)] = None
        for gram in _runs(words, min(WORDS, len(words))):
            self._seen.setdefault(_key(gram), {}).setdefault(name, place)

    def find(self, prompt: str) -> list[Shared]:
        """Look a prompt up.

        Args:
            prompt: the text.

        Returns:
            One prompt of every set that it shares words with, if there are any.
        """
        words = _WORD.findall(prompt.lower())
        lengths = [length for length in self._whole if FEW <= length < len(words) or length == len(words)]
        found: dict[str, Shared] = {}
        for length in (WORDS, *lengths):
            for gram in _runs(words, length):
                for name, place in self._seen.get(_key(gram), {}).items():
                    found.setdefault(name, Shared(name, place, gram))
        return list(found.values())


def _runs(words: list[str], length: int) -> Iterator[str]:
    """Every run of so many words."""
    if length:
        for start in range(len(words) - length + 1):
            yield " ".join(words[start : start + length])


def _key(gram: str) -> bytes:
    return hashlib.blake2b(gram.encode(errors="replace"), digest_size=8).digest()
