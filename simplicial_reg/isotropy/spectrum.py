"""Measures of the spectrum: over how many directions a cloud spreads its variance.

With S the covariance of a cloud of n points in d dimensions (over n - 1), lambda_1 >= lambda_2 >= ... its eigenvalues and
sigma_1 >= sigma_2 >= ... the singular values of the (centred) points,

    participation ratio   PR = (tr S)² / ||S||² = (sum lambda)² / sum lambda²     in [1, d], Frobenius norm
    IsoScore              (PR - 1) / (d - 1)                                      in [0, 1]
    effective rank        exp(-sum p log p),  p = sigma / sum sigma               in [1, min(n - 1, d)]
    share of the top k    (lambda_1 + ... + lambda_k) / sum lambda                in [k / d, 1]

IsoScore without a decomposition. Its authors take the eigenvalues as a vector lambda of length d, scale it to norm sqrt(d),
measure the distance delta = ||sqrt(d) lambda / ||lambda|| - 1|| / sqrt(2 (d - sqrt d)) to the vector of ones, and report
((d - delta² (d - sqrt d))² - d) / (d (d - 1)). The squared distance expands to d - 2 sqrt(d) tr S / ||S|| + d, so
delta² (d - sqrt d) = d - sqrt(d PR), and the square is d PR: the score is (PR - 1) / (d - 1), exactly. It needs a trace and a
norm, which the smaller of the products X X' (n, n) and X' X (d, d) of the centred points gives.

IsoScore* is the IsoScore of (1 - zeta) S + zeta S_0 with a covariance S_0 that was estimated from more points than one batch
has. If X' X is not formed, ||(1 - zeta) S + zeta S_0||² is expanded, with <S, S_0> = sum X * (X S_0) / (n - 1).

Small clouds. n - 1 deviations cannot fill d dimensions, and every measure here is biased downwards by that. For points of an
isotropic Gaussian, 1 / PR has the mean (m + d + 1) / (m d + 2), m = n - 1, exactly: the trace of a Wishart matrix is
independent of its shape, so the mean of the ratio is the ratio of the means, E ||S||² = d (m + d + 1) / m and
E (tr S)² = d (m d + 2) / m. `participation_ratio_null` is the inverse of that, about d / (1 + d / m); the IsoScore that
belongs to it is (n - 2) / (n + d).

Singular input. A cloud without variance (one point, all points equal) has PR 1, IsoScore 0, effective rank 1 and top share 1,
with gradient zero: 0/0 everywhere, set to the least isotropic value there is, so that a loss does not reward collapse. In
one dimension (PR - 1) / (d - 1) is 0/0 for every cloud; one that varies has IsoScore 1, since it uses all the dimensions it
has. A singular value that rounding cannot tell from zero, at most sigma_1 max(n, d) eps, is zero, and there
-p log p = 0 with gradient zero (it is infinite). A cloud that holds NaN or infinity has the value NaN.

Where gradients stop: nowhere in the points; the shrinkage covariance, numbers of points and units are constants. First
derivatives of singular values and eigenvalues exist for repeated ones too, second ones only for distinct ones; those of
the participation ratio and the IsoScores always exist.

Sources: Rudman, Gillman, Rayne, Eickhoff 2022, "IsoScore: Measuring the Uniformity of Embedding Space Utilization"; Rudman,
Eickhoff 2024, "Stable Anisotropic Regularization" (IsoScore*); Roy, Vetterli 2007, "The effective rank: a measure of
effective dimensionality"; Garrido, Balestriero, Najman, LeCun 2023, "RankMe: Assessing the Downstream Performance of
Pretrained Self-Supervised Representations by Their Rank".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from simplicial_reg._autocast import autocast_off
from simplicial_reg._checks import check_count, check_number, computable, is_plain
from simplicial_reg._moments import centred as deviations_of
from simplicial_reg._moments import count

__all__ = [
    "effective_rank",
    "entropy_of",
    "isoscore",
    "isoscore_of",
    "isoscore_star",
    "isoscore_star_of",
    "participation_ratio",
    "participation_ratio_null",
    "participation_ratio_over_null",
    "rankme",
    "rankme_of",
    "ratio_of",
    "spectral_entropy",
    "squared_norm",
    "top_variance_share",
    "trace_and_norm",
]


def participation_ratio(points: Tensor | Sequence[Tensor], *, mask: Tensor | None = None) -> Tensor:
    """Number of directions that a cloud's variance is spread over, ``(tr S)² / ||S||²``.

    k directions of equal variance, and none in the others, give k.

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``, or a list of ``(n_i, d)``, in any unit: the ratio does not depend
            on translation, rotation or scale.
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.

    Returns:
        ``(...)``, one value per cloud, in [1, min(n - 1, d)]; 1 for a cloud without variance, with gradient zero. An
        isotropic Gaussian has about `participation_ratio_null`, not d. It cannot see where the mean is, nor anything
        beyond second moments: clusters and a Gaussian of the same covariance are the same. Cost: one product, O(n d min(n, d)).

    Raises:
        TypeError: if points are not floating or mask is not bool.
        ValueError: for wrong shapes.

    Source:
        The trace form; that it is IsoScore in another unit is derived in the module's docstring.

    Example:
        >>> import torch
        >>> participation_ratio(
        ...     torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
        ... )  # a plane of three dimensions
        tensor(2.)
    """
    points, mask = computable(points, mask)
    with autocast_off(points):
        return ratio_of(*_of_covariance(points, mask), points.shape[-1])


def participation_ratio_over_null(points: Tensor | Sequence[Tensor], *, mask: Tensor | None = None) -> Tensor:
    """Participation ratio over that of an isotropic Gaussian cloud of as many points and dimensions.

    It takes the smallness of the cloud out: ``participation_ratio(points) / participation_ratio_null(n, d)``.

    Args:
        points: as for `participation_ratio`.
        mask: as for `participation_ratio`.

    Returns:
        ``(...)``, positive. 1 in the harmonic mean for an isotropic Gaussian; up to 1 + d / (n - 1), about, for a
        cloud that is more regular than a random one. Cannot see and cost: as `participation_ratio`.

    Raises:
        TypeError: if points are not floating or mask is not bool.
        ValueError: for wrong shapes.

    Source:
        The null is derived in the module's docstring.

    Example:
        >>> import torch
        >>> points = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
        >>> participation_ratio_over_null(points)  # 2 over 11/7
        tensor(1.2727)
    """
    points, mask = computable(points, mask)
    with autocast_off(points):
        ratio = ratio_of(*_of_covariance(points, mask), points.shape[-1])
        null: Tensor = _null((count(points, mask) - 1).clamp_min(1), points.shape[-1])
        return ratio / null


def participation_ratio_null(n: float, d: int) -> float:
    """Participation ratio of n points of an isotropic Gaussian in d dimensions: ``((n - 1) d + 2) / (n + d)``.

    Exactly, ``1 / E[1 / PR]``; by Jensen's inequality a little less than E[PR]. It goes to d for n much larger than d.

    Args:
        n: number of points, at least 1; a fraction where points have weights.
        d: number of dimensions, at least 1.

    Returns:
        A number in [1, d]. The IsoScore that belongs to it is ``(n - 2) / (n + d)`` for n >= 2.

    Raises:
        TypeError: if n is not a number or d is not an int.
        ValueError: if n or d is less than 1.

    Source:
        First two moments of a Wishart matrix with n - 1 degrees of freedom; see the module's docstring.

    Example:
        >>> participation_ratio_null(64, 768)  # a batch of 64 cannot look more isotropic than this
        58.15625
    """
    check_number("n", n, least=1)
    check_count("d", d, 1)
    return float(_null(max(n - 1, 1), d))


def _null(dof: Any, d: int) -> Any:
    return (dof * d + 2) / (dof + d + 1)


def isoscore(points: Tensor | Sequence[Tensor], *, mask: Tensor | None = None) -> Tensor:
    """IsoScore: the share of its dimensions that a cloud uses, ``(PR - 1) / (d - 1)``.

    Args:
        points: as for `participation_ratio`.
        mask: as for `participation_ratio`.

    Returns:
        ``(...)``, in [0, 1]: 1 if and only if all directions have the same variance, 0 if one has all of it or if there is
        none. About (n - 2) / (n + d) for an isotropic Gaussian. In one dimension 1, or 0 without variance. Cannot see and
        cost: as `participation_ratio`.

    Raises:
        TypeError: if points are not floating or mask is not bool.
        ValueError: for wrong shapes.

    Source:
        Rudman et al. 2022, in the closed form of the module's docstring.

    Example:
        >>> import torch
        >>> isoscore(torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]))
        tensor(0.5000)
    """
    return isoscore_star(points, mask=mask)


def isoscore_star(
    points: Tensor | Sequence[Tensor],
    *,
    shrinkage: float = 0.0,
    covariance: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """IsoScore*: the IsoScore of the cloud's covariance drawn towards a better estimated one.

    ``(PR(S) - 1) / (d - 1)`` with ``S = (1 - shrinkage) cov(points) + shrinkage covariance``.

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``, or a list of ``(n_i, d)``. With shrinkage the unit matters: it is
            that of covariance, which is not shifted by a translation but grows with the square of the scale.
        shrinkage: the authors' zeta, in [0, 1]. 0: IsoScore; 1: the score of covariance alone, with gradient zero.
        covariance: ``(d, d)``, symmetric and positive semi-definite (not checked), required for shrinkage > 0: for instance
            that of `Moments` over many batches. A constant: no gradient flows into it.
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.

    Returns:
        ``(...)``, in [0, 1]. Without shrinkage as `isoscore`. With shrinkage one point, or a cloud without variance, has the
        score of covariance alone: **the score cannot see that a batch collapses** while covariance remembers that it
        had not. Cost: one or two products, O(n d min(n, d) + n d²).

    Raises:
        TypeError: if points or covariance are not floating or mask is not bool.
        ValueError: for wrong shapes, or if covariance is missing.

    Source:
        Rudman, Eickhoff 2024. The authors' code uses shrinkage 0.2 in training and 0.75 in evaluation; 0 here, because
        there is no covariance to start with.

    Example:
        >>> import torch
        >>> line = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])  # its covariance is diag(2, 0)
        >>> isoscore_star(line, shrinkage=0.5, covariance=torch.eye(2))  # the score of diag(3/2, 1/2): 4 / 2.5 - 1
        tensor(0.6000)
    """
    check_number("shrinkage", shrinkage, least=0, most=1)
    points, mask = computable(points, mask)
    if shrinkage > 0:
        _check_covariance(covariance, points.shape[-1])
    with autocast_off(points):
        return isoscore_of(*_of_covariance(points, mask, shrinkage, covariance), points.shape[-1])


def isoscore_star_of(matrix: Tensor, shrinkage: float = 0.0, covariance: Tensor | None = None) -> Tensor:
    """IsoScore* of a covariance ``(d, d)`` itself, with the arguments of `isoscore_star`."""
    check_number("shrinkage", shrinkage, least=0, most=1)
    if shrinkage > 0:
        _check_covariance(covariance, len(matrix))
        matrix = torch.lerp(matrix, covariance.to(matrix), shrinkage)  # type: ignore[union-attr]  # checked
    return isoscore_of(matrix.trace(), matrix.square().sum(), len(matrix))


def _check_covariance(covariance: Any, d: int) -> None:
    if covariance is None:
        raise ValueError(
            "covariance must be given with shrinkage > 0, a (d, d) tensor such as Moments gives; got None; "
            "without one, use shrinkage=0.0"
        )
    if not isinstance(covariance, Tensor) or not covariance.is_floating_point():
        got = covariance.dtype if isinstance(covariance, Tensor) else type(covariance).__name__
        raise TypeError(f"covariance must be a floating-point tensor; got {got}")
    if covariance.shape != (d, d):
        raise ValueError(
            f"covariance must have shape {(d, d)} for points of {d} coordinates; got {tuple(covariance.shape)}"
        )


def _of_covariance(
    points: Tensor, mask: Tensor | None, shrinkage: float = 0.0, covariance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Trace and squared Frobenius norm of the (shrunk) covariance in some unit; both are zero if and only if it is."""
    deviations = deviations_of(points, mask)
    largest = deviations.detach().abs().amax((-2, -1))
    if shrinkage == 0 or covariance is None:
        # Neither the number of points nor the unit changes the ratio, but without one fourth powers over- and underflow.
        scaled = deviations / _or_one(largest)[..., None, None]
        return trace_and_norm(scaled)
    covariance = covariance.detach().to(device=points.device, dtype=points.dtype)
    diagonal = covariance.diagonal()
    # One unit for all clouds: it has to be the same for points and covariance, and (d, d) is not repeated for each cloud.
    unit = _or_one(torch.maximum(largest.amax(), diagonal.abs().amax().sqrt()))
    dof = (count(points, mask) - 1).clamp_min(1)
    scaled = deviations * (math.sqrt(1 - shrinkage) / (unit * dof.sqrt()))[..., None, None]
    weight = shrinkage / unit.square()
    trace, norm = trace_and_norm(scaled, covariance * weight)
    return trace + weight * diagonal.sum(), norm


def _or_one(unit: Tensor) -> Tensor:
    return torch.where(unit == 0, 1, unit)


def ratio_of(trace: Tensor, norm: Tensor, d: int) -> Tensor:
    """Participation ratio of trace and squared norm of a covariance; 1, with gradient zero, if both are zero."""
    zero = (norm == 0).to(norm.dtype)
    return within((trace + zero).square() / (norm + zero), 1, d)


def isoscore_of(trace: Tensor, norm: Tensor, d: int) -> Tensor:
    """IsoScore of trace and squared norm of a covariance in d dimensions; 0 if both are zero."""
    ratio = ratio_of(trace, norm, d)
    if d == 1:
        return ratio - (norm == 0).to(norm.dtype)  # the ratio is 1, a constant
    return within((ratio - 1) / (d - 1), 0, 1)


def within(value: Tensor, low: float, high: float) -> Tensor:
    """Rounding may leave the range by one unit in the last place. A clamp alone would stop the derivatives there."""
    rounded = value.detach()
    return value + (rounded.clamp(low, high) - rounded)


# --- norms without decompositions ---------------------------------------------------------------------------------------------


# Eight blocks leave 9/16 of the work; a product of fewer rows is over before the blocks would pay.
BLOCKS, WORTH_BLOCKS = 8, 384


def squared_norm(points: Tensor) -> Tensor:
    """``||X' X||²``, Frobenius, ``(...)``, by the smaller product."""
    return trace_and_norm(points)[1]


def trace_and_norm(points: Tensor, extra: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``tr X' X`` and ``||X' X + extra||²``, Frobenius, each ``(...)``; extra is a symmetric constant ``(d, d)``."""
    if not is_plain(points):
        return _trace_and_norm(points, extra)[:2]
    trace, norm = _TraceAndNorm.apply(points, extra)  # type: ignore[no-untyped-call]
    return trace, norm


def _is_wide(points: Tensor, extra: Tensor | None) -> bool:
    """Whether X X' (n, n) takes less work than X' X (d, d): with extra, X X' takes a product with extra besides."""
    n, d = points.shape[-2:]
    return n < d if extra is None else 2 * n < d


def _trace_and_norm(points: Tensor, extra: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Trace and squared norm, and what their derivative is made of: X X' and X extra, or X' X + extra and None."""
    wide = _is_wide(points, extra)
    product = _times_its_transpose(points if wide else points.mT)
    trace = product.diagonal(dim1=-2, dim2=-1).sum(-1)
    if extra is None:
        return trace, product.square().sum((-2, -1)), product, None
    if not wide:
        product = product + extra
        return trace, product.square().sum((-2, -1)), product, None
    # <X'X, extra> = sum X * (X extra), so that X'X is never formed.
    mixed = points @ extra
    norm = product.square().sum((-2, -1)) + 2 * (points * mixed).sum((-2, -1)) + extra.square().sum()
    return trace, norm, product, mixed


def _times_its_transpose(matrix: Tensor) -> Tensor:
    """``A A'``, of which on the CPU only the upper half is multiplied out, by blocks: the lower half is the same."""
    m = matrix.shape[-2]
    if m < WORTH_BLOCKS or matrix.device.type != "cpu" or torch.is_grad_enabled() or not is_plain(matrix):
        return matrix @ matrix.mT
    product = matrix.new_empty(*matrix.shape[:-1], m)
    for block in range(BLOCKS):
        rows, rest = slice(m * block // BLOCKS, m * (block + 1) // BLOCKS), slice(m * block // BLOCKS, m)
        torch.matmul(matrix[..., rows, :], matrix[..., rest, :].mT, out=product[..., rows, rest])
        product[..., rest, rows] = product[..., rows, rest].mT
    return product


class _TraceAndNorm(torch.autograd.Function):
    """`_trace_and_norm` with its derivative 2 X and 4 X (X' X + extra), which is one product instead of the two of autograd."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, extra: Tensor | None) -> tuple[Tensor, Tensor]:
        trace, norm, product, mixed = _trace_and_norm(points, extra)
        ctx.save_for_backward(points, extra, product, mixed)
        return trace, norm

    @staticmethod
    def backward(ctx: Any, grad_trace: Tensor, grad_norm: Tensor) -> tuple[Tensor, None]:
        points, extra, product, mixed = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: then the products depend on the points
            _, _, product, mixed = _trace_and_norm(points, extra)
        norm = 4 * grad_norm[..., None, None]
        # Both at once, as X (4 g (X'X + extra) + 2 h I), so that no further pass over the points is needed.
        both = norm * product
        both.diagonal(dim1=-2, dim2=-1).add_(2 * grad_trace[..., None])
        if not _is_wide(points, extra):
            return points @ both, None
        slope = both @ points
        return slope if mixed is None else slope + norm * mixed, None


# --- singular values ----------------------------------------------------------------------------------------------------------


def effective_rank(points: Tensor | Sequence[Tensor], *, centred: bool = True, mask: Tensor | None = None) -> Tensor:
    """Effective rank: the exponential of the entropy of the normalised singular values of the points.

    ``exp(-sum p log p)`` with ``p = sigma / sum sigma``. k equal singular values, and no others, give k.

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``, or a list of ``(n_i, d)``, in any unit: the rank does not depend on
            rotation or scale, nor, if centred, on translation.
        centred: whether the mean is taken away first. Roy and Vetterli leave it; then an offset from the origin counts as
            one dominant direction.
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.

    Returns:
        ``(...)``, in [1, min(n - 1, d)], centred, or [1, min(n, d)]; 1 for a cloud without variance (at the origin, if not
        centred), with gradient zero. For an isotropic Gaussian it goes to d for n much larger than d; for n about
        d it is well below, and there is no closed form: compare with a drawn one. It cannot see beyond second moments.
        Cost: a singular value decomposition, O(n d min(n, d)) with a large constant. (From a product of the points with
        themselves, singular values below sqrt(eps) of the largest would be lost, and entropy counts those.)

    Raises:
        TypeError: if points are not floating or mask is not bool.
        ValueError: for wrong shapes.

    Source:
        Roy, Vetterli 2007; centring is this package's default.

    Example:
        >>> import torch
        >>> rank = effective_rank(torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]))
        >>> round(rank.item(), 4)
        2.0
    """
    points, mask = computable(points, mask)
    with autocast_off(points):
        return spectral_entropy(points, mask, centred).exp()


def rankme(points: Tensor | Sequence[Tensor], *, eps: float = 1e-7, mask: Tensor | None = None) -> Tensor:
    """RankMe: the effective rank of the points as they are, with eps added to each share.

    ``exp(-sum p log p)`` with ``p_k = sigma_k / sum sigma + eps``, over min(n, d) singular values of the uncentred points.

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``, or a list of ``(n_i, d)``, in any unit.
        eps: added to each share, positive.
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.

    Returns:
        ``(...)``, in [1, min(n, d)] up to a relative excess of about min(n, d) eps log(1 / eps), which eps brings. That excess
        over 1 for one point, and for points that are all equal or all zero. Null and cost: as `effective_rank`. It takes an
        offset from the origin for a direction of variance, and cannot see beyond second moments.

    Raises:
        TypeError: if points are not floating or mask is not bool.
        ValueError: for wrong shapes, or if eps is not positive.

    Source:
        Garrido et al. 2023. The default of eps is about the precision of float32.

    Example:
        >>> import torch
        >>> round(rankme(torch.eye(4)).item(), 3)
        4.0
    """
    check_number("eps", eps, above=0)
    points, mask = computable(points, mask)
    with autocast_off(points):
        return rankme_of(_singular_values(points, mask, centred=False), count(points, mask), eps)


def rankme_of(sigma: Tensor, count: Tensor, eps: float = 1e-7) -> Tensor:
    """RankMe of singular values ``(..., k)``, descending, of which the first ``count`` are there, or all."""
    share = _shares(sigma) + eps
    # A cloud has min(n, d) singular values; those that padding adds would bring eps with them.
    real = torch.arange(share.shape[-1], device=share.device) < count[..., None]
    return torch.where(real, -share * share.log(), 0).sum(-1).exp()


def spectral_entropy(points: Tensor, mask: Tensor | None, centred: bool) -> Tensor:
    """Entropy of the normalised singular values, ``(...)``, in nats; 0 if all are zero."""
    return entropy_of(_singular_values(points, mask, centred))


def entropy_of(sigma: Tensor) -> Tensor:
    """Entropy of the shares of singular values ``(..., k)`` in their sum, in nats; 0 if all are zero."""
    share = _shares(sigma)
    log_share = torch.where(share == 0, 1, share).log()  # 0 log 0 = 0, and so its derivative
    return within(-(share * log_share).sum(-1), 0, math.log(share.shape[-1]))


def _shares(sigma: Tensor) -> Tensor:
    total = sigma.sum(-1, keepdim=True)
    return sigma / torch.where(total == 0, 1, total)


def _singular_values(points: Tensor, mask: Tensor | None, centred: bool) -> Tensor:
    """Singular values ``(..., min(n, d))``, descending, exactly zero where rounding cannot tell them from zero."""
    matrix, finite = _finite(deviations_of(points, mask) if centred else points)
    sigma = torch.linalg.svdvals(matrix)
    floor = sigma.detach()[..., :1] * (max(matrix.shape[-2:]) * torch.finfo(sigma.dtype).eps)
    return torch.where(finite, torch.where(sigma > floor, sigma, 0), math.nan)


def _finite(points: Tensor) -> tuple[Tensor, Tensor]:
    """The clouds with those that hold NaN or infinity set to zero, at which decompositions raise, and a mask ``(..., 1)``."""
    finite = points.detach().isfinite().all(-1).all(-1, keepdim=True)
    return torch.where(finite.unsqueeze(-1), points, 0), finite


def top_variance_share(
    points: Tensor | Sequence[Tensor], k: int = 1, *, centred: bool = True, mask: Tensor | None = None
) -> Tensor:
    """Share of a cloud's variance that its k dominant directions hold, ``(lambda_1 + ... + lambda_k) / sum lambda``.

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``, or a list of ``(n_i, d)``, in any unit: the share does not depend on
            rotation or scale, nor, if centred, on translation.
        k: number of directions, at least 1.
        centred: False for shares of the second moment about the origin instead of the variance.
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.

    Returns:
        ``(...)``, in [k / min(n - 1, d), 1], centred, or [k / min(n, d), 1]; 1 for a cloud without variance (at the
        origin, if not centred), with gradient zero. For an isotropic Gaussian and k = 1 about (1 + sqrt(d / (n - 1)))² / d
        for large n and d, the upper edge of the Marchenko-Pastur law. It cannot see how the rest is spread, nor beyond
        second moments. Cost: one product and the eigenvalues of the smaller side, O(n d min(n, d)); they are exact relative
        to the largest, which is enough here.

    Raises:
        TypeError: if points are not floating, mask is not bool or k is not an int.
        ValueError: for wrong shapes or k < 1.

    Source:
        Explained variance of a principal component analysis (Pearson 1901; Hotelling 1933).

    Example:
        >>> import torch
        >>> top_variance_share(torch.tensor([[2.0, 0], [-2, 0], [0, 1], [0, -1]]))  # variances 8/3 and 2/3
        tensor(0.8000)
    """
    check_count("k", k, 1)
    points, mask = computable(points, mask)
    with autocast_off(points):
        matrix, finite = _finite(deviations_of(points, mask) if centred else points)
        matrix = matrix / _or_one(matrix.detach().abs().amax((-2, -1), keepdim=True))
        product = matrix @ matrix.mT if matrix.shape[-2] < matrix.shape[-1] else matrix.mT @ matrix
        top = torch.linalg.eigvalsh(product)[..., -k:].sum(-1)
        total = matrix.square().sum((-2, -1))
        zero = (total == 0).to(total.dtype)
        return torch.where(finite.squeeze(-1), within((top + zero) / (total + zero), 0, 1), math.nan)
