"""JSON as strictly as `datasets` reads it, and the elements of an array one at a time: files have gigabytes."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any


_CHUNK = 1 << 16  # bytes read at a time
_LONGEST = 1 << 26  # characters of one element; without a bound, one missing bracket would read the whole file
_SPACE = " \t\r\n"


def parse_json(text: str) -> Any:
    """Parse JSON as strictly as `datasets` does.

    Args:
        text: one JSON value.

    Returns:
        The value.

    Raises:
        ValueError: it is no JSON, is nested too deep, or holds what cannot be written as UTF-8.
    """
    try:
        value = json.loads(text, **_STRICT)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} (column {error.pos + 1})") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    _check_text(value, text)
    return value


def _check_text(value: Any, text: str) -> None:
    """Refuse half of a surrogate pair, which JSON can write and UTF-8 cannot."""
    if "\\ud" not in text.lower():
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair (\\ud800 to \\udfff), which is no character") from None


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) < len(members):
        names = [name for name, _ in members]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)[:40]} is there twice")
    return found


_STRICT: dict[str, Any] = {"parse_constant": _refuse_constant, "object_pairs_hook": _object}


class _Window:
    """The part of the text that is in memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.text = ""
        self.position = 0
        self.ended = False
        self._counted = 0  # up to where in the text lines have been counted
        self._line = 1

    @property
    def line(self) -> int:
        """The line of the position, from 1."""
        self._line += self.text.count("\n", self._counted, self.position)
        self._counted = self.position
        return self._line

    def more(self) -> None:
        """Forget what has been read and read on, as much again as is there."""
        _ = self.line
        self._counted = 0
        rest = self.text[self.position :]
        data = self._stream.read(max(_CHUNK, len(rest)))
        self.ended = not data
        self.text = rest + self._decoder.decode(data, final=self.ended)
        self.position = 0

    def next_character(self) -> str:
        """The next character that is no space, which is not consumed; empty at the end."""
        while True:
            while self.position < len(self.text) and self.text[self.position] in _SPACE:
                self.position += 1
            if self.position < len(self.text) or self.ended:
                return self.text[self.position : self.position + 1]
            self.more()


def array_values(stream: IO[bytes]) -> Iterator[tuple[str, Any]]:
    """Read the elements of the array that a file holds.

    Args:
        stream: a file in UTF-8 whose first character is an opening bracket.

    Yields:
        The place of each element and its value; instead of the value a ValueError, behind which nothing follows, where
        the text is no JSON.
    """
    window = _Window(stream)
    count = 0
    try:
        window.next_character()
        window.position += 1
        if window.next_character() == "]":
            window.position += 1
        else:
            while True:
                count += 1
                window.next_character()
                place = f"row {count} (line {window.line})"
                value = _element(window)
                yield place, value
                separator = window.next_character()
                window.position += 1
                if separator == "]":
                    break
                if separator != ",":
                    found = (
                        f"{separator!r} stands" if separator else "the file ends (an interrupted download or copy?)"
                    )
                    yield f"behind row {count} (line {window.line})", ValueError(f"{found} where , or ] is needed")
                    return
        if window.next_character():
            yield f"line {window.line}", ValueError("something follows behind the end of the list")
    except UnicodeDecodeError as error:
        problem = f"byte 0x{error.object[error.start]:02x} is not UTF-8: save the file in UTF-8"
        yield f"behind row {max(count - 1, 0)} (line {window.line} or later)", ValueError(problem)
    except (ValueError, RecursionError) as error:
        problem = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        yield f"row {count} (line {window.line})", ValueError(problem)


def _element(window: _Window) -> Any:
    decoder = json.JSONDecoder(**_STRICT)
    while True:
        try:
            start = window.position
            value, window.position = decoder.raw_decode(window.text, start)
            _check_text(value, window.text[start : window.position])
            return value
        except json.JSONDecodeError as error:
            if window.ended:
                hint = "the file ends in the middle of a row (an interrupted download or copy?)"
                at_end = error.pos >= len(window.text) or error.msg.startswith("Unterminated")
                raise ValueError(f"{hint}: {error.msg}" if at_end else error.msg) from None
            if len(window.text) - window.position > _LONGEST:
                raise ValueError(f"{error.msg}, or the row has more than {_LONGEST:,} characters") from None
            window.more()


def _members(text: str) -> list[tuple[str, int, int]]:
    """Name, beginning and end of the value of every member of the object that a text (known to be one) holds."""
    decoder = json.JSONDecoder()
    found: list[tuple[str, int, int]] = []

    def skip(position: int) -> int:
        while text[position] in _SPACE:
            position += 1
        return position

    position = skip(skip(0) + 1)
    while text[position] != "}":
        name, position = decoder.raw_decode(text, position)
        start = skip(skip(position) + 1)
        _, end = decoder.raw_decode(text, start)
        found.append((name, start, end))
        position = skip(end)
        if text[position] == ",":
            position = skip(position + 1)
    return found


def with_member(text: str, name: str, value: dict[str, Any]) -> str:
    """Replace one member of an object, or add it behind the others; all else keeps its characters.

    Args:
        text: JSON that is known to be an object.
        name: of the member.
        value: of the member.

    Returns:
        The new text.
    """
    members = _members(text)
    inside = text[text.index("{") + 1 :]
    indent = re.match(r"[ \t]*\r?\n([ \t]+)\"", inside)
    unit = indent.group(1) if indent else "  "
    # Escapes only: LLaMA-Factory opens the file in the encoding of the user's locale.
    lines = json.dumps(value, indent=unit).replace("\n", f"\n{unit}")
    for found, start, end in members:
        if found == name:
            return text[:start] + lines + text[end:]
    member = f"\n{unit}{json.dumps(name)}: {lines}"
    if members:
        last = members[-1][2]
        rest = text[last:]
        return text[:last] + "," + member + (rest if rest.lstrip(" \t").startswith(("\n", "\r")) else "\n" + rest)
    opening = text.index("{") + 1
    return text[:opening] + member + "\n" + text[opening:].lstrip()
