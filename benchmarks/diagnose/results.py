"""Folders of diagnoses: one for each run and seed, written file by file, so that what was interrupted goes on where it stopped.

    RUN/ or RUN-seed-0/
        run.json            the settings, and the metrics of a training at each halt or of each diagnosis
        NAME.json           a `simplicial_reg.diagnose.Diagnosis`, without its bulk

A file is written whole or not at all. Less the bulk means: the 64 largest shares of the spectrum, at most 256 bars, evenly spaced in the
order of their lengths, and 6 significant digits; a file is then some tens of kilobytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from simplicial_reg._files import whole_file
from simplicial_reg.diagnose import DEFINITIONS, Diagnosis, Layer, read_diagnosis

__all__ = ["Results", "SettingsError", "read_results", "slim", "summary"]

RECORD = "run.json"
SPECTRUM, BARS, DIGITS = 64, 256, 6


class SettingsError(ValueError):
    """A folder holds what was made with other settings."""


class Results:
    """What a run writes.

    Args:
        folder: where; made if it is not there.
        settings: what the numbers depend on, in types of JSON.
        say: told what is done.

    Raises:
        SettingsError: if the folder is of other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say
        record = _read_record(folder)
        if record and record["settings"] != settings:
            raise SettingsError(f"{folder} was made with other settings; give another --out, or remove it")
        self._record = record or {"settings": settings, "finished": False, "metrics": []}
        folder.mkdir(parents=True, exist_ok=True)
        self._write_record()

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return bool(self._record["finished"])

    def finish(self) -> None:
        """Note that nothing is left to do."""
        self._record["finished"] = True
        self._write_record()

    def metrics(self, at: int | str, values: dict[str, float]) -> None:
        """Note how well the model does at a step, or where there are no steps in a diagnosis; what was noted before is replaced."""
        key = {"diagnosis": at} if isinstance(at, str) else {"step": at}
        entries = {_label(entry): entry for entry in self._record["metrics"]}
        entries[_label(key)] = {**key, **{name: _rounded(value) for name, value in values.items()}}
        self._record["metrics"] = sorted(entries.values(), key=lambda entry: int(entry.get("step", 0)))
        self._write_record()

    def keep(self, name: str, make: Callable[[], Diagnosis]) -> None:
        """Make a diagnosis and write it, unless it is there."""
        path = self.folder / f"{name}.json"
        if path.exists():
            self.say(f"{path.name} is there")
            return
        text = json.dumps(_rounded(slim(make()).content()), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        with whole_file(path) as draft:
            draft.write_text(text + "\n", encoding="utf-8")
        self.say(f"{path.name} written, {len(text) // 1000} kB")

    def _write_record(self) -> None:
        with whole_file(self.folder / RECORD) as draft:
            draft.write_text(json.dumps(self._record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_results(folder: Path) -> list[Diagnosis]:
    """The diagnoses of a run's folder in the order of their names, which for a training is that of the steps."""
    return [read_diagnosis(path) for path in sorted(folder.glob("*.json")) if path.name != RECORD]


def slim(diagnosis: Diagnosis) -> Diagnosis:
    """The diagnosis without its bulk."""
    return replace(diagnosis, layers=[_slim(layer) for layer in diagnosis.layers])


def _slim(layer: Layer) -> Layer:
    count = len(layer.bars)
    bars = layer.bars
    if count > BARS:
        bars = [bars[round(at * (count - 1) / (BARS - 1))] for at in range(BARS)]
    return replace(layer, spectrum=layer.spectrum[:SPECTRUM], bars=bars)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else value
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return value


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.exists():
        return {}
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


# --- the table of all runs ------------------------------------------------------------------------------------------------------

# Of each diagnosis: where the cosine is highest, and what the other measures say there; and the last state.
SHOWN = ("mean_cosine", "mean_cosine_centred", "drift_ratio", "isoscore_star", "twonn_dimension")


def summary(out: Path, command: str) -> str:
    """One Markdown table of everything below a folder.

    Args:
        out: folder of the runs' folders.
        command: what makes them.
    """
    labels = [DEFINITIONS[name].label for name in SHOWN]
    header = ["run", "diagnosis", "metric", "highest cosine in", *labels, *(f"{label}, last" for label in labels[:4])]
    lines = [header, ["---"] * 4 + ["---:"] * (len(header) - 4)]
    for folder in sorted(path.parent for path in out.glob(f"*/{RECORD}")):
        metrics = {_label(entry): entry for entry in _read_record(folder)["metrics"]}
        for diagnosis in read_results(folder):
            lines.append([folder.name, diagnosis.label, _metric(diagnosis, metrics), *_row(diagnosis)])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return (
        "# Diagnoses of real models\n\n"
        f"{table}\n\n"
        "Of each diagnosis the layer with the highest mean cosine, and the last. What the columns are: docs/diagnose.md. "
        f"Command: `{command}`.\n"
    )


def _label(entry: dict[str, Any]) -> str:
    """Of an entry of metrics: what the diagnosis is called that it is about."""
    return str(entry["diagnosis"]) if "diagnosis" in entry else f"step {entry['step']}"


def _metric(diagnosis: Diagnosis, metrics: dict[str, dict[str, Any]]) -> str:
    entry = metrics.get(diagnosis.label, {})
    return next((f"{name} {value:.3g}" for name, value in entry.items() if name not in ("step", "diagnosis")), "")


def _row(diagnosis: Diagnosis) -> list[str]:
    layers = [layer for layer in diagnosis.layers if layer.error is None]
    if not layers:
        return ["no layer without error", *[""] * 9]
    highest = max(layers, key=lambda layer: layer.measures["mean_cosine"].value)
    shown = [_number(highest, name) for name in SHOWN]
    return [highest.name, *shown, *(_number(layers[-1], name) for name in SHOWN[:4])]


def _number(layer: Layer, name: str) -> str:
    estimate = layer.measures.get(name)
    return "" if estimate is None or math.isnan(estimate.value) else f"{estimate.value:.3f}"
