"""Losses of the angles between the points of a cloud, two at a time.

With directions u_i = x_i / |x_i|, cosines s_ij = u_i . u_j, and the mean taken over all i and j != i,

    CosineLoss            mean s_ij                                                 in [-1/(n-1), 1]
    UniformityLoss        log mean exp(-t |u_i - u_j|²)                             in [-4 t, 0]
    KoLeoLoss             -mean over i of log(min over j of |u_i - u_j| + eps)      in [-log(2 + eps), -log eps]
    SimCTGLoss            mean relu(margin - s_ii + s_ij)                           in [0, margin]
    OrthogonalityLoss     a (mean s_ij)² + b relu(mean s_ij² - 1/d)                 in [0, a + b (1 - 1/d)]

All are invariant to rotation, to the order of the points and to scale, that of each point by itself, and not to
translation. Points that all lie in one direction give the upper end of the range, which is the worst value. Being blind
to lengths they neither see nor cause a shrinking of the cloud towards the origin: the gradient of each is perpendicular
to the point.

Singular input.

- A zero vector has no direction. It is put in the middle of the sphere, u = 0, with gradient zero: its cosine with
  everything, itself included, is 0, and its distance from every direction is 1. A cloud that is all zero vectors gets the
  worst value from the losses of distances (uniformity, KoLeo) and from SimCTG, and 0 from the other two.
- One point: there is no pair, and the loss is 0 with gradient zero.
- Coincident directions: nothing is singular but KoLeo's log, which eps bounds; the gradient of the distance is zero there.
- Opposite directions are regular.

Gradients flow into the points, any number of times. KoLeo's choice of neighbours has none.

Sources: with each class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simplicial_reg._checks import check_choice, check_number
from simplicial_reg._moments import count, directions
from simplicial_reg._ops import pairwise_lengths
from simplicial_reg.distances import length_between
from simplicial_reg.isotropy.directions import mean_cosine
from simplicial_reg.regularizers._base import NORMALIZERS, Regularizer

__all__ = ["CosineLoss", "KoLeoLoss", "OrthogonalityLoss", "SimCTGLoss", "UniformityLoss"]


class CosineLoss(Regularizer):
    """Mean cosine over all pairs of different points: CosReg.

    ``sum over i != j of s_ij / (n (n - 1))``, in O(n d) by `mean_cosine`. It acts on the mean direction alone: the loss is as
    good as it gets once the directions sum to zero, even in a cloud of rank 1.

    Args:
        normalizer: what the sum over pairs is divided by: ``"pairs"``, n (n - 1), which makes it a mean; or ``"published"``,
            n², which is smaller by the factor (n - 1) / n.
        per_label: one cloud for each label, instead of one for all points.

    Raises:
        ValueError: for another normalizer.

    Source:
        Gao, He, Tan, Qin, Wang, Liu 2019, "Representation degeneration problem in training natural language generation
        models", for the rows of an output embedding; n² also in the code of Rudman and Eickhoff 2024, where it is the loss
        that I-STAR is compared with.

    Example:
        >>> points = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])  # cosines 0, 1, 0
        >>> CosineLoss()(points), CosineLoss(normalizer="published")(points)
        (tensor(0.3333), tensor(0.2222))
    """

    def __init__(self, *, normalizer: str = "pairs", per_label: bool = False) -> None:
        super().__init__(per_label=per_label)
        check_choice("normalizer", normalizer, NORMALIZERS)
        self.normalizer = normalizer

    def cloud_losses(self, points: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of each cloud, ``(...)``."""
        cosine = mean_cosine(points, mask=mask)
        return cosine if self.normalizer == "pairs" else cosine * (1 - 1 / count(points, mask))


class UniformityLoss(Regularizer):
    """How far directions are from uniform on the sphere, by the logarithm of a Gaussian potential.

    ``log mean over i < j of exp(-t |u_i - u_j|²)``. Its minimum over distributions is the uniform one, so unlike the mean
    cosine it also spreads a cloud that is centred. O(n² d) for the matrix of cosines.

    Args:
        t: how steeply the potential falls; 1 / t is a squared distance on the unit sphere. Positive.
        per_label: one cloud for each label, instead of one for all points.

    Raises:
        TypeError: if t is not a number.
        ValueError: if t is not positive.

    Source:
        Wang and Isola 2020, "Understanding contrastive representation learning through alignment and uniformity on the
        hypersphere"; t = 2 is theirs.

    Example:
        >>> UniformityLoss()(torch.tensor([[1.0, 0.0], [-2.0, 0.0]]))  # a diameter apart: -2 * 2²
        tensor(-8.)
        >>> UniformityLoss()(torch.eye(3))  # all at a distance of sqrt 2
        tensor(-4.)
    """

    def __init__(self, *, t: float = 2.0, per_label: bool = False) -> None:
        super().__init__(per_label=per_label)
        check_number("t", t, above=0)
        self.t = t

    def cloud_losses(self, points: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of each cloud, ``(...)``."""
        unit = directions(points)
        square = unit.square().sum(-1)  # 1, or 0 for a zero vector
        distance = square.unsqueeze(-1) + square.unsqueeze(-2) - 2 * unit @ unit.mT
        pairs, number = _pairs(points, mask)
        # A cloud without a pair keeps its entries: a logsumexp of nothing is -inf, and no gradient should come by that.
        exponent = (-self.t * distance).masked_fill(~pairs & (number > 0)[..., None, None], -torch.inf)
        potential = torch.logsumexp(exponent, (-2, -1)) - number.clamp_min(1).log()
        return torch.where(number > 0, potential, 0)


class KoLeoLoss(Regularizer):
    """Minus the mean log distance to the nearest neighbour on the sphere, an estimate of the entropy of the directions.

    ``-mean over i of log(min over j != i of |u_i - u_j| + eps)``: differential entropy by Kozachenko and Leonenko's estimator,
    up to a factor and a constant. The farther the nearest of all others is, the better; the rest of the cloud does not count.
    O(n² d). Of several nearest neighbours the first is taken.

    Args:
        eps: added to the distance, so that coincident directions have a finite value. Positive.
        per_label: one cloud for each label, instead of one for all points.

    Raises:
        TypeError: if eps is not a number.
        ValueError: if eps is not positive.

    Source:
        Sablayrolles, Douze, Schmid, Jégou 2019, "Spreading vectors for similarity search"; eps as in the code of DINOv2
        (Oquab et al. 2023), which also adds it to every coordinate of the difference, so that there coincident directions
        are ``sqrt(d) eps`` apart. Here distances are exact.

    Example:
        >>> points = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])  # each is sqrt 2 from its nearest
        >>> KoLeoLoss()(points)  # -log(2) / 2
        tensor(-0.3466)
    """

    def __init__(self, *, eps: float = 1e-8, per_label: bool = False) -> None:
        super().__init__(per_label=per_label)
        check_number("eps", eps, above=0)
        self.eps = eps

    def cloud_losses(self, points: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of each cloud, ``(...)``."""
        unit = directions(points)
        pairs, _ = _pairs(points, mask)
        with torch.no_grad():
            # argmin returns the first of equals. Where there is no pair that is point 0, which is left out below.
            nearest = pairwise_lengths(unit.detach(), "euclidean").masked_fill(~pairs, torch.inf).argmin(-1)
            point = torch.arange(points.shape[-2], device=points.device).expand_as(nearest)
            edge = torch.stack([point, nearest], -1)
        log = (length_between(unit, edge, "euclidean") + self.eps).log()
        real = pairs.any(-1)
        return -torch.where(real, log, 0).sum(-1) / real.sum(-1).clamp_min(1)


class SimCTGLoss(Regularizer):
    """Contrastive loss of SimCTG: no two tokens of a sequence shall have a cosine above one minus the margin.

    ``mean over i and j != i of relu(margin - s_ii + s_ij)``. s_ii is 1, and 0 for a zero vector. One sequence is one cloud:
    points ``(B, n, d)`` with the attention mask. O(n² d).

    Args:
        margin: how far below 1 cosines shall be, in [0, 2].
        per_label: one cloud for each label, instead of one for all points.

    Raises:
        TypeError: if the margin is not a number.
        ValueError: if it is not in [0, 2].

    Source:
        Su, Lan, Wang, Yogatama, Kong, Collier 2022, "A contrastive framework for neural text generation", where the margin is
        0.5. Their code takes the mean over the pairs of all sequences of a batch, so that a sequence counts as its number of
        pairs does; here each sequence counts the same. For sequences of one length that is the same.

    Example:
        >>> points = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])  # cosines 0, 1, 0
        >>> SimCTGLoss()(points)  # one pair of three is above 0.5, by 0.5
        tensor(0.1667)
    """

    def __init__(self, *, margin: float = 0.5, per_label: bool = False) -> None:
        super().__init__(per_label=per_label)
        check_number("margin", margin, least=0, most=2)
        self.margin = margin

    def cloud_losses(self, points: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of each cloud, ``(...)``."""
        unit = directions(points)
        own = unit.square().sum(-1, keepdim=True)
        excess = (self.margin - own + unit @ unit.mT).relu()
        pairs, number = _pairs(points, mask)
        return torch.where(pairs, excess, 0).sum((-2, -1)) / number.clamp_min(1)


class OrthogonalityLoss(Regularizer):
    """Global orthogonal regularization: first and second moment of the cosines as for uniform directions.

    ``mean_weight * M1² + second_moment_weight * relu(M2 - 1/d)`` with ``M1 = mean s_ij`` and ``M2 = mean s_ij²`` over pairs of
    different points. For independent uniform directions the means of M1 and M2 are 0 and 1/d. O(n d min(n, d)).

    Args:
        mean_weight: weight of the first moment, not negative.
        second_moment_weight: weight of the second moment, not negative.
        per_label: one cloud for each label, instead of one for all points.

    Raises:
        TypeError: if a weight is not a number.
        ValueError: if a weight is negative or both are zero.

    Source:
        Zhang, Yu, Kumar, Chang 2017, "Learning spread-out local feature descriptors", for pairs that do not belong together.
        With the weights of ``GlobalOrthogonalRegularizationLoss`` in sentence-transformers, which is the sum of its two
        terms for one column of embeddings, and whose mean over columns is the mean over clouds here.

    Example:
        >>> OrthogonalityLoss()(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]))  # (1/3)² + relu(1/3 - 1/2)
        tensor(0.1111)
    """

    def __init__(self, *, mean_weight: float = 1.0, second_moment_weight: float = 1.0, per_label: bool = False) -> None:
        super().__init__(per_label=per_label)
        check_number("mean_weight", mean_weight, least=0)
        check_number("second_moment_weight", second_moment_weight, least=0)
        if mean_weight == 0 == second_moment_weight:
            raise ValueError("mean_weight or second_moment_weight must be positive; got 0 for both, which is no loss")
        self.mean_weight = mean_weight
        self.second_moment_weight = second_moment_weight

    def cloud_losses(self, points: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of each cloud, ``(...)``."""
        unit = directions(points)
        n = count(points, mask)
        # U'U and UU' have the same sum of squares; the pairs of a point with itself are taken out.
        products = unit.mT @ unit if points.shape[-1] < points.shape[-2] else unit @ unit.mT
        own = unit.square().sum(-1).square().sum(-1)
        second = (products.square().sum((-2, -1)) - own) / (n * (n - 1)).clamp_min(1)
        excess = (second - 1 / points.shape[-1]).relu()
        return self.mean_weight * mean_cosine(points, mask=mask).square() + self.second_moment_weight * excess


def _pairs(points: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Which entries of an (..., n, n) matrix are of two different real points, and how many, (...)."""
    n = points.shape[-2]
    pairs = ~torch.eye(n, dtype=torch.bool, device=points.device).expand(*points.shape[:-1], n)
    if mask is not None:
        pairs = pairs & mask.unsqueeze(-1) & mask.unsqueeze(-2)
    real = count(points, mask)
    return pairs, real * (real - 1)
