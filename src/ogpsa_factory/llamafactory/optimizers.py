"""Which optimizers' steps can be projected as ``ogpsa_project`` asks, said before the model loads."""

import logging
from typing import Any

from ..errors import OGPSAError


logger = logging.getLogger(__name__)

# Arguments of LLaMA-Factory that put another optimizer in the place of `optim`.
_REPLACING = ("use_galore", "use_apollo", "use_adam_mini", "use_muon")
_READABLE = ("adamw_torch", "adamw_torch_fused", "adamw_apex_fused", "sgd")


def check_step(optimizer: str, settings: Any, finetuning_args: Any) -> None:
    """Refuse what stands in the way of ``ogpsa_project: update`` and ``preconditioned``.

    Args:
        optimizer: LLaMA-Factory's ``optim``.
        settings: DeepSpeed's configuration, or None.
        finetuning_args: LLaMA-Factory's fine-tuning arguments.

    Raises:
        OGPSAError: naming the optimizer or the key.
    """
    project = finetuning_args.ogpsa_project
    if finetuning_args.pure_bf16 and settings is None:  # DeepSpeed keeps float32 weights all the same
        logger.warning(
            "With pure_bf16 there are no float32 weights: what ogpsa_project: %s removes from a step is often less "
            "than the spacing of bfloat16, and is lost; see ogpsa/leak. Use bf16: true without pure_bf16.",
            project,
        )
    if settings is not None and settings.get_value("zero_optimization.offload_optimizer.device") == "nvme":
        raise OGPSAError(
            f"ogpsa_project: {project} does not work with zero_optimization.offload_optimizer.device: nvme, which "
            "puts weights away before all are stepped. Use device: cpu, or ogpsa_project: gradient."
        )
    if settings is not None and settings.get_value("optimizer.legacy_fusion"):
        raise OGPSAError(
            f"ogpsa_project: {project} does not work with optimizer.legacy_fusion in the deepspeed configuration, "
            "which writes the model's weights within the optimizer's step. Remove it."
        )
    if project == "preconditioned":
        setting, instead = "ogpsa_project: preconditioned", "ogpsa_project: update"
    elif finetuning_args.ogpsa_project_momentum != "never":
        setting = f"ogpsa_project_momentum: {finetuning_args.ogpsa_project_momentum}"
        instead = "ogpsa_project_momentum: never"
    else:
        return
    name = _unreadable(optimizer, settings, finetuning_args)
    if name is not None:
        raise OGPSAError(
            f"{setting} does not work with {name}: it keeps no second moment per weight that can be read. Use optim: "
            f"adamw_torch, or {instead}, which works with any optimizer."
        )


def _unreadable(optimizer: str, settings: Any, finetuning_args: Any) -> str | None:
    """The setting that asks for an optimizer other than AdamW or SGD, None if there is none."""
    replaced = next((name for name in _REPLACING if getattr(finetuning_args, name, False)), None)
    if replaced is not None:
        return replaced
    configured = None if settings is None else settings.get_value("optimizer.type")
    if configured is not None:
        return None if configured.lower() in ("adam", "adamw", "sgd") else f"optimizer.type: {configured}"
    return None if optimizer in _READABLE else f"optim: {optimizer}"
