"""`ogpsa evaluate judge-check`: how far a judge agrees with people, on answers that people have labelled."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.records import read_rows
from ...errors import OGPSAError
from ...files import write_json
from .agreement import Agreement, agreement
from .judge import Judge, Question
from .rubrics import RUBRICS, Rubric


if TYPE_CHECKING:
    from rich.console import Console


# Names that public files with labels have.
_REQUESTS = ("original", "forbidden_prompt", "prompt", "question", "problem", "request")
_ANSWERS = ("completion", "response", "answer", "output", "model_answer")
_LABELS = ("final_label", "human_label", "label", "grade", "refused", "score")
_REFERENCES = ("reference", "right_answer", "target", "gold")
_YES = {"yes": "yes", "true": "yes", "1": "yes", "refusal": "yes", "refused": "yes", "full_refusal": "yes"}
_NO = {"no": "no", "false": "no", "0": "no", "compliance": "no", "complied": "no", "full_compliance": "no"}


def run_check(args: argparse.Namespace, judge: Judge | None, console: Console) -> int:
    """Grade labelled answers, and print and save how far the verdicts agree with the labels.

    Args:
        args: `models` (the command's name and files), `rubric` and `output`.
        judge: which one.
        console: where the result is printed.

    Returns:
        0.

    Raises:
        OGPSAError: a file has no labels, or labels that the rubric does not know; or the judge cannot be used.
    """
    if judge is None:
        raise OGPSAError("judge-check needs --judge keywords or --judge endpoint: whom is it to check?")
    if args.rubric not in RUBRICS or args.rubric == "strongreject":
        known = ", ".join(name for name in RUBRICS if name != "strongreject")
        raise OGPSAError(
            f"--rubric {args.rubric}: judge-check compares kinds, so one of {known} is needed"
            + (" (grades of strongreject are numbers)." if args.rubric == "strongreject" else ".")
        )
    if len(args.models) < 2:
        raise OGPSAError("judge-check needs a file with answers and human labels (CSV, JSON, JSON Lines or Parquet).")
    rubric = RUBRICS[args.rubric]
    rows = [row for name in args.models[1:] for row in read_labelled(Path(name), rubric)]
    judgements = judge.grade([question for question, _ in rows])
    field = next(iter(rubric.fields))
    verdicts = [None if each.verdict is None else each.verdict[field] for each in judgements]
    found = agreement([label for _, label in rows], verdicts)
    path = args.output / "judge_check.json"
    record = {"rubric": args.rubric, "judge": judge.name, "files": args.models[1:], **found.record()}
    record["failed"] = sum(each.failure is not None for each in judgements)
    write_json(path, record)
    _show(found, judge.name, console)
    console.print(f"Written to {path}", soft_wrap=True)
    return 0


def read_labelled(path: Path, rubric: Rubric) -> list[tuple[Question, str]]:
    """Read answers with human labels.

    Args:
        path: a file with columns for the request, the answer and the label (and the right answer, for `simpleqa`).
        rubric: whose values the labels are; numbers before them (`2_full_refusal`) are left out.

    Returns:
        Questions for the judge, and what people said.

    Raises:
        OGPSAError: a column is missing, or a label is none of the rubric's values; naming the row.
    """
    found: list[tuple[Question, str]] = []
    for row in read_rows(path):
        where = f"{path}, {row.place}"
        request, answer, label = (_column(row.value, names, where) for names in (_REQUESTS, _ANSWERS, _LABELS))
        doc = {"prompt": request}
        if "{reference}" in rubric.question:
            doc["answer"] = _column(row.value, _REFERENCES, where)
        found.append((Question(rubric.name, doc, answer), _label(label, rubric, where)))
    if not found:
        raise OGPSAError(f"{path} has no rows.")
    return found


def _column(row: dict[str, Any], names: tuple[str, ...], where: str) -> str:
    for name in names:
        if row.get(name) is not None:
            return str(row[name])
    raise OGPSAError(f"{where}: there is none of the columns {', '.join(names)}; found: {', '.join(map(str, row))}.")


def _label(text: str, rubric: Rubric, where: str) -> str:
    values = next(iter(rubric.fields.values()))
    label = text.strip().lower().lstrip("0123456789_ ").replace(" ", "_") or text.strip().lower()
    if values == ("yes", "no"):
        label = {**_YES, **_NO}.get(label, label)
    if label not in values:
        raise OGPSAError(f"{where}: the label {text!r} is none of {', '.join(values)}.")
    return label


def _show(found: Agreement, judge: str, console: Console) -> None:
    from rich.table import Table

    low, high = found.interval
    console.print(
        f"{judge} agrees with people on {found.agreed} of {found.judged} answers: {100 * found.share:.1f}% (95%: "
        f"{100 * low:.1f} to {100 * high:.1f}), Cohen's kappa {found.kappa:.2f}. Without a verdict: {found.unjudged}.",
        highlight=False,
        soft_wrap=True,
    )
    table = Table(title="People (rows) and judge (columns)", title_justify="left")
    names = sorted({name for pair in found.pairs for name in pair})
    for head in ("", *names, "found"):
        table.add_column(head, justify="right" if head else "left")
    pairs = Counter(found.pairs)
    for person in names:
        counts = [pairs[person, name] for name in names]
        share = f"{100 * pairs[person, person] / sum(counts):.0f}%" if sum(counts) else "-"
        table.add_row(person, *map(str, counts), share)
    console.print(table)
