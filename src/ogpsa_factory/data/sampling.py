"""Random samples of a stream, in memory of the sample's size.

Every key has a rank, the hash of the seed and the key, and the sample is the keys of the lowest ranks ("bottom-k
sampling"). So which keys are drawn is uniform and depends on the seed alone, not on the order of the rows, and a
smaller sample is the beginning of a larger one. Rows of one key come together wherever they stand. Which of them gives
the key its value is the recipe's affair, and of equally good ones the first does: there the order of the rows counts.
"""

from __future__ import annotations

import hashlib
import heapq
from typing import Generic, TypeVar


Value = TypeVar("Value")


class KeyedSample(Generic[Value]):
    """The `size` keys of the lowest ranks among those that were put in, each with a value."""

    def __init__(self, size: int, seed: int) -> None:
        """Begin an empty sample.

        Args:
            size: number of keys that are kept at most.
            seed: equal seeds give equal samples.
        """
        self.size = size
        self.seed = seed
        self._values: dict[str, Value] = {}
        self._highest: list[tuple[int, str]] = []  # negated ranks: the key to give up comes first

    def rank(self, key: str) -> int:
        """The rank of a key, a number of 64 bits.

        Args:
            key: any text.

        Returns:
            Its rank.
        """
        return int.from_bytes(hashlib.blake2b(f"{self.seed}\0{key}".encode(), digest_size=8).digest(), "big")

    def get(self, key: str) -> Value | None:
        """The value of a key that is in the sample at the moment."""
        return self._values.get(key)

    def put(self, key: str, value: Value) -> None:
        """Offer a key, or change the value of one that is in the sample.

        A key that was turned away or given up does not come back, whatever is put later: the highest rank in a full
        sample only falls.

        Args:
            key: what rows are drawn by, such as the prompt.
            value: what is kept of it.
        """
        if key in self._values:
            self._values[key] = value
            return
        rank = self.rank(key)
        if len(self._values) < self.size:
            heapq.heappush(self._highest, (-rank, key))
        elif self._highest and rank < -self._highest[0][0]:
            del self._values[heapq.heapreplace(self._highest, (-rank, key))[1]]
        else:
            return
        self._values[key] = value

    def items(self) -> list[tuple[str, Value]]:
        """Keys and values by rank, which is a random order."""
        return [(key, self._values[key]) for _, key in sorted(self._highest, reverse=True)]
