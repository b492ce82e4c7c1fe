"""The extra memory of H1 on Gaussian clouds is a constant number of bytes per entry of the distance matrix, whatever n is."""

from __future__ import annotations

import subprocess
import sys

import torch

from benchmarks._measure import report

NAME = "h1_memory_is_quadratic"
# A process of its own for each size, so that no memory of an earlier one is used again. The small cloud first loads the kernels.
PROBE = """
import math, torch
torch.set_num_threads(1)
from simplicial_reg import ENGINES, pairwise_distances
n, d, metric = {n}, {d}, "{metric}"
find = ENGINES["cohomology"].find
find(pairwise_distances(torch.randn(64, d), metric).unsqueeze(0), None, 1, math.inf)
distances = pairwise_distances(torch.randn(n, d, generator=torch.Generator().manual_seed(0)), metric).unsqueeze(0)
def status(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far
before = status("VmRSS")
find(distances, None, 1, math.inf)
print(status("VmHWM") - before)
"""

CLOUDS = [(n, d, "euclidean") for n in (512, 1024, 2048, 4096) for d in (768, 3)]
CLOUDS += [(n, 768, "cosine") for n in (256, 512)]


def main() -> None:
    torch.set_num_threads(1)
    rows, data = [], []
    for n, d, metric in CLOUDS:
        probe = PROBE.format(n=n, d=d, metric=metric)
        extra = int(subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True).stdout)
        rows.append([str(n), str(d), metric, f"{extra / 2**20:.0f}", f"{extra / n**2:.1f}"])
        data.append({"n": n, "d": d, "metric": metric, "extra bytes": extra, "bytes per entry": extra / n**2})
        if metric == "euclidean" and n >= 1024 and extra > 20 * n**2:
            raise AssertionError(f"n = {n}, d = {d}: {extra / n**2:.1f} bytes per entry of the distance matrix")
    report(
        NAME,
        "Peak extra memory of H0 and H1, beyond the float32 distance matrix",
        ["n", "d", "metric", "MiB", "bytes per entry of the matrix"],
        rows,
        "Growth of the process's peak resident memory during the call; the matrix itself is 4 bytes per entry. Gaussian points; "
        "under the cosine metric they are random directions, the hardest case: reduced columns fill in and take more.",
        data,
    )


if __name__ == "__main__":
    main()
