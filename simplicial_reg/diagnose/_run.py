"""Runs a model, or goes through arrays, and has every layer's figures."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import simplicial_reg
from simplicial_reg._checks import check_choice, check_count
from simplicial_reg.diagnose._intervals import Integers
from simplicial_reg.diagnose._states import Layers, States, fitted, tokens_of
from simplicial_reg.diagnose.layers import LayerStream
from simplicial_reg.diagnose.record import Diagnosis, Head, Layer
from simplicial_reg.training._pooling import Form
from simplicial_reg.training._running import device_of, moved, set_aside

__all__ = ["diagnose"]

POINTS = ("tokens", "cls", "mean")


def diagnose(
    model: nn.Module | Mapping[str, Any],
    batches: Iterable[Any] | None = None,
    *,
    layers: Layers = "all",
    points: str = "tokens",
    sample: int = 2048,
    seed: int = 0,
    attention: bool = True,
    forward: Callable[[Any, Any], Any] | None = None,
    sequences: Any = None,
    name: str = "",
    data: str = "",
    modality: str = "",
    on_batch: Callable[[int], object] | None = None,
    on_layer: Callable[[int, int], object] | None = None,
) -> Diagnosis:
    """Where a model's representation space is anisotropic: the figures of every layer and of every head of attention.

    The model runs once on every batch, in evaluation mode and without gradients, and is left as it was found, also if it raises or is
    interrupted: hooks, modes, parameters, buffers, and the states of the random generators of torch, NumPy and Python. Memory
    beyond the model's own does not grow with the number of batches.

    Args:
        model: any ``nn.Module``, or arrays or tensors ``(n, d)`` by name: layers of what is embedded already.
        batches: an iterable of what the model takes: a mapping is passed by keyword, of a tuple or list the first element, anything else as
            it is. None or empty for arrays.
        layers: ``"all"``: the embeddings and the output of every block. Or a sequence of numbers (0 for the embeddings, negative ones
            from the end), of the names these have in the diagnosis, and of names of modules as in ``model.named_modules()``.
        points: ``"tokens"``, all real ones; ``"cls"``, the first real one of each sequence; ``"mean"``, the mean of each sequence.
        sample: how many points are kept of each layer, for the figures that are made of a sample.
        seed: of the sample and of the intervals.
        attention: whether to read queries and keys, too.
        forward: called as ``forward(model, batch)``; it runs the model and returns the attention mask (B, T) or None, or for an encoder
            with a decoder a pair of these. By default ``batch["attention_mask"]``, and ``batch["decoder_attention_mask"]``, if they are
            there; a batch with an attribute ``mask`` has that one instead of the first.
        sequences: for arrays, integers or names ``(n,)``: which sequence each row is of. Default: each row is one.
        name: what the model is called in the diagnosis. Default: its class.
        data: what the data is called.
        modality: ``"text"``, ``"vision"``, ``"speech"``, or empty.
        on_batch: called after each batch, with the number of batches that are done.
        on_layer: called after each layer's figures, with the number of layers that are done and of all.

    Returns:
        What was found. A layer with NaN or infinity in it has an error and no figures; the others have theirs.

    Raises:
        TypeError: for arguments of another type.
        ValueError: for an unknown choice; if the model has no stack of blocks, or several, and ``layers`` does not name modules; if
            there is no batch; for shapes that do not fit.
        RuntimeError: if the forward does not reach a layer.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        >>> model = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        >>> diagnosis = diagnose(model, [torch.randn(8, 10, 16) + 2 for _ in range(4)], attention=False)
        >>> for layer in diagnosis.layers:
        ...     print(f"{layer.name}: {layer.points} points, cosine {layer.measures['mean_cosine'].value:.1f}")
        embeddings: 320 points, cosine 0.8
        block 1: 320 points, cosine 0.3
        block 2: 320 points, cosine 0.3
    """
    check_choice("points", points, POINTS)
    check_count("sample", sample, 2)
    check_count("seed", seed, 0)
    if isinstance(model, Mapping):
        if batches is not None and any(True for _ in batches):
            raise ValueError("batches must be None where model is a mapping of arrays, which are embedded already")
        points, found = "rows", _Found(_of_arrays(model, sequences, layers, sample, seed))
    elif isinstance(model, nn.Module):
        if batches is None:
            raise ValueError("batches must be given with a model: an iterable of what it takes; got None")
        if sequences is not None:
            raise ValueError("sequences must be None with a model: each row of a batch is a sequence")
        states = States(model, layers)
        with set_aside(model), torch.no_grad(), states, ExitStack() as inside:
            tap = inside.enter_context(_attention_tap(model, seed)) if attention else None
            found = _through(model, batches, states, tap, points, sample, seed, forward, on_batch)
    else:
        raise TypeError(f"model must be a torch.nn.Module or a mapping of arrays; got {type(model).__name__}")
    return Diagnosis(
        model=name or ("arrays" if isinstance(model, Mapping) else type(model).__name__),
        data=data,
        modality=modality,
        points=points,
        seed=seed,
        layers=_measured(found.streams, on_layer),
        heads=found.heads,
        notes=found.notes,
        environment=_environment(model, sample),
    )


def _measured(streams: list[LayerStream], on_layer: Callable[[int, int], object] | None) -> list[Layer]:
    layers = []
    for stream in streams:
        layers.append(stream.layer())
        if on_layer is not None:
            on_layer(len(layers), len(streams))
    return layers


@dataclass
class _Found:
    """What went by: the layers, and what is made of them at the end."""

    streams: list[LayerStream]
    heads: list[Head] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _through(
    model: nn.Module,
    batches: Iterable[Any],
    states: States,
    tap: Any,
    points: str,
    sample: int,
    seed: int,
    forward: Callable[[Any, Any], Any] | None,
    on_batch: Callable[[int], object] | None,
) -> _Found:
    """Run the model on every batch."""
    form = Form(points, "layer", False, several=False)
    device = device_of(model)
    streams: list[LayerStream] = []
    notes = dict.fromkeys(states.notes)  # in the order of finding
    sequences = done = 0
    for done, batch in enumerate(batches, start=1):
        if forward is None:
            masks = _forward(states.root, batch, device)
        else:
            masks = _pair(forward(model, moved(batch, device)))
        if tap is not None:
            tap.observe(*masks)
        read = states.read()
        streams = streams or [LayerStream(state.name, state.depth, sample=sample, seed=seed) for state in read]
        if [stream.name for stream in streams] != [state.name for state in read]:
            raise ValueError(
                f"model must have the same layers in every forward; batch {done} has {len(read)}, not {len(streams)}"
            )
        rows = 0
        for stream, state in zip(streams, read, strict=True):
            tokens = tokens_of(state.values, states.batch_first)
            mask, note = fitted(masks[state.decoder], state, tokens, states.root)
            notes |= {note: None} if note else {}
            rows = max(rows, _add(stream, tokens, mask, form, sequences, (seed, 0, done)))
        sequences += rows
        if on_batch is not None:
            on_batch(done)
    if not done:
        raise ValueError("batches must hold at least one batch; got none")
    heads = [] if tap is None else tap.heads
    if tap is not None and tap.message is not None:
        notes[tap.message] = None
    return _Found(streams, heads, list(notes))


def _add(
    stream: LayerStream, tokens: Tensor, mask: Tensor | None, form: Form, sequences: int, seed: tuple[int, ...]
) -> int:
    """Add the real points of a state to a layer; how many sequences the batch has."""
    try:
        cloud = form.points([tokens], mask, None)
    except ValueError as error:
        raise ValueError(f"{stream.name}: {error}") from error
    points = cloud.points[0]  # (B, T, d)
    count, length = points.shape[:2]
    # The same for every layer of as many tokens, so that their samples are of the same ones.
    keys = np.random.default_rng(seed).random((count, length))
    sequence = np.broadcast_to(np.arange(sequences, sequences + count)[:, None], keys.shape)
    if cloud.mask is None:
        stream.add(points.flatten(0, 1), sequence.reshape(-1), keys.reshape(-1))
    else:
        real = cloud.mask[0]
        chosen = real.cpu().numpy()
        stream.add(points[real], sequence[chosen], keys[chosen])
    return count


def _forward(root: nn.Module, batch: Any, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    """Run the model on a batch; the mask of its tokens and that of its decoder's."""
    inputs = moved(batch, device)
    if not isinstance(inputs, Mapping):
        root(inputs[0] if isinstance(inputs, (list, tuple)) else inputs)
        return None, None
    root(**inputs)
    mask = moved(batch.mask, device) if hasattr(batch, "mask") else inputs.get("attention_mask")
    return mask, inputs.get("decoder_attention_mask")


def _pair(masks: Any) -> tuple[Any, Any]:
    if isinstance(masks, (tuple, list)) and len(masks) == 2:
        return masks[0], masks[1]
    return masks, None


def _attention_tap(model: nn.Module, seed: int) -> Any:
    from simplicial_reg.diagnose.attention import AttentionTap

    return AttentionTap(model, seed=seed)


def _of_arrays(arrays: Mapping[str, Any], sequences: Any, layers: Any, sample: int, seed: int) -> list[LayerStream]:
    """A layer of each array."""
    names = list(arrays)
    if not names:
        raise ValueError("model must hold at least one array; got an empty mapping")
    streams = {}
    for at, name in enumerate(names):
        points = _rows(name, arrays[name])
        group = _groups(sequences, name, len(points))
        stream = LayerStream(str(name), at / (len(names) - 1) if len(names) > 1 else 1.0, sample=sample, seed=seed)
        keys = np.random.default_rng((seed, 0)).random(len(points))
        streams[str(name)] = (stream, points, group, keys)
    chosen = list(streams) if layers == "all" else [_chosen(list(streams), one) for one in layers]
    for name in dict.fromkeys(chosen):
        stream, points, group, keys = streams[name]
        stream.add(points, group, keys)
    return [streams[name][0] for name in dict.fromkeys(chosen)]


def _chosen(names: Sequence[str], one: int | str) -> str:
    if isinstance(one, int) and not isinstance(one, bool) and -len(names) <= one < len(names):
        return names[one]
    if one in names:
        return str(one)
    raise ValueError(
        f"layers must hold numbers in {-len(names)}..{len(names) - 1} or names of arrays, {', '.join(map(repr, names))}; got {one!r}"
    )


def _rows(name: str, array: Any) -> Tensor:
    points = array if isinstance(array, Tensor) else torch.from_numpy(np.asarray(array))
    if points.ndim != 2 or 0 in points.shape:
        raise ValueError(f"array {name!r} must have shape (n, d), with at least one row; got {tuple(points.shape)}")
    if not points.is_floating_point():
        raise TypeError(f"array {name!r} must hold floating-point numbers; got {points.dtype}")
    return points


def _groups(sequences: Any, name: str, count: int) -> Integers:
    if sequences is None:
        return np.arange(count)
    labels = np.asarray(sequences.cpu() if isinstance(sequences, Tensor) else sequences)
    if labels.shape != (count,):
        raise ValueError(
            f"sequences must have shape ({count},), one entry for each row of {name!r}; got {labels.shape}"
        )
    groups: npt.NDArray[np.int64] = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return groups


def _environment(model: Any, sample: int) -> dict[str, Any]:
    device = device_of(model) if isinstance(model, nn.Module) else torch.device("cpu")
    return {
        "simplicial_reg": simplicial_reg.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "sample": sample,
    }
