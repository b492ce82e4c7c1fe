"""H0 of one cloud whose points are spread over the ranks of a torch.distributed group, exactly, without gathering it anywhere.

For a batch, whose points fit on every rank, `simplicial_reg.training.distributed.gather_points` is simpler. This is for clouds that do not.

How. Let the points of rank r be block r.

1. *Pairs of blocks.* Every two points are in some pair of blocks. Blocks go round, and each pair of them is joined on one rank, which
   finds the minimum spanning tree of the two together (`simplicial_reg.engines.blocked`). A rank sends its block to half of the others.
2. *Merging.* The minimum spanning forest of two sets of edges together is that of their two forests
   (`simplicial_reg.engines.blocked.forest` says why). So trees of pairs are merged two by two, each time into at most n - 1 edges, over
   ceil(log2 W) rounds: O(n log W) edges are sent in all. The last one is the tree of all pairs.
3. *Lengths.* All ranks are told the tree and its lengths. The gradient of the length of an edge goes to both of its ends, each of which
   its own rank knows; of the other end, if that is on another rank, it needs the coordinates. Everybody sees in the tree who needs
   which of its points, so these are sent without being asked for: on average less than two for each point, since n points have
   n - 1 edges.

Every rank has the whole barcode, the same to the last bit, and its graph leads to its own points. What happens to gradients of parameters
afterwards decides a factor, as for `gather_points`: W where they are averaged over ranks (``reduction="mean"``), 1 where they are summed.

Memory of a rank: three blocks while trees are found. Then its own points, a table of them and of those that it is sent, and the gradient
of that table: seven blocks where points lie on ranks by chance, three where neighbours lie together. And the tree with 24 bytes for
each point of the whole cloud, several times while trees are merged.

Work: each pair of points of different blocks is looked at once, and those of the same block W - 1 times, so about twice n² / 2 in
all, over W ranks.

Equal lengths are ordered as everywhere, by the numbers of points in the whole cloud. Ranks of different kinds of processors may round
lengths differently, in the last bit; the result is then that of the rank which found the edge.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

from simplicial_reg._announce import announced
from simplicial_reg._autocast import autocast_off
from simplicial_reg._checks import check_choice, computable
from simplicial_reg.barcode import Barcode, rips_barcode
from simplicial_reg.distances import METRICS, length_between
from simplicial_reg.engines import blocked

__all__ = ["REDUCTIONS", "ScaledGradient", "barcode_of_tree", "distributed_barcode"]

REDUCTIONS = ("mean", "sum")
DTYPES = (torch.float32, torch.float64)
Array = Any


def distributed_barcode(
    points: Tensor, *, metric: str = "euclidean", reduction: str = "mean", group: Any = None
) -> Barcode:
    """The H0 bars of the points of all ranks as one cloud.

    Every rank of the group must call it. Points on an accelerator are copied to the CPU, where the tree is found.

    Args:
        points: floating tensor ``(n_r, d)``, this rank's; n_r may differ, and is at least 1.
        metric: a name in ``METRICS``, the same on every rank.
        reduction: what is done with the parameters' gradients over ranks afterwards, ``"mean"`` or ``"sum"``.
        group: the process group; None is the default one.

    Returns:
        The bars of dimension 0, ``(n - 1,)`` with n the sum of all n_r, as `rips_barcode` has them. Vertices are numbered in the order of
        ranks. If torch.distributed is not initialised, or for one rank, this is ``rips_barcode(points, metric=metric)[0]``.

    Raises:
        TypeError: for points that are no floating tensor.
        ValueError: for a wrong shape or an unknown name; and on every rank, saying what each has, if the points of one are not
            finite or so large that distances could overflow, or ranks do not fit together.

    Example:
        >>> distributed_barcode(torch.tensor([[0.0], [1.0], [3.0]])).death  # one process
        tensor([1., 2.])
    """
    check_choice("metric", metric, METRICS)
    check_choice("reduction", reduction, REDUCTIONS)
    points, _ = computable(points, None, metric)
    if points.ndim != 2:
        raise ValueError(f"points must be one cloud, (n, d); got shape {tuple(points.shape)}")
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size(group) == 1:
        return rips_barcode(points, metric=metric)[0]
    with autocast_off(points), announced("spanning tree in blocks", metric, points.dtype):
        coordinates = METRICS[metric].coordinates(points)
        ranks = _Ranks(coordinates.detach(), metric, group)
        edges, lengths = ranks.broadcast(*ranks.merged(*ranks.trees(metric), metric))
        death = ranks.with_gradient(coordinates, edges, lengths, metric, reduction)
    return barcode_of_tree(edges, death)


def barcode_of_tree(edges: Array, death: Tensor) -> Barcode:
    """The H0 bars of a tree's edges ``(n - 1, 2)`` with these lengths."""
    from simplicial_reg.engines._blocked_kernels import rooted

    device = death.device
    child = torch.from_numpy(rooted(edges, len(edges) + 1)).to(device)
    return Barcode(
        0,
        torch.zeros_like(death),
        death,
        torch.stack([child, child], -1),
        torch.from_numpy(edges).to(device),
        torch.ones_like(death, dtype=torch.bool),
    )


class _Ranks:
    """This rank among the others: who has which points."""

    def __init__(self, coordinates: Tensor, metric: str, group: Any) -> None:
        self.group, self.block = group, coordinates.contiguous()
        self.rank, self.count = distributed.get_rank(group), distributed.get_world_size(group)
        self.sizes = self._agree(metric)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])

    def _agree(self, metric: str) -> list[int]:
        """The number of points of every rank, after all have seen that they fit together."""
        n, d = self.block.shape
        finite = bool(self.block.isfinite().all())
        # Were this found where lengths are computed, the other ranks would wait for one that has given up.
        fits = math.sqrt(d) * 2 * float(self.block.abs().max()) < math.sqrt(torch.finfo(self.block.dtype).max)
        own = [d, DTYPES.index(self.block.dtype), list(METRICS).index(metric), finite, fits, n]
        rows = [row.tolist() for row in self._gather(torch.tensor(own, dtype=torch.int64, device=self.block.device))]
        said = "; ".join(
            f"rank {rank}: {(n, d)} {DTYPES[dtype]}, {list(METRICS)[at]}{'' if finite else ', with NaN or infinity'}"
            for rank, (d, dtype, at, finite, _, n) in enumerate(rows)
        )
        if any(row[:3] != rows[0][:3] for row in rows):
            raise ValueError(f"points of all ranks must agree in coordinates, dtype and metric; got {said}")
        if not all(row[3] for row in rows):
            raise ValueError(f"points must be finite on every rank; got {said}; remove those that are not")
        if not all(row[4] for row in rows):
            largest = [rank for rank, row in enumerate(rows) if not row[4]]
            raise ValueError(
                f"points are too large: distances may overflow {self.block.dtype}, on rank {', '.join(map(str, largest))}; rescale them or "
                "use float64"
            )
        return [int(row[5]) for row in rows]

    # --- the tree ---

    def trees(self, metric: str) -> tuple[Array, Array]:
        """Edges ``(m, 2)`` in numbers of the whole cloud, and lengths, of the trees of this rank's pairs of blocks."""
        found = []
        for step in range(1, self.count // 2 + 1):
            other = (self.rank + step) % self.count
            theirs = self._exchange((self.rank - step) % self.count, other)
            # With an even number of ranks those that are opposite meet twice.
            if 2 * step < self.count or self.rank < other:
                found.append(self._tree_of(other, theirs, metric))
        if not found:
            found.append((np.empty((0, 2), np.int64), np.empty(0, self.block.cpu().numpy().dtype)))
        edges, lengths = zip(*found, strict=True)
        return np.concatenate(edges), np.concatenate(lengths)

    def _exchange(self, to: int, source: int) -> Tensor:
        """Send the own block to a rank while that of another one comes in."""
        theirs = self.block.new_empty((self.sizes[source], self.block.shape[1]))
        operations = [
            distributed.P2POp(distributed.isend, self.block, self._named(to), self.group),
            distributed.P2POp(distributed.irecv, theirs, self._named(source), self.group),
        ]
        for request in distributed.batch_isend_irecv(operations):
            request.wait()
        return theirs

    def _tree_of(self, other: int, theirs: Tensor, metric: str) -> tuple[Array, Array]:
        """The tree of the own block and another one; the block of the lower rank comes first, as in the whole cloud."""
        pair = [(self.rank, self.block), (other, theirs)]
        pair.sort(key=lambda one: one[0])
        number = np.concatenate([np.arange(self.starts[rank], self.starts[rank + 1]) for rank, _ in pair])
        edges, lengths = blocked.tree_edges(torch.cat([block for _, block in pair]).cpu().numpy(), metric)
        return number[edges], lengths

    def merged(self, edges: Array, lengths: Array, metric: str) -> tuple[Array, Array]:
        """On rank 0 the tree of the whole cloud; on the others what they had when they handed it on."""
        edges, lengths = blocked.forest(edges, lengths, int(self.starts[-1]))
        reach = 1
        while reach < self.count:
            if self.rank % (2 * reach):
                self._send(edges, lengths, self.rank - reach)
                break
            if self.rank + reach < self.count:
                more_edges, more_lengths = self._receive(self.rank + reach)
                edges, lengths = blocked.forest(
                    np.concatenate([edges, more_edges]),
                    np.concatenate([lengths, more_lengths]),
                    int(self.starts[-1]),
                )
            reach *= 2
        return edges, lengths

    def _send(self, edges: Array, lengths: Array, to: int) -> None:
        device, name = self.block.device, self._named(to)
        distributed.send(torch.tensor([len(edges)], device=device), name, self.group)
        if len(edges):
            distributed.send(torch.from_numpy(edges).contiguous().to(device), name, self.group)
            distributed.send(torch.from_numpy(lengths).contiguous().to(device), name, self.group)

    def _receive(self, source: int) -> tuple[Array, Array]:
        device, name = self.block.device, self._named(source)
        count = torch.zeros(1, dtype=torch.int64, device=device)
        distributed.recv(count, name, self.group)
        edges, lengths = self._room(int(count))
        if len(edges):
            distributed.recv(edges, name, self.group)
            distributed.recv(lengths, name, self.group)
        return edges.cpu().numpy(), lengths.cpu().numpy()

    def broadcast(self, edges: Array, lengths: Array) -> tuple[Array, Array]:
        """What rank 0 has, on every rank."""
        found = self._room(int(self.starts[-1]) - 1)
        if self.rank == 0:
            found = (torch.from_numpy(edges).to(self.block.device), torch.from_numpy(lengths).to(self.block.device))
        for tensor in found:
            distributed.broadcast(tensor, self._named(0), self.group)
        return found[0].cpu().numpy(), found[1].cpu().numpy()

    def _room(self, count: int) -> tuple[Tensor, Tensor]:
        return self.block.new_empty((count, 2), dtype=torch.int64), self.block.new_empty(count)

    # --- lengths ---

    def with_gradient(self, coordinates: Tensor, edges: Array, lengths: Array, metric: str, reduction: str) -> Tensor:
        """The lengths, with the gradient of the own points."""
        owner: Array = np.searchsorted(self.starts, edges, side="right") - 1
        own = owner == self.rank
        mine = np.flatnonzero(own.any(1))
        far, theirs = self._far_ends(edges[mine], owner[mine])
        # The own points, then the ends of own edges on other ranks.
        size = self.sizes[self.rank]
        place = np.where(own[mine], edges[mine] - self.starts[self.rank], size + np.searchsorted(far, edges[mine]))
        kept = ScaledGradient.apply(coordinates, self.count if reduction == "mean" else 1)  # type: ignore[no-untyped-call]
        device = self.block.device
        found = length_between(torch.cat([kept, theirs]), torch.from_numpy(place).to(device), metric)
        death = torch.from_numpy(lengths).to(device)
        # The value is the one that decided, the same on every rank; the gradient is that of the points.
        return death.index_add(0, torch.from_numpy(mine).to(device), found - found.detach())

    def _far_ends(self, edges: Array, owner: Array) -> tuple[Array, Tensor]:
        """Of edges with an end here, the ends that are on other ranks, in order, and their coordinates.

        The ranks of both ends see the same edges between them, so each knows what the other needs. Numbers of points are in the order
        of ranks, and so are those of several ranks when they are sorted.
        """
        here = owner == self.rank
        between = here[:, 0] != here[:, 1]
        edges, owner, here = edges[between], owner[between], here[between]
        far = np.unique(edges[~here])
        # Each own point once for each rank that needs it.
        told = np.unique(np.stack([owner[~here], edges[here]], 1), axis=0)
        sent = self.block[torch.from_numpy(told[:, 1] - self.starts[self.rank]).to(self.block.device)]
        theirs = self.block.new_empty((len(far), self.block.shape[1]))
        to = np.bincount(told[:, 0], minlength=self.count)
        come = np.bincount(np.searchsorted(self.starts, far, side="right") - 1, minlength=self.count)
        distributed.all_to_all_single(theirs, sent, come.tolist(), to.tolist(), self.group)
        return far, theirs

    # --- communication ---

    def _named(self, rank: int) -> int:
        """The global name of a rank of the group."""
        return rank if self.group is None else distributed.get_global_rank(self.group, rank)

    def _gather(self, tensor: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(tensor) for _ in range(self.count)]
        distributed.all_gather(parts, tensor.contiguous(), group=self.group)
        return parts


class ScaledGradient(torch.autograd.Function):
    """The identity, with its gradient multiplied."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, factor: int) -> Tensor:
        """The points."""
        ctx.factor = factor
        return points.view_as(points)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """The gradient times the factor."""
        return grad * ctx.factor, None
