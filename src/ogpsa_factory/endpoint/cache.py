"""Replies on disk: each is kept as soon as it is there."""

from __future__ import annotations

import fcntl
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import OGPSAError


def writable(reply: str) -> str:
    """A reply without halves of surrogate pairs, which models write in JSON and no file can hold."""
    return reply.encode(errors="replace").decode()


class ReplyCache:
    """Replies in a JSON Lines file that only grows, so that an interrupted run pays for nothing twice."""

    def __init__(self, path: Path) -> None:
        """Open the file and lock it until `close`.

        Args:
            path: the file; it and its folder are made if need be.

        Raises:
            OGPSAError: another process uses the file, or it cannot be read, or a line of it is damaged.
        """
        self.path = path
        self._replies: dict[str, str] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        except OSError as error:
            raise OGPSAError(
                f"Cannot open the reply cache {path}: {error.strerror}. See that it is a file that you may write, or "
                "use another --output."
            ) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._load()
        except BaseException as error:
            self.close()
            if isinstance(error, BlockingIOError):
                raise OGPSAError(
                    f"Another process uses the reply cache {path}. Wait until it is done, or use another --output."
                ) from None
            if isinstance(error, OSError):
                raise OGPSAError(f"Cannot read the reply cache {path}: {error.strerror}.") from None
            raise

    def _load(self) -> None:
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file, 1):
            try:
                record = json.loads(line)
                key, reply = record["key"], record["reply"]
                if not (isinstance(key, str) and isinstance(reply, str)):
                    raise TypeError
            except (ValueError, KeyError, TypeError, RecursionError):
                if line.endswith(b"\n"):
                    raise OGPSAError(
                        f"{self.path}, line {number} is no reply. Delete this line; the other replies are kept."
                    ) from None
                # The process that wrote it was killed in the middle.
                self._file.truncate(end)
                return
            self._replies[key] = writable(reply)
            end += len(line)
        if end and not line.endswith(b"\n"):
            self._write(b"\n")

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise OGPSAError(
                f"Cannot write the reply cache {self.path}: {error.strerror}. Replies kept there: {len(self)}; make "
                "room, then the same command goes on."
            ) from None

    def add(self, key: str, reply: str, **details: Any) -> None:
        """Keep a reply, on disk too.

        Args:
            key: from `request_key`.
            reply: the reply's text.
            **details: anything else that JSON accepts, for people who read the file.

        Raises:
            OGPSAError: the disk is full or gone.
        """
        self._write(json.dumps({"key": key, **details, "reply": reply}).encode() + b"\n")
        self._replies[key] = reply

    def close(self) -> None:
        """Close the file and unlock it."""
        with suppress(OSError):  # what could not be written was reported by `add`
            self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._replies

    def __getitem__(self, key: str) -> str:
        return self._replies[key]

    def __len__(self) -> int:
        return len(self._replies)

    def __enter__(self) -> ReplyCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
