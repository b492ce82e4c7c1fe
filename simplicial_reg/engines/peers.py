"""Other people's Vietoris-Rips programs as engines: GUDHI, ripser.py and torch-topological (giotto-ph).

They are given not the lengths but the *rank* of every edge in the total order (length, larger vertex, smaller vertex). All ranks differ,
so the peers break no ties of their own, and whatever they answer, even ripser.py's bare values, names edges: a birth or death at
rank r is the r-th edge. Two of them compute in float32, which holds ranks up to 2²⁴ exactly: clouds of up to 5,793 points.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplicial_reg.engines.critical import CriticalEdges
from simplicial_reg.engines.reference import each_cloud, hang

__all__ = ["gudhi_find", "ripser_find", "torch_topological_find"]

FLOAT32_RANKS = 1 << 24


def gudhi_find(distances: Tensor, mask: Tensor | None, max_dim: int, threshold: float) -> list[CriticalEdges]:
    """See `ENGINES`."""
    return _by_ranks(_gudhi, distances, mask, max_dim, threshold)


def ripser_find(distances: Tensor, mask: Tensor | None, max_dim: int, threshold: float) -> list[CriticalEdges]:
    """See `ENGINES`."""
    return _by_ranks(_ripser, distances, mask, max_dim, threshold)


def torch_topological_find(
    distances: Tensor, mask: Tensor | None, max_dim: int, threshold: float
) -> list[CriticalEdges]:
    """See `ENGINES`."""
    return _by_ranks(_torch_topological, distances, mask, max_dim, threshold)


def _by_ranks(peer: Any, distances: Tensor, mask: Tensor | None, max_dim: int, threshold: float) -> list[CriticalEdges]:
    """``peer(ranks, max_dim, highest rank)`` yields (dim, birth rank, death rank), ranks from 1, death inf if there is none."""

    def bars(lengths: Any, max_dim: int, threshold: float) -> list[list[tuple[int, ...]]]:
        n = len(lengths)
        j, i = np.tril_indices(n, -1)  # by larger, then smaller vertex, so that a stable sort leaves ties in order
        order = np.argsort(lengths[j, i], kind="stable")
        j, i = j[order], i[order]
        if n == 1:
            return [[] for _ in range(max_dim + 1)]
        if len(order) > FLOAT32_RANKS and peer is not _gudhi:
            raise ValueError(f"points must be at most 5793 per cloud for an engine that works in float32; got {n}")
        ranks = np.zeros((n, n))
        ranks[j, i] = ranks[i, j] = np.arange(1, len(order) + 1)
        highest = int(np.searchsorted(lengths[j, i], threshold, side="right"))
        found: list[list[Any]] = [[] for _ in range(max_dim + 1)]
        for dim, birth, death in peer(ranks, max_dim, highest):
            found[dim].append((birth, death))
        # The tree does not depend on the threshold; what the peer did not see of it comes from a run of its own.
        if len(found[0]) < n - 1:
            found[0] = [(birth, death) for _, birth, death in peer(ranks, 0, len(order))]
        tree = sorted(int(death) for _, death in found[0])
        by_dim = [hang([(j[death - 1], i[death - 1]) for death in tree], root=0)]
        for of_dim in found[1:]:
            rows: list[tuple[int, ...]] = []
            for birth, death in sorted(of_dim):
                b = int(birth) - 1
                if math.isinf(death):
                    rows.append((j[b], i[b], -1, -1))
                elif lengths[j[b], i[b]] < lengths[j[int(death) - 1], i[int(death) - 1]]:
                    rows.append((j[b], i[b], j[int(death) - 1], i[int(death) - 1]))
            by_dim.append(rows)
        return by_dim

    return each_cloud(bars, distances, mask, max_dim, threshold)


def _gudhi(ranks: Any, max_dim: int, highest: int) -> Iterator[tuple[int, float, float]]:
    import gudhi

    complex_ = gudhi.RipsComplex(distance_matrix=ranks, max_edge_length=highest)
    tree = complex_.create_simplex_tree(max_dimension=max_dim + 1)
    # GUDHI leaves out homology in the dimension of the complex, which is wanted if there are no simplices above it
    tree.compute_persistence(homology_coeff_field=2, persistence_dim_max=tree.dimension() <= max_dim)
    in_dim_0, above, _, above_for_ever = tree.flag_persistence_generators()
    for _, u, v in in_dim_0:
        yield 0, 0.0, ranks[u, v]
    for dim, generators in enumerate(above, start=1):
        for a, b, u, v in generators:
            yield dim, ranks[a, b], ranks[u, v]
    for dim, generators in enumerate(above_for_ever, start=1):
        for a, b in generators:
            yield dim, ranks[a, b], math.inf


def _ripser(ranks: Any, max_dim: int, highest: int) -> Iterator[tuple[int, float, float]]:
    from ripser import ripser

    with warnings.catch_warnings():  # about clouds with fewer points than coordinates; this is a distance matrix
        warnings.simplefilter("ignore")
        barcodes = ripser(ranks, distance_matrix=True, maxdim=max_dim, thresh=float(highest))["dgms"]
    for dim, barcode in enumerate(barcodes):
        for birth, death in barcode:
            if dim > 0 or math.isfinite(death):
                yield dim, birth, death


def _torch_topological(ranks: Any, max_dim: int, highest: int) -> Iterator[tuple[int, float, float]]:
    from torch_topological.nn import VietorisRipsComplex

    find = VietorisRipsComplex(dim=max_dim, threshold=float(highest), keep_infinite_features=True)
    with torch.device("cpu"):  # it makes tensors on the default device, which may be another
        found = find(torch.from_numpy(ranks), treat_as_distances=True)
    for information in found:
        for birth, death in information.diagram.tolist():
            if information.dimension > 0 or math.isfinite(death):
                yield information.dimension, birth, death
