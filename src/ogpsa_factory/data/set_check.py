"""The check of one registered set: its entry, its file and every row."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import OGPSAError
from .add import reads_like_a_refusal
from .examples import Example, read_example
from .findings import ERROR, NOTE, WARNING, Findings
from .layouts import Layout, layout_of
from .loading import KINDS, file_kind, load_files
from .records import Row, Unreadable, scan_rows
from .registry import HUBS, ROLE_KEY, Registry
from .targets import REFERENCE, Use


_KEYS = (*HUBS, "file_name", "formatting", "ranking", "subset", "split", "folder", "num_samples", "columns", "tags")
_FEW = 20  # rows below which a reference gradient is mostly noise


@dataclass
class SetReport:
    """What is known of one set in one role.

    Attributes:
        use: which set, in which role.
        rows: how many could be read.
        longest: most tokens of a row; None where they were not counted.
        path: its file or folder of files; None where there is none on this machine.
        layout: where prompts and answers are; None where that is not clear.
        findings: everything there is to say.
    """

    use: Use
    rows: int = 0
    longest: int | None = None
    path: Path | None = None
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
        hub = next((key for key in HUBS if key in entry), None)
        if hub:  # LLaMA-Factory looks at these before file_name
            report.findings.add(NOTE, f"it comes from elsewhere ({hub}: {entry[hub]}) and was not read")
            return report
        report.path = registry.file_of(use.name, outside=outside)
        _check_rows(report, report.layout, entry, visit)
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
    labelled, pairs = bool(layout.columns.get("kto_tag")), stage in ("dpo", "rm")
    if report.use.role == REFERENCE and labelled:
        report.findings.add(
            ERROR, f"{name} is labelled data (kto_tag), which says what not to answer: no reference set"
        )
    if stage is None or report.use.role == REFERENCE:
        return
    answered = layout.ranking or layout.formatting != "alpaca" or bool(layout.columns.get("response"))
    if layout.ranking != pairs:
        wanted = "needs pairs (ranking: true)" if pairs else "takes answers, not pairs"
        report.findings.add(ERROR, f"stage {stage} {wanted}, and {name} is registered the other way")
    elif stage == "kto" and not labelled:
        report.findings.add(ERROR, f"stage kto needs labels (kto_tag in columns), and {name} has none")
    elif stage == "sft" and labelled:
        report.findings.add(ERROR, f"stage sft leaves out every row of {name}: it is labelled data (kto_tag)")
    elif stage in ("sft", "kto") and not answered:
        report.findings.add(ERROR, f"stage {stage} leaves out every row of {name}: columns names no response")


def _check_rows(report: SetReport, layout: Layout, entry: Mapping[str, Any], visit: Visitor) -> None:
    findings = report.findings
    duplicates = _Duplicates()
    before = findings.count(ERROR)
    files = _files(report)
    if not files:
        return
    usable = 0
    columns: dict[str, int] = {}  # how many rows have something in them
    for row in _scan(files, findings):
        report.rows += 1
        for name, value in row.value.items():
            columns[str(name)] = columns.get(str(name), 0) + (value not in (None, ""))
        example = read_example(row.value, layout)
        for what in example.errors:
            findings.add(ERROR, what, row.place)
        for what in example.problems:
            findings.add(WARNING, what, row.place)
        if example.errors or example.problems:
            continue
        usable += 1
        if again := duplicates.seen(example):
            findings.add(*again, row.place)
        if entry.get(ROLE_KEY) == "safety" and not reads_like_a_refusal(example):
            findings.add(WARNING, "the answer of a safety set does not read like a refusal", row.place)
        visit(report, row.place, example)
    if not report.rows:
        findings.add(ERROR, f"{report.path} has no rows")
        return
    missing = [name for name in layout.named_columns() if name not in columns]
    if not usable and not missing and findings.count(ERROR) == before:
        findings.add(ERROR, "none of its rows can be trained on")
    if missing:
        found = ", ".join(list(columns)[:20])
        findings.add(ERROR, f"{report.path} has no column {', '.join(missing)}; it has {found}")
    if findings.count(ERROR) == before:  # otherwise `datasets` would say the same once more
        _load(report, layout, entry, files, columns)
    if report.use.role == REFERENCE and report.rows < _FEW:
        findings.add(WARNING, f"a reference gradient of {report.rows} rows is noisy; the paper takes 200")


def _files(report: SetReport) -> list[Path]:
    """The files that LLaMA-Factory reads of a file or folder; none where it refuses them."""
    path = report.path
    assert path is not None
    files = sorted(path.iterdir()) if path.is_dir() else [path]  # all of them, as LLaMA-Factory does
    kinds = {file_kind(each) if each.is_file() else None for each in files}
    if len(kinds) == 1 and None not in kinds:
        return files
    suffixes = ", ".join(sorted({each.suffix or each.name for each in files})) or "nothing"
    known = ", ".join(f".{suffix}" for suffix in KINDS)
    what = f"{path}: LLaMA-Factory reads {known}, one kind in a folder and in lower case; this is {suffixes}"
    report.findings.add(ERROR, what)
    return []


def _scan(files: list[Path], findings: Findings) -> Iterator[Row]:
    """The rows of files; what cannot be read is a finding."""
    for each in files:
        if file_kind(each) == "arrow":
            findings.add(NOTE, "Arrow files are not read here", each.name)
            continue
        prefix = f"{each.name}, " if len(files) > 1 else ""
        for item in scan_rows(each):
            if isinstance(item, Unreadable):
                findings.add(ERROR, "rows that cannot be read", f"{prefix}{item.place}: {item.problem}")
            else:
                yield Row(prefix + item.place, item.value)


def _load(
    report: SetReport, layout: Layout, entry: Mapping[str, Any], files: list[Path], columns: Mapping[str, int]
) -> None:
    """Have `datasets` load the files."""
    number = entry.get("num_samples")
    if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
        report.findings.add(ERROR, f"num_samples: {str(number)[:40]!r} must be a whole number, 1 or more")
    loaded = load_files(files, layout, str(entry.get("split", "train")))
    for problem in loaded.problems:
        hint = "; `ogpsa data add FILE --replace` makes text of it" if files[0].suffix == ".csv" else ""
        report.findings.add(ERROR, problem + hint)
    for name in layout.named_columns():
        lost = loaded.nulls.get(name, 0) - (report.rows - columns.get(name, 0))
        if lost > 0 and not loaded.problems:
            what = f"`datasets` reads {lost:,} values of column {name} as missing (in a CSV: None, NA, null …)"
            report.findings.add(WARNING, what)


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
