"""`ogpsa data select`: the rows that are written are the pool's own, and every mistake has a name."""

import argparse
import json

import pytest
from conftest import WORDS, make_pairs, make_rows, make_toy

from ogpsa_factory.data.select_command import METHODS, register_select
from ogpsa_factory.errors import OGPSAError


@pytest.fixture
def toy(tmp_path):
    toy = make_toy(tmp_path)
    toy.write("many", [{**row, "id": i, "topic": ["a", "[b]"][i % 2]} for i, row in enumerate(make_rows(30, seed=21))])
    return toy


def call(toy, pools, *words, name="chosen", samples=6, model=False):
    parser = argparse.ArgumentParser()
    register_select(parser.add_subparsers())
    options = ["--name", name, "--samples", samples, "--dataset-dir", toy.data, *words]
    if model:
        options += ["--model", toy.root / "model", "--template", "chatml", "--cutoff-len", 64]
    args = parser.parse_args(["select", pools, *map(str, options)])
    return args.handler(args)


def written(toy, name="chosen"):
    lines = (toy.data / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def pool(toy, name):
    return json.loads((toy.data / f"{name}.json").read_text(encoding="utf-8"))


def entry(toy, name="chosen"):
    return json.loads((toy.data / "dataset_info.json").read_text(encoding="utf-8"))[name]


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_the_pools_own_in_its_order(toy, method, capsys):
    assert call(toy, "many", "--by", method, model=method != "random") == 0
    rows = written(toy)
    ids = [row["id"] for row in rows]
    assert ids == sorted(set(ids)) and len(ids) == 6
    assert rows == [pool(toy, "many")[i] for i in ids]
    assert entry(toy) == {"file_name": "chosen.jsonl", "ogpsa_role": "reference"}
    output = capsys.readouterr().out
    assert f"6 of 30 rows by {method}" in output and "ogpsa_reference_dataset: chosen" in output
    figures = {"loss": "mean loss", "embedding": "share of embeddings explained", "random": "rows of many"}
    assert figures.get(method, "share of gradients explained") in output


def test_the_chosen_rows_are_those_of_the_chosen_features(toy, capsys):
    """Rows without an answer stand between the others: indices must not shift."""
    from ogpsa_factory.data.features import gradient_features, load_model, tokenise
    from ogpsa_factory.data.selection import select

    rows = pool(toy, "many")
    toy.write("holes", [row for good in rows for row in ({**good, "id": -1, "output": None}, good)])
    call(toy, "holes", model=True)
    assert "Left out: 30 rows without an answer inside --cutoff-len 64" in capsys.readouterr().out
    model = str(toy.root / "model")
    tokenised = tokenise(["many"], model, template="chatml", dataset_dir=str(toy.data), cutoff_len=64)
    vectors = gradient_features(load_model(model), tokenised, 1024, 42).vectors
    assert [row["id"] for row in written(toy)] == sorted(select("gradient", "a" * 30, 6, 42, vectors))


def test_gradients_explain_more_than_a_random_choice(toy, capsys):
    """Twenty rows of the pool say the same; four say something else."""
    same, others = make_rows(1, seed=1), make_rows(4, seed=2)
    toy.write("lopsided", [*same * 10, *others, *same * 10])
    call(toy, "lopsided", samples=5, model=True)
    assert sorted(row["output"] for row in written(toy)) == sorted(row["output"] for row in [*same, *others])
    line = next(line for line in capsys.readouterr().out.splitlines() if "explained" in line)
    chosen, by_chance, whole = (float(cell) for cell in line.split("│")[2:5])
    assert chosen == whole == 1 > by_chance


def test_groups_are_pools_or_a_column(toy, capsys):
    call(toy, "ref_b,many", "--by", "stratified", samples=10)
    assert sum("id" in row for row in written(toy)) == 5
    call(toy, "many", "--by", "stratified", "--group-by", "topic", name="topics", samples=10)
    assert [row["topic"] for row in written(toy, "topics")].count("a") == 5
    assert "rows of [b]" in capsys.readouterr().out


def test_layouts_are_kept(toy):
    toy.write("wrapped", make_pairs(8, seed=3), **{**entry(toy, "pairs"), "file_name": "wrapped.json"})
    call(toy, "wrapped,pairs_a", "--by", "gradient", samples=3, model=True)
    own = entry(toy)
    assert own["ranking"] is True and own["columns"] == entry(toy, "pairs")["columns"]
    chats = [{"messages": [{"role": "user", "content": w}, {"role": "assistant", "content": "w2"}]} for w in WORDS[:5]]
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    toy.write("chats", chats, formatting="sharegpt", columns={"messages": "messages"}, tags=tags)
    call(toy, "chats", "--by", "loss", name="talk", samples=2, model=True)
    assert entry(toy, "talk")["tags"] == tags and all(row in chats for row in written(toy, "talk"))


def test_the_default_is_random_without_a_model(toy, capsys):
    call(toy, "many")
    assert "6 of 30 rows by random" in capsys.readouterr().out
    call(toy, "many", name="again")
    assert written(toy) == written(toy, "again")
    call(toy, "many", "--seed", 1, name="other")
    assert written(toy) != written(toy, "other")


def test_more_rows_than_training_takes_by_default_are_said(toy, capsys):
    toy.write("large", make_rows(300, seed=5))
    call(toy, "large", samples=250)
    assert "ogpsa_reference_samples: 250" in capsys.readouterr().out


def test_a_set_is_replaced_only_on_request(toy):
    call(toy, "many")
    first = written(toy)
    with pytest.raises(OGPSAError, match=r"entry chosen exists: choose another --name, or pass --replace"):
        call(toy, "many", "--seed", 1)
    assert written(toy) == first
    call(toy, "many", "--seed", 1, "--replace")
    assert written(toy) != first
    toy.write("other", make_rows(3, seed=1), file_name="./chosen.jsonl")
    with pytest.raises(OGPSAError, match=r"chosen\.jsonl is the file of other"):
        call(toy, "many", "--replace")


MISTAKES = {
    "unknown pool": (["manny"], {}, r"manny is not in .*dataset_info\.json\. The nearest names there: many"),
    "no pool": ([","], {}, "Name at least one pool"),
    "too many rows": (["ref_a,ref_b"], {"samples": 13}, r"--samples 13: ref_a, ref_b have 12 rows"),
    "no rows": (["many"], {"samples": 0}, "at least 1 row"),
    "name with a comma": (["many"], {"name": "a,b"}, "--name 'a,b': letters"),
    "name of a pool": (["many,ref_a"], {"name": "many"}, "many is a pool: its rows would be lost"),
    "no model": (["many", "--by", "loss"], {}, "--by loss looks at rows through a model"),
    "no template": (["many", "--model", "x"], {}, "--model needs --template"),
    "no such model": (
        ["many", "--model", "./nowhere", "--template", "chatml"],
        {},
        r"--model \./nowhere cannot be loaded\. Name a folder",
    ),
    "no such column": (
        ["many", "--by", "stratified", "--group-by", "skill"],
        {},
        r"row 1 .* has no column skill",
    ),
    "two layouts": (["many,pairs"], {}, "Pool pairs in .* has another layout than many"),
    "short sketch": (["many", "--dimensions", "6"], {"model": True}, "--dimensions 6: 6 rows span a sketch"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_and_nothing_is_written(toy, mistake):
    (pools, *words), options, message = MISTAKES[mistake]
    before = {path: path.read_bytes() for path in toy.data.iterdir()}
    with pytest.raises(OGPSAError, match=message):
        call(toy, pools, *words, **options)
    assert {path: path.read_bytes() for path in toy.data.iterdir() if path.suffix != ".lock"} == before


def test_pools_that_cannot_be_reference_sets_are_named(toy):
    toy.write("labelled", make_rows(3, seed=1), columns={"prompt": "instruction", "kto_tag": "good"})
    toy.write("pictures", make_rows(3, seed=1), columns={"prompt": "instruction", "images": "image"})
    toy.write("part", make_rows(3, seed=1), num_samples=2)
    for pools, message in (("labelled", "kto_tag"), ("pictures", "images"), ("part", "num_samples")):
        with pytest.raises(OGPSAError, match=f"Pool {pools} in .*{message}"):
            call(toy, pools, samples=2, model=True)


def test_too_few_usable_rows_are_counted(toy):
    toy.write("holes", [*make_rows(3, seed=1), *({**row, "output": None} for row in make_rows(9, seed=2))])
    with pytest.raises(OGPSAError, match="3 of 12 rows have an answer inside --cutoff-len 64, --samples 6"):
        call(toy, "holes", model=True)


def test_rows_that_llamafactory_counts_otherwise_are_refused(toy, monkeypatch):
    monkeypatch.setattr("ogpsa_factory.data.features.tokenise", lambda *args, **kwargs: [None] * 29)
    with pytest.raises(OGPSAError, match=r"reads 29 rows where 30 are.*`ogpsa data check`"):
        call(toy, "many", model=True)


@pytest.mark.parametrize("method", ["loss", "embedding", "gradient"])
def test_figures_that_are_not_finite_name_their_rows(toy, method):
    from safetensors.torch import load_file, save_file

    file = toy.root / "model" / "model.safetensors"
    weights = load_file(file)
    weights["model.embed_tokens.weight"][-1] = float("nan")  # the last word's
    save_file(weights, file, metadata={"format": "pt"})
    rows = make_rows(9, seed=4, words=WORDS[:-1])
    rows[7]["instruction"] = WORDS[-1]
    toy.write("odd", rows)
    with pytest.raises(OGPSAError, match=r"not finite on 1 rows \(.*odd\.json, row 8"):
        call(toy, "odd", "--by", method, model=True)
    assert not (toy.data / "chosen.jsonl").exists()
