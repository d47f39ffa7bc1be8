"""What an evaluated model is: its name, and a score, with its items, or a gap for every benchmark."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .features import Items


AXES = ("safety", "general", "extra")
LABELS = {
    "base": "Base",
    "naive": "Naive",
    "merged": "Merged",
    "lora": "LoRA",
    "general_data": "General data",
    "ogpsa": "OGPSA",
}
# How answers were asked for: keys of `scores.json`, with what a report calls them.
SETTINGS = {
    "temperature": "temperature",
    "system": "system message",
    "chat_template": "chat template",
    "dtype": "dtype",
    "arguments": "further arguments",
}
_PIPELINES = ("SFT", "DPO", "SFT-DPO")
_METHODS = tuple(LABELS)


@dataclass(frozen=True)
class Benchmark:
    """A model on one benchmark; `score` is in percent, and None where `gap` says why there is none.

    `settings` and `rows` are hashes: of what the suite says of the benchmark, and of the ids of its rows.
    """

    name: str
    axis: str
    title: str
    higher_is_better: bool = True
    score: float | None = None
    gap: str | None = None
    note: str | None = None  # what is missing of it
    samples: int | None = None
    failed: int = 0
    unparsed: int = 0
    judge: str | None = None
    aggregation: str | None = None
    details: Mapping[str, float | None] = field(default_factory=dict)
    items: Items | None = None
    settings: str | None = None
    rows: str | None = None
    origins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Model:
    """One evaluated model; `record` is its entry of `scores.json`, and `source` the file, or what is quoted.

    `settings` has those of `SETTINGS` that are recorded.
    """

    name: str
    source: str
    benchmarks: Mapping[str, Benchmark]
    record: Mapping[str, Any] = field(default_factory=dict)
    suite: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    backend: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pipeline(self) -> str:
        """What stands before the last slash of the name."""
        return self.name.rpartition("/")[0]

    @property
    def method(self) -> str:
        """What stands behind the last slash of the name."""
        return self.name.rpartition("/")[2]

    @property
    def label(self) -> str:
        """The method for people."""
        return LABELS.get(self.method, self.method)

    def scores(self, *axes: str) -> dict[str, float]:
        """The scores that are there.

        Args:
            axes: of these axes only.

        Returns:
            Percent by benchmark.
        """
        there = {name: entry.score for name, entry in self.benchmarks.items() if entry.axis in axes}
        return {name: score for name, score in there.items() if score is not None}


def in_order(models: Sequence[Model]) -> list[Model]:
    """Sort models as the paper's Table 1 does: by pipeline, then by method; others by name, and numbers in it, behind.

    Args:
        models: of one table.

    Returns:
        The same, sorted.
    """

    def place(name: str, known: Sequence[str]) -> tuple[int, list[tuple[str, int]]]:
        parts = re.findall(r"(\D*)(\d*)", name, re.ASCII)  # K2 stands before K10
        return (known.index(name) if name in known else len(known), [(text, int(n or -1)) for text, n in parts])

    return sorted(models, key=lambda m: (place(m.pipeline, _PIPELINES), place(m.method, _METHODS)))
