"""The check of the sets of a training run: each by itself, and what they have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import OGPSAError
from .examples import Example
from .findings import ERROR, WARNING
from .lengths import LengthMeter
from .overlap import OverlapIndex
from .records import read_rows
from .registry import Registry
from .set_check import SetReport, check_set
from .targets import EVALUATION, REFERENCE, TRAINING, Target, Use


_PROMPTS = ("prompt", "instruction", "question", "forbidden_prompt", "query", "input", "text", "goal", "problem")


@dataclass
class Report:
    """What is known of the sets of one target.

    Attributes:
        where: the training file.
        sets: one report a set and role.
        notes: what concerns all of them.
    """

    where: str
    sets: list[SetReport] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def count(self, level: str) -> int:
        """Number of findings of a level, over all sets."""
        return sum(report.findings.count(level) for report in self.sets)


def check_target(target: Target, benchmarks: Sequence[str] = (), *, outside: bool = False) -> Report:
    """Check the sets of a target.

    Args:
        target: which sets, and what for.
        benchmarks: files with prompts of evaluation benchmarks, FILE or FILE:COLUMN.
        outside: whether files may lie outside of the data folder.

    Returns:
        Everything that was found.

    Raises:
        OGPSAError: the registry or a benchmark's file cannot be read.
    """
    registry = Registry(target.dataset_dir)
    report = Report(target.where)
    meter = _meter(target, report)
    indices = {REFERENCE: OverlapIndex(), EVALUATION: OverlapIndex()}
    for benchmark in benchmarks:
        for place, prompt in benchmark_prompts(benchmark):
            indices[EVALUATION].add(Path(benchmark).name, place, prompt)
    over = 0 if target.cutoff_len is None else target.cutoff_len

    def visit(found: SetReport, place: str, example: Example) -> None:
        if meter is not None:
            tokens = meter.count(example)
            found.longest = max(found.longest or 0, tokens)
            if tokens > over and found.use.stage != "pt":  # which packs texts and cuts none
                found.findings.add(WARNING, f"longer than cutoff_len: {over} tokens, so it will be cut", place)
        role = found.use.role
        against = {EVALUATION: (), REFERENCE: (EVALUATION,), TRAINING: (EVALUATION, REFERENCE)}[role]
        for other in against:
            for shared in indices[other].find(example.prompt):
                if shared.name != found.use.name:
                    where = f'{place} and {shared.place}: "{shared.words[:60].rstrip()}"'
                    found.findings.add(WARNING, f"prompts overlap with the {other} set {shared.name}", where)
        if role in indices:
            indices[role].add(found.use.name, place, example.prompt)

    order = (EVALUATION, REFERENCE, TRAINING)  # who is compared with whom
    by_use: dict[Use, SetReport] = {}
    for use in sorted(target.uses, key=lambda use: order.index(use.role)):
        by_use[use] = by_use.get(use) or check_set(registry, use, visit, outside=outside)
    report.sets = [by_use[use] for use in dict.fromkeys(target.uses)]
    _check_roles(report)
    return report


def _check_roles(report: Report) -> None:
    """Sets with the same rows, by name or by file, must not be used against each other."""

    def same(one: SetReport, other: SetReport) -> bool:
        files = one.path is not None and other.path is not None and one.path.resolve() == other.path.resolve()
        return files or one.use.name == other.use.name

    for each in report.sets:
        roles = {other.use.role for other in report.sets if same(each, other)} - {each.use.role}
        if each.use.role == TRAINING and REFERENCE in roles:
            each.findings.add(ERROR, "its rows are a reference set too: projection removes what training is to learn")
        if each.use.role != EVALUATION and EVALUATION in roles:
            each.findings.add(WARNING, f"its rows are evaluated on too, and used as {each.use.role} set")


def _meter(target: Target, report: Report) -> LengthMeter | None:
    if target.cutoff_len is None:
        return None
    if not target.model or not target.template:
        missing = "model_name_or_path" if not target.model else "template"
        report.notes.append(f"lengths were not compared with cutoff_len: there is no {missing}")
        return None
    try:
        return LengthMeter(target.model, target.template)
    except OGPSAError as error:
        report.notes.append(f"lengths were not compared with cutoff_len: {error}")
        return None


def benchmark_prompts(benchmark: str) -> Iterator[tuple[str, str]]:
    """Read the prompts of an evaluation benchmark.

    Args:
        benchmark: FILE, or FILE:COLUMN where the column is not one of the usual names.

    Yields:
        The place of each prompt and its text.

    Raises:
        OGPSAError: the file cannot be read, or has no such column.
    """
    name, _, column = benchmark.rpartition(":") if not Path(benchmark).exists() else (benchmark, "", "")
    path = Path(name or benchmark)
    for row in read_rows(path):
        if not column:
            column = next((each for each in _PROMPTS if isinstance(row.value.get(each), str)), "")
        if column not in row.value:
            found = ", ".join(map(str, row.value))
            raise OGPSAError(
                f"{path}, {row.place}: which column has the prompt? Say {path}:COLUMN; there are: {found}."
            )
        if isinstance(row.value[column], str):
            yield row.place, row.value[column]
