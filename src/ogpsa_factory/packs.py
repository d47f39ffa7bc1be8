"""Short tensors, many at a time: copied side by side into one vector, so that each costs a copy and not a kernel.

What a kernel costs to call does not depend on how much it does: tens of microseconds in Python on a CPU, a handful of
launches on a GPU. That is more than reading a bias or an adapter takes. Every tensor begins at a block of its own, and
compiled kernels give sums block by block, so that a number that is not finite stays in its tensor's group.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .fused import MOST_IN_GRAM, SHORT, FusedKernels, symmetric
from .kernels import BLOCK, InverseRoot, Scale, Scales, Vectors, finite_or_zero
from .storage import PIECE


Buffers = dict[tuple[str, torch.dtype, torch.device], Tensor]


class Pack:
    """Some short tensors' rows, and where each of them lies.

    Args:
        members: their numbers, those of one group one after another.
        matrices: of every tensor, of shape ``[k, n]``; those of members are replaced by views of ``rows``.
        groups: group of every tensor.
        kernels: what computes sums over blocks.
        buffers: where vectors are put side by side, shared with other packs; filled here.

    Attributes:
        members: see above.
        rows: of shape ``[k, blocks * BLOCK]``; zero between the end of a tensor and that of its last block.
    """

    def __init__(
        self,
        members: list[int],
        matrices: list[Tensor | None],
        groups: Sequence[int],
        kernels: FusedKernels,
        buffers: Buffers,
    ) -> None:
        own = [matrix for i in members if (matrix := matrices[i]) is not None]
        self.members, self._kernels, self._buffers = members, kernels, buffers
        self._sizes = [matrix.shape[1] for matrix in own]
        blocks = torch.tensor([-(-size // BLOCK) for size in self._sizes])
        ends = (blocks.cumsum(0) * BLOCK).tolist()
        self._starts = [0, *ends[:-1]]
        self.rows = torch.zeros(
            len(own[0]), ends[-1], dtype=own[0].dtype, device=own[0].device, pin_memory=own[0].is_pinned()
        )
        for i, matrix, start in zip(members, own, self._starts, strict=True):
            matrices[i] = self.rows[:, start : start + matrix.shape[1]].copy_(matrix)
        self._group_of_block = torch.tensor([groups[i] for i in members]).repeat_interleave(blocks)
        self._groups, self._lengths = self._group_of_block.unique_consecutive(return_counts=True)
        self._member_of_block = torch.arange(len(members)).repeat_interleave(blocks)
        self._views: dict[tuple[str, torch.dtype, torch.device], tuple[list[Tensor], list[Tensor], Tensor]] = {}

    def takes(self, vectors: Vectors, scales: Scales | None = None) -> bool:
        """Whether these vectors can be taken together: whole, of one kind, and with scales that can be seen.

        Args:
            vectors: one per tensor, or None.
            scales: one per tensor, or None for no scale at all.
        """
        own = [(vectors[i], size) for i, size in zip(self.members, self._sizes, strict=True)]
        kinds = {(v.dtype, v.device) for v, _ in own if v is not None}
        fits = len(kinds) == 1 and all(v is None or v.numel() == size for v, size in own)
        known = not scales or _all_seen([scales[i] for i in self.members if vectors[i] is not None])
        return fits and known and all(self._kernels.takes(*kind) for kind in kinds)

    def takes_gram(self, like: Vectors, scales: Scales) -> bool:
        """Whether products of rows with rows can be had too: of few rows, scaled."""
        scaled = any(isinstance(scales[i], InverseRoot) for i in self.members if like[i] is not None)
        return scaled and len(self.rows) <= MOST_IN_GRAM and self.takes(like, scales)

    def add_inner(self, sums: Tensor, rows: Tensor, vectors: Vectors) -> None:
        """Add products with the rows, and squares, to ``sums`` of shape ``[groups, k + 1]``, float64.

        Args:
            sums: changed in place.
            rows: this pack's, on the vectors' device.
            vectors: what :meth:`takes` has let pass.
        """
        self._add(sums, self._kernels.inner_of_blocks(rows, self._gather(vectors)))

    def add_exact_inner(self, sums: Tensor, rows: Tensor, vectors: Vectors, scales: Scales | None) -> None:
        """Add products with the rows, scaled, to ``sums`` of shape ``[groups, k]``; the others as above."""
        self._add(
            sums, self._kernels.exact_inner_of_blocks(rows, self._gather(vectors), *self._scale(vectors, scales))
        )

    def add_gram(self, gram: Tensor, rows: Tensor, like: Vectors, scales: Scales) -> None:
        """Add products of rows with rows, scaled, to ``gram`` of shape ``[groups, k, k]``, float64."""
        groups, k, _ = gram.shape
        upper = gram.new_zeros(groups, k * (k + 1) // 2)
        self._add(upper, self._kernels.gram_of_blocks(rows, *self._scale(like, scales)))
        gram += symmetric(upper)

    def project_(self, sums: Tensor, rows: Tensor, vectors: Vectors) -> None:
        """Add products and squares as :meth:`add_inner` does, and subtract the rows times the products, in place.

        For groups that have no other members; one with a product that is not finite is left as it is.
        """
        flat = self._gather(vectors)
        self._add(sums, self._kernels.inner_of_blocks(rows, flat))
        self._move(flat, vectors, rows, finite_or_zero(sums[:, :-1]), None)

    def subtract_(self, vectors: Vectors, rows: Tensor, coefficients: Tensor, scales: Scales | None) -> None:
        """Subtract the rows, scaled, times coefficients of shape ``[groups, k]``, in place."""
        self._move(self._gather(vectors), vectors, rows, coefficients, scales)

    def _move(self, flat: Tensor, vectors: Vectors, rows: Tensor, coefficients: Tensor, scales: Scales | None) -> None:
        """Subtract from the vectors side by side, and bring them back."""
        self._group_of_block = self._group_of_block.to(flat.device)
        weights = coefficients.to(flat.device, torch.float32).T[:, self._group_of_block].contiguous()
        self._kernels.subtract_from_blocks_(flat, rows, weights, *self._scale(vectors, scales))
        own = [vectors[i] for i in self.members]
        views, _, _ = self._views_of("vectors", own)
        there = [(v, view) for v, view in zip(own, views, strict=True) if v is not None]
        torch._foreach_copy_([v.detach() for v, _ in there], [view.view_as(v) for v, view in there])

    def _add(self, totals: Tensor, sums: Tensor) -> None:
        """Add sums over blocks, of shape ``[m, blocks]``, to those over groups, of shape ``[groups, m]``."""
        if len(self._groups) == 1:  # whose sum `segment_reduce` would leave to one thread of a GPU
            totals[int(self._groups)] += sums.sum(dim=1)
            return
        self._lengths, self._groups = self._lengths.to(sums.device), self._groups.to(sums.device)
        own = torch.segment_reduce(sums.T.contiguous(), "sum", lengths=self._lengths, axis=0, unsafe=True)
        totals.index_add_(0, self._groups, own)  # each group once, hence in no order that could vary

    def _scale(self, vectors: Vectors, scales: Scales | None) -> tuple[Tensor | None, Tensor | None]:
        """Second moments side by side, and the two numbers of each block, of shape ``[2, blocks]``; or twice None.

        The scale of a member without a vector is zero.
        """
        own: list[InverseRoot | None] = []
        for i in self.members:
            scale = scales[i] if scales and vectors[i] is not None else None
            own.append(scale if isinstance(scale, InverseRoot) else None)
        if not any(own):
            return None, None
        # Ones in between: of zeros, an epsilon of zero would make infinities, and NaN with the zeros of the rows.
        flat = self._put([None if scale is None else scale.second for scale in own], "seconds", blank=1.0)
        numbers = torch.tensor([(scale.factor, scale.epsilon) if scale else (0.0, 1.0) for scale in own])
        return flat, numbers[self._member_of_block].T.contiguous().to(flat.device, non_blocking=True)

    def _gather(self, vectors: Vectors) -> Tensor:
        return self._put([vectors[i] for i in self.members], "vectors", blank=0.0)

    def _put(self, own: list[Tensor | None], name: str, blank: float) -> Tensor:
        """Copy the members' vectors side by side into a buffer, with ``blank`` where there is none."""
        views, blanks, flat = self._views_of(name, own)
        there = [(view, v.detach().reshape(-1)) for view, v in zip(views, own, strict=True) if v is not None]
        if len(there) < len(own):
            blanks = [*blanks, *(view for view, v in zip(views, own, strict=True) if v is None)]
        if blanks:
            torch._foreach_zero_(blanks)
            if blank:
                torch._foreach_add_(blanks, blank)
        torch._foreach_copy_([view for view, _ in there], [v for _, v in there])
        return flat

    def _views_of(self, name: str, own: list[Tensor | None]) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Where in a buffer the members lie, what is between them, and both together."""
        dtype, device = next((v.dtype, v.device) for v in own if v is not None)
        key = (name, dtype, device)
        if key not in self._buffers:
            self._buffers[key] = torch.empty(PIECE, dtype=dtype, device=device)
        if key not in self._views:
            flat = self._buffers[key][: self.rows.shape[1]]
            ends = [start + size for start, size in zip(self._starts, self._sizes, strict=True)]
            views = [flat[start:end] for start, end in zip(self._starts, ends, strict=True)]
            between = zip(ends, [*self._starts[1:], flat.numel()], strict=True)
            self._views[key] = views, [flat[end:start] for end, start in between if end < start], flat
        return self._views[key]


def make_packs(matrices: list[Tensor | None], groups: Sequence[int], kernels: FusedKernels) -> list[Pack]:
    """Pack short matrices of one kind together, group by group.

    Args:
        matrices: of shape ``[k, n]``, or None; those that are packed are replaced by views.
        groups: group of each.
        kernels: what computes sums over blocks.

    Returns:
        Packs of at most ``PIECE`` columns. What would be alone in one is left as it is.
    """
    kinds: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for i, matrix in enumerate(matrices):
        if matrix is not None and 0 < matrix.shape[1] < SHORT:
            kinds.setdefault((matrix.dtype, matrix.device), []).append(i)
    buffers: Buffers = {}
    return [
        Pack(members, matrices, groups, kernels, buffers)
        for numbers in kinds.values()
        for members in _fill(sorted(numbers, key=lambda i: groups[i]), matrices)
        if len(members) > 1
    ]


def _fill(numbers: list[int], matrices: list[Tensor | None]) -> Iterator[list[int]]:
    members: list[int] = []
    size = 0
    for i in numbers:
        matrix = matrices[i]
        own = 0 if matrix is None else -(-matrix.shape[1] // BLOCK) * BLOCK
        if members and size + own > PIECE:
            yield members
            members, size = [], 0
        members.append(i)
        size += own
    yield members


def _all_seen(scales: list[Scale | None]) -> bool:
    """Whether all are ones, or all of the kind that kernels can make themselves, of one dtype."""
    seen = {scale.second.dtype if isinstance(scale, InverseRoot) else scale and type(scale) for scale in scales}
    return seen == {None} or (len(seen) == 1 and all(isinstance(scale, InverseRoot) for scale in scales))
