"""The capability subspace's basis against this rank's pieces of weights, in a metric that is diagonal.

What :mod:`ogpsa_factory.subspace` does for gradients with one inner product and one subtraction, a step needs in more
kinds: inner products in float64 (they are differences of nearly equal figures), Gram matrices ``U^T D^-1 U``, and
subtractions along ``D^-1 U``. Vectors may be cut otherwise than the basis, see ``Engine.weight_offsets``.
"""

import torch
from torch import Tensor

from .engines.base import Engine
from .kernels import Scales
from .storage import PIECE
from .subspace import CapabilitySubspace, Gradients


class Span:
    """Products with the basis, and moves along it.

    Args:
        engine: where weights are and how ranks communicate.
        subspace: the capability subspace; it is read anew in every call.
    """

    def __init__(self, engine: Engine, subspace: CapabilitySubspace) -> None:
        self._engine = engine
        self._subspace = subspace

    def inner(self, vectors: Gradients, scales: Scales | None = None) -> Tensor:
        """``U^T x``, or ``U^T D^-1 x`` with the diagonal of D^-1 in ``scales``.

        Args:
            vectors: one per parameter, cut as the weights are.
            scales: elements of the diagonal, one function per parameter.

        Returns:
            Of shape ``[groups, k]``, float64, the same on all ranks.
        """
        sums = self._subspace.basis.exact_inner(vectors, scales, self._engine.weight_offsets)
        return self._engine.reduce_weights(sums.to(self._device(vectors)))

    def gram(self, scales: Scales) -> Tensor:
        """``U^T D^-1 U``, of shape ``[groups, k, k]``, float64, the same on all ranks."""
        weights = self._engine.optimizer_tensors()
        gram = self._subspace.basis.gram(weights, scales, self._engine.weight_offsets)
        return self._engine.reduce_weights(gram.to(self._device(weights)))

    def subtract(self, vectors: Gradients, coefficients: Tensor, scales: Scales | None = None) -> None:
        """``x -= D^-1 U c`` in place, with coefficients of shape ``[groups, k]``."""
        self._subspace.basis.subtract_(vectors, coefficients, scales, self._engine.weight_offsets)

    def squared_distance(self, vectors: Gradients, others: Gradients | None = None) -> Tensor:
        """Squared norm of the vectors, or of their differences from others; scalar, float64, the same on all ranks."""
        total = torch.zeros((), dtype=torch.float64, device=self._device(vectors))
        for vector, other in zip(vectors, others or [None] * len(vectors), strict=True):
            if vector is not None:
                flat, away = vector.reshape(-1), None if other is None else other.reshape(-1)
                for start in range(0, flat.numel(), PIECE):
                    part = flat[start : start + PIECE]
                    if away is not None:
                        part = part - away[start : start + PIECE].to(part.device)
                    total += part.double().square().sum()
        return self._engine.reduce_weights(total)

    def _device(self, vectors: Gradients) -> torch.device:
        return next((v.device for v in vectors if v is not None), self._engine.device)
