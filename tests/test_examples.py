"""The example files hold the paper's hyper-parameters, and a naive file differs from its OGPSA file by OGPSA alone.

And docs/scaling.md, which they name, says what is computed.
"""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from accelerate.utils import FullyShardedDataParallelPlugin
from llamafactory.hparams import ModelArguments
from transformers import LlamaForCausalLM, Qwen2ForCausalLM, TrainingArguments

from ogpsa_factory.arguments import OGPSAArguments
from ogpsa_factory.lab.datasets import write_preferences, write_sets
from ogpsa_factory.lab.preferences import preference_sets
from ogpsa_factory.lab.world import Sizes, World


ROOT = Path(__file__).parent.parent
REPRODUCE = (
    ROOT / "examples" / "yaml" / "reproduce"
)  # tests/reproduce/ looks at it, and tests/lab/ at the grids beside it
FOLDERS = [path.parent for path in sorted(REPRODUCE.parent.glob("*/ogpsa_sft.yaml"))]
DEEPSPEED = sorted((ROOT / "examples" / "deepspeed").glob("*.json"))
MODELS = ["qwen2_5_7b", "llama3_1_8b"]
ENGINES = ["zero3", "fsdp2"]
ENGINE_KEYS = {"deepspeed", "fsdp", "fsdp_config", "accelerator_config", "use_reentrant_gc"}


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def check_pair(naive, ogpsa, stage, folders):
    own = {key for key in ogpsa if key.startswith("ogpsa_")}
    assert own and own <= set(OGPSAArguments.__dataclass_fields__)
    changed = {key for key in naive.keys() | ogpsa.keys() if naive.get(key) != ogpsa.get(key)}
    assert changed == own | {"stage"} | folders
    assert (naive["stage"], ogpsa["stage"]) == (stage, f"ogpsa_{stage}")
    for key in folders:
        assert naive[key].replace("naive", "ogpsa") == ogpsa[key]
    arguments = OGPSAArguments(use_ogpsa=True, **{key: ogpsa[key] for key in own})
    arguments.validate_ogpsa(stage)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_naive_and_ogpsa_differ_by_ogpsa_alone(folder):
    check_pair(load(folder / "naive_sft.yaml"), load(folder / "ogpsa_sft.yaml"), "sft", {"output_dir"})
    # The second stage trains what the first one of its own pipeline left.
    both = {"output_dir", "model_name_or_path"}
    check_pair(load(folder / "naive_dpo.yaml"), load(folder / "ogpsa_dpo.yaml"), "dpo", both)


@pytest.mark.parametrize("method", ["naive", "ogpsa"])
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_stages_chain_with_and_without_the_pipeline(folder, method):
    sft, dpo = load(folder / f"{method}_sft.yaml"), load(folder / f"{method}_dpo.yaml")
    assert dpo["model_name_or_path"] == sft["output_dir"] != dpo["output_dir"]
    pipeline = load(folder / ("naive_pipeline.yaml" if method == "naive" else "pipeline.yaml"))
    assert pipeline["output_dir"] == f"saves/{folder.name}/{method}"
    files = {stage["name"]: stage["file"] for stage in pipeline["stages"]}
    assert list(files.items()) == [("sft", f"{method}_sft.yaml"), ("dpo", f"{method}_dpo.yaml")]
    assert all((folder / file).is_file() for file in files.values())
    for key in ("ogpsa_reference_dataset", "ogpsa_reference_samples", "template", "cutoff_len", "finetuning_type"):
        assert sft.get(key) == dpo.get(key)


PAPER = {
    "learning_rate": 1e-6,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "weight_decay": 0,
    "max_grad_norm": 1,
    "bf16": True,
    "finetuning_type": "full",
    "ogpsa_reference_samples": 200,
}


@pytest.mark.parametrize(
    ("stage", "own"),
    [
        ("sft", {"num_train_epochs": 3, "ogpsa_refresh_steps": 30}),
        ("dpo", {"num_train_epochs": 1, "ogpsa_refresh_steps": 5, "pref_beta": 0.2, "pref_loss": "sigmoid"}),
    ],
)
@pytest.mark.parametrize("engine", ["", *(f"_{engine}" for engine in ENGINES)])
@pytest.mark.parametrize("model", MODELS)
def test_paper_hyper_parameters(model, engine, stage, own):
    config = load(ROOT / "examples" / "yaml" / model / f"ogpsa_{stage}{engine}.yaml")
    expected = {**PAPER, **own}
    assert {key: config[key] for key in expected} == expected
    assert config["per_device_train_batch_size"] * config["gradient_accumulation_steps"] * 8 == 128
    assert len(config["ogpsa_reference_dataset"].split(",")) == 2


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("model", MODELS)
def test_engines_differ_by_the_engine_alone(model, engine):
    folder = ROOT / "examples" / "yaml" / model
    sft, dpo = (load(folder / f"ogpsa_{stage}_{engine}.yaml") for stage in ("sft", "dpo"))
    for config, stage in ((sft, "sft"), (dpo, "dpo")):
        base = load(folder / f"ogpsa_{stage}.yaml")
        changed = {key for key in base.keys() | config.keys() if base.get(key) != config.get(key)}
        chained = {"model_name_or_path"} if stage == "dpo" else set()
        assert "deepspeed" in changed
        assert changed <= ENGINE_KEYS | {"output_dir"} | chained
        assert config["output_dir"] == f"{base['output_dir']}_{engine}"
    assert dpo["model_name_or_path"] == sft["output_dir"]


def test_named_configurations_of_deepspeed_exist():
    named = {path: load(path).get("deepspeed") for folder in FOLDERS for path in folder.glob("*_???*.yaml")}
    assert {ROOT / name for name in named.values() if name} <= set(DEEPSPEED)
    stages = {path for path in named if path.parent.name in MODELS and "pipeline" not in path.name}
    assert all(bool(named[path]) != path.stem.endswith("_fsdp2") for path in stages)


@pytest.mark.parametrize("path", DEEPSPEED, ids=lambda path: path.stem)
def test_deepspeed_takes_its_configurations(path, tmp_path):
    """With the values that transformers fills in; DeepSpeed refuses keys that it does not know."""
    pytest.importorskip("deepspeed")
    from deepspeed.runtime.config import DeepSpeedConfig
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig, unset_hf_deepspeed_config

    filled = HfTrainerDeepSpeedConfig(str(path))
    unset_hf_deepspeed_config()  # or models that are loaded later would be partitioned
    arguments = TrainingArguments(tmp_path, use_cpu=True, bf16=True, max_grad_norm=0.5, gradient_accumulation_steps=4)
    filled.trainer_config_process(arguments)
    filled.trainer_config_finalize(arguments, SimpleNamespace(config=SimpleNamespace(hidden_size=32)), 10)
    assert "auto" not in json.dumps(filled.config)
    read = DeepSpeedConfig(filled.config)
    zero, stage, offload = read.zero_config, int(path.stem[4]), path.stem.endswith("_offload")
    assert read.zero_optimization_stage == stage
    assert read.bfloat16_config.enabled
    assert read.gradient_clipping == 0.5
    assert read.zero_allow_untested_optimizer
    assert zero.gather_16bit_weights_on_model_save == (stage == 3)  # the run leaves model.safetensors
    assert (zero.offload_optimizer is not None) == offload == (not read.zero_force_ds_cpu_optimizer)
    assert (zero.offload_param is not None) == (offload and stage == 3)


@pytest.mark.parametrize(("model", "network"), [(MODELS[0], Qwen2ForCausalLM), (MODELS[1], LlamaForCausalLM)])
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_transformers_understands_the_fsdp_files(model, network, stage, tmp_path, monkeypatch):
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")  # so that what transformers sets does not stay
    config = load(ROOT / "examples" / "yaml" / model / f"ogpsa_{stage}_fsdp2.yaml")
    own = {key: config[key] for key in ("fsdp", "fsdp_config", "accelerator_config")}
    # What transformers 5.6 does not read, it passes over in silence.
    known = {"fsdp_version", "reshard_after_forward", "transformer_layer_cls_to_wrap", "cpu_ram_efficient_loading"}
    assert set(own["fsdp_config"]) == known
    assert config["use_reentrant_gc"] is False
    assert "use_reentrant_gc" in ModelArguments.__dataclass_fields__
    arguments = TrainingArguments(tmp_path, use_cpu=True, bf16=True, **own)
    plugin = FullyShardedDataParallelPlugin(**arguments.fsdp_plugin_args)
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.cpu_ram_efficient_loading
    assert set(plugin.transformer_cls_names_to_wrap) == set(network._no_split_modules)
    assert plugin.auto_wrap_policy is not None
    assert arguments.accelerator_config.gradient_accumulation_kwargs == {"sync_each_batch": True}
    head = (ROOT / "examples" / "yaml" / model / f"ogpsa_{stage}_fsdp2.yaml").read_text(encoding="utf-8")
    assert "FSDP_STATE_DICT_TYPE=FULL_STATE_DICT ACCELERATE_USE_FSDP=true llamafactory-cli train" in head
    assert "FULL_STATE_DICT" not in str(plugin.state_dict_type)  # hence the variable
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT")
    full = FullyShardedDataParallelPlugin(**arguments.fsdp_plugin_args)
    assert "FULL_STATE_DICT" in str(full.state_dict_type)


def test_mini_files_name_registered_sets():
    info = json.loads((ROOT / "data" / "dataset_info.json").read_text(encoding="utf-8"))
    for path in (ROOT / "examples" / "yaml" / "mini").glob("*_???.yaml"):
        config = load(path)
        names = f"{config['dataset']},{config.get('ogpsa_reference_dataset', '')}".split(",")
        assert all(name.strip() in info for name in names if name)
        assert bool(info[config["dataset"]].get("ranking")) == config["stage"].endswith("dpo")


def test_the_repository_registers_what_the_world_writes(tmp_path):
    """Its registry is what `ogpsa lab build` makes of it: building changes no tracked file."""
    registry = (ROOT / "data" / "dataset_info.json").read_text(encoding="utf-8")
    (tmp_path / "dataset_info.json").write_text(registry, encoding="utf-8")
    world = World(sizes=Sizes().scaled(0.01))
    write_sets(tmp_path, world.sets())
    write_preferences(tmp_path, preference_sets(world))
    assert (tmp_path / "dataset_info.json").read_text(encoding="utf-8") == registry


def test_figures_on_scaling_are_computed(monkeypatch):
    """No figure is typed: the sections between marks are what docs/scaling.py makes."""
    specification = importlib.util.spec_from_file_location("scaling", ROOT / "docs" / "scaling.py")
    scaling = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "scaling", scaling)  # dataclasses look their module up
    specification.loader.exec_module(scaling)
    page = scaling.PAGE.read_text(encoding="utf-8")
    assert scaling.render(page) == page
    for path in re.findall(r"`((?:examples|docs|src)/[\w./-]+)`", page):
        assert (ROOT / path).exists(), path
