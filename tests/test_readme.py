"""The Python in README.md and docs/ runs as it stands."""

from __future__ import annotations

import importlib.util
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import simplicial_reg

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("barcodes", "measures", "regularizers", "training")),
]
BLOCKS = [
    pytest.param(block, id=f"{path.name}-{number}")
    for path in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL))
]


class Model(nn.Module):
    """Called as a model of Hugging Face: it returns an output with a loss, and has a stack of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3))
        self.head = nn.Linear(6, 2)

    def forward(self, inputs: Tensor, attention_mask: Tensor, labels: Tensor) -> SimpleNamespace:
        for block in self.blocks:
            inputs = block(inputs)
        return SimpleNamespace(loss=nn.functional.cross_entropy(self.head(inputs.mean(1)), labels))


def surroundings() -> dict[str, Any]:
    """What the examples take for granted: a model, a loader, an encoder, a classifier, an optimizer, some points."""
    encoder, classifier, model = nn.Linear(6, 4), nn.Linear(4, 3), Model()
    labelled = [(torch.randn(20, 6), torch.randint(3, (20,))) for _ in range(2)]
    batch = {
        "inputs": torch.randn(8, 5, 6),
        "attention_mask": torch.ones(8, 5, dtype=torch.long),
        "labels": torch.arange(8) % 2,
    }
    loader = torch.utils.data.DataLoader([batch], batch_size=None)  # a list would be several loaders to Lightning
    return {
        "loader": loader,
        "held_out_loader": loader,
        "batches": [points for points, _ in labelled],
        "micro_batches": labelled,
        "model": model,
        "encoder": encoder,
        "classifier": classifier,
        "cross_entropy": nn.functional.cross_entropy,
        "optimizer": torch.optim.SGD([*model.parameters(), *encoder.parameters(), *classifier.parameters()], lr=0.1),
        "points": torch.randn(30, 3),
        "embeddings": torch.randn(20, 6),
        "mask": None,
        "labels": None,
        "task_loss": torch.zeros(()),
        "train_embeddings": torch.randn(300, 260),
        "test_embeddings": torch.randn(10, 260),
        "rips_barcode": simplicial_reg.rips_barcode,
        "IsoScoreStarLoss": simplicial_reg.IsoScoreStarLoss,
    }


def transformer() -> dict[str, Any]:
    """What the example of transformers takes for granted."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    rows = [
        {"input_ids": torch.randint(30, (5,)), "attention_mask": torch.ones(5).long(), "labels": at % 2}
        for at in range(8)
    ]
    return {"model": BertForSequenceClassification(config), "train_dataset": rows, "held_out_dataset": rows}


def sentence_transformer() -> dict[str, Any]:
    """What the example of sentence-transformers takes for granted."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = ["?", "one", "two", "three", "four", "five", "six", "seven"]
    tokenizer = Tokenizer(WordLevel({word: at for at, word in enumerate(words)}, unk_token="?"))
    return {
        "model": SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=4)], device="cpu"),
        "train_dataset": Dataset.from_dict({"anchor": words, "positive": words[::-1]}),
        "held_out_sentences": words,
    }


# What a block that names this module needs, and what it takes for granted.
FRAMEWORKS: dict[str, tuple[tuple[str, ...], Any]] = {
    "training.hf": (("transformers", "accelerate", "matplotlib"), transformer),
    "training.sentence_transformers": (("sentence_transformers", "datasets", "matplotlib"), sentence_transformer),
    "training.lightning": (("lightning", "matplotlib"), dict),
    "training.monitor": (("matplotlib",), dict),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_example_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if "persistence_information" in block:
        pytest.importorskip("torch_topological")
    names, frameworks = surroundings(), [one for module, one in FRAMEWORKS.items() if module in block]
    for packages, _ in frameworks:
        if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
            pytest.skip(f"needs {', '.join(missing)}")
    with warnings.catch_warnings():
        if frameworks:  # whose advice, on workers and pinned memory, is not ours to follow here
            warnings.simplefilter("ignore")
        for _, make in frameworks[:1]:
            names |= make()
        exec(block, names)


def test_there_are_examples() -> None:
    assert all(any(path.name in str(block.id) for block in BLOCKS) for path in PAGES)


@pytest.mark.parametrize("page", [PAGES[0], *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name)
def test_every_file_that_a_page_points_to_is_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
    if page.name == "README.md":
        assert links
