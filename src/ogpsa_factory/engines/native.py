"""PyTorch's own gradients: one process, or DistributedDataParallel.

Communication: DDP averages ``.grad`` over ranks in the last backward pass of an accumulation, so every rank holds the
whole reduced gradient and the projection needs no communication at all.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .base import Engine


class NativeEngine(Engine):
    """Engine for a plain module or one in ``DistributedDataParallel``.

    Args:
        model: the module itself; its names are used.
        wrapped: what the training loop calls: the module, its compiled form or its DDP wrapper.
    """

    replicated = True

    def __init__(self, model: nn.Module, wrapped: nn.Module | None = None) -> None:
        trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._model = model
        self._parameters = [p for _, p in trainable]
        self._no_sync = getattr(wrapped, "no_sync", None)
        self.names = [name for name, _ in trainable]
        self.shapes = [p.shape for p in self._parameters]
        self.device = self._parameters[0].device if trainable else torch.device("cpu")
        dtypes = [p.dtype for p in self._parameters]
        self.gradient_dtype = min(dtypes, key=lambda dtype: dtype.itemsize, default=torch.float32)
        distributed = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if distributed else 0
        self.world_size = dist.get_world_size() if distributed else 1

    def parameters(self) -> Sequence[Tensor]:
        """Whole parameters."""
        return self._parameters

    def local_gradients(self) -> list[Tensor | None]:
        """``.grad`` of every trainable parameter. No communication is performed."""
        return [p.grad for p in self._parameters]

    def backward(self, loss: Tensor) -> None:
        """Back-propagate; the factor undoes DDP's division by the number of ranks."""
        (loss * self.world_size).backward()

    def accumulate(self, last: bool) -> AbstractContextManager[None]:
        """Hold DDP's all-reduce back until the last pass, unless gradients are taken out after each."""
        return nullcontext() if last or self._no_sync is None or self.narrow_gradients else self._no_sync()

    def reduce(self, tensor: Tensor) -> Tensor:
        """Return ``tensor``: gradients are replicated. No communication is performed."""
        return tensor

    def sum_over_ranks(self, tensor: Tensor) -> Tensor:
        """All-reduce ``tensor`` in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def commit(self) -> None:
        """Nothing is derived from ``.grad`` before clipping."""

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Take every ``.grad`` off its parameter and put it back at the end."""
        kept = self.local_gradients()
        self.discard()
        try:
            yield
        finally:
            for parameter, gradient in zip(self._parameters, kept, strict=True):
                parameter.grad = gradient

    def discard(self) -> None:
        """Drop all gradients."""
        self._model.zero_grad(set_to_none=True)
