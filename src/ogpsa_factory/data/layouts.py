"""Layouts of rows: how LLaMA-Factory finds prompts and answers in them, and which layout a file has.

The names are those of `dataset_info.json`: `formatting` (alpaca: one column each; sharegpt: a list of messages),
`columns` and `tags`. OpenAI's messages are registered as sharegpt with other tags: LLaMA-Factory 0.9.5's own
formatting `openai` adds "detailed thinking off" to every system prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import OGPSAError


FORMATTINGS = ("alpaca", "sharegpt", "openai")
ALPACA_COLUMNS = {"prompt": "instruction", "query": "input", "response": "output"}
COLUMNS = (
    *("prompt", "query", "response", "history", "messages", "system", "tools"),
    *("images", "videos", "audios", "chosen", "rejected", "kto_tag"),
)
TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
OPENAI_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "system_tag": "system",
}
# What prompts and answers are called in files, the more usual names first.
_PROMPTS = ("instruction", "prompt", "question", "query", "user", "problem", "input")
_ANSWERS = ("output", "response", "completion", "answer", "right_answer", "target", "refusal", "assistant", "solution")
_CHOSEN = ("chosen", "preferred", "chosen_response", "response_chosen")
_REJECTED = ("rejected", "dispreferred", "rejected_response", "response_rejected")
LABELS = ("label", "kto_tag")
_MESSAGES = ("messages", "conversations", "conversation")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where prompts and answers are in a row.

    Attributes:
        formatting: one of `FORMATTINGS`.
        ranking: whether rows are pairs.
        columns: LLaMA-Factory's names to the file's.
        tags: for messages, LLaMA-Factory's names to the file's.
    """

    formatting: str = "alpaca"
    ranking: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    def entry(self, file_name: str) -> dict[str, Any]:
        """The entry of a file with this layout in `dataset_info.json`.

        Args:
            file_name: the file, seen from the data folder.

        Returns:
            The entry, without what LLaMA-Factory assumes anyway.
        """
        entry: dict[str, Any] = {"file_name": file_name}
        if self.formatting != "alpaca":
            entry["formatting"] = self.formatting
        if self.ranking:
            entry["ranking"] = True
        if self.columns != ALPACA_COLUMNS:
            entry["columns"] = dict(self.columns)
        if self.formatting != "alpaca" and dict(self.tags) != TAGS:
            entry["tags"] = dict(self.tags)
        return entry

    def named_columns(self) -> list[str]:
        """The file's columns that are read."""
        return [self.columns[name] for name in COLUMNS if self.columns.get(name)]


def layout_of(entry: Mapping[str, Any]) -> Layout:
    """Read an entry as LLaMA-Factory does.

    Args:
        entry: of `dataset_info.json`.

    Returns:
        The layout, with LLaMA-Factory's defaults filled in.

    Raises:
        OGPSAError: something in the entry has the wrong type or an unknown name.
    """
    formatting = entry.get("formatting", "alpaca")
    if formatting not in FORMATTINGS:
        raise OGPSAError(f"formatting: {formatting!r} is unknown; it can be {', '.join(FORMATTINGS)}")
    ranking = entry.get("ranking", False)
    if not isinstance(ranking, bool):
        raise OGPSAError(f"ranking: {ranking!r} must be true or false, without quotes")
    columns = _names(entry, "columns", COLUMNS)
    if "columns" not in entry:
        columns = {**ALPACA_COLUMNS, "messages": "conversations"}
    tags = _names(entry, "tags", tuple(TAGS)) if "tags" in entry else {}
    wanted: Sequence[str] = ("messages",) if formatting != "alpaca" else ()
    wanted = (*wanted, *(("chosen", "rejected") if ranking else ()))
    for name in wanted:
        if not columns.get(name):
            raise OGPSAError(f"columns must say which column is {name}")
    if formatting == "alpaca":
        columns.pop("messages", None)
        if not columns.get("prompt") and not columns.get("query"):
            raise OGPSAError("columns must say which column is prompt")
    else:
        for name in ("prompt", "query", "response"):
            columns.pop(name, None)
        tags = {**({} if "tags" in entry else TAGS), **tags}
        for name in ("role_tag", "content_tag", "user_tag", "assistant_tag"):
            if not tags.get(name):
                raise OGPSAError(
                    f"tags must name {name} too: where tags is there, LLaMA-Factory has no default for it"
                )
    if ranking:
        columns.pop("response", None)
    return Layout(formatting=formatting, ranking=ranking, columns=columns, tags=tags)


def _names(entry: Mapping[str, Any], key: str, known: Sequence[str]) -> dict[str, str]:
    value = entry.get(key, {})
    if isinstance(value, dict):
        value = {known_name: name for known_name, name in value.items() if name is not None}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value.values()):
        raise OGPSAError(f"{key}: {str(value)[:80]} must map LLaMA-Factory's names to those in the file")
    unknown = [name for name in value if name not in known]
    if unknown:
        raise OGPSAError(f"{key}: {', '.join(unknown)} is unknown; it can have {', '.join(known)}")
    return dict(value)


def detect(rows: Sequence[Mapping[str, Any]]) -> Layout | None:
    """Find the layout of rows.

    Args:
        rows: the first ones of a file.

    Returns:
        A layout that LLaMA-Factory can read, or None where there is none.
    """
    find = _Finder(rows)
    extra = find.column("system", ("system", "system_prompt"), str, some=True)
    extra |= find.column("kto_tag", LABELS, bool)
    chosen, rejected = find(_CHOSEN, str, dict, list), find(_REJECTED, str, dict, list)
    pair = {"chosen": chosen, "rejected": rejected} if chosen and rejected else {}
    kind = str if not find(_MESSAGES, list) else dict
    if not all(isinstance(row[column], kind) for row in rows for column in pair.values()):
        return None
    if messages := find(_MESSAGES, list):
        tags = _tags([row[messages] for row in rows])
        columns = {"messages": messages, **pair, **extra}
        return Layout(formatting="sharegpt", ranking=bool(pair), columns=columns, tags=tags) if tags else None
    prompt = find(_PROMPTS, str)
    response = {} if pair or prompt is None else find.column("response", [n for n in _ANSWERS if n != prompt], str)
    if prompt is None or not (pair or response):
        text = None if prompt or pair else find(("text", "content"), str)
        return Layout(columns={"prompt": text}) if text else None
    columns = {"prompt": prompt}
    if prompt != "input":
        columns |= find.column("query", ("input",), str, some=True)
    if response:
        extra |= find.column("history", ("history",), list, some=True)
    return Layout(ranking=bool(pair), columns=columns | pair | response | extra)


class _Finder:
    """Looks for columns by name and type."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = rows

    def __call__(self, names: Sequence[str], *kinds: type, some: bool = False) -> str | None:
        """The first name that holds these types in all rows, or, with `some`, in one row and nothing in others."""
        for name in names:
            values = [row.get(name) for row in self.rows]
            if some:
                values = [value for value in values if value is not None]
            if values and all(isinstance(value, kinds) for value in values):
                return name
        return None

    def column(self, meaning: str, names: Sequence[str], kind: type, *, some: bool = False) -> dict[str, str]:
        """The entry in `columns` of what is found; empty where nothing is."""
        found = self(names, kind, some=some)
        return {meaning: found} if found else {}


def _tags(conversations: Sequence[Any]) -> dict[str, str] | None:
    """The tags of messages, by the keys and roles that they use."""
    turns = [turn for conversation in conversations for turn in conversation]
    if not turns or not all(isinstance(turn, dict) for turn in turns):
        return None
    for tags in (OPENAI_TAGS, TAGS):
        if all(tags["role_tag"] in turn and tags["content_tag"] in turn for turn in turns):
            roles = {turn[tags["role_tag"]] for turn in turns if isinstance(turn[tags["role_tag"]], str)}
            users = [pair for pair in (("user", "assistant"), ("human", "gpt")) if roles & set(pair)]
            if len(users) == 1:
                return {**tags, "user_tag": users[0][0], "assistant_tag": users[0][1]}
    return None
