"""From a model's configuration to the shapes of its parameters: the model is built without memory behind it."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import OGPSAError
from .memory import Shape
from .settings import Tuning


@dataclass
class Parameters:
    """A model's parameters, tied ones once.

    Attributes:
        kind: class of the model.
        names: of the trained parameters.
        trained: shapes of the trained parameters.
        units: FSDP1's unit of each trained parameter.
        frozen: shapes of the parameters that are not trained.
        remarks: what could not be counted exactly.
    """

    kind: str
    names: list[str]
    trained: list[Shape]
    units: list[int]
    frozen: list[Shape]
    remarks: list[str] = field(default_factory=list)


def read_parameters(source: str, tuning: Tuning, trust_remote_code: bool = False) -> Parameters:
    """Count a model's parameters, as LLaMA-Factory would train them.

    Args:
        source: a folder with a ``config.json``, such a file, or a name on the hub.
        tuning: which of them are trained.
        trust_remote_code: whether code that comes with the model may be run.

    Returns:
        The parameters.

    Raises:
        OGPSAError: if the configuration cannot be read or made a language model of, or a name in ``tuning`` fits
            nothing.
    """
    config = _config(source, trust_remote_code)
    model = _build(config, source, trust_remote_code)
    kind, remarks = type(model).__name__, _freeze_vision(model, tuning)
    if tuning.method == "lora":
        model = _add_lora(model, tuning)
    elif tuning.method == "freeze":
        _freeze_layers(model, tuning)
    named = list(model.named_parameters())
    names = [name for name, p in named if p.requires_grad]
    if not names:
        raise OGPSAError(f"Nothing of {source} would be trained. Change what is frozen or the target modules.")
    return Parameters(
        kind,
        names,
        [p.shape for _, p in named if p.requires_grad],
        # Trainer wraps every trained part of an adapter by itself, otherwise every layer and what is around them.
        list(range(len(names))) if tuning.method == "lora" else _layers(names),
        [p.shape for _, p in named if not p.requires_grad],
        remarks,
    )


def _config(source: str, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    path = Path(source)
    if path.is_dir() and not (path / "config.json").is_file():
        raise OGPSAError(f"{source} has no config.json. Name the folder that holds the model's files.")
    hub_name = re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", source) and path.suffix not in (".json", ".yaml", ".yml")
    if not path.exists() and not hub_name:
        raise OGPSAError(
            f"{source} does not exist. Name a model's folder or config.json, a name on the hub, or a training file."
        )
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    except Exception as error:  # the hub's client and transformers raise what they like
        where = "cannot be read" if path.exists() else "is neither here nor can it be fetched from the hub"
        raise OGPSAError(
            f"The configuration of {source} {where}: {_first_line(error)} Give a folder with the model's config.json, "
            "or that file; of a model that is not public, log in first."
        ) from None


def _build(config: Any, source: str, trust_remote_code: bool) -> nn.Module:
    """Make the model with the class that LLaMA-Factory would take, without memory."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    sees = type(config) in AutoModelForImageTextToText._model_mapping
    kind: Any = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    try:
        with torch.device("meta"):  # kernels of attention make no difference to shapes, and need not be here
            return kind.from_config(config, trust_remote_code=trust_remote_code, attn_implementation="eager")
    except Exception as error:  # as above; models raise it for values that do not fit each other
        raise OGPSAError(
            f"No language model can be made of the configuration of {source} (model_type: "
            f"{getattr(config, 'model_type', None)}): {_first_line(error)} Name a causal or an image-text model."
        ) from None


def _freeze_vision(model: nn.Module, tuning: Tuning) -> list[str]:
    """Freeze what is not the language model, which is LLaMA-Factory's default."""
    names = [name for name, _ in model.named_parameters()]
    if not any("language_model" in name for name in names):
        return []
    if not tuning.freeze_vision:
        return ["The vision tower and the projector are counted as trained."]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("language_model" in name or "lm_head" in name)
    return ["Of this image-text model the language model is trained, the rest is counted as frozen."]


def _add_lora(model: Any, tuning: Tuning) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    text = {name for name, module in model.named_modules() if any(p.requires_grad for p in module.parameters())}
    linear = [
        name
        for name, module in model.named_modules()
        if name in text and module is not head and "lm_head" not in name and "Linear" in type(module).__name__
    ]
    whole = all(p.requires_grad for p in model.parameters())
    if tuning.targets == ["all"]:
        targets = sorted({name.rpartition(".")[2] for name in linear}) if whole else linear
    elif whole:
        targets = tuning.targets
    else:
        targets = [name for name in linear if any(target in name for target in tuning.targets)]
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=tuning.rank,
        target_modules=targets,
        modules_to_save=tuning.additional or None,
        use_dora=tuning.dora,
    )
    try:
        with torch.device("meta"):
            return get_peft_model(model, settings)
    except Exception as error:  # peft raises ValueError of most things, but not of all
        raise OGPSAError(
            f"LoRA with rank {tuning.rank} on {', '.join(tuning.targets)} does not fit this model: "
            f"{_first_line(error)} Its linear layers are "
            f"{', '.join(sorted({name.rpartition('.')[2] for name in linear})) or 'none'}."
        ) from None


def _freeze_layers(model: nn.Module, tuning: Tuning) -> None:
    """Train some of the numbered layers, and what else is named, as ``finetuning_type: freeze`` does."""
    names = [name for name, _ in model.named_parameters()]
    config: Any = model.config
    layers = int(getattr(config, "text_config", config).num_hidden_layers)
    count = tuning.freeze_layers
    chosen = range(max(0, layers - count), layers) if count > 0 else range(min(-count, layers))
    wanted = [f".{i}.{'' if module == 'all' else module}" for i in chosen for module in tuning.freeze_modules]
    wanted += tuning.freeze_extra
    unknown = [each for each in wanted if not any(each in name for name in names)]
    if unknown:
        raise OGPSAError(
            f"No parameter has {unknown[0]} in its name. Change freeze_trainable_modules or _extra_modules."
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and any(each in name for each in wanted))


def _layers(names: list[str]) -> list[int]:
    """Number of the innermost numbered layer each parameter is in; those in none share a number."""
    found = [re.match(r".*?\.\d+(?=\.)", name) for name in names]
    order: dict[str, int] = {}
    return [order.setdefault(match.group(0) if match else "", len(order)) for match in found]


def _first_line(error: Exception) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if line.endswith((".", "!", "?")) else f"{line}."
