"""What is computed of long vectors: in plain PyTorch here, the reference for :mod:`ogpsa_factory.fused`.

Sums are taken in float32 over at most ``PIECE`` elements, or in float64 throughout where figures that are nearly equal
will be subtracted.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .storage import PIECE


Scale = Callable[[int, int], Tensor]  # elements from one number to another of a long vector, made when asked for
Scales = Sequence[Scale | None]  # one per tensor, None for ones
Vectors = Sequence[Tensor | None]  # one per tensor, in any shape, or None
BLOCK = 1024  # elements: over so many, compiled kernels sum in float32
_CACHED = 1 << 15  # elements: copies of so many in float64 stay in a processor's cache


@dataclass(frozen=True)
class InverseRoot:
    """A :data:`Scale` whose ingredients can be seen: ``factor / (sqrt(second) + epsilon)``.

    Attributes:
        second: second moment, flat, of any floating dtype.
        factor: see above.
        epsilon: see above.
    """

    second: Tensor
    factor: float
    epsilon: float

    def __call__(self, start: int, end: int) -> Tensor:
        """Elements from one number to another, float32."""
        return self.factor / (self.second[start:end].float().sqrt() + self.epsilon)


class Kernels:
    """Products and moves of one piece, each of its operations a pass over memory.

    Attributes:
        piece: how many elements are best taken at a time.
    """

    piece = PIECE

    def inner(self, rows: Tensor | None, part: Tensor) -> Tensor:
        """``rows @ part``, and the squared norm of ``part`` behind it.

        Args:
            rows: of shape ``[k, n]``, or None for no rows.
            part: of shape ``[n]``, any floating dtype.

        Returns:
            Of shape ``[k + 1]``, or ``[1]`` without rows; float32 here, float64 where it is compiled.
        """
        part = part.float()
        squared = part.dot(part)[None]
        return squared if rows is None else torch.cat([rows.float().mv(part), squared])

    def project_(self, part: Tensor, rows: Tensor) -> Tensor:
        """``part -= rows^T rows part`` in place, or nothing where a product is not finite; arguments as above.

        Returns:
            :meth:`inner` before, float64.
        """
        sums = self.inner(rows, part).double()
        self.subtract_(part, rows, finite_or_zero(sums[:-1]).float(), None, 0)
        return sums

    def exact_inner(self, rows: Tensor, part: Tensor, scale: Scale | None, start: int) -> Tensor:
        """``rows diag(scale) part`` in float64 throughout.

        Args:
            rows: of shape ``[k, n]``.
            part: of shape ``[n]``.
            scale: gives elements of the diagonal; None for ones.
            start: number of the piece's first element, by which the scale counts.

        Returns:
            Of shape ``[k]``, float64.
        """
        sums = torch.zeros(len(rows), dtype=torch.float64, device=part.device)
        if scale is not None:
            part = part.float() * scale(start, start + part.numel())
        for block in _blocks(part):
            sums += rows[:, block].double().mv(part[block].double())
        return sums

    def reference_gram(self, rows: Tensor) -> Tensor:
        """``rows rows^T`` in float64 throughout, of shape ``[k, k]``; ``rows`` of shape ``[k, n]``, any length."""
        gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
        for start in range(0, rows.shape[1], self.piece):
            gram += self.gram(rows[:, start : start + self.piece], None, 0)
        return gram

    def mix_(self, rows: Tensor, mix: Tensor) -> None:
        """``rows = mix @ rows`` in place, in float64; ``mix`` of shape ``[k, k]``, float64, rows of any length."""
        for piece in rows.split(PIECE, dim=1):
            for block in _blocks(piece[0]):
                piece[:, block].copy_(mix @ piece[:, block].double())

    def gram(self, rows: Tensor, scale: Scale | None, start: int) -> Tensor:
        """``rows diag(scale) rows^T``, of shape ``[k, k]``, float64; arguments as above."""
        gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
        part = rows[0] if scale is None else scale(start, start + rows.shape[1])
        for block in _blocks(part):
            wide = rows[:, block].double()
            gram += (wide if scale is None else wide * part[block]) @ wide.T
        return gram

    def subtract_(self, part: Tensor, rows: Tensor, weights: Tensor, scale: Scale | None, start: int) -> None:
        """``part -= scale * rows^T weights`` in place; ``weights`` of shape ``[k]``, float32, the others as above."""
        rows = rows.float()
        if scale is not None:
            part -= rows.T.mv(weights).mul_(scale(start, start + part.numel()))
        elif part.dtype == torch.float32:
            part.addmv_(rows.T, weights, alpha=-1)
        elif part.dtype == torch.float64:
            part -= rows.T.mv(weights)
        else:
            part.copy_(part.float().addmv_(rows.T, weights, alpha=-1))


def finite_or_zero(inner: Tensor) -> Tensor:
    """Coefficients of shape ``[..., k]``, and zeros where one of the k is not finite."""
    return torch.where(inner.isfinite().all(dim=-1, keepdim=True), inner, 0.0)


def _blocks(part: Tensor) -> Iterator[slice]:
    """Cut a piece so that what is computed from it in float64 stays in a processor's cache; a GPU takes it whole."""
    length = max(1, part.numel()) if part.device.type != "cpu" else _CACHED
    return (slice(start, start + length) for start in range(0, part.numel(), length))
