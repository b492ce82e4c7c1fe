"""H0 of clouds whose distances do not fit: 2 to 3 times as long as one pass of matrix products over the pairs, 6 with clusters."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._measure import FULL, Form, floor, measure_rates, report
from simplicial_reg import rips_barcode
from simplicial_reg.bench import one_pass
from simplicial_reg.engines import blocked

NAME = "large_clouds_take_one_pass"
THREADS = 2
# n, d, kind, rounds, and whether the dense engine and fastcluster take part.
CLOUDS = (
    (4096, 384, "normal", 5, True),
    (8192, 384, "normal", 5, True),
    (20_000, 384, "normal", 3, True),
    (20_000, 384, "50 clusters", 3, False),
    (20_000, 3, "normal", 3, False),
    (100_000, 384, "normal", 1, False),
)


def main(form: Form = FULL) -> None:
    torch.set_num_threads(THREADS)
    rates = measure_rates()
    rows, data = [], []
    for n, d, kind, rounds, peers in form.pick(CLOUDS, (CLOUDS[0], CLOUDS[4])):
        points = cloud(n, d, kind)
        blocked.spanning_tree(points[:300])  # loads the kernels
        before = forget_peak()
        seconds = {"blocked": timed(lambda points=points: blocked.spanning_tree(points), rounds)}
        memory = status("VmHWM") - before
        seconds["products"] = timed(lambda points=points: one_pass(torch.from_numpy(points)), rounds)
        if peers:
            seconds |= of_peers(points, rounds)
        over = seconds["blocked"] * 1e3 / floor(n, d, 1, rates)
        rows.append([f"{n:,}", str(d), kind, *shown(seconds), f"{over:.2f}", f"{max(memory, 0) / 1e9:.2f}"])
        data.append({"n": n, "d": d, "kind": kind, "seconds": seconds, "over floor": over, "bytes": memory})
    report(
        NAME,
        "H0 of large clouds: the minimum spanning tree from the points",
        [
            "n",
            "d",
            "points",
            "blocked, s",
            "one pass of products, s",
            "over it",
            "dense engine / blocked",
            "fastcluster / blocked",
            "blocked / floor",
            "memory beyond the points, GB",
        ],
        rows,
        "Medians of 5 runs (n below 20,000), 3 (20,000) or a single one (100,000, fastcluster). One pass is the half of the matrix "
        "products that all squared distances need, and nothing else: what no exact method with these tiles can do without. `dense engine` "
        "is `spanning-tree`, which holds n² distances. fastcluster's single linkage of vectors, one thread, in double precision, needs no "
        "matrix either; its lengths are compared with those of the tree. The floor, of `simplicial_reg.bench`, is that of products at "
        f"{rates.flops / 1e9:.0f} GFLOP/s and of one pass over n² lengths at {rates.bytes / 1e9:.0f} GB/s, measured in this process. "
        "Memory is the growth of the process.",
        data,
        form=form,
    )


def cloud(n: int, d: int, kind: str) -> Any:
    random = np.random.default_rng(0)
    points = random.standard_normal((n, d))
    if kind != "normal":
        points += (5 * random.standard_normal((50, d)))[random.integers(0, 50, n)]
    return points.astype(np.float32)


def of_peers(points: Any, rounds: int) -> dict[str, float]:
    """Seconds of the dense engine and of fastcluster, whose trees are compared."""
    import fastcluster

    dense, wide = torch.from_numpy(points), points.astype(np.float64)
    start = time.perf_counter()
    linkage = fastcluster.linkage_vector(wide, method="single")[:, 2]
    alone = time.perf_counter() - start
    (tree,) = rips_barcode(dense, engine="spanning-tree")
    np.testing.assert_allclose(linkage, tree.death.numpy(), rtol=1e-5)
    np.testing.assert_array_equal(blocked.tree_edges(points)[0], tree.death_edge.numpy())
    return {"dense": timed(lambda: rips_barcode(dense, engine="spanning-tree"), rounds), "fastcluster": alone}


def timed(run: Callable[[], object], rounds: int) -> float:
    """Median seconds."""
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return float(np.median(found))


def forget_peak() -> int:
    """Resident bytes of the process, from which on the peak is counted anew; on Linux."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def shown(seconds: dict[str, float]) -> list[str]:
    ours = seconds["blocked"]
    others = [f"{seconds[name] / ours:.1f}x" if name in seconds else "" for name in ("dense", "fastcluster")]
    return [f"{ours:.3g}", f"{seconds['products']:.3g}", f"{ours / seconds['products']:.2f}", *others]


if __name__ == "__main__":
    main()
