"""A toy model and toy data, so that tests need no download: random weights, a word-level tokenizer, generated rows."""

import gc
import json
import logging
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


WORDS = [f"w{i}" for i in range(60)]
SPECIAL = ["<pad>", "<|im_start|>", "<|im_end|>"]
ROLES = ["system", "user", "assistant", "You", "are", "a", "helpful", "."]
# Files that take a minute or more, the longest first: begun last, one would keep one of the two workers waiting.
LONGEST = [
    *("test_deepspeed", "test_grid_run", "test_fsdp", "test_features", "test_pipeline", "test_fuzz", "test_lab_build"),
    *("test_reproduce_mini", "test_fused"),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@dataclass
class Toy:
    """A folder with a random model and registered data sets, and the arguments of a short SFT run on them."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    def config(self, output: str = "out", **changes: Any) -> dict[str, Any]:
        config = {
            "model_name_or_path": str(self.root / "model"),
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "full",
            "dataset": "safety",
            "dataset_dir": str(self.data),
            "template": "chatml",
            "cutoff_len": 64,
            "output_dir": str(self.root / output),
            "overwrite_output_dir": True,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "max_steps": 6,
            "optim": "adamw_torch",
            "max_grad_norm": 1.0,
            "weight_decay": 0.0,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "overwrite_cache": True,
        }
        return {**config, **changes}

    def ogpsa(self, output: str = "out", **changes: Any) -> dict[str, Any]:
        own = {"use_ogpsa": True, "ogpsa_reference_dataset": "ref_a,ref_b", "ogpsa_refresh_steps": 2}
        return self.config(output, **{**own, **changes})

    def dpo(self, output: str = "out", **changes: Any) -> dict[str, Any]:
        return self.ogpsa(output, **{"stage": "dpo", "dataset": "pairs", "pref_beta": 0.2, **changes})

    def write(self, name: str, rows: list[dict[str, Any]], **entry: Any) -> None:
        """Write a data set and register it."""
        (self.data / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
        info_path = self.data / "dataset_info.json"
        info = json.loads(info_path.read_text()) if info_path.exists() else {}
        info[name] = {"file_name": f"{name}.json", **entry}
        info_path.write_text(json.dumps(info), encoding="utf-8")

    def weights(self, output: str = "out") -> dict[str, Any]:
        from safetensors.torch import load_file

        return load_file(self.root / output / "model.safetensors")


def make_rows(count: int, seed: int, words: list[str] = WORDS) -> list[dict[str, str]]:
    rng = random.Random(seed)

    def phrase() -> str:
        return " ".join(rng.choice(words) for _ in range(rng.randint(2, 9)))

    return [{"instruction": phrase(), "input": "", "output": phrase()} for _ in range(count)]


PAIRS = {
    "ranking": True,
    "columns": {"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"},
}


def make_pairs(count: int, seed: int, words: list[str] = WORDS) -> list[dict[str, str]]:
    rows, others = make_rows(count, seed, words), make_rows(count, seed + 1000, words)
    return [
        {"instruction": row["instruction"], "input": "", "chosen": row["output"], "rejected": other["output"]}
        for row, other in zip(rows, others, strict=True)
    ]


def save_toy_model(folder: Path, **changes: Any) -> None:
    """Save a random Qwen2 model of about 20,000 parameters with its tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    vocabulary = {word: i for i, word in enumerate([*SPECIAL, "<unk>", *ROLES, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    ).save_pretrained(folder)
    settings = {
        "vocab_size": len(vocabulary),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
        "pad_token_id": vocabulary["<pad>"],
        "eos_token_id": vocabulary["<|im_end|>"],
    }
    torch.manual_seed(7)
    Qwen2ForCausalLM(Qwen2Config(**{**settings, **changes})).save_pretrained(folder)


def make_toy(root: Path) -> Toy:
    toy = Toy(root)
    toy.data.mkdir(parents=True)
    save_toy_model(root / "model")
    toy.write("safety", make_rows(40, seed=1))
    toy.write("ref_a", make_rows(7, seed=2, words=WORDS[:20]))
    toy.write("ref_b", make_rows(5, seed=3, words=WORDS[20:]))
    toy.write("ref_single", make_rows(1, seed=8))
    toy.write("pairs", make_pairs(40, seed=4), **PAIRS)
    toy.write("pairs_a", make_pairs(7, seed=5, words=WORDS[:20]), **PAIRS)
    toy.write("pairs_b", make_pairs(5, seed=6, words=WORDS[20:]), **PAIRS)
    return toy


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return make_toy(tmp_path)


@pytest.fixture
def run() -> Callable[[dict[str, Any]], Any]:
    """Run LLaMA-Factory in this process, with the plugin in it, as ``run_exp`` does."""
    from ogpsa_factory import install

    install()
    from llamafactory.train.tuner import run_exp

    gc.collect()
    gc.freeze()  # every run collects garbage, which takes longest for the libraries
    return run_exp


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    """What the plugin has logged so far; its logger does not propagate during a run, as LLaMA-Factory's does not."""
    logging.getLogger("ogpsa_factory").addHandler(caplog.handler)
    yield lambda: "\n".join(record.getMessage() for record in caplog.records)
    logging.getLogger("ogpsa_factory").removeHandler(caplog.handler)


@pytest.fixture
def overlaps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Cosines of the gradient that is handed to clipping with the collected reference gradients themselves.

    The logged ``cos_after`` is computed inside the stored basis, so it would not notice a wrong basis. This does.
    """
    import torch

    from ogpsa_factory import controller

    references, cosines = [], []
    collect, refresh = controller.collect_gradient, controller.Controller.refresh
    project = controller.Controller.before_clipping

    def flat(gradients):
        return torch.cat([g.detach().double().flatten() for g in gradients if g is not None])

    def collecting(*args):
        gradients, loss = collect(*args)
        references.append(flat([torch.zeros(1) if g is None else g for g in gradients]))
        return gradients, loss

    def refreshing(self, step):
        references.clear()
        refresh(self, step)

    def projecting(self, step, measure=False):
        before = flat(self.engine.local_gradients()).norm()
        project(self, step, measure)
        after = flat(self.engine.local_gradients())
        cosines.extend(float(after @ r / r.norm() / before) for r in references if r.numel() == after.numel())

    monkeypatch.setattr(controller, "collect_gradient", collecting)
    monkeypatch.setattr(controller.Controller, "refresh", refreshing)
    monkeypatch.setattr(controller.Controller, "before_clipping", projecting)
    return cosines


def report(toy: Toy, output: str = "out") -> dict[str, Any]:
    return json.loads((toy.root / output / "ogpsa_report.json").read_text(encoding="utf-8"))


def logged(toy: Toy, key: str, output: str = "out") -> list[float]:
    """Values of one figure in the order in which they were logged."""
    return [entry[key] for entry in report(toy, output)["history"] if key in entry]


def rank_environment() -> dict[str, str]:
    """One thread per rank. The environment's own tools come first: DeepSpeed builds with one version of ninja."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path}


def launcher_environment(ranks: int = 2) -> dict[str, str]:
    """For ``llamafactory-cli`` with torchrun.

    LLaMA-Factory takes a port that is free when it starts, and opens it seconds later. Left to itself it takes one of
    those that the system hands out, which any connection of a test beside this one may get in the meantime.
    """
    for port in random.Random(os.getpid()).sample(range(20_000, 30_000), 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                break
    launch = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": str(ranks), "MASTER_PORT": str(port)}
    return {**rank_environment(), **launch}


def succeeded(code: int, log: str) -> bool:
    """Whether a command with torchrun ended well; some gloo processes abort while Python shuts down, all work done."""
    return code == 0 or "terminate called without an active exception" in log or "SIGABRT" in log


def torchrun(
    toy: Toy,
    configs: list[dict[str, Any]],
    ranks: int = 2,
    timeout: float = 300,
    worker: str = "ddp_worker.py",
) -> None:
    """Run configurations in one set of processes, one after the other: starting LLaMA-Factory takes longest."""
    path = toy.root / "runs.json"
    path.write_text(json.dumps([{"ddp_backend": "gloo", **config} for config in configs]))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    command = [*launcher, str(Path(__file__).parent / worker), str(path)]
    subprocess.run(command, check=True, timeout=timeout, env=rank_environment())
