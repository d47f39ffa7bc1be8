"""Folders of models: found, in the order of their stages."""

from __future__ import annotations

from pathlib import Path


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
