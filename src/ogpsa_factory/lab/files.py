"""Files that appear whole or not at all: written under a temporary name beside their place, then renamed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import OGPSAError


RESULT_FILE = "lab_evaluation.json"  # in the folder of every evaluated model
STAGES = ("sft", "dpo")  # folders of a pipeline's run, in the order in which they are trained


def temporary_name(path: Path) -> Path:
    """Name a place beside `path` that no other process uses.

    Args:
        path: the file or folder that will be replaced.

    Returns:
        A hidden name in the same folder, so that renaming stays within one file system; the suffix is kept, because
        some writers choose the format by it.
    """
    return path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name for a file's new content and rename it to `path` if the block succeeds.

    Args:
        path: the file to write; its folder is made.

    Yields:
        The name to write to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON.

    Args:
        path: the file to write.
        value: anything that `json` accepts.
    """
    with replaced_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Args:
        path: the file to read.

    Returns:
        Its value.

    Raises:
        OGPSAError: the file cannot be read or holds no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OGPSAError(f"Cannot read {path}: {error}") from error


def find_folders(folder: Path, file_name: str) -> list[Path]:
    """Find the models below a folder: its own, and the stages of a pipeline's runs one level deeper.

    Args:
        folder: where models are saved.
        file_name: what a model's folder holds.

    Returns:
        The models' folders by name, the stages of a run together and in their order; no checkpoints, and nothing that
        is half written.
    """
    found = [path.parent for pattern in ("*", "*/*") for path in folder.glob(f"{pattern}/{file_name}")]
    wanted = [
        path
        for path in found
        if not any(part.startswith((".", "checkpoint-")) for part in path.relative_to(folder).parts)
    ]

    def order(path: Path) -> tuple[Path, int, str]:
        return path.parent, STAGES.index(path.name) if path.name in STAGES else len(STAGES), path.name

    return sorted(wanted, key=order)


def check_replaceable_model(path: Path) -> None:
    """Refuse to replace anything but a model folder.

    Args:
        path: where a model is to be saved.

    Raises:
        OGPSAError: something else is there.
    """
    if path.is_dir():
        blocked = any(path.iterdir()) and not (path / "config.json").exists()
    else:
        blocked = path.exists()

    if blocked:
        raise OGPSAError(f"{path} exists and holds no model: it is not replaced. Choose another --output.")


@contextmanager
def replaced_model_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder for a model and put it in the place of `path` if the block succeeds.

    Args:
        path: the folder to write; an older model there is removed.

    Yields:
        The folder to write to.

    Raises:
        OGPSAError: something other than a model is at `path`.
    """
    check_replaceable_model(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():  # a folder cannot be renamed onto one that is not empty
            discarded = temporary_name(path.with_name(path.name + "-old"))
            os.replace(path, discarded)
            os.replace(temporary, path)
            shutil.rmtree(discarded)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
