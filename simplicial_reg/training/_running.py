"""Running somebody's model on the side, so that nothing of it changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from simplicial_reg.training._randomness import random_states, set_random_states

__all__ = ["device_of", "moved", "set_aside"]


@contextmanager
def set_aside(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside; afterwards everything is as if nothing had been run."""
    modes = [(module, module.training) for module in model.modules()]
    states = random_states()  # a loader that shuffles draws even when it is only gone through
    model.eval()
    try:
        with _uncompiled(model):
            yield
    finally:
        set_random_states(states)
        for module, mode in modes:  # some may have been in evaluation mode within a model that trains
            module.training = mode


def _uncompiled(model: nn.Module) -> Any:
    """Compiled code does not notice hooks that come later, so what was compiled in place (``module.compile()``) runs as it is."""
    in_place = any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules())
    set_stance = getattr(torch.compiler, "set_stance", None)  # since torch 2.6
    return set_stance("force_eager") if in_place and set_stance is not None else nullcontext()


def moved(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on the device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: moved(value, device) for name, value in batch.items()}
    if type(batch) in (list, tuple):
        return type(batch)(moved(value, device) for value in batch)
    return batch


def device_of(model: nn.Module) -> torch.device:
    """The device of the first parameter; the CPU if there is none."""
    return next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
