"""What the parts of the benchmark share: models of a given size, rows, clocks, and the memory's bandwidth."""

import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import psutil
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen2Config, Qwen2ForCausalLM

from ogpsa_factory.arguments import OGPSAArguments
from ogpsa_factory.controller import Controller
from ogpsa_factory.engines import NativeEngine
from ogpsa_factory.reference import IGNORE_INDEX, BatchSize, make_reference_set


# hidden, intermediate, layers, heads, key-value heads, vocabulary, tied embeddings. From 0.5B on, those of Qwen2.5.
SIZES = {
    "5M": (256, 704, 4, 4, 2, 8_000, True),
    "20M": (384, 1536, 6, 6, 2, 16_000, True),
    "50M": (512, 2048, 10, 8, 4, 16_000, True),
    "200M": (1024, 2816, 14, 16, 8, 32_000, True),
    "0.5B": (896, 4864, 24, 14, 2, 151_936, True),
    "1.5B": (1536, 8960, 28, 12, 2, 151_936, True),
    "3B": (2048, 11008, 36, 16, 2, 151_936, True),
    "7B": (3584, 18944, 28, 28, 4, 152_064, False),
}
LENGTH = 128  # tokens of a row
Rows = list[dict[str, list[int]]]


def make_model(size: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Qwen2ForCausalLM:
    """A Qwen2 model with random weights, always the same ones."""
    hidden, intermediate, layers, heads, shared_heads, vocabulary, tied = SIZES[size]
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared_heads,
        tie_word_embeddings=tied,
    )
    with device:
        return Qwen2ForCausalLM(config).to(dtype).train()


def shapes(size: str) -> list[torch.Size]:
    """Shapes of a model's parameters; nothing is allocated."""
    return [p.shape for p in make_model(size, torch.device("meta")).parameters()]


def rows(count: int, vocabulary: int, length: int = LENGTH) -> Rows:
    """Random token ids."""
    tokens = torch.randint(0, vocabulary, (count, length)).tolist()
    return [{"input_ids": row, "labels": row} for row in tokens]


def mean_loss(model: Qwen2ForCausalLM, batch: Rows) -> torch.Tensor:
    """Cross-entropy per token. Short rows are filled up behind their end, where causal attention never looks."""
    columns = {name: [torch.tensor(row[name]) for row in batch] for name in ("input_ids", "labels")}
    ids = pad_sequence(columns["input_ids"], batch_first=True).to(model.device)
    labels = pad_sequence(columns["labels"], batch_first=True, padding_value=IGNORE_INDEX).to(model.device)
    return model(input_ids=ids, labels=labels).loss


def make_controller(
    model: Qwen2ForCausalLM, optimizer: torch.optim.Optimizer, references: list[Rows], batch: int, **arguments: Any
) -> Controller:
    """The controller that training uses, whose subspace is refreshed when asked only."""
    names = [f"set{i}" for i in range(len(references))]
    settings = {"ogpsa_refresh_steps": 10**9, **arguments}
    own = OGPSAArguments(use_ogpsa=True, ogpsa_reference_dataset=",".join(names), **settings)
    own.validate_ogpsa("sft")
    sets = [make_reference_set(name, part, rank=1) for name, part in zip(names, references, strict=True)]
    progress = nullcontext(lambda done: None)
    return Controller(
        own,
        NativeEngine(model),
        sets,
        lambda batch: mean_loss(model, batch),
        BatchSize(batch),
        lambda figures: None,
        lambda count: progress,
        optimizer,
    )


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """Time of one call, until the device has done it."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Bandwidth:
    """What the memory under some tensors gives to the simplest operations, in bytes per second.

    How fast memory is depends on where it lies (on its pages, and how they are spread), so the limit of a projection
    is taken from the very tensors that it projects. ``read`` is of two streams that are read (an inner product),
    ``update`` of two that are read and one that is written (an addition in place): the two halves of a projection.

    Args:
        vectors: what is projected; nothing is changed.
        rows: of each a row of its basis.
        device: where both are.
    """

    def __init__(self, vectors: list[torch.Tensor], rows: list[torch.Tensor], device: torch.device) -> None:
        # As float32 whatever they are, so that nothing is converted; an odd element at the end is left out.
        self._pairs = [(_as_float32(vector), _as_float32(row)) for vector, row in zip(vectors, rows, strict=True)]
        self._pairs = [(v[: len(r)], r[: len(v)]) for v, r in self._pairs]
        self._device = device
        self.reads: list[float] = []
        self.updates: list[float] = []

    def measure(self) -> None:
        """Take one more sample of both."""
        size = sum(vector.nbytes for vector, _ in self._pairs)
        self.reads.append(2 * size / seconds_of(lambda: [v.dot(r) for v, r in self._pairs], self._device))
        added = seconds_of(lambda: [v.add_(r, alpha=0.0) for v, r in self._pairs], self._device)
        self.updates.append(3 * size / added)

    def limit(self, reads: int, writes: int) -> float:
        """Seconds of a pass that only reads ``reads`` bytes, and of one that reads as many and writes ``writes``."""
        return reads / statistics.median(self.reads) + (reads + writes) / statistics.median(self.updates)

    def summary(self) -> dict[str, float]:
        """Medians, in GB/s."""
        return {"read": statistics.median(self.reads) / 1e9, "update": statistics.median(self.updates) / 1e9}


def _as_float32(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.detach().reshape(-1)
    even = flat[: flat.numel() // 2 * 2]
    return even if even.dtype == torch.float32 else even.view(torch.float32)


def spread(values: list[float]) -> dict[str, Any]:
    """Median, extremes and all of some figures."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "all": values}


def machine(device: torch.device) -> dict[str, Any]:
    """What figures depend on besides the code."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "torch": torch.__version__,
    }
