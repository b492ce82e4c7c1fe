"""What every process of tests/test_distributed.py does; started by torchrun, and imported by the tests for the inputs.

Run it as ``python -m torch.distributed.run --standalone --nproc-per-node 2 -m tests.distributed_worker FOLDER``: each rank writes what
it found to ``FOLDER/RANK.pt``. It checks nothing; the tests compare with one process that holds all points.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from simplicial_reg import entropy_deficit, rips_barcode
from simplicial_reg.regularizers import REGULARIZERS
from simplicial_reg.training.distributed import gather_points
from simplicial_reg.training.memory import GradientCache
from simplicial_reg.training.weight import BalancedWeight
from tests.programs import leave_together

WEIGHT = 0.3
Found = dict[str, Any]


def deficit(points: Tensor, *, mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
    return entropy_deficit(rips_barcode(points, mask=mask)[0]).mean()


def cosine(points: Tensor, *, mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
    """Mean of the squared cosines of different points, written out."""
    unit = torch.nn.functional.normalize(points, dim=-1)
    if mask is not None:
        unit = torch.where(mask.unsqueeze(-1), unit, 0)
    count = unit.shape[-2] if mask is None else mask.sum(-1)
    gram = unit @ unit.mT
    return ((gram.square().sum((-1, -2)) - count) / (count * (count - 1))).mean()


def penalties() -> dict[str, Callable[..., Tensor]]:
    """Two that are written here, and every regularizer of the package."""
    return {"deficit by hand": deficit, "cosine by hand": cosine} | {
        name: comparing(make()) if "other" in inspect.signature(make.forward).parameters else make()
        for name, make in REGULARIZERS.items()
    }


def comparing(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss of two clouds as one of points and a fixed map of them."""

    def penalty(points: Tensor, *, mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        matrix = torch.linspace(-1, 1, 3 * points.shape[-1], dtype=points.dtype).sin().reshape(points.shape[-1], 3)
        return loss(points, (points @ matrix).tanh(), mask=mask, labels=labels)

    return penalty


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)).double()


def batch(rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, mask and labels of a rank, another number of them on each."""
    generator = torch.Generator().manual_seed(100 + rank)
    n = (9, 6, 12)[rank]
    inputs = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    mask = torch.arange(n) % 4 != rank
    labels = torch.randint(0, 2, (n,), generator=generator)
    return inputs, mask, labels


def task_loss(points: Tensor) -> Tensor:
    return (points - 1).square().mean()


def main(folder: Path) -> None:
    warnings.simplefilter("error")
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    found: Found = {}
    for part in (training, wrong, summed, cached, balanced, gathered, refused, sharded):
        found[part.__name__] = part()
    torch.save(found, folder / f"{dist.get_rank()}.pt")
    leave_together()


def gradients(module: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]


def step(penalty: Callable[..., Tensor], masked: bool, reduction: str = "mean") -> Found:
    """One backward of a model in DDP."""
    inputs, mask, labels = batch(dist.get_rank())
    replica = DistributedDataParallel(model())
    points = replica(inputs)
    cloud = gather_points(points, mask=mask if masked else None, labels=labels, reduction=reduction)
    torch.manual_seed(1)  # some penalties draw directions
    value = penalty(cloud.points, mask=cloud.mask, labels=cloud.labels)
    (task_loss(points) + WEIGHT * value).backward()
    return {"value": value.detach(), "gradients": gradients(replica)}


def training() -> Found:
    return {
        f"{name}, {'masked' if masked else 'all'}": step(
            penalties()[name], masked
        )  # a new one, should it remember something
        for name in penalties()
        for masked in (False, True)
    }


def wrong() -> Found:
    return step(deficit, False, reduction="sum")


def summed() -> Found:
    """Gradients that are summed by hand."""
    inputs, _, labels = batch(dist.get_rank())
    module = model()
    cloud = gather_points(module(inputs), labels=labels, reduction="sum")
    value = deficit(cloud.points)
    value.backward()
    for parameter in module.parameters():
        dist.all_reduce(parameter.grad)
    return {"value": value.detach(), "gradients": gradients(module)}


def cached() -> Found:
    """Three micro-batches on each rank, the points of all of them on all ranks one cloud."""
    inputs, mask, labels = batch(dist.get_rank())
    replica = DistributedDataParallel(model())

    def loss(points: Tensor, *, mask: Tensor | None, labels: Tensor | None) -> Tensor:
        cloud = gather_points(points, mask=mask, labels=labels)
        return WEIGHT * deficit(cloud.points, mask=cloud.mask)

    cache = GradientCache(loss)
    parts = [(inputs[at::3], mask[at::3], labels[at::3]) for at in range(3)]
    for part, real, label in parts:
        with cache.collecting():
            cache.add(replica(part), real, label)
    for number, (part, _, _) in enumerate(parts):
        with cache.replaying(), nullcontext() if number == 2 else replica.no_sync():
            points = replica(part)
            (task_loss(points) * len(part) / len(inputs) + cache.share(points)).backward()
    return {"value": cache.penalty / WEIGHT, "gradients": gradients(replica)}


def balanced() -> Found:
    """The weight of one step, each rank with its own and all with one."""
    inputs, _, _ = batch(dist.get_rank())
    module = model()
    points = module(inputs)
    value = deficit(gather_points(points).points)
    found = {
        f"synchronized={choice}": BalancedWeight(0.1, synchronized=choice)(task_loss(points), value, points)
        for choice in (False, True)
    }
    # A weight looks at the gradients only: DDP must still average afterwards.
    replica = DistributedDataParallel(model())
    points = replica(inputs)
    value = deficit(gather_points(points).points)
    weight = BalancedWeight(0.1, synchronized=True)(task_loss(points), value, points)
    (task_loss(points) + weight * value).backward()
    return found | {"gradients": gradients(replica), "value": value.detach()}


def gathered() -> Found:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    inputs, mask, labels = batch(rank)
    layers = torch.stack([inputs, 2 * inputs])
    pair = dist.new_group([0, 1])
    clouds = {
        "plain": gather_points(inputs),
        "labels": gather_points(inputs, labels=labels.to(torch.int32)),
        "mask": gather_points(inputs, mask=mask),
        "mask on rank 1": gather_points(inputs, mask=mask if rank == 1 else None),
        "size": gather_points(inputs, mask=mask, labels=labels, size=15),
        "layers": gather_points(layers, mask=torch.stack([mask, ~mask]), labels=torch.stack([labels, labels + 2])),
        "bfloat16": gather_points(inputs.bfloat16()),
        "transposed": gather_points(inputs.T.contiguous().T),
    }
    if rank < 2:
        clouds["pair"] = gather_points(inputs, group=pair)
    found: Found = {name: tuple(cloud) for name, cloud in clouds.items()}
    # Only the points of rank 0 have a gradient.
    points = inputs.clone().requires_grad_(rank == 0)
    value = deficit(gather_points(points).points)
    if rank == 0:
        value.backward()
        found["gradient on rank 0"] = points.grad / ranks
    return found


def refused() -> Found:
    """The messages where ranks do not fit together; all ranks get the same, and none waits for another."""
    rank = dist.get_rank()
    wrong: dict[str, dict[str, Any]] = {
        "coordinates": {"points": torch.zeros(3, 2 + rank)},
        "clouds": {"points": torch.zeros(*([2] if rank else []), 3, 2)},
        "dtype": {"points": torch.zeros(3, 2, dtype=torch.float64 if rank else torch.float32)},
        "labels": {"points": torch.zeros(3, 2), "labels": torch.zeros(3, dtype=torch.int64) if rank else None},
    }
    found: Found = {}
    for name, arguments in wrong.items():
        try:
            gather_points(**arguments)
        except ValueError as error:
            found[name] = str(error)
    return found


def sharded() -> Found:
    """One backward under FSDP2, where this torch can do it on the CPU."""
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
    except ImportError:
        return {"missing": "torch.distributed.fsdp.fully_shard"}
    inputs, _, _ = batch(dist.get_rank())
    module = model()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (module[0], module[2], module):
        fully_shard(layer, mesh=mesh)
    points = module(inputs)
    value = deficit(gather_points(points).points)
    weight = BalancedWeight(0.1)(task_loss(points), value, points)
    (task_loss(points) + WEIGHT * value).backward()
    return {
        "value": value.detach(),
        "weight": weight,
        "gradients": [parameter.grad.full_tensor() for parameter in module.parameters()],
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
