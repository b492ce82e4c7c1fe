"""Memory, gradient caching and subsampling: enough points, and not too many."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from simplicial_reg import CosineLoss, entropy_deficit, rips_barcode
from simplicial_reg.isotropy import mean_cosine
from simplicial_reg.training.memory import Cloud, GradientCache, PointMemory, cached_backward, subsample

Penalty = Callable[..., Tensor]


def deficit(points: Tensor, *, mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
    return entropy_deficit(rips_barcode(points, mask=mask)[0]).mean()


def by_hand(points: Tensor, *, mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
    """Depends on the points, on who is real and on the labels: mean squared distance of real points of one label."""
    real = torch.ones(points.shape[:-1], dtype=torch.bool) if mask is None else mask
    same = real[..., :, None] & real[..., None, :]
    if labels is not None:
        same = same & (labels[..., :, None] == labels[..., None, :])
    square = (points[..., :, None, :] - points[..., None, :, :]).square().sum(-1)
    return (square * same).sum() / same.sum() + points[real].sum() / 7


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def seeded(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- memory -------------------------------------------------------------------------------------------------------------------


def real_points(cloud: Cloud) -> list[float]:
    assert cloud.mask is not None
    return cloud.points[cloud.mask].squeeze(-1).tolist()


def test_memory_puts_the_last_points_of_earlier_batches_before_the_current_ones() -> None:
    memory = PointMemory(4)
    assert real_points(memory(numbers(0, 1, 2))) == [0, 1, 2]
    assert real_points(memory(numbers(3, 4, 5))) == [0, 1, 2, 3, 4, 5]
    assert real_points(memory(numbers(6))) == [2, 3, 4, 5, 6]
    assert real_points(memory(numbers(7))) == [3, 4, 5, 6, 7]


def test_a_batch_larger_than_the_memory_leaves_its_last_points() -> None:
    memory = PointMemory(2)
    memory(numbers(0, 1, 2, 3, 4))
    assert real_points(memory(numbers(5))) == [3, 4, 5]


def test_shape_of_the_cloud_does_not_depend_on_how_full_the_memory_is() -> None:
    memory = PointMemory(7)
    shapes = {tuple(memory(numbers(1, 2)).points.shape) for _ in range(6)}
    assert shapes == {(9, 1)}


def test_masked_points_are_not_remembered_and_take_no_place() -> None:
    memory = PointMemory(3)
    points = numbers(0, float("nan"), 2).requires_grad_()
    cloud = memory(points, torch.tensor([True, False, True]))
    assert real_points(cloud) == [0, 2]
    assert real_points(memory(numbers(3, 4))) == [0, 2, 3, 4]
    assert real_points(memory(numbers(5))) == [2, 3, 4, 5]
    cloud.points.sum().backward()
    assert points.grad.squeeze(1).tolist() == [1, 0, 1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_points_that_are_not_finite_are_seen_once_and_not_remembered(bad: float) -> None:
    memory = PointMemory(4)
    cloud = memory(numbers(0, bad, 2))
    assert cloud.mask[-3:].all()
    assert not cloud.points.isfinite().all()
    assert real_points(memory(numbers(3))) == [0, 2, 3]


def test_only_current_points_have_a_gradient_and_it_is_that_of_the_whole_cloud() -> None:
    memory = PointMemory(6)
    earlier, points = seeded(0, 6, 3).requires_grad_(), seeded(1, 5, 3).requires_grad_()
    memory(earlier)
    cloud = memory(points)
    deficit(cloud.points, mask=cloud.mask).backward()
    twin = points.detach().clone().requires_grad_()
    deficit(torch.cat([earlier.detach(), twin])).backward()
    torch.testing.assert_close(points.grad, twin.grad, rtol=1e-12, atol=1e-14)
    assert points.grad.abs().sum() > 0
    assert earlier.grad is None


def test_a_later_call_does_not_change_an_earlier_cloud() -> None:
    memory = PointMemory(3)
    first = memory(numbers(0, 1))
    second = memory(numbers(2, 3).requires_grad_())
    kept = [first.points.clone(), second.points.detach().clone(), second.mask.clone()]
    memory(numbers(8, 9))
    assert torch.equal(first.points, kept[0])
    assert torch.equal(second.points, kept[1])
    assert torch.equal(second.mask, kept[2])
    second.points.square().sum().backward()  # nothing that the graph keeps was written over


def test_clouds_of_a_batch_are_remembered_apart() -> None:
    memory = PointMemory(2)
    layers = torch.stack([numbers(0, 1, 2), numbers(10, 11, 12)])
    memory(layers, torch.tensor([[True, True, True], [True, False, False]]))
    cloud = memory(torch.stack([numbers(3), numbers(13)]))
    assert cloud.points.shape == (2, 3, 1)
    assert [real_points(Cloud(p, m)) for p, m in zip(cloud.points, cloud.mask, strict=True)] == [[1, 2, 3], [10, 13]]


def test_labels_stay_with_their_points() -> None:
    memory = PointMemory(3)
    memory(numbers(0, 1, 2), torch.tensor([True, False, True]), torch.tensor([5, 6, 7], dtype=torch.int32))
    cloud = memory(numbers(3), labels=torch.tensor([8]))
    assert cloud.labels.dtype == torch.int64
    assert cloud.labels[cloud.mask].tolist() == [5, 7, 8]


def test_evaluation_stores_nothing() -> None:
    memory = PointMemory(3)
    memory(numbers(0))
    memory.eval()
    assert real_points(memory(numbers(1))) == [0, 1]
    assert real_points(memory(numbers(2))) == [0, 2]
    fresh = PointMemory(3).eval()
    assert real_points(fresh(numbers(4))) == [4]
    assert fresh.points is None


def test_reset_forgets_shape_and_type_too() -> None:
    memory = PointMemory(3)
    memory(numbers(0))
    memory.reset()
    assert memory.state_dict() == {}
    assert memory(torch.zeros(2, 5)).points.dtype == torch.float32


@pytest.mark.parametrize("labelled", [False, True])
def test_a_saved_memory_goes_on_where_it_was(labelled: bool) -> None:
    label = {"labels": torch.tensor([3, 4])} if labelled else {}
    model = nn.ModuleDict({"memory": PointMemory(3)})
    model["memory"](numbers(0, 1), **label)
    state = copy.deepcopy(model.state_dict())
    fresh = nn.ModuleDict({"memory": PointMemory(3)})
    assert not any(fresh.load_state_dict(state))
    mine, its = model["memory"](numbers(2, 5), **label), fresh["memory"](numbers(2, 5), **label)
    assert real_points(mine) == real_points(its) == [0, 1, 2, 5]
    assert (mine.labels is None) == (not labelled)
    assert not labelled or torch.equal(mine.labels, its.labels)
    # What is loaded replaces what was there, an empty memory included.
    fresh.load_state_dict(nn.ModuleDict({"memory": PointMemory(3)}).state_dict())
    assert fresh["memory"].points is None


def test_a_memory_of_another_size_is_not_loaded() -> None:
    memory = PointMemory(3)
    memory(numbers(0))
    with pytest.raises(RuntimeError, match=r"PointMemory\(size=4\) cannot take the state of one of size 3"):
        PointMemory(4).load_state_dict(memory.state_dict())


def test_memory_follows_the_type_of_the_points() -> None:
    memory = PointMemory(2)
    assert memory(torch.ones(1, 2, dtype=torch.bfloat16)).points.dtype == torch.float32
    assert memory(torch.ones(1, 2, dtype=torch.float64)).points.dtype == torch.float64
    assert memory(torch.ones(1, 2)).points.dtype == torch.float32


def test_the_loss_of_an_empty_memory_is_the_loss_of_the_batch() -> None:
    points = seeded(3, 6, 4)
    cloud = PointMemory(50)(points)
    torch.testing.assert_close(deficit(cloud.points, mask=cloud.mask), deficit(points), rtol=1e-12, atol=0)


def test_memory_names_what_does_not_fit() -> None:
    memory = PointMemory(2)
    memory(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match=r"points must have shape \(2, n, 4\), as at the first call.* got \(2, 3, 5\)"):
        memory(torch.zeros(2, 3, 5))
    with pytest.raises(ValueError, match=r"points must have shape \(2, n, 4\)"):
        memory(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="labels must be given at every call or at none; the memory was filled with"):
        memory(torch.zeros(2, 3, 4), labels=torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(TypeError, match="labels must be an integer tensor; got list"):
        PointMemory(2)(torch.zeros(2, 3), labels=[1, 2])
    with pytest.raises(ValueError, match=r"labels must have shape \(2,\), one for each point"):
        PointMemory(2)(torch.zeros(2, 3), labels=torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (0, ValueError, "size must be at least 1; got 0"),
        (2.0, TypeError, "size must be an int; got float"),
        (True, TypeError, "got bool"),
    ],
)
def test_bad_sizes_are_named(size: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PointMemory(size)
    with pytest.raises(error, match=message):
        subsample(torch.zeros(3, 2), size)


def test_the_arguments_of_a_memory_are_its_repr() -> None:
    assert repr(PointMemory(12)) == "PointMemory(size=12)"


# --- gradient caching ---------------------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """Draws from every generator that models draw from."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.4), nn.Linear(8, 3)).double()

    def forward(self, inputs: Tensor) -> Tensor:
        scale = 1 + random.random() + np.random.rand()  # noqa: NPY002  # as masks of wav2vec2 are drawn
        points: Tensor = scale * self.layers(inputs)
        return points


def seed_all() -> None:
    torch.manual_seed(5)
    random.seed(6)
    np.random.seed(7)  # noqa: NPY002  # the generator that is replayed


@pytest.fixture(autouse=True)
def _seeds() -> Iterator[None]:
    """Global generators are as before after each test."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    yield
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])  # noqa: NPY002


SIZES = (5, 3, 6)


def micro_batches(masked: bool, labelled: bool) -> list[tuple[Tensor, Tensor | None, Tensor | None]]:
    """Only the second has a mask, if any."""
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(n, 4, generator=generator, dtype=torch.float64),
            torch.arange(n) != 1 if masked and n == SIZES[1] else None,
            torch.randint(0, 2, (n,), generator=generator) if labelled else None,
        )
        for n in SIZES
    ]


def task_loss(points: Tensor) -> Tensor:
    return (points - 1).square().mean()


def gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def at_once(model: nn.Module, penalty: Penalty, batches: list[Any]) -> tuple[Tensor, Tensor]:
    """Every micro-batch with its graph, and one backward."""
    parts = [model(inputs) for inputs, _, _ in batches]
    masked = any(mask is not None for _, mask, _ in batches)
    masks = [
        torch.ones(len(p), dtype=torch.bool) if m is None else m for p, (_, m, _) in zip(parts, batches, strict=True)
    ]
    labels = None if batches[0][2] is None else torch.cat([label for _, _, label in batches])
    value = penalty(torch.cat(parts), mask=torch.cat(masks) if masked else None, labels=labels)
    total = torch.stack([task_loss(points) for points in parts]).sum()
    (total + value).backward()
    return total.detach(), value.detach()


@pytest.mark.parametrize("labelled", [False, True], ids=["no labels", "labels"])
@pytest.mark.parametrize("masked", [False, True], ids=["all points", "masked"])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "dropout"])
@pytest.mark.parametrize("penalty", [deficit, by_hand])
def test_cached_gradients_are_those_of_one_large_graph(
    penalty: Penalty, training: bool, masked: bool, labelled: bool
) -> None:
    batches = micro_batches(masked, labelled)
    one, other = Encoder().train(training), Encoder().train(training)

    def forward(batch: tuple[Any, ...]) -> tuple[Tensor, Cloud]:
        points = other(batch[0])
        return task_loss(points), Cloud(points, *batch[1:])

    seed_all()
    total, value = at_once(one, penalty, batches)
    after = torch.get_rng_state(), random.random(), np.random.rand()  # noqa: NPY002
    seed_all()
    found_total, found_value = cached_backward(forward, iter(batches), penalty)
    assert torch.equal(torch.get_rng_state(), after[0])  # the second pass leaves no trace
    assert (random.random(), np.random.rand()) == after[1:]  # noqa: NPY002
    torch.testing.assert_close(found_total, total, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found_value, value, rtol=1e-10, atol=1e-10)
    assert len(gradients(one)) == len(gradients(other)) == 4
    for a, b in zip(gradients(other), gradients(one), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_masks_labels_and_dropout_all_change_the_gradient() -> None:
    """Otherwise the test above would not see whether they are handled."""
    seen = []
    for training, masked, labelled in [
        (False, False, False),
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]:
        model = Encoder().train(training)
        seed_all()
        at_once(model, by_hand, micro_batches(masked, labelled))
        seen.append(gradients(model)[0])
    for other in seen[1:]:
        assert not torch.allclose(seen[0], other)


def test_batches_of_clouds_are_joined_cloud_by_cloud() -> None:
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    parts = [seeded(2, 2, 4, 3), seeded(3, 2, 5, 3)]
    task, value = cached_backward(lambda part: (None, (part * scale).tanh()), parts, deficit)
    assert task is None
    twin = scale.detach().clone().requires_grad_()
    expected = deficit((torch.cat(parts, 1) * twin).tanh())
    expected.backward()
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(scale.grad, twin.grad, rtol=1e-10, atol=1e-12)


def test_shares_sum_to_the_penalty() -> None:
    cache, parts = GradientCache(deficit), [seeded(seed, 4, 2) for seed in range(3)]
    for part in parts:
        with cache.collecting():
            cache.add(part)
    assert len(cache) == 3
    shares = []
    for part in parts:
        with cache.replaying():
            shares.append(cache.share(part))
    assert len(cache) == 0
    torch.testing.assert_close(sum(shares), deficit(torch.cat(parts)), rtol=1e-12, atol=0)
    assert torch.equal(cache.penalty, deficit(torch.cat(parts)))


def test_the_loss_is_called_once_in_every_step_and_graphs_are_made_in_the_second_pass_only() -> None:
    calls, graphs = [], []
    weight = torch.ones(2, dtype=torch.float64, requires_grad=True)

    def loss(points: Tensor, *, mask: Tensor | None, labels: Tensor | None) -> Tensor:
        calls.append(tuple(points.shape))
        return deficit(points)

    def forward(batch: Tensor) -> tuple[None, Tensor]:
        points = batch * weight
        graphs.append(points.requires_grad)
        return None, points

    for _ in range(2):
        cached_backward(forward, [seeded(0, 3, 2), seeded(1, 4, 2)], loss)
    assert calls == [(7, 2)] * 2
    assert graphs == [False, False, True, True] * 2


def test_a_scaled_loss_does_not_underflow_in_half_precision() -> None:
    """The gradient of a mean of a thousand points is zero in float16 before it is scaled, and the cached one is in float32."""
    weight = torch.ones(1, dtype=torch.float16, requires_grad=True)
    parts = [torch.full((500, 1), 1.0, dtype=torch.float16)] * 2
    cached_backward(
        lambda part: (None, part * weight),
        parts,
        lambda points, **_: 1e-6 * points.mean(),
        backward=lambda loss: (2.0**20 * loss).backward(),
    )
    torch.testing.assert_close(weight.grad, torch.tensor([1e-6 * 2.0**20], dtype=torch.float16), rtol=0.01, atol=0)


def test_one_autocast_region_around_both_passes_keeps_the_gradients() -> None:
    """Autocast's copies of the weights from the pass without graph must not serve the other one."""
    layer, parts = nn.Linear(4, 3), [seeded(seed, 6, 4).float() for seed in range(2)]
    with torch.autocast("cpu", torch.bfloat16):
        cached_backward(lambda part: (None, layer(part)), parts, deficit)
    assert layer.weight.grad is not None
    found = layer.weight.grad.clone()
    layer.weight.grad = None
    deficit(torch.cat([layer(part) for part in parts])).backward()
    assert torch.nn.functional.cosine_similarity(found.flatten(), layer.weight.grad.flatten(), dim=0) > 0.9


def test_batch_norm_sees_micro_batches_in_both_passes() -> None:
    model = nn.BatchNorm1d(3).double()
    parts = [seeded(seed, 5, 3) for seed in range(2)]
    _, value = cached_backward(lambda part: (None, model(part)), parts, by_hand)
    twin = nn.BatchNorm1d(3).double()
    expected = by_hand(torch.cat([twin(part) for part in parts]))
    expected.backward()
    torch.testing.assert_close(value, expected.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.weight.grad, twin.weight.grad, rtol=1e-10, atol=1e-10)
    assert (model.num_batches_tracked, twin.num_batches_tracked) == (4, 2)  # as documented


def test_masked_rows_get_no_gradient_even_where_they_are_nan() -> None:
    points = torch.tensor([[0.0], [1.0], [float("nan")], [5.0]], requires_grad=True)
    real = torch.tensor([True, True, False, True])
    cached_backward(lambda part: (None, Cloud(part, real)), [points], deficit)
    assert points.grad.isfinite().all()
    assert points.grad[2] == 0
    assert points.grad.abs().sum() > 0


def test_points_that_differ_from_the_first_pass_are_refused() -> None:
    cache, parts = GradientCache(deficit), [seeded(seed, 4, 2) for seed in range(2)]
    for part in parts:
        with cache.collecting():
            cache.add(part)
    with pytest.raises(ValueError, match="points of micro-batch 0 must be those of the first pass"), cache.replaying():
        cache.share(parts[1])
    message = r"micro-batch 0 must have shape \(4, 2\), as in the first pass; got \(3, 2\)"
    with pytest.raises(ValueError, match=message), cache.replaying():
        cache.share(parts[0][:3])
    for part in parts:  # a failed replay can be repeated
        with cache.replaying():
            cache.share(part)


def test_a_cache_used_in_the_wrong_order_says_so() -> None:
    cache, part = GradientCache(deficit), seeded(0, 4, 2)
    with pytest.raises(RuntimeError, match=r"add\(\) must be called inside"):
        cache.add(part)
    with pytest.raises(RuntimeError, match=r"share\(\) must be called inside"):
        cache.share(part)
    with pytest.raises(RuntimeError, match="no micro-batch is collected"), cache.replaying():
        pass
    with pytest.raises(RuntimeError, match=r"add\(\) must be called inside"), cache.collecting():
        pass
    with cache.collecting():
        cache.add(part)
        with pytest.raises(RuntimeError, match=r"add\(\) must be called .* once"):
            cache.add(part)
    with pytest.raises(RuntimeError, match=r"share\(\) must be called .* its penalty is lost"), cache.replaying():
        pass
    with pytest.raises(RuntimeError, match="0 of 1 micro-batches are replayed"), cache.collecting():
        pass
    cache.reset()
    assert len(cache) == 0
    with pytest.raises(ValueError, match="batches must hold at least one micro-batch"):
        cached_backward(lambda part: (None, part), [], deficit)


def test_micro_batches_that_do_not_fit_together_are_refused() -> None:
    cache = GradientCache(deficit)
    with cache.collecting():
        cache.add(torch.zeros(3, 2))
    message = r"must agree in all but their number; the first has \(3, 2\), this one \(3, 4\)"
    with pytest.raises(ValueError, match=message), cache.collecting():
        cache.add(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="labels must be given for every micro-batch or for none"), cache.collecting():
        cache.add(torch.zeros(3, 2), labels=torch.zeros(3, dtype=torch.int64))


def test_an_exception_in_the_model_leaves_the_generators_as_they_were_outside() -> None:
    cache, part = GradientCache(deficit), seeded(0, 4, 2)
    with cache.collecting():
        cache.add(part)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    with pytest.raises(TypeError), cache.replaying():
        cache.share(torch.rand(4, 2) @ None)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(cache) == 1


# --- subsampling --------------------------------------------------------------------------------------------------------------


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_farthest_points_are_chosen_one_after_the_other_as_gonzalez_says() -> None:
    points = torch.randn(2, 60, 3, generator=generator(), dtype=torch.float64)
    mask = torch.rand(2, 60, generator=generator(1)) < 0.7
    number = mask.long().cumsum(-1) - 1  # of a point among the real ones
    cloud = subsample(points, 12, mask=mask, labels=number, strategy="farthest", generator=generator(2))
    for at in range(2):
        real = points[at][mask[at]]
        assert cloud.mask is not None
        assert cloud.mask[at].all()
        assert cloud.labels is not None
        rows = cloud.labels[at]
        assert torch.equal(real[rows], cloud.points[at])
        # Some order of the chosen is a farthest-first traversal: start anywhere among them and follow it.
        traversals = []
        for start in rows.tolist():
            chosen = [start]
            while len(chosen) < 12:
                to_chosen = torch.cdist(real, real[chosen]).amin(1)
                chosen.append(int(to_chosen.argmax()))
            traversals.append(sorted(chosen))
        assert sorted(rows.tolist()) in traversals


def test_the_barcode_of_farthest_points_is_within_the_bound_and_that_of_random_ones_need_not_be() -> None:
    gudhi = pytest.importorskip("gudhi")
    random = torch.Generator().manual_seed(0)
    circle = torch.nn.functional.normalize(torch.randn(300, 2, generator=random), dim=1)
    points = torch.cat([circle, torch.tensor([[6.0, 0.0], [6.5, 0.5], [0.0, 9.0]])])
    whole = rips_barcode(points, 1)
    farthest = subsample(points, 40, strategy="farthest", generator=generator()).points
    drawn = subsample(points, 40, generator=generator()).points
    radius, radius_drawn = (float(torch.cdist(points, sample).amin(1).max()) for sample in (farthest, drawn))
    assert radius < 0.3 < radius_drawn
    for dim in (0, 1):
        distance = gudhi.bottleneck_distance(whole[dim].numpy(), rips_barcode(farthest, 1)[dim].numpy())
        assert distance <= 2 * radius
    missed = gudhi.bottleneck_distance(whole[0].numpy(), rips_barcode(drawn)[0].numpy())
    assert missed > 1.0  # the outliers, which a random sample does not know of


def test_farthest_points_of_copies_and_of_few_real_points_are_all_different_ones() -> None:
    points = torch.zeros(8, 2)
    chosen = subsample(points, 5, labels=torch.arange(8), strategy="farthest", generator=generator())
    assert chosen.labels is not None
    assert len(set(chosen.labels.tolist())) == 5
    mask = torch.arange(8) < 3
    few = subsample(points, 5, mask=mask, labels=torch.arange(8), strategy="farthest", generator=generator())
    assert few.mask is not None
    assert few.labels is not None
    assert few.labels[few.mask].tolist() == [0, 1, 2]
    assert len(set(few.labels.tolist())) == 5


def test_gradients_flow_into_farthest_points_and_nan_in_padding_does_not_matter() -> None:
    points = torch.randn(10, 2, generator=generator())
    points[7:] = torch.nan
    points.requires_grad_()
    cloud = subsample(points, 4, mask=torch.arange(10) < 7, strategy="farthest", generator=generator())
    assert cloud.points.isfinite().all()
    cloud.points.sum().backward()
    assert points.grad is not None
    assert points.grad.sum() == 8
    with pytest.raises(ValueError, match="strategy must be one of"):
        subsample(points, 4, strategy="nearest")


def test_a_subsample_holds_different_real_points_in_their_order() -> None:
    points = torch.arange(20.0).unsqueeze(1).expand(50, 20, 1)
    mask = torch.arange(20) % 3 != 0  # 13 of 20
    cloud = subsample(points, 7, mask=mask.expand(50, 20), labels=points.squeeze(-1).long(), generator=generator())
    assert cloud.points.shape == (50, 7, 1)
    assert cloud.mask.all()
    rows = cloud.points.squeeze(-1)
    assert (rows.diff(dim=-1) > 0).all()
    assert (rows % 3 != 0).all()
    assert torch.equal(cloud.labels, rows.long())
    assert len({tuple(row) for row in rows.tolist()}) > 40  # every cloud draws for itself


def test_every_real_point_is_drawn_equally_often() -> None:
    draws, mask = 20_000, torch.tensor([True, True, False, True, True, True])
    points = torch.arange(6.0).unsqueeze(1).expand(draws, 6, 1)
    rows = subsample(points, 2, mask=mask.expand(draws, 6), generator=generator()).points.flatten().long()
    share = rows.bincount(minlength=6) / draws
    assert share[2] == 0
    # Each of five points is in two fifths of the draws; the standard deviation is sqrt(0.4 * 0.6 / draws) = 0.0035.
    torch.testing.assert_close(share[mask], torch.full((5,), 0.4), rtol=0, atol=0.0175)


def test_a_cloud_with_too_few_real_points_keeps_them_all_and_is_padded() -> None:
    points = torch.stack([numbers(0, 1, 2, 3, 4), numbers(10, 11, 12, 13, 14)])
    mask = torch.tensor([[False, True, False, False, True], [True, True, True, True, False]])
    cloud = subsample(points, 3, mask=mask, generator=generator())
    assert cloud.mask.sum(-1).tolist() == [2, 3]
    assert real_points(Cloud(cloud.points[0], cloud.mask[0])) == [1, 4]


def test_the_same_generator_draws_the_same_points() -> None:
    points = seeded(0, 30, 2)
    first, again, other = (subsample(points, 5, generator=generator(seed)).points for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(3)
    first = subsample(points, 5).points
    torch.manual_seed(3)
    assert torch.equal(first, subsample(points, 5).points)


def test_gradients_flow_into_the_chosen_points_only() -> None:
    points = numbers(*range(8)).requires_grad_()
    cloud = subsample(points, 3, generator=generator())
    cloud.points.square().sum().backward()
    chosen = torch.isin(points.detach(), cloud.points.detach())
    assert chosen.sum() == 3
    assert torch.equal(points.grad, torch.where(chosen, 2 * points.detach(), 0))


def test_what_is_small_enough_is_returned_as_it_is() -> None:
    points, mask = seeded(0, 4, 2), torch.tensor([True, False, True, True])
    before = torch.get_rng_state()
    cloud = subsample(points, 4, mask=mask)
    assert torch.equal(cloud.points, torch.where(mask[:, None], points, 0))
    assert cloud.mask is mask
    assert torch.equal(torch.get_rng_state(), before)
    assert subsample(points, 9).mask is None
    assert subsample(points, 2).mask is None


def test_a_list_of_clouds_is_padded_first() -> None:
    cloud = subsample([numbers(0, 1, 2, 3), numbers(7)], 2, generator=generator())
    assert cloud.mask.sum(-1).tolist() == [2, 1]
    assert cloud.points[1][cloud.mask[1]].item() == 7


def test_memory_lets_a_cosine_loss_turn_the_cloud_away_instead_of_spreading_it() -> None:
    found = {}
    for size in (0, 48):
        generator = torch.Generator().manual_seed(0)
        encoder, loss, memory = nn.Linear(8, 8), CosineLoss(), PointMemory(max(size, 1))
        with torch.no_grad():
            encoder.weight.copy_(torch.eye(8))
            encoder.bias.fill_(3.0)  # far off the origin: a cone
        optimizer = torch.optim.SGD(encoder.parameters(), lr=1.0)
        for _ in range(100):
            points = encoder(torch.randn(16, 8, generator=generator))
            cloud = memory(points)
            penalty = loss(cloud.points, mask=cloud.mask) if size else loss(points)
            optimizer.zero_grad()
            penalty.backward()
            optimizer.step()
        with torch.no_grad():
            found[size] = mean_cosine(encoder(torch.randn(500, 8, generator=generator))).item()
    assert found[0] < 0.2
    assert found[48] > 0.5
