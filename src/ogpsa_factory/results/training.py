"""The training of evaluated models, where their output folders are at hand: what LLaMA-Factory left there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
        history = read_json(path)["log_history"]
        log = [entry for entry in history if "loss" in entry and "step" in entry]
        seconds = next((entry["train_runtime"] for entry in history if "train_runtime" in entry), None)
    except (OGPSAError, TypeError, KeyError):
        return None
    return Run(model.label, model.pipeline, log, seconds, log[-1]["step"]) if log else None
