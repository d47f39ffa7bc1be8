"""A basis cut into one matrix per tensor, against vectors that are cut alike: products with it, and moves along it.

Sums over elements are kept per *group* of tensors, in float64. Long tensors are taken one after another, short ones
together where kernels are compiled (see :mod:`ogpsa_factory.packs`).
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .fused import FusedKernels
from .kernels import Kernels, Scales, Vectors, finite_or_zero
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
        alone: whether each tensor is a group of its own.
    """

    def __init__(
        self, matrices: list[Tensor | None], of: Sequence[int], groups: int, k: int, kernels: Kernels
    ) -> None:
        self.matrices = matrices
        self.alone = len(set(of)) == len(of)
        self._of, self._groups, self._k, self._kernels = of, groups, k, kernels
        self._devices = {matrix.device for matrix in matrices if matrix is not None}
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
            own = sums[self._of[i], k if self.matrices[i] is None else 0 :]
            for _, part, piece in _pieces(vector, None if self.matrices[i] is None else rows):
                own += self._kernels.inner(piece, part)
        return sums

    def project_(self, vectors: Vectors) -> Tensor:
        """Remove the vectors' components along the rows, one tensor after another, while a cache still has it.

        That takes fewer bytes from memory than all products first; it is for groups that are :attr:`alone`.

        Args:
            vectors: as above; those with a product that is not finite are left as they are.

        Returns:
            As :meth:`inner`, of the vectors as they were.
        """
        k = self._k
        sums = torch.zeros(self._groups, k + 1, dtype=torch.float64, device=_device(vectors))
        packs = [pack for pack in self._packs if pack.takes(vectors)]
        singles, rows = self._rest(packs, vectors, without_rows=True, twice=True)
        for pack in packs:
            pack.project_(sums, next(rows), vectors)
        for i, vector in singles:
            flat = vector.detach().reshape(-1)  # a copy where the vector is not contiguous
            own, length = sums[self._of[i]], flat.numel()
            if self.matrices[i] is None:
                for _, part, _ in _pieces(flat, None):
                    own[k:] += self._kernels.inner(None, part)
                continue
            if 0 < length <= self._piece(flat.device):
                own += self._kernels.project_(flat, next(rows))
            else:  # the products of all pieces come before the first is changed
                for _, part, piece in _pieces(flat, rows):
                    own += self._kernels.inner(piece, part)
                weights = finite_or_zero(own[:k]).float()
                for start, part, piece in _pieces(flat, rows):
                    if piece is not None:
                        self._kernels.subtract_(part, piece, weights, None, start)
            _give_back(flat, vector)
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
        weights = coefficients.to(_device(vectors), torch.float32)
        for i, vector in singles:
            flat = vector.detach().reshape(-1)  # a copy where the vector is not contiguous
            for start, part, piece in _pieces(flat, rows):
                if piece is not None:
                    self._kernels.subtract_(part, piece, weights[self._of[i]], scales[i] if scales else None, start)
            _give_back(flat, vector)

    def _rest(
        self,
        packs: list[Pack],
        vectors: Vectors,
        offsets: Sequence[int] | None = None,
        without_rows: bool = False,
        twice: bool = False,
    ) -> tuple[list[tuple[int, Tensor]], Iterator[Tensor]]:
        """Numbers and vectors of what is taken one by one, and the rows of the packs and then of these.

        With ``twice``, rows of more than one piece come a second time before the next ones.
        """
        device = _device(vectors)
        taken = {i for pack in packs for i in pack.members}
        singles, used = [], [pack.rows for pack in packs]
        for i, (matrix, vector) in enumerate(zip(self.matrices, vectors, strict=True)):
            if vector is None or i in taken:
                continue
            if matrix is not None:
                start, length = offsets[i] if offsets else 0, vector.numel()
                own = matrix if matrix.shape[1] == length else matrix[:, start : start + length]
                used += [own, own] if twice and own.shape[1] > self._piece(device) else [own]
            if matrix is not None or without_rows:
                singles.append((i, vector))
        return singles, row_pieces(used, device, self._piece(device))

    def _piece(self, device: torch.device) -> int:
        """How many columns are taken at a time: fewer where they have to be brought over."""
        return self._kernels.piece if self._devices <= {device} else PIECE


def _give_back(flat: Tensor, vector: Tensor) -> None:
    """Write what was changed into the vector, if that was not contiguous."""
    if flat.data_ptr() != vector.data_ptr():
        vector.copy_(flat.view_as(vector))


def _device(vectors: Vectors) -> torch.device:
    return next((v.device for v in vectors if v is not None), torch.device("cpu"))


def _pieces(vector: Tensor, rows: Iterator[Tensor] | None) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """First element, the vector's part and the rows' piece, as long as the rows come; by ``PIECE`` without rows."""
    flat, start = vector.detach().reshape(-1), 0
    while start < flat.numel():
        piece = None if rows is None else next(rows)
        end = start + (PIECE if piece is None else piece.shape[1])
        yield start, flat if end - start == flat.numel() else flat[start:end], piece
        start = end
