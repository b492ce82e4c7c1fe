"""Minimum spanning trees by Borůvka's algorithm in torch operations: any device, and nothing is read back to the host.

    trees(distances (B, n, n), mask (B, n) or None) -> birth_edge, death_edge, both (B, n - 1, 2)

Every round, every component picks its shortest outgoing edge and hooks onto the component at its other end; ceil(log2 n) rounds leave
one component. The number of rounds and all shapes are fixed, so the host never waits for the device, and the batch dimension comes for
free. Edges are compared by one integer each (length, then vertices): distinct keys mean that hooks form no cycle but the mutual
pair, which is cut at its smaller label.

Source: O. Borůvka 1926; pointer jumping and the Euler tour are the textbook parallel forms (JáJá 1992, chapters 3 and 5).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["farther_end", "trees"]

NO_EDGE = torch.iinfo(torch.int64).max


def trees(distances: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Birth and death edges (B, n - 1, 2), sorted by (length, larger, smaller vertex)."""
    clouds, n, _ = distances.shape
    if n == 1:
        none = torch.zeros((clouds, 0, 2), dtype=torch.int64, device=distances.device)
        return none, none.clone()  # an operator must not return a tensor twice
    keys, table = _edge_keys(distances)
    pair = torch.eye(n, dtype=torch.bool, device=distances.device)
    if mask is not None:
        pair = pair | ~(mask.unsqueeze(-1) & mask.unsqueeze(-2))
    keys = torch.where(pair, NO_EDGE, keys)
    chosen = _tree_keys(keys, table).sort(-1).values[:, :-1]
    root = torch.zeros_like(chosen[:, :1]) if mask is None else mask.to(torch.int8).argmax(-1, keepdim=True)
    u, v = _ends(chosen, table, n)
    child = farther_end(u, v, chosen != NO_EDGE, root, n)
    return torch.stack([child, child], -1), torch.stack([u, v], -1)


def _edge_keys(distances: Tensor) -> tuple[Tensor, Tensor | None]:
    """One integer per edge, (B, n, n), ordered like (length, larger vertex, smaller vertex), and what `_ends` needs.

    A float32 length and the edge fit into 64 bits side by side. A float64 length does not: its key is the rank of the edge,
    and the table (B, n (n - 1) / 2) leads from ranks to edges. The diagonal holds nonsense, which the caller covers.
    """
    n = distances.shape[-1]
    vertex = torch.arange(n, device=distances.device)
    edge = torch.maximum(vertex, vertex[:, None]) * n + torch.minimum(vertex, vertex[:, None])
    if distances.dtype == torch.float32 and n < 1 << 16:
        return distances.view(torch.int32).to(torch.int64) << 32 | edge, None
    i, j = torch.tril_indices(n, n, offset=-1, device=distances.device)
    number = torch.arange(len(i), device=distances.device)
    order = distances[:, i, j].argsort(dim=-1, stable=True)
    rank = torch.empty_like(order).scatter(-1, order, number.expand_as(order))
    place = torch.zeros_like(edge)
    place[i, j] = place[j, i] = number
    return rank[:, place], edge[i, j][order]


def _ends(key: Tensor, table: Tensor | None, n: int) -> tuple[Tensor, Tensor]:
    """The larger and the smaller vertex of the edges (B, k) with these keys; (0, 0) for NO_EDGE."""
    none = key == NO_EDGE
    key = torch.where(none, 0, key)
    edge = torch.where(none, 0, key & 0xFFFFFFFF if table is None else table.gather(-1, key))
    return edge // n, edge % n


def _tree_keys(keys: Tensor, table: Tensor | None) -> Tensor:
    """The keys of the tree's edges (B, n), in no order, with NO_EDGE in the remaining places."""
    clouds, n, _ = keys.shape
    label = torch.arange(n, device=keys.device).expand(clouds, n)
    vertex = label
    chosen = torch.full((clouds, n), NO_EDGE, device=keys.device)
    components = n
    while components > 1:
        outgoing = torch.where(label.unsqueeze(-1) == label.unsqueeze(-2), NO_EDGE, keys).amin(-1)
        shortest = torch.full_like(chosen, NO_EDGE).scatter_reduce(-1, label, outgoing, "amin")
        one_end, other_end = (label.gather(-1, end) for end in _ends(shortest, table, n))
        hook = torch.where(one_end == vertex, other_end, one_end)
        hook = torch.where(
            shortest == NO_EDGE, vertex, hook
        )  # a finished cloud, or a label that is no component any more
        hook = torch.where((hook.gather(-1, hook) == vertex) & (vertex < hook), vertex, hook)
        chosen = torch.where(hook != vertex, shortest, chosen)
        for _ in range((components - 1).bit_length()):  # pointer jumping: every label finds the root of its hooks
            hook = hook.gather(-1, hook)
        label = hook.gather(-1, label)
        components = components // 2
    return chosen


def farther_end(u: Tensor, v: Tensor, real: Tensor, root: Tensor, n: int) -> Tensor:
    """Which end of each tree edge (u, v), (B, k), is farther from ``root`` (B, 1), counted along the tree.

    Walk around the tree from the root: an edge leads away from the root the first time it is walked. The walk is a linked list of the
    2 k directed edges; list ranking by pointer doubling finds their order.
    """
    k = u.shape[-1]
    start = torch.where(torch.cat([real, real], -1), torch.cat([u, v], -1), n)  # edges that are not real go round apart
    arc = torch.arange(2 * k, device=u.device).expand_as(start)
    twin = (arc + k) % (2 * k)
    by_start = start.argsort(dim=-1, stable=True)
    sorted_start = start.gather(-1, by_start)
    first = torch.searchsorted(sorted_start, sorted_start)  # where the arcs of the same vertex begin
    same = sorted_start == sorted_start.roll(-1, -1)
    same[..., -1] = False
    following = torch.where(same, by_start.roll(-1, -1), by_start.gather(-1, first))
    around = torch.empty_like(by_start).scatter(-1, by_start, following)  # the next arc from the same vertex
    succ = around.gather(-1, twin)
    begin = by_start.gather(-1, torch.searchsorted(sorted_start, root).clamp(max=2 * k - 1))
    last = succ == begin
    succ = torch.where(last, arc, succ)
    to_go = (~last).to(torch.int64)
    for _ in range((2 * k).bit_length()):
        to_go = to_go + to_go.gather(-1, succ)
        succ = succ.gather(-1, succ)
    away = to_go[..., :k] > to_go[..., k:]  # u -> v is walked before v -> u
    return torch.where(away, v, u)
