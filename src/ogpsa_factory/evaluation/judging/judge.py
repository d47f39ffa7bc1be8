"""Grades saved answers: every question to the judge once, every reply on disk, what is no verdict counted as such."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...endpoint import Endpoint, Estimate, Messages, OnReply, ReplyCache, complete_each, estimate
from . import keywords
from .rubrics import RUBRICS, Verdict


# A reply that is no verdict is shown to the judge again, so often at most.
REMINDERS = 2
_REMINDER = "That did not end in the form that was asked for. {form}"


@dataclass(frozen=True)
class Question:
    """An answer to grade: by which rubric, to which row of a benchmark."""

    rubric: str
    doc: dict[str, Any]
    answer: str


@dataclass(frozen=True)
class Judgement:
    """What a judge said of one answer.

    Attributes:
        verdict: the fields of the rubric; None where no reply was a verdict, or none came.
        reply: the judge's last words.
        failure: why no reply came.
    """

    verdict: Verdict | None
    reply: str = ""
    failure: str | None = None

    def value(self, rubric: str) -> float | None:
        """What it is worth, in [0, 1]; None without a verdict."""
        return None if self.verdict is None else RUBRICS[rubric].value(self.verdict)


class KeywordJudge:
    """Phrases instead of a model; see `keywords`."""

    name = keywords.NAME

    def grade(self, questions: Sequence[Question], on_progress: OnReply | None = None) -> list[Judgement]:
        """Grade answers.

        Args:
            questions: which ones.
            on_progress: called once with their number.

        Returns:
            One judgement each.
        """
        if on_progress:
            on_progress(len(questions), len(questions))
        return [Judgement(keywords.judge(each.rubric, each.doc, each.answer)) for each in questions]


class EndpointJudge:
    """A model behind a chat endpoint.

    Args:
        endpoint: where it is, and how it samples.
        cache: file of all its replies, with what it was asked.
    """

    def __init__(self, endpoint: Endpoint, cache: Path) -> None:
        self.endpoint = endpoint
        self.name = f"{endpoint.model} at {endpoint.url.rstrip('/')}"
        self._cache = cache

    def estimate(self, questions: Sequence[Question]) -> Estimate:
        """What the first round of questions would send.

        Args:
            questions: which ones.

        Returns:
            Numbers of requests and tokens, and dollars where the price is known.
        """
        with ReplyCache(self._cache) as cache:
            return estimate([_ask(each) for each in questions], self.endpoint, cache)

    def grade(self, questions: Sequence[Question], on_progress: OnReply | None = None) -> list[Judgement]:
        """Grade answers; replies that are no verdicts are asked for again, with a reminder of the form.

        Args:
            questions: which ones.
            on_progress: called with how many requests of a round are done, and their number.

        Returns:
            One judgement each.

        Raises:
            OGPSAError: the endpoint cannot be used at all; replies that came are kept.
        """
        judgements: dict[int, Judgement] = {}
        waiting = {i: _ask(each) for i, each in enumerate(questions)}
        with ReplyCache(self._cache) as cache:
            for _ in range(1 + REMINDERS):
                replies = complete_each(list(waiting.values()), self.endpoint, cache, on_progress)
                again: dict[int, Messages] = {}
                for (i, messages), reply in zip(waiting.items(), replies, strict=True):
                    rubric = RUBRICS[questions[i].rubric]
                    verdict = None if reply.failure else rubric.read(reply.text)
                    judgements[i] = Judgement(verdict, reply.text, reply.failure)
                    if verdict is None and not reply.failure:
                        again[i] = _remind(messages, reply.text, rubric.form)
                waiting = again
                if not waiting:
                    break
        return [judgements[i] for i in range(len(questions))]


Judge = KeywordJudge | EndpointJudge
OnBenchmark = Callable[[str], OnReply]


def _ask(question: Question) -> Messages:
    return RUBRICS[question.rubric].messages(question.doc, question.answer)


def _remind(messages: Messages, reply: str, form: str) -> Messages:
    said = {"role": "assistant", "content": reply or "(no reply)"}
    return [*messages, said, {"role": "user", "content": _REMINDER.format(form=form)}]
