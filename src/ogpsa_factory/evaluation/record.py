"""What `scores.json` says of an evaluation beside the scores, and which scores of an earlier one still hold."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .. import __version__
from ..files import read_json
from .backends import Running
from .models import Model
from .scores import FORMAT, SCORES
from .suite import Suite


_VERSIONS = ("lm_eval", "transformers", "torch", "peft", "datasets", "vllm")
# What answers follow from, besides a benchmark's own settings.
_SAME = ("format", "backend", "dtype", "arguments", "chat_template", "system", "temperature")


def record_of(
    model: Model, suite: Suite, running: Running, system: str | None, print_of: dict[str, Any]
) -> dict[str, Any]:
    """Describe an evaluation of one model.

    Args:
        model: which one.
        suite: which benchmarks.
        running: how it is run.
        system: the system message; None for that of the model's template.
        print_of: fingerprint of its weights, and its revision on the hub.

    Returns:
        All of `scores.json` but the benchmarks.
    """
    limits = [each.limit for each in suite.benchmarks if each.limit is not None]
    return {
        "format": FORMAT,
        "model": {"name": model.name, "path": model.base, "adapters": list(model.adapters), **print_of},
        "suite": {
            "name": suite.name,
            "title": suite.title,
            "fingerprint": suite.fingerprint,
            "seed": suite.seed,
            "limit": max(limits, default=None),
        },
        "backend": running.backend,
        "dtype": running.dtype,
        "arguments": running.arguments,
        "chat_template": running.template,
        "system": system,
        "temperature": running.temperature,
        "versions": {"ogpsa_factory": __version__, "python": platform.python_version(), **_versions()},
    }


def still_valid(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Find the scores of an earlier evaluation that another one of the same model need not repeat.

    Args:
        folder: of the model.
        record: of the evaluation that is under way.

    Returns:
        Entries of `scores.json` there, if the same weights were run in the same way for a suite of the same name and
        seed; else none.
    """
    path = folder / SCORES
    if not path.is_file():
        return {}
    before = read_json(path)
    same = isinstance(before, dict) and all(before.get(key) == record[key] for key in _SAME)
    if not same or before["model"].get("fingerprint") != record["model"]["fingerprint"]:
        return {}
    if any(before["suite"].get(key) != record["suite"][key] for key in ("name", "seed")):
        return {}
    entries: dict[str, Any] = before["benchmarks"]
    return entries


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
