# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator"
# Triton reads the types of a kernel's arguments from what it is called with.
"""H0 on an NVIDIA GPU: distances and minimum spanning trees by Triton kernels, all clouds of a batch at once.

    pairwise_lengths(coordinates (B, n, d), metric) -> (B, n, n)
    spanning_trees(lengths (B, n, n), mask (B, n) or None) -> birth_edge, death_edge, both (B, n - 1, 2)

*Distances* are sums over differences of coordinates, as everywhere in this package, and not a matrix product: nothing cancels, the
diagonal is exactly zero. One program computes one tile of one half of the matrix and writes it to both halves, so the matrix is
exactly symmetric.

*Trees.* An edge is one integer: the bits of its length (of a float32 that is not negative they order as it does), then the larger
and the smaller vertex. So ties are broken as everywhere, all keys differ, and a minimum is the same in whatever order it is taken.

- Prim, for clouds up to `PRIM` points: one program for each cloud keeps the shortest edge from the tree to every vertex in registers
  and reads the row of the newest vertex, n - 1 times. It reads the matrix once, but one row has to wait for the one before.
- Borůvka, for larger ones: in each of at most ceil(log2 n) rounds, `_shortest_outgoing` finds the shortest edge from every vertex
  to another component, with the whole device in parallel, and `_merge`, one program for each cloud, joins components along them.
  The edge of a vertex is kept and not sought again while its other end is in another component: what leaves a component only
  becomes less, so the shortest of it stays the shortest. Rounds after the last component are left at once, by a number that stays
  on the device.

`prefers_prim` says which. The rule is reasoning about latency and bandwidth, not yet a measurement: the benchmark
``h0_on_the_gpu_within_three_times_its_floor`` times both, so that it can be set by one.

Prim grows the tree from the first real vertex, and so knows which end of an edge is the farther one; Borůvka does not, and has it
computed by `farther_end`. Nothing here reads a number back to the host.

Importing this module loads Triton, which compiles each kernel at its first call; so it is imported on use.

Sources: R. C. Prim 1957; O. Borůvka 1926; pointer jumping: JáJá 1992, chapter 2.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from simplicial_reg.engines._trees import farther_end

__all__ = ["LIMIT", "pairwise_lengths", "prefers_prim", "spanning_trees"]

LIMIT = 1 << 16  # points: two vertices fit into the lower half of a key
PRIM = 1 << 13  # points: as many keys fit into the registers of one program

# --- distances ----------------------------------------------------------------------------------------------------------------

TILE = 64  # points along a side of what one program computes


def pairwise_lengths(coordinates: Tensor, metric: str) -> Tensor:
    """All lengths (B, n, n) of points (B, n, d), float32 or float64; see ``METRICS`` for the coordinates of a metric."""
    n = coordinates.shape[-2]
    # (B, d, width), so that neighbouring threads read neighbouring points. With zeros at the end no thread has to look where the points
    # and coordinates end; a coordinate that is zero in all points adds nothing to any norm.
    columns = torch.nn.functional.pad(coordinates.mT, (0, -n % TILE, 0, -coordinates.shape[-1] % 4)).contiguous()
    if metric == "angular":
        angle = 2 * torch.atan2(_norms(columns, n, "euclidean", False), _norms(columns, n, "euclidean", True))
        return angle.tril() + angle.tril(-1).mT  # whatever order an arctangent rounds in
    return _norms(columns, n, metric, False)


def _norms(columns: Tensor, n: int, metric: str, of_sums: bool) -> Tensor:
    clouds, d, width = columns.shape
    out = columns.new_empty((clouds, n, n))
    tiles = width // TILE
    _tile[(clouds * tiles, tiles)](columns, out, n, d, tiles, METRIC=metric, OF_SUMS=of_sums, num_warps=4)
    return out


@triton.jit
def _tile(columns, out, n, d, tiles, METRIC: tl.constexpr, OF_SUMS: tl.constexpr):
    """The norms |x - y|, or |x + y|, of one tile of one cloud and of its mirror image; "cosine" is |x - y|² / 2.

    Of its four axes the last two are threads, the first two what each thread holds: 8 rows and 4 columns, so 12 loads serve 32 norms.
    """
    cloud = (tl.program_id(0) // tiles).to(tl.int64)
    right = tl.program_id(0) % tiles
    top = tl.program_id(1)
    if top <= right:
        row = top * 64 + tl.arange(0, 8)[:, None, None, None] * 8 + tl.arange(0, 8)[None, None, :, None]
        column = right * 64 + tl.arange(0, 4)[None, :, None, None] * 16 + tl.arange(0, 16)[None, None, None, :]
        width = tiles * 64
        coordinate = columns + cloud * d * width
        total = tl.zeros([8, 4, 8, 16], columns.dtype.element_ty)
        for first in range(0, d, 64):  # a sum of sums: the rounding error grows with the root of d / 64, not of d
            part = tl.zeros([8, 4, 8, 16], columns.dtype.element_ty)
            for _four in range(first, tl.minimum(first + 64, d), 4):
                for _one in tl.static_range(4):  # so that four coordinates are on their way at once
                    x = tl.load(coordinate + row)
                    y = tl.load(coordinate + column)
                    difference = x + y if OF_SUMS else x - y
                    if METRIC == "manhattan":
                        part += tl.abs(difference)
                    elif METRIC == "chebyshev":
                        part = tl.maximum(part, tl.abs(difference), propagate_nan=tl.PropagateNan.ALL)
                    else:
                        part += difference * difference
                    coordinate += width
            if METRIC == "chebyshev":
                total = tl.maximum(total, part, propagate_nan=tl.PropagateNan.ALL)
            else:
                total += part
        if METRIC == "cosine":
            total = total / 2
        if METRIC == "euclidean":
            total = tl.sqrt_rn(total) if columns.dtype.element_ty == tl.float32 else tl.sqrt(total)
        matrix = out + cloud * n * n
        inside = (row < n) & (column < n)
        tl.store(matrix + row.to(tl.int64) * n + column, total, mask=inside)
        tl.store(matrix + column.to(tl.int64) * n + row, total, mask=inside)


# --- trees --------------------------------------------------------------------------------------------------------------------

NO_EDGE = tl.constexpr(torch.iinfo(torch.int64).max)
NO_LENGTH = tl.constexpr(torch.iinfo(torch.int32).max)  # above the bits of infinity
UNKNOWN = -1


def prefers_prim(clouds: int, n: int) -> bool:
    """Whether one program for each cloud is the quicker form.

    Prim waits n times for one row, about 0.6 microseconds each, whatever the number of clouds. Borůvka spends about half a
    millisecond on launches, and reads the clouds up to log2 n times.
    """
    return n <= 1024 or (n <= PRIM and 128 * clouds >= n)


def spanning_trees(lengths: Tensor, mask: Tensor | None, *, prim: bool | None = None) -> tuple[Tensor, Tensor]:
    """Birth and death edges (B, n - 1, 2) of float32 lengths (B, n, n), sorted by (length, larger, smaller vertex).

    Args:
        lengths: symmetric, not negative, fewer than ``LIMIT`` points.
        mask: bool (B, n), or None.
        prim: Prim or Borůvka; None: as `prefers_prim` says.

    Returns:
        int64; rows past the last real edge are zero.
    """
    clouds, n, _ = lengths.shape
    if n == 1:
        none = torch.zeros((clouds, 0, 2), dtype=torch.int64, device=lengths.device)
        return none, none.clone()
    if prim is None:
        prim = prefers_prim(clouds, n)
    lengths = lengths.contiguous()
    real = None if mask is None else mask.contiguous()
    larger, smaller, child = (_by_prim if prim else _by_boruvka)(lengths, real)
    return torch.stack([child, child], -1), torch.stack([larger, smaller], -1)


def _by_prim(lengths: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    clouds, n, _ = lengths.shape
    chosen = torch.full((clouds, n - 1), NO_EDGE.value, dtype=torch.int64, device=lengths.device)
    size = max(32, triton.next_power_of_2(n))
    warps = min(16, max(1, size // 128))
    _prim[(clouds,)](lengths, real, chosen, n, MASKED=real is not None, SIZE=size, num_warps=warps)
    key = chosen.sort(-1).values
    key = torch.where(key == NO_EDGE.value, 0, key)
    larger, smaller = key >> 16 & 0x7FFF, key >> 1 & 0x7FFF
    return larger, smaller, torch.where(key & 1 == 1, larger, smaller)


@triton.jit
def _prim(lengths, real, chosen, n, MASKED: tl.constexpr, SIZE: tl.constexpr):
    """The keys (length, larger vertex, smaller vertex, whether the larger one is the child) of one cloud's tree."""
    cloud = tl.program_id(0).to(tl.int64)
    lengths += cloud * n * n
    chosen += cloud * (n - 1)
    vertex = tl.arange(0, SIZE)
    outside = vertex < n
    if MASKED:
        outside &= tl.load(real + cloud * n + vertex, mask=outside, other=0) != 0
    newest = tl.min(tl.where(outside, vertex, SIZE), 0)
    edges = tl.sum(outside.to(tl.int32), 0) - 1
    outside &= vertex != newest
    best = tl.full([SIZE], NO_EDGE, tl.int64)
    for step in range(0, edges):
        length = tl.load(lengths + newest.to(tl.int64) * n + vertex, mask=vertex < n, other=0.0)
        ends = tl.maximum(vertex, newest) << 16 | tl.minimum(vertex, newest) << 1 | (vertex > newest).to(tl.int32)
        key = length.to(tl.int32, bitcast=True).to(tl.int64) << 32 | ends.to(tl.int64)
        best = tl.where(outside, tl.minimum(best, key), NO_EDGE)
        shortest = tl.min(best, 0)
        tl.store(chosen + step, shortest)
        newest = (tl.where(shortest & 1 == 1, shortest >> 16, shortest >> 1) & 0x7FFF).to(tl.int32)
        outside &= vertex != newest


def _by_boruvka(lengths: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    clouds, n, _ = lengths.shape
    device = lengths.device
    label = torch.arange(n, dtype=torch.int32, device=device).expand(clouds, n).contiguous()
    components = torch.full((clouds,), n, dtype=torch.int32, device=device)
    root = torch.zeros((clouds, 1), dtype=torch.int64, device=device)
    if real is not None:
        label = torch.where(real, label, -1)
        components = real.sum(-1, dtype=torch.int32)
        root = real.to(torch.int8).argmax(-1, keepdim=True)
    hook = torch.empty_like(label)
    nearest = torch.full((clouds, n), UNKNOWN, dtype=torch.int64, device=device)
    shortest = torch.full((clouds, n), NO_EDGE.value, dtype=torch.int64, device=device)
    chosen = torch.full((clouds, n), NO_EDGE.value, dtype=torch.int64, device=device)
    block = min(COLUMNS, max(32, triton.next_power_of_2(n)))
    groups = triton.cdiv(n, ROWS)
    for _ in range((n - 1).bit_length()):
        _shortest_outgoing[(clouds * groups,)](
            lengths, label, nearest, shortest, components, n, groups, ROWS=ROWS, BLOCK=block, num_warps=4
        )
        _merge[(clouds,)](shortest, label, hook, chosen, components, n, BLOCK=MERGED, num_warps=8)
    key = chosen.sort(-1).values[:, :-1]
    exists = key != NO_EDGE.value
    key = torch.where(exists, key, 0)
    larger, smaller = key >> 16 & 0xFFFF, key & 0xFFFF
    return larger, smaller, farther_end(larger, smaller, exists, root, n)


ROWS, COLUMNS = (
    4,
    512,
)  # what a program of `_shortest_outgoing` looks at in one step: the rows share the labels they read
# Labels a program of `_merge` works on at once: a multiple of its threads. Were an element held by two threads, one might see a
# neighbour's write and the other not; then they would disagree on whether to go on, and wait for each other for ever.
MERGED = 1024


@triton.jit
def _shortest_outgoing(
    lengths, label, nearest, shortest, components, n, groups, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Lower ``shortest`` of each component to its shortest edge to another, from the rows of some vertices.

    ``nearest`` of a vertex is the length and the other end of its own shortest one. Among equally long edges at one vertex the
    order (larger vertex, smaller vertex) is the order of their other ends.
    """
    cloud = (tl.program_id(0) // groups).to(tl.int64)
    if tl.load(components + cloud) > 1:
        row = tl.program_id(0) % groups * ROWS + tl.arange(0, ROWS)
        lengths += cloud * n * n
        label += cloud * n
        nearest += cloud * n
        shortest += cloud * n
        own = tl.load(label + row, mask=row < n, other=-1)
        real = own >= 0
        known = tl.load(nearest + row, mask=real, other=-1)
        has = real & (known >= 0)
        other_end = tl.load(label + (known & 0xFFFF), mask=has, other=-1)
        stale = real & ((known < 0) | (other_end == own))
        if tl.max(stale.to(tl.int32), 0) > 0:
            best = tl.full([ROWS, BLOCK], NO_LENGTH, tl.int32)
            vertex = tl.zeros([ROWS, BLOCK], tl.int32)
            for start in range(0, n, BLOCK):
                column = start + tl.arange(0, BLOCK)
                theirs = tl.load(label + column, mask=column < n, other=-1)[None, :]
                length = tl.load(
                    lengths + row.to(tl.int64)[:, None] * n + column[None, :],
                    mask=stale[:, None] & (column < n)[None, :],
                    other=0.0,
                )
                outgoing = stale[:, None] & (theirs >= 0) & (theirs != own[:, None])
                bits = tl.where(outgoing, length.to(tl.int32, bitcast=True), NO_LENGTH)
                shorter = bits < best  # and not equally long: the columns come in ascending order
                best = tl.where(shorter, bits, best)
                vertex = tl.where(shorter, column[None, :], vertex)
            found = tl.min(best.to(tl.int64) << 32 | vertex.to(tl.int64), 1)
            known = tl.where(stale, found, known)
            tl.store(nearest + row, known, mask=stale)
        far = (known & 0xFFFF).to(tl.int32)
        key = known >> 32 << 32 | tl.maximum(row, far).to(tl.int64) << 16 | tl.minimum(row, far).to(tl.int64)
        # Most edges are no candidates any more. What is read here may be too large, when others write, but never too small.
        candidate = real & (key < tl.load(shortest + own, mask=real, other=-1))
        tl.atomic_min(shortest + own, key, mask=candidate, sem="relaxed")


@triton.jit
def _merge(shortest, label, hook, chosen, components, n, BLOCK: tl.constexpr):
    """Join the components of one cloud along the shortest edge of each, which is kept in ``chosen`` at the label that goes."""
    cloud = tl.program_id(0).to(tl.int64)
    left = tl.load(components + cloud)
    if left > 1:
        shortest += cloud * n
        label += cloud * n
        hook += cloud * n
        chosen += cloud * n
        # Every component hooks onto the one at the other end of its shortest edge.
        for start in range(0, n, BLOCK):
            at = start + tl.arange(0, BLOCK)
            key = tl.load(shortest + at, mask=at < n, other=NO_EDGE)
            exists = key != NO_EDGE  # not where the label is no component any more
            one = tl.load(label + (key >> 16 & 0xFFFF), mask=exists, other=0)
            other = tl.load(label + (key & 0xFFFF), mask=exists, other=0)
            tl.store(hook + at, tl.where(exists, tl.where(one == at, other, one), at), mask=at < n)
        tl.debug_barrier()
        # Keys differ, so hooks form no cycle but pairs that hook onto each other; of a pair the smaller label stays. The larger one
        # writes nothing, so it does not matter which of the two looks first.
        for start in range(0, n, BLOCK):
            at = start + tl.arange(0, BLOCK)
            target = tl.load(hook + at, mask=at < n, other=0)
            back = tl.load(hook + target, mask=at < n, other=0)
            stays = (target == at) | ((back == at) & (at < target))
            tl.store(hook + at, at, mask=stays & (at < n))
            goes = (at < n) & (stays == 0)
            tl.store(chosen + at, tl.load(shortest + at, mask=goes, other=0), mask=goes)
            left -= tl.sum(goes.to(tl.int32), 0)
        tl.debug_barrier()
        # Pointer jumping: every label finds the root of its hooks. A label that is read while another thread moves it leads to the
        # same root before and after. The number of sweeps has a bound, so that a matrix that is not symmetric cannot hang the device.
        moved = 1
        sweeps = 0
        while (moved > 0) & (sweeps < 17):
            moved = 0
            for start in range(0, n, BLOCK):
                at = start + tl.arange(0, BLOCK)
                target = tl.load(hook + at, mask=at < n, other=0)
                farther = tl.load(hook + target, mask=at < n, other=0)
                tl.store(hook + at, farther, mask=at < n)
                moved = tl.maximum(moved, tl.max((farther != target).to(tl.int32), 0))
            sweeps += 1
            tl.debug_barrier()
        for start in range(0, n, BLOCK):
            at = start + tl.arange(0, BLOCK)
            own = tl.load(label + at, mask=at < n, other=-1)
            tl.store(label + at, tl.load(hook + own, mask=own >= 0, other=-1), mask=at < n)
            tl.store(shortest + at, tl.full([BLOCK], NO_EDGE, tl.int64), mask=at < n)
        tl.store(components + cloud, left)
