"""Losses of a cloud's covariance.

    IsoScoreStarLoss      1 - IsoScore*((1 - zeta) S + zeta S_0), or IsoScore* itself                 Rudman, Eickhoff 2024
    SpectrumLoss          log r - entropy of the shares of the singular values, r = min(n - 1, d)
    VICRegLoss            mean relu(target - sqrt(S_ii + eps)), and sum_{i != j} S_ij² / d              Bardes, Ponce, LeCun 2022
    DecorrelationLoss     mean_{i != j} R_ij², R the correlation matrix                                 Zbontar et al. 2021

S is the covariance over n - 1. None of them sees where the mean of the cloud is, except an uncentred SpectrumLoss, nor
anything beyond second moments. None needs a (d, d) matrix while n is less than d: the off-diagonal of X' X is the squared norm of
X X' less the squares of the diagonal.

    under                 translation     scale                       rotation
    IsoScoreStarLoss      same            same if shrinkage is 0      same if shrinkage is 0
    SpectrumLoss          same (centred)  same                        same
    VICRegLoss            same            differs                     differs
    DecorrelationLoss     same            same, by coordinate too     differs

Singular input, collapse (all points equal, and one point, which is the same to a covariance). Gradients are zero there.

- IsoScoreStarLoss and SpectrumLoss are at their largest, 1 and log r. With direction="decrease" the first is at its least, 0, as
  for every other cloud of rank 1. With shrinkage > 0 it has the value of S_0 alone: a blind spot, and the authors' definition.
- VICRegLoss: the variance term is at its largest, the covariance term zero, as published.
- DecorrelationLoss: a coordinate without variance counts as correlated with every other one, R_ij² = 1, so that collapse is the
  largest value, 1. (Published, 0 / sqrt(eps) is 0, and collapse the best value: there another term forbids it.)

Gradients flow into the points, any number of times (SpectrumLoss: once where singular values repeat); not into S_0.

Sources: Rudman, Eickhoff 2024, "Stable Anisotropic Regularization"; Roy, Vetterli 2007, "The effective rank"; Bardes, Ponce,
LeCun 2022, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning"; Zbontar, Jing, Misra, LeCun,
Deny 2021, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from simplicial_reg._checks import check_choice, check_number
from simplicial_reg._moments import centred as deviations_of
from simplicial_reg._moments import count, directions
from simplicial_reg.isotropy.moments import BUFFERS, Moments
from simplicial_reg.isotropy.spectrum import isoscore_star, spectral_entropy, squared_norm, within
from simplicial_reg.regularizers._base import DIRECTIONS, NORMALIZERS, Regularizer

__all__ = ["DecorrelationLoss", "IsoScoreStarLoss", "SpectrumLoss", "VICRegLoss"]


class IsoScoreStarLoss(Regularizer):
    """I-STAR: makes a cloud more isotropic, or less, as measured by `isoscore_star`.

    ``1 - IsoScore*`` to increase isotropy, ``IsoScore*`` to decrease it. The published loss is lambda (1 - IsoScore*), and a
    negative lambda decreases isotropy: that is the weight |lambda| on this loss with direction="decrease", up to a
    constant. The authors' example script has lambda = -5.

    With shrinkage a covariance is needed that is better estimated than that of one batch. Either it is streamed in,

        for batch in batches:                       # once an epoch, in the authors' code, from 250,000 points
            loss.update_covariance(model(batch))    # no gradient is kept

    or decay is set, and each call in training mode, with gradients enabled or not, refreshes it with the points it is called
    with, before it is used (so the first call uses their own covariance): the points of k calls ago count for decay^k of a
    point. Calls in evaluation mode, and calls with points that are not finite, do not change it.

    The covariance is computed in float64, saved in the state_dict, restored into a new object whatever its width, moves with
    the module, and stays float64 when the module is cast. No gradient flows into it.

    Args:
        shrinkage: the authors' zeta, in [0, 1], the weight of that covariance; theirs is 0.2 in training. With 0, which is
            the default because it needs nothing, batches of less than about d points underestimate the score.
        direction: "increase" or "decrease".
        decay: None, or in [0, 1]: what becomes of the weight of a point at the next call.
        per_label: one cloud for each label, instead of one for all points. The shrinkage covariance is that of all points.

    Raises:
        TypeError: if shrinkage or decay is not a number.
        ValueError: if an argument is out of range.
        RuntimeError: when called with shrinkage > 0 and no covariance.

    Source:
        Rudman, Eickhoff 2024, and their code.

    Example:
        >>> import torch
        >>> IsoScoreStarLoss()(torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]))
        tensor(0.5000)
        >>> loss = IsoScoreStarLoss(shrinkage=0.5)
        >>> loss.update_covariance(
        ...     torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        ... )  # 4/3 of the identity
        >>> round(loss(torch.tensor([[-1.0, 0.0], [1.0, 0.0]])).item(), 4)  # 1 - 20/29, the score of diag(5/3, 2/3)
        0.3103
    """

    def __init__(
        self,
        *,
        shrinkage: float = 0.0,
        direction: str = "increase",
        decay: float | None = None,
        per_label: bool = False,
    ) -> None:
        super().__init__(per_label=per_label)
        check_choice("direction", direction, DIRECTIONS)
        check_number("shrinkage", shrinkage, least=0, most=1)
        check_number("decay", decay, least=0, most=1, optional=True)
        self.shrinkage = shrinkage
        self.direction = direction
        self.decay = decay
        self.moments = Moments()

    def update_covariance(self, points: Tensor | Sequence[Tensor], mask: Tensor | None = None) -> None:
        """Add points to those that the shrinkage covariance is computed from; see `Moments.update`."""
        self.moments.update(points, mask)

    def reset_covariance(self) -> None:
        """Forget the points that the shrinkage covariance is computed from."""
        self.moments.reset()

    def cloud_losses(self, points: Tensor, mask: Tensor | None) -> Tensor:
        """See the class."""
        score = isoscore_star(points, shrinkage=self.shrinkage, covariance=self._covariance(points, mask), mask=mask)
        return 1 - score if self.direction == "increase" else score

    def _covariance(self, points: Tensor, mask: Tensor | None) -> Tensor | None:
        if self.shrinkage == 0:
            return None
        if self.decay is not None and self.training:
            self._refresh(self.decay, points, mask)
        if not self.moments.width:
            raise RuntimeError(
                f"shrinkage={self.shrinkage:g} needs a covariance, and there is none yet; call update_covariance(points), or "
                "set decay, which takes it from the points of the training steps"
            )
        return self.moments.covariance_like(points)

    def _refresh(self, decay: float, points: Tensor, mask: Tensor | None) -> None:
        """Take the points into the average, unless one of them is not finite, which would stay in it for ever."""
        moments = self.moments
        earlier = {name: getattr(moments, name) for name in BUFFERS} if moments.width else {}
        moments.forget(decay).update(points, mask)
        with torch.inference_mode(False), torch.no_grad():
            finite = moments.mean.isfinite().all()
            for name in BUFFERS:
                now = getattr(moments, name)
                setattr(
                    moments, name, torch.where(finite, now, earlier.get(name, torch.zeros_like(now)).to(now.device))
                )


class SpectrumLoss(Regularizer):
    """Makes the singular values of a cloud equal: what their entropy lacks to the largest there can be.

    ``log r - H``, H the entropy of the singular values over their sum and r the largest rank, min(n - 1, d), centred, or
    min(n, d). That is ``log(r / effective_rank(points))``, the Kullback-Leibler divergence of the shares from equal ones.
    With centred=False it is the logarithm of r over RankMe, up to RankMe's eps.

    Args:
        centred: whether the mean is taken away first. If not, an offset from the origin is penalised as one dominant direction.
        per_label: one cloud for each label, instead of one for all points.

    Source:
        The entropy is that of Roy, Vetterli 2007; RankMe is that of Garrido et al. 2023.

    Example:
        >>> import torch
        >>> points = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])  # two of three directions
        >>> round(SpectrumLoss()(points).item(), 4)  # log(3/2)
        0.4055
    """

    def __init__(self, *, centred: bool = True, per_label: bool = False) -> None:
        super().__init__(per_label=per_label)
        self.centred = centred

    def cloud_losses(self, points: Tensor, mask: Tensor | None) -> Tensor:
        """See the class."""
        rank = (count(points, mask) - int(self.centred)).clamp(1, points.shape[-1])
        deficit = rank.log() - spectral_entropy(points, mask, self.centred)
        return within(deficit, 0, math.inf)


class VICRegLoss(Regularizer):
    """The variance and covariance terms of VICReg, of one view.

    ``variance / 2 * mean_i relu(target - sqrt(S_ii + eps)) + covariance * sum_{i != j} S_ij² / d``. With the authors' weights,
    25 and 1, the losses of the two views add up to their released code's loss less its invariance term; both views being
    the same, twice this loss is that code's.

    Collapse has the value variance / 2 * (target - sqrt(eps)), and the points no gradient there.

    Args:
        variance: weight of the hinge on the standard deviation of each coordinate.
        covariance: weight of the squared covariances of different coordinates.
        target: standard deviation up to which a coordinate is pushed, in the unit of the points.
        eps: added to variances, so that the root has a derivative; in the unit of the points squared.
        per_label: one cloud for each label, instead of one for all points.

    Raises:
        TypeError: if an argument is not a number.
        ValueError: if a weight is negative or both are zero, or if target or eps is not positive.

    Source:
        Bardes, Ponce, LeCun 2022; all defaults are those of their code.

    Example:
        >>> import torch
        >>> points = torch.tensor(
        ...     [[2.0, 2.0], [-2.0, -2.0], [2.0, -2.0], [-2.0, 2.0]]
        ... )  # large variances, no covariance
        >>> VICRegLoss()(points)
        tensor(0.)
        >>> round(VICRegLoss()(torch.ones(4, 2)).item(), 4)  # 25/2 (1 - 0.01)
        12.375
    """

    def __init__(
        self,
        *,
        variance: float = 25.0,
        covariance: float = 1.0,
        target: float = 1.0,
        eps: float = 1e-4,
        per_label: bool = False,
    ) -> None:
        super().__init__(per_label=per_label)
        check_number("variance", variance, least=0)
        check_number("covariance", covariance, least=0)
        check_number("target", target, above=0)
        check_number("eps", eps, above=0)
        if variance == 0 == covariance:
            raise ValueError("variance or covariance must be positive; got 0 for both, which is no loss")
        self.variance = variance
        self.covariance = covariance
        self.target = target
        self.eps = eps

    def cloud_losses(self, points: Tensor, mask: Tensor | None) -> Tensor:
        """See the class."""
        dof = (count(points, mask) - 1).clamp_min(1)
        scaled = deviations_of(points, mask) / dof.sqrt()[..., None, None]
        hinge = (self.target - (scaled.square().sum(-2) + self.eps).sqrt()).relu().mean(-1)
        return self.variance / 2 * hinge + self.covariance * _off_diagonal(scaled) / points.shape[-1]


class DecorrelationLoss(Regularizer):
    """Makes the coordinates of a cloud uncorrelated: the mean of their squared correlations.

    ``mean_{i != j} R_ij²``, R the correlation matrix. It is the redundancy term of Barlow Twins, there of two views and summed, here
    of one.

    Args:
        normalizer: "pairs" for the mean over the d (d - 1) pairs of coordinates, in [0, 1]; "published" for their sum, which the
            authors weigh with 0.0051.
        per_label: one cloud for each label, instead of one for all points.

    A coordinate without variance counts as correlated with every other one, with gradient zero, so that collapse has the largest
    value; in one dimension, without pairs, the loss is 0. An isotropic Gaussian has 1 / (n - 1) in the mean.

    Raises:
        ValueError: for another normalizer.

    Source:
        Zbontar et al. 2021, and their code for the weight. Batch normalisation, as there, adds a constant to the variances; here
        nothing is added.

    Example:
        >>> import torch
        >>> DecorrelationLoss()(torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 0.0]]))  # the correlation is -1/2
        tensor(0.2500)
        >>> DecorrelationLoss()(torch.ones(4, 3))
        tensor(1.)
    """

    def __init__(self, *, normalizer: str = "pairs", per_label: bool = False) -> None:
        super().__init__(per_label=per_label)
        check_choice("normalizer", normalizer, NORMALIZERS)
        self.normalizer = normalizer

    def cloud_losses(self, points: Tensor, mask: Tensor | None) -> Tensor:
        """See the class."""
        d = points.shape[-1]
        standardized = directions(deviations_of(points, mask).mT).mT
        varying = (standardized.detach() != 0).any(-2).sum(-1).to(points.dtype)
        without = d * (d - 1) - varying * (varying - 1)  # pairs with a coordinate that does not vary
        squares = _off_diagonal(standardized) + without
        return squares / max(d * (d - 1), 1) if self.normalizer == "pairs" else squares


def _off_diagonal(points: Tensor) -> Tensor:
    """``sum_{i != j} (X' X)_ij²``, ``(...)``."""
    if points.shape[-2] < points.shape[-1]:
        # X' X has rank n - 1 < d: it cannot be close to diagonal, unless a few coordinates have all the variance.
        return within(squared_norm(points) - points.square().sum(-2).square().sum(-1), 0, math.inf)
    return 2 * (points.mT @ points).tril(-1).square().sum((-2, -1))
