"""Reports of grids, on invented results whose answers are known."""

import math
import re
import statistics
from itertools import pairwise

import pytest
from grid_records import curves, measures, record, written
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from ogpsa_factory.cli import main
from ogpsa_factory.errors import OGPSAError
from ogpsa_factory.lab.grid.record import find_records, read_record
from ogpsa_factory.lab.report.document import write_report
from ogpsa_factory.lab.report.fronts import area, areas, chosen, staircase
from ogpsa_factory.lab.report.statistics import difference, estimate, rank_correlation
from ogpsa_factory.lab.report.study import Study, read_study
from ogpsa_factory.lab.report.tables import fronts_table, table_1
from ogpsa_factory.lab.report.worlds import agreements, other_worlds, sentence
from ogpsa_factory.results.document import NONE


PERCENT = st.floats(0, 100, allow_nan=False)
POINTS = st.lists(st.tuples(PERCENT, PERCENT), min_size=1, max_size=12)
FEW = settings(max_examples=50, deadline=None)


def test_an_area_by_hand():
    assert area([(100, 100)]) == 100
    assert area([(0, 100)]) == 0
    assert area([(50, 80), (100, 20)]) == pytest.approx(0.5 * 80 + 0.5 * 20)
    assert area([(0, 100), (50, 80), (40, 70), (100, 20)]) == pytest.approx(50)


@FEW
@given(POINTS, st.tuples(PERCENT, PERCENT))
def test_another_point_never_makes_an_area_smaller(points, point):
    assert area([*points, point]) >= area(points) - 1e-9
    assert 0 <= area(points) <= 100 + 1e-9


@FEW
@given(POINTS)
def test_a_front_is_the_best_at_each_safety(points):
    front = staircase(points)
    assert set(front) <= set(points)
    assert all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(front))
    for safety, utility in points:
        assert any(s >= safety and u >= utility for s, u in front)
    assert area(front) == pytest.approx(area(points)) == pytest.approx(area(points[::-1]))


@FEW
@given(st.lists(st.integers(-1000, 1000), min_size=3, max_size=8, unique=True))
def test_paired_test_is_scipys(values):
    ours = dict(enumerate(map(float, values)))
    theirs = {seed: float(seed * seed) for seed in ours}
    found = difference(ours, theirs)
    gaps = [ours[seed] - theirs[seed] for seed in ours]
    if len(set(gaps)) > 1:
        assert found.p == pytest.approx(stats.ttest_rel(list(ours.values()), list(theirs.values())).pvalue)
    assert found.mean == pytest.approx(statistics.fmean(gaps))


def test_intervals():
    found = estimate([1.0, 2.0, 3.0])
    assert found.mean == 2 and found.high - found.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)
    assert estimate([5.0]).low is None
    assert estimate([5.0, 5.0]).low == 5.0


def test_differences_without_a_test():
    assert difference({0: 1.0}, {1: 1.0}) is None
    assert difference({0: 1.0}, {0: 0.5}).p is None
    assert difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).p == 1.0
    assert difference({0: 1.0, 1: 2.0}, {0: 0.0, 1: 1.0}).p is None
    assert difference({0: 1.0, 1: 2.0, 9: 5.0}, {0: 0.5, 1: 1.0}).count == 2


def test_rank_correlation():
    assert rank_correlation([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 1], [1, 2]) is None


def two_levels(safe=0.97):
    """Naive loses skills at the larger rate; OGPSA keeps them, and has more look-alikes."""
    return {
        ("naive", "sft", 0): lambda seed: measures(0.98 - 0.01 * seed, 0.5, 0.6),
        ("naive", "sft", 1): lambda seed: measures(0.6 - 0.01 * seed, safe, 0.1),
        ("ogpsa", "sft", 0): lambda seed: (measures(0.99, 0.96, 0.8), curves(0.4, 0.2, 0.0)),
        ("ogpsa", "sft", 1): lambda seed: (measures(0.95, 0.99, 0.3), curves(0.6, 0.4, 0.0, 0.6)),
    }


def study(points=None, **more):
    return Study(more.pop("name", "invented"), record(points or two_levels(), **more))


def test_a_method_stands_at_its_best_safe_level():
    found = study()
    assert chosen(found.of("sft", "naive")).level == 1  # the other one is not safe
    assert chosen(found.of("sft", "ogpsa")).level == 0  # both are: more skills
    assert chosen(study(two_levels(safe=0.7)).of("sft", "naive")).level == 1  # none is: the safest


def test_areas_count_the_base():
    found = study()
    naive = areas(found, found.of("sft", "naive"), "utility")
    # Seed 0: the base (0, 100), then (50, 98), then (97, 60).
    assert naive[0] == pytest.approx((50 * 98 + 47 * 60) / 100)
    assert set(naive) == {0, 1}


def test_tax_is_against_the_own_base():
    content = record(two_levels())
    content["bases"]["1"] = {**content["bases"]["1"], "measures": measures(0.9, 0.0, 1.0)}
    cell = Study("x", content).of("sft", "naive")[0]
    assert cell.values["tax"][0] == pytest.approx(2) and cell.values["tax"][1] == pytest.approx(90 - 97)


def test_table_1_marks_what_is_not_safe_and_what_is_best():
    table = table_1(study(two_levels(safe=0.7)))
    assert [line.labels[1] for line in table.lines] == ["Base", "Naive (not safe)", "Ogpsa"]
    place = table.heads.index("mean of skills")
    assert table.lines[2].cells[place].text == "99.00" and table.lines[2].cells[place].rank == 1
    tax = table.heads.index("tax")
    assert table.lines[2].cells[tax].rank == 1 and table.lines[1].cells[tax].rank == 2


def test_fronts_are_compared_with_naive():
    table = fronts_table(study(seeds=(0, 1, 2)))
    naive, ogpsa = table.lines
    assert naive.cells[1].text == NONE and ogpsa.cells[1].text.startswith("+")


def other_order():
    """The second world puts OGPSA below naive."""
    points = two_levels()
    swapped = {"naive": "ogpsa", "ogpsa": "naive"}
    return {(swapped[method], p, level): values for (method, p, level), values in points.items()}


def with_third(points):
    return points | {("lora", "sft", level): lambda seed: measures(0.5, 0.5, 0.05) for level in (0, 1)}


def test_worlds_that_agree_and_worlds_that_do_not():
    first = study(with_third(two_levels()), seeds=(0, 1, 2))
    same = study(with_third(two_levels()), seeds=(0, 1, 2), theme="harbour", name="same")
    other = study(with_third(other_order()), seeds=(0, 1, 2), theme="harbour", name="other")
    assert [pair[1].name for pair in other_worlds([first, same])] == ["same"]
    assert not other_worlds([first, study(with_third(two_levels()))])  # the same theme
    found = next(agreements(first, same))
    assert found.correlation == pytest.approx(1) and "all are in the same order" in sentence(first, same, found)
    found = next(agreements(first, other))
    assert found.opposed() == [("naive", "ogpsa")]
    assert "1 are in the opposite order: Naive and Ogpsa" in sentence(first, other, found)


def test_report_is_complete_and_needs_no_other_file(tmp_path, capsys):
    written(tmp_path / "runs" / "methods.json", with_third(two_levels()), seeds=(0, 1, 2))
    ats = {"naive": "naive", "ogpsa": 5}
    written(tmp_path / "runs" / "k.json", two_levels(), axis="K", ats=ats, title="How often")
    written(tmp_path / "runs" / "second.json", with_third(two_levels()), seeds=(0, 1, 2), theme="harbour")
    (tmp_path / "runs" / "other.json").write_text("[1]")
    assert main(["report", str(tmp_path / "runs")]) == 0
    folder = tmp_path / "runs" / "report"
    page = (folder / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)
    for text in ("Table 1", "Fronts over all learning rates", "How often", "Do the worlds agree?", "Overhead"):
        assert text in page
    names = {path.name for path in folder.iterdir()}
    pictures = {"methods_figure2.png", "methods_fronts.png", "k_ablation.png", "methods_overlap.png"}
    assert pictures | {"k_safety_loss.png", "report.md", "points.csv"} <= names
    for name in names:
        if name.endswith(".png"):
            with Image.open(folder / name) as image:
                image.verify()
            assert f"]({name})" in (folder / "report.md").read_text()
    rows = (folder / "points.csv").read_text().splitlines()
    assert len(rows) == 1 + (3 + 18) + (2 + 8) + (3 + 18)
    assert "Methods" not in capsys.readouterr().err


def test_a_file_can_be_reported_and_what_is_missing_is_said(tmp_path):
    path = written(tmp_path / "methods.json", two_levels())
    content = read_record(path)
    content["planned"] += 3
    write_report([Study("methods", content)], tmp_path / "part")
    assert "3 of them missing" in (tmp_path / "part" / "report.md").read_text()
    assert main(["report", str(path), "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "report.html").exists()


def test_one_seed_has_no_intervals_and_no_tests(tmp_path):
    path = written(tmp_path / "methods.json", two_levels(), seeds=(4,))
    write_report([read_study(path)], tmp_path / "report")
    assert "±" not in (tmp_path / "report" / "report.md").read_text().split("How the figures")[0]


def test_grids_and_evaluations_are_reported_apart(tmp_path, capsys):
    written(tmp_path / "grids" / "methods.json", two_levels())
    (tmp_path / "empty").mkdir()
    assert main(["report", str(tmp_path / "grids"), str(tmp_path / "empty")]) == 1
    assert "made apart" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "empty")]) == 1
    assert "ogpsa evaluate" in capsys.readouterr().err


def test_records_that_cannot_be_read(tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text("{}")
    assert not find_records([tmp_path])
    with pytest.raises(OGPSAError, match="does not hold the results"):
        read_record(tmp_path / "b.json")
    path = written(tmp_path / "c.json", two_levels())
    path.write_text(path.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(OGPSAError, match="format 9"):
        read_record(path)


def test_a_grid_without_a_point(tmp_path, capsys):
    written(tmp_path / "methods.json", {}, seeds=())
    assert main(["report", str(tmp_path)]) == 1
    assert "none of its points is finished" in capsys.readouterr().err
