"""Runs several LLaMA-Factory configurations one after the other in each rank of a ``torchrun``."""

import gc
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from llamafactory.train.tuner import run_exp

from ogpsa_factory.engines.base import Engine


def compare_copies(engine):
    """What the model computes with is what the optimizer has stepped, in the model's precision."""
    optimizer, rank = getattr(engine, "_optimizer", None), dist.get_rank()
    if hasattr(optimizer, "parallel_partitioned_bit16_groups"):  # ZeRO-1 and 2
        copies = [parts[rank] for parts in optimizer.parallel_partitioned_bit16_groups]
        weights = optimizer.single_partition_of_fp32_groups
    elif hasattr(optimizer, "fp32_partitioned_groups_flat"):  # ZeRO-3
        copies, weights = optimizer.fp16_partitioned_groups_flat, optimizer.fp32_partitioned_groups_flat
    elif hasattr(optimizer, "bf16_partitioned_groups"):
        copies = [parts[rank] for parts in optimizer.bf16_partitioned_groups]
        weights = optimizer.fp32_groups_flat_partition
    else:
        copies, weights = engine._parameters, engine.optimizer_tensors()
        for weight in weights:  # whole on every rank, and stepped by each one for itself
            first = weight.clone()
            dist.broadcast(first, 0)
            assert torch.equal(first, weight)
    for copy, weight in zip(copies, weights, strict=True):
        assert torch.equal(copy.data.flatten(), weight.detach().to(copy.dtype).flatten())


release = Engine.release


def release_compared(engine):
    compare_copies(engine)
    release(engine)


Engine.release = release_compared

destroy, dist.destroy_process_group = dist.destroy_process_group, lambda: None  # a run ends by destroying the group
for config in json.loads(Path(sys.argv[1]).read_text()):
    run_exp(config)
    gc.collect()
    gc.freeze()  # every run collects garbage, which takes long for the libraries and for what earlier runs have left
destroy()
sys.stdout.flush()
os._exit(0)  # one in some twenty gloo processes aborts while Python shuts down, with all work done
