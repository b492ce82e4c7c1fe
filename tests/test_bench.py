"""``simplicial-reg bench`` and what the repository's benchmarks are made of: turns, floors, exponents, counted bytes, forms."""

from __future__ import annotations

import gc
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import _measure, a_cloud_over_a_thousand_ranks, h0_grows_with_the_square
from simplicial_reg import bench, cli, rips_barcode
from simplicial_reg._rate_kernels import products
from simplicial_reg.bench import OURS, Rates, Times
from simplicial_reg.study import runner
from tests import traffic_worker
from tests.programs import ROOT, output_of_ranks


def run(*arguments: object) -> click.testing.Result:
    return click.testing.CliRunner().invoke(cli.group, ["bench", *map(str, arguments)])


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contests of a few points, and few turns."""
    small = {
        name: contest._replace(sizes=tuple((min(clouds, 2), 12, 3) for clouds, _, _ in contest.sizes[-1:]))
        for name, contest in bench.CONTESTS.items()
    }
    monkeypatch.setattr(bench, "CONTESTS", small)
    monkeypatch.setattr(bench, "TURN", 1e-4)
    monkeypatch.setattr(bench, "ROUNDS", 2)
    monkeypatch.setattr(gc, "collect", lambda: 0)  # it takes long where everything is imported
    monkeypatch.setattr(bench, "measure_rates", lambda: Rates(1e11, 1e10))


def refusal(*arguments: object) -> str:
    """The line of a command that fails for what the user gave it."""
    result = run(*arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    return line.removeprefix("simplicial-reg: ")


# --- the command -------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiny")
def test_every_contest_has_a_table_and_json_has_the_same_numbers(tmp_path: Path) -> None:
    result = run("--json", "--out", tmp_path / "new")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert json.loads((tmp_path / "new" / "bench.json").read_text(encoding="utf-8")) == found
    assert [contest["name"] for contest in found["contests"]] == list(bench.CONTESTS)
    page = (tmp_path / "new" / "bench.md").read_text(encoding="utf-8")
    for contest in found["contests"]:
        assert f"## {contest['title']}\n" in page
        for entry in contest["entries"]:
            ours = entry["ms"][OURS]
            assert ours[1] <= ours[0] <= ours[2]
            assert bench.cell(ours) in page
            for peer, ratio in entry["over ours"].items():
                assert ratio == entry["ms"][peer][0] / ours[0]
            floor = 1e3 * entry["clouds"] * entry["n"] ** 2 * (entry["d"] / 1e11 + 4 / 1e10)
            assert entry["over floor"] is None or entry["over floor"] == pytest.approx(ours[0] / floor)
    assert found["rates"] == {"flops": 1e11, "bytes": 1e10}
    assert found["threads"] == 1


@pytest.mark.usefixtures("tiny")
def test_tables_go_to_stdout_and_what_is_going_on_to_stderr() -> None:
    result = run()
    assert result.exit_code == 0, result.output
    for contest in bench.CONTESTS.values():
        assert contest.title in result.stdout
        assert f"{contest.title} ..." in result.stderr
    assert "Floor: matrix products at 100 GFLOP/s and reading at 10 GB/s" in result.stdout
    assert max(map(len, result.stdout.split("\nMilliseconds")[0].splitlines())) <= 100


@pytest.mark.usefixtures("tiny")
def test_peers_that_are_missing_are_named_with_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "installed", lambda: [])
    result = run()
    assert result.exit_code == 0, result.output
    assert (
        "Not installed, so not timed: IsoScore, fastcluster, giotto-ph, ripser.py, torch-topological; "
        'to have them: pip install "simplicial_reg[peers]" fastcluster\n'
    ) in result.stdout
    monkeypatch.setattr(bench, "installed", lambda: pytest.fail("nobody asked for peers"))
    found = json.loads(run("--no-peers", "--json").stdout)
    assert found["missing"] == []
    assert all(set(entry["ms"]).isdisjoint(bench.PEERS) for one in found["contests"] for entry in one["entries"])


@pytest.mark.usefixtures("tiny")
def test_threads_are_those_that_were_asked_for_and_left_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "cores", lambda: 2)
    before = torch.get_num_threads()
    assert json.loads(run("--threads", 2, "--no-peers", "--json").stdout)["threads"] == 2
    assert torch.get_num_threads() == before


def test_bad_options_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "cores", lambda: 2)
    monkeypatch.setattr(bench, "measure_rates", lambda: pytest.fail("measured before the options were looked at"))
    assert refusal("--threads", 3).startswith("Invalid value for '--threads': 3 is more than the 2 cores there are")
    assert "0 is not in the range x>=1" in refusal("--threads", 0)
    (tmp_path / "file").touch()
    assert "is a file" in refusal("--out", tmp_path / "file")
    assert refusal("--out", tmp_path / "file" / "below").startswith(f"{tmp_path / 'file' / 'below'}: Not a directory")
    assert "No such option" in refusal("--quick")


def test_an_interrupt_exits_with_130_and_one_line() -> None:
    command = [sys.executable, "-m", "simplicial_reg", "bench", "--no-peers"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == f"{bench.CONTESTS['h0_layer'].title} ...\n"
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()  # or the test would wait for ever instead of failing
    assert (process.returncode, stdout) == (130, "")
    assert stderr.splitlines()[-1] == "simplicial-reg: interrupted"
    assert "Traceback" not in stderr


# --- contests ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", bench.CONTESTS)
def test_competitors_agree_on_every_contest_and_every_peer_takes_part(name: str) -> None:
    contest = bench.CONTESTS[name]
    there = bench.installed(contest.peers)
    competitors = contest.make(bench.cloud(40, 5), there)
    assert next(iter(competitors)) == OURS
    assert set(there) <= set(competitors)
    for competitor in competitors.values():
        competitor()


def test_a_batch_is_a_contest_of_the_layer() -> None:
    competitors = bench.h0_layer(bench.cloud(10, 3, 4), bench.installed(["torch-topological"]))
    points = bench.cloud(10, 3, 4)
    one = sum(bench.h0_layer(cloud, ())[OURS]() for cloud in points)
    torch.testing.assert_close(competitors[OURS](), one)


@pytest.mark.parametrize(
    ("make", "peer", "module", "name"),
    [
        (bench.h0_edges, "ripser.py", "ripser", "ripser"),
        (bench.h1_edges, "ripser.py", "ripser", "ripser"),
        (bench.h0_edges, "giotto-ph", "gph", "ripser_parallel"),
        (bench.h0_edges, "scipy", "scipy.cluster.hierarchy", "linkage"),
        (bench.h0_edges, "fastcluster", "fastcluster", "linkage"),
    ],
)
def test_a_peer_that_finds_other_bars_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, make: Callable[..., Any], peer: str, module: str, name: str
) -> None:
    found = pytest.importorskip(module)
    theirs = getattr(found, name)
    monkeypatch.setattr(found, name, lambda matrix, *rest, **options: theirs(matrix * 1.001, *rest, **options))
    distances = torch.cdist(bench.cloud(30, 3), bench.cloud(30, 3), compute_mode="donot_use_mm_for_euclid_dist")
    with pytest.raises(AssertionError, match=f"{peer}: .* bars that do not agree"):
        make(distances, [peer])


def test_a_layer_with_another_gradient_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_topological")
    entropy = bench.persistent_entropy
    # The same value, half of the gradient.
    monkeypatch.setattr(bench, "persistent_entropy", lambda bars: (entropy(bars) + entropy(bars).detach()) / 2)
    with pytest.raises(AssertionError, match=r"torch-topological: its gradient differs by 100\.0%"):
        bench.h0_layer(bench.cloud(20, 3), ["torch-topological"])


def test_births_and_deaths_are_not_sorted_apart() -> None:
    ours = np.array([[0.0, 2.0], [1.0, 3.0]])
    bench.same_rows(ours, ours[::-1], "itself")
    with pytest.raises(AssertionError, match="2 and 2 bars"):
        bench.same_rows(ours, np.array([[0.0, 3.0], [1.0, 2.0]]), "another")


# --- time --------------------------------------------------------------------------------------------------------------------------


def test_competitors_take_turns() -> None:
    seen: list[str] = []

    def competitor(name: str) -> Callable[[], None]:
        return lambda: (seen.append(name), time.sleep(bench.TURN))[1]

    found = bench.times({"a": competitor("a"), "b": competitor("b")}, rounds=3)
    assert seen == ["a", "a", "b", "b", "a", "b", "a", "b", "a", "b"]
    assert found["a"].turns == 3
    assert 1e3 * bench.TURN <= found["a"].least <= found["a"].median <= found["a"].greatest


def test_what_is_slow_has_as_many_turns_as_the_budget_allows_and_one_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "TURN", 0.001)
    calls = {"slow": 0, "slower": 0}

    def competitor(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            calls[name] += 1
            time.sleep(seconds)

        return run

    found = bench.times({"slow": competitor("slow", 0.05), "slower": competitor("slower", 0.15)}, budget=0.2)
    assert 1 <= found["slow"].turns <= 4
    assert (found["slower"].turns, calls["slower"]) == (1, 1)
    assert bench.cell(found["slower"]).endswith(" (once)")


def test_the_collector_of_garbage_is_on_again_after_a_failure() -> None:
    calls = iter(range(100))

    def fails() -> None:
        if next(calls) == 2:
            raise RuntimeError("late")

    with pytest.raises(RuntimeError, match="late"):
        bench.times({"a": fails})
    assert gc.isenabled()


@pytest.mark.parametrize(("kernel", "flops"), [(1.0, 2 * 1024**3 / 0.25), (1e-3, 2 * 256 * 256 * 512 / 1e-3)])
def test_rates_are_those_of_the_quickest_trial(kernel: float, flops: float, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.5, 0.25, *[1.0] * 6, *[2.0] * 49, kernel, *[2.0, 0.5, 1.0, 1.0] * 4])
    monkeypatch.setattr(bench, "_seconds", lambda run, repeats=1: next(seconds))
    rates = bench.measure_rates()
    assert rates.flops == flops
    assert rates.bytes == 4 * 2**24 / 0.5  # the largest array in the same time


@pytest.mark.parametrize("step", [1, 2, 3])
def test_the_kernel_of_the_rate_makes_all_products(step: int) -> None:
    x, y = torch.randn(12, 37).numpy(), torch.randn(8, 37).numpy()
    out = np.full((12, 8), np.nan, np.float32)
    for first in range(step):
        products(x, y, out, first, step)
    np.testing.assert_allclose(out, x @ y.T, rtol=1e-4, atol=1e-5)


def test_rates_can_be_measured_here() -> None:
    assert all(1e7 < rate < 1e16 for rate in bench.measure_rates())


def test_one_pass_is_the_products_of_all_tiles_on_and_below_the_diagonal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.blocked, "BLOCK", 4)
    products: list[tuple[int, int]] = []

    class Rows(torch.Tensor):
        def __matmul__(self, other: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            products.append((len(self), other.shape[-1]))
            return self

    bench.one_pass(torch.zeros(10, 3).as_subclass(Rows))
    assert products == [(4, 4), (4, 4), (4, 4), (2, 4), (2, 4), (2, 2)]


# --- the repository's benchmarks ---------------------------------------------------------------------------------------------------


def test_every_benchmark_is_in_the_table_and_knows_its_name() -> None:
    sources = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("[!_]*.py")}
    named = {name: source for name, source in sources.items() if "\nNAME = " in source}
    assert set(named) == set(command.CLAIMS)
    for name, source in named.items():
        assert f'\nNAME = "{name}"\n' in source
        assert source.startswith('"""')
        assert "def main(form: Form = FULL) -> None:" in source
        assert "form=form" in source


def test_the_short_form_leaves_the_committed_results_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forms: list[_measure.Form] = []
    monkeypatch.setattr(a_cloud_over_a_thousand_ranks, "main", forms.append)
    name = "a_cloud_over_a_thousand_ranks"
    for arguments in ([name], [name, "--full"], [name, "--full", "--out", str(tmp_path)]):
        command.main(arguments)
    assert [form.full for form in forms] == [False, True, True]
    assert forms[0].folder == ROOT / "runs" / "bench"
    assert forms[1].folder == ROOT / "benchmarks" / "results"
    assert forms[2].folder == tmp_path


def test_a_claim_that_fails_does_not_keep_others_from_being_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[_measure.Form] = []
    monkeypatch.setattr(a_cloud_over_a_thousand_ranks, "main", measured.append)
    monkeypatch.setattr(h0_grows_with_the_square, "main", lambda form: 1 // 0)
    with pytest.raises(SystemExit, match=r"^failed: h0_grows_with_the_square$"):
        command.main(["h0_grows_with_the_square", "a_cloud_over_a_thousand_ranks", "--out", str(tmp_path)])
    assert len(measured) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_an_unknown_benchmark_is_one_line() -> None:
    with pytest.raises(SystemExit, match="no such benchmark: h7; there are h0_edges_come_forty_times_faster, "):
        command.main(["h7"])


def test_a_report_is_a_table_and_numbers_and_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    name = "isoscore_star_comes_thirty_times_faster"
    data = [{"n": 4, "d": 2, "shrinkage": 0.0, "ms": {OURS: Times(1.0, 0.5, 2.0, 7)}, "authors / ours": 2.0}]
    form = _measure.Form(False, tmp_path / "deep" / "er")
    _measure.report(name, "Title", ["a", "b"], [["1", "2"]], "Notes.", data, form=form, more=[("More", ["c"], [["3"]])])
    text = (form.folder / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith("# Title\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n## More\n\n| c |\n|---|\n| 3 |\n\nNotes.\n\n")
    assert f"Command: `python -m benchmarks {name}`. " in text
    assert text in capsys.readouterr().out
    found = json.loads((form.folder / f"{name}.json").read_text(encoding="utf-8"))
    assert (found["form"], found["data"][0]["ms"][OURS]) == ("short", [1.0, 0.5, 2.0, 7])
    assert (form.folder / f"{name}.svg").read_bytes().startswith(b"<?xml")


# --- exponents -----------------------------------------------------------------------------------------------------------------------


def test_the_exponent_of_a_power_is_that_power() -> None:
    sizes = [256, 512, 1024, 2048]
    slope, half = h0_grows_with_the_square.exponent(sizes, [3e-6 * n**2.25 for n in sizes])
    assert slope == pytest.approx(2.25)
    assert half < 1e-6


def test_the_interval_of_an_exponent_is_that_of_the_slope() -> None:
    random = np.random.default_rng(0)
    sizes = 2.0 ** np.arange(4, 12)
    seconds = sizes**1.5 * np.exp(random.normal(0, 0.1, len(sizes)))
    slope, half = h0_grows_with_the_square.exponent(list(sizes), list(seconds))
    x, y = np.log(sizes), np.log(seconds)
    (expected, constant), residuals, *_ = np.polyfit(x, y, 1, full=True)
    deviation = math.sqrt(residuals[0] / (len(x) - 2) / ((x - x.mean()) ** 2).sum())
    assert slope == pytest.approx(expected)
    assert half == pytest.approx(2.446912 * deviation, rel=1e-5)  # Student's t of 6 degrees of freedom, from a table
    assert constant == pytest.approx((y - slope * x).mean())


def test_exponents_are_fitted_from_where_overhead_is_small() -> None:
    entries = [{"varied": "n", "n": n, "ms": {OURS: Times(max(n**2, 1e4), 0, 0, 7)}} for n in (16, 64, 256, 512, 1024)]
    found = h0_grows_with_the_square.fit(entries, "n", OURS)
    assert (found["from"], found["sizes"]) == (256, 3)
    assert found["exponent"] == pytest.approx(2)


# --- the simulation of many ranks ----------------------------------------------------------------------------------------------------


@pytest.mark.xdist_group("barcode ranks")
@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="torch without gloo"
)
@pytest.mark.parametrize("ranks", [2, 3])
def test_bytes_are_counted_as_they_are_sent(ranks: int, tmp_path: Path) -> None:
    output_of_ranks(ranks, "tests.traffic_worker", tmp_path)
    sizes = traffic_worker.SIZES[:ranks]
    (bars,) = rips_barcode(torch.cat([traffic_worker.points(rank) for rank in range(ranks)]))
    owner = np.searchsorted(np.cumsum(sizes), bars.death_edge.numpy(), side="right")
    told = {  # which point is sent by whom to whom
        (end, by, to)
        for (x, y), (a, b) in zip(bars.death_edge.tolist(), owner.tolist(), strict=True)
        for end, by, to in ((x, a, b), (y, b, a))
        if by != to
    }
    ends = [sum(by == rank for _, by, _ in told) for rank in range(ranks)]
    assert sum(ends) > 0
    counted = a_cloud_over_a_thousand_ranks.traffic(sizes, traffic_worker.D, 8, ends)
    for rank in range(ranks):
        sent = json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8"))
        assert sent == {step: by_rank[rank] for step, by_rank in vars(counted).items()}


@pytest.mark.parametrize("ranks", [2, 3, 4, 7, 8, 64])
def test_every_pair_of_ranks_is_joined_once_and_all_merge_into_the_whole_tree(ranks: int) -> None:
    pairs = [
        frozenset({rank, other})
        for rank in range(ranks)
        for other in a_cloud_over_a_thousand_ranks.partners(rank, ranks)
    ]
    assert len(set(pairs)) == len(pairs) == ranks * (ranks - 1) // 2
    sizes = list(range(1, ranks + 1))
    sent = a_cloud_over_a_thousand_ranks.merges(sizes)
    assert sorted(one.source for one in sent) == list(range(1, ranks))  # everybody hands on once, rank 0 keeps
    assert all(max(one.sent, one.had) <= sum(sizes) - 1 for one in sent)


def test_costs_of_two_ranks_are_those_by_hand() -> None:
    constants = a_cloud_over_a_thousand_ranks.Constants(pair=1e-8, edge=1e-7, number=1e-8, points=0, edges=0)
    found = a_cloud_over_a_thousand_ranks.cost(1000, 2, constants)
    # Rank 0 joins both blocks, 1000²/2 pairs, and rank 1 has nothing to hand on.
    assert found.computing["pairs"] == pytest.approx(1e-8 * 500_000)
    assert found.computing["forest"] == pytest.approx(1e-7 * 999)
    assert found.received == {"pairs": 500 * 384 * 4, "merging": 0, "telling": 999 * 20, "ends": 500 * 384 * 4}
    assert found.sent == {"pairs": 1000 * 384 * 4, "merging": 8, "telling": 999 * 20, "ends": 1000 * 384 * 4}
    assert found.memory["gradient"] == 7 * 500 * 384 * 4 + 3 * 1000 * 20
