"""A dask cluster in processes of its own, all of which end with the test, whatever state they are in.

As a program it starts one, prints its address and waits: ``python -m tests.dask_cluster WORKERS THREADS ALLOWED_FAILURES``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[1]


@contextmanager
def dask_cluster(workers: int = 1, threads: int = 1, allowed_failures: int = 3) -> Iterator[str]:
    """The address of a cluster's scheduler; a task may take ``allowed_failures`` workers with it before the cluster gives it up."""
    program = [sys.executable, "-m", "tests.dask_cluster", *map(str, (workers, threads, allowed_failures))]
    process = subprocess.Popen(
        program,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # so that the workers can be ended together with their parent
    )
    with process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address.startswith("tcp://"), "no cluster was started"
            yield address
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def die(*arguments: object) -> NoReturn:
    """A task that takes its worker with it."""
    os._exit(1)


def main(workers: int, threads: int, allowed_failures: int) -> None:
    import dask
    from distributed import LocalCluster

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": allowed_failures}),
        LocalCluster(n_workers=workers, threads_per_worker=threads, dashboard_address=None) as cluster,
    ):
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
