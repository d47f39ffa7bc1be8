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
        times = [float(entry["train_runtime"]) for entry in history if "train_runtime" in entry]
        steps = int(state["global_step"])
    except (OGPSAError, TypeError, KeyError, ValueError):
        return None
    if not log:
        return None
    # Where a run was resumed, the time is that of its last part alone.
    whole = len(times) == 1 and log[0]["step"] <= int(state.get("logging_steps") or 1)
    seconds = times[0] if whole else None
    return Run(
        method=model.label, pipeline=model.pipeline, panel=model.pipeline, log=log, seconds=seconds, steps=steps
    )
