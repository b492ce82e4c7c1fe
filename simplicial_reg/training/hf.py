"""The added line in the Trainer of Hugging Face: `RegularizedTrainer`, and a callback that only watches.

    trainer = RegularizedTrainer(
        model=model, args=args, train_dataset=data, regularization={"regularizer": "persistent-entropy", "weight": 0.1}
    )

`RegularizedTrainer` is ``transformers.Trainer`` with one argument more, and `regularized` makes the same of any subclass of it. The
task loss stays exactly as the Trainer computes it, and evaluation is untouched; what is minimised is

    task loss + weight * mean over the micro-batches of a step of the penalty of each,

where under DistributedDataParallel the cloud of a micro-batch is that of all ranks.

Scaling. A step has G micro-batches, and the Trainer makes the loss of each a share of the step in one of two ways:

    counted    the model, or ``compute_loss_func``, divides by the number of items of the whole step; the Trainer takes the loss as it is
    averaged   the loss is the mean of the micro-batch; the Trainer divides it by G

The penalty of a micro-batch must end up divided by G in both. So it is added with the factor 1 / G where losses are counted, and with
1 where they are averaged, since the Trainer's division then reaches it too; which of the two it is, `training_step` decides by a rule
that is repeated in one place here. For ``average_tokens_across_devices`` the Trainer multiplies the task loss by the number of
ranks, before gradients are averaged over them. That happens before the penalty is added, whose gradient is already exact under an
average (`simplicial_reg.training.distributed.gather_points`), so nothing is to be corrected. Loss scaling for float16 comes later and
applies to the sum.

Checkpoints. What `Regularization` remembers (step, memory, weights, covariances) is saved and loaded where the optimizer's state is,
in ``regularization.pt``, so a resumed run continues to the last bit. On ranks with clouds of their own each has a file of its own.

Where it does not work: DataParallel on several devices (an error says so); the reentrant kind of checkpointing with layers inside a
checkpointed block. With ``torch_compile=True`` nothing is to be done: hooks are on the model before it is compiled.

Sources of the rules: ``transformers/trainer.py`` 5.23 (``training_step``, ``compute_loss``).
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simplicial_reg._checks import check_count
from simplicial_reg._files import whole_file
from simplicial_reg.plots import check_matplotlib
from simplicial_reg.training.memory import subsample
from simplicial_reg.training.monitor import DEFAULT_MEASURES, Monitor, check_measures, measure_points
from simplicial_reg.training.regularization import Regularization

try:
    from transformers import Trainer, TrainerCallback
except ImportError as error:
    raise ImportError('simplicial_reg.training.hf needs transformers: pip install "simplicial_reg[hf]"') from error

__all__ = ["MonitorCallback", "RegularizedTrainer", "regularized"]

FILE = "regularization"
MEASURED = 512  # points of the last cloud that are measured for the logs, at most: distances of all pairs are needed


class _Regularized:
    """What is put before a Trainer class; see `RegularizedTrainer`."""

    regularization: Regularization

    def __init__(
        self,
        *args: Any,
        regularization: Mapping[str, Any] | Callable[[nn.Module], Regularization] | Regularization,
        measures: Sequence[str] = DEFAULT_MEASURES,
        **kwargs: Any,
    ) -> None:
        # A Regularization is an nn.Module and so callable, but it belongs to one model.
        if not isinstance(regularization, (Mapping, Regularization)) and not callable(regularization):
            raise TypeError(
                "regularization must be a mapping of Regularization's arguments, a function model -> Regularization, or a "
                f"Regularization; got {type(regularization).__name__}"
            )
        if isinstance(regularization, Regularization) and kwargs.get("model_init") is not None:
            raise TypeError(
                "regularization must be a mapping or a function with model_init, which makes a new model for every training; "
                "got a Regularization, which belongs to one model"
            )
        check_measures(measures)
        self._recipe, self._measures = regularization, tuple(measures)
        self._window = _Window()
        super().__init__(*args, **kwargs)
        if self._trainer.args.n_gpu > 1:
            raise ValueError(
                f"args must use one device for each process; got n_gpu={self._trainer.args.n_gpu}, for which the Trainer uses "
                "DataParallel, whose hidden states cannot be read; start it with torchrun or accelerate launch, or set CUDA_VISIBLE_DEVICES"
            )
        if not hasattr(self, "regularization"):  # model_init has been here already
            self._regularize(self._trainer.model)
        self._trainer.add_callback(_Advance(self))

    @property
    def _trainer(self) -> Any:
        """This object, as the Trainer it also is."""
        return self

    def cloud_mask(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """Which tokens of a batch are real: its ``attention_mask (B, T)``, if it is one of text; override it for other inputs.

        The masks of audio models are as long as the signal, not as the hidden states, and are not used.

        Args:
            inputs: what the model is called with.

        Returns:
            The mask, or None if all are real.
        """
        mask = inputs.get("attention_mask")
        is_of_text = "input_ids" in inputs or "inputs_embeds" in inputs
        return mask if is_of_text and isinstance(mask, Tensor) and mask.ndim == 2 else None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The Trainer's loss, and in training mode the penalty; arguments and result are the Trainer's."""
        mask, labels = self.cloud_mask(inputs), inputs.get("labels")  # the Trainer may take labels out of inputs
        parent: Any = super()
        loss, outputs = parent.compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        self.regularization.train(model.training)
        loss = self.regularization(loss, mask=mask, labels=labels, scale=self._share(num_items_in_batch))
        if model.training:
            self._window.add(self.regularization.logs)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the Trainer's; logs of training (not of evaluation) also get what the penalty was since the last ones."""
        if "loss" in logs and "learning_rate" in logs:  # the Trainer's own, and made on every rank
            names = [key for name in self.regularization.regularizers for key in (name, f"{name}_weight")]
            means = self._window.drain(["task_loss", *names], self._trainer.accelerator)
            logs |= {f"regularization/{name}": value for name, value in means.items()}
            logs |= {f"isotropy/{name}": value for name, value in self._isotropy().items()}
        parent: Any = super()
        parent.log(logs, *args, **kwargs)

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """As the Trainer's; the new model gets a regularization of its own, and the one before is closed."""
        parent: Any = super()
        model: nn.Module = parent.call_model_init(trial)
        self._regularize(model)
        return model

    def _share(self, num_items_in_batch: Tensor | int | None) -> float:
        """What a micro-batch's penalty is still to be multiplied by to be its share of the step; see the module's docstring."""
        trainer = self._trainer
        counted = getattr(trainer, "loss_is_scaled_for_ga", None)  # older versions have no such switch
        if counted is None:
            by_model = trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
            counted = by_model or trainer.compute_loss_func is not None
        # The last step of an epoch may have fewer micro-batches than the arguments say.
        return 1.0 / getattr(trainer, "current_gradient_accumulation_steps", 1) if counted else 1.0

    def _regularize(self, model: nn.Module) -> None:
        if hasattr(self, "regularization"):
            self.regularization.close()
        recipe = self._recipe
        if isinstance(recipe, Mapping):
            # Copied, so that a regularizer or weight with a state starts anew with every model.
            self.regularization = Regularization(model, **copy.deepcopy(dict(recipe)))
        elif isinstance(recipe, Regularization):
            self.regularization = recipe
        else:
            self.regularization = recipe(model)
            if not isinstance(self.regularization, Regularization):
                raise TypeError(
                    f"regularization must return a Regularization; got {type(self.regularization).__name__}"
                )

    def _isotropy(self) -> dict[str, float]:
        """Measures of the last cloud."""
        cloud = self.regularization.points
        if cloud is None or not self._measures:
            return {}
        generator = torch.Generator().manual_seed(self.regularization.step)
        points, mask, _ = subsample(cloud.points, MEASURED, mask=cloud.mask, generator=generator)
        return measure_points(points, self._measures, mask=mask)

    # The regularization's state goes where the optimizer's does: into every checkpoint from which a run can be resumed.

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        parent: Any = super()
        parent._save_optimizer_and_scheduler(output_dir)
        if self._is_of_rank or self._trainer.args.should_save:
            os.makedirs(output_dir, exist_ok=True)  # on another machine than the main process there may be none
            with whole_file(self._file(output_dir)) as draft:
                torch.save(self.regularization.state_dict(), draft)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        parent: Any = super()
        parent._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        file = self._file(checkpoint)
        if not file.is_file():
            warnings.warn(
                f"{file} is missing: the checkpoint was made without a regularization, or by another number of processes; its step, "
                "memory and weights start anew",
                stacklevel=2,
            )
            return
        state = torch.load(file, map_location="cpu", weights_only=True)
        try:
            self.regularization.load_state_dict(state)
        except RuntimeError as error:
            raise other_arguments(file, error) from error

    @property
    def _is_of_rank(self) -> bool:
        """Whether ranks see different clouds, and so remember different things."""
        return bool(self._trainer.args.world_size > 1 and not self.regularization.gather)

    def _file(self, folder: str) -> Path:
        rank = f"_{self._trainer.args.process_index}" if self._is_of_rank else ""
        return Path(folder) / f"{FILE}{rank}.pt"


class RegularizedTrainer(_Regularized, Trainer):  # type: ignore[misc]  # an extra, whose types are not looked into
    """``transformers.Trainer`` with regularizers of the model's hidden states added to the loss.

    Everything else is as it was: arguments, callbacks, evaluation, checkpoints, gradient accumulation, mixed precision, distributed
    training. How the penalty is scaled is derived in the module's docstring.

    *Accumulation.* The penalty is the mean over micro-batches. The task loss is what the Trainer makes it: of a model whose forward takes
    any keyword but whose loss does not count items (``BertForSequenceClassification`` in transformers 5.23), that is the *sum* of the
    means of the G micro-batches, and weighs G times as much. ``model.accepts_loss_kwargs = False``, set before the Trainer is made, gives
    their mean.

    *Masks and labels.* Of texts, ``attention_mask`` says which tokens are real (`cloud_mask`). ``labels`` are used by regularizers with
    ``per_label=True`` only, and must be integers ``(B,)`` then.

    *Logs.* With every training log come, also in ``state.log_history``: ``regularization/task_loss``, ``regularization/NAME`` and
    ``regularization/NAME_weight``, means since the last log; and ``isotropy/MEASURE`` of the last cloud (of at most 512 points of it). The
    Trainer's ``loss`` is that of both together. They are computed when logged; between logs no host waits for an accelerator because
    of them.

    *Afterwards.* ``trainer.regularization`` is the `Regularization`; ``trainer.regularization.close()`` takes the hooks off the model. A
    saved model has none. A second ``train()`` goes on with its step, memory and weights, unless there is a ``model_init``.

    Args:
        args: the Trainer's positional arguments.
        regularization: arguments of `simplicial_reg.training.regularization.Regularization` by name, which are copied, or a function
            ``model -> Regularization``, or a `Regularization` of the model. With ``model_init`` (and in a hyperparameter search) every
            model gets its own, so it must be one of the first two.
        measures: names in ``simplicial_reg.isotropy.MEASURES`` to be logged; may be empty.
        kwargs: the Trainer's keyword arguments.

    Raises:
        TypeError: for a regularization of another type.
        ValueError: if the Trainer would use DataParallel, for unknown measures, and whatever `Regularization` raises.

    Example:
        >>> import tempfile, torch
        >>> from transformers import BertConfig, BertForSequenceClassification, PrinterCallback, TrainingArguments
        >>> config = BertConfig(
        ...     vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
        ... )
        >>> tokens = torch.randint(50, (32, 6), generator=torch.Generator().manual_seed(0))
        >>> data = [{"input_ids": row, "labels": int(row[0] > 25)} for row in tokens]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     trainer = RegularizedTrainer(
        ...         model=BertForSequenceClassification(config),
        ...         args=TrainingArguments(
        ...             folder,
        ...             max_steps=1,
        ...             logging_steps=1,
        ...             disable_tqdm=True,
        ...             report_to="none",
        ...             use_cpu=True,
        ...             save_strategy="no",
        ...         ),
        ...         train_dataset=data,
        ...         regularization={
        ...             "regularizer": "persistent-entropy",
        ...             "layer": "last",
        ...             "pooling": "mean",
        ...             "weight": 0.1,
        ...         },
        ...     )
        ...     trainer.remove_callback(PrinterCallback)  # only to keep this example quiet
        ...     _ = trainer.train()
        >>> [key for key in trainer.state.log_history[0] if key.startswith("regularization/")]
        ['regularization/task_loss', 'regularization/persistent-entropy', 'regularization/persistent-entropy_weight']
    """


def regularized(trainer: type[Any]) -> type[Any]:
    """A Trainer class with the arguments and the loss of `RegularizedTrainer`.

    Not for the trainers of sentence-transformers, whose batches have several columns with a mask each: see
    `simplicial_reg.training.sentence_transformers.RegularizedLoss`.

    Args:
        trainer: ``transformers.Trainer`` or a subclass of it.

    Returns:
        A subclass.

    Raises:
        TypeError: for anything else.

    Example:
        >>> from transformers import Seq2SeqTrainer
        >>> regularized(Seq2SeqTrainer)
        <class 'simplicial_reg.training.hf.RegularizedSeq2SeqTrainer'>
    """
    if not isinstance(trainer, type) or not issubclass(trainer, Trainer):
        raise TypeError(f"trainer must be transformers.Trainer or a subclass of it; got {trainer!r}")
    if any(base.__module__.startswith("sentence_transformers.") for base in trainer.__mro__):
        raise TypeError(
            f"trainer must be one whose batches have one mask; those of {trainer.__name__} have one for each column; use "
            "simplicial_reg.training.sentence_transformers.RegularizedLoss"
        )
    if issubclass(trainer, _Regularized):
        return trainer
    return type(f"Regularized{trainer.__name__}", (_Regularized, trainer), {"__doc__": RegularizedTrainer.__doc__})


class _Advance(TrainerCallback):  # type: ignore[misc]
    """Tells the regularization that a step of the optimizer is done."""

    def __init__(self, trainer: _Regularized) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.regularization.advance()


class _Window:
    """Means of what was logged since they were last asked for."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, logs: Mapping[str, Tensor]) -> None:
        for name, value in logs.items():
            value = value.to(torch.float32)
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def drain(self, names: Sequence[str], accelerator: Any) -> dict[str, float]:
        """The means, over ranks too; all ranks must ask for the same names. A name that was never logged is left out."""
        zero = torch.zeros((), device=accelerator.device)
        sums = torch.stack([self.sums.get(name, zero) for name in names])
        counts = torch.tensor([float(self.counts.get(name, 0)) for name in names], device=sums.device)
        self.sums, self.counts = {}, {}
        both = torch.stack([sums, counts])
        if accelerator.num_processes > 1:
            both = accelerator.reduce(both, reduction="sum")
        return {name: total / count for name, total, count in zip(names, *both.tolist(), strict=True) if count}


class MonitorCallback(TrainerCallback):  # type: ignore[misc]
    """Watches a model's space while it trains, and changes nothing: a `Monitor` in any Trainer.

    It measures when training begins and then at every evaluation, or every so many steps. The measures are logged as ``monitor/MEASURE``;
    history and picture are written to ``monitor.json`` and ``monitor.png`` in the output folder when training ends. A resumed run goes
    on with the history that lies there. Of several processes each looks at its own part of the data; what is written is what the
    main process saw.

    Args:
        trainer: the Trainer that this is added to; needed for its log and its evaluation data.
        batches: what is measured, as for `Monitor`; None for the Trainer's evaluation data.
        every: how many steps from one measurement to the next; None for every evaluation.
        plot: whether to draw the picture.
        options: of `Monitor`: layer, pooling, measures, max_points, seed, forward, metric.

    Raises:
        ImportError: if Matplotlib is missing (extra "plots") and plot is True.
        TypeError: for an option that is not there, and ``every`` of another type.
        ValueError: for ``every`` below 1, and whatever `Monitor` raises when training begins.

    Example:
        ``trainer.add_callback(MonitorCallback(trainer, every=100))``. For the trainer of sentence-transformers there is
        `simplicial_reg.training.sentence_transformers.MonitorCallback`.
    """

    monitor: Monitor | None
    """Made when training begins."""

    def __init__(
        self, trainer: Any, batches: Any = None, *, every: int | None = None, plot: bool = True, **options: Any
    ) -> None:
        check_count("every", every, 1, optional=True)
        if plot:
            check_matplotlib()  # now, and not at the end of a long training
        self.trainer, self.batches, self.every, self.plot, self.options = trainer, batches, every, plot, options
        self.monitor = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure before the first step."""
        batches = _plainly(self.trainer.get_eval_dataloader()) if self.batches is None else self.batches
        self.monitor = Monitor(kwargs["model"], batches, **self.options)
        file = Path(args.output_dir) / "monitor.json"
        if state.global_step > 0 and file.is_file():
            self.monitor.load(file)
            self.monitor.history = [entry for entry in self.monitor.history if entry["step"] < state.global_step]
        self._measure(state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure every so many steps."""
        if self.every is not None and state.global_step % self.every == 0:
            self._measure(state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure at every evaluation within a training."""
        if self.every is None and self.trainer.is_in_train:
            self._measure(state, control)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the history, so that a resumed run finds it."""
        self._write(args, state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the history and the picture."""
        self._write(args, state)
        if self.monitor is not None and self.plot and state.is_world_process_zero:
            self.monitor.plot(Path(args.output_dir) / "monitor.png")

    def _measure(self, state: Any, control: Any) -> None:
        if self.monitor is None or any(entry["step"] == state.global_step for entry in self.monitor.history[-1:]):
            return
        values = self.monitor.measure(state.global_step)
        should_log = control.should_log  # which logging resets: the Trainer's own log of this step would be lost
        self.trainer.log({f"monitor/{name}": value for name, value in values.items()})
        control.should_log = should_log

    def _write(self, args: Any, state: Any) -> None:
        if self.monitor is not None and state.is_world_process_zero:
            os.makedirs(args.output_dir, exist_ok=True)
            self.monitor.save(Path(args.output_dir) / "monitor.json")


def other_arguments(file: Path, error: Exception) -> RuntimeError:
    """What is said of a state that does not fit."""
    return RuntimeError(
        f"{file} was saved by a regularization with other arguments than this one; give the same to resume, or delete the "
        f"file to start the regularization anew ({error})"
    )


def _plainly(loader: Any) -> Any:
    """The loader within one of accelerate's, which would count as the active one until it has been gone through."""
    return getattr(loader, "base_dataloader", loader)
