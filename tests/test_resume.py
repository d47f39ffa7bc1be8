"""A run that is cut short ends, once resumed, with the weights of the unbroken one."""

import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import logged


# K = 4 and a checkpoint every 3 steps: most checkpoints lie between two refreshes.
PERIODS = {"ogpsa_refresh_steps": 4, "save_strategy": "steps", "save_steps": 3, "overwrite_output_dir": False}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def stopped(toy, run):
    """An unbroken run of 10 steps in ``whole``, and in ``out`` what is left of one that was cut after step 6."""
    run(toy.ogpsa("whole", max_steps=10, **PERIODS))
    for name in ("checkpoint-3", "checkpoint-6"):
        shutil.copytree(toy.root / "whole" / name, toy.root / "out" / name)
    return toy


def test_resume_between_two_refreshes(stopped, run, messages):
    run(stopped.ogpsa("out", max_steps=10, **PERIODS))
    assert same(stopped.weights("whole"), stopped.weights("out"))
    assert "computed anew" not in messages()
    assert logged(stopped, "ogpsa/refresh_step", "out") == [0, 4, 8]
    assert logged(stopped, "ogpsa/removed_ratio", "out") == logged(stopped, "ogpsa/removed_ratio", "whole")


@pytest.mark.parametrize("what", ["update", "preconditioned"])
def test_resume_where_steps_are_projected(toy, run, messages, what):
    own = {"max_steps": 8, "ogpsa_project": what, "ogpsa_mode": "conflict", "weight_decay": 0.1, **PERIODS}
    run(toy.ogpsa("whole", **own))
    shutil.copytree(toy.root / "whole" / "checkpoint-3", toy.root / "out" / "checkpoint-3")
    run(toy.ogpsa("out", **own))
    assert same(toy.weights("whole"), toy.weights("out"))
    assert "computed anew" not in messages()
    assert logged(toy, "ogpsa/leak/ref_a", "out") == logged(toy, "ogpsa/leak/ref_a", "whole")


@pytest.mark.parametrize("pref_loss", ["sigmoid", "simpo"])
def test_resume_of_dpo(toy, run, messages, pref_loss):
    own = {"pref_loss": pref_loss, "max_steps": 8, "ogpsa_reference_dataset": "pairs_a,ref_b"}
    run(toy.dpo("whole", **{**PERIODS, **own}))
    shutil.copytree(toy.root / "whole" / "checkpoint-3", toy.root / "out" / "checkpoint-3")
    run(toy.dpo("out", **{**PERIODS, **own}))
    assert same(toy.weights("whole"), toy.weights("out"))
    assert "computed anew" not in messages()
    assert logged(toy, "ogpsa/refresh_step", "out") == [0, 4]


def test_without_its_subspace_the_run_would_differ(stopped, run, messages):
    shutil.rmtree(stopped.root / "out" / "checkpoint-6" / "ogpsa_subspace")
    run(stopped.ogpsa("out", max_steps=10, **PERIODS))
    assert "computed anew" in messages() and "holds no ogpsa_subspace" in messages()
    assert 6 in logged(stopped, "ogpsa/refresh_step", "out")
    assert not same(stopped.weights("whole"), stopped.weights("out"))


def test_another_setting_recomputes_and_warns(stopped, run, messages):
    run(stopped.ogpsa("out", max_steps=10, ogpsa_granularity="global", **PERIODS))
    assert "computed anew" in messages() and "other parameters, reference sets or OGPSA settings" in messages()
    assert 6 in logged(stopped, "ogpsa/refresh_step", "out")


def test_other_reference_rows_recompute_and_warn(stopped, run, messages):
    run(stopped.ogpsa("out", max_steps=10, ogpsa_reference_samples=4, **PERIODS))
    assert "computed anew" in messages()


def test_unreadable_subspace_recomputes_and_warns(stopped, run, messages):
    stored = stopped.root / "out" / "checkpoint-6" / "ogpsa_subspace" / "shared.safetensors"
    stored.write_bytes(stored.read_bytes()[:100])
    run(stopped.ogpsa("out", max_steps=10, **PERIODS))
    assert "cannot be read" in messages()


def test_half_written_checkpoint_is_passed_over(stopped, run, messages):
    broken = stopped.root / "out" / "checkpoint-9"
    shutil.copytree(stopped.root / "whole" / "checkpoint-9", broken)
    state = broken / "trainer_state.json"
    state.write_text(state.read_text()[:50])
    run(stopped.ogpsa("out", max_steps=10, **PERIODS))
    assert "checkpoint-9 is incomplete; resuming from" in messages()
    assert same(stopped.weights("whole"), stopped.weights("out"))


def test_resume_from_true_passes_over_a_half_written_checkpoint(stopped, run, messages):
    (stopped.root / "out" / "checkpoint-9").mkdir()
    (stopped.root / "out" / "checkpoint-best").mkdir()
    run(stopped.ogpsa("out", max_steps=10, **{**PERIODS, "resume_from_checkpoint": True}))
    assert "checkpoint-9 is incomplete; resuming from" in messages()
    assert same(stopped.weights("whole"), stopped.weights("out"))


def test_a_rejected_refresh_is_resumed_as_it_was(toy, run, monkeypatch):
    """No subspace yet is a state too: the resumed run must not compute one where the unbroken run had none."""
    from ogpsa_factory.llamafactory.trainer import OGPSATrainerMixin

    original = OGPSATrainerMixin.reference_loss

    def loss(self, rows):
        return original(self, rows) * (float("nan") if self.state.global_step == 0 else 1.0)

    monkeypatch.setattr(OGPSATrainerMixin, "reference_loss", loss)
    run(toy.ogpsa("whole", max_steps=6, **PERIODS))
    shutil.copytree(toy.root / "whole" / "checkpoint-3", toy.root / "out" / "checkpoint-3")
    run(toy.ogpsa("out", max_steps=6, **PERIODS))
    assert logged(toy, "ogpsa/refresh_step", "out") == [0, 4]
    assert same(toy.weights("whole"), toy.weights("out"))


def test_save_only_model_stores_no_subspace_and_resuming_says_what_is_missing(toy, run, messages):
    run(toy.ogpsa("out", max_steps=3, save_only_model=True, **PERIODS))
    assert (toy.root / "out" / "checkpoint-3" / "model.safetensors").exists()
    assert not (toy.root / "out" / "checkpoint-3" / "ogpsa_subspace").exists()
    run(toy.ogpsa("out", max_steps=4, **PERIODS))
    assert "checkpoint-3 holds no optimizer state (save_only_model)" in messages()


@pytest.mark.slow
def test_a_checkpoint_is_marked_as_whole_when_all_ranks_have_written_it():
    """Rank 0 writes trainer_state.json behind the random state: not before the others have written theirs."""
    from ogpsa_factory.llamafactory.trainer import OGPSATrainerMixin

    done = []

    class Trainer:
        accelerator = SimpleNamespace(wait_for_everyone=lambda: done.append("waited"))

        def _save_rng_state(self, output_dir):
            done.append(f"written to {output_dir}")

    class Mixed(OGPSATrainerMixin, Trainer):
        def __init__(self):
            pass

    Mixed()._save_rng_state("folder")
    assert done == ["written to folder", "waited"]


@pytest.mark.slow
def test_sigkill(toy, run):
    """The real thing: ``llamafactory-cli`` killed without warning, then started again with the same file."""
    periods = {**PERIODS, "ogpsa_refresh_steps": 7, "max_steps": 60}
    run(toy.ogpsa("whole", **periods))
    config = toy.root / "run.yaml"
    config.write_text(yaml.safe_dump(toy.ogpsa("out", **periods)))
    command = [os.path.join(os.path.dirname(sys.executable), "llamafactory-cli"), "train", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (toy.root / "out" / "checkpoint-12").exists():
        assert process.poll() is None and time.monotonic() < deadline, "the run ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (toy.root / "out" / "model.safetensors").exists()
    subprocess.run(command, check=True, timeout=200, stdout=subprocess.DEVNULL)
    assert same(toy.weights("whole"), toy.weights("out"))
