"""The tables of a grid's report."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ...results.document import NONE, Line, Table, figure, ranks
from ...results.document import Cell as Box
from .fronts import chosen, is_safe
from .statistics import estimate
from .study import MEASURES, Cell, Study


NAIVE = "naive"  # the method that the others of a grid are compared with
TABLE_1 = ("safety", "seen", "over_refusal", "lookalikes")
_EVERY = ("safety", "utility", "tax", "lookalikes", "over_refusal", "safety_loss", "reference_loss")
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
    heads = [
        "rate",
        *(MEASURES[name][0] for name in TABLE_1),
        *skills,
        MEASURES["utility"][0],
        MEASURES["tax"][0],
    ]
    better = [MEASURES[name][1] for name in TABLE_1] + [True] * len(skills) + [True, False]
    of_base = tuple(Box(figure(value)) for value in _row(study.base, skills))
    lines = [Line(("", "Base"), (Box(NONE), *of_base), "base")]
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
            lines.append(Line((pipeline_title(pipeline), title), (Box(rates_text(row_cell)), *boxes)))
    return Table(("pipeline", "method"), tuple(heads), tuple(lines))


def _fewer(study: Study, cell: Cell) -> str:
    """Says where a cell has not all seeds."""
    count, planned = len(cell.points), len(study.record["seeds"])
    return "" if count == planned else f" ({count} of {planned} seeds)"


def _row(cell: Cell, skills: Sequence[str]) -> list[float]:
    means = [cell.mean(name) for name in TABLE_1] + [statistics.fmean(cell.skills[skill].values()) for skill in skills]
    return [*means, cell.mean("utility"), cell.mean("tax")]


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
    return Table(("method", "rate"), tuple(MEASURES[name][0] for name in _EVERY), tuple(lines))


def _text(cell: Cell, measure: str) -> str:
    values = list(cell.values[measure].values())
    if not measure.endswith("_loss"):
        return with_interval(values)
    return f"{statistics.fmean(values):.3f}" if values else NONE
