"""What a comparison of methods comes to, in sentences that follow from its tables."""

from __future__ import annotations

from collections.abc import Iterator

from .comparisons import compared_areas, p_text
from .fronts import chosen, is_safe
from .statistics import LEVEL
from .study import MEASURES, Cell, Study
from .tables import NAIVE, pipeline_title, rates_text


_AREAS = {"utility": "skills", "lookalikes": "look-alikes answered right"}


def summary(study: Study) -> Iterator[str]:
    """Say what naive training costs, and which methods' fronts differ from naive's.

    Args:
        study: a grid with the method `naive`.

    Yields:
        A sentence or two a pipeline and kind of front.
    """
    for pipeline in study.record["pipelines"]:
        title = pipeline_title(pipeline)
        cells = study.of(pipeline, NAIVE)
        if cells:
            worst = max(cells, key=lambda cell: cell.mean("tax"))
            yield (
                f"{title}: naive training costs {chosen(cells).mean('tax'):.1f} points of the skills at {_at(cells)}, "
                f"and {worst.mean('tax'):.1f} at {rates_text(worst)}."
            )
        for measure, text in _AREAS.items():
            found, corrected = compared_areas(study, pipeline)
            clear = [
                f"{study.methods[method]} {versus.mean:+.1f} (p {p_text(corrected[method, measure])})"
                for (method, of), versus in found.items()
                if of == measure and versus is not None and corrected.get((method, of), 1.0) < 1 - LEVEL
            ]
            if any(of == measure for _, of in found):
                yield (
                    f"{title}, area under the front of safety and {text}: "
                    + (f"apart from naive are {', '.join(clear)}." if clear else "no method is apart from naive.")
                )


def _at(cells: list[Cell]) -> str:
    cell = chosen(cells)
    safe = f"{cell.mean('safety'):.1f}% {MEASURES['safety'][0]}"
    return f"{rates_text(cell)} ({safe}{'' if is_safe(cell) else ', not safe'})"
