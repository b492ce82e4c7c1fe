"""Regularizers of sentence embeddings, in the trainer of sentence-transformers.

    loss = base loss + weight * mean over columns of regularizer(embeddings of the column)

`RegularizedLoss` goes around a loss of sentence-transformers and is given to its trainer in that one's place; `RegularizedLossCallback`
moves scheduled weights on, logs values and weights, and keeps their state in checkpoints; `MonitorCallback` only watches. The model runs
as often as it would without the regularizer. How the embeddings are found depends on the base loss:

    most losses                  what the model returns while the base loss runs
    MatryoshkaLoss               the same: the embedding at full width, before it is cut and normalized
    AdaptiveLayerLoss            the embedding of the last layer
    Cached... losses (GradCache) the embeddings of the whole batch, which the base loss has computed without graph; the gradient of
                                 the penalty is added to the gradients that it keeps for its second pass, and is so exact

Where it cannot be known which embeddings belong to which column, or where they have no graph, there is an error.

Columns. A data set of pairs has an anchor and a positive in each row. In one cloud they are neighbours, and a regularizer that spreads
points would part what the base loss joins; so each column is a cloud of its own (Zhang, Yu, Kumar, Chang 2017, regularize pairs that
do not belong together only). ``columns="joined"`` makes one cloud of all columns.

What the trainer does with it. It sums the losses of the result and logs each. With gradient accumulation it divides the sum by the number
of micro-batches, so the penalty is the mean of the micro-batches' penalties, as the base loss is; for the penalty of one large batch
take a Cached... loss. In evaluation there is no penalty: the loss is the base loss.

Where gradients stop: at embeddings of other ranks, of earlier batches, and at weights. Singular input is what the regularizer makes of it.

Bad days. An embedding that is not finite, or an engine that runs out of memory, raises an error that says at which step and in which
column; with ``on_failure="skip"`` the step goes on with the base loss alone, and `skipped` counts. To see whether embeddings are finite,
the host waits for an accelerator once in every step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

try:
    from sentence_transformers.base.losses.merged_forward import column_merging_disabled
    from sentence_transformers.sentence_transformer.losses import AdaptiveLayerLoss
    from sentence_transformers.util import batch_to_device
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError(
        "simplicial_reg.training.sentence_transformers needs sentence-transformers 6.2 or later; "
        'pip install "simplicial_reg[hf]"'
    ) from error

from simplicial_reg._checks import check_choice
from simplicial_reg._files import whole_file
from simplicial_reg.regularizers import REGULARIZERS, Regularizer
from simplicial_reg.training import hf
from simplicial_reg.training._blocks import unwrapped
from simplicial_reg.training._cloud import Cloud
from simplicial_reg.training._penalties import Penalties
from simplicial_reg.training.distributed import gather_points
from simplicial_reg.training.weight import Weight

__all__ = ["MonitorCallback", "RegularizedLoss", "RegularizedLossCallback"]

COLUMNS = ("mean", "joined")
EMBEDDED = 32  # sentences that `MonitorCallback` embeds at once
# What the losses of sentence-transformers call the model that is trained.
MODEL_NAMES = ("model", "sentence_embedder", "encoder")
STATE_FILE = f"{hf.FILE}.pt"
# Author, title as printed, year and arXiv number of the paper that a regularizer comes from.
PAPERS = {
    "persistent-entropy": (
        "Sergei Kudriashov and Olesya Karpik and Eduard Klyshinsky",
        "Shrink the longest: improving latent space isotropy with symplicial geometry",
        "2025",
        "2501.05502",
    ),
    "istar": ("Rudman and Eickhoff", "Stable Anisotropic Regularization", "2024", "2305.19358"),
    "vicreg": (
        "Bardes and Ponce and LeCun",
        "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning",
        "2022",
        None,
    ),
    "decorrelation": (
        "Zbontar and Jing and Misra and LeCun and Deny",
        "Barlow Twins: Self-Supervised Learning via Redundancy Reduction",
        "2021",
        None,
    ),
    "spectrum": ("Roy and Vetterli", "The effective rank: A measure of effective dimensionality", "2007", None),
    "cosreg": (
        "Gao and He and Tan and Qin and Wang and Liu",
        "Representation degeneration problem in training natural language generation models",
        "2019",
        None,
    ),
    "uniformity": (
        "Wang and Isola",
        "Understanding contrastive representation learning through alignment and uniformity on the hypersphere",
        "2020",
        None,
    ),
    "koleo": (
        "Sablayrolles and Douze and Schmid and J{\\'e}gou",
        "Spreading vectors for similarity search",
        "2019",
        None,
    ),
    "simctg": (
        "Su and Lan and Wang and Yogatama and Kong and Collier",
        "A contrastive framework for neural text generation",
        "2022",
        None,
    ),
    "orthogonality": (
        "Zhang and Yu and Kumar and Chang",
        "Learning Spread-out Local Feature Descriptors",
        "2017",
        "1708.06320",
    ),
    "sigreg": (
        "Balestriero and LeCun",
        "LeJEPA: Provable and scalable self-supervised learning without the heuristics",
        "2025",
        None,
    ),
}


class RegularizedLoss(Penalties):
    """A loss of sentence-transformers and the weighted regularizers of its sentence embeddings.

    It must be the outermost: ``RegularizedLoss(MatryoshkaLoss(model, loss, dims))``. Inside a `MatryoshkaLoss` it would regularize
    the embeddings of each width, and inside one it cannot hold a Cached... loss. On several devices every rank must take its
    batch from the same data set at the same time, or set ``gather=False``.

    Args:
        base_loss: a loss of `sentence_transformers.losses`, or a module like it: called with the features of the columns and the labels, it
            returns a scalar or a mapping of scalars, and its model is its attribute ``model``.
        regularizer: a name in ``REGULARIZERS``, a `Regularizer`, or a mapping of names, which you choose, to these.
        weight: a number, a `Weight`, or a mapping with the names of the regularizers; None is ``BalancedWeight()`` for each: its
            gradient at the sentence embeddings has a tenth of the norm of the base loss's.
        columns: ``"mean"``, each column is a cloud and the penalty is the mean over columns; ``"joined"``, all are one cloud.
        gather: whether the embeddings of all ranks of torch.distributed form one cloud, with the gradient for a trainer that averages
            gradients, as that of sentence-transformers does (`gather_points`).
        memory: how many embeddings of earlier batches are added to each cloud (`PointMemory`); then every batch must have as many columns.
        max_points: the most points of a cloud, drawn anew at each step (`subsample`); None for all.
        sampling: how they are chosen: ``"random"``, or ``"farthest"`` to cover the cloud, see `subsample`.
        seed: of that draw, at least 0; step and seed together decide it.
        on_failure: ``"raise"`` or ``"skip"``, for embeddings that are not finite and an engine that is out of memory.

    Raises:
        TypeError: for arguments of another type.
        ValueError: for an unknown name or choice, a number out of range, and a regularizer that compares two clouds.

    Source:
        The shape is that of ``GlobalOrthogonalRegularizationLoss`` in sentence-transformers, whose columns are apart by default too.

    Example:
        >>> import torch
        >>> from sentence_transformers import SentenceTransformer
        >>> from sentence_transformers.sentence_transformer.losses import CoSENTLoss
        >>> from sentence_transformers.sentence_transformer.modules import StaticEmbedding
        >>> from tokenizers import Tokenizer
        >>> from tokenizers.models import WordLevel
        >>> words = Tokenizer(WordLevel({"?": 0, "one": 1, "two": 2, "ten": 3}, unk_token="?"))
        >>> model = SentenceTransformer(modules=[StaticEmbedding(words, embedding_dim=4)], device="cpu").train()
        >>> loss = RegularizedLoss(CoSENTLoss(model), "persistent-entropy", weight=0.5)
        >>> columns = [model.preprocess(column) for column in (["one", "two", "ten"], ["two", "ten", "?"])]
        >>> losses = loss(columns, torch.tensor([0.1, 0.5, 0.9]))
        >>> sorted(losses)
        ['CoSENTLoss', 'persistent-entropy']
        >>> bool(losses["persistent-entropy"] == 0.5 * loss.logs["persistent-entropy"])
        True
    """

    logs: dict[str, Tensor]
    """Of the last call with a penalty: each regularizer's value and its weight; scalars without gradient."""

    def __init__(
        self,
        base_loss: nn.Module,
        regularizer: str | Regularizer | Mapping[str, str | Regularizer] = "persistent-entropy",
        *,
        weight: float | Weight | Mapping[str, float | Weight] | None = None,
        columns: str = "mean",
        gather: bool = True,
        memory: int = 0,
        max_points: int | None = None,
        sampling: str = "random",
        seed: int = 0,
        on_failure: str = "raise",
    ) -> None:
        check_choice("columns", columns, COLUMNS)
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
        # Under this name the trainer finds it, here and in the base loss, and puts a wrapped or new model in its place.
        self.model = _model_of(base_loss)
        self.base_loss = base_loss
        self.columns = columns

    @property
    def uses_gradient_cache(self) -> bool:
        """Whether the base loss runs its model again while it goes backwards, as sentence-transformers asks of its losses."""
        return bool(getattr(self.base_loss, "uses_gradient_cache", False))

    def forward(
        self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The base loss and the weighted penalties, by name; the loss to run backwards is their sum.

        Args:
            sentence_features: the features of each column.
            labels: what the base loss takes; for regularizers with ``per_label=True`` integers ``(n,)``, one for each row.

        Returns:
            Scalars: the base loss under the name of its class, or under its own names if it returns several, and each penalty,
            multiplied by its weight, under the name of its regularizer. In evaluation mode, without gradients, and where a step is
            skipped, the base loss alone.

        Raises:
            RuntimeError: if the base loss does not run the model once for each column, or runs it without graph; and, for
                ``on_failure="raise"``, for embeddings that are not finite.
            MemoryError: if an engine is out of memory; on an accelerator, torch's own error.
            ValueError: for a regularizer that has the name of a base loss; and whatever the regularizer raises.
        """
        features = list(sentence_features)
        if not self._is_active():
            return self._named(self.base_loss(features, labels))
        if self.uses_gradient_cache:
            return self._with_cache(features, labels)
        # One forward for each column, so that it is known what is whose.
        with _recorded(self.model) as embeddings, column_merging_disabled():
            losses = self._named(self.base_loss(features, labels))
        columns = self._columns(embeddings, len(features))
        return losses | self._penalties(_total(losses), columns, labels)

    def compute_loss_from_embeddings(
        self, embeddings: Sequence[Tensor], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """What `forward` returns, for embeddings that are there already.

        Args:
            embeddings: ``(n, d)`` for each column.
            labels: as for `forward`.

        Returns:
            As `forward`.

        Raises:
            TypeError: if the base loss has no method of this name.
        """
        compute = getattr(self.base_loss, "compute_loss_from_embeddings", None)
        if compute is None:
            raise TypeError(
                f"base_loss must have a method compute_loss_from_embeddings; {type(self.base_loss).__name__} has none; "
                "call the loss with the features"
            )
        losses = self._named(compute(list(embeddings), labels))
        return losses | self._penalties(_total(losses), list(embeddings), labels) if self._is_active() else losses

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card prints."""
        return {
            "base_loss": self.base_loss,
            "regularizer": {name: repr(one) for name, one in self.regularizers.items()},
            "weight": {name: repr(one) for name, one in self.weights.items()},
            "columns": self.columns,
            "gather": self.gather,
            "memory": 0 if self.memory is None else self.memory.size,
            "max_points": self.max_points,
            "sampling": self.sampling,
            "seed": self.seed,
            "on_failure": self.on_failure,
        }

    @property
    def citation(self) -> str:
        """BibTeX of the base loss's paper and the regularizers', where there is one."""
        names = [name for one in self.regularizers.values() for name, kind in REGULARIZERS.items() if type(one) is kind]
        base = getattr(self.base_loss, "citation", "").strip()
        return "\n" + "\n".join(filter(None, [base, *(_bibtex(name) for name in dict.fromkeys(names))])) + "\n"

    def _is_active(self) -> bool:
        # The trainer sets the mode of the model only.
        return self.training and self.model.training and torch.is_grad_enabled()

    def _named(self, loss: Any) -> dict[str, Tensor]:
        losses = dict(loss) if isinstance(loss, Mapping) else {type(self.base_loss).__name__: loss}
        if both := losses.keys() & self.regularizers.keys():
            raise ValueError(
                f"regularizer must have another name than the losses of base_loss; both have {sorted(both)}"
            )
        return losses

    def _columns(self, embeddings: list[Tensor], count: int) -> list[Tensor]:
        """The embeddings of each column, out of all the model returned while the base loss ran."""
        repeats = any(isinstance(module, AdaptiveLayerLoss) for module in self.base_loss.modules())
        if len(embeddings) < count or (len(embeddings) > count and not repeats):
            raise RuntimeError(
                f"base_loss must run its model once for each of the {count} columns; {type(self.base_loss).__name__} ran it "
                f"{len(embeddings)} times, so it is not known which embeddings are those of a column"
            )
        columns = embeddings[:count]  # AdaptiveLayerLoss begins with the last layer
        trained = any(parameter.requires_grad for parameter in self.model.parameters())
        if trained and not all(column.requires_grad for column in columns):
            raise RuntimeError(
                f"base_loss must run its model with gradients; {type(self.base_loss).__name__} ran it without, so that the penalty "
                "would change nothing; a Cached... loss cannot be inside an AdaptiveLayerLoss"
            )
        return columns

    def _penalties(self, task_loss: Tensor, columns: list[Tensor], labels: Tensor | None) -> dict[str, Tensor]:
        """Each regularizer's weighted value; the weights compare both losses at the columns. Nothing where the step is skipped."""
        points = _cloud(columns, self.columns)
        cloud = Cloud(points, None, _labels(labels, points) if self._uses_labels else None)
        if self.gather:
            cloud = gather_points(points, labels=cloud.labels)
        self.logs = {}
        if not self._is_finite(cloud, columns, "sentence embeddings", "column"):
            return {}
        return self._weighted(self._enough(cloud), task_loss, columns) or {}

    def _with_cache(self, features: list[dict[str, Tensor]], labels: Tensor | None) -> dict[str, Tensor]:
        """As `forward`, for a base loss that keeps the gradients at the embeddings and runs the model again to apply them."""
        owner = self.base_loss
        while not hasattr(owner, "calculate_loss"):  # MatryoshkaLoss holds the loss that does
            owner = cast(nn.Module, owner.loss)
        calculate_loss, penalties = cast(Callable[..., Tensor], owner.calculate_loss), {}

        def calculate_both(embeddings: list[list[Tensor]], *args: Any, **options: Any) -> Tensor:
            loss = calculate_loss(embeddings, *args, **options)
            penalties.update(self._add_to_cache(embeddings, labels))
            return loss

        with _replaced(owner, "calculate_loss", calculate_both):
            losses = self._named(self.base_loss(features, labels))
        return losses | penalties

    def _add_to_cache(self, embeddings: list[list[Tensor]], labels: Tensor | None) -> dict[str, Tensor]:
        """Add the penalties' gradient to that of the base loss, in ``grad`` of each mini-batch of each column."""
        if any(part.grad is None for column in embeddings for part in column):
            return {}  # the base loss did not use a column and is about to say so
        columns = [torch.cat([part.detach() for part in column]).requires_grad_() for column in embeddings]
        gradients = [torch.cat([cast(Tensor, part.grad) for part in column]) for column in embeddings]
        with torch.enable_grad():
            # The graph of the base loss is gone. A linear function with its gradient is all that a weight asks for.
            task_loss = torch.stack(
                [(column * gradient).sum() for column, gradient in zip(columns, gradients, strict=True)]
            ).sum()
            penalties = self._penalties(task_loss, columns, labels)
            if not penalties:
                return {}
            added = torch.autograd.grad(_total(penalties), columns)
        for column, gradient in zip(embeddings, added, strict=True):
            for part, share in zip(column, gradient.split([len(part) for part in column]), strict=True):
                part.grad = cast(Tensor, part.grad) + share
        return {name: penalty.detach() for name, penalty in penalties.items()}


class RegularizedLossCallback(TrainerCallback):  # type: ignore[misc]
    """Counts the steps of the optimizer for the weights, logs values and weights, and keeps their state in checkpoints.

    Without it, a scheduled weight stays at its first value. The trainer itself logs what is added to the loss, as ``NAME``. What comes
    with this, of the last step and in ``state.log_history`` too, is ``regularization/NAME``, the value of a regularizer, and
    ``regularization/NAME_weight``; with a mapping of losses, KEY_NAME in NAME's place. Callbacks that stand before this one, such as
    those of ``report_to``, see the log without them. The state (steps, weights, memory, covariances) is written beside the trainer's, as
    ``regularization.pt``, and read again when the training resumes from a checkpoint in ``output_dir``; of several ranks it is that of the
    main process, which is that of all unless ``gather=False``.

    Args:
        loss: a `RegularizedLoss`, or the mapping of losses that the trainer is given; those of another kind are left alone.

    Raises:
        TypeError: if there is no `RegularizedLoss`.

    Example:
        A trainer is given both::

            loss = RegularizedLoss(base_loss, weight=schedule("linear", value=0.1, warmup=0.1, total=1000))
            SentenceTransformerTrainer(model, args, dataset, loss=loss, callbacks=[RegularizedLossCallback(loss)])
    """

    def __init__(self, loss: nn.Module | Mapping[str, nn.Module]) -> None:
        named = loss if isinstance(loss, Mapping) else {"": loss}
        self.losses = {name: one for name, one in named.items() if isinstance(one, RegularizedLoss)}
        if not self.losses:
            raise TypeError(f"loss must be a RegularizedLoss or a mapping that holds one; got {type(loss).__name__}")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take up the state of the checkpoint that is resumed from."""
        if not state.global_step:
            return
        path = _checkpoint(args, state) / STATE_FILE
        if path.exists():
            stored = torch.load(path, map_location="cpu", weights_only=True)
            try:
                for name, loss in self.losses.items():
                    loss.step, loss.skipped = stored[name]["step"], stored[name]["skipped"]
                    for part, module in _parts(loss).items():
                        module.load_state_dict(stored[name][part])
            except (KeyError, RuntimeError) as error:
                raise hf.other_arguments(path, error) from error
            return
        warnings.warn(
            f"the training resumes at step {state.global_step}, and {path} is not there: schedules go on from that step, averages "
            "of balanced weights begin anew",
            stacklevel=2,
        )
        for loss in self.losses.values():
            for _ in range(state.global_step - loss.step):
                loss.advance()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the step."""
        for loss in self.losses.values():
            loss.advance()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Add values and weights of the last step to the log."""
        if logs is None or "loss" not in logs:  # not those of an evaluation
            return
        values = {
            f"regularization/{key}_{name}" if key else f"regularization/{name}": value.item()
            for key, loss in self.losses.items()
            for name, value in loss.logs.items()
        }
        logs.update(values)
        if state.log_history:  # the trainer has put a copy there already
            state.log_history[-1].update(values)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the state beside the trainer's."""
        folder = _checkpoint(args, state)
        if not state.is_world_process_zero or not folder.is_dir():
            return
        stored = {
            name: {
                "step": loss.step,
                "skipped": loss.skipped,
                **{part: module.state_dict() for part, module in _parts(loss).items()},
            }
            for name, loss in self.losses.items()
        }
        with whole_file(folder / STATE_FILE) as draft:
            torch.save(stored, draft)


class MonitorCallback(hf.MonitorCallback):
    """Watches the embeddings of held-out sentences while the model trains, and changes nothing.

    As `simplicial_reg.training.hf.MonitorCallback`, whose batches are made of the sentences: what is measured, and when, and what is
    logged and written, is the same. The points are what the model returns as ``sentence_embedding``.

    Args:
        trainer: the trainer that this is added to.
        sentences: held-out sentences; the first ``max_points`` (512) of them are measured.
        every: how many steps from one measurement to the next; None for every evaluation.
        plot: whether to draw the picture.
        options: of `Monitor`: measures, max_points, seed, metric; with ``layer`` and ``forward``, points of another kind.

    Raises:
        ImportError: if Matplotlib is missing (extra "plots") and plot is True.
        TypeError: for one str in place of several, and an option that is not there.
        ValueError: for no sentence, ``every`` below 1, and whatever `Monitor` raises when training begins.

    Example:
        ``trainer.add_callback(MonitorCallback(trainer, sentences, every=100))``
    """

    def __init__(
        self, trainer: Any, sentences: Sequence[str], *, every: int | None = None, plot: bool = True, **options: Any
    ) -> None:
        if isinstance(sentences, str) or not isinstance(sentences, Iterable):
            raise TypeError(f"sentences must be a sequence of str; got {type(sentences).__name__}")
        texts = list(sentences)
        if not texts:
            raise ValueError("sentences must hold at least one; got none")
        batches = [texts[start : start + EMBEDDED] for start in range(0, len(texts), EMBEDDED)]
        *_, (last, _) = trainer.model.named_children()  # what this module returns, the model does
        super().__init__(trainer, batches, every=every, plot=plot, **({"layer": last, "forward": _embed} | options))


# --- helpers ------------------------------------------------------------------------------------------------------------------


def _parts(loss: RegularizedLoss) -> dict[str, nn.Module]:
    """What of a loss is kept in a checkpoint, without its base loss and model."""
    parts = {"regularizers": loss.regularizers, "weights": loss.weights, "memory": loss.memory}
    return {name: part for name, part in parts.items() if part is not None}


def _embed(model: Any, sentences: list[str]) -> None:
    """Run the model; its embeddings are read by a tap, and have no padding."""
    model = cast(Any, unwrapped(model))
    model(batch_to_device(dict(model.preprocess(sentences)), model.device))


def _model_of(base_loss: Any) -> nn.Module:
    if not isinstance(base_loss, nn.Module):
        raise TypeError(f"base_loss must be a loss of sentence-transformers, a module; got {type(base_loss).__name__}")
    for name in MODEL_NAMES:
        if isinstance(model := getattr(base_loss, name, None), nn.Module):
            return model
    raise ValueError(
        f"base_loss must have its model as an attribute, {', '.join(MODEL_NAMES)}; {type(base_loss).__name__} has none"
    )


def _total(losses: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def _cloud(columns: Sequence[Tensor], form: str) -> Tensor:
    shapes = [tuple(column.shape) for column in columns]
    if len(set(shapes)) > 1 or len(shapes[0]) != 2:
        raise ValueError(f"the sentence embeddings of all columns must have one shape (n, d); got {shapes}")
    return torch.stack(list(columns)) if form == "mean" else torch.cat(list(columns))


def _labels(labels: Any, points: Tensor) -> Any:
    """Those of a row for the points of each of its columns; what does not fit is left to the regularizer to refuse."""
    if not isinstance(labels, Tensor) or labels.ndim == 0:
        return labels
    rows = labels.reshape(len(labels)) if labels.numel() == len(labels) else labels
    if points.ndim == 3:
        return rows.expand(len(points), *rows.shape)
    return rows.repeat(len(points) // max(len(rows), 1))


@contextmanager
def _replaced(owner: nn.Module, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Another function as a method of one object."""
    own = vars(owner).get(name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


@contextmanager
def _recorded(model: nn.Module) -> Iterator[list[Tensor]]:
    """The sentence embeddings that the model returns meanwhile, call by call.

    Losses that decorate the model's forward (MatryoshkaLoss) do so around this one, which therefore sees what the model itself returns.
    A forward hook would see what they make of it.
    """
    while isinstance(
        inner := getattr(model, "module", None), nn.Module
    ):  # base losses may hold the model without its DDP
        model = inner
    forward, embeddings = model.forward, []

    def recording(*args: Any, **options: Any) -> Any:
        output = forward(*args, **options)
        embeddings.append(output["sentence_embedding"])
        return output

    with _replaced(model, "forward", recording):
        yield embeddings


def _bibtex(name: str) -> str:
    if name not in PAPERS:
        return ""
    author, title, year, number = PAPERS[name]
    where = f"    eprint={{{number}}},\n    archivePrefix={{arXiv}},\n" if number else ""
    return f"@misc{{{name}{year},\n    title={{{title}}},\n    author={{{author}}},\n    year={{{year}}},\n{where}}}"


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
