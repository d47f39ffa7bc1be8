"""Data cards: what a built set is made of, for people below and for programs in the front matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        aliases: other names of it there.
        kind: "sft" (instruction, output) or "dpo" (instruction, chosen, rejected).
        rows: how many it has.
        asked: how many were asked for.
        sha256: of its file.
        seed: of the draw.
        source: the public data set.
        origin: where its rows were read, see `Origin.described`.
        counts: what became of the source's rows.
        recipe: how prompts and answers were chosen, in a sentence or two.
        written: what was written for this set and is not the source's: `what`, `method` and `counts`; empty where
            nothing was.
        fingerprint: hash of everything that the rows follow from.
        version: of this package.
        characters: mean length of each column in characters.
    """

    name: str
    aliases: Sequence[str]
    kind: str
    rows: int
    asked: int
    sha256: str
    seed: int
    source: Source
    origin: Mapping[str, Any]
    counts: Mapping[str, int]
    recipe: str
    fingerprint: str
    version: str
    characters: Mapping[str, float]
    written: Mapping[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """The card in Markdown with YAML front matter."""
        source = self.source
        facts: dict[str, Any] = {
            "name": self.name,
            "aliases": list(self.aliases),
            "kind": self.kind,
            "rows": self.rows,
            "sha256": self.sha256,
            "seed": self.seed,
            "source": {"name": source.name, **self.origin},
            "licence": source.licence,
            "non_commercial": source.non_commercial,
            "counts": dict(self.counts),
            "written": dict(self.written),
            "mean_characters": {column: round(mean, 1) for column, mean in self.characters.items()},
            "fingerprint": self.fingerprint,
            "made_by": f"ogpsa_factory {self.version}",
        }
        front = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=1000)
        lines = [f"# {self.name}", "", f"{self.rows:,} rows made from {source.name}. {self.recipe}", ""]
        if self.rows < self.asked:
            lines += [f"**{self.asked:,} rows were asked for; the source has no more that are fit.**", ""]
        commercial = " **Non-commercial use only.**" if source.non_commercial else ""
        lines += ["## Licence", "", f"{source.licence}.{commercial} {source.remark}", ""]
        if self.written:
            lines += [f"## {self.written['what']}", "", f"Written by {self.written['method']}.", ""]
            lines += _table("answers", self.written["counts"])
        lines += ["## What became of the source's rows", ""]
        lines += _table("number", {**self.counts, f"drawn with seed {self.seed}": self.rows})
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
        Its facts; nothing where there is no card, or something else.
    """
    try:
        parts = path.read_text(encoding="utf-8").split("---\n", 2)
        facts = yaml.safe_load(parts[1]) if len(parts) == 3 else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return facts if isinstance(facts, dict) else {}
