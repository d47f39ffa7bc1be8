"""Training on two gloo processes, sharded by FSDP: a plain loop around the real engine and the real controller."""

import contextlib
import copy
import functools
import os
from dataclasses import dataclass
from pathlib import Path

import oracle
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffload,
    CPUOffloadPolicy,
    FullyShardedDataParallel,
    MixedPrecision,
    MixedPrecisionPolicy,
    ShardingStrategy,
    fully_shard,
)
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.utils import clip_grad_norm_
from transformers import Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from ogpsa_factory.arguments import OGPSAArguments
from ogpsa_factory.controller import Controller
from ogpsa_factory.engines import NativeEngine
from ogpsa_factory.engines.fsdp1 import FSDP1Engine
from ogpsa_factory.engines.fsdp2 import FSDP2Engine
from ogpsa_factory.errors import OGPSAError
from ogpsa_factory.reference import BatchSize, count_label_tokens, make_reference_set


STEPS = 5
CLIP = 0.5
ROWS_PER_PASS = 2
LEARNING_RATE = {"sgd": 0.5, "adamw_torch": 1e-2}
HALF = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32}  # what no_sync leaves is then in two places
FLOAT16 = {"param_dtype": torch.float16, "reduce_dtype": torch.float16}
SCALE = {"init_scale": 2.0**20, "growth_interval": 3}  # too large at first


class Native:
    """One process: the names and sizes that the others have to arrive at, and what they have in common."""

    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def __init__(self, model):
        self.model = model
        self.engine = NativeEngine(model)

    def held_back(self):
        return contextlib.nullcontext()

    def clip(self):
        return clip_grad_norm_(self.model.parameters(), CLIP)

    def weights(self):
        return {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}


class FSDP2(Native):
    def __init__(self, model, mesh=None, scaler=None, **settings):
        self.scaler = scaler or self.scaler
        settings["mesh"] = init_device_mesh(
            "cpu", mesh or (2,), mesh_dim_names=("copies", "shards")[-len(mesh or "1") :]
        )
        for layer in model.model.layers:
            fully_shard(layer, **settings)
        self.model = fully_shard(model, **settings)
        self.engine = FSDP2Engine(model, self.scaler)
        # Between copies, the reduction can also be held back alone.
        self.set_reduction = model.set_requires_all_reduce if mesh == (2, 1) else model.set_requires_gradient_sync

    @contextlib.contextmanager
    def held_back(self):
        self.set_reduction(False)
        yield
        self.set_reduction(True)

    def weights(self):
        return {name: p.full_tensor().detach() for name, p in self.model.named_parameters() if p.requires_grad}


class FSDP1(Native):
    def __init__(self, model, mesh=None, scaler=None, **settings):
        self.scaler = scaler or self.scaler
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        self.model = FullyShardedDataParallel(
            model,
            auto_wrap_policy=ModuleWrapPolicy({Qwen2DecoderLayer}),
            device_id=torch.device("cpu"),
            device_mesh=mesh and init_device_mesh("cpu", mesh, mesh_dim_names=("copies", "shards")),
            **settings,
        )
        self.engine = FSDP1Engine(self.model, self.scaler)
        self.trained = trained

    def held_back(self):
        return self.model.no_sync()

    def clip(self):
        return self.model.clip_grad_norm_(CLIP)

    def weights(self):
        with FullyShardedDataParallel.summon_full_params(self.model):
            whole = {n.replace("_fsdp_wrapped_module.", ""): p for n, p in self.model.named_parameters()}
            return {name: p.detach().clone() for name, p in whole.items() if name in self.trained}


def strategy(name, views=True, **settings):
    return lambda model: FSDP1(model, sharding_strategy=ShardingStrategy[name], use_orig_params=views, **settings)


KINDS = {
    "native": Native,
    "FSDP2": FSDP2,
    "FSDP2 kept whole": lambda model: FSDP2(model, reshard_after_forward=False),
    "FSDP2 offloaded": lambda model: FSDP2(model, offload_policy=CPUOffloadPolicy(pin_memory=False)),
    "FSDP2 half": lambda model: FSDP2(model, mp_policy=MixedPrecisionPolicy(**HALF)),
    "FSDP2 float16": lambda model: FSDP2(
        model, mp_policy=MixedPrecisionPolicy(**FLOAT16), scaler=torch.amp.GradScaler("cpu", **SCALE)
    ),
    "FSDP2 one copy": lambda model: FSDP2(model, mesh=(1, 2)),
    "FSDP2 two copies": lambda model: FSDP2(model, mesh=(2, 1)),
    "FSDP2 grid": lambda model: FSDP2(model, mesh=(2, 2)),
    "FSDP1 views": strategy("FULL_SHARD"),
    "FSDP1 flat": strategy("FULL_SHARD", views=False),
    "FSDP1 kept whole": strategy("SHARD_GRAD_OP"),
    "FSDP1 kept whole, flat": strategy("SHARD_GRAD_OP", views=False),
    # Offloading with `use_orig_params` has no oracle here: on CPUs, FSDP1 then trains to other weights by itself.
    "FSDP1 offloaded, flat": strategy("FULL_SHARD", views=False, cpu_offload=CPUOffload(offload_params=True)),
    "FSDP1 unsharded": strategy("NO_SHARD"),
    "FSDP1 unsharded, flat": strategy("NO_SHARD", views=False),
    "FSDP1 one copy": strategy("HYBRID_SHARD", mesh=(1, 2)),
    "FSDP1 grid": strategy("HYBRID_SHARD", mesh=(2, 2)),
    "FSDP1 half": strategy("FULL_SHARD", mixed_precision=MixedPrecision(**HALF)),
    "FSDP1 float16": lambda model: FSDP1(
        model,
        use_orig_params=True,
        mixed_precision=MixedPrecision(**FLOAT16),
        scaler=ShardedGradScaler("cpu", **SCALE),
    ),
    "FSDP1 narrow": strategy("FULL_SHARD", mixed_precision=MixedPrecision(**HALF, keep_low_precision_grads=True)),
    "FSDP1 narrow, flat": strategy(
        "FULL_SHARD", views=False, mixed_precision=MixedPrecision(**HALF, keep_low_precision_grads=True)
    ),
}


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        kind: one of ``KINDS``.
        references: names of the reference sets; none for plain training.
        monitor: collect in every step and change nothing.
        disturb: collect also between passes and behind the last one.
        accumulation: passes per optimizer step.
        model: folder of the model.
        frozen: start of the names of parameters that are not trained.
        what: is projected: the gradient or the step.
        decay: weight decay of matrices, with AdamW.
        momentum: when the first moment is projected too.
        hold_back: passes that leave gradients unreduced; the first one, as trainers do.
    """

    kind: str
    granularity: str = "parameter"
    optimizer: str = "sgd"
    accumulation: int = 1
    references: tuple[str, ...] = ("ref_a", "ref_b")
    monitor: bool = False
    disturb: bool = False
    model: str = "model"
    frozen: str | None = None
    hold_back: tuple[int, ...] = (0,)
    steps: int = STEPS
    what: str = "gradient"
    decay: float = 0.0
    momentum: str = "never"


@functools.cache
def stored(folder):
    return Qwen2ForCausalLM.from_pretrained(folder, attn_implementation="eager").float().train()


def load(root, run):
    model = copy.deepcopy(stored(root / run.model))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(run.frozen is None or not name.startswith(run.frozen))
    return model


@functools.cache
def rows_of(root, name):
    rows = [row[0] for row in oracle.read(root, name)]
    return [{"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels} for ids, labels in rows]


def mean_loss_of(model):
    def mean_loss(features):
        longest = max(len(row["input_ids"]) for row in features)
        padding = {"input_ids": 0, "attention_mask": 0, "labels": -100}
        padded = {
            key: torch.tensor([row[key] + [value] * (longest - len(row[key])) for row in features])
            for key, value in padding.items()
        }
        return model(**padded).loss.float()

    return mean_loss


def controller_of(root, run, wrapped, optimizer=None):
    names = ",".join(run.references) or "none"
    arguments = OGPSAArguments(
        use_ogpsa=True,
        ogpsa_reference_dataset=names,
        ogpsa_granularity=run.granularity,
        ogpsa_refresh_steps=1 if run.monitor else 2,
        ogpsa_monitor_only=run.monitor,
        ogpsa_project=run.what,
        ogpsa_project_momentum=run.momentum,
    )
    arguments.validate_ogpsa("sft")
    references = [make_reference_set(name, rows_of(root, name), 1) for name in run.references]
    mean_loss = mean_loss_of(wrapped.model)
    progress = contextlib.nullcontext(lambda rows: None)
    log, bar = lambda figures: None, lambda rows: progress
    return Controller(arguments, wrapped.engine, references, mean_loss, BatchSize(3), log, bar, optimizer)


def tokens(rows):
    return sum(count_label_tokens(row["labels"]) for row in rows)


def train(root, run):
    """Train on the rows in file order and return the weights, whole."""
    wrapped = KINDS[run.kind](load(root, run))
    rank, world = wrapped.engine.rank, wrapped.engine.world_size
    if run.optimizer == "sgd":
        optimizer = torch.optim.SGD(wrapped.model.parameters(), lr=LEARNING_RATE["sgd"])
    elif run.decay:  # by name, so without FSDP1's flat parameters
        optimizer = torch.optim.AdamW(oracle.decay_groups(wrapped.model, run.decay), lr=LEARNING_RATE["adamw_torch"])
    else:
        optimizer = torch.optim.AdamW(wrapped.model.parameters(), lr=LEARNING_RATE["adamw_torch"], weight_decay=0.0)
    controller = controller_of(root, run, wrapped, optimizer)
    mean_loss, rows = mean_loss_of(wrapped.model), rows_of(root, "safety")
    count = 4 * run.accumulation  # rows per step, also in one process
    size = ROWS_PER_PASS * 2 // world
    for step in range(run.steps):
        controller.on_step_begin(step)
        first = step * count % len(rows)
        batch = rows[first : first + count]
        mine = batch[rank::world]
        for number in range(run.accumulation):
            part = mine[number * size : (number + 1) * size]
            hold_back = number in run.hold_back and number < run.accumulation - 1
            with wrapped.held_back() if hold_back else contextlib.nullcontext():
                loss = mean_loss(part) * (tokens(part) / tokens(batch) * world)
                wrapped.scaler.scale(loss).backward()
                if run.disturb:
                    controller.refresh(step)
            if run.disturb:
                controller.refresh(step)
        controller.before_clipping(step, measure=True)
        wrapped.scaler.unscale_(optimizer)
        wrapped.clip()
        wrapped.scaler.step(optimizer)
        wrapped.scaler.update()
        optimizer.zero_grad()
    assert controller.subspace.directions == len(controller.chunks), run
    if wrapped.scaler.is_enabled():  # training has overflowed, and so have the references, if there are any
        assert wrapped.scaler.get_scale() < SCALE["init_scale"], run
        assert (wrapped.engine.scale_limit < SCALE["init_scale"]) == bool(run.references), run
    figures = controller.metrics()
    left = [abs(value) for name, value in figures.items() if name.startswith("ogpsa/cos_after/")]
    assert len(left) == (0 if run.monitor or run.what != "gradient" else len(run.references)), run
    assert max(left, default=0) < (1e-6 if wrapped.engine.gradient_dtype == torch.float32 else 1e-3), run
    leaks = [abs(value) for name, value in figures.items() if name.startswith("ogpsa/leak/")]
    assert len(leaks) == len(run.references), run
    assert run.what == "gradient" or max(leaks) <= 1e-5, run
    return wrapped.weights()


def train_all(rank, folder, runs, ranks):
    """Program of one process."""
    start(rank, folder, ranks)
    for number, run in enumerate(runs):
        weights = train(Path(folder), run)
        if rank == 0:
            torch.save(weights, f"{folder}/run{number}.pt")
    finish()


def start(rank, folder, ranks=2):
    torch.set_num_threads(1)
    # FSDP1 offloads on GPUs only: without one there is nothing to pin memory for, and no stream to wait for.
    torch.Tensor.pin_memory = lambda tensor: tensor
    torch.cpu.Stream.synchronize = lambda stream: None
    dist.init_process_group("gloo", init_method=f"file://{folder}/store{ranks}", rank=rank, world_size=ranks)


def finish():
    dist.destroy_process_group()
    os._exit(0)  # one in some twenty gloo processes aborts while Python shuts down, with all work done


def sums(engine, numbers):
    """Sum over ranks, each shard counted once."""
    return engine.reduce(torch.tensor(numbers, dtype=torch.float64)).tolist()


def contract(rank, folder, runs):
    """What every engine promises of its names, sizes and gradients; checkpoints made with it; what it refuses."""
    start(rank, folder)
    root = Path(folder)
    for run in runs:
        plain = NativeEngine(load(root, run))
        wrapped = KINDS[run.kind](load(root, run))
        engine = wrapped.engine
        assert (engine.rank, engine.world_size) == (rank, 2), run
        assert engine.names == plain.names, run
        assert sums(engine, engine.sizes) == plain.sizes, run
        assert engine.local_gradients() == [None] * len(plain.names), run
        gradients_survive(root, run, wrapped)
        subspace_survives(root, run, wrapped)
    refusals(root)
    finish()


def gradients_survive(root, run, wrapped):
    """Collecting, to the last bit; and what is written into the gradients is what the optimizer sees."""
    engine = wrapped.engine
    rows = rows_of(root, "safety")
    mean_loss_of(wrapped.model)(rows[engine.rank : 4 : 2]).backward()
    before = engine.local_gradients()
    assert [0 if g is None else g.numel() for g in before] == engine.sizes, run.kind
    assert all(g is None or g.device == device for g, device in zip(before, engine.devices, strict=True)), run.kind
    assert {g.dtype for g in before if g is not None} == {engine.gradient_dtype}, run.kind
    copies = [None if g is None else g.clone() for g in before]
    with engine.set_aside():
        assert engine.local_gradients() == [None] * len(before), run.kind
        with wrapped.held_back():  # a collection reduces nevertheless
            engine.backward(mean_loss_of(wrapped.model)(rows[8:10]))
        assert any(g is not None and g.any() for g in engine.local_gradients()), run.kind
        engine.discard()
        assert engine.local_gradients() == [None] * len(before), run.kind
    for gradient, expected in zip(engine.local_gradients(), copies, strict=True):
        assert (gradient is None) == (expected is None), run.kind
        assert gradient is None or torch.equal(gradient, expected), run.kind

    squares = [0.0 if g is None else float(g.double().square().sum()) for g in copies]
    norm = wrapped.clip()
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    assert abs(sum(sums(engine, squares)) ** 0.5 / float(norm) - 1) < 1e-2, run.kind
    for gradient in engine.local_gradients():
        if gradient is not None:
            gradient.zero_()
    engine.commit()
    assert float(wrapped.clip()) == 0, run.kind
    engine.discard()


def subspace_survives(root, run, wrapped):
    """A checkpoint, one file per shard; another engine's is not taken for its own."""
    engine = wrapped.engine
    folder = root / f"checkpoint of {run.kind}, {run.model}"
    controller = controller_of(root, run, wrapped)
    folder.mkdir(exist_ok=True)
    controller.on_step_begin(0)
    controller.save(folder, engine.rank == 0)
    dist.barrier()
    assert len(list(folder.rglob("*.safetensors"))) == (1 if engine.replicated else 2), run.kind
    resumed = controller_of(root, run, wrapped)
    resumed.resume(folder)
    stored, restored = controller.subspace.state_dict(), resumed.subspace.state_dict()
    assert stored.keys() == restored.keys(), run.kind
    assert all(torch.equal(stored[key], restored[key]) for key in stored), run.kind
    if not engine.replicated and isinstance(engine, FSDP1Engine):
        resumed = controller_of(root, run, wrapped)
        resumed.resume(root / f"checkpoint of FSDP2, {run.model}")
        assert resumed.subspace.directions == 0, run.kind


def refusals(root):
    """What cannot be projected is refused by name."""

    def refused(wrap):
        try:
            wrap(load(root, Run("FSDP2")))
        except OGPSAError as error:
            return str(error)
        raise AssertionError("it was not refused")

    norm = "model.norm.weight is trained, but FSDP was told to ignore it"
    assert norm in refused(lambda model: FSDP2(model, ignored_params={model.model.norm.weight}))

    def ignoring(views):
        return lambda model: strategy("FULL_SHARD", views, ignored_states=[model.model.norm.weight])(model)

    assert norm in refused(ignoring(True))
    assert norm in refused(ignoring(False))
    # FSDP1 takes shard groups of one rank for NO_SHARD and then reduces nothing between the copies.
    assert "1 shards on 1 ranks" in refused(strategy("HYBRID_SHARD", mesh=(2, 1)))

    def mixed(model):
        fully_shard(model.model.layers[0], mesh=init_device_mesh("cpu", (2, 1), mesh_dim_names=("copies", "shards")))
        return FSDP2Engine(fully_shard(model, mesh=init_device_mesh("cpu", (2,))))

    assert "1 shards on 2 ranks; 2 shards on 2 ranks" in refused(mixed)
