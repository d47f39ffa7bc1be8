"""Whole periods of training: naive steps, the same with reference passes that are thrown away, and OGPSA.

A period is one refresh and the K steps after it, with the paper's proportions: 128 rows a step, two sets of 200 rows,
K = 30 as in SFT or 5 as in DPO. What OGPSA costs beyond the bare passes is all else that it does.
"""

import time
from typing import Any

import torch
from common import Rows, machine, make_controller, make_model, mean_loss, rows, seconds_of, spread

from ogpsa_factory.reference import BatchSize, plan_batches


BATCH, MICRO_BATCH, SETS, ROWS = 128, 16, 2, 200
KINDS = ("naive", "bare passes", "gradient", "preconditioned")


class Period:
    """One kind of training and what it does in a period."""

    def __init__(self, kind: str, size: str, device: torch.device, references: list[Rows]) -> None:
        self.kind, self.device = kind, device
        self.model = make_model(size, device)
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-6)
        project = kind if kind in ("gradient", "preconditioned") else "gradient"
        self.controller = make_controller(self.model, self.optimizer, references, MICRO_BATCH, ogpsa_project=project)
        if kind in ("naive", "bare passes"):
            self.controller.engine.release()

    def run(self, steps: list[Rows]) -> float:
        """A refresh of its kind, and the steps; returns seconds."""
        return seconds_of(lambda: self._run(steps), self.device)

    def _run(self, steps: list[Rows]) -> None:
        if self.kind == "bare passes":
            for reference in self.controller.references:
                for batch in plan_batches(reference, 0, BatchSize(MICRO_BATCH), 0, 1):
                    mean_loss(self.model, [reference.rows[i] for i in batch]).backward()
                self.model.zero_grad(set_to_none=True)
        elif self.kind != "naive":
            self.controller.refresh(0)
        for number, batch in enumerate(steps):
            for start in range(0, BATCH, MICRO_BATCH):
                share = mean_loss(self.model, batch[start : start + MICRO_BATCH])
                (share * (MICRO_BATCH / BATCH)).backward()
            if self.kind not in ("naive", "bare passes"):
                self.controller.before_clipping(number + 1)
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)


def measure(size: str, device: torch.device, length: int, period: int, rounds: int) -> dict[str, Any]:
    """Run periods of all kinds in turn.

    Args:
        size: key of ``SIZES``.
        device: where to train.
        length: tokens per row.
        period: K.
        rounds: measured periods of each kind.

    Returns:
        Seconds of each kind, and ratios to the naive period of the same round.
    """
    vocabulary = make_model(size, torch.device("meta")).config.vocab_size
    references = [rows(ROWS, vocabulary, length) for _ in range(SETS)]
    periods = {kind: Period(kind, size, device, references) for kind in KINDS}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for each in periods.values():  # compiles, and fills caches
        each.run([rows(BATCH, vocabulary, length)])
    for number in range(rounds):
        steps = [rows(BATCH, vocabulary, length) for _ in range(period)]
        for kind in KINDS[number % len(KINDS) :] + KINDS[: number % len(KINDS)]:
            seconds[kind].append(periods[kind].run(steps))
    ratios = {kind: [a / b for a, b in zip(seconds[kind], seconds["naive"], strict=True)] for kind in KINDS}
    bare = ratios["bare passes"]
    over = {k: [100 * (a - b) for a, b in zip(ratios[k], bare, strict=True)] for k in KINDS[2:]}
    return {
        "size": size,
        "parameters": sum(p.numel() for p in periods["naive"].parameters),
        "period": period,
        "tokens_per_step": BATCH * length,
        "rows_per_refresh": SETS * ROWS,
        "seconds": {kind: spread(values) for kind, values in seconds.items()},
        "ratio": {kind: spread(values) for kind, values in ratios.items()},
        "points_over_bare_passes": {kind: spread(values) for kind, values in over.items()},
        **machine(device),
        "finished": time.strftime("%Y-%m-%d"),
    }
