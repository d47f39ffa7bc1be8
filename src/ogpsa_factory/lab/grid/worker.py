"""Makes one model of a grid, in a process that has made others before it: start-up is paid once."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from ...errors import OGPSAError
from ...files import read_json, temporary_name, write_json
from .nodes import Node
from .osf import osf


RESULT = "result.json"  # in the folder of every finished model
_MODEL, _DATA = "model", "data"
_ADAPTER = "adapter_config.json"
_FIGURES = ("loss", "ogpsa/removed_ratio")
_BY_SET = ("ogpsa/cos/", "ogpsa/cos_after/", "ogpsa/leak/", "ogpsa/reference_loss/")


def begin(log: Path, parent: int) -> None:
    """Prepare a worker: what libraries print goes to a file of its own, and it ends with the process that wants it.

    Args:
        log: the folder of such files.
        parent: number of that process.
    """
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent ends its workers
    log.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log / f"worker-{os.getpid()}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    import torch

    torch.set_num_threads(1)  # the order of additions must not depend on the machine's number of cores


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)  # training must not go on unseen, without the lock on its folder


def attempt(node: Node, models: Path) -> str | None:
    """Make a model, whatever happens; what went wrong is told in full in the worker's log.

    Args:
        node: the model.
        models: the folder of all models.

    Returns:
        What went wrong, in a line; None where nothing did.
    """
    try:
        make(node, models)
    except OGPSAError as error:
        return str(error)
    except (Exception, SystemExit) as error:  # of any library; the other models are worth making
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return None


def make(node: Node, models: Path) -> None:
    """Make a model, measure it, and put its folder into place.

    Its `result.json` has `key`, `spec`, `weights` (SHA-256 of the file), `measures`, `curves` (of training), how many
    `refreshes` there were, and `seconds`.

    Args:
        node: the model.
        models: the folder of all models; those that this one needs are there.

    Raises:
        OGPSAError: a world's base model is unfit, or a model cannot be averaged.
    """
    final = models / node.key
    folder = temporary_name(final)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    start = time.perf_counter()
    try:
        kinds = {"world": _world, "train": _train, "merge": _merge}
        found = kinds[node.spec["kind"]](node.spec, folder, models)
        weights = _digest_on_disk(folder / _MODEL / "model.safetensors")
        result = {"key": node.key, "spec": node.spec, "weights": weights, "curves": [], **found}
        if "measures" not in result:
            result["measures"] = _measure(folder / _MODEL, models / node.spec["world"] / _DATA)
        result["seconds"] = {"all": round(time.perf_counter() - start, 2), **result.get("seconds", {})}
        write_json(folder / RESULT, result)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(folder, final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _digest_on_disk(path: Path) -> str:
    """The SHA-256 of a file that is on the disk: after a power failure, no result may stand beside nothing."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _world(spec: dict[str, Any], folder: Path, models: Path) -> dict[str, Any]:
    from ..build import STEPS, build_world
    from ..themes import find_theme

    theme, steps = find_theme(spec["theme"]), spec["steps"]
    report = build_world(folder / _MODEL, folder / _DATA, spec["seed"], steps=steps, scale=spec["scale"], theme=theme)
    if steps >= STEPS and report.shortcomings():
        raise OGPSAError(
            f"The base model of seed {spec['seed']} is not fit to experiment on: {'; '.join(report.shortcomings())}. "
            "Take another seed."
        )
    return {"measures": _measure(folder / _MODEL, folder / _DATA)}


def _train(spec: dict[str, Any], folder: Path, models: Path) -> dict[str, Any]:
    from llamafactory.train.tuner import run_exp

    start, run = models / spec["start"] / _MODEL, folder / "run"
    arguments = {
        **spec["arguments"],
        "model_name_or_path": str(start),
        "dataset_dir": str(models / spec["world"] / _DATA),
        "output_dir": str(run),
    }
    began = time.perf_counter()
    with osf(spec.get("osf")):
        run_exp(arguments)
    seconds = round(time.perf_counter() - began, 2)
    history = read_json(run / "trainer_state.json")["log_history"]
    runtime = next(entry["train_runtime"] for entry in history if "train_runtime" in entry)
    if (run / _ADAPTER).exists():
        _merge_adapter(start, run, folder / _MODEL)
    else:
        _take_model(run, folder / _MODEL)
    shutil.rmtree(run)
    refreshes = sum("ogpsa/refresh_step" in entry for entry in history)
    times = {"train": round(runtime, 2), "run": seconds}
    return {"curves": _curves(history), "refreshes": refreshes, "seconds": times}


def _take_model(run: Path, model: Path) -> None:
    """The weights and the tokenizer without the records of training, which hold times and paths."""
    model.mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors", "chat_template.jinja"):
        if (run / name).exists():
            shutil.copyfile(run / name, model / name)
    for path in run.glob("tokenizer*"):
        shutil.copyfile(path, model / path.name)


def _merge_adapter(start: Path, run: Path, model: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    PeftModel.from_pretrained(base, str(run)).merge_and_unload().save_pretrained(model)
    AutoTokenizer.from_pretrained(start).save_pretrained(model)


def _merge(spec: dict[str, Any], folder: Path, models: Path) -> dict[str, Any]:
    from ...merge import merge

    merge(str(models / spec["base"] / _MODEL), models / spec["aligned"] / _MODEL, folder / _MODEL, spec["weight"])
    return {}


def _measure(model_folder: Path, data: Path) -> dict[str, Any]:
    """What a model says, and its losses."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ..datasets import read_set
    from ..evaluate import REQUESTS, evaluate_model
    from ..losses import mean_loss
    from ..themes.theme import SKILLS
    from ..world import EVAL_PREFIX, REFERENCE_PREFIX, SAFETY_SET

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    asked = {name: read_set(data, EVAL_PREFIX + name) for name in [*SKILLS, *REQUESTS]}
    measures = evaluate_model(model, tokenizer, asked)
    losses = {name: REFERENCE_PREFIX + name for name in [*SKILLS, "harmless"]}
    losses["safety"] = SAFETY_SET
    measures["losses"] = {
        name: round(mean_loss(model, tokenizer, read_set(data, registered)[:200]), 6)
        for name, registered in losses.items()
    }
    return measures


def _curves(history: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The log of a run, an entry a logged step: loss, overlap and reference losses."""
    return [
        {
            "step": entry["step"],
            **{
                name: float(f"{value:.4g}")
                for name, value in entry.items()
                if name in _FIGURES or name.startswith(_BY_SET)
            },
        }
        for entry in history
        if "loss" in entry
    ]
