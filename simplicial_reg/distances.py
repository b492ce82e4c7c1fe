"""Metrics: the lengths of all edges for finding the pairing, and the lengths of some edges with their gradient.

The combinatorics of a barcode needs every length but no gradient; its value needs a gradient but only along the few critical edges.
So there are two functions: `pairwise_distances` stops the gradient, `edge_length` carries it, and the arithmetic of a metric (a map
of the points to coordinates, a norm, a function of the norm) is stated once, in ``METRICS``.

Conventions. A zero-length edge has gradient zero: the norm has no derivative there, zero is a subgradient, and coincident points
neither attract nor repel. ``"cosine"`` is 1 - cos and ``"angular"`` the angle in radians; the cosine of a zero vector with any other
is taken as 0, two zero vectors coincide, and the gradient at a zero vector is zero. Lengths are computed from differences of
coordinates, so a cloud far from the origin is as good as the centred one. Float16 and bfloat16 are computed in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from simplicial_reg import _ops
from simplicial_reg._announce import announced
from simplicial_reg._checks import check_choice, computable, is_plain, runs_kernels
from simplicial_reg._threads import share_work

__all__ = ["METRICS", "edge_length", "pairwise_distances"]


class Metric(NamedTuple):
    """``length = finish(norm of order p of the difference of coordinates(points))``; finish None means the angle."""

    coordinates: Callable[[Tensor], Tensor]
    order: float
    finish: Callable[[Tensor], Tensor] | None


def _directions(points: Tensor) -> Tensor:
    """Unit vectors, with one more coordinate that is 1 for zero vectors and 0 otherwise.

    That puts a zero vector at a right angle to every direction and on top of every other zero vector. Dividing by the largest
    coordinate first (a constant for the gradient, since directions do not depend on it) keeps tiny vectors from underflowing.
    """
    scale = points.detach().abs().amax(dim=-1, keepdim=True)
    zero = scale == 0
    scaled = torch.where(zero, 0, points / torch.where(zero, 1, scale))
    norm = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return torch.cat([scaled / torch.where(zero, 1, norm), zero.to(points.dtype)], dim=-1)


def _as_they_are(points: Tensor) -> Tensor:
    return points


METRICS: dict[str, Metric] = {
    "euclidean": Metric(_as_they_are, 2.0, _as_they_are),
    "manhattan": Metric(_as_they_are, 1.0, _as_they_are),
    "chebyshev": Metric(_as_they_are, math.inf, _as_they_are),
    "cosine": Metric(_directions, 2.0, lambda chord: chord.square() / 2),
    "angular": Metric(_directions, 2.0, None),
}


def pairwise_distances(points: Tensor, metric: str = "euclidean") -> Tensor:
    """All distances between the points of each cloud, without gradient.

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``.
        metric: a name in ``METRICS``: euclidean, manhattan, chebyshev, cosine (1 - cos, in [0, 2]) or angular (radians, in [0, pi]).

    Returns:
        ``(n, n)`` or ``(B, n, n)``, symmetric, with an exactly zero diagonal; float32, or float64 for float64 points.

    Raises:
        TypeError: for points that are no floating-point tensor.
        ValueError: for an unknown metric or a wrong shape, and on the CPU for NaN, infinity or overflow.

    Example:
        >>> pairwise_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[0., 5.],
                [5., 0.]])
    """
    check_choice("metric", metric, METRICS)
    points, _ = computable(points, None, metric)
    return _ops.pairwise_lengths(METRICS[metric].coordinates(points.detach()), metric)


def edge_length(points: Tensor, edge: Tensor, metric: str = "euclidean") -> Tensor:
    """Length of each edge, with gradient; the gradient of a zero-length edge is zero.

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``.
        edge: int64 vertex pairs ``(k, 2)`` or ``(B, k, 2)``.
        metric: a name in ``METRICS``.

    Returns:
        ``(k,)`` or ``(B, k)``, in the metric's unit; float32, or float64 for float64 points. Differentiable twice.

    Raises:
        TypeError: for points that are no floating-point tensor.
        ValueError: for an unknown metric or a wrong shape.
        IndexError: for a vertex that is not there (on the CPU).

    Example:
        >>> points = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
        >>> edge_length(points, torch.tensor([[1, 0], [1, 1]]))
        tensor([5., 0.])
    """
    check_choice("metric", metric, METRICS)
    points, _ = computable(points, None, metric)
    _check_edge(edge, points)
    return length_between(METRICS[metric].coordinates(points), edge, metric)


def _check_edge(edge: Tensor, points: Tensor) -> None:
    fits = edge.ndim == points.ndim and edge.shape[-1] == 2 and edge.shape[:-2] == points.shape[:-2]
    if edge.dtype != torch.int64 or not fits:
        raise ValueError(
            "edge must be int64 vertex pairs (k, 2), or (B, k, 2) for a batch; "
            f"for points {tuple(points.shape)} got {edge.dtype} {tuple(edge.shape)}"
        )
    n = points.shape[-2]
    if runs_kernels(edge) and edge.numel() and not 0 <= int(edge.min()) <= int(edge.max()) < n:
        raise IndexError(
            f"edge must hold vertices from 0 to {n - 1}, there are {n} points; got {edge.min()} to {edge.max()}"
        )


def length_between(coordinates: Tensor, edge: Tensor, metric: str) -> Tensor:
    """`edge_length` for points that ``METRICS[metric].coordinates`` has been applied to."""
    _, order, finish = METRICS[metric]
    if finish is None:
        return 2 * torch.atan2(_norm(coordinates, edge, order, -1), _norm(coordinates, edge, order, 1))
    length: Tensor
    if order != 2.0 or not runs_kernels(coordinates):
        length = _norm(coordinates, edge, order, -1)
    elif coordinates.requires_grad and torch.is_grad_enabled():
        length = _EuclideanLength.apply(coordinates, edge)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    else:
        length, _ = _kernel_lengths(coordinates, edge)
    return finish(length)


def _norm(coordinates: Tensor, edge: Tensor, order: float, sign: int) -> Tensor:
    """|x ± y| for each edge (x, y), by torch operations: any device, any transform, any number of derivatives."""
    x = torch.take_along_dim(coordinates, edge[..., :1], dim=-2)
    y = torch.take_along_dim(coordinates, edge[..., 1:], dim=-2)
    difference = x + y if sign > 0 else x - y
    # The second derivative of a norm at zero is NaN in torch, even where the first is multiplied by zero: keep zero away from it.
    zero = (difference == 0).all(-1)
    norm = torch.linalg.vector_norm(torch.where(zero.unsqueeze(-1), 1, difference), ord=order, dim=-1)
    return torch.where(zero, 0, norm)


class _EuclideanLength(torch.autograd.Function):
    """`_norm` of order 2 by a kernel that never forms the k differences, forward or backward."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, edge: Tensor) -> Tensor:
        length, (x, e, out) = _kernel_lengths(points, edge)
        ctx.arrays = x, e, out.copy()  # a copy, because what is returned is the user's, to be changed in place as well
        ctx.save_for_backward(points, edge)
        return length

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        from simplicial_reg import _point_kernels as kernels

        points, edge = ctx.saved_tensors
        again = torch.is_grad_enabled()
        if again or torch._C._functorch.is_legacy_batchedtensor(grad) or not is_plain(grad):
            # A second derivative is wanted, or several gradients at once: differentiate the plain formula instead.
            with torch.enable_grad():
                length = _norm(points, edge, 2.0, -1)
            return torch.autograd.grad(length, points, grad, create_graph=again)[0], None
        x, e, length = ctx.arrays
        g, out = grad.contiguous().numpy().reshape(length.shape), np.empty_like(x)
        share_work(
            lambda first, step: kernels.edge_gradients(x, e, length, g, out, first, step),
            x.shape[0] * x.shape[1],
            _reads(x, e),
        )
        return torch.from_numpy(out).reshape(points.shape), None


def _kernel_lengths(points: Tensor, edge: Tensor) -> tuple[Tensor, tuple[Any, Any, Any]]:
    """The lengths, and the arrays (B, n, d), (B, k, 2) and (B, k) that the kernel saw."""
    with announced("edge lengths", points.dtype):
        from simplicial_reg import _point_kernels as kernels

        length = points.new_empty(edge.shape[:-1])
        x, e, out = points.detach().contiguous().numpy(), edge.contiguous().numpy(), length.detach().numpy()
        if x.ndim == 2:
            x, e, out = x[None], e[None], out[None]
        share_work(
            lambda first, step: kernels.edge_lengths(x, e, out, first, step), e.shape[0] * e.shape[1], _reads(x, e)
        )
    return length, (x, e, out)


def _reads(points: Any, edges: Any) -> int:
    """How many coordinates the edges of (B, k, 2) read."""
    clouds, count, _ = edges.shape
    return int(2 * clouds * count * points.shape[2])
