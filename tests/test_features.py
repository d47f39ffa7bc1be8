"""Options of LLaMA-Factory that must keep working, each in a short run whose projection is checked by its own logs."""

import json
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from conftest import WORDS, launcher_environment, logged, make_rows, rank_environment, report, succeeded


FEATURES = {
    "plain": {},
    "no clipping": {"max_grad_norm": 0},
    "no accumulation": {"gradient_accumulation_steps": 1},
    "bf16": {"bf16": True},
    "packing": {"packing": True},
    "neat packing": {"neat_packing": True, "flash_attn": "sdpa"},
    "flash_attn auto": {"flash_attn": "auto"},
    "no gradient checkpointing": {"disable_gradient_checkpointing": True},
    "mask_history": {"mask_history": True},
    "train_on_prompt": {"train_on_prompt": True},
    "labels at padding": {"ignore_pad_token_for_loss": False},
    "streaming": {"streaming": True, "dataloader_num_workers": 1},
    "layer": {"ogpsa_granularity": "layer"},
    "global": {"ogpsa_granularity": "global"},
    "several directions": {"ogpsa_rank": 3, "ogpsa_energy": 0.99, "ogpsa_granularity": "global"},
    "offload": {"ogpsa_offload": True},
    "narrow subspace": {"ogpsa_subspace_dtype": "bfloat16"},
    "small reference batch": {"ogpsa_reference_batch_size": 1},
    "dft loss": {"use_dft_loss": True},
    "sgd": {"optim": "sgd", "learning_rate": 0.1},
    "adafactor": {"optim": "adafactor"},
}


@pytest.mark.parametrize("changes", FEATURES.values(), ids=FEATURES.keys())
def test_feature(toy, run, changes, overlaps):
    run(toy.ogpsa(max_steps=4, **changes))
    assert len(overlaps) == 4 * 2 * changes.get("ogpsa_rank", 1)
    if changes.get("ogpsa_energy", 1) == 1:
        assert max(map(abs, overlaps)) < (5e-3 if "bfloat16" in changes.values() else 1e-6)
    removed = logged(toy, "ogpsa/removed_ratio")
    assert len(removed) == 4 and all(0 < value < 1 for value in removed)
    left = 5e-3 if "bfloat16" in changes.values() else 1e-5  # bfloat16 has 8 significant bits
    if changes.get("ogpsa_energy", 1) == 1:
        for name in ("ref_a", "ref_b"):
            assert all(abs(value) > 1e-5 for value in logged(toy, f"ogpsa/cos/{name}"))
            assert all(abs(value) < left for value in logged(toy, f"ogpsa/cos_after/{name}"))
    assert logged(toy, "ogpsa/refresh_step") == [0, 2]
    assert all(value > 0 for value in logged(toy, "ogpsa/reference_loss/ref_b"))


def test_conflict_mode_removes_conflicts_and_nothing_else(toy, run, overlaps):
    """Right after a refresh no reference loss is raised by the gradient, to first order."""
    changes = {"ogpsa_refresh_steps": 1, "ogpsa_granularity": "global", "learning_rate": 3e-2, "max_steps": 16}
    run(toy.ogpsa(ogpsa_mode="conflict", **changes))
    assert min(overlaps) >= -1e-6 and max(overlaps) > 1e-2, "what helps a reference stays"
    before = list(zip(logged(toy, "ogpsa/cos/ref_a"), logged(toy, "ogpsa/cos/ref_b"), strict=True))
    removed = logged(toy, "ogpsa/removed_ratio")
    conflicts = [min(cosines) < -1e-5 for cosines in before]
    assert any(conflicts) and not all(conflicts), "the run must show both cases for this test to mean anything"
    assert [value > 0 for value in removed] == conflicts


def test_evaluation_and_early_stopping(toy, run):
    run(
        toy.ogpsa(
            max_steps=12,
            val_size=0.2,
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="steps",
            save_steps=1,
            save_total_limit=1,
            learning_rate=0.3,
            early_stopping_steps=1,
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
        )
    )
    state = json.loads((toy.root / "out" / "trainer_state.json").read_text())
    assert state["global_step"] < 12, "the learning rate is far too large: the evaluation loss rises and stops the run"
    assert any("eval_loss" in entry for entry in state["log_history"])


def test_random_numbers_are_left_alone(toy, run, monkeypatch):
    from ogpsa_factory.controller import Controller

    refresh, states = Controller.refresh, []

    def watched(self, step):
        before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
        refresh(self, step)
        states.append(before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()))

    monkeypatch.setattr(Controller, "refresh", watched)
    run(toy.ogpsa(neftune_noise_alpha=5))
    assert states == [True, True, True]


def test_what_a_run_leaves_behind(toy, run):
    run(toy.ogpsa(plot_loss=True, ogpsa_reference_samples=4))
    content = report(toy)
    assert content["arguments"]["ogpsa_refresh_steps"] == 2
    assert [(r["name"], r["rows"]) for r in content["reference_sets"]] == [("ref_a", 4), ("ref_b", 4)]
    assert content["summary"]["refreshes"] == 3
    assert content["run_arguments"]["training"]["learning_rate"] == 1e-2
    card = (toy.root / "out" / "README.md").read_text()
    assert content["reference_sets"][0]["fingerprint"] in card and "ogpsa_granularity: parameter" in card
    assert card.count("## Orthogonal gradient projection") == 1
    for picture in ("training_loss.png", "ogpsa_curves.png"):
        assert (toy.root / "out" / picture).read_bytes().startswith(b"\x89PNG")
    assert not list((toy.root / "out").glob("*.partial"))


NEUTRAL = {
    "tokenized_path": "tokenised",
    "max_samples": 3,
    "train_on_prompt": True,
    "val_size": 0.2,
    "packing": True,
    "neat_packing": True,
}


@pytest.mark.parametrize("option", NEUTRAL)
def test_what_shapes_the_training_set_leaves_reference_sets_alone(toy, run, option):
    value = str(toy.root / "tokenised") if option == "tokenized_path" else NEUTRAL[option]
    run(toy.ogpsa("expected", max_steps=1))
    for _ in range(2):  # a tokenized_path is written the first time and read the second
        run(toy.ogpsa(max_steps=1, **{option: value}))
    assert report(toy)["reference_sets"] == report(toy, "expected")["reference_sets"]
    losses = [logged(toy, "ogpsa/reference_loss/ref_a", name) for name in ("out", "expected")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_padding_takes_no_part_in_reference_losses(toy, run):
    losses = []
    for rows, ignore in ((1, True), (7, True), (1, False), (7, False)):
        run(toy.ogpsa(max_steps=1, ogpsa_reference_batch_size=rows, ignore_pad_token_for_loss=ignore))
        losses += logged(toy, "ogpsa/reference_loss/ref_a")
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)


def test_by_default_a_pass_takes_as_many_tokens_as_a_training_batch_may(toy, run, monkeypatch):
    from ogpsa_factory.llamafactory.trainer import OGPSATrainerMixin

    original, passes = OGPSATrainerMixin.reference_loss, []

    def loss(self, rows):
        lengths = [-(-len(row["input_ids"]) // 8) * 8 for row in rows]
        passes.append((len(rows), len(rows) * max(lengths), max(map(len, self.train_dataset["input_ids"]))))
        return original(self, rows)

    monkeypatch.setattr(OGPSATrainerMixin, "reference_loss", loss)
    toy.write(
        "with_a_long_row", [*make_rows(8, 1), {"instruction": "", "input": "", "output": " ".join(40 * WORDS[:1])}]
    )
    figures = []
    for rows in (2, None):
        passes.clear()
        run(toy.ogpsa(max_steps=1, dataset="with_a_long_row", ogpsa_reference_batch_size=rows))
        figures.append(
            (sum(number for number, _, _ in passes), len(passes), logged(toy, "ogpsa/reference_loss/ref_a"))
        )
        assert all(number <= 2 or tokens <= 2 * longest for number, tokens, longest in passes)
    (rows, many, loss_of_two), (same_rows, few, loss_of_more) = figures
    assert rows == same_rows and few < many
    assert loss_of_more == pytest.approx(loss_of_two, rel=1e-5)


def test_reference_passes_run_in_training_mode(toy, run, monkeypatch):
    """After an evaluation too: in evaluation mode, gradient checkpointing is off."""
    from ogpsa_factory.llamafactory.trainer import OGPSATrainerMixin

    original, modes = OGPSATrainerMixin.reference_loss, []

    def loss(self, rows):
        if self.state.global_step == 0:
            self.model.eval()
        value = original(self, rows)
        modes.append(self.model.training)
        return value

    monkeypatch.setattr(OGPSATrainerMixin, "reference_loss", loss)
    run(toy.ogpsa(max_steps=3))
    assert modes and all(modes)


def test_smaller_batches_are_found_when_reference_passes_run_out_of_memory(toy, run, monkeypatch):
    from ogpsa_factory.llamafactory.trainer import OGPSATrainerMixin

    original, sizes = OGPSATrainerMixin.reference_loss, []

    def loss(self, rows):
        sizes.append(len(rows))
        if len(rows) > 2:
            raise RuntimeError("CUDA out of memory. (simulated)")
        return original(self, rows)

    monkeypatch.setattr(OGPSATrainerMixin, "reference_loss", loss)
    run(toy.ogpsa(max_steps=2, auto_find_batch_size=True, per_device_train_batch_size=8))
    assert sizes[0] > 2 and max(sizes[-4:]) <= 2
    assert logged(toy, "ogpsa/refresh_step") == [0]


def test_model_card_of_plane_mode_says_what_was_kept(toy, run):
    run(toy.ogpsa(max_steps=1, ogpsa_mode="plane"))
    assert "only the part that lies in the span" in (toy.root / "out" / "README.md").read_text()


def test_model_card_of_a_watched_run_claims_no_projection(toy, run):
    run(toy.ogpsa(max_steps=1, ogpsa_monitor_only=True, plot_loss=True, logging_steps=500))
    assert "the updates are those of plain training" in (toy.root / "out" / "README.md").read_text()


def test_a_run_whose_steps_are_projected(toy, run):
    """With any optimizer; its card says so, and what leaks is drawn."""
    run(toy.ogpsa(max_steps=3, ogpsa_project="update", optim="adafactor", plot_loss=True))
    assert "From each step of the optimizer, the part" in (toy.root / "out" / "README.md").read_text()
    assert max(map(abs, logged(toy, "ogpsa/leak/ref_a"))) <= 1e-5
    run(toy.ogpsa("watched", max_steps=3, ogpsa_monitor_only=True, optim="adafactor"))
    assert min(map(abs, logged(toy, "ogpsa/leak/ref_a", "watched"))) > 1e-5


@pytest.mark.parametrize("mode", ["orthogonal", "conflict"])
@pytest.mark.parametrize("what", ["update", "preconditioned"])
def test_steps_of_adapters_and_of_pairs(toy, run, what, mode):
    """LoRA's A is covered from the moment it moves; a step is a step, whatever the stage's loss."""
    own = {"ogpsa_project": what, "ogpsa_mode": mode, "finetuning_type": "lora", "lora_rank": 4, "lora_target": "all"}
    run(toy.dpo(max_steps=4, **own))
    leaks = logged(toy, "ogpsa/leak/ref_a") + logged(toy, "ogpsa/leak/ref_b")
    assert len(leaks) == 8 and max(leaks) <= 1e-5
    assert mode == "conflict" or min(leaks) >= -1e-5


def test_choice_of_rows_follows_the_seed(toy, run):
    prints = []
    for seed in (1, 1, 2):
        run(toy.ogpsa(max_steps=1, ogpsa_seed=seed, ogpsa_reference_samples=3))
        prints.append([r["fingerprint"] for r in report(toy)["reference_sets"]])
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["yaml", "json", "flags", "torchrun", "accelerate"])
def test_command_line(toy, form):
    """The real ``llamafactory-cli``, with settings in each form it takes, and behind other launchers."""
    config = toy.ogpsa(max_steps=2)
    if form == "torchrun":
        config["ddp_backend"] = "gloo"
    if form == "yaml":
        config["stage"] = "ogpsa_sft"
        del config["use_ogpsa"]
    path = toy.root / f"run.{form}"
    if form == "flags":
        arguments = [part for key, value in config.items() for part in (f"--{key}", str(value))]
        arguments += ["--ogpsa_refresh_steps", "1"]
    else:
        path = path.with_suffix(".json" if form == "json" else ".yaml")
        path.write_text(json.dumps(config) if form == "json" else yaml.safe_dump(config))
        arguments = [str(path), "ogpsa_refresh_steps=1"]  # a word after a file overrides it
    tools = os.path.dirname(sys.executable)
    command = [f"{tools}/llamafactory-cli", "train", *arguments]
    if form == "accelerate":
        one_machine = ["--cpu", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no"]
        launch = [f"{tools}/accelerate", "launch", *one_machine, "--dynamo_backend", "no"]
        command = [*launch, "-m", "llamafactory.launcher", *arguments]
    environment = launcher_environment() if form == "torchrun" else rank_environment()
    log = toy.root / "log"
    with log.open("w") as output:
        code = subprocess.run(command, timeout=200, env=environment, stdout=output, stderr=output).returncode
    printed = log.read_text(encoding="utf-8")[-3000:]
    assert succeeded(code, printed), printed
    assert logged(toy, "ogpsa/refresh_step") == [0, 1]
    assert report(toy)["run_arguments"]["training"]["ddp_backend"] == config.get("ddp_backend")


@pytest.mark.slow
def test_help_lists_every_argument():
    from ogpsa_factory.arguments import OGPSAArguments

    cli = os.path.join(os.path.dirname(sys.executable), "llamafactory-cli")
    text = subprocess.run([cli, "train", "-h"], capture_output=True, text=True, timeout=200).stdout
    for name, field in OGPSAArguments.__dataclass_fields__.items():
        assert f"--{name}" in text
        assert " ".join(field.metadata["help"].split()[:4]) in " ".join(text.split())


@pytest.mark.slow
def test_torch_compile(toy, run):
    """Graphs are captured and their backward is compiled; code generation, which takes minutes, adds nothing here."""
    run(toy.ogpsa("eager", max_steps=2, disable_gradient_checkpointing=True))
    compiled = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    run(toy.ogpsa("compiled", max_steps=2, disable_gradient_checkpointing=True, **compiled))
    assert logged(toy, "ogpsa/removed_ratio", "compiled") == pytest.approx(
        logged(toy, "ogpsa/removed_ratio", "eager"), rel=1e-3
    )


@pytest.mark.skipif(
    not os.environ.get("OGPSA_REAL_DATA"), reason="OGPSA_REAL_DATA names no folder with real benchmark rows"
)
def test_real_rows_as_a_reference_set(toy, run):
    """HaluEval's question-answering rows, as they are published, through a column mapping in dataset_info.json."""
    source = os.path.join(os.environ["OGPSA_REAL_DATA"], "halueval", "qa_one-turn_data.json")
    shutil.copy(source, toy.data / "halueval.jsonl")
    toy.write("halueval", [], columns={"prompt": "question", "query": "knowledge", "response": "right_answer"})
    info = json.loads((toy.data / "dataset_info.json").read_text())
    info["halueval"]["file_name"] = "halueval.jsonl"
    (toy.data / "dataset_info.json").write_text(json.dumps(info))
    run(toy.ogpsa(ogpsa_reference_dataset="halueval,ref_b", ogpsa_reference_samples=50, cutoff_len=128, max_steps=3))
    assert report(toy)["reference_sets"][0] | {"fingerprint": None} == {
        "name": "halueval",
        "rows": 50,
        "label_tokens": report(toy)["reference_sets"][0]["label_tokens"],
        "directions": 1,
        "fingerprint": None,
    }
    assert report(toy)["reference_sets"][0]["label_tokens"] > 50
    assert all(abs(value) < 1e-5 for value in logged(toy, "ogpsa/cos_after/halueval"))
