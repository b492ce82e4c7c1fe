"""Measures of where the points of a cloud lie as seen from the origin, and along its coordinates.

With points x_1, ..., x_n in d coordinates, their directions u_i = x_i / |x_i| and their mean m,

    mean cosine           sum over i != j of u_i . u_j / (n (n - 1)) = (|sum u_i|² - sum |u_i|²) / (n (n - 1))
    drift ratio           |m| / mean |x_i|
    outlier share         sum of v_k over {k : v_k >= factor * mean v} / sum v_k,   v_k the variance of coordinate k
    partition ratio       min Z(c) / max Z(c),  Z(c) = sum exp(c . x_i),  c any unit eigenvector of X'X, either sign

The first identity makes the mean over all n (n - 1) pairs exact in O(n d), so nothing is sampled (Machina and Mercer 2024
use it too). The difference costs no digits that matter: |sum u_i|² is at most n², and what rounding does to it is divided
by n (n - 1).

What none of them sees is which part of the space the cloud fills: the mean cosine and the drift ratio know a cloud by its
mean direction alone, a cloud of rank 2 around the origin is perfect to them, and the outlier share changes when the cloud
is rotated. Look at them together with a measure of the spectrum.

Singular input. The cosine of a zero vector with any other is 0 and its gradient is zero. Where a measure is 0/0 it is 0,
with gradient zero: the mean cosine of one point, the drift of a cloud that is all at the origin, the outlier share of a
cloud without variance. The partition ratio has no singular value: a cloud at the origin has Z(c) = n throughout, and 1.

Gradients flow into the points. None flows through the choice of outlier coordinates. The partition ratio is
differentiable once: its eigenvectors move with the points, and where an eigenvalue is repeated they are not unique, and
the part of the gradient that would come from turning them among themselves is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from simplicial_reg._autocast import autocast_off
from simplicial_reg._checks import check_number, computable
from simplicial_reg._moments import centred as _centred
from simplicial_reg._moments import count, directions, mean

__all__ = ["drift_ratio", "mean_cosine", "outlier_dimension_share", "partition_ratio"]


def mean_cosine(points: Tensor | Sequence[Tensor], *, centred: bool = False, mask: Tensor | None = None) -> Tensor:
    """Mean cosine over all pairs of different points, ``(|sum u|² - sum |u|²) / (n (n - 1))`` with ``u = x / |x|``.

    An isotropic Gaussian around the origin has expectation 0, and centred about ``-1 / (n - 1)``, the closer the more
    coordinates, because points that sum to zero point away from each other. It sees the mean direction only: a cloud that
    fills one plane around the origin has mean cosine 0, and an isotropic cloud far from the origin 1. Costs O(n d).

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``, or a list of ``(n_i, d)``, in any unit: lengths do not count.
        centred: take the mean of the points away first, and so look at what a shift of the cloud would not mend.
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.

    Returns:
        ``(...)``, one value per cloud, in ``[-1 / (n - 1), 1]`` up to rounding: 1 if all points lie in one direction.
        Zero vectors have cosine 0 with everything; one point gives 0.

    Raises:
        TypeError: if points are not floating or mask is not bool.
        ValueError: for wrong shapes.

    Source:
        Ethayarajh 2019, "How contextual are contextualized word representations?", there from sampled pairs; all pairs by
        the identity above as in Machina and Mercer 2024, "Anisotropy is not inherent to Transformers".

    Example:
        >>> mean_cosine(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]))  # cosines 0, 1, 0
        tensor(0.3333)
    """
    points, mask = computable(points, mask)
    with autocast_off(points):
        unit = directions(_centred(points, mask) if centred else points)
        n = count(points, mask)
        return (unit.sum(-2).square().sum(-1) - unit.square().sum((-2, -1))) / (n * (n - 1)).clamp_min(1)


def drift_ratio(points: Tensor | Sequence[Tensor], *, mask: Tensor | None = None) -> Tensor:
    """How far the mean is from the origin, in units of the mean length of the points, ``|mean x| / mean |x|``.

    An isotropic Gaussian around the origin has about ``1 / sqrt(n)``: its mean is about ``sqrt(d / n)`` long and its points
    ``sqrt(d)``. It sees the mean only: whatever the covariance is, a centred cloud has 0. Costs O(n d).

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``, or a list of ``(n_i, d)``, in any unit.
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.

    Returns:
        ``(...)``, one value per cloud, in [0, 1] up to rounding: 1 if all points lie in one direction, so for one point. A
        cloud that is all at the origin has 0.

    Raises:
        TypeError: if points are not floating or mask is not bool.
        ValueError: for wrong shapes.

    Source:
        The triangle inequality gives the range.

    Example:
        >>> drift_ratio(torch.tensor([[4.0, 1.0], [4.0, -1.0]]))  # 4 / sqrt 17
        tensor(0.9701)
    """
    points, mask = computable(points, mask)
    with autocast_off(points):
        points = _of_unit_size(points)
        far, size = _length(mean(points, mask)).squeeze(-1), _length(points).sum(-1) / count(points, mask)
        return far / torch.where(size == 0, 1, size)


def outlier_dimension_share(
    points: Tensor | Sequence[Tensor], *, factor: float = 5.0, centred: bool = True, mask: Tensor | None = None
) -> Tensor:
    """Share of the variance that is held by outlier dimensions: coordinates with `factor` times the mean variance or more.

    An isotropic Gaussian has 0, unless it has so few points that single variances are far off by chance. It depends on the
    coordinates and not on the shape alone: what it cannot see is a dominant direction that lies across them, and as no
    coordinate can hold more than d times the mean, in ``d < factor`` coordinates it is always 0. Costs O(n d).

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``, or a list of ``(n_i, d)``, in any unit.
        factor: how many times the mean over coordinates makes an outlier, above 1.
        centred: look at variances. With False at mean squares, which also sees a coordinate that is large and constant.
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.

    Returns:
        ``(...)``, one value per cloud, in [0, 1]; 0 if there is no outlier dimension, so also if nothing varies.

    Raises:
        TypeError: if points are not floating or mask is not bool.
        ValueError: for wrong shapes or a factor that is not above 1.

    Source:
        Rudman, Chen, Eickhoff 2023, "Outlier dimensions encode task-specific knowledge", call dimensions of exceedingly high
        variance so. Five times the mean is a convention that we adopt.

    Example:
        >>> points = torch.eye(6) * torch.tensor([1.0, 1.0, 10.0, 1.0, 1.0, 1.0])
        >>> outlier_dimension_share(points)  # 100 of 105
        tensor(0.9524)
    """
    check_number("factor", factor, above=1)
    points, mask = computable(points, mask)
    with autocast_off(points):
        size = _of_unit_size(_centred(points, mask) if centred else points).square().sum(-2)
        total = size.sum(-1)
        outlier = (size >= factor / size.shape[-1] * total.unsqueeze(-1)).detach()
        return torch.where(outlier, size, 0).sum(-1) / torch.where(total == 0, 1, total)


def partition_ratio(points: Tensor | Sequence[Tensor], *, mask: Tensor | None = None) -> Tensor:
    """Isotropy I(W) by the partition function, ``min Z(c) / max Z(c)`` with ``Z(c) = sum exp(c . x_i)``.

    c runs over the unit eigenvectors of X'X, each with both signs, because an eigenvector has no sign of its own and Z(c) is
    not Z(-c) if the mean is not zero. With fewer points than coordinates it also runs over the directions that no point
    has a part in, where Z(c) = n. An isotropic Gaussian tends to 1 for many points, and is the further below it the fewer
    points, the more coordinates and the larger a unit it has: compare with a Gaussian cloud of the same n, d and variance.

    It is not invariant to scale: points close to the origin have a value close to 1 however they lie, and for long vectors
    it is close to 0. Near the origin it sees little but the mean. Computed by a singular value decomposition, in
    O(n d min(n, d)), and in logarithms, so that it does not overflow.

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``, or a list of ``(n_i, d)``; the unit matters.
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.

    Returns:
        ``(...)``, one value per cloud, in (0, 1] (0 where that underflows); 1 for a cloud that is all at the origin.

    Raises:
        TypeError: if points are not floating or mask is not bool.
        ValueError: for wrong shapes.
        torch.linalg.LinAlgError: on the CPU, if a real point is not finite.

    Source:
        Arora, Li, Liang, Ma, Risteski 2016, "A latent variable model approach to PMI-based word embeddings" (Z); Mu and
        Viswanath 2018, "All-but-the-top" (the ratio over eigenvectors). Either sign is taken here.

    Example:
        >>> partition_ratio(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))  # Z = 2 cosh 1 along the points and 2 across them
        tensor(0.6481)
    """
    points, mask = computable(points, mask)
    with autocast_off(points):
        along = _along_eigenvectors(points)
        exponents = torch.cat([along, -along], -1)
        n = count(points, mask).unsqueeze(-1)
        if mask is not None:
            exponents = exponents.masked_fill(~mask.unsqueeze(-1), -torch.inf)
        log_z = torch.logsumexp(exponents, -2)
        if along.shape[-1] < points.shape[-1]:
            log_z = torch.cat([log_z, n.log()], -1)
        return (log_z.amin(-1) - log_z.amax(-1)).exp()


def _along_eigenvectors(points: Tensor) -> Tensor:
    """``X V`` for the eigenvectors of X'X that the points have a part in, ``(..., n, min(n, d))``.

    V is found without gradient, since the derivative of torch's decomposition is infinite at repeated eigenvalues wherever
    they are. What the turning of V adds is ``dv_j = sum over i != j of v_i (v_i' d(X'X) v_j) / (l_j - l_i)``; the
    bracket below is zero in value and has this derivative. Directions in which no point lies stay so, to first order.
    """
    with torch.no_grad():
        _, singular, transposed = torch.linalg.svd(points, full_matrices=False)
        eigenvalue = singular.square()
        gap = eigenvalue.unsqueeze(-2) - eigenvalue.unsqueeze(-1)
        resolution = torch.finfo(points.dtype).eps * max(points.shape[-2:]) * eigenvalue[..., :1, None]
        repeated = gap.abs() <= resolution
        weight = torch.where(repeated, 0, 1 / torch.where(repeated, 1, gap))
    along: Tensor = points @ transposed.mT
    products = along.mT @ along
    return along + along.detach() @ (weight * (products - products.detach()))


def _of_unit_size(points: Tensor) -> Tensor:
    """The points over the largest coordinate of their cloud, a constant for the gradient: squares do not overflow."""
    scale = points.detach().abs().amax((-2, -1), keepdim=True)
    return points / torch.where(scale == 0, 1, scale)


def _length(vectors: Tensor) -> Tensor:
    """Euclidean norm, ``(...)``; the gradient at a zero vector is zero, of the second order too."""
    zero = (vectors == 0).all(-1)
    norm = torch.linalg.vector_norm(torch.where(zero.unsqueeze(-1), 1, vectors), dim=-1)
    return torch.where(zero, 0, norm)
