"""Weighted regularizers of one cloud: what `Regularization` and the loss for sentence-transformers have in common."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from simplicial_reg._checks import check_choice, check_count
from simplicial_reg.regularizers import REGULARIZERS, Regularizer
from simplicial_reg.training._cloud import Cloud
from simplicial_reg.training.memory import STRATEGIES, PointMemory, subsample
from simplicial_reg.training.weight import BalancedWeight, Weight, make_weight

__all__ = ["Penalties"]

FAILURES = ("raise", "skip")
OUT_OF_MEMORY = (MemoryError, torch.cuda.OutOfMemoryError)  # the second exists without CUDA too


class Penalties(nn.Module):
    """Regularizers and their weights by name, earlier points, the count of steps, and what is done on a bad day."""

    logs: dict[str, Tensor]

    def __init__(
        self,
        regularizer: str | Regularizer | Mapping[str, str | Regularizer],
        weight: float | Weight | Mapping[str, float | Weight] | None,
        *,
        gather: bool,
        memory: int,
        max_points: int | None,
        sampling: str,
        seed: int,
        on_failure: str,
    ) -> None:
        super().__init__()
        check_choice("on_failure", on_failure, FAILURES)
        check_count("memory", memory, 0)
        check_count("max_points", max_points, 1, optional=True)
        check_choice("sampling", sampling, STRATEGIES)
        check_count("seed", seed, 0)
        self.regularizers = nn.ModuleDict(_named_regularizers(regularizer))
        self.weights = nn.ModuleDict(_named_weights(weight, self.regularizers, synchronized=gather))
        self.memory = PointMemory(memory) if memory else None
        self.gather, self.seed, self.on_failure = gather, seed, on_failure
        self.max_points, self.sampling = max_points, sampling
        self.step, self.skipped = 0, 0
        self.logs = {}
        self._uses_labels = any(loss.per_label for loss in self.regularizers.values())

    def advance(self) -> None:
        """Count one step of the optimizer."""
        self.step += 1
        for weight in self.weights.values():
            cast(Weight, weight).advance()

    def _is_finite(self, cloud: Cloud, states: Sequence[Tensor], place: str, part: str) -> bool:
        """Whether the penalty can be computed; if not, raise, saying which states are at fault, or count."""
        if bool(cloud.points.isfinite().all()):
            return True
        if self.on_failure == "skip":
            self.skipped += 1
            return False
        counts = [int((~state.isfinite()).sum()) for state in states]
        where = ", ".join(f"{count} of {part} {at + 1} of {len(counts)}" for at, count in enumerate(counts) if count)
        raise RuntimeError(
            f"step {self.step}: {int((~cloud.points.isfinite()).sum())} of {cloud.points.numel()} values of the points are NaN or "
            f"infinite ({place}: {where or 'on another rank'}), so there is no barcode; the model has diverged or "
            'overflowed: lower the learning rate, or use on_failure="skip" to go on with the task loss alone'
        )

    def _enough(self, cloud: Cloud) -> Cloud:
        """The cloud with points of earlier batches, and of all of them at most ``max_points``, which seed and step decide."""
        if self.memory is not None:
            cloud = self.memory(*cloud)
        if self.max_points is None:
            return cloud
        # Of a seed, torch's generator on the CPU reads the lower 32 bits only, so the two are mixed before.
        mixed = np.random.SeedSequence([self.seed, self.step]).generate_state(1, np.uint32)
        generator = torch.Generator().manual_seed(int(mixed[0]))
        return subsample(
            cloud.points,
            self.max_points,
            mask=cloud.mask,
            labels=cloud.labels,
            strategy=self.sampling,
            generator=generator,
        )

    def _weighted(self, cloud: Cloud, task_loss: Tensor, states: Sequence[Tensor]) -> dict[str, Tensor] | None:
        """Each penalty, multiplied by its weight; None if an engine is out of memory and that is to be skipped."""
        weighted = {}
        for name, regularizer in self.regularizers.items():
            penalty = self._penalty(name, regularizer, cloud)
            if penalty is None:
                return None
            weight = self.weights[name](task_loss, penalty, states)
            self.logs |= {name: penalty.detach(), f"{name}_weight": weight.detach()}
            weighted[name] = weight * penalty
        return weighted

    def _penalty(self, name: str, regularizer: nn.Module, cloud: Cloud) -> Tensor | None:
        try:
            penalty: Tensor = regularizer(cloud.points, mask=cloud.mask, labels=cloud.labels)
        except OUT_OF_MEMORY as error:
            if self.on_failure == "skip":
                self.skipped += 1
                return None
            # Not type(error): NumPy's own MemoryError does not take a message.
            kind = MemoryError if isinstance(error, MemoryError) else torch.cuda.OutOfMemoryError
            raise kind(
                f"step {self.step}: {name} ran out of memory on points {tuple(cloud.points.shape)} ({error}); set max_points, or "
                'on_failure="skip" to go on with the task loss alone'
            ) from error
        return penalty


def _named_regularizers(regularizer: Any) -> dict[str, nn.Module]:
    """Regularizers by name, of whatever a user may give for them."""
    if isinstance(regularizer, Mapping):
        if not regularizer:
            raise ValueError("regularizer must name at least one; got an empty mapping")
        return {_name(name): _regularizer(one) for name, one in regularizer.items()}
    one = _regularizer(regularizer)
    names = [name for name, kind in REGULARIZERS.items() if type(one) is kind]
    return {names[0] if names else "regularizer": one}


def _name(name: Any) -> str:
    """A name that a submodule may have, and that is not a log's already."""
    if not isinstance(name, str):
        raise TypeError(f"the names of a mapping of regularizers must be str; got {type(name).__name__}")
    if not name or "." in name or name == "task_loss" or hasattr(nn.ModuleDict(), name):
        raise ValueError(
            f"a regularizer must have another name than {name!r}: not empty, without a dot, and neither 'task_loss' nor "
            "a name that torch.nn.ModuleDict uses itself"
        )
    return name


def _regularizer(regularizer: Any) -> Regularizer:
    if isinstance(regularizer, str):
        check_choice("regularizer", regularizer, REGULARIZERS)
        regularizer = REGULARIZERS[regularizer]()
    if not isinstance(regularizer, Regularizer):
        got = f"the class {regularizer.__name__}" if isinstance(regularizer, type) else type(regularizer).__name__
        raise TypeError(f"regularizer must be a name, a Regularizer, or a mapping of names to these; got {got}")
    if "other" in inspect.signature(regularizer.forward).parameters:
        raise ValueError(
            f"regularizer must be a loss of one cloud; {type(regularizer).__name__} compares two: read the points with a Tap and "
            "call it with other=..., such as the hidden states of the frozen model"
        )
    return regularizer


def _named_weights(weight: Any, regularizers: nn.ModuleDict, *, synchronized: bool) -> dict[str, nn.Module]:
    """A weight for each regularizer, of whatever a user may give for them."""
    if isinstance(weight, Mapping):
        if weight.keys() != regularizers.keys():
            raise ValueError(
                f"weight must name the regularizers {sorted(regularizers)}; got {sorted(map(str, weight))}"
            )
    else:
        weight = dict.fromkeys(regularizers, BalancedWeight() if weight is None else weight)
    # Copies: a weight that two regularizers shared would average over both and advance twice in every step.
    weights: dict[str, nn.Module] = {name: copy.deepcopy(make_weight(one)) for name, one in weight.items()}
    for one in weights.values():
        # One cloud of all ranks has one weight: each rank's own would make their sum the gradient of nothing.
        if synchronized and isinstance(one, BalancedWeight):
            one.synchronized = True
    return weights
