"""Pictures of barcodes: the bars one above the other, and the persistence diagram (birth against death).

Matplotlib is imported when something is drawn (extra "plots"). Figures are made without pyplot: nothing is registered, no window opens, no
display is needed, and ``figure.savefig`` works anywhere.

Colours are those of Okabe and Ito, which people with any kind of colour blindness can tell apart; the diagram's markers differ too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from simplicial_reg.barcode import Barcode

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_barcode", "plot_bars", "plot_diagram"]


class Look(NamedTuple):
    """How the bars of one homology dimension are drawn."""

    colour: str
    marker: str


LOOKS = (Look("#0072B2", "o"), Look("#D55E00", "^"), Look("#009E73", "s"), Look("#CC79A7", "D"))
GREY = "#767676"
SHOWN = 100  # bars of one dimension that can be told apart in one picture
MANY = 150  # points of one dimension in a diagram, from which on they are drawn small and translucent
SHORTEST = 0.003  # of the axis: shorter bars are drawn this long, or a bar of length zero could not be seen
MARGIN = 0.02  # of the axis, left of zero: keeps H0, which is born at zero, off the spine

# metric -> what the filtration value is, with its unit
UNITS = {
    "euclidean": "euclidean distance",
    "manhattan": "manhattan distance",
    "chebyshev": "chebyshev distance",
    "cosine": "cosine distance, 1 − cos",
    "angular": "angle in radians",
    "precomputed": "given distance",
}


def plot_bars(barcodes: Sequence[Barcode] | Barcode, *, metric: str | None = None, title: str | None = None) -> Figure:
    """The barcode and the persistence diagram of one cloud, side by side.

    Args:
        barcodes: what `rips_barcode` returns for one cloud, or one `Barcode` of it.
        metric: the metric it was computed with, for the labels.
        title: a line above both.

    Returns:
        A figure; ``figure.savefig("bars.png")`` writes it.

    Raises:
        ImportError: if Matplotlib is missing (extra "plots").
        ValueError: for the barcodes of a batch.
    """
    figure: Figure = _figure(10.5, 4.6)
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.25, 1]})
    plot_barcode(barcodes, left, metric=metric)
    plot_diagram(barcodes, right, metric=metric)
    if title:
        figure.suptitle(title)
    return figure


def plot_barcode(barcodes: Sequence[Barcode] | Barcode, ax: Axes | None = None, *, metric: str | None = None) -> Axes:
    """Every bar as a line from its birth to its death, the dimensions one above the other, each in order of birth, then death.

    Of more than 100 bars in a dimension the longest are drawn and its label says so. An infinite bar ends in an arrow.

    Args:
        barcodes: what `rips_barcode` returns for one cloud, or one `Barcode` of it.
        ax: where to draw; a figure of its own if None.
        metric: the metric it was computed with, for the label.

    Returns:
        The axes; ``ax.figure`` is the figure.

    Raises:
        ImportError: if Matplotlib is missing (extra "plots").
        ValueError: for the barcodes of a batch.
    """
    groups = _groups(barcodes)
    ax = _axes(ax)
    from matplotlib.collections import PolyCollection

    end = _end(groups)
    top = 0.0
    labels, middles = [], []
    for group in groups:
        bars = _longest(group)
        # Every dimension gets about the same height, so that twenty loops do not vanish above a hundred components.
        row = 1 / max(len(bars), SHOWN / 5)
        half = min(0.36 * row, 0.006)
        boxes = []
        for position, (birth, death) in enumerate(bars):
            y = top + (position + 0.5) * row
            stop = end if math.isinf(death) else max(death, birth + SHORTEST * end)
            boxes.append([(birth, y - half), (stop, y - half), (stop, y + half), (birth, y + half)])
            if math.isinf(death):
                ax.plot([end], [y], marker=">", markersize=5, color=group.look.colour, clip_on=False)
        # Not snapped to pixels, which would make some of the gaps vanish.
        ax.add_collection(PolyCollection(boxes, facecolors=group.look.colour, linewidths=0, snap=False))
        height = max(len(bars) * row, 0.12)  # room for the label
        labels.append(_entry(group, len(bars)))
        middles.append(top + height / 2)
        top += height + 0.05
    ax.set_xlim(-MARGIN * end, end)
    ax.set_ylim(-0.02, max(top, 0.1) - 0.03)
    ax.set_yticks(middles, labels)
    ax.tick_params(axis="y", length=0)
    for label, group in zip(ax.get_yticklabels(), groups, strict=True):
        label.set_color(group.look.colour)
    ax.set_xlabel(_label("filtration value", metric))
    _finish(ax, groups)
    return ax


def plot_diagram(barcodes: Sequence[Barcode] | Barcode, ax: Axes | None = None, *, metric: str | None = None) -> Axes:
    """The persistence diagram: every bar as a point (birth, death); its height above the diagonal is its persistence.

    Infinite bars are drawn on a line labelled infinity.

    Args:
        barcodes: what `rips_barcode` returns for one cloud, or one `Barcode` of it.
        ax: where to draw; a figure of its own if None.
        metric: the metric it was computed with, for the labels.

    Returns:
        The axes; ``ax.figure`` is the figure.

    Raises:
        ImportError: if Matplotlib is missing (extra "plots").
        ValueError: for the barcodes of a batch.
    """
    groups = _groups(barcodes)
    ax = _axes(ax)
    end = _end(groups)
    infinity = end * 1.04
    some_infinite = any(math.isinf(death) for group in groups for _, death in group.bars)
    ax.axline((0, 0), slope=1, color=GREY, linewidth=1, zorder=1)
    if some_infinite:
        ax.axhline(infinity, color=GREY, linewidth=1, linestyle="--", zorder=1)
        ax.annotate(
            "infinity", (end, infinity), (0, 3), textcoords="offset points", ha="right", va="bottom", color=GREY
        )
    for group in groups:
        _scatter(ax, group, infinity)
    ax.set_xlim(-MARGIN * end, end)
    ax.set_ylim(-MARGIN * end, end * 1.1 if some_infinite else end)
    ax.set_aspect("equal")
    ax.set_xlabel(_label("birth", metric))
    ax.set_ylabel(_label("death", metric))
    _magnify(ax, [group for group in groups if group.dim > 0], end)
    _legend(ax, groups)
    _finish(ax, groups)
    return ax


def _scatter(ax: Any, group: _Group, infinity: float) -> None:
    many = len(group.bars) > MANY
    ax.scatter(
        [birth for birth, _ in group.bars],
        [infinity if math.isinf(death) else death for _, death in group.bars],
        s=8 if many else 22,
        marker=group.look.marker,
        facecolor=group.look.colour,
        # A white rim keeps neighbours apart, but of thousands of points it would leave nothing but rims.
        edgecolor="none" if many else "white",
        linewidth=0.4,
        alpha=0.3 if many else 0.8,
        zorder=3 + group.dim,  # above the spines
        clip_on=False,
    )


def _magnify(ax: Any, groups: list[_Group], end: float) -> None:
    """In high dimension all loops are born and die at nearly one length: show them larger, below the diagonal, where no bar can be."""
    values = [value for group in groups for bar in group.bars for value in bar if math.isfinite(value)]
    if sum(len(group.bars) for group in groups) < 8 or max(values) - min(values) > end / 6:
        return
    pad = (max(values) - min(values)) * 0.05
    low, high = min(values) - pad, max(values) + pad
    inset = ax.inset_axes((0.52, 0.09, 0.38, 0.38), xlim=(low, high), ylim=(low, high))
    inset.axline((low, low), slope=1, color=GREY, linewidth=1, zorder=1)
    for group in groups:
        _scatter(inset, group, math.nan)
    inset.yaxis.tick_right()  # on the left there is the diagonal
    inset.tick_params(labelsize="x-small", color=GREY)
    inset.spines[:].set_color(GREY)
    inset.spines[["top", "left"]].set_visible(False)
    inset.set_title(f"{' and '.join(f'H{group.dim}' for group in groups)}, magnified", fontsize="small", color=GREY)


class _Group(NamedTuple):
    """The bars of one homology dimension as numbers, in order of birth, then death."""

    dim: int
    bars: list[tuple[float, float]]

    @property
    def look(self) -> Look:
        return LOOKS[self.dim % len(LOOKS)]


def _groups(barcodes: Sequence[Barcode] | Barcode) -> list[_Group]:
    groups = []
    for bars in [barcodes] if isinstance(barcodes, Barcode) else barcodes:
        if bars.mask.ndim != 1:
            raise ValueError(
                f"barcodes must be those of one cloud; got a batch of shape {tuple(bars.mask.shape)}; draw its clouds one by one"
            )
        groups.append(
            _Group(bars.dim, sorted(zip(_numbers(bars.birth, bars.mask), _numbers(bars.death, bars.mask), strict=True)))
        )
    return groups


def _numbers(values: Tensor, mask: Tensor) -> list[float]:
    numbers: list[float] = values.detach()[mask].to("cpu", torch.float64).tolist()
    return numbers


def _longest(group: _Group) -> list[tuple[float, float]]:
    return sorted(sorted(group.bars, key=lambda bar: bar[0] - bar[1])[:SHOWN])


def _end(groups: list[_Group]) -> float:
    """The right end of the filtration axis: a little beyond the last finite value, and 1 where there is none but zero."""
    values = [value for group in groups for bar in group.bars for value in bar if math.isfinite(value)]
    return max(values, default=0.0) * 1.05 or 1.0


def _entry(group: _Group, drawn: int) -> str:
    count = len(group.bars)
    note = f"\nlongest {drawn} shown" if drawn < count else ""
    return f"H{group.dim}\n{count} bar{'' if count == 1 else 's'}{note}"


def _label(what: str, metric: str | None) -> str:
    return what if metric is None else f"{what} ({UNITS.get(metric, metric)})"


def _legend(ax: Any, groups: list[_Group]) -> None:
    from matplotlib.lines import Line2D

    if not groups:
        return
    handles = [Line2D([], [], color=group.look.colour, marker=group.look.marker, linestyle="") for group in groups]
    names = [_entry(group, len(group.bars)).replace("\n", ": ") for group in groups]
    where: dict[str, Any] = {
        "loc": "lower left",
        "bbox_to_anchor": (0, 1),
        "borderaxespad": 0.1,
    }  # above, where no bar can be
    legend = ax.legend(handles, names, ncols=len(groups), frameon=False, handletextpad=0.1, columnspacing=1, **where)
    legend.set_in_layout(False)  # or a wide legend would make the diagram small
    ax.set_title(" ")  # keeps a line free for it


def _finish(ax: Any, groups: list[_Group]) -> None:
    if not any(group.bars for group in groups):
        ax.text(0.3, 0.6, "no bars", transform=ax.transAxes, ha="center", va="center", color=GREY)
    ax.spines[["top", "right"]].set_visible(False)


def check_matplotlib() -> None:
    """Raise an ``ImportError`` that names the extra if Matplotlib is missing."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "simplicial_reg[plots]"') from error


def _axes(ax: Any) -> Any:
    return _figure(6.0, 4.6).add_subplot() if ax is None else ax


def _figure(width: float, height: float) -> Any:
    check_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")
