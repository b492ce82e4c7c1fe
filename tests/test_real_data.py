"""Barcodes of real embeddings, read from the folder that SIMPLICIAL_REG_DATA names."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from simplicial_reg import entropy_deficit, pairwise_distances, rips_barcode
from tests.clouds import assert_same_bars

FOLDER = os.environ.get("SIMPLICIAL_REG_DATA")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="SIMPLICIAL_REG_DATA does not name a folder of real data")


@pytest.fixture(scope="module")
def words() -> torch.Tensor:
    """GloVe vectors (25 coordinates) of 200 words, every 50th of the file."""
    path = Path(FOLDER or "") / "wordvec" / "glove_twitter_25d_12k.npz"
    if not path.exists():
        pytest.skip(f"{path.name} is not in SIMPLICIAL_REG_DATA")
    with np.load(path) as file:
        vectors = next(file[name] for name in file.files if file[name].ndim == 2)
    return torch.from_numpy(vectors[::50][:200].astype(np.float32))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_bars_of_word_vectors_are_those_of_ripser(words: torch.Tensor, metric: str) -> None:
    ripser = pytest.importorskip("ripser").ripser
    theirs = ripser(pairwise_distances(words, metric).numpy(), distance_matrix=True, maxdim=1)["dgms"]
    components, loops = rips_barcode(words, 1, metric=metric)
    assert len(loops) > 50
    for bars, rows in ((components, theirs[0][:-1]), (loops, theirs[1])):  # ripser's last component never dies
        assert_same_bars(bars.numpy(), rows, tolerance=2e-6)


def test_descending_along_the_deficit_evens_out_word_vectors(words: torch.Tensor) -> None:
    points = words.clone().requires_grad_()
    before = entropy_deficit(rips_barcode(points)[0])
    (gradient,) = torch.autograd.grad(before, points)
    step = 0.01 * points.detach().norm() / gradient.norm()
    assert entropy_deficit(rips_barcode(points - step * gradient)[0]) < before
