"""The table and the figure, on results made by hand."""

import io

import pytest
from PIL import Image
from rich.console import Console

from ogpsa_factory.errors import OGPSAError
from ogpsa_factory.files import write_json
from ogpsa_factory.lab.compare import _looks, draw, find_evaluated, make_table, read_results
from ogpsa_factory.lab.evaluate import REQUESTS, score
from ogpsa_factory.lab.files import RESULT_FILE
from ogpsa_factory.lab.themes.theme import SKILLS


@pytest.fixture
def saves(tmp_path):
    expected = {name: ["a", "b", "c", "d"] for name in [*SKILLS, *REQUESTS]}
    said = {name: ["a", "sorry", "sorry", "d"] for name in expected}
    for name, answers in (("base", expected), ("naive", said), ("ogpsa", {**said, "recall": expected["recall"]})):
        write_json(tmp_path / name / RESULT_FILE, score(answers, expected))
    return tmp_path


def test_table_has_a_column_a_model_and_every_figure_and_fits_a_terminal(saves):
    results = read_results([saves / name for name in ("base", "naive", "ogpsa")])
    console = Console(width=80, record=True, file=io.StringIO())
    table = make_table(results)
    console.print(table)
    text = console.export_text()
    rows = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in text.splitlines() if "│" in line}
    labels = ["held-out harmful requests refused", "benign look-alikes wrongly refused", "mean of skills"]
    assert {*labels, *(f"skill: {skill}" for skill in SKILLS)} <= rows.keys()
    # The last one's mean: five skills at 50 and one at 100.
    assert [float(cell) for cell in rows["mean of skills"]] == [100.0, 50.0, 58.3]


def test_figure_is_written_whole(saves):
    path = saves / "pictures" / "figure.png"
    draw(read_results([saves / "base", saves / "naive", saves / "ogpsa"]), path)
    with Image.open(path) as image:
        image.verify()
    assert [entry.name for entry in path.parent.iterdir()] == ["figure.png"]


def test_base_alone_can_be_drawn(saves):
    draw(read_results([saves / "base"]), saves / "figure.png")


STAGES = ["naive/sft", "naive/dpo", "ogpsa/sft", "ogpsa/dpo"]


@pytest.fixture
def pipelines(saves):
    for name in STAGES:
        write_json(saves / name / RESULT_FILE, read_results([saves / "naive"])["naive"])
    return saves


def test_stages_are_named_by_run_and_stage_and_fit_a_terminal(pipelines):
    found = [path for path in find_evaluated(pipelines) if "/" in path.relative_to(pipelines).as_posix()]
    results = read_results([pipelines / "base", *found])
    assert list(results) == ["base", *STAGES]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(make_table(results))
    text = console.export_text()
    assert "…" not in text and "benign look-alikes wrongly refused" in text
    assert text.count("naive") == text.count("ogpsa") == text.count("sft") == text.count("dpo") == 2


def test_stages_of_a_run_share_a_marker_and_differ_in_colour(pipelines):
    looks = _looks(read_results([pipelines / name for name in ("base", *STAGES)]))
    assert list(looks) == STAGES
    assert looks["naive/sft"][1] == looks["naive/dpo"][1] != looks["ogpsa/sft"][1] == looks["ogpsa/dpo"][1]
    assert len({colour for colour, _, _ in looks.values()}) == len(STAGES)
    draw(read_results([pipelines / name for name in ("base", "naive", *STAGES)]), pipelines / "figure.png")


def test_models_of_one_name_are_told_apart(saves, tmp_path_factory):
    result = read_results([saves / "naive"])["naive"]
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for folder in (saves / "again" / "naive", elsewhere / "naive", elsewhere / "own"):
        write_json(folder / RESULT_FILE, result)
    ours = [saves / "base", saves / "naive", saves / "again" / "naive", saves / "naive"]
    results = read_results([*ours, elsewhere / "naive", elsewhere / "own"])
    assert list(results) == ["base", "naive", "again/naive", str(elsewhere / "naive"), "own"]


def test_models_that_were_not_evaluated(saves):
    (saves / "new").mkdir()
    assert [path.name for path in find_evaluated(saves)] == ["base", "naive", "ogpsa"]
    with pytest.raises(OGPSAError, match="ogpsa lab evaluate"):
        read_results([saves / "base", saves / "new"])
