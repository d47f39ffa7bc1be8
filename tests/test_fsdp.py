"""FSDP on two gloo processes: the oracle's weights, training untouched by a collection, and what engines promise."""

import functools
from dataclasses import replace

import fsdp_worker
import oracle
import pytest
import torch
from conftest import save_toy_model
from fsdp_worker import KINDS, LEARNING_RATE, Run


LIMIT = {"sgd": 1e-6, "adamw_torch": 1e-4}  # of the distance travelled
MAIN = ("FSDP2", "FSDP1 views", "FSDP1 flat")
GRIDS = [kind for kind in KINDS if "grid" in kind]
SHARDED = [kind for kind in KINDS if kind not in ("native", *GRIDS)]
SCALED = [kind for kind in SHARDED if "float16" in kind]
NARROW = [kind for kind in SHARDED if kind in SCALED or "half" in kind or "narrow" in kind]
EXACT = [kind for kind in SHARDED if kind not in NARROW]

CASES = (
    [Run(kind, *case) for kind in MAIN for case in (
        ("parameter", "adamw_torch", 2),
        ("global", "sgd", 2, ("ref_a",)),
        ("global", "adamw_torch", 1),
        ("layer", "sgd", 2),
        ("parameter", "sgd", 1, ("ref_single", "ref_b")),
    )]
    + [Run(kind, accumulation=2) for kind in EXACT]
    + [Run(kind, accumulation=2, hold_back=()) for kind in MAIN]
    + [Run(kind, model=model) for kind in MAIN for model in ("tied", "odd")]
    + [Run(kind, frozen="model.embed_tokens") for kind in MAIN[:2]]
)  # fmt: skip


STEPPED = (
    [
        Run(kind, granularity, "adamw_torch", 2, what=what, decay=0.0 if "flat" in kind else 0.5)
        for kind in MAIN
        for granularity, what in (
            ("parameter", "update"),
            ("global", "update"),
            ("parameter", "preconditioned"),
            ("layer", "preconditioned"),
        )
    ]
    + [Run(kind, optimizer="adamw_torch", what="preconditioned") for kind in EXACT if kind not in MAIN]
    + [Run(kind, "layer", "adamw_torch", what="update", momentum="step") for kind in MAIN]
    + [Run(kind, "global", "adamw_torch", model=model, what="update") for kind in MAIN for model in ("tied", "odd")]
)


@pytest.fixture
def root(toy):
    save_toy_model(toy.root / "tied", tie_word_embeddings=True)
    save_toy_model(toy.root / "odd", vocab_size=73, intermediate_size=1)  # shards of different sizes, and empty ones
    return toy.root


@pytest.fixture
def trained(root):
    """Train several runs in one pair of processes; starting them takes longest."""

    def train(runs, ranks=2):
        torch.multiprocessing.spawn(fsdp_worker.train_all, (str(root), runs, ranks), nprocs=ranks)
        return [torch.load(root / f"run{number}.pt", weights_only=True) for number in range(len(runs))]

    return train


@functools.cache
def trained_by_the_oracle(root, run):
    """The weights before and after a run in one process, and many runs of ours are compared with the same one."""
    model = fsdp_worker.load(root, run)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    after = oracle.train(
        root,
        granularity=run.granularity,
        optimizer=run.optimizer,
        rows_per_step=4 * run.accumulation,
        references=run.references,
        steps=run.steps,
        refresh=2,
        clip=fsdp_worker.CLIP,
        lr=LEARNING_RATE[run.optimizer],
        model=model,
        what=run.what,
        decay=run.decay,
        momentum=run.momentum,
    )
    return before, after


def error(root, run, weights, **changes):
    """Distance from the oracle's weights, relative to the distance that these travelled."""
    before, after = trained_by_the_oracle(root, replace(run, kind="", hold_back=(), **changes))
    return oracle.distance(weights, after) / oracle.distance(before, after)


@pytest.mark.slow
def test_weights_are_the_oracles(root, trained):
    for run, weights in zip(CASES, trained(CASES), strict=True):
        assert error(root, run, weights) <= LIMIT[run.optimizer], run


@pytest.mark.slow
def test_realised_steps_are_the_oracles(root, trained):
    """Behind clipping, momentum, AdamW's scaling and decay; no worker has found a leak."""
    for run, weights in zip(STEPPED, trained(STEPPED), strict=True):
        assert error(root, run, weights) <= 1e-4, run
        assert error(root, run, weights, what="gradient", momentum="never") > 1e-3, run


@pytest.mark.slow
def test_two_copies_of_two_shards(root, trained):
    """Each shard counts once, though two ranks hold it."""
    runs = [Run(kind, granularity) for kind in GRIDS for granularity in ("parameter", "global")]
    runs += [Run(kind, "global", what="update") for kind in GRIDS]
    for run, weights in zip(runs, trained(runs, ranks=4), strict=True):
        assert error(root, run, weights) <= (LIMIT["sgd"] if run.what == "gradient" else 1e-5), run


@pytest.mark.slow
def test_the_comparison_can_fail(root, trained):
    """Without projection, or with the other granularity, the weights are far from the oracle's."""
    runs = [Run(kind, **changes) for kind in MAIN for changes in ({"references": ()}, {"granularity": "layer"})]
    for run, weights in zip(runs, trained(runs), strict=True):
        assert error(root, run, weights, granularity="parameter", references=("ref_a", "ref_b")) > 1e-3, run


@pytest.mark.slow
def test_collecting_leaves_training_bit_identical(trained):
    """In every step, and in between: within no_sync, behind it, and between the last pass and the step."""
    runs = []
    for kind in SHARDED:
        # Held back first, as trainers do; also never, and behind a pass that was not.
        passes = [(1, ()), (2, (0,))] + ([(2, ()), (3, (1,))] if kind in MAIN else [])
        for accumulation, hold_back in passes:
            settings = {"accumulation": accumulation, "hold_back": hold_back, "steps": 8 if kind in SCALED else 2}
            settings["optimizer"] = "sgd" if "narrow" in kind else "adamw_torch"  # AdamW takes no mixture of dtypes
            runs.append(Run(kind, references=(), **settings))
            runs.append(Run(kind, monitor=True, disturb=True, **settings))
    weights = trained(runs)
    for run, plain, watched in zip(runs[::2], weights[::2], weights[1::2], strict=True):
        assert plain.keys() == watched.keys()
        assert all(torch.equal(plain[name], watched[name]) for name in plain), run


@pytest.mark.slow
def test_16_bits_project(root, trained):
    """No cosine is left, as every rank asserts. In float16 the first steps overflow, and references do."""
    runs = [Run(kind, references=references, steps=8) for kind in NARROW for references in ((), ("ref_a", "ref_b"))]
    stepped = [Run(kind, what="update", steps=8) for kind in NARROW if "narrow" not in kind]
    weights = trained(runs + stepped)[: len(runs)]  # of the stepped ones, too, every rank asserts it
    for run, plain, projected in zip(runs[::2], weights[::2], weights[1::2], strict=True):
        travelled = oracle.distance(dict(fsdp_worker.load(root, run).named_parameters()), plain)
        assert travelled > 0 and 1e-3 < oracle.distance(plain, projected) / travelled < 1, run


@pytest.mark.slow
def test_engines_keep_their_promises(root):
    runs = [Run(kind) for kind in SHARDED] + [Run(kind, model="odd") for kind in MAIN]
    torch.multiprocessing.spawn(fsdp_worker.contract, (str(root), runs), nprocs=2)
