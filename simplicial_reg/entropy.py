"""Persistent entropy: how evenly persistence is spread over the bars of a barcode.

With persistences l_1, ..., l_k, total L = sum l_i and shares p_i = l_i / L,

    entropy     H = -sum p_i log p_i                in [0, log k], log k if and only if all bars are equally long
    normalized  H / log k                           in [0, 1]
    deficit     D = log k - H = KL(p || uniform)    in [0, log k], the quantity to minimise
    Rényi       D_a = log k - log(sum p_i^a) / (1 - a),    D for a = 1, log(k max p_i) for a = inf

in nats. All are invariant to scale, so sum l_i dD/dl_i = 0: minimising D moves length from long bars to short
ones and leaves the total, to first order, as it is. As dD/dl_i = (log p_i + H) / L, exactly the bars longer than
L exp(-H) shrink.

In high dimension the bars of a cloud differ by about one percent, H is 0.99997 log k, and the difference log k - H
keeps hardly a digit of float32. The deficit is therefore a mean of terms that are never negative and do not cancel,

    D = mean of q_i log q_i - (q_i - 1),    q_i = l_i / mean l, which is 1 in the even case,

summed in float64 whatever type the barcode has (except on mps, which has no float64). What error remains is that of
changing the lengths in their last places of float64. The entropy is log k - D. In the same way, with c = a - 1,

    D_a = log(mean q_i^a) / c = log(1 + c mean g(q_i)) / c,    g(q) = q (q^c - 1) / c - (q - 1) >= 0

in which nothing cancels: neither in even barcodes, nor near a = 1, where g(q) is q log q - (q - 1).

Singular input. Only bars of positive, finite persistence enter the sums; k counts all finite bars.

- A bar of length zero (coincident points): 0 log 0 = 0. The derivative is infinite there; it is set to zero, as for
  the length itself.
- All bars of length zero (a collapsed cloud): H = 0, normalized 0, D = D_a = log k, gradient zero. The shares are 0/0 and
  have no limit, but log k is the largest deficit there is: with a smaller value a loss would reward collapse.
  No gradient leads out of it. (One bar of length zero is the next case.)
- One bar: H = 0 and D = D_a = 0; no bar: the same. What cannot be uneven is even, so the normalized entropy, 0/0, is 1.
- An infinite bar is left out, and not counted in k. NaN stays NaN.

Gradients flow into birth and death, any number of times; numbers of bars have none.

Sources: Chintakunta, Gentimis, Gonzalez-Diaz, Jimenez, Krim 2015, "An entropy-based persistence barcode" (H); Atienza,
Gonzalez-Diaz, Soriano-Trigueros 2018, "On the stability of persistent entropy and new summary functions for
topological data analysis"; Rényi 1961, "On measures of entropy and information" (D_a).
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from simplicial_reg._announce import announced
from simplicial_reg._checks import check_number, is_plain

if TYPE_CHECKING:
    from simplicial_reg.barcode import Barcode

__all__ = ["entropy_deficit", "normalized_persistent_entropy", "persistent_entropy", "renyi_deficit"]

ENTROPY, NORMALIZED, DEFICIT = range(3)


def persistent_entropy(bars: Barcode) -> Tensor:
    """Shannon entropy of the shares of total persistence, ``-sum p log p``, in nats.

    Args:
        bars: a barcode whose tensors are ``(..., k)``, in any unit: the entropy does not depend on scale.

    Returns:
        ``(...)``, one value per cloud, in [0, log k] for k finite bars; 0 for no bar, one bar, or bars that are all of
        length zero. Bars of length zero have gradient zero, infinite ones are left out.

    Source:
        Chintakunta et al. 2015.

    Example:
        >>> import torch
        >>> from simplicial_reg import rips_barcode
        >>> points = torch.tensor([[0.0], [1.0], [3.0], [4.0]])  # bars 1, 1, 2: shares 1/4, 1/4, 1/2
        >>> persistent_entropy(rips_barcode(points)[0])  # 3/2 log 2
        tensor(1.0397)
    """
    return _quantity(bars, ENTROPY)


def normalized_persistent_entropy(bars: Barcode) -> Tensor:
    """Persistent entropy over the largest that so many bars can have, ``H / log k``.

    Args:
        bars: a barcode whose tensors are ``(..., k)``, in any unit.

    Returns:
        ``(...)``, one value per cloud, in [0, 1]: 1 if all k finite bars are equally long, 0 if one holds everything or
        if all are of length zero. For one bar and for none this is 0/0; it is set to 1, which equally long bars give
        for every other k. Gradients as for `persistent_entropy`.

    Source:
        Division by the log of the number of bars, as in persim; by the log of the total persistence, as in giotto-tda,
        the result would depend on scale and could be negative.

    Example:
        >>> import torch
        >>> from simplicial_reg import rips_barcode
        >>> normalized_persistent_entropy(rips_barcode(torch.eye(5))[0])  # a regular simplex
        tensor(1.)
    """
    return _quantity(bars, NORMALIZED)


def entropy_deficit(bars: Barcode) -> Tensor:
    """What the persistent entropy lacks to the largest that so many bars can have, ``log k - H``, in nats.

    It is the loss of this package. Not being computed as a difference, it keeps its digits however even the bars are.

    Args:
        bars: a barcode whose tensors are ``(..., k)``, in any unit: the deficit does not depend on scale.

    Returns:
        ``(...)``, one value per cloud, in [0, log k] for k finite bars: 0 if they are equally long (so for one bar and
        for none), log k if one bar holds everything. For a collapsed cloud, all of whose bars are of length zero,
        log k, with gradient zero.

    Source:
        log k less the entropy of Chintakunta et al. 2015, which is the Kullback-Leibler divergence of the shares from
        equal ones.

    Example:
        >>> import torch
        >>> from simplicial_reg import rips_barcode
        >>> points = torch.tensor([[0.0], [1.0], [3.0], [4.0]], requires_grad=True)
        >>> deficit = entropy_deficit(rips_barcode(points)[0])  # log 3 - 3/2 log 2
        >>> round(deficit.item(), 4)
        0.0589
        >>> deficit.backward()
        >>> points.grad.squeeze()  # downhill, the middle edge shrinks and the outer ones grow
        tensor([ 0.0866, -0.1733,  0.1733, -0.0866])
    """
    return _quantity(bars, DEFICIT)


def renyi_deficit(bars: Barcode, alpha: float = math.inf) -> Tensor:
    """What the Rényi entropy of the shares of total persistence lacks to the largest that so many bars can have, in nats.

    ``log k + log(sum p^alpha) / (alpha - 1)``; for alpha = 1 `entropy_deficit`, for alpha = inf ``log(k max p)``. It grows with
    alpha. As `entropy_deficit` it is computed in float64 (except on mps) without cancellation.

    Args:
        bars: a barcode whose tensors are ``(..., k)``, in any unit: the deficit does not depend on scale.
        alpha: order, positive; may be infinite.

    Returns:
        ``(...)``, one value per cloud, in [0, log k] for k finite bars: 0 if they are equally long (so for one bar and for
        none), log k if one bar holds everything and for bars that are all of length zero. Bars of length zero have gradient zero,
        infinite ones are left out. For infinite alpha bars that are the longest together share its gradient evenly, so that it
        is zero for equal bars.

    Raises:
        TypeError: if alpha is not a number.
        ValueError: if alpha is not positive.

    Source:
        Rényi 1961, "On measures of entropy and information".

    Example:
        >>> import torch
        >>> from simplicial_reg import rips_barcode
        >>> bars = rips_barcode(torch.tensor([[0.0], [1.0], [3.0], [4.0]]))[0]  # shares 1/4, 1/4, 1/2
        >>> renyi_deficit(bars, 2.0)  # log(3 · 3/8)
        tensor(0.1178)
    """
    check_number("alpha", alpha, above=0, most=math.inf)
    persistence = bars.persistence
    if alpha == 1 or persistence.shape[-1] == 0:
        return entropy_deficit(bars)
    length, _, count = _in_units_of_the_longest(persistence, bars.mask)
    collapsed = (length.detach() == 0).all(-1, keepdim=True)
    mean = torch.where(collapsed, 1, length.sum(-1, keepdim=True) / count)
    if math.isinf(alpha):
        deficit = (torch.where(collapsed, 1, length.amax(-1, keepdim=True)) / mean).log()
    else:
        deficit = _finite_order(length, mean, bars.mask & (persistence != math.inf), count, alpha)
    deficit = torch.where(collapsed, count.log(), deficit)
    # Rounding may leave the range by one unit in the last place. A clamp alone would stop the derivatives there.
    rounded = deficit.detach()
    deficit = deficit + (rounded.clamp_min(0).minimum(count.log()) - rounded)
    return deficit.squeeze(-1).to(persistence.dtype)


def _quantity(bars: Barcode, kind: int) -> Tensor:
    persistence, mask = bars.persistence, bars.mask
    if persistence.shape[-1] == 0:
        # There is no longest bar to take as the unit. A square is differentiable as often as what follows.
        return persistence.square().sum(-1) + (1 if kind == NORMALIZED else 0)
    if not (is_plain(persistence) and is_plain(mask)):
        return _evaluate(persistence, mask, kind)[0]
    value: Tensor = _Quantity.apply(persistence, mask, kind)  # type: ignore[no-untyped-call]
    return value


def _evaluate(persistence: Tensor, mask: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    """The quantity (...) and, without gradient, its derivative (..., k).

    In torch operations that may be differentiated, mapped and compiled. None gives NaN or infinity for a later one to
    mask, because to a derivative a mask is a multiplication by zero.
    """
    length, unit, count = _in_units_of_the_longest(persistence, mask)
    present = length.detach().sign()
    positive = present.sum(-1, keepdim=True).clamp_min(1)
    total = length.sum(-1, keepdim=True).clamp_min(1)  # it is at least 1, unless all are zero
    share = length / (total / positive)  # q
    log_share = torch.where(share == 0, 1.0, share).log()
    deficit = torch.addcmul(present - share, share, log_share).sum(-1, keepdim=True) / positive
    # So far the deficit among the bars of positive length; every quantity is offset + scale * that, and at most `most`.
    one = torch.ones_like(positive)
    if kind == ENTROPY:
        offset, scale, most = positive.log(), -one, positive.log()
    elif kind == DEFICIT:
        offset, scale, most = (count / positive).log(), one, count.log()
    else:
        log_count = count.clamp_min(2).log()
        offset, scale, most = torch.where(count == 1, 1.0, positive.log() / log_count), -1 / log_count, one
    value = offset + scale * deficit
    # Rounding may leave the range by one unit in the last place. A clamp alone would stop the derivatives there.
    rounded = value.detach()
    value = value + (rounded.clamp_min(0).minimum(most) - rounded)
    slope = (scale * present * (log_share - deficit) / total / unit).detach()
    return value.squeeze(-1).to(persistence.dtype), slope.to(persistence.dtype)


def _in_units_of_the_longest(persistence: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lengths (..., k), zero for infinite bars; the unit (..., 1), a constant; number (..., 1) of finite bars, at least 1."""
    wide = torch.float32 if persistence.device.type == "mps" else torch.float64
    # Padding has length zero and drops out as bars of length zero do. relu has derivative zero at zero and keeps NaN.
    length = torch.nan_to_num(persistence, nan=math.nan, posinf=0.0).relu().to(wide)
    # Nothing depends on scale. In units of the longest bar equal bars are exactly 1, and no sum or square overflows.
    unit = length.detach().amax(-1, keepdim=True)
    unit = torch.where(unit == 0, 1.0, unit)
    count = (mask & (persistence != math.inf)).to(wide).sum(-1, keepdim=True).clamp_min(1)
    return length / unit, unit, count


class _Quantity(torch.autograd.Function):
    """`_evaluate` with its derivative written out, and on the CPU in one pass over the bars.

    With sixty bars the time goes into calling the twenty operations and their derivatives, not into arithmetic.
    """

    @staticmethod
    def forward(ctx: Any, persistence: Tensor, mask: Tensor, kind: int) -> Tensor:
        runs_kernel = persistence.device.type == "cpu" and persistence.dtype in (torch.float32, torch.float64)
        value, slope = (_evaluate_by_kernel if runs_kernel else _evaluate)(persistence, mask, kind)
        ctx.save_for_backward(persistence, mask, slope)
        ctx.kind = kind
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        persistence, mask, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: differentiate the plain formula instead
            value, _ = _evaluate(persistence, mask, ctx.kind)
            (slope,) = torch.autograd.grad(value, persistence, torch.ones_like(value), create_graph=True)
        return grad.unsqueeze(-1) * slope, None, None


def _evaluate_by_kernel(persistence: Tensor, mask: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    k = persistence.shape[-1]
    value, slope = persistence.new_empty(persistence.shape[:-1]), persistence.new_empty(persistence.shape)
    lengths, real = persistence.detach().contiguous().numpy(), mask.contiguous().numpy()
    with announced("entropy", persistence.dtype):
        _kernel()(
            lengths.reshape(-1, k), real.reshape(-1, k), kind, value.numpy().reshape(-1), slope.numpy().reshape(-1, k)
        )
    return value, slope


@functools.cache
def _kernel() -> Any:
    from simplicial_reg._jit import kernel  # here, because importing this module must not load a compiler

    return kernel(_one_pass, error_model="numpy")  # type: ignore[no-untyped-call]  # 0/0 is NaN


def _one_pass(persistence: Any, mask: Any, kind: int, value: Any, slope: Any) -> None:
    """`_evaluate` for arrays (B, k), plain Python for Numba; the results are written to value (B,) and slope (B, k).

    Sums are in float64; `slope` holds the log q meanwhile.
    """
    for cloud in range(persistence.shape[0]):
        unit = 0.0
        for length in persistence[cloud]:
            if length != math.inf:
                unit = max(unit, length)
        count = positive = 0
        total = 0.0
        for bar, length in enumerate(persistence[cloud]):
            count += mask[cloud, bar] and length != math.inf
            if length != math.inf and not length <= 0:  # NaN counts: it shall be seen
                positive += 1
                total += length / unit
        deficit = 0.0
        for bar, length in enumerate(persistence[cloud]):
            slope[cloud, bar] = 0
            if length != math.inf and not length <= 0:
                share = length / unit / (total / positive)
                log_share = math.log(share) if share != 0 else 0.0
                deficit += share * log_share - (share - 1)
                slope[cloud, bar] = log_share
        positive = max(positive, 1)
        deficit /= positive
        if kind == ENTROPY:
            offset, scale, most = math.log(positive), -1.0, math.log(positive)
        elif kind == DEFICIT:
            offset, scale, most = math.log(max(count, 1) / positive), 1.0, math.log(max(count, 1))
        else:
            log_count = math.log(max(count, 2))
            offset, scale, most = 1.0 if count <= 1 else math.log(positive) / log_count, -1 / log_count, 1.0
        quantity = offset + scale * deficit
        value[cloud] = 0.0 if quantity < 0 else most if quantity > most else quantity
        for bar, length in enumerate(persistence[cloud]):
            if length != math.inf and not length <= 0:
                slope[cloud, bar] = scale * (slope[cloud, bar] - deficit) / total / unit


def _finite_order(length: Tensor, mean: Tensor, real: Tensor, count: Tensor, alpha: float) -> Tensor:
    """The Rényi deficit (..., 1) of lengths (..., k) in units of the longest; padding has length zero."""
    c = alpha - 1
    # The derivative of a logarithm overflows below the smallest normal number, and q^c has none at zero for c < 0.
    positive = ~(length < torch.finfo(length.dtype).tiny)  # NaN counts: it shall be seen
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
