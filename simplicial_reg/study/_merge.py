"""Several folders of studies as one, for tasks that were run on different machines: their settings joined, their records together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from simplicial_reg._files import whole_file
from simplicial_reg.study._folder import RECORDS, SETTINGS, locked, read_records, read_study
from simplicial_reg.study.protocol import Study, joined, latest
from simplicial_reg.study.record import Record

__all__ = ["merge"]


def merge(folders: Sequence[Path], out: Path) -> list[Record]:
    """Write the settings and records of several folders into another, which is then the folder of a study like any.

    A cell that is in several is there once: the record that is not of a failure, and of several the one of the folder that was named last.

    Args:
        folders: of studies whose settings go together, see `simplicial_reg.study.protocol.joined`.
        out: another folder. What is there is replaced if all of its records are among those of the folders.

    Returns:
        The records.

    Raises:
        ValueError: if the settings contradict each other, a folder holds no study, or ``out`` is one of the folders or holds records that
            are in none of them.
        OSError: if something cannot be read or written.
    """
    if out.resolve() in {folder.resolve() for folder in folders}:
        raise ValueError(
            f"--out must be a folder of its own for what comes together; {out} is one of those to be reported"
        )
    study = _joined(folders)
    records = latest(record for folder in folders for record in read_records(folder))
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        lost = {record.cell.key for record in read_records(out)} - {record.cell.key for record in records}
        if lost:
            raise ValueError(f"{out} holds {len(lost)} records that are in none of the folders; choose another --out")
        with whole_file(out / RECORDS) as draft:
            draft.write_text("".join(f"{record.line()}\n" for record in records), encoding="utf-8")
        with whole_file(out / SETTINGS) as draft:
            draft.write_text(json.dumps(study.content(), indent=2) + "\n", encoding="utf-8")
    return records


def _joined(folders: Sequence[Path]) -> Study:
    study = read_study(folders[0])
    for folder in folders[1:]:
        other = read_study(folder)
        try:
            study = joined(study, other)
        except ValueError as error:
            raise ValueError(f"{folder} and {folders[0]} are not parts of one study: {error}") from error
    return study
