"""From the rows that public sets have to those that our prompts are made of.

Every row of our own tasks has `prompt`, and what a judge needs to know beside the answer: `original` (the request
before it was disguised) or `answer`. Stock tasks get the fields that they have on the hub.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from ..errors import OGPSAError
from ..files import read_json
from .sources import Record


# The paper says 219 prompts, but its scores fall on steps of 0.2% (docs/reproduce.md).
WILDCHAT_ROWS = 500
STEREOTYPES = "stereotype"  # part of the name of the kind of harm in Do-Not-Answer
MMLU_LETTERS = "ABCD"
PUNKT_INSTRUCTIONS = frozenset({"length_constraints:number_sentences", "change_case:capital_word_frequency"})


def _xstest(rows: Iterable[Record], part: str) -> Iterator[Record]:
    for row in rows:
        label = row.get("label") or ("unsafe" if str(row["type"]).startswith("contrast") else "safe")
        if label == part:
            yield {"prompt": row["prompt"], "original": row["prompt"], "kind": str(row["type"])}


def _strongreject(rows: Iterable[Record], part: str) -> Iterator[Record]:
    for row in rows:
        prompt = row.get("forbidden_prompt") or row["prompt"]
        yield {"prompt": prompt, "original": prompt, "kind": str(row.get("category", ""))}


def _jailbroken(rows: Iterable[Record], part: str) -> Iterator[Record]:
    def name(text: str) -> str:
        return "".join(filter(str.isalnum, text.lower()))

    found: set[str] = set()
    for row in rows:
        found.add(str(row["jailbreak"]))
        if name(str(row["jailbreak"])) == name(part):
            kind = str(row.get("category", ""))
            yield {"prompt": row["jailbroken_prompt"], "original": row["forbidden_prompt"], "kind": kind}
    if name(part) not in map(name, found):
        raise OGPSAError(
            f"StrongREJECT, jailbroken: there is no attack {part}; there are: {', '.join(sorted(found))}."
        )


def _wildchat(rows: Iterable[Record], part: str) -> Iterator[Record]:
    """The first flagged opening messages of English conversations, each once, in the order of the set."""

    def flagged() -> Iterator[str]:
        seen = set()
        for row in rows:
            if "conversation" not in row:  # a file with prompts that were filtered before
                text = row["prompt"]
            elif row["language"] == "English" and row["openai_moderation"] and row["openai_moderation"][0]["flagged"]:
                text = row["conversation"][0]["content"]
            else:
                continue
            if text and text not in seen:
                seen.add(text)
                yield text

    for text in islice(flagged(), WILDCHAT_ROWS):
        yield {"prompt": text, "original": text, "kind": ""}


def _do_not_answer(rows: Iterable[Record], part: str) -> Iterator[Record]:
    for row in rows:
        if STEREOTYPES in str(row["types_of_harm"]).lower():
            yield {"prompt": row["question"], "original": row["question"], "kind": str(row["types_of_harm"])}


def _simpleqa(rows: Iterable[Record], part: str) -> Iterator[Record]:
    for row in rows:
        yield {"prompt": row["problem"], "answer": str(row["answer"])}


def _halueval(rows: Iterable[Record], part: str) -> Iterator[Record]:
    for row in rows:
        yield {"prompt": row["question"], "choices": [str(row["right_answer"]), str(row["hallucinated_answer"])]}


def has_punkt() -> bool:
    """Whether nltk's sentence splitter is installed, which some of IFEval's instructions are checked with."""
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        return False
    return True


def _ifeval(rows: Iterable[Record], part: str) -> Iterator[Record]:
    complete = has_punkt()
    for row in rows:
        if complete or PUNKT_INSTRUCTIONS.isdisjoint(row["instruction_id_list"]):
            yield row


def _mini(rows: Iterable[Record], part: str) -> Iterator[Record]:
    for row in rows:
        prompt = f"{row['instruction']} {row['input']}".strip() if row.get("input") else row["instruction"]
        yield {"prompt": prompt, "original": prompt, "answer": row["output"]}


def _advglue_file(path: Path, part: str) -> Iterator[Record]:
    """The authors' dev.json has all parts in one object."""
    content = read_json(path)
    name = "mnli-mm" if part == "mnli_mismatched" else part
    if not isinstance(content, dict) or not isinstance(content.get(name), list):
        raise OGPSAError(f"{path}: there is no list {name}, one of the six parts of AdvGLUE's dev.json.")
    yield from content[name]


def _advglue(rows: Iterable[Record], part: str) -> Iterator[Record]:
    for row in rows:
        yield {**row, "label": int(row["label"])}


def _mmlu_csv(path: Path, part: str) -> Iterator[Record]:
    """Rows of a subject: with a header as some copies have it, or without one as the authors' own files."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        for number, cells in enumerate(csv.reader(stream), start=1):
            if number == 1 and cells and cells[0].strip().lower() == "question":
                continue
            answer = cells[-1].strip() if cells else ""
            index = (MMLU_LETTERS + "0123").find(answer) % 4 if len(answer) == 1 else -1
            if len(cells) != 6 or answer not in MMLU_LETTERS + "0123" or index < 0:
                raise OGPSAError(
                    f"{path}, row {number}: a question, four choices and the right one (A to D, or 0 to 3) are needed."
                )
            yield {"question": cells[0], "choices": cells[1:5], "answer": index, "subject": part}


CONVERTERS: dict[str, Callable[[Iterable[Record], str], Iterator[Record]]] = {
    "xstest": _xstest,
    "strongreject": _strongreject,
    "strongreject_jailbroken": _jailbroken,
    "wildchat": _wildchat,
    "do_not_answer": _do_not_answer,
    "simpleqa": _simpleqa,
    "halueval": _halueval,
    "ifeval": _ifeval,
    "advglue": _advglue,
    "mini": _mini,
}
# Files with a layout of their own, by source and suffix.
LAYOUTS: dict[tuple[str, str], Callable[[Path, str], Iterator[Record]]] = {
    ("mmlu", ".csv"): _mmlu_csv,
    ("advglue", ".json"): _advglue_file,
}
