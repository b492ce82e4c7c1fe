"""The Triton kernels on the CPU, in Triton's interpreter, against the Numba engine; and that they compile for GPUs that are not here.

The interpreter has to be chosen before Triton is imported, and cannot be left again. So one process runs all kernels in it,
``python -m tests.test_triton FOLDER``, and the tests look at what it found.
"""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from simplicial_reg import _ops, pairwise_distances
from simplicial_reg.distances import METRICS
from tests.programs import output_of
from tests.test_engines import TIES, masks_for

pytestmark = [
    pytest.mark.xdist_group("triton"),  # so that the interpreter runs once
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
]

FORMS = {"prim": True, "boruvka": False}


@functools.cache
def trees() -> dict[str, tuple[Tensor, Tensor | None]]:
    """Float32 lengths (B, n, n) and masks, most of them full of ties."""
    clouds: dict[str, tuple[Tensor, Tensor | None]] = {}
    for name, (points, metric) in TIES.items():
        points = points[:2].float()
        lengths = points if metric == "precomputed" else pairwise_distances(points, metric)
        clouds[name] = lengths, None
        clouds[f"{name}, masked"] = lengths, masks_for(points)
    draw = torch.Generator().manual_seed(7)
    for n in (1, 2, 3, 5, 32, 33):
        levels = torch.randint(0, 2 + n % 4, (3, n, n), generator=draw).float().triu(1)
        mask = torch.rand(3, n, generator=draw) < 0.6
        mask[:, n // 2] = True
        clouds[f"{n} points"] = levels + levels.mT, None
        clouds[f"{n} points, masked"] = levels + levels.mT, mask
    clouds["one point is real"] = torch.rand(2, 9, 9), torch.arange(9).expand(2, 9) == torch.tensor([[0], [8]])
    path = (torch.arange(40.0) - torch.arange(40.0)[:, None]).abs()
    clouds["a path"] = path[None], None  # the longest chain of hooks
    clouds["a path, from the middle"] = path.roll((20, 20), (0, 1))[None], None
    clouds["halves"] = torch.where(path % 2 == 0, path, path + 100)[None], None
    tiny = torch.tensor([0.0, 1e-45, 2e-45, 1e-38, 3e38])
    clouds["from the smallest to the largest"] = (tiny[:, None] - tiny).abs()[None], None
    clouds["infinite lengths"] = torch.full((1, 6, 6), torch.inf).masked_fill(torch.eye(6, dtype=torch.bool), 0), None
    return clouds


IN_STEPS = ("33 points", "33 points, masked", "a path", "a path, from the middle", "halves")


@functools.cache
def coordinates() -> dict[str, tuple[Tensor, str]]:
    """Coordinates (B, n, d) and a metric; one tile and several, full and not."""
    draw = torch.Generator().manual_seed(8)
    clouds = {}
    for metric in METRICS:
        for shape in ((2, 7, 3), (1, 64, 8), (1, 70, 66), (1, 1, 1)):
            points = torch.randn(shape, generator=draw)
            points[0, 0] = 0
            points[0, -1] = points[0, shape[1] // 2]
            clouds[f"{metric} {shape}"] = METRICS[metric].coordinates(points), metric
    clouds["float64"] = torch.randn(1, 9, 5, generator=draw, dtype=torch.float64), "euclidean"
    clouds["far from the origin"] = torch.randn(1, 9, 5, generator=draw) + 1000, "euclidean"
    return clouds


def work(folder: Path) -> None:
    """Runs every kernel in the interpreter."""
    from simplicial_reg.engines import _triton

    found: dict[str, Any] = {}
    for name, (lengths, mask) in trees().items():
        for form, prim in FORMS.items():
            found[f"{name}, {form}"] = _triton.spanning_trees(lengths, mask, prim=prim)
    _triton.COLUMNS, _triton.MERGED = 16, 16  # so that these take several steps
    for name in IN_STEPS:
        found[f"{name}, in steps"] = _triton.spanning_trees(*trees()[name], prim=False)
    for name, (points, metric) in coordinates().items():
        found[name] = _triton.pairwise_lengths(points, metric)
    torch.save(found, folder / "found.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("triton")
    output_of("-m", "tests.test_triton", folder, TRITON_INTERPRET="1")
    result: dict[str, Any] = torch.load(folder / "found.pt", weights_only=True)
    return result


# --- trees --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", list(FORMS))
def test_kernels_name_the_edges_of_the_cpu_in_its_order(found: dict[str, Any], form: str) -> None:
    for name in trees():
        assert_edges_of_the_cpu(found[f"{name}, {form}"], name)


@pytest.mark.parametrize("name", IN_STEPS)
def test_rows_and_labels_may_be_looked_at_in_several_steps(found: dict[str, Any], name: str) -> None:
    assert trees()[name][0].shape[-1] > 2 * 16
    assert_edges_of_the_cpu(found[f"{name}, in steps"], name)


def assert_edges_of_the_cpu(found: tuple[Tensor, Tensor], name: str) -> None:
    birth, death = _ops.spanning_tree(*trees()[name])
    assert torch.equal(found[1], death), name
    assert torch.equal(found[0], birth), name


def test_the_comparison_of_trees_covers_ties_padding_and_single_points() -> None:
    names = trees()
    assert any((lengths == 0).sum() > lengths.shape[-1] for lengths, _ in names.values())
    assert any(mask is not None and (mask.sum(-1) == 1).any() for _, mask in names.values())
    assert any(mask is not None and not mask[:, 0].all() for _, mask in names.values())
    backwards = trees()["four levels"][0].flip(-1, -2)
    n = backwards.shape[-1]
    _, death = _ops.spanning_tree(backwards, None)
    _, expected = _ops.spanning_tree(trees()["four levels"][0], None)
    assert not torch.equal((n - 1 - death).flip(-1), expected)  # ties broken the other way are noticed


def test_prim_is_for_small_clouds_and_for_many() -> None:
    from simplicial_reg.engines._triton import LIMIT, PRIM, prefers_prim

    for clouds, n in ((512, 64), (64, 512), (1, 1024), (64, 4096)):
        assert prefers_prim(clouds, n)
    for clouds, n in ((1, 2048), (1, 8192), (8, 4096), (10_000, PRIM + 1)):
        assert not prefers_prim(clouds, n)
    # A vertex has 15 bits in a key of Prim's, and 16 in one of Borůvka's.
    assert PRIM <= 1 << 15
    assert LIMIT <= 1 << 16


# --- distances ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", list(METRICS))
def test_lengths_are_those_of_the_cpu_exactly_symmetric_with_zeros_on_the_diagonal(
    found: dict[str, Any], metric: str
) -> None:
    compared = 0
    for name, (points, of) in coordinates().items():
        if of != metric:
            continue
        lengths = found[name]
        assert torch.equal(lengths, lengths.mT), name
        assert (lengths.diagonal(dim1=-2, dim2=-1) == 0).all(), name
        epsilon = torch.finfo(points.dtype).eps
        torch.testing.assert_close(lengths, _ops.pairwise_lengths(points, metric), rtol=16 * epsilon, atol=0.0)
        compared += 1
    assert compared >= 4


# --- compilation --------------------------------------------------------------------------------------------------------------

LENGTHS = {"columns": "*fp32", "out": "*fp32", "n": "i32", "d": "i32", "tiles": "i32"}
PRIM_ARGUMENTS = {"lengths": "*fp32", "real": "*i1", "chosen": "*i64", "n": "i32"}
OUTGOING = {
    "lengths": "*fp32", "label": "*i32", "nearest": "*i64", "shortest": "*i64", "components": "*i32", "n": "i32", "groups": "i32",
}  # fmt: skip
MERGE = {"shortest": "*i64", "label": "*i32", "hook": "*i32", "chosen": "*i64", "components": "*i32", "n": "i32"}
# Kernel, types of its arguments, constants, warps.
KERNELS: dict[str, tuple[str, dict[str, str], dict[str, Any], int]] = {
    "euclidean": ("_tile", LENGTHS, {"METRIC": "euclidean", "OF_SUMS": False}, 4),
    "euclidean, one tile": ("_tile", LENGTHS, {"METRIC": "euclidean", "OF_SUMS": False, "tiles": 1}, 4),
    "euclidean, one point": ("_tile", LENGTHS, {"METRIC": "euclidean", "OF_SUMS": False, "tiles": 1, "n": 1}, 4),
    "euclidean, float64": (
        "_tile",
        LENGTHS | {"columns": "*fp64", "out": "*fp64"},
        {"METRIC": "euclidean", "OF_SUMS": False},
        4,
    ),
    "sums": ("_tile", LENGTHS, {"METRIC": "euclidean", "OF_SUMS": True}, 4),
    "manhattan": ("_tile", LENGTHS, {"METRIC": "manhattan", "OF_SUMS": False}, 4),
    "chebyshev": ("_tile", LENGTHS, {"METRIC": "chebyshev", "OF_SUMS": False}, 4),
    "cosine": ("_tile", LENGTHS, {"METRIC": "cosine", "OF_SUMS": False}, 4),
    "Prim, 32 points": ("_prim", PRIM_ARGUMENTS, {"MASKED": True, "SIZE": 32}, 1),
    "Prim, 512 points": ("_prim", PRIM_ARGUMENTS, {"MASKED": False, "SIZE": 512, "real": None}, 4),
    "Prim, 8192 points": ("_prim", PRIM_ARGUMENTS, {"MASKED": True, "SIZE": 8192}, 16),
    "Borůvka, edges": ("_shortest_outgoing", OUTGOING, {"ROWS": 4, "BLOCK": 512}, 4),
    "Borůvka, edges, one group": ("_shortest_outgoing", OUTGOING, {"ROWS": 4, "BLOCK": 32, "groups": 1}, 4),
    "Borůvka, components": ("_merge", MERGE, {"BLOCK": 1024}, 8),
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", list(KERNELS))
def test_kernel_compiles_for_a_gpu_that_is_not_here_and_keeps_its_numbers_in_registers(
    name: str, capability: int, tmp_path: Path
) -> None:
    triton = pytest.importorskip("triton")
    compiler = pytest.importorskip("triton.compiler")
    targets = pytest.importorskip("triton.backends.compiler")
    from simplicial_reg.engines import _triton

    function, arguments, constants, warps = KERNELS[name]
    kernel = getattr(_triton, function)
    signature = {
        argument: "constexpr" if argument in constants else arguments[argument] for argument in kernel.arg_names
    }
    source = compiler.ASTSource(kernel, signature, constexprs=constants)
    target = targets.GPUTarget("cuda", capability, 32)
    compiled = compiler.compile(source, target=target, options={"num_warps": warps})
    assert f".target sm_{capability}" in compiled.asm["ptx"]
    assert "sqrt.approx" not in compiled.asm["ptx"]
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        pytest.skip(f"compiled; this Triton has no cuobjdump to ask what it uses, {triton.__version__}")
    usage = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, timeout=60, check=True).stdout
    # What does not fit into registers goes to the stack, which is far away.
    assert "REG:" in usage
    assert "STACK:0 " in usage
    assert "LOCAL:0 " in usage


def test_merging_never_gives_one_label_to_two_threads() -> None:
    from simplicial_reg.engines import _triton

    assert _triton.MERGED % (8 * 32) == 0  # see there: they could wait for each other for ever


# --- nothing is read back -----------------------------------------------------------------------------------------------------


class NoKernel:
    """In place of a kernel: launched like one, computes nothing."""

    def __init__(self) -> None:
        self.launches = 0

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        assert all(isinstance(size, int) and size > 0 for size in grid)

        def launch(*arguments: Any, **options: Any) -> None:
            assert all(not isinstance(value, Tensor) or value.is_contiguous() for value in arguments)
            self.launches += 1

        return launch


@pytest.mark.parametrize("masked", [False, True], ids=["all real", "masked"])
@pytest.mark.parametrize("form", list(FORMS))
def test_launching_reads_no_number_from_the_device(form: str, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from simplicial_reg.engines import _triton

    kernels = {name: NoKernel() for name in ("_tile", "_prim", "_shortest_outgoing", "_merge")}
    for name, kernel in kernels.items():
        monkeypatch.setattr(_triton, name, kernel)
    points = torch.empty(3, 40, 8, device="meta")  # a tensor without numbers: reading one is an error
    for metric in METRICS:
        lengths = _triton.pairwise_lengths(METRICS[metric].coordinates(points), metric)
        assert lengths.shape == (3, 40, 40)
    mask = torch.empty(3, 40, device="meta", dtype=torch.bool) if masked else None
    birth, death = _triton.spanning_trees(lengths.mT, mask, prim=FORMS[form])
    assert birth.shape == death.shape == (3, 39, 2)
    launches = {name: kernel.launches for name, kernel in kernels.items()}
    rounds = 6  # 2⁶ is the first power of two that is not less than 40
    assert launches == {
        "_tile": 6,  # the angle takes two
        "_prim": int(form == "prim"),
        "_shortest_outgoing": rounds if form == "boruvka" else 0,
        "_merge": rounds if form == "boruvka" else 0,
    }


if __name__ == "__main__":
    work(Path(sys.argv[1]))
