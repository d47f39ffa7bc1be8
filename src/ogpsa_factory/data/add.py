"""A user's own file becomes a registered data set: its layout is found, and every row is looked at."""

from __future__ import annotations

import itertools
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import OGPSAError
from ..files import replaced_file
from .convert import Converter, find_converter
from .examples import read_example
from .layouts import Layout, detect
from .records import SUFFIXES, Row, encoding_mark, hash_file, read_rows, write_rows
from .refusals.verdict import refuses
from .registry import Registry


ROLES = ("safety", "reference", "general")
ROLE_KEY = "ogpsa_role"  # in the entry; LLaMA-Factory does not look at it
_LOOKED_AT = 100  # rows by which the layout is found
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass
class Added:
    """What was registered.

    Attributes:
        name: in dataset_info.json.
        role: one of `ROLES`.
        path: the file, in the data folder.
        layout: what was found in it.
        rows: how many it has.
        remarks: what a user should know of the rows, one sentence each.
    """

    name: str
    role: str
    path: Path
    layout: Layout
    rows: int = 0
    remarks: list[str] = field(default_factory=list)


def add_file(path: Path, dataset_dir: Path, role: str, name: str | None = None, *, replace: bool = False) -> Added:
    """Register a file; it is copied into the data folder unless it is there.

    Args:
        path: JSON, JSON Lines, CSV, Parquet or plain text.
        dataset_dir: LLaMA-Factory's data folder.
        role: one of `ROLES`.
        name: for dataset_info.json; the file's own without suffix if None.
        replace: whether an entry or a file of that name is replaced.

    Returns:
        What was registered.

    Raises:
        OGPSAError: the file cannot be read, no layout fits it, a row is not as the others are, or the name is taken.
            Nothing has changed then.
    """
    name = path.stem if name is None else name
    if not _NAME.fullmatch(name):
        raise OGPSAError(f"--name {name!r}: letters, digits, _, - and . only, as YAML files list names by commas.")
    registry = Registry(dataset_dir)
    if name in registry.entries and not replace:
        raise OGPSAError(f"{registry.path} has an entry {name} already: choose another --name, or pass --replace.")
    with _in_utf8(path) as readable:
        layout, converter = _find_layout(path, readable)
        changed = converter is not None or readable != path or path.suffix.lower() == ".csv"
        target = _target(path, dataset_dir, name, changed)
        added = Added(name, role, target, layout)
        _look_at_rows(added, path, readable, converter)
        if target.resolve() != path.resolve():
            if target.exists() and not replace and hash_file(target) != hash_file(readable):
                raise OGPSAError(
                    f"{target} exists and holds something else: choose another --name, or pass --replace."
                )
            if changed:
                write_rows(target, (row.value for row in _rows(path, readable, converter)))
            else:
                with replaced_file(target) as temporary:
                    shutil.copyfile(path, temporary)
    entry = {**layout.entry(target.relative_to(dataset_dir).as_posix()), ROLE_KEY: role}
    registry.register({name: entry}, replace=replace)
    return added


@contextmanager
def _in_utf8(path: Path) -> Iterator[Path]:
    """The file itself, or a temporary copy in UTF-8 where a byte order mark names another encoding."""
    if not path.is_file():
        raise OGPSAError(f"{path} {'is no file' if path.exists() else 'does not exist'}.")
    try:
        mark = encoding_mark(path) if path.suffix.lower() in SUFFIXES and path.suffix.lower() != ".parquet" else None
        if mark is None:
            yield path
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / path.name
            to_utf8(path, copy, mark[0])
            yield copy
    except OSError as error:
        raise OGPSAError(f"Cannot read {path}: {error.strerror or error}.") from error


def to_utf8(path: Path, copy: Path, encoding: str) -> None:
    """Write a text file once more in UTF-8, with the ends of its lines as they are.

    Args:
        path: the file.
        copy: the file to write.
        encoding: the first one's.

    Raises:
        OGPSAError: its byte order mark does not tell the truth.
    """
    try:
        with path.open(encoding=encoding, newline="") as old, copy.open("w", encoding="utf-8", newline="") as new:
            shutil.copyfileobj(old, new)
    except UnicodeError as error:
        raise OGPSAError(f"{path} begins as {encoding.upper()} does, and is not in it: {error}.") from None


def _rows(path: Path, readable: Path, converter: Converter | None = None) -> Iterator[Row]:
    """Rows by the places in the user's file, converted if they must be."""
    try:
        for row in read_rows(readable):
            yield Row(row.place, converter(row.value)) if converter else row
    except ValueError as error:
        if isinstance(error, OGPSAError):
            raise OGPSAError(str(error).replace(str(readable), str(path))) from None
        raise OGPSAError(f"{path}, {row.place}: {error}.") from None


def _find_layout(path: Path, readable: Path) -> tuple[Layout, Converter | None]:
    rows = [row.value for row in itertools.islice(_rows(path, readable), _LOOKED_AT)]
    if not rows:
        raise OGPSAError(f"{path} has no rows.")
    layout = detect(rows)
    if layout is not None:
        return layout, None
    converted = find_converter(rows)
    if converted is not None:
        return converted
    columns = ", ".join(str(column)[:40] for column in list(rows[0])[:20]) or "none"
    raise OGPSAError(
        f"{path} has no layout that is known here; its columns: {columns}. Known are: prompt and answer (instruction, "
        "input, output; prompt, response; question, answer …), messages or conversations (role, content; from, "
        "value), pairs (prompt, chosen, rejected) and plain text (text). Rename columns, or write the entry by hand: "
        "LLaMA-Factory's data/README.md has every key."
    )


def _target(path: Path, dataset_dir: Path, name: str, changed: bool) -> Path:
    """Where the rows are to lie: where they are if that is in the data folder and they need no change."""
    inside = path.resolve().is_relative_to(dataset_dir.resolve())
    if inside and not changed:
        return dataset_dir / path.resolve().relative_to(dataset_dir.resolve())
    target = dataset_dir / f"{name}{'.jsonl' if changed else path.suffix.lower()}"
    return target.with_suffix(".converted.jsonl") if target.resolve() == path.resolve() else target


def _look_at_rows(added: Added, path: Path, readable: Path, converter: Converter | None) -> None:
    """Count the rows, refuse the ones of another type and remark on the rest."""
    found: Counter[str] = Counter()
    first: dict[str, str] = {}
    for row in _rows(path, readable, converter):
        added.rows += 1
        example = read_example(row.value, added.layout)
        problems = list(example.problems)
        if example.errors:
            raise OGPSAError(f"{path}, {row.place}: {example.errors[0]}. Mend or remove the row.")
        if not problems and added.role == "safety" and example.answers and not refuses(example.answers[0]):
            problems = ["the answer does not read like a refusal"]
        for problem in problems:
            found[problem] += 1
            first.setdefault(problem, row.place)
    added.remarks = [
        f"{count:,} of {added.rows:,} rows: {problem} (first: {first[problem]})"
        for problem, count in found.most_common()
    ]
