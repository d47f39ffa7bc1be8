"""Reference sets: which rows, in which chunks and batches, and their gradient.

The gradient of a chunk is that of the mean loss over all its label tokens on all ranks (sum of token losses divided by
the number of label tokens), whatever the batch size and the number of ranks. With a loss on pairs it is the mean over
pairs; with ``average="batch"`` the mean of the batches' means, which is what the authors' released code computes.
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
from torch.utils.data.distributed import DistributedSampler

from .engines.base import Engine


IGNORE_INDEX = -100
_PADDED_TO = 8  # collators fill up sequences to a multiple of this
Batch = Mapping[str, Any]


class Rows(Protocol):
    """A tokenised dataset: a sequence of features, see :func:`answers`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


@dataclass
class ReferenceSet:
    """One general-capability reference set, tokenised.

    Attributes:
        name: its name in dataset_info.json.
        rows: tokenised features.
        chunks: indices into ``rows``, in order; each chunk gives one direction.
        weights: what each row counts for in the mean: its label tokens (after the shift by one that next-token
            prediction makes), or 1 for a pair under a loss on pairs.
        lengths: input tokens of each row's longest sequence.
        label_tokens: label tokens of all rows in use.
        fingerprint: hash of the token ids and labels of all rows in use.
        average: ``token`` or ``batch``, see above.
        sequences: in each row.
    """

    name: str
    rows: Rows
    chunks: list[list[int]]
    weights: list[int] = field(repr=False)
    lengths: list[int] = field(repr=False)
    label_tokens: int
    fingerprint: str
    average: str = "token"
    sequences: int = 1

    @property
    def chunk_weights(self) -> list[int]:
        """What every chunk counts for in the set's mean."""
        return [sum(self.weights[i] for i in chunk) for chunk in self.chunks]


def answers(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the sequences of a row: the one it is, or the chosen and the rejected one of a pair.

    Args:
        row: a feature with ``input_ids``, ``attention_mask`` and ``labels``, or with these three after ``chosen_`` and
            ``rejected_``; what else it holds (images) belongs to both.
    """
    if "chosen_input_ids" not in row:
        return [dict(row)]
    shared = {key: value for key, value in row.items() if not key.startswith(("chosen_", "rejected_"))}
    return [
        {**shared, **{key: row[f"{kind}_{key}"] for key in ("input_ids", "attention_mask", "labels")}}
        for kind in ("chosen", "rejected")
    ]


def count_label_tokens(labels: Sequence[int]) -> int:
    """Number of tokens that take part in the loss: the first one has nothing to be predicted from."""
    return sum(label != IGNORE_INDEX for label in labels[1:])


def make_reference_set(name: str, rows: Rows, rank: int, *, loss: str = "sft", average: str = "token") -> ReferenceSet:
    """Measure a tokenised set and split it into chunks of about equal weight.

    Args:
        name: its name in dataset_info.json.
        rows: tokenised features, see :func:`answers`.
        rank: number of chunks; fewer are made if fewer rows have label tokens.
        loss: ``preference`` makes every pair count the same, otherwise label tokens do.
        average: ``token`` or ``batch``.

    Returns:
        The set. Rows with a sequence without label tokens are in no chunk: its mean loss does not exist.
    """
    digest = hashlib.sha256()
    tokens, lengths, most = [], [], 1
    for i in range(len(rows)):
        sequences = answers(rows[i])
        most = max(most, len(sequences))
        counts = [count_label_tokens(sequence["labels"]) for sequence in sequences]
        for each in sequences:
            numbers = [len(each["input_ids"]), *each["input_ids"], *each["labels"]]
            digest.update(np.asarray(numbers, dtype=np.int64).tobytes())
        tokens.append(sum(counts) if min(counts) else 0)
        lengths.append(max(len(sequence["input_ids"]) for sequence in sequences))
    usable = [i for i, count in enumerate(tokens) if count > 0]
    weights = [int(count > 0) for count in tokens] if loss == "preference" else tokens
    chunks = [sorted(chunk) for chunk in _equal_chunks(usable, weights, rank) if chunk]
    fingerprint = digest.hexdigest()[:16]
    return ReferenceSet(name, rows, chunks, weights, lengths, sum(tokens), fingerprint, average, most)


def _equal_chunks(rows: list[int], weights: list[int], count: int) -> list[list[int]]:
    """Deal rows, the heaviest first, each to the chunk that is the lightest so far."""
    chunks: list[list[int]] = [[] for _ in range(count)]
    totals = [0] * count
    for row in sorted(rows, key=lambda i: -weights[i]):
        lightest = totals.index(min(totals))
        chunks[lightest].append(row)
        totals[lightest] += weights[row]
    return chunks


@dataclass(frozen=True)
class BatchSize:
    """How much one reference pass takes, on each rank.

    Attributes:
        rows: so many rows; or, if ``tokens`` are given,
        tokens: at most so many rows, or more if they, padded to the longest, are no more tokens than this.
        overhead: tokens that take as long as a pass takes besides its tokens: with many, fewer passes are made, with
            few, less is padded.
    """

    rows: int
    tokens: int = 0
    overhead: int = 0


def plan_batches(reference: ReferenceSet, chunk: int, size: BatchSize, rank: int, world: int) -> list[list[int]]:
    """Divide one chunk between ranks and into batches.

    Rows are ordered by length, so that little padding is computed, and dealt out in turn. Every rank gets the same
    number of batches, because in distributed training each one is a collective operation; a rank that has fewer rows
    gets empty lists at the end. With ``average="batch"`` the rows of a batch matter: they are those of PyTorch's
    ``DistributedSampler`` with its default seed, as in the released code; it repeats rows to fill up the last round.

    Args:
        reference: the set.
        chunk: which of its chunks.
        size: of the batches; with ``average="batch"`` only its rows count.
        rank: this rank.
        world: number of ranks.

    Returns:
        For this rank, lists of row indices.
    """
    if reference.average == "batch":
        rows = reference.chunks[chunk]
        order: Iterator[int] = iter(DistributedSampler(rows, num_replicas=world, rank=rank))  # type: ignore[arg-type]
        mine = [rows[i] for i in order]
        return [mine[i : i + size.rows] for i in range(0, len(mine), size.rows)]
    ordered = sorted(reference.chunks[chunk], key=lambda i: (-reference.lengths[i], i))
    tokens = [reference.sequences * -(-reference.lengths[i] // _PADDED_TO) * _PADDED_TO for i in ordered]
    batches, start = [], 0
    for count in _cut(tokens, size, world):
        batches.append(ordered[start : start + count * world][rank::world])
        start += count * world
    return batches


def _cut(tokens: list[int], size: BatchSize, world: int) -> list[int]:
    """Find how many rows per rank to take at a time, from the longest row on, so that it takes the least time."""
    if not size.tokens:
        return [size.rows] * -(-len(tokens) // (size.rows * world))
    # By dynamic programming: the least cost of all rows from one on, and how many of them to take first.
    best = [(0, 0)] * (len(tokens) + 1)
    for start in reversed(range(len(tokens))):
        most = min(max(size.rows, size.tokens // tokens[start]), -(-(len(tokens) - start) // world))
        best[start] = min(
            (size.overhead + rows * tokens[start] + best[min(start + rows * world, len(tokens))][0], rows)
            for rows in range(1, most + 1)
        )
    cuts: list[int] = []
    while sum(cuts) * world < len(tokens):
        cuts.append(best[sum(cuts) * world][1])
    return cuts


def collect_gradient(
    engine: Engine,
    reference: ReferenceSet,
    chunk: int,
    size: BatchSize,
    mean_loss: Callable[[list[dict[str, Any]]], Tensor],
    progress: Callable[[int], Any] = lambda rows: None,
) -> tuple[list[Tensor | None], float]:
    """Compute the reference gradient of one chunk.

    Args:
        engine: gives the backward pass, the local gradients and the sums over ranks. Its gradient buffers must be
            empty; they hold the result afterwards, until ``engine.discard()``.
        reference: the set.
        chunk: which of its chunks.
        size: what one pass takes on each device.
        mean_loss: from a list of features to the mean loss over their label tokens (or pairs), with a graph.
        progress: called with the number of rows done after each batch.

    Returns:
        The local gradients (summed in float32 where the engine's buffers cannot) and the chunk's mean loss over
        all ranks.
    """
    batches = plan_batches(reference, chunk, size, engine.rank, engine.world_size)
    spare = reference.chunks[chunk][:1]  # a rank without rows takes part with weight zero
    loss_sum = torch.zeros((), dtype=torch.float64, device=engine.device)
    wide: list[Tensor | None] | None = None
    for number, batch in enumerate(batches):
        if reference.average == "batch":
            weight = 1 / (len(batches) * engine.world_size)
        else:
            weight = sum(reference.weights[i] for i in batch) / reference.chunk_weights[chunk]
        with engine.accumulate(last=number == len(batches) - 1):
            loss = mean_loss([reference.rows[i] for i in batch or spare])
            engine.backward(loss * weight)
        if batch:
            loss_sum += loss.detach().double() * weight
        if not engine.accumulates:
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
