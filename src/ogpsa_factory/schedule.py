"""When the subspace is computed anew: every K steps, or where a look every K steps says that it has drifted.

A look costs one batch per reference set instead of all of its rows. It compares, set by set, the loss of these rows
and the share of their gradient's norm that lies in the span of the reference gradients, with what both were when the
subspace was computed.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .arguments import OGPSAArguments
from .engines.base import Engine
from .reference import BatchSize, ReferenceSet, collect_gradient, isolated_randomness
from .subspace import CapabilitySubspace, Gradients


class RefreshSchedule:
    """Decides, for all ranks alike.

    Args:
        arguments: validated arguments.
        engine: where gradients are.
        subspace: the capability subspace.
        references: the reference sets.
        mean_loss: from a list of features to their mean loss, with a graph.
        batch_size: rows per device in a look.
        log: takes what a look has found.
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
        self._baseline: Tensor | None = None  # loss and overlap of every set at the last refresh, [sets, 2], float64
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
        if not self._adaptive or self._baseline is None:
            return True
        started = time.perf_counter()
        now = self._look()
        drifted = self._engine.on_any_rank(self._drifted(now, self._baseline))
        names = [probe.name for probe in self._probes]
        figures = {f"ogpsa/look_overlap/{n}": overlap for n, overlap in zip(names, now[:, 1].tolist(), strict=True)}
        facts = {"ogpsa/look_step": step, "ogpsa/look_refreshes": float(drifted)}
        self._log({**figures, **facts, "ogpsa/look_seconds": time.perf_counter() - started})
        return drifted

    def note(self, accepted: bool) -> None:
        """Take note of where things stand; call it after every refresh.

        Args:
            accepted: whether the subspace is new; if not, the next period tries again.
        """
        self._baseline = self._look() if self._adaptive and accepted else None

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint needs: where things stood, and which rows were looked at."""
        if self._baseline is None:
            return {}
        return {"look.baseline": self._baseline, "look.rows": self._rows()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state_dict`, unless the rows are others (of another batch size or number of ranks)."""
        rows = state.get("look.rows")
        same = self._adaptive and rows is not None and torch.equal(rows, self._rows())
        self._baseline = state["look.baseline"] if same else None

    def _rows(self) -> Tensor:
        return torch.tensor([row for probe in self._probes for row in (-1, *probe.chunks[0])], dtype=torch.int64)

    def _drifted(self, now: Tensor, before: Tensor) -> bool:
        lost = now[:, 1] < (1 - self._threshold) * before[:, 1]
        rose = now[:, 0] > (1 + self._threshold) * before[:, 0]
        known = now.isfinite().all() and before.isfinite().all()
        return not known or bool((lost | rose).any())

    def _look(self) -> Tensor:
        """Loss and overlap of every set's rows now, of shape ``[sets, 2]``, float64, on the host."""
        limit, found = self._engine.scale_limit, self._look_once()
        while not found.isfinite().all() and self._engine.lower_scale():
            found = self._look_once()
        if not found.isfinite().all():
            self._engine.scale_limit = limit  # it was not the scale
        return found

    def _look_once(self) -> Tensor:
        found = []
        # The same random numbers each time: looks are compared with each other.
        with self._engine.set_aside(), isolated_randomness(self._seed):
            for probe in self._probes:
                gradients, loss = collect_gradient(
                    self._engine, probe, 0, BatchSize(self._batch_size), self._mean_loss
                )
                found.append([loss, self._overlap(gradients)])
                gradients.clear()  # before the next one is computed: two are too much memory
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
