"""Progress for the person at the terminal: one line per stage, or two lines of text where there is no terminal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Figures:
    """How far a stage has come."""

    step: int
    total: int
    loss: float | None
    remaining: str

    def __str__(self) -> str:
        """Steps and loss in words."""
        loss = "" if self.loss is None else f", loss {self.loss:.4g}"
        return f"{self.step}/{self.total} steps{loss}"


class LogReader:
    """Follows the `trainer_log.jsonl` that LLaMA-Factory appends to."""

    def __init__(self, path: Path) -> None:
        """Begin after what is there already, which an earlier attempt has written.

        Args:
            path: the file; it need not exist yet.
        """
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self.latest: Figures | None = None

    def read(self) -> Figures | None:
        """Read what was added.

        Returns:
            The latest figures, None before the first.
        """
        if not self._path.exists():
            return None
        with self._path.open("rb") as file:
            file.seek(self._offset)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]  # the last line may be half written
        self._offset += len(whole)
        for line in whole.splitlines():
            entry = json.loads(line)
            loss = entry.get("loss", self.latest.loss if self.latest else None)
            self.latest = Figures(entry["current_steps"], entry["total_steps"], loss, entry["remaining_time"])
        return self.latest


class PlainDisplay:
    """One line when a stage starts and one when it ends."""

    def __init__(self, console: Console) -> None:
        """Print to a console.

        Args:
            console: where to.
        """
        self.console = console

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def start(self, name: str, text: str) -> None:
        """Say that a stage starts.

        Args:
            name: the stage's name.
            text: how.
        """
        self.console.print(f"{name}: {text}", highlight=False, markup=False, soft_wrap=True)

    def end(self, name: str, text: str) -> None:
        """Say how a stage has ended.

        Args:
            name: the stage's name.
            text: how.
        """
        self.start(name, text)

    def show(self, name: str, figures: Figures | None) -> None:
        """Show how far a stage has come; not here.

        Args:
            name: the stage's name.
            figures: None while the model is loaded.
        """


class TerminalDisplay(PlainDisplay):
    """One live line per stage."""

    def __init__(self, console: Console, names: list[str]) -> None:
        """Prepare the lines.

        Args:
            console: a terminal.
            names: of all stages.
        """
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        super().__init__(console)
        title, text = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[text]}", markup=False)
        self._progress = Progress(SpinnerColumn(finished_text=" "), title, BarColumn(24), text, console=console)
        self._tasks = {name: self._progress.add_task(name, total=None, visible=False, text="") for name in names}

    def __enter__(self) -> TerminalDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def start(self, name: str, text: str) -> None:
        """Show a stage's line, with a spinner until there are figures.

        Args:
            name: the stage's name.
            text: how it starts.
        """
        self._progress.update(self._tasks[name], visible=True, text=text)

    def end(self, name: str, text: str) -> None:
        """Write a stage's last word on its line.

        Args:
            name: the stage's name.
            text: how it has ended.
        """
        self._progress.update(self._tasks[name], visible=True, text=text, total=1, completed=1)

    def show(self, name: str, figures: Figures | None) -> None:
        """Move a stage's bar.

        Args:
            name: the stage's name.
            figures: None while the model is loaded.
        """
        if figures is not None:
            text = f"{figures}, {figures.remaining} left"
            self._progress.update(self._tasks[name], completed=figures.step, total=figures.total, text=text)
