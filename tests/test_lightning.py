"""The callbacks for Lightning: the penalty enters the loss once, steps are counted, and a resumed fit goes on to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from simplicial_reg import entropy_deficit, rips_barcode
from simplicial_reg.training.monitor import Monitor
from simplicial_reg.training.regularization import Regularization
from simplicial_reg.training.weight import BalancedWeight, schedule
from tests.test_import import run

pytest.importorskip("lightning")
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from simplicial_reg.training.lightning import MonitorCallback, RegularizationCallback, RegularizedMixin

WEIGHT = 0.4
# Lightning uses what torch has renamed (LeafSpec), and gives advice: on workers, on the rarity of logs, on a validation that is left
# out, on a folder that is used again.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches.*"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty.*"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]


def data(n: int = 32) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(n, 5, generator=generator), torch.randint(3, (n,), generator=generator))


def loader(n: int = 32, batch: int = 8) -> DataLoader[Any]:
    return DataLoader(data(n), batch_size=batch)


class Classifier(RegularizedMixin, LightningModule):
    """An encoder and a head, by SGD; also without automatic optimization."""

    def __init__(self, manual: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 6))
        self.head = nn.Linear(6, 3)
        self.automatic_optimization = not manual
        self.losses: list[tuple[float, float]] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor | None:
        loss = nn.functional.cross_entropy(self.head(self.encoder(batch[0])), batch[1])
        penalized = self.regularized(loss)
        self.losses.append((loss.item(), penalized.item()))
        if self.automatic_optimization:
            return penalized
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(penalized)
        optimizer.step()
        return None

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        loss = nn.functional.cross_entropy(self.head(self.encoder(batch[0])), batch[1])
        assert self.regularized(loss) is loss
        self.log("valid", loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(*callbacks: Callback, **options: Any) -> Trainer:
    defaults = {
        "max_epochs": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        "accelerator": "cpu",
        "devices": 1,
    }
    return Trainer(callbacks=list(callbacks), **(defaults | options))


def entropy(weight: Any = WEIGHT, **options: Any) -> RegularizationCallback:
    return RegularizationCallback("encoder", "persistent-entropy", **({"weight": weight, "layer": "1"} | options))


def by_hand(micro_batches: int) -> Classifier:
    """The same training, written out."""
    module = Classifier()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for at, (points, labels) in enumerate(loader()):
        hidden = module.encoder[1](module.encoder[0](points))
        loss = nn.functional.cross_entropy(module.head(module.encoder[2](hidden)), labels)
        ((loss + WEIGHT * entropy_deficit(rips_barcode(hidden)[0])) / micro_batches).backward()
        if (at + 1) % micro_batches == 0:
            optimizer.step()
            optimizer.zero_grad()
    return module


def assert_same(first: nn.Module, second: nn.Module, tolerance: float = 1e-6) -> None:
    for (name, found), wanted in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.allclose(found, wanted, rtol=tolerance, atol=tolerance), name


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_a_fit_is_the_loop_written_out_also_when_gradients_accumulate(micro_batches: int) -> None:
    module = Classifier()
    trainer(entropy(), accumulate_grad_batches=micro_batches).fit(module, loader())
    assert_same(module, by_hand(micro_batches))
    assert max(abs(penalized - loss) for loss, penalized in module.losses) > 1e-3


def test_manual_optimization_is_the_same_fit() -> None:
    module, callback = Classifier(manual=True), entropy()
    trainer(callback).fit(module, loader())
    assert_same(module, by_hand(1))
    assert callback.regularization is not None
    assert callback.regularization.step == 4


@pytest.mark.parametrize(("micro_batches", "steps"), [(1, 4), (2, 2), (3, 2)])
def test_a_step_is_one_of_the_optimizer(micro_batches: int, steps: int) -> None:
    callback = entropy(schedule("linear", value=1.0, warmup=1.0, total=8))
    trainer(callback, accumulate_grad_batches=micro_batches).fit(Classifier(), loader())
    assert callback.regularization is not None
    assert callback.regularization.step == steps
    assert callback.regularization.weights["persistent-entropy"].step == steps


def test_the_loss_of_a_batch_is_that_of_regularization() -> None:
    module, callback = Classifier(), entropy()
    trainer(callback, max_steps=1).fit(module, loader())
    other = Classifier()
    regularization = Regularization(other.encoder, "persistent-entropy", weight=WEIGHT, layer="1")
    points, labels = next(iter(loader()))
    loss = nn.functional.cross_entropy(other.head(other.encoder(points)), labels)
    assert module.losses[0] == pytest.approx((loss.item(), regularization(loss).item()), rel=1e-6)
    regularization.close()


class Logged(Callback):
    """What was logged with each batch."""

    def __init__(self) -> None:
        self.values: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        self.values.append({name: value.item() for name, value in trainer.logged_metrics.items()})


def test_loss_value_and_weight_are_logged_with_each_batch() -> None:
    logged, module = Logged(), Classifier()
    callback = entropy(schedule("linear", value=1.0, warmup=1.0, total=4))
    trainer(callback, logged, log_every_n_steps=1).fit(module, loader())
    weights = [values["regularization/persistent-entropy_weight"] for values in logged.values]
    assert weights == [0.0, 0.25, 0.5, 0.75]
    for values, (loss, penalized) in zip(logged.values, module.losses, strict=True):
        assert values["regularization/task_loss"] == pytest.approx(loss)
        weight = values["regularization/persistent-entropy_weight"]
        assert loss + weight * values["regularization/persistent-entropy"] == pytest.approx(penalized)


def test_nothing_is_logged_if_not_wanted() -> None:
    logged = Logged()
    trainer(entropy(log=False), logged, log_every_n_steps=1).fit(Classifier(), loader())
    assert not any(logged.values)


def test_validation_has_no_penalty_and_hooks_are_gone_afterwards() -> None:
    module = Classifier()
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()]
    names = set(module.state_dict())
    trainer(entropy()).fit(module, loader(), loader())
    assert hooks == [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()]
    assert module.regularization is None
    assert set(module.state_dict()) == names  # the checkpoint of the module loads without the callback
    trainer().validate(module, loader(), verbose=False)


class Breaks(Callback):
    def on_train_batch_end(self, *arguments: Any) -> None:
        raise KeyError("broken")


def test_hooks_are_gone_after_an_exception() -> None:
    module = Classifier()
    with pytest.raises(KeyError, match="broken"):
        trainer(entropy(), Breaks()).fit(module, loader())
    assert module.regularization is None
    assert not any(part._forward_hooks for part in module.modules())


def test_a_resumed_fit_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    def fit(epochs: int, folder: str, resume: Path | None = None) -> tuple[Classifier, RegularizationCallback]:
        module = Classifier()
        callback = entropy(BalancedWeight(0.3), memory=12, max_points=15)
        checkpoint = ModelCheckpoint(tmp_path / folder, save_last=True)
        trainer(callback, checkpoint, max_epochs=epochs).fit(module, loader(), ckpt_path=resume, weights_only=False)
        return module, callback

    whole, first = fit(3, "whole")
    fit(1, "parts")
    resumed, second = fit(3, "parts", tmp_path / "parts" / "last.ckpt")
    assert first.regularization is not None
    assert second.regularization is not None
    assert second.regularization.step == 12
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    state = second.regularization.state_dict()
    for name, value in first.regularization.state_dict().items():
        assert torch.equal(value, state[name]) if isinstance(value, Tensor) else value == state[name], name
    assert {"memory.points", "weights.persistent-entropy.log_weight"} <= set(state)


def test_without_the_state_a_resumed_fit_would_differ(tmp_path: Path) -> None:
    class Forgets(RegularizationCallback):
        @property
        def state_key(self) -> str:
            return "RegularizationCallback"

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            pass

    def fit(kind: type[RegularizationCallback], epochs: int, folder: str, resume: Path | None = None) -> Classifier:
        module = Classifier()
        callback = kind("encoder", weight=BalancedWeight(0.3), layer="1", memory=12)
        checkpoint = ModelCheckpoint(tmp_path / folder, save_last=True)
        trainer(callback, checkpoint, max_epochs=epochs).fit(module, loader(), ckpt_path=resume, weights_only=False)
        return module

    whole = fit(RegularizationCallback, 2, "whole")
    fit(RegularizationCallback, 1, "parts")
    resumed = fit(Forgets, 2, "parts", tmp_path / "parts" / "last.ckpt")
    assert not torch.equal(whole.encoder[0].weight, resumed.encoder[0].weight)


def test_in_mixed_precision_the_penalty_is_computed_in_float32() -> None:
    module, callback = Classifier(), entropy()
    trainer(callback, precision="bf16-mixed").fit(module, loader())
    assert callback.regularization is not None
    assert callback.regularization.logs["persistent-entropy"].dtype == torch.float32
    assert_same(module, by_hand(1), tolerance=0.02)


def test_labels_reach_the_regularizer() -> None:
    from simplicial_reg.regularizers import PersistentEntropyLoss

    class Labelled(Classifier):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            loss = nn.functional.cross_entropy(self.head(self.encoder(batch[0])), batch[1])
            return self.regularized(loss, labels=batch[1])

    callback = RegularizationCallback("encoder", PersistentEntropyLoss(per_label=True), weight=1.0, layer="1")
    module = Labelled()
    trainer(callback, max_steps=1).fit(module, loader())
    other = Classifier()
    points, labels = next(iter(loader()))
    hidden = other.encoder[1](other.encoder[0](points))
    clouds = [hidden[labels == label] for label in labels.unique()]
    expected = torch.stack([PersistentEntropyLoss()(cloud) for cloud in clouds]).mean()
    assert callback.regularization is not None
    assert torch.allclose(callback.regularization.logs["persistent-entropy"], expected, rtol=1e-5)


class Plain(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(5, 3)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.encoder(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"needs Trainer\(callbacks=\[RegularizationCallback"):
        trainer().fit(Classifier(), loader())
    with pytest.raises(TypeError, match=r"class Plain\(RegularizedMixin, LightningModule\)"):
        trainer(entropy()).fit(Plain(), loader())
    with pytest.raises(ValueError, match=r"model must be the name of a part .* \['encoder', 'head'\]; got 'bert'"):
        trainer(RegularizationCallback("bert")).fit(Classifier(), loader())
    with pytest.raises(TypeError, match="model must be a str"):
        RegularizationCallback(nn.Linear(2, 2))  # type: ignore[arg-type]


def test_without_either_package_the_extra_is_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules.update(lightning=None, pytorch_lightning=None); import simplicial_reg.training.lightning"
    done = run(code, tmp_path)
    assert done.returncode == 1
    assert (
        'ImportError: simplicial_reg.training.lightning needs Lightning; pip install "simplicial_reg[lightning]"'
        in done.stderr
    )


def test_pytorch_lightning_will_do_where_lightning_is_missing(tmp_path: Path) -> None:
    pytest.importorskip("pytorch_lightning")
    code = """if True:
        import sys, warnings
        warnings.simplefilter("ignore")
        sys.modules["lightning"] = None
        from pytorch_lightning import Callback
        from simplicial_reg.training.lightning import RegularizationCallback
        print(issubclass(RegularizationCallback, Callback))
    """
    assert run(code, tmp_path).stdout.strip() == "True"


# --- the monitor --------------------------------------------------------------------------------------------------------------


def test_the_monitor_measures_after_each_validation_and_draws_when_the_fit_ends(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    module = Classifier()
    held_out = [points for points, _ in loader(16)]
    monitor = Monitor(module.encoder, held_out, layer="1", measures=("entropy_deficit", "mean_cosine"))
    callback = MonitorCallback(monitor, path=tmp_path / "geometry.json", plot=tmp_path / "geometry.png")
    fit = trainer(entropy(), callback, max_epochs=2)
    fit.fit(module, loader(), loader(16))
    assert [entry["step"] for entry in monitor.history] == [4, 8]  # and not during the sanity check
    with torch.no_grad():
        points = module.encoder[:2](torch.cat(held_out))
    deficit = entropy_deficit(rips_barcode(points)[0])
    assert fit.callback_metrics["monitor/entropy_deficit"] == pytest.approx(deficit.item(), rel=1e-4)
    assert len(json.loads((tmp_path / "geometry.json").read_text())) == 2
    assert (tmp_path / "geometry.png").read_bytes().startswith(b"\x89PNG")


def test_the_monitor_does_not_change_the_fit() -> None:
    watched, alone = Classifier(), Classifier()
    monitor = Monitor(watched.encoder, [points for points, _ in loader(16)], layer="1", measures=("mean_cosine",))
    trainer(entropy(), MonitorCallback(monitor), max_epochs=2).fit(watched, loader(), loader(16))
    trainer(entropy(), max_epochs=2).fit(alone, loader(), loader(16))
    assert_same(watched, alone, tolerance=0.0)


def test_a_resumed_fit_has_the_whole_history(tmp_path: Path) -> None:
    def fit(epochs: int, resume: Path | None = None) -> Monitor:
        module = Classifier()
        monitor = Monitor(module.encoder, [points for points, _ in loader(16)], layer="1", measures=("mean_cosine",))
        checkpoint = ModelCheckpoint(tmp_path, save_last=True)
        callbacks = (entropy(), MonitorCallback(monitor), checkpoint)
        trainer(*callbacks, max_epochs=epochs).fit(module, loader(), loader(16), ckpt_path=resume, weights_only=False)
        return monitor

    fit(1)
    assert [entry["step"] for entry in fit(2, tmp_path / "last.ckpt").history] == [4, 8]
