"""Scores on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def scores_table(scores: Mapping[str, Mapping[str, Any]]) -> Table:
    """Make a table: a row a benchmark, a column a model.

    Args:
        scores: entries of `scores.json` by benchmark, by model.

    Returns:
        The table, with a remark on every benchmark that is not what one may think.
    """
    table = Table(title="Scores in percent", title_justify="left")
    table.add_column("")
    for name in scores:
        table.add_column(name.replace("/", "\n"), justify="right", no_wrap=True)
    table.add_column("remark")
    for benchmark in next(iter(scores.values())):
        entries = [entries[benchmark] for entries in scores.values()]
        cells = [f"{entry['score']:.2f}" if "score" in entry else "-" for entry in entries]
        table.add_row(benchmark, *cells, "; ".join(dict.fromkeys(remark for e in entries for remark in _remarks(e))))
    return table


def _remarks(entry: Mapping[str, Any]) -> list[str]:
    if "gap" in entry:
        return [entry["gap"].split(". ")[0].rstrip(".:")]
    remarks = [] if entry["higher_is_better"] else ["lower is better"]
    if entry["judge"]:
        remarks.append(f"judged by {entry['judge'].split(' at ')[0]}")
    if entry["failed"]:
        remarks.append(f"{entry['failed']} without an answer or a verdict")
    if entry["unparsed"]:
        remarks.append(f"{entry['unparsed']} verdicts unreadable")
    return [*remarks, *([entry["note"]] if entry["note"] else [])]
