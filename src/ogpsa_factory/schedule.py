"""When the subspace is computed anew: every K steps, or where a look every K steps says that it has drifted.

A look costs one batch per reference set instead of all of its rows. It compares, set by set, the loss of these rows
and the share of their gradient's norm that lies in the span of the reference gradients, with what both were when the
subspace was computed.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .arguments import OGPSAArguments
from .engines.base import Engine
from .reference import ReferenceSet, collect_gradient, isolated_randomness
from .subspace import CapabilitySubspace, Gradients


class RefreshSchedule:
    """Decides; all ranks alike, as the figures are sums over ranks.

    Args:
        arguments: validated arguments.
        engine: where gradients are.
        subspace: the capability subspace.
        references: the reference sets.
        mean_loss: from a list of features to their mean loss, with a graph.
        batch_size: rows per device in a reference pass.
        log: takes what a look has found.

    Attributes:
        baseline: loss and overlap of every set at the last refresh, of shape ``[sets, 2]``, float64; None before the
            first one, and for fixed schedules.
    """

    def __init__(
        self,
        arguments: OGPSAArguments,
        engine: Engine,
        subspace: CapabilitySubspace,
        references: list[ReferenceSet],
        mean_loss: Callable[[list[dict[str, Any]]], Tensor],
        batch_size: int,
        log: Callable[[dict[str, float]], None],
    ) -> None:
        self.baseline: Tensor | None = None
        self._adaptive = arguments.ogpsa_refresh == "adaptive"
        self._period, self._seed = arguments.refresh_steps, arguments.ogpsa_seed
        self._threshold = arguments.ogpsa_refresh_threshold
        self._engine, self._subspace = engine, subspace
        self._mean_loss, self._batch_size, self._log = mean_loss, batch_size, log
        self._probes = [_some_rows(r, batch_size * engine.world_size) for r in references] if self._adaptive else []

    def due(self, step: int) -> bool:
        """Whether the subspace is to be computed anew before a step; takes a look if that depends on one.

        Args:
            step: number of optimizer steps taken so far, t.
        """
        if step % self._period:
            return False
        if not self._adaptive or self.baseline is None:
            return True
        now = self._look(step)
        drifted = self._drifted(now, self.baseline)
        names = [probe.name for probe in self._probes]
        overlaps = dict(zip(names, now[:, 1].tolist(), strict=True))
        figures = {f"ogpsa/look_overlap/{name}": overlap for name, overlap in overlaps.items()}
        self._log({**figures, "ogpsa/look_step": step, "ogpsa/look_refreshes": float(drifted)})
        return drifted

    def note(self, step: int) -> None:
        """Take note of where things stand; call it after every refresh.

        Args:
            step: number of optimizer steps taken so far, t.
        """
        self.baseline = self._look(step) if self._adaptive and self._subspace.directions else None

    def _drifted(self, now: Tensor, before: Tensor) -> bool:
        lost = now[:, 1] < (1 - self._threshold) * before[:, 1]
        rose = now[:, 0] > (1 + self._threshold) * before[:, 0]
        known = now.isfinite().all() and before.isfinite().all()
        return not known or bool((lost | rose).any())

    def _look(self, step: int) -> Tensor:
        """Loss and overlap of every set's rows now, of shape ``[sets, 2]``, float64, on the host."""
        found = []
        with self._engine.set_aside(), isolated_randomness(self._seed + step):
            for probe in self._probes:
                gradients, loss = collect_gradient(self._engine, probe, 0, self._batch_size, self._mean_loss)
                found.append([loss, self._overlap(gradients)])
                self._engine.discard()
        return torch.tensor(found, dtype=torch.float64)

    def _overlap(self, gradients: Gradients) -> float:
        """Share of a gradient's norm that lies in the span of the reference gradients, over all tensors together."""
        projection = self._subspace.would_remove(gradients)
        inner, gram = projection.inner.cpu(), self._subspace.gram.cpu()
        within = inner @ torch.linalg.pinv(gram, rtol=1e-8, hermitian=True) @ inner
        return float(within.clamp_min(0).sqrt() / projection.norm.cpu())


def _some_rows(reference: ReferenceSet, count: int) -> ReferenceSet:
    """The set with one chunk of at most ``count`` rows, evenly spread over its own."""
    rows = sorted(row for chunk in reference.chunks for row in chunk)
    step = max(1, -(-len(rows) // count))
    return replace(reference, chunks=[rows[::step]], average="token")
