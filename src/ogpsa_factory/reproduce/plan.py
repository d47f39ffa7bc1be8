"""The plan of a table: every run once, in order, with what it needs and takes; nothing is started."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import OGPSAError
from ..pipeline.chain import Stage
from . import data, evaluation
from .cost import Cost, cost_of, counts_of
from .hardware import Hardware
from .memory import memory_of
from .standing import Standing, standing_of
from .tables import Row, Table


PAPER_BATCH = 128


@dataclass(frozen=True)
class Run:
    """One stage that will be run, or has been.

    Attributes:
        stage: of a pipeline.
        model: whose parameters it trains.
        rows: names of the table's rows that need it.
        cost: what it takes.
        memory: bytes on one GPU and the engine; None where no GPU is needed.
        standing: how far it is.
    """

    stage: Stage
    model: str
    rows: tuple[str, ...]
    cost: Cost
    memory: tuple[int, str] | None
    standing: Standing

    @property
    def on_gpu(self) -> bool:
        """Whether it takes a GPU."""
        return not self.stage.merges and not self.stage.config.get("use_cpu")


@dataclass(frozen=True)
class Plan:
    """All that is known before anything starts.

    Attributes:
        table: the table.
        hardware: what it is planned for.
        mfu: share of the peak that training reaches.
        runs: in order.
        missing: data sets that are not there, by name with the command that makes each.
        assumed: data sets whose tokens are assumed, being not there.
        evaluation: of all rows; None in the miniature world, where it takes no GPU.
    """

    table: Table
    hardware: Hardware
    mfu: float
    runs: tuple[Run, ...]
    missing: dict[str, str]
    assumed: tuple[str, ...]
    evaluation: evaluation.Estimate | None

    def hours(self, operations: float) -> float:
        """GPU-hours of training operations."""
        return operations / (self.hardware.gpu.tflops * 1e12 * self.mfu * 3600)

    @property
    def left(self) -> list[Run]:
        """Runs that are still to be done and take a GPU."""
        return [run for run in self.runs if not run.standing.finished and run.on_gpu]

    @property
    def disk(self) -> tuple[float, float]:
        """Bytes of final models and of checkpoints; nothing is removed on the way, so the sum is the peak."""
        models = sum(run.cost.model_bytes for run in self.runs)
        return models, sum(run.cost.checkpoint_bytes for run in self.runs)

    def warnings(self) -> Iterator[str]:
        """What will go wrong, or is not as in the paper."""
        gpu = self.hardware.gpu
        refused = [run for run in self.runs if run.standing.refusal]
        if refused:
            more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
            yield (
                f"{refused[0].stage.output}{more} will be refused, and nothing will be started: "
                f"{refused[0].standing.refusal} Or choose --runs DIR for a second run of the table."
            )
        for run in self.runs:
            if run.memory and run.memory[0] > gpu.memory * 1e9 and not run.standing.finished:
                yield (
                    f"{run.stage.output} does not fit: {run.memory[0] / 1e9:.0f} GB on a GPU of {gpu.memory:g} GB "
                    f"with {run.memory[1]}. Add an engine that divides more, e.g. "
                    "deepspeed=examples/deepspeed/zero3.json."
                )
        batches = {run.cost.batch for run in self.left} - {PAPER_BATCH}
        if batches:
            yield (
                f"The batch is {', '.join(map(str, sorted(batches)))} rows on {self.hardware.count} GPUs and "
                f"{PAPER_BATCH} in the paper: change sft.gradient_accumulation_steps=N and "
                "dpo.gradient_accumulation_steps=N."
            )
        free, needed = _free(self.runs), sum(self.disk)
        if free is not None and needed > free:
            yield (
                f"{needed / 1e9:.0f} GB of disk are needed and {free / 1e9:.0f} GB are free. Of checkpoints, "
                "save_total_limit=1 keeps one per run, save_strategy=no none (an interrupted run then starts anew)."
            )


def make_plan(table: Table, hardware: Hardware, mfu: float, mini: bool) -> Plan:
    """Compute a plan.

    Args:
        table: what is to be run.
        hardware: on what.
        mfu: share of the peak that training reaches.
        mini: whether it is the miniature world.

    Returns:
        The plan.

    Raises:
        OGPSAError: a run cannot be planned.
    """
    if not 0 < mfu <= 1:
        raise OGPSAError(f"--mfu {mfu:g} is not possible: it is a share, above 0 and at most 1.")
    first = {
        stage.output: str(row.stages[0].config["model_name_or_path"]) for row in table.rows for stage in row.stages
    }
    runs = tuple(
        Run(
            stage,
            first[output],
            tuple(rows),
            cost_of(stage, first[output], hardware.count),
            memory_of(stage, first[output], hardware.count),
            standing_of(stage),
        )
        for output, (stage, rows) in table.runs().items()
    )
    stages = [run.stage for run in runs]
    missing = data.missing(stages)
    used = dict.fromkeys(name for stage in stages for name in (*data.sets_of(stage), *data.references_of(stage)))
    assumed = tuple(name for name in used if name in missing)
    estimate = None if mini else evaluation.estimate([_parameters(row) for row in table.rows], table.benchmarks)
    return Plan(table, hardware, mfu, runs, missing, assumed, estimate)


def _parameters(row: Row) -> int:
    model = str(row.stages[0].config["model_name_or_path"]) if row.stages else row.model
    return counts_of({"finetuning_type": "full"}, model).total


def _free(runs: tuple[Run, ...]) -> int | None:
    """Free bytes where runs are written."""
    if not runs:
        return None
    place = runs[0].stage.output.resolve()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(Path(place)).free
