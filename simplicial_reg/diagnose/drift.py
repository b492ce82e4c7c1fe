"""The drift experiment: what an untrained block makes of points with a common mean.

Trained models' states have one: the mean of their points is far from the origin, which the cosine sees. Whether a block adds to that
by what it is, and not by what it learned, is seen when it is untrained and the mean is put there on purpose:

    x_it = e(w_it) + N u b        e the embedding table, w_it drawn uniformly from it, u the mean norm of its rows,
                                  b a random unit vector, the same for all tokens of all sequences

so that N is the length of the common vector in norms of an embedding. Compared are the inputs x and the outputs of the block, over all
tokens of all sequences, and the scores and the softmax of its attention, against N. It is repeated with new weights, embeddings, words
and b; within one repeat these are the same for all N, so that points along a curve differ by N alone.

The default is a block as in BERT: normalization after each residual connection, GELU, a perceptron of four times the width, weights of
matrices and embeddings from N(0, 0.02²), biases 0, normalizations 1 and 0. It is smaller than BERT's, for the time that takes; with
the width of BERT's base model and the published length it is ``drift(width=768, heads=12, length=512)``.

`block_of` makes the block of another architecture: the whole model is built with one layer and run on inputs of the right shape, but what
enters the block is replaced. So positions, masks and biases of attention are the architecture's own, and the table is its own where
it has one of the width of the states; where it has none, the rows are from N(0, 0.02²).

How to read it. The cosine of the inputs is about N² / (1 + N²), and their covariance does not change, nor does their IsoScore*. Where the
outputs' cosine is above that of the inputs, the block adds to the common mean, and where it is below, it takes from it. A block whose
biases are not 0 at initialisation, as torch draws those of its linear maps, adds a common vector of its own at every norm, and
beside the small embeddings it is large.

Source: the experiment of Godey, de la Clergerie, Sagot 2024, "Anisotropy Is Inherent to Self-Attention in Transformers" (untrained
block of BERT's initialisation, 16 sequences of length 512 drawn uniformly from the table, a common bias of growing norm). That the norm
is in units of the embeddings' own, which norms there are, and that all is repeated are choices made here.
"""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from simplicial_reg._autocast import autocast_off
from simplicial_reg._checks import check_count, check_number
from simplicial_reg.diagnose.record import plain, with_nan
from simplicial_reg.diagnose.untrained import is_of_transformers, seeded, untrained
from simplicial_reg.isotropy import MEASURES
from simplicial_reg.training._blocks import find_stack, unwrapped

__all__ = ["NORMS", "BertBlock", "Block", "Curve", "Drift", "block_of", "drift"]

NORMS = (0, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
VERSION = 1  # of the JSON
MEASURED = ("mean_cosine", "mean_cosine_centred", "drift_ratio", "isoscore_star")
STD = 0.02  # of BERT's initialisation
PROBE = (
    11  # tokens of a first run: an architecture that has another number takes that only; few grids of patches have 11
)


@dataclass(frozen=True)
class Curve:
    """A figure for each norm: its mean over the repeats and its standard deviation (over repeats - 1; NaN of one)."""

    mean: list[float]
    std: list[float]


@dataclass
class Drift:
    """What the drift experiment found.

    Attributes:
        block: what the block is.
        norms: lengths of the common vector, in units of `unit`.
        unit: mean norm of the embeddings, mean over the repeats.
        inputs: curves of the points that enter the block, by names in ``DEFINITIONS``.
        outputs: the same of the points that leave it.
        attention: curves by names in ``HEAD_DEFINITIONS``, means over the heads; empty where attention could not be read.
        width: number of coordinates.
        sequences: how many.
        length: tokens in each.
        repeats: how many blocks.
        seed: of everything drawn.
        notes: what has to be known to read the figures.
    """

    block: str
    norms: list[float]
    unit: float
    inputs: dict[str, Curve]
    outputs: dict[str, Curve]
    attention: dict[str, Curve]
    width: int
    sequences: int
    length: int
    repeats: int
    seed: int
    notes: list[str] = field(default_factory=list)

    def content(self) -> dict[str, Any]:
        """Everything as dicts and lists that JSON can hold; NaN and infinity are None."""
        content: dict[str, Any] = plain({"drift": VERSION, **asdict(self)})
        return content

    def to_json(self) -> str:
        """One line of strict JSON."""
        return json.dumps(self.content(), separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    @staticmethod
    def parse(text: str | bytes) -> Drift:
        """The result of a text that `to_json` made.

        Raises:
            ValueError: if it is not one.
        """
        try:
            content = json.loads(text)
        except ValueError as error:
            raise ValueError(f"not a drift experiment: not JSON ({error})") from error
        if not isinstance(content, dict) or content.pop("drift", None) != VERSION:
            raise ValueError(f"not a drift experiment of this version of simplicial_reg: format {VERSION} is wanted")
        try:
            for name in ("inputs", "outputs", "attention"):
                content[name] = {
                    key: Curve(**{part: with_nan(values) for part, values in curve.items()})
                    for key, curve in content[name].items()
                }
            return Drift(**content)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a drift experiment of this version of simplicial_reg: {error}") from error


class Block(nn.Module):
    """One block and a table of embeddings: called with states ``(B, T, width)`` that enter it, it returns those that leave it.

    Attributes:
        name: what it is.
        width: number of coordinates of the states.
        length: number of tokens T, if the architecture takes one number only; None if it takes others.
    """

    name: str
    width: int
    length: int | None = None

    def table(self) -> Tensor:
        """The embeddings, ``(vocabulary, width)``."""
        raise NotImplementedError

    def part(self) -> nn.Module:
        """What is run, and holds the attention."""
        return self


class BertBlock(Block):
    """A block as in BERT at initialisation, and its word embeddings.

    Args:
        width: number of coordinates.
        heads: of the attention; they divide the width.
        vocabulary: number of embeddings.
    """

    def __init__(self, width: int = 256, heads: int = 4, vocabulary: int = 30_522) -> None:
        super().__init__()
        for argument, value in (("width", width), ("heads", heads), ("vocabulary", vocabulary)):
            check_count(argument, value, 1)
        if width % heads:
            raise ValueError(f"heads must divide the width, {width}; got {heads}")
        self.name, self.width = f"BERT-style block of width {width} with {heads} heads", width
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, activation="gelu", batch_first=True)
        self.layers = nn.ModuleList([layer])
        self.words = nn.Embedding(vocabulary, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as BERT does."""
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=STD)
            else:
                nn.init.constant_(parameter, 1.0 if "norm" in name and name.endswith("weight") else 0.0)

    def table(self) -> Tensor:
        """The word embeddings."""
        return self.words.weight

    def forward(self, states: Tensor) -> Tensor:
        """States ``(B, T, width)``, as they come."""
        output: Tensor = self.layers[0](states)
        return output


class _Rows(nn.Module):
    """Embeddings for an architecture that has none of the width of its states."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=STD)


class _FirstBlock(Block):
    """The first block of a module that is not of `transformers`, run by itself."""

    def __init__(self, model: nn.Module, vocabulary: int) -> None:
        super().__init__()
        stack = find_stack(model)
        block = copy.deepcopy(stack.blocks[0]).cpu().float()
        if isinstance(block, nn.TransformerEncoderLayer):
            block.self_attn.batch_first = True
        self.name, self.width = f"first block of {type(model).__name__}", _width(block)
        self.layers = nn.ModuleList([block])
        self.rows = _Rows(vocabulary, self.width)

    def table(self) -> Tensor:
        return self.rows.weight

    def forward(self, states: Tensor) -> Tensor:
        try:
            return _state(self.layers[0](states))
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"model must have blocks that take states (B, T, {self.width}) alone; {type(self.layers[0]).__name__} does not: "
                f"{_line(error)}"
            ) from error


class _OfTransformers(Block):
    """The block of a model of `transformers` with one layer: the model is run, and what enters its block is replaced."""

    def __init__(self, config: Any, vocabulary: int) -> None:
        super().__init__()
        self.model = _model_of_one_layer(config)
        kind = type(self.model).__name__
        self.name = f"block of {kind}"
        seen: list[Tensor] = []
        try:
            self._run(1, PROBE, seen.append)
        except Exception as error:  # whatever an architecture raises at inputs that it was not made for
            raise ValueError(
                f"model must run on made-up inputs; {kind} does not: {type(error).__name__}: {_line(error)}"
            ) from error
        self.width, tokens = seen[0].shape[-1], seen[0].shape[-2]
        self.length = None if tokens == PROBE else tokens
        self.rows = None if self._words() is not None else _Rows(vocabulary, self.width)

    def table(self) -> Tensor:
        words = self._words()
        if words is None:
            assert self.rows is not None
            return self.rows.weight
        rows: Tensor = words(torch.arange(words.num_embeddings))  # called, because some scale what they look up
        padding = words.padding_idx
        return rows if padding is None else torch.cat([rows[:padding], rows[padding + 1 :]])  # that row is zero

    def part(self) -> nn.Module:
        model: nn.Module = self.model
        return model

    def forward(self, states: Tensor) -> Tensor:
        try:
            return self._run(states.shape[0], states.shape[1], lambda mine: None, states)
        except (IndexError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"length must be what {type(self.model).__name__} can take; it cannot take {states.shape[1]} tokens: {_line(error)}"
            ) from error

    def _words(self) -> nn.Embedding | None:
        try:
            words = self.model.get_input_embeddings()
        except NotImplementedError:  # how models of sound say that they have none
            return None
        return words if isinstance(words, nn.Embedding) and words.embedding_dim == self.width else None

    def _run(self, count: int, length: int, see: Callable[[Tensor], None], states: Tensor | None = None) -> Tensor:
        """What the block returns in a run of the model, with what enters it shown, and replaced if there are states."""
        found: list[Tensor] = []

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            mine = args[0] if args else kwargs["hidden_states"]
            see(mine)
            if states is None:
                return None
            if mine.shape != states.shape:
                raise ValueError(f"it has states {tuple(mine.shape)} where {tuple(states.shape)} are given")
            return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})

        block = find_stack(self.model).blocks[0]
        hooks = [
            block.register_forward_pre_hook(enter, with_kwargs=True),
            block.register_forward_hook(lambda module, args, output: found.append(_state(output))),
        ]
        try:
            with torch.no_grad():
                self.model(**_inputs(self.model, count, length))
        finally:
            for hook in hooks:
                hook.remove()
        return found[0]


def block_of(model: Any = None, *, width: int = 256, heads: int = 4, vocabulary: int = 30_522) -> Block:
    """One untrained block of an architecture.

    Args:
        model: a model or configuration of `transformers`, or the name or directory of one: the model is built anew with one layer
            (of an encoder and a decoder, the encoder), its sizes as configured. Any other ``nn.Module``: a copy of the first block of its
            stack, which must run on states alone. A `Block` is returned as it is. None: a `BertBlock`.
        width: of the `BertBlock`.
        heads: of the `BertBlock`.
        vocabulary: of the `BertBlock`, and number of the random embeddings where an architecture has none of the width of its states.

    Returns:
        A block in evaluation mode, on the CPU.

    Raises:
        TypeError: if the model is something else.
        ValueError: if it has no stack of blocks or more than one, or cannot be run on made-up inputs.
        OSError: if a configuration cannot be found.
        ImportError: if `transformers` is needed and not installed.

    Example:
        >>> block_of(nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 3)).name
        'first block of TransformerEncoder'
    """
    check_count("vocabulary", vocabulary, 1)
    if isinstance(model, Block):
        return model
    if isinstance(model, nn.Module):
        model = unwrapped(model)
        model = model.config if is_of_transformers(model) else model
    with seeded(0):
        if model is None:
            block: Block = BertBlock(width, heads, vocabulary)
        elif isinstance(model, nn.Module):
            block = _FirstBlock(model, vocabulary)
        else:
            block = _OfTransformers(_config(model), vocabulary)
    return block.eval()


def drift(
    block: Any = None,
    *,
    norms: Sequence[float] = NORMS,
    width: int = 256,
    heads: int = 4,
    sequences: int = 16,
    length: int = 128,
    vocabulary: int = 30_522,
    seed: int = 0,
    repeats: int = 3,
    on_run: Callable[[int], None] | None = None,
) -> Drift:
    """Isotropy of the inputs and outputs of an untrained block, and its attention, against the length of a common vector.

    Args:
        block: a `Block` or what `block_of` takes; None for a BERT-style block.
        norms: lengths of the vector that is added to all inputs, in mean norms of the embeddings.
        width: number of coordinates of the BERT-style block.
        heads: of the BERT-style block.
        sequences: how many there are in the batch.
        length: tokens in each, unless the architecture takes one length only.
        vocabulary: number of embeddings, unless the architecture has its own.
        seed: of all that is drawn; the caller's random generators are left as they are.
        repeats: how many blocks are drawn.
        on_run: called after each of the ``repeats * len(norms)`` runs with how many there have been.

    Returns:
        The curves.

    Raises:
        TypeError: for arguments of another type.
        ValueError: for numbers out of range, and as `block_of` and `untrained` do.

    Source:
        See the module's docstring.

    Example:
        >>> found = drift(norms=(0, 1, 10), width=32, heads=2, sequences=4, length=16, repeats=2)
        >>> [round(cosine, 1) for cosine in found.inputs["mean_cosine"].mean]  # N² / (1 + N²)
        [0.0, 0.5, 1.0]
    """
    lengths = [_norm(value) for value in norms]
    if not lengths:
        raise ValueError("norms must hold at least one number; got none")
    for argument, value, least in (("sequences", sequences, 1), ("length", length, 1), ("repeats", repeats, 1)):
        check_count(argument, value, least)
    check_count("seed", seed, 0)
    if sequences * length < 2:
        raise ValueError("sequences * length must be at least 2, so that there are pairs of points; got 1")
    made = block_of(block, width=width, heads=heads, vocabulary=vocabulary)
    tokens = made.length or length
    runs: list[list[_Run]] = []
    for weights, draws in np.random.SeedSequence(seed).generate_state(2 * repeats).reshape(repeats, 2).tolist():
        fresh = cast(Block, untrained(made, weights)).eval()
        words, direction = _drawn(fresh, sequences, tokens, draws)
        runs.append([])
        for norm in lengths:
            runs[-1].append(_run(fresh, words, norm, direction))
            if on_run is not None:
                on_run(sum(len(repeat) for repeat in runs))
    first = runs[0][0]
    notes = [first.message] if first.message else []
    if made.length not in (None, length):
        notes.append(f"{made.name} takes {tokens} tokens, not {length}")
    if sequences * tokens <= made.width:
        notes.append(
            f"{sequences * tokens:,} points in {made.width:,} dimensions: that IsoScore* is low is explained by n < d"
        )
    return Drift(
        block=made.name,
        norms=lengths,
        unit=float(np.mean([repeat[0].unit for repeat in runs])),
        inputs=_curves([[run.inputs for run in repeat] for repeat in runs]),
        outputs=_curves([[run.outputs for run in repeat] for repeat in runs]),
        attention=_curves([[run.attention for run in repeat] for repeat in runs]),
        width=made.width,
        sequences=sequences,
        length=tokens,
        repeats=repeats,
        seed=seed,
        notes=notes,
    )


@dataclass
class _Run:
    """One norm of one repeat."""

    unit: float
    inputs: dict[str, float]
    outputs: dict[str, float]
    attention: dict[str, float]
    message: str | None


def _norm(value: Any) -> float:
    check_number("norms", value, least=0)
    return float(value)


def _drawn(block: Block, sequences: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Embeddings ``(sequences, length, width)`` drawn uniformly from the table, and a vector of their mean norm, ``(width,)``."""
    generator = torch.Generator().manual_seed(seed)
    table = block.table().detach().float()
    words = table[torch.randint(len(table), (sequences, length), generator=generator)]
    direction = torch.randn(block.width, generator=generator)
    return words, direction / direction.norm() * table.norm(dim=-1).mean()


def _run(block: Block, words: Tensor, norm: float, direction: Tensor) -> _Run:
    from simplicial_reg.diagnose.attention import AttentionTap

    states = words + norm * direction
    with torch.no_grad(), autocast_off(states), AttentionTap(block.part()) as tap:
        outputs = block(states)
        tap.observe(None)
    heads = [head.measures for head in tap.heads]
    return _Run(
        unit=float(direction.norm()),
        inputs=_measured(states),
        outputs=_measured(outputs),
        attention={name: float(np.mean([head[name] for head in heads])) for name in (heads[0] if heads else ())},
        message=tap.message,
    )


def _measured(states: Tensor) -> dict[str, float]:
    points = states.flatten(0, -2).double()  # with a long common vector, what differs is in the last digits
    return {name: float(MEASURES[name].function(points)) for name in MEASURED}


def _curves(repeats: list[list[dict[str, float]]]) -> dict[str, Curve]:
    """For each name the mean and the standard deviation over the repeats, at each norm."""
    curves = {}
    for name in repeats[0][0]:
        values = np.array([[at_norm[name] for at_norm in repeat] for repeat in repeats])
        std = values.std(0, ddof=1) if len(values) > 1 else np.full(values.shape[1], math.nan)
        curves[name] = Curve(values.mean(0).tolist(), std.tolist())
    return curves


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "the block of another architecture needs transformers: pip install 'simplicial_reg[hf]'"
        ) from error
    return transformers


def _config(model: Any) -> Any:
    transformers = _transformers()
    if isinstance(model, (str, os.PathLike)):
        return transformers.AutoConfig.from_pretrained(model)
    if isinstance(model, transformers.PreTrainedConfig):
        return model
    raise TypeError(
        "block must be None, a Block, an nn.Module, or a configuration, a name or a directory as for transformers; "
        f"got {type(model).__name__}"
    )


def _model_of_one_layer(config: Any) -> Any:
    """The model without a head, of an encoder and a decoder the encoder, with one layer where that can be configured."""
    config = copy.deepcopy(config)
    for name in ("num_hidden_layers", "encoder_layers"):
        if hasattr(config, name):
            setattr(config, name, 1)
    if getattr(config, "layer_types", None):
        with suppress(AttributeError):  # some configurations derive it from the number of layers
            config.layer_types = config.layer_types[:1]
    config._attn_implementation = None  # the architecture's default: what a loaded model uses may need its device
    try:
        model = _transformers().AutoModel.from_config(config, dtype=torch.float32)
    except Exception as error:  # an architecture that cannot be cut to one layer says so in its own way
        raise ValueError(
            f"model must be one that can be built with one layer; {type(config).__name__} cannot: {_line(error)}"
        ) from error
    if getattr(config, "is_encoder_decoder", False):
        model = model.get_encoder()
    try:
        find_stack(model)
    except ValueError as error:
        raise ValueError(
            f"model must have one stack of blocks; {type(model).__name__} has none or several: pass the part that is meant, "
            "or the nn.Module of one block wrapped in a ModuleList"
        ) from error
    return model.eval()


def _inputs(model: Any, count: int, length: int) -> dict[str, Tensor]:
    """Something of the right shape: what it is does not matter, since what enters the block is replaced."""
    name, config = model.main_input_name, model.config
    if name == "input_ids":
        ones = torch.ones(count, length, dtype=torch.long)
        return {name: ones, "attention_mask": ones}
    if name == "pixel_values":
        size = config.image_size
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        return {name: torch.zeros(count, config.num_channels, height, width)}
    if name == "input_features" and hasattr(config, "feature_projection_input_dim"):
        return {name: torch.zeros(count, length, config.feature_projection_input_dim)}
    if name == "input_features":  # as Whisper's encoder takes them: two frames for each position
        return {name: torch.zeros(count, config.num_mel_bins, 2 * config.max_source_positions)}
    if name == "input_values":
        if hasattr(config, "num_mel_bins"):
            return {name: torch.zeros(count, config.max_length, config.num_mel_bins)}
        return {name: torch.randn(count, 16_000)}  # a second of sound
    raise ValueError(f"its input is {name!r}, and not one of input_ids, pixel_values, input_features, input_values")


def _state(output: Any) -> Tensor:
    """The states in what a block returns."""
    while isinstance(output, (list, tuple)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise TypeError(f"a block must return, or begin with, a tensor of states; got {type(output).__name__}")
    return output


def _width(block: nn.Module) -> int:
    """Number of coordinates that a block takes, from its first normalization or linear map."""
    for module in block.modules():
        shape = getattr(module, "normalized_shape", None)
        if shape:
            return int(shape[-1])
    for module in block.modules():
        if isinstance(module, nn.Linear):
            return module.in_features
    raise ValueError(
        f"model must have blocks with a LayerNorm, RMSNorm or Linear, which tell the width; {type(block).__name__} has none"
    )


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
