"""DeepSpeed's BF16_Optimizer: ZeRO-1 for bfloat16 weights with gradients that are summed in float32.

Communication: the optimizer's state is partitioned, gradients are not: every rank holds all of them in float32 and
averages them at the end of an accumulation. So the projection needs no communication, but the subspace is whole on
every rank too; ZeRO-2 shards both.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from .deepspeed import DeepSpeedEngine


class BF16Engine(DeepSpeedEngine):
    """Gradients are in flat buffers of the whole model.

    Args:
        wrapped: the ``deepspeed.DeepSpeedEngine``.
    """

    label = "DeepSpeed BF16_Optimizer"
    shards = 1

    def __init__(self, wrapped: Any) -> None:
        super().__init__(wrapped)
        self.sizes = [p.numel() for p in self._parameters]
        self.devices = [p.device for p in self._parameters]
        self.gradient_dtype = self._optimizer.grad_acc_dtype

    def local_gradients(self) -> list[Tensor | None]:
        """Every parameter's part of the buffers, None where no gradient arrived. No communication is performed."""
        optimizer = self._optimizer
        gradients: list[Tensor | None] = [None] * len(self.names)
        for number, group in enumerate(optimizer.bf16_groups):
            for position, parameter in enumerate(group):
                if optimizer.fp32_groups_has_gradients[number][position]:
                    gradients[self._index[id(parameter)]] = optimizer.fp32_groups_gradients[number][position]
        return gradients

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Copy the buffers if there is something in them: every backward pass adds to the same memory."""
        optimizer = self._optimizer
        if not any(map(any, optimizer.fp32_groups_has_gradients)):
            yield
            return
        arrived = list(optimizer.fp32_groups_has_gradients)
        buffers = [buffer.clone() for buffer in optimizer.fp32_groups_gradients_flat]
        model = self._drop_model_gradients()
        self.discard()
        try:
            yield
        finally:
            self.discard()
            for buffer, kept in zip(optimizer.fp32_groups_gradients_flat, buffers, strict=True):
                buffer.copy_(kept)
            optimizer.fp32_groups_has_gradients[:] = arrived
            self._put_model_gradients(model)

    def discard(self) -> None:
        """Zero the buffers and drop the model's own gradients."""
        self._optimizer.clear_hp_grads()
        self._drop_model_gradients()
