"""H0 of large clouds on the CPU: the minimum spanning tree from the points, in O(n K) memory and without ever holding n² distances.

1. *Copies.* Equal points are joined by edges of length zero, and one of each goes on.
2. *Lists.* One pass over all pairs, in tiles. A tile of squared distances |x|² + |y|² - 2 x·y costs one matrix product, but is inexact: a
   rounding error of e (|x|² + |y|²), e about 4 d units in the last place, may hide which of two neighbours is nearer. So e (|x|² + |y|²)
   is taken off, which makes it a lower bound, and each point keeps the K points of the smallest bounds. Their lengths are then computed
   from differences, by the kernel that fills whole matrices, to the same last bit; any point that is not on the list is at least as far
   away as the largest bound kept.
3. *Merging.* The shortest edge out of a component is an edge of the tree (the cut property; Borůvka 1926). Lists settle most of them:
   an entry shorter than the list's bound is exact. Merging goes on, component by component, until no list settles any more.
4. *Rest.* What is left are components such as clusters of more than K points, whose points have lists of each other. All but the
   largest component get new lists, of points outside their component, of only those points whose bound is below the shortest edge out
   that is known. After that, merging goes on. If it settles nothing, because more than K points are equally near or cannot
   be told apart by the bounds, the new lists are made with exact lengths, and the shortest edges out by going through all of them.

Every step decides by (length, larger vertex, smaller vertex), as all engines do, so the tree is the same, to the last tie. A
cloud without clusters or masses of ties takes one pass over the pairs, one of clusters a few.

Metrics: Euclidean, cosine and angular lengths grow with the Euclidean distance of coordinates, so step 2 works as described;
for Manhattan and Chebyshev the tiles are exact and the bound is the length.

Sources: the cut property and the merging by components, O. Borůvka 1926; nearest neighbours that settle edges and exclude others by a bound
are the idea of Bentley and Friedman 1978, "Fast algorithms for constructing minimal spanning trees in coordinate spaces".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplicial_reg._announce import announced
from simplicial_reg._ops import INTEGERS, check_lengths, check_points, real_points
from simplicial_reg._threads import share_work
from simplicial_reg.engines.critical import CriticalEdges, from_tree

__all__ = ["BLOCK", "NEIGHBOURS", "enclosing_edge", "find", "forest", "lengths", "spanning_tree", "tree_edges"]

BLOCK = 2048  # points on each side of a tile
NEIGHBOURS = 16  # on a list; a multiple of the rows that the exact kernels compute together
LARGEST = 2.0**48  # of a coordinate, as for whole matrices: squares of larger ones may overflow

PRODUCTS, LENGTHS, ALL_EDGES = "products", "lengths", "all edges"

Array = Any


def find(points: Tensor, mask: Tensor | None, metric: str) -> CriticalEdges:
    """The H0 bars of a cloud or of each cloud of a batch.

    Args:
        points: coordinates ``(n, d)`` or ``(B, n, d)``, float32 or float64, on the CPU and finite where the mask is True.
        mask: bool ``(n,)`` or ``(B, n)``; None for all.
        metric: a name in ``METRICS``, whose coordinates these are.

    Returns:
        As an engine does.

    Raises:
        ValueError: if a point is not finite, or lengths overflow.
    """
    check_points(points)
    *leading, n, d = points.shape
    clouds = points.detach().contiguous().reshape(-1, n, d).numpy()
    real = None if mask is None else real_points(mask)
    birth = np.zeros((len(clouds), n - 1, 2), np.int64)
    death = np.zeros_like(birth)
    with announced("spanning tree in blocks", metric, points.dtype):
        for at, cloud in enumerate(clouds):
            vertices = np.arange(n) if real is None else np.flatnonzero(real[at])
            child, edges = spanning_tree(np.ascontiguousarray(cloud[vertices]), metric)
            birth[at, : len(child)] = vertices[child][:, None]
            death[at, : len(child)] = vertices[edges]
    shape = (*leading, n - 1, 2)
    return from_tree(torch.from_numpy(birth).reshape(shape), torch.from_numpy(death).reshape(shape), mask)


def enclosing_edge(points: Tensor, mask: Tensor | None, metric: str, *, block: int = BLOCK) -> Tensor:
    """The edge ``(..., 1, 2)`` of length min_i max_j d(i, j), the enclosing radius, of points and mask as for `find`."""
    *leading, n, d = points.shape
    clouds = points.detach().contiguous().reshape(-1, n, d).numpy()
    real = None if mask is None else real_points(mask)
    found = np.empty((len(clouds), 1, 2), np.int64)
    for at, cloud in enumerate(clouds):
        vertices = np.arange(n) if real is None else np.flatnonzero(real[at])
        found[at, 0] = vertices[
            _Search(np.ascontiguousarray(cloud[vertices]), metric, block, NEIGHBOURS).enclosing_edge()
        ]
    return torch.from_numpy(found).reshape(*leading, 1, 2)


def lengths(points: Tensor, edge: Tensor, metric: str) -> Tensor:
    """The lengths ``(..., k)`` of edges ``(..., k, 2)``, to the bit those of whole matrices; points as for `find`."""
    clouds = points.detach().contiguous().reshape(-1, *points.shape[-2:]).numpy()
    edges = edge.contiguous().numpy().reshape(len(clouds), -1, 2)
    found = np.empty(edges.shape[:2], clouds.dtype)
    for cloud, ends, out in zip(clouds, edges, found, strict=True):
        others = np.repeat(ends[:, 1:], NEIGHBOURS, 1)  # the kernel wants a list of so many for each point
        out[:] = _list_lengths(cloud, ends[:, 0], others, metric)[:, 0]
    return torch.from_numpy(found).reshape(edge.shape[:-1])


def spanning_tree(
    points: Array, metric: str = "euclidean", *, block: int = BLOCK, neighbours: int = NEIGHBOURS
) -> tuple[Array, Array]:
    """The minimum spanning tree of points ``(n, d)``.

    Returns:
        For each of the n - 1 edges, sorted by (length, larger vertex, smaller vertex), the end that is farther from vertex 0, int64
        ``(n - 1,)``, and both ends, the larger one first, int64 ``(n - 1, 2)``.
    """
    from simplicial_reg.engines._blocked_kernels import rooted

    edges, _ = tree_edges(points, metric, block=block, neighbours=neighbours)
    return rooted(edges, len(points)), edges


def tree_edges(
    points: Array, metric: str = "euclidean", *, block: int = BLOCK, neighbours: int = NEIGHBOURS
) -> tuple[Array, Array]:
    """The edges of the tree, as `spanning_tree` has them, and their lengths ``(n - 1,)``, ascending."""
    first, copies = _without_copies(points)
    edges, keys = _Search(points[first], metric, block, neighbours).tree()
    check_lengths(keys.view(points.dtype))
    edges = np.concatenate([first[edges], copies])
    keys = np.concatenate([keys, np.zeros(len(copies), keys.dtype)])
    edges = np.stack([edges.max(1, initial=0), edges.min(1, initial=len(points))], 1)
    order = np.lexsort((edges[:, 1], edges[:, 0], keys))
    return edges[order], keys[order].view(points.dtype)


def forest(edges: Array, lengths: Array, n: int) -> tuple[Array, Array]:
    """The minimum spanning forest of edges ``(m, 2)`` between n vertices, larger vertex first, in the order of `tree_edges`.

    The forest of two sets of edges together is that of their two forests: an edge that is not in the forest of one set is the last one
    on a cycle there, in the total order of edges, in which no two are equal; and the last edge of a cycle is in no minimum spanning
    forest of anything that holds the cycle. Any two points are in some pair of blocks of a cloud, so the forest of the trees of all
    pairs of blocks is the tree of the cloud.
    """
    from simplicial_reg.engines._blocked_kernels import forest as kept_of

    order = np.lexsort((edges[:, 1], edges[:, 0], lengths))
    edges, lengths = edges[order], lengths[order]
    kept = kept_of(edges, n)
    return edges[kept], lengths[kept]


def _without_copies(points: Array) -> tuple[Array, Array]:
    """The first of each set of equal points, ascending, and the edges (k, 2) that join the others to it."""
    rows = np.ascontiguousarray(points + 0.0)  # -0.0 is 0.0
    rows = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).reshape(-1)
    _, first, group = np.unique(rows, return_index=True, return_inverse=True)
    vertex = np.arange(len(rows))
    original = first[group.reshape(-1)]
    copy = vertex[original != vertex]
    return np.sort(first), np.stack([copy, original[copy]], 1).reshape(-1, 2)


def _list_lengths(points: Array, ids: Array, others: Array, metric: str) -> Array:
    """The lengths ``(m, K)`` from the points ``ids`` to those on their lists."""
    from simplicial_reg.engines import _blocked_kernels as kernels

    found = np.empty(others.shape, points.dtype)
    share_work(
        lambda first, step: kernels.list_lengths(
            points, np.ascontiguousarray(ids), others, kernels.METRIC_CODES[metric], found, first, step
        ),
        len(ids),
        others.size * points.shape[1],
    )
    return found


class _Search:
    """The tree of distinct points, while it grows."""

    def __init__(self, points: Array, metric: str, block: int, neighbours: int) -> None:
        from simplicial_reg.engines import _blocked_kernels as kernels

        self.kernels: Any = kernels
        self.points, self.metric, self.code = points, metric, kernels.METRIC_CODES[metric]
        self.n, self.block, self.size = len(points), block, neighbours
        self.integer = INTEGERS[torch.from_numpy(points[:0]).dtype]
        self.top = np.iinfo(self.integer).max
        n = self.n
        self.labels, self.parent = np.arange(n), np.arange(n)
        self.others = np.full((n, neighbours), -1, np.int64)
        self.keys = np.full((n, neighbours), self.top, self.integer)
        self.bound = np.zeros(n, self.integer)
        self.place = np.zeros(n, np.int64)
        self.edges = 0
        self.tree_edges = np.empty((max(n - 1, 0), 2), np.int64)
        self.tree_keys = np.empty(max(n - 1, 0), self.integer)
        self.products = metric in ("euclidean", "cosine", "angular") and bool(np.abs(points).max(initial=0) < LARGEST)
        if self.products:
            self._centre()

    def tree(self) -> tuple[Array, Array]:
        """The edges (n - 1, 2) and their lengths as integers."""
        if self.n == 1:
            return self.tree_edges, self.tree_keys
        self._all_lists()
        # What new lists are made of; the next thing is tried when one has settled nothing.
        means = [*([PRODUCTS] if self.products else []), LENGTHS, ALL_EDGES]
        while True:
            before = self.edges
            known = self._merge()
            if self.edges == self.n - 1:
                return self.tree_edges, self.tree_keys
            if self.edges == before and len(means) > 1:
                del means[0]
            largest = int(np.bincount(self.labels).argmax())
            ids = self.kernels.undecided(self.keys, self.others, self.bound, self.place, self.labels, known, largest)
            if means[0] == ALL_EDGES:
                self._join(ids, largest)
            else:
                self._new_lists(ids, exact=means[0] == LENGTHS)

    # --- lists ---

    def _centre(self) -> None:
        """Centred points for the products, and their squared sizes less what rounding may hide."""
        points = self.points
        d = points.shape[1]
        unit = np.finfo(points.dtype).eps / 2
        self.error = 4 * (d + 16) * unit
        if points.dtype == np.float32 and torch.get_float32_matmul_precision() != "highest":
            self.error += 2.0**-6  # the products may be of bfloat16
        self.centred = torch.from_numpy((points - points.mean(0, dtype=np.float64)).astype(points.dtype))
        squares = np.concatenate(
            [
                np.square(part, dtype=np.float64).sum(1)
                for part in np.array_split(self.centred.numpy(), 1 + self.n // 65536)
            ]
        )
        self.sizes = (squares * (1 - self.error)).astype(points.dtype)

    def _all_lists(self) -> None:
        """Lists of every point, of all others: each tile serves its rows and its columns."""
        n = self.n
        starts = range(0, n, self.block)
        values = np.full((n, self.size), np.inf, self.points.dtype)
        worst = np.full(n, np.inf, self.points.dtype)
        vertex = np.arange(n)
        for a in starts:
            for b in starts[: a // self.block + 1]:
                rows, columns = slice(a, min(a + self.block, n)), slice(b, min(b + self.block, n))
                tile = self._tile(vertex[rows], columns, exact=False)
                self._offer(tile, vertex[rows], vertex[columns], values[rows], self.others[rows], worst[rows])
                if a != b:
                    self._offer(
                        tile,
                        vertex[rows],
                        vertex[columns],
                        values[columns],
                        self.others[columns],
                        worst[columns],
                        columns=True,
                    )
        self._finish(vertex, self.others, values, worst)

    def _new_lists(self, ids: Array, exact: bool) -> None:
        """Lists of some points, of those outside their components."""
        for start in range(0, len(ids), self.block):
            part = ids[start : start + self.block]
            values = np.full((len(part), self.size), np.inf, self.points.dtype)
            others = np.full((len(part), self.size), -1, np.int64)
            worst = np.full(len(part), np.inf, self.points.dtype)
            for columns, vertex in self._columns():
                self._offer(self._tile(part, columns, exact), part, vertex, values, others, worst)
            self._finish(part, others, values, worst, exact)

    def _columns(self) -> Iterator[tuple[slice, Array]]:
        for start in range(0, self.n, self.block):
            columns = slice(start, min(start + self.block, self.n))
            yield columns, np.arange(columns.start, columns.stop)

    def _tile(self, ids: Array, columns: slice, exact: bool) -> tuple[Array, Array, Array]:
        """Products and sizes of rows and columns, of which value = size + size - 2 product."""
        if self.products and not exact:
            products = self.centred[torch.from_numpy(ids)] @ self.centred[columns].mT
            return products.numpy(), self.sizes[ids], self.sizes[columns]
        lengths = self._lengths(ids, columns)
        zero = np.zeros(max(lengths.shape), lengths.dtype)
        return lengths * -0.5, zero[: len(ids)], zero[: lengths.shape[1]]

    def _lengths(self, ids: Array, columns: slice) -> Array:
        """Exact lengths (rows, columns)."""
        from simplicial_reg._point_kernels import ROWS

        begin = columns.start
        end = begin + -(-(columns.stop - begin) // ROWS) * ROWS
        points = self.points
        if end > self.n:  # at the border the last point is repeated
            begin, end = 0, end - begin
            points = points[np.minimum(np.arange(columns.start, columns.start + end), self.n - 1)]
            points = np.concatenate([points, self.points[ids]])
            ids = np.arange(end, end + len(ids))
        lengths = np.empty((len(ids), end - begin), self.points.dtype)
        work = len(ids) * (end - begin) * points.shape[1]
        share_work(
            lambda first, step: self.kernels.exact_tile(points, ids, begin, end, self.code, lengths, first, step),
            -(-len(ids) // ROWS),
            work,
        )
        return lengths[:, : columns.stop - columns.start]

    def _offer(
        self,
        tile: tuple[Array, Array, Array],
        rows: Array,
        vertex: Array,
        values: Array,
        others: Array,
        worst: Array,
        columns: bool = False,
    ) -> None:
        products, row_sizes, column_sizes = tile
        offer = self.kernels.offer_columns if columns else self.kernels.offer_rows
        share_work(
            lambda first, step: offer(
                products, row_sizes, column_sizes, rows, vertex, self.labels, values, others, worst, first, step
            ),
            len(vertex) if columns else len(rows),
            products.size,
        )

    def _finish(self, ids: Array, others: Array, values: Array, worst: Array, exact: bool = False) -> None:
        """Lengths of the listed neighbours, sorted, and the bounds."""
        keys = _list_lengths(self.points, ids, others, self.metric).view(self.integer)
        keys[others < 0] = self.top
        self.kernels.sort_lists(ids, keys, others)
        bound = worst if exact or not self.products else self._shortest(worst)
        bound = np.ascontiguousarray(bound).view(self.integer)
        self.keys[ids], self.others[ids] = keys, others
        self.bound[ids] = np.where(others[:, -1] < 0, self.top, bound)  # a list that is not full holds all there is
        self.place[ids] = 0

    def _shortest(self, squares: Array) -> Array:
        """The smallest length that can belong to points whose squared coordinate distance is at least so much."""
        squares = np.maximum(squares, 0)
        if self.metric == "euclidean":
            return np.sqrt(squares)
        if self.metric == "cosine":
            return squares / 2
        apart = squares.astype(np.float64)
        angle = 2 * np.arctan2(np.sqrt(apart), np.sqrt(np.maximum(4 - apart, 0) + 8 * self.error))
        return np.maximum(angle * (1 - 16 * np.finfo(squares.dtype).eps), 0).astype(squares.dtype)

    # --- merging ---

    def _merge(self) -> Array:
        """The shortest lengths out that are known, by label."""
        self.edges, known = self.kernels.merge(*self._lists(), self.parent, self.tree_edges, self.tree_keys, self.edges)
        return known

    def _join(self, ids: Array, largest: int) -> None:
        """The shortest edges out of the undecided points, by looking at all edges; these settle those of their components."""
        block = self.block
        best_key = np.full(len(ids), self.top, self.integer)
        best = np.full(len(ids), -1, np.int64)
        for start in range(0, len(ids), block):
            part = slice(start, start + block)
            for columns, vertex in self._columns():
                lengths = np.ascontiguousarray(self._lengths(ids[part], columns)).view(self.integer)
                self.kernels.shortest_out(lengths, ids[part], vertex, self.labels, best_key[part], best[part])
        self.edges = self.kernels.join(
            ids, best_key, best, *self._lists(), largest, self.parent, self.tree_edges, self.tree_keys, self.edges
        )

    def _lists(self) -> tuple[Array, ...]:
        return self.keys, self.others, self.bound, self.place, self.labels

    # --- the enclosing radius ---

    def enclosing_edge(self) -> Array:
        """Of the last edge at every point the first."""
        far_key = np.full(self.n, -1, self.integer)
        far = np.zeros(self.n, np.int64)
        vertex = np.arange(self.n)
        for start in range(0, self.n, self.block):
            rows = slice(start, min(start + self.block, self.n))
            for columns, others in self._columns():
                lengths = np.ascontiguousarray(self._lengths(vertex[rows], columns)).view(self.integer)
                self.kernels.farthest(lengths, others, far_key[rows], far[rows])
        larger, smaller = np.maximum(vertex, far), np.minimum(vertex, far)
        first = np.lexsort((smaller, larger, far_key))[0]
        return np.array([larger[first], smaller[first]])
