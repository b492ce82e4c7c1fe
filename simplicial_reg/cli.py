"""The command line: ``simplicial-reg barcode FILE``, and ``study``, ``diagnose`` and ``bench``, which have modules of their own.

Exit codes: 0 done; 2 bad usage or bad input, with one line on stderr that says what to do and no traceback; 130 interrupted. Results go to
stdout, everything else to stderr, so that ``--json`` can be piped. An error that is none of the user's doing keeps its traceback.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import click
import numpy as np
import torch
from torch import Tensor

from simplicial_reg import __version__
from simplicial_reg._checks import check_threshold
from simplicial_reg._files import whole_file
from simplicial_reg._input_errors import BAD_INPUT, InputError, input_errors
from simplicial_reg._memory import available_memory
from simplicial_reg.barcode import ESSENTIAL, Barcode
from simplicial_reg.bench import bench
from simplicial_reg.diagnose.cli import diagnose
from simplicial_reg.distances import METRICS
from simplicial_reg.engines import ENGINES, Choice
from simplicial_reg.entropy import entropy_deficit, normalized_persistent_entropy, persistent_entropy
from simplicial_reg.forecast import Options, check_memory, chosen_engine
from simplicial_reg.progress import PROGRAM, ProgressLine, subset, with_progress
from simplicial_reg.prominence import prominent
from simplicial_reg.readers import read_points
from simplicial_reg.shards import EXECUTORS, barcode_of_shards, shards_in
from simplicial_reg.study.cli import study

__all__ = ["group", "main"]

DONE, INTERRUPTED = 0, 130


def main() -> NoReturn:
    """Run the command line and exit."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal without ů shows \u016f, not a traceback
            stream.reconfigure(errors="backslashreplace")
    try:
        group.main(prog_name=PROGRAM)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            # A kernel cannot be interrupted: leave at once instead of waiting for the thread that runs it.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(INTERRUPTED)
        raise
    sys.exit(DONE)


class OneLineGroup(click.Group):
    """A group whose errors, click's own included, are one line on stderr."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command, then exit with the code that the module's docstring lists."""
        extra["standalone_mode"] = False
        try:
            code = super().main(*args, **extra)
        except click.ClickException as error:
            _exit(_line(error), BAD_INPUT)
        except (click.Abort, KeyboardInterrupt):
            _exit("interrupted", INTERRUPTED)
        sys.exit(code if isinstance(code, int) else DONE)


def _line(error: click.ClickException) -> str:
    message = " ".join(error.format_message().split())
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{message} (see {error.ctx.command_path} --help)"
    return message


def _exit(message: str, code: int) -> NoReturn:
    click.echo(f"{PROGRAM}: {message}", err=True)
    sys.exit(code)


@click.group(
    PROGRAM, cls=OneLineGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name=PROGRAM)
@click.pass_context
def group(context: click.Context) -> None:
    """Barcodes of point clouds, the study of losses made of them, the diagnosis of models, and how fast all that is."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


group.add_command(study)
group.add_command(diagnose)
group.add_command(bench)


# --- simplicial-reg barcode ----------------------------------------------------------------------------------------------------


def _target(suffixes: tuple[str, ...]) -> Callable[[click.Context, click.Parameter, Path | None], Path | None]:
    """A check of a path to be written, before anything is computed."""

    def check(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
        if path is None:
            return None
        if path.suffix.lower() not in suffixes:
            raise click.BadParameter(f"{path} must end in {' or '.join(suffixes)}", context, parameter)
        if path.is_dir():
            raise click.BadParameter(f"{path} is a directory; name a file in it", context, parameter)
        if not path.parent.is_dir():
            raise click.BadParameter(f"the folder {path.parent} does not exist; make it first", context, parameter)
        if not os.access(path.parent, os.W_OK):
            raise click.BadParameter(f"the folder {path.parent} cannot be written to", context, parameter)
        return path

    return check


@group.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--key", metavar="NAME", help="The array to read, in a file that holds several.")
@click.option(
    "--max-dim",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Highest homology dimension: 1 finds loops.",
)
@click.option("--metric", type=click.Choice([*METRICS, "precomputed"]), default="euclidean", show_default=True)
@click.option("--threshold", type=float, default=math.inf, metavar="LENGTH", help="Leave out longer edges.")
@click.option("--engine", type=click.Choice(["auto", *ENGINES]), default="auto", show_default=True)
@click.option(
    "--essential",
    type=click.Choice(ESSENTIAL),
    default="drop",
    show_default=True,
    help="What becomes of bars that never die.",
)
@click.option(
    "--sample", type=click.IntRange(min=1), metavar="N", help="Use N points, drawn uniformly without replacement."
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Seed of --sample.")
@click.option(
    "--longest", type=click.IntRange(min=0), metavar="K", default=5, show_default=True, help="List the K longest bars."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option(
    "--executor", type=click.Choice(EXECUTORS), default="local", show_default=True, help="Where a folder is computed."
)
@click.option("--scheduler", metavar="ADDRESS", help="Address of the dask cluster, such as tcp://host:8786.")
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    metavar="BARS.npz",
    callback=_target((".npz",)),
    help="Write all bars: birth_0, death_0, birth_edge_0, death_edge_0, ..., and rows, those of the file that were used.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.png|svg",
    callback=_target((".png", ".svg")),
    help="Draw the barcode and the persistence diagram.",
)
def barcode(
    file: Path,
    key: str | None,
    sample: int | None,
    seed: int,
    longest: int,
    as_json: bool,
    executor: str,
    scheduler: str | None,
    save: Path | None,
    plot: Path | None,
    **options: Any,
) -> None:
    """Print the barcode of the point cloud in FILE, one point in each row.

    FILE is .npy, .npz, .pt, .safetensors, .csv or .tsv. Edges are printed as rows of the file, counted from 0. A folder of such files is
    one cloud, of which two files at a time are in memory (--max-dim 0); rows are counted on from file to file.
    """
    chosen = Options(**options)
    with input_errors():
        check_threshold(chosen.threshold)
        _check_targets(file, save, plot)
    if file.is_dir():
        with input_errors(memory="make the files smaller"):
            cloud, engine, barcodes, seconds = _of_folder(file, key, sample, chosen, executor, scheduler)
    else:
        cloud, engine, barcodes, seconds = _of_file(file, key, sample, seed, chosen, executor)
    report = _report(cloud, chosen, engine, barcodes, seconds, longest)
    with input_errors(memory="use --sample"):
        if save is not None:
            _save(save, barcodes, cloud.rows)
        if plot is not None:
            _plot(plot, barcodes, cloud, chosen.metric)
    click.echo(json.dumps(report, allow_nan=False, indent=2) if as_json else _text(report))


def _of_file(
    file: Path, key: str | None, sample: int | None, seed: int, chosen: Options, executor: str
) -> tuple[Cloud, Choice, tuple[Barcode, ...], float]:
    if executor != "local":
        raise InputError(f"--executor {executor} is for a folder of files; {file} is none")
    with input_errors(memory="use --sample"):
        points, name = read_points(file, key)
    cloud = _sampled(file, name, points, chosen.metric == "precomputed", sample, seed)
    n = len(cloud.points)
    with input_errors(memory="use --sample"):
        engine = chosen_engine(chosen, n)
        check_memory(chosen, engine.engine, n, cloud.points.dtype, available_memory(), cloud.points.shape[1])
    with input_errors(f"{file}: ", memory="use --sample"):
        barcodes, seconds = with_progress(cloud.points, chosen)
    return cloud, engine, barcodes, seconds


def _of_folder(
    folder: Path, key: str | None, sample: int | None, chosen: Options, executor: str, scheduler: str | None
) -> tuple[Cloud, Choice, tuple[Barcode, ...], float]:
    """The barcode of all files of a folder together; the points are not kept."""
    if chosen.max_dim != 0:
        raise ValueError(f"{folder} is a folder, of which H0 alone is computed; use --max-dim 0")
    unfit = {
        "--sample": sample is not None,
        "--threshold": math.isfinite(chosen.threshold),
        "--essential": chosen.essential != "drop",
        "--engine": chosen.engine not in ("auto", "blocked"),
        "--metric precomputed": chosen.metric == "precomputed",
    }
    for option, given in unfit.items():
        if given:
            raise ValueError(f"{folder} is a folder, which {option} is not for; leave it out")
    files = shards_in(folder)
    line, started = ProgressLine(f"H0 of {len(files)} files"), time.perf_counter()

    def say(done: int, pairs: int) -> None:
        elapsed = time.perf_counter() - started
        line.show(elapsed, elapsed / done * pairs)

    try:
        bars, shards = barcode_of_shards(
            files, metric=chosen.metric, key=key, executor=executor, scheduler=scheduler, on_pair=say
        )
    finally:
        line.clear()
    n = sum(shards.sizes)
    points = torch.empty((n, shards.width), dtype=shards.dtype, device="meta")
    cloud = Cloud(folder, key, points, torch.arange(n), n, False, None, 0)
    reason = f"H0 of {len(files)} files, two at a time" + (f", on dask at {scheduler}" if executor == "dask" else "")
    return cloud, Choice("blocked", reason), (bars,), time.perf_counter() - started


def _check_targets(file: Path, save: Path | None, plot: Path | None) -> None:
    if save is not None and save.exists() and file.exists() and save.samefile(file):
        raise ValueError(f"--save would overwrite {file}; choose another name")
    if plot is not None:
        from simplicial_reg.plots import check_matplotlib

        check_matplotlib()


class Cloud(NamedTuple):
    """The points that are used, and where they come from."""

    file: Path
    key: str | None
    points: Tensor
    rows: Tensor  # of the file, ascending
    total: int  # rows in the file
    precomputed: bool
    sample: int | None
    seed: int


def _sampled(file: Path, key: str | None, points: Tensor, precomputed: bool, sample: int | None, seed: int) -> Cloud:
    total = len(points)
    if precomputed and points.shape[1] != total:
        raise InputError(
            f"{file}: --metric precomputed needs a matrix of distances (n, n); got shape {tuple(points.shape)}"
        )
    if sample is None or sample >= total:
        return Cloud(file, key, points, torch.arange(total), total, precomputed, sample, seed)
    rows = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:sample].sort().values
    return Cloud(file, key, subset(points, rows, precomputed), rows, total, precomputed, sample, seed)


# --- the report ----------------------------------------------------------------------------------------------------------------


def _report(
    cloud: Cloud, options: Options, engine: Choice, barcodes: Sequence[Barcode], seconds: float, longest: int
) -> dict[str, Any]:
    """Everything that is printed, as JSON has it: null stands for infinite."""
    return {
        "file": str(cloud.file),
        "key": cloud.key,
        "rows": cloud.total,
        "sample": None if cloud.sample is None else {"size": cloud.sample, "seed": cloud.seed},
        "n": len(cloud.points),
        "d": None if cloud.precomputed else cloud.points.shape[1],
        "dtype": str(cloud.points.dtype).removeprefix("torch."),
        "metric": options.metric,
        "threshold": _finite(options.threshold),
        "essential": options.essential,
        "engine": engine.engine,
        "engine_reason": engine.reason,
        "seconds": round(seconds, 3),
        "version": __version__,
        "dimensions": [_of_dimension(bars, cloud.rows, longest) for bars in barcodes],
    }


def _of_dimension(bars: Barcode, rows: Tensor, longest: int) -> dict[str, Any]:
    persistence = bars.persistence.double()
    finite = persistence[bars.mask & persistence.isfinite()]
    order = torch.argsort(torch.where(bars.mask, persistence, -1), descending=True, stable=True)[
        : min(longest, len(bars))
    ]
    return {
        "dimension": bars.dim,
        "bars": len(bars),
        "infinite_bars": len(bars) - len(finite),
        "total_persistence": finite.sum().item(),
        "longest": finite.max().item() if len(finite) else 0.0,
        "entropy": persistent_entropy(bars).item(),
        "normalized_entropy": normalized_persistent_entropy(bars).item(),
        "deficit": entropy_deficit(bars).item(),
        "prominent_bars": len(prominent(bars)),
        "longest_bars": [_of_bar(bars, int(bar), rows) for bar in order],
    }


def _of_bar(bars: Barcode, bar: int, rows: Tensor) -> dict[str, Any]:
    return {
        "birth": bars.birth[bar].item(),
        "death": _finite(bars.death[bar].item()),
        "persistence": _finite(bars.persistence[bar].item()),
        "birth_edge": file_rows(bars.birth_edge[bar], rows).tolist(),
        "death_edge": None if bars.death_edge[bar, 0] < 0 else file_rows(bars.death_edge[bar], rows).tolist(),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def file_rows(edges: Tensor, rows: Tensor) -> Tensor:
    """Edges between points of the sample as edges between rows of the file; -1 (no edge) stays."""
    return torch.where(edges < 0, edges, rows[edges.clamp(min=0)])


def _text(report: dict[str, Any]) -> str:
    of = "" if report["n"] == report["rows"] else f" of {report['rows']} rows"
    sample = report["sample"]
    if sample is not None:
        more = " (there are no more)" if sample["size"] > report["rows"] else ""
        of += f", --sample {sample['size']} --seed {sample['seed']}{more}"
    threshold = report["threshold"]
    facts = [
        ("file", report["file"] + ("" if report["key"] is None else f", array {report['key']!r}")),
        ("n", f"{report['n']}{of}"),
        ("d", f"{'(distances are given)' if report['d'] is None else report['d']}, {report['dtype']}"),
        ("metric", report["metric"]),
        ("threshold", "none" if threshold is None else f"{threshold:g}"),
        ("essential", report["essential"]),
        ("engine", f"{report['engine']} ({report['engine_reason']})"),
        ("time", f"{report['seconds']:.2f} s"),
    ]
    parts = ["\n".join(f"{name:<10} {value}" for name, value in facts), _table(SUMMARY, report["dimensions"])]
    for dimension in report["dimensions"]:
        bars = dimension["longest_bars"]
        if bars:
            head = (
                f"H{dimension['dimension']}, {f'the {len(bars)} longest bars' if len(bars) > 1 else 'the longest bar'}"
            )
            parts.append(head + "\n" + _table(BARS, bars))
    return "\n\n".join(parts)


def _number(value: float | None) -> str:
    return "inf" if value is None else f"{value:.6g}"


def _edge(edge: list[int] | None) -> str:
    if edge is None:
        return "-"
    return str(edge[0]) if edge[0] == edge[1] else f"{edge[0]}-{edge[1]}"


Column = tuple[str, str, Callable[[Any], str]]  # key in the report, heading, format

SUMMARY: list[Column] = [
    ("dimension", "", "H{}".format),
    ("bars", "bars", str),
    ("infinite_bars", "infinite", str),
    ("total_persistence", "total persistence", _number),
    ("longest", "longest", _number),
    ("entropy", "entropy", _number),
    ("normalized_entropy", "normalized", _number),
    ("deficit", "deficit", _number),
    ("prominent_bars", "prominent", str),
]
BARS: list[Column] = [
    ("birth", "birth", _number),
    ("death", "death", _number),
    ("persistence", "persistence", _number),
    ("birth_edge", "birth edge", _edge),
    ("death_edge", "death edge", _edge),
]


def _table(columns: list[Column], rows: list[dict[str, Any]]) -> str:
    cells = [[heading for _, heading, _ in columns], *([show(row[key]) for key, _, show in columns] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(columns))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


# --- files -----------------------------------------------------------------------------------------------------------------------


def _save(path: Path, barcodes: Sequence[Barcode], rows: Tensor) -> None:
    arrays: dict[str, Any] = {"rows": rows.numpy()}
    for bars in barcodes:
        arrays[f"birth_{bars.dim}"] = bars.birth[bars.mask].numpy()
        arrays[f"death_{bars.dim}"] = bars.death[bars.mask].numpy()
        arrays[f"birth_edge_{bars.dim}"] = file_rows(bars.birth_edge[bars.mask], rows).numpy()
        arrays[f"death_edge_{bars.dim}"] = file_rows(bars.death_edge[bars.mask], rows).numpy()
    with whole_file(path) as draft, draft.open("wb") as file:
        np.savez(file, **arrays)


def _plot(path: Path, barcodes: Sequence[Barcode], cloud: Cloud, metric: str) -> None:
    from simplicial_reg.plots import plot_bars

    n = len(cloud.points)
    what = f"{n} point{'' if n == 1 else 's'}" + ("" if cloud.precomputed else f" in {cloud.points.shape[1]}-d")
    figure = plot_bars(barcodes, metric=metric, title=f"{cloud.file.name}: {what}")
    with whole_file(path) as draft:
        # No date, so that equal bars give equal files.
        suffix = path.suffix.lower().removeprefix(".")
        figure.savefig(draft, format=suffix, metadata={"Date": None} if suffix == "svg" else None)


if __name__ == "__main__":
    main()
