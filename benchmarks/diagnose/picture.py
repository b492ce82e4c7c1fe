"""``python -m benchmarks.diagnose.picture``: the two pictures of docs/anisotropy.md, of the committed results alone.

anisotropy-trained.svg    pretrained models beside untrained copies of them: raw and centred cosine, and IsoScore*, by depth
anisotropy-steps.svg      models that were trained here: the same of their last state, over the steps of the training
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.diagnose.results import read_results
from simplicial_reg._files import whole_file
from simplicial_reg._page import LOOKS, figure
from simplicial_reg.diagnose import Diagnosis
from simplicial_reg.plots import GREY

ROOT = Path(__file__).parents[2]
RESULTS, DOCS = ROOT / "benchmarks" / "results" / "diagnose", ROOT / "docs"
MEASURES = {
    "mean_cosine": "mean cosine",
    "mean_cosine_centred": "mean cosine, centred",
    "isoscore_star": "IsoScore*",
}
PRETRAINED = {
    "minilm-wikitext": "MiniLM, text",
    "stories-shakespeare": "stories260K, text",
    "kwt1-digits": "KWT-1, speech",
}
TRAINED_HERE = {
    "vit-mnist": "ViT, MNIST",
    "vit-cifar": "ViT, CIFAR-10",
    "cnn-cifar": "CNN, CIFAR-10",
    "cnn-sums-cifar": "CNN, sums before ReLU",
    "characters": "transformer, characters",
    "tokens": "transformer, tokens",
}
TICKS = (0, 10, 100, 1000)


def main() -> None:
    for name, content in (("trained", draw_pretrained(RESULTS)), ("steps", draw_steps(RESULTS))):
        with whole_file(DOCS / f"anisotropy-{name}.svg") as draft:
            draft.write_bytes(content)


def draw_pretrained(results: Path) -> bytes:
    """For each pretrained model its profiles, and those of its untrained copy, dotted."""
    with figure(6.4, width=8.6) as (drawn, content):
        axes = drawn.subplots(len(MEASURES), len(PRETRAINED), sharey="row", squeeze=False)
        for column, (run, title) in enumerate(PRETRAINED.items()):
            for diagnosis in read_results(results / run):
                trained = diagnosis.label == "trained"
                style: dict[str, Any] = {
                    "color": LOOKS[0].colour if trained else GREY,
                    "linestyle": "-" if trained else ":",
                }
                for row, measure in enumerate(MEASURES):
                    _profile(axes[row][column], diagnosis, measure, **style)
            axes[0][column].set_title(title, fontsize="medium")
            axes[-1][column].set_xlabel("relative depth")
        _finish(axes)
        handles, _ = axes[0][0].get_legend_handles_labels()
        drawn.legend(handles, ["trained", "untrained copy"], loc="outside upper left", ncols=2)
    return content()


def draw_steps(results: Path) -> bytes:
    """The last state of the models that were trained here, each seed a line, over the steps."""
    with figure(3.4, width=8.6) as (drawn, content):
        (axes,) = drawn.subplots(1, len(MEASURES), squeeze=False)
        for look, (run, title) in zip(LOOKS, TRAINED_HERE.items(), strict=False):
            for number, folder in enumerate(sorted(results.glob(f"{run}-seed-*"))):
                diagnoses = read_results(folder)
                steps = [int(re.findall(r"\d+", diagnosis.label)[-1]) for diagnosis in diagnoses]
                for ax, measure in zip(axes, MEASURES, strict=True):
                    values = [diagnosis.layers[-1].measures[measure].value for diagnosis in diagnoses]
                    ax.plot(
                        steps,
                        values,
                        color=look.colour,
                        marker=look.marker,
                        markersize=3.5,
                        linestyle=look.line,
                        linewidth=1.3,
                        label=title if number == 0 else None,
                    )
        for ax in axes:
            ax.set_xscale("symlog", linthresh=10)
            ax.set_xticks(TICKS, [f"{step:,}" for step in TICKS])
            ax.minorticks_off()
            ax.set_xlabel("step of the training")
        _finish([axes])
        handles, names = axes[0].get_legend_handles_labels()
        drawn.legend(handles, names, loc="outside upper left", ncols=3, handlelength=3)
    return content()


def _profile(ax: Any, diagnosis: Diagnosis, measure: str, **style: Any) -> None:
    layers = [layer for layer in diagnosis.layers if measure in layer.measures]
    depth = [layer.depth for layer in layers]
    found = [layer.measures[measure] for layer in layers]
    ax.plot(depth, [estimate.value for estimate in found], linewidth=1.6, label=diagnosis.label, **style)
    ax.fill_between(
        depth,
        [estimate.low for estimate in found],
        [estimate.high for estimate in found],
        color=style["color"],
        alpha=0.2,
        linewidth=0,
    )


def _finish(axes: Sequence[Sequence[Any]]) -> None:
    for row in axes:
        for ax in row:
            ax.set_ylim(-0.08, 1.0)
            ax.axhline(0, color="#D0D0D0", linewidth=0.8, zorder=0)
    if len(axes) == len(MEASURES):
        for row, label in zip(axes, MEASURES.values(), strict=True):
            row[0].set_ylabel(label)
    else:
        for ax, label in zip(axes[0], MEASURES.values(), strict=True):
            ax.set_ylabel(label)


if __name__ == "__main__":
    main()
