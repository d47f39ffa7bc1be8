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

from ogpsa_factory.arguments import OGPSAArguments
from ogpsa_factory.basis import Basis
from ogpsa_factory.controller import Controller
from ogpsa_factory.engines import NativeEngine
from ogpsa_factory.reference import BatchSize, make_reference_set


K = 2
WAITING = {"_local_scalar_dense", "equal", "nonzero", "is_nonzero", "_linalg_eigh", "_unique2", "masked_select"}


class Waits(TorchDispatchMode):
    """Counts what makes the host wait, and goes no further where an answer is needed."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function._schema.name.removeprefix("aten::")
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        result = function(*args, **kwargs)
        ends = {t.device.type for t in tensors}
        if name == "_to_copy":
            ends.add(result.device.type)
        moves = name in ("_to_copy", "copy_") and len(ends) == 2 and not kwargs.get("non_blocking")
        if moves or ("cuda" in ends and name in WAITING):
            self.seen.append(name)
        return result


def waits(measure=False, **arguments):
    """Names of what waits in one step of a run whose subspace is there."""
    own = OGPSAArguments(use_ogpsa=True, ogpsa_reference_dataset="a", ogpsa_kernels="plain", **arguments)
    own.validate_ogpsa("sft")
    reference = make_reference_set("a", [{"input_ids": [n, n], "labels": [n, n]} for n in range(K)], rank=K)
    with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that addresses of fake tensors mean nothing
        model = nn.Sequential(nn.Linear(30, 40, device="cuda"), nn.Linear(40, 5, device="cuda"))
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
        assert len(controller.chunks) == K
        subspace, groups = controller.subspace, controller.subspace.groups
        count = max(groups) + 1
        matrices = [torch.empty(K, p.numel(), device="cuda") for p in model.parameters()]
        subspace.basis = Basis(matrices, groups, count, K, subspace.kernels)
        subspace._set_coordinates(*(torch.empty(*s, dtype=torch.float64) for s in ((count, K, K), (count, K), (K, K))))
        controller.step.anchors = {"weights": torch.empty(count, K, dtype=torch.float64, device="cuda")}
        controller.step._roots = (torch.empty(count, K, K, dtype=torch.float64, device="cuda"),) * 2
        watch = Waits()
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
def test_nothing_waits(project, measure, granularity):
    assert waits(measure, ogpsa_project=project, ogpsa_granularity=granularity) == []


def test_monitoring_does_not_wait():
    assert waits(ogpsa_monitor_only=True) == []


def test_mode_conflict_solves_its_problems_on_the_host():
    """Where docs/cost.md says that something waits, it is seen: so the tests above can fail."""
    with pytest.raises(DynamicOutputShapeException):  # it looks at numbers, which fake tensors have none of
        waits(ogpsa_mode="conflict")
