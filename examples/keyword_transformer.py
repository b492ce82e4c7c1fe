"""KWT-1, a real speech transformer, written out in torch, and its diagnosis on spoken digits.

KWT-1 was trained by ARM on Speech Commands v2 to tell ten commands, silence and anything else apart in a second of speech (Berg,
O'Connor, Cruz 2021, "Keyword Transformer"). Its 607,308 weights and the constants of its front end are read from a safetensors file, which
this program does not fetch. Spoken digits are none of its commands, so "_unknown_" is what it should call them.

    SIMPLICIAL_REG_DATA=folder python examples/keyword_transformer.py
    SIMPLICIAL_REG_DATA=folder simplicial-reg diagnose examples.keyword_transformer:factory

The folder holds ``models/kwt1/model.safetensors``, and ``speech/fsdd_half.npz`` with recordings of the Free Spoken Digit Dataset
(``audio`` of all one after another, ``offsets``, ``sample_rate``, ``digit``, ``speaker``, ``index``). They are shorter than the second that
the model listens to, so that many of its tokens are of silence. Takes under half a minute; needs the extra "study" for safetensors.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from simplicial_reg.diagnose import diagnose
from simplicial_reg.diagnose.report import terminal

LABELS = ("_silence_", "_unknown_", "yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
RATE = 16_000  # samples in a second, and in a clip
WINDOW, HOP, FREQUENCIES, MELS, COEFFICIENTS = 480, 160, 244, 80, 40
FRAMES, WIDTH, BLOCKS = 98, 64, 12
CLIPS, SAMPLE, SHORT_CLIPS, SHORT_SAMPLE, BATCH = 200, 2048, 20, 128, 50
WEIGHTS, SOUNDS = "models/kwt1/model.safetensors", "speech/fsdd_half.npz"


class FrontEnd(nn.Module):
    """Mel-frequency cepstral coefficients, ``(B, 98, 40)``, of waves ``(B, 16000)``; nothing in it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.zeros(WINDOW))
        self.register_buffer("dft_a", torch.zeros(FREQUENCIES, WINDOW))  # the real part and
        self.register_buffer("dft_b", torch.zeros(FREQUENCIES, WINDOW))  # the imaginary part of the Fourier transform
        self.register_buffer("mel", torch.zeros(MELS, FREQUENCIES))
        self.register_buffer("dct", torch.zeros(COEFFICIENTS, MELS))
        self.register_buffer("scale", torch.zeros(COEFFICIENTS))

    def forward(self, waves: Tensor) -> Tensor:
        frames = waves.unfold(-1, WINDOW, HOP) * self.window
        magnitude = torch.hypot(frames @ self.dft_a.mT, frames @ self.dft_b.mT)
        return (magnitude @ self.mel.mT).clamp_min(1e-12).log() @ self.dct.mT * self.scale


class Block(nn.Module):
    """Attention with one head and a perceptron, each normalized after its residual connection."""

    num_heads = 1

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.o = nn.Linear(WIDTH, WIDTH)
        self.ln1, self.ln2 = nn.LayerNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH, eps=1e-6)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, state: Tensor) -> Tensor:
        scores = self.q(state) @ self.k(state).mT / math.sqrt(WIDTH)
        state = self.ln1(state + self.o(scores.softmax(-1) @ self.v(state)))
        return self.ln2(state + self.fc2(nn.functional.gelu(self.fc1(state), approximate="tanh")))


class KeywordTransformer(nn.Module):
    """Logits ``(B, 12)`` of waves ``(B, 16000)``: one second at 16 kHz, in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.frontend = FrontEnd()
        self.embed = nn.Linear(COEFFICIENTS, WIDTH)
        self.cls_token = nn.Parameter(torch.empty(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + FRAMES, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.head = nn.Linear(WIDTH, len(LABELS))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the two parameters that are no module's anew, so that the model can be compared with one at initialisation."""
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.normal_(parameter, std=0.02)

    def forward(self, waves: Tensor) -> Tensor:
        state = self.embed(self.frontend(waves))
        state = torch.cat([self.cls_token.expand(len(state), -1, -1), state], 1) + self.pos_embed
        for block in self.blocks:
            state = block(state)
        return self.head(state[:, 0])


class Digits(NamedTuple):
    """Recordings of spoken digits."""

    waves: Tensor  # (n, 16000), in [-1, 1]
    digits: list[int]
    speakers: list[int]
    indices: list[int]  # which recording of this digit by this speaker


def load(directory: str | Path) -> KeywordTransformer:
    """The trained model of a directory with ``model.safetensors``."""
    model = KeywordTransformer()
    model.load_state_dict(load_file(Path(directory) / "model.safetensors"))
    return model.eval()


def read_digits(path: str | Path) -> Digits:
    """All recordings of a file, at 16 kHz, cut or padded with silence to one second."""
    with np.load(path) as file:
        sounds = np.split(file["audio"].astype(np.float32) / 32_768, file["offsets"][1:-1])
        times = RATE // int(file["sample_rate"])
        waves = np.zeros((len(sounds), RATE), np.float32)
        for wave, sound in zip(waves, sounds, strict=True):
            fast = resampled(sound, times)[:RATE]
            wave[: len(fast)] = fast
        return Digits(torch.from_numpy(waves), *(file[name].tolist() for name in ("digit", "speaker", "index")))


def resampled(sound: np.ndarray, times: int) -> np.ndarray:
    """The sound at so many times its rate, on straight lines between the samples.

    Their corners leave some energy at the frequencies that the recording does not have. A filter would leave none, and with the
    logarithm of that, which it never met in training, the model mistakes twice as many digits for commands.
    """
    return np.interp(np.arange(times * len(sound)) / times, np.arange(len(sound)), sound)


def some(digits: Digits, count: int) -> Tensor:
    """So many of the recordings, spread over digits and speakers."""
    return digits.waves[np.linspace(0, len(digits.waves) - 1, count).astype(int)]


def data_folder() -> Path:
    """The folder that the environment names."""
    folder = os.environ.get("SIMPLICIAL_REG_DATA")
    missing = [name for name in (WEIGHTS, SOUNDS) if folder is None or not (Path(folder) / name).is_file()]
    if folder is None or missing:
        raise FileNotFoundError(f"SIMPLICIAL_REG_DATA must name a folder with {WEIGHTS} and {SOUNDS}; it is {folder!r}")
    return Path(folder)


def factory() -> tuple[KeywordTransformer, Iterator[Tensor]]:
    """The model and batches of recordings, as ``simplicial-reg diagnose`` takes them."""
    folder = data_folder()
    waves = some(read_digits(folder / SOUNDS), CLIPS)
    return load((folder / WEIGHTS).parent), iter(waves.split(BATCH))


@click.command()
@click.option("--short", is_flag=True, help="A few recordings.")
def main(short: bool) -> None:
    """Print what the model calls some digits, and its diagnosis layer by layer."""
    try:
        folder = data_folder()
    except FileNotFoundError as error:
        raise click.UsageError(str(error)) from error
    model = load((folder / WEIGHTS).parent)
    waves = some(read_digits(folder / SOUNDS), SHORT_CLIPS if short else CLIPS)
    with torch.no_grad():
        called = Counter(LABELS[label] for batch in waves.split(BATCH) for label in model(batch).argmax(-1).tolist())
    listed = ", ".join(f"{label} {count}" for label, count in called.most_common())
    click.echo(f"{len(waves)} recordings of digits are called: {listed}")
    sample = SHORT_SAMPLE if short else SAMPLE
    found = diagnose(model, waves.split(BATCH), sample=sample, name="KWT-1", data="spoken digits", modality="speech")
    click.echo(terminal(found).rstrip())


if __name__ == "__main__":
    main()
