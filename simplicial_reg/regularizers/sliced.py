"""SIGReg: every one-dimensional projection of the cloud shall be standard normal.

For a unit vector a, a slice, the projections y_i = a . x_i have the empirical characteristic function
``ecf(t) = mean exp(i t y)``, and the standard normal distribution has ``phi(t) = exp(-t²/2)``. Their distance is the
statistic of Epps and Pulley with this window,

    T(a) = n * integral of |ecf(t) - phi(t)|² phi(t) dt,      t from -3 to 3,

and the loss is its mean over random slices. The integrand is even, so the trapezoidal rule runs over equidistant knots
t_0 = 0, ..., t_K = 3 and is doubled. If all projections are standard normal, so is the cloud (Cramér, Wold 1936): an
isotropic Gaussian of unit variance is the only distribution with loss zero in the limit of many points and all slices.

Cost. With e(k) = exp(i t_k y) all knots follow from the first by ``e(k + 1) = e(k) e(1)``, a rotation, which is as exact as
rounding allows and takes one sine and one cosine for each point and slice instead of one for each knot too. Nothing of
size points * slices * knots is kept: the derivative goes through the rotations once more.

Invariance: to the order of the points; under rotation only in distribution, as the slices do not turn along. Neither to
translation nor to scale: the target has mean zero and unit variance.

Singular input. There is none: coincident points, zero vectors, one point and one coordinate are all regular. A cloud of n
coincident points has a statistic that grows as n, n times that of its one point, whereas that of a Gaussian cloud does not
grow. If it lies at the origin the gradient is zero, by symmetry.

Gradients flow into the points, any number of times; slices have none.

Sources: Balestriero, LeCun 2025, "LeJEPA: Provable and scalable self-supervised learning without the heuristics" (the loss);
Epps, Pulley 1983, "A test for normality based on the empirical characteristic function" (the statistic).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from simplicial_reg._autocast import autocast_off
from simplicial_reg._checks import check_count, computable
from simplicial_reg._moments import count
from simplicial_reg.regularizers._base import Regularizer

__all__ = ["SIGRegLoss", "random_slices", "sigreg"]

LARGEST_T = 3.0


def sigreg(points: Tensor | Sequence[Tensor], slices: Tensor, *, knots: int = 17, mask: Tensor | None = None) -> Tensor:
    """Mean over slices of the Epps-Pulley statistic of the projected points.

    ``n * sum over k of w_k |mean exp(i t_k a . x) - exp(-t_k²/2)|²``, averaged over the slices a, with ``t_k = 3 k / (knots - 1)``
    and the weights ``w_k`` of the trapezoidal rule on [-3, 3] times ``exp(-t_k²/2)``.

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``, or a list of ``(n_i, d)``. The unit is the target's deviation.
        slices: unit vectors ``(d, m)``, one in each column; see `random_slices`. They get no gradient.
        knots: how many values of t, 0 and 3 included, at least 2.
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real; n is the number of real points.

    Returns:
        ``(...)``, one value per cloud, in ``[0, n sum w (1 + exp(-t²/2))²]``. For n independent standard normal points the
        expectation is ``sum w (1 - exp(-t²))``, whatever n is.

    Raises:
        TypeError: if points are not floating, mask is not bool or knots is no int.
        ValueError: for wrong shapes or fewer than two knots.

    Source:
        Balestriero and LeCun 2025: the window, [-3, 3], the 17 knots and the factor n are those of their code.

    Example:
        >>> along = torch.tensor([[1.0], [0.0]])  # one slice, the first axis
        >>> sigreg(torch.tensor([[-1.0, 5.0], [1.0, 6.0]]), along)  # mean 0 and variance 1 along it
        tensor(0.2057)
        >>> sigreg(torch.tensor([[0.0, 5.0], [0.0, 6.0]]), along)
        tensor(0.8041)
    """
    check_count("knots", knots, 2)
    points, mask = computable(points, mask)
    if not isinstance(slices, Tensor) or slices.ndim != 2 or slices.shape[0] != points.shape[-1]:
        got = tuple(slices.shape) if isinstance(slices, Tensor) else type(slices).__name__
        raise ValueError(f"slices must be a tensor ({points.shape[-1]}, m), a unit vector in each column; got {got}")
    with autocast_off(points):
        step = LARGEST_T / (knots - 1)
        t = torch.arange(1, knots, dtype=points.dtype, device=points.device) * step  # at t = 0 both functions are 1
        normal = (-t.square() / 2).exp()
        weight = 2 * step * normal
        weight[-1] /= 2
        n = count(points, mask)
        real = torch.ones_like(points[..., 0]) if mask is None else mask.to(points.dtype)
        angles = step * (points @ slices.detach().to(points))
        cosine, sine = _TrigonometricSums.apply(angles, real / n.unsqueeze(-1), knots - 1)  # type: ignore[no-untyped-call]
        error = (cosine - normal.unsqueeze(-1)).square() + sine.square()
        statistic: Tensor = n * (weight @ error).mean(-1)
        return statistic


class SIGRegLoss(Regularizer):
    """Sketched isotropic Gaussian regularization: random projections of the cloud shall be standard normal.

    The mean of an Epps-Pulley statistic over random slices, see `sigreg`. Where the other regularizers ask for an even
    spread whatever its unit, this one also fixes the mean at 0 and the variance at 1, so it is mostly put on a projection
    head. O(n d slices).

    The slices are drawn on the CPU, so that they are the same on every device. By default they are drawn from `seed`, the
    same at every call, and two calls agree. With a generator they are drawn anew at every call, which is how the authors
    train: a few slices at a time come by every direction. If torch.distributed runs more than one rank, those of rank 0
    are used by all; every rank must then make the call.

    Args:
        slices: how many directions to project on.
        knots: how many values of the characteristic function, see `sigreg`.
        seed: of the fixed slices; not read with a generator.
        generator: a ``torch.Generator`` on the CPU that is advanced by every call. It is copied and pickled with the loss,
            but it is no part of its state_dict: save ``generator.get_state()`` with the other random states of a run.
        per_label: one cloud for each label, instead of one for all points. All clouds share the slices.

    Raises:
        TypeError: if a number is no int, or generator is no ``torch.Generator``.
        ValueError: if a number is out of range, or the generator is not on the CPU.

    Source:
        Balestriero and LeCun 2025; 17 knots and 1024 slices are what the README of their code uses (its minimal example takes
        256). There the slices are new at every step.

    Example:
        >>> points = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
        >>> loss = SIGRegLoss(slices=64)
        >>> loss(points) < loss(points + 1) < loss(0 * points)
        tensor(True)
    """

    def __init__(
        self,
        *,
        slices: int = 1024,
        knots: int = 17,
        seed: int = 0,
        generator: torch.Generator | None = None,
        per_label: bool = False,
    ) -> None:
        super().__init__(per_label=per_label)
        check_count("slices", slices, 1)
        check_count("knots", knots, 2)
        check_count("seed", seed, 0)
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator or None; got {type(generator).__name__}")
        if generator is not None and generator.device.type != "cpu":
            raise ValueError(f"generator must be on the CPU, where slices are drawn; got one on {generator.device}")
        self.slices = slices
        self.knots = knots
        self.seed = seed
        self.generator = generator

    def cloud_losses(self, points: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of each cloud, ``(...)``."""
        seed = self.seed if self.generator is None else _common_seed(self.generator)
        slices = random_slices(points.shape[-1], self.slices, seed=seed, dtype=points.dtype)
        return sigreg(points, slices.to(points.device), knots=self.knots, mask=mask)

    def __getstate__(self) -> dict[str, Any]:
        """As any module's, with the state of the generator: not every supported torch can pickle a generator itself."""
        state = self.__dict__.copy()
        if self.generator is not None:
            state["generator"] = self.generator.get_state()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Undo `__getstate__`."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if isinstance(self.generator, Tensor):
            restored = torch.Generator()
            restored.set_state(self.generator)
            self.generator = restored


def random_slices(d: int, number: int, *, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Independent directions, uniform on the unit sphere.

    Args:
        d: how many coordinates.
        number: how many directions.
        seed: the same seed gives the same directions, in either type up to rounding.
        dtype: float32 or float64.

    Returns:
        ``(d, number)`` on the CPU, with a unit vector in each column.

    Example:
        >>> random_slices(3, 5, seed=0).square().sum(0)
        tensor([1., 1., 1., 1., 1.])
    """
    # Always drawn in float32: another type would give other directions, not the same ones with more digits.
    normal = torch.randn(d, number, generator=torch.Generator().manual_seed(seed), dtype=torch.float32).to(dtype)
    norm: Tensor = torch.linalg.vector_norm(normal, dim=0)
    return normal / torch.where(norm == 0, 1, norm)  # in one coordinate a normal number may be zero


def _common_seed(generator: torch.Generator) -> int:
    """A new seed from the generator, and among several ranks that of the first, so that all look along the same slices."""
    seed = [int(torch.randint(2**62, (), generator=generator))]
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        distributed.broadcast_object_list(seed, src=0)
    return seed[0]


def _rotations(angles: Tensor, number: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Cosine and sine of 1, 2, ..., number times the angles."""
    cosine, sine = angles.cos(), angles.sin()
    c, s = cosine, sine
    for k in range(number):
        if k > 0:
            c, s = torch.addcmul(c * cosine, s, sine, value=-1), torch.addcmul(s * cosine, c, sine)
        yield c, s


class _TrigonometricSums(torch.autograd.Function):
    """Weighted sums over points of cos(k angle) and sin(k angle), (..., number, m), for angles (..., n, m), weight (..., n)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(angles: Tensor, weight: Tensor, number: int) -> tuple[Tensor, Tensor]:
        row = weight.unsqueeze(-2)
        sums = [(row @ c, row @ s) for c, s in _rotations(angles, number)]
        cosine, sine = (torch.cat(parts, -2) for parts in zip(*sums, strict=True))
        return cosine, sine

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Any) -> None:
        angles, weight, ctx.number = inputs
        ctx.save_for_backward(angles, weight)

    @staticmethod
    def backward(ctx: Any, of_cosine: Tensor, of_sine: Tensor) -> tuple[Tensor, None, None]:
        angles, weight = ctx.saved_tensors
        times = torch.arange(1, ctx.number + 1, dtype=angles.dtype, device=angles.device).unsqueeze(-1)
        of_cosine, of_sine = times * of_cosine, times * of_sine
        slope = torch.zeros_like(angles)
        for k, (c, s) in enumerate(_rotations(angles, ctx.number)):
            at = slice(k, k + 1)
            slope = torch.addcmul(torch.addcmul(slope, c, of_sine[..., at, :]), s, of_cosine[..., at, :], value=-1)
        return slope * weight.unsqueeze(-1), None, None
