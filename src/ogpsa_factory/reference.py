"""Reference sets: which rows, in which chunks and batches, and their token-weighted gradient.

The gradient of a chunk is that of the mean loss over all its label tokens on all ranks (sum of token losses divided by
the number of label tokens), whatever the batch size and the number of ranks.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .engines.base import Engine


IGNORE_INDEX = -100
Batch = Mapping[str, Any]


class Rows(Protocol):
    """A tokenised dataset: a sequence of features with ``input_ids`` and ``labels``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


@dataclass
class ReferenceSet:
    """One general-capability reference set, tokenised.

    Attributes:
        name: its name in dataset_info.json.
        rows: tokenised features.
        chunks: indices into ``rows``; each chunk gives one direction.
        tokens: label tokens of each row, after the shift by one that next-token prediction makes.
        lengths: input tokens of each row.
        fingerprint: hash of the token ids and labels of all rows in use.
    """

    name: str
    rows: Rows
    chunks: list[list[int]]
    tokens: list[int] = field(repr=False)
    lengths: list[int] = field(repr=False)
    fingerprint: str

    @property
    def chunk_tokens(self) -> list[int]:
        """Label tokens of every chunk."""
        return [sum(self.tokens[i] for i in chunk) for chunk in self.chunks]


def count_label_tokens(labels: Sequence[int]) -> int:
    """Number of tokens that take part in the loss: the first one has nothing to be predicted from."""
    return sum(label != IGNORE_INDEX for label in labels[1:])


def make_reference_set(name: str, rows: Rows, rank: int) -> ReferenceSet:
    """Measure a tokenised set and split it into chunks of about equal label tokens.

    Args:
        name: its name in dataset_info.json.
        rows: tokenised features with ``input_ids`` and ``labels``.
        rank: number of chunks; fewer are made if fewer rows have label tokens.

    Returns:
        The set. Rows without a label token are in no chunk (their mean loss does not exist).
    """
    digest = hashlib.sha256()
    tokens, lengths = [], []
    for i in range(len(rows)):
        row = rows[i]
        digest.update(np.asarray([len(row["input_ids"]), *row["input_ids"], *row["labels"]], dtype=np.int64).tobytes())
        tokens.append(count_label_tokens(row["labels"]))
        lengths.append(len(row["input_ids"]))
    usable = [i for i, count in enumerate(tokens) if count > 0]
    chunks = [chunk for chunk in _equal_token_chunks(usable, tokens, rank) if chunk]
    return ReferenceSet(name, rows, chunks, tokens, lengths, digest.hexdigest()[:16])


def _equal_token_chunks(rows: list[int], tokens: list[int], count: int) -> list[list[int]]:
    """Deal rows, the largest first, each to the chunk that has the fewest tokens so far."""
    chunks: list[list[int]] = [[] for _ in range(count)]
    totals = [0] * count
    for row in sorted(rows, key=lambda i: -tokens[i]):
        smallest = totals.index(min(totals))
        chunks[smallest].append(row)
        totals[smallest] += tokens[row]
    return chunks


def plan_batches(reference: ReferenceSet, chunk: int, batch_size: int, rank: int, world: int) -> list[list[int]]:
    """Divide one chunk between ranks and into batches.

    Rows are ordered by length, so that little padding is computed, and dealt out in turn. Every rank gets the same
    number of batches, because in distributed training each one is a collective operation; a rank that has fewer rows
    gets empty lists at the end.

    Returns:
        For this rank, lists of row indices.
    """
    ordered = sorted(reference.chunks[chunk], key=lambda i: (-reference.lengths[i], i))
    mine = ordered[rank::world]
    batches = -(-len(ordered[::world]) // batch_size)
    return [mine[i * batch_size : (i + 1) * batch_size] for i in range(batches)]


def collect_gradient(
    engine: Engine,
    reference: ReferenceSet,
    chunk: int,
    batch_size: int,
    mean_loss: Callable[[list[dict[str, Any]]], Tensor],
    progress: Callable[[int], Any] = lambda rows: None,
) -> tuple[list[Tensor | None], float]:
    """Compute the reference gradient of one chunk.

    Args:
        engine: gives the backward pass, the local gradients and the sums over ranks. Its gradient buffers must be
            empty; they hold the result afterwards, until ``engine.discard()``.
        reference: the set.
        chunk: which of its chunks.
        batch_size: rows per device and pass.
        mean_loss: from a list of features to the mean loss over their label tokens, with a graph.
        progress: called with the number of rows done after each batch.

    Returns:
        The local gradients (float32 where the engine's own are narrower) and the mean loss per label token over all
        ranks.
    """
    total = reference.chunk_tokens[chunk]
    batches = plan_batches(reference, chunk, batch_size, engine.rank, engine.world_size)
    spare = reference.chunks[chunk][:1]  # a rank without rows takes part with weight zero
    loss_sum = torch.zeros((), dtype=torch.float64, device=engine.device)
    wide: list[Tensor | None] | None = None
    for number, batch in enumerate(batches):
        weight = sum(reference.tokens[i] for i in batch) / total
        with engine.accumulate(last=number == len(batches) - 1):
            loss = mean_loss([reference.rows[i] for i in batch or spare])
            engine.backward(loss * weight)
        if batch:
            loss_sum += loss.detach().double() * weight
        if engine.narrow_gradients:
            wide = _add(wide, engine.local_gradients())
            engine.discard()
        progress(len(batch))
    gradients = engine.local_gradients() if wide is None else wide
    return gradients, float(engine.sum_over_ranks(loss_sum))


def _add(total: list[Tensor | None] | None, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Accumulate in float32: bfloat16 sums over many batches lose what later batches add."""
    if total is None:
        return [None if g is None else g.detach().float().clone() for g in gradients]
    for i, gradient in enumerate(gradients):
        if gradient is not None:
            mine = total[i]
            total[i] = gradient.detach().float().clone() if mine is None else mine.add_(gradient)
    return total


@contextmanager
def isolated_randomness(seed: int) -> Iterator[None]:
    """Give the block its own random numbers and put every generator back afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
