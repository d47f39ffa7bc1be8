"""Runs stages: one process each, its output in a log, its progress on the terminal, its end in `pipeline.json`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ..errors import OGPSAError
from .display import LogReader, PlainDisplay
from .plan import Step
from .state import RunDirectory, now, stamp, write_text


POLL_SECONDS = 0.5
GRACE_SECONDS = 30.0  # between asking a stage to stop and stopping it
_TAIL_LINES = 15


class Stopped(BaseException):
    """The pipeline was told to stop by a signal other than Ctrl-C."""


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
    run.record(stage, status="running", config=stage.config, base=stamp(stage.base), started=now())
    run.record(stage, finished=None, exit_code=None, pid=None)
    display.start(stage.name, "starting" if step.action == "run" else f"starting, to {step}")
    reader = LogReader(stage.output / "trainer_log.jsonl")
    try:
        with log.open("ab") as output:
            output.write(f"### {now()} {step}: {' '.join(command(run.path, step))}\n".encode())
            output.flush()
            process = _start(command(run.path, step), output.fileno(), lock)
        run.record(stage, pid=process.pid)
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            display.show(stage.name, reader.read())
    finally:
        if process is not None:
            _stop(process)
        code = None if process is None else process.returncode
        run.record(stage, status="finished" if code == 0 else "failed", finished=now(), exit_code=code)
        figures = reader.read()
        took = f"after {time.monotonic() - started:.0f} s" + (f", {figures}" if figures else "")
        display.end(stage.name, f"{'finished' if code == 0 else 'not finished'} {took}")
    if code != 0:
        raise OGPSAError(
            f"stage {stage.name} failed (exit code {code}). The same command tries it again. "
            f"The end of {log}:\n{_tail(log, begin)}"
        )


def _start(arguments: list[str], output: int, lock: int) -> subprocess.Popen[bytes]:
    # LLaMA-Factory calls `torchrun` by its bare name. A session of its own: a signal reaches torchrun and its workers.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PATH": path},
        pass_fds=(lock,),
        start_new_session=True,
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a stage that still runs, with all the processes that it has started; a second signal makes it quick."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        _wait_for_group(process)
    except (KeyboardInterrupt, Stopped):
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _wait_for_group(process: subprocess.Popen[bytes]) -> None:
    """Wait for the whole group: `llamafactory-cli` is gone at once, and its torchrun has workers to stop yet."""
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline:
        process.poll()  # or it would stay in the group as a zombie
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)


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


def _tail(log: Path, begin: int) -> str:
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read().decode(errors="replace")
    # A progress bar rewrites its line: its last state is what a terminal would show.
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    return "\n".join(f"    {line}" for line in [line for line in lines if line.strip()][-_TAIL_LINES:])
