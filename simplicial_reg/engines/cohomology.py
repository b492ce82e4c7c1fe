"""H0 and H1 on the CPU: minimum spanning tree, then implicit cohomology (see ``_coboundary``). One cloud per thread."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplicial_reg import _ops
from simplicial_reg._announce import announced
from simplicial_reg._threads import share_work
from simplicial_reg.engines.critical import CriticalEdges
from simplicial_reg.engines.spanning_tree import from_tree

__all__ = ["find", "one_result"]

LARGEST_CLOUD = 65_535  # vertices are held in 16 bits, ranks of edges in 31


def find(distances: Tensor, mask: Tensor | None, max_dim: int, threshold: float) -> list[CriticalEdges]:
    """See `ENGINES`."""
    n = distances.shape[-1]
    if max_dim > 0 and n > LARGEST_CLOUD:
        raise ValueError(f"points must be at most {LARGEST_CLOUD} per cloud for H1; got {n}; take a sample")
    birth, death = _ops.spanning_tree(distances, mask)
    components = from_tree(birth, death, mask)
    if max_dim == 0:
        return [components]
    lengths = distances.contiguous().numpy().reshape(-1, n, n)
    keys = lengths.view(_ops.INTEGERS[distances.dtype])
    clouds = len(keys)
    trees = death.numpy().reshape(clouds, n - 1, 2)
    limit = np.array(threshold, lengths.dtype).view(keys.dtype)[()]
    real = None if mask is None else _ops.real_points(mask)
    bars: list[Any] = [None] * clouds

    def work(first: int, step: int) -> None:
        from simplicial_reg.engines import _coboundary, _prim

        for cloud in range(first, clouds, step):
            if real is None:
                bars[cloud] = _coboundary.loops(keys[cloud], trees[cloud], limit)
                continue
            vertices = np.flatnonzero(real[cloud])
            part = np.searchsorted(vertices, trees[cloud, : len(vertices) - 1])
            found = _coboundary.loops(_prim.between(keys[cloud], vertices), part, limit)
            bars[cloud] = np.append(vertices, -1)[found]  # -1 stays -1

    with announced("persistent cohomology", distances.dtype):
        share_work(work, clouds, 100 * clouds * n * n)
    return [components, one_result(bars, distances.ndim == 2)]


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
