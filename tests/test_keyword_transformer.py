"""examples/keyword_transformer.py: the architecture, and with the real weights and recordings what the model calls them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("safetensors")

from examples import keyword_transformer as example
from simplicial_reg.diagnose.untrained import untrained
from simplicial_reg.training import Tap
from simplicial_reg.training._blocks import find_stack

FOLDER = Path(os.environ.get("SIMPLICIAL_REG_DATA", "missing"))


@pytest.fixture(scope="module")
def model() -> example.KeywordTransformer:
    if not (FOLDER / example.WEIGHTS).is_file():
        pytest.skip(f"{example.WEIGHTS} is not in SIMPLICIAL_REG_DATA")
    return example.load((FOLDER / example.WEIGHTS).parent)


@pytest.fixture(scope="module")
def digits() -> example.Digits:
    if not (FOLDER / example.SOUNDS).is_file():
        pytest.skip(f"{example.SOUNDS} is not in SIMPLICIAL_REG_DATA")
    return example.read_digits(FOLDER / example.SOUNDS)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Two recordings in the form of the data set: ramps of 3 and of 9,000 samples."""
    ramps = [np.arange(3), np.arange(9000)]
    np.savez(
        tmp_path / "sounds.npz",
        audio=np.concatenate(ramps).astype(np.int16),
        offsets=np.array([0, 3, 9003]),
        sample_rate=np.array(8000),
        digit=np.array([4, 7], np.uint8),
        speaker=np.array([0, 1], np.uint8),
        index=np.array([2, 3], np.uint8),
    )
    return tmp_path / "sounds.npz"


def test_it_has_607308_weights_in_12_blocks_and_a_front_end_without_any() -> None:
    fresh = example.KeywordTransformer()
    assert sum(parameter.numel() for parameter in fresh.parameters()) == 607_308
    assert len(find_stack(fresh).blocks) == 12
    assert not list(fresh.frontend.parameters())


def test_a_second_of_sound_is_98_frames_and_a_class_token() -> None:
    fresh = example.KeywordTransformer()
    with torch.no_grad(), Tap(fresh, layer="all", pooling="tokens") as tap:
        assert fresh(torch.zeros(2, 16_000)).shape == (2, 12)
        assert tap.read().points.shape == (12, 2 * 99, 64)


def test_recordings_are_brought_to_twice_their_rate_and_to_one_second(sounds: Path) -> None:
    read = example.read_digits(sounds)
    assert (read.digits, read.speakers, read.indices) == ([4, 7], [0, 1], [2, 3])
    assert read.waves.shape == (2, 16_000)
    assert read.waves.dtype == torch.float32
    expected = np.zeros(16_000)
    expected[:6] = [0, 0.5, 1, 1.5, 2, 2]
    np.testing.assert_array_equal(read.waves[0] * 32_768, expected)
    np.testing.assert_array_equal(read.waves[1] * 32_768, np.arange(16_000) / 2)


def test_the_front_end_is_a_cepstrum_of_windowed_frames() -> None:
    generator = torch.Generator().manual_seed(0)
    front = example.FrontEnd().double()
    for buffer in front.buffers():
        buffer.uniform_(generator=generator)
    wave = torch.randn(16_000, generator=generator, dtype=torch.float64)
    at = 5 * example.HOP
    frame = (wave[at : at + example.WINDOW] * front.window).numpy()
    real, imaginary = front.dft_a.numpy() @ frame, front.dft_b.numpy() @ frame
    expected = front.dct.numpy() @ np.log(front.mel.numpy() @ np.sqrt(real**2 + imaginary**2)) * front.scale.numpy()
    np.testing.assert_allclose(front(wave[None])[0, 5], expected, rtol=1e-10)


def test_of_50_digits_46_are_unknown_words(model: example.KeywordTransformer, digits: example.Digits) -> None:
    chosen = [at for at, index in enumerate(digits.indices) if index == 0 and digits.speakers[at] < 5]
    assert len(chosen) == 50
    with torch.no_grad():
        logits = model(digits.waves[chosen])
    assert sum(example.LABELS[label] == "_unknown_" for label in logits.argmax(-1).tolist()) == 46
    best = logits.topk(2).values
    assert (best[:, 0] - best[:, 1]).min() > 1e-2  # rounding does not decide any


def test_silence_is_called_silence(model: example.KeywordTransformer) -> None:
    quiet = 1e-3 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert example.LABELS[int(model(quiet).argmax())] == "_silence_"


def test_its_untrained_copy_keeps_the_front_end_only(model: example.KeywordTransformer) -> None:
    fresh = untrained(model)
    for name, constant in model.frontend.named_buffers():
        assert torch.equal(constant, fresh.frontend.get_buffer(name))
    assert not torch.equal(model.pos_embed, fresh.pos_embed)
    assert not torch.equal(model.blocks[3].q.weight, fresh.blocks[3].q.weight)


def test_the_factory_gives_the_model_and_its_batches(model: example.KeywordTransformer, digits: example.Digits) -> None:
    made, batches = example.factory()
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(made.parameters(), model.parameters(), strict=True))
    waves = torch.cat(list(batches))
    assert waves.shape == (example.CLIPS, 16_000)
    assert torch.equal(waves[-1], digits.waves[-1])


def test_the_program_prints_the_labels_and_a_row_for_each_state(
    model: example.KeywordTransformer, digits: example.Digits
) -> None:
    done = CliRunner().invoke(example.main, ["--short"])
    assert done.exit_code == 0, done.output
    assert "20 recordings of digits are called: _unknown_" in done.output
    rows = [line.split()[:2] for line in done.output.splitlines() if line.split()[:1] in (["embeddings"], ["block"])]
    assert [row[0] for row in rows] == ["embeddings"] + ["block"] * 12
    assert [row[1] for row in rows[1:]] == [str(number) for number in range(1, 13)]


def test_without_the_data_the_program_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIMPLICIAL_REG_DATA", str(tmp_path))
    done = CliRunner().invoke(example.main, [])
    assert done.exit_code == 2
    assert "SIMPLICIAL_REG_DATA must name a folder with models/kwt1/model.safetensors" in done.output
    monkeypatch.delenv("SIMPLICIAL_REG_DATA")
    with pytest.raises(FileNotFoundError, match="it is None"):
        example.factory()
