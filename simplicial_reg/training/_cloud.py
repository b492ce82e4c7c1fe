"""A cloud with its mask and labels, the one thing that is passed around while training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from simplicial_reg._checks import computable

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
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be an integer tensor, one for each point, or None; got {got}")
    if labels.shape != points.shape[:-1]:
        raise ValueError(
            f"labels must have shape {tuple(points.shape[:-1])}, one for each point of points {tuple(points.shape)}; "
            f"got {tuple(labels.shape)}"
        )
    if labels.device != points.device:
        raise ValueError(f"labels must be on the device of points, {points.device}; got {labels.device}")
    return Cloud(points, mask, labels.to(torch.int64))
