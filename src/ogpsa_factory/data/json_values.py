"""JSON as strictly as `datasets` reads it, and the elements of an array one at a time: files have gigabytes."""

from __future__ import annotations

import codecs
import json
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
        value = json.loads(text, parse_constant=_refuse_constant)
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


class _Window:
    """The part of the text that is in memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.text = ""
        self.position = 0
        self.ended = False
        self._lines_before = 1

    @property
    def line(self) -> int:
        return self._lines_before + self.text.count("\n", 0, self.position)

    def more(self) -> None:
        """Forget what has been read and read on, as much again as is there."""
        self._lines_before += self.text.count("\n", 0, self.position)
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
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
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
