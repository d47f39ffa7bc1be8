"""What training logged of evaluated models: read where it is, drawn, and compared in time."""

import pytest
from PIL import Image
from results_world import BASE, NAIVE, OGPSA, write_model

from ogpsa_factory.cli import main
from ogpsa_factory.files import read_json, write_json
from ogpsa_factory.results.curves import (
    COS,
    LEAK,
    Run,
    draw_leaks,
    draw_losses,
    draw_overlap,
    mean_cosine,
    overhead_table,
)
from ogpsa_factory.results.document import NONE
from ogpsa_factory.results.models import Model
from ogpsa_factory.results.training import training_runs


def history(overlap=None, steps=(5, 10, 15), runtime=3.0):
    entries = [{"step": step, "loss": 1.0 / step} for step in steps]
    if overlap is not None:
        cosines = {"ogpsa/cos/a": overlap, "ogpsa/cos/b": -overlap, "ogpsa/cos_after/a": 0.0, "ogpsa/leak/a": -1e-7}
        entries = [entry | {"ogpsa/removed_ratio": overlap, **cosines} for entry in entries]
    mean = sum(entry["loss"] for entry in entries) / len(entries)
    return [*entries, {"step": steps[-1], "train_runtime": runtime, "train_loss": mean}]


def trained(folder, *given, **more):
    log = history(*given, **more)
    write_json(folder / "trainer_state.json", {"log_history": log, "global_step": 16, "logging_steps": 5})
    return folder


def model(name, path, adapters=()):
    return Model(name, "scores.json", {}, {"path": str(path), "adapters": [str(a) for a in adapters]})


def test_logs_are_read_of_the_last_folder(tmp_path):
    whole, adapter = trained(tmp_path / "whole"), trained(tmp_path / "adapter", 0.5)
    runs = training_runs(
        [model("SFT/naive", whole), model("DPO/ogpsa", whole, [tmp_path, adapter]), model("base", "owner/model")]
    )
    assert [(run.method, run.pipeline, run.overlap) for run in runs] == [("Naive", "SFT", None), ("OGPSA", "DPO", 0.5)]
    assert runs[0].seconds == 3.0 and runs[0].steps == 16


@pytest.mark.parametrize("content", ["[]", "{", '{"log_history": 3, "global_step": 1}', '{"log_history": []}'])
def test_logs_that_cannot_be_read_are_left_out(tmp_path, content):
    (tmp_path / "trainer_state.json").write_text(content)
    assert training_runs([model("SFT/naive", tmp_path)]) == []


def test_a_resumed_run_has_no_time(tmp_path):
    """The Trainer's time is of the part after the checkpoint, and its loss the sum of that part over all steps."""
    resumed = history()
    resumed[-1]["train_loss"] /= 3
    twice = [*history(), {"step": 15, "train_runtime": 1.0, "train_loss": 0.1}]
    for name, log in (("a", resumed), ("b", twice)):
        write_json(tmp_path / name / "trainer_state.json", {"log_history": log, "global_step": 15})
    runs = training_runs([model("x", tmp_path / "a"), model("y", tmp_path / "b")])
    assert [run.seconds for run in runs] == [None, None]


def run(method, panel="SFT", overlap=None, seconds=3.0, repetition="0"):
    return Run(
        method=method, pipeline=panel, panel=panel, log=history(overlap)[:-1], seconds=seconds, steps=15,
        repetition=repetition,
    )  # fmt: skip


def test_cosines_count_by_their_size():
    assert mean_cosine({"ogpsa/cos/a": 0.2, "ogpsa/cos/b": -0.4, "ogpsa/cos_after/a": 9.0}, COS) == pytest.approx(0.3)
    assert mean_cosine({"loss": 1.0}, COS) is None
    assert mean_cosine({"ogpsa/leak/a": -0.1, "ogpsa/cos/a": 0.2}, LEAK) == pytest.approx(0.1)


def test_pictures_are_drawn_where_there_is_something_and_removed_where_not(tmp_path):
    path = tmp_path / "picture.png"
    for draw in (draw_overlap, draw_losses, draw_leaks):
        assert draw([run("a", overlap=0.1), run("b", overlap=0.4), run("naive")], path)
        with Image.open(path) as image:
            image.verify()
        assert not draw([run("naive")], path) and not path.exists()
    assert not draw_losses([run("a", overlap=0.1), run("b", "DPO", overlap=0.4)], path)  # nothing to compare with


def test_times_are_compared_within_repetitions():
    runs = [run("naive", seconds=1.0), run("naive", seconds=10.0, repetition="1")]
    runs += [run("ogpsa", seconds=2.0), run("ogpsa", seconds=30.0, repetition="1"), run("ogpsa", "DPO", seconds=9.0)]
    lines = {line.labels: [cell.text for cell in line.cells] for line in overhead_table(runs, "naive").lines}
    assert lines["SFT", "ogpsa"][1:] == ["2", "2.50 (2.00 to 3.00)"]
    assert lines["DPO", "ogpsa"] == ["600.0", "1", NONE]


def test_the_report_of_evaluations_has_them(tmp_path):
    for name, chances, overlap in (("base", BASE, None), ("SFT/naive", NAIVE, None), ("SFT/ogpsa", OGPSA, 0.3)):
        write_model(tmp_path / "runs", name, chances)
        path = tmp_path / "runs" / name / "scores.json"
        content = read_json(path)
        content["model"]["path"] = str(trained(tmp_path / "saves" / name, overlap)) if "/" in name else name
        write_json(path, content)
    assert main(["report", str(tmp_path / "runs"), "--bootstrap", "100"]) == 0
    page = (tmp_path / "runs" / "report" / "report.md").read_text()
    assert "](leak.png)" in page and (tmp_path / "runs" / "report" / "leak.png").exists()
    assert "](overlap.png)" in page and "Time of training" in page and "| SFT | OGPSA | 187.5 | 1 | 1.00" in page
    assert (tmp_path / "runs" / "report" / "overlap.png").exists()
