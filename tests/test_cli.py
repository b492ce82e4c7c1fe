"""The command line: what it prints, what it writes, how it fails."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from simplicial_reg import (
    ENGINES,
    __version__,
    _memory,
    cli,
    forecast,
    progress,
    prominent,
    rips_barcode,
    select_engine,
)
from simplicial_reg._files import whole_file
from simplicial_reg.forecast import Options, check_memory, expected_seconds, needed_memory

POINTS = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
DEFAULTS = Options(max_dim=1, metric="euclidean", threshold=math.inf, essential="drop", engine="auto")


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """On a machine where nothing is compiled yet, the kernels would announce that on the stderr that is looked at below."""
    for points in (POINTS, POINTS.double()):
        rips_barcode(points, 0, metric="manhattan")
        rips_barcode(points, 1)
        rips_barcode(torch.cdist(points, points), 1, metric="precomputed")


@pytest.fixture
def cloud(tmp_path):
    path = tmp_path / "cloud.npy"
    np.save(path, POINTS.numpy())
    return path


def run(*arguments):
    return CliRunner().invoke(cli.group, [str(argument) for argument in arguments])


def printed(*arguments):
    """Stdout of a command that works, and nothing else."""
    result = run(*arguments)
    assert result.exception is None, result.output
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def report(*arguments):
    return json.loads(printed("barcode", *arguments, "--json"))


def refusal(*arguments):
    """The line of a command that fails for what the user gave it."""
    result = run(*arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("simplicial-reg: ")
    assert result.stderr.endswith("\n")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("simplicial-reg: ").rstrip("\n")


# --- what is printed -------------------------------------------------------------------------------------------------------------


def test_the_report_says_what_was_computed_and_how(cloud):
    found = report(cloud)
    assert found.pop("seconds") >= 0
    assert [dimension["dimension"] for dimension in found.pop("dimensions")] == [0, 1]
    assert found == {
        "file": str(cloud),
        "key": None,
        "rows": 40,
        "sample": None,
        "n": 40,
        "d": 3,
        "dtype": "float32",
        "metric": "euclidean",
        "threshold": None,
        "essential": "drop",
        "engine": "cohomology",
        "engine_reason": select_engine(1, "cpu", 40).reason,
        "version": __version__,
    }


def test_the_quantities_of_a_square_are_those_of_a_square(tmp_path):
    (tmp_path / "square.csv").write_text("0,0\n1,0\n1,1\n0,1\n")
    components, loops = report(tmp_path / "square.csv")["dimensions"]
    assert components.pop("longest_bars")[0] == {
        "birth": 0.0,
        "death": 1.0,
        "persistence": 1.0,
        "birth_edge": [1, 1],
        "death_edge": [1, 0],
    }
    assert components.pop("entropy") == pytest.approx(math.log(3))
    assert components == {
        "dimension": 0,
        "bars": 3,
        "infinite_bars": 0,
        "total_persistence": 3.0,
        "longest": 1.0,
        "normalized_entropy": 1.0,
        "deficit": 0.0,
        "prominent_bars": 3,
    }
    assert loops["bars"] == 1
    assert loops["longest"] == pytest.approx(math.sqrt(2) - 1)


def test_quantities_are_those_of_the_library(cloud):
    from simplicial_reg import entropy_deficit, normalized_persistent_entropy, persistent_entropy

    for bars, dimension in zip(rips_barcode(POINTS, 1), report(cloud)["dimensions"], strict=True):
        assert dimension["bars"] == len(bars)
        assert dimension["total_persistence"] == pytest.approx(bars.persistence.sum().item())
        assert dimension["longest"] == bars.persistence.max().item()
        assert dimension["entropy"] == persistent_entropy(bars).item()
        assert dimension["normalized_entropy"] == normalized_persistent_entropy(bars).item()
        assert dimension["deficit"] == entropy_deficit(bars).item()
        assert dimension["prominent_bars"] == len(prominent(bars))


def test_the_longest_bars_come_first_and_their_edges_have_their_lengths(cloud):
    for dimension in report(cloud, "--longest", 7)["dimensions"]:
        bars = dimension["longest_bars"]
        persistence = [bar["persistence"] for bar in bars]
        assert len(bars) == min(7, dimension["bars"])
        assert persistence == sorted(persistence, reverse=True)
        assert persistence[0] == dimension["longest"]
        for bar in bars:
            for value, (u, v) in ((bar["birth"], bar["birth_edge"]), (bar["death"], bar["death_edge"])):
                assert torch.dist(POINTS[u], POINTS[v]).item() == pytest.approx(value, rel=1e-5)


def test_the_tables_are_aligned(cloud):
    text = printed("barcode", cloud, "--sample", 20, "--seed", 3)
    facts, summary, components, *_ = text.rstrip("\n").split("\n\n")
    assert f"file       {cloud}\nn          20 of 40 rows, --sample 20 --seed 3\nd          3, float32\n" in facts
    assert f"engine     cohomology ({select_engine(1, 'cpu', 20).reason})\n" in facts
    header, *rows = summary.splitlines()
    assert header.split() == [
        "bars", "infinite", "total", "persistence", "longest", "entropy", "normalized", "deficit", "prominent",
    ]  # fmt: skip
    assert rows[0].split()[:2] == ["H0", "19"]
    assert len({len(line) for line in (header, *rows)}) == 1
    title, header, *rows = components.splitlines()
    assert title == "H0, the 5 longest bars"
    assert header.split() == ["birth", "death", "persistence", "birth", "edge", "death", "edge"]
    assert len(rows) == 5
    assert len({len(line) for line in (header, *rows)}) == 1


def test_one_point_has_no_bars(tmp_path):
    np.save(tmp_path / "one.npy", np.ones((1, 2)))
    for dimension in report(tmp_path / "one.npy")["dimensions"]:
        assert dimension["bars"] == dimension["prominent_bars"] == 0
        assert dimension["entropy"] == dimension["deficit"] == 0
        assert dimension["longest_bars"] == []
    assert "longest bar" not in printed("barcode", tmp_path / "one.npy")


def test_equal_points_have_bars_of_length_zero(tmp_path):
    np.save(tmp_path / "equal.npy", np.ones((5, 2)))
    components, loops = report(tmp_path / "equal.npy")["dimensions"]
    assert (components["bars"], components["longest"], components["entropy"]) == (4, 0, 0)
    assert loops["bars"] == 0


def test_infinite_bars_are_null_in_json_and_inf_in_tables(cloud):
    components, _ = report(cloud, "--essential", "infinite")["dimensions"]
    assert (components["bars"], components["infinite_bars"]) == (40, 1)
    longest = components["longest_bars"][0]
    assert longest["death"] is longest["persistence"] is longest["death_edge"] is None
    assert math.isfinite(components["total_persistence"])
    row = printed("barcode", cloud, "--essential", "infinite").split("H0, the 5 longest bars\n")[1].splitlines()[1]
    assert row.split() == ["0", "inf", "inf", "0", "-"]


def test_options_reach_the_barcode(cloud):
    found = report(
        cloud, "--max-dim", 0, "--metric", "manhattan", "--threshold", 1.5, "--essential", "enclosing_radius"
    )
    (bars,) = rips_barcode(POINTS, 0, metric="manhattan", threshold=1.5, essential="enclosing_radius")
    assert found["threshold"] == 1.5
    assert found["engine"] == "spanning-tree"
    (dimension,) = found["dimensions"]
    assert dimension["total_persistence"] == pytest.approx(bars.persistence.sum().item())
    assert "threshold  1.5\n" in printed("barcode", cloud, "--threshold", 1.5)


@pytest.mark.parametrize("engine", ["reference", "cohomology", "gudhi", "ripser"])
def test_an_engine_can_be_asked_for(cloud, engine):
    found = report(cloud, "--engine", engine)
    assert (found["engine"], found["engine_reason"]) == (engine, "asked for by --engine")
    assert found["dimensions"] == report(cloud)["dimensions"]


def test_distances_can_be_given(tmp_path, cloud):
    np.save(tmp_path / "distances.npy", torch.cdist(POINTS.double(), POINTS.double()).numpy())
    given = report(tmp_path / "distances.npy", "--metric", "precomputed", "--sample", 25)
    computed = report(cloud, "--sample", 25)
    assert (given["n"], given["d"]) == (25, None)
    for a, b in zip(given["dimensions"], computed["dimensions"], strict=True):
        assert a["total_persistence"] == pytest.approx(b["total_persistence"], rel=1e-5)
        assert [bar["death_edge"] for bar in a["longest_bars"]] == [bar["death_edge"] for bar in b["longest_bars"]]
    assert "d          (distances are given), float64" in printed(
        "barcode", tmp_path / "distances.npy", "--metric", "precomputed"
    )


def test_a_key_chooses_the_array_and_is_printed(tmp_path):
    np.savez(tmp_path / "two.npz", a=np.ones((3, 2)), b=POINTS.numpy())
    assert report(tmp_path / "two.npz", "--key", "b")["key"] == "b"
    assert f"file       {tmp_path / 'two.npz'}, array 'b'\n" in printed("barcode", tmp_path / "two.npz", "--key", "b")


def test_half_precision_is_read(tmp_path):
    torch.save(POINTS.bfloat16(), tmp_path / "cloud.pt")
    found = report(tmp_path / "cloud.pt")
    assert found["dtype"] == "bfloat16"
    assert found["dimensions"][0]["total_persistence"] == pytest.approx(
        rips_barcode(POINTS.bfloat16())[0].persistence.sum().item()
    )


# --- samples ---------------------------------------------------------------------------------------------------------------------


def test_a_sample_depends_on_its_seed_only(cloud):
    one, same, other = (report(cloud, "--sample", 20, "--seed", seed)["dimensions"] for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_edges_of_a_sample_are_rows_of_the_file(tmp_path, cloud):
    printed("barcode", cloud, "--sample", 15, "--save", tmp_path / "bars.npz", "--essential", "infinite")
    with np.load(tmp_path / "bars.npz") as saved:
        rows = saved["rows"]
        assert len(set(rows)) == 15
        assert (np.diff(rows) > 0).all()
        assert set(saved["birth_edge_0"].flat) == set(rows)
        finite = np.isfinite(saved["death_0"])
        assert (saved["death_edge_0"][~finite] == -1).all()
        u, v = saved["death_edge_0"][finite].T
        assert np.allclose(np.linalg.norm(POINTS.numpy()[u] - POINTS.numpy()[v], axis=1), saved["death_0"][finite])


def test_samples_are_uniform(tmp_path):
    np.save(tmp_path / "line.npy", np.arange(8.0)[:, None])
    drawn = []
    for seed in range(200):
        points = cli._sampled(tmp_path, None, torch.arange(8.0)[:, None], False, 3, seed).rows
        drawn += points.tolist()
    counts = np.bincount(drawn, minlength=8)
    assert ((counts - 75) ** 2 / 75).sum() < 24.3  # chi-squared, 7 degrees of freedom, p = 0.001; the seeds are fixed


def test_a_sample_larger_than_the_file_is_all_of_it(cloud):
    found = report(cloud, "--sample", 100)
    assert found["n"] == 40
    assert found["dimensions"] == report(cloud)["dimensions"]
    assert "n          40, --sample 100 --seed 0 (there are no more)\n" in printed("barcode", cloud, "--sample", 100)


# --- files that are written ------------------------------------------------------------------------------------------------------


def test_saved_bars_are_all_bars(tmp_path, cloud):
    printed("barcode", cloud, "--save", tmp_path / "bars.npz")
    with np.load(tmp_path / "bars.npz") as saved:
        names = [f"{name}_{dim}" for dim in (0, 1) for name in ("birth", "death", "birth_edge", "death_edge")]
        assert sorted(saved.files) == sorted(["rows", *names])
        assert saved["rows"].tolist() == list(range(40))
        for bars in rips_barcode(POINTS, 1):
            assert np.array_equal(np.stack([saved[f"birth_{bars.dim}"], saved[f"death_{bars.dim}"]], 1), bars.numpy())
            assert np.array_equal(saved[f"death_edge_{bars.dim}"], bars.death_edge.numpy())


@pytest.mark.parametrize(
    ("name", "start"), [("bars.png", b"\x89PNG"), ("bars.svg", b"<?xml"), ("bars.PNG", b"\x89PNG")]
)
def test_plots_are_written_in_the_format_of_their_suffix(tmp_path, cloud, name, start):
    printed("barcode", cloud, "--plot", tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


def test_nothing_else_is_left_in_the_folder(tmp_path, cloud):
    printed("barcode", cloud, "--plot", tmp_path / "bars.svg", "--save", tmp_path / "bars.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bars.npz", "bars.svg", "cloud.npy"]


def test_a_file_that_is_not_finished_does_not_replace_an_older_one(tmp_path):
    path = tmp_path / "bars.npz"
    path.write_text("older")

    def fail():
        with whole_file(path) as draft:
            draft.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, cloud, monkeypatch):
    def full(file, **arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert refusal("barcode", cloud, "--save", tmp_path / "bars.npz") == "[Errno 28] No space left on device"
    assert list(tmp_path.iterdir()) == [cloud]


# --- bad usage -------------------------------------------------------------------------------------------------------------------

USAGE = [
    (["nonsense"], "No such command 'nonsense'. (see simplicial-reg --help)"),
    (["--nonsense"], "No such option '--nonsense'. (see simplicial-reg --help)"),
    (["barcode"], "Missing argument 'FILE'. (see simplicial-reg barcode --help)"),
    (["barcode", "a.npy", "b.npy"], "Got unexpected extra argument (b.npy) (see simplicial-reg barcode --help)"),
    (["barcode", "a.npy", "--key"], "Option '--key' requires an argument."),
    (
        ["barcode", "a.npy", "--metric", "cosin"],
        "Invalid value for '--metric': 'cosin' is not one of 'euclidean', 'manhattan', 'chebyshev', 'cosine', 'angular', 'precomputed'. "
        "(see simplicial-reg barcode --help)",
    ),
    (
        ["barcode", "a.npy", "--max-dim", "-1"],
        "Invalid value for '--max-dim': -1 is not in the range x>=0. (see simplicial-reg barcode --help)",
    ),
    (
        ["barcode", "a.npy", "--sample", "0"],
        "Invalid value for '--sample': 0 is not in the range x>=1. (see simplicial-reg barcode --help)",
    ),
    (
        ["barcode", "a.npy", "--sample", "many"],
        "Invalid value for '--sample': 'many' is not a valid integer range. (see simplicial-reg barcode --help)",
    ),
    (["barcode", "a.npy", "--threshold", "-1"], "threshold must be a non-negative length; got -1.0"),
    (["barcode", "a.npy", "--threshold", "nan"], "threshold must be a non-negative length; got nan"),
    (
        ["barcode", "a.npy", "--save", "bars.txt"],
        "Invalid value for '--save': bars.txt must end in .npz (see simplicial-reg barcode --help)",
    ),
    (
        ["barcode", "a.npy", "--plot", "bars.pdf"],
        "Invalid value for '--plot': bars.pdf must end in .png or .svg (see simplicial-reg barcode --help)",
    ),
    (
        ["barcode", "a.npy", "--plot", "absent/bars.png"],
        "Invalid value for '--plot': the folder absent does not exist; make it first (see simplicial-reg barcode --help)",
    ),
]


@pytest.mark.parametrize(("arguments", "line"), USAGE)
def test_bad_usage_is_one_line_and_exit_code_2(arguments, line):
    assert refusal(*arguments) == line


def test_a_folder_is_no_target(tmp_path):
    (tmp_path / "bars.npz").mkdir()
    assert refusal("barcode", "a.npy", "--save", tmp_path / "bars.npz") == (
        f"Invalid value for '--save': {tmp_path / 'bars.npz'} is a directory; name a file in it (see simplicial-reg barcode --help)"
    )


def test_a_folder_that_cannot_be_written_to_is_found_out_first(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    assert refusal("barcode", "a.npy", "--save", tmp_path / "bars.npz") == (
        f"Invalid value for '--save': the folder {tmp_path} cannot be written to (see simplicial-reg barcode --help)"
    )


def test_the_input_is_never_overwritten(tmp_path):
    path = tmp_path / "cloud.npz"
    np.savez(path, points=POINTS.numpy())
    assert refusal("barcode", path, "--save", path) == f"--save would overwrite {path}; choose another name"


# --- bad input -------------------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_one_line():
    assert refusal("barcode", "absent.npy") == "absent.npy: no such file; check the name and the folder"


def test_what_the_reader_refuses_is_one_line(tmp_path):
    path = tmp_path / "cloud.csv"
    path.write_text("1,2\n3,cat\n")
    assert refusal("barcode", path) == (
        f"{path}: line 2, column 2 is 'cat', not a number; remove this column or this line"
    )


def test_what_the_library_refuses_names_the_file(tmp_path):
    path = tmp_path / "distances.npy"
    np.save(path, np.array([[0.0, 1.0], [2.0, 0.0]]))
    line = refusal("barcode", path, "--metric", "precomputed")
    assert line.startswith(f"{path}: points must be symmetric distances; d(i, j) and d(j, i) differ by up to 1;")


def test_the_message_about_a_large_file_is_about_all_of_it_and_not_about_a_subset(tmp_path):
    distances = torch.cdist(POINTS.double(), POINTS.double()).repeat(4, 4).numpy()
    distances[150, 3] += 5
    np.save(tmp_path / "distances.npy", distances)
    line = refusal("barcode", tmp_path / "distances.npy", "--metric", "precomputed")
    assert "differ by up to 5;" in line


def test_given_distances_must_be_square(cloud):
    assert refusal("barcode", cloud, "--metric", "precomputed", "--sample", 3) == (
        f"{cloud}: --metric precomputed needs a matrix of distances (n, n); got shape (40, 3)"
    )


def test_an_engine_is_not_asked_for_more_than_it_can(cloud):
    assert refusal("barcode", cloud, "--engine", "cohomology", "--max-dim", 2) == (
        "--engine cohomology computes homology up to dimension 1; use --max-dim 1 or --engine auto"
    )


def test_a_missing_peer_names_the_extra(cloud, monkeypatch):
    monkeypatch.setitem(sys.modules, "gudhi", None)
    line = refusal("barcode", cloud, "--engine", "gudhi")
    assert line.endswith("engine 'gudhi' needs the package gudhi: pip install \"simplicial_reg[peers]\"")


def test_missing_safetensors_names_the_extra(tmp_path, monkeypatch):
    path = tmp_path / "cloud.safetensors"
    path.touch()
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert (
        refusal("barcode", path) == f'{path}: reading .safetensors needs safetensors: pip install "simplicial_reg[hf]"'
    )


def test_missing_matplotlib_is_found_out_before_anything_is_computed(cloud, monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(cli, "read_points", lambda *arguments: pytest.fail("the file was read"))
    assert refusal("barcode", cloud, "--plot", cloud.with_name("bars.png")) == (
        'plots need matplotlib: pip install "simplicial_reg[plots]"'
    )


def test_an_error_that_is_not_the_users_keeps_its_traceback(cloud, monkeypatch):
    def broken(*arguments, **options):
        raise KeyError("a bug")

    monkeypatch.setattr(progress, "rips_barcode", broken)
    result = run("barcode", cloud)
    assert isinstance(result.exception, KeyError)
    assert result.exit_code == 1


# --- memory ----------------------------------------------------------------------------------------------------------------------


def test_the_forecast_is_square_in_the_number_of_points():
    assert needed_memory(DEFAULTS, "cohomology", 1000, torch.float32) == 22 * 1000**2
    assert needed_memory(DEFAULTS, "cohomology", 1000, torch.bfloat16) == 22 * 1000**2
    assert needed_memory(DEFAULTS, "cohomology", 1000, torch.float64) == 26 * 1000**2
    assert needed_memory(DEFAULTS._replace(max_dim=0), "spanning-tree", 1000, torch.float32) == 4 * 1000**2


def test_gudhi_is_forecast_by_its_simplices():
    simplices = 300 + math.comb(300, 2) + math.comb(300, 3)
    assert needed_memory(DEFAULTS, "gudhi", 300, torch.float32) == 64 * 300**2 + 64 * simplices
    assert needed_memory(DEFAULTS._replace(threshold=1.0), "gudhi", 300, torch.float32) == 64 * 300**2


def test_large_clouds_are_forecast_by_their_lists_unless_all_distances_are_given_anyway():
    h0 = DEFAULTS._replace(max_dim=0)
    assert forecast.chosen_engine(h0, 100_000).engine == "blocked"
    assert needed_memory(h0, "blocked", 100_000, torch.float32, 384) < 2 * 10**9
    check_memory(h0, "blocked", 100_000, torch.float32, 2 * 10**9, 384)
    with pytest.raises(
        ValueError, match=r"H0 of 10000000 points needs about 21\.6 GB .* engine blocked .* use --sample"
    ):
        check_memory(h0, "blocked", 10_000_000, torch.float32, 2 * 10**9, 96)
    given = h0._replace(metric="precomputed")
    assert forecast.chosen_engine(given, 100_000).engine == "spanning-tree"
    assert needed_memory(given, "blocked", 100_000, torch.float32) == 4 * 100_000**2


def test_every_engine_has_a_forecast():
    assert set(forecast.APPETITES) == set(ENGINES)


def test_what_does_not_fit_is_refused_with_a_sample_that_does():
    with pytest.raises(ValueError, match="--sample") as caught:
        check_memory(DEFAULTS, "cohomology", 100_000, torch.float32, 10**8)
    assert str(caught.value) == (
        "H1 of 100000 points needs about 220 GB of memory with the engine cohomology and 0.1 GB are available; use --sample 1900"
    )
    check_memory(DEFAULTS, "cohomology", 20_000, torch.float32, 10 * 10**9)


def test_h0_alone_is_offered_where_it_fits():
    with pytest.raises(ValueError, match=r"; use --sample 19000 or --max-dim 0$"):
        check_memory(DEFAULTS, "cohomology", 40_000, torch.float32, 10 * 10**9)


def test_nothing_is_refused_where_the_memory_is_not_known():
    check_memory(DEFAULTS, "cohomology", 10**7, torch.float32, None)


def test_too_many_points_are_one_line_and_exit_code_2(cloud, monkeypatch):
    monkeypatch.setattr(cli, "available_memory", lambda: 10_000)
    assert refusal("barcode", cloud) == (
        "H1 of 40 points needs about 0.0 GB of memory with the engine cohomology and 0.0 GB are available; "
        "use --sample 19 or --max-dim 0"
    )


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_running_out_of_memory_after_all_is_one_line(cloud, monkeypatch, error):
    def hungry(*arguments, **options):
        raise error

    monkeypatch.setattr(progress, "rips_barcode", hungry)
    assert refusal("barcode", cloud) == f"{cloud}: out of memory; use --sample"


def test_the_available_memory_is_what_the_machine_and_the_container_leave(tmp_path, monkeypatch):
    assert _memory.available_memory() > 10**6
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("4000\n")
    (tmp_path / "memory.stat").write_text("anon 900\ninactive_file 500\n")
    assert _memory._from_control_group(tmp_path) == 1500
    (tmp_path / "memory.max").write_text("max\n")
    assert _memory._from_control_group(tmp_path) is None
    assert _memory._from_control_group(tmp_path / "absent") is None
    monkeypatch.setattr(_memory, "_from_control_group", lambda: 1500)
    assert _memory.available_memory() == 1500


# --- time ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("exponent", "max_dim"), [(2, 0), (2.5, 1), (3, 1), (4, 2)])
def test_the_estimate_of_a_power_law_is_exact(exponent, max_dim):
    assert expected_seconds(lambda n: 1e-9 * n**exponent, 100_000, max_dim) == pytest.approx(1e-9 * 100_000**exponent)


def test_the_exponent_is_kept_between_that_of_the_distances_and_that_of_the_simplices():
    assert expected_seconds(lambda n: 1e-4 * n, 100_000, 1) == pytest.approx(2.5 * 4**2)
    assert expected_seconds(lambda n: 1e-20 * n**5, 100_000, 1) == pytest.approx(1e-20 * 25_000**5 * 4**3)


def test_what_is_over_at_once_is_not_estimated():
    timed = []
    assert expected_seconds(lambda n: timed.append(n) or 1e-4, 1000, 1) is None
    assert timed == [125]
    assert expected_seconds(lambda n: pytest.fail("too few points to time"), 10, 1) is None


class Terminal(io.StringIO):
    def isatty(self):
        return True


def drawn(monkeypatch, stream, steps):
    monkeypatch.setattr(sys, "stderr", stream)
    line = progress.ProgressLine("H0 and H1 of 9000 points")
    for elapsed, expected in steps:
        line.show(elapsed, expected)
    line.clear()
    return stream.getvalue()


def test_a_terminal_shows_a_bar_with_the_estimate(monkeypatch):
    text = drawn(monkeypatch, Terminal(), [(0.1, 40.0), (10.0, 40.0), (45.0, 40.0)])
    assert text.split("\r\x1b[K") == [
        "",
        "H0 and H1 of 9000 points: [....................] 0 s of about 40 s",
        "H0 and H1 of 9000 points: [#####...............] 10 s of about 40 s",
        "H0 and H1 of 9000 points: 45 s, longer than the estimated 40 s",
        "",  # and at the end it is gone
    ]


def test_a_terminal_shows_the_elapsed_time_where_there_is_no_estimate(monkeypatch):
    assert drawn(monkeypatch, Terminal(), [(0.1, None)]) == ""
    assert drawn(monkeypatch, Terminal(), [(3.0, None)]) == "\r\x1b[KH0 and H1 of 9000 points: 3 s\r\x1b[K"


def test_elsewhere_one_line_is_printed_after_two_seconds(monkeypatch):
    steps = [(0.1, 600.0), (3.0, 600.0), (4.0, 600.0)]
    line = "simplicial-reg: computing H0 and H1 of 9000 points, about 10 min\n"
    assert drawn(monkeypatch, io.StringIO(), steps) == line
    assert drawn(monkeypatch, io.StringIO(), [(0.1, None)]) == ""
    assert drawn(monkeypatch, io.StringIO(), [(3.0, None)]) == "simplicial-reg: computing H0 and H1 of 9000 points\n"


def test_a_long_computation_is_announced_on_stderr_and_json_stays_json(cloud, monkeypatch):
    def slow(points, *arguments, **options):
        if len(points) == 40:
            time.sleep(0.3)
        return rips_barcode(points, *arguments, **options)

    monkeypatch.setattr(progress, "LONG", 0.1)
    monkeypatch.setattr(progress, "rips_barcode", slow)
    result = run("barcode", cloud, "--json")
    assert result.stderr == "simplicial-reg: computing H0 and H1 of 40 points\n"
    assert json.loads(result.stdout)["seconds"] >= 0.3


# --- the program -----------------------------------------------------------------------------------------------------------------


def test_without_a_command_the_help_is_shown():
    assert printed().startswith("Usage: simplicial-reg [OPTIONS]")


def test_the_version_is_that_of_the_package():
    assert printed("--version") == f"simplicial-reg, version {__version__}\n"


def test_the_help_documents_every_option():
    text = printed("barcode", "-h")
    assert "[default: 1; x>=0]" in text
    for parameter in cli.barcode.params:
        assert isinstance(parameter, click.Argument) or parameter.opts[0] in text


def test_an_interrupt_is_one_line_and_exit_code_130(cloud, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "with_progress", interrupted)
    result = run("barcode", cloud)
    assert result.exit_code == 130
    assert result.stderr.strip() == "simplicial-reg: interrupted"
    assert result.stdout == ""


def python(*arguments, **options):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        timeout=120,
        check=False,
        **{"text": True, **options},
    )


@pytest.mark.parametrize("module", ["simplicial_reg", "simplicial_reg.cli"])
def test_the_package_runs_as_a_program(cloud, module):
    done = python("-m", module, "barcode", cloud, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["n"] == 40


@pytest.mark.parametrize("module", ["simplicial_reg", "simplicial_reg.cli"])
def test_the_program_ends_with_2_and_one_line_for_bad_input(tmp_path, module):
    done = python("-m", module, "barcode", tmp_path / "absent.npy")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"simplicial-reg: {tmp_path / 'absent.npy'}: no such file; check the name and the folder\n"


def test_a_terminal_without_the_right_letters_gets_escapes_and_no_traceback(cloud):
    named = cloud.rename(cloud.with_name("Borůvka.npy"))
    western = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "1"}  # the second for the arguments
    done = python("-m", "simplicial_reg", "barcode", named, "--max-dim", 0, env=western, encoding="latin-1")
    assert done.returncode == 0
    assert "Bor\\u016fvka.npy" in done.stdout


def test_an_interrupt_ends_the_program_at_once_with_130(cloud):
    code = (
        "import sys, time\n"
        "from simplicial_reg import cli, progress\n"
        "def endless(*arguments, **options):\n"
        "    print('started', flush=True)\n"
        "    time.sleep(600)\n"
        "progress.rips_barcode = endless\n"
        f"sys.argv = ['simplicial-reg', 'barcode', {str(cloud)!r}]\n"
        "cli.main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        try:
            _, stderr = process.communicate(timeout=30)
        finally:
            process.kill()  # or the test would wait for ever instead of failing
    assert process.returncode == 130
    assert stderr.strip() == "simplicial-reg: interrupted"


def test_importing_the_package_imports_neither_click_nor_matplotlib():
    code = "import sys, simplicial_reg; assert not {'click', 'matplotlib', 'safetensors'} & set(sys.modules)"
    done = python("-c", code)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_example_of_the_digits_writes_its_table_and_its_picture(tmp_path):
    example = Path(__file__).parent.parent / "examples" / "digits_barcodes.py"
    done = python(example, "--out", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Barcodes of scikit-learn's digits, H0 and H1")
    rows = json.loads((tmp_path / "results" / "digits_barcodes.json").read_text())["rows"]
    assert [row["digit"] for row in rows] == [*"0123456789", "all"]
    assert sum(row["n"] for row in rows[:-1]) == rows[-1]["n"] == 1797
    assert (tmp_path / "results" / "digits_barcodes.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "results").iterdir())) == 2
