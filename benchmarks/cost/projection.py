"""Time of one projection against the memory's bandwidth, plain and compiled kernels in turn.

The limit is that of (k + 1) d numbers read, then (k + 1) d read and d written, each pass at the bandwidth that the
same tensors gave to the simplest operation of its kind, between the projections.
"""

import copy
from typing import Any

import psutil
import torch
from common import Bandwidth, machine, seconds_of, shapes, spread

from ogpsa_factory import CapabilitySubspace
from ogpsa_factory.basis import Basis
from ogpsa_factory.fused import SHORT, FusedKernels
from ogpsa_factory.kernels import Kernels
from ogpsa_factory.storage import PIECE


DTYPES = {  # gradients and basis
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "float32, basis bfloat16": (torch.float32, torch.bfloat16),
}
DIRECTIONS = (1, 2, 8, 32)
_SLOW = 0.5  # seconds: fewer rounds where one projection takes longer


def measure(sizes: list[str], device: torch.device, rounds: int) -> dict[str, Any]:
    """Run the grid of sizes, dtypes, directions and granularities.

    Args:
        sizes: keys of ``SIZES``.
        device: where gradients are.
        rounds: projections of each kind in a cell.

    Returns:
        One entry per cell, also of those that do not fit in memory.
    """
    kernels = {"plain": Kernels(), "fused": FusedKernels(device)}
    cells = []
    for size in sizes:
        for dtype in DTYPES:
            for k in DIRECTIONS:
                for granularity in ("parameter", "global"):
                    if granularity == "global" and k != 2:
                        continue  # all products first, as where gradients are sharded; one k shows what that costs
                    cells.append(_cell(size, dtype, k, granularity, device, rounds, kernels))
                    print(_line(cells[-1]), flush=True)
    return {"cells": cells, **machine(device)}


def _cell(
    size: str,
    dtype: str,
    k: int,
    granularity: str,
    device: torch.device,
    rounds: int,
    kernels: dict[str, Kernels],
) -> dict[str, Any]:
    tensors = shapes(size)
    of_gradient, of_basis = DTYPES[dtype]
    d = sum(shape.numel() for shape in tensors)
    cell = {"size": size, "parameters": d, "dtype": dtype, "k": k, "granularity": granularity}
    if d * (k * of_basis.itemsize + 3 * of_gradient.itemsize) > 0.5 * _free(device):
        return {**cell, "fits": False}

    def gradient() -> list[torch.Tensor]:
        return [torch.randn(shape, dtype=of_gradient, device=device) for shape in tensors]

    plain = CapabilitySubspace([0] * len(tensors) if granularity == "global" else None, dtype=of_basis)
    plain.refresh((gradient() for _ in range(k)), k)
    subspaces = {name: copy.copy(plain) for name in kernels}
    for name, own in kernels.items():  # long tensors' rows are the same memory; compiled kernels pack short ones
        groups = plain.groups or []
        subspaces[name].basis = Basis(list(plain.basis.matrices), groups, len(plain.norms), k, own)
    target = gradient()
    bandwidth = Bandwidth(target, [basis[0] for basis in plain.basis.matrices if basis is not None], device)
    seconds: dict[str, list[float]] = {name: [] for name in kernels}
    for subspace in subspaces.values():
        subspace.project_(target)
    number = 0
    while number < rounds and not (number >= 3 and max(map(max, seconds.values())) > _SLOW):
        bandwidth.measure()
        for name in sorted(subspaces, reverse=number % 2 == 1):
            seconds[name].append(seconds_of(lambda name=name: subspaces[name].project_(target), device))
        number += 1
    reads = d * (k * of_basis.itemsize + of_gradient.itemsize)
    limit = bandwidth.limit(reads, d * of_gradient.itemsize)
    figures = {
        name: {"seconds": spread(values), "of_limit": limit / spread(values)["median"]}
        for name, values in seconds.items()
    }
    moved = 2 * reads + d * of_gradient.itemsize
    return {
        **cell,
        "fits": True,
        "tensors": len(tensors),
        "calls": _calls([shape.numel() for shape in tensors], granularity),
        "bytes": moved,
        "limit": limit,
        "gb_s": bandwidth.summary(),
        **figures,
    }


def _calls(sizes: list[int], granularity: str) -> int:
    """How many times compiled kernels are called: once where one does both halves, else for each half and piece."""
    length = FusedKernels.piece
    short = sum(size for size in sizes if size < SHORT)
    whole = [size for size in sizes if SHORT <= size <= length and granularity == "parameter"]
    pieces = sum(-(-size // length) for size in sizes if size >= SHORT) - len(whole)
    return len(whole) + 2 * (pieces + -(-short // PIECE))


def _free(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def _line(cell: dict[str, Any]) -> str:
    what = f"{cell['size']}, {cell['dtype']}, k = {cell['k']}, {cell['granularity']}"
    if not cell["fits"]:
        return f"{what}: does not fit in this memory"
    own = (f"{n} {cell[n]['seconds']['median'] * 1e3:.1f} ms ({cell[n]['of_limit']:.0%})" for n in ("plain", "fused"))
    return f"{what}: limit {cell['limit'] * 1e3:.1f} ms, {', '.join(own)}"
