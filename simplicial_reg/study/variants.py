"""What is compared: each variant is a regularizer with its options, the cloud it sees, and the space its strength is searched in.

Every variant but I-STAR sees the same cloud, so that variants differ in the regularizer and in nothing else: of the last hidden
state the token that the head reads (the first of an encoder, the last of a decoder; for embeddings all tokens, pooled), of the
current batch. I-STAR sees what it was
published with, all tokens of all layers but the embeddings', less padding. The 64 points of Kudriashov et al. are batches of
8 in 8 micro-batches, ``accumulation``, through all of which gradients flow.

Earlier batches are not remembered (``memory``), because remembered points are constants: a loss of angles to them falls as well if
the model turns the whole cloud away from where it was, without spreading it, and in training from scratch it does.

How strong a regularizer is, is searched in one of two ways, ``SCALES``:

- ``fraction``: the norm of its gradient over the task's at the hidden states (`simplicial_reg.training.weight.BalancedWeight`).
  It means the same for every regularizer, whatever unit its loss is in, so all are given the same range.
- ``weight``: a constant factor, where a publication says which. A fraction would also cost I-STAR a second backward pass through
  the model.

Sources: Kudriashov, Karpik, Klyshinsky 2025, arXiv 2501.05502; Rudman, Eickhoff 2024, "Stable Anisotropic Regularization"; those of
the others are with the classes in ``REGULARIZERS``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["SCALES", "VARIANTS", "Range", "Variant", "nearest"]

SCALES = ("weight", "fraction")


# A range as in `simplicial_reg.study.protocol`: a list of choices, or the ends of an interval in which the logarithm is uniform.
Range = Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True)
class Variant:
    """A regularizer as it is compared.

    Attributes:
        regularizer: a name in ``REGULARIZERS``, or None for the task loss alone.
        options: what the regularizer is made with. I-STAR may also have ``refresh="epoch"``: its shrinkage covariance is then
            computed anew before each epoch, from ``refresh_points`` points of train.
        tap: what `simplicial_reg.training.Regularization` is made with: ``layer``, ``pooling``, ``cloud``, ``memory``, ... The pooling
            ``"head"`` is the token that the model's head reads.
        space: what is searched besides the learning rate, by name.
        defaults: its values where nothing is searched.
        description: one line.
    """

    regularizer: str | None
    options: dict[str, Any] = field(default_factory=dict)
    tap: dict[str, Any] = field(default_factory=dict)
    space: dict[str, Range] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    description: str = ""

    @property
    def needs_classes(self) -> bool:
        """Whether it makes a cloud of each class, so that there is none of it on a task without classes."""
        return bool(self.options.get("per_label", False))


LAST = {"layer": "last", "pooling": "head"}
ALL_TOKENS = {"layer": "all", "pooling": "tokens", "cloud": "union"}
FRACTION: dict[str, Range] = {"fraction": {"low": 0.01, "high": 1.0}}
AS_PUBLISHED = {"per_label": True, "prominent": "shrink-the-longest"}


def _balanced(regularizer: str, description: str, **options: Any) -> Variant:
    return Variant(regularizer, options, LAST, FRACTION, {"fraction": 0.1}, description)


def _istar(direction: str, description: str) -> Variant:
    # Their shrinkage is 0.2. A covariance that is refreshed at every step forgets half of itself in 14 steps.
    options = {"direction": direction, "shrinkage": 0.2, "decay": 0.95}
    return Variant("istar", options, ALL_TOKENS, {"weight": {"low": 0.05, "high": 5.0}}, {"weight": 1.0}, description)


def _shrink_the_longest(sign: float, description: str) -> Variant:
    # Their weight is 1 for the sum over classes; the mean over two classes makes that 2.
    options = {**AS_PUBLISHED, "within": 0.05 * sign}
    return Variant(
        "persistent-entropy", options, LAST, {"weight": {"low": 0.1, "high": 10.0}}, {"weight": 2.0}, description
    )


VARIANTS: dict[str, Variant] = {
    "none": Variant(None, description="the task loss alone: the baseline"),
    "persistent-entropy": _balanced("persistent-entropy", "maximises the persistent entropy of H0, all bars"),
    "persistent-entropy-log": _balanced(
        "persistent-entropy", "the same, the logarithm of the deficit", form="log-deficit"
    ),
    "persistent-entropy-label": _balanced(
        "persistent-entropy", "the same for each class, prominent bars only", per_label=True, prominent="agr2016"
    ),
    "shrink-the-longest": _shrink_the_longest(-1.0, "Kudriashov et al. 2025 as their code computes it"),
    "shrink-the-longest-corrected": _shrink_the_longest(1.0, "the same with the sign of the description"),
    "istar": _istar("increase", "I-STAR, more isotropic"),
    "istar-decrease": _istar("decrease", "I-STAR, less isotropic"),
    "cosreg": _balanced("cosreg", "minimises the mean cosine"),
    "uniformity": _balanced("uniformity", "spreads directions over the sphere"),
    "koleo": _balanced("koleo", "pushes nearest neighbours apart"),
    "sigreg": _balanced("sigreg", "makes projections standard normal", slices=256),
    "vicreg": _balanced("vicreg", "variance and covariance terms of VICReg"),
    "spectrum": _balanced("spectrum", "makes singular values equal"),
}


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """At most three names that look like this one, the nearest first.

    Example:
        >>> nearest("istr", VARIANTS)[0]
        'istar'
    """
    return difflib.get_close_matches(name, list(names), n=3, cutoff=0.4)
