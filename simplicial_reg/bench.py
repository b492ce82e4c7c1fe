"""``simplicial-reg bench``: how fast the package is on this machine, beside its peers and beside what the machine could do at best.

Contests. A contest is one computation on one input, done by this package and by others. Before anything is timed, all results are compared.
Competitors then take turns in one process, round after round, so that a slow spell of the machine hits all of them.

The floor. Exact H0 in many coordinates, where no index over space helps, needs the length of every edge once, and has to look at each.
So the floor of B clouds of n points in d coordinates is

    B n² d / P + 4 B n² / R seconds:

the products of the half of all pairs, one multiplication and one addition for each coordinate, at P operations per second, and one pass
over the matrix of float32 lengths at R bytes per second. Both rates are measured here, with as many threads as the contest has: P by
torch's matrix product and by a kernel that is compiled for this processor, whichever is quicker (not every library uses the whole width of
every processor), R by sums of arrays at the size that is read fastest. No engine can be expected to reach the floor: the calls of torch
alone take longer for small clouds, and lengths from differences, which do not cancel, take two instructions where products take one.

The benchmarks of the repository, ``python -m benchmarks``, use the same contests at more sizes.
"""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from torch import Tensor

from simplicial_reg import ENGINES, IsoScoreStarLoss, __version__, pairwise_distances, persistent_entropy, rips_barcode
from simplicial_reg._files import whole_file
from simplicial_reg._input_errors import input_errors
from simplicial_reg._threads import share_work
from simplicial_reg.engines import blocked

__all__ = [
    "CONTESTS",
    "OURS",
    "PEERS",
    "Contest",
    "Rates",
    "Times",
    "bench",
    "cell",
    "cloud",
    "finite",
    "floor",
    "h0_edges",
    "h0_layer",
    "h1_edges",
    "installed",
    "isoscore_star",
    "large_cloud",
    "machine",
    "measure_rates",
    "one_pass",
    "read_barcode",
    "same_gradient",
    "same_rows",
    "times",
    "versions",
]

OURS = "simplicial_reg"
ROUNDS = 7
TURN = 0.05  # seconds: what is quicker is repeated within its turn until the clock can see it
BUDGET = 10.0  # seconds for all turns of one competitor
SHORT_BUDGET = 3.0  # the same where a user waits for it
Run = Callable[[], Any]


class Peer(NamedTuple):
    """Another package.

    Attributes:
        module: what is imported.
        install: what pip is asked for.
    """

    module: str
    install: str


EXTRA = '"simplicial_reg[peers]"'
PEERS = {
    "torch-topological": Peer("torch_topological", EXTRA),
    "giotto-ph": Peer("gph", EXTRA),
    "ripser.py": Peer("ripser", EXTRA),
    "gudhi": Peer("gudhi", EXTRA),
    "IsoScore": Peer("IsoScore", EXTRA),
    "scipy": Peer("scipy", "scipy"),
    "fastcluster": Peer("fastcluster", "fastcluster"),
}
PACKAGES = (
    "torch", "numpy", "numba", "gudhi", "ripser", "giotto-ph", "torch-topological", "scipy", "fastcluster", "IsoScore",
)  # fmt: skip


def installed(peers: Iterable[str] = PEERS) -> list[str]:
    """Which of the peers are there."""
    return [peer for peer in peers if importlib.util.find_spec(PEERS[peer].module) is not None]


# --- time ------------------------------------------------------------------------------------------------------------------------


class Times(NamedTuple):
    """Milliseconds of a competitor over its turns, and how many there were."""

    median: float
    least: float
    greatest: float
    turns: int


def times(competitors: dict[str, Run], rounds: int = ROUNDS, budget: float = BUDGET) -> dict[str, Times]:
    """The times of all competitors, who take turns.

    A quick one is repeated within its turn; a slow one gets fewer turns, or one, as ``budget`` allows. A tensor of 30 MB is made and freed
    first, as in any training step: from then on the C library keeps freed memory for the next call instead of giving it back to the
    system and fetching it again, page by page.

    Args:
        competitors: what is run, by name.
        rounds: turns of each.
        budget: seconds for all turns of one.
    """
    torch.empty(7_500_000)
    seen: dict[str, list[float]] = {}
    repeats, turns = {}, {}
    for name, run in competitors.items():
        alone = _seconds(run)  # loads kernels, too, unless it takes long
        if alone > budget / 2:
            seen[name], repeats[name], turns[name] = [alone * 1e3], 1, 0
            continue
        alone = _seconds(run)
        seen[name], repeats[name] = [], max(1, min(500, int(TURN / (alone + 1e-9))))
        turns[name] = max(1, min(rounds, int(budget / max(alone, TURN))))
    gc.disable()
    try:
        for at in range(rounds):
            for name, run in competitors.items():
                if at < turns[name]:
                    seen[name].append(_seconds(run, repeats[name]) * 1e3)
            gc.collect()
    finally:
        gc.enable()
    return {name: Times(float(np.median(ms)), min(ms), max(ms), len(ms)) for name, ms in seen.items()}


def _seconds(run: Run, repeats: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


class Rates(NamedTuple):
    """What the machine does at best: operations per second of float32 products, and bytes per second that are read."""

    flops: float
    bytes: float


PRODUCTS = (256, 256, 512)  # rows, rows and coordinates; they stay in cache


def measure_rates() -> Rates:
    """The best of several trials each, with torch's present number of threads."""
    from simplicial_reg._rate_kernels import products

    left, right = cloud(1024, 1024), cloud(1024, 1024)
    flops = 2 * 1024**3 / min(_seconds(lambda: left @ right) for _ in range(8))
    few = cloud(*PRODUCTS[::2]).numpy()
    out = np.empty(PRODUCTS[:2], np.float32)
    operations = 2 * math.prod(PRODUCTS)

    def by_kernel() -> None:
        share_work(lambda first, step: products(few, few, out, first, step), PRODUCTS[0] // 4, operations)

    flops = max(flops, operations / min(_seconds(by_kernel) for _ in range(50)))
    read = 0.0
    for size in (2**18, 2**20, 2**22, 2**24):
        array = torch.ones(size)
        quickest = min(_seconds(functools.partial(torch.sum, array), 2**24 // size) for _ in range(4))
        read = max(read, 4 * size / quickest)
    return Rates(flops, read)


def floor(n: int, d: int, clouds: int, rates: Rates) -> float:
    """The milliseconds of the module's docstring.

    Example:
        >>> round(floor(1000, 100, 1, Rates(flops=1e11, bytes=1e10)), 3)
        1.4
    """
    return 1e3 * clouds * n * n * (d / rates.flops + 4 / rates.bytes)


def cell(measured: Sequence[float]) -> str:
    """``median (least-greatest)`` in milliseconds; of a single turn the time alone.

    Example:
        >>> cell(Times(1.2345, 1.2, 1.3, 7)), cell(Times(8000.0, 8000.0, 8000.0, 1))
        ('1.23 (1.2-1.3)', '8e+03 (once)')
    """
    median, least, greatest = (f"{ms:.3g}" for ms in measured[:3])
    return f"{median} (once)" if list(measured[3:]) == [1] else f"{median} ({least}-{greatest})"


# --- inputs, and comparing results -----------------------------------------------------------------------------------------------


def cloud(n: int, d: int, *batch: int) -> Tensor:
    """A Gaussian cloud, or a batch of them, the same every time."""
    return torch.randn(*batch, n, d, generator=torch.Generator().manual_seed(n + d))


def finite(rows: Any) -> Any:
    """The bars that die."""
    return rows[np.isfinite(rows[:, 1])]


def same_rows(ours: Any, theirs: Any, what: str) -> None:
    """Compare two barcodes as multisets of rows: births and deaths are not sorted apart.

    Raises:
        AssertionError: if they differ.
    """
    ours, theirs = (rows[np.lexsort((rows[:, 1], rows[:, 0]))] for rows in (np.asarray(ours), np.asarray(theirs)))
    if ours.shape != theirs.shape or not np.allclose(ours, theirs, rtol=2e-6, atol=1e-7):
        raise AssertionError(f"{what}: {len(ours)} and {len(theirs)} bars that do not agree")


def same_gradient(ours: Tensor, theirs: Tensor, what: str) -> None:
    """Compare two gradients as a whole, to 1 %: peers whose distances come from products are less exact where points are close.

    Raises:
        AssertionError: if they differ.
    """
    assert ours.grad is not None and theirs.grad is not None  # noqa: PT018  # for mypy; backward has been called
    apart = float((ours.grad - theirs.grad).norm() / ours.grad.norm())
    if not apart < 0.01:
        raise AssertionError(f"{what}: its gradient differs by {apart:.1%}")


# --- contests --------------------------------------------------------------------------------------------------------------------


def h0_layer(points: Tensor, peers: Collection[str]) -> dict[str, Run]:
    """Points, barcode, persistent entropy, gradient; and one ``torch.cdist`` without gradient.

    Args:
        points: ``(n, d)`` or ``(B, n, d)``.
        peers: of ``PEERS``; those that do not take part in this contest are passed over.

    Returns:
        The competitors, who agree, this package first.

    Raises:
        AssertionError: if they do not agree.
    """
    ours_at = points.clone().requires_grad_()

    def ours() -> Tensor:
        ours_at.grad = None
        entropy = persistent_entropy(rips_barcode(ours_at)[0]).sum()
        entropy.backward()
        return entropy

    competitors: dict[str, Run] = {OURS: ours}
    if "torch-topological" in peers:
        from torch_topological.nn import VietorisRipsComplex

        theirs_at = points.clone().requires_grad_()
        layer = VietorisRipsComplex(dim=0)

        def theirs() -> Tensor:
            theirs_at.grad = None
            entropy = torch.zeros(())
            for one in layer(theirs_at) if points.ndim == 3 else [layer(theirs_at)]:
                share = one[0].diagram[:, 1] / one[0].diagram[:, 1].sum()
                entropy = entropy - (share * share.log()).sum()
            entropy.backward()
            return entropy

        torch.testing.assert_close(ours(), theirs(), rtol=1e-4, atol=1e-4)
        same_gradient(ours_at, theirs_at, "torch-topological")
        if points.ndim == 2:
            # On the same distances: its own come from a matrix product, which cancels where points are close.
            given = layer(pairwise_distances(points), treat_as_distances=True)[0].diagram.numpy()
            same_rows(rips_barcode(points)[0].numpy(), given, "torch-topological")
        competitors["torch-topological"] = theirs
    competitors["torch.cdist"] = lambda: torch.cdist(points, points)
    return competitors


def h0_edges(distances: Tensor, peers: Collection[str]) -> dict[str, Run]:
    """Critical edges of H0 of given distances ``(n, n)``: as for `h0_layer`."""
    competitors = _from_distances(distances, 0, peers)
    matrix = distances.numpy()
    condensed = matrix[np.triu_indices(len(matrix), 1)]
    if "scipy" in peers:
        from scipy.cluster.hierarchy import linkage

        competitors["scipy"] = lambda: linkage(condensed, "single")
    if "fastcluster" in peers:
        import fastcluster

        competitors["fastcluster"] = lambda: fastcluster.linkage(condensed, "single")
    return _agreeing(competitors, distances, 0)


def h1_edges(distances: Tensor, peers: Collection[str]) -> dict[str, Run]:
    """Critical edges of H0 and H1 of given distances ``(n, n)``: as for `h0_layer`."""
    competitors = _from_distances(distances, 1, peers)
    if "gudhi" in peers:
        import gudhi

        matrix = distances.numpy()

        def run() -> Any:
            tree = gudhi.RipsComplex(distance_matrix=matrix).create_simplex_tree(max_dimension=2)
            tree.compute_persistence(homology_coeff_field=2)
            return tree

        competitors["gudhi"] = lambda: run().flag_persistence_generators()
        found = run().persistence_intervals_in_dimension(1)
        same_rows(rips_barcode(distances, 1, metric="precomputed")[1].numpy(), found, "gudhi")
    return _agreeing(competitors, distances, 1)


def _from_distances(distances: Tensor, max_dim: int, peers: Collection[str]) -> dict[str, Run]:
    matrix, batch = distances.numpy(), distances.unsqueeze(0)
    find = ENGINES["cohomology" if max_dim else "spanning-tree"].find
    competitors: dict[str, Run] = {
        OURS: lambda: find(batch, None, max_dim, math.inf),
        "rips_barcode": lambda: rips_barcode(distances, max_dim, metric="precomputed"),
    }
    if "giotto-ph" in peers:
        from gph import ripser_parallel

        # Read when it is run, not now: threads are part of what is varied.
        competitors["giotto-ph"] = lambda: ripser_parallel(
            matrix, metric="precomputed", maxdim=max_dim, return_generators=True, n_threads=torch.get_num_threads()
        )
    if "ripser.py" in peers:
        from ripser import ripser

        competitors["ripser.py"] = lambda: ripser(matrix, distance_matrix=True, maxdim=max_dim)
    return competitors


def _agreeing(competitors: dict[str, Run], distances: Tensor, dim: int) -> dict[str, Run]:
    """The competitors, after comparing their bars of the highest dimension."""
    ours = rips_barcode(distances, dim, metric="precomputed")[dim].numpy()
    for peer in {"giotto-ph", "ripser.py", "scipy", "fastcluster"} & set(competitors):
        same_rows(ours, read_barcode(competitors[peer](), dim), peer)
    return competitors


def read_barcode(found: Any, dim: int) -> Any:
    """Births and deaths ``(k, 2)`` of what giotto-ph and ripser.py return, and of the linkages of scipy and fastcluster."""
    if isinstance(found, dict):
        return finite(found["dgms"][dim])
    return np.stack([np.zeros(len(found)), found[:, 2]], 1)


def isoscore_star(points: Tensor, peers: Collection[str], shrinkage: float = 0.0) -> dict[str, Run]:
    """IsoScore* of a cloud away from the origin, and its gradient: as for `h0_layer`."""
    d = points.shape[1]
    sample = cloud(2 * d, d)
    ours_at = (points + 1).requires_grad_()
    loss = IsoScoreStarLoss(shrinkage=shrinkage)
    loss.update_covariance(sample)
    loss.eval()

    def ours() -> Tensor:
        ours_at.grad = None
        value: Tensor = loss(ours_at)
        value.backward()
        return value

    competitors: dict[str, Run] = {OURS: ours}
    if "IsoScore" in peers:
        from IsoScore.IsoScore import istar

        theirs_at = ours_at.detach().clone().requires_grad_()
        authors, covariance = istar(), torch.cov(sample.T)

        def theirs() -> Tensor:
            theirs_at.grad = None
            value: Tensor = 1 - authors.IsoScore_star(theirs_at, covariance, shrinkage, is_eval=False)
            value.backward()
            return value

        torch.testing.assert_close(ours(), theirs(), rtol=1e-5, atol=1e-6)
        same_gradient(ours_at, theirs_at, "IsoScore")
        competitors["IsoScore"] = theirs
    return competitors


def large_cloud(points: Tensor, peers: Collection[str]) -> dict[str, Run]:
    """The spanning tree of a cloud in blocks, and the matrix products of one pass over its pairs: as for `h0_layer`."""
    array = points.numpy()
    lengths = rips_barcode(points, engine="spanning-tree")[0].death.numpy()
    zero = np.zeros_like(lengths)
    found = blocked.tree_edges(array)[1]
    same_rows(np.stack([zero, lengths], 1), np.stack([zero, found], 1), "the engine spanning-tree")
    return {OURS: lambda: blocked.spanning_tree(array), "one pass of products": lambda: one_pass(points)}


def one_pass(points: Tensor) -> None:
    """The matrix products of all tiles on and below the diagonal, in the blocks of the engine ``blocked``, and nothing else."""
    block = blocked.BLOCK
    for a in range(0, len(points), block):
        for b in range(0, a + 1, block):
            points[a : a + block] @ points[b : b + block].mT


# --- simplicial-reg bench ----------------------------------------------------------------------------------------------------------


class Contest(NamedTuple):
    """What is timed on a user's machine.

    Attributes:
        title: what is computed.
        sizes: numbers of clouds, of points in each, and of coordinates.
        make: the competitors for one size.
        peers: of whom there are more than this package.
        floor: whether the floor of H0 is one of this contest.
    """

    title: str
    sizes: tuple[tuple[int, int, int], ...]
    make: Callable[[Tensor, Collection[str]], dict[str, Run]]
    peers: tuple[str, ...]
    floor: bool


CONTESTS = {
    "h0_layer": Contest(
        "H0 layer: points, barcode, persistent entropy, gradient",
        ((1, 64, 768), (1, 512, 768), (1, 512, 3), (32, 64, 384)),
        h0_layer,
        ("torch-topological",),
        True,
    ),
    "h0_edges": Contest(
        "H0 critical edges from distances",
        ((1, 256, 768), (1, 1024, 768)),
        lambda points, peers: h0_edges(pairwise_distances(points), peers),
        ("giotto-ph", "ripser.py", "fastcluster"),
        False,
    ),
    "h1_edges": Contest(
        "H0 and H1 critical edges from distances",
        ((1, 64, 768), (1, 256, 768), (1, 512, 3)),
        lambda points, peers: h1_edges(pairwise_distances(points), peers),
        ("giotto-ph", "ripser.py"),
        False,
    ),
    "isoscore_star": Contest(
        "IsoScore* and its gradient",
        ((1, 64, 768),),
        isoscore_star,
        ("IsoScore",),
        False,
    ),
    "large_cloud": Contest(
        "H0 of a large cloud in blocks, without its distances",
        ((1, 4096, 384),),
        large_cloud,
        (),
        True,
    ),
}  # fmt: skip


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for bench.md and bench.json.  [default: none]",
)
@click.option("--peers/--no-peers", default=True, show_default=True, help="Time the peers that are installed, too.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    default=1,
    show_default=True,
    help="Threads of each competitor.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def bench(out: Path | None, peers: bool, threads: int, as_json: bool) -> None:
    """Time this package beside its peers and beside what this machine could do at best.

    It takes less than a minute. Peers are those that are installed; all must find the same before they are timed. "Over floor" is the
    time over that of the matrix products and the one pass over all lengths that exact H0 needs.
    """
    from simplicial_reg.study.runner import cores

    if threads > cores():
        raise click.BadParameter(f"{threads} is more than the {cores()} cores there are", param_hint="'--threads'")
    if out is not None:
        with input_errors():
            out.mkdir(parents=True, exist_ok=True)
            if not os.access(out, os.W_OK):
                raise ValueError(f"--out {out} cannot be written to; choose another folder")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        report = _report(peers)
    finally:
        torch.set_num_threads(before)
    content = json.dumps(report, allow_nan=False, indent=1)
    if out is not None:
        with input_errors():
            for name, text in (("bench.json", content + "\n"), ("bench.md", _markdown(report))):
                with whole_file(out / name) as draft:
                    draft.write_text(text, encoding="utf-8")
    click.echo(content if as_json else _text(report))


def _report(with_peers: bool) -> dict[str, Any]:
    """Everything that is printed, as JSON has it."""
    there = installed() if with_peers else []
    wanted = {peer for contest in CONTESTS.values() for peer in contest.peers}
    rates = measure_rates()
    contests = []
    for name, contest in CONTESTS.items():
        click.echo(f"{contest.title} ...", err=True)
        entries = [_entry(contest, size, there, rates) for size in contest.sizes]
        contests.append({"name": name, "title": contest.title, "entries": entries})
    return {
        "version": __version__,
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "missing": sorted(wanted - set(there)) if with_peers else [],
        "rates": {"flops": rates.flops, "bytes": rates.bytes},
        "contests": contests,
    }


def _entry(contest: Contest, size: tuple[int, int, int], there: Collection[str], rates: Rates) -> dict[str, Any]:
    clouds, n, d = size
    points = cloud(n, d, clouds) if clouds > 1 else cloud(n, d)
    competitors = contest.make(points, [peer for peer in contest.peers if peer in there])
    measured = times(competitors, ROUNDS, SHORT_BUDGET)
    ours = measured[OURS].median
    return {
        "clouds": clouds,
        "n": n,
        "d": d,
        "ms": measured,
        "over ours": {name: ms.median / ours for name, ms in measured.items() if name != OURS},
        "over floor": ours / floor(n, d, clouds, rates) if contest.floor else None,
    }


def _tables(report: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, heading and rows of each contest."""
    tables = []
    for contest in report["contests"]:
        entries = contest["entries"]
        others = list(entries[0]["over ours"])
        bounded = entries[0]["over floor"] is not None
        header = ["points", f"{OURS}, ms", *(["over floor"] if bounded else []), *others]
        rows = []
        for entry in entries:
            batch = f"{entry['clouds']} × " if entry["clouds"] > 1 else ""
            rows.append(
                [
                    f"{batch}{entry['n']} × {entry['d']}",
                    cell(entry["ms"][OURS]),
                    *([f"{entry['over floor']:.1f}"] if bounded else []),
                    *(f"{entry['ms'][name][0]:.3g}, {entry['over ours'][name]:.1f}x" for name in others),
                ]
            )
        tables.append((contest["title"], header, rows))
    return tables


NOTES = f"Milliseconds: median (least-greatest) of {ROUNDS} turns, fewer for what is slow; then how many times as long the others take."


def _remarks(report: dict[str, Any]) -> list[str]:
    rates, missing = report["rates"], report["missing"]
    used = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        NOTES,
        f"Floor: matrix products at {rates['flops'] / 1e9:.0f} GFLOP/s and reading at {rates['bytes'] / 1e9:.0f} GB/s, measured here.",
        f"{report['machine']}, {report['threads']} thread(s); simplicial_reg {report['version']}, {used}.",
    ]
    if missing:
        needs = " ".join(dict.fromkeys(PEERS[peer].install for peer in missing))
        lines.append(f"Not installed, so not timed: {', '.join(missing)}; to have them: pip install {needs}")
    return lines


def _text(report: dict[str, Any]) -> str:
    from simplicial_reg._page import terminal_table

    parts = [terminal_table(title, header, rows) for title, header, rows in _tables(report)]
    return "\n".join([*parts, *_remarks(report)])


def _markdown(report: dict[str, Any]) -> str:
    parts = ["# simplicial-reg bench"]
    for title, header, rows in _tables(report):
        lines = [header, ["---"] * len(header), *rows]
        parts.append(f"## {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join([*parts, *_remarks(report)]) + "\n"


def versions() -> dict[str, str]:
    """Those of the packages that matter and are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Processor, number of cores, Python."""
    return f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
