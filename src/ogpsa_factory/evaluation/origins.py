"""Where the rows of a task come from, so that results can say it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ..data.records import hash_file
from .sources import SOURCES, local_file


def local_files(config: dict[str, Any]) -> list[Path]:
    """Find the user's own files that a task reads.

    Args:
        config: of the task.

    Returns:
        One file a split; none where the rows come from the hub.
    """
    options = config.get("dataset_kwargs") or {}
    source = SOURCES.get(options.get("source", ""))
    if source is None:
        return []
    splits = options.get("splits") or source.splits
    found = (local_file(source, split, options.get("part", "")) for split in splits)
    return [path for path in found if path is not None]


def origin_of(config: dict[str, Any]) -> str:
    """Say where a task's rows are read.

    Args:
        config: of the task.

    Returns:
        Names and hashes of files, or a set on the hub at a revision.
    """
    files = local_files(config)
    if files:
        return ", ".join(f"{path.name} sha256:{hash_file(path)[:16]}" for path in files)
    source = SOURCES.get((config.get("dataset_kwargs") or {}).get("source", ""))
    if source is None:
        return str(config.get("dataset_path") or config["task"])
    return f"{source.hub}@{source.revision or _newest(source.hub)}"


@cache
def _newest(name: str) -> str:
    """The commit that a set on the hub is at now; `unknown` where the hub cannot be asked."""
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(name).sha)
    except Exception:  # the rows may be in the cache all the same
        return "unknown"
