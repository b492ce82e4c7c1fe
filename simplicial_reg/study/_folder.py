"""The folder of a study: its settings, its records, and the lock that keeps a second runner out.

``study.json`` says what the study is, ``records.jsonl`` what has been run. A record is appended by one write of a whole line and is on
the disk before the next begins, so a program that is killed leaves at most one line without an end, which the next start cuts off.
The lock is held by the operating system for as long as the process lives: there are no stale ones.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from simplicial_reg._files import whole_file
from simplicial_reg.study.protocol import Study, differences
from simplicial_reg.study.record import Record

__all__ = ["RECORDS", "SETTINGS", "RecordFile", "locked", "read_records", "read_study", "settle"]

SETTINGS = "study.json"
RECORDS = "records.jsonl"
LOCK = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # a network file system that has none


# --- records -------------------------------------------------------------------------------------------------------------------


def read_records(folder: Path | str) -> list[Record]:
    """The records of a study, in the order in which they came; a last line without an end is left out.

    Args:
        folder: the folder of the study.

    Returns:
        The records; none if nothing has been run yet.

    Raises:
        ValueError: if a whole line is not a record; it says which.
    """
    path = Path(folder) / RECORDS
    try:
        whole, newline, _ = path.read_bytes().rpartition(b"\n")
    except FileNotFoundError:
        return []
    records = []
    for number, line in enumerate((whole + newline).splitlines(), start=1):
        try:
            records.append(Record.parse(line.decode()))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}; delete the line and its cell is run again") from error
    return records


class RecordFile:
    """The file to which records are appended; a context manager.

    Args:
        folder: the folder of the study, which exists.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORDS

    def __enter__(self) -> RecordFile:
        new = not self.path.exists()
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        if new:
            _sync_folder(self.path.parent)
        self._cut_torn_line()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def append(self, record: Record) -> None:
        """Write a record and wait until it is on the disk; the file holds all of the line or nothing of it.

        Raises:
            OSError: if it cannot be written, for example because the disk is full.
        """
        line = record.line().encode() + b"\n"
        size = os.fstat(self.descriptor).st_size
        try:
            written = os.write(self.descriptor, line)
            while written < len(line):  # the disk is full, which the next write says
                written += os.write(self.descriptor, line[written:])
            os.fsync(self.descriptor)
        except OSError as error:
            with suppress(OSError):  # then the next start cuts it off
                os.ftruncate(self.descriptor, size)
            raise OSError(
                error.errno,
                f"a record could not be written ({error.strerror}); those before it are whole: make room and run the same "
                "command again",
                str(self.path),
            ) from error

    def _cut_torn_line(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.ftruncate(self.descriptor, whole)
            os.fsync(self.descriptor)


def _sync_folder(folder: Path) -> None:
    # The name of a new file is on the disk only when its folder is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- settings ------------------------------------------------------------------------------------------------------------------


def settle(folder: Path, study: Study) -> None:
    """Write the settings of a study into its folder, or check that they are those that are there.

    Raises:
        ValueError: if the folder holds another study; it says what differs.
    """
    path = folder / SETTINGS
    if not path.exists():
        if (folder / RECORDS).exists():
            raise ValueError(f"{folder} has {RECORDS} but no {SETTINGS} that says what was run; choose another folder")
        with whole_file(path) as draft:
            draft.write_text(json.dumps(study.content(), indent=2) + "\n")
        return
    found = differences(_settings(path), study.content())
    if found:
        raise ValueError(f"{folder} holds a study with other settings: {'; '.join(found)}; choose another folder")


def read_study(folder: Path | str) -> Study:
    """The settings of the study in a folder.

    Raises:
        ValueError: if there are none, or they cannot be read.
    """
    path = Path(folder) / SETTINGS
    if not path.is_file():
        raise ValueError(f"{folder} holds no study: there is no {SETTINGS} in it")
    return Study.parse(_settings(path))


def _settings(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object; got {type(content).__name__}")
    return content


# --- the lock --------------------------------------------------------------------------------------------------------------------


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Holds the folder for this process; gives whether the file system has locks at all.

    Raises:
        ValueError: if another process holds it; it says which.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield _take(descriptor, folder)
    finally:
        os.close(
            descriptor
        )  # gives the lock back; the file stays, since deleting it could take it from a third process


def _take(descriptor: int, folder: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
        raise ValueError(
            f"{folder} is in use: {holder} is running the study in it; wait for it, or choose another folder"
        ) from error
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        raise
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return True
