"""A stage that merges, in a pipeline whose training is stubbed; and pipelines that share a run directory."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_pipeline import project  # noqa: F401

from ogpsa_factory import OGPSAError
from ogpsa_factory.pipeline import check
from ogpsa_factory.pipeline.chain import trained_adapters


# Stands in for llamafactory-cli: adds one to every weight.
TRAINING = f"""#!{sys.executable}
import pathlib, sys, yaml
from safetensors.numpy import load_file, save_file
config = yaml.safe_load(open(sys.argv[2]))
output, model = pathlib.Path(config["output_dir"]), pathlib.Path(config["model_name_or_path"])
output.mkdir(exist_ok=True)
save_file({{name: value + 1 for name, value in load_file(model / "model.safetensors").items()}},
          output / "model.safetensors")
(output / "config.json").write_text("{{}}")
"""


@pytest.fixture
def merging(project):  # noqa: F811
    """SFT, the average of what it leaves and the base, DPO on the average."""
    project.content["stages"].insert(1, {"name": "merged", "merge": 0.25})
    return project


def test_it_averages_with_the_first_model_and_hands_on_the_result(merging):
    sft, merged, dpo = merging.stages("learning_rate=0.3", "merged.merge=0.75")
    assert merged.merges and not sft.merges
    assert merged.config == {
        "merge_base": str(merging.root / "model"),
        "model_name_or_path": str(merging.run_dir / "sft"),
        "merge": 0.75,
        "finetuning_type": "full",
        "output_dir": str(merging.run_dir / "merged"),
    }
    assert merged.base == merging.root / "model" and trained_adapters(merged.config) == []
    assert dpo.config["model_name_or_path"] == str(merging.run_dir / "merged")
    assert merging.stages("sft.model_revision=abc")[1].config["model_revision"] == "abc"


@pytest.mark.parametrize(
    "stages, words, message",
    [
        ([{"name": "m", "merge": 0.5}], [], "Stage m merges what a stage before it has trained"),
        ([{"name": "a", "config": {}}, {"name": "m", "merge": 1.5}], [], "a number from 0 to 1, and it is 1.5"),
        ([{"name": "a", "config": {}}, {"name": "m", "merge": "half"}], [], "a number from 0 to 1, and it is 'half'"),
        ([{"name": "a", "config": {}}, {"name": "m", "merge": True}], [], "a number from 0 to 1, and it is True"),
        ([{"name": "a", "config": {}}, {"name": "m", "merge": 0.5, "config": {}}], [], "neither file nor config"),
        ([{"name": "a", "config": {}}, {"name": "m", "merge": 0.5}], ["m.lr=1"], "takes no lr"),
        ([{"name": "a", "config": {}}, {"name": "m", "merge": 0.5}], ["finetuning_type=lora"], "leaves an adapter"),
        (
            [{"name": "a", "config": {"adapter_name_or_path": "x"}}, {"name": "m", "merge": 0.5}],
            [],
            "the pipeline starts from one",
        ),
    ],
)
def test_what_cannot_be_merged_is_refused_before_anything_starts(project, stages, words, message):  # noqa: F811
    project.content["stages"] = stages
    with pytest.raises(OGPSAError) as error:
        project.stages(*words)
    assert message in str(error.value)


def test_the_base_must_be_there(merging):
    (merged,) = [stage for stage in merging.stages("model_name_or_path=./absent") if stage.merges]
    assert check.examine(merged).problems == ["merge_base: ./absent does not exist"]


@pytest.mark.slow
def test_a_run_with_a_real_average(merging, capsys):
    merging.fake.write_text(TRAINING)
    base = merging.root / "model"
    save_file({"w": torch.zeros(2)}, base / "model.safetensors")
    (base / "config.json").write_text("{}")

    assert merging.run("--dry-run") == 0
    out = capsys.readouterr().out
    assert f"ogpsa_factory.merge {base} {merging.run_dir / 'sft'} --output" in out and "merge: 0.25" in out
    assert not merging.run_dir.exists()

    assert merging.run() == 0

    def weight(stage):
        return load_file(merging.run_dir / stage / "model.safetensors")["w"].unique().item()

    assert (weight("sft"), weight("merged"), weight("dpo")) == (1, 0.25, 1.25)
    assert "1 tensors" in (merging.run_dir / "logs" / "2_merged.log").read_text()
    assert f"Final model: {merging.run_dir / 'dpo'}" in capsys.readouterr().out

    assert merging.run() == 0
    assert "merged: finished before" in capsys.readouterr().out
    assert merging.run("merged.merge=0.5") == 1
    assert "Stage merged is finished with other arguments: merge was 0.25 and is 0.5" in capsys.readouterr().err
    assert merging.run("merged.merge=0.5", "--restart", "merged") == 0
    assert weight("merged") == 0.5 and merging.runs("1_sft.log") == 1 and merging.runs("2_merged.log") == 2

    save_file({"w": torch.zeros(3)}, base / "model.safetensors")
    assert merging.run("merged.merge=0.5") == 1
    assert f"the files of the model {base} are not the same" in capsys.readouterr().err
    assert merging.run("--restart", "merged") == 1  # sft notices as well


def test_a_merge_that_fails_says_why_and_is_tried_again(merging, capsys):
    assert merging.run() == 1  # the stub's files hold no tensors
    message = capsys.readouterr().err
    assert "stage merged failed (exit code 1): OGPSAError: " in message and "holds no config.json" in message
    assert merging.record("merged")["status"] == "failed" and merging.runs("1_sft.log") == 1


@pytest.mark.parametrize("key", ["save_strategy", "eval_strategy", "logging_strategy"])
def test_no_is_a_word_for_a_strategy(project, key):  # noqa: F811
    """YAML reads it as false, which LLaMA-Factory takes for no strategy at all."""
    (project.root / "sft.yaml").write_text(f"stage: sft\n{key}: no\nbf16: no\n")
    sft, dpo = project.configs(f"dpo.{key}=no")
    assert (sft[key], dpo[key], sft["bf16"]) == ("no", "no", False)


def test_pipelines_that_share_a_directory_train_nothing_twice(project, capsys):  # noqa: F811
    both = project.content["stages"]
    project.content["stages"] = both[:1]
    assert project.run() == 0
    project.content["stages"] = both
    assert project.run() == 0
    assert "sft: finished before\ndpo: starting" in capsys.readouterr().out
    project.content["stages"] = both[:1]
    assert project.run() == 0
    assert project.runs("1_sft.log") == project.runs("2_dpo.log") == 1


def test_a_stage_that_was_run_again_by_another_pipeline_is_noticed(project, capsys):  # noqa: F811
    assert project.run() == 0
    both = project.content["stages"]
    project.content["stages"] = both[:1]
    state = project.run_dir / "pipeline.json"
    records = json.loads(state.read_text())
    records["stages"]["dpo"]["started"] = "2020-01-01T00:00:00+00:00"  # the clock of records shows seconds
    state.write_text(json.dumps(records))
    assert project.run("--restart") == 0
    project.content["stages"] = both
    assert project.run() == 1
    message = capsys.readouterr().err
    assert "Stage dpo is finished with other arguments: stage sft, from which it starts, was run again" in message
    assert project.run("--restart", "dpo") == project.run() == 0
