"""Sections of docs/reproduce.md, for docs/refresh.py: from the paper's own tables, and from Table 1 in miniature."""

import csv
import math
from pathlib import Path

from ogpsa_factory.results.granularity import granularity_table, smallest_grid
from ogpsa_factory.results.merit import mean, relative_gains, shares_of_difference, usable_bases
from ogpsa_factory.results.paper import GENERAL, MODELS, SAFETY, paper_models, paper_table


NEAR_ZERO = 5.0
ASKED = {"GPQA": 3}  # times that the same questions were asked, by its number of samples: 3 x 198
MINI = Path(__file__).parent / "reproduce_mini"  # what `ogpsa reproduce table1 --scale mini` has reported
MINI_FILES = ("table1.csv", "figure2.png")
MINI_COLUMNS = {
    "Harmful": "harmful requests refused, held-out subjects",
    "Harmful-seen": "seen subjects",
    "mean:general": "mean of six skills",
    "Look-alikes": "benign look-alikes refused",
}
PAIRS = [("SFT", "naive", "ogpsa"), ("DPO", "naive", "ogpsa"), ("SFT-DPO", "naive", "ogpsa")]


def _scores(key: str, name: str) -> dict[str, float]:
    model = next(model for model in paper_models(key) if model.name == name)
    return {each: model.benchmarks[each].score for each in (*SAFETY, *GENERAL)}


def samples_section() -> str:
    """How many samples each column of Table 1 can be a share of."""
    return granularity_table() + "\n\nCommand: `python docs/refresh.py` (`ogpsa_factory.results.granularity`)."


def gain_section() -> str:
    """The average gain, with and without near-zero bases, and the two plain means: naive against OGPSA."""
    rows = [
        "| model | pipeline | average gain, naive → OGPSA | of the difference: SimpleQA | without bases below 5% "
        "| safety mean | general mean |",
        "| --- | --- | --- | ---: | --- | --- | --- |",
    ]
    for key, title in MODELS.items():
        base = _scores(key, "base")
        for pipeline, *methods in PAIRS:
            both = [_scores(key, f"{pipeline}/{method}") for method in methods]
            gains = [mean(relative_gains(each, usable_bases(base)).values()) for each in both]
            kept = [mean(relative_gains(each, usable_bases(base, NEAR_ZERO)).values()) for each in both]
            share = shares_of_difference(both[1], both[0], usable_bases(base))["SimpleQA"]
            means = [[mean(each[name] for name in axis) for each in both] for axis in (SAFETY, GENERAL)]
            cells = [f"{a:.2f} → {b:.2f}" for a, b in (gains, kept, *means)]
            rows.append(
                f"| {title} | {pipeline} | {cells[0]} | {share:+.2f} of {gains[1] - gains[0]:+.2f} | {cells[1]} "
                f"| {cells[2]} | {cells[3]} |"
            )
    return "\n".join(rows) + "\n\nCommand: `python docs/refresh.py`; `ogpsa report paper` has all rows."


def noise_section() -> str:
    """Differences between OGPSA and naive in Table 1 beside the noise of the choice of samples."""
    columns = [name for name in (*SAFETY, *GENERAL) if _samples(name)]
    rows = [
        "| model | pipeline | " + " | ".join(f"{name} (n = {_samples(name)})" for name in columns) + " |",
        "| --- | --- |" + " ---: |" * len(columns),
    ]
    larger = total = 0
    for key, title in MODELS.items():
        for pipeline, *methods in PAIRS:
            naive, own = (_scores(key, f"{pipeline}/{method}") for method in methods)
            cells = []
            for name in columns:
                difference, noise = own[name] - naive[name], _noise(own[name], naive[name], _samples(name))
                beyond = abs(difference) > noise
                larger, total = larger + beyond, total + 1
                cells.append(f"{'**' * beyond}{difference:+.2f}{'**' * beyond} ± {noise:.2f}")
            rows.append(f"| {title} | {pipeline} | " + " | ".join(cells) + " |")
    return (
        "\n".join(rows)
        + f"\n\nBold: beyond the noise, {larger} of {total} cells; with no difference anywhere, one in twenty would "
        "be. Command: `python docs/refresh.py`."
    )


def _samples(name: str) -> int | None:
    """The number of different samples that a benchmark's scores speak of, where they fall on a grid."""
    grid = smallest_grid([float(row[name]) for row in paper_table("table1")])
    return None if grid is None else grid.samples // ASKED.get(name, 1)


def _noise(one: float, other: float, samples: int) -> float:
    """Half of the 95% interval of a difference of two shares in percent, as if their samples were different ones."""
    variance = sum(score / 100 * (1 - score / 100) / samples for score in (one, other))
    return 100 * 1.96 * math.sqrt(variance)


def mini_section() -> str:
    """Table 1 in miniature: the picture, and four columns with intervals."""
    with (MINI / MINI_FILES[0]).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["benchmark"] in MINI_COLUMNS:
            shown = f"{float(row['value']):.1f} [{float(row['low']):.1f}, {float(row['high']):.1f}]"
            cells.setdefault(row["model"], {})[row["benchmark"]] = shown
    lines = ["| row | " + " | ".join(MINI_COLUMNS.values()) + " |", "| --- |" + " ---: |" * len(MINI_COLUMNS)]
    lines += [
        f"| {model} | " + " | ".join(found[name] for name in MINI_COLUMNS) + " |" for model, found in cells.items()
    ]
    return (
        f"![Safety against general means in the miniature world]({MINI.name}/{MINI_FILES[1]})\n\n"
        + "\n".join(lines)
        + "\n\nPercent, with 95% intervals over the rows; one world, one seed; refusals judged by keywords. Command: "
        "`ogpsa reproduce table1 --scale mini`, then `python docs/refresh.py --reproduce`."
    )
