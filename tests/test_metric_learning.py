"""A regularizer is an embedding regularizer of pytorch-metric-learning as it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from simplicial_reg.regularizers import REGULARIZERS, CosineLoss, PersistentEntropyLoss

pytest.importorskip("pytorch_metric_learning")
from pytorch_metric_learning.losses import NTXentLoss, TripletMarginLoss

WEIGHT = 0.3


def embeddings() -> Tensor:
    return torch.randn(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()


LABELS = torch.arange(12) % 4


@pytest.mark.parametrize("base", [NTXentLoss, TripletMarginLoss])
@pytest.mark.parametrize("name", ["persistent-entropy", "cosreg", "istar"])
def test_the_loss_is_the_base_loss_plus_the_weighted_regularizer(base: type, name: str) -> None:
    points = embeddings()
    loss = base(embedding_regularizer=REGULARIZERS[name](), embedding_reg_weight=WEIGHT)(points, LABELS)
    (gradient,) = torch.autograd.grad(loss, points)
    expected = base()(points, LABELS) + WEIGHT * REGULARIZERS[name]()(points)
    (wanted,) = torch.autograd.grad(expected, points)
    assert torch.allclose(loss, expected, rtol=1e-9)
    assert torch.allclose(gradient, wanted, rtol=1e-9)


def test_the_regularizer_has_a_part_in_the_loss() -> None:
    points = embeddings()
    without = NTXentLoss()(points, LABELS)
    assert NTXentLoss(embedding_regularizer=CosineLoss())(points, LABELS) != without


def test_the_regularizer_is_among_the_losses_by_name() -> None:
    loss = NTXentLoss(embedding_regularizer=PersistentEntropyLoss())
    assert loss.sub_loss_names() == ["loss", "embedding_reg_loss"]


def test_one_cloud_for_each_label_is_refused_because_labels_are_not_passed_on() -> None:
    loss = NTXentLoss(embedding_regularizer=PersistentEntropyLoss(per_label=True))
    with pytest.raises(ValueError, match="labels must be given with per_label=True"):
        loss(embeddings(), LABELS)
