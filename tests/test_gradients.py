"""Derivatives of births and deaths: right where there are some, zero where there are none, and the same by every way of taking them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.autograd.gradcheck import GradcheckError

from simplicial_reg import (
    METRICS,
    _threads,
    edge_length,
    entropy_deficit,
    pairwise_distances,
    persistent_entropy,
    rips_barcode,
)
from tests.clouds import polygon

INF = math.inf
TRANSLATION_INVARIANT = ("euclidean", "manhattan", "chebyshev")
BACKENDS = [
    "aot_eager",
    pytest.param(
        "inductor", marks=pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
    ),
]


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def with_loops(n: int = 10, d: int = 3) -> Tensor:
    """A noisy circle, so that there are loops to differentiate; far from any tie."""
    return torch.cat([2 * polygon(n), torch.zeros(n, d - 2, dtype=torch.float64)], -1) + 0.2 * gaussian(n, d, seed=3)


def euclidean(points: Tensor) -> Tensor:
    """All distances by torch, twice differentiable, zero on the diagonal with gradient zero."""
    squares = (points.unsqueeze(-2) - points.unsqueeze(-3)).square().sum(-1)
    apart = squares > 0
    return torch.where(apart, torch.where(apart, squares, 1).sqrt(), 0)


def births_and_deaths(max_dim: int, **options: Any) -> Callable[[Tensor], tuple[Tensor, ...]]:
    def function(points: Tensor) -> tuple[Tensor, ...]:
        bars = rips_barcode(points, max_dim, **options)
        return (bars[0].death, *(value for bar in bars[1:] for value in (bar.birth, bar.death)))

    return function


# --- right where there is a derivative ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_dim", [0, 1])
@pytest.mark.parametrize("metric", [*METRICS, euclidean], ids=[*METRICS, "callable"])
def test_first_and_second_derivatives_are_those_of_finite_differences(metric: Any, max_dim: int) -> None:
    points = with_loops()
    if metric in ("cosine", "angular"):  # a loop of directions
        points = points + torch.tensor([0.0, 0.0, 2.0])
    points.requires_grad_()
    function = births_and_deaths(max_dim, metric=metric)
    values = function(points)
    assert max_dim == 0 or len(values[1]) > 0  # there is a loop
    assert gradcheck(function, points)
    assert gradgradcheck(function, points)


def test_the_check_of_derivatives_notices_a_wrong_one() -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, points: Tensor) -> Tensor:
            ctx.save_for_backward(points)
            return rips_barcode(points)[0].death

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return torch.zeros_like(ctx.saved_tensors[0])

    with pytest.raises(GradcheckError):
        gradcheck(Wrong.apply, with_loops().requires_grad_())


@pytest.mark.parametrize("max_dim", [0, 1])
def test_derivatives_into_precomputed_distances_are_those_of_finite_differences(max_dim: int) -> None:
    # Finite differences change one entry at a time: by 1e-6, which the check of symmetry lets pass as rounding.
    distances = pairwise_distances(with_loops()).requires_grad_()
    function = births_and_deaths(max_dim, metric="precomputed")
    assert gradcheck(function, distances)
    assert gradgradcheck(function, distances)  # it is linear: the second derivative is zero


@pytest.mark.parametrize("essential", ["drop", "enclosing_radius"])
@pytest.mark.parametrize("threshold", [INF, 1.8])
def test_derivatives_under_thresholds_masks_and_essential_bars_are_right(threshold: float, essential: str) -> None:
    batch = torch.stack([with_loops(), with_loops() + 0.1 * gaussian(10, 3, seed=8)]).requires_grad_()
    mask = torch.ones(2, 10, dtype=torch.bool)
    mask[1, [2, 7]] = False
    function = births_and_deaths(1, mask=mask, threshold=threshold, essential=essential)
    assert gradcheck(function, batch)
    assert gradgradcheck(function, batch)


@pytest.mark.parametrize("quantity", [persistent_entropy, entropy_deficit])
def test_derivatives_of_the_entropy_of_a_cloud_are_right(quantity: Any) -> None:
    def function(points: Tensor) -> tuple[Tensor, ...]:
        return tuple(quantity(bars) for bars in rips_barcode(points, 1))

    two_circles = torch.cat([polygon(6), 0.5 * polygon(6) + 5]) + 0.05 * gaussian(12, 2)
    points = two_circles.requires_grad_()
    assert len(rips_barcode(points, 1)[1]) == 2
    assert gradcheck(function, points)
    assert gradgradcheck(function, points)


@pytest.mark.parametrize("metric", list(METRICS))
def test_edge_length_has_the_derivatives_of_finite_differences(metric: str) -> None:
    points = gaussian(2, 6, 4).requires_grad_()
    edge = torch.tensor([[[1, 0], [5, 2], [3, 3], [2, 5]], [[4, 0], [0, 4], [1, 0], [5, 5]]])
    assert gradcheck(lambda p: edge_length(p, edge, metric), points)
    assert gradgradcheck(lambda p: edge_length(p, edge, metric), points)


# --- identities ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", TRANSLATION_INVARIANT)
def test_gradients_sum_to_zero_because_translation_changes_nothing(metric: str) -> None:
    points = gaussian(2, 20, 3).requires_grad_()
    for bars in rips_barcode(points, 1, metric=metric):
        weight = gaussian(*bars.death.shape, seed=1)
        (gradient,) = torch.autograd.grad((weight * bars.persistence).sum(), points, retain_graph=True)
        assert gradient.abs().sum() > 0.1
        torch.testing.assert_close(gradient.sum(-2), torch.zeros(2, 3, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("metric", list(METRICS))
def test_gradients_against_the_points_give_the_degree_of_homogeneity(metric: str) -> None:
    # Euler: <points, gradient> = degree * value; lengths have degree 1, angles 0.
    points = gaussian(15, 3).requires_grad_()
    total = torch.stack([bars.persistence.sum() for bars in rips_barcode(points, 1, metric=metric)]).sum()
    (gradient,) = torch.autograd.grad(total, points)
    degree = 0 if metric in ("cosine", "angular") else 1
    assert gradient.abs().sum() > 0.1
    assert (points * gradient).sum().item() == pytest.approx(degree * total.item(), abs=1e-12)


@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize("quantity", [persistent_entropy, entropy_deficit])
def test_the_gradient_of_the_entropy_is_orthogonal_to_the_points_because_scale_changes_nothing(
    quantity: Any, metric: str
) -> None:
    points = gaussian(15, 3).requires_grad_()
    value = torch.stack([quantity(bars) for bars in rips_barcode(points, 1, metric=metric)]).sum()
    (gradient,) = torch.autograd.grad(value, points)
    assert gradient.abs().sum() > 0.01
    assert (points * gradient).sum().item() == pytest.approx(0, abs=1e-13)


def test_the_gradient_of_a_regular_simplex_s_deficit_is_zero() -> None:
    points = torch.eye(6, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(entropy_deficit(rips_barcode(points)[0]), points)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-15)


# --- known gradients ----------------------------------------------------------------------------------------------------------


def test_two_points_have_the_gradient_that_gudhi_s_test_states() -> None:
    # one bar, d = sqrt(2); loss (d / 2)² = d² / 4, gradient (x - y) / 2
    points = torch.tensor([[1.0, 1.0], [2.0, 2.0]], requires_grad=True)
    bars = rips_barcode(points)[0]
    (0.5 * bars.persistence).square().sum().backward()
    torch.testing.assert_close(points.grad, torch.tensor([[-0.5, -0.5], [0.5, 0.5]]), rtol=1e-6, atol=0)


def test_the_square_of_side_two_has_the_gradient_of_its_first_three_sides() -> None:
    points = torch.tensor([[0.0, 0.0], [0.0, 2.0], [2.0, 2.0], [2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    components, loops = rips_barcode(points, 1)
    assert components.death.tolist() == [2, 2, 2]
    # Sides by (larger, smaller vertex): (1, 0), (2, 1), (3, 0), (3, 2). The first three are the tree, the last one starts the loop.
    assert components.death_edge.tolist() == [[1, 0], [2, 1], [3, 0]]
    (gradient,) = torch.autograd.grad(components.death.sum(), points, retain_graph=True)
    # (1, 0) pulls 0 down and 1 up; (2, 1) pulls 1 left and 2 right; (3, 0) pulls 0 left and 3 right.
    torch.testing.assert_close(gradient, torch.tensor([[-1.0, -1], [-1, 1], [1, 0], [1, 0]], dtype=torch.float64))
    assert loops.birth_edge.tolist() == [[3, 2]]
    # The diagonals (2, 0) and (3, 1) are equally long; the second completes the tetrahedron, but the first fills the loop.
    assert loops.death_edge.tolist() == [[2, 0]]
    (gradient,) = torch.autograd.grad(loops.persistence.sum(), points)
    r = math.sqrt(0.5)
    # death: 0 and 2 along the diagonal; birth: 2 up, 3 down, subtracted
    expected = [[-r, -r], [0, 0], [r, r - 1], [0, 1]]
    torch.testing.assert_close(gradient, torch.tensor(expected, dtype=torch.float64))


def test_collinear_points_have_a_gradient_at_the_ends_only() -> None:
    # deaths sum to the distance between the ends, whatever lies between
    points = torch.tensor([[0.0], [1.0], [3.0], [7.0]], requires_grad=True)
    rips_barcode(points)[0].death.sum().backward()
    assert points.grad is not None
    assert points.grad.flatten().tolist() == [-1, 0, 0, 1]


# --- finite and zero where there is no derivative -----------------------------------------------------------------------------

COLLAPSED: dict[str, tuple[Tensor, Tensor | None]] = {
    "one point": (torch.ones(1, 3), None),
    "all points equal": (torch.full((6, 3), 0.3), None),
    "all points zero": (torch.zeros(6, 3), None),
    "one real point": (gaussian(5, 3, dtype=torch.float32), torch.tensor([False, False, True, False, False])),
    "a batch of equal points": (torch.ones(3, 4, 2), None),
}


@pytest.mark.parametrize("essential", ["drop", "enclosing_radius", "infinite"])
@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize("name", list(COLLAPSED))
def test_a_collapsed_cloud_has_gradient_zero_once_and_twice(name: str, metric: str, essential: str) -> None:
    cloud, mask = COLLAPSED[name]
    points = cloud.clone().requires_grad_()
    bars = rips_barcode(points, 1, mask=mask, metric=metric, essential=essential)
    finite = torch.cat([bar.persistence[bar.persistence.isfinite()].flatten() for bar in bars])
    assert (finite == 0).all()
    (gradient,) = torch.autograd.grad(finite.sum() + 0 * points.sum(), points, create_graph=True)
    assert (gradient == 0).all()
    (second,) = torch.autograd.grad(gradient.sum() + 0 * points.sum(), points)
    assert (second == 0).all()
    for quantity in (persistent_entropy, entropy_deficit):
        value = torch.stack(
            [quantity(bar).sum() for bar in rips_barcode(points, 1, mask=mask, metric=metric, essential=essential)]
        )
        assert value.isfinite().all()
        (gradient,) = torch.autograd.grad(value.sum() + 0 * points.sum(), points)
        assert (gradient == 0).all()


@pytest.mark.parametrize("metric", list(METRICS))
def test_duplicates_neither_attract_nor_repel(metric: str) -> None:
    # 0 and 1, 2 and 3 coincide; the only long edge of the tree joins the two places
    place = gaussian(2, 3)
    points = place.repeat_interleave(2, dim=0).requires_grad_()
    (bars,) = rips_barcode(points, metric=metric)
    assert bars.death_edge.tolist() == [[1, 0], [3, 2], [2, 0]]
    (gradient,) = torch.autograd.grad(bars.death.sum(), points, create_graph=True)
    assert (gradient[[1, 3]] == 0).all()
    assert (gradient[[0, 2]].abs().sum(-1) > 0.1).all()
    (second,) = torch.autograd.grad(gradient.square().sum(), points)
    assert second.isfinite().all()
    assert (second[[1, 3]] == 0).all()


@pytest.mark.parametrize("tiny", [1e-20, 1e-30, 1e-38])
def test_nearly_coincident_points_have_a_finite_gradient_of_length_one(tiny: float) -> None:
    # In float32 the square of 1e-30 is zero. The length is then zero too, or right; the gradient is zero, or a unit vector.
    points = torch.tensor([[0.0, 0.0], [tiny, 0.0]], requires_grad=True)
    (bars,) = rips_barcode(points)
    (gradient,) = torch.autograd.grad(bars.death.sum(), points)
    if bars.death.item() == 0:
        assert (gradient == 0).all()
    else:
        assert bars.death.item() == pytest.approx(tiny, rel=1e-2)
        torch.testing.assert_close(gradient, torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), rtol=1e-2, atol=0)


def test_padding_has_gradient_zero() -> None:
    points = gaussian(3, 8, 2).requires_grad_()
    mask = torch.ones(3, 8, dtype=torch.bool)
    mask[0, 2:6] = False
    mask[2] = torch.arange(8) == 5
    for essential in ("drop", "enclosing_radius"):
        bars = rips_barcode(points, 1, mask=mask, essential=essential)
        total = torch.stack([bar.death.sum() + bar.birth.sum() + bar.persistence.square().sum() for bar in bars]).sum()
        (gradient,) = torch.autograd.grad(total, points, create_graph=True)
        assert (gradient[~mask] == 0).all()
        assert (gradient[2] == 0).all()
        assert gradient.isfinite().all()
        (second,) = torch.autograd.grad(gradient.square().sum(), points)
        assert second.isfinite().all()
        assert (second[~mask] == 0).all()


def test_padding_has_gradient_zero_in_precomputed_distances() -> None:
    distances = pairwise_distances(gaussian(2, 7, 2))
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 3:] = False
    distances[1, 3:] = math.nan
    distances[1, :, 3:] = math.nan
    distances.requires_grad_()
    bars = rips_barcode(distances, 1, mask=mask, metric="precomputed", essential="enclosing_radius")
    (gradient,) = torch.autograd.grad(torch.stack([bar.death.sum() for bar in bars]).sum(), distances)
    assert gradient.isfinite().all()
    assert (gradient[1, 3:] == 0).all()
    assert (gradient[1, :, 3:] == 0).all()


def test_ties_have_a_finite_gradient_that_sums_to_zero() -> None:
    points = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).requires_grad_()
    bars = rips_barcode(points, 1)
    (gradient,) = torch.autograd.grad(bars[0].death.sum() + bars[1].persistence.sum(), points)
    assert gradient.isfinite().all()
    torch.testing.assert_close(gradient.sum(0), torch.zeros(2), rtol=0, atol=1e-5)


# --- the same by every way ----------------------------------------------------------------------------------------------------


def total(points: Tensor, mask: Tensor | None = None, metric: str = "euclidean", essential: str = "drop") -> Tensor:
    """A scalar of the H0 bars that depends on each of them differently."""
    (bars,) = rips_barcode(points, mask=mask, metric=metric, essential=essential)
    return bars.persistence.sin().sum() + entropy_deficit(bars).sum()


@pytest.mark.parametrize("metric", [*METRICS, "precomputed"])
def test_torch_func_grad_is_autograd(metric: str) -> None:
    points = gaussian(9, 9)
    if metric == "precomputed":
        points = pairwise_distances(points)
    by_func, value = torch.func.grad_and_value(lambda p: total(p, metric=metric))(points)
    points.requires_grad_()
    expected = total(points, metric=metric)
    (gradient,) = torch.autograd.grad(expected, points)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(by_func, gradient)


@pytest.mark.parametrize("metric", [*METRICS, "precomputed"])
def test_vmap_is_a_loop(metric: str) -> None:
    batch = gaussian(4, 8, 8)
    if metric == "precomputed":
        batch = pairwise_distances(batch)

    def function(points: Tensor) -> tuple[Tensor, ...]:
        (bars,) = rips_barcode(points, metric=metric)
        return bars.birth, bars.death, bars.persistence, bars.birth_edge, bars.death_edge, bars.mask

    mapped = torch.func.vmap(function)(batch)
    for cloud in range(4):
        for a, b in zip(mapped, function(batch[cloud]), strict=True):
            torch.testing.assert_close(a[cloud], b)
    for a, b in zip(torch.func.vmap(function)(batch.unsqueeze(0)), function(batch), strict=True):
        torch.testing.assert_close(a[0], b)
    moved = torch.func.vmap(function, in_dims=1)(batch.movedim(0, 1))
    for a, b in zip(moved, mapped, strict=True):
        torch.testing.assert_close(a, b)


def test_vmap_maps_masks_too() -> None:
    batch, mask = gaussian(4, 8, 3), torch.rand(4, 8, generator=torch.Generator().manual_seed(0)) < 0.6
    mask[:, 5] = True
    mapped = torch.func.vmap(total)(batch, mask)
    torch.testing.assert_close(mapped, torch.stack([total(batch[cloud], mask[cloud]) for cloud in range(4)]))
    shared = torch.func.vmap(total, in_dims=(0, None))(batch, mask[0])
    torch.testing.assert_close(shared, torch.stack([total(batch[cloud], mask[0]) for cloud in range(4)]))


def test_gradients_for_each_sample_are_a_loop() -> None:
    batch = gaussian(4, 8, 3)
    mapped = torch.func.vmap(torch.func.grad(total))(batch)
    for cloud in range(4):
        torch.testing.assert_close(mapped[cloud], torch.func.grad(total)(batch[cloud]))


@pytest.mark.parametrize("metric", list(METRICS))
def test_lengths_may_be_changed_in_place(metric: str) -> None:
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [9.0, -2.0]], requires_grad=True)

    def of(change: Any) -> Tensor:
        return torch.autograd.grad(change(rips_barcode(points, metric=metric)[0].death).sum(), points)[0]

    assert torch.equal(of(lambda death: death.mul_(10.0)), of(lambda death: death * 10.0))
    bars = rips_barcode(points, metric=metric)[0]
    bars.death.detach().zero_()  # what is told to nobody does not change the gradient
    assert torch.equal(torch.autograd.grad(bars.death.sum(), points)[0], of(lambda death: death))


# torch's own: forward-mode differentiation loads decompositions that it still writes with torch.jit.script.
@pytest.mark.filterwarnings(r"ignore:.torch\.jit\.script. is (deprecated|not supported):DeprecationWarning")
@pytest.mark.parametrize("metric", list(METRICS))
def test_forward_mode_is_reverse_mode(metric: str) -> None:
    points, direction = gaussian(8, 3), gaussian(8, 3, seed=1)

    def quantities(points: Tensor) -> Tensor:
        bars = rips_barcode(points, metric=metric)[0]
        return torch.stack([bars.death.sum(), entropy_deficit(bars)])

    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(quantities(forward_ad.make_dual(points, direction))).tangent
    jacobian = torch.autograd.functional.jacobian(quantities, points)
    assert torch.allclose(tangent, (jacobian * direction).sum((-2, -1)))


@pytest.mark.parametrize("metric", list(METRICS))
def test_several_gradients_at_once_are_those_one_by_one(metric: str) -> None:
    points = with_loops().requires_grad_()
    for dim in (0, 1):

        def make(dim: int = dim) -> Tensor:
            return rips_barcode(points, dim, metric=metric)[dim].death

        death = make()
        together = torch.autograd.grad(death, points, torch.eye(len(death)).to(death), is_grads_batched=True)[0]
        one_by_one = [torch.autograd.grad(make()[at], points)[0] for at in range(len(death))]
        assert torch.allclose(together, torch.stack(one_by_one))


# torch's own: forward-mode differentiation loads decompositions that it still writes with torch.jit.script.
@pytest.mark.filterwarnings(r"ignore:.torch\.jit\.script. is (deprecated|not supported):DeprecationWarning")
@pytest.mark.parametrize("metric", list(METRICS))
def test_the_hessian_is_symmetric_and_the_same_by_both_ways(metric: str) -> None:
    points = gaussian(7, 2)
    hessian = torch.func.hessian(lambda p: total(p, metric=metric))(points).reshape(14, 14)
    assert hessian.abs().sum() > 0.1
    torch.testing.assert_close(hessian, hessian.T, rtol=1e-9, atol=1e-12)
    by_autograd = torch.autograd.functional.hessian(lambda p: total(p, metric=metric), points).reshape(14, 14)
    torch.testing.assert_close(by_autograd, hessian, rtol=1e-9, atol=1e-12)


def test_a_gradient_penalty_can_be_trained_on() -> None:
    points = gaussian(10, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(total(points), points, create_graph=True)
    gradient.square().sum().backward()
    assert points.grad is not None
    assert points.grad.isfinite().all()
    assert points.grad.abs().sum() > 0


def test_checkpointing_changes_nothing() -> None:
    from torch.utils.checkpoint import checkpoint

    points = gaussian(10, 3).requires_grad_()
    (expected,) = torch.autograd.grad(total(points), points)
    (found,) = torch.autograd.grad(checkpoint(total, points, use_reentrant=False), points)
    assert torch.equal(found, expected)


def test_backward_twice_accumulates() -> None:
    points = gaussian(10, 3).requires_grad_()
    value = total(points)
    value.backward(retain_graph=True)
    assert points.grad is not None
    once = points.grad.clone()
    value.backward()
    assert torch.equal(points.grad, 2 * once)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("essential", ["drop", "enclosing_radius"])
@pytest.mark.parametrize("masked", [False, True], ids=["all real", "masked"])
def test_compiled_is_eager(masked: bool, essential: str, backend: str) -> None:
    if backend == "inductor" and (masked or essential != "drop"):
        pytest.skip("one inductor compilation is enough; aot_eager traces the other cases")
    batch = gaussian(3, 9, 4, dtype=torch.float32).requires_grad_()
    mask = None
    if masked:
        mask = torch.ones(3, 9, dtype=torch.bool)
        mask[1, 4:] = False
    torch.compiler.reset()
    compiled = torch.compile(total, fullgraph=True, backend=backend)
    single = batch[0].detach().clone().requires_grad_()
    for points, real in ((batch, mask), (single, None if mask is None else mask[1])):
        found, expected = (function(points, real, "euclidean", essential) for function in (compiled, total))
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(*(torch.autograd.grad(value, points)[0] for value in (found, expected)))


@pytest.mark.parametrize("metric", [*METRICS, "precomputed"])
def test_every_metric_compiles_into_one_graph(metric: str) -> None:
    points = gaussian(8, 8)
    if metric == "precomputed":
        points = pairwise_distances(points)
    points.requires_grad_()
    torch.compiler.reset()
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    found, expected = compiled(points, None, metric), total(points, None, metric)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, points)[0] for value in (found, expected)))


def test_a_compiled_model_with_the_layer_trains_like_the_eager_one() -> None:
    from simplicial_reg import VietorisRips

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode = torch.nn.Linear(6, 3)
            self.barcode = VietorisRips()

        def forward(self, points: Tensor) -> Tensor:
            return entropy_deficit(self.barcode(self.encode(points))[0])

    torch.manual_seed(0)
    model = Model()
    points = gaussian(12, 6, dtype=torch.float32)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    gradients = []
    for function in (model, compiled):
        model.zero_grad()
        function(points).backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("metric", [*METRICS, euclidean], ids=[*METRICS, "callable"])
def test_an_autocast_region_computes_in_float32(metric: Any) -> None:
    points = gaussian(20, 16, dtype=torch.float32).requires_grad_()
    expected = rips_barcode(points, 1, metric=metric)
    (gradient,) = torch.autograd.grad(expected[0].death.sum(), points)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = rips_barcode(points, 1, metric=metric)
        (again,) = torch.autograd.grad(found[0].death.sum(), points)
        product = points @ points.T
    assert product.dtype == torch.bfloat16  # it was on
    for a, b in zip(found, expected, strict=True):
        assert a.death.dtype == torch.float32
        assert torch.equal(a.death, b.death)
        assert torch.equal(a.death_edge, b.death_edge)
    torch.testing.assert_close(again, gradient)


def test_autocast_is_switched_off_around_a_callable_metric() -> None:
    seen = []

    def metric(points: Tensor) -> Tensor:
        seen.append((points @ points.mT).dtype)
        return euclidean(points)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        rips_barcode(gaussian(6, 2, dtype=torch.bfloat16), metric=metric)
    assert seen == [torch.float32]


def test_gradients_flow_through_an_encoder_in_autocast() -> None:
    torch.manual_seed(0)
    encoder = torch.nn.Linear(8, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        bars = rips_barcode(encoder(gaussian(16, 8, dtype=torch.float32)))[0]
        assert bars.death.dtype == torch.float32
        entropy_deficit(bars).backward()
    assert encoder.weight.grad is not None
    assert encoder.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("max_dim", [0, 1])
def test_threads_share_nothing(max_dim: int) -> None:
    from concurrent.futures import ThreadPoolExecutor

    clouds = [gaussian(30, 3, seed=seed) for seed in range(12)]

    def gradient(cloud: Tensor) -> Tensor:
        points = cloud.clone().requires_grad_()
        bars = rips_barcode(points, max_dim)
        return torch.autograd.grad(torch.stack([bar.persistence.square().sum() for bar in bars]).sum(), points)[0]

    with ThreadPoolExecutor(4) as pool:
        for found, cloud in zip(pool.map(gradient, clouds), clouds, strict=True):
            assert torch.equal(found, gradient(cloud))


@pytest.mark.parametrize("clouds", [1, 2, 3, 7, 48])  # of some of them each thread has as many, of others only parts
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_lengths_and_gradients_are_the_same_bits_for_any_number_of_threads(
    clouds: int, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_threads, "WORTH_A_THREAD", 1)
    points = gaussian(clouds, 37, 20, dtype=torch.float32).requires_grad_()
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            (bars,) = rips_barcode(points, metric=metric)
            found.append((bars.death, torch.autograd.grad(bars.death.square().sum(), points)[0]))
    finally:
        torch.set_num_threads(before)
    for death, gradient in found[1:]:
        assert torch.equal(death, found[0][0])
        assert torch.equal(gradient, found[0][1])
    expected = torch.autograd.grad(edge_length(points.double(), bars.death_edge, metric).square().sum(), points)[0]
    torch.testing.assert_close(found[0][1], expected)


def test_descent_on_the_deficit_evens_out_the_bars() -> None:
    points = gaussian(32, 8, dtype=torch.float32).requires_grad_()
    optimizer = torch.optim.Adam([points], lr=0.05)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        value = entropy_deficit(rips_barcode(points)[0])
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.1 * values[0]


# torch's own: the compiler looks at .grad of what it hands over a break in the graph.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_compiled_function_with_loops_is_eager() -> None:
    # H1 has as many bars as it has, so it runs between two graphs; only fullgraph=True is not to be had.
    def function(points: Tensor) -> Tensor:
        components, loops = rips_barcode(2 * points, 1)
        return components.death.sin().sum() + loops.persistence.cos().sum()

    points = with_loops().requires_grad_()
    torch.compiler.reset()
    found, expected = torch.compile(function, backend="aot_eager")(points), function(points)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, points)[0] for value in (found, expected)))


def test_a_compiled_loss_takes_clouds_of_other_sizes() -> None:
    torch.compiler.reset()
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    for clouds, n in ((2, 8), (2, 9), (3, 13), (1, 5)):  # from the second on with symbolic sizes
        points = gaussian(clouds, n, 3, seed=n).requires_grad_()
        found, expected = compiled(points), total(points)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(*(torch.autograd.grad(value, points)[0] for value in (found, expected)))


# torch's own: its checks of operators call deprecated parts of torch.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::FutureWarning:torch")
@pytest.mark.parametrize("masked", [False, True], ids=["all real", "masked"])
@pytest.mark.parametrize("operator", ["pairwise_lengths", "symmetrized", "spanning_tree"])
def test_the_operators_keep_the_promises_that_torch_asks_of_one(operator: str, masked: bool) -> None:
    points = gaussian(2, 6, 3)
    distances = pairwise_distances(points)
    mask = torch.tensor([[True] * 6, [False, True, True, False, True, True]]) if masked else None
    arguments: dict[str, tuple[Any, ...]] = {
        "pairwise_lengths": (points, "euclidean"),
        "symmetrized": (distances, "points"),
        "spanning_tree": (distances, mask),
    }
    torch.library.opcheck(getattr(torch.ops.simplicial_reg, operator).default, arguments[operator])
