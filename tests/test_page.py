"""Blocks of a report as HTML, Markdown, CSV and terminal tables: text stays text, and the same blocks give the same bytes."""

from __future__ import annotations

import csv
import io
import math
import subprocess
import sys

import pytest

from simplicial_reg import _page
from simplicial_reg._page import (
    LOOKS,
    Bullets,
    Heading,
    Names,
    Picture,
    Pictures,
    Table,
    Text,
    csv_text,
    markdown,
    marked,
    page,
    short_name,
    terminal_table,
    write,
)

HOSTILE = "<script>alert('x')</script> | [a](b) $x$ `c`"
BLOCKS = [
    Heading(1, "A title"),
    Text(HOSTILE),
    Bullets((HOSTILE, "second")),
    Table("A table", ("", "value"), (("row", "better"), (HOSTILE, "1"))),
    Pictures((Picture("figure", "what", "alt", b"<svg/>"),)),
]


def test_markdown_of_every_kind_of_block():
    text = markdown([Heading(2, "H"), Text("a\nb"), Bullets(("one", "two")), Table("t", ("x", "y"), (("1", "2"),))])
    assert text == "## H\n\na b\n\n- one\n- two\n\n| x | y |\n| --- | --- |\n| 1 | 2 |\n"
    assert "![alt](figures/figure.svg)" in markdown(BLOCKS)


def test_text_is_never_markup():
    assert "<script>" not in page(BLOCKS)
    assert page(BLOCKS).count("&lt;script&gt;") == 3
    assert "<script>" not in markdown(BLOCKS)
    assert r"\| \[a\](b) \$x\$ \`c\`" in markdown(BLOCKS)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a|b", r"a\|b"), ("a\n# b", "a # b"), ("max_length _x_", r"max_length \_x\_"), ("<b>", "&lt;b&gt;")],
)
def test_markdown_shows_text_as_it_is(text, shown):
    assert marked(text) == shown


def test_a_page_is_titled_by_its_first_heading_and_takes_marks_and_styles():
    text = page(BLOCKS, marks={"better": ("good", "▲ ")}, style=".good { color: #005a8c; }\n")
    assert "<title>A title</title>" in text
    assert '<td class="good">▲ better</td>' in text
    assert ".good { color: #005a8c; }\n</style>" in text
    assert '<td class="good">' not in page(BLOCKS)
    assert page(BLOCKS) == page(BLOCKS)


def test_csv_leaves_out_what_is_no_number():
    rows = list(csv.reader(io.StringIO(csv_text(("a", "b"), [(math.nan, None), ("x, y", 0.1)]))))
    assert rows == [["a", "b"], ["", ""], ["x, y", "0.1"]]


@pytest.mark.parametrize("rich", [True, False])
@pytest.mark.parametrize("wide", [6, 10])
def test_a_terminal_table_fits_100_columns(rich, wide):
    if rich:
        pytest.importorskip("rich")
    columns = ["a name that is long", *(f"{'c' * 7}{at}" for at in range(wide - 1))]
    rows = [["[b]x", *["123456"] * (wide - 1)], ["another, " * 20, *["-1"] * (wide - 1)]]
    text = terminal_table("title", columns, rows, rich=rich)
    assert max(map(len, text.splitlines())) <= 100
    assert "[b]x" in text
    assert text.count("123456") == wide - 1
    assert "\x1b" not in text


@pytest.mark.parametrize("rich", [True, False])
def test_numbers_are_aligned_to_the_right_and_columns_named_left_are_not(rich):
    if rich:
        pytest.importorskip("rich")
    text = terminal_table("t", ("a", "bbb", "ccc"), [("x", "1", "1")], left=(0, 2), rich=rich)
    head, row = (next(line for line in text.splitlines() if key in line) for key in ("bbb", "x"))
    assert row.index("1") == head.index("bbb") + 2
    assert row.rindex("1") == head.index("ccc")


def test_names_are_plain_and_no_two_are_the_same():
    name = Names()
    made = [name("../../etc", "日本"), name("etc", "x"), name("A b"), name("a-b")]
    assert made == ["etc-x", "etc-x-2", "a-b", "a-b-2"]
    assert len(name("x" * 300)) == 40


def test_a_long_name_is_cut_and_a_leading_underscore_does_not_hide_it():
    assert short_name("_hidden") == " _hidden"
    assert len(short_name("x" * 99)) == 34


def test_looks_differ_in_colour_marker_and_line():
    assert all(len(set(kind)) == len(LOOKS) for kind in zip(*LOOKS, strict=True))


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    write(tmp_path / "a.txt", "ä")
    assert (tmp_path / "a.txt").read_bytes() == "ä".encode()
    with pytest.raises(TypeError):
        write(tmp_path / "a.txt", 1)
    assert (tmp_path / "a.txt").read_bytes() == "ä".encode()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_figure_does_not_depend_on_a_users_settings_and_leaves_them_alone():
    matplotlib = pytest.importorskip("matplotlib")

    def drawn():
        with _page.figure(2.0) as (figure, finished):
            figure.subplots().plot([0, 1], [0, 1], label="$x^2$")
            figure.legend()
        return finished()

    before = drawn()
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "none"}):
        assert drawn() == before
        assert matplotlib.rcParams["font.size"] == 30


def test_missing_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'needs matplotlib: pip install "simplicial_reg\[study\]"'):
        _page.check_matplotlib()


def test_importing_the_page_loads_neither_matplotlib_nor_rich():
    code = "import sys, simplicial_reg._page\nprint([name for name in ('matplotlib', 'rich') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
