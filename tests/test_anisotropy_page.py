"""docs/anisotropy.md: its tables and pictures are those of the committed results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simplicial_reg.diagnose import Diagnosis, Layer

pytest.importorskip("matplotlib")

from benchmarks.diagnose import picture
from benchmarks.diagnose.results import read_results

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "anisotropy.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results" / "diagnose"
FIRST = ("mean_cosine", "mean_cosine_centred", "drift_ratio", "isoscore_star")


def of(run: str, label: str) -> Diagnosis:
    (found,) = [diagnosis for diagnosis in read_results(RESULTS / run) if diagnosis.label == label]
    return found


def figures(layer: Layer, *names: str) -> list[str]:
    # -0.000 is 0.000
    return [f"{round(layer.measures[name].value, 3) + 0.0:.3f}" for name in names]


def rows(start: str) -> list[list[str]]:
    """The cells of the page's table rows whose first cell begins so."""
    lines = [line for line in PAGE.splitlines() if line.startswith(f"| {start}")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_control_is_in_the_table() -> None:
    names = {"isotropic Gaussian": 0, "of rank 3 ": 1, "the same, shifted": 2, "of rank 3, shifted": 3}
    layers = of("control", "control").layers
    for start, at in names.items():
        (row,) = rows(start)
        assert row[1:] == figures(layers[at], *FIRST)


@pytest.mark.parametrize(
    ("start", "run"),
    [
        ("MiniLM on WikiText-2", "minilm-wikitext"),
        ("MiniLM on docstrings", "minilm-sample"),
        ("stories260K on what it writes itself", "stories-own"),
        ("stories260K on Shakespeare", "stories-shakespeare"),
        ("KWT-1 on spoken digits", "kwt1-digits"),
    ],
)
def test_pretrained_models_and_their_untrained_copies_are_in_the_table(start: str, run: str) -> None:
    (row,) = rows(start)
    highest = [
        max(of(run, label).layers, key=lambda layer: layer.measures["mean_cosine"].value)
        for label in ("trained", "untrained")
    ]
    assert highest[0].name in row[0]
    assert row[1:5] == figures(highest[0], *FIRST)
    cosine, isoscore = figures(highest[1], "mean_cosine", "isoscore_star")
    assert row[5:] == [f"{cosine} ({highest[1].name})", isoscore]


@pytest.mark.parametrize(
    ("start", "label"),
    [
        ("before", "before"),
        ("task alone", "task alone"),
        ("with persistent entropy", "with persistent-entropy"),
        ("with I-STAR", "with istar"),
    ],
)
def test_fine_tuning_is_in_the_table(start: str, label: str) -> None:
    run = "minilm-finetuned-seed-0"
    (row,) = rows(start)
    metrics = json.loads((RESULTS / run / "run.json").read_text(encoding="utf-8"))["metrics"]
    (accuracy,) = [entry["accuracy"] for entry in metrics if entry["diagnosis"] == label]
    layer = of(run, label).layers[-1]
    score = layer.measures["isoscore_star"]
    assert row[1:4] == [f"{accuracy:.3f}", *figures(layer, "mean_cosine", "top_1_variance_share")]
    assert row[4] == f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


def test_the_drift_experiment_is_in_the_table() -> None:
    from simplicial_reg.diagnose import drift

    found = drift(norms=(0, 1, 5), repeats=1)
    for at, norm in enumerate(found.norms):
        (row,) = [row for row in rows(f"{norm:g} ") if len(row) == 7]
        # One repeat here, the mean of three there.
        for cell, curve in zip(row[1:6], (found.inputs, found.outputs), strict=False):
            assert float(cell) == pytest.approx(curve["mean_cosine"].mean[at], abs=0.01)
        assert float(row[6]) == pytest.approx(found.attention["entropy"].mean[at], abs=0.001)


@pytest.mark.parametrize("draw", [picture.draw_pretrained, picture.draw_steps])
def test_the_pictures_can_be_drawn_of_the_committed_results(draw) -> None:  # type: ignore[no-untyped-def]
    content = draw(RESULTS)
    assert content.startswith(b"<?xml")
    assert content.count(b'<g id="axes_') == (9 if draw is picture.draw_pretrained else 3)
