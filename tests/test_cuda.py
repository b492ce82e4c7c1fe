"""H0 from points to loss and gradient on an accelerator: no wait of the host, and the results of the CPU.

The tests marked ``cuda`` need an NVIDIA GPU. The others try the same path without one: on the meta device, whose tensors hold no
numbers, so that reading one (``item``, ``bool``, ``nonzero``, ``cpu``, a mask as an index) is an error; and in torch operations on the CPU,
where the numbers can be compared.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from simplicial_reg import (
    METRICS,
    _ops,
    entropy_deficit,
    normalized_persistent_entropy,
    pairwise_distances,
    persistent_entropy,
    renyi_deficit,
    rips_barcode,
)
from simplicial_reg.isotropy import isoscore_star
from simplicial_reg.regularizers import REGULARIZERS, IsoScoreStarLoss, PersistentEntropyLoss, TotalPersistenceLoss
from simplicial_reg.training import Regularization
from tests.clouds import assert_same_rows
from tests.test_engines import TIES, masks_for

ESSENTIAL = ("drop", "enclosing_radius", "infinite")
QUANTITIES = (persistent_entropy, normalized_persistent_entropy, entropy_deficit, renyi_deficit)
LOSSES: dict[str, Callable[[], nn.Module]] = {
    "persistent entropy": PersistentEntropyLoss,
    "persistent entropy, log": lambda: PersistentEntropyLoss(form="log-deficit"),
    "persistent entropy, Rényi": lambda: PersistentEntropyLoss(form="renyi"),
    "persistent entropy, cosine": lambda: PersistentEntropyLoss(metric="cosine"),
    "total persistence": TotalPersistenceLoss,
    "IsoScore*": IsoScoreStarLoss,
    "IsoScore*, shrinkage": lambda: IsoScoreStarLoss(shrinkage=0.2, decay=0.9),
}


def quantities(points: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
    """All entropies of the H0 barcode, as one number with a gradient."""
    (bars,) = rips_barcode(points, mask=mask, **options)
    return torch.stack([quantity(bars).sum() for quantity in QUANTITIES]).sum()


# --- without a GPU: nothing is read back --------------------------------------------------------------------------------------


class OneDevice(TorchDispatchMode):
    """An error where a tensor goes from one device to another; a number (of Python, say) may."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [one for one in tree_leaves((args, kwargs, out)) if isinstance(one, Tensor) and one.ndim]
        devices = {tensor.device.type for tensor in tensors}
        if len(devices) > 1:
            raise RuntimeError(f"{func} copies between {' and '.join(sorted(devices))}")
        return out


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> str:
    """The meta device, with autocast, which torch does not have there, off."""
    enabled = torch.is_autocast_enabled
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device="cpu": device != "meta" and enabled(device))
    return "meta"


CASES = [(metric, torch.float32) for metric in METRICS] + [("euclidean", torch.float64), ("euclidean", torch.bfloat16)]


@pytest.mark.parametrize(("metric", "dtype"), CASES, ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["all real", "masked"])
def test_barcode_entropy_and_gradient_read_nothing_from_the_device(
    meta: str, masked: bool, metric: str, dtype: torch.dtype
) -> None:
    for essential in ESSENTIAL:
        for shape, threshold in (((3, 9, 4), math.inf), ((9, 4), 1.0), ((1, 4), 1.0)):
            if metric == "chebyshev" and shape == (1, 4):
                continue  # on this device torch refuses the largest coordinate of each of no edges
            points = torch.empty(shape, device=meta, dtype=dtype, requires_grad=True)
            mask = torch.empty(shape[:-1], device=meta, dtype=torch.bool) if masked else None
            with OneDevice():
                value = quantities(points, mask, metric=metric, essential=essential, threshold=threshold)
                (gradient,) = torch.autograd.grad(value, points)
            assert gradient.shape == points.shape


def test_distances_that_are_given_are_not_read_either(meta: str) -> None:
    distances = torch.empty(2, 9, 9, device=meta, requires_grad=True)
    with OneDevice():
        quantities(distances, metric="precomputed").backward()
        quantities(distances, metric=lambda points: (points - points.mT).abs()).backward()


@pytest.mark.parametrize("masked", [False, True], ids=["all real", "masked"])
@pytest.mark.parametrize("name", list(LOSSES))
def test_loss_and_gradient_read_nothing_from_the_device(meta: str, name: str, masked: bool) -> None:
    loss = LOSSES[name]().to(meta)
    points = torch.empty(3, 9, 4, device=meta, requires_grad=True)
    mask = torch.empty(3, 9, device=meta, dtype=torch.bool) if masked else None
    for _ in range(2):  # a loss with state may do something else the first time
        with OneDevice():
            loss(points, mask=mask).backward()


WAITING = ("rtd", "sigreg")  # bars of H1 are found, and directions drawn, on the CPU


@pytest.mark.filterwarnings("ignore:.*compares two clouds:UserWarning")  # there is no other cloud here
@pytest.mark.parametrize("name", list(REGULARIZERS))
def test_all_regularizers_but_two_read_nothing_from_the_device(meta: str, name: str) -> None:
    points = torch.empty(3, 9, 4, device=meta, requires_grad=True)
    regularizer = REGULARIZERS[name]().to(meta)
    with OneDevice(), pytest.raises((RuntimeError, NotImplementedError)) if name in WAITING else nullcontext():
        regularizer(points).backward()


def test_isoscore_star_reads_nothing_from_the_device(meta: str) -> None:
    points = torch.empty(3, 9, 4, device=meta, requires_grad=True)
    with OneDevice():
        isoscore_star(points).sum().backward()


@pytest.mark.parametrize("weight", [0.5, None], ids=["fixed weight", "balanced weight"])
def test_regularization_reads_one_number_in_a_step_whether_the_points_are_finite(
    meta: str, weight: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).to(meta)
    regularization = Regularization(model, "persistent-entropy", layer="1", weight=weight).to(meta)
    read = []

    def finite(*_: Any) -> bool:
        read.append("finite")
        return True

    monkeypatch.setattr(Regularization, "_is_finite", finite)
    with OneDevice():
        task_loss = model(torch.empty(16, 3, device=meta)).square().mean()
        regularization(task_loss).backward()
        regularization.advance()
    assert read == ["finite"]


def test_the_guard_notices_whatever_waits_for_the_device(meta: str) -> None:
    points = torch.empty(3, 4, device=meta)
    waits: list[Callable[[], Any]] = [
        lambda: points.sum().item(),
        lambda: bool((points > 0).any()),
        lambda: points.nonzero(),
        lambda: points[points > 0],
        lambda: points.cpu(),
        lambda: torch.zeros(3).to(meta),
        lambda: torch.unique(points),
    ]
    for wait in waits:
        with OneDevice(), pytest.raises((RuntimeError, NotImplementedError)):
            wait()


# --- without a GPU: the numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", list(METRICS))
def test_lengths_in_torch_operations_are_those_of_the_kernels(metric: str) -> None:
    points = METRICS[metric].coordinates(torch.randn(3, 20, 7, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(_ops._pairwise_lengths(points, metric), _ops.pairwise_lengths(points, metric))


def test_the_mean_of_both_triangles_is_symmetric_and_that_of_the_cpu_to_the_last_bit() -> None:
    draw = torch.Generator().manual_seed(2)
    distances = torch.rand(4, 30, 30, generator=draw)
    distances = distances + distances.mT
    distances.diagonal(dim1=-2, dim2=-1).zero_()
    uneven = distances * (1 + 1e-6 * torch.rand(4, 30, 30, generator=draw))
    for matrix in (distances, uneven, -torch.zeros(2, 5, 5)):
        found = _ops._symmetrized(matrix, "points")
        assert torch.equal(found, found.mT)
        assert torch.equal(found, _ops._symmetrized_cpu(matrix, "points"))
        assert not found.signbit().any()


def test_the_mean_of_both_triangles_is_symmetric_even_where_they_have_nothing_in_common() -> None:
    # On the CPU this is an error. Off it nothing is looked at; Borůvka's algorithm must still not go in circles.
    distances = torch.rand(4, 30, 30, generator=torch.Generator().manual_seed(2)) ** 9
    mean = distances + (distances.mT - distances) / 2
    assert not torch.equal(mean, mean.mT)  # rounded differently in the two triangles
    found = _ops._symmetrized(distances, "points")
    assert torch.equal(found, found.mT)


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is registered for CUDA, on the CPU and without Triton."""
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(_ops, "_runs_triton", lambda device: False)


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["all real", "masked"])
def test_without_triton_cuda_runs_torch_operations(masked: bool, dtype: torch.dtype) -> None:
    points, _ = TIES["integers, euclidean"]
    points = points.to(dtype)
    mask = masks_for(points) if masked else None
    lengths = _ops._pairwise_lengths_cuda(points, "euclidean")
    torch.testing.assert_close(lengths, _ops.pairwise_lengths(points, "euclidean"))
    for at in (slice(None), 1):  # a batch, and one cloud
        one = None if mask is None else mask[at]
        found, expected = _ops._spanning_tree_cuda(lengths[at], one), _ops.spanning_tree(lengths[at], one)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


def test_triton_is_not_used_without_a_gpu_of_nvidia(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda", 0)
    found = _ops._runs_triton.__wrapped__
    monkeypatch.setattr(torch.version, "cuda", None)
    assert not found(device)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not found(device)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not found(device)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert found(device)


# --- with a GPU ---------------------------------------------------------------------------------------------------------------

cuda = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def on_gpu(test: Any) -> Any:
    for mark in cuda:
        test = mark(test)
    return test


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


@contextmanager
def no_waiting() -> Iterator[None]:
    """An error where the host waits for the device."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it does not find every wait
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize("shape", [(5, 3), (3, 64, 8), (2, 130, 67), (1, 1000, 384)], ids=str)
def test_lengths_on_the_gpu_are_those_of_the_cpu(shape: tuple[int, ...], metric: str, dtype: torch.dtype) -> None:
    points = normal(*shape, dtype=dtype)
    found = pairwise_distances(points.cuda(), metric)
    assert torch.equal(found, found.mT)
    assert (found.diagonal(dim1=-2, dim2=-1) == 0).all()
    epsilon = torch.finfo(dtype).eps
    torch.testing.assert_close(found.cpu(), pairwise_distances(points, metric), rtol=64 * epsilon, atol=4 * epsilon)


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["all real", "masked"])
def test_edges_on_the_gpu_are_those_of_the_cpu_to_the_last_tie(masked: bool, dtype: torch.dtype) -> None:
    for name, (points, metric) in TIES.items():
        distances = points.to(dtype) if metric == "precomputed" else pairwise_distances(points.to(dtype), metric)
        mask = masks_for(points) if masked else None
        for essential in ESSENTIAL:
            (expected,) = rips_barcode(distances, mask=mask, metric="precomputed", essential=essential)
            (found,) = rips_barcode(
                distances.cuda(),
                mask=None if mask is None else mask.cuda(),
                metric="precomputed",
                essential=essential,
            )
            assert found.death.is_cuda, name
            assert_same_rows(found.to("cpu"), expected)


@on_gpu
@pytest.mark.parametrize("prim", [True, False], ids=["Prim", "Borůvka"])
@pytest.mark.parametrize("kind", ["normal", "ties"])
@pytest.mark.parametrize(("clouds", "n"), [(300, 2), (40, 33), (64, 512), (3, 1500), (1, 5000), (1, 8192)])
def test_both_kernels_find_the_tree_of_the_cpu(clouds: int, n: int, kind: str, prim: bool) -> None:
    triton_kernels = pytest.importorskip("simplicial_reg.engines._triton")
    points = normal(clouds, n, 3)
    lengths = pairwise_distances(points if kind == "normal" else points.mul(2).round())
    mask = torch.rand(clouds, n, generator=torch.Generator().manual_seed(n)) < 0.8
    mask[:, n // 2] = True
    for real in (None, mask):
        expected = _ops.spanning_tree(lengths, real)
        for _ in range(3):  # a race would show in one of several runs
            found = triton_kernels.spanning_trees(lengths.cuda(), None if real is None else real.cuda(), prim=prim)
            for one, other in zip(found, expected, strict=True):
                assert torch.equal(one.cpu(), other)


@on_gpu
@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize("shape", [(64, 128, 96), (1, 3000, 16)], ids=str)
def test_value_and_gradient_from_points_are_those_of_the_cpu(shape: tuple[int, ...], metric: str) -> None:
    points = normal(*shape, dtype=torch.float64)  # in float32 two lengths may change places
    expected_at, found_at = points.clone().requires_grad_(), points.cuda().requires_grad_()
    expected, found = quantities(expected_at, metric=metric), quantities(found_at, metric=metric)
    torch.testing.assert_close(found.cpu(), expected)
    (expected_gradient,), (gradient,) = (
        torch.autograd.grad(expected, expected_at),
        torch.autograd.grad(found, found_at),
    )
    torch.testing.assert_close(gradient.cpu(), expected_gradient, rtol=1e-6, atol=1e-12)


@on_gpu
def test_deaths_in_single_precision_are_those_of_the_cpu() -> None:
    points = normal(64, 512, 768)
    (expected,), (found,) = rips_barcode(points), rips_barcode(points.cuda())
    torch.testing.assert_close(found.death.cpu(), expected.death, rtol=1e-5, atol=0)


@on_gpu
@pytest.mark.parametrize("shape", [(64, 128, 96), (1, 3000, 16), (9, 4)], ids=str)
@pytest.mark.parametrize("metric", list(METRICS))
def test_the_host_never_waits_from_points_to_gradient(metric: str, shape: tuple[int, ...]) -> None:
    points = normal(*shape).cuda().requires_grad_()
    mask = torch.ones(shape[:-1], dtype=torch.bool, device="cuda")
    for real in (None, mask):
        for essential in ESSENTIAL:
            quantities(points, real, metric=metric, essential=essential).backward()  # kernels are compiled and loaded
            with no_waiting():
                quantities(points, real, metric=metric, essential=essential).backward()


@on_gpu
@pytest.mark.parametrize("name", list(LOSSES))
def test_the_host_never_waits_for_a_loss(name: str) -> None:
    loss = LOSSES[name]().cuda()
    points = normal(8, 64, 32).cuda().requires_grad_()
    loss(points).backward()
    with no_waiting():
        loss(points).backward()


@on_gpu
def test_the_check_for_waiting_notices_one() -> None:
    points = normal(4, 2).cuda()
    with no_waiting(), pytest.raises(RuntimeError, match="synchroniz"):
        points.sum().item()


@on_gpu
@pytest.mark.parametrize("shape", [(16, 64, 32), (1, 3000, 16)], ids=str)
def test_a_captured_graph_replays_value_and_gradient_for_new_points(shape: tuple[int, ...]) -> None:
    loss = PersistentEntropyLoss()
    points = normal(*shape).cuda().requires_grad_()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            torch.autograd.grad(loss(points), points)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = loss(points)
        (gradient,) = torch.autograd.grad(value, points)
    for seed in range(3):
        fresh = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            points.copy_(fresh)
        graph.replay()
        eager = fresh.cuda().requires_grad_()
        expected = loss(eager)
        (expected_gradient,) = torch.autograd.grad(expected, eager)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradient, expected_gradient)


@on_gpu
def test_compiled_and_mapped_barcodes_on_the_gpu_are_the_eager_ones() -> None:
    points = normal(6, 40, 8).cuda()
    expected = entropy_deficit(rips_barcode(points)[0])
    mapped = torch.func.vmap(lambda cloud: entropy_deficit(rips_barcode(cloud)[0]))(points)
    torch.testing.assert_close(mapped, expected)
    compiled = torch.compile(lambda clouds: entropy_deficit(rips_barcode(clouds)[0]), fullgraph=True)
    torch.testing.assert_close(compiled(points), expected)


@on_gpu
def test_the_second_gpu_does_as_well() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device only")
    points = normal(4, 40, 8)
    (expected,) = rips_barcode(points)
    (found,) = rips_barcode(points.to("cuda:1"))
    assert found.death.device == torch.device("cuda", 1)
    torch.testing.assert_close(found.death.cpu(), expected.death)
