"""Runs the cells of a study that have not been run yet, here or on a cluster, and keeps one record of each.

``local`` runs cells in this process one after the other, or in ``jobs`` processes of joblib's loky; ``dask`` and ``ray`` hand them to a
cluster. Only this process writes, so it does not matter where a cell ran. It can be killed at any time: what is recorded is not run
again, and what is to be run follows from the settings and the records alone (`simplicial_reg.study.protocol.pending`), so that the
result is the same.

A cell that raises is recorded as failed. So is one that takes its process with it, for example for want of memory: a cluster says
which it was, and loky's is found by running those that were under way each by itself. With one local job its process is this
one, and the study ends with it.

Cells seed torch's global generator and count on being alone with it: one process runs one cell at a time, whatever the cluster thinks.
Sums of floating-point numbers depend on the number of threads, so that results agree to the last bit for equal ``threads`` only.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch

from simplicial_reg._checks import check_choice
from simplicial_reg._dask import dask_client
from simplicial_reg._files import whole_file
from simplicial_reg.study._board import NoBoard, make_board
from simplicial_reg.study._folder import RecordFile, locked, read_records, read_study, settle
from simplicial_reg.study.protocol import Study, choose, groups, latest, pending, plan
from simplicial_reg.study.record import Cell, Record

__all__ = ["EXECUTORS", "RunCell", "cores", "read_records", "read_study", "run"]

EXECUTORS = ("local", "dask", "ray")
RUNNING = ".running"  # one small file for each running cell: how far it is
GLANCE = 0.5  # seconds between two looks at them
DIED = "the process that ran it died, for example for want of memory"

_ALONE = threading.Lock()


class RunCell(Protocol):
    """Runs one cell: `simplicial_reg.study.training.run_cell`, or what a test puts in its place."""

    def __call__(
        self, cell: Cell, *, data_dir: Path | str | None = None, on_step: Callable[[dict[str, Any]], None] | None = None
    ) -> Record:
        """The record of the cell."""
        ...


@dataclass(frozen=True)
class _Work:
    """What a worker is given besides the cell."""

    run_cell: RunCell
    data_dir: str | None
    threads: int | None
    running: str
    parent: int | None  # whose end is the worker's end


def run(
    study: Study | Sequence[Cell],
    folder: Path | str,
    *,
    jobs: int = 1,
    threads: int | None = None,
    executor: str = "local",
    scheduler: str | None = None,
    data_dir: Path | str | None = None,
    retry_failed: bool = False,
    progress: bool = True,
    run_cell: RunCell | None = None,
) -> list[Record]:
    """Run what is missing of a study.

    Args:
        study: its settings, or cells that are run without a protocol.
        folder: where records go; it is made if it is not there. Settings that are in it must be the same.
        jobs: how many cells run at the same time; on a cluster at most that many, and 1 stands for all there is room for.
        threads: of torch, for each cell; None: the cores of this machine divided by jobs, or for a cluster as its workers have it.
        executor: ``"local"``, ``"dask"`` or ``"ray"``.
        scheduler: address of the cluster: for dask ``tcp://host:8786``, for ray ``auto`` or ``ray://host:10001``. None starts a ray of
            its own on this machine; dask needs one.
        data_dir: folder of the data, where the cell runs.
        retry_failed: run failed cells again.
        progress: show on stderr how far it is.
        run_cell: what runs a cell; None: `simplicial_reg.study.training.run_cell`.

    Returns:
        One record for each cell, see `simplicial_reg.study.protocol.latest`.

    Raises:
        ValueError: for an unknown executor, a folder with another study or in use by another process, records that cannot be read.
        ImportError: if the executor is not installed.
        OSError: if a record cannot be written.
        KeyboardInterrupt: after Ctrl-C; the records are whole, and the next call goes on.
    """
    check_choice("executor", executor, EXECUTORS)
    _check_jobs(jobs, threads)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        has_locks = stack.enter_context(locked(folder))
        if isinstance(study, Study):
            settle(folder, study)
        file = stack.enter_context(RecordFile(folder))
        records = read_records(folder)
        known = [record for record in records if not retry_failed or record.status == "done"]
        if not _next_cells(study, known):
            return latest(records)
        finished = len({record.cell.key for record in known})
        board = make_board(_total(study, known), finished, jobs) if progress else NoBoard()
        stack.enter_context(board)
        if not has_locks:
            board.note(f"{folder}: this file system has no locks; see to it that no second study runs in this folder")
        running = stack.enter_context(_running_folder(folder))
        work = _Work(
            run_cell or _trainer(),
            None if data_dir is None else str(data_dir),
            threads or (max(1, cores() // jobs) if executor == "local" else None),
            str(running),
            os.getpid() if executor == "local" and jobs > 1 else None,
        )
        pool = stack.enter_context(_POOLS[executor](work, jobs, scheduler, board))
        while cells := _next_cells(study, known):
            board.expect(_total(study, known))
            # Closed before an error or Ctrl-C leaves this block: that stops what is running.
            with closing(pool(cells)) as results:
                for record in results:
                    with _uninterrupted():
                        file.append(record)
                        known.append(record)
                    (running / f"{record.cell.key}.json").unlink(missing_ok=True)
                    board.finish(record)
    return latest([*records, *known])


def _trainer() -> RunCell:
    from simplicial_reg.study.training import run_cell  # transformers is imported when it is needed only

    return run_cell


def _next_cells(study: Study | Sequence[Cell], known: Sequence[Record]) -> list[Cell]:
    if isinstance(study, Study):
        return pending(study, known)
    keys = {record.cell.key for record in known}
    return [cell for cell in {cell.key: cell for cell in study}.values() if cell.key not in keys]


def _total(study: Study | Sequence[Cell], known: Sequence[Record]) -> int:
    """How many cells there will be in the end, as far as one can tell."""
    if not isinstance(study, Study):
        return len({cell.key for cell in study} | {record.cell.key for record in known})
    hopeless = sum(choice is None for choice in choose(known).values())
    return len(plan(study)) + (len(groups(study)) - hopeless) * study.seeds


def _check_jobs(jobs: object, threads: object) -> None:
    for argument, value in (("jobs", jobs), ("threads", 1 if threads is None else threads)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{argument} must be a whole number, at least 1; got {value!r}")


def cores() -> int:
    """Cores that this process may use, which in a container are fewer than those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C back until the block is through."""
    held: list[int] = []

    def hold(number: int, _: FrameType | None) -> None:
        held.append(number)

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield  # signals are delivered to the main thread
        return
    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        raise KeyboardInterrupt


@contextmanager
def _running_folder(folder: Path) -> Iterator[Path]:
    path = folder / RUNNING
    shutil.rmtree(path, ignore_errors=True)  # of a run that was killed
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


# --- in the worker ---------------------------------------------------------------------------------------------------------------


def _run_there(work: _Work, cell: Cell) -> Record:
    """Runs a cell in another process, and reports how far it is through a file."""
    path = Path(work.running) / f"{cell.key}.json"
    shown = -math.inf

    def on_step(state: dict[str, Any]) -> None:
        nonlocal shown
        if work.parent is not None and os.getppid() != work.parent:
            os._exit(1)  # the study was killed: nobody waits for the result
        if (now := time.monotonic()) - shown >= GLANCE:
            shown = now
            # No folder of this name on another machine, or no room on the disk: then the cell has no bar, and that is all.
            with suppress(OSError, TypeError, ValueError), whole_file(path) as draft:
                draft.write_text(json.dumps(state))

    on_step({})
    return _run_here(work, cell, on_step)


def _run_here(work: _Work, cell: Cell, on_step: Callable[[dict[str, Any]], None]) -> Record:
    before = torch.get_num_threads()
    with _ALONE:
        if work.threads is not None:
            torch.set_num_threads(work.threads)
        try:
            return work.run_cell(cell, data_dir=work.data_dir, on_step=on_step)
        except (Exception, SystemExit) as error:
            return _failed(cell, f"{type(error).__name__}: {error}")
        finally:
            torch.set_num_threads(before)


def _failed(cell: Cell, error: str) -> Record:
    # Of a path its last part is enough: reports are published, and the rest is of this machine.
    return Record(cell, "failed", error=re.sub(r"(?<![\w/:])/(?:[^\s/'\"]+/)+", "", error))


# --- pools: cells to records, in the order in which they are done ----------------------------------------------------------------

Pool = Callable[[Iterable[Cell]], Iterator[Record]]


@contextmanager
def _local(work: _Work, jobs: int, scheduler: str | None, board: NoBoard) -> Iterator[Any]:
    if scheduler is not None:
        raise ValueError(f'scheduler must be None with executor="local"; got {scheduler!r}')
    if jobs == 1:
        yield lambda cells: _one_by_one(work, cells, board)
        return
    with _watching(Path(work.running), board) as watch:
        yield lambda cells: _in_processes(work, jobs, watch(cells), board)


def _one_by_one(work: _Work, cells: Iterable[Cell], board: NoBoard) -> Iterator[Record]:
    for cell in cells:
        board.step(cell, {})
        yield _run_here(work, cell, lambda state, cell=cell: board.step(cell, state))  # type: ignore[misc]


def _in_processes(work: _Work, jobs: int, cells: list[Cell], board: NoBoard) -> Iterator[Record]:
    left = {cell.key: cell for cell in cells}
    while left:
        try:
            for record in _loky(work, jobs, list(left.values())):
                del left[record.cell.key]
                yield record
        except BrokenProcessPool:
            under_way = [cell for cell in left.values() if (Path(work.running) / f"{cell.key}.json").exists()]
            board.note("a worker process died; the cells that were under way are run again, each by itself")
            for cell in under_way or list(left.values())[:jobs]:
                del left[cell.key]
                yield _by_itself(work, cell)


def _loky(work: _Work, jobs: int, cells: list[Cell]) -> Iterator[Record]:
    import joblib

    with joblib.parallel_config(backend="loky", inner_max_num_threads=work.threads):
        parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs")
        with closing(parallel(joblib.delayed(_run_there)(work, cell) for cell in cells)) as results:
            yield from results


def _by_itself(work: _Work, cell: Cell) -> Record:
    try:
        # Two processes, of which one has nothing to do: joblib would run a single one in this process.
        return next(_loky(work, 2, [cell]))
    except BrokenProcessPool:
        return _failed(cell, DIED)


@contextmanager
def _dask(work: _Work, jobs: int, scheduler: str | None, board: NoBoard) -> Iterator[Any]:
    with dask_client(scheduler, "study,dask") as client, _watching(Path(work.running), board) as watch:
        if any(threads > 1 for threads in client.nthreads().values()):
            board.note("a process runs one cell at a time; start workers with: dask worker --nthreads 1")
        yield lambda cells: _on_dask(work, client, None if jobs == 1 else jobs, watch(cells))


def _on_dask(work: _Work, client: Any, most: int | None, cells: list[Cell]) -> Iterator[Record]:
    # Not through joblib, whose dask backend waits for ever when a cell has taken its worker with it.
    from distributed import KilledWorker, as_completed

    waiting, suspects = iter(cells), []
    running = {client.submit(_run_there, work, cell, pure=False): cell for cell in islice(waiting, most)}
    completed = as_completed(list(running), loop=client.loop)
    try:
        for future in completed:
            cell = running.pop(future)
            if isinstance(future.exception(), KilledWorker):
                suspects.append(cell)
            else:
                yield _of_dask(future, cell)
            for following in islice(waiting, 1):
                future = client.submit(_run_there, work, following, pure=False)
                running[future] = following
                completed.add(future)
        for (
            cell
        ) in suspects:  # of the cells that a worker held when it died, the guilty one is known when each runs by itself
            future = client.submit(_run_there, work, cell, pure=False)
            running[future] = cell
            died = isinstance(future.exception(), KilledWorker)
            yield _failed(cell, DIED) if died else _of_dask(future, cell)
    finally:
        client.cancel(list(running))


def _of_dask(future: Any, cell: Cell) -> Record:
    error = future.exception()
    if error is not None:
        return _failed(cell, f"{type(error).__name__}: {error}")
    record: Record = future.result()
    return record


@contextmanager
def _ray(work: _Work, jobs: int, scheduler: str | None, board: NoBoard) -> Iterator[Any]:
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            'executor="ray" needs ray: pip install ray; it has no build for some versions of Python, where executor="dask" '
            "does the same"
        ) from error
    started = not ray.is_initialized()
    if started:
        local = {"num_cpus": jobs, "include_dashboard": False} if scheduler is None else {}
        try:
            ray.init(address=scheduler, log_to_driver=False, logging_level="warning", **local)
        except (ConnectionError, ValueError) as error:
            raise ValueError(f"scheduler: no ray answers at {scheduler!r}; start one with: ray start --head") from error
    try:
        with _watching(Path(work.running), board) as watch:
            yield lambda cells: _on_ray(work, ray, None if jobs == 1 else jobs, watch(cells))
    finally:
        if started:
            ray.shutdown()


def _on_ray(work: _Work, ray: Any, most: int | None, cells: list[Cell]) -> Iterator[Record]:
    # Not through joblib, whose ray backend gives results in batches, and none once a cell has taken its worker with it.
    task = ray.remote(max_retries=0)(_run_there)
    waiting = iter(cells)
    running = {task.remote(work, cell): cell for cell in islice(waiting, most)}
    try:
        while running:
            (reference,), _ = ray.wait(list(running), num_returns=1)
            cell = running.pop(reference)
            try:
                yield ray.get(reference)
            except ray.exceptions.WorkerCrashedError:
                yield _failed(cell, DIED)
            except ray.exceptions.RayError as error:
                yield _failed(cell, f"{type(error).__name__}: {error}")
            running.update((task.remote(work, following), following) for following in islice(waiting, 1))
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


_POOLS: dict[str, Callable[[_Work, int, str | None, NoBoard], Any]] = {"local": _local, "dask": _dask, "ray": _ray}


@contextmanager
def _watching(running: Path, board: NoBoard) -> Iterator[Callable[[list[Cell]], list[Cell]]]:
    """Shows on the board what the files of running cells say; the function tells it which cells there are."""
    cells: dict[str, Cell] = {}
    over = threading.Event()

    def watch(more: list[Cell]) -> list[Cell]:
        cells.update((cell.key, cell) for cell in more)
        return more

    def look() -> None:
        while not over.wait(GLANCE):
            for path in running.glob("*.json"):
                if path.stem in cells:
                    with suppress(OSError, ValueError):  # it is over by now
                        board.step(cells[path.stem], json.loads(path.read_text()))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield watch
    finally:
        over.set()
        watcher.join()
