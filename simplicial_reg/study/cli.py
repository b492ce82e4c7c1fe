"""``simplicial-reg study``: run a study, report one, compare two.

Settings come from four places, of which the later wins: the defaults, ``--quick``, the recipe, the other options. What follows from them
is kept in the folder as ``study.json``, so that the same command goes on with a study that was interrupted, and another one is refused.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simplicial_reg._input_errors import input_errors
from simplicial_reg.study.protocol import BASELINE, Study

# Whatever needs torch's friends is imported where it is used: `simplicial-reg barcode` imports this module too.
if TYPE_CHECKING:
    from simplicial_reg.study.record import Record
    from simplicial_reg.study.tasks import Task

__all__ = ["read_recipe", "study"]

DEFAULTS: dict[str, Any] = {
    "tasks": ["docstrings"],
    "models": [],  # the embedded one for the tasks
    "variants": [BASELINE, "persistent-entropy", "istar", "cosreg"],
    "budget": 2,
    "seeds": 3,
    "training": {},
}
QUICK: dict[str, Any] = {
    "tasks": ["digits"],
    "models": [],
    "variants": [BASELINE, "persistent-entropy"],
    "budget": 1,
    "seeds": 2,
    "training": {"epochs": 3},
}
RECIPE = {
    "title": str,
    "tasks": list,
    "models": list,
    "variants": list,
    "budget": int,
    "seeds": int,
    "training": dict,
    "trainings": dict,
    "space": dict,
    "spaces": dict,
}
# Options that say how every cell is trained; the names are those of a cell's budget.
TRAINING: dict[str, dict[str, Any]] = {
    "epochs": {"type": click.IntRange(min=1), "metavar": "N", "help": "Epochs of each run."},
    "steps": {"type": click.IntRange(min=1), "metavar": "N", "help": "Steps of each run, instead of epochs."},
    "batch_size": {"type": click.IntRange(min=1), "metavar": "N", "help": "Examples in a batch."},
    "accumulation": {"type": click.IntRange(min=1), "metavar": "N", "help": "Batches in a step."},
    "max_length": {"type": click.IntRange(min=1), "metavar": "N", "help": "Tokens of an example; the rest is cut off."},
    "limit": {"type": click.IntRange(min=1), "metavar": "N", "help": "Use N examples of train."},
    "frozen_layers": {"type": click.IntRange(min=0), "metavar": "N", "help": "Do not train the first N layers."},
    "freeze_embeddings": {"type": bool, "metavar": "BOOL", "help": "Do not train the embeddings."},
    "precision": {"type": click.Choice(["float32", "bfloat16"]), "help": "In which the model is trained."},
}


def _training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, options in reversed(TRAINING.items()):
        command = click.option(f"--{name.replace('_', '-')}", name, **options)(command)
    return command


@click.group(invoke_without_command=True)
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="A task or a TOML file; may be repeated.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="A model or its directory; may be repeated.")
@click.option("--variants", metavar="A,B,...", help='Regularizers with their options; "none" is always among them.')
@click.option("--budget", type=click.IntRange(min=0), metavar="K", help="Configurations tried for each variant.")
@click.option("--seeds", type=click.IntRange(min=1), metavar="S", help="Runs reported of the best configuration.")
@_training_options
@click.option("--recipe", type=click.Path(path_type=Path), metavar="FILE", help="Settings from a TOML file.")
@click.option("--quick", is_flag=True, help="The smallest study: some seconds.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/study"),
    show_default=True,
    metavar="DIR",
    help="Folder of records and report.",
)
@click.option(
    "--data-dir", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the data, see docs/study.md."
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Cells at the same time.  [default: cores, at most 4; on a GPU 1; on a cluster all there is room for]",
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads of a cell.  [default: cores / jobs]")
@click.option("--executor", type=click.Choice(["local", "dask", "ray"]), default="local", show_default=True)
@click.option("--scheduler", metavar="ADDRESS", help="Address of the cluster, such as tcp://host:8786.")
@click.option("--retry-failed", is_flag=True, help="Run failed cells again.")
@click.pass_context
def study(context: click.Context, /, **options: Any) -> None:
    """Compare regularizers side by side, under one protocol.

    Without arguments: four regularizers on an embedded task with a small pre-trained transformer, in some minutes. The same command goes on
    with a study that was interrupted.
    """
    if context.invoked_subcommand is None:
        _run(**options)


@study.command()
@click.argument("folders", metavar="RUN_DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Folder of their common report."
)
def report(folders: tuple[Path, ...], out: Path | None) -> None:
    """Make the report of RUN_DIR anew, of its records alone.

    Several folders, for example of tasks that were run on different machines, make one report, in --out. The number of configurations,
    ranges and trainings must be the same where two folders have the same variants or tasks.
    """
    with input_errors():
        from simplicial_reg.study import runner
        from simplicial_reg.study._merge import merge

        records = {folder: _records(folder, runner.read_records) for folder in folders}
        if out is not None:
            _check_extras()
            _finish(out, merge(list(records), out))
        elif len(records) == 1:
            _finish(folders[0], records[folders[0]])
        else:
            raise ValueError("--out must name a folder for the report of several; there is none")


@study.command()
@click.argument("first", metavar="RUN_A", type=click.Path(path_type=Path))
@click.argument("second", metavar="RUN_B", type=click.Path(path_type=Path))
def compare(first: Path, second: Path) -> None:
    """Print what differs between two studies."""
    with input_errors():
        from simplicial_reg.study import report as reports
        from simplicial_reg.study import runner

        for folder in (first, second):
            _records(folder, runner.read_records)
        click.echo(reports.compare(first, second))


def _default_jobs(executor: str) -> int:
    """A small model does not keep several cores busy, and each cell holds one in memory."""
    import torch

    from simplicial_reg.study.runner import cores

    return 1 if executor != "local" or torch.cuda.is_available() else min(4, cores())


def _run(
    recipe: Path | None,
    quick: bool,
    out: Path,
    data_dir: Path | None,
    jobs: int | None,
    threads: int | None,
    executor: str,
    scheduler: str | None,
    retry_failed: bool,
    **options: Any,
) -> None:
    with input_errors():
        from simplicial_reg.study import runner

        _check_extras()
        settings = _settings(recipe, quick, options)
        tasks = _tasks(settings, data_dir)
        chosen = _study(settings, tasks, _weights(settings, tasks))
        _check_configurations(chosen)
        for text in [settings.get("title"), *(task.description for task in tasks.values()), *_left_out(chosen)]:
            if text:
                click.echo(" ".join(text.split()), err=True)
        try:
            records = runner.run(
                chosen,
                out,
                jobs=jobs or _default_jobs(executor),
                threads=threads,
                executor=executor,
                scheduler=scheduler,
                data_dir=data_dir,
                retry_failed=retry_failed,
            )
        except KeyboardInterrupt:
            done = len(runner.read_records(out))
            click.echo(f"{done} cells are recorded in {out}; the same command goes on from there", err=True)
            raise
        _finish(out, records)


def _finish(folder: Path, records: list[Record]) -> None:
    """Write the report and print the table; a study of which nothing succeeded is an error."""
    from simplicial_reg.study import report as reports
    from simplicial_reg.study import runner

    failed = [record for record in records if record.status != "done"]
    if len(failed) == len(records):
        raise ValueError(f"no cell of {folder} succeeded; the first error: {failed[0].error}")
    page = reports.write_report(folder)
    click.echo(reports.final_table(runner.read_records(folder)))
    click.echo(f"report: {page}")
    if failed:
        click.echo(f"{len(failed)} of {len(records)} cells failed; the first error: {failed[0].error}", err=True)


def _records(folder: Path, read: Callable[[Path], list[Record]]) -> list[Record]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give one that simplicial-reg study has made")
    records = read(folder)
    if not records:
        raise ValueError(f"{folder} holds no records; run simplicial-reg study --out {folder} first")
    return records


def _check_extras() -> None:
    # Before hours are spent on cells of which no report can be made.
    from simplicial_reg.plots import check_matplotlib
    from simplicial_reg.study.statistics import check_scipy

    check_matplotlib()
    check_scipy()


# --- settings ------------------------------------------------------------------------------------------------------------------


def _settings(recipe: Path | None, quick: bool, options: Mapping[str, Any]) -> dict[str, Any]:
    from simplicial_reg.study.training import budget_for

    settings = {**DEFAULTS, **(QUICK if quick else {})}
    if recipe is not None:
        read = read_recipe(recipe)
        settings = {**settings, **read, "training": read.get("training", {})}
    given = {name: value for name, value in options.items() if value not in (None, ())}
    training = {name: given.pop(name) for name in TRAINING if name in given}
    if "variants" in given:
        given["variants"] = [name.strip() for name in given["variants"].split(",") if name.strip()]
    recipe_training = settings["training"]
    settings = {**settings, **given, "training": _trained(recipe_training, training)}
    settings["models"] = list(settings["models"]) or _default_models(settings["tasks"])
    settings["variants"] = list(dict.fromkeys([BASELINE, *settings["variants"]]))
    _check_variants([*settings["variants"], *settings.get("spaces", {})])
    # With the defaults written out: they determine a run as well.
    model = _of_one_kind(settings["models"])
    settings["training"] = asdict(budget_for(model, settings["training"]))
    for name, values in settings.get("trainings", {}).items():
        if not isinstance(values, dict):
            raise ValueError(f"trainings must be of tables, one for each task; got {name} = {values!r}")
    own = settings.get("trainings", {})
    _check_tasks(own)
    trainings = {
        name: budget_for(model, _trained(_trained(recipe_training, own.get(name, {})), training), name)
        for name in settings["tasks"]
    }
    differing = {name: _differing(asdict(values), settings["training"]) for name, values in trainings.items()}
    settings["trainings"] = {name: values for name, values in differing.items() if values}
    return settings


def _differing(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value != others[name]}


def _check_variants(names: Sequence[str]) -> None:
    from simplicial_reg.study.variants import VARIANTS, nearest

    for name in names:
        if name not in VARIANTS:
            near = nearest(name, VARIANTS)
            raise ValueError(
                f"variants must be of {', '.join(VARIANTS)}; got {name!r}"
                + (f"; the nearest are {', '.join(near)}" if near else "")
            )


def _default_models(tasks: Sequence[str]) -> list[str]:
    from simplicial_reg.study.models import default_model

    models = {task: default_model(task) for task in tasks}
    if len(set(models.values())) > 1:
        found = ", ".join(f"{model} for {task}" for task, model in models.items())
        raise ValueError(f"the tasks need different models ({found}); make a study of each, with an --out of its own")
    return list(dict.fromkeys(models.values()))


def _of_one_kind(models: Sequence[str]) -> str:
    """The first of models whose defaults are those of all."""
    from simplicial_reg.study.models import learning_rates
    from simplicial_reg.study.training import budget_for

    first = models[0]
    for other in models[1:]:
        if learning_rates(other) != learning_rates(first) or budget_for(other, {}) != budget_for(first, {}):
            raise ValueError(
                f"the models {first} and {other} are trained in different ways, one of them from scratch; make a study of each, with an "
                "--out of its own"
            )
    return first


def _check_tasks(names: Mapping[str, Any]) -> None:
    """Trainings of tasks that this command leaves out may be there; such of tasks that nobody knows are mistakes."""
    from simplicial_reg.study.tasks import TASKS
    from simplicial_reg.study.variants import nearest

    for name in names:
        if name not in TASKS and not name.endswith(".toml"):
            near = nearest(name, TASKS)
            raise ValueError(
                f"trainings must be of tasks, {', '.join(TASKS)} or a path of a TOML file; got {name!r}"
                + (f"; the nearest are {', '.join(near)}" if near else "")
            )


def _check_configurations(chosen: Study) -> None:
    """Refuse settings that no regularizer has, and values that it does not take, before anything is run."""
    from simplicial_reg.study.protocol import configurations
    from simplicial_reg.study.training import TUNABLE, check_settings
    from simplicial_reg.study.variants import VARIANTS

    of_regularizers = [name for name in chosen.space if name not in ("learning_rate", *TUNABLE)]
    if of_regularizers and all(VARIANTS[name].regularizer is None for name in chosen.variants):
        raise ValueError(
            f"space must be of learning_rate and {', '.join(TUNABLE)} where there is no regularizer; got {of_regularizers[0]}"
        )
    for task in chosen.tasks:
        for variant in chosen.variants:
            for configuration in configurations(chosen, task, variant):
                check_settings(variant, configuration)


def _trained(before: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    if "steps" in given and "epochs" in given:
        raise ValueError("--steps and --epochs say the same thing in two ways; give one")
    other = {"steps": "epochs", "epochs": "steps"}
    instead = {other[name] for name in given if name in other}
    return {name: value for name, value in {**before, **given}.items() if name not in instead}


def read_recipe(path: Path) -> dict[str, Any]:
    """The settings in a recipe, a TOML file with any of the keys of `Study` and a ``title``.

    Raises:
        ValueError: if it is not TOML, or has a key that is unknown or of another type; it says which.
        OSError: if it cannot be read.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    for name, value in content.items():
        if name not in RECIPE:
            raise ValueError(f"{path}: {name!r} is not a setting; there are {', '.join(RECIPE)}")
        if not isinstance(value, RECIPE[name]):
            raise ValueError(f"{path}: {name} must be a {RECIPE[name].__name__}; got {value!r}")
    return content


def _tasks(settings: Mapping[str, Any], data_dir: Path | None) -> dict[str, Task]:
    """The tasks, read once before anything is run, so that what is wrong with them is said at once."""
    from simplicial_reg.study.tasks import load_task

    trainings = {name: {**settings["training"], **settings["trainings"].get(name, {})} for name in settings["tasks"]}
    return {name: load_task(name, data_dir=data_dir, limit=trainings[name]["limit"]) for name in settings["tasks"]}


def _weights(settings: Mapping[str, Any], tasks: Mapping[str, Task]) -> dict[str, dict[str, str]]:
    """Hashes of the models for each task; each is built once, so that what is wrong with it is said before anything is run."""
    from simplicial_reg.study.models import fingerprint

    return {name: {model: fingerprint(model, task) for model in settings["models"]} for name, task in tasks.items()}


def _study(
    settings: Mapping[str, Any], tasks: Mapping[str, Task], weights: Mapping[str, Mapping[str, str]] | None = None
) -> Study:

    from simplicial_reg import __version__
    from simplicial_reg.study.models import learning_rates
    from simplicial_reg.study.training import definition
    from simplicial_reg.study.variants import VARIANTS

    fixed = settings["budget"] == 0
    spaces = {name: VARIANTS[name].defaults if fixed else VARIANTS[name].space for name in settings["variants"]}
    rates = learning_rates(settings["models"][0])
    own = {name: space for name, space in settings.get("spaces", {}).items() if name in spaces}
    return Study(
        tasks=tuple(settings["tasks"]),
        models=tuple(settings["models"]),
        variants=tuple(settings["variants"]),
        budget=settings["budget"],
        seeds=settings["seeds"],
        space={"learning_rate": _middle(rates) if fixed else rates, **settings.get("space", {})},
        spaces={name: space for name, space in {**spaces, **own}.items() if space},
        training=settings["training"],
        trainings=settings["trainings"],
        left_out=tuple(
            (task, name)
            for task in settings["tasks"]
            for name in settings["variants"]
            if not tasks[task].has_classes and VARIANTS[name].needs_classes
        ),
        data={name: task.fingerprint for name, task in tasks.items()},
        weights=weights or {},
        definitions={name: definition(name) for name in settings["variants"]},
        version=__version__,
    )


def _middle(rates: Any) -> float:
    """The middle of a range of learning rates, for a study that tunes nothing."""
    return float(f"{math.sqrt(rates['low'] * rates['high']):.3g}")


def _left_out(chosen: Study) -> list[str]:
    return [f"{variant} is left out of {task}: it needs classes" for task, variant in chosen.left_out]
