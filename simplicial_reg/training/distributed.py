"""The points of all ranks as one cloud, with the exact gradient.

A barcode is not a sum over points: the penalty of a batch that is spread over W ranks is not the mean of the penalties of
its parts. So the points are gathered, and every rank computes the loss of the same cloud.

The gradient, and the factor that libraries get wrong. Let rank r make its points x_r from its copy of the parameters t, let
R(x_1, ..., x_W) be the penalty and L_r the task loss of rank r. Wanted is the gradient of mean_r L_r + R:

    d/dt = mean over r of dL_r/dt  +  sum over r of (dx_r/dt)^T dR/dx_r.

Every rank knows all of dR/dx, because it computed R of the whole cloud, but has the graph of its own points only. So rank r can add
its term of the sum, with no communication in the backward pass. What is done with the terms afterwards decides the factor:

- gradients are averaged over ranks (DDP, FSDP, DeepSpeed, by default): the average of the terms is the sum over W, so the gradient
  of the own points is multiplied by W before. This is ``reduction="mean"``.
- gradients are summed over ranks: nothing is to be corrected. This is ``reduction="sum"``. It is also the choice where FSDP is told to
  divide by one (``set_gradient_divide_factor(1.0)``), and where a training loop multiplies the whole loss, penalty included, by W before
  gradients are averaged. (The Hugging Face trainer multiplies its own loss so when it averages tokens across devices;
  `simplicial_reg.training.hf` adds the penalty after that, so there it stays ``"mean"``.)

Points of the other ranks are constants here, so a rank whose points have no gradient adds nothing and disturbs nothing: the
gradient is then that with its points held fixed. W counts the ranks over which gradients are averaged: with tensor or pipeline
parallelism, pass the data-parallel group.

With `simplicial_reg.training.memory.GradientCache`, gather inside its loss; with `simplicial_reg.training.memory.PointMemory`,
gather first. For a loss that compares two clouds, gather both. Every rank of the group must call, the same number of times, or the
others wait for it; and a loss that draws at random must draw the same on every rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from simplicial_reg._checks import check_choice, check_count
from simplicial_reg.distributed import REDUCTIONS, ScaledGradient
from simplicial_reg.training._cloud import Cloud, as_cloud

__all__ = ["gather_points"]

DTYPES = (torch.float32, torch.float64)


def gather_points(
    points: Tensor | Sequence[Tensor],
    *,
    mask: Tensor | None = None,
    labels: Tensor | None = None,
    group: Any = None,
    reduction: str = "mean",
    size: int | None = None,
) -> Cloud:
    """The points of all ranks, in the order of ranks, with the gradient of the own ones.

    What that gradient is multiplied by is derived in the module's docstring. Ranks may have different numbers of points; they
    tell each other first, and the host waits for that once. With `size` they need not.

    Args:
        points: floating tensor ``(n, d)``, or ``(B, n, d)`` for B clouds (layers) of which every rank has its part; n may
            differ between ranks; each has at least one real point. Half precision becomes float32, as everywhere.
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real; some ranks may have one and others none.
        labels: integer ``(n,)`` or ``(B, n)``, on every rank or on none.
        group: the process group; None is the default one.
        reduction: what is done with the parameters' gradients over ranks afterwards: ``"mean"`` or ``"sum"``.
        size: a number of points that no rank exceeds, the same on every rank. Every part is padded to it, no numbers are exchanged,
            and the shape of the result is always the same; then nothing checks that the ranks agree in d, type and labels.

    Returns:
        Points ``(..., n_1 + ... + n_W, d)``, or ``(..., W size, d)`` with size; their mask, None if no rank has one and size is
        not given; labels int64, or None. If torch.distributed is not initialised, or for one rank, the arguments.

    Raises:
        TypeError: for arguments of the wrong type.
        ValueError: for wrong shapes, an unknown reduction, more points than size; and on every rank, naming what each has, if ranks
            do not fit together.

    Example:
        >>> import torch
        >>> points = torch.tensor([[0.0], [1.0]])
        >>> gather_points(points).points  # one process
        tensor([[0.],
                [1.]])
    """
    check_choice("reduction", reduction, REDUCTIONS)
    check_count("size", size, 1, optional=True)
    cloud = as_cloud(points, mask, labels)
    n = cloud.points.shape[-2]
    if size is not None and n > size:
        raise ValueError(f"size must be at least the number of points of every rank; got {size} for {n} points")
    if not distributed.is_available() or not distributed.is_initialized():
        return cloud
    ranks = distributed.get_world_size(group)
    if ranks == 1:
        return cloud
    if size is None:
        counts, masked = _agree(cloud, group)
        longest = max(counts)
    else:
        counts, masked, longest = [size] * ranks, True, size
    own = distributed.get_rank(group)
    points_of = _gather(_padded(cloud.points.detach(), longest, -2), group)
    # The own part is put back in with its graph; the factor is W where gradients are averaged over W ranks.
    kept = ScaledGradient.apply(cloud.points, ranks if reduction == "mean" else 1)  # type: ignore[no-untyped-call]
    points_of[own] = _padded(kept, longest, -2)
    return Cloud(
        _joined(points_of, counts, -2),
        _joined(_gathered_mask(cloud, longest, group), counts, -1) if masked else None,
        None if cloud.labels is None else _joined(_gather(_padded(cloud.labels, longest, -1), group), counts, -1),
    )


def _agree(cloud: Cloud, group: Any) -> tuple[list[int], bool]:
    """Number of points of each rank and whether any has a mask, after all have seen that they fit together."""
    shape = cloud.points.shape
    batch = shape[0] if len(shape) == 3 else 0
    dtype = DTYPES.index(cloud.points.dtype)
    own = [batch, shape[-1], dtype, cloud.labels is not None, cloud.mask is not None, shape[-2]]
    numbers = torch.tensor(own, dtype=torch.int64, device=cloud.points.device)
    rows = [list(row) for row in torch.stack(_gather(numbers, group)).tolist()]
    if any(row[:4] != rows[0][:4] for row in rows):
        raise ValueError(
            "points of all ranks must agree in coordinates, number of clouds, dtype and whether there are labels; got "
            + "; ".join(f"rank {rank}: {_described(row)}" for rank, row in enumerate(rows))
        )
    return [row[5] for row in rows], any(row[4] for row in rows)


def _described(row: list[int]) -> str:
    batch, coordinates, dtype, labels, _, n = row
    shape = (batch, n, coordinates) if batch else (n, coordinates)
    return f"{shape} {DTYPES[dtype]} {'with' if labels else 'without'} labels"


def _gathered_mask(cloud: Cloud, longest: int, group: Any) -> list[Tensor]:
    shape = cloud.points.shape[:-1]
    mask = torch.ones(shape, dtype=torch.bool, device=cloud.points.device) if cloud.mask is None else cloud.mask
    # As bytes: not every backend takes bool.
    return [part.bool() for part in _gather(_padded(mask.to(torch.uint8), longest, -1), group)]


def _gather(tensor: Tensor, group: Any) -> list[Tensor]:
    tensor = tensor.contiguous()
    parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(parts, tensor, group=group)
    return parts


def _padded(tensor: Tensor, length: int, dim: int) -> Tensor:
    """Zeros appended along the dimension."""
    missing = length - tensor.shape[dim]
    return torch.nn.functional.pad(tensor, (0, 0) * (-1 - dim) + (0, missing)) if missing else tensor


def _joined(parts: Sequence[Tensor], counts: Sequence[int], dim: int) -> Tensor:
    return torch.cat([part.narrow(dim, 0, count) for part, count in zip(parts, counts, strict=True)], dim)
