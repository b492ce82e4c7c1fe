"""Measures as torchmetrics, to be followed while a model trains or is evaluated.

A measure of isotropy is not additive: that of an epoch is not the mean over its batches. So there are two classes.

    BatchMeasure     the mean of the measure over the batches; cheap, keeps three numbers. What it says is that of a cloud as
                     small as a batch, so compare it with `simplicial_reg.isotropy.null` at the batch's n.
    PooledMeasure    the measure of the points of all batches together, or of a uniform random sample of them, which it keeps.

Both take points ``(n, d)`` or ``(B, n, d)`` and a mask, work on several ranks, and carry no gradient. torchmetrics is imported here
and nowhere else in the package (extra "lightning"). For covariances of more points than fit in memory there is
`simplicial_reg.isotropy.moments.Moments`.

Source of the sampling: the points with the smallest of independent random keys are a uniform sample without replacement, and
so are the smallest of several such samples together (Efraimidis, Spirakis 2006, "Weighted random sampling with a
reservoir", with equal weights).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplicial_reg._checks import check_choice, check_count, computable
from simplicial_reg.isotropy import MEASURES

try:
    from torchmetrics import Metric
    from torchmetrics.utilities import dim_zero_cat
except ImportError as error:
    raise ImportError(
        'simplicial_reg.isotropy.metrics needs torchmetrics: pip install "simplicial_reg[lightning]"'
    ) from error

__all__ = ["BatchMeasure", "PooledMeasure"]

BETTER = {"high": True, "low": False, None: None}


class _OfMeasure(Metric):  # type: ignore[misc]  # an extra, whose types are not looked into
    """A metric that knows the name of its measure."""

    is_differentiable = False
    measure: str

    def __init__(self, measure: str, **kwargs: Any) -> None:
        check_choice("measure", measure, MEASURES)
        super().__init__(**kwargs)
        self.measure = measure

    @property
    def higher_is_better(self) -> bool | None:
        """Whether isotropic clouds are at the high end; None where they are at neither."""
        return BETTER[MEASURES[self.measure].isotropic]


class BatchMeasure(_OfMeasure):
    """Mean of a measure over batches.

    Args:
        measure: a name in ``MEASURES``.
        kwargs: what every torchmetrics ``Metric`` takes.

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> metric = BatchMeasure("participation_ratio")
        >>> metric.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))  # a line
        >>> metric.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))  # a plane
        >>> metric.compute()
        tensor(1.5000)
    """

    full_state_update = False
    total: Tensor
    count: Tensor
    undefined: Tensor

    def __init__(self, measure: str = "isoscore_star", **kwargs: Any) -> None:
        super().__init__(measure, **kwargs)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("undefined", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, points: Tensor | Sequence[Tensor], mask: Tensor | None = None) -> None:
        """Measure a batch.

        Args:
            points: ``(n, d)``, one cloud, or ``(B, n, d)`` or a list of ``(n_i, d)``, clouds of equal weight.
            mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.
        """
        points, mask = computable(points, mask)
        values = MEASURES[self.measure].function(points.detach(), mask=mask)
        finite = values.isfinite()
        self.total += torch.where(finite, values, 0).sum().to(self.total.dtype)
        self.count += finite.sum()
        self.undefined += (~finite).sum()

    def compute(self) -> Tensor:
        """Mean over the clouds whose value is finite; NaN if there is none. ``undefined`` counts the others."""
        return self.total / self.count


class PooledMeasure(_OfMeasure):
    """A measure of the points of all batches together.

    Beyond ``max_points`` points it is that of a uniform random sample of so many. The sample is the same for the same seed, order of
    batches and number of ranks, on every device. In a distributed run each rank keeps a sample, and all compute the measure of
    the same sample of these; every rank must have seen a batch.

    A covariance of few points has a bias (`participation_ratio_null`): for the measures of the spectrum ``max_points`` should
    be many times d.

    Args:
        measure: a name in ``MEASURES``.
        max_points: most points that are kept.
        seed: of the sample.
        kwargs: what every torchmetrics ``Metric`` takes.

    Raises:
        TypeError: if max_points or seed are not ints.
        ValueError: for an unknown name, or numbers that are too small.

    Example:
        >>> metric = PooledMeasure("participation_ratio")
        >>> metric.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        >>> metric.update(torch.tensor([[0.0, 1.0], [0.0, -1.0]]))
        >>> metric.compute()
        tensor(2.)
    """

    full_state_update = True  # the keys of a batch depend on how many points came before it
    points: list[Tensor] | Tensor
    keys: list[Tensor] | Tensor
    seen: Tensor

    def __init__(self, measure: str = "isoscore_star", *, max_points: int = 4096, seed: int = 0, **kwargs: Any) -> None:
        check_count("max_points", max_points, 1)
        check_count("seed", seed, 0)
        super().__init__(measure, **kwargs)
        self.max_points = max_points
        self.seed = seed
        self.add_state("points", [], dist_reduce_fx="cat")
        self.add_state("keys", [], dist_reduce_fx="cat")
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, points: Tensor | Sequence[Tensor], mask: Tensor | None = None) -> None:
        """Add a batch; the host waits for an accelerator, because what is kept depends on how many points are real.

        Args:
            points: ``(n, d)`` or ``(B, n, d)``, or a list of ``(n_i, d)``.
            mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.
        """
        points, mask = computable(points, mask)
        real = points.detach().flatten(0, -2) if mask is None else points.detach()[mask]
        stream = np.random.default_rng((self.seed, _rank(), int(self.seen)))
        keys = torch.from_numpy(stream.integers(2**62, size=len(real))).to(real.device)
        kept, kept_keys = self._smallest([*self.points, real], [*self.keys, keys])
        self.points, self.keys = [kept], [kept_keys]
        self.seen += len(real)

    def compute(self) -> Tensor:
        """The measure of the sample; NaN before the first batch."""
        if len(self.points) == 0:
            return torch.tensor(torch.nan, device=self.device)
        points, _ = self._smallest(self.points, self.keys)
        return MEASURES[self.measure].function(points)

    def _smallest(self, points: list[Tensor] | Tensor, keys: list[Tensor] | Tensor) -> tuple[Tensor, Tensor]:
        """The points with the smallest keys, and these, in the order they came."""
        all_points, all_keys = dim_zero_cat(points), dim_zero_cat(keys)
        if len(all_keys) <= self.max_points:
            return all_points, all_keys
        chosen = all_keys.argsort(stable=True)[: self.max_points].sort().values
        return all_points[chosen], all_keys[chosen]


def _rank() -> int:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if distributed else 0
