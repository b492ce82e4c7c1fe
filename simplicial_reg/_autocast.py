"""Full precision inside an autocast region."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

__all__ = ["autocast_off"]


def autocast_off(tensor: Tensor) -> Any:
    """A context with autocast off on the tensor's device, if it is on.

    A barcode in bfloat16 is mostly ties, and a covariance in it has two digits.
    """
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
