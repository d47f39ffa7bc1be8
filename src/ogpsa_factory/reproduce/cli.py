"""`ogpsa reproduce`. Heavy imports stay inside the handler, so `ogpsa --help` is instant."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import OGPSAError


_FOLDER = Path("examples") / "yaml" / "reproduce"
_MODEL = "qwen2_5_7b"
_BENCHMARKS = "--benchmarks"  # of `ogpsa evaluate` and `ogpsa report`


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `reproduce` to a command line; it sets `handler`: from arguments to exit code.

    Args:
        subparsers: of the parser of `ogpsa`.
    """
    parser = subparsers.add_parser(
        "reproduce",
        help="train, evaluate and report a table of the paper; --plan says what that takes",
        usage="%(prog)s TABLE [KEY=VALUE ...] [--plan] [options] [--evaluate OPTIONS OF ogpsa evaluate ...]",
    )
    parser.add_argument("table", metavar="TABLE", help="table1 to table8, as in tables.yaml")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="an argument of every stage of every row, e.g. deepspeed=examples/deepspeed/zero3.json; NAME.KEY=VALUE "
        "is for stages of that name",
    )
    parser.add_argument("--plan", action="store_true", help="say what would run and what it takes; start nothing")
    parser.add_argument("--model", help=f"a model's folder in --files ({_MODEL})")
    parser.add_argument(
        "--scale", choices=("paper", "mini"), default="paper", help="mini: the same in the miniature world, on a CPU"
    )
    parser.add_argument(
        "--rows", metavar="A,B", help="these rows only; those that are not trained, as base, are always there"
    )
    parser.add_argument("--files", type=Path, default=_FOLDER, help="folder of tables.yaml (%(default)s)")
    parser.add_argument(
        "--runs",
        type=Path,
        metavar="DIR",
        help="of all runs: another one for a second run of a table (saves/reproduce)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="of evaluation and reports (results/reproduce/MODEL)"
    )
    _add_evaluation(parser)
    hardware = parser.add_argument_group("what --plan counts with")
    hardware.add_argument("--gpus", type=int, metavar="N", help="their number (those of this machine, or 8)")
    hardware.add_argument(
        "--gpu", metavar="NAME", help="their kind, such as H100 or L40S (this machine's, or A100-80)"
    )
    hardware.add_argument(
        "--mfu", type=float, default=0.4, help="share of the peak that training reaches (%(default)s)"
    )
    hardware.add_argument(
        "--price", type=float, nargs=2, metavar=("IN", "OUT"), help="the judge's, in dollars per million tokens"
    )
    parser.set_defaults(handler=run)


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    options = parser.add_argument_group("evaluation", "handed on to `ogpsa evaluate`, which has their defaults")
    options.add_argument("--suite", help="its benchmarks (paper, or mini)")
    options.add_argument("--backend", help="hf or vllm")
    options.add_argument("--judge", help="endpoint, keywords or none (none; of the miniature world: keywords)")
    options.add_argument("--judge-url", help="of the judge's endpoint")
    options.add_argument("--judge-model", help="the judge's name there")
    options.add_argument("--data", metavar="DIR", help="folder with the benchmarks' own files")
    options.add_argument("--skip-missing", action="store_true", help="leave out benchmarks whose data is missing")
    options.add_argument(
        "--evaluate", nargs=argparse.REMAINDER, default=[], metavar="...", help="all that follows is handed on too"
    )


def run(args: argparse.Namespace) -> int:
    """Plan or run a table.

    Args:
        args: the options of :func:`register`.

    Returns:
        0.

    Raises:
        OGPSAError: in what was asked for, or in a step.
    """
    mini = args.scale == "mini"
    if mini and args.model is not None:
        raise OGPSAError("--model is for --scale paper: the miniature world has one model.")

    from .tables import MINI, read_table

    model = MINI if mini else (args.model or _MODEL)
    rows = [word.strip() for word in (args.rows or "").split(",") if word.strip()]
    table = read_table(args.files, args.table, model, rows, args.overrides, args.runs)
    if not args.plan:
        from .running import run_table

        if args.runs and not args.output:
            raise OGPSAError("--runs needs --output DIR as well: the results of the other runs would be replaced.")
        output = args.output or Path("results") / "reproduce" / model
        shown = _benchmarks(args, mini, table.benchmarks)
        return run_table(table, output, _evaluate_options(args, mini, table.benchmarks), shown, mini)

    from transformers.utils import logging

    from .hardware import choose
    from .plan import make_plan
    from .show import lines_of

    logging.set_verbosity_error()
    plan = make_plan(table, choose(args.gpu, args.gpus), args.mfu, mini)
    for line in lines_of(plan, tuple(args.price) if args.price else None, args.suite, _narrowed(args)):
        print(line)
    return 0


def _narrowed(args: argparse.Namespace) -> list[str]:
    """What was asked of the evaluation that changes what it takes, and that no plan counts with."""
    given = [word.partition("=")[0] for word in args.evaluate]
    other = [f"--suite {args.suite}"] if args.suite not in (None, args.scale) else []
    return other + [word for word in given if word in ("--limit", _BENCHMARKS, "--suite")]


def _benchmarks(args: argparse.Namespace, mini: bool, of_table: tuple[str, ...]) -> list[str]:
    """What the report shows: the benchmarks that the user asks for, or the table's where the suite is the paper's."""
    words = [part for word in args.evaluate for part in word.split("=", 1)]
    if _BENCHMARKS in words[:-1]:
        asked = words[len(words) - words[::-1].index(_BENCHMARKS)]
        return [word.strip() for word in asked.split(",") if word.strip()]
    return [] if mini or args.suite else list(of_table)


def _evaluate_options(args: argparse.Namespace, mini: bool, benchmarks: tuple[str, ...]) -> list[str]:
    given = {
        "--suite": args.suite or args.scale,
        _BENCHMARKS: None if mini or args.suite else ",".join(benchmarks),
        "--backend": args.backend,
        "--judge": args.judge or ("keywords" if mini else None),
        "--judge-url": args.judge_url,
        "--judge-model": args.judge_model,
        "--data": args.data,
    }
    words = [word for option, value in given.items() if value for word in (option, str(value))]
    return [*words, *(["--skip-missing"] if args.skip_missing else []), *args.evaluate]
