"""The figures of a diagnosis, as SVG: one function for each kind, from one or several `Diagnosis` alone.

In figures of several models each has a colour, a marker and a line style of its own; checkpoints of one run, whose labels differ by a
number only, are coloured by that number instead. Bands are 95 % intervals. A layer without figures leaves a gap.

The same diagnoses give the same bytes. No figure takes text for a formula, and all are narrow enough to be read on a phone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from simplicial_reg._page import LOOKS, Look, Picture, figure, short_name
from simplicial_reg.diagnose.record import DEFINITIONS, HEAD_DEFINITIONS, Definition, Diagnosis, Estimate, Layer
from simplicial_reg.plots import GREY

if TYPE_CHECKING:
    from simplicial_reg.diagnose.drift import Drift

__all__ = [
    "PROFILES",
    "Profile",
    "draw_barcodes",
    "draw_drift",
    "draw_heads",
    "draw_norms",
    "draw_outliers",
    "draw_profile",
    "draw_spectra",
    "labels_of",
    "panels_of",
    "steps_of",
]

LIGHT = "#E5E5E5"
SEQUENTIAL, DIVERGING = "cividis", "RdBu_r"  # both are read alike with any kind of colour blindness
PALEST = 0.9
LEVELS = 32  # of a colour bar; a finer one would be drawn as an image in the file
LEAST_SHARE = 1e-9  # of variance: what is smaller is a rounding error of zero, and would stretch the axis over it
SHOWN_BARS = 60  # that can be told apart in a small panel
SHOWN_LAYERS = 12  # panels of one figure
SHOWN_DIMENSIONS = 12
NUMBERED_HEADS = 12  # a map of more heads has no room for numbers
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)))


class Profile(NamedTuple):
    """Measures that are drawn in one figure against depth.

    Attributes:
        key: part of the file's name.
        title: what it is about.
        measures: names in ``DEFINITIONS``.
        shared: how many of them are drawn where several models are; each has its own dashes then.
        bounds: of the axis; None: as the values are.
    """

    key: str
    title: str
    measures: tuple[str, ...]
    shared: int = 1
    bounds: tuple[float | None, float | None] = (None, None)


PROFILES = (
    Profile("cosine", "Mean cosine, raw and centred", ("mean_cosine", "mean_cosine_centred"), 2, (0, 1)),
    Profile("drift", "Drift ratio", ("drift_ratio",), 1, (0, 1)),
    Profile("pr", "Participation ratio over that of an isotropic cloud", ("participation_ratio_over_null",), 1, (0, None)),
    Profile("isoscore", "IsoScore*", ("isoscore_star",), 1, (0, None)),
    Profile(
        "shares",
        "Variance in the first principal directions",
        ("top_1_variance_share", "top_3_variance_share", "top_10_variance_share"),
        1,
        (0, None),
    ),
    Profile("outlier-share", "Variance in outlier dimensions", ("outlier_share",), 1, (0, None)),
    Profile("entropy", "Persistent entropy of H0", ("persistent_entropy",)),
    Profile(
        "dimension", "Intrinsic dimension", ("twonn_dimension", "mle_dimension", "ph_dimension"), 1, (0, None)
    ),
    Profile("partition", "Partition ratio", ("partition_ratio",), 1, (0, None)),
)  # fmt: skip


def draw_profile(diagnoses: Sequence[Diagnosis], profile: Profile, name: str) -> Picture | None:
    """Measures against depth with their 95 % intervals; None if no layer has any of them.

    Args:
        diagnoses: of one model, or of at most as many as `panels_of` puts together.
        profile: which measures.
        name: of the file.
    """
    measures = profile.measures if len(diagnoses) == 1 else profile.measures[: profile.shared]
    curves = [
        (diagnosis, measure, [_estimate(layer, measure) for layer in diagnosis.layers])
        for diagnosis in diagnoses
        for measure in measures
    ]
    curves = [curve for curve in curves if any(math.isfinite(estimate.value) for estimate in curve[2])]
    if not curves:
        return None
    labels, steps = labels_of(diagnoses), steps_of(diagnoses)
    looks = _looks(diagnoses, steps)
    with figure(3.4 + 0.16 * math.ceil(max(len(labels) if not steps else 1, len(measures)) / 2)) as (fig, finished):
        ax = fig.subplots()
        for diagnosis, measure, estimates in curves:
            at, of = diagnoses.index(diagnosis), measures.index(measure)
            look = LOOKS[of]._replace(line=DASHES[of]) if len(diagnoses) == 1 else looks[at]._replace(line=DASHES[of])
            _curve(ax, [layer.depth for layer in diagnosis.layers], estimates, look, many=len(diagnoses))
        _bounded(ax, profile.bounds, [estimate for _, _, estimates in curves for estimate in estimates])
        _depth_axis(ax, diagnoses)
        ax.set_ylabel(DEFINITIONS[measures[0]].label if len(measures) == 1 else _shared_label(profile))
        ax.grid(axis="y", color=LIGHT)
        _towards(ax, DEFINITIONS[measures[0]])
        _legend(fig, ax, diagnoses, labels, steps, looks, measures)
    said = "; ".join(
        f"{labels[diagnoses.index(diagnosis)]}, {DEFINITIONS[measure].label}: from {_first(estimates)} to "
        f"{_first(estimates[::-1])}, at most {max(e.value for e in estimates if math.isfinite(e.value)):.3g}"
        for diagnosis, measure, estimates in curves
    )
    return Picture(name, profile.title, f"{profile.title} against depth, with 95 % intervals. {said}.", finished())


def draw_norms(diagnoses: Sequence[Diagnosis], name: str) -> Picture | None:
    """Median length of the points against depth, and the band from the 5 % to the 95 % quantile; None if nothing is known of it."""
    labels, steps = labels_of(diagnoses), steps_of(diagnoses)
    looks = _looks(diagnoses, steps)
    curves = [
        [Estimate(*(layer.norms.get(part, math.nan) for part in ("median", "q05", "q95"))) for layer in diagnosis.layers]
        for diagnosis in diagnoses
    ]  # fmt: skip
    values = [estimate.value for estimates in curves for estimate in estimates if estimate.value > 0]
    if not values:
        return None
    with figure(3.4 + 0.16 * math.ceil(len(labels) / 2)) as (fig, finished):
        ax = fig.subplots()
        for diagnosis, estimates, look in zip(diagnoses, curves, looks, strict=True):
            _curve(ax, [layer.depth for layer in diagnosis.layers], estimates, look, many=len(diagnoses))
        if max(values) > 20 * min(values):
            ax.set_yscale("log")
            _plain_numbers(ax.yaxis)
        else:
            ax.set_ylim(bottom=0)
        _depth_axis(ax, diagnoses)
        ax.set_ylabel("length of a point")
        ax.grid(axis="y", color=LIGHT)
        _legend(fig, ax, diagnoses, labels, steps, looks, ("norm_mean",))
    said = "; ".join(
        f"{label}: median from {_first(curve)} to {_first(curve[::-1])}"
        for label, curve in zip(labels, curves, strict=True)
    )
    return Picture(
        name, "Lengths of the points: median, 5 % to 95 %", f"Lengths of the points against depth. {said}.", finished()
    )


def draw_spectra(diagnosis: Diagnosis, name: str) -> Picture | None:
    """Share of variance along each principal direction, a curve for each layer; None if no layer has a spectrum."""
    layers = [layer for layer in diagnosis.layers if any(share > LEAST_SHARE for share in layer.spectrum)]
    if not layers:
        return None
    with figure(3.7) as (fig, finished):
        ax = fig.subplots()
        colours = _colours([layer.depth for layer in layers])
        for at, (layer, colour) in enumerate(zip(layers, colours, strict=True)):
            shares = [share if share > LEAST_SHARE else math.nan for share in layer.spectrum]
            ends = at in (0, len(layers) - 1)
            ax.plot(
                range(1, len(shares) + 1), shares, color=colour, linewidth=2.0 if ends else 1.1, zorder=3 if ends else 2
            )
        widths = {layer.width for layer in layers}
        if len(widths) == 1 and (width := widths.pop()) > 1:
            ax.plot([1, width], [1 / width, 1 / width], color=GREY, linestyle=(0, (2, 2)), linewidth=1)
            ax.annotate(
                "isotropic: 1/d", (1, 1 / width), (2, 3), textcoords="offset points", color=GREY, fontsize="small"
            )
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_ylim(bottom=max(LEAST_SHARE, min(1e-5, ax.get_ylim()[1])))
        _plain_numbers(ax.xaxis)
        _plain_numbers(ax.yaxis)
        ax.set_xlabel("principal direction")
        ax.set_ylabel("share of variance")
        ax.grid(color=LIGHT)
        _colour_bar(fig, ax, SEQUENTIAL, 0, 1, "relative depth")
    said = "; ".join(f"{layer.name} {layer.spectrum[0]:.2f}" for layer in layers)
    return Picture(
        name,
        _of(diagnosis, "Spectra, by depth"),
        f"Spectrum of each layer. Share of the first direction: {said}.",
        finished(),
    )


def draw_barcodes(diagnosis: Diagnosis, name: str) -> Picture | None:
    """H0 bars of each layer, sorted by length, over their mean; a small panel for each layer; None if no layer has bars."""
    layers = [layer for layer in diagnosis.layers if sum(_finite(layer.bars)) > 0]
    if not layers:
        return None
    chosen = [layers[round(at * (len(layers) - 1) / max(1, min(len(layers), SHOWN_LAYERS) - 1))]
              for at in range(min(len(layers), SHOWN_LAYERS))]  # fmt: skip
    columns = min(4, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    every = max(len(layer.bars) for layer in chosen) / SHOWN_BARS
    with figure(0.9 + 1.25 * rows) as (fig, finished):
        panels = list(fig.subplots(rows, columns, squeeze=False).flat)
        for panel, layer in zip(panels, chosen, strict=False):
            bars = sorted(_finite(layer.bars))
            mean = sum(bars) / len(bars)
            count = min(len(bars), SHOWN_BARS)
            # The shortest and the longest are always among those drawn.
            lengths = [bars[round(at * (len(bars) - 1) / max(1, count - 1))] / mean for at in range(count)]
            panel.barh(range(count), lengths, height=0.62, color=LOOKS[0].colour, linewidth=0)
            panel.axvline(1, color="white", linewidth=0.8)
            panel.set_title(short_name(layer.name), fontsize="small")
            panel.set_yticks([])
            panel.set_xlim(0, 1.02 * lengths[-1])  # its own: one long bar of one layer would make the others narrow
            panel.locator_params(axis="x", nbins=3)
            panel.set_ylim(-1, SHOWN_BARS if count > SHOWN_BARS / 2 else count)
            panel.spines["left"].set_visible(False)
            panel.tick_params(labelsize="small")
        for panel in panels[len(chosen) :]:
            panel.set_visible(False)
        fig.supxlabel("length of the bar over the mean length", fontsize=9)
    shown = f"; one bar of {every:.0f} is drawn" if every > 1.5 else ""
    left = f"; {len(chosen)} of {len(layers)} layers" if len(chosen) < len(layers) else ""
    said = "; ".join(f"{layer.name}: {len(layer.bars)} bars" for layer in chosen)
    return Picture(
        name,
        _of(diagnosis, "H0 barcodes") + shown + left,
        f"H0 bars of each layer, sorted by length. {said}.",
        finished(),
    )


def draw_heads(diagnosis: Diagnosis, measure: str, name: str) -> Picture | None:
    """A measure of attention for each block and head, as a map; None if no head has it."""
    values = {(head.layer, head.head): head.measures.get(measure, math.nan) for head in diagnosis.heads}
    values = {place: value for place, value in values.items() if math.isfinite(value)}
    if not values:
        return None
    blocks, heads = (sorted({place[at] for place in values}) for at in (0, 1))
    definition = HEAD_DEFINITIONS[measure]
    low, high, colours = (-1.0, 1.0, DIVERGING) if definition.low < 0 else (0.0, 1.0, SEQUENTIAL)
    if not all(low <= value <= high for value in values.values()):
        low, high = min(values.values()), max(values.values())
        if colours == DIVERGING:
            low, high = -max(-low, high), max(-low, high)
    with figure(min(7.0, 1.15 + max(0.27 * len(blocks), 1.0))) as (fig, finished):
        ax = fig.subplots()
        grid = [[values.get((block, head), math.nan) for head in heads] for block in blocks]
        shade = _colour_map(colours)
        edges = "white" if len(heads) <= 32 else "none"
        ax.pcolormesh(grid, cmap=shade, vmin=low, vmax=high, edgecolors=edges, linewidth=0.6)
        if len(heads) <= NUMBERED_HEADS:
            for y, row in enumerate(grid):
                for x, value in enumerate(row):
                    if math.isfinite(value):
                        colour = _readable(shade((value - low) / ((high - low) or 1)))
                        ax.text(x + 0.5, y + 0.5, _two(value), ha="center", va="center", fontsize=6.6, color=colour)
        ax.invert_yaxis()  # the first block on top
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        every = [max(1, math.ceil(len(some) / 12)) for some in (heads, blocks)]
        ax.set_xticks([at + 0.5 for at in range(0, len(heads), every[0])], heads[:: every[0]])
        ax.set_yticks([at + 0.5 for at in range(0, len(blocks), every[1])], blocks[:: every[1]])
        ax.set_xlabel("head")
        ax.set_ylabel("block")
        _colour_bar(fig, ax, colours, low, high, definition.label)
    mean = sum(values.values()) / len(values)
    said = f"from {min(values.values()):.2f} to {max(values.values()):.2f}, mean {mean:.2f}"
    title = definition.label[0].upper() + definition.label[1:]
    return Picture(name, _of(diagnosis, title), f"{title} of {len(values)} heads: {said}.", finished())


def draw_outliers(diagnosis: Diagnosis, name: str) -> Picture | None:
    """In which layers a dimension is an outlier and what share of the variance it holds there; None if there is none."""
    shares: dict[int, dict[float, float]] = {}
    for layer in diagnosis.layers:
        for outlier in layer.outliers:
            shares.setdefault(int(outlier["dimension"]), {})[layer.depth] = outlier["share"]
    if not shares:
        return None
    chosen = sorted(sorted(shares, key=lambda dimension: -max(shares[dimension].values()))[:SHOWN_DIMENSIONS])
    with figure(1.1 + max(0.24 * len(chosen), 0.7)) as (fig, finished):
        ax = fig.subplots()
        for y, dimension in enumerate(chosen):
            found = sorted(shares[dimension].items())
            ax.plot([0, 1], [y, y], color=LIGHT, linewidth=0.8, zorder=1)
            # An area in proportion to the share: what the eye compares.
            sizes = [max(4.0, 460 * share) for _, share in found]
            ax.scatter(
                [depth for depth, _ in found],
                [y] * len(found),
                s=sizes,
                color=LOOKS[0].colour,
                alpha=0.75,
                linewidth=0,
                zorder=2,
            )
            depth, share = max(found, key=lambda entry: entry[1])
            text = {"textcoords": "offset points", "va": "center", "fontsize": 6.6, "zorder": 4}
            ax.annotate(f"{share:.0%}", (depth, y), (3 + math.sqrt(max(4.0, 460 * share)) / 2, 0), **text)
        ax.set_yticks(range(len(chosen)), chosen, fontsize="small")
        ax.set_ylim(len(chosen) - 0.4, -0.6)
        ax.set_ylabel("dimension")
        _depth_axis(ax, [diagnosis])
        ax.set_xlim(-0.06, 1.12)
    left = f", the {len(chosen)} largest of {len(shares)}" if len(chosen) < len(shares) else ""
    said = "; ".join(
        f"{dimension} in {len(shares[dimension])} layers, up to {max(shares[dimension].values()):.0%}"
        for dimension in chosen
    )
    return Picture(
        name,
        _of(diagnosis, f"Outlier dimensions{left}; areas are shares of the variance"),
        f"Outlier dimensions: {said}.",
        finished(),
    )


def draw_drift(drift: Drift, measure: str, name: str) -> Picture | None:
    """A measure of the drift experiment against the norm of the common vector, mean and one standard deviation over repeats.

    Args:
        drift: the experiment.
        measure: of points, drawn of those that enter the block and of those that leave it; or of attention.
        name: of the file.
    """
    sides = {"enter the block": drift.inputs, "leave the block": drift.outputs, "": drift.attention}
    curves = {side: curve for side, found in sides.items() if (curve := found.get(measure)) is not None}
    if not any(math.isfinite(value) for curve in curves.values() for value in curve.mean):
        return None
    definition = DEFINITIONS[measure] if measure in DEFINITIONS else HEAD_DEFINITIONS[measure]
    with figure(3.5) as (fig, finished):
        ax = fig.subplots()
        estimates: list[Estimate] = []
        colours = (LOOKS[1], LOOKS[0])[-len(curves) :]
        for at, (look, (side, curve)) in enumerate(zip(colours, curves.items(), strict=True)):
            spread = [0.0 if math.isnan(value) else value for value in curve.std]
            band = [Estimate(mean, mean - std, mean + std) for mean, std in zip(curve.mean, spread, strict=True)]
            _curve(ax, drift.norms, band, look._replace(line="-"), side)
            if len(curves) > 1 and at == 0:  # below the other, which often lies on it
                ax.lines[0].set(linewidth=4, alpha=0.45, markersize=8)
            estimates += band
        positive = [norm for norm in drift.norms if norm > 0]
        if positive and max(positive) > 20 * min(positive):
            ax.set_xscale("symlog", linthresh=min(positive))
            _plain_numbers(ax.xaxis)
        _bounded(ax, (0, 1 if definition.high == 1 and measure != "isoscore_star" else None), estimates)
        ax.set_xlabel("norm of the common vector, in norms of an embedding")
        ax.set_ylabel(definition.label)
        ax.grid(axis="y", color=LIGHT)
        _towards(ax, definition)
        if len(curves) > 1:
            fig.legend(loc="outside upper left", ncols=2, handlelength=2.6, fontsize="small")
    said = "; ".join(
        f"{f'points that {side}' if side else 'attention'}: from {curve.mean[0]:.3g} to {curve.mean[-1]:.3g}"
        for side, curve in curves.items()
    )
    title = definition.label[0].upper() + definition.label[1:]
    return Picture(
        name, f"{title} of an untrained block", f"{title} against the norm of a common vector. {said}.", finished()
    )


# Several models


def labels_of(diagnoses: Sequence[Diagnosis]) -> list[str]:
    """What the models are called in figures and tables, no two of them the same."""
    labels: list[str] = []
    for diagnosis in diagnoses:
        plain = diagnosis.label or diagnosis.model
        label, number = plain, 1
        while label in labels:
            number += 1
            label = f"{plain} ({number})"
        labels.append(label)
    return labels


def steps_of(diagnoses: Sequence[Diagnosis]) -> list[float]:
    """The steps of checkpoints of one run: at least three labels that differ by the number at their end only; empty otherwise.

    >>> steps_of([Diagnosis("a", "", "", "", 0, label=label) for label in ("step 0", "step 10", "step 100")])
    [0.0, 10.0, 100.0]
    """
    found = [re.fullmatch(r"(.*?)(\d+)", label) for label in labels_of(diagnoses)]
    if len(found) < 3 or not all(found) or len({match[1] for match in found if match}) > 1:
        return []
    return [float(match[2]) for match in found if match]


def panels_of(diagnoses: Sequence[Diagnosis]) -> list[list[Diagnosis]]:
    """Which models go into one figure: checkpoints of one run all, others up to six, as many in each."""
    if steps_of(diagnoses):
        return [list(diagnoses)]
    count = max(1, math.ceil(len(diagnoses) / len(LOOKS)))
    parts = [len(diagnoses) * at // count for at in range(count + 1)]
    return [list(diagnoses[low:high]) for low, high in pairwise(parts)]


def _looks(diagnoses: Sequence[Diagnosis], steps: Sequence[float]) -> list[Look]:
    if steps:
        return [Look(colour, "o", "-") for colour in _colours(_ranks(steps))]
    return [LOOKS[at % len(LOOKS)]._replace(line="-") for at in range(len(diagnoses))]


def _ranks(steps: Sequence[float]) -> list[float]:
    """Checkpoints are often taken at growing intervals: colours by their order tell them all apart."""
    order = sorted(set(steps))
    return [order.index(step) / max(1, len(order) - 1) for step in steps]


def _of(diagnosis: Diagnosis, what: str) -> str:
    return f"{diagnosis.label}: {what}" if diagnosis.label else what


# Parts of a figure


def _curve(
    ax: Any, depths: Sequence[float], estimates: Sequence[Estimate], look: Look, label: str = "", many: int = 1
) -> None:
    marker = {"marker": look.marker, "markersize": 4.6, "markeredgecolor": "white", "markeredgewidth": 0.4}
    ax.plot(
        depths,
        [estimate.value for estimate in estimates],
        color=look.colour,
        linestyle=look.line,
        linewidth=1.6,
        zorder=3,
        label=label,
        **marker,
    )
    low, high = [estimate.low for estimate in estimates], [estimate.high for estimate in estimates]
    ax.fill_between(depths, low, high, color=look.colour, alpha=0.18 / math.sqrt(many), linewidth=0, zorder=2)


def _bounded(ax: Any, bounds: tuple[float | None, float | None], estimates: Sequence[Estimate]) -> None:
    values = _finite([value for estimate in estimates for value in (estimate.value, estimate.low, estimate.high)])
    low, high = bounds
    span = (max(values) - min(values)) or 1.0
    if low is not None:
        ax.set_ylim(bottom=low if min(values) >= low else min(values) - 0.05 * span)
    if high is not None:
        ax.set_ylim(top=high if max(values) <= high else max(values) + 0.05 * span)


def _depth_axis(ax: Any, diagnoses: Sequence[Diagnosis]) -> None:
    """Relative depth; of one model with a tick for each block."""
    ax.set_xlim(-0.03, 1.03)
    layers = diagnoses[0].layers
    numbers = [re.fullmatch(r"block (\d+)", layer.name) for layer in layers[1:]]
    if len(diagnoses) > 1 or not layers or layers[0].name != "embeddings" or not all(numbers):
        ax.set_xlabel("relative depth")
        return
    every = max(1, math.ceil(len(layers) / 13))
    ticks = ["0", *(match[1] for match in numbers if match)]
    ax.set_xticks([layer.depth for layer in layers][::every], ticks[::every])
    ax.set_xlabel("block (0: embeddings)")
    for layer in layers:
        if layer.error is not None:
            ax.axvline(layer.depth, color=GREY, linewidth=1, linestyle=(0, (1, 2)))


def _towards(ax: Any, definition: Definition) -> None:
    """Say at which end isotropic clouds are."""
    if definition.isotropic is not None and definition.needs != "scores":
        text = "↑ isotropic" if definition.isotropic == "high" else "↓ isotropic"
        ax.annotate(
            text, (1, 1), (0, 2), xycoords="axes fraction", textcoords="offset points", ha="right", va="bottom",
            color=GREY, fontsize="small",
        )  # fmt: skip


def _legend(
    fig: Any,
    ax: Any,
    diagnoses: Sequence[Diagnosis],
    labels: Sequence[str],
    steps: Sequence[float],
    looks: Sequence[Look],
    measures: Sequence[str],
) -> None:
    from matplotlib.lines import Line2D

    entries: list[tuple[Any, str]] = []
    marker: dict[str, Any] = {"markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.4, "linewidth": 1.6}
    if len(diagnoses) > 1 and not steps:
        for label, look in zip(labels, looks, strict=True):
            entries.append((Line2D([], [], color=look.colour, marker=look.marker, **marker), short_name(label)))
    if len(measures) > 1:
        for at, measure in enumerate(measures):
            look = LOOKS[at] if len(diagnoses) == 1 else Look(GREY, "", "")
            line = Line2D([], [], color=look.colour, marker=look.marker, linestyle=DASHES[at], **marker)
            entries.append((line, DEFINITIONS[measure].label))
    if steps:
        order = sorted(set(steps))
        bar = _colour_bar(fig, ax, SEQUENTIAL, 0, 1, "step")
        shown = sorted({round(at * (len(order) - 1) / 4) for at in range(5)})
        bar.set_ticks([at / max(1, len(order) - 1) for at in shown], labels=[f"{order[at]:g}" for at in shown])
    if entries:
        handles, names = zip(*entries, strict=True)
        longest = max(map(len, names))
        columns = 1 if longest > 24 else 2 if longest > 13 else 3
        fig.legend(handles, names, loc="outside upper left", ncols=columns, handlelength=2.6, fontsize="small")


def _colour_map(name: str) -> Any:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    # Not the palest, which white paper swallows.
    end = PALEST if name == SEQUENTIAL else 1.0
    return ListedColormap([colormaps[name](end * at / (LEVELS - 1)) for at in range(LEVELS)])


def _colours(depths: Sequence[float]) -> list[str]:
    """Colours by depth, dark first."""
    from matplotlib.colors import to_hex

    shade = _colour_map(SEQUENTIAL)
    return [to_hex(shade(min(max(depth, 0.0), 1.0))) for depth in depths]


def _colour_bar(fig: Any, ax: Any, colours: str, low: float, high: float, label: str) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = fig.colorbar(ScalarMappable(Normalize(low, high), _colour_map(colours)), ax=ax, aspect=28, pad=0.02)
    bar.set_label(label)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize="small")
    return bar


def _readable(colour: tuple[float, float, float, float]) -> str:
    """Black or white, whichever is read better on a colour (luminance of ITU-R BT.709)."""
    red, green, blue = colour[:3]
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.5 else "white"


def _plain_numbers(axis: Any) -> None:
    """The usual labels of a logarithmic axis are formulas."""
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda value, _: "")


def _shared_label(profile: Profile) -> str:
    return {"cosine": "mean cosine", "shares": "share of variance", "dimension": "dimension"}[profile.key]


def _estimate(layer: Layer, measure: str) -> Estimate:
    return layer.measures.get(measure, Estimate(math.nan))


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _first(estimates: Sequence[Estimate]) -> str:
    return next((f"{estimate.value:.3g}" for estimate in estimates if math.isfinite(estimate.value)), "none")


def _two(value: float) -> str:
    """Two decimals without a leading zero."""
    said = f"{value:.2f}"
    return "0" if float(said) == 0 else said.replace("0.", ".", 1) if abs(value) < 1 else said
