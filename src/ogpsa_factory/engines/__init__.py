"""Engines: where each training engine keeps its gradients (see :mod:`ogpsa_factory.engines.base` for the contract)."""

from .base import Engine
from .native import NativeEngine


# What `ogpsa doctor` prints and what the refusals say, in one place.
SUPPORT = {
    "one process": "supported",
    "DDP": "supported",
    "DeepSpeed ZeRO": "not yet in this version",
    "FSDP": "not yet in this version",
}

__all__ = ["SUPPORT", "Engine", "NativeEngine"]
