"""Memory is a constant number of bytes for each entry of the distance matrix: of H1 on Gaussian clouds, and of the H0 layer."""

from __future__ import annotations

import subprocess
import sys

import torch

from benchmarks._measure import FULL, Form, report

NAME = "h1_memory_is_quadratic"
MOST = {"H1 engine": 20, "H0 layer": 8}  # bytes for each entry, at n >= 1024
# A process of its own for each size, so that no memory of an earlier one is used again. The small cloud first loads the kernels.
PROBE = """
import ctypes, math, torch
torch.set_num_threads(1)
from simplicial_reg import ENGINES, pairwise_distances, persistent_entropy, rips_barcode
n, d, metric, what = {n}, {d}, "{metric}", "{what}"
def status(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
def layer(points):
    persistent_entropy(rips_barcode(points, metric=metric)[0]).backward()
def engine(distances):
    ENGINES["cohomology"].find(distances, None, 1, math.inf)
few = torch.randn(64, d)
points = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
if what == "H0 layer":
    run, few, points = layer, few.requires_grad_(), points.requires_grad_()
else:
    run, few, points = engine, *(pairwise_distances(x, metric).unsqueeze(0) for x in (few, points))
run(few)
ctypes.CDLL(None).malloc_trim(0)  # or memory that was freed before would be used without growth
open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far
before = status("VmRSS")
run(points)
print(status("VmHWM") - before)
"""


def main(form: Form = FULL) -> None:
    torch.set_num_threads(1)
    rows, data = [], []
    sizes = form.pick((512, 1024, 2048, 4096), (512, 1024))
    clouds = [("H1 engine", n, d, "euclidean") for n in sizes for d in (768, 3)]
    clouds += [("H1 engine", n, 768, "cosine") for n in form.pick((256, 512), (256,))]
    clouds += [("H0 layer", n, d, "euclidean") for n in sizes for d in (768, 3)]
    for what, n, d, metric in clouds:
        probe = PROBE.format(n=n, d=d, metric=metric, what=what)
        extra = int(subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True).stdout)
        entry = extra / n**2
        rows.append([what, str(n), str(d), metric, f"{extra / 2**20:.0f}", f"{entry:.1f}"])
        data.append({"what": what, "n": n, "d": d, "metric": metric, "extra bytes": extra, "bytes per entry": entry})
        if metric == "euclidean" and n >= 1024 and entry > MOST[what]:
            raise AssertionError(f"{what}, n = {n}, d = {d}: {entry:.1f} bytes per entry of the distance matrix")
    report(
        NAME,
        "Peak extra memory of H0 and H1",
        ["", "n", "d", "metric", "MiB", "bytes per entry of the matrix"],
        rows,
        "Growth of the process's peak resident memory during the call. H1 engine: beyond the float32 distance matrix, which is given and "
        "takes 4 bytes per entry. H0 layer: from points to their gradient, with the distance matrix, which is free again when the "
        "gradient is made; below 1,024 points of 768 coordinates the gradient is larger. Gaussian points; under the cosine metric they "
        "are random directions, the hardest case: reduced columns fill in and take more.",
        data,
        form=form,
    )


if __name__ == "__main__":
    main()
