"""What all benchmarks share: timing competitors in turn, and writing one table with everything needed to read it."""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"
ROUNDS = 9
PACKAGES = (
    "torch", "numpy", "numba", "gudhi", "ripser", "giotto-ph", "torch-topological", "scipy", "fastcluster", "IsoScore",
)  # fmt: skip


def times(competitors: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, tuple[float, float, float]]:
    """Median, least and greatest milliseconds of each competitor.

    They take turns, round after round, so that a slow spell of the machine hits all of them; a quick one is repeated within its turn
    until the clock can see it. A tensor of 30 MB is made and freed first, as in any training step: from then on the C library
    keeps freed memory for the next call instead of giving it back to the system and fetching it again, page by page.
    """
    torch.empty(7_500_000)
    repeats = {}
    for name, run in competitors.items():
        run()
        start = time.perf_counter()
        run()
        repeats[name] = max(1, min(500, int(0.05 / (time.perf_counter() - start + 1e-9))))
    seen: dict[str, list[float]] = {name: [] for name in competitors}
    gc.disable()
    for _ in range(rounds):
        for name, run in competitors.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                run()
            seen[name].append((time.perf_counter() - start) / repeats[name] * 1e3)
        gc.collect()
    gc.enable()
    return {name: (float(np.median(ms)), min(ms), max(ms)) for name, ms in seen.items()}


def cell(measured: tuple[float, float, float]) -> str:
    """``median (least-greatest)`` in milliseconds."""
    return "{} ({}-{})".format(*(f"{ms:.3g}" for ms in measured))


def report(name: str, title: str, header: list[str], rows: list[list[str]], notes: str, data: object) -> None:
    """Print a Markdown table and write it, with versions and machine, to ``results/NAME.md``; the numbers to ``results/NAME.json``."""
    widths = [max(len(line[column]) for line in [header, *rows]) for column in range(len(header))]
    lines = [
        "| " + " | ".join(entry.ljust(width) for entry, width in zip(line, widths, strict=True)) + " |"
        for line in [header, *rows]
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in PACKAGES)
    machine = f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, {torch.get_num_threads()} thread(s)"
    text = "\n".join(
        [
            f"# {title}",
            "",
            *lines,
            "",
            notes,
            "",
            f"Command: `python -m benchmarks {name}`. Machine: {machine}. Versions: {versions}.",
            "",
        ]
    )
    print(text)
    sys.stdout.flush()
    RESULTS.mkdir(exist_ok=True)
    _write(RESULTS / f"{name}.md", text)
    _write(RESULTS / f"{name}.json", json.dumps(data, indent=1) + "\n")


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cloud(n: int, d: int, *batch: int) -> torch.Tensor:
    """A Gaussian cloud, the same every time."""
    return torch.randn(*batch, n, d, generator=torch.Generator().manual_seed(n + d))


def same_rows(ours: np.ndarray, theirs: np.ndarray, what: str) -> None:
    """Both barcodes as multisets of rows: births and deaths are not sorted apart."""
    ours, theirs = (rows[np.lexsort((rows[:, 1], rows[:, 0]))] for rows in (np.asarray(ours), np.asarray(theirs)))
    if ours.shape != theirs.shape or not np.allclose(ours, theirs, rtol=2e-6, atol=1e-7):
        raise AssertionError(f"{what}: {len(ours)} and {len(theirs)} bars that do not agree")


def finite(rows: np.ndarray) -> np.ndarray:
    """The bars that die."""
    return rows[np.isfinite(rows[:, 1])]
