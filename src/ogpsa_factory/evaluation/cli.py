"""`ogpsa evaluate`. Heavy imports stay inside the handler, so `ogpsa --help` is instant."""

from __future__ import annotations

import argparse
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from rich.console import Console


DEFAULT_DATA = Path("data")
DEFAULT_OUTPUT = Path("results") / "evaluation"
CHECK = "judge-check"
JUDGES = ("none", "keywords", "endpoint")


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `evaluate` to a command line; it sets `handler`: from arguments to exit code.

    Args:
        subparsers: of the parser of `ogpsa`.
    """
    parser = subparsers.add_parser(
        "evaluate",
        help="measure models on the paper's ten benchmarks, or others; the same command goes on where it stopped",
        usage="%(prog)s [NAME=]MODEL ... [options]\n"
        f"       %(prog)s {CHECK} FILE --rubric RUBRIC --judge JUDGE [options]",
        description="MODEL is a folder, a name on the hub, or BASE+ADAPTER+ADAPTER; NAME is its name in tables: "
        f"PIPELINE/METHOD, such as SFT/ogpsa, gives a row of Table 1. `{CHECK}` compares a judge with human labels.",
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=argparse.SUPPRESS)
    parser.add_argument(
        "--dry-run", action="store_true", help="check the suite and its rows, and say what they are; needs no MODEL"
    )
    parser.add_argument("--suite", default="paper", help="paper, quick, mini, or a YAML file (%(default)s)")
    parser.add_argument("--benchmarks", default="", metavar="NAMES", help="only these of the suite, by commas")
    parser.add_argument("--limit", type=_positive, metavar="N", help="rows of each task at most (for a trial)")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="folder of the results (%(default)s)")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help=f"folder with files of benchmarks, taken before the hub's ({DEFAULT_DATA})",
    )
    parser.add_argument("--skip-missing", action="store_true", help="leave benchmarks out whose rows cannot be had")
    running = parser.add_argument_group("how models are run")
    running.add_argument("--backend", choices=("hf", "vllm", "openai"), default="hf", help="(%(default)s)")
    running.add_argument("--batch-size", default="8", metavar="N", help="prompts at a time, or auto; hf (%(default)s)")
    running.add_argument("--device", help="such as cpu or cuda:1; hf (a GPU where there is one)")
    running.add_argument("--dtype", default="auto", help="of the weights (that of the files)")
    running.add_argument("--max-new-tokens", type=_positive, metavar="N", help="lower the suite's limits of answers")
    running.add_argument("--temperature", type=float, default=0.0, help="0 decodes greedily (%(default)s)")
    running.add_argument("--system", metavar="TEXT", help="system message (that of the model's template)")
    running.add_argument("--no-chat-template", action="store_true", help="for models that have none")
    running.add_argument(
        "--model-args", default="", metavar="K=V,K=V", help="more arguments of lm-eval's model class (hf, vllm)"
    )
    running.add_argument("--url", metavar="URL", help="address of the endpoint; openai")
    running.add_argument("--key-variable", default="OPENAI_API_KEY", help="where its key is; openai (%(default)s)")
    _add_judge(parser)
    parser.set_defaults(handler=run)


def _add_judge(parser: argparse.ArgumentParser) -> None:
    judge = parser.add_argument_group(
        "judge", "grades saved answers where no formula can; every reply is kept, so another run asks nothing twice"
    )
    judge.add_argument("--judge", choices=JUDGES, default="none", help="keywords is an offline stand-in (%(default)s)")
    judge.add_argument("--judge-url", metavar="URL", default="https://api.openai.com/v1", help="(%(default)s)")
    judge.add_argument("--judge-model", default="gpt-4o-mini", help="the paper's is %(default)s")
    judge.add_argument("--judge-key-variable", default="OPENAI_API_KEY", help="where its key is (%(default)s)")
    judge.add_argument(
        "--judge-temperature", type=_temperature, default=0.0, help="none: the model's own (%(default)s)"
    )
    judge.add_argument("--judge-max-tokens", type=_positive, default=300, help="of a reply at most (%(default)s)")
    judge.add_argument("--concurrency", type=_positive, default=8, help="requests at a time (%(default)s)")
    judge.add_argument("--requests-per-minute", type=float, help="rate limit (none)")
    judge.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="for a reply (%(default)s)")
    judge.add_argument("--attempts", type=_positive, default=6, help="for one request at most (%(default)s)")
    judge.add_argument(
        "--price", type=float, nargs=2, metavar=("IN", "OUT"), help="dollars per million tokens, for the estimate"
    )
    judge.add_argument("--rubric", help=f"of {CHECK}: strongreject, xstest, refusal or simpleqa")


def _positive(text: str) -> int:
    if not re.fullmatch("0*[1-9][0-9]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _temperature(text: str) -> float | None:
    try:
        return None if text.lower() == "none" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor none") from None


def run(args: argparse.Namespace) -> int:
    """Evaluate models, or compare a judge with people.

    Args:
        args: of the command line.

    Returns:
        0.

    Raises:
        OGPSAError: something asked for makes no sense or fails; what was finished stays.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")  # the libraries' bars would break ours
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("LMEVAL_LOG_LEVEL", "ERROR")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from rich.console import Console

    console = Console()
    if args.models[:1] == [CHECK]:
        from .judging.check_command import run_check
        from .order import judge_of

        return run_check(args, judge_of(args), console)
    return _evaluate(args, console)


def _evaluate(args: argparse.Namespace, console: Console) -> int:
    from ..errors import OGPSAError
    from .order import order_of
    from .sources import DATA_VARIABLE

    if find_spec("lm_eval") is None:
        raise OGPSAError("ogpsa evaluate needs lm-eval, which is not installed: pip install 'lm_eval[ifeval]'.")
    if args.data is not None and not args.data.is_dir():
        raise OGPSAError(f"--data {args.data} is no folder: name the one with the benchmarks' files.")
    os.environ[DATA_VARIABLE] = str(args.data or DEFAULT_DATA)
    order = order_of(args)  # what is wrong with it is said before libraries are imported
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from ..data.quiet import quiet_libraries
    from .display import show_scores
    from .evaluate import Evaluation, check

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress, quiet_libraries():

        def report(what: str, benchmark: str) -> Any:
            task = progress.add_task(f"{what}: {benchmark}", total=None)
            return lambda done, total: progress.update(task, completed=done, total=total)

        def say(line: str) -> None:
            console.print(line, highlight=False, markup=False, soft_wrap=True)

        if args.dry_run:
            check(order, say)
            return 0
        evaluation = Evaluation(order, report, say)
        scores = evaluation.run()
    show_scores(scores, console)
    say(f"Scores, samples and verdicts: {args.output}. Tables and figure: ogpsa report {args.output}")
    if evaluation.problems:
        problems = "\n".join(evaluation.problems)
        raise OGPSAError(f"not everything could be done; the same command tries the rest again:\n{problems}")
    return 0
