r"""Preference layouts that LLaMA-Factory cannot read as they are, made into messages with two answers.

Those are conversations that end in the answer (TRL), OpenAI's preference format, transcripts in one text
("\n\nHuman: … \n\nAssistant: …"), and prompts and completions that are lists of messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .layouts import LABELS, OPENAI_TAGS, Layout


Row = Mapping[str, Any]
Converter = Callable[[Row], dict[str, Any]]

_COLUMNS = {"messages": "messages"}
PAIRS = Layout(
    formatting="sharegpt",
    ranking=True,
    columns={**_COLUMNS, "chosen": "chosen", "rejected": "rejected"},
    tags=OPENAI_TAGS,
)
ANSWERS = Layout(formatting="sharegpt", columns=_COLUMNS, tags=OPENAI_TAGS)
_SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant):[ ]?")


def find_converter(rows: Sequence[Row]) -> tuple[Layout, Converter] | None:
    """Find out how rows can be made readable.

    Args:
        rows: the first ones of a file.

    Returns:
        The layout of the converted rows and the conversion of one row, which raises ValueError where a row is not as
        the first ones are; None where no conversion is known.
    """

    def all_hold(column: str, kind: type) -> bool:
        return all(isinstance(row.get(column), kind) for row in rows)

    if not rows:
        return None
    if all_hold("input", dict) and all_hold("preferred_output", list) and all_hold("non_preferred_output", list):
        return PAIRS, _from_openai_preference
    if all_hold("chosen", list) and all_hold("rejected", list):
        return PAIRS, _from_conversations
    if all_hold("chosen", str) and all_hold("rejected", str) and not any("prompt" in row for row in rows):
        if all(_SPEAKER.match(row[column]) for row in rows for column in ("chosen", "rejected")):
            return PAIRS, _from_transcripts
    if all_hold("prompt", list) and all_hold("completion", list):
        label = next((name for name in LABELS if all_hold(name, bool)), None)
        if label is None:
            return ANSWERS, _from_prompt_and_completion
        layout = replace(ANSWERS, columns={**_COLUMNS, "kto_tag": label})
        return layout, lambda row: {**_from_prompt_and_completion(row), label: row.get(label)}
    return None


def _from_conversations(row: Row) -> dict[str, Any]:
    prompt = _messages(row.get("prompt"), "prompt") if row.get("prompt") else []
    chosen, rejected = _messages(row.get("chosen"), "chosen"), _messages(row.get("rejected"), "rejected")
    if chosen[:-1] != rejected[:-1]:
        raise ValueError("chosen and rejected differ before their last message, so they do not answer the same")
    before = chosen[:-1]
    prompt = before if before[: len(prompt)] == prompt else [*prompt, *before]
    return _pair([*_system(row, prompt), *prompt], chosen[-1], rejected[-1])


def _from_openai_preference(row: Row) -> dict[str, Any]:
    given = row.get("input")
    prompt = _messages(given.get("messages") if isinstance(given, dict) else None, "input.messages")
    chosen = _messages(row.get("preferred_output"), "preferred_output")
    rejected = _messages(row.get("non_preferred_output"), "non_preferred_output")
    if len(chosen) != 1 or len(rejected) != 1:
        raise ValueError("preferred_output and non_preferred_output must have one message each")
    return _pair(prompt, chosen[0], rejected[0])


def _from_transcripts(row: Row) -> dict[str, Any]:
    both = []
    for column in ("chosen", "rejected"):
        text = row.get(column)
        parts = _SPEAKER.split(text) if isinstance(text, str) else []
        if len(parts) < 5 or parts[0].strip():
            raise ValueError(f"{column} is no transcript of Human and Assistant")
        roles = {"Human": "user", "Assistant": "assistant"}
        both.append([{"role": roles[parts[i]], "content": parts[i + 1].strip()} for i in range(1, len(parts), 2)])
    return _from_conversations({"chosen": both[0], "rejected": both[1]})


def _from_prompt_and_completion(row: Row) -> dict[str, Any]:
    messages = [*_messages(row.get("prompt"), "prompt"), *_messages(row.get("completion"), "completion")]
    return {"messages": [*_system(row, messages), *messages]}


def _system(row: Row, messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The system prompt that a row has in a column of its own, as a message, unless there is one already."""
    text = row.get("system") or row.get("system_prompt")
    if not isinstance(text, str) or (messages and messages[0]["role"] == "system"):
        return []
    return [{"role": "system", "content": text}]


def _pair(prompt: list[dict[str, str]], chosen: dict[str, str], rejected: dict[str, str]) -> dict[str, Any]:
    return {"messages": prompt, "chosen": chosen, "rejected": rejected}


def _messages(value: Any, column: str) -> list[dict[str, str]]:
    """A list of messages with role and content, and nothing else in them."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise ValueError(f"{column} must be a list of messages")
    found = []
    for message in value:
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            raise ValueError(f"{column} has a message without role and content that are texts")
        found.append({"role": role, "content": content})
    return found
