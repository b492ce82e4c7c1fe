"""What a barcode will cost, before it is computed: memory from what the engines were seen to use, time from smaller samples.

The memory of an engine is so many bytes for each pair of points and each simplex it stores, measured as the growth of the process. The
time for n points is extrapolated from the same computation on n/8 and n/4 random ones, which costs some percent; their ratio gives the
exponent of n.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from simplicial_reg._checks import HALF
from simplicial_reg.engines import ENGINES, Choice, select_engine

__all__ = ["Options", "check_memory", "chosen_engine", "expected_seconds", "needed_memory"]


class Options(NamedTuple):
    """The arguments of `rips_barcode` that decide what it costs."""

    max_dim: int
    metric: str
    threshold: float
    essential: str
    engine: str


def chosen_engine(options: Options, n: int) -> Choice:
    """The engine that runs, and why."""
    if options.engine == "auto":
        # Of given distances the tree is found directly, however many they are.
        return select_engine(
            options.max_dim, "cpu", None if options.metric == "precomputed" and options.max_dim == 0 else n
        )
    highest = ENGINES[options.engine].max_dim
    if highest is not None and options.max_dim > highest:
        raise ValueError(
            f"--engine {options.engine} computes homology up to dimension {highest}; use --max-dim {highest} or --engine auto"
        )
    return Choice(options.engine, "asked for by --engine")


class Appetite(NamedTuple):
    """Bytes an engine takes besides the distances: for each pair of points in (n, n), and for each simplex it stores."""

    pair: int
    simplex: int


# Largest growth of the process, rounded up: n = 60 (reference), 250 (gudhi), 1500-4000 (others); d = 2, 8, 768; both precisions.
APPETITES = {
    "blocked": Appetite(0, 0),  # of given distances; see below for points
    "reference": Appetite(16, 320),
    "spanning-tree": Appetite(0, 0),
    "boruvka": Appetite(50, 0),
    "cohomology": Appetite(18, 0),
    "gudhi": Appetite(60, 64),
    "ripser": Appetite(62, 0),
    "torch-topological": Appetite(78, 0),
}
ENCLOSING_RADIUS = 6  # bytes for each pair


# Of the blocked engine: bytes for each point (its list), copies of the points, and tiles. Seen at n = 20,000 and d = 3, 384.
LIST, COPIES, TILES = 600, 4, 200_000_000


def needed_memory(options: Options, engine: str, n: int, dtype: torch.dtype, d: int = 0) -> int:
    """A forecast of the bytes that the barcode of ``n`` points in d dimensions takes: a lower bound for ripser and torch-topological."""
    if engine == "blocked" and options.metric != "precomputed":
        return n * (LIST + COPIES * d * max(dtype.itemsize, 4)) + TILES
    appetite = APPETITES[engine]
    distances = 4 if dtype in HALF else dtype.itemsize
    pair = max(appetite.pair, ENCLOSING_RADIUS if options.essential == "enclosing_radius" else 0)
    # Below a threshold there are fewer simplices, and how many is not known before.
    simplices = sum(math.comb(n, k + 1) for k in range(options.max_dim + 2)) if math.isinf(options.threshold) else 0
    return n * n * (distances + pair) + simplices * appetite.simplex


def check_memory(options: Options, engine: str, n: int, dtype: torch.dtype, available: int | None, d: int = 0) -> None:
    """Refuse a computation that does not fit, and say which sample would."""
    needed = needed_memory(options, engine, n, dtype, d)
    if available is None or needed <= available:
        return
    fits = _largest(lambda m: needed_memory(options, engine, m, dtype, d) <= 0.8 * available, n)
    only_h0 = options._replace(max_dim=0, engine="auto")
    lower = options.max_dim > 0 and needed_memory(only_h0, chosen_engine(only_h0, n).engine, n, dtype, d) <= available
    raise ValueError(
        f"H{options.max_dim} of {n} points needs about {_bytes(needed)} of memory with the engine {engine} and "
        f"{_bytes(available)} are available; use --sample {fits}" + (" or --max-dim 0" if lower else "")
    )


def _largest(fits: Callable[[int], bool], n: int) -> int:
    """The largest m < n that fits, rounded down to two digits; at least 1."""
    low, high = 1, n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    unit: int = 10 ** max(len(str(low)) - 2, 0)
    return low // unit * unit


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count < 1e11 else f"{count / 1e9:,.0f} GB"


LONG = 2.0  # seconds that pass without a word
WORTH_TIMING = 64  # points; smaller subsets than an eighth of these take no measurable time


def expected_seconds(timed: Callable[[int], float], n: int, max_dim: int) -> float | None:
    """Extrapolate the time for ``n`` points from ``timed(n/8)`` and ``timed(n/4)``; None if it is short or cannot be told.

    The exponent of n is what the two times say, but at least that of the distances, 2, and at most that of the simplices, max_dim + 2.
    """
    if n < WORTH_TIMING:
        return None
    eighth = timed(n // 8)
    if eighth * 8 ** (max_dim + 2) < LONG:
        return None
    quarter = timed(n // 4)
    exponent = min(max(math.log2(max(quarter, 1e-9) / max(eighth, 1e-9)), 2.0), max_dim + 2.0)
    seconds = quarter * 4**exponent
    return seconds if seconds >= LONG else None
