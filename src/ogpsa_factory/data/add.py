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
from .encoding import encoding_mark, to_utf8
from .examples import Example, read_example
from .layouts import LABELS, Layout, detect
from .loading import load_files
from .records import SUFFIXES, Row, hash_file, read_rows, write_rows
from .refusals.verdict import refuses
from .registry import ROLE_KEY, Registry


ROLES = ("safety", "reference", "general")
_LOOKED_AT = 100  # rows by which the layout is found
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_VERDICTS = (True, False, 0, 1, "true", "false", "True", "False", "0", "1", None)


@dataclass
class Added:
    """What was registered.

    Attributes:
        name: in dataset_info.json.
        role: one of `ROLES`.
        path: the file, in the data folder.
        layout: what was found in it.
        rows: how many it has.
        unused: its columns that training does not read.
        remarks: what a user should know of the rows, one sentence each.
    """

    name: str
    role: str
    path: Path
    layout: Layout
    rows: int = 0
    unused: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a data set.

    Args:
        name: for dataset_info.json and the file.

    Raises:
        OGPSAError: it has other characters than letters, digits and a few signs.
    """
    if not _NAME.fullmatch(name):
        raise OGPSAError(f"--name {name!r}: letters, digits, _, - and . only, as YAML files list names by commas.")


def add_file(path: Path, dataset_dir: Path, role: str, name: str | None = None, *, replace: bool = False) -> Added:
    """Register a file; it is copied into the data folder unless it is there and can stay as it is.

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
    check_name(name)
    registry = Registry(dataset_dir)
    if name in registry.entries and not replace:
        raise OGPSAError(f"{registry.path} has an entry {name} already: choose another --name, or pass --replace.")
    with _in_utf8(path) as readable:
        layout, converter = _find_layout(path, readable)
        if role == "reference" and "kto_tag" in layout.columns:
            raise OGPSAError(
                f"{path} is labelled data (column {layout.columns['kto_tag']}), which says what not to answer too. "
                "Put its good answers alone, without the column, into a reference set."
            )
        added = Added(name, role, path, layout)
        _look_at_rows(added, path, readable, converter)
        if converter is None and load_files([readable], layout).problems:
            converter = _used_columns(layout)
        changed = (
            converter is not None or readable != path or path.suffix != path.suffix.lower() or path.suffix == ".csv"
        )
        added.path = _target(path, dataset_dir, name, changed)
        entry = {**layout.entry(added.path.relative_to(dataset_dir).as_posix()), ROLE_KEY: role}
        registry.check_file(added.path, name)
        with registry.registration({name: entry}, replace=replace) as commit:
            if added.path.resolve() == path.resolve():
                commit()
                return added
            with replaced_file(added.path) as temporary:
                if changed:
                    write_rows(temporary, (row.value for row in _rows(path, readable, converter)))
                    _must_load(temporary, layout, path)
                else:
                    shutil.copyfile(path, temporary)
                if added.path.exists() and not replace and hash_file(added.path) != hash_file(temporary):
                    raise OGPSAError(f"{added.path} holds something else: choose another --name, or pass --replace.")
                commit()  # before the file is renamed: what can go wrong still leaves both as they were
    return added


def _used_columns(layout: Layout) -> Converter:
    """Leaves out the columns that training does not read, and fills in those that some rows do not have."""
    columns = layout.named_columns()
    return lambda row: {column: row.get(column) for column in columns}


def _must_load(temporary: Path, layout: Layout, path: Path) -> None:
    problems = load_files([temporary], layout).problems
    if problems:
        raise OGPSAError(f"{path}: {problems[0]}. Nothing was registered.")


@contextmanager
def _in_utf8(path: Path) -> Iterator[Path]:
    """The file itself, or a temporary copy in plain UTF-8 where a byte order mark names an encoding."""
    if not path.is_file():
        raise OGPSAError(f"{path} {'is no file' if path.exists() else 'does not exist'}.")
    try:
        text = path.suffix.lower() in SUFFIXES and path.suffix.lower() != ".parquet"
        mark = encoding_mark(path) if text else None
        if mark is None:
            yield path
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / path.name
            to_utf8(path, copy, mark)
            yield copy
    except OSError as error:
        raise OGPSAError(f"Cannot read {path}: {error.strerror or error}.") from error


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
    suffix = ".jsonl" if changed else path.suffix.lower()
    target = dataset_dir / f"{name}{suffix}"
    # Never over the user's own file, nor over a link to it.
    taken = target.is_symlink() or target.resolve() == path.resolve()
    return target.with_suffix(f".converted{suffix}") if taken else target


def _look_at_rows(added: Added, path: Path, readable: Path, converter: Converter | None) -> None:
    """Count the rows, refuse the ones of another type and remark on the rest."""
    found: Counter[str] = Counter()
    first: dict[str, str] = {}
    columns: dict[str, None] = {}
    verdicts = dict.fromkeys(LABELS, converter is None and "kto_tag" not in added.layout.columns)
    judged: set[str] = set()
    usable = 0
    for row in _rows(path, readable, converter):
        added.rows += 1
        columns.update(dict.fromkeys(map(str, row.value)))
        judged |= {name for name in LABELS if row.value.get(name) is not None}
        verdicts = {name: ok and row.value.get(name) in _VERDICTS for name, ok in verdicts.items()}
        example = read_example(row.value, added.layout)
        problems = list(example.problems)
        if example.errors:
            raise OGPSAError(f"{path}, {row.place}: {example.errors[0]}. Mend or remove the row.")
        usable += not problems
        if not problems and added.role == "safety" and not reads_like_a_refusal(example):
            problems = ["the answer does not read like a refusal"]
        for problem in problems:
            found[problem] += 1
            first.setdefault(problem, row.place)
    if not usable:
        problem, count = found.most_common(1)[0]
        raise OGPSAError(f"{path}: none of its {added.rows:,} rows can be trained on ({problem}: {count:,} rows).")
    label = next((name for name, ok in verdicts.items() if ok and name in judged), None)
    if label:
        raise OGPSAError(
            f"{path}: are the values of column {label} verdicts on the answers? If so, write true and false in JSON "
            "(for KTO training), or leave only the good answers in; if not, rename the column."
        )
    added.unused = [column for column in columns if column not in added.layout.named_columns()]
    added.remarks = [
        f"{count:,} of {added.rows:,} rows: {problem} (first: {first[problem]})"
        for problem, count in found.most_common()
    ]


def reads_like_a_refusal(example: Example) -> bool:
    """Whether the answer that a safety set teaches refuses; a KTO answer that is labelled as bad need not.

    Args:
        example: a row in order.
    """
    return not example.answers or example.label is False or refuses(example.answers[0])
