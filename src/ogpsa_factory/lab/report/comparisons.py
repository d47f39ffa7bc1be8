"""Tables that compare methods: areas under fronts, and differences within seeds with paired tests."""

from __future__ import annotations

from collections.abc import Sequence

from ...results.document import NONE, Line, Table
from ...results.document import Cell as Box
from ...results.statistics import holm
from .fronts import areas, areas_without_a_level, chosen, is_safe
from .statistics import Difference, difference
from .study import MEASURES, Study
from .tables import NAIVE, pipeline_title, rates_text, with_interval


_COMPARED = ("safety", "utility", "lookalikes")


def fronts_table(study: Study) -> Table:
    """The areas under the fronts, and their differences from the naive method's, with a paired test each.

    Args:
        study: a grid.

    Returns:
        The table; p is corrected by Holm over the methods of a pipeline and both areas.
    """
    lines = []
    for pipeline in study.record["pipelines"]:
        methods = [method for p, method in study.pairs() if p == pipeline]
        versus, corrected = compared_areas(study, pipeline)
        for method in methods:
            boxes = []
            for measure in ("utility", "lookalikes"):
                key = method, measure
                values = areas(study, study.of(pipeline, method), measure)
                boxes.append(Box(with_interval(list(values.values())) if values else NONE))
                boxes.append(Box(_between(areas_without_a_level(study, study.of(pipeline, method), measure))))
                boxes += _differing(versus.get(key), corrected.get(key))
            lines.append(Line((pipeline_title(pipeline), study.methods[method]), tuple(boxes)))
    heads = ("area", "without one level", "minus naive", "p (Holm)")
    named = [f"{name}: {head}" for name in ("skills", "look-alikes") for head in heads]
    return Table(("pipeline", "method"), tuple(named), tuple(lines))


def _between(values: Sequence[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f}" if values else NONE


def compared_areas(
    study: Study, pipeline: str
) -> tuple[dict[tuple[str, str], Difference | None], dict[tuple[str, str], float]]:
    """Compare the areas under the fronts with naive's.

    Args:
        study: a grid.
        pipeline: its name.

    Returns:
        Differences by method and measure (`utility`, `lookalikes`), and p by the same, corrected by Holm over all.
    """
    versus = {}
    for measure in ("utility", "lookalikes"):
        naive = areas(study, study.of(pipeline, NAIVE), measure)
        for p, method in study.pairs():
            if p == pipeline and method != NAIVE and naive:
                versus[method, measure] = difference(areas(study, study.of(pipeline, method), measure), naive)
    return versus, _corrected(versus)


def _corrected(versus: dict[tuple[str, str], Difference | None]) -> dict[tuple[str, str], float]:
    raw = {key: found.p for key, found in versus.items() if found is not None and found.p is not None}
    return dict(zip(raw, holm(list(raw.values())), strict=True))


def _differing(found: Difference | None, p: float | None) -> list[Box]:
    if found is None:
        return [Box(NONE), Box(NONE)]
    ends = "" if found.low is None or found.high is None else f" [{found.low:+.1f}, {found.high:+.1f}]"
    return [Box(f"{found.mean:+.1f}{ends}"), Box(NONE if p is None else p_text(p))]


def p_text(p: float) -> str:
    """A p-value to three decimals.

    Args:
        p: the value.

    Returns:
        The text.
    """
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def pair_table(study: Study, ours: str, theirs: str) -> Table:
    """One method minus another, in every pipeline, seed by seed: at the same level, and by the areas of their fronts.

    Args:
        study: a grid.
        ours: name of a method.
        theirs: name of another.

    Returns:
        The table: differences with intervals, and p corrected by Holm over all levels; that of areas is not corrected.
    """
    partners = {(cell.pipeline, cell.level): cell for cell in study.cells if cell.method == theirs}
    cells = [c for c in study.cells if c.method == ours and (c.pipeline, c.level) in partners]
    lines = []
    versus = {
        (f"{cell.pipeline} {cell.level}", name): difference(
            cell.values[name], partners[cell.pipeline, cell.level].values[name]
        )
        for cell in cells
        for name in _COMPARED
    }
    corrected = _corrected(versus)
    for cell in cells:
        boxes: list[Box] = []
        for name in _COMPARED:
            key = f"{cell.pipeline} {cell.level}", name
            boxes += _differing(versus[key], corrected.get(key))
        lines.append(Line((pipeline_title(cell.pipeline), rates_text(cell)), tuple(boxes)))
    for pipeline in study.record["pipelines"]:
        boxes = [Box(NONE), Box(NONE)]
        for measure in ("utility", "lookalikes"):
            both = [areas(study, study.of(pipeline, method), measure) for method in (ours, theirs)]
            found = difference(*both)
            boxes += _differing(found, None if found is None else found.p)
        lines.append(Line((pipeline_title(pipeline), "area of the front"), tuple(boxes)))
    return Table(("pipeline", "rate"), _compared_heads(), tuple(lines))


def stands_table(study: Study, pairs: Sequence[tuple[str, str]]) -> Table:
    """One method minus another where each stands in Table 1, so at learning rates of their own, seed by seed.

    Args:
        study: a grid.
        pairs: names of methods, ours and theirs; those that a pipeline has not both of are left out there.

    Returns:
        The table: differences with intervals, and p corrected by Holm over the table. What is not safe is marked.
    """
    stands = {(pipeline, method): chosen(study.of(pipeline, method)) for pipeline, method in study.pairs()}
    both = {
        (pipeline, *pair): (stands[pipeline, pair[0]], stands[pipeline, pair[1]])
        for pipeline in study.record["pipelines"]
        for pair in pairs
        if all((pipeline, method) in stands for method in pair)
    }
    versus = {
        ("|".join(place), name): difference(one.values[name], other.values[name])
        for place, (one, other) in both.items()
        for name in _COMPARED
    }
    corrected = _corrected(versus)
    lines = []
    for place, cells in both.items():
        boxes = [Box(f"{rates_text(cell)}{'' if is_safe(cell) else ' (not safe)'}") for cell in cells]
        for name in _COMPARED:
            key = "|".join(place), name
            boxes += _differing(versus[key], corrected.get(key))
        names = [study.methods[method] for method in place[1:]]
        lines.append(Line((pipeline_title(place[0]), *names), tuple(boxes)))
    return Table(("pipeline", "method", "minus"), ("rate", "rate of the other", *_compared_heads()), tuple(lines))


def _compared_heads() -> tuple[str, ...]:
    return tuple(text for name in _COMPARED for text in (MEASURES[name][0], "p (Holm)"))


def against_naive_table(study: Study, pipeline: str) -> Table:
    """Every method minus naive at the same level, seed by seed.

    Args:
        study: a grid.
        pipeline: its name.

    Returns:
        The table: differences with intervals, and p corrected by Holm over the table.
    """
    naive = {cell.level: cell for cell in study.of(pipeline, NAIVE)}
    others = [c for c in study.cells if c.pipeline == pipeline and c.method != NAIVE and c.level in naive]
    versus = {
        (f"{cell.method} {cell.level}", name): difference(cell.values[name], naive[cell.level].values[name])
        for cell in others
        for name in _COMPARED
    }
    corrected = _corrected(versus)
    lines = []
    for cell in others:
        boxes: list[Box] = []
        for name in _COMPARED:
            key = f"{cell.method} {cell.level}", name
            boxes += _differing(versus[key], corrected.get(key))
        lines.append(Line((study.methods[cell.method], rates_text(cell)), tuple(boxes)))
    return Table(("method", "rate"), _compared_heads(), tuple(lines))
