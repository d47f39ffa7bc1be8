"""Time of one projection where ranks share the gradient: gloo processes, one thread each."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from common import machine, seconds_of, shapes, spread

from ogpsa_factory import CapabilitySubspace
from ogpsa_factory.fused import FusedKernels


def measure(size: str, ranks: list[int], k: int, rounds: int) -> dict[str, Any]:
    """Project a gradient that is cut into as many parts as there are ranks.

    Args:
        size: key of ``SIZES``.
        ranks: numbers of processes.
        k: directions.
        rounds: measured projections.

    Returns:
        Per number of ranks the seconds of the slowest rank.
    """
    results = []
    for count in ranks:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(_work, args=(count, size, k, rounds, folder), nprocs=count)
            slowest = torch.stack([torch.load(Path(folder) / str(i)) for i in range(count)]).amax(dim=0)
        results.append({"ranks": count, "seconds": spread(slowest.tolist())})
    parameters = sum(shape.numel() for shape in shapes(size))
    return {"size": size, "parameters": parameters, "k": k, "results": results, **machine(torch.device("cpu"))}


def _work(rank: int, count: int, size: str, k: int, rounds: int, folder: str) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{os.path.join(folder, 'meeting')}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=count)

    def summed(tensor: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(tensor)
        return tensor

    device = torch.device("cpu")
    sizes = [-(-shape.numel() // count) for shape in shapes(size)]
    subspace = CapabilitySubspace(reduce=summed if count > 1 else (lambda sums: sums), kernels=FusedKernels(device))
    subspace.refresh(([torch.randn(n) for n in sizes] for _ in range(k)), k)
    target = [torch.randn(n) for n in sizes]
    seconds = []
    for number in range(rounds + 2):
        dist.barrier()
        taken = seconds_of(lambda: subspace.project_(target), device)
        if number >= 2:
            seconds.append(taken)
    torch.save(torch.tensor(seconds), Path(folder) / str(rank))
    dist.barrier()
    dist.destroy_process_group()
