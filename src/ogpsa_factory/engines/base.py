"""The contract between the method and whatever runs the backward pass.

An engine knows where gradients are and how ranks communicate; it knows nothing of subspaces. Two promises carry the
design and are tested on every engine: collecting gradients and discarding them leaves training bit-identical, and
``reduce`` of per-element sums over ``local_gradients`` gives the same figure on every rank.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor


class Engine(ABC):
    """Access to one training engine's gradients.

    Attributes:
        names: qualified name of the parameter behind each local gradient.
        shapes: shape of each local gradient (of this rank's shard, where gradients are sharded).
        rank: data-parallel rank of this process.
        world_size: number of data-parallel processes.
        device: where gradients are.
        replicated: whether every rank holds the whole gradient.
        gradient_dtype: dtype of the gradients, the narrowest if there are several.
    """

    names: list[str]
    shapes: list[torch.Size]
    rank: int
    world_size: int
    device: torch.device
    replicated: bool
    gradient_dtype: torch.dtype

    @property
    def narrow_gradients(self) -> bool:
        """Whether gradients have less than float32 precision, too little to sum many batches in."""
        return self.gradient_dtype.itemsize < 4

    @abstractmethod
    def parameters(self) -> Sequence[Tensor]:
        """This rank's trainable parameters or shards, in the order of ``names``."""

    @abstractmethod
    def local_gradients(self) -> list[Tensor | None]:
        """This rank's reduced gradients, the tensors that the optimizer will read, in the order of ``names``."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Back-propagate; gradients become the *sum* over ranks of their losses' gradients."""

    @abstractmethod
    def accumulate(self, last: bool) -> AbstractContextManager[None]:
        """Context of one forward and backward pass; ranks need to be reduced only after the ``last`` one."""

    @abstractmethod
    def reduce(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks that hold different shards; the identity where gradients are replicated."""

    @abstractmethod
    def sum_over_ranks(self, tensor: Tensor) -> Tensor:
        """Sum over all data-parallel ranks."""

    @abstractmethod
    def commit(self) -> None:
        """Tell the engine that its gradients were changed, so that figures it derived from them are renewed."""

    @abstractmethod
    def set_aside(self) -> AbstractContextManager[None]:
        """Context that starts with empty gradient buffers and gives back what was in them.

        A trainer may begin a step with gradients left over: transformers does so after the last, partial accumulation
        of a streamed epoch.
        """

    @abstractmethod
    def discard(self) -> None:
        """Put the engine back into the state it has before the first backward pass of a step."""
