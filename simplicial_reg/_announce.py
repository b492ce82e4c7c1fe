"""Says what takes so long when a kernel is compiled for the first time."""

from __future__ import annotations

import sys
import threading

__all__ = ["announced"]

PATIENCE = 1.5  # seconds; loading a compiled kernel from disk takes a few tenths
_seen: set[tuple[object, ...]] = set()  # kernels called in this process, so that later calls cost no timer


class announced:  # used like a function, and quicker than contextlib.contextmanager, which counts here
    """Around a kernel call: prints one line to stderr if it is this process's first and lasts long enough to be a compilation."""

    __slots__ = ("kernel", "timer")

    def __init__(self, *kernel: object) -> None:
        self.kernel = kernel
        self.timer = None if kernel in _seen else threading.Timer(PATIENCE, _say, args=(kernel,))

    def __enter__(self) -> None:
        if self.timer is not None:
            self.timer.daemon = True
            self.timer.start()

    def __exit__(self, *_: object) -> None:
        if self.timer is not None:
            self.timer.cancel()
            _seen.add(self.kernel)


def _say(kernel: tuple[object, ...]) -> None:
    name = " ".join(map(str, kernel))
    message = f"simplicial_reg: compiling ({name}); this happens once after installation and takes up to half a minute"
    print(message, file=sys.stderr, flush=True)
