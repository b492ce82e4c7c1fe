"""H1 of larger clouds: equal to peers row by row, the same for any number of threads, parts of the filtration, and what is refused."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from simplicial_reg import ENGINES, _threads, pairwise_distances, rips_barcode
from simplicial_reg._ops import INTEGERS
from simplicial_reg.engines import _coboundary, cohomology
from tests.clouds import assert_same_bars, cycle_distances, grid, rows_of

find = ENGINES["cohomology"].find


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the number of threads, with which even small clouds are split, and puts it back."""
    monkeypatch.setattr(cohomology, "WORTH_SPLITTING", 1)
    monkeypatch.setattr(_threads, "WORTH_A_THREAD", 1)
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def gaussian(n: int, d: int) -> Tensor:
    return pairwise_distances(torch.randn(n, d, generator=torch.Generator().manual_seed(n + d)))


def circle(n: int) -> Tensor:
    """A loop that dies long after every other bar."""
    angle = torch.rand(n, generator=torch.Generator().manual_seed(n)) * 2 * math.pi
    return pairwise_distances(torch.stack([angle.cos(), angle.sin()], -1))


CLOUDS = {
    "gaussian": lambda: gaussian(150, 3),
    "many coordinates": lambda: gaussian(150, 200),
    "circle": lambda: circle(80),
    "cycle": lambda: cycle_distances(60).float(),
    "grid": lambda: pairwise_distances(grid(9, 9).float()),
    "line": lambda: pairwise_distances(torch.arange(70.0)[:, None]),
    "one level": lambda: 1 - torch.eye(65),
    "corners": lambda: pairwise_distances(
        torch.randint(0, 2, (100, 8), generator=torch.Generator().manual_seed(1)).float(), "manhattan"
    ),
    "doubles": lambda: pairwise_distances(torch.randn(90, 2, generator=torch.Generator().manual_seed(2)).repeat(2, 1)),
}


def assert_same_edges(found: Any, expected: Any) -> None:
    for one, other in zip(found, expected, strict=True):
        for field, wanted in zip(one, other, strict=True):
            assert torch.equal(field, wanted)


# --- peers --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [3, 768])
def test_h1_of_1200_points_has_the_rows_of_giotto_ph(d: int) -> None:
    gph = pytest.importorskip("gph")
    distances = gaussian(1200, d)
    found = rips_barcode(distances, 1, metric="precomputed")[1]
    theirs = gph.ripser_parallel(distances.numpy(), metric="precomputed", maxdim=1)["dgms"][1]
    assert len(theirs) > 500
    assert_same_bars(rows_of(found), theirs)


def test_h1_of_900_points_has_the_rows_of_ripser() -> None:
    ripser = pytest.importorskip("ripser")
    distances = gaussian(900, 3)
    theirs = ripser.ripser(distances.numpy(), distance_matrix=True, maxdim=1)["dgms"][1]
    assert len(theirs) > 300
    assert_same_bars(rows_of(rips_barcode(distances, 1, metric="precomputed")[1]), theirs)


# --- threads ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("name", list(CLOUDS))
def test_a_cloud_that_threads_share_has_the_same_edges(name: str, threads: int, split: Any) -> None:
    distances = CLOUDS[name]()
    for given in (distances, distances.double()):
        for threshold in (math.inf, float(given.median())):
            split(1)
            expected = find(given, None, 1, threshold)
            split(threads)
            assert_same_edges(find(given, None, 1, threshold), expected)


def test_masked_clouds_that_threads_share_have_the_same_edges(split: Any) -> None:
    batch = torch.stack([gaussian(90, 2), gaussian(90, 5)])
    mask = torch.rand(2, 90, generator=torch.Generator().manual_seed(3)) < 0.8
    split(1)
    expected = find(batch, mask, 1, math.inf)
    split(3)
    assert_same_edges(find(batch, mask, 1, math.inf), expected)


@pytest.mark.parametrize(("clouds", "threads", "shared"), [(1, 2, True), (2, 3, True), (2, 2, False), (1, 1, False)])
def test_threads_share_each_cloud_where_there_are_fewer_clouds(
    clouds: int, threads: int, shared: bool, split: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    within = cohomology._loops
    monkeypatch.setattr(cohomology, "_loops", lambda *arguments: calls.append(0) or within(*arguments))
    split(threads)
    find(torch.stack([gaussian(20, 2)] * clouds), None, 1, math.inf)
    assert len(calls) == clouds * shared


# --- parts of the filtration --------------------------------------------------------------------------------------------------


def cuts_of(distances: Tensor, share: float, more: float, parts: int) -> tuple[Any, Any, Any]:
    keys = distances.numpy().view(INTEGERS[distances.dtype])
    lengths = np.sort(keys[np.triu_indices(len(keys), 1)])
    reach, limit = lengths[int(share * (len(lengths) - 1))], lengths[-1]
    return _coboundary.cuts(keys, reach, limit, more, parts), reach, limit


@pytest.mark.parametrize("name", list(CLOUDS))
def test_cuts_ascend_from_below_all_edges_and_hold_the_reach(name: str) -> None:
    distances = CLOUDS[name]()
    for share in (0.0, 0.3, 1.0):
        for more in (1.5, 5.0, 1e6):
            for parts in (1, 2, 5):
                cut, reach, limit = cuts_of(distances, share, more, parts)
                assert cut[0] == -1
                assert (np.diff(cut) >= 0).all()
                assert reach <= cut[-1] <= limit
                assert cut[-1] == limit or more < 1e6


def test_cuts_hold_about_so_many_times_the_edges_up_to_the_reach_in_equal_parts() -> None:
    distances = gaussian(600, 5)
    cut, reach, _ = cuts_of(distances, 0.2, 1.5, 4)
    keys = distances.numpy().view(INTEGERS[distances.dtype])[np.triu_indices(600, 1)]
    assert (keys <= cut[-1]).sum() / (keys <= reach).sum() == pytest.approx(1.5, abs=0.15)
    counts = [((low < keys) & (keys <= high)).sum() for low, high in pairwise(cut)]
    assert max(counts) < 1.5 * min(counts)


@pytest.mark.parametrize("name", list(CLOUDS))
def test_parts_of_the_edges_in_turn_are_all_edges_in_order(name: str) -> None:
    distances = CLOUDS[name]()
    for given in (distances, distances.double()):
        keys = given.numpy().view(INTEGERS[given.dtype])
        i, j = np.tril_indices(len(keys), -1)
        order = np.lexsort((j, i, keys[i, j]))
        cut, _, _ = cuts_of(given, 0.5, 1e6, 3)
        parts = [_coboundary.edges_between(keys, low, high) for low, high in pairwise(cut)]
        edge, key = (np.concatenate(part) for part in zip(*parts, strict=True))
        assert np.array_equal(edge, (i << 16 | j)[order])
        assert np.array_equal(key, keys[i, j][order])


def sizes_sorted(distances: Tensor, split: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many edges are sorted, round after round."""
    sizes = []
    sort = cohomology._in_order

    def counted(*arguments: Any) -> Any:
        found = sort(*arguments)
        sizes.append(len(found[0]))
        return found

    monkeypatch.setattr(cohomology, "_in_order", counted)
    split(2)
    find(distances, None, 1, math.inf)
    return sizes


def test_short_bars_need_a_part_of_the_edges(split: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (size,) = sizes_sorted(gaussian(300, 50), split, monkeypatch)
    assert 0 < size < 0.6 * 300 * 299 / 2


def test_a_long_bar_takes_three_rounds_and_in_the_last_all_edges_of_the_cone(
    split: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    distances = circle(300)
    sizes = sizes_sorted(distances, split, monkeypatch)
    assert len(sizes) == 3
    assert sizes[0] < sizes[1] < sizes[2] == int((distances <= distances.amax(-1).amin()).triu(1).sum())


def test_a_bar_far_beyond_the_reach_is_found(split: Any) -> None:
    split(2)
    angle = 2 * math.pi * torch.arange(300, dtype=torch.float64) / 300
    points = torch.stack([angle.cos(), angle.sin()], -1)
    # Born with the sides, dies with the inscribed equilateral triangles (Adamaszek, Adams 2017).
    assert_same_bars(rows_of(rips_barcode(points, 1)[1]), [(2 * math.sin(math.pi / 300), math.sqrt(3))], 1e-12)


def test_a_cloud_without_columns_sorts_nothing(split: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sizes_sorted(CLOUDS["line"](), split, monkeypatch) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_near_neighbours_are_near_and_the_nearest_is_among_them(dtype: torch.dtype) -> None:
    for n in (1, 2, 5, 40, 200):
        distances = gaussian(n, 4).to(dtype)
        keys = distances.numpy().view(INTEGERS[dtype])
        near, near_key = np.empty((n, 8), np.int32), np.empty((n, 8), keys.dtype)
        farthest = np.empty(n, keys.dtype)
        _coboundary.neighbours(keys, near, near_key, farthest, 0, 1)
        assert np.array_equal(farthest, keys.max(1))
        off = np.where(np.eye(n, dtype=bool), np.iinfo(keys.dtype).max, keys)
        held = near != np.arange(n)[:, None]
        assert (held.sum(1) == min(8, n - 1)).all()
        assert np.array_equal(near_key[held], np.take_along_axis(off, near.astype(np.int64), 1)[held])
        assert all(len(set(row)) == min(8, n - 1) + (n <= 8) for row in near)
        if n > 1:
            assert np.array_equal(near[:, 0], off.argmin(1))
        if n > 32:
            assert (near_key[:, -1] <= np.median(off, axis=1)).all()


# --- what is refused ----------------------------------------------------------------------------------------------------------


def test_clouds_that_do_not_fit_are_refused_with_the_estimate(split: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohomology, "available_memory", lambda: 20 * 10**9)
    cohomology.check_size(40_000, torch.float32)  # 12.8 GB
    message = (
        "points must fit into memory: H1 of 60000 points needs about 28.8 GB and 20.0 GB are available; "
        "take a sample of the points, or H0 alone (max_dim=0)"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        cohomology.check_size(60_000, torch.float32)
    cohomology.check_size(40_000, torch.float32, distances=True)  # 19.2 GB
    with pytest.raises(ValueError, match=r"H1 of 40000 points needs about 30\.4 GB"):
        cohomology.check_size(40_000, torch.float64, distances=True)
    split(3)  # clouds at once
    with pytest.raises(ValueError, match=r"H1 of 64 clouds of 20000 points needs about 112\.0 GB"):
        cohomology.check_size(20_000, torch.float32, 64, distances=True)
    monkeypatch.setattr(cohomology, "available_memory", lambda: None)  # nobody says
    cohomology.check_size(60_000, torch.float64)


def test_clouds_whose_edges_cannot_be_numbered_are_refused() -> None:
    message = "points must be at most 65535 per cloud for H1; got 65536; take a sample"
    with pytest.raises(ValueError, match=message):
        find(torch.empty(1).expand(65_536, 65_536), None, 1, math.inf)


def test_h1_asks_for_memory_before_it_takes_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohomology, "WORTH_ASKING", 1)
    monkeypatch.setattr(cohomology, "available_memory", lambda: 8 * 30 * 30 - 1)
    monkeypatch.setattr("simplicial_reg._ops.spanning_tree", lambda *_: pytest.fail("too late"))
    with pytest.raises(ValueError, match="H1 of 30 points"):
        find(gaussian(30, 2), None, 1, math.inf)


def test_small_clouds_do_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohomology, "available_memory", lambda: pytest.fail("asked"))
    find(gaussian(50, 2), None, 1, math.inf)


@pytest.mark.parametrize("metric", ["euclidean", torch.cdist])
def test_h1_of_points_that_do_not_fit_is_refused_before_there_are_distances(
    metric: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cohomology, "available_memory", lambda: 20 * 10**9)
    monkeypatch.setattr("simplicial_reg.barcode.lengths_of", lambda *_: pytest.fail("too late"))
    with pytest.raises(ValueError, match=r"H1 of 60000 points needs about 43\.2 GB and 20\.0 GB are available"):
        rips_barcode(torch.zeros(60_000, 2), 1, metric=metric)
