"""The tables of README.md and docs/regularizers.md about the committed studies: ``python -m benchmarks.study_tables``.

With ``--again`` the statistics and the figures of the differences are made anew first, of ``cells.csv`` alone, by the code of the report.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from pathlib import Path
from statistics import fmean

from simplicial_reg.study.record import Cell, Record
from simplicial_reg.study.report import write_report

__all__ = ["EMBEDDING", "GLUE", "STUDIES", "embedding", "headline", "held_out", "made_again", "records"]

STUDIES = Path(__file__).parent / "results" / "study"
GLUE, EMBEDDING = STUDIES / "glue", STUDIES / "stsb-embedding"
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


def embedding(folder: Path = EMBEDDING) -> str:
    """Mean and deviation, the difference, and what was chosen, of each variant on one task, in points."""
    rows = _rows(folder / "results.csv")
    lines = [
        [
            row["variant"],
            _mean(row),
            *(_difference(row) if row["difference"] else ("", "", "")),
            _chosen(row["settings"]),
        ]
        for row in rows
    ]
    seeds = rows[0]["seeds"]
    return _table(
        [f"MiniLM, {seeds} seeds", "Spearman", "difference from none [95 %]", "corrected p", "verdict", "chosen"], lines
    )


def records(folder: Path) -> list[Record]:
    """The runs in ``cells.csv``: what tables and differences are made of."""
    found = []
    for row in _rows(folder / "cells.csv"):
        settings, budget = json.loads(row["settings"]), json.loads(row["budget"])
        cell = Cell(row["task"], row["model"], row["variant"], row["phase"], int(row["seed"]), settings, budget)
        reported = {
            name.removeprefix("reported."): float(value)
            for name, value in row.items()
            if name.startswith("reported.") and value
        }
        selection = float(row["selection"]) if row["selection"] else None
        found.append(
            Record(cell, row["status"], row["error"] or None, row["metric"], selection=selection, reported=reported)
        )
    return found


def made_again(folder: Path, out: Path) -> None:
    """Write into ``out`` what the code of the report makes of ``cells.csv``: CSV files of the statistics, and ``figures``."""
    (out / "records.jsonl").write_text("".join(f"{record.line()}\n" for record in records(folder)), encoding="utf-8")
    write_report(out)


def _rewrite(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as made:
        made_again(folder, Path(made))
        for path in sorted(folder.iterdir()):
            new = Path(made) / ("figures" if path.suffix == ".svg" else ".") / path.name
            if path.name in ("results.csv", "overall.csv") or path.suffix == ".svg":
                path.write_bytes(new.read_bytes())


def _chosen(settings: str) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.2g}" for name, value in json.loads(settings).items())


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
    if "--again" in sys.argv[1:]:
        for study in sorted(STUDIES.iterdir()):
            _rewrite(study)
    print(headline(), embedding(), held_out(), sep="\n\n")
