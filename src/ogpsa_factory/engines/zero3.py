"""DeepSpeed ZeRO-3, with and without offload of the optimizer or the parameters, to host memory or NVMe.

Every parameter is flattened, padded and cut into one equal piece per rank; so is its gradient, whose padding stays
zero. The piece is in ``averaged_gradients``, or with optimizer offload a slice of the float32 gradient in host memory.
On NVMe that gradient is a file, with parameters and optimizer state beside it. DeepSpeed's public local API would read
all of them once for every parameter; here a sub-group is read once, and once more when its gradient is written back.

Communication: DeepSpeed gathers parameters and scatters gradients as it does in training; the projection adds one
all-reduce of ``groups * (k + 1)`` numbers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .base import Slot
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
        self._flats: list[Tensor | None] = []  # what `local_gradients` has cut last
        place = "NVMe" if optimizer.swap_optimizer else "offload"
        self.label = "DeepSpeed ZeRO-3" + f" with {place}" * self._offload
        self.shards = self.world_size
        self.sizes = [int(p.partition_numel()) for p in self._parameters]
        self.devices = [torch.device("cpu") if self._offload else self.device] * len(self.names)
        self.gradient_dtype = (
            optimizer.master_weights_and_grads_dtype if self._offload else optimizer.gradient_accumulation_dtype
        )

    def local_gradients(self) -> list[Tensor | None]:
        """This rank's pieces. No communication is performed; what is on NVMe is a copy until ``commit``."""
        if self._offload:
            self._flats = self._read()
            return self._cut(self._flats)
        gradients: list[Tensor | None] = [None] * len(self.names)
        for number, group in enumerate(self._optimizer.fp16_groups):
            averaged = self._optimizer.averaged_gradients.get(number)
            if averaged is not None:
                for parameter, gradient in zip(group, averaged, strict=True):
                    gradients[self._index[id(parameter)]] = gradient
        return gradients

    def commit(self) -> None:
        """Write to NVMe what belongs there, and renew the norms that DeepSpeed clips offloaded gradients by."""
        if not self._flats:
            return
        optimizer = self._optimizer
        self._write(self._flats)
        for parameter, gradient in zip(self._parameters, self._cut(self._flats), strict=True):
            key = optimizer.get_param_id(parameter)
            if gradient is not None and key in optimizer.norm_for_param_grads:
                optimizer.norm_for_param_grads[key] = optimizer._constant_buffered_norm2(gradient)
        self._flats = []

    def _cut(self, flats: list[Tensor | None]) -> list[Tensor | None]:
        """Every parameter's piece of its sub-group's flat gradient, as a view."""
        pieces: list[Tensor | None] = []
        for parameter in self._parameters:
            number, start, length = self._optimizer.grad_position[self._optimizer.get_param_id(parameter)]
            flat = flats[number]
            pieces.append(None if flat is None else flat[start : start + length])
        return pieces

    def _read(self) -> list[Tensor | None]:
        """The float32 gradient of every sub-group, None where there is none: DeepSpeed's own, or a copy from NVMe."""
        flats: list[Tensor | None] = []
        for number, part in enumerate(self._optimizer.fp32_partitioned_groups_flat):
            if number in self._swapped:
                self._optimizer._optimizer_states_and_gradient_swap_in(number)
                flats.append(None if part.grad is None else part.grad.clone())
                self._optimizer._release_swap_buffers(number)
            else:
                flats.append(part.grad)
        return flats

    def _write(self, flats: list[Tensor | None]) -> None:
        """Put the gradients of sub-groups where DeepSpeed looks for them."""
        for number, flat in enumerate(flats):
            part = self._optimizer.fp32_partitioned_groups_flat[number]
            if flat is not None and number in self._swapped:
                self._optimizer._optimizer_states_and_gradient_swap_in(number)
                part.grad.copy_(flat)
                self._optimizer._writeback_swap_state(number, write_opt_state=False, write_gradients=True)
            elif flat is not None and flat is not part.grad:
                part.grad.copy_(flat)

    def slots(self) -> list[Slot | None]:
        """This rank's pieces in the float32 weights of each sub-group."""
        optimizer = self._optimizer
        found: list[Slot | None] = []
        for parameter in self._parameters:
            number, start, length = optimizer.grad_position[optimizer.get_param_id(parameter)]
            found.append(Slot(optimizer.fp32_partitioned_groups_flat[number], start, length))
        return found

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See the contract; DeepSpeed puts a sub-group into its group for the time of its step only."""
        optimizer = self._optimizer
        numbers = (optimizer.grad_position[optimizer.get_param_id(p)][0] for p in self._parameters)
        return [self.optimizer.param_groups[optimizer.sub_group_to_group_id[number]] for number in numbers]

    def around_step(self, optimizer: Any, before: Callable[[], None], after: Callable[[], None]) -> bool:
        """See the contract; False with NVMe, where each sub-group is put away before the next one is stepped."""
        if self._swapped:
            return False
        return self._around_groups(len(self._optimizer.fp16_groups), before, after)

    def commit_weights(self) -> None:
        """Copy each sub-group to the model's weights once more; of the last one DeepSpeed does it."""
        for number in range(len(self._optimizer.fp16_groups) - 1):
            self._optimizer._reassign_or_swap_out_partitioned_parameters(number)

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Copy this rank's gradients, as every backward pass of ZeRO-3 writes to the same memory."""
        optimizer = self._optimizer
        if optimizer.micro_step_id == 0 and not optimizer._epilogue_ran_this_backward:
            yield
            return
        averaged, flat = optimizer.averaged_gradients, optimizer.grad_partitions_flat_buffer.clone()
        counted = optimizer.micro_step_id, optimizer._epilogue_ran_this_backward, optimizer._offload_boundary_param_ids
        host = [None if part is None else part.clone() for part in self._read()] if self._offload else []
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
                self._write(host)
                optimizer.norm_for_param_grads = norms

    def discard(self) -> None:
        """Drop all gradients, and the micro-step that the backward pass counted.

        What is on NVMe stays until the next backward pass overwrites it, as it does after a step.
        """
        optimizer = self._optimizer
        optimizer.zero_grad(set_to_none=True)  # also the micro-step
        optimizer.grad_partitions_flat_buffer.zero_()
        optimizer.averaged_gradients = {}
        optimizer._offload_boundary_param_ids = set()
        self._flats = []
        if self._offload:
            optimizer.reset_cpu_buffers()
            for number, part in enumerate(optimizer.fp32_partitioned_groups_flat):
                if number not in self._swapped:
                    part.grad.zero_()
