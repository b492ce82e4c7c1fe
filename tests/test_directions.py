"""Mean cosine, drift, outlier dimensions and partition ratio: values, null values, what they are blind to, singular input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from simplicial_reg.isotropy.directions import drift_ratio, mean_cosine, outlier_dimension_share, partition_ratio

Measure = Callable[..., Tensor]


def centred_mean_cosine(points: Any, *, mask: Tensor | None = None) -> Tensor:
    return mean_cosine(points, centred=True, mask=mask)


def outlier_size_share(points: Any, *, mask: Tensor | None = None) -> Tensor:
    return outlier_dimension_share(points, factor=2, centred=False, mask=mask)


def outlier_share(points: Any, *, mask: Tensor | None = None) -> Tensor:
    return outlier_dimension_share(points, factor=2, mask=mask)


# --- the definitions, written out -------------------------------------------------------------------------------------


def plain_mean_cosine(x: np.ndarray, centred: bool = False) -> float:
    x = x - x.mean(0) if centred else x
    n = len(x)
    cosines = [
        x[i] @ x[j] / (np.linalg.norm(x[i]) * np.linalg.norm(x[j])) for i in range(n) for j in range(n) if i != j
    ]
    return float(np.mean(cosines))


def plain_drift_ratio(x: np.ndarray) -> float:
    return float(np.linalg.norm(x.mean(0)) / np.linalg.norm(x, axis=1).mean())


def plain_outlier_share(x: np.ndarray, centred: bool = True) -> float:
    size = x.var(0) if centred else (x**2).mean(0)
    return float(sum(v for v in size if v >= 2 * size.mean()) / size.sum())


def plain_partition_ratio(x: np.ndarray) -> float:
    _, vectors = np.linalg.eigh(x.T @ x)  # all d of them, those of eigenvalue zero included
    z = [np.exp(x @ (sign * c)).sum() for c in vectors.T for sign in (1, -1)]
    return float(min(z) / max(z))


MEASURES: dict[str, tuple[Measure, Callable[[np.ndarray], float]]] = {
    "mean cosine": (mean_cosine, plain_mean_cosine),
    "centred mean cosine": (centred_mean_cosine, lambda x: plain_mean_cosine(x, centred=True)),
    "drift ratio": (drift_ratio, plain_drift_ratio),
    "outlier share": (outlier_share, plain_outlier_share),
    "outlier share of mean squares": (outlier_size_share, lambda x: plain_outlier_share(x, centred=False)),
    "partition ratio": (partition_ratio, plain_partition_ratio),
}
every_measure = pytest.mark.parametrize("measure", [m for m, _ in MEASURES.values()], ids=MEASURES)
every_definition = pytest.mark.parametrize(("measure", "definition"), MEASURES.values(), ids=MEASURES)


def cloud(n: int, d: int, seed: int = 0, shift: float = 0.3, dtype: torch.dtype = torch.float64) -> Tensor:
    """A cloud off the origin with one wide coordinate."""
    points = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    points[:, 0] *= 3
    return (points + shift).to(dtype)


def gradient(measure: Measure, points: Tensor, **arguments: Any) -> Tensor:
    points = points.detach().requires_grad_()
    (grad,) = torch.autograd.grad(measure(points, **arguments).sum(), points)
    return grad


# --- values -----------------------------------------------------------------------------------------------------------


@every_definition
@pytest.mark.parametrize(("n", "d"), [(2, 3), (5, 3), (3, 5), (40, 7), (7, 40), (6, 6)])
def test_measure_is_its_definition(measure: Measure, definition: Callable[[np.ndarray], float], n: int, d: int) -> None:
    for seed in range(3):
        points = cloud(n, d, seed)
        assert measure(points).item() == pytest.approx(definition(points.numpy()), abs=1e-12)


def test_mean_cosine_of_the_axes_is_zero_and_centred_that_of_a_regular_simplex() -> None:
    points = torch.eye(5, dtype=torch.float64)
    assert mean_cosine(points) == 0
    assert mean_cosine(points, centred=True).item() == pytest.approx(-1 / 4, abs=1e-15)


def test_drift_ratio_of_two_points_at_a_right_angle_is_half_the_square_root_of_two() -> None:
    assert drift_ratio(3 * torch.eye(2)).item() == pytest.approx(math.sqrt(2) / 2)


def test_outlier_share_counts_a_coordinate_at_exactly_the_limit() -> None:
    points = torch.tensor([[2.0, 1.0, 1.0], [-2.0, -1.0, -1.0]])  # variances 4, 1, 1 and mean 2
    assert outlier_dimension_share(points, factor=2).item() == pytest.approx(4 / 6)
    assert outlier_dimension_share(points, factor=2.001) == 0


def test_outlier_share_of_a_large_constant_coordinate_shows_only_uncentred() -> None:
    points = cloud(50, 8, shift=0)
    points[:, 0] /= 3
    points[:, 5] = 100
    assert outlier_dimension_share(points) == 0
    assert outlier_dimension_share(points, centred=False) > 0.99


def test_outlier_share_is_zero_in_fewer_coordinates_than_the_factor() -> None:
    assert (
        outlier_dimension_share(torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]])) == 0
    )  # all of it in one, 4 times the mean


def test_partition_ratio_does_not_depend_on_the_signs_of_eigenvectors() -> None:
    points = cloud(12, 4, shift=1.0)
    turned = points * torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert partition_ratio(-points).item() == pytest.approx(partition_ratio(points).item(), rel=1e-12)
    assert partition_ratio(turned).item() == pytest.approx(partition_ratio(points).item(), rel=1e-12)


def test_partition_ratio_counts_directions_in_which_no_point_lies() -> None:
    point = torch.tensor([[2.0, 0.0]])  # Z is e² and e^-2 along it, and 1 across
    assert partition_ratio(point[:, :1]).item() == pytest.approx(math.exp(-4))
    assert partition_ratio(torch.tensor([[2.0, 0.0], [2.0, 0.0]])).item() == pytest.approx(math.exp(-4))
    pair = torch.tensor([[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]])  # 2 cosh 2 along it, 2 across: the least
    assert partition_ratio(pair).item() == pytest.approx(1 / math.cosh(2))


def test_partition_ratio_has_its_least_sum_where_no_point_lies_if_all_others_are_larger() -> None:
    # Every column of the orthogonal matrix has both signs, so that Z is large along it either way, and 3 across.
    orthogonal = torch.tensor([[2.0, 2.0, -1.0], [-1.0, 2.0, 2.0], [2.0, -1.0, 2.0]]).double() / 3
    points = torch.nn.functional.pad(orthogonal * torch.tensor([4.0, 5.0, 6.0]), (0, 1))
    largest = 2 * math.exp(6 * 2 / 3) + math.exp(-6 / 3)
    assert partition_ratio(points).item() == pytest.approx(3 / largest)


def test_partition_ratio_does_not_overflow() -> None:
    points = torch.tensor([[50.0], [-50.0], [200.0]])  # exp(200) is infinite in float32
    assert partition_ratio(points) == 0
    points = torch.tensor([[500.0], [-500.0]])
    assert partition_ratio(points) == 1  # both signs have the same Z, and there is no other direction


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("measure", [mean_cosine, centred_mean_cosine, drift_ratio, outlier_share])
def test_tiny_and_huge_units_do_not_matter(measure: Measure, scale: float) -> None:
    points = cloud(9, 4, dtype=torch.float32)
    torch.testing.assert_close(measure(scale * points), measure(points))
    assert gradient(measure, scale * points).isfinite().all()


def test_mean_cosine_of_many_nearly_parallel_points_keeps_float32_digits() -> None:
    points = cloud(20_000, 3, shift=300.0)
    exact = mean_cosine(points).item()
    assert mean_cosine(points.float()).item() == pytest.approx(exact, abs=3e-7)


def test_centred_mean_cosine_far_from_the_origin_is_as_good_as_near() -> None:
    points = cloud(50, 4, dtype=torch.float32).mul(256).round() / 256  # exact in float32 after the shift too
    assert mean_cosine(points + 4096, centred=True).item() == pytest.approx(
        mean_cosine(points, centred=True).item(), abs=1e-6
    )


# --- null values ------------------------------------------------------------------------------------------------------


def drawn(measure: Measure, n: int, d: int, clouds: int) -> tuple[float, float]:
    """Mean over isotropic Gaussian clouds, and its standard error."""
    points = torch.randn(clouds, n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = measure(points)
    return values.mean().item(), values.std().item() / math.sqrt(clouds)


@pytest.mark.parametrize(("n", "d"), [(8, 32), (64, 16)])
def test_mean_cosine_of_an_isotropic_gaussian_is_zero_in_expectation(n: int, d: int) -> None:
    found, error = drawn(mean_cosine, n, d, 2000)
    assert abs(found) < 4 * error


@pytest.mark.parametrize(("n", "d"), [(8, 64), (64, 16)])
def test_centred_mean_cosine_of_an_isotropic_gaussian_is_about_minus_one_over_n_minus_one(n: int, d: int) -> None:
    found, error = drawn(centred_mean_cosine, n, d, 1000)
    assert error < 0.01 / n
    assert found == pytest.approx(-1 / (n - 1), rel=1 / d)  # nearer, the more coordinates


@pytest.mark.parametrize(("n", "d"), [(16, 64), (100, 32)])
def test_drift_ratio_of_an_isotropic_gaussian_is_about_one_over_the_root_of_n(n: int, d: int) -> None:
    found, _ = drawn(drift_ratio, n, d, 500)
    assert found == pytest.approx(1 / math.sqrt(n), rel=0.02)


def test_outlier_share_of_an_isotropic_gaussian_of_some_points_is_zero() -> None:
    assert drawn(outlier_dimension_share, 32, 256, 50)[0] == 0


def test_partition_ratio_of_an_isotropic_gaussian_tends_to_one_with_the_number_of_points() -> None:
    few, many, most = (drawn(partition_ratio, n, 8, 20)[0] for n in (32, 512, 8192))
    assert few < many < most
    assert few < 0.5
    assert most > 0.9


# --- what they see and what they do not -------------------------------------------------------------------------------


def test_mean_cosine_takes_a_plane_for_isotropic_and_a_shifted_gaussian_for_collapsed() -> None:
    angle = torch.arange(64) * 2 * math.pi / 64
    plane = torch.zeros(64, 100)
    plane[:, 0], plane[:, 1] = angle.cos(), angle.sin()
    gaussian = torch.randn(64, 100, generator=torch.Generator().manual_seed(0))
    assert abs(mean_cosine(plane)) < 0.02
    assert mean_cosine(gaussian + 30) > 0.99
    assert abs(mean_cosine(gaussian + 30, centred=True)) < 0.02


@pytest.mark.parametrize("measure", [mean_cosine, centred_mean_cosine, drift_ratio, partition_ratio])
def test_rotation_changes_nothing(measure: Measure) -> None:
    points = cloud(10, 4)
    rotation = torch.linalg.qr(cloud(4, 4, seed=5)).Q
    assert measure(points @ rotation).item() == pytest.approx(measure(points).item(), abs=1e-12)


def test_outlier_share_depends_on_the_coordinates() -> None:
    points = torch.diag(torch.tensor([10.0] + [1.0] * 7))
    rotation = torch.full((8, 8), -0.25) + torch.eye(8)  # a reflection
    assert outlier_dimension_share(points) > 0.9
    assert outlier_dimension_share(points @ rotation) < outlier_dimension_share(points)


@pytest.mark.parametrize("measure", [centred_mean_cosine, outlier_share])
def test_translation_changes_nothing_for_centred_measures(measure: Measure) -> None:
    points = cloud(10, 4)
    assert measure(points + 7).item() == pytest.approx(measure(points).item(), abs=1e-12)


@pytest.mark.parametrize("measure", [mean_cosine, drift_ratio, outlier_size_share, partition_ratio])
def test_translation_changes_the_others(measure: Measure) -> None:
    points = cloud(10, 4)
    assert abs(measure(points + 7) - measure(points)) > 0.01


@every_measure
def test_order_of_points_does_not_matter(measure: Measure) -> None:
    points = cloud(10, 4)
    shuffled = points[torch.randperm(10, generator=torch.Generator().manual_seed(0))]
    assert measure(shuffled).item() == pytest.approx(measure(points).item(), abs=1e-12)


def test_partition_ratio_depends_on_the_unit() -> None:
    points = cloud(10, 4)
    assert partition_ratio(points / 100) > 0.9 > 0.1 > partition_ratio(3 * points)


# --- masks, batches, types --------------------------------------------------------------------------------------------


@every_measure
def test_masked_batch_gives_what_the_real_points_give(measure: Measure) -> None:
    clouds = [cloud(6, 4, 1), cloud(3, 4, 2), cloud(1, 4, 3), cloud(5, 4, 4)]
    expected = torch.stack([measure(points) for points in clouds])
    padded = torch.full((4, 6, 4), math.nan, dtype=torch.float64)
    mask = torch.zeros(4, 6, dtype=torch.bool)
    for row, points in enumerate(clouds):
        place = torch.arange(6)[-len(points) :]  # the real points last, so that the first row is not real
        padded[row, place], mask[row, place] = points, True
    torch.testing.assert_close(measure(padded, mask=mask), expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(measure(clouds), expected, rtol=1e-12, atol=1e-14)
    grad = gradient(measure, padded, mask=mask)
    assert (grad[~mask] == 0).all()
    for row, points in enumerate(clouds):
        torch.testing.assert_close(grad[row, mask[row]], gradient(measure, points), rtol=1e-9, atol=1e-12)


@every_measure
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(measure: Measure, dtype: torch.dtype) -> None:
    points = cloud(9, 4).to(dtype)
    assert measure(points).dtype == torch.float32
    assert torch.equal(measure(points), measure(points.float()))


@every_measure
def test_float64_stays_and_autocast_changes_nothing(measure: Measure) -> None:
    points = cloud(9, 4)
    assert measure(points).dtype == torch.float64
    expected = measure(points.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(measure(points.float()), expected)


@pytest.mark.parametrize("factor", [1, 0.5, math.nan])
def test_factor_that_is_not_above_one_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="factor must be above 1 and finite; got"):
        outlier_dimension_share(torch.eye(3), factor=factor)


# --- derivatives ------------------------------------------------------------------------------------------------------


@every_measure
@pytest.mark.parametrize(("n", "d"), [(6, 3), (3, 6)])
def test_gradient_is_that_of_finite_differences(measure: Measure, n: int, d: int) -> None:
    assert torch.autograd.gradcheck(measure, (cloud(n, d).requires_grad_(),))


@pytest.mark.parametrize("measure", [mean_cosine, centred_mean_cosine, drift_ratio, outlier_share])
def test_second_derivative_is_that_of_finite_differences(measure: Measure) -> None:
    assert torch.autograd.gradgradcheck(measure, (cloud(6, 3).requires_grad_(),))


def test_partition_ratio_of_repeated_eigenvalues_has_a_finite_gradient() -> None:
    for points in (torch.eye(4), torch.cat([torch.eye(3), -torch.eye(3)]), torch.eye(5)[:2]):
        assert gradient(partition_ratio, points).isfinite().all()


# --- singular input ---------------------------------------------------------------------------------------------------

# Value of mean cosine, centred, drift, outlier share, of mean squares, partition ratio.
E2 = math.exp(-2)
SINGULAR: dict[str, tuple[Tensor, tuple[float, float, float, float, float, float]]] = {
    "one point": (torch.tensor([[0.6, 0.8]]), (0, 0, 1, 0, 0, E2)),
    "one coordinate, one point": (torch.tensor([[1.0]]), (0, 0, 1, 0, 0, E2)),
    "the origin": (torch.zeros(1, 3), (0, 0, 0, 0, 0, 1)),
    "all at the origin": (torch.zeros(4, 3), (0, 0, 0, 0, 0, 1)),
    "coincident points": (torch.tensor([[0.6, 0.8]] * 3), (1, 0, 1, 0, 0, E2)),
    "two opposite points": (torch.tensor([[0.6, 0.8], [-0.6, -0.8]]), (-1, -1, 0, 0, 0, 1 / math.cosh(1))),
    # One pair of three has a cosine, 1. Centred, (1, -1/2, -1/2) / 3 has cosines -1, -1, 1.
    "zero vector between": (
        torch.tensor([[0.0], [1.0], [1.0]]),
        (1 / 3, -1 / 3, 1, 0, 0, (1 + 2 / math.e) / (1 + 2 * math.e)),
    ),
}


@pytest.mark.parametrize(("points", "expected"), SINGULAR.values(), ids=SINGULAR)
def test_singular_cloud_has_its_documented_values_and_finite_gradients(
    points: Tensor, expected: tuple[float, ...]
) -> None:
    for (measure, _), value in zip(MEASURES.values(), expected, strict=True):
        assert measure(points).item() == pytest.approx(value, abs=1e-6)
        assert gradient(measure, points).isfinite().all()


@every_measure
def test_gradient_of_a_cloud_at_the_origin_is_zero(measure: Measure) -> None:
    assert (gradient(measure, torch.zeros(4, 3)) == 0).all()


def test_zero_vector_has_gradient_zero_and_leaves_the_others_theirs() -> None:
    points = cloud(5, 3, shift=0)
    points[0] = 0
    grad = gradient(mean_cosine, points)
    assert (grad[0] == 0).all()
    rest = points[1:].requires_grad_()  # a sum over 5 * 4 pairs, of which 4 * 3 are of points that have a direction
    (expected,) = torch.autograd.grad(12 / 20 * mean_cosine(rest), rest)
    torch.testing.assert_close(grad[1:], expected)
