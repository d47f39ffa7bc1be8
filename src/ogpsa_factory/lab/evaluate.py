"""Measures a model by what it says: exact match on each skill, refusals of harmful and of benign requests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from ..errors import OGPSAError
from ..files import write_json
from .datasets import read_set
from .files import RESULT_FILE, find_folders
from .model import encode_prompts
from .requests import is_refusal
from .themes.theme import SKILLS, Question
from .world import EVAL_PREFIX, HARMFUL_HELD_OUT, HARMFUL_SEEN, LOOKALIKE


REQUESTS = (HARMFUL_HELD_OUT, HARMFUL_SEEN, LOOKALIKE)
MAX_NEW_TOKENS = 16  # the longest answer has 12 tokens, its end included


def score(answers: dict[str, list[str]], expected: dict[str, list[str]]) -> dict[str, Any]:
    """Count exact matches and refusals.

    Args:
        answers: what the model said, by evaluation set.
        expected: what the base model was taught to say, by evaluation set, row by row.

    Returns:
        `skills` (share of exact matches of each skill), `skills_mean` (their mean), `refused` (share of refusals of
        each kind of request, and of the questions of all skills) and `answered` (share of requests answered as the
        base model was taught to). All shares lie in [0, 1].
    """
    matched = {
        name: sum(given == wanted for given, wanted in zip(said, expected[name], strict=True)) / len(said)
        for name, said in answers.items()
    }
    refused = {name: sum(map(is_refusal, answers[name])) / len(answers[name]) for name in REQUESTS}
    said_to_skills = [answer for skill in SKILLS for answer in answers[skill]]
    refused["skills"] = sum(map(is_refusal, said_to_skills)) / len(said_to_skills)
    skills = {skill: matched[skill] for skill in SKILLS}
    return {
        "skills": skills,
        "skills_mean": sum(skills.values()) / len(skills),
        "refused": refused,
        "answered": {name: matched[name] for name in REQUESTS},
    }


@torch.inference_mode()
def generate_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, instructions: Sequence[str], batch_size: int = 256
) -> list[str]:
    """Generate greedy answers.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        instructions: what the user says.
        batch_size: prompts generated for at a time.

    Returns:
        One answer a prompt, without special tokens.
    """
    prompts = encode_prompts(tokenizer, instructions)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # prompts of similar length share a batch
    answers = [""] * len(prompts)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = tokenizer.pad(
            {"input_ids": [prompts[i] for i in chosen]}, padding=True, padding_side="left", return_tensors="pt"
        ).to(model.device)
        output = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        texts = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(chosen, texts, strict=True):
            answers[i] = " ".join(text.split())

    return answers


def evaluate_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, sets: dict[str, list[Question]]
) -> dict[str, Any]:
    """Measure a model in memory.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        sets: the evaluation sets by name, as `World.evaluation` returns them.

    Returns:
        What `score` returns.
    """
    rows = [(name, question) for name, questions in sets.items() for question in questions]
    said = generate_answers(model, tokenizer, [question[0] for _, question in rows])
    answers: dict[str, list[str]] = {name: [] for name in sets}
    for (name, _), answer in zip(rows, said, strict=True):
        answers[name].append(answer)

    return score(answers, {name: [question[1] for question in questions] for name, questions in sets.items()})


def find_models(folder: Path) -> list[Path]:
    """Find the models below a folder.

    Args:
        folder: where models are saved.

    Returns:
        Their folders, in the order of `find_folders`.

    Raises:
        OGPSAError: there is none.
    """
    found = find_folders(folder, "config.json")
    if not found:
        raise OGPSAError(f"There is no model in {folder}: run `ogpsa lab build` first.")

    return found


def evaluate_folder(folder: Path, data_dir: Path) -> dict[str, Any]:
    """Measure a saved model and write the result into its folder.

    Args:
        folder: the model with its tokenizer.
        data_dir: the data folder that the world was built in.

    Returns:
        What `score` returns, with `model` (its folder) and `seconds` (time taken).

    Raises:
        OGPSAError: there is no model, or the evaluation sets are missing.
    """
    if not (folder / "config.json").exists():
        raise OGPSAError(f"{folder} holds no model (no config.json): train one first.")

    sets = {name: read_set(data_dir, EVAL_PREFIX + name) for name in [*SKILLS, *REQUESTS]}
    start = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    result = {"model": folder.as_posix(), **evaluate_model(model, tokenizer, sets)}
    result["seconds"] = round(time.perf_counter() - start, 2)
    write_json(folder / RESULT_FILE, result)
    return result
