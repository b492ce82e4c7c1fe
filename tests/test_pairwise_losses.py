"""Losses of pairs of directions: definitions, authors' code, collapse, singular input, masks, labels, derivatives."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from simplicial_reg.regularizers import Regularizer
from simplicial_reg.regularizers.pairwise import CosineLoss, KoLeoLoss, OrthogonalityLoss, SimCTGLoss, UniformityLoss

FROZEN = json.loads((Path(__file__).parent / "frozen" / "pairwise.json").read_text())


# --- the definitions, written out -------------------------------------------------------------------------------------


def unit(x: np.ndarray) -> np.ndarray:
    return np.array([row / np.linalg.norm(row) for row in x])


def off_diagonal(x: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    u = unit(x)
    return [(u[i], u[j]) for i in range(len(u)) for j in range(len(u)) if i != j]


def plain_cosine(x: np.ndarray, published: bool = False) -> float:
    total = sum(a @ b for a, b in off_diagonal(x))
    return float(total / (len(x) ** 2 if published else len(x) * (len(x) - 1)))


def plain_uniformity(x: np.ndarray, t: float) -> float:
    return math.log(np.mean([math.exp(-t * np.linalg.norm(a - b) ** 2) for a, b in off_diagonal(x)]))


def plain_koleo(x: np.ndarray, eps: float) -> float:
    u = unit(x)
    nearest = [min(np.linalg.norm(u[i] - u[j]) for j in range(len(u)) if j != i) for i in range(len(u))]
    return float(-np.mean(np.log(np.array(nearest) + eps)))


def plain_simctg(x: np.ndarray, margin: float) -> float:
    return float(np.mean([max(0.0, margin - a @ a + a @ b) for a, b in off_diagonal(x)]))


def plain_orthogonality(x: np.ndarray, first: float, second: float) -> float:
    cosines = np.array([a @ b for a, b in off_diagonal(x)])
    return float(first * cosines.mean() ** 2 + second * max(0.0, (cosines**2).mean() - 1 / x.shape[1]))


CASES: dict[str, tuple[Regularizer, Callable[[np.ndarray], float]]] = {
    "cosine": (CosineLoss(), plain_cosine),
    "cosine over n²": (CosineLoss(normalizer="published"), lambda x: plain_cosine(x, published=True)),
    "uniformity": (UniformityLoss(), lambda x: plain_uniformity(x, 2)),
    "uniformity, t = 5": (UniformityLoss(t=5), lambda x: plain_uniformity(x, 5)),
    "koleo": (KoLeoLoss(), lambda x: plain_koleo(x, 1e-8)),
    "koleo, eps = 0.1": (KoLeoLoss(eps=0.1), lambda x: plain_koleo(x, 0.1)),
    "simctg": (SimCTGLoss(), lambda x: plain_simctg(x, 0.5)),
    "simctg, margin = 0.9": (SimCTGLoss(margin=0.9), lambda x: plain_simctg(x, 0.9)),
    "orthogonality": (OrthogonalityLoss(), lambda x: plain_orthogonality(x, 1, 1)),
    "orthogonality, weights": (
        OrthogonalityLoss(mean_weight=0.3, second_moment_weight=2),
        lambda x: plain_orthogonality(x, 0.3, 2),
    ),
}
every_loss = pytest.mark.parametrize("loss", [loss for loss, _ in CASES.values()], ids=CASES)
every_definition = pytest.mark.parametrize(("loss", "definition"), CASES.values(), ids=CASES)
LOSSES: list[type[Regularizer]] = [CosineLoss, UniformityLoss, KoLeoLoss, SimCTGLoss, OrthogonalityLoss]
every_class = pytest.mark.parametrize("loss", [kind() for kind in LOSSES], ids=lambda loss: type(loss).__name__)

# The value of a cloud that lies in one direction, in d coordinates, and of one that is all at the origin, with the defaults.
WORST: dict[type[Regularizer], Callable[[int], float]] = {
    CosineLoss: lambda d: 1.0,
    UniformityLoss: lambda d: 0.0,
    KoLeoLoss: lambda d: -math.log(1e-8),
    SimCTGLoss: lambda d: 0.5,
    OrthogonalityLoss: lambda d: 2 - 1 / d,
}
AT_THE_ORIGIN = {
    CosineLoss: 0.0,
    UniformityLoss: 0.0,
    KoLeoLoss: -math.log(1e-8),
    SimCTGLoss: 0.5,
    OrthogonalityLoss: 0.0,
}


def cloud(n: int, d: int, seed: int = 0, shift: float = 0.4) -> Tensor:
    """Gaussian points off the origin: cosines of both signs and on both sides of every margin here."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def gradient(loss: Regularizer, points: Tensor, **arguments: Any) -> Tensor:
    points = points.detach().requires_grad_()
    (grad,) = torch.autograd.grad(loss(points, **arguments), points)
    return grad


# --- values -----------------------------------------------------------------------------------------------------------


@every_definition
@pytest.mark.parametrize(("n", "d"), [(2, 3), (5, 3), (3, 5), (30, 6), (6, 30)])
def test_loss_is_its_definition(loss: Regularizer, definition: Callable[[np.ndarray], float], n: int, d: int) -> None:
    for seed in range(3):
        points = cloud(n, d, seed)
        assert loss(points).item() == pytest.approx(definition(points.numpy()), abs=1e-12)


def test_losses_of_a_regular_simplex_around_the_origin_are_known() -> None:
    points = torch.eye(5, dtype=torch.float64) - 1 / 5  # cosines -1/4, squared distances 5/2 on the sphere
    assert CosineLoss()(points).item() == pytest.approx(-1 / 4)
    assert CosineLoss(normalizer="published")(points).item() == pytest.approx(-1 / 5)
    assert UniformityLoss(t=3)(points).item() == pytest.approx(-7.5)
    assert KoLeoLoss()(points).item() == pytest.approx(-math.log(2.5) / 2)
    assert SimCTGLoss()(points) == 0
    assert SimCTGLoss(margin=2)(points).item() == pytest.approx(3 / 4)
    assert OrthogonalityLoss()(points).item() == pytest.approx(1 / 16)  # and 1/16 < 1/5


def test_uniformity_does_not_underflow_for_a_steep_potential() -> None:
    points = torch.eye(3)
    assert UniformityLoss(t=200)(points).item() == pytest.approx(-400)  # exp(-400) is zero in float32
    assert gradient(UniformityLoss(t=200), points).isfinite().all()


def test_koleo_takes_the_first_of_several_nearest_neighbours() -> None:
    points = torch.eye(3, dtype=torch.float64)  # the nearest of 0 is 1, of 1 and 2 it is 0
    grad = gradient(KoLeoLoss(), points)
    expected = torch.zeros(3, 3, dtype=torch.float64)
    for i, j in [(0, 1), (1, 0), (2, 0)]:
        u, v = points[i], points[j]
        for at, away in [(i, u - v), (j, v - u)]:
            tangent = away - (away @ points[at]) * points[at]
            expected[at] -= tangent / 2 / 3  # of log |u - v|, that is (u - v) / |u - v|²
    torch.testing.assert_close(grad, expected, rtol=1e-6, atol=1e-8)


def test_simctg_of_sequences_of_one_length_is_the_mean_over_all_their_pairs() -> None:
    batch = torch.stack([cloud(6, 4, seed) for seed in range(3)])
    cosine = torch.nn.functional.cosine_similarity(batch[:, :, None], batch[:, None], dim=-1)
    kept = ~torch.eye(6, dtype=torch.bool).expand(3, 6, 6)
    assert SimCTGLoss()(batch).item() == pytest.approx((0.5 - 1 + cosine[kept]).relu().mean().item())


# --- authors' and other libraries' code -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", FROZEN["cases"], ids=lambda case: f"{case['cloud']['n']} x {case['cloud']['d']}")
def test_koleo_is_that_of_lightly(case: dict[str, Any]) -> None:
    recipe = case["cloud"]
    normal = np.random.default_rng(recipe["seed"]).standard_normal((recipe["n"], recipe["d"]))
    points = torch.from_numpy(normal * recipe["scale"] + recipe["shift"])
    # lightly adds 1e-8 to each coordinate of a difference.
    assert KoLeoLoss()(points).item() == pytest.approx(case["koleo"]["value"], abs=1e-7)
    expected = torch.tensor(case["koleo"]["gradient"], dtype=torch.float64)
    torch.testing.assert_close(gradient(KoLeoLoss(), points), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("n", "d"), [(1, 4), (2, 4), (9, 4), (4, 9), (32, 32)])
@pytest.mark.parametrize(("first", "second"), [(1.0, 1.0), (0.0, 1.0), (0.5, 0.0)])
def test_orthogonality_is_that_of_sentence_transformers(n: int, d: int, first: float, second: float) -> None:
    pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.losses import GlobalOrthogonalRegularizationLoss

    theirs = GlobalOrthogonalRegularizationLoss(model=None, mean_weight=first, second_moment_weight=second)
    ours = OrthogonalityLoss(mean_weight=first, second_moment_weight=second)
    columns = [cloud(n, d, 1).requires_grad_(), cloud(n, d, 2).requires_grad_()]
    expected = sum(theirs.compute_loss_from_embeddings(columns).values())
    found = ours(torch.stack(columns))  # the mean over columns, their default aggregation
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
    for grad, wanted in zip(torch.autograd.grad(found, columns), torch.autograd.grad(expected, columns), strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-9, atol=1e-13)


# --- collapse and other singular clouds -------------------------------------------------------------------------------


@every_class
@pytest.mark.parametrize("n", [2, 3, 20])
def test_one_direction_is_the_worst_value(loss: Regularizer, n: int) -> None:
    direction = torch.tensor([0.6, 0.8, 0.0], dtype=torch.float64)
    lengths = torch.arange(1, n + 1, dtype=torch.float64).unsqueeze(1)
    worst = WORST[type(loss)](3)
    assert loss(direction.expand(n, 3)).item() == pytest.approx(worst, abs=1e-6)
    assert loss(lengths * direction).item() == pytest.approx(worst, abs=1e-6)
    for seed in range(5):
        assert loss(cloud(n, 3, seed)) < worst
    assert gradient(loss, direction.expand(n, 3)).abs().max() < 1e-6


@every_class
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_cloud_at_the_origin_has_its_documented_value_and_gradient_zero(loss: Regularizer, dtype: torch.dtype) -> None:
    points = torch.zeros(4, 3, dtype=dtype)
    assert loss(points).item() == pytest.approx(AT_THE_ORIGIN[type(loss)], abs=1e-6)
    assert (gradient(loss, points) == 0).all()


@every_loss
def test_one_point_is_no_loss(loss: Regularizer) -> None:
    for points in (cloud(1, 3), torch.zeros(1, 1)):
        assert loss(points) == 0
        assert (gradient(loss, points) == 0).all()


@every_loss
def test_zero_vector_among_others_has_gradient_zero(loss: Regularizer) -> None:
    points = cloud(6, 3)
    points[2] = 0
    grad = gradient(loss, points)
    assert (grad[2] == 0).all()
    assert grad.isfinite().all()
    assert grad.abs().sum() > 0


@every_class
def test_zero_vector_is_in_the_middle_of_the_sphere(loss: Regularizer) -> None:
    points = torch.tensor([[3.0, 0.0], [0.0, 0.0]])  # cosine 0, own cosine 0, distance 1
    expected = {CosineLoss: 0, UniformityLoss: -2, KoLeoLoss: 0, SimCTGLoss: 0.25, OrthogonalityLoss: 0}
    assert loss(points).item() == pytest.approx(expected[type(loss)], abs=1e-6)  # SimCTG: relu(-1/2) and relu(1/2)


def test_orthogonality_counts_pairs_with_a_zero_vector_as_cosine_zero() -> None:
    points = torch.tensor([[1.0, 0.0, 0.0]] * 3 + [[0.0, 0.0, 0.0]])  # 3 pairs of 6 have cosine 1, the others 0
    assert OrthogonalityLoss()(points).item() == pytest.approx(1 / 4 + 1 / 2 - 1 / 3)


@every_loss
def test_duplicates_have_finite_gradients_that_agree(loss: Regularizer) -> None:
    points = cloud(5, 3)
    points = torch.cat([points, points[:2]])
    grad = gradient(loss, points)
    assert grad.isfinite().all()
    if not isinstance(loss, KoLeoLoss):  # of equally near neighbours one is taken, so copies need not be treated alike
        torch.testing.assert_close(grad[:2], grad[5:])


def test_koleo_of_duplicates_is_minus_log_eps_with_gradient_zero() -> None:
    points = cloud(2, 3).repeat(2, 1)
    assert KoLeoLoss(eps=1e-3)(points).item() == pytest.approx(-math.log(1e-3))
    assert (gradient(KoLeoLoss(eps=1e-3), points) == 0).all()


@every_loss
def test_opposite_points_in_one_coordinate_are_regular(loss: Regularizer) -> None:
    points = torch.tensor([[-2.0], [1.0]])
    assert loss(points).isfinite()
    assert gradient(loss, points).isfinite().all()


@every_loss
def test_derivative_at_a_generic_cloud_is_perpendicular_to_each_point(loss: Regularizer) -> None:
    points = cloud(7, 4)
    torch.testing.assert_close((points * gradient(loss, points)).sum(-1), torch.zeros(7, dtype=torch.float64))


# --- invariances ------------------------------------------------------------------------------------------------------


@every_loss
def test_scale_of_each_point_rotation_and_order_do_not_matter(loss: Regularizer) -> None:
    points = cloud(8, 4)
    lengths = torch.logspace(-20, 20, 8, dtype=torch.float64).unsqueeze(1)
    rotation = torch.linalg.qr(cloud(4, 4, seed=5)).Q
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    for other in (lengths * points, points @ rotation, points[order]):
        assert loss(other).item() == pytest.approx(loss(points).item(), abs=1e-10)


@every_loss
def test_translation_matters(loss: Regularizer) -> None:
    points = cloud(8, 4, shift=0)
    assert loss(points + 5) > loss(points) + 0.01


def test_mean_cosine_cannot_tell_a_line_through_the_origin_from_an_even_spread_but_the_others_can() -> None:
    line = torch.tensor([[1.0, 0.0], [-1.0, 0.0]] * 8)
    even = torch.tensor([[math.cos(a), math.sin(a)] for a in np.arange(16) * math.pi / 8])
    assert CosineLoss()(line).item() == pytest.approx(CosineLoss()(even).item(), abs=1e-6)
    for loss in (UniformityLoss(), KoLeoLoss(), SimCTGLoss(), OrthogonalityLoss()):
        assert loss(line) > loss(even) + 0.01


# --- masks, batches, labels, types ------------------------------------------------------------------------------------


@every_loss
def test_masked_batch_is_the_mean_over_its_clouds_and_masked_points_have_no_part(loss: Regularizer) -> None:
    clouds = [cloud(6, 4, 1), cloud(3, 4, 2), cloud(1, 4, 3), cloud(5, 4, 4)]
    expected = torch.stack([loss(points) for points in clouds]).mean()
    padded = torch.full((4, 6, 4), math.nan, dtype=torch.float64)
    mask = torch.zeros(4, 6, dtype=torch.bool)
    for row, points in enumerate(clouds):
        place = torch.arange(6)[-len(points) :]
        padded[row, place], mask[row, place] = points, True
    torch.testing.assert_close(loss(padded, mask=mask), expected)
    torch.testing.assert_close(loss(clouds), expected)
    grad = gradient(loss, padded, mask=mask)
    assert (grad[~mask] == 0).all()
    for row, points in enumerate(clouds):
        torch.testing.assert_close(grad[row, mask[row]], gradient(loss, points) / 4)


@pytest.mark.parametrize("kind", LOSSES)
def test_loss_per_label_is_the_mean_over_labels(kind: type[Regularizer]) -> None:
    points, labels = cloud(9, 4), torch.tensor([2, 0, 2, 2, 0, 7, 0, 2, 0])  # one label has one member
    expected = torch.stack([kind()(points[labels == label]) for label in (0, 2, 7)]).mean()
    torch.testing.assert_close(kind(per_label=True)(points, labels=labels), expected)


@every_loss
def test_half_precision_is_computed_in_float32_and_float64_stays(loss: Regularizer) -> None:
    points = cloud(9, 4)
    half = points.bfloat16()
    assert loss(half).dtype == torch.float32
    assert torch.equal(loss(half), loss(half.float()))
    assert gradient(loss, half).dtype == torch.bfloat16
    assert loss(points).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(points.float())
    assert torch.equal(inside, loss(points.float()))


@every_loss
def test_float32_agrees_with_float64(loss: Regularizer) -> None:
    points = cloud(40, 16).float()
    torch.testing.assert_close(loss(points), loss(points.double()).float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient(loss, points), gradient(loss, points.double()).float(), rtol=1e-3, atol=1e-6)


# --- derivatives ------------------------------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize(("n", "d"), [(5, 3), (3, 5)])
def test_derivatives_are_those_of_finite_differences(loss: Regularizer, n: int, d: int) -> None:
    points = cloud(n, d, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(loss, (points,))
    assert torch.autograd.gradgradcheck(loss, (points,))


@every_loss
def test_derivative_of_a_masked_batch_is_that_of_finite_differences(loss: Regularizer) -> None:
    points = torch.stack([cloud(5, 3, 1), cloud(5, 3, 2)]).requires_grad_()
    mask = torch.tensor([[True, True, False, True, True], [False, True, False, True, True]])
    assert torch.autograd.gradcheck(lambda points: loss(points, mask=mask), (points,))


# --- bad arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: CosineLoss(normalizer="n2"), ValueError, "normalizer must be one of 'pairs', 'published'; got 'n2'"),
        (lambda: UniformityLoss(t=0), ValueError, "t must be positive and finite; got 0"),
        (lambda: UniformityLoss(t="2"), TypeError, "t must be a number; got str"),
        (lambda: KoLeoLoss(eps=-1e-8), ValueError, "eps must be positive and finite; got -1e-08"),
        (lambda: KoLeoLoss(eps=math.nan), ValueError, "eps must be positive and finite; got nan"),
        (lambda: SimCTGLoss(margin=2.5), ValueError, r"margin must be in \[0, 2\]; got 2.5"),
        (lambda: OrthogonalityLoss(mean_weight=-1), ValueError, "mean_weight must be at least 0 and finite; got -1"),
        (lambda: OrthogonalityLoss(mean_weight=True), TypeError, "mean_weight must be a number; got bool"),
        (
            lambda: OrthogonalityLoss(mean_weight=0, second_moment_weight=0),
            ValueError,
            "mean_weight or second_moment_weight must be positive; got 0 for both",
        ),
    ],
)
def test_bad_argument_is_refused_by_name(make: Callable[[], Regularizer], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@every_loss
def test_arguments_make_the_same_loss_again(loss: Regularizer) -> None:
    again = type(loss)(**loss.arguments())
    assert repr(again) == repr(loss)
    points = cloud(6, 3)
    assert torch.equal(again(points), loss(points))
