"""Edges with an empty lune: the Numba kernels and the torch operations against the definition, and H1 from a device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from simplicial_reg import pairwise_distances, rips_barcode
from simplicial_reg._ops import INTEGERS, spanning_tree
from simplicial_reg.engines import _coboundary, _lunes, cohomology
from tests.clouds import cycle_distances, grid

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")
DTYPES = [torch.float32, torch.float64]


def clouds_of(n: int) -> dict[str, Tensor]:
    """Distances (n, n), float64, with and without ties."""
    draw = torch.Generator().manual_seed(n)
    levels = torch.randint(0, 4, (n, n), generator=draw).double().triu(1)
    random = torch.rand(n, n, generator=draw, dtype=torch.float64).triu(1)
    return {
        "gaussian": pairwise_distances(torch.randn(n, 3, generator=draw).double()),
        "integers": pairwise_distances(torch.randint(0, 3, (n, 2), generator=draw).double(), "manhattan"),
        "corners": pairwise_distances(torch.randint(0, 2, (n, 6), generator=draw).double(), "manhattan"),
        "one level": 1 - torch.eye(n, dtype=torch.float64),
        "all at one place": torch.zeros(n, n, dtype=torch.float64),
        "four levels": levels + levels.T,
        "no metric": random + random.T,
        "cycle": cycle_distances(n).double() if n > 2 else torch.zeros(n, n, dtype=torch.float64),
    }


NAMES = list(clouds_of(3))
SIZES = [1, 2, 3, 7, 9, 33, 70]


def columns_by_definition(distances: Tensor, vertices: list[int], threshold: float) -> list[tuple[int, int]]:
    """The edges (i > j) that have no vertex with two preceding edges, less those of the tree, in order."""
    lengths = distances.tolist()
    radius = min(max(lengths[i][j] for j in vertices) for i in vertices)

    def place(i: int, j: int) -> tuple[float, int, int]:
        return (lengths[i][j], max(i, j), min(i, j))

    edges = [(i, j) for i in vertices for j in vertices if i > j and lengths[i][j] <= min(radius, threshold)]
    component = {v: v for v in vertices}
    found = []
    for i, j in sorted(edges, key=lambda edge: place(*edge)):
        if component[i] != component[j]:  # Kruskal
            old, new = component[i], component[j]
            component = {v: new if c == old else c for v, c in component.items()}
        elif not any(max(place(i, k), place(j, k)) < place(i, j) for k in vertices if k not in (i, j)):
            found.append((i, j))
    return found


def columns_by_kernels(distances: Tensor, threshold: float, step: int = 1) -> list[tuple[int, int]]:
    keys = distances.numpy().view(INTEGERS[distances.dtype])
    n = len(keys)
    near, farthest = np.empty((n, _coboundary.NEIGHBOURS), np.int32), np.empty(n, keys.dtype)
    near_key = np.empty(near.shape, keys.dtype)
    doubtful = np.empty((n, _coboundary.panels(n)), np.uint64)
    start, other = _coboundary.by_larger_end(spanning_tree(distances, None)[1].numpy(), n)
    for first in range(step):
        _coboundary.neighbours(keys, near, near_key, farthest, first, step)
    limit = min(np.array(threshold, distances.numpy().dtype).view(keys.dtype)[()], farthest.min())
    for first in range(step):
        _coboundary.mark_doubtful(keys, near, near_key, start, other, limit, doubtful, first, step)
    parts = [_coboundary.empty_lunes(keys, near, near_key, doubtful, limit, first, step) for first in range(step)]
    edges = [(int(edge >> 16), int(edge & 0xFFFF)) for part, _ in parts for edge in part]
    assert all(0 <= reach <= limit for _, reach in parts)
    return sorted(edges, key=lambda edge: (float(distances[edge]), *edge))


def columns_on_device(order: Any, cloud: int) -> list[tuple[int, int]]:
    ranks = order.column[order.cloud == cloud].sort().values
    edges = order.edge[cloud][ranks].long() & 0xFFFFFFFF
    return list(zip((edges >> 16).tolist(), (edges & 0xFFFF).tolist(), strict=True))


# --- the edges ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_both_searches_find_the_empty_lunes_of_the_definition(name: str, n: int, dtype: torch.dtype) -> None:
    distances = clouds_of(n)[name].to(dtype)
    for threshold in (math.inf, float(distances.median())):
        expected = columns_by_definition(distances, list(range(n)), threshold)
        assert columns_by_kernels(distances, threshold) == expected
        assert columns_by_kernels(distances, threshold, step=3) == expected
        tree = spanning_tree(distances, None)[1]
        for tile in (1, 1 << 20):
            order = _lunes.lunes(distances[None], None, tree[None], threshold, tile)
            assert columns_on_device(order, 0) == expected


def test_some_lunes_are_empty_and_some_are_not() -> None:  # so the test above can fail
    counts = [len(columns_by_definition(cloud, list(range(33)), math.inf)) for cloud in clouds_of(33).values()]
    assert min(counts) == 0
    assert 20 < max(counts) < 33 * 32 / 2 - 32


@pytest.mark.parametrize("name", NAMES)
def test_masked_points_are_in_no_lune_and_on_no_edge(name: str) -> None:
    batch = torch.stack([clouds_of(n)[name] for n in (33, 33, 33)])
    mask = torch.rand(3, 33, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[2] = False
    mask[2, 5] = True
    tree = spanning_tree(batch, mask)[1]
    order = _lunes.lunes(batch, mask, tree, math.inf)
    for cloud in range(3):
        vertices = mask[cloud].nonzero().flatten().tolist()
        assert columns_on_device(order, cloud) == columns_by_definition(batch[cloud], vertices, math.inf)
        present = order.ranks[cloud] != _lunes.ABSENT
        assert not present[~mask[cloud]].any()
        assert int(present.sum()) == 2 * int(order.key[cloud].isfinite().sum())


def test_ranks_are_places_in_the_order_of_length_larger_and_smaller_vertex() -> None:
    distances = clouds_of(33)["integers"].float()
    order = _lunes.lunes(distances[None], None, spanning_tree(distances, None)[1][None], math.inf)
    radius = float(distances.amax(-1).amin())
    edges = sorted((float(distances[i, j]), i, j) for i in range(33) for j in range(i) if distances[i, j] <= radius)
    assert 0 < len(edges) < 33 * 32 / 2  # some are longer than the enclosing radius
    assert order.key[0, : len(edges)].tolist() == [length for length, _, _ in edges]
    assert order.key[0, len(edges) :].isinf().all()
    for place, (_, i, j) in enumerate(edges):
        assert int(order.edge[0, place]) == i << 16 | j
        assert int(order.ranks[0, i, j]) == int(order.ranks[0, j, i]) == place
    assert int((order.ranks != _lunes.ABSENT).sum()) == 2 * len(edges)


def test_edges_of_the_last_vertices_fit_into_32_bits_without_sign() -> None:
    edge = (torch.tensor(65_534).int() << 16 | torch.tensor(65_533).int()).reshape(1)
    assert edge.numpy().view(np.uint32)[0] == 65_534 << 16 | 65_533


# --- the barcode, from any device ---------------------------------------------------------------------------------------------


def assert_same_edges(found: list[Any], expected: list[Any]) -> None:
    for one, other in zip(found, expected, strict=True):
        for field, wanted in zip(one, other, strict=True):
            assert torch.equal(field.cpu(), wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 2, 3, 9, 70])
@pytest.mark.parametrize("name", NAMES)
def test_the_way_over_a_device_finds_the_edges_of_the_cpu(name: str, n: int, dtype: torch.dtype) -> None:
    # The CPU stands in for the device: the operations are the same, only the copies are none.
    distances = clouds_of(n)[name].to(dtype)
    batch = torch.stack([distances, distances.flip(0, 1), distances / 2])
    mask = torch.rand(3, n, generator=torch.Generator().manual_seed(n)) < 0.7
    mask[:, 0] = True
    for threshold in (math.inf, float(distances.median())):
        for max_dim in (0, 1):
            for given, real in ((distances, None), (distances, mask[0]), (batch, None), (batch, mask)):
                expected = cohomology.find(given, real, max_dim, threshold)
                for pairs in (1, 2 * n * n, 1 << 20):  # one cloud at a time, two, all
                    assert_same_edges(cohomology._find_from_device(given, real, max_dim, threshold, pairs), expected)


def test_a_reduction_that_fails_on_its_thread_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(sent: Any, cloud: int) -> Any:
        raise MemoryError(f"cloud {cloud}")

    monkeypatch.setattr(cohomology, "_reduced", fail)
    with pytest.raises(MemoryError, match="cloud 0"):
        cohomology._find_from_device(torch.stack([pairwise_distances(grid(3, 3))] * 2), None, 1, math.inf)


@CUDA
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_cuda_finds_the_edges_of_the_cpu(name: str, dtype: torch.dtype) -> None:
    distances = clouds_of(70)[name].to(dtype)
    batch = torch.stack([distances, distances.flip(0, 1), distances / 2])
    mask = torch.rand(3, 70, generator=torch.Generator().manual_seed(70)) < 0.7
    for threshold in (math.inf, float(distances.median())):
        for real in (None, mask):
            expected = cohomology.find(batch, real, 1, threshold)
            there = None if real is None else real.cuda()
            for pairs in (1, 1 << 20):
                found = cohomology._find_from_device(batch.cuda(), there, 1, threshold, pairs)
                assert all(field.is_cuda for critical in found for field in critical)
                assert_same_edges(found, expected)


@CUDA
def test_h1_of_cuda_points_has_the_bars_and_the_gradient_of_the_cpu() -> None:
    points = torch.randn(4, 200, 16, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    gradients = []
    for device in ("cpu", "cuda"):
        leaf = points.to(device).requires_grad_()
        bars = rips_barcode(leaf, 1)[1]
        bars.persistence.square().sum().backward()
        gradients.append((leaf.grad.cpu(), bars.persistence.detach().cpu()))
    for there, here in zip(*gradients, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-12)


@CUDA
def test_cuda_reduces_a_batch_that_is_prepared_on_a_stream_of_its_own() -> None:
    batch = pairwise_distances(torch.randn(6, 300, 8, generator=torch.Generator().manual_seed(6)))
    expected = cohomology.find(batch, None, 1, math.inf)
    with torch.cuda.stream(torch.cuda.Stream()):
        there = batch.cuda(non_blocking=True)
        assert_same_edges(cohomology._find_from_device(there, None, 1, math.inf, 300 * 300), expected)
