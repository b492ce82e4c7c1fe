"""Edges with an empty lune, in torch operations only: what ``_coboundary`` finds on the CPU, for distances on another device.

A vertex k is in the lune of (i, j) if both (i, k) and (j, k) come before (i, j) in the total order (length, larger vertex, smaller
vertex). The edges of a cloud are sorted, so that ``ranks`` (n, n) holds their places in that order, and there are no ties from there on;
then the lune of (i, j) is empty if

    min_k max(ranks[i, k], ranks[j, k]) > ranks[i, j],

an entry of the (min, max) matrix product of ``ranks`` with itself. The whole product takes n³ steps. But nearly all entries are decided
by one of the 8 nearest neighbours of i or j, which takes 8 n² steps; only the few that are left are computed, in tiles of limited size.

The host waits for the device twice: for the number of edges that are left to be searched, and for that of empty lunes.

Reference: Koyama, Mémoli, Robins, Turner 2023, arXiv 2307.16333 (the relative neighbourhood graph holds the births of H1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Order", "Sent", "lunes", "sent"]

ABSENT = torch.iinfo(torch.int32).max  # rank of an edge that is not in the filtration, and of (v, v)
NEIGHBOURS = 8
TILE = 1 << 26  # entries of maxima that are held at once


class Order(NamedTuple):
    """The edges (i > j) of B clouds in order, and which are the columns of the reduction.

    Attributes:
        edge: int32 ``(B, m)``, i << 16 | j, to be read without sign; absent edges come last.
        key: ``(B, m)``, the lengths, infinite for absent edges.
        ranks: int32 ``(B, n, n)``, the place of each pair in ``edge``; the largest integer for absent ones and the diagonal.
        near: int32 ``(B, n, 8)``, near neighbours of each vertex.
        cloud: int64 ``(k,)``, the cloud of each edge with an empty lune that is not in the tree.
        column: int64 ``(k,)``, its rank.
    """

    edge: Tensor
    key: Tensor
    ranks: Tensor
    near: Tensor
    cloud: Tensor
    column: Tensor


def lunes(distances: Tensor, mask: Tensor | None, tree: Tensor, threshold: float, tile: int = TILE) -> Order:
    """The edges of clouds (B, n, n) in order, up to the threshold and the enclosing radius, and those with an empty lune.

    ``tree`` (B, n - 1, 2) holds the edges of the minimum spanning trees, larger vertex first, and (0, 0) where there are fewer.
    """
    n = distances.shape[-1]
    i, j = torch.tril_indices(n, n, offset=-1, device=distances.device)
    length = torch.where(_present(distances, mask, threshold), distances, torch.inf)[:, i, j]
    key, order = length.sort(dim=-1, stable=True)  # (i, j) come in order, so equal lengths stay in theirs
    place = torch.arange(len(i), dtype=torch.int32, device=distances.device)
    rank = torch.empty_like(order, dtype=torch.int32).scatter_(-1, order, place.expand(order.shape))
    rank = torch.where(length.isinf(), ABSENT, rank)
    ranks = torch.full(distances.shape, ABSENT, dtype=torch.int32, device=distances.device)
    ranks[:, i, j] = rank
    ranks[:, j, i] = rank
    near = ranks.topk(min(NEIGHBOURS, n), dim=-1, largest=False).indices
    near = nn.functional.pad(near, (0, NEIGHBOURS - near.shape[-1]))
    cloud, column = _empty(ranks, near, tree, tile)
    edge = (i.int() << 16 | j.int())[order]
    return Order(edge, key, ranks, near.int(), cloud, column)


def _present(distances: Tensor, mask: Tensor | None, threshold: float) -> Tensor:
    """Which pairs (B, n, n) are edges: real points, no farther apart than the threshold and the enclosing radius."""
    if mask is None:
        farthest = distances.amax(-1)
    else:
        farthest = torch.where(mask.unsqueeze(-2), distances, -1).amax(-1)
        farthest = torch.where(mask, farthest, torch.inf)
    radius = farthest.amin(-1).clamp(max=threshold)
    present = distances <= radius[:, None, None]
    return present if mask is None else present & mask.unsqueeze(-1) & mask.unsqueeze(-2)


def _empty(ranks: Tensor, near: Tensor, tree: Tensor, tile: int) -> tuple[Tensor, Tensor]:
    """The clouds and the ranks of the edges with an empty lune that are not in the tree."""
    clouds, n, _ = ranks.shape
    settled = ranks == ABSENT
    for k in near.unbind(-1):
        one_edge = ranks.gather(2, k.unsqueeze(-1))
        other_edge = ranks.gather(1, k.unsqueeze(-1).expand(clouds, n, n))
        settled |= torch.maximum(one_edge, other_edge) < ranks
    settled = settled | settled.mT
    settled.flatten(1).scatter_(1, tree[..., 0] * n + tree[..., 1], True)
    cloud, i, j = (~settled).tril(-1).nonzero().unbind(-1)
    rank = ranks[cloud, i, j]
    lowest = [
        torch.maximum(ranks[cloud[part], i[part]], ranks[cloud[part], j[part]]).amin(-1)
        for part in (slice(start, start + tile // n + 1) for start in range(0, len(rank), tile // n + 1))
    ]
    empty = torch.cat([rank[:0], *lowest]) > rank
    return cloud[empty], rank[empty].long()


class Sent(NamedTuple):
    """An `Order` on its way to the CPU; ``arrived`` waits for it."""

    arrived: Callable[[], Order]


def sent(order: Order) -> Sent:
    """Start to copy everything to the CPU. From CUDA this goes on while the device and the caller do other things."""
    device = order.edge.device
    if device.type != "cuda":
        there = Order(*(field.cpu() for field in order))
        return Sent(lambda: there)
    with torch.cuda.device(device):
        coming = Order(*(field.to("cpu", non_blocking=True) for field in order))  # into pinned memory
        copied = torch.cuda.Event()
        copied.record()

    def arrived() -> Order:
        copied.synchronize()
        return coming

    return Sent(arrived)
