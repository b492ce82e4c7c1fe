"""The report of a study, from its records alone: one HTML file, Markdown with figures beside it, CSV, and a table for the terminal.

In the folder of a study ``records.jsonl`` is the only thing that is read. Written are

    report.html     all of it in one file: no script, nothing fetched from anywhere
    report.md       the same for a repository, with the figures in ``figures/``
    results.csv     one row for each task and variant
    overall.csv     one row for each variant, over all tasks
    cells.csv       one row for each run

each file whole or not at all, and byte for byte the same for the same records in whatever order their runs finished. Everything
that comes from a record is text: it is escaped, and never markup, link or formula.

Scores, differences and intervals are shown in points, 0.01 of the metric; in the CSV files they are in the metric's own unit.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from simplicial_reg._page import (
    TERMINAL,
    Block,
    Heading,
    Look,
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
from simplicial_reg._page import has_rich as _has_rich
from simplicial_reg.study import figures
from simplicial_reg.study._folder import RECORDS, read_records
from simplicial_reg.study.protocol import BASELINE, latest
from simplicial_reg.study.record import Record
from simplicial_reg.study.statistics import (
    ALPHA,
    BETTER,
    NO_EVIDENCE,
    WORSE,
    Comparison,
    Group,
    Row,
    Summary,
    TestChoice,
    group_of,
    interval_of_mean,
    least_seeds,
    paired,
    score,
    summarize,
    unpaired_interval,
)

__all__ = ["compare", "final_table", "write_report"]

COLUMNS = ("difference [95 %]", "p corr.", "verdict")  # of the table for the terminal, after those of the means
POINTS = 100  # a point is 0.01 of a metric
MOST_SEEDS = 1000  # a larger number of seeds needed is only called that


def write_report(folder: str | Path, *, test: TestChoice = "permutation") -> Path:
    """Write the report of a study into its folder.

    Args:
        folder: of the study, where its ``records.jsonl`` is.
        test: the paired test, as in `simplicial_reg.study.statistics.summarize`.

    Returns:
        The path of ``report.html``.

    Raises:
        FileNotFoundError: if there is no ``records.jsonl``.
        ValueError: if it holds no record, or a whole line that is none.
        ImportError: if SciPy or Matplotlib is missing (extra "study").
    """
    folder = Path(folder)
    check_matplotlib()
    records = _read(folder)
    summary = summarize(records, test=test)
    records = _sorted(latest(records))
    blocks = _blocks(summary, records)
    (folder / "figures").mkdir(exist_ok=True)
    for block in blocks:
        for picture in block.pictures if isinstance(block, Pictures) else ():
            write(folder / "figures" / f"{picture.name}.svg", picture.svg)
    write(folder / "results.csv", _results_csv(summary))
    write(folder / "overall.csv", _overall_csv(summary))
    write(folder / "cells.csv", _cells_csv(records))
    write(folder / "report.md", markdown(blocks))
    write(folder / "report.html", _html(blocks))
    return folder / "report.html"


def final_table(records: Iterable[Record], *, test: TestChoice = "permutation") -> str:
    """The result table for a terminal, at most 100 columns wide; drawn by rich where that is installed.

    Args:
        records: of one study.
        test: the paired test.

    Returns:
        Lines of text without colours.

    Raises:
        ImportError: if SciPy is missing (extra "study").
    """
    summary = summarize(records, test=test)
    if not summary.rows:
        return "No final run yet."
    labels = _labels(summary.groups)
    parts = []
    for group in summary.groups:
        rows = [row for row in summary.rows if row.group == group]
        body = [_terminal_row(row.variant, str(len(row.scores)), _mean(row), row.comparison) for row in rows]
        parts.append((f"{labels[group]}: {_metric_of(rows)} in points", ("", "seeds", "mean ± sd", *COLUMNS), body))
    if len(summary.groups) > 1:
        body = [
            _terminal_row(entry.variant, str(entry.comparison.pairs), str(entry.groups), entry.comparison)
            for entry in summary.overall
        ]
        parts.append((f"mean over {len(summary.groups)} tasks, in points", ("", "pairs", "tasks", *COLUMNS), body))
    rich = _has_rich()
    lines = [terminal_table(title, columns, body, left=(0, 5), rich=rich) for title, columns, body in parts if body]
    notes = [*_other_settings(summary, labels), _smallest_p(summary)]
    return "\n".join([*lines, *map(_wrapped, notes)]).rstrip("\n")


def compare(folder_a: str | Path, folder_b: str | Path) -> str:
    """What differs between two studies: their settings, and the score of each variant that both ran on a task.

    A difference is that of the means, B less A. Where at least two seeds are in both runs, it is the paired one over these seeds, with
    the interval of `simplicial_reg.study.statistics.interval_of_mean`; elsewhere the runs are independent samples, with that of
    `simplicial_reg.study.statistics.unpaired_interval`. No test is made: many are looked at, and none was planned.

    Args:
        folder_a: of one study.
        folder_b: of the other.

    Returns:
        Markdown.

    Raises:
        FileNotFoundError: if a folder has no ``records.jsonl``.
        ValueError: if that holds no record, or a whole line that is none.
        ImportError: if SciPy is missing (extra "study").
    """
    sides = [latest(_read(Path(folder))) for folder in (folder_a, folder_b)]
    names = [f"{side}: {Path(folder).resolve().name}" for side, folder in zip("AB", (folder_a, folder_b), strict=True)]
    found = [{(row.group.task, row.group.model, row.variant): row for row in summarize(side).rows} for side in sides]
    settings = [
        {**_facts(side), **{f"settings of {_key(key)}": _settings(row.settings) for key, row in rows.items()}}
        for side, rows in zip(sides, found, strict=True)
    ]
    changed = [
        (name, settings[0].get(name, ""), settings[1].get(name, ""))
        for name in dict.fromkeys([*settings[0], *settings[1]])
        if settings[0].get(name) != settings[1].get(name)
    ]
    both = [key for key in found[0] if key in found[1]]
    blocks: list[Block] = [Heading(1, f"{names[0]} and {names[1]}"), Heading(2, "What differs in what was run")]
    blocks.append(Table("Differences", ("", *names), tuple(changed)) if changed else Text("Nothing."))
    blocks.append(Heading(2, "What differs in the scores"))
    if both:
        rows = tuple(_compared(_key(key), found[0][key], found[1][key]) for key in both)
        blocks.append(Table("Scores", ("", "A, points", "B, points", "B - A [95 % interval]", "seeds"), rows))
    else:
        blocks.append(Text("No variant was run on the same task and model in both."))
    for name, own, other in ((names[0], found[0], found[1]), (names[1], found[1], found[0])):
        only = [_key(key) for key in own if key not in other]
        if only:
            blocks.append(Text(f"Only in {name}: {'; '.join(only)}."))
    return markdown(blocks)


def _compared(name: str, a: Row, b: Row) -> tuple[str, ...]:
    differences = paired(b.scores, a.scores)
    if len(differences) > 1:
        low, high = interval_of_mean(differences)
        difference, seeds = sum(differences) / len(differences), f"{len(differences)} in both, paired"
    else:
        low, high = unpaired_interval(list(b.scores.values()), list(a.scores.values()))
        difference, seeds = b.mean - a.mean, f"{len(a.scores)} and {len(b.scores)}, independent"
    shown = Comparison(len(differences), difference, low, high)
    return name, _mean(a), _mean(b), _difference(shown) or "none", seeds


def _read(folder: Path) -> list[Record]:
    if not (folder / RECORDS).is_file():
        raise FileNotFoundError(f"{folder / RECORDS} does not exist; folder must be one that a study was run in")
    records = read_records(folder)
    if not records:
        raise ValueError(f"{folder / RECORDS} holds no record yet; run the study first")
    return records


# What the report says


def _blocks(summary: Summary, records: list[Record]) -> list[Block]:
    labels = _labels(summary.groups)
    blocks: list[Block] = [Heading(1, "Which regularizer helps?"), Text(_headline(summary, labels))]
    blocks += map(Text, _other_settings(summary, labels))
    blocks += [Heading(2, "Results"), *_results(summary, labels)]
    blocks += _drawn(summary, records, labels)
    blocks += [Heading(2, "Settings chosen"), *_chosen(summary, records, labels)]
    failed = [record for record in records if record.status != "done"]
    blocks.append(Heading(2, "Failed runs"))
    if failed:
        rows = tuple(
            (record.cell.variant, record.cell.task, record.cell.model, record.cell.phase, str(record.cell.seed), record.error or "unknown")
            for record in failed
        )  # fmt: skip
        blocks.append(Table("Failed runs", ("variant", "task", "model", "phase", "seed", "error"), rows))
    else:
        blocks.append(Text("None."))
    blocks += [Heading(2, "What was run"), Table("What was run", ("", ""), tuple(_facts(records).items()))]
    return blocks


def _headline(summary: Summary, labels: dict[Group, str]) -> str:
    if not summary.rows:
        return "No final run yet: what follows is about the tuning only."
    if not summary.comparisons:
        return f'Nothing could be compared: no variant has a seed in common with the baseline "{BASELINE}".'
    found = [
        f"{row.variant} is {row.comparison.verdict} than {BASELINE} on {labels[row.group]} ({_difference(row.comparison)} points)."
        for row in summary.rows
        if row.comparison.verdict in (BETTER, WORSE)
    ]
    if not found:
        found.append(f"On no single task is there evidence that any variant differs from {BASELINE}.")
    elif len(found) < summary.comparisons:
        found.append("For all others there is no evidence of a difference.")
    if len(summary.groups) > 1:
        judged = [
            f"{entry.variant} is {entry.comparison.verdict} than {BASELINE} ({_difference(entry.comparison)} points)"
            for entry in summary.overall
            if entry.comparison.verdict in (BETTER, WORSE)
        ]
        found.append(f"Over all tasks: {'; '.join(judged) or NO_EVIDENCE}.")
    return " ".join(found)


def _other_settings(summary: Summary, labels: dict[Group, str]) -> list[str]:
    """Of each variant with a verdict whether tuning chose for it, of what it shares with the baseline, something else than for that."""
    baselines = {row.group: row.settings for row in summary.rows if row.variant == BASELINE}
    found = []
    for row in summary.rows:
        own = {name: row.settings.get(name) for name in baselines.get(row.group, {})}
        if row.comparison.verdict in (BETTER, WORSE) and own != baselines[row.group]:
            settings = _settings(own), _settings(baselines[row.group])
            found.append(
                f"{row.variant} on {labels[row.group]} ran with {settings[0]}, {BASELINE} with {settings[1]}, as tuning chose: the "
                "difference may be one of these. A study with budget 0 and the same settings for both tells."
            )
    return found


def _facts(records: list[Record]) -> dict[str, str]:
    cells = [record.cell for record in records]
    final = [record for record in records if record.cell.phase == "final"]
    finals = sum(record.status == "done" for record in final)
    seconds = sum(figures.mean_cost([record], "seconds") for record in records if record.costs.get("seconds"))
    facts = {
        "tasks": _listed(cell.task for cell in cells),
        "models": _listed(cell.model for cell in cells),
        "variants": ", ".join(_by_baseline({cell.variant for cell in cells})),
        "seeds of the final runs": ", ".join(map(str, sorted({record.cell.seed for record in final}))) or "none yet",
        "runs": f"{len(records) - len(final)} for tuning, {len(final)} final ({finals} done), "
        f"{sum(record.status != 'done' for record in records)} failed",
        "time of all runs": _duration(seconds) if seconds else "unknown",
    }
    for name in sorted({name for cell in cells for name in cell.budget}):
        facts[f"budget: {name}"] = _listed(_value(cell.budget[name]) for cell in cells if name in cell.budget)
    environments = [_flat(record.environment) for record in records]
    for name in sorted({name for environment in environments for name in environment}):
        values = (environment[name] for environment in environments if environment.get(name) is not None)
        facts[name] = _listed(map(_value, values))
    return facts


def _results(summary: Summary, labels: dict[Group, str]) -> list[Block]:
    if not summary.rows:
        return [Text("None yet.")]
    blocks: list[Block] = []
    columns = ("difference [95 % interval]", "p", "p corrected", "effect d_z", "seeds needed", "verdict")
    for group in summary.groups:
        rows = [row for row in summary.rows if row.group == group]
        blocks.append(Heading(3, f"{labels[group]}: {_metric_of(rows)}"))
        body = tuple((row.variant, str(len(row.scores)), _mean(row), *_compared_cells(row.comparison)) for row in rows)
        blocks.append(Table(labels[group], ("variant", "seeds", "mean ± sd", *columns), body))
        notes = [f"{row.variant}: {row.note}." for row in rows if row.note]
        if notes:
            blocks.append(Text(" ".join(notes)))
    if len(summary.groups) > 1:
        blocks.append(Heading(3, "All tasks"))
        picked = (0, 1, 2, 5)
        overall = tuple(
            (entry.variant, str(entry.groups), str(entry.comparison.pairs), *(_compared_cells(entry.comparison)[at] for at in picked))
            for entry in summary.overall
        )  # fmt: skip
        blocks.append(Table("All tasks", ("variant", "tasks", "pairs", *(columns[at] for at in picked)), overall))
    return [*blocks, Heading(3, "How to read this"), *map(Text, _reading(summary))]


def _reading(summary: Summary) -> list[str]:
    test = {"permutation": "a paired permutation test", "wilcoxon": "Wilcoxon's signed-rank test"}[summary.test]
    found = [
        f"A point is 0.01 of the metric. Mean ± sd is over seeds. A difference is from {BASELINE} on the same seeds; positive is "
        "better. The interval is a bootstrap over seeds; with few seeds it is too short: of five, about 84 % instead of 95 %.",
        f"p is of {test}, two-sided; p corrected is after Holm over all {summary.comparisons} comparisons of a variant on a task. "
        f"A variant is called better or worse only if the corrected p is below {ALPHA}. {_smallest_p(summary)}",
        "The effect is Cohen's d_z, mean over standard deviation of the paired differences. Seeds needed is the number of pairs with "
        "which a paired t-test at 0.05 finds an effect of that size with probability 0.8, without any correction; estimated from few "
        "seeds, it is rough.",
    ]
    if len(summary.groups) > 1:
        found.append(
            "Over all tasks: the mean of the differences on the tasks, in points of each task's own metric, all tasks counting the "
            "same. Its interval resamples tasks, then seeds within them; its p is about these tasks, not tasks in general, and "
            "corrected over the variants."
        )
    return found


def _smallest_p(summary: Summary) -> str:
    if not summary.comparisons:
        return ""
    least, smallest = least_seeds(summary.comparisons), 2 / 2**summary.seeds
    said = f"With {_counted(summary.seeds, 'seed')} no two-sided p can be below 2/2^{summary.seeds} = {smallest:.3g}"
    compared = _counted(summary.comparisons, "comparison")
    if summary.seeds >= least:
        return (
            f"{said}; {compared} {'takes' if summary.comparisons == 1 else 'take'} at least {_counted(least, 'seed')}."
        )
    return (
        f"{said}: on a single task no verdict but “{NO_EVIDENCE}” is possible; {compared} would take at least "
        f"{_counted(least, 'seed')}."
    )


def _drawn(summary: Summary, records: list[Record], labels: dict[Group, str]) -> list[Block]:
    variants = _by_baseline({row.variant for row in summary.rows})
    look = figures.look_of(variants)
    name = Names()
    kinds: dict[str, list[Picture]] = {}
    if len(summary.groups) > 1 and any(entry.comparison.pairs for entry in summary.overall):
        kinds["Differences from the baseline"] = [
            figures.draw_differences([], summary.overall, name("differences", "all"), "all tasks")
        ]
    for group in summary.groups:
        rows = [row for row in summary.rows if row.group == group]
        counted = {row.variant: row.settings for row in rows}
        runs: figures.Runs = {row.variant: [] for row in rows}
        for record in records:
            cell = record.cell
            if (
                cell.phase == "final"
                and record.status == "done"
                and group_of(record) == group
                and cell.settings == counted[cell.variant]
            ):
                runs[cell.variant].append(record)
        for kind, pictures in _drawn_of(
            rows, {key: value for key, value in runs.items() if value}, look, labels[group], name
        ):
            kinds.setdefault(kind, []).extend(pictures)
    blocks: list[Block] = []
    for kind, about in FIGURES.items():
        if kinds.get(kind):
            blocks += [Heading(2, kind), Text(about), Pictures(tuple(kinds[kind]))]
    return blocks


FIGURES = {
    "Differences from the baseline": "Diamonds are means, lines 95 % intervals, dots single seeds.",
    "Isotropy and the metric": "One mark for each seed: held-out embeddings after training, and the metric on the reported split.",
    "Training curves": "Means over seeds, with bands of one standard deviation. Losses are means over blocks of steps.",
    "Barcodes before and after": "Held-out embeddings of the first seed, on the same axes. Loops (H1) are those of some of the points; "
    "of more than 100 bars of a dimension the longest are drawn.",
    "Spectra": "Share of variance along each principal direction of the held-out embeddings; the flatter, the more isotropic.",
    "Layers": "A measure of isotropy for each hidden state of the model, with bands of one standard deviation over seeds.",
    "Cost": "Median time of a training step, mean over seeds, and the part of it that the penalty takes.",
}


def _drawn_of(
    rows: list[Row], runs: figures.Runs, look: Callable[[str], Look], where: str, name: Names
) -> Iterable[tuple[str, list[Picture]]]:
    kinds = list(FIGURES)
    if any(row.comparison.pairs for row in rows):
        yield kinds[0], [figures.draw_differences(rows, [], name("differences", where), where)]
    records = [record for some in runs.values() for record in some]
    measures = figures.measures_in([figures.kept_evaluation(record).get("isotropy") or {} for record in records])
    layered = figures.measures_in([layer for record in records for layer in record.layers.get("after", [])])
    clouded = any(record.clouds.get("after", {}).get("spectrum") for record in records)
    for shown in figures.panels_of(list(runs)):
        for measure in measures:
            yield kinds[1], [figures.draw_scatter(runs, shown, look, measure, name("scatter", where, measure), where)]
        if any(record.evaluations or record.steps for record in records):
            first = measures[0] if measures else None
            yield kinds[2], [figures.draw_curves(runs, shown, look, first, name("curves", where), where)]
        if clouded:
            yield kinds[4], [figures.draw_spectra(runs, shown, look, name("spectra", where), where)]
        for measure in layered:
            yield kinds[5], [figures.draw_layers(runs, shown, look, measure, name("layers", where, measure), where)]
    clouds = [figures.draw_clouds(some[0], name("barcode", where, variant), where) for variant, some in runs.items()]
    yield kinds[3], [picture for picture in clouds if picture is not None]
    cost = figures.draw_costs(runs, name("cost", where), where) if runs else None
    yield kinds[6], [] if cost is None else [cost]


def _chosen(summary: Summary, records: list[Record], labels: dict[Group, str]) -> list[Block]:
    if not summary.rows:
        return [Text("None yet.")]
    body = []
    for row in summary.rows:
        tried = [
            record
            for record in records
            if record.cell.phase == "tune"
            and (record.cell.task, record.cell.model, record.cell.variant)
            == (row.group.task, row.group.model, row.variant)
        ]
        best = [
            record.selection
            for record in tried
            if record.cell.settings == row.settings and record.selection is not None
        ]
        held_out = f"{sum(best) / len(best) * POINTS:.2f}" if best else ""
        body.append((row.variant, labels[row.group], str(len(tried)), held_out, _settings(row.settings)))
    columns = ("variant", "task", "tried", "held out, points", "settings")
    return [Table("Settings chosen", columns, tuple(body))]


# Words and numbers


def _compared_cells(found: Comparison) -> tuple[str, ...]:
    needed = "" if found.seeds_needed is None else str(found.seeds_needed)
    if found.seeds_needed is not None and found.seeds_needed > MOST_SEEDS:
        needed = f">{MOST_SEEDS}"
    return _difference(found), _short(found.p), _short(found.p_corrected), _fixed(found.effect), needed, found.verdict


def _difference(found: Comparison) -> str:
    if math.isnan(found.difference):
        return ""
    said = f"{found.difference * POINTS:+.2f}"
    return said if math.isnan(found.low) else f"{said} [{found.low * POINTS:+.2f}, {found.high * POINTS:+.2f}]"


def _mean(row: Row) -> str:
    if math.isnan(row.mean):
        return "none"
    said = f"{row.mean * POINTS:.2f}"
    return said if math.isnan(row.deviation) else f"{said} ± {row.deviation * POINTS:.2f}"


def _short(number: float) -> str:
    return "" if math.isnan(number) else f"{number:.3g}"


def _fixed(number: float) -> str:
    return "" if math.isnan(number) else f"{number:+.2f}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"


def _listed(values: Iterable[str]) -> str:
    return "; ".join(sorted(set(values)))


def _flat(environment: dict[str, Any]) -> dict[str, Any]:
    """Entries of a record's environment, those that are tables row by row."""
    flat: dict[str, Any] = {}
    for name, value in environment.items():
        flat.update(
            {f"{name}: {key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
        )
    return flat


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {_value(settings[name])}" for name in sorted(settings))


def _metric_of(rows: Sequence[Row]) -> str:
    return next((row.metric for row in rows if row.metric), "no score")


def _key(key: tuple[str, str, str]) -> str:
    return f"{key[2]} on {key[0]}, {key[1]}"


def _by_baseline(variants: Iterable[str]) -> list[str]:
    return sorted(variants, key=lambda name: (name != BASELINE, name))


def _sorted(records: Iterable[Record]) -> list[Record]:
    """In an order that does not depend on which run finished first."""
    return sorted(records, key=lambda record: (*group_of(record), record.cell.phase, *_variant_and_seed(record)))


def _variant_and_seed(record: Record) -> tuple[bool, str, int, str]:
    return record.cell.variant != BASELINE, record.cell.variant, record.cell.seed, record.cell.key


def _labels(groups: Sequence[Group]) -> dict[Group, str]:
    """The task's name, and what else it takes to tell the groups apart."""
    stems = {group.task: Path(group.task).stem if group.task.endswith(".toml") else group.task for group in groups}
    labels = {}
    for group in groups:
        unique = sum(stem == stems[group.task] for stem in stems.values()) == 1
        parts = [stems[group.task] if unique else group.task]
        if len({other.model for other in groups}) > 1:
            parts.append(group.model)
        if sum(other[:2] == group[:2] for other in groups) > 1:
            parts.append(group.budget)
        labels[group] = ", ".join(parts)
    return labels


# Files


COMPARED = ("pairs", "difference", "low", "high", "p", "p_corrected", "effect", "seeds_needed", "verdict")


def _results_csv(summary: Summary) -> str:
    columns = ("task", "model", "budget", "variant", "metric", "settings", "seeds", "failed", "mean", "deviation")
    rows = []
    for row in summary.rows:
        named = (*row.group, row.variant, row.metric, json.dumps(row.settings, sort_keys=True))
        own = (len(row.scores), row.failed, row.mean, row.deviation)
        rows.append((*named, *own, *(getattr(row.comparison, name) for name in COMPARED), row.note))
    return csv_text((*columns, *COMPARED, "note"), rows)


def _overall_csv(summary: Summary) -> str:
    names = [name for name in COMPARED if name not in ("effect", "seeds_needed")]
    rows = [
        (entry.variant, entry.groups, *(getattr(entry.comparison, name) for name in names)) for entry in summary.overall
    ]
    return csv_text(("variant", "tasks", *names), rows)


def _cells_csv(records: list[Record]) -> str:
    reported = sorted({name for record in records for name in record.reported})
    isotropy = sorted({name for record in records for name in figures.kept_evaluation(record).get("isotropy") or {}})
    costs = sorted({name for record in records for name in record.costs})
    columns = (
        "key",
        "task",
        "model",
        "variant",
        "phase",
        "seed",
        "settings",
        "budget",
        "status",
        "error",
        "metric",
        "selection",
        "score",
    )
    rows = []
    for record in records:
        cell, last = record.cell, figures.kept_evaluation(record).get("isotropy") or {}
        fixed = (cell.key, cell.task, cell.model, cell.variant, cell.phase, cell.seed)
        texts = (
            json.dumps(cell.settings, sort_keys=True),
            json.dumps(cell.budget, sort_keys=True),
            record.status,
            record.error,
        )
        numbers = (
            record.metric,
            record.selection,
            score(record),
            *map(record.reported.get, reported),
            *map(last.get, isotropy),
        )
        rows.append((*fixed, *texts, *numbers, *map(record.costs.get, costs)))
    named = (
        f"{kind}.{name}"
        for kind, names in (("reported", reported), ("isotropy", isotropy), ("costs", costs))
        for name in names
    )
    return csv_text((*columns, *named), rows)


def _html(blocks: Sequence[Block]) -> str:
    return page(blocks, marks={BETTER: ("better", "▲ "), WORSE: ("worse", "▼ ")})


# Terminal


def _terminal_row(variant: str, seeds: str, mean: str, found: Comparison) -> tuple[str, ...]:
    verdict = "no evidence" if found.verdict == NO_EVIDENCE else found.verdict
    return variant, seeds, mean, _difference(found), _short(found.p_corrected), verdict


def _wrapped(text: str) -> str:
    return textwrap.fill(text, TERMINAL)
