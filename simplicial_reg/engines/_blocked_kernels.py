"""Kernels of `simplicial_reg.engines.blocked`: lists of near neighbours from tiles of bounds, and merging what they settle.

Importing this module loads Numba, which compiles each kernel at its first call and keeps it on disk; so it is imported on use.
"""

import numpy as np

from simplicial_reg._jit import kernel
from simplicial_reg._point_kernels import ROWS, _angular, _chebyshev, _chord_rows, _manhattan
from simplicial_reg.engines._prim import _edge_before

__all__ = [
    "METRIC_CODES",
    "exact_tile",
    "farthest",
    "forest",
    "join",
    "list_lengths",
    "merge",
    "offer_columns",
    "offer_rows",
    "rooted",
    "shortest_out",
    "sort_lists",
    "undecided",
]

LANES = 32  # columns that are looked at together: rarely does one of them belong in a list
METRIC_CODES = {"euclidean": 0, "cosine": 1, "manhattan": 2, "chebyshev": 3, "angular": 4}


@kernel(inline="always")
def _put(values, others, worst, row, value, other):
    """Replace the largest entry of a list by a smaller one."""
    largest = values[row, 0]
    at = 0
    for k in range(1, values.shape[1]):
        if values[row, k] > largest:
            largest = values[row, k]
            at = k
    values[row, at] = value
    others[row, at] = other
    largest = values[row, 0]
    for k in range(1, values.shape[1]):
        largest = max(largest, values[row, k])
    worst[row] = largest


@kernel
def offer_rows(products, row_sizes, column_sizes, row_ids, column_ids, labels, values, others, worst, first, step):
    """Offer to each row of a tile its columns: the value is ``row size + column size - 2 product``, and the smallest are kept.

    ``values`` and ``others``, both (rows, K), are the rows' lists, ``worst`` (rows,) their largest values. Columns with the label of the
    row are not offered.
    """
    rows, columns = products.shape
    for a in range(first, rows, step):
        size = row_sizes[a]
        label = labels[row_ids[a]]
        row = products[a]
        for begin in range(0, columns, LANES):
            end = min(begin + LANES, columns)
            bound = worst[a]
            better = 0
            for b in range(begin, end):
                better += 1 if size + column_sizes[b] - 2 * row[b] < bound else 0
            if better > 0:
                for b in range(begin, end):
                    value = size + column_sizes[b] - 2 * row[b]
                    if value < worst[a] and labels[column_ids[b]] != label:
                        _put(values, others, worst, a, value, column_ids[b])


@kernel
def offer_columns(products, row_sizes, column_sizes, row_ids, column_ids, labels, values, others, worst, first, step):
    """The same for the columns of a tile, whose lists these are, and which are offered the rows."""
    rows, columns = products.shape
    groups = (columns + LANES - 1) // LANES
    for group in range(first, groups, step):
        begin = group * LANES
        end = min(begin + LANES, columns)
        for a in range(rows):
            size = row_sizes[a]
            row = products[a]
            better = 0
            for b in range(begin, end):
                better += 1 if size + column_sizes[b] - 2 * row[b] < worst[b] else 0
            if better > 0:
                label = labels[row_ids[a]]
                for b in range(begin, end):
                    value = size + column_sizes[b] - 2 * row[b]
                    if value < worst[b] and labels[column_ids[b]] != label:
                        _put(values, others, worst, b, value, row_ids[a])


@kernel(inline="always")
def _last_rows(cloud, lengths, count, metric):
    """Lengths of the last ``count`` rows of one cloud's matrix, by the very kernels that compute whole matrices."""
    m = cloud.shape[1]
    if metric <= 1:
        _chord_rows(cloud[0], lengths[0], metric == 1, m - count, m)
    elif metric == 2:
        _manhattan(cloud, lengths, m - count, 1)
    elif metric == 3:
        _chebyshev(cloud, lengths, m - count, 1)
    else:
        _angular(cloud, lengths, m - count, 1)


@kernel
def list_lengths(points, ids, others, metric, lengths, first, step):
    """The lengths (rows, K) from the points ``ids`` (rows,) to those on their lists; K must be a multiple of `ROWS`."""
    size = others.shape[1]
    cloud = np.empty((1, size + 1, points.shape[1]), points.dtype)
    matrix = np.empty((1, size + 1, size + 1), points.dtype)
    for a in range(first, ids.shape[0], step):
        for k in range(size):
            cloud[0, k] = points[max(others[a, k], 0)]
        cloud[0, size] = points[ids[a]]
        _last_rows(cloud, matrix, 1, metric)
        for k in range(size):
            lengths[a, k] = matrix[0, size, k]


@kernel
def exact_tile(points, ids, begin, end, metric, lengths, first, step):
    """The lengths (rows, end - begin) from the points ``ids`` to the points begin..end; end - begin must be a multiple of `ROWS`."""
    width = end - begin
    cloud = np.empty((1, width + ROWS, points.shape[1]), points.dtype)
    matrix = np.empty((1, width + ROWS, width + ROWS), points.dtype)
    groups = (ids.shape[0] + ROWS - 1) // ROWS
    cloud[0, :width] = points[begin:end]
    for group in range(first, groups, step):
        start = group * ROWS
        for a in range(ROWS):
            cloud[0, width + a] = points[ids[min(start + a, ids.shape[0] - 1)]]
        _last_rows(cloud, matrix, ROWS, metric)
        for a in range(min(ROWS, ids.shape[0] - start)):
            lengths[start + a] = matrix[0, width + a, :width]


@kernel
def sort_lists(ids, keys, others):
    """Sort every list (rows, K) by (length, larger vertex, smaller vertex); lengths are integers that order like them."""
    for a in range(ids.shape[0]):
        i = ids[a]
        for k in range(1, keys.shape[1]):
            key, j = keys[a, k], others[a, k]
            at = k
            while at > 0 and (
                keys[a, at - 1] > key or (keys[a, at - 1] == key and _edge_before(i, j, i, others[a, at - 1]))
            ):
                keys[a, at] = keys[a, at - 1]
                others[a, at] = others[a, at - 1]
                at -= 1
            keys[a, at] = key
            others[a, at] = j


@kernel(inline="always")
def _root(parent, v):
    while parent[v] != v:
        parent[v] = parent[parent[v]]
        v = parent[v]
    return v


@kernel(inline="always")
def _settled(i, keys, others, bound, place):
    """Whether a point's list tells its shortest edge out, once ``place`` is brought up to date."""
    at = place[i]
    return at < keys.shape[1] and others[i, at] >= 0 and keys[i, at] < bound[i]


@kernel(inline="always")
def _improve(best_key, best, label, key, i, j):
    """Keep the edge (i, j) if it precedes the best one of a component."""
    if key < best_key[label] or (key == best_key[label] and _edge_before(i, j, best[label, 0], best[label, 1])):
        best_key[label] = key
        best[label, 0] = i
        best[label, 1] = j


@kernel
def _unite(wanted, best_key, best, labels, parent, tree, tree_keys, edges):
    """Add the best edges of the wanted components to the tree, and bring the labels up to date."""
    n = labels.shape[0]
    for label in range(n):
        if not wanted[label]:
            continue
        i, j = best[label]
        one, other = _root(parent, i), _root(parent, j)
        if one != other:  # else both components wanted this edge
            parent[max(one, other)] = min(one, other)
            tree[edges, 0] = i
            tree[edges, 1] = j
            tree_keys[edges] = best_key[label]
            edges += 1
    for i in range(n):
        labels[i] = _root(parent, i)
    return edges


@kernel
def merge(keys, others, bound, place, labels, parent, tree, tree_keys, edges):
    """Join components by the edges that the lists settle, until they settle no more.

    A list is sorted, and every point that is not on it, and was not in the point's component when it was made, is at least ``bound``
    away. So the first entry that leads out of the component is the point's shortest edge out, if it is shorter than the bound. A
    component's shortest edge out is settled if it is shorter than the bounds of all its points that have no such entry.

    Args:
        keys: (n, K), lengths of the lists.
        others: (n, K), the points on them; -1 at the end of a list that is not full.
        bound: (n,), as the keys.
        place: (n,), where in its list a point looks for its first edge out; moved on.
        labels: (n,), the component of each point, the number of one of its points; brought up to date.
        parent: (n,), the union-find of which labels are the roots.
        tree: (n - 1, 2), the edges so far.
        tree_keys: (n - 1,), their lengths.
        edges: how many there are.

    Returns:
        The number of edges, and for each component, by its label, the length of the shortest edge out that is known, settled or not.
    """
    n, size = keys.shape
    top = np.iinfo(keys.dtype).max
    best_key = np.empty(n, keys.dtype)
    best = np.empty((n, 2), np.int64)
    known = np.empty(n, keys.dtype)
    unsettled = np.empty(n, keys.dtype)
    wanted = np.empty(n, np.bool_)
    while True:
        best_key[:] = top
        known[:] = top
        unsettled[:] = top
        for i in range(n):
            label = labels[i]
            at = place[i]
            while at < size and others[i, at] >= 0 and labels[others[i, at]] == label:
                at += 1
            place[i] = at
            if at < size and others[i, at] >= 0:
                known[label] = min(known[label], keys[i, at])
            if _settled(i, keys, others, bound, place):
                _improve(best_key, best, label, keys[i, at], i, others[i, at])
            else:
                unsettled[label] = min(unsettled[label], bound[i])
        for label in range(n):
            wanted[label] = labels[label] == label and best_key[label] < unsettled[label]
        before = edges
        edges = _unite(wanted, best_key, best, labels, parent, tree, tree_keys, edges)
        if edges == before:
            return edges, known


@kernel
def undecided(keys, others, bound, place, labels, known, largest):
    """The points outside the component ``largest`` whose list leaves open whether they have their component's shortest edge out."""
    n = keys.shape[0]
    found = np.empty(n, np.int64)
    count = 0
    for i in range(n):
        label = labels[i]
        if label != largest and bound[i] <= known[label] and not _settled(i, keys, others, bound, place):
            found[count] = i
            count += 1
    return found[:count].copy()


@kernel
def shortest_out(tile, ids, column_ids, labels, best_key, best):
    """Update the shortest edges out of the points ``ids`` (rows,), ``best_key`` and the other end ``best``, with a tile of lengths."""
    rows, columns = tile.shape
    for a in range(rows):
        i = ids[a]
        label = labels[i]
        for b in range(columns):
            key, j = tile[a, b], column_ids[b]
            if key <= best_key[a] and labels[j] != label and (key < best_key[a] or _edge_before(i, j, i, best[a])):
                best_key[a] = key
                best[a] = j


@kernel
def farthest(tile, column_ids, far_key, far):
    """Update the farthest points of the rows, of equally far ones the largest, with a tile of lengths as integers."""
    for a in range(tile.shape[0]):
        for b in range(tile.shape[1]):
            if tile[a, b] >= far_key[a]:
                far_key[a] = tile[a, b]
                far[a] = column_ids[b]


@kernel
def join(ids, id_keys, id_others, keys, others, bound, place, labels, largest, parent, tree, tree_keys, edges):
    """Join every component but the largest by its shortest edge out: that of the points ``ids``, which is given, or a settled one."""
    n = keys.shape[0]
    best_key = np.full(n, np.iinfo(keys.dtype).max, keys.dtype)
    best = np.empty((n, 2), np.int64)
    for a in range(ids.shape[0]):
        _improve(best_key, best, labels[ids[a]], id_keys[a], ids[a], id_others[a])
        bound[ids[a]] = max(bound[ids[a]], id_keys[a])  # all that is outside is so far away
    for i in range(n):
        if labels[i] != largest and _settled(i, keys, others, bound, place):
            _improve(best_key, best, labels[i], keys[i, place[i]], i, others[i, place[i]])
    wanted = np.empty(n, np.bool_)
    for label in range(n):
        wanted[label] = labels[label] == label and label != largest
    return _unite(wanted, best_key, best, labels, parent, tree, tree_keys, edges)


@kernel
def forest(edges, n):
    """Which of the sorted edges (m, 2) between n vertices join two components: the minimum spanning forest (Kruskal 1956)."""
    parent = np.arange(n)
    kept = np.zeros(edges.shape[0], np.bool_)
    for e in range(edges.shape[0]):
        one, other = _root(parent, edges[e, 0]), _root(parent, edges[e, 1])
        if one != other:
            parent[max(one, other)] = min(one, other)
            kept[e] = True
    return kept


@kernel
def rooted(tree, n):
    """For each edge of a tree on n vertices, (n - 1, 2), the end that is farther from vertex 0."""
    begin = np.zeros(n + 1, np.int64)
    for e in range(n - 1):
        begin[tree[e, 0]] += 1
        begin[tree[e, 1]] += 1
    for v in range(1, n + 1):
        begin[v] += begin[v - 1]
    incident = np.empty(2 * (n - 1), np.int64)
    for e in range(n - 1):
        for end in range(2):
            v = tree[e, end]
            begin[v] -= 1
            incident[begin[v]] = e
    child = np.full(n - 1, -1, np.int64)
    waiting = np.empty(n, np.int64)
    waiting[0] = 0
    count = 1
    at = 0
    while at < count:
        v = waiting[at]
        at += 1
        for a in range(begin[v], begin[v + 1]):
            e = incident[a]
            if child[e] < 0:
                child[e] = tree[e, 0] + tree[e, 1] - v
                waiting[count] = child[e]
                count += 1
    return child
