"""The figure of a report: safety mean against general mean, as in the paper's Figure 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .analysis import Analysis, Mean, Result
from .drawing import COLOURS, add_legend, new_figure, save
from .models import LABELS


if TYPE_CHECKING:
    from matplotlib.axes import Axes


NAME = "figure2.png"
DESCRIPTION = "Safety mean against general mean; an arrow leads from the naive model to OGPSA of each pipeline."
_BASE = "#555555"
_KNOWN = {"naive": "X", "ogpsa": "o", "merged": "D", "lora": "s", "general_data": "^"}
_LONGEST = 50  # of a name
_OTHERS = ("v", "P", "h", "p", "<", ">", "d", "8")


def draw(families: Sequence[Analysis], path: Path) -> bool:
    """Draw one panel a family of models, as a PNG file.

    Args:
        families: their figures.
        path: the file to write; where nothing can be drawn, an earlier one is removed.

    Returns:
        Whether there was a model with both means.
    """
    families = [family for family in families if any(_point(result) for result in family.everyone)]
    if not families:
        path.unlink(missing_ok=True)
        return False
    methods = dict.fromkeys(result.model.method for family in families for result in family.results)
    pipelines = dict.fromkeys(result.model.pipeline for family in families for result in family.results)
    spare = iter(range(len(methods)))
    markers = {m: _KNOWN.get(m) or _OTHERS[next(spare) % len(_OTHERS)] for m in methods}
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(pipelines)}
    figure, panels = new_figure(1, len(families), width=6 if len(families) > 1 else 7.5, height=5.6)
    for axes, family in zip(panels[0], families, strict=True):
        _draw_panel(axes, family, colours, markers)
    # Names stand in one legend above the panels, so that points close together cannot make labels collide.
    based = any(family.base and _point(family.base) for family in families)
    part = any(not _whole(result) for family in families for result in family.everyone if _point(result))
    add_legend(figure, _handles(colours, markers, based, part))
    save(figure, path, dpi=150)
    return True


def _point(result: Result) -> tuple[float, float] | None:
    if result.safety.value is None or result.general.value is None:
        return None
    return result.safety.value, result.general.value


def _whole(result: Result) -> bool:
    return result.safety.whole and result.general.whole


def _draw_panel(axes: Axes, family: Analysis, colours: dict[str, str], markers: dict[str, str]) -> None:
    base = _point(family.base) if family.base else None
    if base:
        axes.axvline(base[0], color=_BASE, linestyle="--", linewidth=1, zorder=1)
        axes.axhline(base[1], color=_BASE, linestyle="--", linewidth=1, zorder=1)
        axes.scatter(*base, s=190, marker="*", color=_BASE, edgecolor="white", zorder=4)
    for result in family.results:
        point = _point(result)
        if point is None:
            continue
        colour = colours[result.model.pipeline]
        bars: dict[str, Any] = {"xerr": _bar(result.safety), "yerr": _bar(result.general)}
        axes.errorbar(*point, **bars, color=colour, alpha=0.35, linewidth=1.2, zorder=2)
        face, edge = (colour, "white") if _whole(result) else ("none", colour)
        marker = markers[result.model.method]
        axes.scatter(*point, s=85, marker=marker, facecolor=face, edgecolor=edge, zorder=4)
    _draw_arrows(axes, family, colours)
    axes.margins(0.08)
    axes.set(
        xlabel="safety mean, %  (axis not from 0)",
        ylabel="general mean, %  (axis not from 0)",
    )
    axes.set_title(_plain(family.title), wrap=True)
    axes.grid(alpha=0.25)


def _bar(mean: Mean) -> list[list[float]] | None:
    """The interval as distances from the mean, which it may lie beside by a hair."""
    if mean.value is None or mean.low is None or mean.high is None:
        return None
    return [[max(0.0, mean.value - mean.low)], [max(0.0, mean.high - mean.value)]]


def _draw_arrows(axes: Axes, family: Analysis, colours: dict[str, str]) -> None:
    """From naive to OGPSA of the same pipeline, where both are means over the same benchmarks."""
    by_name = {result.model.name: result for result in family.results}
    for result in family.results:
        if result.model.method != "ogpsa" or result.versus is None:
            continue
        naive = by_name[result.versus.naive]
        same = (naive.safety.over, naive.general.over) == (result.safety.over, result.general.over)
        start, end = _point(naive), _point(result)
        if same and start and end:
            arrow = {
                "arrowstyle": "->",
                "color": colours[result.model.pipeline],
                "linewidth": 1.6,
                "shrinkA": 6,
                "shrinkB": 6,
            }
            axes.annotate("", xy=end, xytext=start, arrowprops=arrow, zorder=3)


def _handles(colours: dict[str, str], markers: dict[str, str], based: bool, part: bool) -> list[Any]:
    """What colours and markers mean."""
    from matplotlib.lines import Line2D

    plain: dict[str, Any] = {"linestyle": "", "markersize": 9, "markeredgecolor": "white"}
    found = [Line2D([], [], marker="*", color=_BASE, label="Base (dashed)", **plain)] if based else []
    for method, marker in markers.items():
        found.append(Line2D([], [], marker=marker, color="#777777", label=_plain(LABELS.get(method, method)), **plain))
    if list(colours) != [""]:
        for pipeline, colour in colours.items():
            label = _plain(pipeline or "no pipeline")
            found.append(Line2D([], [], marker="o", color=colour, label=label, **plain))
    if part:
        hollow = {**plain, "markeredgecolor": "#999999", "markerfacecolor": "none"}
        found.append(Line2D([], [], marker="o", label="hollow: fewer benchmarks", **hollow))
    return found


def _plain(text: str) -> str:
    """A name, not too long, that matplotlib takes neither for mathematics nor, by its underscore, for nothing."""
    short = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return (" " if text.startswith("_") else "") + short.replace("$", r"\$")
