"""Where, how and why a model's representation space is anisotropic, layer by layer.

`diagnose` runs a model on batches and has the figures of every hidden state, with 95 % intervals over sequences, and of every head
of attention; `write_report` makes tables and pictures of them. `untrained` gives the same architecture without its training, and
`drift` says what a block at initialisation does to inputs with a common bias. The command is ``simplicial-reg diagnose``.

The raw mean cosine, by which anisotropy is mostly told, sees their mean direction and nothing else: a shifted isotropic cloud
scores high, and a cloud that has collapsed to three directions around the origin scores zero. So there are others beside it.

>>> import torch
>>> generator = torch.Generator().manual_seed(0)
>>> shifted = torch.randn(1000, 32, generator=generator) + 2
>>> flat = torch.randn(1000, 3, generator=generator) @ torch.randn(3, 32, generator=generator)
>>> for layer in diagnose({"shifted": shifted, "flat": flat}).layers:
...     for name in ("mean_cosine", "mean_cosine_centred", "participation_ratio_over_null"):
...         print(f"{layer.name}: {DEFINITIONS[name].label} {layer.measures[name].value:.2f}")
shifted: mean cosine 0.80
shifted: mean cosine, centred -0.00
shifted: PR / null 1.00
flat: mean cosine 0.00
flat: mean cosine, centred -0.00
flat: PR / null 0.09
"""

from __future__ import annotations

from simplicial_reg.diagnose._run import diagnose
from simplicial_reg.diagnose.attention import AttentionTap
from simplicial_reg.diagnose.drift import Drift, drift
from simplicial_reg.diagnose.record import (
    DEFINITIONS,
    HEAD_DEFINITIONS,
    Definition,
    Diagnosis,
    Estimate,
    Head,
    Layer,
    read_diagnosis,
)
from simplicial_reg.diagnose.report import summary, write_report
from simplicial_reg.diagnose.sources import Source, open_source
from simplicial_reg.diagnose.untrained import untrained

__all__ = [
    "diagnose",
    # what is found
    "DEFINITIONS",
    "HEAD_DEFINITIONS",
    "Definition",
    "Diagnosis",
    "Estimate",
    "Head",
    "Layer",
    "read_diagnosis",
    "summary",
    "write_report",
    # of what
    "Source",
    "open_source",
    "untrained",
    # its parts alone
    "AttentionTap",
    "Drift",
    "drift",
]
