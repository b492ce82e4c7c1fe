"""Barcodes of handwritten digits, class by class and all together.

Scikit-learn's digits are 1,797 images of 8 × 8 pixels, points in 64 dimensions. The ten classes are ten clouds of different sizes; one call
of `rips_barcode` takes them all. The table shows how evenly the points of a class are spread: the deficit of the persistent entropy is zero
when all bars of H0 are equally long.

    python examples/digits_barcodes.py --out results
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor

from simplicial_reg import (
    Barcode,
    entropy_deficit,
    normalized_persistent_entropy,
    persistent_entropy,
    prominent,
    rips_barcode,
)
from simplicial_reg._files import whole_file
from simplicial_reg.plots import plot_barcode, plot_diagram

COLUMNS = (
    "digit",
    "n",
    "H0 longest",
    "H0 entropy",
    "normalized",
    "H0 deficit",
    "H1 bars",
    "H1 longest",
    "H1 deficit",
    "H1 prominent",
)


def rows_of(names: list[str], sizes: list[int], components: Barcode, loops: Barcode) -> list[dict[str, Any]]:
    """One row of the table for each cloud of a batch."""
    columns: dict[str, list[Any]] = {
        "digit": names,
        "n": sizes,
        "H0 longest": components.persistence.amax(-1).tolist(),
        "H0 entropy": persistent_entropy(components).tolist(),
        "normalized": normalized_persistent_entropy(components).tolist(),
        "H0 deficit": entropy_deficit(components).tolist(),
        "H1 bars": loops.mask.sum(-1).tolist(),
        "H1 longest": loops.persistence.amax(-1).tolist(),
        "H1 deficit": entropy_deficit(loops).tolist(),
        "H1 prominent": prominent(loops).mask.sum(-1).tolist(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def table(rows: list[dict[str, Any]]) -> str:
    """Aligned columns."""
    cells = [list(COLUMNS)]
    cells += [
        [f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name]) for name in COLUMNS] for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def draw(batch: tuple[Barcode, ...], everything: tuple[Barcode, ...], images: list[Tensor]) -> Figure:
    """A persistence diagram for each digit, and below them barcode and diagram of all together."""
    figure = Figure(figsize=(13, 9.5), dpi=130, layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.2, 1])
    end = max(float(bars.death.max()) for bars in batch) * 1.05
    for digit, ax in enumerate(upper.subplots(2, 5, sharex=True, sharey=True).flat):
        plot_diagram([bars[digit] for bars in batch], ax)
        ax.set(xlim=(-0.02 * end, end), ylim=(-0.02 * end, end), xlabel="", ylabel="")
        ax.get_legend().remove()
        ax.set_title(
            f"{digit}: {len(images[digit])} images, {int(batch[1].mask[digit].sum())} loops", fontsize="medium"
        )
        mean = ax.inset_axes((0.62, 0.06, 0.34, 0.34))
        mean.imshow(images[digit].mean(0).reshape(8, 8).numpy(), cmap="gray_r")
        mean.set_axis_off()
    upper.supxlabel("birth (euclidean distance)", fontsize="medium")
    upper.supylabel("death (euclidean distance)", fontsize="medium")
    left, right = lower.subplots(1, 2, width_ratios=[1.6, 1])
    plot_barcode(everything, left, metric="euclidean")
    plot_diagram(everything, right, metric="euclidean")
    lower.suptitle("all digits together", fontsize="medium")
    return figure


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="results",
    show_default=True,
    help="Folder of the results.",
)
def main(out: Path) -> None:
    """Compute, print and draw the barcodes of scikit-learn's digits."""
    click.echo("Barcodes of scikit-learn's digits, H0 and H1.\n")
    digits = load_digits()
    points, label = torch.tensor(digits.data, dtype=torch.float32), torch.tensor(digits.target)
    classes = [points[label == digit] for digit in range(10)]
    batch = rips_barcode(classes, max_dim=1)
    everything = rips_barcode(points.unsqueeze(0), max_dim=1)  # a batch of one, so that it makes a row like the others
    rows = rows_of([str(digit) for digit in range(10)], [len(cloud) for cloud in classes], *batch)
    rows += rows_of(["all"], [len(points)], *everything)
    click.echo(table(rows) + "\n")
    out.mkdir(parents=True, exist_ok=True)
    with whole_file(out / "digits_barcodes.json") as draft:
        draft.write_text(
            json.dumps({"data": "sklearn.datasets.load_digits", "metric": "euclidean", "rows": rows}, indent=1) + "\n"
        )
    with whole_file(out / "digits_barcodes.png") as draft:
        draw(batch, tuple(bars[0] for bars in everything), classes).savefig(draft, format="png")
    click.echo(f"wrote {out / 'digits_barcodes.png'} and {out / 'digits_barcodes.json'}")


if __name__ == "__main__":
    main()
