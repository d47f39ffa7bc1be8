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
        self._looked_at = -1
        self._engine = engine
        self._subspace = subspace

    def look(self, step: int) -> None:
        """Make the list anew from a subspace that was computed before a step; without one it is empty."""
        self._looked_at = step
        blank = set(self._subspace.blank_tensors())
        count = len(self._engine.names) if self._subspace.directions else 0
        reached = self._of_all_ranks([i for i in range(count) if i not in blank])
        self.blank = [i for i in range(count) if i not in reached]

    def due(self, step: int) -> bool:
        """Whether training moves tensors that no reference gradient had reached, so that a refresh may cover them.

        LoRA starts with B = 0, which makes every gradient of A zero: without this, A would go unprotected from the
        moment when B moves (when, depends on the warm-up) until the next refresh.
        """
        moving = self._moving()
        if step == self._looked_at:  # at these very parameters the references do not reach them: leave them alone
            self.blank = [i for i in self.blank if i not in moving]
            return False
        return bool(moving)

    def _moving(self) -> set[int]:
        if not self.blank:
            return set()
        gradients = self._engine.local_gradients()
        return self._of_all_ranks([i for i in self.blank if (g := gradients[i]) is not None and g.any()])

    def _of_all_ranks(self, tensors: list[int]) -> set[int]:
        """Union of the numbers of tensors that ranks give."""
        flags = torch.zeros(len(self._engine.names))
        flags[tensors] = 1
        return set(self._engine.reduce(flags).nonzero().flatten().tolist())
