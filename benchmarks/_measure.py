"""What all benchmarks share: the short and the full form, and writing one result with everything needed to read it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from benchmarks._figures import draw
from simplicial_reg._files import whole_file
from simplicial_reg.bench import (
    OURS,
    PEERS,
    Rates,
    Times,
    cell,
    cloud,
    finite,
    floor,
    installed,
    machine,
    measure_rates,
    same_rows,
    times,
    versions,
)

__all__ = [
    "FULL",
    "OURS",
    "PEERS",
    "RESULTS",
    "SHORT",
    "Form",
    "Rates",
    "Times",
    "cell",
    "cloud",
    "finite",
    "floor",
    "installed",
    "measure_rates",
    "report",
    "same_rows",
    "times",
]

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
T = TypeVar("T")


class Form(NamedTuple):
    """How much is measured, and where results go."""

    full: bool
    folder: Path

    def pick(self, full: T, short: T) -> T:
        return full if self.full else short


FULL = Form(True, RESULTS)  # the committed results
SHORT = Form(False, ROOT / "runs" / "bench")


def report(
    name: str,
    title: str,
    header: list[str],
    rows: list[list[str]],
    notes: str,
    data: Any,
    *,
    form: Form = FULL,
    more: Sequence[tuple[str, list[str], list[list[str]]]] = (),
) -> None:
    """Print a Markdown table and write it, with versions and machine, to ``NAME.md``; the numbers to ``NAME.json``, a plot to ``NAME.svg``.

    Args:
        name: of the benchmark.
        title: what is measured.
        header: of the table.
        rows: of the table.
        notes: what one must know to read it.
        data: the numbers, all that the plot and docs/speed.md need.
        form: where to write.
        more: further tables, with a heading each.
    """
    threads, found = torch.get_num_threads(), versions()
    command = f"python -m benchmarks {name}" + (" --full" if form.full else "")
    parts = [f"# {title}", _table(header, rows)]
    for heading, columns, lines in more:
        parts += [f"## {heading}", _table(columns, lines)]
    parts += [
        notes,
        f"Command: `{command}`. Machine: {machine()}, {threads} thread(s). "
        f"Versions: {', '.join(f'{package} {version}' for package, version in found.items())}.",
    ]
    text = "\n\n".join(parts) + "\n"
    print(text)
    sys.stdout.flush()
    content = {
        "benchmark": name,
        "title": title,
        "form": form.pick("full", "short"),
        "machine": machine(),
        "threads": threads,
        "versions": found,
        "data": data,
    }
    form.folder.mkdir(parents=True, exist_ok=True)
    write(form.folder / f"{name}.md", text)
    write(form.folder / f"{name}.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    plot(name, form.folder)


def plot(name: str, folder: Path) -> Path | None:
    """Draw ``NAME.svg`` of ``NAME.json``, if it is there and a plot of it is known."""
    path = folder / f"{name}.json"
    drawn = draw(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None
    if drawn is None:
        return None
    target = folder / f"{name}.svg"
    with whole_file(target) as draft:
        draft.write_bytes(drawn)
    return target


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def _table(header: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(line[column]) for line in [header, *rows]) for column in range(len(header))]
    lines = [
        "| " + " | ".join(entry.ljust(width) for entry, width in zip(line, widths, strict=True)) + " |"
        for line in [header, *rows]
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
