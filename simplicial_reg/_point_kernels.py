"""Lengths of edges on the CPU: all of a cloud's for the pairing, and the critical ones with their gradient.

A length is always a sum over differences of coordinates, never |x|² + |y|² - 2 x·y. That costs no more than
torch.cdist's matrix product, because only half of the symmetric matrix is computed, and it is exact where the other is not: coincident
points are at distance 0, integer points have exact ties, and a cloud far from the origin loses nothing.

Importing this module loads Numba, which compiles each kernel at its first call and keeps it on disk; so it is imported on use.
"""

import math

import numpy as np

from simplicial_reg._jit import kernel

__all__ = [
    "KERNELS",
    "edge_gradients",
    "edge_lengths",
    "is_symmetric",
    "largest_magnitude",
    "smallest_and_largest",
    "symmetrize",
]

# Sums may be reordered and contracted so that they vectorise; NaN and infinity keep their meaning.
REORDER = {"reassoc", "contract", "nsz"}
FEW = 16  # coordinates
TILE = 32  # rows and columns of a matrix that stay in cache
ROWS = 16  # rows of the distance matrix in one unit of work


@kernel
def largest_magnitude(bits):
    """The largest |x| of an array of floats given as signed integers, as integer: NaN above infinity above every number."""
    magnitude = bits.dtype.type(np.iinfo(bits.dtype).max)  # all bits but the sign
    largest = bits.dtype.type(0)
    for a in range(bits.shape[0]):
        largest = max(largest, bits[a] & magnitude)
    return largest


@kernel(fastmath=REORDER)
def _squares(x, matrix, start, stop):
    """Squared Euclidean lengths of rows start..stop of one cloud's matrix, up to the diagonal.

    Sixteen pairs at a time share their loads, and every pair goes through the same operations in the same order, so equal
    differences give equal lengths. At the border of the matrix the last point is repeated instead of a remainder loop.
    """
    n, d = x.shape
    zero = x.dtype.type(0)
    for i in range(start, stop, 4):
        i1 = min(i + 1, n - 1)
        i2 = min(i + 2, n - 1)
        i3 = min(i + 3, n - 1)
        x0 = x[i]
        x1 = x[i1]
        x2 = x[i2]
        x3 = x[i3]
        for j in range(0, i + 1, 4):
            j1 = min(j + 1, n - 1)
            j2 = min(j + 2, n - 1)
            j3 = min(j + 3, n - 1)
            y0 = x[j]
            y1 = x[j1]
            y2 = x[j2]
            y3 = x[j3]
            s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = zero
            s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = zero
            for c in range(d):
                s00 += (x0[c] - y0[c]) * (x0[c] - y0[c])
                s01 += (x0[c] - y1[c]) * (x0[c] - y1[c])
                s02 += (x0[c] - y2[c]) * (x0[c] - y2[c])
                s03 += (x0[c] - y3[c]) * (x0[c] - y3[c])
                s10 += (x1[c] - y0[c]) * (x1[c] - y0[c])
                s11 += (x1[c] - y1[c]) * (x1[c] - y1[c])
                s12 += (x1[c] - y2[c]) * (x1[c] - y2[c])
                s13 += (x1[c] - y3[c]) * (x1[c] - y3[c])
                s20 += (x2[c] - y0[c]) * (x2[c] - y0[c])
                s21 += (x2[c] - y1[c]) * (x2[c] - y1[c])
                s22 += (x2[c] - y2[c]) * (x2[c] - y2[c])
                s23 += (x2[c] - y3[c]) * (x2[c] - y3[c])
                s30 += (x3[c] - y0[c]) * (x3[c] - y0[c])
                s31 += (x3[c] - y1[c]) * (x3[c] - y1[c])
                s32 += (x3[c] - y2[c]) * (x3[c] - y2[c])
                s33 += (x3[c] - y3[c]) * (x3[c] - y3[c])
            matrix[i, j], matrix[i, j1], matrix[i, j2], matrix[i, j3] = s00, s01, s02, s03
            matrix[i1, j], matrix[i1, j1], matrix[i1, j2], matrix[i1, j3] = s10, s11, s12, s13
            matrix[i2, j], matrix[i2, j1], matrix[i2, j2], matrix[i2, j3] = s20, s21, s22, s23
            matrix[i3, j], matrix[i3, j1], matrix[i3, j2], matrix[i3, j3] = s30, s31, s32, s33


@kernel(fastmath=REORDER)
def _squares_of_few_coordinates(x, matrix, start, stop):
    """The same for a handful of coordinates, where a whole row at a time is quicker."""
    d = x.shape[1]
    by_coordinate = np.empty((d, stop), x.dtype)
    for c in range(d):
        for j in range(stop):
            by_coordinate[c, j] = x[j, c]
    for i in range(start, stop):
        row = matrix[i]
        for j in range(i):
            row[j] = 0
        for c in range(d):
            coordinate = by_coordinate[c]
            here = x[i, c]
            for j in range(i):
                row[j] += (coordinate[j] - here) * (coordinate[j] - here)


@kernel
def _mirror(matrix, start, stop):
    """Copy rows start..stop below the diagonal to the columns above it, and clear the diagonal."""
    for j in range(stop):
        for i in range(max(start, j + 1), stop):
            matrix[j, i] = matrix[i, j]
    for i in range(start, stop):
        matrix[i, i] = 0


@kernel(inline="always")
def _by_cloud(clouds, step):
    """Whether threads take whole clouds, as memory likes it: where none gets many more than another."""
    return clouds % step == 0 or clouds >= 8 * step


@kernel
def _chord_rows(x, matrix, half, start, stop):
    """Rows start..stop, at most `ROWS` from a multiple of `ROWS` on, of one cloud's matrix, mirrored."""
    if x.shape[1] <= FEW:
        _squares_of_few_coordinates(x, matrix, start, stop)
    else:
        _squares(x, matrix, start, stop)
    for i in range(start, stop):
        row = matrix[i]
        if half:
            for j in range(i):
                row[j] = row[j] / 2
        else:
            for j in range(i):
                row[j] = math.sqrt(row[j])
    _mirror(matrix, start, stop)


@kernel
def _chords(points, out, half, first, step):
    clouds, n, _ = points.shape
    groups = (n + ROWS - 1) // ROWS
    unit = groups if _by_cloud(clouds, step) else 1
    for task in range(clouds * groups):
        if task // unit % step == first:
            start = (task % groups) * ROWS
            _chord_rows(points[task // groups], out[task // groups], half, start, min(start + ROWS, n))


def _euclidean(points, out, first, step):
    _chords(points, out, False, first, step)


def _cosine(points, out, first, step):  # 1 - cos = chord² / 2 for directions
    _chords(points, out, True, first, step)


@kernel(fastmath=REORDER)
def _manhattan(points, out, first, step):
    clouds, n, d = points.shape
    for task in range(first, clouds * n, step):
        x = points[task // n]
        matrix = out[task // n]
        i = task % n
        for j in range(i):
            total = points.dtype.type(0)
            for c in range(d):
                total += abs(x[i, c] - x[j, c])
            matrix[i, j] = total
        _mirror(matrix, i, i + 1)


@kernel
def _chebyshev(points, out, first, step):
    clouds, n, d = points.shape
    for task in range(first, clouds * n, step):
        x = points[task // n]
        matrix = out[task // n]
        i = task % n
        for j in range(i):
            largest = points.dtype.type(0)
            for c in range(d):
                largest = max(largest, abs(x[i, c] - x[j, c]))
            matrix[i, j] = largest
        _mirror(matrix, i, i + 1)


@kernel(fastmath=REORDER)
def _angular(points, out, first, step):
    """2 atan2(|u - v|, |u + v|) for directions u, v: as accurate near 0 and near pi as in between (Kahan 2006)."""
    clouds, n, d = points.shape
    for task in range(first, clouds * n, step):
        x = points[task // n]
        matrix = out[task // n]
        i = task % n
        for j in range(i):
            apart = points.dtype.type(0)
            along = points.dtype.type(0)
            for c in range(d):
                apart += (x[i, c] - x[j, c]) * (x[i, c] - x[j, c])
                along += (x[i, c] + x[j, c]) * (x[i, c] + x[j, c])
            matrix[i, j] = 2 * math.atan2(math.sqrt(apart), math.sqrt(along))
        _mirror(matrix, i, i + 1)


# metric -> kernel(coordinates (B, n, d), out (B, n, n), first, step); the caller runs it for first = 0 .. step - 1
KERNELS = {
    "euclidean": _euclidean,
    "manhattan": _manhattan,
    "chebyshev": _chebyshev,
    "cosine": _cosine,
    "angular": _angular,
}


@kernel
def smallest_and_largest(bits):
    """The extremes of an array of floats given as signed integers: a sign bit makes negative, infinity and NaN are the largest."""
    smallest = largest = bits[0]
    for a in range(bits.shape[0]):
        smallest = min(smallest, bits[a])
        largest = max(largest, bits[a])
    return smallest, largest


@kernel
def is_symmetric(bits):
    """Whether an (n, n) array equals its transpose, entry by entry, with a zero diagonal."""
    n = bits.shape[0]
    for i in range(n):
        if bits[i, i] != 0:
            return False
    for top in range(0, n, TILE):
        for left in range(0, top + 1, TILE):
            uneven = 0
            for i in range(top, min(top + TILE, n)):
                for j in range(left, min(left + TILE, n)):
                    uneven += bits[i, j] != bits[j, i]
            if uneven > 0:
                return False
    return True


@kernel
def symmetrize(distances, out, tolerance):
    """Write the mean of both triangles of (n, n) ``distances`` to both of ``out``, and a zero diagonal.

    Returns how many pairs of entries differ by more than the tolerance.
    """
    n = distances.shape[0]
    uneven = 0
    transposed = np.empty((TILE, TILE), distances.dtype)
    for top in range(0, n, TILE):
        for left in range(0, top + 1, TILE):
            rows = min(TILE, n - top)
            columns = min(TILE, n - left)
            for j in range(columns):
                for i in range(rows):
                    transposed[i, j] = distances[left + j, top + i]
            for i in range(rows):
                there = distances[top + i, left : left + columns]
                back = transposed[i, :columns]
                for j in range(columns):
                    uneven += 1 if abs(there[j] - back[j]) > tolerance else 0
                    back[j] = there[j] + (back[j] - there[j]) / 2
                out[top + i, left : left + columns] = back
            for j in range(columns):
                for i in range(rows):
                    out[left + j, top + i] = transposed[i, j]
    for i in range(n):
        out[i, i] = 0
    return uneven


@kernel(inline="always")
def _share(cloud, clouds, count, first, step):
    """Where those of the ``count`` items of a cloud begin and end that are for thread ``first``."""
    if _by_cloud(clouds, step):
        return (0, count) if cloud % step == first else (0, 0)
    return count * first // step, count * (first + 1) // step


@kernel(fastmath=REORDER)
def edge_lengths(points, edges, out, first, step):
    """Euclidean lengths (B, k) of ``edges`` (B, k, 2) between ``points`` (B, n, d)."""
    clouds, count, _ = edges.shape
    d = points.shape[2]
    for cloud in range(clouds):
        begin, end = _share(cloud, clouds, count, first, step)
        for e in range(begin, end):
            x = points[cloud, edges[cloud, e, 0]]
            y = points[cloud, edges[cloud, e, 1]]
            total = points.dtype.type(0)
            for c in range(d):
                total += (x[c] - y[c]) * (x[c] - y[c])
            out[cloud, e] = math.sqrt(total)


@kernel
def edge_gradients(points, edges, length, grad, out, first, step):
    """Fill ``out`` (B, n, d) with the sum over edges of grad * (x - y) / length at x and its opposite at y; zero for length zero.

    That is the weighted graph Laplacian times the points. It is summed vertex by vertex, which touches half the memory that
    edge by edge would.
    """
    clouds, count, _ = edges.shape
    n, d = points.shape[1:]
    begin = np.empty(n + 1, np.int64)
    neighbour = np.empty(2 * count, np.int64)
    weight = np.empty(2 * count, points.dtype)
    for cloud in range(clouds):
        here, stop = _share(cloud, clouds, n, first, step)
        if here == stop:
            continue
        begin[:] = 0
        for e in range(count):
            begin[edges[cloud, e, 0]] += 1
            begin[edges[cloud, e, 1]] += 1
        for v in range(1, n + 1):
            begin[v] += begin[v - 1]
        begin[n] = 2 * count
        for e in range(count - 1, -1, -1):
            scale = grad[cloud, e] / length[cloud, e] if length[cloud, e] > 0 else points.dtype.type(0)
            for end in range(2):
                v = edges[cloud, e, end]
                begin[v] -= 1
                neighbour[begin[v]] = edges[cloud, e, 1 - end]
                weight[begin[v]] = scale
        for v in range(here, stop):
            x = points[cloud, v]
            total = out[cloud, v]
            if begin[v] == begin[v + 1]:
                total[:] = 0
            for a in range(begin[v], begin[v + 1]):
                y = points[cloud, neighbour[a]]
                scale = weight[a]
                if a == begin[v]:  # memory is what this waits for: write the first term instead of adding it to zeros
                    for c in range(d):
                        total[c] = scale * (x[c] - y[c])
                else:
                    for c in range(d):
                        total[c] += scale * (x[c] - y[c])
