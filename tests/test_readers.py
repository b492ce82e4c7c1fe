"""Points from files: what is read, and what is refused in one line."""

from __future__ import annotations

import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from simplicial_reg import readers
from simplicial_reg.readers import read_points

POINTS = torch.tensor([[0.0, 1.0, 2.5], [3.0, -4.0, 5.0], [6.0, 7.0, 8.0], [0.1, 0.2, 0.3]], dtype=torch.float64)


def refusal(path: Path, key: str | None = None, error: type[Exception] = ValueError) -> str:
    """The message without the file's name, with which it must begin, and which must be one line."""
    with pytest.raises(error) as caught:
        read_points(path, key)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


# --- what is read ----------------------------------------------------------------------------------------------------------------


def _write_npy(path):
    np.save(path, POINTS.numpy())


def _write_npz(path):
    np.savez(path, points=POINTS.numpy())


def _write_pt(path):
    torch.save(POINTS, path)


def _write_safetensors(path):
    save_file({"points": POINTS}, path)


def _write_csv(path):
    np.savetxt(path, POINTS.numpy(), delimiter=",", fmt="%.17g")


def _write_tsv(path):
    np.savetxt(path, POINTS.numpy(), delimiter="\t", fmt="%.17g")


WRITERS = {
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".pt": _write_pt,
    ".safetensors": _write_safetensors,
    ".csv": _write_csv,
    ".tsv": _write_tsv,
}


def test_every_format_has_a_writer_in_this_test():
    assert set(WRITERS) == set(readers.READERS)


@pytest.mark.parametrize("suffix", WRITERS)
def test_points_survive_the_way_through_a_file(tmp_path, suffix):
    path = tmp_path / f"cloud{suffix}"
    WRITERS[suffix](path)
    points, key = read_points(path)
    assert points.dtype == torch.float64
    assert torch.equal(points, POINTS)
    assert key == ("points" if suffix in (".npz", ".safetensors") else None)


@pytest.mark.parametrize("suffix", WRITERS)
def test_the_case_of_the_suffix_does_not_matter(tmp_path, suffix):
    path = tmp_path / f"cloud{suffix}"
    WRITERS[suffix](path)
    assert torch.equal(read_points(path.rename(path.with_suffix(suffix.upper()))).points, POINTS)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_keep_their_floating_type(tmp_path, suffix, dtype):
    path = tmp_path / f"cloud{suffix}"
    tensors = {"points": POINTS.to(dtype)}
    torch.save(tensors, path) if suffix == ".pt" else save_file(tensors, path)
    points = read_points(path).points
    assert points.dtype == dtype
    assert torch.equal(points, POINTS.to(dtype))


def test_eight_bit_floats_become_float32(tmp_path):
    torch.save(POINTS.to(torch.float8_e5m2), tmp_path / "cloud.pt")
    points = read_points(tmp_path / "cloud.pt").points
    assert points.dtype == torch.float32
    assert points[2].tolist() == [6, 7, 8]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("int8", torch.float32),
        ("uint8", torch.float32),
        ("int16", torch.float32),
        ("uint16", torch.float32),
        ("int32", torch.float64),
        ("uint32", torch.float64),
        ("int64", torch.float64),
        ("uint64", torch.float64),
        ("float16", torch.float16),
        (">f4", torch.float32),
        (">i2", torch.float32),
        ("longdouble", torch.float64),
    ],
)
def test_numbers_of_every_numpy_type_are_read(tmp_path, dtype, expected):
    np.save(tmp_path / "cloud.npy", np.array([[0, 1], [2, 100]], dtype=dtype))
    points = read_points(tmp_path / "cloud.npy").points
    assert points.dtype == expected
    assert points.tolist() == [[0, 1], [2, 100]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.uint16])
def test_tensors_of_integers_become_floating(tmp_path, dtype):
    torch.save(torch.tensor([[0, 1], [2, 100]]).to(dtype), tmp_path / "cloud.pt")
    points = read_points(tmp_path / "cloud.pt").points
    assert points.dtype == (torch.float64 if dtype == torch.int64 else torch.float32)
    assert points.tolist() == [[0, 1], [2, 100]]


def test_columns_first_arrays_are_read_the_right_way_round(tmp_path):
    np.save(tmp_path / "cloud.npy", np.asfortranarray(POINTS.numpy()))
    assert torch.equal(read_points(tmp_path / "cloud.npy").points, POINTS)


def test_points_that_carry_a_gradient_are_read_without(tmp_path):
    torch.save(POINTS.clone().requires_grad_(), tmp_path / "cloud.pt")
    assert not read_points(tmp_path / "cloud.pt").points.requires_grad


def test_a_parameter_is_a_tensor(tmp_path):
    torch.save(torch.nn.Linear(3, 5).state_dict(), tmp_path / "model.pt")
    assert read_points(tmp_path / "model.pt").points.shape == (5, 3)


# --- choosing an array -----------------------------------------------------------------------------------------------------------

SEVERAL = {"a": np.zeros((3, 2)), "b": np.ones((4, 2)), "labels": np.arange(4)}


def _write_several(path):
    if path.suffix == ".npz":
        np.savez(path, **SEVERAL)
    elif path.suffix == ".pt":
        torch.save({name: torch.tensor(array) for name, array in SEVERAL.items()}, path)
    else:
        save_file({name: torch.tensor(array) for name, array in SEVERAL.items()}, path)


NAMED = pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors"])


@NAMED
def test_a_key_chooses_an_array(tmp_path, suffix):
    path = tmp_path / f"several{suffix}"
    _write_several(path)
    points, key = read_points(path, "b")
    assert points.tolist() == [[1, 1]] * 4
    assert key == "b"


@NAMED
def test_without_a_key_several_clouds_are_listed_with_their_shapes(tmp_path, suffix):
    path = tmp_path / f"several{suffix}"
    _write_several(path)
    assert refusal(path) == "holds several arrays; choose one with --key NAME: a (3, 2), b (4, 2), labels (4,)"


@NAMED
def test_an_unknown_key_lists_the_known_ones(tmp_path, suffix):
    path = tmp_path / f"several{suffix}"
    _write_several(path)
    assert (
        refusal(path, "c") == "has no array 'c'; it holds a (3, 2), b (4, 2), labels (4,); choose one with --key NAME"
    )


def test_the_only_floating_matrix_is_taken_by_itself(tmp_path):
    np.savez(
        tmp_path / "one.npz", points=np.ones((4, 2)), labels=np.arange(4), counts=np.ones((4, 4), int), mean=np.ones(2)
    )
    points, key = read_points(tmp_path / "one.npz")
    assert key == "points"
    assert points.shape == (4, 2)


def test_the_only_integer_matrix_is_taken_where_none_is_floating(tmp_path):
    np.savez(tmp_path / "one.npz", points=np.ones((4, 2), int), labels=np.arange(4))
    assert read_points(tmp_path / "one.npz").key == "points"


def test_a_file_without_a_matrix_says_what_it_holds(tmp_path):
    np.savez(tmp_path / "none.npz", labels=np.arange(4), cube=np.ones((2, 2, 2)))
    assert (
        refusal(tmp_path / "none.npz")
        == "holds no array of shape (n, d) of numbers; it holds labels (4,), cube (2, 2, 2)"
    )


def test_a_long_list_of_arrays_is_cut(tmp_path):
    save_file({f"layer{layer:02}": torch.ones(2, 2) for layer in range(30)}, tmp_path / "model.safetensors")
    message = refusal(tmp_path / "model.safetensors")
    assert message.endswith("layer10 (2, 2), layer11 (2, 2), and 18 more")


def test_nested_dicts_and_lists_of_a_pt_file_have_dotted_keys(tmp_path):
    torch.save({"model": {"weight": POINTS}, "states": [POINTS[:2], POINTS[:3]], "epoch": 3}, tmp_path / "nested.pt")
    assert read_points(tmp_path / "nested.pt", "model.weight").points.shape == (4, 3)
    assert read_points(tmp_path / "nested.pt", "states.1").points.shape == (3, 3)
    assert "model.weight (4, 3), states.0 (2, 3), states.1 (3, 3)" in refusal(tmp_path / "nested.pt")


def test_a_pt_file_that_holds_itself_is_read(tmp_path):
    loop: dict[str, object] = {"points": POINTS}
    loop["again"] = loop
    torch.save(loop, tmp_path / "loop.pt")
    assert read_points(tmp_path / "loop.pt").key == "points"


def test_a_key_for_a_file_without_names_is_refused(tmp_path):
    _write_npy(tmp_path / "cloud.npy")
    assert refusal(tmp_path / "cloud.npy", "x") == "holds one array without a name; leave out the key 'x'"


def test_a_damaged_array_does_not_spoil_the_others(tmp_path):
    np.savez(tmp_path / "mixed.npz", points=np.ones((4, 2)), objects=np.array([{}, 1], dtype=object))
    assert read_points(tmp_path / "mixed.npz").key == "points"
    assert refusal(tmp_path / "mixed.npz", "objects") == (
        "the array 'objects' is of type object, but coordinates must be numbers; save it as floating point"
    )


# --- what is no cloud ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(5), "the array has shape (5,), but a cloud has shape (n, d); reshape it to one point in each row"),
        (
            np.ones((2, 3, 4)),
            "the array has shape (2, 3, 4), but a cloud has shape (n, d); save one cloud, or flatten each point to a row",
        ),
        (np.float64(3), "the array has shape (), but a cloud has shape (n, d); reshape it to one point in each row"),
        (np.ones((0, 3)), "the array has shape (0, 3): it holds no points; save at least one point of one coordinate"),
        (np.ones((3, 0)), "the array has shape (3, 0): it holds no points; save at least one point of one coordinate"),
        (
            np.ones((3, 2), bool),
            "the array is of type bool, but coordinates must be numbers; save it as floating point",
        ),
        (
            np.ones((3, 2), complex),
            "the array is of type complex128, but coordinates must be numbers; save it as floating point",
        ),
        (np.full((3, 2), "a"), "the array is of type <U1, but coordinates must be numbers; save it as floating point"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused_with_its_shape_or_type(tmp_path, array, message):
    np.save(tmp_path / "cloud.npy", array)
    assert refusal(tmp_path / "cloud.npy") == message


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.ones(2, 2, dtype=torch.bool), "bool"),
        (torch.ones(2, 2, dtype=torch.complex64), "complex64"),
        (torch.ones(2, 2).to_sparse(), "float32, sparse_coo"),
    ],
)
def test_tensors_that_are_no_numbers_or_not_dense_are_refused(tmp_path, tensor, kind):
    torch.save(tensor, tmp_path / "cloud.pt")
    assert refusal(tmp_path / "cloud.pt") == (
        f"the array is of type {kind}, but coordinates must be numbers; save it as floating point"
    )


@pytest.mark.parametrize("suffix", WRITERS)
def test_the_first_row_that_is_not_finite_is_named(tmp_path, suffix):
    path = tmp_path / f"cloud{suffix}"
    spoiled = POINTS.clone()
    spoiled[1, 2], spoiled[3, 0] = torch.nan, torch.inf
    if suffix in (".npy", ".npz"):
        np.save(path, spoiled.numpy()) if suffix == ".npy" else np.savez(path, spoiled.numpy())
    elif suffix in (".csv", ".tsv"):
        np.savetxt(path, spoiled.numpy(), delimiter="," if suffix == ".csv" else "\t")
    else:
        torch.save(spoiled, path) if suffix == ".pt" else save_file({"x": spoiled}, path)
    assert refusal(path) == "row 1 (counted from 0) holds NaN or infinity; 2 of 4 rows do; remove these rows"


# --- what cannot be read ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_missing_file_is_named(tmp_path, suffix):
    message = "no such file; check the name and the folder"
    assert refusal(tmp_path / f"absent{suffix}", error=FileNotFoundError) == message


def test_a_directory_is_refused(tmp_path):
    folder = tmp_path / "folder.npy"
    folder.mkdir()
    assert refusal(folder, error=IsADirectoryError) == "is a directory; name a file in it"


def test_a_device_is_refused_because_it_may_never_end(tmp_path):
    link = tmp_path / "endless.csv"
    link.symlink_to("/dev/zero")
    assert refusal(link) == "is not a regular file; save the points to a file first"


def test_an_unknown_suffix_lists_the_known_ones(tmp_path):
    (tmp_path / "cloud.txt").write_text("1 2\n")
    assert refusal(tmp_path / "cloud.txt") == (
        "cannot tell the format from the suffix '.txt'; it must be one of .npy, .npz, .pt, .safetensors, .csv, .tsv"
    )


def _refuse(error):
    def read(path):
        raise error

    return read


def test_a_file_that_may_not_be_read_is_named(
    tmp_path, monkeypatch
):  # root may read everything, so the refusal is played
    _write_npy(tmp_path / "cloud.npy")
    monkeypatch.setitem(readers.READERS, ".npy", _refuse(PermissionError(13, "Permission denied")))
    assert refusal(tmp_path / "cloud.npy", error=PermissionError) == "permission denied; make the file readable"


def test_a_failing_disk_is_told_in_one_line(tmp_path, monkeypatch):
    _write_npy(tmp_path / "cloud.npy")
    monkeypatch.setitem(readers.READERS, ".npy", _refuse(OSError(5, "Input/output error")))
    assert refusal(tmp_path / "cloud.npy", error=OSError) == "cannot be read: Input/output error"


def test_a_file_larger_than_memory_is_told_in_one_line(tmp_path, monkeypatch):
    _write_npy(tmp_path / "cloud.npy")
    monkeypatch.setitem(readers.READERS, ".npy", _refuse(MemoryError()))
    assert refusal(tmp_path / "cloud.npy") == "does not fit into memory; save a part of it to a file of its own"


CUT_SHORT = {
    ".npy": "is cut short or damaged; write it again with numpy.save",
    ".npz": "is cut short or damaged; write it with numpy.savez",
    ".pt": "is cut short, damaged, or not a .pt file; write it with torch.save",
    ".safetensors": "is cut short, damaged, or not a .safetensors file; write it with safetensors.torch.save_file",
}


@pytest.mark.parametrize("suffix", CUT_SHORT)
def test_a_truncated_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"cloud{suffix}"
    WRITERS[suffix](path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - len(content) // 4])
    assert refusal(path) == CUT_SHORT[suffix]


def test_a_header_that_promises_more_than_memory_holds_is_refused(tmp_path):
    path = tmp_path / "cloud.npy"
    _write_npy(path)
    path.write_bytes(path.read_bytes().replace(b"(4, 3), }" + b" " * 16, b"(400000000000000, 3), }  "))
    assert refusal(path) == CUT_SHORT[".npy"]


EMPTY = {
    ".npy": "is not a .npy file but empty; write it with numpy.save",
    ".npz": "is not a .npz file but empty; write it with numpy.savez",
    ".pt": CUT_SHORT[".pt"],
    ".safetensors": CUT_SHORT[".safetensors"],
    ".csv": "is empty; write one point on each line",
    ".tsv": "is empty; write one point on each line",
}


@pytest.mark.parametrize("suffix", EMPTY)
def test_an_empty_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"cloud{suffix}"
    path.touch()
    assert refusal(path) == EMPTY[suffix]


WRONG = {
    (".npy", ".npz"): "is not a .npz file but a .npy file; write it with numpy.savez",
    (".npy", ".pt"): CUT_SHORT[".pt"],
    (".npz", ".npy"): "is not a .npy file but a zip archive, as .npz and .pt files are; write it with numpy.save",
    (".pt", ".npy"): "is not a .npy file but a zip archive, as .npz and .pt files are; write it with numpy.save",
    (".pt", ".npz"): "holds no arrays; save the points to it under a name",
    (".csv", ".npy"): "is not a .npy file; write it with numpy.save",
    (".csv", ".pt"): CUT_SHORT[".pt"],
    (".csv", ".safetensors"): CUT_SHORT[".safetensors"],
    (".npy", ".csv"): "is not a text file in UTF-8; save it as UTF-8",
}


@pytest.mark.parametrize(("content", "suffix"), WRONG)
def test_a_file_of_another_format_is_refused(tmp_path, content, suffix):
    source = tmp_path / f"cloud{content}"
    WRITERS[content](source)
    target = tmp_path / f"renamed{suffix}"
    source.rename(target)
    assert refusal(target) == WRONG[content, suffix]


def test_a_pickle_under_another_name_is_refused(tmp_path):
    (tmp_path / "cloud.npy").write_bytes(pickle.dumps([[1.0]]))
    assert refusal(tmp_path / "cloud.npy") == (
        "is not a .npy file but a pickle, which is not read because that could run code; write it with numpy.save"
    )


def test_a_damaged_member_of_an_archive_is_named(tmp_path):
    path = tmp_path / "cloud.npz"
    np.savez(path, points=np.ones((5000, 2)))
    content = bytearray(path.read_bytes())
    content[content.index(np.float64(1).tobytes()) + 50_000] ^= 0xFF  # in the middle of the numbers
    path.write_bytes(content)
    assert refusal(path) == "the array 'points' is damaged; write it again with numpy.savez"


def test_files_in_an_archive_that_are_no_arrays_are_passed_over(tmp_path):
    path = tmp_path / "cloud.npz"
    _write_npz(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("readme.txt", "hello")
    assert read_points(path).key == "points"


def test_a_pt_file_without_tensors_says_what_it_holds(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    assert refusal(tmp_path / "empty.pt") == "holds no tensors but a dict; save a tensor or a dict of tensors"
    torch.save(3, tmp_path / "number.pt")
    assert refusal(tmp_path / "number.pt") == "holds no tensors but an int; save a tensor or a dict of tensors"


def test_missing_safetensors_names_the_extra(tmp_path, monkeypatch):
    _write_safetensors(tmp_path / "cloud.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert refusal(tmp_path / "cloud.safetensors", error=ImportError) == (
        'reading .safetensors needs safetensors: pip install "simplicial_reg[hf]"'
    )


# --- code in files is never run --------------------------------------------------------------------------------------------------


class Bomb:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickled_npy_file_is_refused_and_not_run(tmp_path):
    bomb = np.empty(1, object)
    bomb[0] = Bomb(tmp_path / "exploded")
    np.save(tmp_path / "bomb.npy", bomb)
    assert refusal(tmp_path / "bomb.npy") == (
        "holds pickled Python objects, which are not read because that could run code; save a floating array "
        "(an array of rows of unequal length becomes objects too)"
    )
    assert not (tmp_path / "exploded").exists()


def test_a_pickled_array_of_an_archive_is_refused_and_not_run(tmp_path):
    bomb = np.empty((1, 1), object)
    bomb[0, 0] = Bomb(tmp_path / "exploded")
    np.savez(tmp_path / "bomb.npz", bomb=bomb)
    assert refusal(tmp_path / "bomb.npz").startswith(
        "the array 'bomb' is of type object, but coordinates must be numbers"
    )
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("with_zip", [True, False])
def test_objects_in_a_pt_file_are_refused_and_not_run(tmp_path, with_zip):
    torch.save(
        {"x": POINTS, "b": Bomb(tmp_path / "exploded")}, tmp_path / "bomb.pt", _use_new_zipfile_serialization=with_zip
    )
    message = refusal(tmp_path / "bomb.pt")
    assert message.startswith("holds a Python object (")
    assert message.endswith(
        "), which is not read because that could run code; save a tensor or a dict of tensors "
        "(torch.save(model.state_dict(), ...), not the model)"
    )
    assert not (tmp_path / "exploded").exists()


def test_a_whole_model_in_a_pt_file_is_refused_by_its_class(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    assert refusal(tmp_path / "model.pt").startswith(
        "holds a Python object (torch.nn.modules.linear.Linear), which is not read"
    )


# --- text ------------------------------------------------------------------------------------------------------------------------


def _csv(tmp_path, text, suffix=".csv"):
    path = tmp_path / f"cloud{suffix}"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "0,1\n2,3.5\n",
        "x,y\n0,1\n2,3.5\n",
        "0,1\r\n2,3.5\r\n",
        "0,1\n2,3.5",
        '"x","y"\n"0","1"\n"2","3.5"\n',
        "\ufeffx,y\n0,1\n2,3.5\n",
        "\ufeff0,1\n2,3.5\n",
        "\nx,y\n\n0,1\n\n2,3.5\n\n",
        " 0 , 1 \n 2 , 3.5 \n",
        "0e0,+1\n2.,35e-1\n",
    ],
)
def test_tables_are_read_with_or_without_a_header(tmp_path, text):
    assert read_points(_csv(tmp_path, text)).points.tolist() == [[0, 1], [2, 3.5]]


def test_a_header_of_running_numbers_above_fractions_is_a_header(tmp_path):
    assert read_points(_csv(tmp_path, "0,1,2\n0.5,1.5,2.5\n")).points.tolist() == [[0.5, 1.5, 2.5]]


def test_a_line_of_running_numbers_above_whole_numbers_is_a_point(tmp_path):
    assert read_points(_csv(tmp_path, "0,1\n3,4.5\n")).points.tolist() == [[0, 1], [3, 4.5]]
    assert read_points(_csv(tmp_path, "0,1,2\n0.5,1.5,2.5\n0.5,1.5,2\n")).points[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("text", ["0\n1.5\n2.5\n", "0,1\n0.5,2.5\n1.5,1.25\n"])
def test_of_one_or_two_columns_it_may_be_either_and_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match="may be a point or a header that pandas wrote; write the point with decimals"):
        read_points(_csv(tmp_path, text))


def test_one_line_is_one_point_and_one_column_one_coordinate(tmp_path):
    assert read_points(_csv(tmp_path, "1,2,3\n")).points.tolist() == [[1, 2, 3]]
    assert read_points(_csv(tmp_path, "1\n2\n")).points.tolist() == [[1], [2]]


TABLES = [
    ("1,2\n3,cat\n", "line 2, column 2 is 'cat', not a number; remove this column or this line"),
    ("x,label\n1,cat\n", "line 2, column 2 ('label') is 'cat', not a number; remove this column or this line"),
    ("cat,1,2\ndog,3,4\n", "line 1, column 1 is 'cat', not a number; remove this column or this line"),
    ("x,y\n\n1,2\n\n3,\n", "line 5, column 2 ('y') is empty; remove this column or this line"),
    ("1,2\n3,4,5\n", "line 2 has 3 columns, but the lines above have 2; every point needs as many"),
    ("1,2\n3\n", "line 2 has 1 columns, but the lines above have 2; every point needs as many"),
    ("1,1_000\n2,3\n", "line 1, column 2 is '1_000', not a number; remove this column or this line"),
    ("# made by me\n1,2\n3,4,x\n", "line 3 has 3 columns, but the lines above have 2; every point needs as many"),
    ("x,y\n", "holds a header and no points; write one point on each line"),
    ("\n\n", "is empty; write one point on each line"),
    ("1;2\n3;4\n", "is separated by semicolons; a .csv file must be separated by commas"),
    ("1\t2\n3\t4\n", "is separated by tabs; a .csv file must be separated by commas"),
    (
        ",0,1\n0,0.5,1.5\n1,2.5,3.5\n",
        "the first column has no name, as an index written by pandas; leave it out (to_csv(..., index=False))",
    ),
    (
        ",x,y\n0,0.5,1.5\n1,2.5,3.5\n",
        "the first column has no name, as an index written by pandas; leave it out (to_csv(..., index=False))",
    ),
    (b"caf\xe9,y\n1,2\n", "is not a text file in UTF-8; save it as UTF-8"),
]


@pytest.mark.parametrize(("text", "message"), TABLES)
def test_a_table_that_is_not_of_numbers_says_where(tmp_path, text, message):
    assert refusal(_csv(tmp_path, text)) == message


def test_a_tsv_file_of_commas_is_refused(tmp_path):
    assert refusal(_csv(tmp_path, "1,2\n3,4\n", ".tsv")) == (
        "is separated by commas; a .tsv file must be separated by tabs"
    )
