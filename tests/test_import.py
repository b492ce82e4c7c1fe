"""Importing the package is quick and quiet; compiling its kernels is announced once and never again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import simplicial_reg

HEAVY = (
    "numba",
    "llvmlite",
    "click",
    "transformers",
    "matplotlib",
    "scipy",
    "sklearn",
    "gudhi",
    "ripser",
    "torch_topological",
    "gph",
)


def run(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, with warnings as errors, outside the repository."""
    root = str(Path(simplicial_reg.__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_importing_the_package_imports_nothing_heavy_and_says_nothing(tmp_path: Path) -> None:
    done = run(f"import sys, simplicial_reg; print([name for name in {HEAVY} if name in sys.modules])", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


def test_the_check_of_imports_can_fail(tmp_path: Path) -> None:
    done = run(f"import sys, simplicial_reg, numba; print([name for name in {HEAVY} if name in sys.modules])", tmp_path)
    assert "numba" in done.stdout
    done = run("import warnings, simplicial_reg; warnings.warn('something')", tmp_path)
    assert done.returncode == 1
    assert "UserWarning: something" in done.stderr


def test_beyond_torch_the_package_imports_itself_and_the_standard_library_only(tmp_path: Path) -> None:
    code = """if True:
        import sys, torch, numpy
        before = set(sys.modules)
        import simplicial_reg
        new = {name.partition(".")[0] for name in set(sys.modules) - before}
        print(sorted(new - set(sys.stdlib_module_names) - {"torch", "numpy"}))
    """
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['simplicial_reg']"


def test_every_public_name_is_there() -> None:
    for name in simplicial_reg.__all__:
        assert getattr(simplicial_reg, name) is not None
    assert len(set(simplicial_reg.__all__)) == len(simplicial_reg.__all__)


FIRST_CALLS = """if True:
    import torch, simplicial_reg
    points = torch.randn(8, 2, requires_grad=True)
    components, loops = simplicial_reg.rips_barcode(points, 1)
    components.death.sum().backward()
    simplicial_reg.rips_barcode(points, 1)
    print(len(components))
"""
ANNOUNCEMENT = re.compile(
    r"simplicial_reg: compiling \([\w .]+\); this happens once after installation and takes up to half a minute"
)


def test_compiling_is_announced_in_one_line_for_each_kernel_and_a_warm_cache_is_silent(tmp_path: Path) -> None:
    cache = tmp_path / "numba"
    cold = run(FIRST_CALLS, tmp_path, NUMBA_CACHE_DIR=str(cache))
    assert cold.returncode == 0, cold.stderr
    assert cold.stdout == "7\n"
    lines = cold.stderr.splitlines()
    # Lines appear for what takes longer than the patience of _announce; H1 takes several seconds on any machine.
    assert any("persistent cohomology" in line for line in lines)
    assert all(ANNOUNCEMENT.fullmatch(line) for line in lines), cold.stderr
    assert len(set(lines)) == len(lines)
    assert any(cache.rglob("*.nbc")), "nothing was kept on disk"
    # A machine that is busy with something else may load a compiled kernel so slowly that it looks like a compilation; not every time.
    warm = [run(FIRST_CALLS, tmp_path, NUMBA_CACHE_DIR=str(cache)) for _ in range(2)]
    assert all(done.stdout == "7\n" for done in warm)
    assert any(done.stderr == "" for done in warm), warm[0].stderr


def test_where_no_cache_can_be_written_the_call_works_or_says_what_to_set(tmp_path: Path) -> None:
    # A read-only installation for a user without a home, as in many containers: Numba tries to write a file in each place it knows.
    code = """if True:
        import tempfile

        def refuse(*arguments, **options):
            raise PermissionError("read-only")

        tempfile.TemporaryFile = refuse
        import torch, simplicial_reg
        print(len(simplicial_reg.rips_barcode(torch.randn(8, 2))[0]))
    """
    done = run(code, tmp_path)
    if done.returncode != 0:
        assert "NUMBA_CACHE_DIR" in done.stderr.splitlines()[-1], done.stderr
    else:
        assert done.stdout == "7\n"
