"""Engines find critical edges. ``ENGINES`` is the table of them; `select_engine` tells what ``"auto"`` picks and why.

An engine is a function ``find(distances, mask, max_dim, threshold) -> [CriticalEdges, ...]``, one entry for each homology
dimension 0..max_dim. ``distances``, (n, n) or (B, n, n), is symmetric with a zero diagonal and without gradient; ``mask``,
(n,) or (B, n), marks the real points, None meaning all. All engines order edges by (length, larger vertex, smaller vertex)
and agree to the last tie. An engine that need not have all distances at once finds H0 from the points too:
``find_points(coordinates, mask, metric) -> CriticalEdges``.

To add one, write a module with such a function and add a line here; the contract test runs over the table.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from simplicial_reg.engines import blocked, boruvka, cohomology, peers, reference, spanning_tree
from simplicial_reg.engines.critical import CriticalEdges, Find

__all__ = ["ENGINES", "Choice", "CriticalEdges", "Engine", "select_engine"]


class Engine(NamedTuple):
    """One row of ``ENGINES``: the function, and what it can do."""

    find: Find
    max_dim: int | None  # highest homology dimension; None: any
    traced: bool  # made of operators that torch.compile keeps in its graph
    anywhere: bool  # runs on the device of the points; otherwise distances are copied to the CPU and edges back
    needs: str | None  # a package that the extra "peers" installs
    summary: str
    find_points: Callable[[Tensor, Tensor | None, str], CriticalEdges] | None = (
        None  # H0 from points, without all distances
    )


ENGINES: dict[str, Engine] = {
    "reference": Engine(reference.find, None, False, False, None, "plain reduction over Z/2; slow; the oracle"),
    "spanning-tree": Engine(spanning_tree.find, 0, True, False, None, "H0 by Prim's algorithm; CPU"),
    "blocked": Engine(
        spanning_tree.find, 0, True, False, None, "H0 of large clouds from points, in blocks; CPU", blocked.find
    ),
    "boruvka": Engine(boruvka.find, 0, True, True, None, "H0; any device, no synchronisation"),
    "cohomology": Engine(
        cohomology.find, 1, False, True, None, "H0 and H1 by implicit cohomology; the last step of it on the CPU"
    ),
    "gudhi": Engine(peers.gudhi_find, None, False, False, "gudhi", "any dimension by GUDHI's simplex tree; CPU"),
    "ripser": Engine(peers.ripser_find, None, False, False, "ripser", "any dimension by ripser.py; CPU"),
    "torch-topological": Engine(
        peers.torch_topological_find, None, False, False, "torch_topological", "any dimension by giotto-ph; CPU"
    ),
}


class Choice(NamedTuple):
    """What ``"auto"`` picked, and why."""

    engine: str
    reason: str


def select_engine(max_dim: int, device: torch.device | str = "cpu", n: int | None = None) -> Choice:
    """The engine that ``engine="auto"`` uses for clouds of ``n`` points on ``device``.

    Args:
        max_dim: highest homology dimension.
        device: where the points are.
        n: number of points in the largest cloud, if known.

    Returns:
        The engine's name in ``ENGINES`` and the reason.

    Example:
        >>> select_engine(1).engine
        'cohomology'
        >>> print(select_engine(0, "cuda").reason)
        H0 on cuda: Triton kernels on an NVIDIA GPU, else Borůvka's algorithm in torch operations; nothing leaves the device
    """
    kind = torch.device(device).type
    moved = "" if kind == "cpu" else f"; the distances are copied from {kind} to the CPU"
    if max_dim == 0 and kind != "cpu":
        return Choice(
            "boruvka",
            f"H0 on {kind}: Triton kernels on an NVIDIA GPU, else Borůvka's algorithm in torch operations; nothing leaves the device",
        )
    if max_dim == 0 and n is not None and n >= LARGE:
        return Choice(
            "blocked",
            f"H0 of {LARGE} points or more on the CPU: the spanning tree in blocks, without all distances at once",
        )
    if max_dim == 0:
        return Choice("spanning-tree", "H0 on the CPU: Prim's algorithm, O(n²) on a dense matrix")
    if max_dim == 1:
        there = "" if kind == "cpu" else f"; edges are sorted and lunes searched on {kind}, and reduced on the CPU"
        return Choice("cohomology", "H1: implicit cohomology on the relative neighbourhood graph" + there)
    if n is not None and n <= TINY:
        return Choice(
            "reference", f"H{max_dim} of at most {TINY} points: plain reduction, no further package needed" + moved
        )
    return Choice("gudhi", f"H{max_dim}: GUDHI, the engine that names critical edges in every dimension" + moved)


LARGE = 12_000  # points, whose distances take 0.6 GB; from about 20,000 on it is no slower either
TINY = 8  # points; the full complex has at most 2⁸ simplices


def finds_from_points(engine: str, max_dim: int, points: Tensor, metric: object) -> bool:
    """Whether the engine, or the one that "auto" picks, finds these bars from the points; otherwise it wants their distances."""
    if engine == "auto":
        engine = select_engine(max_dim, points.device, points.shape[-2]).engine
    traced = torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(points)
    named = isinstance(metric, str) and metric != "precomputed"
    return (
        max_dim == 0
        and points.device.type == "cpu"
        and ENGINES[engine].find_points is not None
        and named
        and not traced
    )


def find_critical_edges(
    engine: str, distances: Tensor, mask: Tensor | None, max_dim: int, threshold: float
) -> list[CriticalEdges]:
    """Run an engine by name, where it can run, and bring the edges back to the device of ``distances``."""
    device = distances.device
    if engine == "auto":
        engine = select_engine(max_dim, device, distances.shape[-1]).engine
    row = ENGINES[engine]
    if row.max_dim is not None and max_dim > row.max_dim:
        raise ValueError(
            f'engine {engine!r} computes homology up to dimension {row.max_dim}; got max_dim={max_dim}; use engine="auto"'
        )
    if row.needs is not None:
        _require(engine, row.needs)
    find = row.find
    if not row.traced:
        if not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(distances):
            raise NotImplementedError(
                f"engine {engine!r} reads numbers, which torch.func transforms do not give; "
                "of the barcodes only H0 (max_dim=0) works under them; use a batch and autograd instead"
            )
        if math.isfinite(
            threshold
        ):  # 0.1 means the float32 nearest to 0.1 where lengths are float32, as torch compares them
            threshold = distances.new_tensor(threshold).item()
        if torch.compiler.is_compiling():
            find = torch.compiler.disable(find)  # a break in the graph here, instead of one at every NumPy call inside
    if row.anywhere or device.type == "cpu":
        return find(distances, mask, max_dim, threshold)
    found = find(distances.cpu(), None if mask is None else mask.cpu(), max_dim, threshold)
    return [CriticalEdges(*(field.to(device) for field in critical)) for critical in found]


def _require(engine: str, package: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError as error:
        name = package.replace("_", "-")
        raise ImportError(f'engine {engine!r} needs the package {name}: pip install "simplicial_reg[peers]"') from error
