"""Cost of an optimizer step with OGPSA between two refreshes, over a naive step: side by side, interleaved, medians.

Run:  python benchmarks/step_overhead.py [--steps 12] [--granularity parameter] [--output benchmarks/results/FILE.json]

Both steps are forward, backward, clipping and AdamW on a Qwen2 model of about 50 million parameters with 16 sequences
of 128 tokens; the OGPSA step has the projection against two reference gradients in it, through the same controller
that training uses; on logged steps the overlap that is left is measured as well, which is one more read. The kinds of
step alternate, so that a machine that slows down slows all.
"""

import argparse
import json
import platform
import statistics
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from ogpsa_factory.arguments import OGPSAArguments
from ogpsa_factory.controller import Controller
from ogpsa_factory.engines import NativeEngine
from ogpsa_factory.reference import make_reference_set


SEQUENCES, LENGTH, REFERENCES = 16, 128, 2


def make_model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=16_000,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=10,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    return Qwen2ForCausalLM(config).train()


def rows(count: int, vocabulary: int) -> list[dict[str, list[int]]]:
    tokens = torch.randint(0, vocabulary, (count, LENGTH)).tolist()
    return [{"input_ids": row, "labels": row} for row in tokens]


def measure(steps: int, granularity: str) -> dict[str, object]:
    model = make_model()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-6)
    vocabulary = model.config.vocab_size

    def mean_loss(features: list[dict[str, list[int]]]) -> torch.Tensor:
        ids = torch.tensor([feature["input_ids"] for feature in features])
        return model(input_ids=ids, labels=ids).loss

    arguments = OGPSAArguments(
        use_ogpsa=True, ogpsa_reference_dataset="a,b", ogpsa_granularity=granularity, ogpsa_refresh_steps=10**9
    )
    arguments.validate_ogpsa("sft")
    controller = Controller(
        arguments,
        NativeEngine(model),
        [make_reference_set(name, rows(SEQUENCES, vocabulary), rank=1) for name in ("a", "b")],
        mean_loss,
        batch_size=SEQUENCES,
        log=lambda figures: None,
        progress=lambda count: nullcontext(lambda done: None),
    )
    controller.on_step_begin(0)

    kinds = ("naive", "ogpsa", "ogpsa_logged")
    seconds: dict[str, list[float]] = {**{kind: [] for kind in kinds}, "projection": []}
    for step in range(len(kinds) * (steps + 1)):
        kind = kinds[step % len(kinds)]
        batch = rows(SEQUENCES, vocabulary)
        started = time.perf_counter()
        mean_loss(batch).backward()
        projecting = time.perf_counter()
        if kind != "naive":
            controller.before_clipping(step, measure=kind == "ogpsa_logged")
        projected = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step >= len(kinds):  # the first of each kind warms up
            seconds[kind].append(time.perf_counter() - started)
            if kind == "ogpsa":
                seconds["projection"].append(projected - projecting)
    ratios = {
        kind: [own / naive for naive, own in zip(seconds["naive"], seconds[kind], strict=True)] for kind in kinds[1:]
    }
    return {
        "parameters": sum(p.numel() for p in parameters),
        "references": REFERENCES,
        "tokens_per_step": SEQUENCES * LENGTH,
        "granularity": granularity,
        "median_seconds": {kind: statistics.median(values) for kind, values in seconds.items()},
        "median_ratio": {kind: statistics.median(values) for kind, values in ratios.items()},
        "ratios": ratios,
        "seconds": seconds,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12, help="measured steps of each kind")
    parser.add_argument("--granularity", default="parameter", choices=["parameter", "layer", "global"])
    parser.add_argument("--output", type=Path, help="where to keep the raw figures (JSON)")
    options = parser.parse_args()
    result = measure(options.steps, options.granularity)
    medians = result["median_seconds"]
    print(f"{result['parameters']:,} parameters, {REFERENCES} references, {result['tokens_per_step']} tokens per step")
    print("  ".join(f"{kind}: {value:.3f} s" for kind, value in medians.items()))
    for kind, ratios in result["ratios"].items():
        spread = f"{min(ratios):.3f} to {max(ratios):.3f} in {len(ratios)} pairs"
        print(f"step time over naive, {kind}: {result['median_ratio'][kind]:.3f} ({spread})")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
