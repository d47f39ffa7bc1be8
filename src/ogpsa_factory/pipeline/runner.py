"""Runs stages: one process each, its output in a log, its progress on the terminal, its end in `pipeline.json`."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ..errors import OGPSAError
from ..files import write_text
from .display import LogReader, PlainDisplay
from .plan import Step
from .processes import Stopped, start, stop
from .state import RunDirectory, now


POLL_SECONDS = 0.5
_TAIL_LINES = 15

# The last line of a traceback; not its indented source lines, and not "Exception ignored in".
_ERROR = re.compile(r"(?:\[rank\d+\]: )?([\w.]*(?:Error|Exception))(:.*)?$")
_OTHERS_ERRORS = ("ChildFailedError", "CalledProcessError")  # a process that was started has failed


def launcher() -> Path:
    """Find LLaMA-Factory's command beside the running interpreter.

    Returns:
        Its path.

    Raises:
        OGPSAError: it is not there.
    """
    path = Path(sys.executable).parent / "llamafactory-cli"
    if not path.exists():
        raise OGPSAError(f"{path} does not exist: LLaMA-Factory is not installed beside {sys.executable}.")
    return path


def config_file(run_dir: Path, step: Step) -> Path:
    """Where the arguments that a stage gets are written."""
    return run_dir / "configs" / f"{step.stage.number}_{step.stage.name}.yaml"


def log_file(run_dir: Path, step: Step) -> Path:
    """Where what a stage prints is written."""
    return run_dir / "logs" / f"{step.stage.number}_{step.stage.name}.log"


def command(run_dir: Path, step: Step) -> list[str]:
    """The command that runs a stage."""
    if step.stage.merges:
        config = step.stage.config
        words = [config["merge_base"], config["model_name_or_path"], "--output", config["output_dir"]]
        words += ["--revision", config["model_revision"]] if "model_revision" in config else []
        return [sys.executable, "-m", "ogpsa_factory.merge", *words, "--weight", str(config["merge"])]
    return [str(launcher()), "train", str(config_file(run_dir, step))]


def run_steps(steps: list[Step], run: RunDirectory, lock: int, display: PlainDisplay) -> None:
    """Do what a plan says.

    Args:
        steps: the plan.
        run: the run directory.
        lock: descriptor of its lock, which every stage inherits.
        display: for the progress.

    Raises:
        OGPSAError: a stage failed.
        KeyboardInterrupt: Ctrl-C; the running stage has been stopped.
        Stopped: the same for SIGTERM and SIGHUP.
    """
    anew = [step for step in steps if step.action == "run"]
    for step in anew:  # before anything is removed: a folder that is half removed must not count as finished
        run.record(step.stage, status="pending")
    for step in anew:
        run.remove_output(step.stage)
    with _stopping_on_signals():
        for step in steps:
            if step.action == "skip":
                display.end(step.stage.name, "finished before")
            else:
                _run_step(step, run, lock, display)


def _run_step(step: Step, run: RunDirectory, lock: int, display: PlainDisplay) -> None:
    stage, log = step.stage, log_file(run.path, step)
    write_text(config_file(run.path, step), step.launched_yaml())
    log.parent.mkdir(exist_ok=True)
    begin = log.stat().st_size if log.exists() else 0
    process: subprocess.Popen[bytes] | None = None
    started = time.monotonic()
    run.record_start(stage)
    display.start(stage.name, f"starting, to {step}" if step.checkpoint or step.reason else "starting")
    reader = LogReader(stage.output / "trainer_log.jsonl")
    try:
        with log.open("ab") as output:
            output.write(f"### {now()} {step}: {' '.join(command(run.path, step))}\n".encode())
            output.flush()
            process = start(command(run.path, step), output.fileno(), lock, run.path)
        run.record(stage, pid=process.pid)
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            display.show(stage.name, reader.read())
    finally:
        if process is not None:
            stop(process, run.path)
        code = None if process is None else process.returncode
        run.record(stage, status="finished" if code == 0 else "failed", finished=now(), exit_code=code)
        figures = reader.read()
        took = f"after {time.monotonic() - started:.0f} s" + (f", {figures}" if figures else "")
        display.end(stage.name, f"{'finished' if code == 0 else 'not finished'} {took}")
    if code != 0:
        lines = _printed(log, begin)
        reason = _reason(lines)
        raise OGPSAError(
            f"stage {stage.name} failed (exit code {code})"
            + (f": {reason}\n" if reason else ". ")
            + f"The same command tries it again. The end of {log}:\n"
            + "\n".join(f"    {line}" for line in lines[-_TAIL_LINES:])
        )


@contextmanager
def _stopping_on_signals() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(signal.Signals(number).name)

    # One that is ignored (SIGHUP under nohup) stays ignored.
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _reason(lines: list[str]) -> str:
    """The line that says why: where torchrun was the launcher, its summary stands behind it."""
    errors = [match.groups("") for line in lines if (match := _ERROR.match(line))]
    causes = [(name, text) for name, text in errors if not name.endswith(_OTHERS_ERRORS)]
    own = [(name, text) for name, text in causes if name.endswith("OGPSAError")]
    return next((name + text for name, text in [*own, *causes]), "")


def _printed(log: Path, begin: int) -> list[str]:
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read().decode(errors="replace")
    # A progress bar rewrites its line: its last state is what a terminal would show.
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    return [line for line in lines if line.strip()]
