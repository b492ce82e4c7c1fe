"""``kernel``: Numba's compiler with what all kernels of the package share.

Kernels release the interpreter lock, so that plain threads can share work, and are kept on disk: beside the module, or in the user's cache
folder. Where neither can be written, they are compiled in every process, which is said once.
"""

import sys

from numba import njit

__all__ = ["kernel"]

_said = False


def kernel(function=None, **options):
    """Compile ``function`` when it is first called; used as ``@kernel`` or ``@kernel(fastmath=...)``."""
    if function is None:
        return lambda function: kernel(function, **options)
    try:
        return njit(nogil=True, cache=True, **options)(function)
    except RuntimeError as error:
        if "cache" not in str(error):
            raise
        _say_once()
        return njit(nogil=True, **options)(function)


def _say_once():
    global _said
    if not _said:
        _said = True
        message = "simplicial_reg: no folder to keep compiled kernels in, so every process compiles them; set NUMBA_CACHE_DIR to one"
        print(message, file=sys.stderr, flush=True)
