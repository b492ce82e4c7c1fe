"""The three steps of a barcode that autograd never sees, as PyTorch operators.

As operators (and not plain functions) they keep ``torch.compile(fullgraph=True)`` in one graph and work under
``torch.func.vmap`` and ``grad``. On the CPU they run Numba kernels, on an NVIDIA GPU Triton kernels if Triton is installed; the
generic versions use torch operations only. Off the CPU nothing is read back to the host.

    pairwise_lengths(coordinates (..., n, d), metric) -> (..., n, n)
    symmetrized(distances (..., n, n), argument) -> (..., n, n)
    spanning_tree(distances (..., n, n), mask (..., n) or None) -> birth_edge, death_edge, both (..., n - 1, 2)
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplicial_reg._announce import announced
from simplicial_reg._checks import runs_kernels
from simplicial_reg._threads import share_work

__all__ = [
    "INTEGERS",
    "check_lengths",
    "check_points",
    "pairwise_lengths",
    "real_points",
    "spanning_tree",
    "symmetrized",
]

_library = torch.library.Library("simplicial_reg", "DEF")
_library.define("pairwise_lengths(Tensor coordinates, str metric) -> Tensor")
_library.define("symmetrized(Tensor distances, str argument) -> Tensor")
_library.define("spanning_tree(Tensor distances, Tensor? mask) -> (Tensor, Tensor)")

# Rounding allowed in distances that a user computed: relative to the largest, five times what torch.cdist does to a symmetric
# matrix, and for the diagonal its square root, because |x|² + |x|² - 2 x·x cancels.
ASYMMETRY = 1e-5
DIAGONAL = 1e-2


# The bits of a non-negative float, read as a signed integer, order as the float does.
INTEGERS: dict[torch.dtype, Any] = {torch.float32: np.dtype(np.int32), torch.float64: np.dtype(np.int64)}
_INFINITY = {torch.float32: 0xFF << 23, torch.float64: 0x7FF << 52}
# The bits of 2**48 and 2**400: squares of smaller numbers do not overflow, not even the sum of billions.
_OVERFLOWING = {torch.float32: (127 + 48) << 23, torch.float64: (1023 + 400) << 52}
_ALL_REAL = np.empty((0, 0), np.bool_)


def _pairwise_lengths_cpu(coordinates: Tensor, metric: str) -> Tensor:
    *leading, n, d = coordinates.shape
    dtype = coordinates.dtype
    with announced("distances", metric, dtype):
        from simplicial_reg import _point_kernels as kernels

        points = coordinates.contiguous().numpy().reshape(-1, n, d)
        clouds = len(points)
        # NumPy's, which for large arrays asks the system for large pages: to be given few of these is quicker than many small ones.
        lengths = np.empty((clouds, n, n), points.dtype)
        out = torch.from_numpy(lengths).reshape(*leading, n, n)
        kernel: Any = kernels.KERNELS[metric]
        share_work(lambda first, step: kernel(points, lengths, first, step), clouds * n, clouds * n * n * d)
        # NaN and infinity show in the points, and of two points or more in the lengths too (but not in a maximum of
        # differences, which may pass over NaN): look where there is less to read.
        read = lengths if 1 < n < d and metric != "chebyshev" else points
        largest = kernels.largest_magnitude(read.view(INTEGERS[dtype]).reshape(-1))
    if largest >= _OVERFLOWING[dtype]:
        _complain_about_values(coordinates, out)
    return out


def _complain_about_values(points: Tensor, out: Tensor) -> None:
    """Raise if a point or a length is not finite."""
    check_points(points)
    check_lengths(out.numpy())


def check_points(points: Tensor) -> None:
    """Raise if a point (..., n, d) is not finite."""
    wrong = ~points.isfinite().all(-1)
    if wrong.any():
        *cloud, row = wrong.nonzero()[0].tolist()
        where = f"point {row}" + "".join(f" of cloud {at}" for at in cloud)
        raise ValueError(
            f"points must be finite: {where} holds NaN or infinity ({int(wrong.sum())} such in all); remove these points or mask them out"
        )


def check_lengths(lengths: Any) -> None:
    """Raise if a length is not finite."""
    if not np.isfinite(lengths).all():
        dtype = f"torch.{lengths.dtype}"
        raise ValueError(f"points are too large: distances overflow {dtype}; rescale them or use float64")


def _pairwise_lengths(coordinates: Tensor, metric: str) -> Tensor:
    if metric == "angular":
        return 2 * torch.atan2(_cdist(coordinates, coordinates), _cdist(coordinates, -coordinates))
    if metric == "cosine":
        return _cdist(coordinates, coordinates).square() / 2
    return _cdist(coordinates, coordinates, {"euclidean": 2.0, "manhattan": 1.0, "chebyshev": torch.inf}[metric])


def _pairwise_lengths_cuda(coordinates: Tensor, metric: str) -> Tensor:
    if not _runs_triton(coordinates.device):
        return _pairwise_lengths(coordinates, metric)
    from simplicial_reg.engines import _triton

    *leading, n, d = coordinates.shape
    with torch.cuda.device(coordinates.device):
        return _triton.pairwise_lengths(coordinates.reshape(-1, n, d), metric).reshape(*leading, n, n)


@functools.cache
def _runs_triton(device: torch.device) -> bool:
    """Whether Triton is installed and compiles for this GPU; its kernels are tested on no AMD GPU."""
    if torch.version.cuda is None or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _cdist(x: Tensor, y: Tensor, order: float = 2.0) -> Tensor:
    # Differences, not a matrix product: no cancellation, no TF32, an exactly zero diagonal.
    return torch.cdist(x, y, p=order, compute_mode="donot_use_mm_for_euclid_dist")


def _symmetrized_cpu(distances: Tensor, argument: str) -> Tensor:
    """The mean of both triangles; the input itself where there is nothing to mend."""
    n = distances.shape[-1]
    with announced("check of distances", distances.dtype):
        from simplicial_reg import _point_kernels as kernels

        matrices = distances.contiguous().numpy().reshape(-1, n, n)
        bits = matrices.view(INTEGERS[distances.dtype])
        smallest, largest = kernels.smallest_and_largest(bits.reshape(-1))
        if smallest < 0 or largest >= _INFINITY[distances.dtype]:
            matrices = _without_negative_zeros(matrices, argument)
        elif all(map(kernels.is_symmetric, bits)):
            return distances
        out = torch.empty_like(distances, memory_format=torch.contiguous_format)
        for matrix, mended in zip(matrices, out.numpy().reshape(-1, n, n), strict=True):
            scale = matrix.max()
            if kernels.symmetrize(matrix, mended, ASYMMETRY * scale):
                raise ValueError(
                    f"{argument} must be symmetric distances; d(i, j) and d(j, i) differ by up to "
                    f"{abs(matrix - matrix.T).max():g}; use (distances + distances.mT) / 2"
                )
            if matrix.diagonal().max() > DIAGONAL * scale:
                raise ValueError(
                    f"{argument} must have zeros on the diagonal (a vertex is born at 0); got {matrix.diagonal().max():g}; "
                    "turn similarities s into distances first (1 - s)"
                )
    return out


def _without_negative_zeros(matrices: Any, argument: str) -> Any:
    """The matrices with 0.0 for -0.0, whose bits do not order as its value does; raise if anything else is wrong with the values.

    On the diagonal only the magnitude counts, which the caller looks at.
    """
    if not np.isfinite(matrices).all():
        raise ValueError(f"{argument} must be finite distances; got NaN or infinity; use threshold to leave edges out")
    matrices = matrices + 0.0
    diagonal = np.einsum("bii->bi", matrices)  # a view
    np.abs(diagonal, out=diagonal)
    if matrices.min() < 0:
        raise ValueError(
            f"{argument} must be non-negative distances; got {matrices.min():g}; turn similarities s into distances first (1 - s)"
        )
    return matrices


def _symmetrized_operator(distances: Tensor, argument: str) -> Tensor:
    result = _symmetrized_cpu(distances, argument)
    return result.clone() if result is distances else result  # an operator must not return its input


def _symmetrized(distances: Tensor, argument: str) -> Tensor:
    mean = distances + (distances.mT - distances) / 2 + 0.0
    lower = mean.tril(-1)  # the mean as rounded in one triangle may differ from that in the other
    return lower + lower.mT


def real_points(mask: Tensor) -> Any:
    """A mask (..., n) as an array (B, n); every cloud must have a real point."""
    real = mask.contiguous().numpy().reshape(-1, mask.shape[-1])
    empty = np.flatnonzero(~real.any(axis=1))
    if empty.size:
        raise ValueError(f"mask must leave at least one real point in every cloud; cloud {empty[0]} has none")
    return real


def _spanning_tree_cpu(distances: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    *leading, n, _ = distances.shape
    with announced("minimum spanning tree", distances.dtype):
        from simplicial_reg.engines._prim import spanning_trees

        keys = distances.contiguous().numpy().view(INTEGERS[distances.dtype]).reshape(-1, n, n)
        real = _ALL_REAL if mask is None else real_points(mask)
        clouds = len(keys)
        # NumPy's: if torch filled them with several threads, these would wait busily on the cores that are needed here.
        birth, death = (np.zeros((clouds, n - 1, 2), np.int64) for _ in range(2))
        share_work(
            lambda first, step: spanning_trees(keys, real, birth, death, first, step), clouds, 2 * clouds * n * n
        )
    shape = (*leading, n - 1, 2)
    return torch.from_numpy(birth).reshape(shape), torch.from_numpy(death).reshape(shape)


def _spanning_tree_cuda(distances: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    *leading, n, _ = distances.shape
    lengths = distances.reshape(-1, n, n)
    real = None if mask is None else mask.reshape(-1, n)
    with torch.cuda.device(distances.device):
        birth, death = _spanning_trees_cuda(lengths, real)
    return birth.reshape(*leading, n - 1, 2), death.reshape(*leading, n - 1, 2)


def _spanning_trees_cuda(lengths: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
    if lengths.dtype == torch.float32 and _runs_triton(lengths.device):
        from simplicial_reg.engines import _triton

        if lengths.shape[-1] < _triton.LIMIT:
            return _triton.spanning_trees(lengths, real)
    from simplicial_reg.engines._trees import trees

    return trees(lengths, real)


_library.impl("pairwise_lengths", _pairwise_lengths_cpu, "CPU")
_library.impl("pairwise_lengths", _pairwise_lengths_cuda, "CUDA")
_library.impl("pairwise_lengths", _pairwise_lengths, "CompositeExplicitAutograd")
_library.impl("symmetrized", _symmetrized_operator, "CPU")
_library.impl("symmetrized", _symmetrized, "CompositeExplicitAutograd")
_library.impl("spanning_tree", _spanning_tree_cpu, "CPU")
_library.impl("spanning_tree", _spanning_tree_cuda, "CUDA")


@torch.library.register_fake("simplicial_reg::pairwise_lengths", lib=_library)
def _pairwise_lengths_fake(coordinates: Tensor, metric: str) -> Tensor:
    *leading, n, _ = coordinates.shape
    return coordinates.new_empty((*leading, n, n))


@torch.library.register_fake("simplicial_reg::symmetrized", lib=_library)
def _symmetrized_fake(distances: Tensor, argument: str) -> Tensor:
    return torch.empty_like(distances, memory_format=torch.contiguous_format)


@torch.library.register_fake("simplicial_reg::spanning_tree", lib=_library)
def _spanning_tree_fake(distances: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    *leading, n, _ = distances.shape
    birth = distances.new_empty((*leading, n - 1, 2), dtype=torch.int64)
    return birth, torch.empty_like(birth)


def _register_vmap(name: str) -> None:
    """Under vmap the extra dimension becomes one more leading dimension."""
    operator = getattr(torch.ops.simplicial_reg, name).default

    @torch.library.register_vmap(f"simplicial_reg::{name}", lib=_library)
    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        moved = []
        for argument, dim in zip(arguments, in_dims, strict=True):
            if isinstance(argument, Tensor):
                argument = (
                    argument.movedim(dim, 0) if dim is not None else argument.expand(info.batch_size, *argument.shape)
                )
            moved.append(argument)
        result = operator(*moved)
        return result, 0 if isinstance(result, Tensor) else (0,) * len(result)


if hasattr(torch.library, "register_vmap"):  # since torch 2.5
    for _name in ("pairwise_lengths", "symmetrized", "spanning_tree"):
        _register_vmap(_name)

_operators = torch.ops.simplicial_reg

# Dispatching an operator takes as long as the spanning tree of a small cloud; plain numbers go straight to the kernel.


def pairwise_lengths(coordinates: Tensor, metric: str) -> Tensor:
    """See above."""
    if runs_kernels(coordinates):
        return _pairwise_lengths_cpu(coordinates, metric)
    result: Tensor = _operators.pairwise_lengths.default(coordinates, metric)
    return result


def symmetrized(distances: Tensor, argument: str) -> Tensor:
    """See above; may return its input."""
    if runs_kernels(distances):
        return _symmetrized_cpu(distances, argument)
    result: Tensor = _operators.symmetrized.default(distances, argument)
    return result


def spanning_tree(distances: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """See above."""
    if runs_kernels(distances) and (mask is None or runs_kernels(mask)):
        return _spanning_tree_cpu(distances, mask)
    result: tuple[Tensor, Tensor] = _operators.spanning_tree.default(distances, mask)
    return result
