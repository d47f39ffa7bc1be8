"""What a stage costs: operations, hours, bytes on disk, from numbers of parameters and tokens.

With N parameters and T tokens, in operations (multiplications and additions):

- training of all weights 6·N·T (forward 2, backward 4); of adapters 4·N·T: frozen weights need no gradients;
- DPO reads two sequences per row, and its reference policy reads them too: 2·N·T more;
- a refresh of OGPSA's subspace every K steps: 6·N (4·N) per token of the reference rows;
- generation 2·N per token of prompt and answer.

Recomputed activations (gradient checkpointing) are not counted, as is usual for the share of the peak that training
reaches (`--mfu`). Hours = operations / (peak · share · 3600), summed over all GPUs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import OGPSAError
from ..pipeline.chain import Stage
from . import data
from .models import Counts, count, parameters_of
from .values import number, whole


_FORWARD, _BACKWARD = 2, 4
_OPTIMIZER_BYTES = 12  # AdamW's two moments and the master weights, in float32
_WEIGHT_BYTES = 2  # bf16
_WITHOUT_REFERENCE = ("orpo", "simpo")  # losses of the DPO stage that compare with no reference policy


@dataclass(frozen=True)
class Cost:
    """What one stage takes.

    Attributes:
        batch: rows per optimizer step, over all GPUs.
        steps: optimizer steps.
        refreshes: of the subspace.
        rows: training rows that are read, over all epochs.
        reference_rows: reference rows that are read, over all refreshes.
        training: operations of training, the reference policy's included.
        refreshing: operations of refreshes.
        model_bytes: of the model, or the adapter, that is left.
        checkpoint_bytes: of all checkpoints that are kept.
    """

    batch: int
    steps: int
    refreshes: int
    rows: int
    reference_rows: int
    training: float
    refreshing: float
    model_bytes: float
    checkpoint_bytes: float

    @property
    def operations(self) -> float:
        """All of them."""
        return self.training + self.refreshing


def cost_of(stage: Stage, model: str, gpus: int) -> Cost:
    """Compute what a stage takes.

    Args:
        stage: of a pipeline.
        model: the one whose parameters it trains: the pipeline's first.
        gpus: their number, which decides on the batch.

    Returns:
        The cost; of a stage that merges, the model that it leaves.

    Raises:
        OGPSAError: a data set or the model's configuration cannot be read.
    """
    config = stage.config
    if stage.merges:
        size = _WEIGHT_BYTES * counts_of(config, model).total
        return Cost(0, 0, 0, 0, 0, 0.0, 0.0, size, 0.0)
    counts = counts_of(config, model)
    folder, cutoff = Path(str(config.get("dataset_dir", "data"))), whole(config, "cutoff_len", 2048)
    sizes = [data.size_of(folder, name, cutoff) for name in data.sets_of(stage)]
    references = [data.size_of(folder, name, cutoff) for name in data.references_of(stage)]
    rows = sum(size.rows for size in sizes)
    if not rows:
        raise OGPSAError(f"Stage {stage.name} names no data set to train on: set its dataset.")
    tokens = sum(size.rows * (size.first + size.second) for size in sizes) / rows  # of a row
    batch, steps = _steps(config, rows, 1 if config.get("use_cpu") else gpus)
    refreshes = math.ceil(steps / whole(config, "ogpsa_refresh_steps", steps)) if references else 0
    asked = whole(config, "ogpsa_reference_samples", 200)
    taken = [(min(asked, size.rows), size.first) for size in references]
    per_token = _FORWARD + _BACKWARD if counts.trained == counts.total else _BACKWARD
    compared = "dpo" in str(config.get("stage")) and config.get("pref_loss") not in _WITHOUT_REFERENCE
    read = steps * batch if _longest(config) > 0 else rows * _epochs(config)
    return Cost(
        batch,
        steps,
        refreshes,
        round(read),
        refreshes * sum(count for count, _ in taken),
        counts.total * read * tokens * (per_token + (_FORWARD if compared else 0)),
        counts.total * refreshes * sum(count * first for count, first in taken) * per_token,
        _WEIGHT_BYTES * (counts.total if per_token == 6 else counts.trained),
        _checkpoints(config, steps) * _checkpoint_bytes(counts, len(references) * whole(config, "ogpsa_rank", 1)),
    )


def counts_of(config: dict[str, Any], model: str) -> Counts:
    """Numbers of parameters of a stage.

    Args:
        config: the stage's arguments.
        model: the one whose parameters it trains.

    Returns:
        The numbers.
    """
    method = str(config.get("finetuning_type", "lora"))
    rank, targets = whole(config, "lora_rank", 8), str(config.get("lora_target", "all"))
    return count(parameters_of(model, method, rank, targets))


def _steps(config: dict[str, Any], rows: int, gpus: int) -> tuple[int, int]:
    """Batch and optimizer steps, as the Trainer counts them."""
    accumulated = whole(config, "gradient_accumulation_steps", 1)
    micro = whole(config, "per_device_train_batch_size", 8) * gpus
    longest = _longest(config)
    if longest > 0:
        return micro * accumulated, longest
    per_epoch = max(1, math.ceil(math.ceil(rows / micro) / accumulated))
    return micro * accumulated, math.ceil(per_epoch * _epochs(config))


def _longest(config: dict[str, Any]) -> int:
    """The limit of optimizer steps; below 1 where there is none."""
    return whole(config, "max_steps", -1, least=None)


def _epochs(config: dict[str, Any]) -> float:
    return number(config, "num_train_epochs", 3.0)


def _checkpoints(config: dict[str, Any], steps: int) -> int:
    strategy = str(config.get("save_strategy", "steps"))
    if strategy == "no":
        return 0
    made = math.ceil(_epochs(config)) if strategy == "epoch" else steps // _period(config, steps)
    limit = made if config.get("save_total_limit") is None else whole(config, "save_total_limit", made, least=None)
    return min(made, limit) if limit > 0 else made  # the Trainer keeps all where the limit is not above 0


def _period(config: dict[str, Any], steps: int) -> int:
    """Steps between checkpoints; below 1, `save_steps` is a share of all steps."""
    every = number(config, "save_steps", 500)
    return math.ceil(every * steps) if every < 1 else int(every)


def _checkpoint_bytes(counts: Counts, directions: int) -> float:
    """Weights that are trained, AdamW's state, and the subspace."""
    return counts.trained * (_WEIGHT_BYTES + _OPTIMIZER_BYTES + _WEIGHT_BYTES * directions)
