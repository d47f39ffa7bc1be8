"""What :mod:`ogpsa_factory.fused` has compiled: a formula each, over blocks of ``BLOCK`` elements.

Code objects are copied (see ``FusedKernels``), so nothing here has a closure or a default. Shapes are those of the
methods of ``FusedKernels`` that call them; rows come as ``[k, blocks * BLOCK]`` where they are only read, and as
``[k, blocks, BLOCK]`` beside something that is written: inductor writes through a view that is made here number by
number.
"""

import torch
from torch import Tensor

from .kernels import BLOCK, finite_or_zero


def in_blocks(vector: Tensor) -> Tensor:
    """Of shape ``[blocks, BLOCK]``."""
    return vector.view(vector.shape[0] // BLOCK, BLOCK)


def _sum(products: Tensor) -> Tensor:
    return products.sum(dim=1).double()


def _scale(second: Tensor, numbers: Tensor) -> Tensor:
    return numbers[0][:, None] / (second.float().sqrt() + numbers[1][:, None])


def inner(rows: Tensor, part: Tensor) -> Tensor:
    """Products with all rows and the square, in float32 within a block."""
    wide = in_blocks(part).float()
    return torch.stack([*(_sum(in_blocks(row).float() * wide) for row in rows.unbind()), _sum(wide * wide)])


def exact_inner(rows: Tensor, part: Tensor, second: Tensor | None, numbers: Tensor | None) -> Tensor:
    """Products with all rows, scaled, in float64."""
    wide = in_blocks(part)
    if second is not None and numbers is not None:
        wide = wide.float() * _scale(in_blocks(second), numbers)
    wide = wide.double()
    return torch.stack([_sum(in_blocks(row).double() * wide) for row in rows.unbind()])


def gram(rows: Tensor, second: Tensor | None, numbers: Tensor | None) -> Tensor:
    """Products of rows with rows, scaled, in float64: those of the upper triangle."""
    wide = [in_blocks(row).double() for row in rows.unbind()]
    scaled = wide
    if second is not None and numbers is not None:
        scale = _scale(in_blocks(second), numbers)
        scaled = [row * scale for row in wide]
    return torch.stack([_sum(a * b) for i, a in enumerate(scaled) for b in wide[i:]])


def mix_(mix: Tensor, *rows: Tensor) -> None:
    """Each row becomes a sum of all with a row of ``mix`` as weights.

    In float64; in float32 where rows have 16 bits, which are coarser than anything that this adds. They come one by
    one, as inductor copies what is changed in parts.
    """
    exact = torch.float64 if rows[0].dtype.itemsize > 2 else torch.float32
    mixed = []
    for weights in mix.to(exact).unbind():
        total = torch.zeros((), dtype=exact, device=mix.device)
        for row, weight in zip(rows, weights.unbind(), strict=True):
            total = total + weight * row.to(exact)
        mixed.append(total)
    for row, total in zip(rows, mixed, strict=True):
        row.copy_(total)


def project_(rows: Tensor, part: Tensor, rest: Tensor) -> Tensor:
    """Products as :func:`inner`, added up with ``rest``, and the move by them."""
    wide = part.float()
    sums = torch.stack([*(_sum(row.float() * wide) for row in rows.unbind()), _sum(wide * wide)]).sum(dim=1) + rest
    weights = finite_or_zero(sums[:-1]).float()
    total = torch.zeros((), device=part.device)
    for row, weight in zip(rows.unbind(), weights.unbind(), strict=True):
        total = total + row.float() * weight
    part.copy_(part.float() - total)
    return sums


def subtract_(rows: Tensor, part: Tensor, weights: Tensor, second: Tensor | None, numbers: Tensor | None) -> None:
    """Move along all rows, scaled, by each block's weights."""
    total = torch.zeros((), device=part.device)
    for row, weight in zip(rows.unbind(), weights.unbind(), strict=True):
        total = total + row.float() * weight[:, None]
    if second is not None and numbers is not None:
        total = total * _scale(second, numbers)
    part.copy_(part.float() - total)
