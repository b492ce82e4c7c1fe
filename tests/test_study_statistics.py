"""What is said of paired differences: against formulas written out, enumeration, simulation and SciPy's own tests."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
import scipy.stats

from simplicial_reg.study import statistics
from simplicial_reg.study.statistics import (
    BETTER,
    NO_EVIDENCE,
    NOT_COMPARED,
    WORSE,
    compare_pairs,
    effect_size,
    holm,
    interval_of_mean,
    least_seeds,
    paired,
    permutation_p,
    score,
    seeds_needed,
    summarize,
    unpaired_interval,
)
from tests.study_records import failed, record

DIFFERENCES = [0.02, -0.01, 0.03, 0.005, 0.04, 0.01]


def runs(**scores):
    """Final records of one task: for each variant a list of scores, seed by seed, or a dict by seed."""
    return [
        record(variant=variant.replace("_", "-"), seed=seed, value=value)
        for variant, values in scores.items()
        for seed, value in (values.items() if isinstance(values, dict) else enumerate(values))
    ]


def row_of(summary, variant, task="mrpc"):
    return next(row for row in summary.rows if row.variant == variant and row.group.task == task)


def overall_of(summary, variant):
    return next(entry for entry in summary.overall if entry.variant == variant)


def enumerated_p(values, weights=None):
    weights = weights or [1.0] * len(values)
    observed = abs(sum(value * weight for value, weight in zip(values, weights, strict=True)))
    sums = [
        abs(sum(sign * value * weight for sign, value, weight in zip(signs, values, weights, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(values))
    ]
    return sum(one >= observed - 1e-12 for one in sums) / len(sums)


# Means and pairs


def test_mean_deviation_and_difference_are_those_of_the_formulas():
    none, istar = [0.70, 0.74, 0.72, 0.71], [0.73, 0.75, 0.76, 0.71]
    row = row_of(summarize(runs(none=none, istar=istar)), "istar")
    differences = [b - a for a, b in zip(none, istar, strict=True)]
    mean = sum(istar) / 4
    assert row.mean == pytest.approx(mean)
    assert row.deviation == pytest.approx(math.sqrt(sum((value - mean) ** 2 for value in istar) / 3))
    assert row.comparison.pairs == 4
    assert row.comparison.difference == pytest.approx(sum(differences) / 4)


def test_only_seeds_that_both_have_are_paired():
    summary = summarize(runs(none={0: 0.7, 1: 0.8, 2: 0.9}, istar={1: 0.9, 2: 0.9, 3: 0.1}))
    row = row_of(summary, "istar")
    assert (row.comparison.pairs, row.comparison.difference) == (2, 0.05)
    assert row.mean == pytest.approx(1.9 / 3)  # of all its seeds
    assert row.note == "seeds in common with the baseline: 2 of its 3"


def test_differences_of_equal_size_tie_despite_rounding():
    assert 0.3 - 0.2 != 0.2 - 0.1
    assert paired({0: 0.3, 1: 0.2}, {0: 0.2, 1: 0.1}) == [0.1, 0.1]


def test_the_order_of_the_records_does_not_matter():
    records = runs(none=[0.7, 0.72, 0.71], istar=[0.73, 0.71, 0.75], cosreg=[0.6, 0.8, 0.7])
    assert summarize(records) == summarize(records[::-1])


def test_runs_of_other_tasks_models_budgets_and_phases_are_never_paired():
    records = [
        record(variant="none", value=0.5),
        record(variant="istar", value=0.6, task="cola"),
        record(variant="istar", value=0.6, model="other"),
        record(variant="istar", value=0.6, budget={"epochs": 9}),
        record(variant="istar", value=0.6, phase="tune"),
    ]
    summary = summarize(records)
    assert len(summary.groups) == 4
    assert [row.comparison.verdict for row in summary.rows if row.variant == "istar"] == [NOT_COMPARED] * 4


def test_of_a_group_without_tuning_the_settings_with_most_scores_count():
    first = [record(seed=seed, value=0.5) for seed in range(3)]
    second = [record(seed=seed, value=0.6, settings={"learning_rate": 1.0}) for seed in range(2)]
    for records in (first + second, second + first):
        row = row_of(summarize(records), "none")
        assert (row.mean, row.note) == (pytest.approx(0.5), "runs with other settings, left out: 2")


def test_of_a_tuned_group_the_chosen_settings_count():
    tuned = [record(phase="tune", value=value, settings={"learning_rate": value}) for value in (0.1, 0.2)]
    finals = [record(seed=seed, value=0.5, settings={"learning_rate": 0.1}) for seed in (1, 2, 3)]
    finals += [record(seed=seed, value=0.6, settings={"learning_rate": 0.2}) for seed in (1, 2)]
    row = row_of(summarize(tuned + finals), "none")
    assert (row.mean, row.settings, row.note) == (pytest.approx(0.6), {"learning_rate": 0.2}, "")


# The interval


def test_interval_is_that_of_scipys_bca():
    low, high = interval_of_mean(DIFFERENCES)
    thousandths = np.round(1000 * np.array(DIFFERENCES))  # whole numbers, whose sums are equal in any order
    found = scipy.stats.bootstrap(
        (thousandths,), np.mean, n_resamples=9999, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    assert (1000 * low, 1000 * high) == pytest.approx((found.low, found.high))
    assert low < np.mean(DIFFERENCES) < high


def test_interval_does_not_change_with_the_unit_and_is_symmetric_where_the_values_are():
    one = interval_of_mean([1, 2, 3, 4, 5])
    assert sum(one) == pytest.approx(6)
    for unit in (0.01, 1 / 3, 1 / 872):
        assert interval_of_mean([unit * value for value in (1, 2, 3, 4, 5)]) == pytest.approx(
            tuple(unit * end for end in one)
        )


def test_interval_of_many_normal_differences_is_that_of_the_normal_law():
    values = np.random.default_rng(3).normal(1.0, 2.0, 400)
    half = 1.96 * values.std(ddof=1) / 20
    assert interval_of_mean(values) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_interval_of_five_normal_differences_covers_their_mean_in_about_84_of_100_cases(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 499)
    generator = np.random.default_rng(1)
    intervals = [interval_of_mean(generator.normal(size=5)) for _ in range(800)]
    assert np.mean([low <= 0 <= high for low, high in intervals]) == pytest.approx(0.84, abs=0.03)


def test_interval_of_two_values_lies_between_them_and_of_equal_ones_is_their_value():
    low, high = interval_of_mean([0.1, 0.3])
    assert 0.1 <= low <= high <= 0.3
    assert interval_of_mean([0.1, 0.1, 0.1]) == (0.1, 0.1)
    assert np.isnan(interval_of_mean([0.1])).all()


def test_unpaired_interval_of_many_values_is_that_of_the_normal_law():
    generator = np.random.default_rng(5)
    a, b = generator.normal(1, 1, 300), generator.normal(0, 2, 200)
    half = 1.96 * math.sqrt(a.var(ddof=1) / 300 + b.var(ddof=1) / 200)
    middle = a.mean() - b.mean()
    assert unpaired_interval(a, b) == pytest.approx((middle - half, middle + half), abs=0.03)
    assert np.isnan(unpaired_interval([1.0], [1.0, 2.0])).all()


# The tests


@pytest.mark.parametrize("size", [2, 3, 5, 6])
def test_permutation_p_counts_the_sign_patterns(size):
    assert permutation_p(DIFFERENCES[:size]) == enumerated_p(DIFFERENCES[:size])


def test_five_differences_of_one_sign_have_the_smallest_p_there_is():
    assert permutation_p([0.01, 0.02, 0.03, 0.04, 0.05]) == 2 / 2**5


def test_permutation_p_of_many_values_is_about_that_of_the_t_test_and_never_zero():
    values = np.random.default_rng(0).normal(0.4, 1, 40)
    assert permutation_p(values) == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue, abs=0.01)
    assert permutation_p(np.ones(40)) > 0


def test_p_of_one_value_or_of_zeros_is_one():
    assert permutation_p([0.5]) == permutation_p([0.0, 0.0, 0.0]) == 1
    assert math.isnan(permutation_p([]))


def test_wilcoxon_is_scipys_where_nothing_ties():
    assert compare_pairs(DIFFERENCES[:5], test="wilcoxon").p == scipy.stats.wilcoxon(DIFFERENCES[:5]).pvalue


def test_wilcoxon_with_ties_and_zeros_counts_the_sign_patterns_of_middle_ranks():
    # sizes 0.01, 0.01, 0.02, 0.03 have ranks 1.5, 1.5, 3, 4; zero has none
    found = compare_pairs([0.01, -0.01, 0.0, 0.02, 0.03], test="wilcoxon").p
    assert found == enumerated_p([1.5, -1.5, 3, 4])


def test_an_unknown_test_is_refused():
    with pytest.raises(ValueError, match="test must be one of 'permutation', 'wilcoxon'; got 'sign'"):
        summarize([], test="sign")


# Holm


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.02, 0.5: times 4, 3, 2, 1 is 0.04, 0.06, 0.04, 0.5; made monotone 0.04, 0.06, 0.06, 0.5
    assert holm([0.5, 0.02, 0.01, 0.02]) == pytest.approx([0.5, 0.06, 0.04, 0.06])
    assert holm([0.6, 0.7]) == [1, 1]


def test_holm_leaves_out_what_was_not_tested():
    corrected = holm([0.01, math.nan, 0.02])
    assert corrected[0] == 0.02
    assert math.isnan(corrected[1])
    assert holm([]) == []


def test_holm_keeps_the_rate_of_any_false_verdict():
    generator = np.random.default_rng(2)
    p_values = generator.uniform(size=(4000, 6))
    false = np.mean([min(holm(row)) < 0.05 for row in p_values])
    assert false == pytest.approx(1 - (1 - 0.05 / 6) ** 6, abs=0.012)
    assert np.mean(p_values.min(1) < 0.05) > 0.2  # without it


def test_the_family_is_all_variants_in_all_tasks():
    values = [0.70, 0.71, 0.72]
    better = [value + 0.01 * (at + 1) for at, value in enumerate(values)]
    records = runs(none=values, istar=better, cosreg=better)
    records += [
        record(variant=one.cell.variant, seed=one.cell.seed, value=one.selection, task="cola") for one in records
    ]
    summary = summarize(records)
    assert summary.comparisons == 4
    assert row_of(summary, "istar").comparison.p == 0.25
    assert row_of(summary, "istar").comparison.p_corrected == 1
    assert overall_of(summary, "istar").comparison.p_corrected == pytest.approx(2 * 2 / 2**6)  # of two variants


# Effect and seeds needed


def test_effect_is_mean_over_standard_deviation():
    values = np.array(DIFFERENCES)
    assert effect_size(values) == pytest.approx(values.mean() / math.sqrt(((values - values.mean()) ** 2).sum() / 5))


def test_effect_without_variance_is_infinite_or_zero():
    assert effect_size([0.1, 0.1]) == math.inf
    assert effect_size([-0.1, -0.1]) == -math.inf
    assert effect_size([0.0, 0.0]) == 0
    assert math.isnan(effect_size([0.1]))


@pytest.mark.parametrize("effect", [0.5, 0.9, 2.0])
def test_with_the_seeds_needed_a_t_test_finds_the_effect_in_four_of_five_simulations(effect):
    generator = np.random.default_rng(7)
    n = seeds_needed(effect)

    def power(n):
        samples = generator.normal(effect, 1, (20000, n))
        return np.mean(scipy.stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05)

    assert power(n) > 0.795
    assert power(n - 1) < 0.805


def test_seeds_needed_at_the_ends():
    assert seeds_needed(0.0) is None
    assert seeds_needed(math.nan) is None
    assert seeds_needed(1e-9) is None  # more than anyone has
    assert seeds_needed(math.inf) == seeds_needed(1e6) == 2
    assert seeds_needed(-0.5) == seeds_needed(0.5)
    assert seeds_needed(0.01) == pytest.approx((1.959964 + 0.841621) ** 2 / 0.01**2, rel=1e-3)  # normal law


@pytest.mark.parametrize("comparisons", [1, 4, 12, 52])
def test_least_seeds_is_where_the_smallest_p_becomes_small_enough(comparisons):
    n = least_seeds(comparisons)
    smallest = 2 / 2 ** np.array([n - 1, n]) * comparisons
    assert smallest[1] < 0.05 <= smallest[0]


# Verdicts


def test_five_seeds_cannot_give_a_verdict_however_large_the_difference():
    row = row_of(summarize(runs(none=[0.1] * 5, istar=[0.91, 0.92, 0.93, 0.94, 0.95])), "istar")
    assert row.comparison.p == 0.0625
    assert row.comparison.verdict == NO_EVIDENCE


def test_six_seeds_of_one_comparison_can():
    none = [0.70, 0.71, 0.72, 0.73, 0.74, 0.75]
    up, down = [value + 0.01 * (1 + value) for value in none], [value - 0.01 * (1 + value) for value in none]
    assert row_of(summarize(runs(none=none, istar=up)), "istar").comparison.verdict == BETTER
    assert row_of(summarize(runs(none=none, istar=down)), "istar").comparison.verdict == WORSE
    assert row_of(summarize(runs(none=none, istar=up, cosreg=none)), "istar").comparison.verdict == NO_EVIDENCE


def test_a_variant_equal_to_the_baseline_is_no_evidence_and_needs_no_number_of_seeds():
    values = [0.7, 0.8, 0.9, 0.8, 0.7, 0.6, 0.5]
    found = row_of(summarize(runs(none=values, istar=values)), "istar").comparison
    assert (found.difference, found.low, found.high, found.p, found.effect) == (0, 0, 0, 1, 0)
    assert (found.seeds_needed, found.verdict) == (None, NO_EVIDENCE)


def test_one_seed_is_no_evidence():
    found = row_of(summarize(runs(none=[0.5], istar=[0.9])), "istar").comparison
    assert (found.pairs, found.p, found.verdict) == (1, 1, NO_EVIDENCE)
    assert np.isnan([found.low, found.high, found.effect]).all()


def test_without_a_baseline_nothing_is_compared():
    summary = summarize(runs(istar=[0.7, 0.8], cosreg=[0.7, 0.9]))
    assert {row.comparison.verdict for row in summary.rows} == {NOT_COMPARED}
    assert {row.note for row in summary.rows} == {'the baseline "none" is missing'}
    assert overall_of(summary, "istar").comparison.verdict == NOT_COMPARED
    assert (summary.comparisons, summary.seeds) == (0, 0)


def test_failed_runs_are_counted_and_left_out():
    summary = summarize([*runs(none=[0.7, 0.8, 0.9], cosreg={0: 0.7, 1: 0.8}), failed("cosreg", seed=2)])
    row = row_of(summary, "cosreg")
    assert (row.failed, len(row.scores), row.comparison.pairs) == (1, 2, 2)
    assert row.note == "runs without a score: 1 of 3; seeds in common with the baseline: 2 of its 3"


def test_a_variant_whose_tuning_failed_has_a_row_that_says_so():
    tuning = [record(phase="tune", variant="istar", status="failed", reported={}, selection=None), record(phase="tune")]
    row = row_of(summarize([*tuning, record(seed=1)]), "istar")
    assert (row.scores, row.note, row.comparison.verdict) == ({}, "no final run", NOT_COMPARED)
    assert summarize(tuning).rows == ()


@pytest.mark.parametrize("value", [None, math.nan, math.inf, True, "0.5"])
def test_a_score_that_is_no_number_is_missing(value):
    assert math.isnan(score(record(value=value)))
    assert math.isnan(score(record(reported={"accuracy": 0.5})))


def test_no_records_make_an_empty_summary():
    summary = summarize([])
    assert (summary.rows, summary.overall, summary.groups) == ((), (), [])


# Overall


def two_tasks(mrpc, cola):
    """Differences of istar from the baseline on two tasks."""
    records = []
    for task, differences in (("mrpc", mrpc), ("cola", cola)):
        for seed, difference in enumerate(differences):
            records.append(record(task, "none", seed=seed, value=0.5))
            records.append(record(task, "istar", seed=seed, value=0.5 + difference))
    return records


def test_overall_is_the_mean_over_tasks_whatever_their_numbers_of_seeds():
    found = overall_of(summarize(two_tasks([0.04, 0.02], [0.01, 0.02, 0.03, -0.02])), "istar")
    assert found.groups == 2
    assert found.comparison.pairs == 6
    assert found.comparison.difference == pytest.approx((0.03 + 0.01) / 2)


def test_overall_p_flips_all_signs_with_the_weights_of_their_tasks():
    mrpc, cola = [0.04, 0.02], [0.01, 0.02, 0.03, -0.02]
    found = overall_of(summarize(two_tasks(mrpc, cola)), "istar").comparison
    assert found.p == enumerated_p(mrpc + cola, [1 / 4] * 2 + [1 / 8] * 4)


def test_overall_interval_is_as_wide_as_tasks_and_seeds_together():
    generator = np.random.default_rng(4)
    mrpc, cola = generator.normal(0.10, 0.01, 12), generator.normal(0.02, 0.01, 12)
    samples = [mrpc.tolist(), cola.tolist()]
    low, high = statistics._hierarchical_interval(samples)
    # of two tasks a quarter of the resamples holds the first twice, a quarter the second twice: these are the ends
    assert low == pytest.approx(cola.mean(), abs=0.01)
    assert high == pytest.approx(mrpc.mean(), abs=0.01)
    same = statistics._hierarchical_interval([mrpc.tolist()] * 40)
    half = 1.96 * math.sqrt(mrpc.var() / 12 / 40)
    assert same == pytest.approx((mrpc.mean() - half, mrpc.mean() + half), abs=5e-4)


def test_overall_of_one_task_is_that_task():
    summary = summarize(runs(none=[0.70, 0.74, 0.72], istar=[0.73, 0.75, 0.76]))
    row, entry = row_of(summary, "istar").comparison, overall_of(summary, "istar").comparison
    assert (entry.difference, entry.low, entry.high, entry.p) == (row.difference, row.low, row.high, row.p)


def test_a_task_where_a_variant_failed_does_not_count_in_its_overall():
    records = [*two_tasks([0.01, 0.02], []), record("cola", "none", value=0.5), failed("istar", task="cola")]
    assert overall_of(summarize(records), "istar").groups == 1


def test_missing_scipy_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ImportError, match=r'need scipy: pip install "simplicial_reg\[study\]"'):
        summarize([])
