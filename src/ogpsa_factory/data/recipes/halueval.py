"""HaluEval QA: questions with their right and their hallucinated answer, in one form (paper, set-up).

Right answers are mostly a few words without a full stop, hallucinated ones mostly sentences. The paper says that the
latter were "reformatted to look like the right one" and not how. Here the outer form is taken over: space, the case of
the first letter, the full stop at the end. Their lengths still differ; the data card says by how much.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ..records import Row
from ..sampling import KeyedSample
from .values import Pair, as_text


# First words that are capitalised only because they are first.
_FUNCTION_WORDS = frozenset(
    "a all an as at both by for from he her his in it its no not of on one she some that the their there these they "
    "this to two was were with yes".split()
)
_ABBREVIATIONS = frozenset("co. corp. dr. etc. inc. jr. ltd. mr. mrs. ms. sr. st. vs.".split())


def sample_pairs(
    rows: Iterable[Row], size: int, seed: int, counts: Counter[str], knowledge: bool = False
) -> list[Pair]:
    """Draw questions with the right answer to prefer and the hallucinated one not to give.

    Args:
        rows: in the schema of HaluEval's QA part, in any order.
        size: how many questions at most.
        seed: of the draw.
        counts: what became of the rows, added to.
        knowledge: whether the passage that holds the answer stands before the question.

    Returns:
        Pairs in random order, no question twice.
    """
    sample: KeyedSample[Pair] = KeyedSample(size, seed)
    for row in rows:
        counts["rows read"] += 1
        question = as_text(row.value.get("question"))
        right = as_text(row.value.get("right_answer"))
        wrong = as_text(row.value.get("hallucinated_answer"))
        passage = as_text(row.value.get("knowledge"))
        if question is None or right is None or wrong is None or (knowledge and passage is None):
            counts["left out: a field is missing, empty or of the wrong type"] += 1
            continue
        question, right = " ".join(question.split()), " ".join(right.split())
        wrong = in_the_form_of(wrong, right)
        if not wrong:
            counts["left out: a field is missing, empty or of the wrong type"] += 1
            continue
        if right.lower().rstrip(".") == wrong.lower().rstrip("."):
            counts["left out: the two answers are the same"] += 1
            continue
        counts["rows with a usable pair"] += 1
        if sample.get(question) is None:
            prompt = f"{passage}\n\n{question}" if knowledge else question
            sample.put(question, Pair(prompt, right, wrong))
    return [pair for _, pair in sample.items()]


def in_the_form_of(answer: str, model: str) -> str:
    """Give an answer the outer form of another one.

    Args:
        answer: the one to change.
        model: the one to look like; single spaces between its words.

    Returns:
        The answer with single spaces, and with the model's case of the first letter and full stop at the end where
        that does not change a word.
    """
    answer = " ".join(answer.split())
    last = answer.split(" ")[-1].lower()
    abbreviated = last in _ABBREVIATIONS or "." in last[:-1]
    if answer.endswith(".") and not model.endswith((".", "!", "?")) and not abbreviated:
        answer = answer[:-1].rstrip()
    elif model.endswith(".") and not answer.endswith((".", "!", "?")):
        answer += "."
    # Capitals within a word belong to it: iPhone, eBay, THE WHO.
    first = answer.split(" ")[0].rstrip(",")
    if model[0].isupper() and first.islower():
        return answer[0].upper() + answer[1:]
    if model[0].islower() and first == first.capitalize() and first.lower() in _FUNCTION_WORDS:
        return answer[0].lower() + answer[1:]
    return answer
