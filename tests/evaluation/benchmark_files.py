"""Invented rows in the schemas of the public benchmarks, and a random chat model to answer them."""

import csv
import json
import shutil
from pathlib import Path

from conftest import save_toy_model


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|> {{ message.role }} {{ message.content }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


def write_csv(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def words(seed: int, count: int = 4) -> str:
    return " ".join(f"w{(seed * 7 + i * 13) % 60}" for i in range(count))


def write_benchmarks(folder: Path, rows: int = 6) -> None:
    """One file for every source of the suite `paper`, with a few rows each."""
    numbers = range(rows)
    xstest = [
        {"id": i, "prompt": f"w{i} {words(i)}", "type": ("contrast_" if i % 2 else "") + "homonyms", "focus": "w1"}
        for i in range(2 * rows)
    ]
    write_csv(folder / "xstest_prompts.csv", xstest)
    forbidden = [{"category": "c", "source": "s", "forbidden_prompt": words(i)} for i in numbers]
    write_csv(folder / "strongreject.csv", forbidden)
    attacks = ("PAIR", "PAP_Misrepresentation", "other")
    write_csv(
        folder / "strongreject_jailbroken.csv",
        [
            {**row, "jailbreak": attack, "jailbroken_prompt": f"w9 {row['forbidden_prompt']} w{i}"}
            for i, attack in enumerate(attacks)
            for row in forbidden
        ],
    )
    said = [
        {
            "language": "English" if i % 3 else "German",
            "conversation": [{"role": "user", "content": words(i)}, {"role": "assistant", "content": "w1"}],
            "openai_moderation": [{"flagged": i % 2 == 0}],
        }
        for i in range(4 * rows)
    ]
    write_jsonl(folder / "wildchat.jsonl", said)
    kinds = ("Social stereotypes and unfair discrimination", "Mental health")
    write_csv(
        folder / "do_not_answer.csv", [{"question": words(i), "types_of_harm": kinds[i % 2]} for i in range(2 * rows)]
    )
    write_csv(folder / "simple_qa.csv", [{"problem": words(i), "answer": f"w{i}"} for i in numbers])
    choices = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
    write_csv(
        folder / "gpqa_diamond.csv",
        [{"Question": words(i), **{name: f"w{j} w{i}" for j, name in enumerate(choices)}} for i in numbers],
    )
    for subject in ("anatomy", "astronomy"):
        for split in ("dev", "test"):
            path = folder / split / f"{subject}_{split}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [[words(i), "w1", "w2", "w3", "w4", "ABCD"[i % 4]] for i in numbers]
            with path.open("w", newline="") as stream:
                csv.writer(stream).writerows(lines)  # the authors' own files have no header
    instructions = [
        {
            "key": i,
            "prompt": words(i),
            "instruction_id_list": ["punctuation:no_comma" if i % 2 else "length_constraints:number_sentences"],
            "kwargs": [{} if i % 2 else {"relation": "at least", "num_sentences": 3}],
        }
        for i in range(2 * rows)
    ]
    write_jsonl(folder / "ifeval" / "input_data.jsonl", instructions)
    write_jsonl(
        folder / "hhh.jsonl",
        [
            {
                "inputs": words(i),
                "targets": ["w1 w2"],
                "multiple_choice_targets": ["w1 w2", "w3"],
                "multiple_choice_scores": [1, 0],
            }
            for i in numbers
        ],
    )
    pair = [{"idx": i, "label": i % 2, "sentence1": words(i), "sentence2": words(i + 1)} for i in numbers]
    parts = {
        "sst2": [{"idx": i, "sentence": words(i), "label": i % 2} for i in numbers],
        "qqp": [{"idx": i, "question1": words(i), "question2": words(i + 2), "label": i % 2} for i in numbers],
        "mnli": [{"idx": i, "premise": words(i), "hypothesis": words(i + 2), "label": i % 3} for i in numbers],
        "mnli-mm": [{"idx": i, "premise": words(i), "hypothesis": words(i + 3), "label": i % 3} for i in numbers],
        "qnli": [{"idx": i, "question": words(i), "sentence": words(i + 1), "label": i % 2} for i in numbers],
        "rte": pair,
    }
    (folder / "advglue").mkdir()
    (folder / "advglue" / "dev.json").write_text(json.dumps(parts), encoding="utf-8")
    write_jsonl(
        folder / "halueval_qa.jsonl",
        [{"question": words(i), "right_answer": "w1", "hallucinated_answer": "w2 w3"} for i in numbers],
    )


def save_chat_model(folder: Path) -> Path:
    """A random model with a chat template and room for long prompts."""
    from transformers import AutoTokenizer

    save_toy_model(folder, max_position_embeddings=4096)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def copy_model(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder)
    return folder
