"""Memory: calls leave nothing behind, and H1 of n points takes O(n²) bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import simplicial_reg

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads memory from Linux's /proc")

MEGABYTE = 1 << 20

PRELUDE = """if True:
    import gc, sys, torch, simplicial_reg
    from simplicial_reg import entropy_deficit, rips_barcode
    torch.set_num_threads(1)

    def memory(key):
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith(key))
"""

CALLS = (
    PRELUDE
    + """
    keep = []

    def step(number):
        points = torch.randn({clouds}, {n}, 16, requires_grad=True)
        bars = rips_barcode(points, {max_dim})
        loss = torch.stack([entropy_deficit(bar).sum() for bar in bars]).sum()
        loss.backward()
        if {leak}:
            keep.append(bars)

    for number in range(1000):  # until the allocator has seen every size of cloud
        step(number)
    gc.collect()
    before = memory("VmRSS")
    for number in range({calls}):
        step(number)
    gc.collect()
    print(memory("VmRSS") - before)
"""
)

PEAK = (
    PRELUDE
    + """
    def cloud(n):
        torch.manual_seed(0)
        return {cloud}

    points = cloud(20)
    rips_barcode(points, 1)[0].death.sum().backward()  # compiles, or loads
    points = cloud({n})
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts again from here
    before = memory("VmRSS")
    bars = rips_barcode(points, 1)
    torch.stack([bar.persistence.sum() for bar in bars]).sum().backward()
    print(memory("VmHWM") - before)
"""
)


def measured(script: str, **values: Any) -> int:
    """Bytes that a script prints, run in a fresh interpreter."""
    for name, value in values.items():
        script = script.replace("{" + name + "}", str(value))
    root = str(Path(simplicial_reg.__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path, "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if "clear_refs" in done.stderr:
        pytest.skip("this system does not let a process reset its peak memory")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize(("max_dim", "clouds", "n"), [(0, 1, 64), (0, 4, 48), (1, 1, 48)])
def test_2000_calls_with_gradient_leave_no_memory_behind(max_dim: int, clouds: int, n: int) -> None:
    grown = measured(CALLS, calls=2000, max_dim=max_dim, clouds=clouds, n=n, leak=False)
    assert grown < 3 * MEGABYTE


def test_the_check_of_leaks_notices_bars_that_are_kept() -> None:
    # 1000 times the bars of 64 points with their graph, which holds the points: some 10 KB each
    grown = measured(CALLS, calls=1000, max_dim=0, clouds=1, n=64, leak=True)
    assert grown > 3 * MEGABYTE


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "cloud",
    [
        "torch.randn(n, 3, dtype=torch.{dtype}, requires_grad=True)",
        "torch.eye(n, dtype=torch.{dtype}, requires_grad=True)",  # all edges equally long: none is left out
    ],
    ids=["gaussian", "regular simplex"],
)
def test_h1_of_1024_points_takes_less_than_40_bytes_for_each_pair_of_points(cloud: str, dtype: str) -> None:
    n = 1024
    assert measured(PEAK, cloud=cloud.replace("{dtype}", dtype), n=n) < 40 * n * n


STRUCTURELESS = {
    # Distances of directions in many dimensions are nearly independent of each other: what an isotropic embedding space looks like.
    "directions": (256, "torch.nn.functional.normalize(torch.randn(n, 768), dim=-1)"),
    "random distances": (200, "(lambda x: x + x.T)(torch.rand(n, n).triu(1))"),
}


@pytest.mark.parametrize("name", list(STRUCTURELESS))
def test_h1_of_distances_without_structure_takes_less_than_300_bytes_for_each_pair_of_points(name: str) -> None:
    # Columns fill up here, in every program: ripser.py takes 2700 bytes per pair for the first and 1700 for the second. A column that keeps
    # edges twice, which cancel in Z/2, runs out of memory; the limit keeps that from taking the machine along.
    n, cloud = STRUCTURELESS[name]
    script = PEAK.replace("rips_barcode(points, 1)", "rips_barcode(points, 1, metric=METRIC)")
    script = script.replace(
        "    def cloud(n)",
        "    import resource\n    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))\n    def cloud(n)",
    )
    script = script.replace("METRIC", '"precomputed"' if "distances" in name else '"cosine"')
    assert measured(script, cloud=cloud + ".requires_grad_()", n=n) < 300 * n * n


def test_the_check_of_peak_memory_notices_an_array_of_n_cubed_bytes() -> None:
    script = PEAK.replace(
        "bars = rips_barcode(points, 1)", "bars = rips_barcode(points, 1); torch.ones(n, n, n, dtype=torch.uint8)"
    )
    script = script.replace("    points = cloud", "    n = {n}\n    points = cloud")
    n = 256
    assert measured(script, cloud="torch.randn(n, 3, requires_grad=True)", n=n) > 40 * n * n
