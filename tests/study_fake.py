"""Cells that need no training: what they find follows from the cell, and some go wrong in the ways in which cells go wrong.

As a program it runs a study of such cells: ``python -m tests.study_fake FOLDER [JOBS]``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import sys
import time
from pathlib import Path

from simplicial_reg.study.protocol import Study
from simplicial_reg.study.record import Cell, Record
from simplicial_reg.study.runner import run

__all__ = ["counting_fake", "fake", "number", "small_study"]


def number(*what: object) -> float:
    """A number in [0, 1) that follows from what is named."""
    return int(hashlib.sha256(repr(what).encode()).hexdigest()[:8], 16) / 16**8


def small_study(*variants: str, **changes) -> Study:
    settings = {
        "tasks": ("first", "second"),
        "models": ("model",),
        "variants": ("none", *variants),
        "budget": 2,
        "seeds": 2,
        "space": {"learning_rate": {"low": 1e-5, "high": 1e-3}},
        "spaces": {variant: {"weight": {"low": 0.1, "high": 10.0}} for variant in variants},
        "training": {"epochs": 1},
    }
    return Study(**{**settings, **changes})


def fake(cell: Cell, *, data_dir=None, on_step=None) -> Record:
    """The record of a cell; a variant's name and the budget say how it goes wrong."""
    for step in range(2):
        if on_step is not None:
            on_step({"step": step, "steps": 2, "task_loss": 1.0})
        time.sleep(cell.budget.get("sleep", 0.0))
    if cell.variant == "raises":
        raise ValueError("this variant raises, in /some/where/file.py")
    if cell.variant == "exits":
        raise SystemExit(3)
    if cell.variant == "dies":
        os._exit(9)
    if cell.variant == "interrupts" and cell.phase == "final":
        raise KeyboardInterrupt
    if cell.variant == "missing" and data_dir is None:
        raise FileNotFoundError("no data")
    value = math.nan if cell.variant == "nan" else number(cell.task, cell.variant, cell.settings, cell.seed)
    reported = {"accuracy": value} if cell.phase == "final" else {}
    return Record(cell, "done", metric="accuracy", selection=value, reported=reported, costs={"seconds": 1.0})


inside: list[str] = []


def counting_fake(cell: Cell, **_) -> Record:
    """A record with the process that made it and how many cells were under way there."""
    inside.append(cell.key)
    time.sleep(0.02)
    costs = {"process": os.getpid(), "inside": len(inside)}
    inside.remove(cell.key)
    return dataclasses.replace(fake(cell), costs=costs)


if __name__ == "__main__":
    jobs = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    sleep = float(os.environ.get("SLEEP", "0.0"))
    study = small_study("one", "two", "raises", budget=3, seeds=3, training={"sleep": sleep})
    run(study, Path(sys.argv[1]), jobs=jobs, threads=1, run_cell=fake)
