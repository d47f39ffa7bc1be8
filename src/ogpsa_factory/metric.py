"""The metric in which an optimizer's step is steepest: a diagonal matrix D, one number per weight.

AdamW steps by ``-lr * m / (sqrt(v) + eps)``, which is steepest descent along ``m`` if lengths are measured by
``||d||_D^2 = sum_i D_ii d_i^2`` with ``D = (sqrt(v) + eps) / lr``. Plain SGD's metric is ``1 / lr``. Only ratios of
D matter for a projection.

As it stands, that D makes weights which training has hardly a gradient for almost free to move: with an ``eps`` of
1e-8, most of a projection goes there, in moves of up to a hundred times the learning rate. So ``eps`` has a companion,
a share of the root mean square of ``sqrt(v)`` in the weight's tensor (``ogpsa_metric_damping``).
"""

from typing import Any

import torch
from torch import Tensor

from .engines.base import Engine
from .errors import OGPSAError
from .kernels import InverseRoot, Scale
from .storage import PIECE


# Optimizers with Adam's second moment, one number per weight, in the state `exp_avg_sq`: class and package.
_ADAM = {"Adam", "AdamW", "FusedAdam", "DeepSpeedCPUAdam"}
_PACKAGES = {"torch", "deepspeed", "apex"}  # others have classes of these names with another state
FIRST_MOMENTS = ("exp_avg", "momentum_buffer")


def check_readable(optimizer: Any, setting: str, instead: str) -> None:
    """Refuse optimizers whose metric cannot be read.

    Args:
        optimizer: the innermost optimizer of the training loop.
        setting: what asks for it, e.g. ``ogpsa_project: preconditioned``.
        instead: a setting that works with any optimizer.

    Raises:
        OGPSAError: naming it.
    """
    kind = type(optimizer)
    if kind is torch.optim.SGD or (kind.__name__ in _ADAM and kind.__module__.split(".")[0] in _PACKAGES):
        return
    raise OGPSAError(
        f"{setting} does not work with the optimizer {kind.__module__}.{kind.__name__}: it keeps no second moment per "
        f"weight that can be read. Use optim: adamw_torch, or {instead}, which works with any optimizer."
    )


def inverse_metric(engine: Engine, damping: float) -> list[Scale | None]:
    """Diagonal of D^-1 for every piece of weights that this rank steps, up to a factor that all have in common.

    Args:
        engine: with an optimizer that :func:`check_readable` has let pass and that has stepped.
        damping: share of the root mean square of ``sqrt(v)`` in each tensor that is added to ``eps``.

    Returns:
        Per parameter a function that gives elements of it, float32; None where this rank has none of it. Where a whole
        tensor was never given a step, its elements are zero: a step that is missing elsewhere must not be made up for
        there.

    Raises:
        OGPSAError: if the optimizer has stepped and its second moment is not where it is looked for.
    """
    slots, groups = engine.slots(), engine.parameter_groups()
    largest = max((float(group["lr"]) for group in engine.optimizer.param_groups), default=0.0)
    rates = [float(group.get("lr", 0.0)) / largest if largest else 1.0 for group in groups]
    if type(engine.optimizer) is torch.optim.SGD:
        return [s and _constant(rate, s.owner.device) for s, rate in zip(slots, rates, strict=True)]
    key = "max_exp_avg_sq" if engine.optimizer.defaults.get("amsgrad") else "exp_avg_sq"
    seconds = engine.optimizer_tensors(key)
    states = [{} if slot is None else engine.optimizer.state.get(slot.owner, {}) for slot in slots]
    if all(second is None for second in seconds) and any(slots):
        raise OGPSAError(
            f"{type(engine.optimizer).__name__} on {engine.label} keeps no {key} of its weights' shapes, which "
            "ogpsa_project: preconditioned and ogpsa_project_momentum read. Use ogpsa_project: update without it."
        )
    steps = _numbers([{**group, **state}.get("step", 0) for group, state in zip(groups, states, strict=True)])
    means = _mean_squares(engine, seconds).sqrt().tolist()
    scales: list[Scale | None] = []
    for slot, second, group, step, rate, mean in zip(slots, seconds, groups, steps, rates, means, strict=True):
        if second is None:
            scales.append(slot and _constant(0.0, slot.owner.device))
            continue
        if mean == 0:
            scales.append(InverseRoot(second.reshape(-1), 0.0, 1.0))
            continue
        corrected = group.get("bias_correction", True) and step > 0
        correction = (1 - float(group["betas"][1]) ** step) ** 0.5 if corrected else 1.0
        # lr / (sqrt(v / correction^2) + eps), with both sides of the fraction times the correction.
        epsilon = float(group["eps"]) * correction + damping * mean
        scales.append(InverseRoot(second.reshape(-1), rate * correction, epsilon))
    return scales


def quotient(over: Scale | None, under: Scale | None) -> Scale | None:
    """Elements of one diagonal divided by those of another; zero where the latter are, None for ones."""
    if under is None:
        return over

    def scale(start: int, end: int) -> Tensor:
        divisor = under(start, end)
        dividend = torch.ones_like(divisor) if over is None else over(start, end)
        return torch.where(divisor > 0, dividend / divisor, 0.0)

    return scale


def _mean_squares(engine: Engine, seconds: list[Tensor | None]) -> Tensor:
    """Mean of v over each whole tensor, float64, on the host."""
    device = next((second.device for second in seconds if second is not None), engine.device)
    sums = torch.zeros(len(seconds), 2, dtype=torch.float64, device=device)
    for own, second in zip(sums, seconds, strict=True):
        if second is not None:
            for part in second.reshape(-1).split(PIECE):
                own[0] += part.sum()
            own[1] += second.numel()
    sums = engine.reduce_weights(sums).cpu()
    return sums[:, 0] / sums[:, 1].clamp_min(1)


def _constant(value: float, device: torch.device) -> Scale:
    return lambda start, end: torch.full((end - start,), value, device=device)


def _numbers(steps: list[Any]) -> list[float]:
    """Read counts, which may be tensors on a device, in one go."""
    tensors = [step for step in steps if isinstance(step, Tensor)]
    read = iter(torch.stack([t.detach().reshape(()).float() for t in tensors]).tolist() if tensors else [])
    return [next(read) if isinstance(step, Tensor) else float(step) for step in steps]
