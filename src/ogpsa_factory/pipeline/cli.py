"""`ogpsa pipeline`. Heavy imports stay inside the handler, so `ogpsa --help` is instant."""

from __future__ import annotations

import argparse
import shlex
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .plan import Step


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `pipeline` to a command line; it sets `handler`: from arguments to exit code.

    Args:
        subparsers: of the parser of `ogpsa`.
    """
    parser = subparsers.add_parser(
        "pipeline",
        help="run training stages one after the other, e.g. SFT, then DPO; the same command resumes",
        usage="%(prog)s FILE [KEY=VALUE ...] [--dry-run] [--restart [STAGE]]",
        description="A stage has a name and its arguments (file, config), or a name and `merge: 0.5`: the model of "
        "the stage before it is averaged with the one that the first stage started from, as `ogpsa merge` does, and "
        "the next stage starts from the average. Pipelines with stages of the same names and arguments may share an "
        "output_dir: what one of them has finished, the others skip.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a YAML file with output_dir, common and stages")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],  # or argparse would call it required where FILE is missing
        metavar="KEY=VALUE",
        help="an argument of every stage; NAME.KEY=VALUE is for one, output_dir=DIR is the folder of the run",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, say what would happen, write nothing"
    )
    parser.add_argument(
        "--restart",
        nargs="?",
        const="",
        metavar="STAGE",
        help="train this stage and all after it anew (without a name: all)",
    )
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Check a pipeline and run what is not finished of it.

    Args:
        args: `file`, `overrides`, `dry_run` and `restart`.

    Returns:
        0, or 128 plus the signal's number where one other than Ctrl-C stopped it.

    Raises:
        OGPSAError: in what was asked for, or in a stage.
    """
    import signal

    from rich.console import Console

    from .chain import chain
    from .check import check_stages
    from .definition import read_definition
    from .display import PlainDisplay, TerminalDisplay
    from .environment import write_environment
    from .plan import make_plan
    from .processes import Stopped
    from .runner import launcher, run_steps
    from .state import RunDirectory

    console = Console()
    definition = read_definition(args.file, args.overrides)
    stages = chain(definition)
    launcher()
    with ExitStack() as stack:
        run_dir = RunDirectory(definition.run_dir)
        lock: int | None = None
        if run_dir.records and not args.dry_run:
            lock = stack.enter_context(run_dir.locked())
        steps = make_plan(stages, run_dir, args.restart)
        to_run = [replace(step.stage, config=step.launched_config()) for step in steps if step.action != "skip"]
        if to_run:
            with console.status("checking all stages"):
                notes = check_stages(to_run)
            for note in notes:
                print(note, file=sys.stderr)
        if args.dry_run:
            _print_plan(steps, definition.run_dir)
            return 0
        if lock is None:  # not before the checks: a pipeline that is refused leaves no folder behind
            lock = stack.enter_context(run_dir.locked())
            steps = make_plan(stages, run_dir, args.restart)
        if to_run:
            write_environment(definition.run_dir, args.file)
        names = [stage.name for stage in stages]
        display = stack.enter_context(
            TerminalDisplay(console, names) if console.is_terminal else PlainDisplay(console)
        )
        try:
            run_steps(steps, run_dir, lock, display)
        except Stopped as stopped:
            print(f"ogpsa: stopped by {stopped}; the same command goes on", file=sys.stderr)
            return 128 + signal.Signals[str(stopped)]
    console.print(_result(steps), highlight=False, markup=False, soft_wrap=True)
    return 0


def _print_plan(steps: list[Step], run_dir: Path) -> None:
    from .runner import command

    for step in steps:
        print(f"### stage {step.stage.name}: {step}")
        if step.action != "skip":
            print(f"# {shlex.join(command(run_dir, step))}")
            print(step.launched_yaml())


def _result(steps: list[Step]) -> str:
    from .chain import trained_adapters

    config = steps[-1].stage.config
    adapters = trained_adapters(config)
    if not adapters:
        return f"Final model: {config['output_dir']}"
    return (
        f"Final model: {config['model_name_or_path']} with adapter_name_or_path: {','.join(adapters)} "
        "(`llamafactory-cli export` merges them)"
    )
