"""What `rips_barcode` takes and gives: forms of input, metrics, thresholds, essential bars, symmetries, and other people's tools."""

from __future__ import annotations

import copy
import io
import math
import pickle
import re
import sys
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from simplicial_reg import (
    METRICS,
    Barcode,
    VietorisRips,
    edge_length,
    normalized_persistent_entropy,
    pairwise_distances,
    persistent_entropy,
    rips_barcode,
)
from tests.clouds import KNOWN, SQRT2, assert_same_bars, assert_same_rows, cycle_distances, polygon, rows_of

ESSENTIAL = ("drop", "enclosing_radius", "infinite")
SCIPY_NAMES = {"euclidean": "euclidean", "manhattan": "cityblock", "chebyshev": "chebyshev", "cosine": "cosine"}
SQUARE = KNOWN["unit square"].points
FIELDS = ("birth", "death", "birth_edge", "death_edge", "mask")


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def noisy_circle(n: int, seed: int = 0) -> Tensor:
    return polygon(n) + 0.05 * gaussian(n, 2, seed=seed)


# --- forms of input -----------------------------------------------------------------------------------------------------------


def test_a_single_cloud_gives_one_row_for_each_bar() -> None:
    components, loops = rips_barcode(SQUARE, 1)
    for bars, count in ((components, 3), (loops, 1)):
        assert bars.birth.shape == bars.death.shape == bars.persistence.shape == bars.mask.shape == (count,)
        assert bars.birth_edge.shape == bars.death_edge.shape == (count, 2)
        assert bars.birth_edge.dtype == bars.death_edge.dtype == torch.int64
        assert bars.mask.dtype == torch.bool
        assert bars.mask.all()
        assert len(bars) == count
    assert (components.dim, loops.dim) == (0, 1)


def test_a_batch_gives_a_row_for_each_cloud() -> None:
    batch = torch.stack([SQUARE, torch.eye(4, 2, dtype=torch.float64), SQUARE / 2])
    components, loops = rips_barcode(batch, 1)
    assert components.death.shape == (3, 3)
    assert loops.death.shape == (3, 1)
    assert loops.birth_edge.shape == (3, 1, 2)
    assert loops.mask.tolist() == [[True], [False], [True]]
    assert len(components) == len(loops) == 3


def test_a_batch_without_loops_has_no_row_for_them() -> None:
    _, loops = rips_barcode(torch.eye(5).expand(2, 5, 5), 1)
    assert loops.death.shape == (2, 0)
    assert loops.death_edge.shape == (2, 0, 2)
    assert len(loops) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("max_dim", [0, 1])
def test_a_batch_of_clouds_gives_what_each_cloud_gives_alone(max_dim: int, dtype: torch.dtype) -> None:
    batch = gaussian(5, 17, 3, dtype=dtype)
    together = rips_barcode(batch, max_dim)
    for cloud in range(5):
        for bars, alone in zip(together, rips_barcode(batch[cloud], max_dim), strict=True):
            count = len(alone)
            assert int(bars.mask[cloud].sum()) == count
            for field in FIELDS:
                assert torch.equal(getattr(bars, field)[cloud][:count], getattr(alone, field)), field


@pytest.mark.parametrize("essential", ESSENTIAL)
@pytest.mark.parametrize("threshold", [math.inf, 1.5])
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "precomputed"])
def test_a_list_of_ragged_clouds_gives_what_each_cloud_gives_alone(
    metric: str, threshold: float, essential: str
) -> None:
    clouds = [10 + gaussian(n, 3, seed=n) for n in (6, 1, 11, 2, 9)]
    if metric == "precomputed":
        clouds = [pairwise_distances(cloud) for cloud in clouds]
    together = rips_barcode(clouds, 1, metric=metric, threshold=threshold, essential=essential)
    for number, cloud in enumerate(clouds):
        alone = rips_barcode(cloud, 1, metric=metric, threshold=threshold, essential=essential)
        for bars, expected in zip(together, alone, strict=True):
            real = bars.mask[number]
            for field in FIELDS:
                a, b = getattr(bars, field)[number][real], getattr(expected, field)[expected.mask]
                assert torch.equal(a, b), (number, bars.dim, field)


def test_a_list_of_one_cloud_is_a_batch_of_one() -> None:
    listed, alone = rips_barcode([SQUARE], 1), rips_barcode(SQUARE, 1)
    for a, b in zip(listed, alone, strict=True):
        assert a.death.shape == (1, len(b))
        assert torch.equal(a.death[0], b.death)
    for a, b in zip(rips_barcode((SQUARE,), 1), listed, strict=True):
        assert_same_rows(a, b)


@pytest.mark.parametrize("essential", ESSENTIAL)
@pytest.mark.parametrize("metric", ["euclidean", "manhattan", "angular", "precomputed"])
def test_a_mask_leaves_the_bars_of_the_real_points_under_their_own_numbers(metric: str, essential: str) -> None:
    points = 5 + gaussian(12, 3, seed=2)
    mask = torch.tensor([False, True, True, False, True, True, True, False, True, True, True, False])
    vertices = mask.nonzero().flatten()
    if metric == "precomputed":
        points = pairwise_distances(points)
        part = points[vertices][:, vertices]
    else:
        part = points[vertices]
    masked = rips_barcode(points, 1, mask=mask, metric=metric, essential=essential)
    for bars, expected in zip(masked, rips_barcode(part, 1, metric=metric, essential=essential), strict=True):
        real = bars.mask
        assert int(real.sum()) == len(expected)
        # not to the last bit: torch's vectorised atan2 may round a number differently from place to place
        torch.testing.assert_close(bars.birth[real], expected.birth, rtol=1e-15, atol=0)
        torch.testing.assert_close(bars.death[real], expected.death, rtol=1e-15, atol=0)
        for field in ("birth_edge", "death_edge"):
            numbers = getattr(expected, field)
            numbers = torch.where(numbers < 0, numbers, vertices[numbers.clamp(min=0)])
            assert torch.equal(getattr(bars, field)[real], numbers)


@pytest.mark.parametrize("filler", [math.nan, math.inf, 1e30])
def test_what_stands_in_a_masked_point_does_not_matter(filler: float) -> None:
    points = gaussian(2, 9, 3, seed=4)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, [0, 4]] = False
    mask[1, 8] = False
    other = torch.where(mask.unsqueeze(-1), points, filler).requires_grad_()
    for essential in ESSENTIAL:
        found = rips_barcode(other, 1, mask=mask, essential=essential)
        for a, b in zip(found, rips_barcode(points, 1, mask=mask, essential=essential), strict=True):
            assert_same_rows(a.detach(), b)
        finite = torch.stack([bars.death[bars.death.isfinite()].sum() for bars in found]).sum()
        (gradient,) = torch.autograd.grad(finite, other)
        assert gradient.isfinite().all()
        assert (gradient[~mask] == 0).all()


def test_a_mask_of_all_true_changes_nothing() -> None:
    points = gaussian(10, 3)
    for essential in ESSENTIAL:
        masked = rips_barcode(points, 1, mask=torch.ones(10, dtype=torch.bool), essential=essential)
        for a, b in zip(masked, rips_barcode(points, 1, essential=essential), strict=True):
            assert_same_rows(a, b)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("metric", [*METRICS, "precomputed"])
def test_half_precision_is_computed_in_float32(half: torch.dtype, metric: str) -> None:
    points = gaussian(9, 4, dtype=half)
    if metric == "precomputed":
        points = pairwise_distances(points).to(half)
    points.requires_grad_()
    found = rips_barcode(points, 1, metric=metric)
    for bars, expected in zip(found, rips_barcode(points.detach().float(), 1, metric=metric), strict=True):
        assert bars.death.dtype == torch.float32
        assert_same_rows(bars.detach(), expected)
    found[0].death.sum().backward()
    assert points.grad is not None
    assert points.grad.dtype == half
    assert points.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("metric", [*METRICS, "precomputed"])
def test_single_and_double_precision_stay_what_they_are(dtype: torch.dtype, metric: str) -> None:
    points = gaussian(8, 8, dtype=dtype)
    if metric == "precomputed":
        points = pairwise_distances(points)
    for essential in ESSENTIAL:
        for bars in rips_barcode(points, 1, metric=metric, essential=essential):
            assert bars.birth.dtype == bars.death.dtype == bars.persistence.dtype == dtype


def test_rips_barcode_leaves_its_input_as_it_was() -> None:
    points = gaussian(2, 9, 3)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, 0] = False
    distances = pairwise_distances(points)
    before = [tensor.clone() for tensor in (points, mask, distances)]
    for essential in ESSENTIAL:
        rips_barcode(points, 1, mask=mask, essential=essential)
        rips_barcode(points, 1, mask=mask, metric="cosine", essential=essential)
        rips_barcode(distances, 1, mask=mask, metric="precomputed", essential=essential)
        rips_barcode(list(points), 1, essential=essential)
    for tensor, copied in zip((points, mask, distances), before, strict=True):
        assert torch.equal(tensor, copied)


@pytest.mark.parametrize("metric", [*METRICS, "precomputed"])
def test_inference_mode_and_deterministic_algorithms_change_nothing(metric: str) -> None:
    points = gaussian(2, 9, 9)
    if metric == "precomputed":
        points = pairwise_distances(points)
    for essential in ESSENTIAL:
        expected = rips_barcode(points, 1, metric=metric, essential=essential)
        with torch.inference_mode():
            inferred = rips_barcode(points, 1, metric=metric, essential=essential)
        torch.use_deterministic_algorithms(True)
        try:
            leaf = points.clone().requires_grad_()
            determined = rips_barcode(leaf, 1, metric=metric, essential=essential)
            torch.stack([bars.birth.sum() for bars in determined]).sum().backward()
        finally:
            torch.use_deterministic_algorithms(False)
        for a, b, c in zip(inferred, determined, expected, strict=True):
            assert_same_rows(a, c)
            assert_same_rows(b.detach(), c)


@pytest.mark.parametrize("metric", [*METRICS, "precomputed"])
def test_the_memory_layout_of_the_points_does_not_matter(metric: str) -> None:
    points = gaussian(3, 8, 8, dtype=torch.float32)
    if metric == "precomputed":
        points = pairwise_distances(points)
    expected = rips_barcode(points, 1, metric=metric)
    wide = torch.stack([points, points + 1], -1)[..., 0]
    for other in (
        points.mT.contiguous().mT,
        points.flip(0).flip(0),
        wide,
        points.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    ):
        assert torch.equal(other, points)
        for a, b in zip(rips_barcode(other, 1, metric=metric), expected, strict=True):
            assert_same_rows(a, b)


# --- metrics ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (5, 2), (16, 7), (17, 64), (33, 5), (50, 768)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("metric", list(SCIPY_NAMES))
def test_distances_are_those_of_scipy(metric: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    points = gaussian(*shape, seed=shape[0], dtype=dtype)
    found = pairwise_distances(points, metric)
    expected = torch.from_numpy(cdist(points.double(), points.double(), SCIPY_NAMES[metric])).fill_diagonal_(0)
    assert found.dtype == dtype
    torch.testing.assert_close(
        found.double(), expected, rtol=20 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps
    )
    assert torch.equal(found, found.T)
    assert (found.diagonal() == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_angular_distances_are_angles(dtype: torch.dtype) -> None:
    # By complex numbers: the angle between z and w is |arg(z / w)|, good to the last place near 0 and near pi alike.
    angle = torch.tensor([0.0, 1e-6, 0.3, 1.0, 2.5, math.pi - 1e-6], dtype=torch.float64)
    points = torch.stack([angle.cos(), angle.sin()], -1) * torch.tensor([[1.0], [1e-3], [7.0], [1.0], [1e6], [2.0]])
    expected = (angle[:, None] - angle).abs()
    found = pairwise_distances(points.to(dtype), "angular")
    assert (found.double() - expected).abs().max() < (4e-7 if dtype == torch.float32 else 1e-15)


@pytest.mark.parametrize("metric", list(METRICS))
def test_edge_length_and_pairwise_distances_agree(metric: str) -> None:
    points = gaussian(3, 9, 5, dtype=torch.float32)
    u, v = torch.triu_indices(9, 9)
    edge = torch.stack([u, v], -1).expand(3, -1, -1)
    found = edge_length(points, edge, metric)
    torch.testing.assert_close(found, pairwise_distances(points, metric)[:, u, v], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(edge_length(points[0], edge[0], metric), found[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("metric", list(SCIPY_NAMES))
def test_barcode_of_a_metric_is_that_of_its_distances_by_scipy(metric: str) -> None:
    points = gaussian(14, 3, seed=8)
    distances = torch.from_numpy(cdist(points, points, SCIPY_NAMES[metric])).fill_diagonal_(0)
    by_name = rips_barcode(points, 1, metric=metric)
    for a, b in zip(by_name, rips_barcode(distances, 1, metric="precomputed"), strict=True):
        assert_same_bars(rows_of(a), rows_of(b), 1e-14)
        assert torch.equal(a.birth_edge, b.birth_edge)
        assert torch.equal(a.death_edge, b.death_edge)


def test_a_zero_vector_is_at_a_right_angle_to_every_other_and_on_top_of_its_like() -> None:
    points = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    cosine = [[0, 1, 0, 1], [1, 0, 1, 2], [0, 1, 0, 1], [1, 2, 1, 0]]
    assert pairwise_distances(points, "cosine").tolist() == cosine
    torch.testing.assert_close(
        pairwise_distances(points, "angular"),
        math.pi / 2 * torch.tensor(cosine, dtype=torch.float64),
        rtol=1e-15,
        atol=0,
    )
    points.requires_grad_()
    for metric, unit in (("cosine", 1.0), ("angular", math.pi / 2)):
        (bars,) = rips_barcode(points, metric=metric)
        assert_same_bars(bars.numpy(), [(0, 0), (0, unit), (0, unit)], 1e-15)
        (gradient,) = torch.autograd.grad(bars.death.sum(), points)
        assert gradient.isfinite().all()
        assert (gradient[[0, 2]] == 0).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15, 1e30])
@pytest.mark.parametrize("metric", ["cosine", "angular"])
def test_directions_do_not_depend_on_the_length_of_the_vectors(metric: str, scale: float) -> None:
    points = gaussian(9, 4, dtype=torch.float32)
    found, expected = (pairwise_distances(p, metric) for p in (points * scale, points))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_cosine_keeps_small_angles_apart() -> None:
    # 1 - cos(1e-4) is 5e-9: as 1 - dot it would be 0 or 6e-8 in float32
    points = torch.tensor([[1.0, 0.0], [1.0, 1e-4], [1.0, 3e-4]])
    torch.testing.assert_close(
        rips_barcode(points, metric="cosine")[0].death, torch.tensor([0.5e-8, 2e-8]), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("essential", ESSENTIAL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_precomputed_distances_give_the_bars_of_the_points(dtype: torch.dtype, essential: str) -> None:
    points = gaussian(3, 13, 4, dtype=dtype)
    found = rips_barcode(pairwise_distances(points), 1, metric="precomputed", essential=essential)
    for a, b in zip(found, rips_barcode(points, 1, essential=essential), strict=True):
        assert torch.equal(a.birth_edge, b.birth_edge)
        assert torch.equal(a.death_edge, b.death_edge)
        assert torch.equal(a.mask, b.mask)
        torch.testing.assert_close(a.death, b.death)
        torch.testing.assert_close(a.birth, b.birth)


def taxicab(points: Tensor) -> Tensor:
    return (points.unsqueeze(-2) - points.unsqueeze(-3)).abs().sum(-1)


@pytest.mark.parametrize("essential", ESSENTIAL)
def test_a_callable_metric_gives_the_bars_of_the_named_one(essential: str) -> None:
    points = gaussian(2, 10, 3, seed=5)
    mask = torch.ones(2, 10, dtype=torch.bool)
    mask[1, :4] = False
    for cloud, real in ((points, None), (points, mask), (points[0], None), (points[1], mask[1])):
        found, expected = (
            rips_barcode(cloud, 1, mask=real, metric=metric, essential=essential) for metric in (taxicab, "manhattan")
        )
        for a, b in zip(found, expected, strict=True):
            for field in ("birth_edge", "death_edge", "mask"):
                assert torch.equal(getattr(a, field), getattr(b, field))
            torch.testing.assert_close(a.death, b.death)


def test_a_callable_metric_receives_a_cloud_for_a_cloud_and_a_batch_for_a_batch() -> None:
    seen = []

    def metric(points: Tensor) -> Tensor:
        seen.append(tuple(points.shape))
        return taxicab(points)

    rips_barcode(SQUARE, metric=metric)
    rips_barcode([SQUARE, SQUARE[:3]], metric=metric)
    assert seen == [(4, 2), (2, 4, 2)]


def test_gradients_into_precomputed_distances_are_symmetric_and_sum_to_the_number_of_bars() -> None:
    distances = pairwise_distances(gaussian(2, 9, 3)).requires_grad_()
    components, loops = rips_barcode(distances, 1, metric="precomputed")
    (gradient,) = torch.autograd.grad(components.death.sum(), distances, retain_graph=True)
    assert torch.equal(gradient, gradient.mT)
    assert gradient.sum().item() == pytest.approx(2 * 8)
    for cloud in range(2):  # both triangles' entries of each death edge have one half
        expected = torch.zeros(9, 9, dtype=torch.float64)
        u, v = components.death_edge[cloud].unbind(-1)
        expected[u, v] = expected[v, u] = 0.5
        assert torch.equal(gradient[cloud], expected)
    (gradient,) = torch.autograd.grad(loops.persistence.sum(), distances)
    assert torch.equal(gradient, gradient.mT)
    assert gradient.sum().item() == pytest.approx(0)


def test_nearly_symmetric_distances_count_as_their_mean() -> None:
    points = gaussian(12, 3, dtype=torch.float32)
    rough = torch.cdist(points, points)  # by a matrix product: not symmetric, the diagonal not zero
    rough = rough + 1e-7 * gaussian(12, 12, dtype=torch.float32)
    even = (rough + rough.T) / 2
    even.fill_diagonal_(0)
    for a, b in zip(
        rips_barcode(rough, 1, metric="precomputed"), rips_barcode(even, 1, metric="precomputed"), strict=True
    ):
        assert_same_rows(a, b)


# --- symmetries ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "step", "shift"), [(torch.float64, 2.0**-20, 1e6), (torch.float32, 2.0**-10, 1e4)], ids=str
)
@pytest.mark.parametrize("metric", ["euclidean", "manhattan", "chebyshev"])
def test_a_cloud_far_from_the_origin_is_as_good_as_the_centred_one(
    metric: str, dtype: torch.dtype, step: float, shift: float
) -> None:
    # Multiples of the step, so that adding the shift is exact in the dtype; then nothing may be lost at all. (The formula
    # |x|² + |y|² - 2 x·y would lose every digit in float32: |x|² is 1e8, in units of 8.)
    points = (gaussian(20, 3) / step).round().to(dtype) * step
    moved = points + shift
    assert torch.equal(moved - shift, points)
    for a, b in zip(rips_barcode(moved, 1, metric=metric), rips_barcode(points, 1, metric=metric), strict=True):
        assert_same_rows(a, b)


def test_renumbering_the_points_renumbers_the_edges() -> None:
    points = gaussian(15, 3, seed=3)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    shuffled = rips_barcode(points[order], 1, essential="enclosing_radius")
    for a, b in zip(shuffled, rips_barcode(points, 1, essential="enclosing_radius"), strict=True):
        assert torch.equal(a.death, b.death)  # no ties, so the same order
        assert torch.equal(a.birth, b.birth)
        for found, expected in ((a.birth_edge, b.birth_edge), (a.death_edge, b.death_edge)):
            if a.dim == 0 and found is a.birth_edge:
                continue  # H0 bars are named after vertices, relative to the first one
            assert torch.equal(order[found].sort(-1).values, expected.sort(-1).values)


@pytest.mark.parametrize("name", ["4 x 5 grid", "cube", "duplicates", "18-cycle", "icosahedron"])
def test_renumbering_the_points_keeps_the_bars_where_there_are_ties(name: str) -> None:
    cloud = KNOWN[name]
    for seed in range(5):
        order = torch.randperm(len(cloud.points), generator=torch.Generator().manual_seed(seed))
        points = cloud.points[order]
        if cloud.metric == "precomputed":
            points = points[:, order]
        found = rips_barcode(points, min(cloud.max_dim, 1), metric=cloud.metric)
        for bars, expected in zip(found, cloud.bars, strict=False):
            assert_same_bars(rows_of(bars), expected)


@pytest.mark.parametrize("metric", list(METRICS))
def test_scaling_scales_births_and_deaths(metric: str) -> None:
    points = gaussian(14, 3)
    degree = 0 if metric in ("cosine", "angular") else 1
    for factor, tolerance in ((0.25, 0.0), (3.0, 1e-13)):
        for a, b in zip(
            rips_barcode(factor * points, 1, metric=metric), rips_barcode(points, 1, metric=metric), strict=True
        ):
            assert torch.equal(a.death_edge, b.death_edge)
            torch.testing.assert_close(a.death, b.death * factor**degree, rtol=tolerance, atol=0)
            torch.testing.assert_close(a.birth, b.birth * factor**degree, rtol=tolerance, atol=0)


def test_rotations_reflections_and_more_coordinates_change_nothing() -> None:
    points = gaussian(16, 3)
    rotation = torch.linalg.qr(gaussian(7, 7, seed=1)).Q  # determinant 1 or -1
    moved = torch.cat([points, torch.zeros(16, 4, dtype=torch.float64)], -1) @ rotation + 2
    for a, b in zip(rips_barcode(moved, 1), rips_barcode(points, 1), strict=True):
        assert torch.equal(a.death_edge, b.death_edge)
        torch.testing.assert_close(a.death, b.death, rtol=1e-13, atol=0)
        torch.testing.assert_close(a.birth, b.birth, rtol=1e-13, atol=0)


def test_barcodes_are_as_stable_as_the_distances() -> None:
    # Cohen-Steiner, Edelsbrunner, Harer 2007; Chazal, de Silva, Oudot 2014: moving each point by at most e moves bars by 2 e at most.
    points = noisy_circle(24)
    shift = gaussian(24, 2, seed=9)
    moved = points + 0.01 * shift / torch.linalg.vector_norm(shift, dim=-1, keepdim=True)
    for a, b in zip(rips_barcode(moved, 1), rips_barcode(points, 1), strict=True):
        assert_same_bars(rows_of(a), rows_of(b), 0.02)
        with pytest.raises(AssertionError):
            assert_same_bars(rows_of(a), rows_of(b), 1e-4)


def test_max_dim_adds_dimensions_and_changes_none() -> None:
    points = gaussian(8, 3)
    low, middle, high = (rips_barcode(points, max_dim) for max_dim in (0, 1, 2))
    assert_same_rows(low[0], middle[0])
    assert_same_rows(low[0], high[0])
    assert_same_rows(middle[1], high[1])


# --- thresholds and essential bars --------------------------------------------------------------------------------------------

# The unit square, by hand. Open at the threshold: whatever is alive then, one component always. Enclosing radius: sqrt(2), the diagonal.
INF = math.inf
SQUARE_BARS: dict[tuple[float, str], tuple[list[Any], list[Any]]] = {
    (INF, "drop"): ([(0, 1)] * 3, [(1, SQRT2)]),
    (INF, "enclosing_radius"): ([(0, 1)] * 3 + [(0, SQRT2)], [(1, SQRT2)]),
    (INF, "infinite"): ([(0, 1)] * 3 + [(0, INF)], [(1, SQRT2)]),
    (2.0, "drop"): ([(0, 1)] * 3, [(1, SQRT2)]),
    (2.0, "infinite"): ([(0, 1)] * 3 + [(0, INF)], [(1, SQRT2)]),
    (SQRT2, "infinite"): ([(0, 1)] * 3 + [(0, INF)], [(1, SQRT2)]),
    # the loop is open at 1.2
    (1.2, "drop"): ([(0, 1)] * 3, []),
    (1.2, "enclosing_radius"): ([(0, 1)] * 3 + [(0, SQRT2)], [(1, SQRT2)]),
    (1.2, "infinite"): ([(0, 1)] * 3 + [(0, INF)], [(1, INF)]),
    # edges as long as the threshold are in
    (1.0, "drop"): ([(0, 1)] * 3, []),
    (1.0, "enclosing_radius"): ([(0, 1)] * 3 + [(0, SQRT2)], [(1, SQRT2)]),
    (1.0, "infinite"): ([(0, 1)] * 3 + [(0, INF)], [(1, INF)]),
    # no edge is in
    (0.5, "drop"): ([], []),
    (0.5, "enclosing_radius"): ([(0, SQRT2)] * 4, []),
    (0.5, "infinite"): ([(0, INF)] * 4, []),
    (0.0, "drop"): ([], []),
    (0.0, "enclosing_radius"): ([(0, SQRT2)] * 4, []),
    (0.0, "infinite"): ([(0, INF)] * 4, []),
}


@pytest.mark.parametrize(("threshold", "essential"), list(SQUARE_BARS))
def test_bars_open_at_the_threshold_are_treated_as_essential_ones(threshold: float, essential: str) -> None:
    expected = SQUARE_BARS[threshold, essential]
    for points in (SQUARE, SQUARE.float()):
        found = rips_barcode(points, 1, threshold=threshold, essential=essential)
        for bars, rows in zip(found, expected, strict=True):
            rounded = np.array(rows, np.float64).reshape(-1, 2).astype(bars.numpy().dtype)
            assert_same_bars(rows_of(bars), rounded)
    alone = rips_barcode(SQUARE, 0, threshold=threshold, essential=essential)
    assert_same_bars(rows_of(alone[0]), expected[0])


def test_two_clusters_beyond_the_threshold_stay_two() -> None:
    # Two lopsided squares 50 apart. Tree of the first: 1, 1.01 and, from (1.02, 1.03), the shorter of its two sides; loop: born with
    # its fourth side, dead at the shorter diagonal.
    one = torch.tensor([[0, 0], [0, 1.01], [1, 0], [1.02, 1.03]], dtype=torch.float64)
    two = torch.tensor([[0, 0], [0, 3.01], [3, 0], [3.02, 3.03]], dtype=torch.float64) + torch.tensor([50.0, 0.0])
    sides = [1.0, 1.01, math.hypot(1.02, 0.02), math.hypot(0.02, 1.03)]
    far = [3.0, 3.01, math.hypot(3.02, 0.02), math.hypot(0.02, 3.03)]
    diagonal = min(math.hypot(1.02, 1.03), math.hypot(1.0, 1.01))
    # At 4 the diagonals of the larger one (4.2 and more) are missing.
    components, loops = rips_barcode(torch.cat([one, two]), 1, threshold=4.0, essential="infinite")
    deaths = sorted(sides)[:3] + sorted(far)[:3]
    assert_same_bars(rows_of(components), [(0, death) for death in deaths] + [(0, INF)] * 2, 1e-14)
    assert_same_bars(rows_of(loops), [(max(sides), diagonal), (max(far), INF)], 1e-14)
    assert loops.birth_edge.tolist() == [[3, 1], [7, 5]] if sides[3] < sides[2] else [[3, 2], [7, 6]]
    assert loops.death_edge.tolist() == [[2, 1], [-1, -1]]


def test_duplicates_are_joined_at_threshold_zero() -> None:
    cloud = KNOWN["duplicates"]
    for essential, rest in (("drop", []), ("infinite", [(0, INF)] * 2), ("enclosing_radius", [(0, 2)] * 2)):
        (bars,) = rips_barcode(cloud.points, threshold=0, essential=essential)
        assert_same_bars(rows_of(bars), [(0, 0)] * 5 + rest)


def test_the_immortal_component_is_named_after_the_first_real_vertex() -> None:
    mask = torch.tensor([False, True, True, True])
    for real, first, count in ((None, 0, 4), (mask, 1, 3)):
        for essential in ("infinite", "enclosing_radius"):
            (bars,) = rips_barcode(SQUARE, mask=real, essential=essential)
            assert len(bars) == count
            assert bars.birth_edge[count - 1].tolist() == [first, first]
    assert rips_barcode(SQUARE, essential="infinite")[0].death_edge[-1].tolist() == [-1, -1]


@pytest.mark.parametrize("metric", ["euclidean", "manhattan", "cosine"])
def test_the_enclosing_radius_is_the_least_farthest_distance(metric: str) -> None:
    points = 3 + gaussian(4, 12, 3, seed=6)
    mask = torch.ones(4, 12, dtype=torch.bool)
    mask[1, :5] = False
    mask[2, 6:] = False
    for real in (None, mask):
        (bars,) = rips_barcode(points, mask=real, metric=metric, essential="enclosing_radius")
        for cloud in range(4):
            kept = points[cloud] if real is None else points[cloud][real[cloud]]
            radius = cdist(kept, kept, SCIPY_NAMES[metric]).max(1).min()
            row = len(kept) - 1
            assert bars.death[cloud, row].item() == pytest.approx(radius, rel=1e-12)
            u, v = bars.death_edge[cloud, row].tolist()
            assert u > v
            assert cdist(points[cloud, [u]], points[cloud, [v]], SCIPY_NAMES[metric]).item() == pytest.approx(
                radius, rel=1e-12
            )
            assert int(bars.mask[cloud].sum()) == row + 1


def test_no_loop_outlives_the_enclosing_radius() -> None:
    points = noisy_circle(30)
    radius = pairwise_distances(points).amax(-1).min()
    (_, loops) = rips_barcode(points, 1)
    assert len(loops) > 0
    assert (loops.death <= radius).all()
    for a, b in zip(rips_barcode(points, 1, threshold=float(radius)), rips_barcode(points, 1), strict=True):
        assert_same_rows(a, b)  # a threshold there changes nothing


def test_the_gradient_of_an_essential_bar_goes_to_the_enclosing_edge() -> None:
    points = gaussian(8, 3).requires_grad_()
    (bars,) = rips_barcode(points, essential="enclosing_radius")
    (gradient,) = torch.autograd.grad(bars.death[-1], points)
    touched = gradient.abs().sum(-1).nonzero().flatten().tolist()
    assert touched == sorted(bars.death_edge[-1].tolist())
    (bars,) = rips_barcode(points, essential="infinite")
    assert bars.death[-1] == INF
    (gradient,) = torch.autograd.grad(bars.death[:-1].sum(), points)
    assert gradient.isfinite().all()


# --- Barcode ------------------------------------------------------------------------------------------------------------------


def test_numpy_gives_the_real_bars_and_a_list_of_them_for_a_batch() -> None:
    clouds = [gaussian(n, 2, seed=n).requires_grad_() for n in (5, 1, 9)]
    for bars in rips_barcode(clouds, 1):
        listed = bars.numpy()
        assert isinstance(listed, list)
        assert [rows.shape for rows in listed] == [(int(count), 2) for count in bars.mask.sum(-1)]
        assert all(rows.dtype == np.float64 for rows in listed)
    (bars,) = rips_barcode(SQUARE.float())
    assert isinstance(bars.numpy(), np.ndarray)
    assert bars.numpy().dtype == np.float32
    assert bars.numpy().tolist() == [[0, 1]] * 3


def test_a_batch_can_be_indexed_and_iterated_by_cloud_and_a_single_cloud_cannot() -> None:
    batch = gaussian(3, 9, 2)
    for bars in rips_barcode(batch, 1):
        for cloud, of_cloud in enumerate(bars):
            alone = rips_barcode(batch[cloud], 1)[bars.dim]
            assert of_cloud.dim == bars.dim
            assert len(of_cloud) == len(alone)
            assert np.array_equal(of_cloud.numpy(), alone.numpy())
            assert_same_rows(bars[cloud], of_cloud)
        assert_same_rows(bars[-1], bars[2])
        with pytest.raises(TypeError, match="single cloud") as caught:
            bars[0][0]
        assert "\n" not in str(caught.value)


def test_persistence_is_death_minus_birth() -> None:
    for bars in rips_barcode(gaussian(3, 12, 2), 1):
        assert torch.equal(bars.persistence, bars.death - bars.birth)
        assert (bars.persistence >= 0).all()


def test_to_moves_every_tensor_and_keeps_the_dimension() -> None:
    for bars in rips_barcode(SQUARE, 1):
        moved = bars.to("meta")
        assert moved.dim == bars.dim
        for field in FIELDS:
            assert getattr(moved, field).device.type == "meta"
            assert getattr(moved, field).shape == getattr(bars, field).shape
        assert_same_rows(bars.to("cpu"), bars)
        assert_same_rows(bars.to(torch.device("cpu")), bars)


def test_detach_cuts_the_gradient_and_nothing_else() -> None:
    for bars in rips_barcode(gaussian(9, 2).requires_grad_(), 1):
        assert bars.death.requires_grad
        assert not bars.detach().death.requires_grad
        assert not bars.detach().birth.requires_grad
        assert_same_rows(bars.detach(), bars)


def test_bars_of_points_without_gradient_have_none() -> None:
    for bars in rips_barcode(gaussian(9, 2), 1):
        assert not bars.birth.requires_grad
        assert not bars.death.requires_grad
    with torch.no_grad():
        for bars in rips_barcode(gaussian(9, 2).requires_grad_(), 1):
            assert not bars.death.requires_grad


def test_a_barcode_survives_pickling() -> None:
    for bars in rips_barcode(SQUARE, 1):
        assert_same_rows(pickle.loads(pickle.dumps(bars)), bars)
        assert_same_rows(copy.deepcopy(bars), bars)


# --- VietorisRips -------------------------------------------------------------------------------------------------------------

LAYERS = {
    "VietorisRips(max_dim=0, metric='euclidean', threshold=inf, essential='drop', engine='auto')": VietorisRips(),
    "VietorisRips(max_dim=1, metric='cosine', threshold=1.5, essential='infinite', engine='cohomology')": VietorisRips(
        1, metric="cosine", threshold=1.5, essential="infinite", engine="cohomology"
    ),
    "VietorisRips(max_dim=1, metric='manhattan', threshold=inf, essential='enclosing_radius', engine='reference')": VietorisRips(
        1, metric="manhattan", essential="enclosing_radius", engine="reference"
    ),
}


@pytest.mark.parametrize("shown", list(LAYERS))
def test_a_layer_gives_what_the_function_gives(shown: str) -> None:
    layer = LAYERS[shown]
    points = gaussian(2, 9, 3)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 3:5] = False
    for arguments in ((points,), (points, mask), (points[0],), (list(points),)):
        expected = rips_barcode(arguments[0], mask=arguments[1] if len(arguments) > 1 else None, **layer.options)
        for a, b in zip(layer(*arguments), expected, strict=True):
            assert_same_rows(a, b)
    for a, b in zip(layer(points, mask=mask), layer(points, mask), strict=True):
        assert_same_rows(a, b)


@pytest.mark.parametrize("shown", list(LAYERS))
def test_a_layer_shows_its_options_and_survives_copying_and_pickling(shown: str) -> None:
    layer = LAYERS[shown]
    points = gaussian(9, 3)
    assert repr(layer) == shown
    assert layer.state_dict() == {}
    assert list(layer.parameters()) == []
    layer.load_state_dict({})
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    copies = (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(file, weights_only=False))
    for again in copies:
        assert repr(again) == shown
        for a, b in zip(again(points), layer(points), strict=True):
            assert_same_rows(a, b)


def test_a_layer_stands_in_a_sequence() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(5, 3), VietorisRips(1))
    components, _ = model(gaussian(8, 5, dtype=torch.float32))
    components.persistence.sum().backward()
    assert model[0].weight.grad is not None
    assert model[0].weight.grad.abs().sum() > 0


# --- other people's tools -----------------------------------------------------------------------------------------------------


def torch_topological() -> Any:
    return pytest.importorskip("torch_topological.nn", reason="torch-topological is not installed")


def test_persistence_information_is_what_torch_topological_makes_itself() -> None:
    nn = torch_topological()
    points = gaussian(20, 3, dtype=torch.float32)
    ours = [bars.persistence_information() for bars in rips_barcode(points, 1)]
    for a, b in zip(ours, nn.VietorisRipsComplex(dim=1)(points), strict=True):
        assert isinstance(a, type(b))
        assert a.dimension == b.dimension
        assert isinstance(a.pairing, type(b.pairing))
        assert a.pairing.shape == b.pairing.shape
        assert_same_bars(a.diagram, b.diagram, 1e-5)
        # the edges are the same; which end of a tree edge names an H0 bar is a convention
        columns = slice(1, 3) if a.dimension == 0 else slice(0, 4)
        assert edge_rows(a.pairing[:, columns]) == edge_rows(b.pairing[:, columns])


def edge_rows(pairing: Any) -> list[Any]:
    return sorted(tuple(tuple(sorted(map(int, row[at : at + 2]))) for at in range(0, len(row), 2)) for row in pairing)


def test_persistence_information_of_a_batch_is_a_list_of_real_bars_only() -> None:
    nn = torch_topological()
    clouds = [gaussian(n, 2, seed=n) for n in (6, 1, 4)]
    (bars,) = rips_barcode(clouds)
    listed = bars.persistence_information()
    assert [type(information) for information in listed] == [nn.PersistenceInformation] * 3
    assert [tuple(information.diagram.shape) for information in listed] == [(5, 2), (0, 2), (3, 2)]
    assert [information.pairing.shape for information in listed] == [(5, 3), (0, 3), (3, 3)]


def test_summary_statistic_loss_of_torch_topological_runs_on_our_bars() -> None:
    nn = torch_topological()
    points = SQUARE.clone().requires_grad_()
    information = [bars.persistence_information() for bars in rips_barcode(points, 1)]
    loss = nn.SummaryStatisticLoss("total_persistence", p=2)(information)
    # H0: three bars of length 1; H1: one of length sqrt(2) - 1. The loss is the sum of the squares, to the power 2.
    total = 3 + (SQRT2 - 1) ** 2
    assert loss.item() == pytest.approx(total**2, rel=1e-12)
    loss.backward()
    assert points.grad is not None
    assert points.grad.isfinite().all()
    # The total is homogeneous of degree 2 in the points, the loss of degree 4: Euler's identity.
    assert (points.grad * points.detach()).sum().item() == pytest.approx(4 * total**2, rel=1e-12)


def test_persistent_entropy_of_torch_topological_is_ours_in_bits() -> None:
    nn = torch_topological()
    bars = rips_barcode(gaussian(3, 12, 2, seed=1))[0]
    for information, ours in zip(bars.persistence_information(), persistent_entropy(bars), strict=True):
        theirs = nn.SummaryStatisticLoss("persistent_entropy")([information])
        assert theirs.item() * math.log(2) == pytest.approx(ours.item(), rel=1e-12)


def test_signature_loss_of_torch_topological_runs_on_our_bars() -> None:
    nn = torch_topological()
    points, latent = (
        gaussian(12, 5, dtype=torch.float32).requires_grad_(),
        gaussian(12, 2, seed=1, dtype=torch.float32).requires_grad_(),
    )
    (a,), (b,) = rips_barcode(points), rips_barcode(latent)
    loss = nn.SignatureLoss(normalise=False)(
        (points, [a.persistence_information()]), (latent, [b.persistence_information()])
    )

    def selected(cloud: Tensor, bars: Barcode) -> Tensor:
        return edge_length(cloud, bars.death_edge)

    # Moor et al. 2020: half the norm of the differences of the lengths of the edges of X, in X and in Y, and the other way round
    expected = 0.5 * (
        (selected(points, a) - selected(latent, a)).norm() + (selected(points, b) - selected(latent, b)).norm()
    )
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    for theirs, ours in zip(
        torch.autograd.grad(loss, (points, latent)), torch.autograd.grad(expected, (points, latent)), strict=True
    ):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


def test_signature_loss_of_a_cloud_with_itself_is_zero() -> None:
    nn = torch_topological()
    points = gaussian(12, 2, dtype=torch.float32)
    information = [bars.persistence_information() for bars in rips_barcode(points, 1)]
    assert nn.SignatureLoss(dimensions=(0, 1))((points, information), (points.clone(), information)).item() == 0


def test_wasserstein_distance_of_torch_topological_runs_on_our_bars() -> None:
    nn = torch_topological()
    small = torch.tensor([[0.0], [1.0], [3.0]], requires_grad=True)  # bars [0, 1) and [0, 2)
    large = torch.tensor([[0.0], [1.5], [4.0]])  # bars [0, 1.5) and [0, 2.5): one half away each
    ours = [rips_barcode(points)[0].persistence_information() for points in (small, large)]
    loss = nn.WassersteinDistance()(ours[:1], ours[1:])
    assert loss.item() == pytest.approx(1.0, rel=1e-6)
    loss.backward()
    # growing either bar brings it closer: d/d(death) = -1 for both; x1 - x0 is one bar, x2 - x1 the other
    assert small.grad is not None
    torch.testing.assert_close(small.grad, torch.tensor([[1.0], [0.0], [-1.0]]))
    assert nn.WassersteinDistance()(ours[:1], ours[:1]).item() == pytest.approx(0, abs=1e-6)


def test_persistence_information_without_torch_topological_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_topological.nn", None)
    with pytest.raises(ImportError, match=re.escape('pip install "simplicial_reg[peers]"')):
        rips_barcode(SQUARE)[0].persistence_information()


def test_gudhi_representations_take_our_bars() -> None:
    representations = pytest.importorskip("gudhi.representations", reason="gudhi is not installed")
    bars = rips_barcode([gaussian(n, 2, seed=n) for n in (6, 9, 12)])[0]
    theirs = representations.Entropy(mode="scalar").fit_transform(bars.numpy()).flatten()
    torch.testing.assert_close(torch.from_numpy(theirs), persistent_entropy(bars), rtol=1e-12, atol=0)


def test_persim_takes_our_bars() -> None:
    persim = pytest.importorskip("persim", reason="persim is not installed")
    entropy = pytest.importorskip("persim.persistent_entropy").persistent_entropy
    bars = rips_barcode([gaussian(n, 2, seed=n) for n in (6, 9, 12)])[0]
    theirs = [entropy(rows, normalize=normalize)[0] for rows in bars.numpy() for normalize in (False, True)]
    ours = torch.stack([persistent_entropy(bars), normalized_persistent_entropy(bars)], -1).flatten()
    torch.testing.assert_close(torch.tensor(theirs, dtype=torch.float64), ours, rtol=1e-12, atol=0)
    one, two, _ = bars.numpy()
    assert persim.bottleneck(one, one) == 0
    assert persim.bottleneck(one, two) > 0


def test_ripser_and_persim_plot_our_bars() -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    ripser = pytest.importorskip("ripser", reason="ripser is not installed")
    persim = pytest.importorskip("persim", reason="persim is not installed")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    barcodes = [bars.numpy() for bars in rips_barcode(noisy_circle(20), 1, essential="infinite")]
    axes = pyplot.figure().gca()
    persim.plot_diagrams(barcodes, ax=axes)
    drawn = [points for points in axes.collections if len(points.get_offsets())]
    assert sorted(len(points.get_offsets()) for points in drawn) == sorted(len(rows) for rows in barcodes)
    ripser.Rips(verbose=False).plot(barcodes, show=False)
    pyplot.close("all")


# --- a few numbers that anyone can check --------------------------------------------------------------------------------------


def test_a_noisy_circle_has_one_long_loop() -> None:
    (_, loops) = rips_barcode(noisy_circle(60), 1)
    longest = loops.persistence.sort(descending=True).values
    assert longest[0] > 1
    assert longest[1:].max() < 0.2 if len(longest) > 1 else True
    at = int(loops.persistence.argmax())
    assert loops.birth[at] < 0.6
    assert 1 < loops.death[at] < 2


def test_giotto_ph_regression_two_equal_points_have_no_positive_bar() -> None:
    (bars,) = rips_barcode(torch.ones(2, 3), essential="infinite")
    assert_same_bars(rows_of(bars), [(0, 0), (0, INF)])


def test_a_layer_does_not_see_the_number_of_coordinates() -> None:
    for d in (1, 2, 768, 4096):
        (bars,) = rips_barcode(torch.eye(2, d) * 3)
        assert bars.death.item() == pytest.approx(3 * (SQRT2 if d > 1 else 1))


def test_distances_in_a_cycle_may_come_as_float32() -> None:
    assert_same_bars(rows_of(rips_barcode(cycle_distances(18).float(), 1, metric="precomputed")[1]), [(1, 6)])
