"""Whether a stage fits on a GPU: the prediction of `ogpsa doctor --plan` for its arguments."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml

from ..footprint import ENGINES
from ..footprint.run import predict_run
from ..footprint.settings import Settings, read_settings
from ..pipeline.chain import Stage
from . import data
from .models import parameters_of


def memory_of(stage: Stage, model: str, gpus: int) -> tuple[int, str] | None:
    """Predict what a stage takes on one GPU, without activations.

    Args:
        stage: of a pipeline.
        model: the one whose parameters it trains.
        gpus: their number.

    Returns:
        Bytes at the peak and the engine's name; None for a stage that needs no GPU.

    Raises:
        OGPSAError: the stage asks for what has no prediction.
    """
    if stage.merges or stage.config.get("use_cpu"):
        return None
    settings = _settings(stage.config, model)
    tuning = settings.tuning
    parameters = parameters_of(model, tuning.method, tuning.rank, ",".join(tuning.targets))
    engine = settings.engine or "ddp"
    footprint = predict_run(settings, parameters, engine, gpus)
    used = footprint.device.peak if data.references_of(stage) else footprint.device.training
    return used, ENGINES[engine].label


def _settings(config: dict[str, Any], model: str) -> Settings:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "stage.yaml"
        file.write_text(yaml.safe_dump({**config, "model_name_or_path": model}), encoding="utf-8")
        return read_settings(str(file))
