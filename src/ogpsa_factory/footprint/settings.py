"""What to plan for: from options and, where one is given, a LLaMA-Factory training file."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from ..errors import OGPSAError
from ..grouping import Granularity
from .engines import Precision, Project


DTYPES = ("auto", "float32", "bfloat16")


@dataclass
class Tuning:
    """Which parameters are trained; the defaults are LLaMA-Factory's."""

    method: str = "full"
    rank: int = 8
    targets: list[str] = field(default_factory=lambda: ["all"])
    additional: list[str] = field(default_factory=list)
    dora: bool = False
    freeze_layers: int = 2
    freeze_modules: list[str] = field(default_factory=lambda: ["all"])
    freeze_extra: list[str] = field(default_factory=list)
    freeze_vision: bool = True


@dataclass
class Settings:
    """All that a plan depends on besides the number of ranks; ``engine`` is the one that a training file asks for."""

    model: str
    tuning: Tuning = field(default_factory=Tuning)
    references: int = 2
    rank: int = 1
    subspace_dtype: str = "auto"
    offload: bool = False
    granularity: Granularity = "parameter"
    project: Project = "gradient"
    precision: Precision = "mixed"
    wide_gradients: bool = False
    reference_model: bool = False
    engine: str | None = None
    trust_remote_code: bool = False
    remarks: list[str] = field(default_factory=list)


def read_settings(source: str) -> Settings:
    """Find out what ``source`` is, and what it says.

    Args:
        source: a model or a training file.

    Returns:
        The settings; for a model the defaults.

    Raises:
        OGPSAError: if a file is neither a model's configuration nor a training file, or asks for what has no plan.
    """
    path = Path(source)
    if not path.is_file() or path.suffix.lower() not in (".yaml", ".yml", ".json"):
        return Settings(source)

    from ..released import translate
    from ..translate import read

    given = read([source])
    if path.suffix.lower() == ".json" and ("model_type" in given or "architectures" in given):
        return Settings(source)
    if "stages" in given:
        raise OGPSAError(f"{source} is a pipeline of several stages. Name the training file of one of them.")
    if not given.get("model_name_or_path"):
        raise OGPSAError(
            f"{source} is neither a model's config.json (it has no model_type) nor a training file (it has no "
            "model_name_or_path). Name one of them."
        )
    return _from_training_file(translate(given)[0])


def _from_training_file(given: dict[str, Any]) -> Settings:
    from ..arguments import OGPSAArguments

    own = {name: value for name, value in given.items() if name in OGPSAArguments.__dataclass_fields__}
    ours = OGPSAArguments(**own)
    choices = {
        "ogpsa_subspace_dtype": DTYPES,
        "ogpsa_granularity": get_args(Granularity),
        "ogpsa_project": get_args(Project),
    }
    for name, possible in choices.items():
        if getattr(ours, name) not in possible:
            raise OGPSAError(
                f"{name}: {getattr(ours, name)} is no value that training would take; it must be one of "
                f"{', '.join(possible)}."
            )
    stage = str(given.get("stage", "sft")).removeprefix("ogpsa_")
    settings = Settings(
        str(given["model_name_or_path"]),
        _tuning(given),
        references=len(ours.reference_names) or Settings.references,
        rank=_number(own, "ogpsa_rank", 1),
        subspace_dtype=ours.ogpsa_subspace_dtype,
        offload=bool(ours.ogpsa_offload),
        granularity=ours.ogpsa_granularity,
        project="gradient" if ours.ogpsa_monitor_only else ours.ogpsa_project,
        precision="pure"
        if given.get("pure_bf16")
        else "mixed"
        if given.get("bf16") or given.get("fp16")
        else "float32",
        trust_remote_code=bool(given.get("trust_remote_code")),
    )
    compared = stage == "kto" or (stage == "dpo" and given.get("pref_loss") not in ("orpo", "simpo"))
    settings.reference_model = compared and settings.tuning.method != "lora"
    if not ours.reference_names:
        settings.remarks.append(f"The file names no reference sets; {settings.references} are counted.")
    if given.get("use_cpu") and settings.subspace_dtype == "auto":
        settings.remarks.append(
            "The subspace is counted in bfloat16, as on a GPU; use_cpu keeps the gradients' dtype."
        )
    if given.get("quantization_bit"):
        settings.remarks.append("Frozen weights are counted with 16 bits: quantization_bit makes them smaller.")
    optimizer = str(given.get("optim", "adamw_torch"))
    if not optimizer.startswith("adamw_torch") or any(
        given.get(f"use_{name}") for name in ("galore", "apollo", "muon")
    ):
        settings.remarks.append(
            "The optimizer's state is counted as that of AdamW in float32, and the file has another."
        )
    _read_engine(given, settings)
    return settings


def _tuning(given: dict[str, Any]) -> Tuning:
    method = str(given.get("finetuning_type", "lora"))
    if method not in ("full", "freeze", "lora"):
        raise OGPSAError(f"finetuning_type: {method} has no plan; full, freeze and lora do.")
    return Tuning(
        method,
        _number(given, "lora_rank", 8),
        _words(given.get("lora_target", "all")),
        _words(given.get("additional_target")),
        bool(given.get("use_dora")),
        _number(given, "freeze_trainable_layers", 2),
        _words(given.get("freeze_trainable_modules", "all")),
        _words(given.get("freeze_extra_modules")),
        freeze_vision=bool(given.get("freeze_vision_tower", True)),
    )


def _read_engine(given: dict[str, Any], settings: Settings) -> None:
    """Find the engine that LLaMA-Factory would start, which the file names by DeepSpeed's or FSDP's options."""
    if given.get("deepspeed"):
        _read_deepspeed(_mapping(given["deepspeed"], "deepspeed"), settings, half=bool(given.get("fp16")))
        return
    words = given.get("fsdp") or []
    words = words.split() if isinstance(words, str) else ["full_shard"] if words is True else [str(w) for w in words]
    if not words:
        settings.engine = "ddp"
        return
    if "no_shard" in words:
        settings.engine = "ddp"
        settings.remarks.append("fsdp: no_shard is counted as DDP.")
        return
    if any("hybrid" in word for word in words):
        settings.remarks.append(
            "Hybrid sharding is counted with all ranks in one group: give its size as --world-size."
        )
    options = _mapping(given.get("fsdp_config") or {}, "fsdp_config")
    version = options.get("fsdp_version", options.get("version", 1))
    settings.engine = f"fsdp{2 if str(version) == '2' else 1}" + "-offload" * ("offload" in words)


def _read_deepspeed(options: dict[str, Any], settings: Settings, half: bool) -> None:
    enabled = {name for name in ("bf16", "fp16") if (options.get(name) or {}).get("enabled") is True}
    half = half or "fp16" in enabled
    if enabled:
        settings.precision = "mixed"
    zero = options.get("zero_optimization") or {}
    stage = zero.get("stage", 0)
    if stage not in (0, 1, 2, 3):
        raise OGPSAError(f"The deepspeed configuration has stage: {stage}; it must be 0, 1, 2 or 3.")
    places = {what: str((zero.get(f"offload_{what}") or {}).get("device", "none")) for what in ("optimizer", "param")}
    if "nvme" in places.values():
        settings.remarks.append("What DeepSpeed offloads to NVMe is counted as host memory.")
    moved = places["optimizer"] != "none" and stage > 0
    settings.engine = f"zero{stage}" + "-offload" * moved
    if stage == 3 and places["param"] != "none":
        settings.engine = "zero3-offload-all"
        if not moved:
            settings.remarks.append(
                "Offload of the parameters alone is counted as if the optimizer were offloaded too."
            )
    wide = str((options.get("data_types") or {}).get("grad_accum_dtype")) in ("fp32", "float32")
    settings.wide_gradients = wide and not moved
    if stage == 1 and wide and not moved and settings.precision == "mixed" and not half:
        settings.engine = "bf16"


def _mapping(value: Any, name: str) -> dict[str, Any]:
    """A mapping, or the JSON file that holds it; both are what transformers takes."""
    if isinstance(value, dict):
        return value
    try:
        read = json.loads(Path(str(value)).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OGPSAError(
            f"{name}: {value} cannot be read: {error}. Paths are relative to the working folder."
        ) from None
    if not isinstance(read, dict):
        raise OGPSAError(f"{name}: {value} must map names to values.")
    return read


def _number(given: dict[str, Any], name: str, default: int) -> int:
    value = given.get(name, default)
    try:
        return int(str(value))
    except ValueError:
        raise OGPSAError(f"{name}: {value} is not possible; it must be a whole number.") from None


def _words(value: Any) -> list[str]:
    """Words of a list or of a text with commas."""
    if value is None:
        return []
    parts = value.split(",") if isinstance(value, str) else value
    return [str(part).strip() for part in parts if str(part).strip()]
