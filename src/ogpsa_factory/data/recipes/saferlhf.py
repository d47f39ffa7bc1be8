"""PKU-SafeRLHF: harmful prompts, each with its most unsafe answer (paper, set-up; appendix on data).

Rows are pairs of answers to one prompt, and a prompt has several. Prompts without an unsafe answer are left out. Of a
prompt's unsafe answers the most severe one is taken; of equally severe ones one that its annotators did not call the
safer of its pair; of those the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..records import Row
from ..sampling import KeyedSample
from .values import as_flag, as_number, as_structure, as_text


class HarmfulPrompt(NamedTuple):
    """A prompt with its most unsafe answer.

    Attributes:
        prompt: what was asked.
        rejected: the answer.
        categories: in which ways the answer is harmful, in the words of PKU-SafeRLHF.
        unsafety: the answer's severity, from 1 (minor) to 3 (severe), and whether it was not called the safer one of
            its pair: what compares greater is more unsafe.
    """

    prompt: str
    rejected: str
    categories: tuple[str, ...]
    unsafety: tuple[int, bool]


def sample_prompts(rows: Iterable[Row], size: int, seed: int, counts: Counter[str]) -> list[HarmfulPrompt]:
    """Draw prompts that have an unsafe answer.

    Args:
        rows: in the schema of PKU-SafeRLHF, in any order.
        size: how many prompts at most.
        seed: of the draw.
        counts: what became of the rows, added to.

    Returns:
        Prompts in random order, none twice.
    """
    sample: KeyedSample[HarmfulPrompt] = KeyedSample(size, seed)
    for row in rows:
        counts["rows read"] += 1
        prompt = as_text(row.value.get("prompt"))
        answers = None if prompt is None else _unsafe_answers(prompt, row.value)
        if prompt is None or answers is None:
            counts["left out: a field is missing or of the wrong type"] += 1
        elif not answers:
            counts["left out: both answers are safe"] += 1
        else:
            counts["rows with an unsafe answer"] += 1
            worst = max(answers, key=lambda each: each.unsafety)  # of equal ones the first
            known = sample.get(prompt)
            if known is None or worst.unsafety > known.unsafety:
                sample.put(prompt, worst)
    return [worst for _, worst in sample.items()]


def _unsafe_answers(prompt: str, row: dict[str, Any]) -> list[HarmfulPrompt] | None:
    """The unsafe answers of a row; None where a field that decides is unusable."""
    safer = as_number(row.get("safer_response_id"), 0, 1)
    if safer not in (0, 1):
        return None
    found = []
    for number in (0, 1):
        text = as_text(row.get(f"response_{number}"))
        safe = as_flag(row.get(f"is_response_{number}_safe"))
        severity = as_number(row.get(f"response_{number}_severity_level"), 0, 3)
        if text is None or safe is None or severity is None or severity != int(severity):
            return None
        if not safe:
            categories = as_structure(row.get(f"response_{number}_harm_category"))
            named = (
                tuple(name for name, applies in categories.items() if as_flag(applies))
                if isinstance(categories, dict)
                else ()
            )
            found.append(HarmfulPrompt(prompt, text, named, (int(severity), safer != number)))
    return found
