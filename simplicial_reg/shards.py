"""H0 of a cloud that lies in several files, without ever holding more than two of them.

Each pair of files has the minimum spanning tree of its points found by itself (`simplicial_reg.engines.blocked`), and trees are merged
two by two (`simplicial_reg.engines.blocked.forest` says why that gives the tree of the whole cloud, exactly, to the last tie). The
pairs are independent tasks: one after the other here, or on the workers of a dask cluster, which retries what a worker did not
finish. A worker needs the memory of two files and their lists, 24 bytes for each point of the whole cloud for a merge, and,
like this process, access to the files. k files make k (k - 1) / 2 pairs.

Vertices are numbered in the order of the files, and of the rows in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from simplicial_reg._checks import check_choice
from simplicial_reg._dask import dask_client
from simplicial_reg.barcode import Barcode
from simplicial_reg.distances import METRICS
from simplicial_reg.distributed import barcode_of_tree
from simplicial_reg.engines import blocked
from simplicial_reg.readers import READERS, read_points

__all__ = ["EXECUTORS", "Shards", "barcode_of_shards", "shards_in"]

EXECUTORS = ("local", "dask")
Array = Any
Tree = tuple[Array, Array]


class Shards(NamedTuple):
    """A cloud in files.

    Attributes:
        files: in the order of vertices.
        sizes: how many points each holds.
        width: d.
        dtype: that of the points as they are computed with.
    """

    files: tuple[Path, ...]
    sizes: tuple[int, ...]
    width: int
    dtype: torch.dtype


def shards_in(folder: Path) -> list[Path]:
    """The files of points in a folder, in the order of their names.

    Raises:
        ValueError: if there is none.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in READERS and path.is_file())
    if not files:
        raise ValueError(f"{folder} holds no file of points; those end in {', '.join(READERS)}")
    return files


def barcode_of_shards(
    files: Sequence[Path],
    *,
    metric: str = "euclidean",
    key: str | None = None,
    executor: str = "local",
    scheduler: str | None = None,
    on_pair: Callable[[int, int], object] | None = None,
) -> tuple[Barcode, Shards]:
    """The H0 bars of the points of all files as one cloud.

    Args:
        files: as `simplicial_reg.readers.read_points` reads them; all of the same number of coordinates.
        metric: a name in ``METRICS``.
        key: of the array in each file that holds several.
        executor: ``"local"``, or ``"dask"`` for the workers of a cluster.
        scheduler: address of the dask scheduler, such as ``"tcp://host:8786"``.
        on_pair: called with the number of pairs that are done and of all.

    Returns:
        The bars, without gradient, and what the files hold.

    Raises:
        ImportError: without dask (extra "dask").
        OSError: if a file cannot be read, or no scheduler answers.
        ValueError: for an unknown choice, files that do not fit together, and if workers died: then there is no result at all.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name, points in (("a", [[0.0], [3.0]]), ("b", [[1.0]])):
        ...         np.save(Path(folder) / f"{name}.npy", np.array(points))
        ...     bars, shards = barcode_of_shards(shards_in(Path(folder)))
        >>> bars.death, shards.sizes
        (tensor([1., 2.], dtype=torch.float64), (2, 1))
    """
    check_choice("executor", executor, EXECUTORS)
    check_choice("metric", metric, METRICS)
    said = on_pair or (lambda done, pairs: None)
    if executor == "local":
        shards = _fitting(files, [_shape(path, key) for path in files])
        tree = _here(shards, metric, key, said)
    else:
        with dask_client(scheduler, "dask") as client:
            shards = _fitting(files, client.gather([client.submit(_shape, path, key, pure=False) for path in files]))
            tree = _on_dask(client, shards, metric, key, said)
    edges, lengths = tree
    return barcode_of_tree(edges, torch.from_numpy(lengths)), shards


# --- the tasks -------------------------------------------------------------------------------------------------------------------


def _shape(path: Path, key: str | None) -> tuple[int, int, torch.dtype]:
    points = read_points(path, key).points
    return (*points.shape, torch.float64 if points.dtype == torch.float64 else torch.float32)


def _fitting(files: Sequence[Path], shapes: Sequence[tuple[int, int, torch.dtype]]) -> Shards:
    if not shapes:
        raise ValueError("files must name at least one file; got none")
    for path, (_, width, dtype) in zip(files, shapes, strict=True):
        if (width, dtype) != shapes[0][1:]:
            raise ValueError(
                f"files must agree in coordinates and precision; {files[0].name} has {shapes[0][1]} of {shapes[0][2]}, "
                f"{path.name} has {width} of {dtype}"
            )
    return Shards(tuple(files), tuple(n for n, _, _ in shapes), *shapes[0][1:])


def _pairs(shards: Shards) -> list[tuple[int, ...]]:
    """Which files are joined; a file that is alone is joined with nothing."""
    return list(combinations(range(len(shards.files)), 2)) or [(0,)]


def _tree_of(some: tuple[int, ...], shards: Shards, metric: str, key: str | None) -> Tree:
    """The tree of the points of some files, in numbers of the whole cloud."""
    starts = np.concatenate([[0], np.cumsum(shards.sizes)])
    points = torch.cat([read_points(shards.files[at], key).points.to(shards.dtype) for at in some])
    number = np.concatenate([np.arange(starts[at], starts[at + 1]) for at in some])
    if len(points) != len(number):
        raise ValueError(f"{' and '.join(shards.files[at].name for at in some)}: changed while they were read")
    coordinates = METRICS[metric].coordinates(points).contiguous().numpy()
    edges, lengths = blocked.tree_edges(coordinates, metric)
    return number[edges], lengths


def _merged(one: Tree, other: Tree, n: int) -> Tree:
    edges, lengths = (np.concatenate(parts) for parts in zip(one, other, strict=True))
    return blocked.forest(edges, lengths, n)


def _here(shards: Shards, metric: str, key: str | None, said: Callable[[int, int], object]) -> Tree:
    pairs = _pairs(shards)
    tree = _tree_of(pairs[0], shards, metric, key)
    said(1, len(pairs))
    for done, pair in enumerate(pairs[1:], start=2):
        tree = _merged(tree, _tree_of(pair, shards, metric, key), sum(shards.sizes))
        said(done, len(pairs))
    return tree


# --- on a cluster ----------------------------------------------------------------------------------------------------------------


def _on_dask(client: Any, shards: Shards, metric: str, key: str | None, said: Callable[[int, int], object]) -> Tree:
    from distributed import KilledWorker, as_completed

    pairs = [client.submit(_tree_of, pair, shards, metric, key, pure=False) for pair in _pairs(shards)]
    n, waiting = sum(shards.sizes), list(pairs)
    # Two by two, so that no worker holds more than two trees; a merge begins as soon as its two are there.
    while len(waiting) > 1:
        merged = [client.submit(_merged, *two, n, pure=False) for two in zip(waiting[::2], waiting[1::2], strict=False)]
        waiting = merged + waiting[2 * len(merged) :]
    try:
        for done, future in enumerate(as_completed(pairs, loop=client.loop), start=1):
            if future.exception() is not None:
                raise future.exception()
            future.release()  # what a merge still needs is kept for it
            said(done, len(pairs))
        tree: Tree = waiting[0].result()
    except KilledWorker as error:
        raise ValueError(
            "workers died over the same pair of files again and again, most likely for lack of memory: two files and their lists "
            "have to fit into a worker; make the files smaller, or run fewer threads in a worker"
        ) from error
    finally:
        client.cancel([*pairs, *waiting])
    return tree
