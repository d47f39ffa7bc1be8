"""Draw the figure of docs/method.md, to scale, and write the table under it: all computed by the page's formulas.

python docs/method.py
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.patches import Ellipse

from ogpsa_factory.files import replaced_file
from ogpsa_factory.results.drawing import COLOURS, new_figure, save


PAGE = Path(__file__).resolve().with_suffix(".md")
PICTURE = PAGE.with_suffix(".png")
GRADIENT = np.array([-3.0, 2.0])  # of the safety loss, g
REFERENCE = np.array([1.0, 1.0])  # of the reference loss, g_1
METRIC = np.diag([1.0, 4.0])  # of the optimizer, D
BASIS = (REFERENCE / np.linalg.norm(REFERENCE))[:, None]  # U
RED, TEAL, BLUE, AMBER = COLOURS[:4]
GREY = "#555555"


def project(step: np.ndarray, metric: np.ndarray) -> np.ndarray:
    """Return the nearest step in a metric that leaves the reference loss as it is, to first order.

    Args:
        step: d.
        metric: D, positive definite.

    Returns:
        d - D^-1 U (U^T D^-1 U)^+ U^T d.
    """
    along = np.linalg.inv(metric) @ BASIS
    removed: np.ndarray = along @ np.linalg.pinv(BASIS.T @ along) @ BASIS.T @ step
    return step - removed


def steps() -> dict[str, np.ndarray]:
    """Return the step of the optimizer, with nothing projected and with each value of ogpsa_project."""
    identity = np.eye(2)
    raw = -np.linalg.solve(METRIC, GRADIENT)
    return {
        "nothing": raw,
        "gradient": -np.linalg.solve(METRIC, project(GRADIENT, identity)),
        "update": project(raw, identity),
        "preconditioned": project(raw, METRIC),
    }


def table() -> str:
    """Return the page's table: steps, first-order changes of both losses, leak, the optimizer's model."""
    head = [
        "what is projected",
        "step $d$",
        r"reference $\langle g_1,d\rangle$",
        "leak",
        r"safety $\langle g,d\rangle$",
        r"$\langle g,d\rangle+\tfrac12\lVert d\rVert_D^2$",
    ]
    rows = [f"| {' | '.join(head)} |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for name, step in steps().items():
        leak = REFERENCE @ step / np.linalg.norm(REFERENCE) / np.linalg.norm(step)
        model = GRADIENT @ step + step @ METRIC @ step / 2
        figures = [REFERENCE @ step, leak, GRADIENT @ step, model]
        cells = [name, f"({step[0]:g}, {step[1]:g})", *(f"{figure + 0.0:.4g}" for figure in figures)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def write_table() -> None:
    """Write the page's table anew."""
    text, count = re.subn(
        r"(<!-- example -->\n).*?(<!-- /example -->)",
        lambda match: f"{match[1]}{table()}\n{match[2]}",
        PAGE.read_text(encoding="utf-8"),
        flags=re.S,
    )
    if count != 1:
        raise SystemExit(f"{PAGE} must have the marks <!-- example --> and <!-- /example --> once.")
    with replaced_file(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")


def draw_plane(axes: Any, title: str) -> None:
    """Draw what both panels share: the constraint, the side on which the reference loss rises, and its gradient.

    Args:
        axes: of matplotlib.
        title: of the panel.
    """
    ends = np.array([-4.0, 8.0])
    axes.fill_between(ends, -ends, 8.0, color=RED, alpha=0.07, linewidth=0)
    axes.plot(ends, -ends, color="black", linewidth=1.3)
    axes.annotate("", REFERENCE * 0.85, (0, 0), arrowprops={"arrowstyle": "-|>", "color": GREY, "linewidth": 1.4})
    axes.text(0.98, 0.82, "$g_1$", color=GREY, fontsize=12)
    axes.text(2.18, -2.42, "$S^\\perp$", fontsize=12, ha="right")
    axes.text(5.25, 1.42, "the reference loss rises", color=RED, fontsize=9, ha="right", va="top")
    axes.text(-0.55, -2.42, "the reference loss falls", color=GREY, fontsize=9)
    axes.plot(0, 0, marker="o", color="black", markersize=4)
    axes.text(-0.14, -0.08, "$\\theta$", fontsize=12, ha="right", va="top")
    axes.set(xlim=(-0.7, 5.4), ylim=(-2.6, 1.55), aspect="equal", xlabel="first weight", ylabel="second weight")
    axes.set_title(title, fontsize=11)


def draw_step(axes: Any, step: np.ndarray, name: str, colour: str, place: tuple[float, float], align: str) -> None:
    """Draw one step from the origin, and its name.

    Args:
        axes: of matplotlib.
        step: where it ends.
        name: the label.
        colour: of both.
        place: of the label.
        align: the label's horizontal alignment.
    """
    axes.annotate("", step, (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 2, "shrinkB": 0})
    axes.text(*place, name, color=colour, fontsize=10, ha=align, va="center")


def draw_distance(axes: Any, centre: np.ndarray, metric: np.ndarray, nearest: np.ndarray) -> None:
    """Draw the points that are as far from a step as the nearest one on the constraint, and the way to that one.

    Args:
        axes: of matplotlib.
        centre: the step.
        metric: a diagonal one, in which distances are measured.
        nearest: the nearest step on the constraint.
    """
    away = nearest - centre
    distance = np.sqrt(away @ metric @ away)
    width, height = 2 * distance / np.sqrt(metric.diagonal())
    axes.add_patch(Ellipse(centre, width, height, fill=False, edgecolor=GREY, linestyle="--", linewidth=1))
    axes.plot(*np.stack([centre, nearest]).T, color=GREY, linewidth=1, linestyle=":")


def draw() -> None:
    """Write the figure."""
    made = steps()
    figure, panels = new_figure(1, 2, width=5.6, height=4.3)
    left, right = panels[0]

    draw_plane(left, "Lengths as they are: $D = I$")
    draw_distance(left, made["nothing"], np.eye(2), made["update"])
    draw_step(left, made["nothing"], "$d$, the raw step", GREY, (3.12, -0.4), "left")
    draw_step(left, made["update"], "update", TEAL, (1.6, -1.95), "right")

    draw_plane(right, "The optimizer's metric: $D = \\mathrm{diag}(1, 4)$")
    draw_distance(right, made["nothing"], METRIC, made["preconditioned"])
    draw_step(right, made["nothing"], "$d$, the raw step", GREY, (3.12, -0.4), "left")
    draw_step(right, made["gradient"], "gradient: off the line", RED, (2.6, -0.78), "left")
    draw_step(right, made["preconditioned"], "preconditioned", BLUE, (0.85, -1.2), "right")
    right.plot(*made["update"], marker="o", color=TEAL, markersize=5)
    right.text(1.9, -1.72, "update", color=TEAL, fontsize=10, va="center")
    save(figure, PICTURE)


if __name__ == "__main__":
    draw()
    write_table()
