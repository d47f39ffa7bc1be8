"""What every engine keeps, and where: the one table behind all predictions.

The figures for DeepSpeed are those of version 0.19, the ones for FSDP those of Accelerate 1.11, read off their code.
"""

from dataclasses import dataclass
from typing import Literal


Precision = Literal["mixed", "pure", "float32"]
Project = Literal["gradient", "update", "preconditioned"]
Kind = Literal["weights", "gradients", "optimizer"]

# How tensors are divided between ranks. flat: all of them end to end, in equal parts; tensor: each one flattened;
# rows: each one along its first dimension; units: flat within each of FSDP1's units.
Cut = Literal["whole", "flat", "tensor", "rows", "units"]


@dataclass(frozen=True)
class Holding:
    """One thing that an engine keeps; ``size`` is its bytes per parameter, None for what the precision says."""

    kind: Kind
    cut: Cut = "whole"
    host: bool = False
    size: int | None = None


@dataclass(frozen=True)
class EngineFacts:
    """What an engine keeps, and where.

    Attributes:
        label: its name for people.
        family: row of the table of bytes per parameter.
        cut: how the gradients that are projected are divided.
        holdings: what it keeps; the last gradients in the list are those that are projected.
        accumulates: whether its gradients can sum many passes, where they are float32.
    """

    label: str
    family: Literal["native", "zero0", "zero", "fsdp1", "fsdp2"]
    cut: Cut
    holdings: tuple[Holding, ...]
    accumulates: bool

    @property
    def projected(self) -> Holding:
        """The gradients that are projected."""
        return [each for each in self.holdings if each.kind == "gradients"][-1]

    @property
    def stepped(self) -> Holding:
        """The optimizer's state, beside which the weights are that it steps."""
        return next(each for each in self.holdings if each.kind == "optimizer")


def _sharded(cut: Cut, host: bool = False) -> tuple[Holding, ...]:
    return Holding("weights", cut, host), Holding("gradients", cut, host), Holding("optimizer", cut, host)


def _offloaded(cut: Cut, *kept: Holding) -> tuple[Holding, ...]:
    """DeepSpeed's optimizer in host memory: a 16-bit staging buffer, and the float32 gradient that it steps with."""
    return (
        *kept,
        Holding("optimizer", cut, True),
        Holding("gradients", cut, True, 2),
        Holding("gradients", cut, True, 4),
    )


_WEIGHTS, _GRADIENTS = Holding("weights"), Holding("gradients")

ENGINES = {
    "ddp": EngineFacts("one process, DDP", "native", "whole", _sharded("whole"), True),
    "zero0": EngineFacts("ZeRO-0", "zero0", "whole", _sharded("whole"), False),
    "zero1": EngineFacts("ZeRO-1", "zero", "flat", (_WEIGHTS, _GRADIENTS, Holding("optimizer", "flat")), False),
    "bf16": EngineFacts(
        "ZeRO-1, BF16_Optimizer",
        "zero",
        "whole",
        (_WEIGHTS, _GRADIENTS, Holding("optimizer", "flat"), Holding("gradients", size=4)),
        False,
    ),
    "zero1-offload": EngineFacts("ZeRO-1, offload", "zero", "flat", _offloaded("flat", _WEIGHTS, _GRADIENTS), False),
    "zero2": EngineFacts(
        "ZeRO-2", "zero", "flat", (_WEIGHTS, Holding("gradients", "flat"), Holding("optimizer", "flat")), False
    ),
    "zero2-offload": EngineFacts("ZeRO-2, offload", "zero", "flat", _offloaded("flat", _WEIGHTS), False),
    "zero3": EngineFacts("ZeRO-3", "zero", "tensor", _sharded("tensor"), False),
    "zero3-offload": EngineFacts(
        "ZeRO-3, offload", "zero", "tensor", _offloaded("tensor", Holding("weights", "tensor")), False
    ),
    "zero3-offload-all": EngineFacts(
        "ZeRO-3, weights too", "zero", "tensor", _offloaded("tensor", Holding("weights", "tensor", True)), False
    ),
    "fsdp1": EngineFacts("FSDP1", "fsdp1", "units", _sharded("units"), True),
    "fsdp1-offload": EngineFacts("FSDP1, offload", "fsdp1", "units", _sharded("units", True), False),
    "fsdp2": EngineFacts("FSDP2", "fsdp2", "rows", _sharded("rows"), True),
    "fsdp2-offload": EngineFacts("FSDP2, offload", "fsdp2", "rows", _sharded("rows", True), True),
}

# Bytes per parameter: trained weights, frozen weights, gradients, AdamW's state (with DeepSpeed's float32 weights).
# mixed is bf16: true or fp16: true; LLaMA-Factory keeps what it trains in float32 then, and DeepSpeed makes 16 bits of
# it. accelerate makes float32 of FSDP2's frozen weights as well.
SIZES: dict[tuple[str, Precision], tuple[int, int, int, int]] = {
    ("native", "mixed"): (4, 2, 4, 8),
    ("native", "pure"): (2, 2, 2, 4),
    ("native", "float32"): (4, 4, 4, 8),
    ("zero0", "mixed"): (2, 2, 2, 12),
    ("zero0", "pure"): (2, 2, 2, 12),
    ("zero0", "float32"): (4, 4, 4, 8),
    ("zero", "mixed"): (2, 2, 2, 12),
    ("zero", "pure"): (2, 2, 2, 12),
    ("zero", "float32"): (4, 4, 4, 12),
    ("fsdp1", "mixed"): (4, 2, 4, 8),
    ("fsdp1", "pure"): (2, 2, 2, 4),
    ("fsdp1", "float32"): (4, 4, 4, 8),
    ("fsdp2", "mixed"): (4, 4, 4, 8),
    ("fsdp2", "pure"): (2, 2, 2, 4),
    ("fsdp2", "float32"): (4, 4, 4, 8),
}
