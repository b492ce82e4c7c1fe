"""H0 critical edges from a distance matrix come at least 40 times faster than from giotto-ph, at n = 256 ... 2048."""

from __future__ import annotations

import torch

from benchmarks._measure import FULL, OURS, Form, cell, cloud, report, times
from simplicial_reg import pairwise_distances
from simplicial_reg.bench import h0_edges

NAME = "h0_edges_come_forty_times_faster"
PEERS = ("giotto-ph", "ripser.py", "scipy", "fastcluster")


def main(form: Form = FULL) -> None:
    torch.set_num_threads(1)
    names = [OURS, "rips_barcode", *PEERS]
    rows, data = [], []
    for n in form.pick((64, 256, 512, 1024, 2048), (64, 256, 512)):
        for d in (768, 3):
            measured = times(h0_edges(pairwise_distances(cloud(n, d)), PEERS))
            ratio = measured["giotto-ph"].median / measured[OURS].median
            rows.append([str(n), str(d), *(cell(measured[name]) for name in names), f"{ratio:.0f}x"])
            data.append({"n": n, "d": d, "ms": measured, "giotto-ph / ours": ratio})
    report(
        NAME,
        "H0 critical edges from a distance matrix",
        ["n", "d", "simplicial_reg engine", *names[1:], "giotto-ph / engine"],
        rows,
        "Milliseconds, median (least-greatest) of 7 turns, bars compared first. `rips_barcode` includes checking and symmetrizing the "
        "matrix and making the result; ripser.py, scipy and fastcluster give values only.",
        data,
        form=form,
    )


if __name__ == "__main__":
    main()
