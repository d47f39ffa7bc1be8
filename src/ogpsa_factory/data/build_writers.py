"""Who writes for `ogpsa data build` what the sources do not have, and what is asked before anything is sent."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..endpoint import Endpoint, Estimate, Messages, ReplyCache, estimate
from ..errors import OGPSAError
from .paper import FOLDER
from .recipes.values import Pair
from .refusals import (
    RefusalRequest,
    Refusals,
    messages_to_send,
    write_from_endpoint,
    write_from_templates,
    write_from_vllm,
)
from .rewrites import Rewritten, rewrite_messages, rewrite_with_endpoint


if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


class Writers:
    """What is written for the sets, in the way that the command line asks for."""

    def __init__(
        self, args: argparse.Namespace, endpoint: Endpoint | None, console: Console, progress: Progress
    ) -> None:
        """Prepare to write.

        Args:
            args: of the command line.
            endpoint: where a model is, if one is to write.
            console: where estimates are shown.
            progress: where bars are shown.
        """
        self._args = args
        self._endpoint = endpoint
        self._console = console
        self._progress = progress
        self._cache = args.output / FOLDER / "replies.jsonl"

    def write_refusals(self, requests: list[RefusalRequest]) -> Refusals:
        """Write refusals.

        Args:
            requests: what is refused.

        Returns:
            One refusal for each.

        Raises:
            OGPSAError: the user does not want to send requests, or the model cannot be used.
        """
        args = self._args
        if self._endpoint:
            with ReplyCache(self._cache) as replies:
                following, later = messages_to_send(requests, self._endpoint, replies)
                expected = estimate(following, self._endpoint, replies)
                worst = estimate(following + later, self._endpoint, replies)
            self._confirm(expected, _in_the_worst_case(expected, worst))
            return write_from_endpoint(requests, args.seed, self._endpoint, self._cache, self._bar("Writing refusals"))
        if args.vllm:
            sampling = {"temperature": args.temperature, "max_tokens": args.max_tokens}
            return write_from_vllm(requests, args.seed, args.model, self._bar("Writing refusals"), **sampling)
        return write_from_templates(requests, args.seed)

    def rewrite(self, pairs: list[Pair]) -> Rewritten:
        """Give rejected answers the form of the chosen ones; there must be an endpoint.

        Args:
            pairs: of HaluEval.

        Returns:
            The pairs as they are to be.

        Raises:
            OGPSAError: the user does not want to send requests, or the endpoint cannot be used.
        """
        assert self._endpoint is not None
        messages: list[Messages] = [rewrite_messages(pair) for pair in pairs]
        with ReplyCache(self._cache) as replies:
            expected = estimate(messages, self._endpoint, replies)
        self._confirm(expected, "")
        return rewrite_with_endpoint(pairs, self._endpoint, self._cache, self._bar("Rewriting wrong answers"))

    def _bar(self, what: str) -> Callable[[int, int], None]:
        task = self._progress.add_task(what, total=None)
        return lambda done, total: self._progress.update(task, completed=done, total=total)

    def _confirm(self, expected: Estimate, remark: str) -> None:
        """Say what will be sent, and ask whether it may."""
        self._progress.stop()
        say = f"{self._args.model} at {self._args.endpoint}: {expected}.{remark}"
        self._console.print(say, highlight=False, markup=False, soft_wrap=True)
        if not self._args.yes and expected.to_send:
            if not sys.stdin.isatty():
                raise OGPSAError("Nothing was sent: pass --yes to send these requests without being asked.")
            try:
                answer = self._console.input("Send them? [y/N] ").strip().lower()
            except EOFError:  # Ctrl-D
                answer = ""
            if answer not in ("y", "yes"):
                raise OGPSAError("Nothing was sent. The same command goes on from here.")
        self._progress.start()


def _in_the_worst_case(expected: Estimate, worst: Estimate) -> str:
    if worst.to_send == expected.to_send:
        return ""
    cost = "" if worst.dollars is None else f" for about ${worst.dollars:,.2f}"
    return (
        " An answer that does not refuse is asked for twice more: if none does, these are "
        f"{worst.to_send:,} requests in all{cost}."
    )
