"""The run directory: its lock, and `pipeline.json`, which says what has been done with which arguments."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import OGPSAError
from .chain import Stage


STATE_FILE = "pipeline.json"
LOCK_FILE = ".lock"

# How a run is started, not what it trains: the pipeline decides on them itself.
_NOT_COMPARED = ("overwrite_output_dir", "resume_from_checkpoint")


class RunDirectory:
    """State of a run; `records` holds, per stage, what `pipeline.json` says."""

    def __init__(self, path: Path) -> None:
        """Read the state, or begin an empty one where there is none; nothing is written.

        Args:
            path: the run directory; it need not exist.

        Raises:
            OGPSAError: the path holds something that is not a run directory.
        """
        self.path = path
        self.records: dict[str, dict[str, Any]] = {}
        self._load()

    def _load(self) -> None:
        state = self.path / STATE_FILE
        if state.exists():
            try:
                self.records = json.loads(state.read_text(encoding="utf-8"))["stages"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise OGPSAError(f"Cannot read {state}: {error!r}. Choose another output_dir.") from None
        elif self.path.exists() and not (self.path.is_dir() and set(os.listdir(self.path)) <= {LOCK_FILE}):
            raise OGPSAError(
                f"output_dir: {self.path} exists and is not the directory of a pipeline (it has no {STATE_FILE}). "
                "Choose another one."
            )

    def record(self, stage: Stage, **values: Any) -> None:
        """Change a stage's record and save the state.

        Args:
            stage: which one; a stage without a record gets one.
            **values: keys and values of the record.
        """
        fresh = {"status": "pending", "config": None, "base": None, "started": None, "finished": None}
        self.records.setdefault(stage.name, {**fresh, "exit_code": None, "pid": None}).update(values)
        write_text(self.path / STATE_FILE, json.dumps({"stages": self.records}, indent=2, ensure_ascii=False) + "\n")

    def status(self, stage: Stage) -> str:
        """A stage's status: pending, running, finished or failed."""
        return str(self.records.get(stage.name, {}).get("status", "pending"))

    def owns(self, stage: Stage) -> bool:
        """Whether a stage's output folder, if there is one, was made by this pipeline."""
        inside = stage.output.resolve().parent == self.path.resolve()
        return inside and bool(self.records.get(stage.name, {}).get("started"))

    def differences(self, stage: Stage) -> list[str]:
        """Compare a stage with what is recorded of it.

        Args:
            stage: a stage that has a record.

        Returns:
            One phrase per argument that is not as it was, and one if the files of its base model are not.
        """
        record = self.records[stage.name]
        before, now = record["config"], json.loads(json.dumps(stage.config))
        keys = [key for key in {**before, **now} if key not in _NOT_COMPARED]
        found = [
            f"{key} was {_shown(before, key)} and is {_shown(now, key)}"
            for key in keys
            if (key in before, before.get(key)) != (key in now, now.get(key))
        ]
        if not found and record["base"] != stamp(stage.base):
            found.append(f"the files of the model {stage.config.get('model_name_or_path')} are not the same")
        return found

    def remove_output(self, stage: Stage) -> None:
        """Remove a stage's output folder, which must be this pipeline's own.

        Args:
            stage: which one.

        Raises:
            OGPSAError: the folder was not made here.
        """
        if not stage.output.exists():
            return
        if not self.owns(stage):
            raise OGPSAError(f"{stage.output} was not made by this pipeline, so it is not removed. Move it away.")
        shutil.rmtree(stage.output)

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Hold the run directory alone; the state is read again, as another pipeline may have changed it before.

        Yields:
            A file descriptor. Whoever inherits it holds the lock too, so training that has outlived its pipeline keeps
            others out.

        Raises:
            OGPSAError: another pipeline, or training that it had started, still runs.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._take(descriptor)
            self._load()
            yield descriptor
        finally:
            os.close(descriptor)

    def _take(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            running = [f"stage {n}, process {r['pid']}" for n, r in self.records.items() if r["status"] == "running"]
            what = f" ({running[0]})" if running else ""
            raise OGPSAError(
                f"{self.path} is in use: a pipeline, or training that one had started, still runs{what}. "
                "Wait until it ends, or stop it."
            ) from None


def stamp(folder: Path | None) -> dict[str, list[int]] | None:
    """Sizes and times of a model's files, by which a model that was built anew is noticed.

    Args:
        folder: the model's folder, or None for a model that is not a folder.

    Returns:
        ``{file name: [size in bytes, time of change in ns]}``, or None.
    """
    if folder is None:
        return None
    files = [*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("config.json")]
    return {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in sorted(files)}


def last_checkpoint(folder: Path) -> Path | None:
    """Find a stage's last checkpoint that is whole.

    Args:
        folder: the stage's output folder.

    Returns:
        The checkpoint with the most steps among those with a readable ``trainer_state.json``, which the Trainer
        writes last; None if there is none.
    """
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return max(filter(_is_whole, numbered), key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all.

    Args:
        path: the file; its folder is made.
        text: its new content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def now() -> str:
    """The time, with its zone, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _shown(config: dict[str, Any], key: str) -> str:
    return repr(config[key]) if key in config else "not set"
