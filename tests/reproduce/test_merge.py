"""`ogpsa merge`: the average of two models, by hand; what it refuses."""

import json
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ogpsa_factory import OGPSAError
from ogpsa_factory.merge import _average, merge, run


def tensors(seed, dtype=torch.float32):
    torch.manual_seed(seed)
    return {
        name: torch.randn(3, 4).to(dtype) for name in ("model.embed_tokens.weight", "lm_head.weight", "model.norm")
    }


def save(folder, content, shards=1, **config):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "x", **config}))
    (folder / "tokenizer.json").write_text(folder.name)
    if shards == 1:
        save_file(content, folder / "model.safetensors")
        return str(folder)
    names = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(content)}
    for file in set(names.values()):
        save_file({name: content[name] for name in content if names[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return str(folder)


def load(folder):
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


@settings(max_examples=50, deadline=None)
@given(
    st.floats(0, 1),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.integers(0, 100),
)
def test_average_of_any_types(weight, ours, theirs, seed):
    base, aligned = torch.randn(2, 5, generator=torch.Generator().manual_seed(seed))
    base, aligned = base.to(theirs), aligned.to(ours)
    before = base.clone(), aligned.clone()
    mixed = _average("x", base, aligned, weight)
    exact = (1 - weight) * base.double() + weight * aligned.double()
    assert mixed.dtype == ours
    assert torch.allclose(mixed.double(), exact, rtol=torch.finfo(ours).eps, atol=1e-6)
    assert torch.equal(base, before[0]) and torch.equal(aligned, before[1])
    assert torch.equal(_average("x", base, aligned, 1.0), aligned)
    assert torch.equal(_average("x", base, aligned, 0.0), base.to(ours))


@pytest.mark.parametrize("shards", [(1, 1), (1, 2), (3, 1), (2, 3)])
def test_shards_of_any_number(tmp_path, shards):
    base, aligned = tensors(0, torch.bfloat16), tensors(1, torch.bfloat16)
    base_path = save(tmp_path / "base", base, shards[0])
    save(tmp_path / "aligned", aligned, shards[1])
    (tmp_path / "aligned" / "training_args.bin").touch()
    assert merge(base_path, tmp_path / "aligned", tmp_path / "out", 0.25) == 3
    mixed = load(tmp_path / "out")
    for name in base:
        expected = (0.75 * base[name].float() + 0.25 * aligned[name].float()).bfloat16()
        assert torch.equal(mixed[name], expected)
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "aligned"
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {path.name for path in (tmp_path / "aligned").iterdir()} - {"training_args.bin"} | {
        "ogpsa_merge.json"
    }
    assert json.loads((tmp_path / "out" / "ogpsa_merge.json").read_text())["weight"] == 0.25
    assert not list(tmp_path.glob(".*"))
    assert merge(base_path, tmp_path / "aligned", tmp_path / "out", 1.0) == 3  # a result of its own is replaced
    assert torch.equal(load(tmp_path / "out")["model.norm"], aligned["model.norm"])


def test_an_output_layer_that_is_tied_and_saved_in_one_model_only(tmp_path):
    base, aligned = tensors(0), tensors(1)
    del base["lm_head.weight"]
    base_path = save(tmp_path / "base", base, tie_word_embeddings=True)
    save(tmp_path / "aligned", aligned, tie_word_embeddings=True)
    merge(base_path, tmp_path / "aligned", tmp_path / "out")
    mixed = load(tmp_path / "out")
    half = (base["model.embed_tokens.weight"] + aligned["lm_head.weight"]) / 2
    assert torch.allclose(mixed["lm_head.weight"], half)
    merge(str(tmp_path / "aligned"), tmp_path / "base", tmp_path / "back")
    assert set(load(tmp_path / "back")) == set(base)


def changed(name, value):
    content = tensors(1)
    if value is None:
        del content[name]
    else:
        content[name] = value
    return content


@pytest.mark.parametrize(
    "content, message",
    [
        (changed("model.norm", torch.ones(4, 4)), r"model.norm has the shape \[3, 4\] in the base and \[4, 4\]"),
        (changed("model.norm", None), "The aligned model has no tensor model.norm"),
        (changed("extra", torch.ones(1)), "The base has no tensor extra"),
        (changed("model.norm", torch.ones(3, 4, dtype=torch.int8)), "model.norm is torch.float32 in the base and"),
        (changed("lm_head.weight", None), "The aligned model has no tensor lm_head.weight"),
    ],
)
def test_models_that_do_not_fit_are_refused(tmp_path, content, message):
    base = save(tmp_path / "base", tensors(0))
    save(tmp_path / "aligned", content)
    with pytest.raises(OGPSAError, match=message):
        merge(base, tmp_path / "aligned", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aligned", "base"]


@pytest.mark.parametrize("inside", ["base", "aligned"])
def test_a_folder_with_one_of_the_models_in_it_is_not_replaced(tmp_path, inside):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").touch()
    (tmp_path / "run" / "ogpsa_merge.json").touch()
    folders = {name: tmp_path / ("run" if name == inside else "") / name for name in ("base", "aligned")}
    for seed, folder in enumerate(folders.values()):
        save(folder, tensors(seed))
    with pytest.raises(OGPSAError, match="run holds one of the two models"):
        merge(str(folders["base"]), folders["aligned"], tmp_path / "aligned" / ".." / "run")
    assert all((folder / "model.safetensors").exists() for folder in folders.values())


def test_a_model_that_was_not_merged_is_not_replaced(tmp_path):
    base = save(tmp_path / "base", tensors(0))
    save(tmp_path / "aligned", tensors(1))
    save(tmp_path / "trained", tensors(2))
    with pytest.raises(OGPSAError, match=r"trained holds a model that .* Choose another --output, or remove it"):
        merge(base, tmp_path / "aligned", tmp_path / "trained")
    assert torch.equal(load(tmp_path / "trained")["model.norm"], tensors(2)["model.norm"])


def test_what_is_no_model_is_refused(tmp_path):
    base = save(tmp_path / "base", tensors(0))
    for folder, message in (("adapter", "is an adapter.*llamafactory-cli export"), ("empty", "holds no config.json")):
        (tmp_path / folder).mkdir()
        with pytest.raises(OGPSAError, match=message):
            (tmp_path / "adapter" / "adapter_config.json").touch()
            merge(base, tmp_path / folder, tmp_path / "out")
    with pytest.raises(OGPSAError, match="does not exist"):
        merge("./absent", tmp_path / "base", tmp_path / "out")
    with pytest.raises(OGPSAError, match="is one of the two models"):
        merge(base, tmp_path / "empty" / ".." / "base", tmp_path / "base")
    with pytest.raises(OGPSAError, match=r"--weight 1\.5 is not possible"):
        merge(base, tmp_path / "base", tmp_path / "out", 1.5)
    (tmp_path / "base" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(OGPSAError, match=r"model\.safetensors cannot be read"):
        merge(base, tmp_path / "base", tmp_path / "out")
    (tmp_path / "base" / "model.safetensors").unlink()
    (tmp_path / "base" / "pytorch_model.bin").touch()
    with pytest.raises(OGPSAError, match=r"holds neither model\.safetensors nor"):
        merge(base, tmp_path / "base", tmp_path / "out")


def test_a_model_that_lacks_a_shard_is_refused(tmp_path):
    base = save(tmp_path / "base", tensors(0), 2)
    (tmp_path / "base" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(OGPSAError, match=r"model-00002-of-00002\.safetensors does not exist"):
        merge(base, tmp_path / "base", tmp_path / "out")


def test_a_base_of_the_hub(tmp_path, monkeypatch):
    base, asked = save(tmp_path / "base", tensors(0)), []
    save(tmp_path / "aligned", tensors(1))

    def fetch(name, **options):
        asked.append((name, options["revision"]))
        return base

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    words = {"base": "owner/name", "aligned": tmp_path / "aligned", "output": tmp_path / "out"}
    assert run(SimpleNamespace(**words, weight=0.5, revision="abc")) == 0
    assert asked == [("owner/name", "abc")]

    def fail(name, **options):
        raise OSError("no connection\nmore")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(OGPSAError, match=r"neither a folder here nor can it be fetched from the hub: no connection$"):
        merge("owner/name", tmp_path / "aligned", tmp_path / "out")


def test_equal_whole_numbers_stay_and_others_have_no_average():
    steps = torch.arange(3)
    assert torch.equal(_average("steps", steps, steps.clone(), 0.3), steps)
    with pytest.raises(OGPSAError, match="steps is of whole numbers"):
        _average("steps", steps, steps + 1, 0.3)
