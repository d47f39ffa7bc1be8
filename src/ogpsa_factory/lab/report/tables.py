"""The tables of a grid's report."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ...results.document import NONE, Line, Table, figure, ranks
from ...results.document import Cell as Box
from ...results.statistics import holm
from .fronts import areas, areas_without_a_level, chosen, is_safe
from .statistics import Difference, difference, estimate
from .study import MEASURES, Cell, Study


NAIVE = "naive"  # the method that the others of a grid are compared with
TABLE_1 = ("safety", "seen", "over_refusal", "lookalikes")
_EVERY = ("safety", "utility", "tax", "lookalikes", "over_refusal", "safety_loss", "reference_loss")
_COMPARED = ("safety", "utility", "lookalikes")
_PIPELINES = {"sft": "SFT", "dpo": "DPO", "sft_dpo": "SFT-DPO"}


def pipeline_title(name: str) -> str:
    """A pipeline as the paper writes it.

    Args:
        name: in the grid.

    Returns:
        The title.
    """
    return _PIPELINES.get(name, name)


def rates_text(cell: Cell) -> str:
    """The learning rates of a cell.

    Args:
        cell: the cell.

    Returns:
        Such as `1e-4, then 1e-5`.
    """
    return ", then ".join(_scientific(rate) for rate in cell.rates.values())


def _scientific(rate: float) -> str:
    mantissa, exponent = f"{rate:.3e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def with_interval(values: Sequence[float]) -> str:
    """A mean with half the width of its interval.

    Args:
        values: one a seed.

    Returns:
        Such as `98.7 ± 0.4`.
    """
    found = estimate(values)
    return f"{found.mean:.1f}" if found.high is None else f"{found.mean:.1f} ± {found.high - found.mean:.1f}"


def table_1(study: Study, with_skills: bool = True) -> Table:
    """The paper's Table 1: a row a method at the level that stands for it, means over seeds, best in bold.

    Args:
        study: a grid.
        with_skills: show every skill beside their mean.

    Returns:
        The table.
    """
    skills = list(study.base.skills) if with_skills else []
    heads = [MEASURES[name][0] for name in TABLE_1] + [*skills, MEASURES["utility"][0], MEASURES["tax"][0]]
    better = [MEASURES[name][1] for name in TABLE_1] + [True] * len(skills) + [True, False]
    lines = [Line(("", "Base", ""), tuple(Box(figure(value)) for value in _row(study.base, skills)), "base")]
    for pipeline in study.record["pipelines"]:
        found = {m: chosen(study.of(p, m)) for p, m in study.pairs() if p == pipeline}
        rows = {method: _row(cell, skills) for method, cell in found.items()}
        if not rows:
            continue
        # What is not safe wins nothing: the less a model is aligned, the more it keeps.
        fit = [is_safe(cell) for cell in found.values()]
        columns = [
            [value if safe else None for value, safe in zip(column, fit, strict=True)]
            for column in zip(*rows.values(), strict=True)
        ]
        places = [ranks(column, up) for column, up in zip(columns, better, strict=True)]
        for i, (method, row) in enumerate(rows.items()):
            row_cell = found[method]
            title = study.methods[method] + ("" if is_safe(found[method]) else " (not safe)") + _fewer(study, row_cell)
            boxes = tuple(Box(figure(value), places[j][i]) for j, value in enumerate(row))
            lines.append(Line((pipeline_title(pipeline), title, rates_text(found[method])), boxes))
    return Table(("pipeline", "method", "learning rate"), tuple(heads), tuple(lines))


def _fewer(study: Study, cell: Cell) -> str:
    """Says where a cell has not all seeds."""
    count, planned = len(cell.points), len(study.record["seeds"])
    return "" if count == planned else f" ({count} of {planned} seeds)"


def _row(cell: Cell, skills: Sequence[str]) -> list[float]:
    means = [cell.mean(name) for name in TABLE_1] + [statistics.fmean(cell.skills[skill].values()) for skill in skills]
    return [*means, cell.mean("utility"), cell.mean("tax")]


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
        found = {
            (method, measure): areas(study, study.of(pipeline, method), measure)
            for method in methods
            for measure in ("utility", "lookalikes")
        }
        versus = {
            key: difference(values, found[NAIVE, key[1]])
            for key, values in found.items()
            if key[0] != NAIVE and (NAIVE, key[1]) in found
        }
        corrected = _corrected(versus)
        for method in methods:
            boxes = []
            for measure in ("utility", "lookalikes"):
                key = method, measure
                boxes.append(Box(with_interval(list(found[key].values())) if found[key] else NONE))
                boxes.append(Box(_between(areas_without_a_level(study, study.of(pipeline, method), measure))))
                boxes += _differing(versus.get(key), corrected.get(key))
            lines.append(Line((pipeline_title(pipeline), study.methods[method]), tuple(boxes)))
    heads = ("area", "without one level", "minus naive", "p (Holm)")
    named = [f"{name}: {head}" for name in ("skills", "look-alikes") for head in heads]
    return Table(("pipeline", "method"), tuple(named), tuple(lines))


def _between(values: Sequence[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f}" if values else NONE


def _corrected(versus: dict[tuple[str, str], Difference | None]) -> dict[tuple[str, str], float]:
    raw = {key: found.p for key, found in versus.items() if found is not None and found.p is not None}
    return dict(zip(raw, holm(list(raw.values())), strict=True))


def _differing(found: Difference | None, p: float | None) -> list[Box]:
    if found is None:
        return [Box(NONE), Box(NONE)]
    ends = "" if found.low is None or found.high is None else f" [{found.low:+.1f}, {found.high:+.1f}]"
    return [Box(f"{found.mean:+.1f}{ends}"), Box(NONE if p is None else f"{p:.3f}")]


def levels_table(study: Study, pipeline: str) -> Table:
    """Every method at every level of one pipeline.

    Args:
        study: a grid.
        pipeline: its name.

    Returns:
        The table: means with half the width of their intervals.
    """
    lines = []
    for p, method in study.pairs():
        if p != pipeline:
            continue
        for cell in study.of(pipeline, method):
            boxes = tuple(Box(_text(cell, name)) for name in _EVERY)
            lines.append(Line((study.methods[method], rates_text(cell)), boxes))
    return Table(("method", "learning rate"), tuple(MEASURES[name][0] for name in _EVERY), tuple(lines))


def _text(cell: Cell, measure: str) -> str:
    values = list(cell.values[measure].values())
    if not measure.endswith("_loss"):
        return with_interval(values)
    return f"{statistics.fmean(values):.3f}" if values else NONE


def pair_table(study: Study, ours: str, theirs: str) -> Table:
    """One method minus another at the same level, in every pipeline, seed by seed.

    Args:
        study: a grid.
        ours: name of a method.
        theirs: name of another.

    Returns:
        The table: differences with intervals, and p corrected by Holm over the table.
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
    return Table(("pipeline", "learning rate"), _compared_heads(), tuple(lines))


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
    return Table(("method", "learning rate"), _compared_heads(), tuple(lines))
