"""The contract between the method and whatever runs the backward pass.

An engine knows where gradients are and how ranks communicate; it knows nothing of subspaces. Three promises carry the
design and are tested on every engine: collecting gradients and discarding them leaves training bit-identical,
``reduce`` of per-element sums over ``local_gradients`` gives the same figure on every rank, and what is written into
``local_gradients`` (then announced by ``commit``) is what the optimizer steps with.

The same holds behind the optimizer's step for the weights that it steps: ``optimizer_tensors`` gives this rank's
pieces, ``reduce_weights`` sums over them, and what is written there, announced by ``commit_weights``, is what training
goes on with, in every copy.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer


class Slot(NamedTuple):
    """Where this rank's piece of a parameter lies in a tensor that the optimizer steps.

    Attributes:
        owner: that tensor: the parameter itself, its shard, or a flat buffer of many.
        start: first element of the piece in a flat owner; None if the owner is the piece.
        size: number of elements of the piece in a flat owner.
    """

    owner: Tensor
    start: int | None = None
    size: int = 0

    def piece_of(self, tensor: Tensor) -> Tensor:
        """This rank's piece, as a view, of a tensor that is laid out as the owner."""
        local: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        local = local.detach()
        return local if self.start is None else local.view(-1)[self.start : self.start + self.size]


class Engine(ABC):
    """Access to one training engine's gradients, and to the weights that its optimizer steps.

    Every rank lists every trainable parameter, also those of which it holds nothing, so that ranks agree on which
    tensor belongs to which group.

    Args:
        scaler: the ``GradScaler`` that the training loop scales fp16 losses with, if any.

    Attributes:
        label: the engine's name for people, e.g. ``DeepSpeed ZeRO-2``.
        names: qualified name of every trainable parameter.
        sizes: how many elements of each parameter's gradient this rank holds, 0 for none.
        devices: where each gradient is.
        device: where tensors have to be for ranks to communicate.
        shards: number of pieces that gradients are divided into; 1 where every rank holds the whole gradient.
        gradient_dtype: dtype of the gradients, the narrowest if there are several.
        accumulates: whether the gradient buffers can sum many passes; if not, gradients are taken out after each.
        scale_limit: the most that ``reference_scale`` may be; infinite until a reference pass has overflowed.
        optimizer: what steps the weights, once ``around_step`` was called.
        rank: data-parallel rank of this process.
        world_size: number of data-parallel processes.
    """

    label: str
    names: list[str]
    sizes: list[int]
    devices: list[torch.device]
    device: torch.device
    shards: int
    gradient_dtype: torch.dtype
    accumulates: bool

    def __init__(self, scaler: Any = None) -> None:
        self._scaler = scaler
        distributed = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if distributed else 0
        self.world_size = dist.get_world_size() if distributed else 1
        self.scale_limit = float("inf")
        self.optimizer: Any = None
        self._hooks: list[Any] = []

    @property
    def replicated(self) -> bool:
        """Whether every rank holds the whole gradient."""
        return self.shards == 1

    @abstractmethod
    def local_gradients(self) -> list[Tensor | None]:
        """This rank's reduced gradients in the order of ``names``, None where it has none; see ``commit``.

        They are there to be changed in place. A whole gradient has its parameter's shape, FSDP2's its rows; a piece of
        one is flat.
        """

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Back-propagate; gradients become the *sum* over ranks of their gradients, times ``reference_scale``."""

    @abstractmethod
    def set_aside(self) -> AbstractContextManager[None]:
        """Context that starts with empty gradient buffers and gives back what was in them.

        A trainer may begin a step with gradients left over: transformers does so after the last, partial accumulation
        of a streamed epoch. And a refresh may be needed between the backward pass and the step.
        """

    @abstractmethod
    def discard(self) -> None:
        """Put the engine back into the state it has before the first backward pass of a step."""

    def commit(self) -> None:
        """Take note that ``local_gradients`` were changed: write copies back, renew figures derived from them."""
        return

    def accumulate(self, last: bool) -> AbstractContextManager[None]:
        """Context of one forward and backward pass; ranks need to be reduced only after the ``last`` one."""
        del last
        return nullcontext()

    def before_step(self, callback: Callable[[], None]) -> bool:
        """Have ``callback`` called once per optimizer step, when the gradient is reduced and not yet clipped.

        Returns:
            False if this engine does not step by itself, so that the training loop has to make the call.
        """
        del callback
        return False

    @abstractmethod
    def slots(self) -> list[Slot | None]:
        """Where this rank's pieces of the weights are, in the order of ``names``; None where it steps nothing."""

    @property
    def weight_offsets(self) -> list[int]:
        """Where the piece of each weight begins in this rank's gradient of it; 0 where both are cut alike."""
        return [0] * len(self.names)

    def optimizer_tensors(self, key: str | None = None) -> list[Tensor | None]:
        """This rank's pieces of the weights or of an entry of the optimizer's state, as views.

        Args:
            key: of the optimizer's state, e.g. ``exp_avg_sq``; None for the weights themselves, in the precision in
                which the optimizer keeps them.

        Returns:
            One tensor per parameter in the order of ``names``; None where this rank has none, where the optimizer
            keeps no such state yet, or where it is not laid out as the weight.
        """
        pieces: list[Tensor | None] = []
        for slot in self.slots():
            source = None
            if slot is not None:
                source = slot.owner if key is None else self.optimizer.state.get(slot.owner, {}).get(key)
            fits = isinstance(source, Tensor) and slot is not None and source.shape == slot.owner.shape
            pieces.append(slot.piece_of(source) if fits and slot is not None and source is not None else None)
        return pieces

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimizer's settings for each parameter, in the order of ``names``; empty where this rank has none."""
        by_owner = {id(p): group for group in self.optimizer.param_groups for p in group["params"]}
        return [{} if slot is None else by_owner.get(id(slot.owner), {}) for slot in self.slots()]

    def commit_weights(self) -> None:
        """Take note that the weights of ``optimizer_tensors`` were changed: write them to every copy there is."""
        return

    def reduce_weights(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks that step different pieces of the weights; see ``reduce``."""
        return self.reduce(tensor)

    def around_step(self, optimizer: Any, before: Callable[[], None], after: Callable[[], None]) -> bool:
        """Have callbacks called around each step that the optimizer takes.

        Not around one that a ``GradScaler`` skips, unless the optimizer is fused: that is called, and moves nothing.

        Args:
            optimizer: the innermost optimizer of the training loop.
            before: called when the gradient is final, clipped and scaled.
            after: called when the weights are stepped and not yet copied to where the model reads them.

        Returns:
            False if there is no way to do so.
        """
        self.optimizer = optimizer
        if not isinstance(optimizer, Optimizer):
            return False
        self._hooks += [
            optimizer.register_step_pre_hook(lambda *_: before()),
            optimizer.register_step_post_hook(lambda *_: after()),
        ]
        return True

    def release(self) -> None:
        """Take off what ``before_step`` and ``around_step`` have put on the training engine; training is over."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def reduce(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks that hold different shards; the identity where gradients are replicated.

        Where groups of ranks hold the same shards (hybrid sharding), the sum over all of them counts each shard once
        per group, which the division takes back.
        """
        if self.replicated:
            return tensor
        return self.sum_over_ranks(tensor) / (self.world_size // self.shards)

    def sum_over_ranks(self, tensor: Tensor) -> Tensor:
        """Sum over all data-parallel ranks, on the device where ``tensor`` is."""
        if self.world_size == 1:
            return tensor
        moved = tensor.to(self.device)
        dist.all_reduce(moved)
        return moved.to(tensor.device)

    def on_any_rank(self, here: bool) -> bool:
        """Whether something holds on any rank; ranks must agree on what leads to communication."""
        return bool(self.sum_over_ranks(torch.tensor(float(here), device=self.device)) > 0)

    @property
    def loss_scale(self) -> float:
        """Factor on the loss under fp16 with loss scaling, otherwise 1."""
        return 1.0 if self._scaler is None else float(self._scaler.get_scale())

    @property
    def reference_scale(self) -> float:
        """Factor on the loss of reference passes: the training loss's own, unless that overflowed.

        The span of the reference gradients does not depend on it.
        """
        return min(self.loss_scale, self.scale_limit)

    def lower_scale(self) -> bool:
        """Lower ``reference_scale`` after an overflow; ``scale_limit`` keeps it there.

        Returns:
            False if there is nothing to lower: the gradient is not finite for another reason.
        """
        if self.reference_scale <= 1.0:
            return False
        self.scale_limit = max(1.0, self.reference_scale / 16)
        return True
