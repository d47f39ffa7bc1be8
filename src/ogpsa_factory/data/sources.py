"""The public data sets that the paper's data is made of, and where their rows come from: the hub, or files at hand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import OGPSAError
from .records import SUFFIXES, Row, hash_file, read_rows


@dataclass(frozen=True, kw_only=True)
class Source:
    """A public data set at a fixed revision.

    Attributes:
        name: how it is called in messages.
        hub: its name on the Hugging Face hub.
        revision: the commit there that is read.
        config: which of its configurations.
        split: which split.
        columns: what every row must have.
        licence: as the authors give it.
        non_commercial: whether it forbids commercial use.
        remark: what a user should know of the licence or of the origin of the text.
        rows: about how many rows it has, for the progress bar.
    """

    name: str
    hub: str
    revision: str
    config: str | None = None
    split: str = "train"
    columns: tuple[str, ...]
    licence: str
    non_commercial: bool = False
    remark: str
    rows: int


SAFERLHF = Source(
    name="PKU-SafeRLHF",
    hub="PKU-Alignment/PKU-SafeRLHF",
    revision="d79b19b2043c4b168d8d64c61ef4ba4ed1ffe2c0",  # the last one that changed data files
    columns=(
        "prompt",
        "response_0",
        "response_1",
        "is_response_0_safe",
        "is_response_1_safe",
        "response_0_severity_level",
        "response_1_severity_level",
        "safer_response_id",
    ),
    licence="CC-BY-NC-4.0",
    non_commercial=True,
    remark="Prompts and answers may be offensive or harmful. What is made of them may not be used commercially.",
    rows=73_907,
)
ULTRAFEEDBACK = Source(
    name="UltraFeedback",
    hub="openbmb/UltraFeedback",
    revision="40b436560ca83a8dba36114c22ab3c66e43f6d5e",  # with the corrected overall_score
    columns=("instruction", "completions"),
    licence="MIT",
    remark=(
        "The completions were written by 17 models, GPT-4 and LLaMA-2 among them, whose own terms may apply. The "
        "instructions include all of TruthfulQA and FalseQA, and tasks from FLAN."
    ),
    rows=63_967,
)
HALUEVAL = Source(
    name="HaluEval",
    hub="pminervini/HaluEval",
    revision="b1171838c842be2327fbd9766e904c63a4224dd7",
    config="qa",
    split="data",
    columns=("question", "right_answer", "hallucinated_answer"),
    licence="MIT",
    remark=(
        "The questions and right answers are HotpotQA's (CC BY-SA 4.0); the wrong answers were written by ChatGPT. "
        "The copy on the hub is labelled apache-2.0, the authors' repository (RUCAIBox/HaluEval) MIT."
    ),
    rows=10_000,
)


@dataclass(frozen=True)
class Origin:
    """Where a source's rows are read: `files` at hand, or the hub where there are none.

    Attributes:
        source: which one.
        files: in the order in which they are read.
        folder: what their names are relative to.
    """

    source: Source
    files: tuple[Path, ...] = ()
    folder: Path = Path()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The files' paths below the folder: the same name may be in several of its folders."""
        return tuple(path.relative_to(self.folder).as_posix() for path in self.files)

    @cached_property
    def _seen(self) -> dict[Path, tuple[tuple[int, int], str]]:
        """The state of every file before its content was looked at, and the content's hash."""
        try:
            return {path: (_state(path), hash_file(path)) for path in self.files}
        except OSError as error:
            raise OGPSAError(
                f"Cannot read {error.filename}: {error.strerror}. Start again when it is there."
            ) from None

    @property
    def described(self) -> dict[str, Any]:
        """What the data card says of it: the hub's revision, or the files' names and hashes."""
        if self.files:
            hashes = (hashed for _, hashed in self._seen.values())
            return {"files": {name: f"sha256:{hashed}" for name, hashed in zip(self.names, hashes, strict=True)}}
        source = self.source
        place = {"hub": source.hub, "revision": source.revision, "config": source.config, "split": source.split}
        return {key: value for key, value in place.items() if value}

    def identity(self) -> str:
        """A short text that changes when other rows are read; where the files lie does not matter."""
        if not self.files:
            return ", ".join(self.described.values())
        hashes = [hashed for _, hashed in self._seen.values()]
        if len(hashes) == 1:
            return f"file {hashes[0][:16]}"
        return f"{len(hashes)} files {hashlib.sha256(''.join(hashes).encode()).hexdigest()[:16]}"

    def rows(self) -> Iterator[Row]:
        """Stream the rows.

        Yields:
            Every row, with its place.

        Raises:
            OGPSAError: they cannot be read, or change meanwhile, so that their hashes would not be those of the rows.
        """
        if not self.files:
            yield from _hub_rows(self.source)
            return
        for name, (path, (state, _)) in zip(self.names, self._seen.items(), strict=True):
            for row in read_rows(path):
                yield Row(f"{name}, {row.place}", row.value)
            if not path.exists() or _state(path) != state:
                raise OGPSAError(f"{path} changed while it was read: start again when nothing writes to it any more.")


def _state(path: Path) -> tuple[int, int]:
    """Size and time of the last change."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def locate(source: Source, place: Path | None) -> Origin:
    """Find where a source is read.

    Args:
        source: which one.
        place: a file or a folder with files in the source's public schema; None for the hub. In a folder, every file
            whose first row has the source's columns is taken, but for those whose names begin with "test".

    Returns:
        Its origin.

    Raises:
        OGPSAError: there is no such file; the message has the columns that were found.
    """
    if place is None:
        return Origin(source)
    if os.path.isfile(place):  # unlike pathlib's, it takes any name
        lacking = _lacking(source, place)
        if lacking:
            raise OGPSAError(f"{place} is not {source.name}: {lacking}")
        return Origin(source, (place,), place.parent)
    if not os.path.isdir(place):
        raise OGPSAError(f"--source {place} does not exist: name a file or a folder with {source.name} in it.")
    files = [path for path in sorted(place.rglob("*")) if path.is_file() and path.suffix.lower() in SUFFIXES[:4]]
    files = [path for path in files if not path.name.startswith(".") and not path.stem.lower().startswith("test")]
    verdicts = {path: _verdict(source, path) for path in files}
    fitting = tuple(path for path in files if not verdicts[path])
    if not fitting:
        seen = "; ".join(f"{path.relative_to(place)}: {verdict}" for path, verdict in list(verdicts.items())[:10])
        raise OGPSAError(
            f"--source {place} has no file with the columns of {source.name} ({', '.join(source.columns)}). "
            + (f"Found: {seen}." if seen else f"It has no file that ends in {', '.join(SUFFIXES[:4])}.")
        )
    return Origin(source, fitting, place)


def _verdict(source: Source, path: Path) -> str:
    """Why a file in a folder is not one of the source; a broken file belongs to whatever its name says."""
    try:
        return _lacking(source, path)
    except OGPSAError as error:
        if source.name.lower().split("-")[-1] in path.as_posix().lower():
            raise
        return str(error)


def _lacking(source: Source, path: Path) -> str:
    first = next(read_rows(path), None)
    if first is None:
        return "it has no rows"
    missing = [column for column in source.columns if column not in first.value]
    if not missing:
        return ""
    return f"it lacks {', '.join(missing)} (its columns: {', '.join(map(str, first.value))})"


def _hub_rows(source: Source) -> Iterator[Row]:
    from datasets import load_dataset

    try:
        rows = load_dataset(source.hub, source.config, split=source.split, revision=source.revision, streaming=True)
        for number, value in enumerate(rows, start=1):
            yield Row(f"row {number}", value)
    except OGPSAError:
        raise
    except Exception as error:  # the hub's client, its HTTP library and `datasets` each have their own
        reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        raise OGPSAError(
            f"{source.name} ({source.hub}, revision {source.revision[:8]}) cannot be read from the hub: "
            f"{type(error).__name__}: {reason}. Mend the connection and start again, or download it elsewhere and "
            "name its folder with --source."
        ) from error
