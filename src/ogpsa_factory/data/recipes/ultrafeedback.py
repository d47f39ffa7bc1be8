"""UltraFeedback: instructions with their best and their worst completion by `overall_score` (paper, set-up).

The score is checked against `fine-grained_score`, the mean of the four aspects: early revisions gave 2,628 completions
a 10 that should have been a 1. The data set's authors left a 10 alone only where the fine-grained score is above 4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..records import Row
from ..sampling import KeyedSample
from .values import Pair, as_number, as_structure, as_text


class _Completion(NamedTuple):
    overall: float  # 1 to 10
    fine_grained: float  # 1 to 5
    text: str


def sample_pairs(rows: Iterable[Row], size: int, seed: int, counts: Counter[str]) -> list[Pair]:
    """Draw instructions with a completion to prefer and one not to give.

    Args:
        rows: in the schema of UltraFeedback, in any order.
        size: how many instructions at most.
        seed: of the draw.
        counts: what became of the rows, added to.

    Returns:
        Pairs in random order, no instruction twice.
    """
    sample: KeyedSample[Pair] = KeyedSample(size, seed)
    for row in rows:
        counts["rows read"] += 1
        instruction = as_text(row.value.get("instruction"))
        completions = as_structure(row.value.get("completions"))
        if instruction is None or not isinstance(completions, list):
            counts["left out: a field is missing or of the wrong type"] += 1
            continue
        usable = [found for each in completions if (found := _completion(each, counts)) is not None]
        pair = _best_and_worst(usable)
        if isinstance(pair, str):
            counts[f"left out: {pair}"] += 1
        else:
            counts["rows with a usable pair"] += 1
            if sample.get(instruction) is None:
                sample.put(instruction, Pair(instruction, *pair))
    return [pair for _, pair in sample.items()]


def _completion(value: Any, counts: Counter[str]) -> _Completion | None:
    fields = value if isinstance(value, dict) else {}
    text = as_text(fields.get("response"))
    overall = as_number(fields.get("overall_score"), 1, 10)
    fine_grained = as_number(fields.get("fine-grained_score"), 1, 5)
    if text is None or overall is None or fine_grained is None:
        counts["completions without a usable text or score"] += 1
        return None
    if overall == 10 and fine_grained <= 4:
        counts["completions whose overall_score of 10 the fine-grained score contradicts"] += 1
        return None
    return _Completion(overall, fine_grained, text)


def _best_and_worst(completions: list[_Completion]) -> tuple[str, str] | str:
    """The texts of the best and the worst completion, or why there are none; of equals the first."""
    if len(completions) < 2:
        return "fewer than two usable completions"
    best = max(completions, key=lambda each: (each.overall, each.fine_grained))
    worst = min(completions, key=lambda each: (each.overall, each.fine_grained))
    if best.overall == worst.overall:
        return "all overall scores are equal"
    if best.fine_grained < worst.fine_grained:
        return "overall_score and fine-grained_score contradict each other"
    if best.text == worst.text:
        return "the best and the worst completion are the same text"
    return best.text, worst.text
