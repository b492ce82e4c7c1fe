"""Whitening, all-but-the-top and standardizing: definitions, scikit-learn, rank-deficient fits, types, files."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from simplicial_reg.isotropy.moments import Moments
from simplicial_reg.isotropy.spectrum import isoscore
from simplicial_reg.posthoc import (
    TRANSFORMS,
    AllButTheTop,
    Standardize,
    Transform,
    Whiten,
    all_but_the_top,
    standardize,
    whiten,
)

every_transform = pytest.mark.parametrize("kind", TRANSFORMS.values(), ids=TRANSFORMS)
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "whiten": whiten,
    "all_but_the_top": all_but_the_top,
    "standardize": standardize,
}


def cloud(n: int, d: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    random = np.random.default_rng(seed)
    return torch.tensor(random.normal(size=(n, d)) @ (np.diag(np.linspace(1, 3, d)) + 0.3) + 2, dtype=dtype)


def covariance(points: Tensor) -> np.ndarray:
    return np.cov(points.detach().double().numpy().T)


# --- definitions ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [None, 1, 3, 5])
def test_whiten_is_principal_components_of_scikit_learn(k: int | None) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    points, others = cloud(40), cloud(7, seed=1)
    peer = decomposition.PCA(k, whiten=True).fit(points.numpy())
    ours, theirs = Whiten(k).fit(points).transform(others).numpy(), peer.transform(others.numpy())
    assert ours.shape == theirs.shape
    sign = np.sign((ours * theirs).sum(0))  # how signs are chosen differs between versions of scikit-learn
    np.testing.assert_allclose(ours, theirs * sign, rtol=1e-9, atol=1e-12)


def test_standardize_is_the_scaler_of_scikit_learn_up_to_degrees_of_freedom() -> None:
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    points, others = cloud(40), cloud(7, seed=1)
    theirs = preprocessing.StandardScaler().fit(points.numpy()).transform(others.numpy()) * math.sqrt(39 / 40)
    np.testing.assert_allclose(Standardize().fit(points).transform(others).numpy(), theirs, rtol=1e-12)


@pytest.mark.parametrize("components", [0, 1, 3, 5])
def test_all_but_the_top_takes_away_projections_on_the_first_singular_vectors(components: int) -> None:
    points, others = cloud(40).numpy(), cloud(7, seed=1).numpy()
    mean = points.mean(0)
    directions = np.linalg.svd(points - mean)[2][:components]
    expected = [x - mean - sum((((x - mean) @ v) * v for v in directions), np.zeros(5)) for x in others]
    found = AllButTheTop(components).fit(torch.tensor(points)).transform(torch.tensor(others))
    np.testing.assert_allclose(found.numpy(), np.array(expected), atol=1e-12)


@pytest.mark.parametrize(("d", "components"), [(3, 1), (150, 1), (230, 2)])
def test_default_number_of_components_is_a_hundredth_of_the_dimensions_but_at_least_one(
    d: int, components: int
) -> None:
    points = cloud(10, d)
    torch.testing.assert_close(all_but_the_top(points), all_but_the_top(points, components))
    assert np.linalg.matrix_rank(AllButTheTop().fit(points)._fitted()[1].numpy()) == d - components


def test_whitened_points_have_mean_zero_covariance_one_and_isoscore_one() -> None:
    whitened = whiten(cloud(40))
    np.testing.assert_allclose(whitened.mean(0).numpy(), 0, atol=1e-12)
    np.testing.assert_allclose(covariance(whitened), np.eye(5), atol=1e-12)
    assert isoscore(whitened).item() == pytest.approx(1)


def test_largest_component_of_each_whitening_direction_is_positive() -> None:
    matrix = Whiten().fit(cloud(40)).matrix
    assert matrix is not None
    assert (matrix.gather(0, matrix.abs().argmax(0, keepdim=True)) > 0).all()


# --- rank-deficient fits --------------------------------------------------------------------------------------------------------


def flat(kind: str, dtype: torch.dtype) -> tuple[Tensor, int]:
    """A cloud that does not fill its dimensions, and its rank."""
    if kind == "few points":
        return cloud(4, 9, dtype=dtype), 3
    if kind == "duplicate columns":
        return cloud(40, 3, dtype=dtype)[:, [0, 1, 0, 2, 1]], 3
    if kind == "sums of columns":
        return (cloud(40, 3) @ cloud(3, 9, seed=1)).to(dtype), 3
    if kind == "a constant column":
        return torch.cat([cloud(40, 3, dtype=dtype), torch.full((40, 1), 0.1, dtype=dtype)], 1), 3
    return torch.full((6, 4), 0.1, dtype=dtype), 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "kind", ["few points", "duplicate columns", "sums of columns", "a constant column", "all equal"]
)
def test_whitening_a_cloud_that_is_flat_leaves_zeros_beyond_its_rank_and_blows_nothing_up(
    kind: str, dtype: torch.dtype
) -> None:
    points, rank = flat(kind, dtype)
    transform = Whiten().fit(points)
    whitened = transform.transform(points)
    expected = np.diag([1.0] * rank + [0.0] * (points.shape[1] - rank))
    np.testing.assert_allclose(
        np.cov(whitened.double().numpy().T), expected, atol=1e-3 if dtype == torch.float32 else 1e-9
    )
    moved = transform.transform(
        points + torch.randn(points.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    )
    assert (moved[:, rank:] == 0).all()
    assert moved.abs().max() < 1e3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_standardize_maps_a_constant_coordinate_to_zero_wherever_new_points_are(dtype: torch.dtype) -> None:
    points, _ = flat("a constant column", dtype)
    moments = Moments()
    for part in points.split(7):
        moments.update(part)
    mapped = Standardize().fit(moments).transform(points + 5)
    assert (mapped[:, 3] == 0).all()
    assert mapped.isfinite().all()


def test_standardize_keeps_coordinates_of_any_unit() -> None:
    points = cloud(30, 3) * torch.tensor([1e-9, 1.0, 1e9])
    np.testing.assert_allclose(np.diag(covariance(standardize(points))), 1, rtol=1e-9)


def test_all_but_the_top_removes_no_direction_that_has_no_variance() -> None:
    line = torch.tensor([[1.0, 0, 0], [2, 0, 0], [4, 0, 0]])
    mapped = AllButTheTop(2).fit(line).transform(torch.tensor([[9.0, 3, 4]]))
    assert torch.equal(mapped, torch.tensor([[0.0, 3, 4]]))


@every_transform
def test_one_point_is_mapped_to_zero(kind: type[Transform]) -> None:
    assert (kind().fit_transform(torch.tensor([[3.0, 4.0]])) == 0).all()


# --- what may be passed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRANSFORMS)
def test_fit_takes_moments_batches_lists_and_masks(name: str) -> None:
    kind = TRANSFORMS[name]
    points, mask = cloud(30).reshape(3, 10, 5), torch.arange(10) < torch.tensor([[10], [4], [7]])
    real = points[mask]
    expected = kind().fit(real)
    moments = Moments()
    for part in real.split(4):
        moments.update(part)
    spoilt = torch.where(mask[..., None], points, math.nan)
    clouds = [points[at][mask[at]] for at in range(3)]
    for found in (kind().fit(moments), kind().fit(spoilt, mask), kind().fit(clouds)):
        torch.testing.assert_close(found._fitted(), expected._fitted(), rtol=1e-9, atol=1e-12)
    mapped = FUNCTIONS[name](spoilt, mask=mask)
    torch.testing.assert_close(mapped[mask], expected.transform(real))
    assert (mapped[~mask] == 0).all()
    torch.testing.assert_close(FUNCTIONS[name](real), expected.transform(real))


def test_fitted_maps_do_not_change_with_the_moments_they_were_fitted_to() -> None:
    moments = Moments().update(cloud(20))
    transform = Whiten().fit(moments)
    before = transform.transform(cloud(3))
    moments.update(cloud(20, seed=1) + 9)
    assert torch.equal(transform.transform(cloud(3)), before)


@every_transform
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_transform_keeps_shape_and_type(kind: type[Transform], dtype: torch.dtype) -> None:
    transform, points = kind().fit(cloud(40)), cloud(12).reshape(3, 2, 2, 5)
    mapped = transform.transform(points.to(dtype))
    assert mapped.dtype == dtype
    assert mapped.shape == points.shape
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-1}[dtype]
    torch.testing.assert_close(mapped.double(), transform.transform(points), rtol=tolerance, atol=tolerance)
    assert transform.transform(points[0, 0, 0].to(dtype)).shape == (5,)


@every_transform
def test_float32_points_far_from_the_origin_keep_their_digits(kind: type[Transform]) -> None:
    points = (cloud(40) + 1e4).float()
    torch.testing.assert_close(
        kind().fit_transform(points).double(), kind().fit_transform(points.double()), rtol=1e-5, atol=1e-5
    )


@every_transform
def test_transform_is_computed_in_full_precision_under_autocast(kind: type[Transform]) -> None:
    points = cloud(40, dtype=torch.float32)
    transform = kind().fit(points)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(transform.transform(points), kind().fit(points).transform(points))


@every_transform
def test_gradients_flow_through_the_map(kind: type[Transform]) -> None:
    transform = kind().fit(cloud(40).requires_grad_())
    assert gradcheck(transform.transform, cloud(3).requires_grad_())


# --- files ----------------------------------------------------------------------------------------------------------------------


@every_transform
def test_a_saved_map_is_the_same_after_loading_by_its_class_and_by_any(kind: type[Transform], tmp_path: Path) -> None:
    transform, points = kind().fit(cloud(40)), cloud(3)
    path = tmp_path / "map.bin"
    transform.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["map.bin"]
    for loaded in (kind.load(path), Transform.load(str(path))):
        assert type(loaded) is kind
        assert torch.equal(loaded.transform(points), transform.transform(points))
    other = next(each for each in TRANSFORMS.values() if each is not kind)
    with pytest.raises(ValueError, match=f"must hold a transform '{other.name}'; it holds '{kind.name}'"):
        other.load(path)


@pytest.mark.parametrize(
    "content", [b"", b"not a file of numpy", b"PK\x03\x04 broken"], ids=["empty", "text", "broken"]
)
def test_files_that_are_no_maps_are_clear_errors(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "map.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"map\.npz must be a file that save\(\) of a transform wrote"):
        Transform.load(path)


def test_files_of_other_arrays_are_clear_errors(tmp_path: Path) -> None:
    path = tmp_path / "map.npz"
    contents: list[dict[str, Any]] = [
        {"mean": np.zeros(3)},
        {"name": np.array("whiten"), "mean": np.zeros(3), "matrix": np.zeros((2, 2))},
        {"name": np.array("whiten"), "mean": np.zeros(3, np.float32), "matrix": np.zeros((3, 2))},
        {"name": np.array("other"), "mean": np.zeros(3), "matrix": np.zeros((3, 2))},
        {"name": np.array([object()]), "mean": np.zeros(3), "matrix": np.zeros((3, 2))},
    ]
    for content in contents:
        np.savez(path, **content)
        with pytest.raises(ValueError, match=r"map\.npz must"):
            Transform.load(path)
    np.save(tmp_path / "map.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"map\.npy must"):
        Transform.load(tmp_path / "map.npy")
    with pytest.raises(FileNotFoundError):
        Transform.load(tmp_path / "nothing.npz")


def test_nothing_in_a_file_is_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "exploded",)

    np.savez(tmp_path / "map.npz", name=np.array("whiten"), mean=np.array([Bomb()]), matrix=np.zeros((1, 1)))
    with pytest.raises(ValueError, match=r"map\.npz must be a file"):
        Transform.load(tmp_path / "map.npz")
    assert not (tmp_path / "exploded").exists()


# --- errors ---------------------------------------------------------------------------------------------------------------------


@every_transform
def test_before_fit_everything_is_a_clear_error(kind: type[Transform], tmp_path: Path) -> None:
    message = rf"{kind.__name__} is not fitted yet; call fit\(points\) first, or load a file"
    with pytest.raises(RuntimeError, match=message):
        kind().transform(cloud(3))
    with pytest.raises(RuntimeError, match=message):
        kind().save(tmp_path / "map.npz")
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="there are no points yet"):
        kind().fit(Moments())


@every_transform
def test_other_widths_and_types_are_clear_errors(kind: type[Transform]) -> None:
    transform = kind().fit(cloud(40))
    with pytest.raises(
        ValueError, match=r"points must have 5 coordinates, as those that were fitted; got shape \(40, 4\)"
    ):
        transform.transform(cloud(40, 4))
    with pytest.raises(TypeError, match="points must be a floating-point tensor; got ndarray"):
        transform.transform(cloud(3).numpy())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"points must be a floating-point tensor; got torch.int64"):
        transform.transform(cloud(3).long())
    with pytest.raises(ValueError, match="mask must be None with moments: they hold real points only"):
        kind().fit(Moments().update(cloud(3)), torch.ones(3, dtype=torch.bool))


def test_bad_sizes_are_clear_errors() -> None:
    with pytest.raises(ValueError, match="k must be None or at least 1; got 0"):
        Whiten(0)
    with pytest.raises(TypeError, match="components must be None or an int; got float"):
        AllButTheTop(1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="components must be None or at least 0; got -1"):
        AllButTheTop(-1)
    with pytest.raises(ValueError, match="k must be at most 5, the number of coordinates; got 6"):
        Whiten(6).fit(cloud(9))
    with pytest.raises(ValueError, match="components must be at most 5, the number of coordinates; got 6"):
        all_but_the_top(cloud(9), 6)
