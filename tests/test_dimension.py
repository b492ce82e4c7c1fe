"""Intrinsic dimensions and hubness: scikit-dimension's numbers, formulas written out, known dimensions, singular input."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import cdist
from scipy.stats import skew
from torch import Tensor

from simplicial_reg import pairwise_distances
from simplicial_reg.isotropy import dimension
from simplicial_reg.isotropy.dimension import hubness, mle_dimension, ph_dimension, twonn_dimension

FROZEN: dict[str, Any] = json.loads((Path(__file__).parent / "frozen" / "dimension.json").read_text(encoding="utf-8"))
CLOUDS: dict[str, dict[str, Any]] = FROZEN["clouds"]

Estimator = Callable[..., Tensor]
DIMENSIONS: list[Estimator] = [twonn_dimension, mle_dimension, ph_dimension]
ALL: list[Estimator] = [*DIMENSIONS, hubness]
every_dimension = pytest.mark.parametrize("estimate", DIMENSIONS, ids=lambda function: function.__name__)
every_function = pytest.mark.parametrize("function", ALL, ids=lambda function: function.__name__)


def frozen_cloud(recipe: dict[str, Any]) -> Tensor:
    points = getattr(np.random.default_rng(recipe["seed"]), recipe["draw"])((recipe["n"], recipe["d"]))
    return torch.from_numpy(np.concatenate([points, points[: recipe["repeated"]]]))


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def uniform(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.rand(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- other programs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("discard", [0.1, 0.25, 0.5])
def test_twonn_is_that_of_scikit_dimension(name: str, discard: float) -> None:
    points = frozen_cloud(CLOUDS[name]["recipe"])
    expected = CLOUDS[name]["twonn"][str(discard)]
    assert twonn_dimension(points, discard=discard).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", [name for name in CLOUDS if "mle" in CLOUDS[name]])
@pytest.mark.parametrize("k", [5, 10, 20])
def test_mle_is_that_of_scikit_dimension(name: str, k: int) -> None:
    points = frozen_cloud(CLOUDS[name]["recipe"])
    assert mle_dimension(points, k=k).item() == pytest.approx(CLOUDS[name]["mle"][str(k)], rel=1e-9)


@pytest.mark.parametrize("name", [name for name in CLOUDS if "ph" in CLOUDS[name]])
def test_ph_dimension_is_that_of_scikit_dimension_on_the_same_subsamples(name: str) -> None:
    points = frozen_cloud(CLOUDS[name]["recipe"])
    assert ph_dimension(points, **FROZEN["ph"]).item() == pytest.approx(CLOUDS[name]["ph"], rel=1e-8)


def test_frozen_numbers_tell_clouds_and_options_apart() -> None:
    numbers = [number for cloud in CLOUDS.values() for number in cloud["twonn"].values()]
    assert len(set(numbers)) == len(numbers) == 15


# --- formulas written out ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n"), [(1, 30), (5, 40), (10, 64)])
def test_hubness_is_scipys_skewness_of_the_counted_neighbours(k: int, n: int) -> None:
    points = gaussian(n, 12, seed=k)
    distances = cdist(points.numpy(), points.numpy())
    np.fill_diagonal(distances, math.inf)
    occurrences = np.zeros(n)
    for row in distances:
        for neighbour in np.argsort(row)[:k]:
            occurrences[neighbour] += 1
    assert hubness(points, k=k).item() == pytest.approx(skew(occurrences), rel=1e-9)


def test_hubness_of_a_star_is_that_of_one_hub() -> None:
    # The nearest neighbour of every tip is the centre, that of the centre the nearest tip: N = n - 1, 1, 0, ..., 0.
    n = 9
    points = torch.cat([torch.zeros(1, n - 1), torch.eye(n - 1) * torch.linspace(1, 1.1, n - 1).unsqueeze(1)])
    assert hubness(points, k=1).item() == pytest.approx(skew([n - 1, 1] + [0] * (n - 2)), rel=1e-6)


def test_ties_are_shared_among_equally_near_neighbours() -> None:
    # 0, 1, 2 on a line, k = 1: the middle is the neighbour of both ends, and its own is half the one and half the other.
    points = torch.tensor([[0.0], [1.0], [2.0]])
    assert hubness(points, k=1).item() == pytest.approx(skew([0.5, 2, 0.5]), rel=1e-6)
    assert hubness(points[[1, 2, 0]], k=1).item() == hubness(points, k=1).item()


def test_ph_dimension_is_the_slope_of_spanning_trees() -> None:
    points = uniform(40, 3)
    sizes, lengths = (10, 20, 40), []
    for at, size in enumerate(sizes):
        for again in range(2):
            keys = np.random.default_rng((5, at, again)).random(40)
            sample = points.numpy()[np.argsort(keys)[:size]]
            lengths.append((math.log(size), math.log(minimum_spanning_tree(cdist(sample, sample)).sum())))
    slope = np.polyfit(*np.array(lengths).T, 1)[0]
    assert ph_dimension(points, sizes=sizes, repeats=2, seed=5).item() == pytest.approx(1 / (1 - slope), rel=1e-9)


def test_default_sizes_of_ph_dimension_go_from_a_tenth_to_the_whole_and_no_farther_than_a_thousand() -> None:
    sizes = dimension._sizes(None, np.array([100, 5000, 3, 1]))
    assert sizes.shape == (8, 4)
    assert sizes[[0, -1]].tolist() == [[10, 100, 2, 1], [100, 1000, 3, 1]]
    assert (np.diff(sizes, axis=0) >= 0).all()


def test_subsamples_are_drawn_without_replacement_and_do_not_depend_on_the_other_clouds() -> None:
    counts, size = np.array([7, 30]), np.array([4, 12])
    chosen = dimension._chosen(counts, size, (0, 1, 2))
    assert chosen.shape == (2, 12)
    assert len(set(chosen[0, :4])) == 4
    assert max(chosen[0, :4]) < 7
    assert len(set(chosen[1])) == 12
    assert np.array_equal(dimension._chosen(counts[:1], size[:1], (0, 1, 2))[0], chosen[0, :4])


# --- known dimensions -------------------------------------------------------------------------------------------------


@every_dimension
@pytest.mark.parametrize("d", [1, 2, 3])
def test_dimension_of_a_cube_in_fifty_coordinates_is_its_own(estimate: Estimator, d: int) -> None:
    isometry = torch.linalg.qr(gaussian(50, 50)).Q[:d]
    assert estimate(uniform(1000, d) @ isometry).item() == pytest.approx(d, rel=0.12)


@every_dimension
def test_dimension_of_a_circle_is_one(estimate: Estimator) -> None:
    angle = 2 * math.pi * uniform(600, 1)
    assert estimate(torch.cat([angle.cos(), angle.sin()], 1)).item() == pytest.approx(1, rel=0.1)


@every_dimension
def test_dimension_of_a_gaussian_of_many_coordinates_is_far_below_their_number(estimate: Estimator) -> None:
    assert 10 < estimate(gaussian(500, 300)).item() < 290


def test_hubs_come_with_the_dimension() -> None:
    assert abs(hubness(gaussian(500, 3)).item()) < 1 < 2 < hubness(gaussian(500, 300)).item()


# --- masks, batches, types --------------------------------------------------------------------------------------------


@every_function
def test_a_masked_batch_has_the_values_of_its_dense_clouds(function: Estimator) -> None:
    sizes = (30, 50, 41)
    clouds = [gaussian(size, 4, seed=size) for size in sizes]
    points = torch.full((3, 50, 4), math.nan, dtype=torch.float64)
    mask = torch.zeros(3, 50, dtype=torch.bool)
    for cloud, size in enumerate(sizes):
        place = torch.randperm(50, generator=torch.Generator().manual_seed(cloud))[:size].sort().values
        points[cloud, place] = clouds[cloud]
        mask[cloud, place] = True
    values = function(points, mask=mask)
    assert values.shape == (3,)
    assert values.tolist() == pytest.approx([function(cloud).item() for cloud in clouds], rel=1e-12)
    assert function(points[0], mask=mask[0]).item() == pytest.approx(values[0].item(), rel=1e-12)
    assert function(clouds).tolist() == pytest.approx(values.tolist(), rel=1e-12)


@every_function
def test_a_batch_has_the_values_of_its_clouds(function: Estimator) -> None:
    points = gaussian(3, 40, 5)
    assert function(points).tolist() == pytest.approx([function(cloud).item() for cloud in points], rel=1e-12)


@every_function
def test_precomputed_distances_give_what_the_points_give(function: Estimator) -> None:
    points = gaussian(2, 45, 6)
    mask = torch.arange(45) < torch.tensor([[45], [37]])
    values = function(points, mask=mask)
    distances = pairwise_distances(points)
    assert function(distances, metric="precomputed", mask=mask).tolist() == pytest.approx(values.tolist(), rel=1e-12)
    assert function(distances[0], metric="precomputed").item() == pytest.approx(values[0].item(), rel=1e-12)
    cosine = function(pairwise_distances(points, "cosine"), metric="precomputed", mask=mask)
    assert cosine.tolist() != pytest.approx(values.tolist(), rel=1e-3)


@every_function
def test_blocks_of_rows_give_what_the_whole_matrix_gives(function: Estimator, monkeypatch: pytest.MonkeyPatch) -> None:
    points = gaussian(2, 70, 5)
    mask = torch.arange(70) < torch.tensor([[70], [61]])
    whole = function(points, mask=mask)
    monkeypatch.setattr(dimension, "BLOCK", 2 * 32 * 32)  # eight rows at a time
    blocks = list(dimension._blocks(points, "euclidean", mask))
    assert [start for start, _ in blocks] == list(range(0, 70, 8))
    assert all(block.shape[-2] <= 8 for _, block in blocks)
    assert function(points, mask=mask).tolist() == pytest.approx(whole.tolist(), rel=1e-12)


def test_distances_of_many_points_are_never_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    kernel = dimension._ops.pairwise_lengths

    def watched(coordinates: Tensor, metric: str) -> Tensor:
        held.append(coordinates.shape[-2])
        return kernel(coordinates, metric)

    monkeypatch.setattr(dimension._ops, "pairwise_lengths", watched)
    twonn_dimension(gaussian(4500, 2, dtype=torch.float32))
    assert len(held) > 1
    assert max(held) ** 2 <= dimension.BLOCK


@every_function
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_half_precision_is_computed_in_float32_and_float64_stays(function: Estimator, dtype: torch.dtype) -> None:
    points = gaussian(40, 5, dtype=dtype)
    value = function(points)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert value.item() == pytest.approx(function(points.double()).item(), rel=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(function(points), value)


@every_function
def test_there_is_no_gradient(function: Estimator) -> None:
    assert not function(gaussian(30, 3).requires_grad_()).requires_grad


@every_function
def test_the_order_of_points_does_not_matter_except_to_random_subsamples(function: Estimator) -> None:
    points = gaussian(60, 4)
    moved = function(points[torch.randperm(60, generator=torch.Generator().manual_seed(1))]).item()
    same = moved == pytest.approx(function(points).item(), rel=1e-12)
    assert same is (function is not ph_dimension)


def test_the_seed_decides_the_subsamples() -> None:
    points = gaussian(60, 4)
    assert ph_dimension(points).item() == ph_dimension(points, seed=0).item() != ph_dimension(points, seed=1).item()


# --- singular input ---------------------------------------------------------------------------------------------------

NOTHING = {
    "one point": torch.zeros(1, 3),
    "two points": torch.eye(2),
    "two equal points": torch.ones(2, 3),
    "a collapsed cloud": torch.full((30, 3), 0.1),
    "a collapsed cloud of one coordinate": torch.zeros(30, 1),
}


@every_function
@pytest.mark.parametrize("points", NOTHING.values(), ids=NOTHING)
def test_where_there_is_nothing_to_estimate_the_result_is_nan(function: Estimator, points: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert function(points).isnan().item()
        batch = torch.stack([points, points + 1])
        assert function(batch).isnan().tolist() == [True, True]


@every_dimension
def test_a_regular_simplex_has_no_finite_dimension(estimate: Estimator) -> None:
    assert estimate(torch.eye(30)).item() == math.inf


def test_a_regular_simplex_has_no_hubs() -> None:
    assert hubness(torch.eye(30)).item() == 0
    assert hubness(torch.eye(30, dtype=torch.float64), k=7).item() == 0


@pytest.mark.parametrize(("n", "defined"), [(10, False), (11, False), (12, True)])
def test_hubness_needs_more_than_k_other_points(n: int, defined: bool) -> None:
    assert hubness(gaussian(n, 3), k=10).isfinite().item() is defined


def test_three_points_have_a_dimension() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0]])
    # Ratios 3, 2, 3/2; the largest is left out: x = log 3/2, log 2; y = -log(2/3), -log(1/3).
    x, y = (math.log(1.5), math.log(2)), (math.log(1.5), math.log(3))
    expected = (x[0] * y[0] + x[1] * y[1]) / (x[0] ** 2 + x[1] ** 2)
    assert twonn_dimension(points).item() == pytest.approx(expected, rel=1e-6)
    assert mle_dimension(points).item() == pytest.approx(3 / math.log(3 * 2 * 1.5), rel=1e-6)
    assert not ph_dimension(points).isnan()


def test_the_largest_ratio_is_left_out_even_if_nothing_is_discarded() -> None:
    points = gaussian(20, 3)
    assert twonn_dimension(points, discard=0.0).isfinite()
    assert twonn_dimension(points, discard=0.0).item() == twonn_dimension(points, discard=0.05).item()  # 19 of 20
    assert twonn_dimension(points[:5], discard=0.9).isnan()


def test_a_cloud_of_few_points_uses_all_its_neighbours() -> None:
    points = gaussian(8, 3)
    assert mle_dimension(points, k=20).item() == mle_dimension(points, k=7).item() != mle_dimension(points, k=6).item()


def test_pairs_of_coincident_points_do_not_count() -> None:
    # 0, 0, 1, 3, k = 3: of the copies of 0 log(3/1), and a copy; of 1 log(2/1) twice; of 3 log(3/2) and log(3/3).
    points = torch.tensor([[0.0], [0.0], [1.0], [3.0]])
    expected = 6 / (2 * math.log(3) + 2 * math.log(2) + math.log(1.5))
    assert mle_dimension(points, k=3).item() == pytest.approx(expected, rel=1e-6)
    # TwoNN: only 1 and 3 have a nearest neighbour that does not coincide with them; ratios 1 and 1.
    assert twonn_dimension(points).item() == math.inf


@every_function
def test_duplicates_among_many_points_change_little(function: Estimator) -> None:
    points = gaussian(400, 3)
    with_duplicates = torch.cat([points, points[:8]])
    assert function(with_duplicates).item() == pytest.approx(function(points).item(), rel=0.15, abs=0.15)


@every_function
def test_a_cloud_far_from_the_origin_has_the_value_of_the_centred_one(function: Estimator) -> None:
    points = (gaussian(100, 4) * 64).round()  # integers: float32 differences are exact
    assert function((points + 2.0**18).float()).item() == pytest.approx(function(points).item(), rel=1e-5)


def test_the_sum_of_bars_of_far_clusters_does_not_grow() -> None:
    centres = 1e6 * torch.eye(2, 3, dtype=torch.float64)
    points = gaussian(100, 3) + centres.repeat(50, 1)
    assert ph_dimension(points, sizes=(20, 50, 100)).item() == pytest.approx(1, abs=1e-3)


# --- bad input --------------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "discard 1": (lambda: twonn_dimension(torch.eye(4), discard=1.0), ValueError, r"discard must be in \[0, 1\); got 1.0"),
    "discard NaN": (lambda: twonn_dimension(torch.eye(4), discard=math.nan), ValueError, r"discard must be in \[0, 1\); got nan"),
    "discard text": (lambda: twonn_dimension(torch.eye(4), discard="0.1"), TypeError, "discard must be a number; got str"),  # type: ignore[arg-type]
    "k of mle": (lambda: mle_dimension(torch.eye(4), k=1), ValueError, "k must be at least 2; got 1"),
    "k of hubness": (lambda: hubness(torch.eye(4), k=0), ValueError, "k must be at least 1; got 0"),
    "k a float": (lambda: hubness(torch.eye(4), k=2.0), TypeError, "k must be an int; got float"),  # type: ignore[arg-type]
    "one size": (lambda: ph_dimension(torch.eye(4), sizes=[3, 3]), ValueError, r"sizes must hold at least two different .*; got \[3, 3\]"),
    "small size": (lambda: ph_dimension(torch.eye(4), sizes=[1, 3]), ValueError, "sizes must be at least 2; got 1"),
    "large size": (lambda: ph_dimension(torch.eye(4), sizes=[2, 5]), ValueError, "sizes must not exceed .* points, 4, .*; got 5"),
    "size a float": (lambda: ph_dimension(torch.eye(4), sizes=[2.0, 3]), TypeError, "sizes must be an int; got float"),  # type: ignore[list-item]
    "repeats": (lambda: ph_dimension(torch.eye(4), repeats=0), ValueError, "repeats must be at least 1; got 0"),
    "seed": (lambda: ph_dimension(torch.eye(4), seed=-1), ValueError, "seed must be at least 0; got -1"),
    "metric": (lambda: hubness(torch.eye(4), metric="cosine"), ValueError, "metric must be one of 'euclidean', 'precomputed'"),
    "not square": (lambda: hubness(torch.zeros(3, 4), metric="precomputed"), ValueError, "points must be square"),
    "integers": (lambda: twonn_dimension(torch.eye(4).long()), TypeError, "points must be a floating-point tensor"),
    "a NaN": (lambda: twonn_dimension(torch.tensor([[1.0], [math.nan], [2.0]])), ValueError, "points must be finite: point 1"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
