"""The paper's data sets: their names, sizes and recipes (paper, set-up), and an order for some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from .registry import ROLE_KEY
from .sources import HALUEVAL, SAFERLHF, ULTRAFEEDBACK, Origin, Source


FOLDER = "paper"  # below the data folder
COLUMNS: dict[str, dict[str, Any]] = {
    "sft": {"columns": {"prompt": "instruction", "response": "output"}},
    "dpo": {"ranking": True, "columns": {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}},
}


@dataclass(frozen=True, kw_only=True)
class Step:
    """Two sets with the same rows: answers for SFT, pairs for DPO.

    Attributes:
        sets: the name of each set by its kind.
        aliases: the name in the authors' released registry by kind.
        role: what the rows are for, as in `ogpsa data add`.
        source: what they are made from.
        samples: rows in the paper.
        recipe: how prompts and answers are chosen.
        other: the step whose instructions are left out, both being made from the same source.
    """

    sets: Mapping[str, str]
    aliases: Mapping[str, str]
    role: str
    source: Source
    samples: int
    recipe: str
    other: str | None = None


_UNSAFE = (
    "Prompts with at least one unsafe answer, drawn at random. The rejected answer is the most severe unsafe one; of "
    "equally severe ones, one that annotators did not call the safer of its pair; of those the first in the order of "
    "the rows. A refusal is chosen."
)
_SCORED = (
    "Instructions drawn at random. The completion with the highest overall_score is chosen, the one with the lowest "
    "rejected (ties by fine-grained_score, then the first); rows in which fine-grained_score contradicts are left "
    "out. Of several rows of one instruction the first counts."
)
_ANSWERED = (
    "Questions drawn at random. The right answer is chosen, the hallucinated one rejected, with single spaces and the "
    "right one's first letter and full stop. Of several rows of one question the first counts."
)
# In the order of building: the reference set comes before the general one, which has whatever is left.
STEPS: dict[str, Step] = {
    "saferlhf": Step(
        sets={"sft": "saferlhf_sft", "dpo": "saferlhf_dpo"},
        aliases={"sft": "saferlhf2_sft", "dpo": "saferlhf2_dpo"},
        role="safety",
        source=SAFERLHF,
        samples=10_000,
        recipe=_UNSAFE,
    ),
    "ultrafeedback": Step(
        sets={"sft": "ultrafeedback_ref_sft", "dpo": "ultrafeedback_ref_dpo"},
        aliases={"sft": "ultrafeedback_sft_200", "dpo": "ultrafeedback_dpo_200"},
        role="reference",
        other="general",
        source=ULTRAFEEDBACK,
        samples=200,
        recipe=_SCORED,
    ),
    "halueval": Step(
        sets={"sft": "halueval_ref_sft", "dpo": "halueval_ref_dpo"},
        aliases={"sft": "halueval_sft_200", "dpo": "halueval_dpo_200"},
        role="reference",
        source=HALUEVAL,
        samples=200,
        recipe=_ANSWERED,
    ),
    "general": Step(
        sets={"sft": "ultrafeedback_general_sft", "dpo": "ultrafeedback_general_dpo"},
        aliases={"sft": "ultrafeedback_sft", "dpo": "ultrafeedback_dpo"},
        role="general",
        other="ultrafeedback",
        source=ULTRAFEEDBACK,
        samples=10_000,
        recipe=_SCORED,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be built.

    Attributes:
        steps: keys of `STEPS`.
        dataset_dir: LLaMA-Factory's data folder.
        origins: where each source is read, by the source's name.
        samples: rows of each set; None for the paper's.
        seed: of all draws.
        knowledge: whether HaluEval's passages stand before the questions.
        aliases: whether the released names are registered too.
        replace: whether entries and sets of the same names that are not as they would be built are replaced.
        writer: who writes refusals, and all that decides on their text.
        rewriter: the same of who rewrites HaluEval's wrong answers; empty where nobody does.
    """

    steps: Sequence[str]
    dataset_dir: Path
    origins: Mapping[str, Origin]
    samples: int | None
    seed: int
    knowledge: bool
    aliases: bool
    replace: bool
    writer: Mapping[str, Any]
    rewriter: Mapping[str, Any]

    def samples_of(self, name: str) -> int:
        """Rows that a step's sets are to have."""
        return self.samples or STEPS[name].samples

    def file_of(self, name: str) -> Path:
        """The file of a set."""
        return self.dataset_dir / FOLDER / f"{name}.jsonl"

    def files_of(self, step: str) -> list[Path]:
        """The files of both sets of a step."""
        return [self.file_of(name) for name in STEPS[step].sets.values()]

    def settings_of(self, step: str) -> dict[str, Any]:
        """What the rows of a step follow from, but for the rows of the other step that are left out."""
        own: dict[str, Mapping[str, Any]] = {
            "saferlhf": self.writer,
            "halueval": {"knowledge": self.knowledge, **self.rewriter},
        }
        identity = self.origins[STEPS[step].source.name].identity()
        found = {"samples": self.samples_of(step), "seed": self.seed, "source": identity, **own.get(step, {})}
        return {**found, "version": __version__}

    def entries(self, steps: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The entries of the sets of some steps, their other names behind them."""
        found = {}
        for step in (STEPS[name] for name in steps):
            for kind, name in step.sets.items():
                entry = {"file_name": f"{FOLDER}/{name}.jsonl", **COLUMNS[kind], ROLE_KEY: step.role}
                found[name] = entry
                if self.aliases:
                    found[step.aliases[kind]] = entry
        return found
