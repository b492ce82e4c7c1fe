"""Persistent entropy, normalized entropy, deficit and Rényi deficit: values, digits, derivatives, singular input, other programs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy
from torch import Tensor

from simplicial_reg import (
    Barcode,
    entropy_deficit,
    normalized_persistent_entropy,
    persistent_entropy,
    renyi_deficit,
    rips_barcode,
)

Quantity = Callable[[Barcode], Tensor]
QUANTITIES: list[Quantity] = [persistent_entropy, normalized_persistent_entropy, entropy_deficit]
every_quantity = pytest.mark.parametrize("quantity", QUANTITIES, ids=lambda quantity: quantity.__name__)
every_precision = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)

relaxed = settings(deadline=None)  # the first call in a process imports or compiles something
LOG2, LOG3 = math.log(2), math.log(3)
INF = math.inf

# Lengths and their entropy in nats.
KNOWN: dict[str, tuple[list[float], float]] = {
    # All shares are 1/k.
    "four equal bars": ([3.0, 3.0, 3.0, 3.0], 2 * LOG2),
    # Shares 1/4, 1/4, 1/2: 2 (1/4) log 4 + (1/2) log 2.
    "1, 1, 2": ([1.0, 1.0, 2.0], 1.5 * LOG2),
    # Shares 1/2, 1/4, 1/8, 1/8: (1/2) log 2 + (1/4) 2 log 2 + 2 (1/8) 3 log 2.
    "a code tree": ([4.0, 2.0, 1.0, 1.0], 1.75 * LOG2),
    # Shares 1/3, 2/3: (1/3) log 3 + (2/3) (log 3 - log 2).
    "1, 2": ([1.0, 2.0], LOG3 - 2 / 3 * LOG2),
    # 0 log 0 = 0: bars of length zero change nothing.
    "1, 1, 2 and two of length zero": ([0.0, 1.0, 1.0, 0.0, 2.0], 1.5 * LOG2),
    # One bar has share 1.
    "one bar": ([7.0], 0.0),
    "one bar and two of length zero": ([0.0, 7.0, 0.0], 0.0),
}
every_known = pytest.mark.parametrize(("lengths", "entropy"), KNOWN.values(), ids=KNOWN)


def bars_of(persistence: Tensor | Sequence[float], mask: Tensor | None = None) -> Barcode:
    """A barcode with these persistences and births 0; it has no edges worth the name."""
    if not isinstance(persistence, Tensor):
        persistence = torch.tensor(persistence, dtype=torch.float64)
    mask = torch.ones(persistence.shape, dtype=torch.bool) if mask is None else mask
    edge = torch.zeros(*persistence.shape, 2, dtype=torch.int64)
    return Barcode(0, torch.zeros_like(persistence), persistence, edge, edge, mask)


def of_lengths(quantity: Quantity) -> Callable[[Tensor], Tensor]:
    return lambda persistence: quantity(bars_of(persistence))


def gradient(quantity: Quantity, persistence: Tensor) -> Tensor:
    persistence = persistence.detach().requires_grad_()
    (grad,) = torch.autograd.grad(quantity(bars_of(persistence)).sum(), persistence)
    return grad


def uneven(k: int, variation: float, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """k lengths around 40 with this coefficient of variation."""
    normal = torch.randn(k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (40 * (1 + variation * normal)).abs().to(dtype)


def exact_deficit(lengths: Tensor) -> tuple[float, np.ndarray]:
    """Deficit and gradient of positive lengths, from their definitions with fifty digits."""
    with localcontext() as context:
        context.prec = 50
        exact = [Decimal(length) for length in lengths.double().tolist()]
        total = sum(exact, Decimal(0))
        log_share = [(length / total).ln() for length in exact]
        entropy = -sum((length * log for length, log in zip(exact, log_share, strict=True)), Decimal(0)) / total
        slope = [(log + entropy) / total for log in log_share]
        return float(Decimal(len(exact)).ln() - entropy), np.array([float(entry) for entry in slope])


# --- values -----------------------------------------------------------------------------------------------------------


@every_known
def test_entropy_of_a_known_barcode(lengths: list[float], entropy: float) -> None:
    assert persistent_entropy(bars_of(lengths)).item() == pytest.approx(entropy, abs=1e-15)


@every_known
def test_deficit_of_a_known_barcode_is_log_k_minus_its_entropy(lengths: list[float], entropy: float) -> None:
    assert entropy_deficit(bars_of(lengths)).item() == pytest.approx(math.log(len(lengths)) - entropy, abs=1e-15)


@every_known
def test_normalized_entropy_of_a_known_barcode_is_its_entropy_over_log_k(lengths: list[float], entropy: float) -> None:
    expected = entropy / math.log(len(lengths)) if len(lengths) > 1 else 1.0
    assert normalized_persistent_entropy(bars_of(lengths)).item() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("n", [2, 3, 4, 8, 64, 1000])
@every_precision
def test_entropy_of_a_regular_simplex_is_log_of_its_bar_count(n: int, dtype: torch.dtype) -> None:
    # The n unit vectors are at distance sqrt 2 from each other: n - 1 equal bars.
    bars = rips_barcode(torch.eye(n, dtype=dtype))[0]
    torch.testing.assert_close(persistent_entropy(bars), torch.tensor(math.log(n - 1), dtype=dtype))
    assert normalized_persistent_entropy(bars) == 1
    assert entropy_deficit(bars) == 0


def test_entropy_of_points_on_a_line_is_that_of_the_gaps() -> None:
    # Gaps 1, 2, 1 in this order; shares 1/4, 1/2, 1/4.
    bars = rips_barcode(torch.tensor([[0.0], [1.0], [3.0], [4.0]], dtype=torch.float64))[0]
    assert persistent_entropy(bars).item() == pytest.approx(1.5 * LOG2)


def test_births_are_taken_off_deaths() -> None:
    edge = torch.zeros(2, 2, dtype=torch.int64)
    loops = Barcode(1, torch.tensor([1.0, 5.0]), torch.tensor([3.0, 6.0]), edge, edge, torch.ones(2, dtype=torch.bool))
    assert persistent_entropy(loops).item() == pytest.approx(LOG3 - 2 / 3 * LOG2)  # lengths 2 and 1


@every_quantity
def test_a_batch_of_any_shape_gives_what_each_cloud_gives_alone(quantity: Quantity) -> None:
    lengths = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = quantity(bars_of(lengths))
    assert together.shape == (2, 3, 4)
    for index in np.ndindex(2, 3, 4):
        assert together[index] == quantity(bars_of(lengths[index]))


@every_quantity
def test_padding_changes_nothing(quantity: Quantity) -> None:
    lengths = torch.tensor([3.0, 1.0, 0.5])
    padded = torch.tensor([0.0, 3.0, 0.0, 1.0, 0.5])
    mask = torch.tensor([False, True, False, True, True])
    assert quantity(bars_of(padded, mask)) == quantity(bars_of(lengths))


def test_padding_and_bars_of_length_zero_differ_in_what_they_count() -> None:
    lengths = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    padding = torch.tensor([True, True, False])
    assert entropy_deficit(bars_of(lengths, padding)).item() == 0
    assert entropy_deficit(bars_of(lengths)).item() == pytest.approx(LOG3 - LOG2)


@every_quantity
def test_the_order_of_the_bars_does_not_matter(quantity: Quantity) -> None:
    lengths = uneven(50, 0.5)
    shuffled = lengths[torch.randperm(50, generator=torch.Generator().manual_seed(1))]
    torch.testing.assert_close(quantity(bars_of(shuffled)), quantity(bars_of(lengths)), rtol=1e-13, atol=0)


@every_quantity
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_the_result_has_the_type_of_the_barcode(quantity: Quantity, dtype: torch.dtype) -> None:
    lengths = torch.tensor([1.0, 1.0, 2.0], dtype=dtype, requires_grad=True)
    value = quantity(bars_of(lengths))
    value.backward()
    assert value.dtype == lengths.grad.dtype == dtype
    exact = lengths.detach().double()
    digits = torch.finfo(dtype).eps
    torch.testing.assert_close(value.double(), quantity(bars_of(exact)), rtol=digits, atol=0)
    torch.testing.assert_close(lengths.grad.double(), gradient(quantity, exact), rtol=digits, atol=0)


@every_quantity
def test_the_memory_layout_of_the_lengths_does_not_matter(quantity: Quantity) -> None:
    lengths = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(quantity(bars_of(lengths.T)), quantity(bars_of(lengths.T.contiguous())))
    assert torch.equal(gradient(quantity, lengths.T), gradient(quantity, lengths.T.contiguous()))


@relaxed
@example(
    [1.0, *5 * [5.536218670480047e-160]]
)  # one unit in the last place more than log 6, if rounding were left alone
@given(st.lists(st.floats(0, 1e6, allow_subnormal=False), max_size=30))
def test_every_value_is_in_its_range_and_they_add_up(lengths: list[float]) -> None:
    k = len(lengths)
    most = math.log(max(k, 1))
    entropy, normalized, deficit = (quantity(bars_of(lengths)).item() for quantity in QUANTITIES)
    assert 0 <= entropy <= most
    assert 0 <= deficit <= most
    assert 0 <= normalized <= 1
    assert entropy + deficit == pytest.approx(most, abs=1e-14)
    assert normalized == (1 if k < 2 else pytest.approx(entropy / most, abs=1e-14))
    for quantity in QUANTITIES:  # the same by operations on tensors
        mapped = torch.func.vmap(of_lengths(quantity))(torch.tensor([lengths], dtype=torch.float64)).item()
        assert 0 <= mapped <= (1 if quantity is normalized_persistent_entropy else most)


@relaxed
@given(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=30))
def test_every_value_is_in_its_range_in_single_precision(lengths: list[float]) -> None:
    bars = bars_of(torch.tensor(lengths))
    most = torch.tensor(math.log(len(lengths)))
    assert 0 <= persistent_entropy(bars) <= most
    assert 0 <= entropy_deficit(bars) <= most
    assert 0 <= normalized_persistent_entropy(bars) <= 1


# --- digits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 63, 511])
@pytest.mark.parametrize("variation", [1.0, 0.1, 1e-2, 1e-4, 1e-5])
@every_precision
def test_the_deficit_of_nearly_even_bars_keeps_its_digits(k: int, variation: float, dtype: torch.dtype) -> None:
    lengths = uneven(k, variation, dtype=dtype)
    expected, slope = exact_deficit(lengths)
    # Float32 is right to its last place. Float64 has the error of lengths that are wrong in the last place.
    digits = 2e-7 if dtype == torch.float32 else 20 * 2.3e-16 / min(variation, 1)
    assert entropy_deficit(bars_of(lengths)).item() == pytest.approx(expected, rel=digits, abs=0)
    mapped = torch.func.vmap(of_lengths(entropy_deficit))(lengths[None])  # by operations on tensors
    assert mapped.item() == pytest.approx(expected, rel=digits, abs=0)
    found = gradient(entropy_deficit, lengths).double().numpy()
    assert np.linalg.norm(found - slope) < digits * np.linalg.norm(slope)


def test_log_k_minus_the_entropy_would_lose_the_digits() -> None:
    # Shows that the test above can fail: float32 has about seven digits, and the deficit is 1e-9 of log k.
    lengths = uneven(63, 1e-4, dtype=torch.float32)
    share = lengths / lengths.sum()
    naive = math.log(63) + (share * share.log()).sum().item()
    expected, _ = exact_deficit(lengths)
    assert abs(naive - expected) > expected


def test_the_entropy_of_nearly_even_bars_is_not_the_largest() -> None:
    lengths = uneven(63, 1e-4)
    assert persistent_entropy(bars_of(lengths)).item() < math.log(63)
    slope = gradient(persistent_entropy, lengths)
    assert torch.equal(slope, -gradient(entropy_deficit, lengths))


@every_quantity
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        (torch.float32, 1e-20),
        (torch.float32, 1e20),
        (torch.float64, 1e-30),
        (torch.float64, 1e-200),
        (torch.float64, 1e200),
    ],
    ids=str,
)
def test_values_do_not_depend_on_scale_and_gradients_scale_inversely(
    quantity: Quantity, dtype: torch.dtype, scale: float
) -> None:
    lengths = torch.tensor([1.0, 2.0, 4.0, 4.5, 0.0], dtype=dtype)
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(quantity(bars_of(lengths * scale)), quantity(bars_of(lengths)), rtol=tolerance, atol=0)
    torch.testing.assert_close(
        gradient(quantity, lengths * scale) * scale, gradient(quantity, lengths), rtol=tolerance, atol=0
    )


# --- derivatives ------------------------------------------------------------------------------------------------------


@every_known
def test_the_gradient_is_log_share_plus_entropy_over_the_total(lengths: list[float], entropy: float) -> None:
    # dD/dl = (log p + H) / L; zero at length zero, where this is infinite.
    total = sum(lengths)
    expected = [(math.log(l / total) + entropy) / total if l > 0 else 0.0 for l in lengths]
    found = gradient(entropy_deficit, torch.tensor(lengths, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=1e-15)


@every_quantity
def test_first_and_second_derivatives_are_those_of_finite_differences(quantity: Quantity) -> None:
    lengths = uneven(14, 0.3).view(2, 7).div(40).requires_grad_()
    assert torch.autograd.gradcheck(of_lengths(quantity), (lengths,))
    assert torch.autograd.gradgradcheck(of_lengths(quantity), (lengths,))


@every_quantity
def test_derivatives_are_those_of_finite_differences_at_equal_bars(quantity: Quantity) -> None:
    # The minimum of the deficit: the gradient vanishes, the second derivative does not.
    lengths = torch.full((5,), 0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(of_lengths(quantity), (lengths,))
    assert torch.autograd.gradgradcheck(of_lengths(quantity), (lengths,))


def test_the_second_derivative_of_the_deficit_at_equal_bars_is_that_of_a_variance() -> None:
    # D = var / (2 mean^2) + ..., so its second derivative at lengths c is (1 - 11'/k) / (k c^2), however c rounds.
    for k, c in ((3, 1.0), (7, 0.1), (10, 1 / 3)):
        hessian = torch.autograd.functional.hessian(
            of_lengths(entropy_deficit), torch.full((k,), c, dtype=torch.float64)
        )
        expected = (torch.eye(k, dtype=torch.float64) - 1 / k) / (k * c * c)
        torch.testing.assert_close(hessian, expected, rtol=1e-12, atol=1e-12)


@every_quantity
@relaxed
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20))
def test_lengths_times_gradient_add_up_to_nothing(quantity: Quantity, lengths: list[float]) -> None:
    # Euler: the quantity does not depend on scale.
    x = torch.tensor(lengths, dtype=torch.float64)
    parts = x * gradient(quantity, x)
    assert abs(parts.sum()) <= 1e-13 * max(1.0, parts.abs().sum())


def test_exactly_the_bars_longer_than_total_over_exp_entropy_shrink() -> None:
    lengths = uneven(40, 0.8)
    shrinks = gradient(entropy_deficit, lengths) > 0
    assert torch.equal(shrinks, lengths > lengths.sum() * torch.exp(-persistent_entropy(bars_of(lengths))))
    assert 0 < shrinks.sum() < 40


def test_a_step_down_the_gradient_lowers_the_deficit_of_points() -> None:
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    before = entropy_deficit(rips_barcode(points)[0])
    (slope,) = torch.autograd.grad(before, points)
    after = entropy_deficit(rips_barcode(points - 1e-3 * slope / slope.norm())[0])
    assert after < before
    assert slope.sum(0).norm() < 1e-14  # moving all points changes nothing
    assert abs((slope * points).sum()) < 1e-14  # nor does scaling them


@every_quantity
def test_births_have_the_opposite_gradient(quantity: Quantity) -> None:
    edge = torch.zeros(3, 2, dtype=torch.int64)
    birth = torch.tensor([0.1, 0.2, 0.3], requires_grad=True)
    death = torch.tensor([0.5, 1.0, 2.0], requires_grad=True)
    quantity(Barcode(1, birth, death, edge, edge, torch.ones(3, dtype=torch.bool))).backward()
    assert torch.equal(birth.grad, -death.grad)
    assert death.grad.abs().min() > 0


@pytest.mark.filterwarnings("ignore:.torch\\.jit\\.script. is deprecated:DeprecationWarning")  # torch.func.jvp uses it
@every_quantity
def test_every_way_of_differentiating_gives_the_same(quantity: Quantity) -> None:
    lengths = torch.tensor([[1.0, 2.0, 0.0, 4.0], [3.0, 1.0, 1.0, 0.5]], dtype=torch.float64)
    expected = gradient(quantity, lengths)
    plain = lengths.clone().requires_grad_()
    (twice,) = torch.autograd.grad(quantity(bars_of(plain)).sum(), plain, create_graph=True)
    mapped = torch.func.vmap(torch.func.grad(of_lengths(quantity)))(lengths)
    reverse = torch.func.jacrev(lambda x: of_lengths(quantity)(x).sum())(lengths)
    _, forward = torch.func.jvp(of_lengths(quantity), (lengths,), (torch.ones_like(lengths),))
    for found in (twice, mapped, reverse):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(forward, expected.sum(-1), rtol=1e-13, atol=1e-15)


@every_quantity
@relaxed
@given(st.lists(st.just(0.0) | st.just(INF) | st.floats(1e-6, 1e6), max_size=20))
def test_the_pass_over_the_bars_and_the_operations_on_tensors_agree(quantity: Quantity, lengths: list[float]) -> None:
    # Alone on the CPU a barcode takes the first way, under torch.func the second.
    x = torch.tensor([lengths], dtype=torch.float64)
    mapped, slopes = torch.func.vmap(torch.func.grad_and_value(of_lengths(quantity)))(x)[::-1]
    torch.testing.assert_close(mapped, quantity(bars_of(x)), rtol=1e-13, atol=1e-15)
    error = (slopes - gradient(quantity, x)) * x.nan_to_num(posinf=0.0)
    assert error.abs().sum() < 1e-13


@every_quantity
def test_a_mapped_mask_counts_for_each_cloud(quantity: Quantity) -> None:
    mask = torch.tensor([[True, True, True], [True, True, False]])
    lengths = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
    mapped = torch.func.vmap(lambda m: quantity(bars_of(lengths, m)))(mask)
    torch.testing.assert_close(mapped, quantity(bars_of(lengths.expand(2, 3), mask)), rtol=1e-14, atol=0)


@every_quantity
def test_it_compiles_to_one_graph(quantity: Quantity) -> None:
    lengths = torch.tensor([[1.0, 2.0, 0.0, 4.0], [0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    compiled = torch.compile(of_lengths(quantity), fullgraph=True, backend="aot_eager")
    value = compiled(lengths)
    torch.testing.assert_close(value, quantity(bars_of(lengths)))
    (slope,) = torch.autograd.grad(value.sum(), lengths)
    torch.testing.assert_close(slope, gradient(quantity, lengths))


@every_quantity
def test_autocast_changes_nothing(quantity: Quantity) -> None:
    lengths = uneven(63, 0.01, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = quantity(bars_of(lengths))
    assert torch.equal(inside, quantity(bars_of(lengths)))


# --- singular input ---------------------------------------------------------------------------------------------------

# Lengths; entropy, normalized entropy, deficit. Every gradient of these is zero, the second derivatives too.
STILL: dict[str, tuple[list[float], tuple[float, float, float]]] = {
    "no bar": ([], (0.0, 1.0, 0.0)),
    "one bar": ([2.0], (0.0, 1.0, 0.0)),
    "one bar of length zero": ([0.0], (0.0, 1.0, 0.0)),
    "a collapsed cloud": ([0.0, 0.0, 0.0], (0.0, 0.0, LOG3)),
    "only infinite bars": ([INF, INF], (0.0, 1.0, 0.0)),
    "one bar and an infinite one": ([INF, 2.0], (0.0, 1.0, 0.0)),
    "equal bars and an infinite one": ([3.0, INF, 3.0], (LOG2, 1.0, 0.0)),
    "collapsed but for an infinite bar": ([0.0, INF, 0.0], (0.0, 0.0, LOG2)),
}
every_still = pytest.mark.parametrize(("lengths", "values"), STILL.values(), ids=STILL)


@every_still
@every_precision
def test_singular_barcodes_have_the_values_that_the_module_states(
    lengths: list[float], values: tuple[float, ...], dtype: torch.dtype
) -> None:
    bars = bars_of(torch.tensor(lengths, dtype=dtype))
    for quantity, value in zip(QUANTITIES, values, strict=True):
        assert quantity(bars).item() == torch.tensor(value, dtype=dtype).item(), quantity.__name__


@every_quantity
@every_still
@every_precision
def test_singular_barcodes_have_gradient_zero(
    lengths: list[float], values: tuple[float, ...], dtype: torch.dtype, quantity: Quantity
) -> None:
    x = torch.tensor(lengths, dtype=dtype, requires_grad=True)
    (slope,) = torch.autograd.grad(quantity(bars_of(x)), x)
    assert torch.equal(slope, torch.zeros_like(x))
    (slope,) = torch.autograd.grad(quantity(bars_of(x)), x, create_graph=True)
    (bend,) = torch.autograd.grad((slope * torch.arange(len(x))).sum(), x)
    assert torch.equal(slope, torch.zeros_like(x))
    assert bend.isfinite().all()
    slope = torch.func.grad(of_lengths(quantity))(x.detach())
    assert torch.equal(slope, torch.zeros_like(x))


@every_quantity
def test_a_bar_of_length_zero_has_gradient_zero_and_leaves_that_of_the_others(quantity: Quantity) -> None:
    lengths = torch.tensor([1.0, 0.0, 2.0, 4.0, 0.0], dtype=torch.float64)
    positive = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    slope = gradient(quantity, lengths)
    assert slope[1] == slope[4] == 0
    share = (
        LOG3 / math.log(5) if quantity is normalized_persistent_entropy else 1.0
    )  # the larger k is only in its divisor
    torch.testing.assert_close(slope[[0, 2, 3]], gradient(quantity, positive) * share)
    hessian = torch.autograd.functional.hessian(of_lengths(quantity), lengths)
    assert hessian.isfinite().all()
    assert (hessian[1] == 0).all()


def test_a_bar_of_nearly_no_length_has_a_finite_gradient() -> None:
    # -(log p + H) / L with p = 1e-300: 690 nats.
    slope = gradient(persistent_entropy, torch.tensor([1e-300, 1.0], dtype=torch.float64))
    assert slope[0].item() == pytest.approx(300 * math.log(10))
    assert abs(slope[1].item()) < 1e-15


def test_a_collapsed_cloud_has_the_largest_deficit_and_a_gradient_of_zero() -> None:
    points = torch.ones(5, 3, requires_grad=True)
    deficit = entropy_deficit(rips_barcode(points)[0])
    deficit.backward()
    assert deficit.item() == pytest.approx(math.log(4))
    assert torch.equal(points.grad, torch.zeros(5, 3))


@pytest.mark.parametrize("n", [1, 2])
def test_one_and_two_points_have_no_deficit(n: int) -> None:
    points = torch.eye(2)[:n].requires_grad_()
    deficit = entropy_deficit(rips_barcode(points)[0])
    deficit.backward()
    assert deficit.item() == 0
    assert torch.equal(points.grad, torch.zeros(n, 2))


@every_quantity
def test_a_cloud_of_one_point_in_a_batch_is_as_alone(quantity: Quantity) -> None:
    clouds = [torch.eye(4), torch.zeros(1, 4), torch.arange(12.0).view(3, 4)]
    together = quantity(rips_barcode(clouds)[0])
    for value, cloud in zip(together, clouds, strict=True):
        torch.testing.assert_close(value, quantity(rips_barcode(cloud)[0]))


@every_quantity
def test_infinite_bars_of_a_filtration_are_left_out(quantity: Quantity) -> None:
    points = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    infinite = rips_barcode(points, essential="infinite")[0]
    assert infinite.death.isinf().any()
    torch.testing.assert_close(quantity(infinite), quantity(rips_barcode(points)[0]))


@every_quantity
def test_nan_is_seen(quantity: Quantity) -> None:
    for lengths in ([1.0, math.nan, 2.0], [math.nan], [math.nan, 0.0], [math.nan, INF]):
        assert quantity(bars_of(lengths)).isnan()
        assert torch.func.vmap(of_lengths(quantity))(torch.tensor([lengths])).isnan()


@every_quantity
def test_a_length_that_rounding_made_negative_counts_as_zero(quantity: Quantity) -> None:
    assert quantity(bars_of([1.0, -1e-17, 2.0])) == quantity(bars_of([1.0, 0.0, 2.0]))


# --- other people's programs ------------------------------------------------------------------------------------------

positive_lengths = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=30)


@relaxed
@given(positive_lengths)
def test_entropy_is_that_of_scipy(lengths: list[float]) -> None:
    assert persistent_entropy(bars_of(lengths)).item() == pytest.approx(scipy_entropy(lengths), abs=1e-13)


@relaxed
@given(positive_lengths)
def test_deficit_is_the_relative_entropy_of_scipy(lengths: list[float]) -> None:
    expected = scipy_entropy(lengths, np.ones(len(lengths)))
    assert entropy_deficit(bars_of(lengths)).item() == pytest.approx(expected, abs=1e-13)


@relaxed
@given(positive_lengths)
def test_entropy_is_that_of_gudhi(lengths: list[float]) -> None:
    representations = pytest.importorskip("gudhi.representations")
    diagram = bars_of(lengths).numpy()
    ((expected,),) = representations.Entropy(mode="scalar").fit_transform([diagram])
    assert persistent_entropy(bars_of(lengths)).item() == pytest.approx(expected, abs=1e-13)


@relaxed
@given(positive_lengths)
def test_entropy_and_normalized_entropy_are_those_of_persim(lengths: list[float]) -> None:
    persim = pytest.importorskip("persim.persistent_entropy")
    diagram = bars_of(lengths).numpy()
    for quantity, normalize in ((persistent_entropy, False), (normalized_persistent_entropy, True)):
        (expected,) = persim.persistent_entropy([diagram], normalize=normalize)
        assert quantity(bars_of(lengths)).item() == pytest.approx(expected, abs=1e-13)


@relaxed
@given(st.lists(st.just(0.0) | st.floats(1e-3, 1e3), min_size=2, max_size=30).filter(any))
def test_entropy_in_bits_is_that_of_torch_topological(lengths: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it imports is not ours
        utils = pytest.importorskip("torch_topological.utils")
    diagram = torch.from_numpy(bars_of(lengths).numpy())
    expected = utils.persistent_entropy(diagram).item()
    assert persistent_entropy(bars_of(lengths)).item() / LOG2 == pytest.approx(expected, abs=1e-13)


def test_an_isotropic_cloud_in_high_dimension_has_0_99997_of_the_largest_entropy() -> None:
    # The figure that README and docs give for why the deficit is not computed as a difference.
    clouds = torch.randn(50, 64, 768, generator=torch.Generator().manual_seed(0))
    assert normalized_persistent_entropy(rips_barcode(clouds)[0]).mean().item() == pytest.approx(0.99997, abs=5e-6)


# --- Rényi --------------------------------------------------------------------------------------------------------------------


def exact_renyi_deficit(lengths: Sequence[float], alpha: float) -> float:
    """From the definition, with fifty digits."""
    with localcontext() as context:
        context.prec = 50
        exact = [Decimal(length) for length in lengths]
        shares = [length / sum(exact) for length in exact if length > 0]
        if math.isinf(alpha):
            return float(Decimal(len(lengths)).ln() + max(shares).ln())
        order = Decimal(alpha)
        if order == 1:
            return float(Decimal(len(lengths)).ln() + sum(share * share.ln() for share in shares))
        moment = sum((share.ln() * order).exp() for share in shares)
        return float(Decimal(len(lengths)).ln() + moment.ln() / (order - 1))


ORDERS = [0.01, 0.5, 1 - 1e-9, 1.0, 1 + 1e-9, 1.5, 2.0, 2.0000001, 3.0, 100.0, 1e5, INF]


@pytest.mark.parametrize("alpha", ORDERS)
@pytest.mark.parametrize(
    "lengths",
    [[1.0, 1.0, 2.0], [0.0, 1.0, 0.0, 3.0, 2.0], [1e-200, 1.0, 1e-3], [5.0, 5.0, 5.0, 4.0], [0.25, 1e300, 1e299]],
    ids=str,
)
def test_the_renyi_deficit_is_its_definition(lengths: list[float], alpha: float) -> None:
    assert renyi_deficit(bars_of(lengths), alpha).item() == pytest.approx(exact_renyi_deficit(lengths, alpha), rel=1e-9)


@pytest.mark.parametrize("alpha", ORDERS)
def test_the_renyi_deficit_keeps_its_digits_for_nearly_equal_bars(alpha: float) -> None:
    lengths = (1 + 1e-4 * torch.randn(63, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).tolist()
    found = renyi_deficit(bars_of(lengths), alpha).item()
    assert found == pytest.approx(exact_renyi_deficit(lengths, alpha), rel=1e-6)


@pytest.mark.parametrize("alpha", ORDERS)
def test_the_gradient_of_the_renyi_deficit_is_its_derivative(alpha: float) -> None:
    lengths = torch.tensor([[1.0, 2.0, 0.5, 0.0], [3.0, 2.9, 0.1, 0.2]], dtype=torch.float64)
    positive = lengths > 0

    def deficit(x: Tensor) -> Tensor:
        return renyi_deficit(bars_of(torch.where(positive, x, 0)), alpha)

    assert torch.autograd.gradcheck(deficit, lengths.clone().requires_grad_())
    if alpha < 100:
        assert torch.autograd.gradgradcheck(deficit, lengths.clone().requires_grad_())


@relaxed
@given(
    lengths=st.lists(st.just(0.0) | st.floats(0, 1e3), min_size=1, max_size=12),
    alphas=st.lists(st.floats(0.05, 50), min_size=2),
)
def test_the_renyi_deficit_grows_with_the_order_from_0_to_log_k(lengths: list[float], alphas: list[float]) -> None:
    persistence = torch.tensor(lengths, dtype=torch.float64, requires_grad=True)
    deficits = [renyi_deficit(bars_of(persistence), alpha) for alpha in (*sorted(alphas), INF)]
    values = [deficit.item() for deficit in deficits]
    assert min(values) >= 0
    assert max(values) <= math.log(len(lengths)) + 1e-15
    assert all(small <= large + 1e-9 for small, large in pairwise(values))
    for deficit in deficits:
        (grad,) = torch.autograd.grad(deficit, persistence, retain_graph=True)
        assert not grad.isnan().any()
        assert (grad[persistence == 0] == 0).all()


@pytest.mark.parametrize("alpha", ORDERS)
def test_bars_of_length_zero_have_gradient_zero_in_the_renyi_deficit(alpha: float) -> None:
    lengths = torch.tensor([0.0, 1.0, 2.0, 0.0], requires_grad=True)
    (grad,) = torch.autograd.grad(renyi_deficit(bars_of(lengths), alpha), lengths)
    assert grad[0] == grad[3] == 0
    assert grad[1] < 0 < grad[2]


def test_of_infinite_order_only_the_longest_bar_shrinks() -> None:
    lengths = torch.tensor([1.0, 2.0, 5.0, 2.0], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(renyi_deficit(bars_of(lengths)), lengths)
    assert grad.tolist() == pytest.approx([-0.1, -0.1, 0.2 - 0.1, -0.1])


def test_longest_bars_that_are_equally_long_share_the_gradient() -> None:
    lengths = torch.tensor([1.0, 4.0, 1.0, 4.0], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(renyi_deficit(bars_of(lengths)), lengths)
    assert grad.tolist() == pytest.approx([-0.1, 0.125 - 0.1, -0.1, 0.125 - 0.1])
    (at_minimum,) = torch.autograd.grad(renyi_deficit(bars_of(torch.ones_like(lengths) * (lengths / lengths))), lengths)
    assert at_minimum.abs().max() == 0


@pytest.mark.parametrize("alpha", ORDERS)
def test_padding_does_not_count_in_the_renyi_deficit(alpha: float) -> None:
    mask = torch.tensor([[True, True, True, False, False], [False] * 5])
    padded = torch.tensor([[1.0, 1.0, 2.0, 0.0, 0.0], [0.0] * 5], dtype=torch.float64)
    found = renyi_deficit(bars_of(padded, mask), alpha)
    assert found.tolist() == pytest.approx([exact_renyi_deficit([1.0, 1.0, 2.0], alpha), 0.0])
    assert renyi_deficit(bars_of(torch.zeros(3, 0)), alpha).tolist() == [0.0] * 3


def test_a_float32_barcode_has_a_float32_renyi_deficit_with_all_its_digits() -> None:
    lengths = torch.tensor([1.0, 1.0001, 0.9999])
    found = renyi_deficit(bars_of(lengths), 2.0)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact_renyi_deficit(lengths.tolist(), 2.0), rel=1e-6)


@pytest.mark.parametrize("alpha", ORDERS)
def test_infinite_bars_are_left_out_of_the_renyi_deficit(alpha: float) -> None:
    lengths = torch.tensor([1.0, INF, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    found = renyi_deficit(bars_of(lengths), alpha)
    assert found.item() == pytest.approx(exact_renyi_deficit([1.0, 1.0, 2.0], alpha))
    (grad,) = torch.autograd.grad(found, lengths)
    assert grad[1] == 0
    assert grad.isfinite().all()
    collapsed = bars_of([0.0, INF, 0.0])
    assert renyi_deficit(collapsed, alpha).item() == pytest.approx(LOG2)


@pytest.mark.parametrize("alpha", ORDERS)
def test_nan_stays_nan_in_the_renyi_deficit(alpha: float) -> None:
    assert renyi_deficit(bars_of([1.0, math.nan, 2.0]), alpha).isnan()


@pytest.mark.parametrize(
    ("alpha", "error", "message"),
    [
        (0.0, ValueError, "alpha must be positive; got 0.0"),
        (-1.0, ValueError, "alpha must be positive; got -1.0"),
        (math.nan, ValueError, "alpha must be positive; got nan"),
        ("2", TypeError, "alpha must be a number; got str"),
    ],
)
def test_an_order_that_is_not_positive_is_named(alpha: float, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        renyi_deficit(bars_of([1.0]), alpha)
