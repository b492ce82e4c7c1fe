"""The added line: its value and gradients, what it keeps and what it saves, and what it says on a bad day."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from simplicial_reg import (
    CosineLoss,
    IsoScoreStarLoss,
    PersistentEntropyLoss,
    Regularizer,
    RTDLoss,
    entropy_deficit,
    rips_barcode,
)
from simplicial_reg.engines import ENGINES, Engine
from simplicial_reg.training.memory import subsample
from simplicial_reg.training.regularization import Regularization
from simplicial_reg.training.weight import BalancedWeight, schedule

B, T, D = 6, 5, 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)

    def forward(self, state: Tensor) -> Tensor:
        return state + torch.tanh(self.linear(state))


class Net(nn.Module):
    """Embedding, dropout, three blocks, a head on the mean over tokens; `checkpointed` runs the upper blocks again in backward."""

    def __init__(self, dropout: float = 0.0, checkpointed: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Linear(D, D)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(D, 2)
        self.checkpointed = checkpointed

    def forward(self, tokens: Tensor) -> Tensor:
        state = self.dropout(self.embedding(tokens))
        for block in self.blocks:
            state = checkpoint(block, state, use_reentrant=False) if self.checkpointed else block(state)
        return self.head(state.mean(1))


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make(**arguments: Any) -> Net:
    torch.manual_seed(0)
    return Net(**arguments).double()


def flat(depth: int = 2) -> nn.Sequential:
    """A model whose states are (B, d)."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()


@pytest.fixture
def net() -> Net:
    return make()


@pytest.fixture
def tokens() -> Tensor:
    return random(B, T, D)


@pytest.fixture
def mask() -> Tensor:
    """Sentences of 5, 4, 3, 2, 1 and 5 tokens."""
    return torch.arange(T) < torch.tensor([5, 4, 3, 2, 1, 5]).unsqueeze(1)


def task(output: Tensor) -> Tensor:
    return output.square().mean()


def states_of(net: Net, tokens: Tensor) -> list[Tensor]:
    """State 0 to 3, by running the parts one after another."""
    states = [net.dropout(net.embedding(tokens))]
    for block in net.blocks:
        states.append(block(states[-1]))
    return states


def deficit(points: Tensor) -> Tensor:
    """The default regularizer, for points without a mask."""
    return entropy_deficit(rips_barcode(points)[0]).mean()


def gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, allow_unused=True)
    return [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(model.parameters(), found, strict=True)
    ]


def assert_same(found: Tensor, expected: Tensor, model: nn.Module, **tolerance: float) -> None:
    """Equal values, and equal gradients at all parameters, some of which are not zero."""
    tolerance = tolerance or {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(found, expected, **tolerance)
    gradient = gradients(expected, model)
    assert any(part.abs().max() > 1e-6 for part in gradient)
    torch.testing.assert_close(gradients(found, model), gradient, **tolerance)


# --- value and gradients ------------------------------------------------------------------------------------------------------


def mean_of(state: Tensor, mask: Tensor) -> Tensor:
    return torch.stack([row[real].mean(0) for row, real in zip(state, mask, strict=True)])


def real_tokens(state: Tensor, mask: Tensor) -> Tensor:
    return torch.cat([row[real] for row, real in zip(state, mask, strict=True)])


# The arguments, and the mean loss of the clouds they stand for, written out from the states and the mask.
FORMS: dict[str, tuple[dict[str, Any], Callable[[list[Tensor], Tensor], Tensor]]] = {
    "mean": ({}, lambda states, mask: deficit(mean_of(states[-1], mask))),
    "cls": ({"pooling": "cls"}, lambda states, mask: deficit(states[-1][:, 0])),
    "max": (
        {"pooling": "max", "layer": 2},
        lambda states, mask: deficit(
            torch.stack([row[real].amax(0) for row, real in zip(states[2], mask, strict=True)])
        ),
    ),
    "first-last-mean": (
        {"pooling": "first-last-mean"},
        lambda states, mask: deficit((mean_of(states[0], mask) + mean_of(states[-1], mask)) / 2),
    ),
    "tokens": ({"pooling": "tokens"}, lambda states, mask: deficit(real_tokens(states[-1], mask))),
    "tokens and padding": (
        {"pooling": "tokens", "include_padding": True},
        lambda states, mask: deficit(states[-1].flatten(0, 1)),
    ),
    "a function": (
        {"pooling": lambda state, mask: state[:, 1] * 2, "layer": "blocks.0"},
        lambda states, mask: deficit(states[1][:, 1]),
    ),
    "every layer": (
        {"layer": "all"},
        lambda states, mask: torch.stack([deficit(mean_of(state, mask)) for state in states[1:]]).mean(),
    ),
    "union of layers": (
        {"layer": [0, "last"], "cloud": "union"},
        lambda states, mask: deficit(torch.cat([mean_of(states[0], mask), mean_of(states[-1], mask)])),
    ),
    "union of tokens of all layers": (
        {"layer": "all", "pooling": "tokens", "cloud": "union"},
        lambda states, mask: deficit(torch.cat([real_tokens(state, mask) for state in states[1:]])),
    ),
    "sentences": (
        {"pooling": "tokens", "cloud": "sentence"},
        lambda states, mask: torch.stack(
            [deficit(row[real]) for row, real in zip(states[-1], mask, strict=True)]
        ).mean(),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_loss_is_the_written_out_sum(form: str, net: Net, tokens: Tensor, mask: Tensor) -> None:
    arguments, expected = FORMS[form]
    regularization = Regularization(net, weight=0.3, **arguments)
    task_loss = task(net(tokens))
    loss = regularization(task_loss, mask=mask.long())
    penalty = expected(states_of(net, tokens), mask)
    assert penalty > 1e-3
    assert_same(loss, task(net(tokens)) + 0.3 * penalty, net)
    torch.testing.assert_close(regularization.logs["persistent-entropy"], penalty.detach())
    assert regularization.logs["task_loss"] == task_loss
    assert regularization.logs["persistent-entropy_weight"] == 0.3


def test_a_state_without_tokens_is_one_point_for_each_sentence() -> None:
    model, inputs = flat(), random(12, 3)
    regularization = Regularization(model, "cosreg", layer="1", weight=0.5)
    loss = regularization(task(model(inputs)))
    assert_same(loss, task(model(inputs)) + 0.5 * CosineLoss()(model[:2](inputs)), model)


def test_several_regularizers_have_a_weight_each(net: Net, tokens: Tensor) -> None:
    losses: dict[str, str | Regularizer] = {
        "even": "persistent-entropy",
        "loops": PersistentEntropyLoss(1),
        "cos": "cosreg",
    }
    weights = {"cos": 2.0, "loops": schedule("linear", value=1.0, warmup=0.5, total=8), "even": 0.25}
    regularization = Regularization(net, losses, weight=weights)
    for _ in range(2):
        regularization.advance()
    loss = regularization(task(net(tokens)))
    points = states_of(net, tokens)[-1].mean(1)
    expected = (
        task(net(tokens)) + 0.25 * deficit(points) + 0.5 * PersistentEntropyLoss(1)(points) + 2 * CosineLoss()(points)
    )
    assert_same(loss, expected, net)
    assert set(regularization.logs) == {"task_loss", *losses, *(f"{name}_weight" for name in losses)}


def test_one_number_is_the_weight_of_every_regularizer(net: Net, tokens: Tensor) -> None:
    regularization = Regularization(net, {"a": "persistent-entropy", "b": "cosreg"}, weight=0.5)
    loss = regularization(task(net(tokens)))
    points = states_of(net, tokens)[-1].mean(1)
    assert_same(loss, task(net(tokens)) + 0.5 * (deficit(points) + CosineLoss()(points)), net)


def test_regularizers_that_are_given_one_weight_do_not_share_it(net: Net) -> None:
    weight = schedule("linear", warmup=1.0, total=10)
    for given in (weight, {"a": weight, "b": weight}):
        regularization = Regularization(net, {"a": "persistent-entropy", "b": "cosreg"}, weight=given)
        regularization.advance()
        assert [int(one.step) for one in regularization.weights.values()] == [1, 1]
    assert int(weight.step) == 0


def test_a_balanced_weight_of_a_gathered_cloud_is_synchronized(net: Net) -> None:
    weight = BalancedWeight(0.3)
    for gather in (True, False):
        regularization = Regularization(net, weight=weight, gather=gather)
        assert regularization.weights["persistent-entropy"].synchronized == gather
    assert not weight.synchronized


def test_the_balanced_weight_gives_the_penalty_a_tenth_of_the_force(net: Net, tokens: Tensor) -> None:
    regularization = Regularization(net)
    loss = regularization(task(net(tokens)))
    last = states_of(net, tokens)[-1].detach().requires_grad_()
    (by_task,) = torch.autograd.grad(task(net.head(last.mean(1))), last)
    (by_penalty,) = torch.autograd.grad(deficit(last.mean(1)), last)
    weight = float(0.1 * by_task.norm() / by_penalty.norm())
    assert regularization.logs["persistent-entropy_weight"] == pytest.approx(weight, rel=1e-5)
    used = regularization.logs["persistent-entropy_weight"]
    assert_same(loss, task(net(tokens)) + used * deficit(states_of(net, tokens)[-1].mean(1)), net)


@pytest.mark.parametrize("weight", [0.3, None], ids=["constant", "balanced"])
@pytest.mark.parametrize("scale", [0.25, torch.tensor(0.25, dtype=torch.float64)], ids=["number", "tensor"])
def test_scale_scales_the_whole_loss(scale: float | Tensor, weight: float | None, net: Net, tokens: Tensor) -> None:
    whole = Regularization(net, weight=weight)
    expected = whole(task(net(tokens))) / 4
    whole.close()
    scaled = Regularization(net, weight=weight)
    assert_same(scaled(task(net(tokens)) * scale, scale=scale), expected, net)
    torch.testing.assert_close(scaled.logs, whole.logs)


def test_accumulated_micro_batches_are_their_mean(net: Net) -> None:
    batches = random(3, B, T, D)
    regularization = Regularization(net, weight=0.3)
    for batch in batches:
        regularization(task(net(batch)) / 3, scale=1 / 3).backward()
    found = [parameter.grad for parameter in net.parameters()]
    whole = [task(net(batch)) + 0.3 * deficit(states_of(net, batch)[-1].mean(1)) for batch in batches]
    torch.testing.assert_close(found, gradients(torch.stack(whole).mean(), net), rtol=1e-9, atol=1e-12)


def test_two_forwards_form_one_cloud(net: Net, tokens: Tensor) -> None:
    other = random(B, T, D, seed=1)
    regularization = Regularization(net, weight=0.3, forwards=2)
    loss = regularization(task(net(tokens) - net(other)))
    points = torch.cat([states_of(net, batch)[-1].mean(1) for batch in (tokens, other)])
    assert_same(loss, task(net(tokens) - net(other)) + 0.3 * deficit(points), net)


def test_labels_reach_only_a_regularizer_per_label(net: Net, tokens: Tensor) -> None:
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    losses = {"classes": CosineLoss(per_label=True), "all": CosineLoss()}
    loss = Regularization(net, losses, weight={"classes": 1.0, "all": 0.5})(task(net(tokens)), labels=labels)
    points = states_of(net, tokens)[-1].mean(1)
    by_class = (CosineLoss()(points[::2]) + CosineLoss()(points[1::2])) / 2
    assert_same(loss, task(net(tokens)) + by_class + 0.5 * CosineLoss()(points), net)


def test_labels_of_another_task_are_not_looked_at_without_per_label(net: Net, tokens: Tensor) -> None:
    regularization = Regularization(net, "cosreg", weight=1.0)
    loss = regularization(task(net(tokens)), labels=torch.rand(B, 17))
    assert regularization.points is not None
    assert regularization.points.labels is None
    assert loss == task(net(tokens)) + CosineLoss()(states_of(net, tokens)[-1].mean(1))


# --- evaluation, references, hooks ----------------------------------------------------------------------------------------------


def no_grad(regularization: Regularization) -> Any:
    return torch.no_grad()


def evaluation(regularization: Regularization) -> Any:
    regularization.eval()
    return torch.enable_grad()


@pytest.mark.parametrize("off", [evaluation, no_grad])
def test_in_evaluation_the_task_loss_comes_back_and_nothing_is_kept(
    off: Callable[[Regularization], Any], net: Net, tokens: Tensor
) -> None:
    regularization = Regularization(net, weight=0.3, memory=4)
    references = []
    handle = net.blocks[-1].register_forward_hook(lambda module, args, output: references.append(weakref.ref(output)))
    with off(regularization):
        output = net(tokens)
        task_loss = task(output)
        assert regularization(task_loss) is task_loss
    assert regularization.memory is not None
    assert regularization.memory.points is None
    assert regularization.logs == {}
    del output, task_loss
    gc.collect()
    assert [reference() for reference in references] == [None]
    handle.remove()


def test_after_backward_no_graph_is_kept(net: Net, tokens: Tensor) -> None:
    regularization = Regularization(net, weight=None, memory=4, max_points=5)
    references = []
    handle = net.blocks[-1].register_forward_hook(lambda module, args, output: references.append(weakref.ref(output)))
    loss = regularization(task(net(tokens)))
    loss.backward()
    del loss
    gc.collect()
    assert [reference() for reference in references] == [None]
    assert not any(value.requires_grad for value in regularization.logs.values())
    assert regularization.points is not None
    assert not regularization.points.points.requires_grad
    handle.remove()


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_close_removes_the_hooks(net: Net, tokens: Tensor) -> None:
    regularization = Regularization(net)
    assert hooks_of(net) > 0
    regularization.close()
    assert hooks_of(net) == 0
    task_loss = task(net(tokens))
    with pytest.raises(RuntimeError, match="the tap is closed"):
        regularization(task_loss)


def test_a_refused_argument_leaves_no_hooks(net: Net) -> None:
    for arguments in ({"weight": -1.0}, {"regularizer": "nothing"}, {"layer": "nothing"}, {"memory": -1}):
        with pytest.raises(ValueError):  # noqa: PT011  # which messages is another test's
            Regularization(net, **arguments)
    assert hooks_of(net) == 0


def test_neither_holds_the_state_of_the_other(net: Net) -> None:
    before = list(net.state_dict())
    regularization = Regularization(net, "istar", memory=3)
    assert list(net.state_dict()) == before
    assert list(regularization.parameters()) == []
    assert not set(regularization.state_dict()) & set(before)


def test_outputs_and_gradients_of_the_model_are_those_without_it(net: Net, tokens: Tensor) -> None:
    expected = task(net(tokens))
    Regularization(net)
    assert_same(task(net(tokens)), expected, net, rtol=0.0, atol=0.0)


@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_a_copy_of_the_model_is_a_model_of_its_own(how: Callable[[Net], Net], net: Net, tokens: Tensor) -> None:
    regularization = Regularization(net, weight=0.3)
    task_loss = task(net(tokens))
    other = how(net)
    torch.testing.assert_close(other(tokens), net(tokens))
    net(tokens)
    other(random(B, T, D, seed=9))  # is not what the tap of the first sees
    found = regularization(task_loss)
    torch.testing.assert_close(found, task(net(tokens)) + 0.3 * deficit(states_of(net, tokens)[-1].mean(1)))
    again = Regularization(other, weight=0.3)
    torch.testing.assert_close(again(task(other(tokens))), found)


# --- memory, subsampling, state -------------------------------------------------------------------------------------------------


def test_memory_adds_earlier_points_as_constants(net: Net) -> None:
    first, second = random(2, B, T, D)
    regularization = Regularization(net, weight=0.3, memory=4)
    regularization(task(net(first)))
    earlier = states_of(net, first)[-1].mean(1).detach()[-4:]
    loss = regularization(task(net(second)))
    points = torch.cat([earlier, states_of(net, second)[-1].mean(1)])
    assert_same(loss, task(net(second)) + 0.3 * deficit(points), net)


def drawn(regularization: Regularization, net: Net, tokens: Tensor) -> Tensor:
    regularization(task(net(tokens)))
    assert regularization.points is not None
    return regularization.points.points


def test_max_points_is_the_subsample_of_seed_and_step(net: Net, tokens: Tensor) -> None:
    regularization = Regularization(net, weight=0.3, max_points=3, seed=5)
    regularization.step = 7
    loss = regularization(task(net(tokens)))
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([5, 7]).generate_state(1, np.uint32)[0]))
    points = subsample(states_of(net, tokens)[-1].mean(1), 3, generator=generator).points
    assert_same(loss, task(net(tokens)) + 0.3 * deficit(points), net)


def test_the_draw_differs_between_steps_and_seeds_and_is_the_same_after_resuming(net: Net, tokens: Tensor) -> None:
    regularization = Regularization(net, weight=0.3, max_points=3)
    draws = []
    for _ in range(8):
        draws.append(drawn(regularization, net, tokens))
        regularization.advance()
    # Of 20 subsets, eight draws are all the same with probability 20^-7.
    assert any(not torch.equal(draw, draws[0]) for draw in draws)
    regularization.step = 0
    torch.manual_seed(123)  # the global generator has no part in it
    assert torch.equal(drawn(regularization, net, tokens), draws[0])
    resumed = Regularization(net, weight=0.3, max_points=3)
    regularization.step = 5
    resumed.load_state_dict(regularization.state_dict())
    assert torch.equal(drawn(resumed, net, tokens), draws[5])
    seeds = [drawn(Regularization(net, weight=0.3, max_points=3, seed=seed), net, tokens) for seed in range(1, 8)]
    assert any(not torch.equal(draw, draws[0]) for draw in seeds)


class Run:
    """A training run with everything in it that has a state."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = Net(dropout=0.3)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        losses: dict[str, str | Regularizer] = {
            "even": "persistent-entropy",
            "istar": IsoScoreStarLoss(shrinkage=0.5, decay=0.9),
        }
        weights = {"even": BalancedWeight(), "istar": schedule("cosine", warmup=0.5, total=6)}
        self.regularization = Regularization(self.model, losses, weight=weights, memory=10, max_points=9)

    def steps(self, first: int, last: int) -> list[dict[str, Tensor]]:
        logs = []
        for step in range(first, last):
            tokens = random(B, T, D, seed=step, dtype=torch.float32)
            loss = self.regularization(task(self.model(tokens)))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.regularization.advance()
            logs.append(self.regularization.logs)
        return logs

    def parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "regularization": self.regularization}


def test_an_interrupted_run_continues_to_the_last_bit() -> None:
    straight = Run()
    torch.manual_seed(1)
    expected = straight.steps(0, 6)

    interrupted = Run()
    torch.manual_seed(1)
    interrupted.steps(0, 3)
    file = io.BytesIO()
    torch.save(
        {name: part.state_dict() for name, part in interrupted.parts().items()} | {"rng": torch.get_rng_state()}, file
    )
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = Run()
    for name, part in resumed.parts().items():
        part.load_state_dict(saved[name])
    torch.set_rng_state(saved["rng"])
    found = resumed.steps(3, 6)

    assert found == expected[3:]
    for one, other in zip(resumed.model.parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(one, other)
    one, other = resumed.regularization.state_dict(), straight.regularization.state_dict()
    assert list(one) == list(other)
    assert len(one) > 5
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("forgotten", ["regularization", "rng"])
def test_a_run_that_forgets_a_part_of_its_state_is_another_run(forgotten: str) -> None:
    straight, interrupted = Run(), Run()
    torch.manual_seed(1)
    straight.steps(0, 6)
    torch.manual_seed(1)
    interrupted.steps(0, 3)
    if forgotten == "rng":
        torch.manual_seed(2)
    else:
        interrupted.regularization.load_state_dict(Run().regularization.state_dict())
    interrupted.steps(3, 6)
    assert not torch.equal(interrupted.model.head.weight, straight.model.head.weight)


def test_the_state_holds_step_and_skips(net: Net) -> None:
    regularization = Regularization(net)
    regularization.step, regularization.skipped = 11, 2
    other = Regularization(net)
    other.load_state_dict(regularization.state_dict())
    assert (other.step, other.skipped) == (11, 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_moving_to_another_type_keeps_the_loss_up_to_rounding(dtype: torch.dtype, net: Net, tokens: Tensor) -> None:
    losses = {"even": PersistentEntropyLoss(), "istar": IsoScoreStarLoss(shrinkage=0.5, decay=0.9)}
    regularization = Regularization(net, losses, memory=4)
    regularization(task(net(tokens)))
    moved = Regularization(net, copy.deepcopy(losses), memory=4)
    moved.load_state_dict(regularization.state_dict())
    moved.to(dtype)
    task_loss = task(net(random(B, T, D, seed=1)))
    expected = regularization(task_loss).detach()
    rounding = 0.01 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(moved(task_loss).detach(), expected, rtol=rounding, atol=0)


def test_moving_to_a_device_moves_what_is_remembered(net: Net, tokens: Tensor) -> None:
    regularization = Regularization(net, memory=4)
    regularization(task(net(tokens)))
    devices = {
        value.device.type for value in regularization.to("meta").state_dict().values() if isinstance(value, Tensor)
    }
    assert devices == {"meta"}


# --- surroundings ---------------------------------------------------------------------------------------------------------------


# torch's own: its compiler asks every tensor that is computed for its gradient.
compiling = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning")


@pytest.fixture
def compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@compiling
@pytest.mark.usefixtures("compiler")
def test_a_compiled_model_gives_the_same_loss(net: Net, tokens: Tensor) -> None:
    compiled = torch.compile(net, backend="aot_eager")
    regularization = Regularization(compiled, weight=0.3)
    loss = regularization(task(compiled(tokens)))
    assert_same(loss, task(net(tokens)) + 0.3 * deficit(states_of(net, tokens)[-1].mean(1)), net)


@compiling
@pytest.mark.usefixtures("compiler")
def test_a_balanced_weight_works_with_compiled_blocks_and_refuses_a_model_compiled_as_a_whole(tokens: Tensor) -> None:
    net, by_block, whole = make(), make(), torch.compile(make(), backend="aot_eager")
    for block in by_block.blocks:
        block.compile(backend="aot_eager")
    expected = Regularization(net)(task(net(tokens)))
    found = Regularization(by_block)(task(by_block(tokens)))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, by_block), gradients(expected, net))
    # States and task loss are then outputs of one graph, side by side.
    regularization = Regularization(whole)
    task_loss = task(whole(tokens))
    with pytest.raises(ValueError, match="task_loss must depend on points"):
        regularization(task_loss)


def test_checkpointed_blocks_give_the_same_loss_with_a_balanced_weight(tokens: Tensor) -> None:
    net, checkpointed = make(), make(checkpointed=True)
    expected = Regularization(net, layer=1)(task(net(tokens)))
    loss = Regularization(checkpointed, layer=1)(task(checkpointed(tokens)))
    torch.testing.assert_close(loss, expected)
    # Through backward: checkpointing frees its buffers, and the balanced weight has been through the graph before.
    loss.backward()
    expected.backward()
    for one, other in zip(checkpointed.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_frozen_lower_layers_stay_frozen_and_the_others_get_their_gradient(net: Net, tokens: Tensor) -> None:
    expected = task(net(tokens)) + 0.3 * deficit(states_of(net, tokens)[-1].mean(1))
    upper = net.blocks[1:]
    expected_gradient = gradients(expected, upper)
    for part in (net.embedding, net.blocks[0]):
        part.requires_grad_(False)
    loss = Regularization(net, weight=0.3)(task(net(tokens)))
    loss.backward()
    assert [parameter.grad for parameter in (*net.embedding.parameters(), *net.blocks[0].parameters())] == [None] * 4
    torch.testing.assert_close([parameter.grad for parameter in upper.parameters()], expected_gradient)


def test_a_balanced_weight_says_when_all_that_is_tapped_is_frozen(net: Net, tokens: Tensor) -> None:
    net.requires_grad_(False)
    net.head.requires_grad_(True)
    regularization = Regularization(net)
    task_loss = task(net(tokens))
    with pytest.raises(ValueError, match="task_loss must depend on points, the hidden states"):
        regularization(task_loss)


def test_under_autocast_points_are_pooled_and_compared_in_float32(net: Net, tokens: Tensor) -> None:
    net, tokens = net.float(), tokens.float()
    regularization = Regularization(
        net, {"even": "persistent-entropy", "cos": "cosreg"}, layer="blocks.2.linear", weight=0.3
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss = regularization(task(net(tokens)))
        state = net.blocks[2].linear(states_of(net, tokens)[2])
    assert state.dtype == torch.bfloat16
    assert regularization.points is not None
    assert torch.equal(regularization.points.points, state.detach().float().mean(1))
    points = state.detach().float().mean(1)
    expected = regularization.logs["task_loss"] + 0.3 * (deficit(points) + CosineLoss()(points))
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-6, atol=0)
    loss.backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in net.parameters() if parameter.grad is not None)


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("weight", [0.3, None], ids=["constant", "balanced"])
def test_ddp_on_one_rank_is_the_model_alone(weight: float | None, net: Net, tokens: Tensor) -> None:
    parallel = nn.parallel.DistributedDataParallel(net)
    regularization = Regularization(parallel, weight=weight)
    regularization(task(parallel(tokens))).backward()
    found = [parameter.grad for parameter in net.parameters()]
    regularization.close()
    plain = Regularization(net, weight=weight)
    torch.testing.assert_close(found, gradients(plain(task(net(tokens))), net))


# --- bad days -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layer": "block.1"}, ValueError, r"'block.1'; the nearest are .*'blocks.1'"),
        ({"regularizer": "istr"}, ValueError, "regularizer must be one of .*'istar'.*; got 'istr'"),
        ({"regularizer": {"a": "istr"}}, ValueError, "regularizer must be one of .*; got 'istr'"),
        ({"regularizer": 3}, TypeError, "regularizer must be a name, a Regularizer, or a mapping .*; got int"),
        ({"regularizer": ["istar"]}, TypeError, "regularizer must be a name, .*; got list"),
        ({"regularizer": nn.MSELoss()}, TypeError, "regularizer must be a name, .*; got MSELoss"),
        ({"regularizer": CosineLoss}, TypeError, "regularizer must be a name, .*; got the class CosineLoss"),
        ({"regularizer": {}}, ValueError, "regularizer must name at least one"),
        ({"regularizer": {1: "istar"}}, TypeError, "names of a mapping of regularizers must be str; got int"),
        ({"regularizer": {"block.1": "istar"}}, ValueError, "another name than 'block.1'"),
        ({"regularizer": {"values": "istar"}}, ValueError, "another name than 'values'"),
        ({"regularizer": {"training": "istar"}}, ValueError, "another name than 'training'"),
        ({"regularizer": {"task_loss": "istar"}}, ValueError, "another name than 'task_loss'"),
        ({"regularizer": "rtd"}, ValueError, "RTDLoss compares two: read the points with a Tap"),
        ({"regularizer": {"a": RTDLoss()}}, ValueError, "RTDLoss compares two"),
        ({"weight": {"istar": 1.0}}, ValueError, r"the regularizers \['persistent-entropy'\]; got \['istar'\]"),
        ({"weight": {}}, ValueError, r"the regularizers \['persistent-entropy'\]; got \[\]"),
        ({"weight": {3: 1.0}}, ValueError, r"the regularizers \['persistent-entropy'\]; got \['3'\]"),
        ({"weight": "0.1"}, TypeError, "weight must be a number or a Weight .*; got str"),
        ({"weight": -0.1}, ValueError, "weight must be at least 0"),
        ({"memory": -1}, ValueError, "memory must be at least 0; got -1"),
        ({"memory": 2.5}, TypeError, "memory must be an int; got float"),
        ({"memory": 8, "pooling": "tokens", "cloud": "sentence"}, ValueError, 'memory must be 0 for cloud="sentence"'),
        ({"max_points": 0}, ValueError, "max_points must be None or at least 1; got 0"),
        ({"max_points": True}, TypeError, "max_points must be None or an int; got bool"),
        ({"seed": -1}, ValueError, "seed must be at least 0; got -1"),
        ({"reduction": "none"}, ValueError, "reduction must be one of 'mean', 'sum'; got 'none'"),
        ({"on_failure": "ignore"}, ValueError, "on_failure must be one of 'raise', 'skip'; got 'ignore'"),
        ({"model": 3}, TypeError, "model must be a torch.nn.Module; got int"),
    ],
)
def test_bad_arguments_are_named(net: Net, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Regularization(**{"model": net, **arguments})


def test_a_regularizer_of_ones_own_is_called_regularizer(net: Net, tokens: Tensor) -> None:
    class Spread(Regularizer):
        def cloud_losses(self, points: Tensor, mask: Tensor | None) -> Tensor:
            return points.square().sum((-1, -2))

    regularization = Regularization(net, Spread(), weight=1.0)
    regularization(task(net(tokens)))
    assert set(regularization.logs) == {"task_loss", "regularizer", "regularizer_weight"}


def test_a_model_that_has_not_run_is_named(net: Net) -> None:
    with pytest.raises(RuntimeError, match="Net has not run since the tap was opened or read"):
        Regularization(net)(torch.ones((), requires_grad=True))


def test_a_second_call_after_one_forward_is_refused(net: Net, tokens: Tensor) -> None:
    regularization = Regularization(net)
    task_loss = task(net(tokens))
    regularization(task_loss)
    with pytest.raises(RuntimeError, match="Net has not run since the tap was opened or read"):
        regularization(task_loss)


@pytest.mark.parametrize(
    ("task_loss", "error", "message"),
    [
        (1.0, TypeError, "task_loss must be a tensor, a scalar with its graph; got float"),
        (torch.ones(3), ValueError, r"task_loss must be one number; got shape \(3,\); use task_loss.mean"),
    ],
)
def test_a_task_loss_that_is_not_one_number_is_refused(
    task_loss: Any, error: type[Exception], message: str, net: Net, tokens: Tensor
) -> None:
    regularization = Regularization(net)
    net(tokens)
    with pytest.raises(error, match=message):
        regularization(task_loss)


@pytest.mark.parametrize("weight", [0.3, None], ids=["constant", "balanced"])
def test_a_later_forward_without_gradients_is_not_taken_for_that_of_the_task_loss(
    weight: float | None, net: Net, tokens: Tensor
) -> None:
    regularization = Regularization(net, weight=weight)
    task_loss = task(net(tokens))
    with torch.no_grad():
        net(tokens)
    with pytest.raises(RuntimeError, match="the latest forward of the model ran without gradients"):
        regularization(task_loss)


def test_of_two_forwards_one_may_be_constant(net: Net, tokens: Tensor) -> None:
    regularization = Regularization(net, weight=0.3, forwards=2)
    with torch.no_grad():
        net(tokens + 1)
    loss = regularization(task(net(tokens)))
    points = torch.cat([states_of(net, inputs)[-1].mean(1) for inputs in (tokens + 1, tokens)])
    assert_same(loss, task(net(tokens)) + 0.3 * deficit(torch.cat([points[:B].detach(), points[B:]])), net)


def test_a_frozen_model_is_no_forward_without_gradients(net: Net, tokens: Tensor) -> None:
    regularization = Regularization(net, weight=0.3, layer=1)
    for part in (net.embedding, net.blocks[0]):
        part.requires_grad_(False)
    assert regularization(task(net(tokens))).isfinite()


def test_a_class_with_one_member_is_a_cloud_of_one_point(net: Net, tokens: Tensor) -> None:
    labels = torch.tensor([0, 0, 0, 0, 0, 7])
    loss = Regularization(net, PersistentEntropyLoss(per_label=True), weight=0.3)(task(net(tokens)), labels=labels)
    points = states_of(net, tokens)[-1].mean(1)
    alone = PersistentEntropyLoss()(points[5:])
    assert alone.isfinite()
    assert_same(loss, task(net(tokens)) + 0.3 * (deficit(points[:5]) + alone) / 2, net)


@pytest.mark.parametrize("weight", [0.3, None], ids=["constant", "balanced"])
def test_a_batch_of_one_sentence_has_a_finite_loss_and_gradient(weight: float | None, net: Net) -> None:
    loss = Regularization(net, weight=weight)(task(net(random(1, T, D))))
    assert all(bool(gradient.isfinite().all()) for gradient in [loss, *gradients(loss, net)])


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "tokens"])
@pytest.mark.parametrize("gather", [True, False])
def test_a_row_of_padding_does_not_count_even_if_it_is_nan(
    gather: bool, pooling: str, net: Net, tokens: Tensor, mask: Tensor
) -> None:
    arguments: dict[str, Any] = {"weight": 0.3, "pooling": pooling, "gather": gather, "memory": 4}
    regularization = Regularization(net, **arguments)
    expected = regularization(task(net(tokens)[:5]), mask=mask & (torch.arange(B) < 5).unsqueeze(1))
    regularization.close()
    empty = tokens.clone()
    empty[5] = torch.nan
    some = mask.clone()
    some[5] = False
    loss = Regularization(net, **arguments)(task(net(empty)[:5]), mask=some)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("cloud", ["layer", "sentence"])
def test_tokens_of_padding_may_be_nan(cloud: str, net: Net, tokens: Tensor, mask: Tensor) -> None:
    tokens = tokens.masked_fill(~mask.unsqueeze(-1), torch.nan)
    regularization = Regularization(net, weight=0.3, pooling="tokens", cloud=cloud)
    net(tokens)
    assert regularization(torch.ones((), dtype=torch.float64, requires_grad=True), mask=mask).isfinite()


def test_a_batch_without_a_real_token_is_refused(net: Net, tokens: Tensor) -> None:
    regularization = Regularization(net)
    task_loss = task(net(tokens))
    with pytest.raises(ValueError, match="mask must leave at least one real point in every cloud"):
        regularization(task_loss, mask=torch.zeros(B, T, dtype=torch.long))


def test_labels_that_are_scores_are_refused_per_label(net: Net, tokens: Tensor) -> None:
    regularization = Regularization(net, CosineLoss(per_label=True))
    task_loss = task(net(tokens))
    with pytest.raises(TypeError, match=r"labels must be an integer tensor.*; got torch.float32"):
        regularization(task_loss, labels=torch.linspace(0, 5, B))


def test_missing_labels_are_asked_for(net: Net, tokens: Tensor) -> None:
    regularization = Regularization(net, CosineLoss(per_label=True))
    task_loss = task(net(tokens))
    with pytest.raises(ValueError, match="labels must be given with per_label=True"):
        regularization(task_loss)


def diverge(net: Net, tokens: Tensor) -> Tensor:
    """A task loss of a forward in which two values of the third sentence overflow after the second block."""

    def overflow(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        broken = output.clone()
        broken[2, 0, 1:3] = torch.tensor([torch.nan, torch.inf], dtype=output.dtype)
        return broken

    handle = net.blocks[1].register_forward_hook(overflow, prepend=True)
    loss = task(net(tokens)[:2])
    handle.remove()
    return loss


def test_points_that_are_not_finite_are_an_error_that_says_when_and_where(net: Net, tokens: Tensor) -> None:
    regularization = Regularization(net, layer=[1, 2])
    regularization.step = 41
    task_loss = diverge(net, tokens)
    message = r"step 41: 2 of 48 values of the points are NaN or infinite \(layer=\[1, 2\]: 2 of state 2 of 2\).*"
    with pytest.raises(RuntimeError, match=message + 'lower the learning rate, or use on_failure="skip"'):
        regularization(task_loss)


def test_points_that_are_not_finite_may_be_skipped_and_are_counted(net: Net, tokens: Tensor) -> None:
    regularization = Regularization(net, layer=2, memory=4, on_failure="skip")
    regularization(task(net(tokens)))
    before = copy.deepcopy(regularization.state_dict())
    task_loss = diverge(net, tokens)
    assert regularization(task_loss) is task_loss
    assert regularization.skipped == 1
    assert regularization.logs == {"task_loss": task_loss}
    after = regularization.state_dict()
    assert after.pop("_extra_state") == {"step": 0, "skipped": 1}
    before.pop("_extra_state")
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert regularization(task(net(tokens))).isfinite()
    assert regularization.skipped == 1


def too_large(error: Exception) -> Engine:
    """The engine of H1, which is out of memory."""

    def find(*args: Any) -> Any:
        raise error

    return ENGINES["cohomology"]._replace(find=find)


OUT_OF_MEMORY = [MemoryError("needs 5 GiB"), torch.cuda.OutOfMemoryError("CUDA out of memory: needs 5 GiB")]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["CPU", "CUDA"])
def test_an_engine_out_of_memory_is_an_error_that_says_what_to_do(
    error: Exception, net: Net, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    regularization = Regularization(net, PersistentEntropyLoss(1))
    task_loss = task(net(tokens))
    monkeypatch.setitem(ENGINES, "cohomology", too_large(error))
    message = r"step 0: persistent-entropy ran out of memory on points \(6, 4\) \(.*needs 5 GiB\); set max_points, or on_failure"
    with pytest.raises(type(error), match=message):
        regularization(task_loss)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["CPU", "CUDA"])
def test_an_engine_out_of_memory_may_be_skipped_and_is_counted(
    error: Exception, net: Net, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: dict[str, str | Regularizer] = {"cos": "cosreg", "loops": PersistentEntropyLoss(1)}
    regularization = Regularization(net, losses, on_failure="skip")
    task_loss = task(net(tokens))
    with monkeypatch.context() as patch:
        patch.setitem(ENGINES, "cohomology", too_large(error))
        assert regularization(task_loss) is task_loss
    assert regularization.skipped == 1
    assert regularization(task(net(tokens))) != task_loss
    assert regularization.skipped == 1
