"""Evaluated models side by side: one table, and one figure of safety against utility."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ..errors import OGPSAError
from .files import RESULT_FILE, read_json, replaced_file


if TYPE_CHECKING:
    from matplotlib.axes import Axes


COLOURS = ("#555555", "#d1495b", "#1b7f79", "#3066be", "#b5838d", "#e09f3e", "#6a4c93", "#7a9e35")
MARKERS = ("s", "X", "o", "D", "^", "v", "P", "*")

Results = dict[str, dict[str, Any]]


def find_evaluated(folder: Path) -> list[Path]:
    """Find the models below a folder that have been evaluated.

    Args:
        folder: where models are saved.

    Returns:
        Their folders, sorted by name.
    """
    return sorted(path.parent for path in folder.glob(f"*/{RESULT_FILE}") if not path.parent.name.startswith("."))


def read_results(folders: Sequence[Path]) -> Results:
    """Read what `evaluate` wrote.

    Args:
        folders: of the models; the first is the base that the others started from.

    Returns:
        The results by the models' names, in the order given. Models of one name are told apart by their whole path.

    Raises:
        OGPSAError: a model has not been evaluated.
    """
    results: Results = {}
    for folder in dict.fromkeys(folders):
        path = folder / RESULT_FILE
        if not path.exists():
            raise OGPSAError(f"{folder} has not been evaluated: run `ogpsa lab evaluate {folder}` first.")

        unique = sum(other.name == folder.name for other in set(folders)) == 1
        results[folder.name if unique else str(folder)] = read_json(path)

    return results


def make_table(results: Results) -> Table:
    """Makes the table: a row a measure, a column a model (which fits a terminal), shares in percent.

    Args:
        results: what `read_results` returned.

    Returns:
        The table.
    """
    table = Table(title="Shares in percent; each model answers by greedy generation", title_justify="left")
    table.add_column("", no_wrap=True)
    for name in results:
        table.add_column(name, justify="right", no_wrap=True)

    def add(label: str, share: Callable[[dict[str, Any]], float]) -> None:
        table.add_row(label, *(f"{100 * share(result):.1f}" for result in results.values()))

    add("held-out harmful requests refused", lambda result: result["refused"]["harmful_held_out"])
    add("seen harmful requests refused", lambda result: result["refused"]["harmful_seen"])
    add("benign look-alikes wrongly refused", lambda result: result["refused"]["lookalike"])
    add("benign look-alikes answered right", lambda result: result["answered"]["lookalike"])
    for skill in next(iter(results.values()))["skills"]:
        add(f"skill: {skill}", lambda result, skill=skill: result["skills"][skill])  # type: ignore[misc]
    add("mean of skills", lambda result: result["skills_mean"])
    return table


def draw(results: Results, path: Path) -> None:
    """Draw safety against utility, and the utility of each skill, as a PNG file.

    Args:
        results: what `read_results` returned; the first model is the base, shown as dashed lines.
        path: the file to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 5), width_ratios=(1, 1.5), layout="constrained")
    _draw_plane(left, results)
    _draw_skills(right, results)
    # Names stand in one legend for both panels, so that points close together cannot make labels collide.
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 5), frameon=False)
    with replaced_file(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")

    pyplot.close(figure)


def _draw_plane(axes: Axes, results: Results) -> None:
    """Every model as a point: held-out harmful requests refused (x), mean accuracy of the skills (y), in percent."""
    base, *others = results.items()
    safety, utility = 100 * base[1]["refused"]["harmful_held_out"], 100 * base[1]["skills_mean"]
    axes.axhline(utility, color=COLOURS[0], linestyle="--", linewidth=1.2, label=f"{base[0]} (dashed)")
    axes.axvline(safety, color=COLOURS[0], linestyle="--", linewidth=1.2)
    for i, (name, result) in enumerate(others, start=1):
        axes.scatter(
            100 * result["refused"]["harmful_held_out"],
            100 * result["skills_mean"],
            s=90,
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            edgecolor="white",
            label=name,
            zorder=3,
        )

    utilities = [100 * result["skills_mean"] for result in results.values()]
    margin = max(1.0, 0.2 * (max(utilities) - min(utilities)))  # models that differ little still stand apart
    axes.set(
        xlim=(-4, 104),
        ylim=(min(utilities) - margin, max(utilities) + margin),
        xlabel="held-out harmful requests refused, %  (safety)",
        ylabel="mean of the skills, %  (utility; axis not from 0)",
        title="Safety versus utility: best is top right",
    )
    axes.grid(alpha=0.25)


def _draw_skills(axes: Axes, results: Results) -> None:
    """Every skill, and the benign look-alikes, as a group of bars, one bar a model; the base as dashed lines."""
    base, *others = results.values()
    skills = list(base["skills"])
    groups = [*skills, "look-alikes not refused", "look-alikes right"]
    width = 0.8 / max(1, len(others))

    def heights(result: dict[str, Any]) -> list[float]:
        shares = [result["skills"][skill] for skill in skills]
        shares += [1 - result["refused"]["lookalike"], result["answered"]["lookalike"]]
        return [100 * share for share in shares]

    for i, result in enumerate(others, start=1):
        places = [group - 0.4 + (i - 0.5) * width for group in range(len(groups))]
        axes.bar(places, heights(result), width=0.92 * width, color=COLOURS[i % len(COLOURS)], zorder=2)

    starts = [group - 0.45 for group in range(len(groups))]
    ends = [group + 0.45 for group in range(len(groups))]
    axes.hlines(heights(base), starts, ends, color=COLOURS[0], linestyle="--", linewidth=1.2, zorder=3)
    axes.set_xticks(range(len(groups)), groups, rotation=25, ha="right", rotation_mode="anchor")
    axes.set(ylim=(0, 104), ylabel="share of the questions, %", title="What is left: skills, and benign look-alikes")
    axes.grid(axis="y", alpha=0.25, zorder=0)
