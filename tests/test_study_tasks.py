"""Tasks, metrics and variants of the study: what is read, how it is cut, and what bad input is told."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from simplicial_reg.regularizers import REGULARIZERS, shrink_the_longest
from simplicial_reg.study import docstrings
from simplicial_reg.study.docstrings import read_sentences, sentences_of
from simplicial_reg.study.spans import ANSWER_METRICS
from simplicial_reg.study.tasks import METRICS, TASKS, Split, Task, load_task, nearest, read_description
from simplicial_reg.study.variants import VARIANTS

pytest.importorskip("sklearn")
pytest.importorskip("scipy")

DATA = os.environ.get("SIMPLICIAL_REG_DATA")
GLUE_HERE = pytest.mark.skipif(
    DATA is None or not (Path(DATA) / "glue").is_dir(), reason="SIMPLICIAL_REG_DATA does not name a folder with glue"
)


@pytest.fixture(autouse=True)
def without_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIMPLICIAL_REG_DATA", raising=False)


@pytest.fixture(scope="module")
def sentences() -> dict[str, list[tuple[str, int]]]:
    return read_sentences({"train": 30, "held_out": 8, "reported": 12})


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def cola(folder: Path, rows: int = 40) -> Path:
    for name in ("train", "validation"):
        write(folder / "cola" / f"{name}.tsv", "sentence\tlabel", *(f'{name} "{at}\t{at % 2}' for at in range(rows)))
    return folder


# --- docstrings ---


def test_docstring_sentences_are_balanced_and_the_same_each_time(sentences: dict[str, list[tuple[str, int]]]) -> None:
    for part, size in (("train", 30), ("held_out", 8), ("reported", 12)):
        assert [sum(label == one for _, one in sentences[part]) for label in range(4)] == [size] * 4
    assert read_sentences({"train": 30, "held_out": 8, "reported": 12}) == sentences


def test_no_docstring_sentence_names_its_library(sentences: dict[str, list[tuple[str, int]]]) -> None:
    told = re.compile(r"numpy|scipy|sklearn|scikit|torch|\bnp\.", re.IGNORECASE)
    assert not [text for rows in sentences.values() for text, _ in rows if told.search(text)]


def test_no_two_docstring_sentences_share_half_of_their_three_word_sequences(
    sentences: dict[str, list[tuple[str, int]]],
) -> None:
    def shingles(text: str) -> set[tuple[str, ...]]:
        words = re.sub(r"[\W\d_]+", " ", text.lower()).split()
        return {tuple(words[at : at + 3]) for at in range(max(1, len(words) - 2))}

    found = [shingles(text) for rows in sentences.values() for text, _ in rows]
    worst = max(len(a & b) / len(a | b) for at, a in enumerate(found) for b in found[:at])
    assert worst < docstrings.NEAR


def test_parts_share_no_source_file(monkeypatch: pytest.MonkeyPatch) -> None:
    read: dict[str, set[str]] = {}
    monkeypatch.setattr(docstrings, "_sentences", lambda path: [f"{path} {at}" for at in range(3)])
    monkeypatch.setattr(docstrings, "_Seen", lambda: type("", (), {"add": lambda self, sentence: True})())
    for part, rows in read_sentences({"train": 30, "held_out": 8, "reported": 12}).items():
        read[part] = {text.split()[0] for text, _ in rows}
    assert all(len(files) > 4 for files in read.values())
    assert not read["train"] & read["held_out"]
    assert not (read["train"] | read["held_out"]) & read["reported"]


def test_a_near_duplicate_is_seen_and_another_sentence_is_not() -> None:
    seen = docstrings._Seen()
    assert seen.add("Return the sum of array elements over a given axis.")
    assert not seen.add("Return the sum of array elements over a given axis, 2.")
    assert not seen.add("Return the sum of array elements over a given axis of it.")
    assert seen.add("Compute the singular values of a matrix without vectors.")


def test_code_headings_and_examples_are_no_sentences() -> None:
    docstring = """Compute the thing for all of the rows in NumPy arrays.

    Parameters
    ----------
    x : array
        The values whose thing shall be computed by :func:`~numpy.thing` here.

    Examples
    --------
    This sentence stands after the heading of the examples and is left out.
    """
    assert sentences_of(docstring) == [
        "Compute the thing for all of the rows in the library arrays.",
        "The values whose thing shall be computed by the library.thing here.",
    ]


def test_a_source_of_another_python_has_no_sentences(tmp_path: Path) -> None:
    assert list(docstrings._sentences(write(tmp_path / "old.py", "print 'no parentheses'"))) == []


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"sources of numpy; pip install 'simplicial_reg\[study\]'"):
        read_sentences({"train": 1})


# --- parts ---


def test_digits_are_cut_into_parts_that_share_no_image_and_have_all_classes() -> None:
    task = load_task("digits")
    parts = [task.train, task.held_out, task.reported]
    assert sum(map(len, parts)) == 1797
    images = torch.cat([part.inputs for part in parts]).flatten(1)
    assert len(torch.unique(images, dim=0)) == len(images)
    assert all(sorted(set(part.labels)) == list(range(10)) for part in parts)
    assert "109 0, 111 1" in task.description
    assert task.fingerprint == load_task("digits").fingerprint


def test_the_held_out_part_does_not_depend_on_the_limit(tmp_path: Path) -> None:
    whole, part = (load_task("cola", data_dir=cola(tmp_path, 400), limit=limit) for limit in (None, 100))
    assert part.held_out == whole.held_out
    assert len(whole.train) == 350
    assert len(part.train) == 100
    assert set(part.train.inputs) < set(whole.train.inputs)
    assert not set(whole.train.inputs) & set(whole.held_out.inputs)
    assert part.train.labels.count(1) == 50
    assert part.fingerprint != whole.fingerprint


def test_at_most_a_thousand_are_held_out(tmp_path: Path) -> None:
    task = load_task("cola", data_dir=cola(tmp_path, 9000))
    assert (len(task.train), len(task.held_out)) == (8000, 1000)


def test_held_out_scores_have_the_distribution_of_all(tmp_path: Path) -> None:
    for name in ("train", "validation"):
        rows = (f"a\tb\t{5 * at / 799:.3f}" for at in range(800))
        write(tmp_path / "stsb" / f"{name}.tsv", "sentence1\tsentence2\tlabel", *rows)
    task = load_task("stsb", data_dir=tmp_path)
    assert task.is_regression
    assert task.num_labels == 1
    assert task.held_out.labels != task.train.labels[:100]
    assert np.mean(task.held_out.labels) == pytest.approx(2.5, abs=0.1)


# --- files ---


def test_a_quotation_mark_is_a_character_like_any_other(tmp_path: Path) -> None:
    task = load_task("cola", data_dir=cola(tmp_path))
    assert task.reported.inputs[3] == ('validation "3',)
    assert (task.kind, task.metric, task.metrics) == ("text", "matthews", ("matthews", "accuracy"))


def test_data_are_found_in_the_folder_that_the_variable_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMPLICIAL_REG_DATA", str(cola(tmp_path / "glue").parent))
    assert len(load_task("cola").reported) == 40


def test_mnli_has_a_matched_and_a_mismatched_part(tmp_path: Path) -> None:
    for name in ("train", "validation_matched", "validation_mismatched"):
        rows = (f"{name}\tb\t{at % 3}" for at in range(24))
        write(tmp_path / "mnli" / f"{name}.tsv", "premise\thypothesis\tlabel", *rows)
    task = load_task("mnli", data_dir=tmp_path)
    assert task.reported.inputs[0][0] == "validation_matched"
    assert task.others["mismatched"].inputs[0][0] == "validation_mismatched"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["text\tlabel", "a\t1"], r"train.tsv: column sentence is missing; .* sentence, label; found text, label"),
        (["sentence\tlabel", "a\tb\t1"], r"train.tsv, line 2: 3 fields where the first line names 2 columns, sentence"),
        (["sentence\tlabel", "a\t2"], r"row 1: label must be an int from 0 to 1; got '2'"),
        (["sentence\tlabel", "a\t-1"], r"row 1: label must be an int from 0 to 1; got '-1'"),
        (["sentence\tlabel", "a\tyes"], r"row 1: label must be an int from 0 to 1; got 'yes'"),
        (["sentence\tlabel"], r"train.tsv: there are no rows"),
        ([], r"found none"),
        (["sentence\tlabel", "a\t1"], r"train has 1 examples; at least 8 are needed"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_what_is_wrong(tmp_path: Path, lines: list[str], said: str) -> None:
    write(cola(tmp_path) / "cola" / "train.tsv", *lines)
    with pytest.raises(ValueError, match=said):
        load_task("cola", data_dir=tmp_path)


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (cola(tmp_path) / "cola" / "train.tsv").write_bytes(b"sentence\tlabel\nGr\xfcn\t1\n")
    with pytest.raises(ValueError, match=r"train.tsv: must be UTF-8"):
        load_task("cola", data_dir=tmp_path)


def test_a_missing_folder_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data_dir must be a folder; there is none at .*nowhere"):
        load_task("cola", data_dir=tmp_path / "nowhere")
    cola(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"'rte' needs a folder rte or glue/rte .* there are cola"):
        load_task("rte", data_dir=tmp_path)
    (tmp_path / "cola" / "validation.tsv").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"validation.tsv: there is no such file; in the folder there are train"
    ):
        load_task("cola", data_dir=tmp_path)


def test_without_data_and_hub_the_offline_tasks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install datasets.*SIMPLICIAL_REG_DATA.*docstrings, digits"):
        load_task("cola")


def test_a_hub_that_cannot_be_reached_is_told_with_the_offline_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Datasets:
        @staticmethod
        def load_dataset(repository: str, config: str) -> None:
            raise ConnectionError(f"Couldn't reach {repository!r}\nmore")

    monkeypatch.setitem(__import__("sys").modules, "datasets", Datasets)
    with pytest.raises(FileNotFoundError, match=r"Couldn't reach 'nyu-mll/glue'\); pass data_dir.*docstrings, digits"):
        load_task("cola")


def test_the_hub_gives_what_files_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Rows(list[dict[str, object]]):
        column_names = ("sentence", "label", "idx")

    class Datasets:
        @staticmethod
        def load_dataset(repository: str, config: str) -> dict[str, Rows]:
            assert (repository, config) == ("nyu-mll/glue", "cola")
            return {
                name: Rows({"sentence": f'{name} "{at}', "label": at % 2, "idx": at} for at in range(40))
                for name in ("train", "validation", "test")
            }

    monkeypatch.setitem(__import__("sys").modules, "datasets", Datasets)
    assert load_task("cola").fingerprint == load_task("cola", data_dir=cola(tmp_path)).fingerprint


@pytest.mark.parametrize("limit", [0, -1, 1.5, True])
def test_a_limit_that_is_no_number_of_examples_is_an_error(limit: object) -> None:
    with pytest.raises(ValueError, match="limit must be an int of at least 1"):
        load_task("digits", limit=limit)  # type: ignore[arg-type]


def test_an_unknown_task_is_told_the_nearest() -> None:
    assert nearest("mprc")[0] == "mrpc"
    with pytest.raises(ValueError, match=r"got 'sst-2'; the nearest are sst2"):
        load_task("sst-2")


# --- TOML ---


def described(folder: Path, **changes: str) -> Path:
    keys = {
        "kind": '"pair"',
        "columns": '["a", "b"]',
        "labels": '["no", "yes"]',
        "metrics": '["f1", "accuracy"]',
        "train": '"train.csv"',
        "reported": '"test.jsonl"',
        **changes,
    }
    rows = [f'"one, {at}","two",{"yes" if at % 3 else "no"}' for at in range(16)]
    write(folder / "train.csv", "a,b,label", *rows)
    write(folder / "test.jsonl", '{"a": "x", "b": "y", "label": "no"}', '{"a": "x", "b": "z", "label": "yes"}')
    return write(folder / "pairs.toml", *(f"{key} = {value}" for key, value in keys.items() if value))


def test_a_toml_file_describes_a_task(tmp_path: Path) -> None:
    task = load_task(str(described(tmp_path)))
    assert (task.name, task.metric, task.classes) == ("pairs", "f1", ("no", "yes"))
    assert task.reported == Split([("x", "y"), ("x", "z")], [0.0, 1.0])
    assert ("one, 3", "two") in [*task.train.inputs, *task.held_out.inputs]


def test_a_toml_file_describes_a_regression(tmp_path: Path) -> None:
    path = described(tmp_path, labels="", num_labels="1", metrics="", train='"numbers.tsv"', reported='"numbers.tsv"')
    write(tmp_path / "numbers.tsv", "a\tb\tlabel", *(f"x\ty\t{at / 2}" for at in range(10)))
    task = load_task(str(path))
    assert task.is_regression
    assert task.metrics == ("pearson_spearman", "pearson", "spearman")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": '"audio"'}, r"pairs.toml: kind must be one of 'text', 'pair', 'similarity', 'span'; got 'audio'"),
        ({"columns": '["a"]'}, r'columns must name 2 for kind = "pair"; got \[\'a\'\]'),
        ({"columns": '"a"'}, r"columns must be a list of strings; got 'a'"),
        ({"metrics": '["bleu"]'}, r"metric must be one of 'accuracy', .*; got 'bleu'"),
        ({"metrics": '["spearman"]'}, r"metric must be one of accuracy, .* for 2 labels; got 'spearman'"),
        ({"labels": ""}, r"num_labels must be an int, 1 for regression, or labels a list of names; got 0"),
        ({"num_labels": "3"}, r"num_labels must be .*; got 3"),
        ({"train": ""}, r"train must be given"),
        ({"colour": '"red"'}, r"unknown keys colour; those of a task are"),
        ({"kind": "pair"}, r"pairs.toml: is not TOML"),
        ({"labels": '["no", "maybe"]'}, r"row 2: label must be one of no, maybe; got 'yes'"),
        ({"train": '"train.xml"'}, r"train.xml: there is no such file; in the folder there are pairs.toml, test.jsonl"),
    ],
)
def test_a_wrong_description_is_told_what_is_wrong(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        load_task(str(described(tmp_path, **changes)))


def test_a_description_that_is_not_there_is_an_error() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.toml: there is no such file"):
        read_description("nowhere.toml")


# --- metrics ---


def scored(metrics: tuple[str, ...], classes: int, labels: list[float], outputs: torch.Tensor) -> dict[str, float]:
    split = Split([("a",)], [0.0])
    task = Task("t", "text", metrics, tuple(map(str, range(classes))), split, split, split)
    return task.score(labels, outputs)


def test_metrics_of_two_classes_are_those_of_the_counts() -> None:
    labels, predicted = [1, 1, 1, 0, 0, 1], [1, 0, 1, 1, 0, 1]  # 3 true positives, 1 false, 1 true negative, 1 missed
    outputs = torch.nn.functional.one_hot(torch.tensor(predicted), 2).float()
    found = scored(("accuracy_f1", "accuracy", "f1", "matthews", "macro_f1"), 2, [*map(float, labels)], outputs)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["f1"] == pytest.approx(6 / 8)
    assert found["accuracy_f1"] == pytest.approx((4 / 6 + 6 / 8) / 2)
    assert found["matthews"] == pytest.approx((3 * 1 - 1 * 1) / math.sqrt(4 * 4 * 2 * 2))
    assert found["macro_f1"] == pytest.approx((6 / 8 + 2 / 4) / 2)


def test_correlations_are_those_of_the_formula() -> None:
    labels, outputs = [0.0, 1.0, 2.0, 4.0], torch.tensor([[0.1], [0.3], [0.2], [8.0]])
    found = scored(("pearson_spearman", "pearson", "spearman"), 0, labels, outputs)
    assert found["pearson"] == pytest.approx(np.corrcoef(labels, outputs.squeeze(1))[0, 1])
    assert found["spearman"] == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert found["pearson_spearman"] == pytest.approx((found["pearson"] + found["spearman"]) / 2)


def test_predictions_that_are_all_equal_have_correlation_zero() -> None:
    found = scored(("pearson", "spearman"), 0, [0.0, 1.0], torch.ones(2, 1))
    assert found == {"pearson": 0.0, "spearman": 0.0}
    assert scored(("matthews", "f1"), 2, [0.0, 1.0], torch.tensor([[1.0, 0.0]] * 2)) == {"matthews": 0.0, "f1": 0.0}


def test_outputs_that_are_not_finite_have_no_score() -> None:
    assert math.isnan(scored(("accuracy",), 2, [0.0], torch.tensor([[math.nan, 0.0]]))["accuracy"])


def test_every_task_has_metrics_that_exist() -> None:
    for source in TASKS.values():
        assert set(source.metrics) <= set(ANSWER_METRICS if source.kind == "span" else METRICS)


# --- variants ---


def test_every_variant_makes_its_regularizer_and_searches_one_scale() -> None:
    for variant in VARIANTS.values():
        if variant.regularizer is not None:
            REGULARIZERS[variant.regularizer](**variant.options)
            assert len(variant.space.keys() & {"weight", "fraction"}) == 1
            assert variant.space.keys() == variant.defaults.keys()
            for name, value in variant.defaults.items():
                assert variant.space[name]["low"] <= value <= variant.space[name]["high"]  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("name", "sign"), [("shrink-the-longest", "published"), ("shrink-the-longest-corrected", "corrected")]
)
def test_shrink_the_longest_is_the_loss_of_that_name(name: str, sign: str) -> None:
    ours = REGULARIZERS["persistent-entropy"](**VARIANTS[name].options)
    assert ours.arguments() == shrink_the_longest(sign=sign).arguments()


def test_only_variants_of_labels_need_classes() -> None:
    assert {name for name, variant in VARIANTS.items() if variant.needs_classes} == {
        "persistent-entropy-label",
        "shrink-the-longest",
        "shrink-the-longest-corrected",
    }


# --- real data ---


@GLUE_HERE
@pytest.mark.parametrize(
    ("name", "sizes", "kind"),
    [
        ("cola", (7551, 1000, 1043), "text"),
        ("sst2", (66349, 1000, 872), "text"),
        ("mrpc", (3210, 458, 408), "pair"),
        ("stsb", (5030, 719, 1500), "pair"),
    ],
)
def test_glue_has_its_official_sizes(name: str, sizes: tuple[int, int, int], kind: str) -> None:
    task = load_task(name, data_dir=DATA)
    assert (len(task.train), len(task.held_out), len(task.reported)) == sizes
    assert task.kind == kind
