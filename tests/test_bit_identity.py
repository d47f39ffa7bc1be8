"""Where OGPSA must leave no trace: the weights equal plain LLaMA-Factory's bit for bit."""

import pytest
import torch
from conftest import logged, report, save_toy_model, torchrun


# Dropout makes the comparison see any random number that the plugin draws and does not give back.
DROPOUT = {"attention_dropout": 0.1}


@pytest.fixture
def toy(toy):
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
    """K = infinity and a subspace that stays empty: mixin, controller and projection run, and change nothing."""
    from ogpsa_factory.llamafactory.trainer import OGPSATrainerMixin

    run(toy.config("plain"))
    original = OGPSATrainerMixin.reference_loss
    monkeypatch.setattr(OGPSATrainerMixin, "reference_loss", lambda self, rows: original(self, rows) * float("nan"))
    run(toy.ogpsa("empty", ogpsa_refresh_steps=10**9))
    assert same(toy.weights("plain"), toy.weights("empty"))
    assert report(toy, "empty")["summary"]["refreshes_rejected"] == 1


# Streaming: 40 rows are not a multiple of 2 x 3, and transformers leaves the rest's gradients to the next epoch.
PLAIN = {
    "accumulation 1": {"gradient_accumulation_steps": 1},
    "accumulation 2": {"gradient_accumulation_steps": 2},
    "left-over gradients": {"gradient_accumulation_steps": 3, "streaming": True, "dataloader_num_workers": 1},
}


@pytest.mark.parametrize("changes", PLAIN.values(), ids=PLAIN.keys())
def test_collecting_and_discarding_is_plain(toy, run, changes):
    """Monitor mode collects reference gradients at every step and changes nothing."""
    run(toy.config("plain", max_steps=9, **changes))
    watch = {"ogpsa_monitor_only": True, "ogpsa_refresh_steps": 1, "ogpsa_reference_batch_size": 3}
    run(toy.ogpsa("watch", max_steps=9, **watch, **changes))
    assert same(toy.weights("plain"), toy.weights("watch"))
    assert all(0 < value < 1 for value in logged(toy, "ogpsa/removed_ratio", "watch"))
    cosines = logged(toy, "ogpsa/cos/ref_a", "watch")
    assert len(cosines) == 9 and all(0 < abs(value) <= 1 for value in cosines)


def test_projection_is_not_plain(toy, run):
    run(toy.config("plain"))
    run(toy.ogpsa("projected"))
    assert not same(toy.weights("plain"), toy.weights("projected"))


def test_stage_name_is_the_same_run(toy, run):
    run(toy.ogpsa("switch"))
    run({key: value for key, value in toy.ogpsa("stage", stage="ogpsa_sft").items() if key != "use_ogpsa"})
    assert same(toy.weights("switch"), toy.weights("stage"))


@pytest.mark.slow
def test_under_ddp(toy):
    """Collect and discard is plain; a run that is resumed between two refreshes ends as the unbroken one."""
    watch = toy.ogpsa("watch", ogpsa_monitor_only=True, ogpsa_refresh_steps=1, ogpsa_reference_batch_size=1)
    unbroken = toy.ogpsa("unbroken", ogpsa_refresh_steps=2, save_strategy="steps", save_steps=3)
    resumed = {
        **toy.ogpsa("resumed", ogpsa_refresh_steps=2),
        "resume_from_checkpoint": f"{toy.root}/unbroken/checkpoint-3",
    }
    plain_dpo = toy.dpo("plain_dpo", use_ogpsa=False)
    watch_dpo = toy.dpo("watch_dpo", ogpsa_monitor_only=True, ogpsa_refresh_steps=1)
    lora = {"finetuning_type": "lora", "lora_rank": 4, "lora_target": "all", "ogpsa_refresh_steps": 5}
    unbroken_lora = toy.dpo("unbroken_lora", save_strategy="steps", save_steps=2, **lora)
    resumed_lora = {
        **toy.dpo("resumed_lora", **lora),
        "resume_from_checkpoint": f"{toy.root}/unbroken_lora/checkpoint-2",  # after the refresh that covers A
    }
    dpo = [plain_dpo, watch_dpo, unbroken_lora, resumed_lora]
    torchrun(toy, [toy.config("plain"), watch, unbroken, resumed, *dpo])
    assert logged(toy, "ogpsa/refresh_step", "unbroken_lora") == [0, 1, 5]
    adapters = [toy.root / name / "adapter_model.safetensors" for name in ("unbroken_lora", "resumed_lora")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    assert same(toy.weights("plain_dpo"), toy.weights("watch_dpo"))
    assert same(toy.weights("plain"), toy.weights("watch"))
    assert same(toy.weights("unbroken"), toy.weights("resumed"))
    assert not same(toy.weights("plain"), toy.weights("unbroken"))
