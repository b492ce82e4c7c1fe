"""The one way to a dask cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["dask_client"]


@contextmanager
def dask_client(scheduler: str | None, extra: str) -> Iterator[Any]:
    """A client of the cluster whose scheduler has this address; ``extra`` is what to install where dask is missing."""
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError(f'executor="dask" needs dask: pip install "simplicial_reg[{extra}]"') from error
    if scheduler is None:
        raise ValueError('scheduler must be the address of a dask scheduler, such as "tcp://host:8786"; got None')
    try:
        client = Client(scheduler, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"scheduler: no dask scheduler answers at {scheduler!r}; start one with: dask scheduler"
        ) from error
    with client:
        yield client
