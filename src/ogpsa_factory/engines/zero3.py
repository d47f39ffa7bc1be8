"""DeepSpeed ZeRO-3, with and without offload of the optimizer or the parameters, to host memory or NVMe.

Every parameter is flattened, padded and cut into one equal piece per rank; so is its gradient, whose padding stays
zero. The piece is in ``averaged_gradients``, with optimizer offload a slice of the float32 gradient in host memory,
and on NVMe a file, which is read and written through DeepSpeed's public local API.

Communication: DeepSpeed gathers parameters and scatters gradients as it does in training; the projection adds one
all-reduce of ``groups * (k + 1)`` numbers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .deepspeed import DeepSpeedEngine


class Zero3Engine(DeepSpeedEngine):
    """Gradients are this rank's pieces of every parameter.

    Args:
        wrapped: the ``deepspeed.DeepSpeedEngine``.
    """

    def __init__(self, wrapped: Any) -> None:
        super().__init__(wrapped)
        optimizer = self._optimizer
        self._offload = bool(optimizer.offload_optimizer)
        self._swapped = [i for i in range(len(optimizer.fp16_groups)) if optimizer._swappable_optimizer_subgroup(i)]
        self._handed_out: list[Tensor | None] = []
        place = "NVMe" if optimizer.swap_optimizer else "offload"
        self.label = "DeepSpeed ZeRO-3" + f" with {place}" * self._offload
        self.shards = self.world_size
        self.sizes = [int(p.partition_numel()) for p in self._parameters]
        where = torch.device("cpu") if self._offload and not self._swapped else self.device
        self.devices = [where] * len(self.names)
        self.gradient_dtype = (
            optimizer.master_weights_and_grads_dtype if self._offload else optimizer.gradient_accumulation_dtype
        )

    def local_gradients(self) -> list[Tensor | None]:
        """This rank's pieces. No communication is performed; gradients on NVMe are read, see ``commit``."""
        optimizer = self._optimizer
        gradients: list[Tensor | None] = [None] * len(self.names)
        for number, group in enumerate(optimizer.fp16_groups):
            averaged = optimizer.averaged_gradients.get(number)
            for position, parameter in enumerate(group):
                index = self._index[id(parameter)]
                if number in self._swapped:
                    gradients[index] = optimizer.get_local_fp32_grad_for_param(parameter)
                elif self._offload:
                    _, offset, length = optimizer.grad_position[optimizer.get_param_id(parameter)]
                    gradients[index] = optimizer.fp32_partitioned_groups_flat[number].grad[offset : offset + length]
                elif averaged is not None:
                    gradients[index] = averaged[position]
        self._handed_out = gradients if self._offload else []
        return gradients

    def commit(self) -> None:
        """Write offloaded gradients back through DeepSpeed, which also renews the norms that it clips by."""
        self._put_back(self._handed_out)
        self._handed_out = []

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Copy this rank's gradients, as every backward pass of ZeRO-3 writes to the same memory."""
        optimizer = self._optimizer
        if optimizer.micro_step_id == 0 and not optimizer._epilogue_ran_this_backward:
            yield
            return
        averaged, flat = optimizer.averaged_gradients, optimizer.grad_partitions_flat_buffer.clone()
        counted = optimizer.micro_step_id, optimizer._epilogue_ran_this_backward, optimizer._offload_boundary_param_ids
        host = [None if g is None else g.clone() for g in self.local_gradients()] if self._offload else []
        norms = optimizer.norm_for_param_grads if self._offload else {}
        self.discard()
        try:
            yield
        finally:
            self.discard()
            optimizer.averaged_gradients = averaged
            optimizer.grad_partitions_flat_buffer.copy_(flat)
            optimizer.micro_step_id, optimizer._epilogue_ran_this_backward, active = counted
            optimizer._offload_boundary_param_ids = active
            if self._offload:
                self._put_back(host)
                optimizer.norm_for_param_grads = norms

    def _put_back(self, gradients: list[Tensor | None]) -> None:
        for parameter, gradient in zip(self._parameters, gradients, strict=False):
            if gradient is not None:
                self._optimizer.set_local_grad_for_param(gradient, parameter)

    def discard(self) -> None:
        """Drop all gradients, and the micro-step that the backward pass counted."""
        optimizer = self._optimizer
        optimizer.zero_grad(set_to_none=True)  # also the micro-step
        optimizer.grad_partitions_flat_buffer.zero_()
        optimizer.averaged_gradients = {}
        optimizer._offload_boundary_param_ids = set()
        self._handed_out = []
        if self._offload:
            optimizer.reset_cpu_buffers()
            for number, part in enumerate(optimizer.fp32_partitioned_groups_flat):
                if number not in self._swapped:
                    part.grad.zero_()
