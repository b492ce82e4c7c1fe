"""H1 with critical edges from a distance matrix: at least 10 times faster than giotto-ph at n = 256 ... 2048, d = 3 and 768."""

from __future__ import annotations

import torch

from benchmarks._measure import FULL, OURS, Form, cell, cloud, report, times
from simplicial_reg import pairwise_distances, rips_barcode
from simplicial_reg.bench import h1_edges

NAME = "h1_comes_ten_times_faster"
PEERS = ("giotto-ph", "ripser.py", "gudhi")
GUDHI_UP_TO = 256  # points; it takes two seconds there and grows with the cube
RIPSER_UP_TO = 1024
COSINE = [(64, 768, "cosine"), (256, 768, "cosine")]  # random directions: without structure, the hardest there is


def main(form: Form = FULL) -> None:
    torch.set_num_threads(1)
    names = [OURS, "rips_barcode", *PEERS]
    rows, data = [], []
    sizes = form.pick((64, 256, 512, 1024, 2048), (64, 256, 512))
    for n, d, metric in [*((n, d, "euclidean") for n in sizes for d in (768, 3)), *form.pick(COSINE, COSINE[:1])]:
        distances = pairwise_distances(cloud(n, d), metric)
        peers = ["giotto-ph"]
        if metric == "euclidean":
            peers += ["ripser.py"] if n <= RIPSER_UP_TO else []
            peers += ["gudhi"] if n <= form.pick(GUDHI_UP_TO, 64) else []
        measured = times(h1_edges(distances, peers))
        bars = len(rips_barcode(distances, 1, metric="precomputed")[1])
        ratio = measured["giotto-ph"].median / measured[OURS].median
        cells = [cell(measured[name]) if name in measured else "-" for name in names]
        rows.append([str(n), str(d), metric, str(bars), *cells, f"{ratio:.1f}x"])
        data.append({"n": n, "d": d, "metric": metric, "bars": bars, "ms": measured, "giotto-ph / ours": ratio})
    report(
        NAME,
        "H0 and H1 with critical edges from a distance matrix",
        ["n", "d", "metric", "bars", "simplicial_reg engine", *names[1:], "giotto-ph / engine"],
        rows,
        "Milliseconds, median (least-greatest) of 7 turns, fewer or one for what takes seconds, one thread each, barcodes compared row by "
        "row first. `rips_barcode` includes checking the matrix and making the result; ripser.py gives values only. -: not run. "
        "Gaussian points; under the cosine metric they are random directions, the hardest case: columns fill in.",
        data,
        form=form,
    )


if __name__ == "__main__":
    main()
