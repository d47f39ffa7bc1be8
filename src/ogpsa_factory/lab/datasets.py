"""The world's sets as files in LLaMA-Factory's alpaca format, and their registration in `dataset_info.json`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..data.registry import Registry
from ..errors import OGPSAError
from ..files import read_json, write_json
from .preferences import Preference
from .themes.theme import Question


FOLDER = "mini"
# What LLaMA-Factory must be told of preference data, besides where it lies.
RANKING: dict[str, Any] = {
    "ranking": True,
    "columns": {"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"},
}


def write_sets(data_dir: Path, sets: dict[str, list[Question]]) -> None:
    """Write sets below a data folder and register them there.

    Args:
        data_dir: LLaMA-Factory's `dataset_dir`.
        sets: questions by the name that a set is registered under.
    """
    for name, rows in sets.items():
        records = [{"instruction": question, "input": "", "output": answer} for question, answer in rows]
        write_json(data_dir / FOLDER / f"{name}.json", records)

    register_sets(data_dir, sets)


def write_preferences(data_dir: Path, sets: dict[str, list[Preference]]) -> None:
    """Write preference sets below a data folder and register them there.

    Args:
        data_dir: LLaMA-Factory's `dataset_dir`.
        sets: rows by the name that a set is registered under.
    """
    for name, rows in sets.items():
        records = [
            {"instruction": question, "input": "", "chosen": chosen, "rejected": rejected}
            for question, chosen, rejected in rows
        ]
        write_json(data_dir / FOLDER / f"{name}.json", records)

    register_sets(data_dir, sets, RANKING)


def register_sets(data_dir: Path, names: Iterable[str], description: dict[str, Any] | None = None) -> None:
    """Register sets, leaving every other entry and the order of all as they are.

    Args:
        data_dir: LLaMA-Factory's `dataset_dir`.
        names: of the sets, which lie in the folder `mini`.
        description: what their entries hold besides the file's name.

    Raises:
        OGPSAError: the registry is there but is no JSON object.
    """
    entries = {name: {"file_name": f"{FOLDER}/{name}.json", **(description or {})} for name in names}
    Registry(data_dir).register(entries, replace=True)


def read_set(data_dir: Path, name: str) -> list[Question]:
    """Read a set that `write_sets` wrote.

    Args:
        data_dir: LLaMA-Factory's `dataset_dir`.
        name: of the set.

    Returns:
        Its questions.

    Raises:
        OGPSAError: it is missing or has another format.
    """
    path = data_dir / FOLDER / f"{name}.json"
    if not path.exists():
        raise OGPSAError(f"{path} is missing: run `ogpsa lab build` first, or name its data folder with --data-dir.")

    try:
        return [(record["instruction"], record["output"]) for record in read_json(path)]
    except (TypeError, KeyError) as error:
        raise OGPSAError(f"{path} is not in the alpaca format (a list of instruction, input, output).") from error
