"""The step that the optimizer really takes: projected (``ogpsa_project: update``, ``preconditioned``), and measured.

Clipping, momentum, AdamW's rescaling and weight decay all act behind the gradient. With ``d = theta' - theta`` what
they make of it, the basis U and a metric D (the identity for ``update``, the optimizer's own for ``preconditioned``),

    d  <-  d - D^-1 U (U^T D^-1 U)^+ U^T d,

the nearest step in that metric which leaves every reference loss unchanged to first order. It needs no copy of the
weights: ``U^T d = U^T theta' - U^T theta`` is a difference of k numbers per group. They are taken in float64 and kept
from refresh to refresh, so that what one step's rounding leaves in the subspace, the next step takes back.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .arguments import OGPSAArguments
from .engines.base import Engine
from .errors import OGPSAError
from .kernels import Scale, Scales
from .linalg import whiten
from .metric import FIRST_MOMENTS, check_readable, inverse_metric, quotient
from .modes import Projection, plan
from .span import Span
from .subspace import CapabilitySubspace, Gradients


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RealisedStep:
    """One measured step, ``d = theta' - theta``. Everything stays on the weights' device until it is read.

    Attributes:
        norm: its norm, scalar, float64.
        inner: its inner products with every reference gradient, of shape ``[k]``, float64.
        projection: what was removed from ``-d``, which is to the modes what a gradient is; None if nothing was.
    """

    norm: Tensor
    inner: Tensor
    projection: Projection | None


class StepProjection:
    """Projects and measures the steps of one optimizer.

    Args:
        arguments: validated arguments.
        engine: where weights are.
        subspace: the capability subspace; it is read anew in every step.

    Attributes:
        anchors: inner products of the basis with the weights after the last step, of shape ``[groups, k]``, float64;
            under ``weights``, and under its key for each kind of weights that the optimizer keeps in its state.
    """

    def __init__(self, arguments: OGPSAArguments, engine: Engine, subspace: CapabilitySubspace) -> None:
        self.projects = arguments.ogpsa_project != "gradient" and not arguments.ogpsa_monitor_only
        self.anchors: dict[str, Tensor] = {}
        self._preconditioned = arguments.ogpsa_project == "preconditioned"
        self._damping = arguments.ogpsa_metric_damping
        self._momentum = arguments.ogpsa_project_momentum if self.projects else "never"
        self._engine = engine
        self._subspace = subspace
        self._span = Span(engine, subspace)
        self._roots: tuple[Tensor, Tensor] | None = None  # of the stored basis's own Gram matrix, see `whiten`
        self._start: list[Tensor | None] | None = None

    def attach(self, optimizer: Any, before: Callable[[], None], after: Callable[[], None]) -> None:
        """Have callbacks called around each step of an optimizer.

        Args:
            optimizer: the innermost optimizer of the training loop.
            before: see ``Engine.around_step``.
            after: the same.

        Raises:
            OGPSAError: naming the optimizer or the engine, if its steps cannot be projected as asked.
        """
        hooked = self._engine.around_step(optimizer, before, after)
        try:
            self._check(hooked)
        except OGPSAError:
            self._engine.release()
            raise
        if not hooked:
            logger.info(
                "What leaks is not measured: the optimizer's steps are out of reach on %s.", self._engine.label
            )

    def _check(self, hooked: bool) -> None:
        if self.projects and not hooked:
            raise OGPSAError(
                f"ogpsa_project: {'preconditioned' if self._preconditioned else 'update'} does not work on "
                f"{self._engine.label} with {type(self._engine.optimizer).__name__}: there is no way to the weights "
                "between the optimizer's step and their use. Use ogpsa_project: gradient, or another engine."
            )
        if self.projects and self._preconditioned:
            check_readable(self._engine.optimizer, "ogpsa_project: preconditioned", "ogpsa_project: update")
        if self._momentum != "never":
            setting = f"ogpsa_project_momentum: {self._momentum}"
            check_readable(self._engine.optimizer, setting, "ogpsa_project_momentum: never")

    @torch.no_grad()
    def anchor(self, known: dict[str, Tensor] | None = None) -> None:
        """Take note of where the weights are in a new basis; call it after every refresh, and when resuming.

        Args:
            known: anchors of a checkpoint; what they lack is computed.
        """
        if not self.projects or not self._subspace.directions:
            return
        self._roots = None
        self.anchors = {"weights": self._span.inner(self._engine.optimizer_tensors())}
        if "ScheduleFree" in type(self._engine.optimizer).__name__:
            # What it evaluates lies between the weights that it trains and z, which its first step copies of them.
            kept = self._engine.optimizer_tensors("z")
            self.anchors["z"] = self._span.inner(kept) if self._exist(kept) else self.anchors["weights"].clone()
        if known is not None:
            self.anchors |= {key: known[key].to(own.device) for key, own in self.anchors.items() if key in known}
        elif self._momentum == "refresh":
            self._project_momentum()

    @torch.no_grad()
    def before(self, measure: bool) -> None:
        """Call it before each step.

        Args:
            measure: whether to measure this step, for which a copy of the weights is held until it is taken, in host
                memory if that is where the basis is.
        """
        self._start = None
        if measure and self._subspace.directions:
            weights = self._engine.optimizer_tensors()
            host = torch.device("cpu") if self._subspace.offload else None
            self._start = [None if w is None else w.to(host or w.device, copy=True) for w in weights]

    @torch.no_grad()
    def after(self) -> RealisedStep | None:
        """Project the step that was just taken, if that is asked for; call it after each step.

        Returns:
            What was measured, or None.
        """
        if not self._subspace.directions:
            return None
        projection = self._project() if self.projects else None
        step, self._start = self._start, None
        if step is None:
            return None
        for before, now in zip(step, self._engine.optimizer_tensors(), strict=True):
            if before is not None and now is not None:
                torch.sub(now.to(before.device), before, out=before)
        norm = self._span.squared_distance(step).sqrt()
        return RealisedStep(norm, self._subspace.reference_inner(self._span.inner(step)), projection)

    def _project(self) -> Projection | None:
        projection, scales = None, self._scales()
        inverse, root = self._metric_roots(scales)
        for key, anchor in self.anchors.items():
            weights = self._engine.optimizer_tensors(None if key == "weights" else key)
            there = self._span.inner(weights)
            moved = there - anchor
            remove = self._removal(-moved, inverse, root)
            if key == "weights" and self._start is not None:
                projection = self._measured(weights, there, remove, scales)
            self._span.subtract(weights, -remove, scales)
            if self._subspace.mode != "orthogonal":  # otherwise nothing is left of what was moved
                self.anchors[key] = anchor + moved + _times(root.mT @ root, remove)
        self._engine.commit_weights()
        if self._momentum == "step":
            self._project_momentum(scales)
        return projection

    def _measured(self, weights: Gradients, there: Tensor, remove: Tensor, scales: Scales) -> Projection:
        """What is about to be removed from a step that began where the copy of the weights is, and led ``there``.

        From the anchor it differs by what rounding has left in the weights of 16 bits, which is no part of this step.
        """
        squares = self._span.gram([None if scale is None else _squared(scale) for scale in scales])
        removed = torch.einsum("gi,gij,gj->", remove, squares, remove).clamp_min(0).sqrt()
        norm = self._span.squared_distance(weights, self._start).sqrt()
        inner = self._span.inner(self._start or []).to(there.device) - there
        return Projection(norm, removed, self._subspace.reference_inner(inner), None)

    def _project_momentum(self, scales: Scales | None = None) -> None:
        """Make of the first moment what a step along it would become if it were projected.

        With ``A`` the metric that the optimizer divides by, such a step is ``A^-1 m``, so the moment becomes
        ``m - A D^-1 U (U^T D^-1 U)^+ U^T A^-1 m``.
        """
        for key in FIRST_MOMENTS:
            moments = self._engine.optimizer_tensors(key)
            if self._exist(moments):
                scales = self._scales() if scales is None else scales
                own = inverse_metric(self._engine, damping=0.0)
                remove = self._removal(self._span.inner(moments, own), *self._metric_roots(scales))
                self._span.subtract(moments, remove, [quotient(d, a) for d, a in zip(scales, own, strict=True)])

    def _exist(self, tensors: Gradients) -> bool:
        """Whether any rank has one."""
        here = torch.tensor(float(any(t is not None for t in tensors)), device=self._engine.device)
        return bool(self._engine.sum_over_ranks(here) > 0)

    def _scales(self) -> Scales:
        if not self._preconditioned:
            return [None] * len(self._engine.names)
        return inverse_metric(self._engine, self._damping)

    def _metric_roots(self, scales: Scales) -> tuple[Tensor, Tensor]:
        """``whiten`` of ``U^T D^-1 U``; for ``update`` near the identity, it corrects the rounding of the basis."""
        if self._roots is None or self._preconditioned:
            gram = self._span.gram(scales)
            inverse, root = whiten(gram)
            self._roots = inverse.to(gram.device), root.to(gram.device)
        return self._roots

    def _removal(self, inner: Tensor, inverse: Tensor, root: Tensor) -> Tensor:
        """Coefficients along ``D^-1 U`` of what the mode removes from something that is like a gradient.

        Args:
            inner: its inner products with the basis, of shape ``[groups, k]``.
            inverse: the first matrix of :func:`~ogpsa_factory.linalg.whiten`.
            root: the second one.

        Returns:
            Of shape ``[groups, k]``.
        """
        coordinates = self._subspace.coordinates
        if self._subspace.mode != "orthogonal":  # which does not look at them
            coordinates = root.cpu() @ coordinates
        _, remove = plan(self._subspace.mode, coordinates, _times(inverse, inner))
        return _times(inverse.mT, remove)


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    return torch.einsum("gij,gj->gi", matrices, vectors)


def _squared(scale: Scale) -> Scale:
    return lambda start, end: scale(start, end).square()
