"""Kernels kept on disk: never an old one, never that of other types. Each program is a new process with the same cache folder."""

from __future__ import annotations

from pathlib import Path

from simplicial_reg._jit import FILES
from tests.programs import ROOT, output_of

LENGTHS = """if True:
    import sys
    import numpy as np
    from simplicial_reg import _jit

    if "upgraded" in sys.argv:
        _jit._digest = lambda: "that of other files"
    from simplicial_reg import _point_kernels as kernels

    for dtype in (np.float32, np.float64):
        matrix = np.array([[7, 9, 9], [1, 7, 9], [2, 3, 7]], dtype)
        kernels._mirror(matrix, 0, 3)
        assert matrix.tolist() == [[0, 1, 2], [1, 0, 3], [2, 3, 0]], matrix
    print(sum(kernels._mirror.stats.cache_hits.values()))
"""


def kept(cache: Path, *arguments: str) -> int:
    """How many of two kernels a process found on disk."""
    return int(output_of("-c", LENGTHS, *arguments, NUMBA_CACHE_DIR=str(cache)))


def test_a_kernel_is_compiled_once_and_again_when_any_file_of_kernels_has_changed(tmp_path: Path) -> None:
    assert kept(tmp_path) == 0
    assert kept(tmp_path) == 2
    assert kept(tmp_path, "upgraded") == 0


def test_a_kernel_kept_under_the_name_of_other_types_is_not_used_and_is_replaced(tmp_path: Path) -> None:
    assert kept(tmp_path) == 0
    one, other = sorted(tmp_path.rglob("*_mirror*.nbc"))
    one_code, other_code = one.read_bytes(), other.read_bytes()
    one.write_bytes(other_code)
    other.write_bytes(one_code)
    assert kept(tmp_path) == 0  # and the numbers are right, which the program asserts
    assert kept(tmp_path) == 2


def test_all_files_whose_kernels_call_each_other_count() -> None:
    package = ROOT / "simplicial_reg"
    files = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "\nfrom simplicial_reg._jit import kernel\n" in path.read_text()
    }
    assert set(FILES) == files
