"""Linear algebra of the subspace: small dense matrices in float64, long vectors piece by piece in float32.

No temporary is larger than k rows of a piece, and sums over pieces are kept in float64, so that narrow gradients lose
nothing but their own precision.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .kernels import Kernels, Scale
from .storage import PIECE


def add_gram(gram: Tensor, rows: Tensor) -> None:
    """Add ``rows rows^T`` to ``gram``.

    Args:
        gram: of shape ``[k, k]``, float64, on the CPU; changed in place.
        rows: of shape ``[k, n]``, any floating dtype and device.
    """
    for piece in rows.split(PIECE, dim=1):
        wide = piece.double()
        gram += (wide @ wide.T).cpu()


def mix_rows(rows: Tensor, mix: Tensor) -> None:
    """Replace ``rows`` by ``mix @ rows``, in place, rounding once.

    Args:
        rows: of shape ``[k, n]``.
        mix: of shape ``[k, k]``, float64.
    """
    for piece in rows.split(PIECE, dim=1):
        piece.copy_(mix @ piece.double())


def add_inner_products(
    sums: Tensor, squared: Tensor, rows: Iterator[Tensor] | None, vector: Tensor, kernels: Kernels
) -> None:
    """Add ``rows @ vector`` to ``sums`` and the squared norm of ``vector`` to ``squared``.

    Args:
        sums: of shape ``[k]``, float64; changed in place.
        squared: scalar, float64; changed in place.
        rows: pieces of a matrix of shape ``[k, n]`` on the vector's device, from :func:`row_pieces`, or None for no
            rows.
        vector: ``n`` numbers in any shape and dtype.
        kernels: what computes a piece.
    """
    for _, part, piece in _pieces(vector, rows):
        inner, norm = kernels.inner(piece, part)
        squared += norm
        if inner is not None:
            sums += inner


def add_exact_inner_products(
    sums: Tensor, rows: Iterator[Tensor], vector: Tensor, scale: Scale | None, kernels: Kernels
) -> None:
    """Add ``rows diag(scale) vector`` to ``sums``, in float64 throughout: for figures that are nearly equal.

    Args:
        sums: of shape ``[k]``, float64; changed in place.
        rows: pieces of a matrix of shape ``[k, n]`` on the vector's device, from :func:`row_pieces`.
        vector: ``n`` numbers in any shape and dtype.
        scale: gives elements of the diagonal; None for ones.
        kernels: what computes a piece.
    """
    for start, part, piece in _pieces(vector, rows):
        if piece is not None:
            sums += kernels.exact_inner(piece, part, scale, start)


def add_scaled_gram(gram: Tensor, rows: Iterator[Tensor], scale: Scale | None, size: int, kernels: Kernels) -> None:
    """Add ``rows diag(scale) rows^T`` to ``gram``.

    Args:
        gram: of shape ``[k, k]``, float64; changed in place.
        rows: pieces of a matrix of shape ``[k, n]``, from :func:`row_pieces`.
        scale: gives elements of the diagonal, float32; None for ones.
        size: ``n``.
        kernels: what computes a piece.
    """
    start = 0
    while start < size:
        piece = next(rows)
        gram += kernels.gram(piece, scale, start)
        start += piece.shape[1]


def subtract_rows(
    vector: Tensor, rows: Iterator[Tensor], coefficients: Tensor, scale: Scale | None, kernels: Kernels
) -> None:
    """``vector -= scale * rows^T coefficients`` in place.

    Args:
        vector: ``n`` numbers in any shape and dtype.
        rows: pieces of a matrix of shape ``[k, n]`` on the vector's device, from :func:`row_pieces`.
        coefficients: of shape ``[k]``.
        scale: gives elements of the factor; None for one.
        kernels: what computes a piece.
    """
    flat = vector.detach().reshape(-1)  # a copy where the vector is not contiguous
    weights = coefficients.to(vector.device, torch.float32)
    for start, part, piece in _pieces(flat, rows):
        if piece is not None:
            kernels.subtract_(part, piece, weights, scale, start)
    if flat.data_ptr() != vector.data_ptr():
        vector.copy_(flat.view_as(vector))


def _pieces(vector: Tensor, rows: Iterator[Tensor] | None) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """First element, the vector's part and the rows' piece, as long as the rows come; by ``PIECE`` without rows."""
    flat, start = vector.detach().reshape(-1), 0
    while start < flat.numel():
        piece = None if rows is None else next(rows)
        end = start + (PIECE if piece is None else piece.shape[1])
        yield start, flat[start:end], piece
        start = end


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
