"""Refusals and checks before the model loads: what OGPSA cannot do in this version, said by name."""

import inspect
import logging
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint

from ..checkpoint import holds_optimizer, is_whole, last_whole
from ..engines import UNSUITABLE_OPTIMIZERS
from ..errors import OGPSAError
from .compat import llamafactory_version
from .optimizers import check_step


logger = logging.getLogger(__name__)

# (group of arguments, attribute, what it is). All of them step inside the backward pass or keep gradients elsewhere.
_REFUSED_SWITCHES = [
    ("finetuning", "use_mca", "Megatron (MCA)"),
    ("finetuning", "use_hyper_parallel", "HyperParallel"),
    ("finetuning", "use_badam", "BAdam (it trains one block of parameters at a time)"),
    ("finetuning", "galore_layerwise", "layer-wise GaLore (it steps inside the backward pass)"),
    ("finetuning", "apollo_layerwise", "layer-wise APOLLO (it steps inside the backward pass)"),
    ("model", "use_kt", "KTransformers"),
    ("model", "use_unsloth", "Unsloth"),
    ("training", "use_megatron_bridge", "Megatron-Bridge"),
    ("training", "fp8", "FP8"),
    ("training", "parallelism_config", "tensor, context or sequence parallelism"),
]
_STEPPING_IN_BACKWARD = ("lomo", "layerwise")

# Keys of DeepSpeed's configuration that put gradients where no engine looks, and what they are.
_REFUSED_DEEPSPEED = {
    "zero_optimization.zenflow": "ZenFlow",
    "zero_optimization.mics_shard_size": "MiCS",
    "zero_optimization.offload_optimizer.super_offload": "SuperOffload",
    "tensor_parallel.autotp_size": "tensor parallelism",
    "compile.deepcompile": "DeepCompile",
}


def check_supported(model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any) -> None:
    """Refuse engines and optimizers whose gradients OGPSA cannot reach.

    Where one sequence at a time is all that is possible, ``ogpsa_reference_batch_size`` is set to 1.

    Args:
        model_args: LLaMA-Factory's model arguments.
        data_args: its data arguments.
        training_args: its training arguments.
        finetuning_args: its fine-tuning arguments.

    Raises:
        OGPSAError: naming the option that stands in the way.
    """
    refuse_switches("model", model_args)
    refuse_switches("training", training_args)
    refuse_switches("finetuning", finetuning_args)
    flash_attention = str(getattr(model_args.flash_attn, "value", model_args.flash_attn))
    rows = finetuning_args.ogpsa_reference_batch_size
    if data_args.neat_packing and flash_attention == "fa2":
        if rows not in (None, 1):
            raise OGPSAError(
                f"ogpsa_reference_batch_size: {rows} is not possible with neat_packing and flash_attn: fa2, which "
                "take one sequence at a time. Set it to 1."
            )
        finetuning_args.ogpsa_reference_batch_size = 1
        if finetuning_args.ogpsa_reference_loss == "lm_both":
            raise OGPSAError(
                "ogpsa_reference_loss: lm_both is not possible with neat_packing and flash_attn: fa2, which take one "
                "sequence at a time. Use ogpsa_reference_loss: sft."
            )
    optimizer = str(getattr(training_args.optim, "value", training_args.optim))
    if any(word in optimizer for word in _STEPPING_IN_BACKWARD):
        raise OGPSAError(
            f"use_ogpsa does not work with optim: {optimizer}: it steps inside the backward pass, so there is no "
            "accumulated gradient to project. Use e.g. optim: adamw_torch."
        )

    settings = _deepspeed_settings(training_args)
    if settings is not None:
        check_deepspeed(settings)
    if finetuning_args.ogpsa_project != "gradient" and not finetuning_args.ogpsa_monitor_only:
        check_step(optimizer, settings, finetuning_args)
    if training_args.fsdp:
        warn_of_fsdp(training_args)


def _deepspeed_settings(training_args: Any) -> Any:
    """DeepSpeed's configuration: of the ``deepspeed`` argument, or what `accelerate launch` was given; or None."""
    plugin = training_args.deepspeed_plugin
    return None if plugin is None else plugin.hf_ds_config


def check_deepspeed(settings: Any) -> None:
    """Refuse what a DeepSpeed configuration switches on and OGPSA cannot work with.

    Args:
        settings: transformers' or accelerate's ``HfDeepSpeedConfig``.

    Raises:
        OGPSAError: naming the key.
    """
    for key, what in _REFUSED_DEEPSPEED.items():
        value = settings.get_value(key)
        if value is True or isinstance(value, dict) or (isinstance(value, int) and value > 1):
            raise OGPSAError(
                f"use_ogpsa does not work with {key} in the deepspeed configuration: {what} is not supported. "
                "Remove it."
            )
    ratio = settings.get_value("zero_optimization.offload_optimizer.ratio", 1)
    if isinstance(ratio, (int, float)) and ratio < 1:
        raise OGPSAError(
            f"use_ogpsa does not work with zero_optimization.offload_optimizer.ratio: {ratio} in the deepspeed "
            "configuration: it leaves a part of the gradients on the GPU. Remove it."
        )
    optimizer = str(settings.get_value("optimizer.type", ""))
    if optimizer.lower() in UNSUITABLE_OPTIMIZERS:
        raise OGPSAError(
            f"use_ogpsa does not work with optimizer.type: {optimizer} in the deepspeed configuration: it does not "
            "step with the averaged gradient. Use AdamW, or remove the section to use optim."
        )


def warn_of_fsdp(training_args: Any) -> None:
    """Warn where FSDP does something else than one may think.

    Args:
        training_args: LLaMA-Factory's training arguments.
    """
    if training_args.use_cpu:
        logger.warning("fsdp is not what runs: on CPUs, Accelerate trains with DDP, with or without OGPSA.")
    # Accelerate's default with FSDP2; transformers 5.6 passes over fsdp_config's own state_dict_type.
    kind = os.environ.get("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT")
    if int(training_args.fsdp_config.get("version", 1)) == 2 and kind != "FULL_STATE_DICT":
        logger.warning(
            "With FSDP2 and FSDP_STATE_DICT_TYPE=%s the run leaves sharded weights and no model.safetensors: set "
            "FSDP_STATE_DICT_TYPE=FULL_STATE_DICT in the environment to have one.",
            kind,
        )


def refuse_switches(group: str, arguments: Any) -> None:
    """Refuse every option of one group of arguments that OGPSA cannot work with.

    Args:
        group: ``model``, ``training`` or ``finetuning``.
        arguments: LLaMA-Factory's arguments of that group.

    Raises:
        OGPSAError: naming the option.
    """
    for owner, attribute, what in _REFUSED_SWITCHES:
        if owner == group and getattr(arguments, attribute, None):
            raise OGPSAError(f"use_ogpsa does not work with {attribute}: {what} is not supported. Switch it off.")


def warn_of_ignored_loss(finetuning_args: Any) -> None:
    """Warn where LLaMA-Factory computes another preference loss than the one that was asked for.

    TRL since 0.24 takes the kind of loss as an argument of ``dpo_loss``, which LLaMA-Factory 0.9.5 does not pass.

    Args:
        finetuning_args: LLaMA-Factory's fine-tuning arguments.
    """
    asked = finetuning_args.pref_loss
    if finetuning_args.stage != "dpo" or not finetuning_args.use_ref_model or asked == "sigmoid":
        return
    from trl import DPOTrainer

    argument = inspect.signature(DPOTrainer.dpo_loss).parameters.get("loss_type")
    if argument is not None and argument.default != asked:
        logger.warning(
            "pref_loss: %s is not what is computed: LLaMA-Factory %s with TRL %s computes the %s loss, with or "
            "without OGPSA.",
            asked,
            llamafactory_version(),
            version("trl"),
            argument.default,
        )


def warn_of_nvme(training_args: Any) -> None:
    """Warn where a resumed run cannot be the unbroken one, with or without OGPSA.

    DeepSpeed 0.19.8 does not restore the weights and the optimizer state that are on NVMe.

    Args:
        training_args: LLaMA-Factory's training arguments.
    """
    settings = _deepspeed_settings(training_args)
    if settings is None or not training_args.resume_from_checkpoint:
        return
    if settings.get_value("zero_optimization.offload_optimizer.device") == "nvme":
        logger.warning(
            "DeepSpeed %s does not restore what offload_optimizer has on NVMe, with or without OGPSA: the run that is "
            "resumed from %s is not the unbroken one. Use device: cpu to resume exactly.",
            version("deepspeed"),
            training_args.resume_from_checkpoint,
        )


def skip_broken_checkpoint(training_args: Any) -> None:
    """Resume from the last *complete* checkpoint if the last one was cut short, e.g. by a kill while it was written.

    The Trainer writes ``trainer_state.json`` last, so a checkpoint that has a readable one is whole. Only checkpoints
    in the run's own output folder are passed over; one that the user names elsewhere is left to the Trainer.

    Args:
        training_args: LLaMA-Factory's training arguments; ``resume_from_checkpoint`` is changed in place.
    """
    if training_args.resume_from_checkpoint is True:
        training_args.resume_from_checkpoint = get_last_checkpoint(training_args.output_dir)
    chosen = training_args.resume_from_checkpoint
    if not isinstance(chosen, str) or Path(chosen).resolve().parent != Path(training_args.output_dir).resolve():
        return
    if is_whole(Path(chosen)):
        if not holds_optimizer(Path(chosen)):
            logger.warning(
                "%s holds no optimizer state (save_only_model): the resumed run is not the unbroken one.",
                chosen,
            )
        return
    best = last_whole(Path(training_args.output_dir))
    logger.warning(
        "%s is incomplete; %s.", chosen, f"resuming from {best}" if best else "training starts from the beginning"
    )
    training_args.resume_from_checkpoint = None if best is None else str(best)
