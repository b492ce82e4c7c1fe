"""Training of the small models, halted at steps that are evenly spaced on a logarithmic scale.

AdamW (Loshchilov, Hutter 2019) with a learning rate that rises linearly over the first twentieth of the steps and then falls to a tenth of
its largest by half a cosine; gradients are clipped to norm 1; no dropout. Images are drawn without repetition until all were seen, then
again; on CIFAR each is mirrored with probability one half. Passages of text begin anywhere. The seed decides the first weights and what
is drawn. What is done at a halt changes nothing about the training that goes on.

A batch normalization uses running averages when a model is evaluated. At first they are 0 and 1, which normalizes nothing, and later they
lag behind the weights; at each halt they are therefore taken anew over 1,000 of the images. Training itself does not use them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.diagnose.data import Images, Text, spread
from benchmarks.diagnose.models import CausalTransformer

__all__ = [
    "ACCURACY",
    "BITS",
    "Recipe",
    "bits_per_character",
    "endless_order",
    "halts",
    "passages",
    "steps_of_training",
    "train_on_images",
    "train_on_text",
]

ACCURACY, BITS = "accuracy", "bits per character"
WARM_UP = 1 / 20
LEAST_RATE = 0.1
DECAY = 0.05
LARGEST_GRADIENT = 1.0
SETTLED_ON = 1000

# What is called at a halt: the step, and the metrics of the model there, in evaluation mode.
Halt = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Recipe:
    """How long and how fast: steps of so many examples, and the largest learning rate."""

    steps: int
    batch: int
    rate: float


def halts(steps: int, each_tenfold: int = 2) -> list[int]:
    """Step 0, the last step, and between them so many in each factor of ten.

    Example:
        >>> halts(1000)
        [0, 10, 32, 100, 316, 1000]
    """
    found = {0, steps}
    for exponent in range(1, 2 * each_tenfold + 1):
        found.add(round(steps * 10 ** (-exponent / each_tenfold)))
    return sorted(found)


def train_on_images(
    make: Callable[[], nn.Module], images: Images, recipe: Recipe, seed: int, at_halt: Callable[[nn.Module], Halt]
) -> nn.Module:
    """A classifier.

    Args:
        make: makes the model; its first weights are drawn from torch's global generator.
        images: what it is trained and evaluated on.
        recipe: how.
        seed: of first weights and of what is drawn.
        at_halt: given the model, what is to be called at each halt.
    """
    model, draw = _begin(make, seed)
    mirror = images.train.shape[1] == 3
    order = endless_order(len(images.train), recipe.batch, draw)

    def loss() -> Tensor:
        chosen = next(order)
        batch = images.train[chosen]
        if mirror:
            flipped = torch.rand(len(batch), 1, 1, 1, generator=draw) < 0.5
            batch = torch.where(flipped, batch.flip(-1), batch)
        return nn.functional.cross_entropy(model(batch).logits, images.train_labels[chosen])

    def evaluate() -> dict[str, float]:
        _settle(model, images.train[spread(len(images.train), SETTLED_ON)])
        logits = torch.cat([model(part).logits for part in images.held_out.split(500)])
        right = (logits.argmax(1) == images.held_out_labels).double().mean().item()
        return {ACCURACY: right, "loss": nn.functional.cross_entropy(logits, images.held_out_labels).item()}

    _train(model, recipe, loss, evaluate, at_halt(model))
    return model


def train_on_text(
    make: Callable[[], CausalTransformer],
    text: Text,
    recipe: Recipe,
    seed: int,
    at_halt: Callable[[nn.Module], Halt],
    *,
    context: int,
    evaluated: int,
) -> nn.Module:
    """A language model.

    Args:
        make: makes the model; its first weights are drawn from torch's global generator.
        text: what it is trained and evaluated on.
        recipe: how; an example is a passage.
        seed: of first weights and of what is drawn.
        at_halt: given the model, what is to be called at each halt.
        context: length of a passage.
        evaluated: how many held-out passages it is evaluated on.
    """
    model, draw = _begin(make, seed)
    held_out = passages(text.held_out, context + 1, evaluated)

    def loss() -> Tensor:
        starts = torch.randint(len(text.train) - context, (recipe.batch, 1), generator=draw)
        batch = text.train[starts + torch.arange(context + 1)]
        return nn.functional.cross_entropy(model(batch[:, :-1]).logits.flatten(0, 1), batch[:, 1:].flatten())

    def evaluate() -> dict[str, float]:
        return {BITS: bits_per_character(model, held_out, text.lengths)}

    _train(model, recipe, loss, evaluate, at_halt(model))
    return model


def bits_per_character(model: nn.Module, held_out: Tensor, lengths: Tensor) -> float:
    """Of passages (n, context + 1), in which all but the first are predicted.

    Args:
        model: returns something with logits.
        held_out: numbers of characters or tokens.
        lengths: how many characters each of them stands for.
    """
    nats = 0.0
    for part in held_out.split(64):
        logits = model(part[:, :-1]).logits
        nats += nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum").item()
    return nats / math.log(2) / int(lengths[held_out[:, 1:]].sum())


def passages(numbers: Tensor, length: int, count: int) -> Tensor:
    """So many passages (count, length), or as many as there are, one after another and evenly spaced."""
    whole = numbers[: len(numbers) // length * length].unflatten(0, (-1, length))
    if not len(whole):
        raise ValueError(f"the text has {len(numbers)} characters or tokens, and a passage needs {length}")
    return whole[spread(len(whole), count)]


def _begin(make: Callable[[], nn.Module], seed: int) -> tuple[nn.Module, torch.Generator]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(), torch.Generator().manual_seed(seed)


def endless_order(count: int, batch: int, draw: torch.Generator) -> Iterator[Tensor]:
    """Batches of so many rows, without end: all rows in a drawn order, less those that do not fill a batch, then again."""
    while True:
        order = torch.randperm(count, generator=draw)
        yield from (part for part in order.split(batch) if len(part) == min(batch, count))


def _settle(model: nn.Module, images: Tensor) -> None:
    """Take the running averages of all batch normalizations anew, and leave the model in evaluation mode."""
    normalizations = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    momenta = [part.momentum for part in normalizations]
    if not normalizations:
        return
    for part in normalizations:
        part.reset_running_stats()
        part.momentum = None  # a plain mean over what comes
    model.train()
    for batch in images.split(250):
        model(batch)
    model.eval()
    for part, momentum in zip(normalizations, momenta, strict=True):
        part.momentum = momentum


def _train(
    model: nn.Module,
    recipe: Recipe,
    loss: Callable[[], Tensor],
    evaluate: Callable[[], dict[str, float]],
    at_halt: Halt,
) -> None:
    pauses = set(halts(recipe.steps))
    for step in steps_of_training(model, recipe, loss):
        if step in pauses:
            with torch.no_grad():
                model.eval()
                metrics = evaluate()
            at_halt(step, metrics)


def steps_of_training(model: nn.Module, recipe: Recipe, loss: Callable[[], Tensor]) -> Iterator[int]:
    """Train, and give the number of steps that are done: 0 first, then each, the last one in evaluation mode.

    Args:
        model: what is trained, but for parameters that need no gradient.
        recipe: how long and how fast.
        loss: of a batch, which it draws; called once in each step.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=DECAY)
    warm_up = max(1, round(WARM_UP * recipe.steps))

    def factor(step: int) -> float:
        falling = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0, step - warm_up) / max(1, recipe.steps - warm_up))))
        return min((step + 1) / warm_up, LEAST_RATE + (1 - LEAST_RATE) * falling)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for step in range(recipe.steps):
        yield step
        model.train()
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
        optimizer.step()
        schedule.step()
    model.eval()
    yield recipe.steps
