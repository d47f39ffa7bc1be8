"""Where a basis is kept: beside the gradients, or in host memory, from where it is brought over piece by piece."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


PIECE = 1 << 20  # elements; short enough for float32 sums within a piece to be accurate


def storage_dtype(gradients: torch.dtype, device: torch.device) -> torch.dtype:
    """In which dtype a basis is kept if nothing else is said.

    Args:
        gradients: narrowest dtype of the gradients.
        device: where the model is trained.

    Returns:
        bfloat16 on a GPU, where memory is scarce, and for gradients of 16 bits, as float16 has too small a range. Else
        the gradients' own.
    """
    return torch.bfloat16 if device.type == "cuda" or gradients.itemsize < 4 else gradients


def allocate(shape: Sequence[int], dtype: torch.dtype, device: torch.device, offload: bool) -> Tensor:
    """Make room for a basis of gradients on ``device``: zeros there or, with ``offload``, in (pinned) host memory."""
    if not offload:
        return torch.zeros(*shape, dtype=dtype, device=device)
    return torch.zeros(*shape, dtype=dtype, pin_memory=device.type == "cuda")


def copy_row(
    matrices: list[Tensor | None],
    row: int,
    rows: int,
    vectors: Sequence[Tensor | None],
    dtype: torch.dtype | None,
    offload: bool,
) -> torch.device | None:
    """Copy one vector per matrix into a row of it; a function of its own, so that no variable keeps a vector alive.

    Args:
        matrices: of shape ``[rows, n]`` each, None until the first vector arrives; changed in place.
        row: which row.
        rows: how many rows a matrix gets.
        vectors: ``n`` numbers in any shape each, or None to leave the row as it is.
        dtype: of new matrices; None for the vector's own.
        offload: whether new matrices go to host memory.

    Returns:
        Where the vectors are; None if there are none.
    """
    device = None
    for i, vector in enumerate(vectors):
        if vector is not None:
            matrix, device = matrices[i], vector.device
            if matrix is None:
                matrix = matrices[i] = allocate((rows, vector.numel()), dtype or vector.dtype, device, offload)
            matrix[row].copy_(vector.detach().reshape(-1))
    return device


def row_pieces(matrices: Sequence[Tensor], device: torch.device, length: int) -> Iterator[Tensor]:
    """Cut matrices into pieces of ``length`` columns.

    Args:
        matrices: each of shape ``[k, n]``, on ``device`` or on the host.
        device: where the pieces are wanted.
        length: see above; at most ``PIECE`` where they have to be brought over.

    Returns:
        All pieces of the first matrix, then of the second, and so on. A piece may be overwritten once the next one has
        been asked for.
    """
    away = any(m.device != device for m in matrices)
    cut = ((m, start) for m in matrices for start in range(0, m.shape[1], length))
    pieces = (m if m.shape[1] <= length else m[:, start : start + length] for m, start in cut)  # slices take time too
    if device.type == "cuda" and away:
        return _copied_ahead(pieces, max(m.shape[0] for m in matrices), matrices[0].dtype, device)
    return (piece.to(device) for piece in pieces)


def _copied_ahead(pieces: Iterator[Tensor], rows: int, dtype: torch.dtype, device: torch.device) -> Iterator[Tensor]:
    """Copy on a stream of its own into two buffers in turn; streams wait for each other, the host waits for none."""
    user, copier = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    buffers = [torch.empty(rows, PIECE, dtype=dtype, device=device) for _ in range(2)]
    copier.wait_stream(user)
    released: list[torch.cuda.Event | None] = [None, None]
    waiting: tuple[int, Tensor, torch.cuda.Event] | None = None
    number = 0
    while True:
        piece = next(pieces, None)
        ahead = None
        if piece is not None:
            slot = number % 2
            target = buffers[slot][: piece.shape[0], : piece.shape[1]]
            with torch.cuda.stream(copier):
                if (event := released[slot]) is not None:
                    copier.wait_event(event)
                for row, source in zip(target, piece, strict=True):  # contiguous each, hence copied without a detour
                    row.copy_(source, non_blocking=True)
                ahead = slot, target, copier.record_event()
        if waiting is not None:
            slot, ready, copied = waiting
            user.wait_event(copied)
            yield ready
            released[slot] = user.record_event()
        if ahead is None:
            return
        waiting, number = ahead, number + 1
