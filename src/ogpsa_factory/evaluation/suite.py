"""Suites: which benchmarks are measured, by which tasks, and how they are scored. A suite is a YAML file."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..errors import OGPSAError
from ..mappings import read_mapping
from ..places import find
from .judging.rubrics import RUBRICS


Axis = Literal["safety", "general", "extra"]
_AXES = ("safety", "general", "extra")
_AGGREGATIONS = ("mean", "task_mean", "advglue")
_SUITE_KEYS = ("title", "extends", "seed", "limit", "benchmarks")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One column of a table.

    Attributes:
        name: its head.
        title: what it measures, in words.
        axis: `safety` and `general` are averaged, `extra` is shown apart.
        tasks: names of lm-eval's tasks, groups or tags.
        score: figure of lm-eval that is averaged, FIGURE or FIGURE@FILTER; empty where a judge grades.
        judge: name of a rubric; empty where lm-eval's figure is taken.
        aggregation: `mean` of all samples, `task_mean` (mean of the tasks' means) or `advglue`.
        shots: examples in the prompt; None for the task's own number.
        max_new_tokens: tokens of an answer at most; None for tasks that generate nothing.
        limit: rows of each task; None for all.
        higher_is_better: False for over-refusal and the like.
    """

    name: str
    title: str
    axis: Axis
    tasks: tuple[str, ...]
    score: str = ""
    judge: str = ""
    aggregation: str = "mean"
    shots: int | None = None
    max_new_tokens: int | None = None
    limit: int | None = None
    higher_is_better: bool = True


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Benchmarks that belong together.

    Attributes:
        name: of its file.
        title: in words.
        seed: of everything that is drawn.
        benchmarks: in the order in which they are shown.
        everything: names of all benchmarks of the file.
    """

    name: str
    title: str
    seed: int
    benchmarks: tuple[Benchmark, ...]
    everything: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Changes with the settings of any benchmark, and with their choice."""
        return _short_hash([self.settings(each) for each in self.benchmarks])

    def settings(self, benchmark: Benchmark) -> str:
        """Changes with what a benchmark's answers and scores follow from: the seed, and all but name and title."""
        return _short_hash([self.seed, {**asdict(benchmark), "name": "", "title": ""}])

    def restricted(self, names: list[str], limit: int | None, max_new_tokens: int | None) -> Suite:
        """The suite with what the command line asks for.

        Args:
            names: benchmarks to keep; none for all.
            limit: rows of each task at most.
            max_new_tokens: tokens of each answer at most.

        Returns:
            The suite; `limit` and `max_new_tokens` lower what it has and never raise it.

        Raises:
            OGPSAError: there is no benchmark of such a name.
        """
        there = [each.name for each in self.benchmarks]
        for name in names:
            if name not in there:
                raise OGPSAError(
                    f"--benchmarks {name}: the suite {self.name} has none of that name. {_hint(name, there)}"
                )
        kept = [each for each in self.benchmarks if each.name in names or not names]
        return replace(
            self,
            benchmarks=tuple(
                replace(
                    each,
                    limit=_lower(each.limit, limit),
                    max_new_tokens=each.max_new_tokens and _lower(each.max_new_tokens, max_new_tokens),
                )
                for each in kept
            ),
        )


def _short_hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _lower(own: int | None, asked: int | None) -> int | None:
    return asked if own is None else own if asked is None else min(own, asked)


def read_suite(name: str) -> Suite:
    """Read a suite.

    Args:
        name: of a file in `evaluation/suites/`, or a path that ends in `.yaml`.

    Returns:
        The suite.

    Raises:
        OGPSAError: naming the file and the key that is wrong.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else find(f"suites/{name}.yaml")
    content = _read(path)
    title, seed, entries = content.get("title"), content.get("seed", 1234), content.get("benchmarks")
    if not isinstance(title, str) or not isinstance(seed, int) or not isinstance(entries, dict) or not entries:
        raise OGPSAError(f"{path}: a suite needs title (text), benchmarks (a mapping), and seed as a whole number.")
    limit = _number(content.get("limit"), f"{path}: limit")
    benchmarks = tuple(_benchmark(path, str(key), entry, limit) for key, entry in entries.items())
    everything = tuple(each.name for each in benchmarks)
    return Suite(name=path.stem, title=title, seed=seed, benchmarks=benchmarks, everything=everything)


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A suite's file over the one that it extends, benchmark by benchmark."""
    if path.resolve() in above:
        raise OGPSAError(f"{path}: it extends itself.")
    content = read_mapping(path)
    for key in content:
        if key not in _SUITE_KEYS:
            raise OGPSAError(f"{path}: unknown key {key}. {_hint(key, list(_SUITE_KEYS))}")
    if "extends" not in content:
        return content
    below = _read(path.parent / str(content.pop("extends")), (*above, path.resolve()))
    changes = content.pop("benchmarks", None) or {}
    for benchmarks in (changes, below.get("benchmarks")):
        if not isinstance(benchmarks, dict) or not all(isinstance(entry, dict) for entry in benchmarks.values()):
            raise OGPSAError(f"{path}: benchmarks, here or in what is extended, must map names to mappings of keys.")
    unknown = [name for name in changes if name not in below["benchmarks"] and "axis" not in changes[name]]
    if unknown:
        raise OGPSAError(
            f"{path}: {unknown[0]} is not in the suite that is extended, so it needs axis, tasks and so on."
        )
    merged = {name: {**below["benchmarks"].get(name, {}), **(changes.get(name) or {})} for name in below["benchmarks"]}
    return {**below, **content, "benchmarks": {**merged, **{n: e for n, e in changes.items() if n not in merged}}}


def _benchmark(path: Path, name: str, entry: Any, limit: int | None) -> Benchmark:
    where = f"{path}: {name}"
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise OGPSAError(f"{where}: a benchmark's name is that of a folder: letters, digits, . _ and - are possible.")
    if not isinstance(entry, dict):
        raise OGPSAError(f"{where} must map keys to values, such as axis: safety.")
    known = [key for key in Benchmark.__dataclass_fields__ if key != "name"]
    for key in entry:
        if key not in known:
            raise OGPSAError(f"{where}: unknown key {key}. {_hint(key, known)}")
    tasks = entry.get("tasks")
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) for task in tasks):
        raise OGPSAError(f"{where}: tasks must be a list of names of lm-eval's tasks.")
    for key, allowed in (("axis", _AXES), ("aggregation", _AGGREGATIONS), ("judge", tuple(RUBRICS))):
        if entry.get(key, None if key == "axis" else allowed[0]) not in allowed:
            raise OGPSAError(f"{where}: {key} must be one of {', '.join(allowed)}, and it is {entry.get(key)!r}.")
    if entry["axis"] != "extra" and entry.get("higher_is_better") is False:
        raise OGPSAError(f"{where}: what is better lower can be in no mean: its axis must be extra.")
    for key in ("title", "score"):
        if not isinstance(entry.get(key, ""), str):
            raise OGPSAError(f"{where}: {key} must be text, and it is {entry[key]!r}.")
    if bool(entry.get("score")) == bool(entry.get("judge")):
        raise OGPSAError(f"{where}: exactly one of score (a figure of lm-eval) and judge (a rubric) must be there.")
    if entry.get("judge") and not entry.get("max_new_tokens"):
        raise OGPSAError(f"{where}: max_new_tokens is missing: how long may an answer be?")
    for key in ("shots", "max_new_tokens", "limit"):
        _number(entry.get(key), f"{where}: {key}", least=0 if key == "shots" else 1)
    return Benchmark(**{"title": name, "limit": limit, **entry, "name": name, "tasks": tuple(tasks)})


def _number(value: Any, where: str, least: int = 1) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise OGPSAError(f"{where} must be a whole number from {least} on, and it is {value!r}.")
    return value


def _hint(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(known)}."
