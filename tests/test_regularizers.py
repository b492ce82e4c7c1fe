"""The contract of every regularizer in the table: one call, masks, labels, types, singular input, gradients, state."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from simplicial_reg import rips_barcode
from simplicial_reg.regularizers import REGULARIZERS, Regularizer
from simplicial_reg.regularizers._base import by_label

DOCS = Path(__file__).parents[1] / "docs" / "regularizers.md"
NAMES = list(REGULARIZERS)
EVERY = pytest.mark.parametrize("name", NAMES)

# What the losses do not see, and what they do with a cloud that has become one point. The docs' table says the same: see below.
UNCHANGED_BY_TRANSLATION = {
    "persistent-entropy", "total-persistence", "connectivity", "topological-signature", "rtd",
    "istar", "vicreg", "decorrelation", "spectrum",
}  # fmt: skip
UNCHANGED_BY_SCALE = {
    "persistent-entropy", "topological-signature", "rtd",
    "istar", "cosreg", "uniformity", "koleo", "simctg", "orthogonality", "decorrelation", "spectrum",
}  # fmt: skip
UNCHANGED_BY_ROTATION = set(NAMES) - {"vicreg", "decorrelation", "sigreg"}
# Contraction is what it asks for, or it compares two clouds that have both collapsed.
COLLAPSE_IS_BEST = {"total-persistence", "topological-signature", "rtd"}


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def compares_two_clouds(name: str) -> bool:
    return "other" in inspect.signature(REGULARIZERS[name].forward).parameters


def second_cloud(points: Tensor) -> Tensor:
    """A cloud with the same rows and other coordinates, a fixed map of the first."""
    d = points.shape[-1]
    matrix = seeded(d, 3, seed=99).to(points)
    return (points @ matrix).tanh()


def loss_of(name: str, **options: object) -> Callable[..., Tensor]:
    """The regularizer as a function of one cloud; one that compares two gets `second_cloud` for the other."""
    regularizer = REGULARIZERS[name](**options)
    if not compares_two_clouds(name):
        return regularizer

    def loss(points: Tensor | list[Tensor], **rest: Tensor | None) -> Tensor:
        if isinstance(points, list):
            return regularizer(points, [second_cloud(cloud) for cloud in points], **rest)
        mask = rest.get("mask")
        seen = points if mask is None else torch.where(mask.unsqueeze(-1), points, 0)  # tanh has no derivative at NaN
        return regularizer(points, second_cloud(seen), **rest)

    return loss


def value_and_gradient(loss: Callable[..., Tensor], points: Tensor, **rest: Tensor) -> tuple[Tensor, Tensor]:
    points = points.detach().clone().requires_grad_()
    value = loss(points, **rest)
    (gradient,) = torch.autograd.grad(value, points)
    return value.detach(), gradient


def assert_finite(value: Tensor, gradient: Tensor) -> None:
    assert value.isfinite(), value
    assert gradient.isfinite().all(), gradient


# --- the table ---


def test_the_three_names_of_the_contract_stand_for_their_classes() -> None:
    from simplicial_reg import CosineLoss, IsoScoreStarLoss, PersistentEntropyLoss

    assert REGULARIZERS["persistent-entropy"] is PersistentEntropyLoss
    assert REGULARIZERS["istar"] is IsoScoreStarLoss
    assert REGULARIZERS["cosreg"] is CosineLoss


@EVERY
def test_every_entry_is_a_documented_regularizer(name: str) -> None:
    regularizer = REGULARIZERS[name]
    assert issubclass(regularizer, Regularizer)
    assert inspect.getdoc(regularizer) is not None
    assert "Source" in (inspect.getdoc(regularizer) or "")
    assert re.fullmatch(r"[a-z-]+", name)


@EVERY
def test_every_argument_is_an_attribute_and_makes_an_equal_regularizer(name: str) -> None:
    regularizer = REGULARIZERS[name]()
    arguments = regularizer.arguments()
    assert arguments.keys() == inspect.signature(REGULARIZERS[name]).parameters.keys()
    assert repr(REGULARIZERS[name](**arguments)) == repr(regularizer)
    assert all(argument in repr(regularizer) for argument in arguments)


# --- the call ---


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(12, 5), (3, 12, 5), (6, 20)])
def test_the_loss_is_a_scalar_of_the_points_type(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    points = (seeded(*shape) + 0.7).to(
        dtype
    )  # somewhat in one direction, or some pairs of points are as good as can be
    before = points.clone()
    value, gradient = value_and_gradient(loss_of(name), points)
    assert value.shape == ()
    assert value.dtype == dtype
    assert gradient.dtype == dtype
    assert gradient.abs().max() > 0
    assert_finite(value, gradient)
    assert torch.equal(points, before)


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    points = seeded(12, 5).to(dtype)
    value, gradient = value_and_gradient(loss_of(name), points)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    if not compares_two_clouds(name):  # the second cloud is made of the points in their own type
        wide_value, wide_gradient = value_and_gradient(loss_of(name), points.float())
        assert torch.equal(value, wide_value)
        assert torch.equal(gradient, wide_gradient.to(dtype))


@EVERY
def test_autocast_changes_nothing(name: str) -> None:
    points = seeded(16, 24).float()
    regularizer, rest = REGULARIZERS[name](), ()
    if compares_two_clouds(name):
        rest = (second_cloud(points),)
    plain = regularizer(points, *rest)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = regularizer(points, *rest)
    assert torch.equal(plain, cast)


@EVERY
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_is_the_points_device(name: str) -> None:
    points = seeded(12, 5).float()
    value, gradient = value_and_gradient(loss_of(name), points.cuda())
    assert value.is_cuda
    assert gradient.is_cuda
    plain_value, plain_gradient = value_and_gradient(loss_of(name), points)
    torch.testing.assert_close(value.cpu(), plain_value, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient.cpu(), plain_gradient, rtol=1e-3, atol=1e-5)


@EVERY
def test_a_list_of_clouds_is_their_mean(name: str) -> None:
    clouds = [seeded(9, 4, seed=1), seeded(5, 4, seed=2), seeded(12, 4, seed=3)]
    loss = loss_of(name)
    torch.testing.assert_close(loss(clouds), torch.stack([loss(cloud) for cloud in clouds]).mean())


# --- masks and labels ---


@EVERY
def test_a_masked_batch_is_the_mean_of_its_dense_subsets(name: str) -> None:
    points = seeded(4, 10, 6)
    mask = torch.rand(4, 10, generator=torch.Generator().manual_seed(5)) < 0.6
    mask[:, 3:6] = True
    mask[1] = True
    value, gradient = value_and_gradient(loss_of(name), points, mask=mask)
    loss = loss_of(name)
    dense = points.clone().requires_grad_()
    expected = torch.stack([loss(dense[cloud][mask[cloud]]) for cloud in range(4)]).mean()
    (expected_gradient,) = torch.autograd.grad(expected, dense)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, expected_gradient)


@EVERY
@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), 1e30])
def test_masked_rows_neither_count_nor_receive_a_gradient(name: str, rubbish: float) -> None:
    points = seeded(8, 5)
    mask = torch.ones(8, dtype=torch.bool)
    mask[2] = mask[7] = False
    clean = value_and_gradient(loss_of(name), points, mask=mask)
    spoilt = torch.where(mask.unsqueeze(1), points, rubbish)
    value, gradient = value_and_gradient(loss_of(name), spoilt, mask=mask)
    assert torch.equal(value, clean[0])
    assert torch.equal(gradient[mask], clean[1][mask])
    assert (gradient[~mask] == 0).all()


@EVERY
def test_per_label_is_the_mean_over_the_labels(name: str) -> None:
    points = seeded(20, 6)
    labels = torch.tensor([7, -1, 7, 3] * 5)
    mask = torch.ones(20, dtype=torch.bool)
    mask[4] = mask[5] = False
    value, gradient = value_and_gradient(loss_of(name, per_label=True), points, mask=mask, labels=labels)
    loss = loss_of(name)
    dense = points.clone().requires_grad_()
    expected = torch.stack([loss(dense[mask & (labels == label)]) for label in (-1, 3, 7)]).mean()
    (expected_gradient,) = torch.autograd.grad(expected, dense)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, expected_gradient)


@EVERY
def test_a_label_with_one_member_is_finite_and_labels_are_otherwise_ignored(name: str) -> None:
    points, labels = seeded(7, 4), torch.tensor([0, 0, 0, 1, 2, 2, 2])
    assert_finite(*value_and_gradient(loss_of(name, per_label=True), points, labels=labels))
    loss = loss_of(name)
    assert torch.equal(loss(points, labels=labels), loss(points))


@EVERY
def test_per_label_asks_for_labels(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"labels must be given with per_label=True, one integer for each point; got None"
    ):
        loss_of(name, per_label=True)(seeded(4, 3))


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (torch.zeros(5), TypeError, "labels must be an integer tensor; got torch.float32"),
        ([0, 1, 0, 1, 0], TypeError, "labels must be an integer tensor; got list"),
        (
            torch.zeros(4, dtype=torch.long),
            ValueError,
            r"labels must have shape \(5,\), one for each point of points \(5, 3\); got \(4,\)",
        ),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        REGULARIZERS["cosreg"](per_label=True)(seeded(5, 3), labels=labels)


def test_clouds_by_label_hold_every_real_point_once() -> None:
    points = torch.arange(24.0).reshape(2, 6, 2)
    mask = torch.tensor([[False, True, True, True, True, True], [True] * 6])
    labels = torch.tensor([[5, -1, 5, 5, 0, -1], [1, 1, 1, 1, 1, 5]])
    clouds, filled = by_label(points, mask, labels)
    expected = [[2, 10], [8], [4, 6], [12, 14, 16, 18, 20], [22]]  # first coordinates, by cloud and label
    assert [clouds[c, filled[c], 0].tolist() for c in range(len(clouds))] == expected
    assert (clouds[~filled] == 0).all()


# --- symmetries ---


@EVERY
def test_the_order_of_the_points_does_not_matter(name: str) -> None:
    points = seeded(14, 6)
    order = torch.randperm(14, generator=torch.Generator().manual_seed(1))
    value, gradient = value_and_gradient(loss_of(name), points)
    permuted, permuted_gradient = value_and_gradient(loss_of(name), points[order])
    torch.testing.assert_close(permuted, value)
    torch.testing.assert_close(permuted_gradient, gradient[order])


def changed(name: str, transform: Callable[[Tensor], Tensor]) -> bool:
    points = seeded(12, 5)
    regularizer = REGULARIZERS[name]()
    if compares_two_clouds(name):
        other = second_cloud(points)
        before, after = regularizer(points, other), regularizer(transform(points), other)
    else:
        before, after = regularizer(points), regularizer(transform(points))
    return not torch.allclose(before, after, rtol=1e-8, atol=1e-10)


@EVERY
def test_translation_is_seen_or_not_as_documented(name: str) -> None:
    assert changed(name, lambda points: points + 3) == (name not in UNCHANGED_BY_TRANSLATION)


@EVERY
def test_scale_is_seen_or_not_as_documented(name: str) -> None:
    assert changed(name, lambda points: points * 1.7) == (name not in UNCHANGED_BY_SCALE)


@EVERY
def test_rotation_is_seen_or_not_as_documented(name: str) -> None:
    rotation = torch.linalg.qr(seeded(5, 5, seed=3)).Q
    assert changed(name, lambda points: points @ rotation) == (name not in UNCHANGED_BY_ROTATION)


def test_the_docs_table_names_the_same_invariances() -> None:
    section = DOCS.read_text().split("## The table")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([a-z-]+)` \|(.+)\|$", section, flags=re.MULTILINE)
    table = {name: row.split(" | ")[2] for name, row in rows}
    assert list(table) == NAMES
    for name, invariant in table.items():
        assert ("translation" in invariant) == (name in UNCHANGED_BY_TRANSLATION), name
        assert ("scale" in invariant) == (name in UNCHANGED_BY_SCALE), name
        assert ("rotation" in invariant) == (name in UNCHANGED_BY_ROTATION), name


# --- gradients ---


@EVERY
@pytest.mark.parametrize("shape", [(7, 3), (4, 6)])
def test_gradcheck(name: str, shape: tuple[int, int]) -> None:
    points = seeded(*shape, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(loss_of(name), points)


@EVERY
def test_gradcheck_with_mask_and_labels(name: str) -> None:
    points = seeded(10, 3, seed=4).requires_grad_()
    mask = torch.tensor([True] * 8 + [False, True])
    labels = torch.tensor([0, 1] * 5)
    loss = loss_of(name, per_label=True)
    assert torch.autograd.gradcheck(lambda points: loss(points, mask=mask, labels=labels), points)


@EVERY
def test_descent_lowers_the_loss(name: str) -> None:
    points = (seeded(24, 4, seed=6) + 2).requires_grad_()
    loss = loss_of(name)
    before = loss(points).item()
    for _ in range(40):
        (gradient,) = torch.autograd.grad(loss(points), points)
        points = (points - 0.02 * gradient / gradient.norm().clamp_min(1e-12) * points.norm()).detach().requires_grad_()
    assert loss(points).item() < before


# --- singular input ---

SINGULAR = {
    "one point": seeded(1, 4),
    "one point at the origin": torch.zeros(1, 4, dtype=torch.float64),
    "two points": seeded(2, 4),
    "two equal points": seeded(1, 4).expand(2, 4),
    "collapse": seeded(1, 4).expand(9, 4),
    "collapse at the origin": torch.zeros(9, 4, dtype=torch.float64),
    "duplicates": seeded(4, 4).repeat(3, 1),
    "a zero vector": torch.cat([seeded(6, 4), torch.zeros(1, 4, dtype=torch.float64)]),
    "a constant coordinate": torch.cat([seeded(6, 3), torch.ones(6, 1, dtype=torch.float64)], 1),
    "a line": seeded(6, 1) * seeded(1, 4, seed=1),
    "opposite points": torch.cat([seeded(3, 4), -seeded(3, 4)]),
    "one coordinate": seeded(6, 1),
    "regular simplex": torch.eye(6, dtype=torch.float64),
    "grid": torch.cartesian_prod(*[torch.arange(3.0, dtype=torch.float64)] * 2),
    "far from the origin": seeded(8, 4) + 1e5,
    "tiny": seeded(8, 4) * 1e-18,
    "huge": seeded(8, 4) * 1e8,
}


@EVERY
@pytest.mark.parametrize("cloud", SINGULAR)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_singular_clouds_have_finite_losses_and_gradients(name: str, cloud: str, dtype: torch.dtype) -> None:
    assert_finite(*value_and_gradient(loss_of(name), SINGULAR[cloud].to(dtype)))


@EVERY
def test_clouds_masked_down_to_one_point_are_finite(name: str) -> None:
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[:, 2] = True
    mask[1] = True
    assert_finite(*value_and_gradient(loss_of(name), seeded(3, 6, 4), mask=mask))


@EVERY
def test_collapse_is_never_rewarded(name: str) -> None:
    loss = loss_of(name)
    spread, point = loss(seeded(40, 6)), seeded(1, 6)
    collapsed = loss(point.expand(40, 6))
    almost = loss(point + 0.1 * seeded(40, 6, seed=8))
    if name in COLLAPSE_IS_BEST:
        assert collapsed <= almost
    else:
        assert collapsed > spread
        assert collapsed > almost


# --- state ---


@EVERY
def test_two_calls_agree_and_leave_the_random_state_alone(name: str) -> None:
    points, loss = seeded(12, 5), loss_of(name)
    state = torch.get_rng_state()
    assert torch.equal(loss(points), loss(points))
    assert torch.equal(torch.get_rng_state(), state)


@EVERY
@pytest.mark.parametrize("remake", ["pickle", "deepcopy", "state_dict", "torch.save"])
def test_a_copy_gives_the_same_loss(name: str, remake: str) -> None:
    regularizer, points = REGULARIZERS[name](), seeded(12, 5)
    if remake == "pickle":
        copied = pickle.loads(pickle.dumps(regularizer))
    elif remake == "deepcopy":
        copied = copy.deepcopy(regularizer)
    else:
        copied = REGULARIZERS[name]()
        state = regularizer.state_dict()
        if remake == "torch.save":
            file = io.BytesIO()
            torch.save(state, file)
            file.seek(0)
            state = torch.load(file, weights_only=True)
        copied.load_state_dict(state)
    rest = (second_cloud(points),) if compares_two_clouds(name) else ()
    assert torch.equal(copied(points, *rest), regularizer(points, *rest))
    assert repr(copied) == repr(regularizer)


@EVERY
def test_a_regularizer_has_no_parameters_to_train(name: str) -> None:
    assert list(REGULARIZERS[name]().parameters()) == []


@EVERY
def test_input_that_is_no_floating_cloud_is_refused(name: str) -> None:
    regularizer = REGULARIZERS[name]()
    rest = (torch.zeros(4, 3),) if compares_two_clouds(name) else ()
    with pytest.raises(TypeError, match="points must be a floating-point tensor"):
        regularizer(torch.zeros(4, 3, dtype=torch.long), *rest)
    with pytest.raises(ValueError, match="points must have shape"):
        regularizer(torch.zeros(4), *rest)
    with pytest.raises(TypeError, match="mask must be a bool tensor"):
        regularizer(torch.zeros(4, 3), *rest, mask=torch.ones(4))


@pytest.mark.parametrize("name", [name for name in NAMES if compares_two_clouds(name)])
def test_without_a_second_cloud_the_loss_is_zero_and_says_so(name: str) -> None:
    points = seeded(8, 3).requires_grad_()
    with pytest.warns(UserWarning, match="compares two clouds, and other was not given"):
        loss = REGULARIZERS[name]()(points)
    (gradient,) = torch.autograd.grad(loss, points)
    assert loss == 0
    assert (gradient == 0).all()


@EVERY
def test_arguments_are_given_by_name(name: str) -> None:
    with pytest.raises(TypeError):
        REGULARIZERS[name]()(torch.zeros(4, 3), None, torch.ones(4, dtype=torch.bool), None)


def test_the_checks_can_fail() -> None:
    with pytest.raises(AssertionError):
        assert_finite(torch.tensor(float("nan")), torch.zeros(2))
    with pytest.raises(AssertionError):
        assert_finite(torch.tensor(0.0), torch.tensor([float("inf")]))
    bars = rips_barcode(second_cloud(seeded(6, 4)))[0]
    assert bars.death.isfinite().all()  # the second cloud is a cloud
