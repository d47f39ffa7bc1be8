"""DeepSpeed ZeRO-1 and ZeRO-2, with and without optimizer offload.

DeepSpeed lays the parameters of each optimizer group end to end and cuts the result into one part per rank, so a rank
holds whole parameters and at most two pieces of cut ones. A parameter's gradient is here the piece that lies in this
rank's part: ``averaged_gradients``, or with offload a slice of the float32 gradient in host memory.

Communication: DeepSpeed reduces gradients as it does in training; the projection adds one all-reduce of
``groups * (k + 1)`` numbers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .base import Slot
from .deepspeed import DeepSpeedEngine


class Zero12Engine(DeepSpeedEngine):
    """Gradients are in this rank's part of each flat optimizer group.

    Args:
        wrapped: the ``deepspeed.DeepSpeedEngine``.
    """

    def __init__(self, wrapped: Any) -> None:
        super().__init__(wrapped)
        optimizer = self._optimizer
        self._offload = bool(optimizer.cpu_offload)
        self._pristine = optimizer.micro_step_id
        self._layout = [self._cut(group) for group in range(len(optimizer.params_in_partition))]
        self.label = f"DeepSpeed ZeRO-{2 if optimizer.partition_gradients else 1}" + " with offload" * self._offload
        self.shards = self.world_size
        self.sizes = [0] * len(self.names)
        for pieces in self._layout:
            for index, _, length in pieces:
                self.sizes[index] = length
        self.devices = [torch.device("cpu") if self._offload else self.device] * len(self.names)
        self.gradient_dtype = (
            optimizer.master_weights_and_grads_dtype if self._offload else optimizer.gradient_accumulation_dtype
        )

    def _cut(self, group: int) -> list[tuple[int, int, int]]:
        """Which parameters lie in this rank's part of a group: their index, offset in the part, and length there."""
        optimizer = self._optimizer
        part = torch.distributed.get_rank(optimizer.real_dp_process_group[group])
        starts = optimizer.grad_start_offset[group][part]
        offsets = optimizer.grad_partition_insertion_offset[group][part]
        pieces = []
        for parameter in optimizer.params_in_partition[group]:
            key = optimizer.get_param_id(parameter)
            offset = int(offsets[key])
            length = min(parameter.numel() - int(starts[key]), int(optimizer.partition_size[group]) - offset)
            pieces.append((self._index[id(parameter)], offset, length))
        return pieces

    def local_gradients(self) -> list[Tensor | None]:
        """The pieces in this rank's part. No communication is performed."""
        optimizer = self._optimizer
        gradients: list[Tensor | None] = [None] * len(self.names)
        if self._offload:
            optimizer._wait_for_offload_copies()  # into pinned memory, which otherwise `step` waits for
        for group, pieces in enumerate(self._layout):
            if self._offload:
                flat = optimizer.single_partition_of_fp32_groups[group].grad.view(-1)
                for index, offset, length in pieces:
                    gradients[index] = flat[offset : offset + length]
                continue
            averaged = optimizer.averaged_gradients.get(group) or ()
            # Padding between parameters is marked; padding behind the last one is cut off by the shorter list.
            real = [tensor for tensor in averaged if not getattr(tensor, "_zero_padding", False)]
            for (index, _, _), tensor in zip(pieces, real, strict=False):
                gradients[index] = tensor
        return gradients

    def commit(self) -> None:
        """Renew the norms which DeepSpeed has noted during an offloaded backward pass and clips by."""
        if not self._offload:
            return
        norms = self._optimizer.norm_for_param_grads
        for parameter, gradient in zip(self._parameters, self.local_gradients(), strict=True):
            key = self._optimizer.get_param_id(parameter)
            if gradient is not None and key in norms:
                norms[key] = gradient.double().norm()

    def slots(self) -> list[Slot | None]:
        """The pieces in this rank's part of the float32 weights of each group."""
        found: list[Slot | None] = [None] * len(self.names)
        for flat, pieces in zip(self._optimizer.single_partition_of_fp32_groups, self._layout, strict=True):
            for index, offset, length in pieces:
                found[index] = Slot(flat, offset, length)
        return found

    def around_step(self, optimizer: Any, before: Callable[[], None], after: Callable[[], None]) -> bool:
        """See the contract; gathering the model's weights from all ranks comes after the last group's step."""
        return self._around_groups(len(self._layout), before, after)

    def commit_weights(self) -> None:
        """Copy this rank's part of each group to the model's weights once more; of the last one DeepSpeed does it."""
        optimizer = self._optimizer
        for group, flat in enumerate(optimizer.single_partition_of_fp32_groups[:-1]):
            part = torch.distributed.get_rank(optimizer.real_dp_process_group[group])
            optimizer.parallel_partitioned_bit16_groups[group][part].data.copy_(flat.data)

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Keep references to the reduced gradients; with offload copies, as DeepSpeed writes to the same memory."""
        optimizer = self._optimizer
        if optimizer.micro_step_id == self._pristine:
            yield
            return
        kept = {
            "averaged": dict(optimizer.averaged_gradients),
            "summed": dict(optimizer.all_grad_tensors),
            "model": self._drop_model_gradients(),
            "micro_step": optimizer.micro_step_id,
            "epilogue": optimizer._epilogue_ran_this_backward,
            "amid": optimizer.ready_for_gradients,  # ZeRO-1 before the last pass: buckets wait, still empty
        }
        host = self._copy_host_buffers() if self._offload else {}
        for group in optimizer.averaged_gradients:  # before `discard`, which releases what it finds here
            optimizer.averaged_gradients[group] = None
        self.discard()
        try:
            yield
        finally:
            self.discard()
            optimizer.averaged_gradients.update(kept["averaged"])
            optimizer.all_grad_tensors.update(kept["summed"])
            self._put_model_gradients(kept["model"])
            optimizer.micro_step_id = kept["micro_step"]
            optimizer._epilogue_ran_this_backward = kept["epilogue"]
            if self._offload:
                self._put_host_buffers(host)
            if kept["amid"]:
                optimizer.micro_step_id -= 1  # which this counts again
                optimizer.setup_buckets()

    def _copy_host_buffers(self) -> dict[str, Any]:
        optimizer = self._optimizer
        optimizer._wait_for_offload_copies()
        return {
            "gradients": [part.grad.clone() for part in optimizer.single_partition_of_fp32_groups],
            "accumulated": {key: tensor.clone() for key, tensor in optimizer.accumulated_grads_in_cpu.items()},
            "norms": optimizer.norm_for_param_grads,
            "overflow": optimizer.local_overflow,
            "active": optimizer._offload_accumulated_param_ids,
        }

    def _put_host_buffers(self, kept: dict[str, Any]) -> None:
        optimizer = self._optimizer
        for part, gradient in zip(optimizer.single_partition_of_fp32_groups, kept["gradients"], strict=True):
            part.grad.copy_(gradient)
        for key, tensor in kept["accumulated"].items():
            optimizer.accumulated_grads_in_cpu[key].copy_(tensor)
        optimizer.norm_for_param_grads = kept["norms"]
        optimizer.local_overflow = kept["overflow"]
        optimizer._offload_accumulated_param_ids = kept["active"]

    def discard(self) -> None:
        """Drop all gradients, and the micro-step that the backward pass counted."""
        optimizer = self._optimizer
        optimizer.zero_grad(set_to_none=True)
        optimizer.micro_step_id = self._pristine
        optimizer._epilogue_ran_this_backward = False
        optimizer._release_ipg_buffers()
        optimizer._release_preflattened_grad_buffers()
        for gradients in (optimizer.averaged_gradients, optimizer.all_grad_tensors):
            gradients.update(dict.fromkeys(gradients))
        if self._offload:
            optimizer.reset_cpu_buffers()
            optimizer._offload_accumulated_param_ids = set()
            for part in optimizer.single_partition_of_fp32_groups:
                part.grad.zero_()
