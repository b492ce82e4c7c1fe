"""A barcode computed in a thread, while this one shows how long it has taken and may take."""

from __future__ import annotations

import sys
import threading
import time

import click
import torch
from torch import Tensor

from simplicial_reg.barcode import Barcode, rips_barcode
from simplicial_reg.forecast import LONG, Options, expected_seconds

__all__ = ["ProgressLine", "subset", "with_progress"]

PROGRAM = "simplicial-reg"


class _Job(threading.Thread):
    """The computation. A daemon: nobody waits for it after an interrupt."""

    def __init__(self, points: Tensor, options: Options) -> None:
        super().__init__(daemon=True)
        self.points, self.options = points, options
        self.barcodes: tuple[Barcode, ...] = ()
        self.failure: BaseException | None = None
        self.expected: float | None = None
        self.started: float | None = None  # when the estimate was there
        self.seconds = 0.0

    def run(self) -> None:
        try:
            self.expected = self._estimate()
            self.started = time.perf_counter()
            self.barcodes = self._compute(self.points)
            self.seconds = time.perf_counter() - self.started
        except BaseException as failure:  # raised again in the main thread
            self.failure = failure

    def _estimate(self) -> float | None:
        try:
            self._time(8)  # loads the kernels, which takes a few tenths of a second, or compiles them
            return expected_seconds(self._time, len(self.points), self.options.max_dim)
        except Exception:  # whatever is wrong is wrong with all points too, and the message should be about all of them
            return None

    def _compute(self, points: Tensor) -> tuple[Barcode, ...]:
        max_dim, metric, threshold, essential, engine = self.options
        return rips_barcode(points, max_dim, metric=metric, threshold=threshold, essential=essential, engine=engine)

    def _time(self, m: int) -> float:
        rows = torch.randperm(len(self.points), generator=torch.Generator().manual_seed(0))[:m]
        part = subset(self.points, rows, self.options.metric == "precomputed")
        start = time.perf_counter()
        self._compute(part)
        return time.perf_counter() - start


def with_progress(points: Tensor, options: Options) -> tuple[tuple[Barcode, ...], float]:
    """The barcodes and the seconds they took.

    What takes longer than two seconds is announced on stderr, by a running line if that is a terminal.
    """
    dims = (
        " and ".join(f"H{dim}" for dim in range(options.max_dim + 1))
        if options.max_dim < 2
        else f"H0 to H{options.max_dim}"
    )
    job = _Job(points, options)
    line = ProgressLine(f"{dims} of {len(points)} points")
    job.start()
    try:
        while job.is_alive():
            job.join(0.1)
            if job.started is not None and job.is_alive():
                line.show(time.perf_counter() - job.started, job.expected)
    finally:
        line.clear()
    if job.failure is not None:
        raise job.failure
    return job.barcodes, job.seconds


class ProgressLine:
    """One line on stderr: redrawn on a terminal, written once elsewhere."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.terminal = sys.stderr.isatty()
        self.shown = False

    def show(self, elapsed: float, expected: float | None) -> None:
        """Say how many seconds have passed of how many."""
        if elapsed < LONG and not (self.terminal and expected is not None):
            return
        if not self.terminal:
            if not self.shown:
                known = "" if expected is None else f", about {_seconds(expected)}"
                click.echo(f"{PROGRAM}: computing {self.what}{known}", err=True)
        elif expected is None:
            self._draw(f"{self.what}: {_seconds(elapsed)}")
        elif elapsed <= expected:
            done = int(20 * elapsed / expected)
            self._draw(
                f"{self.what}: [{'#' * done}{'.' * (20 - done)}] {_seconds(elapsed)} of about {_seconds(expected)}"
            )
        else:
            self._draw(f"{self.what}: {_seconds(elapsed)}, longer than the estimated {_seconds(expected)}")
        self.shown = True

    def _draw(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away again."""
        if self.terminal and self.shown:
            self._draw("")


def _seconds(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def subset(points: Tensor, rows: Tensor, precomputed: bool) -> Tensor:
    """Some of the points, or the distances between them."""
    return points[rows][:, rows] if precomputed else points[rows]
