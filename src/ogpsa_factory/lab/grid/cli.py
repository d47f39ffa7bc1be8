"""`ogpsa lab run | check`. Heavy imports stay inside the handlers, so `ogpsa --help` is instant."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import OGPSAError


if TYPE_CHECKING:
    from rich.console import Console

    from .nodes import Node

DEFAULT_OUTPUT = Path("saves") / "lab"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `run` and `check` to the commands of `ogpsa lab`.

    Args:
        commands: of the parser of `ogpsa lab`.
    """
    run = commands.add_parser(
        "run",
        help="run grids of methods, learning rates and seeds; the same command resumes",
        description="Every model is made once and kept by the hash of all that makes it, so a second run, or another "
        "grid, finds it. The results of FILE.yaml are in FILE.json of the output folder; `ogpsa report` reads them.",
    )
    run.add_argument("files", type=Path, nargs="+", metavar="FILE", help="grids, such as examples/yaml/lab/*.yaml")
    _add_common(run)
    run.add_argument("--seeds", metavar="A,B", help="these seeds only (those of the file)")
    run.add_argument("--methods", metavar="A,B", help="these methods only (all)")
    run.add_argument("--pipelines", metavar="A,B", help="these pipelines only (all)")
    run.add_argument("--dry-run", action="store_true", help="check all, say how many models are missing, make none")
    run.set_defaults(handler=run_grids)

    check = commands.add_parser(
        "check",
        help="make points of recorded grids again and compare them bit for bit",
        description="Points are drawn at random and made anew from nothing, worlds included; weights must have the "
        "recorded SHA-256 and measures the recorded values. The versions of the libraries must be the recorded ones, "
        "and between kinds of CPU rounding differs.",
    )
    check.add_argument("records", type=Path, nargs="+", metavar="RECORD", help="such as docs/lab/*.json")
    check.add_argument("--points", type=int, default=3, metavar="N", help="points of each record (%(default)s)")
    check.add_argument("--draw", type=int, default=0, metavar="SEED", help="of the choice of points (%(default)s)")
    check.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (%(default)s)")
    check.set_defaults(handler=run_check)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, metavar="DIR", help="results (%(default)s)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes of one thread each (%(default)s)"
    )


def run_grids(args: argparse.Namespace) -> int:
    """Make what is missing of some grids, and write their results.

    Args:
        args: what `register` added.

    Returns:
        0, or 1 where a model could not be made.

    Raises:
        OGPSAError: in a file, or in a selection.
    """
    from rich.console import Console

    from .before import check_grids
    from .definition import read_grid
    from .nodes import plan
    from .record import make_record, record_path, write_record
    from .runner import at_work, finished
    from .selection import selected

    whole = [read_grid(file) for file in args.files]
    stems = [grid.file.stem for grid in whole]
    if len(set(stems)) != len(stems):
        raise OGPSAError("Two of the grids have files of one name, so their results would be one file. Rename one.")
    if args.jobs < 1:
        raise OGPSAError(f"--jobs is {args.jobs}: take 1 or more.")
    grids = [selected(grid, args) for grid in whole]
    plans = [plan(grid) for grid in grids]
    nodes = {key: node for each in plans for key, node in each.nodes.items()}
    names = {point.key: _name(vars(point)) for each in plans for point in each.points}
    console = Console()
    there = sum(finished(args.output, key) is not None for key in nodes)
    points = sum(len(each.points) for each in plans)
    console.print(
        f"{points} points, {len(nodes)} models: {there} are there, {len(nodes) - there} to make.", highlight=False
    )
    if there < len(nodes):
        with console.status("checking the arguments of all methods"):
            check_grids(grids)
    if args.dry_run:
        return 0
    with at_work(args.output):
        try:
            problems = _make_with_progress(console, list(nodes.values()), args.output, args.jobs)
        finally:  # of the whole grid, whatever was selected; what is finished can be reported, also after Ctrl-C
            for grid in whole:
                path = record_path(args.output, grid)
                write_record(path, make_record(grid, plan(grid), args.output))
                _say(console, str(path))
    causes = {key: problem for key, problem in problems.items() if not set(nodes[key].needs) & set(problems)}
    for key, problem in causes.items():
        _say(console, f"{names.get(key, 'needed for others')} ({key}): {problem}")
    if len(problems) > len(causes):
        _say(console, f"{len(problems) - len(causes)} models more are missing, as they start from these.")
    if problems:
        _say(console, f"What the libraries said is in {args.output / 'logs'}.")
    return 1 if problems else 0


def _name(point: dict[str, Any]) -> str:
    return f"{point['method']}, {point['pipeline']}, level {point['level']}, seed {point['seed']}"


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _make_with_progress(console: Console, nodes: list[Node], output: Path, jobs: int) -> dict[str, str]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from .runner import make_all

    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[failed]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("Models", total=len(nodes), failed="")
        failed: list[str] = []

        def on_done(node: Node, problem: str | None) -> None:
            failed.extend([node.key] if problem else [])
            progress.update(task, advance=1, failed=f"{len(failed)} failed" if failed else "")

        return make_all(nodes, output, jobs, on_done)


def run_check(args: argparse.Namespace) -> int:
    """Make recorded points again and say whether they are what they were.

    Args:
        args: what `register` added.

    Returns:
        0 where all are, otherwise 1.

    Raises:
        OGPSAError: a record cannot be read, or its grid has changed since.
    """
    import shutil
    import tempfile

    from rich.console import Console

    from .again import compare, drawn_points
    from .record import read_record
    from .runner import at_work
    from .source import processor

    if args.jobs < 1:
        raise OGPSAError(f"--jobs is {args.jobs}: take 1 or more.")
    chosen = [(path, *drawn_points(path, args.points, args.draw)) for path in args.records]
    nodes = {key: node for _, _, needed in chosen for key, node in needed.items()}
    console = Console()
    folder = Path(tempfile.mkdtemp(prefix="ogpsa_lab_check_"))
    with at_work(folder):
        problems = _make_with_progress(console, list(nodes.values()), folder, args.jobs)
        differing = 0
        for path, points, _ in chosen:
            recorded = read_record(path)["processor"]
            if recorded != processor():
                _say(console, f"{path.name} was made on {recorded}, and this is {processor()}: rounding may differ.")
            for point in points:
                said = problems.get(point["key"]) or compare(point, folder)
                differing += bool(said)
                _say(console, f"{path.name}: {_name(point)}: {said or 'equal'}")
    if differing:
        _say(console, f"What was made is kept in {folder}.")
    else:
        shutil.rmtree(folder)
    return 1 if differing else 0
