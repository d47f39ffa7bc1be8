"""Mode ``conflict``: keep what helps, remove only what would raise a reference loss.

A step along ``-g`` changes reference loss i by ``-<g_i, g>`` to first order, so it rises where ``<g_i, g> < 0``. The
nearest gradient that raises none of them solves, group by group,

    min ||h - g||^2   subject to   <g_i, h> >= 0 for every reference i,

the quadratic programme of GEM (Lopez-Paz & Ranzato, 2017). Only the component of g in the span of the references
takes part. With ``u = U^T g`` and the references' coordinates ``R`` (columns) its dual is a non-negative least-squares
problem of size k: ``min ||R x + u||`` over ``x >= 0``, and ``h = g + U R x``.
"""

import torch
from scipy.optimize import nnls
from torch import Tensor


def conflict_coefficients(coordinates: Tensor, inner: Tensor) -> Tensor:
    """Find what to remove so that no reference loss rises, exactly.

    Args:
        coordinates: unit-normalised references in the basis, one per column, of shape ``[groups, k, k]``.
        inner: coefficients ``u = U^T g`` of the gradient, of shape ``[groups, k]``.

    Returns:
        Coefficients ``c`` of shape ``[groups, k]``: ``g - U c`` is the nearest gradient in no conflict. Groups with no
        conflict, or with a gradient that is not finite, have zeros.
    """
    target, coordinates = inner.cpu(), coordinates.cpu()
    remove = torch.zeros_like(target)
    conflicting = (torch.einsum("grk,gr->gk", coordinates, target) < 0).any(dim=1) & target.isfinite().all(dim=1)
    for group in conflicting.nonzero().flatten().tolist():
        matrix = coordinates[group].numpy()
        multipliers, _ = nnls(matrix, -target[group].numpy(), maxiter=100 * matrix.shape[1])
        remove[group] = torch.from_numpy(-(matrix @ multipliers))
    return remove.to(inner.device)
