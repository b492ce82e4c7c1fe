"""Losses of the covariance: definitions, other packages' numbers, collapse, masks, labels, the shrinkage covariance's life."""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from simplicial_reg.isotropy.moments import Moments
from simplicial_reg.isotropy.spectrum import effective_rank, isoscore, isoscore_star, rankme
from simplicial_reg.regularizers import Regularizer
from simplicial_reg.regularizers.covariance import DecorrelationLoss, IsoScoreStarLoss, SpectrumLoss, VICRegLoss
from tests.frozen.make_covariance_losses import points as frozen_points

FROZEN = json.loads((Path(__file__).parent / "frozen" / "covariance_losses.json").read_text())["cases"]


def cloud(n: int, d: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    random = np.random.default_rng(seed)
    return torch.tensor(0.6 * random.normal(size=(n, d)) @ (np.eye(d) + 0.3) + 2, dtype=dtype)


def shrunk(**arguments: Any) -> IsoScoreStarLoss:
    loss = IsoScoreStarLoss(shrinkage=0.3, **arguments)
    loss.update_covariance(cloud(50, seed=9))
    return loss


LOSSES: dict[str, Callable[..., Regularizer]] = {
    "isoscore": IsoScoreStarLoss,
    "isoscore, decrease": lambda **a: IsoScoreStarLoss(direction="decrease", **a),
    "isoscore, shrinkage": shrunk,
    "spectrum": SpectrumLoss,
    "spectrum, raw": lambda **a: SpectrumLoss(centred=False, **a),
    "vicreg": VICRegLoss,
    "decorrelation": DecorrelationLoss,
    "decorrelation, published": lambda **a: DecorrelationLoss(normalizer="published", **a),
}
every_loss = pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)
every_size = pytest.mark.parametrize("n", [2, 3, 4, 5, 30])  # d is 4


# --- definitions ----------------------------------------------------------------------------------------------------------------


def vicreg_by_definition(x: np.ndarray, variance: float, covariance: float, target: float, eps: float) -> float:
    n, d = x.shape
    s = [[sum((x[:, i] - x[:, i].mean()) * (x[:, j] - x[:, j].mean())) / (n - 1) for j in range(d)] for i in range(d)]
    hinge = sum(max(0.0, target - math.sqrt(s[i][i] + eps)) for i in range(d)) / d
    squares = sum(s[i][j] ** 2 for i in range(d) for j in range(d) if i != j)
    return variance / 2 * hinge + covariance * squares / d


@every_size
@pytest.mark.parametrize(("target", "eps"), [(1.0, 1e-4), (0.7, 0.01)])
def test_vicreg_is_its_formula(n: int, target: float, eps: float) -> None:
    points = cloud(n)
    expected = vicreg_by_definition(points.numpy(), 3.0, 2.0, target, eps)
    loss = VICRegLoss(variance=3, covariance=2, target=target, eps=eps)
    assert loss(points).item() == pytest.approx(expected, rel=1e-12)
    assert VICRegLoss()(points).item() == pytest.approx(vicreg_by_definition(points.numpy(), 25, 1, 1, 1e-4), rel=1e-12)


@every_size
def test_decorrelation_is_the_mean_squared_correlation_of_numpy(n: int) -> None:
    points = cloud(n)
    squares = np.corrcoef(points.numpy().T) ** 2
    total = squares.sum() - np.trace(squares)
    assert DecorrelationLoss()(points).item() == pytest.approx(total / 12, rel=1e-12)
    assert DecorrelationLoss(normalizer="published")(points).item() == pytest.approx(total, rel=1e-12)


@every_size
def test_spectrum_loss_is_the_log_of_the_largest_rank_over_the_effective_rank(n: int) -> None:
    points = cloud(n)
    assert SpectrumLoss()(points).item() == pytest.approx(math.log(min(n - 1, 4) / effective_rank(points)), abs=1e-12)
    raw = math.log(min(n, 4) / effective_rank(points, centred=False))
    assert SpectrumLoss(centred=False)(points).item() == pytest.approx(raw, abs=1e-12)
    assert raw == pytest.approx(math.log(min(n, 4) / rankme(points)), abs=1e-5)


@every_size
def test_isoscore_star_loss_is_one_less_the_score_and_decreasing_is_the_published_loss_of_negative_weight(
    n: int,
) -> None:
    points = cloud(n).requires_grad_()
    covariance = torch.tensor(np.cov(cloud(50, seed=9).numpy().T))
    score = isoscore_star(points, shrinkage=0.3, covariance=covariance)
    increase, decrease = shrunk()(points), shrunk(direction="decrease")(points)
    assert increase.item() == pytest.approx(1 - score.item(), abs=1e-14)
    assert decrease.item() == pytest.approx(score.item(), abs=1e-14)
    published = -5 * (1 - score)
    ours, theirs = (torch.autograd.grad(loss, points, retain_graph=True)[0] for loss in (5 * decrease, published))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("case", FROZEN, ids=lambda c: f"{c['loss']} {c['n']}x{c['d']}")
def test_vicreg_and_decorrelation_are_lightlys_losses_of_two_equal_views(case: dict[str, Any]) -> None:
    points = torch.tensor(frozen_points(case["n"], case["d"], case["seed"], case["scale"]), requires_grad=True)
    if case["loss"] == "vicreg":
        value = 2 * VICRegLoss()(points)
    else:
        value = DecorrelationLoss(normalizer="published")(points)
    value.backward()
    # lightly's Barlow Twins adds 1e-5 to variances of about 1e4.
    assert value.item() == pytest.approx(case["value"], rel=1e-8)
    gradient = torch.tensor(case["gradient"], dtype=torch.float64)
    torch.testing.assert_close(points.grad, gradient, rtol=1e-6, atol=1e-8 * gradient.abs().max().item() + 1e-10)


def test_decorrelation_of_a_gaussian_cloud_is_one_over_n_less_one_in_the_mean() -> None:
    points = torch.tensor(np.random.default_rng(0).normal(size=(3000, 9, 4)))
    assert DecorrelationLoss()(points).item() == pytest.approx(1 / 8, rel=0.03)


# --- the contract of all of them ------------------------------------------------------------------------------------------------


@every_loss
@every_size
def test_gradients_are_those_of_finite_differences(make: Callable[..., Regularizer], n: int) -> None:
    points = cloud(n).requires_grad_()
    assert gradcheck(make(), points, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in LOSSES if not name.startswith("spectrum")])
@every_size
def test_second_derivatives_are_those_of_finite_differences(name: str, n: int) -> None:
    assert gradgradcheck(LOSSES[name](), cloud(n).requires_grad_(), atol=1e-4)


@every_loss
def test_loss_of_a_masked_batch_is_the_mean_over_its_clouds(make: Callable[..., Regularizer]) -> None:
    loss = make()
    sizes = [1, 2, 3, 5, 9]
    points = torch.stack([cloud(9, seed=seed) for seed in range(len(sizes))])
    mask = torch.arange(8, -1, -1) < torch.tensor(sizes)[:, None]
    clouds = [points[at][mask[at]].requires_grad_() for at in range(len(sizes))]
    expected = torch.stack([loss(each) for each in clouds]).mean()
    points[~mask] = math.nan
    points.requires_grad_()
    found = loss(points, mask=mask)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    (gradient,) = torch.autograd.grad(found, points)
    torch.testing.assert_close(gradient[mask], torch.cat(torch.autograd.grad(expected, clouds)), rtol=1e-8, atol=1e-10)
    assert (gradient[~mask] == 0).all()
    torch.testing.assert_close(loss([each.detach() for each in clouds]), expected.detach(), rtol=1e-10, atol=1e-12)


@every_loss
def test_loss_per_label_is_the_mean_over_labels(make: Callable[..., Regularizer]) -> None:
    points, labels = cloud(12), torch.tensor([5, 0, 0, 5, 2, 0, 5, 5, 0, 5, 0, 5])  # one point has the label 2
    loss = make(per_label=True)
    expected = torch.stack([make()(points[labels == label]) for label in (0, 2, 5)]).mean()
    torch.testing.assert_close(loss(points, labels=labels), expected, rtol=1e-10, atol=1e-12)


COLLAPSED = {"all equal": torch.full((6, 4), 0.1), "one point": torch.ones(1, 4), "at the origin": torch.zeros(9, 4)}


@every_loss
@pytest.mark.parametrize("points", COLLAPSED.values(), ids=COLLAPSED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_collapse_has_a_finite_value_and_gradient(
    make: Callable[..., Regularizer], points: Tensor, dtype: torch.dtype
) -> None:
    points = points.to(dtype).clone().requires_grad_()
    value = make()(points)
    value.backward()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert value.isfinite()
    assert points.grad is not None
    assert points.grad.isfinite().all()
    if "raw" not in next(name for name, loss in LOSSES.items() if loss is make):
        assert (points.grad == 0).all()


def test_collapse_is_the_largest_value_where_it_should_be() -> None:
    collapsed = torch.full((6, 4), 0.1)
    assert IsoScoreStarLoss()(collapsed) == 1
    assert SpectrumLoss()(collapsed).item() == pytest.approx(math.log(4))
    assert SpectrumLoss(centred=False)(collapsed).item() == pytest.approx(math.log(4), abs=1e-4)
    assert DecorrelationLoss()(collapsed) == 1
    assert DecorrelationLoss(normalizer="published")(collapsed) == 12
    assert VICRegLoss(covariance=0)(collapsed).item() == pytest.approx(12.5 * 0.99)
    for seed in range(20):
        points = cloud(6, seed=seed, dtype=torch.float32)
        assert 0 <= IsoScoreStarLoss()(points) < 1
        assert 0 <= SpectrumLoss()(points) < math.log(4)
        assert 0 <= DecorrelationLoss()(points) < 1
        assert 0 <= VICRegLoss(covariance=0)(points) < 12.5 * 0.99


def test_decreasing_isotropy_and_shrinkage_do_not_see_collapse_as_the_docstring_says() -> None:
    assert IsoScoreStarLoss(direction="decrease")(torch.ones(5, 4)) == 0
    loss = shrunk()
    assert loss(torch.ones(5, 4)).item() == pytest.approx(1 - isoscore(cloud(50, seed=9)).item(), rel=1e-6)


def test_a_coordinate_without_variance_is_correlated_with_every_other_one() -> None:
    points = cloud(7)
    points[:, 1] = 3
    rest = points[:, [0, 2, 3]]
    expected = (6 * DecorrelationLoss()(rest) + 6) / 12  # 3 of the 6 pairs, counted twice
    assert DecorrelationLoss()(points).item() == pytest.approx(expected.item(), rel=1e-12)


def test_one_coordinate_has_no_pairs_and_one_singular_value() -> None:
    points = cloud(5, 1)
    assert DecorrelationLoss()(points) == 0
    assert SpectrumLoss()(points) == 0
    assert IsoScoreStarLoss()(points) == 0
    assert IsoScoreStarLoss()(points[:1]) == 1
    assert VICRegLoss(variance=0)(points) == 0


@every_loss
def test_singular_clouds_have_finite_gradients(make: Callable[..., Regularizer]) -> None:
    for points in (
        torch.eye(4),
        cloud(3).repeat(3, 1),
        torch.arange(5.0)[:, None] * torch.ones(4),
        torch.cat([torch.zeros(2, 4), cloud(3).float()]),
        cloud(5) * 1e-12,
        cloud(5) * 1e6 + 1e9,
    ):
        points = points.double().requires_grad_()
        value = make()(points)
        value.backward()
        assert value.isfinite()
        assert points.grad is not None
        assert points.grad.isfinite().all()


TURN = torch.linalg.qr(cloud(4, seed=3))[0]
INVARIANCES = {
    "isoscore": ("translation", "scale", "rotation"),
    "spectrum": ("translation", "scale", "rotation"),
    "spectrum, raw": ("scale", "rotation"),
    "isoscore, shrinkage": ("translation",),
    "vicreg": ("translation",),
    "decorrelation": ("translation", "scale"),
}
MOVED: dict[str, Callable[[Tensor], Tensor]] = {
    "translation": lambda points: points + torch.tensor([5.0, -3.0, 0.0, 1.0]),
    "scale": lambda points: points * 0.37,
    "rotation": lambda points: points @ TURN,
}


@pytest.mark.parametrize("name", INVARIANCES)
@pytest.mark.parametrize("move", MOVED)
@pytest.mark.parametrize("n", [3, 20])
def test_losses_are_invariant_to_what_the_docstring_says_and_to_nothing_else(name: str, move: str, n: int) -> None:
    loss, points = LOSSES[name](), cloud(n)
    same = loss(MOVED[move](points)).item() == pytest.approx(loss(points).item(), rel=1e-9)
    assert same == (move in INVARIANCES[name])
    assert loss(points.flip(0)).item() == pytest.approx(loss(points).item(), rel=1e-9)


def test_decorrelation_is_invariant_to_the_scale_of_each_coordinate() -> None:
    points = cloud(9)
    units = torch.tensor([1e-8, 1.0, 1e8, -3.0])
    assert DecorrelationLoss()(points * units).item() == pytest.approx(DecorrelationLoss()(points).item(), rel=1e-9)


@every_loss
@pytest.mark.parametrize("n", [3, 30])
def test_bfloat16_points_and_autocast_are_computed_in_float32(make: Callable[..., Regularizer], n: int) -> None:
    points = cloud(n).bfloat16()
    exact = make()(points.double()).item()
    assert make()(points).item() == pytest.approx(exact, rel=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert make()(points.float()).item() == pytest.approx(exact, rel=1e-4)


@every_loss
def test_losses_are_copied_pickled_and_show_their_arguments(make: Callable[..., Regularizer]) -> None:
    loss = make()
    points = cloud(6)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert other(points) == loss(points)
    for name, value in loss.arguments().items():
        assert f"{name}={value!r}" in repr(loss)
    torch.nn.Module.train(loss, False)
    assert loss(points) == make()(points)


@pytest.mark.parametrize("name", ["isoscore", "spectrum", "decorrelation"])
def test_descent_spreads_a_nearly_flat_cloud(name: str) -> None:
    points = (cloud(16) * torch.tensor([1.0, 0.5, 0.2, 0.1])).requires_grad_()
    loss, before = LOSSES[name](), isoscore(points).item()
    optimizer = torch.optim.Adam([points], 0.02)
    for _ in range(100):
        optimizer.zero_grad()
        loss(points).backward()
        optimizer.step()
    assert isoscore(points).item() > before + 0.1


# --- the shrinkage covariance ---------------------------------------------------------------------------------------------------


def test_update_covariance_takes_any_number_of_batches_and_reset_starts_afresh() -> None:
    points, parts = cloud(6), cloud(40, seed=1)
    loss = IsoScoreStarLoss(shrinkage=0.5)
    for part in parts.split(7):
        loss.update_covariance(part)
    expected = 1 - isoscore_star(points, shrinkage=0.5, covariance=torch.tensor(np.cov(parts.numpy().T)))
    assert loss(points).item() == pytest.approx(expected.item(), rel=1e-12)
    loss.reset_covariance()
    mask = torch.arange(40) < 9
    loss.update_covariance(torch.where(mask[:, None], parts, math.nan), mask)
    expected = 1 - isoscore_star(points, shrinkage=0.5, covariance=torch.tensor(np.cov(parts[:9].numpy().T)))
    assert loss(points).item() == pytest.approx(expected.item(), rel=1e-12)


def test_shrinkage_without_a_covariance_is_a_clear_error() -> None:
    with pytest.raises(
        RuntimeError, match=r"shrinkage=0.2 needs a covariance, and there is none yet; call update_covariance"
    ):
        IsoScoreStarLoss(shrinkage=0.2)(cloud(5))
    with pytest.raises(RuntimeError, match=r"shrinkage=0.2 needs a covariance"):
        IsoScoreStarLoss(shrinkage=0.2, decay=0.9).eval()(cloud(5))


def test_with_decay_the_first_step_uses_its_own_covariance_and_later_ones_the_average() -> None:
    loss = IsoScoreStarLoss(shrinkage=0.5, decay=0.9)
    moments = Moments()
    for seed in range(3):
        points = cloud(6, seed=seed).requires_grad_()
        moments.forget(0.9).update(points)
        value = loss(points)
        expected = 1 - isoscore_star(points, shrinkage=0.5, covariance=moments.covariance)
        assert value.item() == pytest.approx(expected.item(), rel=1e-12)
        ours, theirs = (torch.autograd.grad(each, points)[0] for each in (value, expected))
        torch.testing.assert_close(ours, theirs)
        if seed == 0:
            assert value.item() == pytest.approx(1 - isoscore(points).item(), rel=1e-12)


def test_evaluation_leaves_the_covariance_alone_and_training_moves_it() -> None:
    loss = IsoScoreStarLoss(shrinkage=0.5, decay=0.9)
    loss(cloud(6))
    loss.eval()
    state = copy.deepcopy(loss.state_dict())
    assert loss(cloud(6, seed=1)) == loss(cloud(6, seed=1))
    for name, value in loss.state_dict().items():
        assert torch.equal(value, state[name])
    loss.train()
    assert loss(cloud(6, seed=1)) != loss(cloud(6, seed=1))


def test_training_without_gradients_moves_the_covariance_as_training_with_them_does() -> None:
    watched, trained = (IsoScoreStarLoss(shrinkage=0.5, decay=0.9) for _ in range(2))
    for seed in range(3):
        with torch.no_grad() if seed == 1 else torch.inference_mode():
            watched(cloud(6, seed=seed))
        trained(cloud(6, seed=seed).requires_grad_())
    assert torch.equal(watched.moments.covariance, trained.moments.covariance)
    points = cloud(6).requires_grad_()
    watched(points).backward()  # what inference mode left behind can be trained with
    assert points.grad is not None
    assert points.grad.abs().max() > 0


def test_points_that_are_not_finite_do_not_stay_in_the_covariance() -> None:
    loss, unspoilt = (IsoScoreStarLoss(shrinkage=0.5, decay=0.9) for _ in range(2))
    for at, value in enumerate((math.nan, math.inf)):
        spoilt = cloud(6, seed=9)
        spoilt[2, 1] = value
        assert not loss(spoilt).isfinite()  # the first call of all is spoilt, and so is a later one
        assert loss(cloud(6, seed=at)) == unspoilt(cloud(6, seed=at))
        assert torch.equal(loss.moments.covariance, unspoilt.moments.covariance)


def test_with_decay_one_point_and_a_collapsed_batch_have_the_least_isotropic_value() -> None:
    for points in (cloud(1), torch.ones(5, 4)):
        loss = IsoScoreStarLoss(shrinkage=0.5, decay=0.9)
        points.requires_grad_()
        value = loss(points)
        assert value == 1
        value.backward()
        assert points.grad is not None
        assert (points.grad == 0).all()
        assert loss(cloud(6)).isfinite()


def test_per_label_the_shrinkage_covariance_is_that_of_all_points() -> None:
    points, labels = cloud(12), torch.tensor([4, 0, 0, 4, 4, 0, 9, 4, 0, 9, 9, 4])
    mask = torch.arange(12) != 5
    loss = IsoScoreStarLoss(shrinkage=0.5, decay=0.9, per_label=True)
    value = loss(torch.where(mask[:, None], points, math.nan), mask=mask, labels=labels)
    covariance = torch.tensor(np.cov(points[mask].numpy().T))
    torch.testing.assert_close(loss.moments.covariance, covariance)
    assert loss.moments.count == 11
    groups = [points[mask & (labels == label)] for label in (0, 4, 9)]
    wanted = [1 - isoscore_star(group, shrinkage=0.5, covariance=covariance).item() for group in groups]
    assert value.item() == pytest.approx(sum(wanted) / 3, rel=1e-12)


def test_two_calls_with_decay_can_be_differentiated_together() -> None:
    loss, points = IsoScoreStarLoss(shrinkage=0.5, decay=0.9), cloud(6).requires_grad_()
    (loss(points) + loss(points[:3])).backward()
    assert points.grad is not None


def test_without_shrinkage_nothing_is_counted() -> None:
    loss = IsoScoreStarLoss(decay=0.9)
    loss(cloud(6))
    assert loss.moments.width == 0


def test_covariance_is_saved_and_restored_into_a_loss_of_unknown_width(tmp_path: Path) -> None:
    from safetensors.torch import load_model, save_model

    loss, points = shrunk(), cloud(6)
    buffer = io.BytesIO()
    torch.save(loss.state_dict(), buffer)
    buffer.seek(0)
    fresh = nn.Sequential(IsoScoreStarLoss(shrinkage=0.3))
    fresh.load_state_dict({f"0.{name}": value for name, value in torch.load(buffer, weights_only=True).items()})
    assert fresh[0](points) == loss(points)
    save_model(loss, str(tmp_path / "loss.safetensors"))
    other = IsoScoreStarLoss(shrinkage=0.3)
    load_model(other, str(tmp_path / "loss.safetensors"))
    assert other(points) == loss(points)


def test_casting_the_loss_to_bfloat16_keeps_the_covariance() -> None:
    loss, points = shrunk(), cloud(6)
    expected = loss(points)
    assert nn.Sequential(loss).to(torch.bfloat16)[0](points) == expected
    assert nn.Sequential(loss).half()[0](points) == expected


def test_bad_arguments_have_clear_errors() -> None:
    with pytest.raises(ValueError, match="direction must be one of 'decrease', 'increase'; got 'up'"):
        IsoScoreStarLoss(direction="up")
    with pytest.raises(ValueError, match=r"shrinkage must be in \[0, 1\]; got -0.1"):
        IsoScoreStarLoss(shrinkage=-0.1)
    with pytest.raises(ValueError, match=r"decay must be None or in \[0, 1\]; got 1.5"):
        IsoScoreStarLoss(decay=1.5)
    with pytest.raises(ValueError, match="normalizer must be one of 'pairs', 'published'; got 'sum'"):
        DecorrelationLoss(normalizer="sum")
    with pytest.raises(ValueError, match="eps must be positive and finite; got 0"):
        VICRegLoss(eps=0)
    with pytest.raises(ValueError, match="target must be positive and finite; got inf"):
        VICRegLoss(target=math.inf)
    with pytest.raises(ValueError, match="variance must be at least 0 and finite; got -25"):
        VICRegLoss(variance=-25)
    with pytest.raises(TypeError, match="covariance must be a number; got Tensor"):
        VICRegLoss(covariance=torch.eye(2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="variance or covariance must be positive; got 0 for both"):
        VICRegLoss(variance=0, covariance=0)
    with pytest.raises(
        ValueError, match=r"covariance must have shape \(3, 3\) for points of 3 coordinates; got \(4, 4\)"
    ):
        shrunk()(cloud(5, 3))
