"""Count, mean and covariance of any number of points, in one pass and in the memory of one covariance.

Two sets of points with counts n_a, n_b, means m_a, m_b and scatter matrices C = sum (x - m)(x - m)' have together

    n = n_a + n_b,   m = m_a + delta n_b / n,   C = C_a + C_b + delta delta' n_a n_b / n,   delta = m_b - m_a.

Nothing is ever subtracted from a sum of squares, so points far from the origin lose no digits, and neither the order of the
batches nor how the points are cut into batches matters beyond rounding. All of it is done in float64, whatever the type of
the points: the same sums in float32 would be wrong by 1e-7 and more, relative, and no longer independent of the cut.

No gradient: the points are read, not differentiated. Points that are masked out do not count. One point, and points that are
all equal, have the covariance zero, exactly. The covariance is over count - 1, at least 1.

mps has no float64: there the moments stay on the CPU, and the points are copied to them.

Source: Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance: analysis and recommendations".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from simplicial_reg._autocast import autocast_off
from simplicial_reg._checks import check_number, computable
from simplicial_reg._moments import centred
from simplicial_reg.isotropy.spectrum import (
    entropy_of,
    isoscore_star_of,
    participation_ratio_null,
    rankme_of,
    ratio_of,
)

__all__ = ["Moments", "eigenvalues"]

BLOCK = 16384  # rows that are turned into float64 at a time
BUFFERS = ("count", "mean", "mean_norm", "scatter")


class Moments(nn.Module):
    """Streaming count, mean and covariance of points.

    A module, so that the moments are saved and restored with the model that holds it, and move with it; a restored object takes
    its width from what is restored. They stay float64 when the model is cast to another type. Memory is O(d²),
    however many points there are, and the cost of n of them O(n d²).

    Attributes:
        count: number of points, a float64 scalar (a number of points becomes a weight by `forget`).
        mean: ``(d,)``, float64, in the unit of the points; ``(0,)`` before the first point.
        mean_norm: mean of the lengths of the points, a float64 scalar.
        scatter: ``(d, d)``, float64, sum of the outer products of the deviations from the mean.

    Example:
        >>> import torch
        >>> moments = Moments()
        >>> for batch in torch.tensor([[[1.0, 0], [-1, 0]], [[0, 1], [0, -1]]]):
        ...     moments = moments.update(batch)
        >>> moments.covariance
        tensor([[0.6667, 0.0000],
                [0.0000, 0.6667]], dtype=torch.float64)
        >>> moments.measure()["isoscore"]
        1.0
    """

    count: Tensor
    mean: Tensor
    mean_norm: Tensor
    scatter: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, shape in (("count", ()), ("mean", (0,)), ("mean_norm", ()), ("scatter", (0, 0))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    @property
    def width(self) -> int:
        """Number of coordinates d; 0 before the first point."""
        return self.mean.shape[0]

    @property
    def covariance(self) -> Tensor:
        """Covariance of the points so far, ``(d, d)``, float64, over count - 1; zero for one point.

        Raises:
            RuntimeError: before the first point.
        """
        self._check_not_empty()
        return self.scatter / (self.count - 1).clamp_min(1)

    def covariance_like(self, points: Tensor) -> Tensor:
        """`covariance` in the type and on the device of the points, by one pass over the (d, d) numbers less.

        Raises:
            RuntimeError: before the first point.
        """
        self._check_not_empty()
        return self.scatter.to(points) / (self.count - 1).clamp_min(1).to(points)

    @property
    def second_moment(self) -> Tensor:
        """Mean outer product of the points, ``(d, d)``, float64: the covariance about the origin instead of the mean.

        Raises:
            RuntimeError: before the first point.
        """
        self._check_not_empty()
        return self.scatter / torch.where(self.count == 0, 1, self.count) + torch.outer(self.mean, self.mean)

    def update(self, points: Tensor | Sequence[Tensor], mask: Tensor | None = None) -> Moments:
        """Add points; a batch of clouds is one set of points.

        The moments move to the device of the points (except mps). The points are turned into float64 in blocks of rows, so that a
        memory-mapped tensor of any length may be passed at once.

        Args:
            points: floating tensor ``(n, d)`` or ``(B, n, d)``, or a list of ``(n_i, d)``.
            mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.

        Returns:
            Itself.

        Raises:
            TypeError: if points are not floating or mask is not bool.
            ValueError: for wrong shapes, or if the number of coordinates is not that of the points before.
        """
        # Under inference mode the buffers would become tensors that cannot be trained with.
        with torch.inference_mode(False), torch.no_grad():
            points, mask = computable(points, mask)
            self._begin(points.shape[-1], points.device)
            with autocast_off(points):
                rows, real = points.flatten(0, -2), None if mask is None else mask.flatten()
                for start in range(0, len(rows), BLOCK):
                    block = rows[start : start + BLOCK].to(self.mean.device).to(torch.float64)
                    self._add(*_moments(block, None if real is None else real[start : start + BLOCK].to(block.device)))
        return self

    def merge(self, other: Moments) -> Moments:
        """Add the points of other moments, for instance those of another process, which stay as they are.

        Returns:
            Itself.

        Raises:
            ValueError: if both have points, of different numbers of coordinates.
        """
        if other.width:
            with torch.inference_mode(False), torch.no_grad():
                self._begin(other.width, self.mean.device if self.width else other.mean.device)
                self._add(*(getattr(other, name).to(self.mean.device) for name in BUFFERS))
        return self

    def forget(self, decay: float) -> Moments:
        """Let every point so far count for decay of a point: mean and second moment stay, count and scatter shrink.

        Args:
            decay: in [0, 1]. Before each batch, it makes of the moments an exponential moving average.

        Returns:
            Itself.

        Raises:
            TypeError: if decay is not a number.
            ValueError: if decay is not in [0, 1].
        """
        check_number("decay", decay, least=0, most=1)
        with torch.inference_mode(False), torch.no_grad():
            self.count, self.scatter = self.count * decay, self.scatter * decay
        return self

    def reset(self) -> Moments:
        """Forget all points, and their width.

        Returns:
            Itself.
        """
        self._resize(0)
        return self

    def measure(self, *, shrinkage: float = 0.0, covariance: Tensor | None = None) -> dict[str, float]:
        """All measures that a mean and a covariance determine, under the names of the functions that compute them from points.

        Effective rank and RankMe come from eigenvalues here, so that singular values below about 1e-7 of the largest are
        taken for zero.

        Args:
            shrinkage: for "isoscore_star", as in `isoscore_star`.
            covariance: for "isoscore_star", ``(d, d)``.

        Returns:
            "participation_ratio", "participation_ratio_over_null", "isoscore", "isoscore_star", "effective_rank", "rankme",
            "top_variance_share", "top_second_moment_share" and "drift_ratio" (length of the mean over mean length).

        Raises:
            RuntimeError: before the first point.
            ValueError: as `isoscore_star`.
        """
        own, about_origin = self.covariance, self.second_moment
        ratio = ratio_of(own.trace(), own.square().sum(), self.width)
        variances, squares = eigenvalues(own), eigenvalues(about_origin)
        drift = torch.where(self.mean_norm == 0, 0, self.mean.norm() / self.mean_norm)
        measures = {
            "participation_ratio": ratio,
            "participation_ratio_over_null": ratio / participation_ratio_null(max(float(self.count), 1), self.width),
            "isoscore": isoscore_star_of(own),
            "isoscore_star": isoscore_star_of(own, shrinkage, covariance),
            "effective_rank": entropy_of(variances.sqrt()).exp(),
            "rankme": rankme_of(squares.sqrt(), self.count),
            "top_variance_share": _top_share(variances),
            "top_second_moment_share": _top_share(squares),
            "drift_ratio": drift.clamp(max=1),
        }
        return {name: float(value) for name, value in measures.items()}

    def extra_repr(self) -> str:
        """What has been counted, for ``repr``."""
        return f"count={float(self.count):g}, width={self.width}"

    def _check_not_empty(self) -> None:
        if not self.width:
            raise RuntimeError("there are no points yet, so there is no covariance; call update(points) first")

    def _begin(self, width: int, device: torch.device) -> None:
        if not self.width:
            self._resize(width)
        elif width != self.width:
            raise ValueError(
                f"points must have {self.width} coordinates, as those before; got {width}; or call reset() first"
            )
        if self.mean.device != device:
            self.to(device)

    def _resize(self, width: int) -> None:
        for name, shape in (("count", ()), ("mean", (width,)), ("mean_norm", ()), ("scatter", (width, width))):
            setattr(self, name, torch.zeros(shape, dtype=torch.float64, device=self.mean.device))

    def _add(self, count: Tensor, mean: Tensor, mean_norm: Tensor, scatter: Tensor) -> None:
        total = self.count + count
        share = count / total.clamp_min(1e-300)  # nothing and nothing are together nothing
        delta = mean - self.mean
        self.scatter = self.scatter + scatter + torch.outer(delta, delta * (self.count * share))
        self.mean = self.mean + delta * share
        self.mean_norm = self.mean_norm + (mean_norm - self.mean_norm) * share
        self.count = total

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Moments:
        # What `.half()` and `.to(torch.bfloat16)` cast is floating; under the name of integers the bits are only moved.
        for name in BUFFERS:
            buffer = getattr(self, name)
            moved = fn(buffer.view(torch.int64))
            if moved.device.type == "mps":
                continue
            setattr(self, name, moved.view(torch.float64) if moved.dtype == torch.int64 else buffer.to(moved.device))
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(prefix + "mean")
        if saved is not None:
            self._resize(saved.shape[0])
        super()._load_from_state_dict(state_dict, prefix, *args)
        for name in BUFFERS:  # with assign=True they are now the saved tensors themselves, of whatever type
            setattr(self, name, getattr(self, name).to(torch.float64))


def _moments(points: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Count, mean, mean length and scatter of points ``(n, d)``, float64; none of them may be real."""
    count = points.new_tensor(len(points)) if mask is None else mask.sum().to(points.dtype)
    deviations = centred(points, mask)
    # The mean by way of one point and its deviation, so that a constant coordinate has exactly its value as the mean. (The
    # first point is real if any is; if not, it and its deviation are zero.)
    first = points.new_zeros(1, dtype=torch.int64) if mask is None else mask.to(torch.int8).argmax(0, keepdim=True)
    mean = (points.index_select(0, first) - deviations.index_select(0, first)).squeeze(0)
    mean_norm = points.norm(dim=-1).sum() / count.clamp_min(1)
    return count, mean, mean_norm, deviations.mT @ deviations


def eigenvalues(matrix: Tensor) -> Tensor:
    """Eigenvalues in descending order, exactly zero where rounding cannot tell them from zero."""
    values = torch.linalg.eigvalsh(matrix).flip(-1)
    floor = values[:1] * (len(matrix) * torch.finfo(values.dtype).eps)
    return torch.where(values > floor, values, 0)


def _top_share(values: Tensor) -> Tensor:
    total = values.sum()
    return torch.where(total == 0, 1, values[0] / torch.where(total == 0, 1, total))
