"""Which engine runs a model: read off the object that the training loop calls; the unknown is refused by name."""

from collections.abc import Callable
from typing import Any, cast

from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ..errors import OGPSAError
from . import UNSUITABLE_OPTIMIZERS
from .base import Engine
from .bf16 import BF16Engine
from .fsdp1 import FSDP1Engine
from .fsdp2 import FSDP2Engine
from .native import NativeEngine
from .zero0 import Zero0Engine
from .zero3 import Zero3Engine
from .zero12 import Zero12Engine


# DeepSpeed's wrapper of the optimizer -> our engine, and the private attributes that it reads.
_DEEPSPEED: dict[str, tuple[Callable[[Any], Engine], str]] = {
    "DeepSpeedZeroOptimizer": (
        Zero12Engine,
        "averaged_gradients all_grad_tensors params_in_partition grad_start_offset grad_partition_insertion_offset "
        "partition_size real_dp_process_group single_partition_of_fp32_groups micro_step_id cpu_offload "
        "partition_gradients gradient_accumulation_dtype master_weights_and_grads_dtype ready_for_gradients "
        "setup_buckets _release_ipg_buffers _release_preflattened_grad_buffers _wait_for_offload_copies "
        "reset_cpu_buffers parallel_partitioned_bit16_groups _optimizer_step",
    ),
    "DeepSpeedZeroOptimizer_Stage3": (
        Zero3Engine,
        "averaged_gradients fp16_groups grad_partitions_flat_buffer fp32_partitioned_groups_flat grad_position "
        "micro_step_id offload_optimizer swap_optimizer gradient_accumulation_dtype master_weights_and_grads_dtype "
        "_offload_boundary_param_ids _swappable_optimizer_subgroup _optimizer_states_and_gradient_swap_in "
        "_release_swap_buffers _writeback_swap_state _constant_buffered_norm2 reset_cpu_buffers "
        "sub_group_to_group_id _optimizer_step _reassign_or_swap_out_partitioned_parameters",
    ),
    "BF16_Optimizer": (
        BF16Engine,
        "bf16_groups fp32_groups_gradients fp32_groups_gradients_flat fp32_groups_has_gradients grad_acc_dtype "
        "clear_hp_grads fp32_groups_flat_partition real_dp_process_group",
    ),
    "FP16_Optimizer": (Zero0Engine, ""),  # also of bfloat16 weights; the unfused one is for optimizers but FusedAdam
    "FP16_UnfusedOptimizer": (Zero0Engine, ""),
}


def select_engine(model: nn.Module, wrapped: Any, scaler: Any = None) -> Engine:
    """Make the engine for a model that is ready to be trained.

    Args:
        model: the model itself.
        wrapped: what the training loop calls.
        scaler: the ``GradScaler`` of fp16 training, if any.

    Returns:
        The engine.

    Raises:
        OGPSAError: for a wrapper or optimizer whose gradients are not where an engine looks for them.
    """
    if type(wrapped).__module__.startswith("deepspeed."):
        return _deepspeed_engine(wrapped)
    inner: Any = getattr(wrapped, "_orig_mod", wrapped)  # of torch.compile
    if isinstance(inner, FullyShardedDataParallel):
        return FSDP1Engine(inner, scaler)
    if isinstance(inner, FSDPModule):
        return FSDP2Engine(cast(nn.Module, inner), scaler)
    plain = getattr(model, "_orig_mod", model)
    if inner is plain or isinstance(inner, (DataParallel, DistributedDataParallel)):
        return NativeEngine(model, wrapped, scaler)
    raise OGPSAError(
        f"use_ogpsa does not know where {type(inner).__module__}.{type(inner).__name__} keeps gradients. Train in one "
        "process or with DDP, DeepSpeed ZeRO or FSDP."
    )


def _deepspeed_engine(wrapped: Any) -> Engine:
    import deepspeed

    optimizer = wrapped.optimizer
    kind, inner = type(optimizer).__name__, type(wrapped.basic_optimizer).__name__
    if type(wrapped) is not deepspeed.DeepSpeedEngine:
        raise OGPSAError(
            f"use_ogpsa does not work with DeepSpeed's {type(wrapped).__name__}. Use a plain ZeRO configuration."
        )
    if inner.lower() in UNSUITABLE_OPTIMIZERS:
        raise OGPSAError(
            f"use_ogpsa does not work with DeepSpeed's optimizer {inner}: it does not step with the averaged "
            "gradient. Use AdamW."
        )
    if optimizer is wrapped.basic_optimizer:  # ZeRO-0 in float32
        return Zero0Engine(wrapped)
    if kind not in _DEEPSPEED:
        raise OGPSAError(
            f"use_ogpsa does not know DeepSpeed's {kind} (DeepSpeed {deepspeed.__version__}). Use ZeRO 0, 1, 2 or 3 "
            "without MiCS, ZenFlow and SuperOffload."
        )
    engine, attributes = _DEEPSPEED[kind]
    missing = [name for name in attributes.split() if not hasattr(optimizer, name)]
    if missing:
        raise OGPSAError(
            f"DeepSpeed {deepspeed.__version__}'s {kind} has no {', '.join(missing)}, which OGPSA reads gradients by. "
            "Install the version that `ogpsa doctor` names."
        )
    return engine(wrapped)
