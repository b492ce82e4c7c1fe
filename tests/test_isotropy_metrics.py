"""`BatchMeasure` and `PooledMeasure`: values, sampling, several ranks, saving, torchmetrics and Lightning around them."""

from __future__ import annotations

import importlib
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("torchmetrics")
from torchmetrics import Metric, MetricCollection

from simplicial_reg.isotropy import MEASURES, mean_cosine, participation_ratio, twonn_dimension
from simplicial_reg.isotropy import metrics as module
from simplicial_reg.isotropy.metrics import BatchMeasure, PooledMeasure

every_class = pytest.mark.parametrize("kind", [BatchMeasure, PooledMeasure])


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def updated(metric: Any, *batches: Any) -> Any:
    for batch in batches:
        metric.update(batch)
    return metric


# --- values -----------------------------------------------------------------------------------------------------------


@every_class
@pytest.mark.parametrize("measure", MEASURES)
def test_one_batch_has_the_value_of_the_measure(kind: type, measure: str) -> None:
    points = gaussian(30, 6) + 0.5
    value = updated(kind(measure), points).compute()
    assert value.ndim == 0
    assert value.item() == pytest.approx(MEASURES[measure].function(points).item(), rel=1e-6, abs=1e-7)


def test_the_mean_over_batches_is_that_of_their_values() -> None:
    batches = [gaussian(n, 4, seed=n) for n in (10, 20, 30)]
    expected = sum(participation_ratio(batch).item() for batch in batches) / 3
    assert updated(BatchMeasure("participation_ratio"), *batches).compute().item() == pytest.approx(expected, rel=1e-6)


def test_the_clouds_of_a_batch_weigh_the_same() -> None:
    points = gaussian(5, 20, 4)
    metric = updated(BatchMeasure("participation_ratio"), points[:4], points[4])
    assert metric.compute().item() == pytest.approx(participation_ratio(points).mean().item(), rel=1e-6)


def test_values_that_are_not_finite_are_left_out_and_counted() -> None:
    good = gaussian(30, 4)
    metric = updated(BatchMeasure("twonn_dimension"), good, torch.zeros(30, 4), torch.eye(30), torch.ones(1, 4))
    assert metric.compute().item() == pytest.approx(twonn_dimension(good).item(), rel=1e-6)
    assert metric.undefined.item() == 3
    assert updated(BatchMeasure("hubness"), torch.zeros(3, 2)).compute().isnan()


def test_the_pool_is_measured_as_one_cloud() -> None:
    batches = [gaussian(n, 4, seed=n) + n for n in (10, 20, 30)]
    metric = updated(PooledMeasure("participation_ratio"), *batches)
    assert metric.compute().item() == pytest.approx(participation_ratio(torch.cat(batches)).item(), rel=1e-12)
    mean = updated(BatchMeasure("participation_ratio"), *batches).compute().item()
    assert metric.compute().item() != pytest.approx(mean, rel=0.1)


@every_class
def test_masked_rows_do_not_count_whatever_they_hold(kind: type) -> None:
    points = gaussian(2, 20, 4)
    mask = torch.arange(20) < torch.tensor([[20], [13]])
    masked, dense = kind("mean_cosine"), kind("mean_cosine")
    masked.update(torch.where(mask.unsqueeze(-1), points, math.nan), mask=mask)
    updated(dense, points[0], points[1, :13])
    assert masked.compute().item() == pytest.approx(dense.compute().item(), rel=1e-5)
    listed = updated(kind("mean_cosine"), [points[0], points[1, :13]])
    assert listed.compute().item() == pytest.approx(dense.compute().item(), rel=1e-5)


@every_class
def test_points_carry_no_gradient_into_the_metric(kind: type) -> None:
    points = gaussian(20, 4).requires_grad_()
    metric = kind()
    metric(points)
    assert not metric.compute().requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_class
def test_half_precision_is_computed_in_float32(kind: type, dtype: torch.dtype) -> None:
    points = gaussian(40, 4).to(dtype)
    value = updated(kind(), points).compute()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(updated(kind(), points.double()).compute().item(), rel=1e-4)


# --- the sample -------------------------------------------------------------------------------------------------------


def pool(metric: PooledMeasure) -> list[float]:
    """What a pool of points of one coordinate holds."""
    (points,) = metric.points
    return sorted(points.flatten().tolist())


def test_the_sample_has_max_points_of_the_points_and_none_twice() -> None:
    batches = torch.arange(100.0).reshape(10, 10, 1)
    kept = pool(updated(PooledMeasure(max_points=30), *batches))
    assert len(set(kept)) == 30
    assert set(kept) <= set(range(100))
    assert pool(updated(PooledMeasure(max_points=100), *batches)) == list(range(100))


def test_the_sample_is_uniform_over_batches() -> None:
    batches = torch.arange(40.0).reshape(4, 10, 1)
    counts = np.zeros(4)
    for seed in range(200):
        for point in pool(updated(PooledMeasure(max_points=8, seed=seed), *batches)):
            counts[int(point) // 10] += 1
    # 400 expected in each; the standard deviation is 200 hypergeometric draws' of 8 of 40, sqrt(200 * 8 * 1/4 * 3/4 * 32/39) = 16.
    assert counts.sum() == 1600
    assert (abs(counts - 400) < 64).all()


def test_the_sample_depends_on_the_seed_alone() -> None:
    batches = torch.arange(100.0).reshape(10, 10, 1)
    first, again, other = (pool(updated(PooledMeasure(max_points=30, seed=seed), *batches)) for seed in (0, 0, 1))
    assert first == again != other


def test_forward_gives_the_batch_and_keeps_the_pool() -> None:
    batches = gaussian(6, 10, 3)
    by_forward, by_update = PooledMeasure("mean_cosine", max_points=25), PooledMeasure("mean_cosine", max_points=25)
    for batch in batches:
        assert by_forward(batch).item() == pytest.approx(mean_cosine(batch).item(), rel=1e-12)
        by_update.update(batch)
    assert torch.equal(by_forward.points[0], by_update.points[0])
    assert by_forward.compute() == by_update.compute()
    assert by_forward.seen.item() == 60
    mean = BatchMeasure("mean_cosine")
    assert [mean(batch).item() for batch in batches] == pytest.approx(mean_cosine(batches).tolist(), rel=1e-5)
    assert mean.compute().item() == pytest.approx(mean_cosine(batches).mean().item(), rel=1e-5)


# --- several ranks ----------------------------------------------------------------------------------------------------


def on_ranks(make: Callable[[], Any], clouds: list[list[Tensor]], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Metrics that have seen one list of batches each, and that gather each other's states."""
    found = []
    for rank, batches in enumerate(clouds):
        monkeypatch.setattr(module, "_rank", lambda rank=rank: rank)
        found.append(updated(make(), *batches))
    for rank, metric in enumerate(found):
        metric.distributed_available_fn = lambda: True
        metric.dist_sync_fn = Gather(metric, found, rank)
    return found


class Gather:
    """All ranks' states of the one that is asked for, in the order of ranks."""

    def __init__(self, metric: Any, others: list[Any], rank: int) -> None:
        self.metric, self.others, self.rank = metric, others, rank

    def __call__(self, state: Tensor, group: Any = None) -> list[Tensor]:
        for name in self.metric._reductions:
            own = getattr(self.metric, name)
            if state is own or (isinstance(own, list) and any(state is entry for entry in own)):
                gathered = []
                for rank, other in enumerate(self.others):
                    value = state if rank == self.rank else getattr(other, name)
                    gathered.append(torch.cat(value) if isinstance(value, list) else value)
                return gathered
        raise AssertionError("not a state of this metric")


def test_ranks_agree_on_the_mean_over_all_their_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    clouds = [[gaussian(10, 3, seed=1), gaussian(12, 3, seed=2)], [gaussian(9, 3, seed=3)]]
    expected = sum(participation_ratio(cloud).item() for clouds_ in clouds for cloud in clouds_) / 3
    for metric in on_ranks(lambda: BatchMeasure("participation_ratio"), clouds, monkeypatch):
        assert metric.compute().item() == pytest.approx(expected, rel=1e-6)


def test_ranks_agree_on_the_measure_of_all_their_points(monkeypatch: pytest.MonkeyPatch) -> None:
    clouds = [[gaussian(10, 3, seed=1), gaussian(12, 3, seed=2)], [gaussian(9, 3, seed=3) + 2]]
    expected = participation_ratio(torch.cat([cloud for clouds_ in clouds for cloud in clouds_])).item()
    for metric in on_ranks(lambda: PooledMeasure("participation_ratio"), clouds, monkeypatch):
        assert metric.compute().item() == pytest.approx(expected, rel=1e-12)
        assert len(metric.points[0]) < 31, "after computing, each rank has its own points again"


def test_ranks_agree_on_a_sample_of_all_their_points(monkeypatch: pytest.MonkeyPatch) -> None:
    clouds = [[gaussian(40, 3, seed=1)], [gaussian(60, 3, seed=2) + 2]]
    metrics = on_ranks(lambda: PooledMeasure("participation_ratio", max_points=25), clouds, monkeypatch)
    values = [metric.compute().item() for metric in metrics]
    assert values[0] == values[1]
    keys = torch.cat([metric.keys[0] for metric in metrics])
    points = torch.cat([metric.points[0] for metric in metrics])
    sample = points[keys.argsort()[:25]]
    assert values[0] == pytest.approx(participation_ratio(sample).item(), rel=1e-12)
    assert 0 < (sample.mean(-1) > 1).sum() < 25, "of both ranks"


def test_ranks_draw_different_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = on_ranks(PooledMeasure, [[gaussian(10, 3)], [gaussian(10, 3)]], monkeypatch)
    assert not set(metrics[0].keys[0].tolist()) & set(metrics[1].keys[0].tolist())


# --- saving, resetting, collections -----------------------------------------------------------------------------------


@every_class
def test_a_metric_survives_pickling_and_goes_on_the_same(kind: type) -> None:
    metric = updated(kind("mean_cosine"), gaussian(20, 4))
    loaded = pickle.loads(pickle.dumps(metric))
    assert loaded.compute() == metric.compute()
    for each in (metric, loaded):
        each.update(gaussian(15, 4, seed=1))
    assert loaded.compute() == metric.compute()


@every_class
def test_a_saved_state_is_restored(kind: type) -> None:
    metric = kind("mean_cosine")
    metric.persistent(True)
    updated(metric, gaussian(20, 4))
    fresh = kind("mean_cosine")
    fresh.persistent(True)
    fresh.load_state_dict(metric.state_dict())
    for each in (metric, fresh):
        each.update(gaussian(15, 4, seed=1))
    assert fresh.compute() == metric.compute()


@every_class
def test_reset_forgets_everything(kind: type) -> None:
    metric = updated(kind("mean_cosine"), gaussian(20, 4))
    metric.reset()
    points = gaussian(9, 3, seed=1)
    assert updated(metric, points).compute().item() == pytest.approx(mean_cosine(points).item(), rel=1e-5)


@every_class
@pytest.mark.filterwarnings(
    "ignore:The ``compute`` method of metric:UserWarning"
)  # torchmetrics', before the first update
def test_before_the_first_batch_the_value_is_nan(kind: type) -> None:
    assert kind().compute().isnan()


@every_class
def test_a_metric_knows_which_end_is_isotropic(kind: type) -> None:
    assert kind("isoscore").higher_is_better is True
    assert kind("mean_cosine").higher_is_better is False
    assert kind("hubness").higher_is_better is None
    assert isinstance(kind(), Metric)


def test_a_collection_keeps_metrics_of_different_measures_apart() -> None:
    collection = MetricCollection(
        {
            "batch": BatchMeasure("participation_ratio"),
            "cosine": BatchMeasure("mean_cosine"),
            "pooled": PooledMeasure("participation_ratio"),
            "pooled cosine": PooledMeasure("mean_cosine"),
            "sample": PooledMeasure("mean_cosine", max_points=20),
        }
    )
    batches = gaussian(3, 15, 4) + 1
    for batch in batches:
        collection.update(batch)
    values = collection.compute()
    everything = batches.flatten(0, 1)
    assert values["batch"].item() == pytest.approx(participation_ratio(batches).mean().item(), rel=1e-6)
    assert values["cosine"].item() == pytest.approx(mean_cosine(batches).mean().item(), rel=1e-6)
    assert values["pooled"].item() == pytest.approx(participation_ratio(everything).item(), rel=1e-9)
    assert values["pooled cosine"].item() == pytest.approx(mean_cosine(everything).item(), rel=1e-9)
    assert values["sample"] != values["pooled cosine"]


@every_class
@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")  # Lightning's use of torch
@pytest.mark.filterwarnings("ignore:.*does not have many workers")  # advice on data loaders
def test_lightning_logs_a_metric(kind: type, tmp_path: Any) -> None:
    lightning = pytest.importorskip("lightning.pytorch")

    class Encoder(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 3)
            self.isotropy = kind("participation_ratio")

        def training_step(self, batch: Tensor) -> Tensor:
            points = self.layer(batch)
            self.isotropy(points)
            self.log("isotropy", self.isotropy, on_step=True, on_epoch=True)
            return points.square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    loader = torch.utils.data.DataLoader(gaussian(32, 4).float(), batch_size=8)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Encoder(), loader)
    assert 1 < trainer.callback_metrics["isotropy_epoch"].item() <= 3


# --- bad input, missing packages --------------------------------------------------------------------------------------


@every_class
def test_an_unknown_measure_is_named(kind: type) -> None:
    with pytest.raises(ValueError, match=r"measure must be one of 'isoscore', .*; got 'isotropy'"):
        kind("isotropy")


def test_bad_numbers_are_named() -> None:
    with pytest.raises(ValueError, match="max_points must be at least 1; got 0"):
        PooledMeasure(max_points=0)
    with pytest.raises(TypeError, match="seed must be an int; got float"):
        PooledMeasure(seed=0.5)  # type: ignore[arg-type]


def test_importing_the_measures_does_not_import_torchmetrics() -> None:
    code = "import sys, simplicial_reg.isotropy; print('torchmetrics' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert done.stderr == ""


def test_without_torchmetrics_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.delitem(sys.modules, "simplicial_reg.isotropy.metrics")
    with pytest.raises(ImportError, match=r'needs torchmetrics: pip install "simplicial_reg\[lightning\]"'):
        importlib.import_module("simplicial_reg.isotropy.metrics")
