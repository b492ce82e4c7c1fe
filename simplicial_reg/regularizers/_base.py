"""What all regularizers share: one call, masks, labels, types, and one scalar.

A regularizer is a loss of clouds of points. A subclass says what the loss of one cloud is, in `cloud_losses`; this module makes
clouds of whatever was passed in, with autocast off, and takes the mean over clouds.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from simplicial_reg._autocast import autocast_off
from simplicial_reg._checks import check_labels, computable

__all__ = ["DIRECTIONS", "NORMALIZERS", "Regularizer", "by_label"]

DIRECTIONS = ("decrease", "increase")  # what a loss does to the quantity that it is made of
NORMALIZERS = ("pairs", "published")  # what a sum over pairs is divided by: their number, or what the authors take


class Regularizer(nn.Module):
    """A loss of a cloud of points; smaller is better.

    Every argument of a subclass is kept as an attribute of the same name.

    Args:
        per_label: one cloud for each label, instead of one for all points.
    """

    per_label: bool

    def __init__(self, *, per_label: bool = False) -> None:
        super().__init__()
        self.per_label = per_label

    def forward(
        self, points: Tensor | Sequence[Tensor], *, mask: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """The loss of a cloud, or the mean over a batch of clouds.

        Args:
            points: floating tensor ``(n, d)`` or ``(B, n, d)``, or a list of ``(n_i, d)``. Half precision is computed in float32.
            mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.
            labels: integer ``(n,)`` or ``(B, n)``; read only with ``per_label=True``, and then required.

        Returns:
            A scalar, float32, or float64 for float64 points, on their device.

        Raises:
            TypeError: if points are not floating, mask is not bool or labels are not integers.
            ValueError: for wrong shapes, or if labels are missing.
        """
        # A regularizer with a metric may be given distances instead of points: metric="precomputed".
        points, mask = computable(points, mask, getattr(self, "metric", "euclidean"))
        with autocast_off(points):
            if self.per_label:
                points, mask = by_label(points, mask, labels)
            return self.cloud_losses(points, mask).mean()

    def cloud_losses(self, points: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of each cloud, ``(...)``.

        Args:
            points: float32 or float64 ``(..., n, d)`` with at most one batch dimension; rows that are not real are zero.
            mask: bool ``(..., n)``, or None where all points are real.
        """
        raise NotImplementedError

    def arguments(self) -> dict[str, Any]:
        """What the regularizer was made with."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return ", ".join(f"{name}={value!r}" for name, value in self.arguments().items())


def by_label(points: Tensor, mask: Tensor | None, labels: Any) -> tuple[Tensor, Tensor]:
    """One cloud for each label of each cloud, in the order of clouds and labels, padded to the largest.

    How many labels there are decides the shape, so the host waits for an accelerator once.

    Args:
        points: ``(n, d)`` or ``(B, n, d)``.
        mask: bool ``(n,)`` or ``(B, n)``, or None.
        labels: integer, of the shape of mask.

    Returns:
        Points ``(C, m, d)``, zero where padded, and mask ``(C, m)``, for C pairs of a cloud and a label that occurs in it.
    """
    if labels is None:
        raise ValueError("labels must be given with per_label=True, one integer for each point; got None")
    check_labels(labels, points)
    cloud = torch.arange(labels.numel(), device=points.device) // labels.shape[-1]
    real = torch.arange(labels.numel(), device=points.device)
    key = torch.stack([cloud, labels.flatten().long()], 1)
    if mask is not None:
        real = real[mask.flatten()]
    _, group, count = torch.unique(key[real], dim=0, return_inverse=True, return_counts=True)
    order = group.argsort(stable=True)  # the points of the first group, then of the second, ...
    start = count.cumsum(0) - count
    place = torch.arange(int(count.max()), device=points.device)
    filled = place < count.unsqueeze(1)
    member = real[order[(start.unsqueeze(1) + place).clamp(max=len(order) - 1)]]
    clouds = points.flatten(0, -2)[member]
    return torch.where(filled.unsqueeze(-1), clouds, 0), filled
