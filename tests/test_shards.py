"""H0 of a cloud in several files: the barcode of all of it, here and on a real dask cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from simplicial_reg import METRICS, cli, rips_barcode, shards
from simplicial_reg.shards import barcode_of_shards, shards_in
from tests.dask_cluster import dask_cluster, die

SIZES = (40, 1, 25, 60)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four files of single precision, with ties and copies within and between them."""
    random = np.random.default_rng(0)
    for number, n in enumerate(SIZES):
        np.save(tmp_path / f"{number}.npy", random.integers(0, 4, (n, 3)).astype(np.float32))
    (tmp_path / "notes.txt").write_text("no points", encoding="utf-8")
    return tmp_path


def whole(folder: Path) -> torch.Tensor:
    return torch.cat([torch.from_numpy(np.load(folder / f"{number}.npy")) for number in range(len(SIZES))])


def run(*arguments: object) -> Any:
    return CliRunner().invoke(cli.group, ["barcode", *map(str, arguments)])


@pytest.mark.parametrize("metric", list(METRICS))
def test_the_barcode_is_that_of_all_points_to_the_last_tie(folder: Path, metric: str) -> None:
    told = []
    bars, found = barcode_of_shards(shards_in(folder), metric=metric, on_pair=lambda *done: told.append(done))
    expected = rips_barcode(whole(folder), metric=metric, engine="spanning-tree")[0]
    assert found.sizes == SIZES
    assert torch.equal(bars.death_edge, expected.death_edge)
    assert torch.equal(bars.birth_edge, expected.birth_edge)
    torch.testing.assert_close(bars.death, expected.death)
    assert told == [(done, 6) for done in range(1, 7)]


def test_a_single_file_is_a_cloud_too(folder: Path) -> None:
    bars, _ = barcode_of_shards([folder / "3.npy"])
    assert torch.equal(bars.death_edge, rips_barcode(torch.from_numpy(np.load(folder / "3.npy")))[0].death_edge)


def test_two_files_at_most_are_read_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = []
    real = shards.blocked.tree_edges

    def watched(points: Any, metric: str) -> Any:
        together.append(len(points))
        return real(points, metric)

    monkeypatch.setattr(shards.blocked, "tree_edges", watched)
    barcode_of_shards(shards_in(folder))
    assert max(together) == 40 + 60
    assert len(together) == 6


def test_files_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 2)))
    np.save(tmp_path / "b.npy", np.zeros((3, 4)))
    with pytest.raises(
        ValueError, match=r"files must agree .*; a\.npy has 2 of torch\.float64, b\.npy has 4 of torch\.float64"
    ):
        barcode_of_shards(shards_in(tmp_path))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"empty holds no file of points; those end in \.npy, "):
        shards_in(empty)


def test_the_command_prints_the_bars_of_a_folder(folder: Path, tmp_path: Path) -> None:
    result = run(folder, "--max-dim", 0, "--json", "--save", tmp_path / "bars.npz")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["n"], report["d"], report["dtype"]) == (sum(SIZES), 3, "float32")
    assert report["engine_reason"] == "H0 of 4 files, two at a time"
    assert report["dimensions"][0]["bars"] == sum(SIZES) - 1
    with np.load(tmp_path / "bars.npz") as saved:
        assert np.array_equal(saved["death_edge_0"], rips_barcode(whole(folder))[0].death_edge.numpy())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "is a folder, of which H0 alone is computed; use --max-dim 0"),
        (("--max-dim", 0, "--sample", 5), "is a folder, which --sample is not for; leave it out"),
        (("--max-dim", 0, "--threshold", 1), "is a folder, which --threshold is not for; leave it out"),
        (("--max-dim", 0, "--engine", "gudhi"), "is a folder, which --engine is not for; leave it out"),
        (("--max-dim", 0, "--executor", "dask"), 'scheduler must be the address of a dask scheduler, such as "tcp://'),
    ],
)
def test_what_a_folder_is_not_for_is_one_line(folder: Path, arguments: tuple[object, ...], message: str) -> None:
    if "dask" in arguments:
        pytest.importorskip("distributed")
    result = run(folder, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_cluster_is_not_for_a_single_file(folder: Path) -> None:
    result = run(folder / "0.npy", "--executor", "dask")
    assert result.exit_code == 2
    assert "--executor dask is for a folder of files" in result.stderr


# --- on a cluster ----------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed")
def test_a_dask_cluster_finds_the_same_and_errors_of_its_workers_are_raised_here(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    broken = tmp_path / "broken"
    broken.mkdir()
    points = np.load(folder / "2.npy")
    np.save(broken / "a.npy", points)
    points[3, 1] = np.nan
    np.save(broken / "b.npy", points)
    told: list[tuple[int, int]] = []
    with dask_cluster(workers=2) as scheduler:
        bars, _ = barcode_of_shards(
            shards_in(folder), executor="dask", scheduler=scheduler, on_pair=lambda *done: told.append(done)
        )
        command = ["barcode", str(folder), "--max-dim", "0", "--executor", "dask", "--scheduler", scheduler]
        printed = CliRunner().invoke(cli.group, command).stdout
        with pytest.raises(ValueError, match=r"b\.npy: .*NaN"):
            barcode_of_shards(shards_in(broken), executor="dask", scheduler=scheduler)
        monkeypatch.setattr(shards, "_tree_of", die)
        with pytest.raises(ValueError, match=r"^workers died over the same pair of files again and again"):
            barcode_of_shards(shards_in(folder)[:2], executor="dask", scheduler=scheduler)
    monkeypatch.undo()
    expected, _ = barcode_of_shards(shards_in(folder))
    assert torch.equal(bars.death, expected.death)
    assert torch.equal(bars.death_edge, expected.death_edge)
    assert told == [(at, 6) for at in range(1, 7)]
    assert "H0 of 4 files, two at a time, on dask at tcp://" in " ".join(printed.split())


def test_a_scheduler_that_does_not_answer_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("timed out")

    monkeypatch.setattr(distributed, "Client", refuse)
    with pytest.raises(
        ValueError, match=r"no dask scheduler answers at 'tcp://127\.0\.0\.1:1'; start one with: dask scheduler"
    ):
        barcode_of_shards(shards_in(folder), executor="dask", scheduler="tcp://127.0.0.1:1")
