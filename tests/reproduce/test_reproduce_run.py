"""`ogpsa reproduce` without `--plan`: which commands it runs in which order, and what stops it."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ogpsa_factory import OGPSAError
from ogpsa_factory.pipeline.state import RunDirectory
from ogpsa_factory.reproduce import cli, running
from ogpsa_factory.reproduce.tables import read_table


ROOT = Path(__file__).parent.parent.parent
HOME = "saves/reproduce/mini"


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """The commands that are run, in a folder with the miniature world's sets, all of them empty."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    registry = json.loads((ROOT / "data" / "dataset_info.json").read_text(encoding="utf-8"))
    (tmp_path / "data" / "mini").mkdir(parents=True)
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(registry))
    for entry in registry.values():
        (tmp_path / "data" / entry["file_name"]).touch()
    (tmp_path / "saves" / "mini" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found: list[list[str]] = []
    monkeypatch.setattr(running, "_run", lambda what, words: found.append(list(words)))
    return found


def run(*words):
    parser = argparse.ArgumentParser()
    cli.register(parser.add_subparsers())
    args = parser.parse_args(["reproduce", *words])
    return args.handler(args)


def test_rows_then_one_evaluation_then_one_report(commands, capsys):
    assert run("table1", "seed=7", "--scale", "mini", "--rows", "SFT/merged,SFT-DPO/lora") == 0
    first, merged, lora, evaluate, report = commands
    assert merged == ["pipeline", "examples/yaml/reproduce/mini/sft_merged.yaml", "seed=7"]
    assert lora == ["pipeline", "examples/yaml/reproduce/mini/sft_dpo_lora.yaml", "seed=7"]
    output = "results/reproduce/mini"
    models = [
        "base=saves/mini/base",
        f"SFT/merged={HOME}/naive/merged_sft",
        f"SFT-DPO/lora=saves/mini/base+{HOME}/lora/sft+{HOME}/lora/dpo",
    ]
    options = ["--suite", "mini", "--judge", "keywords"]
    assert first == ["evaluate", "--dry-run", *options]
    assert evaluate == ["evaluate", *models, "--output", f"{output}/evaluation", *options]
    folders = [f"{output}/evaluation/{name}" for name in ("base", "SFT/merged", "SFT-DPO/lora")]
    assert report == ["report", *folders, "--output", f"{output}/table1"]
    assert f"{output}/table1" in capsys.readouterr().out


def test_what_has_scores_is_reported_where_the_evaluation_fails(commands, monkeypatch):
    place = Path("results/reproduce/mini/evaluation/base")

    def failing(what, words):
        commands.append(list(words))
        if words[0] == "evaluate" and "--dry-run" not in words:
            raise OGPSAError("the judge is gone")

    monkeypatch.setattr(running, "_run", failing)
    with pytest.raises(OGPSAError, match="judge is gone"):
        run("table1", "--scale", "mini", "--rows", "SFT/naive")
    assert commands[-1][0] == "evaluate", "there is nothing to report"
    place.mkdir(parents=True)
    (place / "scores.json").touch()
    with pytest.raises(OGPSAError, match="judge is gone"):
        run("table1", "--scale", "mini", "--rows", "SFT/naive")
    assert commands[-1] == ["report", str(place), "--output", "results/reproduce/mini/table1"]


def test_overrides_of_a_row_reach_its_pipeline(commands):
    run("table8", "--scale", "mini", "--rows", "SFT/K30")
    place = f"output_dir={HOME}/ogpsa_sft_k30"
    assert commands[1][2:] == ["ogpsa_refresh_steps=30", place]
    assert not any(
        "--benchmarks" in words for words in commands
    )  # those of the paper's suite are not the miniature world's


def test_options_of_the_evaluation(commands, tmp_path):
    for name in ("saferlhf_dpo", "ultrafeedback_ref_sft", "halueval_ref_sft"):
        registry = json.loads((tmp_path / "data" / "dataset_info.json").read_text())
        registry[name] = {"hf_hub_url": "x"}
        (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(registry))
    judge = ["--judge", "endpoint", "--judge-url", "http://x/v1", "--judge-model", "m", "--backend", "vllm"]
    more = ["--skip-missing", "--data", "d", "--output", "there", "--evaluate", "--limit", "5", "--plan"]
    assert run("table4", "--rows", "DPO/K5", *judge, *more) == 0
    words = commands[2][1:]
    assert words[:4] == [
        "base=Qwen/Qwen2.5-7B-Instruct",
        "DPO/K5=saves/reproduce/qwen2_5_7b/ogpsa_dpo/dpo",
        "--output",
        "there/evaluation",
    ]
    given = ["--backend", "vllm", "--judge", "endpoint", "--judge-url", "http://x/v1", "--judge-model", "m"]
    shown = ["--benchmarks", "Stereotype,StrongReject,SimpleQA,MMLU,IFEval,HHH"]
    rest = ["--data", "d", "--skip-missing", "--limit", "5", "--plan"]
    assert words[4:] == ["--suite", "paper", *shown, *given, *rest]
    assert commands[3] == [
        "report",
        "there/evaluation/base",
        "there/evaluation/DPO/K5",
        *shown,
        "--output",
        "there/table4",
    ]
    run("table4", "--rows", "DPO/K5", "--evaluate", "--benchmarks=MMLU", "--limit", "5")
    assert commands[-1][-4:-2] == ["--benchmarks", "MMLU"]
    run("table4", "--rows", "DPO/K5", "--suite", "quick")
    assert "--benchmarks" not in commands[-1]


def test_families_are_evaluated_and_reported_apart(commands, monkeypatch):
    monkeypatch.setattr(running, "refuse_missing", lambda stages: None)
    assert run("table5", "--rows", "SFT/naive", "--output", "there") == 0
    evaluations, reports = ([words for words in commands if words[0] == what] for what in ("evaluate", "report"))
    for size, words, shown in zip(("0.5B", "3B"), evaluations[1:], reports, strict=True):
        home = f"saves/reproduce/qwen2_5_{size.lower().replace('.', '_')}_instruct/naive/sft"
        models = [f"base=Qwen/Qwen2.5-{size}-Instruct", f"SFT/naive={home}"]
        assert words[1:5] == [*models, "--output", f"there/{size}/evaluation"]
        assert shown[1:3] == [f"there/{size}/evaluation/base", f"there/{size}/evaluation/SFT/naive"]
        assert shown[-2:] == ["--output", f"there/{size}/table5"]


def finish(table, *names):
    """Record the runs of some rows as finished."""
    for row in read_table(Path("examples/yaml/reproduce"), table, "mini", names).rows:
        for stage in row.stages:
            stage.output.parent.mkdir(parents=True, exist_ok=True)
            directory = RunDirectory(stage.output.parent)
            directory.record_start(stage)
            directory.record(stage, status="finished")
            stage.output.mkdir()


def test_a_run_with_other_arguments_is_refused_before_anything_starts(commands):
    finish("table1", "SFT/naive")
    words = ["table1", "--scale", "mini", "--rows", "SFT/naive,SFT/lora"]
    assert run(*words) == 0
    commands.clear()
    with pytest.raises(OGPSAError) as error:
        run("table1", "seed=43", "report_to=a,b c", *words[1:])
    message = str(error.value)
    assert f"Nothing was started: {HOME}/naive/sft cannot go on. Stage sft is finished with other" in message
    assert "seed was 42 and is 43" in message
    assert "choose --runs DIR, and --output DIR, for a second run of the table" in message
    file = "examples/yaml/reproduce/mini/sft_naive.yaml"
    assert f"ogpsa pipeline {file} seed=43 'report_to=a,b c' --restart sft" in message
    assert commands == []
    assert run("table1", "seed=43", *words[1:], "--runs", "saves/seed43", "--output", "results/seed43") == 0
    assert commands[1][2:] == ["seed=43", "output_dir=saves/seed43/mini/naive"]
    assert "SFT/naive=saves/seed43/mini/naive/sft" in commands[3]
    with pytest.raises(OGPSAError, match="--runs needs --output"):
        run(*words, "--runs", "saves/seed43")


def test_the_miniature_world_is_built_where_it_is_missing(commands, tmp_path):
    (tmp_path / "saves" / "mini" / "base").rmdir()
    run("table1", "--scale", "mini", "--rows", "SFT/naive")
    assert [words[0] for words in commands] == ["lab", "evaluate", "pipeline", "evaluate", "report"]


def test_missing_sets_are_refused_before_anything_starts(commands):
    with pytest.raises(OGPSAError) as error:
        run("table1", "--rows", "SFT/general_data")
    message = str(error.value)
    assert "Data sets are missing: saferlhf_sft, ultrafeedback_general_sft. Make them with\n" in message
    assert "    ogpsa data build saferlhf\n    ogpsa data build general" in message
    with pytest.raises(
        OGPSAError, match=r"ogpsa data select mini_ref_helpful,mini_ref_recall .*--name mini_mixed_ref"
    ):
        run("table2", "--scale", "mini")
    assert commands == []


def test_a_step_that_fails_stops_the_command(capfd):
    with pytest.raises(OGPSAError, match=r"Row SFT/naive: `ogpsa pipeline` ended with 1.*the same command goes on"):
        running._run("Row SFT/naive", ["pipeline", "absent.yaml"])
    captured = capfd.readouterr()
    assert "### Row SFT/naive: ogpsa pipeline absent.yaml" in captured.out
    assert "Cannot read absent.yaml" in captured.err


CHILD = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(7)); print('up', flush=True); time.sleep(60)"
PARENT = f"""
import subprocess, sys
from ogpsa_factory.reproduce import running
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}])
with running._handing_on_signals(child):
    print("ended with", child.wait(), flush=True)
"""


def test_sigterm_is_handed_on_and_waited_for():
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert out == "ended with 7\n" and process.returncode == 0
