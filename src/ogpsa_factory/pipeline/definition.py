"""What a pipeline file and the command line ask for: the arguments of every stage, before stages are chained."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import OGPSAError
from ..mappings import mapping, read_mapping


_STAGE_NAME = re.compile(r"[A-Za-z0-9_-]+")
_TAKEN_NAMES = ("configs", "logs")  # folders of ours in the run directory, where every stage has one of its own name
_FILE_KEYS = ("output_dir", "common", "stages")
_STAGE_KEYS = ("name", "file", "config", "merge")
_STRATEGIES = ("save_strategy", "eval_strategy", "logging_strategy")  # whose values are words, "no" among them


@dataclass
class Layers:
    """The arguments of one stage by where they come from, weakest first."""

    name: str
    common: dict[str, Any]
    file: dict[str, Any]
    config: dict[str, Any]
    everywhere: dict[str, Any] = field(default_factory=dict)  # KEY=VALUE
    named: dict[str, Any] = field(default_factory=dict)  # NAME.KEY=VALUE
    merges: bool = False  # averages weights and trains nothing; its one argument is `merge`

    def merged(self) -> dict[str, Any]:
        """Merge the layers as LLaMA-Factory merges a file and a command line; ``do_train`` is on unless one says no.

        Returns:
            The stage's arguments.
        """
        layers = ({"do_train": True}, self.common, self.file, self.config, self.everywhere, self.named)
        config = _container(OmegaConf.merge(*(OmegaConf.create(layer) for layer in layers if layer)))
        for key in _STRATEGIES:
            if config.get(key) is False:  # YAML reads the word `no` as false, which is no strategy
                config[key] = "no"
        return config

    def explicit(self, key: str) -> bool:
        """Whether an argument was written for this stage of this pipeline, so that chaining has to respect it."""
        return key in self.config or key in self.named


@dataclass(frozen=True)
class Definition:
    """A pipeline as it was asked for."""

    file: Path
    run_dir: Path
    stages: list[Layers]


def read_definition(file: Path, overrides: list[str]) -> Definition:
    """Read a pipeline file and apply the command line to it.

    Args:
        file: a YAML file, or JSON by its suffix.
        overrides: ``KEY=VALUE``, ``NAME.KEY=VALUE`` and ``output_dir=DIR``.

    Returns:
        The stages with their layers of arguments.

    Raises:
        OGPSAError: naming the file and the key that is wrong.
    """
    content = read_mapping(file)
    _check_keys(content, _FILE_KEYS, str(file))
    common = mapping(content.get("common"), f"{file}: common")
    stages = content.get("stages")
    if not isinstance(stages, list) or not stages:
        raise OGPSAError(
            f"{file}: stages must be a list with at least one entry, each with a name and a file or config."
        )
    layers = [_read_stage(file, number, stage, common) for number, stage in enumerate(stages, start=1)]
    names = [stage.name for stage in layers]
    for name in names:
        if names.count(name) > 1:
            raise OGPSAError(f"{file}: two stages are named {name}. Names must differ: each is the name of a folder.")

    run_dir = content.get("output_dir")
    for override in overrides:
        run_dir = _apply(override, layers) or run_dir
    if not isinstance(run_dir, str) or not run_dir:
        raise OGPSAError(f"{file}: output_dir must name the folder of the run; output_dir=DIR works as well.")
    if re.search(r"[\s,]", run_dir):
        raise OGPSAError(
            f"output_dir: {run_dir!r} holds a space or a comma, at which LLaMA-Factory splits paths. Choose another."
        )
    for stage in layers:
        if "output_dir" in stage.common or stage.explicit("output_dir"):
            raise OGPSAError(
                f"{file}: stage {stage.name} must not set output_dir: it writes to {Path(run_dir) / stage.name}. "
                "The folder of the whole run is the top-level output_dir."
            )
        if stage.merges:
            _check_merge(f"{file}: stage {stage.name}", stage)
    return Definition(file, Path(run_dir), layers)


def _read_stage(file: Path, number: int, stage: Any, common: dict[str, Any]) -> Layers:
    where = f"{file}: stage {number}"
    stage = mapping(stage, where)
    _check_keys(stage, _STAGE_KEYS, where)
    name = str(stage.get("name", ""))
    if not _STAGE_NAME.fullmatch(name):
        raise OGPSAError(f"{where}: name must be of letters, digits, - and _, and it is {name!r}.")
    if name in _TAKEN_NAMES:
        raise OGPSAError(f"{where}: {name} is the name of another folder in the run directory. Choose another name.")
    if "merge" in stage:
        if len(stage) > 2:
            raise OGPSAError(f"{where}: {name} averages weights (merge), so it takes neither file nor config.")
        return Layers(name, common, {}, {"merge": stage["merge"]}, merges=True)
    if "file" not in stage and "config" not in stage:
        raise OGPSAError(
            f"{where}: {name} has neither a file nor a config with its arguments, nor merge with a weight."
        )
    config = mapping(stage.get("config"), f"{where}: config")
    if "file" not in stage:
        return Layers(name, common, {}, config)
    if not isinstance(stage["file"], str):
        raise OGPSAError(f"{where}: file must be the path of a YAML or JSON file.")
    path = file.parent / stage["file"]
    if not path.is_file():
        raise OGPSAError(f"{where}: file: {path} does not exist (paths are relative to the pipeline file's folder).")
    return Layers(name, common, read_mapping(path), config)


def _check_merge(where: str, stage: Layers) -> None:
    asked = {**stage.config, **stage.named}
    for key in asked:
        if key != "merge":
            raise OGPSAError(f"{where} averages weights (merge) and takes no {key}.")
    weight = asked["merge"]
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight <= 1:
        raise OGPSAError(f"{where}: merge is the aligned model's share, a number from 0 to 1, and it is {weight!r}.")


def _apply(override: str, stages: list[Layers]) -> str | None:
    """Put one override where it belongs; returns the run directory if it names one."""
    key, equals, value = override.partition("=")
    first, dot, rest = key.partition(".")
    if not equals or not first or (dot and not rest):
        raise OGPSAError(f"{override!r} is not of the form KEY=VALUE, NAME.KEY=VALUE or output_dir=DIR.")
    if key == "output_dir":
        return value
    by_name = {stage.name: stage for stage in stages}
    if dot and first not in by_name:
        raise OGPSAError(f"{override}: there is no stage {first}. {_hint(first, list(by_name))}")
    try:
        parsed = _container(OmegaConf.from_dotlist([f"{rest or key}={value}"]))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise OGPSAError(f"{override}: the value cannot be read: {error}") from None
    for stage in [by_name[first]] if dot else stages:
        target = stage.named if dot else stage.everywhere
        target.update(_container(OmegaConf.merge(OmegaConf.create(target), OmegaConf.create(parsed))))
    return None


def _container(config: Any) -> dict[str, Any]:
    container: Any = OmegaConf.to_container(config)
    return {str(key): value for key, value in container.items()}


def _check_keys(content: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in content:
        if key not in known:
            raise OGPSAError(f"{where}: unknown key {key}. {_hint(key, list(known))}")


def _hint(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(known)}."
