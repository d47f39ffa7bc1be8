"""Runs a table: pipelines row by row, then one evaluation of all models, then one report. The same command goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ..errors import OGPSAError
from ..lab.cli import DEFAULT_BASE
from .data import refuse_missing
from .tables import Row, Table


def run_table(table: Table, output: Path, evaluate: Sequence[str], mini: bool) -> int:
    """Run what is not finished of a table.

    Args:
        table: what to run.
        output: folder of the evaluation and the report.
        evaluate: options of `ogpsa evaluate`.
        mini: whether it is the miniature world, which is built first where it is missing.

    Returns:
        0.

    Raises:
        OGPSAError: a data set is missing, or a step has failed; what was finished before stays.
    """
    if mini and not DEFAULT_BASE.exists():
        _run("The miniature world", ["lab", "build"])
    refuse_missing(stage for stage, _ in table.runs().values())
    _run("The benchmarks, before anything is trained", ["evaluate", "--dry-run", *evaluate])
    for row in table.rows:
        if row.file is not None:
            _run(f"Row {row.name}", ["pipeline", str(row.file), *row.overrides])
    scores = output / "evaluation"
    _run("The evaluation", ["evaluate", *map(_named, table.rows), "--output", str(scores), *evaluate])
    _run("The report", ["report", str(scores), "--output", str(output / "report")])
    print(f"{table.title}: {output / 'report'}")
    return 0


def _named(row: Row) -> str:
    return f"{row.name}={row.model}"


def _run(what: str, words: Sequence[str]) -> None:
    """Run one command of ours as a process of its own, in front of the user."""
    print(f"### {what}: ogpsa {' '.join(words)}", flush=True)
    process = subprocess.Popen([sys.executable, "-m", "ogpsa_factory.cli", *words])
    with _handing_on_signals(process) as received:
        code = process.wait()
    if signal.SIGINT in received:
        raise KeyboardInterrupt
    if code != 0:
        raise OGPSAError(
            f"{what}: `ogpsa {words[0]}` ended with {code}, see above. What was finished stays, and the same command "
            "goes on from there."
        )


@contextmanager
def _handing_on_signals(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Let a process end by itself when this one is to stop: a pipeline has training to stop, which takes a while."""
    received: list[int] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if number != signal.SIGINT and process.poll() is None:  # Ctrl-C at a terminal reaches it anyway
            process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
