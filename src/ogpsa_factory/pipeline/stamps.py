"""Sizes and times of the files that a stage reads, by which a model or data set that was made anew is noticed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


Stamp = dict[str, list[int]]  # {file name: [size in bytes, time of change in ns]}

_DATA_KEYS = ("dataset", "ogpsa_reference_dataset", "base_dataset")
_ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")  # go before file_name


def model_stamp(folder: Path | None) -> Stamp | None:
    """Stamp the files of a model.

    Args:
        folder: the model's folder, or None for a model that is not a folder.

    Returns:
        The stamp, or None.
    """
    if folder is None:
        return None
    return _stamp([*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("config.json")])


def data_stamps(config: dict[str, Any]) -> dict[str, Stamp | None]:
    """Stamp the files of the data sets that a stage trains on or projects against.

    Args:
        config: the stage's arguments.

    Returns:
        Per name its files' stamp, or None for a data set that is not on this machine.
    """
    folder = config.get("dataset_dir", "data")  # LLaMA-Factory's default
    try:
        info = dict(json.loads((Path(folder) / "dataset_info.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # the check of the arguments reports it
        info = {}
    stamps: dict[str, Stamp | None] = {}
    for name in _names(config):
        entry = info.get(name) or {}
        local = "file_name" in entry and not any(key in entry for key in _ELSEWHERE)
        stamps[name] = _stamp(_files(Path(folder) / entry["file_name"])) if local else None
    return stamps


def _names(config: dict[str, Any]) -> Iterator[str]:
    for key in _DATA_KEYS:
        value = config.get(key) or ""
        words = value.split(",") if isinstance(value, str) else map(str, value)
        yield from (word.strip() for word in words if word.strip())


def _files(path: Path) -> list[Path]:
    return [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path] if path.exists() else []


def _stamp(files: Iterable[Path]) -> Stamp:
    return {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in sorted(files)}
