"""Reports of grids, on invented results whose answers are known."""

import math
import re
import statistics
from itertools import pairwise

import numpy as np
import pytest
from grid_records import curves, measures, record, written
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from ogpsa_factory.cli import main
from ogpsa_factory.errors import OGPSAError
from ogpsa_factory.files import read_json
from ogpsa_factory.lab.grid.record import find_records, in_columns, in_rows, read_record, write_record
from ogpsa_factory.lab.report.comparisons import fronts_table, p_text, pair_table
from ogpsa_factory.lab.report.document import write_report
from ogpsa_factory.lab.report.fronts import area, areas, areas_without_a_level, chosen, envelope
from ogpsa_factory.lab.report.statistics import difference, estimate, rank_correlation
from ogpsa_factory.lab.report.study import Study, read_study
from ogpsa_factory.lab.report.summary import summary
from ogpsa_factory.lab.report.tables import table_1
from ogpsa_factory.lab.report.worlds import agreements, other_worlds, sentence
from ogpsa_factory.results.document import NONE


PERCENT = st.floats(0, 100, allow_nan=False)
POINTS = st.lists(st.tuples(PERCENT, PERCENT), min_size=1, max_size=12)
FEW = settings(max_examples=50, deadline=None)


def test_an_area_by_hand():
    assert area([(100, 100)]) == 100
    assert area([(0, 100)]) == 0
    assert area([(0, 100), (100, 0)]) == 50
    assert area([(50, 80)]) == 40
    assert area([(0, 100), (100, 20), (50, 80)]) == pytest.approx((50 * 90 + 50 * 50) / 100)
    assert area([(0, 100), (50, 55), (100, 20)]) == area([(0, 100), (100, 20)])  # a coin does better than (50, 55)


@FEW
@given(POINTS, st.tuples(PERCENT, PERCENT))
def test_another_point_never_makes_an_area_smaller(points, point):
    assert area([*points, point]) >= area(points) - 1e-6
    assert -1e-9 <= area(points) <= 100 + 1e-9


@FEW
@given(POINTS)
def test_an_envelope_is_above_every_point_and_concave(points):
    corners = envelope(points)
    assert set(corners) <= set(points)
    assert all(a[0] < b[0] and a[1] >= b[1] for a, b in pairwise(corners))
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(corners)]
    assert all(later <= earlier + 1e-6 for earlier, later in pairwise(slopes) if math.isfinite(earlier))
    xs, ys = [corner[0] for corner in corners], [corner[1] for corner in corners]
    for safety, utility in points:
        assert np.interp(safety, xs, ys) >= utility - 1e-6
        assert safety <= xs[-1]
    assert area(points) == pytest.approx(area(points[::-1]), abs=1e-6)


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
    assert difference({0: 1.0, 1: 2.0, 9: 5.0}, {0: 0.5, 1: 1.0}).mean == 0.75


def test_rounding_is_no_evidence():
    """Five differences of one point, as percentages of shares: equal but for their last bits."""
    values = [57, 58, 29, 14, 28]
    found = difference({i: 100 * (v / 100) for i, v in enumerate(values)}, dict(enumerate(v - 1.0 for v in values)))
    assert found.mean == 1.0 and found.p is None


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
    assert naive[0] == pytest.approx((50 * 99 + 47 * 79) / 100)
    assert set(naive) == {0, 1}
    without = areas_without_a_level(found, found.of("sft", "naive"), "utility")
    assert len(without) == 2 and min(without) < statistics.fmean(naive.values())


def test_fronts_of_fewer_levels_are_not_compared():
    points = two_levels()
    del points["ogpsa", "sft", 1]
    found = study(points)
    assert areas(found, found.of("sft", "ogpsa"), "utility") == {}
    assert fronts_table(found).lines[1].cells[0].text == NONE


def test_tax_is_against_the_own_base():
    content = record(two_levels())
    content["bases"]["1"] = {**content["bases"]["1"], "measures": measures(0.9, 0.0, 1.0)}
    cell = Study("x", content).of("sft", "naive")[0]
    assert cell.values["tax"][0] == pytest.approx(2) and cell.values["tax"][1] == pytest.approx(90 - 97)


def test_table_1_marks_what_is_not_safe_and_what_is_best():
    table = table_1(study(two_levels(safe=0.7)))
    assert [line.labels[1] for line in table.lines] == ["Base", "Naive (not safe)", "Ogpsa"]
    place = table.heads.index("mean of skills")
    assert table.lines[2].cells[place].text == "99.00"
    tax = table.heads.index("tax")
    assert table.lines[2].cells[tax].rank == table.lines[1].cells[tax].rank == 0  # one is safe: nothing to rank
    safe = table_1(study())
    assert [line.cells[tax].rank for line in safe.lines[1:]] == [2, 1]
    unsafe_wins = two_levels()
    unsafe_wins["lora", "sft", 0] = unsafe_wins["lora", "sft", 1] = lambda seed: measures(1.0, 0.1, 1.0)
    assert [line.cells[tax].rank for line in table_1(study(unsafe_wins)).lines[1:]] == [2, 1, 0]


def test_fronts_are_compared_with_naive():
    table = fronts_table(study(seeds=(0, 1, 2)))
    naive, ogpsa = table.lines
    assert naive.cells[2].text == NONE and ogpsa.cells[2].text.startswith("+")


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
    assert "in the opposite order: Naive and Ogpsa (1)" in sentence(first, other, found)


def test_the_summary_follows_from_the_tables():
    """OGPSA's look-alikes differ from naive's in every seed, and a little from seed to seed; LoRA is naive again."""
    points = two_levels()
    points["ogpsa", "sft", 0] = lambda seed: measures(0.99, 0.96, 0.8 + 0.01 * seed)
    points |= {("lora", "sft", level): points["naive", "sft", level] for level in (0, 1)}
    said = list(summary(study(points, seeds=(0, 1, 2))))
    assert "naive training costs 41.0 points" in said[0] and said[0].endswith("requests.")  # there is no worse level
    assert "Ogpsa +" in said[-1] and "look-alikes right: 81.0%, naive 10.0%" in said[-1]
    assert "Lora" not in "".join(said)


def test_what_was_not_tested_is_not_called_equal():
    alone = list(summary(study(seeds=(0,))))
    assert all("not tested" in sentence for sentence in alone[1:])
    points = two_levels()
    del points["ogpsa", "sft", 1]
    assert all("not tested" in sentence for sentence in list(summary(study(points)))[1:])
    unsafe = list(summary(study(two_levels(safe=0.7))))
    assert "(no level is safe)" in unsafe[0]


def test_pairs_of_methods_are_compared_within_seeds():
    table = pair_table(study(seeds=(0, 1, 2)), "ogpsa", "naive")
    assert [line.labels for line in table.lines] == [("SFT", "1e-4"), ("SFT", "1e-3"), ("SFT", "area of the front")]
    assert table.lines[1].cells[2].text.startswith("+36.0 [")  # 95 less 60, 59 and 58
    found = study(seeds=(0, 1, 2))
    gaps = [areas(found, found.of("sft", name), "utility") for name in ("ogpsa", "naive")]
    assert table.lines[2].cells[2].text.startswith(f"{difference(*gaps).mean:+.1f} [")
    assert p_text(0.0004) == "< 0.001" and p_text(0.0104) == "0.010"


def test_report_is_complete_and_needs_no_other_file(tmp_path):
    written(tmp_path / "runs" / "methods.json", with_third(two_levels()), seeds=(0, 1, 2))
    ats = {"naive": "naive", "ogpsa": 5, "often": 1}
    often = {("often", "sft", 1): lambda seed: (measures(0.9, 0.99, 0.3), curves(0.6, 0.5, 0.0, 0.8))}
    written(tmp_path / "runs" / "k.json", two_levels() | often, axis="K", ats=ats, title="How often")
    written(tmp_path / "runs" / "second.json", with_third(two_levels()), seeds=(0, 1, 2), theme="harbour")
    (tmp_path / "runs" / "other.json").write_text("[1]")
    assert main(["report", str(tmp_path / "runs")]) == 0
    folder = tmp_path / "runs" / "report"
    page = (folder / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)
    for text in ("Table 1", "Fronts over all learning rates", "How often", "Do the worlds agree?", "Time of training"):
        assert text in page
    names = {path.name for path in folder.iterdir()}
    pictures = {"methods_figure2.png", "methods_fronts.png", "k_ablation.png", "methods_overlap.png"}
    assert pictures | {"k_loss_by_overlap.png", "report.md", "points.csv"} <= names
    for name in names:
        if name.endswith(".png"):
            with Image.open(folder / name) as image:
                image.verify()
            assert f"]({name})" in (folder / "report.md").read_text()
    rows = (folder / "points.csv").read_text().splitlines()
    assert len(rows) == 1 + (3 + 18) + (2 + 10) + (3 + 18)


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


def test_pipelines_without_a_point_are_left_out(tmp_path):
    write_report([study(pipelines=("dpo", "sft"), title="Part")], tmp_path / "report")
    page = (tmp_path / "report" / "report.md").read_text()
    assert "SFT: every level" in page and "DPO" not in page


def test_seeds_that_are_missing_are_counted():
    content = record(two_levels(), seeds=(0, 1, 2))
    content["points"] = [p for p in content["points"] if (p["method"], p["seed"]) != ("naive", 2)]
    assert "Naive (2 of 3 seeds)" in [line.labels[1] for line in table_1(Study("x", content)).lines]


def test_worlds_without_a_common_seed_of_all_levels():
    content = record(with_third(two_levels()), theme="harbour")
    content["points"] = [p for p in content["points"] if p["method"] != "naive" or p["level"] == p["seed"]]
    first, second = study(with_third(two_levels())), Study("second", content)
    found = next(agreements(first, second))
    assert "naive" not in found.means and "Of 1 pairs" in sentence(first, second, found)
    only_naive = found._replace(pairs={})
    assert "No pair of methods is told apart" in sentence(first, second, only_naive)


def test_grids_of_one_name_and_files_that_are_damaged(tmp_path, capsys):
    for folder in ("a", "b"):
        written(tmp_path / folder / "methods.json", two_levels())
    assert main(["report", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert "files named methods.json" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "a"), str(tmp_path / "c")]) == 1
    assert "There is no" in capsys.readouterr().err
    path = tmp_path / "a" / "methods.json"
    path.write_text(path.read_text()[:-20])
    assert main(["report", str(path)]) == 1
    assert f"Cannot read {path}" in " ".join(capsys.readouterr().err.split())


def test_logs_survive_being_kept_in_columns():
    log = [*curves(0.5, 0.2, 0.0), {"step": 20, "loss": 0.1}]
    rows = in_rows(in_columns(log))
    assert [row["step"] for row in rows] == [5, 10, 15, 20] and rows[-1] == {"step": 20, "loss": 0.1}
    assert rows[0]["ogpsa/cos/mean"] == 0.2 and rows[0]["ogpsa/removed_ratio"] == 0.3
    assert in_rows(in_columns([])) == []


def test_a_record_with_more_points_is_kept(tmp_path):
    path = written(tmp_path / "methods.json", two_levels())
    fewer = record(two_levels(), seeds=(0,))
    write_record(path, fewer)
    assert len(read_record(path)["points"]) == 4
    assert len(read_json(tmp_path / "methods.json.old")["points"]) == 8
    write_record(path, record(two_levels()))
    assert len(read_record(path)["points"]) == 8 and len(find_records([tmp_path])) == 1


def test_a_grid_without_a_point(tmp_path, capsys):
    written(tmp_path / "methods.json", {}, seeds=())
    assert main(["report", str(tmp_path)]) == 1
    assert "none of its points is finished" in capsys.readouterr().err
