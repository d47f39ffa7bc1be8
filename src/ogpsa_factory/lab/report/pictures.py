"""The pictures of a grid's report: fronts, the paper's Figure 2, and what an ablation does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...results.drawing import COLOURS, MARKERS, add_legend, new_figure, save
from .fronts import chosen, envelope
from .statistics import estimate
from .study import MEASURES, Cell, Study
from .tables import NAIVE, pipeline_title, rates_text


if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BASE = "#555555"
_CORNER = 88  # percent


def draw_fronts(study: Study, path: Path) -> None:
    """Draw every method's levels and front: safety against skills, and against look-alikes answered right.

    Args:
        study: a grid.
        path: the file.
    """
    from matplotlib.lines import Line2D

    pipelines = list(study.record["pipelines"])
    figure, panels = new_figure(2, len(pipelines))
    methods = list(study.methods)
    for row, measure in zip(panels, ("utility", "lookalikes"), strict=True):
        for axes, pipeline in zip(row, pipelines, strict=True):
            base = study.base.mean("safety"), study.base.mean(measure)
            _cross(axes, base)
            for i, method in enumerate(methods):
                cells = study.of(pipeline, method)
                points = [(cell.mean("safety"), cell.mean(measure)) for cell in cells]
                look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
                axes.scatter(*zip(*points, strict=True), s=42, edgecolor="white", **look) if points else None
                corners = envelope([base, *points])
                axes.plot(*zip(*corners, strict=True), color=look["color"], linewidth=1.1, alpha=0.6)
            axes.set(xlim=(-4, 104), ylim=(-4, 104), xlabel="held-out harmful requests refused, %")
            axes.set(ylabel=f"{MEASURES[measure][0]}, %", title=pipeline_title(pipeline))
            axes.grid(alpha=0.25)
    handles = [
        Line2D(
            [], [], color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)], label=study.methods[method],
            markeredgecolor="white", linewidth=1.1,
        )
        for i, method in enumerate(methods)
    ]  # fmt: skip
    handles.append(Line2D([], [], color=_BASE, linestyle="--", label="Base"))
    add_legend(figure, handles)
    save(figure, path)


def _cross(axes: Axes, base: tuple[float, float]) -> None:
    axes.axvline(base[0], color=_BASE, linestyle="--", linewidth=1, zorder=1)
    axes.axhline(base[1], color=_BASE, linestyle="--", linewidth=1, zorder=1)


def draw_figure_2(study: Study, path: Path) -> None:
    """Draw the paper's Figure 2: safety against the general score, a marker a method, a colour a pipeline.

    Args:
        study: a grid; each method stands at the level that `chosen` takes, with intervals over seeds.
        path: the file.
    """
    from matplotlib.lines import Line2D

    figure, panels = new_figure(1, 3, width=5)
    pipelines, methods = list(study.record["pipelines"]), list(study.methods)
    for axes, measure in zip(panels[0], ("utility", "utility", "lookalikes"), strict=True):
        _cross(axes, (study.base.mean("safety"), study.base.mean(measure)))
        for pipeline, method in study.pairs():
            cell = chosen(study.of(pipeline, method))
            place = COLOURS[pipelines.index(pipeline) % len(COLOURS)], MARKERS[methods.index(method) % len(MARKERS)]
            _with_bars(axes, cell, measure, *place)
        axes.set(xlabel="held-out harmful requests refused, %  (safety)", ylabel=f"{MEASURES[measure][0]}, %")
        axes.grid(alpha=0.25)
    panels[0][0].set(title="general skills", xlim=(-4, 104), ylim=(-4, 104))
    panels[0][1].set(title="the same, upper right corner", xlim=(_CORNER, 100.6), ylim=(_CORNER, 100.6))
    lowest = min(chosen(study.of(*pair)).mean("safety") for pair in study.pairs())
    panels[0][2].set(title="benign look-alikes", xlim=(min(_CORNER, lowest - 2), 100.6), ylim=(-4, 104))
    plain: dict[str, Any] = {"linestyle": "", "markersize": 8, "markeredgecolor": "white"}
    handles = [
        Line2D([], [], color="#777777", marker=MARKERS[i % len(MARKERS)], label=study.methods[name], **plain)
        for i, name in enumerate(methods)
    ]
    handles += [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], marker="o", label=pipeline_title(name), **plain)
        for i, name in enumerate(pipelines)
    ]
    handles.append(Line2D([], [], color=_BASE, linestyle="--", label="Base"))
    add_legend(figure, handles)
    save(figure, path)


def _with_bars(axes: Axes, cell: Cell, measure: str, colour: str, marker: str) -> None:
    """A point with its intervals, which end at 0 and 100."""
    centre, bars = [], []
    for name in ("safety", measure):
        found = estimate(list(cell.values[name].values()))
        low, high = (found.mean if end is None else min(100.0, max(0.0, end)) for end in (found.low, found.high))
        centre.append(found.mean)
        bars.append([[max(0.0, found.mean - low)], [max(0.0, high - found.mean)]])
    x, y = centre
    axes.errorbar(x, y, xerr=bars[0], yerr=bars[1], color=colour, alpha=0.35, linewidth=1, zorder=2)
    axes.scatter(x, y, s=75, color=colour, marker=marker, edgecolor="white", zorder=3)


def draw_ablation(study: Study, path: Path) -> None:
    """Draw what the methods of a grid with an axis do, a line a learning rate; naive as dashed lines.

    Args:
        study: a grid with an axis.
        path: the file.
    """
    from matplotlib.lines import Line2D

    measures = ("safety", "utility", "lookalikes")
    figure, panels = new_figure(1, len(measures), width=4.6, height=4.2)
    names = [name for name in study.methods if name != NAIVE]
    places = {name: i for i, name in enumerate(names)}
    labels = [str(study.record["methods"][name]["at"]) for name in names]
    handles: list[Any] = []
    for pipeline in study.record["pipelines"]:
        for level in range(study.levels(pipeline)):
            cells = [cell for cell in study.cells if (cell.pipeline, cell.level) == (pipeline, level)]
            colour = COLOURS[len(handles) % len(COLOURS)]
            for axes, measure in zip(panels[0], measures, strict=True):
                for cell in cells:
                    if cell.method == NAIVE:
                        axes.axhline(cell.mean(measure), color=colour, linestyle="--", linewidth=1)
                _line(axes, [cell for cell in cells if cell.method != NAIVE], places, measure, colour)
            if cells:
                label = f"{pipeline_title(pipeline)}, {rates_text(cells[0])} (dashed: naive)"
                handles.append(Line2D([], [], color=colour, marker="o", label=label))
    for axes, measure in zip(panels[0], measures, strict=True):
        turned = max(map(len, labels), default=0) > 5
        axes.set_xticks(range(len(names)), labels, rotation=40 if turned else 0, ha="right" if turned else "center")
        axes.set(ylim=(-4, 104), ylabel=f"{MEASURES[measure][0]}, %", xlabel=str(study.record["axis"]))
        axes.grid(alpha=0.25)
    add_legend(figure, handles, 3)
    save(figure, path)


def _line(axes: Axes, cells: Sequence[Cell], places: dict[str, int], measure: str, colour: str) -> None:
    found = [estimate(list(cell.values[measure].values())) for cell in cells]
    xs, ys = [places[cell.method] for cell in cells], [each.mean for each in found]
    axes.plot(xs, ys, color=colour, marker="o", markersize=5, linewidth=1.3)
    ends = [(each.low, each.high) for each in found]
    if ends and all(low is not None for low, _ in ends):
        lows = [max(0.0, low) for low, _ in ends if low is not None]
        highs = [min(100.0, high) for _, high in ends if high is not None]
        axes.fill_between(xs, lows, highs, color=colour, alpha=0.15, linewidth=0)
