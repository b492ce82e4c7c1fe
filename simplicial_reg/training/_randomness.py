"""States of the global random generators: what is drawn at random can be drawn again, or leave no trace."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

__all__ = ["States", "random_states", "set_random_states"]

States = list[tuple[Callable[[Any], Any], Any]]


def random_states() -> States:
    """How to set each global generator, and its state."""
    states: States = [
        (torch.set_rng_state, torch.get_rng_state()),
        (random.setstate, random.getstate()),
        (np.random.set_state, np.random.get_state()),  # noqa: NPY002  # models that draw from NumPy draw from this one
    ]
    for name in ("cuda", "xpu"):
        module = getattr(torch, name)
        if module.is_available() and module.is_initialized():  # asking for the state would initialise it
            states.append((module.set_rng_state_all, module.get_rng_state_all()))
    if torch.backends.mps.is_available():
        states.append((torch.mps.set_rng_state, torch.mps.get_rng_state()))
    return states


def set_random_states(states: States) -> None:
    """Put every generator back to where it was."""
    for set_state, state in states:
        set_state(state)
