"""Transforms of finished embeddings that make their covariance more isotropic, without training.

All are affine maps y = (x - m) A, with m the mean and S = V diag(lambda) V' the covariance of the points they were fitted to:

    whiten             A = V_k diag(lambda_1, ..., lambda_k)^(-1/2)     covariance of y is the identity
    all_but_the_top    A = I - V_D V_D'                                 the D dominant directions are removed
    standardize        A = diag(S)^(-1/2)                               every coordinate has variance 1

Each is a class, fitted once (to points, or to `Moments` that were streamed over a whole corpus), applied to any points, saved and
loaded; and a function that fits to the very points that it transforms.

The fit is in float64 and without gradient. `transform` subtracts the mean in float64, so that points far from the origin keep their
digits, multiplies in the type of the points (half precision in float32), and is differentiable in the points. On mps, which
has no float64, both are in float32.

Singular input. Directions whose variance is at most `CUTOFF` of the largest are taken for rounding: whitening maps them to zero
instead of blowing them up, so that coordinates beyond the rank of the fit are zero; all_but_the_top does not remove them.
A coordinate that is constant in the fit is mapped to zero by standardize. So one point, or points that are all equal,
whiten and standardize to zero.

Sources: Su, Cao, Liu, Ou 2021, "Whitening Sentence Representations for Better Semantics and Faster Retrieval"; Mu, Viswanath 2018,
"All-but-the-Top: Simple and Effective Postprocessing for Word Representations".
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from simplicial_reg._autocast import autocast_off
from simplicial_reg._checks import FLOATING, HALF, check_count
from simplicial_reg._files import whole_file
from simplicial_reg.isotropy.moments import Moments

__all__ = [
    "CUTOFF",
    "TRANSFORMS",
    "AllButTheTop",
    "Standardize",
    "Transform",
    "Whiten",
    "all_but_the_top",
    "standardize",
    "whiten",
]

# Of the largest variance. float32 points know their coordinates to 1e-7 of the largest, so that what d of them leave of a
# direction without variance is up to about d 1e-14 of the largest variance: 1e-11 for d = 1000.
CUTOFF = 1e-11

Self = TypeVar("Self", bound="Transform")


class Transform:
    """An affine map y = (x - mean) @ matrix that is fitted to points.

    Attributes:
        name: under which it stands in `TRANSFORMS`, and in files.
        mean: ``(d,)``, float64, in the unit of the points; None before fit.
        matrix: ``(d, k)``, float64; None before fit.
    """

    name: ClassVar[str]
    mean: Tensor | None
    matrix: Tensor | None

    def __init__(self) -> None:
        self.mean = None
        self.matrix = None

    def fit(self: Self, points: Tensor | Sequence[Tensor] | Moments, mask: Tensor | None = None) -> Self:
        """Compute mean and matrix; clouds of a batch are one set of points.

        Args:
            points: floating tensor ``(n, d)`` or ``(B, n, d)``, a list of ``(n_i, d)``, or `Moments` of points.
            mask: bool ``(n,)`` or ``(B, n)``, True where the point is real; None with moments.

        Returns:
            Itself.

        Raises:
            TypeError: if points are not floating or mask is not bool.
            ValueError: for wrong shapes, or if more directions are asked for than there are coordinates.
            RuntimeError: if the moments are of no points.
        """
        if isinstance(points, Moments):
            if mask is not None:
                raise ValueError("mask must be None with moments: they hold real points only")
            moments = points
        else:
            moments = Moments().update(points, mask)
        with torch.no_grad():
            covariance = moments.covariance
            self.mean, self.matrix = moments.mean.clone(), self._matrix(covariance, moments.mean)
        return self

    def transform(self, points: Tensor) -> Tensor:
        """The points mapped, ``(..., k)``, of the type and on the device of points, with gradient.

        Args:
            points: floating tensor ``(..., d)``.

        Raises:
            TypeError: if points are not floating.
            ValueError: if they have not as many coordinates as the points that were fitted.
            RuntimeError: before fit.
        """
        mean, matrix = self._fitted()
        _check_points(points, len(mean))
        wide = torch.float32 if points.device.type == "mps" else torch.float64
        narrow = torch.float32 if points.dtype in HALF else points.dtype
        with autocast_off(points):
            deviations = (points.to(wide) - mean.to(wide).to(points.device)).to(narrow)
            return (deviations @ matrix.to(narrow).to(points.device)).to(points.dtype)

    def fit_transform(self, points: Tensor, mask: Tensor | None = None) -> Tensor:
        """Fit to the points, and map them; rows that are masked out become zero.

        Raises:
            TypeError: as `fit` and `transform`.
            ValueError: as `fit`.
        """
        self.fit(points, mask)
        if mask is None:
            return self.transform(points)
        mapped = self.transform(torch.where(mask.unsqueeze(-1), points, 0))
        return torch.where(mask.unsqueeze(-1), mapped, 0)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted map to a file, whole or not at all: a numpy .npz of plain arrays, without pickle.

        Raises:
            RuntimeError: before fit.
        """
        mean, matrix = self._fitted()
        with whole_file(Path(path)) as draft, draft.open("wb") as stream:
            np.savez(stream, name=np.array(self.name), mean=mean.cpu().numpy(), matrix=matrix.cpu().numpy())

    @classmethod
    def load(cls: type[Self], path: str | os.PathLike[str]) -> Self:
        """The map that was saved to a file, on the CPU; `Transform.load` takes any, a subclass its own.

        Nothing in the file is executed, whoever wrote it.

        Raises:
            OSError: if the file cannot be read.
            ValueError: if it does not hold such a map.
        """
        try:
            with open(path, "rb") as stream:  # numpy leaves a file open that turns out not to be an archive
                file = np.load(stream, allow_pickle=False)
                if isinstance(file, np.ndarray):
                    raise ValueError("it holds a single array")
                name, mean, matrix = str(file["name"]), file["mean"], file["matrix"]
        except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{os.fspath(path)} must be a file that save() of a transform wrote: {error}") from error
        wanted = [key for key, kind in TRANSFORMS.items() if issubclass(kind, cls)]
        if name not in wanted:
            raise ValueError(
                f"{os.fspath(path)} must hold a transform {' or '.join(map(repr, wanted))}; it holds {name!r}"
            )
        if mean.dtype != np.float64 or matrix.dtype != np.float64 or matrix.ndim != 2 or mean.shape != matrix.shape[:1]:
            raise ValueError(
                f"{os.fspath(path)} must hold a mean (d,) and a matrix (d, k) in float64; "
                f"it holds {mean.shape} {mean.dtype} and {matrix.shape} {matrix.dtype}"
            )
        loaded: Any = TRANSFORMS[name]()
        loaded.mean, loaded.matrix = torch.from_numpy(mean), torch.from_numpy(matrix)
        return loaded  # type: ignore[no-any-return]

    def _matrix(self, covariance: Tensor, mean: Tensor) -> Tensor:
        raise NotImplementedError

    def _fitted(self) -> tuple[Tensor, Tensor]:
        if self.mean is None or self.matrix is None:
            raise RuntimeError(f"{type(self).__name__} is not fitted yet; call fit(points) first, or load a file")
        return self.mean, self.matrix


class Whiten(Transform):
    """Whitening by principal components: covariance identity, dominant directions first, the first k of them kept.

    ``A = V_k diag(lambda_1, ..., lambda_k)^(-1/2)``. The sign of each direction is such that its largest component is positive.

    Args:
        k: number of directions that are kept; None for all d. Su et al. keep 256 for base models and 384 for large ones.

    Raises:
        TypeError: if k is not an int.
        ValueError: if k is less than 1.

    Source:
        Su et al. 2021.

    Example:
        >>> import torch
        >>> points = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> Whiten().fit(points).transform(points[:1])  # the variance is 32/3
        tensor([[1.2247, 0.0000]])
    """

    name = "whiten"

    def __init__(self, k: int | None = None) -> None:
        super().__init__()
        check_count("k", k, 1, optional=True)
        self.k = k

    def _matrix(self, covariance: Tensor, mean: Tensor) -> Tensor:
        k = _at_most("k", self.k, len(covariance), len(covariance))
        variance, direction = _principal(covariance)
        real = variance > CUTOFF * variance[0]
        return direction[:, :k] * torch.where(real, torch.where(real, variance, 1).rsqrt(), 0)[:k]


class AllButTheTop(Transform):
    """Removes the mean and the dominant directions: ``A = I - V_D V_D'``.

    Args:
        components: D, how many directions are removed; None for d // 100, but at least 1, which is a choice: how many
            directions dominate is to be read off the spectrum. 0 removes the mean only.

    Raises:
        TypeError: if components is not an int.
        ValueError: if components is negative.

    Source:
        Mu, Viswanath 2018.

    Example:
        >>> import torch
        >>> points = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> AllButTheTop().fit(points).transform(torch.tensor([[3.0, 2.0]]))
        tensor([[0., 2.]])
    """

    name = "all_but_the_top"

    def __init__(self, components: int | None = None) -> None:
        super().__init__()
        check_count("components", components, 0, optional=True)
        self.components = components

    def _matrix(self, covariance: Tensor, mean: Tensor) -> Tensor:
        d = len(covariance)
        top = _at_most("components", self.components, max(1, d // 100), d)
        variance, direction = _principal(covariance)
        removed = direction[:, :top] * (variance > CUTOFF * variance[0])[:top]
        return torch.eye(d, dtype=removed.dtype, device=removed.device) - removed @ removed.mT


class Standardize(Transform):
    """Gives every coordinate mean 0 and variance 1 (over n - 1): ``A = diag(S)^(-1/2)``.

    Example:
        >>> import torch
        >>> points = torch.tensor([[4.0, 7.0], [2.0, 7.0], [0.0, 7.0]])
        >>> Standardize().fit_transform(points)
        tensor([[ 1.,  0.],
                [ 0.,  0.],
                [-1.,  0.]])
    """

    name = "standardize"

    def _matrix(self, covariance: Tensor, mean: Tensor) -> Tensor:
        variance = covariance.diagonal()
        # Coordinates may have any unit, so that a small variance is one only beside the mean: then it is what rounding left.
        real = variance > (8 * torch.finfo(variance.dtype).eps * mean).square()
        return torch.where(real, torch.where(real, variance, 1).rsqrt(), 0).diag()


TRANSFORMS: dict[str, type[Transform]] = {
    "whiten": Whiten,
    "all_but_the_top": AllButTheTop,
    "standardize": Standardize,
}


def whiten(points: Tensor, k: int | None = None, *, mask: Tensor | None = None) -> Tensor:
    """The points whitened by their own mean and covariance; see `Whiten`.

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``; clouds of a batch are one set of points.
        k: number of directions that are kept; None for all.
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real; the other rows become zero.

    Returns:
        ``(n, k)`` or ``(B, n, k)``, of the type of points. Gradients flow through the map, not through its fit.

    Example:
        >>> import torch
        >>> from simplicial_reg.isotropy.spectrum import isoscore
        >>> points = torch.tensor([[5.0, 1.0], [-4.0, 0.5], [0.0, 2.0], [1.0, -1.0]])
        >>> round(isoscore(whiten(points)).item(), 4)
        1.0
    """
    return Whiten(k).fit_transform(points, mask)


def all_but_the_top(points: Tensor, components: int | None = None, *, mask: Tensor | None = None) -> Tensor:
    """The points without their own mean and dominant directions; see `AllButTheTop`.

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``; clouds of a batch are one set of points.
        components: how many directions are removed; None for d // 100, but at least 1.
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real; the other rows become zero.

    Returns:
        As points. Gradients flow through the map, not through its fit.

    Example:
        >>> import torch
        >>> all_but_the_top(torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 1.0], [0.0, -1.0]])).abs()
        tensor([[0., 0.],
                [0., 0.],
                [0., 1.],
                [0., 1.]])
    """
    return AllButTheTop(components).fit_transform(points, mask)


def standardize(points: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """The points with every coordinate's own mean and standard deviation taken out; see `Standardize`.

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``; clouds of a batch are one set of points.
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real; the other rows become zero.

    Returns:
        As points. Gradients flow through the map, not through its fit.

    Example:
        >>> import torch
        >>> standardize(torch.tensor([[1.0], [2.0], [3.0]])).squeeze()
        tensor([-1.,  0.,  1.])
    """
    return Standardize().fit_transform(points, mask)


def _principal(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Variances ``(d,)``, descending, and directions ``(d, d)`` in columns, the largest component of each positive."""
    variance, direction = torch.linalg.eigh(covariance)
    variance, direction = variance.flip(0), direction.flip(1)
    largest = direction.gather(0, direction.abs().argmax(0, keepdim=True))
    return variance, direction * largest.sign()


def _at_most(argument: str, size: int | None, default: int, d: int) -> int:
    if size is not None and size > d:
        raise ValueError(f"{argument} must be at most {d}, the number of coordinates; got {size}")
    return default if size is None else size


def _check_points(points: Any, d: int) -> None:
    if not isinstance(points, Tensor) or points.dtype not in FLOATING:
        got = points.dtype if isinstance(points, Tensor) else type(points).__name__
        raise TypeError(f"points must be a floating-point tensor; got {got}")
    if points.ndim == 0 or points.shape[-1] != d:
        raise ValueError(
            f"points must have {d} coordinates, as those that were fitted; got shape {tuple(points.shape)}"
        )
