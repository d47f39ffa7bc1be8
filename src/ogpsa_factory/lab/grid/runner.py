"""Makes the models of a grid that are not there yet, several at a time."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from ...errors import OGPSAError
from ...files import locked, read_json
from .nodes import Node
from .worker import RESULT, begin, make


MODELS, LOGS = "models", "logs"  # folders of a lab's results
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


def make_all(
    nodes: Iterable[Node], output: Path, jobs: int, on_done: Callable[[Node, str | None], None]
) -> dict[str, str]:
    """Make models, each after those that it needs; those that are finished are left alone.

    Args:
        nodes: the models, those that others need first.
        output: folder of a lab's results.
        jobs: processes, each of one thread.
        on_done: told every model, made or found, and what was wrong with it (None: nothing).

    Returns:
        What was wrong, by the model's name; a model is missing too where one that it needs is.

    Raises:
        OGPSAError: another process is at work in this folder, or one of ours was killed.
    """
    waiting = {node.key: node for node in nodes}
    problems: dict[str, str] = {}
    done: set[str] = set()
    busy = f"{output} is in use by another `ogpsa lab`: wait for it, or name another --output."
    with locked(output / ".lock", busy), tempfile.TemporaryDirectory() as cache:
        for key in [key for key in waiting if finished(output, key) is not None]:
            done.add(key)
            on_done(waiting.pop(key), None)
        if not waiting:
            return {}
        before = {name: os.environ.get(name) for name in (*_ENVIRONMENT, "HF_DATASETS_CACHE")}
        os.environ.update(_ENVIRONMENT, HF_DATASETS_CACHE=cache)  # what LLaMA-Factory caches of the data goes with it
        spawn = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(jobs, mp_context=spawn, initializer=begin, initargs=(output / LOGS,))
        try:
            _work_off(pool, waiting, output / MODELS, jobs, done, problems, on_done)
        except BrokenProcessPool:
            raise OGPSAError(
                "A process that trained was killed, perhaps for want of memory. Its log is in "
                f"{output / LOGS}; the same command goes on with what is missing."
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
    return problems


def _work_off(
    pool: ProcessPoolExecutor,
    waiting: dict[str, Node],
    models: Path,
    jobs: int,
    done: set[str],
    problems: dict[str, str],
    on_done: Callable[[Node, str | None], None],
) -> None:
    running: dict[Future[Any], Node] = {}
    while waiting or running:
        for key, node in list(waiting.items()):
            bad = next((need for need in node.needs if need in problems), None)
            if bad is not None:
                problems[key] = f"it needs {bad}, which is missing"
                on_done(waiting.pop(key), problems[key])
            elif len(running) < 2 * jobs and done.issuperset(node.needs):
                running[pool.submit(make, waiting.pop(key), models)] = node
        if not running:
            continue
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            node = running.pop(future)
            try:
                future.result()
                done.add(node.key)
                on_done(node, None)
            except BrokenProcessPool:
                raise
            except Exception as error:  # the other points are worth finishing
                problems[node.key] = f"{type(error).__name__}: {error}"
                on_done(node, problems[node.key])
