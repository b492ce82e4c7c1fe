"""Full precision inside an autocast region."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["autocast_off"]


class _Nothing:
    """A context that does nothing, and quicker than contextlib.nullcontext, which counts here."""

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


_NOTHING = _Nothing()


def autocast_off(tensor: Tensor) -> Any:
    """A context with autocast off on the tensor's device, if it is on.

    A barcode in bfloat16 is mostly ties, and a covariance in it has two digits.
    """
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else _NOTHING
