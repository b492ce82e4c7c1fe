"""What every engine returns, how it is made of their findings, and the type of an engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["CriticalEdges", "Find", "from_tree", "one_result"]


class CriticalEdges(NamedTuple):
    """The bars of one homology dimension as vertex pairs, in the order of their birth edges; in dimension 0, of their death edges.

    birth, death: int64 ``(..., k, 2)``, larger vertex first; a vertex v is ``(v, v)``; a death of ``(-1, -1)`` is a class still alive
    at the threshold. real: bool ``(..., k)``, False for padding. Dimension 0 holds the n - 1 tree edges whatever the threshold.
    """

    birth: Tensor
    death: Tensor
    real: Tensor


Find = Callable[[Tensor, Tensor | None, int, float], list[CriticalEdges]]


def from_tree(birth: Tensor, death: Tensor, mask: Tensor | None) -> CriticalEdges:
    """The bars of a tree's edges ``(..., n - 1, 2)``, the real ones first."""
    if mask is None:
        return CriticalEdges(birth, death, torch.ones(death.shape[:-1], dtype=torch.bool, device=death.device))
    bars = mask.sum(-1, keepdim=True) - 1
    return CriticalEdges(birth, death, torch.arange(death.shape[-2], device=death.device) < bars)


def one_result(bars: list[Any], single: bool) -> CriticalEdges:
    """The (k_i, 4) birth and death edges of each cloud as one padded batch, or those of a single cloud without a batch dimension."""
    if single:
        birth, death = torch.from_numpy(bars[0]).chunk(2, -1)
        return CriticalEdges(birth, death, birth.new_ones(len(birth), dtype=torch.bool))
    longest = max(len(found) for found in bars)
    edges = np.zeros((len(bars), longest, 4), np.int64)
    real = np.zeros((len(bars), longest), np.bool_)
    for cloud, found in enumerate(bars):
        edges[cloud, : len(found)] = found
        real[cloud, : len(found)] = True
    birth, death = torch.from_numpy(edges).chunk(2, -1)
    return CriticalEdges(birth, death, torch.from_numpy(real))
