"""Work shared over plain Python threads: the kernels release the interpreter lock.

Threads are started for one call and joined before it returns. Numba's own thread pools are not used because they survive the
call: they break in forked data-loader workers and when two Python threads enter them at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

__all__ = ["share_work"]

WORTH_A_THREAD = 1_000_000  # elementary operations; starting and joining a thread costs about as much as 100,000


def share_work(work: Callable[[int, int], None], items: int, operations: int) -> None:
    """Run ``work(first, step)`` for ``first`` in ``range(step)``, one thread each; the thread does ``range(first, items, step)``.

    Uses at most ``torch.get_num_threads()`` threads, and one where ``operations`` (in total) would not repay a second.
    """
    step = max(1, min(torch.get_num_threads(), items, operations // WORTH_A_THREAD))
    if step == 1:
        work(0, 1)
        return
    failures: list[BaseException] = []

    def run(first: int) -> None:
        try:
            work(first, step)
        except BaseException as failure:  # handed to the caller below
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(first,)) for first in range(1, step)]
    for thread in threads:
        thread.start()
    run(0)
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
