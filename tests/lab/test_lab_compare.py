"""The table and the figure, on results made by hand."""

import pytest
from PIL import Image
from rich.console import Console

from ogpsa_factory.errors import OGPSAError
from ogpsa_factory.lab.compare import draw, find_evaluated, make_table, read_results
from ogpsa_factory.lab.evaluate import REQUESTS, score
from ogpsa_factory.lab.files import RESULT_FILE, write_json
from ogpsa_factory.lab.skills import SKILLS


@pytest.fixture
def saves(tmp_path):
    expected = {name: ["a", "b", "c", "d"] for name in [*SKILLS, *REQUESTS]}
    said = {name: ["a", "sorry", "sorry", "d"] for name in expected}
    for name, answers in (("base", expected), ("naive", said), ("ogpsa", {**said, "recall": expected["recall"]})):
        write_json(tmp_path / name / RESULT_FILE, score(answers, expected))
    return tmp_path


def test_table_has_a_row_a_model_and_every_figure(saves):
    results = read_results([saves / name for name in ("base", "naive", "ogpsa")])
    console = Console(width=250, record=True, file=open("/dev/null", "w"))
    table = make_table(results)
    console.print(table)
    text = console.export_text()
    assert [line.split()[1] for line in text.splitlines() if "│ " in line] == ["base", "naive", "ogpsa"]
    headings = ["held-out harmful refused", "look-alikes wrongly refused", "mean of skills", *SKILLS]
    assert all(heading in text for heading in headings)
    assert "58.3" in text  # the last row's mean: five skills at 50 and one at 100


def test_figure_is_written_whole(saves):
    path = saves / "pictures" / "figure.png"
    draw(read_results([saves / "base", saves / "naive", saves / "ogpsa"]), path)
    with Image.open(path) as image:
        image.verify()
    assert [entry.name for entry in path.parent.iterdir()] == ["figure.png"]


def test_base_alone_can_be_drawn(saves):
    draw(read_results([saves / "base"]), saves / "figure.png")


def test_models_of_one_name_are_told_apart(saves, tmp_path):
    write_json(tmp_path / "again" / "naive" / RESULT_FILE, read_results([saves / "naive"])["naive"])
    results = read_results([saves / "base", saves / "naive", tmp_path / "again" / "naive", saves / "naive"])
    assert list(results) == ["base", str(saves / "naive"), str(tmp_path / "again" / "naive")]


def test_models_that_were_not_evaluated(saves):
    (saves / "new").mkdir()
    assert [path.name for path in find_evaluated(saves)] == ["base", "naive", "ogpsa"]
    with pytest.raises(OGPSAError, match="ogpsa lab evaluate"):
        read_results([saves / "base", saves / "new"])
