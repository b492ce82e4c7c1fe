"""Reading hidden states: which there are, how they are pooled and put together, and that the model does not notice."""

from __future__ import annotations

import copy
import gc
import math
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from simplicial_reg import entropy_deficit, rips_barcode
from simplicial_reg.training import Cloud, Tap, read_hidden_states
from tests.test_import import run

B, T, D = 3, 5, 4


class Block(nn.Module):
    """Like a transformer's block: returns a tuple that begins with the state."""

    def __init__(self, width: int = D) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, state: Tensor) -> tuple[Tensor, None]:
        return state + torch.tanh(self.linear(state)), None


class Net(nn.Module):
    """Embedding, blocks, a norm, a head; `reentrant` checkpoints the blocks, `skipped` drops some."""

    def __init__(self, blocks: int = 3, reentrant: bool | None = None, skipped: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.embedding = nn.Linear(D, D)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.norm = nn.LayerNorm(D)
        self.head = nn.Linear(D, 2)
        self.reentrant = reentrant
        self.skipped = skipped

    def forward(self, tokens: Tensor) -> Tensor:
        state = self.embedding(tokens)
        for at, block in enumerate(self.blocks):
            if at in self.skipped:
                continue
            if self.reentrant is None:
                state, _ = block(state)
            else:
                state, _ = checkpoint(block, state, use_reentrant=self.reentrant)
        return self.head(self.norm(state))


def states_of(net: Net, tokens: Tensor) -> list[Tensor]:
    """The states, by running the parts one after another."""
    states = [net.embedding(tokens)]
    for block in net.blocks:
        states.append(block(states[-1])[0])
    return states


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def tokens() -> Tensor:
    return random(B, T, D)


# True where the token is real: all, padded on the right, padded on the left.
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1]])


def tapped(model: nn.Module, *inputs: Any, mask: Any = None, labels: Any = None, **options: Any) -> Cloud:
    with Tap(model, **options) as tap:
        model(*inputs)
        return tap.read(mask=mask, labels=labels)


def same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def hooks_of(model: nn.Module) -> int:
    return sum(
        len(hooks)
        for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._forward_hooks_always_called)
    )


# Which states


def test_states_are_numbered_from_the_embeddings_and_from_the_end(net: Net, tokens: Tensor) -> None:
    states = states_of(net, tokens)
    for number in range(-4, 4):
        assert same(tapped(net, tokens, layer=number, pooling="tokens").points, states[number].flatten(0, 1))


def test_last_is_the_output_of_the_last_block_where_no_last_hidden_state_is_returned(net: Net, tokens: Tensor) -> None:
    assert same(tapped(net, tokens, pooling="tokens").points, states_of(net, tokens)[3].flatten(0, 1))


def test_all_are_the_states_without_the_embeddings(net: Net, tokens: Tensor) -> None:
    wanted = torch.stack(states_of(net, tokens)[1:]).flatten(1, 2)
    assert same(tapped(net, tokens, layer="all", pooling="tokens").points, wanted)


def test_a_name_gives_the_output_of_that_module(net: Net, tokens: Tensor) -> None:
    states = states_of(net, tokens)
    assert same(tapped(net, tokens, layer="norm", pooling="tokens").points, net.norm(states[3]).flatten(0, 1))
    assert same(tapped(net, tokens, layer="blocks.1", pooling="tokens").points, states[2].flatten(0, 1))


def test_a_sequence_gives_one_cloud_for_each_in_its_order(net: Net, tokens: Tensor) -> None:
    states = states_of(net, tokens)
    wanted = torch.stack([states[2], net.norm(states[3]), states[3], states[0]]).flatten(1, 2)
    assert same(tapped(net, tokens, layer=[2, "norm", "last", -4], pooling="tokens").points, wanted)
    assert tapped(net, tokens, layer=[2]).points.shape == (1, B, D)


def test_a_block_that_runs_repeatedly_counts_as_often_as_it_runs(tokens: Tensor) -> None:
    block = Block()
    net = Net(1)
    net.blocks = nn.ModuleList([block] * 3)
    states = states_of(net, tokens)
    for number in range(-4, 4):
        assert same(tapped(net, tokens, layer=number, pooling="tokens").points, states[number].flatten(0, 1))
    # By its name, the last run counts.
    assert same(tapped(net, tokens, layer="blocks.0", pooling="tokens").points, states[3].flatten(0, 1))


@pytest.mark.parametrize("skipped", [(0,), (1,), (2,), (0, 1), (1, 2)])
def test_a_block_that_is_skipped_hands_on_its_input(tokens: Tensor, skipped: tuple[int, ...]) -> None:
    net = Net(skipped=skipped)
    states = [net.embedding(tokens)]
    for at, block in enumerate(net.blocks):
        states.append(states[-1] if at in skipped else block(states[-1])[0])
    assert same(tapped(net, tokens, layer=[0, 1, 2, 3], pooling="tokens").points, torch.stack(states).flatten(1, 2))
    assert same(tapped(net, tokens, pooling="tokens").points, states[3].flatten(0, 1))


def test_outputs_may_be_tensors_tuples_or_dicts() -> None:
    class Returns(nn.Module):
        def __init__(self, form: Callable[[Tensor], Any]) -> None:
            super().__init__()
            self.form = form

        def forward(self, tokens: Tensor) -> Any:
            return self.form(tokens)

    class Holder(nn.Module):
        def __init__(self, form: Callable[[Tensor], Any]) -> None:
            super().__init__()
            self.part = Returns(form)

        def forward(self, tokens: Tensor) -> Tensor:
            self.part(tokens)
            return tokens

    tokens = random(2, 3, 4)
    forms: list[Callable[[Tensor], Any]] = [
        lambda x: x,
        lambda x: (x, None),
        lambda x: [(x, 1), 2],
        lambda x: {"input_ids": 0, "token_embeddings": x},
        lambda x: {"last_hidden_state": x, "pooler_output": x[:, 0]},
    ]
    for form in forms:
        assert same(tapped(Holder(form), tokens, layer="part", pooling="tokens").points, tokens.flatten(0, 1))
    for form in (lambda x: {"logits": x}, lambda x: None, lambda x: (None, x), lambda x: x.long()):
        with pytest.raises(TypeError, match=r"the output of layer 'part' must be, or begin with, a floating-point"):
            tapped(Holder(form), tokens, layer="part")


def test_a_sequential_of_equal_blocks_is_a_stack_and_one_of_other_modules_is_not() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(D, D)

        def forward(self, state: Tensor) -> Tensor:
            return torch.sin(self.linear(state))

    stack = nn.Sequential(Plain(), Plain())
    state = random(B, D)
    for model in (stack, nn.Sequential(stack, nn.Linear(D, 2))):
        assert same(tapped(model, state, layer=1).points, stack[0](state))
        assert same(tapped(model, state).points, stack(state))
    with pytest.raises(
        ValueError, match=r"because it has no ModuleList or Sequential of blocks to number; its parts are '0', '1'"
    ):
        Tap(nn.Sequential(nn.Linear(D, D), nn.ReLU()))


def test_a_part_of_a_block_is_not_taken_for_the_stack(tokens: Tensor) -> None:
    net = Net()
    for block in net.blocks:
        block.experts = nn.ModuleList([nn.Sequential(nn.Linear(D, D), nn.ReLU()) for _ in range(2)])
    assert same(tapped(net, tokens, layer=1, pooling="tokens").points, states_of(net, tokens)[1].flatten(0, 1))


def test_two_stacks_are_an_error_that_lists_them() -> None:
    both = nn.Module()
    both.encoder, both.decoder = Net(), Net(2)
    with pytest.raises(
        ValueError,
        match=r"model must have one stack of blocks, or layer be the name of a module; Module has 2: "
        r"'encoder.blocks' \(3 × Block\), 'decoder.blocks' \(2 × Block\); tap the part .* Tap\(model.encoder\), "
        r"or pass layer='encoder.blocks.0'",
    ):
        Tap(both)
    Tap(both, layer="encoder.blocks.0")


def test_of_two_stacks_the_one_as_long_as_the_configuration_says_is_meant(tokens: Tensor) -> None:
    class Config:
        num_hidden_layers = 3
        is_encoder_decoder = False

    class Both(Net):
        def __init__(self) -> None:
            super().__init__()
            self.config = Config()
            self.filters = nn.ModuleList([Block(), Block()])

    both = Both()
    assert same(tapped(both, tokens, layer=1, pooling="tokens").points, states_of(both, tokens)[1].flatten(0, 1))
    both.config.is_encoder_decoder = True  # then the number speaks of one of them, and does not say of which
    with pytest.raises(ValueError, match="Both has 2"):
        Tap(both)


def test_a_part_of_a_running_model_can_be_tapped(net: Net, tokens: Tensor) -> None:
    whole = nn.Sequential(net, nn.Linear(2, 2))
    with Tap(net, layer=2, pooling="tokens") as tap:
        whole(tokens)
        assert same(tap.read().points, states_of(net, tokens)[2].flatten(0, 1))


# Pooling and clouds


def pooled_by_loops(state: Tensor, mask: Tensor, pooling: str) -> list[list[float]]:
    rows = []
    state = state.detach()
    for b in range(len(state)):
        real = [[float(x) for x in state[b, t]] for t in range(state.shape[1]) if mask[b, t]]
        if pooling == "cls":
            rows.append(real[0])
        elif pooling == "max":
            rows.append([max(column) for column in zip(*real, strict=True)])
        else:
            rows.append([math.fsum(column) / len(real) for column in zip(*real, strict=True)])
    return rows


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "first-last-mean"])
@pytest.mark.parametrize("mask", [MASK, MASK.bool(), MASK.to(torch.uint8), None], ids=["int", "bool", "byte", "none"])
def test_poolings_are_those_written_out_in_loops(net: Net, tokens: Tensor, pooling: str, mask: Tensor | None) -> None:
    cloud = tapped(net, tokens, pooling=pooling, mask=mask)
    states = states_of(net, tokens)
    shown = torch.ones(B, T) if mask is None else mask
    wanted = torch.tensor(pooled_by_loops(states[3], shown, pooling))
    if pooling == "first-last-mean":
        wanted = (wanted + torch.tensor(pooled_by_loops(states[0], shown, pooling))) / 2
    torch.testing.assert_close(cloud.points, wanted)
    assert (cloud.mask is None) == (mask is None)
    assert cloud.mask is None or cloud.mask.tolist() == [True] * B


def test_cls_is_the_first_real_token_wherever_the_padding_is(net: Net, tokens: Tensor) -> None:
    last = states_of(net, tokens)[3]
    points = tapped(net, tokens, pooling="cls", mask=MASK).points
    assert same(points, torch.stack([last[0, 0], last[1, 0], last[2, 2]]))


def test_a_function_may_pool(net: Net, tokens: Tensor) -> None:
    def last_token(state: Tensor, mask: Tensor | None) -> Tensor:
        assert mask is not None
        assert mask.dtype == torch.bool
        at = mask.shape[1] - 1 - mask.flip(1).to(torch.int8).argmax(1)
        return state[torch.arange(len(state)), at]

    last = states_of(net, tokens)[3]
    cloud = tapped(net, tokens, pooling=last_token, mask=MASK)
    assert same(cloud.points, torch.stack([last[0, 4], last[1, 2], last[2, 4]]))
    with pytest.raises(ValueError, match=r"pooling must return points \(B, d\), here \(3, d\); got \(3, 5, 4\)"):
        tapped(net, tokens, pooling=lambda state, mask: state)


def test_feature_maps_need_a_function() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten())
    images = random(2, 3, 8, 8)
    with pytest.raises(
        ValueError, match=r"layer must give states \(B, T, d\) or \(B, d\); got \(2, 6, 6, 6\); pass a function"
    ):
        tapped(model, images, layer="0")
    points = tapped(model, images, layer="0", pooling=lambda state, mask: state.mean((2, 3))).points
    assert same(points, model[0](images).mean((2, 3)))


def test_a_state_of_one_vector_for_each_sentence_is_taken_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(D, 6), nn.Tanh())
    sentences = random(B, D)
    for pooling in ("mean", "cls", "max", "tokens"):
        for mask in (MASK * torch.tensor([[1], [0], [1]]), torch.tensor([True, False, True])):
            cloud = tapped(model, sentences, layer="1", pooling=pooling, mask=mask)
            assert same(cloud.points, model(sentences))
            assert cloud.mask is not None
            assert cloud.mask.tolist() == [True, False, True]


LABELS = torch.tensor([7, 8, 9])


def test_tokens_are_masked_and_carry_the_label_of_their_sentence_or_their_own(net: Net, tokens: Tensor) -> None:
    cloud = tapped(net, tokens, pooling="tokens", mask=MASK, labels=LABELS)
    assert cloud.points.shape == (B * T, D)
    assert cloud.mask is not None
    assert same(cloud.mask, MASK.bool().flatten())
    assert cloud.labels is not None
    assert cloud.labels.tolist() == [7] * T + [8] * T + [9] * T
    own = torch.arange(B * T).view(B, T)
    cloud = tapped(net, tokens, pooling="tokens", labels=own)
    assert cloud.labels is not None
    assert same(cloud.labels, torch.arange(B * T))


def test_padding_counts_as_tokens_only_if_asked_for(net: Net, tokens: Tensor) -> None:
    cloud = tapped(net, tokens, layer="all", pooling="tokens", cloud="union", include_padding=True, mask=MASK)
    assert cloud.mask is None
    # As I-STAR was published: stack of hidden states without the first, reshaped to points.
    assert same(cloud.points, torch.stack(states_of(net, tokens)[1:]).reshape(-1, D))


# (cloud, pooling) to the shape of points and the labels, for two states.
SHAPES: dict[tuple[str, str], tuple[tuple[int, ...], list[Any]]] = {
    ("layer", "mean"): ((2, B, D), [[7, 8, 9]] * 2),
    ("layer", "tokens"): ((2, B * T, D), [[7] * T + [8] * T + [9] * T] * 2),
    ("union", "mean"): ((2 * B, D), [7, 8, 9] * 2),
    ("union", "tokens"): ((2 * B * T, D), ([7] * T + [8] * T + [9] * T) * 2),
    ("sentence", "tokens"): ((2 * B, T, D), [[7] * T, [8] * T, [9] * T] * 2),
}


@pytest.mark.parametrize(("form", "wanted"), SHAPES.items(), ids=map("-".join, SHAPES))
def test_clouds_are_of_a_layer_of_all_layers_or_of_a_sentence(
    net: Net, tokens: Tensor, form: tuple[str, str], wanted: tuple[tuple[int, ...], list[Any]]
) -> None:
    cloud, pooling = form
    read = tapped(net, tokens, layer=[1, 3], cloud=cloud, pooling=pooling, mask=MASK, labels=LABELS)
    assert read.points.shape == wanted[0]
    assert read.mask is not None
    assert read.labels is not None
    assert read.mask.shape == read.labels.shape == wanted[0][:-1]
    assert read.labels.tolist() == wanted[1]
    states = states_of(net, tokens)
    for at, state in enumerate([states[1], states[3]]):
        mine = read.points.reshape(2, -1, D)[at]
        mask = read.mask.reshape(2, -1)[at]
        if pooling == "mean":
            torch.testing.assert_close(mine, torch.tensor(pooled_by_loops(state, MASK, "mean")))
        else:
            assert same(mine, state.reshape(-1, D))
            assert same(mask, MASK.bool().flatten())


def test_a_regularizer_takes_the_cloud_as_it_is(net: Net, tokens: Tensor) -> None:
    for options in ({"pooling": "tokens", "layer": "all"}, {"pooling": "tokens", "cloud": "sentence"}, {"layer": 1}):
        cloud = tapped(net, tokens, mask=MASK, labels=LABELS, **options)
        net.zero_grad()
        entropy_deficit(rips_barcode(cloud.points, mask=cloud.mask)[0]).mean().backward()
        gradient = net.blocks[0].linear.weight.grad
        assert gradient is not None
        assert gradient.abs().sum() > 0


# A sentence without a real token, and padding that holds NaN

EMPTY = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0]])


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "first-last-mean", "tokens"])
def test_a_sentence_without_a_real_token_is_masked_out(net: Net, tokens: Tensor, pooling: str) -> None:
    cloud = tapped(net, tokens, pooling=pooling, mask=EMPTY)
    assert cloud.mask is not None
    assert cloud.mask.view(B, -1).any(1).tolist() == [True, False, True]
    assert cloud.points.isfinite().all()


def test_a_sentence_without_a_real_token_makes_no_cloud(net: Net, tokens: Tensor) -> None:
    cloud = tapped(net, tokens, layer="all", pooling="tokens", cloud="sentence", mask=EMPTY, labels=LABELS)
    assert cloud.points.shape == (6, T, D)
    assert cloud.labels is not None
    assert cloud.labels[:, 0].tolist() == [7, 9] * 3
    rips_barcode(cloud.points, mask=cloud.mask)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "first-last-mean", "tokens"])
def test_padding_that_is_nan_neither_counts_nor_receives_a_gradient(pooling: str) -> None:
    def loss(states: list[Tensor], mask: Tensor) -> Tensor:
        cloud = read_hidden_states(states, pooling=pooling, mask=mask)
        assert cloud.mask is not None
        return torch.where(cloud.mask.unsqueeze(-1), cloud.points, 0).square().sum()

    states = [random(B, T, D, seed=seed) for seed in range(2)]
    mask = EMPTY.bool()
    clean = loss(states, mask)
    spoiled = [torch.where(mask.unsqueeze(-1), state, math.nan).requires_grad_() for state in states]
    value = loss(spoiled, mask)
    torch.testing.assert_close(value, clean)
    value.backward()
    last = spoiled[1].grad
    assert last is not None
    assert last.isfinite().all()
    assert last[~mask].abs().sum() == 0
    assert last[mask].abs().sum() > 0


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "first-last-mean", "tokens"])
def test_gradients_of_the_poolings_are_right(pooling: str) -> None:
    first, last = (random(B, T, D, seed=seed, dtype=torch.float64).requires_grad_() for seed in range(2))

    def points(first: Tensor, last: Tensor) -> Tensor:
        return read_hidden_states([first, last], pooling=pooling, mask=MASK).points

    assert points(first, last).dtype == torch.float64
    assert torch.autograd.gradcheck(points, (first, last))


def test_half_precision_is_pooled_in_float32() -> None:
    state = random(2, 3000, 2).abs().to(torch.bfloat16)
    for pooling in ("mean", "cls", "max", "tokens"):
        points = read_hidden_states([state, state], pooling=pooling).points
        assert points.dtype == torch.float32
        if pooling == "mean":  # a sum in bfloat16 would be off in the second digit
            torch.testing.assert_close(points, state.double().mean(1).float())


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "first-last-mean", "tokens"])
def test_pooling_reads_no_values_so_the_host_waits_for_no_accelerator(pooling: str) -> None:
    # A tensor on the meta device has no values: to read one is an error, as for a sentence's own cloud.
    states = [torch.zeros(B, T, D, device="meta")] * 2
    mask, labels = MASK.to("meta"), LABELS.to("meta")
    for cloud in ("layer", "union"):
        read_hidden_states(states, pooling=pooling, cloud=cloud, mask=mask, labels=labels)
    with pytest.raises(NotImplementedError, match="meta"):
        read_hidden_states(states, pooling="tokens", cloud="sentence", mask=mask)


def test_autocast_changes_the_states_and_not_the_pooling(net: Net, tokens: Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16), Tap(net, layer="blocks.0.linear") as tap:
        net(tokens)
        points = tap.read(mask=MASK).points
    assert points.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        state = net.blocks[0].linear(net.embedding(tokens))
    assert state.dtype == torch.bfloat16
    torch.testing.assert_close(points, torch.tensor(pooled_by_loops(state, MASK, "mean")))


# Hooks


def test_nothing_is_left_on_the_model(net: Net, tokens: Tensor) -> None:
    before = copy.deepcopy(net.state_dict())
    options: list[dict[str, Any]] = [{}, {"layer": "all"}, {"layer": ["norm", 1]}, {"pooling": "first-last-mean"}]
    for more in options:
        with Tap(net, **more):
            assert hooks_of(net) > 0
            net(tokens)
        assert hooks_of(net) == 0
    with pytest.raises(ZeroDivisionError), Tap(net):
        net(tokens[: 1 // 0])
    assert hooks_of(net) == 0
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), Tap(net):
        net(random(B, T, D + 1))
    assert hooks_of(net) == 0
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_opening_twice_puts_the_hooks_once_and_closing_twice_is_no_error(net: Net, tokens: Tensor) -> None:
    tap = Tap(net).open()
    count = hooks_of(net)
    assert tap.open() is tap
    assert hooks_of(net) == count
    net(tokens)
    assert tap.read().points.shape == (B, D)
    tap.close()
    tap.close()
    assert hooks_of(net) == 0


def test_the_output_is_what_it_is_without_a_tap(net: Net, tokens: Tensor) -> None:
    wanted = net(tokens)
    with Tap(net, layer="all"):
        assert same(net(tokens), wanted)


def test_two_taps_read_one_forward(net: Net, tokens: Tensor) -> None:
    with Tap(net, layer=1) as one, Tap(net, layer="norm", pooling="cls") as other:
        net(tokens)
        states = states_of(net, tokens)
        torch.testing.assert_close(one.read().points, states[1].mean(1))
        assert same(other.read().points, net.norm(states[3])[:, 0])


def test_reading_before_a_forward_or_twice_is_an_error(net: Net, tokens: Tensor) -> None:
    tap = Tap(net)
    with pytest.raises(RuntimeError, match="the tap is closed"):
        tap.read()
    with tap:
        with pytest.raises(RuntimeError, match="Net has not run since the tap was opened or read"):
            tap.read()
        net(tokens)
        tap.read()
        with pytest.raises(RuntimeError, match="Net has not run since"):
            tap.read()
        net(tokens)
    with pytest.raises(RuntimeError, match="the tap is closed"):
        tap.read()


def test_a_part_that_is_called_alone_is_not_a_forward_and_keeps_nothing(net: Net, tokens: Tensor) -> None:
    with Tap(net) as tap:
        net.blocks[0](tokens)
        with pytest.raises(RuntimeError, match="if only a part of it is called, tap that part"):
            tap.read()
        assert not tap._forwards


def test_a_forward_that_fails_is_not_read(net: Net, tokens: Tensor) -> None:
    with Tap(net, pooling="tokens") as tap:
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            net(random(B, T, D + 1))
        net.blocks[0](tokens)
        with pytest.raises(RuntimeError, match="has not run"):
            tap.read()
        net(tokens)
        assert same(tap.read().points, states_of(net, tokens)[3].flatten(0, 1))


def test_a_mask_that_does_not_fit_leaves_the_forward_to_be_read(net: Net, tokens: Tensor) -> None:
    with Tap(net) as tap:
        net(tokens)
        with pytest.raises(ValueError, match="mask must have"):
            tap.read(mask=torch.ones(B, T + 1).bool())
        assert tap.read(mask=MASK).points.shape == (B, D)


def test_the_latest_forward_is_read(net: Net, tokens: Tensor) -> None:
    with Tap(net, pooling="tokens") as tap:
        net(random(2, 3, D))
        net(tokens)
        assert same(tap.read().points, states_of(net, tokens)[3].flatten(0, 1))


@pytest.mark.parametrize("pooling", ["mean", "tokens"])
def test_the_latest_forwards_are_read_one_after_another(net: Net, pooling: str) -> None:
    pairs = [random(2, 3, D, seed=1), random(4, 5, D, seed=2)]
    masks = [torch.ones(2, 3).bool(), torch.arange(5) < torch.tensor([[5], [1], [2], [3]])]
    labels = [torch.tensor([1, 2]), torch.tensor([3, 4, 5, 6])]
    with Tap(net, forwards=2, layer="all", pooling=pooling) as tap:
        for batch in (random(9, 9, D), *pairs):
            net(batch)
        read = tap.read(mask=masks, labels=labels)
        alone = []
        for batch, mask, labelling in zip(pairs, masks, labels, strict=True):
            net(batch)
            alone.append(tap.read(mask=mask, labels=labelling))
    for part, wanted in zip(read, zip(*alone, strict=True), strict=True):
        assert part is not None
        assert same(part, torch.cat([value for value in wanted if value is not None], 1))
    # The sentences of two forwards, padded to the longer.
    with Tap(net, forwards=2, pooling="tokens", cloud="sentence") as tap:
        for batch in pairs:
            net(batch)
        cloud = tap.read(labels=labels)
    assert cloud.points.shape == (6, 5, D)
    assert cloud.mask is not None
    assert cloud.mask.sum(1).tolist() == [3, 3, 5, 5, 5, 5]
    assert same(cloud.points[:2, :3], states_of(net, pairs[0])[3])
    with Tap(net, forwards=2) as tap:
        net(pairs[0])
        net(pairs[1])
        with pytest.raises(ValueError, match="mask must be one tensor for each of the 2 forwards to be read; got 1"):
            tap.read(mask=masks[0])


def test_no_more_than_the_asked_for_forwards_are_held(net: Net, tokens: Tensor) -> None:
    with Tap(net, forwards=2, layer="all") as tap:
        for _ in range(5):
            net(tokens)
        assert len(tap._forwards) == 2


@pytest.mark.parametrize("leave", ["read", "close", "forward"])
@pytest.mark.parametrize("layer", ["last", "all", "norm"])
def test_states_are_not_held_after_reading_closing_or_the_next_forward(
    net: Net, tokens: Tensor, leave: str, layer: str
) -> None:
    held: list[weakref.ref[Tensor]] = []
    for module in [*net.blocks, net.norm]:
        module.register_forward_hook(
            lambda module, args, output: held.append(weakref.ref(output[0] if isinstance(output, tuple) else output))
        )
    with torch.no_grad(), Tap(net, layer=layer) as tap:
        net(tokens)
        gc.collect()
        assert sum(state() is not None for state in held) == (3 if layer == "all" else 1)
        kept = held.copy()
        if leave == "read":
            tap.read()
        elif leave == "close":
            tap.close()
        else:
            net(tokens)
        gc.collect()
        assert all(state() is None for state in kept)


def test_a_copy_of_a_tapped_model_is_not_tapped(net: Net, tokens: Tensor) -> None:
    with Tap(net, layer=["last", "norm"], pooling="tokens") as tap:
        net(tokens)
        twin = copy.deepcopy(net)
        with torch.no_grad():
            twin.embedding.weight.zero_()
        twin(random(1, 2, D))
        assert same(tap.read().points[0], states_of(net, tokens)[3].flatten(0, 1))
    assert hooks_of(net) == 0


# Gradients


def gradients(model: nn.Module, inputs: dict[str, Any], mask: Tensor | None, **options: Any) -> list[Tensor]:
    """Of a loss on the output and one on the cloud, for all parameters."""
    model.zero_grad()
    with Tap(model, **options) as tap:
        output = model(**inputs)
        output = output if isinstance(output, Tensor) else output.last_hidden_state
        cloud = tap.read(mask=mask)
        loss = output.square().mean() + entropy_deficit(rips_barcode(cloud.points, mask=cloud.mask)[0]).mean()
        loss.backward()
        with pytest.raises(RuntimeError, match="has not run"):  # what backward computes again is not a forward
            tap.read()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def runs_of(module: nn.Module) -> list[int]:
    """Becomes longer by one each time that a linear layer in the module runs: twice with checkpointing."""
    runs: list[int] = []
    linear = next(part for part in module.modules() if isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D")
    linear.register_forward_hook(lambda module, args, output: runs.append(1))
    return runs


def test_the_gradient_through_the_tap_is_that_of_the_written_out_model(net: Net, tokens: Tensor) -> None:
    mine = gradients(net, {"tokens": tokens}, MASK, layer="all", pooling="tokens")
    net.zero_grad()
    states = torch.stack(states_of(net, tokens)[1:]).flatten(1, 2)
    mask = MASK.bool().flatten().expand(3, -1)
    (net(tokens).square().mean() + entropy_deficit(rips_barcode(states, mask=mask)[0]).mean()).backward()
    for one, parameter in zip(mine, net.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_are_the_same_with_blocks_checkpointed_hooks_and_all(tokens: Tensor, reentrant: bool) -> None:
    def at(reentrant: bool | None) -> list[Tensor]:
        torch.manual_seed(0)
        net = Net(reentrant=reentrant)
        runs = runs_of(net.blocks[0])
        found = gradients(net, {"tokens": tokens.clone().requires_grad_()}, MASK, layer="all", pooling="tokens")
        assert len(runs) == (1 if reentrant is None else 2)
        return found

    for mine, wanted in zip(at(reentrant), at(None), strict=True):
        torch.testing.assert_close(mine, wanted)


def test_what_reentrant_checkpointing_computes_without_gradients_is_an_error_to_read(tokens: Tensor) -> None:
    inside = "blocks.1.linear"
    net = Net(reentrant=True)
    with Tap(net, layer=inside) as tap:
        net(tokens.requires_grad_())
        with pytest.raises(
            RuntimeError, match=rf"the output of '{inside}' has no gradient, although its parameters want one"
        ):
            tap.read()
        with torch.no_grad():  # to be measured only
            assert tap.read().points.shape == (B, D)
    assert tapped(Net(reentrant=False), tokens, layer=inside).points.requires_grad


def test_frozen_blocks_and_forwards_without_gradients_can_be_read(net: Net, tokens: Tensor) -> None:
    with torch.no_grad(), Tap(net) as tap:
        net(tokens)
    with Tap(net) as tap:
        with torch.no_grad():
            net(tokens)
        assert not tap.read().points.requires_grad
    net.requires_grad_(False)
    net.head.requires_grad_(True)
    assert not tapped(net, tokens).points.requires_grad


# torch.compile, wrappers, torch's own encoder


# torch's own: its compiler asks every tensor that is computed for its gradient.
compiling = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning")


@pytest.fixture
def compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@compiling
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_models_give_the_same_points_and_gradients_in_one_graph(
    net: Net, tokens: Tensor, backend: str
) -> None:
    def step(model: nn.Module, tap: Tap) -> tuple[Tensor, list[Tensor]]:
        net.zero_grad()
        output = model(tokens)
        points = tap.read(mask=MASK).points
        (output.square().mean() + points.square().mean()).backward()
        return points, [parameter.grad for parameter in net.parameters() if parameter.grad is not None]

    with Tap(net, layer=["norm", 1, "last"]) as tap:
        wanted, wanted_gradients = step(net, tap)
    compiled = torch.compile(net, backend=backend, fullgraph=True)
    with Tap(compiled, layer=["norm", 1, "last"]) as tap:
        step(compiled, tap)
        with torch.compiler.set_stance("fail_on_recompile"):
            for _ in range(2):
                points, mine = step(compiled, tap)
                torch.testing.assert_close(points, wanted)
                torch.testing.assert_close(mine, wanted_gradients)


@compiling
@pytest.mark.usefixtures("compiler")
def test_a_tap_on_a_model_compiled_before_reads_rightly_or_says_what_to_do(net: Net, tokens: Tensor) -> None:
    compiled = torch.compile(net, backend="eager")
    compiled(tokens)
    with Tap(compiled) as tap:
        compiled(tokens)
        with pytest.raises(
            RuntimeError,
            match=r"Net ran, but its forward did not reach any block of the stack; if it was compiled before the tap was opened, "
            r"open the tap first, or call torch.compiler.reset\(\)",
        ):
            tap.read()
    torch.compiler.reset()
    read = 0
    for layer in ("blocks.0", "blocks.1", "all", 1, [1, "blocks.2.linear"], -1):
        with Tap(compiled, layer=layer) as tap:
            compiled(tokens)
            try:
                points = tap.read().points
            except RuntimeError:
                continue
        read += 1
        torch.testing.assert_close(points, tapped(net, tokens, layer=layer).points)
    assert read > 0


class Wrapper(nn.Module):
    """As PEFT does it: around the model, calling its `forward` past its hooks."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model.forward(*args, **kwargs)


def test_wrapped_models_are_read_and_their_modules_found_under_either_name(net: Net, tokens: Tensor) -> None:
    wanted = tapped(net, tokens, layer=[2, "norm"]).points
    parallel = nn.DataParallel(net)  # without accelerators it only calls the model
    assert same(tapped(parallel, tokens, layer=[2, "norm"]).points, wanted)
    assert same(tapped(parallel, tokens, layer=[2, "module.norm"]).points, wanted)
    assert same(tapped(Wrapper(net), tokens, layer=[2, "model.norm"]).points, wanted)
    inside = copy.deepcopy(net)
    inside.norm = nn.DataParallel(inside.norm)
    assert same(tapped(inside, tokens, layer=[2, "norm"]).points, wanted)


def test_copies_on_several_devices_are_refused(net: Net) -> None:
    parallel = nn.DataParallel(net)
    parallel.device_ids = [0, 1]
    with pytest.raises(ValueError, match="model must not be DataParallel on several devices"):
        Tap(parallel)


def test_a_copy_of_a_data_parallel_that_was_put_around_the_tapped_model_is_refused(net: Net, tokens: Tensor) -> None:
    with Tap(net):
        with pytest.raises(ValueError, match="model must not be DataParallel on several devices"):
            net._replicate_for_data_parallel()(tokens)
        net(tokens)  # the model itself is not one


@pytest.mark.usefixtures("one_rank")
def test_distributed_data_parallel_gives_the_same_gradients(net: Net, tokens: Tensor) -> None:
    wanted = [value.clone() for value in gradients(net, {"tokens": tokens}, MASK, pooling="tokens")]
    parallel = nn.parallel.DistributedDataParallel(net)
    mine = gradients(parallel, {"tokens": tokens}, MASK, pooling="tokens")
    torch.testing.assert_close(mine, wanted)


def torch_encoder(norm: bool = False, batch_first: bool = True) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(D, 2, 8, batch_first=batch_first, dropout=0.0)
    return nn.TransformerEncoder(layer, 2, nn.LayerNorm(D) if norm else None, enable_nested_tensor=batch_first)


@pytest.mark.parametrize("norm", [False, True])
def test_last_of_torchs_own_encoder_is_what_it_returns(norm: bool, tokens: Tensor) -> None:
    encoder = torch_encoder(norm)
    for model in (encoder, nn.Sequential(encoder, nn.Linear(D, 2))):
        assert same(tapped(model, tokens, pooling="tokens").points, encoder(tokens).flatten(0, 1))


# torch's own warning that it uses nested tensors where sentences are padded and no gradients are wanted
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
@pytest.mark.parametrize("layer", ["last", 1])
def test_nested_tensors_of_torchs_own_encoder_are_read(layer: str | int, tokens: Tensor) -> None:
    encoder = torch_encoder()
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]).bool()
    points = []
    for training in (True, False):
        encoder.train(training)
        with torch.set_grad_enabled(training), Tap(encoder, layer=layer, pooling="tokens") as tap:
            encoder(tokens, src_key_padding_mask=~mask)
            points.append(tap.read(mask=mask).points[mask.flatten()])
    torch.testing.assert_close(points[0].detach(), points[1])


def test_states_with_tokens_first_are_turned(tokens: Tensor) -> None:
    encoder = torch_encoder(batch_first=False)
    turned = tokens.transpose(0, 1)
    cloud = tapped(encoder, turned, batch_first=False, mask=MASK)
    torch.testing.assert_close(
        cloud.points, torch.tensor(pooled_by_loops(encoder(turned).transpose(0, 1), MASK, "mean"))
    )
    for layer in ("last", "layers.1"):
        with pytest.raises(
            ValueError, match="batch_first must be False, as TransformerEncoderLayer of this model has it"
        ):
            Tap(encoder, layer=layer)
    with pytest.raises(ValueError, match="batch_first must be True"):
        Tap(torch_encoder(), batch_first=False)


# Hugging Face


@pytest.fixture(scope="module")
def hf() -> Any:
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    return transformers


SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "vocab_size": 30,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
OF_DISTILBERT = {"vocab_size": 30, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 20}
OF_GPT2 = {"vocab_size": 30, "n_embd": 16, "n_layer": 3, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}
OF_T5 = {"vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 20, "num_layers": 3, "num_heads": 2}
OF_VIT = {**{key: SMALL[key] for key in list(SMALL)[:4]}, "image_size": 8, "patch_size": 4}
OF_WAV2VEC2 = {
    **SMALL,
    "conv_dim": (8, 8),
    "conv_stride": (4, 4),
    "conv_kernel": (8, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "layerdrop": 0.0,
}
TEXTS: dict[str, tuple[str, dict[str, Any]]] = {
    "BertModel": ("BertConfig", SMALL),
    "BertForSequenceClassification": ("BertConfig", SMALL),
    "BertForMaskedLM": ("BertConfig", SMALL),
    "DistilBertModel": ("DistilBertConfig", OF_DISTILBERT),
    "RobertaModel": ("RobertaConfig", SMALL),
    "AlbertModel": ("AlbertConfig", {**SMALL, "embedding_size": 8}),
    "GPT2Model": ("GPT2Config", OF_GPT2),
    "GPT2LMHeadModel": ("GPT2Config", OF_GPT2),
    "LlamaModel": ("LlamaConfig", SMALL),
    "LlamaForCausalLM": ("LlamaConfig", SMALL),
}
IDS = torch.tensor([[3, 5, 7, 11, 13], [4, 6, 8, 0, 0]])
ATTENTION = (IDS != 0).long()
TEXT = {"input_ids": IDS, "attention_mask": ATTENTION}


def small(hf: Any, name: str) -> Any:
    torch.manual_seed(0)
    config, arguments = TEXTS[name]
    return getattr(hf, name)(getattr(hf, config)(**arguments)).eval()


def final_state(model: Any, output: Any) -> Tensor:
    """`last_hidden_state`, which models with a head do not return, but their base model does."""
    if "last_hidden_state" in output:
        return output.last_hidden_state  # type: ignore[no-any-return]
    return model.base_model(**TEXT).last_hidden_state  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", TEXTS)
def test_states_of_language_models_are_hugging_faces_hidden_states(hf: Any, name: str) -> None:
    model = small(hf, name)
    with torch.no_grad(), Tap(model, layer=[0, 1, 2, 3, "last"], pooling="tokens", cloud="sentence") as tap:
        output = model(**TEXT, output_hidden_states=True)
        points = tap.read().points
        wanted = [*output.hidden_states, final_state(model, output)]
        model(**TEXT)  # without Hugging Face's own hooks at work
        assert same(tap.read().points, points)
    assert len(wanted) == 5
    assert same(points, torch.cat(wanted))
    assert same(wanted[3], wanted[4])


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "first-last-mean", "tokens"])
def test_a_tap_reads_what_is_read_from_the_output(hf: Any, name: str, pooling: str) -> None:
    model = small(hf, name)
    labels = torch.tensor([1, 2])
    for layer in ["last"] if pooling == "first-last-mean" else ["last", "all", 1, -2, [0, 3]]:
        with torch.no_grad(), Tap(model, layer=layer, pooling=pooling) as tap:
            output = model(**TEXT, output_hidden_states=True)
            mine = tap.read(mask=ATTENTION, labels=labels)
        wanted = read_hidden_states(output, layer=layer, pooling=pooling, mask=ATTENTION, labels=labels)
        for one, other in zip(mine, wanted, strict=True):
            assert one is not None
            assert other is not None
            assert same(one, other)


def test_an_output_as_a_tuple_is_read_as_well(hf: Any) -> None:
    for name in ("GPT2Model", "LlamaForCausalLM", "BertModel"):
        model = small(hf, name)
        with torch.no_grad(), Tap(model, pooling="tokens") as tap:
            wanted = final_state(model, model(**TEXT)).flatten(0, 1)
            model(**TEXT, return_dict=False)
            assert same(tap.read().points, wanted)


def test_a_final_norm_is_seen_through_a_wrapper_that_calls_forward(hf: Any) -> None:
    for name in ("GPT2Model", "LlamaForCausalLM"):
        model = small(hf, name)
        wrapper = Wrapper(model)
        with torch.no_grad(), Tap(wrapper, pooling="tokens") as tap:
            wrapper(**TEXT)
            assert same(tap.read().points, final_state(model, model(**TEXT)).flatten(0, 1))


@pytest.mark.parametrize("stable", [False, True])
def test_vision_and_speech_models_may_keep_the_state_before_the_norm_under_the_blocks_name(
    hf: Any, stable: bool
) -> None:
    torch.manual_seed(0)
    if stable:
        config = hf.Wav2Vec2Config(**OF_WAV2VEC2, do_stable_layer_norm=True, feat_extract_norm="layer")
        model, block = hf.Wav2Vec2Model(config).eval(), "encoder.layers.2"
        inputs = {"input_values": random(2, 200)}
    else:
        model, block = hf.ViTModel(hf.ViTConfig(**OF_VIT)).eval(), "layers.2"
        inputs = {"pixel_values": random(2, 3, 8, 8)}
    with torch.no_grad(), Tap(model, layer=[0, 1, 2, block, 3, "last"], pooling="tokens", cloud="sentence") as tap:
        output = model(**inputs, output_hidden_states=True)
        points = tap.read().points
    assert not same(output.hidden_states[3], output.last_hidden_state)
    assert same(points, torch.cat([*output.hidden_states, output.last_hidden_state, output.last_hidden_state]))


def test_of_an_encoder_with_a_decoder_one_is_tapped_while_both_run(hf: Any) -> None:
    torch.manual_seed(0)
    model = hf.T5ForConditionalGeneration(hf.T5Config(**OF_T5, decoder_start_token_id=0)).eval()
    with pytest.raises(ValueError, match=r"has 2: 'encoder.block' \(3 × T5Block\), 'decoder.block' \(3 × T5Block\)"):
        Tap(model)
    inputs = {**TEXT, "decoder_input_ids": IDS[:, :3]}
    options: dict[str, Any] = {"layer": [0, 1, 2, 3], "pooling": "tokens", "cloud": "sentence"}
    with torch.no_grad(), Tap(model.encoder, **options) as encoder, Tap(model.decoder, **options) as decoder:
        output = model(**inputs, output_hidden_states=True)
        assert same(encoder.read().points, torch.cat(output.encoder_hidden_states))
        assert same(decoder.read().points, torch.cat(output.decoder_hidden_states))
        # By name it is the module's own output.
        named = Tap(model, layer="encoder", pooling="tokens").open()
        model(**inputs)
        assert same(named.read().points, output.encoder_last_hidden_state.flatten(0, 1))
    cloud = read_hidden_states(output.decoder_hidden_states, layer=2, pooling="tokens")
    assert same(cloud.points, output.decoder_hidden_states[2].flatten(0, 1))


def test_a_pooler_is_read_by_its_name(hf: Any) -> None:
    model = small(hf, "BertModel")
    with torch.no_grad(), Tap(model, layer="pooler") as tap:
        output = model(**TEXT)
        cloud = tap.read(mask=ATTENTION, labels=torch.tensor([3, 4]))
    assert same(cloud.points, output.pooler_output)
    assert cloud.mask is not None
    assert cloud.mask.tolist() == [True, True]


@pytest.mark.parametrize("name", ["BertModel", "LlamaModel", "GPT2Model"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_are_the_same_with_gradient_checkpointing(hf: Any, name: str, reentrant: bool) -> None:
    def at(checkpointing: bool) -> list[Tensor]:
        model = small(hf, name).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
            enable({"use_reentrant": reentrant})
            if reentrant:
                model.enable_input_require_grads()
        runs = runs_of(Tap(model)._stack.blocks[0])  # type: ignore[union-attr]
        inputs = TEXT if name == "BertModel" else {**TEXT, "use_cache": False}
        found = gradients(model, inputs, ATTENTION, layer="all", pooling="tokens")
        assert len(runs) == 1 + checkpointing
        return found

    mine, wanted = at(True), at(False)
    assert sum(value.abs().sum() for value in wanted) > 0
    for one, other in zip(mine, wanted, strict=True):
        torch.testing.assert_close(one, other)


@compiling
@pytest.mark.usefixtures("compiler")
def test_a_compiled_language_model_gives_the_same_points(hf: Any) -> None:
    model = small(hf, "BertModel")
    wanted = read_hidden_states(model(**TEXT, output_hidden_states=True), layer="all", mask=ATTENTION).points
    compiled = torch.compile(model, backend="aot_eager")
    with Tap(compiled, layer="all") as tap:
        for _ in range(2):
            compiled(**TEXT)
            points = tap.read(mask=ATTENTION).points
    torch.testing.assert_close(points, wanted)
    assert points.requires_grad


def test_a_sentence_transformer_is_read_like_the_model_in_it(hf: Any, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer

    try:
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    except ImportError:
        from sentence_transformers.models import Pooling, Transformer
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    hf.BertTokenizer(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    small(hf, "BertModel").save_pretrained(tmp_path)
    part = Transformer(str(tmp_path))
    model = SentenceTransformer(modules=[part, Pooling(16, "mean")], device="cpu").eval()
    features = model.preprocess(["a b c d", "e f"])
    with torch.no_grad(), Tap(model) as mean, Tap(model, layer=["1"]) as pooled, Tap(model, layer="0") as first:
        output = model(dict(features))
        mask = features["attention_mask"]
        torch.testing.assert_close(mean.read(mask=mask).points, output["sentence_embedding"])
        assert same(pooled.read(mask=mask).points[0], output["sentence_embedding"])
        torch.testing.assert_close(first.read(mask=mask).points, output["sentence_embedding"])


# Bad input


def test_unknown_names_list_the_nearest(net: Net) -> None:
    with pytest.raises(
        ValueError,
        match=r'layer must be "last", "all", a number or the name of a module of Net, as in named_modules\(\); got '
        r"'block.1'; the nearest are 'blocks.1', ",
    ):
        Tap(net, layer="block.1")
    with pytest.raises(ValueError, match="the nearest are 'embedding', 'blocks', 'norm', 'head'"):
        Tap(net, layer="???")
    with pytest.raises(ValueError, match="got ''"):
        Tap(net, layer="")


@pytest.mark.parametrize("number", [4, -5])
def test_a_number_that_the_model_does_not_have_is_an_error(net: Net, tokens: Tensor, number: int) -> None:
    with pytest.raises(ValueError, match=rf"layer must be in -4\.\.3, for 3 blocks; got {number}"):
        tapped(net, tokens, layer=number)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"layer": True}, TypeError, "layer must be a str, an int, or a sequence of these; got bool"),
    ({"layer": 1.5}, TypeError, "layer must be a str, an int, or a sequence of these; got float"),
    ({"layer": [1, None]}, TypeError, "layer must be a str, an int, or a sequence of these; got NoneType"),
    ({"layer": []}, ValueError, "layer must name at least one state; got an empty sequence"),
    ({"layer": ["all", 1]}, ValueError, 'layer must be "all" alone or a sequence without it'),
    (
        {"pooling": "avg"},
        ValueError,
        "pooling must be one of 'mean', 'cls', 'max', 'first-last-mean', 'tokens'; got 'avg'",
    ),
    (
        {"pooling": "first-last-mean", "layer": 2},
        ValueError,
        'layer must be left at "last" for pooling="first-last-mean"',
    ),
    ({"cloud": "batch"}, ValueError, "cloud must be one of 'layer', 'union', 'sentence'; got 'batch'"),
    ({"cloud": "sentence"}, ValueError, 'pooling must be "tokens" for cloud="sentence".*; got \'mean\''),
    ({"include_padding": True}, ValueError, "pooling must be \"tokens\" for include_padding=True.*; got 'mean'"),
    ({"forwards": 0}, ValueError, "forwards must be at least 1; got 0"),
    ({"forwards": True}, TypeError, "forwards must be an int; got bool"),
]


@pytest.mark.parametrize(("options", "error", "text"), BAD, ids=[text for _, _, text in BAD])
def test_bad_arguments_are_refused_at_once(
    net: Net, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Tap(net, **options)


def test_the_model_must_be_a_module() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module; got function"):
        Tap(lambda tokens: tokens)  # type: ignore[arg-type]


BAD_READ: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"mask": MASK.float()}, TypeError, r"mask must be a bool or integer tensor, .*; got torch.float32"),
    ({"mask": MASK.tolist()}, TypeError, "mask must be a tensor, a sequence of tensors, or None; got list"),
    (
        {"mask": MASK[:, :4]},
        ValueError,
        r"mask must have \(3, 5\) entries, one for each token of states \(3, 5, 4\); got \(3, 4\)",
    ),
    (
        {"mask": MASK[:, 0]},
        ValueError,
        r"mask must have \(3, 5\) entries, one for each token of states \(3, 5, 4\); got \(3,\)",
    ),
    ({"mask": MASK[None, None]}, ValueError, r"mask must have shape \(B, T\) or \(B,\); got \(1, 1, 3, 5\)"),
    ({"mask": [MASK, MASK]}, ValueError, "mask must be one tensor for each of the 1 forwards to be read; got 2"),
    ({"labels": "abc"}, TypeError, "labels must be a tensor, a sequence of tensors, or None; got str"),
    ({"labels": torch.arange(4)}, ValueError, r"labels must have shape \(3,\), one for each point; got \(4,\)"),
    ({"labels": MASK}, ValueError, r"labels must have shape \(3,\), one for each point; got \(3, 5\)"),
    ({"mask": MASK.to("meta")}, ValueError, "mask must be on the device of the states, cpu; got meta"),
    ({"labels": LABELS.to("meta")}, ValueError, "labels must be on the device of the states, cpu; got meta"),
]


@pytest.mark.parametrize(("given", "error", "text"), BAD_READ, ids=[text for _, _, text in BAD_READ])
def test_masks_and_labels_that_do_not_fit_are_refused(
    net: Net, tokens: Tensor, given: dict[str, Any], error: type[Exception], text: str
) -> None:
    with Tap(net) as tap:
        net(tokens)
        with pytest.raises(error, match=text):
            tap.read(**given)


def test_labels_of_tokens_may_be_of_sentences_or_tokens_only(net: Net, tokens: Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"labels must have shape \(3,\) or \(3, 5\), one for each point; got \(3, 4\)"
    ):
        tapped(net, tokens, pooling="tokens", labels=MASK[:, :4])


def test_a_function_needs_a_mask_of_as_many_sentences(net: Net, tokens: Tensor) -> None:
    with pytest.raises(ValueError, match=r"mask must have \(3,\) entries, one for each sentence"):
        tapped(net, tokens, pooling=lambda state, mask: state[:, 0], mask=MASK[:2])


def test_states_of_different_shapes_are_refused(net: Net, tokens: Tensor) -> None:
    with pytest.raises(ValueError, match=r"layer must name states of one shape; got \(3, 5, 4\), \(3, 5, 2\)"):
        tapped(net, tokens, layer=["norm", "head"])


def test_outputs_without_hidden_states_are_refused(hf: Any) -> None:
    output = small(hf, "BertModel")(**TEXT)
    with pytest.raises(
        ValueError, match=r"output must have hidden_states; .* has none; call the model with output_hidden_states"
    ):
        read_hidden_states(output)
    with pytest.raises(ValueError, match="output must have hidden_states; list has none"):
        read_hidden_states([])
    with pytest.raises(TypeError, match="hidden states must be tensors; number 1 is tuple"):
        read_hidden_states((torch.zeros(1, 2, 3), ()))
    with pytest.raises(ValueError, match="where there is no model to name modules of; got 'encoder'"):
        read_hidden_states([torch.zeros(1, 2, 3)], layer="encoder")
    with pytest.raises(ValueError, match=r"layer='all' is not among the states"):
        read_hidden_states([torch.zeros(1, 2, 3)], layer="all")
    with pytest.raises(ValueError, match=r"layer=0 is not among the states"):
        read_hidden_states([None, torch.zeros(1, 2, 3)], layer=0)


def test_importing_the_tap_imports_none_of_the_libraries_it_reads(tmp_path: Path) -> None:
    done = run(
        "import sys, simplicial_reg.training.tap; print([name for name in sys.modules if 'transformers' in name])",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
