"""Bootstrap, randomisation test and Holm's correction, as properties."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ogpsa_factory.results.compare import Difference, Random, difference, replicated
from ogpsa_factory.results.features import make_items
from ogpsa_factory.results.statistics import (
    holm,
    interval,
    resampled_sums,
    sums,
    swapped_sums,
    tally,
    two_sided_p,
)


values = st.lists(st.sampled_from([0.0, 0.125, 0.5, 1.0]), min_size=1, max_size=30)


def items_of(outcomes, aggregation="mean", tasks=1):
    return make_items(
        aggregation, [{"id": str(i), "task": f"t{i % tasks}", "value": value} for i, value in enumerate(outcomes)]
    )


def task_rows(outcomes, tasks):
    numbers = np.arange(len(outcomes)) % tasks
    rows = np.stack([np.ones(len(outcomes)), np.array(outcomes)], axis=1)
    return numbers, rows


@given(values, st.integers(1, 4))
def test_tallies_keep_every_item(outcomes, tasks):
    tasks = min(tasks, len(outcomes))
    numbers, rows = task_rows(outcomes, tasks)
    totals = sums(tally(numbers, rows))
    expected = np.stack([rows[numbers == task].sum(axis=0) for task in range(tasks)])
    np.testing.assert_allclose(totals, expected)


@given(values, st.integers(1, 4), st.integers(0, 5))
def test_a_resample_has_as_many_items_of_each_task_and_no_new_values(outcomes, tasks, seed):
    tasks = min(tasks, len(outcomes))
    numbers, rows = task_rows(outcomes, tasks)
    drawn = resampled_sums(tally(numbers, rows), 40, np.random.default_rng(seed))
    for task in range(tasks):
        own = rows[numbers == task]
        assert (drawn[:, task, 0] == len(own)).all()
        assert (drawn[:, task, 1] >= len(own) * own[:, 1].min() - 1e-9).all()
        assert (drawn[:, task, 1] <= len(own) * own[:, 1].max() + 1e-9).all()


def test_resampling_counts_is_resampling_items():
    """The same distribution as drawing items one by one, by its mean and its spread."""
    rng = np.random.default_rng(0)
    outcomes = rng.random(60).round(1)
    numbers, rows = task_rows(outcomes, 1)
    drawn = resampled_sums(tally(numbers, rows), 20_000, np.random.default_rng(1))[:, 0, 1] / 60
    plain = rng.choice(outcomes, size=(20_000, 60)).mean(axis=1)
    assert drawn.mean() == pytest.approx(plain.mean(), abs=0.002)
    assert drawn.std() == pytest.approx(plain.std(), rel=0.03)


def test_large_numbers_of_distinct_rows_are_drawn_in_parts(monkeypatch):
    numbers, rows = task_rows(np.arange(50) / 50, 1)
    monkeypatch.setattr("ogpsa_factory.results.statistics._CHUNK", 170)
    drawn = resampled_sums(tally(numbers, rows), 100, np.random.default_rng(0))
    assert (drawn[:, 0, 0] == 50).all() and len(np.unique(drawn[:, 0, 1])) > 50


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=20))
def test_swaps_move_outcomes_between_the_models_only(pairs):
    rows = np.array([[1, ours, 1, theirs] for ours, theirs in pairs])
    tallies = tally(np.zeros(len(pairs), dtype=np.int64), rows)
    first, second = swapped_sums(tallies, 30, np.random.default_rng(0))
    np.testing.assert_allclose((first + second)[:, 0, 1], rows[:, 1].sum() + rows[:, 3].sum())
    assert (first[:, 0, 0] == len(pairs)).all()


def test_p_is_that_of_all_swaps():
    """Against the exact test, which goes through all 2^n ways to swap."""
    ours = [1, 1, 1, 0, 1, 1, 0, 1, 1, 0]
    theirs = [0, 1, 0, 0, 0, 1, 1, 0, 0, 0]
    gaps = np.array(ours) - np.array(theirs)
    every = [abs((np.array(signs) * gaps).sum()) >= abs(gaps.sum()) for signs in product([1, -1], repeat=len(gaps))]
    found, _ = difference(items_of(ours), items_of(theirs), Random(50_000, 0), "x")
    assert found.p == pytest.approx(np.mean(every), abs=0.01)
    assert found.value == pytest.approx(100 * gaps.mean()) and found.pairs == 10


@given(values)
def test_a_model_does_not_differ_from_itself(outcomes):
    found, _ = difference(items_of(outcomes), items_of(outcomes), Random(100, 0), "x")
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)


@given(values, st.integers(0, 3))
@settings(max_examples=30)
def test_swapping_the_models_negates_the_difference(outcomes, seed):
    others = outcomes[::-1]
    one, _ = difference(items_of(outcomes), items_of(others), Random(200, seed), "x")
    two, _ = difference(items_of(others), items_of(outcomes), Random(200, seed), "x")
    assert one.value == pytest.approx(-two.value)
    assert 0 < one.p <= 1 and one.low <= one.high


def test_only_items_that_both_have_are_compared():
    ours = make_items("mean", [{"id": i, "task": "t", "value": 1.0} for i in "abc"])
    theirs = make_items(
        "mean", [{"id": i, "task": "t", "value": v} for i, v in zip("bcd", (0.0, 1.0, 0.0), strict=True)]
    )
    found, _ = difference(ours, theirs, Random(100, 0), "x")
    assert found.pairs == 2 and found.value == pytest.approx(50)
    apart = make_items("mean", [{"id": "z", "task": "t", "value": 1.0}])
    assert difference(ours, apart, Random(100, 0), "x") is None


def test_intervals_cover_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        items = items_of((rng.random(100) < 0.6).astype(float))
        low, high = interval(replicated(items, np.random.default_rng(trial), 400))
        covered += low <= 60 <= high
    assert 0.90 <= covered / 300 <= 0.99


def test_p_is_uniform_where_nothing_differs():
    rng = np.random.default_rng(0)
    small = 0
    for trial in range(300):
        ours, theirs = (rng.random((2, 80)) < 0.5).astype(float)
        found, _ = difference(items_of(ours), items_of(theirs), Random(200, trial), "x")
        small += found.p < 0.05
    assert small / 300 < 0.09


@given(st.lists(st.floats(0.0001, 1), min_size=1, max_size=12))
def test_holm_is_between_p_and_bonferroni_and_keeps_the_order(p_values):
    corrected = holm(p_values)
    for p, after in zip(p_values, corrected, strict=True):
        assert p <= after <= min(1.0, len(p_values) * p) + 1e-12
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_p_is_never_zero():
    assert two_sided_p(5.0, np.zeros(99)) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("low", "high", "p_holm", "higher", "said"),
    [
        (1, 5, 0.01, True, "better (p = 0.01)"),
        (1, 5, 0.01, False, "worse (p = 0.01)"),
        (1, 5, 0.2, True, "not significant (p = 0.20)"),
        (-1, 5, 0.01, True, "not significant (p = 0.01)"),  # the interval says otherwise
        (0, 5, 0.04, True, "not significant (p = 0.04)"),
    ],
)
def test_a_verdict_needs_test_and_interval(low, high, p_holm, higher, said):
    assert Difference(3, low, high, p_holm, p_holm, 10).verdict(higher) == said


def test_without_items_there_is_no_verdict():
    assert Difference(30).verdict(True).startswith("not tested")


def test_random_numbers_depend_on_the_names_only():
    one = Random(10, 1).generator("a", "b").random(3)
    assert (one == Random(10, 1).generator("a", "b").random(3)).all()
    assert (one != Random(10, 2).generator("a", "b").random(3)).all()
    assert (one != Random(10, 1).generator("a", "c").random(3)).all()
