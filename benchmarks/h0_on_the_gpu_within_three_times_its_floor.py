"""On a GPU, from points to the gradient of persistent entropy in at most 3 times one distance computation, 300 times torch-topological.

This is the target, for an H100 or H200. No result is committed yet: it has not been measured.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks._measure import FULL, OURS, Form, Times, cell, cloud, installed, report, times
from simplicial_reg import persistent_entropy, rips_barcode
from simplicial_reg.bench import same_gradient
from simplicial_reg.engines import _trees

NAME = "h0_on_the_gpu_within_three_times_its_floor"
PEER = "torch-topological"
SIZES = ((64, 512, 768), (1, 8192, 768), (512, 64, 384))
SHORT_SIZES = ((64, 128, 768), (1, 2048, 768), (512, 64, 384))
GRAPH, FLOOR = "as a CUDA graph", "torch.cdist"
Run = Callable[[], Any]


def main(form: Form = FULL) -> None:
    if not torch.cuda.is_available():
        sys.exit(f"{NAME} needs an NVIDIA GPU, and torch sees none here; nothing was measured")
    torch.backends.cuda.matmul.allow_tf32 = False
    rows, stages, data = [], [], []
    for clouds, n, d in form.pick(SIZES, SHORT_SIZES):
        points = cloud(n, d, clouds).cuda()
        layer = times(waiting(layers(points)), rounds=15)
        parts = times(waiting(steps(points)), rounds=15)
        bound = layer[FLOOR].median
        entry = {
            "clouds": clouds,
            "n": n,
            "d": d,
            "ms": layer,
            "steps": parts,
            "ours / floor": layer[OURS].median / bound,
        }
        line = [f"{clouds} × {n} × {d}", cell(layer[OURS]), cell(layer[GRAPH]), cell(layer[FLOOR])]
        line += [f"{entry['ours / floor']:.2f}", f"{layer[GRAPH].median / bound:.2f}"]
        line += [cell(layer[PEER]), f"{layer[PEER].median / layer[OURS].median:.0f}x"] if PEER in layer else ["-", "-"]
        rows.append(line)
        stages.append(step_line(line[0], parts))
        data.append(entry)
    kernels = "with Triton's kernels" if "Prim" in data[0]["steps"] else "without Triton: all in torch operations"
    report(
        NAME,
        "H0 layer on a GPU: points, barcode, persistent entropy, forward and backward",
        ["clouds × n × d", OURS, GRAPH, FLOOR, "over it", "graph over it", PEER, "ratio"],
        rows,
        f"{torch.cuda.get_device_name()}, {kernels}. Milliseconds, median (least-greatest) of at most 15 turns; the host waits for the "
        f"device at the end of each. Values and gradients of {PEER} and ours were compared first, and so were the trees of all forms. "
        "The floor is one `torch.cdist` of the batch on the same device, which is a matrix product, in float32 without TF32 and without "
        f"gradient; {PEER} computes it on the device too, and the barcode on the CPU.",
        data,
        form=form,
        more=[("Steps", ["clouds × n × d", "lengths", *TREES, "chosen"], stages)],
    )  # fmt: skip


def waiting(competitors: dict[str, Run]) -> dict[str, Run]:
    """Each until the device has done it."""

    def until_done(run: Run) -> Run:
        def timed() -> None:
            run()
            torch.cuda.synchronize()

        return timed

    return {name: until_done(run) for name, run in competitors.items()}


def layers(points: Tensor) -> dict[str, Run]:
    """From points to gradient, as they are called, captured, and by the peer; and the floor."""
    ours_at = points.clone().requires_grad_()

    def ours() -> Tensor:
        ours_at.grad = None
        entropy = persistent_entropy(rips_barcode(ours_at)[0]).sum()
        entropy.backward()
        return entropy

    competitors: dict[str, Run] = {OURS: ours, FLOOR: lambda: torch.cdist(points, points)}
    if PEER in installed():
        theirs_at = points.clone().requires_grad_()
        theirs = peer(theirs_at)
        torch.testing.assert_close(ours(), theirs(), rtol=1e-4, atol=1e-4)
        same_gradient(ours_at, theirs_at, PEER)
        competitors[PEER] = theirs
    competitors[GRAPH] = captured(points)
    return competitors


def peer(points: Tensor) -> Run:
    from torch_topological.nn import VietorisRipsComplex

    layer = VietorisRipsComplex(dim=0)

    def run() -> Tensor:
        points.grad = None
        entropy = points.new_zeros(())
        for one in layer(points):
            share = one[0].diagram[:, 1] / one[0].diagram[:, 1].sum()
            entropy = entropy - (share * share.log()).sum()
        entropy.backward()
        return entropy

    return run


def captured(points: Tensor) -> Run:
    """The same, recorded once and replayed, so that the host launches one thing."""
    at = points.clone().requires_grad_()

    def step() -> tuple[Tensor, Tensor]:
        entropy = persistent_entropy(rips_barcode(at)[0]).sum()
        return entropy, torch.autograd.grad(entropy, at)[0]

    expected = step()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    graph.replay()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    return graph.replay


# --- steps --------------------------------------------------------------------------------------------------------------------

TREES = ("Prim", "Borůvka", "Borůvka in torch operations")


def steps(points: Tensor) -> dict[str, Run]:
    """The lengths, and the tree by each form that there is, who agree: what `prefers_prim` should be set by."""
    from simplicial_reg import pairwise_distances

    lengths = pairwise_distances(points)
    forms: dict[str, Run] = {TREES[2]: lambda: _trees.trees(lengths, None)}
    kernels = triton_kernels()
    if kernels is not None:
        for name, prim in ((TREES[0], True), (TREES[1], False)):
            forms[name] = lambda prim=prim: kernels.spanning_trees(lengths, None, prim=prim)
    _, expected = forms[TREES[2]]()
    for name, form in forms.items():
        if not torch.equal(form()[1], expected):
            raise AssertionError(f"{name}: another tree than that of torch operations")
    return {"lengths": lambda: pairwise_distances(points), **forms}


def triton_kernels() -> Any:
    try:
        from simplicial_reg.engines import _triton
    except ImportError:
        return None
    return _triton


def step_line(size: str, parts: dict[str, Times]) -> list[str]:
    kernels = triton_kernels()
    chosen = TREES[2]
    if kernels is not None:
        clouds, n, _ = map(int, size.split(" × "))
        chosen = TREES[0] if kernels.prefers_prim(clouds, n) else TREES[1]
    return [size, *(cell(parts[name]) if name in parts else "-" for name in ("lengths", *TREES)), chosen]


if __name__ == "__main__":
    main()
