"""Encodings of text files, by their byte order marks: `datasets` reads UTF-8 alone."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..errors import OGPSAError


BOM = b"\xef\xbb\xbf"  # that of UTF-8, which most readers skip; not so `datasets` in a JSON array
_MARKS = {  # byte order marks, the longer first: that of UTF-32 begins with that of UTF-16
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    BOM: "utf-8-sig",
}


def encoding_mark(path: Path) -> str | None:
    """The encoding that a byte order mark at the beginning of a file names.

    Args:
        path: a text file.

    Returns:
        Python's name of it; None where there is no mark.
    """
    with path.open("rb") as stream:
        start = stream.read(4)
    return next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)


def check_encoding(path: Path) -> None:
    """Refuse a file that says of itself that it is not in UTF-8.

    Args:
        path: a text file.

    Raises:
        OGPSAError: it begins with the mark of another encoding.
    """
    mark = encoding_mark(path)
    if mark and mark != "utf-8-sig":
        raise OGPSAError(
            f"{path} is in {mark.upper()}; UTF-8 is needed. `ogpsa data add` and `ogpsa data check --fix` convert it."
        )


def to_utf8(path: Path, copy: Path, encoding: str) -> None:
    """Write a text file once more in plain UTF-8, with the ends of its lines as they are.

    Args:
        path: the file.
        copy: the file to write.
        encoding: the first one's.

    Raises:
        OGPSAError: its byte order mark does not tell the truth.
    """
    try:
        with path.open(encoding=encoding, newline="") as old, copy.open("w", encoding="utf-8", newline="") as new:
            shutil.copyfileobj(old, new)
    except UnicodeError as error:
        raise OGPSAError(f"{path} begins as {encoding.upper()} does, and is not in it: {error}.") from None
