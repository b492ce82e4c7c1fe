"""`MEASURES`, `measure` and `null`: ranges, invariances, nulls, singular input, and the table in docs/measures.md."""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from simplicial_reg import entropy_deficit, isotropy, normalized_persistent_entropy, prominent, rips_barcode
from simplicial_reg.isotropy import (
    MEASURES,
    Moments,
    measure,
    null,
    persistent_entropy_deficit,
    persistent_entropy_score,
    prominent_count,
)

DOCS = (Path(__file__).parent.parent / "docs" / "measures.md").read_text(encoding="utf-8")
PAIRWISE = [name for name, entry in MEASURES.items() if entry.pairwise]
every_measure = pytest.mark.parametrize("name", MEASURES)


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def anisotropic(n: int = 80, d: int = 8) -> Tensor:
    """Away from the origin, with one coordinate that dominates, and nothing special otherwise."""
    return 0.1 * (gaussian(n, d) * torch.tensor([12.0, *torch.linspace(1, 2, d - 1)]) + torch.linspace(1, 3, d))


def same(found: dict[str, float], expected: dict[str, float], rel: float = 1e-9) -> bool:
    return found == pytest.approx(expected, rel=rel, abs=1e-9, nan_ok=True)


# --- the table --------------------------------------------------------------------------------------------------------


def moved(points: Tensor, change: str) -> Tensor:
    d = points.shape[-1]
    return {
        "translation": lambda: points + 2 * gaussian(d, seed=7),
        "scale": lambda: 3.7 * points,
        "rotation": lambda: points @ torch.linalg.qr(gaussian(d, d, seed=8)).Q,
        "permutation": lambda: points.flip(-1),
    }[change]()


@every_measure
@pytest.mark.parametrize("change", isotropy.ANY)
def test_a_measure_is_invariant_to_what_the_table_says_and_to_nothing_else(name: str, change: str) -> None:
    points = anisotropic()
    before, after = (MEASURES[name].function(cloud).item() for cloud in (points, moved(points, change)))
    assert (after == pytest.approx(before, rel=1e-6)) is (change in MEASURES[name].invariant)


CLOUDS: dict[str, Tensor] = {
    "gaussian": gaussian(60, 10),
    "wide": gaussian(12, 40),
    "anisotropic": anisotropic(),
    "far from the origin": gaussian(40, 5) + 1000,
    "uniform": torch.rand(50, 3, generator=torch.Generator().manual_seed(0)),
    "one coordinate": gaussian(30, 1),
    "two points": gaussian(2, 4),
    "three points": gaussian(3, 4),
    "regular simplex": torch.eye(14),
    "cross-polytope": torch.cat([torch.eye(8), -torch.eye(8)]),
    "one point": gaussian(1, 4),
    "one number": torch.ones(1, 1),
    "origin": torch.zeros(1, 3),
    "all at the origin": torch.zeros(20, 3),
    "collapsed": torch.full((20, 3), 0.3),
    "on a line through the origin": torch.arange(1.0, 21.0).unsqueeze(1) * torch.tensor([1.0, 2.0]),
    "every point twice": gaussian(15, 4).repeat(2, 1),
    "two clusters": torch.cat([gaussian(20, 6), gaussian(20, 6, seed=1) + 100]),
    "tiny": 1e-12 * gaussian(30, 4, dtype=torch.float32),
    "huge": 1e12 * gaussian(30, 4, dtype=torch.float32),
    "float16": gaussian(40, 6, dtype=torch.float16),
    "bfloat16": gaussian(40, 6, dtype=torch.bfloat16),
}


@pytest.mark.parametrize("points", CLOUDS.values(), ids=CLOUDS)
def test_every_value_is_in_its_range_or_undefined(points: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    values = measure(points)
    assert list(values) == list(MEASURES)
    for name, value in values.items():
        entry = MEASURES[name]
        assert type(value) is float
        undefined_here = entry.function in (
            isotropy.twonn_dimension,
            isotropy.mle_dimension,
            isotropy.ph_dimension,
            isotropy.hubness,
        )
        assert (math.isnan(value) and undefined_here) or entry.low - 1e-5 <= value <= entry.high + 1e-5, (name, value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", [name for name, entry in MEASURES.items() if entry.isotropic])
def test_an_anisotropic_cloud_is_farther_from_the_isotropic_end_than_a_gaussian(name: str) -> None:
    entry = MEASURES[name]
    skewed, even = (entry.function(points).item() for points in (anisotropic(), 0.2 * gaussian(80, 8)))
    assert skewed < even if entry.isotropic == "high" else skewed > even


SIZES = [(64, 32), (40, 120), (300, 10)]
# How far the closed form may be from the mean of twenty draws: (relative, absolute). For large d the edge of the
# Marchenko-Pastur law is the largest eigenvalue, and points are equally long, so that centring them centres their directions.
CLOSE = {
    "isoscore": (0.02, 0),
    "isoscore_star": (0.02, 0),
    "participation_ratio": (0.02, 0),
    "participation_ratio_over_null": (0.02, 0),
    "top_variance_share": (0.15, 0),
    "top_second_moment_share": (0.15, 0),
    "outlier_dimension_share": (0, 1e-3),
    "mean_cosine": (0, 5e-3),
    "mean_cosine_centred": (0.1, 0),
    "drift_ratio": (0.1, 0),
}


@pytest.fixture(scope="module")
def simulated() -> dict[tuple[int, int], dict[str, float]]:
    return {size: null(*size) for size in SIZES}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", [name for name, entry in MEASURES.items() if entry.null])
def test_the_closed_form_of_the_null_is_near_the_mean_over_gaussian_clouds(
    name: str, size: tuple[int, int], simulated: dict[tuple[int, int], dict[str, float]]
) -> None:
    closed, (rel, absolute) = MEASURES[name].null, CLOSE[name]
    assert closed is not None
    assert closed(*size) == pytest.approx(simulated[size][name], rel=rel, abs=absolute)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 1), (2, 2), (50, 1)])
def test_closed_nulls_are_in_range_for_the_smallest_clouds(size: tuple[int, int]) -> None:
    for entry in MEASURES.values():
        if entry.null is not None:
            assert entry.low <= entry.null(*size) <= entry.high


# --- measure ----------------------------------------------------------------------------------------------------------


def test_measure_has_the_values_of_the_functions() -> None:
    points = anisotropic()
    assert same(measure(points), {name: entry.function(points).item() for name, entry in MEASURES.items()})


def test_measure_ignores_masked_rows_whatever_they_hold() -> None:
    points = anisotropic()
    padded = torch.full((100, 8), math.nan, dtype=torch.float64)
    mask = torch.zeros(100, dtype=torch.bool)
    mask[10:90] = True
    padded[mask] = points
    assert same(measure(padded, mask=mask), measure(points))


@every_measure
def test_a_masked_batch_has_the_values_of_its_clouds(name: str) -> None:
    function = MEASURES[name].function
    clouds = [anisotropic(40), gaussian(60, 8, seed=3)]
    points = torch.full((2, 60, 8), math.nan, dtype=torch.float64)
    mask = torch.zeros(2, 60, dtype=torch.bool)
    for at, cloud in enumerate(clouds):
        points[at, : len(cloud)], mask[at, : len(cloud)] = cloud, True
    assert function(points, mask=mask).tolist() == pytest.approx([function(cloud).item() for cloud in clouds], rel=1e-8)


def test_only_measures_of_all_distances_are_computed_on_a_subsample() -> None:
    points = anisotropic(200)
    whole, part, other = measure(points), measure(points, max_points=50), measure(points, max_points=50, seed=1)
    for name in MEASURES:
        if name not in PAIRWISE:
            assert part[name] == whole[name] == other[name]
    for name in ("persistent_entropy", "twonn_dimension", "hubness"):
        assert part[name] != whole[name]
        assert part[name] != other[name]
    assert same(measure(points, max_points=50), part)
    sample = isotropy._subsample(points, 50, 0)
    assert len(sample) == 50
    assert len({tuple(row) for row in sample.tolist()} & {tuple(row) for row in points.tolist()}) == 50
    assert same({name: measure(sample)[name] for name in PAIRWISE}, {name: part[name] for name in PAIRWISE})


def test_measures_of_singular_clouds_are_what_the_docs_say() -> None:
    for name in ("one point", "all at the origin", "collapsed"):
        values = measure(CLOUDS[name])
        least = {
            "participation_ratio": 1,
            "effective_rank": 1,
            "top_variance_share": 1,
            "isoscore": 0,
            "isoscore_star": 0,
        }
        assert {key: values[key] for key in least} == pytest.approx(least)
        assert all(math.isnan(values[key]) for key in ("twonn_dimension", "mle_dimension", "ph_dimension", "hubness"))
    origin = {"mean_cosine": 0, "mean_cosine_centred": 0, "drift_ratio": 0, "partition_ratio": 1}
    assert {key: measure(CLOUDS["all at the origin"])[key] for key in origin} == pytest.approx(origin)
    simplex = {"twonn_dimension": math.inf, "mle_dimension": math.inf, "ph_dimension": math.inf, "hubness": 0}
    assert {key: measure(CLOUDS["regular simplex"])[key] for key in simplex} == simplex


def test_shrinkage_reaches_isoscore_star_alone() -> None:
    points = anisotropic()
    plain, shrunk = measure(points), measure(points, shrinkage=0.5, covariance=torch.eye(8))
    assert plain["isoscore_star"] == plain["isoscore"]
    expected = isotropy.isoscore_star(points, shrinkage=0.5, covariance=torch.eye(8)).item()
    assert shrunk.pop("isoscore_star") == expected != plain.pop("isoscore_star")
    assert same(shrunk, plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_measure_of_half_precision_is_that_of_the_same_numbers_in_float64(dtype: torch.dtype) -> None:
    points = anisotropic().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = measure(points)
    assert same(values, measure(points.double()), rel=2e-4)


def test_moments_give_the_same_values_under_the_same_names() -> None:
    points = anisotropic()
    values = Moments().update(points).measure()
    assert set(values) < set(MEASURES)
    assert {name: measure(points)[name] for name in values} == pytest.approx(values, rel=1e-6)


def test_clusters_in_many_dimensions_have_an_edge_less_than_their_number_as_prominent_bars() -> None:
    for clusters in (2, 4, 8):
        centres = 1000 * torch.eye(clusters, 256, dtype=torch.float64).repeat(64 // clusters, 1)
        assert measure(gaussian(64, 256) + centres)["prominent_bars"] == clusters - 1
    assert null(64, 256, draws=5)["prominent_bars"] < 8


def test_the_measures_of_the_barcode_are_those_of_the_barcode() -> None:
    points = gaussian(2, 20, 3).requires_grad_()
    mask = torch.arange(20) < torch.tensor([[20], [15]])
    for metric in ("euclidean", "cosine"):
        bars = rips_barcode(points, mask=mask, metric=metric)[0]
        score, deficit = (
            f(points, mask=mask, metric=metric) for f in (persistent_entropy_score, persistent_entropy_deficit)
        )
        assert torch.equal(score, normalized_persistent_entropy(bars))
        assert torch.equal(deficit, entropy_deficit(bars))
        assert score.requires_grad
        assert deficit.requires_grad
        for method in ("agr2016", "agr2017", "shrink-the-longest"):
            count = prominent_count(points, method=method, mask=mask, metric=metric)
            assert count.tolist() == prominent(bars, method).mask.sum(-1).tolist()
            assert not count.requires_grad


@pytest.mark.parametrize(
    ("function", "one", "collapsed"),
    [
        (persistent_entropy_score, 1.0, 0.0),
        (persistent_entropy_deficit, 0.0, math.log(9)),
        (prominent_count, 0.0, 0.0),
    ],
)
def test_measures_of_the_barcode_at_one_point_and_at_collapse(
    function: Callable[..., Tensor], one: float, collapsed: float
) -> None:
    assert function(torch.ones(1, 3)).item() == one
    assert function(torch.ones(10, 3)).item() == pytest.approx(collapsed)


# --- null -------------------------------------------------------------------------------------------------------------


def test_the_null_is_the_mean_over_draws_of_its_seed() -> None:
    one, two = null(20, 4, draws=1), null(20, 4, draws=2)
    generator = torch.Generator().manual_seed(0)
    clouds = [torch.randn(20, 4, generator=generator) for _ in range(2)]
    assert same(one, measure(clouds[0]))
    values = [measure(cloud) for cloud in clouds]
    assert same(two, {name: (values[0][name] + values[1][name]) / 2 for name in MEASURES})
    assert null(20, 4, draws=1, seed=1) != one
    assert null(40, 4, draws=1, max_points=20)["hubness"] != null(40, 4, draws=1)["hubness"]


def test_the_null_of_one_point_is_its_measure() -> None:
    assert math.isnan(null(1, 3, draws=2)["twonn_dimension"])
    assert null(1, 3, draws=2)["isoscore"] == 0


# --- bad input --------------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a batch": (lambda: measure(torch.zeros(2, 3, 4)), ValueError, r"points must be one cloud \(n, d\); got \(2, 3, 4\)"),
    "a NaN": (lambda: measure(torch.tensor([[1.0], [math.nan]])), ValueError, "points must be finite"),
    "an infinity": (lambda: measure(torch.tensor([[1.0], [-math.inf]])), ValueError, "points must be finite"),
    "max_points": (lambda: measure(torch.eye(3), max_points=0), ValueError, "max_points must be at least 1; got 0"),
    "seed": (lambda: measure(torch.eye(3), seed=0.5), TypeError, "seed must be an int; got float"),  # type: ignore[arg-type]
    "no covariance": (lambda: measure(torch.eye(3), shrinkage=0.5), ValueError, "covariance must be given"),
    "an array": (lambda: measure([[1.0]]), TypeError, r"points\[0\] must be a floating-point tensor"),  # type: ignore[arg-type]
    "n": (lambda: null(0, 3), ValueError, "n must be at least 1; got 0"),
    "d": (lambda: null(3, 0), ValueError, "d must be at least 1; got 0"),
    "draws": (lambda: null(3, 3, draws=0), ValueError, "draws must be at least 1; got 0"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# --- docs/measures.md -------------------------------------------------------------------------------------------------

ROWS = {
    cells[0].strip("`"): cells
    for cells in (
        [cell.strip() for cell in line.strip("|").split("|")] for line in DOCS.splitlines() if line.startswith("| `")
    )
}


def test_the_docs_have_a_row_for_every_measure() -> None:
    assert list(ROWS) == list(MEASURES)
    assert {len(row) for row in ROWS.values()} == {7}


@every_measure
def test_the_docs_state_the_invariances_that_are_tested(name: str) -> None:
    assert tuple(ROWS[name][4].split(", ")) == MEASURES[name].invariant


@every_measure
@pytest.mark.parametrize(
    "cloud", ["gaussian", "wide", "anisotropic", "far from the origin", "cross-polytope", "two clusters"]
)
def test_the_docs_state_a_range_that_holds(name: str, cloud: str) -> None:
    points = CLOUDS[cloud]
    stated, value = ROWS[name][2], MEASURES[name].function(points).item()
    if stated.startswith("above 0"):
        assert 0 < value <= (math.inf if "infinite" in stated else 1e6)
    elif stated == "any":
        assert MEASURES[name].low == -math.inf
    else:
        n, d = points.shape
        low, high = eval(stated, {"n": n, "d": d, "min": min, "log": math.log})
        assert low - 1e-5 <= value <= high + 1e-5
        assert MEASURES[name].low <= low
        assert high <= MEASURES[name].high


@every_measure
def test_the_docs_say_simulate_where_there_is_no_closed_form(name: str) -> None:
    assert (ROWS[name][3] == "simulate") is (MEASURES[name].null is None)


def test_the_example_in_the_docs_prints_what_stands_there() -> None:
    (code, output), *others = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", DOCS, re.DOTALL)
    assert not others
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue() == output


def test_the_figure_in_the_docs_is_that_of_the_null() -> None:
    assert "64 points in 768 coordinates has IsoScore 0.07" in DOCS
    assert round(null(64, 768, draws=3)["isoscore"], 2) == 0.07


def test_every_public_name_is_there() -> None:
    for name in isotropy.__all__:
        assert getattr(isotropy, name) is not None
    assert len(set(isotropy.__all__)) == len(isotropy.__all__)
