"""Every DeepSpeed engine on two gloo ranks: leaves no trace, equals one process, resumes exactly.

All runs of a kind share one pair of processes, as starting LLaMA-Factory takes longest. They are made once per module.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import oracle
import psutil
import pytest
import torch
import yaml
from conftest import Toy, launcher_environment, logged, make_toy, save_toy_model, succeeded, torchrun
from safetensors.torch import load_file
from test_parity import LEARNING_RATE, LIMIT, STEPS

from ogpsa_factory.footprint import predict


pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow


def deepspeed(stage, optimizer_on_host=False, parameters_on_host=False, sums=None, **zero):
    """A configuration with buckets that are small enough for the toy model to need several."""
    host = {"device": "cpu", "pin_memory": False}
    zero = {
        "stage": stage,
        "overlap_comm": False,
        "reduce_bucket_size": 5000,
        "stage3_prefetch_bucket_size": 100,
        "stage3_param_persistence_threshold": 10,
        "stage3_gather_16bit_weights_on_model_save": True,
        **({"offload_optimizer": host} if optimizer_on_host else {}),
        **({"offload_param": host} if parameters_on_host else {}),
        **zero,
    }
    auto = "train_micro_batch_size_per_gpu gradient_accumulation_steps gradient_clipping".split()
    return {
        **dict.fromkeys(auto, "auto"),
        "bf16": {"enabled": "auto"},
        # A scale that is too large for references and training alike, and grows again while training goes on.
        "fp16": {"enabled": "auto", "initial_scale_power": 22, "loss_scale_window": 3, "hysteresis": 1},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
        **({"data_types": {"grad_accum_dtype": sums}} if sums else {}),
    }


ENGINES = {
    "zero0": deepspeed(0),
    "zero1": deepspeed(1),
    "zero2": deepspeed(2),
    "zero3": deepspeed(3),
    "zero1 offload": deepspeed(1, True),
    "zero2 offload": deepspeed(2, True),
    "zero3 offload": deepspeed(3, True),
    "zero3 offload all": deepspeed(3, True, True),
    "zero2 round robin": deepspeed(2, round_robin_gradients=True, overlap_comm=True),
}
BFLOAT16 = {
    "zero0": deepspeed(0),
    "BF16_Optimizer": deepspeed(1, sums="fp32"),
    "zero1": deepspeed(1),
    "zero2": deepspeed(2),
    "zero2 sums in float32": deepspeed(2, sums="fp32"),
    "zero2 offload": deepspeed(2, True, sums="fp32"),
    "zero3": deepspeed(3),
    "zero3 offload": deepspeed(3, True),
    "zero3 offload all": deepspeed(3, True, True),
}
FLOAT16 = {each: ENGINES[each] for each in ("zero0", "zero1", "zero2", "zero2 offload", "zero3", "zero3 offload")}

# Together: one and two passes per step, one and two reference sets, sets of uneven length and of a single row (the
# second rank has none), every granularity.
PARITY = {
    "sgd": {"optim": "sgd", "gradient_accumulation_steps": 2, "ogpsa_reference_dataset": "ref_a,ref_b"},
    "adamw": {
        "optim": "adamw_torch",
        "gradient_accumulation_steps": 1,
        "ogpsa_reference_dataset": "ref_single",
        "ogpsa_granularity": "global",
    },
    "layer": {
        "optim": "adamw_torch",
        "gradient_accumulation_steps": 2,
        "ogpsa_reference_dataset": "ref_a,ref_single",
        "ogpsa_granularity": "layer",
    },
    "update": {
        "optim": "adamw_torch",
        "gradient_accumulation_steps": 2,
        "ogpsa_reference_dataset": "ref_a,ref_b",
        "ogpsa_granularity": "global",
        "ogpsa_project": "update",
        "weight_decay": 0.5,
    },
    "preconditioned": {
        "optim": "adamw_torch",
        "gradient_accumulation_steps": 1,
        "ogpsa_reference_dataset": "ref_a,ref_single",
        "ogpsa_project": "preconditioned",
        "weight_decay": 0.5,
    },
    "moments": {
        "optim": "adamw_torch",
        "gradient_accumulation_steps": 1,
        "ogpsa_reference_dataset": "ref_a,ref_b",
        "ogpsa_granularity": "layer",
        "ogpsa_project": "preconditioned",
        "ogpsa_project_momentum": "step",
    },
}
STEPPED = ("update", "preconditioned")
FULL = [engine for engine in ENGINES if engine != "zero2 round robin"]  # whose only difference is where pieces lie
CASES = [(engine, "sgd") for engine in ENGINES] + [(engine, "adamw") for engine in FULL]
CASES += [("zero2", "layer"), ("zero3", "layer")]
CASES += [(engine, what) for engine in ENGINES for what in STEPPED]
CASES += [(engine, "moments") for engine in ("zero1 offload", "zero2", "zero3")]
SET_ASIDE = ["zero1 offload", "zero2", "zero3", "zero3 offload"]

LORA = {"finetuning_type": "lora", "lora_rank": 4, "lora_target": "all", "lora_dropout": 0.1}
LORA_REFRESH = 5

# 40 rows are not a multiple of 2 ranks x 2 rows x 3 passes: transformers leaves gradients to the next epoch.
WATCHED = {
    "left over": {
        "gradient_accumulation_steps": 3,
        "streaming": True,
        "dataloader_num_workers": 1,
        "max_steps": 9,
        "accelerator_config": {"dispatch_batches": False},
    },
    "one pass": {"gradient_accumulation_steps": 1, "ogpsa_reference_dataset": "ref_single"},
}
WATCH = {"ogpsa_monitor_only": True, "ogpsa_refresh_steps": 1}
# Looks, too: before a step that is due, and after each refresh, also after the one that A's first gradient leads to.
LOOK = {"ogpsa_refresh": "adaptive", "ogpsa_refresh_threshold": 1e-4}


def name_of(*words):
    return "-".join(word.replace(" ", "_") for word in words)


def parity_config(toy, engine, case):
    changes = {"ogpsa_granularity": "parameter", **PARITY[case]}
    return toy.ogpsa(
        name_of(engine, case),
        deepspeed=ENGINES[engine],
        ogpsa_reference_batch_size=3,
        learning_rate=LEARNING_RATE[changes["optim"]],
        max_grad_norm=0.5,
        max_steps=STEPS,
        disable_shuffling=True,
        **changes,
    )


def killed_config(toy):
    """Long enough to be killed, refreshed out of step with its checkpoints."""
    periods = {"ogpsa_refresh_steps": 7, "max_steps": 40, "save_strategy": "steps", "save_steps": 5}
    config = toy.ogpsa("killed", **with_dropout(toy, deepspeed=ENGINES["zero2"], **periods))
    return {**config, "overwrite_output_dir": False}


def with_dropout(toy, **changes):
    """Dropout makes a comparison see any random number that is drawn and not given back."""
    return {"model_name_or_path": str(toy.root / "dropout"), **changes}


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Toy:
    toy = make_toy(tmp_path_factory.mktemp("deepspeed"))
    save_toy_model(toy.root / "dropout", attention_dropout=0.1)
    return toy


def plain_and_watched(toy, name, **changes):
    shared = with_dropout(toy, **changes)
    plain = {key: value for key, value in shared.items() if not key.startswith("ogpsa_")}
    return [toy.config(f"{name}-plain", **plain), toy.ogpsa(f"{name}-watch", **WATCH, **shared)]


def whole_and_resumed(toy, name, period, **changes):
    shared = with_dropout(toy, **changes)
    whole = toy.ogpsa(name, save_strategy="steps", save_steps=period, **shared)
    checkpoint = f"{whole['output_dir']}/checkpoint-{period}"
    return [whole, toy.ogpsa(f"{name}-resumed", resume_from_checkpoint=checkpoint, **shared)]


@pytest.fixture(scope="module")
def trained(toy) -> Toy:
    """All runs in float32."""
    runs = [parity_config(toy, engine, case) for engine, case in CASES]
    for engine, settings in ENGINES.items():
        for kind, changes in WATCHED.items():
            runs += plain_and_watched(toy, name_of(engine, kind), deepspeed=settings, **changes)
    for engine in FULL:
        step = {"ogpsa_project": "update", "ogpsa_mode": "conflict"}
        runs += whole_and_resumed(toy, name_of(engine, "full"), 3, deepspeed=ENGINES[engine], **step)
    for engine in SET_ASIDE:
        plain, watch = plain_and_watched(toy, name_of(engine, "lora"), deepspeed=ENGINES[engine], **LORA)
        runs += [plain, {**watch, **LOOK, "ogpsa_refresh_steps": LORA_REFRESH}]
    lora = {**LORA, "ogpsa_refresh_steps": LORA_REFRESH}
    runs += whole_and_resumed(toy, name_of("zero2", "lora"), 2, deepspeed=ENGINES["zero2"], **lora)
    runs.append({**killed_config(toy), "output_dir": str(toy.root / "unbroken")})
    torchrun(toy, runs, timeout=600)
    return toy


@pytest.fixture(scope="module")
def trained_bfloat16(toy) -> Toy:
    runs = []
    for engine, settings in BFLOAT16.items():
        name = name_of("bf16", engine)
        runs += plain_and_watched(toy, name, deepspeed=settings, bf16=True)
        shared = with_dropout(toy, deepspeed=settings, bf16=True)
        runs.append(toy.ogpsa(f"{name}-projected", **shared))
        runs.append(toy.ogpsa(f"{name}-stepped", ogpsa_project="update", ogpsa_subspace_dtype="float32", **shared))
    torchrun(toy, runs, timeout=600)
    return toy


@pytest.fixture(scope="module")
def trained_float16(toy) -> Toy:
    """DeepSpeed is told that this CPU has float16; where it has not, PyTorch computes it all the same."""
    runs = []
    for engine, settings in FLOAT16.items():
        name = name_of("fp16", engine)
        shared = {"deepspeed": settings, "fp16": True, "max_steps": 12}
        runs += plain_and_watched(toy, name, **shared)
        runs += whole_and_resumed(toy, f"{name}-projected", 6, **shared)
        runs.append(toy.ogpsa(f"{name}-stepped", ogpsa_project="update", **with_dropout(toy, **shared)))
    torchrun(toy, runs, timeout=600, worker="fp16_worker.py")
    return toy


def same(toy, one, other, file="model.safetensors"):
    a, b = (load_file(toy.root / name / file) for name in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def expected(toy):
    """Weights of the independent implementation, in one process."""
    weights = {}
    for case, changes in PARITY.items():
        weights[case] = oracle.train(
            toy.root,
            granularity=changes.get("ogpsa_granularity", "parameter"),
            optimizer=changes["optim"],
            rows_per_step=2 * 2 * changes["gradient_accumulation_steps"],
            steps=STEPS,
            refresh=2,
            clip=0.5,
            lr=LEARNING_RATE[changes["optim"]],
            references=tuple(changes["ogpsa_reference_dataset"].split(",")),
            what=changes.get("ogpsa_project", "gradient"),
            decay=changes.get("weight_decay", 0.0),
            momentum=changes.get("ogpsa_project_momentum", "never"),
        )
    return weights


@pytest.mark.parametrize(("engine", "case"), CASES)
def test_equals_one_process(trained, expected, engine, case):
    weights, start = trained.weights(name_of(engine, case)), trained.weights("model")
    error = oracle.distance(weights, expected[case]) / oracle.distance(start, expected[case])
    assert error <= LIMIT[PARITY[case]["optim"]]


@pytest.mark.parametrize("what", STEPPED)
@pytest.mark.parametrize("engine", FULL)
def test_no_step_leaks(trained, engine, what):
    assert largest_leak(trained, name_of(engine, what)) <= 1e-5
    assert largest_leak(trained, name_of(engine, "adamw")) > 1e-3


def largest_leak(toy, name):
    leaks = [abs(leak) for key in ("ref_a", "ref_b", "ref_single") for leak in logged(toy, f"ogpsa/leak/{key}", name)]
    return max(leaks)


def test_the_comparison_can_fail(trained, expected):
    other = trained.weights(name_of("zero2", "adamw"))
    start = trained.weights("model")
    assert oracle.distance(other, expected["layer"]) / oracle.distance(start, expected["layer"]) > 1e-3


@pytest.mark.parametrize("kind", WATCHED)
@pytest.mark.parametrize("engine", ENGINES)
def test_collecting_and_discarding_is_plain(trained, engine, kind):
    assert same(trained, name_of(engine, kind, "plain"), name_of(engine, kind, "watch"))
    assert all(0 < value < 1 for value in logged(trained, "ogpsa/removed_ratio", name_of(engine, kind, "watch")))


@pytest.mark.parametrize("engine", SET_ASIDE)
def test_setting_a_gradient_aside_is_plain(trained, engine):
    """LoRA needs a refresh between the backward pass and the step, when A begins to move."""
    names = name_of(engine, "lora", "plain"), name_of(engine, "lora", "watch")
    assert logged(trained, "ogpsa/refresh_step", names[1]) == [0, 1, 5]
    assert same(trained, *names, "adapter_model.safetensors")


@pytest.mark.parametrize("engine", FULL)
def test_resumes_exactly(trained, engine):
    assert logged(trained, "ogpsa/refresh_step", name_of(engine, "full", "resumed")) == [0, 2, 4]
    assert same(trained, name_of(engine, "full"), name_of(engine, "full", "resumed"))


def test_resumes_adapters_exactly(trained):
    assert logged(trained, "ogpsa/refresh_step", name_of("zero2", "lora", "resumed")) == [0, 1, 5]
    assert same(trained, name_of("zero2", "lora"), name_of("zero2", "lora", "resumed"), "adapter_model.safetensors")


@pytest.mark.parametrize("engine", FULL)
def test_a_rank_keeps_its_share(trained, engine):
    """As much as `ogpsa doctor --plan` predicts, which is the half of it wherever gradients are sharded."""
    shapes = [tensor.shape for tensor in trained.weights("model").values()]
    half, whole = (
        predict(shapes, engine.replace(" ", "-"), ranks, directions=2, precision="float32", subspace_dtype="float32")
        for ranks in (2, 1)
    )
    expected, alone = (each.device.subspace + each.host.subspace for each in (half, whole))
    assert logged(trained, "ogpsa/subspace_mb", name_of(engine, "sgd"))[0] == pytest.approx(expected / 1e6, rel=0.01)
    shards = 1 if engine == "zero0" else 2
    assert expected == pytest.approx(alone / shards, rel=0.01)
    stored = Path(trained.root, name_of(engine, "full"), "checkpoint-3", "ogpsa_subspace")
    assert len(list(stored.iterdir())) == shards


def projects_in(trained, name):
    assert same(trained, f"{name}-plain", f"{name}-watch")
    assert not same(trained, f"{name}-plain", f"{name}-projected")
    assert all(logged(trained, "ogpsa/refresh_accepted", f"{name}-projected"))
    assert max(map(abs, logged(trained, "ogpsa/cos_after/ref_a", f"{name}-projected"))) < 1e-3
    return logged(trained, "ogpsa/removed_ratio", f"{name}-projected")


@pytest.mark.parametrize("engine", BFLOAT16)
def test_bfloat16(trained_bfloat16, engine):
    assert min(projects_in(trained_bfloat16, name_of("bf16", engine))) > 0.1
    # Of the float32 weights; the worker has compared them with the model's, which are rounded.
    assert largest_leak(trained_bfloat16, name_of("bf16", engine, "stepped")) <= 1e-5
    assert largest_leak(trained_bfloat16, name_of("bf16", engine, "projected")) > 1e-3


@pytest.mark.parametrize("engine", FLOAT16)
def test_float16(trained_float16, engine):
    """References that overflow are collected with a smaller scale; training that does is left to DeepSpeed's."""
    name = name_of("fp16", engine)
    removed = projects_in(trained_float16, name)
    assert (removed[0] == 0) == (engine != "zero0")  # whose optimizer begins with a smaller scale, whatever is asked
    assert sum(ratio > 0.05 for ratio in removed) >= 6
    assert same(trained_float16, f"{name}-projected", f"{name}-projected-resumed")
    assert largest_leak(trained_float16, f"{name}-stepped") <= 1e-5
    assert len(logged(trained_float16, "ogpsa/leak/ref_a", f"{name}-stepped")) >= 6  # of the steps that were taken


def test_another_engine_computes_the_subspace_anew(trained, run, messages):
    checkpoint = trained.root / name_of("zero2", "full") / "checkpoint-3"
    run({**trained.ogpsa("elsewhere", ogpsa_refresh_steps=2), "resume_from_checkpoint": str(checkpoint)})
    assert "was written by DeepSpeed ZeRO-2 on 2 ranks, and this run is one process on 1 rank" in messages()
    assert logged(trained, "ogpsa/refresh_step", "elsewhere") == [0, 2, 3, 4]


def start_by_command(toy, config):
    """The real command, which starts torchrun by itself; every file is where a user would put it."""
    settings = toy.root / f"{config['output_dir'].rpartition('/')[2]}.json"
    settings.write_text(json.dumps(config["deepspeed"]))
    file = settings.with_suffix(".yaml")
    file.write_text(yaml.safe_dump({**config, "deepspeed": str(settings), "ddp_backend": "gloo"}))
    environment = launcher_environment()
    command = [str(Path(sys.executable).parent / "llamafactory-cli"), "train", str(file)]
    with file.with_suffix(".log").open("w") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def log_of(process):
    """The end of what a command has printed, for a test that fails."""
    return Path(process.args[-1]).with_suffix(".log").read_text(encoding="utf-8")[-3000:]


def wait_for(process, weights):
    """Wait for a command to end, and have written the weights."""
    code = process.wait(timeout=200)
    log = log_of(process)
    assert weights.exists() and succeeded(code, log), log


def test_by_command(toy, expected):
    config = {**parity_config(toy, "zero3", "sgd"), "output_dir": str(toy.root / "by_command")}
    wait_for(start_by_command(toy, config), toy.root / "by_command" / "model.safetensors")
    error = oracle.distance(toy.weights("by_command"), expected["sgd"])
    assert error / oracle.distance(toy.weights("model"), expected["sgd"]) <= LIMIT["sgd"]


def test_one_rank_is_killed(trained):
    """The run ends with an error, and the same command then ends with the unbroken run's weights."""
    process = start_by_command(trained, killed_config(trained))
    deadline = time.monotonic() + 200
    while not (trained.root / "killed" / "checkpoint-5" / "trainer_state.json").exists():
        assert process.poll() is None and time.monotonic() < deadline, log_of(process)
        time.sleep(0.01)
    ranks = psutil.Process(process.pid).children(recursive=True)
    next(rank for rank in ranks if rank.environ().get("LOCAL_RANK") == "1").send_signal(signal.SIGKILL)
    assert process.wait(timeout=120) != 0
    assert not (trained.root / "killed" / "model.safetensors").exists()
    wait_for(start_by_command(trained, killed_config(trained)), trained.root / "killed" / "model.safetensors")
    assert same(trained, "unbroken", "killed")
