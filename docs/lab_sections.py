"""Sections of docs/lab/README.md, for docs/refresh.py: from the records of the lab's grids."""

import shutil
import statistics
from pathlib import Path

from ogpsa_factory.lab.grid.record import find_records, read_record
from ogpsa_factory.lab.report.comparisons import fronts_table, pair_table, stands_table
from ogpsa_factory.lab.report.document import runs_of, write_report
from ogpsa_factory.lab.report.study import Study, read_study
from ogpsa_factory.lab.report.summary import summary
from ogpsa_factory.lab.report.tables import NAIVE, levels_table, pipeline_title, table_1, with_interval
from ogpsa_factory.lab.report.worlds import agreements, order_table, sentence
from ogpsa_factory.reports import in_order
from ogpsa_factory.results.curves import LEAK_TEXT, TIME_TEXT, overhead_table
from ogpsa_factory.results.document import Cell, Line, Table
from ogpsa_factory.results.markdown import table_to_markdown


LAB = Path(__file__).parent / "lab"
REPORT = LAB / "report"


def _study(name: str) -> Study:
    return read_study(LAB / f"{name}.json")


def _only(table: Table, *methods: str) -> Table:
    """The rows of some methods."""
    return Table(table.label_heads, table.heads, tuple(line for line in table.lines if line.labels[0] in methods))


def take_over(folder: Path) -> None:
    """Copy the records of finished grids in place of those that are here.

    Args:
        folder: of the lab's results.
    """
    records = find_records([folder])
    for path in records:
        record = read_record(path)
        if len(record["points"]) != record["planned"]:
            raise SystemExit(f"{path} is not whole: run `ogpsa lab run {record['file']}` first.")
    for path in records:
        shutil.copy(path, LAB / path.name)


def write_lab_report() -> None:
    """Write the page, its tables and pictures from the records."""
    write_report(in_order([read_study(path) for path in sorted(LAB.glob("*.json"))]), REPORT)


def facts_section() -> str:
    """What was run, and how long it took."""
    rows = ["| grid | points | seeds | hours of one core |", "| --- | ---: | --- | ---: |"]
    seen: set[str] = set()
    hours = 0.0
    versions: dict[str, str] = {}
    for path in sorted(LAB.glob("*.json")):
        record = read_study(path).record
        fresh = {p["key"]: p["seconds"]["all"] for p in [*record["points"], *record["bases"].values()]}
        own = sum(seconds for key, seconds in fresh.items() if key not in seen) / 3600
        seen |= set(fresh)
        hours += own
        versions = record["versions"]
        seeds = ", ".join(map(str, record["seeds"]))
        rows.append(
            f"| [`{record['file']}`](../../{record['file']}) | {len(record['points'])} | {seeds} | {own:.2f} |"
        )
    text = ", ".join(f"{name} {number}" for name, number in versions.items())
    return (
        "\n".join(rows)
        + f"\n\nTogether {hours:.1f} hours of one core (two at a time here, on a machine that had other "
        "work too); a model that two grids share is counted in the first. Command: `ogpsa lab run "
        f"examples/yaml/lab/*.yaml`. Versions: {text}."
    )


def table1_section() -> str:
    """What it comes to, Table 1 and Figure 2."""
    return (
        "\n".join(f"- {each}" for each in summary(_study("methods")))
        + "\n\n"
        + table_to_markdown(table_1(_study("methods")))
        + "\n\n![Safety against general score and look-alikes](report/methods_figure2.png)"
    )


def readme_section() -> str:
    """What the comparison of methods comes to."""
    said = "\n".join(f"- {each}" for each in summary(_study("methods")))
    command = "Command: `ogpsa lab run examples/yaml/lab/methods.yaml`."
    return f"{said}\n\n{command} p: paired t-tests over seeds, corrected by Holm."


def fronts_section() -> str:
    """All levels and the areas under the fronts."""
    return "![Fronts](report/methods_fronts.png)\n\n" + table_to_markdown(fronts_table(_study("methods")))


def tax_section() -> str:
    """What naive training costs at each learning rate."""
    study = _study("methods")
    tables = {each: _only(levels_table(study, each), study.methods[NAIVE]) for each in study.record["pipelines"]}
    return "\n\n".join(f"{pipeline_title(each)}:\n\n{table_to_markdown(table)}" for each, table in tables.items())


def pair_section(ours: str, theirs: str, name: str = "methods") -> str:
    """One method minus another."""
    study = _study(name)
    table = table_to_markdown(pair_table(study, ours, theirs))
    return f"{study.methods[ours]} minus {study.methods[theirs]}, in points:\n\n{table}"


def ablation_section(name: str) -> str:
    """Picture and table of an ablation."""
    study = _study(name)
    tables = "\n\n".join(
        f"{pipeline_title(pipeline)}:\n\n{table_to_markdown(levels_table(study, pipeline))}"
        for pipeline in study.record["pipelines"]
    )
    return f"![{study.title}](report/{name}_ablation.png)\n\n{tables}"


def overlap_section() -> str:
    """Pictures of overlap and of safety losses by it."""
    return (
        "![Cosines before and after the projection](report/overlap_overlap.png)\n\n"
        "![Training loss by overlap](report/composition_loss_by_overlap.png)"
    )


def cost_section() -> str:
    """Time of training by method."""
    study = _study("methods")
    return table_to_markdown(overhead_table(runs_of(study), study.methods[NAIVE])) + f"\n\n{TIME_TEXT}"


def _stands(name: str) -> str:
    """The methods that project the step against naive and against those that project the gradient."""
    methods = list(_study(name).methods)
    pairs = [(ours, NAIVE) for ours in methods if ours != NAIVE]
    for ours in methods:
        kind, _, form = ours.partition("_")
        theirs = f"gradient_{form}" if form else "gradient"
        if kind in ("update", "preconditioned"):
            pairs.append((ours, theirs if theirs in methods else "gradient"))
    return table_to_markdown(stands_table(_study(name), pairs))


def step_section(name: str) -> str:
    """What is projected: Table 1, its differences, the fronts."""
    study = _study(name)
    said = "\n".join(f"- {each}" for each in summary(study))
    parts = [
        said,
        table_to_markdown(table_1(study, with_skills=False)),
        "Differences where each method stands in this table, in points:",
        _stands(name),
        f"![Fronts](report/{name}_fronts.png)",
        table_to_markdown(fronts_table(study)),
    ]
    return "\n\n".join(parts)


def schedule_section() -> str:
    """Refreshing by the calendar, and where references have drifted: what either takes and keeps."""
    study = _study("adaptive")
    lines = []
    for name, title in study.methods.items():
        points = [point for point in study.record["points"] if point["method"] == name]

        def mean(kind: str, key: str, points: list = points) -> Cell:
            return Cell(with_interval([100 * point["measures"][kind][key] for point in points]))

        cells = [
            Cell(f"{statistics.mean(point['refreshes'] for point in points):.1f}"),
            mean("refused", "harmful_held_out"),
            Cell(with_interval([100 * point["measures"]["skills_mean"] for point in points])),
            mean("answered", "lookalike"),
            Cell(f"{statistics.mean(point['seconds']['run'] for point in points):.1f}"),
        ]
        lines.append(Line((title,), tuple(cells)))
    heads = ("refreshes", "harmful held-out refused", "mean of skills", "look-alikes right", "seconds")
    pairs = [("adaptive_1", "fixed_5"), ("adaptive_1", "fixed_10"), ("adaptive_3", "fixed_15")]
    pairs += [("adaptive_5", "fixed_20"), ("adaptive_8", "fixed_30"), ("adaptive_5", "fixed_10")]
    return "\n\n".join(
        (
            table_to_markdown(Table(("refresh",), heads, tuple(lines))),
            "First against every five steps, then against about as many refreshes at fixed distances, last in about "
            "the same time, in points:",
            table_to_markdown(stands_table(study, pairs)),
            "SFT at 1e-3, `ogpsa_project: update`. Command: `ogpsa lab run examples/yaml/lab/adaptive.yaml`.",
        )
    )


def leak_section() -> str:
    """What leaks, over training."""
    return f"![What leaks](report/leak_leak.png)\n\n{LEAK_TEXT}"


def readme_step_section() -> str:
    """What projecting the step comes to."""
    study = _study("step")
    titles = tuple(study.methods[name] for name in ("naive", "gradient", "update", "update_global", "preconditioned"))
    whole = table_1(study, with_skills=False)
    lines = tuple(line for line in whole.lines if line.labels[1].startswith(titles))
    table = Table(whole.label_heads, whole.heads, lines)
    command = "Command: `ogpsa lab run examples/yaml/lab/step.yaml`, at the safe level of each that keeps most skills."
    return f"{table_to_markdown(table)}\n\n{command}"


def worlds_section(first: str, second: str) -> str:
    """Whether the second world agrees."""
    one, two = _study(first), _study(second)
    said = "\n".join(f"- {sentence(one, two, found)}" for found in agreements(one, two))
    return f"{said}\n\n{table_to_markdown(order_table(one, two))}\n\nAreas under the fronts, with ranks."
