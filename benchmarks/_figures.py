"""The plot of each result, made of its numbers alone: `draw` takes what is in ``results/NAME.json``.

A plot is a column of panels, each with a few curves (over sizes) or rows of dots (for what has names instead of sizes). Lines are those
of `simplicial_reg._page`: colours of Okabe and Ito, with a marker and a line style each, and narrow enough for a phone. Bands and whiskers
reach from the least to the greatest turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["FIGURES", "draw"]

MS = "milliseconds"
OURS = "simplicial_reg"
FIXED = {OURS: 0, "H0 layer": 0, "torch-topological": 1, "giotto-ph": 2, "ripser.py": 3, "gudhi": 4, "fastcluster": 5}
SMALLEST = 9.0


class Curve(NamedTuple):
    """Values over sizes, or over places of rows; low and high may be empty."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


class Panel(NamedTuple):
    """Axes with curves, or with rows of dots if there are names."""

    title: str
    x: str
    y: str
    curves: list[Curve]
    names: tuple[str, ...] = ()
    log: bool = True
    line: float | None = None  # a value that is marked


Result = dict[str, Any]


def draw(result: Result) -> bytes | None:
    """The SVG of a result; None for one that has no plot."""
    panels_of = FIGURES.get(result["benchmark"])
    if panels_of is None:
        return None
    from simplicial_reg._page import LOOKS, figure

    panels = panels_of(result["data"])
    heights = [_height(panel) for panel in panels]
    # More than there are looks for would not be told apart anyway: leave some of them to the table.
    labels = list(dict.fromkeys(curve.label for panel in panels for curve in panel.curves))
    # Who is in several plots looks the same in all of them.
    free = [at for at in range(len(LOOKS)) if not {label for label, own in FIXED.items() if own == at} & set(labels)]
    looks = {label: LOOKS[FIXED[label] if label in FIXED else free.pop(0)] for label in labels}
    columns = 2 if max(map(len, labels)) < 26 else 1
    legend = 0.22 * -(-len(labels) // columns) + 0.1
    with figure(sum(heights) + legend) as (drawn, content):
        axes = drawn.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        handles: dict[str, Any] = {}
        for ax, panel in zip(axes, panels, strict=True):
            for at, curve in enumerate(panel.curves):
                shift = 0.5 * (at - (len(panel.curves) - 1) / 2) / max(len(panel.curves), 2)
                handles[curve.label] = _draw(ax, curve, looks[curve.label], shift if panel.names else None)
            _finish(ax, panel)
        drawn.legend(handles.values(), list(handles), loc="outside upper left", ncols=columns, handlelength=2.4)
    return content()


def _height(panel: Panel) -> float:
    """Inches."""
    lines = max((name.count("\n") for name in panel.names), default=0)
    return 0.75 + (0.17 + 0.07 * len(panel.curves) + 0.12 * lines) * len(panel.names) if panel.names else 2.5


def _draw(ax: Any, curve: Curve, look: Any, shift: float | None) -> Any:
    style = {"color": look.colour, "marker": look.marker, "markersize": 4.5}
    if shift is None:
        (line,) = ax.plot(curve.x, curve.y, linestyle=look.line, linewidth=1.4, **style)
        if curve.low:
            ax.fill_between(curve.x, curve.low, curve.high, color=look.colour, alpha=0.15, linewidth=0)
        return line
    # Rows: the values lie along x, each at the height of its name.
    places = np.asarray(curve.x) + shift
    (line,) = ax.plot(curve.y, places, linestyle="", **style)
    if curve.low:
        ax.hlines(places, curve.low, curve.high, color=look.colour, linewidth=1.4)
    return line


def _finish(ax: Any, panel: Panel) -> None:
    if panel.names:
        ax.set_yticks(range(len(panel.names)), panel.names)
        ax.set_ylim(len(panel.names) - 0.5, -0.5)  # the first one above
        ax.grid(axis="y", color="#E5E5E5", linewidth=0.6)
        if panel.log:
            ax.set_xscale("log")
            _plain(ax.xaxis)
        if panel.line is not None:
            ax.axvline(panel.line, color="#767676", linewidth=0.9, linestyle=":")
        ax.tick_params(axis="y", length=0)
    else:
        sizes = sorted({x for curve in panel.curves for x in curve.x})
        ax.set_xscale("log")
        if panel.log:
            ax.set_yscale("log")
            _plain(ax.yaxis)
        else:
            ax.set_ylim(bottom=0)
        ax.set_xticks(_apart(sizes), [_number(size) for size in _apart(sizes)])
        ax.minorticks_off()
        ax.grid(axis="y", color="#E5E5E5", linewidth=0.6)
        if panel.line is not None:
            ax.axhline(panel.line, color="#767676", linewidth=0.9, linestyle=":")
    ax.set_xlabel(panel.x)
    ax.set_ylabel(panel.y)
    ax.set_title(panel.title, loc="left", fontsize=SMALLEST)


def _apart(sizes: Sequence[float], room: float = 0.13) -> list[float]:
    """Those that have room for their number on a logarithmic axis, the largest among them."""
    span = np.log(sizes[-1] / sizes[0]) or 1.0
    kept: list[float] = []
    for size in reversed(sizes):
        if not kept or np.log(kept[-1] / size) / span >= room:
            kept.append(size)
    return kept[::-1]


def _plain(axis: Any) -> None:
    """Numbers instead of powers."""
    axis.set_major_formatter(lambda value, _: _number(value))
    axis.set_minor_formatter(lambda value, _: "")


def _number(value: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e4)):
        if value >= size:
            return f"{value / min(size, 1e6 if unit == 'M' else 1e3):g}{unit}"
    return f"{value:g}"


# --- what is drawn of each result ----------------------------------------------------------------------------------------------


def _times(entries: Sequence[Any], x: str, of: str = "ms", names: dict[str, str] | None = None) -> list[Curve]:
    """A curve for each competitor, over a size."""
    every = dict.fromkeys(name for entry in entries for name in entry[of])
    curves = []
    for name in every:
        chosen = [entry for entry in entries if name in entry[of]]
        measured = [entry[of][name] for entry in chosen]
        curves.append(
            Curve(
                (names or {}).get(name, name),
                [entry[x] for entry in chosen],
                [ms[0] for ms in measured],
                [ms[1] for ms in measured],
                [ms[2] for ms in measured],
            )
        )
    return curves


def _rows(entries: Sequence[Any], title: str, x: str, names: Sequence[str], of: str = "ms") -> Panel:
    """A row of dots for each entry, one for each competitor."""
    placed = [{**entry, "place": place} for place, entry in enumerate(entries)]
    return Panel(title, x, "", _times(placed, "place", of), tuple(names))


def _h0_edges(data: Any) -> list[Panel]:
    return [
        Panel(f"H0 from distances, d = {d}", "points n", MS, _times([one for one in data if one["d"] == d], "n"))
        for d in (768, 3)
    ]


def _h0_layer(data: Any) -> list[Panel]:
    names = [f"{one['clouds']} × {one['n']} × {one['d']}" for one in data]
    return [_rows(data, "clouds × points × coordinates", MS, names)]


def _gpu(data: Any) -> list[Panel]:
    names = [f"{one['clouds']} × {one['n']} × {one['d']}" for one in data]
    return [_rows(data, "clouds × points × coordinates", MS, names)]


def _h1_edges(data: Any) -> list[Panel]:
    kinds = {
        "H0 and H1 from distances, d = 768": (768, "euclidean"),
        "d = 3": (3, "euclidean"),
        "random directions, d = 768": (768, "cosine"),
    }
    panels = []
    for title, kind in kinds.items():
        chosen = [one for one in data if (one["d"], one["metric"]) == kind]
        if len(chosen) > 1:
            panels.append(Panel(title, "points n", MS, _times(chosen, "n")))
    return panels


def _h1_large(data: Any) -> list[Panel]:
    panels = []
    for d in dict.fromkeys(one["d"] for one in data):
        chosen = [one for one in data if one["d"] == d]
        sizes = [one["n"] for one in chosen]
        best = [one["seconds"][OURS] * one["best giotto-ph / ours"] for one in chosen]
        curves = [
            Curve(OURS, sizes, [one["seconds"][OURS] for one in chosen]),
            Curve("giotto-ph, its best", sizes, best),
        ]
        panels.append(Panel(f"H0 and H1 from distances, d = {d}, 2 threads", "points n", "seconds", curves))
    return panels


def _memory(data: Any) -> list[Panel]:
    curves = []
    for key in dict.fromkeys((one.get("what", "H1 engine"), one["d"], one["metric"]) for one in data):
        chosen = [one for one in data if (one.get("what", "H1 engine"), one["d"], one["metric"]) == key]
        what, d, metric = key
        label = f"{what}, d = {d}" + (", random directions" if metric == "cosine" else "")
        curves.append(Curve(label, [one["n"] for one in chosen], [one["bytes per entry"] for one in chosen]))
    return [Panel("Extra memory", "points n", "bytes per matrix entry", curves, log=False)]


def _large(data: Any) -> list[Panel]:
    names = [f"{one['n']:,} × {one['d']}" + ("" if one["kind"] == "normal" else f", {one['kind']}") for one in data]
    labels = {"blocked": "blocked", "products": "one pass of products", "dense": "dense engine", "fastcluster": "fastcluster"}  # fmt: skip
    entries = [{"ms": {labels[name]: [s, s, s] for name, s in one["seconds"].items()}} for one in data]
    return [_rows(entries, "points × coordinates", "seconds", names)]


def _small(data: Any) -> list[Panel]:
    return [
        Panel(
            f"H{dim} of one small cloud",
            "points n, d = 384",
            MS,
            _times([one for one in data if one["max_dim"] == dim], "n"),
        )
        for dim in (0, 1)
    ]


def _isoscore(data: Any) -> list[Panel]:
    names = [f"{one['n']} × {one['d']}, shrinkage {one['shrinkage']:g}" for one in data]
    return [_rows(data, "points × coordinates", MS, names)]


def _regularizers(data: Any) -> list[Panel]:
    step, *entries = data
    columns = ("32 sentences", "32 clouds of 64 tokens", "2,048 tokens")
    placed = [{"ms": {column: one[column] for column in columns if column in one}} for one in entries]
    panel = _rows(placed, "Dotted: the training step", MS, [one["regularizer"] for one in entries])
    return [panel._replace(line=step["step"][0])]


def _training(data: Any) -> list[Panel]:
    names = [one["regularizer"] + (", balanced" if one["weight"] is None else "") for one in data]
    quartiles = [np.quantile(one["ratios"], [0.5, 0.25, 0.75]) for one in data]
    middle, low, high = ([100 * (one[at] - 1) for one in quartiles] for at in range(3))
    curve = Curve("step with the line over step without", range(len(data)), middle, low, high)
    return [
        Panel("Median and quartiles of pairs of steps", "% of a training step", "", [curve], tuple(names), False, 0)
    ]


def _growth(data: Any) -> list[Panel]:
    labels = {"n": "points n, d = 384", "d": "coordinates d, 512 points", "clouds": "clouds of 64 × 384"}
    panels = []
    for varied, label in labels.items():
        chosen = [one for one in data["entries"] if one["varied"] == varied]
        curves = _times(chosen, varied, names={OURS: "H0 layer"})
        floor = [one["ms"][OURS][0] / one["over floor"] for one in chosen]
        curves.append(Curve("floor of H0", [one[varied] for one in chosen], floor))
        panels.append(Panel(f"Time over {label.split(',')[0]}", label, MS, curves))
    most = max(one["threads"] for one in data["threads"])
    if most > 1:
        chosen = [one for one in data["threads"] if one["threads"] == most]
        names = [f"{one['layer']}\n{one['clouds']} × {one['n']} × {one['d']}" for one in chosen]
        curve = Curve(f"{most} threads", range(len(chosen)), [one["speed-up"] for one in chosen])
        panels.append(
            Panel("clouds × points × coordinates", "times as fast as one thread", "", [curve], tuple(names), False, 1)
        )
    return panels


def _ranks(data: Any) -> list[Panel]:
    costs = data["costs"]
    slowest = data["networks"][0]["name"]
    drawn: dict[tuple[str, str], Callable[[Any], float]] = {
        ("Simulated: computing", "hours"): lambda one: sum(one["computing"].values()) / 3600,
        (f"Simulated: sending, {slowest}", "seconds"): lambda one: one["sending"][slowest],
        ("Simulated: memory of a rank, tree", "GB"): lambda one: one["memory"]["tree"] / 1e9,
        ("Simulated: memory of a rank, with gradient", "GB"): lambda one: one["memory"]["gradient"] / 1e9,
    }
    panels = []
    for (title, unit), value in drawn.items():
        curves = []
        for n in dict.fromkeys(one["points"] for one in costs):
            chosen = [one for one in costs if one["points"] == n]
            label = f"{n // 10**6} million points"
            curves.append(Curve(label, [one["ranks"] for one in chosen], [value(one) for one in chosen]))
        panels.append(Panel(title, "ranks", unit, curves))
    return panels


FIGURES: dict[str, Callable[[Any], list[Panel]]] = {
    "h0_edges_come_forty_times_faster": _h0_edges,
    "h0_layer_beats_torch_topological": _h0_layer,
    "h1_comes_ten_times_faster": _h1_edges,
    "h1_of_four_thousand_points": _h1_large,
    "h1_memory_is_quadratic": _memory,
    "large_clouds_take_one_pass": _large,
    "small_clouds_cost_little": _small,
    "isoscore_star_comes_thirty_times_faster": _isoscore,
    "regularizers_cost_three_percent": _regularizers,
    "training_step_costs_two_percent": _training,
    "h0_grows_with_the_square": _growth,
    "a_cloud_over_a_thousand_ranks": _ranks,
    "h0_on_the_gpu_within_three_times_its_floor": _gpu,
}
