"""Watching a model: the same sample every time, the numbers of the functions, and no trace left behind."""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from simplicial_reg import rips_barcode
from simplicial_reg.isotropy import MEASURES, measure, participation_ratio_null
from simplicial_reg.training.monitor import (
    DEFAULT_MEASURES,
    Monitor,
    _isotropic,
    measure_points,
    plot_history,
    read_history,
)


class Encoder(nn.Module):
    """Embeddings, two blocks with dropout and a BatchNorm, and a mean over real tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.5)) for _ in range(2))
        self.norm = nn.BatchNorm1d(8)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        state = self.embed(input_ids)
        for block in self.blocks:
            state = block(state)
        return self.norm(state.mean(1))


def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder()


def data(batches: int = 3, size: int = 10) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(30, (batches, size, 5), generator=generator)
    real = torch.arange(5) < torch.randint(1, 6, (batches, size, 1), generator=generator)
    return [{"input_ids": row, "attention_mask": mask.long()} for row, mask in zip(tokens, real, strict=True)]


@torch.no_grad()
def points_by_hand(model: Encoder, batches: list[dict[str, Tensor]]) -> Tensor:
    model.eval()
    points = []
    for batch in batches:
        states = model.blocks[1](model.blocks[0](model.embed(batch["input_ids"])))
        for state, mask in zip(states, batch["attention_mask"], strict=True):
            points.append(state[mask.bool()].mean(0))
    return torch.stack(points)


# --- numbers ------------------------------------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_functions() -> None:
    model = encoder()
    values = Monitor(model, data(), measures=tuple(MEASURES)).measure(7)
    points = points_by_hand(model, data())
    expected = measure(points)
    assert list(values) == list(MEASURES)
    for name, value in values.items():
        assert value == pytest.approx(expected[name], rel=1e-4, abs=1e-5, nan_ok=True), name


def test_an_entry_holds_the_step_the_size_and_every_bar_length_in_order() -> None:
    model = encoder()
    monitor = Monitor(model, data())
    values = monitor.measure(7)
    (entry,) = monitor.history
    assert tuple(values) == DEFAULT_MEASURES
    assert {name: entry[name] for name in values} == values
    assert (entry["step"], entry["n"], entry["d"], entry["metric"]) == (7, 30, 8, "euclidean")
    expected = rips_barcode(points_by_hand(model, data()))[0].persistence.sort().values
    torch.testing.assert_close(torch.tensor(entry["bars"]), expected)
    assert len(entry["bars"]) == 29


def test_the_metric_is_that_of_bars_and_of_measures_of_distances() -> None:
    model = encoder()
    monitor = Monitor(model, data(), metric="cosine", measures=("entropy_deficit",))
    value = monitor.measure(0)["entropy_deficit"]
    bars = rips_barcode(points_by_hand(model, data()), metric="cosine")[0].persistence
    share = (bars / bars.sum()).double()
    assert value == pytest.approx(math.log(29) - float(torch.special.entr(share).sum()), abs=1e-5)
    assert sum(monitor.history[0]["bars"]) == pytest.approx(float(bars.sum()), rel=1e-5)


def test_of_several_clouds_the_mean_is_taken_over_those_with_a_value() -> None:
    clouds = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(0))
    clouds[2] = 1.0  # no hubness
    single = [measure_points(cloud, ("hubness", "mean_cosine")) for cloud in clouds]
    both = measure_points(clouds, ("hubness", "mean_cosine"))
    assert math.isnan(single[2]["hubness"])
    assert both["hubness"] == pytest.approx((single[0]["hubness"] + single[1]["hubness"]) / 2, rel=1e-5)
    assert both["mean_cosine"] == pytest.approx(sum(one["mean_cosine"] for one in single) / 3, rel=1e-5)


def test_points_that_are_masked_out_do_not_count() -> None:
    points = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    points[5:] = torch.nan
    mask = torch.arange(9) < 5
    found, expected = measure_points(points, mask=mask), measure_points(points[:5])
    assert found == pytest.approx(expected, rel=1e-5)


# --- the sample ---------------------------------------------------------------------------------------------------------------


def test_the_sample_stays_the_same_though_the_loader_shuffles() -> None:
    class Rows(torch.utils.data.Dataset[Tensor]):
        def __len__(self) -> int:
            return 64

        def __getitem__(self, at: int) -> Tensor:
            return torch.randn(6, generator=torch.Generator().manual_seed(at))

    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh())
    monitor = Monitor(model, DataLoader(Rows(), batch_size=8, shuffle=True), layer="1", max_points=20)
    first, second = monitor.measure(0), monitor.measure(1)
    assert first == second
    assert monitor.history[0]["bars"] == monitor.history[1]["bars"]
    assert monitor.history[0]["n"] == 20


def test_no_more_batches_are_read_than_needed() -> None:
    read = 0

    def endless() -> Any:
        nonlocal read
        while True:
            read += 1
            yield data()[0]

    monitor = Monitor(encoder(), endless(), max_points=15)
    monitor.measure(0)
    monitor.measure(1)
    assert read == 2
    assert [entry["n"] for entry in monitor.history] == [15, 15]


def test_the_seed_decides_which_points() -> None:
    found = [Monitor(encoder(), data(), pooling="tokens", max_points=12, seed=seed).measure(0) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_tokens_that_are_padding_are_no_points() -> None:
    real = sum(int(batch["attention_mask"].sum()) for batch in data())
    monitor = Monitor(encoder(), data(), pooling="tokens")
    monitor.measure(0)
    assert monitor.history[0]["n"] == real < 150


@pytest.mark.parametrize("batch", [torch.ones(4, 6), (torch.ones(4, 6), "labels"), [torch.ones(4, 6)]], ids=type)
def test_a_batch_may_be_a_tensor_or_begin_with_one(batch: Any) -> None:
    monitor = Monitor(nn.Sequential(nn.Linear(6, 5), nn.Tanh()), [batch], layer="1", measures=())
    assert monitor.measure(0) == {}
    assert (monitor.history[0]["n"], monitor.history[0]["d"]) == (4, 5)


def test_a_function_may_run_the_model_instead() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder()

        def forward(self, tokens: Tensor) -> Tensor:
            return self.encoder(tokens)

    def forward(model: Any, batch: Any) -> Tensor:
        model(batch["input_ids"])
        return batch["attention_mask"]

    found = Monitor(Wrapped(), data(), forward=forward).measure(0)
    assert found == Monitor(encoder(), data()).measure(0)


# --- nothing is changed -------------------------------------------------------------------------------------------------------


def test_nothing_is_left_behind() -> None:
    model = encoder().train()
    model.blocks[1].eval()  # as where a part is frozen
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    loader = DataLoader([row["input_ids"][0] for row in data()], shuffle=True)
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002  # the global generator is what must not move
    expected = torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    Monitor(model, loader).measure(0)
    assert torch.equal(torch.rand(3), expected[0])
    assert (random.random(), np.random.rand()) == expected[1:]  # noqa: NPY002
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()) == hooks
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_error_in_the_model_leaves_nothing_behind_either() -> None:
    model = encoder().train()
    with pytest.raises(IndexError):
        Monitor(model, [{"input_ids": torch.full((2, 5), 99)}]).measure(0)
    assert model.training
    assert model.blocks[0].training


# --- singular -----------------------------------------------------------------------------------------------------------------


def test_a_model_that_diverged_has_no_numbers_and_no_bars() -> None:
    model = encoder()
    nn.init.constant_(model.blocks[1][0].weight, torch.nan)
    monitor = Monitor(model, data())
    assert all(math.isnan(value) for value in monitor.measure(0).values())
    assert monitor.history[0]["bars"] == []


def test_one_point_has_no_bars() -> None:
    monitor = Monitor(encoder(), data(), max_points=1, measures=("persistent_entropy", "mean_cosine"))
    monitor.measure(0)
    assert monitor.history[0]["bars"] == []


@pytest.mark.parametrize(
    ("more", "kind", "message"),
    [
        (
            {"layer": "all"},
            ValueError,
            "layer must be one hidden state; got 'all'; for several, make a Monitor of each",
        ),
        ({"layer": [1, 2]}, ValueError, "layer must be one hidden state"),
        ({"measures": ("entropy",)}, ValueError, "measures must be one of .*; got 'entropy'"),
        ({"measures": "isoscore"}, TypeError, "measures must be a sequence of names; got 'isoscore'"),
        ({"max_points": 0}, ValueError, "max_points must be"),
        ({"seed": -1}, ValueError, "seed must be"),
        ({"metric": "precomputed"}, ValueError, "metric must be one of"),
        ({"pooling": "median"}, ValueError, "pooling must be one of"),
    ],
)
def test_what_is_wrong_is_said(more: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message):
        Monitor(encoder(), data(), **more)


def test_no_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match="batches must hold at least one point; got 0 batches without any"):
        Monitor(encoder(), []).measure(0)


# --- files --------------------------------------------------------------------------------------------------------------------


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    model = encoder()
    monitor = Monitor(model, data(), measures=("hubness", "mean_cosine"))
    monitor.measure(0)
    nn.init.zeros_(model.blocks[1][0].weight)
    nn.init.zeros_(model.blocks[1][0].bias)  # collapse: no hubness
    monitor.measure(1)
    path = tmp_path / "history.json"
    monitor.save(path)
    assert json.loads(path.read_text())[1]["hubness"] is None
    other = Monitor(model, data())
    other.load(path)
    assert math.isnan(other.history[1].pop("hubness"))
    assert math.isnan(monitor.history[1].pop("hubness"))
    assert other.history == monitor.history
    assert [file.name for file in tmp_path.iterdir()] == ["history.json"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"step": 1}]', "no JSON"])
def test_another_file_is_no_history(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json: this is not a history that Monitor\.save wrote"):
        read_history(path)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture_shows_every_measure_and_the_bars(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    monitor = Monitor(encoder(), data(), measures=("mean_cosine", "partition_ratio", "hubness", "entropy_deficit"))
    for step in range(3):
        monitor.measure(step)
    monitor.history[1]["bars"] = []  # as of a step whose points were not finite
    path = tmp_path / f"picture.{suffix}"
    monitor.plot(path)
    assert path.stat().st_size > 5000
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_history_without_measures_or_bars_is_drawn_all_the_same(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    monitor = Monitor(encoder(), data(), measures=(), max_points=1)
    monitor.measure(0)
    monitor.plot(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").is_file()


def test_the_dotted_line_is_what_isotropic_clouds_have() -> None:
    entry = {"n": 30, "d": 8, "metric": "euclidean"}
    assert _isotropic("participation_ratio", entry) == participation_ratio_null(30, 8)
    bars = rips_barcode(torch.randn(40, 30, 8, generator=torch.Generator().manual_seed(1)))[0].persistence
    expected = math.log(29) - torch.special.entr(bars / bars.sum(-1, keepdim=True)).sum(-1).mean()
    assert _isotropic("entropy_deficit", entry) == pytest.approx(float(expected), rel=0.5)
    assert math.isnan(_isotropic("partition_ratio", entry))  # it depends on the unit


def test_nothing_measured_is_nothing_to_draw(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="history must hold at least one entry; call measure first"):
        plot_history([], tmp_path / "picture.png")


def test_a_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"simplicial_reg\[plots\]"):
        plot_history([], tmp_path / "picture.png")
