"""`ogpsa report`. Heavy imports stay inside the handler, so `ogpsa --help` is instant."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OGPSAError


if TYPE_CHECKING:
    from collections.abc import Sequence

    from .analysis import Settings
    from .models import Model
    from .report import Report


PAPER = "paper"
PAPER_OUTPUT = Path("results") / "paper"
PAPER_MODELS = ("qwen2_5_7b", "llama3_1_8b")
_BASE, _NAIVE = "base", "naive"
_WIDTH = 120  # columns of the main table, at least
_FEWEST, _MOST = 100, 100_000  # resamples


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add `report` to a command line; it sets `handler`: from arguments to exit code.

    Args:
        subparsers: of the parser of `ogpsa`.

    Returns:
        The parser of `report`.
    """
    parser = subparsers.add_parser(
        "report",
        help="evaluated models side by side, as in the paper's Table 1, with intervals and tests",
        description="Reads every scores.json that `ogpsa evaluate` wrote below some folders. A model named "
        "PIPELINE/METHOD, such as SFT/ogpsa, is compared with PIPELINE/naive. `ogpsa report paper` analyses the "
        "paper's own tables instead. Folders with results of `ogpsa lab run`, or such files, are reported as grids; "
        "only --output is for them.",
    )
    parser.add_argument(
        "folders",
        nargs="*",
        metavar="DIR",
        help=f"folders with evaluated models (results/evaluation), or the word `{PAPER}`",
    )
    parser.add_argument(
        "--benchmarks", default="", metavar="A,B", help="show, and compute means of, these only (all that there are)"
    )
    parser.add_argument("--base", metavar="NAME", help=f"the model that the others started from ({_BASE})")
    parser.add_argument(
        "--naive", metavar="NAME", help=f"the method of each pipeline that the others are compared with ({_NAIVE})"
    )
    parser.add_argument(
        "--paper", choices=(*PAPER_MODELS, "none"), default="none", help="rows of the paper to quote (%(default)s)"
    )
    parser.add_argument(
        "--near-zero",
        type=float,
        default=5.0,
        metavar="PERCENT",
        help="state the gain also without benchmarks whose base is below this (%(default)s)",
    )
    parser.add_argument(
        "--bootstrap", type=int, default=10_000, metavar="N", help="resamples, and random swaps (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of resamples and swaps (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write (report/ in the first folder)")
    parser.set_defaults(handler=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Write a report and show its main table.

    Args:
        args: what `register` added.

    Returns:
        0.

    Raises:
        OGPSAError: in what was asked for, or in a file that is read.
    """
    from rich.console import Console

    from .remarks import remarks
    from .report import write_report
    from .scores import DEFAULT_FOLDER
    from .tables import main_table
    from .terminal import to_terminal

    settings = _settings(args)
    of_paper = args.folders == [PAPER]
    console = Console()
    console = Console(width=max(console.width, _WIDTH))  # a narrower terminal wraps lines; rich would drop columns
    with console.status("working out intervals and tests"):
        report = _paper_report(args, settings) if of_paper else _own_report(args, settings)
    first = Path(args.folders[0]) if args.folders else DEFAULT_FOLDER
    files = write_report(report, args.output or (PAPER_OUTPUT if of_paper else first / "report"))
    for family in report.drawn:
        console.print(to_terminal(main_table(family, report.quoted), f"{family.title}: scores in percent"))
        for remark in remarks(family):
            console.print(f"- {remark}", markup=False, highlight=False)
    print("\n".join(str(path) for path in files))
    return 0


def _settings(args: argparse.Namespace) -> Settings:
    from .analysis import Settings

    if not _FEWEST <= args.bootstrap <= _MOST:
        raise OGPSAError(f"--bootstrap is {args.bootstrap}: take a number from {_FEWEST} to {_MOST}.")
    if not 0 <= args.near_zero <= 100:
        raise OGPSAError(f"--near-zero is {args.near_zero:g}: take a percentage from 0 to 100.")
    if args.seed < 0:
        raise OGPSAError(f"--seed is {args.seed}: take a number that is not negative.")
    return Settings(args.base or _BASE, args.naive or _NAIVE, args.near_zero, args.bootstrap, args.seed)


def _paper_report(args: argparse.Namespace, settings: Settings) -> Report:
    """The paper's own tables."""
    from .analysis import analyse
    from .paper import CITATION, MODELS, paper_ablations, paper_models
    from .report import Report

    if args.paper != "none":
        raise OGPSAError(f"`ogpsa report {PAPER}` shows all of the paper's tables: leave --paper out.")
    if args.benchmarks:
        raise OGPSAError(f"`ogpsa report {PAPER}` shows all of the paper's benchmarks: leave --benchmarks out.")
    table1 = {key: paper_models(key) for key in PAPER_MODELS}
    _check_names(args, [model for models in table1.values() for model in models])
    main = tuple(analyse(models, settings, f"{MODELS[key]}, Table 1") for key, models in table1.items())
    ablations = tuple(analyse(models, settings, title) for title, models in paper_ablations().items())
    introduction = (
        f"Scores quoted from {CITATION}, analysed as evaluated models are. Nothing was measured here, "
        "and a statement about a table holds for the figures as printed there."
    )
    return Report("The paper's tables, analysed", introduction, (*main, *ablations), main)


def _own_report(args: argparse.Namespace, settings: Settings) -> Report:
    """The user's models, with the paper's rows beside them where asked for."""
    from .analysis import analyse
    from .paper import MODELS, SUITE, paper_models
    from .report import Report
    from .scores import read_scores

    models = read_scores([Path(folder) for folder in args.folders])
    _check_names(args, models)
    wanted = [word.strip() for word in args.benchmarks.split(",") if word.strip()] or None
    models = _restricted(models, wanted)
    suites = dict.fromkeys(str(model.suite.get("name")) for model in models)
    quoted = None
    if args.paper != "none":
        if list(suites) != [SUITE]:
            raise OGPSAError(
                f"--paper {args.paper}: the paper's rows are comparable with scores of the suite {SUITE!r} only; "
                f"these are of {', '.join(suites)}. Leave --paper out."
            )
        of_paper = paper_models(args.paper)
        there = {name for model in of_paper for name in model.benchmarks}
        of_both = None if wanted is None else [name for name in wanted if name in there]
        quoted = analyse(_restricted(of_paper, of_both), settings, MODELS[args.paper])
    titles = dict.fromkeys(str(model.suite.get("title") or model.suite.get("name")) for model in models)
    family = analyse(models, settings, ", ".join(titles))
    limits = {model.suite.get("limit") for model in models}
    samples = "all samples" if limits == {None} else "a limited number of samples"
    introduction = f"{len(models)} models, evaluated with the suite {', '.join(suites)} on {samples}."
    introduction += f" Of its benchmarks, only these are in this report: {', '.join(wanted)}." if wanted else ""
    return Report(f"Evaluation: {', '.join(titles)}", introduction, (family,), (family,), quoted)


def _restricted(models: Sequence[Model], wanted: Sequence[str] | None) -> list[Model]:
    """The models with these benchmarks only; None for all."""
    if wanted is None:
        return list(models)
    known = dict.fromkeys(name for model in models for name in model.benchmarks)
    for name in wanted:
        if name not in known:
            raise OGPSAError(f"--benchmarks {name}: no model was evaluated on it. There are {', '.join(known)}.")
    return [
        replace(model, benchmarks={key: each for key, each in model.benchmarks.items() if key in wanted})
        for model in models
    ]


def _check_names(args: argparse.Namespace, models: Sequence[Model]) -> None:
    """A name that was given on the command line must be there."""
    names = ", ".join(dict.fromkeys(model.name for model in models))
    if args.base is not None and not any(args.base == model.name for model in models):
        raise OGPSAError(f"--base {args.base}: there is no such model among {names}.")
    if args.naive is not None and not any(args.naive in (model.method, model.name) for model in models):
        raise OGPSAError(f"--naive {args.naive}: no such method or model among {names}.")
