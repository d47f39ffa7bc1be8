"""Choosing rows by their features: pure mathematics, compared with slow and obvious versions of itself."""

import random
import time
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ogpsa_factory.data.selection import (
    explained,
    mean_cosine,
    select,
    select_by_loss,
    select_random,
    select_spanning,
    select_stratified,
    unit_rows,
)
from ogpsa_factory.errors import OGPSAError


SEEDS = st.integers(0, 2**31 - 1)


def matrix(seed: int, rows: int = 20, dimensions: int = 8, rank: int | None = None) -> torch.Tensor:
    """Rows in general position, with directions of very different energy."""
    generator = torch.Generator().manual_seed(seed)
    rank = rank or dimensions
    left = torch.randn(rows, rank, generator=generator, dtype=torch.float64)
    right = torch.linalg.qr(torch.randn(dimensions, rank, generator=generator, dtype=torch.float64))[0]
    return left * torch.logspace(0, -1.5, rank, dtype=torch.float64) @ right.T


def captured(pool: torch.Tensor, picked: list[int]) -> float:
    """Energy of the pool in the span of some rows, by the textbook: least squares."""
    basis = pool[picked].T
    return float((basis @ torch.linalg.pinv(basis) @ pool.T).square().sum())


@given(SEEDS, st.integers(1, 6))
def test_every_pick_is_the_best_one(seed, count):
    pool = matrix(seed)
    picked: list[int] = []
    for _ in range(count):
        rest = [row for row in range(len(pool)) if row not in picked]
        picked.append(max(rest, key=lambda row: captured(pool, [*picked, row])))
    assert select_spanning(pool, count) == picked


@given(SEEDS)
def test_small_directions_are_chosen_as_well_as_large_ones(seed):
    """Scores that are only ever updated would be rounding once the large rows are spent."""
    large, small = matrix(seed, 6, 4), matrix(seed + 1, 9, 4)
    pool = torch.block_diag(large, 1e-5 * small)
    picked = select_spanning(pool, 7)
    assert picked[:3] == select_spanning(large, 3) and picked[3] < 6  # whichever row completes the four directions
    assert picked[4:] == [6 + row for row in select_spanning(small, 3)]


@given(SEEDS, st.integers(1, 20))
def test_indices_are_distinct_and_in_range(seed, count):
    pool = matrix(seed, rank=3)
    groups = [random.Random(seed + i).choice("abcd") for i in range(20)]
    for method in ("random", "stratified", "loss", "embedding", "gradient"):
        picked = select(method, groups, count, seed, pool)
        assert len(picked) == len(set(picked)) == count and set(picked) <= set(range(20)), method
        assert picked == select(method, groups, count, seed, pool), method


@given(SEEDS, st.integers(2, 8))
def test_a_choice_of_fewer_rows_begins_a_choice_of_more(seed, count):
    pool = matrix(seed, rank=5)
    assert select_spanning(pool, count)[: count - 1] == select_spanning(pool, count - 1)


@given(SEEDS, st.sampled_from([2.0**-40, 2.0**-3, 2.0**17, 2.0**300]))
def test_scale_does_not_matter(seed, scale):
    pool = matrix(seed)
    picked = select_spanning(pool, 12)
    assert select_spanning(pool * scale, 12) == picked
    assert select_spanning(-pool, 12) == picked


@given(SEEDS)
def test_order_and_rotation_of_the_pool_do_not_matter(seed):
    pool = matrix(seed)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    rotation = torch.linalg.qr(matrix(seed + 1, 8))[0]
    picked = select_spanning(pool, 7)
    assert [int(order[i]) for i in select_spanning(pool[order], 7)] == picked
    assert select_spanning(pool @ rotation, 7) == picked


@given(SEEDS, st.integers(1, 6), st.integers(0, 3))
def test_as_many_rows_as_the_rank_explain_everything(seed, rank, more):
    pool = matrix(seed, rank=rank)
    picked = select_spanning(pool, rank + more)
    assert explained(pool, picked) == pytest.approx(1, abs=1e-9)
    assert explained(pool, picked[:rank]) == pytest.approx(1, abs=1e-9)
    assert rank == 1 or explained(pool, picked[: rank - 1]) < 1 - 1e-9


@given(SEEDS, st.integers(1, 6))
def test_spanning_beats_chance(seed, count):
    pool = matrix(seed)
    by_chance = [explained(pool, select_random(20, count, draw)) for draw in range(20)]
    assert explained(pool, select_spanning(pool, count)) > sum(by_chance) / 20
    if count == 1:
        assert explained(pool, select_spanning(pool, 1)) >= max(by_chance)


def test_another_round_starts_when_the_rank_is_used_up():
    pool = matrix(3, rows=9, rank=2)
    picked = select_spanning(pool, 6)
    left = [row for row in range(9) if row not in picked[:2]]
    assert picked[2:4] == [left[i] for i in select_spanning(pool[left], 2)]
    assert explained(pool, picked[2:4]) == pytest.approx(1)


def test_equal_rows_are_taken_by_the_lowest_index():
    row = torch.tensor([0.3, 0.7, -0.1])
    assert select_spanning(row.repeat(5, 1), 3) == [0, 1, 2]
    assert select_spanning(torch.eye(6), 4) == [0, 1, 2, 3]


def test_zeros_come_last():
    pool = torch.zeros(5, 3)
    pool[3] = 1
    pool[4] = 1e-30
    assert select_spanning(pool, 4) == [3, 4, 0, 1]
    assert explained(torch.zeros(2, 3), [0]) == 1 and mean_cosine(torch.zeros(2, 3), [0]) == 0


def test_unit_rows_keep_long_rows_from_deciding():
    pool = torch.tensor([[1000.0, 0], [0, 1], [0, 2], [0, 3]])
    assert select_spanning(pool, 1) == [0] and select_spanning(unit_rows(pool), 1) == [1]
    assert select("gradient", "aaaa", 1, 0, pool) == [1]
    assert torch.equal(unit_rows(torch.zeros(1, 2)), torch.zeros(1, 2))


@given(SEEDS, st.lists(st.integers(0, 19), min_size=1, max_size=8, unique=True))
def test_explained_and_mean_cosine_are_what_they_say(seed, picked):
    pool = matrix(seed)
    assert explained(pool, picked) == pytest.approx(captured(pool, picked) / float(pool.square().sum()), abs=1e-9)
    assert explained(pool, range(20)) == pytest.approx(1) and mean_cosine(pool, range(20)) == pytest.approx(1)
    mean, whole = pool[picked].mean(0), pool.mean(0)
    assert mean_cosine(pool, picked) == pytest.approx(float(mean @ whole / mean.norm() / whole.norm()))


def test_explained_is_not_misled_by_nearly_equal_rows():
    pool = torch.eye(3)[[0, 0, 1, 2]]
    pool[1, 1] = 1e-8
    assert explained(pool.double(), [0, 1]) == pytest.approx(1 / 2)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.data())
def test_quotas_differ_by_one_unless_a_group_is_used_up(groups, data):
    count = data.draw(st.integers(1, len(groups)))
    chosen = Counter(groups[i] for i in select_stratified(groups, count, 0))
    size = Counter(groups)
    open_groups = [group for group in size if chosen[group] < size[group]]
    highest = max(chosen.values())
    assert sum(chosen.values()) == count
    assert all(chosen[group] >= highest - 1 for group in open_groups)


def test_stratified_gives_the_remainder_to_the_groups_with_most_left():
    groups = ["a"] * 3 + ["b"] * 9 + ["c"] * 5
    assert Counter(groups[i] for i in select_stratified(groups, 4, 0)) == {"a": 1, "b": 2, "c": 1}
    assert Counter(groups[i] for i in select_stratified(groups, 14, 0)) == {"a": 3, "b": 6, "c": 5}
    assert select_stratified(groups, 4, 0) != select_stratified(groups, 4, 1)


@given(st.lists(st.floats(0, 20, width=32), min_size=1, max_size=60), st.data())
def test_by_loss_takes_the_middle_of_every_slice(losses, data):
    count = data.draw(st.integers(1, len(losses)))
    picked = select_by_loss(torch.tensor(losses), count)
    ranks = sorted(range(len(losses)), key=lambda i: losses[i])
    for i, row in enumerate(picked):
        assert i * len(losses) / count - 1 < ranks.index(row) < (i + 1) * len(losses) / count
    assert len(set(picked)) == count


def test_by_loss_leaves_the_extremes_out():
    losses = torch.tensor([9.0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
    assert losses[select_by_loss(losses, 2)].tolist() == [2, 7]
    assert losses[select_by_loss(losses, 3)].tolist() == [1, 5, 8]


def test_random_depends_on_the_seed_alone():
    assert select_random(1000, 5, 1) == select_random(1000, 5, 1) != select_random(1000, 5, 2)
    assert select_random(5, 5, 0) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", [0, -1, 4])
def test_too_many_or_no_rows_are_refused(count):
    pool = torch.ones(3, 2)
    for choose in (
        lambda: select_random(3, count, 0),
        lambda: select_stratified("aab", count, 0),
        lambda: select_by_loss(pool[:, 0], count),
        lambda: select_spanning(pool, count),
    ):
        with pytest.raises(OGPSAError, match=f"^{count} rows were asked for of a pool with 3"):
            choose()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(value):
    pool = torch.ones(4, 2)
    pool[2, 1] = value
    with pytest.raises(OGPSAError, match="1 rows have features that are not finite \\(indices 2\\)"):
        select_spanning(pool, 2)
    with pytest.raises(OGPSAError, match="indices 2"):
        select_by_loss(pool[:, 1], 2)


@pytest.mark.slow
def test_ten_thousand_rows_take_seconds():
    pool = torch.randn(10_000, 1024, generator=torch.Generator().manual_seed(0))
    start = time.process_time()
    picked = select_spanning(pool, 200)
    assert time.process_time() - start < 60
    assert explained(pool, picked) > explained(pool, select_random(10_000, 200, 0))
