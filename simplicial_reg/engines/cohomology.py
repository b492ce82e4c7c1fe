"""H0 and H1 on the CPU: minimum spanning tree, then implicit cohomology (see ``_coboundary``). One cloud per thread."""

from __future__ import annotations

import math
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

LARGEST = {4: 0x7FFFFFFF, 8: 0x7FFFFFFFFFFFFFFF}  # integer of that many bytes
LARGEST_CLOUD = 65_535  # vertices are held in 16 bits, ranks of edges in 31


def find(distances: Tensor, mask: Tensor | None, max_dim: int, threshold: float) -> list[CriticalEdges]:
    """See `ENGINES`."""
    n = distances.shape[-1]
    if n > LARGEST_CLOUD:
        raise ValueError(f"points must be at most {LARGEST_CLOUD} per cloud for H1; got {n}; take a sample")
    tree = _ops.spanning_tree(distances, mask)
    if max_dim == 0:
        return [from_tree(tree, mask)]
    keys = distances.contiguous().numpy().view(_ops.INTEGERS[distances.dtype]).reshape(-1, n, n)
    clouds = len(keys)
    trees = tree.numpy().reshape(clouds, n - 1, 4)
    limit = _key_below(threshold, keys.dtype, distances.dtype)
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
    return [from_tree(tree, mask), one_result(bars, distances.ndim == 2)]


def _key_below(threshold: float, integer: Any, dtype: torch.dtype) -> Any:
    """The integer of the largest length that does not exceed the threshold."""
    if math.isinf(threshold):
        return integer.type(LARGEST[integer.itemsize])
    rounded = torch.tensor(threshold, dtype=dtype).numpy()
    if rounded > threshold:
        rounded = np.nextafter(rounded, rounded.dtype.type(0))
    return rounded.view(integer)[()]


def one_result(bars: list[Any], single: bool) -> CriticalEdges:
    """The (k_i, 4) birth and death edges of each cloud as one padded batch, or those of a single cloud without a batch dimension."""
    if single:
        birth, death = torch.from_numpy(bars[0]).split(2, -1)
        return CriticalEdges(birth, death, torch.ones(len(bars[0]), dtype=torch.bool))
    count = torch.tensor([len(found) for found in bars])
    edges = torch.zeros((len(bars), int(count.max()), 4), dtype=torch.int64)
    for cloud, found in enumerate(bars):
        edges[cloud, : len(found)] = torch.from_numpy(found)
    return CriticalEdges(edges[..., :2], edges[..., 2:], torch.arange(edges.shape[1]) < count.unsqueeze(-1))
