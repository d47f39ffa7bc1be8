"""What training logged: the overlap of safety and reference gradients, what it does to the loss, and the time taken.

For runs of any size: those of `ogpsa lab run`, and the output folders of evaluated models.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .document import NONE, Cell, Line, Table
from .drawing import COLOURS, add_legend, new_figure, save


if TYPE_CHECKING:
    from matplotlib.axes import Axes

COS, COS_AFTER, REMOVED = "ogpsa/cos/", "ogpsa/cos_after/", "ogpsa/removed_ratio"
LEAK = "ogpsa/leak/"
OVERLAP_PICTURE, LOSS_PICTURE, LEAK_PICTURE = "overlap.png", "loss_by_overlap.png", "leak.png"
LEAK_TEXT = (
    "The leak is the cosine between the step that the optimizer really took, behind clipping, momentum, its own "
    "scaling and weight decay, and the gradient of a reference set, taken at the last refresh. What a step leaves "
    "there changes the reference loss."
)
LOSS_TEXT = (
    "The number is the share of the safety gradient's norm that the projection removes, or would remove where it is "
    "only watched, averaged over training: in the mode `orthogonal`, the overlap with the capability subspace. Where "
    "the optimizer's step is projected, it is of the step, on logged steps, and may exceed 1 in its metric. The "
    "darker a line, the larger it is. Methods differ in more than this, so it shows what goes with it, not what it "
    "causes."
)
TIME_TEXT = (
    "Of the last stage, as the Trainer logged it: on whatever machine, beside whatever else ran. Ratios are of whole "
    "runs of the same pipeline, learning rates' level and seed."
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of training.

    Args:
        method: what it is called; runs of one name are repetitions.
        pipeline: its times are compared with those of the same pipeline.
        panel: its curves are compared with those of the same panel: pipeline and learning rates.
        log: an entry a logged step, as the Trainer writes them; `step`, `loss` and `ogpsa/…`.
        seconds: of training; None where it is not known.
        steps: optimizer steps.
        repetition: what tells runs of one method and pipeline apart.
    """

    method: str
    pipeline: str
    panel: str
    log: Sequence[dict[str, Any]]
    seconds: float | None = None
    steps: int = 0
    repetition: str = ""

    @property
    def overlap(self) -> float | None:
        """Share of the gradient's norm that is removed, averaged over training; None where it is not logged."""
        found = [entry[REMOVED] for entry in self.log if REMOVED in entry]
        return statistics.fmean(found) if found else None


def mean_cosine(entry: dict[str, Any], prefix: str) -> float | None:
    """The mean over the reference sets of the cosine's size.

    Args:
        entry: of a log.
        prefix: `COS` (before the projection), `COS_AFTER` or `LEAK`.

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
    return _draw_cosines(runs, path, {COS: ("-", "before the projection"), COS_AFTER: (":", "after the projection")})


def draw_leaks(runs: Sequence[Run], path: Path) -> bool:
    """Draw the leak of the steps over training; a line a method, averaged over repetitions, on a logarithmic axis.

    Args:
        runs: those without a logged leak are left out.
        path: the file; where nothing can be drawn, an earlier one is removed.

    Returns:
        Whether there was anything to draw.
    """
    return _draw_cosines(runs, path, {LEAK: ("-", "")})


def _draw_cosines(runs: Sequence[Run], path: Path, styles: dict[str, tuple[Any, str]]) -> bool:
    """Draw sizes of cosines, by the beginning of their names a style of line and what it is called."""
    first = next(iter(styles))
    drawn = [run for run in runs if any(mean_cosine(entry, first) is not None for entry in run.log)]
    if not drawn:
        path.unlink(missing_ok=True)
        return False
    from matplotlib.lines import Line2D

    methods = list(dict.fromkeys(run.method for run in drawn))
    figure, panels = _panels(drawn)
    for panel, axes in panels.items():
        for i, method in enumerate(methods):
            group = [run for run in drawn if (run.panel, run.method) == (panel, method)]
            for prefix, (style, _) in styles.items():
                steps, values = _averaged([[(e["step"], mean_cosine(e, prefix)) for e in run.log] for run in group])
                if steps:
                    axes.plot(steps, values, linestyle=style, color=COLOURS[i % len(COLOURS)], linewidth=1.5)
        axes.set(xlabel="optimizer step", ylabel="|cosine|, mean over reference sets", title=panel)
        if first == LEAK:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=-0.01)
        axes.grid(alpha=0.25)
    handles = [Line2D([], [], color=COLOURS[i % len(COLOURS)], label=name) for i, name in enumerate(methods)]
    handles += [
        Line2D([], [], color="#777777", linestyle=style, label=name) for style, name in styles.values() if name
    ]
    add_legend(figure, handles)
    save(figure, path)
    return True


def draw_losses(runs: Sequence[Run], path: Path) -> bool:
    """Draw the training loss, a line a method, averaged over repetitions and coloured by the share that is removed.

    Args:
        runs: those without a logged overlap are left out, as is a panel with fewer than two methods.
        path: the file; where nothing can be drawn, an earlier one is removed.

    Returns:
        Whether there was anything to draw.
    """
    known = [run for run in runs if run.overlap is not None]
    drawn = [run for run in known if len({each.method for each in known if each.panel == run.panel}) > 1]
    if not drawn:
        path.unlink(missing_ok=True)
        return False
    from matplotlib import colormaps

    figure, panels = _panels(drawn, width=6.6)
    for panel, axes in panels.items():
        groups = {run.method: [r for r in drawn if (r.panel, r.method) == (panel, run.method)] for run in drawn}
        overlaps = {name: statistics.fmean(r.overlap or 0.0 for r in group) for name, group in groups.items() if group}
        largest = max(overlaps.values()) or 1.0
        for name, overlap in sorted(overlaps.items(), key=lambda each: each[1]):
            steps, losses = _averaged([[(e["step"], e.get("loss")) for e in run.log] for run in groups[name]])
            colour = colormaps["viridis_r"](0.1 + 0.9 * overlap / largest)
            axes.plot(steps, losses, color=colour, linewidth=1.5, label=f"{overlap:.2f}  {name}")
        axes.set(xlabel="optimizer step", ylabel="training loss, nats", title=panel, yscale="log")
        axes.legend(
            frameon=False, fontsize=7, title="share removed, method", title_fontsize=7,
            loc="upper left", bbox_to_anchor=(1.01, 1.0),
        )  # fmt: skip
        axes.grid(alpha=0.25)
    save(figure, path)
    return True


def overhead_table(runs: Sequence[Run], naive: str) -> Table:
    """Time of training by pipeline and method: milliseconds a step, and the whole run over the naive method's.

    Args:
        runs: those whose time is not known are left out.
        naive: name of the method to compare with.

    Returns:
        The table: medians; ratios within repetitions.
    """
    timed = [run for run in runs if run.seconds and run.steps]
    whole = {(run.pipeline, run.repetition): run.seconds or 0.0 for run in timed if run.method == naive}
    lines = []
    for pipeline, method in dict.fromkeys((run.pipeline, run.method) for run in timed):
        group = [run for run in timed if (run.pipeline, run.method) == (pipeline, method)]
        times = [1000 * (run.seconds or 0.0) / run.steps for run in group]
        ratios = [
            (run.seconds or 0.0) / whole[pipeline, run.repetition]
            for run in group
            if (pipeline, run.repetition) in whole
        ]
        texts = [f"{statistics.median(times):.1f}", str(len(times))]
        texts.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else NONE)
        lines.append(Line((pipeline, method), tuple(Cell(text) for text in texts)))
    return Table(("pipeline", "method"), ("ms a step", "runs", "run over naive (lowest to highest)"), tuple(lines))


def _panels(runs: Sequence[Run], width: float = 4.8) -> tuple[Any, dict[str, Axes]]:
    names = list(dict.fromkeys(run.panel for run in runs))
    columns = min(3, len(names))
    figure, panels = new_figure(-(-len(names) // columns), columns, width=width, height=4.2)
    every = list(panels.flat)
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
