"""MiniLM before and after it has learned a task, without a regularizer and with each of two.

The task is SST-2 of GLUE: whether a review is positive. A classifier is put onto the first token of all-MiniLM-L6-v2, and the
embeddings and the first three of its six layers are left as they are. All trainings begin with the same weights, those of the classifier
too, and see the same examples in the same order with the same dropout: torch's generator is seeded before every step. They differ
in the regularizer and in nothing else. Regularizers are those of the study (`simplicial_reg.study.variants`) and see what they see there:

    persistent-entropy    the first tokens of a batch in the last layer; its gradient there has a fraction of the norm of the task's
    istar                 all tokens of all layers; its weight is constant

How a training goes is in `benchmarks.diagnose.train`; what is new here is dropout, as MiniLM has it. One pass over the examples leaves
out those that do not fill a last batch. What is diagnosed are tokens of the validation set, the same ones each time.

Source of the task: Socher et al. 2013, "Recursive deep models for semantic compositionality over a sentiment treebank"; Wang et al.
2019, "GLUE".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.diagnose.data import spread
from benchmarks.diagnose.results import Results
from benchmarks.diagnose.train import ACCURACY, Recipe, endless_order, steps_of_training
from simplicial_reg.diagnose import Diagnosis, diagnose
from simplicial_reg.regularizers import REGULARIZERS
from simplicial_reg.study.models import Batch, Examples, Model, build_model
from simplicial_reg.study.tasks import Task, load_task
from simplicial_reg.study.variants import VARIANTS
from simplicial_reg.training import BalancedWeight, Regularization

__all__ = [
    "BEFORE",
    "SST2",
    "FineTuning",
    "accuracy",
    "begin",
    "compare",
    "fine_tune",
    "labels_of",
    "regularization_for",
]

SST2 = "glue/sst2"
MODEL = "minilm"
BEFORE = "before"
BATCH = 32
CPU = torch.device("cpu")


@dataclass(frozen=True)
class FineTuning:
    """How MiniLM is fine-tuned.

    Attributes:
        recipe: how long and how fast.
        examples: of the training set, of each class its share.
        length: tokens of a sentence, at most.
        frozen: first layers that are left as they are; so are the embeddings.
        strengths: by names of ``VARIANTS``: how strong the regularizer is, a fraction or a weight, whichever the variant is scaled by;
            0 for the task alone.
    """

    recipe: Recipe
    examples: int
    length: int
    frozen: int
    strengths: Mapping[str, float]


def labels_of(tuning: FineTuning) -> dict[str, str | None]:
    """What the diagnoses are called, and the variant of each; None before training.

    Example:
        >>> list(labels_of(FineTuning(Recipe(1, 2, 1e-3), 8, 12, 0, {"none": 0.0, "istar": 1.0})))
        ['before', 'task alone', 'with istar']
    """
    after = {"task alone" if VARIANTS[name].regularizer is None else f"with {name}": name for name in tuning.strengths}
    return {BEFORE: None, **after}


def compare(folder: Path, results: Results, tuning: FineTuning, *, sequences: int, sample: int, seed: int) -> None:
    """Diagnose the model before training and after each of the trainings, in which it begins as it was before.

    Args:
        folder: of the data.
        results: where diagnoses go. A training whose diagnosis is there is left out.
        tuning: how it is trained.
        sequences: of a diagnosis.
        sample: points of a diagnosis whose distances are looked at.
        seed: of the trainings.
    """
    task = load_task(Path(SST2).name, data_dir=folder, limit=tuning.examples)
    count = len(task.reported)
    chosen = spread(count, sequences).tolist()

    def diagnosis(label: str, variant: str | None) -> Diagnosis:
        model, what = begin(task, tuning, seed), "as it was published, with a classifier of drawn weights"
        if variant is not None:
            what = fine_tune(model, task, tuning, variant, seed, lambda text: results.say(f"{label}: {text}"))
        held_out = _encoded(model, task, tuning.length, held_out=True)
        right = accuracy(model, held_out)
        results.say(f"{label}: {ACCURACY} {right:.3f} on held-out data")
        results.metrics(label, {ACCURACY: right})
        batches = [
            model.batch(held_out, chosen[at : at + BATCH], CPU).inputs for at in range(0, len(chosen), BATCH)
        ]  # fmt: skip
        found = diagnose(
            model.module, batches, sample=sample, name=f"MiniLM, SST-2, seed {seed}", modality="text",
            data=f"{len(chosen)} held-out sentences of SST-2",
        )  # fmt: skip
        note = f"{what}; {ACCURACY} {right:.4f} on {count} held-out sentences"
        return replace(found, label=label, notes=[*found.notes, note])

    for at, (label, variant) in enumerate(labels_of(tuning).items()):

        def make(label: str = label, variant: str | None = variant) -> Diagnosis:
            return diagnosis(label, variant)

        results.keep(f"{at}-{label.replace(' ', '-')}", make)


def begin(task: Task, tuning: FineTuning, seed: int) -> Model:
    """The model before training, in evaluation mode; the seed draws the weights of the classifier."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(MODEL, task)
    model.freeze(embeddings=True, layers=tuning.frozen)
    model.module.eval()
    return model


def fine_tune(
    model: Model,
    task: Task,
    tuning: FineTuning,
    variant: str,
    seed: int,
    say: Callable[[str], None] = lambda text: None,
) -> str:
    """Train a model, which is then in evaluation mode and without hooks; torch's generator is as it was.

    Args:
        model: as `begin` makes it.
        task: what it learns.
        tuning: how.
        variant: a name in ``tuning.strengths``.
        seed: of the order of examples and of dropout.
        say: told at each tenth of the steps.

    Returns:
        What was done, in words.
    """
    recipe = tuning.recipe
    examples = _encoded(model, task, tuning.length)
    order = endless_order(len(examples), recipe.batch, torch.Generator().manual_seed(seed))
    regularization, said = regularization_for(model, variant, tuning.strengths[variant])
    now = 0

    def loss() -> Tensor:
        torch.manual_seed(seed * recipe.steps + now)  # of dropout, whatever a regularizer has drawn before
        batch = model.batch(examples, next(order).tolist(), CPU)
        task_loss = nn.functional.cross_entropy(model.outputs(batch), batch.labels)
        if regularization is None:
            return task_loss
        total: Tensor = regularization(task_loss, mask=batch.mask)
        return total

    with torch.random.fork_rng(devices=[]):
        try:
            for now in steps_of_training(model.module, recipe, loss):
                if now and regularization is not None:
                    regularization.advance()
                if now and now * 10 // recipe.steps > (now - 1) * 10 // recipe.steps:
                    say(f"step {now} of {recipe.steps}")
        finally:
            if regularization is not None:
                regularization.close()
    frozen = f"embeddings and blocks up to {tuning.frozen} as they were"
    return f"fine-tuned by {recipe.steps} steps of {recipe.batch} sentences, {frozen}, {said}"


def regularization_for(model: Model, variant: str, strength: float) -> tuple[Regularization | None, str]:
    """The regularization of a variant of the study, None for the task alone, and what it is in words."""
    chosen = VARIANTS[variant]
    if chosen.regularizer is None:
        return None, "the task alone"
    tap: dict[str, Any] = {**chosen.tap}
    if tap.get("pooling") == "head":
        tap["pooling"] = model.pooling
    (scale,) = chosen.defaults
    weight = BalancedWeight(strength) if scale == "fraction" else strength
    regularizer = REGULARIZERS[chosen.regularizer](**chosen.options)
    return Regularization(
        model.module, regularizer, weight=weight, gather=False, **tap
    ), f"{variant}, {scale} {strength:g}"


@torch.no_grad()
def accuracy(model: Model, examples: Examples) -> float:
    """The share of the examples whose class has the largest logit, of a model in evaluation mode."""
    lengths = examples.lengths()
    order = sorted(range(len(examples)), key=lambda row: lengths[row])  # less padding; the share is the same
    right = 0
    for at in range(0, len(order), BATCH):
        batch: Batch = model.batch(examples, order[at : at + BATCH], CPU)
        right += int((model.outputs(batch).argmax(1) == batch.labels).sum())
    return right / len(order)


def _encoded(model: Model, task: Task, length: int, *, held_out: bool = False) -> Examples:
    return model.encode(task.reported if held_out else task.train, max_length=length, regression=False)
