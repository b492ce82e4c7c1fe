"""The report of a diagnosis: one HTML file, Markdown with figures beside it, CSV and JSON, and a table for the terminal.

Written into a folder are

    report.html       all of it in one file: no script, nothing fetched from anywhere
    report.md         the same for a repository, with the figures in ``figures/``
    layers.csv        one row for each model and layer, with every figure and its interval
    heads.csv         one row for each model and head of attention
    definitions.csv   what each figure is
    diagnosis.json    everything, as `simplicial_reg.diagnose.read_diagnosis` reads it; of several models ``diagnosis-NAME.json`` each
    drift.json        the drift experiment, if there was one, and its numbers in ``drift.csv``

each file whole or not at all, and byte for byte the same for the same diagnoses. Everything that comes from a diagnosis is text: it is
escaped, and never markup, link or formula.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simplicial_reg._page import (
    TERMINAL,
    Block,
    Bullets,
    Heading,
    Names,
    Picture,
    Pictures,
    Table,
    Text,
    check_matplotlib,
    csv_text,
    markdown,
    page,
    terminal_table,
    write,
)
from simplicial_reg.diagnose import figures
from simplicial_reg.diagnose.record import DEFINITIONS, HEAD_DEFINITIONS, Definition, Diagnosis, Estimate, Head, Layer

if TYPE_CHECKING:
    from simplicial_reg.diagnose.drift import Drift

__all__ = ["notes_of", "summary", "terminal", "write_report"]

# The rules of `summary`.
HIGH = 0.2  # mean cosine that calls for an explanation
CENTRED = 0.05  # mean cosine without the mean vector that is none; it is negative if there are few points
SPREAD, FEW = 0.5, 0.1  # participation ratio over that of an isotropic cloud: many directions, few directions
ALIGNED = 0.5  # cosine of mean query and mean key that is a common direction
LISTED = 8  # outlier dimensions that a diagnosis holds of a layer, however many there are
NAMED = 3  # outlier dimensions that are named

# Columns of the first table.
MAIN = (
    "mean_cosine", "mean_cosine_centred", "drift_ratio", "isoscore_star", "participation_ratio_over_null",
    "top_1_variance_share", "persistent_entropy", "twonn_dimension",
)  # fmt: skip
MANY = 3  # models, of which all that stands out is said; of more only the first two sentences: of cosine and spread

STYLE = """\
.figures { grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
figure { max-width: 34rem; }
ul { max-width: 46rem; padding-left: 1.2rem; }
li { margin: .3rem 0; }
"""

READING = (
    "A mean cosine sees the mean direction and nothing else: a cloud that is isotropic about a point far from the origin has a mean cosine "
    "near 1, and one that has collapsed to three directions about the origin has one near 0. Read it together with the centred cosine, "
    "which is what is left without the mean vector, with the drift ratio, which is how far the mean is from the origin, and with the "
    "participation ratio and the shares of variance, which the mean has no part in. A centred cosine near 0 is no sign of isotropy: "
    "centred points sum to zero, and if they are equally long, it is 0 up to 1 / (n - 1).",
    "Bands and brackets are 95 % intervals over sequences: what would vary if other sequences of the same kind were taken. They say "
    "nothing about other data, nor about other trainings of the model.",
)

INSIDE = (
    "Spectra: the share of variance along each principal direction; the flatter, the more isotropic. Barcodes: the bars of H0 of a "
    "sample, which are the edges of its minimum spanning tree, sorted, over their mean length (white line). Equal bars have the greatest "
    "entropy; a few long ones are points or clusters far from the rest, very short ones near duplicates. Outlier dimensions: coordinates "
    "with five times the mean variance or more, counted from 0."
)
ATTENTION = (
    "For each block and head: the cosine between the mean query and the mean key, the entropy of the softmax (1 where attention is "
    "uniform), the part of the scores that the mean vectors alone make, and the part that the mean query alone makes of what the softmax "
    "sees, which is how scores differ between the keys of a query."
)
MAPS = ("alignment", "entropy", "mean_share", "mean_query_share")
DRIFTS = ("mean_cosine", "isoscore_star", "entropy", "score_std")


def write_report(diagnoses: Sequence[Diagnosis], folder: str | Path, *, drift: Drift | None = None) -> Path:
    """Write the report of one or several models into a folder, which is made if it is not there.

    Args:
        diagnoses: of the models, in the order in which they are shown. Those whose labels differ by the number at their end only are
            taken for checkpoints of one run.
        folder: where the files are written.
        drift: the drift experiment.

    Returns:
        The path of ``report.html``.

    Raises:
        ValueError: if there is no diagnosis.
        OSError: if a file cannot be written.
        ImportError: if Matplotlib is missing (extra "study").
    """
    if not diagnoses:
        raise ValueError("diagnoses must hold at least one; got none")
    check_matplotlib()
    folder = Path(folder)
    diagnoses = _labelled(diagnoses)
    blocks = _blocks(diagnoses, drift)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for block in blocks:
        for picture in block.pictures if isinstance(block, Pictures) else ():
            write(folder / "figures" / f"{picture.name}.svg", picture.svg)
    name = Names()
    for diagnosis in diagnoses:
        file = "diagnosis.json" if len(diagnoses) == 1 else f"{name('diagnosis', diagnosis.label)}.json"
        write(folder / file, diagnosis.to_json() + "\n")
    write(folder / "layers.csv", _layers_csv(diagnoses))
    write(folder / "heads.csv", _heads_csv(diagnoses))
    write(folder / "definitions.csv", _definitions_csv())
    if drift is not None:
        write(folder / "drift.json", drift.to_json() + "\n")
        write(folder / "drift.csv", _drift_csv(drift))
    write(folder / "report.md", markdown(blocks))
    write(folder / "report.html", page(blocks, style=STYLE))
    return folder / "report.html"


def summary(diagnosis: Diagnosis) -> list[str]:
    """What stands out in a diagnosis, in sentences that follow from its numbers by these rules.

    1. Layers without figures are named, with the reason.
    2. The layer of the highest mean cosine is named. If that is 0.2 or more, it is explained by the mean vector or not: by the mean, if
       the centred cosine of the layer is at most 0.05. Then the participation ratio, over that of an isotropic cloud as large,
       decides: 0.5 or more is "a common mean, not a collapse"; below 0.1 the layer has a common mean and few directions.
    3. The layer of the least participation ratio over that of an isotropic cloud is named, with the share of its first direction.
    4. Outlier dimensions (five times the mean variance or more) are named, at most three: those of the largest share first.
    5. The range of the intrinsic dimension by TwoNN is given, beside the width.
    6. Heads are counted whose mean query and mean key have a cosine of 0.5 or more in absolute value, and the head of the least
       entropy of the softmax is named.
    7. Layers are counted that have no more points than dimensions: there the covariance has not its full rank whatever the model does.

    Args:
        diagnosis: of one model.

    Returns:
        Sentences without markup, the most important first.
    """
    layers = [layer for layer in diagnosis.layers if layer.error is None and layer.measures]
    found = [
        f"There are no figures of {layer.name}: {layer.error}." for layer in diagnosis.layers if layer.error is not None
    ]
    for rule in (_said_of_cosine, _said_of_spread, _said_of_outliers, _said_of_dimension):
        found += rule(layers)
    return [*found, *_said_of_heads(diagnosis.heads), *_said_of_points(layers)]


def terminal(diagnosis: Diagnosis, *, rich: bool | None = None) -> str:
    """The table of a diagnosis for a terminal, at most 100 columns wide, one row for each layer.

    Args:
        diagnosis: of one model.
        rich: whether rich draws it; if it is installed, where this is None.

    Returns:
        Lines of text without colours.
    """
    columns = (
        "layer",
        "cosine [95 %]",
        "centred",
        "drift",
        "IsoScore*",
        "PR/null",
        "top-1",
        "entropy",
        "TwoNN",
        "outliers",
    )
    rows, errors = [], []
    for layer in diagnosis.layers:
        if layer.error is not None:
            errors.append(f"{layer.name}: {layer.error}")
        cells = (
            _interval(_of(layer, "mean_cosine"), 2),
            _fixed(layer, "mean_cosine_centred", 2),
            _fixed(layer, "drift_ratio", 2),
            _fixed(layer, "isoscore_star", 3),
            _fixed(layer, "participation_ratio_over_null", 2),
            _fixed(layer, "top_1_variance_share", 2),
            _fixed(layer, "persistent_entropy", 3),
            _fixed(layer, "twonn_dimension", 1),
            _count_of_outliers(layer),
        )
        rows.append((layer.name, *cells))
    title = f"{_last(diagnosis.label or diagnosis.model)}: {_seen(diagnosis)}"
    title = title if len(title) <= TERMINAL else title[: TERMINAL - 1] + "…"
    return terminal_table(title, columns, rows, rich=rich) + "".join(f"{error}\n" for error in errors)


def _count_of_outliers(layer: Layer) -> str:
    if not layer.measures:
        return ""
    return f"{len(layer.outliers)}{'+' if len(layer.outliers) == LISTED else ''}"


# What stands out


def _said_of_cosine(layers: Sequence[Layer]) -> list[str]:
    known = [layer for layer in layers if math.isfinite(_value(layer, "mean_cosine"))]
    if not known:
        return []
    top = max(known, key=lambda layer: _value(layer, "mean_cosine"))
    least = min(known, key=lambda layer: _value(layer, "mean_cosine"))
    said = f"The mean cosine is highest in {top.name}: {_interval(_of(top, 'mean_cosine'), 2)}"
    if least is not top:
        said += f", and lowest in {least.name}: {_interval(_of(least, 'mean_cosine'), 2)}"
    if _value(top, "mean_cosine") < HIGH:
        return [f"{said}. No layer has one of {HIGH:g} or more."]
    centred, ratio = _value(top, "mean_cosine_centred"), _value(top, "participation_ratio_over_null")
    if math.isnan(centred):
        return [f"{said}."]
    if centred > CENTRED:
        return [f"{said}. In {top.name} it is still {_number(centred, 2)} after the mean vector has been taken away."]
    said += f". In {top.name} it is {_number(centred, 2)} after the mean vector has been taken away"
    if ratio >= SPREAD:
        return [f"{said}, and the variance is spread (PR/null {ratio:.2f}): a common mean, not a collapse."]
    if ratio < FEW:
        return [f"{said}: a common mean. Around it the points lie in few directions (PR/null {ratio:.2f})."]
    return [
        f"{said}: a common mean explains it. The variance around it is neither spread nor collapsed (PR/null {ratio:.2f})."
    ]


def _said_of_spread(layers: Sequence[Layer]) -> list[str]:
    known = [layer for layer in layers if math.isfinite(_value(layer, "participation_ratio_over_null"))]
    if not known:
        return []
    layer = min(known, key=lambda layer: _value(layer, "participation_ratio_over_null"))
    return [
        f"The variance is least spread in {layer.name}: its participation ratio, {_value(layer, 'participation_ratio'):.1f} of "
        f"{layer.width}, is {_value(layer, 'participation_ratio_over_null'):.2f} of that of an isotropic cloud as large, and "
        f"its first direction holds {_percent(_value(layer, 'top_1_variance_share'))} of the variance."
    ]


def _said_of_outliers(layers: Sequence[Layer]) -> list[str]:
    if not layers:
        return []
    shares: dict[int, list[tuple[float, str]]] = {}
    for layer in layers:
        for outlier in layer.outliers:
            shares.setdefault(int(outlier["dimension"]), []).append((outlier["share"], layer.name))
    if not shares:
        return ["No dimension of any layer has five times the mean variance: there are no outlier dimensions."]
    named = sorted(shares, key=lambda dimension: (-max(shares[dimension])[0], dimension))[:NAMED]
    said = []
    for dimension in named:
        share, where = max(shares[dimension], key=lambda entry: entry[0])
        said.append(
            f"{dimension} (in {_counted(len(shares[dimension]), 'layer')}, up to {_percent(share)} of the variance in {where})"
        )
    full = any(len(layer.outliers) == LISTED for layer in layers)
    more = f", and {'at least ' if full else ''}{len(shares) - len(named)} more" if len(shares) > len(named) else ""
    return [f"Outlier dimensions, counted from 0: {', '.join(said)}{more}."]


def _said_of_dimension(layers: Sequence[Layer]) -> list[str]:
    known = [layer for layer in layers if math.isfinite(_value(layer, "twonn_dimension"))]
    if not known:
        return []
    low, high = (pick(known, key=lambda layer: _value(layer, "twonn_dimension")) for pick in (min, max))
    width = f"{low.width}" if len({layer.width for layer in known}) == 1 else "their widths"
    if len(known) == 1:
        return [f"The intrinsic dimension (TwoNN) is {_value(low, 'twonn_dimension'):.1f} in {low.name}, of {width}."]
    return [
        f"The intrinsic dimension (TwoNN) is from {_value(low, 'twonn_dimension'):.1f} in {low.name} to "
        f"{_value(high, 'twonn_dimension'):.1f} in {high.name}, of {width}."
    ]


def _said_of_heads(heads: Sequence[Head]) -> list[str]:
    aligned = [head.measures["alignment"] for head in heads if math.isfinite(head.measures.get("alignment", math.nan))]
    found = []
    if aligned:
        same, opposed = sum(value >= ALIGNED for value in aligned), sum(value <= -ALIGNED for value in aligned)
        found.append(
            f"Mean query and mean key point the same way (cosine at least {ALIGNED:g}) in {same} of {_counted(len(aligned), 'head')}, and "
            f"opposite ways (at most -{ALIGNED:g}) in {opposed}."
        )
    known = [head for head in heads if math.isfinite(head.measures.get("entropy", math.nan))]
    if known:
        sharp = min(known, key=lambda head: head.measures["entropy"])
        mean = sum(head.measures["entropy"] for head in known) / len(known)
        found.append(
            f"The softmax entropy of attention, 1 where it is uniform, is {mean:.2f} in the mean over heads, and least in block "
            f"{sharp.layer}, head {sharp.head}: {sharp.measures['entropy']:.2f}."
        )
    return found


def _said_of_points(layers: Sequence[Layer]) -> list[str]:
    short = [layer for layer in layers if 0 < layer.points <= layer.width]
    if not short:
        return []
    where = (
        "All layers"
        if len(short) == len(layers)
        else f"{_counted(len(short), 'layer')} ({', '.join(layer.name for layer in short)})"
    )
    verb = "have" if len(short) == len(layers) or len(short) > 1 else "has"
    return [
        f"{where} {verb} no more points than dimensions: no covariance of so few points is isotropic, whatever the model does. PR/null, "
        "which compares with as many isotropic points, allows for that; IsoScore* and the shares of variance do not."
    ]


# What the report says


def _labelled(diagnoses: Sequence[Diagnosis]) -> list[Diagnosis]:
    """Copies with labels that tell them apart; a single one keeps its own, which may be empty."""
    if len(diagnoses) == 1:
        return list(diagnoses)
    return [
        replace(diagnosis, label=label)
        for diagnosis, label in zip(diagnoses, figures.labels_of(diagnoses), strict=True)
    ]


def _blocks(diagnoses: Sequence[Diagnosis], drift: Drift | None) -> list[Block]:
    labels = figures.labels_of(diagnoses)
    several = len(diagnoses) > 1
    blocks: list[Block] = [
        Heading(1, f"Anisotropy of {_listed([_last(label) for label in labels])}"),
        Heading(2, "What stands out"),
    ]
    blocks += _standing_out(diagnoses, labels)
    blocks += _profiles(diagnoses)
    blocks.append(Heading(2, "Layers"))
    for diagnosis, label in zip(diagnoses, labels, strict=True):
        blocks += [*([Heading(3, label)] if several else []), *_layer_table(diagnosis)]
    blocks += _drawn(diagnoses)
    if drift is not None:
        blocks += _drift_blocks(drift)
    blocks += [Heading(2, "How to read this"), *map(Text, READING)]
    blocks += [Heading(2, "Definitions"), _definitions("Of a layer", DEFINITIONS)]
    if any(diagnosis.heads for diagnosis in diagnoses) or drift is not None:
        blocks.append(_definitions("Of a head of attention", HEAD_DEFINITIONS))
    blocks.append(Heading(2, "What was run"))
    for diagnosis, label in zip(diagnoses, labels, strict=True):
        blocks += [Heading(3, label)] if several else []
        blocks.append(Table(f"What was run: {label}", ("", ""), tuple(_facts(diagnosis).items())))
        notes = notes_of(diagnosis)
        blocks += [Bullets(tuple(notes))] if notes else []
    return blocks


def _standing_out(diagnoses: Sequence[Diagnosis], labels: Sequence[str]) -> list[Block]:
    said = [summary(diagnosis) or ["There are no figures."] for diagnosis in diagnoses]
    if len(said) == 1:
        return [Bullets(tuple(said[0]))]
    if len(said) > MANY:
        return [Bullets(tuple(f"{label}: {' '.join(few[:2])}" for label, few in zip(labels, said, strict=True)))]
    return [
        block
        for label, sentences in zip(labels, said, strict=True)
        for block in (Heading(3, label), Bullets(tuple(sentences)))
    ]


def _profiles(diagnoses: Sequence[Diagnosis]) -> list[Block]:
    name = Names()
    pictures: list[Picture | None] = []
    panels = figures.panels_of(diagnoses)
    for profile in figures.PROFILES:
        pictures += [figures.draw_profile(panel, profile, name("layers", profile.key)) for panel in panels]
    pictures += [figures.draw_norms(panel, name("layers", "norms")) for panel in panels]
    about = (
        "Bands are 95 % intervals over sequences, those of the lengths the middle 90 % of the points. An arrow says at which end "
        "isotropic clouds are."
    )
    return _shown("By layer", about, pictures)


def _drawn(diagnoses: Sequence[Diagnosis]) -> list[Block]:
    """Figures that are of one model each; of checkpoints of one run those of the first and the last."""
    name = Names()
    chosen = [diagnoses[0], diagnoses[-1]] if figures.steps_of(diagnoses) else list(diagnoses)
    labels = [diagnosis.label or "all" for diagnosis in chosen]
    one_each = (
        ("spectra", figures.draw_spectra),
        ("barcodes", figures.draw_barcodes),
        ("outliers", figures.draw_outliers),
    )
    inside = [
        draw(diagnosis, name(kind, label))
        for kind, draw in one_each
        for diagnosis, label in zip(chosen, labels, strict=True)
    ]
    maps = [
        figures.draw_heads(diagnosis, measure, name("heads", measure, label))
        for measure in MAPS
        for diagnosis, label in zip(chosen, labels, strict=True)
    ]
    return [*_shown("Spectra, barcodes, outlier dimensions", INSIDE, inside), *_shown("Attention", ATTENTION, maps)]


def _drift_blocks(drift: Drift) -> list[Block]:
    name = Names()
    about = (
        f"{drift.block}, drawn {_counted(drift.repeats, 'time')} anew: {_counted(drift.sequences, 'sequence')} of {drift.length} random "
        "embeddings, to all of which one vector is added. Bands are one standard deviation. Where the points that leave the block "
        "have a higher cosine than those that enter it, the block adds to a common mean, untrained as it is."
    )
    pictures = [figures.draw_drift(drift, measure, name("drift", measure)) for measure in DRIFTS]
    return [*_shown("Drift experiment", about, pictures), *([Bullets(tuple(drift.notes))] if drift.notes else [])]


def _shown(title: str, about: str, pictures: Iterable[Picture | None]) -> list[Block]:
    drawn = tuple(picture for picture in pictures if picture is not None)
    return [Heading(2, title), Text(about), Pictures(drawn)] if drawn else []


def _layer_table(diagnosis: Diagnosis) -> list[Block]:
    """Two tables: the figures that one looks at first, and the others."""
    present = [name for name in DEFINITIONS if any(name in layer.measures for layer in diagnosis.layers)]
    if not present:
        return [Text("No layer has figures.")]
    title = f"Layers of {diagnosis.label or diagnosis.model}"
    first = [name for name in MAIN if name in present]
    rest = [name for name in present if name not in first]
    tables = [_of_layers(title, diagnosis, first, outliers=True)]
    return [*tables, _of_layers(f"{title}, other figures", diagnosis, rest)] if rest else list(tables)


def _of_layers(title: str, diagnosis: Diagnosis, names: Sequence[str], *, outliers: bool = False) -> Table:
    columns = ("layer", *(DEFINITIONS[name].label for name in names), *(["outlier dimensions"] if outliers else []))
    rows = []
    for layer in diagnosis.layers:
        cells = [_interval(_of(layer, name), _decimals(_value(layer, name))) for name in names]
        if layer.error is not None:
            cells = [layer.error, *[""] * (len(names) - 1)]
        if outliers:
            cells.append(
                ", ".join(f"{int(entry['dimension'])} ({_percent(entry['share'])})" for entry in layer.outliers)
            )
        rows.append((layer.name, *cells))
    return Table(title, columns, tuple(rows))


def _definitions(kind: str, definitions: dict[str, Definition]) -> Table:
    columns = (kind, "what it is", "range", "isotropic")
    return Table(kind, columns, tuple(_definition(definition) for definition in definitions.values()))


def _definition(definition: Definition) -> tuple[str, str, str, str]:
    ends = (f"{end:g}".replace("inf", "∞") for end in (definition.low, definition.high))
    return definition.label, definition.text, " to ".join(ends), definition.isotropic or ""


def _facts(diagnosis: Diagnosis) -> dict[str, str]:
    facts = {
        "model": diagnosis.model,
        "data": diagnosis.data,
        "modality": diagnosis.modality,
        "points": _seen(diagnosis),
        "sampled for what needs them": f"{max((layer.sampled for layer in diagnosis.layers), default=0):,}",
        "seed": str(diagnosis.seed),
    }
    for name, value in diagnosis.environment.items():
        facts[name] = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return {name: value for name, value in facts.items() if value}


def notes_of(diagnosis: Diagnosis) -> list[str]:
    """Notes of the model, then those of layers, each once with the layers that have it."""
    said: dict[str, list[str]] = {}
    for layer in diagnosis.layers:
        for note in layer.notes:
            said.setdefault(note, []).append(layer.name)
    layers = [
        f"{'All layers' if len(names) == len(diagnosis.layers) else ', '.join(names)}: {note}"
        for note, names in said.items()
    ]
    return [*diagnosis.notes, *layers]


# Words and numbers


def _seen(diagnosis: Diagnosis) -> str:
    points = max((layer.points for layer in diagnosis.layers), default=0)
    sequences = max((layer.sequences for layer in diagnosis.layers), default=0)
    kind = {"tokens": "tokens", "cls": "first tokens", "mean": "means of sequences", "rows": "rows"}
    said = f"{points:,} {kind.get(diagnosis.points, diagnosis.points)}"
    return said if points == sequences else f"{said} of {sequences:,} sequence{'' if sequences == 1 else 's'}"


def _of(layer: Layer, name: str) -> Estimate:
    return layer.measures.get(name, Estimate(math.nan))


def _value(layer: Layer, name: str) -> float:
    return _of(layer, name).value


def _number(value: float, decimals: int) -> str:
    """Nothing for NaN, and no minus zero."""
    if not math.isfinite(value):
        return ""
    said = f"{value:.{decimals}f}"
    return said.removeprefix("-") if float(said) == 0 else said


def _fixed(layer: Layer, name: str, decimals: int) -> str:
    return _number(_value(layer, name), decimals)


def _interval(estimate: Estimate, decimals: int) -> str:
    said = _number(estimate.value, decimals)
    if not said or not math.isfinite(estimate.low + estimate.high):
        return said
    return f"{said} [{_number(estimate.low, decimals)}, {_number(estimate.high, decimals)}]"


def _decimals(value: float) -> int:
    """As many decimals as make two digits or more, up to five."""
    if not math.isfinite(value) or (value == round(value) and abs(value) >= 1):
        return 0
    if 0 < abs(value) < 0.01:
        return min(5, 1 - math.floor(math.log10(abs(value))))
    return 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if math.isfinite(share) else "an unknown part"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _last(name: str) -> str:
    """The last part of a path."""
    return name.rstrip("/").rpartition("/")[2] or name


def _listed(names: Sequence[str]) -> str:
    if len(names) > 4:
        return f"{len(names)} models"
    return " and ".join([*([", ".join(names[:-1])] if len(names) > 1 else []), names[-1]])


# Files

NORMS = ("mean", "std", "min", "q05", "median", "q95", "max")


def _layers_csv(diagnoses: Sequence[Diagnosis]) -> str:
    columns = ["model", "data", "points_are", "seed", "layer", "depth", "width", "points", "sequences", "sampled"]
    columns += [column for name in DEFINITIONS for column in (name, f"{name}_low", f"{name}_high")]
    columns += [*(f"norms_{part}" for part in NORMS), "outliers", "error", "notes"]
    rows = []
    for diagnosis in diagnoses:
        for layer in diagnosis.layers:
            row: list[Any] = [diagnosis.label or diagnosis.model, diagnosis.data, diagnosis.points, diagnosis.seed]
            row += [layer.name, layer.depth, layer.width, layer.points, layer.sequences, layer.sampled]
            for estimate in (_of(layer, name) for name in DEFINITIONS):
                row += [estimate.value, estimate.low, estimate.high]
            row += [layer.norms.get(part) for part in NORMS]
            row += [json.dumps(layer.outliers) if layer.outliers else "", layer.error, "; ".join(layer.notes)]
            rows.append(row)
    return csv_text(columns, rows)


def _heads_csv(diagnoses: Sequence[Diagnosis]) -> str:
    rows = [
        [diagnosis.label or diagnosis.model, head.layer, head.head, *map(head.measures.get, HEAD_DEFINITIONS)]
        for diagnosis in diagnoses
        for head in diagnosis.heads
    ]
    return csv_text(("model", "block", "head", *HEAD_DEFINITIONS), rows)


def _definitions_csv() -> str:
    rows = [
        (of, name, *definition)
        for of, definitions in (("layer", DEFINITIONS), ("head", HEAD_DEFINITIONS))
        for name, definition in definitions.items()
    ]
    return csv_text(("of", "name", *Definition._fields), rows)


def _drift_csv(drift: Drift) -> str:
    rows = [
        (of, name, norm, mean, std)
        for of, curves in (("inputs", drift.inputs), ("outputs", drift.outputs), ("attention", drift.attention))
        for name, curve in curves.items()
        for norm, mean, std in zip(drift.norms, curve.mean, curve.std, strict=True)
    ]
    return csv_text(("of", "name", "norm", "mean", "std"), rows)
