"""Writes dimension.json: intrinsic dimensions by scikit-dimension, for tests/test_dimension.py.

    pip install scikit-dimension==0.5.0
    python tests/frozen/make_dimension.py

Nothing of simplicial_reg is run here. A cloud is ``numpy.random.default_rng(seed)``'s ``standard_normal`` or ``random`` of shape
(n, d), and then, as its recipe says, some rows are repeated. PH's random subsamples are replaced by those that
`simplicial_reg.isotropy.ph_dimension` documents: of subsample number ``again`` of the size number ``at``, the points with
the smallest of ``default_rng((seed, at, again)).random(n)``.
"""

from __future__ import annotations

import json
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

# name -> how the cloud is made
CLOUDS: dict[str, dict[str, Any]] = {
    "cube of 3 dimensions": {"seed": 0, "draw": "random", "n": 60, "d": 3, "repeated": 0},
    "gaussian of 8 dimensions": {"seed": 1, "draw": "standard_normal", "n": 80, "d": 8, "repeated": 0},
    "gaussian of 40 dimensions": {"seed": 2, "draw": "standard_normal", "n": 70, "d": 40, "repeated": 0},
    "few points": {"seed": 3, "draw": "standard_normal", "n": 15, "d": 4, "repeated": 0},
    "with repeated points": {"seed": 4, "draw": "random", "n": 50, "d": 2, "repeated": 6},
}
DISCARDS = (0.1, 0.25, 0.5)
NEIGHBOURS = (5, 10, 20)
SIZES, REPEATS, SEED = (15, 25, 35, 45), 3, 7


def cloud(recipe: dict[str, Any]) -> Any:
    points = getattr(np.random.default_rng(recipe["seed"]), recipe["draw"])((recipe["n"], recipe["d"]))
    return np.concatenate([points, points[: recipe["repeated"]]])


class Subsamples:
    """Stands in for the generator that PH draws its subsamples from."""

    def __init__(self) -> None:
        self.drawn = [(at, again) for at in range(len(SIZES)) for again in range(REPEATS)]

    def choice(self, n: int, size: int, replace: bool) -> Any:
        at, again = self.drawn.pop(0)
        assert (size, replace) == (SIZES[at], False)
        return np.argsort(np.random.default_rng((SEED, at, again)).random(n), kind="stable")[:size]


def by_ph(skdim: Any, points: Any) -> float:
    skdim.id._PH.check_random_state = lambda seed: Subsamples()
    estimator = skdim.id.PH(
        n_range_min=SIZES[0], n_range_max=SIZES[-1], range_type="num", nsteps=len(SIZES), subsamples=REPEATS
    )
    return float(estimator.fit(points).dimension_)


def main() -> None:
    import skdim.id  # here, because pytest imports this file to look for examples in it

    warnings.filterwarnings("ignore", message="Dropping .* points with zero distance")
    warnings.filterwarnings("ignore", message="n_neighbors >= len")
    warnings.filterwarnings("ignore", message="self.K >= len")
    rows = {}
    for name, recipe in CLOUDS.items():
        points = cloud(recipe)
        row: dict[str, Any] = {"recipe": recipe}
        row["twonn"] = {
            str(discard): float(skdim.id.TwoNN(discard_fraction=discard).fit(points).dimension_) for discard in DISCARDS
        }
        if not recipe["repeated"]:  # MLE divides by the distance zero
            row["mle"] = {str(k): float(skdim.id.MLE().fit(points, n_neighbors=k).dimension_) for k in NEIGHBOURS}
        if len(points) >= SIZES[-1]:
            row["ph"] = by_ph(skdim, points)
        rows[name] = row
    frozen = {
        "made_by": "tests/frozen/make_dimension.py",
        "versions": {name: version(name) for name in ("scikit-dimension", "numpy", "scipy", "scikit-learn")},
        "ph": {"sizes": SIZES, "repeats": REPEATS, "seed": SEED},
        "clouds": rows,
    }
    Path(__file__).with_suffix(".json").with_stem("dimension").write_text(json.dumps(frozen, indent=1) + "\n")


if __name__ == "__main__":
    main()
