"""H0 on any torch device, without host synchronisation: Triton kernels on an NVIDIA GPU, torch operations elsewhere.

The torch operations are those of `simplicial_reg.engines._trees`. On an NVIDIA GPU float32 distances of fewer than 65,536 points go to the
kernels of `simplicial_reg.engines._triton` instead, if Triton is installed; the edges are the same, to the last tie.
"""

from __future__ import annotations

from torch import Tensor

from simplicial_reg import _ops
from simplicial_reg.engines._trees import trees
from simplicial_reg.engines.critical import CriticalEdges, from_tree

__all__ = ["find"]


def find(distances: Tensor, mask: Tensor | None, max_dim: int, threshold: float) -> list[CriticalEdges]:
    """See `ENGINES`."""
    if distances.is_cuda:
        birth, death = _ops.spanning_tree(distances, mask)
        return [from_tree(birth, death, mask)]
    *leading, n, _ = distances.shape
    distances = distances.reshape(-1, n, n)
    real = None if mask is None else mask.reshape(-1, n)
    birth, death = (edges.reshape(*leading, n - 1, 2) for edges in trees(distances, real))
    return [from_tree(birth, death, mask)]
