"""`ogpsa data build`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from rich.console import Console

    from ..endpoint import Endpoint
    from .build import Built
    from .paper import Order
    from .sources import Source


WHAT = ("paper", "saferlhf", "ultrafeedback", "halueval", "general")


def register_build(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `build`.

    Args:
        commands: of `ogpsa data`.
    """
    build = commands.add_parser("build", help="make the paper's training and reference sets from public sources")
    build.add_argument(
        "what",
        choices=WHAT,
        help="paper: all; saferlhf: harmful prompts and refusals; ultrafeedback, halueval: reference sets; general: "
        "the rows that the baseline mixes in",
    )
    build.add_argument("--output", type=Path, default=Path("data"), help="LLaMA-Factory's dataset_dir (%(default)s)")
    build.add_argument("--samples", type=int, help="rows of each set (10,000; reference sets 200)")
    build.add_argument("--seed", type=int, default=0, help="equal seeds draw equal rows (%(default)s)")
    build.add_argument(
        "--source", type=Path, metavar="DIR", help="file or folder with the sources in their public schema (the hub)"
    )
    build.add_argument("--with-knowledge", action="store_true", help="put HaluEval's passage before the question")
    build.add_argument("--no-aliases", action="store_true", help="leave out the names of the authors' registry")
    build.add_argument(
        "--replace",
        action="store_true",
        help="make sets anew that were built in another way or changed by hand, and replace other entries of the "
        "same names",
    )
    refusals = build.add_argument_group(
        "refusals",
        "who writes them: built-in templates if nothing is said. An endpoint's model also gives HaluEval's wrong "
        "answers the form of the right ones.",
    )
    refusals.add_argument("--endpoint", metavar="URL", help="OpenAI-compatible, such as https://api.openai.com/v1")
    refusals.add_argument("--model", help="the endpoint's model (the paper: gpt-4o-mini), or vLLM's")
    refusals.add_argument("--vllm", action="store_true", help="run --model on this machine with vLLM")
    refusals.add_argument("--key-variable", default="OPENAI_API_KEY", help="where the key is (%(default)s)")
    refusals.add_argument("--concurrency", type=int, default=8, help="requests at a time (%(default)s)")
    refusals.add_argument("--requests-per-minute", type=float, help="rate limit (none)")
    refusals.add_argument(
        "--price", type=float, nargs=2, metavar=("IN", "OUT"), help="dollars per million tokens, for the estimate"
    )
    refusals.add_argument(
        "--temperature", type=_temperature, default=0.7, help="of sampling; none: the model's own (%(default)s)"
    )
    refusals.add_argument("--max-tokens", type=int, default=256, help="tokens of a reply at most (%(default)s)")
    refusals.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS", help="how long to wait for a reply (%(default)s)"
    )
    refusals.add_argument("--yes", action="store_true", help="do not ask before requests are sent")
    build.set_defaults(handler=run_build)


def _temperature(text: str) -> float | None:
    try:
        return None if text.lower() == "none" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor none") from None


def run_build(args: argparse.Namespace) -> int:
    """Build sets, showing licences before anything is read, and every set when it is made.

    Args:
        args: of the command line.

    Returns:
        0.

    Raises:
        OGPSAError: the order makes no sense, a source or an endpoint fails, or the user does not want to send
            requests; sets that are finished stay.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from .build import Builder
    from .build_writers import Writers

    console = Console()
    endpoint = _endpoint(args)
    _show_licences(args, console)
    order = _order(args)
    _show_files(order, console)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    built: list[Built] = []
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            tasks = {}

            def on_rows(source: Source, rows: int) -> None:
                if source.name not in tasks:
                    tasks[source.name] = progress.add_task(f"Reading {source.name}", total=source.rows)
                progress.update(tasks[source.name], completed=rows, total=max(rows, source.rows))

            writers = Writers(args, endpoint, console, progress)
            builder = Builder(order, writers.write_refusals, writers.rewrite if endpoint else None, on_rows)
            for each in builder.run():
                built.append(each)
    finally:
        _show_built(built, console)  # what is finished stays, whatever came then
    return 0


def _endpoint(args: argparse.Namespace) -> Endpoint | None:
    """The endpoint that the command line names; what makes no sense there is said before anything else."""
    from ..endpoint import Endpoint
    from ..errors import OGPSAError

    if args.samples is not None and args.samples < 1:
        raise OGPSAError(f"--samples {args.samples} must be 1 or more.")
    if os.path.isfile(args.output):  # unlike pathlib's, it takes any name
        raise OGPSAError(f"--output {args.output} is a file: name the data folder, where dataset_info.json is.")
    if args.endpoint and args.vllm:
        raise OGPSAError("--endpoint and --vllm exclude each other: who is to write the refusals?")
    if (args.endpoint or args.vllm) and not args.model:
        raise OGPSAError("--model is missing: which model writes the refusals? (The paper: gpt-4o-mini.)")
    if args.model and not (args.endpoint or args.vllm):
        raise OGPSAError("--model needs --endpoint URL or --vllm.")
    if not args.endpoint:
        return None
    return Endpoint(
        url=args.endpoint,
        model=args.model,
        key_variable=args.key_variable,
        concurrency=args.concurrency,
        requests_per_minute=args.requests_per_minute,
        timeout=args.timeout,
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        price=tuple(args.price) if args.price else None,
    )


def _sources(args: argparse.Namespace) -> dict[str, Source]:
    from .paper import STEPS

    steps = list(STEPS) if args.what == "paper" else [args.what]
    return {STEPS[name].source.name: STEPS[name].source for name in steps}


def _order(args: argparse.Namespace) -> Order:
    from .paper import STEPS, Order
    from .sources import locate

    writer = {"writer": "templates"}
    if args.model:
        where = "vLLM" if args.vllm else args.endpoint.rstrip("/")
        sampling = {"temperature": args.temperature, "max_tokens": args.max_tokens}
        writer = {"writer": where, "model": args.model, **sampling}
    return Order(
        steps=list(STEPS) if args.what == "paper" else [args.what],
        dataset_dir=args.output,
        origins={name: locate(source, args.source) for name, source in _sources(args).items()},
        samples=args.samples,
        seed=args.seed,
        knowledge=args.with_knowledge,
        aliases=not args.no_aliases,
        replace=args.replace,
        writer=writer,
        rewriter=writer if args.endpoint else {},
    )


def _show_licences(args: argparse.Namespace, console: Console) -> None:
    for source in _sources(args).values():
        place = f"from {args.source}" if args.source else f"{source.hub}, revision {source.revision[:8]}"
        console.print(f"{source.name} ({place})", style="bold", highlight=False, markup=False, soft_wrap=True)
        limit = "; NON-COMMERCIAL USE ONLY" if source.non_commercial else ""
        licence = f"  licence: {source.licence}{limit}"
        console.print(licence, style="red" * source.non_commercial, highlight=False, markup=False, soft_wrap=True)
        console.print(f"  {source.remark}", highlight=False, markup=False, soft_wrap=True)


def _show_files(order: Order, console: Console) -> None:
    for name, origin in order.origins.items():
        if origin.files:
            files = ", ".join(origin.names[:3]) + (", …" if len(origin.names) > 3 else "")
            console.print(f"{name} is read from {files}.", highlight=False, markup=False, soft_wrap=True)


def _show_built(built: list[Built], console: Console) -> None:
    for each in built:
        remark = "" if each.made else " (was there already)"
        if each.rows < each.asked:
            remark += f" (only {each.rows:,} of {each.asked:,} rows: the source has no more)"
        console.print(f"{each.path}: {each.rows:,} rows{remark}", highlight=False, markup=False, soft_wrap=True)
    if not built:
        return
    folder = built[0].path.parent
    names = ", ".join(each.name for each in built)
    say = f"Registered: {names}. A data card is beside every file in {folder} (.md)."
    console.print(say, highlight=False, markup=False, soft_wrap=True)
