"""SIGReg: the statistic, lightly's, its null value, slices and their randomness, masks, labels, derivatives, collapse."""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from simplicial_reg.regularizers.sliced import SIGRegLoss, random_slices, sigreg
from tests.programs import leave_together

FROZEN = json.loads((Path(__file__).parent / "frozen" / "pairwise.json").read_text())


def plain_sigreg(x: np.ndarray, slices: np.ndarray, knots: int = 17) -> float:
    """The trapezoidal rule on all of [-3, 3], without use of symmetry."""
    t = np.linspace(-3, 3, 2 * knots - 1)
    normal = np.exp(-(t**2) / 2)
    values = []
    for slope in slices.T:
        empirical = np.mean([np.exp(1j * t * (slope @ point)) for point in x], axis=0)
        integrand = np.abs(empirical - normal) ** 2 * normal
        values.append(
            len(x) * sum((integrand[k] + integrand[k + 1]) / 2 * (t[k + 1] - t[k]) for k in range(len(t) - 1))
        )
    return float(np.mean(values))


def weights(knots: int) -> tuple[np.ndarray, np.ndarray]:
    """Knots on [-3, 3] and what the integrand without the error is multiplied by."""
    t = np.linspace(-3, 3, 2 * knots - 1)
    step = np.full_like(t, 3 / (knots - 1))
    step[[0, -1]] /= 2
    return t, step * np.exp(-(t**2) / 2)


def cloud(n: int, d: int, seed: int = 0, shift: float = 0.2) -> Tensor:
    return 1.3 * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def slices_of(d: int, number: int = 10, seed: int = 3) -> Tensor:
    return random_slices(d, number, seed=seed, dtype=torch.float64)


def gradient(loss: Callable[..., Tensor], points: Tensor, **arguments: Any) -> Tensor:
    points = points.detach().requires_grad_()
    (grad,) = torch.autograd.grad(loss(points, **arguments), points)
    return grad


# --- the statistic ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 3), (2, 3), (9, 2), (4, 12)])
@pytest.mark.parametrize("knots", [2, 3, 17, 40])
def test_statistic_is_its_definition(n: int, d: int, knots: int) -> None:
    points, slices = cloud(n, d), slices_of(d)
    expected = plain_sigreg(points.numpy(), slices.numpy(), knots)
    assert sigreg(points, slices, knots=knots).item() == pytest.approx(expected, rel=1e-11)


def test_seventeen_knots_are_close_to_the_integral() -> None:
    points, slices = cloud(8, 3).numpy(), slices_of(3, 4).numpy()
    expected = []
    for slope in slices.T:

        def integrand(t: float, y: np.ndarray = points @ slope) -> float:
            normal = math.exp(-t * t / 2)
            return abs(np.exp(1j * t * y).mean() - normal) ** 2 * normal

        expected.append(8 * quad(integrand, -3, 3)[0])
    found = sigreg(torch.from_numpy(points), torch.from_numpy(slices)).item()
    assert found == pytest.approx(np.mean(expected), rel=0.01)


@pytest.mark.parametrize("knots", [17, 5])
@pytest.mark.parametrize("case", FROZEN["cases"], ids=lambda case: f"{case['cloud']['n']} x {case['cloud']['d']}")
def test_statistic_is_that_of_lightly(case: dict[str, Any], knots: int) -> None:
    recipe, frozen = case["cloud"], case[f"sigreg, {knots} knots"]
    normal = np.random.default_rng(recipe["seed"]).standard_normal((recipe["n"], recipe["d"]))
    points = torch.from_numpy(normal * recipe["scale"] + recipe["shift"])
    normal = np.random.default_rng(FROZEN["slices"]["seed"]).standard_normal((recipe["d"], FROZEN["slices"]["number"]))
    slices = torch.from_numpy(normal / np.sqrt((normal**2).sum(0)))
    # lightly keeps the window in float32.
    assert sigreg(points, slices, knots=knots).item() == pytest.approx(frozen["value"], rel=1e-6)
    expected = torch.tensor(frozen["gradient"], dtype=torch.float64)
    found = gradient(lambda points: sigreg(points, slices, knots=knots), points)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("n", [5, 50])
def test_expectation_for_independent_standard_normal_points_does_not_depend_on_their_number(n: int) -> None:
    points = torch.randn(4000, n, 3, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    t, weight = weights(17)
    expected = (weight * (1 - np.exp(-(t**2)))).sum()
    values = sigreg(points, slices_of(3))
    assert abs(values.mean().item() - expected) < 4 * values.std().item() / math.sqrt(4000)


def test_statistic_falls_as_a_cloud_comes_closer_to_an_isotropic_gaussian() -> None:
    gaussian = torch.randn(500, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss = SIGRegLoss(slices=64)
    stretch = torch.tensor([2.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    for other in (gaussian + 1, 2 * gaussian, 0.5 * gaussian, stretch * gaussian, gaussian.sign()):
        assert loss(other) > 2 * loss(gaussian)


@pytest.mark.parametrize("x", [0.0, 0.7, 30.0])
def test_collapse_is_worse_the_more_points_collapse(x: float) -> None:
    point = torch.full((1, 3), x, dtype=torch.float64)
    single = sigreg(point, slices_of(3))
    assert sigreg(point.expand(8, 3), slices_of(3)).item() == pytest.approx(8 * single.item())
    t, weight = weights(17)
    assert sigreg(point.expand(8, 3), slices_of(3)) <= 8 * (weight * (1 + np.exp(-(t**2) / 2)) ** 2).sum()
    assert sigreg(point.expand(8, 3), slices_of(3)) >= 8 * (weight * (1 - np.exp(-(t**2) / 2)) ** 2).sum()


def test_cloud_at_the_origin_has_gradient_zero_and_any_other_point_does_not() -> None:
    assert (gradient(SIGRegLoss(slices=8), torch.zeros(4, 3)) == 0).all()
    grad = gradient(SIGRegLoss(slices=8), torch.full((4, 3), 0.1))
    assert (grad > 0).all()  # towards the origin, where the mean belongs


def test_order_of_points_does_not_matter_and_rotation_turns_the_slices() -> None:
    points, slices = cloud(8, 4), slices_of(4)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    rotation = torch.linalg.qr(cloud(4, 4, seed=5)).Q
    expected = sigreg(points, slices).item()
    assert sigreg(points[order], slices).item() == pytest.approx(expected, rel=1e-12)
    assert sigreg(points @ rotation, rotation.mT @ slices).item() == pytest.approx(expected, rel=1e-12)
    assert sigreg(points @ rotation, slices).item() != pytest.approx(expected, rel=1e-6)


# --- derivatives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("knots", [2, 17])
def test_derivatives_are_those_of_finite_differences(knots: int) -> None:
    points, slices = cloud(4, 3).requires_grad_(), slices_of(3, 3)
    assert torch.autograd.gradcheck(lambda points: sigreg(points, slices, knots=knots), (points,))
    assert torch.autograd.gradgradcheck(lambda points: sigreg(points, slices, knots=knots), (points,))


def test_derivative_of_a_masked_batch_is_that_of_finite_differences() -> None:
    points = torch.stack([cloud(4, 3, 1), cloud(4, 3, 2)]).requires_grad_()
    mask = torch.tensor([[True, True, False, True], [False, True, False, True]])
    assert torch.autograd.gradcheck(lambda points: sigreg(points, slices_of(3, 3), mask=mask), (points,))


def test_memory_kept_for_the_derivative_does_not_grow_with_the_knots() -> None:
    def kept(knots: int) -> int:
        sizes: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            sigreg(cloud(50, 3).requires_grad_(), slices_of(3, 8), knots=knots)
        return sum(sizes)

    # Points times slices is 400; what is kept for each knot is a number for each slice only.
    assert kept(33) - kept(17) < 16 * 50


def test_derivative_by_function_transforms_is_that_of_autograd() -> None:
    batch, slices = torch.stack([cloud(5, 3, 1), cloud(5, 3, 2)]), slices_of(3)
    found = torch.func.vmap(torch.func.grad(lambda points: sigreg(points, slices)))(batch)
    expected = torch.stack([gradient(lambda points: sigreg(points, slices), points) for points in batch])
    torch.testing.assert_close(found, expected)


# --- slices and randomness --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 384])
def test_slices_are_unit_vectors_and_the_same_in_both_types(d: int) -> None:
    double = random_slices(d, 100, seed=1, dtype=torch.float64)
    assert double.shape == (d, 100)
    torch.testing.assert_close(double.square().sum(0), torch.ones(100, dtype=torch.float64))
    torch.testing.assert_close(random_slices(d, 100, seed=1), double.float())
    assert not torch.equal(random_slices(d, 100, seed=2).sign(), random_slices(d, 100, seed=1).sign())


def test_slices_are_spread_evenly_over_directions() -> None:
    slices = random_slices(4, 20_000, seed=0, dtype=torch.float64)
    assert slices.mean(1).abs().max() < 4 * math.sqrt(1 / 4 / 20_000)
    torch.testing.assert_close(slices @ slices.mT / 20_000, torch.eye(4, dtype=torch.float64) / 4, rtol=0, atol=0.01)


def test_loss_is_the_statistic_over_the_slices_of_its_seed() -> None:
    points = cloud(6, 4)
    for seed in (0, 5):
        expected = sigreg(points, random_slices(4, 32, seed=seed, dtype=torch.float64), knots=9)
        assert torch.equal(SIGRegLoss(slices=32, knots=9, seed=seed)(points), expected)


def test_calls_agree_without_a_generator_and_leave_the_global_random_state_alone() -> None:
    points, loss, before = cloud(6, 4), SIGRegLoss(slices=16), torch.get_rng_state()
    assert torch.equal(loss(points), loss(points))
    SIGRegLoss(slices=16, generator=torch.Generator())(points)
    assert torch.equal(torch.get_rng_state(), before)


def test_calls_differ_with_a_generator_and_repeat_with_its_state() -> None:
    points, generator = cloud(6, 4), torch.Generator().manual_seed(0)
    loss, state = SIGRegLoss(slices=16, generator=generator), generator.get_state()
    first, second = loss(points), loss(points)
    assert first != second
    generator.set_state(state)
    assert torch.equal(loss(points), first)
    assert torch.equal(loss(points), second)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss))], ids=["deepcopy", "pickle"]
)
def test_copy_goes_on_from_the_state_of_the_generator_by_itself(copied: Callable[[SIGRegLoss], SIGRegLoss]) -> None:
    points, loss = cloud(6, 4), SIGRegLoss(slices=16, generator=torch.Generator().manual_seed(0))
    loss(points)
    other = copied(loss)
    assert isinstance(loss.generator, torch.Generator)
    expected = loss(points), loss(points)
    assert torch.equal(other(points), expected[0])
    assert torch.equal(other(points), expected[1])
    assert repr(copied(SIGRegLoss(seed=4))) == repr(SIGRegLoss(seed=4))


def test_state_dict_is_empty_and_loads() -> None:
    loss = SIGRegLoss(generator=torch.Generator())
    buffer = io.BytesIO()
    torch.save(loss.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer)
    assert dict(state) == {}
    SIGRegLoss().load_state_dict(state)


def of_one_rank(rank: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    loss = SIGRegLoss(slices=8, generator=torch.Generator().manual_seed(rank))
    values = [loss(cloud(6, 4)).item(), loss(cloud(6, 4)).item()]
    Path(folder, f"{rank}.json").write_text(json.dumps(values))
    leave_together()


def test_ranks_use_the_slices_of_the_first(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(of_one_rank, (str(tmp_path),), nprocs=2)
    values = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    loss = SIGRegLoss(slices=8, generator=torch.Generator().manual_seed(0))
    assert values[0] == values[1] == [loss(cloud(6, 4)).item(), loss(cloud(6, 4)).item()]


# --- masks, batches, labels, types ------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [SIGRegLoss(slices=16), SIGRegLoss(slices=16, knots=5, seed=1)])
def test_masked_batch_is_the_mean_over_its_clouds_and_masked_points_have_no_part(loss: SIGRegLoss) -> None:
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


def test_loss_per_label_is_the_mean_over_labels() -> None:
    points, labels = cloud(9, 4), torch.tensor([2, 0, 2, 2, 0, 7, 0, 2, 0])
    expected = torch.stack([SIGRegLoss()(points[labels == label]) for label in (0, 2, 7)]).mean()
    torch.testing.assert_close(SIGRegLoss(per_label=True)(points, labels=labels), expected)


def test_half_precision_is_computed_in_float32_and_float64_stays() -> None:
    loss, points = SIGRegLoss(slices=32), cloud(9, 4)
    half = points.bfloat16()
    assert loss(half).dtype == torch.float32
    assert torch.equal(loss(half), loss(half.float()))
    assert gradient(loss, half).dtype == torch.bfloat16
    assert loss(points).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(points.float())
    assert torch.equal(inside, loss(points.float()))


def test_float32_agrees_with_float64() -> None:
    loss, points = SIGRegLoss(), cloud(40, 16).float()
    torch.testing.assert_close(loss(points), loss(points.double()).float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient(loss, points), gradient(loss, points.double()).float(), rtol=1e-3, atol=1e-6)


# --- bad arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SIGRegLoss(slices=0), ValueError, "slices must be at least 1; got 0"),
        (lambda: SIGRegLoss(slices=2.0), TypeError, "slices must be an int; got float"),
        (lambda: SIGRegLoss(knots=1), ValueError, "knots must be at least 2; got 1"),
        (lambda: SIGRegLoss(seed=-1), ValueError, "seed must be at least 0; got -1"),
        (lambda: SIGRegLoss(seed=True), TypeError, "seed must be an int; got bool"),
        (lambda: SIGRegLoss(generator=3), TypeError, "generator must be a torch.Generator or None; got int"),
        (lambda: sigreg(torch.eye(3), torch.eye(2)), ValueError, r"slices must be a tensor \(3, m\).*got \(2, 2\)"),
        (lambda: sigreg(torch.eye(3), torch.ones(3)), ValueError, r"slices must be a tensor \(3, m\).*got \(3,\)"),
        (lambda: sigreg(torch.eye(3), None), ValueError, r"slices must be a tensor \(3, m\).*got NoneType"),
        (lambda: sigreg(torch.eye(3), torch.eye(3), knots=1), ValueError, "knots must be at least 2; got 1"),
    ],
)
def test_bad_argument_is_refused_by_name(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
