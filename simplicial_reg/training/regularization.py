"""The added line: a model's hidden states, one or more regularizers, and their weights, as one call.

    loss = task_loss + sum over regularizers of weight * regularizer(points)

`Regularization` puts the parts of this package together in the order in which they have to come: `Tap` reads the hidden states of
the forward that made the task loss, `gather_points` joins those of all ranks, `PointMemory` adds those of earlier batches,
`subsample` keeps it affordable, and `BalancedWeight` finds out how much it should count.

Where gradients stop: at points of earlier batches, of other ranks, and at weights.

Bad days. An activation that is not finite, or an engine that runs out of memory, raises an error that says at which step and
in which layer; with ``on_failure="skip"`` the step goes on with the task loss alone, and `skipped` counts. All ranks see the
same points, so of points that are not finite they skip together; memory may run out on one rank alone, and there it is better
to raise. To see whether points are finite, the host waits for an accelerator once in every step (``max_points``, and ranks that tell
each other how many points they have, wait once more).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from simplicial_reg._checks import check_choice
from simplicial_reg.distributed import REDUCTIONS
from simplicial_reg.regularizers import Regularizer
from simplicial_reg.training._cloud import Cloud, as_cloud
from simplicial_reg.training._penalties import Penalties
from simplicial_reg.training._pooling import Pooling
from simplicial_reg.training.distributed import gather_points
from simplicial_reg.training.tap import Layer, Tap
from simplicial_reg.training.weight import Weight

__all__ = ["Regularization"]


class Regularization(Penalties):
    """Adds weighted regularizers of a model's hidden states to its task loss.

    It is made once, before training; it puts hooks on the model (`close` removes them) and is then called with the task loss of
    every forward. In evaluation mode, and where gradients are off, it returns the task loss as it is. Call `advance` after each
    step of the optimizer. Its state (step, memory, weights, covariances of I-STAR) is in its own `state_dict`: save it beside the
    model's, to resume exactly.

    Args:
        model: any ``nn.Module``, also wrapped by torch.compile, DistributedDataParallel or PEFT.
        regularizer: a name in ``REGULARIZERS``, a `Regularizer`, or a mapping of names, which you choose, to these.
        weight: a number, a `Weight` (of which each gets a copy), or a mapping with the names of the regularizers; None is
            ``BalancedWeight()`` for each: its gradient at the hidden states has a tenth of the norm of the task loss's. Where points are
            gathered, it is synchronized. In a model that
            torch.compile compiles as a whole, the task loss is not computed from the hidden states but beside them, and a
            `BalancedWeight` says so: there, compile block by block, or give a number or a `schedule`.
        layer: which hidden states, as for `Tap`.
        pooling: how a state becomes points, as for `Tap`.
        cloud: what makes one cloud, as for `Tap`.
        include_padding: as for `Tap`.
        forwards: as for `Tap`.
        batch_first: as for `Tap`.
        memory: how many points of earlier batches are added to the cloud (`PointMemory`); not for ``cloud="sentence"``.
        max_points: the most points of a cloud, drawn anew at each step (`subsample`); None for all.
        sampling: how they are chosen: ``"random"``, or ``"farthest"`` to cover the cloud, see `subsample`.
        seed: of that draw, at least 0; step and seed together decide it, so a resumed run draws the same.
        gather: whether the points of all ranks of torch.distributed form one cloud.
        reduction: what the training loop does with gradients over ranks: ``"mean"`` (DDP) or ``"sum"``; see `gather_points`.
        on_failure: ``"raise"`` or ``"skip"``, for points that are not finite and an engine that is out of memory.

    Raises:
        TypeError: for arguments of another type.
        ValueError: for an unknown name or choice, a number out of range, a regularizer that compares two clouds, and whatever `Tap` raises.

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
    """Of the last call: the cloud the regularizers saw, without gradient; None if they saw none."""

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
        sampling: str = "random",
        seed: int = 0,
        gather: bool = True,
        reduction: str = "mean",
        on_failure: str = "raise",
    ) -> None:
        check_choice("reduction", reduction, REDUCTIONS)
        if memory and cloud == "sentence":
            raise ValueError(
                'memory must be 0 for cloud="sentence": earlier sentences are other clouds, not more points of these; '
                f"got {memory}"
            )
        if gather and cloud == "sentence":
            gather = False  # a sentence is on one rank
        super().__init__(
            regularizer,
            weight,
            gather=gather,
            memory=memory,
            max_points=max_points,
            sampling=sampling,
            seed=seed,
            on_failure=on_failure,
        )
        self.reduction = reduction
        self.points = None
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
            TypeError: if ``task_loss`` is not a tensor.
            ValueError: if it is not one number, and whatever `Tap.read` and the regularizers raise.
            RuntimeError: if the model has not run, or ran without gradients; and, for ``on_failure="raise"``, for points that are not
                finite.
            MemoryError: if an engine is out of memory; on an accelerator, torch's own error.
        """
        if not self.training or not torch.is_grad_enabled():
            self.tap.forget()
            return task_loss
        _check_task_loss(task_loss)
        self.logs, self.points = {"task_loss": task_loss.detach() / scale}, None
        states = self.tap.states()
        self._check_gradient()
        cloud = self._cloud(self.tap.read(mask=mask, labels=labels if self._uses_labels else None))
        if not self._is_finite(cloud, states, f"layer={self._layer!r}", "state"):
            return task_loss
        cloud = self._enough(cloud)
        self.points = cloud._replace(points=cloud.points.detach())
        penalties = self._weighted(cloud, task_loss / scale, states)
        if penalties is None:
            return task_loss
        loss = task_loss
        for penalty in penalties.values():
            loss = loss + penalty * scale
        return loss

    def close(self) -> None:
        """Take the hooks off the model."""
        self.tap.close()

    def get_extra_state(self) -> dict[str, int]:
        """The counters, for `state_dict`."""
        return {"step": self.step, "skipped": self.skipped}

    def set_extra_state(self, state: Any) -> None:
        """The counters, from `load_state_dict`."""
        self.step, self.skipped = int(state["step"]), int(state["skipped"])

    def _check_gradient(self) -> None:
        if not self.tap.with_gradient:
            raise RuntimeError(
                "the latest forward of the model ran without gradients, so the penalty would change nothing; call this after the "
                "forward that made task_loss and before any other, such as one under torch.no_grad()"
            )

    def _cloud(self, cloud: Cloud) -> Cloud:
        if not self.gather:
            return as_cloud(*cloud)  # zero where masked out, as the gathered points are
        return gather_points(cloud.points, mask=cloud.mask, labels=cloud.labels, reduction=self.reduction)


def _check_task_loss(task_loss: Any) -> None:
    if not isinstance(task_loss, Tensor):
        raise TypeError(f"task_loss must be a tensor, a scalar with its graph; got {type(task_loss).__name__}")
    if task_loss.numel() != 1:
        raise ValueError(f"task_loss must be one number; got shape {tuple(task_loss.shape)}; use task_loss.mean()")
