"""Whether `datasets` loads a file as LLaMA-Factory asks it to, and what becomes of the columns.

What its readers make of a file (a column of dates, an empty CSV cell, a type that changes in row 5,000) follows rules
of their own, so they are asked instead of imitated.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .layouts import Layout
from .quiet import quiet_libraries


KINDS = {"arrow": "arrow", "csv": "csv", "json": "json", "jsonl": "json", "parquet": "parquet", "txt": "text"}
_TEXT_TYPES = ("string", "large_string", "null")


def file_kind(path: Path) -> str | None:
    """What LLaMA-Factory takes a file for, by its suffix in lower case; None where it refuses it."""
    return KINDS.get(path.suffix[1:])


@dataclass(frozen=True)
class Loaded:
    """What became of files.

    Attributes:
        problems: what is wrong, one sentence each; nothing where training can read the files.
        nulls: how many values of each column are missing, as far as the files could be loaded.
    """

    problems: list[str]
    nulls: dict[str, int] = field(default_factory=dict)


def load_files(files: Sequence[Path], layout: Layout, split: str = "train") -> Loaded:
    """Load files with `datasets` in a temporary cache.

    Args:
        files: of one kind.
        layout: where prompts and answers are.
        split: the entry's.

    Returns:
        What became of them.
    """
    import datasets

    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory() as cache, quiet_libraries(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind = file_kind(files[0])
            names = [str(path.resolve()) for path in files]
            rows = datasets.load_dataset(kind, data_files=names, split=split, cache_dir=cache)
            problems = [_type_problem(rows, name, layout) for name in layout.named_columns()]
            nulls = {name: rows.data.column(name).null_count for name in rows.column_names}
            return Loaded([problem for problem in problems if problem], nulls)
    except Exception as error:  # Arrow's, pandas', the cache's: each reader has its own
        return Loaded([f"`datasets` cannot load it: {_root_cause(error)}"])
    finally:
        if bars:
            datasets.enable_progress_bars()


def _type_problem(rows: Any, name: str, layout: Layout) -> str | None:
    """What is wrong with a column's type, for the columns that must be text."""
    texts = ["prompt", "query", "response", "system"]
    if layout.formatting == "alpaca":
        texts += ["chosen", "rejected"]
    if name not in rows.features or name not in [layout.columns.get(meaning) for meaning in texts]:
        return None
    kind = getattr(rows.features[name], "dtype", "no single value")
    if kind in _TEXT_TYPES:
        return None
    return f"`datasets` reads column {name} as {kind} and not as text, so LLaMA-Factory leaves its rows out"


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"
