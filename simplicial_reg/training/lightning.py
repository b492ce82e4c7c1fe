"""Regularizers in Lightning: one line in ``training_step``, and a callback for all the rest.

No hook of Lightning may replace the loss, so the line stands where the loss is made:

    class Classifier(RegularizedMixin, LightningModule):
        def training_step(self, batch, batch_idx):
            loss = self.model(**batch).loss
            return self.regularized(loss, mask=batch["attention_mask"])

    Trainer(callbacks=[RegularizationCallback("model", "persistent-entropy")]).fit(Classifier(), loader)

`RegularizationCallback` makes the `Regularization` when the fit begins, when the model is on its device and before it first runs; counts
the steps of the optimizer; logs; puts the state into the checkpoint; and takes its hooks off the model when the fit ends. The
`Regularization` is not a part of the module: its state is the callback's in the checkpoint, so a checkpoint loads without it, and DDP
does not overwrite a memory that is each rank's own.

*Accumulation.* Lightning divides what ``training_step`` returns by ``accumulate_grad_batches``, and so the penalty with the loss: it is
the mean of the penalties of the micro-batches, each of which is a cloud. ``memory`` adds points of earlier ones.

*Precision.* Regularizers are computed in float32 with every setting of the trainer's, and losses are unscaled where they are added.

*Many devices.* With ``strategy="ddp"`` and others that average gradients the points of all ranks form one cloud with the exact gradient
(``gather``), and every rank must call ``regularized`` the same number of times. Only rank 0's state is in a checkpoint: it is that
of all, unless ``gather=False`` and ``memory`` are used together.

*Two packages.* Lightning comes as ``lightning`` and as ``pytorch_lightning``, whose classes are not the same. This module uses
``lightning`` where it is installed, and ``pytorch_lightning`` where it is not; take `Trainer` and `LightningModule` from the same one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError as error:
        raise ImportError(
            'simplicial_reg.training.lightning needs Lightning; pip install "simplicial_reg[lightning]"'
        ) from error

from simplicial_reg.regularizers import Regularizer
from simplicial_reg.training.monitor import Monitor
from simplicial_reg.training.regularization import Regularization
from simplicial_reg.training.weight import Weight

__all__ = ["MonitorCallback", "RegularizationCallback", "RegularizedMixin"]


class RegularizedMixin:
    """Gives a LightningModule the method `regularized`, for its ``training_step``; to be named before LightningModule.

    Example:
        >>> import torch
        >>> from lightning.pytorch import LightningModule
        >>> class Classifier(RegularizedMixin, LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.encoder = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh())
        ...         self.head = torch.nn.Linear(8, 2)
        ...
        ...     def training_step(self, batch, batch_idx):
        ...         loss = torch.nn.functional.cross_entropy(self.head(self.encoder(batch[0])), batch[1])
        ...         return self.regularized(loss)
        >>> Classifier().eval().regularized(torch.tensor(0.5))  # in evaluation mode the loss as it is
        tensor(0.5000)
    """

    training: bool
    regularization: Regularization | None = None
    """What `RegularizationCallback` has put here for the time of a fit."""

    def regularized(
        self,
        loss: Tensor,
        *,
        mask: Tensor | Sequence[Tensor] | None = None,
        labels: Tensor | Sequence[Tensor] | None = None,
    ) -> Tensor:
        """The loss and the weighted regularizers of the hidden states of the latest forward; in evaluation mode the loss as it is.

        Args:
            loss: a scalar, with the graph of that forward, and not divided by the number of micro-batches.
            mask: as for `Regularization`, such as an attention mask.
            labels: as for `Regularization`.

        Returns:
            A scalar, for ``training_step`` to return or for ``manual_backward``.

        Raises:
            RuntimeError: in training mode without a `RegularizationCallback` in the trainer, and whatever `Regularization` raises.
        """
        if self.regularization is None:
            if not self.training:
                return loss
            raise RuntimeError(
                "regularized() needs Trainer(callbacks=[RegularizationCallback(...)]) in training; to train without "
                "a penalty give it weight=0.0"
            )
        self.regularization.train(self.training)
        penalized: Tensor = self.regularization(loss, mask=mask, labels=labels)
        return penalized


class RegularizationCallback(Callback):  # type: ignore[misc]
    """Makes the `Regularization` of a module with `RegularizedMixin`, and looks after it during a fit.

    Logged with every batch are ``regularization/task_loss``, ``regularization/NAME``, the value of each regularizer, and
    ``regularization/NAME_weight``. Steps are counted as ``trainer.global_step`` does: with manual optimization and several optimizers each
    of their steps counts.

    Args:
        model: name of the model whose hidden states are regularized, as in ``module.named_modules()``; the module must call it.
        regularizer: as for `Regularization`.
        weight: as for `Regularization`.
        log: whether to log.
        options: other arguments of `Regularization`: layer, pooling, memory, max_points and so on.

    Raises:
        TypeError: if model is not a str; and, when the fit begins, whatever `Regularization` raises.
        ValueError: when the fit begins, if the module has no part of this name.

    Example:
        >>> callback = RegularizationCallback("encoder", "persistent-entropy", weight=0.1, layer="1", memory=64)
    """

    regularization: Regularization | None
    """That of the current or the last fit."""

    def __init__(
        self,
        model: str,
        regularizer: str | Regularizer | Mapping[str, str | Regularizer] = "persistent-entropy",
        *,
        weight: float | Weight | Mapping[str, float | Weight] | None = None,
        log: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        if not isinstance(model, str):
            raise TypeError(
                f"model must be a str, the name of a part of the LightningModule; got {type(model).__name__}"
            )
        self.model, self.regularizer, self.weight, self.log_values, self.options = (
            model,
            regularizer,
            weight,
            log,
            options,
        )
        self.regularization = None
        self._is_fitting = False
        self._loaded: dict[str, Any] | None = None
        self._counted = 0

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Put the hooks on the model."""
        _check_mixin(pl_module)
        self.regularization = Regularization(
            _part(pl_module, self.model), self.regularizer, weight=self.weight, **self.options
        ).to(pl_module.device)
        self._is_fitting = True
        self._take_loaded()
        # Beside the modules of the LightningModule and not among them.
        object.__setattr__(pl_module, "regularization", self.regularization)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to count where the fit begins or resumes."""
        self._counted = trainer.global_step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the steps of the optimizer, and log."""
        if self.regularization is None:
            return
        if self.log_values and self.regularization.logs:
            values = {f"regularization/{name}": value for name, value in self.regularization.logs.items()}
            pl_module.log_dict(values, on_step=True, on_epoch=False)
        for _ in range(trainer.global_step - self._counted):
            self.regularization.advance()
        self._counted = trainer.global_step

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Take the hooks off the model."""
        self._release(pl_module)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Take the hooks off the model."""
        self._release(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The state of the `Regularization`, for the checkpoint."""
        return {} if self.regularization is None else dict(self.regularization.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The state from a checkpoint, at once or when the fit begins."""
        self._loaded = state_dict
        if self._is_fitting:  # some strategies restore after the fit has begun
            self._take_loaded()

    def _take_loaded(self) -> None:
        if self._loaded is not None and self.regularization is not None:
            self.regularization.load_state_dict(self._loaded)
            self._loaded = None

    def _release(self, pl_module: Any) -> None:
        self._is_fitting = False
        if self.regularization is not None:
            self.regularization.close()
        vars(pl_module).pop("regularization", None)


class MonitorCallback(Callback):  # type: ignore[misc]
    """Measures the geometry of a model after each validation, and draws its course when the fit ends.

    Logged are the measures under ``monitor/NAME``. The history is a part of the checkpoint, so that a resumed fit goes on with it.
    Every rank measures, since a model that is spread over ranks runs on all of them or on none; rank 0 writes.

    Args:
        monitor: what measures; its model is a part of the LightningModule.
        path: where `Monitor.save` writes the measures at the end of the fit; None for nowhere.
        plot: where `Monitor.plot` draws them at the end of the fit; None for nowhere.

    Example:
        A trainer is given the monitor of the model that it trains::

            monitor = Monitor(module.model, held_out_batches)
            Trainer(callbacks=[MonitorCallback(monitor, path="geometry.json", plot="geometry.png")])
    """

    def __init__(self, monitor: Monitor, *, path: str | Path | None = None, plot: str | Path | None = None) -> None:
        super().__init__()
        self.monitor, self.path, self.plot = monitor, path, plot

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure and log."""
        if trainer.sanity_checking:  # before the first step, on few batches, and not logged by Lightning either
            return
        measures = self.monitor.measure(trainer.global_step)
        pl_module.log_dict({f"monitor/{name}": value for name, value in measures.items()}, rank_zero_only=True)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Save and draw."""
        if not trainer.is_global_zero or not self.monitor.history:
            return
        if self.path is not None:
            self.monitor.save(self.path)
        if self.plot is not None:
            self.monitor.plot(self.plot)

    def state_dict(self) -> dict[str, Any]:
        """The history so far, for the checkpoint."""
        return {"history": self.monitor.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The history of the fit that is resumed."""
        self.monitor.history = list(state_dict["history"])


# --- helpers ------------------------------------------------------------------------------------------------------------------


def _check_mixin(module: object) -> None:
    if not isinstance(module, RegularizedMixin):
        raise TypeError(
            f"the LightningModule must be a RegularizedMixin too, class {type(module).__name__}(RegularizedMixin, "
            "LightningModule), and call self.regularized(loss) in training_step"
        )


def _part(module: nn.Module, name: str) -> nn.Module:
    parts: dict[str, nn.Module] = dict(module.named_modules())
    if not name or name not in parts:
        children = [child for child, _ in module.named_children()]
        raise ValueError(f"model must be the name of a part of the LightningModule, such as {children}; got {name!r}")
    return parts[name]
