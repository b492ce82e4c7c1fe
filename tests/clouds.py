"""Clouds whose barcodes are known exactly, and how two barcodes are compared.

Every barcode in ``KNOWN`` is derived beside the cloud, not computed by a program. Four facts carry the derivations (VR(r) is the
complex of all simplices whose edges are at most r long):

*Tree.*  The finite H0 bars die at the lengths of a minimum spanning tree.
*Cone.*  From r = min_i max_j d(i, j) on, VR(r) is a cone over the vertex i, hence contractible: every other bar is over.
*Lune.*  If some point is strictly closer to both ends of an edge than these are to each other, the edge is not in the minimum spanning
         tree and no H1 bar of positive length is born with it (it enters together with a triangle on two shorter edges).
*Cycle.* n points evenly on a circle, joined when at most k steps apart, form a complex that is homotopy equivalent to a circle for
         0 < k/n < 1/3, to a wedge of n - 2k - 1 two-spheres for k/n = 1/3, to a three-sphere for 1/3 < k/n < 2/5, and to wedges of spheres
         of higher dimension after that, until it is a simplex (Adamaszek 2013; Adamaszek, Adams 2017, "The Vietoris-Rips complexes of a
         circle"). Between two values of k of the first kind the inclusion is a homotopy equivalence.
"""

from __future__ import annotations

import math
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching
from torch import Tensor

from simplicial_reg import Barcode

__all__ = ["KNOWN", "Cloud", "assert_same_bars", "assert_same_rows", "cycle_distances", "grid", "rows_of", "same_bars"]

SQRT2 = math.sqrt(2)
Rows = list[tuple[float, float]]


class Cloud(NamedTuple):
    """A cloud, float64, and the finite bars it must have, as (birth, death) rows for each homology dimension that is listed."""

    points: Tensor
    metric: str
    bars: tuple[Rows, ...]
    # Where floats cannot hold the points of the derivation (a regular pentagon), lengths that should be equal differ in the
    # last place. Then bars are compared with this relative tolerance, and bars shorter than it are rounding. 0: exact.
    tolerance: float = 0.0

    @property
    def max_dim(self) -> int:
        return len(self.bars) - 1


# --- comparison ---------------------------------------------------------------------------------------------------------------


def rows_of(bars: Barcode) -> Any:
    """The real bars of a single cloud as an array (k, 2) of rows (birth, death)."""
    assert bars.mask.ndim == 1, "rows_of takes the barcode of one cloud"
    return bars.numpy()


def same_bars(found: Any, expected: Any, tolerance: float = 0.0) -> bool:
    """Whether two sets of (birth, death) rows are the same, each with its multiplicity; rows are never taken apart.

    With tolerance 0 the rows must be equal. With a positive one, a row may be matched to one whose birth and death both differ by no more
    than that, and a row of persistence up to twice the tolerance need not be matched at all (the bottleneck distance: it is as close
    to a bar of length zero as the others are to their partners). Every longer row must have a partner of its own, on both sides.
    """
    a = np.asarray(found, np.float64).reshape(-1, 2)
    b = np.asarray(expected, np.float64).reshape(-1, 2)
    if tolerance == 0:
        return a.shape == b.shape and bool((_in_order(a) == _in_order(b)).all())
    # Two matchings, one that covers every long row of a and one that covers every long row of b, can always be made into
    # one that covers both (Mendelsohn, Dulmage 1958), so it is enough to look for them one at a time.
    return _all_matched(a[_persistence(a) > 2 * tolerance], b, tolerance) and _all_matched(
        b[_persistence(b) > 2 * tolerance], a, tolerance
    )


def _in_order(rows: Any) -> Any:
    return rows[np.lexsort((rows[:, 1], rows[:, 0]))]


def _persistence(rows: Any) -> Any:
    return rows[:, 1] - rows[:, 0]


def _all_matched(rows: Any, partners: Any, tolerance: float) -> bool:
    if len(rows) == 0 or len(partners) == 0:
        return len(rows) == 0
    with np.errstate(invalid="ignore"):  # inf - inf
        near = np.abs(rows[:, None] - partners[None]) <= tolerance
    near |= rows[:, None] == partners[None]
    return bool((maximum_bipartite_matching(csr_matrix(near.all(-1)), perm_type="column") >= 0).all())


def assert_same_bars(found: Any, expected: Any, tolerance: float = 0.0) -> None:
    """Fail with both barcodes in the message unless `same_bars`."""
    if not same_bars(found, expected, tolerance):
        shown = [
            np.array2string(_in_order(np.asarray(rows, np.float64).reshape(-1, 2)), threshold=200)
            for rows in (found, expected)
        ]
        raise AssertionError(f"different bars (tolerance {tolerance:g}).\nfound:\n{shown[0]}\nexpected:\n{shown[1]}")


def assert_same_rows(found: Barcode, expected: Barcode) -> None:
    """Fail unless two barcodes are equal in every field, place by place, to the last bit."""
    assert found.dim == expected.dim
    for field in ("mask", "birth_edge", "death_edge", "birth", "death"):
        a, b = getattr(found, field), getattr(expected, field)
        assert a.dtype == b.dtype, f"{field} of H{found.dim}: {a.dtype} is not {b.dtype}"
        assert a.shape == b.shape, f"{field} of H{found.dim}: shape {tuple(a.shape)} is not {tuple(b.shape)}"
        assert torch.equal(a, b), f"{field} of H{found.dim} differs:\nfound {a}\nexpected {b}"


# --- clouds -------------------------------------------------------------------------------------------------------------------


def tensor(rows: Any) -> Tensor:
    return torch.tensor(np.array(rows, np.float64))


def grid(*sides: int) -> Tensor:
    """All integer points (a, b, ...) with 0 <= a < sides[0], 0 <= b < sides[1], ..."""
    return tensor(list(product(*(range(side) for side in sides))))


def polygon(n: int, radius: float = 1.0) -> Tensor:
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    return radius * torch.stack([angle.cos(), angle.sin()], -1)


def chord(n: int, steps: int) -> float:
    """Distance of two corners of the regular n-gon of circumradius 1 that are so many sides apart."""
    return 2 * math.sin(math.pi * steps / n)


def polygon_bars(n: int) -> tuple[Rows, Rows, Rows]:
    """H0, H1 and H2 of the regular n-gon of circumradius 1, n >= 4. See *Cycle*: VR(r) joins corners that are at most k steps apart, where
    chord(n, k) <= r < chord(n, k + 1).

    H0: n - 1 sides join n corners. H1: born with the sides (k = 1), dies at the first k with k/n >= 1/3, which is ceil(n/3). If 3 divides n
    that is the side of the inscribed equilateral triangle, sqrt(3); the square dies at its diagonal, 2. H2: only if 3 divides n, n/3 - 1
    bars (n - 2k - 1 at k = n/3), which die at the next chord, because k/n > 1/3 has no H2; for n = 3 there are none.
    """
    death = chord(n, -(-n // 3))
    spheres = n // 3 - 1 if n % 3 == 0 else 0
    return [(0.0, chord(n, 1))] * (n - 1), [(chord(n, 1), death)], [(death, chord(n, n // 3 + 1))] * spheres


def cycle_distances(n: int) -> Tensor:
    """Graph distances in the cycle of n vertices."""
    steps = torch.arange(n, dtype=torch.float64)
    apart = (steps[:, None] - steps).abs()
    return torch.minimum(apart, n - apart)


def polygon_distances(n: int) -> Tensor:
    """Distances of the regular n-gon of circumradius 1, equal where they should be."""
    chords = tensor([0.0] + [chord(n, steps) for steps in range(1, n // 2 + 1)])
    return chords[cycle_distances(n).long()]


def graph_distances(n: int, edges: list[tuple[int, int]]) -> Tensor:
    """Lengths of shortest paths in a connected graph (Floyd, Warshall 1962)."""
    distances = torch.full((n, n), math.inf, dtype=torch.float64).fill_diagonal_(0)
    for a, b in edges:
        distances[a, b] = distances[b, a] = 1
    for k in range(n):
        distances = torch.minimum(distances, distances[:, k : k + 1] + distances[k : k + 1])
    return distances


def icosahedron_distances() -> Tensor:
    """Graph distances of the icosahedron: two poles, and two pentagons of which each corner sees two of the other's."""
    upper, lower = range(1, 6), range(6, 11)
    edges = [(0, a) for a in upper] + [(11, a) for a in lower]
    edges += [(1 + a, 1 + (a + 1) % 5) for a in range(5)] + [(6 + a, 6 + (a + 1) % 5) for a in range(5)]
    edges += [(1 + a, 6 + a) for a in range(5)] + [(1 + a, 6 + (a + 1) % 5) for a in range(5)]
    return graph_distances(12, edges)


def projective_plane_distances() -> Tensor:
    """Graph distances of a triangulated projective plane with 13 vertices.

    The vertices, edges and triangles of an octahedron are the non-zero sign vectors in {-1, 0, 1}^3; opposite ones are identified,
    which leaves 3 + 6 + 4 = 13. Two are joined if one is a face of the other.
    """
    signs = [s for s in product((-1, 0, 1), repeat=3) if s > (0, 0, 0)]  # one of s and -s

    def face(s: tuple[int, ...], t: tuple[int, ...]) -> bool:
        return s != t and all(a in (0, b) for a, b in zip(s, t, strict=True))

    joined = [
        (a, b)
        for (a, s), (b, t) in combinations(enumerate(signs), 2)
        if any(face(s, u) or face(u, s) for u in (t, tuple(-x for x in t)))
    ]
    return graph_distances(len(signs), joined)


def cross_polytope(d: int) -> Tensor:
    """The 2 d points ±e_i."""
    return torch.cat([torch.eye(d, dtype=torch.float64), -torch.eye(d, dtype=torch.float64)])


KNOWN: dict[str, Cloud] = {
    # One point has no finite bar, in any dimension.
    "one point": Cloud(tensor([[3.0, -1.0]]), "euclidean", ([], [], [])),
    # Two points: one tree edge, 5 = sqrt(3² + 4²) long. Two points bound no loop.
    "two points": Cloud(tensor([[0.0, 0.0], [3.0, 4.0]]), "euclidean", ([(0, 5)], [], [])),
    # Three points bound no loop either: the third edge closes the triangle at once. Sides 3, 4, 5; the tree is 3, 4.
    "right triangle": Cloud(tensor([[0, 0], [3, 0], [0, 4]]), "euclidean", ([(0, 3), (0, 4)], [], [])),
    # Duplicates are vertices of their own: 3 + 2 of them are hung on with edges of length 0, and one edge of length 2 joins the places.
    "duplicates": Cloud(tensor([[0], [2], [0], [2], [0], [2], [0]]), "euclidean", ([(0, 0)] * 5 + [(0, 2)], [], [])),
    # All points equal: every edge of the tree has length 0.
    "all equal": Cloud(torch.full((6, 3), 7.0, dtype=torch.float64), "euclidean", ([(0, 0)] * 5, [], [])),
    # On a line every edge but those between neighbours has a point between its ends (Lune), so neighbours make the tree and
    # there are no loops; VR of points on a line is contractible component by component, so there is no H2.
    "equally spaced": Cloud(tensor([[0.5 * a, 0] for a in range(9)]), "euclidean", ([(0, 0.5)] * 8, [], [])),
    "collinear": Cloud(tensor([[7], [0], [3], [1]]), "euclidean", ([(0, 1), (0, 2), (0, 4)], [], [])),
    # All edges of a regular simplex are equally long: n - 1 of them are a tree, and with all of them the complex is a full
    # simplex. Unit vectors: |e_i - e_j| = sqrt(2).
    "regular simplex": Cloud(torch.eye(8, dtype=torch.float64), "euclidean", ([(0, SQRT2)] * 7, [], [])),
    # The sides of the square are a loop; the diagonals fill it, both at once, and complete the simplex.
    "unit square": Cloud(tensor([[0, 0], [1, 0], [1, 1], [0, 1]]), "euclidean", ([(0, 1)] * 3, [(1, SQRT2)], [])),
    # Sides 3 and 4, diagonal 5. The tree has both short sides and one long one; the other long one closes the loop.
    "rectangle": Cloud(tensor([[0, 0], [3, 0], [3, 4], [0, 4]]), "euclidean", ([(0, 3)] * 2 + [(0, 4)], [(4, 5)], [])),
    # Two unit squares, 8 apart: the bars of each, and one edge that joins them. Up to a length of 8 they do not see each other. The
    # longer edges have lunes that are empty only for the two of length 8, (1, 0)-(9, 0) and (1, 1)-(9, 1): any other one between the
    # squares is longer and has a corner of one of these strictly closer to both its ends. One of the two is in the tree; the other
    # makes a loop with it and the two sides of length 1, which the diagonals, sqrt(65) long, fill at once. At sqrt(65) the four corners
    # span a tetrahedron. H1: the two squares and [8, sqrt(65)).
    "two squares": Cloud(
        tensor([[0, 0], [1, 0], [1, 1], [0, 1], [9, 0], [10, 0], [10, 1], [9, 1]]),
        "euclidean",
        ([(0, 1)] * 6 + [(0, 8)], [(1, SQRT2)] * 2 + [(8, math.sqrt(65))]),
    ),
    # Regular polygons: see polygon_bars. Once as points, which floats hold only nearly, and once as distances, which they hold exactly.
    **{f"regular {n}-gon": Cloud(polygon(n), "euclidean", polygon_bars(n), 1e-6) for n in (5, 6, 7, 9, 10, 12)},
    **{
        f"distances of a {n}-gon": Cloud(polygon_distances(n), "precomputed", polygon_bars(n))
        for n in (4, 5, 6, 7, 8, 9, 11, 12)
    },
    # Cycle with k = r: a circle for k < 6, a wedge of 18 - 12 - 1 = 5 two-spheres at k = 6, a three-sphere at k = 7 (7/18 < 2/5), spheres
    # of dimension above 3 after that. H3 is [7, 8), but the reduction in that dimension takes too long for a test.
    "18-cycle": Cloud(cycle_distances(18), "precomputed", ([(0, 1)] * 17, [(1, 6)], [(6, 7)] * 5)),
    # At 1 the complex is the surface of the icosahedron (its graph has no triangles but the 20 faces and no 4-cliques), a two-sphere. At
    # 2 only the six pairs of opposite vertices are not joined: that is the surface of the 6-dimensional cross-polytope, a
    # five-sphere. So H2 [1, 2) and, beyond our dimensions, H5 [2, 3).
    "icosahedron": Cloud(icosahedron_distances(), "precomputed", ([(0, 1)] * 11, [], [(1, 2)])),
    # At 1 it is the projective plane: every clique of the graph comes from a flag of faces of the octahedron, because a walk from a face to
    # its opposite takes at least 4 steps, so no triangle goes around. Over Z/2 the plane has H1 = H2 = Z/2. At 2 the graph is complete.
    "projective plane": Cloud(projective_plane_distances(), "precomputed", ([(0, 1)] * 12, [(1, 2)], [(1, 2)])),
    # Only opposite points ±e_i are farther apart (2) than sqrt(2): the surface of the cross-polytope, a (d - 1)-sphere, until 2.
    "octahedron": Cloud(cross_polytope(3), "euclidean", ([(0, SQRT2)] * 5, [], [(SQRT2, 2)])),
    "16-cell": Cloud(cross_polytope(4), "euclidean", ([(0, SQRT2)] * 7, [], [], [(SQRT2, 2)])),
    # Corners of the unit cube, taxicab distances. At 1 its graph, 12 edges on 8 vertices with no triangles: 12 - 7 = 5 loops. At 2 only
    # the four pairs of opposite corners are not joined: the cross-polytope in dimension 4, a three-sphere.
    "cube": Cloud(grid(2, 2, 2), "manhattan", ([(0, 1)] * 7, [(1, 2)] * 5, [])),
    # Euclidean grid. An edge longer than 1 has a grid point strictly between in every sense (along one axis of the box it spans),
    # so by Lune loops are born at 1 only: edges - vertices + 1 of them. At sqrt(2) every unit square becomes a tetrahedron and every
    # loop of the grid graph, a sum of unit squares, is filled; none is filled before.
    "4 x 5 grid": Cloud(grid(4, 5), "euclidean", ([(0, 1)] * 19, [(1, SQRT2)] * 12)),
    # 3 x 2 x 2 grid: 12 vertices and 2*4 + 3*2 + 3*2 = 20 edges.
    "3 x 2 x 2 grid": Cloud(grid(3, 2, 2), "euclidean", ([(0, 1)] * 11, [(1, SQRT2)] * 9)),
    # In the taxicab metric the diagonal of a unit square is 2 long, and the two corners between its ends are strictly closer. So again.
    "4 x 4 grid, taxicab": Cloud(grid(4, 4), "manhattan", ([(0, 1)] * 15, [(1, 2)] * 9)),
    # In the chessboard metric the diagonals are there with the sides, so no loop is open at 1; an edge longer than 1 has a grid point in
    # its lune.
    "4 x 4 grid, chessboard": Cloud(grid(4, 4), "chebyshev", ([(0, 1)] * 15, [])),
    # Directions at 0, 60 and 180 degrees, of any length. 1 - cos: 1/2, 3/2, 2. In radians: 1/3, 2/3 and 1 times pi.
    "directions, cosine": Cloud(
        tensor([[2.0, 0.0], [0.5, math.sqrt(3) / 2], [-7.0, 0.0]]), "cosine", ([(0, 0.5), (0, 1.5)], [], []), 1e-6
    ),
    "directions, angle": Cloud(
        tensor([[2.0, 0.0], [0.5, math.sqrt(3) / 2], [-7.0, 0.0]]),
        "angular",
        ([(0, math.pi / 3), (0, 2 * math.pi / 3)], [], []),
        1e-6,
    ),
    # Four directions at right angles: a square. 1 - cos: sides 1, diagonals 2. In radians: pi/2 and pi. Scale does not matter.
    "compass, cosine": Cloud(tensor([[3, 0], [0, 5], [-1, 0], [0, -2]]), "cosine", ([(0, 1)] * 3, [(1, 2)], []), 1e-6),
    "compass, angle": Cloud(
        tensor([[3, 0], [0, 5], [-1, 0], [0, -2]]),
        "angular",
        ([(0, math.pi / 2)] * 3, [(math.pi / 2, math.pi)], []),
        1e-6,
    ),
}
