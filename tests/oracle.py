"""OGPSA in the most obvious way, to compare the plugin with: row by row, plain Gram-Schmidt, no shortcuts."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM


Sequence = tuple[list[int], list[int]]  # token ids and labels
Row = list[Sequence]  # one answer, or the chosen and the rejected one
RowLoss = Callable[[nn.Module, Row], Tensor]
BETA, GAMMA = 0.2, 0.5


def encode(tokenizer: PreTrainedTokenizerFast, instruction: str, output: str) -> Sequence:
    """The chatml template, by hand."""
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    words = tokenizer.convert_tokens_to_ids
    prompt = [start, *words(["user", *instruction.split()]), end, start, *words(["assistant"])]
    answer = [*words(output.split()), end]
    return prompt + answer, [-100] * len(prompt) + answer


def read(root: Path, name: str) -> list[Row]:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(root / "model")
    rows = json.loads((root / "data" / f"{name}.json").read_text())
    kinds = ("chosen", "rejected") if "chosen" in rows[0] else ("output",)
    return [[encode(tokenizer, row["instruction"], row[kind]) for kind in kinds] for row in rows]


def label_tokens(sequence: Sequence) -> int:
    return sum(label != -100 for label in sequence[1])


def summed_loss(model: nn.Module, sequence: Sequence) -> Tensor:
    ids, labels = sequence
    logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
    return cross_entropy(logits, torch.tensor(labels[1:]), reduction="sum", ignore_index=-100)


def mean_gradient(model: nn.Module, rows: list[Row], loss: str, start: nn.Module) -> list[Tensor]:
    """Gradient of the mean over all label tokens of all rows (sft, lm_both), or over pairs (sigmoid, simpo)."""
    model.zero_grad()
    if loss in ("sft", "lm_both"):
        sequences = [sequence for row in rows for sequence in (row[:1] if loss == "sft" else row)]
        tokens = sum(map(label_tokens, sequences))
        for sequence in sequences:
            (summed_loss(model, sequence) / tokens).backward()
    else:
        for row in rows:
            (pair_loss(model, row, loss, start) / len(rows)).backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in trainable(model)]


def pair_loss(model: nn.Module, row: Row, loss: str, start: nn.Module) -> Tensor:
    chosen, rejected = (-summed_loss(model, sequence) for sequence in row)
    if loss == "simpo":
        return -logsigmoid(BETA * (chosen / label_tokens(row[0]) - rejected / label_tokens(row[1])) - GAMMA)
    with torch.no_grad():
        chosen_before, rejected_before = (-summed_loss(start, sequence) for sequence in row)
    return -logsigmoid(BETA * (chosen - rejected - chosen_before + rejected_before))


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def gram_schmidt(vectors: list[Tensor]) -> list[Tensor]:
    basis: list[Tensor] = []
    for vector in vectors:
        rest = vector.double()
        for _ in range(2):  # twice is enough (Kahan)
            for direction in basis:
                rest = rest - direction * (direction @ rest)
        if rest.norm() > 1e-6 * vector.double().norm():
            basis.append(rest / rest.norm())
    return basis


def project(gradient: Tensor, references: list[Tensor]) -> Tensor:
    result = gradient.double()
    for direction in gram_schmidt(references):
        result = result - direction * (direction @ result)
    return result.to(gradient.dtype)


def blocks(model: nn.Module, granularity: str) -> list[list[int]]:
    """Numbers of the parameters that are projected together."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    if granularity == "parameter":
        return [[i] for i in range(len(names))]
    if granularity == "global":
        return [list(range(len(names)))]
    layers: dict[str, list[int]] = {}
    for i, name in enumerate(names):  # model.layers.0.mlp.up_proj.weight; model.embed_tokens.weight
        words = name.split(".")
        layers.setdefault(words[2] if words[1] == "layers" else name, []).append(i)
    return list(layers.values())


def in_blocks(
    groups: list[list[int]], vectors: list[Tensor], references: list[list[Tensor]], scales: list[Tensor] | None = None
) -> list[Tensor]:
    """Project each block; with ``scales``, D^-1/2, in coordinates in which the metric is the identity."""
    results = list(vectors)
    for block in groups:

        def flat(tensors: list[Tensor], block: list[int] = block) -> Tensor:
            return torch.cat([tensors[i].flatten() for i in block])

        directions = [flat(reference) for reference in references]
        if scales is None:
            projected = project(flat(vectors), directions)
        else:
            scale = flat(scales)
            projected = scale * project(flat(vectors) / scale, [scale * direction for direction in directions])
        pieces = projected.split([vectors[i].numel() for i in block])
        for i, piece in zip(block, pieces, strict=True):
            results[i] = piece.view_as(vectors[i])
    return results


def inverse_root(optimizer: torch.optim.Optimizer, parameter: Tensor, what: str, damping: float = 1.0) -> Tensor:
    """D^-1/2 with D = sqrt(v) / sqrt(1 - beta2^t) + eps + damping times the root of the mean of v / (1 - beta2^t)."""
    if what == "update":
        return torch.ones_like(parameter, dtype=torch.float64)
    state, group = optimizer.state[parameter], optimizer.param_groups[0]
    second = state["exp_avg_sq"].double() / (1 - group["betas"][1] ** float(state["step"]))
    return (second.sqrt() + group["eps"] + damping * second.mean().sqrt()).rsqrt()


def decay_groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Matrices decay, norms and biases do not, as transformers has it."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    still = [p for name, p in named if "norm" in name or name.endswith("bias")]
    rest = [p for name, p in named if not ("norm" in name or name.endswith("bias"))]
    return [{"params": rest, "weight_decay": decay}, {"params": still, "weight_decay": 0.0}]


def base_model(root: Path) -> nn.Module:
    return Qwen2ForCausalLM.from_pretrained(root / "model", attn_implementation="eager").float().train()


def train(
    root: Path,
    *,
    granularity: str,
    optimizer: str,
    rows_per_step: int,
    steps: int,
    refresh: int,
    clip: float,
    lr: float,
    loss: str = "sft",
    reference_loss: str = "sft",
    dataset: str = "safety",
    references: tuple[str, ...] = ("ref_a", "ref_b"),
    model: nn.Module | None = None,
    what: str = "gradient",
    decay: float = 0.0,
    momentum: str = "never",
) -> dict[str, Tensor]:
    """Train on the toy data in file order and return the weights that were trained.

    ``what`` is projected: the gradient or the step; the first moment too: never, at each refresh, or in each step.
    """
    model = base_model(root) if model is None else model
    start = copy.deepcopy(model)
    rows, sets = read(root, dataset), [read(root, name) for name in references]
    parameters = trainable(model)
    step_taker = {
        "sgd": lambda: torch.optim.SGD(parameters, lr=lr),
        "adamw_torch": lambda: torch.optim.AdamW(decay_groups(model, decay), lr=lr),
    }[optimizer]()

    def collect() -> list[list[Tensor]]:
        own_loss = loss if reference_loss == "preference" else reference_loss
        return [mean_gradient(model, each, own_loss, start) for each in sets]

    def project_moments() -> None:
        """Make of each moment what a step along it would become: in the units of steps, projected, and back."""
        states = [step_taker.state[p] for p in parameters]
        own = [inverse_root(step_taker, p, "preconditioned", damping=0.0).square() for p in parameters]
        along = [state["exp_avg"].double() * each for state, each in zip(states, own, strict=True)]
        scales = [inverse_root(step_taker, p, what) for p in parameters]
        along = in_blocks(blocks(model, granularity), along, collected, scales)
        for state, each, step in zip(states, own, along, strict=True):
            state["exp_avg"].copy_(step / each)

    for step in range(steps):
        if step % refresh == 0:
            collected = collect()
            if momentum == "refresh" and step:
                project_moments()
        first = step * rows_per_step % len(rows)
        gradients = mean_gradient(model, rows[first : first + rows_per_step], loss, start)
        unseen = [not any(each[i].any() for each in collected) for i in range(len(parameters))]
        if any(g.any() for g, blank in zip(gradients, unseen, strict=True) if blank):
            collected = collect()  # what could not be seen before moves now (LoRA's A, after B = 0)
        if what == "gradient":
            gradients = in_blocks(blocks(model, granularity), gradients, collected)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        before = [p.detach().clone().double() for p in parameters]
        step_taker.step()
        if what != "gradient":
            taken = [p.detach().double() - old for p, old in zip(parameters, before, strict=True)]
            scales = [inverse_root(step_taker, p, what) for p in parameters]
            taken = in_blocks(blocks(model, granularity), taken, collected, scales)
            for parameter, old, step in zip(parameters, before, taken, strict=True):
                parameter.data.copy_(old + step)
            if momentum == "step":
                project_moments()
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def distance(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Euclidean distance between two sets of weights."""
    assert a.keys() == b.keys()
    return float(sum(((a[name].double() - b[name].double()) ** 2).sum() for name in a).sqrt())
