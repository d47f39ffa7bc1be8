"""Whole periods of training: naive steps, the same with reference passes that are thrown away, and OGPSA.

A period is one refresh and the K steps after it, with the paper's proportions: 128 rows a step, two sets of 200 rows,
K = 30 as in SFT or 5 as in DPO. What OGPSA costs beyond the bare passes is all else that it does.

Kinds take turns step by step, in an order that is drawn anew each time, so that a machine that is slow for a minute is
slow for all of them.
"""

import random
import time
from collections.abc import Sequence
from typing import Any

import torch
from common import Rows, machine, make_controller, make_model, mean_loss, rows, seconds_of, spread

from ogpsa_factory.reference import BatchSize, plan_batches


BATCH, MICRO_BATCH, SETS, ROWS = 128, 16, 2, 200
KINDS = ("naive", "bare passes", "gradient", "preconditioned")


class Training:
    """One kind of training, a refresh or a step at a time."""

    def __init__(self, kind: str, size: str, device: torch.device, references: list[Rows]) -> None:
        self.kind, self.device = kind, device
        self.model = make_model(size, device)
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-6)
        self.projects = kind not in ("naive", "bare passes")
        project = kind if self.projects else "gradient"
        self.controller = make_controller(self.model, self.optimizer, references, MICRO_BATCH, ogpsa_project=project)
        if not self.projects:
            self.controller.engine.release()

    def refresh(self) -> float:
        """What this kind does every K steps; returns seconds."""
        return seconds_of(self._refresh, self.device)

    def step(self, batch: Rows, number: int) -> float:
        """One step; returns seconds."""
        return seconds_of(lambda: self._step(batch, number), self.device)

    def _refresh(self) -> None:
        if self.projects:
            self.controller.refresh(0)
        elif self.kind == "bare passes":
            for reference in self.controller.references:
                for batch in plan_batches(reference, 0, BatchSize(MICRO_BATCH), 0, 1):
                    mean_loss(self.model, [reference.rows[i] for i in batch]).backward()
                self.model.zero_grad(set_to_none=True)

    def _step(self, batch: Rows, number: int) -> None:
        for start in range(0, BATCH, MICRO_BATCH):
            share = mean_loss(self.model, batch[start : start + MICRO_BATCH])
            (share * (MICRO_BATCH / BATCH)).backward()
        if self.projects:
            self.controller.before_clipping(number)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def measure(
    size: str, device: torch.device, length: int, period: int, rounds: int, kinds: Sequence[str] = KINDS
) -> dict[str, Any]:
    """Run periods of all kinds side by side.

    Args:
        size: key of ``SIZES``.
        device: where to train.
        length: tokens per row.
        period: K.
        rounds: measured periods of each kind.
        kinds: which of ``KINDS``; the first two among them.

    Returns:
        Seconds of each kind's periods and of the refreshes in them, and ratios to the naive period of the same round.
    """
    vocabulary = make_model(size, torch.device("meta")).config.vocab_size
    references = [rows(ROWS, vocabulary, length) for _ in range(SETS)]
    trainings = [Training(kind, size, device, references) for kind in kinds]
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    refreshes: dict[str, list[float]] = {kind: [] for kind in kinds}
    order = random.Random(0)
    for each in trainings:  # compiles, and fills caches
        each.refresh()
        each.step(rows(BATCH, vocabulary, length), 1)
    for _ in range(rounds):
        for each in order.sample(trainings, len(trainings)):
            refreshes[each.kind].append(each.refresh())
            seconds[each.kind].append(refreshes[each.kind][-1])
        for number in range(1, period + 1):
            batch = rows(BATCH, vocabulary, length)
            for each in order.sample(trainings, len(trainings)):
                seconds[each.kind][-1] += each.step(batch, number)
    ratios = {kind: [a / b for a, b in zip(seconds[kind], seconds["naive"], strict=True)] for kind in kinds}
    bare = ratios["bare passes"]
    over = {k: [100 * (a - b) for a, b in zip(ratios[k], bare, strict=True)] for k in kinds[2:]}
    return {
        "size": size,
        "parameters": sum(p.numel() for p in trainings[0].parameters),
        "period": period,
        "tokens_per_step": BATCH * length,
        "rows_per_refresh": SETS * ROWS,
        "rounds": rounds,
        "seconds": {kind: spread(values) for kind, values in seconds.items()},
        "refresh": {kind: spread(values) for kind, values in refreshes.items()},
        "ratio": {kind: spread(values) for kind, values in ratios.items()},
        "points_over_bare_passes": {kind: spread(values) for kind, values in over.items()},
        **machine(device),
        "finished": time.strftime("%Y-%m-%d"),
    }
