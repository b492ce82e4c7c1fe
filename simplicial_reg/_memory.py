"""How much memory there is."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["available_memory"]


def available_memory() -> int | None:
    """Bytes that can be taken without swapping, and within the container's limit if there is one; None if nobody says."""
    limits = [limit for limit in (_from_meminfo(), _from_control_group()) if limit is not None]
    return min(limits, default=None)


def _from_meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        pass
    try:  # not Linux: what is built in, for want of better
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (OSError, ValueError, AttributeError):
        return None


def _from_control_group(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    try:
        limit = int((folder / "memory.max").read_text())  # "max" if there is none
        used = int((folder / "memory.current").read_text())
        statistics = (folder / "memory.stat").read_text().splitlines()
        cache = next(int(line.split()[1]) for line in statistics if line.startswith("inactive_file "))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return limit - used + cache  # cached files make room when asked
