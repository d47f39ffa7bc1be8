"""Where OGPSA must leave no trace: the weights equal plain LLaMA-Factory's bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


# Dropout makes the comparison see any random number that the plugin draws and does not give back.
DROPOUT = {"attention_dropout": 0.1}


@pytest.fixture
def toy(toy):
    from conftest import save_toy_model

    save_toy_model(toy.root / "model", **DROPOUT)
    return toy


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_switched_off_is_plain(toy, run, monkeypatch):
    run(toy.config("plain"))
    run(toy.config("off", use_ogpsa=False))
    assert same(toy.weights("plain"), toy.weights("off"))
    assert not (toy.root / "off" / "ogpsa_report.json").exists()

    from llamafactory.train import tuner

    monkeypatch.setattr(tuner, "run_sft", tuner.run_sft.__wrapped__)  # LLaMA-Factory's own function
    run(toy.config("untouched"))
    assert same(toy.weights("plain"), toy.weights("untouched"))


def test_empty_subspace_is_plain(toy, run, monkeypatch):
    """K = infinity and nothing to span: the mixin and the controller run, and change nothing."""
    from ogpsa_factory.llamafactory import workflow

    run(toy.config("plain"))
    monkeypatch.setattr(workflow, "load_reference_sets", lambda *args: [])
    run(toy.ogpsa("empty", ogpsa_refresh_steps=10**9))
    assert same(toy.weights("plain"), toy.weights("empty"))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_collecting_and_discarding_is_plain(toy, run, accumulation):
    """Monitor mode collects reference gradients at every step and changes nothing."""
    changes = {"gradient_accumulation_steps": accumulation, "ogpsa_reference_batch_size": 3}
    run(toy.config("plain", gradient_accumulation_steps=accumulation))
    run(toy.ogpsa("watch", ogpsa_monitor_only=True, **{**changes, "ogpsa_refresh_steps": 1}))
    assert same(toy.weights("plain"), toy.weights("watch"))
    history = json.loads((toy.root / "watch" / "ogpsa_report.json").read_text())["history"]
    cosines = [entry["ogpsa/cos/ref_a"] for entry in history if "ogpsa/cos/ref_a" in entry]
    assert len(cosines) == 6 and all(0 < abs(value) <= 1 for value in cosines)


def test_projection_is_not_plain(toy, run):
    run(toy.config("plain"))
    run(toy.ogpsa("projected"))
    assert not same(toy.weights("plain"), toy.weights("projected"))


def test_stage_name_is_the_same_run(toy, run):
    run(toy.ogpsa("switch"))
    run({key: value for key, value in toy.ogpsa("stage", stage="ogpsa_sft").items() if key != "use_ogpsa"})
    assert same(toy.weights("switch"), toy.weights("stage"))


@pytest.mark.slow
def test_collecting_and_discarding_is_plain_under_ddp(toy):
    common = {"ddp_backend": "gloo", "ogpsa_reference_batch_size": 1}
    watch = toy.ogpsa("watch", ogpsa_monitor_only=True, **{**common, "ogpsa_refresh_steps": 1})
    (toy.root / "runs.json").write_text(json.dumps([toy.config("plain", ddp_backend="gloo"), watch]))
    worker = Path(__file__).with_name("ddp_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(worker)]
    command.append(str(toy.root / "runs.json"))
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert same(toy.weights("plain"), toy.weights("watch"))
