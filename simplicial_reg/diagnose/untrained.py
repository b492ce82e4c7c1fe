"""An untrained copy of a model: the same architecture with weights drawn anew, as it draws them itself.

What a model is at initialisation is the control for whatever is found in the trained one: anisotropy that is there before training
was not learned. The weights of modules are drawn by

    models of transformers    their class, called with their configuration, wherever in the model they stand
    all other modules         ``reset_parameters()`` (or ``_reset_parameters()``) of each module that has it, inner ones first, so that the
                              outer has the last word, as in a constructor

A parameter that none of these draws is an error and never silently kept. Buffers that are not drawn anew (the constants of a front
end, for example) are kept; a normalization's running statistics are forgotten.

Weights are drawn on the CPU and then moved, so that they are the same on every device.
"""

from __future__ import annotations

import copy
import math
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from simplicial_reg._checks import check_count
from simplicial_reg.training._blocks import unwrapped
from simplicial_reg.training._randomness import random_states, set_random_states

__all__ = ["is_of_transformers", "seeded", "untrained"]


def untrained(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy of a model with weights as at initialisation.

    Args:
        model: any module whose parameters can be drawn anew, as the module's docstring says; it is not changed. Without what
            only wraps it, as `torch.compile` does.
        seed: of the weights; the caller's random generators are left as they are.

    Returns:
        A module of the same class, on the same devices and in the same dtypes and modes. What requires no gradient in the model
        requires none in the copy, and what is tied is tied.

    Raises:
        TypeError: if the model is not an ``nn.Module`` or the seed not an int.
        ValueError: if there are parameters that no module draws, or a model of `transformers` has other parts than its
            configuration says.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
        >>> with torch.no_grad():
        ...     model[1].weight.fill_(7.0)
        Parameter containing:
        tensor([7., 7., 7.], requires_grad=True)
        >>> untrained(model)[1].weight
        Parameter containing:
        tensor([1., 1., 1.], requires_grad=True)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    check_count("seed", seed, 0)
    fresh = copy.deepcopy(unwrapped(model))
    devices = {name: tensor.device for name, tensor in _tensors(fresh)}
    fresh.cpu()
    with seeded(seed), torch.no_grad():
        for parameter in fresh.parameters():
            parameter.fill_(math.nan)  # whatever is left of it was not drawn
        _draw(fresh)
    left = [name for name, parameter in fresh.named_parameters() if not parameter.isfinite().all()]
    if left:
        listed = ", ".join(left[:8]) + (f" and {len(left) - 8} others" if len(left) > 8 else "")
        raise ValueError(
            f"model must be able to draw all its parameters anew; no module of {type(fresh).__name__} draws {listed}; "
            "give the module that holds them a method reset_parameters()"
        )
    for name, tensor in _tensors(fresh):
        tensor.data = tensor.data.to(devices[name])
    return fresh


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Global generators of the CPU that start from a seed inside, and are where they were outside."""
    states = random_states()
    try:
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed accelerators
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002  # models that draw from NumPy draw from this one
        yield
    finally:
        set_random_states(states)


def is_of_transformers(module: nn.Module) -> bool:
    """Whether this is a model of `transformers`, which is not imported for the question."""
    transformers = sys.modules.get("transformers")
    return transformers is not None and isinstance(module, transformers.PreTrainedModel)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _draw(module: nn.Module) -> None:
    """The weights of a module and of all in it; those of a model of transformers at once, by its class."""
    if is_of_transformers(module):
        _draw_by_class(module)
        return
    for child in module.children():
        _draw(child)
    for name in ("reset_parameters", "_reset_parameters"):
        reset = getattr(module, name, None)
        if callable(reset):
            reset()
            return


def _draw_by_class(module: nn.Module) -> None:
    kind = type(module)
    with torch.enable_grad():  # some constructors ask whether gradients are on
        fresh = kind(copy.deepcopy(module.config)).state_dict()
    mine = module.state_dict()
    strange = [name for name in mine if name not in fresh or fresh[name].shape != mine[name].shape]
    if strange:
        raise ValueError(
            f"model must have the parts that its configuration says, to be drawn anew; {kind.__name__}(config) makes no "
            f"{', '.join(strange[:8])}; pass the model without adapters"
        )
    module.load_state_dict({name: fresh[name] for name in mine})
