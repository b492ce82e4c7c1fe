"""H0 critical edges from a distance matrix come at least 40 times faster than from giotto-ph, at n = 256 ... 2048."""

from __future__ import annotations

import math

import fastcluster
import numpy as np
import torch
from gph import ripser_parallel
from ripser import ripser
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from benchmarks._measure import cell, cloud, finite, report, same_rows, times
from simplicial_reg import ENGINES, pairwise_distances, rips_barcode

find = ENGINES["spanning-tree"].find
NAME = "h0_edges_come_forty_times_faster"


def main() -> None:
    torch.set_num_threads(1)
    header = [
        "n",
        "d",
        "simplicial_reg engine",
        "rips_barcode",
        "giotto-ph",
        "ripser.py",
        "scipy",
        "fastcluster",
        "giotto-ph / engine",
    ]
    rows, data = [], []
    for n in (64, 256, 512, 1024, 2048):
        for d in (768, 3):
            distances = pairwise_distances(cloud(n, d))
            matrix = distances.numpy()
            condensed = squareform(matrix, checks=False)
            batch = distances.unsqueeze(0)
            competitors = {
                "engine": lambda batch=batch: find(batch, None, 0, math.inf),
                "rips_barcode": lambda distances=distances: rips_barcode(distances, metric="precomputed"),
                "giotto-ph": lambda matrix=matrix: ripser_parallel(
                    matrix, metric="precomputed", maxdim=0, return_generators=True, n_threads=1
                ),
                "ripser.py": lambda matrix=matrix: ripser(matrix, distance_matrix=True, maxdim=0),
                "scipy": lambda condensed=condensed: linkage(condensed, "single"),
                "fastcluster": lambda condensed=condensed: fastcluster.linkage(condensed, "single"),
            }
            ours = rips_barcode(distances, metric="precomputed")[0].numpy()
            same_rows(ours, finite(competitors["giotto-ph"]()["dgms"][0]), "giotto-ph")
            same_rows(ours, finite(competitors["ripser.py"]()["dgms"][0]), "ripser.py")
            for peer in ("scipy", "fastcluster"):
                heights = competitors[peer]()[:, 2]
                same_rows(ours, np.stack([np.zeros_like(heights), heights], 1), peer)
            measured = times(competitors)
            ratio = measured["giotto-ph"][0] / measured["engine"][0]
            rows.append([str(n), str(d), *(cell(ms) for ms in measured.values()), f"{ratio:.0f}x"])
            data.append({"n": n, "d": d, "ms": measured, "giotto-ph / engine": ratio})
    report(
        NAME,
        "H0 critical edges from a distance matrix",
        header,
        rows,
        "Milliseconds, median (least-greatest) of 9 turns. `rips_barcode` includes checking and symmetrizing the matrix and making the "
        "result; ripser.py, scipy and fastcluster give values only.",
        data,
    )


if __name__ == "__main__":
    main()
