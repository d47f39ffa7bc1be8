"""Scores on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from rich.console import Console


_WIDTH = 150  # columns of the table of the suite `paper`; a narrower terminal wraps lines, as rich would drop columns


def show_scores(scores: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """Print a table, a row a model, and a remark on every benchmark that is not what one may think.

    Args:
        scores: entries of `scores.json` by benchmark, by model.
        console: where to print.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    benchmarks = list(next(iter(scores.values())))
    table = Table(title="Scores in percent", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name in benchmarks:
        table.add_column(name.replace("-", "-\n"), justify="right", no_wrap=True)
    for model, entries in scores.items():
        cells = [
            f"{entry['score']:.2f}" if "score" in entry else "-" for entry in map(entries.__getitem__, benchmarks)
        ]
        table.add_row(model, *cells)
    Console(file=console.file, width=max(console.width, _WIDTH)).print(table)
    for name in benchmarks:
        remarks = dict.fromkeys(
            f"{remark} ({model})" if own else remark
            for model, entries in scores.items()
            for remark, own in _remarks(entries[name])
        )
        if remarks:
            console.print(f"{name}: {'; '.join(remarks)}", highlight=False, markup=False, soft_wrap=True)


def _remarks(entry: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Remarks, and whether they concern this model alone."""
    if "gap" in entry:
        return [(entry["gap"].split(". ")[0].rstrip(".:"), False)]
    remarks = [] if entry["higher_is_better"] else [("lower is better", False)]
    if entry["judge"]:
        remarks.append((f"judged by {entry['judge'].split(' at ')[0]}", False))
    if entry["failed"]:
        remarks.append((f"{entry['failed']} without an answer or a verdict", True))
    if entry["unparsed"]:
        remarks.append((f"{entry['unparsed']} verdicts unreadable", True))
    return [*remarks, *([(entry["note"], False)] if entry["note"] else [])]
