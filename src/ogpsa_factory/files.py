"""Files and model folders that appear whole or not at all: written under a temporary name beside, then renamed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import OGPSAError


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def temporary_name(path: Path) -> Path:
    """Name a place beside `path` that no other process uses.

    Args:
        path: the file or folder that will be replaced.

    Returns:
        A hidden name in the same folder, so that renaming stays within one file system; the suffix is kept, because
        some writers choose the format by it.
    """
    return path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name for a file's new content and rename it to `path` if the block succeeds.

    Args:
        path: the file to write; its folder is made.

    Yields:
        The name to write to.

    Raises:
        OGPSAError: there is no room or no permission to write; what was at `path` before is still there.
    """
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if path.exists():
            shutil.copymode(path, temporary)
        _to_disk(temporary)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in _NO_ROOM or error.filename in (str(temporary), str(path.parent)):
            reason = error.strerror or error
            raise OGPSAError(f"Cannot write {path}: {reason}. Nothing there was changed.") from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Wait until a file's content is on the disk: after a power failure, its new name must not lead to nothing."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8.

    Args:
        path: the file to write; its folder is made.
        text: its new content.
    """
    with replaced_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON.

    Args:
        path: the file to write.
        value: anything that `json` accepts.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Args:
        path: the file to read.

    Returns:
        Its value.

    Raises:
        OGPSAError: the file cannot be read or holds no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OGPSAError(f"Cannot read {path}: {error}") from error


def check_replaceable_model(path: Path) -> None:
    """Refuse to replace anything but a model folder.

    Args:
        path: where a model is to be saved.

    Raises:
        OGPSAError: something else is there.
    """
    if path.is_dir():
        blocked = any(path.iterdir()) and not (path / "config.json").exists()
    else:
        blocked = path.exists()

    if blocked:
        raise OGPSAError(f"{path} exists and holds no model: it is not replaced. Choose another --output.")


@contextmanager
def replaced_model_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder for a model and put it in the place of `path` if the block succeeds.

    Args:
        path: the folder to write; an older model there is removed.

    Yields:
        The folder to write to.

    Raises:
        OGPSAError: something other than a model is at `path`.
    """
    _tidy(path)
    check_replaceable_model(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():  # a folder cannot be renamed onto one that is not empty
            discarded = temporary_name(_older(path))
            os.replace(path, discarded)
            os.replace(temporary, path)
            shutil.rmtree(discarded)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _older(path: Path) -> Path:
    """What a model is called while a newer one takes its place."""
    return path.with_name(path.name + "-old")


def _tidy(path: Path) -> None:
    """Remove what processes that were killed have left of a model folder, which may be whole models.

    A kill between the two renames leaves no model at `path`, and the older one beside it, which gets its place back.
    """
    for left in _left_behind(_older(path)):
        if path.exists() or not (left / "config.json").exists():
            shutil.rmtree(left, ignore_errors=True)
        else:
            os.replace(left, path)
    for left in _left_behind(path):
        shutil.rmtree(left, ignore_errors=True)


def _left_behind(path: Path) -> list[Path]:
    """Temporary folders of `path` whose processes have ended.

    Processes of other machines are not seen: two of them must not write one model to a shared disk at the same time.
    """
    pattern = re.compile(rf"\.{re.escape(path.stem)}\.(\d+)\.tmp{re.escape(path.suffix)}")
    folder = path.parent
    named = [(entry, pattern.fullmatch(entry.name)) for entry in (folder.iterdir() if folder.is_dir() else ())]
    return [entry for entry, match in named if match and entry.is_dir() and not _lives(int(match[1]))]


def _lives(process: int) -> bool:
    """Whether another process of this number runs, whosever it is."""
    if process == os.getpid():  # in a container, the one that was killed may have had our number
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):  # a number that is too large is no process's
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def locked(path: Path, busy: str, patience: float = 0.0) -> Iterator[None]:
    """Hold a lock that no other process holds; it ends with the process at the latest.

    Args:
        path: the lock's file, which stays.
        busy: what to say where another process holds it.
        patience: seconds to wait for that process.

    Raises:
        OGPSAError: it is held for longer, or its folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OGPSAError(f"Cannot write to {path.parent}: {error.strerror}.") from error
    try:
        deadline = time.monotonic() + patience
        while not _lock(descriptor):
            if time.monotonic() >= deadline:
                raise OGPSAError(busy)
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # some network file systems have no locks
        raise OGPSAError(f"This file system cannot lock files ({error.strerror}): use a local disk.") from None
    return True
