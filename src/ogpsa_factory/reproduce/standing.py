"""How far the runs of a table are, as `ogpsa pipeline` would find them: nothing is trained before all can go on."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from ..errors import OGPSAError
from ..pipeline.chain import Stage
from ..pipeline.plan import make_plan
from ..pipeline.state import RunDirectory
from .tables import Table


@dataclass(frozen=True)
class Standing:
    """How far one stage is.

    Attributes:
        finished: whether it has been run with these arguments, so that it is skipped.
        refusal: why a pipeline will refuse it; empty where it will not.
    """

    finished: bool
    refusal: str = ""


def standing_of(stage: Stage) -> Standing:
    """Find out how far a stage is.

    Args:
        stage: of a pipeline.

    Returns:
        What is done, or why it cannot go on.
    """
    try:
        (step,) = make_plan([stage], RunDirectory(stage.output.parent), None)
    except OGPSAError as error:
        return Standing(False, str(error))
    return Standing(step.action == "skip")


def refuse_changed(table: Table) -> None:
    """Refuse to start where a run was made with other arguments, before hours are spent on those in front of it.

    Args:
        table: what is to be run.

    Raises:
        OGPSAError: naming the first such run, and the ways out.
    """
    for output, (stage, _) in table.runs().items():
        refusal = standing_of(stage).refusal
        if refusal:
            row = next(row for row in table.rows if stage.output in [each.output for each in row.stages])
            command = shlex.join(["ogpsa", "pipeline", str(row.file), *row.overrides, "--restart", stage.name])
            raise OGPSAError(
                f"Nothing was started: {output} cannot go on. {refusal}\n"
                "For `ogpsa reproduce`, choose --runs DIR, and --output DIR, for a second run of the table; or train "
                f"this one again with\n    {command}"
            )
