"""Means and second moments of masked clouds, where rows that are not real are zero.

Everything here takes points ``(..., n, d)`` and a mask ``(..., n)`` or None, as `computable` returns them.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["centred", "count", "directions", "mean"]


def count(points: Tensor, mask: Tensor | None) -> Tensor:
    """Number of real points, ``(...)``, in the dtype of points."""
    if mask is None:
        return points.new_full(points.shape[:-2], points.shape[-2])
    return mask.sum(-1).to(points.dtype)


def mean(points: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of the real points, ``(..., 1, d)``."""
    return points.sum(-2, keepdim=True) / count(points, mask)[..., None, None]


def centred(points: Tensor, mask: Tensor | None) -> Tensor:
    """The points less their mean, ``(..., n, d)``; rows that are not real stay zero.

    The first real point is taken away before the mean is computed, so that far from the origin nothing is lost.
    """
    origin = points[..., :1, :] if mask is None else _first(points, mask)
    shifted = points - origin.detach()
    if mask is not None:
        shifted = torch.where(mask.unsqueeze(-1), shifted, 0)
    shifted = shifted - mean(shifted, mask)
    return shifted if mask is None else torch.where(mask.unsqueeze(-1), shifted, 0)


def _first(points: Tensor, mask: Tensor) -> Tensor:
    row = mask.to(torch.int8).argmax(-1)[..., None, None].expand(*points.shape[:-2], 1, points.shape[-1])
    return points.gather(-2, row)


def directions(points: Tensor) -> Tensor:
    """Unit vectors, ``(..., n, d)``; a zero vector stays zero and its gradient is zero.

    Dividing by the largest coordinate first, a constant for the gradient because directions do not depend on it, keeps tiny
    and huge vectors from under- and overflowing.
    """
    scale = points.detach().abs().amax(dim=-1, keepdim=True)
    zero = scale == 0
    scaled = torch.where(zero, 0, points / torch.where(zero, 1, scale))
    return scaled / torch.where(zero, 1, torch.linalg.vector_norm(torch.where(zero, 1, scaled), dim=-1, keepdim=True))
