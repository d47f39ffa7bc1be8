"""What stands behind the figures of a report: samples, judges, models, versions, and what a reader must know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .analysis import MAIN, Analysis, Result
from .document import NONE, Cell, Heading, Line, Table, figure, span
from .models import Model
from .tables import INTERVAL, heads, plain_table


def remarks(analysis: Analysis) -> list[str]:
    """Whatever makes figures less comparable than they look.

    Args:
        analysis: the figures.

    Returns:
        Sentences.
    """
    models = [result.model for result in analysis.everyone]
    return [*_suite_remarks(models), *_judge_remarks(analysis), *_roles(analysis), *_lost(models), *_notes(models)]


def _suite_remarks(models: Sequence[Model]) -> Iterator[str]:
    for key, what in (
        ("name", "The models were evaluated with different suites"),
        ("fingerprint", "The suite changed between the models, so their scores may not be comparable; fingerprints"),
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
    compared = {result.model.pipeline for result in analysis.results if result.versus}
    naive = {result.versus.naive for result in analysis.results if result.versus}
    alone = {r.model.pipeline for r in analysis.results if r.model.name not in naive} - compared
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
        lines.append(Line((column.name, column.title), tuple(map(Cell, (column.axis, direction, judges)))))
    return Table(("Benchmark", "What it measures"), ("axis", "direction", "judge"), tuple(lines), False)


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
            versions,
        ]

    titles = ("path", "fingerprint", "suite", "samples", "backend", "versions")
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
