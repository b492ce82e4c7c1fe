"""The tables of README.md and docs/regularizers.md about a committed study: ``python -m benchmarks.study_tables``."""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import fmean

__all__ = ["GLUE", "headline", "held_out"]

GLUE = Path(__file__).parent / "results" / "study" / "glue"
TASKS = {"mrpc": "MRPC", "stsb": "STS-B", "sst2": "SST-2", "cola": "CoLA"}
FORMS = {
    "persistent-entropy": '`form="deficit"`, the default',
    "persistent-entropy-log": '`form="log-deficit"`',
    "persistent-entropy-label": '`per_label=True, prominent="agr2016"`',
    "none": "no regularizer",
}


def headline(folder: Path = GLUE) -> str:
    """Mean and deviation on each task, and the difference over all of them, in points."""
    found = {(row["variant"], row["task"]): row for row in _rows(folder / "results.csv")}
    overall = {row["variant"]: row for row in _rows(folder / "overall.csv")}
    lines = []
    for variant in ["none", *overall]:
        cells = [_mean(found.get((variant, task))) for task in TASKS]
        lines.append([variant, *cells, *(_difference(overall[variant]) if variant in overall else ("", "", ""))])
    return _table(
        ["MiniLM, 5 seeds", *TASKS.values(), "all: difference from none [95 %]", "corrected p", "verdict"], lines
    )


def held_out(folder: Path = GLUE) -> str:
    """The metric on the held-out part of train in points: mean over the final seeds, and the best of the tuning runs."""
    cells = _rows(folder / "cells.csv")
    lines = []
    for variant, form in FORMS.items():
        line = [form]
        for task in TASKS:
            of_both = [row for row in cells if (row["variant"], row["task"]) == (variant, task)]
            final = [float(row["selection"]) for row in of_both if row["phase"] == "final"]
            tuned = [float(row["selection"]) for row in of_both if row["phase"] != "final"]
            line.append(f"{100 * fmean(final):.2f} ({100 * max(tuned):.2f})" if final else "")
        lines.append(line)
    return _table(["held out, 5 seeds (best of 3 in tuning)", *TASKS.values()], lines)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _mean(row: dict[str, str] | None) -> str:
    return f"{100 * float(row['mean']):.2f} ± {100 * float(row['deviation']):.2f}" if row else ""


def _difference(row: dict[str, str]) -> tuple[str, str, str]:
    low, mean, high = (f"{100 * float(row[name]):+.2f}" for name in ("low", "difference", "high"))
    verdict = row["verdict"] if row["verdict"] in ("better", "worse") else "no evidence"
    return f"{mean} [{low}, {high}]", f"{float(row['p_corrected']):.2g}", verdict


def _table(header: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines])


if __name__ == "__main__":
    print(headline(), held_out(), sep="\n\n")
