"""Like ddp_worker.py, but Accelerate takes FSDP on CPUs too, where it would silently train with DDP."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import state
from accelerate.utils import DistributedType
from llamafactory.train.tuner import run_exp


initialise = state.AcceleratorState.__init__


def with_fsdp(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    initialise(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        shared = state.PartialState._shared_state
        self.distributed_type = shared["distributed_type"] = DistributedType.FSDP
        self.device = shared["device"] = torch.device("cpu")
        self.fsdp_plugin = fsdp_plugin


state.AcceleratorState.__init__ = with_fsdp
destroy, dist.destroy_process_group = dist.destroy_process_group, lambda: None  # a run ends by destroying the group
for config in json.loads(Path(sys.argv[1]).read_text()):
    state.AcceleratorState._reset_state()
    run_exp(config)
    dist.barrier()  # FSDP's saving leaves gathers under way, which the next run must not meet
destroy()
sys.stdout.flush()
os._exit(0)  # one in some twenty gloo processes aborts while Python shuts down, with all work done
