"""Weights: schedules, balanced gradients, resuming, and numbers that are none."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from simplicial_reg import entropy_deficit, rips_barcode
from simplicial_reg.training.memory import GradientCache
from simplicial_reg.training.weight import BalancedWeight, ScheduledWeight, Weight, make_weight, schedule

ONE = torch.tensor(1.0, dtype=torch.float64)


def course(weight: Weight, steps: int) -> list[float]:
    """The weight at steps 0, 1, ..."""
    found = []
    for _ in range(steps):
        found.append(weight(ONE, ONE, ONE).item())
        weight.advance()
    return found


# --- schedules ----------------------------------------------------------------------------------------------------------------


def test_linear_warm_up_and_decay_by_hand() -> None:
    weight = schedule("linear", value=2.0, warmup=0.4, decay=0.3, total=10)
    thirds = [2.0, 2 * 2 / 3, 2 / 3, 0.0]
    assert course(weight, 13) == pytest.approx([0, 0.5, 1, 1.5, 2, 2, 2, *thirds, 0, 0], abs=1e-12)


def test_cosine_ramps_are_half_way_in_the_middle_and_symmetric() -> None:
    up = course(schedule("cosine", warmup=1.0, total=8), 9)
    assert up == pytest.approx([(1 - math.cos(math.pi * t / 8)) / 2 for t in range(9)], abs=1e-12)
    assert up[4] == pytest.approx(0.5)
    down = course(schedule("cosine", decay=1.0, total=8), 9)
    assert down == pytest.approx(up[::-1], abs=1e-12)


def test_a_constant_stays() -> None:
    assert course(schedule("constant", value=0.25), 5) == [0.25] * 5
    assert course(make_weight(3), 2) == [3.0, 3.0]


def test_without_warm_up_the_first_weight_is_the_whole_one() -> None:
    assert course(schedule("linear", decay=0.5, total=4), 5) == [1, 1, 1, 0.5, 0]


def test_the_weight_changes_only_when_a_step_is_done() -> None:
    weight = schedule("linear", warmup=1.0, total=4)
    weight.advance()
    assert [weight(ONE, ONE, ONE).item() for _ in range(3)] == [0.25] * 3  # micro-batches of one step


def test_a_schedule_goes_on_where_it_was_saved() -> None:
    weight = schedule("cosine", warmup=0.5, total=10)
    course(weight, 3)
    fresh = schedule("cosine", warmup=0.5, total=10)
    fresh.load_state_dict(weight.state_dict())
    assert course(fresh, 5) == course(weight, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_weight_has_the_type_of_the_penalty(dtype: torch.dtype) -> None:
    penalty = torch.tensor(1.0, dtype=dtype)
    for weight in (schedule("linear", warmup=0.5, total=4), BalancedWeight().eval()):
        found = weight(ONE, penalty, ONE)
        assert found.dtype == dtype
        assert found.shape == ()
        assert not found.requires_grad


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"shape": "square"}, ValueError, "shape must be one of 'constant', 'linear', 'cosine'; got 'square'"),
        ({"shape": "linear", "warmup": 0.1}, ValueError, "total must be given with warmup or decay"),
        ({"shape": "linear", "warmup": 100, "total": 1000}, ValueError, r"warmup must be in \[0, 1\]; got 100"),
        ({"shape": "linear", "warmup": 0.6, "decay": 0.6, "total": 9}, ValueError, "must be at most 1, all steps"),
        ({"shape": "constant", "warmup": 0.1, "total": 9}, ValueError, 'warmup and decay must be 0 with shape="const'),
        ({"shape": "linear", "decay": 0.1, "total": 0}, ValueError, "total must be None or at least 1; got 0"),
        ({"shape": "linear", "decay": 0.1, "total": 9.5}, TypeError, "total must be None or an int; got float"),
        ({"shape": "linear", "value": -1.0}, ValueError, "value must be at least 0 and finite; got -1.0"),
        ({"shape": "linear", "value": "1"}, TypeError, "value must be a number; got str"),
    ],
)
def test_bad_schedules_are_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        schedule(**arguments)


# --- balanced -----------------------------------------------------------------------------------------------------------------


def losses(task: float, penalty: float, d: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Losses whose gradients at the third have these norms."""
    points = torch.zeros(2, d, dtype=torch.float64, requires_grad=True)
    direction = torch.full_like(points, 1 / math.sqrt(2 * d))
    return task * (points * direction).sum(), penalty * (points * direction.flip(0)).sum(), points


def test_the_first_weight_is_the_fraction_times_the_ratio_of_norms() -> None:
    assert BalancedWeight(0.1)(*losses(3.0, 0.02)).item() == pytest.approx(15.0, rel=1e-5)
    assert BalancedWeight(0.5)(*losses(3.0, 0.02)).item() == pytest.approx(75.0, rel=1e-5)


def test_the_weighted_gradient_has_the_fraction_of_the_norm_of_the_tasks() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    head = nn.Linear(3, 2).double()
    hidden = model(torch.randn(20, 4, dtype=torch.float64))
    task_loss = nn.functional.cross_entropy(head(hidden), torch.arange(20) % 2)
    penalty = entropy_deficit(rips_barcode(hidden)[0])
    weight = BalancedWeight(0.2)(task_loss, penalty, hidden)
    (task,) = torch.autograd.grad(task_loss, hidden, retain_graph=True)
    (weighted,) = torch.autograd.grad(weight * penalty, hidden, retain_graph=True)
    assert (weighted.norm() / task.norm()).item() == pytest.approx(0.2, rel=1e-5)
    (task_loss + weight * penalty).backward()  # the graphs are still there
    assert model.weight.grad is not None


def test_smoothing_averages_logarithms() -> None:
    weight = BalancedWeight(1.0, smoothing=0.75)
    found = [weight(*losses(ratio, 1.0)).item() for ratio in (1.0, 16.0, 1 / 16)]
    # 1, then 16^(1/4) = 2, then 2^(3/4) / 16^(1/4).
    assert found == pytest.approx([1.0, 2.0, 2**0.75 / 2], rel=1e-5)


def test_without_smoothing_every_batch_decides_for_itself() -> None:
    weight = BalancedWeight(1.0, smoothing=0.0)
    assert [weight(*losses(ratio, 1.0)).item() for ratio in (1.0, 16.0, 0.25)] == pytest.approx([1, 16, 0.25], rel=1e-5)


def test_both_losses_may_be_scaled_alike() -> None:
    plain, scaled = (BalancedWeight()(*losses(3.0 * scale, 0.02 * scale)) for scale in (1.0, 2.0**-20))
    torch.testing.assert_close(plain, scaled)


@pytest.mark.parametrize("norms", [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (math.inf, 1.0), (1.0, math.nan)])
def test_a_gradient_that_is_zero_or_not_finite_is_left_out(norms: tuple[float, float]) -> None:
    fresh = BalancedWeight(0.1)
    assert fresh(*losses(*norms)).item() == 0.0
    assert fresh(*losses(3.0, 0.02)).item() == pytest.approx(15.0, rel=1e-5)  # the first that counts
    assert fresh(*losses(*norms)).item() == pytest.approx(15.0, rel=1e-5)
    assert all(buffer.isfinite().all() for buffer in fresh.buffers())


@pytest.mark.parametrize("norms", [(1.0, 1e-30), (1e30, 1.0), (1e-30, 1e-160)])
def test_no_batch_takes_the_weight_beyond_the_maximum(norms: tuple[float, float]) -> None:
    weight = BalancedWeight(1.0, smoothing=0.9, maximum=100.0)
    assert weight(*losses(*norms)).item() == pytest.approx(100.0, rel=1e-5)
    weight(*losses(1.0, 1.0))
    assert weight(*losses(1e-30, 1.0)).item() >= 0.01


def test_tiny_gradients_in_float32_are_not_zero() -> None:
    points = torch.zeros(3, requires_grad=True)
    found = BalancedWeight(1.0)(1e-25 * points.sum(), 2e-25 * points.sum(), points)
    assert found.item() == pytest.approx(0.5, rel=1e-4)


def test_a_collapsed_cloud_leaves_the_weight_finite() -> None:
    points = torch.ones(5, 3, requires_grad=True)
    weight = BalancedWeight()(points.sum(), entropy_deficit(rips_barcode(points)[0]), points)
    assert weight.item() == 0.0


def test_several_layers_count_as_one_vector() -> None:
    a, b = torch.zeros(2, requires_grad=True), torch.zeros(3, requires_grad=True)
    task_loss = 3 * a[0] + 4 * b[1]
    penalty = 2 * b[0]  # does not see a
    assert BalancedWeight(1.0)(task_loss, penalty, [a, b]).item() == pytest.approx(2.5, rel=1e-5)


def test_evaluation_keeps_the_weight_and_runs_nothing_backwards() -> None:
    weight = BalancedWeight(0.1)
    weight(*losses(3.0, 0.02))
    weight.eval()
    with torch.no_grad():
        assert weight(ONE, ONE, ONE).item() == pytest.approx(15.0, rel=1e-5)
    weight.advance()
    assert weight(*losses(9.0, 0.02)).item() == pytest.approx(15.0, rel=1e-5)


def test_a_balanced_weight_goes_on_where_it_was_saved() -> None:
    weight, fresh = BalancedWeight(0.1), BalancedWeight(0.1)
    for ratio in (1.0, 5.0):
        weight(*losses(ratio, 1.0))
    fresh.load_state_dict(weight.state_dict())
    assert torch.equal(fresh(*losses(2.0, 1.0)), weight(*losses(2.0, 1.0)))
    assert not torch.equal(BalancedWeight(0.1)(*losses(2.0, 1.0)), weight(*losses(2.0, 1.0)))


def test_only_the_layers_above_the_points_are_run_backwards() -> None:
    below, above = nn.Linear(3, 3), nn.Linear(3, 1)
    ran = []
    below.register_full_backward_hook(lambda *_: ran.append("below"))
    above.register_full_backward_hook(lambda *_: ran.append("above"))
    hidden = below(torch.ones(4, 3, requires_grad=True))
    BalancedWeight()(above(hidden).sum(), hidden.square().sum(), hidden)
    assert ran == ["above"]
    assert below.weight.grad is None
    assert above.weight.grad is None


def test_a_share_of_a_gradient_cache_is_as_good_as_the_penalty() -> None:
    points = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    task_loss = points.square().mean()

    def deficit(points: Tensor, *, mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        return entropy_deficit(rips_barcode(points)[0])

    cache = GradientCache(deficit)
    with cache.collecting():
        cache.add(points)
    with cache.replaying():
        found = BalancedWeight()(task_loss, cache.share(points), points)
    torch.testing.assert_close(found, BalancedWeight()(task_loss, deficit(points), points))


def test_losses_that_do_not_depend_on_the_points_are_named() -> None:
    points = torch.ones(3, requires_grad=True)
    other = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match="task_loss must depend on points, the hidden states"):
        BalancedWeight()(other.sum(), points.sum(), points)
    with pytest.raises(ValueError, match="penalty must depend on points"):
        BalancedWeight()(points.sum(), other.sum(), points)
    with pytest.raises(ValueError, match="task_loss must depend on points"):
        BalancedWeight()(points.sum(), points.sum(), points.detach())
    with pytest.raises(TypeError, match="points must be a tensor or a sequence of tensors; got NoneType"):
        BalancedWeight()(points.sum(), points.sum(), None)
    with pytest.raises(ValueError, match="points must hold at least one tensor"):
        BalancedWeight()(points.sum(), points.sum(), [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fraction": 0}, "fraction must be positive and finite; got 0; for no penalty at all use make_weight"),
        ({"fraction": -0.1}, "fraction must be positive and finite; got -0.1"),
        ({"smoothing": 1.0}, r"smoothing must be in \[0, 1\); got 1.0"),
        ({"smoothing": 1.5}, r"smoothing must be in \[0, 1\); got 1.5"),
        ({"maximum": 0.5}, "maximum must be at least 1 and finite; got 0.5"),
        ({"fraction": math.nan}, "fraction must be positive and finite; got nan"),
    ],
)
def test_bad_balances_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BalancedWeight(**arguments)


# --- every weight -------------------------------------------------------------------------------------------------------------


def test_a_weight_stays_the_same_object_and_a_number_becomes_a_constant() -> None:
    weight = BalancedWeight()
    assert make_weight(weight) is weight
    constant = make_weight(0.1)
    assert isinstance(constant, ScheduledWeight)
    assert constant(ONE, ONE, ONE).item() == 0.1


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (
            "balanced",
            TypeError,
            r"weight must be a number or a Weight \(schedule\(...\), BalancedWeight\(...\)\); got str",
        ),
        (True, TypeError, "got bool"),
        (-0.1, ValueError, "weight must be at least 0 and finite; got -0.1"),
        (math.nan, ValueError, "got nan"),
        (math.inf, ValueError, "got inf"),
    ],
)
def test_what_is_no_weight_is_named(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_weight(value)


def test_weights_show_their_arguments() -> None:
    assert repr(make_weight(0.5)) == "ScheduledWeight(0.5, shape='constant')"
    assert "warmup=0.25, decay=0.0, total=8" in repr(schedule("linear", warmup=0.25, total=8))
    assert repr(BalancedWeight(0.2)) == "BalancedWeight(0.2, smoothing=0.9, maximum=10000.0, synchronized=False)"
