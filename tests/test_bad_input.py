"""Every mistake gets a message that names it, before the model loads."""

import contextlib
import json
from types import SimpleNamespace

import pytest
import torch
from conftest import logged, report
from transformers.integrations import HfDeepSpeedConfig

from ogpsa_factory import OGPSAError
from ogpsa_factory.engines.select import select_engine
from ogpsa_factory.llamafactory.optimizers import check_step
from ogpsa_factory.llamafactory.preflight import check_deepspeed, warn_of_fsdp, warn_of_nvme


@pytest.fixture
def start(toy, run, monkeypatch):
    """Start a run; reaching the model fails the test."""
    from llamafactory.train.sft import workflow

    def no_model(*args, **kwargs):
        pytest.fail("the model was loaded before the mistake was noticed")

    monkeypatch.setattr(workflow, "load_model", no_model)
    return lambda **changes: run(toy.ogpsa(**changes))


MISTAKES = {
    "unknown set": (
        {"ogpsa_reference_dataset": "ref_a,reff_b"},
        r"reff_b, which is not in .*dataset_info.json.*ref_b",
    ),
    "no set": ({"ogpsa_reference_dataset": None}, "ogpsa_reference_dataset is empty"),
    "same set twice": ({"ogpsa_reference_dataset": "ref_a,ref_a"}, "names ref_a more than once"),
    "K = 0": ({"ogpsa_refresh_steps": 0}, "ogpsa_refresh_steps: 0 .* 1 or more"),
    "K < 0": ({"ogpsa_refresh_steps": -5}, "ogpsa_refresh_steps: -5"),
    "schedule": ({"ogpsa_refresh": "sometimes"}, "ogpsa_refresh: sometimes .* fixed, adaptive"),
    "threshold": ({"ogpsa_refresh": "adaptive", "ogpsa_refresh_threshold": 1}, "ogpsa_refresh_threshold: 1.0 .* betw"),
    "threshold alone": ({"ogpsa_refresh_threshold": 0.3}, "acts in ogpsa_refresh: adaptive only"),
    "kernels": ({"ogpsa_kernels": "triton"}, "ogpsa_kernels: triton .* auto, plain, fused"),
    "no samples": ({"ogpsa_reference_samples": 0}, "ogpsa_reference_samples: 0"),
    "no batch": ({"ogpsa_reference_batch_size": 0}, "ogpsa_reference_batch_size: 0"),
    "no rank": ({"ogpsa_rank": 0}, "ogpsa_rank: 0"),
    "too many directions": ({"ogpsa_rank": 33}, "66 directions; at most 64"),
    "more directions than rows": ({"ogpsa_rank": 5, "ogpsa_reference_samples": 4}, "more directions than"),
    "energy": ({"ogpsa_energy": 1.5}, "ogpsa_energy: 1.5"),
    "tolerance": ({"ogpsa_tolerance": 1.0}, "ogpsa_tolerance: 1.0"),
    "K is not whole": ({"ogpsa_refresh_steps": 2.5}, "ogpsa_refresh_steps: 2.5 .* a whole number"),
    "K is a word": ({"ogpsa_refresh_steps": "often"}, "ogpsa_refresh_steps: often .* a whole number"),
    "no number": ({"ogpsa_reference_samples": None}, "ogpsa_reference_samples: None"),
    "tolerance is a word": ({"ogpsa_tolerance": "small"}, "ogpsa_tolerance: small .* a number"),
    "neat packing": (
        {"neat_packing": True, "flash_attn": "fa2", "ogpsa_reference_batch_size": 4},
        "ogpsa_reference_batch_size: 4 is not possible with neat_packing",
    ),
    "granularity": ({"ogpsa_granularity": "tensor"}, "ogpsa_granularity: tensor .* parameter, layer, global"),
    "mode": ({"ogpsa_mode": "plain"}, "ogpsa_mode: plain .* orthogonal, conflict, plane"),
    "scale without conflict": ({"ogpsa_aligned_scale": 0.5}, "acts in ogpsa_mode: conflict only"),
    "negative scale": ({"ogpsa_aligned_scale": -1, "ogpsa_mode": "conflict"}, "ogpsa_aligned_scale: -1"),
    "reference loss": ({"ogpsa_reference_loss": "dpo"}, "ogpsa_reference_loss: dpo .* sft, preference, lm_both"),
    "average": ({"ogpsa_reference_average": "tokens"}, "ogpsa_reference_average: tokens .* token, batch"),
    "selection": ({"ogpsa_reference_selection": "last"}, "ogpsa_reference_selection: last .* random, first"),
    "preference loss in SFT": (
        {"ogpsa_reference_loss": "preference", "ogpsa_reference_dataset": "pairs_a"},
        "preference is the loss of stage dpo; stage sft has none",
    ),
    "pairs that are none": (
        {"ogpsa_reference_loss": "lm_both", "ogpsa_reference_dataset": "pairs_a,ref_a"},
        "lm_both needs a chosen and a rejected answer in each row, and reference set ref_a has none",
    ),
    "pairs and fa2": (
        {
            "neat_packing": True,
            "flash_attn": "fa2",
            "ogpsa_reference_loss": "lm_both",
            "ogpsa_reference_dataset": "pairs_a",
        },
        "lm_both is not possible with neat_packing",
    ),
    "dtype": ({"ogpsa_subspace_dtype": "int8"}, "ogpsa_subspace_dtype: int8"),
    "conflict with energy": ({"ogpsa_mode": "conflict", "ogpsa_energy": 0.9}, "contradict each other"),
    "stage and switch": ({"stage": "ogpsa_sft", "use_ogpsa": False}, "contradict each other"),
    "stage": ({"stage": "ppo", "reward_model": "x"}, "does not work with stage: ppo"),
    "stage name": ({"stage": "ogpsa_ppo", "reward_model": "x"}, "does not work with stage: ppo"),
    "BAdam": ({"use_badam": True}, "use_badam: BAdam"),
    "layer-wise GaLore": ({"use_galore": True, "galore_layerwise": True}, "layer-wise GaLore"),
    "layer-wise APOLLO": ({"use_apollo": True, "apollo_layerwise": True}, "layer-wise APOLLO"),
    "optimizer": ({"optim": "lomo"}, "optim: lomo"),
    "what is projected": ({"ogpsa_project": "step"}, "ogpsa_project: step .* gradient, update, preconditioned"),
    "optimizer without a metric": (
        {"ogpsa_project": "preconditioned", "optim": "adafactor"},
        "preconditioned does not work with optim: adafactor.* Use optim: adamw_torch, or ogpsa_project: update",
    ),
    "moment that is not to be read": (
        {"ogpsa_project": "update", "ogpsa_project_momentum": "step", "optim": "adafactor"},
        "ogpsa_project_momentum: step does not work with optim: adafactor",
    ),
    "optimizer in another's place": (
        {"ogpsa_project": "preconditioned", "use_muon": True},
        "preconditioned does not work with use_muon",
    ),
}


@pytest.mark.parametrize("changes,message", MISTAKES.values(), ids=MISTAKES.keys())
def test_mistake(start, changes, message):
    with pytest.raises(OGPSAError, match=message):
        start(**changes)


DEEPSPEED = {
    "ZenFlow": ({"zero_optimization": {"zenflow": {"topk_ratio": 0.1}}}, r"zero_optimization\.zenflow .* ZenFlow"),
    "MiCS": ({"zero_optimization": {"stage": 3, "mics_shard_size": 4}}, "mics_shard_size .* MiCS"),
    "SuperOffload": ({"zero_optimization": {"offload_optimizer": {"super_offload": True}}}, "SuperOffload"),
    "tensor parallelism": ({"tensor_parallel": {"autotp_size": 2}}, "autotp_size .* tensor parallelism"),
    "DeepCompile": ({"compile": {"deepcompile": True}}, "deepcompile .* DeepCompile"),
    "partial offload": (
        {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu", "ratio": 0.5}}},
        r"offload_optimizer\.ratio: 0.5",
    ),
    "optimizer": ({"optimizer": {"type": "OneBitAdam"}}, "optimizer.type: OneBitAdam .* Use AdamW"),
}


@pytest.mark.parametrize("settings,message", DEEPSPEED.values(), ids=DEEPSPEED.keys())
def test_deepspeed_configuration(settings, message):
    with pytest.raises(OGPSAError, match=message):
        check_deepspeed(HfDeepSpeedConfig(settings))


STEPS = {
    "NVMe": (
        {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}},
        "update",
        "ogpsa_project: update does not work with .*device: nvme",
    ),
    "no metric": ({"optimizer": {"type": "Lion"}}, "preconditioned", "does not work with optimizer.type: Lion"),
    "a metric": ({"optimizer": {"type": "AdamW"}}, "preconditioned", None),
    "any optimizer": ({"optimizer": {"type": "Lion"}}, "update", None),
    "SGD": ({"optimizer": {"type": "SGD"}}, "preconditioned", None),
    "fused": ({"optimizer": {"legacy_fusion": True}}, "update", "does not work with optimizer.legacy_fusion"),
}


@pytest.mark.parametrize("settings,project,message", STEPS.values(), ids=STEPS.keys())
def test_deepspeed_configuration_where_steps_are_projected(settings, project, message):
    expectation = pytest.raises(OGPSAError, match=message) if message else contextlib.nullcontext()
    own = SimpleNamespace(ogpsa_project=project, ogpsa_project_momentum="never", pure_bf16=False)
    with expectation:
        check_step("adamw_torch", HfDeepSpeedConfig(settings), own)


def test_16_bit_weights_are_warned_of(messages):
    own = SimpleNamespace(ogpsa_project="update", ogpsa_project_momentum="never", pure_bf16=True)
    check_step("adamw_torch", HfDeepSpeedConfig({"zero_optimization": {"stage": 2}}), own)
    assert messages() == ""
    check_step("adamw_torch", None, own)
    assert "With pure_bf16 there are no float32 weights" in messages()


def test_harmless_deepspeed_configuration():
    harmless = {"zero_optimization": {"stage": 3, "mics_shard_size": -1}, "tensor_parallel": {"autotp_size": 1}}
    check_deepspeed(HfDeepSpeedConfig({**harmless, "optimizer": {"type": "AdamW"}, "compile": {"deepcompile": False}}))


def test_fsdp_says_what_it_will_not_do(monkeypatch, messages):
    monkeypatch.delenv("FSDP_STATE_DICT_TYPE", raising=False)
    warn_of_fsdp(SimpleNamespace(use_cpu=False, fsdp_config={"version": 1}))
    assert not messages()
    warn_of_fsdp(SimpleNamespace(use_cpu=True, fsdp_config={"version": 2}))
    assert "Accelerate trains with DDP" in messages() and "no model.safetensors" in messages()


def test_nvme_says_that_it_does_not_resume(messages):
    for device, resumed in (("cpu", "checkpoint-1"), ("nvme", None), ("nvme", "checkpoint-1")):
        assert not messages()
        settings = HfDeepSpeedConfig({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": device}}})
        plugin = SimpleNamespace(hf_ds_config=settings)
        warn_of_nvme(SimpleNamespace(deepspeed_plugin=plugin, resume_from_checkpoint=resumed))
    assert "the run that is resumed from checkpoint-1 is not the unbroken one" in messages()


def wrapped_in(module, name, **attributes):
    """An object of a class that an engine could be made for, if it were known."""
    return type(name, (torch.nn.Module,), {"__module__": module, **attributes})()


def test_unknown_engines():
    model = torch.nn.Linear(2, 2)
    with pytest.raises(OGPSAError, match=r"where elsewhere\.Strange keeps gradients"):
        select_engine(model, wrapped_in("elsewhere", "Strange"))
    with pytest.raises(OGPSAError, match="PipelineEngine"):
        parts = {"optimizer": object(), "basic_optimizer": object()}
        select_engine(model, wrapped_in("deepspeed.runtime.pipe.engine", "PipelineEngine", **parts))


def test_unknown_deepspeed_optimizers(monkeypatch):
    deepspeed = pytest.importorskip("deepspeed")
    parts = {"optimizer": object(), "basic_optimizer": torch.optim.SGD([torch.zeros(1)], lr=1)}
    engine = wrapped_in("deepspeed.runtime.engine", "DeepSpeedEngine", **parts)
    monkeypatch.setattr(deepspeed, "DeepSpeedEngine", type(engine))
    with pytest.raises(OGPSAError, match="does not know DeepSpeed's object"):
        select_engine(torch.nn.Linear(2, 2), engine)
    type(engine).optimizer = type("BF16_Optimizer", (), {})()
    with pytest.raises(OGPSAError, match="BF16_Optimizer has no bf16_groups, fp32_groups_gradients"):
        select_engine(torch.nn.Linear(2, 2), engine)
    type(engine).basic_optimizer = type("ZeroOneAdam", (), {})()
    with pytest.raises(OGPSAError, match="optimizer ZeroOneAdam: it does not step with the averaged gradient"):
        select_engine(torch.nn.Linear(2, 2), engine)


def test_set_given_twice_as_a_list_of_no_names(start):
    with pytest.raises(OGPSAError, match="ogpsa_reference_dataset is empty"):
        start(ogpsa_reference_dataset=" , ")


def test_empty_set(start, toy):
    toy.write("ref_a", [])
    with pytest.raises(OGPSAError, match=r"Reference set ref_a \(.*ref_a.json\) cannot be used"):
        start()


def test_missing_file(start, toy):
    (toy.data / "ref_b.json").unlink()
    with pytest.raises(OGPSAError, match=r"Reference set ref_b \(.*ref_b.json\) cannot be used.*not found"):
        start()


def test_malformed_file(start, toy):
    (toy.data / "ref_b.json").write_text('[{"instruction": "w1", "output": ')
    with pytest.raises(OGPSAError, match=r"Reference set ref_b \(.*ref_b.json\) cannot be used"):
        start()


def test_wrong_columns(start, toy):
    toy.write("ref_a", [{"question": "w1", "answer": "w2"}])
    with pytest.raises(OGPSAError, match=r"Reference set ref_a .* cannot be used"):
        start()


def test_set_without_a_single_label(start, monkeypatch):
    from ogpsa_factory.llamafactory import data

    unlabelled = [{"input_ids": [5, 6, 7], "labels": [-100, -100, -100]}]
    monkeypatch.setattr(data, "_get_preprocessed_dataset", lambda *args, **kwargs: unlabelled)
    with pytest.raises(OGPSAError, match="Reference set ref_a has no row with an answer inside cutoff_len: 64"):
        start()


def test_labelled_data(start, toy):
    columns = {"prompt": "instruction", "response": "output", "kto_tag": "good"}
    toy.write("labelled", [{"instruction": "w1", "output": "w2", "good": True}], columns=columns)
    with pytest.raises(OGPSAError, match="labelled is labelled data"):
        start(ogpsa_reference_dataset="labelled")


def test_dataset_info_is_missing_or_broken(start, toy):
    info = toy.data / "dataset_info.json"
    info.write_text("{,}")
    with pytest.raises(OGPSAError, match=r"dataset_info.json is not valid JSON"):
        start()
    info.write_text(json.dumps(["ref_a"]))
    with pytest.raises(OGPSAError, match="must map names"):
        start()
    info.unlink()
    with pytest.raises(OGPSAError, match=r"dataset_info.json does not exist"):
        start()


def test_fewer_rows_than_asked_are_used_and_reported(toy, run, messages):
    run(toy.ogpsa(max_steps=1))
    assert "Reference set ref_a has 7 rows, 200 were asked for: all are used." in messages()
    assert "Reference set ref_b has 5 rows" in messages()


def test_reference_set_that_is_the_training_set(toy, run, messages):
    info = json.loads((toy.data / "dataset_info.json").read_text())
    info["other_name"] = {"file_name": "safety.json", "formatting": "alpaca"}
    (toy.data / "dataset_info.json").write_text(json.dumps(info))
    run(toy.ogpsa(max_steps=1, ogpsa_reference_dataset="other_name"))
    assert "Reference set other_name is the training set safety" in messages()


def test_numbers_as_text_and_names_as_a_list(toy, run):
    """What YAML makes of 1e-4, and the other way to write several names."""
    run(toy.ogpsa(max_steps=1, ogpsa_tolerance="1e-4", ogpsa_rank="2", ogpsa_reference_dataset=["ref_a", "ref_b"]))
    content = report(toy)
    assert content["arguments"]["ogpsa_tolerance"] == 1e-4
    assert [r["directions"] for r in content["reference_sets"]] == [2, 2]


def test_arguments_without_the_switch_are_reported(toy, run, messages):
    run(toy.ogpsa(max_steps=1, use_ogpsa=False))
    assert "use_ogpsa is off, so ogpsa_reference_dataset is ignored" in messages()


@pytest.mark.parametrize("broken_refresh", [0, 1])
def test_reference_loss_that_is_not_a_number(toy, run, messages, monkeypatch, broken_refresh):
    """The previous subspace stays (or there is none yet), the run goes on and no weight becomes NaN."""
    from ogpsa_factory.llamafactory.trainer import OGPSATrainerMixin

    original, calls = OGPSATrainerMixin.reference_loss, []

    def loss(self, features):
        calls.append(len(features))
        value = original(self, features)
        return value * float("nan") if (len(calls) - 1) // 7 == broken_refresh else value  # 4 + 3 batches a refresh

    monkeypatch.setattr(OGPSATrainerMixin, "reference_loss", loss)
    run(toy.ogpsa(ogpsa_refresh_steps=3))
    assert len(calls) == 14
    assert "ref_a, ref_b is not finite" in messages()
    assert ("there is no subspace yet", "the previous subspace is kept")[broken_refresh] in messages()
    assert report(toy)["summary"]["refreshes_rejected"] == 1
    assert all(weight.isfinite().all() for weight in toy.weights().values())
    # Steps with a subspace remove something; without one (the first three, if the first refresh fails) nothing.
    assert len(logged(toy, "ogpsa/removed_ratio")) == (3, 6)[broken_refresh]
