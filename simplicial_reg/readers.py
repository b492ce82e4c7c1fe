"""Point clouds from files: .npy, .npz, .pt, .safetensors, .csv, .tsv. Nothing in a file is ever executed.

NumPy files are read without pickle and PyTorch files with ``weights_only=True``. A file that holds several arrays needs a key, unless
exactly one of them can be a cloud: floating and two-dimensional (or, where none is floating, integer and two-dimensional).

Types. Floating arrays keep theirs (float16, bfloat16, float32, float64; 8-bit floats become float32, longer ones float64). A file of
integers is fine: 8 and 16 bits become float32, which holds them exactly, longer ones float64. Text files become float64. Booleans,
complex numbers and objects are refused, and so are NaN and infinity: there is no distance to such a point.

Every error is one line that names the file, what is wrong, and what to do.
"""

from __future__ import annotations

import csv
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["READERS", "PointFile", "read_points"]


class PointFile(NamedTuple):
    """What a file held."""

    points: Tensor  # (n, d), floating and finite
    key: str | None  # the array's name in a file that names its arrays


class Entry(NamedTuple):
    """One array of a file, looked at but not read yet."""

    shape: tuple[int, ...]
    kind: str  # "float", "int", or the name of a type that is no coordinate
    load: Callable[[], Tensor]


# What may stand in a file: name -> entry. The name None is that of the only array of a file that does not name its arrays.
Entries = Mapping[str | None, Entry]


def read_points(path: str | os.PathLike[str], key: str | None = None) -> PointFile:
    r"""Read a point cloud from a file; the suffix tells the format.

    Args:
        path: a .npy, .npz, .pt, .safetensors, .csv or .tsv file. Text files hold one point on each line, with or without a header.
        key: the array's name, in a .npz, .pt or .safetensors file that holds several. Levels of nested dictionaries and lists in
            a .pt file are joined by dots: ``"model.weight"``.

    Returns:
        The points ``(n, d)``, floating and finite, on the CPU, and the name of the array they were. Integers are converted.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: if the file cannot be opened.
        ValueError: if it is not what its suffix says, is cut short, or holds no such array, no matrix, or no finite numbers.
        ImportError: if a .safetensors file is to be read and safetensors is missing (extra "hf").

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "square.csv"
        ...     _ = path.write_text("x,y\n0,0\n1,0\n1,1\n0,1\n")
        ...     read_points(path).points.shape
        torch.Size([4, 2])
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(
            f"{path}: cannot tell the format from the suffix {path.suffix!r}; it must be one of {', '.join(READERS)}"
        )
    with _one_line_errors(path):
        _check_is_file(path)
        entries = reader(path)
        name, entry = _chosen(path, entries, key)
        points = _floating(entry.load())
    _check_finite(path, points)
    return PointFile(points, name)


def _check_is_file(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a directory; name a file in it")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; check the name and the folder")
    if not path.is_file():  # a pipe or a device: reading could wait for ever, and some formats are read twice
        raise ValueError(f"{path}: is not a regular file; save the points to a file first")


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    """Errors of the file system and of other packages' readers, as one line that names the file."""
    try:
        yield
    except _Refused as error:
        raise ValueError(f"{path}: {error}") from None
    except (FileNotFoundError, IsADirectoryError):
        raise  # from the check above, which names the file
    except PermissionError:
        raise PermissionError(f"{path}: permission denied; make the file readable") from None
    except OSError as error:
        raise OSError(f"{path}: cannot be read: {error.strerror or _first_line(error)}") from error
    except MemoryError:
        raise ValueError(f"{path}: does not fit into memory; save a part of it to a file of its own") from None


class _Refused(ValueError):
    """A line about the file, whose name is put in front of it above."""


# Bytes that a parser does not expect make it raise nearly anything (EOFError, zlib.error, TokenError, ...), so below everything is taken
# for damage but these two: the machine's own.
PASSED_ON = (OSError, MemoryError)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


# --- choosing an array ---------------------------------------------------------------------------------------------------------


def _chosen(path: Path, entries: Entries, key: str | None) -> tuple[str | None, Entry]:
    if key is None:
        name = _only_cloud(entries)
    elif None in entries:
        raise _Refused(f"holds one array without a name; leave out the key {key!r}")
    elif key not in entries:
        raise _Refused(f"has no array {key!r}; it holds {_listed(entries)}; choose one with --key NAME")
    else:
        name = key
    entry = entries[name]
    array = "the array" if name is None else f"the array {name!r}"
    if entry.kind not in ("float", "int"):
        raise _Refused(f"{array} is of type {entry.kind}, but coordinates must be numbers; save it as floating point")
    if len(entry.shape) != 2:
        hint = (
            "reshape it to one point in each row"
            if len(entry.shape) < 2
            else "save one cloud, or flatten each point to a row"
        )
        raise _Refused(f"{array} has shape {entry.shape}, but a cloud has shape (n, d); {hint}")
    if 0 in entry.shape:
        raise _Refused(
            f"{array} has shape {entry.shape}: it holds no points; save at least one point of one coordinate"
        )
    return name, entry


def _only_cloud(entries: Entries) -> str | None:
    """The name of the array to take when none is asked for."""
    if len(entries) == 1:
        return next(iter(entries))  # whatever it is: if it is no cloud, the message about it says more than a list
    if not entries:
        raise _Refused("holds no arrays; save the points to it under a name")
    for kind in ("float", "int"):
        clouds = [name for name, entry in entries.items() if entry.kind == kind and len(entry.shape) == 2]
        if len(clouds) == 1:
            return clouds[0]
        if clouds:
            raise _Refused(f"holds several arrays; choose one with --key NAME: {_listed(entries)}")
    raise _Refused(f"holds no array of shape (n, d) of numbers; it holds {_listed(entries)}")


LISTED = 12  # names in an error line; the files of large models hold thousands


def _listed(entries: Entries) -> str:
    shown = [f"{name} {entry.shape}" for name, entry in list(entries.items())[:LISTED]]
    more = len(entries) - len(shown)
    return (", ".join(shown) or "no arrays") + (f", and {more} more" if more else "")


def _floating(points: Tensor) -> Tensor:
    if points.is_floating_point():
        return points.float() if points.dtype.itemsize == 1 else points
    return points.float() if points.dtype.itemsize <= 2 else points.double()


def _check_finite(path: Path, points: Tensor) -> None:
    finite = points.isfinite().all(-1)
    if not finite.all():
        rows = (~finite).nonzero().flatten().tolist()
        raise ValueError(
            f"{path}: row {rows[0]} (counted from 0) holds NaN or infinity; {len(rows)} of {len(points)} rows do; remove these rows"
        )


# --- NumPy ---------------------------------------------------------------------------------------------------------------------

NPY_MAGIC = b"\x93NUMPY"


def _npy(path: Path) -> Entries:
    with path.open("rb") as file:
        start = file.read(len(NPY_MAGIC))
    if start != NPY_MAGIC:  # without this, NumPy takes every other file for a pickle and says so
        raise _Refused(f"is not a .npy file{_looks_like(start)}; write it with numpy.save")
    try:
        # Mapped: a file that is shorter than its header says is found out before memory is taken for it.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except PASSED_ON:
        raise
    except Exception as error:
        if "Python object" in str(error):
            raise _Refused(_PICKLED) from error
        raise _Refused("is cut short or damaged; write it again with numpy.save") from error
    return {None: _array_entry(array)}


def _npz(path: Path) -> Entries:
    """Looks at the headers only: of all arrays, one will be read."""
    entries: dict[str | None, Entry] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if member.endswith(".npy"):
                    with archive.open(member) as stream:
                        shape, dtype = _npy_header(stream)
                    entries[member.removesuffix(".npy")] = Entry(shape, _kind(dtype), _member_loader(path, member))
    except PASSED_ON:
        raise
    except Exception as error:
        with path.open("rb") as file:
            start = file.read(len(NPY_MAGIC))
        what = "is cut short or damaged" if start[:2] == b"PK" else f"is not a .npz file{_looks_like(start)}"
        raise _Refused(f"{what}; write it with numpy.savez") from error
    return entries


def _npy_header(stream: Any) -> tuple[tuple[int, ...], Any]:
    read = (
        np.lib.format.read_array_header_1_0
        if np.lib.format.read_magic(stream) == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(stream)
    return shape, dtype


def _member_loader(path: Path, member: str) -> Callable[[], Tensor]:
    def load() -> Tensor:
        try:
            with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
                return _tensor(np.lib.format.read_array(stream, allow_pickle=False))
        except PASSED_ON:
            raise
        except Exception as error:
            raise _Refused(
                f"the array {member.removesuffix('.npy')!r} is damaged; write it again with numpy.savez"
            ) from error

    return load


_PICKLED = (
    "holds pickled Python objects, which are not read because that could run code; save a floating array "
    "(an array of rows of unequal length becomes objects too)"
)


def _array_entry(array: Any) -> Entry:
    return Entry(array.shape, _kind(array.dtype), lambda: _tensor(array))


def _kind(dtype: Any) -> str:
    return {"f": "float", "i": "int", "u": "int"}.get(dtype.kind, str(dtype))


def _tensor(array: Any) -> Tensor:
    dtype = array.dtype
    if dtype.kind == "f" and dtype.itemsize > 8:
        dtype = np.dtype(np.float64)
    elif dtype.kind == "u" and dtype.itemsize > 1:
        dtype = np.dtype(np.float32 if dtype.itemsize == 2 else np.float64)  # torch ≥ 2.4 knows little of these
    # A copy in the byte order of this machine, which is all torch takes.
    return torch.from_numpy(np.array(array, dtype=dtype.newbyteorder("="), order="C"))


def _looks_like(start: bytes) -> str:
    if start == NPY_MAGIC:
        return " but a .npy file"
    if start[:2] == b"PK":
        return " but a zip archive, as .npz and .pt files are"
    if start[:1] == b"\x80":
        return " but a pickle, which is not read because that could run code"
    return "" if start else " but empty"


# --- PyTorch and safetensors ---------------------------------------------------------------------------------------------------


def _pt(path: Path) -> Entries:
    try:
        with warnings.catch_warnings():  # about the file's age or its types; what matters of that is said below
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except PASSED_ON:
        raise
    except Exception as error:
        refused = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        if refused:
            raise _Refused(
                f"holds a Python object ({refused[1]}), which is not read because that could run code; "
                "save a tensor or a dict of tensors (torch.save(model.state_dict(), ...), not the model)"
            ) from error
        raise _Refused("is cut short, damaged, or not a .pt file; write it with torch.save") from error
    if isinstance(content, Tensor):
        return {None: _tensor_entry(content)}
    entries: dict[str | None, Entry] = {}
    _collect(content, "", entries, set())
    if not entries:
        raise _Refused(f"holds no tensors but {_article(type(content).__name__)}; save a tensor or a dict of tensors")
    return entries


def _collect(content: Any, prefix: str, entries: dict[str | None, Entry], seen: set[int]) -> None:
    """Tensors of nested dicts and lists under dotted names. Each container is entered once: a file may hold one that holds itself."""
    if isinstance(content, Tensor):
        entries[prefix] = _tensor_entry(content)
        return
    if isinstance(content, Mapping):
        items: list[tuple[Any, Any]] = list(content.items())
    elif isinstance(content, Sequence) and not isinstance(content, (str, bytes)):
        items = list(enumerate(content))
    else:
        return
    if id(content) in seen:
        return
    seen.add(id(content))
    for name, value in items:
        _collect(value, f"{prefix}.{name}" if prefix else str(name), entries, seen)


def _tensor_entry(tensor: Tensor) -> Entry:
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout != torch.strided:
        kind = f"{kind}, {str(tensor.layout).removeprefix('torch.')}"
    elif tensor.is_floating_point():
        kind = "float"
    elif not tensor.is_complex() and not tensor.is_quantized and tensor.dtype != torch.bool:
        kind = "int"
    return Entry(tuple(tensor.shape), kind, lambda: tensor.detach().contiguous())


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _safetensors(path: Path) -> Entries:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError(
            f'{path}: reading .safetensors needs safetensors: pip install "simplicial_reg[hf]"'
        ) from error
    entries: dict[str | None, Entry] = {}
    try:
        with safe_open(str(path), framework="pt") as opened:
            file: Any = opened  # without types
            for name in file.keys():  # noqa: SIM118 (it is no dict)
                part = file.get_slice(name)
                entries[name] = Entry(tuple(part.get_shape()), _safetensors_kind(part.get_dtype()), _loader(path, name))
    except SafetensorError as error:
        raise _Refused(
            "is cut short, damaged, or not a .safetensors file; write it with safetensors.torch.save_file"
        ) from error
    return entries


def _safetensors_kind(dtype: str) -> str:
    if dtype.startswith(("F", "BF")):
        return "float"
    return "int" if dtype.startswith(("I", "U")) else dtype.lower()


def _loader(path: Path, name: str) -> Callable[[], Tensor]:
    """Reads one tensor and leaves the others of the file, which may be a model of many gigabytes, where they are."""

    def load() -> Tensor:
        from safetensors import safe_open

        with safe_open(str(path), framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    return load


# --- text ----------------------------------------------------------------------------------------------------------------------


def _csv(path: Path) -> Entries:
    return _text(path, ",")


def _tsv(path: Path) -> Entries:
    return _text(path, "\t")


def _text(path: Path, delimiter: str) -> Entries:
    try:
        skipped = _header_lines(path, delimiter)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy warns of a file without rows; that is an error here
            table = np.loadtxt(
                path,
                np.float64,
                comments=None,
                delimiter=delimiter,
                skiprows=skipped,
                ndmin=2,
                quotechar='"',
                encoding=ENCODING,
            )
    except UnicodeDecodeError:
        raise _Refused("is not a text file in UTF-8; save it as UTF-8") from None
    except csv.Error as error:
        raise _Refused(f"is not a table of text ({_first_line(error)}); write one point on each line") from error
    except _Refused:
        raise
    except ValueError as error:  # loadtxt is fast but does not say where; look for the place slowly
        _complain_about_cells(path, delimiter, skipped)
        raise _Refused(f"is not a table of numbers ({_first_line(error)})") from error
    if table.size == 0:
        raise _Refused("holds a header and no points; write one point on each line")
    return {None: _array_entry(table)}


LOOKED_AT = 1000  # lines
AMBIGUOUS = 2  # columns, of which 0, 1, ... are a likely point as well
ENCODING = "utf-8-sig"  # UTF-8, with or without the mark that spreadsheets put in front
NAMES = {",": "commas", "\t": "tabs", ";": "semicolons"}


def _lines(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Number (from 1) and cells of each line that is not blank."""
    with path.open(encoding=ENCODING, newline="") as file:
        rows = csv.reader(file, delimiter=delimiter)
        for cells in rows:
            if cells:
                yield rows.line_num, [cell.strip() for cell in cells]


def _header_lines(path: Path, delimiter: str) -> int:
    """How many lines to skip: those up to the header, or none.

    A header is a first line without a number in it. So is 0, 1, ..., d - 1 above lines in which every number has a decimal point: pandas
    writes it for columns without names. (Above a whole number the same line is a point.) Of one or two columns it may well be either.
    """
    lines = _lines(path, delimiter)
    number, first = next(lines, (0, []))
    if not number:
        raise _Refused("is empty; write one point on each line")
    if first == [str(column) for column in range(len(first))]:
        below = [cells for _, cells in islice(lines, None if len(first) <= AMBIGUOUS else LOOKED_AT)]
        if below and not any(cell.lstrip("+-").isdigit() for cells in below for cell in cells):
            if len(first) <= AMBIGUOUS:
                raise _Refused(
                    f"begins with {delimiter.join(first)!r}, which may be a point or a header that pandas wrote; write the point with "
                    "decimals (0.0), or leave the header out (to_csv(..., header=False))"
                )
            return number
    if not any(_is_number(cell) for cell in first):
        other = [sign for sign in NAMES if sign != delimiter and len(first) == 1 and sign in first[0]]
        if other:
            raise _Refused(
                f"is separated by {NAMES[other[0]]}; a {path.suffix.lower()} file must be separated by {NAMES[delimiter]}"
            )
        if not first[0] and len(first) > 1:
            raise _Refused(_INDEX_COLUMN)
        return number
    if not first[0] and first[1:] == [str(column) for column in range(len(first) - 1)]:
        raise _Refused(_INDEX_COLUMN)
    return 0


_INDEX_COLUMN = "the first column has no name, as an index written by pandas; leave it out (to_csv(..., index=False))"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # Python reads 1_000 as a number, NumPy does not


def _complain_about_cells(path: Path, delimiter: str, skipped: int) -> None:
    width = 0
    names: list[str] = []
    for number, cells in _lines(path, delimiter):
        if number <= skipped:
            names = cells
            continue
        width = width or len(cells)
        if len(cells) != width:
            raise _Refused(
                f"line {number} has {len(cells)} columns, but the lines above have {width}; every point needs as many"
            )
        for column, cell in enumerate(cells):
            if not _is_number(cell):
                called = f" ({names[column]!r})" if column < len(names) else ""
                what = f"is {cell[:40]!r}, not a number" if cell else "is empty"
                raise _Refused(f"line {number}, column {column + 1}{called} {what}; remove this column or this line")


# suffix -> reader
READERS: dict[str, Callable[[Path], Entries]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".pt": _pt,
    ".safetensors": _safetensors,
    ".csv": _csv,
    ".tsv": _tsv,
}
