"""LoRA and its relatives, freeze, quantised bases: the subspace lives on what is trained."""

import shutil

import pytest
import torch
from conftest import logged, report
from safetensors.torch import load_file


LORA = {"finetuning_type": "lora", "lora_rank": 4, "lora_target": "all"}
KINDS = {
    "lora": {},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "pissa": {"pissa_init": True, "pissa_iter": -1},
    "lora+": {"loraplus_lr_ratio": 4.0},
    "dropout": {"lora_dropout": 0.1},
    "some modules": {"lora_target": "q_proj,v_proj"},
    "additional target": {"additional_target": "embed_tokens,lm_head"},
    "modules to save": {"additional_target": "norm"},
    "bf16": {"bf16": True},
    "layer": {"ogpsa_granularity": "layer"},
    "global": {"ogpsa_granularity": "global"},
}


def adapter(toy, output="out"):
    return load_file(toy.root / output / "adapter_model.safetensors")


# LLaMA-Factory has no PiSSA with a reference model.
CASES = [(kind, "sft") for kind in KINDS] + [(kind, "dpo") for kind in ("lora", "dora", "additional target")]


@pytest.mark.slow
@pytest.mark.parametrize("kind,stage", CASES)
def test_kind(toy, run, overlaps, kind, stage):
    changes = KINDS[kind]
    make = toy.dpo if stage == "dpo" else toy.ogpsa
    run(make(max_steps=4, **{**LORA, **changes}))
    removed = logged(toy, "ogpsa/removed_ratio")
    assert len(removed) == 4 and all(0 < value < 1 for value in removed)
    assert len(overlaps) == 8 and max(map(abs, overlaps)) < 1e-6
    starts_at_zero = "pissa_init" not in changes
    assert logged(toy, "ogpsa/refresh_step") == ([0, 1, 2] if starts_at_zero else [0, 2])


def test_a_is_protected_from_the_moment_it_moves(toy, run, monkeypatch):
    """B = 0 hides A from the first refresh; the warm-up's first step has a learning rate of zero and moves nothing."""
    from ogpsa_factory import controller

    overlaps = []
    project = controller.Controller.before_clipping

    def watching(self, step, measure=False):
        project(self, step, measure)
        for name, basis, gradient in zip(
            self.engine.names, self.subspace.basis.matrices, self.engine.local_gradients(), strict=True
        ):
            if "lora_A" in name and gradient is not None and gradient.any():
                overlaps.append((step, bool(basis.any()), float((basis @ gradient.flatten()).abs().max())))

    monkeypatch.setattr(controller.Controller, "before_clipping", watching)
    run(toy.ogpsa(max_steps=5, lr_scheduler_type="linear", warmup_steps=3, **{**LORA, "ogpsa_refresh_steps": 100}))
    assert logged(toy, "ogpsa/refresh_step") == [0, 2], "step 0 has a learning rate of zero, so A moves from step 2 on"
    assert {step for step, _, _ in overlaps} == {2, 3, 4}
    assert all(protected and overlap < 1e-6 for _, protected, overlap in overlaps)


def test_a_tensor_that_no_reference_reaches_costs_no_refresh(toy, run, monkeypatch):
    """At the parameters of a refresh another one would find the same: only what moves later is worth a look."""
    from ogpsa_factory import controller

    collect = controller.collect_gradient

    def blind(engine, *args):
        gradients, loss = collect(engine, *args)
        hidden = [None if "q_proj" in name else g for name, g in zip(engine.names, gradients, strict=True)]
        return hidden, loss

    monkeypatch.setattr(controller, "collect_gradient", blind)
    run(toy.ogpsa(max_steps=6, ogpsa_refresh_steps=4))
    assert logged(toy, "ogpsa/refresh_step") == [0, 4]


@pytest.mark.parametrize("stop", ["checkpoint-1", "checkpoint-3"])
def test_resume(toy, run, stop):
    """Also from before the additional refresh, and from after it."""
    periods = {"ogpsa_refresh_steps": 5, "save_strategy": "steps", "save_steps": 1, "overwrite_output_dir": False}
    config = {"max_steps": 7, "lr_scheduler_type": "linear", "warmup_steps": 2, **LORA, **periods}
    run(toy.dpo("whole", **config))
    shutil.copytree(toy.root / "whole" / stop, toy.root / "out" / stop)
    run(toy.dpo("out", **config))
    whole, resumed = adapter(toy, "whole"), adapter(toy)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert logged(toy, "ogpsa/refresh_step") == logged(toy, "ogpsa/refresh_step", "whole") == [0, 2, 5]


def test_freeze(toy, run, overlaps):
    run(toy.ogpsa(max_steps=4, finetuning_type="freeze", freeze_trainable_layers=1))
    assert len(overlaps) == 8 and max(map(abs, overlaps)) < 1e-6
    assert logged(toy, "ogpsa/refresh_step") == [0, 2]
    before, after = toy.weights("model"), toy.weights()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(".layers.1." in name for name in changed)


def test_an_adapter_on_top_of_an_adapter(toy, run):
    """SFT, then DPO on a new adapter: the first one is merged, so the reference policy is the SFT model."""
    run(toy.ogpsa("sft", max_steps=3, **LORA))
    chained = {"adapter_name_or_path": str(toy.root / "sft"), "create_new_adapter": True}
    run(toy.dpo("dpo", max_steps=3, **LORA, **chained))
    assert report(toy, "dpo")["summary"]["refreshes"] == 3
    assert adapter(toy, "dpo").keys() == adapter(toy, "sft").keys()


def test_quantised_base(toy, run):
    pytest.importorskip("bitsandbytes")
    run(toy.ogpsa(max_steps=3, quantization_bit=4, quantization_method="bnb", **LORA))
    assert all(0 < value < 1 for value in logged(toy, "ogpsa/removed_ratio"))
