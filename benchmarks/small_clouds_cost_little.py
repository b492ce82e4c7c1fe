"""One call on a small cloud: under 150 microseconds for H0, and no slower than any peer that finds critical edges, from 8 points on."""

from __future__ import annotations

import gudhi
import torch
from gph import ripser_parallel
from ripser import ripser
from torch_topological.nn import VietorisRipsComplex

from benchmarks._measure import FULL, OURS, Form, cell, cloud, finite, report, same_rows, times
from simplicial_reg import rips_barcode

NAME = "small_clouds_cost_little"


def _gudhi(points: torch.Tensor, max_dim: int) -> object:
    tree = gudhi.RipsComplex(points=points.numpy()).create_simplex_tree(max_dimension=max_dim + 1)
    tree.compute_persistence(homology_coeff_field=2)
    return tree.flag_persistence_generators()


def main(form: Form = FULL) -> None:
    torch.set_num_threads(1)
    names = [OURS, "torch-topological", "giotto-ph", "ripser.py", "gudhi"]
    rows, data = [], []
    for max_dim in (0, 1):
        for n in form.pick((2, 8, 16, 32, 64), (2, 8, 64)):
            points = cloud(n, 384)
            layer = VietorisRipsComplex(dim=max_dim)
            competitors = {
                OURS: lambda points=points, max_dim=max_dim: rips_barcode(points, max_dim),
                "torch-topological": lambda points=points, layer=layer: layer(points),
                "giotto-ph": lambda points=points, max_dim=max_dim: ripser_parallel(
                    points.numpy(), maxdim=max_dim, return_generators=True, n_threads=1
                ),
                "ripser.py": lambda points=points, max_dim=max_dim: ripser(
                    torch.cdist(points, points).numpy(), distance_matrix=True, maxdim=max_dim
                ),
                "gudhi": lambda points=points, max_dim=max_dim: _gudhi(points, max_dim),
            }
            ours = rips_barcode(points, max_dim)
            theirs = competitors["giotto-ph"]()["dgms"]
            for dim in range(max_dim + 1):
                same_rows(ours[dim].numpy(), finite(theirs[dim]), "giotto-ph")
            measured = times(competitors, rounds=form.pick(15, 7))
            ours_ms = measured[OURS].median
            ratio = min(measured[name].median for name in names[1:]) / ours_ms
            with_edges = min(measured[name].median for name in names[1:] if name != "ripser.py") / ours_ms
            cells = [*(cell(measured[name]) for name in names), f"{ratio:.2f}x", f"{with_edges:.2f}x"]
            rows.append([f"H{max_dim}", str(n), *cells])
            data.append(
                {
                    "max_dim": max_dim,
                    "n": n,
                    "ms": measured,
                    "best peer / ours": ratio,
                    "best with edges / ours": with_edges,
                }
            )
    report(
        NAME,
        "One call on one small cloud, d = 384, from points to the barcode with its critical edges",
        ["", "n", *names, "best peer / ours", "best with edges / ours"],
        rows,
        f"Milliseconds, median (least-greatest) of {form.pick(15, 7)} turns. ripser.py is given the distance matrix, because otherwise it "
        "warns; it gives values only, without critical edges.",
        data,
        form=form,
    )


if __name__ == "__main__":
    main()
