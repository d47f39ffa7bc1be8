"""Mending without loss: entries that do not fit their file, and files whose encoding `datasets` cannot read.

Nothing is mended that changes what a model is trained on: no row is removed, no text touched, and a name in an entry
is changed only where it stands for nothing and one name in the file is close to it.
"""

from __future__ import annotations

import difflib
import itertools
import shutil
from pathlib import Path
from typing import Any

from ..errors import OGPSAError
from ..files import replaced_file
from .encoding import encoding_mark, to_utf8
from .examples import read_example
from .layouts import detect, layout_of
from .records import SUFFIXES, read_rows
from .registry import Registry


BACKUPS = ".backups"  # in the data folder: a second file would break a set that is a folder of files
_LOOKED_AT = 100
_CLOSE = 0.7  # of difflib's ratio: a letter or two in a word


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
    files = [each for each in sorted(path.iterdir()) if each.is_file()] if path.is_dir() else [path]
    done = [what for each in files for what in _fix_encoding(registry.dataset_dir, each)]
    entry = registry.entry(name)
    better = _fitting_entry(entry, files)
    if better is not None and better != entry:
        registry.register({name: better}, replace=True)
        changed = [key for key in (*better, *entry) if better.get(key) != entry.get(key)]
        keys = ", ".join(dict.fromkeys(changed))
        done.append(f"its entry fits the file now ({keys}); the old one is in {registry.path.name}.bak")
    return done


def _fix_encoding(dataset_dir: Path, path: Path) -> list[str]:
    if path.suffix.lower() not in SUFFIXES or path.suffix.lower() == ".parquet":
        return []
    mark = encoding_mark(path)
    if mark is None:
        return []
    numbers = (f".{number}" if number else "" for number in itertools.count())
    backups = (dataset_dir / BACKUPS / f"{path.name}{number}" for number in numbers)
    backup = next(each for each in backups if not each.exists())
    with replaced_file(backup) as temporary:
        shutil.copyfile(path, temporary)
    with replaced_file(path) as temporary:
        to_utf8(path, temporary, mark)
    return [f"{path} is in plain UTF-8 now; the old file is {backup}"]


def _fitting_entry(entry: dict[str, Any], files: list[Path]) -> dict[str, Any] | None:
    """An entry that fits the first rows where the present one does not; None where nothing is better."""
    rows = [row.value for row in itertools.islice(read_rows(files[0]), _LOOKED_AT)] if files else []
    if not rows or _fits(entry, rows):
        return None
    candidates = [_with_close_names(entry, rows), _detected(entry, rows)]
    return next((each for each in candidates if each is not None and _fits(each, rows)), None)


def _with_close_names(entry: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The entry with its misspelt columns and its quoted true or false as they must be meant."""
    better = dict(entry)
    if str(entry.get("ranking")).lower() in ("true", "false"):
        better["ranking"] = str(entry["ranking"]).lower() == "true"
    present = list(dict.fromkeys(column for row in rows for column in row))
    named = entry.get("columns")
    if isinstance(named, dict):
        free = [column for column in present if column not in named.values()]
        better["columns"] = {}
        for meaning, column in named.items():
            near = difflib.get_close_matches(str(column), free, n=2, cutoff=_CLOSE)
            right = near[0] if column not in present and len(near) == 1 else column
            better["columns"][meaning] = right
    return better


def _detected(entry: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The entry with the layout that the rows have, where it names none of their columns itself."""
    named = entry.get("columns", {})
    values = list(named.values()) if isinstance(named, dict) else [None]
    if any(value in row for value in values for row in rows if isinstance(value, str)):
        return None
    layout = detect(rows)
    if layout is None:
        return None
    kept = {key: value for key, value in entry.items() if key not in ("formatting", "ranking", "columns", "tags")}
    found = layout.entry(str(entry["file_name"]))
    return {**kept, **found}


def _fits(entry: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    try:
        layout = layout_of(entry)
    except OGPSAError:
        return False
    columns = {column for row in rows for column in row}
    readable = any(not (example := read_example(row, layout)).errors and not example.problems for row in rows)
    return readable and all(name in columns for name in layout.named_columns())
