"""What a report says of each model against the naive one of its pipeline, in sentences and tables."""

from __future__ import annotations

from collections.abc import Sequence

from .analysis import Analysis, Mean, Result
from .compare import p_text
from .document import NONE, Cell, Line, Table, figure, span
from .merit import mean
from .tables import INTERVAL, heads, plain_table


_FEW = 3  # how many benchmarks a sentence names


def sentence(analysis: Analysis, result: Result) -> str:
    """Sum a model up against the naive one.

    Args:
        analysis: the one that it is part of.
        result: the model's; it has a `versus`.

    Returns:
        Some sentences.
    """
    assert result.versus
    parts = [f"{result.model.name} against {result.versus.naive}: {_counts(analysis, result)}"]
    for name, difference in (("safety mean", result.versus.safety), ("general mean", result.versus.general)):
        if difference.value is not None:
            parts.append(f"The {name} differs by {_points(difference)}.")
    if result.versus.gain is not None:
        parts.append(_gain(analysis, result))
    return " ".join(parts)


def _counts(analysis: Analysis, result: Result) -> str:
    assert result.versus
    verdicts: dict[str, list[str]] = {"better": [], "worse": [], "not significant": [], "not tested": []}
    for column in analysis.columns:
        difference = result.versus.benchmarks.get(column.name)
        if difference:
            verdict = difference.verdict(column.higher_is_better)
            next(names for start, names in verdicts.items() if verdict.startswith(start)).append(column.name)
    said = []
    for verdict, names in verdicts.items():
        if names:
            said.append(f"{verdict} on {', '.join(names) if len(names) <= _FEW else f'{len(names)} benchmarks'}")
    return f"{'; '.join(said) or 'no benchmark in common'}."


def _points(difference: Mean) -> str:
    interval = f" {span(difference.low, difference.high)}" if difference.low is not None else ""
    over = "" if difference.whole else f", over {len(difference.over)} of {difference.of} benchmarks"
    return f"{figure(difference.value, signed=True)} points{interval}{over}"


def _gain(analysis: Analysis, result: Result) -> str:
    """The difference of the average gains, which benchmark makes most of it, and what is left without near-zero."""
    assert result.versus
    shares = result.versus.shares
    most = max(shares, key=lambda name: abs(shares[name]))
    text = (
        f"The average gain over {len(shares)} benchmarks differs by {figure(result.versus.gain, signed=True)} points, "
        f"of which {most} alone makes {figure(shares[most], signed=True)}"
    )
    left = [share for name, share in shares.items() if name not in analysis.near_zero]
    if len(left) == len(shares) or not left:
        return text + "."
    without = (mean(left) or 0.0) * len(shares)  # a share is a part of the mean over all of them
    names = ", ".join(name for name in shares if name in analysis.near_zero)
    return f"{text}; without {names}, whose base is near zero, by {figure(without, signed=True)}."


def difference_table(analysis: Analysis, block: Sequence[Result]) -> Table:
    """Every benchmark's difference from the naive model, with interval and test.

    Args:
        analysis: the figures.
        block: the models of one pipeline.

    Returns:
        The table, a row a model and benchmark.
    """
    lines = []
    for result in block:
        for column, head in zip(analysis.columns, heads(analysis.columns), strict=True):
            found = result.versus.benchmarks.get(column.name) if result.versus else None
            if found is None:
                continue
            texts = [
                figure(found.value, signed=True),
                span(found.low, found.high),
                NONE if found.p is None else p_text(found.p),
                NONE if found.p_holm is None else p_text(found.p_holm),
                NONE if found.pairs is None else str(found.pairs),
                found.verdict(column.higher_is_better),
            ]
            lines.append(Line((result.model.label, head), tuple(map(Cell, texts))))
    titles = ("difference", INTERVAL, "p", "p (Holm)", "items", "against naive")
    return Table(("Method", "Benchmark"), titles, tuple(lines))


def mean_difference_table(analysis: Analysis) -> Table:
    """Every model's means less the naive model's, over the benchmarks that both have.

    Args:
        analysis: the figures.

    Returns:
        The table.
    """

    def texts(result: Result) -> list[str]:
        assert result.versus
        found = []
        for difference in (result.versus.safety, result.versus.general):
            found += [
                figure(difference.value, signed=True),
                span(difference.low, difference.high),
                f"{len(difference.over)} of {difference.of}",
            ]
        return found

    compared = [result for result in analysis.results if result.versus]
    titles = ["safety mean, difference", INTERVAL, "over", "general mean, difference", INTERVAL, "over"]
    return plain_table(analysis, compared, titles, texts)
