"""Barcodes of Vietoris-Rips filtrations, differentiable in the points.

The Vietoris-Rips filtration of a cloud adds every simplex as soon as its longest edge, its diameter, is as short as the filtration value.
A homology class is born with one edge and dies with another. *Which* edges these are is a combinatorial question: it is answered without
gradient, by an engine. *How long* they are is then computed again from the points, along these edges only, so that

    persistence = |x_a - x_b| - |x_c - x_d|        (a, b) the death edge, (c, d) the birth edge

and gradients, second derivatives and small memory come by themselves. Where two edges are equally long the barcode has no derivative;
the total order (length, larger vertex, smaller vertex) picks one of its one-sided derivatives, always the same.

Sources: Edelsbrunner, Letscher, Zomorodian 2002 (persistence); Gameiro, Hiraoka, Obayashi 2016 and Carrière et al. 2021 (derivative).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from simplicial_reg import _ops
from simplicial_reg._autocast import autocast_off
from simplicial_reg._checks import check_choice, check_count, check_threshold, computable
from simplicial_reg.distances import METRICS, length_between
from simplicial_reg.engines import ENGINES, blocked, cohomology, find_critical_edges, finds_from_points
from simplicial_reg.engines.critical import CriticalEdges

__all__ = ["ESSENTIAL", "Barcode", "MetricChoice", "VietorisRips", "lengths_of", "masked", "rips_barcode"]

MetricChoice = str | Callable[[Tensor], Tensor]
ESSENTIAL = ("drop", "enclosing_radius", "infinite")


@dataclass(frozen=True, eq=False)
class Barcode:
    """The bars of one homology dimension, of one cloud or of a batch ``(...)`` of clouds.

    Attributes:
        dim: homology dimension.
        birth: ``(..., k)`` filtration values, in the unit of the metric, with gradient.
        death: ``(..., k)``, at least ``birth``; infinite only with ``essential="infinite"``.
        birth_edge: int64 ``(..., k, 2)``, the vertex pair whose length is the birth; a vertex v is ``(v, v)``.
        death_edge: int64 ``(..., k, 2)``, the vertex pair whose length is the death; ``(-1, -1)`` for an infinite death.
        mask: bool ``(..., k)``, True where the bar is real; padding has zero birth, death and persistence.

    The bars are in the order of their death edges in dimension 0, of their birth edges above.
    """

    dim: int
    birth: Tensor
    death: Tensor
    birth_edge: Tensor
    death_edge: Tensor
    mask: Tensor

    @property
    def persistence(self) -> Tensor:
        """``death - birth``, ``(..., k)``, in the unit of the metric."""
        return self.death if self.dim == 0 else self.death - self.birth  # vertices are born at 0

    def __len__(self) -> int:
        """Number of bars of a single cloud, number of clouds of a batch."""
        return int(self.mask.sum()) if self.mask.ndim == 1 else len(self.mask)

    def numpy(self) -> Any:
        """The real bars as a ``(k, 2)`` array of births and deaths; for a batch a list of them.

        This is what gudhi.representations, persim and ripser's plotting take.
        """
        pairs = torch.stack([self.birth, self.death], -1).detach().cpu()
        mask = self.mask.cpu()
        if mask.ndim == 1:
            return pairs[mask].numpy()
        return [pairs[cloud][mask[cloud]].numpy() for cloud in range(len(mask))]

    def to(self, device: torch.device | str) -> Barcode:
        """The same bars on another device."""
        moved = {field.name: getattr(self, field.name).to(device) for field in fields(self) if field.name != "dim"}
        return replace(self, **moved)

    def detach(self) -> Barcode:
        """The same bars without gradient."""
        return replace(self, birth=self.birth.detach(), death=self.death.detach())

    def persistence_information(self) -> Any:
        """The real bars as torch-topological's ``PersistenceInformation``, with gradient; for a batch a list of them.

        Its pairings are (vertex, edge) in dimension 0 and (birth edge, death edge) above, as its own complexes give them.

        Raises:
            ImportError: if torch-topological is missing (extra "peers").
        """
        try:
            from torch_topological.nn import PersistenceInformation
        except ImportError as error:
            raise ImportError(
                'persistence_information needs torch-topological: pip install "simplicial_reg[peers]"'
            ) from error
        if self.mask.ndim > 1:
            return [self[cloud].persistence_information() for cloud in range(len(self.mask))]
        birth_edge = self.birth_edge[:, :1] if self.dim == 0 else self.birth_edge
        pairing = torch.cat([birth_edge, self.death_edge], -1)[self.mask]
        diagram = torch.stack([self.birth, self.death], -1)[self.mask]
        return PersistenceInformation(pairing.cpu().numpy(), diagram, self.dim)

    def __getitem__(self, cloud: int) -> Barcode:
        """The bars of one cloud of a batch, padding included."""
        if self.mask.ndim == 1:
            raise TypeError(
                "these are the bars of a single cloud, not of a batch; index birth, death or persistence instead"
            )
        return Barcode(
            self.dim,
            self.birth[cloud],
            self.death[cloud],
            self.birth_edge[cloud],
            self.death_edge[cloud],
            self.mask[cloud],
        )


def rips_barcode(
    points: Tensor | Sequence[Tensor],
    max_dim: int = 0,
    *,
    mask: Tensor | None = None,
    metric: MetricChoice = "euclidean",
    threshold: float = math.inf,
    essential: str = "drop",
    engine: str = "auto",
) -> tuple[Barcode, ...]:
    """Barcodes of the Vietoris-Rips filtration of a cloud, or of each cloud of a batch, over Z/2.

    H0 of n real points has n - 1 finite bars, zero-length ones included; H1 and up list the bars of positive persistence.

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``, or a list of ``(n_i, d)``, which becomes a padded batch.
            Half precision is computed in float32.
        max_dim: highest homology dimension.
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.
        metric: "euclidean", "manhattan", "chebyshev", "cosine" (1 - cos), "angular" (radians), "precomputed" (``points`` are then
            distances ``(n, n)`` or ``(B, n, n)``, and gradients flow into both triangles), or a callable from points to distances.
        threshold: edges longer than this are left out; bars still open at it are treated as ``essential`` says.
        essential: what becomes of bars that never die: "drop", "enclosing_radius" (they die at min_i max_j d(i, j), when the
            filtration has become a cone), or "infinite" (death is inf).
        engine: a name in ``ENGINES``, or "auto" (`select_engine` tells which and why).

    Returns:
        One `Barcode` for each homology dimension 0..max_dim; its tensors are ``(k,)`` for a cloud and ``(B, k)`` for a batch.

    Raises:
        TypeError: if points are not floating or mask is not bool.
        ValueError: for wrong shapes, names, or (on the CPU) NaN, infinity, asymmetric or negative distances.
        ImportError: if the engine needs a package that is not installed.

    Example:
        >>> square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> components, loops = rips_barcode(square, max_dim=1)
        >>> components.death
        tensor([1., 1., 1.])
        >>> loops.birth, loops.death
        (tensor([1.]), tensor([1.4142]))
    """
    check_count("max_dim", max_dim, 0)
    check_threshold(threshold)
    check_choice("essential", essential, ESSENTIAL)
    check_choice("engine", engine, ("auto", *ENGINES))
    if not callable(metric):
        check_choice("metric", metric, (*METRICS, "precomputed"))
    points, mask = computable(points, mask, metric)
    with autocast_off(points):
        if finds_from_points(engine, max_dim, points, metric):
            critical, length_of, found, enclosing = _from_points(points, mask, str(metric))
        else:
            if max_dim == 1 and engine in ("auto", "cohomology") and metric != "precomputed":
                _check_room(points)
            distances, length_of = lengths_of(points, mask, metric)
            critical = find_critical_edges(engine, distances, mask, max_dim, float(threshold))
            found = functools.partial(_entries, distances)
            enclosing = functools.partial(_enclosing_edge, distances, mask)
        rule = _Essential(essential, float(threshold), found, enclosing, mask)
        return tuple(_barcode(dim, edges, length_of, rule) for dim, edges in enumerate(critical))


def _check_room(points: Tensor) -> None:
    """Refuse H1 of clouds for which there is no memory, before their distances are computed."""
    if points.device.type == "cpu" and not torch.compiler.is_compiling():
        *leading, n, _ = points.shape
        cohomology.check_size(n, points.dtype, math.prod(leading), distances=True)


def lengths_of(points: Tensor, mask: Tensor | None, metric: MetricChoice) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """All lengths ``(..., n, n)`` without gradient, and the function from edges ``(..., k, 2)`` to their lengths with gradient."""
    if isinstance(metric, str) and metric in METRICS:
        coordinates = METRICS[metric].coordinates(points)
        return _ops.pairwise_lengths(coordinates.detach(), metric), lambda edge: length_between(
            coordinates, edge, metric
        )
    distances = metric(points) if callable(metric) else points
    if callable(metric):
        _check_callable(distances, points)
    argument = "metric(points)" if callable(metric) else "points"
    matrix = distances if distances.dtype in (torch.float32, torch.float64) else distances.float()
    if callable(metric) and mask is not None:  # whatever it made of the padding
        matrix = torch.where(mask.unsqueeze(-1) & mask.unsqueeze(-2), matrix, 0)
    return _ops.symmetrized(matrix.detach(), argument), lambda edge: _entries(matrix, edge)


def _from_points(
    points: Tensor, mask: Tensor | None, metric: str
) -> tuple[list[CriticalEdges], Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Callable[[], Tensor]]:
    """The bars of H0, the lengths of edges with gradient and as they decided, and the enclosing edge, without all distances at once."""
    coordinates = METRICS[metric].coordinates(points)
    fixed = coordinates.detach()
    return (
        [blocked.find(fixed, mask, metric)],
        lambda edge: length_between(coordinates, edge, metric),
        lambda edge: blocked.lengths(fixed, edge, metric),
        lambda: blocked.enclosing_edge(fixed, mask, metric),
    )


def _check_callable(distances: Any, points: Tensor) -> None:
    wanted = (*points.shape[:-1], points.shape[-2])
    if not isinstance(distances, Tensor) or distances.shape != wanted or not distances.is_floating_point():
        got = tuple(distances.shape) if isinstance(distances, Tensor) else type(distances).__name__
        raise ValueError(f"metric must return floating distances {wanted} for points {tuple(points.shape)}; got {got}")


def _entries(matrix: Tensor, edge: Tensor) -> Tensor:
    """The mean of both triangles' entries, so that symmetric distances get a symmetric gradient; (v, v) is 0, whatever stands there."""
    n = matrix.shape[-1]
    flat = matrix.flatten(-2)
    u, v = edge.unbind(-1)
    return torch.where(u == v, 0, (flat.gather(-1, u * n + v) + flat.gather(-1, v * n + u)) / 2)


@dataclass(frozen=True)
class _Essential:
    """What becomes of the bars that are open at the threshold."""

    rule: str
    threshold: float
    # The lengths that decided, without gradient: those along single edges may differ from them in the last place.
    length_found: Callable[[Tensor], Tensor]
    enclosing_edge: Callable[[], Tensor]
    mask: Tensor | None


def _enclosing_edge(distances: Tensor, mask: Tensor | None) -> Tensor:
    """The edge (..., 1, 2) of length min_i max_j d(i, j), from which on the complex is a cone."""
    n = distances.shape[-1]
    if mask is not None:
        distances = torch.where(mask.unsqueeze(-2), distances, -1)
    vertex = torch.arange(n, device=distances.device)
    # The last edge at every vertex in the total order: among the longest, the one with the largest other end.
    length = distances.amax(-1, keepdim=True)
    far = torch.where(distances == length, vertex.int(), -1).amax(-1).long()
    last = torch.maximum(vertex, far) * n + torch.minimum(vertex, far)
    # The first of these.
    length = length.squeeze(-1)
    if mask is not None:
        length = torch.where(mask, length, math.inf)
    shortest = length.amin(-1, keepdim=True)
    first = torch.where(length == shortest, last, n * n).amin(-1, keepdim=True)
    return torch.stack([first // n, first % n], -1)


def _barcode(
    dim: int, critical: CriticalEdges, length_of: Callable[[Tensor], Tensor], essential: _Essential
) -> Barcode:
    if dim == 0 and essential.rule != "drop":
        critical = _with_immortal(critical, essential.mask)
    birth_edge, death_edge, real = critical
    nothing_open = essential.rule == "drop" and math.isinf(essential.threshold)
    open_ = None if nothing_open else death_edge[..., 0] < 0
    existing = death_edge if nothing_open else death_edge.clamp(min=0)
    if dim == 0:
        death = length_of(existing)
        birth = torch.zeros_like(death)
        if open_ is not None:
            open_ = open_ | (essential.length_found(existing) > essential.threshold)
    else:
        birth, death = length_of(torch.cat([birth_edge, existing], -2)).chunk(2, -1)
    if open_ is None:
        pass
    elif essential.rule == "drop":
        real = real & ~open_
    elif essential.rule == "infinite":
        death = torch.where(open_, math.inf, death)
        death_edge = torch.where(open_.unsqueeze(-1), -1, death_edge)
    else:
        edge = essential.enclosing_edge()
        death = torch.where(open_, length_of(edge), death)
        death_edge = torch.where(open_.unsqueeze(-1), edge, death_edge)
    bars = Barcode(dim, birth, death, birth_edge, death_edge, real)
    if dim == 0:
        padding = essential.mask is not None or (essential.rule == "drop" and open_ is not None)
        return masked(bars) if padding else bars
    positive = real & (birth < death)  # rounding may close a bar that is one unit in the last place long
    return bars if bool(positive.all()) else masked(_real_first(replace(bars, mask=positive)))


def _real_first(bars: Barcode) -> Barcode:
    """Bars (..., k) reordered so that padding comes last, and cut to the longest barcode."""
    longest = int(bars.mask.sum(-1).max())
    order = (~bars.mask).to(torch.int8).argsort(dim=-1, stable=True)[..., :longest]
    pair = torch.stack([order, order], -1)
    return Barcode(
        bars.dim,
        bars.birth.gather(-1, order),
        bars.death.gather(-1, order),
        bars.birth_edge.gather(-2, pair),
        bars.death_edge.gather(-2, pair),
        bars.mask.gather(-1, order),
    )


def _with_immortal(critical: CriticalEdges, mask: Tensor | None) -> CriticalEdges:
    """H0 with one more row, right after the finite bars: the first real vertex, which never dies."""
    birth, death, real = critical
    mask = real.new_ones((*real.shape[:-1], real.shape[-1] + 1)) if mask is None else mask
    root = mask.to(torch.int8).argmax(-1, keepdim=True)
    row = torch.arange(mask.shape[-1], device=mask.device) == mask.sum(-1, keepdim=True) - 1
    birth, death = (nn.functional.pad(edges, (0, 0, 0, 1)) for edges in (birth, death))
    pair = row.unsqueeze(-1)
    return CriticalEdges(
        torch.where(pair, root.unsqueeze(-1), birth),
        torch.where(pair, -1, death),
        nn.functional.pad(real, (0, 1)) | row,
    )


def masked(bars: Barcode) -> Barcode:
    """Zero everything where the mask is False."""
    pair = bars.mask.unsqueeze(-1)
    return replace(
        bars,
        birth=torch.where(bars.mask, bars.birth, 0),
        death=torch.where(bars.mask, bars.death, 0),
        birth_edge=torch.where(pair, bars.birth_edge, 0),
        death_edge=torch.where(pair, bars.death_edge, 0),
    )


class VietorisRips(nn.Module):
    """`rips_barcode` as a layer: it remembers the options.

    Example:
        >>> layer = VietorisRips(max_dim=1, metric="cosine")
        >>> layer
        VietorisRips(max_dim=1, metric='cosine', threshold=inf, essential='drop', engine='auto')
        >>> [bars.birth.shape for bars in layer(torch.eye(4))]
        [torch.Size([3]), torch.Size([0])]
    """

    def __init__(
        self,
        max_dim: int = 0,
        *,
        metric: MetricChoice = "euclidean",
        threshold: float = math.inf,
        essential: str = "drop",
        engine: str = "auto",
    ) -> None:
        super().__init__()
        self.options: dict[str, Any] = {
            "max_dim": max_dim,
            "metric": metric,
            "threshold": threshold,
            "essential": essential,
            "engine": engine,
        }

    def forward(self, points: Tensor | Sequence[Tensor], mask: Tensor | None = None) -> tuple[Barcode, ...]:
        """See `rips_barcode`."""
        return rips_barcode(points, mask=mask, **self.options)

    def extra_repr(self) -> str:
        """The options, for ``repr``."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())
