"""The trainer and an independent, obvious implementation end with the same weights."""

import oracle
import pytest
import torch
from conftest import save_toy_model, torchrun
from peft import LoraConfig, PeftModel, get_peft_model


STEPS = 5
LIMIT = {"sgd": 1e-6, "adamw_torch": 1e-4}  # of the distance travelled
LEARNING_RATE = {"sgd": 0.5, "adamw_torch": 1e-2}
CASES = [(granularity, optimizer) for granularity in ("parameter", "global") for optimizer in LIMIT]

# Reference sets of the DPO stage may be prompts with an answer, or pairs of which the chosen answer is taken.
PREFERENCES = {
    "sigmoid": {"pref_loss": "sigmoid", "ogpsa_reference_dataset": "ref_a,pairs_b"},
    "sigmoid on pairs": {
        "pref_loss": "sigmoid",
        "ogpsa_reference_dataset": "pairs_a,pairs_b",
        "ogpsa_reference_loss": "preference",
    },
    "simpo": {"pref_loss": "simpo", "ogpsa_reference_dataset": "ref_a,pairs_b"},
    "simpo on pairs": {
        "pref_loss": "simpo",
        "ogpsa_reference_dataset": "pairs_a,pairs_b",
        "ogpsa_reference_loss": "preference",
    },
    "lm_both": {"pref_loss": "sigmoid", "ogpsa_reference_dataset": "pairs_a", "ogpsa_reference_loss": "lm_both"},
}


def config(toy, granularity, optimizer, output="out", **changes):
    return toy.ogpsa(
        output,
        ogpsa_granularity=granularity,
        ogpsa_reference_batch_size=3,
        optim=optimizer,
        learning_rate=LEARNING_RATE[optimizer],
        max_grad_norm=0.5,
        max_steps=STEPS,
        disable_shuffling=True,
        **changes,
    )


def dpo(toy, optimizer, changes, output="out"):
    stage = {"stage": "dpo", "dataset": "pairs", "pref_beta": oracle.BETA, "simpo_gamma": oracle.GAMMA}
    return config(toy, "parameter", optimizer, output, **stage, **changes)


def expected_weights(toy, granularity, optimizer, ranks=1, **kind):
    return oracle.train(
        toy.root,
        granularity=granularity,
        optimizer=optimizer,
        rows_per_step=4 * ranks,
        steps=STEPS,
        refresh=2,
        clip=0.5,
        lr=LEARNING_RATE[optimizer],
        **kind,
    )


def expected_preferences(toy, optimizer, changes, ranks=1, **kind):
    return expected_weights(
        toy,
        "parameter",
        optimizer,
        ranks,
        loss=changes["pref_loss"],
        reference_loss=changes.get("ogpsa_reference_loss", "sft"),
        dataset="pairs",
        references=tuple(changes["ogpsa_reference_dataset"].split(",")),
        **kind,
    )


def relative_error(toy, expected, output="out"):
    return oracle.distance(toy.weights(output), expected) / oracle.distance(toy.weights("model"), expected)


@pytest.mark.parametrize("granularity,optimizer", CASES)
def test_one_process(toy, run, granularity, optimizer):
    run(config(toy, granularity, optimizer))
    assert relative_error(toy, expected_weights(toy, granularity, optimizer)) <= LIMIT[optimizer]


@pytest.mark.parametrize("granularity", ["parameter", "layer", "global"])
@pytest.mark.parametrize("what", ["update", "preconditioned"])
def test_the_realised_step(toy, run, granularity, what):
    """Behind clipping, momentum, AdamW's scaling and weight decay."""
    run(config(toy, granularity, "adamw_torch", ogpsa_project=what, weight_decay=0.5))
    expected = expected_weights(toy, granularity, "adamw_torch", what=what, decay=0.5)
    assert relative_error(toy, expected) <= 1e-5
    for other in ({"what": what}, {"what": "gradient", "decay": 0.5}):  # without decay; not the step
        assert relative_error(toy, expected_weights(toy, granularity, "adamw_torch", **other)) > 1e-3


@pytest.mark.parametrize(("what", "momentum"), [("update", "step"), ("preconditioned", "refresh")])
def test_the_first_moment(toy, run, what, momentum):
    run(config(toy, "global", "adamw_torch", ogpsa_project=what, ogpsa_project_momentum=momentum))
    expected = expected_weights(toy, "global", "adamw_torch", what=what, momentum=momentum)
    assert relative_error(toy, expected) <= 1e-4
    for other in {"never", "refresh", "step"} - {momentum}:
        other_weights = expected_weights(toy, "global", "adamw_torch", what=what, momentum=other)
        assert relative_error(toy, other_weights) > 1e-3, other


@pytest.mark.parametrize("optimizer", LIMIT)
@pytest.mark.parametrize("changes", PREFERENCES.values(), ids=PREFERENCES.keys())
def test_preferences(toy, run, optimizer, changes):
    run(dpo(toy, optimizer, changes))
    assert relative_error(toy, expected_preferences(toy, optimizer, changes)) <= LIMIT[optimizer]


def test_tied_embeddings(toy, run):
    """A tensor with two roles is one parameter with one, summed, gradient."""
    save_toy_model(toy.root / "model", tie_word_embeddings=True)
    run(config(toy, "parameter", "sgd"))
    assert relative_error(toy, expected_weights(toy, "parameter", "sgd")) <= LIMIT["sgd"]


def test_the_comparison_can_fail(toy, run):
    """Without projection, or with the other granularity, the weights are far from the oracle's."""
    expected = expected_weights(toy, "parameter", "sgd")
    for changes in ({"use_ogpsa": False}, {"ogpsa_granularity": "global"}):
        run({**config(toy, "parameter", "sgd"), **changes})
        assert relative_error(toy, expected) > 1e-3
    run(dpo(toy, "sgd", {**PREFERENCES["sigmoid on pairs"], "ogpsa_reference_loss": "sft"}))
    assert relative_error(toy, expected_preferences(toy, "sgd", PREFERENCES["sigmoid on pairs"])) > 1e-3


ADAPTER = {"finetuning_type": "lora", "lora_rank": 4, "lora_target": "q_proj,v_proj,down_proj"}


@pytest.fixture
def adapter(toy):
    """A fresh adapter on disk: A random, B zero."""
    torch.manual_seed(3)
    settings = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=ADAPTER["lora_target"].split(","))
    get_peft_model(oracle.base_model(toy.root), settings).save_pretrained(toy.root / "adapter")

    def load():
        return PeftModel.from_pretrained(oracle.base_model(toy.root), toy.root / "adapter", is_trainable=True)

    def error(expected, output="out"):
        from safetensors.torch import load_file

        short = {name.replace(".default", ""): weight for name, weight in expected.items()}
        ours, start = (load_file(toy.root / o / "adapter_model.safetensors") for o in (output, "adapter"))
        return oracle.distance(ours, short) / oracle.distance(start, short)

    return load, error


@pytest.mark.parametrize("granularity,optimizer", CASES)
def test_lora(toy, run, adapter, granularity, optimizer):
    load, error = adapter
    run(config(toy, granularity, optimizer, adapter_name_or_path=str(toy.root / "adapter"), **ADAPTER))
    assert error(expected_weights(toy, granularity, optimizer, model=load())) <= LIMIT[optimizer]


@pytest.mark.parametrize("what", ["update", "preconditioned"])
def test_realised_steps_of_adapters(toy, run, adapter, what):
    """A is covered from the moment it moves, by a refresh out of turn."""
    load, error = adapter
    own = {"ogpsa_project": what, "weight_decay": 0.5, "adapter_name_or_path": str(toy.root / "adapter"), **ADAPTER}
    run(config(toy, "global", "adamw_torch", **own))
    assert error(expected_weights(toy, "global", "adamw_torch", model=load(), what=what, decay=0.5)) <= 1e-4
    assert error(expected_weights(toy, "global", "adamw_torch", model=load(), decay=0.5)) > 1e-3


def test_lora_preferences(toy, run, adapter):
    """The reference policy is the model without its adapter, which is how the oracle's adapter starts: B = 0."""
    load, error = adapter
    changes = PREFERENCES["sigmoid on pairs"]
    run(dpo(toy, "adamw_torch", {**changes, **ADAPTER, "adapter_name_or_path": str(toy.root / "adapter")}))
    assert error(expected_preferences(toy, "adamw_torch", changes, model=load())) <= LIMIT["adamw_torch"]


@pytest.mark.slow
def test_two_ranks(toy, adapter):
    """All cases in one pair of processes, as starting LLaMA-Factory takes longest."""
    load, error = adapter
    chosen = {name: PREFERENCES[name] for name in ("sigmoid", "simpo on pairs")}
    runs = [config(toy, *case, output="-".join(case)) for case in CASES]
    runs += [dpo(toy, "adamw_torch", changes, output=name) for name, changes in chosen.items()]
    lora = {**ADAPTER, "adapter_name_or_path": str(toy.root / "adapter")}
    runs.append(config(toy, "parameter", "adamw_torch", "lora", **lora))
    steps = ("update", "preconditioned")
    runs += [config(toy, "layer", "adamw_torch", what, ogpsa_project=what, weight_decay=0.5) for what in steps]
    torchrun(toy, runs)
    for what in steps:
        expected = expected_weights(toy, "layer", "adamw_torch", ranks=2, what=what, decay=0.5)
        assert relative_error(toy, expected, output=what) <= LIMIT["adamw_torch"], what
    for case in CASES:
        expected = expected_weights(toy, *case, ranks=2)
        assert relative_error(toy, expected, output="-".join(case)) <= LIMIT[case[1]], case
    for name, changes in chosen.items():
        expected = expected_preferences(toy, "adamw_torch", changes, ranks=2)
        assert relative_error(toy, expected, output=name) <= LIMIT["adamw_torch"], name
    expected = expected_weights(toy, "parameter", "adamw_torch", ranks=2, model=load())
    assert error(expected, "lora") <= LIMIT["adamw_torch"]
