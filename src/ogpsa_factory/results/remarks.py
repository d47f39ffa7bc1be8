"""What a reader of a report must know before comparing: whatever makes figures less comparable than they look."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from .analysis import MAIN, Analysis
from .document import NONE
from .models import SETTINGS, Model


_LONGEST = 60  # characters of a text that is shown
_HASH = 8  # characters of a hash that are shown


def remarks(analysis: Analysis) -> list[str]:
    """Whatever makes figures less comparable than they look.

    Args:
        analysis: the figures.

    Returns:
        Sentences.
    """
    models = [result.model for result in analysis.everyone]
    return [
        *_suite_remarks(models),
        *_setting_remarks(models),
        *_benchmark_remarks(analysis),
        *_judge_remarks(analysis),
        *_roles(analysis),
        *_lost(models),
        *_notes(models),
    ]


def shortened(value: Any) -> str:
    """A setting in few words.

    Args:
        value: from `scores.json`.

    Returns:
        The text; empty for None.
    """
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def _suite_remarks(models: Sequence[Model]) -> Iterator[str]:
    for key, what in (
        ("name", "The models were evaluated with different suites"),
        ("limit", "The models were evaluated on different numbers of samples; limits"),
    ):
        values = _by_value([(model.name, str(model.suite.get(key))) for model in models])
        if len(values) > 1:
            yield f"{what}: {_listed(values)}."
        elif key == "limit" and models and models[0].suite.get("limit") is not None:
            limit = models[0].suite["limit"]
            yield f"At most {limit} samples of each task were used: this is no full evaluation."
    names = dict.fromkeys(name for model in models for name in model.versions)
    for name in names:
        values = _by_value([(model.name, str(model.versions.get(name))) for model in models])
        if len(values) > 1:
            yield f"The models were evaluated with different versions of {name}: {_listed(values)}."
    values = _by_value([(model.name, str(model.backend)) for model in models])
    if len(values) > 1:
        yield f"The models were evaluated with different backends: {_listed(values)}."


def _setting_remarks(models: Sequence[Model]) -> Iterator[str]:
    """How answers were asked for."""
    for key, what in SETTINGS.items():
        found = [(model, model.settings.get(key)) for model in models]
        values = _by_value([(model.name, json.dumps(value, sort_keys=True)) for model, value in found])
        if len(values) > 1:
            shown = [(shortened(json.loads(value)) or "not set", names) for value, names in values.items()]
            listed = "; ".join(f"{text} ({', '.join(names)})" for text, names in shown)
            yield f"The models were evaluated with different settings of {what}: {listed}."


def _benchmark_remarks(analysis: Analysis) -> Iterator[str]:
    """What was asked; by the hashes that an evaluation gives of a benchmark's settings and of its rows."""
    for field, what in (
        ("settings", "The settings of {} in the suite are not the same for all models"),
        ("rows", "The models were not asked the same rows of {}"),
    ):
        said: list[tuple[str, str]] = []
        for column in analysis.columns:
            entries = [(result.model.name, result.model.benchmarks.get(column.name)) for result in analysis.everyone]
            hashes = [(name, getattr(entry, field)) for name, entry in entries if entry and entry.score is not None]
            values = _by_value([(name, str(value or "unknown")[:_HASH]) for name, value in hashes])
            if len(values) > 1:
                said.append((column.name, _listed(values)))
        for who, names in _by_value(said).items():
            yield (
                f"{what.format(', '.join(names))}: {who}. They are compared all the same, in differences and tests on "
                "the items that both models have."
            )


def _by_value(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(value, []).append(name)
    return found


def _listed(values: dict[str, list[str]]) -> str:
    return "; ".join(f"{value} ({', '.join(names)})" for value, names in values.items())


def _judge_remarks(analysis: Analysis) -> Iterator[str]:
    said: list[tuple[str, str]] = []
    for column in analysis.columns:
        entries = [
            (result.model.name, entry.judge or "none")
            for result in analysis.everyone
            if (entry := result.model.benchmarks.get(column.name)) and entry.score is not None
        ]
        if len(column.judges) > 1:
            said.append((column.name, _listed(_by_value(entries))))
    for who, names in _by_value(said).items():
        yield (
            f"Judges differ on {', '.join(names)}: {who}. Scores of different judges are not compared: neither with "
            "the naive model's, nor with the base's for a gain, and none is marked as best."
        )
    if any("keywords" in column.judges for column in analysis.columns):
        yield (
            "Scores judged by keywords count a reply as a refusal where it holds one of some phrases. They are an "
            "offline stand-in, and not comparable with scores of a model as judge."
        )


def _roles(analysis: Analysis) -> Iterator[str]:
    settings = analysis.settings
    if analysis.base is None:
        yield f"There is no base (a model named {settings.base!r}; --base names another): no gains are stated."
    else:
        scores = analysis.base.model.scores(*MAIN)
        zero = [name for name, score in scores.items() if score == 0]
        if zero:
            yield f"The base scores 0 on {', '.join(zero)}, where no gain can be stated: the average gain is without."
    models = [result.model for result in analysis.results]
    with_naive = {model.pipeline for model in models if settings.naive in (model.method, model.name)}
    alone = {model.pipeline for model in models} - with_naive
    for pipeline in sorted(alone):
        where = f"Pipeline {pipeline}" if pipeline else "The models without a pipeline in their name"
        yield f"{where}: no naive model (method {settings.naive!r}), so nothing is tested against it."
    for result in analysis.everyone:
        missing = [column.name for column in analysis.columns if column.name not in result.model.benchmarks]
        if missing:
            yield f"{result.model.name} was not evaluated on {', '.join(missing)}."


def _lost(models: Sequence[Model]) -> Iterator[str]:
    for model in models:
        lost = [
            f"{entry.name} {entry.failed} + {entry.unparsed}"
            for entry in model.benchmarks.values()
            if entry.failed or entry.unparsed
        ]
        if lost:
            yield (
                f"{model.name}: samples without an answer, and verdicts that could not be read, are in no score: "
                f"{', '.join(lost)}."
            )


def _notes(models: Sequence[Model]) -> Iterator[str]:
    entries = [(model.name, entry) for model in models for entry in model.benchmarks.values()]
    notes = [(name, f"{entry.name}: {entry.note}") for name, entry in entries if entry.note is not None]
    gaps = [(name, f"{NONE} {entry.name}: {entry.gap}") for name, entry in entries if entry.gap is not None]
    for reason, names in _by_value([*notes, *gaps]).items():
        who = "every model" if len(names) == len(models) else ", ".join(names)
        yield f"{reason.rstrip('.')} ({who})."
