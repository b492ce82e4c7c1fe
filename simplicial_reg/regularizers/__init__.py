"""Regularizers: losses of a cloud of points, all called in the same way, smaller is better.

>>> import torch
>>> from simplicial_reg.regularizers import REGULARIZERS
>>> loss = REGULARIZERS["cosreg"]()
>>> loss(torch.ones(4, 3))  # all points in one direction
tensor(1.)
"""

from simplicial_reg.regularizers._base import Regularizer
from simplicial_reg.regularizers.comparison import RTDLoss, TopologicalSignatureLoss
from simplicial_reg.regularizers.covariance import DecorrelationLoss, IsoScoreStarLoss, SpectrumLoss, VICRegLoss
from simplicial_reg.regularizers.pairwise import CosineLoss, KoLeoLoss, OrthogonalityLoss, SimCTGLoss, UniformityLoss
from simplicial_reg.regularizers.sliced import SIGRegLoss
from simplicial_reg.regularizers.topological import (
    ConnectivityLoss,
    PersistentEntropyLoss,
    TotalPersistenceLoss,
    shrink_the_longest,
)

REGULARIZERS: dict[str, type[Regularizer]] = {
    "persistent-entropy": PersistentEntropyLoss,
    "total-persistence": TotalPersistenceLoss,
    "connectivity": ConnectivityLoss,
    "topological-signature": TopologicalSignatureLoss,
    "rtd": RTDLoss,
    "istar": IsoScoreStarLoss,
    "vicreg": VICRegLoss,
    "decorrelation": DecorrelationLoss,
    "spectrum": SpectrumLoss,
    "cosreg": CosineLoss,
    "uniformity": UniformityLoss,
    "koleo": KoLeoLoss,
    "simctg": SimCTGLoss,
    "orthogonality": OrthogonalityLoss,
    "sigreg": SIGRegLoss,
}

__all__ = [
    "REGULARIZERS",
    "Regularizer",
    "PersistentEntropyLoss",
    "TotalPersistenceLoss",
    "ConnectivityLoss",
    "TopologicalSignatureLoss",
    "RTDLoss",
    "shrink_the_longest",
    "IsoScoreStarLoss",
    "VICRegLoss",
    "DecorrelationLoss",
    "SpectrumLoss",
    "CosineLoss",
    "UniformityLoss",
    "KoLeoLoss",
    "SimCTGLoss",
    "OrthogonalityLoss",
    "SIGRegLoss",
]
