"""Files of embeddings: each floating array (n, d) is a layer. `simplicial_reg.diagnose.sources` says which arrays and columns count."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplicial_reg.diagnose.samples import imported
from simplicial_reg.readers import READERS, Entry, read_points

__all__ = ["SUFFIXES", "embedding_files", "read_layers"]

PARQUET = ".parquet"
SUFFIXES = (*READERS, PARQUET)
SEQUENCE = "sequence"
WEIGHTS = ("model", "pytorch_model")  # as transformers calls the file
LISTED = 8  # arrays that an error names


def embedding_files(model: Any) -> list[Path]:
    """The files, in natural order, if files of embeddings are meant."""
    if not isinstance(model, (str, os.PathLike)):
        files = [Path(one) for one in model]
        wrong = [str(file) for file in files if file.suffix.lower() not in SUFFIXES]
        if wrong or not files:
            raise ValueError(
                f"model must be one name, or several files of embeddings ({', '.join(SUFFIXES)}); got {wrong or 'none'}"
            )
        return sorted(files, key=lambda file: _natural(str(file)))
    path = Path(model)
    if path.is_dir() and not (path / "config.json").exists():
        inside = [file for file in path.iterdir() if file.is_file() and file.suffix.lower() in SUFFIXES]
        return sorted(inside, key=lambda file: _natural(file.name))
    return [path] if path.suffix.lower() in SUFFIXES else []


def read_layers(files: list[Path]) -> tuple[dict[str, Tensor], Tensor | None]:
    """The layers of some files by name, and which sequence each row belongs to, if the first that says so does."""
    layers: dict[str, Tensor] = {}
    sequences: Tensor | None = None
    for file in files:
        found, groups = _parquet(file) if file.suffix.lower() == PARQUET else _arrays(file)
        sequences = groups if sequences is None else sequences
        for name, array in sorted(found.items(), key=lambda item: _natural(item[0])):
            key = name if len(files) == 1 else file.stem if len(found) == 1 else f"{file.stem}.{name}"
            if key in layers:
                raise ValueError(f"{file}: there are two layers {key!r}; rename one of the files")
            layers[key] = array
    counts = sorted({len(array) for array in layers.values()})
    if sequences is not None and counts != [len(sequences)]:
        raise ValueError(
            f"{files[0]}: {SEQUENCE} must have one integer for each row of every layer; got {len(sequences)} for {counts} rows"
        )
    return layers, sequences


def _arrays(path: Path) -> tuple[dict[str, Tensor], Tensor | None]:
    if not path.is_file():
        read_points(path)  # says what is there instead
    try:
        entries = READERS[path.suffix.lower()](path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if (path.parent / "config.json").exists() and path.stem in WEIGHTS:
        raise ValueError(f"{path}: are a model's weights; name its directory {path.parent}")
    clouds = {name: entry for name, entry in entries.items() if _is_cloud(entry)}
    if not clouds:
        tables = [name for name, entry in entries.items() if len(entry.shape) == 2]
        if len(entries) > 1 and len(tables) != 1:
            raise ValueError(
                f"{path}: holds no floating array (n, d), which would be a layer; it holds {_listed(entries)}"
            )
        points, key = read_points(path)  # integers; or the error that says what is there instead
        return {key or path.stem: points}, None
    # NaN is left in: that a layer holds some is for the diagnosis to say.
    layers = {name or path.stem: _floating(entry.load()) for name, entry in clouds.items()}
    return layers, _groups(path, entries.get(SEQUENCE))


def _listed(entries: Mapping[str | None, Entry]) -> str:
    names = [f"{name} {entry.shape}" for name, entry in entries.items()]
    return ", ".join(names[:LISTED]) + (f", and {len(names) - LISTED} more" if len(names) > LISTED else "")


def _is_cloud(entry: Entry) -> bool:
    return entry.kind == "float" and len(entry.shape) == 2 and 0 not in entry.shape


def _floating(points: Tensor) -> Tensor:
    return points.float() if points.dtype.itemsize == 1 else points


def _groups(path: Path, entry: Entry | None) -> Tensor | None:
    if entry is None:
        return None
    if entry.kind != "int" or len(entry.shape) != 1:
        raise ValueError(f"{path}: {SEQUENCE} must be integers (n,); got {entry.kind} {entry.shape}")
    return entry.load().long()


def _parquet(path: Path) -> tuple[dict[str, Tensor], Tensor | None]:
    parquet = imported("pyarrow.parquet", "pyarrow", "hf")
    types = imported("pyarrow", "pyarrow", "hf").types
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the name and the folder")
    try:
        table = parquet.read_table(path)
    except Exception as error:  # bytes that a parser does not expect
        raise ValueError(f"{path}: is cut short, damaged, or not a .parquet file") from error
    kinds = {column.name: column.type for column in table.schema}
    lists = [name for name, kind in kinds.items() if _is_list(types, kind) and _is_number(types, kind.value_type)]
    scalars = [name for name, kind in kinds.items() if _is_number(types, kind) and name != SEQUENCE]
    groups = None
    if SEQUENCE in kinds:
        if not types.is_integer(kinds[SEQUENCE]):
            raise ValueError(f"{path}: {SEQUENCE} must be integers; got {kinds[SEQUENCE]}")
        groups = torch.from_numpy(np.array(table[SEQUENCE].to_numpy(), dtype=np.int64))
    if not table.num_rows or not (lists or scalars):
        raise ValueError(
            f"{path}: holds no rows of numbers or of lists of numbers; its columns are {', '.join(kinds) or 'none'}"
        )
    if not lists:
        columns = [np.asarray(table[name].to_numpy(), dtype=np.float64) for name in scalars]
        return {path.stem: torch.from_numpy(np.stack(columns, 1))}, groups
    return {name: _stacked(path, name, table[name].to_pylist()) for name in lists}, groups


def _is_list(types: Any, kind: Any) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_number(types: Any, kind: Any) -> bool:
    return bool(types.is_floating(kind) or types.is_integer(kind))


def _stacked(path: Path, name: str, rows: list[Any]) -> Tensor:
    lengths = {-1 if row is None else len(row) for row in rows}
    if len(lengths) != 1 or lengths <= {-1, 0}:
        raise ValueError(f"{path}: the lists of column {name!r} must all have the same length, and none be missing")
    return torch.tensor([[math.nan if one is None else one for one in row] for row in rows], dtype=torch.float64)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """A key that sorts layer2 before layer10."""
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name) if part]
