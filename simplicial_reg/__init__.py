"""Vietoris-Rips barcodes of mini-batches, exact and differentiable, and losses made of them.

>>> import torch, simplicial_reg
>>> bars = simplicial_reg.rips_barcode(torch.eye(8))[0]
>>> simplicial_reg.entropy_deficit(bars)
tensor(0.)
"""

from simplicial_reg.barcode import Barcode, VietorisRips, rips_barcode
from simplicial_reg.distances import METRICS, edge_length, pairwise_distances
from simplicial_reg.engines import ENGINES, select_engine
from simplicial_reg.entropy import entropy_deficit, normalized_persistent_entropy, persistent_entropy, renyi_deficit
from simplicial_reg.prominence import prominent
from simplicial_reg.regularizers import (
    REGULARIZERS,
    ConnectivityLoss,
    CosineLoss,
    DecorrelationLoss,
    IsoScoreStarLoss,
    KoLeoLoss,
    OrthogonalityLoss,
    PersistentEntropyLoss,
    Regularizer,
    RTDLoss,
    SIGRegLoss,
    SimCTGLoss,
    SpectrumLoss,
    TopologicalSignatureLoss,
    TotalPersistenceLoss,
    UniformityLoss,
    VICRegLoss,
    shrink_the_longest,
)

__version__ = "0.1.0"

__all__ = [
    # barcodes
    "ENGINES",
    "METRICS",
    "Barcode",
    "VietorisRips",
    "edge_length",
    "pairwise_distances",
    "rips_barcode",
    "select_engine",
    # what they say
    "entropy_deficit",
    "renyi_deficit",
    "normalized_persistent_entropy",
    "persistent_entropy",
    "prominent",
    # regularizers: topological, of the covariance, of pairs, of slices
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
