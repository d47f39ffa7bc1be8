"""OGPSA-SFT in the most obvious way, to compare the plugin with: row by row, plain Gram-Schmidt, no shortcuts."""

import json
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM


def encode(tokenizer: PreTrainedTokenizerFast, row: dict[str, str]) -> tuple[list[int], list[int]]:
    """The chatml template, by hand."""
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    words = tokenizer.convert_tokens_to_ids
    prompt = [start, *words(["user", *row["instruction"].split()]), end, start, *words(["assistant"])]
    answer = [*words(row["output"].split()), end]
    return prompt + answer, [-100] * len(prompt) + answer


def summed_loss(model: Qwen2ForCausalLM, ids: list[int], labels: list[int]) -> Tensor:
    logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), reduction="sum", ignore_index=-100)


def mean_gradient(model: Qwen2ForCausalLM, rows: list[tuple[list[int], list[int]]]) -> list[Tensor]:
    """Gradient of the mean loss over all label tokens of all rows."""
    model.zero_grad()
    tokens = sum(label != -100 for _, labels in rows for label in labels)
    for ids, labels in rows:
        (summed_loss(model, ids, labels) / tokens).backward()
    return [p.grad.clone() for p in model.parameters()]


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


def train(
    root: Path, granularity: str, optimizer: str, rows_per_step: int, steps: int, refresh: int, clip: float, lr: float
) -> dict[str, Tensor]:
    """Train on the toy data in file order and return the weights."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(root / "model")
    model = Qwen2ForCausalLM.from_pretrained(root / "model", attn_implementation="eager").float().train()
    sets = {
        name: [encode(tokenizer, row) for row in json.loads((root / "data" / f"{name}.json").read_text())]
        for name in ("safety", "ref_a", "ref_b")
    }
    parameters = list(model.parameters())
    step_taker = {
        "sgd": lambda: torch.optim.SGD(parameters, lr=lr),
        "adamw_torch": lambda: torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0),
    }[optimizer]()
    for step in range(steps):
        if step % refresh == 0:
            references = [mean_gradient(model, sets[name]) for name in ("ref_a", "ref_b")]
        start = step * rows_per_step % len(sets["safety"])
        gradients = mean_gradient(model, sets["safety"][start : start + rows_per_step])
        if granularity == "parameter":
            for parameter, gradient, *own in zip(parameters, gradients, *references, strict=True):
                parameter.grad = project(gradient.flatten(), [g.flatten() for g in own]).view_as(gradient)
        else:
            whole = torch.cat([g.flatten() for g in gradients])
            result = project(whole, [torch.cat([g.flatten() for g in reference]) for reference in references])
            for parameter, piece in zip(parameters, result.split([p.numel() for p in parameters]), strict=True):
                parameter.grad = piece.view_as(parameter).clone()
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        step_taker.step()
    return {name: p.detach() for name, p in model.named_parameters()}


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Euclidean distance between two sets of weights."""
    assert a.keys() == b.keys()
    return float(sum(((a[name].double() - b[name].double()) ** 2).sum() for name in a).sqrt())
