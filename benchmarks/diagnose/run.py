"""``python -m benchmarks.diagnose [NAME ...]`` runs the diagnoses, all of them by default, one after another.

Each run has a folder, see `benchmarks.diagnose.results`. A run that was interrupted goes on: diagnoses that are there are not made
again, and a training, which is the same every time for a seed, is run again without them. One that is finished is left alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import click

from benchmarks.diagnose.results import Results, SettingsError, read_results, summary
from benchmarks.diagnose.runs import FULL, RUNS, SHORT, Run, Sizes
from simplicial_reg._files import whole_file

__all__ = ["main"]

VARIABLE = "SIMPLICIAL_REG_DATA"
OUT = Path(__file__).parent.parent / "results" / "diagnose"
REPORTS = Path("runs") / "diagnose"
COMMAND = "python -m benchmarks.diagnose"


class Lines:
    """What is going on, each line with the time since the beginning."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.prefix = ""

    def __call__(self, text: str) -> None:
        """Print a line."""
        minutes, seconds = divmod(int(time.perf_counter() - self.started), 60)
        click.echo(f"{minutes:3d}:{seconds:02d}  {self.prefix}{text}")


@click.command(COMMAND, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, metavar="[NAME ...]")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), metavar="DIR", envvar=VARIABLE,
    help=f"Folder of the data; by default that of the variable {VARIABLE}.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=OUT, metavar="DIR",
    help="Where results go; by default benchmarks/results/diagnose.",
)  # fmt: skip
@click.option("--seeds", default="0,1", show_default=True, metavar="S,S", help="Of the models that are trained here.")
@click.option("--short", is_flag=True, help="A try: tiny models, a few steps and points. Needs another --out.")
@click.option(
    "--report", type=click.Path(path_type=Path, file_okay=False), is_flag=False, flag_value=REPORTS, metavar="[DIR]",
    help="Also write a report of each run, into a folder of its name below DIR, by default runs/diagnose.",
)  # fmt: skip
@click.option("--list", "only_list", is_flag=True, help="Say which runs there are.")
def main(
    names: tuple[str, ...],
    data_dir: Path | None,
    out: Path,
    seeds: str,
    short: bool,
    report: Path | None,
    only_list: bool,
) -> None:
    """Diagnose real models, and small ones over their training here. Without NAMEs: all of them."""
    if only_list:
        for name, run in RUNS.items():
            click.echo(f"{name:20} {run.what}{', for each seed' if run.seeded else ''}")
        return
    chosen = _chosen(names)
    _check_data(chosen, data_dir)
    if short and out.resolve() == OUT.resolve():
        raise click.ClickException("--short needs another --out: what it writes is no result")
    jobs = [(name, seed) for name in chosen for seed in (_seeds(seeds) if RUNS[name].seeded else [0])]
    _run_all(jobs, data_dir or Path(), out, SHORT if short else FULL, report)


def _run_all(jobs: list[tuple[str, int]], folder: Path, out: Path, sizes: Sizes, report: Path | None) -> None:
    say = Lines()
    for at, (name, seed) in enumerate(jobs, 1):
        run = RUNS[name]
        full_name = f"{name}-seed-{seed}" if run.seeded else name
        say.prefix = ""
        say(f"[{at}/{len(jobs)}] {full_name}: {run.what}")
        say.prefix = f"{full_name}: "
        _run_one(run, folder, out / full_name, sizes, seed, say)
        if report is not None:
            _write_report(out / full_name, report / full_name, say)
        with whole_file(out / "summary.md") as draft:
            draft.write_text(summary(out, COMMAND), encoding="utf-8")
    say.prefix = ""
    say(f"{len(jobs)} of {len(jobs)} done; {out / 'summary.md'}")


def _run_one(run: Run, folder: Path, out: Path, sizes: Sizes, seed: int, say: Callable[[str], None]) -> None:
    try:
        results = Results(out, {"seed": seed, **sizes.settings(run.own)}, say)
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    if results.finished:
        say("finished before")
        return
    run.do(folder, results, sizes, seed)
    results.finish()


def _write_report(results: Path, report: Path, say: Callable[[str], None]) -> None:
    from simplicial_reg.diagnose.report import write_report

    say(f"report in {write_report(read_results(results), report)}")


def _chosen(names: tuple[str, ...]) -> list[str]:
    unknown = sorted(set(names) - RUNS.keys())
    if unknown:
        raise click.ClickException(f"no such run: {', '.join(unknown)}; there are {', '.join(RUNS)}")
    return list(dict.fromkeys(names or RUNS))


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise click.ClickException(f"--seeds must be numbers like 0,1; got {text!r}") from error


def _check_data(chosen: list[str], data_dir: Path | None) -> None:
    needed = {need: name for name in chosen for need in RUNS[name].needs}
    free = ", ".join(name for name, run in RUNS.items() if not run.needs)
    if needed and data_dir is None:
        raise click.ClickException(
            f"{', '.join(dict.fromkeys(needed.values()))} need data: give --data-dir or set {VARIABLE}; "
            f"without data there are {free}"
        )
    for need, name in needed.items():
        if data_dir is not None and not (data_dir / need).exists():
            raise click.ClickException(f"{name} needs {need} in {data_dir}, and it is not there")
