"""Time of an optimizer step between two refreshes, over a naive one.

Steps are forward, backward, clipping and AdamW, each kind on a model of its own through the controller that training
uses, with two reference gradients. The kinds take turns on the same batch, in an order that is drawn anew each time,
and ratios are taken within a round, so that a machine that slows down slows all.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from common import Rows, machine, make_controller, make_model, mean_loss, rows, seconds_of, spread
from yardstick import HookedProjection, directions_of


REFERENCES, WARM_UP = 2, 2


@dataclass(frozen=True)
class Kind:
    """A kind of step: arguments of OGPSA, none for naive; whether it is logged; or which yardstick."""

    arguments: dict[str, Any] | None = None
    logged: bool = False
    yardstick: str = ""


PROJECTS = ("gradient", "update", "preconditioned")
KINDS = {
    "naive": Kind(),
    **{project: Kind({"ogpsa_project": project}) for project in PROJECTS},
    **{f"gradient, {each}": Kind({"ogpsa_granularity": each}) for each in ("layer", "global")},
    "gradient, conflict": Kind({"ogpsa_mode": "conflict"}),
    **{f"gradient, {dtype} subspace": Kind({"ogpsa_subspace_dtype": dtype}) for dtype in ("bfloat16", "float32")},
    "gradient, plain kernels": Kind({"ogpsa_kernels": "plain"}),
    **{f"{project}, logged": Kind({"ogpsa_project": project}, logged=True) for project in PROJECTS},
    "hooks": Kind({}, yardstick="plain"),
    "hooks, with care": Kind({}, yardstick="careful"),
}


class Training:
    """A model, its optimizer, and what changes its gradients or steps."""

    def __init__(
        self, size: str, device: torch.device, dtype: torch.dtype, kind: Kind, references: list[Rows]
    ) -> None:
        self.model = make_model(size, device, dtype)
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-6)
        self.device = device
        self.controller = self.hooks = None
        self.own = 0.0  # seconds of the last step spent in projecting
        if kind.arguments is None:
            return
        controller = make_controller(self.model, self.optimizer, references, len(references[0]), **kind.arguments)
        controller.on_step_begin(0)
        if kind.yardstick:
            self.hooks = HookedProjection(
                self.model, directions_of(controller.subspace, self.parameters), kind.yardstick == "careful"
            )
            controller.engine.release()
            return
        controller.step.before = self._timed(controller.step.before)
        controller.step.after = self._timed(controller.step.after)
        controller.before_clipping = self._timed(controller.before_clipping)
        self.controller = controller

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            result: list[Any] = []
            self.own += seconds_of(lambda: result.append(function(*args, **kwargs)), self.device)
            return result[0]

        return call

    def step(self, batch: Rows, accumulation: int, number: int, logged: bool) -> float:
        """Take one step; returns its seconds."""
        self.own = 0.0
        if self.hooks is not None:
            self.hooks.seconds = 0.0
        taken = seconds_of(lambda: self._step(batch, accumulation, number, logged), self.device)
        if self.hooks is not None:
            self.own = self.hooks.seconds
        return taken

    def _step(self, batch: Rows, accumulation: int, number: int, logged: bool) -> None:
        share = len(batch) // accumulation
        for start in range(0, len(batch), share):
            (mean_loss(self.model, batch[start : start + share]) / accumulation).backward()
        if self.controller is not None:
            self.controller.before_clipping(number, measure=logged)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def measure(
    size: str,
    device: torch.device,
    dtype: torch.dtype,
    sequences: int,
    accumulations: list[int],
    rounds: int,
    kinds: dict[str, Kind],
) -> dict[str, Any]:
    """Run all kinds side by side.

    Args:
        size: key of ``SIZES``.
        device: where to train.
        dtype: of weights and gradients.
        sequences: rows per step, of ``LENGTH`` tokens.
        accumulations: in how many micro-batches a step is cut.
        rounds: measured steps of each kind and accumulation.
        kinds: which.

    Returns:
        Per accumulation and kind seconds, own seconds and ratios to the naive step of the same round.
    """
    vocabulary = make_model(size, torch.device("meta")).config.vocab_size
    references = [rows(min(sequences, 16), vocabulary) for _ in range(REFERENCES)]
    of_kind = {name: Kind(kind.arguments, yardstick=kind.yardstick) for name, kind in kinds.items()}
    trainings: dict[str, Training] = {}
    for name, kind in of_kind.items():  # logged steps are taken by the model that takes the others
        same = next((trainings[other] for other in trainings if of_kind[other] == kind), None)
        trainings[name] = same or Training(size, device, dtype, kind, references)
    results = []
    for accumulation in accumulations:
        seconds: dict[str, list[float]] = {name: [] for name in kinds}
        own: dict[str, list[float]] = {name: [] for name in kinds}
        names, order = list(kinds), random.Random(0)
        for number in range(WARM_UP + rounds):
            batch = rows(sequences, vocabulary)
            for name in order.sample(names, len(names)):
                taken = trainings[name].step(batch, accumulation, number, kinds[name].logged)
                if number >= WARM_UP:
                    seconds[name].append(taken)
                    own[name].append(trainings[name].own)
        ratios = {n: [a / b for a, b in zip(seconds[n], seconds["naive"], strict=True)] for n in names}
        cells = {
            name: {"seconds": spread(seconds[name]), "own": spread(own[name]), "ratio": spread(ratios[name])}
            for name in names
        }
        results.append({"accumulation": accumulation, "kinds": cells})
    return {
        "size": size,
        "parameters": sum(p.numel() for p in trainings["naive"].parameters),
        "dtype": str(dtype).removeprefix("torch."),
        "tokens_per_step": sequences * len(references[0][0]["input_ids"]),
        "references": REFERENCES,
        "rounds": rounds,
        "results": results,
        **machine(device),
        "finished": time.strftime("%Y-%m-%d"),
    }
