"""Features of rows: sketches of gradients against whole gradients, and what must not matter."""

import pytest
import torch
from conftest import WORDS, make_pairs, make_rows, make_toy
from hypothesis import given, settings
from hypothesis import strategies as st

from ogpsa_factory.data import features
from ogpsa_factory.data.features import (
    embedding_features,
    gradient_features,
    load_model,
    loss_features,
    sketch,
    tokenise,
)
from ogpsa_factory.errors import OGPSAError
from ogpsa_factory.reference import count_label_tokens


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return make_toy(tmp_path_factory.mktemp("toy") / "world")


@pytest.fixture(scope="module")
def model(toy):
    return load_model(str(toy.root / "model"))


@pytest.fixture(scope="module")
def rows(toy):
    return look(toy, "ref_a")


def look(toy, *names, cutoff_len=64):
    model = str(toy.root / "model")
    return tokenise(names, model, template="chatml", dataset_dir=str(toy.data), cutoff_len=cutoff_len)


def gradient(model, rows):
    """The gradient of the mean loss over the label tokens of some rows, in one padded batch, as one long vector."""
    width = max(len(row["input_ids"]) for row in rows)
    padded = {
        key: torch.tensor([row[key] + [pad] * (width - len(row[key])) for row in rows])
        for key, pad in (("input_ids", 0), ("attention_mask", 0), ("labels", -100))
    }
    loss = model.eval()(**padded).loss
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


SEEDS = st.integers(0, 2**31 - 1)


@settings(max_examples=20)
@given(SEEDS, st.floats(-1, 1))
def test_inner_products_of_sketches_are_unbiased_within_their_bound(seed, cosine):
    """Over 200 sketches: the mean error is within 5 standard errors, the mean square within the stated bound."""
    generator = torch.Generator().manual_seed(seed)
    x, z = torch.randn(2, 300, generator=generator)
    x, z = x / x.norm(), (z - z @ x / (x @ x) * x)
    y = cosine * x + (1 - cosine**2) ** 0.5 * z / z.norm()
    parts = [slice(0, 120), slice(120, 300)]
    errors = torch.tensor(
        [
            float(sketch([x[part] for part in parts], 32, draw) @ sketch([y[part] for part in parts], 32, draw))
            - float(x @ y)
            for draw in range(200)
        ]
    )
    bound = (1 + float(x @ y) ** 2) / 32
    assert abs(errors.mean()) < 5 * (bound / 200) ** 0.5
    assert errors.square().mean() < 1.5 * bound


@given(SEEDS, st.integers(1, 50))
def test_a_sketch_is_linear(seed, dimensions):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, 3, 5, generator=generator)
    total = sketch([2 * x - y], dimensions, seed)
    assert torch.allclose(total, 2 * sketch([x], dimensions, seed) - sketch([y], dimensions, seed), atol=1e-5)
    assert torch.allclose(sketch([x, None], dimensions, seed), sketch([x], dimensions, seed))
    assert torch.equal(sketch([None, x], dimensions, seed), sketch([torch.zeros(9), x], dimensions, seed))


def test_pieces_of_a_part_do_not_share_their_buckets(monkeypatch):
    monkeypatch.setattr(features, "PIECE", 4)
    assert sketch([torch.ones(12)], 10_000, 0).count_nonzero() > 8


def test_parts_do_not_share_their_signs():
    """With equal buckets and signs in all parts, a gradient of equal parts would look longer than it is."""
    part = torch.ones(100)
    lengths = torch.stack([sketch([part] * 10, 64, seed).square().sum() for seed in range(50)])
    assert lengths.mean() == pytest.approx(1000, rel=0.2)


def test_sketches_of_gradients_are_those_of_autograd(model, rows):
    """In as many buckets as need be, every inner product is that of the whole gradients."""
    found = gradient_features(model, rows, dimensions=200_000)
    whole = torch.stack([gradient(model, [row]) for row in rows])
    scale = whole.norm(dim=1)
    assert torch.allclose(found.vectors.norm(dim=1), scale, rtol=0.05)
    assert ((found.vectors @ found.vectors.T - whole @ whole.T) / scale / scale[:, None]).abs().max() < 0.02


def test_weighted_sketches_add_up_to_the_gradient_of_the_set(model, rows):
    found = gradient_features(model, rows, dimensions=512, seed=3)
    count = found.label_tokens.sum()
    parameters = [p for p in model.parameters() if p.requires_grad]
    whole = gradient(model, rows).split([p.numel() for p in parameters])
    expected = sketch(whole, 512, 3)
    assert torch.allclose(found.weighted().sum(0) / count, expected, atol=1e-4 * expected.norm())
    assert found.label_tokens.tolist() == [count_label_tokens(row["labels"]) for row in rows]


def test_losses_are_the_same_whichever_way(model, rows):
    losses = loss_features(model, rows)
    assert torch.equal(losses.vectors[:, 0], losses.losses)
    for other in (gradient_features(model, rows, 16), embedding_features(model, rows)):
        assert torch.allclose(other.losses, losses.losses)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([rows[2]["input_ids"]])).logits[0, :-1].double()
    labels = torch.tensor(rows[2]["labels"][1:])
    by_hand = torch.nn.functional.cross_entropy(logits[labels != -100], labels[labels != -100])
    assert losses.losses[2] == pytest.approx(by_hand.item(), rel=1e-5)


def test_embeddings_are_means_of_the_last_hidden_states(model, rows):
    found = embedding_features(model, rows)
    hidden = model.model(input_ids=torch.tensor([rows[1]["input_ids"]])).last_hidden_state[0]
    assert torch.allclose(found.vectors[1], hidden.mean(0), atol=1e-5)
    assert found.vectors.shape == (len(rows), 32) and not found.vectors.requires_grad


def test_the_model_is_left_as_it_was(model, rows):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    random_numbers = torch.get_rng_state()
    done = []
    gradient_features(model, rows, 16, progress=done.append)
    embedding_features(model, rows)
    loss_features(model, rows)
    assert model.training and done == [1] * len(rows)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_numbers)


def test_frozen_parameters_and_dropout_do_not_matter(toy, rows):
    model = load_model(str(toy.root / "model"))
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    first = gradient_features(model, rows, 64)
    assert torch.equal(first.vectors, gradient_features(model, rows, 64).vectors)
    model.model.embed_tokens.requires_grad_(False)
    assert not torch.equal(first.vectors, gradient_features(model, rows, 64).vectors)
    assert not torch.equal(first.vectors, gradient_features(model, rows, 64, seed=1).vectors)


def test_rows_keep_their_places(toy):
    """Rows that LLaMA-Factory drops, or whose answer is cut off, are None where they stood."""
    good = make_rows(3, seed=11)
    no_answer = {**good[1], "output": None}
    cut_off = {"instruction": "w1 " * 4000, "input": "", "output": "w2 " * 40}
    toy.write("holes", [no_answer, good[0], cut_off, good[2]])
    kept = look(toy, "holes", "ref_b")
    assert [row is None for row in kept] == [True, False, True, False] + [False] * 5
    toy.write("whole", [good[0], good[2]])
    assert [row for row in kept[:4] if row] == look(toy, "whole") and kept[4:] == look(toy, "ref_b")


def test_of_pairs_the_chosen_answer_is_taken_and_of_text_every_token(toy):
    pairs = make_pairs(3, seed=5)
    toy.write("as_rows", [{"instruction": row["instruction"], "input": "", "output": row["chosen"]} for row in pairs])
    toy.write(
        "as_pairs", pairs, ranking=True, columns={"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    )
    assert look(toy, "as_pairs") == look(toy, "as_rows")
    toy.write("text", [{"text": " ".join(WORDS[:5])}], columns={"prompt": "text"})
    (row,) = look(toy, "text")
    assert row["labels"] == row["input_ids"] and count_label_tokens(row["labels"]) == 5  # the end of text is one


def test_rows_are_tokenised_as_a_reference_set_is(toy, rows, tmp_path):
    from llamafactory.hparams import get_train_args

    from ogpsa_factory.arguments import OGPSAArguments
    from ogpsa_factory.llamafactory.data import load_reference_sets

    model_args, data_args, training_args, *_ = get_train_args(toy.config())
    (reference,) = load_reference_sets(
        OGPSAArguments(ogpsa_reference_dataset="ref_a"), model_args, data_args, training_args
    )
    assert [dict(row)["labels"] for row in reference.rows] == [row["labels"] for row in rows]
    assert [dict(row)["input_ids"] for row in reference.rows] == [row["input_ids"] for row in rows]


def test_what_cannot_be_loaded_is_named(toy, tmp_path):
    with pytest.raises(OGPSAError, match=r"--model .*nowhere cannot be loaded\. Name a folder"):
        load_model(str(tmp_path / "nowhere"))
    with pytest.raises(OGPSAError, match=r"Pool ref_a cannot be tokenised with --template nope: .*nope"):
        tokenise(["ref_a"], str(toy.root / "model"), template="nope", dataset_dir=str(toy.data), cutoff_len=64)
