"""Evaluated models side by side: one table, and one figure of safety against utility."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ..errors import OGPSAError
from ..files import read_json, replaced_file
from .files import RESULT_FILE, find_folders


if TYPE_CHECKING:
    from matplotlib.axes import Axes


COLOURS = ("#555555", "#d1495b", "#1b7f79", "#3066be", "#b5838d", "#e09f3e", "#6a4c93", "#7a9e35")
MARKERS = ("s", "X", "o", "D", "^", "v", "P", "*")

Results = dict[str, dict[str, Any]]
Look = tuple[tuple[float, ...], str, int]  # colour, marker, size of the marker


def find_evaluated(folder: Path) -> list[Path]:
    """Find the models below a folder that have been evaluated.

    Args:
        folder: where models are saved.

    Returns:
        Their folders, in the order of `find_folders`.
    """
    return find_folders(folder, RESULT_FILE)


def read_results(folders: Sequence[Path]) -> Results:
    """Read what `evaluate` wrote.

    Args:
        folders: of the models; the first is the base that the others started from.

    Returns:
        The results by the models' names, in the order given. A model's name is its path from the folder that the
        base lies in, such as `naive/sft`; elsewhere it is the folder's own, or the whole path where that is taken.

    Raises:
        OGPSAError: a model has not been evaluated.
    """
    results: Results = {}
    home = folders[0].parent
    for folder in dict.fromkeys(folders):
        path = folder / RESULT_FILE
        if not path.exists():
            raise OGPSAError(f"{folder} has not been evaluated: run `ogpsa lab evaluate {folder}` first.")

        name = folder.relative_to(home).as_posix() if folder.is_relative_to(home) else folder.name
        results[str(folder) if name in results else name] = read_json(path)

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
    for name in results:  # run and stage in two lines: five models fit a terminal
        table.add_column(name.replace("/", "\n"), justify="right", no_wrap=True)

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


def _run_of(name: str) -> str:
    """The pipeline's run that a model is a stage of; a model that is none is a run of its own."""
    return name.rpartition("/")[0] or name


def _looks(results: Results) -> dict[str, Look]:
    """The look of every model but the base: colour and marker of its run, paler and larger for its earlier stages.

    Larger, so that a later stage in the same place does not hide them.
    """
    from matplotlib.colors import to_rgb

    runs: dict[str, list[str]] = {}
    for name in list(results)[1:]:
        runs.setdefault(_run_of(name), []).append(name)

    looks: dict[str, Look] = {}
    for i, stages in enumerate(runs.values(), start=1):
        red, green, blue = to_rgb(COLOURS[i % len(COLOURS)])
        for j, name in enumerate(stages, start=1):
            strength = j / len(stages)
            pale = tuple(1 - strength * (1 - part) for part in (red, green, blue))
            looks[name] = (pale, MARKERS[i % len(MARKERS)], 90 + 130 * (len(stages) - j))

    return looks


def _draw_plane(axes: Axes, results: Results) -> None:
    """Every model as a point: held-out harmful requests refused (x), mean accuracy of the skills (y), in percent.

    Arrows lead from the base through the stages of each pipeline.
    """
    base, *others = results.items()
    safety, utility = 100 * base[1]["refused"]["harmful_held_out"], 100 * base[1]["skills_mean"]
    axes.axhline(utility, color=COLOURS[0], linestyle="--", linewidth=1.2, label=f"{base[0]} (dashed)")
    axes.axvline(safety, color=COLOURS[0], linestyle="--", linewidth=1.2)
    looks = _looks(results)
    here = dict.fromkeys((_run_of(name) for name, _ in others), (safety, utility))  # where each run has got to
    for name, result in others:
        colour, marker, size = looks[name]
        point = (100 * result["refused"]["harmful_held_out"], 100 * result["skills_mean"])
        axes.scatter(*point, s=size, color=[colour], marker=marker, edgecolor="white", label=name, zorder=3)
        if "/" in name:
            arrow = {"arrowstyle": "->", "color": colour, "linewidth": 1.5, "shrinkA": 5, "shrinkB": 5}
            axes.annotate("", xy=point, xytext=here[_run_of(name)], arrowprops=arrow, zorder=2)
        here[_run_of(name)] = point

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
    colours = [colour for colour, _, _ in _looks(results).values()]
    skills = list(base["skills"])
    groups = [*skills, "look-alikes not refused", "look-alikes right"]
    width = 0.8 / max(1, len(others))

    def heights(result: dict[str, Any]) -> list[float]:
        shares = [result["skills"][skill] for skill in skills]
        shares += [1 - result["refused"]["lookalike"], result["answered"]["lookalike"]]
        return [100 * share for share in shares]

    for i, (result, colour) in enumerate(zip(others, colours, strict=True)):
        places = [group - 0.4 + (i + 0.5) * width for group in range(len(groups))]
        axes.bar(places, heights(result), width=0.92 * width, color=colour, zorder=2)

    starts = [group - 0.45 for group in range(len(groups))]
    ends = [group + 0.45 for group in range(len(groups))]
    axes.hlines(heights(base), starts, ends, color=COLOURS[0], linestyle="--", linewidth=1.2, zorder=3)
    axes.set_xticks(range(len(groups)), groups, rotation=25, ha="right", rotation_mode="anchor")
    axes.set(ylim=(0, 104), ylabel="share of the questions, %", title="What is left: skills, and benign look-alikes")
    axes.grid(axis="y", alpha=0.25, zorder=0)
