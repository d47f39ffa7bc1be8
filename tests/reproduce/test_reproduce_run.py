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
from ogpsa_factory.reproduce import cli, running


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
    merged, lora, evaluate, report = commands
    assert merged == ["pipeline", "examples/yaml/reproduce/mini/sft_merged.yaml", "seed=7"]
    assert lora == ["pipeline", "examples/yaml/reproduce/mini/sft_dpo_lora.yaml", "seed=7"]
    output = "results/reproduce/table1/mini"
    models = [
        "base=saves/mini/base",
        f"SFT/merged={HOME}/naive/merged_sft",
        f"SFT-DPO/lora=saves/mini/base+{HOME}/lora/sft+{HOME}/lora/dpo",
    ]
    options = ["--output", f"{output}/evaluation", "--suite", "mini", "--judge", "keywords"]
    assert evaluate == ["evaluate", *models, *options]
    assert report == ["report", f"{output}/evaluation", "--output", f"{output}/report"]
    assert f"{output}/report" in capsys.readouterr().out


def test_overrides_of_a_row_reach_its_pipeline(commands):
    run("table8", "--scale", "mini", "--rows", "SFT/30")
    place = f"output_dir={HOME}/ogpsa_sft_k30"
    assert commands[0][2:] == ["ogpsa_refresh_steps=30", place]
    assert "--benchmarks" not in commands[1]  # those of the paper's suite are not the miniature world's


def test_options_of_the_evaluation(commands, tmp_path):
    for name in ("saferlhf_dpo", "ultrafeedback_ref_sft", "halueval_ref_sft"):
        registry = json.loads((tmp_path / "data" / "dataset_info.json").read_text())
        registry[name] = {"hf_hub_url": "x"}
        (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(registry))
    judge = ["--judge", "endpoint", "--judge-url", "http://x/v1", "--judge-model", "m", "--backend", "vllm"]
    more = ["--skip-missing", "--data", "d", "--output", "there", "--evaluate", "--limit", "5", "--plan"]
    assert run("table4", "--rows", "DPO/5", *judge, *more) == 0
    words = commands[1][1:]
    assert words[:4] == [
        "base=Qwen/Qwen2.5-7B-Instruct",
        "DPO/5=saves/reproduce/qwen2_5_7b/ogpsa_dpo/dpo",
        "--output",
        "there/evaluation",
    ]
    given = ["--backend", "vllm", "--judge", "endpoint", "--judge-url", "http://x/v1", "--judge-model", "m"]
    shown = ["--benchmarks", "Stereotype,StrongReject,SimpleQA,MMLU,IFEval,HHH"]
    rest = ["--data", "d", "--skip-missing", "--limit", "5", "--plan"]
    assert words[4:] == ["--suite", "paper", *shown, *given, *rest]


def test_the_miniature_world_is_built_where_it_is_missing(commands, tmp_path):
    (tmp_path / "saves" / "mini" / "base").rmdir()
    run("table1", "--scale", "mini", "--rows", "SFT/naive")
    assert commands[0] == ["lab", "build"] and commands[1][0] == "pipeline"


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
