"""Reference gradients are token-weighted over the whole set, however it is cut into batches and dealt to ranks."""

import random

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from ogpsa_factory.arguments import OGPSAArguments
from ogpsa_factory.engines import NativeEngine
from ogpsa_factory.llamafactory.batches import OVERHEAD_CPU, reference_batch_size
from ogpsa_factory.reference import (
    BatchSize,
    answers,
    collect_gradient,
    count_label_tokens,
    isolated_randomness,
    make_reference_set,
    plan_batches,
)


def rows_of(lengths):
    """Rows whose answers have the given number of tokens, behind a prompt of two."""
    return [
        {
            "input_ids": list(range(2 + n)),
            "attention_mask": [1] * (2 + n),
            "labels": [-100, -100, *range(n)],
            "value": float(i + 1),
        }
        for i, n in enumerate(lengths)
    ]


class Toy(torch.nn.Module):
    """Token losses are ``weight * value``: the gradient of a mean over tokens can be worked out by hand."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3, dtype=dtype))

    def mean_loss(self, features):
        tokens = torch.tensor([count_label_tokens(f["labels"]) for f in features], dtype=torch.float32)
        values = torch.tensor([f["value"] for f in features])
        return (tokens * values).sum() / tokens.sum() * self.weight.sum()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 5))
def test_gradient_does_not_depend_on_the_batch_size(lengths, batch_size):
    reference = make_reference_set("set", rows_of(lengths), rank=1)
    model = Toy()
    gradients, loss = collect_gradient(NativeEngine(model), reference, 0, BatchSize(batch_size), model.mean_loss)
    expected = sum(n * (i + 1) for i, n in enumerate(lengths)) / sum(lengths)
    assert torch.allclose(gradients[0], torch.full((3,), expected), rtol=1e-5)
    assert loss == pytest.approx(3 * expected, rel=1e-5)


KEYS = ("input_ids", "attention_mask", "labels")


def pairs_of(lengths):
    """Pairs whose chosen and rejected answers have the given numbers of tokens; the value belongs to the pair."""
    sides = {"chosen": rows_of([a for a, _ in lengths]), "rejected": rows_of([b for _, b in lengths])}
    rows = []
    for i in range(len(lengths)):
        rows.append({f"{kind}_{key}": side[i][key] for kind, side in sides.items() for key in KEYS})
        rows[i]["value"] = i + 1.0
    return rows


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=10), st.integers(1, 4))
def test_pairs_count_by_their_tokens_or_once_each(lengths, batch_size):
    """Under `lm_both` every token of both answers counts the same, under `preference` every pair."""
    rows, model = pairs_of(lengths), Toy()
    both = make_reference_set("set", rows, rank=1, loss="lm_both")

    def token_loss(features):
        return model.mean_loss([answer for row in features for answer in answers(row)])

    gradients, _ = collect_gradient(NativeEngine(model), both, 0, BatchSize(batch_size), token_loss)
    expected = sum((a + b) * (i + 1) for i, (a, b) in enumerate(lengths)) / sum(a + b for a, b in lengths)
    assert torch.allclose(gradients[0], torch.full((3,), expected), rtol=1e-5)

    model.zero_grad()
    pairs = make_reference_set("set", rows, rank=1, loss="preference")

    def pair_loss(features):
        return sum(row["value"] for row in features) / len(features) * model.weight.sum()

    gradients, _ = collect_gradient(NativeEngine(model), pairs, 0, BatchSize(batch_size), pair_loss)
    assert torch.allclose(gradients[0], torch.full((3,), (len(rows) + 1) / 2), rtol=1e-5)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 5), st.integers(1, 3))
def test_mean_of_batch_means(lengths, batch_size, world):
    """Every rank has as many batches of as many rows as the others, and every batch counts the same."""
    reference = make_reference_set("set", rows_of(lengths), rank=1, average="batch")
    plans = [plan_batches(reference, 0, BatchSize(batch_size), rank, world) for rank in range(world)]
    assert len({tuple(map(len, plan)) for plan in plans}) == 1
    assert {i for plan in plans for batch in plan for i in batch} == set(range(len(lengths)))
    model = Toy()
    gradients, _ = collect_gradient(NativeEngine(model), reference, 0, BatchSize(batch_size), model.mean_loss)
    batches = plan_batches(reference, 0, BatchSize(batch_size), 0, 1)
    means = [sum(lengths[i] * (i + 1) for i in batch) / sum(lengths[i] for i in batch) for batch in batches]
    assert torch.allclose(gradients[0], torch.full((3,), sum(means) / len(means)), rtol=1e-5)


def test_a_pair_without_an_answer_takes_no_part():
    reference = make_reference_set("set", pairs_of([(2, 3), (0, 4), (5, 0), (1, 1)]), rank=1, loss="preference")
    assert reference.chunks == [[0, 3]]


def test_narrow_gradients_are_summed_in_float32():
    """256 + 1 is 256 in bfloat16: a running sum there would lose every later batch."""
    rows = rows_of([1] * 400)
    for row in rows:
        row["value"] = 1.0
    reference = make_reference_set("set", rows, rank=1)
    model = Toy(torch.bfloat16)
    gradients, _ = collect_gradient(NativeEngine(model), reference, 0, BatchSize(1), model.mean_loss)
    assert gradients[0].dtype == torch.float32
    assert torch.allclose(gradients[0], torch.ones(3), rtol=1e-2)


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 6))
def test_chunks_have_about_equal_tokens(lengths, rank):
    reference = make_reference_set("set", rows_of(lengths), rank)
    used = sorted(i for chunk in reference.chunks for i in chunk)
    assert used == [i for i, n in enumerate(lengths) if n > 0]
    assert len(reference.chunks) == min(rank, len(used))
    if reference.chunks:
        assert max(reference.chunk_weights) - min(reference.chunk_weights) <= max(lengths)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=30),
    st.integers(1, 7),
    st.integers(0, 200),
    st.sampled_from([0, 20, 10**6]),
    st.integers(1, 5),
    st.booleans(),
)
def test_ranks_share_the_rows_and_take_part_equally_often(lengths, rows, tokens, overhead, world, paired):
    given = pairs_of([(n, 1) for n in lengths]) if paired else rows_of(lengths)
    reference = make_reference_set("set", given, rank=1)
    plans = [plan_batches(reference, 0, BatchSize(rows, tokens, overhead), rank, world) for rank in range(world)]
    assert sorted(i for plan in plans for batch in plan for i in batch) == list(range(len(lengths)))
    assert len({len(plan) for plan in plans}) == 1
    for batch in (batch for plan in plans for batch in plan):
        inputs = [max(len(each["input_ids"]) for each in answers(given[i])) for i in batch]
        padded = len(batch) * (2 if paired else 1) * -(-max(inputs, default=0) // 8) * 8
        assert len(batch) <= rows or padded <= tokens
    if not tokens:
        assert len(plans[0]) == -(-len(lengths) // (rows * world)), "no pass more than rows alone would take"


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 3), st.integers(1, 99), st.integers(0, 50))
def test_passes_take_the_least_time(lengths, rows, tokens, overhead):
    reference = make_reference_set("set", rows_of(lengths), rank=1)
    padded = sorted((-(-(n + 2) // 8) * 8 for n in lengths), reverse=True)

    def least(start):
        if start == len(padded):
            return 0
        most = max(rows, tokens // padded[start])
        return min(
            overhead + count * padded[start] + least(start + count)
            for count in range(1, min(most, len(padded) - start) + 1)
        )

    plan = plan_batches(reference, 0, BatchSize(rows, tokens, overhead), 0, 1)
    cost = sum(overhead + len(batch) * -(-(max(lengths[i] for i in batch) + 2) // 8) * 8 for batch in plan)
    assert cost == least(0)


def test_with_a_dear_pass_rows_are_taken_together_and_with_a_cheap_one_by_length():
    reference = make_reference_set("set", rows_of([62, 62, 6, 6, 6, 6]), rank=1)  # 64 and 8 tokens with the prompt

    def sizes(overhead):
        return [len(batch) for batch in plan_batches(reference, 0, BatchSize(1, 6 * 64, overhead), 0, 1)]

    assert sizes(10**6) == [6]
    assert sizes(8) == [2, 4]
    assert sizes(0) == [1, 1, 1, 1, 1, 1]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 60))
def test_gradient_does_not_depend_on_tokens_per_pass(lengths, tokens):
    reference = make_reference_set("set", rows_of(lengths), rank=1)
    found = []
    for size in (BatchSize(1), BatchSize(1, tokens)):
        model = Toy()
        found.append(collect_gradient(NativeEngine(model), reference, 0, size, model.mean_loss))
    (one, loss), (other, same_loss) = found
    assert torch.allclose(one[0], other[0], rtol=1e-5) and loss == pytest.approx(same_loss, rel=1e-5)


def test_a_pass_takes_what_a_training_batch_of_the_longest_rows_would():
    arguments = OGPSAArguments(use_ogpsa=True, ogpsa_reference_dataset="set")
    text = [make_reference_set("set", rows_of([3]), rank=1)]
    single = Dataset.from_list([{"input_ids": list(range(n)), "length": n} for n in (5, 90, 7)])
    paired = Dataset.from_list([{"chosen_input_ids": [1] * n, "rejected_input_ids": [1] * 40} for n in (5, 9)])

    def chosen(rows, references=text, options=arguments, lowered=False):
        return reference_batch_size(options, references, rows, 4, lowered, on_cpu=True)

    assert chosen(single) == BatchSize(4, 4 * 90, OVERHEAD_CPU)
    assert chosen(single.select([0, 2])) == BatchSize(4, 4 * 7, OVERHEAD_CPU)
    assert chosen(paired) == BatchSize(4, 4 * 2 * 40, OVERHEAD_CPU)
    for unknown in (single.to_iterable_dataset(), single.rename_column("input_ids", "other"), single.select([])):
        assert chosen(unknown).tokens == 0
    mixed = [{**rows_of([3])[0], "images": each} for each in (["a.png"], None)]
    for rows in (mixed, mixed[::-1]):
        assert chosen(single, [make_reference_set("set", rows, rank=1)]).tokens == 0
    asked = OGPSAArguments(use_ogpsa=True, ogpsa_reference_dataset="set", ogpsa_reference_batch_size=9)
    assert chosen(single, options=asked) == BatchSize(9)
    assert chosen(single, options=asked, lowered=True) == BatchSize(4)


def test_the_first_label_has_nothing_to_be_predicted_from():
    assert count_label_tokens([5, 6, -100, 7]) == 2
    assert count_label_tokens([]) == 0


def test_fingerprint_sees_every_token():
    prints = {make_reference_set("set", rows_of(lengths), 1).fingerprint for lengths in ([2, 3], [3, 2], [2, 3, 1])}
    assert len(prints) == 3
    assert make_reference_set("other", rows_of([2, 3]), 2).fingerprint in prints


def test_isolated_randomness_gives_back_every_generator():
    def draw():
        return [torch.rand(3).tolist(), random.random(), np.random.rand(3).tolist()]

    def seed():
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)

    seed()
    expected = draw()
    seed()
    with isolated_randomness(5):
        inside = draw()
    assert draw() == expected
    with isolated_randomness(5):
        assert draw() == inside
    with isolated_randomness(6):
        assert all(a != b for a, b in zip(draw(), inside, strict=True))
