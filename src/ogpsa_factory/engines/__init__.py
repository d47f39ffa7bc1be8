"""Engines: where each training engine keeps its gradients (see :mod:`ogpsa_factory.engines.base` for the contract).

What is here is light: DeepSpeed and FSDP are imported where one of them runs, by :mod:`ogpsa_factory.engines.select`.
"""

from .base import Engine
from .native import NativeEngine


# What `ogpsa doctor` prints: engine -> how it was tested. The README's table has the details.
SUPPORT = {
    "one process": "tested on CPU",
    "DDP": "tested on CPU",
    "DeepSpeed ZeRO-0, 1, 2, 3": "tested on CPU",
    "DeepSpeed with optimizer or parameter offload": "tested on CPU",
    "DeepSpeed with NVMe offload": "tested on CPU, but does not resume",
    "DeepSpeed BF16_Optimizer": "tested on CPU",
    "FSDP1": "tested on CPU, in a loop of its own",
    "FSDP2": "tested on CPU",
    "fp16 with loss scaling": "tested on CPU; DDP and FSDP: in a loop of their own",
}

# DeepSpeed's optimizers that step with something else than the averaged gradient.
UNSUITABLE_OPTIMIZERS = ("onebitadam", "zerooneadam", "onebitlamb", "muon", "muonwithauxadam")

__all__ = ["SUPPORT", "UNSUITABLE_OPTIMIZERS", "Engine", "NativeEngine"]
