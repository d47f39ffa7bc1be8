"""Do two worlds agree on the order of the methods?"""

from __future__ import annotations

import statistics
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
            whole = [method for method in methods if all(values[method] for values in found)]
            mean = [{method: statistics.fmean(values[method].values()) for method in whole} for values in found]
            means = {method: (mean[0][method], mean[1][method]) for method in whole}
            pairs = {}
            for a, b in combinations(whole, 2):
                first, second = (difference(values[a], values[b]) for values in found)
                if first and second and _clear(first) and _clear(second):
                    pairs[a, b] = first, second
            order = rank_correlation([pair[0] for pair in means.values()], [pair[1] for pair in means.values()])
            yield Agreement(pipeline, measure, means, order, pairs)


def _clear(found: Difference) -> bool:
    """Whether the interval is without 0; it is not corrected for the number of pairs."""
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
    if not found.pairs:
        return text + "No pair of methods is told apart by both."
    text += f"Of {len(found.pairs)} pairs of methods that both worlds tell apart (intervals without 0, uncorrected), "
    if not opposed:
        return text + "all are in the same order."
    names = "; ".join(f"{one.methods[a]} and {one.methods[b]}" for a, b in opposed)
    return text + f"in the opposite order: {names} ({len(opposed)})."


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
        for method in (m for m in group[0].means if all(m in each.means for each in group)):
            boxes = []
            for each in group:
                for world in (0, 1):
                    value = each.means[method][world]
                    rank = 1 + sum(means[world] > value for means in each.means.values())
                    boxes.append(Box(f"{value:.1f} ({rank})"))
            lines.append(Line((pipeline_title(pipeline), one.methods[method]), tuple(boxes)))
    heads = [f"{text}: {theme}" for text in MEASURES.values() for theme in themes]
    return Table(("pipeline", "method"), tuple(heads), tuple(lines))
