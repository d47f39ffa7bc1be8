"""fp16 with loss scaling, in the arithmetic of CPUs: reference gradients that overflow, safety gradients that do."""

from contextlib import nullcontext

import pytest
import torch

from ogpsa_factory.arguments import OGPSAArguments
from ogpsa_factory.controller import Controller
from ogpsa_factory.engines import NativeEngine
from ogpsa_factory.reference import BatchSize, make_reference_set


class Half(torch.nn.Module):
    """Gradients pass through float16, as those of activations do under autocast."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))

    def forward(self, features):
        inputs = torch.tensor([feature["input_ids"] for feature in features], dtype=torch.float16)
        return (self.weight.half() * inputs).sum(dim=1).float().mean()


def row(*numbers):
    return {"input_ids": list(numbers), "labels": [-100, 5, 5]}


@pytest.fixture
def start():
    def start(scaler, factor=1.0):
        model = Half()
        arguments = OGPSAArguments(use_ogpsa=True, ogpsa_reference_dataset="a", ogpsa_refresh_steps=100)
        arguments.validate_ogpsa("sft")
        passes = []

        def counted(features):
            passes.append(len(features))
            return factor * model(features)

        controller = Controller(
            arguments,
            NativeEngine(model, scaler=scaler),
            [make_reference_set("a", [row(10, 2, 1)], rank=1)],
            counted,
            batch_size=BatchSize(1),
            log=lambda figures: None,
            progress=lambda count: nullcontext(lambda done: None),
        )
        controller.on_step_begin(0)
        return model, controller, passes

    return start


def scaler_of(scale):
    return torch.amp.GradScaler("cpu", init_scale=scale)


def test_an_overflow_lowers_the_scale_of_references_alone(start):
    scaler = scaler_of(2.0**16)
    _, controller, passes = start(scaler)
    assert controller.subspace.directions == 1 and len(passes) == 2  # 2^16 is too much for float16
    assert (controller.engine.reference_scale, scaler.get_scale()) == (2.0**12, 2.0**16)
    controller.refresh(1)
    assert len(passes) == 3  # remembered


def test_the_span_does_not_depend_on_the_scale(start):
    _, plain, _ = start(None)
    for scale in (1.0, 2.0**8, 2.0**16):
        model, controller, _ = start(scaler_of(scale))
        torch.testing.assert_close(controller.subspace.basis.matrices[0].abs(), plain.subspace.basis.matrices[0].abs())
        scaled = controller.engine.loss_scale * model([row(1, 1, 1)])
        scaled.backward()
        controller.before_clipping(0)
        direction = torch.tensor([10.0, 2.0, 1.0])
        assert abs(model.weight.grad @ direction) <= 1e-4 * model.weight.grad.norm() * direction.norm()


def test_a_safety_gradient_that_overflows_is_left_to_the_scaler(start):
    scaler = scaler_of(2.0**16)
    model, controller, _ = start(scaler)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.detach().clone()
    scaler.scale(model([row(9, 1, 1)])).backward()
    controller.before_clipping(0)
    assert not model.weight.grad.isfinite().all()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(model.weight, before) and scaler.get_scale() == 2.0**15


def test_what_no_scale_helps_is_given_up(start, messages):
    _, controller, passes = start(scaler_of(2.0**16), factor=torch.nan)
    assert controller.subspace.directions == 0
    assert len(passes) == 5  # 2^16, 2^12, 2^8, 2^4, 1
    assert controller.engine.reference_scale == 2.0**16  # it was not the scale


def test_a_checkpoint_holds_the_lowered_scale(start, tmp_path):
    _, controller, _ = start(scaler_of(2.0**16))
    controller.save(tmp_path, writes_shared=True)
    _, resumed, _ = start(scaler_of(2.0**10))
    resumed.resume(tmp_path)
    assert resumed.engine.scale_limit == 2.0**12


def test_without_a_scaler_there_is_one_attempt(start, messages):
    _, controller, passes = start(None, factor=torch.nan)
    assert controller.subspace.directions == 0 and len(passes) == 1
    assert "is not finite" in messages()
