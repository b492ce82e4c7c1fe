"""Losses of the barcode of a Vietoris-Rips filtration.

With the bars of one homology dimension, of lengths l_1, ..., l_k, and shares p_i = l_i / sum l,

    PersistentEntropyLoss     D = log k - H(p), or log(D + floor), or the Rényi deficit D_a = log k - H_a(p)
    TotalPersistenceLoss      sum l_i^power (Cohen-Steiner, Edelsbrunner, Harer, Mileyko 2010)
    ConnectivityLoss          sum |eta - l_i|, H0 (Hofer, Kwitt, Niethammer, Dixit 2019)

The deficits are those of `simplicial_reg.entropy`. Losses that compare the barcodes of two clouds are in
`simplicial_reg.regularizers.comparison`.

Singular input. Duplicates make bars of length zero, and coincident points get no gradient. (A bar whose length is a
precomputed distance of zero gets none from entropies and sums of powers either; to `ConnectivityLoss` that is a variable
like any other distance.) A single point has no bars. What a collapsed cloud costs, one whose points are all equal, is said
for each loss.

Gradients flow into the lengths of the critical edges. Which edges these are, and which bars are features, is decided
without gradient.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from simplicial_reg._checks import check_choice, check_count, check_number
from simplicial_reg.barcode import Barcode, MetricChoice, masked, rips_barcode
from simplicial_reg.distances import METRICS
from simplicial_reg.engines import ENGINES
from simplicial_reg.entropy import entropy_deficit, renyi_deficit
from simplicial_reg.prominence import METHODS, prominent
from simplicial_reg.regularizers._base import DIRECTIONS, Regularizer

__all__ = [
    "ConnectivityLoss",
    "PersistentEntropyLoss",
    "RipsLoss",
    "TotalPersistenceLoss",
    "power_sum",
    "shrink_the_longest",
]

FORMS = ("deficit", "log-deficit", "renyi")
SIGNS = {"published": -1.0, "corrected": 1.0}
FLOOR = 1e-6


class RipsLoss(Regularizer):
    """A loss of barcodes: it has a metric and an engine."""

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


class _BarcodeLoss(RipsLoss):
    """A loss that is a sum over homology dimensions of a function of their bars."""

    max_dim: int

    def __init__(self, max_dim: int, *, metric: MetricChoice, engine: str, per_label: bool) -> None:
        super().__init__(metric=metric, engine=engine, per_label=per_label)
        check_count("max_dim", max_dim, 0)
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
        TypeError: if a number is not one.
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
        check_number("within", within)
        if within != 0 and prominent is None:
            raise ValueError(
                f'within weighs the bars that are noise, so prominent must say which are; got within={within}; use prominent="agr2016"'
            )
        check_number("alpha", alpha, above=0, most=math.inf)
        check_number("floor", floor, above=0)
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
        TypeError: if a number is not one.
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
        check_number("power", power, above=0)
        check_choice("direction", direction, DIRECTIONS)
        self.power = power
        self.direction = direction

    def bar_loss(self, bars: Barcode) -> Tensor:
        """The contribution ``(...)`` of the bars of one homology dimension."""
        total = power_sum(bars.persistence, self.power)
        return total if self.direction == "decrease" else -total


class ConnectivityLoss(RipsLoss):
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
        TypeError: if eta is not a number.
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
        check_number("eta", eta, above=0)
        self.eta = eta

    def cloud_losses(self, points: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of each cloud, ``(...)``."""
        bars = rips_barcode(points, 0, mask=mask, metric=self.metric, engine=self.engine)[0]
        return torch.where(bars.mask, (self.eta - bars.persistence).abs(), 0).sum(-1)


def power_sum(lengths: Tensor, power: float) -> Tensor:
    """Sum of powers ``(...)``; lengths that are not positive, among them padding, count zero and have gradient zero."""
    none = lengths <= 0  # not "not positive": NaN shall be seen
    return torch.where(none, 0, torch.where(none, 1, lengths) ** power).sum(-1)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean ``(...)`` of the values ``(..., k)`` under the mask; 0 if there are none."""
    return torch.where(mask, values, 0).sum(-1) / mask.sum(-1).clamp_min(1)
