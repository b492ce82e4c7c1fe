r"""The losses of the tasks: what the penalty of a regularizer is added to.

    text, pair, image    cross-entropy; for regression the squared error
    span                 the mean of the cross-entropies of the first and of the last token of the answer
    similarity           of pairs of unit vectors a_i, b_i, with the scale 20:

        contrastive      mean over i of  - log( exp(20 a_i·b_i) / sum over j of exp(20 a_i·b_j) )
        cosent           log( 1 + sum over i, j with score_i > score_j of exp(20 (a_j·b_j - a_i·b_i)) )

``contrastive`` takes the second sentences of the other pairs of the batch as negatives: all pairs are then to be of sentences that belong
together. ``cosent`` takes any pairs with their scores and asks that cosines have the order of the scores; pairs of equal score say
nothing.

Singular input. One pair, for either: 0 with zero gradient. All scores equal, for ``cosent``: the same. A batch of one pair repeated,
for ``contrastive``: the log of the number of pairs.

References: Oord, Li, Vinyals 2018, "Representation Learning with Contrastive Predictive Coding", section 2.3, with cosines and with the
negatives of the batch; Su 2022, "CoSENT". Both with scale 20 are defaults of the package `sentence_transformers`, where they are called
MultipleNegativesRankingLoss and CoSENTLoss.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from simplicial_reg.study.tasks import Task

__all__ = ["SIMILARITY_LOSSES", "contrastive", "cosent", "task_loss"]

SCALE = 20.0


def task_loss(task: Task) -> Callable[[Tensor, Tensor], Tensor]:
    """Of a model's outputs and of labels, the mean loss of a batch."""
    if task.kind == "span":
        return _of_spans
    if task.kind == "similarity":
        return SIMILARITY_LOSSES[task.loss]
    return _squared_error if task.is_regression else _cross_entropy


def contrastive(pairs: Tensor, scores: Tensor) -> Tensor:
    """The loss of each first sentence against all second ones.

    Args:
        pairs: unit vectors ``(n, 2, d)``.
        scores: not looked at: all pairs are of sentences that belong together.

    Returns:
        The mean, a scalar.
    """
    cosines = pairs[:, 0] @ pairs[:, 1].mT
    return nn.functional.cross_entropy(SCALE * cosines, torch.arange(len(pairs), device=pairs.device))


def cosent(pairs: Tensor, scores: Tensor) -> Tensor:
    """The loss of cosines whose order is not that of the scores.

    Args:
        pairs: unit vectors ``(n, 2, d)``.
        scores: ``(n,)``, the bigger the more similar.

    Returns:
        A scalar.
    """
    cosines = SCALE * (pairs[:, 0] * pairs[:, 1]).sum(-1)
    exceeds = cosines.unsqueeze(0) - cosines.unsqueeze(1)  # entry (i, j) is cosine j less cosine i
    counted = scores.unsqueeze(1) > scores.unsqueeze(0)
    terms = torch.where(counted, exceeds, -torch.inf).flatten()
    return torch.cat([terms.new_zeros(1), terms]).logsumexp(0)


# Of unit vectors (n, 2, d) and scores (n,).
SIMILARITY_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cosent": cosent, "contrastive": contrastive}


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.float(), labels)


def _squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.mse_loss(logits.squeeze(-1).float(), labels)


def _of_spans(logits: Tensor, labels: Tensor) -> Tensor:
    first, last = logits.float().unbind(-1)
    return (nn.functional.cross_entropy(first, labels[:, 0]) + nn.functional.cross_entropy(last, labels[:, 1])) / 2
