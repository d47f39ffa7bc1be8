"""The tables of a report that people compare models by: scores, intervals, gains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from .analysis import MAIN, Analysis, Column, Mean, Result
from .document import NONE, Cell, Line, Table, figure, ranks, span
from .statistics import LEVEL


NAMES = ("Pipeline", "Method")
INTERVAL = f"{LEVEL:.0%} interval"
_KEYWORDS = "keywords"


def heads(columns: Iterable[Column]) -> list[str]:
    """The heads of some benchmarks; each says whether keywords were its judge.

    Args:
        columns: the benchmarks.

    Returns:
        One text each.
    """
    return [column.name + _judged([column]) for column in columns]


def _judged(columns: Sequence[Column]) -> str:
    judges = {judge for column in columns for judge in column.judges}
    if _KEYWORDS not in judges:
        return ""
    return " (judged by keywords)" if judges == {_KEYWORDS} else " (in part judged by keywords)"


def _mean_heads(analysis: Analysis) -> list[str]:
    return [
        f"Safety mean{_judged(analysis.named('safety'))}",
        f"General mean{_judged(analysis.named('general'))}",
        f"Gain %{_judged(analysis.named(*MAIN))}",
    ]


def labels(analysis: Analysis, result: Result, quoted: bool = False) -> tuple[str, ...]:
    """What names a row: pipeline and method.

    Args:
        analysis: the one that the model is part of.
        result: the model's.
        quoted: whether it is the paper's row beside a user's.

    Returns:
        Two texts.
    """
    label = f"{result.model.label} (quoted)" if quoted else result.model.label
    return ("Base" if result is analysis.base else result.model.pipeline), label


def blocks(results: Sequence[Result]) -> Iterator[list[Result]]:
    """Part models by pipeline.

    Args:
        results: sorted by pipeline.

    Yields:
        The models of one pipeline.
    """
    for pipeline in dict.fromkeys(result.model.pipeline for result in results):
        yield [result for result in results if result.model.pipeline == pipeline]


def mean_text(mean: Mean) -> str:
    """A mean, and over how many benchmarks it is where some are missing.

    Args:
        mean: the mean.

    Returns:
        The text.
    """
    return figure(mean.value) if mean.whole or mean.value is None else f"{mean.value:.2f} ({len(mean.over)}/{mean.of})"


def main_table(analysis: Analysis, quoted: Analysis | None = None) -> Table:
    """The table of scores in the form of the paper's Table 1.

    Args:
        analysis: the figures.
        quoted: the paper's, for the pipelines that the user has, too; they take no part in best and second best.

    Returns:
        The table; best and second best are found within each pipeline.
    """
    columns = analysis.named(*MAIN)
    lines = []
    if analysis.base:
        texts = _texts(analysis.base, columns)
        lines.append(Line(labels(analysis, analysis.base), tuple(map(Cell, texts)), "base"))
    if quoted and quoted.base:
        lines.append(_quoted_line(quoted, quoted.base, columns))
    for block in blocks(analysis.results):
        lines += _ranked_lines(analysis, block, columns)
        for result in quoted.results if quoted else ():
            if quoted and result.model.pipeline == block[0].model.pipeline:
                lines.append(_quoted_line(quoted, result, columns))
    return Table(NAMES, (*heads(columns), *_mean_heads(analysis)), tuple(lines))


def _quoted_line(quoted: Analysis, result: Result, columns: Sequence[Column]) -> Line:
    return Line(labels(quoted, result, quoted=True), tuple(map(Cell, _texts(result, columns))), "quoted")


def _texts(result: Result, columns: Sequence[Column]) -> list[str]:
    benchmarks = result.model.benchmarks
    scores = [benchmarks[column.name].score if column.name in benchmarks else None for column in columns]
    return [*map(figure, scores), *map(mean_text, (result.safety, result.general, result.gain))]


def _ranked_lines(analysis: Analysis, block: Sequence[Result], columns: Sequence[Column]) -> list[Line]:
    # Where judges differ, no score is best; nor is a mean with such a score in it.
    mixed = {column.name for column in columns if len(column.judges) > 1}
    by_column = [
        [0] * len(block)
        if column.name in mixed
        else ranks([r.model.scores(column.axis).get(column.name) for r in block], column.higher_is_better)
        for column in columns
    ]
    by_column += [_mean_ranks([getattr(r, mean) for r in block], mixed) for mean in ("safety", "general", "gain")]
    found = []
    for i, result in enumerate(block):
        texts = _texts(result, columns)
        cells = tuple(Cell(text, column[i]) for text, column in zip(texts, by_column, strict=True))
        found.append(Line(labels(analysis, result), cells))
    return found


def _mean_ranks(means: Sequence[Mean], mixed: set[str]) -> list[int]:
    """Means are compared only where they are over the same benchmarks: here, over as many as any has."""
    most = max(len(mean.over) for mean in means)
    fullest = {frozenset(mean.over) for mean in means if len(mean.over) == most}
    if len(fullest) > 1 or any(over & mixed for over in fullest):
        return [0] * len(means)
    return ranks([mean.value if frozenset(mean.over) in fullest else None for mean in means])


def intervals_table(analysis: Analysis) -> Table:
    """The interval of every score and mean of the main table.

    Args:
        analysis: the figures.

    Returns:
        The table.
    """
    columns = analysis.named(*MAIN)

    def texts(result: Result) -> list[str]:
        spans = [span(*result.intervals.get(column.name, (None, None))) for column in columns]
        return spans + [span(mean.low, mean.high) for mean in (result.safety, result.general, result.gain)]

    return plain_table(analysis, analysis.everyone, [*heads(columns), *_mean_heads(analysis)], texts)


def gain_table(analysis: Analysis) -> Table:
    """The average performance gain, with and without near-zero bases.

    Args:
        analysis: the figures.

    Returns:
        The table.
    """
    limit = f"{analysis.settings.near_zero:g}"
    judged = _judged(analysis.named(*MAIN))
    titles = ["Gain %" + judged, INTERVAL, "over", f"Gain % without bases below {limit}" + judged, INTERVAL, "over"]

    def texts(result: Result) -> list[str]:
        found = []
        for gain in (result.gain, result.gain_without):
            found += [figure(gain.value, signed=True), span(gain.low, gain.high), f"{len(gain.over)} of {gain.of}"]
        return found

    return plain_table(analysis, analysis.results, titles, texts)


def shares_table(analysis: Analysis) -> Table:
    """Each benchmark's share of the difference between a method's average gain and the naive model's, in points.

    Args:
        analysis: the figures.

    Returns:
        The table; a row's shares add up to its last cell.
    """
    columns = analysis.named(*MAIN)

    def texts(result: Result) -> list[str]:
        assert result.versus
        shares = [result.versus.shares.get(column.name) for column in columns]
        return [figure(value, signed=True) for value in [*shares, result.versus.gain]]

    compared = [result for result in analysis.results if result.versus]
    return plain_table(analysis, compared, [*heads(columns), "all" + _judged(columns)], texts)


def plain_table(
    analysis: Analysis,
    results: Sequence[Result],
    titles: Sequence[str],
    texts: Callable[[Result], Sequence[str]],
    numeric: bool = True,
) -> Table:
    """A table of one row a model, without ranks.

    Args:
        analysis: the one that the models are part of.
        results: the models, in order.
        titles: heads of the cells.
        texts: from a model to its cells.
        numeric: whether these are numbers.

    Returns:
        The table.
    """
    lines = [
        Line(
            labels(analysis, result),
            tuple(Cell(text or NONE) for text in texts(result)),
            "base" if result is analysis.base else "measured",
        )
        for result in results
    ]
    return Table(NAMES, tuple(titles), tuple(lines), numeric)
