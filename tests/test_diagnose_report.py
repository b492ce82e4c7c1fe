"""The report of a diagnosis: what it says follows from the numbers, it says it as text, and it is the same each time."""

from __future__ import annotations

import base64
import csv
import math
import re
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from simplicial_reg.diagnose import figures, report
from simplicial_reg.diagnose.record import (
    DEFINITIONS,
    HEAD_DEFINITIONS,
    Diagnosis,
    Estimate,
    Head,
    Layer,
    read_diagnosis,
)
from simplicial_reg.diagnose.report import summary, terminal, write_report
from tests.diagnose_records import diagnosis, estimate, layer

pytest.importorskip("matplotlib")

SCRIPT = "<script>alert('x')</script>"
FILES = {"report.html", "report.md", "layers.csv", "heads.csv", "definitions.csv", "diagnosis.json"}


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
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        self.words.append(data)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def of(*layers, heads=()):
    return Diagnosis("model", "data", "text", "tokens", 0, list(layers), list(heads))


def small_drift():
    from simplicial_reg.diagnose.drift import drift

    return drift(norms=(0, 1, 10), width=16, heads=2, sequences=4, length=8, vocabulary=100, repeats=2)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report of one model with a layer that could not be measured, hostile text and the drift experiment."""
    found = diagnosis(notes=[f"{SCRIPT} | `x`"], model=f"_m_ {SCRIPT}")
    found.layers[2] = Layer("block 2", 1 / 3, error="12 of 5,000 points hold NaN or infinity")
    for one in found.layers:
        one.notes = ["a note of all"] if one.error is None else ["a note of one"]
    folder = tmp_path_factory.mktemp("one")
    write_report([found], folder, drift=small_drift())
    return folder


# The files


def test_every_file_is_there_and_the_diagnosis_is_read_back(written):
    names = {name for name in files(written) if not name.startswith("figures/")}
    assert names == FILES | {"drift.json", "drift.csv"}
    back = read_diagnosis(written / "diagnosis.json")
    assert [one.name for one in back.layers] == ["embeddings", *(f"block {at}" for at in range(1, 7))]
    assert back.layers[3].measures == diagnosis().layers[3].measures


def test_the_page_needs_nothing_but_itself_and_holds_every_figure(written):
    page = Page((written / "report.html").read_text(encoding="utf-8"))
    assert not {"script", "link", "iframe", "object", "embed", "a"} & {tag for tag, _ in page.tags}
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in images)
    inside = [base64.b64decode(image["src"].split(",")[1]) for image in images]
    beside = re.findall(r"!\[.+\]\((figures/[a-z0-9-]+\.svg)\)", (written / "report.md").read_text(encoding="utf-8"))
    assert [(written / path).read_bytes() for path in beside] == inside
    assert (
        len(inside) == len(figures.PROFILES) + 1 + 3 + 3 + 4
    )  # profiles, norms; spectra, bars, outliers; heads; drift
    assert all(len(image["alt"]) > 20 for image in images)


def test_every_figure_is_well_formed_and_loads_nothing(written):
    for path in (written / "figures").iterdir():
        root = ElementTree.fromstring(path.read_bytes())
        links = [value for node in root.iter() for name, value in node.attrib.items() if name.endswith("href")]
        assert all(link.startswith("#") for link in links), path.name


def test_what_comes_from_a_diagnosis_is_text_and_never_markup(written):
    source = (written / "report.html").read_text(encoding="utf-8")
    assert SCRIPT not in source
    assert SCRIPT in "".join(Page(source).words)
    text = (written / "report.md").read_text(encoding="utf-8")
    assert "<script>" not in text
    assert r"&lt;/script&gt; \| \`x\`" in text


def test_notes_of_layers_are_said_once_with_the_layers_that_have_them(written):
    text = (written / "report.md").read_text(encoding="utf-8")
    assert "- embeddings, block 1, block 3, block 4, block 5, block 6: a note of all\n" in text
    assert "- block 2: a note of one\n" in text


def test_layers_csv_has_every_figure_with_its_interval_and_definition(written):
    rows = table(written / "layers.csv")
    assert len(rows) == 7
    expected = diagnosis().layers[3].measures
    for name in DEFINITIONS:
        values = [rows[3][column] for column in (name, f"{name}_low", f"{name}_high")]
        shown = [float(value) if value else math.nan for value in values]
        known = expected[name]
        assert shown == pytest.approx([known.value, known.low, known.high], nan_ok=True), name
    assert (rows[2]["mean_cosine"], rows[2]["error"]) == ("", "12 of 5,000 points hold NaN or infinity")
    assert rows[3]["norms_q95"] == "7.5"
    defined = {(row["of"], row["name"]) for row in table(written / "definitions.csv")}
    assert defined == {("layer", name) for name in DEFINITIONS} | {("head", name) for name in HEAD_DEFINITIONS}


def test_heads_csv_has_a_row_for_each_head_and_is_there_without_heads(written, tmp_path):
    rows = table(written / "heads.csv")
    assert len(rows) == 6 * 12
    assert float(rows[13]["alignment"]) == diagnosis().heads[13].measures["alignment"]
    write_report([of()], tmp_path)
    assert table(tmp_path / "heads.csv") == []


def test_drift_csv_has_every_number_of_the_experiment(written):
    found, rows = small_drift(), table(written / "drift.csv")
    assert len(rows) == 3 * (len(found.inputs) + len(found.outputs) + len(found.attention))
    picked = next(row for row in rows if (row["of"], row["name"], row["norm"]) == ("outputs", "mean_cosine", "10.0"))
    assert float(picked["mean"]) == found.outputs["mean_cosine"].mean[2]


def test_the_same_diagnoses_give_the_same_bytes_whatever_a_users_matplotlib_settings():
    import matplotlib

    def drawn():
        one = diagnosis(blocks=2, heads=2)
        kinds = (figures.draw_spectra, figures.draw_barcodes, figures.draw_outliers)
        return [
            figures.draw_profile([one], figures.PROFILES[0], "x"),
            figures.draw_heads(one, "alignment", "x"),
            *(draw(one, "x") for draw in kinds),
        ]

    before = drawn()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        assert drawn() == before


# Several models


def test_several_models_are_on_one_figure_and_each_has_its_file(tmp_path):
    three = [
        diagnosis("a/b", blocks=2, heads=2),
        diagnosis("a b", blocks=3, heads=2),
        diagnosis("_x", blocks=1, heads=0),
    ]
    write_report(three, tmp_path)
    found = files(tmp_path)
    assert {name for name in found if name.endswith(".json")} == {
        "diagnosis-a-b.json", "diagnosis-a-b-2.json", "diagnosis-x.json",
    }  # fmt: skip
    assert sum("layers-cosine" in name for name in found) == 1
    assert sum(name.startswith("figures/spectra") for name in found) == 3
    assert sum(name.startswith("figures/heads-alignment") for name in found) == 2
    assert [row["model"] for row in table(tmp_path / "layers.csv")] == ["a/b"] * 3 + ["a b"] * 4 + ["_x"] * 2


def test_checkpoints_of_one_run_are_told_by_labels_that_differ_by_their_number_only():
    some = [diagnosis(f"run/checkpoint-{step}", blocks=2) for step in (0, 100, 1000)]
    assert figures.steps_of(some) == [0, 100, 1000]
    assert figures.panels_of([*some] * 5) != []
    assert figures.steps_of(some[:2]) == []
    assert figures.steps_of([*some, diagnosis("other 5")]) == []


def test_of_checkpoints_all_profiles_and_the_maps_of_the_first_and_last_are_drawn(tmp_path):
    write_report([diagnosis(f"step {step}", blocks=2, heads=0) for step in (0, 5, 10, 20)], tmp_path)
    found = files(tmp_path)
    assert sum(name.startswith("figures/layers-cosine") for name in found) == 1
    assert {name for name in found if name.startswith("figures/spectra")} == {
        "figures/spectra-step-0.svg", "figures/spectra-step-20.svg",
    }  # fmt: skip


def test_more_than_six_models_make_figures_of_up_to_six():
    models = [diagnosis(f"model {'abcdefghijklmnop'[at]}", blocks=1) for at in range(13)]
    panels = figures.panels_of(models)
    assert [len(panel) for panel in panels] == [4, 4, 5]
    assert [one for panel in panels for one in panel] == models


def test_models_of_one_name_are_told_apart():
    assert figures.labels_of([diagnosis("a"), diagnosis("a"), diagnosis("", model="m")]) == ["a", "a (2)", "m"]


# What stands out


def sentences(*layers, heads=()):
    return " ".join(summary(of(*layers, heads=heads)))


@pytest.mark.parametrize(
    ("cosine", "flat", "said"),
    [
        (0.9, 0.8, "after the mean vector has been taken away, and the variance is spread (PR/null 0.80): a common mean, not a collapse."),
        (0.9, 0.3, "a common mean explains it. The variance around it is neither spread nor collapsed (PR/null 0.30)."),
        (0.9, 0.05, "a common mean. Around it the points lie in few directions (PR/null 0.05)."),
        (0.1, 0.05, "No layer has one of 0.2 or more."),
    ],
)  # fmt: skip
def test_a_high_cosine_is_explained_by_the_mean_and_the_spectrum(cosine, flat, said):
    assert said in sentences(layer("embeddings", 0.0, 0.01), layer("block 1", 1.0, cosine, flat=flat))


def test_a_cosine_that_stays_without_the_mean_is_not_explained_by_it():
    one = layer(cosine=0.9, flat=0.8)
    one.measures["mean_cosine_centred"] = Estimate(0.3)
    text = sentences(one)
    assert "it is still 0.30 after the mean vector has been taken away" in text
    assert "a common mean" not in text


def test_a_negative_cosine_without_the_mean_is_that_of_few_points_and_leaves_nothing_to_explain():
    one = layer(cosine=0.9, flat=0.8)
    one.measures["mean_cosine_centred"] = Estimate(-0.12)
    assert "a common mean, not a collapse" in sentences(one)


def test_the_dimension_of_a_single_layer_is_no_range():
    one = layer("layer0")
    one.measures["twonn_dimension"] = Estimate(6.53)
    assert f"The intrinsic dimension (TwoNN) is 6.5 in layer0, of {one.width}." in sentences(one)


@pytest.mark.parametrize(
    ("value", "decimals"), [(3.2e-4, 5), (0.0049, 4), (0.012, 3), (7.0, 0), (7.5, 3), (70.5, 1), (1e-17, 5), (0.0, 3)]
)
def test_small_figures_have_two_digits_and_at_most_five_decimals(value, decimals):
    assert report._decimals(value) == decimals


def test_one_sequence_is_singular():
    assert terminal(of(replace(layer(), points=9, sequences=1)), rich=False).startswith(
        "model: 9 tokens of 1 sequence\n"
    )


def test_the_layers_of_highest_and_lowest_cosine_are_named_with_intervals():
    low, high = layer("embeddings", 0.0), layer("block 1", 1.0)
    low.measures["mean_cosine"], high.measures["mean_cosine"] = estimate(0.1), estimate(0.6)
    assert (
        "The mean cosine is highest in block 1: 0.60 [0.58, 0.62], and lowest in embeddings: 0.10 [0.08, 0.12]."
        in sentences(low, high)
    )


def test_at_most_three_outlier_dimensions_are_named_those_of_the_largest_share_first():
    first = layer("block 1", outliers=[(7, 0.1), (3, 0.3)])
    second = layer("block 2", outliers=[(7, 0.2), (11, 0.05), (12, 0.04)])
    assert (
        "Outlier dimensions, counted from 0: 3 (in 1 layer, up to 30 % of the variance in block 1), 7 (in 2 layers, up to 20 % of "
        "the variance in block 2), 11 (in 1 layer, up to 5 % of the variance in block 2), and 1 more."
        in sentences(first, second)
    )
    assert "there are no outlier dimensions" in sentences(layer())


def test_heads_of_common_directions_are_counted_and_the_sharpest_is_named():
    heads = [
        Head(1, at + 1, {"alignment": value, "entropy": 0.9 - 0.1 * at}) for at, value in enumerate((0.5, -0.5, 0.4))
    ]
    text = sentences(layer(), heads=heads)
    assert "the same way (cosine at least 0.5) in 1 of 3 heads, and opposite ways (at most -0.5) in 1." in text
    assert "is 0.80 in the mean over heads, and least in block 1, head 3: 0.70." in text


def test_layers_of_no_more_points_than_dimensions_are_named():
    text = sentences(layer("block 1", points=384), layer("block 2", points=385))
    assert "1 layer (block 1) has no more points than dimensions" in text
    assert "All layers have no more points" in sentences(layer(points=3))
    assert "no more points" not in sentences(layer())


def test_a_layer_without_figures_comes_first_and_the_others_are_still_said():
    found = summary(of(Layer("block 1", 0.5, error="it holds NaN"), layer("block 2")))
    assert found[0] == "There are no figures of block 1: it holds NaN."
    assert "highest in block 2" in found[1]
    assert summary(of(Layer("block 1", 0.5, error="it holds NaN"))) == [found[0]]
    assert summary(of()) == []


def test_figures_that_are_nan_are_left_out():
    one = layer()
    one.measures = dict.fromkeys(one.measures, Estimate(math.nan))
    assert summary(of(one)) == [
        "No dimension of any layer has five times the mean variance: there are no outlier dimensions."
    ]


# Singular diagnoses are drawn


ODD = (
    of(),
    of(Layer("x", 1.0, error="no")),
    of(layer("a column", 1.0, bars=[], spectrum=[], norms={})),
    of(layer(bars=[0.0, 0.0], spectrum=[1.0], width=2), layer(bars=[1.0], spectrum=[math.nan], norms={"median": 0.0})),
    of(replace(layer(), measures=dict.fromkeys(DEFINITIONS, Estimate(math.nan)))),
    of(replace(layer(), measures=dict.fromkeys(DEFINITIONS, Estimate(0.0)))),
    of(layer("_" * 90), heads=[Head(1, 1, {"alignment": math.nan}), Head(1, 2, {"mean_share": 3.0, "entropy": 1.0})]),
)


def test_diagnoses_that_hold_almost_nothing_have_a_report_together(tmp_path):
    write_report(ODD, tmp_path)
    Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len([name for name in files(tmp_path) if name.endswith(".json")]) == len(ODD)


@pytest.mark.parametrize("at", range(len(ODD)))
def test_a_diagnosis_that_holds_almost_nothing_is_said_in_a_table(at):
    assert max(map(len, terminal(ODD[at]).splitlines())) <= 100


@pytest.mark.parametrize("at", range(3))
def test_a_diagnosis_without_figures_has_a_report(at, tmp_path):
    write_report([ODD[at]], tmp_path)
    Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_a_map_of_many_heads_has_no_numbers_and_one_of_few_has():
    few = figures.draw_heads(diagnosis(blocks=2, heads=12), "alignment", "x")
    many = figures.draw_heads(diagnosis(blocks=2, heads=13), "alignment", "x")
    assert few.svg.count(b'<g id="text_') > many.svg.count(b'<g id="text_') + 10


# Terminal


@pytest.mark.parametrize("rich", [True, False])
def test_the_terminal_table_fits_100_columns_with_a_row_for_each_layer(rich):
    if rich:
        pytest.importorskip("rich")
    found = diagnosis(blocks=30)
    for one in found.layers:
        one.measures["mean_cosine"] = Estimate(-0.123, -0.234, -0.012)
        one.measures["twonn_dimension"] = Estimate(1234.5)
    found.layers[4] = Layer("block 4", 0.1, error="it holds NaN")
    text = terminal(found, rich=rich)
    assert max(map(len, text.splitlines())) <= 100
    assert text.splitlines()[0] == "minilm: 5,000 tokens of 256 sequences"
    assert text.count("-0.12 [-0.23, -0.01]") == 30
    assert text.endswith("block 4: it holds NaN\n")
    assert "\x1b" not in text


@pytest.mark.parametrize("rich", [True, False])
@pytest.mark.parametrize("low", [math.nan, 0.2, -0.2])
def test_names_of_layers_are_not_folded_where_they_have_room(rich, low):
    if rich:
        pytest.importorskip("rich")
    one = layer("block 4")
    one.measures["mean_cosine"] = Estimate(0.3, low, 0.4)
    assert re.search(r"^ ?block 4 +0\.30", terminal(of(one), rich=rich), re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "said"), [("../a/b/", "b"), ("minilm", "minilm"), ("dir/f.py:make", "f.py:make"), ("/", "/")]
)
def test_a_path_is_called_by_its_last_part(name, said):
    assert terminal(diagnosis(model=name)).startswith(f"{said}: ")


def test_eight_outlier_dimensions_may_be_more():
    one = of(layer(outliers=[(at, 0.1) for at in range(8)]))
    assert re.search(r" 8\+\n", terminal(one, rich=False))
    assert "and at least 5 more." in sentences(*one.layers)


def test_zero_has_no_sign_in_the_terminal_table():
    one = layer()
    one.measures["mean_cosine"] = Estimate(-0.001, -0.002, 0.001)
    assert " 0.00 [0.00, 0.00] " in terminal(of(one), rich=False)


# Bad input


def test_no_diagnosis_is_refused(tmp_path):
    with pytest.raises(ValueError, match="diagnoses must hold at least one; got none"):
        write_report([], tmp_path)


def test_missing_matplotlib_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'needs matplotlib: pip install "simplicial_reg\[study\]"'):
        write_report([diagnosis()], tmp_path)
    assert list(tmp_path.iterdir()) == []
