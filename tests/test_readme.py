"""The Python in README.md and docs/ runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import simplicial_reg

ROOT = Path(__file__).parent.parent
BLOCKS = [
    pytest.param(block, id=f"{path.name}-{number}")
    for path in (ROOT / "README.md", ROOT / "docs" / "barcodes.md")
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL))
]


def surroundings() -> dict[str, Any]:
    """What the examples take for granted: a loader, an encoder, a classifier, an optimizer, some points."""
    encoder, classifier = nn.Linear(6, 4), nn.Linear(4, 3)
    return {
        "loader": [(torch.randn(20, 6), torch.randint(3, (20,)))],
        "encoder": encoder,
        "classifier": classifier,
        "cross_entropy": nn.functional.cross_entropy,
        "optimizer": torch.optim.SGD([*encoder.parameters(), *classifier.parameters()], lr=0.1),
        "points": torch.randn(30, 3),
        "rips_barcode": simplicial_reg.rips_barcode,
    }


@pytest.mark.parametrize("block", BLOCKS)
def test_example_runs(block: str) -> None:
    if "persistence_information" in block:
        pytest.importorskip("torch_topological")
    exec(block, surroundings())


def test_there_are_examples() -> None:
    assert len(BLOCKS) >= 3


def test_every_file_that_the_readme_points_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
