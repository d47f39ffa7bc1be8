"""Runs several LLaMA-Factory configurations one after the other in each rank of a ``torchrun``."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from llamafactory.train.tuner import run_exp


# transformers 5.6 loads the optimizer to "cpu:0" when it resumes on CPU ranks, a place that torch.load does not know.
torch.serialization.register_package(
    5, lambda storage: None, lambda storage, place: storage if place.startswith("cpu:") else None
)

destroy, dist.destroy_process_group = dist.destroy_process_group, lambda: None  # a run ends by destroying the group
for config in json.loads(Path(sys.argv[1]).read_text()):
    run_exp(config)
destroy()
