"""Python programs that tests run, and how the ranks of a group leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import torch.distributed as dist

__all__ = ["ROOT", "leave_together", "output_of", "output_of_ranks"]

ROOT = Path(__file__).parents[1]


def output_of(*arguments: object, cwd: Path = ROOT, seconds: float = 300, **environment: str) -> str:
    """What a program prints. It and all the processes that it started have ended then, whatever state they were in."""
    with subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, said = process.communicate(timeout=seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, said[-5000:]
    return printed


def output_of_ranks(ranks: int, module: str, *arguments: object) -> str:
    """What so many processes print that torchrun starts."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks)
    return output_of(*launcher, "-m", module, *arguments)


def leave_together() -> None:
    """End this rank when all are through.

    Neither may leave while another still talks to it, nor take down the interpreter under gloo's threads: one that then waits for the
    interpreter's lock, to let go of a tensor, aborts ("terminate called without an active exception").
    """
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)
