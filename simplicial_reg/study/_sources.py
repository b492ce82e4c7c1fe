"""The examples of a task: where they are, and how they are read from files and from the Hugging Face hub."""

from __future__ import annotations

import csv
import importlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simplicial_reg.study.spans import answers_of, read_squad

__all__ = ["EMBEDDED", "VARIABLE", "Source", "Split", "imported", "read_files", "read_hub"]

VARIABLE = "SIMPLICIAL_REG_DATA"
EMBEDDED = ("docstrings", "digits")  # the tasks that need neither


@dataclass(frozen=True)
class Split:
    """Examples: inputs, a tuple of one or two texts each or an image tensor ``(n, channels, height, width)``, and labels.

    Labels are numbers; for spans they are `simplicial_reg.study.spans.Answers`.
    """

    inputs: Sequence[tuple[str, ...]] | Tensor
    labels: list[Any]

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Sequence[int]) -> Split:
        """Some of the examples."""
        labels = [self.labels[row] for row in rows]
        if isinstance(self.inputs, Tensor):
            return Split(self.inputs[torch.tensor(list(rows), dtype=torch.int64)], labels)
        return Split([self.inputs[row] for row in rows], labels)


@dataclass(frozen=True)
class Source:
    """Where a task's examples are and how they are read.

    Attributes:
        kind: as for `Task`.
        metrics: the main one first.
        num_labels: number of classes; 1 for regression.
        columns: names of the columns of text; empty for tasks that are made of what is installed.
        label: name of the column of labels.
        names: what classes are called in that column; empty if they are numbers 0, 1, ...
        train: names of the train split, the first that is there is taken.
        reported: of the reported split.
        others: further reported splits: how they are called, and the name of the split.
        hub: repository and configuration on the hub.
        summary: one line.
        folder: of the files, where a TOML file says it.
        files: the name of the folder in ``data_dir``, if it is not the task's.
        loss: as for `Task`.
        positive: the least label of the examples that are trained on; None for all.
    """

    kind: str
    metrics: tuple[str, ...]
    num_labels: int
    columns: tuple[str, ...] = ()
    label: str = "label"
    names: tuple[str, ...] = ()
    train: tuple[str, ...] = ("train",)
    reported: tuple[str, ...] = ("validation",)
    others: tuple[tuple[str, str], ...] = ()
    hub: tuple[str, str | None] | None = None
    summary: str = ""
    folder: Path | None = None
    files: str = ""
    loss: str = ""
    positive: float | None = None


def read_files(source: Source, folder: Path) -> tuple[Split, Split, dict[str, Split]]:
    """Train, reported and further reported parts, from the files in a folder."""
    train, reported = (_read_first(source, folder, names) for names in (source.train, source.reported))
    others = {
        called: _read_table(source, folder / f"{split}.tsv")
        for called, split in source.others
        if (folder / f"{split}.tsv").is_file()
    }
    return train, reported, others


def _read_first(source: Source, folder: Path, names: tuple[str, ...]) -> Split:
    usual = "json" if source.kind == "span" else "tsv"
    paths = [folder / (name if Path(name).suffix else f"{name}.{usual}") for name in names]
    for path in paths:
        if path.is_file():
            return _read_table(source, path)
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    raise FileNotFoundError(
        f"{paths[0]}: there is no such file; in the folder there {'are ' + ', '.join(there[:8]) if there else 'is nothing'}"
    )


def _read_table(source: Source, path: Path) -> Split:
    readers = {".tsv": _delimited, ".csv": _delimited, ".jsonl": _json_lines}
    if source.kind == "span":
        readers[".json"] = read_squad
    if path.suffix not in readers:
        raise ValueError(f"{path}: must be a {', '.join(readers)} file")
    try:
        columns, rows = readers[path.suffix](path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be UTF-8; byte {error.start} is not") from error
    return _split(source, columns, rows, str(path))


def _delimited(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """A line of names, then rows; .tsv has no quoting, as GLUE's files have none."""
    tabs = path.suffix == ".tsv"
    with path.open(encoding="utf-8-sig", newline="") as file:
        # A text may be longer than csv's default of 131,072 characters; quoting is off, so only \r and \n end a row.
        csv.field_size_limit(max(csv.field_size_limit(), 2**24))
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(file)
        header = next(reader, [])
        rows = []
        for row in reader:
            if len(row) != len(header):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(row)} fields where the first line names {len(header)} columns, "
                    f"{', '.join(header)}"
                )
            rows.append(dict(zip(header, row, strict=True)))
    return header, rows


def _json_lines(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    rows = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: is not JSON: {error.msg}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: must be a JSON object; got {type(row).__name__}")
            rows.append(row)
    return list(rows[0]) if rows else [], rows


def read_hub(name: str, source: Source) -> tuple[Split, Split, dict[str, Split]]:
    """Train, reported and further reported parts, from the Hugging Face hub."""
    if source.hub is None:
        raise ValueError(f"task {name!r} has neither files nor a place on the hub")
    repository, config = source.hub
    choices = f"pass data_dir (--data-dir) or set {VARIABLE}; without any data there are {', '.join(EMBEDDED)}"
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise ImportError(
            f"task {name!r} comes from the Hugging Face hub by the package datasets, which is not installed: "
            f"pip install datasets, or {choices}"
        ) from error
    try:
        found = datasets.load_dataset(repository, config)
    except (OSError, ValueError) as error:  # no network is one of these, by version
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileNotFoundError(f"task {name!r} could not be read from the hub ({reason}); {choices}") from error
    splits = []
    for names in (source.train, source.reported, *((split,) for _, split in source.others)):
        split = next((split for split in names if split in found), None)
        if split is None:
            raise ValueError(f"{repository}: there is no split {names[0]}; there are {', '.join(found)}")
        rows = [dict(row) for row in found[split]]
        splits.append(_split(source, list(found[split].column_names), rows, f"{repository}, {split}"))
    return splits[0], splits[1], dict(zip([called for called, _ in source.others], splits[2:], strict=True))


def _split(source: Source, columns: list[str], rows: list[dict[str, Any]], where: str) -> Split:
    wanted = (*source.columns, source.label)
    missing = [column for column in wanted if column not in columns]
    if missing:
        raise ValueError(
            f"{where}: column {', '.join(missing)} is missing; the columns must be {', '.join(wanted)}; "
            f"found {', '.join(columns) or 'none'}"
        )
    if not rows:
        raise ValueError(f"{where}: there are no rows")
    numbers = {name: float(at) for at, name in enumerate(source.names)}
    labels: list[Any] = []
    inputs = []
    for at, row in enumerate(rows, 1):
        texts = tuple(str(row.get(column, "")) for column in source.columns)
        empty = [column for column in source.columns if row.get(column) is None]
        if empty:
            raise ValueError(f"{where}, row {at}: {empty[0]} must be a text; got None")
        if source.kind == "span":
            labels.append(answers_of(row.get(source.label), texts[1], f"{where}, row {at}"))
        else:
            labels.append(_label(row.get(source.label), source, numbers, f"{where}, row {at}"))
        inputs.append(texts)
    return Split(inputs, labels)


def _label(value: Any, source: Source, numbers: dict[str, float], where: str) -> float:
    if source.names and isinstance(value, str):
        if value not in numbers:
            raise ValueError(f"{where}: {source.label} must be one of {', '.join(source.names)}; got {value!r}")
        return numbers[value]
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if source.num_labels == 1:
        if not math.isfinite(number):
            raise ValueError(f"{where}: {source.label} must be a finite number; got {value!r}")
    elif number not in range(source.num_labels):  # -1 is what hidden test labels are
        raise ValueError(f"{where}: {source.label} must be an int from 0 to {source.num_labels - 1}; got {value!r}")
    return number


def imported(name: str) -> Any:
    """A module of another package, or an error that names the extra."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"the study needs {name.partition('.')[0]}: pip install 'simplicial_reg[study]'") from error
