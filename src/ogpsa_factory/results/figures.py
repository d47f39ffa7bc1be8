"""All figures of a report for other programs: CSV, a row a model and benchmark, and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from .analysis import Analysis, Mean, Result
from .remarks import remarks


FORMAT = 1
COLUMNS = (
    "family",
    "model",
    "pipeline",
    "method",
    "source",
    "benchmark",
    "axis",
    "value",
    "low",
    "high",
    "over",
    "samples",
    "failed",
    "unparsed",
    "judge",
    "gap",
    "difference",
    "difference_low",
    "difference_high",
    "p",
    "p_holm",
    "pairs",
)
_MEANS = ("safety", "general", "gain", "gain_without")  # fields of a result


def to_csv(families: Sequence[Analysis], quoted: Analysis | None) -> str:
    """Write every score, mean and gain with its interval, and its difference from naive with the test.

    Args:
        families: the figures.
        quoted: the paper's, marked as such in the column `source`.

    Returns:
        The text.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for family in [*families, *([quoted] if quoted else [])]:
        for result in family.everyone:
            model = result.model
            names = {"family": family.title, "model": model.name, "pipeline": model.pipeline, "method": model.method}
            names["source"] = f"quoted: {model.source}" if family is quoted else model.source
            writer.writerows({**names, **row} for row in _rows(result))
    return text.getvalue()


def _rows(result: Result) -> Iterator[dict[str, Any]]:
    for name, entry in result.model.benchmarks.items():
        low, high = result.intervals.get(name, (None, None))
        row = {"benchmark": name, "axis": entry.axis, "value": entry.score, "low": low, "high": high}
        row |= {"samples": entry.samples, "failed": entry.failed, "unparsed": entry.unparsed}
        row |= {"judge": entry.judge, "gap": entry.gap}
        found = result.versus.benchmarks.get(name) if result.versus else None
        if found:
            row |= {"difference": found.value, "difference_low": found.low, "difference_high": found.high}
            row |= {"p": found.p, "p_holm": found.p_holm, "pairs": found.pairs}
        yield row
    for field in _MEANS:
        mean: Mean = getattr(result, field)
        row = {"benchmark": f"mean:{field}", "value": mean.value, "low": mean.low, "high": mean.high}
        row["over"] = len(mean.over)
        if result.versus and field in ("safety", "general"):
            difference: Mean = getattr(result.versus, field)
            row |= {"difference": difference.value}
            row |= {"difference_low": difference.low, "difference_high": difference.high}
        yield row


def to_json(title: str, families: Sequence[Analysis], quoted: Analysis | None) -> dict[str, Any]:
    """Collect all figures.

    Args:
        title: of the report.
        families: the figures.
        quoted: the paper's.

    Returns:
        Plain values for a JSON file.
    """
    return {
        "format": FORMAT,
        "title": title,
        "families": [_family(family) for family in families],
        "quoted": _family(quoted) if quoted else None,
    }


def _family(family: Analysis) -> dict[str, Any]:
    return {
        "title": family.title,
        "settings": asdict(family.settings),
        "near_zero": family.near_zero,
        "benchmarks": [asdict(column) for column in family.columns],
        "base": family.base.model.name if family.base else None,
        "models": [_result(result) for result in family.everyone],
        "remarks": remarks(family),
    }


def _result(result: Result) -> dict[str, Any]:
    model = result.model
    found: dict[str, Any] = {
        "name": model.name,
        "source": model.source,
        "record": dict(model.record),
        "suite": dict(model.suite),
        "versions": dict(model.versions),
        "backend": model.backend,
        "benchmarks": {
            name: {
                **{key: value for key, value in vars(entry).items() if key not in ("items", "name")},
                "interval": result.intervals.get(name),
            }
            for name, entry in model.benchmarks.items()
        },
        **{field: asdict(getattr(result, field)) for field in _MEANS},
        "versus": None,
    }
    if result.versus:
        found["versus"] = {**asdict(result.versus), "gain": result.versus.gain}
    return found
