"""Accelerators: what one can compute and hold."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import OGPSAError


@dataclass(frozen=True)
class Gpu:
    """One kind of accelerator.

    Attributes:
        name: for people and the command line.
        tflops: peak of dense bf16 matrix products, 10^12 operations per second.
        memory: in 10^9 bytes.
        words: of the name that the driver gives it, all of which must be there.
    """

    name: str
    tflops: float
    memory: float
    words: tuple[str, ...]


# From the vendors' data sheets; where a sheet gives the figure with sparsity only, half of it. The more particular
# names come first: a driver's name is matched in this order.
GPUS = (
    Gpu("B200", 2250, 180, ("B200",)),
    Gpu("H200", 989.4, 141, ("H200",)),
    Gpu("H100-PCIe", 756, 80, ("H100", "PCIE")),
    Gpu("H100", 989.4, 80, ("H100",)),
    Gpu("A100-80", 312, 80, ("A100", "80GB")),
    Gpu("A100-40", 312, 40, ("A100",)),
    Gpu("L40S", 362, 48, ("L40S",)),
    Gpu("A40", 149.7, 48, ("A40",)),
    Gpu("A6000", 154.8, 48, ("RTX A6000",)),
    Gpu("A10", 125, 24, ("A10",)),
    Gpu("L4", 121, 24, ("L4",)),
    Gpu("4090", 165.2, 24, ("4090",)),
    Gpu("3090", 71, 24, ("3090",)),
)
_PAPER = "A100-80"  # the paper says "8 GPUs, 80 GB" and not which


@dataclass(frozen=True)
class Hardware:
    """What the runs are planned for.

    Attributes:
        gpu: the kind.
        count: how many.
        source: where that is from, in words.
    """

    gpu: Gpu
    count: int
    source: str


def choose(name: str | None, count: int | None) -> Hardware:
    """Find out what to plan for: what is asked for, or the GPUs of this machine, or the paper's.

    Args:
        name: of a kind in `GPUS`; None to look.
        count: of GPUs; None to look.

    Returns:
        The hardware.

    Raises:
        OGPSAError: for an unknown name, or a number below 1.
    """
    if count is not None and count < 1:
        raise OGPSAError(f"--gpus {count} is not possible: 1 or more are.")
    here = [] if name is not None else _here()
    if name is None and here:
        gpu = _by_driver(here[0])
        return Hardware(gpu, count or len(here), "the GPUs of this machine" if count is None else "this machine's GPU")
    known = {gpu.name.lower(): gpu for gpu in GPUS}
    wanted = (name or _PAPER).lower()
    if wanted not in known:
        raise OGPSAError(f"--gpu {name} is not in the table. It has: {', '.join(gpu.name for gpu in GPUS)}.")
    source = "asked for" if name else "the paper's are 8 GPUs of 80 GB; which ones is assumed"
    return Hardware(known[wanted], count or 8, source)


def _by_driver(driver: str) -> Gpu:
    for gpu in GPUS:
        if all(word.lower() in driver.lower() for word in gpu.words):
            return gpu
    raise OGPSAError(
        f"This machine's GPU, {driver}, is not in the table of peak figures. Name one that is near it with --gpu: "
        f"{', '.join(gpu.name for gpu in GPUS)}."
    )


def _here() -> list[str]:
    """Names of the GPUs that torch sees."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
