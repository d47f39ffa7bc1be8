"""The engine contract on DistributedDataParallel: two gloo processes give the single process's reference gradients."""

import os
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from test_reference import Toy, rows_of
from torch.nn.parallel import DistributedDataParallel

from ogpsa_factory.engines import NativeEngine
from ogpsa_factory.engines.zero12 import Zero12Engine
from ogpsa_factory.reference import BatchSize, collect_gradient, make_reference_set


# Label tokens per row; the last set is smaller than the number of ranks.
SETS = {"even": [3, 1, 4, 1], "uneven": [5, 9, 2, 6, 5, 3, 5], "single": [8]}


def collect(engine, mean_loss, name, batch_size):
    reference = make_reference_set(name, rows_of(SETS[name]), rank=1)
    gradients, loss = collect_gradient(engine, reference, 0, BatchSize(batch_size), mean_loss)
    return gradients[0].clone(), loss


class Loss(torch.nn.Module):
    """DDP reduces gradients of what goes through its ``forward``."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, features):
        return self.model.mean_loss(features)


def rank_program(rank, folder, dtype):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(results_of_rank(rank, dtype), f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()
    os._exit(0)  # one in some twenty gloo processes aborts while Python shuts down, with all work done


def results_of_rank(rank, dtype):
    model = Toy(dtype)
    wrapped = DistributedDataParallel(Loss(model))
    engine = NativeEngine(model, wrapped)
    assert (engine.rank, engine.world_size, engine.replicated) == (rank, 2, True)
    results = {}
    for name in SETS:
        for batch_size in (1, 2, 5):
            left_over = torch.full((3,), 7.0, dtype=dtype)
            model.weight.grad = left_over.clone()
            with engine.set_aside():
                results[name, batch_size] = collect(engine, wrapped, name, batch_size)
                engine.discard()
                assert engine.local_gradients() == [None]
            assert torch.equal(model.weight.grad, left_over)
    assert engine.sum_over_ranks(torch.tensor(float(rank + 1))) == 3
    assert engine.reduce(torch.tensor(float(rank + 1))) == rank + 1
    return results


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_ranks_give_the_whole_sets_gradient(tmp_path, dtype):
    torch.multiprocessing.spawn(rank_program, (str(tmp_path), dtype), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    model = Toy(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for name in SETS:
        model.zero_grad(set_to_none=True)
        expected, loss = collect(NativeEngine(model), model.mean_loss, name, 2)
        for batch_size in (1, 2, 5):
            for results in ranks:
                gradient, own_loss = results[name, batch_size]
                assert torch.allclose(gradient, expected, rtol=tolerance), (name, batch_size)
                assert own_loss == pytest.approx(loss, rel=tolerance)


def test_offloaded_gradients_are_waited_for():
    """DeepSpeed copies them into pinned memory, and by itself waits for that when it steps."""
    flat = torch.zeros(4)
    optimizer = SimpleNamespace(
        single_partition_of_fp32_groups=[SimpleNamespace(grad=flat)],
        _wait_for_offload_copies=lambda: flat.copy_(torch.arange(4.0)),
    )
    engine = Zero12Engine.__new__(Zero12Engine)
    engine._optimizer, engine._offload, engine._layout, engine.names = optimizer, True, [[(0, 1, 3)]], ["weight"]
    flat_read = [gradient.clone() for gradient in engine.local_gradients()]
    assert torch.equal(flat_read[0], torch.tensor([1.0, 2.0, 3.0]))
