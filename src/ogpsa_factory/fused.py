"""The same kernels compiled by ``torch.compile``: every operand is read once, and little is written but the result.

The plain ones convert what is not float32 in passes of their own, in buffers that leave the cache (docs/cost.md has
what that costs). Inductor makes C++ of these for CPUs and Triton for GPUs.

Rounding: products are summed in float32 over blocks of 1,024 elements, and blocks in float64, where the plain kernels
sum up to 2^20 in float32. Figures that are asked for in float64 are summed in float64; elements of a scale are rounded
to float32 in either. What the two paths give differs by less than the rounding of a float32 sum (tests/test_fused.py).
"""

from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from . import formulas
from .formulas import in_blocks
from .kernels import BLOCK, InverseRoot, Kernels, Scale, finite_or_zero
from .storage import PIECE


_SHORTEST = 1 << 15  # elements: below, a call of a compiled kernel takes longer than the plain operations
SHORT = 1 << 17  # the same where these are one each, and convert nothing
MOST_IN_GRAM = 4  # rows: their k (k + 1) / 2 products are all sums of one loop, and k * k terms make k rows anew


class FusedKernels(Kernels):
    """Compiled kernels where they are faster, plain ones elsewhere.

    Every number of rows and every dtype is compiled once, when it is first met; lengths are not compiled for.

    Args:
        device: what to compile for; pieces on other devices (copies in host memory) are left to the plain kernels.
    """

    piece = 16 * PIECE  # each call takes some time of its own, and leaves k + 1 numbers per block

    def __init__(self, device: torch.device) -> None:
        self._device = device.type
        self._made: dict[tuple[Any, ...], Any] = {}

    def _call(self, function: Callable[..., Any], rows: Tensor, *operands: Tensor | None) -> Any:
        """Call what was compiled for this number of rows and these dtypes.

        Each gets a code object of its own, as PyTorch compiles one only a few times before it gives up.
        """
        threads = torch.get_num_threads()
        key = (function, threads, len(rows), rows.dtype, *(None if o is None else o.dtype for o in operands))
        if key not in self._made:
            code = function.__code__.replace(co_name=f"{function.__name__}_{len(self._made)}")
            copy = FunctionType(code, function.__globals__)
            # Kernels for CPUs are made for a number of threads, which the compiler's cache on disk looks at only here.
            options: dict[str, Any] = {"cpp.threads": threads} if self._device == "cpu" else {}
            self._made[key] = torch.compile(copy, dynamic=True, fullgraph=True, options=options)
        return self._made[key](rows, *operands)

    def inner(self, rows: Tensor | None, part: Tensor) -> Tensor:
        """See :meth:`Kernels.inner`."""
        if rows is None or not self._fits(rows, part, None):
            return super().inner(rows, part)
        end = _end_of_blocks(part)
        sums = self.inner_of_blocks(_head(rows, end), _head(part, end)).sum(dim=1)
        return sums + _rest_of(rows[:, end:], part[end:]) if end < part.numel() else sums

    def project_(self, part: Tensor, rows: Tensor) -> Tensor:
        """See :meth:`Kernels.project_`."""
        if part.dtype == torch.float64 or not self._fits(rows, part, None):
            return super().project_(part, rows)
        end = _end_of_blocks(part)
        if end == part.numel():
            rest = torch.zeros(len(rows) + 1, dtype=torch.float64, device=part.device)
        else:
            rest = _rest_of(rows[:, end:], part[end:])
        blocks = _rows_in_blocks(_head(rows, end)), in_blocks(_head(part, end))
        sums: Tensor = self._call(formulas.project_, *blocks, rest)
        if end < part.numel():
            super().subtract_(part[end:], rows[:, end:], finite_or_zero(sums[:-1]).float(), None, 0)
        return sums

    def mix_(self, rows: Tensor, mix: Tensor) -> None:
        """See :meth:`Kernels.mix_`."""
        end = _end_of_blocks(rows[0])
        if len(rows) > MOST_IN_GRAM or not self._fits(rows, rows[0], None, always=True):
            end = 0
        for p in _pieces(rows[0, :end], self.piece):
            self._call(formulas.mix_, mix, *_rows_in_blocks(rows[:, p]).unbind())
        if end < rows.shape[1]:
            super().mix_(rows[:, end:], mix)

    def exact_inner(self, rows: Tensor, part: Tensor, scale: Scale | None, start: int) -> Tensor:
        """See :meth:`Kernels.exact_inner`."""
        if not self._fits(rows, part, scale, always=True):
            plain = (Kernels.exact_inner(self, rows[:, p], part[p], scale, start + p.start) for p in _pieces(part))
            return _total(plain)
        end = _end_of_blocks(part)
        sums = self.exact_inner_of_blocks(rows[:, :end], part[:end], *_ingredients(scale, start, end)).sum(dim=1)
        if end < part.numel():
            sums = sums + super().exact_inner(rows[:, end:], part[end:], scale, start + end)
        return sums

    def gram(self, rows: Tensor, scale: Scale | None, start: int) -> Tensor:
        """See :meth:`Kernels.gram`."""
        k, n = rows.shape
        if k > MOST_IN_GRAM or not self._fits(rows, rows[0], scale, always=True):
            return _total(Kernels.gram(self, rows[:, p], scale, start + p.start) for p in _pieces(rows[0]))
        end = _end_of_blocks(rows[0])
        gram = symmetric(self.gram_of_blocks(rows[:, :end], *_ingredients(scale, start, end)).sum(dim=1))
        return gram + super().gram(rows[:, end:], scale, start + end) if end < n else gram

    def subtract_(self, part: Tensor, rows: Tensor, weights: Tensor, scale: Scale | None, start: int) -> None:
        """See :meth:`Kernels.subtract_`."""
        if part.dtype == torch.float64 or not self._fits(rows, part, scale):
            for p in _pieces(part):
                super().subtract_(part[p], rows[:, p], weights, scale, start + p.start)
            return
        end = _end_of_blocks(part)
        each = weights[:, None].expand(-1, end // BLOCK).contiguous()
        self.subtract_from_blocks_(_head(part, end), _head(rows, end), each, *_ingredients(scale, start, end))
        if end < part.numel():
            super().subtract_(part[end:], rows[:, end:], weights, scale, start + end)

    def inner_of_blocks(self, rows: Tensor, part: Tensor) -> Tensor:
        """Products with all rows, and the square, block by block.

        Args:
            rows: of shape ``[k, blocks * BLOCK]``.
            part: of shape ``[blocks * BLOCK]``, any floating dtype.

        Returns:
            Of shape ``[k + 1, blocks]``, float64, summed in float32 within a block.
        """
        sums: Tensor = self._call(formulas.inner, rows, part)
        return sums

    def exact_inner_of_blocks(
        self, rows: Tensor, part: Tensor, second: Tensor | None, numbers: Tensor | None
    ) -> Tensor:
        """The same in float64 throughout, with a scale, and without the square.

        Args:
            rows: of shape ``[k, blocks * BLOCK]``.
            part: of shape ``[blocks * BLOCK]``.
            second: second moments of an :class:`InverseRoot`, as ``part``; None for ones.
            numbers: its factor and epsilon for every block, of shape ``[2, blocks]``, float32.

        Returns:
            Of shape ``[k, blocks]``, float64.
        """
        sums: Tensor = self._call(formulas.exact_inner, rows, part, second, numbers)
        return sums

    def gram_of_blocks(self, rows: Tensor, second: Tensor | None, numbers: Tensor | None) -> Tensor:
        """Products of rows with rows, see :func:`symmetric`, of shape ``[k (k + 1) / 2, blocks]``, float64."""
        sums: Tensor = self._call(formulas.gram, rows, second, numbers)
        return sums

    def subtract_from_blocks_(
        self, part: Tensor, rows: Tensor, weights: Tensor, second: Tensor | None, numbers: Tensor | None
    ) -> None:
        """Subtract in place, with weights of shape ``[k, blocks]``, float32."""
        # Cut into blocks here: where a view is made in the kernel, inductor writes through it number by number.
        seconds = None if second is None else in_blocks(second)
        self._call(formulas.subtract_, _rows_in_blocks(rows), in_blocks(part), weights, seconds, numbers)

    def takes(self, dtype: torch.dtype, device: torch.device) -> bool:
        """Whether the operations on blocks take vectors of this kind."""
        return dtype != torch.float64 and device.type == self._device

    def _fits(self, rows: Tensor, part: Tensor, scale: Scale | None, always: bool = False) -> bool:
        """Whether to compile for this: long enough, here, and with a scale that can be seen.

        Args:
            rows: see :meth:`Kernels.inner`.
            part: the same.
            scale: the same.
            always: whether the plain operations make passes of their own even of float32.
        """
        converts = always or scale is not None or not rows.dtype == part.dtype == torch.float32
        shortest = _SHORTEST if converts else SHORT
        known = scale is None or isinstance(scale, InverseRoot)
        return known and part.numel() >= shortest and part.device.type == self._device


def _pieces(part: Tensor, length: int = PIECE) -> Iterator[slice]:
    """What is taken at a time: by default what plain kernels are given, as they make temporaries."""
    return (slice(start, min(start + length, part.numel())) for start in range(0, part.numel(), length))


def _rest_of(rows: Tensor, part: Tensor) -> Tensor:
    """:meth:`Kernels.inner` of what fills no block, float64."""
    wide = part.double()
    return torch.cat([rows.double().mv(wide), wide.dot(wide)[None]])


def _total(figures: Iterator[Tensor]) -> Tensor:
    first = next(figures)
    return sum(figures, start=first)


def symmetric(upper: Tensor) -> Tensor:
    """The matrices of shape ``[..., k, k]`` with these rows of their upper triangles one after another."""
    k = int((2 * upper.shape[-1]) ** 0.5)
    at = torch.triu_indices(k, k, device=upper.device)
    matrices = upper.new_zeros(*upper.shape[:-1], k, k)
    matrices[..., at[0], at[1]] = matrices[..., at[1], at[0]] = upper
    return matrices


def _end_of_blocks(part: Tensor) -> int:
    return part.numel() // BLOCK * BLOCK


def _head(tensor: Tensor, end: int) -> Tensor:
    """Its first elements or columns; itself where these are all, as a slice takes time."""
    return tensor if end == tensor.shape[-1] else tensor[..., :end]


def _ingredients(scale: Scale | None, start: int, end: int) -> tuple[Tensor | None, Tensor | None]:
    """What kernels make a scale of: the first ``end`` second moments from ``start`` on, and numbers for each block."""
    if not isinstance(scale, InverseRoot):
        return None, None
    numbers = torch.tensor([[scale.factor], [scale.epsilon]]).expand(2, end // BLOCK)
    return scale.second[start : start + end], numbers.to(scale.second.device, non_blocking=True).contiguous()


def _rows_in_blocks(rows: Tensor) -> Tensor:
    return rows.view(len(rows), -1, BLOCK)
