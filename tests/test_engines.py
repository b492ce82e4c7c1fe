"""The contract of every engine in ``ENGINES``: known barcodes to the last bit, and the same edges as `reference`, place by place."""

from __future__ import annotations

import functools
import importlib.util
import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from simplicial_reg import ENGINES, METRICS, Barcode, pairwise_distances, rips_barcode, select_engine
from simplicial_reg.engines import CriticalEdges
from tests.clouds import (
    KNOWN,
    assert_same_bars,
    assert_same_rows,
    cycle_distances,
    grid,
    rows_of,
    same_bars,
)

DTYPES = (torch.float32, torch.float64)
ESSENTIAL = ("drop", "enclosing_radius", "infinite")


def skip_unless_installed(engine: str) -> None:
    needs = ENGINES[engine].needs
    if needs is not None and importlib.util.find_spec(needs) is None:
        pytest.skip(f"engine {engine!r} needs {needs}, which is not installed")


def reach(engine: str, max_dim: int) -> int:
    """The highest dimension up to max_dim that the engine computes."""
    highest = ENGINES[engine].max_dim
    return max_dim if highest is None else min(highest, max_dim)


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    skip_unless_installed(request.param)
    return request.param


# --- known barcodes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", list(KNOWN))
def test_engine_gives_the_known_barcode(engine: str, name: str, dtype: torch.dtype) -> None:
    cloud = KNOWN[name]
    max_dim = reach(engine, cloud.max_dim)
    found = rips_barcode(cloud.points.to(dtype), max_dim, metric=cloud.metric, engine=engine)
    assert [bars.dim for bars in found] == list(range(max_dim + 1))
    for bars, expected in zip(found, cloud.bars, strict=False):
        rounded = np.array(expected, np.float64).reshape(-1, 2).astype(str(dtype).split(".")[1])
        assert bars.birth.dtype == bars.death.dtype == dtype
        assert_same_bars(rows_of(bars), rounded, cloud.tolerance)
        if bars.dim == 0:  # rounding may add a short bar above, but H0 always has n - 1
            assert len(bars) == len(cloud.points) - 1


def test_known_clouds_in_dimension_three_of_an_engine_without_limit(engine: str) -> None:
    if ENGINES[engine].max_dim is not None:
        pytest.skip(f"engine {engine!r} stops at H{ENGINES[engine].max_dim}")
    # 12-cycle: 5/12 > 2/5, so H3 needs 1/3 < k/12 < 2/5, which no k satisfies; 11-cycle: k = 4 (4/11 = 0.364), then 5 is complete.
    bars = rips_barcode(cycle_distances(11), 3, metric="precomputed", engine=engine)
    assert_same_bars(rows_of(bars[1]), [(1, 4)])
    assert_same_bars(rows_of(bars[2]), [])
    assert_same_bars(rows_of(bars[3]), [(4, 5)])


# --- the same edges as the reference ------------------------------------------------------------------------------------------


def clouds_with_ties() -> dict[str, tuple[Tensor, str]]:
    """Batches of small clouds, most of them full of ties; random ones are drawn from fixed seeds."""
    draw = torch.Generator().manual_seed(20)
    gaussian = torch.randn(4, 11, 3, generator=draw, dtype=torch.float64)
    integers = torch.randint(0, 3, (6, 11, 2), generator=draw).double()  # 9 places for 11 points: always duplicates
    line = torch.randint(0, 6, (3, 9, 1), generator=draw).double()
    corners = torch.randint(0, 2, (4, 12, 4), generator=draw).double()
    shuffled = torch.stack([grid(3, 4)[torch.randperm(12, generator=draw)] for _ in range(3)])
    cycle = torch.stack(
        [cycle_distances(12)[order][:, order] for order in (torch.randperm(12, generator=draw) for _ in range(3))]
    )
    # Not even a metric: the triangle inequality plays no part in a Vietoris-Rips filtration.
    levels = torch.randint(0, 4, (6, 10, 10), generator=draw).double().triu(1)
    return {
        "gaussian": (gaussian, "euclidean"),
        "integers, euclidean": (integers, "euclidean"),
        "integers, manhattan": (integers, "manhattan"),
        "integers, chebyshev": (integers, "chebyshev"),
        "integers, cosine": (integers, "cosine"),
        "integers, angular": (integers, "angular"),
        "line": (line, "euclidean"),
        "corners": (corners, "euclidean"),
        "shuffled grid": (shuffled, "euclidean"),
        "shuffled cycle": (cycle, "precomputed"),
        "all equal": (torch.ones(2, 7, 2, dtype=torch.float64), "euclidean"),
        "one level": (torch.ones(2, 7, 7, dtype=torch.float64) - torch.eye(7), "precomputed"),
        "four levels": (levels + levels.mT, "precomputed"),
    }


TIES = clouds_with_ties()


def masks_for(points: Tensor) -> Tensor:
    """A mask for each cloud: the first real point is sometimes not the first, and one cloud has a single real point."""
    mask = torch.rand(points.shape[:2], generator=torch.Generator().manual_seed(points.shape[1])) < 0.7
    mask[:, 3] = True
    mask[0] = False
    mask[0, 2] = True
    return mask


def threshold_for(points: Tensor, metric: str, which: str) -> float:
    """Between two lengths, equal to a length (edges as long as the threshold are in), 0, or none."""
    if which in ("none", "zero"):
        return math.inf if which == "none" else 0.0
    edges = rips_barcode(points[-1], metric=metric, engine="reference")[0].death
    middle = float(edges[len(edges) // 2])
    return middle if which == "a length" else 1.1 * middle


@functools.cache
def reference_bars(name: str, dtype: torch.dtype, masked: bool, which: str, essential: str) -> tuple[Barcode, ...]:
    return bars_by("reference", 1, name, dtype, masked, which, essential)


def bars_by(
    engine: str, max_dim: int, name: str, dtype: torch.dtype, masked: bool, which: str, essential: str
) -> tuple[Barcode, ...]:
    points, metric = TIES[name]
    points = points.to(dtype)
    return rips_barcode(
        points,
        max_dim,
        mask=masks_for(points) if masked else None,
        metric=metric,
        threshold=threshold_for(points, metric, which),
        essential=essential,
        engine=engine,
    )


@pytest.mark.parametrize("essential", ESSENTIAL)
@pytest.mark.parametrize("which", ["none", "a length", "between", "zero"])
@pytest.mark.parametrize("masked", [False, True], ids=["all real", "masked"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_engine_names_the_same_edges_as_the_reference(
    engine: str, dtype: torch.dtype, masked: bool, which: str, essential: str
) -> None:
    for name in TIES:
        max_dim = reach(engine, 1)
        found = bars_by(engine, max_dim, name, dtype, masked, which, essential)
        for a, b in zip(found, reference_bars(name, dtype, masked, which, essential), strict=False):
            assert_same_rows(a, b)


def test_engine_names_the_same_edges_as_the_reference_in_dimension_two(engine: str) -> None:
    if reach(engine, 2) < 2:
        pytest.skip(f"engine {engine!r} stops at H{ENGINES[engine].max_dim}")
    draw = torch.Generator().manual_seed(3)
    levels = torch.randint(1, 6, (8, 9, 9), generator=draw).double().triu(1)
    for threshold in (math.inf, 3.0):
        for essential in ESSENTIAL:
            found, expected = (
                rips_barcode(
                    levels + levels.mT, 2, metric="precomputed", threshold=threshold, essential=essential, engine=name
                )
                for name in (engine, "reference")
            )
            for a, b in zip(found, expected, strict=True):
                assert_same_rows(a, b)
    assert len(expected[2].death[0]) > 0  # there was something to compare


def test_engine_agrees_with_the_reference_on_a_larger_random_cloud(engine: str) -> None:
    points = torch.randn(26, 4, generator=torch.Generator().manual_seed(1))
    for a, b in zip(
        rips_barcode(points, reach(engine, 1), engine=engine), rips_barcode(points, 1, engine="reference"), strict=False
    ):
        assert_same_rows(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [name for name in TIES if "angular" not in name])
def test_the_enclosing_edge_is_the_first_of_the_last_edges_at_each_vertex(name: str, dtype: torch.dtype) -> None:
    points, metric = TIES[name]
    points = points.to(dtype)
    for mask in (torch.ones(points.shape[:2], dtype=torch.bool), masks_for(points)):
        (bars,) = rips_barcode(points, mask=mask, metric=metric, essential="enclosing_radius")
        distances = points if metric == "precomputed" else pairwise_distances(points, metric)
        for cloud in range(len(points)):
            real = mask[cloud].nonzero().flatten().tolist()
            if len(real) == 1:
                continue
            lengths = distances[cloud].tolist()
            # the total order: length, larger vertex, smaller vertex
            last = [max((lengths[u][v], max(u, v), min(u, v)) for v in real if v != u) for u in real]
            assert bars.death_edge[cloud, len(real) - 1].tolist() == list(min(last)[1:])


@pytest.mark.parametrize("length", [0.1, 0.3, 0.7])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_edge_as_long_as_the_threshold_is_in_for_every_engine(
    engine: str, length: float, dtype: torch.dtype
) -> None:
    # A square with this side, and the side as the threshold: float32(0.1) and float32(0.3) lie above the Python floats, 0.7 below.
    # What the user calls 0.1 is the edge's length in the dtype of the points.
    side = torch.tensor(length, dtype=dtype)
    steps = torch.tensor([[0, 1, 2, 1], [1, 0, 1, 2], [2, 1, 0, 1], [1, 2, 1, 0]], dtype=dtype)
    bars = rips_barcode(
        steps * side, reach(engine, 1), metric="precomputed", threshold=length, essential="infinite", engine=engine
    )
    assert_same_bars(rows_of(bars[0]), [(0, float(side))] * 3 + [(0, math.inf)])
    if len(bars) > 1:
        assert_same_bars(rows_of(bars[1]), [(float(side), math.inf)])


@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_threshold_that_is_the_length_of_an_edge_leaves_it_in(engine: str, metric: str, dtype: torch.dtype) -> None:
    # Lengths along single edges may differ from those of whole matrices in the last place; the latter decide.
    points = torch.randn(3, 12, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    for cloud in points:
        distances = pairwise_distances(cloud, metric)
        for u, v in rips_barcode(cloud, metric=metric)[0].death_edge.tolist():
            threshold = float(distances[u, v])
            bars = rips_barcode(cloud, metric=metric, threshold=threshold, engine=engine)[0]
            given = rips_barcode(distances, metric="precomputed", threshold=threshold, engine=engine)[0]
            assert torch.equal(bars.mask, given.mask)
            assert [u, v] in bars.death_edge[bars.mask].tolist()


@pytest.mark.parametrize("masked", [False, True], ids=["all real", "masked"])
def test_engine_gives_a_single_cloud_the_bars_that_it_has_in_a_batch(engine: str, masked: bool) -> None:
    for name, (points, metric) in TIES.items():
        if metric == "angular":  # torch's vectorised atan2 may round a number differently from place to place
            continue
        mask = masks_for(points) if masked else None
        together = rips_barcode(points, reach(engine, 1), mask=mask, metric=metric, engine=engine)
        for cloud in range(len(points)):
            alone = rips_barcode(
                points[cloud],
                reach(engine, 1),
                mask=None if mask is None else mask[cloud],
                metric=metric,
                engine=engine,
            )
            for bars, expected in zip(together, alone, strict=True):
                assert expected.mask.ndim == 1
                for field in ("birth", "death", "birth_edge", "death_edge"):
                    found = getattr(bars, field)[cloud][bars.mask[cloud]]
                    assert torch.equal(found, getattr(expected, field)[expected.mask]), (name, cloud, field)


def reference_from_the_other_end(distances: Tensor, mask: Tensor | None, max_dim: int, threshold: float) -> Any:
    """Correct barcodes with ties broken the other way: the reference, with the vertices counted backwards."""
    assert mask is None
    n = distances.shape[-1]
    found = ENGINES["reference"].find(distances.flip(-1, -2), None, max_dim, threshold)
    return [CriticalEdges((n - 1 - birth).flip(-1), (n - 1 - death).flip(-1), real) for birth, death, real in found]


def test_the_comparison_notices_an_engine_that_breaks_ties_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "backwards", ENGINES["reference"]._replace(find=reference_from_the_other_end))
    for name in ("unit square", "4 x 5 grid"):
        points = KNOWN[name].points
        found, expected = (rips_barcode(points, 1, engine=engine) for engine in ("backwards", "reference"))
        for a, b in zip(found, expected, strict=True):
            assert same_bars(rows_of(a), rows_of(b))  # the lengths are right
            with pytest.raises(AssertionError, match=r"_edge of H[01] differs"):
                assert_same_rows(a, b)


# --- conventions --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True], ids=["all real", "masked"])
@pytest.mark.parametrize("name", ["gaussian", "integers, euclidean", "all equal", "four levels"])
def test_every_vertex_but_the_first_real_one_names_the_edge_that_ties_it_to_that_one(
    engine: str, name: str, masked: bool
) -> None:
    points, metric = TIES[name]
    mask = masks_for(points) if masked else torch.ones(points.shape[:2], dtype=torch.bool)
    (bars,) = rips_barcode(points, mask=mask if masked else None, metric=metric, engine=engine)
    for cloud in range(len(points)):
        real = mask[cloud].nonzero().flatten().tolist()
        rows = bars.mask[cloud]
        named = bars.birth_edge[cloud][rows].tolist()
        edges = [tuple(edge) for edge in bars.death_edge[cloud][rows].tolist()]
        assert all(u == v for u, v in named)
        assert sorted(v for v, _ in named) == real[1:]
        assert all(u > v for u, v in edges)
        for (child, _), edge in zip(named, edges, strict=True):
            assert child in edge
            # Without the edge, the child is cut off from the first real vertex.
            others = [other for other in edges if other != edge]
            assert child not in connected_to(real[0], others)


def connected_to(vertex: int, edges: list[tuple[int, ...]]) -> set[int]:
    reached, grew = {vertex}, True
    while grew:
        more = {v for edge in edges if reached & set(edge) for v in edge} - reached
        grew = bool(more)
        reached |= more
    return reached


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["gaussian", "integers, manhattan", "shuffled grid", "four levels"])
def test_births_and_deaths_are_the_lengths_of_their_edges(engine: str, name: str, dtype: torch.dtype) -> None:
    points, metric = TIES[name]
    points = points.to(dtype)
    for bars in rips_barcode(points, reach(engine, 1), metric=metric, engine=engine):
        for cloud in range(len(points)):
            if metric == "precomputed":
                lengths = points[cloud]
            else:
                order = {"euclidean": 2, "manhattan": 1}[metric]
                lengths = torch.linalg.vector_norm(points[cloud, :, None] - points[cloud], ord=order, dim=-1)
            real = bars.mask[cloud]
            for value, edge in ((bars.birth, bars.birth_edge), (bars.death, bars.death_edge)):
                u, v = edge[cloud][real].unbind(-1)
                torch.testing.assert_close(value[cloud][real], lengths[u, v], rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("name", ["gaussian", "integers, euclidean", "shuffled cycle", "four levels"])
def test_bars_come_in_the_order_of_their_edges(engine: str, name: str) -> None:
    points, metric = TIES[name]
    for bars in rips_barcode(points, reach(engine, 1), metric=metric, engine=engine):
        value, edge = (bars.death, bars.death_edge) if bars.dim == 0 else (bars.birth, bars.birth_edge)
        for cloud in range(len(points)):
            rows = bars.mask[cloud]
            keys = list(zip(value[cloud][rows].tolist(), edge[cloud][rows].tolist(), strict=True))
            assert keys == sorted(keys)


def test_padding_comes_last_and_is_zero(engine: str) -> None:
    for name, (points, metric) in TIES.items():
        for bars in rips_barcode(points, reach(engine, 1), mask=masks_for(points), metric=metric, engine=engine):
            assert not (bars.mask[:, 1:] & ~bars.mask[:, :-1]).any(), name
            for field in (bars.birth, bars.death, bars.persistence):
                assert (field[~bars.mask] == 0).all(), name
                assert field[~bars.mask].signbit().sum() == 0, name
            for field in (bars.birth_edge, bars.death_edge):
                assert (field[~bars.mask] == 0).all(), name
            if bars.dim > 0:  # no wider than the longest barcode
                assert bars.mask.sum(-1).max() == bars.mask.shape[1], name


@pytest.mark.parametrize("essential", ESSENTIAL)
def test_a_cloud_of_one_point_in_a_batch_of_larger_ones_has_no_finite_bar(engine: str, essential: str) -> None:
    clouds = [torch.randn(n, 2, generator=torch.Generator().manual_seed(n)) for n in (5, 1, 8)]
    batch = rips_barcode(clouds, reach(engine, 1), essential=essential, engine=engine)
    alone = [rips_barcode(cloud, reach(engine, 1), essential=essential, engine=engine) for cloud in clouds]
    immortal = {"drop": [], "enclosing_radius": [(0, 0)], "infinite": [(0, math.inf)]}[essential]
    assert_same_bars(rows_of(alone[1][0]), immortal)
    for dim, bars in enumerate(batch):
        for rows, of_cloud in zip(bars.numpy(), alone, strict=True):
            np.testing.assert_array_equal(rows, of_cloud[dim].numpy())


@pytest.mark.parametrize("essential", ESSENTIAL)
def test_one_point_left_by_the_mask_is_a_cloud_of_one_point(engine: str, essential: str) -> None:
    points = torch.randn(6, 3)
    mask = torch.zeros(6, dtype=torch.bool)
    mask[4] = True
    bars = rips_barcode(points, reach(engine, 1), mask=mask, essential=essential, engine=engine)
    immortal = {"drop": [], "enclosing_radius": [(0, 0)], "infinite": [(0, math.inf)]}[essential]
    assert_same_bars(rows_of(bars[0]), immortal)
    if immortal:
        assert bars[0].birth_edge[bars[0].mask].tolist() == [[4, 4]]
    if len(bars) > 1:
        assert len(bars[1]) == 0


@pytest.mark.parametrize("max_dim", [0, 1])
def test_the_same_input_gives_the_same_rows_whatever_the_threads(engine: str, max_dim: int) -> None:
    if reach(engine, max_dim) < max_dim:
        pytest.skip(f"engine {engine!r} stops at H{ENGINES[engine].max_dim}")
    n = 20 if engine == "reference" else 100  # above the size from which work is shared between threads
    points = torch.randint(0, 50, (4, n, 40), generator=torch.Generator().manual_seed(6)).float()
    if engine in ("gudhi", "torch-topological", "ripser"):
        points = points[:, :40]
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 1, 3):
            torch.set_num_threads(threads)
            found.append(rips_barcode(points, max_dim, engine=engine))
    finally:
        torch.set_num_threads(before)
    for again in found[1:]:
        for a, b in zip(found[0], again, strict=True):
            assert_same_rows(a, b)


def test_find_returns_edges_larger_vertex_first_and_one_row_for_each_tree_edge(engine: str) -> None:
    points, _ = TIES["integers, euclidean"]
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    mask = masks_for(points)
    for threshold in (math.inf, 1.0):
        critical = ENGINES[engine].find(distances, mask, reach(engine, 1), threshold)
        assert len(critical) == reach(engine, 1) + 1
        for dim, (birth, death, real) in enumerate(critical):
            assert birth.dtype == death.dtype == torch.int64
            assert real.dtype == torch.bool
            assert birth.shape == death.shape == (*real.shape, 2)
            assert (birth[real][:, 0] > birth[real][:, 1] if dim else birth[real][:, 0] == birth[real][:, 1]).all()
            dies = death[real][:, 0] >= 0
            assert (death[real][dies][:, 0] > death[real][dies][:, 1]).all()
            assert (death[real][~dies] == -1).all()
        # All of it is what the reference finds, in the same order, before anybody looks at lengths again.
        for found, expected in zip(critical, ENGINES["reference"].find(distances, mask, 1, threshold), strict=False):
            assert torch.equal(found.real, expected.real)
            assert torch.equal(found.birth[found.real], expected.birth[found.real])
            assert torch.equal(found.death[found.real], expected.death[found.real])
        # the tree does not depend on the threshold
        assert critical[0].real.shape[1] == points.shape[1] - 1
        assert torch.equal(critical[0].real.sum(-1), mask.sum(-1) - 1)


@pytest.mark.parametrize("essential", ESSENTIAL)
def test_another_default_device_changes_nothing(engine: str, essential: str) -> None:
    # As under torch.set_default_device or `with torch.device(...)`: the device comes from the points alone.
    clouds = [torch.randn(n, 2, generator=torch.Generator().manual_seed(n)) for n in (6, 8)]
    for points in (clouds[1], clouds):
        expected = rips_barcode(points, reach(engine, 1), essential=essential, engine=engine)
        with torch.device("meta"):
            found = rips_barcode(points, reach(engine, 1), essential=essential, engine=engine)
        for a, b in zip(found, expected, strict=True):
            assert_same_rows(a, b)


def test_negative_zero_is_a_length_of_zero(engine: str) -> None:
    # Its bits, read as an integer, would come before or after every other length.
    distances = torch.tensor(
        [[0.0, -0.0, 2.0, 1.0], [-0.0, -0.0, 1.0, 2.0], [2.0, 1.0, 0.0, 1.0], [1.0, 2.0, 1.0, -0.0]]
    )
    for matrix in (distances, distances.double()):
        found = rips_barcode(
            matrix, reach(engine, 1), metric="precomputed", threshold=1.5, essential="infinite", engine=engine
        )
        assert_same_bars(rows_of(found[0]), [(0, 0), (0, 1), (0, 1), (0, math.inf)])
        if len(found) > 1:
            assert_same_bars(rows_of(found[1]), [(1, math.inf)])


def test_engine_leaves_the_distances_as_they_were(engine: str) -> None:
    points, _ = TIES["gaussian"]
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    before = distances.clone()
    ENGINES[engine].find(distances, None, reach(engine, 1), 1.0)
    assert torch.equal(distances, before)


# --- the table and the choice -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("max_dim", "device", "n", "expected", "reason"),
    [
        (0, "cpu", None, "spanning-tree", "H0 on the CPU"),
        (0, "cpu", 4096, "spanning-tree", "Prim"),
        (0, "cuda", 512, "boruvka", "nothing leaves the device"),
        (0, "mps", None, "boruvka", "H0 on mps"),
        (1, "cpu", 512, "cohomology", "H1"),
        (1, "cuda", 512, "cohomology", "lunes searched on cuda, and reduced on the CPU"),
        (2, "cpu", 8, "reference", "at most 8 points"),
        (2, "cpu", 9, "gudhi", "H2"),
        (3, "cpu", None, "gudhi", "H3"),
        (2, "cuda:1", 64, "gudhi", "copied from cuda to the CPU"),
    ],
)
def test_auto_says_what_it_picks_and_why(max_dim: int, device: str, n: int | None, expected: str, reason: str) -> None:
    choice = select_engine(max_dim, device, n)
    assert choice.engine == expected
    assert reason in choice.reason
    assert "\n" not in choice.reason
    row = ENGINES[choice.engine]
    assert row.max_dim is None or row.max_dim >= max_dim


@pytest.mark.parametrize("max_dim", [0, 1, 2])
def test_auto_runs_the_engine_that_it_names(max_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    name = select_engine(max_dim, "cpu", 7).engine
    calls = []

    def spy(*arguments: Any) -> Any:
        calls.append(arguments[2])
        return row.find(*arguments)

    row = ENGINES[name]
    monkeypatch.setitem(ENGINES, name, row._replace(find=spy))
    rips_barcode(points, max_dim)
    assert calls == [max_dim]


@pytest.mark.parametrize("name", [name for name, row in ENGINES.items() if row.max_dim is not None])
def test_a_dimension_beyond_an_engine_is_an_error_that_names_its_limit(name: str) -> None:
    limit = ENGINES[name].max_dim
    assert limit is not None
    with pytest.raises(
        ValueError,
        match=rf"engine '{name}' computes homology up to dimension {limit}; got max_dim={limit + 1}; use engine=\"auto\"",
    ):
        rips_barcode(torch.eye(4), limit + 1, engine=name)


@pytest.mark.parametrize("name", [name for name, row in ENGINES.items() if row.needs is not None])
def test_a_missing_peer_is_an_import_error_that_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ENGINES[name].needs
    assert needs is not None
    monkeypatch.setitem(sys.modules, needs, None)  # what import makes of a package that is not there
    with pytest.raises(
        ImportError, match=rf"engine '{name}' needs .*pip install \"simplicial_reg\[peers\]\""
    ) as caught:
        rips_barcode(torch.eye(4), engine=name)
    assert "\n" not in str(caught.value)


def test_a_missing_engine_is_never_replaced_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gudhi", None)
    with pytest.raises(ImportError, match="gudhi"):
        rips_barcode(torch.randn(12, 2), 2)  # "auto" says gudhi


# --- other devices ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("essential", ESSENTIAL)
@pytest.mark.parametrize("max_dim", [0, 1])
def test_a_cuda_device_gives_the_bars_of_the_cpu(max_dim: int, essential: str) -> None:
    for name, (points, metric) in TIES.items():
        if metric in ("cosine", "angular"):  # directions are rounded differently there, so that ties fall differently
            continue
        for masked in (False, True):
            mask = masks_for(points) if masked else None
            cpu = rips_barcode(points, max_dim, mask=mask, metric=metric, essential=essential)
            cuda = rips_barcode(
                points.cuda(), max_dim, mask=None if mask is None else mask.cuda(), metric=metric, essential=essential
            )
            for a, b in zip(cuda, cpu, strict=True):
                assert a.death.device.type == "cuda", name
                assert torch.equal(a.mask.cpu(), b.mask), name
                for cloud in range(len(points)):
                    assert_same_bars(a.to("cpu").numpy()[cloud], b.numpy()[cloud], 1e-12)
