"""The report as a document, and all its files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import write_json, write_text
from .analysis import Analysis, Settings
from .curves import (
    LEAK_PICTURE,
    LEAK_TEXT,
    LOSS_PICTURE,
    LOSS_TEXT,
    OVERLAP_PICTURE,
    TIME_TEXT,
    draw_leaks,
    draw_losses,
    draw_overlap,
    overhead_table,
)
from .document import Block, Bullets, Heading, Paragraph, Picture
from .figures import to_csv, to_json
from .findings import difference_table, mean_difference_table, sentence
from .markdown import to_markdown
from .models import LABELS
from .page import to_html
from .picture import DESCRIPTION, draw
from .picture import NAME as PICTURE
from .record import benchmarks_table, counts_table, details, extra_table, models_table
from .remarks import remarks
from .statistics import LEVEL
from .tables import blocks, gain_table, intervals_table, main_table, shares_table
from .training import training_runs


@dataclass(frozen=True)
class Report:
    """What is reported: families of models, which of them are drawn, and the paper's figures beside the first."""

    title: str
    introduction: str
    families: tuple[Analysis, ...]
    drawn: tuple[Analysis, ...]
    quoted: Analysis | None = None


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write all files of a report.

    Args:
        report: what is reported.
        folder: where to; it is made.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictured = draw(report.drawn, folder / PICTURE)
    document = list(_document(report, pictured, folder))
    write_text(folder / "report.md", to_markdown(document))
    write_text(folder / "report.html", to_html(report.title, document, folder))
    write_text(folder / "table1.csv", to_csv(report.families, report.quoted))
    write_json(folder / "report.json", to_json(report.title, report.families, report.quoted))
    pictures = [block.name for block in document if isinstance(block, Picture)]
    return [folder / name for name in ("report.md", "report.html", "table1.csv", "report.json", *pictures)]


def _document(report: Report, pictured: bool, folder: Path) -> Iterator[Block]:
    yield Heading(report.title, 1)
    yield Paragraph(report.introduction)
    for family in report.families:
        if len(report.families) > 1:
            yield Heading(family.title)
        yield from _family(family, report.quoted, 3 if len(report.families) > 1 else 2)
    yield Heading("Safety against general capabilities")
    if pictured:
        yield Picture(PICTURE, DESCRIPTION)
    else:
        yield Paragraph("No figure was drawn: no model has both a safety mean and a general mean.")
    yield from _training(report, folder)
    yield Heading("How the figures were computed")
    yield Bullets(tuple(_method(report)))


def _training(report: Report, folder: Path) -> Iterator[Block]:
    """What training logged, where the models' output folders are at hand."""
    runs = training_runs([result.model for family in report.families for result in family.results])
    if draw_overlap(runs, folder / OVERLAP_PICTURE):
        yield Heading("Overlap of the safety gradient with the reference gradients over training")
        yield Picture(OVERLAP_PICTURE, "Cosines before and after the projection, over the last stage of training.")
    if draw_leaks(runs, folder / LEAK_PICTURE):
        yield Heading("What leaks: the steps that were taken, and the reference gradients")
        yield Paragraph(LEAK_TEXT)
        yield Picture(LEAK_PICTURE, "Leak over the last stage of training, mean of sizes over reference sets.")
    if draw_losses(runs, folder / LOSS_PICTURE):
        yield Heading("Training loss by the share of the gradient that is removed")
        yield Paragraph(LOSS_TEXT)
        yield Picture(LOSS_PICTURE, "Loss over the last stage of training, a line a method, by the share removed.")
    timed = overhead_table(runs, LABELS.get(report.families[0].settings.naive, report.families[0].settings.naive))
    if timed.lines:
        yield Heading("Time of training")
        yield Paragraph(TIME_TEXT)
        yield timed


def _family(family: Analysis, quoted: Analysis | None, level: int) -> Iterator[Block]:
    notes = remarks(family)
    if notes:
        yield Heading("What to know before comparing", level)
        yield Bullets(tuple(notes))
    yield Heading("Scores in percent", level)
    yield main_table(family, quoted)
    compared = [result for result in family.results if result.versus]
    if compared:
        yield Heading("Against the naive model", level)
        yield Bullets(tuple(sentence(family, result) for result in compared))
    if any(result.intervals for result in family.everyone):
        yield Heading(f"{LEVEL:.0%} intervals of these scores", level)
        yield intervals_table(family)
    yield from _differences(family, level)
    if any(result.gain.value is not None for result in family.results):
        yield Heading("Average performance gain over the base", level)
        yield gain_table(family)
    if any(result.versus.shares for result in compared if result.versus):
        yield Heading("Where the difference in average gain from naive comes from, in points", level)
        yield shares_table(family)
    if family.named("extra"):
        yield Heading("Over-refusal and other benchmarks that are in no mean", level)
        yield extra_table(family)
    yield from details(family, level)
    if any(entry.samples is not None for result in family.everyone for entry in result.model.benchmarks.values()):
        yield Heading("What was measured", level)
        yield benchmarks_table(family)
        yield Heading("Samples that count / failed / unparsed", level)
        yield counts_table(family)
        yield Heading("Models", level)
        yield models_table(family)


def _differences(family: Analysis, level: int) -> Iterator[Block]:
    """Tests, where there were items to test; and differences of the means."""
    for block in blocks(family.results):
        table = difference_table(family, block)
        tested = [d for result in block if result.versus for d in result.versus.benchmarks.values() if d.p is not None]
        if tested:
            pipeline = block[0].model.pipeline
            yield Heading(f"{pipeline + ': differences' if pipeline else 'Differences'} from naive, in points", level)
            yield table
    if any(result.versus for result in family.results):
        yield Heading("Means less those of naive, over what both have, in points", level)
        yield mean_difference_table(family)


def _method(report: Report) -> Iterator[str]:
    settings = report.families[0].settings
    yield (
        "The safety mean and the general mean weigh every benchmark of their axis alike. A mean over fewer benchmarks "
        "than there are is marked, as in (3/4), and takes part in a ranking only among means over the same ones."
    )
    yield (
        "Gain %: the mean over the benchmarks of (score - base) / base, in percent. A base near zero makes one "
        f"benchmark rule it; so it is also given without bases below {settings.near_zero:g} percent."
    )
    yield (
        "Best in bold, second best underlined, within each pipeline and by the figures as shown. This says nothing of "
        "significance."
    )
    if _has_items(report.families):
        yield from _statistics(settings)
    else:
        yield "These scores come without their items, so there are no intervals and no tests."
    if report.quoted:
        yield "Rows marked (quoted) are the paper's own; they are in no mean, ranking or test of this report."


def _has_items(families: Sequence[Analysis]) -> bool:
    return any(result.intervals for family in families for result in family.everyone)


def _statistics(settings: Settings) -> Iterator[str]:
    yield (
        f"{LEVEL:.0%} intervals: percentile bootstrap, {settings.replicates} resamples, seed {settings.seed}; items "
        "are drawn anew within each task, and benchmarks independently of each other. For gains and differences, both "
        "models get the same items in each resample. A score of 0 or 100 has an interval without width, which is "
        "too narrow. Where the base is 0 in a resample, the gain has no interval."
    )
    yield (
        f"p: two-sided approximate randomisation, {settings.replicates} times; the outcomes of both models are "
        "swapped item by item. Only items that both have are compared, so a difference may deviate from that of the "
        "scores. p (Holm) is corrected over all benchmarks on which a model was tested. Better or worse is said only "
        f"where it is below {1 - LEVEL:.2g} and the interval is without 0."
    )
    yield (
        "Intervals and tests cover the choice of the items only. They know nothing of the luck of one training run "
        "(its seed), of sampled answers, or of a judge's mistakes."
    )
