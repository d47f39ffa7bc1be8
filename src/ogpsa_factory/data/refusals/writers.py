"""Three ways to get refusals: from templates, from an endpoint, or from a model on this machine's GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...endpoint import Endpoint, Messages, OnReply, ReplyCache, complete, request_key
from ...errors import OGPSAError
from .messages import TRIES, RefusalRequest, endpoint_messages, usable_refusal
from .templates import template_refusal


# vLLM is asked for this many answers at a time: enough to keep a GPU busy, few enough for a progress bar.
PORTION = 512


@dataclass(frozen=True)
class Refusals:
    """Refusals and where they come from.

    Args:
        texts: one for each request, in their order.
        method: who wrote them, for the data card.
        counts: how many were written in which way; what was asked again was written by one of the two others.
    """

    texts: list[str]
    method: str
    counts: dict[str, int]


def messages_to_send(
    requests: Sequence[RefusalRequest], endpoint: Endpoint, cache: ReplyCache
) -> tuple[list[Messages], list[Messages]]:
    """What `write_from_endpoint` will send, for an estimate.

    Args:
        requests: what is to be refused.
        endpoint: where the model is.
        cache: the replies that are there already.

    Returns:
        One message for each request: the one that is sent next, or was answered with a refusal. And what is sent
        besides if no answer to it refuses.
    """
    following: list[Messages] = []
    later: list[Messages] = []
    for request in requests:
        tries = [endpoint_messages(request.prompt, strictness) for strictness in range(TRIES)]
        while len(tries) > 1 and (key := request_key(endpoint, tries[0])) in cache:
            if usable_refusal(cache[key]) is not None:
                break
            del tries[0]
        following.append(tries[0])
        if request_key(endpoint, tries[0]) not in cache:
            later += tries[1:]
    return following, later


def write_from_templates(requests: Sequence[RefusalRequest], seed: int) -> Refusals:
    """Write refusals from built-in phrases.

    Args:
        requests: what is refused.
        seed: another one gives other phrases.

    Returns:
        The refusals.
    """
    texts = [template_refusal(request.prompt, seed, request.categories) for request in requests]
    return Refusals(texts, "built-in templates", {"written from templates": len(texts)})


def write_from_endpoint(
    requests: Sequence[RefusalRequest],
    seed: int,
    endpoint: Endpoint,
    cache_path: Path,
    on_progress: OnReply | None = None,
) -> Refusals:
    """Have the model behind an endpoint write refusals.

    Args:
        requests: what is refused.
        seed: of the templates that stand in where the model does not refuse.
        endpoint: where the model is.
        cache_path: JSON Lines file of replies, which an interrupted run goes on with.
        on_progress: called with the number of requests that are done and of all; the former steps back when some
            have to be asked again.

    Returns:
        The refusals.

    Raises:
        OGPSAError: the endpoint or the cache cannot be used.
    """
    with ReplyCache(cache_path) as cache:
        return _write(
            requests,
            seed,
            f"{endpoint.model} at {endpoint.url}{_sampling(endpoint.temperature)}",
            lambda messages, report: complete(messages, endpoint, cache, report),
            on_progress,
        )


def write_from_vllm(
    requests: Sequence[RefusalRequest],
    seed: int,
    model: str,
    on_progress: OnReply | None = None,
    temperature: float | None = 0.7,
    max_tokens: int = 256,
) -> Refusals:
    """Have a model write refusals on this machine's GPU, with vLLM.

    Args:
        requests: what is refused.
        seed: of sampling, and of the templates that stand in where the model does not refuse.
        model: a folder or a name on the Hugging Face hub; it needs a chat template.
        on_progress: as for `write_from_endpoint`.
        temperature: of sampling; None leaves it to vLLM.
        max_tokens: tokens of a refusal at most.

    Returns:
        The refusals.

    Raises:
        OGPSAError: vLLM is not installed, or cannot load or run the model.
    """
    try:
        from vllm import LLM, SamplingParams
    except (ImportError, OSError) as error:  # an OSError is a CUDA library that is not there
        raise OGPSAError(
            f"vLLM cannot be imported ({error}). Run `pip install vllm` in an environment of its own, on a machine "
            "with a GPU, or serve the model elsewhere and use its endpoint, or use templates."
        ) from error
    try:
        engine = LLM(model=model, seed=seed)
        warmth = {} if temperature is None else {"temperature": temperature}
        sampling = SamplingParams(max_tokens=max_tokens, seed=seed, **warmth)
    except Exception as error:  # vLLM raises what the libraries below it raise
        raise OGPSAError(f"vLLM cannot load {model}: {error}. It needs a GPU with room for the model.") from error

    def ask(messages: list[Messages], report: OnReply) -> list[str]:
        replies: list[str] = []
        for start in range(0, len(messages), PORTION):
            try:
                outputs = engine.chat(
                    messages[start : start + PORTION],
                    sampling,
                    use_tqdm=False,
                    # Thoughts would use up the tokens; templates without this variable ignore it.
                    chat_template_kwargs={"enable_thinking": False},
                )
            except Exception as error:
                raise OGPSAError(
                    f"vLLM cannot run {model}: {error}. It needs a chat template with a system role, and room for "
                    "the longest request."
                ) from error
            replies += [output.outputs[0].text for output in outputs]
            report(len(replies), len(messages))
        return replies

    return _write(requests, seed, f"{model} with vLLM{_sampling(temperature)}", ask, on_progress)


def _sampling(temperature: float | None) -> str:
    return "" if temperature is None else f" (temperature {temperature:g})"


def _write(
    requests: Sequence[RefusalRequest],
    seed: int,
    method: str,
    ask: Callable[[list[Messages], OnReply], list[str]],
    on_progress: OnReply | None,
) -> Refusals:
    """Ask, check the answers, ask again for what is no refusal, and let templates stand in for the rest."""
    texts: list[str | None] = [None] * len(requests)
    open_ones = list(range(len(requests)))
    asked_again = 0
    for strictness in range(TRIES):
        if not open_ones:
            break
        finished = len(requests) - len(open_ones)

        def report(done: int, _: int, finished: int = finished) -> None:
            if on_progress:
                on_progress(finished + done, len(requests))

        replies = ask([endpoint_messages(requests[index].prompt, strictness) for index in open_ones], report)
        for index, reply in zip(open_ones, replies, strict=True):
            texts[index] = usable_refusal(reply)
        open_ones = [index for index in open_ones if texts[index] is None]
        asked_again = asked_again or len(open_ones)
    written = [
        template_refusal(request.prompt, seed, request.categories) if text is None else text
        for request, text in zip(requests, texts, strict=True)
    ]
    counts = {
        "written by the model": len(requests) - len(open_ones),
        "asked again": asked_again,
        "replaced by a template": len(open_ones),
    }
    return Refusals(written, method, counts)
