"""DPO, KTO and pre-training: short runs of every kind, and what a reference pass must leave alone in them."""

import json
import shutil

import pytest
import torch
from conftest import logged, make_rows, report


def checked(toy, names, overlaps, steps=4):
    """The gradient that was clipped is orthogonal to the collected references, in a run of four steps with K = 2."""
    assert len(overlaps) == steps * len(names) and max(map(abs, overlaps)) < 1e-6
    removed = logged(toy, "ogpsa/removed_ratio")
    assert len(removed) == steps and all(0 < value < 1 for value in removed)
    for name in names:
        assert all(value > 0 for value in logged(toy, f"ogpsa/reference_loss/{name}"))
        assert max(map(abs, logged(toy, f"ogpsa/cos_after/{name}"))) < 1e-5
    assert logged(toy, "ogpsa/refresh_step") == [0, 2]


LOSSES = [(pref_loss, "sft") for pref_loss in ("sigmoid", "hinge", "ipo", "kto_pair", "orpo", "simpo")]
LOSSES += [(pref_loss, other) for pref_loss in ("sigmoid", "simpo") for other in ("preference", "lm_both")]


@pytest.mark.parametrize("pref_loss,reference_loss", LOSSES)
def test_dpo(toy, run, messages, overlaps, pref_loss, reference_loss):
    own = {"ogpsa_reference_loss": reference_loss, "ogpsa_reference_dataset": "pairs_a,pairs_b"}
    run(toy.dpo(pref_loss=pref_loss, max_steps=4, **own))
    checked(toy, ["pairs_a", "pairs_b"], overlaps)
    assert ("is not what is computed" in messages()) == (pref_loss in ("hinge", "ipo", "kto_pair"))
    if (pref_loss, reference_loss) == ("sigmoid", "preference"):
        before = logged(toy, "ogpsa/reference_loss/pairs_a")[0]
        assert before == pytest.approx(torch.log(torch.tensor(2.0)).item(), rel=1e-5), "policy and reference are one"


OPTIONS = {
    "bf16": {"bf16": True},
    "pref_ftx": {"pref_ftx": 0.5},
    "bco": {"pref_bco_weight": 0.5},
    "label smoothing": {"dpo_label_smoothing": 0.1},
    "ld_alpha": {"ld_alpha": 0.5},
    "no accumulation": {"gradient_accumulation_steps": 1},
    "freeze": {"finetuning_type": "freeze", "freeze_trainable_layers": 1},
    "global": {"ogpsa_granularity": "global"},
    "several directions": {"ogpsa_rank": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS.keys())
def test_options_of_dpo(toy, run, overlaps, changes):
    sets = {"ogpsa_reference_loss": "preference", "ogpsa_reference_dataset": "pairs_a,pairs_b"}
    run(toy.dpo(max_steps=4, **sets, **changes))
    checked(toy, ["pairs_a", "pairs_b"] * changes.get("ogpsa_rank", 1), overlaps)
    assert report(toy)["arguments"]["ogpsa_reference_loss"] == "preference"


def test_k_is_5_by_default_in_dpo_and_kto_and_30_else():
    from ogpsa_factory.arguments import OGPSAArguments

    for stage, expected in {"sft": 30, "pt": 30, "dpo": 5, "kto": 5}.items():
        arguments = OGPSAArguments(use_ogpsa=True, ogpsa_reference_dataset="a")
        arguments.validate_ogpsa(stage)
        assert arguments.refresh_steps == expected


def with_labels(toy):
    columns = {"prompt": "instruction", "query": "input", "response": "output", "kto_tag": "good"}
    toy.write("labelled", [{**row, "good": i % 2 == 0} for i, row in enumerate(make_rows(40, 7))], columns=columns)


def with_text(toy):
    rows = [{"text": f"{row['instruction']} {row['output']}"} for row in make_rows(40, 8)]
    toy.write("text", rows, columns={"prompt": "text"})
    toy.write("text_ref", rows[:6], columns={"prompt": "text"})


def test_kto(toy, run, overlaps):
    with_labels(toy)
    config = toy.ogpsa(stage="ogpsa_kto", dataset="labelled", max_steps=4, ogpsa_reference_dataset="ref_a,pairs_b")
    run({key: value for key, value in config.items() if key != "use_ogpsa"})
    checked(toy, ["ref_a", "pairs_b"], overlaps)


def test_pre_training(toy, run, overlaps):
    """Plain text is a reference set too: cross-entropy on all of it."""
    with_text(toy)
    config = toy.ogpsa(stage="ogpsa_pt", dataset="text", max_steps=4, ogpsa_reference_dataset="text_ref,ref_a")
    run({key: value for key, value in config.items() if key != "use_ogpsa"})
    checked(toy, ["text_ref", "ref_a"], overlaps)
    words = sum(len(row["text"].split()) for row in json.loads((toy.data / "text_ref.json").read_text()))
    assert report(toy)["reference_sets"][0]["label_tokens"] == words, "all but the first token, and the end mark"


def test_chosen_answers_are_the_answers(toy, run):
    """A preference set and its chosen answers as prompts with one answer give the same gradient."""
    rows = json.loads((toy.data / "pairs_a.json").read_text())
    toy.write("chosen_a", [{"instruction": r["instruction"], "input": "", "output": r["chosen"]} for r in rows])
    run(toy.ogpsa("pairs", ogpsa_reference_dataset="pairs_a"))
    run(toy.ogpsa("chosen", ogpsa_reference_dataset="chosen_a"))
    ours, expected = toy.weights("pairs"), toy.weights("chosen")
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


# Weights must not change, and neither must what the stage stores for its log entries.
WATCHED = {
    "sigmoid": {"pref_loss": "sigmoid"},
    "simpo": {"pref_loss": "simpo"},
    "bco": {"pref_loss": "sigmoid", "pref_bco_weight": 0.5},
    "lora": {"pref_loss": "sigmoid", "finetuning_type": "lora", "lora_rank": 4, "lora_target": "all"},
}


@pytest.mark.parametrize("reference_loss", ["sft", "preference"])
@pytest.mark.parametrize("changes", WATCHED.values(), ids=WATCHED.keys())
def test_collecting_pollutes_neither_weights_nor_stored_metrics(toy, run, changes, reference_loss):
    """Reference passes with adapters switched off, stored rewards and running means are those of a plain run."""
    watch = {"ogpsa_monitor_only": True, "ogpsa_refresh_steps": 1, "ogpsa_reference_loss": reference_loss}
    evaluate = {"val_size": 0.2, "eval_strategy": "steps", "eval_steps": 3}
    run(toy.dpo("plain", use_ogpsa=False, **evaluate, **changes))
    run(toy.dpo("watch", ogpsa_reference_dataset="pairs_a,pairs_b", **watch, **evaluate, **changes))

    def history(output):
        state = json.loads((toy.root / output / "trainer_state.json").read_text())
        timed = ("runtime", "per_second")
        entries = [
            {key: value for key, value in entry.items() if not key.startswith("ogpsa/") and not key.endswith(timed)}
            for entry in state["log_history"]
        ]
        return [entry for entry in entries if len(entry) > 2 and "train_loss" not in entry]

    assert history("watch") == history("plain")
    keys = {key for entry in history("plain") for key in entry}
    assert {"rewards/chosen", "rewards/margins", "logps/rejected", "eval_rewards/accuracies"} <= keys
    name = "adapter_model.safetensors" if "lora_rank" in changes else "model.safetensors"
    assert (toy.root / "watch" / name).read_bytes() == (toy.root / "plain" / name).read_bytes()
    assert len(logged(toy, "ogpsa/reference_loss/pairs_a", "watch")) == 6


@pytest.mark.parametrize("stage", ["kto", "pt"])
def test_kto_and_pre_training_are_watched_and_resumed_exactly(toy, run, stage):
    with_labels(toy)
    with_text(toy)
    dataset = {"kto": "labelled", "pt": "text"}[stage]
    own = {"stage": stage, "dataset": dataset, "ogpsa_refresh_steps": 4, "overwrite_output_dir": False}
    run(toy.ogpsa("plain", use_ogpsa=False, **own))
    run(toy.ogpsa("watch", ogpsa_monitor_only=True, **own))
    run(toy.ogpsa("whole", save_strategy="steps", save_steps=3, **own))
    shutil.copytree(toy.root / "whole" / "checkpoint-3", toy.root / "out" / "checkpoint-3")
    run(toy.ogpsa("out", **own))
    for a, b, equal in (("watch", "plain", True), ("out", "whole", True), ("whole", "plain", False)):
        ours, theirs = toy.weights(a), toy.weights(b)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs) == equal, (a, b)


def test_model_card_and_curves(toy, run):
    run(toy.dpo(plot_loss=True, max_steps=3))
    assert "## Orthogonal gradient projection (OGPSA)" in (toy.root / "out" / "README.md").read_text()
    assert (toy.root / "out" / "ogpsa_curves.png").exists()
    assert (toy.root / "out" / "training_rewards_accuracies.png").exists()


def test_the_next_run_may_be_plain(toy, run):
    """The trainer's class is replaced for one run only."""
    from llamafactory.train.dpo import trainer

    before = trainer.CustomDPOTrainer
    run(toy.dpo(max_steps=1))
    assert trainer.CustomDPOTrainer is before
    run(toy.dpo("plain", use_ogpsa=False, max_steps=1))
    assert not (toy.root / "plain" / "ogpsa_report.json").exists()
