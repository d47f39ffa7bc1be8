"""What must come out of the paper's own tables."""

import random

import pytest

from ogpsa_factory.errors import OGPSAError
from ogpsa_factory.results.analysis import Settings, analyse
from ogpsa_factory.results.granularity import granularity_table, smallest_grid
from ogpsa_factory.results.merit import relative_gains, shares_of_difference, usable_bases
from ogpsa_factory.results.paper import GENERAL, SAFETY, paper_ablations, paper_models, paper_table


QWEN, LLAMA = "qwen2_5_7b", "llama3_1_8b"


@pytest.fixture(scope="module")
def results():
    """By model family and name: what the analysis says."""
    analyses = {key: analyse(paper_models(key), Settings(), key) for key in (QWEN, LLAMA)}
    return {(key, r.model.name): r for key, analysis in analyses.items() for r in analysis.everyone}


@pytest.mark.parametrize(
    ("key", "method", "gain"),
    [(QWEN, "naive", 33.98), (QWEN, "ogpsa", 42.74), (LLAMA, "naive", 19.74), (LLAMA, "ogpsa", 32.98)],
)
def test_average_performance_gain(results, key, method, gain):
    found = results[key, f"SFT-DPO/{method}"].gain
    assert found.value == pytest.approx(gain, abs=0.005) and len(found.over) == 10


@pytest.mark.parametrize(("key", "share", "difference"), [(QWEN, 7.51, 8.76), (LLAMA, 15.79, 13.24)])
def test_share_of_simpleqa(results, key, share, difference):
    versus = results[key, "SFT-DPO/ogpsa"].versus
    assert versus.shares["SimpleQA"] == pytest.approx(share, abs=0.005)
    # The paper's difference is that of two rounded figures.
    assert versus.gain == pytest.approx(difference, abs=0.01)
    assert sum(versus.shares.values()) == pytest.approx(versus.gain)


@pytest.mark.parametrize(
    ("key", "method", "gain"),
    [(QWEN, "ogpsa", 48.49), (QWEN, "naive", 47.10), (LLAMA, "ogpsa", 28.57), (LLAMA, "naive", 31.41)],
)
def test_gain_without_near_zero_bases(results, key, method, gain):
    found = results[key, f"SFT-DPO/{method}"].gain_without
    assert found.value == pytest.approx(gain, abs=0.005)
    assert set(found.over) == {*SAFETY, *GENERAL} - {"SimpleQA"} and not found.whole


@pytest.mark.parametrize(
    ("key", "method", "safety", "general"),
    [
        (QWEN, "naive", 88.36, 51.81),
        (QWEN, "ogpsa", 87.81, 55.04),
        (LLAMA, "naive", 79.72, 43.09),
        (LLAMA, "ogpsa", 79.98, 47.94),
    ],
)
def test_plain_means(results, key, method, safety, general):
    found = results[key, f"SFT-DPO/{method}"]
    assert found.safety.value == pytest.approx(safety, abs=0.0051)
    assert found.general.value == pytest.approx(general, abs=0.0051)
    assert found.safety.of == 4 and found.general.of == 6


def test_quoted_scores_have_neither_intervals_nor_tests(results):
    for result in results.values():
        assert not result.intervals and result.gain.low is None
        assert result.versus is None or all(d.p is None for d in result.versus.benchmarks.values())


def test_a_base_of_zero_allows_no_gain():
    base = {"a": 0.0, "b": 4.9, "c": 50.0}
    assert set(usable_bases(base)) == {"b", "c"} and set(usable_bases(base, 5)) == {"c"}
    gains = relative_gains({"a": 3.0, "b": 9.8, "d": 1.0}, usable_bases(base))
    assert gains == pytest.approx({"b": 100.0})
    assert shares_of_difference({"b": 9.8}, {"c": 50.0}, usable_bases(base)) == {}


def test_ablations_are_families_with_a_base():
    families = paper_ablations()
    assert {title.split("Table ")[1][0] for title in families} == set("2345678")
    for title, models in families.items():
        assert models[0].name == "base" and len(models) > 3, title
        assert len({model.name for model in models}) == len(models)
    scale = analyse(families["Qwen2.5-0.5B-Instruct, Table 5: model scale"], Settings(), "")
    assert [r.model.name for r in scale.results] == ["SFT/naive", "SFT/ogpsa", "DPO/naive", "DPO/ogpsa"]


def test_no_such_table():
    with pytest.raises(OGPSAError, match="ablations"):
        paper_table("table9")


@pytest.mark.parametrize(
    ("name", "samples", "exceptions"),
    [
        ("XSTest", 200, (85.99,)),
        ("WildChat", 500, (69.85,)),
        ("Stereotype", 522, (92.02,)),
        ("MMLU", 1400, ()),
        ("GPQA", 3 * 198, (31.08, 34.04)),
        ("IFEval", 541, (58.99, 63.36)),
    ],
)
def test_number_of_samples_behind_a_column(name, samples, exceptions):
    grid = smallest_grid([float(row[name]) for row in paper_table("table1")])
    assert (grid.samples, grid.exceptions) == (samples, exceptions)
    assert not grid.others and grid.chance < 1e-20 and grid.expected < 5


def test_a_small_base_tells_the_number_of_samples_less_exactly():
    """All scores of SimpleQA are below 5 percent, where the grids of near numbers are nearly the same."""
    grid = smallest_grid([float(row["SimpleQA"]) for row in paper_table("table1")])
    assert 4326 in (grid.samples, *grid.others) and grid.chance > 1e-10


@pytest.mark.parametrize("name", ["StrongReject", "HHH", "AdvGLUE"])
def test_means_of_grades_and_of_tasks_are_on_no_grid(name):
    assert smallest_grid([float(row[name]) for row in paper_table("table1")]) is None


def test_random_columns_are_on_no_grid():
    rng = random.Random(0)
    assert all(smallest_grid([rng.randrange(10_001) / 100 for _ in range(30)]) is None for _ in range(20))


def test_shares_of_any_number_are_recognised():
    rng = random.Random(0)
    for samples in (7, 97, 219, 1234, 2500):
        grid = smallest_grid([round(100 * rng.randrange(samples + 1) / samples, 2) for _ in range(30)])
        assert samples % grid.samples == 0 and not grid.exceptions


def test_granularity_table_has_a_line_a_benchmark():
    lines = granularity_table().splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == [*SAFETY, *GENERAL]
    assert "| 594 |" in granularity_table() and len({line.count("|") for line in lines}) == 1
