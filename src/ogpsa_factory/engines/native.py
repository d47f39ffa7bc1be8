"""PyTorch's own gradients: one process, or DistributedDataParallel.

Communication: DDP averages ``.grad`` over ranks in the last backward pass of an accumulation, so every rank holds the
whole reduced gradient and the projection needs no communication at all.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .base import Engine, Slot


class NativeEngine(Engine):
    """Engine for a plain module or one in ``DistributedDataParallel``.

    Args:
        model: the module itself; its names are used.
        wrapped: what the training loop calls: the module, its compiled form or its DDP wrapper.
        scaler: the ``GradScaler`` that the training loop scales fp16 losses with, if any.
    """

    shards = 1

    def __init__(self, model: nn.Module, wrapped: nn.Module | None = None, scaler: Any = None) -> None:
        super().__init__(scaler)
        trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._model = model
        self._parameters = [p for _, p in trainable]
        self._no_sync = getattr(wrapped, "no_sync", None)
        self.label = "DDP" if self._no_sync else "one process"
        self.names = [name for name, _ in trainable]
        self.sizes = [p.numel() for p in self._parameters]
        self.devices = [p.device for p in self._parameters]
        self.device = self.devices[0] if trainable else torch.device("cpu")
        self.gradient_dtype = narrowest(self._parameters)
        self.accumulates = self.gradient_dtype.itemsize >= 4

    def local_gradients(self) -> list[Tensor | None]:
        """``.grad`` of every trainable parameter. No communication is performed."""
        return [p.grad for p in self._parameters]

    def slots(self) -> list[Slot | None]:
        """The parameters themselves, whole on every rank."""
        return [Slot(p) for p in self._parameters]

    def backward(self, loss: Tensor) -> None:
        """Back-propagate; the factor undoes DDP's division by the number of ranks."""
        (loss * (self.world_size * self.reference_scale)).backward()

    def accumulate(self, last: bool) -> AbstractContextManager[None]:
        """Hold DDP's all-reduce back until the last pass, unless gradients are taken out after each."""
        return nullcontext() if last or self._no_sync is None or not self.accumulates else self._no_sync()

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


def narrowest(tensors: list[Any]) -> torch.dtype:
    """Dtype of the fewest bytes among ``tensors``; float32 if there are none."""
    return min((t.dtype for t in tensors), key=lambda dtype: dtype.itemsize, default=torch.float32)
