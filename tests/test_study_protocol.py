"""The protocol: equal budgets, paired draws, selection on the held-out part, fresh seeds."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest

from simplicial_reg.study.protocol import (
    TUNING_SEED,
    Group,
    Study,
    choose,
    configurations,
    differences,
    draw,
    final_seeds,
    finals,
    latest,
    pending,
    plan,
    relevant,
)
from simplicial_reg.study.record import Cell, Record
from tests.study_fake import fake, number, small_study

STUDY = small_study("one", "two", budget=3, seeds=4)


def tuned(variant, selection, learning_rate=1e-4, status="done"):
    cell = Cell("first", "model", variant, "tune", TUNING_SEED, {"learning_rate": learning_rate}, {"epochs": 1})
    return Record(cell, status, error=None if status == "done" else "ValueError: no", selection=selection)


def complete(study):
    """The records of a study run to its end, and the waves in which its cells came."""
    records, waves = [], []
    while cells := pending(study, records):
        waves.append(cells)
        for cell in cells:
            try:
                records.append(fake(cell))
            except ValueError as error:
                records.append(Record(cell, "failed", error=str(error)))
    return records, waves


# --- the budget --------------------------------------------------------------------------------------------------------------------


def test_every_variant_is_tuned_with_the_same_number_of_cells_the_baseline_included():
    cells = plan(STUDY)
    counts = {}
    for cell in cells:
        counts[cell.task, cell.variant] = counts.get((cell.task, cell.variant), 0) + 1
    assert counts == {(task, variant): 3 for task in STUDY.tasks for variant in STUDY.variants}
    assert {cell.phase for cell in cells} == {"tune"}


def test_the_kth_learning_rate_is_the_same_for_all_variants_and_models():
    study = small_study("one", "two", budget=5, models=("a", "b"))
    rates = {}
    for cell in plan(study):
        rates.setdefault((cell.task, cell.model, cell.variant), []).append(cell.settings["learning_rate"])
    for task in study.tasks:
        assert len({tuple(found) for group, found in rates.items() if group[0] == task}) == 1
    assert rates["first", "a", "none"] != rates["second", "a", "none"]


def test_what_is_a_variants_own_is_drawn_for_it_alone():
    weights = [[made["weight"] for made in configurations(STUDY, "first", variant)] for variant in ("one", "two")]
    assert len({*weights[0], *weights[1]}) == 6


def test_a_larger_budget_keeps_the_configurations_of_a_smaller_one():
    larger = replace(STUDY, budget=7)
    assert configurations(larger, "first", "two")[:3] == configurations(STUDY, "first", "two")


def test_another_variant_in_the_study_changes_no_cell_of_the_others():
    more = small_study("zero", "one", "two", budget=3, seeds=4)
    assert {cell.key for cell in plan(STUDY)} < {cell.key for cell in plan(more)}


def test_all_cells_of_tuning_have_one_seed_and_no_final_cell_has_it():
    assert {cell.seed for cell in plan(STUDY)} == {TUNING_SEED}
    assert TUNING_SEED not in final_seeds(STUDY)
    assert len(set(final_seeds(STUDY))) == 4


def test_equal_configurations_are_run_once():
    study = small_study("one", budget=3, space={"learning_rate": 8e-5}, spaces={"one": {"weight": 2.0}})
    assert len(plan(study)) == 4  # two tasks, two variants
    assert len(configurations(study, "first", "one")) == 3


def test_with_a_budget_of_zero_fixed_settings_are_reported_without_tuning():
    study = small_study("one", budget=0, space={"learning_rate": 8e-5}, spaces={"one": {"weight": 2.0}})
    cells = pending(study, [])
    assert {cell.phase for cell in cells} == {"final"}
    assert [cell.settings for cell in cells if cell.variant == "one"] == [{"learning_rate": 8e-5, "weight": 2.0}] * 4


def test_what_is_left_out_of_a_task_has_no_cell_there_and_all_of_them_elsewhere():
    study = small_study("one", left_out=(("first", "one"),))
    records, _ = complete(study)
    assert {(record.cell.task, record.cell.variant) for record in records} == {
        ("first", "none"),
        ("second", "none"),
        ("second", "one"),
    }


# --- draws -----------------------------------------------------------------------------------------------------------------------


def test_draws_are_uniform_in_the_logarithm_unless_the_scale_is_linear():
    # The first value of 2,000 sequences, so that they are independent.
    logs = [math.log10(draw({"low": 1e-5, "high": 1e-3}, 0, 0, name)) for name in range(2000)]
    lines = [draw({"low": -2.0, "high": 4.0, "scale": "linear"}, 0, 0, name) for name in range(2000)]
    # Means of 2,000 uniform numbers are within 0.05 ranges of the middle with probability above 1 - 1e-13; quarters alike.
    assert sum(logs) / 2000 == pytest.approx(-4, abs=0.1)
    assert sum(lines) / 2000 == pytest.approx(1, abs=0.3)
    assert sum(log < -4.5 for log in logs) == pytest.approx(500, abs=100)
    assert min(logs) >= -5
    assert max(logs) <= -3


def test_draws_from_a_list_give_every_choice_about_equally_often():
    found = [draw(["a", "b", "c"], 0, 0, name) for name in range(3000)]
    assert all(found.count(choice) == pytest.approx(1000, abs=150) for choice in "abc")


def test_names_of_draws_are_not_run_together():
    values = {"low": 1.0, "high": 2.0}
    assert draw(values, 0, 0, "ab", "c") != draw(values, 0, 0, "a", "bc")


def test_three_draws_of_the_first_two_settings_are_never_all_in_one_half_of_the_range():
    linear = {"low": 0.0, "high": 1.0, "scale": "linear"}
    for dimension in (0, 1):
        for name in range(200):
            first, second, third = sorted(draw(linear, k, dimension, name) for k in range(3))
            assert max(second - first, third - second, 1 - third + first) < 0.47


def test_a_range_of_one_value_gives_that_value():
    assert draw({"low": 3e-4, "high": 3e-4}, 1, 0, "x") == 3e-4
    assert draw(3e-4, 1, 0, "x") == 3e-4
    assert draw("cosine", 1, 0, "x") == "cosine"


# --- selection ---------------------------------------------------------------------------------------------------------------------


def test_the_configuration_with_the_largest_held_out_metric_is_chosen():
    found = choose([tuned("one", 0.2, 1e-5), tuned("one", 0.9, 2e-5), tuned("one", 0.5, 3e-5)])
    choice = found[Group("first", "model", "one")]
    assert (choice.settings, choice.selection, choice.tried, choice.failed) == ({"learning_rate": 2e-5}, 0.9, 3, 0)


def test_equal_metrics_choose_the_smaller_learning_rate_in_any_order_of_records():
    records = [tuned("one", 0.5, rate) for rate in (3e-5, 1e-5, 2e-5)]
    for seed in range(6):
        random.Random(seed).shuffle(records)
        assert choose(records)[Group("first", "model", "one")].settings == {"learning_rate": 1e-5}


@pytest.mark.parametrize(
    "bad", [tuned("one", None, status="failed"), tuned("one", math.nan), tuned("one", None), tuned("one", math.inf)]
)
def test_failures_and_what_is_no_number_are_never_chosen(bad):
    choice = choose([bad, tuned("one", -1.0, 2e-5)])[Group("first", "model", "one")]
    assert (choice.settings, choice.tried, choice.failed) == ({"learning_rate": 2e-5}, 1, 1)
    assert choose([bad]) == {Group("first", "model", "one"): None}


def test_final_records_have_no_part_in_selection():
    final = replace(tuned("one", 1.0), cell=Cell("first", "model", "one", "final", 1, {"learning_rate": 1.0}))
    assert choose([final]) == {}
    assert choose([final, tuned("one", 0.1)])[Group("first", "model", "one")].settings == {"learning_rate": 1e-4}


def test_the_final_cells_are_the_chosen_configuration_with_every_fresh_seed():
    records, waves = complete(STUDY)
    choices = choose(records)
    assert [{cell.phase for cell in wave} for wave in waves] == [{"tune"}, {"final"}]
    assert waves[1] == finals(STUDY, choices)
    assert len(waves[1]) == 2 * 3 * 4
    for cell in waves[1]:
        made = configurations(STUDY, cell.task, cell.variant)
        best = max(made, key=lambda settings: number(cell.task, cell.variant, settings, TUNING_SEED))
        assert cell.settings == best
        assert cell.budget == {"epochs": 1}


def test_the_final_cells_of_a_group_wait_for_all_of_its_tuning_and_for_nothing_else():
    cells = plan(STUDY)
    first = [fake(cell) for cell in cells if (cell.task, cell.variant) == ("first", "none")]
    waiting = pending(STUDY, first)
    assert {(cell.task, cell.variant) for cell in waiting if cell.phase == "final"} == {("first", "none")}
    assert not any(cell.phase == "final" for cell in pending(STUDY, first[:-1]))


def test_a_variant_of_which_every_cell_failed_has_no_final_cells_and_the_study_ends():
    study = small_study("raises", "nan")
    records, _ = complete(study)
    assert {record.cell.variant for record in records if record.cell.phase == "final"} == {"none"}
    assert choose(records)[Group("first", "model", "raises")] is None


def test_nothing_is_pending_twice():
    records, waves = complete(STUDY)
    keys = [cell.key for wave in waves for cell in wave]
    assert len(keys) == len(set(keys)) == len(records)
    random.Random(0).shuffle(records)
    assert pending(STUDY, records) == []


# --- records -----------------------------------------------------------------------------------------------------------------------


def test_a_finished_record_of_a_cell_counts_more_than_a_failed_one_whichever_came_first():
    failed, done = tuned("one", None, status="failed"), tuned("one", 0.5)
    assert latest([failed, done]) == latest([done, failed]) == [done]


def test_of_two_finished_records_of_a_cell_the_later_counts():
    assert latest([tuned("one", 0.5), tuned("one", 0.6)]) == [tuned("one", 0.6)]


def test_the_order_of_records_does_not_matter():
    records, _ = complete(STUDY)
    shuffled = random.Random(1).sample(records, len(records))
    assert latest(records) == latest(shuffled)
    assert relevant(records) == relevant(shuffled)
    assert choose(records) == choose(shuffled)


def test_final_runs_of_a_configuration_that_is_no_longer_the_best_are_not_reported():
    final = [
        Record(Cell("first", "model", "one", "final", seed, {"learning_rate": 1e-4}), "done", selection=0.5)
        for seed in (1, 2)
    ]
    better = Record(Cell("first", "model", "one", "final", 1, {"learning_rate": 2e-5}), "done", selection=0.5)
    before = [tuned("one", 0.5), tuned("one", None, 2e-5, status="failed"), *final]
    assert [record for record in relevant(before) if record.cell.phase == "final"] == final
    after = [*before, tuned("one", 0.9, 2e-5), better]
    assert [record for record in relevant(after) if record.cell.phase == "final"] == [better]


def test_final_runs_without_any_tuning_are_reported():
    final = Record(Cell("first", "model", "one", "final", 1, {"learning_rate": 1e-4}), "done", selection=0.5)
    assert relevant([final]) == [final]


# --- settings ----------------------------------------------------------------------------------------------------------------------


def test_a_study_survives_json():
    study = small_study("one", left_out=(("first", "one"),))
    again = Study.parse(json.loads(json.dumps(study.content())))
    assert again.content() == study.content()
    assert [cell.key for cell in plan(again)] == [cell.key for cell in plan(study)]


def test_differences_name_what_differs_and_nothing_else():
    before = STUDY.content()
    after = small_study("one", budget=3, seeds=5, training={"epochs": 2, "limit": 9}).content()
    assert differences(before, before) == []
    assert differences(before, after) == [
        "seeds: 4 there, 5 here",
        "spaces.two.weight.high: 10.0 there, not set here",
        "spaces.two.weight.low: 0.1 there, not set here",
        "training.epochs: 1 there, 2 here",
        "training.limit: not set there, 9 here",
        "variants: none, one, two there, none, one here",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ()}, "tasks must name at least one; got none"),
        ({"tasks": ("a", "a")}, "tasks must not name anything twice; got 'a' more than once"),
        ({"variants": ("istar",)}, "variants must include 'none', with which all are compared; got istar"),
        ({"budget": -1}, "budget must be a whole number, at least 0; got -1"),
        ({"seeds": 0}, "seeds must be a whole number, at least 1; got 0"),
        ({"seeds": True}, "seeds must be a whole number, at least 1; got True"),
        ({"space": {}}, "space must say what learning_rate is"),
        ({"budget": 0}, "budget must be at least 1, since learning_rate is to be tuned; got 0"),
        ({"spaces": {"one": {"weight": []}}}, "weight of one must list at least one choice"),
        ({"spaces": {"one": {"weight": {"low": 1}}}}, "weight of one must be {low, high, scale}"),
        (
            {"spaces": {"one": {"weight": {"low": 0, "high": 1}}}},
            'low of weight of one must be positive with scale "log"',
        ),
        ({"spaces": {"one": {"weight": {"low": 2, "high": 1}}}}, "must have two numbers low <= high; got 2 and 1"),
        ({"spaces": {"one": {"weight": {"low": "1", "high": 2}}}}, "must have two numbers low <= high; got '1' and 2"),
        (
            {"spaces": {"one": {"weight": {"low": 1, "high": 2, "scale": "cubic"}}}},
            "scale of weight of one must be one of 'log', 'linear'; got 'cubic'",
        ),
        ({"spaces": {"one": {"learning_rate": 1e-4}}}, "must be shared by all variants or be one's own; it is in both"),
    ],
)
def test_settings_that_make_no_study_are_refused(changes, message):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        small_study("one", **changes)
    assert message in str(refusal.value)


def test_settings_of_another_version_are_refused():
    with pytest.raises(ValueError, match="'color' is unknown to this version"):
        Study.parse({**STUDY.content(), "color": "red"})
    with pytest.raises(ValueError, match=r"missing .* required"):
        Study.parse({"tasks": ["first"]})
