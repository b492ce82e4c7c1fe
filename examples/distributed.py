"""One cloud over several processes: the penalty and the gradient are those of one process that holds all points.

Every process has its own part of a batch and its own copy of a small model under DistributedDataParallel. `Regularization` gathers the
hidden states of all of them, so the barcode is that of the whole batch. The first process then does the same alone, with the whole
batch and no DDP, and prints how far the two are apart.

    torchrun --nproc-per-node 2 examples/distributed.py

It takes a few seconds, on the CPU; without torchrun it runs as one process. ``--short`` is accepted, as by the other examples.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import click
import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before a group is there: its defaults would keep that group, and gloo's threads with it
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from simplicial_reg.training import Regularization

POINTS, WEIGHT = 24, 0.5  # points of one process


@contextlib.contextmanager
def processes() -> Iterator[tuple[int, int]]:
    """Number of this process and of all; torchrun says them in the environment."""
    if "RANK" not in os.environ:
        yield 0, 1
        return
    dist.init_process_group("gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def model() -> nn.Module:
    """The same weights in every process; float64, so that only summation order can differ."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 32), nn.GELU(), nn.Linear(32, 16), nn.GELU(), nn.Linear(16, 3)).double()


def batch(size: int) -> tuple[Tensor, Tensor]:
    """Inputs and labels of all processes."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(size, 10, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(3, (size,), generator=generator)


def step(network: nn.Module, inputs: Tensor, labels: Tensor, *, gather: bool) -> tuple[float, list[Tensor]]:
    """The penalty, and the gradient of task loss and penalty at every parameter."""
    regularization = Regularization(network, "persistent-entropy", weight=WEIGHT, layer="3", gather=gather)
    task_loss = cross_entropy(network(inputs), labels)
    regularization(task_loss).backward()
    regularization.close()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return float(regularization.logs["persistent-entropy"]), gradients


def compare(rank: int, count: int) -> None:
    """One step of all processes and one alone.

    The model under DDP is gone when this returns, and must be before the group is destroyed: DDP would destroy it holding the
    interpreter's lock, for which gloo's threads may wait.
    """
    inputs, labels = batch(POINTS * count)
    own = slice(POINTS * rank, POINTS * (rank + 1))
    network = DistributedDataParallel(model()) if count > 1 else model()
    penalty, gradients = step(network, inputs[own], labels[own], gather=True)
    apart, _ = step(model(), inputs[own], labels[own], gather=False)
    if rank > 0:
        return
    expected, alone = step(model(), inputs, labels, gather=False)
    click.echo(f"{len(inputs)} points, processes: {count}")
    largest = max(float(gradient.abs().max()) for gradient in alone)
    error = max(float((one - other).abs().max()) for one, other in zip(gradients, alone, strict=True))
    for name, value in {
        "penalty of one process with all points": f"{expected:.12f}",
        "penalty of all processes, points gathered": f"{penalty:.12f}",
        f"penalty of the {POINTS} points of process 0 alone": f"{apart:.12f}",
        "largest entry of the gradient": f"{largest:.3g}",
        "largest difference of the gradients": f"{error:.3g}",
    }.items():
        click.echo(f"{name:46}{value:>16}")


@click.command()
@click.option("--short", is_flag=True, help="The same: it is short already.")
def main(short: bool) -> None:
    """Take one step with all processes and one alone, and compare."""
    with processes() as (rank, count):
        compare(rank, count)


if __name__ == "__main__":
    main()
