"""What is to be checked: the data sets that a training file names, with the role and the stage each is used in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import OGPSAError


TRAINING, REFERENCE, EVALUATION = "training", "reference", "evaluation"
_KEYS = {
    "dataset": TRAINING,
    "ogpsa_reference_dataset": REFERENCE,
    "base_dataset": REFERENCE,
    "eval_dataset": EVALUATION,
}
_FILES = (".yaml", ".yml", ".json")
DEFAULT_CUTOFF = 2048  # LLaMA-Factory's


@dataclass(frozen=True)
class Use:
    """One data set in one role; `stage` is None where no training file says."""

    name: str
    role: str
    stage: str | None = None


@dataclass
class Target:
    """Sets of one data folder that are used together.

    Attributes:
        where: the training file, for messages.
        dataset_dir: the data folder.
        uses: which sets, and what for.
        model: `model_name_or_path`, whose tokenizer counts.
        template: LLaMA-Factory's template.
        cutoff_len: tokens that are kept of a row.
    """

    where: str
    dataset_dir: Path
    uses: list[Use] = field(default_factory=list)
    model: str | None = None
    template: str | None = None
    cutoff_len: int | None = None


def is_training_file(word: str) -> bool:
    """Whether a word on the command line is a file and not the name of a data set."""
    return word.lower().endswith(_FILES)


def read_targets(path: Path, overrides: Sequence[str] = ()) -> list[Target]:
    """Read a training file, or a pipeline file with several stages.

    Args:
        path: YAML or JSON.
        overrides: KEY=VALUE, as `llamafactory-cli train` and `ogpsa pipeline` take them.

    Returns:
        One target a stage; the file's name is in it.

    Raises:
        OGPSAError: it cannot be read, or names no data.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:  # ValueError: dates such as 2024-99-99
        raise OGPSAError(f"Cannot read {path}: {str(error) or type(error).__name__}") from None
    if not isinstance(config, dict):
        raise OGPSAError(f"{path} must hold arguments, one `key: value` a line.")
    if "stages" in config:
        return _pipeline_targets(path, overrides)
    changes = (word.split("=", 1) for word in overrides)
    try:
        config |= {key: yaml.safe_load(value) for key, value in changes}
    except (ValueError, yaml.YAMLError) as error:
        raise OGPSAError(f"{' '.join(overrides)}: {error}") from None
    return [_target(str(path), config)]


def _pipeline_targets(path: Path, overrides: Sequence[str]) -> list[Target]:
    from ..pipeline.chain import chain
    from ..pipeline.definition import read_definition

    stages = chain(read_definition(path, list(overrides)))
    targets = [_target(f"{path}, stage {stage.name}", stage.config) for stage in stages]
    outputs = {str(stage.output) for stage in stages}
    for target in targets:  # a later stage's model is still to be trained, with the tokenizer of the first one
        if target.model in outputs and not Path(target.model).exists():
            target.model = targets[0].model
    return targets


def _target(where: str, config: Mapping[str, Any]) -> Target:
    folder = config.get("dataset_dir", "data")
    if not isinstance(folder, str) or folder == "ONLINE" or folder.startswith("REMOTE:"):
        raise OGPSAError(f"{where}: dataset_dir: {folder} is no folder on this machine, so there is nothing to check.")
    stage = str(config.get("stage", "sft")).removeprefix("ogpsa_").removesuffix("_pg")
    cutoff = config.get("cutoff_len", DEFAULT_CUTOFF)
    if isinstance(cutoff, bool) or not isinstance(cutoff, int) or cutoff < 1:
        raise OGPSAError(f"{where}: cutoff_len: {cutoff} must be a whole number of tokens, 1 or more.")
    target = Target(where, Path(folder), cutoff_len=cutoff)
    target.model = _text_or_none(config.get("model_name_or_path"))
    target.template = _text_or_none(config.get("template"))
    for key, role in _KEYS.items():
        target.uses += [Use(name, role, stage) for name in _names(where, key, config.get(key))]
    if not target.uses:
        raise OGPSAError(f"{where} names no data: it has none of the keys {', '.join(_KEYS)}.")
    return target


def _names(where: str, key: str, value: Any) -> list[str]:
    names = value.split(",") if isinstance(value, str) else value or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise OGPSAError(f"{where}: {key}: {str(value)[:80]} must be names separated by commas.")
    return [name.strip() for name in names if name.strip()]


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
