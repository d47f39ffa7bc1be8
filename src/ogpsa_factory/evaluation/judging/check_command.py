"""`ogpsa evaluate judge-check`: how far a judge agrees with people, on answers that people have labelled."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import OGPSAError
from ...files import write_json
from ..harness import write_lines
from .agreement import Agreement, agreement, grades_agreement
from .judge import Judge, Judgement
from .labels import Labelled, read_labelled
from .rubrics import RUBRICS


if TYPE_CHECKING:
    from rich.console import Console


_GRADED = "strongreject"  # its verdicts are worth numbers, not kinds


def run_check(args: argparse.Namespace, judge: Judge | None, console: Console) -> int:
    """Grade labelled answers, and print and save how far the verdicts agree with the labels.

    Args:
        args: `models` (the command's name and files), `rubric` and `output`.
        judge: which one.
        console: where the result is printed.

    Returns:
        0.

    Raises:
        OGPSAError: a file has no labels, or labels that the rubric does not know; or the judge cannot be used, or has
            no verdict on any answer.
    """
    if judge is None:
        raise OGPSAError("judge-check needs --judge keywords or --judge endpoint: whom is it to check?")
    if args.rubric not in RUBRICS:
        raise OGPSAError(f"--rubric {args.rubric}: one of {', '.join(RUBRICS)} is needed.")
    if len(args.models) < 2:
        raise OGPSAError("judge-check needs a file with answers and human labels (CSV, JSON, JSON Lines or Parquet).")
    rubric = RUBRICS[args.rubric]
    rows = [row for name in args.models[1:] for row in read_labelled(Path(name), rubric, args.rubric == _GRADED)]
    judgements = judge.grade([row.question for row in rows])
    if not any(judgement.verdict for judgement in judgements):
        reason = next((each.failure for each in judgements if each.failure), "no reply could be read as a verdict")
        raise OGPSAError(f"{judge.name} has no verdict on any of {len(rows)} answers: {reason}")
    record: dict[str, Any] = {"rubric": args.rubric, "judge": judge.name, "files": args.models[1:]}
    record["failed"] = sum(each.failure is not None for each in judgements)
    record |= (
        _compare_grades(rows, judgements, console)
        if args.rubric == _GRADED
        else _compare_kinds(rows, judgements, next(iter(rubric.fields)), judge.name, console)
    )
    base = args.output / "judge_check" / f"{args.rubric}_{_slug(judge.name)}"
    write_json(base.with_name(base.name + ".json"), record)
    lines = [
        {"place": row.place, "label": row.label, "verdict": each.verdict, "reply": each.reply, "failure": each.failure}
        for row, each in zip(rows, judgements, strict=True)
    ]
    write_lines(base.with_name(base.name + ".jsonl"), lines)
    console.print(f"Written to {base}.json, verdicts to {base}.jsonl", markup=False, highlight=False, soft_wrap=True)
    return 0


def _compare_kinds(
    rows: Sequence[Labelled], judgements: Sequence[Judgement], field: str, judge: str, console: Console
) -> dict[str, Any]:
    verdicts = [None if each.verdict is None else each.verdict[field] for each in judgements]
    found = agreement([str(row.label) for row in rows], verdicts)
    _show(found, judge, console)
    return found.record()


def _compare_grades(rows: Sequence[Labelled], judgements: Sequence[Judgement], console: Console) -> dict[str, Any]:
    """People's and the judge's harmfulness, 0 to 1; the judge's is 1 minus what its verdict is worth."""
    pairs = [
        (float(row.label), 1 - value)
        for row, each in zip(rows, judgements, strict=True)
        if (value := each.value(_GRADED)) is not None
    ]
    found = grades_agreement(pairs)
    console.print(
        f"Harmfulness by people and by the judge, of {len(pairs)} answers: mean absolute difference "
        f"{found['mean_absolute_difference']:.3f}, Spearman's rank correlation "
        + (f"{found['spearman']:.3f}" if found["spearman"] is not None else "undefined")
        + f"; means {found['mean_label']:.3f} and {found['mean_verdict']:.3f}. Without a verdict: "
        f"{len(rows) - len(pairs)}.",
        highlight=False,
        soft_wrap=True,
    )
    return {"judged": len(pairs), "unjudged": len(rows) - len(pairs), **found}


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)[:60]


def _show(found: Agreement, judge: str, console: Console) -> None:
    from rich.table import Table

    low, high = found.interval
    console.print(
        f"{judge} agrees with people on {found.agreed} of {found.judged} answers: {100 * found.share:.1f}% (95%: "
        f"{100 * low:.1f} to {100 * high:.1f}), Cohen's kappa {found.kappa:.2f}. Without a verdict: {found.unjudged}.",
        markup=False,
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
