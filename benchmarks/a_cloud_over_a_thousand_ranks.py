"""`distributed_barcode` of 100 million points over 1,024 ranks takes more than a day; n² d bounds it, not what is sent.

A simulation. The bytes that each rank sends and receives are counted, step by step, as the code sends them, and a test compares the counts
with what 2 and 3 processes really send. Seconds of computing are measured here: of one pair of points in the tree of two blocks, and of
one edge when trees are merged. Networks are assumptions.

    pairs      a rank sends its block floor(W/2) times and computes at most so many trees of two blocks, each of (2 n/W)²/2 pairs
    forest     of the trees of a rank, n edges at first
    merging    ceil(log2 W) rounds, in each of which a forest is received, merged and sorted
    telling    the tree to all ranks, by a binary tree of messages: ceil(log2 W) rounds
    ends       every rank is sent the coordinates of the other ends of its own edges. Where points lie on ranks by chance nearly all
               are on other ranks, two for each point: counted is 2 (n/W) (1 - 1/W), as if no two were the same
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks._measure import FULL, Form, cloud, report
from simplicial_reg.engines import blocked

NAME = "a_cloud_over_a_thousand_ranks"
THREADS = 2
D, ITEM = 384, 4  # float32
INDEX = 8  # bytes of an int64
AGREED = 6  # numbers that every rank tells about its points
POINTS = (1_000_000, 10_000_000, 100_000_000)
RANKS = (8, 64, 256, 1024)


class Network(NamedTuple):
    """An assumption: bytes per second that a rank sends and receives at once, and seconds of one message."""

    name: str
    bandwidth: float
    latency: float


NETWORKS = (
    Network("10 Gbit/s Ethernet", 1.25e9, 5e-5),
    Network("100 Gbit/s", 12.5e9, 5e-6),
    Network("400 GB/s, NVLink class", 400e9, 5e-6),
)


# --- bytes -----------------------------------------------------------------------------------------------------------------------


@dataclass
class Traffic:
    """Bytes that each rank hands to torch.distributed, by step. What is for several ranks, by a broadcast or a gathering, counts once."""

    agree: list[int]
    pairs: list[int]
    merging: list[int]
    telling: list[int]
    ends: list[int]


@dataclass
class Merge:
    """One round of merging: who sends how many edges to whom, and how many the receiver has had before."""

    source: int
    target: int
    sent: int
    had: int


def traffic(sizes: Sequence[int], d: int, item: int, ends: Sequence[int]) -> Traffic:
    """What every rank sends.

    Args:
        sizes: points of each rank.
        d: coordinates.
        item: bytes of a coordinate, and of a length.
        ends: how many points each rank sends to others since they are the other ends of their edges.
    """
    ranks, n = len(sizes), sum(sizes)
    merging = [0] * ranks
    for one in merges(sizes):
        merging[one.source] += INDEX + one.sent * (2 * INDEX + item)
    return Traffic(
        agree=[AGREED * INDEX] * ranks,
        pairs=[(ranks // 2) * size * d * item for size in sizes],
        merging=merging,
        telling=[(n - 1) * (2 * INDEX + item)] + [0] * (ranks - 1),
        ends=[count * d * item for count in ends],
    )


def partners(rank: int, ranks: int) -> list[int]:
    """The ranks whose block a rank joins with its own."""
    steps = range(1, ranks // 2 + 1)
    others = [(step, (rank + step) % ranks) for step in steps]
    return [other for step, other in others if 2 * step < ranks or rank < other]


def merges(sizes: Sequence[int]) -> list[Merge]:
    """All that is sent while trees are merged, in order of rounds. A forest has one edge for each point, less one for each tree."""
    ranks = len(sizes)
    # The blocks that hang together in a rank's forest.
    seen: list[list[set[int]]] = [
        [{rank, *partners(rank, ranks)}] if partners(rank, ranks) else [] for rank in range(ranks)
    ]

    def edges(parts: list[set[int]]) -> int:
        return sum(sum(sizes[block] for block in part) - 1 for part in parts)

    found = []
    reach = 1
    while reach < ranks:
        for target in range(0, ranks - reach, 2 * reach):
            source = target + reach
            found.append(Merge(source, target, edges(seen[source]), edges(seen[target])))
            for part in seen[source]:
                touching = [one for one in seen[target] if one & part]
                seen[target] = [one for one in seen[target] if not one & part] + [part.union(*touching)]
        reach *= 2
    return found


# --- seconds ---------------------------------------------------------------------------------------------------------------------


class Constants(NamedTuple):
    """Measured on this machine.

    Attributes:
        pair: seconds of one pair of points in the tree of two blocks, with ``D`` coordinates.
        edge: seconds of one edge in a forest: sorting and joining.
        number: seconds of one edge of the tree when the ranks of its ends are looked up.
        points: of the cloud that ``pair`` was measured with.
        edges: that ``edge`` was measured with.
    """

    pair: float
    edge: float
    number: float
    points: int
    edges: int


def measure(points: int, edges: int) -> Constants:
    def seconds(run: Any) -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    coordinates = cloud(points, D).numpy()
    blocked.tree_edges(coordinates[:300])  # loads the kernels
    pair = float(np.median([seconds(lambda: blocked.tree_edges(coordinates)) for _ in range(3)])) / (points**2 / 2)
    random = np.random.default_rng(0)
    # Two random trees: every vertex hangs from an earlier one.
    child = np.tile(np.arange(1, edges // 2 + 1), 2)
    ends = np.stack([child, (random.random(len(child)) * child).astype(np.int64)], 1)
    lengths = random.random(len(ends)).astype(np.float32)
    blocked.forest(ends[:1000], lengths[:1000], edges // 2 + 1)
    edge = float(np.median([seconds(lambda: blocked.forest(ends, lengths, edges // 2 + 1)) for _ in range(3)]))
    starts = np.linspace(0, edges, 1025).astype(np.int64)
    number = seconds(lambda: np.flatnonzero((np.searchsorted(starts, ends, side="right") == 1).any(1)))
    return Constants(pair, edge / len(ends), number / len(ends), points, len(ends))


@dataclass
class Cost:
    """What one cloud costs, for the rank that has most to do."""

    points: int
    ranks: int
    computing: dict[str, float]  # seconds: pairs, forest, merging, ends
    sent: dict[str, float]  # bytes of all ranks: pairs, merging, telling, ends, as they go over the network
    received: dict[str, float]  # bytes of the rank that receives most
    sending: dict[str, float]  # seconds, by network
    memory: dict[str, float]  # bytes: tree, gradient


def cost(n: int, ranks: int, constants: Constants) -> Cost:
    """The time and memory of n points that lie on so many ranks by chance."""
    sizes = [n // ranks + (rank < n % ranks) for rank in range(ranks)]
    largest = sizes[0]
    bytes_of = traffic(sizes, D, ITEM, [2 * size * (ranks - 1) // ranks for size in sizes])
    trees = max(len(partners(rank, ranks)) for rank in range(ranks))
    rounds = (ranks - 1).bit_length()
    edge = 2 * INDEX + ITEM
    per_round = [0] * rounds
    for one in merges(sizes):
        at = (one.source - one.target).bit_length() - 1
        per_round[at] = max(per_round[at], one.sent)
    had = [max(one.had + one.sent for one in merges(sizes) if one.source - one.target == 2**at) for at in range(rounds)]
    own_edges = trees * (2 * largest - 1)
    computing = {
        "pairs": trees * constants.pair * (2 * largest) ** 2 / 2,
        "forest": own_edges * constants.edge,
        "merging": sum(had) * constants.edge,
        "ends": (n - 1) * constants.number,
    }
    received = {
        "pairs": float(bytes_of.pairs[0]),
        "merging": float(sum(per_round) * edge),
        "telling": float(bytes_of.telling[0]),
        "ends": float(bytes_of.ends[0]),
    }
    sent = {
        "pairs": float(sum(bytes_of.pairs)),
        "merging": float(sum(bytes_of.merging)),
        "telling": float((ranks - 1) * bytes_of.telling[0]),
        "ends": float(sum(bytes_of.ends)),
    }
    sending = {}
    for network in NETWORKS:
        messages = ranks // 2 + 2 * rounds + (ranks - 1)
        through = received["pairs"] + received["merging"] + rounds * received["telling"] + received["ends"]
        sending[network.name] = messages * network.latency + through / network.bandwidth
    memory = {
        # Two blocks; the edges of the rank's own trees as parts and put together; when merging, two forests, their union, sorted.
        "tree": float(3 * largest * D * ITEM + max(2 * own_edges, 3 * max(had)) * edge),
        # The own block, it and the other ends as one table, and the gradient of that; the tree, the ranks of its ends, its bars.
        "gradient": float(7 * largest * D * ITEM + 3 * n * edge),
    }
    return Cost(n, ranks, computing, sent, received, sending, memory)


# --- the table -------------------------------------------------------------------------------------------------------------------


def main(form: Form = FULL) -> None:
    torch.set_num_threads(THREADS)
    constants = measure(*form.pick((40_000, 4_000_000), (8192, 400_000)))
    costs = [cost(n, ranks, constants) for n, ranks in product(POINTS, RANKS)]
    alone = {n: constants.pair * n**2 / 2 for n in POINTS}
    report(
        NAME,
        f"Simulation: H0 of one cloud of {D} coordinates over the ranks of a group",
        [
            "points",
            "ranks",
            "computing",
            "of it pairs",
            *(f"sending, {network.name}" for network in NETWORKS),
            "sent by all",
            "to one rank, blocks",
            "trees",
            "ends",
            "memory of a rank, tree",
            "with gradient",
        ],
        [row(one) for one in costs],
        notes(constants, alone, costs[-1]),
        {
            "constants": constants._asdict(),
            "networks": [network._asdict() for network in NETWORKS],
            "d": D,
            "alone": {str(n): seconds for n, seconds in alone.items()},
            "costs": [vars(one) for one in costs],
        },
        form=form,
    )


def notes(constants: Constants, alone: dict[int, float], last: Cost) -> str:
    networks = "; ".join(
        f"{network.name}: {network.bandwidth / 1e9:g} GB/s and {network.latency * 1e6:g} µs for each rank"
        for network in NETWORKS
    )
    return (
        "**A simulation, not a run.** Counted: bytes, as the code hands them to torch.distributed; a test compares them with those of 2 "
        f"and 3 processes. Measured, on this machine, one for each rank, with {THREADS} threads: {constants.pair * 1e9:.2f} ns for a "
        f"pair of points in the tree of two blocks (of a Gaussian cloud of {constants.points:,} points; clusters take longer), "
        f"{constants.edge * 1e9:.0f} ns for an edge when forests are sorted and merged, and {constants.number * 1e9:.0f} ns when its ends "
        f"are looked up (of {constants.edges:,} edges; sorting more of them takes longer for each). Assumed: networks, {networks}; no step "
        "overlaps another; the tree is told in a binary tree of messages; points lie on ranks by chance, so that nearly all edges are "
        "between ranks. Memory is what the arrays of the code take when they are largest.\n\n"
        "What it says. Computing decides: about n² pairs are looked at in all, where one rank alone needs n²/2 (which would take it "
        f"{', '.join(duration(seconds) for seconds in alone.values())}); {last.points:,} points take "
        f"{duration(sum(last.computing.values()))} on {last.ranks:,} such ranks. Whatever the number of ranks, each is sent half of the "
        "cloud, block by block; of ends of edges the less the more ranks there are. With their number the memory of a rank falls to that "
        "of the tree, which each has whole: the largest cloud is the one whose tree fits."
    )


def row(one: Cost) -> list[str]:
    return [
        f"{one.points:,}",
        f"{one.ranks:,}",
        duration(sum(one.computing.values())),
        f"{one.computing['pairs'] / sum(one.computing.values()):.0%}",
        *(duration(seconds) for seconds in one.sending.values()),
        amount(sum(one.sent.values())),
        amount(one.received["pairs"]),
        amount(one.received["merging"] + one.received["telling"]),
        amount(one.received["ends"]),
        amount(one.memory["tree"]),
        amount(one.memory["gradient"]),
    ]


def duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds:.2g} s"


def amount(count: float) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


if __name__ == "__main__":
    main()
