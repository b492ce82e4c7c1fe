"""Points gathered over gloo processes: values and parameter gradients are those of one process that holds all points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from simplicial_reg.training.distributed import gather_points
from simplicial_reg.training.memory import Cloud
from tests import distributed_worker as worker
from tests.programs import output_of_ranks

pytestmark = pytest.mark.xdist_group("ranks")  # so that every number of processes is launched once
NEEDS_GLOO = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="torch without gloo"
)
every_penalty = pytest.mark.parametrize("masked", [False, True], ids=["all points", "masked"])


class Launch:
    """What each of so many processes found."""

    def __init__(self, ranks: int, folder: Path) -> None:
        output_of_ranks(ranks, "tests.distributed_worker", folder)
        self.ranks = ranks
        self.found: list[dict[str, Any]] = [
            torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)
        ]

    def of(self, part: str) -> list[Any]:
        return [found[part] for found in self.found]


@pytest.fixture(scope="module", params=[2, 3], ids=["2 ranks", "3 ranks"])
def launch(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Launch:
    return Launch(request.param, tmp_path_factory.mktemp(f"ranks{request.param}"))


def batches(ranks: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    return [worker.batch(rank) for rank in range(ranks)]


def on_one_process(
    ranks: int, penalty: Any, *, masked: bool = False, weight: float = worker.WEIGHT, task: float = 1.0
) -> tuple[Tensor, list[Tensor]]:
    """Value of the penalty of all points, and gradients of ``task * mean of task losses + weight * penalty``."""
    module = worker.model()
    parts = [module(inputs) for inputs, _, _ in batches(ranks)]
    mask = torch.cat([mask for _, mask, _ in batches(ranks)]) if masked else None
    labels = torch.cat([labels for _, _, labels in batches(ranks)])
    torch.manual_seed(1)
    value = penalty(torch.cat(parts), mask=mask, labels=labels)
    losses = torch.stack([worker.task_loss(points) for points in parts])
    (task * losses.mean() + weight * value).backward()
    return value.detach(), worker.gradients(module)


def assert_gradients(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected) == 4
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


# --- values and gradients -----------------------------------------------------------------------------------------------------


@NEEDS_GLOO
@every_penalty
@pytest.mark.parametrize("name", worker.penalties())
def test_ddp_gives_the_value_and_the_gradients_of_one_process(launch: Launch, name: str, masked: bool) -> None:
    value, gradients = on_one_process(launch.ranks, worker.penalties()[name], masked=masked)
    assert value.isfinite()
    for found in launch.of("training"):
        mine = found[f"{name}, {'masked' if masked else 'all'}"]
        torch.testing.assert_close(mine["value"], value, rtol=1e-12, atol=1e-12)
        assert_gradients(mine["gradients"], gradients)


@NEEDS_GLOO
def test_every_rank_has_the_same_value_to_the_last_bit(launch: Launch) -> None:
    first, *others = launch.of("training")
    for found in others:
        for name in first:
            assert torch.equal(found[name]["value"], first[name]["value"]), name


@NEEDS_GLOO
def test_the_wrong_reduction_loses_a_factor_of_the_number_of_ranks(launch: Launch) -> None:
    """Which is what the other tests would find."""
    _, gradients = on_one_process(launch.ranks, worker.deficit)
    _, weaker = on_one_process(launch.ranks, worker.deficit, weight=worker.WEIGHT / launch.ranks)
    for found in launch.of("wrong"):
        assert_gradients(found["gradients"], weaker)
        with pytest.raises(AssertionError):
            assert_gradients(found["gradients"], gradients)


@NEEDS_GLOO
def test_summed_gradients_need_reduction_sum(launch: Launch) -> None:
    value, gradients = on_one_process(launch.ranks, worker.deficit, weight=1.0, task=0.0)
    for found in launch.of("summed"):
        torch.testing.assert_close(found["value"], value, rtol=1e-12, atol=0)
        assert_gradients(found["gradients"], gradients)


@NEEDS_GLOO
def test_gradient_cache_over_ranks_is_one_cloud_of_all_micro_batches(launch: Launch) -> None:
    value, gradients = on_one_process(launch.ranks, worker.deficit, masked=True)
    for found in launch.of("cached"):
        torch.testing.assert_close(found["value"], value, rtol=1e-12, atol=0)
        assert_gradients(found["gradients"], gradients)


@NEEDS_GLOO
def test_fsdp2_averages_as_ddp_does(launch: Launch) -> None:
    found = launch.of("sharded")
    if "missing" in found[0]:
        pytest.skip(f"no {found[0]['missing']} in torch {torch.__version__}")
    value, gradients = on_one_process(launch.ranks, worker.deficit)
    own = [rank["synchronized=False"] for rank in launch.of("balanced")]
    for mine, weight in zip(found, own, strict=True):
        torch.testing.assert_close(mine["value"], value, rtol=1e-12, atol=0)
        assert_gradients(mine["gradients"], gradients)
        torch.testing.assert_close(mine["weight"], weight)


@NEEDS_GLOO
def test_a_synchronized_balanced_weight_is_the_one_of_a_single_process(launch: Launch) -> None:
    module = worker.model()
    parts = [module(inputs) for inputs, _, _ in batches(launch.ranks)]
    points = torch.cat(parts)
    losses = torch.stack([worker.task_loss(part) for part in parts])
    (task,) = torch.autograd.grad(losses.mean(), points, retain_graph=True, allow_unused=True)
    assert task is None  # of the parts, the concatenation is no part
    task_norm = torch.cat([torch.autograd.grad(losses.mean(), part, retain_graph=True)[0] for part in parts]).norm()
    (gradient,) = torch.autograd.grad(worker.deficit(points), points)
    weight = (0.1 * task_norm / gradient.norm()).float()
    own = [found["synchronized=False"] for found in launch.of("balanced")]
    for found in launch.of("balanced"):
        torch.testing.assert_close(found["synchronized=True"].float(), weight)
    assert len({float(weight) for weight in own}) == launch.ranks


@NEEDS_GLOO
def test_ddp_still_averages_after_a_balanced_weight_has_looked_at_the_gradients(launch: Launch) -> None:
    weight = float(launch.of("balanced")[0]["synchronized=True"])
    value, gradients = on_one_process(launch.ranks, worker.deficit, weight=weight)
    for found in launch.of("balanced"):
        torch.testing.assert_close(found["value"], value, rtol=1e-12, atol=0)
        assert_gradients(found["gradients"], gradients)


@NEEDS_GLOO
def test_a_rank_without_gradient_is_held_fixed(launch: Launch) -> None:
    parts = [inputs for inputs, _, _ in batches(launch.ranks)]
    first = parts[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(worker.deficit(torch.cat([first, *parts[1:]])), first)
    torch.testing.assert_close(launch.of("gathered")[0]["gradient on rank 0"], gradient, rtol=1e-12, atol=1e-14)


# --- what is gathered ---------------------------------------------------------------------------------------------------------


def expected_clouds(ranks: int) -> dict[str, Cloud]:
    parts, masks, labels = (list(column) for column in zip(*batches(ranks), strict=True))
    points, every = torch.cat(parts), [torch.ones_like(mask) for mask in masks]

    def padded(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor.new_zeros(15 - len(tensor), *tensor.shape[1:])])

    zeroed = torch.where(torch.cat(masks)[:, None], points, 0)
    only_1 = torch.cat([mask if rank == 1 else every[rank] for rank, mask in enumerate(masks)])
    both = torch.stack([torch.cat(masks), ~torch.cat(masks)])
    layers = torch.where(both[..., None], torch.stack([points, 2 * points]), 0)
    return {
        "plain": Cloud(points),
        "labels": Cloud(points, None, torch.cat(labels)),
        "mask": Cloud(zeroed, torch.cat(masks)),
        "mask on rank 1": Cloud(torch.where(only_1[:, None], points, 0), only_1),
        "size": Cloud(
            torch.cat([padded(torch.where(m[:, None], p, 0)) for p, m in zip(parts, masks, strict=True)]),
            torch.cat([padded(mask) for mask in masks]),
            torch.cat([padded(label) for label in labels]),
        ),
        "layers": Cloud(layers, both, torch.stack([torch.cat(labels), torch.cat(labels) + 2])),
        "bfloat16": Cloud(points.bfloat16().float()),
        "transposed": Cloud(points),
        "pair": Cloud(torch.cat(parts[:2])),
    }


@NEEDS_GLOO
@pytest.mark.parametrize("name", expected_clouds(2))
def test_gathered_points_masks_and_labels_are_in_the_order_of_ranks(launch: Launch, name: str) -> None:
    expected = expected_clouds(launch.ranks)[name]
    ranks = launch.of("gathered")[:2] if name == "pair" else launch.of("gathered")
    for found in ranks:
        for field, mine, wanted in zip(Cloud._fields, found[name], expected, strict=True):
            if wanted is None:
                assert mine is None, field
            else:
                assert mine.dtype == wanted.dtype, field
                assert torch.equal(mine, wanted), field


@NEEDS_GLOO
@pytest.mark.parametrize(
    ("what", "rank_0", "rank_1"),
    [
        ("coordinates", "(3, 2) torch.float32 without labels", "(3, 3) torch.float32 without labels"),
        ("clouds", "(3, 2) torch.float32 without labels", "(2, 3, 2) torch.float32 without labels"),
        ("dtype", "(3, 2) torch.float32 without labels", "(3, 2) torch.float64 without labels"),
        ("labels", "(3, 2) torch.float32 without labels", "(3, 2) torch.float32 with labels"),
    ],
)
def test_ranks_that_do_not_fit_together_all_get_the_same_error(
    launch: Launch, what: str, rank_0: str, rank_1: str
) -> None:
    for found in launch.of("refused"):
        assert found[what].startswith("points of all ranks must agree in")
        assert f"rank 0: {rank_0}; rank 1: {rank_1}" in found[what]


# --- one process --------------------------------------------------------------------------------------------------------------


def test_without_other_processes_the_cloud_is_returned_as_it_is() -> None:
    inputs, mask, labels = worker.batch(0)
    points = inputs.requires_grad_()
    cloud = gather_points(points, mask=mask, labels=labels.to(torch.int16), size=100)
    assert torch.equal(cloud.points, torch.where(mask[:, None], inputs, 0))
    assert cloud.mask is mask
    assert torch.equal(cloud.labels, labels)
    cloud.points.sum().backward()
    assert torch.equal(points.grad, mask[:, None].expand_as(points).double())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"reduction": "average"}, ValueError, "reduction must be one of 'mean', 'sum'; got 'average'"),
        ({"size": 2}, ValueError, "size must be at least the number of points of every rank; got 2 for 3 points"),
        ({"size": 4.0}, TypeError, "size must be None or an int; got float"),
        ({"labels": torch.zeros(2, dtype=torch.int64)}, ValueError, r"labels must have shape \(3,\), one for each"),
        ({"labels": torch.zeros(3)}, TypeError, "labels must be an integer tensor; got torch.float32"),
        ({"mask": torch.zeros(3, dtype=torch.bool)}, ValueError, "mask must leave at least one real point"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gather_points(torch.zeros(3, 2), **arguments)


def test_the_worker_has_uneven_batches_masks_and_both_labels_everywhere() -> None:
    sizes = [len(inputs) for inputs, _, _ in batches(3)]
    assert len(set(sizes)) == 3
    for _, mask, labels in batches(3):
        assert 0 < mask.sum() < len(mask)
        assert set(labels[mask].tolist()) == {0, 1}
    assert isinstance(worker.model(), nn.Sequential)
