"""Writes isoscore.json: values and gradients of IsoScore*, by its authors' package.

    python tests/frozen/make_isoscore.py          with IsoScore 2.0.1, which the tests do not need

Points are default_rng(seed).normal(size=(n, d)) * linspace(1, spread, d) + 3, and the shrinkage covariance that of 2 d such points from
seed + 1. The package takes the root of d in torch's default type, which is set to float64.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np

CASES = [
    # n, d, shrinkage, spread, seed
    (12, 4, 0.0, 3.0, 0),
    (12, 4, 0.3, 3.0, 1),
    (5, 16, 0.0, 5.0, 2),
    (5, 16, 0.2, 5.0, 3),
    (5, 16, 1.0, 5.0, 4),
    (9, 9, 0.75, 1.0, 5),
    (4, 25, 0.0, 1.0, 6),
    (4, 25, 0.5, 20.0, 7),
    (7, 6, 0.2, 2.0, 8),
    (3, 12, 0.0, 2.0, 9),
]


def points(n: int, d: int, spread: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) * np.linspace(1, spread, d) + 3


def main() -> None:
    import torch
    from IsoScore.IsoScore import istar

    torch.set_default_dtype(torch.float64)
    cases = []
    for n, d, shrinkage, spread, seed in CASES:
        cloud = torch.tensor(points(n, d, spread, seed), requires_grad=True)
        covariance = torch.tensor(np.cov(points(2 * d, d, spread, seed + 1).T))
        score = istar().IsoScore_star(cloud, covariance, shrinkage, is_eval=False)
        score.backward()
        case = {"n": n, "d": d, "shrinkage": shrinkage, "spread": spread, "seed": seed, "score": score.item()}
        cases.append({**case, "gradient": cloud.grad.tolist()})
    out = {"IsoScore": version("IsoScore"), "torch": torch.__version__, "cases": cases}
    Path(__file__).with_name("isoscore.json").write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
