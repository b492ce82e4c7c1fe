"""Measures of the spectrum and streaming moments: definitions, authors' numbers, nulls, singular input, derivatives, accuracy."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from simplicial_reg.isotropy.moments import BLOCK, Moments
from simplicial_reg.isotropy.spectrum import (
    _times_its_transpose,
    effective_rank,
    isoscore,
    isoscore_star,
    participation_ratio,
    participation_ratio_null,
    participation_ratio_over_null,
    rankme,
    squared_norm,
    top_variance_share,
    trace_and_norm,
)
from tests.frozen.make_isoscore import points as isoscore_points

FROZEN = json.loads((Path(__file__).parent / "frozen" / "isoscore.json").read_text())["cases"]

Measure = Callable[..., Tensor]
COVARIANCE = torch.diag(torch.linspace(1, 3, 5, dtype=torch.float64)) + 0.2
MEASURES: dict[str, Measure] = {
    "participation_ratio": participation_ratio,
    "participation_ratio_over_null": participation_ratio_over_null,
    "isoscore": isoscore,
    "isoscore_star": partial(isoscore_star, shrinkage=0.3, covariance=COVARIANCE),
    "effective_rank": effective_rank,
    "effective_rank, raw": partial(effective_rank, centred=False),
    "rankme": rankme,
    "top_variance_share": partial(top_variance_share, k=2),
    "top_variance_share, raw": partial(top_variance_share, centred=False),
}
every_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
every_size = pytest.mark.parametrize("n", [2, 3, 5, 6, 40])  # d is 5: fewer points, as many, more


def cloud(n: int, d: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    normal = np.random.default_rng(seed).normal(size=(n, d)) * np.linspace(1, 3, d) + 0.5
    return torch.tensor(normal, dtype=dtype)


def eigenvalues(points: Tensor) -> np.ndarray:
    return np.linalg.eigvalsh(np.atleast_2d(np.cov(points.numpy().T)))[::-1].clip(min=0)


# Each definition written out in numpy, from covariances and singular value decompositions.


def ratio_by_definition(points: Tensor) -> float:
    lam = eigenvalues(points)
    return float(lam.sum() ** 2 / (lam**2).sum())


def isoscore_by_definition(points: Tensor, shrinkage: float = 0.0, covariance: Any = 0.0) -> float:
    """The authors' steps: normalise the eigenvalues, distance to the ones, rescale twice."""
    d = points.shape[1]
    lam = np.linalg.eigvalsh((1 - shrinkage) * np.cov(points.numpy().T) + shrinkage * np.asarray(covariance))
    lam = lam * math.sqrt(d) / np.linalg.norm(lam)
    delta = np.linalg.norm(lam - 1) / math.sqrt(2 * (d - math.sqrt(d)))
    return float(((d - delta**2 * (d - math.sqrt(d))) ** 2 - d) / (d * (d - 1)))


def rank_by_definition(points: Tensor, centred: bool = True, eps: float = 0.0) -> float:
    matrix = points.numpy() - (points.numpy().mean(0) if centred else 0)
    sigma = np.linalg.svd(matrix, compute_uv=False)
    share = sigma / sigma.sum() + eps
    share = share[share > 1e-12]
    return float(np.exp(-(share * np.log(share)).sum()))


def top_by_definition(points: Tensor, k: int = 2, centred: bool = True) -> float:
    matrix = points.numpy() - (points.numpy().mean(0) if centred else 0)
    squares = np.linalg.svd(matrix, compute_uv=False) ** 2
    return float(squares[:k].sum() / squares.sum())


DEFINITIONS: dict[str, Callable[[Tensor], float]] = {
    "participation_ratio": ratio_by_definition,
    "participation_ratio_over_null": lambda p: ratio_by_definition(p) / participation_ratio_null(*p.shape),
    "isoscore": isoscore_by_definition,
    "isoscore_star": partial(isoscore_by_definition, shrinkage=0.3, covariance=COVARIANCE.numpy()),
    "effective_rank": rank_by_definition,
    "effective_rank, raw": partial(rank_by_definition, centred=False),
    "rankme": partial(rank_by_definition, centred=False, eps=1e-7),
    "top_variance_share": top_by_definition,
    "top_variance_share, raw": partial(top_by_definition, k=1, centred=False),
}


@every_size
@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_is_its_definition(name: str, n: int) -> None:
    points = cloud(n)
    assert MEASURES[name](points).item() == pytest.approx(DEFINITIONS[name](points), rel=1e-9)


@pytest.mark.parametrize("case", FROZEN, ids=lambda c: f"{c['n']}x{c['d']}, shrinkage {c['shrinkage']}")
def test_isoscore_star_and_its_gradient_are_those_of_the_authors_package(case: dict[str, Any]) -> None:
    n, d, spread, seed = (case[key] for key in ("n", "d", "spread", "seed"))
    points = torch.tensor(isoscore_points(n, d, spread, seed), requires_grad=True)
    covariance = torch.tensor(np.cov(isoscore_points(2 * d, d, spread, seed + 1).T))
    score = isoscore_star(points, shrinkage=case["shrinkage"], covariance=covariance)
    score.backward()
    assert score.item() == pytest.approx(case["score"], abs=1e-12)
    gradient = torch.tensor(case["gradient"], dtype=torch.float64)
    torch.testing.assert_close(points.grad, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("n", "d"), [(64, 3), (6, 3), (3, 6), (4, 8), (20, 50)])
def test_null_is_the_harmonic_mean_over_isotropic_gaussian_clouds(n: int, d: int) -> None:
    points = torch.tensor(np.random.default_rng(n * d).normal(size=(4000, n, d)))
    inverse = 1 / participation_ratio_over_null(points)
    error = float(inverse.std()) / math.sqrt(len(inverse))
    assert float(inverse.mean()) == pytest.approx(1, abs=4 * error)
    # That it is n - 1 and not n degrees of freedom can be told apart here: with n the mean is off by much more.
    other = d / (1 + d / n)
    assert abs(float((other / participation_ratio(points)).mean()) - 1) > 8 * error


def test_isoscore_of_the_null_is_n_less_two_over_n_plus_d() -> None:
    for n, d in ((2, 7), (64, 768), (50000, 768), (10, 2)):
        assert (participation_ratio_null(n, d) - 1) / (d - 1) == pytest.approx((n - 2) / (n + d), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2])
def test_null_of_one_and_two_points_is_one_direction(n: int) -> None:
    assert participation_ratio_null(n, 9) == 1


def test_null_of_no_points_or_no_dimensions_is_an_error() -> None:
    with pytest.raises(ValueError, match="n must be at least 1 and finite; got 0"):
        participation_ratio_null(0, 3)
    with pytest.raises(ValueError, match="d must be at least 1; got 0"):
        participation_ratio_null(3, 0)


def test_top_share_of_a_large_gaussian_cloud_is_at_the_edge_of_marchenko_pastur() -> None:
    n, d = 1000, 500
    points = torch.tensor(np.random.default_rng(0).normal(size=(n, d)))
    assert top_variance_share(points).item() == pytest.approx((1 + math.sqrt(d / (n - 1))) ** 2 / d, rel=0.03)


@every_size
def test_equal_variances_in_k_directions_have_ratio_and_rank_k_and_top_share_one_over_k(n: int) -> None:
    for k in range(1, 6):
        points = torch.cat([torch.eye(5, dtype=torch.float64)[:k], -torch.eye(5, dtype=torch.float64)[:k]] * n)
        assert participation_ratio(points).item() == pytest.approx(k)
        assert isoscore(points).item() == pytest.approx((k - 1) / 4)
        assert effective_rank(points).item() == pytest.approx(k)
        assert top_variance_share(points).item() == pytest.approx(1 / k)


# --- invariance -----------------------------------------------------------------------------------------------------------------

SCALE_FREE = [name for name in MEASURES if name != "isoscore_star"]
CENTRED = [name for name in MEASURES if "raw" not in name and name != "rankme"]


@pytest.mark.parametrize("name", SCALE_FREE)
@pytest.mark.parametrize("n", [3, 40])
def test_measures_do_not_depend_on_rotation_scale_and_order(name: str, n: int) -> None:
    points = cloud(n)
    turn = torch.linalg.qr(cloud(5, seed=1))[0]
    for moved in (points @ turn, points * 1e-6, points * 1e9, points.flip(0)):
        assert MEASURES[name](moved).item() == pytest.approx(MEASURES[name](points).item(), rel=1e-9)


@pytest.mark.parametrize("name", CENTRED)
@pytest.mark.parametrize("n", [3, 40])
def test_centred_measures_do_not_depend_on_translation(name: str, n: int) -> None:
    points = cloud(n)
    assert MEASURES[name](points + 1000).item() == pytest.approx(MEASURES[name](points).item(), rel=1e-9)


def test_isoscore_star_does_not_depend_on_the_unit_that_points_and_covariance_share() -> None:
    for n in (2, 3, 40):
        score = isoscore_star(cloud(n), shrinkage=0.4, covariance=COVARIANCE)
        for unit in (1e-7, 1e6):
            same = isoscore_star(cloud(n) * unit, shrinkage=0.4, covariance=COVARIANCE * unit**2)
            assert same.item() == pytest.approx(score.item(), rel=1e-9)


@pytest.mark.parametrize("name", SCALE_FREE)
def test_tiny_and_huge_float32_clouds_do_not_under_or_overflow(name: str) -> None:
    points = cloud(6, dtype=torch.float32)
    for scale in (1e-15, 1e15):
        assert MEASURES[name](points * scale).item() == pytest.approx(MEASURES[name](points).item(), rel=1e-4)


@every_measure
@every_size
def test_half_precision_is_computed_in_float32_and_float32_agrees_with_float64(measure: Measure, n: int) -> None:
    points = cloud(n).to(torch.bfloat16)
    exact = measure(points.double()).item()
    assert measure(points).dtype == torch.float32
    assert measure(points.float()).dtype == torch.float32
    assert measure(points).item() == pytest.approx(exact, rel=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert measure(points.float()).item() == measure(points.float() + 0).item() == pytest.approx(exact, rel=1e-4)


# --- batches and masks ----------------------------------------------------------------------------------------------------------


@every_measure
def test_masked_batch_is_its_clouds_one_by_one_and_masked_rows_get_no_gradient(measure: Measure) -> None:
    sizes = [1, 2, 4, 6, 9]
    points = torch.stack([cloud(9, seed=seed) for seed in range(len(sizes))])
    order = torch.stack(
        [torch.randperm(9, generator=torch.Generator().manual_seed(seed)) for seed in range(len(sizes))]
    )
    mask = order < torch.tensor(sizes)[:, None]
    clouds = [points[at][mask[at]].requires_grad_() for at in range(len(sizes))]
    one_by_one = torch.stack([measure(each) for each in clouds])
    points[~mask] = math.nan
    points.requires_grad_()
    batch = measure(points, mask=mask)
    torch.testing.assert_close(batch, one_by_one, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(measure(clouds), one_by_one, rtol=1e-9, atol=1e-12)
    (gradient,) = torch.autograd.grad(batch.sum(), points)
    expected = torch.cat(torch.autograd.grad(one_by_one.sum(), clouds))
    torch.testing.assert_close(gradient[mask], expected, rtol=1e-7, atol=1e-9)
    assert (gradient[~mask] == 0).all()


@every_measure
def test_a_cloud_with_nan_has_nan_and_its_neighbour_keeps_its_value(measure: Measure) -> None:
    points = torch.stack([cloud(7), cloud(7, seed=1)])
    expected = measure(points[1])
    points[0, 0, 0] = math.nan
    if measure is MEASURES["isoscore_star"]:
        # Its unit is one for the whole batch.
        assert measure(points)[0].isnan()
        return
    value = measure(points)
    assert value[0].isnan()
    assert value[1].item() == pytest.approx(expected.item(), rel=1e-12)


# --- singular input -------------------------------------------------------------------------------------------------------------

WITHOUT_VARIANCE = {
    "one point": torch.tensor([[3.0, -1.0, 0.1, 5.0, 2.0]]),
    "one point at the origin": torch.zeros(1, 5),
    "all equal": torch.full((6, 5), 0.1),
    "all equal, more than d": torch.full((40, 5), 0.1),
    "all at the origin": torch.zeros(6, 5),
}
# For a covariance alone: ((tr)² / ||.||² - 1) / 4 with tr = 10 + 1, see COVARIANCE.
WORST = {
    "participation_ratio": 1.0,
    "isoscore": 0.0,
    "isoscore_star": (11.0**2 / float(COVARIANCE.square().sum()) - 1) / 4,
    "effective_rank": 1.0,
    "top_variance_share": 1.0,
}


@pytest.mark.parametrize("points", WITHOUT_VARIANCE.values(), ids=WITHOUT_VARIANCE)
@pytest.mark.parametrize("name", WORST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_cloud_without_variance_is_the_worst_with_gradient_zero(
    name: str, points: Tensor, dtype: torch.dtype
) -> None:
    points = points.to(dtype).clone().requires_grad_()
    value = MEASURES[name](points)
    (gradient,) = torch.autograd.grad(value, points)
    assert value.item() == pytest.approx(WORST[name], rel=1e-6, abs=0)
    assert (gradient == 0).all()


@pytest.mark.parametrize("points", WITHOUT_VARIANCE.values(), ids=WITHOUT_VARIANCE)
@pytest.mark.parametrize("name", ["effective_rank, raw", "rankme", "top_variance_share, raw"])
def test_equal_points_are_one_direction_to_uncentred_measures(name: str, points: Tensor) -> None:
    points = points.double().clone().requires_grad_()
    value = MEASURES[name](points)
    (gradient,) = torch.autograd.grad(value, points)
    assert value.item() == pytest.approx(1, abs=1e-5)
    assert gradient.isfinite().all()
    if not points.any():
        assert (gradient == 0).all()


SINGULAR = {
    "two points": torch.tensor([[1.0, 2, 3, 4, 5], [0, 0, 1, 1, 7]]),
    "a line": torch.arange(6.0)[:, None] * torch.tensor([1.0, 2, 0, 0, -1]),
    "duplicates": cloud(3).repeat(4, 1),
    "a zero vector": torch.cat([torch.zeros(1, 5), cloud(4).float()]),
    "the regular simplex": torch.eye(5),
}


@every_measure
@pytest.mark.parametrize("points", SINGULAR.values(), ids=SINGULAR)
def test_values_and_gradients_of_singular_clouds_are_finite(measure: Measure, points: Tensor) -> None:
    points = points.double().clone().requires_grad_()
    value = measure(points)
    (gradient,) = torch.autograd.grad(value, points)
    assert value.isfinite()
    assert gradient.isfinite().all()


@every_measure
def test_a_line_is_one_direction_to_the_last_bit_of_the_range(measure: Measure) -> None:
    if measure is MEASURES["isoscore_star"]:
        return
    for seed in range(20):
        direction = cloud(1, seed=seed, dtype=torch.float32)
        points = torch.tensor(np.random.default_rng(seed).normal(size=(7, 1)), dtype=torch.float32) * direction
        assert 1 <= participation_ratio(points) < 1 + 1e-5
        assert 0 <= isoscore(points) < 1e-5
        assert 1 <= effective_rank(points) < 1 + 1e-3
        assert 1 - 1e-5 < top_variance_share(points) <= 1


def test_one_dimension_is_used_entirely_if_it_varies_and_not_at_all_if_it_does_not() -> None:
    points = cloud(4, 1)
    assert isoscore(points).item() == 1
    assert isoscore(points[:1]).item() == 0
    assert isoscore_star(points[:1], shrinkage=0.5, covariance=torch.ones(1, 1)).item() == 1
    for name in ("participation_ratio", "participation_ratio_over_null", "effective_rank"):
        assert MEASURES[name](points).item() == 1
    assert top_variance_share(points).item() == 1


def test_rank_that_rounding_leaves_is_not_counted() -> None:
    # Three directions, far from the origin, in float32: the fourth and fifth singular values are rounding.
    points = (cloud(30, 3) @ cloud(3, 5, seed=1)).requires_grad_()
    (gradient,) = torch.autograd.grad(effective_rank(points), points)
    inside = torch.linalg.svd(points.detach())[2][:3]
    assert gradient.norm() > 1e-3
    assert (gradient - gradient @ inside.mT @ inside).abs().max() < 1e-12


# --- shrinkage ------------------------------------------------------------------------------------------------------------------


def test_shrinkage_one_is_the_covariance_alone_and_zero_does_not_read_it() -> None:
    score = isoscore_star(cloud(9).requires_grad_(), shrinkage=1, covariance=COVARIANCE)
    assert score.item() == pytest.approx(WORST["isoscore_star"])
    assert score.requires_grad
    assert isoscore_star(cloud(9), covariance=COVARIANCE * math.nan) == isoscore(cloud(9))


def test_with_shrinkage_collapse_has_the_score_of_the_covariance_as_the_docstring_warns() -> None:
    spread = isoscore_star(cloud(9), shrinkage=0.5, covariance=torch.eye(5))
    collapsed = isoscore_star(torch.ones(9, 5), shrinkage=0.5, covariance=torch.eye(5))
    assert collapsed == 1 > spread


def test_no_gradient_flows_into_the_shrinkage_covariance() -> None:
    covariance = COVARIANCE.clone().requires_grad_()
    for n in (2, 9):
        isoscore_star(cloud(n).requires_grad_(), shrinkage=0.5, covariance=covariance).backward()
    assert covariance.grad is None


def test_bad_arguments_have_clear_errors() -> None:
    points = cloud(4)
    with pytest.raises(ValueError, match=r"covariance must be given with shrinkage > 0, a \(d, d\) tensor"):
        isoscore_star(points, shrinkage=0.1)
    with pytest.raises(ValueError, match=r"shrinkage must be in \[0, 1\]; got 1.5"):
        isoscore_star(points, shrinkage=1.5, covariance=COVARIANCE)
    with pytest.raises(TypeError, match="shrinkage must be a number; got str"):
        isoscore_star(points, shrinkage="0.1")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"covariance must have shape \(5, 5\) for points of 5 coordinates; got \(4, 4\)"
    ):
        isoscore_star(points, shrinkage=0.1, covariance=torch.eye(4))
    with pytest.raises(TypeError, match="covariance must be a floating-point tensor; got ndarray"):
        isoscore_star(points, shrinkage=0.1, covariance=np.eye(5))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="k must be at least 1; got 0"):
        top_variance_share(points, 0)
    with pytest.raises(TypeError, match="k must be an int; got float"):
        top_variance_share(points, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="eps must be positive and finite; got 0"):
        rankme(points, eps=0)
    with pytest.raises(TypeError, match="points must be a floating-point tensor"):
        isoscore(points.long())


# --- derivatives ----------------------------------------------------------------------------------------------------------------


@every_measure
@every_size
def test_gradients_are_those_of_finite_differences(measure: Measure, n: int) -> None:
    if n == 2 and measure is not MEASURES["isoscore_star"]:
        return  # constant when centred; see the line above
    assert gradcheck(measure, cloud(n).requires_grad_())


@pytest.mark.parametrize("name", ["participation_ratio", "isoscore_star"])
@every_size
def test_second_derivatives_of_the_ratios_are_those_of_finite_differences(name: str, n: int) -> None:
    assert gradgradcheck(MEASURES[name], cloud(n, 5).requires_grad_(), atol=1e-4)


@every_size
@pytest.mark.parametrize("extra", [None, COVARIANCE], ids=["plain", "with a constant"])
def test_trace_and_norm_with_their_own_derivatives_are_those_of_autograd(n: int, extra: Tensor | None) -> None:
    def plain(x: Tensor) -> tuple[Tensor, Tensor]:
        square = x.mT @ x
        shifted = square if extra is None else square + extra
        return square.diagonal(dim1=-2, dim2=-1).sum(-1), shifted.square().sum((-2, -1))

    points = torch.stack([cloud(n), cloud(n, seed=1)]).requires_grad_()
    weight = torch.tensor([[0.5, -2.0], [3.0, 0.1]], dtype=torch.float64)
    torch.testing.assert_close(trace_and_norm(points, extra), plain(points))
    ours, theirs = (
        torch.autograd.grad((weight * torch.stack(f(points))).sum(), points, create_graph=True)[0]
        for f in (lambda x: trace_and_norm(x, extra), plain)
    )
    torch.testing.assert_close(ours, theirs)
    again, expected = (torch.autograd.grad(slope.square().sum(), points)[0] for slope in (ours, theirs))
    torch.testing.assert_close(again, expected)


@pytest.mark.parametrize("shape", [(383, 900), (384, 900), (389, 1000), (900, 390), (2, 390, 800)])
def test_a_product_by_blocks_is_the_product(shape: tuple[int, ...]) -> None:
    points = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wide = shape[-2] < shape[-1]
    product = points @ points.mT if wide else points.mT @ points
    with torch.no_grad():
        torch.testing.assert_close(_times_its_transpose(points if wide else points.mT), product, rtol=1e-13, atol=1e-10)
    torch.testing.assert_close(squared_norm(points), product.square().sum((-2, -1)), rtol=1e-13, atol=0)


def test_ratios_can_be_mapped_and_differentiated_by_torch_func() -> None:
    points = torch.stack([cloud(4), cloud(4, seed=1)])
    expected = isoscore(points)
    torch.testing.assert_close(torch.func.vmap(isoscore)(points), expected)
    slope = torch.func.vmap(torch.func.grad(isoscore))(points)
    points.requires_grad_()
    torch.testing.assert_close(slope, torch.autograd.grad(isoscore(points).sum(), points)[0])


# --- Moments --------------------------------------------------------------------------------------------------------------------


def assert_same_moments(found: Moments, expected: Moments, tolerance: float = 1e-12) -> None:
    assert found.count == expected.count
    for name in ("mean", "mean_norm", "scatter"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_moments_of_chunks_are_those_of_the_whole_and_of_numpy(offset: float, size: int) -> None:
    points = cloud(230) + offset
    whole, chunked = Moments().update(points), Moments()
    for chunk in points.split(size):
        chunked.update(chunk)
    assert whole.count == 230
    # Far from the origin the digits of the points themselves end at 1e6 eps.
    tolerance = 1e-12 if offset == 0 else 1e-9
    torch.testing.assert_close(chunked.covariance, whole.covariance, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(whole.covariance.numpy(), np.cov((points - offset).numpy().T), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(whole.mean.numpy(), points.numpy().mean(0), rtol=1e-14, atol=1e-12)


def test_moments_of_float32_far_from_the_origin_are_those_of_the_same_points_in_exact_arithmetic() -> None:
    points = (cloud(500) + 1e4).float()
    expected = np.cov((points.double() - 1e4).numpy().T)
    found = Moments()
    for chunk in points.split(64):
        found.update(chunk)
    torch.testing.assert_close(found.covariance.numpy(), expected, rtol=1e-10, atol=1e-10)


def test_order_of_merging_is_irrelevant_and_merging_is_updating() -> None:
    clouds = [cloud(n, seed=n) + n for n in (1, 4, 30, 2)]
    whole = Moments().update(torch.cat(clouds))
    parts = [Moments().update(each) for each in clouds]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        merged = Moments()
        for at in order:
            merged.merge(parts[at])
        assert_same_moments(merged, whole)
    assert parts[0].count == 1  # those that were merged stay as they are
    assert_same_moments(Moments().merge(whole).merge(Moments()), whole)


def test_moments_take_batches_lists_and_masks_and_blocks_of_masked_rows() -> None:
    points = cloud(60).reshape(3, 20, 5)
    mask = torch.arange(20) < torch.tensor([[20], [3], [11]])
    real = torch.cat([points[at][mask[at]] for at in range(3)])
    expected = Moments().update(real)
    spoilt = torch.where(mask[..., None], points, math.nan)
    assert_same_moments(Moments().update(spoilt, mask), expected)
    assert_same_moments(Moments().update([points[at][mask[at]] for at in range(3)]), expected)
    assert_same_moments(Moments().update(points), Moments().update(points.flatten(0, 1)))
    long = torch.full((2 * BLOCK + 60, 5), math.nan, dtype=torch.float64)
    long[BLOCK + 5 : BLOCK + 5 + len(real)] = real
    assert_same_moments(Moments().update(long, long[:, 0].isfinite()), expected)


def test_moments_of_more_than_one_block_are_those_of_the_whole() -> None:
    points = cloud(BLOCK + 1000, 2)
    torch.testing.assert_close(
        Moments().update(points).covariance.numpy(), np.cov(points.numpy().T), rtol=1e-11, atol=0
    )


def test_a_constant_coordinate_has_exactly_its_value_and_no_variance() -> None:
    moments = Moments()
    for n in (3, 7, 10, 1):
        points = cloud(n, seed=n)
        points[:, 2] = 0.1
        moments.update(points)
    assert moments.mean[2] == 0.1
    assert (moments.covariance[2] == 0).all()


@pytest.mark.parametrize("n", [1, 3, 40])
def test_moments_measure_is_what_the_functions_say_of_all_points(n: int) -> None:
    points = cloud(n)
    moments = Moments()
    for chunk in points.split(7):
        moments.update(chunk)
    found = moments.measure(shrinkage=0.3, covariance=COVARIANCE)
    expected = {
        "participation_ratio": participation_ratio(points),
        "participation_ratio_over_null": participation_ratio_over_null(points),
        "isoscore": isoscore(points),
        "isoscore_star": isoscore_star(points, shrinkage=0.3, covariance=COVARIANCE),
        "effective_rank": effective_rank(points),
        "rankme": rankme(points),
        "top_variance_share": top_variance_share(points),
        "top_second_moment_share": top_variance_share(points, centred=False),
        "drift_ratio": points.mean(0).norm() / points.norm(dim=1).mean(),
    }
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert isinstance(found[name], float)
        assert found[name] == pytest.approx(value.item(), rel=1e-6), name


def test_moments_of_a_cloud_at_the_origin_measure_collapse() -> None:
    measures = Moments().update(torch.zeros(4, 5)).measure()
    assert measures["participation_ratio"] == measures["effective_rank"] == 1
    assert measures["top_variance_share"] == measures["top_second_moment_share"] == 1
    assert measures["isoscore"] == measures["isoscore_star"] == measures["drift_ratio"] == 0


def test_second_moment_is_about_the_origin() -> None:
    points = cloud(9)
    torch.testing.assert_close(Moments().update(points).second_moment, points.mT @ points / 9)


def test_forgetting_makes_an_average_with_exponential_weights() -> None:
    batches = [cloud(6, seed=seed) + seed for seed in range(4)]
    moments = Moments()
    for batch in batches:
        moments.forget(0.8).update(batch)
    weight = np.repeat(0.8 ** np.arange(4)[::-1], 6)
    points = torch.cat(batches).numpy()
    mean = np.average(points, axis=0, weights=weight)
    scatter = (points - mean).T @ (weight[:, None] * (points - mean))
    torch.testing.assert_close(moments.mean.numpy(), mean)
    torch.testing.assert_close(moments.covariance.numpy(), scatter / (weight.sum() - 1))
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\]; got 2"):
        moments.forget(2)


def test_forgetting_leaves_mean_and_second_moment_as_they_were_however_little_remains() -> None:
    moments = Moments().update(cloud(4))
    mean, second = moments.mean, moments.second_moment
    moments.forget(1e-3)
    torch.testing.assert_close(moments.mean, mean)
    torch.testing.assert_close(moments.second_moment, second)
    assert moments.forget(0).second_moment.isfinite().all()
    assert (moments.covariance == 0).all()
    assert_same_moments(moments.update(cloud(5, seed=1)), Moments().update(cloud(5, seed=1)))


def test_moments_of_one_point_at_a_time_are_those_of_all() -> None:
    moments = Moments()
    for point in cloud(7).split(1):
        moments.update(point)
    assert_same_moments(moments, Moments().update(cloud(7)))
    assert (Moments().update(cloud(1)).covariance == 0).all()
    with pytest.raises(ValueError, match="points must hold at least one cloud of at least one point"):
        moments.update(torch.zeros(0, 5))
    assert moments.count == 7


def test_moments_restore_into_a_fresh_object_of_unknown_width(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    moments = Moments().update(cloud(8))
    save_file(moments.state_dict(), tmp_path / "moments.safetensors")
    for state in (moments.state_dict(), load_file(tmp_path / "moments.safetensors")):
        for assign in (False, True):
            fresh = Moments()
            fresh.load_state_dict(state, assign=assign)
            assert_same_moments(fresh, moments, 0)
    save_file(Moments().state_dict(), tmp_path / "empty.safetensors")
    other = Moments().update(cloud(4, 2))
    other.load_state_dict(load_file(tmp_path / "empty.safetensors"))
    assert other.width == 0
    assert_same_moments(copy.deepcopy(moments), moments, 0)
    assert not list(moments.parameters())


@pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.bfloat16, nn.Module.float, lambda m: m.to(torch.float16)])
def test_casting_the_model_that_holds_moments_leaves_them_as_they_are(cast: Callable[[nn.Module], nn.Module]) -> None:
    moments = Moments().update(cloud(8) + 1e6)
    before = copy.deepcopy(moments)
    model = cast(nn.Sequential(nn.Linear(2, 2), moments))
    assert model[0].weight.dtype != torch.float64
    assert moments.scatter.dtype == torch.float64
    assert_same_moments(moments, before, 0)
    assert nn.Sequential(moments).to("meta")[0].scatter.device.type == "meta"


def test_moments_computed_in_inference_mode_can_be_trained_with() -> None:
    with torch.inference_mode():
        moments = Moments().update(cloud(8))
    moments.update(cloud(8, seed=1))
    points = cloud(6).requires_grad_()
    isoscore_star(points, shrinkage=0.5, covariance=moments.covariance).backward()
    assert points.grad is not None
    assert not moments.scatter.is_inference()


def test_moments_keep_no_graph() -> None:
    points = cloud(8).requires_grad_()
    moments = Moments().update(points)
    assert not moments.covariance.requires_grad


def test_moments_reset_and_say_what_they_hold() -> None:
    moments = Moments().update(cloud(8))
    assert repr(moments) == "Moments(count=8, width=5)"
    moments.reset().update(cloud(3, 2))
    assert repr(moments) == "Moments(count=3, width=2)"


def test_moments_of_nothing_and_of_other_widths_are_clear_errors() -> None:
    for ask in (lambda: Moments().covariance, lambda: Moments().second_moment, lambda: Moments().measure()):
        with pytest.raises(
            RuntimeError, match=r"there are no points yet, so there is no covariance; call update\(points\)"
        ):
            ask()
    moments = Moments().update(cloud(8))
    message = r"points must have 5 coordinates, as those before; got 2; or call reset\(\) first"
    with pytest.raises(ValueError, match=message):
        moments.update(cloud(8, 2))
    with pytest.raises(ValueError, match=message):
        moments.merge(Moments().update(cloud(8, 2)))
    with pytest.raises(TypeError, match="points must be a floating-point tensor"):
        moments.update(np.zeros((3, 5)))  # type: ignore[arg-type]


def test_nothing_here_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for points in (*WITHOUT_VARIANCE.values(), *SINGULAR.values()):
            for measure in MEASURES.values():
                measure(points.float())
            Moments().update(points).measure()
