"""FSDP through LLaMA-Factory and the Trainer, on two gloo ranks: as one process, without a trace, resumed exactly."""

import oracle
import pytest
import torch
from conftest import logged, make_toy, save_toy_model, torchrun
from test_parity import LEARNING_RATE, LIMIT, STEPS


FSDP2 = {
    "fsdp": "full_shard auto_wrap",
    "fsdp_config": {
        "version": 2,
        "transformer_layer_cls_to_wrap": ["Qwen2DecoderLayer"],
        "reshard_after_forward": True,
        "sync_module_states": "false",
    },
}


STEPPED = {"optim": "adamw_torch", "learning_rate": LEARNING_RATE["adamw_torch"]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs through the Trainer, which is told to use FSDP on CPUs."""
    toy = make_toy(tmp_path_factory.mktemp("fsdp"))
    save_toy_model(toy.root / "dropout", attention_dropout=0.1)
    dropout = {"model_name_or_path": str(toy.root / "dropout"), **FSDP2}
    parity = {"ogpsa_reference_batch_size": 3, "max_grad_norm": 0.5, "max_steps": STEPS, "disable_shuffling": True}
    runs = [
        toy.ogpsa(name, optim=name, learning_rate=LEARNING_RATE[name], **parity, **FSDP2) for name in LEARNING_RATE
    ]
    runs.append(toy.config("plain", **dropout))
    runs.append(toy.ogpsa("watch", ogpsa_monitor_only=True, ogpsa_refresh_steps=1, **dropout))
    for name, own in (("whole", {}), ("whole-step", {"ogpsa_project": "update", "ogpsa_mode": "conflict"})):
        runs.append(toy.ogpsa(name, save_strategy="steps", save_steps=3, **dropout, **own))
        checkpoint = f"{toy.root}/{name}/checkpoint-3"
        runs.append(toy.ogpsa(f"{name}-resumed", resume_from_checkpoint=checkpoint, **dropout, **own))
    runs.append(toy.ogpsa("step", ogpsa_project="preconditioned", weight_decay=0.5, **{**parity, **STEPPED}, **FSDP2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT")
        torchrun(toy, runs, worker="fsdp_trainer_worker.py")
    return toy


def same_weights(toy, one, other):
    a, b = toy.weights(one), toy.weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", LIMIT)
def test_through_the_trainer(trained, optimizer):
    expected = oracle.train(
        trained.root,
        granularity="parameter",
        optimizer=optimizer,
        rows_per_step=8,
        steps=STEPS,
        refresh=2,
        clip=0.5,
        lr=LEARNING_RATE[optimizer],
    )
    error = oracle.distance(trained.weights(optimizer), expected)
    assert error / oracle.distance(trained.weights("model"), expected) <= LIMIT[optimizer]


@pytest.mark.slow
def test_through_the_trainer_without_a_trace(trained):
    assert same_weights(trained, "plain", "watch")
    assert logged(trained, "ogpsa/refresh_step", "watch") == list(range(6))


@pytest.mark.slow
def test_steps_through_the_trainer(trained):
    expected = oracle.train(
        trained.root,
        granularity="parameter",
        optimizer="adamw_torch",
        rows_per_step=8,
        steps=STEPS,
        refresh=2,
        clip=0.5,
        lr=LEARNING_RATE["adamw_torch"],
        what="preconditioned",
        decay=0.5,
    )
    error = oracle.distance(trained.weights("step"), expected)
    assert error / oracle.distance(trained.weights("model"), expected) <= LIMIT["adamw_torch"]
    assert max(map(abs, logged(trained, "ogpsa/leak/ref_a", "step"))) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["whole", "whole-step"])
def test_through_the_trainer_resumed(trained, name):
    assert same_weights(trained, name, f"{name}-resumed")
    assert logged(trained, "ogpsa/refresh_step", f"{name}-resumed") == [0, 2, 4]
    assert len(list((trained.root / name / "checkpoint-3" / "ogpsa_subspace").iterdir())) == 2
