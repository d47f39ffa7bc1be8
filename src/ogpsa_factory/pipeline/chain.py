"""Chaining: what one stage has trained is what the next one starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import OGPSAError
from .definition import Definition, Layers


_DEFAULT_KIND = "lora"  # LLaMA-Factory's default finetuning_type
_ADAPTER_KINDS = ("lora", "oft")


@dataclass(frozen=True)
class Stage:
    """One stage with all the arguments that LLaMA-Factory gets."""

    number: int  # from 1
    name: str
    config: dict[str, Any]
    merges: bool = False  # its arguments are those of `ogpsa merge`: merge_base, model_name_or_path, merge

    @property
    def output(self) -> Path:
        """Folder of LLaMA-Factory's output."""
        return Path(self.config["output_dir"])

    @property
    def base(self) -> Path | None:
        """Folder of the model, or of the one that it is merged with, if it is here and outside the run directory."""
        path = Path(str(self.config.get("merge_base" if self.merges else "model_name_or_path", "")))
        inside = path.resolve().is_relative_to(self.output.parent.resolve())
        return path if path.is_dir() and not inside else None


@dataclass(frozen=True)
class _Trained:
    """A model: where it is, and the adapters on top of it."""

    model: str | None
    adapters: list[str]


def chain(definition: Definition) -> list[Stage]:
    """Resolve every stage's arguments: its output folder, and the model that it starts from.

    After full or freeze training, the next stage's model is the output. After adapter training, the model stays and
    the adapters are handed on with ``create_new_adapter``: LLaMA-Factory then merges them and trains a new adapter on
    top, so the reference policy of a DPO stage (the model without its new adapter) is the model of the stage before.
    A stage that merges averages the model before it with the one that the first stage starts from.

    Args:
        definition: the stages as they were asked for.

    Returns:
        One stage per entry. Nothing but ``output_dir``, ``model_name_or_path``, ``adapter_name_or_path`` and
        ``create_new_adapter`` differs from what was asked for.

    Raises:
        OGPSAError: a stage cannot start from what the one before it leaves.
    """
    stages: list[Stage] = []
    trained: _Trained | None = None
    for number, layers in enumerate(definition.stages, start=1):
        if layers.merges:
            config = _merge(trained, stages, layers, definition.run_dir)
            trained = _Trained(config["output_dir"], [])
            stages.append(Stage(number, layers.name, config, merges=True))
            continue
        config = layers.merged()
        config["output_dir"] = str(definition.run_dir / layers.name)
        if trained is not None:
            _start_from(trained, config, layers, stages[-1].name)
        if trained is None or config["do_train"]:
            trained = _result(config)
        stages.append(Stage(number, layers.name, config))
    return stages


def adapters_of(config: dict[str, Any]) -> list[str]:
    """Paths of the adapters that a stage starts from.

    Args:
        config: a stage's arguments.

    Returns:
        The comma-separated ``adapter_name_or_path``, taken apart.
    """
    return [path.strip() for path in str(config.get("adapter_name_or_path") or "").split(",") if path.strip()]


def trained_adapters(config: dict[str, Any]) -> list[str]:
    """Adapters that make up a stage's result, on top of its ``model_name_or_path``.

    Args:
        config: a stage's arguments.

    Returns:
        Their paths, the stage's output last; none where the stage trains the model itself.
    """
    if config.get("finetuning_type", _DEFAULT_KIND) not in _ADAPTER_KINDS:
        return []
    before = adapters_of(config)
    # Without create_new_adapter, LLaMA-Factory goes on training the last one, and the output takes its place.
    kept = before if config.get("create_new_adapter") else before[:-1]
    return [*kept, config["output_dir"]]


def _result(config: dict[str, Any]) -> _Trained:
    if not config["do_train"]:
        return _Trained(config.get("model_name_or_path"), adapters_of(config))
    adapters = trained_adapters(config)
    return _Trained(config.get("model_name_or_path") if adapters else config["output_dir"], adapters)


def _merge(trained: _Trained | None, stages: list[Stage], layers: Layers, run_dir: Path) -> dict[str, Any]:
    if trained is None:
        raise OGPSAError(f"Stage {layers.name} merges what a stage before it has trained, and it is the first one.")
    first = stages[0].config
    if trained.adapters or adapters_of(first):
        whose = f"stage {stages[-1].name} leaves an adapter" if trained.adapters else "the pipeline starts from one"
        raise OGPSAError(
            f"Stage {layers.name} averages whole models, and {whose}. Train with finetuning_type: full, or export "
            "with `llamafactory-cli export` and average with `ogpsa merge`."
        )
    config = {"merge_base": first.get("model_name_or_path"), "model_name_or_path": trained.model}
    for key, model in config.items():
        if model is None:
            raise OGPSAError(f"Stage {layers.name} has no {key}: set model_name_or_path of stage {stages[0].name}.")
    if first.get("model_revision", "main") != "main":
        config["model_revision"] = first["model_revision"]
    weight = {**layers.config, **layers.named}["merge"]
    # A whole model is left, which is what finetuning_type says to those who look for adapters.
    return {**config, "merge": weight, "finetuning_type": "full", "output_dir": str(run_dir / layers.name)}


def _start_from(trained: _Trained, config: dict[str, Any], layers: Layers, previous: str) -> None:
    if layers.explicit("model_name_or_path"):
        return
    kind = config.get("finetuning_type", _DEFAULT_KIND)
    if trained.model is not None:
        config["model_name_or_path"] = trained.model
    if layers.explicit("adapter_name_or_path"):
        return
    config.pop("adapter_name_or_path", None)
    if not trained.adapters:
        return
    if kind != "lora":
        raise OGPSAError(
            f"Stage {layers.name} (finetuning_type: {kind}) cannot start from the adapter of stage {previous}: "
            "LLaMA-Factory reads adapters in LoRA runs only. Train both with finetuning_type: lora, or merge the "
            f"adapter with `llamafactory-cli export` and name the result as {layers.name}.model_name_or_path."
        )
    config["adapter_name_or_path"] = ",".join(trained.adapters)
    if config["do_train"]:
        config.setdefault("create_new_adapter", True)
