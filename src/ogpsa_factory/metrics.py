"""Figures for the logs: how much of the update lies in the capability subspace, set by set.

Nothing is read from the device before the log is written, so the figures cost a step no host synchronisation.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .modes import Projection
from .reference import ReferenceSet
from .step import RealisedStep
from .subspace import CapabilitySubspace


class Window:
    """Averages over the optimizer steps between two log entries.

    Args:
        references: the reference sets, in the order of the subspace's directions.
    """

    def __init__(self, references: Sequence[ReferenceSet]) -> None:
        self.names = [r.name for r in references]
        # A set's own gradient is the weighted mean of its chunks': one row of weights per set, [sets, k].
        shares = [torch.tensor(r.chunk_weights, dtype=torch.float64) for r in references]
        self.weights = torch.block_diag(*[(s / s.sum())[None] for s in shares]) if shares else torch.zeros(0, 0)
        self._gram: Tensor | None = None
        self._norms = torch.zeros(0)
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor | float] = {}

    def add(self, projection: Projection, subspace: CapabilitySubspace, weight: Tensor | float = 1.0) -> None:
        """Take in one step.

        Args:
            projection: what the step's projection did.
            subspace: the subspace it was done with.
            weight: what it counts for in the average.
        """
        if subspace.directions == 0:
            return
        weights, norms = self._of_sets(subspace, projection.norm.device)
        self._add("removed_ratio", projection.removed / projection.norm, weight)
        self._add("cos", (weights @ projection.inner) / (norms * projection.norm), weight)
        if projection.after is not None:
            norm, inner = projection.after
            self._add("cos_after", (weights @ inner) / (norms * norm), weight)

    def add_step(self, step: RealisedStep, subspace: CapabilitySubspace) -> None:
        """Take in what the optimizer really did.

        Args:
            step: what was measured.
            subspace: the subspace it was measured with.
        """
        weights, norms = self._of_sets(subspace, step.norm.device)
        taken = (step.norm > 0).double()  # some optimizers skip a step by themselves, when float16 has overflowed
        self._add("leak", (weights @ step.inner) / (norms * step.norm), taken)
        if step.projection is not None:
            self.add(step.projection, subspace, taken)

    def _of_sets(self, subspace: CapabilitySubspace, device: torch.device) -> tuple[Tensor, Tensor]:
        """Weights of the directions in each set's gradient, of shape ``[sets, k]``, and norms of these gradients."""
        if self._gram is not subspace.gram:  # once per refresh, not per step: it copies to the device
            gram, self.weights = subspace.gram.to(device), self.weights.to(device)
            self._norms = torch.einsum("sk,kl,sl->s", self.weights, gram, self.weights).clamp_min(0).sqrt()
            self._gram = subspace.gram
        return self.weights.to(device), self._norms.to(device)

    def _add(self, key: str, value: Tensor, weight: Tensor | float) -> None:
        value = torch.nan_to_num(value, nan=0.0, posinf=0.0, neginf=0.0) * weight  # a zero gradient has no direction
        self._sums[key] = self._sums[key] + value if key in self._sums else value
        self._counts[key] = self._counts.get(key, 0.0) + weight

    def read(self) -> dict[str, float]:
        """Return the averages and start a new window.

        Returns:
            ``ogpsa/removed_ratio`` (norm of what was removed over the gradient's norm), ``ogpsa/cos/<set>`` (cosine
            between the gradient and the set's reference gradient before the projection), ``ogpsa/cos_after/<set>``
            (what is left of it inside the stored subspace, on the steps where it was measured) and
            ``ogpsa/leak/<set>`` (cosine between the step that the optimizer really took, after any projection, and the
            set's reference gradient, on these steps: above zero, the reference loss rises). Where it is the step that
            is projected, the first two are of the step before its projection, its sign turned, on these steps too.
            Empty without steps.
        """
        figures: dict[str, float] = {}
        for key, total in self._sums.items():
            count = float(self._counts[key])
            if not count:
                continue
            mean = (total / count).tolist()
            if isinstance(mean, float):
                figures[f"ogpsa/{key}"] = mean
            else:
                figures.update({f"ogpsa/{key}/{name}": value for name, value in zip(self.names, mean, strict=True)})
        self._sums, self._counts = {}, {}
        return figures

    def reference_losses(self, chunk_losses: Sequence[float]) -> dict[str, float]:
        """Mean loss of every set, from its chunks' losses in order."""
        losses = torch.tensor(chunk_losses, dtype=torch.float64)
        return {
            f"ogpsa/reference_loss/{name}": float(shares[shares > 0].dot(losses[shares > 0]))
            for name, shares in zip(self.names, self.weights.cpu(), strict=True)
        }
