"""The tables about committed studies in README.md and docs/ are those of benchmarks/results/study/."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from statistics import fmean

import pytest

from benchmarks.study_tables import EMBEDDING, GLUE, STUDIES, embedding, headline, held_out, made_again

ROOT = Path(__file__).parents[1]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def rows(name: str) -> list[dict[str, str]]:
    with (GLUE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("table", "page"), [(headline, "README.md"), (embedding, "README.md"), (held_out, "docs/regularizers.md")]
)
def test_the_table_of_the_page_is_that_of_the_results(table, page):
    assert table() in text(page)


@pytest.mark.parametrize(
    "folder", sorted(path for path in STUDIES.iterdir() if path.is_dir()), ids=lambda path: path.name
)
def test_the_statistics_are_what_the_code_makes_of_the_runs(folder, tmp_path):
    pytest.importorskip("matplotlib")
    made_again(folder, tmp_path)
    for name in ("results.csv", "overall.csv"):
        if (folder / name).exists():
            assert (tmp_path / name).read_text(encoding="utf-8") == (folder / name).read_text(encoding="utf-8")


def test_every_run_of_the_study_ended_well():
    cells = rows("cells.csv")
    assert len(cells) == 280
    assert {cell["status"] for cell in cells} == {"done"}
    for task in ("mrpc", "stsb", "sst2", "cola"):
        for variant in {cell["variant"] for cell in cells} - (
            {"persistent-entropy-label"} if task == "stsb" else set()
        ):
            phases = [cell["phase"] for cell in cells if (cell["task"], cell["variant"]) == (task, variant)]
            assert (phases.count("final"), len(phases)) == (5, 8)


def test_what_is_said_of_single_tasks_is_in_the_results():
    said, found = text("benchmarks/results/study/glue/README.md"), rows("results.csv")
    points = {(row["task"], row["variant"]): 100 * float(row["difference"] or 0) for row in found}
    assert f"by {-points['stsb', 'istar-decrease']:.0f} points on\n  average" in said
    assert f"ahead by {points['stsb', 'istar']:.1f} points" in said
    assert f"SST-2 ({points['sst2', 'cosreg']:+.1f})" in said
    assert f"STS-B ({points['stsb', 'cosreg']:+.1f})" in said
    overall = {row["variant"]: row for row in rows("overall.csv")}
    assert [variant for variant, row in overall.items() if row["verdict"] != "no evidence of a difference"] == [
        "istar-decrease"
    ]
    assert f"{100 * float(overall['istar-decrease']['difference']):.1f} points over the four tasks" in said
    baseline = [row for row in found if (row["task"], row["variant"]) == ("cola", "none")]
    assert [float(row["mean"]) for row in baseline] == [0.0]


def test_what_is_said_of_embeddings_and_of_their_control_is_in_the_results():
    said, readme = text("benchmarks/results/study/stsb-embedding/README.md"), text("README.md")
    runs = {folder: scores(folder) for folder in (EMBEDDING, EMBEDDING.with_name("stsb-embedding-control"))}
    tuned, control = (
        {variant: [100 * score for score in found.values()] for variant, found in one.items()} for one in runs.values()
    )
    assert tuned["cosreg"] == control["cosreg"]  # the same runs, to the last bit
    with (EMBEDDING.with_name("stsb-embedding-control") / "results.csv").open(encoding="utf-8", newline="") as file:
        (found,) = (row for row in csv.DictReader(file) if row["variant"] == "cosreg")
    low, difference, high = (100 * float(found[name]) for name in ("low", "difference", "high"))
    for page in (said, readme):
        assert f"{difference:+.2f} [{low:+.2f}, {high:+.2f}]" in page
    by_rate = fmean(control["none"]) - fmean(tuned["none"])
    assert f"that alone gives {by_rate:+.2f}" in said
    assert f"of its gain {by_rate:.2f} points are those of the lower learning rate" in readme
    assert f"harms**: {fmean(tuned['persistent-entropy']) - fmean(tuned['none']):+.2f} points" in said


def scores(folder):
    with (folder / "cells.csv").open(encoding="utf-8", newline="") as file:
        final = [row for row in csv.DictReader(file) if row["phase"] == "final"]
    return {
        variant: {int(row["seed"]): float(row["score"]) for row in final if row["variant"] == variant}
        for variant in ("none", "cosreg", "persistent-entropy")
    }


def test_the_quick_study_is_as_small_as_it_is_said_to_be():
    said = text("benchmarks/results/study/docstrings/README.md")
    with (GLUE.parent / "docstrings" / "cells.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == int(re.search(r"(\d+) runs", said)[1]) == 20
