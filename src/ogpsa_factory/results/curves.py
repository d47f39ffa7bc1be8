"""What training logged: the overlap of safety and reference gradients, and what it does to the safety loss.

For runs of any size: those of `ogpsa lab run`, and the output folders of evaluated models.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import replaced_file
from .document import NONE, Cell, Line, Table


if TYPE_CHECKING:
    from matplotlib.axes import Axes

COS, COS_AFTER, REMOVED = "ogpsa/cos/", "ogpsa/cos_after/", "ogpsa/removed_ratio"
OVERLAP_PICTURE, LOSS_PICTURE = "overlap.png", "safety_loss.png"
_COLOURS = ("#d1495b", "#1b7f79", "#3066be", "#e09f3e", "#6a4c93", "#7a9e35", "#0b3954", "#c06e52")
_LITTLE, _MUCH = "#3066be", "#d1495b"


@dataclass(frozen=True)
class Run:
    """One run of training.

    Args:
        method: what it is called; runs of one name are repetitions.
        panel: what it can be compared in: pipeline or stage, and learning rate.
        log: an entry a logged step, as the Trainer writes them; `step`, `loss` and `ogpsa/…`.
        seconds: of training; None where it is not known.
        steps: optimizer steps.
        repetition: tells runs of one method and panel apart, such as the seed.
    """

    method: str
    panel: str
    log: Sequence[dict[str, Any]]
    seconds: float | None = None
    steps: int = 0
    repetition: int = 0

    @property
    def overlap(self) -> float | None:
        """Share of the gradient's norm in the capability subspace, averaged over training; None where not logged."""
        found = [entry[REMOVED] for entry in self.log if REMOVED in entry]
        return statistics.fmean(found) if found else None


def mean_cosine(entry: dict[str, Any], prefix: str) -> float | None:
    """The mean over the reference sets of the cosine's size.

    Args:
        entry: of a log.
        prefix: `COS` (before the projection) or `COS_AFTER`.

    Returns:
        From 0 to 1; None where there is none.
    """
    found = [abs(value) for name, value in entry.items() if name.startswith(prefix)]
    return statistics.fmean(found) if found else None


def draw_overlap(runs: Sequence[Run], path: Path) -> bool:
    """Draw cosines over training, before the projection and after it; a line a method, averaged over repetitions.

    Args:
        runs: those without logged cosines are left out.
        path: the file; where nothing can be drawn, an earlier one is removed.

    Returns:
        Whether there was anything to draw.
    """
    drawn = [run for run in runs if any(mean_cosine(entry, COS) is not None for entry in run.log)]
    if not drawn:
        path.unlink(missing_ok=True)
        return False
    from matplotlib.lines import Line2D

    methods = list(dict.fromkeys(run.method for run in drawn))
    figure, panels = _panels(drawn)
    for panel, axes in panels.items():
        for i, method in enumerate(methods):
            group = [run for run in drawn if (run.panel, run.method) == (panel, method)]
            for prefix, style in ((COS, "-"), (COS_AFTER, ":")):
                steps, values = _averaged([[(e["step"], mean_cosine(e, prefix)) for e in run.log] for run in group])
                if steps:
                    axes.plot(steps, values, linestyle=style, color=_COLOURS[i % len(_COLOURS)], linewidth=1.5)
        axes.set(xlabel="optimizer step", ylabel="|cosine|, mean over reference sets", title=panel)
        axes.set_ylim(bottom=-0.01)
        axes.grid(alpha=0.25)
    handles = [Line2D([], [], color=_COLOURS[i % len(_COLOURS)], label=name) for i, name in enumerate(methods)]
    handles.append(Line2D([], [], color="#777777", linestyle="-", label="before the projection"))
    handles.append(Line2D([], [], color="#777777", linestyle=":", label="after the projection"))
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)
    _save(figure, path)
    return True


def draw_losses(runs: Sequence[Run], path: Path) -> bool:
    """Draw the safety loss over training, runs with much overlap apart from those with little.

    Args:
        runs: those without a logged overlap are left out, as is a panel with fewer than two.
        path: the file; where nothing can be drawn, an earlier one is removed.

    Returns:
        Whether there was anything to draw.
    """
    known = [run for run in runs if run.overlap is not None]
    drawn = [run for run in known if sum(other.panel == run.panel for other in known) > 1]
    if not drawn:
        path.unlink(missing_ok=True)
        return False
    figure, panels = _panels(drawn)
    for panel, axes in panels.items():
        group = sorted((run for run in drawn if run.panel == panel), key=lambda run: run.overlap or 0.0)
        half = len(group) // 2
        for part, colour, name in ((group[:half], _LITTLE, "less"), (group[half:], _MUCH, "more")):
            curves = [[(e["step"], e.get("loss")) for e in run.log] for run in part]
            for curve in curves:
                points = [(step, loss) for step, loss in curve if loss is not None]
                axes.plot(*zip(*points, strict=True), color=colour, alpha=0.15, linewidth=0.7)
            overlaps = [run.overlap or 0.0 for run in part]
            label = f"{name} overlap ({min(overlaps):.2f} to {max(overlaps):.2f}), {len(part)} runs"
            axes.plot(*_averaged(curves), color=colour, linewidth=2, label=label)
        axes.set(xlabel="optimizer step", ylabel="safety loss, nats", title=panel, yscale="log")
        axes.legend(frameon=False, fontsize=8)
        axes.grid(alpha=0.25)
    _save(figure, path)
    return True


def overhead_table(runs: Sequence[Run], naive: str) -> Table:
    """Seconds a step, and their ratio to the naive method's in the same panel.

    Args:
        runs: those whose time is not known are left out.
        naive: name of the method to compare with.

    Returns:
        The table: medians; ratios within repetitions.
    """
    each = {
        (run.method, run.panel, run.repetition): run.seconds / run.steps for run in runs if run.seconds and run.steps
    }
    lines = []
    for method in dict.fromkeys(method for method, _, _ in each):
        times = [seconds for (name, _, _), seconds in each.items() if name == method]
        ratios = [
            seconds / each[naive, panel, repetition]
            for (name, panel, repetition), seconds in each.items()
            if name == method and (naive, panel, repetition) in each
        ]
        texts = [f"{1000 * statistics.median(times):.1f}", str(len(times))]
        texts.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else NONE)
        lines.append(Line((method,), tuple(Cell(text) for text in texts)))
    return Table(("method",), ("ms a step", "runs", "ratio to naive (lowest to highest)"), tuple(lines))


def _panels(runs: Sequence[Run]) -> tuple[Any, dict[str, Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(run.panel for run in runs))
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(max(7.0, 4.8 * columns), 4.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    every = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in every[len(names) :]:
        spare.set_visible(False)
    return figure, dict(zip(names, every, strict=False))


def _averaged(curves: Iterable[Iterable[tuple[int, float | None]]]) -> tuple[list[int], list[float]]:
    """Steps that any curve has, and the mean of what the curves have there."""
    values: dict[int, list[float]] = {}
    for curve in curves:
        for step, value in curve:
            if value is not None:
                values.setdefault(step, []).append(value)
    steps = sorted(values)
    return steps, [statistics.fmean(values[step]) for step in steps]


def _save(figure: Any, path: Path) -> None:
    with replaced_file(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
