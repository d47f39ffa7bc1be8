"""Folders of models: found, and replaced whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OGPSAError
from ..files import temporary_name


RESULT_FILE = "lab_evaluation.json"  # in the folder of every evaluated model
STAGES = ("sft", "dpo")  # folders of a pipeline's run, in the order in which they are trained


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
