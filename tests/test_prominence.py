"""Which bars `prominent` keeps: the contract of every method, their procedures, what they find in clusters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import linkage
from scipy.optimize import minimize_scalar
from scipy.spatial.distance import pdist, squareform
from scipy.stats import entropy
from torch import Tensor

from simplicial_reg import Barcode, entropy_deficit, persistent_entropy, prominent, rips_barcode
from simplicial_reg.prominence import METHODS

Lengths = npt.NDArray[np.float64]

every_method = pytest.mark.parametrize("method", METHODS)
relaxed = settings(deadline=None)
INF = math.inf

lengths_of_any_kind = st.lists(st.floats(1e-3, 1e3) | st.sampled_from([0.0, 1.0, 2.0, 100.0]), max_size=25)
# Lengths that differ from each other, as those of a cloud in general position do: then no method depends on rounding.
different_lengths = st.lists(st.floats(1e-2, 1e2).map(lambda x: round(x, 6)), min_size=4, max_size=25, unique=True)


def bars_of(persistence: Tensor | Sequence[float] | Lengths, mask: Tensor | None = None) -> Barcode:
    """A barcode with these persistences and births 0; bar i has the death edge (i + 1, 0)."""
    if not isinstance(persistence, Tensor):
        persistence = torch.tensor(np.asarray(persistence, dtype=np.float64))
    mask = torch.ones(persistence.shape, dtype=torch.bool) if mask is None else mask
    first = torch.arange(1, persistence.shape[-1] + 1).expand(persistence.shape)
    death_edge = torch.stack([first, torch.zeros_like(first)], -1)
    return Barcode(0, torch.zeros_like(persistence), persistence, torch.zeros_like(death_edge), death_edge, mask)


def kept(lengths: Tensor | Sequence[float] | Lengths, method: str) -> list[float]:
    """The lengths of the features, longest first."""
    bars = prominent(bars_of(lengths), method)
    return sorted(bars.death[bars.mask].tolist(), reverse=True)


def longest(lengths: Sequence[float] | Lengths, count: int) -> list[float]:
    return sorted(np.asarray(lengths).tolist(), reverse=True)[:count]


# --- the procedures, step by step and as slow as they are written -----------------------------------------------------


def neutral_length(rest: Lengths) -> float:
    return float(rest.sum() * np.exp(-entropy(rest)))


def neutralised(ordered: Lengths, i: int) -> Lengths:
    return np.concatenate([np.full(i, neutral_length(ordered[i:])), ordered[i:]])


def count_by_agr2016(lengths: Sequence[float]) -> int:
    """Bar i is a feature if its relative entropy is more than i/n; so are the bars before it. The last bar never is."""
    ordered = np.sort(np.asarray(lengths))[::-1]
    n = len(ordered)
    entropies = [entropy(ordered)] + [entropy(neutralised(ordered, i)) for i in range(1, n)]
    lacking = np.log(n) - entropies[0]
    return max((i for i in range(1, n) if (entropies[i] - entropies[i - 1]) / lacking > i / n), default=0)


def least_even_count(n: int, ratio: float) -> float:
    """Q, from its definition: of n bars of lengths 1 and ratio, the real number of ones of least entropy."""

    def entropy_of_levels(long: float) -> float:
        total = long + (n - long) * ratio
        return float(np.log(total) - (n - long) * ratio * np.log(ratio) / total)

    return float(minimize_scalar(entropy_of_levels, bounds=(0, n), method="bounded", options={"xatol": 1e-10}).x)


def quota(n: int, ratio: float) -> float:
    return n * ratio * (ratio - 1 - math.log(ratio)) / (1 - ratio) ** 2


def count_by_agr2017(lengths: Sequence[float]) -> int:
    ordered = np.sort(np.asarray(lengths))[::-1]
    top, bottom = ordered[0], ordered[-1]
    others = list(ordered[1:-1])
    while True:
        barcode = np.array([*others, bottom, top])
        n = len(barcode)
        totals = [neutralised(barcode, i).sum() for i in range(n)]
        i = next((i for i in range(1, n) if totals[i - 1] / totals[i] < 1), n - 1)
        if quota(n, bottom / top) >= i or i >= len(others):
            return 1 + i
        others = others[:i]


def count_by_the_published_code(lengths: Sequence[float]) -> int:
    """What github.com/Xenomirant/Shrink-the-longest keeps, for at least four positive lengths that are not all equal.

    Its steps, with their peculiarities: the longest finite bar takes the place of the essential one; the search stops
    at n - 3, and there ends as if something had been found; Q is rounded up; the next round starts from the bars before
    i with the last two.
    """
    ordered = np.sort(np.asarray(lengths))[::-1]
    barcode = np.concatenate([ordered[1:], ordered[:1]])
    ratio = barcode[-2] / barcode[-1]

    def round_(barcode: Lengths) -> int:
        n = len(barcode)
        total = barcode.sum()
        for i in range(1, n - 2):
            rest = barcode[i:]
            before, total = total, rest.sum() + i * rest.sum() / np.exp(entropy(rest))
            if before / total < 1:
                break
        if math.ceil(quota(n, ratio)) < i:
            return round_(np.concatenate([barcode[:i], barcode[-2:]]))
        return i

    return 1 + round_(barcode)


ORACLES = {
    "agr2016": count_by_agr2016,
    "agr2017": count_by_agr2017,
    "shrink-the-longest": count_by_the_published_code,
}


def clearly(lengths: Sequence[float], method: str) -> bool:
    """Whether the procedure says the same after changes in the tenth digit: then its answer is not rounding."""
    generator = np.random.default_rng(0)
    shaken = [np.asarray(lengths) * (1 + 1e-10 * generator.standard_normal(len(lengths))) for _ in range(3)]
    return len({ORACLES[method](x) for x in (lengths, *shaken)}) == 1


@every_method
@relaxed
@given(different_lengths)
def test_a_method_keeps_what_its_procedure_keeps(method: str, lengths: list[float]) -> None:
    assume(clearly(lengths, method))
    assert kept(lengths, method) == longest(lengths, ORACLES[method](lengths))


@every_method
@pytest.mark.parametrize("seed", range(20))
def test_a_method_keeps_what_its_procedure_keeps_on_clouds(method: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    n, d, k = int(generator.integers(5, 65)), int(generator.integers(1, 50)), int(generator.integers(1, 6))
    lengths = linkage_heights(blobs(n, d, k, generator))
    assert kept(lengths, method) == longest(lengths, ORACLES[method](lengths))


def test_the_procedures_differ() -> None:
    # Shows that the two tests above can fail: no procedure passes for another.
    lengths = linkage_heights(blobs(64, 16, 1, np.random.default_rng(0)))
    assert len({count(lengths) for count in ORACLES.values()}) == 3


@pytest.mark.parametrize("seed", range(5))
def test_the_neutral_length_is_the_one_of_largest_entropy(seed: int) -> None:
    rest = np.random.default_rng(seed).lognormal(size=9)
    for i in (1, 2, 6):
        best = minimize_scalar(
            lambda log, i=i: -entropy(np.concatenate([np.full(i, np.exp(log)), rest])), bounds=(-5, 5), method="bounded"
        )
        assert np.exp(best.x) == pytest.approx(neutral_length(rest), rel=1e-3)
        # and the closed forms of the module docstring
        barcode = np.concatenate([np.full(i, neutral_length(rest)), rest])
        assert neutral_length(rest) == pytest.approx(np.exp((rest * np.log(rest)).sum() / rest.sum()))
        assert entropy(barcode) == pytest.approx(np.log(i + np.exp(entropy(rest))))


@pytest.mark.parametrize("ratio", [0.9, 0.5, 0.1, 1e-3])
def test_q_is_the_number_of_long_bars_in_the_two_level_barcode_of_least_entropy(ratio: float) -> None:
    assert quota(60, ratio) == pytest.approx(least_even_count(60, ratio), rel=1e-4)


# --- the contract of every method -------------------------------------------------------------------------------------


@every_method
@relaxed
@given(lengths_of_any_kind)
def test_features_are_longer_than_noise(method: str, lengths: list[float]) -> None:
    bars = bars_of(lengths)
    result = prominent(bars, method)
    feature, noise = bars.death[result.mask], bars.death[~result.mask]
    if len(feature) and len(noise):
        assert feature.min() >= noise.max()
    assert (feature > 0).all()


@every_method
@relaxed
@given(lengths_of_any_kind)
def test_noise_becomes_padding_and_features_stay_as_they_were(method: str, lengths: list[float]) -> None:
    bars = bars_of(lengths)
    result = prominent(bars, method)
    assert result.dim == bars.dim
    for field in ("birth", "death", "birth_edge", "death_edge"):
        before, after = getattr(bars, field), getattr(result, field)
        assert after.shape == before.shape
        assert after.dtype == before.dtype
        assert torch.equal(after[result.mask], before[result.mask])
        assert (after[~result.mask] == 0).all()


@every_method
def test_the_barcode_that_is_passed_in_stays_as_it_was(method: str) -> None:
    bars = bars_of([1.0, 5.0, 1.1, 1.2, 0.9])
    prominent(bars, method)
    assert bars.death.tolist() == [1.0, 5.0, 1.1, 1.2, 0.9]
    assert bars.mask.all()


@every_method
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_the_selection_does_not_depend_on_scale(method: str, scale: float) -> None:
    lengths = np.random.default_rng(0).lognormal(size=30)
    assert torch.equal(prominent(bars_of(lengths * scale), method).mask, prominent(bars_of(lengths), method).mask)


@every_method
def test_lengths_may_differ_by_any_factor(method: str) -> None:
    features = kept([5e-324, 1e300, 2e300, 1e-300, 1.0, 2.0], method)
    assert features == longest([5e-324, 1e300, 2e300, 1e-300, 1.0, 2.0], len(features))
    assert 1 <= len(features) < 6


@every_method
def test_the_selection_does_not_depend_on_the_order_of_the_bars(method: str) -> None:
    generator = np.random.default_rng(0)
    for _ in range(10):
        lengths = generator.lognormal(size=30)
        assert kept(generator.permutation(lengths), method) == kept(lengths, method)


@every_method
def test_of_equally_long_bars_the_earlier_are_kept(method: str) -> None:
    generator = np.random.default_rng(0)
    split = 0
    for _ in range(50):
        lengths = generator.permutation(np.repeat([8.0, 4.0, 3.0, 2.0, 1.0], generator.integers(1, 40, size=5)))
        result = prominent(bars_of(lengths), method).mask.numpy()
        for length in np.unique(lengths):
            of_this_length = result[lengths == length].astype(int)
            assert (np.diff(of_this_length) <= 0).all()
            split += len(np.unique(of_this_length)) > 1
    assert split > 0 or method == "agr2016"  # a method that never keeps some and drops others


@every_method
def test_a_batch_of_any_shape_gives_what_each_cloud_gives_alone(method: str) -> None:
    lengths = torch.from_numpy(np.random.default_rng(0).lognormal(size=(2, 3, 17)))
    together = prominent(bars_of(lengths), method)
    for index in np.ndindex(2, 3):
        assert torch.equal(together.mask[index], prominent(bars_of(lengths[index]), method).mask)
    assert len({tuple(row) for row in together.mask.flatten(0, 1).tolist()}) > 1


@every_method
def test_padding_is_neither_kept_nor_counted(method: str) -> None:
    lengths = torch.from_numpy(np.random.default_rng(0).lognormal(size=20))
    alone = prominent(bars_of(lengths), method)
    mask = torch.ones(30, dtype=torch.bool)
    mask[::3] = False
    padded = torch.zeros(30, dtype=torch.float64)
    padded[mask] = lengths
    result = prominent(bars_of(padded, mask), method)
    assert torch.equal(result.mask[mask], alone.mask)
    assert not result.mask[~mask].any()


@every_method
def test_bars_of_length_zero_are_noise_and_change_nothing_for_the_others(method: str) -> None:
    lengths = np.random.default_rng(0).lognormal(size=20)
    duplicates = np.concatenate([np.zeros(5), lengths, np.zeros(7)])
    assert kept(duplicates, method) == kept(lengths, method)


@every_method
def test_infinite_bars_are_features_and_change_nothing_for_the_others(method: str) -> None:
    lengths = np.random.default_rng(0).lognormal(size=20)
    assert kept([INF, *lengths, INF], method) == [INF, INF, *kept(lengths, method)]


@every_method
def test_nan_stays_to_be_seen(method: str) -> None:
    result = prominent(bars_of([1.0, math.nan, 1.0, 9.0]), method)
    assert result.mask[1]
    assert persistent_entropy(result).isnan()


@every_method
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equal_bars_are_all_kept(method: str, k: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(k)
    rounding = 1 + torch.finfo(dtype).eps * torch.randint(-2, 3, (k,), generator=generator).to(dtype)
    for lengths in (torch.full((k,), 0.1, dtype=dtype), 0.1 * rounding):
        assert prominent(bars_of(lengths), method).mask.all()


@every_method
@pytest.mark.parametrize("lengths", [[], [0.0], [0.0, 0.0, 0.0]], ids=str)
def test_nothing_is_kept_of_nothing(method: str, lengths: list[float]) -> None:
    result = prominent(bars_of(lengths), method)
    assert not result.mask.any()
    assert result.death.shape == (len(lengths),)


# Fewer than four bars. agr2016: of two bars, neutralising the first brings all that the entropy lacks, and 1 > 1/2.
# agr2017: C_1 < 1 at once, and one step of one (of two bars) or of two (of three) drops nothing but r. The published
# code has no answer; n - 3 leads to T.
@pytest.mark.parametrize(
    ("method", "two", "three"), [("agr2016", 1, 1), ("agr2017", 2, 2), ("shrink-the-longest", 1, 1)]
)
def test_of_two_and_three_bars(method: str, two: int, three: int) -> None:
    assert kept([1.0, 10.0], method) == longest([1.0, 10.0], two)
    assert kept([1.0, 10.0, 1.1], method) == longest([1.0, 10.0, 1.1], three)
    assert kept([4.0], method) == [4.0]


@every_method
def test_gradients_flow_to_the_features_only(method: str) -> None:
    lengths = torch.tensor([1.0, 9.0, 1.1, 8.0, 1.2, 0.9, 1.05, 0.0], dtype=torch.float64, requires_grad=True)
    result = prominent(bars_of(lengths), method)
    assert 2 <= int(result.mask.sum()) < 8
    (slope,) = torch.autograd.grad(entropy_deficit(result), lengths)
    assert torch.equal(slope != 0, result.mask)
    features = lengths.detach()[result.mask].requires_grad_()
    (expected,) = torch.autograd.grad(entropy_deficit(bars_of(features)), features)
    torch.testing.assert_close(slope[result.mask], expected)


@every_method
def test_gradients_are_those_of_finite_differences(method: str) -> None:
    lengths = torch.tensor([1.0, 9.0, 1.1, 8.0, 1.2, 0.9, 1.05, INF], dtype=torch.float64, requires_grad=True)
    finite = lengths[:-1].detach().requires_grad_()

    def total(x: Tensor) -> Tensor:
        bars = prominent(bars_of(x), method)
        return (bars.death * bars.death).sum() + persistent_entropy(bars)

    assert torch.autograd.gradcheck(total, (finite,))
    assert torch.autograd.gradgradcheck(total, (finite,))
    (slope,) = torch.autograd.grad(persistent_entropy(prominent(bars_of(lengths), method)), lengths)
    assert slope.isfinite().all()


@every_method
def test_loops_are_selected_by_persistence_and_not_by_death(method: str) -> None:
    # Persistences 1, 6, 1.1, 1.2, 0.9, 1.05; the longest bar dies first.
    birth = torch.tensor([7.0, 0.0, 8.0, 9.0, 10.0, 11.0])
    death = birth + torch.tensor([1.0, 6.0, 1.1, 1.2, 0.9, 1.05])
    edge = torch.ones(6, 2, dtype=torch.int64)
    result = prominent(Barcode(1, birth, death, edge, edge, torch.ones(6, dtype=torch.bool)), method)
    assert result.mask[1]
    assert result.dim == 1
    assert not result.mask[4]
    assert (result.birth[~result.mask] == 0).all()


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_the_type_of_the_barcode_is_kept(method: str, dtype: torch.dtype) -> None:
    result = prominent(bars_of(torch.tensor([1.0, 8.0, 1.25, 1.5, 0.75], dtype=dtype)), method)
    assert result.birth.dtype == result.death.dtype == dtype
    assert result.mask[1]


def test_agr2017_is_the_default() -> None:
    lengths = linkage_heights(blobs(64, 16, 1, np.random.default_rng(0)))
    assert torch.equal(prominent(bars_of(lengths)).mask, prominent(bars_of(lengths), "agr2017").mask)
    assert not torch.equal(prominent(bars_of(lengths)).mask, prominent(bars_of(lengths), "agr2016").mask)


@pytest.mark.parametrize("method", ["agr", "AGR2017", "", None])
def test_an_unknown_method_is_named_with_those_there_are(method: str) -> None:
    message = f"method must be one of 'agr2017', 'agr2016', 'shrink-the-longest'; got {method!r}"
    with pytest.raises(ValueError, match=f"^{message}$"):
        prominent(bars_of([1.0, 2.0]), method)


# --- known barcodes and clusters --------------------------------------------------------------------------------------


def test_agr_by_hand() -> None:
    # T = 28, r = 9, a = 0.3214, Q/n = a (a - 1 - log a) / (1 - a)^2 = 0.3187. First round: n = 5, Q = 1.59;
    # g_1 = exp((17 log 17 + 11 log 11 + 9 log 9 + 28 log 28) / 65) = 17.93 < 18, g_2 = 18.27 > 17: i = 2.
    lengths = [28.0, 18.0, 17.0, 11.0, 9.0]
    # As the published code rounds it, Q = 2 >= i: T and two more.
    assert kept(lengths, "shrink-the-longest") == [28.0, 18.0, 17.0]
    # Else Q < i, so 18, 17, 9, 28 stay in play: Q = 1.27, g_1 = 19.80 > 18, i = 1: T and one more.
    assert kept(lengths, "agr2017") == [28.0, 18.0]
    # With the first bar neutralised all are equal, which brings all that the entropy lacks: 1 > 1/4, and nothing after.
    assert kept([10.0, 1.0, 1.0, 1.0], "agr2016") == [10.0]


@pytest.mark.parametrize("noise", [0.2, 1e-2, 1e-4])
def test_agr2016_keeps_the_bars_that_stand_out_however_far_they_do(noise: float) -> None:
    lengths = [5.0, 5.1, 4.9, 5.2, 4.8, *(noise * np.linspace(0.9, 1.1, 15))]
    assert kept(lengths, "agr2016") == longest(lengths, 5)


def test_agr2016_may_find_no_feature() -> None:
    # Lengths that fall evenly: every bar brings a little, and none more than its number over eleven.
    lengths = [1.0, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert count_by_agr2016(lengths) == 0
    assert kept(lengths, "agr2016") == []


@pytest.mark.parametrize("spread", [1e-2, 1e-6, 1e-9])
def test_agr2016_tells_bars_apart_however_little_they_differ(spread: float) -> None:
    # One bar a little longer than 19 others, which are nearly equal: log n - H is about spread²/(2n), down to 2e-20.
    lengths = np.array([1 + spread, *(1 + 1e-3 * spread * np.linspace(-1, 1, 19))])
    assert kept(lengths, "agr2016") == [1 + spread]


def blobs(n: int, d: int, k: int, generator: np.random.Generator) -> Lengths:
    """n points in k Gaussian clusters, which are about 10 sqrt(2 d) apart."""
    centres = 10 * generator.standard_normal((k, d))
    return generator.standard_normal((n, d)) + centres[np.arange(n) % k]


def linkage_heights(points: Lengths) -> Lengths:
    """The finite H0 bars: heights of single linkage."""
    return np.asarray(linkage(pdist(points), "single")[:, 2])


def enclosing_radius(points: Lengths) -> float:
    return float(squareform(pdist(points)).max(axis=1).min())


# Bars kept of 64 points in k clusters.
@pytest.mark.parametrize("d", [16, 768])
@pytest.mark.parametrize("k", [2, 4, 8])
def test_agr2016_keeps_the_edges_between_clusters(k: int, d: int) -> None:
    for seed in range(3):
        lengths = linkage_heights(blobs(64, d, k, np.random.default_rng(seed)))
        assert kept(lengths, "agr2016") == longest(lengths, k - 1)


@pytest.mark.parametrize("k", [2, 4, 8])
def test_shrink_the_longest_keeps_one_bar_more_than_the_edges_between_clusters(k: int) -> None:
    for seed in range(3):
        lengths = linkage_heights(blobs(64, 768, k, np.random.default_rng(seed)))
        assert kept(lengths, "shrink-the-longest") == longest(lengths, k)


@pytest.mark.parametrize("k", [2, 4, 8])
def test_agr2017_with_the_essential_bar_keeps_it_and_one_more_than_the_edges_between_clusters(k: int) -> None:
    for seed in range(3):
        points = blobs(64, 768, k, np.random.default_rng(seed))
        lengths = [enclosing_radius(points), *linkage_heights(points)]
        assert kept(lengths, "agr2017") == longest(lengths, k + 1)


def test_one_gaussian_cloud_has_few_features_or_many() -> None:
    # Means over ten clouds of 64 points in 768 dimensions; where the search ends decides between 5 and 31.
    found: dict[str, list[int]] = {name: [] for name in (*METHODS, "agr2017 and essential")}
    for seed in range(10):
        points = blobs(64, 768, 1, np.random.default_rng(seed))
        lengths = linkage_heights(points)
        for method in METHODS:
            found[method].append(len(kept(lengths, method)))
        found["agr2017 and essential"].append(len(kept([enclosing_radius(points), *lengths], "agr2017")))
    assert found["shrink-the-longest"] == [5] * 10
    assert 1.5 < np.mean(found["agr2016"]) < 4
    assert 25 < np.mean(found["agr2017"]) < 36
    assert 5 < np.mean(found["agr2017 and essential"]) < 25  # from 3 to 32


@every_method
def test_rips_barcodes_go_in_and_come_out(method: str) -> None:
    points = torch.from_numpy(blobs(40, 30, 4, np.random.default_rng(0))).requires_grad_()
    bars = prominent(rips_barcode(points)[0], method)
    assert 3 <= len(bars) <= 5
    longest_three = bars.death.topk(3).indices
    for i, j in bars.death_edge[longest_three].tolist():
        assert i % 4 != j % 4  # the edge joins two clusters
    entropy_deficit(bars).backward()
    assert points.grad.isfinite().all()
    assert points.grad.norm() > 0


def test_with_the_enclosing_radius_agr2017_has_the_essential_bar_as_the_longest() -> None:
    points = torch.from_numpy(blobs(64, 768, 4, np.random.default_rng(0)))
    bars = rips_barcode(points, essential="enclosing_radius")[0]
    result = prominent(bars)
    assert result.death.argmax() == bars.death.argmax() == 63  # it comes after the finite bars
    assert len(result) == 5
    assert len(prominent(rips_barcode(points)[0])) == 4


@every_method
def test_a_batch_of_clouds_of_different_sizes_gives_what_each_gives_alone(method: str) -> None:
    clouds = [torch.from_numpy(blobs(n, 20, 3, np.random.default_rng(n))) for n in (1, 2, 3, 12, 30)]
    together = prominent(rips_barcode(clouds)[0], method)
    for row, cloud in enumerate(clouds):
        alone = prominent(rips_barcode(cloud)[0], method)
        assert torch.equal(together.death[row][together.mask[row]], alone.death[alone.mask])
