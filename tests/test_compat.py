"""An unknown LLaMA-Factory is judged by what it has, and a half-made connection never trains without projection."""

import types

import pytest

from ogpsa_factory import OGPSAError, _startup
from ogpsa_factory.llamafactory import compat, patches


def test_every_required_attribute_is_there():
    assert compat.missing() == []


def test_missing_attribute_is_named():
    parser = types.ModuleType(compat.PARSER)
    parser._TRAIN_ARGS = parser._INFER_ARGS = []
    sentences = compat.missing_from(parser)
    assert len(sentences) == 2
    assert "has no llamafactory.hparams.parser._EVAL_ARGS" in sentences[0]
    with pytest.raises(OGPSAError, match="FinetuningArguments"):
        patches.patch_parser(parser)


def test_missing_module_is_named(monkeypatch):
    monkeypatch.setitem(compat.REQUIRED, "llamafactory.no_such_module", ["anything"])
    assert "llamafactory.no_such_module cannot be imported" in " ".join(compat.missing())


def test_nothing_is_patched_if_something_is_missing(monkeypatch):
    from llamafactory.train import tuner

    fake = types.ModuleType(compat.TUNER)
    fake.run_sft = original = tuner.run_sft.__wrapped__
    with pytest.raises(OGPSAError, match="read_args"):
        patches.patch_tuner(fake)
    assert fake.run_sft is original


def test_a_run_is_refused_if_a_hook_failed(toy, run, monkeypatch):
    monkeypatch.setattr(_startup, "problems", ["LLaMA-Factory 9.9 has no llamafactory.train.tuner.run_sft."])
    with pytest.raises(OGPSAError, match=r"could not be hooked in.*run_sft"):
        run(toy.ogpsa())
    run(toy.config(max_steps=1))


def test_patching_twice_changes_nothing():
    from llamafactory.hparams import parser
    from llamafactory.train import tuner

    before = (list(parser._TRAIN_ARGS), tuner.run_sft, tuner.read_args)
    patches.patch_parser(parser)
    patches.patch_tuner(tuner)
    assert before == (list(parser._TRAIN_ARGS), tuner.run_sft, tuner.read_args)
