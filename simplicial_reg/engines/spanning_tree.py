"""H0 on the CPU. A bar of H0 dies when an edge of the minimum spanning tree joins two components, so the death edges are that tree.

The births are all 0; which vertex a bar is named after is a convention. Here the tree hangs from the first real vertex, and each edge
ends the bar of its farther endpoint: the elder rule for the order in which the tree grows.
"""

from __future__ import annotations

from torch import Tensor

from simplicial_reg import _ops
from simplicial_reg.engines.critical import CriticalEdges, from_tree

__all__ = ["find"]


def find(distances: Tensor, mask: Tensor | None, max_dim: int, threshold: float) -> list[CriticalEdges]:
    """See `ENGINES`."""
    birth, death = _ops.spanning_tree(distances, mask)
    return [from_tree(birth, death, mask)]
