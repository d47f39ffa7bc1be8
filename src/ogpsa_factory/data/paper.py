"""The paper's data sets: their names, sizes and recipes (paper, set-up), and an order for some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .sources import HALUEVAL, SAFERLHF, ULTRAFEEDBACK, Origin, Source


FOLDER = "paper"  # below the data folder
REFERENCE_ROWS = 200
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
        source: what they are made from.
        samples: rows in the paper.
        recipe: how prompts and answers are chosen.
    """

    sets: Mapping[str, str]
    aliases: Mapping[str, str]
    source: Source
    samples: int
    recipe: str


_UNSAFE = (
    "Prompts with at least one unsafe answer, drawn at random. The rejected answer is the most severe unsafe one; of "
    "equally severe ones, one that annotators did not call the safer of its pair. A refusal is chosen."
)
_SCORED = (
    "Instructions drawn at random. The completion with the highest overall_score is chosen, the one with the lowest "
    "rejected (ties by fine-grained_score); rows in which fine-grained_score contradicts are left out."
)
_ANSWERED = (
    "Questions drawn at random. The right answer is chosen, the hallucinated one rejected, with single spaces and the "
    "right one's first letter and full stop."
)
STEPS: dict[str, Step] = {
    "saferlhf": Step(
        sets={"sft": "saferlhf_sft", "dpo": "saferlhf_dpo"},
        aliases={"sft": "saferlhf2_sft", "dpo": "saferlhf2_dpo"},
        source=SAFERLHF,
        samples=10_000,
        recipe=_UNSAFE,
    ),
    "ultrafeedback": Step(
        sets={"sft": "ultrafeedback_ref_sft", "dpo": "ultrafeedback_ref_dpo"},
        aliases={"sft": "ultrafeedback_sft_200", "dpo": "ultrafeedback_dpo_200"},
        source=ULTRAFEEDBACK,
        samples=REFERENCE_ROWS,
        recipe=_SCORED,
    ),
    "halueval": Step(
        sets={"sft": "halueval_ref_sft", "dpo": "halueval_ref_dpo"},
        aliases={"sft": "halueval_sft_200", "dpo": "halueval_dpo_200"},
        source=HALUEVAL,
        samples=REFERENCE_ROWS,
        recipe=_ANSWERED,
    ),
    "general": Step(
        sets={"sft": "ultrafeedback_general_sft", "dpo": "ultrafeedback_general_dpo"},
        aliases={"sft": "ultrafeedback_sft", "dpo": "ultrafeedback_dpo"},
        source=ULTRAFEEDBACK,
        samples=10_000,
        recipe=_SCORED + " The rows of the reference set of the same seed are not among them.",
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
        replace: whether other entries of the same names are replaced.
        writer: names who writes refusals, and everything else that they follow from.
    """

    steps: Sequence[str]
    dataset_dir: Path
    origins: Mapping[str, Origin]
    samples: int | None
    seed: int
    knowledge: bool
    aliases: bool
    replace: bool
    writer: str

    def samples_of(self, name: str) -> int:
        """Rows that a step's sets are to have."""
        return self.samples or STEPS[name].samples

    def file_of(self, name: str) -> Path:
        """The file of a set."""
        return self.dataset_dir / FOLDER / f"{name}.jsonl"

    def entries(self) -> dict[str, dict[str, Any]]:
        """The entries of all sets, their other names behind them."""
        found = {}
        for step in (STEPS[name] for name in self.steps):
            for kind, name in step.sets.items():
                entry = {"file_name": f"{FOLDER}/{name}.jsonl", **COLUMNS[kind]}
                found[name] = entry
                if self.aliases:
                    found[step.aliases[kind]] = entry
        return found
