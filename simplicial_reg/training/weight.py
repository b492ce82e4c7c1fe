"""How much the penalty counts: ``loss = task_loss + weight(task_loss, penalty, points) * penalty``.

Every weight is called in the same way, so that a training loop takes any; numbers become weights by `make_weight`. After each
step of the optimizer, call ``weight.advance()``.

*Scheduled.* With a ramp u -> r(u) from r(0) = 0 to r(1) = 1, step t of T, warm-up over the first W = warmup T and decay over
the last D = decay T steps,

    weight(t) = value * r(min(1, t / W)) * r(min(1, (T - t) / D)),    r(u) = u (linear) or (1 - cos(pi u)) / 2 (cosine).

*Balanced.* Losses differ in scale by powers of ten (an entropy deficit is far below one where a cross-entropy is about one), and what
moves the parameters is gradients. With the gradients of both losses at the hidden states h, where the penalty enters the model,

    w = fraction * |d task / dh| / |d penalty / dh|,    log weight = exponential moving average of log w,

the penalty pushes the hidden states with a chosen fraction of the force of the task. Only the layers above h are run backwards once
more, not the model. The average is one of logarithms because a ratio errs by factors: one batch with ten times the ratio
and one with a tenth of it cancel.

Where gradients stop: a weight is a constant, whatever it was computed from.

Singular input. Where one of the two norms is zero (a collapsed cloud, a task that is solved) or not finite, the ratio says
nothing; that call is left out of the average, and the weight stays as it was: 0 if there was none yet. Each w is held in
[1 / maximum, maximum] before it is averaged, so that no single batch can move the weight out of reach.

Source: Esser, Rombach, Ommer 2021, "Taming Transformers for High-Resolution Image Synthesis", equation 7 (the ratio of gradient
norms at one place of the model); the average and the logarithm are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from simplicial_reg._checks import check_choice, check_count, check_number

__all__ = ["BalancedWeight", "ScheduledWeight", "Weight", "make_weight", "schedule"]

SHAPES = ("constant", "linear", "cosine")


class Weight(nn.Module):
    """What the penalty is multiplied by; the state is in buffers and is saved with the model."""

    def forward(self, task_loss: Tensor, penalty: Tensor, points: Tensor | Sequence[Tensor]) -> Tensor:
        """The weight at this step, a scalar tensor without gradient.

        Args:
            task_loss: the loss without the penalty, a scalar.
            penalty: the penalty, a scalar.
            points: the tensor, or tensors, at which the two are compared. A `BalancedWeight` reads it, others do not.

        Returns:
            A scalar of the type of penalty, on its device.
        """
        raise NotImplementedError

    def advance(self) -> None:
        """One step of the optimizer is done."""


class ScheduledWeight(Weight):
    """A weight that depends on the step only; see `schedule`."""

    step: Tensor

    def __init__(
        self,
        value: float,
        *,
        shape: str = "constant",
        warmup: float = 0.0,
        decay: float = 0.0,
        total: int | None = None,
    ) -> None:
        super().__init__()
        check_number("value", value, least=0)
        check_choice("shape", shape, SHAPES)
        check_number("warmup", warmup, least=0, most=1)
        check_number("decay", decay, least=0, most=1)
        if warmup + decay > 1:
            raise ValueError(f"warmup + decay must be at most 1, all steps; got {warmup} + {decay}")
        if shape == "constant" and (warmup or decay):
            raise ValueError('warmup and decay must be 0 with shape="constant"; use shape="linear" or "cosine"')
        check_count("total", total, 1, optional=True)
        if (warmup or decay) and total is None:
            raise ValueError(
                "total must be given with warmup or decay: they are fractions of that many steps; got None"
            )
        self.value, self.shape, self.warmup, self.decay, self.total = float(value), shape, warmup, decay, total
        # On the CPU until the module is moved: it counts steps of the host.
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, task_loss: Tensor, penalty: Tensor, points: Tensor | Sequence[Tensor]) -> Tensor:
        """The weight at this step, a scalar of the type of penalty, on its device; task_loss and points are not read."""
        step = self.step.to(torch.float32 if self.step.device.type == "mps" else torch.float64)
        weight = torch.full_like(step, self.value)
        if self.total is not None:
            if self.warmup:
                weight = weight * self._ramp(step / (self.warmup * self.total))
            if self.decay:
                weight = weight * self._ramp((self.total - step) / (self.decay * self.total))
        # Without non_blocking, the host would wait for the accelerator to copy one number to it.
        return weight.to(penalty, non_blocking=penalty.is_cuda and not weight.is_cuda)

    def advance(self) -> None:
        """Count one step; past the total the weight stays what it is there."""
        self.step += 1

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        ramps = "" if self.total is None else f", warmup={self.warmup}, decay={self.decay}, total={self.total}"
        return f"{self.value}, shape={self.shape!r}{ramps}"

    def _ramp(self, share: Tensor) -> Tensor:
        share = share.clamp(0, 1)
        return share if self.shape == "linear" else (1 - torch.cos(math.pi * share)) / 2


def schedule(
    shape: str, *, value: float = 1.0, warmup: float = 0.0, decay: float = 0.0, total: int | None = None
) -> ScheduledWeight:
    """A weight that rises from zero, holds, and falls to zero again.

    Args:
        shape: ``"constant"``, or how it rises and falls: ``"linear"`` or ``"cosine"``.
        value: the weight between, at least 0.
        warmup: over which fraction of all steps it rises; step 0 has weight 0.
        decay: over which fraction it falls, at the end; from step total on the weight is 0.
        total: number of steps of the training; needed for warmup and decay.

    Returns:
        A `Weight`.

    Raises:
        TypeError: if a number is not one.
        ValueError: for an unknown shape, fractions that are more than everything, or a missing total.

    Example:
        >>> import torch
        >>> weight = schedule("linear", value=0.1, warmup=0.5, decay=0.25, total=8)
        >>> weights, loss = [], torch.tensor(1.0)
        >>> for _ in range(9):
        ...     weights.append(round(weight(loss, loss, loss).item(), 3))
        ...     weight.advance()
        >>> weights
        [0.0, 0.025, 0.05, 0.075, 0.1, 0.1, 0.1, 0.05, 0.0]
    """
    return ScheduledWeight(value, shape=shape, warmup=warmup, decay=decay, total=total)


class BalancedWeight(Weight):
    """The weight that gives the penalty's gradient a fraction of the norm of the task's, where the penalty enters the model.

    The formula and the singular cases are in the module's docstring. In evaluation mode the weight stays as it is and
    nothing is run backwards.

    *Mixed precision.* Give both losses unscaled, as they come out of the model: a `GradScaler` scales their sum afterwards. In float16
    the gradients of unscaled losses may be too small for that type; they are then zero, and the call is left out.

    *Accumulation.* Divide both losses by the number of micro-batches or neither; a share of
    `simplicial_reg.training.memory.GradientCache` is as good as a penalty.

    *Many devices.* With points gathered by `simplicial_reg.training.distributed.gather_points` both gradients carry the same factor,
    whatever averages them later, but each rank has a ratio of its own. ``synchronized=True`` takes the norms over all ranks, by one
    exchange of two numbers at every call, so that every rank has the same weight.

    *Checkpointing.* Layers above the tapped one that are checkpointed must be so with ``use_reentrant=False``, since the other
    kind does not work with `torch.autograd.grad`.

    Args:
        fraction: norm of the weighted penalty's gradient over that of the task's, above 0.
        smoothing: how much of the average stays at each call, in [0, 1); 0 takes each batch's own ratio.
        maximum: the largest weight, at least 1; the smallest is its inverse.
        synchronized: one weight for all ranks of torch.distributed, if that is initialised. `Regularization` sets it where it gathers
            points.

    Raises:
        TypeError: if a number is not one.
        ValueError: if one is out of range.

    Source:
        Esser, Rombach, Ommer 2021, equation 7, with fraction 1 and no smoothing. A maximum of 1e4 is what implementations of it use. A
        fraction of 0.1 leaves the lead to the task; a smoothing of 0.9 averages over about ten batches.

    Example:
        >>> import torch
        >>> hidden = torch.tensor([[3.0, 4.0]], requires_grad=True)
        >>> task_loss = hidden.square().sum() / 2  # gradient (3, 4), norm 5
        >>> penalty = 0.01 * hidden.sum()  # gradient (0.01, 0.01)
        >>> weight = BalancedWeight(fraction=0.1)
        >>> round(weight(task_loss, penalty, hidden).item(), 3)  # 0.1 * 5 / (0.01 sqrt 2)
        35.355
    """

    log_weight: Tensor
    observed: Tensor

    def __init__(
        self, fraction: float = 0.1, *, smoothing: float = 0.9, maximum: float = 1e4, synchronized: bool = False
    ) -> None:
        super().__init__()
        check_number("fraction", fraction, above=0, hint="for no penalty at all use make_weight(0.0)")
        check_number("smoothing", smoothing, least=0, below=1)
        check_number("maximum", maximum, least=1)
        self.fraction, self.smoothing, self.maximum, self.synchronized = fraction, smoothing, maximum, synchronized
        self.register_buffer("log_weight", torch.zeros((), dtype=torch.float32))
        self.register_buffer("observed", torch.zeros((), dtype=torch.bool))

    def forward(self, task_loss: Tensor, penalty: Tensor, points: Tensor | Sequence[Tensor]) -> Tensor:
        """The weight with this batch taken into the average; the graphs of both losses are kept.

        Args:
            task_loss: the loss without the penalty, a scalar, unscaled.
            penalty: the penalty, a scalar, unscaled and not yet weighted.
            points: the tensor, or tensors, that both losses are computed from, with the graph they were computed with: the hidden states as
                the model passed them on. Points that were pooled from them are not: the task loss does not depend on those.

        Returns:
            A scalar in [1 / maximum, maximum], or 0 before the first batch with two gradients, of the type of penalty, on its device.

        Raises:
            TypeError: if points are not tensors.
            ValueError: if one of the losses does not depend on any of them.
        """
        if self.log_weight.device != penalty.device:  # it is on the CPU until the first call
            self.log_weight, self.observed = self.log_weight.to(penalty.device), self.observed.to(penalty.device)
        if self.training:
            self._observe(task_loss, penalty, _as_tensors(points))
        return torch.where(self.observed, self.log_weight.exp(), 0).to(penalty.dtype)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"{self.fraction}, smoothing={self.smoothing}, maximum={self.maximum}, synchronized={self.synchronized}"

    def _observe(self, task_loss: Tensor, penalty: Tensor, points: Sequence[Tensor]) -> None:
        squares = torch.stack(
            [_squared_norm("task_loss", task_loss, points), _squared_norm("penalty", penalty, points)]
        )
        if self.synchronized and torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(squares)
        task, other = squares.unbind()
        valid = squares.isfinite().all() & (squares > 0).all()
        # Half the logarithm of a square is that of the norm; a safe value goes in where there is none.
        log_ratio = (torch.where(valid, task, 1).log() - torch.where(valid, other, 1).log()) / 2
        bound = math.log(self.maximum)
        now = (math.log(self.fraction) + log_ratio).clamp(-bound, bound).to(self.log_weight.dtype)
        mixed = torch.where(self.observed, self.log_weight.lerp(now, 1 - self.smoothing), now)
        # New tensors, not changes in place: the weight of an earlier call may be held by a graph.
        self.log_weight = torch.where(valid, mixed, self.log_weight)
        self.observed = self.observed | valid


def make_weight(weight: float | Weight) -> Weight:
    """A weight as it is, a number as a constant weight.

    Args:
        weight: a number of at least 0, or a `Weight`.

    Returns:
        A `Weight`.

    Raises:
        TypeError: for anything else.
        ValueError: for a negative or infinite number, or NaN.

    Example:
        >>> import torch
        >>> make_weight(0.1)(torch.tensor(2.0), torch.tensor(3.0), torch.zeros(1))
        tensor(0.1000)
    """
    if isinstance(weight, Weight):
        return weight
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise TypeError(
            f"weight must be a number or a Weight (schedule(...), BalancedWeight(...)); got {type(weight).__name__}"
        )
    check_number("weight", weight, least=0)
    return ScheduledWeight(weight)


# --- helpers ------------------------------------------------------------------------------------------------------------------


def _as_tensors(points: Any) -> Sequence[Tensor]:
    tensors = (
        [points] if isinstance(points, Tensor) else list(points) if isinstance(points, (list, tuple)) else [points]
    )
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"points must be a tensor or a sequence of tensors; got {type(tensor).__name__}")
    if not tensors:
        raise ValueError("points must hold at least one tensor at which the gradients are compared; got none")
    return tensors


def _squared_norm(argument: str, loss: Tensor, points: Sequence[Tensor]) -> Tensor:
    """Of the gradient of the loss at all points together, without a graph through it."""
    reachable = [tensor for tensor in points if tensor.requires_grad]
    gradients: Sequence[Tensor | None] = ()
    if loss.requires_grad and reachable:
        gradients = torch.autograd.grad(loss, reachable, retain_graph=True, allow_unused=True)
    found = [gradient for gradient in gradients if gradient is not None]
    if not found:
        raise ValueError(
            f"{argument} must depend on points, the hidden states that both losses are computed from; no gradient reaches them "
            "(points that were pooled or detached from the hidden states are not what the task loss is computed from)"
        )
    # In float64 no square of a small gradient becomes zero; mps has no float64.
    wide = torch.float32 if loss.device.type == "mps" else torch.float64
    return torch.stack([torch.linalg.vector_norm(gradient, dtype=wide).square() for gradient in found]).sum()
