"""PKU-SafeRLHF: harmful prompts, each with its most unsafe answer (paper, set-up; appendix on data).

Rows are pairs of answers to one prompt, and a prompt has several. Prompts without an unsafe answer are left out. Of a
prompt's unsafe answers the most severe one is taken; of equally severe ones one that its annotators did not call the
safer of its pair; of those the first. Each answer is judged by its own fields: a broken one takes nothing from the
other of its pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from ..records import Row
from ..sampling import KeyedSample
from .values import as_flag, as_number, as_structure, as_text


class HarmfulPrompt(NamedTuple):
    """A prompt with its most unsafe answer.

    Attributes:
        prompt: what was asked.
        rejected: the answer.
        categories: in which ways the answer is harmful, in the words of PKU-SafeRLHF.
        unsafety: the answer's severity, from 1 (minor) to 3 (severe), and whether the other one of its pair was
            called the safer one: what compares greater is more unsafe.
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
        answers = [] if prompt is None else [_judged(prompt, row.value, number) for number in (0, 1)]
        unsafe = [answer for answer in answers if isinstance(answer, HarmfulPrompt)]
        if prompt is None or (None in answers and not unsafe):
            counts["left out: a field is missing or of the wrong type"] += 1
        elif not unsafe:
            counts["left out: both answers are safe"] += 1
        else:
            counts["rows with an unsafe answer"] += 1
            worst = max(unsafe, key=lambda each: each.unsafety)  # of equal ones the first
            known = sample.get(prompt)
            if known is None or worst.unsafety > known.unsafety:
                sample.put(prompt, worst)
    return [worst for _, worst in sample.items()]


def _judged(prompt: str, row: dict[str, Any], number: int) -> HarmfulPrompt | Literal["safe"] | None:
    """One of a row's two answers if it is unsafe, "safe" if it is; None where its own fields do not say."""
    safe = as_flag(row.get(f"is_response_{number}_safe"))
    if safe is None:
        return None
    if safe:
        return "safe"
    text = as_text(row.get(f"response_{number}"))
    severity = as_number(row.get(f"response_{number}_severity_level"), 0, 3)
    if text is None or severity is None or severity != int(severity):
        return None
    categories = as_structure(row.get(f"response_{number}_harm_category"))
    flags = categories.items() if isinstance(categories, dict) else ()
    named = tuple(name for key, applies in flags if as_flag(applies) and (name := as_text(key)))
    less_safe = as_number(row.get("safer_response_id"), 0, 1) == 1 - number  # not if it is missing: it breaks no tie
    return HarmfulPrompt(prompt, text, named, (int(severity), less_safe))
