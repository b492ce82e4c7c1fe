"""The figures of one layer, of any number of points in one pass.

What a mean and a covariance determine, the mean cosine and the outlier dimensions are exact: they are those of all points, from
float64 sums (`simplicial_reg.isotropy.Moments`, and the sum of the unit vectors). The rest is that of a uniform random sample
of the points, which stays the same size however many points come: the ``sample`` points with the smallest random keys
(Efraimidis, Spirakis 2006). Layers whose points are given the same keys have the same tokens in their samples. Memory is
O(d² + sample d) for a layer.

    of all points               mean cosine, drift ratio, participation ratio, IsoScore*, top-k shares, outlier share, norms
    of the sample               sampled and centred mean cosine, quantiles of norms
    of 1,024 points of it       partition ratio, entropy, prominent bars, dimensions, bars

Intervals are 95 % and come from resampling sequences of the sample (`simplicial_reg.diagnose._intervals`). Where a figure is that of all
points and the sample has points of fewer sequences, its interval is made narrower by the root of the ratio of these numbers. It
is still too wide rather than too narrow, because a sequence has more points than the sample has of it.

Singular input. A layer of fewer than two points, or where a point holds NaN or infinity, has an error and no figures. Points that all
coincide have the values that the functions of `simplicial_reg.isotropy` give them; their dimensions are NaN. One sequence gives
figures without intervals.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicial_reg._moments import centred, directions
from simplicial_reg.barcode import rips_barcode
from simplicial_reg.diagnose._intervals import Integers, Offsets, bootstrap, of_halves, outlier_shares
from simplicial_reg.diagnose.record import DEFINITIONS, Estimate, Layer
from simplicial_reg.distances import pairwise_distances
from simplicial_reg.isotropy import (
    MEASURES,
    Moments,
    mean_cosine,
    participation_ratio_null,
    partition_ratio,
)
from simplicial_reg.isotropy.moments import eigenvalues
from simplicial_reg.isotropy.spectrum import isoscore_star_of, ratio_of

__all__ = ["LayerStream"]

DISTANCES = 1024  # points of which all distances are computed
PAIRS = 1000
TOP = (1, 3, 10)
SPECTRUM, OUTLIERS = 512, 8  # how many are listed
FEW = 10  # sequences, below which an interval is little more than a hint
BLOCK = 16384  # points that are turned into float64 at a time
OF_DISTANCES = tuple(name for name, definition in DEFINITIONS.items() if definition.needs == "distances")
STREAMED = ("mean_cosine", *(name for name, definition in DEFINITIONS.items() if definition.needs == "moments"))


class LayerStream:
    """What is kept of a layer while its points go by, and the figures that are made of it.

    Args:
        name: of the layer.
        depth: of the layer, in [0, 1].
        sample: how many points are kept.
        seed: of what is drawn for the figures.

    Example:
        >>> stream = LayerStream("block 1", 1.0, sample=64)
        >>> generator = torch.Generator().manual_seed(0)
        >>> for batch in range(10):
        ...     points = torch.randn(100, 8, generator=generator)
        ...     stream.add(points, np.arange(100) // 20 + 5 * batch, np.random.default_rng(batch).random(100))
        >>> layer = stream.layer()
        >>> layer.points, layer.sequences, layer.sampled
        (1000, 50, 64)
        >>> cosine = layer.measures["mean_cosine"]
        >>> cosine.low < cosine.value < cosine.high
        True
    """

    def __init__(self, name: str, depth: float, *, sample: int = 2048, seed: int = 0) -> None:
        self.name, self.depth, self.sample, self.seed = name, depth, sample, seed
        self.width = self.points = self.not_finite = 0
        self._moments, self._norms = Moments(), Moments()
        self._sum_of_units: Tensor | float = 0.0
        self._not_zero = 0
        self._least, self._most = math.inf, 0.0
        self._sequences = 0
        self._kept: Tensor | None = None
        self._sequence: Integers = np.empty(0, dtype=np.int64)
        self._keys: npt.NDArray[np.float64] = np.empty(0)

    def add(self, points: Tensor, sequence: Integers, keys: npt.NDArray[np.float64]) -> None:
        """Take in some points.

        Args:
            points: floating tensor ``(n, d)``.
            sequence: ``(n,)``, the number of the sequence that a point is in; all points of a sequence come in one call.
            keys: ``(n,)``, independent and uniform in [0, 1): the points with the smallest ones are the sample.
        """
        if not len(points):
            return
        points = points.detach()
        self._sequences += len(np.unique(sequence))
        self.width, self.points = points.shape[1], self.points + len(points)
        for block in points.split(BLOCK):
            self.not_finite += int((~block.isfinite().all(1)).sum())
            if not self.not_finite:  # else there will be no figures
                self._sum(block.cpu().double() if block.device.type == "mps" else block.double())
        if self.not_finite:
            self._kept = None
        else:
            self._keep(points, sequence, keys)

    def layer(self) -> Layer:
        """The figures of the points so far."""
        layer = Layer(self.name, self.depth, self.width, self.points, self._sequences)
        if self.not_finite:
            layer.error = f"{self.not_finite:,} of {_count(self.points, 'point')} hold NaN or infinity"
        elif self.points < 2:
            layer.error = f"{_count(self.points, 'point')}: figures need at least 2"
        else:
            self._fill(layer)
        return layer

    @property
    def elements(self) -> int:
        """How many numbers are kept: it does not grow with the number of points."""
        kept = 0 if self._kept is None else self._kept.numel() + len(self._keys) + len(self._sequence)
        buffers = (*self._moments.buffers(), *self._norms.buffers())
        return kept + sum(buffer.numel() for buffer in buffers) + self.width

    def _sum(self, points: Tensor) -> None:
        self._moments.update(points)
        norms = points.norm(dim=1)
        self._norms.update(norms.unsqueeze(1))
        self._sum_of_units = directions(points).sum(0) + self._sum_of_units
        self._not_zero += int((norms > 0).sum())
        self._least, self._most = min(self._least, float(norms.min())), max(self._most, float(norms.max()))

    def _keep(self, points: Tensor, sequence: Integers, keys: npt.NDArray[np.float64]) -> None:
        if len(self._keys) >= self.sample:
            near = np.flatnonzero(keys < self._keys.max())
        else:
            near = np.arange(len(keys))
        found = points[torch.from_numpy(near).to(points.device)].cpu()
        found = found if found.dtype == torch.float64 else found.float()
        kept = found if self._kept is None else torch.cat([self._kept, found])
        all_keys = np.concatenate([self._keys, keys[near]])
        all_sequences = np.concatenate([self._sequence, sequence[near]])
        chosen = _smallest(all_keys, self.sample)
        self._kept, self._keys, self._sequence = kept[torch.from_numpy(chosen)], all_keys[chosen], all_sequences[chosen]

    def _fill(self, layer: Layer) -> None:
        kept = self._kept
        if kept is None:  # for the type checker: there are at least two points
            return
        points = kept.double()
        sequences, sequence = np.unique(self._sequence, return_inverse=True)
        few = _smallest(self._keys, DISTANCES)
        near = kept[torch.from_numpy(few)]
        distances = pairwise_distances(near)
        layer.sampled = len(few)
        covariance = self._moments.covariance.cpu()
        spectrum = eigenvalues(covariance)
        pairs = torch.from_numpy(_pairs(len(points), self.seed))

        values = {
            **self._streamed(covariance, spectrum),
            **_sampled(points, pairs),
            **_close(near, distances),
        }
        offsets: dict[str, Offsets] = {}
        if len(sequences) > 1:
            offsets = bootstrap(points, sequence, pairs, self.seed)
            offsets |= of_halves(lambda half: _top(_spectrum(kept[half])), sequence, self.seed)
            narrow = math.sqrt(len(sequences) / self._sequences)
            offsets |= {
                name: (low * narrow, high * narrow) for name, (low, high) in offsets.items() if name in STREAMED
            }
            part = np.unique(sequence[few], return_inverse=True)[1]
            if part.max() > 0:
                offsets |= of_halves(lambda half: _close(near[half], distances[half][:, half]), part, self.seed)
        layer.measures = {name: _estimate(name, values[name], offsets.get(name)) for name in DEFINITIONS}
        layer.outliers = self._outliers(covariance)
        layer.spectrum = _shares(spectrum)[:SPECTRUM].tolist()
        layer.bars = rips_barcode(distances, metric="precomputed")[0].persistence.sort().values.tolist()
        layer.norms = self._norm_figures(points)
        layer.notes = self._notes(distances)

    def _streamed(self, covariance: Tensor, eigenvalues: Tensor) -> dict[str, float]:
        """Figures of all points."""
        n, d, moments = self.points, self.width, self._moments
        units = torch.as_tensor(self._sum_of_units)
        ratio = float(ratio_of(covariance.trace(), covariance.square().sum(), d))
        mean_norm = float(moments.mean_norm)
        return {
            "mean_cosine": (float(units.square().sum()) - self._not_zero) / (n * (n - 1)),
            "drift_ratio": float(moments.mean.norm()) / mean_norm if mean_norm else 0.0,
            "participation_ratio": ratio,
            "participation_ratio_over_null": ratio / participation_ratio_null(n, d),
            "isoscore_star": float(isoscore_star_of(covariance)),
            **_top(eigenvalues),
            "outlier_share": float(outlier_shares(covariance.diagonal()).sum()),
            "norm_mean": mean_norm,
            "norm_std": math.sqrt(float(self._norms.covariance)),
        }

    def _outliers(self, covariance: Tensor) -> list[dict[str, float]]:
        shares = outlier_shares(covariance.diagonal())
        largest = shares.argsort(descending=True, stable=True)[: min(OUTLIERS, int((shares > 0).sum()))]
        return [
            {
                "dimension": at,
                "share": float(shares[at]),
                "variance_ratio": float(shares[at]) * self.width,
                "mean": float(self._moments.mean[at]),
            }
            for at in largest.tolist()
        ]

    def _norm_figures(self, points: Tensor) -> dict[str, float]:
        norms = points.norm(dim=1)
        low, median, high = norms.quantile(norms.new_tensor([0.05, 0.5, 0.95])).tolist()
        return {
            "mean": float(self._norms.mean),
            "std": math.sqrt(float(self._norms.covariance)),
            "min": self._least,
            "q05": low,
            "median": median,
            "q95": high,
            "max": self._most,
        }

    def _notes(self, distances: Tensor) -> list[str]:
        n, d, notes = self.points, self.width, []
        if n <= 10 * d:
            expected = participation_ratio_null(n, d)
            score = (expected - 1) / (d - 1) if d > 1 else 1.0
            few = f" vary in at most {_count(n - 1, 'direction')}" if n <= d else ""
            notes.append(
                f"{_count(n, 'point')} in {_count(d, 'dimension')}{few}: even an isotropic cloud of this size has participation ratio "
                f"{expected:.3g} and IsoScore* {score:.2g}; what is that low is explained by the number of points"
            )
        if self._sequences == 1:
            notes.append("one sequence: no intervals, which come from drawing other sequences")
        elif self._sequences < FEW:
            notes.append(f"{self._sequences} sequences: the intervals are rough")
        alone = (distances == 0).sum(1) == 1
        if not bool(alone.any()):
            notes.append("all sampled points coincide with others: the dimensions and bars tell of repetitions")
        elif (again := int((~alone).sum())) > len(alone) / 100:
            notes.append(
                f"{again:,} of {len(alone):,} sampled points coincide with others, as the embeddings of equal tokens may: the bars of "
                "length 0 lower the entropy, and TwoNN and MLE leave these points out"
            )
        return notes


def _sampled(points: Tensor, pairs: Tensor) -> dict[str, float]:
    """Figures of the sample."""
    first, second = directions(points)[pairs].unbind(1)
    return {
        "mean_cosine_sampled": float((first * second).sum(1).mean()),
        "mean_cosine_centred": float(mean_cosine(points, centred=True)),
    }


def _close(points: Tensor, distances: Tensor) -> dict[str, float]:
    """Figures of points of which all distances are known."""
    return {
        "partition_ratio": float(partition_ratio(points)),
        **{name: float(MEASURES[name].function(distances, metric="precomputed")) for name in OF_DISTANCES},
    }


def _spectrum(points: Tensor) -> Tensor:
    """Eigenvalues of the covariance in descending order, in some unit."""
    deviations = centred(points, None)
    wide = len(points) < points.shape[1]
    return eigenvalues(deviations @ deviations.mT if wide else deviations.mT @ deviations)


def _shares(eigenvalues: Tensor) -> Tensor:
    total = eigenvalues.sum()
    if not total:  # as `top_variance_share` has it: nothing varies, and the first direction holds all of it
        return torch.cat([torch.ones_like(eigenvalues[:1]), torch.zeros_like(eigenvalues[1:])])
    return eigenvalues / total


def _top(eigenvalues: Tensor) -> dict[str, float]:
    """Shares of the first eigenvalues."""
    shares = _shares(eigenvalues)
    return {f"top_{k}_variance_share": float(shares[:k].sum()) for k in TOP}


def _estimate(name: str, value: float, offsets: Offsets | None) -> Estimate:
    """Within the range of the figure, which rounding may leave."""
    low, high = float(DEFINITIONS[name].low), float(DEFINITIONS[name].high)
    value = value if math.isnan(value) else min(high, max(low, value))
    if offsets is None or not math.isfinite(value) or not all(map(math.isfinite, offsets)):
        return Estimate(value)
    return Estimate(value, min(value, max(low, value + offsets[0])), max(value, min(high, value + offsets[1])))


def _pairs(n: int, seed: int) -> Integers:
    """Random pairs of different numbers below n, ``(pairs, 2)``."""
    generator = np.random.default_rng((seed, 3))
    first, step = generator.integers(n, size=PAIRS), generator.integers(1, n, size=PAIRS)
    return np.stack([first, (first + step) % n], axis=1)


def _smallest(keys: npt.NDArray[np.float64], most: int) -> Integers:
    """Where the smallest keys are, at most so many, in ascending order."""
    if len(keys) <= most:
        return np.arange(len(keys))
    return np.sort(np.argpartition(keys, most)[:most])


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
