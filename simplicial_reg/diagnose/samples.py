"""Data for a diagnosis: texts, images and waves from files, from a task of the study, or made of what is installed.

What a path may be:

    texts     .tsv, .csv, .jsonl     one column of it; any other file, or a directory of .txt files: lines or paragraphs, see below
    images    a directory            of .png, .jpg, .jpeg, .webp or .bmp files
              .npz                   ``images`` (n, height, width) or (n, height, width, channels): bytes, or floats from 0 to 1;
                                     or ``jpeg``, the bytes of encoded images one after another, with ``offsets`` (n + 1,)
    waves     a directory            of .wav files
              .npz                   ``waves`` (n, samples), or ``audio`` (samples,) with ``offsets`` (n + 1,), and ``sample_rate``, in
                                     hertz; integers are scaled to [-1, 1)
    a task    "sst2", FILE.toml      the texts (of pairs the first) or images of its train part, as `simplicial_reg.study.tasks` reads it

Texts of a text file are its lines, without the empty ones. Where blank lines part it into paragraphs that were wrapped, that is into
at least 8 groups of lines, half of which have from 2 to 20 lines, its texts are the paragraphs with their line breaks. Texts of more than
64 words are cut into pieces of at most 64 words, of equal length up to a word, so that a book on one line is many texts.

Without data. Texts are sentences of the docstrings of the installed libraries (`simplicial_reg.study.docstrings`). Images are, three of
four, crops of scikit-learn's two photographs, and its handwritten digits. No speech comes with any of the packages, so waves are
synthetic: three to six vowels, each a sum of the harmonics of a gliding pitch whose amplitudes follow three resonances, with noise
30 dB below. The resonances are near the formants that Peterson, Barney 1952, "Control methods used in a study of the vowels",
measured of men.

Of more sequences than are wanted, so many are drawn without replacement; the same seed draws the same.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from simplicial_reg._checks import check_choice, check_count

__all__ = ["MODALITIES", "ONE_SEQUENCE", "Samples", "Wave", "imported", "load_samples"]

MODALITIES = {"text": "texts", "vision": "images", "speech": "waves"}  # and what their items are called
WORDS = 64  # of a text at most
WRAPPED = (2, 20)  # lines of a paragraph that is one
PARAGRAPHS = 8  # fewer do not show how a file is laid out
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# Names of the column of texts, the first that is there is taken.
COLUMNS = ("text", "sentence", "sentence1", "question", "premise", "content", "document")
# Resonances in hertz, rounded to 50: of heed, hid, head, had, hod, hawed, hood, who'd, hud, heard.
VOWELS = (
    (250, 2300, 3000),
    (400, 2000, 2550),
    (550, 1850, 2500),
    (650, 1700, 2400),
    (750, 1100, 2450),
    (550, 850, 2400),
    (450, 1000, 2250),
    (300, 850, 2250),
    (650, 1200, 2400),
    (500, 1350, 1700),
)
RATE = 16_000  # hertz, of synthetic waves
NO_DATA = (".npy", ".parquet", ".pt", ".safetensors")  # what holds embeddings and weights
ONE_SEQUENCE = "There is one sequence only: nothing can be said about the spread between sequences."


@dataclass(frozen=True)
class Wave:
    """A recording: samples ``(n,)``, float32, and how many there are in a second."""

    samples: Any
    rate: int


@dataclass(frozen=True)
class Samples:
    """Sequences that a model can be fed.

    Attributes:
        items: strings; arrays ``(height, width, channels)`` of bytes, with 1 or 3 channels; or `Wave` objects.
        modality: "text", "vision" or "speech".
        description: what they are, one line.
        notes: what a reader of the results has to know, a sentence each.
    """

    items: list[Any]
    modality: str
    description: str
    notes: list[str] = field(default_factory=list)


def load_samples(
    data: str | os.PathLike[str] | None,
    modality: str,
    *,
    sequences: int = 256,
    seed: int = 0,
    column: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Samples:
    r"""Read or make the sequences of a diagnosis.

    Args:
        data: a file, a directory or the name of a task, see the module's docstring; None for what is installed.
        modality: what the model takes: "text", "vision" or "speech".
        sequences: how many are wanted; of fewer, all are taken.
        seed: of the draw.
        column: the column of texts in a .tsv, .csv or .jsonl file; None is the first of text, sentence, sentence1, question, premise,
            content and document that is there, or the only column.
        data_dir: the folder of the study's tasks, as for `simplicial_reg.study.tasks.load_task`.

    Returns:
        The sequences, in the order of the data.

    Raises:
        FileNotFoundError: if there is no such file or directory.
        ImportError: if a package is missing that the data need.
        ValueError: if there is nothing in the data, if they are of another modality, or not what they must be.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "lines.txt"
        ...     _ = path.write_text("One sentence.\n\nAnother sentence.\n")
        ...     samples = load_samples(path, "text")
        >>> samples.items, samples.description
        (['One sentence.', 'Another sentence.'], '2 texts of lines.txt')
    """
    check_choice("modality", modality, MODALITIES)
    check_count("sequences", sequences, 1)
    check_count("seed", seed, 0)
    generator = np.random.default_rng(seed)
    if data is None:
        if column is not None:
            raise ValueError(f"column is of a .tsv, .csv or .jsonl file, and no data are given; got {column!r}")
        samples = BUILT_IN[modality](sequences, generator)
    else:
        samples = _drawn(_read(data, modality, column, data_dir), sequences, generator)
    if len(samples.items) == 1:
        samples.notes.append(ONE_SEQUENCE)
    return samples


@dataclass(frozen=True)
class _Found:
    """What is in the data: how much, and how to read those that are drawn."""

    modality: str
    count: int
    read: Callable[[int], Any]
    where: str
    what: str = ""  # instead of texts, images or waves


def _drawn(found: _Found, sequences: int, generator: np.random.Generator) -> Samples:
    kept = min(sequences, found.count)
    rows = sorted(generator.permutation(found.count)[:kept].tolist())
    what = found.what or MODALITIES[found.modality]
    what = what.removesuffix("s") if found.count == 1 else what
    some = f"{kept} {what}" if kept == found.count else f"{kept} of {found.count:,} {what}"
    return Samples([found.read(row) for row in rows], found.modality, f"{some} of {found.where}")


def _read(data: Any, modality: str, column: str | None, data_dir: Any) -> _Found:
    path = Path(data)
    task = str(data)
    if path.suffix == ".toml" or not (path.exists() or path.suffix or os.sep in task):
        found = _of_task(task, data_dir)
    elif not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or directory; check the name and the folder")
    elif path.is_dir():
        found = _directory(path, modality)
    elif path.suffix.lower() in IMAGES or path.suffix.lower() == ".wav":
        raise ValueError(f"{path}: is a single {path.suffix} file; give the directory it is in")
    elif path.suffix.lower() in NO_DATA:
        raise ValueError(f"{path}: data are texts, images or waves; embeddings are given in place of a model")
    elif path.suffix.lower() == ".npz":
        found = _npz(path)
    elif path.suffix.lower() in TABLES:
        found = _texts(_column(path, TABLES[path.suffix.lower()](path), column), path.name)
    else:
        found = _text_files([path], path.name)
    if found.modality != modality:
        raise ValueError(
            f"{data}: holds {MODALITIES[found.modality]}, and the model takes {MODALITIES[modality]}; "
            f"give {MODALITIES[modality]}, or no data for a built-in sample"
        )
    if not found.count:
        raise ValueError(f"{data}: holds no {MODALITIES[modality]}; it is empty")
    if column is not None and path.suffix.lower() not in TABLES:
        raise ValueError(f"{data}: column is of a .tsv, .csv or .jsonl file; leave it out; got {column!r}")
    return found


# --- texts ---------------------------------------------------------------------------------------------------------------------


def _texts(texts: Sequence[str], where: str, what: str = "texts") -> _Found:
    whole = [text.strip() for text in texts if text.strip()]
    pieces = [piece for text in whole for piece in _pieces(text)]
    if len(pieces) > len(whole):
        what = f"{what}, long ones cut at {WORDS} words,"
    return _Found("text", len(pieces), pieces.__getitem__, where, what)


def _pieces(text: str) -> list[str]:
    words = text.split()
    if len(words) <= WORDS:
        return [text]
    count = -(-len(words) // WORDS)
    cuts = [round(at * len(words) / count) for at in range(count + 1)]
    return [" ".join(words[low:high]) for low, high in pairwise(cuts)]


def _text_files(paths: list[Path], where: str) -> _Found:
    groups = [group for path in paths for group in _groups(_content(path))]
    sizes = sorted(len(group) for group in groups)
    wrapped = len(groups) >= PARAGRAPHS and WRAPPED[0] <= sizes[len(sizes) // 2] <= WRAPPED[1]
    if wrapped:
        return _texts(["\n".join(group) for group in groups], where, "paragraphs")
    return _texts([line for group in groups for line in group], where)


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not a text file in UTF-8; save it as UTF-8") from None


def _groups(text: str) -> list[list[str]]:
    """The lines between blank lines."""
    groups: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.strip():
            groups[-1].append(line.strip())
        elif groups[-1]:
            groups.append([])
    return [group for group in groups if group]


def _tsv(path: Path) -> list[dict[str, Any]]:
    """As in GLUE: no quoting."""
    lines = [line.split("\t") for line in _content(path).splitlines() if line.strip()]
    return [dict(zip(lines[0], cells, strict=False)) for cells in lines[1:]]


def _csv(path: Path) -> list[dict[str, Any]]:
    try:
        return list(csv.DictReader(_content(path).splitlines(keepends=True)))
    except csv.Error as error:
        raise ValueError(f"{path}: is not a .csv file: {error}") from error


def _jsonl(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(_content(path).splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(
                    f"{path}, line {number}: must be an object with a column of text; got {type(row).__name__}"
                )
            rows.append(row)
    return rows


TABLES: dict[str, Callable[[Path], list[dict[str, Any]]]] = {".tsv": _tsv, ".csv": _csv, ".jsonl": _jsonl}


def _column(path: Path, rows: list[dict[str, Any]], column: str | None) -> list[str]:
    if not rows:
        raise ValueError(f"{path}: holds no texts; it needs a line of column names and rows, or in .jsonl rows")
    names = [str(name) for name in rows[0]]
    if column is None:
        column = next((name for name in COLUMNS if name in names), names[0] if len(names) == 1 else None)
        if column is None:
            raise ValueError(
                f"{path}: cannot tell the column of texts; choose one with --column, of {', '.join(names)}"
            )
    elif column not in names:
        raise ValueError(f"{path}: column {column!r} is missing; the columns are {', '.join(names)}")
    values = [row.get(column) for row in rows]
    if not any(isinstance(value, str) for value in values):
        raise ValueError(f"{path}: column {column!r} must hold texts; got {type(values[0]).__name__}")
    return ["" if value is None else str(value) for value in values]


def _of_task(name: str, data_dir: Any) -> _Found:
    from simplicial_reg.study.tasks import TASKS, load_task, nearest

    if name not in TASKS and not name.endswith(".toml"):
        near = nearest(name)
        raise FileNotFoundError(
            f"data must be a file, a directory, or one of the tasks {', '.join(TASKS)}; got {name!r}"
            + (f"; the nearest are {', '.join(near)}" if near else "")
        )
    task = load_task(name, data_dir=data_dir)
    inputs = task.train.inputs
    where = f"the train part of {task.name}"
    if isinstance(inputs, Tensor):
        images = inputs
        return _Found("vision", len(images), lambda row: _image(images[row].movedim(0, -1).numpy(), where), where)
    return _texts([text[0] for text in inputs], where)


# --- directories and arrays ----------------------------------------------------------------------------------------------------


def _directory(path: Path, modality: str) -> _Found:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    of: dict[str, list[Path]] = {
        "text": [file for file in files if file.suffix.lower() == ".txt"],
        "vision": [file for file in files if file.suffix.lower() in IMAGES],
        "speech": [file for file in files if file.suffix.lower() == ".wav"],
    }
    there = [name for name, some in of.items() if some]
    if not there:
        raise ValueError(f"{path}: holds no {', '.join(IMAGES)}, .wav or .txt file")
    kind = modality if modality in there else there[0]
    paths = of[kind]
    if kind == "text":
        return _text_files(paths, path.name)
    read = _picture if kind == "vision" else _recording
    return _Found(kind, len(paths), lambda row: read(paths[row]), path.name)


def _picture(path: Path) -> Any:
    image = imported("PIL.Image", "pillow", extra="")
    try:
        with image.open(path) as opened:
            return np.asarray(opened.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{path}: is not an image that can be read; leave it out") from error


def _recording(path: Path) -> Wave:
    wavfile = imported("scipy.io.wavfile", "scipy")
    try:
        rate, samples = wavfile.read(path)
    except Exception as error:  # a parser of bytes raises nearly anything at what it does not expect
        raise ValueError(f"{path}: is not a .wav file that can be read; save it as 16-bit PCM") from error
    return _wave(samples, int(rate), str(path))


def _npz(path: Path) -> _Found:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # as above
        raise ValueError(f"{path}: is cut short, damaged, or not a .npz file; write it with numpy.savez") from error
    where = path.name
    if "images" in arrays:
        images = arrays["images"]
        return _Found("vision", len(images), lambda row: _image(images[row], f"{path}: images"), where)
    if "jpeg" in arrays:
        encoded, cuts = arrays["jpeg"], _offsets(path, arrays, "jpeg")
        return _Found("vision", len(cuts) - 1, lambda row: _decoded(encoded[cuts[row] : cuts[row + 1]], path), where)
    if "waves" not in arrays and "audio" not in arrays:
        raise ValueError(
            f"{path}: must hold images, jpeg with offsets, waves, or audio with offsets; it holds {', '.join(arrays) or 'nothing'}"
        )
    rate = arrays.get("sample_rate")
    if rate is None or rate.ndim != 0 or rate < 1:
        raise ValueError(f"{path}: sample_rate must be a number, samples in a second; got {rate}")
    if "waves" in arrays:
        waves = arrays["waves"]
        return _Found("speech", len(waves), lambda row: _wave(waves[row], int(rate), f"{path}: waves"), where)
    audio, cuts = arrays["audio"], _offsets(path, arrays, "audio")
    return _Found(
        "speech", len(cuts) - 1, lambda row: _wave(audio[cuts[row] : cuts[row + 1]], int(rate), f"{path}: audio"), where
    )


def _offsets(path: Path, arrays: dict[str, Any], name: str) -> Any:
    offsets = arrays.get("offsets")
    message = f"{path}: {name} needs offsets, rising integers (n + 1,) that say where each of n items begins"
    if offsets is None or offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) < 2:
        raise ValueError(message)
    if (np.diff(offsets.astype(np.int64)) < 1).any() or offsets[-1] > len(arrays[name]):
        raise ValueError(message)
    return offsets


def _image(array: Any, where: str) -> Any:
    """Bytes ``(height, width, 1 or 3)``."""
    image = array[..., None] if array.ndim == 2 else array
    if image.ndim != 3 or image.shape[-1] not in (1, 3):
        raise ValueError(
            f"{where}: an image must be (height, width), or (height, width, channels) with 1 or 3 channels; got {array.shape}"
        )
    if image.dtype.kind == "f":
        if not (image.min() >= 0 and image.max() <= 1):
            raise ValueError(f"{where}: floats of an image must be from 0 to 1; divide them by the largest")
        image = np.round(image * 255)
    return image.astype(np.uint8)


def _decoded(content: Any, path: Path) -> Any:
    import io

    image = imported("PIL.Image", "pillow", extra="")
    try:
        with image.open(io.BytesIO(content.tobytes())) as opened:
            return np.asarray(opened.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{path}: jpeg holds bytes that are no image") from error


def _wave(samples: Any, rate: int, where: str) -> Wave:
    """One channel, float32, integers scaled to [-1, 1)."""
    wave = np.asarray(samples)
    if wave.dtype.kind in "iu":
        half = 2.0 ** (8 * wave.dtype.itemsize - 1)
        wave = wave / half - (1 if wave.dtype.kind == "u" else 0)
    if wave.ndim == 2:
        wave = wave.mean(1)
    if wave.ndim != 1 or not len(wave) or not np.isfinite(wave).all():
        raise ValueError(
            f"{where}: a wave must be finite numbers (samples,) or (samples, channels); got shape {wave.shape}"
        )
    return Wave(wave.astype(np.float32), rate)


# --- what is installed ---------------------------------------------------------------------------------------------------------


def _sentences(sequences: int, generator: np.random.Generator) -> Samples:
    from simplicial_reg.study.docstrings import LIBRARIES, read_sentences

    each = max(100, -(-sequences // len(LIBRARIES)))
    pool = read_sentences({"train": each, "held_out": 0, "reported": 0})["train"]
    texts = [text for text, _ in pool]
    rows = sorted(generator.permutation(len(texts))[:sequences].tolist())
    where = "sentences of docstrings of the installed numpy, scipy, scikit-learn and torch"
    return Samples([texts[row] for row in rows], "text", f"{len(rows)} {where}")


def _crops(sequences: int, generator: np.random.Generator) -> Samples:
    datasets = imported("sklearn.datasets", "scikit-learn")
    photographs = [datasets.load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    digits = datasets.load_digits().images
    images = []
    for at in range(sequences):
        if at % 4 == 3:
            images.append(_image(digits[generator.integers(len(digits))] / 16, "digits"))
            continue
        photograph = photographs[at % 2]
        size = int(generator.integers(96, 257))
        top, left = (int(generator.integers(whole - size + 1)) for whole in photograph.shape[:2])
        images.append(np.ascontiguousarray(photograph[top : top + size, left : left + size]))
    crops = sequences - sequences // 4
    return Samples(
        images,
        "vision",
        f"{crops} crops of 96 to 256 pixels of scikit-learn's two photographs, {sequences // 4} of its handwritten digits",
        ["Crops of two photographs resemble each other: intervals are narrower than those of as many photographs."],
    )


def _vowels(sequences: int, generator: np.random.Generator) -> Samples:
    return Samples(
        [Wave(_spoken(generator), RATE) for _ in range(sequences)],
        "speech",
        f"{sequences} synthetic waves: vowel-like sums of harmonics with noise, no speech",
        [
            "The waves are synthetic, since no speech is installed: give recordings to see what the model does with speech."
        ],
    )


def _spoken(generator: np.random.Generator) -> Any:
    """Some vowels one after another, float32, with its largest sample near 1/2."""
    pitch = float(generator.uniform(90, 220))
    parts = []
    for vowel in generator.integers(len(VOWELS), size=int(generator.integers(3, 7))):
        length = int(RATE * generator.uniform(0.1, 0.2))
        glide = pitch * np.linspace(generator.uniform(0.9, 1.1), generator.uniform(0.9, 1.1), length)
        phase = 2 * np.pi * np.cumsum(glide) / RATE
        harmonics = np.arange(1, int(4000 / (1.1 * pitch)) + 1)
        wave = _resonances(harmonics * pitch, VOWELS[vowel]) @ np.sin(harmonics[:, None] * phase)
        parts.append(wave * np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 0.5)
    whole = np.concatenate(parts)
    whole = whole / (2 * np.abs(whole).max())
    noise = generator.standard_normal(len(whole)) * 10 ** (-30 / 20) * whole.std()
    return (whole + noise).astype(np.float32)


def _resonances(frequencies: Any, formants: tuple[int, ...]) -> Any:
    """Amplitudes of harmonics: a source that falls as 1/f, and a Lorentz peak 80 Hz to either side at each formant, higher ones weaker."""
    peaks = sum(0.6**at / (1 + ((frequencies - formant) / 80) ** 2) for at, formant in enumerate(formants))
    return peaks * frequencies[0] / frequencies


BUILT_IN: dict[str, Callable[[int, np.random.Generator], Samples]] = {
    "text": _sentences,
    "vision": _crops,
    "speech": _vowels,
}


def imported(module: str, package: str, extra: str = "study") -> Any:
    """A module of a package that an extra of this one brings, or that has to be installed by itself."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        how = f"'simplicial_reg[{extra}]'" if extra else package
        raise ImportError(f"this diagnosis needs {package}: pip install {how}") from error
