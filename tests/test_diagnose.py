"""Diagnosing: figures that are those of the saved hidden states, intervals over sequences, and a model that does not notice."""

from __future__ import annotations

import itertools
import json
import math
import random
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from simplicial_reg import isotropy, rips_barcode
from simplicial_reg.diagnose import DEFINITIONS, HEAD_DEFINITIONS, Diagnosis, Estimate, Head, Layer, diagnose
from simplicial_reg.diagnose import _intervals as intervals
from simplicial_reg.diagnose.layers import DISTANCES, LayerStream

B, T, D = 6, 7, 12
FROZEN = json.loads((Path(__file__).parent / "frozen" / "dimension.json").read_text(encoding="utf-8"))["clouds"]


@pytest.fixture(autouse=True)
def few_halves(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Most tests are not about intervals, and half-samples are what costs time."""
    if "interval" not in request.node.name:
        monkeypatch.setattr(intervals, "HALVES", 2)


class Block(nn.Module):
    """Like a transformer's block, with dropout and running statistics, and returns a tuple; NaN at two tokens if it is broken."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)
        self.norm = nn.BatchNorm1d(D)
        self.dropout = nn.Dropout(0.5)
        self.broken = broken

    def forward(self, state: Tensor) -> tuple[Tensor, None]:
        state = state.nan_to_num()
        state = state + self.dropout(torch.tanh(self.norm(self.linear(state).mT).mT))
        if self.broken:
            state[:2, 0, 1] = math.nan
        return state, None


class Net(nn.Module):
    """Embeddings and two blocks."""

    def __init__(self, broken: int | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, D)
        self.blocks = nn.ModuleList(Block(at == broken) for at in range(2))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        state = self.embedding(input_ids)
        for block in self.blocks:
            state, _ = block(state)
        return state


class Blocks(nn.Module):
    """Hands on what it is given, so that each layer has the points that go in."""

    def __init__(self, blocks: int = 1) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Identity()) for _ in range(blocks))

    def forward(self, state: Tensor) -> Tensor:
        for block in self.blocks:
            state = block(state)
        return state


def net(**options: Any) -> Net:
    torch.manual_seed(0)
    return Net(**options)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batches(count: int = 2) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(50, (count, B, T), generator=generator)
    real = torch.arange(T) < torch.randint(2, T + 1, (count, B, 1), generator=generator)
    return [{"input_ids": row, "attention_mask": mask.long()} for row, mask in zip(tokens, real, strict=True)]


def quick(model: Any, given: Any = None, **options: Any) -> Diagnosis:
    return diagnose(model, given, **{"attention": False, **options})


def values(layer: Layer) -> dict[str, float]:
    return {name: estimate.value for name, estimate in layer.measures.items()}


def stream_of(points: Tensor, sequence: Any = None, *, sample: int = 2048, seed: int = 0) -> Layer:
    stream = LayerStream("a layer", 0.0, sample=sample, seed=seed)
    groups = np.arange(len(points)) if sequence is None else np.asarray(sequence)
    stream.add(points, groups, np.random.default_rng(seed).random(len(points)))
    return stream.layer()


# --- figures ------------------------------------------------------------------------------------------------------------------


def expected_of(points: Tensor) -> dict[str, float]:
    """The functions of simplicial_reg.isotropy in float64, for what is not drawn at random."""
    points = points.double()
    norms = points.norm(dim=1)
    measured = isotropy.measure(points, max_points=len(points))
    return {
        **{name: measured[name] for name in DEFINITIONS if name in measured},
        "outlier_share": measured["outlier_dimension_share"],
        **{f"top_{k}_variance_share": float(isotropy.top_variance_share(points, k)) for k in (1, 3, 10)},
        "norm_mean": float(norms.mean()),
        "norm_std": float(norms.std()),
    }


def check_layer(layer: Layer, points: Tensor) -> None:
    expected, found = expected_of(points), values(layer)
    assert expected.keys() | {"mean_cosine_sampled"} == DEFINITIONS.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=2e-4, abs=2e-6, nan_ok=True), (layer.name, name)
    deviations = points.double() - points.double().mean(0)
    spectrum = torch.linalg.svdvals(deviations).square()
    assert torch.allclose(torch.tensor(layer.spectrum).double()[: len(spectrum)], spectrum / spectrum.sum(), atol=1e-7)
    bars = rips_barcode(points.double())[0].persistence.sort().values
    assert torch.allclose(torch.tensor(layer.bars).double(), bars, atol=1e-4)
    norms = points.double().norm(dim=1)
    for name, value in (("min", norms.min()), ("max", norms.max()), ("median", norms.quantile(0.5))):
        assert layer.norms[name] == pytest.approx(value.item())
    assert (layer.points, layer.sampled, layer.width) == (len(points), len(points), points.shape[1])


def test_figures_of_bert_are_those_of_its_saved_hidden_states() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.BertModel(
        transformers.BertConfig(
            hidden_size=D, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20, vocab_size=50
        )
    ).eval()
    data = batches()
    diagnosis = diagnose(model, data)
    assert [(layer.name, layer.depth) for layer in diagnosis.layers] == [
        ("embeddings", 0.0), ("block 1", 0.5), ("block 2", 1.0),
    ]  # fmt: skip
    with torch.no_grad():
        outputs = [model(**batch, output_hidden_states=True).hidden_states for batch in data]
    for at, layer in enumerate(diagnosis.layers):
        points = [states[at][batch["attention_mask"].bool()] for states, batch in zip(outputs, data, strict=True)]
        check_layer(layer, torch.cat(points))
        assert layer.sequences == 2 * B
    assert len(diagnosis.heads) == 4
    assert set(diagnosis.heads[0].measures) == set(HEAD_DEFINITIONS)


@pytest.mark.parametrize("batch_first", [True, False])
def test_figures_of_torchs_encoder_are_those_of_its_blocks(batch_first: bool) -> None:
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(D, 2, 16, batch_first=batch_first)
    model = nn.TransformerEncoder(block, 1, enable_nested_tensor=False)
    tokens = gaussian(B, T, D) if batch_first else gaussian(T, B, D)
    diagnosis = quick(model, [tokens])
    with torch.no_grad():
        states = [tokens, model.eval()(tokens)]
    for layer, state in zip(diagnosis.layers, states, strict=True):
        check_layer(layer, state.flatten(0, 1) if batch_first else state.transpose(0, 1).flatten(0, 1))
        assert layer.sequences == B


def test_mean_cosine_is_the_mean_over_a_double_loop() -> None:
    points = gaussian(40, 5).double() + 0.3
    points[3] = 0
    total = 0.0
    for one, other in itertools.permutations(points.tolist(), 2):
        lengths = math.hypot(*one) * math.hypot(*other)
        total += sum(x * y for x, y in zip(one, other, strict=True)) / lengths if lengths else 0.0
    layer = stream_of(points)
    assert layer.measures["mean_cosine"].value == pytest.approx(total / (40 * 39), rel=1e-12)


def test_the_sampled_cosine_is_near_the_exact_one_and_comes_with_the_seed() -> None:
    points = gaussian(500, 16) + 0.5
    first, again, other = (stream_of(points, seed=seed).measures for seed in (0, 0, 1))
    assert first["mean_cosine_sampled"] == again["mean_cosine_sampled"] != other["mean_cosine_sampled"]
    assert first["mean_cosine_sampled"].value == pytest.approx(first["mean_cosine"].value, abs=0.05)
    assert first["mean_cosine_sampled"].value != pytest.approx(first["mean_cosine"].value, abs=1e-6)


@pytest.mark.parametrize("name", list(FROZEN))
def test_dimensions_are_those_of_scikit_dimension(name: str) -> None:
    recipe = FROZEN[name]["recipe"]
    points = getattr(np.random.default_rng(recipe["seed"]), recipe["draw"])((recipe["n"], recipe["d"]))
    points = np.concatenate([points, points[: recipe["repeated"]]])
    found = values(quick({"frozen": points}).layers[0])
    assert found["twonn_dimension"] == pytest.approx(FROZEN[name]["twonn"]["0.1"], rel=1e-9)
    if "mle" in FROZEN[name]:
        assert found["mle_dimension"] == pytest.approx(FROZEN[name]["mle"]["20"], rel=1e-9)


def test_a_shifted_isotropic_cloud_is_told_from_a_collapse_to_few_directions() -> None:
    shifted = values(stream_of(gaussian(600, 20) + 3))
    flat = values(stream_of(gaussian(600, 3) @ gaussian(3, 20, seed=1)))
    assert shifted["mean_cosine"] > 0.8
    assert abs(shifted["mean_cosine_centred"]) < 0.01
    assert shifted["participation_ratio_over_null"] == pytest.approx(1, abs=0.1)
    assert abs(flat["mean_cosine"]) < 0.05
    assert flat["participation_ratio_over_null"] < 0.2
    assert flat["top_3_variance_share"] == pytest.approx(1)


def test_outlier_dimensions_are_listed_the_largest_first() -> None:
    points = gaussian(400, 40)
    points[:, 17] = 10 * points[:, 17] + 4
    points[:, 3] *= 6
    layer = stream_of(points)
    assert [outlier["dimension"] for outlier in layer.outliers] == [17, 3]
    variances = points.double().var(0)
    largest = layer.outliers[0]
    assert largest["share"] == pytest.approx(float(variances[17] / variances.sum()))
    assert largest["variance_ratio"] == pytest.approx(float(variances[17] / variances.mean()))
    assert largest["mean"] == pytest.approx(float(points[:, 17].double().mean()))
    assert layer.measures["outlier_share"].value == pytest.approx(sum(one["share"] for one in layer.outliers))
    many = gaussian(200, 200)
    many[:, :20] *= 100
    assert len(stream_of(many).outliers) == 8


def test_every_figure_is_there_within_its_range_and_its_interval() -> None:
    layer = stream_of(gaussian(300, 8) + 1, np.arange(300) // 10)
    assert list(layer.measures) == list(DEFINITIONS)
    for name, estimate in layer.measures.items():
        definition = DEFINITIONS[name]
        assert definition.low <= estimate.low <= estimate.value <= estimate.high <= definition.high, name
        assert isinstance(estimate.low, float), name
    assert layer.spectrum == sorted(layer.spectrum, reverse=True)
    assert layer.bars == sorted(layer.bars)
    assert sum(layer.spectrum) == pytest.approx(1)


def test_a_diagnosis_is_json_and_comes_back_equal() -> None:
    diagnosis = quick(net(broken=0), batches(), name="a net", data="noise", modality="text")
    again = Diagnosis.parse(diagnosis.to_json())
    assert again.to_json() == diagnosis.to_json()
    assert (again.model, again.data, again.modality, again.points) == ("a net", "noise", "text", "tokens")
    assert again.environment["torch"] == torch.__version__


# --- streaming ----------------------------------------------------------------------------------------------------------------


def test_exact_figures_do_not_depend_on_how_points_are_cut_into_batches() -> None:
    points = gaussian(60, 10, D) + 5
    whole, parts = (quick(Blocks(), list(points.split(size))).layers[0] for size in (60, 7))
    for name in ("mean_cosine", "drift_ratio", "participation_ratio", "top_3_variance_share", "norm_std"):
        assert whole.measures[name].value == pytest.approx(parts.measures[name].value, rel=1e-10), name
    assert (whole.points, whole.sequences) == (parts.points, parts.sequences) == (600, 60)


def test_what_is_kept_does_not_grow_with_the_number_of_points() -> None:
    stream = LayerStream("a layer", 0.0, sample=100)
    generator = np.random.default_rng(0)
    kept = []
    for at in range(40):
        stream.add(gaussian(50, 8, seed=at), np.full(50, at), generator.random(50))
        kept.append(stream.elements)
    assert kept[0] < kept[1] == kept[-1]
    assert kept[-1] == 100 * 8 + 2 * 100 + (8 * 8 + 8 + 2) + (1 + 1 + 2) + 8


def test_the_sample_is_of_the_points_with_the_smallest_keys() -> None:
    points, keys = gaussian(300, 4), np.random.default_rng(5).random(300)
    stream = LayerStream("a layer", 0.0, sample=50)
    for at in range(0, 300, 60):
        stream.add(points[at : at + 60], np.arange(at, at + 60), keys[at : at + 60])
    chosen = np.sort(keys.argsort()[:50])
    bars = rips_barcode(points[chosen])[0].persistence.sort().values
    layer = stream.layer()
    assert torch.equal(torch.tensor(layer.bars), bars)
    assert (layer.points, layer.sampled) == (300, 50)


def test_all_distances_are_those_of_1024_points_at_most() -> None:
    layer = stream_of(gaussian(1500, 3))
    assert layer.sampled == DISTANCES == 1024
    assert len(layer.bars) == 1023


def test_every_layer_has_the_same_tokens_in_its_sample() -> None:
    first, second, third = quick(Blocks(2), list(gaussian(20, 10, D).split(4)), sample=64).layers
    assert first.measures == second.measures == third.measures
    assert first.bars == third.bars
    assert first.sampled == 64
    other = quick(Blocks(2), list(gaussian(20, 10, D).split(4)), sample=64, seed=1).layers[0]
    assert other.bars != first.bars


# --- intervals ----------------------------------------------------------------------------------------------------------------


def pairs_of(n: int, count: int = 200) -> Tensor:
    generator = np.random.default_rng(0)
    first, step = generator.integers(n, size=count), generator.integers(1, n, size=count)
    return torch.from_numpy(np.stack([first, (first + step) % n], 1))


def test_a_replicate_with_weights_one_is_the_figures_of_the_points() -> None:
    points = gaussian(80, D).double() * torch.linspace(0.1, 4, D) + 0.7
    found = intervals.replicates(points, torch.ones(1, 80).double(), pairs_of(80))
    expected = expected_of(points)
    assert set(found) - {"mean_cosine_sampled"} < set(expected)
    for name in set(found) - {"mean_cosine_sampled"}:
        assert float(found[name]) == pytest.approx(expected[name], rel=1e-9, abs=1e-12), name


def test_a_replicate_with_weights_is_the_figures_of_repeated_points() -> None:
    points = gaussian(30, 6).double() * torch.linspace(0.1, 4, 6) + 0.7
    weight = torch.from_numpy(np.random.default_rng(1).integers(0, 4, size=30))
    repeated = points.repeat_interleave(weight, 0)
    found = intervals.replicates(points, weight.double()[None], pairs_of(30))
    expected = expected_of(repeated)
    for name in ("drift_ratio", "participation_ratio", "isoscore_star", "outlier_share", "norm_mean", "norm_std"):
        assert float(found[name]) == pytest.approx(expected[name], rel=1e-9, abs=1e-12), name
    # In cosines pairs of a point and its copy do not count.
    centre = repeated.mean(0)
    for name, cloud in (("mean_cosine", points), ("mean_cosine_centred", points - centre)):
        unit = cloud / cloud.norm(dim=1, keepdim=True)
        terms = [
            (float(weight[i] * weight[j]), float(unit[i] @ unit[j])) for i, j in itertools.permutations(range(30), 2)
        ]
        total = sum(w * cosine for w, cosine in terms) / sum(w for w, _ in terms)
        assert float(found[name]) == pytest.approx(total, rel=1e-9), name


def test_intervals_over_sequences_are_wider_than_over_tokens_where_tokens_of_a_sequence_are_alike() -> None:
    points = (gaussian(30, 1, D) + 0.1 * gaussian(30, 20, D, seed=1)).flatten(0, 1) + 0.3
    by_sequence, by_token = stream_of(points, np.arange(600) // 20), stream_of(points)
    for name in (
        "mean_cosine", "drift_ratio", "participation_ratio", "top_1_variance_share", "norm_mean", "persistent_entropy",
    ):  # fmt: skip
        wide, narrow = by_sequence.measures[name], by_token.measures[name]
        assert wide.value == narrow.value, name
        assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low), name


def test_bootstrap_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    truth = {"norm_mean": math.sqrt(1.5), "drift_ratio": 1 / math.sqrt(1.5)}
    trials, groups = 60, 40
    held, held_by_token = (dict.fromkeys(truth, 0) for _ in range(2))
    for seed in range(trials):
        # All points of a sequence are r (1, z / sqrt 2), r of mean 1 and z uniform on the unit circle.
        generator = np.random.default_rng(seed)
        angle, radius = 2 * math.pi * generator.random(groups), 1 + 0.2 * generator.standard_normal(groups)
        once = np.stack([radius, radius * np.cos(angle) / math.sqrt(2), radius * np.sin(angle) / math.sqrt(2)], 1)
        points, sequence = torch.from_numpy(once.repeat(5, 0)), np.arange(5 * groups) // 5
        pairs = pairs_of(len(points))
        figures = intervals.replicates(points, torch.ones(1, len(points)).double(), pairs)
        for counted, by in ((held, sequence), (held_by_token, np.arange(len(points)))):
            offsets = intervals.bootstrap(points, by, pairs, seed)
            for name, true in truth.items():
                low, high = offsets[name]
                counted[name] += low <= true - float(figures[name]) <= high
    for name in truth:
        assert held[name] >= 0.88 * trials, name
        assert held_by_token[name] <= 0.8 * trials, name


def test_half_sample_intervals_of_a_mean_are_those_of_its_standard_error() -> None:
    ratios = []
    for seed in range(30):
        means = np.random.default_rng(seed).standard_normal(24)
        sequence = np.arange(24 * 3) // 3
        points = means[sequence]
        (offsets,) = intervals.of_halves(
            lambda half, points=points: {"mean": points[half].mean()}, sequence, seed
        ).values()
        ratios.append((offsets[1] / 2.201) / (means.std(ddof=1) / math.sqrt(24)))
        assert offsets[0] == -offsets[1]
    assert np.mean(ratios) == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("groups", [2, 3, 4, 5, 30])
def test_half_sample_intervals_exist_from_two_sequences_on(groups: int) -> None:
    sequence = np.arange(10 * groups) % groups
    points = np.random.default_rng(0).standard_normal(10 * groups) + sequence
    found = intervals.of_halves(lambda half: {"mean": points[half].mean(), "none": math.inf}, sequence, 0)
    assert 0 < found["mean"][1] < math.inf
    assert math.isnan(found["none"][1])


def test_intervals_of_exact_figures_narrow_with_the_sequences_that_the_sample_leaves_out() -> None:
    points = gaussian(4000, 4)
    wide, narrow = (stream_of(points[:n], sample=256).measures["norm_mean"] for n in (256, 4000))
    assert (narrow.high - narrow.low) / (wide.high - wide.low) == pytest.approx(math.sqrt(256 / 4000), rel=0.25)


def test_one_sequence_has_no_intervals_and_says_so() -> None:
    layer = quick(Blocks(), [gaussian(1, 40, D)]).layers[0]
    assert layer.sequences == 1
    assert all(math.isnan(estimate.low) and math.isnan(estimate.high) for estimate in layer.measures.values())
    assert all(math.isfinite(estimate.value) for estimate in layer.measures.values())
    assert any(note.startswith("one sequence: no intervals") for note in layer.notes)


def test_few_sequences_are_said_to_give_rough_intervals() -> None:
    layer = stream_of(gaussian(40, 3), np.arange(40) // 10)
    assert "4 sequences: the intervals are rough" in layer.notes
    assert math.isfinite(layer.measures["norm_mean"].low)


# --- notes and errors ---------------------------------------------------------------------------------------------------------


def test_fewer_points_than_dimensions_are_noted() -> None:
    few, more, many = stream_of(gaussian(20, 40)), stream_of(gaussian(200, 40)), stream_of(gaussian(500, 40))
    assert few.notes[0].startswith("20 points in 40 dimensions vary in at most 19 directions")
    assert "IsoScore* 0.3" in few.notes[0]  # 18 / 60
    assert more.notes[0].startswith("200 points in 40 dimensions: even an isotropic cloud")
    assert many.notes == []


def test_figures_of_coincident_points_are_within_their_range_in_spite_of_rounding() -> None:
    for name, estimate in stream_of(torch.ones(20, 3)).measures.items():
        definition = DEFINITIONS[name]
        assert math.isnan(estimate.value) or definition.low <= estimate.value <= definition.high, name


def test_points_that_coincide_are_noted() -> None:
    points = gaussian(50, 3)
    layer = stream_of(torch.cat([points, points[:10]]))
    assert any("20 of 60 sampled points coincide" in note for note in layer.notes)
    collapsed = stream_of(torch.ones(30, 3))
    assert any("all sampled points coincide" in note for note in collapsed.notes)
    assert collapsed.measures["mean_cosine"].value == pytest.approx(1)
    assert collapsed.measures["persistent_entropy"] == Estimate(0.0, 0.0, 0.0)
    assert math.isnan(collapsed.measures["twonn_dimension"].value)
    assert collapsed.measures["top_1_variance_share"].value == 1
    assert collapsed.spectrum == [1, 0, 0]


@pytest.mark.parametrize("cloud", [torch.zeros(12, 3), gaussian(2, 3), gaussian(30, 1), gaussian(3, 50), torch.eye(9)])
def test_degenerate_clouds_have_figures_and_warn_of_nothing(cloud: Tensor) -> None:
    layer = stream_of(cloud)
    assert layer.error is None
    assert list(layer.measures) == list(DEFINITIONS)
    assert 0 <= layer.measures["isoscore_star"].value <= 1
    assert Diagnosis.parse(Diagnosis("", "", "", "rows", 0, [layer]).to_json()).layers[0].name == "a layer"


def test_a_layer_with_nan_is_reported_and_the_others_go_on() -> None:
    first, second, third = quick(net(broken=0), batches()).layers
    assert second.error == f"4 of {first.points} points hold NaN or infinity"
    assert (second.measures, second.bars, second.spectrum) == ({}, [], [])
    for layer in (first, third):
        assert layer.error is None
        assert layer.measures.keys() == DEFINITIONS.keys()


def test_one_point_is_an_error_of_its_layer() -> None:
    layer = quick(Blocks(), [gaussian(1, 1, D)]).layers[0]
    assert layer.error == "1 point: figures need at least 2"


# --- points -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", ["cls", "mean"])
def test_sentences_are_one_point_each(points: str) -> None:
    data, model = batches(), net().eval()
    layer = quick(model, data, points=points, layers=[2]).layers[0]
    made = []
    for batch in data:
        with torch.no_grad():
            state = model(**batch)
        for row, real in zip(state, batch["attention_mask"].bool(), strict=True):
            made.append(row[real][0] if points == "cls" else row[real].mean(0))
    assert layer.points == layer.sequences == 2 * B
    check_layer(layer, torch.stack(made))


def test_padding_does_not_count_even_if_it_is_nan() -> None:
    tokens = gaussian(3, 5, D)
    real = torch.arange(5) < torch.tensor([[5], [2], [3]])

    def forward(model: nn.Module, batch: Tensor) -> Tensor:
        model(torch.where(real.unsqueeze(-1), batch, math.nan))
        return real

    check_layer(quick(Blocks(), [tokens], forward=forward).layers[0], tokens[real])


def test_feature_maps_have_a_token_at_each_position() -> None:
    maps = gaussian(4, 3, 5, 2)
    model = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(2)))
    layer = quick(model, [maps], layers=["embeddings"]).layers[0]
    assert (layer.points, layer.sequences, layer.width) == (40, 4, 3)
    check_layer(layer, maps.permute(0, 2, 3, 1).reshape(40, 3))


def test_a_mask_of_another_length_is_stretched_and_that_is_noted() -> None:
    tokens = gaussian(2, 4, D)
    mask = torch.tensor([[1] * 12, [1] * 6 + [0] * 6])
    diagnosis = quick(Blocks(), [tokens], forward=lambda model, batch: (model(batch), mask)[1])
    assert diagnosis.layers[0].points == 4 + 2
    assert sum("another number of tokens" in note for note in diagnosis.notes) == 1


def test_a_mask_that_comes_with_a_batch_is_taken() -> None:
    class Batch(dict[str, Tensor]):
        mask = torch.arange(T) < torch.tensor([[2], [3], [4], [2], [2], [2]])

    layer = quick(net(), [Batch(batches(1)[0])], layers=[0]).layers[0]
    assert layer.points == 15


# --- layers -------------------------------------------------------------------------------------------------------------------


def test_layers_are_chosen_by_number_name_and_module() -> None:
    layers = quick(net(), batches(), layers=[-1, "block 1", 0, "blocks.0.linear"]).layers
    assert [layer.name for layer in layers] == ["block 2", "block 1", "embeddings", "blocks.0.linear"]
    assert [layer.depth for layer in layers] == [1.0, 0.5, 0.0, 1.0]
    whole = {layer.name: layer for layer in quick(net(), batches()).layers}
    for layer in layers[:3]:
        assert layer.measures == whole[layer.name].measures


@pytest.mark.parametrize(
    ("layers", "error", "said"),
    [
        ("block 1", ValueError, r"use \['block 1'\]"),
        ([], ValueError, "at least one layer"),
        (3, TypeError, "sequence of numbers and names"),
        ([1.5], TypeError, "ints and strs"),
        ([7], ValueError, r"layers must be in -3\.\.2, for 3 states; got 7"),
        (["block 9"], ValueError, "'embeddings', 'block 1', 'block 2'; got 'block 9'"),
    ],
)
def test_unknown_layers_are_refused(layers: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        quick(net(), batches(), layers=layers)


def test_a_model_without_blocks_says_what_to_pass() -> None:
    plain = nn.Sequential(nn.Linear(D, D), nn.Tanh())
    with pytest.raises(ValueError, match=r"Sequential has none; pass layers=\[\.\.\.\] .* such as '0', '1'"):
        quick(plain, [gaussian(9, D)])
    layers = quick(plain, [gaussian(9, D)], layers=["0", "1"]).layers
    assert [(layer.name, layer.depth, layer.points) for layer in layers] == [("0", 0.0, 9), ("1", 1.0, 9)]


def test_a_model_of_two_stacks_lists_them() -> None:
    model = nn.ModuleDict({"left": net(), "right": net()})
    with pytest.raises(ValueError, match=r"has 2: 'left\.blocks' \(2 × Block\), 'right\.blocks'.*'left\.blocks\.0'"):
        quick(model, [])


def test_an_encoder_with_a_decoder_has_the_layers_of_both() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.T5Config(
        d_model=D, d_kv=4, num_layers=1, num_heads=2, d_ff=16, vocab_size=50, decoder_start_token_id=0
    )
    model = transformers.T5Model(config).eval()
    (batch,) = batches(1)
    batch |= {"decoder_input_ids": batch["input_ids"][:, :4], "decoder_attention_mask": batch["attention_mask"][:, :4]}
    layers = quick(model, [batch]).layers
    assert [layer.name for layer in layers] == ["encoder embeddings", "encoder 1", "decoder embeddings", "decoder 1"]
    assert [layer.depth for layer in layers] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    with torch.no_grad():
        output = model(**batch, output_hidden_states=True)
    encoder, decoder = batch["attention_mask"].bool(), batch["decoder_attention_mask"].bool()
    check_layer(layers[1], output.encoder_hidden_states[1][encoder])
    check_layer(layers[2], output.decoder_hidden_states[0][decoder])
    check_layer(layers[3], output.decoder_hidden_states[1][decoder])


def test_of_several_stacks_the_one_that_the_configuration_means_is_taken() -> None:
    class Canine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = types.SimpleNamespace(num_hidden_layers=2)
            self.local, self.deep = Blocks(1), Blocks(2)

        def forward(self, state: Tensor) -> Tensor:
            return self.deep(2 * self.local(state))

    diagnosis = quick(Canine(), [gaussian(4, 5, D)])
    assert len(diagnosis.layers) == 3
    assert diagnosis.layers[0].norms["mean"] == pytest.approx(2 * gaussian(20, D).double().norm(dim=1).mean().item())
    assert diagnosis.notes == ["the layers are those of 'deep.blocks'; name modules of 'local.blocks' to see them"]


# --- arrays -------------------------------------------------------------------------------------------------------------------


def test_arrays_are_layers_and_their_rows_are_sequences() -> None:
    arrays = {"one": gaussian(40, 6).numpy(), "two": gaussian(30, 4).half(), "three": gaussian(20, 4).double()}
    diagnosis = diagnose(arrays)
    assert diagnosis.points == "rows"
    assert [(layer.name, layer.depth, layer.sequences) for layer in diagnosis.layers] == [
        ("one", 0.0, 40), ("two", 0.5, 30), ("three", 1.0, 20),
    ]  # fmt: skip
    check_layer(diagnosis.layers[0], gaussian(40, 6))
    check_layer(diagnosis.layers[1], gaussian(30, 4).half())
    assert [layer.name for layer in diagnose(arrays, layers=[2, "one"]).layers] == ["three", "one"]


def test_rows_of_arrays_may_be_in_sequences() -> None:
    rows = {"one": gaussian(40, 6)}
    by_number, by_name = (
        diagnose(rows, sequences=labels).layers[0]
        for labels in (np.arange(40) % 8, [f"text {at % 8}" for at in range(40)])
    )
    assert by_number.sequences == 8
    assert by_number.measures == by_name.measures
    assert by_number.measures["norm_mean"] != diagnose(rows).layers[0].measures["norm_mean"]


@pytest.mark.parametrize(
    ("arrays", "options", "error", "said"),
    [
        ({}, {}, ValueError, "at least one array"),
        ({"a": np.zeros(3)}, {}, ValueError, r"array 'a' must have shape \(n, d\)"),
        ({"a": np.zeros((0, 3))}, {}, ValueError, "at least one row"),
        ({"a": np.zeros((4, 3), dtype=int)}, {}, TypeError, "floating-point numbers"),
        ({"a": np.zeros((4, 3))}, {"sequences": [1, 2]}, ValueError, r"sequences must have shape \(4,\)"),
        ({"a": np.zeros((4, 3))}, {"layers": ["b"]}, ValueError, "names of arrays, 'a'; got 'b'"),
        ({"a": np.zeros((4, 3))}, {"batches": [1]}, ValueError, "batches must be None"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays: Any, options: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        diagnose(arrays, **options)


# --- the model is left as it was ----------------------------------------------------------------------------------------------


def states_of(model: nn.Module) -> list[Any]:
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()]
    return [
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        [module.training for module in model.modules()],
        hooks,
        [parameter.requires_grad for parameter in model.parameters()],
        [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()],
        torch.get_rng_state(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002  # the global generator is what is looked at
        random.getstate(),
        torch.is_grad_enabled(),
    ]


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_same(one[name], other[name])
    elif isinstance(one, list):
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


class Interrupted(nn.Module):
    """Raises in the middle of the second forward."""

    def __init__(self, raised: BaseException) -> None:
        super().__init__()
        self.raised, self.count = raised, 0

    def forward(self, state: Tensor) -> Tensor:
        self.count += 1
        if self.count == 2:
            raise self.raised
        return state + torch.rand(()) * 0


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("raised", [None, RuntimeError("no"), KeyboardInterrupt()], ids=lambda one: type(one).__name__)
def test_the_model_is_left_as_it_was(raised: BaseException | None, attention: bool) -> None:
    model = net()
    model.train()
    model.blocks[0].norm.eval()
    model.embedding.weight.requires_grad_(False)
    model(batches()[0]["input_ids"]).sum().backward()
    if raised is not None:
        model.blocks[1].dropout = Interrupted(raised)
    before = states_of(model)
    if raised is None:
        diagnose(model, batches(), attention=attention)
    else:
        with pytest.raises(type(raised)):
            diagnose(model, batches(), attention=attention)
    assert_same(states_of(model), before)


def test_an_interrupt_between_batches_leaves_the_model_as_it_was() -> None:
    model = net().train()
    before, calls = states_of(model), []

    def stop(done: int) -> None:
        calls.append(done)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quick(model, batches(3), on_batch=stop)
    assert calls == [1, 2]
    assert_same(states_of(model), before)


def test_figures_are_those_of_evaluation_mode_and_the_same_every_time() -> None:
    model = net().train()
    first, second = (quick(model, batches()).to_json() for _ in range(2))
    assert first == second == quick(model.eval(), batches()).to_json()


# --- attention ----------------------------------------------------------------------------------------------------------------


class FakeTap:
    """Stands in for AttentionTap: notes what it is told."""

    message: str | None = "nothing could be read"

    def __init__(self, model: nn.Module, config: Any = None, *, seed: int = 0) -> None:
        self.model, self.seed = model, seed
        self.heads = [Head(1, 1, {"alignment": 0.5})]
        FakeTap.told: list[Any] = []

    def __enter__(self) -> FakeTap:
        FakeTap.told.append("open")
        return self

    def __exit__(self, *exception: object) -> None:
        FakeTap.told.append("closed")

    def observe(self, mask: Tensor | None = None, decoder_mask: Tensor | None = None) -> None:
        FakeTap.told.append((mask, decoder_mask))


def test_attention_is_asked_after_each_forward_and_its_message_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.SimpleNamespace(AttentionTap=FakeTap)
    monkeypatch.setitem(sys.modules, "simplicial_reg.diagnose.attention", module)
    data = batches()
    diagnosis = diagnose(net(), data)
    assert diagnosis.heads == [Head(1, 1, {"alignment": 0.5})]
    assert diagnosis.notes == ["nothing could be read"]
    opened, *observed, closed = FakeTap.told
    assert (opened, closed) == ("open", "closed")
    assert [decoder for _, decoder in observed] == [None, None]
    assert all(torch.equal(mask, batch["attention_mask"]) for (mask, _), batch in zip(observed, data, strict=True))


# --- bad input ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "data", "options", "error", "said"),
    [
        (Blocks(), [], {}, ValueError, "batches must hold at least one batch"),
        (Blocks(), None, {}, ValueError, "batches must be given with a model"),
        (Blocks(), [gaussian(2, 3, D)], {"sequences": [1]}, ValueError, "sequences must be None with a model"),
        (Blocks(), [gaussian(2, 3, D)], {"points": "max"}, ValueError, "points must be one of 'tokens', 'cls', 'mean'"),
        (Blocks(), [gaussian(2, 3, D)], {"sample": 1}, ValueError, "sample must be at least 2"),
        (Blocks(), [gaussian(2, 3, D)], {"seed": -1}, ValueError, "seed must be at least 0"),
        (Blocks(), [gaussian(2, 3, D), gaussian(2, 3, 5)], {}, ValueError, "12 coordinates"),
        ("bert", [], {}, TypeError, "must be a torch.nn.Module or a mapping of arrays; got str"),
    ],
)
def test_what_does_not_fit_is_refused(
    model: Any, data: Any, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        quick(model, data, **options)


def test_a_mask_of_another_batch_names_the_layer() -> None:
    with pytest.raises(ValueError, match=r"embeddings: mask must have \(2, 3\) entries"):
        quick(Blocks(), [gaussian(2, 3, D)], forward=lambda model, batch: (model(batch), torch.ones(5, 3).bool())[1])
