"""When to do what: the one place that reads as Algorithm 1 of arXiv 2602.07892.

for t = 0, 1, ...:
    if t mod K = 0:   S <- span of the reference gradients at theta_t          (on_step_begin, see schedule.py)
    g  <- gradient of the safety loss, accumulated and reduced                 (the trainer)
    g~ <- g minus its component in S                                           (before_clipping)
    theta_{t+1} <- optimizer step with g~, clipped                             (the trainer)

With ``ogpsa_project: update`` or ``preconditioned`` it is not g that is projected but what the optimizer has made of
it, ``theta_{t+1} - theta_t`` (after_step, see :mod:`ogpsa_factory.step`).
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import checkpoint
from .arguments import OGPSAArguments
from .coverage import Coverage
from .engines.base import Engine
from .grouping import group_parameters
from .kernel_choice import choose_kernels
from .metrics import Window
from .reference import BatchSize, ReferenceSet, collect_gradient, isolated_randomness
from .schedule import RefreshSchedule
from .step import StepProjection
from .storage import storage_dtype
from .subspace import CapabilitySubspace, Gradients


logger = logging.getLogger(__name__)

MeanLoss = Callable[[list[dict[str, Any]]], Tensor]


class Controller:
    """Runs OGPSA beside a training loop.

    Args:
        arguments: validated arguments.
        engine: where gradients are.
        references: the reference sets; without any the subspace stays empty and training is plain.
        mean_loss: from a list of features to their mean loss, with a graph.
        batch_size: what a reference pass takes on each device.
        log: takes a dictionary of figures each time the subspace is refreshed.
        progress: makes a context manager from the number of rows of a refresh; its value is called with rows done.
        optimizer: the innermost optimizer of the training loop; without it, steps are not measured.

    Raises:
        OGPSAError: if steps are to be projected, and this optimizer's or engine's cannot be.
    """

    def __init__(
        self,
        arguments: OGPSAArguments,
        engine: Engine,
        references: Sequence[ReferenceSet],
        mean_loss: MeanLoss,
        batch_size: BatchSize,
        log: Callable[[dict[str, float]], None],
        progress: Callable[[int], Any],
        optimizer: Any = None,
    ) -> None:
        self.arguments = arguments
        self.engine = engine
        self.references = list(references)
        self.chunks = [(r, chunk) for r in self.references for chunk in range(len(r.chunks))]
        self.mean_loss = mean_loss
        self.batch_size = batch_size
        self.log = log
        self.progress = progress
        own = engine.gradient_dtype
        dtype = arguments.subspace_dtype or storage_dtype(own, engine.device)
        kernels = choose_kernels(
            arguments.ogpsa_kernels,
            sum(engine.sizes),
            (engine.devices or [engine.device])[0],
            (dtype, own),
            self.engine.on_any_rank,
        )
        self.subspace = CapabilitySubspace(
            group_parameters(engine.names, arguments.ogpsa_granularity),
            mode=arguments.ogpsa_mode,
            aligned_scale=arguments.ogpsa_aligned_scale,
            tolerance=arguments.ogpsa_tolerance,
            energy=arguments.ogpsa_energy,
            dtype=dtype,
            offload=arguments.ogpsa_offload,
            reduce=None if engine.replicated else engine.reduce,
            kernels=kernels,
        )
        self.window = Window(self.references)
        rows = batch_size.rows  # of a look, which costs the less the fewer there are
        self.schedule = RefreshSchedule(arguments, engine, self.subspace, self.references, mean_loss, rows, log)
        self.step = StepProjection(arguments, engine, self.subspace)
        self._measure = False  # whether the step that comes next is measured
        self.step.attach(optimizer, self.before_step, self.after_step)
        self._lost = False  # whether a checkpoint's subspace could not be restored
        self.coverage = Coverage(engine, self.subspace)
        logger.info("OGPSA runs on %s; this rank holds %d gradient elements.", self._origin(), sum(engine.sizes))

    def on_step_begin(self, step: int) -> None:
        """Refresh the subspace if it is due.

        Args:
            step: number of optimizer steps taken so far, t.
        """
        if self.chunks and (self._lost or self.schedule.due(step)):
            self.refresh(step)
        self._lost = False

    def refresh(self, step: int) -> None:
        """Compute the reference gradients at the current parameters and span the subspace by them."""
        started, limit = time.perf_counter(), self.engine.scale_limit
        with self.engine.set_aside():
            accepted, losses = self._collect(step)
            while not accepted and self.engine.lower_scale():
                accepted, losses = self._collect(step)
        if not accepted:
            self.engine.scale_limit = limit  # it was not the scale
            broken = [r.name for (r, _), loss in zip(self.chunks, losses, strict=False) if not math.isfinite(loss)]
            logger.warning(
                "Step %d: the reference gradient%s is not finite; %s. Training goes on.",
                step,
                f" of {', '.join(dict.fromkeys(broken))}" if broken else "",
                "the previous subspace is kept" if self.subspace.directions else "there is no subspace yet",
            )
        self.coverage.look(step)
        self.step.anchor()
        self.schedule.note(accepted)
        ranks = self.subspace.ranks.double()
        self.log(
            {
                **self.window.reference_losses(losses),
                "ogpsa/refresh_step": step,
                "ogpsa/refresh_accepted": float(accepted),
                "ogpsa/refresh_seconds": time.perf_counter() - started,
                "ogpsa/rank": float(ranks.mean()) if ranks.numel() else 0.0,
                "ogpsa/explained": self.subspace.explained,
                "ogpsa/subspace_mb": self.subspace.nbytes / 1e6,
            }
        )

    def _collect(self, step: int) -> tuple[bool, list[float]]:
        """Span the subspace by new reference gradients; returns whether they are finite, and their losses."""
        losses: list[float] = []
        with isolated_randomness(self.arguments.ogpsa_seed + step):
            accepted = self.subspace.refresh(self._reference_gradients(losses), len(self.chunks))
        return accepted, losses

    def _reference_gradients(self, losses: list[float]) -> Iterator[Gradients]:
        rows = sum(len(r.chunks[chunk]) for r, chunk in self.chunks)
        with self.progress(rows) as advance:
            for reference, chunk in self.chunks:
                gradients, loss = collect_gradient(
                    self.engine, reference, chunk, self.batch_size, self.mean_loss, advance
                )
                losses.append(loss)
                yield gradients
                gradients.clear()  # the consumer holds the list too, and a second gradient is too much memory
                self.engine.discard()

    def before_clipping(self, step: int, measure: bool = False) -> None:
        """Project the accumulated, reduced gradient; call it once per optimizer step, before clipping.

        Args:
            step: number of optimizer steps taken so far, t.
            measure: also measure the overlap that is left (one more read of the gradient and the subspace), and the
                step that the optimizer takes (a copy of the weights, and two more reads).
        """
        if not self.chunks:
            return
        self._measure = measure
        if self.coverage.due(step):  # out of turn, once in a period
            self.refresh(step)
            self.coverage.blank = []
        if self.step.projects:
            return
        gradients = self.engine.local_gradients()
        if self.arguments.ogpsa_monitor_only:
            self.window.add(self.subspace.would_remove(gradients), self.subspace)
            return
        self.window.add(self.subspace.project_(gradients, measure), self.subspace)
        self.engine.commit()

    def before_step(self) -> None:
        """The engine calls it before the optimizer's step."""
        self.step.before(self._measure)

    def after_step(self) -> None:
        """The engine calls it after the optimizer's step, when every rank has taken its own."""
        measured = self.step.after()
        if measured is not None:
            self.window.add_step(measured, self.subspace)

    def metrics(self) -> dict[str, float]:
        """Figures averaged over the steps since the last call."""
        return self.window.read()

    def fingerprint(self) -> str:
        """Hash of everything that a stored subspace must agree on with this run."""
        return checkpoint.fingerprint(
            names=self.engine.names,
            sizes=self.engine.sizes,
            engine="replicated" if self.engine.replicated else self.engine.label,
            shards=self.engine.shards,
            references=[(r.name, r.fingerprint, [len(c) for c in r.chunks]) for r in self.references],
            granularity=self.arguments.ogpsa_granularity,
            tolerance=self.arguments.ogpsa_tolerance,
            energy=self.arguments.ogpsa_energy,
            dtype=str(self.subspace.dtype),
            loss=(self.arguments.ogpsa_reference_loss, self.arguments.ogpsa_reference_average),
            # A mean of batches' means depends on how many ranks there are.
            ranks=self.engine.world_size if self.arguments.ogpsa_reference_average == "batch" else None,
        )

    def save(self, folder: Path, writes_shared: bool) -> None:
        """Store the subspace in a checkpoint folder.

        Args:
            folder: the checkpoint's folder.
            writes_shared: whether this process writes what all ranks have in common.
        """
        if self.chunks and (writes_shared or not self.engine.replicated):
            own = {
                "blank": torch.tensor(self.coverage.blank, dtype=torch.int64),
                "scale_limit": torch.tensor(self.engine.scale_limit, dtype=torch.float64),
            }
            anchors = {f"anchor.{key}": tensor for key, tensor in self.step.anchors.items()}
            state = {**self.subspace.state_dict(), **anchors, **own, **self.schedule.state_dict()}
            checkpoint.save(folder, self._shard(), state, self.fingerprint(), self._origin())

    def resume(self, folder: Path) -> None:
        """Restore the subspace of a checkpoint; where it is missing or does not fit, it is computed anew."""
        state, reason = checkpoint.load(folder, self._shard(), self.fingerprint(), self._origin())
        # Ranks must agree: one that computes alone would wait for the others for ever.
        missing = self.engine.on_any_rank(state is None)
        if state is not None and not missing:
            self.subspace.load_state_dict(state, self.engine.sizes, self.engine.devices)
            self.coverage.blank = state["blank"].tolist()
            self.schedule.load_state_dict(state)
            self.step.anchor({key.removeprefix("anchor."): state[key] for key in state if key.startswith("anchor.")})
            self.engine.scale_limit = float(state["scale_limit"])
        elif self.chunks:
            self._lost = True
            why = reason or "another rank has none"
            logger.warning("The subspace is computed anew: %s. The resumed run may differ from an unbroken one.", why)

    def _shard(self) -> str:
        return "shared" if self.engine.replicated else f"rank-{self.engine.rank:05d}-of-{self.engine.world_size:05d}"

    def _origin(self) -> str:
        ranks = self.engine.world_size
        return f"{self.engine.label} on {ranks} rank{'s' if ranks > 1 else ''}"
