"""Grids through the real command, in a world that is too small to learn anything."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ogpsa_factory.errors import OGPSAError
from ogpsa_factory.files import locked, read_json
from ogpsa_factory.lab.grid.again import compare, drawn_points
from ogpsa_factory.lab.grid.definition import read_grid
from ogpsa_factory.lab.grid.nodes import plan
from ogpsa_factory.lab.grid.record import in_rows, read_record
from ogpsa_factory.lab.grid.runner import at_work, finished


pytest.importorskip("llamafactory")
MINI = Path(__file__).parents[2] / "examples/yaml/mini"
SETS = "mini_ref_recall,mini_ref_helpful"
OGPSA = {"use_ogpsa": True, "ogpsa_reference_dataset": SETS, "ogpsa_reference_samples": 4, "ogpsa_refresh_steps": 1}


def write_grid(folder, **changes):
    content = {
        "title": "Tiny",
        "curves": True,
        "world": {"steps": 3, "scale": 0.02},
        "seeds": [0],
        "stages": {"sft": str(MINI / "naive_sft.yaml"), "dpo": str(MINI / "naive_dpo.yaml")},
        "pipelines": {"sft": {"sft": [1e-3]}, "sft_dpo": {"sft": [1e-3], "dpo": [1e-4]}},
        "arguments": {"max_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 2},
        "methods": {
            "naive": {},
            "merged": {"merge": 0.5},
            "lora": {"pipelines": ["sft"], "arguments": {"finetuning_type": "lora", "lora_target": "all"}},
            "osf": {"osf": {"target_modules": "all-linear", "effective_rank": 0.5}},
            "ogpsa": {"pipelines": ["sft"], "arguments": OGPSA},
        },
        **changes,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def ogpsa(*words, cwd):
    command = [sys.executable, "-m", "ogpsa_factory.cli", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=500, env={**os.environ})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished grid: its folder and what the command said."""
    folder = tmp_path_factory.mktemp("grid")
    write_grid(folder)
    said = ogpsa("lab", "run", "tiny.yaml", "--output", "out", "--jobs", "2", cwd=folder)
    assert said.returncode == 0, said.stdout + said.stderr + "".join(p.read_text() for p in folder.rglob("*.log"))
    return folder, said.stdout


@pytest.mark.slow
def test_every_point_is_trained_and_measured(done):
    folder, said = done
    record = read_record(folder / "out" / "tiny.json")
    assert "8 points" in said and len(record["points"]) == record["planned"] == 8
    assert set(record["bases"]) == {"0"}
    for point in record["points"]:
        assert len(point["weights"]) == 64 and 0 <= point["measures"]["skills_mean"] <= 1
        assert bool(point["curves"]) == (point["method"] != "merged") == bool(point["steps"])
        assert set(point["measures"]["losses"]) >= {"safety", "harmless", "recall"}
    by_name = {(p["method"], p["pipeline"]): p for p in record["points"]}
    assert len({point["weights"] for point in record["points"]} | {record["bases"]["0"]["weights"]}) == 9
    log = in_rows(by_name["ogpsa", "sft"]["curves"])
    assert all(0 < entry["ogpsa/cos/mean"] < 1 for entry in log) and [entry["step"] for entry in log] == [1, 2]
    assert set(by_name["naive", "sft"]["curves"]) == {"step", "loss"}


@pytest.mark.slow
def test_adapters_are_whole_models_and_nothing_else_is_left(done):
    folder, _ = done
    for model in (folder / "out" / "models").iterdir():
        names = {path.name for path in model.iterdir()}
        assert names - {"data"} == {"model", "result.json"}
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in (model / "model").iterdir()}
        assert not (model / "model" / "adapter_config.json").exists()


@pytest.mark.slow
def test_the_same_command_finds_everything(done):
    folder, _ = done
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    said = ogpsa("lab", "run", "tiny.yaml", "--output", "out", cwd=folder)
    assert said.returncode == 0 and "9 are there, 0 to make" in said.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")} == before


@pytest.mark.slow
def test_points_made_again_are_equal_to_the_last_bit(done):
    """In another order and among other models: a process's past must not matter."""
    folder, _ = done
    said = ogpsa("lab", "check", "out/tiny.json", "--points", "3", "--jobs", "1", cwd=folder)
    assert said.returncode == 0 and said.stdout.count(": equal") == 3, said.stdout + said.stderr


@pytest.mark.slow
def test_what_differs_from_its_record_is_said(done, monkeypatch):
    folder, _ = done
    monkeypatch.chdir(folder)
    (point, *_), needed = drawn_points(Path("out/tiny.json"), 8, 0)
    assert next(iter(needed)) == read_record(Path("out/tiny.json"))["bases"]["0"]["key"]
    assert compare(point, Path("out")) is None
    assert "weights have the SHA-256" in compare({**point, "weights": "1" * 64}, Path("out"))
    assert "measures differ" in compare({**point, "measures": {}}, Path("out"))
    assert compare({**point, "key": "absent"}, Path("out")) == "it was not made"


@pytest.mark.slow
def test_other_versions_and_changed_grids_are_refused(done, monkeypatch, tmp_path):
    folder, _ = done
    monkeypatch.chdir(folder)
    content = read_json(folder / "out" / "tiny.json")
    (tmp_path / "old.json").write_text(json.dumps({**content, "versions": {**content["versions"], "torch": "1.0"}}))
    with pytest.raises(OGPSAError, match=r"made with torch 1\.0"):
        drawn_points(tmp_path / "old.json", 1, 0)
    changed = {**content, "methods": {**content["methods"], "naive": {**content["methods"]["naive"], "rate": 2.0}}}
    for other in (changed, {**content, "world": {**content["world"], "theme": "harbour"}}):
        (tmp_path / "other.json").write_text(json.dumps(other))
        with pytest.raises(OGPSAError, match=r"tiny\.yaml has changed since"):
            drawn_points(tmp_path / "other.json", 1, 0)


@pytest.mark.slow
def test_a_failure_spares_the_others_and_is_named(tmp_path):
    """PEFT refuses a rank pattern that is no mapping only when it reads it."""
    bad = {"osf": {"target_modules": "all-linear", "rank_pattern": "high"}}
    methods = {"naive": {}, "broken": bad, "merged": {"merge": 0.5, **bad}}
    write_grid(tmp_path, methods=methods, pipelines={"sft": {"sft": [1e-3]}})
    said = ogpsa("lab", "run", "tiny.yaml", "--output", "out", "--jobs", "1", cwd=tmp_path)
    assert said.returncode == 1 and "broken, sft, level 0, seed 0" in said.stdout
    assert "Traceback" in "".join(path.read_text() for path in (tmp_path / "out" / "logs").iterdir())
    assert "1 models more are missing" in said.stdout and "Traceback" not in said.stdout + said.stderr
    assert [point["method"] for point in read_record(tmp_path / "out" / "tiny.json")["points"]] == ["naive"]


@pytest.mark.slow
def test_arguments_are_checked_before_a_world_is_built(tmp_path):
    methods = {
        "naive": {},
        "typo": {"arguments": {"lora_rnak": 8}},
        "blind": {"arguments": {"use_ogpsa": True, "ogpsa_reference_dataset": "mini_ref_recal"}},
    }
    write_grid(tmp_path, methods=methods)
    said = ogpsa("lab", "run", "tiny.yaml", "--output", "out", cwd=tmp_path)
    assert said.returncode == 1 and not (tmp_path / "out").exists() and "Traceback" not in said.stderr
    for text in ("sft of typo in tiny.yaml", "lora_rnak", "sft of blind in tiny.yaml", "mini_ref_recal"):
        assert text in said.stderr
    write_grid(tmp_path, methods={"odd": {"osf": {"colour": "blue"}}})
    said = ogpsa("lab", "run", "tiny.yaml", "--dry-run", cwd=tmp_path)
    assert said.returncode == 1 and "methods: odd: osf: PEFT's OSFConfig does not take these" in said.stderr


@pytest.mark.slow
def test_llama_factory_takes_the_arguments_of_every_example(tmp_path):
    files = [*sorted((MINI.parent / "lab").glob("*.yaml")), MINI / "grid.yaml"]
    said = ogpsa("lab", "run", *files, "--dry-run", "--output", tmp_path / "out", cwd=tmp_path)
    assert said.returncode == 0, said.stdout + said.stderr


def test_a_folder_in_use_is_refused(tmp_path):
    made = plan(read_grid(write_grid(tmp_path)))
    with locked(tmp_path / "out" / ".lock", "busy"), pytest.raises(OGPSAError, match="in use by another"):
        with at_work(tmp_path / "out"):
            pass
    assert finished(tmp_path / "out", next(iter(made.nodes))) is None


def test_what_killed_processes_have_left_is_removed(tmp_path):
    (tmp_path / "models" / ".abc.1.tmp").mkdir(parents=True)
    (tmp_path / "models" / "abc").mkdir()
    with at_work(tmp_path):
        assert [path.name for path in (tmp_path / "models").iterdir()] == ["abc"]


def started(folder):
    """A grid that takes a while, once its first model is there and another one is being made."""
    write_grid(folder, world={"steps": 60, "scale": 0.02}, seeds=[0, 1])
    command = [sys.executable, "-m", "ogpsa_factory.cli", "lab", "run", "tiny.yaml", "--output", "out", "--jobs", "2"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, start_new_session=True)
    models = folder / "out" / "models"
    deadline = time.monotonic() + 150
    while not (list(models.glob("[!.]*/result.json")) and list(models.glob(".*"))):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    return process, models


def nothing_is_left(process):
    """No process of its group, once each has seen that it is to end."""
    with pytest.raises(ProcessLookupError):
        for _ in range(150):
            os.killpg(process.pid, 0)
            time.sleep(0.1)


@pytest.mark.slow
def test_ctrl_c_ends_every_process_and_what_is_finished_stays(tmp_path):
    process, models = started(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    nothing_is_left(process)
    made = {path.parent.name: path.stat().st_mtime_ns for path in models.glob("[!.]*/result.json")}
    record = read_record(tmp_path / "out" / "tiny.json")
    assert made and {base["key"] for base in record["bases"].values()} <= set(made) and record["planned"] == 16
    again = ogpsa(
        "lab", "run", "tiny.yaml", "--output", "out", "--methods", "naive", "--pipelines", "sft", cwd=tmp_path
    )
    assert again.returncode == 0, again.stderr
    assert {name: (models / name / "result.json").stat().st_mtime_ns for name in made} == made
    points = read_record(tmp_path / "out" / "tiny.json")["points"]
    assert {(p["method"], p["seed"]) for p in points if p["pipeline"] == "sft"} >= {("naive", 0), ("naive", 1)}


@pytest.mark.slow
def test_workers_end_with_the_process_that_wants_them(tmp_path):
    process, models = started(tmp_path)
    process.kill()
    process.wait()
    nothing_is_left(process)
    with at_work(tmp_path / "out"):
        assert not list(models.glob(".*"))
