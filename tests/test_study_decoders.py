"""Decoders in the study: they train with the last real token as the point, with or without a token for padding."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from simplicial_reg.study import training
from simplicial_reg.study.models import build_model, last_token
from simplicial_reg.study.record import Cell, Record
from simplicial_reg.study.tasks import Task, load_task
from simplicial_reg.study.training import run_cell
from simplicial_reg.training.tap import Tap
from tests.study_tiny import decoder, encoder, pairs_task

for package in ("scipy", "sklearn", "transformers"):
    pytest.importorskip(package)

STORIES = Path(os.environ.get("SIMPLICIAL_REG_DATA") or "nowhere") / "models" / "stories260K"


@pytest.fixture(params=["GPT-2 without padding token", "Llama"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "Llama":
        if not STORIES.is_dir():
            pytest.skip("SIMPLICIAL_REG_DATA does not name a folder with models/stories260K")
        return STORIES
    return decoder(tmp_path / "model")


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return load_task(pairs_task(tmp_path))


def cell(folder: Path, model: Path, variant: str, **settings: Any) -> Record:
    budget = {"steps": 3, "batch_size": 8, "max_length": 32}
    found = run_cell(
        Cell(pairs_task(folder), str(model), variant, "final", 1, {"learning_rate": 1e-3, **settings}, budget)
    )
    assert found.status == "done", found.error
    return found


def test_the_point_is_the_last_real_token_of_the_normalized_state_which_the_head_reads(model: Path, task: Task) -> None:
    torch.manual_seed(0)
    built = build_model(str(model), task)
    built.module.eval()
    assert built.pooling is last_token
    batch = built.batch(built.encode(task.reported, max_length=64, regression=False), range(7), torch.device("cpu"))
    assert batch.mask is not None
    assert len(set(batch.mask.sum(1).tolist())) > 1
    with torch.no_grad(), Tap(built.module, pooling=built.pooling) as tap:
        logits = built.outputs(batch)
        points = tap.read(mask=batch.mask).points
    head: Any = built.module.score
    assert torch.allclose(head(points), logits, atol=1e-5)


def test_padding_changes_nothing(model: Path, task: Task) -> None:
    built = build_model(str(model), task)
    built.module.eval()
    examples = built.encode(task.reported, max_length=64, regression=False)
    with torch.no_grad():
        together = built.outputs(built.batch(examples, range(6), torch.device("cpu")))
        alone = [built.outputs(built.batch(examples, [row], torch.device("cpu"))) for row in range(6)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)


def test_a_cell_trains_from_end_to_end(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    real = training.Regularization.forward

    def watched(module: Any, *args: Any, **options: Any) -> Tensor:
        loss = real(module, *args, **options)
        shapes.append(tuple(module.points.points.shape)[:1])
        return loss

    monkeypatch.setattr(training.Regularization, "forward", watched)
    record = cell(tmp_path, model, "persistent-entropy")
    assert shapes == [(8,)] * 3
    assert record.evaluations[0]["isotropy"] != record.evaluations[-1]["isotropy"]
    assert set(record.reported) == {"accuracy", "macro_f1"}
    assert len(record.clouds["after"]["deaths"]) == 4  # of 5 examples that are held out


def test_all_tokens_of_all_layers_are_seen_by_istar_and_weight_zero_is_the_baseline(
    model: Path, tmp_path: Path
) -> None:
    none, zero = cell(tmp_path, model, "none"), cell(tmp_path, model, "istar", weight=0.0)
    assert zero.evaluations == none.evaluations
    assert zero.steps["task_loss"] == none.steps["task_loss"]
    assert all(value > 0 for value in zero.steps["penalty"])


def test_the_embeddings_of_a_decoder_and_its_first_blocks_can_be_frozen(model: Path, task: Task) -> None:
    built = build_model(str(model), task)
    before = sum(one.requires_grad for one in built.module.parameters())
    built.freeze(embeddings=True, layers=1)
    frozen = [name for name, one in built.module.named_parameters() if not one.requires_grad]
    assert 1 < len(frozen) < before
    assert not built.module.get_input_embeddings().weight.requires_grad


def test_the_point_of_an_encoder_is_its_first_token(task: Task, tmp_path: Path) -> None:
    assert build_model(str(encoder(tmp_path / "encoder")), task).pooling == "cls"
