"""Where a step between two refreshes makes the host wait for a GPU: watched on tensors that are nothing but shapes.

PyTorch's fake tensors claim to be on a GPU and go through the same operations, so no GPU is needed. What waits is told
by name: reading a number, copying to the host or from it, and what PyTorch implements with either.
"""

import warnings
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ogpsa_factory.arguments import OGPSAArguments
from ogpsa_factory.basis import Basis
from ogpsa_factory.controller import Controller
from ogpsa_factory.engines import NativeEngine
from ogpsa_factory.fused import SHORT, FusedKernels
from ogpsa_factory.reference import BatchSize, make_reference_set


K = 2
WAITING = {"_local_scalar_dense", "equal", "nonzero", "is_nonzero", "_unique2", "masked_select"}


class Waits(TorchDispatchMode):
    """Counts what makes the host wait, and goes no further where an answer is needed."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function._schema.name.removeprefix("aten::")
        ends = [t.device.type for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if name == "_to_copy":
            ends.append(torch.device(kwargs.get("device") or ends[0]).type)
        moves = "copy" in name and len(set(ends)) == 2 and not (ends[0] == "cpu" and kwargs.get("non_blocking"))
        if moves or ("cuda" in ends and (name in WAITING or name.startswith(("linalg_", "_linalg_")))):
            self.seen.append(name)
        return function(*args, **kwargs)


def eager(kernels):
    """Compiled kernels' own way through blocks, with formulas that are not compiled. Packs need numbers to be made."""
    kernels._call = lambda function, *operands: function(*operands)
    return kernels


def waits(watch, measure=False, compiled=False, **arguments):
    """Have one step watched of a run whose subspace is there."""
    own = OGPSAArguments(use_ogpsa=True, ogpsa_reference_dataset="a", ogpsa_kernels="plain", **arguments)
    own.validate_ogpsa("sft")
    reference = make_reference_set("a", [{"input_ids": [n, n], "labels": [n, n]} for n in range(K)], rank=K)
    with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that addresses of fake tensors mean nothing
        width = SHORT // 30 + 1 if compiled else 40
        model = nn.Sequential(
            *(nn.Linear(*shape, bias=not compiled, device="cuda") for shape in ((30, width), (width, 5)))
        )
        optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
        controller = Controller(
            own,
            NativeEngine(model),
            [reference],
            lambda batch: None,
            BatchSize(1),
            lambda figures: None,
            lambda count: nullcontext(lambda done: None),
            optimizer,
        )
        assert len(controller.chunks) == K and controller.subspace._whole
        subspace, groups = controller.subspace, controller.subspace.groups
        subspace.kernels = eager(FusedKernels(torch.device("cuda"))) if compiled else subspace.kernels
        count = max(groups) + 1
        matrices = [torch.empty(K, p.numel(), device="cuda") for p in model.parameters()]
        subspace.basis = Basis(matrices, groups, count, K, subspace.kernels)
        subspace._set_coordinates(*(torch.empty(*s, dtype=torch.float64) for s in ((count, K, K), (count, K), (K, K))))
        controller.step.anchors = {"weights": torch.empty(count, K, dtype=torch.float64, device="cuda")}
        controller.step._roots = (torch.empty(count, K, K, dtype=torch.float64, device="cuda"),) * 2
        for number in range(2):  # constants move to the device in the first
            watch.seen.clear()
            for p in model.parameters():
                p.grad = torch.empty_like(p)
            with watch:
                controller.before_clipping(number, measure=measure)
                controller.before_step()
                controller.after_step()
        return watch.seen


@pytest.mark.parametrize("granularity", ["parameter", "layer", "global"])
@pytest.mark.parametrize("measure", [False, True])
@pytest.mark.parametrize("project", ["gradient", "update"])
@pytest.mark.parametrize("compiled", [False, True])
def test_nothing_waits(compiled, project, measure, granularity):
    assert waits(Waits(), measure, compiled, ogpsa_project=project, ogpsa_granularity=granularity) == []


def test_monitoring_does_not_wait():
    assert waits(Waits(), ogpsa_monitor_only=True) == []


def test_mode_conflict_solves_its_problems_on_the_host():
    """Where docs/cost.md says that something waits, it is seen: so the tests above can fail."""
    watch = Waits()
    with pytest.raises(DynamicOutputShapeException):  # it looks at numbers, which fake tensors have none of
        waits(watch, ogpsa_mode="conflict")
    assert watch.seen and set(watch.seen) <= {"_to_copy", "nonzero"}
