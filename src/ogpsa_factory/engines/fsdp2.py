"""Gradients sharded by ``torch.distributed.fsdp.fully_shard`` (FSDP2).

Communication: every backward pass of a collection reduce-scatters the gradients unit by unit, as the last pass of a
training step does (with hybrid sharding an all-reduce between the copies follows), so no rank ever holds more than one
unit's whole gradient. The projection adds one all-reduce of inner products per step.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from ..errors import OGPSAError
from .base import Engine, Slot
from .native import narrowest


# What stands in the names of modules that are wrapped: by FSDP1, by activation checkpointing, by torch.compile.
_WRAPPERS = {"_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod"}


class FSDP2Engine(Engine):
    """Engine for a module that ``fully_shard`` was applied to.

    Args:
        model: the module, or its compiled form.
        scaler: the ``GradScaler`` that the training loop scales fp16 losses with, if any.

    Raises:
        OGPSAError: if parameters are trained which are not sharded over all ranks in one way.
    """

    def __init__(self, model: nn.Module, scaler: Any = None) -> None:
        super().__init__(scaler)
        modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
        self._states: list[Any] = list(dict.fromkeys(module._get_fsdp_state() for module in modules))
        groups = (state._fsdp_param_group for state in self._states)
        self._groups: list[Any] = [group for group in groups if group is not None]
        named = self._named_parameters(model)
        # FSDP's own records: a parameter itself is replaced when a state dict is loaded with `assign=True`.
        self._parameters = list(named)
        self.names = list(named.values())
        shards = [p.sharded_param.to_local() for p in self._parameters]
        self.sizes = [shard.numel() for shard in shards]
        self.devices = [shard.device for shard in shards]
        self.gradient_dtype = narrowest(shards)
        self.accumulates = self.gradient_dtype.itemsize >= 4
        meshes = (p.mesh_info for p in self._parameters)
        self.shards = uniform_shards(((m.shard_mesh_size, m.mesh.size()) for m in meshes), self.world_size)
        self.device = self._parameters[0].device  # where FSDP computes, also if gradients are in host memory
        self.label = "FSDP2 with CPU offload" if any(p.offload_to_cpu for p in self._parameters) else "FSDP2"

    def _named_parameters(self, model: nn.Module) -> dict[Any, str]:
        """FSDP's record of each trainable parameter, with the parameter's name; shared ones once."""
        records: dict[tuple[int, str], Any] = {}
        for record in (record for group in self._groups for record in group.fsdp_params):
            info = record._module_info
            places = zip([info.module, *info.shared_modules], [info.param_name, *info.shared_param_names], strict=True)
            records |= {(id(module), key): record for module, key in places}
        named: dict[Any, str] = {}
        for prefix, module in model.named_modules():
            for key, parameter in module.named_parameters(recurse=False):
                if not parameter.requires_grad:
                    continue
                name = clean_name(f"{prefix}.{key}")
                if (id(module), key) not in records:
                    raise not_sharded(name)
                named.setdefault(records[id(module), key], name)
        return named

    def local_gradients(self) -> list[Tensor | None]:
        """This rank's rows of every gradient, as views. No communication is performed."""
        gradients = (p.sharded_param.grad for p in self._parameters)
        return [
            g.to_local() if g is not None and size else None for g, size in zip(gradients, self.sizes, strict=True)
        ]

    def slots(self) -> list[Slot | None]:
        """The sharded parameters themselves."""
        return [Slot(p.sharded_param) if size else None for p, size in zip(self._parameters, self.sizes, strict=True)]

    def backward(self, loss: Tensor) -> None:
        """Back-propagate and reduce; the factor undoes FSDP's mean over ranks."""
        with self._synchronised():
            (loss * (self.world_size * self.reference_scale)).backward()

    @contextmanager
    def _synchronised(self) -> Iterator[None]:
        """Have backward passes reduce, and finish doing so, whatever the training loop has switched off."""
        flags = [(group, group.reduce_grads, group.all_reduce_grads) for group in self._groups]
        last = [(state._state_ctx, state._state_ctx.is_last_backward) for state in self._states]
        for group, _, _ in flags:
            group.reduce_grads = group.all_reduce_grads = True
        for context, _ in last:
            context.is_last_backward = True
        try:
            yield
        finally:
            for group, reduces, reduces_copies in flags:
                group.reduce_grads, group.all_reduce_grads = reduces, reduces_copies
            for context, is_last in last:
                context.is_last_backward = is_last

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Keep references to reduced gradients, and to those that wait for their reduction."""
        reduced = [p.sharded_param.grad for p in self._parameters]
        waiting = [p.unsharded_accumulated_grad for p in self._parameters]  # with a wider dtype of reduction
        computed = [p._unsharded_param.grad if _gathered(p) else None for p in self._parameters]  # otherwise
        partial = [group._partial_reduce_output for group in self._groups]  # reduced within a copy, not between them
        self.discard()
        try:
            yield
        finally:
            for p, gradient, wide, own in zip(self._parameters, reduced, waiting, computed, strict=True):
                p.sharded_param.grad = gradient
                p.unsharded_accumulated_grad = wide
                if _gathered(p):
                    p._unsharded_param.grad = own
            for group, output in zip(self._groups, partial, strict=True):
                group._partial_reduce_output = output

    def discard(self) -> None:
        """Drop all gradients, reduced or not."""
        for parameter in self._parameters:
            parameter.sharded_param.grad = parameter.unsharded_accumulated_grad = None
            if _gathered(parameter):
                parameter._unsharded_param.grad = None
        for group in self._groups:
            group._partial_reduce_output = None


def _gathered(parameter: Any) -> bool:
    """Whether FSDP has made the whole parameter's tensor, which it does in the first forward pass."""
    return hasattr(parameter, "_unsharded_param")


def clean_name(name: str) -> str:
    """Name that a module or parameter had before it was wrapped."""
    return ".".join(part for part in name.split(".") if part and part not in _WRAPPERS)


def not_sharded(name: str) -> OGPSAError:
    """Refusal of a trainable parameter that FSDP does not manage."""
    return OGPSAError(
        f"{name} is trained, but FSDP was told to ignore it: its gradient is neither sharded nor averaged over ranks, "
        "so it cannot be projected with the others. Freeze it, or take it off FSDP's ignored parameters."
    )


def uniform_shards(layouts: Iterable[tuple[int, int]], world_size: int) -> int:
    """Number of shards, if it is the same for all units and the units spread over all ranks.

    Args:
        layouts: of each unit the number of shards, and the number of ranks that hold them and their copies.
        world_size: number of ranks.

    Raises:
        OGPSAError: saying what differs.
    """
    found = set(layouts)
    if len(found) != 1 or {ranks for _, ranks in found} != {world_size}:
        units = "; ".join(f"{shards} shards on {ranks} ranks" for shards, ranks in sorted(found)) or "none"
        raise OGPSAError(
            f"OGPSA needs all FSDP units sharded in the same way over all {world_size} ranks; found: {units}. "
            "Use one sharding strategy for the whole model, without tensor, context or expert parallelism."
        )
    return found.pop()[0]
