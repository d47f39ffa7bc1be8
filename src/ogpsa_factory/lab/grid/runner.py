"""Makes the models of a grid that are not there yet, several at a time."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import OGPSAError
from ...files import locked, read_json
from .nodes import Node
from .worker import RESULT, attempt, begin


MODELS, LOGS = "models", "logs"  # folders of a lab's results
OnDone = Callable[[Node, str | None], None]  # told every model, and what was wrong with it (None: nothing)
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}


def finished(output: Path, key: str) -> dict[str, Any] | None:
    """Read what is known of a model.

    Args:
        output: folder of a lab's results.
        key: the model's name.

    Returns:
        The content of its `result.json`; None where the model is not finished.
    """
    path = output / MODELS / key / RESULT
    return read_json(path) if path.exists() else None


@contextmanager
def at_work(output: Path) -> Iterator[None]:
    """Keep a folder of results to ourselves, and remove what processes that were killed have left half-made in it.

    Args:
        output: the folder.

    Raises:
        OGPSAError: another process is at work there.
    """
    busy = f"{output} is in use by another `ogpsa lab`: wait for it, or name another --output."
    with locked(output / ".lock", busy):
        for left in (output / MODELS).glob(".*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def make_all(nodes: Iterable[Node], output: Path, jobs: int, on_done: OnDone) -> dict[str, str]:
    """Make models, each after those that it needs; those that are finished are left alone.

    Args:
        nodes: the models, those that others need first.
        output: folder of a lab's results, which `at_work` keeps.
        jobs: processes, each of one thread.
        on_done: told every model, made or found.

    Returns:
        What was wrong, by the model's name; a model is missing too where one that it needs is.

    Raises:
        OGPSAError: one of our processes was killed.
    """
    waiting = {node.key: node for node in nodes}
    done: set[str] = set()
    for key in [key for key in waiting if finished(output, key) is not None]:
        done.add(key)
        on_done(waiting.pop(key), None)
    if not waiting:
        return {}
    with tempfile.TemporaryDirectory() as cache, _environment(HF_DATASETS_CACHE=cache, **_ENVIRONMENT):
        spawn = multiprocessing.get_context("spawn")
        arguments = output / LOGS, os.getpid()
        pool = ProcessPoolExecutor(jobs, mp_context=spawn, initializer=begin, initargs=arguments)
        try:
            return _work_off(pool, waiting, output / MODELS, jobs, done, on_done)
        except BrokenProcessPool:
            raise OGPSAError(
                "A process that trained was killed, perhaps for want of memory. Its log is in "
                f"{output / LOGS}; the same command goes on with what is missing."
            ) from None
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():  # what they are at is made anew next time
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set variables that our processes are to start with."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _work_off(
    pool: ProcessPoolExecutor, waiting: dict[str, Node], models: Path, jobs: int, done: set[str], on_done: OnDone
) -> dict[str, str]:
    problems: dict[str, str] = {}
    running: dict[Future[str | None], Node] = {}
    while waiting or running:
        for key, node in list(waiting.items()):
            bad = next((need for need in node.needs if need in problems), None)
            if bad is not None:
                problems[key] = f"it needs {bad}, which is missing"
                on_done(waiting.pop(key), problems[key])
            elif len(running) < jobs and done.issuperset(node.needs):
                running[pool.submit(attempt, waiting.pop(key), models)] = node
        for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
            node = running.pop(future)
            problem = future.result()
            if problem is None:
                done.add(node.key)
            else:
                problems[node.key] = problem
            on_done(node, problem)
    return problems
