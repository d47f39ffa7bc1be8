"""An endpoint, the requests to it, and what they will cost."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from ..errors import OGPSAError
from .cache import ReplyCache


Messages = list[dict[str, str]]
OnReply = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where requests are sent, and how.

    Args:
        url: base address, most often ending in `/v1`.
        model: name of the model, as the endpoint knows it.
        key_variable: name of the environment variable that holds the key; local servers need none.
        concurrency: requests in flight at once.
        requests_per_minute: upper limit, retries included; None for no limit.
        attempts: times that one request is sent at most.
        timeout: seconds that an attempt may take.
        max_tokens: tokens of a reply at most.
        temperature: of sampling; None leaves it to the endpoint, which some models demand.
        price: US dollars per million tokens of prompts and of replies; None if unknown.

    Raises:
        OGPSAError: a value makes no sense.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8
    requests_per_minute: float | None = None
    attempts: int = 6
    timeout: float = 60.0
    max_tokens: int = 256
    temperature: float | None = 0.7
    price: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        self._check_url()
        if not self.model.strip():
            raise OGPSAError("The endpoint's model is empty. Give the name that the endpoint knows it by.")
        # Capitals only, and not repeated in the message: someone may have put the key itself here.
        if not re.fullmatch("[A-Z_][A-Z0-9_]*", self.key_variable):
            raise OGPSAError(
                "key_variable must be the name of an environment variable in capitals, such as OPENAI_API_KEY, not "
                "the key itself. Set that variable to the key."
            )
        for name in ("concurrency", "attempts", "max_tokens"):
            if getattr(self, name) < 1:
                raise OGPSAError(f"The endpoint's {name} is {getattr(self, name)}. Give a number from 1 on.")
        for name in ("timeout", "requests_per_minute"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise OGPSAError(f"The endpoint's {name} is {value}. Give a number above 0.")
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise OGPSAError(f"The endpoint's temperature is {self.temperature}. Give one from 0 to 2.")
        if self.price is not None and not (len(self.price) == 2 and all(0 <= part < math.inf for part in self.price)):
            raise OGPSAError(f"The endpoint's price is {self.price}. Give two: dollars per million tokens in and out.")

    def _check_url(self) -> None:
        # The address is printed and goes into data cards, so nothing secret may be in it.
        try:
            parts = urlsplit(self.url)
            secretive = "@" in parts.netloc or bool(parts.query or parts.fragment)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            secretive, usable = False, False
        if secretive:
            raise OGPSAError(
                f"The endpoint's address must have no user name, password or query. Put the key into "
                f"{self.key_variable}."
            )
        if not usable:
            raise OGPSAError(f"{self.url!r} is no address of an endpoint. Give one like http://localhost:8000/v1.")
        if parts.path.rstrip("/").endswith("/chat/completions"):
            raise OGPSAError(f"{self.url}: leave out /chat/completions, which is added to the address.")


def request_key(endpoint: Endpoint, messages: Messages) -> str:
    """Name a request by the SHA-256, in hexadecimal, of all that its reply follows from.

    That includes the address: two of them may serve different models under one name.
    """
    sampling = {"max_tokens": endpoint.max_tokens, "temperature": endpoint.temperature}
    content = {"url": endpoint.url.rstrip("/"), "model": endpoint.model, "messages": messages, **sampling}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Estimate:
    """What sending requests once will take at most; `cached` counts repeated ones too, which are sent once."""

    requests: int
    cached: int
    prompt_tokens: int
    answer_tokens: int
    dollars: float | None

    @property
    def to_send(self) -> int:
        """Requests that are not answered yet."""
        return self.requests - self.cached

    def __str__(self) -> str:
        if self.cached == self.requests:
            return f"{self.requests:,} requests, all of them answered already: nothing is sent"
        cost = "at a price that is not known" if self.dollars is None else f"for about ${self.dollars:,.2f} at most"
        return (
            f"{self.requests:,} requests, {self.cached:,} of them answered already or repeated; the other "
            f"{self.to_send:,} send about {self.prompt_tokens:,} tokens and receive up to "
            f"{self.answer_tokens:,}, {cost}"
        )


def estimate(requests: Sequence[Messages], endpoint: Endpoint, cache: ReplyCache | None) -> Estimate:
    """Estimate what `complete` would send; a token is taken to be four characters.

    Args:
        requests: messages of each request.
        endpoint: where they would be sent.
        cache: the replies that are there already; None if there are none.

    Returns:
        Numbers of requests and tokens, and dollars if the endpoint's price is known.
    """
    keyed = {request_key(endpoint, messages): messages for messages in requests}
    missing = [messages for key, messages in keyed.items() if cache is None or key not in cache]
    characters = sum(len(message["content"]) for messages in missing for message in messages)
    prompt, answer = math.ceil(characters / 4), len(missing) * endpoint.max_tokens
    dollars = (prompt * endpoint.price[0] + answer * endpoint.price[1]) / 1e6 if endpoint.price else None
    return Estimate(len(requests), len(requests) - len(missing), prompt, answer, dollars)
