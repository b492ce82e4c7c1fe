"""Losses of one barcode: formulas written out, other programs; and what they have in common with losses that compare two."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from simplicial_reg import Barcode, entropy_deficit, prominent, rips_barcode
from simplicial_reg.regularizers import Regularizer, comparison, topological
from simplicial_reg.regularizers.comparison import RTDLoss, TopologicalSignatureLoss
from simplicial_reg.regularizers.topological import (
    ConnectivityLoss,
    PersistentEntropyLoss,
    TotalPersistenceLoss,
    shrink_the_longest,
)
from tests.test_prominence import count_by_the_published_code

INF = math.inf
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

    for module in (topological, comparison):
        monkeypatch.setattr(module, "rips_barcode", counted)
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

    for module in (topological, comparison):
        monkeypatch.setattr(module, "rips_barcode", noted)
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


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5, 2.0, 3.0, INF])
def test_coincident_points_have_finite_gradients_whatever_the_order(alpha: float) -> None:
    points = torch.tensor([[0.0], [0.0], [1.0], [3.0], [7.0], [7.0]], dtype=torch.float64)
    grad = gradient(PersistentEntropyLoss(form="renyi", alpha=alpha), points)
    # Of a pair of coincident points one carries the bar between the places, the other nothing.
    assert (grad[:2] == 0).any()
    assert (grad[4:] == 0).any()
    assert grad.isfinite().all()
    assert grad.abs().max() > 0


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


# --- messages -----------------------------------------------------------------------------------------------------------------


def wrong() -> Iterator[tuple[Callable[[], Any], type[Exception], str]]:
    entropy = PersistentEntropyLoss
    yield lambda: entropy(form="shannon"), ValueError, "form must be one of 'deficit', 'log-deficit', 'renyi'; got"
    yield lambda: entropy(prominent="agr"), ValueError, "prominent must be one of 'agr2017', 'agr2016'"
    yield lambda: entropy(within=0.1), ValueError, "prominent must say which are; got within=0.1; use prominent="
    yield lambda: entropy(within=INF, prominent="agr2016"), ValueError, "within must be finite; got inf"
    yield lambda: entropy(within="1", prominent="agr2016"), TypeError, "within must be a number; got str"
    yield lambda: entropy(alpha=0.0), ValueError, "alpha must be positive; got 0.0"
    yield lambda: entropy(alpha=math.nan), ValueError, "alpha must be positive; got nan"
    yield lambda: entropy(floor=0.0), ValueError, "floor must be positive and finite; got 0.0"
    yield lambda: entropy(-1), ValueError, "max_dim must be at least 0; got -1"
    yield lambda: entropy(metric="cos"), ValueError, "metric must be one of 'euclidean'"
    yield lambda: entropy(engine="prim"), ValueError, "engine must be one of 'auto'"
    yield lambda: entropy(metric="precomputed", per_label=True), ValueError, "per_label must be False with metric="
    yield lambda: TotalPersistenceLoss(power=INF), ValueError, "power must be positive and finite; got inf"
    yield lambda: TotalPersistenceLoss(power="2"), TypeError, "power must be a number; got str"
    yield (
        lambda: TotalPersistenceLoss(direction="up"),
        ValueError,
        "direction must be one of 'decrease', 'increase'; got 'up'",
    )
    yield lambda: ConnectivityLoss(-2.0), ValueError, "eta must be positive and finite; got -2.0"
    yield lambda: ConnectivityLoss(True), TypeError, "eta must be a number; got bool"
    yield lambda: ConnectivityLoss(metric="precomputed")(cloud(5)), ValueError, "points must be square with metric="


@pytest.mark.parametrize(("call", "error", "message"), list(wrong()))
def test_a_wrong_argument_is_named(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
