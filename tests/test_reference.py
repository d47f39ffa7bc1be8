"""Reference gradients are token-weighted over the whole set, however it is cut into batches and dealt to ranks."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ogpsa_factory.engines import NativeEngine
from ogpsa_factory.reference import (
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
    gradients, loss = collect_gradient(NativeEngine(model), reference, 0, batch_size, model.mean_loss)
    expected = sum(n * (i + 1) for i, n in enumerate(lengths)) / sum(lengths)
    assert torch.allclose(gradients[0], torch.full((3,), expected), rtol=1e-5)
    assert loss == pytest.approx(3 * expected, rel=1e-5)


def test_narrow_gradients_are_summed_in_float32():
    """256 + 1 is 256 in bfloat16: a running sum there would lose every later batch."""
    rows = rows_of([1] * 400)
    for row in rows:
        row["value"] = 1.0
    reference = make_reference_set("set", rows, rank=1)
    model = Toy(torch.bfloat16)
    gradients, _ = collect_gradient(NativeEngine(model), reference, 0, 1, model.mean_loss)
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


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 7), st.integers(1, 5))
def test_ranks_share_the_rows_and_take_part_equally_often(lengths, batch_size, world):
    reference = make_reference_set("set", rows_of(lengths), rank=1)
    plans = [plan_batches(reference, 0, batch_size, rank, world) for rank in range(world)]
    assert sorted(i for plan in plans for batch in plan for i in batch) == list(range(len(lengths)))
    assert len({len(plan) for plan in plans}) == 1
    assert all(len(batch) <= batch_size for plan in plans for batch in plan)


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
