"""Sets that a former build left behind: whether they are what would be built now, and what is in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import OGPSAError
from .cards import read_facts
from .records import hash_file, read_rows


def differences(path: Path, settings: Mapping[str, Any]) -> list[str]:
    """Say in what a set is not the one that would be built now.

    Args:
        path: its file; the card is beside it.
        settings: what the rows would follow from.

    Returns:
        What differs, in words; nothing where there is no such file.
    """
    if not path.exists():
        return []
    facts = read_facts(path.with_suffix(".md"))
    if not facts:
        return [f"no readable card {path.with_suffix('.md').name} says what it was made from"]
    former = facts["settings"]
    changes = [(name, _shown(former, name), _shown(settings, name)) for name in {**settings, **former}]
    return _damage(path, facts["sha256"]) + [f"{name} {old} -> {new}" for name, old, new in changes if old != new]


def _damage(path: Path, sha256: str) -> list[str]:
    try:
        return [] if hash_file(path) == sha256 else ["the file was changed after it was built"]
    except OSError as error:  # no permission, or a folder
        return [f"the file cannot be read: {error.strerror}"]


def _shown(settings: Mapping[str, Any], name: str) -> str:
    value = settings.get(name, "not set")
    return "none" if value is None else str(value)


def instructions_in(paths: Iterable[Path]) -> set[str]:
    """The instructions in sets that are there.

    Args:
        paths: their files, there or not.

    Returns:
        The values of their column `instruction`.

    Raises:
        OGPSAError: a file cannot be read.
    """
    found: set[str] = set()
    for path in paths:
        if not path.exists():
            continue
        try:
            found |= {str(row.value.get("instruction")) for row in read_rows(path)}
        except OGPSAError as error:
            raise OGPSAError(
                f"{str(error).rstrip('.')}. Its instructions may not be in the set that is to be built: mend the "
                "file, make it anew with --replace, or choose another --output."
            ) from None
    return found
