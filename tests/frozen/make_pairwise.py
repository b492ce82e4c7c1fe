"""Freezes what lightly makes of small clouds: KoLeo and SIGReg, values and gradients in float64.

    python tests/frozen/make_pairwise.py

needs lightly; writes pairwise.json beside itself. Clouds and slices come from numpy and from nothing of this package.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch

CLOUDS = [
    {"seed": 0, "n": 12, "d": 5, "scale": 1.0, "shift": 0.0},
    {"seed": 1, "n": 7, "d": 16, "scale": 2.0, "shift": 1.0},
    {"seed": 2, "n": 20, "d": 3, "scale": 0.1, "shift": -0.5},
]
SLICES, SLICE_SEED = 24, 7


def cloud(seed: int, n: int, d: int, scale: float, shift: float) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, d)) * scale + shift).requires_grad_()


def slices(d: int) -> torch.Tensor:
    normal = np.random.default_rng(SLICE_SEED).standard_normal((d, SLICES))
    return torch.from_numpy(normal / np.sqrt((normal**2).sum(0)))


def result(loss: torch.nn.Module, points: torch.Tensor) -> dict[str, Any]:
    value = loss(points)
    (gradient,) = torch.autograd.grad(value, points)
    return {"value": value.item(), "gradient": [[float(f"{entry:.10g}") for entry in row] for row in gradient.tolist()]}


def sigreg(kind: type[torch.nn.Module], d: int, knots: int) -> torch.nn.Module:
    loss = kind(knots=knots, num_vectors=SLICES)
    loss._generate_unit_vectors = lambda device, dtype, num_features: slices(d)
    return loss


def main() -> None:
    # lightly imports torchvision for its image transforms, which no loss needs.
    for part in ("", ".models", ".transforms", ".transforms.functional", ".ops"):
        sys.modules.setdefault("torchvision" + part, MagicMock())
    from lightly.loss.koleo_loss import KoLeoLoss
    from lightly.loss.lejepa_loss import SIGReg

    cases = []
    for recipe in CLOUDS:
        points = cloud(**recipe)
        d = recipe["d"]
        found = {"koleo": result(KoLeoLoss(), points)}
        found |= {f"sigreg, {knots} knots": result(sigreg(SIGReg, d, knots), points) for knots in (17, 5)}
        cases.append({"cloud": recipe, **found})
    versions = {name: importlib.metadata.version(name) for name in ("lightly", "torch", "numpy")}
    recipe = (
        "numpy.random.default_rng(seed).standard_normal((n, d)) * scale + shift; slices (d, number) with unit columns"
    )
    frozen = {
        "versions": versions,
        "recipe": recipe,
        "slices": {"seed": SLICE_SEED, "number": SLICES},
        "cases": cases,
    }
    Path(__file__).with_name("pairwise.json").write_text(json.dumps(frozen) + "\n")


if __name__ == "__main__":
    main()
