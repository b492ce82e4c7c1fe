"""The drift experiment against formulas written out here, blocks of other architectures, and untrained copies of models."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from simplicial_reg.diagnose.drift import BertBlock, Block, Drift, block_of, drift
from simplicial_reg.diagnose.record import HEAD_DEFINITIONS
from simplicial_reg.diagnose.untrained import untrained

SMALL: dict[str, Any] = {"width": 24, "heads": 3, "sequences": 4, "length": 10, "vocabulary": 300, "repeats": 2}


class Recorder(Block):
    """Returns what it is given and keeps it, and the table of each copy, in a list that all copies share."""

    seen: list[tuple[Tensor, Tensor]]

    def __init__(self, width: int = 6, vocabulary: int = 40) -> None:
        super().__init__()
        self.name, self.width = "recorder", width
        self.words = nn.Embedding(vocabulary, width)
        type(self).seen = []

    def table(self) -> Tensor:
        return self.words.weight

    def forward(self, states: Tensor) -> Tensor:
        self.seen.append((states.clone(), self.words.weight.detach().clone()))
        return states


def cosines(points: np.ndarray) -> float:
    """Mean cosine over all pairs, with loops."""
    values = [
        points[i] @ points[j] / np.linalg.norm(points[i]) / np.linalg.norm(points[j])
        for i in range(len(points))
        for j in range(len(points))
        if i != j
    ]
    return float(np.mean(values))


def score_of(points: np.ndarray) -> float:
    """IsoScore, as its authors define it, of the covariance."""
    d = points.shape[1]
    eigenvalues = np.linalg.eigvalsh(np.cov(points.T))
    scaled = math.sqrt(d) * eigenvalues / np.linalg.norm(eigenvalues)
    defect = np.linalg.norm(scaled - 1) / math.sqrt(2 * (d - math.sqrt(d)))
    return float(((d - defect**2 * (d - math.sqrt(d))) ** 2 - d) / (d * (d - 1)))


# What is fed


def test_inputs_are_rows_of_the_table_and_one_common_vector_of_the_given_length() -> None:
    norms = (0, 0.5, 3)
    found = drift(Recorder(), norms=norms, sequences=5, length=7, repeats=2)
    units, words = [], []
    for first in (0, 3):
        states, table = Recorder.seen[first]
        assert states.shape == (5, 7, 6)
        assert (states.unsqueeze(-2) == table).all(-1).any(-1).all()  # norm 0: every token is a row
        words.append(states)
        units.append(float(table.norm(dim=-1).mean()))
        ways = []
        for at, norm in enumerate(norms[1:], first + 1):
            shifted, same = Recorder.seen[at]
            assert torch.equal(same, table)
            added = (shifted - states).flatten(0, 1)
            torch.testing.assert_close(added, added[:1].expand_as(added), rtol=0, atol=2e-6)
            assert float(added[0].norm()) == pytest.approx(norm * units[-1], rel=1e-5)
            ways.append(added[0] / added[0].norm())
        torch.testing.assert_close(*ways, rtol=0, atol=1e-5)
    assert len(Recorder.seen) == 6
    assert not torch.equal(*words)  # each repeat is drawn anew
    assert found.unit == pytest.approx(np.mean(units), rel=1e-6)


def test_curves_are_the_mean_and_spread_of_plain_formulas_over_repeats() -> None:
    found = drift(Recorder(), norms=(0, 2), sequences=3, length=8, repeats=3)
    assert found.inputs == found.outputs  # of a block that does nothing
    clouds = [states.flatten(0, 1).double().numpy() for states, _ in Recorder.seen]
    plain = {
        "mean_cosine": cosines,
        "mean_cosine_centred": lambda cloud: cosines(cloud - cloud.mean(0)),
        "drift_ratio": lambda cloud: float(
            np.linalg.norm(cloud.mean(0)) / np.mean([np.linalg.norm(point) for point in cloud])
        ),
        "isoscore_star": score_of,
    }
    assert found.inputs.keys() == plain.keys()
    for name, formula in plain.items():
        values = np.array([formula(cloud) for cloud in clouds]).reshape(3, 2)
        np.testing.assert_allclose(found.inputs[name].mean, values.mean(0), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found.inputs[name].std, values.std(0, ddof=1), rtol=1e-6, atol=1e-9)


def test_cosine_of_the_inputs_goes_to_one_and_their_isoscore_stays() -> None:
    norms = (0, 0.5, 1, 5, 100)
    found = drift(norms=norms, **{**SMALL, "sequences": 16, "length": 32})
    expected = [norm**2 / (1 + norm**2) for norm in norms]
    np.testing.assert_allclose(found.inputs["mean_cosine"].mean, expected, atol=0.02)
    np.testing.assert_allclose(found.inputs["isoscore_star"].mean, found.inputs["isoscore_star"].mean[0], rtol=1e-4)
    assert found.outputs["mean_cosine"].mean[-1] > 0.99
    assert max(map(abs, found.outputs["mean_cosine_centred"].mean)) < 0.01


def test_attention_is_that_of_scores_written_out() -> None:
    """A block whose weights are large enough for scores that differ."""

    class Sharp(BertBlock):
        seen: list[tuple[Tensor, nn.Module]]

        def reset_parameters(self) -> None:
            super().reset_parameters()
            self.layers[0].self_attn.in_proj_weight.data.mul_(500)

        def forward(self, states: Tensor) -> Tensor:
            self.seen.append((states, self.layers[0].self_attn))
            return super().forward(states)

    Sharp.seen = []
    found = drift(Sharp(24, 3, 300), norms=(0, 4), sequences=4, length=10, repeats=1)
    assert found.attention.keys() >= {"alignment", "entropy", "score_mean", "score_std"}
    assert found.attention.keys() <= HEAD_DEFINITIONS.keys()
    for at, (states, attention) in enumerate(Sharp.seen):
        query, key, _ = (states.double() @ attention.in_proj_weight.detach().double().T).chunk(3, -1)
        spreads, entropies = [], []
        for head in range(3):
            of_head = slice(8 * head, 8 * head + 8)
            scores = query[..., of_head] @ key[..., of_head].mT / math.sqrt(8)
            spreads.append(float(scores.std(unbiased=False)))
            weights = scores.softmax(-1)
            entropies.append(float(-(weights * weights.log()).sum(-1).mean()) / math.log(10))
        assert found.attention["score_std"].mean[at] == pytest.approx(np.mean(spreads), rel=1e-4)
        assert found.attention["entropy"].mean[at] == pytest.approx(np.mean(entropies), rel=1e-4)
    assert found.attention["entropy"].mean[1] < found.attention["entropy"].mean[0] < 0.99


def test_the_bert_block_is_initialised_as_bert() -> None:
    block = block_of(width=64, heads=4, vocabulary=500)
    assert not block.training
    for name, weights in block.named_parameters():
        parameter = weights.detach()
        if parameter.ndim > 1:
            assert float(parameter.mean()) == pytest.approx(0, abs=2e-3), name
            assert float(parameter.std()) == pytest.approx(0.02, rel=0.05), name
        else:
            assert (parameter == (1 if "norm" in name and "weight" in name else 0)).all(), name
    assert sum(parameter.numel() for parameter in block.layers.parameters()) == 12 * 64**2 + 13 * 64


def test_the_bert_block_is_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=24, num_attention_heads=3, intermediate_size=96, vocab_size=50, layer_norm_eps=1e-5
    )
    theirs = transformers.models.bert.modeling_bert.BertLayer(config).eval()
    mine = block_of(width=24, heads=3, vocabulary=50)
    layer = mine.layers[0]
    inside = theirs.attention.self
    weights = torch.cat([inside.query.weight, inside.key.weight, inside.value.weight])
    pairs = [
        (layer.self_attn.in_proj_weight, weights),
        (layer.self_attn.out_proj.weight, theirs.attention.output.dense.weight),
        (layer.linear1.weight, theirs.intermediate.dense.weight),
        (layer.linear2.weight, theirs.output.dense.weight),
    ]
    for parameter, weight in pairs:
        parameter.data.copy_(weight)
    for linear in (inside.query, inside.key, inside.value, theirs.attention.output.dense):
        linear.bias.data.zero_()
    theirs.intermediate.dense.bias.data.zero_()
    theirs.output.dense.bias.data.zero_()
    states = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = theirs(states)
        torch.testing.assert_close(mine(states), output[0] if isinstance(output, tuple) else output)


# Seeds, record, input


def states_of_generators() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002


def test_a_seed_gives_the_same_curves_another_gives_others_and_generators_stay() -> None:
    before = states_of_generators()
    first, again, other = (drift(norms=(0, 1), seed=seed, **SMALL) for seed in (0, 0, 1))
    assert states_of_generators() == before
    assert first == again
    assert first.outputs != other.outputs


def test_one_repeat_has_no_spread_and_json_has_null() -> None:
    found = drift(norms=(0, 1), **{**SMALL, "repeats": 1})
    assert all(math.isnan(value) for value in found.inputs["mean_cosine"].std)
    content = json.loads(found.to_json())
    assert content["inputs"]["mean_cosine"]["std"] == [None, None]
    back = Drift.parse(found.to_json())
    assert back.outputs["mean_cosine"].mean == found.outputs["mean_cosine"].mean
    assert back.to_json() == found.to_json()


def test_a_record_of_two_repeats_comes_back_equal() -> None:
    found = drift(norms=(0, 1), **SMALL)
    assert Drift.parse(found.to_json()) == found


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"drift": 0}', '{"drift": 1}', '{"drift": 1, "inputs": 3}'])
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a drift experiment"):
        Drift.parse(text)


def test_each_run_is_reported() -> None:
    runs: list[int] = []
    drift(norms=(0, 1, 2), on_run=runs.append, **SMALL)
    assert runs == [1, 2, 3, 4, 5, 6]


def test_fewer_points_than_dimensions_are_noted() -> None:
    found = drift(norms=(0,), **{**SMALL, "sequences": 2})
    assert found.notes == ["20 points in 24 dimensions: that IsoScore* is low is explained by n < d"]
    assert drift(norms=(0,), **SMALL).notes == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"norms": ()}, ValueError, "norms must hold at least one number"),
        ({"norms": (-1,)}, ValueError, "norms must be at least 0 and finite; got -1"),
        ({"norms": (math.inf,)}, ValueError, "norms must be at least 0 and finite; got inf"),
        ({"norms": ("one",)}, TypeError, "norms must be a number; got str"),
        ({"heads": 5}, ValueError, "heads must divide the width, 24; got 5"),
        ({"sequences": 1, "length": 1}, ValueError, "so that there are pairs of points"),
        ({"repeats": 0}, ValueError, "repeats must be at least 1; got 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0; got -1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        drift(**{**SMALL, **arguments})


# Blocks of other architectures

TINY = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
ENCODER_DECODER = {
    "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
    "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 32,
}  # fmt: skip
ARCHITECTURES: dict[str, tuple[dict[str, Any], int]] = {  # with the number of tokens, where 12 are asked for
    "BertConfig": ({**TINY, "vocab_size": 60}, 12),
    "RobertaConfig": ({**TINY, "vocab_size": 60}, 12),
    "DebertaV2Config": ({**TINY, "vocab_size": 60}, 12),
    "GPT2Config": ({"n_embd": 16, "n_layer": 3, "n_head": 2, "vocab_size": 60, "bos_token_id": 1, "eos_token_id": 1}, 12),
    "LlamaConfig": ({**TINY, "num_key_value_heads": 1, "vocab_size": 60}, 12),
    "Gemma2Config": ({**TINY, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 60}, 12),
    "T5Config": ({"d_model": 16, "num_layers": 3, "num_heads": 2, "d_kv": 8, "d_ff": 32, "vocab_size": 60}, 12),
    "BartConfig": ({"d_model": 16, **ENCODER_DECODER, "vocab_size": 60}, 12),
    "MambaConfig": ({"hidden_size": 16, "num_hidden_layers": 3, "vocab_size": 60}, 12),
    "ViTConfig": ({**TINY, "image_size": 16, "patch_size": 4}, 17),
    "ASTConfig": ({**TINY, "max_length": 32, "num_mel_bins": 32}, 6),
    "Wav2Vec2Config": ({**TINY, "conv_dim": (8,) * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}, 49),
    "Wav2Vec2BertConfig": (TINY, 12),
    "WhisperConfig": (
        {"d_model": 16, **ENCODER_DECODER, "vocab_size": 60, "max_source_positions": 20, "pad_token_id": 0, "bos_token_id": 1,
         "eos_token_id": 1, "decoder_start_token_id": 1}, 20),
}  # fmt: skip


def config_of(name: str) -> Any:
    transformers = pytest.importorskip("transformers")
    return getattr(transformers, name)(**ARCHITECTURES[name][0])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_block_of_an_architecture_is_run_on_the_drawn_states(name: str) -> None:
    found = drift(config_of(name), norms=(0, 1000), sequences=3, length=12, vocabulary=200, repeats=1)
    assert (found.width, found.length) == (16, ARCHITECTURES[name][1])
    assert found.inputs["mean_cosine"].mean[0] < 0.2
    assert found.inputs["mean_cosine"].mean[1] > 0.99
    for curve in found.outputs.values():
        assert np.isfinite(curve.mean).all()
    assert found.outputs["mean_cosine"].mean[0] < found.outputs["mean_cosine"].mean[1]
    assert bool(found.attention) == (name not in ("DebertaV2Config", "MambaConfig"))
    assert any("attention was not read" in note for note in found.notes) == (not found.attention)
    assert any("tokens, not 12" in note for note in found.notes) == (found.length != 12)


@pytest.mark.parametrize("name", ["BertConfig", "LlamaConfig", "ViTConfig"])
def test_what_comes_out_is_what_the_architectures_layer_makes_of_what_goes_in(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    block: Any = block_of(config_of(name))
    (layers,) = [module for module in block.modules() if isinstance(module, nn.ModuleList)]
    assert len(layers) == 1
    states = torch.randn(2, block.length or 5, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if name == "LlamaConfig":
            causal = torch.full((states.shape[1],) * 2, -math.inf).triu(1)
            places = block.model.rotary_emb(states, torch.arange(states.shape[1])[None])
            expected = layers[0](states, attention_mask=causal[None, None], position_embeddings=places)
        else:
            expected = layers[0](states)
        torch.testing.assert_close(block(states), expected[0] if isinstance(expected, tuple) else expected)
    assert isinstance(block.model, transformers.PreTrainedModel)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in block.modules())


def test_a_model_stands_for_its_configuration_and_is_not_changed() -> None:
    transformers = pytest.importorskip("transformers")
    config = config_of("BertConfig")
    model = transformers.AutoModel.from_config(config, dtype=torch.bfloat16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = {"norms": (0, 1), "sequences": 2, "length": 8, "repeats": 2}
    assert drift(model, **settings) == drift(config_of("BertConfig"), **settings)
    assert config.num_hidden_layers == model.config.num_hidden_layers == 3
    assert model.training == transformers.AutoModel.from_config(config).training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_directory_stands_for_the_configuration_in_it(tmp_path: Any) -> None:
    config = config_of("BertConfig")
    config.architectures = ["BertModel"]
    config.save_pretrained(tmp_path)
    assert block_of(str(tmp_path)).name == block_of(tmp_path).name == "block of BertModel"


def test_the_embeddings_are_the_architectures_own_as_it_looks_them_up() -> None:
    bert, gemma, vit = (
        block_of(config_of(name), vocabulary=70) for name in ("BertConfig", "Gemma2Config", "ViTConfig")
    )
    assert bert.table().shape == (59, 16)  # without that of padding, which is zero
    assert (bert.table().norm(dim=-1) > 0).all()
    assert float(gemma.table().detach().std()) == pytest.approx(0.02 * 4, rel=0.2)  # times the root of the width
    assert vit.table().shape == (70, 16)


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_first_block_of_a_plain_module_is_run_by_itself(batch_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(12, 2, 24, batch_first=batch_first)
    model = nn.Sequential(nn.Linear(3, 12), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    block = block_of(model)
    assert (block.width, block.name) == (12, "first block of Sequential")
    states = torch.randn(5, 4, 12, generator=torch.Generator().manual_seed(0))
    theirs = model[1].layers[0].eval()
    with torch.no_grad():
        expected = theirs(states) if batch_first else theirs(states.transpose(0, 1)).transpose(0, 1)
        torch.testing.assert_close(block(states), expected)
    assert theirs.self_attn.batch_first == batch_first
    found = drift(model, norms=(0, 10), sequences=3, length=6, vocabulary=50, repeats=2)
    assert found.outputs["mean_cosine"].mean[0] < 0.5 < found.outputs["mean_cosine"].mean[1]
    assert found.attention


def test_biases_that_are_not_zero_make_a_common_mean_by_themselves() -> None:
    class Biased(BertBlock):
        def reset_parameters(self) -> None:
            super().reset_parameters()
            self.layers[0].linear2.bias.data.normal_(std=10)

    with_zero, with_others = (
        drift(kind(24, 3, 300), norms=(0,), sequences=4, length=10, repeats=1) for kind in (BertBlock, Biased)
    )
    assert with_zero.outputs["mean_cosine"].mean[0] < 0.1
    assert with_others.outputs["mean_cosine"].mean[0] > 0.9
    assert with_others.inputs["mean_cosine"].mean[0] < 0.1


@pytest.mark.parametrize(
    ("block", "error", "message"),
    [
        (3, TypeError, "block must be None, a Block, an nn.Module, or a configuration"),
        (nn.Linear(2, 2), ValueError, "it has no ModuleList or Sequential of blocks"),
        (nn.ModuleList([nn.Sequential(nn.Softmax(-1))]), ValueError, "blocks with a LayerNorm, RMSNorm or Linear"),
        (nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2), 1), ValueError, "blocks that take states .B, T, 4. alone"),
    ],
)  # fmt: skip
def test_what_has_no_block_to_run_is_refused(block: Any, error: type[Exception], message: str) -> None:
    if block == 3:
        pytest.importorskip("transformers")
    with pytest.raises(error, match=message):
        drift(block, norms=(0,), sequences=2, length=4, repeats=1)


def test_an_architecture_with_two_stacks_is_refused() -> None:
    transformers = pytest.importorskip("transformers")
    parts = {"text_config": {**TINY, "vocab_size": 60}, "vision_config": {**TINY, "image_size": 16, "patch_size": 8}}
    with pytest.raises(ValueError, match="model must have one stack of blocks; CLIPModel has none or several"):
        block_of(transformers.CLIPConfig(**parts))


def test_more_tokens_than_an_architecture_takes_are_refused() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(**TINY, vocab_size=60, max_position_embeddings=16)
    with pytest.raises(ValueError, match="length must be what BertModel can take; it cannot take 17 tokens"):
        drift(config, norms=(0,), sequences=2, length=17, repeats=1)


# Untrained copies


def test_an_untrained_copy_is_what_the_class_makes_of_the_configuration() -> None:
    transformers = pytest.importorskip("transformers")
    config = config_of("BertConfig")
    model = transformers.BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    before = states_of_generators()
    fresh = untrained(model, seed=5)
    assert states_of_generators() == before
    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = transformers.BertForSequenceClassification(config)
    assert type(fresh) is type(model)
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in fresh.state_dict().items())
    assert not any(module.training for module in fresh.modules())
    assert not torch.equal(fresh.classifier.weight, untrained(model, seed=6).classifier.weight)


def test_a_part_of_a_model_of_transformers_needs_not_all_that_its_class_makes() -> None:
    transformers = pytest.importorskip("transformers")
    part = transformers.BertForMaskedLM(config_of("BertConfig")).bert
    assert part.pooler is None
    assert untrained(part).state_dict().keys() == part.state_dict().keys()


def test_a_copy_of_plain_modules_is_as_newly_made() -> None:
    def make() -> nn.Sequential:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Embedding(5, 2), nn.GRU(2, 2), nn.LayerNorm(4))

    model = make()
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.add_(3)
    fresh = untrained(model, seed=2)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        expected = make()
    for name, value in expected.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name


def test_multi_head_attention_is_drawn_by_its_own_rule() -> None:
    attention = nn.MultiheadAttention(32, 4)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.fill_(9)
    fresh = untrained(attention)
    bound = math.sqrt(6 / (32 + 96))
    assert 0.95 * bound < float(fresh.in_proj_weight.detach().abs().max()) <= bound
    assert (fresh.in_proj_bias == 0).all()
    assert (fresh.out_proj.bias == 0).all()


def test_a_model_of_transformers_within_another_module_is_drawn_by_its_class() -> None:
    transformers = pytest.importorskip("transformers")
    model = nn.ModuleDict({"body": transformers.BertModel(config_of("BertConfig")), "head": nn.Linear(16, 2)})
    fresh = untrained(model)
    assert (fresh["body"].encoder.layer[0].intermediate.dense.bias == 0).all()
    assert float(fresh["body"].encoder.layer[0].intermediate.dense.weight.detach().std()) == pytest.approx(
        0.02, rel=0.15
    )
    assert not torch.equal(fresh["head"].weight, model["head"].weight)


def test_dtypes_gradients_modes_ties_and_constants_stay() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
            self.head.weight = self.words.weight
            self.norm = nn.LayerNorm(4, dtype=torch.float64)
            self.register_buffer("constant", torch.arange(3))

    model = Tied()
    model.norm.requires_grad_(False).eval()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    fresh = untrained(model, seed=1)
    assert fresh.head.weight is fresh.words.weight
    assert not torch.equal(fresh.words.weight, model.words.weight)
    assert fresh.norm.weight.dtype == torch.float64
    assert not fresh.norm.weight.requires_grad
    assert fresh.words.weight.requires_grad
    assert (fresh.training, fresh.norm.training) == (True, False)
    assert torch.equal(fresh.constant, torch.arange(3))
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_parameters_that_no_module_draws_are_named() -> None:
    class Prompted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prompt, self.linear = nn.Parameter(torch.zeros(3)), nn.Linear(2, 2)

    model = Prompted()
    before = states_of_generators()
    with pytest.raises(ValueError, match=r"no module of Prompted draws prompt; give .* reset_parameters\(\)"):
        untrained(model)
    assert states_of_generators() == before


def test_weights_that_are_computed_from_others_are_not_silently_kept() -> None:
    model = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"draws parametrizations\.weight\.original0, parametrizations"):
        untrained(model)


def test_a_model_with_parts_that_its_class_does_not_make_is_refused() -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.BertModel(config_of("BertConfig"))
    model.adapter = nn.Linear(2, 2)
    with pytest.raises(
        ValueError, match=r"BertModel\(config\) makes no adapter.weight, adapter.bias; pass the model without"
    ):
        untrained(model)


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module; got str"):
        untrained("bert")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed must be at least 0"):
        untrained(nn.Linear(1, 1), seed=-1)
