"""Which trained tensors no reference gradient has reached, though a later one may."""

import torch

from .engines.base import Engine
from .subspace import CapabilitySubspace


class Coverage:
    """Keeps the list; ranks agree on it, each looking at its own shards.

    Args:
        engine: where gradients are.
        subspace: the capability subspace.

    Attributes:
        blank: numbers of the tensors on which every direction is zero on every rank.
    """

    def __init__(self, engine: Engine, subspace: CapabilitySubspace) -> None:
        self.blank: list[int] = []
        self._engine = engine
        self._subspace = subspace

    def look(self) -> None:
        """Make the list anew from the subspace; without one it is empty."""
        blank = set(self._subspace.blank_tensors())
        count = len(self._engine.names) if self._subspace.directions else 0
        reached = self._of_all_ranks([i for i in range(count) if i not in blank])
        self.blank = [i for i in range(count) if i not in reached]

    def moving(self) -> set[int]:
        """Those of the list that training has a gradient for."""
        if not self.blank:
            return set()
        gradients = self._engine.local_gradients()
        return self._of_all_ranks([i for i in self.blank if (g := gradients[i]) is not None and g.any()])

    def _of_all_ranks(self, tensors: list[int]) -> set[int]:
        """Union of the numbers of tensors that ranks give."""
        flags = torch.zeros(len(self._engine.names))
        flags[tensors] = 1
        return set(self._engine.reduce(flags).nonzero().flatten().tolist())
