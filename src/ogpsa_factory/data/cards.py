"""Data cards: what a built set is made of, for people below and for programs in the front matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..files import write_text
from .sources import Source


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of a set.

    Attributes:
        name: of the set in dataset_info.json.
        kind: "sft" (instruction, output) or "dpo" (instruction, chosen, rejected).
        rows: how many it has.
        sha256: of its file.
        settings: all that its rows follow from, see `Order.settings_of`.
        source: the public data set.
        origin: where its rows were read, see `Origin.described`.
        counts: what became of the source's rows.
        recipe: how prompts and answers were chosen, in a sentence or two.
        written: what was written for this set and is not the source's: `what`, `method` and `counts`; empty where
            nothing was.
        left_out: the number of instructions of another set, by its name, that may not be in this one.
        characters: mean length of each column in characters.
    """

    name: str
    kind: str
    rows: int
    sha256: str
    settings: Mapping[str, Any]
    source: Source
    origin: Mapping[str, Any]
    counts: Mapping[str, int]
    recipe: str
    characters: Mapping[str, float]
    written: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)

    def text(self) -> str:
        """The card in Markdown with YAML front matter."""
        source = self.source
        facts: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "rows": self.rows,
            "sha256": self.sha256,
            "settings": dict(self.settings),
            "source": {"name": source.name, **self.origin},
            "licence": source.licence,
            "non_commercial": source.non_commercial,
            "counts": dict(self.counts),
            "written": dict(self.written),
            "left_out": dict(self.left_out),
            "mean_characters": {column: round(mean, 1) for column, mean in self.characters.items()},
        }
        front = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=1000)
        lines = [f"# {self.name}", "", f"{self.rows:,} rows made from {source.name}. {self.recipe}", ""]
        for other, number in self.left_out.items():
            lines += [f"The {number:,} instructions that were in {other} when this set was built are left out.", ""]
        if self.rows < self.settings["samples"]:
            lines += [f"**{self.settings['samples']:,} rows were asked for; the source has no more that fit.**", ""]
        commercial = " **Non-commercial use only.**" if source.non_commercial else ""
        lines += ["## Licence", "", f"{source.licence}.{commercial} {source.remark}", ""]
        if self.written:
            lines += [f"## {self.written['what']}", "", f"Written by {self.written['method']}.", ""]
            lines += _table("answers", self.written["counts"])
        lines += ["## What became of the source's rows", ""]
        lines += _table("number", {**self.counts, f"drawn with seed {self.settings['seed']}": self.rows})
        lines += ["## Columns", "", "| column | mean characters |", "| --- | ---: |"]
        lines += [f"| {column} | {mean:,.0f} |" for column, mean in self.characters.items()]
        return f"---\n{front}---\n\n" + "\n".join(lines) + "\n"

    def write(self, path: Path) -> None:
        """Write the card.

        Args:
            path: the file.
        """
        write_text(path, self.text())


def _table(what: str, counts: Mapping[str, int]) -> list[str]:
    return [f"| | {what} |", "| --- | ---: |", *(f"| {name} | {count:,} |" for name, count in counts.items()), ""]


def read_facts(path: Path) -> dict[str, Any]:
    """Read the front matter of a card.

    Args:
        path: the card.

    Returns:
        Its facts; nothing where there is no card, or one that does not say what a build needs to know.
    """
    try:
        parts = path.read_text(encoding="utf-8").split("---\n", 2)
        facts = yaml.safe_load(parts[1]) if len(parts) == 3 else None
    except (OSError, ValueError, RecursionError, yaml.YAMLError):  # ValueError: no UTF-8, or a date that is none
        return {}
    if not isinstance(facts, dict):
        return {}
    needed = {"rows": int, "sha256": str, "settings": dict}
    return facts if all(isinstance(facts.get(name), kind) for name, kind in needed.items()) else {}
