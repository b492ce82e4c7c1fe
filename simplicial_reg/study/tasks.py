"""The tasks of the study: what is trained on, what settings are selected on, and what is reported.

Every task has three parts. *Train* and *held out* are cut from the task's train set, *reported* is its validation set. Settings
are selected on the held-out part and results are reported on the reported one, so that no number is reported on what it was selected
on. An eighth of train, but at most 1,000 examples, is held out: of each class its share, drawn by the name of the task and by nothing
else, so that it is the same in every run, for every seed and for every `limit`.

Metrics are those of GLUE (Wang et al. 2019): Matthews correlation for CoLA; accuracy and F1 for MRPC and QQP; Pearson and Spearman
correlation for STS-B; accuracy for the others. Where there are two, the main metric is their mean, as for GLUE's score. All are
computed by scikit-learn and SciPy. Two corners: F1 without any positive is 0; a correlation with predictions, or labels, that are all
equal, which is undefined, is 0 as Matthews' is, because such predictions know nothing.

Where the examples come from:

- ``docstrings`` and ``digits`` are made of what is installed.
- GLUE: from ``data_dir/TASK`` or ``data_dir/glue/TASK``, with ``train.tsv`` and ``validation.tsv``: UTF-8, a line of column names,
  tabs, no quoting. Without a ``data_dir`` (nor the environment variable SIMPLICIAL_REG_DATA) from the Hugging Face hub, by `datasets`.
- A TOML file describes any other classification, pair or regression task; see `read_description`.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplicial_reg._checks import check_choice
from simplicial_reg.study.docstrings import LIBRARIES, NAMES, read_sentences
from simplicial_reg.study.variants import nearest as nearest_names

__all__ = ["METRICS", "TASKS", "Split", "Task", "load_task", "nearest", "read_description"]

VARIABLE = "SIMPLICIAL_REG_DATA"
HELD_OUT = 1 / 8
MOST_HELD_OUT = 1000
KINDS = {"text": 1, "pair": 2}  # columns of text
# Of each library: enough for a study of some minutes on two cores.
DOCSTRINGS = {"train": 200, "held_out": 48, "reported": 96}


@dataclass(frozen=True)
class Split:
    """Examples: inputs, a tuple of one or two texts each or an image tensor ``(n, channels, height, width)``, and labels."""

    inputs: Sequence[tuple[str, ...]] | Tensor
    labels: list[float]

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Sequence[int]) -> Split:
        """Some of the examples."""
        labels = [self.labels[row] for row in rows]
        if isinstance(self.inputs, Tensor):
            return Split(self.inputs[torch.tensor(list(rows), dtype=torch.int64)], labels)
        return Split([self.inputs[row] for row in rows], labels)


@dataclass(frozen=True)
class Task:
    """A task with its examples.

    Attributes:
        name: as in ``TASKS``, or as the TOML file says.
        kind: ``"text"``, ``"pair"`` or ``"image"``.
        metrics: all that are reported, names in ``METRICS``, the main one first; bigger is better.
        classes: what the classes are called, in their order; empty for regression.
        train: what is trained on.
        held_out: what settings are selected on.
        reported: what results are reported on.
        others: further reported parts by name, such as the mismatched one of MNLI.
        summary: what is asked, for people.
    """

    name: str
    kind: str
    metrics: tuple[str, ...]
    classes: tuple[str, ...]
    train: Split
    held_out: Split
    reported: Split
    others: dict[str, Split] = field(default_factory=dict)
    summary: str = ""

    @property
    def metric(self) -> str:
        """The main metric, by which settings are selected."""
        return self.metrics[0]

    @property
    def num_labels(self) -> int:
        """Number of classes; 1 for regression."""
        return max(1, len(self.classes))

    @property
    def description(self) -> str:
        """Sizes of the parts and counts of the classes."""
        parts = {"train": self.train, "held out": self.held_out, "reported": self.reported, **self.others}
        sizes = ", ".join(f"{len(split)} {part}" for part, split in parts.items())
        if self.is_regression:
            labels = f"labels from {min(self.train.labels):g} to {max(self.train.labels):g}"
        else:
            counts = [f"{self.train.labels.count(at)} {name}" for at, name in enumerate(self.classes)]
            labels = f"train has {', '.join(counts)}"
        return f"{self.name}{f' ({self.summary})' if self.summary else ''}: {sizes}; {labels}"

    @property
    def is_regression(self) -> bool:
        """Whether labels are numbers and not classes."""
        return not self.classes

    @property
    def fingerprint(self) -> str:
        """Hash of all examples, 16 hexadecimal digits: results of different data are not to be compared."""
        digest = hashlib.sha256()
        for split in (self.train, self.held_out, self.reported, *self.others.values()):
            inputs = split.inputs
            content = inputs.numpy().tobytes() if isinstance(inputs, Tensor) else json.dumps(list(inputs)).encode()
            digest.update(content + json.dumps(split.labels).encode())
        return digest.hexdigest()[:16]

    def score(self, labels: Sequence[float], outputs: Tensor) -> dict[str, float]:
        """All metrics of outputs ``(n, num_labels)`` by name."""
        found = np.asarray(outputs.detach().float().cpu().numpy(), dtype=np.float64)
        if not np.isfinite(found).all():
            return dict.fromkeys(self.metrics, math.nan)
        predicted = found[:, 0] if self.is_regression else found.argmax(1).astype(np.float64)
        truth = np.asarray(labels, dtype=np.float64)
        return {name: float(METRICS[name](truth, predicted)) for name in self.metrics}


def _sklearn(function: str, **options: Any) -> Callable[[Any, Any], float]:
    def metric(truth: Any, predicted: Any) -> float:
        return float(
            getattr(_imported("sklearn.metrics"), function)(truth.astype(int), predicted.astype(int), **options)
        )

    return metric


def _correlation(function: str) -> Callable[[Any, Any], float]:
    def metric(truth: Any, predicted: Any) -> float:
        if len(truth) < 2 or np.ptp(truth) == 0 or np.ptp(predicted) == 0:
            return 0.0
        return float(getattr(_imported("scipy.stats"), function)(truth, predicted)[0])

    return metric


def _mean_of(first: str, second: str) -> Callable[[Any, Any], float]:
    def metric(truth: Any, predicted: Any) -> float:
        return (METRICS[first](truth, predicted) + METRICS[second](truth, predicted)) / 2

    return metric


# Of labels and predictions (n,), both float64: the metric, bigger is better.
METRICS: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": _sklearn("accuracy_score"),
    "f1": _sklearn("f1_score", zero_division=0.0),
    "macro_f1": _sklearn("f1_score", average="macro", zero_division=0.0),
    "matthews": _sklearn("matthews_corrcoef"),
    "pearson": _correlation("pearsonr"),
    "spearman": _correlation("spearmanr"),
    "accuracy_f1": _mean_of("accuracy", "f1"),
    "pearson_spearman": _mean_of("pearson", "spearman"),
}
CORRELATIONS = ("pearson", "spearman", "pearson_spearman")


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


def _glue(name: str, summary: str, *columns: str, metrics: tuple[str, ...] = ("accuracy",), labels: int = 2) -> Source:
    kind = "pair" if len(columns) == 2 else "text"
    return Source(kind, metrics, labels, columns, hub=("nyu-mll/glue", name), summary=summary)


F1 = ("accuracy_f1", "accuracy", "f1")
TASKS: dict[str, Source] = {
    "docstrings": Source(
        "text",
        ("accuracy", "macro_f1"),
        len(LIBRARIES),
        names=tuple(NAMES.get(library, library) for library in LIBRARIES),
        summary="which library is a sentence from",
    ),
    "digits": Source(
        "image",
        ("accuracy", "macro_f1"),
        10,
        names=tuple("0123456789"),
        summary="handwritten digits, 8 × 8, of scikit-learn",
    ),
    "cola": _glue("cola", "is the sentence grammatical", "sentence", metrics=("matthews", "accuracy")),
    "sst2": _glue("sst2", "is the review positive", "sentence"),
    "mrpc": _glue("mrpc", "is it a paraphrase", "sentence1", "sentence2", metrics=F1),
    "rte": _glue("rte", "is it entailed", "sentence1", "sentence2"),
    "stsb": _glue(
        "stsb",
        "how similar are they, 0 to 5",
        "sentence1",
        "sentence2",
        metrics=("pearson_spearman", "pearson", "spearman"),
        labels=1,
    ),
    "qnli": _glue("qnli", "does the sentence answer the question", "question", "sentence"),
    "qqp": _glue("qqp", "do they ask the same", "question1", "question2", metrics=F1),
    "mnli": Source(
        "pair",
        ("accuracy",),
        3,
        ("premise", "hypothesis"),
        reported=("validation_matched", "validation"),
        others=(("mismatched", "validation_mismatched"),),
        hub=("nyu-mll/glue", "mnli"),
        summary="entailed, neutral or contradicted",
    ),
    "wnli": _glue("wnli", "does the pronoun mean that", "sentence1", "sentence2"),
}
EMBEDDED = ("docstrings", "digits")


def nearest(name: str) -> list[str]:
    """The names of tasks that look most like this one, for messages.

    Example:
        >>> nearest("sst-2")[0]
        'sst2'
    """
    return nearest_names(name, TASKS)


def load_task(name: str, *, data_dir: str | os.PathLike[str] | None = None, limit: int | None = None) -> Task:
    """Read a task.

    Args:
        name: a name in ``TASKS``, or the path of a TOML file (`read_description`).
        data_dir: the folder of the data; None is the environment variable SIMPLICIAL_REG_DATA, and without that the hub.
        limit: the most examples of train, chosen by the task's name; None for all. Held-out and reported part stay as they are.

    Returns:
        The task; the same for the same arguments and the same data.

    Raises:
        FileNotFoundError: if a folder or file is missing, and if the hub cannot be reached.
        ImportError: if a package that the task needs is missing.
        ValueError: for an unknown name, and files that do not have the columns or labels they must have.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit must be an int of at least 1, a number of examples, or None; got {limit!r}")
    if name in EMBEDDED:
        task = _docstrings() if name == "docstrings" else _digits()
    elif name in TASKS:
        task = _from_source(name, TASKS[name], _folder(name, data_dir))
    elif name.endswith(".toml"):
        known_as, source = read_description(name)
        task = _from_source(known_as, source, source.folder)
    else:
        near = nearest(name)
        raise ValueError(
            f"task must be the path of a .toml file or one of {', '.join(TASKS)}; got {name!r}"
            + (f"; the nearest are {', '.join(near)}" if near else "")
        )
    if limit is not None and limit < len(task.train):
        kept = _stratified(task.train.labels, limit, task.is_regression, f"{task.name} limit")
        task = replace(task, train=task.train.select(kept))
    return task


def read_description(path: str | os.PathLike[str]) -> tuple[str, Source]:
    r"""A task that a TOML file describes.

    The keys: ``kind``, "text" or "pair"; ``columns``, the one or two columns of text; ``label``, that of labels ("label" if not said);
    ``labels``, what classes are called there, in their order, or ``num_labels``, their number if they are 0, 1, ...; 1 is
    regression; ``metric`` or ``metrics``, of ``METRICS``, the main one first; ``train`` and ``reported``, files relative to the TOML
    file (.tsv without quoting, .csv, or .jsonl), or, with ``hub`` and perhaps ``config``, names of splits on the Hugging Face hub;
    ``name``, the file's if not said.

    Args:
        path: of the TOML file.

    Returns:
        The task's name and its source.

    Raises:
        FileNotFoundError: if it does not exist.
        ImportError: on Python 3.10 without `tomli`.
        ValueError: if it is not TOML, or a key is missing, unknown or not what it must be.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "questions.toml"
        ...     _ = path.write_text('''
        ... kind = "text"
        ... columns = ["question"]
        ... labels = ["person", "place"]
        ... metric = "accuracy"
        ... train = "train.tsv"
        ... reported = "test.tsv"
        ... ''')
        ...     name, source = read_description(path)
        >>> name, source.num_labels, source.columns
        ('questions', 2, ('question',))
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; a task is a name, {', '.join(TASKS)}, or a TOML file")
    content = _toml(path)
    known = {"name", "kind", "columns", "label", "labels", "num_labels", "metric", "metrics", "train", "reported"}
    unknown = sorted(content.keys() - known - {"hub", "config"})
    if unknown:
        raise ValueError(f"{path}: unknown keys {', '.join(unknown)}; those of a task are {', '.join(sorted(known))}")
    missing = [key for key in ("kind", "columns", "train", "reported") if key not in content]
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} must be given")
    kind, columns = content["kind"], _strings(path, "columns", content["columns"])
    _check_choice(path, "kind", kind, KINDS)
    if len(columns) != KINDS[kind]:
        raise ValueError(f'{path}: columns must name {KINDS[kind]} for kind = "{kind}"; got {list(columns)}')
    names = _strings(path, "labels", content.get("labels", []))
    count = content.get("num_labels", len(names))
    if isinstance(count, bool) or not isinstance(count, int) or count < 1 or (names and count != len(names)):
        raise ValueError(
            f"{path}: num_labels must be an int, 1 for regression, or labels a list of names; got {count!r}"
        )
    metrics = _strings(path, "metrics", content.get("metrics", [content["metric"]] if "metric" in content else []))
    for metric in metrics:
        _check_choice(path, "metric", metric, METRICS)
        if (metric in CORRELATIONS) != (count == 1):
            wanted = ", ".join(name for name in METRICS if (name in CORRELATIONS) == (count == 1))
            raise ValueError(f"{path}: metric must be one of {wanted} for {count} labels; got {metric!r}")
    default = ("pearson_spearman", "pearson", "spearman") if count == 1 else ("accuracy", "macro_f1")
    return str(content.get("name", path.stem)), Source(
        kind,
        metrics or default,
        count,
        columns,
        label=str(content.get("label", "label")),
        names=names,
        train=(str(content["train"]),),
        reported=(str(content["reported"]),),
        hub=(str(content["hub"]), content.get("config")) if "hub" in content else None,
        folder=None if "hub" in content else path.parent,
    )


# --- embedded tasks -----------------------------------------------------------------------------------------------------------


def _docstrings() -> Task:
    parts = {
        part: Split([(sentence,) for sentence, _ in rows], [float(label) for _, label in rows])
        for part, rows in read_sentences(DOCSTRINGS).items()
    }
    return _task("docstrings", TASKS["docstrings"], parts["train"], parts["held_out"], parts["reported"])


def _digits() -> Task:
    digits = _imported("sklearn.datasets").load_digits()
    images = torch.from_numpy(digits.images.astype(np.float32) / 16).unsqueeze(1)
    everything = Split(images, [float(label) for label in digits.target])
    reported = _stratified(everything.labels, len(everything) * 3 // 10, False, "digits reported")
    rest = everything.select(sorted(set(range(len(everything))) - set(reported)))
    train, held_out = _hold_out("digits", rest, False)
    return _task("digits", TASKS["digits"], train, held_out, everything.select(reported))


# --- files and the hub --------------------------------------------------------------------------------------------------------


def _folder(name: str, data_dir: str | os.PathLike[str] | None) -> Path | None:
    """The folder of a task's files, or None for the hub."""
    said = "data_dir"
    if data_dir is None:
        data_dir, said = os.environ.get(VARIABLE) or None, VARIABLE
    if data_dir is None:
        return None
    root = Path(data_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"{said} must be a folder; there is none at {root}")
    for folder in (root / "glue" / name, root / name):
        if folder.is_dir():
            return folder
    there = sorted(found for found in TASKS if (root / "glue" / found).is_dir() or (root / found).is_dir())
    raise FileNotFoundError(
        f"{said}: task {name!r} needs a folder {name} or glue/{name} in {root}, with train.tsv and validation.tsv; "
        f"there {'are ' + ', '.join(there) if there else 'is none of any task'}"
    )


def _from_source(name: str, source: Source, folder: Path | None) -> Task:
    read = _from_hub if folder is None else _from_files
    everything, reported, others = read(name, source, folder)
    if len(everything) < 8:
        raise ValueError(f"task {name!r}: train has {len(everything)} examples; at least 8 are needed to hold some out")
    train, held_out = _hold_out(name, everything, source.num_labels == 1)
    return _task(name, source, train, held_out, reported, **others)


def _from_files(name: str, source: Source, folder: Path | None) -> tuple[Split, Split, dict[str, Split]]:
    assert folder is not None
    train, reported = (_read_first(source, folder, names) for names in (source.train, source.reported))
    others = {
        called: _read_table(source, folder / f"{split}.tsv")
        for called, split in source.others
        if (folder / f"{split}.tsv").is_file()
    }
    return train, reported, others


def _read_first(source: Source, folder: Path, names: tuple[str, ...]) -> Split:
    paths = [folder / (name if Path(name).suffix else f"{name}.tsv") for name in names]
    for path in paths:
        if path.is_file():
            return _read_table(source, path)
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    raise FileNotFoundError(
        f"{paths[0]}: there is no such file; in the folder there {'are ' + ', '.join(there[:8]) if there else 'is nothing'}"
    )


def _read_table(source: Source, path: Path) -> Split:
    readers = {".tsv": _delimited, ".csv": _delimited, ".jsonl": _json_lines}
    if path.suffix not in readers:
        raise ValueError(f"{path}: must be a .tsv, .csv or .jsonl file")
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


def _from_hub(name: str, source: Source, folder: Path | None) -> tuple[Split, Split, dict[str, Split]]:
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
    labels, inputs = [], []
    for at, row in enumerate(rows, 1):
        labels.append(_label(row.get(source.label), source, numbers, f"{where}, row {at}"))
        inputs.append(tuple(str(row.get(column, "")) for column in source.columns))
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


# --- parts --------------------------------------------------------------------------------------------------------------------


def _hold_out(name: str, everything: Split, regression: bool) -> tuple[Split, Split]:
    size = min(MOST_HELD_OUT, max(1, round(HELD_OUT * len(everything))))
    held_out = _stratified(everything.labels, size, regression, f"{name} held out")
    chosen = set(held_out)
    return everything.select([row for row in range(len(everything)) if row not in chosen]), everything.select(held_out)


def _stratified(labels: Sequence[float], size: int, regression: bool, seed: str) -> list[int]:
    """So many rows, in their order, of each class its share; the strata of numbers are ten equal slices of their order."""
    order = np.asarray(labels)
    if regression:
        order = np.argsort(np.argsort(order, kind="stable"), kind="stable") * 10 // len(order)
    generator = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big"))
    strata = [generator.permutation(np.flatnonzero(order == value)) for value in np.unique(order)]
    # Each row has a place in [0, 1) within its stratum; those of the lowest places are in every stratum the same share.
    places = np.concatenate([(np.arange(len(rows)) + 0.5) / len(rows) for rows in strata])
    chosen = np.concatenate(strata)[np.argsort(places, kind="stable")[:size]]
    return sorted(int(row) for row in chosen)


def _task(name: str, source: Source, train: Split, held_out: Split, reported: Split, **others: Split) -> Task:
    numbered = tuple(f"class {number}" for number in range(source.num_labels)) if source.num_labels > 1 else ()
    classes = source.names or numbered
    return Task(name, source.kind, source.metrics, classes, train, held_out, reported, others, source.summary)


# --- helpers ------------------------------------------------------------------------------------------------------------------


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"the study needs {name.partition('.')[0]}: pip install 'simplicial_reg[study]'") from error


def _toml(path: Path) -> dict[str, Any]:
    try:
        toml: Any = importlib.import_module("tomllib")  # from Python 3.11 on
    except ImportError:
        try:
            toml = importlib.import_module("tomli")
        except ImportError as error:
            raise ImportError("reading TOML on Python 3.10 needs tomli: pip install 'simplicial_reg[study]'") from error
    try:
        content: dict[str, Any] = toml.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is not TOML: {error}") from error
    return content


def _strings(path: Path, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{path}: {key} must be a list of strings; got {value!r}")
    return tuple(value)


def _check_choice(path: Path, key: str, value: object, allowed: Any) -> None:
    try:
        check_choice(key, value, allowed)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
