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
from ..files import write_text
from .chain import Stage, adapters_of
from .processes import processes_of
from .stamps import data_stamps, model_stamp


STATE_FILE = "pipeline.json"
LOCK_FILE = ".lock"

# How a run is started and where it writes, not what it trains: the pipeline decides on them itself.
_NOT_COMPARED = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint")


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
        keys = ("config", "base", "data", "started", "finished", "exit_code", "pid")
        self.records.setdefault(stage.name, {"status": "pending", **dict.fromkeys(keys)}).update(values)
        write_text(self.path / STATE_FILE, json.dumps({"stages": self.records}, indent=2, ensure_ascii=False) + "\n")

    def record_start(self, stage: Stage) -> None:
        """Record that a stage starts, and what it starts from.

        Args:
            stage: which one.
        """
        beginning = {"status": "running", "started": now(), "finished": None, "exit_code": None, "pid": None}
        inputs = {"base": model_stamp(stage.base), "data": data_stamps(stage.config)}
        self.record(stage, **beginning, config=stage.config, **inputs)

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
            One phrase per argument that is not as it was; if there is none, one per model and data set whose files
            are not.
        """
        record = self.records[stage.name]
        before, now = record["config"], json.loads(json.dumps(stage.config))
        compared_before, compared_now = _without_place(before), _without_place(now)
        found = [
            f"{key} was {_shown(before, key)} and is {_shown(now, key)}"
            for key in {**compared_before, **compared_now}
            if (key in before, compared_before.get(key)) != (key in now, compared_now.get(key))
        ]
        if found:
            return found
        found = [f"stage {name}, from which it starts, was run again" for name in self._run_again(stage)]
        if record["base"] != model_stamp(stage.base):
            model = stage.config.get("merge_base" if stage.merges else "model_name_or_path")
            found.append(f"the files of the model {model} are not the same")
        data = record.get("data") or {}  # absent in the records of earlier versions
        files = data_stamps(stage.config)
        return found + [f"the files of data set {name} are not the same" for name in data if data[name] != files[name]]

    def _run_again(self, stage: Stage) -> Iterator[str]:
        """The stages whose models a stage has started from and that are not finished, or were started after it.

        Within one pipeline the stages behind one that is restarted are restarted too; this is for pipelines that
        share a run directory.
        """
        began = self.records[stage.name].get("started")
        for path in map(Path, [str(stage.config.get("model_name_or_path", "")), *adapters_of(stage.config)]):
            record = self.records.get(path.name)
            if record is None or path.resolve().parent != self.path.resolve() or path.name == stage.name:
                continue
            times = [datetime.fromisoformat(text) if text else None for text in (began, record.get("started"))]
            if record["status"] != "finished" or (times[0] and times[1] and times[1] > times[0]):
                yield path.name

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
            others out, on systems without /proc as well.

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
            stages = [f"stage {n}, process {r['pid']}" for n, r in self.records.items() if r["status"] == "running"]
            what = f" ({stages[0]})" if stages else ""
            raise OGPSAError(
                f"{self.path} is in use: a pipeline, or training that one had started, still runs{what}. "
                f"Wait until it ends, or stop it{_kill(processes_of(self.path))}."
            ) from None
        running = processes_of(self.path)
        if running:
            raise OGPSAError(
                f"{self.path} is in use: processes of training that a pipeline had started still run. "
                f"Wait until they end, or stop them{_kill(running)}."
            )


def now() -> str:
    """The time, with its zone, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _kill(processes: list[int]) -> str:
    return f" with `kill {' '.join(map(str, processes))}`" if processes else ""


def _shown(config: dict[str, Any], key: str) -> str:
    return repr(config[key]) if key in config else "not set"


def _without_place(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments to compare, with what other stages have trained named by its place in the run directory.

    A run directory that was moved, or is named by another path, is the same run.
    """
    run_dir = Path(config["output_dir"]).parent

    def place(path: str) -> str:
        inside = Path(path).is_relative_to(run_dir)
        return str("run directory" / Path(path).relative_to(run_dir)) if inside else path

    compared = {key: value for key, value in config.items() if key not in _NOT_COMPARED}
    if isinstance(compared.get("model_name_or_path"), str):
        compared["model_name_or_path"] = place(compared["model_name_or_path"])
    if compared.get("adapter_name_or_path"):
        compared["adapter_name_or_path"] = [place(path) for path in adapters_of(config)]
    return compared
