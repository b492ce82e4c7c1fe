"""How far the figures of a layer would be elsewhere if other sequences had been drawn.

The tokens of one sequence are not independent, so whole sequences are drawn again, never tokens. Two ways to do that:

    bootstrap      each of 200 replicates draws as many sequences as there are, with replacement. A sequence that is drawn w times
                   gives its points the weight w, so that a replicate of a mean, a covariance or a mean cosine is a product of
                   matrices: all replicates together cost about as much as the matrix of the points' inner products.
    half-samples   each of 12 replicates is a random half of the sequences. For figures made of distances, where a point that
                   is there twice would have a neighbour at distance 0, and for those that need a decomposition or a barcode for
                   each replicate. With v the variance of a figure over halves, its standard error is the root of
                   v kept / left out; the interval is that of Student's t with 11 degrees of freedom (with fewer sequences,
                   one less than these).

Halves, and not a jackknife over ten groups: that multiplies the differences between its replicates by the root of 10 - 1, also what
the random subsamples inside of `ph_dimension` add to them; with halves the factor is 1.

What is used of the replicates is how they lie about their own centre (median or mean), and this is put around the figure: a
replicate has fewer different points than the sample, and most figures depend on that number. Intervals end where the range of
the figure ends.

Sources: Efron 1979, "Bootstrap methods: another look at the jackknife"; Shao and Wu 1989, "A general theory for jackknife
variance estimation" (leaving out many).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicial_reg._moments import directions
from simplicial_reg.isotropy.spectrum import isoscore_of, participation_ratio_null, ratio_of

__all__ = ["Integers", "Offsets", "bootstrap", "of_halves", "outlier_shares", "replicates"]

REPLICATES = 200
HALVES = 12
# 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201)
OUTLIER = 5.0  # times the mean variance, as in `outlier_dimension_share`
BLOCK = 1024  # rows of the matrix of inner products at a time

Offsets = tuple[float, float]
"""Where an interval begins and ends, relative to the figure."""
Integers = npt.NDArray[np.int64]


def outlier_shares(variances: Tensor) -> Tensor:
    """Shares of the variance ``(..., d)``, zero for coordinates that are no outlier dimensions."""
    shares = variances / _or_one(variances.sum(-1, keepdim=True))
    return torch.where(shares >= OUTLIER / variances.shape[-1], shares, 0)


def bootstrap(points: Tensor, sequence: Integers, pairs: Tensor, seed: int) -> dict[str, Offsets]:
    """Intervals of what means, covariances and cosines determine.

    Args:
        points: ``(m, d)``, float64.
        sequence: ``(m,)``, which of the sequences 0, 1, ..., G - 1 a point is in.
        pairs: ``(p, 2)``, the points of the pairs of the sampled mean cosine.
        seed: of the draw.

    Returns:
        Offsets by the name of the figure.
    """
    groups = int(sequence.max()) + 1
    drawn = np.random.default_rng((seed, 1)).multinomial(groups, np.full(groups, 1 / groups), size=REPLICATES)
    weight = torch.from_numpy(drawn[:, sequence].astype(np.float64))  # (R, m)
    return {name: _about_median(values) for name, values in replicates(points, weight, pairs).items()}


def replicates(points: Tensor, weight: Tensor, pairs: Tensor) -> dict[str, Tensor]:
    """The figures ``(R,)`` of the points ``(m, d)`` with weights ``(R, m)``; with weights one, those of the points.

    Pairs of a point and its own copy do not count in cosines. NaN if a replicate is a single point.
    """
    d = points.shape[1]
    origin = points.mean(0)
    y = points - origin
    norms, squares = points.norm(dim=1), y.square().sum(1)
    n = weight.sum(1)
    shift = weight @ y / n[:, None]  # of the mean, (R, d)
    length = shift.square().sum(1)
    along = y @ shift.mT  # (m, R)
    two = n.square() - weight.square().sum(1)  # weight of the pairs of different points

    unit = directions(points)
    cosine = ((weight @ unit).square().sum(1) - weight.square() @ unit.square().sum(1)) / two

    # Directions from the mean of each replicate. A point that rounding cannot tell from that mean has none.
    distance = (squares[:, None] - 2 * along + length).clamp_min(0)
    away = distance > 1e-12 * (squares[:, None] + length)
    part = torch.where(away, weight.mT / torch.where(away, distance, 1).sqrt(), 0)  # (m, R)
    total = part.mT @ y - part.sum(0)[:, None] * shift
    centred = (total.square().sum(1) - (part.square() * distance).sum(0)) / two

    variance = (weight @ y.square() - n[:, None] * shift.square()).clamp_min(0)  # (R, d)
    trace = variance.sum(1)
    squared_norm = _squared_norm(y, weight) - 2 * n * (weight.mT * along.square()).sum(0) + n.square() * length.square()
    squared_norm = squared_norm.maximum(trace.square() / d)  # what has cancelled to less has no more to tell
    ratio = ratio_of(trace, squared_norm, d)
    mean_norm = weight @ norms / n
    spread = weight @ norms.square() / n - mean_norm.square()
    first, second = pairs.unbind(1)
    twice = weight[:, first] * weight[:, second]
    return {
        "mean_cosine": cosine,
        "mean_cosine_sampled": twice @ (unit[first] * unit[second]).sum(1) / twice.sum(1),
        "mean_cosine_centred": centred,
        "drift_ratio": (origin + shift).norm(dim=1) / _or_one(mean_norm),
        "participation_ratio": ratio,
        "participation_ratio_over_null": ratio / participation_ratio_null(len(points), d),
        "isoscore_star": isoscore_of(trace, squared_norm, d),
        "outlier_share": outlier_shares(variance).sum(1),
        "norm_mean": mean_norm,
        "norm_std": (spread.clamp_min(0) * n / (n - 1)).sqrt(),
    }


def _squared_norm(y: Tensor, weight: Tensor) -> Tensor:
    """``||sum w y y'||²`` of every replicate, ``sum over i, j of w_i w_j (y_i . y_j)²``, without the sums themselves."""
    norm = torch.zeros_like(weight[:, 0])
    for start in range(0, len(y), BLOCK):
        rows = slice(start, start + BLOCK)
        norm += ((weight[:, rows] @ (y[rows] @ y.mT).square()) * weight).sum(1)
    return norm


def _half_samples(sequence: Integers, seed: int) -> Iterator[Integers]:
    """Indices of the points of random halves of the sequences 0, 1, ..., G - 1, in ascending order."""
    groups = int(sequence.max()) + 1
    generator = np.random.default_rng((seed, 2))
    for _ in range(HALVES):
        kept = np.zeros(groups, dtype=bool)
        kept[generator.permutation(groups)[: _half(groups)]] = True
        yield np.flatnonzero(kept[sequence])


def of_halves(figures: Callable[[Any], Mapping[str, float]], sequence: Integers, seed: int) -> dict[str, Offsets]:
    """Intervals of figures that are computed of the points with given indices.

    Args:
        figures: from indices of points, figures by name.
        sequence: ``(m,)``, which of the sequences 0, 1, ..., G - 1 a point is in.
        seed: of the halves.

    Returns:
        Offsets by the name of the figure; NaN if one of the halves has no finite figure.
    """
    groups = int(sequence.max()) + 1
    found = [figures(torch.from_numpy(half)) for half in _half_samples(sequence, seed) if len(half) > 1]
    if len(found) < 2:
        return {}
    kept = _half(groups)
    quantile = STUDENT[min(len(found), groups) - 2]
    offsets = {}
    for name in found[0]:
        variance = (
            float(np.var([one[name] for one in found], ddof=1))
            if all(math.isfinite(one[name]) for one in found)
            else math.nan
        )
        half_width = quantile * math.sqrt(variance * kept / (groups - kept))
        offsets[name] = (-half_width, half_width)
    return offsets


def _half(groups: int) -> int:
    return (groups + 1) // 2


def _about_median(values: Tensor) -> Offsets:
    low, median, high = values.nanquantile(values.new_tensor([0.025, 0.5, 0.975])).tolist()
    return low - median, high - median


def _or_one(unit: Tensor) -> Tensor:
    return torch.where(unit == 0, 1, unit)
