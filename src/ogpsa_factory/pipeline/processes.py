"""The processes of a stage: how they are started, found and stopped.

A stage is a process group of its own, but torchrun puts its workers into sessions of theirs, so the group does not
reach them. What every descendant has is the environment, and there a variable names the run directory.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


GRACE_SECONDS = 45.0  # between asking a stage to stop and stopping it; torchrun gives its workers 30 s
VARIABLE = "OGPSA_PIPELINE_RUN"


class Stopped(BaseException):
    """The pipeline was told to stop by a signal other than Ctrl-C."""


def processes_of(run_dir: Path) -> list[int]:
    """Find the living processes that a pipeline has started for a run, as far as there is a /proc.

    Args:
        run_dir: the run directory.

    Returns:
        Process ids of this user, this process left out.
    """
    wanted = f"{VARIABLE}={run_dir.resolve()}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes()  # empty for a process that has ended
        except OSError:  # gone by now, or another user's
            continue
        if wanted in variables.split(b"\0"):
            found.append(int(folder.name))
    return sorted(set(found) - {os.getpid()})


def start(arguments: list[str], output: int, lock: int, run_dir: Path) -> subprocess.Popen[bytes]:
    """Start a stage.

    Args:
        arguments: its command.
        output: descriptor to which it prints.
        lock: descriptor of the run directory's lock, which it inherits.
        run_dir: the run directory.

    Returns:
        The process, which leads a group of its own: Ctrl-C at the terminal is the pipeline's to pass on.
    """
    # LLaMA-Factory calls `torchrun` by its bare name.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PATH": path, VARIABLE: str(run_dir.resolve())},
        pass_fds=(lock,),
        start_new_session=True,
    )


def stop(process: subprocess.Popen[bytes], run_dir: Path) -> None:
    """End a stage that still runs or has failed, with all that it has started; a second signal makes it quick.

    Args:
        process: the stage.
        run_dir: the run directory.
    """
    if process.poll() == 0:
        return
    try:
        _signal_group(process, signal.SIGTERM)  # torchrun ends its workers itself, so they are not asked yet
        _wait_while(lambda: _group_lives(process))
        _signal_all(processes_of(run_dir), signal.SIGTERM)
        _wait_while(lambda: bool(processes_of(run_dir)))
    except (KeyboardInterrupt, Stopped):
        pass
    _signal_group(process, signal.SIGKILL)
    _signal_all(processes_of(run_dir), signal.SIGKILL)
    process.wait()


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    """Whether any process of the group is left: `llamafactory-cli` is gone at once, its torchrun is not."""
    process.poll()  # or it would stay in the group as a zombie
    return _signal_group(process, 0)


def _signal_group(process: subprocess.Popen[bytes], number: int) -> bool:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def _signal_all(processes: list[int], number: int) -> None:
    for process in processes:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            pass


def _wait_while(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    while condition() and time.monotonic() < deadline:
        time.sleep(0.05)
