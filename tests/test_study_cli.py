"""``simplicial-reg study``: settings, what is refused, what is printed; and the recipes."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from simplicial_reg.cli import OneLineGroup
from simplicial_reg.study import cli, runner, training
from simplicial_reg.study.protocol import pending, plan
from simplicial_reg.study.record import Record
from simplicial_reg.study.runner import read_records, read_study
from simplicial_reg.study.variants import VARIANTS
from tests.study_fake import fake, number
from tests.study_tiny import encoder, pairs_task, span_task

for package in ("scipy", "sklearn", "matplotlib"):
    pytest.importorskip(package)

RECIPES = sorted((Path(__file__).parents[1] / "benchmarks" / "recipes").glob("*.toml"))
group = OneLineGroup("simplicial-reg")
group.add_command(cli.study)


def run(*arguments):
    return CliRunner().invoke(group, [str(argument) for argument in arguments])


def study(folder, *arguments):
    # One job, so that cells run in this process, where a test may have replaced them.
    return run("study", "--task", "digits", "--jobs", 1, "--out", folder, *arguments)


def refusal(*arguments):
    """The line of a command that fails for what the user gave it."""
    result = run("study", *arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code, result.stdout) == (2, "")
    said = result.stderr.splitlines()[-1]
    assert said.startswith("simplicial-reg: ")
    assert "Traceback" not in result.stderr
    return said.removeprefix("simplicial-reg: ")


@pytest.fixture
def faked(monkeypatch):
    """Cells that need no training."""

    def found(cell, *, data_dir=None, on_step=None):
        record = fake(cell, on_step=on_step)
        record.reported = {"accuracy": number(cell.key)} if cell.phase == "final" else {}
        return record

    monkeypatch.setattr(training, "run_cell", found)


# --- a study from the command line ---------------------------------------------------------------------------------------------------


def test_the_smallest_study_trains_and_ends_with_a_table_and_a_report(tmp_path):
    result = run("study", "--quick", "--steps", 2, "--limit", 64, "--out", tmp_path / "run", "--threads", 1)
    assert result.exit_code == 0, result.output
    assert "none" in result.stdout
    assert "persistent-entropy" in result.stdout
    assert result.stdout.rstrip().endswith(f"report: {tmp_path / 'run' / 'report.html'}")
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000
    records = read_records(tmp_path / "run")
    assert [record.status for record in records] == ["done"] * 6
    assert {record.cell.budget["steps"] for record in records} == {2}
    assert "[6/6]" in result.stderr
    assert "digits" in result.stderr.splitlines()[0]


@pytest.mark.usefixtures("faked")
def test_defaults_and_options_become_the_settings_of_the_study(tmp_path):
    result = study(tmp_path, "--variants", "istar, cosreg", "--budget", 3, "--seeds", 4, "--epochs", 2, "--limit", 100)
    assert result.exit_code == 0, result.output
    settings = read_study(tmp_path)
    assert (settings.tasks, settings.models) == (("digits",), ("vit-digits",))
    assert settings.variants == ("none", "istar", "cosreg")
    assert (settings.budget, settings.seeds) == (3, 4)
    assert (settings.training["epochs"], settings.training["limit"], settings.training["batch_size"]) == (2, 100, 32)
    assert set(settings.spaces) == {"istar", "cosreg"}
    assert len(read_records(tmp_path)) == 3 * 3 + 3 * 4


def test_without_arguments_four_variants_are_compared_on_docstrings_with_minilm():
    settings = cli._settings(None, False, {})
    assert (settings["tasks"], settings["models"]) == (["docstrings"], ["minilm"])
    assert settings["variants"] == ["none", "persistent-entropy", "istar", "cosreg"]


@pytest.mark.usefixtures("faked")
def test_with_a_budget_of_zero_the_variants_defaults_are_run(tmp_path):
    assert study(tmp_path, "--variants", "cosreg", "--budget", 0, "--seeds", 2).exit_code == 0
    cells = [record.cell for record in read_records(tmp_path)]
    assert {cell.phase for cell in cells} == {"final"}
    assert {json.dumps(cell.settings, sort_keys=True) for cell in cells} == {
        '{"fraction": 0.1, "learning_rate": 0.00158}',
        '{"learning_rate": 0.00158}',
    }


@pytest.mark.usefixtures("faked")
def test_the_same_command_again_runs_nothing_and_prints_the_same_table(tmp_path):
    first = study(tmp_path, "--seeds", 2)
    again = study(tmp_path, "--seeds", 2)
    assert again.exit_code == 0
    assert again.stdout == first.stdout
    assert "[" not in again.stderr


@pytest.mark.usefixtures("faked")
def test_another_command_in_the_same_folder_is_refused_with_what_differs(tmp_path):
    study(tmp_path, "--seeds", 2)
    said = refusal("--task", "digits", "--out", tmp_path, "--seeds", 3, "--epochs", 7)
    assert "holds a study with other settings: seeds: 2 there, 3 here; training.epochs: 12 there, 7 here" in said


@pytest.mark.usefixtures("faked")
def test_a_report_is_made_anew_of_the_records_alone(tmp_path):
    table = study(tmp_path, "--seeds", 2).stdout
    for path in tmp_path.iterdir():
        if path.is_file() and path.name != "records.jsonl":
            path.unlink()
    result = run("study", "report", tmp_path)
    assert (result.exit_code, result.stdout) == (0, table)
    assert (tmp_path / "report.html").exists()


@pytest.mark.usefixtures("faked")
def test_two_studies_are_compared(tmp_path):
    study(tmp_path / "a", "--seeds", 2)
    study(tmp_path / "b", "--seeds", 2, "--epochs", 3)
    result = run("study", "compare", tmp_path / "a", tmp_path / "b")
    assert result.exit_code == 0, result.output
    assert "epochs" in result.stdout


def test_failed_cells_are_said_at_the_end(tmp_path, monkeypatch):
    def some(cell, **_):
        if cell.variant == "istar":
            return Record(cell, "failed", error="RuntimeError: diverged")
        record = fake(cell)
        record.reported = {"accuracy": 0.5} if cell.phase == "final" else {}
        return record

    monkeypatch.setattr(training, "run_cell", some)
    result = study(tmp_path, "--variants", "istar", "--budget", 2, "--seeds", 2)
    assert result.exit_code == 0
    assert result.stderr.splitlines()[-1] == "2 of 6 cells failed; the first error: RuntimeError: diverged"


def test_a_study_of_which_every_cell_failed_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "run_cell", lambda cell, **_: Record(cell, "failed", error="RuntimeError: diverged"))
    said = refusal("--task", "digits", "--out", tmp_path)
    assert said == f"no cell of {tmp_path} succeeded; the first error: RuntimeError: diverged"


def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch):
    count = 0

    def interrupted(cell, **_):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return fake(cell)

    monkeypatch.setattr(training, "run_cell", interrupted)
    result = study(tmp_path)
    assert (result.exit_code, result.stdout) == (130, "")
    assert [line for line in result.stderr.splitlines() if line][-2:] == [
        f"2 cells are recorded in {tmp_path}; the same command goes on from there",
        "simplicial-reg: interrupted",
    ]


def test_a_real_ctrl_c_ends_with_130(tmp_path):
    code = """if True:
        import sys, time
        from simplicial_reg.cli import OneLineGroup
        from simplicial_reg.study import cli, training
        from tests.study_fake import fake

        def slow(cell, **_):
            time.sleep(0.2)
            return fake(cell)

        training.run_cell = slow
        group = OneLineGroup("simplicial-reg")
        group.add_command(cli.study)
        group.main(["study", "--task", "digits", "--jobs", "1", "--out", sys.argv[1], "--seeds", "50"])
    """
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    path, start = tmp_path / "records.jsonl", time.monotonic()
    while not (path.exists() and path.stat().st_size) and process.poll() is None and time.monotonic() - start < 60:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, "")
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    assert path.read_bytes().endswith(b"\n")


def test_embeddings_and_spans_are_tasks_of_the_command(tmp_path):
    pytest.importorskip("transformers")
    model = encoder(tmp_path / "model")
    for task, metric in ((pairs_task(tmp_path, "similarity"), "spearman"), (span_task(tmp_path), "f1")):
        out = tmp_path / metric
        options = ["--variants", "koleo,shrink-the-longest", "--budget", 0, "--seeds", 1, "--steps", 1, "--threads", 1]
        result = run("study", "--task", task, "--model", model, "--out", out, "--jobs", 1, "--max-length", 40, *options)
        assert result.exit_code == 0, result.output
        assert f"{metric} in points" in result.stdout
        assert "shrink-the-longest is left out" in result.stderr
        assert {record.cell.variant for record in read_records(out)} == {"none", "koleo"}


# --- what is refused ---------------------------------------------------------------------------------------------------------------


def test_unknown_names_are_refused_with_the_nearest(tmp_path):
    assert "got 'mrcp'; the nearest are mrpc" in refusal("--task", "mrcp", "--out", tmp_path)
    assert "got 'istr'; the nearest are istar" in refusal("--task", "digits", "--variants", "istr", "--out", tmp_path)
    assert not (tmp_path / "study.json").exists()


def test_missing_data_are_refused_before_anything_runs(tmp_path):
    said = refusal("--task", "mrpc", "--data-dir", tmp_path / "nowhere", "--out", tmp_path / "run")
    assert "nowhere" in said
    assert not (tmp_path / "run").exists()


def test_a_model_that_is_not_there_is_refused_before_anything_runs(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = refusal("--model", tmp_path / "nothing", "--limit", 16, "--out", tmp_path / "run")
    assert "nothing" in said
    assert not (tmp_path / "run").exists()


def test_tasks_that_need_different_models_are_refused(tmp_path):
    said = refusal("--task", "digits", "--task", "docstrings", "--out", tmp_path)
    assert "the tasks need different models (vit-digits for digits, minilm for docstrings)" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "1", "--epochs", "1"], "--steps and --epochs say the same thing in two ways; give one"),
        (["--budget", "-1"], "Invalid value for '--budget'"),
        (["--seeds", "0"], "Invalid value for '--seeds'"),
        (["--executor", "slurm"], "Invalid value for '--executor'"),
        (["--jobs", "0"], "Invalid value for '--jobs'"),
        (["--scheduler", "tcp://x"], 'scheduler must be None with executor="local"'),
        (["--recipe", "nowhere.toml"], "nowhere.toml"),
        (["report", "nowhere"], "nowhere is not a folder; give one that simplicial-reg study has made"),
        (["compare", "nowhere", "there"], "nowhere is not a folder"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
)
def test_bad_usage_is_one_line(tmp_path, arguments, message):
    options = [] if arguments[0].isalpha() else ["--task", "digits", "--out", tmp_path]
    assert message in refusal(*options, *arguments)


def test_a_folder_without_records_is_refused(tmp_path):
    assert "holds no records; run simplicial-reg study --out" in refusal("report", tmp_path)


def test_a_full_disk_is_one_line_and_leaves_whole_records(tmp_path, monkeypatch):
    def full(cell, **_):
        monkeypatch.setattr(os, "fsync", fail)
        return fake(cell)

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training, "run_cell", full)
    said = refusal("--task", "digits", "--jobs", 1, "--out", tmp_path)
    assert "a record could not be written (No space left on device); those before it are whole" in said
    assert read_records(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tasks = [", "is not TOML"),
        ("colour = 1", "'colour' is not a setting; there are title, tasks"),
        ('tasks = "mrpc"', "tasks must be a list; got 'mrpc'"),
        ("budget = 1.5", "budget must be a int; got 1.5"),
        ('variants = ["istr"]\ntasks = ["digits"]', "got 'istr'; the nearest are istar"),
        ('tasks = ["digits"]\n[training]\nepoch = 1', "got epoch"),
        ('tasks = ["digits"]\n[trainings.digits]\nepoch = 1', "got epoch"),
        (
            'tasks = ["digits"]\n[trainings]\ndigits = 1',
            "trainings must be of tables, one for each task; got digits = 1",
        ),
        ('tasks = ["digits"]\n[spaces.istra]\nweight = 1', "got 'istra'"),
        ('tasks = ["digits"]\n[space]\nlearning_rate = { low = 1 }', "learning_rate must be {low, high, scale}"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_refused(tmp_path, content, message):
    path = tmp_path / "recipe.toml"
    path.write_text(content)
    assert message in refusal("--recipe", path, "--out", tmp_path / "run")


class _Classes:
    """A task of which nothing has to be read."""

    has_classes = True
    fingerprint = "0" * 16


class _Numbers(_Classes):
    has_classes = False


def write_factory(folder: Path, width: int) -> None:
    (folder / "some_factory.py").write_text(
        "from torch import nn\n\n\ndef factory(task):\n"
        f"    return nn.Sequential(nn.Flatten(), nn.Linear(64, {width}), nn.ReLU(), nn.Linear({width}, task.num_labels))\n"
    )
    sys.modules.pop("some_factory", None)
    importlib.invalidate_caches()


@pytest.mark.usefixtures("faked")
def test_what_a_name_stands_for_is_a_part_of_the_study_and_of_every_key(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a file may be written twice in the resolution of its time
    write_factory(tmp_path, 4)
    command = ("--model", "some_factory:factory", "--variants", "cosreg", "--seeds", 2)
    assert study(tmp_path / "run", *command).exit_code == 0
    keys = {record.cell.key for record in read_records(tmp_path / "run")}
    contents = [record.cell.contents for record in read_records(tmp_path / "run")]
    assert all({"data", "model", "variant", "version"} <= set(content) for content in contents)
    assert study(tmp_path / "run", *command).exit_code == 0  # the same again

    write_factory(tmp_path, 8)
    result = study(tmp_path / "run", *command)
    assert result.exit_code == 2
    assert "weights.digits.some_factory:factory: " in result.stderr
    study(tmp_path / "other", *command)
    assert keys.isdisjoint(record.cell.key for record in read_records(tmp_path / "other"))

    write_factory(tmp_path, 4)
    monkeypatch.setitem(VARIANTS, "cosreg", replace(VARIANTS["cosreg"], tap={"layer": "last", "pooling": "tokens"}))
    result = study(tmp_path / "run", *command)
    assert result.exit_code == 2
    assert "definitions.cosreg.cloud.pooling: head there, tokens here" in result.stderr


@pytest.mark.usefixtures("faked")
def test_models_that_are_trained_in_different_ways_are_not_in_one_study(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    write_factory(tmp_path, 4)
    result = study(tmp_path / "run", "--model", "some_factory:factory", "--model", "vit-digits")
    assert result.exit_code == 2
    assert "are trained in different ways, one of them from scratch; make a study of each" in result.stderr


@pytest.mark.usefixtures("faked")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[trainings.digitz]\nsteps = 5\n", "got 'digitz'; the nearest are digits"),
        ("[spaces.cosreg]\nwieght = [1.0]\n", "a setting of cosreg must be one of"),
        ("[spaces.cosreg]\nweight = -1.0\n", "weight must be"),
        ("[space]\nmomentum = [0.8, 0.9]\n", "a setting of cosreg must be one of"),
        ("[space]\nschedule = ['linear', 'sine']\n", "schedule must be one of"),
    ],
)
def test_what_no_cell_could_be_run_with_is_said_before_any_is(tmp_path, text, said):
    path = tmp_path / "recipe.toml"
    path.write_text('tasks = ["digits"]\nvariants = ["none", "cosreg"]\nbudget = 2\nseeds = 2\n' + text)
    result = run("study", "--recipe", path, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "run" / "records.jsonl").exists()


@pytest.mark.usefixtures("faked")
def test_a_setting_of_regularizers_in_a_study_without_any_is_refused(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('tasks = ["digits"]\nvariants = ["none"]\nbudget = 2\nseeds = 2\n[space]\nmemory = [0, 64]\n')
    result = run("study", "--recipe", path, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "where there is no regularizer; got memory" in result.stderr


def test_variants_that_need_classes_are_left_out_of_regression_tasks_and_that_is_said():
    settings = cli._settings(None, False, {"tasks": ("stsb", "mrpc"), "variants": "shrink-the-longest,istar"})
    made = cli._study(settings, {"stsb": _Numbers(), "mrpc": _Classes()})
    assert made.left_out == (("stsb", "shrink-the-longest"),)
    assert cli._left_out(made) == ["shrink-the-longest is left out of stsb: it needs classes"]
    assert ("stsb", "shrink-the-longest") not in {(cell.task, cell.variant) for cell in plan(made)}
    assert ("mrpc", "shrink-the-longest") in {(cell.task, cell.variant) for cell in plan(made)}


# --- recipes -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("faked")
def test_options_win_over_a_recipe_and_a_recipe_over_the_defaults(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(
        'title = "mine"\ntasks = ["digits"]\nvariants = ["none", "istar"]\nbudget = 1\nseeds = 9\n'
        "[training]\nepochs = 3\nbatch_size = 8\n[space]\nlearning_rate = [1e-3, 2e-3]\n[spaces.istar]\nweight = 0.5\n"
    )
    result = run("study", "--recipe", path, "--seeds", 2, "--steps", 5, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("mine\n")
    settings = read_study(tmp_path / "run")
    assert (settings.budget, settings.seeds, settings.variants) == (1, 2, ("none", "istar"))
    assert (settings.training["batch_size"], settings.training["steps"]) == (8, 5)
    assert settings.spaces == {"istar": {"weight": 0.5}}
    assert settings.space == {"learning_rate": [1e-3, 2e-3]}


@pytest.mark.usefixtures("faked")
def test_a_recipe_may_train_one_task_differently_and_options_win_over_that_too(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(
        'tasks = ["digits"]\nbudget = 1\nseeds = 1\n[training]\nepochs = 3\nbatch_size = 8\n'
        "[trainings.digits]\nsteps = 5\nlimit = 64\n[trainings.mrpc]\nepochs = 9\n"
    )
    result = run("study", "--recipe", path, "--limit", 32, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    settings = read_study(tmp_path / "run")
    assert settings.trainings == {
        "digits": {"steps": 5, "epochs": 12}
    }  # the epochs, of no use beside steps, are the model's
    assert (settings.training["limit"], settings.training["epochs"]) == (32, 3)
    (record, *_) = read_records(tmp_path / "run")
    assert (record.cell.budget["steps"], record.cell.budget["limit"], record.cell.budget["batch_size"]) == (5, 32, 8)


def test_there_is_a_recipe_for_each_of_the_three_papers_and_for_the_studies_of_this_repository():
    assert [path.stem for path in RECIPES] == [
        "glue",
        "godey2023",
        "kudriashov2025",
        "rudman2024",
        "stsb_embedding",
        "stsb_embedding_control",
    ]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_setting_of_a_recipe_is_one_that_cells_have(path):
    settings = cli._settings(path, False, {})
    made = cli._study(settings, dict.fromkeys(settings["tasks"], _Classes()))
    cells = plan(made) or pending(made, [])  # a budget of zero plans no tuning
    assert cells
    for cell in cells:
        training.budget_for(cell.model, cell.budget)
        variant, _ = training._with_settings(cell.variant, cell.settings)
        if variant.regularizer is not None:
            training._regularizer(variant, cell.seed)


def test_the_recipe_in_the_documentation_is_one(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "study.md").read_text(encoding="utf-8")
    path = tmp_path / "recipe.toml"
    path.write_text(page.partition("## A recipe")[2].partition("```toml\n")[2].partition("```")[0])
    settings = cli._settings(path, False, {})
    cells = plan(cli._study(settings, {"mrpc": _Classes()}))
    assert {cell.variant for cell in cells} == {"none", "istar"}
    assert all(
        set(cell.settings) == {"learning_rate", "weight", "shrinkage"} for cell in cells if cell.variant == "istar"
    )


def test_the_recipe_of_kudriashov_has_both_signs_and_clouds_of_64_points():
    settings = cli._settings(RECIPES[0].with_name("kudriashov2025.toml"), False, {})
    within = {}
    for variant in ("shrink-the-longest", "shrink-the-longest-corrected"):
        made = {**settings["space"], **settings["spaces"][variant]}
        found, _ = training._with_settings(variant, made)
        within[variant] = found.options["within"]
        assert (made["weight"], found.tap["memory"], found.options["per_label"]) == (2.0, 0, True)
    assert within == {"shrink-the-longest": -0.05, "shrink-the-longest-corrected": 0.05}
    assert settings["training"]["batch_size"] * settings["training"]["accumulation"] == 64


def test_the_help_names_every_option():
    result = run("study", "--help")
    assert result.exit_code == 0
    for option in ("--task", "--variants", "--budget", "--seeds", "--recipe", "--executor", "--batch-size", "report"):
        assert option in result.stdout


def test_the_command_line_imports_nothing_heavy_before_it_is_used():
    heavy = ("transformers", "sklearn", "scipy", "joblib", "rich", "matplotlib")
    code = f"import sys, simplicial_reg.study.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert isinstance(cli.study, click.Group)


@pytest.mark.parametrize(("cores", "jobs"), [(1, 1), (2, 2), (64, 4)])
def test_by_default_a_cell_runs_on_each_core_of_up_to_four(cores, jobs, monkeypatch):
    monkeypatch.setattr(runner, "cores", lambda: cores)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli._default_jobs("local") == jobs
    assert cli._default_jobs("dask") == 1  # all there is room for
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cli._default_jobs("local") == 1
