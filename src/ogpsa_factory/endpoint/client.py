"""Many requests at once, through OpenAI's client, which retries and waits as endpoints ask it to."""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import OGPSAError
from .cache import ReplyCache, writable
from .settings import Endpoint, Messages, OnReply, request_key


# What providers say of one single prompt that they will never answer; the other prompts are not concerned.
_UNANSWERABLE = re.compile(
    "content_filter|content_policy|data_inspection_failed|content exists risk|input was flagged|"
    "context_length_exceeded|maximum context length",
    re.IGNORECASE,
)


# Requests that may fail one after the other, with no reply in between, before the endpoint itself is given up.
_PATIENCE = 16


@dataclass(frozen=True)
class Reply:
    """What came of one request: its text ("" where the model gave none), or why there is no reply."""

    text: str
    failure: str | None = None


def complete(
    requests: Sequence[Messages], endpoint: Endpoint, cache: ReplyCache, on_reply: OnReply | None = None
) -> list[str]:
    """Get a reply to every request, from the cache or from the endpoint.

    Args:
        requests: messages of each request; equal ones are sent once.
        endpoint: where they are sent.
        cache: where replies are looked up and kept.
        on_reply: called with the number of requests that are answered and the number of all of them.

    Returns:
        The replies in the order of the requests; "" where the model gave no text, or refused to read the prompt.

    Raises:
        OGPSAError: the endpoint cannot be used, or failed too often; what had been answered is in the cache.
    """
    return [reply.text for reply in _complete(requests, endpoint, cache, on_reply, None)]


def complete_each(
    requests: Sequence[Messages], endpoint: Endpoint, cache: ReplyCache, on_reply: OnReply | None = None
) -> list[Reply]:
    """The same, where a request that fails for good does not stop the others; the next call tries it again.

    Args:
        requests: messages of each request; equal ones are sent once.
        endpoint: where they are sent.
        cache: where replies are looked up and kept; failures are not.
        on_reply: called with the number of requests that are done with and the number of all of them.

    Returns:
        The replies in the order of the requests, each with its text or the reason why there is none.

    Raises:
        OGPSAError: the endpoint refuses the key, the model or the account, or has failed so often in a row, without a
            reply in between, that the others would fail too; what had been answered is in the cache.
    """
    return _complete(requests, endpoint, cache, on_reply, {})


def _complete(
    requests: Sequence[Messages],
    endpoint: Endpoint,
    cache: ReplyCache,
    on_reply: OnReply | None,
    failures: dict[str, str] | None,
) -> list[Reply]:
    keys = [request_key(endpoint, messages) for messages in requests]
    copies = Counter(keys)
    done = sum(count for key, count in copies.items() if key in cache)

    def report(key: str | None = None) -> None:
        nonlocal done
        done += copies[key] if key else 0
        if on_reply:
            on_reply(done, len(keys))

    report()
    waiting = {key: messages for key, messages in zip(keys, requests, strict=True) if key not in cache}
    if waiting:
        asyncio.run(_Asker(endpoint, cache, report, failures).ask(waiting))
    return [Reply(cache[key]) if key in cache else Reply("", (failures or {})[key]) for key in keys]


def next_start(now: float, previous: float | None, requests_per_minute: float) -> float:
    """When the next request may start, in seconds, so that starts are evenly spaced."""
    return now if previous is None else max(now, previous + 60 / requests_per_minute)


class _Unreadable(Exception):
    """An answer that is no chat completion."""


class _Rejected(Exception):
    """A prompt that the endpoint will not read, by its filter or for its length."""


class _Asker:
    def __init__(
        self, endpoint: Endpoint, cache: ReplyCache, report: Callable[[str], None], failures: dict[str, str] | None
    ) -> None:
        self.endpoint = endpoint
        self.cache = cache
        self.report = report
        self.failures = failures  # by key; None where the first one ends everything
        self.failed_in_a_row = 0
        self.key = os.environ.get(endpoint.key_variable, "").strip()
        if not (self.key.isascii() and self.key.isprintable()):
            raise OGPSAError(f"{endpoint.key_variable} holds characters that no key has. Set it anew.")
        self.last_start: float | None = None
        self.limit = "max_tokens"

    async def ask(self, waiting: dict[str, Messages]) -> None:
        import openai

        # Here rather than before each request, so that the client's own retries are paced too.
        http = openai.DefaultAsyncHttpxClient(event_hooks={"request": [self.pace]})
        async with openai.AsyncOpenAI(
            base_url=self.endpoint.url,
            api_key=self.key or "none",  # the client insists on one, servers of one's own do not
            max_retries=self.endpoint.attempts - 1,
            timeout=self.endpoint.timeout,
            http_client=http,
        ) as client:
            queue = iter(waiting.items())
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.endpoint.concurrency, len(waiting))):
                        group.create_task(self.work(client, queue))
            except BaseExceptionGroup as failures:
                raise failures.exceptions[0] from None

    async def pace(self, _: Any) -> None:
        if self.endpoint.requests_per_minute:
            now = asyncio.get_running_loop().time()
            self.last_start = next_start(now, self.last_start, self.endpoint.requests_per_minute)
            await asyncio.sleep(self.last_start - now)

    async def work(self, client: Any, queue: Iterator[tuple[str, Messages]]) -> None:
        import openai

        for key, messages in queue:
            try:
                reply, details = await self.reply(client, messages)
            except _Rejected:
                assert self.failures is not None
                self.failed_in_a_row = 0  # it answers
                self.failures[key] = "the endpoint refuses to read this prompt (its filter, or the prompt's length)"
            except (openai.OpenAIError, _Unreadable) as error:
                if not self.tolerates(error):
                    kept = (
                        f"Replies kept in {self.cache.path}: {len(self.cache)}; the same command goes on from there."
                    )
                    raise OGPSAError(f"{self.explain(error)} {kept}") from None  # the cause may quote the key
                assert self.failures is not None
                self.failures[key] = self.explain(error)
            else:
                self.failed_in_a_row = 0
                self.cache.add(key, reply, model=self.endpoint.model, messages=messages, **details)
            self.report(key)

    def tolerates(self, error: Exception) -> bool:
        """Whether the other requests may fare better than the one that failed for good."""
        import openai

        self.failed_in_a_row += 1
        hopeless = isinstance(
            error, openai.AuthenticationError | openai.PermissionDeniedError | openai.NotFoundError
        ) or (isinstance(error, openai.RateLimitError) and error.code == "insufficient_quota")
        return self.failures is not None and not hopeless and self.failed_in_a_row < _PATIENCE

    async def reply(self, client: Any, messages: Messages) -> tuple[str, dict[str, Any]]:
        import openai

        # A lone surrogate, which broken text has, cannot be sent.
        sent = [{name: writable(text) for name, text in part.items()} for part in messages]
        for attempt in range(self.endpoint.attempts):
            limit = self.limit
            sampling = {"temperature": self.endpoint.temperature} if self.endpoint.temperature is not None else {}
            try:
                answer = await client.chat.completions.create(
                    model=self.endpoint.model, messages=sent, **{limit: self.endpoint.max_tokens}, **sampling
                )
                message = answer.choices[0].message
                text = message.content or message.refusal
                usage = answer.usage and answer.usage.model_dump(include={"prompt_tokens", "completion_tokens"})
            except openai.APIStatusError as error:
                if _UNANSWERABLE.search(str(error)):
                    if self.failures is not None:
                        raise _Rejected from None
                    return "", {"finish_reason": "rejected", "usage": None}
                if limit == "max_completion_tokens" or "max_completion_tokens" not in str(error):
                    raise
                # OpenAI's newer models know the limit by this name only, most other servers by the older one.
                self.limit = "max_completion_tokens"
            except (AttributeError, IndexError, TypeError, ValueError):
                # Gateways answer 200 with an error page or an error object when what is behind them fails.
                await asyncio.sleep(min(0.5 * 2**attempt, 8) * random.uniform(0.75, 1))
            else:
                details = {"finish_reason": answer.choices[0].finish_reason, "usage": usage}
                return writable(text) if isinstance(text, str) else "", details
        raise _Unreadable

    def explain(self, error: Exception) -> str:
        """Say what is wrong with the endpoint and what to do; the key is never in it."""
        import openai

        url, variable = self.endpoint.url, self.endpoint.key_variable
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            state = f"{variable} is not set" if not self.key else f"it came from {variable}"
            return f"The endpoint {url} refused the key ({state}). Set {variable} to a key that may use this model."
        if isinstance(error, openai.NotFoundError):
            return f"{url} knows no model {self.endpoint.model!r}, or the address is wrong: most end in /v1. Mend it."
        if isinstance(error, openai.RateLimitError) and error.code == "insufficient_quota":
            return f"The account at {url} has no credit left. Top it up."
        if isinstance(error, openai.RateLimitError):
            return (
                f"{url} kept saying that requests come too fast. Set a lower --concurrency or --requests-per-minute."
            )
        if isinstance(error, openai.APIStatusError):
            said = str(error).replace(self.key, "***") if self.key else str(error)
            said = " ".join(said.split())[:300].rstrip(".")
            return (
                f"{url} failed: {said}. Mend the request (models that take no temperature need --temperature none), "
                "or wait if the fault is there."
            )
        if isinstance(error, openai.APITimeoutError):
            seconds = f"{self.endpoint.timeout:g} s"
            return f"{url} did not answer within {seconds}. Set a longer --timeout or a lower --concurrency."
        if isinstance(error, openai.APIConnectionError):
            return f"{url} cannot be reached ({error.__cause__}). See that it runs and that the address is right."
        return f"{url} answers, but not with chat completions. See that the address is right: most end in /v1."
