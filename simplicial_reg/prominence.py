"""Which bars are features and which are noise, by persistent entropy.

All methods sort the bars, l_1 >= ... >= l_n, and ask how much the longest ones disturb the entropy. To *neutralise* the
first i bars is to give them the common length for which the entropy is largest, the others, R_i, being as they are.
With S the total and H the entropy,

    neutral length            g_i = S(R_i) exp(-H(R_i)) = exp(sum l log l / sum l), sums over R_i
    the neutralised barcode   L'_i has H(L'_i) = log(i + exp H(R_i)) and S(L'_i) = S(R_i) + i g_i

so everything comes from sums over R_i, that is, from cumulative sums.

"agr2016" (Atienza, Gonzalez-Diaz, Rucco 2016, arXiv 1605.02885): bar i is a feature if neutralising it, too, brings
    more than i/n of what the entropy lacks, H(L'_i) - H(L'_{i-1}) > (i/n) (log n - H(L)). A bar that is longer than a
    feature is one as well: this is our addition, without which, of five equal bars that stand out far enough, only the
    fifth would count. There may be no feature at all.

"agr2017" (the same, arXiv 1701.07857, J. Intell. Inf. Syst. 52, 2019): T and r are the longest and the shortest bar,
    a = r/T. The others come first, in order, then r, then T. Let i be the first number for which neutralising makes T
    relatively smaller, S(L'_i) > S(L'_{i-1}), and Q = n a (a - 1 - log a) / (1 - a)^2, which is the number of long bars
    in the barcode of least entropy that has n bars of lengths T and r. If Q >= i, the first i bars and T are the
    features. If not, only these and r stay in play, n = i + 2, and i is looked for again, with the same a. A round that
    drops nothing is the last. (As S(L'_i) - S(L'_{i-1}) = (g_i - l_i) + (i - 1)(g_i - g_{i-1}) and g_{i-1} lies between
    l_i and g_i, the first i is that of the first bar that is shorter than its neutral length, l_i < g_i. Without bars
    after it g_i is only longer, so from the second round on i is at most what it was, and r is never a feature there.)

    In the paper T is the bar that never dies, cut at the enclosing radius min_i max_j d(i, j). A barcode made with
    ``essential="enclosing_radius"`` holds that bar, and it is the longest unless a cluster lies farther off than the
    radius. With ``essential="drop"`` T is the longest finite bar.

"shrink-the-longest" (Kudriashov, Karpik, Klyshinsky 2025, arXiv 2501.05502): agr2017 as the code of that paper has it,
    so that its experiments can be repeated. It looks for i among 1, ..., n - 3 only, takes n - 3 if there is none, and
    rounds Q up. T is the longest finite bar: use it with ``essential="drop"``. Where that code works, this keeps the
    same bars. That code fails for fewer than four bars (here the longest is kept, which is where n - 3 leads), and for
    bars of length zero or of equal length (here as below).

On H0 of k well separated clusters in high dimension agr2016 finds the k - 1 edges between them, and the other two one
bar more.

Singular input, for every method. Bars of length zero are noise and do not count in n. Infinite bars are features and do
not count in n; neither does NaN, which stays, to be seen. If all other bars are equally long up to rounding, nothing
tells noise from features, and all of them are kept; so is a single bar. No bars are no bars. Of equally long bars the
earlier ones come first.

The selection is made without gradient, in float64 on the CPU: it waits for an accelerator, and torch.compile and
torch.func do not see through it. Gradients flow into the births and deaths of the bars that are kept. A round takes
O(n log n); agr2016 has one, agr2017 a few, shrink-the-longest up to n.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicial_reg._checks import check_choice
from simplicial_reg.barcode import Barcode, masked

__all__ = ["METHODS", "prominent"]

Lengths = npt.NDArray[np.float64]

EQUAL = 8  # bars that differ by no more units in the last place are equally long: their order is rounding


def prominent(bars: Barcode, method: str = "agr2017") -> Barcode:
    """The barcode with its noise masked out.

    Args:
        bars: a barcode whose tensors are ``(..., k)``, in any unit: the selection does not depend on scale.
        method: "agr2017", "agr2016" or "shrink-the-longest", a name in ``METHODS``; the module says what they do.

    Returns:
        A barcode of the same shape. Features are as they were, with their gradient; noise has become padding: mask
        False, and birth, death and edges zero.

    Raises:
        ValueError: for an unknown method.

    Source:
        Atienza, Gonzalez-Diaz, Rucco 2016 and 2019; Kudriashov, Karpik, Klyshinsky 2025.

    Example:
        >>> import torch
        >>> from simplicial_reg import rips_barcode
        >>> bars = rips_barcode(torch.tensor([[0.0], [1.0], [3.0], [20.0], [21.5], [22.5]]))[0]
        >>> bars.death
        tensor([ 1.0000,  1.0000,  1.5000,  2.0000, 17.0000])
        >>> prominent(bars, "agr2016").death  # two clusters, one edge between them
        tensor([ 0.,  0.,  0.,  0., 17.])
    """
    check_choice("method", method, METHODS)
    feature = _features(bars, METHODS[method])
    return masked(replace(bars, mask=feature))


def _features(bars: Barcode, count: Callable[[Lengths], int]) -> Tensor:
    """The mask of the features, ``(..., k)``, found cloud by cloud."""
    persistence = bars.persistence.detach()
    equal = EQUAL * torch.finfo(persistence.dtype).eps
    clouds = math.prod(persistence.shape[:-1]), persistence.shape[-1]
    lengths = persistence.cpu().to(torch.float64).numpy().reshape(clouds)
    real = bars.mask.cpu().numpy().reshape(clouds)
    feature = real & ~np.isfinite(lengths)
    counted = real & np.isfinite(lengths) & (lengths > 0)
    for cloud in range(clouds[0]):
        which = np.flatnonzero(counted[cloud])
        order = which[np.argsort(-lengths[cloud, which], kind="stable")]
        ordered = lengths[cloud, order]
        if len(order) > 0 and ordered[-1] < ordered[0] * (1 - equal):
            order = order[: count(np.maximum(ordered / ordered[0], np.finfo(np.float64).tiny))]  # logs are taken of it
        feature[cloud, order] = True
    return torch.from_numpy(feature.reshape(persistence.shape)).to(persistence.device)


def _agr2016(lengths: Lengths) -> int:
    """Number of features among at least two bars, in descending order, not all equal."""
    n = len(lengths)
    i = np.arange(n)
    # log n - H(L'_i) for i = 0, ..., n - 1; for i = n it is zero. Entropies agree to more digits than they have, so it
    # comes from deficits: n - exp H(L'_i) = (n - i)(1 - exp(-deficit of R_i)).
    lacking = -np.log1p((n - i) * np.expm1(-_tail_deficits(lengths)) / n)
    gained = lacking - np.append(lacking[1:], 0.0)
    features = np.flatnonzero(gained > (i + 1) / n * lacking[0])
    return int(features[-1]) + 1 if len(features) else 0


def _tail_deficits(lengths: Lengths) -> Lengths:
    """Deficits log |R_i| - H(R_i) for i = 0, ..., n - 1, without the cancellation in it."""
    # With x = l / mean l and f(x) = x log x - (x - 1), some of the bars have deficit (mean f(x) - f(mean x)) / mean x.
    x = lengths / lengths.mean()
    size = np.arange(len(x), 0, -1)
    mean = _tail_sums(x) / size
    return np.maximum(_tail_sums(_bregman(x)) / size - _bregman(mean), 0.0) / mean


def _tail_sums(x: Lengths) -> Lengths:
    return np.cumsum(x[::-1])[::-1]


def _bregman(x: Lengths) -> Lengths:
    return x * np.log(x) - (x - 1)


def _agr2017(lengths: Lengths, steps_left_out: int, whole_quota: bool) -> int:
    """Number of features among at least two bars, in descending order, not all equal.

    Args:
        lengths: ``(n,)``.
        steps_left_out: i goes up to n less this; 1 is all there is.
        whole_quota: whether Q is rounded up.
    """
    longest, others, shortest = lengths[:1], lengths[1:-1], lengths[-1:]
    ratio = float(shortest[0] / longest[0])
    quota = ratio * (ratio - 1 - math.log(ratio)) / (1 - ratio) ** 2  # Q / n, between 0 and 1/2
    left = len(others)
    while True:
        n = left + 2
        step = _first_below_neutral(np.concatenate([others[:left], shortest, longest]), n - steps_left_out)
        q = math.ceil(n * quota) if whole_quota else n * quota
        if q >= step or step >= left:
            break
        left = step
    return 1 + step


def _first_below_neutral(lengths: Lengths, steps: int) -> int:
    """The first i in 1, ..., steps with l_i < g_i; steps if there is none, 0 if there are no steps."""
    neutral = np.exp(_tail_sums(lengths * np.log(lengths)) / _tail_sums(lengths))
    below = np.flatnonzero(lengths[:-1] < neutral[1:])
    return max(0, min(int(below[0]) + 1 if len(below) else steps, steps))


METHODS: dict[str, Callable[[Lengths], int]] = {
    "agr2017": functools.partial(_agr2017, steps_left_out=1, whole_quota=False),
    "agr2016": _agr2016,
    "shrink-the-longest": functools.partial(_agr2017, steps_left_out=3, whole_quota=True),
}
