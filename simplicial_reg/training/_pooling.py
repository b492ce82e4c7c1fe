"""How hidden states become points, and points clouds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from simplicial_reg._checks import HALF, check_choice
from simplicial_reg.training._cloud import Cloud

__all__ = ["Form", "Pooling", "for_each"]

Pooling = str | Callable[[Tensor, Tensor | None], Tensor]
CLOUDS = ("layer", "union", "sentence")


@dataclass
class Form:
    """How states become points, and points clouds: the arguments of `Tap` that say so, checked."""

    pooling: Pooling
    cloud: str
    include_padding: bool
    several: bool  # whether clouds of states are a batch, however many they are

    def __post_init__(self) -> None:
        if not callable(self.pooling):
            check_choice("pooling", self.pooling, (*POOLINGS, "tokens"))
        check_choice("cloud", self.cloud, CLOUDS)
        if self.cloud == "sentence" and self.pooling != "tokens":
            raise ValueError(
                f'pooling must be "tokens" for cloud="sentence", the tokens of one sentence; got {self.pooling!r}'
            )
        if self.include_padding and self.pooling != "tokens":
            raise ValueError(
                f'pooling must be "tokens" for include_padding=True, padding as tokens; got {self.pooling!r}'
            )

    def points(self, states: list[Tensor], mask: Any, labels: Any) -> Cloud:
        """Points ``(L, B, T, d)`` of one forward with their mask and labels ``(L, B, T)``; T is 1 if they are pooled."""
        real = _as_bool(mask)
        pooled = [self._pooled(state, real) for state in states]
        if any(points.shape != pooled[0].shape for points in pooled):
            shapes = ", ".join(str(tuple(state.shape)) for state in states)
            raise ValueError(
                f"layer must name states of one shape; got {shapes}; read the others with a tap of their own"
            )
        points = torch.stack(pooled)
        if self.pooling == "first-last-mean":
            points = points.mean(0, keepdim=True)
        shape = points.shape[:3]
        if self.include_padding:
            real = None
        elif real is not None:
            if shape[2] == 1 and real.ndim == 2:
                real = real.any(1)
            real = real.view(shape[1:]).expand(shape)
        return Cloud(points, real, _labels_of(labels, shape, points.device))

    def _pooled(self, state: Tensor, real: Tensor | None) -> Tensor:
        """The points ``(B, T, d)`` of one state, ``(B, 1, d)`` if they are pooled."""
        if state.is_nested:  # as nn.TransformerEncoder computes padded sentences in evaluation
            size = None if real is None else (*real.shape, state.size(-1))
            state = state.to_padded_tensor(0.0, size)
        if state.dtype in HALF:
            state = state.float()
        if real is not None:
            _check_mask(real, state, by_token=state.ndim == 3 and not callable(self.pooling))
        if callable(self.pooling):
            return _checked_pooling(self.pooling(state, real), state).unsqueeze(1)
        if state.ndim not in (2, 3):
            raise ValueError(
                f"layer must give states (B, T, d) or (B, d); got {tuple(state.shape)}; pass a function as pooling, "
                "such as lambda state, mask: state.mean((2, 3)) for feature maps (B, C, H, W)"
            )
        if state.ndim == 2:
            return state.unsqueeze(1)
        return state if self.pooling == "tokens" else POOLINGS[self.pooling](state, real).unsqueeze(1)

    def cloud_of(self, parts: list[Cloud]) -> Cloud:
        """The points of the forwards, one forward after another, as clouds."""
        if self.cloud == "sentence":
            clouds = _map(lambda value: value.flatten(0, 1), _join(_of_one_size(parts)))
            if clouds.mask is None:
                return clouds
            some = clouds.mask.any(1)  # a cloud must have a point
            return _map(lambda value: value[some], clouds)
        clouds = _join([_map(lambda value: value.flatten(1, 2), part) for part in parts])
        if self.cloud == "union":
            return _map(lambda value: value.flatten(0, 1), clouds)
        return clouds if self.several else _map(lambda value: value.squeeze(0), clouds)


def _map(change: Callable[[Tensor], Tensor], cloud: Cloud) -> Cloud:
    points, mask, labels = cloud
    return Cloud(change(points), None if mask is None else change(mask), None if labels is None else change(labels))


def _join(parts: list[Cloud]) -> Cloud:
    """One after another along the second dimension; all have a mask or none has, and so for labels."""
    points, mask, labels = ([value for value in column if value is not None] for column in zip(*parts, strict=True))
    return Cloud(torch.cat(points, 1), torch.cat(mask, 1) if mask else None, torch.cat(labels, 1) if labels else None)


def _of_one_size(parts: list[Cloud]) -> list[Cloud]:
    """Points ``(L, B, T, d)`` padded to as many tokens as the longest part has."""
    sizes = [part.points.shape[2] for part in parts]
    if min(sizes) == max(sizes):
        return parts
    return [_padded(part, max(sizes) - size) for part, size in zip(parts, sizes, strict=True)]


def _padded(part: Cloud, missing: int) -> Cloud:
    pad = torch.nn.functional.pad
    points, mask, labels = part
    if mask is None:
        mask = points.new_ones(points.shape[:3], dtype=torch.bool)
    longer = pad(points, (0, 0, 0, missing))
    return Cloud(longer, pad(mask, (0, missing)), None if labels is None else pad(labels, (0, missing)))


def _cls(state: Tensor, real: Tensor | None) -> Tensor:
    if real is None:
        return state[:, 0]
    return state[torch.arange(len(state), device=state.device), real.to(torch.int8).argmax(1)]


def _mean(state: Tensor, real: Tensor | None) -> Tensor:
    if real is None:
        return state.mean(1)
    return torch.where(real.unsqueeze(-1), state, 0).sum(1) / real.sum(1, keepdim=True).clamp_min(1)


def _max(state: Tensor, real: Tensor | None) -> Tensor:
    if real is None:
        return state.amax(1)
    largest = torch.where(real.unsqueeze(-1), state, -torch.inf).amax(1)
    return torch.where(real.any(1, keepdim=True), largest, 0)


# Of a state (B, T, d) and a mask (B, T), or None, one point (B, d) for each sentence; arbitrary where no token is real.
POOLINGS: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "mean": _mean,
    "cls": _cls,
    "max": _max,
    "first-last-mean": _mean,  # of both states; `Form.points` takes the mean of the two
}


def _checked_pooling(points: Any, state: Tensor) -> Tensor:
    if not isinstance(points, Tensor) or points.ndim != 2 or len(points) != len(state):
        got = tuple(points.shape) if isinstance(points, Tensor) else type(points).__name__
        raise ValueError(f"pooling must return points (B, d), here ({len(state)}, d); got {got}")
    return points


def _check_mask(real: Tensor, state: Tensor, by_token: bool) -> None:
    wanted = tuple(state.shape[: 1 + by_token])
    if tuple(real.shape[: real.ndim if by_token else 1]) != wanted:
        what = "token" if by_token else "sentence"
        raise ValueError(
            f"mask must have {wanted} entries, one for each {what} of states {tuple(state.shape)}; got {tuple(real.shape)}"
        )
    if real.device != state.device:
        raise ValueError(f"mask must be on the device of the states, {state.device}; got {real.device}")


def _as_bool(mask: Any) -> Tensor | None:
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.is_floating_point() or mask.is_complex():
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a bool or integer tensor, True or nonzero where the token is real; got {got}")
    if mask.ndim not in (1, 2):
        raise ValueError(f"mask must have shape (B, T) or (B,); got {tuple(mask.shape)}")
    return mask.bool()


def _labels_of(labels: Any, shape: torch.Size, device: torch.device) -> Tensor | None:
    """Labels ``(L, B, T)``."""
    if labels is None:
        return None
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor; got {type(labels).__name__}")
    if labels.device != device:
        raise ValueError(f"labels must be on the device of the states, {device}; got {labels.device}")
    _, b, t = shape
    if labels.shape == (b,):
        labels = labels.unsqueeze(1)
    elif labels.shape != (b, t):
        wanted = f"({b},)" if t == 1 else f"({b},) or ({b}, {t})"
        raise ValueError(f"labels must have shape {wanted}, one for each point; got {tuple(labels.shape)}")
    expanded: Tensor = labels.expand(shape)
    return expanded


def for_each(argument: str, value: Any, forwards: int) -> Sequence[Any]:
    """One value for each forward."""
    if value is None:
        return [None] * forwards
    if isinstance(value, Tensor):
        value = [value]
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, Tensor) for one in value):
        raise TypeError(f"{argument} must be a tensor, a sequence of tensors, or None; got {type(value).__name__}")
    if len(value) != forwards:
        raise ValueError(
            f"{argument} must be one tensor for each of the {forwards} forwards to be read; got {len(value)}"
        )
    return value
