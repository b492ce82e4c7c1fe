"""docs/speed.md: its table is that of the committed results, and every result has its plot."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from benchmarks import __main__ as command
from benchmarks import _figures, _page

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TEXT = _page.PAGE.read_text(encoding="utf-8")


def data(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["data"]


def row(start: str) -> list[str]:
    """The cells of the page's table row whose first cell begins so."""
    (line,) = (line for line in TEXT.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in re.findall(r"[-+]?\d[\d,]*\.?\d*", text)]


def test_the_table_is_that_of_the_committed_results() -> None:
    begin, end = TEXT.index(_page.BEGIN) + len(_page.BEGIN), TEXT.index(_page.END)
    assert TEXT[begin:end].strip() == _page.claims(RESULTS).strip(), "python -m benchmarks --page"


def test_every_benchmark_has_a_line_and_every_line_its_result() -> None:
    named = {line.benchmark for line in _page.CLAIMS}
    assert {name for name in command.CLAIMS if (RESULTS / f"{name}.json").exists()} == {
        name for name in named if f"`python -m benchmarks {name} --full`" in TEXT
    }
    assert named <= set(command.CLAIMS)


def test_committed_results_are_those_of_the_full_form() -> None:
    for name in command.CLAIMS:
        path = RESULTS / f"{name}.json"
        if path.exists():
            assert json.loads(path.read_text(encoding="utf-8"))["form"] == "full", name
            assert (RESULTS / f"{name}.md").exists()


@pytest.mark.parametrize("name", _figures.FIGURES)
def test_the_plot_is_that_of_the_committed_numbers(name: str) -> None:
    path = RESULTS / f"{name}.json"
    if not path.exists():
        pytest.skip("not measured yet")
    result = json.loads(path.read_text(encoding="utf-8"))
    drawn = _figures.draw(result)
    assert drawn is not None
    assert drawn == _figures.draw(result)
    assert drawn.count(b'<g id="axes_') == len(_figures.FIGURES[name](result["data"]))
    assert (RESULTS / f"{name}.svg").exists()


# --- the figures of some lines, read from the results here -----------------------------------------------------------------------


def test_the_layer_is_as_much_faster_as_the_page_says() -> None:
    found = numbers(row("H0 layer, points to gradient")[1])
    wide = [one for one in data("h0_layer_beats_torch_topological") if one["d"] == 768]
    ratios = [one["ms"]["torch-topological"][0] / one["ms"]["simplicial_reg"][0] for one in wide]
    assert found[: len(wide)] == [round(ratio, 1) for ratio in ratios]
    assert found[len(wide) : 2 * len(wide)] == [one["n"] for one in wide]


def test_distances_to_edges_are_as_much_faster_as_the_page_says() -> None:
    for start, name in (("H0 edges", "h0_edges_come_forty_times_faster"), ("H1 edges", "h1_comes_ten_times_faster")):
        found = numbers(row(start)[1].replace("d = ", ""))
        expected = []
        for d in (768, 3):
            ratios = [
                one["ms"]["giotto-ph"][0] / one["ms"]["simplicial_reg"][0]
                for one in data(name)
                if one["d"] == d and one["n"] >= 256 and one.get("metric", "euclidean") == "euclidean"
            ]
            expected += [round(min(ratios)), round(max(ratios)), d]
        assert found[:6] == expected


def test_large_clouds_take_as_long_as_the_page_says() -> None:
    found = row("Large clouds")[1]
    for one in data("large_clouds_take_one_pass"):
        if (one["n"], one["kind"]) == (100_000, "normal"):
            assert f"100,000 × 384: {one['seconds']['blocked']:.3g} s, {one['bytes'] / 1e9:.2f} GB" in found


def test_the_training_step_costs_what_the_page_says() -> None:
    found = numbers(row("What the added line does")[1])
    entries = data("training_step_costs_two_percent")
    ratios = 100 * (np.array(entries[0]["ratios"]) - 1)
    assert found[:3] == [round(float(np.quantile(ratios, at)), 1) for at in (0.5, 0.25, 0.75)]
    most = max(100 * (float(np.median(one["ratios"])) - 1) for one in entries if one["weight"] is not None)
    assert found[3] == round(most, 1)


# --- the table can be written anew -----------------------------------------------------------------------------------------------


def test_only_what_is_between_the_marks_is_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{_page.BEGIN}\nold 1.23\n{_page.END}\nafter\n", encoding="utf-8")
    for _ in range(2):
        _page.rewrite(RESULTS, page)
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"before\n{_page.BEGIN}\n\n| claim |")
        assert text.endswith(f"{_page.END}\nafter\n")
        assert "old" not in text


def test_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing to replace\n", encoding="utf-8")
    with pytest.raises(ValueError, match="must hold both marks"):
        _page.rewrite(RESULTS, page)
    assert page.read_text(encoding="utf-8") == "nothing to replace\n"


def test_another_result_is_another_table(tmp_path: Path) -> None:
    name = "isoscore_star_comes_thirty_times_faster"
    entry = {"n": 4, "d": 2, "shrinkage": 0.0, "authors / ours": 77.0}
    (tmp_path / f"{name}.json").write_text(json.dumps({"machine": "a slow one", "data": [entry]}), encoding="utf-8")
    lines = _page.claims(tmp_path).splitlines()
    assert len(lines) == 5  # the others have no result
    assert lines[4] == "Measured on: a slow one."
    assert "77 times (4 × 2)" in lines[2]
