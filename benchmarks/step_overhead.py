"""Cost of an optimizer step with OGPSA between two refreshes, over a naive step: side by side, interleaved, medians.

Run:  python benchmarks/step_overhead.py [--steps 12] [--granularity parameter] [--output benchmarks/results/FILE.json]

All steps are forward, backward, clipping and AdamW on a Qwen2 model of about 50 million parameters with 16 sequences
of 128 tokens, each kind of `ogpsa_project` on a model of its own, through the same controller that training uses, with
two reference gradients. Logged steps also measure what is left: of gradients one more read, and of the step that is
taken a copy of the weights and two reads. The kinds take turns on the same batch, so that a machine that slows down
slows all, and every round begins with another one.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from ogpsa_factory.arguments import OGPSAArguments
from ogpsa_factory.controller import Controller
from ogpsa_factory.engines import NativeEngine
from ogpsa_factory.reference import make_reference_set


SEQUENCES, LENGTH, REFERENCES, WARM_UP = 16, 128, 2, 2
PROJECTS = ("gradient", "update", "preconditioned")
Rows = list[dict[str, list[int]]]


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


def rows(count: int, vocabulary: int) -> Rows:
    tokens = torch.randint(0, vocabulary, (count, LENGTH)).tolist()
    return [{"input_ids": row, "labels": row} for row in tokens]


class Training:
    """A model, its optimizer and, where there is one, the controller of its steps."""

    def __init__(self, project: str | None, granularity: str, references: list[Rows]) -> None:
        self.model = make_model()
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-6)
        self.controller: Controller | None = None
        if project is not None:
            arguments = OGPSAArguments(
                use_ogpsa=True,
                ogpsa_reference_dataset="a,b",
                ogpsa_granularity=granularity,
                ogpsa_refresh_steps=10**9,
                ogpsa_project=project,
            )
            arguments.validate_ogpsa("sft")
            progress = nullcontext(lambda done: None)
            self.controller = Controller(
                arguments,
                NativeEngine(self.model),
                [make_reference_set(name, own, rank=1) for name, own in zip("ab", references, strict=True)],
                self.mean_loss,
                SEQUENCES,
                lambda figures: None,
                lambda count: progress,
                self.optimizer,
            )
            self.controller.on_step_begin(0)
            self.controller.step.before = self.timed(self.controller.step.before)
            self.controller.step.after = self.timed(self.controller.step.after)
            self.controller.before_clipping = self.timed(self.controller.before_clipping)
        self.own = 0.0  # seconds of the last step in the controller

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.own += time.perf_counter() - started

        return call

    def mean_loss(self, features: Rows) -> torch.Tensor:
        ids = torch.tensor([feature["input_ids"] for feature in features])
        return self.model(input_ids=ids, labels=ids).loss

    def step(self, batch: Rows, number: int, logged: bool) -> float:
        """Take one step; returns its seconds."""
        started, self.own = time.perf_counter(), 0.0
        self.mean_loss(batch).backward()
        if self.controller is not None:
            self.controller.before_clipping(number, measure=logged)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - started


def measure(steps: int, granularity: str) -> dict[str, Any]:
    vocabulary = make_model().config.vocab_size
    references = [rows(SEQUENCES, vocabulary) for _ in range(REFERENCES)]
    trainings = {project: Training(project, granularity, references) for project in (None, *PROJECTS)}
    kinds: dict[str, tuple[str | None, bool]] = {"naive": (None, False)}
    kinds |= {f"{project}{'_logged' * logged}": (project, logged) for project in PROJECTS for logged in (False, True)}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    own: dict[str, list[float]] = {kind: [] for kind in kinds}
    names = list(kinds)
    for number in range(WARM_UP + steps):
        batch = rows(SEQUENCES, vocabulary)
        for kind in names[number % len(names) :] + names[: number % len(names)]:
            project, logged = kinds[kind]
            taken = trainings[project].step(batch, number, logged)
            if number >= WARM_UP:
                seconds[kind].append(taken)
                own[kind].append(trainings[project].own)
    ratios = {
        kind: [own / naive for naive, own in zip(seconds["naive"], seconds[kind], strict=True)] for kind in names[1:]
    }
    return {
        "parameters": sum(p.numel() for p in trainings[None].parameters),
        "references": REFERENCES,
        "tokens_per_step": SEQUENCES * LENGTH,
        "granularity": granularity,
        "median_seconds": {kind: statistics.median(values) for kind, values in seconds.items()},
        "median_own_seconds": {kind: statistics.median(values) for kind, values in own.items()},
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
    print(f"{result['parameters']:,} parameters, {REFERENCES} references, {result['tokens_per_step']} tokens per step")
    print("  ".join(f"{kind}: {value:.3f} s" for kind, value in result["median_seconds"].items()))
    for kind, ratios in result["ratios"].items():
        spread = f"{min(ratios):.3f} to {max(ratios):.3f} in {len(ratios)} pairs"
        own = result["median_own_seconds"][kind]
        print(f"step time over naive, {kind}: {result['median_ratio'][kind]:.3f} ({spread}); own time {own:.3f} s")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
