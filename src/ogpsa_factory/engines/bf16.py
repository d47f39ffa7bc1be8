"""DeepSpeed's BF16_Optimizer: ZeRO-1 for bfloat16 weights with gradients that are summed in float32.

Communication: the optimizer's state is partitioned, gradients are not: every rank holds all of them in float32 and
averages them at the end of an accumulation. So the projection of a gradient needs no communication, but the subspace
is whole on every rank too; ZeRO-2 shards both. Weights are partitioned: the projection of a step adds one all-reduce
of ``groups * k`` numbers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch import distributed as dist

from .base import Slot
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

    def slots(self) -> list[Slot | None]:
        """What lies in this rank's part of the float32 weights of each group."""
        return [slot for slot, _ in self._cut()]

    @property
    def weight_offsets(self) -> list[int]:
        """Where in the whole gradient of each parameter the piece of its weight begins."""
        return [offset for _, offset in self._cut()]

    def reduce_weights(self, tensor: Tensor) -> Tensor:
        """Sum over all ranks: each has another part."""
        return self.sum_over_ranks(tensor)

    def _cut(self) -> list[tuple[Slot | None, int]]:
        optimizer = self._optimizer
        found: list[tuple[Slot | None, int]] = [(None, 0)] * len(self.names)
        for number, (part, group) in enumerate(
            zip(optimizer.fp32_groups_flat_partition, optimizer.bf16_groups, strict=True)
        ):
            first, start = dist.get_rank(optimizer.real_dp_process_group[number]) * part.numel(), 0
            for parameter in group:
                begin, end = max(start, first), min(start + parameter.numel(), first + part.numel())
                if begin < end:
                    found[self._index[id(parameter)]] = Slot(part, begin - first, end - begin), begin - start
                start += parameter.numel()
        return found

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
