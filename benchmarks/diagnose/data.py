"""The data that the small models are trained and diagnosed on: real images and text in a folder, each cut into two parts.

    mnist           vision/mnist_t10k.npz: the 10,000 images of MNIST's test set, of which the last fifth is held out
    cifar           vision/cifar10_subset_jpeg.npz: 10,000 images of CIFAR-10 as JPEG, and 2,000 of its test set that are held out
    shakespeare     text/tinyshakespeare.txt: the last tenth of the characters is held out

Models are trained on the first part, and evaluated and diagnosed on what is held out.

Text becomes numbers in two ways. Characters: those of the whole text in order; tokens: byte-pair encoding (Sennrich et al. 2016) on bytes,
of 1,000 tokens, learned by the package `tokenizers` on the first part alone. A loss of both is told in bits per character, which
is comparable between them: the nats of all predictions over log 2 and over the number of characters that were predicted.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["IMAGES", "Images", "Text", "characters", "load_cifar", "load_mnist", "read_text", "spread", "tokens"]

MNIST, CIFAR, SHAKESPEARE = "vision/mnist_t10k.npz", "vision/cifar10_subset_jpeg.npz", "text/tinyshakespeare.txt"
HELD_OUT_DIGITS = 0.2
HELD_OUT_TEXT = 0.1
VOCABULARY = 1000


@dataclass(frozen=True)
class Images:
    """Images (n, channels, size, size), of mean 0 and standard deviation 1 over the first part, and their classes (n,)."""

    what: str
    train: Tensor
    train_labels: Tensor
    held_out: Tensor
    held_out_labels: Tensor


@dataclass(frozen=True)
class Text:
    """A text as numbers below `vocabulary`, and how many characters each number stands for."""

    what: str
    train: Tensor
    held_out: Tensor
    vocabulary: int
    lengths: Tensor


def load_mnist(folder: Path) -> Images:
    """MNIST."""
    with np.load(folder / MNIST) as arrays:
        images, labels = arrays["images"][:, None], arrays["labels"]
    held_out = np.arange(len(images)) >= len(images) * (1 - HELD_OUT_DIGITS)
    return _images("MNIST", images, labels, held_out)


def load_cifar(folder: Path) -> Images:
    """CIFAR-10, a part of it."""
    from PIL import Image

    with np.load(folder / CIFAR) as arrays:
        jpeg, offsets, labels, held_out = (arrays[name] for name in ("jpeg", "offsets", "labels", "is_test"))
    files = (jpeg[start:end].tobytes() for start, end in itertools.pairwise(offsets))
    images = np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])
    return _images("CIFAR-10 (12,000 images as JPEG)", images.transpose(0, 3, 1, 2), labels, held_out)


IMAGES: dict[str, Callable[[Path], Images]] = {"mnist": load_mnist, "cifar": load_cifar}


def _images(what: str, images: np.ndarray, labels: np.ndarray, held_out: np.ndarray) -> Images:
    pixels = torch.from_numpy(np.ascontiguousarray(images)).float()
    classes = torch.from_numpy(labels.astype(np.int64))
    late = torch.from_numpy(held_out)
    std, mean = torch.std_mean(pixels[~late], (0, 2, 3), keepdim=True)
    pixels = (pixels - mean) / std
    return Images(what, pixels[~late], classes[~late], pixels[late], classes[late])


def spread(n: int, count: int) -> Tensor:
    """Evenly spaced rows of n, at most so many: where classes come one after another, some of each.

    Example:
        >>> spread(10, 4)
        tensor([0, 3, 6, 9])
    """
    return torch.linspace(0, n - 1, min(count, n)).round().long()


def read_text(folder: Path) -> str:
    """The plays of Shakespeare."""
    return (folder / SHAKESPEARE).read_text(encoding="utf-8")


def characters(text: str) -> Text:
    """Each character is a number."""
    alphabet = sorted(set(text))
    number = {character: at for at, character in enumerate(alphabet)}
    first, second = (torch.tensor([number[character] for character in part]) for part in _parts(text))
    lengths = torch.ones(len(alphabet), dtype=torch.int64)
    return Text("Shakespeare's plays, characters", first, second, len(alphabet), lengths)


def tokens(text: str, vocabulary: int = VOCABULARY) -> Text:
    """Byte-pair encoding, learned on the part that is not held out.

    Args:
        text: all of it. A character that is no ASCII would be counted in bytes, so there must be none.
        vocabulary: how many tokens there are, at most.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    if not text.isascii():
        raise ValueError("text must be ASCII, so that the bytes of a token are its characters")
    first, second = _parts(text)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=sorted(alphabet), show_progress=False)
    # Line by line, because a single long text would be one unit of work; the line ends stay.
    tokenizer.train_from_iterator(first.splitlines(keepends=True), trainer)
    count = tokenizer.get_vocab_size()
    lengths = torch.tensor([len(tokenizer.id_to_token(at)) for at in range(count)])
    encoded = (torch.tensor(tokenizer.encode(part).ids) for part in (first, second))
    return Text(f"Shakespeare's plays, {count:,} byte-pair tokens", *encoded, count, lengths)


def _parts(text: str) -> tuple[str, str]:
    cut = int(len(text) * (1 - HELD_OUT_TEXT))
    return text[:cut], text[cut:]
