"""Losses of the barcode of a Vietoris-Rips filtration, and of two barcodes of corresponding clouds.

With the bars of one homology dimension, of lengths l_1, ..., l_k, shares p_i = l_i / sum l and q_i = l_i / mean l,

    PersistentEntropyLoss     D = log k - H(p), or log(D + floor), or the Rényi deficit D_a = log k - H_a(p)
    TotalPersistenceLoss      sum l_i^power (Cohen-Steiner, Edelsbrunner, Harer, Mileyko 2010)
    ConnectivityLoss          sum |eta - l_i|, H0 (Hofer, Kwitt, Niethammer, Dixit 2019)

and for clouds X and Z whose rows correspond, with the distances A and the edges pi that decide their barcodes,

    TopologicalSignatureLoss  |A_X[pi_X] - A_Z[pi_X]|² / 2 + |A_X[pi_Z] - A_Z[pi_Z]|² / 2 (Moor, Horn, Rieck, Borgwardt 2020)
    RTDLoss                   sum of the H1 bars of [[0, A_X], [A_X, min(A_X, A_Z)]] (Barannikov, Trofimov, Balabin, Burnaev 2022)

The Rényi entropy of order a (Rényi 1961) is H_a = log(sum p_i^a) / (1 - a), so that with c = a - 1

    D_a = log(mean q_i^a) / c = log(1 + c mean g(q_i)) / c,    g(q) = q (q^c - 1) / c - (q - 1) >= 0

in which nothing cancels: neither in even barcodes, where q is 1, nor near a = 1, where g(q) is q log q - (q - 1) and D_a
is D. The limit a = inf is D_inf = log(k max p_i), a function of the longest bar and the mean.

Singular input. Duplicates make bars of length zero, and coincident points get no gradient. (A precomputed distance of zero
gets none from entropies and sums of powers either; to the other losses it is a variable like any other distance.) A single
point has no bars. What a collapsed cloud costs, one whose points are all equal, is said for each loss.

Gradients flow into the lengths of the critical edges. Which edges these are, which bars are features, and which of several
equal distances is a quantile of them, is decided without gradient.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from simplicial_reg._autocast import autocast_off
from simplicial_reg._checks import check_choice, check_max_dim, computable
from simplicial_reg.barcode import Barcode, MetricChoice, _lengths, masked, rips_barcode
from simplicial_reg.distances import METRICS
from simplicial_reg.engines import ENGINES
from simplicial_reg.entropy import entropy_deficit
from simplicial_reg.prominence import METHODS, prominent
from simplicial_reg.regularizers._base import Regularizer, by_label

__all__ = [
    "ConnectivityLoss",
    "PersistentEntropyLoss",
    "RTDLoss",
    "TopologicalSignatureLoss",
    "TotalPersistenceLoss",
    "renyi_deficit",
    "shrink_the_longest",
]

FORMS = ("deficit", "log-deficit", "renyi")
SIGNS = {"published": -1.0, "corrected": 1.0}
DIRECTIONS = {"decrease": 1.0, "increase": -1.0}
COMPARISONS = {"forward": (True, False), "backward": (False, True), "both": (True, True)}
FLOOR = 1e-6


class _RipsLoss(Regularizer):
    """What the losses here share: a metric and an engine."""

    metric: MetricChoice
    engine: str

    def __init__(self, *, metric: MetricChoice, engine: str, per_label: bool) -> None:
        super().__init__(per_label=per_label)
        if not callable(metric):
            check_choice("metric", metric, (*METRICS, "precomputed"))
        check_choice("engine", engine, ("auto", *ENGINES))
        if per_label and metric == "precomputed":
            raise ValueError(
                'per_label must be False with metric="precomputed": distances are not grouped by label; '
                "pass one matrix for each label, as a list"
            )
        self.metric = metric
        self.engine = engine


class _BarcodeLoss(_RipsLoss):
    """A loss that is a sum over homology dimensions of a function of their bars."""

    max_dim: int

    def __init__(self, max_dim: int, *, metric: MetricChoice, engine: str, per_label: bool) -> None:
        super().__init__(metric=metric, engine=engine, per_label=per_label)
        check_max_dim(max_dim)
        self.max_dim = max_dim

    def cloud_losses(self, points: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of each cloud, ``(...)``."""
        barcode = rips_barcode(points, self.max_dim, mask=mask, metric=self.metric, engine=self.engine)
        first, *others = (self.bar_loss(bars) for bars in barcode)
        return sum(others, first)

    def bar_loss(self, bars: Barcode) -> Tensor:
        """The contribution ``(...)`` of the bars of one homology dimension."""
        raise NotImplementedError


class PersistentEntropyLoss(_BarcodeLoss):
    """Unevenness of the barcode: what its persistent entropy lacks to the largest there is, ``log k - H``.

    Minimising it maximises persistent entropy: long bars shrink, short ones grow, and the cloud becomes as evenly spread as it
    can. The contributions of the homology dimensions are added.

    Invariant to translation, scale, permutation and, for the euclidean metric, rotation; with ``within`` not to scale.

    Collapse costs ``log k``, the most that k bars can cost, and has gradient zero, so no way leads out of it; a barcode of one
    bar, or of none, costs 0. Here "costs" is before the logarithm of "log-deficit", which makes them ``log(log k + floor)`` and
    ``log(floor)``. With ``prominent`` the duplicates of a point are noise and are not seen: a cloud of k places, many points
    at each, is judged by the k - 1 bars between them.

    Args:
        max_dim: highest homology dimension; they are added up from 0.
        metric: as for `rips_barcode`.
        engine: as for `rips_barcode`.
        per_label: one cloud for each label, instead of one for all points.
        prominent: None, or the method ("agr2017", "agr2016", "shrink-the-longest") by which `prominent` tells features from
            noise; then the entropy is that of the features only, k is their number, and the loss of a cloud without
            features is that of a cloud without bars.
        within: weight of the mean length of the noise bars, 0 if there are none. A positive weight contracts clusters. It
            needs ``prominent``.
        form: "deficit", D. "log-deficit", ``log(D + floor)``: D of an isotropic cloud is small already, about 0.1 / d for
            normal points in a large number d of dimensions, and so is its gradient, which goes as sqrt(D); the logarithm measures
            the relative deficit and keeps it. "renyi", the deficit of the Rényi entropy of order ``alpha``.
        alpha: order of "renyi", positive: the larger, the more the longest bars count. With the default, infinity, the
            longest bar shrinks and all others grow alike: ``log(k max p)``. Equally long longest bars share the gradient
            evenly. 1 is "deficit".
        floor: what "log-deficit" adds to D before it takes the logarithm. The gradient goes as sqrt(D) / (D + floor), largest
            at D = floor. The default is far below the deficit of an isotropic cloud in up to some thousand dimensions
            and far above what rounding makes of equally long bars, less than 1e-11 in float32, and less than 1e-8 if the
            points were rounded to bfloat16.

    Returns:
        A scalar; for "deficit" and "renyi" without ``within`` from 0 (all bars of a dimension equally long) to the sum over
        dimensions of ``log k``.

    Raises:
        ValueError: for an unknown name, an ``alpha`` or ``floor`` that is not positive, or ``within`` without ``prominent``.

    Source:
        Persistent entropy: Chintakunta, Gentimis, Gonzalez-Diaz, Jimenez, Krim 2015. As a loss, on H0 with prominent features:
        Kudriashov, Karpik, Klyshinsky 2025, arXiv 2501.05502 (see `shrink_the_longest`). The floor is ours.

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [3.0], [4.0]])  # bars 1, 1, 2
        >>> PersistentEntropyLoss()(points)  # log 3 - 3/2 log 2
        tensor(0.0589)
        >>> PersistentEntropyLoss(form="renyi")(points)  # log(3 · 1/2)
        tensor(0.4055)
    """

    def __init__(
        self,
        max_dim: int = 0,
        *,
        metric: MetricChoice = "euclidean",
        engine: str = "auto",
        per_label: bool = False,
        prominent: str | None = None,
        within: float = 0.0,
        form: str = "deficit",
        alpha: float = math.inf,
        floor: float = FLOOR,
    ) -> None:
        super().__init__(max_dim, metric=metric, engine=engine, per_label=per_label)
        if prominent is not None:
            check_choice("prominent", prominent, METHODS)
        check_choice("form", form, FORMS)
        if not math.isfinite(within):
            raise ValueError(f"within must be a finite weight; got {within}")
        if within != 0 and prominent is None:
            raise ValueError(
                f'within weighs the bars that are noise, so prominent must say which are; got within={within}; use prominent="agr2016"'
            )
        _check_positive("alpha", alpha, at_most=math.inf)
        _check_positive("floor", floor)
        self.prominent = prominent
        self.within = within
        self.form = form
        self.alpha = alpha
        self.floor = floor

    def bar_loss(self, bars: Barcode) -> Tensor:
        """The contribution ``(...)`` of the bars of one homology dimension."""
        if self.prominent is None:
            return self._unevenness(bars)
        features = prominent(bars, self.prominent).mask
        noise = bars.mask & ~features
        # Bars of length zero are never features. Were they left out of a collapsed cloud, it would have no bars and cost nothing.
        collapsed = (bars.persistence.detach() == 0).all(-1, keepdim=True)
        loss = self._unevenness(masked(replace(bars, mask=features | (collapsed & bars.mask))))
        return loss + self.within * _masked_mean(bars.persistence, noise) if self.within else loss

    def _unevenness(self, bars: Barcode) -> Tensor:
        if self.form == "renyi":
            return renyi_deficit(bars, self.alpha)
        deficit = entropy_deficit(bars)
        return deficit if self.form == "deficit" else (deficit + self.floor).log()


def shrink_the_longest(*, sign: str = "published") -> PersistentEntropyLoss:
    """The loss of "Shrink the longest", to repeat its experiments.

    Per class, on H0, with the prominent features as that paper's code selects them. The paper's loss is the *sum* over the classes of
    the batch of ``-H - 0.05 mean(noise)``, H the entropy of the features. Ours is the *mean* over classes, so its weight is the
    number of classes in the batch times the paper's (which is 1); and ``log k - H``, which differs from ``-H`` by a constant wherever
    the number of features is, so that the gradients agree. Where the paper's code divides by zero or fails (fewer than four bars,
    bars of length zero or equally long), this loss is finite.

    Args:
        sign: "published": the noise bars get *longer*, as in the training code, which subtracts the whole term. "corrected": they
            get shorter, as the description of the term there says.

    Returns:
        A `PersistentEntropyLoss` with ``per_label=True``: it must be called with labels.

    Raises:
        ValueError: for an unknown sign.

    Source:
        Kudriashov, Karpik, Klyshinsky 2025, arXiv 2501.05502, and its training notebook for the weight 0.05.

    Example:
        >>> shrink_the_longest().within, shrink_the_longest(sign="corrected").within
        (-0.05, 0.05)
    """
    check_choice("sign", sign, SIGNS)
    return PersistentEntropyLoss(per_label=True, prominent="shrink-the-longest", within=0.05 * SIGNS[sign])


def renyi_deficit(bars: Barcode, alpha: float = math.inf) -> Tensor:
    """What the Rényi entropy of the shares of total persistence lacks to the largest that so many bars can have, in nats.

    ``log k + log(sum p^alpha) / (alpha - 1)``; for alpha = 1 `entropy_deficit`, for alpha = inf ``log(k max p)``. It grows with
    alpha. As `entropy_deficit` it is computed in float64 (except on mps) without cancellation.

    Args:
        bars: a barcode of finite bars whose tensors are ``(..., k)``, in any unit: the deficit does not depend on scale.
        alpha: order, positive; may be infinite.

    Returns:
        ``(...)``, one value per cloud, in [0, log k] for k bars: 0 if they are equally long (so for one bar and for none), log k
        if one bar holds everything. For bars that are all of length zero log k. Bars of length zero have gradient zero; for
        infinite alpha bars that are the longest together share its gradient evenly, so that it is zero for equal bars.

    Raises:
        ValueError: if alpha is not positive.

    Source:
        Rényi 1961, "On measures of entropy and information".

    Example:
        >>> bars = rips_barcode(torch.tensor([[0.0], [1.0], [3.0], [4.0]]))[0]  # shares 1/4, 1/4, 1/2
        >>> renyi_deficit(bars, 2.0)  # log(3 · 3/8)
        tensor(0.1178)
    """
    _check_positive("alpha", alpha, at_most=math.inf)
    if alpha == 1:
        return entropy_deficit(bars)
    persistence = bars.persistence
    if persistence.shape[-1] == 0:
        return persistence.sum(-1)
    # relu has derivative zero at zero and keeps NaN.
    length = persistence.relu().to(torch.float32 if persistence.device.type == "mps" else torch.float64)
    longest = length.detach().amax(-1, keepdim=True)
    collapsed = longest == 0
    length = length / torch.where(collapsed, 1, longest)  # nothing depends on scale, and no power overflows
    count = bars.mask.sum(-1, keepdim=True).clamp_min(1).to(length.dtype)
    mean = torch.where(collapsed, 1, length.sum(-1, keepdim=True) / count)
    if math.isinf(alpha):
        deficit = (torch.where(collapsed, 1, length.amax(-1, keepdim=True)) / mean).log()
    else:
        deficit = _finite_order(length, mean, bars.mask, count, alpha)
    deficit = torch.where(collapsed, count.log(), deficit)
    # Rounding may leave the range by one unit in the last place. A clamp alone would stop the derivatives there.
    rounded = deficit.detach()
    deficit = deficit + (rounded.clamp_min(0).minimum(count.log()) - rounded)
    return deficit.squeeze(-1).to(persistence.dtype)


def _finite_order(length: Tensor, mean: Tensor, real: Tensor, count: Tensor, alpha: float) -> Tensor:
    """The Rényi deficit (..., 1) of lengths (..., k) in units of the longest; padding has length zero."""
    c = alpha - 1
    # The derivative of a logarithm overflows below the smallest normal number, and q^c has none at zero for c < 0.
    positive = length >= torch.finfo(length.dtype).tiny
    safe = torch.where(positive, length, 1)
    if alpha > 2:  # q^c may overflow, a power of the length in units of the longest does not
        power = torch.where(positive, (alpha * safe.log()).exp(), 0)
        # If all bars are of length zero the sum is too; its logarithm is not used, but its derivative must be finite.
        total = power.sum(-1, keepdim=True)
        return (torch.where(total == 0, 1, total / count).log() - alpha * mean.log()) / c
    q = safe / mean
    g = q * torch.expm1(c * q.log()) / c - (q - 1)
    g = torch.where(positive, g, real.to(g.dtype))  # g(0) = 1
    # All bars of length zero have g = 1, and 1 + c may be as small as it likes, but is not zero.
    return torch.log1p(c * g.sum(-1, keepdim=True) / count) / c


class TotalPersistenceLoss(_BarcodeLoss):
    """Total persistence, ``sum l^power`` over all bars, to be decreased or increased.

    Invariant to translation, permutation and, for the euclidean metric, rotation; scaling the points by s scales it by s^power.

    "decrease" pulls the points together, and its minimum, 0, *is* the collapsed cloud: it needs a task that holds against it.
    "increase" is minus that: collapse is its largest value, 0, with gradient zero, and as there is no smallest value it needs
    points of bounded norm, or a metric that does not depend on it. Bars of length zero have gradient zero for every power; for
    powers below 1 it has no bound nearby.

    Args:
        max_dim: highest homology dimension; they are added up from 0.
        power: positive.
        direction: "decrease" or "increase".
        metric: as for `rips_barcode`.
        engine: as for `rips_barcode`.
        per_label: one cloud for each label, instead of one for all points.

    Returns:
        A scalar, in the metric's unit to ``power``: not negative for "decrease", not positive for "increase".

    Raises:
        ValueError: for an unknown name or a power that is not positive.

    Source:
        Cohen-Steiner, Edelsbrunner, Harer, Mileyko 2010, "Lipschitz functions have L_p-stable persistence" (degree-p total
        persistence). Power 1 on H0 is the length of the minimum spanning tree.

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [3.0], [4.0]])  # bars 1, 1, 2
        >>> TotalPersistenceLoss()(points), TotalPersistenceLoss(power=2.0, direction="increase")(points)
        (tensor(4.), tensor(-6.))
    """

    def __init__(
        self,
        max_dim: int = 0,
        *,
        power: float = 1.0,
        direction: str = "decrease",
        metric: MetricChoice = "euclidean",
        engine: str = "auto",
        per_label: bool = False,
    ) -> None:
        super().__init__(max_dim, metric=metric, engine=engine, per_label=per_label)
        _check_positive("power", power)
        check_choice("direction", direction, DIRECTIONS)
        self.power = power
        self.direction = direction

    def bar_loss(self, bars: Barcode) -> Tensor:
        """The contribution ``(...)`` of the bars of one homology dimension."""
        return DIRECTIONS[self.direction] * _power_sum(bars.persistence, self.power)


class ConnectivityLoss(_RipsLoss):
    """Distance of the H0 bars from a common length, ``sum |eta - l|``.

    At zero all edges of the minimum spanning tree are ``eta`` long, so that balls of radius ``eta / 2`` about the points connect all
    of them at once, and no sooner.

    Invariant to translation, permutation and, for the euclidean metric, rotation; not to scale, which it fixes.

    A bar of length zero costs ``eta`` and has gradient zero; so a collapsed cloud costs ``(n - 1) eta`` and no way leads out of it. A
    bar of length ``eta`` has gradient zero, one of the subgradients there. A single point costs 0.

    Args:
        eta: the length, in the metric's unit; positive.
        metric: as for `rips_barcode`.
        engine: as for `rips_barcode`.
        per_label: one cloud for each label, instead of one for all points.

    Returns:
        A scalar, not negative, in the metric's unit.

    Raises:
        ValueError: for an unknown name or an eta that is not positive.

    Source:
        Hofer, Kwitt, Niethammer, Dixit 2019, "Connectivity-optimized representation learning via persistent homology". The default eta
        is that of the authors' code, twice a radius of 1. There the latent space is cut into 16 branches of 10 coordinates, the loss is
        the mean over branches, and its weight is 20: pass the branches as a batch ``(16, n, 10)``.

    Example:
        >>> ConnectivityLoss()(torch.tensor([[0.0], [1.0], [3.0], [4.0]]))  # bars 1, 1, 2
        tensor(2.)
    """

    def __init__(
        self,
        eta: float = 2.0,
        *,
        metric: MetricChoice = "euclidean",
        engine: str = "auto",
        per_label: bool = False,
    ) -> None:
        super().__init__(metric=metric, engine=engine, per_label=per_label)
        _check_positive("eta", eta)
        self.eta = eta

    def cloud_losses(self, points: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of each cloud, ``(...)``."""
        bars = rips_barcode(points, 0, mask=mask, metric=self.metric, engine=self.engine)[0]
        return torch.where(bars.mask, (self.eta - bars.persistence).abs(), 0).sum(-1)


LengthOf = Callable[[Tensor], Tensor]


class _ComparisonLoss(_RipsLoss):
    """A loss of two clouds whose rows correspond.

    A subclass says what it is for distances ``(..., n, n)``, without gradient, that the edges are found in, and functions that give
    the lengths of edges ``(..., k, 2)``, with gradient.
    """

    def __init__(
        self, *, direction: str, quantile: float | None, metric: MetricChoice, engine: str, per_label: bool
    ) -> None:
        super().__init__(metric=metric, engine=engine, per_label=per_label)
        check_choice("direction", direction, COMPARISONS)
        if quantile is not None:
            _check_positive("quantile", quantile, at_most=1.0)
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
        forward, backward = COMPARISONS[self.direction]
        losses = [self.one_way(x, z, x_length, z_length, mask)] if forward else []
        losses += [self.one_way(z, x, z_length, x_length, mask)] if backward else []
        return sum(losses[1:], losses[0])

    def one_way(self, x: Tensor, z: Tensor, x_length: LengthOf, z_length: LengthOf, mask: Tensor | None) -> Tensor:
        """The loss ``(...)`` in one direction."""
        raise NotImplementedError

    def _lengths(self, points: Tensor, mask: Tensor | None) -> tuple[Tensor, LengthOf]:
        """All distances without gradient, and the function that gives those along edges with gradient, both over their quantile."""
        distances, length_of = _lengths(points, mask, self.metric)
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
    the squares of the other's edges in both directions, and it gets no gradient.

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
        check_max_dim(max_dim)
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
    the length (of "both", for power 1) of the other's minimum spanning tree, and it gets no gradient. Where equal distances meet
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
        _check_positive("power", power)
        self.power = power

    def pair_losses(self, points: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of each pair of clouds, ``(...)``."""
        return super().pair_losses(points, other, mask) / sum(COMPARISONS[self.direction])

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

        return _power_sum(_along(loops, length), self.power)


def _quantile(distances: Tensor, length_of: LengthOf, mask: Tensor | None, quantile: float) -> Tensor:
    """A quantile ``(..., 1)`` of the distances of each cloud, diagonal and both triangles, with gradient.

    Interpolated linearly, as by NumPy. If it is zero, the largest distance; if that is zero, 1.
    """
    n = distances.shape[-1]
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


def _power_sum(lengths: Tensor, power: float) -> Tensor:
    """Sum of powers ``(...)``; lengths that are not positive, among them padding, count zero and have gradient zero."""
    none = lengths <= 0  # not "not positive": NaN shall be seen
    return torch.where(none, 0, torch.where(none, 1, lengths) ** power).sum(-1)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean ``(...)`` of the values ``(..., k)`` under the mask; 0 if there are none."""
    return torch.where(mask, values, 0).sum(-1) / mask.sum(-1).clamp_min(1)


def _check_positive(argument: str, value: float, at_most: float | None = None) -> None:
    """Raise unless the value is a positive number: finite, or at most so large."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{argument} must be a positive number; got {type(value).__name__}")
    if not (0 < value < math.inf if at_most is None else 0 < value <= at_most):
        bound = (
            "finite" if at_most is None else "and may be infinite" if at_most == math.inf else f"at most {at_most:g}"
        )
        raise ValueError(f"{argument} must be positive, {bound}; got {value}")
