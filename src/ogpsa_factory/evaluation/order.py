"""From the command line of `ogpsa evaluate` to what is to be done."""

from __future__ import annotations

import argparse
import re
from contextlib import suppress
from importlib.util import find_spec

from ..endpoint import Endpoint
from ..errors import OGPSAError
from .backends import Running
from .evaluate import Order
from .judging.judge import EndpointJudge, Judge, KeywordJudge
from .models import read_models
from .suite import read_suite


def order_of(args: argparse.Namespace) -> Order:
    """Read an order off the command line.

    Args:
        args: of `ogpsa evaluate`.

    Returns:
        The order.

    Raises:
        OGPSAError: an argument makes no sense, or does not go with another.
    """
    if not args.models and not args.dry_run:
        raise OGPSAError("ogpsa evaluate needs a model: a folder, a name on the hub, or NAME=MODEL.")
    if args.output.is_file():
        raise OGPSAError(f"--output {args.output} is a file: name a folder.")
    if not 0 <= args.temperature <= 2:
        raise OGPSAError(f"--temperature {args.temperature} is not from 0 to 2.")
    suite = read_suite(args.suite).restricted(
        [name.strip() for name in args.benchmarks.split(",") if name.strip()], args.limit, args.max_new_tokens
    )
    return Order(
        suite=suite,
        models=read_models(args.models, remote=args.backend == "openai"),
        running=_running(args, suite.seed),
        judge=judge_of(args),
        output=args.output,
        system=args.system,
        skip_missing=args.skip_missing,
    )


def _running(args: argparse.Namespace, seed: int) -> Running:
    if (args.backend == "openai") != bool(args.url):
        raise OGPSAError("--backend openai needs --url, the endpoint's address; the other backends take none.")
    if not re.fullmatch(r"[1-9][0-9]*|auto(:[0-9]+)?", args.batch_size):
        raise OGPSAError(f"--batch-size {args.batch_size} is neither a whole number from 1 on nor auto.")
    if args.backend == "vllm" and find_spec("vllm") is None:
        raise OGPSAError("--backend vllm needs vLLM, which is not installed: `pip install vllm`, or --backend hf.")
    pairs = [pair.partition("=") for pair in args.model_args.split(",") if pair.strip()]
    if any(not equals for _, equals, _ in pairs):
        raise OGPSAError("--model-args must be of the form KEY=VALUE,KEY=VALUE.")
    for key, _, _ in pairs:
        if any(word in key.lower() for word in ("token", "key", "password", "secret")) and "tokenizer" not in key:
            raise OGPSAError(
                f"--model-args {key.strip()}: arguments are written to scores.json, so secrets have no place there. "
                "Run `hf auth login`, or set HF_TOKEN."
            )
    return Running(
        backend=args.backend,
        batch_size=args.batch_size,
        device=args.device,
        dtype=args.dtype,
        arguments={key.strip(): _value(value.strip()) for key, _, value in pairs},
        template=not args.no_chat_template,
        temperature=args.temperature,
        seed=seed,
        endpoint=_endpoint(args, args.url, "-", args.key_variable, args.temperature, 256) if args.url else None,
    )


def _value(text: str) -> bool | int | float | str | None:
    """A value of --model-args: a word, a number, true, false or none."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def _endpoint(
    args: argparse.Namespace, url: str, model: str, key: str, temperature: float | None, tokens: int
) -> Endpoint:
    return Endpoint(
        url=url,
        model=model,
        key_variable=key,
        concurrency=args.concurrency,
        requests_per_minute=args.requests_per_minute,
        attempts=args.attempts,
        timeout=args.timeout,
        max_tokens=tokens,
        temperature=temperature,
        price=tuple(args.price) if args.price else None,
    )


def judge_of(args: argparse.Namespace) -> Judge | None:
    """Read a judge off the command line.

    Args:
        args: of `ogpsa evaluate`.

    Returns:
        The judge; None where none is asked for.

    Raises:
        OGPSAError: its endpoint makes no sense.
    """
    if args.judge == "none":
        return None
    if args.judge == "keywords":
        return KeywordJudge()
    key, temperature = args.judge_key_variable, args.judge_temperature
    endpoint = _endpoint(args, args.judge_url, args.judge_model, key, temperature, args.judge_max_tokens)
    return EndpointJudge(endpoint, args.output / "judge.jsonl")
