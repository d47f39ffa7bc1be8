"""`ogpsa data build`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from ..endpoint import Endpoint, Messages
    from .build import Built
    from .paper import Order
    from .recipes.values import Pair
    from .refusals.writers import RefusalRequest, Refusals
    from .rewrites import Rewritten
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
    build.add_argument("--replace", action="store_true", help="replace other entries of the same names")
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
    refusals.add_argument("--yes", action="store_true", help="do not ask before requests are sent")
    build.set_defaults(handler=run_build)


def run_build(args: argparse.Namespace) -> int:
    """Build sets, showing licences before and what was made after.

    Args:
        args: of the command line.

    Returns:
        0; 1 where the user does not want to send requests.

    Raises:
        OGPSAError: the order makes no sense, or a source or an endpoint fails; sets that are finished stay.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from .build import Builder

    console = Console()
    order, endpoint = _order(args)
    _show_licences(order, console)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks = {}

        def on_rows(source: Source, rows: int) -> None:
            if source.name not in tasks:
                tasks[source.name] = progress.add_task(f"Reading {source.name}", total=source.rows)
            progress.update(tasks[source.name], completed=rows, total=max(rows, source.rows))

        writers = _Writers(args, endpoint, console, progress)
        rewrite = writers.rewrite if endpoint else None
        builder = Builder(order, writers.write_refusals, rewrite, on_rows)
        built = list(builder.run())
    _show_built(built, console)
    return 0


def _order(args: argparse.Namespace) -> tuple[Order, Endpoint | None]:
    from ..endpoint import Endpoint
    from ..errors import OGPSAError
    from .paper import STEPS, Order
    from .sources import locate

    if args.samples is not None and args.samples < 1:
        raise OGPSAError(f"--samples {args.samples} must be 1 or more.")
    if args.endpoint and args.vllm:
        raise OGPSAError("--endpoint and --vllm exclude each other: who is to write the refusals?")
    if (args.endpoint or args.vllm) and not args.model:
        raise OGPSAError("--model is missing: which model writes the refusals? (The paper: gpt-4o-mini.)")
    if args.model and not (args.endpoint or args.vllm):
        raise OGPSAError("--model needs --endpoint URL or --vllm.")
    endpoint = None
    if args.endpoint:
        endpoint = Endpoint(
            url=args.endpoint,
            model=args.model,
            key_variable=args.key_variable,
            concurrency=args.concurrency,
            requests_per_minute=args.requests_per_minute,
            price=tuple(args.price) if args.price else None,
        )
    steps = list(STEPS) if args.what == "paper" else [args.what]
    sources = {STEPS[name].source.name: STEPS[name].source for name in steps}
    order = Order(
        steps=steps,
        dataset_dir=args.output,
        origins={name: locate(source, args.source) for name, source in sources.items()},
        samples=args.samples,
        seed=args.seed,
        knowledge=args.with_knowledge,
        aliases=not args.no_aliases,
        replace=args.replace,
        writer=f"{args.endpoint or ('vllm' if args.vllm else 'templates')} {args.model or ''}".strip(),
    )
    return order, endpoint


class _Writers:
    """What is written for the sets, in the way that the command line asks for."""

    def __init__(
        self, args: argparse.Namespace, endpoint: Endpoint | None, console: Console, progress: Progress
    ) -> None:
        from .paper import FOLDER

        self._args = args
        self._endpoint = endpoint
        self._console = console
        self._progress = progress
        self._cache = args.output / FOLDER / "replies.jsonl"

    def write_refusals(self, requests: list[RefusalRequest]) -> Refusals:
        """Write refusals.

        Args:
            requests: what is refused.
        """
        from .refusals.writers import endpoint_messages, write_from_endpoint, write_from_templates, write_from_vllm

        seed, model = self._args.seed, self._args.model
        if self._endpoint:
            self._confirm([endpoint_messages(request.prompt) for request in requests], self._endpoint)
            on_reply = self._bar("Writing refusals")
            return write_from_endpoint(requests, seed, self._endpoint, self._cache, on_reply)
        if self._args.vllm:
            return write_from_vllm(requests, seed, model, self._bar("Writing refusals"))
        return write_from_templates(requests, seed)

    def rewrite(self, pairs: list[Pair]) -> Rewritten:
        """Give rejected answers the form of the chosen ones; there must be an endpoint.

        Args:
            pairs: of HaluEval.
        """
        from .rewrites import rewrite_messages, rewrite_with_endpoint

        assert self._endpoint is not None
        self._confirm([rewrite_messages(pair) for pair in pairs], self._endpoint)
        return rewrite_with_endpoint(pairs, self._endpoint, self._cache, self._bar("Rewriting wrong answers"))

    def _bar(self, what: str) -> Callable[[int, int], None]:
        task = self._progress.add_task(what, total=None)
        return lambda done, total: self._progress.update(task, completed=done, total=total)

    def _confirm(self, messages: list[Messages], endpoint: Endpoint) -> None:
        """Say what will be sent, and ask whether it may."""
        from ..endpoint import ReplyCache, estimate
        from ..errors import OGPSAError

        with ReplyCache(self._cache) as replies:
            expected = estimate(messages, endpoint, replies)
        self._progress.stop()
        say = f"{endpoint.model} at {endpoint.url}: {expected}. Answers that cannot be used are asked for again."
        self._console.print(say, highlight=False, markup=False, soft_wrap=True)
        if not self._args.yes and expected.requests > expected.cached:
            if not sys.stdin.isatty():
                raise OGPSAError("Nothing was sent: pass --yes to send these requests without being asked.")
            if self._console.input("Send them? [y/N] ").strip().lower() not in ("y", "yes"):
                raise OGPSAError("Nothing was sent. The same command goes on from here.")
        self._progress.start()


def _show_licences(order: Order, console: Console) -> None:
    for origin in order.origins.values():
        source = origin.source
        names = ", ".join(path.name for path in origin.files[:3]) + (", …" if len(origin.files) > 3 else "")
        place = names or f"{source.hub}, revision {source.revision[:8]}"
        console.print(f"{source.name} ({place})", style="bold", highlight=False, markup=False, soft_wrap=True)
        limit = "; NON-COMMERCIAL USE ONLY" if source.non_commercial else ""
        licence = f"  licence: {source.licence}{limit}"
        console.print(licence, style="red" * source.non_commercial, highlight=False, markup=False, soft_wrap=True)
        console.print(f"  {source.remark}", highlight=False, markup=False, soft_wrap=True)


def _show_built(built: list[Built], console: Console) -> None:
    for each in built:
        remark = "" if each.made else " (was there already)"
        if each.rows < each.asked:
            remark += f" (only {each.rows:,} of {each.asked:,} rows: the source has no more)"
        console.print(f"{each.path}: {each.rows:,} rows{remark}", highlight=False, markup=False, soft_wrap=True)
    folder = built[0].path.parent
    names = ", ".join(each.name for each in built)
    say = f"Registered: {names}. A data card is beside every file in {folder} (.md)."
    console.print(say, highlight=False, markup=False, soft_wrap=True)
