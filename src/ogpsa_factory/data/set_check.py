"""The check of one registered set: its entry, its file and every row."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import OGPSAError
from .add import ROLE_KEY
from .examples import Example, read_example
from .findings import ERROR, NOTE, WARNING, Findings
from .layouts import Layout, layout_of
from .records import SUFFIXES, Row, Unreadable, scan_rows
from .refusals.verdict import refuses
from .registry import Registry
from .targets import REFERENCE, Use


_HUBS = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
_KEYS = (*_HUBS, "file_name", "formatting", "ranking", "subset", "split", "folder", "num_samples", "columns", "tags")
_FEW = 20  # rows below which a reference gradient is mostly noise


@dataclass
class SetReport:
    """What is known of one set in one role.

    Attributes:
        use: which set, in which role.
        rows: how many could be read.
        longest: most tokens of a row; None where they were not counted.
        layout: where prompts and answers are; None where that is not clear.
        findings: everything there is to say.
    """

    use: Use
    rows: int = 0
    longest: int | None = None
    layout: Layout | None = None
    findings: Findings = field(default_factory=Findings)


Visitor = Callable[[SetReport, str, Example], None]


def check_set(registry: Registry, use: Use, visit: Visitor, *, outside: bool = False) -> SetReport:
    """Check a set.

    Args:
        registry: where it is registered.
        use: which set, in which role.
        visit: called with every row that is in order and its place, to find more than one row tells.
        outside: whether its file may lie outside of the data folder.

    Returns:
        What was found; mistakes in the data are findings, too.
    """
    report = SetReport(use)
    try:
        entry = registry.entry(use.name)
        _check_keys(report, entry)
        report.layout = layout_of(entry)
        _check_stage(report, report.layout)
        hub = next((key for key in _HUBS if key in entry), None)
        if hub and "file_name" not in entry:
            report.findings.add(NOTE, f"it comes from elsewhere ({hub}: {entry[hub]}) and was not read")
            return report
        _check_rows(report, report.layout, entry, registry.file_of(use.name, outside=outside), visit)
    except OGPSAError as error:
        report.findings.add(ERROR, str(error))
    return report


def _check_keys(report: SetReport, entry: Mapping[str, Any]) -> None:
    for key in entry:
        if key not in _KEYS and key != ROLE_KEY:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            hint = f"; {near[0]} is meant?" if near else ""
            report.findings.add(WARNING, f"LLaMA-Factory does not know the key {key} in its entry{hint}")


def _check_stage(report: SetReport, layout: Layout) -> None:
    stage, name = report.use.stage, report.use.name
    if stage is None or report.use.role == REFERENCE:
        return
    if layout.ranking != (stage in ("dpo", "rm")):
        wanted = "needs pairs (ranking: true)" if stage in ("dpo", "rm") else "takes answers, not pairs"
        report.findings.add(ERROR, f"stage {stage} {wanted}, and {name} is registered the other way")
    if (stage == "kto") != bool(layout.columns.get("kto_tag")) and stage in ("kto", "sft"):
        wanted = "needs labels (kto_tag in columns)" if stage == "kto" else "would train on answers labelled as bad"
        report.findings.add(ERROR, f"stage {stage} {wanted}, see {name}")


def _check_rows(report: SetReport, layout: Layout, entry: Mapping[str, Any], path: Path, visit: Visitor) -> None:
    findings = report.findings
    duplicates = _Duplicates()
    columns: dict[str, None] = {}
    not_numbers: set[str] = set()
    for row in _scan(path, findings):
        report.rows += 1
        columns.update(dict.fromkeys(map(str, row.value)))
        not_numbers.update(name for name in layout.named_columns() if not _reads_as_number(row.value.get(name)))
        example = read_example(row.value, layout)
        for what in example.errors:
            findings.add(ERROR, what, row.place)
        for what in example.problems:
            findings.add(WARNING, what, row.place)
        if example.errors or example.problems:
            continue
        if again := duplicates.seen(example):
            findings.add(*again, row.place)
        if entry.get(ROLE_KEY) == "safety" and example.answers and not refuses(example.answers[0]):
            findings.add(WARNING, "the answer of a safety set does not read like a refusal", row.place)
        visit(report, row.place, example)
    if not report.rows:
        findings.add(ERROR, f"{path} has no rows")
        return
    missing = [name for name in layout.named_columns() if name not in columns]
    if missing:
        found = ", ".join(list(columns)[:20])
        findings.add(ERROR, f"{path} has no column {', '.join(missing)}; it has {found}")
    if path.suffix.lower() == ".csv":
        for name in layout.named_columns():
            if name in columns and name not in not_numbers:
                findings.add(
                    ERROR, f"`datasets` reads column {name} of this CSV as numbers; `ogpsa data add` mends it"
                )
    if report.use.role == REFERENCE and report.rows < _FEW:
        findings.add(WARNING, f"a reference gradient of {report.rows} rows is noisy; the paper takes 200")


def _scan(path: Path, findings: Findings) -> Iterator[Row]:
    """The rows of a file, or of all files of a folder; what cannot be read is a finding."""
    files = [each for each in sorted(path.iterdir()) if each.is_file()] if path.is_dir() else [path]
    suffixes = {each.suffix.lower() for each in files}
    if len(suffixes) != 1:
        found = ", ".join(sorted(suffixes)) or "no files"
        findings.add(ERROR, f"all files of the folder {path} must be of one kind, and it has {found}")
        return
    if suffixes == {".arrow"}:
        findings.add(NOTE, "Arrow files are not read here")
        return
    if not suffixes <= set(SUFFIXES):
        findings.add(ERROR, f"{path}: LLaMA-Factory reads {', '.join(SUFFIXES)} and .arrow")
        return
    for each in files:
        prefix = f"{each.name}, " if path.is_dir() else ""
        for item in scan_rows(each):
            if isinstance(item, Unreadable):
                findings.add(ERROR, "rows that cannot be read", f"{prefix}{item.place}: {item.problem}")
            else:
                yield Row(prefix + item.place, item.value)


def _reads_as_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return isinstance(value, str)


class _Duplicates:
    """Remembers rows by hashes of 64 bits."""

    def __init__(self) -> None:
        self._rows: set[bytes] = set()
        self._prompts: set[bytes] = set()

    def seen(self, example: Example) -> tuple[str, str] | None:
        """Whether a row was there before, whole or its prompt alone: how bad that is, and the words for it."""
        turns = "\0".join(map(str.strip, [example.system, *example.turns]))
        prompt, row = _digest(turns), _digest("\0\0".join([turns, *map(str.strip, example.answers)]))
        if row in self._rows:
            return WARNING, "the same prompt and answer are there before"
        known = prompt in self._prompts
        self._rows.add(row)
        self._prompts.add(prompt)
        return (NOTE, "the same prompt is there before, answered otherwise") if known else None


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()
