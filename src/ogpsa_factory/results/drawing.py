"""What the pictures of all reports share: colours, markers, a figure without a screen, a legend that fits."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import replaced_file


if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = (
    *("#d1495b", "#1b7f79", "#3066be", "#e09f3e", "#6a4c93", "#7a9e35"),
    *("#0b3954", "#c06e52", "#b5838d", "#00a6a6", "#8d99ae", "#f25f8b"),
)
MARKERS = ("X", "o", "D", "s", "^", "v", "P", "h", "p", "<", ">", "d")


def new_figure(rows: int, columns: int, width: float = 5.4, height: float = 4.6) -> tuple[Figure, Any]:
    """Make a figure that can measure its legend.

    Args:
        rows: of panels.
        columns: of panels.
        width: of a panel, in inches.
        height: of a panel, in inches.

    Returns:
        The figure, and an array of axes of shape `[rows, columns]`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(7.0, width * columns), height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def add_legend(figure: Figure, handles: Sequence[Any], columns: int = 5) -> None:
    """Put the names above all panels, so that points close together cannot make labels collide.

    Args:
        figure: the figure.
        handles: of matplotlib.
        columns: at most; fewer where the figure is narrow.
    """
    for count in range(columns, 0, -1):
        made = figure.legend(handles=list(handles), loc="outside upper center", ncols=count, frameon=False)
        if count == 1 or made.get_window_extent().width <= figure.bbox.width:
            return
        made.remove()


def save(figure: Figure, path: Path, dpi: int = 130) -> None:
    """Write a figure as a PNG file of 256 colours, a third of the size; reports hold their pictures.

    Args:
        figure: the figure.
        path: the file.
        dpi: dots per inch.
    """
    from PIL import Image

    with io.BytesIO() as drawn, replaced_file(path) as temporary:
        figure.savefig(drawn, dpi=dpi, format="png")
        with Image.open(drawn) as picture:
            picture.convert("RGB").quantize(256).save(temporary, format="png", optimize=True)
