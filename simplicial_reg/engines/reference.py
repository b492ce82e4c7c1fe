"""The plainest correct persistence over Z/2, in any dimension: the oracle that the fast engines are tested against.

Put all simplices in filtration order, reduce the boundary matrix column by column, read off the pairs (Edelsbrunner, Letscher,
Zomorodian 2002). Nothing is skipped, nothing is clever, and it takes O(2ⁿ) simplices in the worst case: for clouds of a dozen or two.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplicial_reg import _ops
from simplicial_reg.engines.critical import CriticalEdges, one_result

__all__ = ["each_cloud", "edges_in_total_order", "find"]


def find(distances: Tensor, mask: Tensor | None, max_dim: int, threshold: float) -> list[CriticalEdges]:
    """See `ENGINES`."""
    return each_cloud(_bars, distances, mask, max_dim, threshold)


def _bars(lengths: Any, max_dim: int, threshold: float) -> list[list[tuple[int, ...]]]:
    """For each dimension the bars of one cloud as (birth edge, death edge), four vertices; (-1, -1) if it never dies."""
    n = len(lengths)
    edges = edges_in_total_order(lengths)
    position = {edge: at for at, edge in enumerate(edges)}

    def longest_edge(simplex: tuple[int, ...]) -> int:  # -1 for a vertex, which is there before every edge
        return max((position[j, i] for i, j in combinations(simplex, 2)), default=-1)

    simplices = [
        simplex
        for size in range(1, max_dim + 3)
        for simplex in combinations(range(n), size)
        # dimension 0 is always computed in full: n - 1 finite bars
        if size <= 2 or all(lengths[i, j] <= threshold for i, j in combinations(simplex, 2))
    ]
    simplices.sort(key=lambda simplex: (longest_edge(simplex), len(simplex), simplex))
    index = {simplex: at for at, simplex in enumerate(simplices)}

    columns: dict[int, set[int]] = {}  # lowest entry -> reduced column
    killer: dict[int, int] = {}  # simplex that gives birth -> simplex that kills
    positive = []
    for at, simplex in enumerate(simplices):
        column = {index[face] for face in combinations(simplex, len(simplex) - 1)} if len(simplex) > 1 else set()
        while column and max(column) in columns:
            column ^= columns[max(column)]
        if column:
            columns[max(column)] = column
            killer[max(column)] = at
        else:
            positive.append(at)

    tree = [simplices[at] for at in sorted(killer.values()) if len(simplices[at]) == 2]
    bars: list[list[tuple[int, ...]]] = [hang(tree, root=0)]
    for dim in range(1, max_dim + 1):
        found: list[tuple[int, ...]] = []
        for at in positive:
            if len(simplices[at]) == dim + 1:
                birth = edges[longest_edge(simplices[at])]
                if lengths[birth] > threshold:
                    continue
                death = edges[longest_edge(simplices[killer[at]])] if at in killer else (-1, -1)
                if death == (-1, -1) or lengths[birth] < lengths[death]:
                    found.append((*birth, *death))
        found.sort(key=lambda bar: (position[bar[0], bar[1]], position.get((bar[2], bar[3]), len(edges))))
        bars.append(found)
    return bars


def edges_in_total_order(lengths: Any) -> list[tuple[int, int]]:
    """All edges (larger vertex, smaller vertex) by (length, larger vertex, smaller vertex)."""
    return sorted(((j, i) for j in range(len(lengths)) for i in range(j)), key=lambda edge: (lengths[edge], *edge))


def hang(tree: list[tuple[int, ...]], root: int) -> list[tuple[int, ...]]:
    """Name each edge's bar after the endpoint farther from the root: (child, child, larger, smaller), in the order given."""
    child: dict[tuple[int, ...], int] = {}
    reached = {root}
    while len(child) < len(tree):
        for edge in tree:
            if edge not in child and (edge[0] in reached) != (edge[1] in reached):
                child[edge] = edge[1] if edge[0] in reached else edge[0]
                reached.add(child[edge])
    return [(child[edge], child[edge], max(edge), min(edge)) for edge in tree]


def each_cloud(
    bars: Any, distances: Tensor, mask: Tensor | None, max_dim: int, threshold: float
) -> list[CriticalEdges]:
    """Run ``bars(lengths, max_dim, threshold)`` on the real points of each cloud and put the results into one batch."""
    n = distances.shape[-1]
    matrices = distances.numpy().reshape(-1, n, n)
    real = np.ones(matrices.shape[:2], np.bool_) if mask is None else _ops.real_points(mask)
    found = []
    for lengths, points in zip(matrices, real, strict=True):
        vertices = np.flatnonzero(points)
        by_dim = bars(lengths[np.ix_(vertices, vertices)], max_dim, threshold)
        vertices = np.append(vertices, -1)  # so that vertex -1 stays -1
        found.append([vertices[np.array(of_dim, np.int64).reshape(-1, 4)] for of_dim in by_dim])
    for tree in found:  # dimension 0 has n - 1 rows, however many points are real
        tree[0] = np.pad(tree[0], ((0, n - 1 - len(tree[0])), (0, 0)))
    batch = [one_result([by_dim[dim] for by_dim in found], distances.ndim == 2) for dim in range(max_dim + 1)]
    finite = torch.from_numpy(np.arange(n - 1) < real.sum(1, keepdims=True) - 1)
    batch[0] = batch[0]._replace(real=finite.reshape(batch[0].real.shape))
    return batch
