"""One row as a prompt and answers, in any layout, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .layouts import Layout


@dataclass
class Example:
    """What LLaMA-Factory makes of a row.

    Attributes:
        system: the system prompt, often empty.
        turns: what user and assistant say in turns, up to the last thing the user says.
        answers: the last answer; of a pair the chosen and the rejected one.
        errors: values of the wrong type, which LLaMA-Factory or `datasets` stumbles over. The words are the same for
            all rows of a kind, so that they can be counted.
        problems: what else is wrong, in such words too: the row is left out, or teaches nothing good.
        label: whether the answer is a good one (KTO); None where rows have no labels.
    """

    system: str = ""
    turns: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    label: bool | None = None

    @property
    def prompt(self) -> str:
        """All that the user says."""
        return "\n".join(self.turns[::2])


def read_example(row: Mapping[str, Any], layout: Layout) -> Example:
    """Read a row.

    Args:
        row: with the file's columns.
        layout: where prompts and answers are.

    Returns:
        The example; where it has problems, the rest may be incomplete.
    """
    example = Example()
    if layout.columns.get("system"):
        example.system = _text(row, layout.columns["system"], example, may_lack=True)
    if layout.columns.get("kto_tag"):
        label = row.get(layout.columns["kto_tag"])
        if isinstance(label, bool):
            example.label = label
        else:
            example.problems.append(f"{layout.columns['kto_tag']} is not true or false")
    if layout.formatting == "alpaca":
        _read_columns(row, layout, example)
    else:
        _read_messages(row, layout, example)
    _judge(example, layout)
    return example


def _text(row: Mapping[str, Any], column: str, example: Example, *, may_lack: bool = False) -> str:
    value = row.get(column)
    if isinstance(value, str):
        return value
    if value is not None:
        example.errors.append(f"{column} is not text")
    elif not may_lack:
        example.problems.append(f"{column} is missing or null")
    return ""


def _read_columns(row: Mapping[str, Any], layout: Layout, example: Example) -> None:
    columns = layout.columns
    history = row.get(columns["history"]) if columns.get("history") else None
    for turn in history if isinstance(history, list) else []:
        if isinstance(turn, (list, tuple)) and len(turn) == 2 and all(isinstance(text, str) for text in turn):
            example.turns += turn
        else:
            example.errors.append(f"{columns['history']} has a turn that is not a pair of texts")
    named = [columns[name] for name in ("prompt", "query") if columns.get(name)]
    texts = [_text(row, column, example, may_lack=len(named) > 1) for column in named]
    example.turns.append("\n".join(text for text in texts if text))
    answers = ("chosen", "rejected") if layout.ranking else ("response",)
    example.answers = [_text(row, columns[name], example) for name in answers if columns.get(name)]


def _read_messages(row: Mapping[str, Any], layout: Layout, example: Example) -> None:
    column = layout.columns["messages"]
    messages = row.get(column)
    if not isinstance(messages, list):
        example.errors.append(f"{column} is {'missing or null' if messages is None else 'not a list'}")
        return
    said = [_message(message, layout, example) for message in messages]
    if layout.formatting == "openai":
        said = _joined_tool_answers(said, layout)
    if layout.ranking:
        said += [_message(row.get(layout.columns[name]), layout, example) for name in ("chosen", "rejected")]
    if example.errors:
        return
    tags = layout.tags
    if said and tags.get("system_tag") and said[0][0] == tags["system_tag"]:
        example.system = said.pop(0)[1]
    users = {tags["user_tag"], tags.get("observation_tag")}
    assistants = {tags["assistant_tag"], tags.get("function_tag")}
    prompt, answers = (said[:-2], said[-2:]) if layout.ranking else (said[:-1], said[-1:])
    in_turns = all(role in (assistants if i % 2 else users) for i, (role, _) in enumerate(prompt))
    if not in_turns or not all(role in assistants for role, _ in answers):
        example.problems.append(
            f"{column}: user and assistant must speak in turns, the user first and the assistant last"
        )
    elif len(prompt) % 2 == 0:
        example.problems.append(f"{column}: the last answer has no question before it")
    example.turns = [text for _, text in prompt]
    example.answers = [text for _, text in answers]


def _message(message: Any, layout: Layout, example: Example) -> tuple[str, str]:
    """Role and text of a message."""
    tags = layout.tags
    role_key, text_key = tags["role_tag"], tags["content_tag"]
    if not isinstance(message, dict) or not isinstance(message.get(role_key), str):
        example.errors.append(f"a message has no {role_key} that is text")
        return "", ""
    role, text = message[role_key], message.get(text_key)
    if role not in set(tags.values()):
        # LLaMA-Factory leaves the row out; with `formatting: openai` it stops.
        said = example.errors if layout.formatting == "openai" else example.problems
        said.append(f"the role {role[:40]!r} is in no tag")
    if layout.formatting == "openai" and message.get("tool_calls"):
        return tags.get("function_tag") or role, str(message["tool_calls"])
    if not isinstance(text, str):
        example.errors.append(f"a message has no {text_key} that is text")
        return role, ""
    return role, text


def _joined_tool_answers(said: list[tuple[str, str]], layout: Layout) -> list[tuple[str, str]]:
    """What several tools answer one after the other, as one message."""
    joined: list[tuple[str, str]] = []
    for role, text in said:
        if joined and role == joined[-1][0] == layout.tags.get("observation_tag"):
            joined[-1] = (role, f"{joined[-1][1]}\n{text}")
        else:
            joined.append((role, text))
    return joined


def _judge(example: Example, layout: Layout) -> None:
    if example.errors or example.problems:
        return
    only_text = layout.formatting == "alpaca" and not layout.columns.get("response") and not layout.ranking
    if not example.prompt.strip():
        example.problems.append("the text is empty" if only_text else "the prompt is empty")
    elif any(not text.strip() for text in example.answers):
        example.problems.append("an answer is empty" if layout.ranking else "the answer is empty")
    elif layout.ranking and example.answers[0].strip() == example.answers[1].strip():
        example.problems.append("the chosen and the rejected answer are the same")
