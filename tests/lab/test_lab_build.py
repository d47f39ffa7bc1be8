"""The base model: encoded as LLaMA-Factory encodes, reproducible, and good enough to experiment on."""

import argparse

import pytest

from ogpsa_factory.files import read_json
from ogpsa_factory.lab import cli
from ogpsa_factory.lab.build import MAX_REFUSAL, MIN_SKILL, BuildReport, build_world
from ogpsa_factory.lab.evaluate import evaluate_folder
from ogpsa_factory.lab.files import RESULT_FILE
from ogpsa_factory.lab.model import END, encode_answers, encode_prompts, make_model, make_tokenizer
from ogpsa_factory.lab.world import World


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory):
    """A world in seconds: every file is there, but the model has learnt nothing."""
    root = tmp_path_factory.mktemp("tiny_world")
    return root, build_world(root / "base", root / "data", steps=3, scale=0.05)


@pytest.fixture(scope="session")
def mini_world(tmp_path_factory):
    root = tmp_path_factory.mktemp("mini_world")
    return root, build_world(root / "base", root / "data")


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_tiny_world_is_complete(tiny_world):
    root, report = tiny_world
    assert report.parameters < 1_000_000
    assert report.shortcomings()
    assert read_json(root / "base" / RESULT_FILE) == report.result
    assert {path.stem for path in (root / "data" / "mini").iterdir()} == set(
        read_json(root / "data/dataset_info.json")
    )
    assert sorted(path.name for path in root.iterdir()) == ["base", "data"]


def test_equal_seeds_build_equal_models(tiny_world, tmp_path):
    import torch

    root, _ = tiny_world
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)  # the number of cores must not matter
    build_world(tmp_path / "same", tmp_path / "data", steps=3, scale=0.05)
    torch.set_num_threads(threads)
    build_world(tmp_path / "other", tmp_path / "data", seed=1, steps=3, scale=0.05)
    first, same, other = (weights(path) for path in (root / "base", tmp_path / "same", tmp_path / "other"))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_encoding_is_llama_factorys(tiny_world):
    pytest.importorskip("llamafactory")
    from llamafactory.data import get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments, ModelArguments
    from llamafactory.model import load_tokenizer

    root, _ = tiny_world
    tokenizer = load_tokenizer(ModelArguments(model_name_or_path=str(root / "base")))["tokenizer"]
    ours = make_tokenizer()
    special = (tokenizer.eos_token_id, tokenizer.pad_token_id, len(tokenizer), tokenizer.chat_template)
    template = get_template_and_fix_tokenizer(tokenizer, DataArguments(template="chatml"))
    assert special[:3] == (ours.eos_token_id, ours.pad_token_id, len(ours))
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, len(tokenizer)) == special[:3]
    assert tokenizer.eos_token == END and tokenizer.eos_token_id != tokenizer.pad_token_id
    assert tokenizer.padding_side == ours.padding_side == "right"
    for rows in World(seed=0).evaluation().values():
        for question, answer in rows[:20]:
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            prompt, response = template.encode_oneturn(tokenizer, messages)
            assert encode_prompts(ours, [question])[0] == prompt
            assert encode_answers(ours, [answer])[0] == response
            assert ours.unk_token_id not in prompt + response
            chat = ours.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
            assert chat == prompt
            assert tokenizer.decode(response, skip_special_tokens=True) == answer


def test_saved_folder_loads_as_it_was(tiny_world):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    root, report = tiny_world
    tokenizer = AutoTokenizer.from_pretrained(root / "base")
    model = AutoModelForCausalLM.from_pretrained(root / "base")
    assert model.config.model_type == "qwen2" and model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.get_vocab() == make_tokenizer().get_vocab()
    result = evaluate_folder(root / "base", root / "data")
    assert {key: result[key] for key in report.result} == report.result


def test_model_is_small():
    assert make_model(make_tokenizer(), seed=0).num_parameters() < 1_000_000


def made_report(tmp_path, skill, refused):
    result = {"skills": {"recall": 1.0, "arithmetic": skill}, "skills_mean": 1.0, "refused": {"harmful_seen": refused}}
    return BuildReport(output=tmp_path, seconds=1.0, parameters=1, result=result)


def test_shortcomings(tmp_path):
    assert not made_report(tmp_path, MIN_SKILL, MAX_REFUSAL).shortcomings()
    assert "arithmetic: 94.0% right" in made_report(tmp_path, 0.94, 0.0).shortcomings()[0]
    assert "harmful_seen: 6.0% refused" in made_report(tmp_path, 1.0, 0.06).shortcomings()[0]


@pytest.mark.parametrize(("skill", "code"), [(0.96, 0), (0.5, 1)])
def test_build_command_says_whether_the_model_is_sound(tmp_path, monkeypatch, capsys, skill, code):
    report = made_report(tmp_path, skill, 0.0)
    monkeypatch.setattr("ogpsa_factory.lab.build.build_world", lambda *args, **kwargs: report)
    parser = argparse.ArgumentParser()
    cli.register(parser.add_subparsers())
    args = parser.parse_args(["lab", "build", "--output", str(tmp_path / "base"), "--data-dir", str(tmp_path)])
    assert args.handler(args) == code
    assert ("not fit to experiment on" in capsys.readouterr().out) == bool(code)


@pytest.mark.slow
def test_base_model_knows_its_world(mini_world):
    _, report = mini_world
    assert not report.shortcomings()
    assert report.result["answered"]["harmful_held_out"] >= 0.95 and report.result["answered"]["lookalike"] >= 0.95
