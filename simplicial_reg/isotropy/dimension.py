"""Intrinsic dimension of a cloud by three estimators, and hubness: what the distances between points tell.

A cloud of vectors of d coordinates may lie near a manifold of far fewer dimensions. With r_1 <= r_2 <= ... the distances of a
point to its nearest, second nearest, ... neighbour,

    TwoNN    log(r_2 / r_1) is exponential with rate D if the density is constant as far as r_2: D is the slope, through the
             origin, of -log(1 - F) against log(r_2 / r_1), F the empirical distribution function i/N
    MLE      the numbers of neighbours within r are a Poisson process with intensity ~ r^D:
             1/D = mean over points of (1/(k - 1)) sum over j < k of log(r_k / r_j)
    PH       the H0 bars of n points drawn from a D-dimensional measure have a sum ~ n^((D - 1)/D): with m the slope of
             log(sum) against log n over random subsamples, D = 1/(1 - m)
    hubness  skewness of N_k, the number of points that count a point among their k nearest neighbours

TwoNN looks at the smallest scale, and noise has its full dimension there; MLE at that of k neighbours; PH at that of the whole
cloud. None can tell a large dimension from a larger one: where n points are all about equally far from each other, the estimates stay
far below D. So compare an estimate with that of an isotropic Gaussian cloud of the same n and d
(`simplicial_reg.isotropy.null`), never with d.

Everything here depends on distances only, so on no translation or rotation, and on ratios of distances, so on no scale. These are
measures, not losses: they are computed without gradient, sums in float64.

Distances are exact differences of coordinates, as in `simplicial_reg.pairwise_distances`, not |x|² + |y|² - 2 x·y, which makes
neighbours of points that are none where the mean is large. Memory is bounded: beyond 4096 points the rows of the matrix come
in blocks. ``metric="precomputed"`` takes the distances themselves, ``(n, n)``; for another metric than the Euclidean,

    twonn_dimension(pairwise_distances(points, "cosine"), metric="precomputed")

Singular input. Where there is nothing to estimate the result is NaN: one point, two points, a collapsed cloud. Coincident
points have no ratio: TwoNN leaves out the points with r_1 = 0, MLE the pairs with r_j = 0, both from the count, too. If all
ratios are 1 (a regular simplex), no finite dimension explains it and the estimate is infinite.

Sources: Facco, d'Errico, Rodriguez, Laio 2017, "Estimating the intrinsic dimension of datasets by a minimal neighborhood
information"; Levina, Bickel 2004, "Maximum likelihood estimation of intrinsic dimension"; MacKay, Ghahramani 2005, "Comments on
'Maximum likelihood estimation of intrinsic dimension'"; Birdal, Lou, Guibas, Şimşekli 2021, "Intrinsic dimension, persistent
homology and generalization in neural networks"; Radovanović, Nanopoulos, Ivanović 2010, "Hubs in space: popular nearest
neighbors in high-dimensional data".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicial_reg import _ops
from simplicial_reg._autocast import autocast_off
from simplicial_reg._checks import check_choice, check_count, check_number, computable
from simplicial_reg.barcode import rips_barcode

__all__ = ["hubness", "mle_dimension", "ph_dimension", "twonn_dimension"]

METRICS = ("euclidean", "precomputed")
BLOCK = 1 << 24  # distances held at a time: those of 4096 points, 64 MiB in float32
LARGEST = 1000  # points in a subsample of `ph_dimension`
FRACTIONS = tuple(10 ** (power / 7 - 1) for power in range(8))  # of them, from 1/10 to 1, evenly in the logarithm


def twonn_dimension(
    points: Tensor | Sequence[Tensor], *, discard: float = 0.1, metric: str = "euclidean", mask: Tensor | None = None
) -> Tensor:
    """Intrinsic dimension from the distances to the nearest and the second nearest neighbour.

    With x_1 <= ... <= x_N the values of log(r_2/r_1) and y_i = -log(1 - i/N), the slope ``sum x y / sum x²`` through the origin,
    both sums over the first ``floor(N (1 - discard))`` of them. Implementations differ in what they discard (the largest tenth
    here and in scikit-dimension), in F (i/N) and in fitting a line or by maximum likelihood, and in the result.

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``, a list of ``(n_i, d)``, or distances with ``metric="precomputed"``.
        discard: fraction of the ratios that is left out, the largest ones, which reach farthest; in [0, 1). The very
            largest, where F = 1, is left out always.
        metric: "euclidean" or "precomputed".
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.

    Returns:
        ``(...)``, one value per cloud, in (0, inf], without gradient. Points whose nearest neighbour coincides with them are
        left out; NaN if no ratio is left, so for one or two points and for a collapsed cloud.

    Raises:
        TypeError: if points are not floating or mask is not bool.
        ValueError: for a wrong shape, metric or discard, and on the CPU for NaN or infinity.

    Source:
        Facco et al. 2017. The default of discard is that of scikit-dimension.

    Example:
        >>> points = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
        >>> flat = torch.nn.functional.pad(points, (0, 8))  # a square in ten dimensions
        >>> round(twonn_dimension(flat).item())
        2
    """
    check_number("discard", discard, least=0, below=1)
    points, mask = _computable(points, mask, metric)
    with autocast_off(points):
        first, second = _nearest(points, 2, metric, mask).unbind(-1)
        usable = (first > 0) & second.isfinite()
        ratio = torch.where(usable, second, 1) / torch.where(usable, first, 1)
        log_ratio = torch.where(usable, ratio.log(), math.inf).sort(-1).values
        total = usable.sum(-1, keepdim=True).to(ratio.dtype)
        # What is discarded, and the last ratio in any case: its y is infinite.
        last = torch.minimum((total * (1 - discard)).floor(), total - 1)
        rank = torch.arange(1, points.shape[-2] + 1, device=points.device)
        kept = rank <= last
        x = torch.where(kept, log_ratio, 0)
        y = torch.where(kept, -torch.log1p(-rank / total), 0)
        slope = (x * y).sum(-1) / x.square().sum(-1)
        vertical = kept.any(-1) & (x == 0).all(-1)
        return torch.where(vertical, math.inf, slope).to(points.dtype)


def mle_dimension(
    points: Tensor | Sequence[Tensor], *, k: int = 20, metric: str = "euclidean", mask: Tensor | None = None
) -> Tensor:
    """Intrinsic dimension from the distances to the k nearest neighbours, by maximum likelihood.

    The inverse of the mean of log(r_k / r_j), over the points and over j = 1, ..., k - 1. Levina and Bickel take the mean of the
    points' dimensions; this is the inverse of the mean of their inverses, which MacKay and Ghahramani derive: the mean of the
    logarithms is 1/D in expectation, whatever k is.

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``, a list of ``(n_i, d)``, or distances with ``metric="precomputed"``.
        k: number of neighbours, at least 2. A cloud of fewer other points uses them all.
        metric: "euclidean" or "precomputed".
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.

    Returns:
        ``(...)``, one value per cloud, in (0, inf], without gradient. Pairs of coincident points are left out; NaN if no ratio is
        left, so for one or two points and for a collapsed cloud.

    Raises:
        TypeError: if points are not floating, mask is not bool or k is not an int.
        ValueError: for a wrong shape, metric or k, and on the CPU for NaN or infinity.

    Source:
        Levina and Bickel 2004, with the average of MacKay and Ghahramani 2005. The default of k is that of scikit-dimension.

    Example:
        >>> points = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
        >>> flat = torch.nn.functional.pad(points, (0, 8))  # a square in ten dimensions
        >>> round(mle_dimension(flat).item())
        2
    """
    check_count("k", k, 2)
    points, mask = _computable(points, mask, metric)
    with autocast_off(points):
        nearest = _nearest(points, k, metric, mask)
        usable = (nearest > 0) & nearest.isfinite()
        last = torch.where(usable, nearest, 0).amax(-1, keepdim=True)
        log_ratio = torch.where(usable, torch.where(usable, last, 1) / torch.where(usable, nearest, 1), 1).log()
        # The last neighbour of every point is the one that the others are compared with: log(r_k / r_k) = 0 is no term.
        terms = usable.sum((-2, -1)) - usable.any(-1).sum(-1)
        return (terms / log_ratio.sum((-2, -1))).to(points.dtype)


def ph_dimension(
    points: Tensor | Sequence[Tensor],
    *,
    sizes: Sequence[int] | None = None,
    repeats: int = 4,
    seed: int = 0,
    metric: str = "euclidean",
    mask: Tensor | None = None,
) -> Tensor:
    """Intrinsic dimension from the growth of the sum of H0 bars with the number of points.

    ``1/(1 - m)``, with m the least-squares slope of the log of the sum of all finite H0 bars against log n, over ``repeats`` random
    subsamples of each size, drawn without replacement.

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``, a list of ``(n_i, d)``, or distances with ``metric="precomputed"``.
        sizes: numbers of points in a subsample, each at least 2 and at most the number of real points. Default: eight, evenly spaced in the
            logarithm from a tenth of the cloud to the whole, at most 1000 points.
        repeats: number of subsamples of each size.
        seed: of the random subsamples. They are the same on every device, and for every cloud of a batch, so that the
            value of a cloud does not depend on what is beside it. It depends on the order of the points.
        metric: "euclidean" or "precomputed".
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.

    Returns:
        ``(...)``, one value per cloud, without gradient: infinite if the sum grows like n or faster; about 1 or less if it
        does not grow, as for clusters that are far apart. NaN if there are fewer than three points or if all points of a
        subsample coincide.

    Raises:
        TypeError: if points are not floating, mask is not bool, or sizes, repeats or seed are not integers.
        ValueError: for a wrong shape, metric, sizes, repeats or seed, and on the CPU for NaN or infinity.

    Source:
        Birdal et al. 2021. In their code the sizes are 200, 250, ..., 950, once each; the default here suits small clouds, too.

    Example:
        >>> points = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
        >>> flat = torch.nn.functional.pad(points, (0, 8))  # a square in ten dimensions
        >>> round(ph_dimension(flat).item())
        2
    """
    check_count("repeats", repeats, 1)
    check_count("seed", seed, 0)
    points, mask = _computable(points, mask, metric)
    counts = np.array([points.shape[-2]]) if mask is None else mask.sum(-1).reshape(-1).cpu().numpy()  # (1,) or (B,)
    wanted = _sizes(sizes, counts)
    with autocast_off(points):
        real = None if mask is None else (~mask).to(torch.int8).argsort(dim=-1, stable=True)
        sums = [
            _sum_of_bars(points, real, _chosen(counts, size, (seed, at, again)), size, metric)
            for at, size in enumerate(wanted)
            for again in range(repeats)
        ]
        log_sum = torch.stack(sums).log().unflatten(0, (len(wanted), repeats)).mean(1)  # (sizes, ...)
        log_size = torch.from_numpy(np.log(wanted)).to(log_sum)
        if log_sum.ndim == 1:
            log_size = log_size[:, 0]
        x = log_size - log_size.mean(0)
        slope = (x * log_sum).sum(0) / x.square().sum(0)
        return torch.where(slope >= 1, math.inf, 1 / (1 - slope)).to(points.dtype)


def hubness(
    points: Tensor | Sequence[Tensor], *, k: int = 10, metric: str = "euclidean", mask: Tensor | None = None
) -> Tensor:
    """Skewness of the k-occurrences: whether few points are near neighbours of many.

    ``mean (N - k)³ / (mean (N - k)²)^(3/2)``, with N the number of points that have a point among their k nearest neighbours, not
    counting itself. Of neighbours that are equally far, each counts in part, so that ties need no order.

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``, a list of ``(n_i, d)``, or distances with ``metric="precomputed"``.
        k: number of neighbours, at least 1.
        metric: "euclidean" or "precomputed".
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.

    Returns:
        ``(...)``, one value per cloud, without gradient: 0 if no point is a neighbour more often than another, large if
        there are hubs. NaN if there are at most k other points, which are then all neighbours, and for a collapsed cloud.

    Raises:
        TypeError: if points are not floating, mask is not bool or k is not an int.
        ValueError: for a wrong shape, metric or k, and on the CPU for NaN or infinity.

    Source:
        Radovanović et al. 2010. The default of k is our choice.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> for d in (3, 300):  # hubs come with the dimension
        ...     print(round(hubness(torch.randn(500, d, generator=generator)).item(), 1))
        -0.5
        4.5
    """
    check_count("k", k, 1)
    points, mask = _computable(points, mask, metric)
    with autocast_off(points):
        n = points.shape[-2]
        count = torch.tensor(n, device=points.device) if mask is None else mask.sum(-1)
        occurrences = torch.zeros(points.shape[:-1], dtype=_wide(points), device=points.device)
        spread = torch.zeros(points.shape[:-2], dtype=points.dtype, device=points.device)
        for _, distances in _blocks(points, metric, mask):
            farthest = distances.topk(min(k, n), largest=False).values[..., -1:]
            tied = (distances == farthest) & farthest.isfinite()
            closer = distances < farthest
            places = (k - closer.sum(-1, keepdim=True)) / tied.sum(-1, keepdim=True).clamp_min(1)
            occurrences += torch.where(tied, places, closer.to(places.dtype)).sum(-2, dtype=occurrences.dtype)
            spread = torch.maximum(spread, torch.where(distances.isfinite(), distances, 0).amax((-2, -1)))
        excess = occurrences - k if mask is None else torch.where(mask, occurrences - k, 0)
        variance = excess.square().sum(-1) / count
        even = variance <= (1e-5 * k) ** 2  # parts of a place do not sum up to it exactly
        skewness = excess.pow(3).sum(-1) / count / torch.where(even, 1, variance).pow(1.5)
        undefined = (count <= k + 1) | (spread == 0)
        return torch.where(undefined, math.nan, torch.where(even, 0, skewness)).to(points.dtype)


def _computable(points: Any, mask: Any, metric: str) -> tuple[Tensor, Tensor | None]:
    check_choice("metric", metric, METRICS)
    points, mask = computable(points, mask, metric)
    return points.detach(), mask


def _wide(points: Tensor) -> torch.dtype:
    return torch.float32 if points.device.type == "mps" else torch.float64  # mps has no float64


def _nearest(points: Tensor, k: int, metric: str, mask: Tensor | None) -> Tensor:
    """Ascending distances (..., n, k) to the k nearest other points, infinite where there are not so many."""
    rows = []
    for _, distances in _blocks(points, metric, mask):
        nearest = distances.topk(min(k, distances.shape[-1]), largest=False).values
        rows.append(torch.nn.functional.pad(nearest, (0, k - nearest.shape[-1]), value=math.inf))
    return torch.cat(rows, -2).to(_wide(points))


def _blocks(points: Tensor, metric: str, mask: Tensor | None) -> Iterator[tuple[int, Tensor]]:
    """The first row and the rows (..., r, n) of blocks of the distances; infinite to itself, and from and to what is not real."""
    clouds, n = math.prod(points.shape[:-2]), points.shape[-2]
    step = n if metric == "precomputed" or clouds * n * n <= BLOCK else max(1, math.isqrt(BLOCK // clouds) // 4)
    for start in range(0, n, step):
        stop = min(start + step, n)
        if metric == "precomputed":
            distances = _ops.symmetrized(points, "points")
        elif step == n:
            distances = _ops.pairwise_lengths(points, metric)
        else:
            distances = _rows(points, start, stop, step)
        itself = torch.arange(start, stop, device=points.device).unsqueeze(-1) == torch.arange(n, device=points.device)
        absent = itself if mask is None else itself | ~(mask[..., start:stop, None] & mask[..., None, :])
        yield start, torch.where(absent, math.inf, distances)


def _rows(points: Tensor, start: int, stop: int, step: int) -> Tensor:
    """Distances (..., stop - start, n) of some points to all, ``step`` columns at a time.

    The kernel computes all distances among the points of two blocks and half of them are thrown away; still, it is many times
    faster than torch.cdist by differences.
    """
    rows = points[..., start:stop, :]
    return torch.cat(
        [
            _ops.pairwise_lengths(torch.cat([rows, columns], -2), "euclidean")[..., : stop - start, stop - start :]
            for columns in points.split(step, -2)
        ],
        -1,
    )


def _sizes(sizes: Sequence[int] | None, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Numbers of points (sizes, B) in the subsamples of clouds of so many points."""
    if sizes is None:
        wanted = np.rint(np.minimum(counts, LARGEST) * np.array(FRACTIONS)[:, None]).astype(np.int64)
        least: npt.NDArray[np.int64] = np.minimum(counts, 2)
        return np.where(wanted < least, least, wanted)
    for size in sizes:
        check_count("sizes", size, 2)
    if len(set(sizes)) < 2:
        raise ValueError(f"sizes must hold at least two different numbers of points; got {list(sizes)}")
    if max(sizes) > counts.min():
        raise ValueError(
            f"sizes must not exceed the number of points, {counts.min()}, from which they are drawn without replacement; got {max(sizes)}"
        )
    return np.repeat(np.array(sizes, dtype=np.int64)[:, None], len(counts), 1)


def _chosen(counts: npt.NDArray[np.int64], size: npt.NDArray[np.int64], seed: Sequence[int]) -> npt.NDArray[np.int64]:
    """Row by row a random selection of 0, ..., count - 1: the first ``size`` entries of each row (B, largest size)."""
    keys = np.random.default_rng(seed).random(counts.max())  # those of a smaller cloud are the first ones of a larger
    keyed = np.where(np.arange(counts.max()) < counts[:, None], keys, math.inf)
    chosen: npt.NDArray[np.int64] = keyed.argsort(axis=1, kind="stable")[:, : size.max()]
    return chosen


def _sum_of_bars(
    points: Tensor, real: Tensor | None, chosen: npt.NDArray[np.int64], size: npt.NDArray[np.int64], metric: str
) -> Tensor:
    """Sum (...) of the H0 bars of the chosen points of each cloud, counted among the real ones, which ``real`` lists first."""
    most = chosen.shape[1]
    index = torch.from_numpy(chosen).to(points.device)
    index = index[0] if points.ndim == 2 else index.expand(len(points), most)
    if real is not None:
        index = real.gather(-1, index)
    sample = torch.take_along_dim(points, index.unsqueeze(-1), -2)
    if metric == "precomputed":
        sample = torch.take_along_dim(sample, index.unsqueeze(-2), -1)
    mask = None
    if (size < most).any():
        mask = torch.from_numpy(np.arange(most) < size[:, None]).to(points.device)
    bars = rips_barcode(sample, mask=mask, metric=metric)[0]
    return bars.persistence.sum(-1, dtype=_wide(points))
