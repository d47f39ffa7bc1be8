"""The example files hold the paper's hyper-parameters, and a naive file differs from its OGPSA file by OGPSA alone."""

import json
from pathlib import Path

import pytest
import yaml

from ogpsa_factory.arguments import OGPSAArguments


ROOT = Path(__file__).parent.parent
FOLDERS = sorted(path for path in (ROOT / "examples" / "yaml").iterdir() if path.is_dir())


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_naive_and_ogpsa_differ_by_ogpsa_alone(folder):
    naive, ogpsa = load(folder / "naive_sft.yaml"), load(folder / "ogpsa_sft.yaml")
    own = {key for key in ogpsa if key.startswith("ogpsa_")}
    assert own and own <= set(OGPSAArguments.__dataclass_fields__)
    changed = {key for key in naive.keys() | ogpsa.keys() if naive.get(key) != ogpsa.get(key)}
    assert changed == own | {"stage", "output_dir"}
    assert (naive["stage"], ogpsa["stage"]) == ("sft", "ogpsa_sft")
    arguments = OGPSAArguments(use_ogpsa=True, **{key: ogpsa[key] for key in own})
    arguments.validate_ogpsa("sft")


@pytest.mark.parametrize("model", ["qwen2_5_7b", "llama3_1_8b"])
def test_paper_hyper_parameters(model):
    config = load(ROOT / "examples" / "yaml" / model / "ogpsa_sft.yaml")
    expected = {
        "learning_rate": 1e-6,
        "num_train_epochs": 3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "weight_decay": 0,
        "max_grad_norm": 1,
        "bf16": True,
        "finetuning_type": "full",
        "ogpsa_refresh_steps": 30,
        "ogpsa_reference_samples": 200,
    }
    assert {key: config[key] for key in expected} == expected
    assert config["per_device_train_batch_size"] * config["gradient_accumulation_steps"] * 8 == 128


def test_mini_files_name_registered_sets():
    info = json.loads((ROOT / "data" / "dataset_info.json").read_text(encoding="utf-8"))
    for path in (ROOT / "examples" / "yaml" / "mini").glob("*.yaml"):
        config = load(path)
        names = f"{config['dataset']},{config.get('ogpsa_reference_dataset', '')}".split(",")
        assert all(name.strip() in info for name in names if name)
