"""Measures made of the H0 barcode: how even its bars are, and how many stand out.

The bars of H0 are the edges of the minimum spanning tree. Their entropy says whether the cloud is spread evenly (bars of about
one length) or has clusters and outliers (a few long bars). It sees neither scale nor place nor direction, and says nothing of
dimension: a line of evenly spaced points is as even as a regular simplex. In many dimensions it is close to its largest value
for every cloud without clusters; its digits are then in the deficit.

These are `simplicial_reg.normalized_persistent_entropy`, `simplicial_reg.entropy_deficit` and `simplicial_reg.prominent` of
``rips_barcode(points)``, and have their formulas, sources, gradients and values at singular input. O(n² d) time and O(n²) memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from simplicial_reg.barcode import MetricChoice, rips_barcode
from simplicial_reg.entropy import entropy_deficit, normalized_persistent_entropy
from simplicial_reg.prominence import prominent

__all__ = ["persistent_entropy_deficit", "persistent_entropy_score", "prominent_count"]


def persistent_entropy_score(
    points: Tensor | Sequence[Tensor], *, metric: MetricChoice = "euclidean", mask: Tensor | None = None
) -> Tensor:
    """Persistent entropy of H0 over the largest that so many points can have, ``H / log(n - 1)``.

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``, or a list of ``(n_i, d)``.
        metric: as for `simplicial_reg.rips_barcode`.
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.

    Returns:
        ``(...)``, one value per cloud, in [0, 1], with gradient: 1 if all n - 1 bars are equally long, so for one point and
        for two, whose bars cannot be uneven; 0 if one bar of several holds everything, and for a collapsed cloud of more points.

    Raises:
        TypeError: if points are not floating or mask is not bool.
        ValueError: for a wrong shape or metric, and on the CPU for NaN or infinity.

    Source:
        Chintakunta et al. 2015; see `simplicial_reg.normalized_persistent_entropy`.

    Example:
        >>> import torch
        >>> persistent_entropy_score(torch.eye(5))  # a regular simplex
        tensor(1.)
    """
    return normalized_persistent_entropy(rips_barcode(points, metric=metric, mask=mask)[0])


def persistent_entropy_deficit(
    points: Tensor | Sequence[Tensor], *, metric: MetricChoice = "euclidean", mask: Tensor | None = None
) -> Tensor:
    """What the persistent entropy of H0 lacks to the largest that so many points can have, ``log(n - 1) - H``, in nats.

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``, or a list of ``(n_i, d)``.
        metric: as for `simplicial_reg.rips_barcode`.
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.

    Returns:
        ``(...)``, one value per cloud, in [0, log(n - 1)], with gradient: 0 if all bars are equally long, log(n - 1) if one bar
        holds everything and for a collapsed cloud.

    Raises:
        TypeError: if points are not floating or mask is not bool.
        ValueError: for a wrong shape or metric, and on the CPU for NaN or infinity.

    Source:
        See `simplicial_reg.entropy_deficit`.

    Example:
        >>> import torch
        >>> persistent_entropy_deficit(torch.tensor([[0.0], [1.0], [3.0], [4.0]]))  # log 3 - 3/2 log 2
        tensor(0.0589)
    """
    return entropy_deficit(rips_barcode(points, metric=metric, mask=mask)[0])


def prominent_count(
    points: Tensor | Sequence[Tensor],
    *,
    method: str = "agr2017",
    metric: MetricChoice = "euclidean",
    mask: Tensor | None = None,
) -> Tensor:
    """Number of bars of H0 that are features and not noise.

    The bars are the n - 1 finite ones. For k clusters that are far apart, in many dimensions, "agr2016" counts the k - 1 edges
    between them and "agr2017" one more.

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``, or a list of ``(n_i, d)``.
        method: as for `simplicial_reg.prominent`.
        metric: as for `simplicial_reg.rips_barcode`.
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.

    Returns:
        ``(...)``, one whole number per cloud, in [0, n - 1], in the dtype of the barcode, without gradient. If all bars are
        equally long none is noise, and n - 1; 0 for one point and for a collapsed cloud.

    Raises:
        TypeError: if points are not floating or mask is not bool.
        ValueError: for a wrong shape, method or metric, and on the CPU for NaN or infinity.

    Source:
        Atienza, Gonzalez-Diaz, Rucco 2016 and 2019; see `simplicial_reg.prominent`.

    Example:
        >>> import torch
        >>> points = torch.tensor([[0.0], [1.0], [3.0], [20.0], [21.5], [22.5]])  # two clusters, one edge between them
        >>> prominent_count(points, method="agr2016")
        tensor(1.)
    """
    bars = rips_barcode(points, metric=metric, mask=mask)[0].detach()
    return prominent(bars, method).mask.sum(-1).to(bars.death.dtype)
