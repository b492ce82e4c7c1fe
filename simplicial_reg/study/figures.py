"""The figures of a study's report, as SVG: one function for each kind, from records and their summary.

A variant looks the same in every figure: the baseline is black, the others take the colours of Okabe and Ito, which people with
any kind of colour blindness can tell apart, each with a marker and a line style of its own. Six variants and the baseline is what
one figure holds; more variants make more figures. Every figure is narrow enough to be read on a phone.

The same records give the same bytes: nothing is taken from the clock or from a user's Matplotlib settings. Text from
records is drawn as it is, never read as a formula. Matplotlib is an extra ("study"); no window is opened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from simplicial_reg._page import LOOKS, Look, Picture
from simplicial_reg._page import figure as _figure
from simplicial_reg._page import short_name as _short
from simplicial_reg.barcode import Barcode
from simplicial_reg.plots import GREY, plot_barcode, plot_diagram
from simplicial_reg.study.record import Record
from simplicial_reg.study.statistics import BASELINE, Overall, Row, paired, score

__all__ = [
    "Picture",
    "draw_clouds",
    "draw_costs",
    "draw_curves",
    "draw_differences",
    "draw_layers",
    "draw_scatter",
    "draw_spectra",
]


Runs = dict[str, list[Record]]  # variant -> its final runs in one group

BASELINE_LOOK = Look("#000000", "o", "-")
BLOCKS = 40  # a curve of many steps is drawn as the means of so many blocks
LEAST_SHARE = 1e-9  # of variance: what is smaller is a rounding error of zero, and would stretch the axis over it
POINTS = 100  # a point is 0.01 of a metric

# Which measures are drawn, in this order, if the records have them; at most SHOWN_MEASURES of them.
MEASURES = (
    "isoscore_star",
    "isoscore",
    "mean_cosine",
    "persistent_entropy",
    "participation_ratio",
    "top_variance_share",
)
SHOWN_MEASURES = 2


def draw_differences(rows: Sequence[Row], overall: Sequence[Overall], name: str, where: str) -> Picture:
    """Difference of each variant from the baseline with its interval, and every seed as a dot.

    Args:
        rows: those of one group; or none, to draw ``overall``.
        overall: entries over all groups; or none.
        name: of the file.
        where: the task, for the words.
    """
    entries = [(row.variant, row.comparison, _pairs(row, rows)) for row in rows if row.comparison.pairs]
    entries += [(entry.variant, entry.comparison, []) for entry in overall if entry.comparison.pairs]
    with _figure(1.3 + 0.34 * len(entries)) as (figure, finished):
        ax = figure.subplots()
        ax.axvline(0, color=GREY, linewidth=1)
        for y, (_, found, dots) in enumerate(entries):
            middle = found.difference * POINTS
            if not math.isnan(found.low):
                ax.plot([found.low * POINTS, found.high * POINTS], [y, y], color="#0072B2", linewidth=2.2, zorder=2)
            ax.plot([dot * POINTS for dot in dots], [y] * len(dots), "o", color=GREY, markersize=3, alpha=0.6, zorder=3)
            ax.plot([middle], [y], "D", color="#0072B2", markeredgecolor="white", markersize=7, zorder=4)
        ax.set_yticks(range(len(entries)), [_short(variant) for variant, _, _ in entries], fontsize="small")
        ax.set_ylim(len(entries) - 0.4, -0.6)
        ax.set_xlabel(f"difference from {BASELINE} in points (better →)")
        ax.grid(axis="x", color="#E5E5E5")
    said = "; ".join(f"{variant} {found.difference * POINTS:+.2f}" for variant, found, _ in entries)
    return Picture(
        name, where, f"Differences from the baseline with 95 % intervals, {where}, in points: {said}.", finished()
    )


def draw_scatter(
    runs: Runs, shown: Sequence[str], look: Callable[[str], Look], measure: str, name: str, where: str
) -> Picture:
    """Isotropy after training against the score, one mark for each seed."""
    with _figure(3.9) as (figure, finished):
        ax = figure.subplots()
        for variant in shown:
            pairs = [(isotropy_after(record, measure), score(record)) for record in runs[variant]]
            pairs = [pair for pair in pairs if not math.isnan(sum(pair))]
            style = look(variant)
            ax.scatter(
                [pair[0] for pair in pairs],
                [pair[1] * POINTS for pair in pairs],
                s=34,
                marker=style.marker,
                color=style.colour,
                edgecolor="white",
                linewidth=0.5,
            )
        ax.set_xlabel(f"{words(measure)}, held out, after training")
        ax.set_ylabel(f"{_metric(runs)} in points")
        ax.grid(color="#E5E5E5")
        _legend(figure, shown, look, line=False)
    return Picture(
        name,
        f"{where}: {words(measure)}",
        f"{words(measure)} after training against {_metric(runs)}, one mark for each seed, {where}.",
        finished(),
    )


def draw_curves(
    runs: Runs, shown: Sequence[str], look: Callable[[str], Look], measure: str | None, name: str, where: str
) -> Picture:
    """Task loss, weighted penalty, selection metric and isotropy over the steps: mean over seeds, band of one standard deviation."""
    with _figure(8.6 if measure else 6.8) as (figure, finished):
        panels = figure.subplots(4 if measure else 3, sharex=True)
        for variant in shown:
            style, records = look(variant), runs[variant]
            _band(panels[0], [_blocks(record.steps.get("task_loss", [])) for record in records], style)
            if variant != BASELINE:
                _band(panels[1], [_blocks(_weighted(record)) for record in records], style)
            _band(
                panels[2],
                [_series(record, lambda entry: _number(entry.get("selection")) * POINTS) for record in records],
                style,
                True,
            )
            if measure:
                _band(
                    panels[3],
                    [_series(record, lambda entry: _measured(entry, measure)) for record in records],
                    style,
                    True,
                )
        labels = ["task loss", "weight × penalty", f"{_metric(runs)}, held out,\nin points", words(measure or "")]
        for panel, label in zip(panels, labels, strict=False):
            panel.set_ylabel(label)
            panel.grid(color="#E5E5E5")
        panels[-1].set_xlabel("step of training")
        _legend(figure, shown, look)
    return Picture(
        name,
        where,
        f"Training curves with bands of one standard deviation over seeds, {where}: {', '.join(shown)}.",
        finished(),
    )


def draw_clouds(record: Record, name: str, where: str) -> Picture | None:
    """Barcode and diagram of the held-out embeddings before and after training, on the same axes; None if the record has no cloud."""
    groups = {when: _barcodes(record.clouds.get(when, {})) for when in ("before", "after")}
    if not any(len(bars) for barcodes in groups.values() for bars in barcodes):
        return None
    ends = [float(bars.death.max()) for barcodes in groups.values() for bars in barcodes if len(bars)]
    end = max(ends) * 1.05 or 1.0
    with _figure(4.5) as (figure, finished):
        panels = figure.subplots(2, 2, gridspec_kw={"height_ratios": [1, 1.15]})
        for column, (when, barcodes) in enumerate(groups.items()):
            top, bottom = panels[:, column]
            plot_barcode(barcodes, top)
            plot_diagram(barcodes, bottom)
            bottom.get_legend().remove()  # the barcode above says which colour is which dimension
            for inset in list(bottom.child_axes):
                inset.remove()  # too small to read here
            # The numbers of bars above and not beside, where they would take half the width.
            top.set_title(f"{when} training\n{_counts(barcodes)}", fontsize="medium")
            names = [f"H{bars.dim}" for bars in barcodes]
            top.set_yticks(top.get_yticks(), names)
            for panel in (top, bottom):
                panel.set_xlim(-0.02 * end, end)
                panel.set_xlabel("distance" if panel is top else "birth")
            bottom.set_ylim(-0.02 * end, end)
            bottom.set_title("")
        panels[1, 1].set_ylabel("")
    counts = "; ".join(f"{when}: {_counts(barcodes)}" for when, barcodes in groups.items())
    return Picture(
        name,
        f"{where}: {record.cell.variant}",
        f"Barcode and persistence diagram before and after training with {record.cell.variant}, {where}. {counts}.",
        finished(),
    )


def draw_spectra(runs: Runs, shown: Sequence[str], look: Callable[[str], Look], name: str, where: str) -> Picture:
    """Shares of variance in descending order after training, mean over seeds, and before training."""

    def spectrum(record: Record, when: str) -> tuple[list[float], list[float]]:
        shares = [_number(share) for share in record.clouds.get(when, {}).get("spectrum", [])]
        return [1.0 + at for at in range(len(shares))], [share if share > LEAST_SHARE else math.nan for share in shares]

    with _figure(4.0) as (figure, finished):
        ax = figure.subplots()
        before = [spectrum(record, "before") for record in _some(runs)]
        _band(ax, before, Look(GREY, "", (0, (1, 2))), fill=False)
        for variant in shown:
            _band(ax, [spectrum(record, "after") for record in runs[variant]], look(variant), fill=False)
        ax.set_xscale("log")
        ax.set_yscale("log")
        for axis in (ax.xaxis, ax.yaxis):  # the usual labels of a logarithmic axis are formulas
            axis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_minor_formatter(lambda value, _: "")
        ax.set_xlabel("direction, by variance")
        ax.set_ylabel("share of variance")
        ax.grid(color="#E5E5E5")
        _legend(figure, shown, look, before=True)
    return Picture(
        name,
        where,
        f"Share of variance of each principal direction before and after training, {where}: {', '.join(shown)}.",
        finished(),
    )


def draw_layers(
    runs: Runs, shown: Sequence[str], look: Callable[[str], Look], measure: str, name: str, where: str
) -> Picture:
    """A measure of isotropy for each hidden state, after training, mean and band over seeds, and before training."""

    def profile(record: Record, when: str) -> tuple[list[float], list[float]]:
        values = [_number(layer.get(measure)) for layer in record.layers.get(when, [])]
        return [float(at) for at in range(len(values))], values

    with _figure(3.9) as (figure, finished):
        ax = figure.subplots()
        _band(ax, [profile(record, "before") for record in _some(runs)], Look(GREY, "", (0, (1, 2))), fill=False)
        for variant in shown:
            _band(ax, [profile(record, "after") for record in runs[variant]], look(variant), marked=True)
        ax.set_xlabel("hidden state (0: embeddings)")
        ax.set_ylabel(words(measure))
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(color="#E5E5E5")
        _legend(figure, shown, look, before=True)
    return Picture(
        name,
        f"{where}: {words(measure)}",
        f"{words(measure)} of each hidden state before and after training, {where}: {', '.join(shown)}.",
        finished(),
    )


def draw_costs(runs: Runs, name: str, where: str) -> Picture | None:
    """Median time of a step, mean over seeds, and the part of it that the penalty takes; None if no record has it."""
    costs = [
        (variant, mean_cost(records, "seconds_per_step"), mean_cost(records, "penalty_share"))
        for variant, records in runs.items()
    ]
    costs = [entry for entry in costs if not math.isnan(entry[1])]
    if not costs:
        return None
    with _figure(1.4 + 0.34 * len(costs)) as (figure, finished):
        ax = figure.subplots()
        for y, (_, seconds, share) in enumerate(costs):
            penalty = 0.0 if math.isnan(share) else share * seconds
            ax.barh(y, 1e3 * (seconds - penalty), color="#56B4E9", height=0.6, label="model" if y == 0 else None)
            ax.barh(
                y, 1e3 * penalty, left=1e3 * (seconds - penalty), color="#D55E00", hatch="////", edgecolor="white",
                linewidth=0, height=0.6, label="penalty" if y == 0 else None,
            )  # fmt: skip
            ax.annotate(f" {1e3 * seconds:.3g}", (1e3 * seconds, y), va="center", fontsize="small")
        ax.margins(x=0.12)
        ax.set_yticks(range(len(costs)), [_short(variant) for variant, _, _ in costs], fontsize="small")
        ax.set_ylim(len(costs) - 0.4, -0.6)
        ax.set_xlabel("median time of a step in milliseconds")
        figure.legend(loc="outside upper right", ncols=2)
    said = "; ".join(f"{variant} {1e3 * seconds:.3g}" for variant, seconds, _ in costs)
    return Picture(name, where, f"Median time of a step in milliseconds, {where}: {said}.", finished())


def look_of(variants: Sequence[str]) -> Callable[[str], Look]:
    """What each variant looks like in all figures; any six neighbours differ."""
    others = [variant for variant in variants if variant != BASELINE]
    return lambda variant: BASELINE_LOOK if variant == BASELINE else LOOKS[others.index(variant) % len(LOOKS)]


def panels_of(variants: Sequence[str]) -> list[list[str]]:
    """Which variants go into one figure: up to six, as many in each, and the baseline with all of them."""
    baseline = [variant for variant in variants if variant == BASELINE]
    others = [variant for variant in variants if variant != BASELINE]
    count = max(1, math.ceil(len(others) / len(LOOKS)))
    parts = [others[len(others) * at // count : len(others) * (at + 1) // count] for at in range(count)]
    return [baseline + part for part in parts if baseline + part]


def measures_in(entries: Sequence[dict[str, Any]]) -> list[str]:
    """The measures to draw: the first of ``MEASURES`` that some entry has, or else the first there are."""
    present = dict.fromkeys(
        name for entry in entries for name, value in entry.items() if not math.isnan(_number(value))
    )
    chosen = [name for name in MEASURES if name in present] or sorted(present)
    if "isoscore_star" in chosen and "isoscore" in chosen:
        chosen.remove("isoscore_star")  # without shrinkage it is the same
    return chosen[:SHOWN_MEASURES]


def isotropy_after(record: Record, measure: str) -> float:
    """A measure of the weights that are reported on; NaN if there is none."""
    return _measured(kept_evaluation(record), measure)


def kept_evaluation(record: Record) -> dict[str, Any]:
    """The evaluation of the weights that are reported on; of a run that broke off the last one, empty if there is none."""
    return (record.evaluations or [{}])[-1 if record.kept is None else record.kept]


def mean_cost(records: Sequence[Record], cost: str) -> float:
    """Mean of a cost over the records that have it; NaN if none has."""
    values = [_number(record.costs.get(cost)) for record in records]
    values = [value for value in values if not math.isnan(value)]
    return float(np.mean(values)) if values else math.nan


def words(measure: str) -> str:
    """A measure's name as words."""
    names = {"isoscore": "IsoScore", "isoscore_star": "IsoScore*"}
    return names.get(measure, measure.replace("_", " "))


def _legend(
    figure: Any, shown: Sequence[str], look: Callable[[str], Look], *, line: bool = True, before: bool = False
) -> None:
    from matplotlib.lines import Line2D

    handles, names = [], []
    for variant in shown:
        style = look(variant)
        marker: dict[str, Any] = {"marker": style.marker, "markersize": 5.5}
        marker.update(markeredgecolor="white", markeredgewidth=0.4)
        handles.append(
            Line2D([], [], color=style.colour, linestyle=style.line if line else "", linewidth=1.5, **marker)
        )
        names.append(_short(variant))
    if before:
        handles.append(Line2D([], [], color=GREY, linestyle=(0, (1, 2)), linewidth=1.5))
        names.append("before training")
    wide = max((len(name) for name in names), default=0) > 14
    figure.legend(handles, names, loc="outside upper left", ncols=2 if wide else 3, handlelength=3, fontsize="small")


def _band(
    ax: Any,
    curves: Sequence[tuple[Sequence[float], Sequence[float]]],
    style: Look,
    marked: bool = False,
    fill: bool = True,
) -> None:
    """Mean of curves, and plus and minus one standard deviation; where curves end early, of those that are still there."""
    curves = [curve for curve in curves if len(curve[0])]
    if not curves:
        return
    longest = max((list(x) for x, _ in curves), key=len)
    heights = np.full((len(curves), len(longest)), np.nan)
    for row, (_, y) in zip(heights, curves, strict=True):
        row[: len(y)] = y
    there = ~np.isnan(heights)
    count = there.sum(0)
    some = np.maximum(count, 1)
    mean = np.where(count > 0, np.where(there, heights, 0).sum(0) / some, np.nan)
    deviation = np.sqrt(np.where(there, (heights - mean) ** 2, 0).sum(0) / np.maximum(count - 1, 1))
    marker = {"marker": style.marker, "markersize": 4.5, "markeredgecolor": "white", "markeredgewidth": 0.4}
    every = 1 if marked else max(1, len(longest) // 6)  # a few marks, so that a curve is not told by its colour alone
    ax.plot(longest, mean, color=style.colour, linestyle=style.line, linewidth=1.5, markevery=every, **marker)
    if fill and len(curves) > 1:
        ax.fill_between(longest, mean - deviation, mean + deviation, color=style.colour, alpha=0.13, linewidth=0)


def _blocks(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Means over blocks of steps, and the middle step of each: a curve that can be seen."""
    numbers = np.array([_number(value) for value in values])
    size = max(1, math.ceil(len(numbers) / BLOCKS))
    parts = [numbers[at : at + size] for at in range(0, len(numbers), size)]
    middles = [at * size + (len(part) + 1) / 2 for at, part in enumerate(parts)]
    return middles, [float(np.mean(part[~np.isnan(part)])) if not np.isnan(part).all() else math.nan for part in parts]


def _weighted(record: Record) -> list[float]:
    penalty, weight = record.steps.get("penalty", []), record.steps.get("weight", [])
    return [_number(one) * _number(other) for one, other in zip(penalty, weight, strict=False)]


def _series(record: Record, read: Callable[[dict[str, Any]], float]) -> tuple[list[float], list[float]]:
    return [_number(entry.get("step")) for entry in record.evaluations], [read(entry) for entry in record.evaluations]


def _measured(entry: dict[str, Any], measure: str) -> float:
    return _number((entry.get("isotropy") or {}).get(measure))


def _number(value: Any) -> float:
    """A finite number, or NaN: null in the file is a number that was not one."""
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else math.nan


def _some(runs: Runs) -> list[Record]:
    """The runs of the baseline or, without one, of the first variant: before training all variants of a seed are the same."""
    return runs.get(BASELINE) or next(iter(runs.values()), [])


def _pairs(row: Row, rows: Sequence[Row]) -> list[float]:
    baseline = next((other.scores for other in rows if other.variant == BASELINE), {})
    return paired(row.scores, baseline)


def _metric(runs: Runs) -> str:
    return next((_short(record.metric) for records in runs.values() for record in records if record.metric), "metric")


def _barcodes(cloud: dict[str, Any]) -> tuple[Barcode, ...]:
    """H0 and H1 as they were recorded. The vertices are not known, and no picture needs them."""
    deaths = [value for value in map(_number, cloud.get("deaths") or []) if not math.isnan(value)]
    pairs = [[_number(value) for value in pair] for pair in cloud.get("loops") or []]
    loops = [(birth, death) for birth, death in pairs if not math.isnan(birth + death)]
    return tuple(
        Barcode(
            dim,
            torch.tensor([bar[0] for bar in bars], dtype=torch.float64),
            torch.tensor([bar[1] for bar in bars], dtype=torch.float64),
            torch.full((len(bars), 2), -1),
            torch.full((len(bars), 2), -1),
            torch.ones(len(bars), dtype=torch.bool),
        )
        for dim, bars in enumerate(([(0.0, death) for death in deaths], loops))
    )


def _counts(barcodes: Sequence[Barcode]) -> str:
    return f"{', '.join(f'H{bars.dim}: {len(bars)}' for bars in barcodes)} bars"
