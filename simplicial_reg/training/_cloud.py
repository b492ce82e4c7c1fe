"""A cloud with its mask and labels, the one thing that is passed around while training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from simplicial_reg._checks import check_labels, computable

__all__ = ["Cloud", "as_cloud"]


class Cloud(NamedTuple):
    """Points ``(n, d)`` or ``(B, n, d)``, with mask and labels of shape ``(n,)`` or ``(B, n)`` or None.

    It is what a regularizer takes: ``regularizer(cloud.points, mask=cloud.mask, labels=cloud.labels)``.
    """

    points: Tensor
    mask: Tensor | None = None
    labels: Tensor | None = None


def as_cloud(points: Tensor | Sequence[Tensor], mask: Tensor | None, labels: Any) -> Cloud:
    """The arguments, checked: points as `computable` returns them, labels int64."""
    points, mask = computable(points, mask)
    if labels is None:
        return Cloud(points, mask)
    check_labels(labels, points)
    return Cloud(points, mask, labels.to(torch.int64))
