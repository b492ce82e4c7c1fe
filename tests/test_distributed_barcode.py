"""A cloud that is spread over gloo processes: its barcode and gradient are those of one process that holds all points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from simplicial_reg import METRICS, rips_barcode
from simplicial_reg.distributed import distributed_barcode
from simplicial_reg.engines import blocked
from simplicial_reg.engines._blocked_kernels import forest
from tests import distributed_barcode_worker as worker
from tests.programs import output_of_ranks

pytestmark = [
    pytest.mark.xdist_group("barcode ranks"),  # so that every number of processes is launched once
    pytest.mark.skipif(
        not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="torch without gloo"
    ),
]


@pytest.fixture(scope="module", params=[2, 3], ids=["2 ranks", "3 ranks"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank found."""
    folder = tmp_path_factory.mktemp(f"ranks{request.param}")
    output_of_ranks(request.param, "tests.distributed_barcode_worker", folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(request.param)]


@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize("name", worker.CLOUDS)
def test_every_rank_has_the_barcode_of_the_whole_cloud_and_the_gradient_of_its_points(
    found: list[dict[str, Any]], name: str, metric: str
) -> None:
    parts = [worker.cloud(name, rank) for rank in range(len(found))]
    points = torch.cat(parts).requires_grad_()
    (bars,) = rips_barcode(points, metric=metric, engine="spanning-tree")
    (gradient,) = torch.autograd.grad(worker.loss(bars), points)
    for rank, part in enumerate(gradient.split([len(part) for part in parts])):
        death, birth_edge, death_edge, own = found[rank][f"{name}, {metric}"]
        assert torch.equal(birth_edge, bars.birth_edge)
        assert torch.equal(death_edge, bars.death_edge)
        assert torch.equal(death, found[0][f"{name}, {metric}"][0])  # to the last bit on every rank
        torch.testing.assert_close(death, bars.death.detach())
        torch.testing.assert_close(own, part)


def test_where_gradients_are_averaged_that_of_a_rank_is_multiplied_by_their_number(found: list[dict[str, Any]]) -> None:
    for rank in found:
        torch.testing.assert_close(rank["averaged"], len(found) * rank["normal, euclidean"][3])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "width",
            "points of all ranks must agree in coordinates, dtype and metric; got rank 0: (4, 2) torch.float32, euclidean",
        ),
        (
            "dtype",
            "points of all ranks must agree in coordinates, dtype and metric; got rank 0: (4, 2) torch.float32, euclidean",
        ),
        ("nan", "points must be finite on every rank; got rank 0: (4, 2) torch.float32, euclidean; rank 1: "),
        ("large", "points are too large: distances may overflow torch.float32, on rank "),
    ],
)
def test_what_is_wrong_on_one_rank_is_the_same_error_on_all(
    found: list[dict[str, Any]], name: str, message: str
) -> None:
    said = {rank[name] for rank in found}
    assert len(said) == 1
    assert said.pop().startswith(message)


def test_one_process_needs_no_group() -> None:
    points = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        distributed_barcode(points, metric="cosine").death, rips_barcode(points, metric="cosine")[0].death
    )
    with pytest.raises(ValueError, match=r"points must be one cloud, \(n, d\); got shape \(2, 5, 3\)"):
        distributed_barcode(points.view(2, 5, 3))
    with pytest.raises(ValueError, match="reduction must be one of"):
        distributed_barcode(points, reduction="median")


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_the_forest_of_the_trees_of_all_pairs_of_parts_is_the_tree(parts: int) -> None:
    """The argument of the module's docstring, without any communication; with ties."""
    points = np.random.default_rng(parts).integers(0, 4, (120, 3)).astype(np.float32)
    expected, lengths = blocked.tree_edges(points)
    blocks = np.array_split(np.arange(len(points)), parts)
    found = []
    for a in range(parts):
        for b in range(a):
            vertices = np.concatenate([blocks[b], blocks[a]])
            edges, long = blocked.tree_edges(np.ascontiguousarray(points[vertices]))
            found.append((vertices[edges], long))
    edges, long = (np.concatenate(one) for one in zip(*found, strict=True))
    order = np.lexsort((edges[:, 1], edges[:, 0], long))
    kept = forest(edges[order], len(points))
    assert np.array_equal(edges[order][kept], expected)
    assert np.array_equal(long[order][kept], lengths)
