"""Rows of data files: JSON (arrays and lines), CSV, Parquet and plain text, one row at a time in constant memory.

LLaMA-Factory reads the same files through `datasets`, whose errors name neither line nor column. Here every row and
every unreadable place has a name.
"""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import OGPSAError
from ..files import replaced_file
from .encoding import BOM, check_encoding
from .json_values import array_values, parse_json


SUFFIXES = (".json", ".jsonl", ".csv", ".parquet", ".txt")
_BATCH = 256  # rows of a Parquet file that are in memory at a time


class Row(NamedTuple):
    """One row; `place` says where it is, for messages."""

    place: str
    value: dict[str, Any]


class Unreadable(NamedTuple):
    """A place that holds no row, and why."""

    place: str
    problem: str


class Written(NamedTuple):
    """What has been written: the number of rows and the file's SHA-256."""

    rows: int
    sha256: str


def read_rows(path: Path) -> Iterator[Row]:
    """Read a file row by row.

    Args:
        path: a file with one of `SUFFIXES`.

    Yields:
        Its rows.

    Raises:
        OGPSAError: the file, or something in it, cannot be read; the message names the line.
    """
    for item in scan_rows(path):
        if isinstance(item, Unreadable):
            raise OGPSAError(f"{path}, {item.place}: {item.problem}")
        yield item


def scan_rows(path: Path) -> Iterator[Row | Unreadable]:
    """Read a file row by row, going on behind what cannot be read where that is possible.

    Args:
        path: a file with one of `SUFFIXES`.

    Yields:
        Rows and unreadable places.

    Raises:
        OGPSAError: the file cannot be opened, has another suffix, or is in UTF-16 or UTF-32.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise OGPSAError(f"{path} has no suffix that says what it holds: one of {', '.join(SUFFIXES)} is needed.")
    try:
        if not path.is_file():
            raise OGPSAError(f"{path} {'is no file' if path.exists() else 'does not exist'}.")
        if path.suffix.lower() != ".parquet":
            check_encoding(path)
        yield from reader(path)
    except OSError as error:
        raise OGPSAError(f"Cannot read {path}: {error.strerror or error}.") from error


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Written:
    """Write rows as JSON Lines in UTF-8; the file appears whole or not at all.

    Args:
        path: the file; its folder is made.
        rows: what to write.

    Returns:
        How many rows were written, and the file's hash.
    """
    digest, count = hashlib.sha256(), 0
    with replaced_file(path) as temporary, temporary.open("wb") as stream:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
            digest.update(line)
            stream.write(line)
            count += 1
    return Written(count, digest.hexdigest())


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _json(path: Path) -> Iterator[Row | Unreadable]:
    with path.open("rb") as stream:
        start = len(BOM) if stream.read(len(BOM)) == BOM else 0
        stream.seek(start)
        first = next((line.lstrip()[:1] for line in stream if line.strip()), b"")
        stream.seek(start)
        if first == b"[":
            for place, value in array_values(stream):
                yield _row(place, value)
        else:
            yield from _json_lines(path, stream)


def _json_lines(path: Path, stream: Iterable[bytes]) -> Iterator[Row | Unreadable]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            value: Any = parse_json(line.decode())
        except UnicodeDecodeError as error:
            value = ValueError(
                f"byte 0x{line[error.start]:02x} in column {error.start + 1} is not UTF-8: save the file in UTF-8"
            )
        except ValueError as error:
            value = error
            if not line.endswith(b"\n"):  # only the last line has no end
                hint = "the file ends in the middle of a row (an interrupted download or copy?)"
                value = ValueError(f"{hint}: {error}")
            elif number == 1 and path.suffix.lower() == ".json":
                value = _one_object(path) or error
        yield _row(place, value)


def _one_object(path: Path) -> ValueError | None:
    """What to say of a JSON file that is one object, such as one with the rows below a key."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    keys = ", ".join(list(value)[:5])
    return ValueError(f"the file holds one object with the keys {keys}; a list of rows, or one row a line, is needed")


def _row(place: str, value: Any) -> Row | Unreadable:
    if isinstance(value, ValueError):
        return Unreadable(place, str(value))
    if not isinstance(value, dict):
        return Unreadable(place, f"a row must be an object in braces, and this is {_kind(value)}")
    return Row(place, value)


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _csv(path: Path) -> Iterator[Row | Unreadable]:
    csv.field_size_limit(sys.maxsize)  # answers are longer than its 128 kB
    with path.open(encoding="utf-8-sig", newline="") as stream:
        lines = csv.reader(stream, strict=True)
        try:
            header = next(lines, None)
            if not header or len(set(header)) < len(header):
                yield Unreadable("line 1", "the first line must name the columns, each once")
                return
            for cells in lines:
                place = f"line {lines.line_num}"
                if len(cells) == len(header):
                    yield Row(place, dict(zip(header, cells, strict=True)))
                elif cells:
                    yield Unreadable(place, f"{len(cells)} fields, but the first line names {len(header)} columns")
        except csv.Error as error:
            yield Unreadable(f"line {lines.line_num}", f"it is no CSV: {error}")
        except UnicodeDecodeError as error:
            problem = f"byte 0x{error.object[error.start]:02x} is not UTF-8: save the file in UTF-8"
            yield Unreadable(f"near line {lines.line_num + 1}", problem)


def _parquet(path: Path) -> Iterator[Row | Unreadable]:
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=_BATCH):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(f"row {number}", value)
    except Exception as error:  # besides Arrow's own: dates that Python does not have, unknown time zones
        yield Unreadable(f"behind row {number}", f"it is no Parquet, or an interrupted download: {error}")


def _text(path: Path) -> Iterator[Row | Unreadable]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            line = line.removeprefix(BOM) if number == 1 else line
            try:
                yield Row(f"line {number}", {"text": line.decode().rstrip("\r\n")})
            except UnicodeDecodeError as error:
                problem = f"byte 0x{line[error.start]:02x} is not UTF-8: save the file in UTF-8"
                yield Unreadable(f"line {number}", problem)


_READERS: dict[str, Callable[[Path], Iterator[Row | Unreadable]]] = {
    ".json": _json,
    ".jsonl": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".txt": _text,
}
