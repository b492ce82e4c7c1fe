"""Losses that compare two barcodes: formulas written out, other programs, both clouds, singular input, messages.

What they have in common with losses of one cloud (derivatives, masks, labels, metrics) is in `tests.test_topological_losses`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from simplicial_reg.regularizers import RTDLoss, TopologicalSignatureLoss, TotalPersistenceLoss, comparison
from tests.test_topological_losses import INF, SINGULAR, TWO_CLOUDS, cloud, gradient, lengths_of, partner

every_comparison = pytest.mark.parametrize("name", TWO_CLOUDS)


def written_out_distances(points: Tensor, quantile: float | None) -> Any:
    x = points.detach().numpy()
    distances = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
    return distances if quantile is None else distances / np.quantile(distances, quantile)


def tree_edges(distances: Any) -> list[tuple[int, int]]:
    """Prim 1957."""
    inside, edges = {0}, []
    while len(inside) < len(distances):
        i, j = min(
            ((i, j) for i in inside for j in range(len(distances)) if j not in inside), key=lambda e: distances[e]
        )
        inside.add(j)
        edges.append((i, j))
    return edges


@pytest.mark.parametrize("quantile", [None, 1.0, 0.7])
@pytest.mark.parametrize("squared", [True, False])
def test_the_signature_loss_is_its_formula(quantile: float | None, squared: bool) -> None:
    points, other = cloud(11, seed=1), cloud(11, 5, seed=2)
    x, z = written_out_distances(points, quantile), written_out_distances(other, quantile)
    wanted = {}
    for direction, edges in (("forward", tree_edges(x)), ("backward", tree_edges(z))):
        square = sum((x[edge] - z[edge]) ** 2 for edge in edges)
        wanted[direction] = (square if squared else math.sqrt(square)) / 2
    wanted["both"] = sum(wanted.values())
    for direction, value in wanted.items():
        loss = TopologicalSignatureLoss(direction=direction, quantile=quantile, squared=squared)
        assert loss(points, other).item() == pytest.approx(value)


@pytest.mark.parametrize("masked", [False, True])
def test_the_largest_distance_is_the_last_of_equal_ones_in_a_sort(masked: bool) -> None:
    points = torch.randint(0, 3, (5, 9, 2), generator=torch.Generator().manual_seed(0)).double()
    points[4] = 0  # all in one place
    distances = torch.cdist(points, points)
    mask = torch.rand(5, 9, generator=torch.Generator().manual_seed(1)) < 0.6 if masked else None
    found = comparison._largest(distances, mask)
    for number in range(5):
        real = np.arange(9) if mask is None else mask[number].nonzero().flatten().numpy()
        last = distances[number].numpy()[np.ix_(real, real)].ravel().argsort(kind="stable")[-1]
        assert found[number, 0].tolist() == [real[last // len(real)], real[last % len(real)]]


def test_the_signature_loss_of_loops_compares_persistences_along_the_same_edges() -> None:
    gudhi = pytest.importorskip("gudhi")
    points, other = cloud(12, 2, seed=1), cloud(12, 3, seed=2)
    x, z = written_out_distances(points, None), written_out_distances(other, None)
    tree = gudhi.RipsComplex(distance_matrix=x).create_simplex_tree(max_dimension=2)
    tree.compute_persistence(homology_coeff_field=2)
    components, loops, _, _ = tree.flag_persistence_generators()
    wanted = sum((x[u, v] - z[u, v]) ** 2 for _, u, v in components) / 2
    assert len(loops[0]) > 0
    wanted += sum(((x[c, d] - x[a, b]) - (z[c, d] - z[a, b])) ** 2 for a, b, c, d in loops[0]) / 2
    loss = TopologicalSignatureLoss(1, direction="forward", quantile=None)
    assert loss(points, other).item() == pytest.approx(wanted)


@pytest.mark.parametrize(("quantile", "normalise"), [(1.0, True), (None, False)])
def test_the_signature_loss_of_norms_is_that_of_torch_topological(quantile: float | None, normalise: bool) -> None:
    nn = pytest.importorskip("torch_topological.nn")
    clouds = [cloud(13, seed=1).requires_grad_(), cloud(13, 5, seed=2).requires_grad_()]
    complex_ = nn.VietorisRipsComplex(dim=0)
    theirs = nn.SignatureLoss(p=2, normalise=normalise, dimensions=0)(*([x, complex_(x)] for x in clouds))
    ours = TopologicalSignatureLoss(squared=False, quantile=quantile)(*clouds)
    assert torch.allclose(ours, theirs, rtol=1e-9)
    for found, wanted in zip(torch.autograd.grad(ours, clouds), torch.autograd.grad(theirs, clouds), strict=True):
        assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-12)


def gudhi_h1(matrix: Any) -> Any:
    gudhi = pytest.importorskip("gudhi")
    tree = gudhi.RipsComplex(distance_matrix=matrix).create_simplex_tree(max_dimension=2)
    tree.compute_persistence(homology_coeff_field=2)
    bars = tree.persistence_intervals_in_dimension(1)
    return bars[:, 1] - bars[:, 0]


@pytest.mark.parametrize("quantile", [None, 0.9, 0.25])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_rtd_is_the_sum_of_the_h1_bars_of_the_doubled_matrix(quantile: float | None, power: float) -> None:
    for seed in range(3):
        points, other = cloud(10, 2, seed=seed), cloud(10, 4, seed=seed + 50)
        x, z = written_out_distances(points, quantile), written_out_distances(other, quantile)
        wanted = {}
        for direction, of in (("forward", x), ("backward", z)):
            doubled = np.block([[np.zeros_like(of), of], [of, np.minimum(x, z)]])
            wanted[direction] = (gudhi_h1(doubled) ** power).sum()
        wanted["both"] = sum(wanted.values()) / 2
        assert min(wanted.values()) > 0
        for direction, value in wanted.items():
            loss = RTDLoss(direction=direction, quantile=quantile, power=power)
            assert loss(points, other).item() == pytest.approx(value), direction


def test_the_default_quantile_of_rtd_is_the_authors() -> None:
    assert RTDLoss().quantile == 0.9
    assert RTDLoss().power == 1.0


@every_comparison
def test_gradients_flow_into_both_clouds(name: str) -> None:
    points, other = cloud(8, seed=1).requires_grad_(), cloud(8, 4, seed=2).requires_grad_()
    loss = TWO_CLOUDS[name]()
    assert torch.autograd.gradcheck(loss, (points, other))
    for grad in torch.autograd.grad(loss(points, other), (points, other)):
        assert grad.abs().max() > 1e-3
    assert torch.allclose(
        gradient(lambda x: loss(x, other.detach()), points), gradient(lambda x: loss(x, other), points)
    )


@every_comparison
def test_a_cloud_alone_is_compared_with_itself_and_warned_of(name: str) -> None:
    loss = TWO_CLOUDS[name]()
    points = cloud(8, seed=1).float().requires_grad_()
    with pytest.warns(
        UserWarning, match=f"{type(loss).__name__} compares two clouds, and other was not given"
    ) as caught:
        value = loss(points)
    assert caught[0].filename == __file__
    assert value == 0
    value.backward()
    assert points.grad is not None
    assert (points.grad == 0).all()


@every_comparison
def test_equal_clouds_have_loss_zero_and_gradient_zero(name: str) -> None:
    for points in (cloud(8, seed=1), *SINGULAR.values()):
        loss = TWO_CLOUDS[name]()
        assert loss(points, points.clone()) == 0
        assert (gradient(lambda x, loss=loss, points=points: loss(x, points), points) == 0).all()


def test_rtd_of_a_collapsed_cloud_is_half_the_spanning_tree_of_the_other() -> None:
    points = cloud(8, seed=1)
    collapsed = torch.ones(8, 2, dtype=torch.float64)
    wanted = lengths_of(points).sum().item() / 2
    assert RTDLoss(quantile=None)(points, collapsed).item() == pytest.approx(wanted)
    assert RTDLoss(quantile=None)(collapsed, points).item() == pytest.approx(wanted)
    assert RTDLoss(quantile=None, direction="backward")(points, collapsed) == 0
    assert (gradient(lambda z: RTDLoss()(points, z), collapsed) == 0).all()
    assert RTDLoss()(points, collapsed) > RTDLoss()(points, partner(points))


@pytest.mark.parametrize("kind", [TopologicalSignatureLoss, RTDLoss])
def test_a_precomputed_distance_of_zero_is_a_variable_like_any_other(
    kind: type[TopologicalSignatureLoss | RTDLoss],
) -> None:
    points = cloud(6, seed=1)
    zero = torch.zeros(6, 6, dtype=torch.float64)
    loss = kind(metric="precomputed", quantile=None)
    assert gradient(lambda z: loss(torch.cdist(points, points), z), zero).abs().max() > 0


def test_the_signature_of_a_collapsed_cloud_costs_the_squares_of_the_others_edges() -> None:
    points = cloud(8, seed=1)
    collapsed = torch.ones(8, 2, dtype=torch.float64)
    wanted = lengths_of(points).square().sum().item() / 2
    loss = TopologicalSignatureLoss(quantile=None, direction="forward")
    assert loss(points, collapsed).item() == pytest.approx(wanted)
    assert TopologicalSignatureLoss(quantile=None)(points, collapsed) > loss(points, collapsed) > 0
    assert (gradient(lambda z: loss(points, z), collapsed) == 0).all()


@pytest.mark.parametrize("quantile", [0.01, 0.3, 0.5, 0.9, 1.0])
def test_quantiles_are_those_of_numpy_with_masks_too(quantile: float) -> None:
    points, other = cloud(9, seed=1), cloud(9, 4, seed=2)
    largest = np.quantile(written_out_distances(points, None), quantile)
    if largest == 0:  # the diagonal is a ninth of the entries
        largest = written_out_distances(points, None).max()
    loss = TotalPersistenceLoss()
    scaled = RTDLoss(quantile=quantile, direction="forward")(points, torch.zeros_like(other))  # the tree of points
    assert scaled.item() == pytest.approx(loss(points).item() / largest)
    mask = torch.arange(14) < 9
    padded = torch.nn.functional.pad(points, (0, 0, 0, 5), value=math.nan)
    assert RTDLoss(quantile=quantile, direction="forward")(
        padded, torch.zeros(14, 1), mask=mask
    ).item() == pytest.approx(scaled.item())


def test_the_more_precise_of_two_types_is_used() -> None:
    points, other = cloud(8, seed=1), cloud(8, seed=2)
    for loss in (TopologicalSignatureLoss(), RTDLoss()):
        assert loss(points.float(), other).dtype == loss(points, other.bfloat16()).dtype == torch.float64
        assert loss(points.half(), other.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("name", ["signature", "signature, norms", "rtd"])
def test_comparisons_of_normalised_distances_depend_on_neither_scale(name: str) -> None:
    loss, points = TWO_CLOUDS[name](), cloud(11, seed=6)
    wanted = loss(points, partner(points))
    assert wanted > 0
    assert torch.allclose(loss(1e-3 * points, 1e5 * partner(points)), wanted, rtol=1e-9)


# --- messages -----------------------------------------------------------------------------------------------------------------


def wrong() -> Iterator[tuple[Callable[[], Any], type[Exception], str]]:
    points = cloud(5)
    yield lambda: RTDLoss(metric="precomputed", per_label=True), ValueError, "per_label must be False with metric="
    yield lambda: RTDLoss(power=0), ValueError, "power must be positive and finite; got 0"
    yield lambda: RTDLoss(power=INF), ValueError, "power must be positive and finite; got inf"
    yield lambda: RTDLoss(quantile=1.5), ValueError, "quantile must be None or in (0, 1]; got 1.5"
    yield lambda: RTDLoss(quantile=0.0), ValueError, "quantile must be None or in (0, 1]; got 0.0"
    yield lambda: RTDLoss(quantile="1"), TypeError, "quantile must be None or a number; got str"
    yield lambda: TopologicalSignatureLoss(0.0), TypeError, "max_dim must be an int; got float"
    yield (
        lambda: RTDLoss(direction="one"),
        ValueError,
        "direction must be one of 'forward', 'backward', 'both'; got 'one'",
    )
    yield (
        lambda: RTDLoss()(points, points[:4]),
        ValueError,
        "other must have as many points as points, row by row: (5,); got (4,)",
    )
    yield (
        lambda: RTDLoss()(points, [points]),
        TypeError,
        "points and other must both be tensors or both be lists; got Tensor and list",
    )
    yield (
        lambda: RTDLoss()([points, points], [points, points[:4]]),
        ValueError,
        "other must have as many points as points, row by row: [5, 5]; got [5, 4]",
    )
    yield lambda: RTDLoss(per_label=True)(points, points), ValueError, "labels must be given with per_label=True"
    yield lambda: RTDLoss()(points, points.long()), TypeError, "must be a floating-point tensor; got torch.int64"
    yield lambda: RTDLoss()(points, points / 0), ValueError, "points must be finite"


@pytest.mark.parametrize(("call", "error", "message"), list(wrong()))
def test_a_wrong_argument_is_named(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
