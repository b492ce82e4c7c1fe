"""A cell of the study, the one training run it stands for, and the line that the run leaves behind.

A cell is everything that determines a run; its key is a hash of that. A record is what the run found: one line of JSON in an
append-only file, written whole. Nothing else is kept between runs of the program, so a study that was killed goes on from its
records.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Cell", "Record"]


@dataclass(frozen=True)
class Cell:
    """One training run.

    Attributes:
        task: a name in ``TASKS``, or the path of a task's TOML file.
        model: a name or directory as for `transformers`, or the name of an embedded model.
        variant: a name in ``VARIANTS``: a regularizer with its options.
        phase: ``"tune"``, reported on what is held out from train, or ``"final"``, reported on the task's reported split too.
        seed: of weights, data order and dropout; equal for all variants, so that differences are paired.
        settings: all that may be tuned: ``learning_rate``, ``weight``, ...
        budget: all that may not, and is equal for all variants: ``epochs``, ``batch_size``, ``max_length``, ...
        contents: hashes of what the names stand for: ``data``, ``model``, ``variant``; and the ``version`` of the package.
    """

    task: str
    model: str
    variant: str
    phase: str
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    budget: dict[str, Any] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Hash of everything that determines the run, 16 hexadecimal digits."""
        content = asdict(self)
        if not self.contents:
            del content["contents"]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass
class Record:
    """What a run found; numbers are plain floats, nan is null in the file.

    Attributes:
        cell: the run.
        status: ``"done"`` or ``"failed"``.
        error: what went wrong, if it failed: type and message, without paths.
        metric: name of the task's main metric, bigger is better.
        selection: the main metric on the part held out from train.
        reported: all metrics on the reported split, by name; empty in phase ``"tune"``.
        evaluations: one entry for each epoch: ``{"epoch", "step", "selection", "isotropy": {measure: value}}``; entry 0 is before
            training.
        kept: number of the evaluation whose weights are reported on; None if the run did not get there.
        steps: for each step ``task_loss``, ``penalty``, ``weight``, ``gradient_norm``: lists of equal length.
        layers: ``{"before": [...], "after": [...]}``, for each hidden state ``{measure: value}``.
        clouds: ``{"before": {...}, "after": {...}}`` of the held-out embeddings: ``deaths`` (H0), ``loops`` (H1, pairs),
            ``spectrum`` (shares of variance, descending), all lists.
        costs: ``seconds``, ``seconds_per_step`` (median), ``peak_memory`` (bytes), ``penalty_share`` (of the time of a step).
        environment: versions, commit, threads, machine kind.
    """

    cell: Cell
    status: str
    error: str | None = None
    metric: str = ""
    selection: float | None = None
    reported: dict[str, float] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    kept: int | None = None
    steps: dict[str, list[float]] = field(default_factory=dict)
    layers: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    clouds: dict[str, dict[str, Any]] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """One line of strict JSON, with the key in front; NaN and infinity become null."""
        content = {"key": self.cell.key, **asdict(self)}
        return json.dumps(_plain(content), separators=(",", ":"), allow_nan=False)

    @staticmethod
    def parse(line: str) -> Record:
        """The record of a line that `line` made.

        Raises:
            ValueError: if it is not one, or its key is not the cell's.
        """
        content = json.loads(line)
        if not isinstance(content, dict) or "cell" not in content:
            raise ValueError("not a record of a study: a JSON object with a cell")
        key = content.pop("key", None)
        try:
            record = Record(cell=Cell(**content.pop("cell")), **content)
        except TypeError as error:
            raise ValueError(f"not a record of this version of the study: {error}") from error
        if key != record.cell.key:
            raise ValueError(f"the key {key} is not that of the cell, {record.cell.key}")
        return record


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
