"""What a comparison of methods comes to, in sentences that follow from its tables."""

from __future__ import annotations

from collections.abc import Iterator

from .comparisons import compared_areas, p_text
from .fronts import areas_without_a_level, chosen, is_safe
from .statistics import LEVEL
from .study import MEASURES, Cell, Study
from .tables import NAIVE, pipeline_title, rates_text


_AREAS = {"utility": "skills", "lookalikes": "look-alikes answered right"}


def summary(study: Study) -> Iterator[str]:
    """Say what naive training costs, whose fronts differ from naive's, and what of it is left where models are safe.

    Args:
        study: a grid with the method `naive`.

    Yields:
        A sentence or two a pipeline and kind of front.
    """
    for pipeline in study.record["pipelines"]:
        cells = study.of(pipeline, NAIVE)
        if not cells:
            continue
        title = pipeline_title(pipeline)
        yield f"{title}: {_cost(cells)}"
        versus, corrected = compared_areas(study, pipeline)
        for measure, text in _AREAS.items():
            where = f"{title}, area under the front of safety and {text}:"
            if not any(of == measure for _, of in corrected):
                yield f"{where} not tested, for want of seeds or of levels."
                continue
            clear = [method for (method, of), p in corrected.items() if of == measure and p < 1 - LEVEL]
            if not clear:
                yield f"{where} no difference from naive is significant."
            for method in clear:
                found = versus[method, measure]
                mean = 0.0 if found is None else found.mean
                own, theirs = chosen(study.of(pipeline, method)), chosen(cells)
                without = areas_without_a_level(study, study.of(pipeline, method), measure)
                p = p_text(corrected[method, measure])
                yield (
                    f"{where} {study.methods[method]} {mean:+.1f} from naive (p {p}); without one of its levels the "
                    f"area is {min(without):.1f} at the least. Where they are safe (Table 1), {MEASURES[measure][0]}: "
                    f"{own.mean(measure):.1f}%, naive {theirs.mean(measure):.1f}%."
                )


def _cost(cells: list[Cell]) -> str:
    """What naive training costs where it is safe, and at the worst level."""
    stands, worst = chosen(cells), max(cells, key=lambda cell: cell.mean("tax"))
    text = f"naive training costs {stands.mean('tax'):.1f} points of the skills at {rates_text(stands)}"
    text += f", where it refuses {stands.mean('safety'):.1f}% of the held-out harmful requests"
    text += "" if is_safe(stands) else " (no level is safe)"
    return text + ("." if worst is stands else f"; and {worst.mean('tax'):.1f} at {rates_text(worst)}.")
