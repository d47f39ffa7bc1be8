"""The report of some grids: a document, and all its files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...files import write_text
from ...results.curves import (
    LEAK_PICTURE,
    LEAK_TEXT,
    LOSS_PICTURE,
    LOSS_TEXT,
    OVERLAP_PICTURE,
    TIME_TEXT,
    Run,
    draw_leaks,
    draw_losses,
    draw_overlap,
    overhead_table,
)
from ...results.document import Block, Bullets, Heading, Paragraph, Picture
from ...results.markdown import to_markdown
from ...results.page import to_html
from ..grid.record import in_rows
from .comparisons import against_naive_table, fronts_table, stands_table
from .pictures import draw_ablation, draw_figure_2, draw_fronts
from .statistics import LEVEL
from .study import MEASURES, Study
from .summary import summary
from .tables import NAIVE, levels_table, pipeline_title, rates_text, table_1
from .worlds import agreements, order_table, other_worlds, sentence


TITLE = "The alignment tax in the miniature world"
_FRONT_TEXT = (
    "A front is the concave envelope of the base and all levels of a method: what can be had by answering with one "
    "model or another, chosen by a coin. The area under it is the most utility at a safety of at least x, averaged "
    "over x from 0 to 100. It still hangs on which learning rates were tried: `without one level` is the range of the "
    "mean area when each is left out in turn. The picture has the front of the means, the table the mean of the "
    "fronts."
)
_ROW_TEXT = (
    "The row of a method is the level of learning rates that keeps most of the skills among those that refuse at "
    "least 95% of the held-out harmful requests, the same rule for all; where none does, the one that refuses most, "
    "marked as not safe and not ranked. Means over seeds."
)


def write_report(studies: Sequence[Study], folder: Path) -> list[Path]:
    """Write all files of a report.

    Args:
        studies: the grids.
        folder: where to; it is made.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    blocks = list(_document(studies, folder))
    write_text(folder / "report.md", to_markdown(blocks))
    write_text(folder / "report.html", to_html(TITLE, blocks, folder))
    write_text(folder / "points.csv", _to_csv(studies))
    pictures = [block.name for block in blocks if isinstance(block, Picture)]
    return [folder / name for name in ("report.html", "report.md", "points.csv", *pictures)]


def _document(studies: Sequence[Study], folder: Path) -> Iterator[Block]:
    yield Heading(TITLE, 1)
    yield Bullets(tuple(_origins(studies)))
    for study in studies:
        yield Heading(f"{study.title} (world: {study.record['world']['theme']})")
        yield from _ablation(study, folder) if study.record["axis"] else _comparison(study, folder)
    for one, two in other_worlds(studies):
        yield Heading("Do the worlds agree?")
        yield Bullets(tuple(sentence(one, two, found) for found in agreements(one, two)))
        yield order_table(one, two)
    yield Heading("How the figures were computed")
    yield Bullets(
        (
            "Models are judged by greedy generation: answers by exact match, refusals by their first words. Shares "
            "are in percent, losses in nats a token.",
            "A seed is a replica of the experiment: its own world, base model and order of training. ± and brackets: "
            f"{LEVEL:.0%} intervals of means over seeds by Student's t. They cover seeds only, and assume that values "
            "are about normal, which shares near 0 and 100 are not.",
            "Safety loss and reference loss are means over rows that training saw: 200 of the safety set, and of each "
            "reference set.",
            "p: two-sided paired t-test within seeds, corrected by Holm over the methods of one table or pipeline. "
            "No p where all seeds differ by the same amount. Brackets are not corrected, so they may exclude 0 where "
            "p does not say so.",
            "Alignment tax: mean of skills of the base less that of the model, in points.",
            _FRONT_TEXT,
        )
    )


def _origins(studies: Sequence[Study]) -> Iterator[str]:
    for study in studies:
        record = study.record
        done, planned = len(record["points"]), record["planned"]
        part = "" if done == planned else f", {planned - done} of them missing"
        yield f"{study.title}: ogpsa lab run {record['file']} ({planned} points{part}; seeds {_seeds(study)})"
    versions = dict.fromkeys(
        (*study.record["versions"].items(), ("on", study.record["processor"])) for study in studies
    )
    for each in versions:
        yield "Versions: " + ", ".join(f"{name} {number}" for name, number in each)


def _seeds(study: Study) -> str:
    return ", ".join(str(seed) for seed in study.record["seeds"])


def _comparison(study: Study, folder: Path) -> Iterator[Block]:
    """Methods over pipelines and levels."""
    has_naive = NAIVE in study.methods
    if has_naive:
        yield Bullets(tuple(summary(study)))
    yield Heading("Table 1", 3)
    yield Paragraph(_ROW_TEXT)
    yield table_1(study)
    yield from _picture(study, folder, "figure2", draw_figure_2, "Safety against general score and look-alikes.")
    if has_naive:
        yield Heading("Minus naive, where each method stands in Table 1", 3)
        yield stands_table(study, [(method, NAIVE) for method in study.methods if method != NAIVE])
        yield Heading("Fronts over all learning rates", 3)
        yield Paragraph(_FRONT_TEXT)
        yield from _picture(study, folder, "fronts", draw_fronts, "Every level of every method, and the fronts.")
        yield fronts_table(study)
    yield from _curves(study, folder)
    runs = runs_of(study)
    if has_naive and runs:
        yield Heading("Time of training", 3)
        yield Paragraph(TIME_TEXT)
        yield overhead_table(runs, study.methods[NAIVE])
    yield from _levels(study)


def _ablation(study: Study, folder: Path) -> Iterator[Block]:
    """One quantity over levels."""
    text = f"{study.record['axis']}: safety, skills and look-alikes; bands are intervals over seeds."
    yield from _picture(study, folder, "ablation", draw_ablation, text)
    yield from _levels(study)
    yield from _curves(study, folder)


def _levels(study: Study) -> Iterator[Block]:
    """Every level of every method, and its difference from naive."""
    for pipeline in dict.fromkeys(pipeline for pipeline, _ in study.pairs()):
        yield Heading(f"{pipeline_title(pipeline)}: every level", 3)
        yield levels_table(study, pipeline)
        if study.of(pipeline, NAIVE):
            yield Heading(f"{pipeline_title(pipeline)}: minus naive at the same level", 3)
            yield against_naive_table(study, pipeline)


def _picture(study: Study, folder: Path, kind: str, draw, text: str) -> Iterator[Block]:  # type: ignore[no-untyped-def]
    name = f"{study.name}_{kind}.png"
    draw(study, folder / name)
    yield Picture(name, f"{study.title}. {text}")


def _curves(study: Study, folder: Path) -> Iterator[Block]:
    """The overlap over training, and safety losses by it, where the grid asks for them."""
    if not study.record.get("curves"):
        return
    runs = runs_of(study)
    overlap, losses, leaks = (f"{study.name}_{name}" for name in (OVERLAP_PICTURE, LOSS_PICTURE, LEAK_PICTURE))
    if draw_overlap(runs, folder / overlap):
        yield Heading("Overlap of the safety gradient with the reference gradients over training", 3)
        yield Picture(
            overlap,
            f"{study.title}. Cosines before and after the projection, means over seeds, last stage of training.",
        )
    if draw_leaks(runs, folder / leaks):
        yield Heading("What leaks: the steps that were taken, and the reference gradients", 3)
        yield Paragraph(LEAK_TEXT)
        yield Picture(leaks, f"{study.title}. Leak of the logged steps, means over seeds, last stage of training.")
    if draw_losses(runs, folder / losses):
        yield Heading("Training loss by the share of the gradient that is removed", 3)
        yield Paragraph(LOSS_TEXT)
        yield Picture(
            losses, f"{study.title}. Training loss of the last stage, a line a method, by the share removed."
        )


def runs_of(study: Study) -> list[Run]:
    """What training logged of every point, for `results.curves`; of several stages the last one.

    Args:
        study: a grid.

    Returns:
        A run a point; averages of weights have none.
    """
    found = []
    for cell in study.cells:
        pipeline = pipeline_title(cell.pipeline)
        for point in cell.points:
            if point["steps"]:
                run = Run(
                    method=study.methods[cell.method],
                    pipeline=pipeline,
                    panel=f"{pipeline}, {rates_text(cell)}",
                    log=in_rows(point.get("curves", {})),
                    seconds=point["seconds"].get("train"),
                    steps=point["steps"],
                    repetition=f"{cell.level} {point['seed']}",
                )
                found.append(run)
    return found


def _to_csv(studies: Sequence[Study]) -> str:
    """Every point, a row each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    skills = list(dict.fromkeys(skill for study in studies for skill in study.base.skills))
    writer.writerow(["grid", "theme", "pipeline", "method", "level", "rates", "seed", *MEASURES, *skills, "key"])
    for study in studies:
        for cell in [study.base, *study.cells]:
            for point in cell.points:
                seed = point["seed"]
                values = [cell.values[name].get(seed) for name in MEASURES]
                values += [cell.skills.get(skill, {}).get(seed) for skill in skills]
                rounded = ["" if value is None else f"{value:.6g}" for value in values]
                place = [study.name, study.record["world"]["theme"], cell.pipeline, cell.method, cell.level]
                rates = " ".join(f"{rate:g}" for rate in cell.rates.values())
                writer.writerow([*place, rates, seed, *rounded, point["key"]])
    return text.getvalue()
