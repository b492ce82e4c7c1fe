"""What happens to a model's space while it trains: measures and bar lengths of a fixed sample, step by step.

`Monitor` runs the model on the same few validation batches whenever it is asked to, in evaluation mode and without gradients, and
keeps what `simplicial_reg.isotropy` and the barcode say of the points. It changes nothing: modes of modules and states of random
generators (torch, Python, NumPy) are put back, so a monitored training makes the same parameters as one that is not.

The sample. Batches are taken from the front until they give ``max_points`` points, and are kept; of the points of these, ``max_points``
are drawn once and for all. Most measures depend on the number of points even for an isotropic cloud, so this number must not
change from step to step, and `plot_history` draws, dotted, what an isotropic Gaussian cloud of the same size has.

Reading a curve. Bars are the finite ones of homology dimension 0, whose lengths are the edges of the minimum spanning tree: a space
that collapses has all of them go to zero; one that falls apart into clusters, a few long and many short ones.

Singular input. Points that are not finite (a model that diverged) have no barcode: all measures are NaN and there are no bars, and
training goes on. One point has no bars.

Works with any training loop; `simplicial_reg.training.hf.MonitorCallback` drives one in that of Hugging Face.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simplicial_reg._autocast import autocast_off
from simplicial_reg._checks import check_choice, check_count, computable
from simplicial_reg._files import whole_file
from simplicial_reg.barcode import rips_barcode
from simplicial_reg.isotropy import MEASURES
from simplicial_reg.plots import GREY, LOOKS, SHOWN, UNITS, check_matplotlib
from simplicial_reg.training._blocks import unwrapped
from simplicial_reg.training._pooling import Pooling
from simplicial_reg.training._running import device_of, moved, set_aside
from simplicial_reg.training.memory import subsample
from simplicial_reg.training.tap import Tap

__all__ = ["DEFAULT_MEASURES", "Monitor", "measure_points", "plot_history", "read_history"]

DEFAULT_MEASURES = (
    "persistent_entropy",
    "entropy_deficit",
    "isoscore_star",
    "participation_ratio_over_null",
    "mean_cosine",
)
NOT_MEASURES = ("step", "n", "d", "metric", "bars")  # what else an entry of a history holds
DRAWS = 5  # Gaussian clouds, for a null that has no formula


class Monitor:
    """Measures a fixed sample of a model's points, as often as `measure` is called, and keeps a history.

    Args:
        model: any ``nn.Module``, also wrapped by torch.compile or DistributedDataParallel; the module inside is run, so that
            one rank may measure alone. Where the parameters themselves are sharded (FSDP), every rank must.
        batches: a data loader or any iterable of batches; its first ones are kept, and it is gone through once. An endless one will do.
        layer: which hidden state, as for `simplicial_reg.training.Tap`; one, not several.
        pooling: how the state becomes points, as for `simplicial_reg.training.Tap`.
        measures: names in ``simplicial_reg.isotropy.MEASURES``; may be empty.
        max_points: how many points are measured at most.
        seed: of the draw among the points.
        forward: called as ``forward(model, batch)`` with the model as given; it runs the model and returns the attention mask, or None. By
            default a batch that is a mapping is passed by keyword, its ``attention_mask`` being the mask; of a tuple or list the first
            element is passed; anything else is passed as it is.
        metric: of the bars and of measures that are made of distances: ``"euclidean"``, ``"cosine"`` and so on.

    Raises:
        TypeError: for arguments of another type.
        ValueError: for an unknown choice, and whatever `Tap` raises.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        >>> batches = torch.randn(4, 16, 3, generator=torch.Generator().manual_seed(0))
        >>> monitor = Monitor(model, batches, layer="1", measures=("entropy_deficit", "mean_cosine"), max_points=32)
        >>> list(monitor.measure(0))
        ['entropy_deficit', 'mean_cosine']
        >>> with torch.no_grad():
        ...     _ = model[0].weight.zero_()  # collapse
        >>> round(monitor.measure(1)["mean_cosine"], 4)
        1.0
        >>> [(entry["step"], entry["n"], len(entry["bars"])) for entry in monitor.history]
        [(0, 32, 31), (1, 32, 31)]
    """

    history: list[dict[str, Any]]
    """One entry for each call of `measure`: ``step``, ``n`` points of ``d`` coordinates, ``metric``, the measures by name, and ``bars``,
    the bar lengths from the shortest to the longest."""

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        *,
        layer: str | int = "last",
        pooling: Pooling = "mean",
        measures: Sequence[str] = DEFAULT_MEASURES,
        max_points: int = 512,
        seed: int = 0,
        forward: Callable[[Any, Any], Tensor | None] | None = None,
        metric: str = "euclidean",
    ) -> None:
        if layer == "all" or not isinstance(layer, (str, int)):
            raise ValueError(f"layer must be one hidden state; got {layer!r}; for several, make a Monitor of each")
        check_measures(measures)
        check_choice("metric", metric, [name for name in UNITS if name != "precomputed"])
        check_count("max_points", max_points, 1)
        check_count("seed", seed, 0)
        self.model, self.batches = model, batches
        self.measures, self.max_points, self.seed, self.metric = tuple(measures), max_points, seed, metric
        self.forward = forward
        self.history = []
        self._tap = Tap(model, layer=layer, pooling=pooling)
        self._kept: list[Any] | None = None

    def measure(self, step: int) -> dict[str, float]:
        """Run the model on the sample and add an entry to the history.

        Args:
            step: what to call this moment, such as the number of optimizer steps so far.

        Returns:
            The measures by name; NaN where there is nothing to estimate.

        Raises:
            ValueError: if there is no batch, or none has a point.
            RuntimeError: if the forward does not reach the layer.
        """
        points = self._points()
        values = measure_points(points, self.measures, metric=self.metric)
        n, d = points.shape
        entry = {"step": step, "n": n, "d": d, "metric": self.metric}
        self.history.append({**entry, **values, "bars": _bar_lengths(points, self.metric)})
        return values

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the history as JSON, whole or not at all; numbers that are not finite are written as null.

        Args:
            path: of the file; its folder must exist.
        """
        with whole_file(Path(path)) as draft:
            draft.write_text(json.dumps([_written(entry) for entry in self.history], allow_nan=False), encoding="utf-8")

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take the history from a file that `save` wrote, to go on with it.

        Args:
            path: of the file.

        Raises:
            ValueError: if it is something else.
        """
        self.history = read_history(path)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the history into a file; see `plot_history`."""
        plot_history(self.history, path)

    @torch.no_grad()
    def _points(self) -> Tensor:
        """The points of the sample, ``(n, d)``."""
        with set_aside(self.model), self._tap:
            parts = list(self._parts())
        if not any(len(part) for part in parts):
            raise ValueError(f"batches must hold at least one point; got {len(parts)} batches without any")
        generator = torch.Generator().manual_seed(self.seed)
        return subsample(torch.cat(parts), self.max_points, generator=generator).points

    def _parts(self) -> Iterator[Tensor]:
        """The real points of each batch that is kept; the first time, batches are kept until they are enough."""
        if self._kept is not None:
            yield from map(self._run, self._kept)
            return
        kept, count = [], 0
        for batch in self.batches:
            kept.append(batch)
            part = self._run(batch)
            count += len(part)
            yield part
            if count >= self.max_points:
                break
        self._kept = kept

    def _run(self, batch: Any) -> Tensor:
        batch = moved(batch, device_of(self.model))
        mask = _forward(self.model, batch) if self.forward is None else self.forward(self.model, batch)
        cloud = self._tap.read(mask=mask)
        return cloud.points if cloud.mask is None else cloud.points[cloud.mask]


def measure_points(
    points: Tensor, measures: Sequence[str] = DEFAULT_MEASURES, *, mask: Tensor | None = None, metric: str = "euclidean"
) -> dict[str, float]:
    """Some of the measures of ``simplicial_reg.isotropy.MEASURES``, as numbers.

    Args:
        points: ``(n, d)``, or ``(B, n, d)`` for the mean over clouds.
        measures: their names.
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.
        metric: for measures that are made of distances.

    Returns:
        A number for each name. NaN if a real point is not finite, and where there is nothing to estimate; of several clouds the mean
        is over those whose value is a number.

    Raises:
        TypeError: if points are not floating or mask is not bool.
        ValueError: for an unknown name or metric, and wrong shapes.

    Example:
        >>> values = measure_points(torch.eye(8), ("persistent_entropy", "mean_cosine"))
        >>> {name: round(value, 4) for name, value in values.items()}
        {'persistent_entropy': 1.0, 'mean_cosine': 0.0}
    """
    check_measures(measures)
    points, mask = computable(points, mask)
    if not measures:
        return {}
    if not bool(points.isfinite().all()):
        return dict.fromkeys(measures, math.nan)
    with torch.no_grad(), autocast_off(points):
        values = torch.stack(
            [
                MEASURES[name].function(points, mask=mask, **({"metric": metric} if MEASURES[name].pairwise else {}))
                for name in measures
            ]
        )
        return dict(zip(measures, values.reshape(len(measures), -1).nanmean(1).tolist(), strict=True))


def read_history(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """A history that `Monitor.save` wrote.

    Args:
        path: of the file.

    Returns:
        The entries; null has become NaN.

    Raises:
        ValueError: if it is something else.
    """
    wrong = f"{path}: this is not a history that Monitor.save wrote"
    try:
        history = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # what is no text, or no JSON
        raise ValueError(f"{wrong}: {error}") from error
    if not isinstance(history, list) or not all(
        isinstance(entry, dict) and entry.keys() >= set(NOT_MEASURES) for entry in history
    ):
        raise ValueError(f"{wrong}: it must be a list of entries with {', '.join(NOT_MEASURES)}")
    return [{name: math.nan if value is None else value for name, value in entry.items()} for entry in history]


def plot_history(history: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draw the course of every measure, with the value of an isotropic cloud dotted, and of the bar lengths, all over the steps.

    The null is the formula in ``MEASURES``, or the mean of five Gaussian clouds of the size and metric of the last entry; a measure that
    depends on the unit has none. Of more than 100 bars, 100 are drawn, evenly spaced in rank.

    Args:
        history: what `Monitor.history` holds.
        path: of the picture; its suffix is the format.

    Raises:
        ImportError: if Matplotlib is missing (extra "plots").
        ValueError: if nothing has been measured.
    """
    check_matplotlib()
    from matplotlib.figure import Figure

    if not history:
        raise ValueError("history must hold at least one entry; call measure first")
    names = [name for name in history[-1] if name not in NOT_MEASURES]
    columns = min(3, max(1, len(names)))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(3.4 * max(columns, 2), 2.2 * rows + 3.0), dpi=150, layout="constrained")
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[1.0] * rows + [1.4])
    for at, name in enumerate(names):
        _draw_measure(figure.add_subplot(grid[at // columns, at % columns]), history, name)
    _draw_bars(figure.add_subplot(grid[rows, :]), history)
    path = Path(path)
    with whole_file(path) as draft:
        figure.savefig(draft, format=path.suffix.lstrip(".") or "png")


def check_measures(measures: Any) -> None:
    """Raise if these are not names of measures."""
    if isinstance(measures, str) or not isinstance(measures, Sequence):
        raise TypeError(f"measures must be a sequence of names; got {measures!r}")
    for name in measures:
        check_choice("measures", name, MEASURES)


# --- running the model --------------------------------------------------------------------------------------------------------


def _forward(model: nn.Module, batch: Any) -> Tensor | None:
    root = unwrapped(model)
    if isinstance(batch, Mapping):
        root(**batch)
        mask: Tensor | None = batch.get("attention_mask")
        return mask
    root(batch[0] if isinstance(batch, (list, tuple)) else batch)
    return None


def _bar_lengths(points: Tensor, metric: str) -> list[float]:
    if not bool(points.isfinite().all()):
        return []
    with torch.no_grad():
        lengths: list[float] = rips_barcode(points, metric=metric)[0].persistence.sort().values.tolist()
    return lengths


def _written(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in entry.items()
    }


# --- drawing ------------------------------------------------------------------------------------------------------------------


def _draw_measure(ax: Any, history: Sequence[Mapping[str, Any]], name: str) -> None:
    steps = [entry["step"] for entry in history]
    values = [entry.get(name, math.nan) for entry in history]
    ax.plot(steps, values, color=LOOKS[0].colour, marker="o", markersize=3, linewidth=1.3)
    expected = _isotropic(name, history[-1])
    if math.isfinite(expected):
        ax.axhline(expected, color=GREY, linestyle=":", linewidth=1.3)
        ax.annotate("isotropic", (1, expected), (0, 2), xycoords=("axes fraction", "data"), textcoords="offset points",
                    ha="right", va="bottom", color=GREY, fontsize="x-small")  # fmt: skip
    ax.set_title(name.replace("_", " "), fontsize="small")
    ax.margins(y=0.15)  # room for the word on the line
    ax.tick_params(labelsize="x-small")
    ax.spines[["top", "right"]].set_visible(False)


def _isotropic(name: str, entry: Mapping[str, Any]) -> float:
    """The measure of an isotropic Gaussian cloud of that size; NaN where the unit would decide, or a cloud has no value."""
    if name not in MEASURES or "scale" not in MEASURES[name].invariant:
        return math.nan
    formula = MEASURES[name].null
    if formula is not None:
        return formula(entry["n"], entry["d"])
    clouds = torch.randn(DRAWS, entry["n"], entry["d"], generator=torch.Generator().manual_seed(0))
    return measure_points(clouds, (name,), metric=entry["metric"])[name]


def _draw_bars(ax: Any, history: Sequence[Mapping[str, Any]]) -> None:
    counts = Counter(len(entry["bars"]) for entry in history if entry["bars"])
    ax.set_xlabel("step")
    ax.spines[["top", "right"]].set_visible(False)
    if not counts:
        ax.text(0.5, 0.5, "no bars", transform=ax.transAxes, ha="center", va="center", color=GREY)
        return
    count = counts.most_common(1)[0][0]  # a rank means the same among as many bars only
    shown = [entry for entry in history if len(entry["bars"]) == count]
    ranks = sorted({round(at * (count - 1) / (min(count, SHOWN) - 1 or 1)) for at in range(min(count, SHOWN))})
    lines = [[entry["bars"][rank] for rank in ranks] for entry in shown]
    ax.plot(
        [entry["step"] for entry in shown],
        lines,
        color=LOOKS[0].colour,
        linewidth=0.7,
        alpha=0.45,
        marker="_" if len(shown) == 1 else "",
    )
    ax.set_ylim(bottom=0)
    metric = history[-1]["metric"]
    ax.set_ylabel(f"length ({UNITS.get(metric, metric)})")
    what = f"{count} bar{'' if count == 1 else 's'}"
    ax.set_title(f"H0: {what}" + (f", {len(ranks)} of them shown" if len(ranks) < count else ""), fontsize="small")
