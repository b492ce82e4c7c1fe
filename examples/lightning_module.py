"""A LightningModule with one line more: an encoder of handwritten digits, trained with and without the entropy deficit.

Two encoders start from the same weights and see the same batches of scikit-learn's digits. Prints accuracy and entropy deficit on
held-out digits; with ``--plot FILE`` a `MonitorCallback` draws the course of both measures during the training with the
regularizer. Takes some ten seconds, or with ``--short`` a few; run it with ``python examples/lightning_module.py``.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from simplicial_reg.training.lightning import MonitorCallback, RegularizationCallback, RegularizedMixin
from simplicial_reg.training.monitor import Monitor

BATCH, WEIGHT, HELD_OUT = 64, 3.0, 400


class Result(NamedTuple):
    accuracy: float
    deficit: float
    """In nats: 0 where all bars are of one length."""


class Digits(RegularizedMixin, LightningModule):
    """An encoder of 8 x 8 pixels and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 32))
        self.classifier = nn.Linear(32, 10)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = cross_entropy(self.classifier(self.encoder(batch[0])), batch[1])
        return self.regularized(loss)  # the one line

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        right = self.classifier(self.encoder(batch[0])).argmax(-1) == batch[1]
        self.log("accuracy", right.float().mean(), on_epoch=True, batch_size=len(right))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Training and held-out digits: pixels in [0, 1] and labels."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    pixels, labels = torch.tensor(pixels / 16, dtype=torch.float32)[order], torch.tensor(labels)[order]
    return TensorDataset(pixels[HELD_OUT:], labels[HELD_OUT:]), TensorDataset(pixels[:HELD_OUT], labels[:HELD_OUT])


def train(weight: float, epochs: int, plot: Path | None) -> Result:
    """Train from the same seed whatever the weight."""
    seed_everything(0, verbose=False)
    module = Digits()
    training, held_out = digits()
    batches = DataLoader(held_out, batch_size=HELD_OUT)
    monitor = Monitor(module.encoder, batches, layer="2", measures=("entropy_deficit", "mean_cosine"))
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            RegularizationCallback("encoder", "persistent-entropy", weight=weight, layer="2"),
            MonitorCallback(monitor, plot=plot),
        ],
    )
    trainer.fit(module, DataLoader(training, batch_size=BATCH, shuffle=True, drop_last=True), batches)
    return Result(trainer.callback_metrics["accuracy"].item(), monitor.history[-1]["entropy_deficit"])


@click.command()
@click.option("--short", is_flag=True, help="Two epochs.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Picture of the course of the measures.  [default: none]",
)
def main(short: bool, plot: Path | None) -> None:
    """Train an encoder of digits in Lightning with and without a regularizer."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")  # its advice on workers, which so small data do not need
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning uses what torch has renamed
    epochs = 2 if short else 20
    runs: dict[str, Any] = {"without": (0.0, None), "with": (WEIGHT, plot)}
    results = {name: train(weight, epochs, path) for name, (weight, path) in runs.items()}
    click.echo(f"{epochs} epochs, {HELD_OUT} held-out digits")
    for name, result in results.items():
        click.echo(f"{name:>8}: accuracy {result.accuracy:.3f}, deficit {result.deficit:.4f}")
    ratio = results["with"].deficit / results["without"].deficit
    click.echo(f"The deficit with the regularizer is {ratio:.2f} of that without.")


if __name__ == "__main__":
    main()
