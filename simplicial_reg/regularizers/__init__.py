"""Regularizers: losses of a cloud of points, one call for all of them.

>>> import torch
>>> from simplicial_reg.regularizers import REGULARIZERS
>>> REGULARIZERS["cosreg"]()(torch.eye(4))
tensor(0.)
"""

from simplicial_reg.regularizers._base import Regularizer

REGULARIZERS: dict[str, type[Regularizer]] = {}

__all__ = ["REGULARIZERS", "Regularizer"]
