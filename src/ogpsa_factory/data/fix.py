"""Mending without loss: entries that do not fit their file, and files whose encoding `datasets` cannot read.

Nothing is mended that changes what a model is trained on: no row is removed, no text touched.
"""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path
from typing import Any

from ..errors import OGPSAError
from ..files import replaced_file
from .add import to_utf8
from .examples import read_example
from .layouts import detect, layout_of
from .records import SUFFIXES, encoding_mark, read_rows
from .registry import Registry


_LAYOUT_KEYS = ("formatting", "ranking", "columns", "tags")
_LOOKED_AT = 100


def fix_set(registry: Registry, name: str) -> list[str]:
    """Mend what can be mended of a set.

    Args:
        registry: where it is registered.
        name: of the set.

    Returns:
        What was done, one sentence each.

    Raises:
        OGPSAError: its file lies outside of the data folder, is missing or cannot be written.
    """
    path = registry.file_of(name)
    done = _fix_encoding(path)
    entry = registry.entry(name)
    better = _fitting_entry(entry, path)
    if better is not None and better != entry:
        registry.register({name: better}, replace=True)
        changed = [key for key in _LAYOUT_KEYS if better.get(key) != entry.get(key)]
        done.append(f"its entry fits the file now ({', '.join(changed)}); the old one is in {registry.path.name}.bak")
    return done


def _fix_encoding(path: Path) -> list[str]:
    if not path.is_file() or path.suffix.lower() not in SUFFIXES or path.suffix.lower() == ".parquet":
        return []
    mark = encoding_mark(path)
    if mark is None:
        return []
    backup = path.with_name(path.name + ".bak")
    with replaced_file(backup) as temporary:
        shutil.copyfile(path, temporary)
    with replaced_file(path) as temporary:
        to_utf8(path, temporary, mark[0])
        shutil.copymode(path, temporary)
    return [f"{os.fspath(path)} is in plain UTF-8 now; the old file is {backup.name}"]


def _fitting_entry(entry: dict[str, Any], path: Path) -> dict[str, Any] | None:
    """An entry that fits the first rows where the present one fits none of them; None where nothing is better."""
    if not path.is_file():
        return None
    rows = [row.value for row in itertools.islice(read_rows(path), _LOOKED_AT)]
    if not rows or _fits(entry, rows):
        return None
    layout = detect(rows)
    if layout is None:
        return None
    found = layout.entry(str(entry["file_name"]))
    better = {key: value for key, value in entry.items() if key not in _LAYOUT_KEYS}
    better |= {key: found[key] for key in _LAYOUT_KEYS if key in found}
    return better if _fits(better, rows) else None


def _fits(entry: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    try:
        layout = layout_of(entry)
    except OGPSAError:
        return False
    columns = {column for row in rows for column in row}
    readable = any(not (example := read_example(row, layout)).errors and not example.problems for row in rows)
    return readable and all(name in columns for name in layout.named_columns())
