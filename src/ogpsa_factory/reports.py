"""`ogpsa report`: what a folder holds decides who reports it, evaluations (`results`) or grids of the lab (`lab`)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import OGPSAError
from .results import cli as evaluations


if TYPE_CHECKING:
    from .lab.report.study import Study


_FEW = 12  # cells of a grid


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `report` to a command line; it sets `handler`: from arguments to exit code.

    Args:
        subparsers: of the parser of `ogpsa`.
    """
    parser = evaluations.register(subparsers)
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Write a report of what some folders hold.

    Args:
        args: what `results.cli.register` added.

    Returns:
        0.

    Raises:
        OGPSAError: in what was asked for, or in a file that is read.
    """
    from .lab.grid.record import find_records, read_record

    folders = [Path(folder) for folder in args.folders]
    records = find_records([folder for folder in folders if folder.exists()])
    files = [folder for folder in folders if folder.is_file()]
    for path in files:
        read_record(path)  # says what is wrong with it
    if not records:
        return evaluations.run(args)
    for folder in folders:
        if not folder.exists():
            raise OGPSAError(f"There is no {folder}: name folders with results of `ogpsa lab run`, or such files.")
    without = [folder for folder in folders if not find_records([folder])]
    if without:
        raise OGPSAError(
            f"{without[0]} holds no results of `ogpsa lab run`, and {records[0]} is one: the two kinds of reports are "
            "made apart."
        )
    return _report_grids(records, args.output or (folders[0] if folders[0].is_dir() else folders[0].parent) / "report")


def in_order(studies: Sequence[Study]) -> list[Study]:
    """Sort grids: comparisons of methods before ablations, each by the number of its points.

    Args:
        studies: the grids.

    Returns:
        The same, sorted.
    """
    return sorted(studies, key=lambda study: (study.record["axis"] is not None, -study.record["planned"], study.name))


def _report_grids(records: Sequence[Path], output: Path) -> int:
    from rich.console import Console

    from .lab.report.document import write_report
    from .lab.report.study import read_study
    from .lab.report.tables import levels_table, pipeline_title, table_1
    from .results.terminal import to_terminal

    studies = [read_study(path) for path in records]
    for study in studies:
        if sum(other.name == study.name for other in studies) > 1:
            raise OGPSAError(f"Two of the grids are in files named {study.name}.json: report one of them at a time.")
    empty = [study for study in studies if not study.record["points"]]
    if empty:
        raise OGPSAError(f"{empty[0].title}: none of its points is finished. Run `ogpsa lab run` first.")
    studies = in_order(studies)
    console = Console()
    console = Console(width=max(console.width, 150))
    with console.status("working out intervals and drawing"):
        files = write_report(studies, output)
    for study in studies:
        if len(study.cells) <= _FEW:  # small enough to show all of it
            for pipeline in study.record["pipelines"]:
                title = f"{study.title}, {pipeline_title(pipeline)}: every level, in percent"
                console.print(to_terminal(levels_table(study, pipeline), title))
        elif study.record["axis"] is None:
            title = f"{study.title} ({study.record['world']['theme']}): means over seeds, in percent"
            console.print(to_terminal(table_1(study, with_skills=False), title))
    print("\n".join(str(path) for path in files))
    return 0
