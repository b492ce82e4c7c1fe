"""``simplicial-reg diagnose``: where, how and why a model's representation space is anisotropic.

What is named is diagnosed one after the other, so that one model is in memory at a time, and reported together. A ``diagnosis.json`` of an
earlier run stands for its model: nothing is run again.
"""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from simplicial_reg._input_errors import input_errors

# Whatever needs torch's friends is imported where it is used: `simplicial-reg barcode` imports this module too.
if TYPE_CHECKING:
    from simplicial_reg.diagnose.drift import Drift
    from simplicial_reg.diagnose.record import Diagnosis
    from simplicial_reg.diagnose.sources import Source

__all__ = ["diagnose"]

OUT = Path("runs/diagnose")
DEFAULT = "minilm"
FILE = "diagnosis.json"
WIDTH = 100  # characters
SMALLER = "use a smaller --batch-size or a shorter --max-length"
# Options that mean something only where a model is run; the others of points say which of them, and how they are drawn.
OF_MODELS = (
    "points",
    "data",
    "modality",
    "sample",
    "attention",
    "data_dir",
    "column",
    "tokenizer",
    "max_length",
    "batch_size",
    "device",
)
OF_POINTS = ("layers", "seed")
PAUSE = 10.0  # seconds between two lines on a stream that is no terminal


def _layers(context: click.Context, parameter: click.Parameter, value: str) -> str | list[int | str]:
    names = [name.strip() for name in value.split(",")]
    if not all(names):
        raise click.BadParameter(f"{value!r} must be all, or numbers or names with commas between", context, parameter)
    return "all" if names == ["all"] else [int(name) if re.fullmatch(r"-?\d+", name) else name for name in names]


def _device(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        import torch

        try:
            torch.empty(0, device=value)
        except (RuntimeError, AssertionError) as error:  # the second of a build without CUDA
            line = str(error).splitlines()[0]
            raise click.BadParameter(f"{value!r} cannot be used: {line}", context, parameter) from error
    return value


@click.command()
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@click.option("--data", metavar="FILE|DIR|TASK", help="Texts, images or waves.  [default: made of what is installed]")
@click.option(
    "--modality",
    type=click.Choice(["auto", "text", "vision", "speech"]),
    default="auto",
    show_default=True,
    help="What the model is fed.",
)
@click.option(
    "--layers",
    default="all",
    show_default=True,
    metavar="A,B,...",
    callback=_layers,
    help="Numbers of states (0: embeddings) or names of modules.",
)
@click.option(
    "--points",
    type=click.Choice(["tokens", "cls", "mean"]),
    help="Every token is a point, or the first, or the mean of a sequence.  [default: tokens]",
)
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    metavar="N",
    help="Sequences the model is fed at most.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Seed of samples and intervals."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help=f"Folder of the report.  [default: {OUT}; with --json none]",
)
@click.option("--compare", type=click.Choice(["init"]), help="Beside each model an untrained copy of it.")
@click.option(
    "--drift", is_flag=True, help="The drift experiment on an untrained block of the first MODEL; without one, of BERT."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the tasks, see docs/study.md."
)
@click.option("--column", metavar="NAME", help="The column of texts, in a table.")
@click.option("--tokenizer", metavar="NAME|DIR", help="Where the tokenizer is, if not beside the model.")
@click.option("--max-length", type=click.IntRange(min=1), metavar="N", help="Tokens of a text at most.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=32, show_default=True, metavar="N", help="Sequences in a batch."
)
@click.option("--device", metavar="NAME", callback=_device, help="Where the model runs, such as cuda.  [default: cpu]")
@click.option("--attention/--no-attention", default=True, show_default=True, help="Read queries and keys, too.")
@click.pass_context
def diagnose(
    context: click.Context,
    /,
    models: tuple[str, ...],
    layers: str | list[int | str],
    points: str | None,
    seed: int,
    out: Path | None,
    compare: str | None,
    drift: bool,
    as_json: bool,
    attention: bool,
    **opening: Any,
) -> None:
    """Say layer by layer where and how a model's representations are anisotropic.

    MODEL is "minilm" (the default; nothing is downloaded), a name or directory of transformers, package.module:factory, files of
    embeddings (.npy, .npz, .pt, .safetensors, .csv, .tsv, .parquet; layers by name), or the diagnosis.json of an earlier run. Several are
    drawn on one figure.
    """
    folder = out if out is not None or as_json else OUT
    if folder is not None:
        with input_errors(memory=SMALLER):  # before minutes are spent on figures that cannot be drawn or written
            from simplicial_reg._page import check_matplotlib

            check_matplotlib()
            _check_folder(folder)
    with input_errors():
        _check_use(models or (DEFAULT,), context, drift)
    reading = _Reading(layers, points, seed, compare, attention, opening)
    found: list[Diagnosis] = []
    experiment: Drift | None = None
    with make_display(sys.stderr) as display:
        for name in _grouped(models or (DEFAULT,)):
            with input_errors(memory=SMALLER):
                found += reading.diagnose(name, display)
        if drift:
            with input_errors("--drift: ", memory=SMALLER):
                experiment = _experiment(reading.first if models else None, seed, display)
    found = _labelled(found)
    if as_json:
        click.echo(_json(found, experiment))
    if folder is not None:
        with input_errors(memory=SMALLER):
            from simplicial_reg.diagnose.report import write_report

            page = write_report(found, folder, drift=experiment)
        if not as_json:
            _print(found)
            click.echo(f"report: {page}")


def _check_folder(folder: Path) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "cannot be written to" if there.is_dir() else "is no folder"
        raise ValueError(f"--out {folder}: {there} {why}; choose another folder with --out")


def _check_use(models: Sequence[str], context: click.Context, drift: bool) -> None:
    """Refuse options that nothing of what is named has a use for."""
    results = [_recorded(name) is not None for name in models]
    nothing_runs = all(result or _holds_points(name) for name, result in zip(models, results, strict=True))
    without = [*OF_MODELS] if nothing_runs else []
    without += [name for name in OF_POINTS if not (drift and name == "seed")] if all(results) else []
    for name in without:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = "--no-attention" if name == "attention" else f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} needs a model that is run; {', '.join(models)} holds points or results already")


def _holds_points(model: str) -> bool:
    from simplicial_reg.readers import READERS

    return Path(model).suffix.lower() in (*READERS, ".parquet")


def _grouped(models: Sequence[str]) -> list[str | list[str]]:
    """What is diagnosed one after the other; several files of embeddings are the layers of one."""
    if len(models) > 1 and all(map(_holds_points, models)):
        return [list(models)]
    return list(models)


@dataclass
class _Reading:
    """How everything that is named is diagnosed."""

    layers: str | list[int | str]
    points: str | None  # as said by the user
    seed: int
    compare: str | None
    attention: bool
    opening: dict[str, Any]
    first: Any = None  # the first model, for the drift experiment

    def diagnose(self, name: str | list[str], display: Display) -> list[Diagnosis]:
        from torch import nn

        from simplicial_reg.diagnose import read_diagnosis
        from simplicial_reg.diagnose.sources import open_source

        path = _recorded(name)
        if path is not None:
            self._refuse_comparison(str(path))
            return [replace(read_diagnosis(path), label="")]
        display.note(f"reading {name if isinstance(name, str) else f'{len(name)} files'}")
        source = open_source(name, seed=self.seed, **self.opening)
        if not isinstance(source.model, nn.Module):
            self._refuse_comparison(source.name)
            return [self._run(source, source.model, source.name, display)]
        self.first = source.model if self.first is None else self.first
        found = [self._run(source, source.model, source.name, display)]
        if self.compare is not None:
            from simplicial_reg.diagnose.untrained import untrained

            label = f"{source.name}, untrained"
            found.append(self._run(source, untrained(source.model, self.seed), label, display))
        return found

    def _refuse_comparison(self, name: str) -> None:
        if self.compare is not None:
            raise ValueError(f"--compare init needs a model that can be drawn anew; {name} holds results only")

    def _run(self, source: Source, model: Any, name: str, display: Display) -> Diagnosis:
        import simplicial_reg.diagnose as package

        shared: dict[str, Any] = {
            "layers": self.layers,
            "seed": self.seed,
            "name": name,
            "data": source.data,
            "modality": source.modality,
            "on_layer": display.measure,
        }
        display.start(name, source.data, len(source.batches))
        if isinstance(model, dict):
            found = package.diagnose(model, sequences=source.sequences, **shared)
        else:
            found = package.diagnose(
                model,
                source.batches,
                points=self.points or "tokens",
                attention=self.attention,
                on_batch=display.step,
                **shared,
            )
        display.finish(name)
        found.notes[:0] = source.notes
        return found


def _recorded(name: str | list[str]) -> Path | None:
    """The file of an earlier diagnosis, if that is what is named, by itself or by its folder."""
    if not isinstance(name, str):
        return None
    path = Path(name)
    if path.suffix.lower() == ".json":
        return path
    return path / FILE if (path / FILE).is_file() and not (path / "config.json").exists() else None


def _experiment(model: Any, seed: int, display: Display) -> Drift:
    from simplicial_reg.diagnose.drift import NORMS, block_of, drift

    block = block_of(model)
    repeats = 3
    display.start("drift experiment", block.name, repeats * len(NORMS))
    found = drift(block, seed=seed, repeats=repeats, on_run=display.step)
    display.finish("drift experiment")
    return found


def _labelled(diagnoses: list[Diagnosis]) -> list[Diagnosis]:
    """With short labels where there are several: the last part of a path, if that tells them apart."""
    if len(diagnoses) == 1:
        return diagnoses
    shorter = [re.sub(r"^.*/(?=[^/])", "", diagnosis.model).rstrip("/") for diagnosis in diagnoses]
    whole = [diagnosis.model for diagnosis in diagnoses]
    labels = shorter if len(set(shorter)) == len(set(whole)) else whole
    return [replace(diagnosis, label=label) for diagnosis, label in zip(diagnoses, labels, strict=True)]


def _json(diagnoses: Sequence[Diagnosis], drift: Drift | None) -> str:
    """One diagnosis as it is in a file; several, or with the drift experiment, together in one object."""
    if len(diagnoses) == 1 and drift is None:
        return diagnoses[0].to_json()
    content = {"diagnoses": [diagnosis.content() for diagnosis in diagnoses], "drift": drift and drift.content()}
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _print(diagnoses: Sequence[Diagnosis]) -> None:
    """The tables; of a single model what stands out, too."""
    from simplicial_reg.diagnose.report import notes_of, summary, terminal

    for diagnosis in diagnoses:
        click.echo(terminal(diagnosis))
    if len(diagnoses) == 1:
        for sentence in (*summary(diagnoses[0]), *notes_of(diagnoses[0])):
            click.echo(textwrap.fill(sentence, WIDTH, initial_indent="- ", subsequent_indent="  "))
        click.echo()


# --- what one sees meanwhile -----------------------------------------------------------------------------------------------------


class Display:
    """Lines on a stream that is no terminal: when something starts, every ten seconds how far it is, and how long it took.

    Args:
        stream: where they go, stderr, so that stdout holds the result only.
        clock: seconds.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream, self.clock = stream, clock
        self.name, self.total = "", 0
        self.started = self.said = clock()

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def note(self, text: str) -> None:
        """Say something once."""
        self.stream.write(f"{text}\n")
        self.stream.flush()

    def start(self, name: str, what: str, total: int) -> None:
        """Begin with something that takes so many steps."""
        self.name, self.total = name, total
        self.started = self.said = self.clock()
        self.note(f"{name}: {what}")

    def step(self, done: int) -> None:
        """So many steps are done."""
        now = self.clock()
        if done < self.total and now - self.said >= PAUSE:
            self.said = now
            left = (now - self.started) / done * (self.total - done)
            self.note(f"{self.name}: {done} of {self.total}, about {_duration(left)} left")

    def measure(self, done: int, layers: int) -> None:
        """The model has run on everything, and so many of the layers are measured."""
        now = self.clock()
        if done < layers and now - self.said >= PAUSE:
            self.said = now
            self.note(f"{self.name}: {done} of {layers} layers measured")

    def finish(self, name: str) -> None:
        """Be done with it."""
        self.note(f"{name}: done in {_duration(self.clock() - self.started)}")


class RichDisplay(Display):
    """A bar on a terminal for each thing that is diagnosed."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        super().__init__(stream)
        self.bar: Any = None
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            console=Console(file=stream),
        )

    def __enter__(self) -> RichDisplay:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def note(self, text: str) -> None:
        """Say something once, above the bars."""
        self.progress.console.print(text, markup=False, highlight=False)

    def start(self, name: str, what: str, total: int) -> None:
        """Begin with something that takes so many steps."""
        super().start(name, what, total)
        self.bar = self.progress.add_task(name[-30:], total=total or None, state="")

    def step(self, done: int) -> None:
        """So many steps are done."""
        self.progress.update(self.bar, completed=done)

    def measure(self, done: int, layers: int) -> None:
        """The model has run on everything, and so many of the layers are measured."""
        self.progress.update(self.bar, completed=self.total, state=f"{done} of {layers} layers measured")

    def finish(self, name: str) -> None:
        """Be done with it."""
        self.progress.update(self.bar, state="")
        self.progress.stop_task(self.bar)


def make_display(stream: TextIO) -> Display:
    """Bars if the stream is a terminal and rich is installed, lines otherwise."""
    if stream.isatty():
        try:
            return RichDisplay(stream)
        except ImportError:
            pass
    return Display(stream)


def _duration(seconds: float) -> str:
    from simplicial_reg.study._board import duration

    return duration(seconds)
