"""The same kernels compiled by ``torch.compile``: every operand is read once, and nothing is written but the result.

The plain ones convert what is not float32 in passes of their own, in buffers that leave the cache (docs/cost.md has
what that costs). Inductor makes C++ of these for CPUs and Triton for GPUs.

Rounding: products are summed in float32 over blocks of 4,096 elements, and blocks in float64, where the plain kernels
sum up to 2^20 in float32. Figures that are asked for in float64 are summed in float64; elements of a scale are rounded
to float32 in either. What the two paths give differs by less than the rounding of a float32 sum (tests/test_fused.py).
"""

import logging
import time
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from .errors import OGPSAError
from .kernels import InverseRoot, Kernels, Scale
from .storage import PIECE


logger = logging.getLogger(__name__)

WORTH_COMPILING = 1 << 24  # elements of gradients on one rank: below, compiling takes longer than it saves in a run
_BLOCK = 4096
_SHORTEST = 1 << 15  # elements: below, a call of a compiled kernel takes longer than the plain operations
_SHORTEST_FLOAT32 = 1 << 17  # the same where these are one each, and convert nothing
_MOST_IN_GRAM = 4  # rows: their k (k + 1) / 2 products are all sums of one loop


class FusedKernels(Kernels):
    """Compiled kernels where they are faster, plain ones elsewhere.

    Every number of rows and every dtype is compiled once, when it is first met; lengths are not compiled for.

    Args:
        device: what to compile for; pieces on other devices (copies in host memory) are left to the plain kernels.
    """

    whole = True

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

    def inner(self, rows: Tensor | None, part: Tensor) -> tuple[Tensor | None, Tensor]:
        """See :meth:`Kernels.inner`."""
        if rows is None or not self._fits(rows, part, None):
            return super().inner(rows, part)
        sums: Tensor = self._call(_inner, rows, part)
        end = _end_of_blocks(part)
        if end < part.numel():
            rest = part[end:].double()
            sums = sums + torch.cat([rows[:, end:].double().mv(rest), rest.dot(rest)[None]])
        return sums[:-1], sums[-1]

    def exact_inner(self, rows: Tensor, part: Tensor, scale: Scale | None, start: int) -> Tensor:
        """See :meth:`Kernels.exact_inner`."""
        if not self._fits(rows, part, scale, always=True):
            plain = (Kernels.exact_inner(self, rows[:, p], part[p], scale, start + p.start) for p in _pieces(part))
            return _total(plain)
        end = _end_of_blocks(part)
        sums: Tensor = self._call(_exact_inner, rows, part, *_ingredients(scale, start, part))
        if end < part.numel():
            sums = sums + super().exact_inner(rows[:, end:], part[end:], scale, start + end)
        return sums

    def gram(self, rows: Tensor, scale: Scale | None, start: int) -> Tensor:
        """See :meth:`Kernels.gram`."""
        k, n = rows.shape
        if k > _MOST_IN_GRAM or scale is None or not self._fits(rows, rows[0], scale, always=True):
            return _total(Kernels.gram(self, rows[:, p], scale, start + p.start) for p in _pieces(rows[0]))
        upper: Tensor = self._call(_gram, rows, *_ingredients(scale, start, rows[0]))
        gram = upper.new_zeros(k, k)
        at = torch.triu_indices(k, k, device=upper.device)
        gram[at[0], at[1]] = gram[at[1], at[0]] = upper
        end = _end_of_blocks(rows[0])
        return gram + super().gram(rows[:, end:], scale, start + end) if end < n else gram

    def subtract_(self, part: Tensor, rows: Tensor, weights: Tensor, scale: Scale | None, start: int) -> None:
        """See :meth:`Kernels.subtract_`."""
        if part.dtype == torch.float64 or not self._fits(rows, part, scale):
            for p in _pieces(part):
                super().subtract_(part[p], rows[:, p], weights, scale, start + p.start)
        else:
            self._call(_subtract, rows, part, weights, *_ingredients(scale, start, part))

    def _fits(self, rows: Tensor, part: Tensor, scale: Scale | None, always: bool = False) -> bool:
        """Whether to compile for this: long enough, here, and with a scale that can be seen.

        Args:
            rows: see :meth:`Kernels.inner`.
            part: the same.
            scale: the same.
            always: whether the plain operations make passes of their own even of float32.
        """
        converts = always or scale is not None or not rows.dtype == part.dtype == torch.float32
        shortest = _SHORTEST if converts else _SHORTEST_FLOAT32
        known = scale is None or isinstance(scale, InverseRoot)
        return known and part.numel() >= shortest and part.device.type == self._device


def choose_kernels(
    setting: str,
    elements: int,
    device: torch.device,
    dtypes: tuple[torch.dtype, torch.dtype],
    on_any_rank: Callable[[bool], bool],
) -> Kernels:
    """Compile kernels if that is wanted, worth its time, and possible on every rank.

    Ranks that hold the same weights must round alike, so all of them take the same kernels.

    Args:
        setting: ``ogpsa_kernels``.
        elements: how many elements of gradients this rank holds.
        device: where gradients are.
        dtypes: of the basis and of gradients.
        on_any_rank: whether something holds on any rank; collective.

    Returns:
        The kernels.

    Raises:
        OGPSAError: if ``setting`` is ``fused``, and they cannot be compiled.
    """
    if setting == "plain" or (setting == "auto" and not on_any_rank(elements >= WORTH_COMPILING)):
        return Kernels()
    started = time.perf_counter()
    kernels, reason = FusedKernels(device), ""
    try:
        if torch._dynamo.config.disable:
            reason = "the environment disables torch.compile: take TORCH_COMPILE_DISABLE or TORCHDYNAMO_DISABLE away"
        elif not _right(kernels, device, dtypes):
            reason = "what torch.compile makes gives wrong results on this machine"
    except Exception as error:  # whatever a compiler's absence looks like
        first = str(error).strip().partition("\n")[0]
        reason = f"torch.compile fails ({type(error).__name__}: {first}): is there a C++ compiler?"
    if not on_any_rank(bool(reason)):
        logger.info("The projection's kernels were compiled and tried in %.0f s.", time.perf_counter() - started)
        return kernels
    reason = reason or "another rank cannot compile"
    if setting == "fused":
        raise OGPSAError(f"ogpsa_kernels: fused is not possible: {reason}. Or use ogpsa_kernels: plain.")
    logger.warning("The projection uses plain kernels, which take longer: %s.", reason)
    return Kernels()


def _right(kernels: FusedKernels, device: torch.device, dtypes: tuple[torch.dtype, torch.dtype]) -> bool:
    """Try every kernel on a small problem of these dtypes."""
    plain = Kernels()
    wide = torch.linspace(0.1, 1, _SHORTEST_FLOAT32 + 1, device=device)  # sums do not cancel
    rows, part = torch.stack([wide.cos(), wide.sin()]).to(dtypes[0]), wide.to(dtypes[1])
    scale, weights = InverseRoot(wide.square(), 0.5, 0.1), torch.ones(2, device=device)
    results = []
    for each in (kernels, plain):
        inner, squared = each.inner(rows, part)
        found = [squared[None], each.gram(rows, scale, 0).flatten()]
        found += [] if inner is None else [inner]
        for own in (None, scale):
            changed = part.clone()
            each.subtract_(changed, rows, weights, own, 0)
            found += [changed, each.exact_inner(rows, part, own, 0)]
        results.append(torch.cat([figures.double() for figures in found]))
    return torch.allclose(results[0], results[1], rtol=max(1e-4, 2 * torch.finfo(dtypes[1]).eps), atol=1e-4)


def _pieces(part: Tensor) -> Iterator[slice]:
    """What plain kernels are given at a time, as they make temporaries."""
    return (slice(start, start + PIECE) for start in range(0, part.numel(), PIECE))


def _total(figures: Iterator[Tensor]) -> Tensor:
    first = next(figures)
    return sum(figures, start=first)


def _end_of_blocks(part: Tensor) -> int:
    return part.numel() // _BLOCK * _BLOCK


def _ingredients(scale: Scale | None, start: int, part: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """What a kernel makes the scale of; numbers in a tensor, as for a Python number it would be compiled anew."""
    if not isinstance(scale, InverseRoot):
        return None, None
    numbers = torch.tensor([scale.factor, scale.epsilon]).to(part.device, non_blocking=True)
    return scale.second[start : start + part.numel()], numbers


def _in_blocks(vector: Tensor) -> Tensor:
    count = vector.shape[0] // _BLOCK
    return vector[: count * _BLOCK].view(count, _BLOCK)


def _sum(products: Tensor) -> Tensor:
    return products.sum(dim=1).double().sum()


def _scale(second: Tensor, numbers: Tensor) -> Tensor:
    return numbers[0] / (second.float().sqrt() + numbers[1])


def _inner(rows: Tensor, part: Tensor) -> Tensor:
    wide = _in_blocks(part).float()
    return torch.stack([*(_sum(_in_blocks(row).float() * wide) for row in rows.unbind()), _sum(wide * wide)])


def _exact_inner(rows: Tensor, part: Tensor, second: Tensor | None, numbers: Tensor | None) -> Tensor:
    wide = _in_blocks(part)
    if second is not None and numbers is not None:
        wide = wide.float() * _scale(_in_blocks(second), numbers)
    wide = wide.double()
    return torch.stack([_sum(_in_blocks(row).double() * wide) for row in rows.unbind()])


def _gram(rows: Tensor, second: Tensor, numbers: Tensor) -> Tensor:
    wide = [_in_blocks(row).double() for row in rows.unbind()]
    scale = _scale(_in_blocks(second), numbers)
    return torch.stack([_sum(a * scale * b) for i, a in enumerate(wide) for b in wide[i:]])


def _subtract(rows: Tensor, part: Tensor, weights: Tensor, second: Tensor | None, numbers: Tensor | None) -> None:
    total = torch.zeros((), device=part.device)
    for row, weight in zip(rows.unbind(), weights.unbind(), strict=True):
        total = total + row.float() * weight
    if second is not None and numbers is not None:
        total = total * _scale(second, numbers)
    part.copy_(part.float() - total)
