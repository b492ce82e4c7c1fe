"""Measures of isotropy and dimension of a cloud of points: which there are, all of them at once, and their null.

``MEASURES`` is the table of them; `measure` computes all for one cloud, `null` for isotropic Gaussian clouds of the same size. A measure is
a function ``measure(points, *, mask=None, ...) -> Tensor (...)``, one value per cloud.

Nearly all of them depend on the number of points n and of coordinates d, even for a perfectly isotropic cloud. So report n, d and
the null beside every value.

>>> import torch
>>> points = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
>>> points[:, 0] *= 4  # one direction dominates
>>> values, expected = measure(points), null(200, 16)
>>> for name in ("isoscore", "top_variance_share", "drift_ratio"):
...     print(f"{name}: {values[name]:.2f}, isotropic {expected[name]:.2f}")
isoscore: 0.16, isotropic 0.92
top_variance_share: 0.53, isotropic 0.10
drift_ratio: 0.06, isotropic 0.07
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from simplicial_reg._autocast import autocast_off
from simplicial_reg._checks import check_count, computable, runs_kernels
from simplicial_reg.distances import pairwise_distances
from simplicial_reg.isotropy.barcodes import persistent_entropy_deficit, persistent_entropy_score, prominent_count
from simplicial_reg.isotropy.dimension import hubness, mle_dimension, ph_dimension, twonn_dimension
from simplicial_reg.isotropy.directions import drift_ratio, mean_cosine, outlier_dimension_share, partition_ratio
from simplicial_reg.isotropy.moments import Moments
from simplicial_reg.isotropy.spectrum import (
    effective_rank,
    isoscore,
    isoscore_star,
    participation_ratio,
    participation_ratio_null,
    participation_ratio_over_null,
    rankme,
    top_variance_share,
)

__all__ = [
    "MEASURES",
    "Measure",
    "Moments",
    "measure",
    "null",
    # of the spectrum
    "effective_rank",
    "isoscore",
    "isoscore_star",
    "participation_ratio",
    "participation_ratio_null",
    "participation_ratio_over_null",
    "rankme",
    "top_variance_share",
    # of directions and coordinates
    "drift_ratio",
    "mean_cosine",
    "outlier_dimension_share",
    "partition_ratio",
    # of the barcode
    "persistent_entropy_deficit",
    "persistent_entropy_score",
    "prominent_count",
    # of distances
    "hubness",
    "mle_dimension",
    "ph_dimension",
    "twonn_dimension",
]

Change = Literal["translation", "scale", "rotation", "permutation"]
ANY: tuple[Change, ...] = ("translation", "scale", "rotation", "permutation")
ABOUT_ORIGIN: tuple[Change, ...] = ("scale", "rotation", "permutation")


class Measure(NamedTuple):
    """One row of ``MEASURES``."""

    function: Callable[..., Tensor]
    low: float  # the least value there is
    high: float  # the largest; infinite where it grows with n or d
    isotropic: Literal["low", "high"] | None  # the end at which isotropic clouds are; None where neither is
    invariant: tuple[Change, ...]  # what may be done to the cloud; permutation is of the coordinates
    null: Callable[[int, int], float] | None = None  # about the value of an isotropic Gaussian, from n and d
    pairwise: bool = False  # made of all distances, which metric="precomputed" hands it: O(n²)


def _zero(n: int, d: int) -> float:
    return 0.0


def _isoscore_null(n: int, d: int) -> float:
    return (participation_ratio_null(n, d) - 1) / (d - 1) if d > 1 else 1.0


def _largest_share(n: int, d: int) -> float:
    """Of n Gaussian points around a known mean: the upper edge of the Marchenko-Pastur law over the mean eigenvalue, for large n and d."""
    return min(1.0, (1 + math.sqrt(d / max(n, 1))) ** 2 / d)


MEASURES: dict[str, Measure] = {
    "isoscore": Measure(isoscore, 0, 1, "high", ANY, _isoscore_null),
    "isoscore_star": Measure(isoscore_star, 0, 1, "high", ANY, _isoscore_null),
    "participation_ratio": Measure(participation_ratio, 1, math.inf, "high", ANY, participation_ratio_null),
    "participation_ratio_over_null": Measure(participation_ratio_over_null, 0, math.inf, "high", ANY, lambda n, d: 1.0),
    "effective_rank": Measure(effective_rank, 1, math.inf, "high", ANY),
    "rankme": Measure(rankme, 1, math.inf, "high", ABOUT_ORIGIN),
    "top_variance_share": Measure(top_variance_share, 0, 1, "low", ANY, lambda n, d: _largest_share(n - 1, d)),
    "top_second_moment_share": Measure(
        partial(top_variance_share, centred=False), 0, 1, "low", ABOUT_ORIGIN, _largest_share
    ),
    "outlier_dimension_share": Measure(
        outlier_dimension_share, 0, 1, "low", ("translation", "scale", "permutation"), _zero
    ),
    "mean_cosine": Measure(mean_cosine, -1, 1, "low", ABOUT_ORIGIN, _zero),
    "mean_cosine_centred": Measure(
        partial(mean_cosine, centred=True), -1, 1, "low", ANY, lambda n, d: -1 / (n - 1) if n > 1 else 0.0
    ),
    "drift_ratio": Measure(drift_ratio, 0, 1, "low", ABOUT_ORIGIN, lambda n, d: 1 / math.sqrt(n)),
    "partition_ratio": Measure(partition_ratio, 0, 1, "high", ("rotation", "permutation")),
    "persistent_entropy": Measure(persistent_entropy_score, 0, 1, "high", ANY, pairwise=True),
    "entropy_deficit": Measure(persistent_entropy_deficit, 0, math.inf, "low", ANY, pairwise=True),
    # In many dimensions agr2017 takes the longer half of a Gaussian cloud's bars for features.
    "prominent_bars": Measure(partial(prominent_count, method="agr2016"), 0, math.inf, None, ANY, pairwise=True),
    "twonn_dimension": Measure(twonn_dimension, 0, math.inf, "high", ANY, pairwise=True),
    "mle_dimension": Measure(mle_dimension, 0, math.inf, "high", ANY, pairwise=True),
    "ph_dimension": Measure(ph_dimension, 0, math.inf, "high", ANY, pairwise=True),
    "hubness": Measure(hubness, -math.inf, math.inf, None, ANY, pairwise=True),
}


def measure(
    points: Tensor,
    *,
    mask: Tensor | None = None,
    max_points: int = 2048,
    seed: int = 0,
    shrinkage: float = 0.0,
    covariance: Tensor | None = None,
) -> dict[str, float]:
    """All measures of one cloud.

    Those that need all distances (entropy, prominent bars, dimensions, hubness) are computed on a random subsample where there
    are more than ``max_points`` points, the others on all points.

    Args:
        points: floating tensor ``(n, d)``. Half precision is computed in float32.
        mask: bool ``(n,)``, True where the point is real.
        max_points: most points of which all distances are computed; their number and squares of it are what these measures cost.
        seed: of the subsample, which is the same on every device.
        shrinkage: weight of ``covariance`` in ``isoscore_star``; with 0 it is the same as ``isoscore``.
        covariance: ``(d, d)``, for ``isoscore_star``.

    Returns:
        A number for each name in ``MEASURES``, in its order. NaN where a cloud has nothing to estimate, as the functions say (the
        dimensions and the hubness of a collapsed cloud, for example); infinite where a dimension is too large to be estimated.

    Raises:
        TypeError: if points are not floating or mask is not bool.
        ValueError: for a wrong shape, for ``max_points`` below 1, if covariance is missing, and on the CPU for NaN or infinity.

    Source:
        The functions in ``MEASURES``.

    Example:
        >>> values = measure(torch.eye(8))  # a regular simplex
        >>> values["persistent_entropy"], values["prominent_bars"], values["hubness"]
        (1.0, 7.0, nan)
        >>> round(values["participation_ratio"], 3), round(values["mean_cosine"], 3)
        (7.0, 0.0)
    """
    check_count("max_points", max_points, 1)
    check_count("seed", seed, 0)
    points, mask = computable(points, mask)
    if points.ndim != 2:
        raise ValueError(f"points must be one cloud (n, d); got {tuple(points.shape)}; measure each cloud of a batch")
    if mask is not None:
        points = points[mask]
    if runs_kernels(points) and not bool(points.isfinite().all()):
        raise ValueError(
            "points must be finite: a real point holds NaN or infinity; remove such points or mask them out"
        )
    with torch.no_grad(), autocast_off(points):
        distances = pairwise_distances(_subsample(points, max_points, seed))
        values = [
            entry.function(distances, metric="precomputed")
            if entry.pairwise
            else isoscore_star(points, shrinkage=shrinkage, covariance=covariance)
            if name == "isoscore_star"
            else entry.function(points)
            for name, entry in MEASURES.items()
        ]
        return dict(zip(MEASURES, torch.stack(values).tolist(), strict=True))


def null(n: int, d: int, *, draws: int = 20, seed: int = 0, max_points: int = 2048) -> dict[str, float]:
    """What the measures of an isotropic cloud are: their mean over Gaussian clouds of n points in d coordinates.

    The coordinates are independent and have mean 0 and variance 1. The variance matters to ``partition_ratio`` alone, the only
    measure that depends on the unit.

    Args:
        n: number of points.
        d: number of coordinates.
        draws: number of clouds.
        seed: of the clouds.
        max_points: as for `measure`; give both the same.

    Returns:
        A number for each name in ``MEASURES``. It is infinite if a single dimension is, and NaN where `measure` gives NaN.

    Raises:
        TypeError: if an argument is not an int.
        ValueError: if an argument is too small.

    Source:
        Simulation. Where an entry of ``MEASURES`` has a ``null``, that is the formula.

    Example:
        >>> expected = null(64, 768, draws=5)  # a batch of 64 embeddings
        >>> round(expected["isoscore"], 2), round(expected["top_variance_share"], 3)
        (0.07, 0.026)
    """
    check_count("n", n, 1)
    check_count("d", d, 1)
    check_count("draws", draws, 1)
    check_count("seed", seed, 0)
    generator = torch.Generator().manual_seed(seed)
    drawn = [measure(torch.randn(n, d, generator=generator), max_points=max_points) for _ in range(draws)]
    return {name: sum(values[name] for values in drawn) / draws for name in MEASURES}


def _subsample(points: Tensor, most: int, seed: int) -> Tensor:
    """At most so many points, at random, in the order they had."""
    n = len(points)
    if n <= most:
        return points
    chosen = np.sort(np.random.default_rng(seed).choice(n, size=most, replace=False))
    return points[torch.from_numpy(chosen).to(points.device)]
