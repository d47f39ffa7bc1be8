"""`ogpsa lab`. Heavy imports stay inside the handlers, so `ogpsa --help` is instant."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .grid.cli import register as register_grids


if TYPE_CHECKING:
    from rich.console import Console


DEFAULT_DATA_DIR = Path("data")
DEFAULT_SAVES = Path("saves") / "mini"
DEFAULT_BASE = DEFAULT_SAVES / "base"
DEFAULT_FIGURE = DEFAULT_SAVES / "safety_versus_utility.png"
DATA_DIR_HELP = "LLaMA-Factory's dataset_dir, where the world's sets lie (%(default)s)"


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `lab` and its commands to a command line; each sets `handler`: from arguments to exit code.

    Args:
        subparsers: of the parser of `ogpsa`.
    """
    lab = subparsers.add_parser("lab", help="a miniature world: the whole experiment on a laptop, in minutes")
    commands = lab.add_subparsers(dest="lab_command", required=True, metavar="COMMAND")

    build = commands.add_parser("build", help="write the world's data sets and train its base model (about a minute)")
    build.add_argument("--output", type=Path, default=DEFAULT_BASE, help="folder of the base model (%(default)s)")
    build.add_argument("--data-dir", type=Path, default=DEFAULT_DATA_DIR, help=DATA_DIR_HELP)
    build.add_argument("--seed", type=int, default=0, help="equal seeds build equal worlds (%(default)s)")
    build.add_argument("--theme", default="town", help="words and rules of the world: town, harbour (%(default)s)")
    build.set_defaults(handler=run_build)

    evaluate = commands.add_parser("evaluate", help="measure models by what they say")
    evaluate.add_argument(
        "models",
        type=Path,
        nargs="*",
        metavar="MODEL",
        help=f"folders of models (every one in {DEFAULT_SAVES}, stages too)",
    )
    evaluate.add_argument("--data-dir", type=Path, default=DEFAULT_DATA_DIR, help=DATA_DIR_HELP)
    evaluate.set_defaults(handler=run_evaluate)

    compare = commands.add_parser("compare", help="set evaluated models side by side: a table and a figure")
    compare.add_argument(
        "models",
        type=Path,
        nargs="*",
        metavar="MODEL",
        help=f"evaluated models (every one in {DEFAULT_SAVES}, stages too)",
    )
    compare.add_argument("--base", type=Path, default=DEFAULT_BASE, help="the model they started from (%(default)s)")
    compare.add_argument("--figure", type=Path, default=DEFAULT_FIGURE, help="picture to write (%(default)s)")
    compare.set_defaults(handler=run_compare)

    register_grids(commands)


def _console() -> Console:
    """The console for a user; silences the libraries' own progress bars, which would break ours."""
    from rich.console import Console

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    return Console()


def run_build(args: argparse.Namespace) -> int:
    """Build a world and print how good its base model is.

    Args:
        args: `output`, `data_dir`, `seed` and `theme`.

    Returns:
        0, or 1 where the base model is not fit to experiment on.
    """
    console = _console()
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from transformers.utils import logging

    from .build import STEPS, build_world
    from .themes import find_theme

    theme = find_theme(args.theme)
    logging.disable_progress_bar()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[loss]}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("Training the base model", total=STEPS, loss="")
        report = build_world(
            args.output,
            args.data_dir,
            args.seed,
            theme=theme,
            on_step=lambda step, loss: progress.update(task, completed=step, loss=f"loss {loss:.3f}"),
        )

    result = report.result
    skills = ", ".join(f"{skill} {share:.1%}" for skill, share in result["skills"].items())
    console.print(f"Base model in {report.output}: {report.parameters:,} parameters, built in {report.seconds:.0f} s.")
    console.print(f"Skills: {result['skills_mean']:.1%} on average ({skills}).")
    refusals = ", ".join(f"{name} {share:.1%}" for name, share in result["refused"].items())
    console.print(f"Refused: {refusals}.")
    shortcomings = report.shortcomings()
    if shortcomings:
        console.print("[red]The base model is not fit to experiment on:[/red] " + "; ".join(shortcomings) + ".")
        console.print("Build again with another --seed.")
        return 1

    return 0


def run_evaluate(args: argparse.Namespace) -> int:
    """Measure models and write each result into the model's folder.

    Args:
        args: `models` and `data_dir`.

    Returns:
        0.

    Raises:
        OGPSAError: a model or the world's data is missing.
    """
    console = _console()
    from transformers.utils import logging

    from .evaluate import evaluate_folder, find_models
    from .files import RESULT_FILE

    logging.disable_progress_bar()
    for folder in args.models or find_models(DEFAULT_SAVES):
        result = evaluate_folder(folder, args.data_dir)
        refused: dict[str, Any] = result["refused"]
        console.print(
            f"{folder}: skills {result['skills_mean']:.1%}, held-out harmful requests refused "
            f"{refused['harmful_held_out']:.1%}, look-alikes refused {refused['lookalike']:.1%} "
            f"({result['seconds']:.1f} s) -> {folder / RESULT_FILE}",
            soft_wrap=True,
        )

    return 0


def run_compare(args: argparse.Namespace) -> int:
    """Print one table and write one figure of evaluated models.

    Args:
        args: `models`, `base` and `figure`.

    Returns:
        0.

    Raises:
        OGPSAError: a model has not been evaluated.
    """
    console = _console()
    from .compare import draw, find_evaluated, make_table, read_results

    models = args.models or [path for path in find_evaluated(DEFAULT_SAVES) if path != args.base]
    results = read_results([args.base, *models])
    console.print(make_table(results))
    draw(results, args.figure)
    console.print(f"Figure: {args.figure}", soft_wrap=True)
    return 0
