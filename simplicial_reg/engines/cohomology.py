"""H0 and H1: minimum spanning tree, then implicit cohomology (see ``_coboundary``).

On the CPU the clouds of a batch are spread over the threads; one cloud, or fewer clouds than threads, is worked on by all threads, stage
by stage, except for the reduction itself. The bars are the same for any number of threads.

On another device everything that looks at all pairs of points is done there, in torch operations: the tree, the order of the edges, and
the search of the lunes (see ``_lunes``). What is reduced, the edges in order and their ranks, then goes to the CPU, in one transfer for
each group of clouds, and the threads reduce these while the device prepares the next group.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplicial_reg import _ops
from simplicial_reg._announce import announced
from simplicial_reg._memory import available_memory
from simplicial_reg._threads import share_work
from simplicial_reg.engines import _lunes, boruvka
from simplicial_reg.engines.critical import CriticalEdges, from_tree, one_result

__all__ = ["check_size", "find"]

LARGEST_CLOUD = 65_535  # vertices are held in 16 bits, ranks of edges in 31
# Bytes for each entry of the distances that the reduction takes besides, on clouds whose longest bar is not much longer than the reach
# (see ``_coboundary``); about twice as many where all edges are needed. The process was seen to grow by 6 to 7.4 and by 8 to 10.2.
EXTRA = {torch.float32: 8, torch.float64: 11}
WORTH_ASKING = 1 << 30  # bytes; what is less is there
WORTH_SPLITTING = 1024  # points; what threads save on a smaller cloud is used up by starting them
PAIRS = 1 << 22  # of points in a group of clouds that a device prepares at once
PARTS = 16  # at most, that edges are sorted in; each reads all distances

Array = Any


def find(distances: Tensor, mask: Tensor | None, max_dim: int, threshold: float) -> list[CriticalEdges]:
    """See `ENGINES`."""
    n = distances.shape[-1]
    if max_dim > 0:
        check_size(n, distances.dtype, distances[..., 0, 0].numel())
    if distances.device.type != "cpu":
        return _find_from_device(distances, mask, max_dim, threshold)
    birth, death = _ops.spanning_tree(distances, mask)
    components = from_tree(birth, death, mask)
    if max_dim == 0:
        return [components]
    lengths = distances.contiguous().numpy().reshape(-1, n, n)
    keys = lengths.view(_ops.INTEGERS[distances.dtype])
    clouds = len(keys)
    trees = death.numpy().reshape(clouds, n - 1, 2)
    limit = np.array(threshold, lengths.dtype).view(keys.dtype)[()]
    real = None if mask is None else _ops.real_points(mask)
    bars: list[Array] = [None] * clouds
    split = clouds < torch.get_num_threads() and n >= WORTH_SPLITTING

    def work(first: int, step: int) -> None:
        from simplicial_reg.engines import _coboundary, _prim

        loops = _loops if split else _coboundary.loops
        for cloud in range(first, clouds, step):
            if real is None:
                bars[cloud] = loops(keys[cloud], trees[cloud], limit)
                continue
            vertices = np.flatnonzero(real[cloud])
            part = np.searchsorted(vertices, trees[cloud, : len(vertices) - 1])
            found = loops(_prim.between(keys[cloud], vertices), part, limit)
            bars[cloud] = np.append(vertices, -1)[found]  # -1 stays -1

    with announced("persistent cohomology", distances.dtype):
        if split:
            work(0, 1)
        else:
            share_work(work, clouds, 100 * clouds * n * n)
    return [components, one_result(bars, distances.ndim == 2)]


def check_size(n: int, dtype: torch.dtype, clouds: int = 1, *, distances: bool = False) -> None:
    """Refuse H1 of clouds that are too large, before anything is computed.

    Args:
        n: points in each cloud.
        dtype: of the distances.
        clouds: in the batch, of which as many are worked on at once as there are threads.
        distances: whether there must be room for the distances of all clouds as well.

    Raises:
        ValueError: with an estimate of the memory, if this is more than the machine has left, or if edges could not be numbered.
    """
    if n > LARGEST_CLOUD:
        raise ValueError(f"points must be at most {LARGEST_CLOUD} per cloud for H1; got {n}; take a sample")
    at_once = min(clouds, torch.get_num_threads())
    needed = n * n * (EXTRA[dtype] * at_once + dtype.itemsize * clouds * distances)
    if needed < WORTH_ASKING:
        return
    available = available_memory()
    if available is not None and needed > available:
        what = f"{n} points" if clouds == 1 else f"{clouds} clouds of {n} points"
        raise ValueError(
            f"points must fit into memory: H1 of {what} needs about {needed / 1e9:.1f} GB and {available / 1e9:.1f} GB are available; "
            "take a sample of the points, or H0 alone (max_dim=0)"
        )


# --- one cloud, all threads ---------------------------------------------------------------------------------------------------


def _loops(keys: Array, tree: Array, limit: Any) -> Array:
    """`_coboundary.loops`, the same stages, each of them shared by the threads."""
    from simplicial_reg.engines import _coboundary as kernels

    n = len(keys)
    pairs = n * n
    near, near_key = np.empty((n, kernels.NEIGHBOURS), np.int32), np.empty((n, kernels.NEIGHBOURS), keys.dtype)
    farthest = np.empty(n, keys.dtype)
    share_work(lambda first, step: kernels.neighbours(keys, near, near_key, farthest, first, step), n, pairs)
    limit = min(limit, farthest.min())
    start, other = kernels.by_larger_end(tree, n)
    panels = kernels.panels(n)
    doubtful = np.empty((n, panels), np.uint64)
    share_work(
        lambda first, step: kernels.mark_doubtful(keys, near, near_key, start, other, limit, doubtful, first, step),
        panels,
        4 * pairs,
    )
    found = _each(
        lambda first, step: kernels.empty_lunes(keys, near, near_key, doubtful, limit, first, step), n, 4 * pairs
    )
    column = np.concatenate([part for part, _ in found])
    reach = max(part_reach for _, part_reach in found)
    if len(column) == 0:
        return np.empty((0, 4), np.int64)
    ranks = np.empty((n, n), np.int32)
    more = kernels.AT_FIRST
    while True:
        cut = kernels.cuts(keys, reach, limit, more, min(torch.get_num_threads(), PARTS))
        edge, key = _in_order(keys, cut, ranks)
        births = np.sort(ranks[column >> 16, column & 0xFFFF].astype(np.int64))[::-1].copy()
        codes = np.empty(len(births), np.int64)
        witness = np.full(len(edge), -1, np.int32)  # threads may find the same one twice
        share_work(
            functools.partial(kernels.first_cofacets, edge, ranks, near, witness, births, codes),
            len(births),
            len(births) * n,
        )
        deaths = kernels.deaths(edge, ranks, near, witness, births, codes)
        if cut[-1] == limit or deaths.min() >= 0:
            return kernels.bars(edge, key, births, deaths)
        del edge, key  # to make room for more of them
        more **= 4


def _in_order(keys: Array, cut: Array, ranks: Array) -> tuple[Array, Array]:
    """The edges between the first and the last cut in order, and their keys; writes their ranks. A thread for each part."""
    from simplicial_reg.engines import _coboundary as kernels

    parts = len(cut) - 1
    found: list[Any] = [None] * parts

    def sort(first: int, step: int) -> None:
        for part in range(first, parts, step):
            ranks[part::parts] = kernels.ABSENT
            found[part] = kernels.edges_between(keys, cut[part], cut[part + 1])

    share_work(sort, parts, 4 * keys.size)
    stop = np.cumsum([len(edge) for edge, _ in found])
    edge, key = np.empty(stop[-1], np.uint32), np.empty(stop[-1], keys.dtype)

    def enter(first: int, step: int) -> None:
        for part in range(first, parts, step):
            start = stop[part] - len(found[part][0])
            edge[start : stop[part]], key[start : stop[part]] = found[part]
            found[part] = None  # makes room
            kernels.enter(edge[start : stop[part]], start, ranks)

    share_work(enter, parts, 4 * keys.size)
    return edge, key


def _each(work: Callable[[int, int], Any], items: int, operations: int) -> list[Any]:
    """What `share_work`'s calls return, in the order of their first items."""
    found: dict[int, Any] = {}

    def keep(first: int, step: int) -> None:
        found[first] = work(first, step)

    share_work(keep, items, operations)
    return [found[first] for first in sorted(found)]


# --- clouds on another device -------------------------------------------------------------------------------------------------


def _find_from_device(
    distances: Tensor, mask: Tensor | None, max_dim: int, threshold: float, pairs: int = PAIRS
) -> list[CriticalEdges]:
    """As `find`, of distances on any device; at most so many pairs of points in a group of clouds, or one cloud."""
    n = distances.shape[-1]
    components = boruvka.find(distances, mask, 0, threshold)[0]
    if max_dim == 0:
        return [components]
    clouds = distances.reshape(-1, n, n)
    trees = components.death.reshape(len(clouds), n - 1, 2)
    real = None if mask is None else mask.reshape(-1, n)
    size = max(1, pairs // (n * n))
    reductions = []
    with (
        announced("persistent cohomology", distances.dtype),
        ThreadPoolExecutor(torch.get_num_threads(), "simplicial_reg") as threads,
    ):
        for start in range(0, len(clouds), size):
            group = slice(start, start + size)
            sent = _lunes.sent(
                _lunes.lunes(clouds[group], None if real is None else real[group], trees[group], threshold)
            )
            reductions += [threads.submit(_reduced, sent, cloud) for cloud in range(len(clouds[group]))]
        bars = [reduction.result() for reduction in reductions]
    found = one_result(bars, distances.ndim == 2)
    return [components, CriticalEdges(*(field.to(distances.device) for field in found))]


def _reduced(sent: _lunes.Sent, cloud: int) -> Array:
    """The bars of one cloud of a group."""
    from simplicial_reg.engines import _coboundary as kernels

    order = sent.arrived()
    edge, ranks, near = (getattr(order, name)[cloud].numpy() for name in ("edge", "ranks", "near"))
    edge = edge.view(np.uint32)
    key = order.key[cloud].numpy().view(_ops.INTEGERS[order.key.dtype])
    births = np.sort(order.column[order.cloud == cloud].numpy())[::-1].copy()
    codes = np.empty(len(births), np.int64)
    witness = np.full(len(edge), -1, np.int32)
    kernels.first_cofacets(edge, ranks, near, witness, births, codes, 0, 1)
    return kernels.bars(edge, key, births, kernels.deaths(edge, ranks, near, witness, births, codes))
