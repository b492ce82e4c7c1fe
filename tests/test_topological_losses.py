"""Losses of barcodes: their formulas written out, other programs, derivatives, invariances, singular and masked input."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal, localcontext
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from simplicial_reg import Barcode, entropy_deficit, prominent, rips_barcode
from simplicial_reg.regularizers import Regularizer, topological
from simplicial_reg.regularizers.topological import (
    ConnectivityLoss,
    PersistentEntropyLoss,
    RTDLoss,
    TopologicalSignatureLoss,
    TotalPersistenceLoss,
    renyi_deficit,
    shrink_the_longest,
)
from tests.test_prominence import count_by_the_published_code

INF = math.inf
relaxed = settings(deadline=None, max_examples=50)
Loss = Callable[..., Tensor]

ONE_CLOUD: dict[str, Callable[..., Regularizer]] = {
    "entropy": PersistentEntropyLoss,
    "entropy, H1": lambda **rest: PersistentEntropyLoss(1, **rest),
    "log-deficit": lambda **rest: PersistentEntropyLoss(form="log-deficit", **rest),
    "renyi inf": lambda **rest: PersistentEntropyLoss(form="renyi", **rest),
    "renyi 3": lambda **rest: PersistentEntropyLoss(form="renyi", alpha=3.0, **rest),
    "renyi 1/2": lambda **rest: PersistentEntropyLoss(form="renyi", alpha=0.5, **rest),
    "agr2016": lambda **rest: PersistentEntropyLoss(prominent="agr2016", within=0.1, **rest),
    "agr2017": lambda **rest: PersistentEntropyLoss(1, prominent="agr2017", within=-0.1, **rest),
    "shrink-the-longest": lambda **rest: PersistentEntropyLoss(prominent="shrink-the-longest", **rest),
    "total": TotalPersistenceLoss,
    "total, H1": lambda **rest: TotalPersistenceLoss(1, power=2.0, direction="increase", **rest),
    "total, power 1/2": lambda **rest: TotalPersistenceLoss(power=0.5, **rest),
    "connectivity": ConnectivityLoss,
}
TWO_CLOUDS: dict[str, Callable[..., Regularizer]] = {
    "signature": TopologicalSignatureLoss,
    "signature, H1": lambda **rest: TopologicalSignatureLoss(1, direction="forward", quantile=None, **rest),
    "signature, norms": lambda **rest: TopologicalSignatureLoss(squared=False, quantile=0.5, **rest),
    "rtd": RTDLoss,
    "rtd, power 2": lambda **rest: RTDLoss(power=2.0, direction="backward", quantile=None, **rest),
}
MAKE = {**ONE_CLOUD, **TWO_CLOUDS}
every_loss = pytest.mark.parametrize("name", MAKE)
every_comparison = pytest.mark.parametrize("name", TWO_CLOUDS)


def partner(points: Tensor | list[Tensor]) -> Any:
    """The same points in four other coordinates, row by row; NaN stays NaN."""
    if isinstance(points, list):
        return [partner(cloud) for cloud in points]
    mix = torch.linspace(-1, 2, 4 * points.shape[-1], dtype=points.dtype).reshape(points.shape[-1], 4)
    missing = points.isnan().any(-1, keepdim=True)
    mixed = torch.where(missing, 0, points) @ mix  # the derivative of a sine at NaN would hide ours
    return torch.where(missing, math.nan, torch.sin(mixed) + 0.2 * mixed)


def loss_of(name: str, **options: Any) -> Loss:
    """A loss as a function of one cloud; those that compare two get `partner` of the cloud for the other."""
    loss = MAKE[name](**options)
    if name in ONE_CLOUD:
        return loss
    return lambda points, **rest: loss(points, partner(points), **rest)


def cloud(n: int, d: int = 3, seed: int = 0) -> Tensor:
    """Points of two clusters, near circles: there are features, noise and loops."""
    generator = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi * torch.rand(n, generator=generator, dtype=torch.float64)
    points = 0.1 * torch.randn(n, d, generator=generator, dtype=torch.float64)
    points[:, 0] += angle.cos()
    if d > 1:
        points[:, 1] += angle.sin()
    points[::2, 0] += 4
    return points


def gradient(loss: Loss, points: Tensor, **rest: Any) -> Tensor:
    points = points.detach().clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(points, **rest), points)
    return grad


def lengths_of(points: Tensor, dim: int = 0) -> Tensor:
    bars = rips_barcode(points, dim)[dim]
    return bars.persistence[bars.mask]


def bars_of(persistence: Tensor | Sequence[float], mask: Tensor | None = None) -> Barcode:
    if not isinstance(persistence, Tensor):
        persistence = torch.tensor(persistence, dtype=torch.float64)
    mask = torch.ones(persistence.shape, dtype=torch.bool) if mask is None else mask
    edge = torch.zeros(*persistence.shape, 2, dtype=torch.int64)
    return Barcode(0, torch.zeros_like(persistence), persistence, edge, edge, mask)


# --- what all have in common --------------------------------------------------------------------------------------------------


@every_loss
def test_the_gradient_is_the_derivative(name: str) -> None:
    points = cloud(10).requires_grad_()
    assert torch.autograd.gradcheck(loss_of(name), points)
    assert gradient(loss_of(name), points).abs().max() > 1e-3


@every_loss
def test_a_masked_batch_has_the_mean_loss_of_its_clouds(name: str) -> None:
    loss = loss_of(name)
    dense = [cloud(9, seed=1), cloud(12, seed=2), cloud(5, seed=3)]
    mask = torch.zeros(3, 12, dtype=torch.bool)
    points = torch.full((3, 12, 3), math.nan, dtype=torch.float64)
    for at, single in enumerate(dense):
        mask[at, torch.randperm(12, generator=torch.Generator().manual_seed(at))[: len(single)]] = True
        points[at, mask[at]] = single
    wanted = torch.stack([loss(single) for single in dense]).mean()
    assert torch.allclose(loss(points, mask=mask), wanted, rtol=1e-12)
    assert torch.allclose(loss(dense), wanted, rtol=1e-12)  # a list of clouds
    grad = gradient(loss, points, mask=mask)
    assert (grad[~mask] == 0).all()
    for at, single in enumerate(dense):
        assert torch.allclose(grad[at, mask[at]], gradient(loss, single) / 3, rtol=1e-9, atol=1e-15)


@every_loss
def test_per_label_is_the_mean_over_labels_even_of_one_member(name: str) -> None:
    points = cloud(14, seed=4)
    labels = torch.tensor([7, -1, 7, 7, 7, -1, -1, 5, -1, 7, -1, 7, -1, 7])
    together = loss_of(name)
    apart = torch.stack([together(points[labels == label]) for label in (7, -1, 5)]).mean()
    loss = loss_of(name, per_label=True)
    assert torch.allclose(loss(points, labels=labels), apart, rtol=1e-12)
    grad = gradient(loss, points, labels=labels)
    for label in (7, -1, 5):
        of_label = gradient(together, points[labels == label]) / 3
        assert torch.allclose(grad[labels == label], of_label, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(("name", "calls"), [("entropy, H1", 1), ("connectivity", 1), ("signature", 2), ("rtd", 2)])
def test_all_labels_share_one_barcode_call_per_direction(
    name: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []

    def counted(points: Tensor, *arguments: Any, **options: Any) -> tuple[Barcode, ...]:
        shapes.append(points.shape)
        return rips_barcode(points, *arguments, **options)

    monkeypatch.setattr(topological, "rips_barcode", counted)
    loss_of(name, per_label=True)(cloud(12), labels=torch.tensor([0, 1, 2] * 4))
    assert len(shapes) == calls
    assert all(shape[0] == 3 for shape in shapes)


@every_loss
def test_per_label_leaves_masked_points_out(name: str) -> None:
    loss = loss_of(name, per_label=True)
    points, labels = cloud(10, seed=5), torch.tensor([0, 1] * 5)
    mask = torch.arange(10) < 8
    wanted = loss(points[:8], labels=labels[:8])
    points[8:] = math.nan
    assert torch.allclose(loss(points, mask=mask, labels=labels), wanted, rtol=1e-12)


@every_loss
def test_translation_permutation_and_rotation_change_nothing(name: str) -> None:
    loss = MAKE[name]()
    points = cloud(11, seed=6)
    rest = () if name in ONE_CLOUD else (partner(points),)
    wanted = loss(points, *rest)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(loss(points + 100, *rest), wanted, rtol=1e-9)
    assert torch.allclose(loss(points @ rotation, *rest), wanted, rtol=1e-9)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(loss(points[order], *(other[order] for other in rest)), wanted, rtol=1e-12)


@pytest.mark.parametrize(
    "name", ["entropy", "entropy, H1", "log-deficit", "renyi inf", "renyi 3", "renyi 1/2", "shrink-the-longest"]
)
def test_deficits_do_not_depend_on_scale(name: str) -> None:
    loss, points = loss_of(name), cloud(11, seed=6)
    for scale in (1e-30, 1e30):
        assert torch.allclose(loss(scale * points), loss(points), rtol=1e-9)
    grad = gradient(loss, points)
    assert abs((points * grad).sum()) < 1e-12 * grad.norm() * points.norm()


@pytest.mark.parametrize("name", ["signature", "signature, norms", "rtd"])
def test_comparisons_of_normalised_distances_depend_on_neither_scale(name: str) -> None:
    loss, points = MAKE[name](), cloud(11, seed=6)
    wanted = loss(points, partner(points))
    assert wanted > 0
    assert torch.allclose(loss(1e-3 * points, 1e5 * partner(points)), wanted, rtol=1e-9)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_total_persistence_is_homogeneous(power: float) -> None:
    loss, points = TotalPersistenceLoss(1, power=power), cloud(11, seed=6)
    assert torch.allclose(loss(3 * points), 3**power * loss(points), rtol=1e-12)


SINGULAR = {
    "one point": torch.tensor([[3.0, -1.0]]),
    "two points": torch.tensor([[0.0, 0.0], [3.0, 4.0]]),
    "two equal points": torch.ones(2, 2),
    "collapsed": torch.full((6, 2), 7.0),
    "at zero": torch.zeros(6, 2),
    "duplicates": torch.tensor([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0], [1.0, 2.0], [4.0, 4.0], [0.0, 0.0]]),
    "two places": torch.tensor([[0.0, 0.0], [1.0, 2.0]] * 4),
    "equal lengths": torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]),
    "one coordinate": torch.tensor([[0.0], [1.0], [3.0], [4.0], [4.0]]),
    "fewer points than coordinates": torch.eye(5),
    "tiny": 1e-30 * torch.eye(4),
}


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("which", SINGULAR)
def test_singular_clouds_have_finite_losses_and_gradients(name: str, which: str, dtype: torch.dtype) -> None:
    points = SINGULAR[which].clone().to(dtype).requires_grad_()
    value = loss_of(name)(points)
    assert value.isfinite()
    assert value.shape == ()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    value.backward()
    assert points.grad is not None
    assert points.grad.dtype == dtype
    assert points.grad.isfinite().all()


@every_loss
def test_a_collapsed_cloud_and_a_single_point_have_gradient_zero(name: str) -> None:
    for points in (SINGULAR["collapsed"], SINGULAR["one point"]):
        assert (gradient(loss_of(name), points) == 0).all()


@every_loss
def test_half_precision_and_autocast_are_computed_in_float32(name: str) -> None:
    loss = MAKE[name]()
    points = cloud(10, seed=7).bfloat16()
    rest = () if name in ONE_CLOUD else (partner(points.float()).bfloat16(),)
    wanted = loss(points.float(), *(other.float() for other in rest))
    assert torch.equal(loss(points, *rest), wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(points.float(), *(other.float() for other in rest)), wanted)


@every_loss
def test_precomputed_distances_give_the_same_loss(name: str) -> None:
    loss = MAKE[name](metric="precomputed")
    points = cloud(9, seed=8)
    clouds = (points,) if name in ONE_CLOUD else (points, partner(points))
    wanted = MAKE[name]()(*clouds)
    matrices = [torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").requires_grad_() for x in clouds]
    value = loss(*matrices)
    assert torch.allclose(value, wanted, rtol=1e-9)
    assert torch.autograd.gradcheck(loss, matrices)
    # Masked: whatever stands in the rows and columns of padding, and for a list of matrices of different sizes.
    mask = torch.arange(12) < 9
    padded = [torch.full((12, 12), math.nan, dtype=torch.float64) for _ in matrices]
    for at, matrix in enumerate(matrices):
        padded[at][:9, :9] = matrix.detach()
        padded[at].requires_grad_()
    masked = loss(*padded, mask=mask)
    assert torch.allclose(masked, wanted, rtol=1e-9)
    for grad, dense in zip(torch.autograd.grad(masked, padded), torch.autograd.grad(value, matrices), strict=True):
        assert torch.allclose(grad[:9, :9], dense)
        assert (grad[9:] == 0).all()
        assert (grad[:, 9:] == 0).all()
    pair = [[matrix, matrix[:5, :5]] for matrix in matrices]
    mean = (value + loss(*(matrix[:5, :5] for matrix in matrices))) / 2
    assert torch.allclose(loss(*pair), mean, rtol=1e-9)


@every_loss
def test_any_metric_and_a_callable_may_be_used(name: str) -> None:
    points = cloud(9, seed=8)

    def taxicab(x: Tensor) -> Tensor:
        return torch.cdist(x, x, p=1.0)

    mask = torch.arange(9) < 8
    by_name, by_callable = loss_of(name, metric="manhattan"), loss_of(name, metric=taxicab)
    assert torch.allclose(by_callable(points, mask=mask), by_name(points, mask=mask), rtol=1e-9)
    assert torch.allclose(gradient(by_callable, points, mask=mask), gradient(by_name, points, mask=mask), atol=1e-9)
    assert not torch.allclose(by_name(points), loss_of(name)(points))


def test_a_metric_may_be_a_module_whose_parameters_are_trained() -> None:
    class Weighted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))

        def forward(self, points: Tensor) -> Tensor:
            return torch.cdist(points * self.weight, points * self.weight)

    loss = ConnectivityLoss(metric=Weighted())
    loss(cloud(6)).backward()
    (parameter,) = loss.parameters()
    assert (parameter.grad != 0).all()


@every_loss
def test_the_engine_is_used_and_none_changes_the_loss(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    points = cloud(7, seed=9)
    wanted = loss_of(name)(points)
    used = []

    def noted(*arguments: Any, engine: str = "auto", **options: Any) -> tuple[Barcode, ...]:
        used.append(engine)
        return rips_barcode(*arguments, engine=engine, **options)

    monkeypatch.setattr(topological, "rips_barcode", noted)
    assert torch.allclose(loss_of(name, engine="reference")(points), wanted, rtol=1e-12)
    assert set(used) == {"reference"}


@every_loss
def test_the_arguments_are_attributes(name: str) -> None:
    loss = MAKE[name]()
    again = type(loss)(**loss.arguments())
    assert repr(again) == repr(loss)
    assert "metric='euclidean'" in repr(loss)


# --- entropy ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_dim", [0, 1, 2])
def test_the_entropy_loss_is_the_deficit_summed_over_dimensions(max_dim: int) -> None:
    points = cloud(9, seed=3)
    wanted = 0.0
    for dim in range(max_dim + 1):
        lengths = lengths_of(points, dim).numpy()
        shares = lengths / lengths.sum()
        wanted += math.log(len(lengths)) + (shares * np.log(shares)).sum() if len(lengths) else 0.0
    assert PersistentEntropyLoss(max_dim)(points).item() == pytest.approx(wanted, rel=1e-10)


def test_the_log_deficit_is_the_logarithm_of_deficit_and_floor() -> None:
    points = cloud(9, seed=3)
    deficit = PersistentEntropyLoss()(points)
    for floor in (1e-6, 0.5):
        loss = PersistentEntropyLoss(form="log-deficit", floor=floor)
        assert loss(points).item() == pytest.approx(math.log(deficit.item() + floor))
        relative = gradient(PersistentEntropyLoss(), points) / (deficit + floor)
        assert torch.allclose(gradient(loss, points), relative)
    assert PersistentEntropyLoss().floor == 1e-6


def test_the_log_deficit_of_nothing_uneven_is_the_logarithm_of_the_floor() -> None:
    loss = PersistentEntropyLoss(form="log-deficit")
    for which in ("one point", "two points"):
        assert loss(SINGULAR[which]).item() == pytest.approx(math.log(1e-6))
    assert loss(SINGULAR["collapsed"]).item() == pytest.approx(math.log(math.log(5) + 1e-6))


@pytest.mark.parametrize("d", [64, 256, 768])
def test_the_deficit_of_an_isotropic_cloud_is_a_tenth_over_the_dimension(d: int) -> None:
    points = torch.randn(8, 64, d, dtype=torch.float64, generator=torch.Generator().manual_seed(d))
    deficit = PersistentEntropyLoss()(points).item()
    assert 0.08 < d * deficit < 0.12
    assert deficit > 50 * PersistentEntropyLoss().floor


def test_the_floor_lies_between_rounding_and_isotropic_clouds_of_thousands_of_dimensions() -> None:
    isotropic = torch.randn(64, 4096, generator=torch.Generator().manual_seed(0))
    assert PersistentEntropyLoss()(isotropic) > 10 * 1e-6
    simplex = torch.linalg.qr(torch.randn(768, 768, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[
        0
    ][:64]
    loss = PersistentEntropyLoss()
    assert 0 < loss((simplex + 100).float()) < 1e-11
    assert 1e-11 < loss(simplex.bfloat16()) < 1e-8


def test_the_gradient_of_the_log_deficit_is_largest_where_the_deficit_is_the_floor() -> None:
    def slope(deficit: float) -> float:
        spread = math.sqrt(2 * deficit)
        lengths = torch.tensor([1 - spread, 1 + spread] * 8, dtype=torch.float64, requires_grad=True)
        (grad,) = torch.autograd.grad((entropy_deficit(bars_of(lengths)) + 1e-6).log(), lengths)
        return grad.norm().item()

    slopes = [slope(deficit) for deficit in (1e-8, 1e-7, 1e-6, 1e-5, 1e-4)]
    assert max(slopes) == slopes[2]


def test_collapse_costs_most() -> None:
    for name in ("entropy", "renyi inf", "renyi 3", "renyi 1/2", "agr2016", "agr2017", "shrink-the-longest"):
        assert loss_of(name)(SINGULAR["collapsed"]).item() == pytest.approx(math.log(5)), name
    for name in ("entropy", "renyi inf", "renyi 3", "renyi 1/2"):
        for seed in range(5):
            assert loss_of(name)(cloud(6, seed=seed)) < math.log(5), name
    batch = torch.stack([SINGULAR["collapsed"], SINGULAR["collapsed"].cumsum(0)])  # one collapsed, one evenly spaced
    assert PersistentEntropyLoss(prominent="agr2016")(batch).item() == pytest.approx(math.log(5) / 2)


def test_two_places_are_one_bar_with_prominent_features_and_uneven_without() -> None:
    points = SINGULAR["two places"]
    assert PersistentEntropyLoss()(points).item() == pytest.approx(math.log(7))
    assert PersistentEntropyLoss(prominent="agr2016")(points) == 0


@pytest.mark.parametrize("method", ["agr2016", "agr2017", "shrink-the-longest"])
@pytest.mark.parametrize("within", [0.0, 0.3, -2.0])
def test_prominent_features_have_an_entropy_and_noise_a_mean_length(method: str, within: float) -> None:
    points = cloud(12, seed=10)
    wanted = 0.0
    for bars in rips_barcode(points, 1):
        feature = prominent(bars, method).mask
        kept, noise = bars.persistence[feature].numpy(), bars.persistence[~feature].numpy()
        shares = kept / kept.sum()
        wanted += math.log(len(kept)) + (shares * np.log(shares)).sum() if len(kept) else 0.0
        wanted += within * noise.mean() if len(noise) else 0.0
    loss = PersistentEntropyLoss(1, prominent=method, within=within)
    assert loss(points).item() == pytest.approx(wanted, rel=1e-10)


def test_within_contracts_clusters() -> None:
    # Two clusters, 10 apart; in each the points are 1 apart.
    points = torch.tensor([[0.0], [1.0], [2.0], [12.0], [13.0], [14.0]])
    loss = PersistentEntropyLoss(prominent="agr2016", within=1.0)
    grad = gradient(loss, points).squeeze()
    assert loss(points).item() == pytest.approx(1.0)  # one feature, four noise bars
    assert grad.tolist() == pytest.approx([-0.25, 0, 0.25, -0.25, 0, 0.25])


# --- shrink the longest -------------------------------------------------------------------------------------------------------


def published_loss(points: Tensor, labels: Tensor, noise_weight: float) -> Tensor:
    """Sum over classes of -(entropy of the features + noise_weight · mean noise), from a minimum spanning tree by hand."""
    total = points.new_zeros(())
    for label in labels.unique():
        members = points[labels == label]
        edges = sorted(
            combinations(range(len(members)), 2), key=lambda e: (members[e[0]] - members[e[1]]).norm().item()
        )
        component, lengths = list(range(len(members))), []
        for i, j in edges:  # Kruskal 1956
            if component[i] != component[j]:
                lengths.append((members[i] - members[j]).norm())
                component = [component[i] if c == component[j] else c for c in component]
        ordered = torch.stack(lengths[::-1])
        count = count_by_the_published_code(ordered.detach().tolist())
        kept, noise = ordered[:count], ordered[count:]
        share = kept / kept.sum()
        total = total - (-(share * share.log()).sum() + noise_weight * noise.mean())
    return total


@pytest.mark.parametrize(("sign", "noise_weight"), [("published", 0.05), ("corrected", -0.05)])
def test_shrink_the_longest_has_the_gradient_of_the_published_loss(sign: str, noise_weight: float) -> None:
    points = torch.cat([cloud(20, 16, seed=1), 3 + cloud(13, 16, seed=2), cloud(9, 16, seed=3)])
    labels = torch.tensor([0] * 20 + [1] * 13 + [2] * 9)
    wanted = gradient(lambda x: published_loss(x, labels, noise_weight), points)
    found = 3 * gradient(shrink_the_longest(sign=sign), points, labels=labels)  # three classes
    assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-14)
    assert wanted.norm() > 0.1


def test_the_two_signs_of_shrink_the_longest_differ_in_the_noise() -> None:
    assert shrink_the_longest().arguments() == shrink_the_longest(sign="published").arguments()
    assert (shrink_the_longest().within, shrink_the_longest(sign="corrected").within) == (-0.05, 0.05)
    with pytest.raises(ValueError, match=re.escape("sign must be one of 'published', 'corrected'; got 'reversed'")):
        shrink_the_longest(sign="reversed")


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
    points = torch.tensor([[0.0], [0.0], [1.0], [3.0], [7.0], [7.0]], dtype=torch.float64)
    grad = gradient(PersistentEntropyLoss(form="renyi", alpha=alpha), points)
    # Of a pair of coincident points one carries the bar between the places, the other nothing.
    assert (grad[:2] == 0).any()
    assert (grad[4:] == 0).any()
    assert grad.isfinite().all()
    assert grad.abs().max() > 0


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


# --- sums over bars -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3])
@pytest.mark.parametrize(("direction", "sign"), [("decrease", 1), ("increase", -1)])
def test_total_persistence_is_the_sum_of_powers(power: float, direction: str, sign: int) -> None:
    points = cloud(10, seed=3)
    wanted = sign * sum(length**power for dim in (0, 1) for length in lengths_of(points, dim).tolist())
    assert TotalPersistenceLoss(1, power=power, direction=direction)(points).item() == pytest.approx(wanted)


@pytest.mark.parametrize("power", [0.1, 0.5, 1.0, 2.0])
def test_bars_of_length_zero_have_gradient_zero_in_total_persistence(power: float) -> None:
    distances = torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, 3.0], [3.0, 3.0, 0.0]])
    grad = gradient(TotalPersistenceLoss(power=power, metric="precomputed"), distances)
    assert grad[0, 1] == grad[1, 0] == 0
    assert grad.sum().item() == pytest.approx(power * 3 ** (power - 1))


def test_collapse_is_the_least_total_persistence_and_the_greatest_to_increase() -> None:
    assert TotalPersistenceLoss()(SINGULAR["collapsed"]) == 0
    assert TotalPersistenceLoss(direction="increase")(SINGULAR["collapsed"]) == 0
    assert TotalPersistenceLoss(direction="increase")(cloud(6)) < 0 < TotalPersistenceLoss()(cloud(6))


@pytest.mark.parametrize("eta", [2.0, 0.3])
def test_connectivity_is_the_distance_of_the_bars_from_eta(eta: float) -> None:
    points = cloud(10, seed=3)
    wanted = sum(abs(eta - length) for length in lengths_of(points).tolist())
    assert ConnectivityLoss(eta)(points).item() == pytest.approx(wanted)
    assert ConnectivityLoss().eta == 2.0


def test_connectivity_is_zero_if_all_edges_are_eta_long_and_eta_for_a_duplicate() -> None:
    line = torch.tensor([[0.0], [2.0], [4.0], [6.0]])
    assert ConnectivityLoss()(line) == 0
    assert (gradient(ConnectivityLoss(), line) == 0).all()
    assert ConnectivityLoss()(torch.cat([line, line[:1]])) == 2
    assert ConnectivityLoss()(SINGULAR["collapsed"]) == 5 * 2


# --- two clouds ---------------------------------------------------------------------------------------------------------------


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
    loss = MAKE[name]()
    assert torch.autograd.gradcheck(loss, (points, other))
    for grad in torch.autograd.grad(loss(points, other), (points, other)):
        assert grad.abs().max() > 1e-3
    assert torch.allclose(
        gradient(lambda x: loss(x, other.detach()), points), gradient(lambda x: loss(x, other), points)
    )


@every_comparison
def test_a_cloud_alone_is_compared_with_itself_and_warned_of(name: str) -> None:
    loss = MAKE[name]()
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
        loss = MAKE[name]()
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


# --- messages -----------------------------------------------------------------------------------------------------------------


def wrong() -> Iterator[tuple[Callable[[], Any], type[Exception], str]]:
    points = cloud(5)
    yield (
        lambda: PersistentEntropyLoss(form="shannon"),
        ValueError,
        "form must be one of 'deficit', 'log-deficit', 'renyi'; got",
    )
    yield lambda: PersistentEntropyLoss(prominent="agr"), ValueError, "prominent must be one of 'agr2017', 'agr2016'"
    yield (
        lambda: PersistentEntropyLoss(within=0.1),
        ValueError,
        "prominent must say which are; got within=0.1; use prominent=",
    )
    yield (
        lambda: PersistentEntropyLoss(within=INF, prominent="agr2016"),
        ValueError,
        "within must be a finite weight; got inf",
    )
    yield lambda: PersistentEntropyLoss(alpha=0.0), ValueError, "alpha must be positive, and may be infinite; got 0.0"
    yield (
        lambda: PersistentEntropyLoss(alpha=math.nan),
        ValueError,
        "alpha must be positive, and may be infinite; got nan",
    )
    yield lambda: PersistentEntropyLoss(floor=0.0), ValueError, "floor must be positive, finite; got 0.0"
    yield lambda: PersistentEntropyLoss(-1), ValueError, "max_dim must be at least 0; got -1"
    yield lambda: PersistentEntropyLoss(metric="cos"), ValueError, "metric must be one of 'euclidean'"
    yield lambda: PersistentEntropyLoss(engine="prim"), ValueError, "engine must be one of 'auto'"
    yield lambda: RTDLoss(metric="precomputed", per_label=True), ValueError, "per_label must be False with metric="
    yield (
        lambda: renyi_deficit(bars_of([1.0]), -1.0),
        ValueError,
        "alpha must be positive, and may be infinite; got -1.0",
    )
    yield lambda: TotalPersistenceLoss(power=INF), ValueError, "power must be positive, finite; got inf"
    yield lambda: TotalPersistenceLoss(power="2"), TypeError, "power must be a positive number; got str"
    yield (
        lambda: TotalPersistenceLoss(direction="up"),
        ValueError,
        "direction must be one of 'decrease', 'increase'; got 'up'",
    )
    yield lambda: ConnectivityLoss(-2.0), ValueError, "eta must be positive, finite; got -2.0"
    yield lambda: ConnectivityLoss(True), TypeError, "eta must be a positive number; got bool"
    yield lambda: RTDLoss(quantile=1.5), ValueError, "quantile must be positive, at most 1; got 1.5"
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
    yield lambda: ConnectivityLoss(metric="precomputed")(points), ValueError, "points must be square with metric="
    yield lambda: RTDLoss()(points, points / 0), ValueError, "points must be finite"


@pytest.mark.parametrize(("call", "error", "message"), list(wrong()))
def test_a_wrong_argument_is_named(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
