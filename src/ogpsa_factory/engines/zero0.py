"""DeepSpeed without partitioning: ZeRO-0, in float32 or with its wrapper for bfloat16.

Communication: DeepSpeed averages ``.grad`` over ranks at the end of an accumulation, so every rank holds the whole
reduced gradient and the projection needs no communication at all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from .base import Slot
from .deepspeed import DeepSpeedEngine
from .native import narrowest


class Zero0Engine(DeepSpeedEngine):
    """Gradients are on the model's own parameters.

    Args:
        wrapped: the ``deepspeed.DeepSpeedEngine``.
    """

    label = "DeepSpeed ZeRO-0"
    shards = 1

    def __init__(self, wrapped: Any) -> None:
        super().__init__(wrapped)
        self.sizes = [p.numel() for p in self._parameters]
        self.devices = [p.device for p in self._parameters]
        self.gradient_dtype = narrowest(self._parameters)

    def local_gradients(self) -> list[Tensor | None]:
        """``.grad`` of every trainable parameter. No communication is performed."""
        return [p.grad for p in self._parameters]

    def slots(self) -> list[Slot | None]:
        """The parameters themselves, or their float32 copies: one by one, or laid end to end in each group."""
        optimizer = self._optimizer
        found: list[Slot | None] = [None] * len(self.names)
        if flats := getattr(optimizer, "fp32_groups_flat", None):
            for flat, group in zip(flats, optimizer.fp16_groups, strict=True):
                start = 0
                for parameter in group:
                    found[self._index[id(parameter)]] = Slot(flat, start, parameter.numel())
                    start += parameter.numel()
        elif copies := getattr(optimizer, "fp32_groups", None):
            for members, group in zip(copies, optimizer.fp16_groups, strict=True):
                for copy, parameter in zip(members, group, strict=True):
                    found[self._index[id(parameter)]] = Slot(copy)
        else:
            found = [Slot(p) for p in self._parameters]
        return found

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Take every ``.grad`` off its parameter and put it back at the end."""
        kept = self._drop_model_gradients()
        try:
            yield
        finally:
            self._put_model_gradients(kept)

    def discard(self) -> None:
        """Drop all gradients."""
        self._drop_model_gradients()
