"""The released code's command lines run unchanged, and mean what they mean there."""

import os
import subprocess
import sys

import oracle
import pytest
import torch
import yaml
from conftest import PAIRS, logged, make_pairs, make_rows, report, torchrun
from torch.utils.data import DistributedSampler

from ogpsa_factory import OGPSAError
from ogpsa_factory.cli import main
from ogpsa_factory.released import ONCE, translate


SFT = {"stage": "sft_pg", "base_dataset": "a,b", "base_num_samples": 100, "base_num_steps": 30}
DPO = {**SFT, "stage": "dpo_pg", "base_dataset": "a", "base_num_steps": 5}
COMMON = {
    "ogpsa_reference_samples": 100,
    "ogpsa_reference_selection": "first",
    "ogpsa_reference_average": "batch",
    "ogpsa_granularity": "parameter",
    "ogpsa_tolerance": 5e-7,
}


def test_translation():
    config, notes = translate({"learning_rate": 1e-6, **SFT, "base_method": "orthogonal_projection", "bf16": True})
    expected = {"ogpsa_reference_dataset": "a,b", "ogpsa_refresh_steps": 30, "ogpsa_mode": "orthogonal", **COMMON}
    assert config == {"learning_rate": 1e-6, "stage": "ogpsa_sft", "bf16": True, **expected}
    assert list(config)[:2] == ["learning_rate", "stage"] and list(config)[-1] == "bf16" and not notes
    config, notes = translate(DPO)
    own = {"ogpsa_reference_dataset": "a", "ogpsa_refresh_steps": 5, "ogpsa_mode": "orthogonal"}
    assert config == {"stage": "ogpsa_dpo", "ogpsa_reference_loss": "lm_both", **own, **COMMON} and not notes


@pytest.mark.parametrize(
    "flags,new,note",
    [
        ({**SFT, "base_threshold": 0}, {"ogpsa_mode": "orthogonal"}, "base_threshold has no effect"),
        ({**SFT, "base_scale": 0.5}, {"ogpsa_mode": "orthogonal"}, "base_scale is ignored"),
        ({**SFT, "base_dataset": "a, b,c"}, {"ogpsa_reference_dataset": "a,b,c"}, "would use a and b only"),
        ({**SFT, "base_dataset": ["a", "b"]}, {"ogpsa_reference_dataset": "a,b"}, None),
        ({**SFT, "base_num_steps": None}, {"ogpsa_refresh_steps": ONCE}, None),
        ({**SFT, "base_num_steps": 0}, {"ogpsa_refresh_steps": ONCE}, None),
        ({**SFT, "base_method": "plane_projection"}, {"ogpsa_mode": "plane"}, None),
        ({**SFT, "base_method": "both"}, {"ogpsa_monitor_only": True}, "changes no gradient"),
        ({**DPO, "base_method": "plane_projection"}, {"ogpsa_monitor_only": True}, "with 1 set changes no gradient"),
        ({**SFT, "base_method": "threshold"}, {"ogpsa_mode": "orthogonal"}, "is orthogonal_projection"),
        (
            {**DPO, "base_dataset": "a,b", "base_method": "threshold"},
            {"ogpsa_monitor_only": True},
            "with 2 sets changes no gradient in the released code's DPO",
        ),
        (
            {**DPO, "base_method": "threshold", "base_scale": 0.5},
            {"ogpsa_mode": "conflict", "ogpsa_aligned_scale": 0.5},
            "once per optimizer step",
        ),
        ({"stage": "sft_pg", "base_num_steps": 5}, {"stage": "sft"}, "no base_dataset, so this is a plain run"),
        ({"stage": "sft", "base_dataset": "a"}, {"stage": "sft"}, "base_dataset is ignored"),
        ({"stage": "sft", "bf16": True}, {"bf16": True}, None),
    ],
)
def test_every_flag(flags, new, note):
    config, notes = translate(flags)
    assert {name: config.get(name) for name in new} == new
    assert not any(name.startswith("base_") or value in ("sft_pg", "dpo_pg") for name, value in config.items())
    assert not notes if note is None else any(note in sentence for sentence in notes)


@pytest.mark.parametrize("changes", [{"ogpsa_rank": 2}, {"use_ogpsa": True}, {"stage": "sft", "use_ogpsa": True}])
def test_mixing_shows_the_translation(changes):
    with pytest.raises(OGPSAError, match=r"cannot be mixed(.|\n)*ogpsa_reference_dataset: a,b\n.*samples: 100"):
        translate({**SFT, **changes})


@pytest.mark.parametrize("form", ["dictionary", "flags"])
def test_even_a_default_of_ours_beside_old_flags_is_mixing(form):
    """What was given is known only before the arguments become a dataclass."""
    from llamafactory.train import tuner

    given = {"stage": "sft_pg", "base_dataset": "ref_a", "ogpsa_reference_selection": "random"}
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    with pytest.raises(OGPSAError, match="cannot be mixed"):
        tuner.read_args(given if form == "dictionary" else words)


def test_mixing_stops_a_run(run, toy):
    config = toy.config(stage="sft_pg", base_dataset="ref_a", base_num_samples=7, ogpsa_rank=2)
    with pytest.raises(OGPSAError, match="cannot be mixed"):
        run(config)
    with pytest.raises(OGPSAError, match="base_method: orthogonal is not possible; it must be one of orth"):
        run(toy.config(stage="sft_pg", base_dataset="ref_a", base_method="orthogonal"))


def test_translate_prints_the_file(tmp_path, capsys):
    old = tmp_path / "old.yaml"
    old.write_text(yaml.safe_dump({**SFT, "base_threshold": 0, "output_dir": "saves/x"}))
    assert main(["translate", str(old), "base_num_steps=7", "learning_rate=1.0e-6"]) == 0
    printed = capsys.readouterr()
    config = yaml.safe_load(printed.out)
    assert (config["stage"], config["ogpsa_refresh_steps"], config["learning_rate"]) == ("ogpsa_sft", 7, 1e-6)
    assert config["output_dir"] == "saves/x" and "base_threshold has no effect" in printed.err


def test_translate_takes_a_command_line(capsys):
    flags = "--stage dpo_pg --base_dataset a --base_num_samples 200 --bf16 True --do_train --learning_rate 1e-06"
    assert main(["translate", "llamafactory-cli", "train", *flags.split()]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["stage"] == "ogpsa_dpo" and config["ogpsa_reference_samples"] == 200
    assert config["bf16"] is True and config["do_train"] is True and float(config["learning_rate"]) == 1e-6


WRONG = [
    ["no.yaml"],
    ["--stage"],
    ["x"],
    [],
    ["--stage", "sft_pg", "--base_dataset", "a", "--base_method", "threshold", "--base_scale", "much"],
    ["--stage", "sft_pg", "--base_dataset", "a", "--base_num_samples", "many"],
    ["--stage", "sft_pg", "--template", "{x"],
]


@pytest.mark.parametrize("words", WRONG)
def test_translate_says_what_is_wrong(words, capsys):
    assert main(["translate", *words]) == 1
    assert "ogpsa: " in capsys.readouterr().err


def write_sets(toy):
    """More rows than are asked for, and answers of very different lengths."""
    for name, make, entry in (("first", make_rows, {}), ("pairs_first", make_pairs, PAIRS)):
        rows = make(16, seed=11)
        for i, row in enumerate(rows):
            key = "output" if "output" in row else "chosen"
            row[key] = " ".join([row[key]] * (1 + i % 4))
        toy.write(name, rows, **entry)


def batches_of_ranks(rows, ranks, size=2):
    for rank in range(ranks):
        order = list(DistributedSampler(rows, num_replicas=ranks, rank=rank, shuffle=True))
        yield from ([rows[i] for i in order[n : n + size]] for n in range(0, len(order), size))


CASES = {
    "sft_pg": {"stage": "sft_pg", "base_dataset": "first"},
    "dpo_pg": {"stage": "dpo_pg", "dataset": "pairs", "base_dataset": "pairs_first"},
}


@pytest.mark.parametrize("stage", CASES)
def test_reference_gradient_is_that_of_the_released_code(toy, run, monkeypatch, stage):
    from ogpsa_factory import controller

    collected = []
    collect = controller.collect_gradient

    def collecting(*args):
        gradients, loss = collect(*args)
        collected.append([g.clone() for g in gradients])
        return gradients, loss

    monkeypatch.setattr(controller, "collect_gradient", collecting)
    write_sets(toy)
    run(toy.config(base_num_samples=13, base_num_steps=2, max_steps=2, **CASES[stage]))
    model, rows = oracle.base_model(toy.root), oracle.read(toy.root, CASES[stage]["base_dataset"])[:13]
    gradients = [oracle.mean_gradient(model, batch, "lm_both", model) for batch in batches_of_ranks(rows, ranks=1)]
    expected = [sum(each) / len(gradients) for each in zip(*gradients, strict=True)]
    for ours, theirs in zip(collected[0], expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-7)
    other = oracle.mean_gradient(model, rows, "lm_both", model)
    assert not all(torch.allclose(a, b, rtol=1e-2, atol=1e-6) for a, b in zip(other, expected, strict=True))
    assert report(toy)["arguments"]["ogpsa_reference_average"] == "batch"


def test_flags_and_their_translation_are_the_same_run(toy, run):
    write_sets(toy)
    old = toy.config("old", base_num_samples=13, base_num_steps=2, **CASES["dpo_pg"])
    run(old)
    run({**translate(old)[0], "output_dir": str(toy.root / "new")})
    ours, theirs = toy.weights("old"), toy.weights("new")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_idle_arguments_are_reported_in_every_stage(toy, run, messages):
    run(toy.config(stage="rm", dataset="pairs", max_steps=1, base_dataset="ref_a"))
    assert "base_dataset is ignored" in messages()
    run(toy.config(stage="rm", dataset="pairs", max_steps=1, ogpsa_reference_dataset="ref_a"))
    assert "use_ogpsa is off, so ogpsa_reference_dataset is ignored" in messages()


def test_notes_are_said_and_a_plain_run_stays_plain(toy, run, messages):
    run(toy.config(stage="sft_pg", max_steps=1, base_threshold=0.5, base_num_steps=3))
    assert "base_threshold has no effect" in messages() and "this is a plain run" in messages()
    assert not (toy.root / "out" / "ogpsa_report.json").exists()


@pytest.mark.slow
def test_the_released_command_line(toy):
    """As it stands in that code's README, but for paths, sizes and DeepSpeed; in one process, which crashes there."""
    write_sets(toy)
    line = f"""llamafactory-cli train --stage sft_pg --do_train True --model_name_or_path {toy.root}/model
        --preprocessing_num_workers 1 --finetuning_type full --template chatml --flash_attn auto
        --dataset_dir {toy.data} --dataset safety --cutoff_len 64 --learning_rate 1e-03 --num_train_epochs 1.0
        --max_samples 100000 --per_device_train_batch_size 4 --gradient_accumulation_steps 4
        --lr_scheduler_type cosine --max_grad_norm 1.0 --logging_steps 1 --save_only_model True --save_strategy epoch
        --warmup_steps 0 --report_to none --output_dir {toy.root}/out --bf16 True --plot_loss True
        --trust_remote_code True --ddp_timeout 180000000 --include_num_input_tokens_seen True --optim adamw_torch
        --base_dataset first,ref_b --base_num_samples 13 --base_num_steps 30 --base_method orthogonal_projection
        --base_threshold 0 --use_cpu True"""
    words = line.split()
    words[0] = os.path.join(os.path.dirname(sys.executable), words[0])
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "base_threshold has no effect" in done.stdout + done.stderr
    assert logged(toy, "ogpsa/refresh_step") == [0]
    assert report(toy)["reference_sets"][0]["rows"] == 13


@pytest.mark.slow
def test_two_ranks(toy):
    """The ranks' batches are those of the released code's sampler, and the mean is over all of them."""
    write_sets(toy)
    torchrun(toy, [toy.config(base_num_samples=13, max_steps=1, **CASES["sft_pg"])])
    model, rows = oracle.base_model(toy.root), oracle.read(toy.root, "first")[:13]
    means = []
    for batch in batches_of_ranks(rows, ranks=2):
        with torch.no_grad():
            summed = sum(float(oracle.summed_loss(model, row[0])) for row in batch)
        means.append(summed / sum(oracle.label_tokens(row[0]) for row in batch))
    assert logged(toy, "ogpsa/reference_loss/first")[0] == pytest.approx(sum(means) / len(means), rel=1e-5)
