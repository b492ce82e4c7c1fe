"""Losses that compare two clouds whose rows correspond, by the edges that decide their barcodes.

For clouds X and Z, with the distances A, each over a quantile of its own, and pi the edges that decide a barcode,

    TopologicalSignatureLoss  |A_X[pi_X] - A_Z[pi_X]|² / 2 + |A_X[pi_Z] - A_Z[pi_Z]|² / 2 (Moor, Horn, Rieck, Borgwardt 2020)
    RTDLoss                   sum of the H1 bars of [[0, A_X], [A_X, min(A_X, A_Z)]] (Barannikov, Trofimov, Balabin, Burnaev 2022)

Each may look forward only, from X to Z, backward only, or both ways.

Singular input. Equal clouds have the loss zero with gradient zero, and so has a cloud alone, which is compared with itself.
Duplicates make bars of length zero, and coincident points get no gradient. (A precomputed distance of zero is a variable like
any other distance.) A single point has no bars. What a collapsed cloud costs, one whose points are all equal, is said for
each loss.

Gradients flow into the lengths of the critical edges, in both clouds. Which edges these are, and which of several equal
distances is a quantile of them, is decided without gradient.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from simplicial_reg._autocast import autocast_off
from simplicial_reg._checks import check_choice, check_count, check_number, computable
from simplicial_reg.barcode import Barcode, MetricChoice, lengths_of, rips_barcode
from simplicial_reg.regularizers._base import by_label
from simplicial_reg.regularizers.topological import RipsLoss, power_sum

__all__ = ["RTDLoss", "TopologicalSignatureLoss"]

WAYS = {"forward": (True, False), "backward": (False, True), "both": (True, True)}

LengthOf = Callable[[Tensor], Tensor]


class _ComparisonLoss(RipsLoss):
    """A loss of two clouds whose rows correspond.

    A subclass says what it is for distances ``(..., n, n)``, without gradient, that the edges are found in, and functions that give
    the lengths of edges ``(..., k, 2)``, with gradient.
    """

    def __init__(
        self, *, direction: str, quantile: float | None, metric: MetricChoice, engine: str, per_label: bool
    ) -> None:
        super().__init__(metric=metric, engine=engine, per_label=per_label)
        check_choice("direction", direction, WAYS)
        check_number("quantile", quantile, above=0, most=1, optional=True)
        self.direction = direction
        self.quantile = quantile

    def forward(
        self,
        points: Tensor | Sequence[Tensor],
        other: Tensor | Sequence[Tensor] | None = None,
        *,
        mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """The loss of a pair of clouds, or the mean over a batch of pairs.

        Args:
            points: floating tensor ``(n, d)`` or ``(B, n, d)``, or a list of ``(n_i, d)``. Half precision is computed in float32.
            other: the same points elsewhere, row by row: ``(n, d')``, ``(B, n, d')``, or a list of ``(n_i, d')``. None compares
                the cloud with itself, which is 0, and warns.
            mask: bool ``(n,)`` or ``(B, n)``, True where the point is real, in both clouds.
            labels: integer ``(n,)`` or ``(B, n)``, of both clouds; read only with ``per_label=True``, and then required.

        Returns:
            A scalar, float32, or float64 if either cloud is, on their device.

        Raises:
            TypeError: if points are not floating, mask is not bool or labels are not integers.
            ValueError: for wrong shapes, clouds that do not correspond, or if labels are missing.
        """
        if other is None:
            warnings.warn(
                f"{type(self).__name__} compares two clouds, and other was not given: the loss of a cloud and itself is 0; "
                "pass the same points elsewhere, such as the inputs or the hidden states of the frozen model, as other",
                UserWarning,
                stacklevel=4,  # the caller of the module: forward is called by two functions of nn.Module
            )
            return super().forward(points, mask=mask, labels=labels)
        points, other, mask = _corresponding(points, other, mask, self.metric)
        with autocast_off(points):
            if self.per_label:
                other, _ = by_label(other, mask, labels)
                points, mask = by_label(points, mask, labels)
            return self.pair_losses(points, other, mask).mean()

    def cloud_losses(self, points: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of each cloud and itself, ``(...)``: zero, with gradient zero."""
        return self.pair_losses(points, points, mask)

    def pair_losses(self, points: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of each pair of clouds, ``(...)``; arguments as for `cloud_losses`, the mask for both."""
        x, x_length = self._lengths(points, mask)
        z, z_length = self._lengths(other, mask)
        forward, backward = WAYS[self.direction]
        losses = [self.one_way(x, z, x_length, z_length, mask)] if forward else []
        losses += [self.one_way(z, x, z_length, x_length, mask)] if backward else []
        return sum(losses[1:], losses[0])

    def one_way(self, x: Tensor, z: Tensor, x_length: LengthOf, z_length: LengthOf, mask: Tensor | None) -> Tensor:
        """The loss ``(...)`` in one direction."""
        raise NotImplementedError

    def _lengths(self, points: Tensor, mask: Tensor | None) -> tuple[Tensor, LengthOf]:
        """All distances without gradient, and the function that gives those along edges with gradient, both over their quantile."""
        distances, length_of = lengths_of(points, mask, self.metric)
        if self.quantile is None:
            return distances, length_of
        scale = _quantile(distances, length_of, mask, self.quantile)
        return distances / scale.detach().unsqueeze(-1), lambda edge: length_of(edge) / scale


def _corresponding(
    points: Tensor | Sequence[Tensor], other: Tensor | Sequence[Tensor], mask: Tensor | None, metric: MetricChoice
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Both clouds as tensors of one type, with the mask of both."""
    is_list = isinstance(points, (list, tuple))
    if is_list != isinstance(other, (list, tuple)):
        raise TypeError(
            f"points and other must both be tensors or both be lists; got {type(points).__name__} and {type(other).__name__}"
        )
    x, mask = computable(points, mask, metric)
    z, _ = computable(other, None, metric)
    x_rows, z_rows = (
        [len(cloud) for cloud in clouds] if is_list else tuple(tensor.shape[:-1])
        for clouds, tensor in ((points, x), (other, z))
    )
    if x_rows != z_rows:
        raise ValueError(f"other must have as many points as points, row by row: {x_rows}; got {z_rows}")
    if z.device != x.device:
        raise ValueError(f"other must be on the device of points, {x.device}; got {z.device}")
    z, _ = computable(z, mask, metric)  # once more, now that the mask is known to fit
    dtype = torch.promote_types(x.dtype, z.dtype)
    return x.to(dtype), z.to(dtype), mask


class TopologicalSignatureLoss(_ComparisonLoss):
    """How much the edges that decide the barcode of one cloud differ in length from the same edges in the other.

    With the distances A, each over a quantile of its own, and pi the death edges of the H0 bars (the minimum spanning tree),

        forward  |A_X[pi_X] - A_Z[pi_X]|² / 2        backward  |A_X[pi_Z] - A_Z[pi_Z]|² / 2

    X is ``points``, Z is ``other``, and "both" is the sum. In higher dimensions the entries are persistences, the length of the death
    edge less that of the birth edge; of the other cloud, whose edges come in another order, they may be negative.

    Invariant to translation, to joint permutation and, for the euclidean metric, to rotation of either cloud; with a quantile also to
    their scales.

    For equal clouds it is zero, with gradient zero. A collapsed cloud has distances zero; against a cloud that is not it costs half
    the squares of the other's edges in both directions, and its points get no gradient.

    Args:
        max_dim: highest homology dimension; they are added up from 0.
        squared: False takes the norms ``|.| / 2`` instead of their squares. The gradient of a norm zero is zero.
        direction: "both", "forward" (edges of ``points``) or "backward" (edges of ``other``).
        quantile: the distances of each cloud are divided by this quantile of them, of all n² entries, with gradient; 1 is the largest.
            If it is zero, the largest is taken. None leaves them as they are.
        metric: as for `rips_barcode`, of both clouds.
        engine: as for `rips_barcode`.
        per_label: one pair of clouds for each label, instead of one for all points.

    Returns:
        A scalar, not negative; without a quantile in the square of the metric's unit.

    Raises:
        TypeError: if a number is not one.
        ValueError: for an unknown name or a quantile that is not in (0, 1].

    Source:
        Moor, Horn, Rieck, Borgwardt 2020, "Topological autoencoders". With ``squared=False`` it is ``SignatureLoss`` of
        torch-topological for H0: ``quantile=1.0`` is its ``normalise=True``, from which our default comes, and ``quantile=None`` its
        ``normalise=False``.

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [3.0]])
        >>> other = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
        >>> TopologicalSignatureLoss(quantile=None)(points, other)  # in both directions edges 1, 2 and 1, 1
        tensor(1.)
    """

    def __init__(
        self,
        max_dim: int = 0,
        *,
        squared: bool = True,
        direction: str = "both",
        quantile: float | None = 1.0,
        metric: MetricChoice = "euclidean",
        engine: str = "auto",
        per_label: bool = False,
    ) -> None:
        super().__init__(direction=direction, quantile=quantile, metric=metric, engine=engine, per_label=per_label)
        check_count("max_dim", max_dim, 0)
        self.max_dim = max_dim
        self.squared = squared

    def one_way(self, x: Tensor, z: Tensor, x_length: LengthOf, z_length: LengthOf, mask: Tensor | None) -> Tensor:
        """Half the squared difference ``(...)`` along the edges of the first cloud, or half its norm."""
        total = x.new_zeros(())
        for bars in rips_barcode(x, self.max_dim, mask=mask, metric="precomputed", engine=self.engine):
            difference = _along(bars, x_length) - _along(bars, z_length)
            square = difference.square().sum(-1)
            zero = square == 0
            norm = torch.where(zero, 0, torch.where(zero, 1, square).sqrt())
            total = total + (square if self.squared else norm) / 2
        return total


def _along(bars: Barcode, length_of: LengthOf) -> Tensor:
    """Persistences ``(..., k)`` by another length of the edges; padding has edges (0, 0), of length zero."""
    death = length_of(bars.death_edge)
    return death if bars.dim == 0 else death - length_of(bars.birth_edge)


class RTDLoss(_ComparisonLoss):
    """Representation topology divergence: by how much two clouds differ in the scales at which their points connect.

    With the distances A, each over a quantile of its own, the H1 bars of the 2n points with distances

        forward  [[0, A_X], [A_X, min(A_X, A_Z)]]        backward  [[0, A_Z], [A_Z, min(A_X, A_Z)]]

    are, for forward, components that Z joins before X does and loops that Z has and X has not; for backward the reverse. The loss is
    the sum of their lengths to ``power``; X is ``points``, Z is ``other``, and "both" is the mean. It is exact, not an
    approximation by samples, and its gradient flows into both clouds.

    Invariant to translation, to joint permutation and, for the euclidean metric, to rotation of either cloud; with a quantile also to
    their scales.

    For equal clouds it is zero, with gradient zero. A collapsed cloud has distances zero. Against a cloud that is not it costs half
    the length (of "both", for power 1) of the other's minimum spanning tree, and its points get no gradient. Where equal distances meet
    in the minimum, each cloud gets half of the gradient.

    Args:
        power: positive.
        direction: "both", "forward" or "backward".
        quantile: the distances of each cloud are divided by this quantile of them, of all n² entries, with gradient. If it is zero,
            the largest is taken. None leaves them as they are.
        metric: as for `rips_barcode`, of both clouds.
        engine: as for `rips_barcode`; it is asked for H1 of twice as many points.
        per_label: one pair of clouds for each label, instead of one for all points.

    Returns:
        A scalar, not negative; without a quantile in the metric's unit to ``power``.

    Raises:
        TypeError: if a number is not one.
        ValueError: for an unknown name, a power that is not positive, or a quantile that is not in (0, 1].

    Source:
        Barannikov, Trofimov, Balabin, Burnaev 2022, "Representation topology divergence: a method for comparing neural network
        representations"; the quantile 0.9 and the mean of both directions are those of the authors' code.

    Example:
        >>> square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> line = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> RTDLoss(quantile=None)(square, line)  # (√2 - 1) / 2: the line has no loop
        tensor(0.2071)
        >>> RTDLoss()(square, 5 * square)
        tensor(0.)
    """

    def __init__(
        self,
        *,
        power: float = 1.0,
        direction: str = "both",
        quantile: float | None = 0.9,
        metric: MetricChoice = "euclidean",
        engine: str = "auto",
        per_label: bool = False,
    ) -> None:
        super().__init__(direction=direction, quantile=quantile, metric=metric, engine=engine, per_label=per_label)
        check_number("power", power, above=0)
        self.power = power

    def pair_losses(self, points: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of each pair of clouds, ``(...)``."""
        return super().pair_losses(points, other, mask) / sum(WAYS[self.direction])

    def one_way(self, x: Tensor, z: Tensor, x_length: LengthOf, z_length: LengthOf, mask: Tensor | None) -> Tensor:
        """The power sum ``(...)`` of the H1 bars of the doubled cloud; its points n, ..., 2n - 1 carry the minimum."""
        n = x.shape[-1]
        upper = torch.cat([torch.zeros_like(x), x], -1)
        doubled = torch.cat([upper, torch.cat([x, torch.minimum(x, z)], -1)], -2)
        both = None if mask is None else torch.cat([mask, mask], -1)
        loops = rips_barcode(doubled, 1, mask=both, metric="precomputed", engine=self.engine)[1]

        def length(edge: Tensor) -> Tensor:
            lower = edge >= n
            edge = edge % n
            from_x, from_z = x_length(edge), z_length(edge)
            # The upper block, all of zeros, comes first in the total order and is a simplex at once: no bar has an edge there.
            return torch.where(lower.all(-1), torch.minimum(from_x, from_z), from_x)

        return power_sum(_along(loops, length), self.power)


def _quantile(distances: Tensor, length_of: LengthOf, mask: Tensor | None, quantile: float) -> Tensor:
    """A quantile ``(..., 1)`` of the distances of each cloud, diagonal and both triangles, with gradient.

    Interpolated linearly, as by NumPy. If it is zero, the largest distance; if that is zero, 1. Of equal distances the first entries
    count as less.
    """
    n = distances.shape[-1]
    if quantile == 1:
        value = length_of(_largest(distances, mask))
        return torch.where(value == 0, 1, value)
    if mask is None:
        count = torch.full((*distances.shape[:-2], 1), n * n, device=distances.device)
    else:
        distances = torch.where(mask.unsqueeze(-1) & mask.unsqueeze(-2), distances, math.inf)
        count = mask.sum(-1, keepdim=True).square()
    ordered, order = distances.flatten(-2).sort(dim=-1, stable=True)
    last = count - 1
    # float32 counts to 2²⁴ entries exactly, a cloud of 4096 points; mps has nothing better.
    position = last.to(torch.float32 if distances.device.type == "mps" else torch.float64) * quantile
    low = position.floor().long()
    high = torch.minimum(low + 1, last)
    weight = (position - low).to(distances.dtype)
    is_zero = ordered.gather(-1, low).lerp(ordered.gather(-1, high), weight) == 0
    place = torch.where(is_zero, last, torch.cat([low, high], -1))
    entry = order.gather(-1, place)
    low_length, high_length = length_of(torch.stack([entry // n, entry % n], -1)).chunk(2, -1)
    value = low_length + weight * (high_length - low_length)
    return torch.where(value == 0, 1, value)


def _largest(distances: Tensor, mask: Tensor | None) -> Tensor:
    """The edge ``(..., 1, 2)`` of the last of the largest entries of each cloud, without sorting them."""
    n = distances.shape[-1]
    if mask is not None:
        distances = torch.where(mask.unsqueeze(-1) & mask.unsqueeze(-2), distances, -1)
    entry = n * n - 1 - distances.flatten(-2).flip(-1).argmax(-1, keepdim=True)  # argmax is the first
    return torch.stack([entry // n, entry % n], -1)
