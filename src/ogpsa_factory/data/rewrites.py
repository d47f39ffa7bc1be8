"""HaluEval's hallucinated answers in the form of the right ones, by a model behind an endpoint.

The paper says "reformatted to look like the right one", and its registry names a column `new_hallucinated_answer`, so
a model was asked; its instruction is not published. Without an endpoint, `recipes/halueval.py` changes the outer form.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..endpoint import Endpoint, Messages, OnReply, ReplyCache, complete
from .recipes.halueval import in_the_form_of
from .recipes.values import Pair


_INSTRUCTION = (
    "You get a question, its right answer and a wrong answer. Write the wrong answer once more, so that it looks like "
    "the right one: the same kind of expression, about as many words, the same use of capitals and full stops. It "
    "must still say the same wrong thing. Write nothing but the rewritten wrong answer."
)
_LONGER = 2.0  # times as many characters as the right answer, and
_MORE = 20  # as many besides: a name may be longer than another


@dataclass(frozen=True)
class Rewritten:
    """Pairs with rewritten rejected answers, who wrote them, and how many are usable."""

    pairs: list[Pair]
    method: str
    counts: dict[str, int]


def rewrite_messages(pair: Pair) -> Messages:
    """What a model is sent.

    Args:
        pair: a question with its right and its wrong answer.

    Returns:
        A system message with the instruction, and the three texts as the user's.
    """
    shown = f"Question: {pair.prompt}\nRight answer: {pair.chosen}\nWrong answer: {pair.rejected}"
    return [{"role": "system", "content": _INSTRUCTION}, {"role": "user", "content": shown}]


def usable_rewrite(reply: str, pair: Pair) -> str | None:
    """Take the rewritten answer out of a reply.

    Args:
        reply: what the model wrote.
        pair: what it was asked for.

    Returns:
        The answer; None if there is none, if it became the right one, or if it is much longer than that.
    """
    text = reply.rpartition("</think>")[2].strip().strip("\"'").removeprefix("Wrong answer:").strip()
    if not text or "\n" in text or len(text) > _LONGER * len(pair.chosen) + _MORE:
        return None
    text = in_the_form_of(text, pair.chosen)
    same = text.lower().strip(" .") == pair.chosen.lower().strip(" .")
    return None if same or not text else text


def rewrite_with_endpoint(
    pairs: Sequence[Pair], endpoint: Endpoint, cache_path: Path, on_progress: OnReply | None = None
) -> Rewritten:
    """Have rejected answers rewritten.

    Args:
        pairs: questions with their right and their wrong answer.
        endpoint: where the model is.
        cache_path: JSON Lines file of replies, which an interrupted run goes on with.
        on_progress: called with the number of replies that are there and of all.

    Returns:
        The pairs in their order; where a reply is not usable, the pair as it was.

    Raises:
        OGPSAError: the endpoint or the cache cannot be used.
    """
    with ReplyCache(cache_path) as cache:
        replies = complete([rewrite_messages(pair) for pair in pairs], endpoint, cache, on_progress)
    texts = [usable_rewrite(reply, pair) for reply, pair in zip(replies, pairs, strict=True)]
    counts = Counter("as they were" if text is None else "rewritten by the model" for text in texts)
    found = [pair if text is None else pair._replace(rejected=text) for text, pair in zip(texts, pairs, strict=True)]
    return Rewritten(found, f"{endpoint.model} at {endpoint.url}", dict(counts))
