"""Writes covariance_losses.json: values and gradients of the losses of VICReg and Barlow Twins, by lightly, both views equal.

    python tests/frozen/make_covariance_losses.py          with lightly 1.6.0, which the tests do not need

Points are scale * (default_rng(seed).normal(size=(n, d)) @ (eye(d) + 0.3) + 2). lightly's Barlow Twins adds 1e-5 to the variances;
scale 100 makes that nothing.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np

CASES = [(8, 3, 0), (5, 7, 1), (2, 4, 2), (30, 5, 3)]  # n, d, seed


def points(n: int, d: int, seed: int, scale: float) -> np.ndarray:
    return scale * (np.random.default_rng(seed).normal(size=(n, d)) @ (np.eye(d) + 0.3) + 2)


def main() -> None:
    # lightly imports torchvision for transforms that the losses do not use.
    for part in ("", ".transforms", ".transforms.functional", ".transforms.v2", ".models", ".datasets", ".io", ".ops"):
        sys.modules["torchvision" + part] = MagicMock()
    import torch
    from lightly.loss import BarlowTwinsLoss, VICRegLoss

    # (No invariance term of the first with equal views; the second's, sum (c_ii - 1)², is zero but for the 1e-5.)
    losses = {"vicreg": (VICRegLoss(), 0.3), "barlow": (BarlowTwinsLoss(lambda_param=1.0), 100.0)}
    cases = []
    for n, d, seed in CASES:
        for name, (loss, scale) in losses.items():
            cloud = torch.tensor(points(n, d, seed, scale), requires_grad=True)
            value = loss(cloud, cloud)
            value.backward()
            case = {"loss": name, "n": n, "d": d, "seed": seed, "scale": scale, "value": value.item()}
            cases.append({**case, "gradient": cloud.grad.tolist()})
    out = {"lightly": version("lightly"), "torch": torch.__version__, "cases": cases}
    Path(__file__).with_name("covariance_losses.json").write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
