"""Barcodes against programs that share no code with ours: gudhi, ripser.py, giotto-ph, scipy's single linkage.

They get distances that scipy computed, never our rank matrices, and bars are compared row by row. Tolerances are what rounding
can do and no more: if all distances change by at most e, births and deaths move by at most e, and bars up to 2 e long may come
or go (Chazal, de Silva, Oudot 2014).
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import cdist, squareform
from torch import Tensor

from simplicial_reg import ENGINES, rips_barcode
from simplicial_reg.engines import CriticalEdges
from tests.clouds import KNOWN, assert_same_bars, assert_same_rows, grid, polygon, rows_of, same_bars

NORMAL = settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
NIGHTLY = settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# --- the comparison can fail --------------------------------------------------------------------------------------------------


def test_bars_with_exchanged_deaths_are_not_the_same() -> None:
    # sorted births 0, 1 and sorted deaths 2, 5 agree; the bars do not
    one, two = [[0, 5], [1, 2]], [[0, 2], [1, 5]]
    for tolerance in (0.0, 1e-6, 0.4):
        assert not same_bars(one, two, tolerance)
        assert same_bars(one, one[::-1], tolerance)
    with pytest.raises(AssertionError, match="different bars"):
        assert_same_bars(one, two)


@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([[0, 1]], [[0, 1], [0, 1]]),  # multiplicity
        ([[0, 1], [0, 1]], [[0, 1]]),
        ([[0, 1], [0, 1], [0, 2]], [[0, 1], [0, 2], [0, 2]]),
        ([], [[0, 1]]),
        ([[0, 1]], []),
        ([[0, 1]], [[0, 1.01]]),
        ([[0, 1]], [[0.01, 1]]),
        ([[0, math.inf]], [[0, 1e300]]),
        ([[0, math.inf]], [[1, math.inf]]),
        ([[0, math.inf]], []),
        ([[1, 2], [3, 4]], [[1, 4], [3, 2]]),
    ],
)
def test_different_bars_are_not_the_same(found: Any, expected: Any, tolerance: float) -> None:
    assert not same_bars(found, expected, tolerance)


def test_bars_of_length_zero_count_unless_a_tolerance_is_given() -> None:
    assert not same_bars([[0, 0], [0, 1]], [[0, 1]])
    assert same_bars([[0, 0], [0, 1]], [[0, 1]], 1e-9)
    assert same_bars([[5, 5 + 1e-9]], [], 1e-9)
    assert not same_bars([[5, 5 + 3e-9]], [], 1e-9)


def test_a_row_has_one_partner_only_however_the_rows_are_ordered() -> None:
    # Sorting by birth would pair 0.0 with 0.0 and miss; the only matching within 0.1 is the crossed one.
    found, expected = [[0.00, 5.0], [0.05, 1.0]], [[0.00, 1.0], [0.05, 5.0]]
    assert same_bars(found, expected, 0.1)
    assert not same_bars(found, expected, 0.01)
    assert not same_bars([[0, 1], [0, 1]], [[0, 1], [0.5, 1.5]], 0.1)
    assert same_bars([], [], 0.1)
    assert same_bars([[0, math.inf], [0, 1]], [[0, 1], [0.05, math.inf]], 0.1)


# --- the other programs -------------------------------------------------------------------------------------------------------


def by_gudhi(distances: Any, max_dim: int, threshold: float = math.inf) -> list[Any]:
    """All bars, in float64, those of length zero and infinite ones included."""
    gudhi = pytest.importorskip("gudhi", reason="gudhi is not installed")
    tree = gudhi.RipsComplex(distance_matrix=distances, max_edge_length=threshold).create_simplex_tree(
        max_dimension=max_dim + 1
    )
    tree.compute_persistence(
        homology_coeff_field=2, min_persistence=-1, persistence_dim_max=tree.dimension() <= max_dim
    )
    return [tree.persistence_intervals_in_dimension(dim).reshape(-1, 2) for dim in range(max_dim + 1)]


def by_ripser(distances: Any, max_dim: int, threshold: float = math.inf) -> list[Any]:
    """Bars of positive length and infinite ones, in float32."""
    ripser = pytest.importorskip("ripser", reason="ripser is not installed").ripser
    with warnings.catch_warnings():  # ripser.py warns of clouds with fewer points than coordinates; these are distances
        warnings.simplefilter("ignore")
        return ripser(distances.astype(np.float32), distance_matrix=True, maxdim=max_dim, thresh=threshold)["dgms"]


def by_giotto_ph(distances: Any, max_dim: int) -> list[Any]:
    """Bars of positive length and infinite ones, in float32."""
    gph = pytest.importorskip("gph", reason="giotto-ph is not installed")
    return gph.ripser_parallel(distances.astype(np.float32), maxdim=max_dim, metric="precomputed")["dgms"]


def positive(rows: Any) -> Any:
    return rows[rows[:, 1] > rows[:, 0]]


@pytest.mark.parametrize("name", list(KNOWN))
def test_the_derived_barcodes_are_those_of_gudhi(name: str) -> None:
    cloud = KNOWN[name]
    points = cloud.points.numpy()
    if cloud.metric == "precomputed":
        distances = points
    elif cloud.metric == "angular":
        distances = np.arccos(np.clip(1 - cdist(points, points, "cosine"), -1, 1))
    else:
        distances = cdist(points, points, {"manhattan": "cityblock"}.get(cloud.metric, cloud.metric))
    for dim, (found, expected) in enumerate(zip(by_gudhi(distances, cloud.max_dim), cloud.bars, strict=True)):
        finite = found[np.isfinite(found[:, 1])]
        assert len(found) - len(finite) == (dim == 0)
        assert_same_bars(finite if dim == 0 else positive(finite), expected, cloud.tolerance)


# --- random clouds ------------------------------------------------------------------------------------------------------------


class Drawn(NamedTuple):
    """A drawn cloud: its points, whether all its distances are exact, and the threshold as a part of the largest distance."""

    points: Tensor
    exact: bool
    part: float


@st.composite
def drawn_clouds(draw: st.DrawFn) -> Drawn:
    n, d = draw(st.integers(1, 24), label="n"), draw(st.integers(1, 5), label="d")
    kind = draw(st.sampled_from(["gaussian", "noisy circle", "grid", "floats", "duplicates"]), label="kind")
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    if kind == "gaussian":
        points = random.normal(size=(n, d)) * draw(st.sampled_from([1e-3, 1.0, 1e3])) + draw(
            st.sampled_from([0.0, 10.0])
        )
    elif kind == "noisy circle":
        points = np.concatenate([polygon(max(n, 3))[:n].numpy(), np.zeros((n, 3))], 1)[:, : max(d, 2)]
        points = points + draw(st.sampled_from([0.0, 0.01, 0.2])) * random.normal(size=points.shape)
    elif kind == "grid":
        points = draw(arrays(np.float64, (n, d), elements=st.integers(-2, 2).map(float)))
    elif kind == "floats":
        points = draw(arrays(np.float64, (n, d), elements=st.floats(-100, 100, width=16)))
    else:
        points = random.normal(size=(n, d))[random.integers(0, max(1, n // 2), n)]
    dtype = draw(st.sampled_from([torch.float32, torch.float64]), label="dtype")
    part = draw(
        st.one_of(st.just(math.inf), st.floats(0.05, 1.1)), label="threshold, as a part of the largest distance"
    )
    return Drawn(torch.from_numpy(points).to(dtype), kind == "grid", part)


def check_against_oracles(drawn: Drawn, engine: str = "auto") -> None:
    """H0 and H1 of a cloud are those of gudhi and ripser, and place by place those of the reference."""
    points, exact, part = drawn
    dtype = str(points.dtype).split(".")[1]
    distances = cdist(points.double(), points.double())
    largest = float(distances.max())
    exact = exact or largest == 0
    # What our distances may differ by from scipy's: a few units in the last place, more with more coordinates. For ripser,
    # which rounds distances to float32, as much again. Integer points have no such error: squares and their sums are exact,
    # roots are rounded once, in the same way by everybody.
    ours = 0.0 if exact else 8 * float(np.finfo(dtype).eps) * largest
    ripsers = 0.0 if exact else ours + float(np.finfo(np.float32).eps) * largest
    threshold = part * largest if largest > 0 else math.inf
    if np.abs(distances - threshold).min() <= max(ripsers, 1e-6 * largest):  # rounding could put an edge on either side
        threshold = math.inf
    found = rips_barcode(points, 1, threshold=threshold, essential="infinite", engine=engine)
    for bars, gudhis, rippers in zip(
        found, by_gudhi(distances, 1, threshold), by_ripser(distances, 1, threshold), strict=True
    ):
        rows = rows_of(bars)
        if bars.dim == 0:
            assert len(rows) == len(points)
            assert_same_bars(rows, gudhis.astype(dtype) if exact else gudhis, ours)
        else:
            assert (bars.persistence > 0).all()
            assert_same_bars(rows, positive(gudhis.astype(dtype)) if exact else gudhis, ours)
        assert_same_bars(positive(rows).astype(np.float32) if exact else rows, rippers, ripsers)
    for other in ("reference", "boruvka", "spanning-tree"):
        max_dim = 1 if other == "reference" else 0
        again = rips_barcode(points, max_dim, threshold=threshold, essential="infinite", engine=other)
        for bars, expected in zip(found, again, strict=False):
            assert_same_rows(bars, expected)


@NORMAL
@given(drawn_clouds())
def test_200_random_clouds_have_the_bars_of_gudhi_ripser_and_the_reference(drawn: Drawn) -> None:
    check_against_oracles(drawn)


@pytest.mark.nightly
@NIGHTLY
@given(drawn_clouds())
def test_2000_random_clouds_have_the_bars_of_gudhi_ripser_and_the_reference(drawn: Drawn) -> None:
    check_against_oracles(drawn)


def has_open_loop(drawn: Drawn) -> bool:
    if len(drawn.points) < 5 or math.isinf(drawn.part):
        return False
    threshold = drawn.part * float(cdist(drawn.points, drawn.points).max())
    loops = rips_barcode(drawn.points, 1, threshold=threshold, essential="infinite")[1]
    return bool((loops.death == math.inf).any() and (loops.death < math.inf).any())


WANTED = {
    "one point": lambda drawn: len(drawn.points) == 1,
    "24 points": lambda drawn: len(drawn.points) == 24,
    "a duplicate": lambda drawn: len(drawn.points.unique(dim=0)) < len(drawn.points),
    "all points equal": lambda drawn: len(drawn.points) > 3 and len(drawn.points.unique(dim=0)) == 1,
    "an exact grid with loops": lambda drawn: drawn.exact and len(rips_barcode(drawn.points, 1)[1]) > 0,
    "float32 with two loops": lambda drawn: (
        drawn.points.dtype == torch.float32 and len(rips_barcode(drawn.points, 1)[1]) > 1
    ),
    "a loop that the threshold leaves open beside one that it closes": has_open_loop,
}


@pytest.mark.parametrize("name", list(WANTED))
def test_the_random_clouds_include(name: str) -> None:
    find(
        drawn_clouds(),
        WANTED[name],
        settings=settings(max_examples=20_000, deadline=None, derandomize=True, database=None, phases=["generate"]),
    )


# --- the oracles notice -------------------------------------------------------------------------------------------------------


def star(distances: Tensor, mask: Tensor | None, max_dim: int, threshold: float) -> Any:
    """A spanning tree that is not a minimum one: everything hangs from vertex 0."""
    child = torch.arange(1, distances.shape[-1])
    zero = torch.zeros_like(child)
    components = CriticalEdges(torch.stack([child, child], -1), torch.stack([child, zero], -1), child > 0)
    return [components, *ENGINES["reference"].find(distances, mask, max_dim, threshold)[1:]]


def without_last_loop(distances: Tensor, mask: Tensor | None, max_dim: int, threshold: float) -> Any:
    components, (birth, death, real) = ENGINES["reference"].find(distances, mask, max_dim, threshold)
    return [components, CriticalEdges(birth[:-1], death[:-1], real[:-1])]


def with_exchanged_deaths(distances: Tensor, mask: Tensor | None, max_dim: int, threshold: float) -> Any:
    components, (birth, death, real) = ENGINES["reference"].find(distances, mask, max_dim, threshold)
    return [components, CriticalEdges(birth, death.flip(0), real)]


@pytest.mark.parametrize("wrong", [star, without_last_loop, with_exchanged_deaths])
def test_the_oracles_notice_a_wrong_engine(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "wrong", ENGINES["reference"]._replace(find=wrong))
    # Two rectangles: loops [4, 5) and [4.5, 7.5). Exchanged, [4, 7.5) and [4.5, 5) have the same births and deaths.
    one = torch.tensor([[0, 0], [3, 0], [3, 4], [0, 4]])
    two = torch.tensor([[0, 0], [4.5, 0], [4.5, 6], [0, 6]]) * torch.tensor([1.0, 0.7]) + torch.tensor([100.0, 0])
    drawn = Drawn(torch.cat([one, two]).double(), False, math.inf)
    assert len(rips_barcode(drawn.points, 1)[1]) >= 2
    check_against_oracles(drawn)
    with pytest.raises(AssertionError, match="different bars"):
        check_against_oracles(drawn, "wrong")


# --- larger clouds ------------------------------------------------------------------------------------------------------------


def larger_clouds() -> dict[str, Any]:
    """Distances, float64. The last three have no structure to go by: reductions are long and columns fill up."""
    random = np.random.default_rng(7)
    blobs = np.concatenate([random.normal(size=(30, 8)) + shift for shift in (0, 5, -5)])
    directions = random.normal(size=(120, 768))
    noise, levels = (np.triu(draw, 1) for draw in (random.random((110, 110)), random.integers(1, 30, (90, 90))))
    clouds = {
        "gaussian, 120 points in 3 dimensions": random.normal(size=(120, 3)),
        "gaussian, 100 points in 768 dimensions": random.normal(size=(100, 768)),
        "uniform, 110 points in the plane": random.uniform(size=(110, 2)),
        "noisy circle, 90 points": polygon(90).numpy() + 0.05 * random.normal(size=(90, 2)),
        "three blobs, 90 points": blobs,
        "integer grid, 64 points": grid(8, 8).numpy(),
        "random integers, 80 points": random.integers(0, 6, size=(80, 3)).astype(float),
        "corners of a cube, 64 points": grid(2, 2, 2, 2, 2, 2).numpy(),
        "sphere, 100 points": (lambda x: x / np.linalg.norm(x, axis=1, keepdims=True))(random.normal(size=(100, 3))),
    }
    return {
        **{name: cdist(points, points) for name, points in clouds.items()},
        "directions, 120 in 768 dimensions": squareform(
            squareform(cdist(directions, directions, "cosine"), checks=False)
        ),
        "random distances, 110 points": noise + noise.T,
        "random distances with ties, 90 points": (levels + levels.T).astype(float),
    }


LARGER = larger_clouds()


@pytest.mark.parametrize("oracle", [by_ripser, by_giotto_ph])
@pytest.mark.parametrize("name", list(LARGER))
def test_larger_clouds_have_exactly_the_bars_of_float32_programs(name: str, oracle: Any) -> None:
    # The same float32 distances for both, which are not rounded any more: the bars must be equal to the last bit.
    distances = LARGER[name].astype(np.float32)
    found = rips_barcode(torch.from_numpy(distances), 1, metric="precomputed", essential="infinite")
    assert len(found[1]) > 3 or "circle" in name
    for bars, expected in zip(found, oracle(distances, 1), strict=True):
        assert_same_bars(positive(rows_of(bars)), expected)


@pytest.mark.parametrize("metric", ["euclidean", "cityblock", "chebyshev", "cosine"])
@pytest.mark.parametrize("d", [2, 3, 64])
def test_larger_clouds_have_the_bars_of_ripser_from_their_points(d: int, metric: str) -> None:
    points = np.random.default_rng(d).normal(size=(100, d))
    distances = squareform(
        squareform(cdist(points, points, metric), checks=False)
    )  # scipy's cosine of x and x is not quite 1
    tolerance = 2 * float(np.finfo(np.float32).eps) * float(distances.max())
    ours = {"cityblock": "manhattan"}.get(metric, metric)
    found = rips_barcode(torch.from_numpy(points), 1, metric=ours, essential="infinite")
    for bars, expected in zip(found, by_ripser(distances, 1), strict=True):
        assert_same_bars(rows_of(bars), expected, tolerance)


@pytest.mark.parametrize("engine", ["spanning-tree", "boruvka", "cohomology"])
@pytest.mark.parametrize("n", [2, 3, 33, 300])
def test_deaths_of_components_are_the_heights_of_single_linkage(n: int, engine: str) -> None:
    random = np.random.default_rng(n)
    for points in (random.normal(size=(n, 3)), random.integers(0, 4, size=(n, 2)).astype(float)):
        distances = cdist(points, points)
        (bars,) = rips_barcode(torch.from_numpy(distances), metric="precomputed", engine=engine)
        heights = linkage(squareform(distances), "single")[:, 2]
        assert np.array_equal(bars.death.numpy(), np.sort(heights))


@pytest.mark.parametrize("seed", range(3))
def test_voids_are_those_of_gudhi_on_the_distances_themselves(seed: int) -> None:
    # Our engine gives gudhi ranks; here gudhi gets the distances.
    random = np.random.default_rng(seed)
    points = random.normal(size=(18, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True) if seed == 0 else 1
    distances = cdist(points, points)
    gudhis = by_gudhi(distances, 2)
    found = rips_barcode(torch.from_numpy(distances), 2, metric="precomputed", essential="infinite")
    assert seed > 0 or len(found[2]) > 0
    for bars, expected in zip(found, gudhis, strict=True):
        assert_same_bars(rows_of(bars), expected if bars.dim == 0 else positive(expected))
