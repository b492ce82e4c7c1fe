"""H0 on the CPU. A bar of H0 dies when an edge of the minimum spanning tree joins two components, so the death edges are that tree.

The births are all 0; which vertex a bar is named after is a convention. Here the tree hangs from the first real vertex, and each edge
ends the bar of its farther endpoint: the elder rule for the order in which the tree grows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simplicial_reg import _ops
from simplicial_reg.engines.critical import CriticalEdges

__all__ = ["find", "from_tree"]


def find(distances: Tensor, mask: Tensor | None, max_dim: int, threshold: float) -> list[CriticalEdges]:
    """See `ENGINES`."""
    birth, death = _ops.spanning_tree(distances, mask)
    return [from_tree(birth, death, mask)]


def from_tree(birth: Tensor, death: Tensor, mask: Tensor | None) -> CriticalEdges:
    """The bars of a tree's edges ``(..., n - 1, 2)``, the real ones first."""
    if mask is None:
        return CriticalEdges(birth, death, torch.ones(death.shape[:-1], dtype=torch.bool, device=death.device))
    bars = mask.sum(-1, keepdim=True) - 1
    return CriticalEdges(birth, death, torch.arange(death.shape[-2], device=death.device) < bars)
