"""What every process of tests/test_distributed_barcode.py does; started by torchrun, and imported by the tests for the inputs.

Each rank writes what it found to ``FOLDER/RANK.pt``. It checks nothing; the tests compare with one process that holds all points.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from simplicial_reg import METRICS, Barcode
from simplicial_reg.distributed import distributed_barcode
from tests.programs import leave_together

SIZES = (40, 1, 25)


def cloud(name: str, rank: int) -> Tensor:
    generator = torch.Generator().manual_seed(rank)
    n = SIZES[rank]
    if name == "normal":
        return torch.randn(n, 6, generator=generator, dtype=torch.float64)
    if name == "single precision":
        return torch.randn(n, 3, generator=generator)
    if name == "ties and copies":
        return torch.randint(0, 3, (n, 3), generator=generator).float()
    return torch.randn(n, 4, generator=generator) + 50 * rank  # "a cluster on each rank"


CLOUDS = ("normal", "single precision", "ties and copies", "a cluster on each rank")


def loss(bars: Barcode) -> Tensor:
    weight = torch.linspace(1, 2, len(bars.death), dtype=bars.death.dtype)
    return (bars.death.square() * weight).sum()


def broken(rank: int) -> dict[str, Tensor]:
    """Points that do not fit together, or are no points, on the last rank only."""
    last = rank == dist.get_world_size() - 1
    return {
        "width": torch.zeros(4, 3 if last else 2),
        "dtype": torch.zeros(4, 2, dtype=torch.float64 if last else torch.float32),
        "nan": torch.full((4, 2), torch.nan if last else 1.0),
        "large": torch.full((4, 2), 1e19 if last else 1.0),
    }


def find(rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in CLOUDS:
        for metric in METRICS:
            points = cloud(name, rank).requires_grad_()
            bars = distributed_barcode(points, metric=metric, reduction="sum")
            (gradient,) = torch.autograd.grad(loss(bars), points)
            found[f"{name}, {metric}"] = (bars.death.detach(), bars.birth_edge, bars.death_edge, gradient)
    points = cloud("normal", rank).requires_grad_()
    (found["averaged"],) = torch.autograd.grad(loss(distributed_barcode(points)), points)
    for name, wrong in broken(rank).items():
        try:
            distributed_barcode(wrong)
        except ValueError as error:
            found[name] = str(error)
    return found


if __name__ == "__main__":
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    torch.save(find(dist.get_rank()), Path(sys.argv[1]) / f"{dist.get_rank()}.pt")
    leave_together()
