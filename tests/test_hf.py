"""The added line in the Hugging Face Trainer: as the plain loop, however the Trainer cuts a step into pieces."""

from __future__ import annotations

import inspect
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import (  # noqa: E402
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PrinterCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
)

from simplicial_reg.isotropy import isoscore_star  # noqa: E402
from simplicial_reg.regularizers import REGULARIZERS, Regularizer  # noqa: E402
from simplicial_reg.training.hf import MonitorCallback, RegularizedTrainer, regularized  # noqa: E402
from simplicial_reg.training.monitor import read_history  # noqa: E402
from simplicial_reg.training.regularization import Regularization  # noqa: E402
from simplicial_reg.training.weight import BalancedWeight, schedule  # noqa: E402
from tests.programs import leave_together, output_of_ranks  # noqa: E402

VOCABULARY, LENGTH = 40, 7


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.logging.set_verbosity_error()


class MeanSquare(Regularizer):
    """A penalty that is a mean over points, so that a batch may be cut in pieces: mean |x|²/d - sum x/d."""

    def cloud_losses(self, points: Tensor, mask: Tensor | None) -> Tensor:
        values = (points.square() - points).mean(-1)
        if mask is None:
            return values.mean(-1)
        return torch.where(mask, values, 0).sum(-1) / mask.sum(-1)


def compares_two(kind: type[Regularizer]) -> bool:
    return "other" in inspect.signature(kind.forward).parameters


def bert(*, dropout: float = 0.0, seed: int = 0, counts: bool = False) -> nn.Module:
    torch.manual_seed(seed)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            num_labels=2,
        )
    )
    # By its signature it would count items, but its loss is the mean of the micro-batch (transformers 5.23).
    model.accepts_loss_kwargs = counts
    return model


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=16,
            n_embd=16,
            n_layer=2,
            n_head=2,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )


def sentences(count: int = 32, *, causal: bool = False) -> list[dict[str, Tensor]]:
    """Padded sentences of two to seven tokens; the label is that of the first token, or the tokens themselves."""
    generator = torch.Generator().manual_seed(3)
    rows = []
    for _ in range(count):
        tokens = torch.randint(1, VOCABULARY, (LENGTH,), generator=generator)
        real = torch.arange(LENGTH) < torch.randint(2, LENGTH + 1, (1,), generator=generator)
        tokens = torch.where(real, tokens, 0)
        labels = torch.where(real, tokens, -100) if causal else (tokens[0] > VOCABULARY // 2).long()
        rows.append({"input_ids": tokens, "attention_mask": real.long(), "labels": labels})
    return rows


def in_order(rows: list[dict[str, Tensor]], size: int, step: int) -> dict[str, Tensor]:
    """The batch of a step, where data are not shuffled."""
    count = len(rows) // size
    part = rows[size * (step % count) : size * (step % count + 1)]
    return {name: torch.stack([row[name] for row in part]) for name in part[0]}


def arguments(folder: Path, kind: type = TrainingArguments, **more: Any) -> Any:
    return kind(
        **{
            "output_dir": str(folder),
            "max_steps": 3,
            "per_device_train_batch_size": 8,
            "learning_rate": 0.05,
            "lr_scheduler_type": "constant",
            "optim": "sgd",
            "max_grad_norm": 0.0,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "train_sampling_strategy": "sequential",
            "dataloader_pin_memory": False,
        }
        | more
    )


def trainer_of(folder: Path, model: Any, rows: Any, *, kind: Any = RegularizedTrainer, **more: Any) -> Any:
    names = ("regularization", "measures", "compute_loss_func", "callbacks", "eval_dataset", "model_init", "optimizers")
    given = {name: more.pop(name) for name in names if name in more}
    if kind is not Trainer:
        given = {"regularization": {"regularizer": MeanSquare(), "weight": 0.5}, "measures": ()} | given
    trainer = kind(model=model, args=arguments(folder, **more), train_dataset=rows, **given)
    trainer.remove_callback(PrinterCallback)
    return trainer


def trained(folder: Path, model: Any, rows: Any, **more: Any) -> Any:
    trainer = trainer_of(folder, model, rows, **more)
    trainer.train()
    return trainer


def parameters(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def assert_same(a: nn.Module, b: nn.Module, tolerance: float = 1e-6) -> None:
    assert (parameters(a) - parameters(b)).abs().max() <= tolerance


def points_of(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over real tokens, written out."""
    return torch.stack([state[real.bool()].mean(0) for state, real in zip(states, mask, strict=True)])


def plainly_trained(
    model: nn.Module,
    rows: Any,
    steps: int,
    *,
    weight: float = 0.5,
    size: int = 8,
    optimizer: Any = None,
    loss_of: Any = None,
) -> nn.Module:
    """The loop that a person would write, with a penalty of the output's hidden states."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.05)
    model.train()
    for step in range(steps):
        batch = in_order(rows, size, step)
        output = model(**batch, output_hidden_states=True)
        points = points_of(output.hidden_states[-1], batch["attention_mask"])
        penalty = (points.square() - points).mean()
        task = output.loss if loss_of is None else loss_of(output.logits, batch["labels"])
        optimizer.zero_grad()
        (task + weight * penalty).backward()
        optimizer.step()
    return model


# --- the loss -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adamw_torch"])
def test_training_is_the_plain_loop(tmp_path: Path, optimizer: str) -> None:
    rows = sentences()
    trainer = trained(tmp_path, bert(), rows, max_steps=5, optim=optimizer, learning_rate=0.01)
    plain = bert()
    make = {"sgd": torch.optim.SGD, "adamw_torch": torch.optim.AdamW}[optimizer]
    more = {} if optimizer == "sgd" else {"weight_decay": 0.0}
    plainly_trained(plain, rows, 5, optimizer=make(plain.parameters(), lr=0.01, **more))
    assert_same(trainer.model, plain)
    assert (parameters(trainer.model) - parameters(plainly_trained(bert(), rows, 5, weight=0.0))).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["averaged", "counted by the model", "counted by a function", "label smoothing"])
def test_four_micro_batches_of_two_are_one_batch_of_eight(tmp_path: Path, kind: str) -> None:
    """Of labels all real, so that the task loss itself may be cut."""

    def loss_func(outputs: Any, labels: Tensor, num_items_in_batch: Any) -> Tensor:
        return nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch

    causal = kind == "counted by the model"
    rows = sentences(causal=causal)
    more: dict[str, Any] = {}
    if kind == "counted by a function":
        more["compute_loss_func"] = loss_func
    if kind == "label smoothing":
        more["label_smoothing_factor"] = 0.1
    make = gpt2 if causal else bert
    whole = trained(tmp_path, make(), rows, **more)
    cut = trained(tmp_path, make(), rows, per_device_train_batch_size=2, gradient_accumulation_steps=4, **more)
    assert whole.model_accepts_loss_kwargs == cut.model_accepts_loss_kwargs == causal
    assert_same(whole.model, cut.model)
    unpenalized = trained(tmp_path, make(), rows, kind=Trainer, **more)
    assert (parameters(whole.model) - parameters(unpenalized.model)).abs().max() > 1e-4
    for key in ("regularization/task_loss", "regularization/regularizer", "loss"):
        for a, b in zip(whole.state.log_history[:3], cut.state.log_history[:3], strict=True):
            assert a[key] == pytest.approx(b[key], abs=1e-5), key


def test_a_penalty_that_is_not_scaled_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = sentences(causal=True)
    whole = trained(tmp_path, gpt2(), rows)
    monkeypatch.setattr(RegularizedTrainer, "_share", lambda self, count: 1.0)
    cut = trained(tmp_path, gpt2(), rows, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    with pytest.raises(AssertionError):
        assert_same(whole.model, cut.model)


def test_the_penalty_is_a_mean_also_where_the_trainers_task_loss_is_a_sum(tmp_path: Path) -> None:
    """Of a model that takes the count of items and does not use it, the Trainer adds up the means of micro-batches."""
    rows, start = sentences(), parameters(bert())
    cut = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    task = parameters(trained(tmp_path, bert(), rows, kind=Trainer, max_steps=1).model) - start
    both = parameters(trained(tmp_path, bert(), rows, max_steps=1).model) - start
    plain = parameters(trained(tmp_path, bert(counts=True), rows, kind=Trainer, max_steps=1, **cut).model) - start
    assert (plain - 4 * task).abs().max() < 1e-6
    found = parameters(trained(tmp_path, bert(counts=True), rows, max_steps=1, **cut).model) - start
    assert (found - (4 * task + (both - task))).abs().max() < 1e-6


def test_the_last_step_of_an_epoch_may_have_fewer_micro_batches(tmp_path: Path) -> None:
    rows = sentences(10, causal=True)  # micro-batches of 2: steps of 4 and of 1
    cut = trained(tmp_path, gpt2(), rows, max_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    first = trained(tmp_path, gpt2(), rows[:8], max_steps=1)
    second = trained(tmp_path, first.model, rows[8:], max_steps=1, per_device_train_batch_size=2)
    assert_same(cut.model, second.model)


def test_with_label_smoothing_the_task_loss_is_the_trainers(tmp_path: Path) -> None:
    rows = sentences()

    def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)

    trainer = trained(tmp_path, bert(), rows, label_smoothing_factor=0.1)
    assert_same(trainer.model, plainly_trained(bert(), rows, 3, loss_of=smoothed))


def test_a_causal_language_model_trains_as_in_the_plain_loop(tmp_path: Path) -> None:
    rows = sentences(causal=True)
    trainer = trained(tmp_path, gpt2(), rows)
    assert trainer.model_accepts_loss_kwargs

    def counted(logits: Tensor, labels: Tensor) -> Tensor:
        items = trainer._get_num_items_in_batch([{"labels": labels}], torch.device("cpu"))
        logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        return nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum") / items

    assert_same(trainer.model, plainly_trained(gpt2(), rows, 3, loss_of=counted))


def test_weight_zero_changes_nothing(tmp_path: Path) -> None:
    rows = sentences()
    zero = trained(
        tmp_path, bert(dropout=0.1), rows, regularization={"regularizer": "persistent-entropy", "weight": 0.0}
    )
    without = trained(tmp_path, bert(dropout=0.1), rows, kind=Trainer)
    assert torch.equal(parameters(zero.model), parameters(without.model))


def test_padding_is_no_point(tmp_path: Path) -> None:
    rows = sentences()
    masked = trained(
        tmp_path, bert(), rows, regularization={"regularizer": MeanSquare(), "pooling": "tokens", "weight": 0.5}
    )
    everything = trained(
        tmp_path,
        bert(),
        rows,
        regularization={"regularizer": MeanSquare(), "pooling": "tokens", "include_padding": True, "weight": 0.5},
    )
    assert masked.regularization.points.mask.sum() < masked.regularization.points.mask.numel()
    assert (parameters(masked.model) - parameters(everything.model)).abs().max() > 1e-6


def test_only_a_mask_of_text_is_a_mask(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, bert(), sentences())
    mask, tokens = torch.ones(2, 5), torch.ones(2, 5)
    assert trainer.cloud_mask({"input_ids": tokens, "attention_mask": mask}) is mask
    assert trainer.cloud_mask({"inputs_embeds": tokens, "attention_mask": mask}) is mask
    assert trainer.cloud_mask({"input_values": tokens, "attention_mask": mask}) is None
    assert trainer.cloud_mask({"input_ids": tokens, "attention_mask": mask[:, None, None]}) is None
    assert trainer.cloud_mask({"input_ids": tokens}) is None


def test_labels_reach_a_regularizer_that_asks_for_them(tmp_path: Path) -> None:
    more = {"label_smoothing_factor": 0.1}  # which takes the labels out of the inputs
    trainer = trained(tmp_path, bert(), sentences(), **more, regularization={"regularizer": MeanSquare(per_label=True)})
    assert torch.equal(trainer.regularization.points.labels, in_order(sentences(), 8, 2)["labels"])


def test_every_regularizer_trains_and_comes_back_from_a_checkpoint(tmp_path: Path) -> None:
    rows = sentences()
    names = [name for name, kind in REGULARIZERS.items() if not compares_two(kind)]
    regularization = {"regularizer": {name: name for name in names}, "memory": 8}
    more = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    first = trained(tmp_path, bert(), rows, regularization=regularization, **more)
    for name in names:
        assert math.isfinite(first.state.log_history[0][f"regularization/{name}"]), name
        assert first.state.log_history[1][f"regularization/{name}_weight"] > 0, name
    again = trainer_of(tmp_path, bert(), rows, regularization=regularization, **more)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert torch.equal(parameters(first.model), parameters(again.model))


def test_in_half_precision_the_penalty_is_computed_in_single(tmp_path: Path) -> None:
    trainer = trained(
        tmp_path,
        bert(),
        sentences(),
        regularization={"regularizer": "persistent-entropy"},
        optim="adamw_torch",
        bf16=True,
    )
    assert trainer.regularization.points.points.dtype == torch.float32
    assert math.isfinite(trainer.state.log_history[-2]["regularization/persistent-entropy"])


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    rows = sentences()
    regularization = {"regularizer": MeanSquare(), "layer": [1, 2], "weight": 0.5}
    kept = trained(tmp_path, bert(), rows, regularization=regularization)
    model = bert()
    model.activation_checkpointing_enable({"use_reentrant": False})
    recomputed = trained(tmp_path, model, rows, regularization=regularization)
    assert_same(kept.model, recomputed.model)


def test_a_compiled_model_is_regularized_and_watched_as_it_is(tmp_path: Path) -> None:
    """Traced by dynamo and run as traced: code generation is not what could go wrong here."""
    rows = sentences()
    plain = trained(tmp_path, bert(), rows, max_steps=2)
    compiled = trainer_of(tmp_path, bert(), rows, max_steps=2, torch_compile=True, torch_compile_backend="eager")
    callback = MonitorCallback(compiled, [in_order(rows, 8, 0)], every=1, plot=False)
    compiled.add_callback(callback)
    compiled.train()
    assert compiled.model_wrapped is not compiled.model
    assert_same(compiled.model, plain.model)
    assert [entry["n"] for entry in callback.monitor.history] == [8, 8, 8]


# --- logs and evaluation ------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_task_loss_and_the_weighted_penalty(tmp_path: Path) -> None:
    trainer = trained(
        tmp_path,
        bert(),
        sentences(),
        max_steps=4,
        logging_steps=2,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
    )
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logs] == [2, 4]
    for entry in logs:
        parts = {name: entry[f"regularization/{name}"] for name in ("task_loss", "regularizer", "regularizer_weight")}
        assert parts["regularizer_weight"] == 0.5
        assert entry["loss"] == pytest.approx(parts["task_loss"] + 0.5 * parts["regularizer"], rel=1e-5)


def test_measures_of_the_last_cloud_are_logged(tmp_path: Path) -> None:
    trainer = trained(tmp_path, bert(), sentences(), measures=("isoscore_star", "mean_cosine"))
    entry = trainer.state.log_history[2]
    assert [key for key in entry if key.startswith("isotropy/")] == ["isotropy/isoscore_star", "isotropy/mean_cosine"]
    cloud = trainer.regularization.points
    expected = isoscore_star(cloud.points, mask=cloud.mask).item()
    assert entry["isotropy/isoscore_star"] == pytest.approx(expected, rel=1e-5)


def test_no_measures_no_keys(tmp_path: Path) -> None:
    trainer = trained(tmp_path, bert(), sentences())
    assert not [key for entry in trainer.state.log_history for key in entry if key.startswith("isotropy/")]


def test_evaluation_is_the_plain_trainers(tmp_path: Path) -> None:
    rows = sentences()
    more = {"eval_dataset": rows[:16], "eval_strategy": "steps", "eval_steps": 2, "learning_rate": 1e-30}
    ours = trained(tmp_path, bert(), rows, **more)
    plain = trained(tmp_path, bert(), rows, kind=Trainer, **more)
    evaluations = [[entry for entry in trainer.state.log_history if "eval_loss" in entry] for trainer in (ours, plain)]
    assert len(evaluations[0]) == len(evaluations[1]) >= 1
    for a, b in zip(*evaluations, strict=True):
        assert a.keys() == b.keys()
        assert a["eval_loss"] == b["eval_loss"]
    assert ours.predict(rows[:4]).metrics["test_loss"] == plain.predict(rows[:4]).metrics["test_loss"]


def test_every_step_of_the_optimizer_advances_once(tmp_path: Path) -> None:
    weight = schedule("linear", value=1.0, warmup=0.5, total=4)
    trainer = trained(
        tmp_path,
        bert(),
        sentences(),
        regularization={"regularizer": MeanSquare(), "weight": weight},
        max_steps=4,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
    )
    weights = [entry["regularization/regularizer_weight"] for entry in trainer.state.log_history if "loss" in entry]
    assert weights == [0.0, 0.5, 1.0, 1.0]
    assert trainer.regularization.step == 4


# --- checkpoints --------------------------------------------------------------------------------------------------------------


def eventful() -> dict[str, Any]:
    """Everything that remembers something."""
    return {
        "regularizer": {"entropy": "persistent-entropy", "istar": "istar"},
        "weight": {"entropy": BalancedWeight(), "istar": schedule("cosine", value=0.1, warmup=0.5, total=6)},
        "memory": 16,
        "max_points": 12,
    }


def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit(tmp_path: Path) -> None:
    rows = sentences()
    more = {
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 3,
        "optim": "adamw_torch",
        "train_sampling_strategy": "random",
        "lr_scheduler_type": "linear",
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 4,
    }
    whole = trained(tmp_path / "run", bert(dropout=0.1), rows, regularization=eventful(), **more)
    torch.manual_seed(99)
    again = trainer_of(tmp_path / "run", bert(dropout=0.1, seed=5), rows, regularization=eventful(), **more)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert torch.equal(parameters(whole.model), parameters(again.model))
    for name, value in whole.regularization.state_dict().items():
        other = again.regularization.state_dict()[name]
        assert torch.equal(value, other) if isinstance(value, Tensor) else value == other, name
    assert again.state.log_history[-2] == whole.state.log_history[-2] | {}

    file = tmp_path / "run" / "checkpoint-3" / "regularization.pt"
    file.unlink()
    forgetful = trainer_of(tmp_path / "run", bert(dropout=0.1, seed=5), rows, regularization=eventful(), **more)
    with pytest.warns(
        UserWarning, match=r"regularization\.pt is missing: the checkpoint was made without a regularization"
    ):
        forgetful.train(resume_from_checkpoint=str(file.parent))
    assert not torch.equal(parameters(whole.model), parameters(forgetful.model))


def test_a_state_of_other_arguments_is_refused(tmp_path: Path) -> None:
    rows, more = sentences(), {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    trained(tmp_path, bert(), rows, regularization={"memory": 4}, **more)
    other = trainer_of(tmp_path, bert(), rows, regularization={"memory": 5}, **more)
    with pytest.raises(RuntimeError, match=r"regularization\.pt was saved by a regularization with other arguments"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_a_saved_model_has_nothing_of_the_regularization(tmp_path: Path) -> None:
    trainer = trained(tmp_path, bert(), sentences(), regularization=eventful())
    trainer.save_model(str(tmp_path / "model"))
    model = BertForSequenceClassification.from_pretrained(tmp_path / "model")
    assert torch.equal(parameters(model), parameters(trainer.model))
    assert not list((tmp_path / "model").glob("regularization*"))


def test_close_takes_the_hooks_off(tmp_path: Path) -> None:
    def hooks(model: nn.Module) -> int:
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())

    model = bert()
    before = hooks(model)
    trainer = trained(tmp_path, model, sentences())
    assert hooks(model) > before
    trainer.regularization.close()
    assert hooks(model) == before


# --- ways to say it -----------------------------------------------------------------------------------------------------------


def test_a_function_and_a_regularization_do_as_well(tmp_path: Path) -> None:
    rows = sentences()
    by_name = trained(tmp_path, bert(), rows)
    by_function = trained(
        tmp_path, bert(), rows, regularization=lambda model: Regularization(model, MeanSquare(), weight=0.5)
    )
    model = bert()
    itself = trained(tmp_path, model, rows, regularization=Regularization(model, MeanSquare(), weight=0.5))
    assert torch.equal(parameters(by_name.model), parameters(by_function.model))
    assert torch.equal(parameters(by_name.model), parameters(itself.model))


def test_with_model_init_every_training_has_a_regularization_of_its_own(tmp_path: Path) -> None:
    given = {"regularizer": "istar", "weight": BalancedWeight(), "memory": 8}
    trainer = trainer_of(tmp_path, None, sentences(), model_init=lambda: bert(), regularization=given)
    trainer.train()
    first, once = trainer.regularization, parameters(trainer.model)
    trainer.train()
    assert trainer.regularization is not first
    assert trainer.regularization.step == 3
    assert torch.equal(parameters(trainer.model), once)
    assert not given["weight"].observed


def test_any_trainer_can_be_regularized(tmp_path: Path) -> None:
    kind = regularized(Seq2SeqTrainer)
    assert issubclass(kind, Seq2SeqTrainer)
    assert regularized(kind) is kind
    assert regularized(Trainer).__mro__[1:] == RegularizedTrainer.__mro__[1:]
    trainer = kind(
        model=bert(),
        args=arguments(tmp_path, Seq2SeqTrainingArguments),
        train_dataset=sentences(),
        regularization={"regularizer": MeanSquare(), "weight": 0.5},
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    assert_same(trainer.model, trained(tmp_path, bert(), sentences()).model, 0)


@pytest.mark.parametrize(
    ("more", "kind", "message"),
    [
        (
            {"regularization": None},
            TypeError,
            "regularization must be a mapping of Regularization's arguments, .*got NoneType",
        ),
        ({"regularization": lambda model: 3}, TypeError, "regularization must return a Regularization; got int"),
        ({"regularization": {"regularizer": "none"}}, ValueError, "regularizer must be one of"),
        ({"measures": ("isotropy",)}, ValueError, "measures must be one of .*got 'isotropy'"),
        ({"measures": "isoscore"}, TypeError, "measures must be a sequence of names; got 'isoscore'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, more: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message):
        trainer_of(tmp_path, bert(), sentences(), **more)


def test_a_regularization_of_one_model_does_not_go_with_model_init(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="got a Regularization, which belongs to one model"):
        trainer_of(tmp_path, None, [], model_init=lambda: bert(), regularization=Regularization(bert()))


def test_data_parallel_is_refused(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    assert args.n_gpu <= 1
    args._n_gpu = 2
    with pytest.raises(ValueError, match=r"args must use one device for each process; got n_gpu=2.*torchrun"):
        RegularizedTrainer(model=bert(), args=args, train_dataset=sentences(), regularization={})


def test_a_trainer_whose_batches_have_a_mask_for_each_column_is_refused() -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    with pytest.raises(
        TypeError, match=r"those of SentenceTransformerTrainer have one for each column; use .*RegularizedLoss"
    ):
        regularized(sentence_transformers.SentenceTransformerTrainer)


def test_only_trainers_are_regularized() -> None:
    with pytest.raises(TypeError, match=r"trainer must be transformers\.Trainer or a subclass of it"):
        regularized(dict)


# --- two processes ------------------------------------------------------------------------------------------------------------


RANKS = {"averaged": (bert, False), "counted": (gpt2, True)}


def of_two_ranks() -> dict[str, Any]:
    return {
        "regularizer": {"mean": MeanSquare(), "entropy": "persistent-entropy"},
        "weight": {"mean": 0.5, "entropy": BalancedWeight(synchronized=True)},
        "memory": 4,
    }


def two_ranks_at_work(folder: Path) -> None:
    """What each process of the launch below does."""
    more = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 2,
        "average_tokens_across_devices": True,
        "ddp_backend": "gloo",
        "save_strategy": "steps",
        "save_steps": 1,
    }
    for name, (make, causal) in RANKS.items():
        trainer = trained(folder / name, make(), sentences(causal=causal), regularization=of_two_ranks(), **more)
        found = {
            "parameters": parameters(trainer.model),
            "logs": trainer.state.log_history,
            "ranks": trainer.args.world_size,
        }
        torch.save(found, folder / f"{name}_{trainer.args.process_index}.pt")
    apart = {"memory": 4, "gather": False}
    first = trained(folder / "apart", bert(), sentences(), regularization=apart, **more)
    again = trainer_of(folder / "apart", bert(), sentences(), regularization=apart, **more)
    again.train(resume_from_checkpoint=str(folder / "apart" / "checkpoint-1"))
    found = {
        "whole": parameters(first.model),
        "resumed": parameters(again.model),
        "memory": first.regularization.memory.points,
    }
    torch.save(found, folder / f"apart_{first.args.process_index}.pt")


@pytest.mark.xdist_group("ranks")
@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="torch without gloo"
)
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    output_of_ranks(2, "tests.test_hf", tmp_path)
    for name, (make, causal) in RANKS.items():
        found = [torch.load(tmp_path / f"{name}_{rank}.pt", weights_only=True) for rank in range(2)]
        assert [one["ranks"] for one in found] == [2, 2]
        assert torch.equal(found[0]["parameters"], found[1]["parameters"])
        # Batches go to ranks in turn, so micro-batch i of both is the i-th four sentences.
        one = trained(
            tmp_path / "one",
            make(),
            sentences(causal=causal),
            regularization=of_two_ranks(),
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            max_steps=2,
        )
        assert (found[0]["parameters"] - parameters(one.model)).abs().max() <= 1e-6
        for a, b in zip(found[0]["logs"][:2], one.state.log_history[:2], strict=True):
            for key in ("loss", "regularization/task_loss", "regularization/mean", "regularization/entropy"):
                assert a[key] == pytest.approx(b[key], abs=1e-5), (name, key)
        assert (tmp_path / name / "checkpoint-1" / "regularization.pt").is_file()
        assert not (tmp_path / name / "checkpoint-1" / "regularization_1.pt").exists()
    apart = [torch.load(tmp_path / f"apart_{rank}.pt", weights_only=True) for rank in range(2)]
    assert not torch.equal(apart[0]["memory"], apart[1]["memory"])  # what each has to find again in a file of its own
    for found in apart:
        assert torch.equal(found["whole"], found["resumed"])


# --- monitoring ---------------------------------------------------------------------------------------------------------------


def test_watching_changes_nothing_and_writes_what_it_saw(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = sentences()
    more = {"max_steps": 5, "logging_steps": 2, "train_sampling_strategy": "random"}
    alone = trained(tmp_path / "alone", bert(dropout=0.1), rows, kind=Trainer, **more)
    watched = trainer_of(tmp_path / "watched", bert(dropout=0.1), rows, kind=Trainer, eval_dataset=rows[:20], **more)
    watched.add_callback(MonitorCallback(watched, every=2, max_points=16, measures=("mean_cosine", "entropy_deficit")))
    watched.train()
    assert torch.equal(parameters(alone.model), parameters(watched.model))
    assert [entry["step"] for entry in watched.state.log_history if "loss" in entry] == [2, 4]  # none was lost
    seen = [entry for entry in watched.state.log_history if "monitor/mean_cosine" in entry]
    assert [entry["step"] for entry in seen] == [0, 2, 4]
    history = read_history(tmp_path / "watched" / "monitor.json")
    assert [entry["step"] for entry in history] == [0, 2, 4]
    assert [entry["entropy_deficit"] for entry in history] == [entry["monitor/entropy_deficit"] for entry in seen]
    assert {(entry["n"], len(entry["bars"])) for entry in history} == {(16, 15)}
    assert (tmp_path / "watched" / "monitor.png").stat().st_size > 1000


def test_watching_at_evaluations_goes_on_when_resumed(tmp_path: Path) -> None:
    rows = sentences()
    more = {
        "max_steps": 4,
        "eval_dataset": rows[:8],
        "eval_strategy": "steps",
        "eval_steps": 2,
        "per_device_eval_batch_size": 3,
    }
    saving = {"save_strategy": "steps", "save_steps": 2}
    for checkpoint in (None, str(tmp_path / "checkpoint-2")):
        trainer = trainer_of(tmp_path, bert(), rows, **more, **saving)
        callback = MonitorCallback(trainer, plot=False, measures=(), max_points=5)
        trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.evaluate()  # after training: not watched
        assert [entry["step"] for entry in callback.monitor.history] == [0, 2, 4]
        assert [entry["step"] for entry in json.loads((tmp_path / "monitor.json").read_text())] == [0, 2, 4]
    assert not (tmp_path / "monitor.png").exists()


def test_every_must_be_a_number_of_steps() -> None:
    with pytest.raises(ValueError, match="every must be None or at least 1; got 0"):
        MonitorCallback(None, every=0)


def test_a_missing_matplotlib_is_said_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"simplicial_reg\[plots\]"):
        MonitorCallback(None)
    assert MonitorCallback(None, plot=False).monitor is None


if __name__ == "__main__":
    two_ranks_at_work(Path(sys.argv[1]))
    leave_together()
