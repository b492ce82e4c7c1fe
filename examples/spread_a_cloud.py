"""What the loss does to points: persistent entropy is maximised by moving the points themselves.

Eighty points in the plane, three clumps and an outlier, follow the gradient of the entropy deficit of their barcode: of H0 alone, and of
H0 and H1 together. Nothing else holds the points, neither a task nor a frame. Draws the cloud before and after with its barcodes, and an
animation of the way between:

    python examples/spread_a_cloud.py --still docs/spread_a_cloud.png --animation docs/spread_a_cloud.gif

Takes about half a minute; ``--short`` takes a few steps and frames. Prints one row for the cloud before and one after each descent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from simplicial_reg import Barcode, entropy_deficit, persistent_entropy, rips_barcode
from simplicial_reg._files import whole_file

STEPS, FRAMES, SHORT_STEPS, SHORT_FRAMES = 800, 60, 40, 4
SIZES = (30, 25, 24, 1)
CLUMPS = [
    color for color, size in zip(("#009E73", "#CC79A7", "#E69F00", "#000000"), SIZES, strict=True) for _ in range(size)
]
BARS = ("#0072B2", "#D55E00")
FRAME = 2.55  # half the side of the picture
DESCENTS = {"H0": 0, "H0 + H1": 1}  # highest dimension whose deficit is minimised


def cloud() -> Tensor:
    """Three clumps and an outlier, (80, 2)."""
    generator = torch.Generator().manual_seed(4)
    centres = torch.tensor([[-1.2, -0.5], [0.9, -0.8], [0.1, 1.0], [2.3, 1.3]])
    spreads = torch.tensor([0.22, 0.30, 0.16, 0.0])
    which = torch.arange(4).repeat_interleave(torch.tensor(SIZES))
    return centres[which] + spreads[which, None] * torch.randn(len(which), 2, generator=generator)


def descend(points: Tensor, max_dim: int, steps: int, frames: int) -> list[Tensor]:
    """The points at `frames` moments of a descent on the deficits of H0 to H max_dim, more of them early, when more happens."""
    moments = {round(steps * (frame / (frames - 1)) ** 2) for frame in range(frames)}
    points = points.clone().requires_grad_()
    optimizer = torch.optim.Adam([points], lr=0.02)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    kept = [points.detach().clone()]
    for step in range(1, steps + 1):
        deficits = [entropy_deficit(bars) for bars in rips_barcode(points, max_dim)]
        optimizer.zero_grad()
        torch.stack(deficits).sum().backward()
        optimizer.step()
        decay.step()
        if step in moments:
            kept.append(points.detach().clone())
    return kept


def row(name: str, points: Tensor) -> str:
    """Number of bars and entropy in H0 and in H1, and the largest entropy that so many bars can have."""
    cells = [name.ljust(16)]
    for bars in rips_barcode(points, 1):
        count = bars.mask.sum()
        cells.append(f"{int(count):8d}{float(persistent_entropy(bars)):11.4f}{float(count.log()):9.4f}")
    return "".join(cells)


def draw_points(ax: Any, points: Tensor, bars: Barcode) -> None:
    """The points, and the edge of each H0 bar: together they are the minimum spanning tree."""
    ax.clear()
    ax.add_collection(LineCollection(points[bars.death_edge].tolist(), colors="#BBBBBB", linewidths=0.8, zorder=1))
    ax.scatter(*points.T.tolist(), s=11, c=CLUMPS, zorder=2)
    ax.set(xlim=(-FRAME, FRAME), ylim=(-FRAME + 0.35, FRAME - 0.35), aspect="equal", xticks=[], yticks=[])
    ax.set_xlabel("lines: the edges of the H0 bars", fontsize=8.5, color="#666666")


def draw_bars(ax: Any, barcode: tuple[Barcode, ...], end: float) -> None:
    """H0 below, H1 above, each in the order of deaths, with its entropy beside it."""
    ax.clear()
    height = 0
    for bars, color in zip(barcode, BARS, strict=True):
        order = bars.death.argsort()
        birth, death = bars.birth[order].tolist(), bars.death[order].tolist()
        corners = [
            [(start, level), (stop, level), (stop, level + 1), (start, level + 1)]
            for level, (start, stop) in enumerate(zip(birth, death, strict=True), start=height)
        ]
        ax.add_collection(PolyCollection(corners, facecolors=color, edgecolors=color, linewidths=0.3))
        share = float(persistent_entropy(bars) / bars.mask.sum().log())
        ax.text(
            end, height + len(death) / 2, f"H{bars.dim}: {len(death)} bars\nentropy {share:.3f} log {len(death)}",
            color=color, ha="right", va="center", fontsize=8.5,
        )  # fmt: skip
        height += len(death) + 4
    ax.set(xlim=(0, end), ylim=(-2, 130), yticks=[], xlabel="birth and death: lengths of edges")
    ax.spines[["top", "right", "left"]].set_visible(False)


def panels(columns: int, dpi: int) -> tuple[Figure, Any]:
    """Points above barcodes."""
    figure = Figure(figsize=(3.3 * columns, 5.4), dpi=dpi, layout="constrained")
    return figure, figure.subplots(2, columns, height_ratios=[1.05, 1], squeeze=False)


def draw(axes: Any, points: Tensor, title: str, end: float) -> None:
    """One column."""
    barcode = rips_barcode(points, 1)
    draw_points(axes[0], points, barcode[0])
    axes[0].set_title(title, fontsize=10)
    draw_bars(axes[1], barcode, end)


def write_still(path: Path, before: Tensor, after: dict[str, Tensor], end: float) -> None:
    figure, axes = panels(1 + len(after), dpi=110)
    draw(axes[:, 0], before, "before", end)
    for column, (name, points) in enumerate(after.items(), start=1):
        draw(axes[:, column], points, f"entropy of {name} maximised", end)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as draft:
        figure.savefig(draft, format="png")


def write_animation(path: Path, ways: dict[str, list[Tensor]], end: float) -> None:
    figure, axes = panels(len(ways), dpi=80)
    canvas = FigureCanvasAgg(figure)
    pictures = []
    for moment in zip(*ways.values(), strict=True):
        for column, (name, points) in enumerate(zip(ways, moment, strict=True)):
            draw(axes[:, column], points, f"maximising the entropy of {name}", end)
        canvas.draw()
        pictures.append(
            Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(48, dither=Image.Dither.NONE)
        )
    milliseconds = [800, *[90] * (len(pictures) - 2), 2500]
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as draft:
        pictures[0].save(
            draft, format="GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, optimize=True
        )


def furthest(points: Tensor) -> float:
    """Where the longest bar ends, with some room."""
    return 1.3 * max(float(bars.death.max()) for bars in rips_barcode(points, 1))


@click.command()
@click.option("--still", type=click.Path(path_type=Path), default="results/spread_a_cloud.png", show_default=True)
@click.option("--animation", type=click.Path(path_type=Path), default="results/spread_a_cloud.gif", show_default=True)
@click.option("--short", is_flag=True, help="A few steps and frames.")
def main(still: Path, animation: Path, short: bool) -> None:
    """Spread the points, print the entropies, draw both pictures."""
    steps, frames = (SHORT_STEPS, SHORT_FRAMES) if short else (STEPS, FRAMES)
    points = cloud()
    click.echo(f"{'':16}{'H0 bars':>8}{'entropy':>11}{'at most':>9}{'H1 bars':>8}{'entropy':>11}{'at most':>9}")
    click.echo(row("before", points))
    ways = {}
    for name, max_dim in DESCENTS.items():
        ways[name] = descend(points, max_dim, steps, frames)
        click.echo(row(f"after {name}", ways[name][-1]))
    end = furthest(points)
    write_still(still, points, {name: way[-1] for name, way in ways.items()}, end)
    write_animation(animation, ways, end)
    click.echo(f"wrote {still} and {animation}")


if __name__ == "__main__":
    main()
