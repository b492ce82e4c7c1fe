"""Several folders of studies make one report: what is put together, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from simplicial_reg.cli import OneLineGroup
from simplicial_reg.study import cli
from simplicial_reg.study._folder import RECORDS, RecordFile, read_records, read_study, settle
from simplicial_reg.study._merge import merge
from simplicial_reg.study.protocol import Study, joined, latest, pending
from simplicial_reg.study.record import Record
from simplicial_reg.study.runner import run
from simplicial_reg.study.statistics import summarize
from tests.study_fake import fake, number, small_study

pytest.importorskip("scipy")


def scored(cell, *, data_dir=None, on_step=None):
    record = fake(cell)
    record.metric, record.reported = "accuracy", {"accuracy": number(cell.key)}
    return record


def ran(folder: Path, study: Study) -> Path:
    run(study, folder, run_cell=scored, progress=False, threads=1)
    return folder


def one_and_two(folder: Path, **changes) -> list[Path]:
    """Two machines, each with a task."""
    one = small_study("istar", tasks=("first",))
    two = small_study("istar", tasks=("second",))
    return [ran(folder / "one", one), ran(folder / "two", replace(two, **changes))]


def test_two_folders_make_what_one_study_of_both_tasks_makes(tmp_path: Path) -> None:
    merge(one_and_two(tmp_path), tmp_path / "both")
    whole = ran(tmp_path / "whole", small_study("istar"))
    assert read_study(tmp_path / "both") == read_study(whole) == small_study("istar")
    assert summarize(read_records(tmp_path / "both")) == summarize(read_records(whole))
    assert pending(read_study(tmp_path / "both"), read_records(tmp_path / "both")) == []


def test_the_order_of_the_folders_does_not_change_the_statistics(tmp_path: Path) -> None:
    folders = one_and_two(tmp_path)
    there, back = (merge(order, tmp_path / name) for name, order in (("a", folders), ("b", folders[::-1])))
    assert [record.line() for record in there] == [record.line() for record in back]


def test_a_cell_of_several_folders_is_there_once_and_a_finished_one_if_there_is_one(tmp_path: Path) -> None:
    study = small_study(tasks=("first",))
    folders = [tmp_path / name for name in ("failed", "done")]
    ran(folders[1], study)
    folders[0].mkdir()
    settle(folders[0], study)
    (record, *_) = read_records(folders[1])
    with RecordFile(folders[0]) as file:
        file.append(Record(record.cell, "failed", error="RuntimeError: no memory"))
    for order in (folders, folders[::-1]):
        merged = merge(order, tmp_path / "both")
        assert [one.line() for one in merged] == [one.line() for one in latest(read_records(folders[1]))]


def test_trainings_of_different_tasks_may_differ_and_each_keeps_its_own(tmp_path: Path) -> None:
    merge(one_and_two(tmp_path, training={"epochs": 5}), tmp_path / "both")
    study = read_study(tmp_path / "both")
    assert (study.training, study.trainings) == ({"epochs": 1}, {"second": {"epochs": 5}})
    assert pending(study, read_records(tmp_path / "both")) == []


def test_variants_and_seeds_may_differ() -> None:
    both = joined(
        small_study("istar", tasks=("first",)), small_study("koleo", tasks=("first",), seeds=9, data={"first": "0"})
    )
    assert (both.variants, both.seeds, both.data) == (("none", "istar", "koleo"), 9, {"first": "0"})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budget": 3}, "budget: 2 there, 3 here"),
        ({"space": {"learning_rate": [1e-4]}}, "space.learning_rate"),
        ({"spaces": {"istar": {"weight": [1.0]}}}, "spaces.istar.weight"),
        ({"training": {"epochs": 2}}, "training.first.epochs: 1 there, 2 here"),
        ({"training": {"epochs": 1, "steps": 2}}, "training.first.steps: not set there, 2 here"),
        ({"tasks": ("second",), "training": {"epochs": 1, "colour": 2}}, "of one task says colour and that of another"),
        ({"data": {"first": "b"}}, "data.first: a there, b here"),
    ],
)
def test_studies_that_contradict_each_other_are_refused_with_what_differs(changes: dict, said: str) -> None:
    first = small_study("istar", tasks=("first",), data={"first": "a"})
    with pytest.raises(ValueError, match=said):
        joined(first, replace(first, **changes))


def test_the_folder_of_the_report_is_none_of_those_it_is_made_of(tmp_path: Path) -> None:
    folders = one_and_two(tmp_path)
    before = (folders[0] / RECORDS).read_bytes()
    with pytest.raises(ValueError, match=r"--out must be a folder of its own"):
        merge(folders, tmp_path / "two" / ".." / "one")
    assert (folders[0] / RECORDS).read_bytes() == before


def test_records_that_would_be_lost_are_kept(tmp_path: Path) -> None:
    folders = one_and_two(tmp_path)
    other = ran(tmp_path / "other", small_study("koleo"))
    before = (other / RECORDS).read_bytes()
    with pytest.raises(ValueError, match=r"holds 8 records that are in none of the folders; choose another --out"):
        merge(folders, other)
    assert (other / RECORDS).read_bytes() == before


def test_the_same_again_replaces_what_is_there(tmp_path: Path) -> None:
    folders = one_and_two(tmp_path)
    first = merge(folders[:1], tmp_path / "both")
    both = merge(folders, tmp_path / "both")
    assert len(both) == 2 * len(first) == len(read_records(tmp_path / "both"))


# --- from the command line ---


def command(*arguments):
    group = OneLineGroup("simplicial-reg")
    group.add_command(cli.study)
    return CliRunner().invoke(group, ["study", "report", *map(str, arguments)])


def test_a_report_of_several_folders_from_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = command(*one_and_two(tmp_path), "--out", tmp_path / "both")
    assert result.exit_code == 0, result.output
    assert "mean over 2 tasks" in result.stdout
    assert result.stdout.rstrip().endswith(f"report: {tmp_path / 'both' / 'report.html'}")
    assert (tmp_path / "both" / "report.html").exists()
    assert not (tmp_path / "one" / "report.html").exists()


def test_several_folders_without_out_and_studies_that_contradict_are_one_line(tmp_path: Path) -> None:
    folders = one_and_two(tmp_path, budget=3)
    for arguments, said in (
        (folders, "--out must name a folder for the report of several; there is none"),
        (
            (*folders, "--out", tmp_path / "both"),
            f"{folders[1]} and {folders[0]} are not parts of one study: budget: 2",
        ),
        ((tmp_path, "--out", tmp_path / "both"), "holds no records"),
        ((), "Missing argument 'RUN_DIR...'"),
    ):
        result = command(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert said in result.stderr.splitlines()[-1]
    assert not (tmp_path / "both").exists()
