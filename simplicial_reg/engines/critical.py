"""What every engine returns, and the type of an engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

__all__ = ["CriticalEdges", "Find"]


class CriticalEdges(NamedTuple):
    """The bars of one homology dimension as vertex pairs, in the order of their birth edges; in dimension 0, of their death edges.

    birth, death: int64 ``(..., k, 2)``, larger vertex first; a vertex v is ``(v, v)``; a death of ``(-1, -1)`` is a class still alive
    at the threshold. real: bool ``(..., k)``, False for padding. Dimension 0 holds the n - 1 tree edges whatever the threshold.
    """

    birth: Tensor
    death: Tensor
    real: Tensor


Find = Callable[[Tensor, Tensor | None, int, float], list[CriticalEdges]]
