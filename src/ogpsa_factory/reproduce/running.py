"""Runs a table: pipelines row by row, then an evaluation of all models, then a report. The same command goes on."""

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
from .standing import refuse_changed
from .tables import Row, Table


EVALUATION = "evaluation"  # the folder of what is evaluated, of all tables of a model


def run_table(table: Table, output: Path, evaluate: Sequence[str], shown: Sequence[str], mini: bool) -> int:
    """Run what is not finished of a table.

    Args:
        table: what to run.
        output: folder of the evaluation, which tables of one model share, and of the report; families have folders of
            their own in it.
        evaluate: options of `ogpsa evaluate`.
        shown: benchmarks of the report; none for all that there are.
        mini: whether it is the miniature world, which is built first where it is missing.

    Returns:
        0.

    Raises:
        OGPSAError: a data set is missing, a run cannot go on, or a step has failed; what was finished before stays.
    """
    if mini and not DEFAULT_BASE.exists():
        _run("The miniature world", ["lab", "build"])
    refuse_missing(stage for stage, _ in table.runs().values())
    refuse_changed(table)
    _run("The benchmarks, before anything is trained", ["evaluate", "--dry-run", *evaluate])
    for row in table.rows:
        if row.file is not None:
            _run(f"Row {row.label}", ["pipeline", str(row.file), *row.overrides])
    only = ["--benchmarks", ",".join(shown)] if shown else []
    reports: list[str] = []
    failures: list[OGPSAError] = []
    for family, rows in table.families().items():
        place, of = output / family, f" of {family}" if family else ""
        scores, report = place / EVALUATION, place / table.name
        folders = [str(scores / row.name) for row in rows]
        try:
            _run(f"The evaluation{of}", ["evaluate", *map(_named, rows), "--output", str(scores), *evaluate])
        except OGPSAError as error:  # what has scores is worth a report
            folders = [folder for folder in folders if (Path(folder) / "scores.json").is_file()]
            if not folders:
                raise
            failures.append(error)
        _run(f"The report{of}", ["report", *folders, *only, "--output", str(report)])
        reports.append(str(report))
    print(f"{table.title}: {', '.join(reports)}")
    if failures:
        raise failures[0]
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
