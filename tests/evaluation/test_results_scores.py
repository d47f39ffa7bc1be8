"""Reading of `scores.json`: what is damaged is named."""

import json

import pytest
from results_world import BASE, OGPSA, write_model, write_world

from ogpsa_factory.errors import OGPSAError
from ogpsa_factory.results.scores import read_scores


@pytest.fixture
def scores(tmp_path):
    return write_model(tmp_path, "SFT/ogpsa", OGPSA)


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_models_are_found_and_named_by_pipeline_and_method(tmp_path):
    models = {model.name: model for model in read_scores([write_world(tmp_path)])}
    assert list(models) == ["DPO/lora", "DPO/naive", "DPO/ogpsa", "SFT/lora", "SFT/naive", "SFT/ogpsa", "base"]
    assert (models["DPO/ogpsa"].pipeline, models["DPO/ogpsa"].method, models["DPO/ogpsa"].label) == (
        "DPO",
        "ogpsa",
        "OGPSA",
    )
    assert models["base"].pipeline == "" and models["base"].label == "Base"
    assert models["base"].benchmarks["MMLU"].items.rows.shape == (570, 2)


def test_a_folder_given_twice_is_read_once(tmp_path, scores):
    assert len(read_scores([tmp_path, scores.parent, tmp_path])) == 1


def test_default_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OGPSAError, match="results/evaluation"):
        read_scores([])
    write_model(tmp_path / "results" / "evaluation", "base", BASE)
    assert [model.name for model in read_scores([])] == ["base"]


def test_empty_folder(tmp_path):
    with pytest.raises(OGPSAError, match=r"no scores\.json.*ogpsa evaluate"):
        read_scores([tmp_path])


def test_two_models_of_one_name(tmp_path):
    for place in "ab":
        write_model(tmp_path / place, "base", BASE)
    with pytest.raises(OGPSAError, match=r"Two evaluations.*'base'"):
        read_scores([tmp_path])


EDITS = {
    "format 1": lambda c: c.update(format=2),
    "model.name": lambda c: c["model"].pop("name"),
    "benchmarks": lambda c: c.pop("benchmarks"),
    "benchmarks.MMLU.title": lambda c: c["benchmarks"]["MMLU"].pop("title"),
    "benchmarks.MMLU.axis": lambda c: c["benchmarks"]["MMLU"].update(axis="fun"),
    "benchmarks.MMLU.score": lambda c: c["benchmarks"]["MMLU"].update(score=True),
    "MMLU.score is": lambda c: c["benchmarks"]["MMLU"].update(score=float("nan")),
    "but its items give": lambda c: c["benchmarks"]["AdvGLUE"].update(score=12.0),
    "of 999 samples": lambda c: c["benchmarks"]["MMLU"].update(samples=999),
    "benchmarks.MMLU.aggregation": lambda c: c["benchmarks"]["MMLU"].update(aggregation="median"),
    "lower where better": lambda c: c["benchmarks"]["MMLU"].update(higher_is_better=False),
    "Cannot read": lambda c: c["benchmarks"]["MMLU"].update(items="nowhere.jsonl"),
    "benchmarks.MMLU is not an object": lambda c: c["benchmarks"].update(MMLU=3),
    "benchmarks.MMLU.gap": lambda c: c["benchmarks"]["MMLU"].update(gap=3),
    "benchmarks.XSTest.rows": lambda c: c["benchmarks"]["XSTest"].update(rows=3),
    "benchmarks.XSTest.origins": lambda c: c["benchmarks"]["XSTest"].update(origins="hub"),
    "benchmarks.XSTest.details": lambda c: c["benchmarks"]["XSTest"].update(details=[1]),
    "benchmarks.XSTest.details.full": lambda c: c["benchmarks"]["XSTest"].update(details={"full": "all"}),
}


@pytest.mark.parametrize("said", EDITS)
def test_damaged_scores(tmp_path, scores, said):
    change(scores, EDITS[said])
    with pytest.raises(OGPSAError, match=said.replace(".", r"\.")):
        read_scores([tmp_path])


LINES = {
    "line 2: not an item": "{",
    "line 2": '{"id": "x", "task": "law", "value": 1.5}',
    "not an item": '{"id": 3, "task": "law", "value": 1}',
    "aggregation 'mean'": '{"id": "x", "task": "law", "value": true}',
    "of aggregation": '{"id": "x", "task": "law", "value": NaN}',
    "comes twice": '{"id": "MMLU-0", "task": "law", "value": 1}',
}


@pytest.mark.parametrize("said", LINES)
def test_damaged_items(tmp_path, scores, said):
    items = scores.parent / "MMLU" / "items.jsonl"
    lines = items.read_text().splitlines()
    items.write_text("\n".join([lines[0], LINES[said], *lines[2:]]))
    with pytest.raises(OGPSAError, match=said):
        read_scores([tmp_path])


def test_advglue_has_six_tasks(tmp_path, scores):
    items = scores.parent / "AdvGLUE" / "items.jsonl"
    items.write_text(items.read_text().replace('"sst2"', '"sst3"'))
    with pytest.raises(OGPSAError, match="'advglue'"):
        read_scores([tmp_path])


def test_a_line_separator_in_an_id_is_no_end_of_line(tmp_path, scores):
    items = scores.parent / "MMLU" / "items.jsonl"
    items.write_text(items.read_text().replace("MMLU-0", "MMLU\u2028-0"), encoding="utf-8")
    assert read_scores([tmp_path])
