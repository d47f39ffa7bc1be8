"""A basis cut into one matrix per tensor, against vectors that are cut alike: products with it, and moves along it.

Sums over elements are kept per *group* of tensors, in float64. Long tensors are taken one after another, short ones
together where kernels are compiled (see :mod:`ogpsa_factory.packs`).
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .fused import FusedKernels
from .kernels import Kernels, Scales, Vectors
from .packs import Pack, make_packs
from .storage import PIECE, row_pieces


class Basis:
    """Rows of a basis, on this rank.

    Args:
        matrices: per tensor of shape ``[k, n]``, any floating dtype, or None. It is kept; short ones are replaced by
            copies where they are packed.
        of: group of each tensor.
        groups: number of groups.
        k: number of rows.
        kernels: what computes pieces of long vectors.

    Attributes:
        matrices: see above.
    """

    def __init__(
        self, matrices: list[Tensor | None], of: Sequence[int], groups: int, k: int, kernels: Kernels
    ) -> None:
        self.matrices = matrices
        self._of, self._groups, self._k, self._kernels = of, groups, k, kernels
        self._packs = make_packs(self.matrices, of, kernels) if isinstance(kernels, FusedKernels) else []

    def inner(self, vectors: Vectors) -> Tensor:
        """Products of the rows with vectors, and the vectors' squares, in float32 within a piece.

        Args:
            vectors: one per tensor, ``n`` numbers in any shape and floating dtype, or None.

        Returns:
            Of shape ``[groups, k + 1]``, float64, on the vectors' device.
        """
        k = self._k
        sums = torch.zeros(self._groups, k + 1, dtype=torch.float64, device=_device(vectors))
        packs = [pack for pack in self._packs if pack.takes(vectors)]
        singles, rows = self._rest(packs, vectors, without_rows=True)
        for pack in packs:
            pack.add_inner(sums, next(rows), vectors)
        for i, vector in singles:
            own = sums[self._of[i]]
            for _, part, piece in _pieces(vector, None if self.matrices[i] is None else rows):
                inner, squared = self._kernels.inner(piece, part)
                own[k] += squared
                if inner is not None:
                    own[:k] += inner
        return sums

    def exact_inner(
        self, vectors: Vectors, scales: Scales | None = None, offsets: Sequence[int] | None = None
    ) -> Tensor:
        """Products of the rows, scaled, with vectors in float64 throughout: for figures that are nearly equal.

        Args:
            vectors: as above; where vectors are shorter than the rows, ``offsets`` says which part they are.
            scales: per tensor elements of a diagonal; None for ones.
            offsets: number of each vector's first element in its row.

        Returns:
            Of shape ``[groups, k]``, float64, on the vectors' device.
        """
        sums = torch.zeros(self._groups, self._k, dtype=torch.float64, device=_device(vectors))
        packs = [pack for pack in self._packs if pack.takes(vectors, scales)]
        singles, rows = self._rest(packs, vectors, offsets)
        for pack in packs:
            pack.add_exact_inner(sums, next(rows), vectors, scales)
        for i, vector in singles:
            scale = scales[i] if scales else None
            for start, part, piece in _pieces(vector, rows):
                if piece is not None:
                    sums[self._of[i]] += self._kernels.exact_inner(piece, part, scale, start)
        return sums

    def gram(self, like: Vectors, scales: Scales, offsets: Sequence[int] | None = None) -> Tensor:
        """Products of the rows, scaled, with the rows.

        Args:
            like: where the rows are wanted, and which part of them, as vectors of :meth:`exact_inner`.
            scales: as there.
            offsets: as there.

        Returns:
            Of shape ``[groups, k, k]``, float64, on the vectors' device.
        """
        gram = torch.zeros(self._groups, self._k, self._k, dtype=torch.float64, device=_device(like))
        packs = [pack for pack in self._packs if pack.takes_gram(like, scales)]
        singles, rows = self._rest(packs, like, offsets)
        for pack in packs:
            pack.add_gram(gram, next(rows), like, scales)
        for i, vector in singles:
            start = 0
            while start < vector.numel():
                piece = next(rows)
                gram[self._of[i]] += self._kernels.gram(piece, scales[i], start)
                start += piece.shape[1]
        return gram

    def subtract_(
        self,
        vectors: Vectors,
        coefficients: Tensor,
        scales: Scales | None = None,
        offsets: Sequence[int] | None = None,
    ) -> None:
        """Subtract the rows, scaled, times coefficients of shape ``[groups, k]``, in place; the others as above."""
        packs = [pack for pack in self._packs if pack.takes(vectors, scales)]
        singles, rows = self._rest(packs, vectors, offsets)
        for pack in packs:
            pack.subtract_(vectors, next(rows), coefficients, scales)
        for i, vector in singles:
            flat = vector.detach().reshape(-1)  # a copy where the vector is not contiguous
            own = coefficients[self._of[i]].to(vector.device, torch.float32)
            for start, part, piece in _pieces(flat, rows):
                if piece is not None:
                    self._kernels.subtract_(part, piece, own, scales[i] if scales else None, start)
            if flat.data_ptr() != vector.data_ptr():
                vector.copy_(flat.view_as(vector))

    def _rest(
        self, packs: list[Pack], vectors: Vectors, offsets: Sequence[int] | None = None, without_rows: bool = False
    ) -> tuple[list[tuple[int, Tensor]], Iterator[Tensor]]:
        """Numbers and vectors of what is taken one by one, and the rows of the packs and then of these."""
        taken = {i for pack in packs for i in pack.members}
        singles, used = [], [pack.rows for pack in packs]
        for i, (matrix, vector) in enumerate(zip(self.matrices, vectors, strict=True)):
            if vector is None or i in taken:
                continue
            if matrix is not None:
                start = offsets[i] if offsets else 0
                used.append(matrix[:, start : start + vector.numel()])
            if matrix is not None or without_rows:
                singles.append((i, vector))
        return singles, row_pieces(used, _device(vectors), self._kernels.piece)


def _device(vectors: Vectors) -> torch.device:
    return next((v.device for v in vectors if v is not None), torch.device("cpu"))


def _pieces(vector: Tensor, rows: Iterator[Tensor] | None) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """First element, the vector's part and the rows' piece, as long as the rows come; by ``PIECE`` without rows."""
    flat, start = vector.detach().reshape(-1), 0
    while start < flat.numel():
        piece = None if rows is None else next(rows)
        end = start + (PIECE if piece is None else piece.shape[1])
        yield start, flat[start:end], piece
        start = end
