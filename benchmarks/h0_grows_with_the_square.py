"""The H0 layer takes time as n², and no faster than d and clouds grow; H1 of Gaussian clouds as n² to n^2.6."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks._measure import FULL, OURS, Form, cell, cloud, floor, measure_rates, report, times
from simplicial_reg import rips_barcode
from simplicial_reg.bench import h0_layer
from simplicial_reg.study.runner import cores

NAME = "h0_grows_with_the_square"
PEER = "torch-topological"
H1 = "H1 layer"
N, D, CLOUDS = (
    512,
    384,
    64,
)  # of what is not varied: points and coordinates of one cloud; points of each cloud of a batch
# What is varied, its values in the full and in the short form, and from which one on the exponent is fitted.
VARIED: dict[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {
    "n": ((16, 32, 64, 128, 256, 512, 1024, 2048, 4096), (16, 64, 256, 512, 1024), 256),
    "d": ((2, 3, 8, 32, 96, 192, 384, 768, 1536), (2, 96, 384, 1536), 96),
    "clouds": ((1, 2, 4, 8, 16, 32, 64, 128, 256, 512), (1, 8, 32, 128), 8),
}
# n, d, clouds
THREADED = ((2048, 768, 1), (64, 384, 512), (1024, 384, 1))
H1_UP_TO = 256  # clouds of a batch


def main(form: Form = FULL) -> None:
    torch.set_num_threads(1)
    rates = measure_rates()
    entries: list[dict[str, Any]] = []
    for varied, (full, short, _) in VARIED.items():
        for value in form.pick(full, short):
            n, d, clouds = {"n": (value, D, 1), "d": (N, value, 1), "clouds": (CLOUDS, D, value)}[varied]
            measured = times(competitors(n, d, clouds, peer=True))
            over = measured[OURS].median / floor(n, d, clouds, rates)
            entries.append({"varied": varied, "n": n, "d": d, "clouds": clouds, "ms": measured, "over floor": over})
    fits = [fit(entries, varied, name) for varied in VARIED for name in (OURS, H1, PEER)]
    threaded = with_threads(form)
    torch.set_num_threads(1)
    report(
        NAME,
        "How time grows with points, coordinates, clouds and threads",
        ["varied", "n", "d", "clouds", "H0 layer", "over its floor", PEER, "ratio", H1],
        [row(entry) for entry in entries],
        "Milliseconds, median (least-greatest) of 7 turns, fewer for what takes seconds, one thread unless said. H0 layer: points, "
        "barcode, persistent entropy, gradient; its values and gradients are compared with those of torch-topological first. H1 layer: "
        "points, barcode of H0 and H1, total persistence of H1, gradient. The floor is that of `simplicial_reg.bench`: products of half of "
        f"all pairs at {rates.flops / 1e9:.0f} GFLOP/s and one pass over the lengths at {rates.bytes / 1e9:.0f} GB/s, measured in this "
        "process; below 64 points what is seen is what the calls themselves take. Exponents are slopes of least squares between "
        "logarithms of medians, with the 95 % interval of the slope (Student's t). Gaussian points.",
        {"entries": entries, "exponents": fits, "threads": threaded, "rates": rates._asdict()},
        form=form,
        more=[
            (
                "Exponents",
                ["time of", "in", "from", "sizes", "exponent [95 %]"],
                [
                    [
                        "H0 layer" if one["of"] == OURS else one["of"],
                        one["in"],
                        str(one["from"]),
                        str(one["sizes"]),
                        f"{one['exponent']:.2f} [{one['low']:.2f}, {one['high']:.2f}]",
                    ]
                    for one in fits
                ],
            ),
            (
                "Threads",
                ["layer", "n", "d", "clouds", "threads", "ms", "one thread over it"],
                [
                    [
                        one["layer"],
                        str(one["n"]),
                        str(one["d"]),
                        str(one["clouds"]),
                        str(one["threads"]),
                        cell(one["ms"]),
                        f"{one['speed-up']:.2f}x",
                    ]
                    for one in threaded
                ],
            ),
        ],
    )


def competitors(n: int, d: int, clouds: int, peer: bool) -> dict[str, Callable[[], object]]:
    points = cloud(n, d, clouds) if clouds > 1 else cloud(n, d)
    found = h0_layer(points, [PEER] if peer else [])
    del found["torch.cdist"]
    x = points.clone().requires_grad_()

    def loops() -> None:
        x.grad = None
        rips_barcode(x, 1)[1].persistence.sum().backward()

    if clouds <= H1_UP_TO:
        found[H1] = loops
    return found


def fit(entries: Sequence[dict[str, Any]], varied: str, name: str) -> dict[str, Any]:
    """The exponent of a competitor's time in what is varied."""
    begin = VARIED[varied][2]
    chosen = [
        entry for entry in entries if entry["varied"] == varied and entry[varied] >= begin and name in entry["ms"]
    ]
    slope, half = exponent([entry[varied] for entry in chosen], [entry["ms"][name][0] for entry in chosen])
    return {
        "of": name,
        "in": varied,
        "from": begin,
        "sizes": len(chosen),
        "exponent": slope,
        "low": slope - half,
        "high": slope + half,
    }


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """The slope of least squares between logarithms, and half of its 95 % interval."""
    from scipy import stats

    found = stats.linregress(np.log(sizes), np.log(seconds))
    return float(found.slope), float(stats.t.ppf(0.975, len(sizes) - 2) * found.stderr)


def with_threads(form: Form) -> list[dict[str, Any]]:
    found = []
    for n, d, clouds in form.pick(THREADED, THREADED[2:]):
        alone: dict[str, float] = {}
        runs = competitors(n, d, clouds, peer=False)
        for threads in numbers_of_threads():
            torch.set_num_threads(threads)
            for name, measured in times(runs).items():
                alone.setdefault(name, measured.median)
                found.append(
                    {
                        "layer": "H0 layer" if name == OURS else name,
                        "n": n,
                        "d": d,
                        "clouds": clouds,
                        "threads": threads,
                        "ms": measured,
                        "speed-up": alone[name] / measured.median,
                    }
                )
    return sorted(found, key=lambda one: (one["clouds"], one["n"], one["layer"], one["threads"]))


def numbers_of_threads() -> list[int]:
    """1, 2, 4, ... up to the number of cores."""
    return [2**power for power in range(cores().bit_length()) if 2**power <= cores()]


def row(entry: dict[str, Any]) -> list[str]:
    ms = entry["ms"]
    return [
        entry["varied"],
        str(entry["n"]),
        str(entry["d"]),
        str(entry["clouds"]),
        cell(ms[OURS]),
        f"{entry['over floor']:.2f}",
        cell(ms[PEER]),
        f"{ms[PEER].median / ms[OURS].median:.1f}x",
        cell(ms[H1]) if H1 in ms else "-",
    ]


if __name__ == "__main__":
    main()
