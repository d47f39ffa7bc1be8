"""Do two worlds agree on the order of the methods?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

from ...results.document import Cell as Box
from ...results.document import Line, Table
from .fronts import areas
from .statistics import Difference, difference, rank_correlation
from .study import Study
from .tables import pipeline_title


MEASURES = {"utility": "skills", "lookalikes": "look-alikes right"}


class Agreement(NamedTuple):
    """Two worlds in one pipeline and by one measure.

    `pairs` has those of methods that both worlds tell apart, with each world's difference.
    """

    pipeline: str
    measure: str
    means: dict[str, tuple[float, float]]
    correlation: float | None
    pairs: dict[tuple[str, str], tuple[Difference, Difference]]

    def opposed(self) -> list[tuple[str, str]]:
        """The pairs that the two worlds put into opposite order."""
        return [pair for pair, (one, two) in self.pairs.items() if (one.mean > 0) != (two.mean > 0)]


def other_worlds(studies: Sequence[Study]) -> list[tuple[Study, Study]]:
    """Find grids of the same methods in worlds of different themes.

    Args:
        studies: grids.

    Returns:
        Pairs, in the order given.
    """
    return [
        (one, two)
        for one, two in combinations([study for study in studies if study.record["axis"] is None], 2)
        if one.record["world"]["theme"] != two.record["world"]["theme"] and len(_shared(one, two)) > 2
    ]


def _shared(one: Study, two: Study) -> list[tuple[str, str]]:
    return [pair for pair in one.pairs() if pair in set(two.pairs())]


def agreements(one: Study, two: Study) -> Iterator[Agreement]:
    """Compare two worlds by the areas under the fronts.

    Args:
        one: a grid.
        two: one with some of its methods and pipelines.

    Yields:
        One for each pipeline and measure.
    """
    shared = _shared(one, two)
    for pipeline in dict.fromkeys(pipeline for pipeline, _ in shared):
        methods = [method for p, method in shared if p == pipeline]
        for measure in MEASURES:
            found = [
                {method: areas(study, study.of(pipeline, method), measure) for method in methods}
                for study in (one, two)
            ]
            means = {m: tuple(_mean(values[m]) for values in found) for m in methods}
            pairs = {}
            for a, b in combinations(methods, 2):
                between = [difference(values[a], values[b]) for values in found]
                if all(each is not None and _clear(each) for each in between):
                    pairs[a, b] = (between[0], between[1])
            order = rank_correlation([pair[0] for pair in means.values()], [pair[1] for pair in means.values()])
            yield Agreement(pipeline, measure, means, order, pairs)  # type: ignore[arg-type]


def _mean(values: dict[int, float]) -> float:
    return sum(values.values()) / len(values)


def _clear(found: Difference) -> bool:
    """Whether the interval is without 0."""
    return found.low is not None and found.high is not None and (found.low > 0 or found.high < 0)


def sentence(one: Study, two: Study, found: Agreement) -> str:
    """Say whether two worlds agree.

    Args:
        one: the first world's grid.
        two: the second's.
        found: what was compared.

    Returns:
        One sentence, or two.
    """
    themes = one.record["world"]["theme"], two.record["world"]["theme"]
    opposed = found.opposed()
    where = f"{pipeline_title(found.pipeline)}, area by {MEASURES[found.measure]}"
    rho = "not defined" if found.correlation is None else f"{found.correlation:.2f}"
    text = f"{where}: rank correlation of {themes[0]} and {themes[1]} {rho}. "
    text += f"Of {len(found.pairs)} pairs of methods that both worlds tell apart, "
    if not opposed:
        return text + "all are in the same order."
    names = "; ".join(f"{one.methods[a]} and {one.methods[b]}" for a, b in opposed)
    return text + f"{len(opposed)} are in the opposite order: {names}."


def order_table(one: Study, two: Study) -> Table:
    """The methods' areas in two worlds, with their ranks.

    Args:
        one: the first world's grid.
        two: the second's.

    Returns:
        The table.
    """
    themes = one.record["world"]["theme"], two.record["world"]["theme"]
    compared = list(agreements(one, two))
    lines = []
    for pipeline in dict.fromkeys(each.pipeline for each in compared):
        group = [each for each in compared if each.pipeline == pipeline]
        for method in group[0].means:
            boxes = []
            for each in group:
                for world in (0, 1):
                    value = each.means[method][world]
                    rank = 1 + sum(means[world] > value for means in each.means.values())
                    boxes.append(Box(f"{value:.1f} ({rank})"))
            lines.append(Line((pipeline_title(pipeline), one.methods[method]), tuple(boxes)))
    heads = [f"{text}: {theme}" for text in MEASURES.values() for theme in themes]
    return Table(("pipeline", "method"), tuple(heads), tuple(lines))
