"""What will be done with each stage: skipped, resumed or run from its beginning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from ..checkpoint import holds_optimizer, last_whole
from ..errors import OGPSAError
from .chain import Stage
from .state import RunDirectory


@dataclass(frozen=True)
class Step:
    """One stage and what will be done with it; one that merges is never resumed, as it leaves no checkpoints."""

    stage: Stage
    action: Literal["skip", "resume", "run"]
    checkpoint: Path | None = None
    reason: str = ""  # why a stage that was begun is not resumed

    def __str__(self) -> str:
        """Say it in words."""
        return {
            "skip": "skip: finished",
            "resume": f"resume from {self.checkpoint.name if self.checkpoint else None}",
            "run": "run from the beginning" + (f": {self.reason}" if self.reason else ""),
        }[self.action]

    def launched_config(self) -> dict[str, Any]:
        """Arguments that LLaMA-Factory gets.

        The checkpoint is named here because LLaMA-Factory would take the last one even if a kill has cut it short. One
        that the user names counts for a fresh start only: what was trained since then would be lost otherwise.

        Returns:
            The stage's arguments with the two that decide on resuming.
        """
        if self.stage.merges:
            return self.stage.config
        config = {**self.stage.config, "overwrite_output_dir": self.checkpoint is None}
        if self.checkpoint is not None:
            config["resume_from_checkpoint"] = str(self.checkpoint)
        elif isinstance(config.get("resume_from_checkpoint"), bool):  # "from the last one", and there is none
            del config["resume_from_checkpoint"]
        return config

    def launched_yaml(self) -> str:
        """The same as a YAML document."""
        return yaml.safe_dump(self.launched_config(), sort_keys=False, allow_unicode=True)


def make_plan(stages: list[Stage], run: RunDirectory, restart: str | None) -> list[Step]:
    """Decide on every stage; nothing is changed.

    Args:
        stages: the pipeline's stages.
        run: the run directory.
        restart: a stage's name to run it and all after it anew, an empty name for all stages, or None to go on.

    Returns:
        One step per stage.

    Raises:
        OGPSAError: what is there was made with other arguments, or is not there any more.
    """
    names = [stage.name for stage in stages]
    if restart and restart not in names:
        raise OGPSAError(f"--restart {restart}: there is no such stage. Stages are: {', '.join(names)}.")
    first_anew = len(stages) if restart is None else names.index(restart or names[0])
    return [_make_step(stage, run, anew=i >= first_anew) for i, stage in enumerate(stages)]


def _make_step(stage: Stage, run: RunDirectory, anew: bool) -> Step:
    if stage.output.exists() and not run.owns(stage):
        raise OGPSAError(
            f"{stage.output}, where stage {stage.name} is to write, was not made by this pipeline. Move it away."
        )
    status = run.status(stage)
    if anew or status == "pending":
        return Step(stage, "run")
    restart = f"run with `--restart {stage.name}` (it and the stages after it are trained anew)"
    if status == "finished" and not stage.output.is_dir():
        raise OGPSAError(f"Stage {stage.name} is finished, but {stage.output} is gone. To train it again, {restart}.")
    checkpoint = last_whole(stage.output)
    if status != "finished" and checkpoint is None:
        return Step(stage, "run")
    if status != "finished" and checkpoint is not None and not holds_optimizer(checkpoint):
        return Step(stage, "run", reason=f"{checkpoint.name} holds no optimizer state (save_only_model)")
    differences = run.differences(stage)
    if differences:
        done = "is finished" if status == "finished" else "is half finished"
        raise OGPSAError(
            f"Stage {stage.name} {done} with other arguments: {'; '.join(differences)}. "
            f"Put them back, {restart}, or choose another output_dir."
        )
    return Step(stage, "skip") if status == "finished" else Step(stage, "resume", checkpoint)
