"""The example files hold the paper's hyper-parameters, and a naive file differs from its OGPSA file by OGPSA alone."""

import json
from pathlib import Path

import pytest
import yaml

from ogpsa_factory.arguments import OGPSAArguments
from ogpsa_factory.lab.datasets import write_preferences, write_sets
from ogpsa_factory.lab.preferences import preference_sets
from ogpsa_factory.lab.world import Sizes, World


ROOT = Path(__file__).parent.parent
FOLDERS = sorted(path for path in (ROOT / "examples" / "yaml").iterdir() if path.is_dir())


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
@pytest.mark.parametrize("model", ["qwen2_5_7b", "llama3_1_8b"])
def test_paper_hyper_parameters(model, stage, own):
    config = load(ROOT / "examples" / "yaml" / model / f"ogpsa_{stage}.yaml")
    expected = {**PAPER, **own}
    assert {key: config[key] for key in expected} == expected
    assert config["per_device_train_batch_size"] * config["gradient_accumulation_steps"] * 8 == 128
    assert len(config["ogpsa_reference_dataset"].split(",")) == 2


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
