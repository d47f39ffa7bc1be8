"""`ogpsa pipeline`: what it refuses, how stages are chained, and that a run that was cut short goes on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import launcher_environment

from ogpsa_factory import OGPSAError, cli
from ogpsa_factory.mappings import read_mapping
from ogpsa_factory.pipeline import check, processes, runner
from ogpsa_factory.pipeline.chain import Stage, chain, trained_adapters
from ogpsa_factory.pipeline.definition import read_definition
from ogpsa_factory.pipeline.display import Figures, LogReader
from ogpsa_factory.pipeline.environment import write_environment


# Stands in for llamafactory-cli: trains nothing, and obeys an argument `do`.
FAKE = f"""#!{sys.executable}
import json, os, pathlib, subprocess, sys, time, yaml
config = yaml.safe_load(open(sys.argv[2]))
output = pathlib.Path(config["output_dir"])
output.mkdir(exist_ok=True)
do = config.get("do", "")
print("training", config["model_name_or_path"], flush=True)
with open(output / "trainer_log.jsonl", "a") as log:
    entry = {{"current_steps": 3, "total_steps": 6, "loss": 0.5, "remaining_time": "0:00:03"}}
    log.write(json.dumps(entry) + "\\n")
if "checkpoint" in do and "resume_from_checkpoint" not in config:
    for step in (3, 12):
        (output / f"checkpoint-{{step}}").mkdir()
        (output / f"checkpoint-{{step}}" / "trainer_state.json").write_text("{{}}")
        if "no optimizer" not in do:
            (output / f"checkpoint-{{step}}" / "optimizer.pt").touch()
    (output / "checkpoint-15").mkdir()
    if "crash" in do:
        print("out of memory")
        sys.exit(3)
if "worker" in do:  # in a session of its own, as torchrun's workers are
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], start_new_session=True)
    (output / "worker").write_text(str(worker.pid))
if "rank" in do:
    for rank in (0, 1):
        print(f"[rank{{rank}}]: Traceback (most recent call last):")
        print(f"[rank{{rank}}]:     raise OGPSAError(f'OGPSAError: {{{{name}}}}')")
        print(f"[rank{{rank}}]: " + config["raises"])
    for i in range(60):
        print(f"footer {{i}}")
    print("torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ")
    sys.exit(1)
if "fail" in do:
    for i in range(40):
        print(f"progress {{i}}\\rline {{i}}")
    sys.exit(3)
while "hang" in do and "resume_from_checkpoint" not in config:
    time.sleep(0.05)
(output / "model.safetensors").write_text(config["model_name_or_path"])
"""

DRIVER = """
import pathlib, sys
from ogpsa_factory import cli
from ogpsa_factory.pipeline import check, runner
runner.launcher = lambda: pathlib.Path(sys.argv[1])
check.check_stages = lambda stages: []
sys.exit(cli.main(["pipeline", *sys.argv[2:]]))
"""


class Project:
    """A folder with a pipeline file of two stages."""

    def __init__(self, root: Path) -> None:
        self.root, self.file, self.run_dir = root, root / "pipeline.yaml", root / "out"
        self.fake = root / "llamafactory-cli"
        self.fake.write_text(FAKE)
        self.fake.chmod(0o755)
        (root / "model").mkdir()
        (root / "model" / "model.safetensors").write_text("base")
        self.content = {
            "output_dir": str(self.run_dir),
            "common": {"model_name_or_path": str(root / "model"), "finetuning_type": "full", "learning_rate": 0.1},
            "stages": [{"name": "sft", "file": "sft.yaml"}, {"name": "dpo", "config": {"stage": "dpo"}}],
        }
        self.write("sft.yaml", {"stage": "sft", "output_dir": "elsewhere"})

    def write(self, name: str, content: object) -> None:
        text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
        (self.root / name).write_text(text)

    def stages(self, *overrides: str) -> list[Stage]:
        self.write("pipeline.yaml", self.content)
        return chain(read_definition(self.file, list(overrides)))

    def configs(self, *overrides: str) -> list[dict]:
        return [stage.config for stage in self.stages(*overrides)]

    def run(self, *words: str) -> int:
        self.write("pipeline.yaml", self.content)
        return cli.main(["pipeline", str(self.file), *words])

    def start(self, *words: str) -> subprocess.Popen:
        """Run it in a process of its own, until its second stage trains."""
        self.write("pipeline.yaml", self.content)
        command = [sys.executable, "-c", DRIVER, str(self.fake), str(self.file), *words]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A suite that runs in the background hands on that Ctrl-C is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        wait_for(lambda: (self.run_dir / "dpo" / "trainer_log.jsonl").exists() and self.record("dpo")["pid"])
        return process

    def record(self, stage: str) -> dict:
        return json.loads((self.run_dir / "pipeline.json").read_text())["stages"][stage]

    def launched(self, file: str) -> dict:
        return read_mapping(self.run_dir / "configs" / file)

    def runs(self, log: str) -> int:
        return (self.run_dir / "logs" / log).read_text().count("### ")


def wait_for(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def refusal(project: Project, capsys, words: str) -> str:
    """What a run is refused with, once it holds the words: a process on its way out holds the lock a moment longer."""
    messages = []

    def said() -> bool:
        assert project.run() == 1
        messages.append(capsys.readouterr().err)
        return words in messages[-1]

    wait_for(said)
    return messages[-1]


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    project = Project(tmp_path)
    monkeypatch.setattr(runner, "launcher", lambda: project.fake)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(check, "check_stages", lambda stages: [])
    return project


# The file


@pytest.mark.parametrize(
    "change, message",
    [
        ({"outputdir": "x"}, "unknown key outputdir. Did you mean output_dir?"),
        ({"stages": []}, "stages must be a list"),
        ({"stages": {"sft": {}}}, "stages must be a list"),
        ({"stages": ["sft"]}, "stage 1 must be a mapping"),
        ({"stages": [{"name": "sft", "cofnig": {}}]}, "stage 1: unknown key cofnig. Did you mean config?"),
        ({"stages": [{"config": {}}]}, "stage 1: name must be"),
        ({"stages": [{"name": "a/b", "config": {}}]}, "stage 1: name must be of letters"),
        ({"stages": [{"name": "logs", "config": {}}]}, "another folder"),
        ({"stages": [{"name": "a", "config": {}}] * 2}, "two stages are named a"),
        ({"stages": [{"name": "a"}]}, "neither a file nor a config"),
        ({"stages": [{"name": "a", "config": [1]}]}, "stage 1: config must be a mapping"),
        ({"stages": [{"name": "a", "file": "absent.yaml"}]}, "absent.yaml does not exist"),
        ({"stages": [{"name": "a", "file": 3}]}, "file must be the path"),
        ({"stages": [{"name": "a", "config": {"output_dir": "x"}}]}, "must not set output_dir"),
        ({"common": {"output_dir": "x"}}, "must not set output_dir"),
        ({"common": 3}, "common must be a mapping"),
        ({"output_dir": None}, "output_dir must name the folder"),
        ({"output_dir": "my runs"}, "a space or a comma"),
    ],
)
def test_a_wrong_file_is_refused_in_words(project, change, message):
    project.content.update(change)
    with pytest.raises(OGPSAError, match=r"pipeline\.yaml|output_dir") as error:
        project.stages()
    assert message in str(error.value)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("sft.yaml", "stage: sft\nlist: [1\nb: 2", "sft.yaml, line 3: not valid YAML"),
        ("sft.yaml", "stage: sft\nstage: dpo", "line 2: not valid YAML: found duplicate key stage"),
        ("sft.yaml", "- stage", "must be a mapping"),
        ("sft.yaml", "3", "must be a mapping"),
        ("sft.yaml", "a: ${", "Cannot read"),
        ("sft.json", '{"stage":\n}', "sft.json, line 2: not valid JSON"),
    ],
)
def test_an_unreadable_stage_file_is_refused_in_words(project, name, text, message):
    project.content["stages"][0]["file"] = name
    project.write(name, text)
    with pytest.raises(OGPSAError) as error:
        project.stages()
    assert message in str(error.value)


def test_missing_pipeline_file(tmp_path):
    with pytest.raises(OGPSAError, match=r"Cannot read .*absent\.yaml: No such file"):
        read_definition(tmp_path / "absent.yaml", [])


def test_json_stage_file(project):
    project.content["stages"][0]["file"] = "sft.json"
    project.write("sft.json", '{"stage": "pt"}')
    assert project.configs()[0]["stage"] == "pt"


# Strength and overrides


def test_strength(project):
    project.write("sft.yaml", {"learning_rate": 0.2})
    assert [c["learning_rate"] for c in project.configs()] == [0.2, 0.1]
    project.content["stages"][0]["config"] = {"learning_rate": 0.3}
    assert project.configs()[0]["learning_rate"] == 0.3
    overrides = ["learning_rate=4e-1", "dpo.learning_rate=5e-1"]
    assert [c["learning_rate"] for c in project.configs(*overrides)] == [0.4, 0.5]
    assert [c["learning_rate"] for c in project.configs(*reversed(overrides))] == [0.4, 0.5]


def test_override_of_a_nested_value(project):
    project.content["stages"][1]["config"]["lr_scheduler_kwargs"] = {"a": 1, "b": 2}
    assert project.configs("dpo.lr_scheduler_kwargs.b=3")[1]["lr_scheduler_kwargs"] == {"a": 1, "b": 3}


def test_output_dir(project):
    assert project.configs()[0]["output_dir"] == str(project.run_dir / "sft")
    assert [c["output_dir"] for c in project.configs("output_dir=there")] == ["there/sft", "there/dpo"]
    assert project.configs("output_dir=there")[1]["model_name_or_path"] == "there/sft"


def test_do_train_is_on_unless_a_stage_says_no(project):
    assert [c["do_train"] for c in project.configs("dpo.do_train=false")] == [True, False]


@pytest.mark.parametrize("word", ["learning_rate", "=3", "dpo.=3", "dop.learning_rate=3", "a=[", "dpo.output_dir=x"])
def test_a_wrong_override_is_refused(project, word):
    with pytest.raises(OGPSAError, match=r"form KEY=VALUE|no stage dop. Did you mean dpo|cannot be read|must not set"):
        project.stages(word)


# Chaining


def test_full_training_hands_on_its_output(project):
    project.write("sft.yaml", {"model_name_or_path": "base"})
    project.content["stages"].append({"name": "kto", "file": "sft.yaml"})
    base, *later = [c["model_name_or_path"] for c in project.configs()]
    assert base == "base"  # of a file, so it counts for the first stage only
    assert later == [str(project.run_dir / "sft"), str(project.run_dir / "dpo")]
    assert [c["model_name_or_path"] for c in project.configs("model_name_or_path=b")] == ["b", *later]


def test_a_model_written_for_the_stage_is_respected(project):
    assert project.configs("dpo.model_name_or_path=other")[1]["model_name_or_path"] == "other"
    project.content["stages"][1]["config"]["model_name_or_path"] = "another"
    assert project.configs()[1]["model_name_or_path"] == "another"


@pytest.mark.parametrize("kind", ["finetuning_type=lora", None])
def test_adapters_are_handed_on(project, kind):
    del project.content["common"]["finetuning_type"]  # LoRA is LLaMA-Factory's default
    project.content["stages"].append({"name": "kto", "config": {}})
    configs = project.configs(*([kind] if kind else []))
    sft, dpo, kto = (str(project.run_dir / name) for name in ("sft", "dpo", "kto"))
    assert {c["model_name_or_path"] for c in configs} == {str(project.root / "model")}
    assert [c.get("adapter_name_or_path") for c in configs] == [None, sft, f"{sft},{dpo}"]
    assert [c.get("create_new_adapter") for c in configs] == [None, True, True]
    assert trained_adapters(configs[2]) == [sft, dpo, kto]


def test_an_adapter_that_is_trained_on_takes_the_place_of_the_old_one(project):
    project.content["stages"].append({"name": "kto", "config": {}})
    configs = project.configs("finetuning_type=lora", "dpo.create_new_adapter=false")
    assert configs[2]["adapter_name_or_path"] == str(project.run_dir / "dpo")


def test_adapters_of_the_first_stage_are_handed_on(project):
    configs = project.configs("finetuning_type=lora", "sft.adapter_name_or_path=a,b", "sft.create_new_adapter=true")
    assert configs[1]["adapter_name_or_path"] == f"a,b,{project.run_dir / 'sft'}"


@pytest.mark.parametrize("kinds", [("lora", "full"), ("lora", "oft"), ("oft", "freeze")])
def test_no_way_from_an_adapter_to_another_kind(project, kinds):
    kinds = [f"{name}.finetuning_type={kind}" for name, kind in zip(("sft", "dpo"), kinds, strict=True)]
    with pytest.raises(OGPSAError, match=r"Stage dpo .* cannot start from the adapter of stage sft.*llamafactory-cli"):
        project.stages(*kinds)
    assert project.stages(*kinds, "dpo.model_name_or_path=merged")


def test_from_full_to_lora(project):
    dpo = project.configs("dpo.finetuning_type=lora")[1]
    assert dpo["model_name_or_path"] == str(project.run_dir / "sft")
    assert "adapter_name_or_path" not in dpo and "create_new_adapter" not in dpo


def test_a_stage_that_only_evaluates_changes_no_model(project):
    project.content["stages"].insert(1, {"name": "look", "config": {"do_train": False}})
    assert project.configs()[2]["model_name_or_path"] == str(project.run_dir / "sft")


# The run directory


def test_a_run(project, capsys):
    assert project.run() == 0
    assert (project.run_dir / "dpo" / "model.safetensors").read_text() == str(project.run_dir / "sft")
    assert project.launched("1_sft.yaml")["overwrite_output_dir"] is True
    assert project.record("dpo")["status"] == "finished" and project.record("dpo")["exit_code"] == 0
    assert "training" in (project.run_dir / "logs" / "2_dpo.log").read_text()
    out = capsys.readouterr().out
    assert "sft: starting\nsft: finished after" in out and "3/6 steps, loss 0.5" in out
    assert f"Final model: {project.run_dir / 'dpo'}" in out
    environment = json.loads((project.run_dir / "environment.json").read_text())
    assert environment["packages"]["llamafactory"] and environment["pipeline_sha256"]
    assert not list(project.run_dir.rglob("*.tmp"))


def test_only_named_variables_are_recorded(project, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    project.stages()
    for _ in range(2):
        write_environment(project.run_dir, project.file)
    text = (project.run_dir / "environment.json").read_text()
    assert "secret" not in text and '"OMP_NUM_THREADS": "1"' in text
    assert len(json.loads(text)["earlier"]) == 1


def test_finished_stages_are_skipped(project, capsys):
    assert project.run() == project.run() == 0
    assert "sft: finished before\ndpo: finished before\nFinal model" in capsys.readouterr().out
    assert project.runs("1_sft.log") == project.runs("2_dpo.log") == 1


def test_a_dry_run_writes_nothing(project, capsys):
    assert project.run("--dry-run") == 0
    assert not project.run_dir.exists()
    out = capsys.readouterr().out
    assert "### stage sft: run from the beginning" in out and "train " in out and "learning_rate: 0.1" in out
    project.run()
    before = sorted((path, path.stat().st_mtime_ns) for path in project.run_dir.rglob("*"))
    assert project.run("--dry-run", "--restart", "dpo") == 0
    assert "### stage sft: skip: finished\n### stage dpo: run" in capsys.readouterr().out
    assert sorted((path, path.stat().st_mtime_ns) for path in project.run_dir.rglob("*")) == before


def test_changed_arguments_are_refused(project, capsys):
    project.run()
    assert project.run("dpo.learning_rate=0.5", "dpo.beta=1") == 1
    message = capsys.readouterr().err
    assert "Stage dpo is finished with other arguments" in message and "--restart dpo" in message
    assert "learning_rate was 0.1 and is 0.5; beta was not set and is 1" in message
    assert project.run("dpo.overwrite_output_dir=false", "sft.resume_from_checkpoint=x", "learning_rate=1e-1") == 0


def test_a_base_model_that_was_built_anew_is_noticed(project, capsys):
    project.run()
    (project.root / "model" / "model.safetensors").write_text("other")
    assert project.run() == 1
    assert "the files of the model" in capsys.readouterr().err
    assert project.run("--restart") == 0


def test_changed_data_is_noticed(project, capsys):
    (project.root / "more").mkdir()
    for name in ("safety.json", "more/a.json"):
        project.write(name, "[]")
    sets = {"safety": {"file_name": "safety.json"}, "more": {"file_name": "more"}}
    project.write("dataset_info.json", json.dumps({**sets, "online": {"hf_hub_url": "x", "file_name": "absent"}}))
    data = {"dataset_dir": str(project.root), "dataset": "safety,online", "ogpsa_reference_dataset": ["more"]}
    project.content["stages"][1]["config"].update(data)
    assert project.run() == project.run() == 0
    recorded = {name: list(files or []) for name, files in project.record("dpo")["data"].items()}
    assert recorded == {"safety": ["safety.json"], "online": [], "more": ["a.json"]}
    project.write("more/b.json", "[]")
    assert project.run() == 1
    assert "with other arguments: the files of data set more are not the same." in capsys.readouterr().err
    project.write("safety.json", "[1]")
    assert project.run() == 1
    assert "data set safety are not the same; the files of data set more are" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_run_directory_may_be_named_by_another_path_or_moved(project, monkeypatch, kind):
    monkeypatch.chdir(project.root)
    words = [f"finetuning_type={kind}"]
    assert project.run(*words, "output_dir=out") == project.run(*words, f"output_dir={project.run_dir}") == 0
    project.run_dir.rename(project.root / "moved")
    assert project.run(*words, "output_dir=moved") == 0
    project.run_dir = project.root / "moved"
    assert project.runs("2_dpo.log") == 1
    assert project.run(*words, "output_dir=moved", "dpo.model_name_or_path=moved/other") == 1


def test_restart(project):
    project.run()
    (project.run_dir / "dpo" / "leftover").touch()
    assert project.run("dpo.learning_rate=0.5", "--restart", "dpo") == 0
    assert (project.runs("1_sft.log"), project.runs("2_dpo.log")) == (1, 2)
    assert not (project.run_dir / "dpo" / "leftover").exists()
    assert project.run("--restart") == 0
    assert (project.runs("1_sft.log"), project.runs("2_dpo.log")) == (2, 3)


def test_restart_of_an_unknown_stage(project, capsys):
    assert project.run("--restart", "dop") == 1
    assert "there is no such stage. Stages are: sft, dpo" in capsys.readouterr().err


def test_folders_of_others_are_left_alone(project, capsys, tmp_path):
    project.run_dir.mkdir()
    (project.run_dir / "thesis.tex").touch()
    assert project.run() == 1
    assert "is not the directory of a pipeline" in capsys.readouterr().err
    (project.run_dir / "thesis.tex").unlink()
    assert project.run() == 0
    project.content["stages"].append({"name": "kto", "config": {}})
    (project.run_dir / "kto").mkdir()
    assert project.run("--restart") == 1
    assert "was not made by this pipeline" in capsys.readouterr().err
    assert (project.run_dir / "kto").exists() and project.record("sft")["status"] == "finished"


def test_a_finished_stage_whose_folder_is_gone(project, capsys):
    project.run()
    (project.run_dir / "sft").rename(project.root / "moved")
    assert project.run() == 1
    assert "is gone. To train it again, run with `--restart sft`" in capsys.readouterr().err


def test_failure_shows_the_log(project, capsys):
    assert project.run("dpo.do=fail") == 1
    message = capsys.readouterr().err
    assert "stage dpo failed (exit code 3)" in message and "logs/2_dpo.log" in message
    assert "    line 39" in message and "line 25\n" in message
    assert "line 24" not in message and "progress" not in message
    assert project.record("dpo")["status"] == "failed" and project.record("dpo")["exit_code"] == 3
    assert project.run("learning_rate=0.1") == 0  # another argument is fine: nothing is left of the failed attempt
    assert project.runs("1_sft.log") == 1


@pytest.mark.parametrize(
    "raised, reason",
    [
        ("ogpsa_factory.errors.OGPSAError: no such set", "ogpsa_factory.errors.OGPSAError: no such set"),
        ("torch.OutOfMemoryError: CUDA out of memory.", "torch.OutOfMemoryError: CUDA out of memory."),
    ],
)
def test_failure_under_torchrun_shows_the_reason_first(project, capsys, raised, reason):
    assert project.run("dpo.do=rank", f"dpo.raises='{raised}'") == 1
    message = capsys.readouterr().err
    assert message.startswith(f"ogpsa: stage dpo failed (exit code 1): {reason}\nThe same command")
    assert "footer 59" in message and "footer 45" not in message


def test_a_checkpoint_without_optimizer_is_not_resumed_from(project, capsys):
    words = ["dpo.do='checkpoint,crash,no optimizer'"]
    assert project.run(*words) == 1
    assert project.run(*words, "--dry-run") == 0
    reason = "run from the beginning: checkpoint-12 holds no optimizer state (save_only_model)"
    assert f"### stage dpo: {reason}" in capsys.readouterr().out
    assert project.run(*words) == 1
    assert f"dpo: starting, to {reason}\n" in capsys.readouterr().out
    (project.run_dir / "dpo" / "checkpoint-12" / "global_step12").mkdir()  # DeepSpeed's
    assert project.run(*words, "--dry-run") == 0
    assert "### stage dpo: resume from checkpoint-12" in capsys.readouterr().out


def test_a_half_finished_stage_resumes_from_its_last_whole_checkpoint(project, capsys):
    assert project.run("dpo.do=checkpoint,crash") == 1
    assert project.run("dpo.do=checkpoint,crash", "--dry-run") == 0
    assert "### stage dpo: resume from checkpoint-12" in capsys.readouterr().out
    assert project.run("dpo.do=other") == 1
    assert "Stage dpo is half finished with other arguments: do was" in capsys.readouterr().err
    assert project.run("dpo.do=checkpoint,crash", "dpo.resume_from_checkpoint=elsewhere") == 0
    launched = project.launched("2_dpo.yaml")
    assert launched["resume_from_checkpoint"] == str(project.run_dir / "dpo" / "checkpoint-12")
    assert launched["overwrite_output_dir"] is False
    assert project.runs("1_sft.log") == 1


def test_a_checkpoint_of_the_user_counts_for_a_fresh_start(project):
    project.run("resume_from_checkpoint=true", "sft.resume_from_checkpoint=old/checkpoint-3")
    assert project.launched("1_sft.yaml")["resume_from_checkpoint"] == "old/checkpoint-3"
    assert "resume_from_checkpoint" not in project.launched("2_dpo.yaml")


def test_sigterm_stops_the_stage(project):
    process = project.start("dpo.do=hang")
    child = project.record("dpo")["pid"]
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "stopped by SIGTERM" in out
    assert project.record("dpo")["status"] == "failed" and project.record("dpo")["exit_code"] == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_ctrl_c_stops_the_stage_and_workers_outside_its_group(project):
    process = project.start("dpo.do=worker,hang")
    wait_for((project.run_dir / "dpo" / "worker").exists)
    assert len(processes.processes_of(project.run_dir)) == 2
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in out
    assert project.record("dpo")["status"] == "failed"
    assert processes.processes_of(project.run_dir) == []


def test_workers_that_outlive_pipeline_and_launcher_keep_others_out(project, capsys):
    process = project.start("dpo.do=worker,hang")
    worker = project.run_dir / "dpo" / "worker"
    wait_for(lambda: worker.exists() and worker.read_text())
    process.kill()
    process.communicate(timeout=60)
    launcher = project.record("dpo")["pid"]
    try:
        assert f"stop it with `kill {launcher} {worker.read_text()}`." in refusal(project, capsys, "still runs")
        os.kill(launcher, signal.SIGTERM)
        assert f"with `kill {worker.read_text()}`." in refusal(project, capsys, "stop them")
    finally:
        os.kill(int(worker.read_text()), signal.SIGKILL)
    wait_for(lambda: project.run() == 0)


def test_what_a_failed_stage_leaves_is_ended(project):
    assert project.run("dpo.do=worker,fail") == 1
    assert (project.run_dir / "dpo" / "worker").exists() and processes.processes_of(project.run_dir) == []


def test_words_after_an_option(project, capsys):
    words = ("sft.learning_rate=0.3", "--dry-run", "dpo.learning_rate=0.2", "--restart", "dpo", "a=1")
    assert project.run(*words) == 0
    sft, dpo = capsys.readouterr().out.split("### stage dpo")
    assert "learning_rate: 0.3" in sft and "learning_rate: 0.2" in dpo
    assert "a: 1" in sft and "a: 1" in dpo
    with pytest.raises(SystemExit):
        project.run("--dry-run", "a=1", "--dryrun")
    assert capsys.readouterr().err.endswith("unrecognized arguments: --dryrun\n")


def test_a_missing_file_argument(capsys):
    with pytest.raises(SystemExit):
        cli.main(["pipeline"])
    assert capsys.readouterr().err.endswith("the following arguments are required: FILE\n")


def test_one_pipeline_at_a_time(project, capsys):
    """Also while a stage runs that has outlived its pipeline."""
    process = project.start("dpo.do=checkpoint,hang")
    child = project.record("dpo")["pid"]
    try:
        assert project.run("dpo.do=checkpoint,hang") == 1
        process.kill()
        process.communicate(timeout=60)
        assert project.run("dpo.do=checkpoint,hang") == 1
        assert capsys.readouterr().err.count(f"still runs (stage dpo, process {child})") == 2
    finally:
        os.killpg(child, signal.SIGKILL)
    wait_for(lambda: project.run("dpo.do=checkpoint,hang") == 0)
    assert project.runs("1_sft.log") == 1 and project.runs("2_dpo.log") == 2


def test_log_reader(tmp_path):
    log = tmp_path / "trainer_log.jsonl"
    line = '{"current_steps": %d, "total_steps": 9, "remaining_time": "0:01:00"%s}\n'
    log.write_text(line % (1, ""))
    reader = LogReader(log)
    assert reader.read() is None  # an earlier attempt's
    with log.open("a") as file:
        file.write(line % (2, ', "loss": 0.5') + "{half")
    assert reader.read() == Figures(2, 9, 0.5, "0:01:00")
    assert reader.read() == Figures(2, 9, 0.5, "0:01:00")
    log.write_text(log.read_text().removesuffix("{half") + line % (3, ""))
    assert str(reader.read()) == "3/9 steps, loss 0.5"


# With LLaMA-Factory


@pytest.fixture
def real(toy) -> Project:
    """SFT, then OGPSA-DPO of the toy model, with the real launcher and checks."""
    (toy.root / "project").mkdir()
    project = Project(toy.root / "project")
    own = ("output_dir", "overwrite_output_dir", "dataset", "stage")
    project.content["common"] = {key: value for key, value in toy.config().items() if key not in own}
    project.write("sft.yaml", {"stage": "sft", "dataset": "safety"})
    ogpsa = {"ogpsa_reference_dataset": "ref_a,ref_b", "ogpsa_refresh_steps": 7}
    periods = {"max_steps": 60, "save_strategy": "steps", "save_steps": 3}
    project.content["stages"][1]["config"] = {
        **{"stage": "ogpsa_dpo", "dataset": "pairs", "learning_rate": 1e-3},
        **ogpsa,
        **periods,
    }
    return project


def problems(project: Project, *overrides: str) -> list[str]:
    return [problem for stage in project.stages(*overrides) for problem in check.examine(stage).problems]


@pytest.mark.parametrize(
    "override, message",
    [
        ("dpo.learning_rat=1", "there is no argument learning_rat. The nearest: learning_rate"),
        ("dpo.dataset=piars", "Undefined dataset piars"),
        ("dpo.dataset=safety", "stage dpo needs preference data"),
        ("sft.dataset=pairs", "stage sft does not take preference data"),
        ("dpo.dataset_dir=nowhere dpo.use_ogpsa=false dpo.stage=dpo", "Cannot open nowhere/dataset_info.json"),
        ("dpo.template=chatlm", "template: chatlm is unknown. The nearest: "),
        ("sft.stage=stf", "stage: stf is unknown"),
        ("sft.model_name_or_path=./nowhere", "model_name_or_path: ./nowhere does not exist"),
        ("dpo.ogpsa_reference_dataset=ref_c", "ref_c"),
        ("dpo.fp8=true", "use_ogpsa does not work with fp8"),
        ("dpo.finetuning_type=lorra", "Invalid fine-tuning method"),
        ("dpo.pref_loss=sigmoidal", "pref_loss: sigmoidal is unknown. It can be: sigmoid, hinge"),
        (
            "finetuning_type=lora dpo.adapter_name_or_path=./absent",
            "adapter_name_or_path: ./absent does not exist",
        ),
        ("sft.resume_from_checkpoint=absent/checkpoint-3", "resume_from_checkpoint: absent/checkpoint-3 does not"),
    ],
)
def test_every_stage_is_checked_before_the_first(real, override, message):
    found = problems(real, *override.split())
    assert len(found) == 1 and message in found[0]


@pytest.mark.parametrize("name, key", [("pairs", "dataset"), ("ref_b", "ogpsa_reference_dataset")])
def test_a_missing_data_file_is_noticed(real, toy, name, key):
    (toy.data / f"{name}.json").unlink()
    assert problems(real) == [f"{key}: the file of {name}, {toy.data / name}.json, does not exist"]


@pytest.mark.slow
def test_remarks_are_printed(real, capsys):
    real.content["stages"].pop()
    real.write("sft.yaml", {"stage": "sft", "dataset": "safety", "base_scale": 0.5})
    assert real.run("--dry-run") == 0
    assert (
        capsys.readouterr().err
        == "stage sft: note: base_scale is ignored: it acts with stage: sft_pg or dpo_pg only.\n"
    )


def test_a_right_pipeline_has_no_problems(real, monkeypatch):
    assert problems(real) == problems(real, "finetuning_type=lora") == []
    found = problems(real, "finetuning_type=lora", "dpo.quantization_bit=4")
    assert len(found) == 1 and "with quantization_bit, the adapter of the stage before cannot be merged" in found[0]


def test_lora_then_lora_starts_from_the_merged_model(real, toy, run):
    """The DPO stage's reference is the SFT model: its first loss is log 2, which a reference without SFT misses."""
    plain = ["finetuning_type=lora", "dpo.stage=dpo", "dpo.max_steps=1", "dpo.save_strategy='no'"]
    sft, dpo = real.configs(*plain, "dpo.use_ogpsa=false")
    run(sft)
    losses = []
    for create in (True, False):
        run({**dpo, "create_new_adapter": create, "overwrite_output_dir": True})
        log = (real.run_dir / "dpo" / "trainer_log.jsonl").read_text()
        losses.append(json.loads(log.splitlines()[0])["loss"])
    assert dpo["create_new_adapter"] is True
    assert losses[0] == pytest.approx(0.6931, abs=1e-4) != losses[1]


@pytest.mark.slow
def test_killed_in_the_second_stage(real, toy, run):
    """Pipeline and child are killed without warning; the same command ends with the weights of an unbroken run."""
    from safetensors.torch import load_file

    real.stages()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ogpsa_factory.cli", "pipeline", str(real.file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    wait_for(lambda: (real.run_dir / "dpo" / "checkpoint-12").exists() or process.poll() is not None, seconds=200)
    process.kill()
    os.killpg(real.record("dpo")["pid"], signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (real.run_dir / "dpo" / "model.safetensors").exists()

    result = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert result.returncode == 0, result.stderr
    assert "sft: finished before\ndpo: starting, to resume from checkpoint-" in result.stdout
    assert (real.runs("1_sft.log"), real.runs("2_dpo.log")) == (1, 2)

    run({**real.launched("2_dpo.yaml"), "resume_from_checkpoint": None, "output_dir": str(toy.root / "whole")})
    whole, resumed = toy.weights("whole"), load_file(real.run_dir / "dpo" / "model.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
def test_workers_of_torchrun_keep_others_out(real, toy, capsys):
    """They are in sessions of their own and have no descriptor of the lock; `kill` as the message says ends them."""
    real.content["stages"].pop()
    endless = {"stage": "sft", "dataset": "safety", "max_steps": 10**6, "ddp_backend": "gloo"}
    real.write("sft.yaml", endless)
    real.stages()
    environment = launcher_environment()
    command = [sys.executable, "-m", "ogpsa_factory.cli", "pipeline", str(real.file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    try:
        log = real.run_dir / "sft" / "trainer_log.jsonl"
        wait_for(lambda: log.exists() or process.poll() is not None, seconds=120)
        process.kill()
        process.wait()
        os.kill(real.record("sft")["pid"], signal.SIGTERM)
        named = [int(pid) for pid in re.findall(r"\d+", refusal(real, capsys, "stop them with").rpartition("kill")[2])]
        assert len(named) >= 3 and named == processes.processes_of(real.run_dir)
        for pid in named:
            os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not processes.processes_of(real.run_dir))
    finally:
        process.kill()
        for pid in processes.processes_of(real.run_dir):
            os.kill(pid, signal.SIGKILL)
