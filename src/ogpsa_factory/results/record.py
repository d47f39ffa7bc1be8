"""What stands behind the figures of a report: samples, judges, models and versions, as tables."""

from __future__ import annotations

from collections.abc import Iterator

from .analysis import Analysis, Result
from .document import NONE, Cell, Heading, Line, Table, figure, span
from .models import SETTINGS
from .remarks import shortened
from .tables import INTERVAL, heads, plain_table


_SETTINGS = ("temperature", "system", "chat_template", "dtype")


def extra_table(analysis: Analysis) -> Table:
    """The benchmarks that are in no mean, such as over-refusal.

    Args:
        analysis: the figures.

    Returns:
        The table, with intervals.
    """
    columns = analysis.named("extra")
    titles = []
    for column, head in zip(columns, heads(columns), strict=True):
        titles += [f"{head}, {'higher' if column.higher_is_better else 'lower'} is better", INTERVAL]

    def texts(result: Result) -> list[str]:
        found = []
        for column in columns:
            found.append(figure(result.model.scores("extra").get(column.name)))
            found.append(span(*result.intervals.get(column.name, (None, None))))
        return found

    return plain_table(analysis, analysis.everyone, titles, texts)


def counts_table(analysis: Analysis) -> Table:
    """How many samples each score is of, and how many were lost.

    Args:
        analysis: the figures.

    Returns:
        The table.
    """

    def text(result: Result, name: str) -> str:
        entry = result.model.benchmarks.get(name)
        if entry is None or entry.samples is None:
            return NONE
        return f"{entry.samples} / {entry.failed} / {entry.unparsed}"

    names = [column.name for column in analysis.columns]
    return plain_table(analysis, analysis.everyone, names, lambda r: [text(r, name) for name in names])


def benchmarks_table(analysis: Analysis) -> Table:
    """What each benchmark is, and who judged it.

    Args:
        analysis: the figures.

    Returns:
        The table.
    """
    lines = []
    for column in analysis.columns:
        judges = ", ".join(judge or "none needed" for judge in column.judges) or NONE
        direction = "higher is better" if column.higher_is_better else "lower is better"
        entries = [result.model.benchmarks.get(column.name) for result in analysis.everyone]
        origins = "; ".join(dict.fromkeys(text for entry in entries if entry for text in entry.origins)) or NONE
        cells = (column.axis, direction, judges, origins)
        lines.append(Line((column.name, column.title), tuple(map(Cell, cells))))
    titles = ("axis", "direction", "judge", "rows from")
    return Table(("Benchmark", "What it measures"), titles, tuple(lines), False)


def models_table(analysis: Analysis) -> Table:
    """Where each model is, and what it was evaluated with.

    Args:
        analysis: the figures.

    Returns:
        The table.
    """

    def texts(result: Result) -> list[str]:
        model = result.model
        versions = ", ".join(f"{name} {version}" for name, version in model.versions.items())
        limit = model.suite.get("limit")
        adapters = ", ".join(map(str, model.record.get("adapters") or ()))
        return [
            " + ".join(filter(None, [str(model.record.get("path") or ""), adapters])),
            str(model.record.get("fingerprint") or ""),
            f"{model.suite.get('name')} ({model.suite.get('fingerprint')})",
            "all samples" if limit is None else f"{limit} a task",
            model.backend or "",
            *(shortened(model.settings.get(key)) for key in _SETTINGS),
            versions,
        ]

    settings = [SETTINGS[key] for key in _SETTINGS]
    titles = ("path", "fingerprint", "suite", "samples", "backend", *settings, "versions")
    return plain_table(analysis, analysis.everyone, titles, texts, numeric=False)


def details(analysis: Analysis, level: int) -> Iterator[Heading | Table]:
    """The further figures of each benchmark.

    Args:
        analysis: the figures.
        level: of the headings.

    Yields:
        A heading and a table for each that has some.
    """
    for column, head in zip(analysis.columns, heads(analysis.columns), strict=True):
        entries = {result.model.name: result.model.benchmarks.get(column.name) for result in analysis.everyone}
        names = list(dict.fromkeys(key for entry in entries.values() if entry for key in entry.details))
        if not names:
            continue

        def texts(result: Result, names: list[str] = names, name: str = column.name) -> list[str]:
            entry = result.model.benchmarks.get(name)
            return [figure(entry.details.get(key) if entry else None) for key in names]

        yield Heading(f"{head}: further figures, in percent", level)
        yield plain_table(analysis, analysis.everyone, names, texts)
