"""Bad input is refused at the door: the right exception, and one line that names the argument, what it was, and what to do."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from simplicial_reg import ENGINES, METRICS, VietorisRips, edge_length, pairwise_distances, rips_barcode

POINTS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
BATCH = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
DISTANCES = pairwise_distances(POINTS)


def replaced(tensor: Tensor, value: float, *where: int) -> Tensor:
    tensor = tensor.clone()
    tensor[where] = value
    return tensor


def both(value: float, i: int, j: int) -> Tensor:
    return replaced(replaced(DISTANCES, value, i, j), value, j, i)


class Case:
    """A call, the exception that it must raise, and pieces of text that must stand in the message, in this order."""

    def __init__(self, kind: type[Exception], *pieces: str, **arguments: Any) -> None:
        self.kind, self.pieces, self.arguments = kind, pieces, arguments


PRECOMPUTED = "precomputed"
CASES: dict[str, Case] = {
    # points: kind
    "a numpy array": Case(
        TypeError, "points", "floating-point tensor", "got ndarray", "torch.as_tensor", points=np.zeros((5, 3))
    ),
    "a list of numbers": Case(
        TypeError, "points[0]", "floating-point tensor", "got list", points=[[0.0, 1.0], [2.0, 3.0]]
    ),
    "a list of arrays": Case(TypeError, "points[0]", "got ndarray", "torch.as_tensor", points=[np.zeros((5, 3))]),
    "a number": Case(TypeError, "points", "got float", points=3.0),
    "nothing": Case(TypeError, "points", "got NoneType", points=None),
    "a string": Case(TypeError, "points", "got str", points="cloud.npy"),
    "integers": Case(TypeError, "points", "torch.int64", "points.float()", points=torch.zeros(5, 3, dtype=torch.int64)),
    "booleans": Case(TypeError, "points", "torch.bool", "points.float()", points=torch.zeros(5, 3, dtype=torch.bool)),
    "complex numbers": Case(TypeError, "points", "torch.complex64", points=torch.zeros(5, 3, dtype=torch.complex64)),
    "a list of integers": Case(
        TypeError, "points[1]", "torch.int64", points=[POINTS, torch.zeros(5, 3, dtype=torch.int64)]
    ),
    "a sparse tensor": Case(TypeError, "points", "dense", "to_dense()", points=POINTS.to_sparse()),
    "a precision that nothing is computed in": Case(
        TypeError, "points", "torch.float8_e5m2", points=POINTS.to(torch.float8_e5m2)
    ),
    # points: shape
    "one dimension": Case(ValueError, "points", "(n, d) or (B, n, d)", "got (5,)", points=torch.zeros(5)),
    "four dimensions": Case(
        ValueError, "points", "(n, d) or (B, n, d)", "got (1, 2, 5, 3)", points=torch.zeros(1, 2, 5, 3)
    ),
    "no dimension": Case(ValueError, "points", "got ()", points=torch.tensor(1.0)),
    "an empty cloud": Case(ValueError, "points", "at least one point", "(0, 3)", points=torch.zeros(0, 3)),
    "a batch of empty clouds": Case(
        ValueError, "points", "at least one point", "(2, 0, 3)", points=torch.zeros(2, 0, 3)
    ),
    "an empty batch": Case(ValueError, "points", "at least one cloud", "(0, 5, 3)", points=torch.zeros(0, 5, 3)),
    "no coordinates": Case(ValueError, "points", "at least one coordinate", "(5, 0)", points=torch.zeros(5, 0)),
    "an empty list": Case(ValueError, "points", "at least one cloud", "empty list", points=[]),
    "a list with a batch": Case(ValueError, "points[1]", "(2, 5, 3)", points=[POINTS, BATCH]),
    "a list with an empty cloud": Case(
        ValueError, "points[1]", "at least one point", "(0, 3)", points=[POINTS, torch.zeros(0, 3)]
    ),
    "clouds of other coordinates": Case(
        ValueError, "points", "agree", "points[0] is (5, 3)", "points[1] is (4, 2)", points=[POINTS, torch.zeros(4, 2)]
    ),
    "clouds of other precision": Case(
        ValueError, "points", "agree", "torch.float32", "points[1]", "torch.float64", points=[POINTS, POINTS.double()]
    ),
    # points: values
    "NaN": Case(ValueError, "points", "finite", "point 2", "remove", "mask", points=replaced(POINTS, math.nan, 2, 1)),
    "infinity": Case(ValueError, "points", "finite", "point 4", "mask", points=replaced(POINTS, math.inf, 4, 0)),
    "minus infinity": Case(ValueError, "points", "finite", "point 0", points=replaced(POINTS, -math.inf, 0, 0)),
    "NaN in float64": Case(ValueError, "points", "finite", "point 3", points=replaced(POINTS.double(), math.nan, 3, 2)),
    "NaN in bfloat16": Case(
        ValueError, "points", "finite", "point 3", points=replaced(POINTS.bfloat16(), math.nan, 3, 2)
    ),
    "NaN in a batch": Case(ValueError, "points", "point 2 of cloud 1", points=replaced(BATCH, math.nan, 1, 2, 0)),
    "NaN in a list": Case(
        ValueError, "points", "point 1", "cloud 1", points=[POINTS[:2], replaced(POINTS, math.nan, 1, 0)]
    ),
    "NaN in a real point": Case(
        ValueError,
        "points",
        "finite",
        "point 2",
        points=replaced(POINTS, math.nan, 2, 1),
        mask=torch.tensor([True, True, True, False, True]),
    ),
    **{
        f"NaN, {metric}": Case(
            ValueError, "points", "finite", "point 2", points=replaced(POINTS, math.nan, 2, 1), metric=metric
        )
        for metric in METRICS
    },
    **{
        f"overflow, {metric}": Case(
            ValueError,
            "points",
            "too large",
            "torch.float32",
            "float64",
            points=torch.tensor([[big, 0.0], [-big, big]]),
            metric=metric,
        )
        for metric, big in (("euclidean", 1e30), ("manhattan", 2e38), ("chebyshev", 2e38))
    },
    "overflow in float64": Case(
        ValueError, "points", "too large", "torch.float64", "rescale", points=POINTS.double() * 1e200
    ),
    # mask
    "a mask of another shape": Case(
        ValueError, "mask", "(5,)", "(5, 3)", "got (4,)", points=POINTS, mask=torch.ones(4, dtype=torch.bool)
    ),
    "a mask of coordinates": Case(
        ValueError, "mask", "(5,)", "got (5, 3)", points=POINTS, mask=torch.ones(5, 3, dtype=torch.bool)
    ),
    "a mask of one cloud for a batch": Case(
        ValueError, "mask", "(2, 5)", "got (5,)", points=BATCH, mask=torch.ones(5, dtype=torch.bool)
    ),
    "a mask the other way round": Case(
        ValueError, "mask", "(2, 5)", "got (5, 2)", points=BATCH, mask=torch.ones(5, 2, dtype=torch.bool)
    ),
    "a mask of integers": Case(
        TypeError, "mask", "bool", "torch.int64", "mask.bool()", points=POINTS, mask=torch.ones(5, dtype=torch.int64)
    ),
    "a mask of floats": Case(
        TypeError, "mask", "bool", "torch.float32", "mask.bool()", points=POINTS, mask=torch.ones(5)
    ),
    "a mask as a list": Case(TypeError, "mask", "bool", "got list", points=POINTS, mask=[True] * 5),
    "a mask that leaves no point": Case(
        ValueError, "mask", "at least one real point", points=POINTS, mask=torch.zeros(5, dtype=torch.bool)
    ),
    "a mask that leaves one cloud without a point": Case(
        ValueError,
        "mask",
        "at least one real point",
        "cloud 1",
        points=BATCH,
        mask=torch.tensor([[True] * 5, [False] * 5]),
    ),
    "a mask beside a list": Case(
        ValueError, "mask", "None", "list", points=[POINTS], mask=torch.ones(1, 5, dtype=torch.bool)
    ),
    # precomputed distances
    "distances that are not square": Case(ValueError, "points", "square", "(5, 3)", points=POINTS, metric=PRECOMPUTED),
    "a batch of distances that are not square": Case(
        ValueError, "points", "square", "(2, 5, 3)", points=BATCH, metric=PRECOMPUTED
    ),
    "asymmetric distances": Case(
        ValueError,
        "points",
        "symmetric",
        "(distances + distances.mT) / 2",
        points=replaced(DISTANCES, 9.0, 1, 3),
        metric=PRECOMPUTED,
    ),
    "negative distances": Case(
        ValueError, "points", "non-negative", "-0.5", points=both(-0.5, 1, 3), metric=PRECOMPUTED
    ),
    "NaN among the distances": Case(
        ValueError, "points", "finite", "NaN", points=both(math.nan, 1, 3), metric=PRECOMPUTED
    ),
    "infinity among the distances": Case(
        ValueError, "points", "finite", "threshold", points=both(math.inf, 1, 3), metric=PRECOMPUTED
    ),
    "NaN on the diagonal": Case(
        ValueError, "points", "finite", points=replaced(DISTANCES, math.nan, 2, 2), metric=PRECOMPUTED
    ),
    "similarities, ones on the diagonal": Case(
        ValueError,
        "points",
        "zeros on the diagonal",
        "got 1",
        "1 - s",
        points=torch.full((4, 4), 0.5).fill_diagonal_(1),
        metric=PRECOMPUTED,
    ),
    "correlations, with negative ones": Case(
        ValueError,
        "points",
        "non-negative",
        "-0.3",
        "1 - s",
        points=torch.full((4, 4), -0.3).fill_diagonal_(1),
        metric=PRECOMPUTED,
    ),
    "a diagonal without distances": Case(
        ValueError, "points", "zeros on the diagonal", points=torch.eye(4), metric=PRECOMPUTED
    ),
    "one asymmetric matrix in a batch": Case(
        ValueError,
        "points",
        "symmetric",
        points=torch.stack([DISTANCES, replaced(DISTANCES, 9.0, 1, 3)]),
        metric=PRECOMPUTED,
    ),
    "integer distances": Case(TypeError, "points", "torch.int64", points=DISTANCES.long(), metric=PRECOMPUTED),
    # metric
    "an unknown metric": Case(
        ValueError, "metric", "'euclidean'", "'precomputed'", "got 'minkowski'", points=POINTS, metric="minkowski"
    ),
    "a metric by number": Case(ValueError, "metric", "got 2", points=POINTS, metric=2),
    "no metric": Case(ValueError, "metric", "got None", points=POINTS, metric=None),
    "a callable with a result of another shape": Case(
        ValueError, "metric", "(5, 5)", "(5, 3)", "got (5,)", points=POINTS, metric=lambda points: points.sum(-1)
    ),
    "a callable that forgets the batch": Case(
        ValueError,
        "metric",
        "(2, 5, 5)",
        "got (5, 5)",
        points=BATCH,
        metric=lambda points: pairwise_distances(points[0]),
    ),
    "a callable that returns integers": Case(
        ValueError, "metric", "floating", points=POINTS, metric=lambda points: torch.zeros(5, 5, dtype=torch.int64)
    ),
    "a callable that returns an array": Case(
        ValueError, "metric", "got ndarray", points=POINTS, metric=lambda points: np.zeros((5, 5))
    ),
    "a callable with asymmetric distances": Case(
        ValueError,
        "metric(points)",
        "symmetric",
        points=POINTS,
        metric=lambda points: pairwise_distances(points).triu(),
    ),
    "a callable with negative distances": Case(
        ValueError, "metric(points)", "non-negative", points=POINTS, metric=lambda points: -pairwise_distances(points)
    ),
    "a callable with NaN": Case(
        ValueError,
        "metric(points)",
        "finite",
        points=POINTS,
        metric=lambda points: pairwise_distances(points) * math.nan,
    ),
    # options
    "an unknown engine": Case(
        ValueError, "engine", "'auto'", "'cohomology'", "got 'quick'", points=POINTS, engine="quick"
    ),
    "an engine by number": Case(ValueError, "engine", "got 1", points=POINTS, engine=1),
    "an unknown essential": Case(
        ValueError, "essential", "'drop', 'enclosing_radius', 'infinite'", "got 'keep'", points=POINTS, essential="keep"
    ),
    "no essential": Case(ValueError, "essential", "got None", points=POINTS, essential=None),
    "a list as essential": Case(ValueError, "essential", "got ['drop']", points=POINTS, essential=["drop"]),
    "max_dim below 0": Case(ValueError, "max_dim", "at least 0", "got -1", points=POINTS, max_dim=-1),
    "max_dim as a float": Case(TypeError, "max_dim", "int", "got float", points=POINTS, max_dim=1.0),
    "max_dim as a bool": Case(TypeError, "max_dim", "int", "got bool", points=POINTS, max_dim=True),
    "max_dim as a list": Case(TypeError, "max_dim", "int", "got list", points=POINTS, max_dim=[0, 1]),
    "no max_dim": Case(TypeError, "max_dim", "int", "got NoneType", points=POINTS, max_dim=None),
    "a negative threshold": Case(ValueError, "threshold", "non-negative", "got -1", points=POINTS, threshold=-1.0),
    "a threshold of NaN": Case(ValueError, "threshold", "got nan", points=POINTS, threshold=math.nan),
    "a threshold as a string": Case(TypeError, "threshold", "float", "got str", points=POINTS, threshold="1"),
    "no threshold": Case(TypeError, "threshold", "got NoneType", points=POINTS, threshold=None),
    "a threshold as a bool": Case(TypeError, "threshold", "got bool", points=POINTS, threshold=True),
}


def check(call: Callable[[], Any], case: Case) -> None:
    pattern = ".*".join(re.escape(piece) for piece in case.pieces)
    with pytest.raises(case.kind, match=pattern) as caught:
        call()
    assert type(caught.value) is case.kind  # not a subclass that torch or Numba happened to raise
    message = str(caught.value)
    assert "\n" not in message, "a message is one line"
    assert len(message) < 250, "a message is one line that one can read"


@pytest.mark.parametrize("name", list(CASES))
def test_bad_input_is_refused_in_one_line_that_says_what_to_do(name: str) -> None:
    case = CASES[name]
    check(lambda: rips_barcode(**case.arguments), case)


@pytest.mark.parametrize(
    "name", ["NaN", "asymmetric distances", "a mask that leaves no point", "max_dim below 0", "integers"]
)
def test_the_layer_refuses_what_the_function_refuses(name: str) -> None:
    case = CASES[name]
    options = dict(case.arguments)
    points, mask = options.pop("points"), options.pop("mask", None)
    check(lambda: VietorisRips(**options)(points, mask), case)


VALUES = (
    "NaN",
    "NaN in a batch",
    "overflow, euclidean",
    "asymmetric distances",
    "negative distances",
    "a mask that leaves no point",
)


@pytest.mark.parametrize("engine", [name for name, row in ENGINES.items() if row.needs is None])
@pytest.mark.parametrize("name", VALUES)
def test_every_engine_is_behind_the_same_door(name: str, engine: str) -> None:
    case = CASES[name]
    check(lambda: rips_barcode(**case.arguments, engine=engine), case)


@pytest.mark.parametrize("name", VALUES)
def test_bad_values_are_refused_in_dimension_one_too(name: str) -> None:
    case = CASES[name]
    check(lambda: rips_barcode(**case.arguments, max_dim=1), case)


@pytest.mark.parametrize("essential", ["enclosing_radius", "infinite"])
@pytest.mark.parametrize("name", VALUES)
def test_bad_values_are_refused_under_every_rule_for_essential_bars(name: str, essential: str) -> None:
    case = CASES[name]
    check(lambda: rips_barcode(**case.arguments, essential=essential), case)


def test_the_check_of_messages_can_fail() -> None:
    def two_lines() -> None:
        raise ValueError("points are bad;\nuse better ones")

    with pytest.raises(AssertionError, match="one line"):
        check(two_lines, Case(ValueError, "points"))
    with pytest.raises(AssertionError):
        check(two_lines, Case(ValueError, "mask"))
    with pytest.raises(ValueError, match="points are bad"):
        check(two_lines, Case(TypeError, "points"))


def test_pairwise_distances_and_edge_length_refuse_an_unknown_metric() -> None:
    for call in (
        lambda: pairwise_distances(POINTS, "minkowski"),
        lambda: edge_length(POINTS, torch.tensor([[1, 0]]), "minkowski"),
    ):
        check(call, Case(ValueError, "metric", "'euclidean'", "got 'minkowski'"))
    check(lambda: pairwise_distances(replaced(POINTS, math.nan, 2, 1)), Case(ValueError, "points", "finite", "point 2"))
    check(lambda: pairwise_distances(POINTS * 1e30), Case(ValueError, "points", "too large"))


EDGES: dict[str, Case] = {
    "floats": Case(ValueError, "edge", "int64", "(k, 2)", "torch.float32", points=POINTS, edge=torch.zeros(3, 2)),
    "32 bits": Case(
        ValueError, "edge", "int64", "torch.int32", points=POINTS, edge=torch.zeros(3, 2, dtype=torch.int32)
    ),
    "triples": Case(ValueError, "edge", "(k, 2)", "(3, 3)", points=POINTS, edge=torch.zeros(3, 3, dtype=torch.int64)),
    "no batch": Case(
        ValueError, "edge", "(B, k, 2)", "(3, 2)", points=BATCH, edge=torch.zeros(3, 2, dtype=torch.int64)
    ),
    "integer points": Case(TypeError, "points", "torch.int64", points=POINTS.long(), edge=torch.tensor([[1, 0]])),
}


@pytest.mark.parametrize("name", list(EDGES))
def test_edge_length_refuses_what_is_no_edge(name: str) -> None:
    check(lambda: edge_length(**EDGES[name].arguments), EDGES[name])


@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize("vertex", [5, 8, -1])
def test_edge_length_refuses_a_vertex_that_is_not_there(vertex: int, metric: str) -> None:
    points = torch.zeros(10, 3)[1:6]  # whoever reads on past its end still reads zeros and nobody else's memory
    with pytest.raises((IndexError, ValueError), match=r"edge.*5") as caught:
        edge_length(points, torch.tensor([[1, 0], [vertex, 2]]), metric)
    assert "\n" not in str(caught.value)


def test_edge_length_refuses_edges_for_another_number_of_clouds() -> None:
    with pytest.raises(ValueError, match=r"edge.*2.*3") as caught:
        edge_length(torch.zeros(4, 5, 3)[:2], torch.zeros(3, 1, 2, dtype=torch.int64))
    assert "\n" not in str(caught.value)


# --- what is fine -------------------------------------------------------------------------------------------------------------


def test_nan_and_infinity_are_fine_in_masked_points() -> None:
    mask = torch.tensor([True, True, False, True, False])
    points = replaced(replaced(POINTS, math.nan, 2), math.inf, 4)
    for metric in METRICS:
        found, expected = (
            rips_barcode(points, 1, mask=mask, metric=metric),
            rips_barcode(POINTS[mask], 1, metric=metric),
        )
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a.death[a.mask], b.death)


def test_anything_is_fine_in_masked_distances() -> None:
    mask = torch.tensor([True, True, False, True, True])
    distances = replaced(replaced(DISTANCES, math.nan, 2), -3.0, 0, 2)
    (bars,) = rips_barcode(distances, mask=mask, metric=PRECOMPUTED)
    (expected,) = rips_barcode(POINTS[mask])
    torch.testing.assert_close(bars.death[bars.mask], expected.death)


def test_rounding_in_precomputed_distances_is_fine() -> None:
    points = torch.randn(2, 40, 64, generator=torch.Generator().manual_seed(2)) + 5
    rough = torch.cdist(points, points, compute_mode="use_mm_for_euclid_dist")
    assert rough.diagonal(dim1=-2, dim2=-1).abs().max() > 0  # |x|² + |x|² - 2 x·x is not zero
    rips_barcode(rough, 1, metric=PRECOMPUTED)


def test_large_points_are_fine_as_long_as_distances_are() -> None:
    for points, metric in ((POINTS * 1e18, "euclidean"), (POINTS * 1e37, "manhattan"), (POINTS * 1e37, "chebyshev")):
        (bars,) = rips_barcode(points, metric=metric)
        assert bars.death.isfinite().all()
        assert (bars.death > 0).all()
    for metric in ("cosine", "angular"):  # directions do not overflow
        (bars,) = rips_barcode(POINTS * 1e30, metric=metric)
        torch.testing.assert_close(bars.death, rips_barcode(POINTS, metric=metric)[0].death)


def test_an_integer_threshold_and_an_infinite_one_are_fine() -> None:
    assert len(rips_barcode(POINTS, threshold=0)[0]) == 0
    assert len(rips_barcode(POINTS, threshold=100)[0]) == 4
    assert len(rips_barcode(POINTS, threshold=math.inf)[0]) == 4


def test_a_threshold_beyond_the_dtype_is_fine() -> None:
    for max_dim in (0, 1):
        for a, b in zip(rips_barcode(POINTS, max_dim, threshold=1e300), rips_barcode(POINTS, max_dim), strict=True):
            assert torch.equal(a.death, b.death)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_mask_on_another_device_is_refused() -> None:
    check(
        lambda: rips_barcode(POINTS.cuda(), mask=torch.ones(5, dtype=torch.bool)),
        Case(ValueError, "mask", "device of points", "cuda", "cpu"),
    )
