"""Prim's algorithm on one cloud's distance matrix: the kernel behind every H0 barcode on the CPU.

Dense Prim takes O(n²) time and O(n) memory, which is optimal for a dense matrix (the input has n² entries).
Lengths are compared as integers: the bits of a non-negative float, read as an integer, order as the float does, and
integer minima are vectorised by the compiler where float minima (because of NaN) are not.

Importing this module loads Numba, which compiles each kernel at its first call and keeps it on disk; so it is imported on use.
"""

import numpy as np

from simplicial_reg._jit import kernel

__all__ = ["between", "minimum_spanning_tree", "spanning_trees"]


@kernel
def spanning_trees(keys, real, birth, death, first, step):
    """The trees of the clouds ``range(first, B, step)`` of ``keys`` (B, n, n), in the form of H0 bars.

    Writes each edge to ``death`` (B, n - 1, 2), larger vertex first, and the vertex whose bar it ends, twice, to ``birth``.
    ``real`` (B, n) tells which points count, all of them if it has no rows; m of them have m - 1 edges, the rest stays as it is.
    """
    for cloud in range(first, keys.shape[0], step):
        if real.shape[0] == 0:
            tree = minimum_spanning_tree(keys[cloud])
        else:
            vertices = np.flatnonzero(real[cloud])
            tree = minimum_spanning_tree(between(keys[cloud], vertices))
            for e in range(tree.shape[0]):
                tree[e, 0] = vertices[tree[e, 0]]
                tree[e, 1] = vertices[tree[e, 1]]
        for e in range(tree.shape[0]):
            child, parent = tree[e]
            birth[cloud, e, 0] = child
            birth[cloud, e, 1] = child
            death[cloud, e, 0] = max(child, parent)
            death[cloud, e, 1] = min(child, parent)


@kernel
def between(keys, vertices):
    """The rows and columns of some vertices."""
    size = vertices.shape[0]
    part = np.empty((size, size), keys.dtype)
    for i in range(size):
        row = keys[vertices[i]]
        for j in range(size):
            part[i, j] = row[vertices[j]]
    return part


@kernel(inline="always")
def _edge_before(u, v, x, y):
    """Whether the edge (u, v) precedes the equally long edge (x, y): by larger vertex, then by smaller vertex."""
    return max(u, v) < max(x, y) or (max(u, v) == max(x, y) and min(u, v) < min(x, y))


@kernel
def minimum_spanning_tree(keys):
    """The edges of the minimum spanning tree as ``(child, parent)``, sorted by (length, larger, smaller vertex).

    ``keys`` is (n, n), integers ordered like the lengths. The tree hangs from vertex 0: ``child`` is the endpoint
    farther from it, so every vertex but 0 is the child of exactly one edge.
    """
    n = keys.shape[0]
    top = np.iinfo(keys.dtype).max
    best = np.full(n, top, keys.dtype)  # length of the shortest edge from the tree to each vertex outside it
    parent = np.zeros(n, np.int32)  # the tree end of that edge
    in_tree = np.zeros(n, keys.dtype)  # 0 outside the tree, ``top`` inside: or-ing it in removes a vertex from the race
    tree = np.empty((n - 1, 2), np.int64)
    length = np.empty(n - 1, keys.dtype)
    in_tree[0] = top
    newest = 0
    for step in range(n - 1):
        row = keys[newest]
        newest32 = np.int32(newest)
        ties = 0
        for v in range(n):  # three selects and no branch, so that it vectorises
            candidate = row[v] | in_tree[v]
            old = best[v]
            ties += 1 if candidate == old else 0
            parent[v] = newest32 if candidate < old else parent[v]
            best[v] = min(candidate, old)
        if ties > step + 1:  # the step + 1 vertices of the tree always compare equal (top with top); more are real ties
            for v in range(n):
                if in_tree[v] == 0 and row[v] == best[v] and _edge_before(newest, v, parent[v], v):
                    parent[v] = newest32
        shortest = best[0]
        for v in range(n):
            shortest = min(shortest, best[v])
        child = np.int32(n)
        candidates = 0
        for v in range(n):
            nearest = best[v] == shortest  # never in the tree, where best is top: all lengths are less
            child = min(child, np.int32(v) if nearest else np.int32(n))
            candidates += 1 if nearest else 0
        if candidates > 1:
            for v in range(child + 1, n):
                if best[v] == shortest and _edge_before(parent[v], v, parent[child], child):
                    child = np.int32(v)
        tree[step, 0] = child
        tree[step, 1] = parent[child]
        length[step] = shortest
        best[child] = top
        in_tree[child] = top
        newest = child
    return _sorted_edges(tree, length)


@kernel
def _sorted_edges(tree, length):
    """Sort by length, then settle ties by the vertices; insertion only ever moves an edge within its run of ties."""
    order = np.argsort(length)
    for a in range(1, order.shape[0]):
        edge = order[a]
        b = a
        while (
            b > 0
            and length[order[b - 1]] == length[edge]
            and _edge_before(tree[edge, 0], tree[edge, 1], tree[order[b - 1], 0], tree[order[b - 1], 1])
        ):
            order[b] = order[b - 1]
            b -= 1
        order[b] = edge
    return tree[order]
