"""The added line: a model's hidden states, one or more regularizers, and their weights, as one call.

    loss = task_loss + sum over regularizers of weight * regularizer(points)

`Regularization` puts the parts of this package together in the order in which they have to come: `Tap` reads the hidden states of
the forward that made the task loss, `gather_points` joins those of all ranks, `PointMemory` adds those of earlier batches,
`subsample` keeps it affordable, and `BalancedWeight` finds out how much it should count.

Where gradients stop: at points of earlier batches, of other ranks, and at weights.

Bad days. An activation that is not finite, or an engine that runs out of memory, raises an error that says at which step and
in which layer; with ``on_failure="skip"`` the step goes on with the task loss alone, and `skipped` counts. All ranks see the
same points, so they skip together. To see whether points are finite, the host waits for an accelerator once in every step.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from simplicial_reg._checks import check_choice
from simplicial_reg.regularizers import REGULARIZERS, Regularizer
from simplicial_reg.training._cloud import Cloud
from simplicial_reg.training._pooling import Pooling
from simplicial_reg.training.distributed import REDUCTIONS, gather_points
from simplicial_reg.training.memory import PointMemory, subsample
from simplicial_reg.training.tap import Layer, Tap
from simplicial_reg.training.weight import BalancedWeight, Weight, make_weight

__all__ = ["Regularization"]

FAILURES = ("raise", "skip")


class Regularization(nn.Module):
    """Adds weighted regularizers of a model's hidden states to its task loss.

    It is made once, before training; it puts hooks on the model (`close` removes them) and is then called with the task loss of
    every forward. In evaluation mode it returns the task loss as it is. Call `advance` after each step of the optimizer. Its state
    (step, memory, weights, covariances of I-STAR) is in its own `state_dict`: save it beside the model's, to resume exactly.

    Args:
        model: any ``nn.Module``, also wrapped by torch.compile, DistributedDataParallel or PEFT.
        regularizer: a name in ``REGULARIZERS``, a `Regularizer`, or a mapping of names, which you choose, to these.
        weight: a number, a `Weight`, or a mapping with the names of the regularizers; None is ``BalancedWeight()`` for each: its gradient at
            the hidden states has a tenth of the norm of the task loss's.
        layer: which hidden states, as for `Tap`.
        pooling: how a state becomes points, as for `Tap`.
        cloud: what makes one cloud, as for `Tap`.
        include_padding: as for `Tap`.
        forwards: as for `Tap`.
        batch_first: as for `Tap`.
        memory: how many points of earlier batches are added to the cloud (`PointMemory`).
        max_points: the most points of a cloud, drawn anew at each step (`subsample`); None for all.
        seed: of that draw; step and seed together decide it, so a resumed run draws the same.
        gather: whether the points of all ranks of torch.distributed form one cloud.
        reduction: what the training loop does with gradients over ranks: ``"mean"`` (DDP) or ``"sum"``; see `gather_points`.
        on_failure: ``"raise"`` or ``"skip"``, for points that are not finite and an engine that is out of memory.

    Raises:
        TypeError: for arguments of another type.
        ValueError: for an unknown name or choice, and whatever `Tap` raises.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        >>> regularization = Regularization(model, "persistent-entropy", layer="1", weight=0.5)
        >>> task_loss = model(torch.randn(16, 3)).square().mean()
        >>> loss = regularization(task_loss)
        >>> sorted(regularization.logs)
        ['persistent-entropy', 'persistent-entropy_weight', 'task_loss']
        >>> expected = task_loss + 0.5 * regularization.logs["persistent-entropy"]
        >>> bool(torch.isclose(loss, expected))
        True
    """

    logs: dict[str, Tensor]
    """Of the last call: the task loss, each regularizer's value, and its weight; scalars without gradient."""
    points: Cloud | None
    """Of the last call: the cloud the regularizers saw, without gradient."""

    def __init__(
        self,
        model: nn.Module,
        regularizer: str | Regularizer | Mapping[str, str | Regularizer] = "persistent-entropy",
        *,
        weight: float | Weight | Mapping[str, float | Weight] | None = None,
        layer: Layer = "last",
        pooling: Pooling = "mean",
        cloud: str = "layer",
        include_padding: bool = False,
        forwards: int = 1,
        batch_first: bool = True,
        memory: int = 0,
        max_points: int | None = None,
        seed: int = 0,
        gather: bool = True,
        reduction: str = "mean",
        on_failure: str = "raise",
    ) -> None:
        super().__init__()
        check_choice("reduction", reduction, REDUCTIONS)
        check_choice("on_failure", on_failure, FAILURES)
        if gather and cloud == "sentence":
            gather = False  # a sentence is on one rank
        self.regularizers = nn.ModuleDict(_regularizers(regularizer))
        self.weights = nn.ModuleDict(_weights(weight, self.regularizers, synchronized=gather))
        self.memory = PointMemory(memory) if memory else None
        self.max_points, self.seed = max_points, seed
        self.gather, self.reduction, self.on_failure = gather, reduction, on_failure
        self.step, self.skipped = 0, 0
        self.logs, self.points = {}, None
        self._uses_labels = any(loss.per_label for loss in self.regularizers.values())
        # Not a submodule: the model's parameters are not this module's.
        self.tap = Tap(
            model,
            layer=layer,
            pooling=pooling,
            cloud=cloud,
            include_padding=include_padding,
            forwards=forwards,
            batch_first=batch_first,
        ).open()
        self._layer = layer

    def forward(
        self,
        task_loss: Tensor,
        *,
        mask: Tensor | Sequence[Tensor] | None = None,
        labels: Tensor | Sequence[Tensor] | None = None,
        scale: float | Tensor = 1.0,
    ) -> Tensor:
        """The loss to run backwards: ``task_loss`` and the weighted regularizers of the hidden states of the latest forward.

        Args:
            task_loss: a scalar, with the graph of that forward.
            mask: as for `Tap.read`, such as an attention mask.
            labels: as for `Tap.read`; read only by regularizers with ``per_label=True``.
            scale: what ``task_loss`` has been multiplied by already and the penalty should be too, such as one over the number
                of micro-batches.

        Returns:
            A scalar.

        Raises:
            RuntimeError: if the model has not run; and, for ``on_failure="raise"``, for points that are not finite.
            MemoryError: if an engine is out of memory.
        """
        if not self.training:
            self.tap.forget()
            return task_loss
        self.logs = {"task_loss": task_loss.detach() / scale}
        states = self.tap.states()
        cloud = self._cloud(self.tap.read(mask=mask, labels=labels if self._uses_labels else None))
        if not self._is_finite(cloud, states):
            return task_loss
        if self.memory is not None:
            cloud = self.memory(*cloud)
        if self.max_points is not None:
            generator = torch.Generator().manual_seed((self.seed << 32) + self.step)
            cloud = subsample(cloud.points, self.max_points, mask=cloud.mask, labels=cloud.labels, generator=generator)
        self.points = cloud._replace(points=cloud.points.detach())
        loss = task_loss
        for name, regularizer in self.regularizers.items():
            penalty = self._penalty(name, regularizer, cloud)
            if penalty is None:
                return task_loss
            weight = self.weights[name](task_loss / scale, penalty, states)
            self.logs |= {name: penalty.detach(), f"{name}_weight": weight.detach()}
            loss = loss + (weight * scale) * penalty
        return loss

    def advance(self) -> None:
        """Count one step of the optimizer."""
        self.step += 1
        for weight in self.weights.values():
            cast(Weight, weight).advance()

    def close(self) -> None:
        """Take the hooks off the model."""
        self.tap.close()

    def get_extra_state(self) -> dict[str, int]:
        """The counters, for `state_dict`."""
        return {"step": self.step, "skipped": self.skipped}

    def set_extra_state(self, state: Any) -> None:
        """The counters, from `load_state_dict`."""
        self.step, self.skipped = int(state["step"]), int(state["skipped"])

    def _cloud(self, cloud: Cloud) -> Cloud:
        if not self.gather:
            return cloud
        return gather_points(cloud.points, mask=cloud.mask, labels=cloud.labels, reduction=self.reduction)

    def _is_finite(self, cloud: Cloud, states: Sequence[Tensor]) -> bool:
        """Whether the penalty can be computed; if not, raise or count."""
        if bool(cloud.points.isfinite().all()):
            return True
        if self.on_failure == "skip":
            self.skipped += 1
            return False
        counts = [int((~state.isfinite()).sum()) for state in states]
        where = ", ".join(f"{count} of state {at + 1} of {len(counts)}" for at, count in enumerate(counts) if count)
        raise RuntimeError(
            f"step {self.step}: {int((~cloud.points.isfinite()).sum())} of {cloud.points.numel()} values of the points are NaN or "
            f"infinite (layer={self._layer!r}: {where or 'on another rank'}), so there is no barcode; the model has diverged or "
            'overflowed: lower the learning rate, or use on_failure="skip" to go on with the task loss alone'
        )

    def _penalty(self, name: str, regularizer: nn.Module, cloud: Cloud) -> Tensor | None:
        try:
            penalty: Tensor = regularizer(cloud.points, mask=cloud.mask, labels=cloud.labels)
        except MemoryError as error:
            if self.on_failure == "skip":
                self.skipped += 1
                return None
            raise MemoryError(
                f"step {self.step}: {name} ran out of memory on points {tuple(cloud.points.shape)} ({error}); set max_points, or "
                'on_failure="skip" to go on with the task loss alone'
            ) from error
        return penalty


def _regularizers(regularizer: Any) -> dict[str, nn.Module]:
    if isinstance(regularizer, Mapping):
        if not regularizer:
            raise ValueError("regularizer must name at least one; got an empty mapping")
        return {name: _regularizer(one) for name, one in regularizer.items()}
    if isinstance(regularizer, Regularizer):
        names = [name for name, kind in REGULARIZERS.items() if type(regularizer) is kind]
        return {names[0] if names else "regularizer": regularizer}
    return {regularizer: _regularizer(regularizer)}


def _regularizer(regularizer: Any) -> Regularizer:
    if isinstance(regularizer, Regularizer):
        return regularizer
    if not isinstance(regularizer, str):
        raise TypeError(
            f"regularizer must be a name, a Regularizer, or a mapping of names to these; got {type(regularizer).__name__}"
        )
    check_choice("regularizer", regularizer, REGULARIZERS)
    return REGULARIZERS[regularizer]()


def _weights(weight: Any, regularizers: nn.ModuleDict, *, synchronized: bool) -> dict[str, nn.Module]:
    if isinstance(weight, Mapping):
        if weight.keys() != regularizers.keys():
            raise ValueError(f"weight must name the regularizers {sorted(regularizers)}; got {sorted(weight)}")
        return {name: make_weight(one) for name, one in weight.items()}
    if weight is None:
        return {name: BalancedWeight(synchronized=synchronized) for name in regularizers}
    return {name: copy.deepcopy(make_weight(weight)) for name in regularizers}
