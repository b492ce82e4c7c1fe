"""What the runs of a study say about the variants: differences from the baseline on the same seeds, and how sure they are.

A *group* is a task with a model and a budget. In a group, variant v and the baseline "none" are trained with the same seeds, so for each
seed s that both finished there is one paired difference

    d_s = score of v at s - score of "none" at s,    n of them,

score being the main metric on the reported split, in its own unit (bigger is better). From these:

    difference      mean d
    interval        bootstrap of the mean over seeds, 95 %, bias-corrected and accelerated (Efron 1987)
    p               of all 2^n sign patterns of d, the share whose mean is at least as far from zero (paired permutation test; 9,999 random
                    patterns where there are more); or the same of the signed ranks (Wilcoxon 1945)
    p corrected     Holm's (1979) over the family: all variants in all groups
    effect          mean d / standard deviation of d (Cohen's d_z, 1988)
    seeds needed    least n with which a two-sided paired t-test at 0.05 finds an effect of this size with probability 0.8

A variant is called better or worse only if the corrected p is below 0.05. That is not modesty: n pairs cannot give a p below 2 / 2^n, which
is 0.0625 for five seeds, and Holm multiplies the smallest p by the number of comparisons. `least_seeds` says how many seeds a family needs
before any verdict but "no evidence of a difference" is possible at all. The bootstrap knows only the seeds there are, and its
interval for five seeds is too short (of normal differences it covers the mean in about 84 % of cases, not in 95 %); where verdict and
interval disagree, the verdict is the one to believe.

*Overall*: the mean over groups of the mean differences, each in the unit of its group's own metric, every group counting the same;
groups without a pair do not count. Its interval resamples groups, then seeds within each (hierarchical bootstrap, percentiles);
with one group that is the bootstrap over seeds, and with two or three it can hardly know how tasks differ. Its p flips the signs
of all differences of all groups independently: it is about these tasks, not about tasks in general. Holm's family is here the
variants.

Singular input. One pair: no interval, no effect, p = 1. All differences equal: the interval is that one number; the effect is 0 if
they are zero, else infinite. No pair (the baseline or the variant is missing or failed): nothing is compared, and the verdict says
so. Runs that failed or whose score is missing or not finite are counted and left out. Nothing is ever filled in.

SciPy does the arithmetic (extra "study"). All resampling starts from one fixed seed: the same records give the same numbers.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from simplicial_reg._checks import check_choice
from simplicial_reg.study.protocol import BASELINE, relevant
from simplicial_reg.study.record import Record

__all__ = [
    "ALPHA",
    "BASELINE",
    "BETTER",
    "NOT_COMPARED",
    "NO_EVIDENCE",
    "WORSE",
    "Comparison",
    "Group",
    "Overall",
    "Row",
    "Summary",
    "compare_pairs",
    "effect_size",
    "group_of",
    "holm",
    "interval_of_mean",
    "least_seeds",
    "paired",
    "permutation_p",
    "score",
    "seeds_needed",
    "summarize",
    "unpaired_interval",
]

ALPHA = 0.05
POWER = 0.8
RESAMPLES = 9999
SEED = 0  # of every resampling
TESTS = ("permutation", "wilcoxon")
TestChoice = Literal["permutation", "wilcoxon"]

BETTER, WORSE, NO_EVIDENCE, NOT_COMPARED = "better", "worse", "no evidence of a difference", "not compared"


class Group(NamedTuple):
    """Runs that can be compared with one another."""

    task: str
    model: str
    budget: str  # as JSON with sorted keys


@dataclass(frozen=True)
class Comparison:
    """What paired differences say; NaN where there is nothing to say.

    Attributes:
        pairs: number of differences.
        difference: their mean, in the unit of the metric; positive is better than the baseline.
        low: lower end of the 95 % interval.
        high: upper end of it.
        p: of the paired test, two-sided.
        p_corrected: after Holm over the family.
        effect: Cohen's d_z; signed.
        seeds_needed: to find an effect of this size with probability 0.8; None if there is none to find, or fewer than two pairs.
        verdict: ``"better"``, ``"worse"``, ``"no evidence of a difference"``, ``"not compared"``, or ``"baseline"``.
    """

    pairs: int = 0
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    p_corrected: float = math.nan
    effect: float = math.nan
    seeds_needed: int | None = None
    verdict: str = NOT_COMPARED


@dataclass(frozen=True)
class Row:
    """A variant in a group.

    Attributes:
        group: task, model and budget.
        variant: its name.
        metric: name of the task's main metric.
        settings: what tuning chose for it.
        scores: the score of each seed that has one.
        failed: number of final runs without a score.
        mean: of the scores, NaN if there are none.
        deviation: their standard deviation (n - 1), NaN for fewer than two.
        comparison: with the baseline on the same seeds.
        note: what is missing or was left out, empty if nothing.
    """

    group: Group
    variant: str
    metric: str
    settings: dict[str, Any]
    scores: dict[int, float]
    failed: int
    mean: float
    deviation: float
    comparison: Comparison
    note: str = ""


@dataclass(frozen=True)
class Overall:
    """A variant over all groups where it could be compared.

    Attributes:
        variant: its name.
        groups: number of groups with at least one pair.
        comparison: of the mean over groups; effect and seeds needed do not apply.
    """

    variant: str
    groups: int
    comparison: Comparison


@dataclass(frozen=True)
class Summary:
    """All that the final runs of a study say.

    Attributes:
        rows: baseline first in each group, then the variants by name; groups by name.
        overall: one entry for each variant but the baseline.
        comparisons: size of the family that the rows' p-values are corrected over.
        seeds: most pairs of any comparison.
        test: name of the paired test.
    """

    rows: tuple[Row, ...]
    overall: tuple[Overall, ...]
    comparisons: int
    seeds: int
    test: str

    @property
    def groups(self) -> list[Group]:
        """The groups in the order of the rows."""
        return list(dict.fromkeys(row.group for row in self.rows))


def summarize(records: Iterable[Record], *, test: TestChoice = "permutation") -> Summary:
    """Mean, spread and comparison with the baseline for each variant in each group, and overall.

    Only final runs of the chosen settings count, as the protocol says. In a group without tuning, where runs of several settings may
    stand side by side, the settings with most scores count, and the row's note says how many runs were left out.

    Args:
        records: of one study, in any order.
        test: ``"permutation"`` of the differences, or ``"wilcoxon"`` of their signed ranks.

    Returns:
        The summary; empty if there are no final records.

    Raises:
        ImportError: if SciPy is missing (extra "study").
        ValueError: for an unknown test.

    Example:
        >>> from simplicial_reg.study.record import Cell, Record
        >>> scores = {"none": [0.70, 0.72, 0.71], "istar": [0.73, 0.74, 0.75]}
        >>> records = [
        ...     Record(Cell("mrpc", "tiny", variant, "final", seed), "done", metric="f1", reported={"f1": value})
        ...     for variant, values in scores.items()
        ...     for seed, value in enumerate(values)
        ... ]
        >>> baseline, istar = summarize(records).rows
        >>> print(f"{istar.comparison.difference:.2f}, p = {istar.comparison.p}: {istar.comparison.verdict}")
        0.03, p = 0.25: no evidence of a difference
    """
    check_choice("test", test, TESTS)
    check_scipy()
    kept = relevant(records)
    runs: dict[Group, dict[str, list[Record]]] = {}
    if any(record.cell.phase == "final" for record in kept):
        for record in kept:
            # A variant whose tuning failed has no final run, and a row that says so.
            finals = runs.setdefault(group_of(record), {}).setdefault(record.cell.variant, [])
            finals += [record] if record.cell.phase == "final" else []
    rows = [row for group in sorted(runs) for row in _rows(group, runs[group], test)]
    rows = _corrected(rows)
    overall = _overall(rows, test)
    counted = [row.comparison for row in rows if not math.isnan(row.comparison.p)]
    return Summary(tuple(rows), tuple(overall), len(counted), max((one.pairs for one in counted), default=0), test)


def score(record: Record) -> float:
    """The main metric on the reported split, NaN for a run that failed or has none."""
    value = record.reported.get(record.metric)
    if record.status != "done" or isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    return float(value) if math.isfinite(value) else math.nan


def compare_pairs(differences: Sequence[float], *, test: TestChoice = "permutation") -> Comparison:
    """What paired differences say, before any correction.

    Args:
        differences: one for each seed that both have; may be empty.
        test: as in `summarize`.

    Returns:
        The comparison with ``p_corrected`` still NaN and no verdict.

    Example:
        >>> found = compare_pairs([0.01, 0.02, 0.03, 0.02, 0.02])
        >>> round(found.difference, 3), found.p, round(found.effect, 2), found.seeds_needed
        (0.02, 0.0625, 2.83, 4)
    """
    if not len(differences):
        return Comparison()
    effect = effect_size(differences)
    low, high = interval_of_mean(differences)
    p = permutation_p(_signed_ranks(differences) if test == "wilcoxon" else differences)
    needed = seeds_needed(effect)
    return Comparison(len(differences), float(np.mean(differences)), low, high, p, math.nan, effect, needed)


def paired(scores: Mapping[int, float], others: Mapping[int, float]) -> list[float]:
    """``scores - others`` on the seeds that both have.

    Rounded to 12 decimals: scores are ratios of counts, and without it 0.3 - 0.2 and 0.2 - 0.1 would not tie.

    Example:
        >>> paired({0: 0.3, 1: 0.2, 2: 0.9}, {0: 0.2, 1: 0.1})
        [0.1, 0.1]
    """
    return [round(value - others[seed], 12) for seed, value in scores.items() if seed in others]


def interval_of_mean(values: Sequence[float]) -> tuple[float, float]:
    """Bootstrap interval of the mean, 95 %: BCa, and percentiles where BCa does not exist.

    BCa does not exist where no resample lies on one side of the mean. For fewer than two values the interval is NaN; for equal
    values it is their value.
    """
    from scipy.stats import bootstrap

    array = np.asarray(values, dtype=float)
    if array.size < 2:
        return math.nan, math.nan
    if np.ptp(array) == 0:
        return float(array[0]), float(array[0])
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a degenerate distribution: seen in the result
            found = bootstrap((array,), _rounded_mean, n_resamples=RESAMPLES, method=method, rng=_generator())
        low, high = (float(end) for end in found.confidence_interval)
        if math.isfinite(low) and math.isfinite(high):
            break
    return low, high


def _rounded_mean(values: Any, axis: int = -1) -> Any:
    """BCa counts the resamples whose mean is that of the sample; without rounding, sums in another order would not be equal."""
    return np.round(np.mean(values, axis), 12)


def unpaired_interval(values: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """Bootstrap percentile interval of the difference of two means of independent samples, 95 %; NaN for fewer than two of either."""
    if min(len(values), len(others)) < 2:
        return math.nan, math.nan
    generator = _generator()
    means = [
        generator.choice(np.asarray(sample, dtype=float), (RESAMPLES, len(sample))).mean(1)
        for sample in (values, others)
    ]
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    return float(low), float(high)


def permutation_p(values: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """Two-sided p of the weighted sum under independent flips of the signs.

    Exact up to 13 values (2^13 patterns); beyond that from 9,999 random ones, the observed one counted in, so never zero.

    Args:
        values: differences.
        weights: of each in the sum; equal if None.

    Returns:
        In (0, 1]; 1 if all values are zero; NaN if there are none.
    """
    from scipy.stats import permutation_test

    array = np.asarray(values, dtype=float) * (1.0 if weights is None else np.asarray(weights, dtype=float))
    if array.size == 0:
        return math.nan
    if array.size == 1 or not array.any():  # either sign of one value is as far from zero
        return 1.0
    found = permutation_test(
        (array,), _sum, permutation_type="samples", vectorized=True, n_resamples=RESAMPLES, rng=_generator()
    )
    return float(found.pvalue)


def effect_size(differences: Sequence[float]) -> float:
    """Cohen's d_z: mean over standard deviation of paired differences; NaN for fewer than two, infinite if all are equal and not zero."""
    if len(differences) < 2:
        return math.nan
    mean = float(np.mean(differences))
    if np.ptp(differences) == 0:
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / float(np.std(differences, ddof=1))


def seeds_needed(effect: float, *, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """Least number of pairs with which a two-sided paired t-test finds an effect of this size.

    With n pairs the t statistic has n - 1 degrees of freedom and, under the effect d_z, noncentrality d_z √n.

    Args:
        effect: Cohen's d_z.
        alpha: level of the test.
        power: probability of finding the effect.

    Returns:
        At least 2; None if the effect is zero or NaN, so that no number is enough.

    Source:
        Cohen 1988, "Statistical power analysis for the behavioral sciences", chapter 2; power 0.8 at level 0.05 is its convention.

    Example:
        >>> [seeds_needed(effect) for effect in (0.2, 0.5, 0.8)]
        [199, 34, 15]
    """
    if math.isnan(effect) or effect == 0:
        return None
    if math.isinf(effect):
        return 2
    enough = 2
    while _power(effect, enough, alpha) < power:
        enough *= 2
        if enough > 10**9:  # an effect of rounding errors
            return None
    short = enough // 2  # its power is too small, unless it is 1
    while enough - short > 1:
        middle = (short + enough) // 2
        short, enough = (short, middle) if _power(effect, middle, alpha) >= power else (middle, enough)
    return max(enough, 2)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: the k-th smallest of m times m - k + 1, made monotone and at most 1; NaN stays NaN and does not count in m.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected = [math.nan] * len(p_values)
    order = sorted((at for at, p in enumerate(p_values) if not math.isnan(p)), key=lambda at: p_values[at])
    largest = 0.0
    for rank, at in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[at]))
        corrected[at] = largest
    return corrected


def least_seeds(comparisons: int, *, alpha: float = ALPHA) -> int:
    """Fewest pairs with which the smallest p of a permutation test, 2 / 2^n, times the number of comparisons is below alpha.

    Example:
        >>> least_seeds(1), least_seeds(12)
        (6, 9)
    """
    n = 1
    while 2 / 2**n * max(comparisons, 1) >= alpha:
        n += 1
    return n


def check_scipy() -> None:
    """Raise an ``ImportError`` that names the extra if SciPy is missing."""
    try:
        import scipy.stats  # noqa: F401
    except ImportError as error:
        raise ImportError('the statistics of a study need scipy: pip install "simplicial_reg[study]"') from error


def group_of(record: Record) -> Group:
    """With which runs this one can be compared."""
    return Group(record.cell.task, record.cell.model, json.dumps(record.cell.budget, sort_keys=True))


def _rows(group: Group, runs: dict[str, list[Record]], test: TestChoice) -> list[Row]:
    rows: list[Row] = []
    baseline: dict[int, float] = {}
    for variant in sorted(runs, key=lambda name: (name != BASELINE, name)):
        settings = _settings(runs[variant])
        counted = [record for record in runs[variant] if record.cell.settings == settings]
        scores = {record.cell.seed: score(record) for record in counted}
        scores = {seed: scores[seed] for seed in sorted(scores) if not math.isnan(scores[seed])}
        values = list(scores.values())
        if variant == BASELINE:
            baseline, comparison = scores, Comparison(verdict="baseline")
        else:
            comparison = compare_pairs(paired(scores, baseline), test=test)
        rows.append(
            Row(
                group,
                variant,
                next((record.metric for record in counted if record.metric), ""),
                settings,
                scores,
                failed=len({record.cell.seed for record in counted} - set(scores)),
                mean=float(np.mean(values)) if values else math.nan,
                deviation=float(np.std(values, ddof=1)) if len(values) > 1 else math.nan,
                comparison=comparison,
                note=_note(variant, scores, baseline, counted, len(runs[variant]) - len(counted)),
            )
        )
    return rows


def _settings(runs: list[Record]) -> dict[str, Any]:
    """The settings with most scores; of equal ones the last as text, so that the order of the records does not matter."""
    if not runs:
        return {}
    counts: dict[str, int] = {}
    by_text: dict[str, dict[str, Any]] = {}
    for record in runs:
        text = json.dumps(record.cell.settings, sort_keys=True)
        by_text[text] = record.cell.settings
        counts[text] = counts.get(text, 0) + (not math.isnan(score(record)))
    return by_text[max(counts, key=lambda text: (counts[text], text))]


def _note(
    variant: str, scores: dict[int, float], baseline: dict[int, float], counted: list[Record], left_out: int
) -> str:
    seeds = {record.cell.seed for record in counted}
    if not seeds:
        return "no final run"
    parts = []
    if len(seeds) > len(scores):
        parts.append(f"runs without a score: {len(seeds) - len(scores)} of {len(seeds)}")
    if variant != BASELINE:
        common = len(scores.keys() & baseline.keys())
        if not baseline:
            parts.append(f'the baseline "{BASELINE}" is missing')
        elif common < max(len(scores), len(baseline)):
            parts.append(f"seeds in common with the baseline: {common} of its {len(baseline)}")
    if left_out:
        parts.append(f"runs with other settings, left out: {left_out}")
    return "; ".join(parts)


def _corrected(rows: list[Row]) -> list[Row]:
    corrected = holm([row.comparison.p for row in rows])
    return [replace(row, comparison=_judged(row.comparison, p)) for row, p in zip(rows, corrected, strict=True)]


def _judged(comparison: Comparison, p_corrected: float) -> Comparison:
    if math.isnan(p_corrected):
        return comparison
    verdict = NO_EVIDENCE
    if p_corrected < ALPHA:
        verdict = BETTER if comparison.difference > 0 else WORSE
    return replace(comparison, p_corrected=p_corrected, verdict=verdict)


def _overall(rows: list[Row], test: TestChoice) -> list[Overall]:
    baselines = {row.group: row.scores for row in rows if row.variant == BASELINE}
    found = []
    for variant in sorted({row.variant for row in rows} - {BASELINE}):
        samples = [
            paired(row.scores, baselines[row.group]) for row in rows if row.variant == variant and row.comparison.pairs
        ]
        found.append(Overall(variant, len(samples), _compare_groups(samples, test)))
    corrected = holm([entry.comparison.p for entry in found])
    return [replace(entry, comparison=_judged(entry.comparison, p)) for entry, p in zip(found, corrected, strict=True)]


def _compare_groups(samples: list[list[float]], test: TestChoice) -> Comparison:
    if not samples:
        return Comparison()
    if len(samples) == 1:
        return replace(compare_pairs(samples[0], test=test), effect=math.nan, seeds_needed=None)
    # A mean over groups of means over seeds is a weighted sum of all differences.
    values = [value for sample in samples for value in (_signed_ranks(sample) if test == "wilcoxon" else sample)]
    weights = [1 / len(samples) / len(sample) for sample in samples for _ in sample]
    low, high = _hierarchical_interval(samples)
    return Comparison(
        len(values),
        float(np.mean([np.mean(sample) for sample in samples])),
        low,
        high,
        permutation_p(values, weights),
    )


def _hierarchical_interval(samples: list[list[float]]) -> tuple[float, float]:
    """Percentiles of the mean over resampled groups of the means over resampled seeds. Drawing a group twice draws its seeds twice."""
    generator = _generator()
    chosen = generator.integers(len(samples), size=(RESAMPLES, len(samples)))
    means = np.empty(chosen.shape)
    for at, sample in enumerate(samples):
        drawn = chosen == at
        means[drawn] = generator.choice(np.asarray(sample), (int(drawn.sum()), len(sample))).mean(1)
    low, high = np.quantile(means.mean(1), [0.025, 0.975])
    return float(low), float(high)


def _signed_ranks(differences: Sequence[float]) -> list[float]:
    """Ranks of the sizes, equal ones averaged, with the signs of the differences; zeros are no evidence either way and get rank zero."""
    from scipy.stats import rankdata

    array = np.asarray(differences, dtype=float)
    ranks = np.zeros_like(array)
    ranks[array != 0] = rankdata(np.abs(array[array != 0]))
    signed: list[float] = (np.sign(array) * ranks).tolist()
    return signed


def _power(effect: float, n: int, alpha: float) -> float:
    from scipy.stats import nct, t

    # The far tail is left out: at 0.8 it is nothing, and its noncentral t is the harder one to compute.
    critical = t.ppf(1 - alpha / 2, n - 1)
    return float(nct.sf(critical, n - 1, abs(effect) * math.sqrt(n)))


def _sum(values: Any, axis: int = -1) -> Any:
    return values.sum(axis)


def _generator() -> np.random.Generator:
    return np.random.default_rng(SEED)
