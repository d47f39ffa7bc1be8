"""Runs several LLaMA-Factory configurations one after the other in each rank of a ``torchrun``."""

import gc
import json
import os
import sys
from pathlib import Path

import torch.distributed as dist
from llamafactory.train.tuner import run_exp


destroy, dist.destroy_process_group = dist.destroy_process_group, lambda: None  # a run ends by destroying the group
for config in json.loads(Path(sys.argv[1]).read_text()):
    run_exp(config)
    gc.collect()
    gc.freeze()  # every run collects garbage, which takes long for the libraries and for what earlier runs have left
destroy()
sys.stdout.flush()
os._exit(0)  # one in some twenty gloo processes aborts while Python shuts down, with all work done
