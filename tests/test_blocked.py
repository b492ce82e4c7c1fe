"""The engine for large clouds: the tree of the dense one to the last tie, on clouds of many small blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse.csgraph
import scipy.spatial.distance
import torch

from simplicial_reg import METRICS, pairwise_distances, rips_barcode, select_engine
from simplicial_reg.engines import blocked, finds_from_points

BLOCK = 128
Array = Any


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(n: int, d: int, seed: int = 0) -> Array:
    return generator(seed).standard_normal((n, d))


def clusters(n: int, d: int, count: int, apart: float, spread: float, seed: int = 0) -> Array:
    random = generator(seed)
    centres = apart * random.standard_normal((count, d))
    return centres[random.integers(0, count, n)] + spread * random.standard_normal((n, d))


def grid(side: int) -> Array:
    points = np.stack(np.meshgrid(range(side), range(side)), -1).reshape(-1, 2).astype(float)
    return points[generator().permutation(len(points))]


CLOUDS = {
    "two points": normal(2, 3),
    "a block and a point": normal(BLOCK + 1, 5),
    "normal in 3 dimensions": normal(700, 3),
    "normal in 200 dimensions": normal(500, 200),
    "a line": normal(400, 1),
    "clusters larger than a list": clusters(900, 20, 6, 30.0, 1.0),
    "two clusters far apart": clusters(600, 8, 2, 1e4, 1.0),
    "clusters that products cannot resolve": clusters(600, 8, 5, 1e3, 1e-3),
    "points that products cannot resolve": 1e4 + normal(400, 6) * 1e-2,
    "a grid, all ties": grid(22),
    "few integers, ties and copies": generator().integers(0, 3, (600, 4)).astype(float),
    "corners of a simplex, equally far from each other": np.eye(3 * BLOCK // 2),
    "corners of a cube": generator().integers(0, 2, (400, 12)).astype(float),
    "one point many times": np.ones((200, 3)),
    "half of it copies": np.concatenate([normal(200, 4), normal(200, 4)]),
    "signed zeros": np.where(normal(300, 3) > 0, 0.0, -0.0) + np.where(normal(300, 3, 1) > 1, 1.0, 0.0),
    "an outlier that dwarfs the rest": np.concatenate([normal(300, 5), np.full((1, 5), 1e7)]),
    "tiny numbers, whose squares underflow in single precision": 1e-25 * normal(300, 5),
    "huge numbers, whose squares overflow in single precision's products": 1e17 * normal(300, 5),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", list(CLOUDS))
def test_the_tree_is_that_of_the_dense_engine_to_the_last_tie(name: str, dtype: Any) -> None:
    points = np.ascontiguousarray(CLOUDS[name].astype(dtype))
    expected = rips_barcode(torch.from_numpy(points), engine="spanning-tree")[0]
    child, edges = blocked.spanning_tree(points, block=BLOCK)
    assert np.array_equal(edges, expected.death_edge.numpy())
    assert np.array_equal(child, expected.birth_edge[:, 0].numpy())


@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize("name", ["normal in 200 dimensions", "clusters larger than a list", "a grid, all ties"])
def test_so_it_is_for_every_metric(metric: str, name: str) -> None:
    points = torch.from_numpy(CLOUDS[name]).float()
    expected = rips_barcode(points, metric=metric, engine="spanning-tree")[0]
    coordinates = METRICS[metric].coordinates(points).contiguous().numpy()
    child, edges = blocked.spanning_tree(coordinates, metric, block=BLOCK)
    assert np.array_equal(edges, expected.death_edge.numpy())
    assert np.array_equal(child, expected.birth_edge[:, 0].numpy())


@pytest.mark.parametrize("block", [16, 100, 5000])
@pytest.mark.parametrize("neighbours", [16, 48])
def test_neither_the_size_of_blocks_nor_that_of_lists_changes_the_tree(block: int, neighbours: int) -> None:
    points = np.ascontiguousarray(CLOUDS["clusters larger than a list"].astype(np.float32))
    _, expected = blocked.spanning_tree(points, block=BLOCK)
    _, edges = blocked.spanning_tree(points, block=block, neighbours=neighbours)
    assert np.array_equal(edges, expected)


def test_lengths_are_those_of_scipys_minimum_spanning_tree() -> None:
    points = CLOUDS["clusters larger than a list"]
    distances = scipy.spatial.distance.cdist(points, points)
    expected = np.sort(scipy.sparse.csgraph.minimum_spanning_tree(distances).data)
    _, edges = blocked.spanning_tree(points, block=BLOCK)
    found = np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_small_random_clouds_of_many_ties_and_scales(seed: int) -> None:
    random = generator(seed)
    n, d = int(random.integers(2, 200)), int(random.integers(1, 20))
    points = random.integers(0, int(random.integers(2, 6)), (n, d)) * 10.0 ** random.integers(-3, 3, d)
    points = np.ascontiguousarray(
        (points + random.choice([0, 1e-4]) * random.standard_normal((n, d))).astype(np.float32)
    )
    expected = rips_barcode(torch.from_numpy(points), engine="reference")[0] if n < 60 else None
    dense = rips_barcode(torch.from_numpy(points), engine="spanning-tree")[0]
    _, edges = blocked.spanning_tree(points, block=32)
    assert np.array_equal(edges, dense.death_edge.numpy())
    assert expected is None or np.array_equal(edges, expected.death_edge.numpy())


def test_products_of_reduced_precision_cost_accuracy_of_bounds_and_not_of_the_tree() -> None:
    points = np.ascontiguousarray(CLOUDS["normal in 200 dimensions"].astype(np.float32))
    _, expected = blocked.spanning_tree(points, block=BLOCK)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        _, edges = blocked.spanning_tree(points, block=BLOCK)
    finally:
        torch.set_float32_matmul_precision(before)
    assert np.array_equal(edges, expected)


def test_bounds_are_below_the_lengths_that_the_dense_kernel_computes() -> None:
    for name, metric in (
        ("normal in 200 dimensions", "euclidean"),
        ("normal in 3 dimensions", "cosine"),
        ("normal in 3 dimensions", "angular"),
    ):
        points = torch.from_numpy(CLOUDS[name]).float()
        lengths = pairwise_distances(points, metric).numpy()
        search = blocked._Search(METRICS[metric].coordinates(points).contiguous().numpy(), metric, 5000, 16)
        products, rows, columns = search._tile(np.arange(len(points)), slice(0, len(points)), exact=False)
        bound = search._shortest(rows[:, None] + columns[None] - 2 * products)
        assert (bound <= lengths).all()
        far = lengths > np.median(lengths)
        assert (bound[far] > 0.99 * lengths[far]).all()


# --- through rips_barcode ----------------------------------------------------------------------------------------------------------


def same_bars(a: Any, b: Any) -> None:
    assert torch.equal(a.death, b.death)
    assert torch.equal(a.birth_edge, b.birth_edge)
    assert torch.equal(a.death_edge, b.death_edge)
    assert torch.equal(a.mask, b.mask)


@pytest.mark.parametrize("essential", ["drop", "enclosing_radius", "infinite"])
@pytest.mark.parametrize("threshold", [np.inf, 1.2])
def test_batches_masks_thresholds_and_essential_bars_are_as_with_the_dense_engine(
    essential: str, threshold: float
) -> None:
    random = torch.Generator().manual_seed(0)
    points = torch.randn(3, 60, 4, generator=random).round(decimals=1)
    mask = torch.rand(3, 60, generator=random) < 0.8
    points[~mask] = torch.nan
    for real in (None, mask):
        cloud = points.nan_to_num() if real is None else points
        options: dict[str, Any] = {"mask": real, "threshold": threshold, "essential": essential}
        same_bars(
            rips_barcode(cloud, engine="blocked", **options)[0],
            rips_barcode(cloud, engine="spanning-tree", **options)[0],
        )


def test_the_enclosing_edge_is_found_in_blocks_too() -> None:
    for name in ("normal in 3 dimensions", "a grid, all ties"):
        points = torch.from_numpy(CLOUDS[name]).float()
        expected = rips_barcode(points, engine="spanning-tree", essential="enclosing_radius")[0].death_edge[-1:]
        assert torch.equal(blocked.enclosing_edge(points, None, "euclidean", block=BLOCK), expected)


def test_gradients_are_those_of_the_dense_engine() -> None:
    points = torch.from_numpy(normal(50, 3)).requires_grad_()
    weights = torch.from_numpy(generator(1).standard_normal(49))
    for metric in METRICS:
        gradients = [
            torch.autograd.grad((rips_barcode(points, metric=metric, engine=engine)[0].death * weights).sum(), points)[
                0
            ]
            for engine in ("blocked", "spanning-tree")
        ]
        assert torch.equal(*gradients)


def test_auto_takes_it_for_large_clouds_of_points_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert select_engine(0, "cpu", 11_999).engine == "spanning-tree"
    assert select_engine(0, "cpu", 12_000).engine == "blocked"
    assert select_engine(0, "cuda", 100_000).engine == "boruvka"
    assert select_engine(1, "cpu", 100_000).engine == "cohomology"
    monkeypatch.setattr("simplicial_reg.engines.LARGE", 50)
    points = torch.from_numpy(normal(60, 3))
    assert finds_from_points("auto", 0, points, "euclidean")
    assert not finds_from_points("auto", 0, points[:49], "euclidean")
    assert not finds_from_points("auto", 0, points, "precomputed")
    assert not finds_from_points("auto", 0, points, torch.cdist)
    assert not finds_from_points("auto", 1, points, "euclidean")
    monkeypatch.setattr("simplicial_reg._ops.pairwise_lengths", lambda *arguments: pytest.fail("all distances"))
    assert len(rips_barcode(points)[0]) == 59


def test_what_is_not_finite_is_refused_as_by_the_dense_engine() -> None:
    points = torch.from_numpy(normal(50, 3)).float()
    points[7, 1] = torch.nan
    with pytest.raises(ValueError, match="points must be finite: point 7 holds NaN or infinity"):
        rips_barcode(points, engine="blocked")
    with pytest.raises(ValueError, match=r"points are too large: distances overflow torch\.float32"):
        rips_barcode(torch.tensor([[-3e38], [3e38]]), engine="blocked")


def test_an_interrupt_between_tiles_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = iter([False, True])
    real = blocked._Search._tile

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if next(tiles):
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(blocked._Search, "_tile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        blocked.spanning_tree(normal(300, 3), block=BLOCK)
    monkeypatch.undo()
    assert len(blocked.spanning_tree(normal(300, 3), block=BLOCK)[1]) == 299


def test_under_torch_compile_and_vmap_the_engine_works_from_distances() -> None:
    points = torch.from_numpy(normal(20, 3)).float()
    expected = rips_barcode(points, engine="spanning-tree")[0].death
    mapped = torch.func.vmap(lambda cloud: rips_barcode(cloud, engine="blocked")[0].death)(points.expand(2, -1, -1))
    assert torch.equal(mapped, expected.expand(2, -1))
