"""What one sees while a study runs: a bar for each running cell and one for all on a terminal, a line for each finished cell elsewhere.

Everything goes to stderr, so that stdout holds the result only.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, TextIO

from simplicial_reg.study.record import Cell, Record

__all__ = ["Board", "NoBoard", "make_board"]


class NoBoard:
    """Shows nothing."""

    def __enter__(self) -> NoBoard:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def note(self, text: str) -> None:
        """Say something once."""

    def expect(self, total: int) -> None:
        """Say how many cells there will be, now that more is known."""

    def step(self, cell: Cell, state: Mapping[str, Any]) -> None:
        """Show how far a cell is: ``step`` of ``steps``, ``selection`` or ``task_loss``."""

    def finish(self, record: Record) -> None:
        """Take a cell's bar away, and count it."""


class Board(NoBoard):
    """One line on stderr for each finished cell.

    Args:
        total: number of cells of the whole study.
        done: how many of them are recorded.
        jobs: how many run at the same time.
        stream: where the lines go.
    """

    def __init__(self, total: int, done: int, jobs: int, stream: TextIO) -> None:
        self.total, self.done, self.jobs, self.stream = max(total, done), done, jobs, stream
        self.before = done
        self.started = time.monotonic()

    def note(self, text: str) -> None:
        """Say something once."""
        self.stream.write(f"{text}\n")
        self.stream.flush()

    def expect(self, total: int) -> None:
        """Say how many cells there will be, now that more is known."""
        self.total = max(total, self.done)

    def finish(self, record: Record) -> None:
        """Count a cell, and say how it ended."""
        self.done += 1
        self.note(f"[{self.done}/{self.total}] {title(record.cell)}: {outcome(record)}{self._left()}")

    def _left(self) -> str:
        finished, missing = self.done - self.before, self.total - self.done
        if missing <= 0:
            return ""
        return f"; about {duration((time.monotonic() - self.started) / finished * missing)} left"


class RichBoard(Board):
    """Bars on a terminal: how far each running cell is, when it will be done, its metric or loss; and all cells together."""

    def __init__(self, total: int, done: int, jobs: int, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        super().__init__(total, done, jobs, stream)
        self.guard = threading.Lock()  # cells are reported by a thread of their own where they run in other processes
        self.bars: dict[str, Any] = {}
        self.over: set[str] = set()  # what is still said of these comes too late
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            console=Console(file=stream),
        )
        self.all = self.progress.add_task("all cells", total=total, completed=done, state="")

    def __enter__(self) -> RichBoard:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def note(self, text: str) -> None:
        """Say something once, above the bars."""
        self.progress.console.print(text, markup=False, highlight=False)

    def expect(self, total: int) -> None:
        """Say how many cells there will be, now that more is known."""
        super().expect(total)
        self.progress.update(self.all, total=self.total)

    def step(self, cell: Cell, state: Mapping[str, Any]) -> None:
        """Show how far a cell is."""
        with self.guard:
            if cell.key in self.over:
                return
            if cell.key not in self.bars:
                self.bars[cell.key] = self.progress.add_task(title(cell), total=None, state="")
            self.progress.update(
                self.bars[cell.key], completed=state.get("step", 0), total=state.get("steps"), state=current(state)
            )

    def finish(self, record: Record) -> None:
        """Take a cell's bar away, count it, and say how it ended."""
        with self.guard:
            self.over.add(record.cell.key)
            bar = self.bars.pop(record.cell.key, None)
            if bar is not None:
                self.progress.remove_task(bar)
        super().finish(record)
        self.progress.update(self.all, completed=self.done)


def make_board(total: int, done: int, jobs: int, stream: TextIO | None = None) -> Board:
    """Bars if the stream, stderr by default, is a terminal and rich is installed, lines otherwise."""
    stream = stream or sys.stderr
    if stream.isatty():
        try:
            return RichBoard(total, done, jobs, stream)
        except ImportError:
            pass
    return Board(total, done, jobs, stream)


def title(cell: Cell) -> str:
    """What a cell is called on the board.

    Example:
        >>> title(Cell("mrpc", "minilm", "istar", "final", 3))
        'mrpc minilm istar, final 3'
    """
    model = cell.model.rstrip("/").rpartition("/")[2]
    return f"{cell.task} {model} {cell.variant}, {cell.phase} {cell.seed if cell.phase == 'final' else cell.key[:4]}"


def current(state: Mapping[str, Any]) -> str:
    """The newest number of a running cell."""
    for name in ("selection", "task_loss"):
        value = state.get(name)
        if isinstance(value, (int, float)) and math.isfinite(value):
            return f"{state.get('metric', 'metric') if name == 'selection' else 'loss'} {value:.3f}"
    return ""


def outcome(record: Record) -> str:
    """How a cell ended, in some words."""
    if record.status != "done":
        return f"failed ({record.error})"
    value = "no number" if record.selection is None else f"{record.selection:.4f}"
    seconds = record.costs.get("seconds")
    return f"held-out {record.metric or 'metric'} {value}" + ("" if seconds is None else f" in {duration(seconds)}")


def duration(seconds: float) -> str:
    """Seconds as one says them.

    Example:
        >>> duration(8.2), duration(600.0), duration(9000.0)
        ('8 s', '10 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
