"""What a diagnosis is made of: its figures by layer and by head, their definitions, and strict JSON out and in.

All numbers are plain Python floats and ints. JSON has neither NaN nor infinity: both are written as null, and null is read as
NaN. Everything else that is written comes back equal.

>>> layer = Layer(
...     "block 1", 1.0, width=384, points=2048, sequences=64, sampled=1024, measures={"drift_ratio": Estimate(0.5)}
... )
>>> diagnosis = Diagnosis("a model", "a text", "text", "tokens", seed=0, layers=[layer])
>>> Diagnosis.parse(diagnosis.to_json()).layers[0].measures["drift_ratio"]
Estimate(value=0.5, low=nan, high=nan)
>>> print(DEFINITIONS["drift_ratio"].label, "-", DEFINITIONS["drift_ratio"].text)
drift ratio - How far the mean is from the origin, in mean lengths of points: |mean x| / mean |x|.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

__all__ = [
    "DEFINITIONS",
    "HEAD_DEFINITIONS",
    "Definition",
    "Diagnosis",
    "Estimate",
    "Head",
    "Layer",
    "read_diagnosis",
]

VERSION = 1  # of the JSON
NAN = math.nan


class Definition(NamedTuple):
    """What a figure is."""

    label: str  # a few words, for a column or an axis
    text: str  # one sentence with the formula
    low: float  # the least value there is
    high: float  # the largest; infinite where it grows with n, d or the unit
    isotropic: Literal["low", "high"] | None  # the end at which isotropic clouds are; None where neither is
    needs: Literal["moments", "directions", "distances", "scores"]  # what it is made of


DEFINITIONS: dict[str, Definition] = {
    "mean_cosine": Definition(
        "mean cosine",
        "Mean cosine of all pairs of different points, exactly: (|sum u|² - sum |u|²) / (n (n - 1)) with u = x / |x|.",
        -1, 1, "low", "directions",
    ),
    "mean_cosine_sampled": Definition(
        "mean cosine, sampled",
        "Mean cosine of 1,000 random pairs of different points of a sample, as it is often estimated; for comparison.",
        -1, 1, "low", "directions",
    ),
    "mean_cosine_centred": Definition(
        "mean cosine, centred",
        "Mean cosine of all pairs of different points of a sample after their mean has been taken away; if they are then "
        "equally long, it is -1 / (n - 1), the least there is.",
        -1, 1, "low", "directions",
    ),
    "drift_ratio": Definition(
        "drift ratio",
        "How far the mean is from the origin, in mean lengths of points: |mean x| / mean |x|.",
        0, 1, "low", "moments",
    ),
    "participation_ratio": Definition(
        "participation ratio",
        "Number of directions the variance is spread over: (tr S)² / ||S||² for the covariance S.",
        1, math.inf, "high", "moments",
    ),
    "participation_ratio_over_null": Definition(
        "PR / null",
        "Participation ratio over that of an isotropic Gaussian cloud of as many points and dimensions.",
        0, math.inf, "high", "moments",
    ),
    "isoscore_star": Definition(
        "IsoScore*",
        "IsoScore of the covariance of all points, which is IsoScore* without shrinkage: (PR - 1) / (d - 1).",
        0, 1, "high", "moments",
    ),
    "top_1_variance_share": Definition(
        "top-1 share",
        "Share of the variance along the first principal direction: l_1 / sum l, l the eigenvalues of the covariance.",
        0, 1, "low", "moments",
    ),
    "top_3_variance_share": Definition(
        "top-3 share",
        "Share of the variance along the first 3 principal directions: (l_1 + l_2 + l_3) / sum l.",
        0, 1, "low", "moments",
    ),
    "top_10_variance_share": Definition(
        "top-10 share",
        "Share of the variance along the first 10 principal directions: (l_1 + ... + l_10) / sum l.",
        0, 1, "low", "moments",
    ),
    "outlier_share": Definition(
        "outlier share",
        "Share of the variance in outlier dimensions: coordinates with five times the mean variance of all or more.",
        0, 1, "low", "moments",
    ),
    "partition_ratio": Definition(
        "partition ratio",
        "I(W) = min Z(c) / max Z(c), Z(c) = sum exp(c . x), over unit eigenvectors c of X'X with both signs, of the "
        "sampled points; it depends on the unit.",
        0, 1, "high", "directions",
    ),
    "persistent_entropy": Definition(
        "persistent entropy",
        "How even the bars of H0 are: -sum p log p / log(n - 1), p = length / sum of lengths; 1 if all are equal.",
        0, 1, "high", "distances",
    ),
    "entropy_deficit": Definition(
        "entropy deficit",
        "What the persistent entropy of H0 lacks to its largest value: log(n - 1) + sum p log p, in nats.",
        0, math.inf, "low", "distances",
    ),
    "prominent_bars": Definition(
        "prominent bars",
        "Number of bars of H0 that are features and not noise by the rule of Atienza et al. 2016.",
        0, math.inf, None, "distances",
    ),
    "twonn_dimension": Definition(
        "TwoNN dimension",
        "Intrinsic dimension at the smallest scale: slope through the origin of -log(1 - F) against log(r_2 / r_1), "
        "without the largest tenth.",
        0, math.inf, "high", "distances",
    ),
    "mle_dimension": Definition(
        "MLE dimension",
        "Intrinsic dimension at the scale of 20 neighbours, by maximum likelihood: 1 / mean of log(r_20 / r_j).",
        0, math.inf, "high", "distances",
    ),
    "ph_dimension": Definition(
        "PH dimension",
        "Intrinsic dimension at the scale of the cloud: 1 / (1 - m), m the slope of log(sum of H0 bars) against log n.",
        0, math.inf, "high", "distances",
    ),
    "norm_mean": Definition(
        "mean norm",
        "Mean length of the points, in the model's unit.",
        0, math.inf, None, "moments",
    ),
    "norm_std": Definition(
        "std of norms",
        "Standard deviation of the lengths of the points (over n - 1), in the model's unit.",
        0, math.inf, None, "moments",
    ),
}  # fmt: skip
"""Every figure of a layer, in the order in which it is shown."""

HEAD_DEFINITIONS: dict[str, Definition] = {
    "query_norm": Definition(
        "query drift",
        "Length of the mean query vector over the mean length of the queries: |mean q| / mean |q|.",
        0, 1, "low", "moments",
    ),
    "key_norm": Definition(
        "key drift",
        "Length of the mean key vector over the mean length of the keys: |mean k| / mean |k|.",
        0, 1, "low", "moments",
    ),
    "alignment": Definition(
        "query/key alignment",
        "Cosine between the mean query and the mean key vector.",
        -1, 1, None, "moments",
    ),
    "score_mean": Definition(
        "mean score",
        "Mean of the scores before the softmax, over pairs of a query and a key that it may attend to.",
        -math.inf, math.inf, None, "scores",
    ),
    "score_std": Definition(
        "spread of scores",
        "Standard deviation of the same scores.",
        0, math.inf, None, "scores",
    ),
    "entropy": Definition(
        "softmax entropy",
        "Mean entropy of the softmax over the keys, over the logarithm of their number: 1 if attention is uniform.",
        0, 1, "high", "scores",
    ),
    "mean_share": Definition(
        "share of the means",
        "Part of the scores that the mean vectors alone make: (c mean q . mean k)² / mean z², z the scaled products.",
        0, math.inf, "low", "scores",
    ),
    "mean_query_share": Definition(
        "share of the mean query",
        "Part of what the softmax sees that is the same for all queries: sum (c mean q . (k_j - mean k))² / sum (z_ij - mean z_i)².",
        0,
        math.inf,
        "low",
        "scores",
    ),
}  # fmt: skip
"""Every figure of a head of attention."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; low and high are NaN where there is none."""

    value: float
    low: float = NAN
    high: float = NAN


@dataclass
class Layer:
    """What was found in one layer.

    Attributes:
        name: ``"embeddings"``, ``"block 1"``, ...; a module's, a file's or a column's name.
        depth: relative depth: 0 for the embeddings, 1 for the last state.
        width: number of coordinates d.
        points: how many points (tokens) were seen.
        sequences: in how many sequences.
        sampled: how many points the figures that are made of distances saw.
        measures: a figure for each name in ``DEFINITIONS``; empty if there is an error.
        outliers: dimensions of at least five times the mean variance: ``{"dimension", "share", "variance_ratio", "mean"}``, the
            largest first, at most 8. share is that of all variance, variance_ratio that over the mean variance.
        spectrum: shares of variance along the principal directions, descending, at most 512.
        bars: lengths of the H0 bars of a sample, ascending.
        norms: mean, std, min, q05, median, q95, max of the points' lengths; the quantiles are those of the sample.
        error: why there are no figures; None if there are.
        notes: what has to be known to read the figures.
    """

    name: str
    depth: float
    width: int = 0
    points: int = 0
    sequences: int = 0
    sampled: int = 0
    measures: dict[str, Estimate] = field(default_factory=dict)
    outliers: list[dict[str, float]] = field(default_factory=list)
    spectrum: list[float] = field(default_factory=list)
    bars: list[float] = field(default_factory=list)
    norms: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class Head:
    """What was found in one head of attention.

    Attributes:
        layer: number of the block, from 1.
        head: number of the head in it, from 1.
        measures: a figure for each name in ``HEAD_DEFINITIONS``.
    """

    layer: int
    head: int
    measures: dict[str, float] = field(default_factory=dict)


@dataclass
class Diagnosis:
    """What was found in a model.

    Attributes:
        model: what the model is.
        data: what it was given.
        modality: ``"text"``, ``"vision"``, ``"speech"`` or empty.
        points: what a point is: ``"tokens"``, ``"cls"``, ``"mean"``, or ``"rows"`` of arrays.
        seed: of samples and intervals.
        layers: the first state first.
        heads: by layer and head; empty where attention was not or could not be read.
        notes: what concerns the model as a whole.
        environment: versions and what else the figures may depend on.
        label: what it is called beside others in a figure; empty: `model`.
    """

    model: str
    data: str
    modality: str
    points: str
    seed: int
    layers: list[Layer] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    def content(self) -> dict[str, Any]:
        """Everything as dicts and lists that JSON can hold; NaN and infinity are None."""
        content: dict[str, Any] = plain({"diagnosis": VERSION, **asdict(self)})
        return content

    def to_json(self) -> str:
        """One line of strict JSON."""
        return json.dumps(self.content(), separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    @staticmethod
    def parse(text: str | bytes) -> Diagnosis:
        """The diagnosis of a text that `to_json` made.

        Raises:
            ValueError: if it is not one.
        """
        try:
            content = json.loads(text)
        except ValueError as error:
            raise ValueError(f"not a diagnosis: not JSON ({error})") from error
        if not isinstance(content, dict) or "diagnosis" not in content:
            raise ValueError(
                "not a diagnosis: a JSON object with the key 'diagnosis' is wanted, as Diagnosis.to_json writes"
            )
        version = content.pop("diagnosis")
        if version != VERSION:
            raise ValueError(
                f"not a diagnosis of this version of simplicial_reg: it has format {version!r}, not {VERSION}"
            )
        try:
            layers = [_layer(entry) for entry in content.pop("layers")]
            heads = [Head(**{**entry, "measures": _numbers(entry["measures"])}) for entry in content.pop("heads")]
            return Diagnosis(layers=layers, heads=heads, **content)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a diagnosis of this version of simplicial_reg: {error}") from error


def read_diagnosis(path: str | Path) -> Diagnosis:
    """The diagnosis in a file of what `Diagnosis.to_json` wrote.

    Args:
        path: of the file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not one.
    """
    try:
        return Diagnosis.parse(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _layer(entry: dict[str, Any]) -> Layer:
    measures = {name: Estimate(**_numbers(estimate)) for name, estimate in entry["measures"].items()}
    outliers = [_numbers(outlier) for outlier in entry["outliers"]]
    spectrum, bars = (with_nan(entry[name]) for name in ("spectrum", "bars"))
    norms = _numbers(entry["norms"])
    return Layer(
        **{**entry, "measures": measures, "outliers": outliers, "spectrum": spectrum, "bars": bars, "norms": norms}
    )


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    return {name: NAN if value is None else value for name, value in values.items()}


def with_nan(values: list[float | None]) -> list[float]:
    """Numbers of JSON, where NaN is None."""
    return [NAN if value is None else value for value in values]


def plain(value: Any) -> Any:
    """What strict JSON can hold: lists for tuples, None for NaN and infinity."""
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
