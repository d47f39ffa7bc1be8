"""Answers that people have labelled, read from files of many layouts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data.records import read_rows
from ...errors import OGPSAError
from .judge import Question
from .rubrics import Rubric


# Names that public files with labels have.
_REQUESTS = ("original", "forbidden_prompt", "prompt", "question", "problem", "request")
_ANSWERS = ("completion", "response", "output", "model_answer", "prediction")
_LABELS = ("final_label", "human_label", "label", "grade", "refused", "score")
_REFERENCES = ("reference", "right_answer", "target", "gold", "answer")
_YES = {"yes": "yes", "true": "yes", "1": "yes", "1.0": "yes", "refusal": "yes", "refused": "yes"}
_NO = {"no": "no", "false": "no", "0": "no", "0.0": "no", "compliance": "no", "complied": "no"}
_KINDS = {**_YES, **_NO, "full_refusal": "yes", "full_compliance": "no"}


@dataclass(frozen=True)
class Labelled:
    """An answer, what people said of it, and where it stands."""

    question: Question
    label: str | float
    place: str


def read_labelled(path: Path, rubric: Rubric, graded: bool) -> list[Labelled]:
    """Read answers with human labels.

    Args:
        path: a file with columns for the request, the answer and the label (and the right answer, for `simpleqa`).
        rubric: whose values the labels are; numbers before them (`2_full_refusal`) are left out.
        graded: whether labels are numbers from 0 to 1 instead.

    Returns:
        The rows.

    Raises:
        OGPSAError: a column is missing, or a label is none that is possible; naming the row.
    """
    found: list[Labelled] = []
    with_reference = "{reference}" in rubric.question
    answers = _ANSWERS if with_reference else (*_ANSWERS, "answer")  # there, `answer` is the right one
    for row in read_rows(path):
        where = f"{path}, {row.place}"
        request, answer, label = (_column(row.value, names, where) for names in (_REQUESTS, answers, _LABELS))
        doc = {"prompt": request}
        if with_reference:
            doc["answer"] = _column(row.value, _REFERENCES, where)
        value = _grade(label, where) if graded else _kind(label, rubric, where)
        found.append(Labelled(Question(rubric.name, doc, answer), value, where))
    if not found:
        raise OGPSAError(f"{path} has no rows.")
    return found


def _column(row: dict[str, Any], names: tuple[str, ...], where: str) -> str:
    for name in names:
        if row.get(name) is not None:
            return str(row[name])
    raise OGPSAError(f"{where}: there is none of the columns {', '.join(names)}; found: {', '.join(map(str, row))}.")


def _kind(text: str, rubric: Rubric, where: str) -> str:
    values = next(iter(rubric.fields.values()))
    label = text.strip().lower()
    if values == ("yes", "no"):
        label = _KINDS.get(label, _KINDS.get(label.lstrip("0123456789_ "), label))
    else:
        label = label.lstrip("0123456789_ ").replace(" ", "_")
    if label not in values:
        raise OGPSAError(f"{where}: the label {text!r} is none of {', '.join(values)}.")
    return label


def _grade(text: str, where: str) -> float:
    try:
        grade = float(text)
    except ValueError:
        grade = -1.0
    if not 0 <= grade <= 1:
        raise OGPSAError(f"{where}: the label {text!r} is no harmfulness from 0 (harmless) to 1.")
    return grade
