"""What a grid file asks for: methods, pipelines with their learning rates, and seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import OGPSAError
from ...mappings import mapping, read_mapping


_KEYS = ("title", "axis", "curves", "world", "seeds", "stages", "pipelines", "arguments", "methods")
_METHOD_KEYS = ("title", "at", "rate", "pipelines", "arguments", "stages", "merge", "osf")
_MOST = 2**31  # seeds
_WORLD_KEYS = ("theme", "steps", "scale")
_OURS = ("model_name_or_path", "output_dir", "dataset_dir", "overwrite_output_dir", "learning_rate", "seed")
_QUIET = ("plot_loss", "report_to", "save_strategy", "disable_tqdm")  # the grid's own as well; a file may have them


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way of aligning.

    Args:
        title: what reports call it.
        at: its place on the grid's axis; a number, or a word such as `never`.
        rate: factor of the grid's learning rates.
        pipelines: names of those it takes part in.
        arguments: LLaMA-Factory's arguments of each stage.
        merge: share of the aligned model in the average with the base (None: nothing is averaged).
        osf: arguments of PEFT's `OSFConfig` (None: not used).
    """

    title: str
    at: float | str | None = None
    rate: float = 1.0
    pipelines: tuple[str, ...] = ()
    arguments: dict[str, dict[str, Any]] = field(default_factory=dict)
    merge: float | None = None
    osf: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A grid as it was asked for.

    Args:
        file: where it was read.
        title: what reports call it.
        axis: what the methods differ in, if that is one quantity.
        curves: whether reports draw the overlap over training, and safety losses by it.
        world: `theme`, `steps` and `scale` of its worlds.
        seeds: of world, base model and training; one replica of the experiment each.
        pipelines: learning rates of each stage of each pipeline, level by level.
        methods: by name.
    """

    file: Path
    title: str
    axis: str | None
    curves: bool
    world: dict[str, Any]
    seeds: tuple[int, ...]
    pipelines: dict[str, dict[str, tuple[float, ...]]]
    methods: dict[str, Method]


def read_grid(file: Path) -> Grid:
    """Read a grid file.

    Args:
        file: YAML with the keys of `examples/yaml/lab/methods.yaml`; paths in it are relative to its folder.

    Returns:
        The grid.

    Raises:
        OGPSAError: naming the file and the key that is wrong.
    """
    content = read_mapping(file)
    _check_keys(content, _KEYS, str(file))
    for key in ("title", "seeds", "stages", "pipelines", "methods"):
        if not content.get(key):
            raise OGPSAError(f"{file}: {key} is missing.")
    stages = {name: _stage(file, name, path) for name, path in mapping(content["stages"], f"{file}: stages").items()}
    common = mapping(content.get("arguments"), f"{file}: arguments")
    pipelines = {
        name: _rates(f"{file}: pipelines: {name}", rates, stages)
        for name, rates in mapping(content["pipelines"], f"{file}: pipelines").items()
    }
    given = mapping(content["methods"], f"{file}: methods")
    methods = {
        name: _method(f"{file}: methods: {name}", name, entry, stages, common, pipelines)
        for name, entry in given.items()
    }
    axis, curves = content.get("axis"), content.get("curves", False)
    if axis is not None and (not isinstance(axis, str) or not axis):
        raise OGPSAError(f"{file}: axis must be the name of what the methods differ in, and it is {axis!r}.")
    if not isinstance(curves, bool):
        raise OGPSAError(f"{file}: curves must be true or false, and it is {curves!r}.")
    for name, method in methods.items():
        if axis is not None and method.at is None:
            raise OGPSAError(f"{file}: methods: {name}: at is missing, its place on the axis {axis!r}.")
    return Grid(
        file=file,
        title=str(content["title"]),
        axis=axis,
        curves=curves,
        world=_world(f"{file}: world", content.get("world")),
        seeds=_seeds(file, content["seeds"]),
        pipelines=pipelines,
        methods=methods,
    )


def _check_keys(given: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    unknown = [key for key in given if key not in known]
    if unknown:
        raise OGPSAError(f"{where}: there is no key {unknown[0]!r}. There are {', '.join(known)}.")


def _stage(file: Path, name: str, path: Any) -> dict[str, Any]:
    if not isinstance(path, str) or not (file.parent / path).is_file():
        raise OGPSAError(f"{file}: stages: {name}: {path} is no file in {file.parent}.")
    return read_mapping(file.parent / path)


def _rates(where: str, given: Any, stages: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    rates = mapping(given, where)
    for stage, values in rates.items():
        if stage not in stages:
            raise OGPSAError(f"{where}: {stage} is none of the stages {', '.join(stages)}.")
        if not isinstance(values, list) or not values or not all(_is_number(v) and v > 0 for v in values):
            raise OGPSAError(f"{where}: {stage} must be a list of learning rates above 0, and it is {values!r}.")
    if not rates or len({len(values) for values in rates.values()}) != 1:
        raise OGPSAError(f"{where}: every stage needs equally many learning rates, one for each level.")
    return {stage: tuple(float(value) for value in values) for stage, values in rates.items()}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _method(
    where: str,
    name: str,
    given: Any,
    stages: dict[str, dict[str, Any]],
    common: dict[str, Any],
    pipelines: dict[str, Any],
) -> Method:
    entry = mapping(given, where)
    _check_keys(entry, _METHOD_KEYS, where)
    own = mapping(entry.get("stages"), f"{where}: stages")
    for stage in own:
        if stage not in stages:
            raise OGPSAError(f"{where}: stages: {stage} is none of {', '.join(stages)}.")
    layers = (common, mapping(entry.get("arguments"), f"{where}: arguments"))
    arguments = {}
    for stage, base in stages.items():
        given_here = {**layers[0], **layers[1], **mapping(own.get(stage), f"{where}: stages: {stage}")}
        for key in (*_OURS, *_QUIET):
            if key in given_here:
                raise OGPSAError(f"{where}: {key} is set by the grid for every point. Remove it.")
        arguments[stage] = {key: value for key, value in {**base, **given_here}.items() if key not in _OURS}
    taking_part = entry.get("pipelines", list(pipelines))
    known = isinstance(taking_part, list) and all(isinstance(each, str) and each in pipelines for each in taking_part)
    if not known or not taking_part:
        raise OGPSAError(f"{where}: pipelines must be a list of some of {', '.join(pipelines)}.")
    rate, merge = entry.get("rate", 1.0), entry.get("merge")
    if not _is_number(rate) or rate <= 0:
        raise OGPSAError(f"{where}: rate is the factor of the learning rates, above 0, and it is {rate!r}.")
    if merge is not None and (not _is_number(merge) or not 0 <= merge <= 1):
        raise OGPSAError(f"{where}: merge is the aligned model's share, from 0 to 1, and it is {merge!r}.")
    return Method(
        title=str(entry.get("title", name)),
        at=entry.get("at"),
        rate=float(rate),
        pipelines=tuple(taking_part),
        arguments=arguments,
        merge=None if merge is None else float(merge),
        osf=None if entry.get("osf") is None else mapping(entry["osf"], f"{where}: osf"),
    )


def _world(where: str, given: Any) -> dict[str, Any]:
    from ..build import STEPS
    from ..themes import THEMES

    world = {"theme": "town", "steps": STEPS, "scale": 1.0, **mapping(given, where)}
    _check_keys(world, _WORLD_KEYS, where)
    if not isinstance(world["theme"], str) or world["theme"] not in THEMES:
        raise OGPSAError(f"{where}: there is no theme {world['theme']!r}. There are {', '.join(THEMES)}.")
    if not _is_whole(world["steps"]) or world["steps"] < 1:
        raise OGPSAError(f"{where}: steps must be a whole number above 0, and it is {world['steps']!r}.")
    if not _is_number(world["scale"]) or not 0 < world["scale"] <= 1:
        raise OGPSAError(f"{where}: scale must be above 0 and at most 1, and it is {world['scale']!r}.")
    return {**world, "scale": float(world["scale"])}


def _seeds(file: Path, given: Any) -> tuple[int, ...]:
    if not isinstance(given, list) or not given or not all(_is_whole(seed) and 0 <= seed < _MOST for seed in given):
        raise OGPSAError(f"{file}: seeds must be a list of whole numbers from 0 to {_MOST - 1}, and it is {given!r}.")
    if len(set(given)) != len(given):
        raise OGPSAError(f"{file}: seeds: one of them is there twice.")
    return tuple(given)
