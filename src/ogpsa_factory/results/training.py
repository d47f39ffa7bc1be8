"""The training of evaluated models, where their output folders are at hand: what LLaMA-Factory left there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import OGPSAError
from ..files import read_json
from .curves import Run
from .models import Model


STATE = "trainer_state.json"
_SAME_LOSS = 0.1  # of the mean: the last steps may not have been logged


def training_runs(models: Sequence[Model]) -> list[Run]:
    """Read the logs of the last stage of each model's training.

    Args:
        models: evaluated ones; those without a readable `trainer_state.json` in their folder are left out.

    Returns:
        The runs, in the models' order.
    """
    found = []
    for model in models:
        adapters = model.record.get("adapters") or []
        folder = adapters[-1] if adapters else model.record.get("path")
        run = _read(Path(str(folder)) / STATE, model) if folder else None
        found += [run] if run else []
    return found


def _read(path: Path, model: Model) -> Run | None:
    try:
        state = read_json(path)
        history: list[dict[str, Any]] = state["log_history"]
        log = [entry for entry in history if "loss" in entry and "step" in entry]
        steps = int(state["global_step"])
    except (OGPSAError, TypeError, KeyError, ValueError):
        return None
    if not log:
        return None
    return Run(
        method=model.label,
        pipeline=model.pipeline,
        panel=model.pipeline,
        log=log,
        seconds=_seconds(history),
        steps=steps,
    )


def _seconds(history: list[dict[str, Any]]) -> float | None:
    """The time of training, unless it was resumed: then the Trainer's time is that of the last part alone.

    A resumed run is known by its `train_loss`, the last part's sum of losses over all steps, which is far below their
    mean.
    """
    ends = [entry for entry in history if "train_runtime" in entry]
    losses = [float(entry["loss"]) for entry in history if "loss" in entry]
    if len(ends) != 1 or not losses or "train_loss" not in ends[0]:
        return None
    mean = sum(losses) / len(losses)
    whole = abs(float(ends[0]["train_loss"]) - mean) <= _SAME_LOSS * abs(mean)
    return float(ends[0]["train_runtime"]) if whole else None
