"""Write the figures of docs/scaling.md, all of them on paper: from shapes, the package's own counting and data sheets.

python docs/scaling.py
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from ogpsa_factory.footprint import ENGINES as FACTS
from ogpsa_factory.footprint import Footprint, predict
from ogpsa_factory.footprint.engines import SIZES
from ogpsa_factory.reference import BatchSize, ReferenceSet, plan_batches


PAGE = Path(__file__).resolve().parent / "scaling.md"
DIRECTIONS = 2
ROWS = 200  # of each reference set
GPUS = (8, 64, 512)
ENGINES = {"zero2": "ZeRO-2", "zero3": "ZeRO-3", "fsdp2": "FSDP2"}
GPU = 80e9  # bytes
BANDWIDTH = 3.35e12  # bytes per second: the memory of one H100 SXM, from its data sheet
MODELS = {
    "7B": (3584, 28, 18944, 28, 4, 152064, Qwen2ForCausalLM, Qwen2Config),
    "32B": (5120, 64, 27648, 40, 8, 152064, Qwen2ForCausalLM, Qwen2Config),
    "70B": (8192, 80, 28672, 64, 8, 128256, LlamaForCausalLM, LlamaConfig),
}


@dataclass(frozen=True)
class Stage:
    """What a training step costs, in forward passes of one row; a backward pass costs two, recomputing one more."""

    name: str
    refresh_steps: int
    batch: int  # rows (DPO: pairs) per step
    sequences: int  # per row
    frozen_passes: int  # forward passes of the frozen copy, per sequence

    def training(self, both: int) -> int:
        """Cost of one row, where both passes of a sequence cost ``both``."""
        return self.sequences * (both + self.frozen_passes)


STAGES = (Stage("SFT", 30, 128, 1, 0), Stage("DPO", 5, 128, 2, 1))
RECOMPUTED, PLAIN = 4, 3  # forward and backward pass of a sequence, with gradient checkpointing and without


def shapes(model: str) -> list[torch.Size]:
    """Shapes of a model's parameters; nothing is allocated."""
    hidden, layers, intermediate, heads, shared_heads, vocabulary, network, config = MODELS[model]
    with torch.device("meta"):
        empty = network(
            config(
                hidden_size=hidden,
                num_hidden_layers=layers,
                intermediate_size=intermediate,
                num_attention_heads=heads,
                num_key_value_heads=shared_heads,
                vocab_size=vocabulary,
                tie_word_embeddings=False,
            )
        )
    return [p.shape for p in empty.parameters()]


def table(head: list[str], rows: list[list[str]], words: int) -> str:
    """A Markdown table whose first ``words`` columns hold words, the others numbers."""
    line = ["---"] * words + ["---:"] * (len(head) - words)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, line, *rows])


def memory_section(sizes: dict[str, list[torch.Size]]) -> str:
    """Gigabytes on one GPU, and milliseconds of a projection."""
    head = ["model", "GPUs", "engine", "training", "DPO's frozen copy", "subspace", "more at a refresh"]
    rows = []
    for model, trained in sizes.items():
        for ranks in GPUS:
            for engine, label in ENGINES.items():
                footprint = predict(trained, engine, ranks, DIRECTIONS)
                plain, took = footprint.device, moved(footprint) / BANDWIDTH
                frozen = predict(trained, engine, ranks, DIRECTIONS, frozen=trained).device
                parts = [plain.training, frozen.training - plain.training, plain.steady, plain.refresh - plain.steady]
                peaks = [_bold(plain.peak), _bold(frozen.peak)]
                rows.append([model, str(ranks), label, *map(_gigabytes, parts), *peaks, f"{1e3 * took:.2f}"])
    return table([*head, "peak in SFT", "peak in DPO", "projection (ms)"], rows, 3)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f}"


def _bold(size: float) -> str:
    return f"**{_gigabytes(size)}**" if size > GPU else _gigabytes(size)


def moved(footprint: Footprint) -> int:
    """Bytes that a projection reads and writes on one rank: basis and gradient twice, then the gradient."""
    engine = FACTS[footprint.engine]
    gradient = engine.projected.size or SIZES[engine.family, "mixed"][2]
    basis = 4 if footprint.subspace_dtype == "float32" else 2
    return footprint.elements * (2 * DIRECTIONS * basis + 3 * gradient)


def bandwidth_section() -> str:
    """The assumption behind the milliseconds."""
    return (
        f"The table's last column is this at an *assumed* {BANDWIDTH / 1e12:.2f} TB/s (the memory of one H100 SXM, "
        "from its data sheet;\nno kernel reaches it), without the all-reduce."
    )


def traffic_section(sizes: dict[str, list[torch.Size]]) -> str:
    """What is sent, and what a checkpoint holds."""
    head = ["model", "parameters", "groups", "bytes per step", "bytes per refresh"]
    rows = []
    for model, trained in sizes.items():
        count = sum(math.prod(shape) for shape in trained)
        step = predict(trained, "zero3", GPUS[0], DIRECTIONS).traffic
        stored = count * DIRECTIONS * 2 / 1e9
        refresh = 8 * len(trained) * DIRECTIONS**2 + 4 * len(trained) + 8 * DIRECTIONS  # inner products, flags, losses
        numbers = [count, len(trained), step, refresh]
        rows.append([model, *(f"{number:,}" for number in numbers), f"{stored:.0f}"])
    return table([*head, "checkpoint (GB)"], rows, 1)


def share_section() -> str:
    """A refresh against the steps between two of them, in rows."""
    references = DIRECTIONS * ROWS
    sft, dpo = STAGES
    simple = references / (sft.refresh_steps * sft.batch)
    lines = [
        f"- SFT: {references} rows against {sft.refresh_steps} steps of {sft.batch} rows: {references} / "
        f"{sft.refresh_steps * sft.batch} = **{simple:.1%}**.",
        f"- DPO: a pair is {dpo.sequences} sequences, each with a forward and a backward pass and a forward pass",
        "  of the frozen copy. A reference row is one sequence, and the frozen copy has no part in it. In units of a",
        f"  forward pass, forward and backward cost {RECOMPUTED} with gradient checkpointing (the default) and "
        f"{PLAIN} without:",
    ]
    for passes, when in ((RECOMPUTED, "with"), (PLAIN, "without")):
        training = dpo.refresh_steps * dpo.batch * dpo.training(passes)
        lines.append(
            f"  {references} x {passes} / ({dpo.refresh_steps} x {dpo.batch} x {dpo.sequences} x "
            f"({passes} + {dpo.frozen_passes})) = **{references * passes / training:.1%}** {when} it"
            + (";" if when == "with" else ".")
        )
    return "\n".join(lines)


def passes_section() -> str:
    """The same in passes, which do not divide evenly."""
    rows = []
    for stage in STAGES:
        for ranks in GPUS:
            batch = max(stage.batch, ranks)
            each = max(1, min(batch // ranks, 4 // stage.sequences))
            accumulated = batch // (ranks * each)
            chunk = ReferenceSet("", [], [list(range(ROWS))], [1] * ROWS, [1] * ROWS, ROWS, "")
            planned = [plan_batches(chunk, 0, BatchSize(each), rank, ranks) for rank in range(ranks)]
            passes = DIRECTIONS * len(planned[0])
            idle = sum(not any(batches) for batches in planned)
            between = stage.refresh_steps * accumulated
            share = passes * RECOMPUTED / (between * stage.training(RECOMPUTED))
            numbers = [ranks, batch, each, between, passes, idle]
            rows.append([stage.name, *map(str, numbers), f"{share:.1%}"])
    head = ["stage", "GPUs", "rows (pairs) per step", "per GPU and pass", "passes in K steps", "passes in a refresh"]
    return table([*head, "ranks without a row", "refresh over training"], rows, 1)


def render(text: str) -> str:
    """Return the page with its figures written anew."""
    sizes = {model: shapes(model) for model in MODELS}
    sections = {
        "memory": memory_section(sizes),
        "bandwidth": bandwidth_section(),
        "traffic": traffic_section(sizes),
        "share": share_section(),
        "passes": passes_section(),
    }
    for name, section in sections.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text, count = re.subn(pattern, lambda match, new=section: f"{match[1]}{new}\n{match[2]}", text, flags=re.S)
        if count != 1:
            raise SystemExit(f"{PAGE} must have the marks <!-- {name} --> and <!-- /{name} --> once.")
    return text


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
