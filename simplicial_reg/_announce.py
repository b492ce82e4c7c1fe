"""Says what takes so long when a kernel is compiled for the first time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["announced"]

PATIENCE = 1.5  # seconds; loading a compiled kernel from disk takes a few tenths
_seen: set[tuple[object, ...]] = set()  # kernels called in this process, so that later calls cost no timer


@contextmanager
def announced(*kernel: object) -> Iterator[None]:
    """Around a kernel call: prints one line to stderr if it is this process's first and takes long enough to be a compilation."""
    if kernel in _seen:
        yield
        return
    timer = threading.Timer(PATIENCE, _say, args=(" ".join(map(str, kernel)),))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        _seen.add(kernel)


def _say(kernel: str) -> None:
    message = (
        f"simplicial_reg: compiling ({kernel}); this happens once after installation and takes up to half a minute"
    )
    print(message, file=sys.stderr, flush=True)
