"""Every check of what a user passes in, and its message: which argument, what it was, what it must be.

Shapes and types are checked here, before anything is computed. Values (NaN, asymmetry) are checked where they are read, in
``_ops``, because reading them would make the host wait for an accelerator; they are therefore checked on the CPU only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = [
    "check_choice",
    "check_count",
    "check_labels",
    "check_number",
    "check_threshold",
    "computable",
    "is_plain",
    "runs_kernels",
]

HALF = (torch.float16, torch.bfloat16)
FLOATING = (*HALF, torch.float32, torch.float64)


def is_plain(tensor: Tensor) -> bool:
    """Whether these are plain numbers: not traced by the compiler, not wrapped by a function transform, without a forward-mode tangent."""
    if torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return False
    # The level is -1 outside of forward_ad.dual_level(), which is nearly always; asking each tensor takes longer.
    return forward_ad._current_level < 0 or forward_ad.unpack_dual(tensor).tangent is None


def runs_kernels(tensor: Tensor) -> bool:
    """Whether these are plain numbers on the CPU."""
    return tensor.device.type == "cpu" and is_plain(tensor)


def check_choice(argument: str, value: object, allowed: Iterable[str]) -> None:
    """Raise a ``ValueError`` that lists the allowed names."""
    names = list(allowed)
    if value not in names:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, names))}; got {value!r}")


def check_count(argument: str, value: Any, least: int, *, optional: bool = False) -> None:
    """Raise unless the value is an integer of at least so much, or, if optional, None."""
    if optional and value is None:
        return
    either = "None or " if optional else ""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{argument} must be {either}an int; got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{argument} must be {either}at least {least}; got {value}")


def check_number(
    argument: str,
    value: Any,
    *,
    above: float = -math.inf,
    least: float | None = None,
    below: float = math.inf,
    most: float | None = None,
    optional: bool = False,
    hint: str = "",
) -> None:
    """Raise unless the value is a number in an interval, or, if optional, None.

    The interval is open, (above, below), or closed at an end that is given as least or most; so infinity is not in it unless
    ``most=math.inf``. The hint ends the message: what else could have been meant.
    """
    if optional and value is None:
        return
    either = "None or " if optional else ""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{argument} must be {either}a number; got {type(value).__name__}")
    enough = value > above if least is None else value >= least
    if not (enough and (value < below if most is None else value <= most)):
        wanted = either + _interval(above, least, below, most)
        raise ValueError(f"{argument} must be {wanted}; got {value}" + (f"; {hint}" if hint else ""))


def _interval(above: float, least: float | None, below: float, most: float | None) -> str:
    low, high = above if least is None else least, below if most is None else most
    if math.isfinite(low) and math.isfinite(high):
        return f"in {'(' if least is None else '['}{low:g}, {high:g}{')' if most is None else ']'}"
    if math.isfinite(high):
        return f"{'below' if most is None else 'at most'} {high:g} and finite"
    bound = "positive" if least is None and low == 0 else f"{'above' if least is None else 'at least'} {low:g}"
    return " and ".join([bound] * math.isfinite(low) + ["finite"] * (most is None))


def check_threshold(threshold: object) -> None:
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float, np.integer, np.floating)):
        raise TypeError(f"threshold must be a float, a length; got {type(threshold).__name__}")
    if math.isnan(threshold) or threshold < 0:
        raise ValueError(f"threshold must be a non-negative length; got {threshold}")


def computable(
    points: Any, mask: Any, metric: str | Callable[[Tensor], Tensor] = "euclidean"
) -> tuple[Tensor, Tensor | None]:
    """The input as one tensor ``(n, d)`` or ``(B, n, d)`` and a mask ``(n,)`` or ``(B, n)`` or None.

    A list of clouds is padded with zeros. Half precision becomes float32. Points that are masked out become zero, so that
    whatever stands there (NaN included) neither counts nor receives a gradient.
    """
    square = metric == "precomputed"
    if isinstance(points, (list, tuple)):
        if mask is not None:
            raise ValueError("mask must be None for a list of clouds: each cloud holds its real points only")
        points, mask = _padded(points, square)
    _check_points("points", points, square)
    if mask is not None:
        _check_mask(mask, points)
    if points.dtype in HALF:
        points = points.float()
    if mask is not None:
        real = mask.unsqueeze(-1) & mask.unsqueeze(-2) if square else mask.unsqueeze(-1)
        points = torch.where(real, points, 0)
    return points, mask


def _check_points(argument: str, points: Any, square: bool) -> None:
    if not isinstance(points, Tensor):
        raise TypeError(
            f"{argument} must be a floating-point tensor; got {type(points).__name__}"
            + ("; use torch.as_tensor" if hasattr(points, "__array__") else "")
        )
    if points.dtype not in FLOATING:
        raise TypeError(f"{argument} must be a floating-point tensor; got {points.dtype}; use {argument}.float()")
    if points.layout != torch.strided:
        raise TypeError(f"{argument} must be a dense tensor; got layout {points.layout}; use {argument}.to_dense()")
    if points.ndim not in (2, 3):
        wanted = "(n, n) or (B, n, n)" if square else "(n, d) or (B, n, d)"
        raise ValueError(f"{argument} must have shape {wanted}; got {tuple(points.shape)}")
    if 0 in points.shape[:-1]:
        raise ValueError(
            f"{argument} must hold at least one cloud of at least one point; got shape {tuple(points.shape)}"
        )
    if square and points.shape[-1] != points.shape[-2]:
        raise ValueError(
            f'{argument} must be square with metric="precomputed", (n, n) or (B, n, n) distances; got {tuple(points.shape)}'
        )
    if points.shape[-1] == 0:
        raise ValueError(f"{argument} must have at least one coordinate; got shape {tuple(points.shape)}")


def _check_mask(mask: Any, points: Tensor) -> None:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a bool tensor, True where the point is real; got {got}; use mask.bool()")
    if mask.shape != points.shape[:-1]:
        raise ValueError(
            f"mask must have shape {tuple(points.shape[:-1])}, one entry for each point of points {tuple(points.shape)}; "
            f"got {tuple(mask.shape)}"
        )
    if mask.device != points.device:
        raise ValueError(f"mask must be on the device of points, {points.device}; got {mask.device}")
    if runs_kernels(mask) and not mask.any(-1).all():
        which = "" if mask.ndim == 1 else f"; cloud {int((~mask.any(-1)).nonzero()[0])} has none"
        raise ValueError("mask must leave at least one real point in every cloud" + which)


def check_labels(labels: Any, points: Tensor) -> None:
    """Raise unless the labels are integers, one for each point of ``points``, on their device."""
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be an integer tensor; got {got}")
    if labels.shape != points.shape[:-1]:
        raise ValueError(
            f"labels must have shape {tuple(points.shape[:-1])}, one for each point of points {tuple(points.shape)}; "
            f"got {tuple(labels.shape)}"
        )
    if labels.device != points.device:
        raise ValueError(f"labels must be on the device of points, {points.device}; got {labels.device}")


def _padded(clouds: Sequence[Any], square: bool) -> tuple[Tensor, Tensor]:
    if not clouds:
        raise ValueError("points must hold at least one cloud; got an empty list")
    for at, cloud in enumerate(clouds):
        _check_points(f"points[{at}]", cloud, square)
        if cloud.ndim != 2:
            raise ValueError(f"points[{at}] must have two dimensions, one cloud each; got shape {tuple(cloud.shape)}")
    first = clouds[0]
    for at, cloud in enumerate(clouds):
        same = cloud.dtype == first.dtype and cloud.device == first.device
        if not same or (not square and cloud.shape[1] != first.shape[1]):
            raise ValueError(
                f"points must agree in coordinates, dtype and device: points[0] is {_kind(first)}, points[{at}] is {_kind(cloud)}"
            )
    size = max(cloud.shape[0] for cloud in clouds)
    vertex = torch.arange(size, device=first.device)
    # Not compared with a tensor of the sizes, for which the host would wait.
    mask = torch.stack([vertex < cloud.shape[0] for cloud in clouds])
    rows = [
        torch.nn.functional.pad(cloud, (0, size - cloud.shape[1] if square else 0, 0, size - cloud.shape[0]))
        for cloud in clouds
    ]
    return torch.stack(rows), mask


def _kind(cloud: Tensor) -> str:
    return f"{tuple(cloud.shape)} {cloud.dtype} on {cloud.device}"
