"""Gradients sharded by ``torch.distributed.fsdp.FullyShardedDataParallel`` (FSDP1).

Communication: every backward pass of a collection reduce-scatters the flat gradient of each unit (hybrid sharding: and
all-reduces the shards, NO_SHARD: all-reduces it whole), as the last pass of a training step does. The projection adds
one all-reduce of inner products per step, none with NO_SHARD.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from .base import Engine, Slot
from .fsdp2 import clean_name, not_sharded, uniform_shards


class _Piece(NamedTuple):
    """What this rank holds of one original parameter: ``size`` elements from ``start`` on in its unit's flat shard."""

    name: str
    flat: Any
    number: int
    start: int
    size: int

    def gradient(self) -> Tensor | None:
        """This rank's piece of the reduced gradient, as a view."""
        if self.size == 0:
            return None
        if self.flat._params is not None:  # use_orig_params: zero_grad empties these first, and the flat one later
            own: Tensor | None = self.flat._params[self.number].grad
            return own
        return None if self.flat.grad is None else self.flat.grad[self.start : self.start + self.size]

    def slot(self) -> Slot | None:
        """Where the weights of the piece are while they are sharded, as between backward pass and step."""
        if self.size == 0:
            return None
        if self.flat._params is not None:
            return Slot(self.flat._params[self.number])
        return Slot(self.flat, self.start, self.size)


class _Kept(NamedTuple):
    """The gradients of one unit."""

    flat: Tensor | None
    originals: list[Tensor | None]
    reduced: list[Tensor]  # one or none: what was reduced before a `no_sync` block, inside of which `flat` is not
    host: Tensor | None
    called: bool


class FSDP1Engine(Engine):
    """Engine for a module in ``FullyShardedDataParallel``, with ``use_orig_params`` or without.

    Args:
        model: the outermost wrapped module, or its compiled form.
        scaler: the ``ShardedGradScaler`` that the training loop scales fp16 losses with, if any.

    Raises:
        OGPSAError: if parameters are trained which are not sharded over all ranks in one way.
    """

    def __init__(self, model: nn.Module, scaler: Any = None) -> None:
        super().__init__(scaler)
        self._units: list[Any] = [module for module in model.modules() if isinstance(module, FullyShardedDataParallel)]
        self._handles: list[Any] = [unit._handle for unit in self._units if unit._handle is not None]
        self._refuse_unmanaged(model)
        self._pieces = self._cut(model)
        self.names = [piece.name for piece in self._pieces]
        self.sizes = [piece.size for piece in self._pieces]
        self.devices = [piece.flat.device for piece in self._pieces]
        flats = {id(piece.flat) for piece in self._pieces}
        units = [unit for unit in self._units if unit._handle is not None and id(unit._handle.flat_param) in flats]
        self.shards = uniform_shards((self._layout(unit) for unit in units), self.world_size)
        self.device = units[0]._handle.device  # where FSDP computes, also if gradients are in host memory
        dtypes = (self._dtype(unit._handle) for unit in units)
        self.gradient_dtype = min(dtypes, key=lambda dtype: dtype.itemsize)
        offload = any(unit._handle._offload_params for unit in units)
        # Offloading, each pass overwrites the gradient in host memory: torch accumulates within `no_sync` only.
        self.accumulates = self.gradient_dtype.itemsize >= 4 and not offload
        self.label = "FSDP1 with CPU offload" if offload else "FSDP1"

    @staticmethod
    def _dtype(handle: Any) -> torch.dtype:
        dtype: torch.dtype = (
            handle._fwd_bwd_param_dtype if handle._keep_low_precision_grads else handle._orig_param_dtype
        )
        return dtype

    @staticmethod
    def _layout(unit: Any) -> tuple[int, int]:
        """Number of shards, and of ranks that hold them and their copies."""
        ranks: int = unit.process_group.size()
        if not unit._handle.uses_sharded_strategy:
            return 1, ranks
        between = getattr(unit, "_inter_node_pg", None)  # of hybrid strategies only
        return ranks, ranks * (between.size() if between else 1)

    def _refuse_unmanaged(self, model: nn.Module) -> None:
        flats = [handle.flat_param for handle in self._handles]
        managed = {id(p) for flat in flats for p in chain([flat], _originals(flat))}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and id(parameter) not in managed:
                raise not_sharded(clean_name(name))

    def _cut(self, model: nn.Module) -> list[_Piece]:
        """The pieces of all trainable parameters, in the order that the parameters had before they were flattened."""
        places = {id(module): (place, prefix) for place, (prefix, module) in enumerate(model.named_modules())}
        pieces = []
        for flat in (handle.flat_param for handle in self._handles):
            for i, (info, shard) in enumerate(zip(flat._param_infos, flat._shard_param_infos, strict=True)):
                if (flat if flat._params is None else flat._params[i]).requires_grad:
                    place, prefix = places[id(info.module)]
                    name = clean_name(f"{prefix}.{info.param_name}")
                    start, size = (shard.offset_in_shard, shard.numel_in_shard) if shard.in_shard else (0, 0)
                    pieces.append((place, _Piece(name, flat, i, start, size)))
        return [piece for _, piece in sorted(pieces, key=lambda each: each[0])]  # stable: a module's own stay in order

    def local_gradients(self) -> list[Tensor | None]:
        """This rank's piece of every gradient, flat, as views. No communication is performed."""
        return [piece.gradient() for piece in self._pieces]

    def slots(self) -> list[Slot | None]:
        """Pieces of the flat parameters, or with ``use_orig_params`` the views of them that the optimizer steps."""
        return [piece.slot() for piece in self._pieces]

    def backward(self, loss: Tensor) -> None:
        """Back-propagate and reduce, also within ``no_sync``; the factor undoes FSDP's mean over ranks."""
        flags = [(unit, unit._sync_gradients) for unit in self._units]
        for unit, _ in flags:
            unit._sync_gradients = True
        try:
            (loss * (self.world_size * self.reference_scale)).backward()
        finally:
            for unit, synchronises in flags:
                unit._sync_gradients = synchronises

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Keep references to the gradients, reduced or not; copies of those in host memory, which FSDP overwrites."""
        for handle in self._handles:
            handle._reset_flat_param_grad_info_if_needed()  # drop what zero_grad left, as the next forward pass would
        kept = [self._take(handle.flat_param) for handle in self._handles]
        self.discard()
        try:
            yield
        finally:
            self.discard()
            for handle, gradients in zip(self._handles, kept, strict=True):
                self._put(handle.flat_param, gradients)

    @staticmethod
    def _take(flat: Any) -> _Kept:
        return _Kept(
            flat=flat.grad,
            originals=[p.grad for p in _originals(flat)],
            reduced=[flat._saved_grad_shard] if hasattr(flat, "_saved_grad_shard") else [],
            host=flat._cpu_grad.clone() if hasattr(flat, "_cpu_grad") else None,
            called=flat._post_backward_called,
        )

    @staticmethod
    def _put(flat: Any, kept: _Kept) -> None:
        _assign(flat, kept.flat)
        for parameter, gradient in zip(_originals(flat), kept.originals, strict=True):
            _assign(parameter, gradient)
        for gradient in kept.reduced:
            flat._saved_grad_shard = gradient
        if kept.host is not None:
            flat._cpu_grad.copy_(kept.host)
        flat._post_backward_called = kept.called

    def discard(self) -> None:
        """Drop all gradients, reduced or not."""
        for flat in (handle.flat_param for handle in self._handles):
            for parameter in chain([flat], _originals(flat)):
                parameter.grad = None
            if hasattr(flat, "_saved_grad_shard"):
                del flat._saved_grad_shard
            flat._post_backward_called = False


def _originals(flat: Any) -> Iterator[nn.Parameter]:
    """The original parameters that a flat one is made of; none without ``use_orig_params``."""
    return chain(flat._params or (), flat._shared_params or ())


def _assign(parameter: nn.Parameter, gradient: Tensor | None) -> None:
    """Set a gradient, also one that is not like its parameter: whole, within ``no_sync``, or narrower."""
    if gradient is None or (gradient.shape, gradient.dtype) == (parameter.shape, parameter.dtype):
        parameter.grad = gradient
        return
    parameter.grad = torch.empty_like(parameter)
    parameter.grad.data = gradient  # what FSDP does itself: `.grad` refuses, `.data` does not
