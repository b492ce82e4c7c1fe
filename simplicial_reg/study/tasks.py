"""The tasks of the study: what is trained on, what settings are selected on, and what is reported.

Every task has three parts. *Train* and *held out* are cut from the task's train set, *reported* is its validation set. Settings
are selected on the held-out part and results are reported on the reported one, so that no number is reported on what it was selected
on. An eighth of train, but at most 1,000 examples, is held out: of each class its share, drawn by the name of the task and by nothing
else, so that it is the same in every run, for every seed and for every `limit`.

Metrics are those of GLUE (Wang et al. 2019): Matthews correlation for CoLA; accuracy and F1 for MRPC and QQP; Pearson and Spearman
correlation for STS-B; accuracy for the others. For embeddings compared by their cosine it is Spearman's, and for answers F1 of their
words. Where there are two, the main metric is their mean, as for GLUE's score. All are
computed by scikit-learn and SciPy. Two corners: F1 without any positive is 0; a correlation with predictions, or labels, that are all
equal, which is undefined, is 0 as Matthews' is, because such predictions know nothing.

Where the examples come from:

- ``docstrings`` and ``digits`` are made of what is installed.
- GLUE: from ``data_dir/TASK`` or ``data_dir/glue/TASK``, with ``train.tsv`` and ``validation.tsv``: UTF-8, a line of column names,
  tabs, no quoting. Without a ``data_dir`` (nor the environment variable SIMPLICIAL_REG_DATA) from the Hugging Face hub, by `datasets`.
- ``stsb-embedding`` and ``stsb-contrastive`` are STS-B for a model that embeds each sentence by itself; the second is trained on the
  pairs with a score of at least 4 alone.
- SQuAD 1.1: from ``data_dir/squad``, with ``train.json`` and ``validation.json`` as it was published, or from the hub. What is held out
  are whole contexts with all their questions.
- A TOML file describes any other such task; see `read_description`.
"""

from __future__ import annotations

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
from simplicial_reg.study._sources import EMBEDDED, VARIABLE, Source, Split, imported, read_files, read_hub
from simplicial_reg.study.docstrings import LIBRARIES, NAMES, read_sentences
from simplicial_reg.study.spans import ANSWER_METRICS, score_answers, whole_texts
from simplicial_reg.study.variants import nearest as nearest_names

__all__ = ["METRICS", "TASKS", "Split", "Task", "kind_of", "load_task", "nearest", "read_description"]

HELD_OUT = 1 / 8
MOST_HELD_OUT = 1000
KINDS = {"text": 1, "pair": 2, "similarity": 2, "span": 2}  # columns of text
LOSSES = ("cosent", "contrastive")  # of similarity; see `simplicial_reg.study.losses`
# Of each library: enough for a study of some minutes on two cores.
DOCSTRINGS = {"train": 200, "held_out": 48, "reported": 96}


@dataclass(frozen=True)
class Task:
    """A task with its examples.

    Attributes:
        name: as in ``TASKS``, or as the TOML file says.
        kind: ``"text"``, ``"pair"``, ``"image"``, ``"similarity"`` or ``"span"``.
        metrics: all that are reported, names in ``METRICS``, the main one first; bigger is better.
        classes: what the classes are called, in their order; empty for regression, similarity and spans.
        train: what is trained on.
        held_out: what settings are selected on.
        reported: what results are reported on.
        others: further reported parts by name, such as the mismatched one of MNLI.
        summary: what is asked, for people.
        loss: of similarity, ``"cosent"`` or ``"contrastive"``; empty for the other kinds, which have one each.
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
    loss: str = ""

    @property
    def metric(self) -> str:
        """The main metric, by which settings are selected."""
        return self.metrics[0]

    @property
    def num_labels(self) -> int:
        """Number of classes; 1 where there are none."""
        return max(1, len(self.classes))

    @property
    def description(self) -> str:
        """Sizes of the parts and counts of the classes."""
        parts = {"train": self.train, "held out": self.held_out, "reported": self.reported, **self.others}
        sizes = ", ".join(f"{len(split)} {part}" for part, split in parts.items())
        if self.kind == "span":
            labels = f"train has {len({context for _, context in self.train.inputs})} contexts"
        elif self.is_regression:
            labels = f"labels from {min(self.train.labels):g} to {max(self.train.labels):g}"
        else:
            counts = [f"{self.train.labels.count(at)} {name}" for at, name in enumerate(self.classes)]
            labels = f"train has {', '.join(counts)}"
        return f"{self.name}{f' ({self.summary})' if self.summary else ''}: {sizes}; {labels}"

    @property
    def is_regression(self) -> bool:
        """Whether labels are numbers and not classes."""
        return not self.classes and self.kind != "span"

    @property
    def has_classes(self) -> bool:
        """Whether each example is of a class."""
        return bool(self.classes)

    @property
    def fingerprint(self) -> str:
        """Hash of all examples, 16 hexadecimal digits: results of different data are not to be compared."""
        digest = hashlib.sha256()
        for split in (self.train, self.held_out, self.reported, *self.others.values()):
            inputs = split.inputs
            content = inputs.numpy().tobytes() if isinstance(inputs, Tensor) else json.dumps(list(inputs)).encode()
            digest.update(content + json.dumps(split.labels).encode())
        return digest.hexdigest()[:16]

    def score(self, labels: Sequence[Any], outputs: Tensor | Sequence[str]) -> dict[str, float]:
        """All metrics by name, of outputs ``(n, num_labels)``, or for spans of answers; NaN if an output is not finite or there is none."""
        if not isinstance(outputs, Tensor):
            return {name: score_answers(name, labels, outputs) if outputs else math.nan for name in self.metrics}
        found = np.asarray(outputs.detach().float().cpu().numpy(), dtype=np.float64)
        if not np.isfinite(found).all():
            return dict.fromkeys(self.metrics, math.nan)
        predicted = found[:, 0] if self.is_regression else found.argmax(1).astype(np.float64)
        truth = np.asarray(labels, dtype=np.float64)
        return {name: float(METRICS[name](truth, predicted)) for name in self.metrics}


def _sklearn(function: str, **options: Any) -> Callable[[Any, Any], float]:
    def metric(truth: Any, predicted: Any) -> float:
        return float(
            getattr(imported("sklearn.metrics"), function)(truth.astype(int), predicted.astype(int), **options)
        )

    return metric


def _correlation(function: str) -> Callable[[Any, Any], float]:
    def metric(truth: Any, predicted: Any) -> float:
        if len(truth) < 2 or np.ptp(truth) == 0 or np.ptp(predicted) == 0:
            return 0.0
        return float(getattr(imported("scipy.stats"), function)(truth, predicted)[0])

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


def _glue(name: str, summary: str, *columns: str, metrics: tuple[str, ...] = ("accuracy",), labels: int = 2) -> Source:
    kind = "pair" if len(columns) == 2 else "text"
    return Source(kind, metrics, labels, columns, hub=("nyu-mll/glue", name), summary=summary)


def _stsb_embedding(summary: str, loss: str, positive: float | None = None) -> Source:
    return Source(
        "similarity",
        ("spearman", "pearson"),
        1,
        ("sentence1", "sentence2"),
        hub=("nyu-mll/glue", "stsb"),
        summary=summary,
        files="stsb",
        loss=loss,
        positive=positive,
    )


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
    "stsb-embedding": _stsb_embedding("how similar are they, by the cosine of their embeddings", "cosent"),
    "stsb-contrastive": _stsb_embedding(
        "the same, trained on similar pairs against the others of the batch", "contrastive", 4.0
    ),
    "squad": Source(
        "span",
        ("f1", "exact_match"),
        1,
        ("question", "context"),
        label="answers",
        hub=("rajpurkar/squad", None),
        summary="which words of the text are the answer",
    ),
    "wnli": _glue("wnli", "does the pronoun mean that", "sentence1", "sentence2"),
}


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
        task = _from_source(name, TASKS[name], _folder(TASKS[name].files or name, data_dir))
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
        labels = [0.0] * len(task.train) if task.kind == "span" else task.train.labels
        kept = _stratified(labels, limit, task.is_regression, f"{task.name} limit")
        task = replace(task, train=task.train.select(kept))
    return task


def kind_of(name: str) -> str:
    """The kind of a task that is in ``TASKS`` or described by a TOML file; of any other name ``""``.

    Raises:
        FileNotFoundError: as `read_description`.
        ValueError: as `read_description`.

    Example:
        >>> kind_of("mrpc"), kind_of("squad")
        ('pair', 'span')
    """
    if name in TASKS:
        return TASKS[name].kind
    return read_description(name)[1].kind if name.endswith(".toml") else ""


def read_description(path: str | os.PathLike[str]) -> tuple[str, Source]:
    r"""A task that a TOML file describes.

    The keys: ``kind``, "text", "pair", "similarity" or "span"; ``columns``, the one or two columns of text, for spans that of the
    question and that of the context; ``label``, that of labels ("label" if not said, for spans "answers");
    ``labels``, what classes are called there, in their order, or ``num_labels``, their number if they are 0, 1, ...; 1 is
    regression; ``metric`` or ``metrics``, of ``METRICS``, the main one first; ``train`` and ``reported``, files relative to the TOML
    file (.tsv without quoting, .csv, .jsonl, or for spans .json as SQuAD has it), or, with ``hub`` and perhaps ``config``, names of
    splits on the Hugging Face hub; ``name``, the file's if not said.

    For similarity labels are numbers, the bigger the more similar; ``loss`` is "cosent" (if not said) or "contrastive"; ``positive`` is
    the least label of the pairs that are trained on. For spans a row's answers are ``{"text": [...], "answer_start": [...]}``.

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
    known |= {"hub", "config", "loss", "positive"}
    unknown = sorted(content.keys() - known)
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
    count = content.get("num_labels", len(names) if kind in ("text", "pair") else 1)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1 or (names and count != len(names)):
        raise ValueError(
            f"{path}: num_labels must be an int, 1 for regression, or labels a list of names; got {count!r}"
        )
    if kind not in ("text", "pair") and (names or count != 1):
        raise ValueError(f'{path}: there must be no labels and no num_labels for kind = "{kind}", which has no classes')
    metrics = _strings(path, "metrics", content.get("metrics", [content["metric"]] if "metric" in content else []))
    possible, default = _metrics_for(kind, count)
    for metric in metrics:
        if metric not in possible:
            _check_choice(path, "metric", metric, {**METRICS, **ANSWER_METRICS})
            what = f"{count} labels" if kind in ("text", "pair") else f'kind = "{kind}"'
            raise ValueError(f"{path}: metric must be one of {', '.join(possible)} for {what}; got {metric!r}")
    loss, positive = _similarity(path, kind, content)
    return str(content.get("name", path.stem)), Source(
        kind,
        metrics or default,
        count,
        columns,
        label=str(content.get("label", "answers" if kind == "span" else "label")),
        names=names,
        train=(str(content["train"]),),
        reported=(str(content["reported"]),),
        hub=(str(content["hub"]), content.get("config")) if "hub" in content else None,
        folder=None if "hub" in content else path.parent,
        loss=loss,
        positive=positive,
    )


def _metrics_for(kind: str, count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The metrics that there are, and those that are taken if nothing is said."""
    if kind == "span":
        return tuple(ANSWER_METRICS), ("f1", "exact_match")
    if count == 1:
        return CORRELATIONS, ("spearman", "pearson") if kind == "similarity" else (
            "pearson_spearman",
            "pearson",
            "spearman",
        )
    return tuple(name for name in METRICS if name not in CORRELATIONS), ("accuracy", "macro_f1")


def _similarity(path: Path, kind: str, content: dict[str, Any]) -> tuple[str, float | None]:
    if kind != "similarity":
        wrong = [key for key in ("loss", "positive") if key in content]
        if wrong:
            raise ValueError(f'{path}: {wrong[0]} must be left out for kind = "{kind}"; it is of kind = "similarity"')
        return "", None
    loss, positive = content.get("loss", LOSSES[0]), content.get("positive")
    _check_choice(path, "loss", loss, LOSSES)
    if positive is not None and (isinstance(positive, bool) or not isinstance(positive, (int, float))):
        raise ValueError(
            f"{path}: positive must be a number, the least label of pairs to be trained on; got {positive!r}"
        )
    return loss, None if positive is None else float(positive)


# --- embedded tasks -----------------------------------------------------------------------------------------------------------


def _docstrings() -> Task:
    parts = {
        part: Split([(sentence,) for sentence, _ in rows], [float(label) for _, label in rows])
        for part, rows in read_sentences(DOCSTRINGS).items()
    }
    return _task("docstrings", TASKS["docstrings"], parts["train"], parts["held_out"], parts["reported"])


def _digits() -> Task:
    digits = imported("sklearn.datasets").load_digits()
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
        f"{said}: task {name!r} needs a folder {name} or glue/{name} in {root}, with its train and validation files; "
        f"there {'are ' + ', '.join(there) if there else 'is none of any task'}"
    )


def _from_source(name: str, source: Source, folder: Path | None) -> Task:
    everything, reported, others = read_hub(name, source) if folder is None else read_files(source, folder)
    if len(everything) < 8:
        raise ValueError(f"task {name!r}: train has {len(everything)} examples; at least 8 are needed to hold some out")
    if source.kind == "span":
        train, held_out = _hold_out_contexts(name, everything)
    else:
        train, held_out = _hold_out(name, everything, source.num_labels == 1)
    if source.positive is not None:
        train = train.select([row for row, label in enumerate(train.labels) if label >= source.positive])
    if not len(train):
        least = "" if source.positive is None else f" with a label of at least {source.positive:g}"
        raise ValueError(f"task {name!r}: nothing is left to be trained on{least} when a part is held out")
    return _task(name, source, train, held_out, reported, **others)


# --- parts --------------------------------------------------------------------------------------------------------------------


def _hold_out(name: str, everything: Split, regression: bool) -> tuple[Split, Split]:
    size = min(MOST_HELD_OUT, max(1, round(HELD_OUT * len(everything))))
    held_out = _stratified(everything.labels, size, regression, f"{name} held out")
    chosen = set(held_out)
    return everything.select([row for row in range(len(everything)) if row not in chosen]), everything.select(held_out)


def _hold_out_contexts(name: str, everything: Split) -> tuple[Split, Split]:
    size = min(MOST_HELD_OUT, max(1, round(HELD_OUT * len(everything))))
    chosen = whole_texts([context for _, context in everything.inputs], size, _generator(f"{name} held out"))
    rest = set(range(len(everything))) - set(chosen)
    return everything.select(sorted(rest)), everything.select(chosen)


def _stratified(labels: Sequence[float], size: int, regression: bool, seed: str) -> list[int]:
    """So many rows, in their order, of each class its share; the strata of numbers are ten equal slices of their order."""
    order = np.asarray(labels)
    if regression:
        order = np.argsort(np.argsort(order, kind="stable"), kind="stable") * 10 // len(order)
    generator = _generator(seed)
    strata = [generator.permutation(np.flatnonzero(order == value)) for value in np.unique(order)]
    # Each row has a place in [0, 1) within its stratum; those of the lowest places are in every stratum the same share.
    places = np.concatenate([(np.arange(len(rows)) + 0.5) / len(rows) for rows in strata])
    chosen = np.concatenate(strata)[np.argsort(places, kind="stable")[:size]]
    return sorted(int(row) for row in chosen)


def _generator(seed: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big"))


def _task(name: str, source: Source, train: Split, held_out: Split, reported: Split, **others: Split) -> Task:
    numbered = tuple(f"class {number}" for number in range(source.num_labels)) if source.num_labels > 1 else ()
    classes = source.names or numbered
    return Task(
        name, source.kind, source.metrics, classes, train, held_out, reported, others, source.summary, source.loss
    )


# --- helpers ------------------------------------------------------------------------------------------------------------------


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
