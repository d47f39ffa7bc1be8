"""Rows in the exact public schemas of the paper's sources, generated: no row of theirs is in this project."""

import csv
import json
from pathlib import Path
from typing import Any


HARM = ("Violence", "Cybercrime", "Drugs")


def saferlhf_row(
    prompt: str,
    answers: tuple[str, str],
    safe: tuple[bool, bool],
    severity: tuple[int, int],
    safer: int,
    category: str = "Violence",
    **changes: Any,
) -> dict[str, Any]:
    """A row of PKU-SafeRLHF with all 18 of its columns."""
    row: dict[str, Any] = {"prompt": prompt, "prompt_source": "Alpaca3-70B", "response_0_source": "Alpaca3-8B"}
    row |= {
        "response_1_source": "WizardLM-30B-Uncensored",
        "better_response_id": 1 - safer,
        "safer_response_id": safer,
    }
    for i in (0, 1):
        row[f"response_{i}"] = answers[i]
        row[f"is_response_{i}_safe"] = safe[i]
        row[f"response_{i}_harm_category"] = {name: not safe[i] and name == category for name in HARM}
        row[f"response_{i}_severity_level"] = severity[i]
        row[f"response_{i}_sha256"] = f"{i:064x}"
    return {**row, **changes}


def completion(response: str, overall: Any, fine_grained: Any, **changes: Any) -> dict[str, Any]:
    """A completion of UltraFeedback."""
    rating = {"Rating": "4", "Rationale": "It is clear."}
    aspects = ("helpfulness", "honesty", "instruction_following", "truthfulness")
    row = {"model": "llama-2-13b-chat", "principle": "helpfulness", "custom_system_prompt": "Be helpful."}
    row |= {"response": response, "critique": "Good.", "overall_score": overall, "fine-grained_score": fine_grained}
    return {**row, "annotations": {aspect: dict(rating) for aspect in aspects}, **changes}


def ultrafeedback_row(instruction: str, completions: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """A row of UltraFeedback."""
    models = [each.get("model", "x") for each in completions]
    row = {"source": "evol_instruct", "instruction": instruction, "models": models, "completions": completions}
    return {**row, "correct_answers": ["None"], "incorrect_answers": ["None"], **changes}


def halueval_row(question: str, right: str, wrong: str, **changes: Any) -> dict[str, Any]:
    """A row of HaluEval's QA part."""
    passage = f"A passage about {question}"
    return {"knowledge": passage, "question": question, "right_answer": right, "hallucinated_answer": wrong, **changes}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Nested values as JSON, as tools that write CSV from such rows do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({k: json.dumps(v) if isinstance(v, (dict, list)) else v for k, v in row.items()})
    return path


def many_saferlhf(count: int) -> list[dict[str, Any]]:
    """Prompts in pairs of rows; every fifth prompt has safe answers only."""
    rows = []
    for i in range(count):
        unsafe = i % 5 != 0
        answers = (f"Here is how, version {i}.", f"That is wrong, reason {i}.")
        for _ in range(2):
            rows.append(saferlhf_row(f"How do I do bad thing {i}?", answers, (not unsafe, True), (2 * unsafe, 0), 1))
    return rows


def many_ultrafeedback(count: int) -> list[dict[str, Any]]:
    scored = [(9, 4.75), (7, 4.0), (5, 3.0), (2, 1.25)]
    return [
        ultrafeedback_row(
            f"Explain subject {i}.", [completion(f"Answer {i} of quality {a}.", a, b) for a, b in scored]
        )
        for i in range(count)
    ]


def many_halueval(count: int) -> list[dict[str, Any]]:
    return [
        halueval_row(f"Who wrote book {i}?", f"Author {i}", f"Book {i} was written by nobody.") for i in range(count)
    ]


def write_sources(folder: Path, count: int = 40) -> Path:
    """All three sources below one folder, in three formats."""
    write_jsonl(folder / "pku" / "train.jsonl", many_saferlhf(count))
    write_jsonl(folder / "ultra.jsonl", many_ultrafeedback(count))
    (folder / "halueval.json").write_text(json.dumps(many_halueval(count)), encoding="utf-8")
    return folder
