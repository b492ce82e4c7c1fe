"""``kernel``: Numba's compiler with what all kernels of the package share.

Kernels release the interpreter lock, so that plain threads can share work, and are kept on disk: beside the module, or in the user's cache
folder. Where neither can be written, they are compiled in every process, which is said once.

Numba keeps a kernel as long as the file that holds it stays the same, although the kernels that it calls, which are compiled into it, may
stand in other files; after an upgrade that changed only those, it would go on with the old ones. And two processes that compile
one kernel at the same moment for different types may leave the code of one under the name of the other. Both give wrong numbers without a
word, so here a kernel is kept as long as all files of kernels stay the same, and one that was kept for other types is not used.
"""

import functools
import hashlib
import sys
from importlib import resources

from numba import njit
from numba.core.caching import FunctionCache

__all__ = ["FILES", "kernel"]

# The files whose kernels call each other.
FILES = (
    "_point_kernels.py",
    "_rate_kernels.py",
    "engines/_blocked_kernels.py",
    "engines/_coboundary.py",
    "engines/_prim.py",
)

_said = False


def kernel(function=None, **options):
    """Compile ``function`` when it is first called; used as ``@kernel`` or ``@kernel(fastmath=...)``."""
    if function is None:
        return lambda function: kernel(function, **options)
    compiled = njit(nogil=True, **options)(function)
    try:
        compiled._cache = _Cache(function)  # what njit(cache=True) does, with another class
    except RuntimeError as error:
        if "cache" not in str(error):
            raise
        _say_once()
    return compiled


class _Cache(FunctionCache):
    """Numba's cache on disk for one kernel, which knows of the files of other kernels and looks at the types of what it finds."""

    def __init__(self, function):
        super().__init__(function)
        self._cache_file._source_stamp = (self._cache_file._source_stamp, _digest())

    def _load_overload(self, sig, target_context):
        found = super()._load_overload(sig, target_context)
        return found if found is not None and tuple(found.signature.args) == tuple(sig) else None


@functools.cache
def _digest():
    """A hash of all files of kernels; of an installation without sources it is that of nothing, as there they cannot change."""
    digest = hashlib.sha256()
    for name in FILES:
        file = resources.files("simplicial_reg").joinpath(name)
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _say_once():
    global _said
    if not _said:
        _said = True
        message = "simplicial_reg: no folder to keep compiled kernels in, so every process compiles them; set NUMBA_CACHE_DIR to one"
        print(message, file=sys.stderr, flush=True)
