"""What a mode makes of a gradient whose coefficients in the subspace are known: ``g <- keep * g - U remove``.

``orthogonal`` removes the whole component in the subspace (arXiv 2602.07892). ``conflict`` removes only what would
raise a reference loss (see :mod:`ogpsa_factory.conflict`) and may rescale the gradient of groups without any conflict.
``plane`` keeps nothing *but* the component in the subspace: an ablation of the authors' released code.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .conflict import conflict_coefficients
from .kernels import finite_or_zero


Mode = Literal["orthogonal", "conflict", "plane"]


@dataclass(frozen=True)
class Projection:
    """What one projection did. Everything stays on the gradient's device until it is read.

    Attributes:
        norm: norm of the gradient before the projection, scalar, float64.
        removed: norm of the component that was removed, scalar, float64.
        inner: inner products before the projection with every reference gradient, as far as it lies in the stored
            subspace (see ``explained``), of shape ``[k]``, float64.
        after: the gradient's norm and these inner products, measured after the projection; None if ``measure`` was
            not asked for.
    """

    norm: Tensor
    removed: Tensor
    inner: Tensor
    after: tuple[Tensor, Tensor] | None


def plan(mode: Mode, coordinates: Tensor, inner: Tensor, aligned_scale: float = 1.0) -> tuple[Tensor | None, Tensor]:
    """Decide what to keep and what to remove.

    Args:
        mode: see above.
        coordinates: unit-normalised references in the basis, one per column, of shape ``[groups, k, k]``.
        inner: coefficients ``u = U^T g`` of the gradient, of shape ``[groups, k]``.
        aligned_scale: factor in mode ``conflict`` where a reference loss would fall and none would rise.

    Returns:
        ``keep`` of shape ``[groups]``, or None where every factor is one, and ``remove`` of shape ``[groups, k]``.
        A group whose gradient is not finite, or which has no direction, is left as it is.
    """
    if mode == "orthogonal":
        return None, finite_or_zero(inner)
    finite = inner.isfinite().all(dim=1)
    coordinates = coordinates.to(inner.device)
    if mode == "plane":
        covered = finite & (coordinates.abs().amax(dim=(1, 2)) > 0)
        return (~covered).to(inner.dtype), torch.where(covered[:, None], -inner, 0.0)
    remove = conflict_coefficients(coordinates, inner)
    if aligned_scale == 1.0:
        return None, remove
    alignment = torch.einsum("grk,gr->gk", coordinates, inner)
    aligned = finite & (alignment >= 0).all(dim=1) & (alignment > 0).any(dim=1)
    return torch.where(aligned, aligned_scale, 1.0).to(inner.dtype), remove
