"""Linear algebra of small dense matrices, a batch of one per group, in float64."""

import torch
from torch import Tensor


def whiten(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Find the inverse square root of positive semidefinite matrices, and the square root, on their range.

    Args:
        gram: of shape ``[groups, k, k]``, float64.

    Returns:
        ``W`` with ``W gram W^T = I`` on the range, so that ``W^T W`` is the pseudo-inverse, and ``R`` with
        ``R^T R = gram``; of shape ``[groups, k, k]``, on the CPU. Both are zero for matrices that are not finite.
    """
    gram = gram.cpu()
    gram = torch.where(gram.isfinite().all(dim=2).all(dim=1)[:, None, None], gram, 0.0)
    values, vectors = torch.linalg.eigh(gram)
    floor = values[:, -1:].clamp_min(0) * (gram.shape[-1] * 4 * torch.finfo(torch.float64).eps)
    keep = values > floor
    root = torch.where(keep, values, 0.0).sqrt()
    inverse = torch.where(keep, values, 1.0).rsqrt() * keep
    return inverse[:, :, None] * vectors.mT, root[:, :, None] * vectors.mT


def orthonormalise(gram: Tensor, tolerance: float, energy: float) -> tuple[Tensor, Tensor, Tensor]:
    """Find the matrices that turn reference gradients into an orthonormal basis, all groups in one batch.

    Args:
        gram: of shape ``[groups, k, k]``, float64.
        tolerance: relative singular value at or below which a direction is dropped.
        energy: share of the squared norm to keep.

    Returns:
        ``transform`` with ``U = transform @ G`` (rows), ``coordinates`` of the unit-normalised references in ``U``
        (columns), both of shape ``[groups, k, k]``, and the references' ``norms`` of shape ``[groups, k]``.
    """
    norms = gram.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    inverse = torch.where(norms > 0, 1 / norms, 0.0)
    values, vectors = torch.linalg.eigh(gram * inverse[:, :, None] * inverse[:, None, :])
    values, vectors = values.flip(-1).clamp_min(0), vectors.flip(-1)
    explained_before = values.cumsum(-1) - values
    floor = max(tolerance**2, gram.shape[-1] * torch.finfo(torch.float64).eps)  # below it, eigenvalues are rounding
    keep = (values > floor * values[:, :1]) & (explained_before < energy * values.sum(-1, keepdim=True))
    root = torch.where(keep, values, 0.0).sqrt()
    inverse_root = torch.where(keep, values, 1.0).rsqrt() * keep
    transform = inverse_root[:, :, None] * vectors.mT * inverse[:, None, :]
    return transform, root[:, :, None] * vectors.mT, norms
