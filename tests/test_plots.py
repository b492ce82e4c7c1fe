"""Pictures of barcodes: what they show and what they say, looked up in the figure."""

from __future__ import annotations

import io
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from simplicial_reg import rips_barcode
from simplicial_reg.plots import LOOKS, SHOWN, plot_barcode, plot_bars, plot_diagram
from tests.clouds import polygon

SQUARE = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


def gaussian(n, d):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


def boxes(ax):
    """For each dimension drawn, the (start, stop) of its bars, from below."""
    collections = [child for child in ax.get_children() if isinstance(child, PolyCollection)]
    return [
        [(path.vertices[:, 0].min(), path.vertices[:, 0].max()) for path in collection.get_paths()]
        for collection in collections
    ]


def dots(ax):
    """For each dimension drawn, its points (birth, death)."""
    return [np.asarray(child.get_offsets()) for child in ax.get_children() if isinstance(child, PathCollection)]


def names(ax):
    """What the axes call the dimensions."""
    if ax.get_legend() is None:
        return [label.get_text() for label in ax.get_yticklabels()]
    return [text.get_text() for text in ax.get_legend().get_texts()]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def rendered(figure, kind="png"):
    file = io.BytesIO()
    figure.savefig(file, format=kind)
    return file.getvalue()


def test_a_bar_reaches_from_its_birth_to_its_death():
    components, loops = boxes(plot_barcode(rips_barcode(SQUARE, 1)))
    assert components == [(0, 1)] * 3
    assert np.allclose(loops, [(1, math.sqrt(2))])


def test_a_point_of_the_diagram_is_birth_and_death():
    components, loops = dots(plot_diagram(rips_barcode(SQUARE, 1)))
    assert components.tolist() == [[0, 1]] * 3
    assert np.allclose(loops, [[1, math.sqrt(2)]])


def test_bars_are_in_order_of_birth_then_death():
    components, loops = boxes(plot_barcode(rips_barcode(gaussian(40, 3), 1)))
    assert [death for _, death in components] == sorted(death for _, death in components)
    assert [birth for birth, _ in loops] == sorted(birth for birth, _ in loops)
    assert len(loops) > 3


def test_both_pictures_stand_side_by_side_and_name_the_metric():
    figure = plot_bars(rips_barcode(SQUARE, 1), metric="euclidean", title="a square")
    assert isinstance(figure, Figure)
    left, right = figure.axes
    assert left.get_xlabel() == "filtration value (euclidean distance)"
    assert right.get_xlabel() == "birth (euclidean distance)"
    assert right.get_ylabel() == "death (euclidean distance)"
    assert figure.get_suptitle() == "a square"
    assert left.get_position().x1 <= right.get_position().x0


@pytest.mark.parametrize(
    ("metric", "label"),
    [
        (None, "filtration value"),
        ("cosine", "filtration value (cosine distance, 1 − cos)"),
        ("angular", "filtration value (angle in radians)"),
        ("precomputed", "filtration value (given distance)"),
        ("edit distance", "filtration value (edit distance)"),
    ],
)
def test_the_axis_says_the_unit_of_the_metric(metric, label):
    assert plot_barcode(rips_barcode(SQUARE), metric=metric).get_xlabel() == label


def test_every_dimension_is_named_with_its_count():
    bars = rips_barcode(polygon(5), 1)
    assert names(plot_barcode(bars)) == ["H0\n4 bars", "H1\n1 bar"]
    assert names(plot_diagram(bars)) == ["H0: 4 bars", "H1: 1 bar"]


def test_dimensions_differ_in_colour_and_marker():
    assert len({look.colour for look in LOOKS}) == len({look.marker for look in LOOKS}) == len(LOOKS)
    ax = plot_barcode(rips_barcode(SQUARE, 1))
    drawn = [to_hex(child.get_facecolor()[0]) for child in ax.get_children() if isinstance(child, PolyCollection)]
    assert drawn == [LOOKS[0].colour.lower(), LOOKS[1].colour.lower()]


def test_of_many_bars_the_longest_are_drawn_and_the_label_says_so():
    bars = rips_barcode(gaussian(300, 2))
    ax = plot_barcode(bars)
    (components,) = boxes(ax)
    longest = bars[0].death.sort(descending=True).values[:SHOWN]
    assert np.allclose(sorted(death for _, death in components), longest.flip(0))
    assert names(ax) == ["H0\n299 bars\nlongest 100 shown"]


def test_the_diagram_shows_every_bar():
    ax = plot_diagram(rips_barcode(gaussian(300, 2), 1))
    assert len(dots(ax)[0]) == 299
    assert names(ax)[0] == "H0: 299 bars"


def test_bars_of_length_zero_can_be_seen():
    (components, loops) = boxes(plot_barcode(rips_barcode(torch.ones(9, 2), 1)))
    assert len(components) == 8
    assert all(stop > start for start, stop in components)
    assert loops == []


def test_infinite_bars_end_in_an_arrow_and_lie_on_a_line_called_infinity():
    bars = rips_barcode(SQUARE, essential="infinite")
    left, right = plot_bars(bars).axes
    end = left.get_xlim()[1]
    assert max(stop for _, stop in boxes(left)[0]) == end
    assert [line.get_marker() for line in left.lines] == [">"]
    assert texts(right) == ["infinity"]
    highest = dots(right)[0][:, 1].max()
    assert 1 < highest < right.get_ylim()[1]
    assert [line.get_ydata()[0] for line in right.lines if line.get_linestyle() == "--"] == [highest]


def test_a_diagram_without_infinite_bars_has_no_line_called_infinity():
    assert texts(plot_diagram(rips_barcode(SQUARE, 1))) == []


@pytest.mark.parametrize("draw", [plot_barcode, plot_diagram])
def test_no_bars_are_called_no_bars(draw):
    ax = draw(rips_barcode(torch.zeros(1, 3), 1))
    assert texts(ax) == ["no bars"]
    assert [name.replace("\n", ": ") for name in names(ax)] == ["H0: 0 bars", "H1: 0 bars"]


def test_loops_that_crowd_in_a_corner_are_magnified():
    (inset,) = plot_diagram(rips_barcode(gaussian(200, 768), 1)).child_axes
    assert inset.get_title() == "H1, magnified"
    assert len(dots(inset)[0]) > 100
    low, high = inset.get_xlim()
    assert 0 < low < high


def test_loops_that_are_spread_out_are_not_magnified():
    assert plot_diagram(rips_barcode(gaussian(100, 2), 1)).child_axes == []


CLOUDS = {
    "one point": torch.zeros(1, 2),
    "two points": SQUARE[:2],
    "all equal": torch.ones(9, 2),
    "square": SQUARE,
    "far apart": torch.tensor([[0.0], [1e18]]),
    "close together": torch.tensor([[0.0], [1e-15]]),
    "high dimension": gaussian(150, 300),
}


@pytest.mark.parametrize("essential", ["drop", "infinite"])
@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_cloud_can_be_drawn(cloud, essential):
    image = rendered(plot_bars(rips_barcode(CLOUDS[cloud], 1, essential=essential), metric="euclidean"))
    assert image.startswith(b"\x89PNG")


def test_two_thousand_bars_are_drawn_within_seconds_and_not_as_thousands_of_objects():
    figure = plot_bars(rips_barcode(gaussian(2000, 8)))
    assert sum(len(ax.get_children()) for ax in figure.axes) < 60
    assert rendered(figure)


def test_a_figure_can_be_written_as_svg():
    assert b"<svg" in rendered(plot_bars(rips_barcode(SQUARE, 1)), "svg")


def test_higher_dimensions_are_drawn_too():
    octahedron = torch.cat([torch.eye(3), -torch.eye(3)])
    bars = rips_barcode(octahedron, 2, engine="reference")
    assert names(plot_diagram(bars)) == ["H0: 5 bars", "H1: 0 bars", "H2: 1 bar"]
    assert len(boxes(plot_barcode(bars))[2]) == 1


def test_one_barcode_is_drawn_like_a_tuple_of_one():
    bars = rips_barcode(SQUARE)
    assert boxes(plot_barcode(bars[0])) == boxes(plot_barcode(bars))


def test_bars_that_carry_a_gradient_can_be_drawn():
    assert rendered(plot_bars(rips_barcode(SQUARE.clone().requires_grad_(), 1)))


def test_masked_bars_are_not_drawn():
    bars = rips_barcode(SQUARE.repeat(2, 1), mask=torch.tensor([True] * 4 + [False] * 4))
    assert len(boxes(plot_barcode(bars))[0]) == 3


def test_axes_of_the_user_are_drawn_into():
    figure = Figure()
    ax = figure.add_subplot()
    assert plot_barcode(rips_barcode(SQUARE), ax) is ax
    assert plot_diagram(rips_barcode(SQUARE), ax) is ax


def test_without_axes_a_figure_is_made():
    ax = plot_diagram(rips_barcode(SQUARE))
    assert isinstance(ax, Axes)
    assert rendered(ax.figure)


@pytest.mark.parametrize("draw", [plot_barcode, plot_diagram, plot_bars])
def test_a_batch_is_refused(draw):
    with pytest.raises(
        ValueError,
        match=r"^barcodes must be those of one cloud; got a batch of shape \(2, 3\); draw its clouds one by one$",
    ):
        draw(rips_barcode(SQUARE.expand(2, 4, 2)))


@pytest.mark.parametrize("draw", [plot_barcode, plot_diagram, plot_bars])
def test_missing_matplotlib_names_the_extra(draw, monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'^plots need matplotlib: pip install "simplicial_reg\[plots\]"$'):
        draw(rips_barcode(SQUARE))


def test_drawing_leaves_pyplot_alone():
    code = (
        "import sys, torch, simplicial_reg.plots as plots, simplicial_reg\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plots.plot_bars(simplicial_reg.rips_barcode(torch.eye(4), 1)).savefig('/dev/null', format='png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
