"""What the engines under DeepSpeed have in common: its backward pass, its step, its loss scale.

Communication in a reference pass: each backward pass is told that it is the last of an accumulation, so it reduces (or
reduces and scatters) the gradient as a training pass does; the result is taken out and discarded before the next one.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .base import Engine


class DeepSpeedEngine(Engine):
    """Engine for a module wrapped by ``deepspeed.initialize``; see the modules of the single stages.

    Args:
        wrapped: the ``deepspeed.DeepSpeedEngine``.
    """

    # DeepSpeed counts micro-steps in several places. One pass per accumulation leaves all of them as they were.
    accumulates = False

    def __init__(self, wrapped: Any) -> None:
        super().__init__()
        trainable = [(name, p) for name, p in wrapped.module.named_parameters() if p.requires_grad]
        self._wrapped = wrapped
        self._optimizer = wrapped.optimizer
        self._parameters = [p for _, p in trainable]
        self._index = {id(p): i for i, p in enumerate(self._parameters)}
        self.names = [name for name, _ in trainable]
        self.device = torch.device(wrapped.device)

    def backward(self, loss: Tensor) -> None:
        """Back-propagate; the factor undoes DeepSpeed's mean over ranks and, after an overflow, part of its scale."""
        wrapped = self._wrapped
        boundary = wrapped._is_gradient_accumulation_boundary
        wrapped.set_gradient_accumulation_boundary(True)
        try:
            scale = self.world_size * self.reference_scale / self.loss_scale
            wrapped.backward(loss * scale, scale_wrt_gas=False)
        finally:
            wrapped._is_gradient_accumulation_boundary = boundary  # None means "count": its setter takes flags only

    def before_step(self, callback: Callable[[], None]) -> bool:
        """Call back from ``step``, which Accelerate calls right behind the last backward pass and which clips."""
        wrapped = self._wrapped
        original = type(wrapped).step  # not the instance's: it may be ours, from an earlier start of training

        def step(*args: Any, **kwargs: Any) -> Any:
            if wrapped.is_gradient_accumulation_boundary():
                callback()
            return original(wrapped, *args, **kwargs)

        wrapped.step = step
        return True

    def around_step(self, optimizer: Any, before: Callable[[], None], after: Callable[[], None]) -> bool:
        """See the contract; the optimizer is the one that DeepSpeed has wrapped or made."""
        return super().around_step(self._wrapped.basic_optimizer, before, after)

    def _around_groups(self, groups: int, before: Callable[[], None], after: Callable[[], None]) -> bool:
        """The same where DeepSpeed steps group by group: before the first one and after the last one.

        The groups before the last one have been copied to the model's weights by then, see ``commit_weights``.
        """
        inner = self._optimizer
        original = type(inner)._optimizer_step
        self.optimizer = self._wrapped.basic_optimizer

        def step(group: int) -> None:
            if group == 0:
                before()
            original(inner, group)
            if group == groups - 1:
                after()

        inner._optimizer_step = step
        return True

    def release(self) -> None:
        """Let ``step``, and the step of each group, be the class's own again."""
        super().release()
        self._wrapped.__dict__.pop("step", None)
        self._optimizer.__dict__.pop("_optimizer_step", None)

    @property
    def loss_scale(self) -> float:
        """What DeepSpeed multiplies losses with."""
        return float(getattr(self._optimizer, "loss_scale", 1.0))

    def _drop_model_gradients(self) -> list[tuple[Tensor | None, Tensor | None]]:
        """Take what backward passes leave on the model's own parameters off them, and return it."""
        kept = [(p.grad, getattr(p, "grad_accum", None)) for p in self._parameters]
        for parameter in self._parameters:
            parameter.grad = parameter.grad_accum = None
        return kept

    def _put_model_gradients(self, kept: list[tuple[Tensor | None, Tensor | None]]) -> None:
        for parameter, (gradient, accumulated) in zip(self._parameters, kept, strict=True):
            parameter.grad, parameter.grad_accum = gradient, accumulated
