"""The projection of the step that an optimizer really takes: its constraints, its optimality, its measure."""

import importlib.util
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from torch import nn
from transformers.optimization import Adafactor

from ogpsa_factory.arguments import OGPSAArguments
from ogpsa_factory.controller import Controller
from ogpsa_factory.engines import NativeEngine
from ogpsa_factory.errors import OGPSAError
from ogpsa_factory.reference import BatchSize, make_reference_set
from ogpsa_factory.step import StepProjection
from ogpsa_factory.subspace import CapabilitySubspace


WORDS, K, STEPS = 30, 3, 7


def schedule_free(parameters):
    import schedulefree

    optimizer = schedulefree.AdamWScheduleFree(parameters, lr=1e-2, weight_decay=0.1, warmup_steps=2)
    optimizer.train()
    return optimizer


def muon(parameters):
    from llamafactory.third_party.muon import Muon

    matrices = [p for p in parameters if p.ndim == 2]
    return Muon(lr=1e-2, wd=0.1, muon_params=matrices, adamw_params=[p for p in parameters if p.ndim < 2])


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, fused=True),
    "adam with decay in the gradient": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd with momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "adafactor": lambda p: Adafactor(p, lr=1e-2, scale_parameter=False, relative_step=False, weight_decay=0.1),
    "muon": muon,
    "schedule-free": schedule_free,
}
if importlib.util.find_spec("schedulefree") is None:
    del OPTIMIZERS["schedule-free"]
READABLE = [name for name in OPTIMIZERS if name.startswith(("adam", "sgd")) and "factor" not in name]


class Training:
    """A small network on generated rows: the controller beside a plain loop, watched from outside.

    Attributes:
        leaks: per step, cosines of the weights' real change with the reference gradients, computed here.
        logged: per step, what the controller logged.
    """

    def __init__(self, make_optimizer, clip=1.0, **arguments):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Embedding(WORDS, 16), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, WORDS))
        self.parameters = list(self.model.parameters())
        self.optimizer = make_optimizer(self.parameters)
        self.clip = clip
        options = OGPSAArguments(
            use_ogpsa=True, ogpsa_reference_dataset="a,b", **{"ogpsa_refresh_steps": K, **arguments}
        )
        options.validate_ogpsa("sft")
        draw = torch.Generator().manual_seed(1)

        def rows(count, first, last):
            tokens = torch.randint(first, last, (count, 6), generator=draw).tolist()
            return [{"input_ids": row, "labels": row} for row in tokens]

        # Words 28 and 29 are in no reference set, 0 to 4 not in what is trained on.
        self.sets = [make_reference_set("a", rows(4, 0, 20), 1), make_reference_set("b", rows(4, 10, 28), 1)]
        self.rows = rows(8, 5, WORDS)
        progress = nullcontext(lambda done: None)
        self.controller = Controller(
            options,
            NativeEngine(self.model),
            self.sets,
            self.loss,
            BatchSize(4),
            lambda figures: None,
            lambda count: progress,
            self.optimizer,
        )
        self.leaks, self.logged = [], []

    def loss(self, features):
        ids = torch.tensor([row["input_ids"] for row in features])
        logits = self.model(ids)[:, :-1].reshape(-1, WORDS)
        return nn.functional.cross_entropy(logits, ids[:, 1:].reshape(-1))

    def flat(self):
        return torch.cat([p.detach().double().flatten() for p in self.parameters])

    def gradient(self, rows):
        gradients = torch.autograd.grad(self.loss(rows), self.parameters, allow_unused=True)
        return torch.cat([g.double().flatten() for g in gradients])

    def run(self, steps=STEPS):
        for step in range(steps):
            self.controller.on_step_begin(step)
            if step % K == 0:
                references = [self.gradient(each.rows) for each in self.sets]
            self.loss(self.rows).backward()
            self.controller.before_clipping(step, measure=True)
            if self.clip:
                nn.utils.clip_grad_norm_(self.parameters, self.clip)
            before = self.flat()
            self.optimizer.step()
            self.optimizer.zero_grad()
            moved = self.flat() - before
            self.leaks.append([float(r @ moved / r.norm() / moved.norm()) for r in references])
            self.logged.append(self.controller.metrics())
        return self

    def largest_leak(self):
        return max(abs(leak) for each in self.leaks for leak in each)


@pytest.mark.parametrize("granularity", ["parameter", "layer", "global"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_update_leaves_no_reference_loss_changed_to_first_order(name, granularity):
    arguments = {"ogpsa_granularity": granularity}
    projected = Training(OPTIMIZERS[name], ogpsa_project="update", **arguments).run()
    assert projected.largest_leak() <= 1e-6
    assert projected.controller.subspace.directions == 2
    if name != "sgd":  # what is projected before clipping leaks, so the bound above says something
        assert Training(OPTIMIZERS[name], **arguments).run().largest_leak() > 1e-3


@pytest.mark.parametrize("momentum", ["never", "refresh", "step"])
@pytest.mark.parametrize("granularity", ["parameter", "global"])
@pytest.mark.parametrize("name", READABLE)
def test_so_does_preconditioned(name, granularity, momentum):
    arguments = {"ogpsa_granularity": granularity, "ogpsa_project_momentum": momentum}
    assert Training(OPTIMIZERS[name], ogpsa_project="preconditioned", **arguments).run().largest_leak() <= 1e-6


@pytest.mark.parametrize("granularity", ["parameter", "global"])
def test_of_plain_sgd_all_three_are_one(granularity):
    """Whatever the learning rate; with clipping they differ, as the paper's projection comes before it."""
    weights = {
        what: Training(OPTIMIZERS["sgd"], None, ogpsa_project=what, ogpsa_granularity=granularity).run().flat()
        for what in ("gradient", "update", "preconditioned")
    }
    start = Training(OPTIMIZERS["sgd"]).flat()
    for what in ("update", "preconditioned"):
        assert (weights[what] - weights["gradient"]).norm() <= 1e-5 * (weights["gradient"] - start).norm()
    watched = Training(OPTIMIZERS["sgd"], None, ogpsa_monitor_only=True).run().flat()
    assert (watched - weights["gradient"]).norm() > 1e-2 * (watched - start).norm()


@pytest.mark.parametrize("what", ["update", "preconditioned"])
@pytest.mark.parametrize("granularity", ["parameter", "global"])
def test_in_conflict_mode_no_reference_loss_rises(what, granularity):
    """And one that was about to fall still does."""
    arguments = {"ogpsa_project": what, "ogpsa_granularity": granularity, "ogpsa_mode": "conflict"}
    training = Training(OPTIMIZERS["adamw"], **arguments).run()
    assert max(leak for each in training.leaks for leak in each) <= 1e-6
    assert min(leak for each in training.leaks for leak in each) < -1e-3
    plain = Training(OPTIMIZERS["adamw"], **{**arguments, "ogpsa_project": "gradient"}).run()
    assert max(leak for each in plain.leaks for leak in each) > 1e-3


@pytest.mark.parametrize("what", ["gradient", "update", "preconditioned"])
@pytest.mark.parametrize("monitor", [False, True])
def test_the_logged_leak_is_the_real_one(what, monitor):
    training = Training(OPTIMIZERS["adamw"], ogpsa_project=what, ogpsa_monitor_only=monitor).run()
    for leaks, figures in zip(training.leaks, training.logged, strict=True):
        for name, leak in zip("ab", leaks, strict=True):
            assert figures[f"ogpsa/leak/{name}"] == pytest.approx(leak, abs=1e-6)
        assert 0 < figures["ogpsa/removed_ratio"] < 1
    if monitor:
        plain = Training(OPTIMIZERS["adamw"], ogpsa_refresh_steps=1000, ogpsa_monitor_only=True).run()
        assert torch.equal(training.flat(), plain.flat())


def test_before_the_projection_the_step_helps_or_harms():
    """The logged cosine is of the step with its sign turned: above zero, the reference loss was about to fall."""
    watched = Training(OPTIMIZERS["adamw"], ogpsa_monitor_only=True).run(1)
    projected = Training(OPTIMIZERS["adamw"], ogpsa_project="update").run(1)
    for name, leak in zip("ab", watched.leaks[0], strict=True):
        assert projected.logged[0][f"ogpsa/cos/{name}"] == pytest.approx(-leak, abs=1e-6)


def test_a_projected_first_moment_points_along_the_constraints():
    training = Training(OPTIMIZERS["sgd with momentum"], ogpsa_project="update", ogpsa_project_momentum="step").run(1)
    moment = torch.cat(
        [training.optimizer.state[p]["momentum_buffer"].flatten() for p in training.parameters]
    ).double()
    other = Training(OPTIMIZERS["sgd with momentum"], ogpsa_project="update").run(1)
    kept = torch.cat([other.optimizer.state[p]["momentum_buffer"].flatten() for p in other.parameters]).double()
    reference = Training(OPTIMIZERS["sgd"]).gradient(training.sets[0].rows)
    assert abs(reference @ moment) <= 1e-6 * reference.norm() * moment.norm() < abs(reference @ kept)


@pytest.mark.parametrize("what", ["update", "preconditioned"])
def test_a_projected_first_moment_of_adamw_steps_along_the_constraints(what):
    """In AdamW's own scale; words that are not trained on have no second moment, and get no step that explodes."""
    training = Training(OPTIMIZERS["adamw"], ogpsa_project=what, ogpsa_project_momentum="step").run(1)
    states = [training.optimizer.state[p] for p in training.parameters]
    along = [(s["exp_avg"] / (s["exp_avg_sq"].sqrt() + 1e-8 * 0.001**0.5)).double().flatten() for s in states]
    step = torch.cat(along)
    fresh = Training(OPTIMIZERS["adamw"])
    for each in fresh.sets:
        reference = fresh.gradient(each.rows)
        assert abs(reference @ step) <= 1e-5 * reference.norm() * step.norm()
    ratio = 0.1 / 0.001**0.5  # of the moments after one step
    assert ratio < step.abs().max() <= 2 * ratio


@pytest.mark.skipif("schedule-free" not in OPTIMIZERS, reason="schedulefree is not installed")
def test_what_a_schedule_free_optimizer_evaluates_keeps_the_constraints_too():
    """Its evaluated weights lie between the trained ones and z; with one refresh only they must not move along S."""
    training = Training(OPTIMIZERS["schedule-free"], ogpsa_project="update", ogpsa_refresh_steps=1000)
    start = training.flat()
    references = [training.gradient(each.rows) for each in training.sets]
    training.run()
    training.optimizer.eval()
    moved = training.flat() - start
    assert moved.norm() > 1e-3
    assert max(abs(float(r @ moved / r.norm() / moved.norm())) for r in references) <= 1e-6


class OneTensor:
    """An engine with a single parameter, to set weights, moments and basis at will."""

    label, names, world_size, device = "one tensor", ["w"], 1, torch.device("cpu")

    def __init__(self, size, second):
        self.weight = nn.Parameter(torch.randn(size, dtype=torch.float32))
        engine = NativeEngine(nn.ParameterList([self.weight]))
        optimizer = torch.optim.AdamW([self.weight], lr=1e-3)
        optimizer.state[self.weight] = {"step": torch.tensor(1.0), "exp_avg_sq": second}
        engine.optimizer = optimizer
        self.engine = engine


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(2, 40),
    count=st.integers(1, 5),
    seed=st.integers(0, 10**6),
    spread=st.floats(0, 4),
    conflict=st.booleans(),
    twins=st.booleans(),
)
def test_the_nearest_step_in_the_metric(size, count, seed, spread, conflict, twins):
    """Against the conditions of optimality: feasible; corrected along D^-1 G only; multipliers of one sign."""
    torch.manual_seed(seed)
    directions = torch.randn(count, size)
    if twins and count > 1:
        directions[1] = 2 * directions[0]  # collinear ones are one constraint
    subspace = CapabilitySubspace([0], mode="conflict" if conflict else "orthogonal")
    assert subspace.refresh([[row] for row in directions])
    second = (torch.randn(size) * spread).exp()
    one = OneTensor(size, second)
    arguments = SimpleNamespace(
        ogpsa_project="preconditioned",
        ogpsa_project_momentum="never",
        ogpsa_monitor_only=False,
        ogpsa_metric_damping=0.1,
    )
    step = StepProjection(arguments, one.engine, subspace)
    step.anchor()
    start, taken = one.weight.detach().clone(), torch.randn(size)
    one.weight.data += taken
    step.after()
    taken = taken.double()
    got = (one.weight.detach() - start).double()

    metric = (second.double() / (1 - 0.999)).sqrt() + 1e-8 + 0.1 * (second.double().mean() / (1 - 0.999)).sqrt()
    correction = metric * (taken - got)  # G x
    scale = taken.norm() * directions.double().norm(dim=1)
    along = directions.double() @ got
    if conflict:  # multipliers of one sign: what would not rise is let fall
        _, distance = nnls(directions.double().T.numpy(), correction.numpy(), maxiter=1000)
    else:
        solution = torch.linalg.lstsq(directions.double().T, correction[:, None], driver="gelsd").solution
        distance = (directions.double().T @ solution[:, 0] - correction).norm()
    assert distance <= 1e-3 * metric.max() * taken.norm()
    if not conflict:
        assert (along.abs() <= 1e-4 * scale).all()
    else:
        assert (along <= 1e-4 * scale).all()
        # Complementary: what is corrected is what would otherwise rise, no more.
        assert float(correction @ got) <= 1e-3 * metric.max() * taken.square().sum()


@pytest.mark.skipif("schedule-free" not in OPTIMIZERS, reason="schedulefree is not installed")
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_those_of_schedule_free_optimizers_do_too(tmp_path, steps):
    """Also before the second refresh, when both are of the same weights."""
    first = Training(OPTIMIZERS["schedule-free"], ogpsa_project="update").run(steps)
    first.controller.save(tmp_path, True)
    second = Training(OPTIMIZERS["schedule-free"], ogpsa_project="update")
    second.controller.resume(tmp_path)
    for key in ("weights", "z"):
        assert torch.equal(second.controller.step.anchors[key], first.controller.step.anchors[key])


@pytest.mark.parametrize("what", ["update", "preconditioned"])
def test_small_learning_rates_leak_no_more_than_rounding(what):
    """The spacing of float32 over the length of the step: at small rates more, in large models less."""

    def small(parameters):
        return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.1)

    assert Training(small, ogpsa_project=what).run().largest_leak() <= 1e-5


def test_figures_of_16_bit_weights_are_of_the_step_alone():
    """What rounding has left in the weights is taken back with later steps, but no step's figures tell of it."""
    training = Training(lambda p: torch.optim.AdamW(p, lr=1e-3), ogpsa_project="update", ogpsa_refresh_steps=1000)
    training.model.bfloat16()
    training.run(6)
    for figures in training.logged:
        assert 0 < figures["ogpsa/removed_ratio"] <= 1
    projection = [figures["ogpsa/cos/a"] for figures in training.logged]
    plain = Training(lambda p: torch.optim.AdamW(p, lr=1e-3), ogpsa_monitor_only=True, ogpsa_refresh_steps=1000)
    plain.model.bfloat16()
    assert projection[0] == pytest.approx(-plain.run(1).leaks[0][0], abs=1e-3)


def test_a_step_that_a_fused_optimizer_skips_by_itself_counts_for_nothing():
    """Float16 has overflowed; a fused optimizer is called all the same, and moves nothing."""
    counted = []
    for overflows in (0, 3):
        training = Training(OPTIMIZERS["adamw fused"], ogpsa_project="update")
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        training.controller.on_step_begin(0)
        for number in range(overflows + 1):
            scaler.scale(training.loss(training.rows)).backward()
            if number < overflows:
                training.parameters[0].grad[0, 0] = torch.inf
            training.controller.before_clipping(0, measure=True)
            scaler.step(training.optimizer)
            scaler.update()
            training.optimizer.zero_grad()
        counted.append(training.controller.metrics())
    assert counted[0].keys() == counted[1].keys()
    assert counted[1]["ogpsa/removed_ratio"] == pytest.approx(counted[0]["ogpsa/removed_ratio"], rel=1e-4)


def test_a_second_moment_that_is_not_found_is_an_error():
    """And not taken for weights that were never stepped, of which nothing is to be moved."""

    class AdamW(torch.optim.AdamW):
        def step(self, *args):
            super().step(*args)
            for state in self.state.values():
                state["exp_avg_sq"] = state["exp_avg_sq"].flatten()[:1]  # of another shape, as low-rank ones are

    AdamW.__module__ = "torch.optim.adamw"
    with pytest.raises(OGPSAError, match="AdamW on one process keeps no exp_avg_sq of its weights' shapes"):
        Training(lambda p: AdamW(p, lr=1e-2), ogpsa_project="preconditioned").run(1)
    AdamW.__module__ = "another.package"
    with pytest.raises(OGPSAError, match=r"does not work with the optimizer another\.package\.AdamW"):
        Training(lambda p: AdamW(p, lr=1e-2), ogpsa_project="preconditioned")


def test_anchors_survive_a_checkpoint(tmp_path):
    first = Training(OPTIMIZERS["adamw"], ogpsa_project="update", ogpsa_mode="conflict").run(4)
    first.controller.save(tmp_path, True)
    second = Training(OPTIMIZERS["adamw"], ogpsa_project="update", ogpsa_mode="conflict")
    second.controller.resume(tmp_path)
    assert torch.equal(second.controller.step.anchors["weights"], first.controller.step.anchors["weights"])
    gradient = Training(OPTIMIZERS["adamw"]).run(4)
    gradient.controller.save(tmp_path, True)  # of a run that had none
    third = Training(OPTIMIZERS["adamw"], ogpsa_project="update")
    third.controller.resume(tmp_path)
    assert third.controller.step.anchors["weights"].shape == first.controller.step.anchors["weights"].shape


def test_an_optimizer_without_a_second_moment_is_refused_by_name():
    with pytest.raises(OGPSAError, match=r"preconditioned does not work with .* torch\.optim\.rmsprop\.RMSprop"):
        Training(OPTIMIZERS["rmsprop"], ogpsa_project="preconditioned")
    with pytest.raises(OGPSAError, match="update does not work on one process with object"):
        Training(lambda parameters: object(), ogpsa_project="update")
    with pytest.raises(OGPSAError, match=r"ogpsa_project_momentum: step does not work with .*RMSprop"):
        Training(OPTIMIZERS["rmsprop"], ogpsa_project="update", ogpsa_project_momentum="step")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ogpsa_project": "weights"}, "ogpsa_project: weights is not possible; it must be one of gradient, update"),
        ({"ogpsa_project_momentum": "step"}, "belongs to ogpsa_project: update or preconditioned, and it is gradient"),
        ({"ogpsa_project": "update", "ogpsa_mode": "plane"}, "ogpsa_mode: plane is an ablation of gradients"),
        (
            {"ogpsa_project": "update", "ogpsa_mode": "conflict", "ogpsa_aligned_scale": 0.5},
            "ogpsa_aligned_scale: 0.5 scales gradients, and ogpsa_project is update",
        ),
        ({"ogpsa_metric_damping": -1}, "ogpsa_metric_damping: -1.0 is not possible; it must be at least 0"),
    ],
)
def test_arguments_that_contradict_each_other(changes, words):
    arguments = OGPSAArguments(use_ogpsa=True, ogpsa_reference_dataset="a", **changes)
    with pytest.raises(OGPSAError, match=words):
        arguments.validate_ogpsa("sft")
