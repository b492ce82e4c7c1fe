"""What the one line changes: a small encoder of handwritten digits, trained with and without it.

Two encoders start from the same weights and see the same batches of scikit-learn's digits; one of them also minimises the entropy
deficit of its batches' barcodes. Prints accuracy and deficit on held-out digits, and draws the barcodes of the same 200 held-out digits
under both. Takes about ten seconds; run it with ``python examples/one_line.py``.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from simplicial_reg import Barcode, entropy_deficit, rips_barcode

EPOCHS, BATCH, WEIGHT = 30, 64, 3.0


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """1,397 training and 400 held-out digits: (n, 64) pixels in [0, 1] and labels."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    pixels, labels = torch.tensor(pixels / 16, dtype=torch.float32)[order], torch.tensor(labels)[order]
    return pixels[400:], labels[400:], pixels[:400], labels[:400]


def train(weight: float, pixels: Tensor, labels: Tensor) -> tuple[nn.Module, nn.Module]:
    """An encoder and a classifier; the same seed whatever the weight."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 32))
    classifier = nn.Linear(32, 10)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *classifier.parameters()], lr=2e-3)
    batches = torch.Generator().manual_seed(1)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(labels), generator=batches).split(BATCH):
            embeddings = encoder(pixels[batch])
            loss = cross_entropy(classifier(embeddings), labels[batch])
            loss = loss + weight * entropy_deficit(rips_barcode(embeddings)[0])  # the one line
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return encoder, classifier


def draw(without: Barcode, with_it: Barcode, path: Path) -> None:
    """Both barcodes, longest bar on top, in units of their mean bar: the entropy does not see scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True)
    for ax, bars, title, color in (
        (axes[0], without, "cross-entropy alone", "#D55E00"),
        (axes[1], with_it, "with entropy_deficit added", "#0072B2"),
    ):
        length = (bars.death / bars.death.mean()).sort().values
        ax.barh(range(len(length)), length, height=1.0, color=color)
        ax.set_title(f"{title}: deficit {entropy_deficit(bars):.4f} nats", fontsize=10)
        ax.set_xlabel("death / mean death (H0 bars of 200 held-out digits)")
        ax.set_yticks([])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


@click.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path), default="results/one_line.png")
def main(path: Path) -> None:
    """Train both, print the table, draw the figure."""
    pixels, labels, held_out, held_out_labels = digits()
    barcodes = []
    click.echo(f"{'':28}{'accuracy':>10}{'deficit':>10}{'longest bar / mean bar':>25}")
    for weight in (0.0, WEIGHT):
        encoder, classifier = train(weight, pixels, labels)
        with torch.no_grad():
            embeddings = encoder(held_out)
            accuracy = (classifier(embeddings).argmax(-1) == held_out_labels).float().mean()
            bars = rips_barcode(embeddings[:200])[0]
        barcodes.append(bars)
        name = "cross-entropy alone" if weight == 0 else f"+ {weight:g} * entropy_deficit"
        ratio = bars.death.max() / bars.death.mean()
        click.echo(f"{name:28}{accuracy:10.3f}{entropy_deficit(bars):10.4f}{ratio:25.2f}")
    draw(*barcodes, path)
    click.echo(f"wrote {path}")


if __name__ == "__main__":
    main()
