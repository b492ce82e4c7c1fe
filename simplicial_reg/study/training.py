r"""One cell: a training run with one regularizer, and all that is recorded of it.

What is equal for all variants of a seed, to the last bit on the CPU:

- *Weights.* Those that the checkpoint lacks are drawn right after seeding with (seed, "weights").
- *Data order.* Each epoch's order is drawn from a generator of its own, (seed, "order"). Batches are uniformly random: batches of
  sentences of like length would have less padding, but their clouds would not be samples of the data.
- *Dropout.* torch's generator is seeded with (seed, "dropout", step, micro-batch) before every forward. Whatever a regularizer draws, be
  it from that generator, moves nothing after the step. Regularizers that draw have a generator of their own, (seed, "slices").

So a variant of weight 0 is the baseline, which a test holds it to. Numbers of threads and the kind of machine do make a difference;
they are recorded. On an accelerator some kernels are not deterministic.

Training is AdamW (no decay of biases and normalizations) on the mean loss of the task (`simplicial_reg.study.losses`), with warm-up and
a linear or cosine decay to zero, and gradients clipped at norm 1. With ``accumulation`` the losses of so many micro-batches are
averaged and their points are one cloud, through which gradients flow in full; the graphs of all are kept, so that costs the memory of a
large batch. The negatives and the order that the losses of similarity are about are those of a micro-batch.

Before the first step and after each epoch the held-out part is evaluated. With ``keep="best"`` the weights of the best of these
evaluations but the first are what is reported on, for every variant by the same rule; by default it is the last ones.

What a penalty costs, ``penalty_share``, is the time of its forward (reading the hidden states, balancing the weight, the
regularizer) and that of its backward to the points, over the time of a step. The backward is timed on the side, on a copy of
the regularizer and the points of some steps, outside of the time of the step. Peak memory is that of the process: if a process
runs several cells, the largest so far.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import inspect
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from simplicial_reg._checks import check_choice
from simplicial_reg.barcode import rips_barcode
from simplicial_reg.isotropy import MEASURES, measure
from simplicial_reg.regularizers import REGULARIZERS, Regularizer
from simplicial_reg.study.losses import task_loss
from simplicial_reg.study.models import VIT, Batch, Examples, Model, build_model
from simplicial_reg.study.record import Cell, Record
from simplicial_reg.study.tasks import Split, kind_of, load_task
from simplicial_reg.study.variants import SCALES, VARIANTS, Variant, nearest
from simplicial_reg.training.regularization import Regularization
from simplicial_reg.training.tap import Tap
from simplicial_reg.training.weight import BalancedWeight, Weight, make_weight

__all__ = ["TUNABLE", "Budget", "budget_for", "check_settings", "definition", "run_cell"]

# Of the held-out embeddings, at each evaluation.
ISOTROPY = (
    "isoscore",
    "participation_ratio",
    "effective_rank",
    "top_variance_share",
    "mean_cosine",
    "drift_ratio",
    "persistent_entropy",
    "entropy_deficit",
    "prominent_bars",
    "twonn_dimension",
)
# Of the tokens of each hidden state: those that need no distances.
OF_LAYERS = ("isoscore", "effective_rank", "top_variance_share", "mean_cosine", "drift_ratio")
MEASURED, LOOPS, LAYER_SENTENCES, LAYER_TOKENS = 256, 128, 48, 512
EVALUATION_BATCH = 64
REFRESH_POINTS = 250_000  # that many points are in the covariance of Rudman and Eickhoff's code
TIMED_STEPS = (2, 4, 6)  # steps whose penalty is timed; the first ones are slower than the others
PHASES = ("tune", "final")
SCHEDULES = ("linear", "cosine", "constant")
# Of the settings, those that are not the regularizer's. The first are the optimizer's, and say for this cell what the budget says for all.
TUNABLE = ("warmup", "schedule", "weight_decay", "clip")
TAP_OPTIONS = ("layer", "pooling", "cloud", "include_padding", "memory", "max_points")
REFRESH = ("refresh", "refresh_points")


@dataclass(frozen=True)
class Budget:
    """What is not tuned and equal for all variants.

    Attributes:
        epochs: passes over train.
        steps: steps of the optimizer instead; None for epochs.
        batch_size: examples of a micro-batch.
        accumulation: micro-batches of a step.
        max_length: tokens of an example; of each sentence for similarity, of a window for spans.
        warmup: fraction of the steps in which the learning rate rises.
        schedule: ``"linear"`` or ``"cosine"``, how it falls to zero, or ``"constant"``.
        weight_decay: of AdamW.
        clip: norm at which gradients are clipped.
        freeze_embeddings: whether the embeddings of a pretrained model are left as they are.
        frozen_layers: how many of its first blocks are, too.
        limit: the most examples of train, or None.
        precision: ``"float32"`` or ``"bfloat16"``, in which the model runs (autocast), in training and in evaluation. Losses, regularizers
            and measures are computed in float32 either way, of points that have two to three digits in bfloat16.
        keep: ``"last"`` or ``"best"``, the weights that are reported on.
    """

    epochs: int = 1
    steps: int | None = None
    batch_size: int = 32
    accumulation: int = 1
    max_length: int = 48
    warmup: float = 0.1
    schedule: str = "linear"
    weight_decay: float = 0.01
    clip: float = 1.0
    freeze_embeddings: bool = True
    frozen_layers: int = 0
    limit: int | None = None
    precision: str = "float32"
    keep: str = "last"

    def __post_init__(self) -> None:
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("precision", self.precision, ("float32", "bfloat16"))
        check_choice("keep", self.keep, ("last", "best"))
        for name in ("epochs", "steps", "batch_size", "accumulation", "max_length"):
            value = getattr(self, name)
            if name == "steps" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an int of at least 1; got {value!r}")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup must be in [0, 1], a fraction of the steps; got {self.warmup!r}")


# Training from scratch takes longer than fine-tuning.
DEFAULTS: dict[str, dict[str, Any]] = {VIT: {"epochs": 12}}
# A question with its text is longer than a sentence; Devlin et al. 2019 take windows of this length for SQuAD.
KIND_DEFAULTS: dict[str, dict[str, Any]] = {"span": {"max_length": 384}}


def budget_for(model: str, budget: dict[str, Any], task: str = "") -> Budget:
    """The budget with the defaults of the model and of the task's kind where it says nothing.

    Example:
        >>> budget_for("vit-digits", {"batch_size": 16}).epochs
        12
        >>> budget_for("minilm", {}).max_length, budget_for("minilm", {}, "squad").max_length
        (48, 384)
    """
    names = [one.name for one in fields(Budget)]
    unknown = sorted(budget.keys() - set(names))
    if unknown:
        raise ValueError(f"budget must have keys of {', '.join(names)}; got {', '.join(unknown)}")
    return Budget(**{**DEFAULTS.get(model, {}), **KIND_DEFAULTS.get(kind_of(task), {}), **budget})


def run_cell(
    cell: Cell,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    on_step: Callable[[dict[str, Any]], None] | None = None,
) -> Record:
    """Train once and record what was found.

    torch's generators are as they were afterwards. The training is on the first CUDA device if there is one.

    Args:
        cell: the run. Its settings are ``learning_rate``; what is in ``TUNABLE``, in place of the budget's; ``weight`` or ``fraction``,
            how strong the regularizer is; and options of the regularizer, of ``Regularization`` (``memory``, ``pooling``, ...) and
            ``refresh``, which replace the variant's. Its budget has keys of `Budget`.
        data_dir: as for `simplicial_reg.study.tasks.load_task`.
        on_step: called after every step with a dict of ``step``, ``steps``, ``metric`` (its name), the latest ``selection``,
            ``task_loss``, ``penalty``, ``weight``, ``gradient_norm``, and ``seconds`` since the start.

    Returns:
        The record: of status ``"failed"`` with the error, and what was found until then, if anything goes wrong. Only an
        interruption is raised.
    """
    started = time.perf_counter()
    record = Record(cell=cell, status="failed")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        record.environment = _environment(device)
        with torch.random.fork_rng(devices=[0] if device.type == "cuda" else []):
            _Run(record, device, data_dir, on_step or (lambda state: None), started).run()
        record.status = "done"
    except Exception as error:
        record.error = _message(error)
    record.costs["seconds"] = time.perf_counter() - started
    return record


class _Run:
    """The state of a training run."""

    def __init__(
        self,
        record: Record,
        device: torch.device,
        data_dir: str | os.PathLike[str] | None,
        on_step: Callable[[dict[str, Any]], None],
        started: float,
    ) -> None:
        self.record, self.cell, self.device = record, record.cell, device
        self.on_step, self.started = on_step, started
        check_choice("phase", self.cell.phase, PHASES)
        tuned = {name: value for name, value in self.cell.settings.items() if name in TUNABLE}
        self.budget = budget_for(self.cell.model, {**self.cell.budget, **tuned}, self.cell.task)
        self.variant, self.scale = _with_settings(self.cell.variant, self.cell.settings)
        self.task = load_task(self.cell.task, data_dir=data_dir, limit=self.budget.limit)
        record.metric = self.task.metric
        record.environment |= {"task": self.task.description, "data": self.task.fingerprint}
        planned = self.cell.contents.get("data", self.task.fingerprint)
        if planned != self.task.fingerprint:
            raise ValueError(
                f"the data of task {self.task.name} are others here ({self.task.fingerprint}) than where the study was planned "
                f"({planned}); give all machines the same data, and for embedded tasks the same packages"
            )
        if self.variant.needs_classes and not self.task.has_classes:
            raise ValueError(
                f"variant {self.cell.variant} makes a cloud of each class, and task {self.task.name} has no classes"
            )
        self.loss = task_loss(self.task)
        self.model = self._built()
        self.train, self.held_out = self._encoded(self.task.train), self._encoded(self.task.held_out)
        self.regularization = self._regularization()
        self.optimizer = _optimizer(self.model.module, self._learning_rate(), self.budget.weight_decay)
        micro_batches = math.ceil(len(self.train) / self.budget.batch_size)
        self.per_epoch = math.ceil(micro_batches / self.budget.accumulation)
        self.total = self.budget.steps or self.budget.epochs * self.per_epoch
        self.points = torch.empty(0, 0)
        self.seconds: list[float] = []
        self.penalty_shares: list[float] = []

    def run(self) -> None:
        """Evaluate, train and evaluate."""
        record = self.record
        record.steps = {name: [] for name in ("task_loss", "penalty", "weight", "gradient_norm")}
        self._evaluate(0)
        record.layers["before"], record.clouds["before"] = self._layers(), self._cloud()
        self._train()
        record.layers["after"], record.clouds["after"] = self._layers(), self._cloud()
        record.kept, record.selection = self.kept, self._selection(self.kept)
        if self.cell.phase == "final":
            record.reported = self._reported()
        record.costs |= {
            "seconds_per_step": statistics.median(self.seconds),
            "peak_memory": _peak_memory(self.device),
            "penalty_share": statistics.median(self.penalty_shares) if self.penalty_shares else 0.0,
        }

    # --- set-up ---

    def _built(self) -> Model:
        torch.manual_seed(_seed(self.cell.seed, "weights"))
        model = build_model(self.cell.model, self.task)
        model.freeze(embeddings=self.budget.freeze_embeddings, layers=self.budget.frozen_layers)
        model.module.to(self.device)
        return model

    def _encoded(self, split: Split) -> Examples:
        return self.model.encode(split, max_length=self.budget.max_length, regression=self.task.is_regression)

    def _learning_rate(self) -> float:
        value = self.cell.settings.get("learning_rate")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(f"settings must have a learning_rate, a positive number; got {value!r}")
        return float(value)

    def _regularization(self) -> Regularization | None:
        if self.variant.regularizer is None:
            return None
        tap = {**self.variant.tap}
        if tap.get("pooling") == "head":
            tap["pooling"] = self.model.pooling
        regularizer = _regularizer(self.variant, self.cell.seed)
        return Regularization(
            self.model.module,
            {"penalty": regularizer},
            weight=self.scale,
            forwards=self.budget.accumulation,
            seed=_seed(self.cell.seed, "points") % 2**31,
            gather=False,
            **tap,
        )

    # --- training ---

    def _train(self) -> None:
        self.kept = 0
        best: dict[str, Tensor] = {}
        points = self.points
        for step, group in enumerate(self._groups()):
            if step % self.per_epoch == 0:
                self._refresh()
            self._step(step, group)
            if (step + 1) % self.per_epoch == 0 or step + 1 == self.total:
                found = self._evaluate(step + 1)
                latest = len(self.record.evaluations) - 1
                # The first evaluation is of the untrained model, which is not kept.
                if self.kept == 0 or self.budget.keep == "last" or found > self._selection(self.kept):
                    self.kept, points = latest, self.points
                    if self.budget.keep == "best":
                        state = self.model.module.state_dict()
                        best = {name: value.detach().clone() for name, value in state.items()}
            if step + 1 == self.total:
                break
        self.points = points  # of the weights that are kept
        if best:
            self.model.module.load_state_dict(best)

    def _selection(self, entry: int) -> float:
        return float(self.record.evaluations[entry]["selection"])

    def _groups(self) -> Iterator[list[list[int]]]:
        """For each step the rows of its micro-batches, without end."""
        generator = torch.Generator().manual_seed(_seed(self.cell.seed, "order"))
        size, several = self.budget.batch_size, self.budget.accumulation
        while True:
            order = torch.randperm(len(self.train), generator=generator).tolist()
            batches = [order[at : at + size] for at in range(0, len(order), size)]
            yield from (batches[at : at + several] for at in range(0, len(batches), several))

    def _step(self, step: int, group: list[list[int]]) -> None:
        module = self.model.module
        module.train()
        begun = self._now()
        task_loss, batches = self._task_loss(step, group)
        loss, penalty_seconds = self._with_penalty(task_loss, batches)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(module.parameters(), self.budget.clip)
        self._set_learning_rate(step)
        self.optimizer.step()
        if self.regularization is not None:
            self.regularization.advance()
        ended = self._now()
        self.seconds.append(ended - begun)
        if step in TIMED_STEPS and self.regularization is not None:
            backward = self._backward_seconds(self.regularization)
            self.penalty_shares.append((penalty_seconds + backward) / (ended - begun))
        self._write(step, task_loss, norm)

    def _task_loss(self, step: int, group: list[list[int]]) -> tuple[Tensor, list[Batch]]:
        """The mean loss of all examples of the micro-batches."""
        batches, losses = [], []
        for at, rows in enumerate(group):
            batch = self.model.batch(self.train, rows, self.device)
            torch.manual_seed(_seed(self.cell.seed, "dropout", step, at))
            losses.append(self.loss(self._forward(batch), batch.labels) * len(rows))
            batches.append(batch)
        return torch.stack(losses).sum() / sum(map(len, group)), batches

    def _forward(self, batch: Batch) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.budget.precision == "bfloat16"):
            return self.model.outputs(batch)

    def _with_penalty(self, task_loss: Tensor, batches: list[Batch]) -> tuple[Tensor, float]:
        if self.regularization is None:
            return task_loss, 0.0
        begun = self._now()
        masks = None if batches[0].mask is None else [cast(Tensor, batch.mask) for batch in batches]
        labels = [batch.labels for batch in batches] if self.task.has_classes else None
        loss = self.regularization(task_loss, mask=masks, labels=labels)
        return loss, self._now() - begun

    def _set_learning_rate(self, step: int) -> None:
        factor = _schedule(self.budget.schedule, self.budget.warmup, step, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate() * factor

    def _backward_seconds(self, regularization: Regularization) -> float:
        """Of the penalty, from its value to the points it was computed from; on copies, so that nothing notices."""
        cloud = regularization.points
        if cloud is None:
            return 0.0
        regularizer = copy.deepcopy(regularization.regularizers["penalty"])
        points = cloud.points.clone().requires_grad_()
        penalty = regularizer(points, mask=cloud.mask, labels=cloud.labels)
        if not penalty.requires_grad:
            return 0.0
        begun = self._now()
        torch.autograd.grad(penalty, points)
        return self._now() - begun

    def _write(self, step: int, task_loss: Tensor, norm: Tensor) -> None:
        logs = {} if self.regularization is None else self.regularization.logs
        now = {
            "task_loss": float(task_loss.detach()),
            "penalty": float(logs.get("penalty", 0.0)),
            "weight": float(logs.get("penalty_weight", 0.0)),
            "gradient_norm": float(norm),
        }
        for name, value in now.items():
            self.record.steps[name].append(_short(value))
        for name in ("task_loss", "gradient_norm"):
            if not math.isfinite(now[name]):
                raise RuntimeError(f"step {step}: {name} is {now[name]}: the training has diverged")
        self.on_step(
            {
                "step": step + 1,
                "steps": self.total,
                "metric": self.task.metric,
                "selection": self.record.evaluations[-1]["selection"],
                "seconds": time.perf_counter() - self.started,
                **now,
            }
        )

    @torch.no_grad()
    def _refresh(self) -> None:
        """The shrinkage covariance of I-STAR anew, from train, as Rudman and Eickhoff's code does before each epoch."""
        if self.regularization is None or self.variant.options.get("refresh") is None:
            return
        regularizer: Any = self.regularization.regularizers["penalty"]
        regularizer.reset_covariance()
        wanted = self.variant.options.get("refresh_points", REFRESH_POINTS)
        self.model.module.eval()
        for at in range(0, len(self.train), EVALUATION_BATCH):
            batch = self.model.batch(self.train, range(at, min(at + EVALUATION_BATCH, len(self.train))), self.device)
            self._forward(batch)
            cloud = self.regularization.tap.read(mask=batch.mask)
            regularizer.update_covariance(cloud.points, cloud.mask)
            if regularizer.moments.count >= wanted:
                break

    # --- evaluation ---

    def _evaluate(self, step: int) -> float:
        """An entry of the record for the held-out part, which is also the cloud that is looked at."""
        found, points = self._found(self.held_out, with_points=True)
        rows = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:MEASURED]
        self.points = points[rows]
        values = measure(self.points)
        predictions = self.model.predictions(self.held_out, found)
        score = self.task.score(self.task.held_out.labels, predictions)[self.task.metric]
        self.record.evaluations.append(
            {
                "epoch": step / self.per_epoch,
                "step": step,
                "selection": score,
                "isotropy": {name: values[name] for name in ISOTROPY},
            }
        )
        return score

    @torch.no_grad()
    def _found(self, examples: Examples, *, with_points: bool = False) -> tuple[Tensor, Tensor]:
        """What was found for all examples, in their order, and the hidden states that the head reads, on the CPU."""
        self.model.module.eval()
        lengths = examples.lengths()
        order = sorted(range(len(examples)), key=lambda row: lengths[row])  # less padding; the results are the same
        found, points = [], []
        with Tap(self.model.module, pooling=self.model.pooling) as tap:
            for at in range(0, len(order), EVALUATION_BATCH):
                batch = self.model.batch(examples, order[at : at + EVALUATION_BATCH], self.device)
                found.append(self.model.found(self._forward(batch), batch).float().cpu())
                if with_points:
                    # First sentences come before second ones in a batch; here they are put side by side.
                    read = tap.read(mask=batch.mask).points.float().cpu()
                    points.append(read.unflatten(0, (examples.sides, -1)).transpose(0, 1))
        if self.regularization is not None:
            self.regularization.tap.forget()
        back = torch.tensor(order).argsort()
        return torch.cat(found)[back], torch.cat(points)[back].flatten(0, 1) if with_points else torch.empty(0)

    def _reported(self) -> dict[str, float]:
        splits = {"": self.task.reported, **{f"_{name}": split for name, split in self.task.others.items()}}
        found: dict[str, float] = {}
        for suffix, split in splits.items():
            examples = self._encoded(split)
            predictions = self.model.predictions(examples, self._found(examples)[0])
            found |= {f"{name}{suffix}": value for name, value in self.task.score(split.labels, predictions).items()}
        return found

    @torch.no_grad()
    def _layers(self) -> list[dict[str, float]]:
        """Measures of the tokens of every hidden state, of the same tokens each time."""
        self.model.module.eval()
        rows = range(min(LAYER_SENTENCES, len(self.held_out)))
        batch = self.model.batch(self.held_out, rows, self.device)
        with (
            Tap(self.model.module, layer=0, pooling="tokens") as first,
            Tap(self.model.module, layer="all", pooling="tokens") as others,
        ):
            self._forward(batch)
            cloud = others.read(mask=batch.mask)
            states = [first.read(mask=batch.mask).points.float(), *cloud.points.float()]
        if self.regularization is not None:
            self.regularization.tap.forget()
        real = torch.ones_like(states[0][:, 0], dtype=torch.bool) if cloud.mask is None else cloud.mask[0]
        tokens = real.nonzero().squeeze(-1).cpu()
        chosen = tokens[torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))[:LAYER_TOKENS]]
        return [
            {name: _short(float(MEASURES[name].function(state.cpu()[chosen]))) for name in OF_LAYERS}
            for state in states
        ]

    def _cloud(self) -> dict[str, Any]:
        """Barcode and spectrum of the held-out embeddings, before training those of the start and after it those of the kept weights."""
        points = self.points
        deaths = rips_barcode(points)[0].death
        loops = rips_barcode(points[:LOOPS], 1)[1]
        squares = torch.linalg.svdvals((points - points.mean(0)).double()).square()
        shares = squares / squares.sum() if squares.sum() > 0 else squares
        pairs = torch.stack([loops.birth, loops.death], 1).tolist()
        return {
            "deaths": [_short(value) for value in deaths.sort().values.tolist()],
            "loops": [[_short(birth), _short(death)] for birth, death in pairs],
            "spectrum": [_short(value) for value in shares.tolist()],
        }

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


# --- settings -----------------------------------------------------------------------------------------------------------------


def check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Raise a ValueError or TypeError if a cell of this variant could not be run with these settings, before hours are spent on others."""
    variant, _ = _with_settings(name, settings)
    Budget(**{key: value for key, value in settings.items() if key in TUNABLE})
    if variant.regularizer is not None:
        _regularizer(variant, 0)


def definition(name: str) -> dict[str, Any]:
    """What the name of a variant stands for: regularizer, cloud, and all arguments with their defaults, as JSON has it."""
    variant = VARIANTS[name]
    if variant.regularizer is None:
        return {}
    parameters = inspect.signature(REGULARIZERS[variant.regularizer]).parameters
    arguments = {key: one.default for key, one in parameters.items() if key != "generator"} | variant.options
    found = {
        "regularizer": variant.regularizer,
        "arguments": arguments,
        "cloud": variant.tap,
        "defaults": variant.defaults,
    }
    return cast(dict[str, Any], json.loads(json.dumps(found, default=str)))


def _with_settings(name: str, given: Mapping[str, Any]) -> tuple[Variant, Weight | float]:
    """The variant with settings in the place of its own, and the weight."""
    if name not in VARIANTS:
        near = nearest(name, VARIANTS) or list(VARIANTS)
        raise ValueError(f"variant must be one of VARIANTS, such as {', '.join(near)}; got {name!r}")
    variant = VARIANTS[name]
    settings = {key: value for key, value in given.items() if key not in ("learning_rate", *TUNABLE)}
    if variant.regularizer is None:
        # Recipes may give all variants the same settings, but nothing of a regularizer is the baseline's.
        return variant, 0.0
    scales = {key: settings.pop(key) for key in SCALES if key in settings} or {
        key: value for key, value in variant.defaults.items() if key in SCALES
    }
    if len(scales) != 1:
        raise ValueError(f"settings must have weight or fraction, one of the two; got {', '.join(scales) or 'neither'}")
    options, tap = {**variant.options}, {**variant.tap}
    known = [*inspect.signature(REGULARIZERS[variant.regularizer]).parameters, *TAP_OPTIONS]
    if variant.regularizer == "istar":
        known += REFRESH
    for key, value in settings.items():
        check_choice(f"a setting of {name}", key, known)
        (tap if key in TAP_OPTIONS else options)[key] = value
    if "refresh" in options:
        check_choice("refresh", options["refresh"], ("epoch",))
        options["decay"] = None  # the covariance is that of the epoch's start, and not of the steps
    scale = make_weight(scales["weight"]) if "weight" in scales else BalancedWeight(scales["fraction"])
    return replace(variant, options=options, tap=tap), scale


def _regularizer(variant: Variant, seed: int) -> Regularizer:
    kind = REGULARIZERS[cast(str, variant.regularizer)]
    options = {name: value for name, value in variant.options.items() if name not in REFRESH}
    if "generator" in inspect.signature(kind).parameters:
        options["generator"] = torch.Generator().manual_seed(_seed(seed, "slices"))
    return kind(**options)


def _optimizer(module: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW that decays matrices only: vectors are biases and the scales of normalizations."""
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not wanted:
        raise ValueError("nothing is left to be trained: all parameters of the model are frozen")
    groups = [
        {"params": [one for one in wanted if one.ndim > 1], "weight_decay": weight_decay},
        {"params": [one for one in wanted if one.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate)


def _schedule(shape: str, warmup: float, step: int, total: int) -> float:
    """The factor of the learning rate at a step: a ramp up to 1, then down to 0 after the last step."""
    first = round(warmup * total)
    if step < first:
        return (step + 1) / (first + 1)
    done = (step - first) / max(1, total - first)
    return {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[shape]


def _seed(*parts: object) -> int:
    """A seed for what is named: 63 bits of a hash, so that different things are independent."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


# --- what is recorded ---------------------------------------------------------------------------------------------------------


def _short(value: float) -> float:
    """Six significant digits: there are thousands of such numbers in a record."""
    return float(f"{value:.6g}")


def _message(error: Exception) -> str:
    """Type and message; of a path its last part, because reports are published."""
    return re.sub(r"(?<![\w/:])/(?:[^\s/'\"]+/)+", "", f"{type(error).__name__}: {error}")


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated())
    import resource  # not on Windows, where nothing else of this needs it

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else 1024 * peak)  # bytes on macOS, KiB elsewhere


def _environment(device: torch.device) -> dict[str, Any]:
    packages = ("simplicial_reg", "torch", "numpy", "numba", "scipy", "scikit-learn", "transformers")
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "commit": _commit(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def _commit() -> str | None:
    """The commit of the checkout that this runs from, with a plus if it has been changed; None elsewhere and without git."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        said = [
            subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True, timeout=10).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return said[0].strip() + ("+" if said[1].strip() else "")
