"""Table 1 in miniature from the command line to the report, every step by the real commands; killed on the way."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_three_rows_and_a_kill(tmp_path):
    from ogpsa_factory.lab.build import build_world  # takes seconds, which the fast tests of this folder need not wait

    for name in ("examples", "evaluation"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "data").mkdir()
    shutil.copy(ROOT / "data" / "dataset_info.json", tmp_path / "data")
    # An untaught model: what counts is that all of it runs. It says something, as silence cannot be judged.
    build_world(tmp_path / "saves" / "mini" / "base", tmp_path / "data", steps=50, scale=0.05)
    rows = ["--rows", "SFT/naive,SFT/merged,SFT/ogpsa"]
    short = ["max_steps=3", "per_device_train_batch_size=4"]
    command = [sys.executable, "-m", "ogpsa_factory.cli", "reproduce", "table1", *short, "--scale", "mini", *rows]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = tmp_path / "saves" / "reproduce" / "mini"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while not (run / "naive" / "merged_sft" / "config.json").exists() and time.monotonic() < deadline:
            assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) != 0
    trained = (run / "naive" / "sft" / "model.safetensors").stat().st_mtime_ns

    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (run / "naive" / "sft" / "model.safetensors").stat().st_mtime_ns == trained, "nothing is trained twice"
    results = tmp_path / "results" / "reproduce" / "mini"
    with (results / "table1" / "table1.csv").open(newline="") as file:
        found = {(row["model"], row["benchmark"]) for row in csv.DictReader(file)}
    models = {"base", "SFT/naive", "SFT/merged", "SFT/ogpsa"}
    benchmarks = {"Harmful", "Recall", "Look-alikes", "mean:safety", "mean:general"}
    assert {(model, benchmark) for model in models for benchmark in benchmarks} <= found
    for name in ("report.html", "report.md", "report.json", "figure2.png"):
        assert (results / "table1" / name).stat().st_size > 1000
    scores = json.loads((results / "evaluation" / "SFT" / "ogpsa" / "scores.json").read_text())
    assert scores["benchmarks"]["Harmful"]["judge"] == "keywords"
