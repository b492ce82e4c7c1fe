"""The runner: nothing is lost, nothing is done twice, and it does not matter where a cell ran or what went wrong with it."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from simplicial_reg.study import _board, _folder, runner
from simplicial_reg.study._folder import RecordFile, locked, read_records, read_study, settle
from simplicial_reg.study.protocol import choose, latest, plan, relevant
from simplicial_reg.study.record import Cell, Record
from simplicial_reg.study.runner import run
from tests.dask_cluster import dask_cluster
from tests.study_fake import counting_fake, fake, small_study

joblib = pytest.importorskip("joblib")

STUDY = small_study("one")
CELLS = 2 * 2 * (2 + 2)  # tasks, variants, configurations and seeds


def go(study, folder, run_cell=fake, **options):
    return run(study, folder, **{"progress": False, "run_cell": run_cell, "threads": 1, **options})


def lines(folder):
    """The records of a folder as text, without the order in which they came."""
    return sorted(record.line() for record in read_records(folder))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    go(STUDY, folder)
    return lines(folder)


# --- a study from beginning to end -------------------------------------------------------------------------------------------------


def test_a_study_runs_every_cell_once_and_keeps_its_settings(tmp_path, undisturbed):
    records = go(STUDY, tmp_path / "new" / "folder")
    assert len(records) == len(undisturbed) == CELLS
    assert sorted(record.line() for record in records) == lines(tmp_path / "new" / "folder") == undisturbed
    assert read_study(tmp_path / "new" / "folder").content() == STUDY.content()
    assert not (tmp_path / "new" / "folder" / ".running").exists()


def test_a_study_that_is_complete_runs_nothing(tmp_path, undisturbed):
    go(STUDY, tmp_path)

    def never(cell, **_):
        raise AssertionError(cell)

    assert len(go(STUDY, tmp_path, never)) == CELLS
    assert lines(tmp_path) == undisturbed


def test_two_jobs_find_what_one_finds(tmp_path, undisturbed):
    go(STUDY, tmp_path, jobs=2)
    assert lines(tmp_path) == undisturbed


def test_cells_can_be_run_without_a_protocol(tmp_path):
    cells = plan(STUDY)[:3]
    go([*cells, cells[0]], tmp_path)
    assert [record.cell for record in read_records(tmp_path)] == cells
    assert not (tmp_path / "study.json").exists()


def test_each_cell_has_its_share_of_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "cores", lambda: 8)
    seen = []

    def look(cell, **_):
        seen.append(torch.get_num_threads())
        return fake(cell)

    before = torch.get_num_threads()
    run(plan(STUDY)[:1], tmp_path, progress=False, run_cell=look)
    run(plan(STUDY)[1:2], tmp_path, progress=False, run_cell=look, threads=3)
    assert seen == [8, 3]
    assert torch.get_num_threads() == before


# --- cells that fail ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 2])
def test_cells_that_raise_are_recorded_and_stop_no_other(tmp_path, jobs):
    records = go(small_study("raises", "exits", "nan", tasks=("first",)), tmp_path, jobs=jobs)
    failed = {record.cell.variant: record for record in records if record.status == "failed"}
    assert {variant: record.error for variant, record in failed.items()} == {
        "raises": "ValueError: this variant raises, in file.py",
        "exits": "SystemExit: 3",
    }
    assert sum(record.cell.phase == "final" for record in records) == 2  # of the baseline alone


def test_a_cell_that_takes_its_process_with_it_is_recorded_and_stops_no_other(tmp_path):
    records = go(small_study("dies", "one", tasks=("first",), budget=1), tmp_path, jobs=2)
    failed = [record for record in records if record.status == "failed"]
    assert [record.cell.variant for record in failed] == ["dies"]
    assert failed[0].error == "the process that ran it died, for example for want of memory"
    assert sum(record.cell.phase == "final" for record in records) == 4


def test_failed_cells_are_run_again_only_if_that_is_asked_for(tmp_path):
    study = small_study("missing", tasks=("first",))
    go(study, tmp_path)
    assert choose(read_records(tmp_path))[("first", "model", "missing")] is None
    size = (tmp_path / "records.jsonl").stat().st_size
    go(study, tmp_path, data_dir=tmp_path)
    assert (tmp_path / "records.jsonl").stat().st_size == size
    records = go(study, tmp_path, data_dir=tmp_path, retry_failed=True)
    assert all(record.status == "done" for record in records)
    assert sum(record.cell.variant == "missing" for record in relevant(records)) == 4
    assert sum(record.status == "failed" for record in read_records(tmp_path)) == 2  # the file forgets nothing


# --- killed and interrupted --------------------------------------------------------------------------------------------------------


def program(folder, jobs=1, sleep=0.0):
    root = Path(__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.study_fake", str(folder), str(jobs)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "SLEEP": str(sleep)},
        stderr=subprocess.PIPE,
        text=True,
    )


def size_of(path):
    return path.stat().st_size if path.exists() else 0


def test_a_study_killed_five_times_at_random_moments_finds_what_an_undisturbed_one_finds(tmp_path):
    study = small_study("one", "two", "raises", budget=3, seeds=3, training={"sleep": 0.02})
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    go(study, whole)
    moments = random.Random(0)
    path = killed / "records.jsonl"
    for attempt in range(5):
        process = program(killed, jobs=1 + (attempt == 3), sleep=0.02)
        before, start = size_of(path), time.monotonic()
        while size_of(path) == before and process.poll() is None and time.monotonic() - start < 60:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        # The worst that a kill can leave: a line without its end.
        with path.open("ab") as file:
            file.write(path.read_bytes()[: moments.randrange(1, 60)])
    kept = {record.line() for record in read_records(killed)}
    assert 5 <= len(kept) < len(lines(whole))
    go(study, killed)
    assert lines(killed) == lines(whole)
    assert len(lines(killed)) == len(set(lines(killed)))
    assert [record.line() for record in relevant(read_records(killed))] == [
        record.line() for record in relevant(read_records(whole))
    ]


def test_ctrl_c_leaves_whole_records_and_the_next_call_goes_on(tmp_path, undisturbed):
    count = 0

    def interrupted(cell, **_):
        nonlocal count
        count += 1
        if count == 6:
            raise KeyboardInterrupt
        return fake(cell)

    with pytest.raises(KeyboardInterrupt):
        go(STUDY, tmp_path, interrupted)
    assert len(read_records(tmp_path)) == 5
    go(STUDY, tmp_path)
    assert lines(tmp_path) == undisturbed


def test_ctrl_c_stops_the_processes_of_several_jobs(tmp_path):
    process = program(tmp_path, jobs=2, sleep=0.1)
    start = time.monotonic()
    while size_of(tmp_path / "records.jsonl") == 0 and time.monotonic() - start < 60:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in said
    content = (tmp_path / "records.jsonl").read_bytes()
    assert content.endswith(b"\n")
    time.sleep(0.5)
    assert (tmp_path / "records.jsonl").read_bytes() == content
    assert 1 <= len(read_records(tmp_path)) < 48


def test_ctrl_c_during_a_write_comes_after_it(tmp_path, monkeypatch):
    sync = os.fsync

    def disturbed(descriptor):
        os.kill(os.getpid(), signal.SIGINT)
        sync(descriptor)

    def first(cell, **_):
        monkeypatch.setattr(os, "fsync", disturbed)
        return fake(cell)

    with pytest.raises(KeyboardInterrupt):
        go(STUDY, tmp_path, first)
    assert len(read_records(tmp_path)) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_worker_whose_study_is_gone_ends(tmp_path, monkeypatch):
    class Ended(BaseException):
        pass

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    cell = plan(STUDY)[0]
    assert runner._run_there(runner._Work(fake, None, 1, str(tmp_path), os.getppid()), cell).status == "done"
    with pytest.raises(Ended):
        runner._run_there(runner._Work(fake, None, 1, str(tmp_path), os.getppid() + 1), cell)


# --- the file of records -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1, 40, -1])
def test_a_line_without_its_end_is_cut_off_and_its_cell_is_run_again(tmp_path, undisturbed, kept):
    go(STUDY, tmp_path)
    path = tmp_path / "records.jsonl"
    content = path.read_bytes()
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    path.write_bytes(content[:last] + content[last:][:kept])
    assert len(read_records(tmp_path)) == CELLS - 1
    go(STUDY, tmp_path)
    assert lines(tmp_path) == undisturbed


def test_a_whole_line_that_is_no_record_is_an_error_that_names_it(tmp_path):
    go(STUDY, tmp_path)
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write('{"key": 1}\n')
    with pytest.raises(ValueError, match=rf"records.jsonl, line {CELLS + 1}: not a record.*delete the line"):
        go(STUDY, tmp_path)


def test_a_full_disk_is_said_and_leaves_whole_records(tmp_path, undisturbed):
    go(STUDY, tmp_path / "probe")
    room = size_of(tmp_path / "probe" / "records.jsonl") // 2
    folder = tmp_path / "full"
    folder.mkdir()
    settle(folder, STUDY)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # What a full disk does: as much of the line as there is room for is written, then an error.
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(OSError, match=r"a record could not be written .* make room and run the same command again"):
            go(STUDY, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    content = (folder / "records.jsonl").read_bytes()
    assert content.endswith(b"\n")
    assert 1 < len(read_records(folder)) < CELLS
    go(STUDY, folder)
    assert lines(folder) == undisturbed


def test_a_record_that_cannot_be_synchronised_is_taken_back(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with RecordFile(tmp_path) as file:
        file.append(fake(plan(STUDY)[0]))
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device") as refusal:
            file.append(fake(plan(STUDY)[1]))
    assert refusal.value.errno == errno.ENOSPC
    assert len(read_records(tmp_path)) == 1


def test_other_settings_in_the_same_folder_are_refused_with_what_differs(tmp_path):
    go(STUDY, tmp_path)
    with pytest.raises(ValueError, match="holds a study with other settings: seeds: 2 there, 3 here; choose another"):
        go(small_study("one", seeds=3), tmp_path)


def test_records_without_settings_are_refused(tmp_path):
    go(plan(STUDY)[:1], tmp_path)
    (tmp_path / "records.jsonl").rename(tmp_path / "kept")
    settle(tmp_path, STUDY)
    (tmp_path / "study.json").unlink()
    (tmp_path / "kept").rename(tmp_path / "records.jsonl")
    with pytest.raises(ValueError, match=r"has records.jsonl but no study.json that says what was run"):
        settle(tmp_path, STUDY)


@pytest.mark.parametrize(("content", "message"), [("{", "is not JSON"), ("[]", "must hold a JSON object; got list")])
def test_settings_that_cannot_be_read_are_refused(tmp_path, content, message):
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        settle(tmp_path, STUDY)


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no study: there is no study.json in it"):
        read_study(tmp_path)


# --- the lock ------------------------------------------------------------------------------------------------------------------------


def test_a_second_runner_in_the_same_folder_is_refused_and_told_who_is_there(tmp_path):
    with locked(tmp_path), pytest.raises(ValueError, match=rf"is in use: process {os.getpid()} on .* is running"):
        go(STUDY, tmp_path)
    assert len(go(STUDY, tmp_path)) == CELLS


def test_the_lock_of_a_killed_process_is_gone(tmp_path):
    process = program(tmp_path, sleep=0.1)
    while size_of(tmp_path / ".lock") == 0 and process.poll() is None:
        time.sleep(0.01)
    with pytest.raises(ValueError, match=f"process {process.pid} on"), locked(tmp_path):
        pass
    process.kill()
    process.communicate()
    with locked(tmp_path) as has_locks:
        assert has_locks


def test_a_file_system_without_locks_is_used_and_said(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(_folder.fcntl, "flock", none)
    go(plan(STUDY)[:1], tmp_path, progress=True)
    assert "this file system has no locks" in capsys.readouterr().err


# --- clusters ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed")
def test_a_dask_cluster_finds_what_this_process_finds(tmp_path, undisturbed):
    pytest.importorskip("distributed")
    with dask_cluster() as scheduler:
        go(STUDY, tmp_path, executor="dask", scheduler=scheduler)
    assert lines(tmp_path) == undisturbed


@pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed")
def test_on_a_dask_cluster_at_most_jobs_cells_are_handed_out(tmp_path, undisturbed, monkeypatch):
    distributed = pytest.importorskip("distributed")
    handed = []
    submit = distributed.Client.submit

    def counted(client, function, work, cell, **options):
        done = (tmp_path / "records.jsonl").read_bytes().count(b"\n")
        handed.append(len(handed) + 1 - done)
        return submit(client, function, work, cell, **options)

    monkeypatch.setattr(distributed.Client, "submit", counted)
    with dask_cluster() as scheduler:
        go(STUDY, tmp_path, executor="dask", scheduler=scheduler, jobs=3)
    assert lines(tmp_path) == undisturbed
    assert max(handed) == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed")
def test_a_cell_that_takes_a_dask_worker_with_it_is_recorded_and_stops_no_other(tmp_path):
    pytest.importorskip("distributed")
    study = small_study("dies", tasks=("first",), budget=1)
    with dask_cluster(allowed_failures=0) as scheduler:
        records = go(study, tmp_path, executor="dask", scheduler=scheduler, jobs=2)
    assert [(record.cell.variant, record.error) for record in records if record.status == "failed"] == [
        ("dies", runner.DIED)
    ]
    assert sum(record.cell.phase == "final" for record in records) == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed")
def test_a_dask_worker_of_several_threads_runs_one_cell_at_a_time(tmp_path, capsys):
    pytest.importorskip("distributed")
    with dask_cluster(threads=4) as scheduler:
        records = go(plan(STUDY), tmp_path, counting_fake, executor="dask", scheduler=scheduler, progress=True)
    assert len({record.costs["process"] for record in records}) == 1
    assert {record.costs["inside"] for record in records} == {1}
    assert "dask worker --nthreads 1" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed")
def test_a_scheduler_that_does_not_answer_is_said(tmp_path):
    pytest.importorskip("distributed")
    with pytest.raises(ValueError, match="scheduler must be the address of a dask scheduler"):
        go(STUDY, tmp_path, executor="dask")
    with pytest.raises(
        ValueError, match="no dask scheduler answers at 'nonsense://x:1'; start one with: dask scheduler"
    ):
        go(STUDY, tmp_path, executor="dask", scheduler="nonsense://x:1")


def test_ray_finds_what_this_process_finds_and_survives_a_cell_that_takes_its_worker_with_it(tmp_path, undisturbed):
    pytest.importorskip("ray")
    go(STUDY, tmp_path / "whole", executor="ray", jobs=2)
    assert lines(tmp_path / "whole") == undisturbed
    records = go(small_study("dies", tasks=("first",), budget=1), tmp_path / "dies", executor="ray", jobs=2)
    assert [(record.cell.variant, record.error) for record in records if record.status == "failed"] == [
        ("dies", runner.DIED)
    ]
    assert sum(record.cell.phase == "final" for record in records) == 2


@pytest.mark.parametrize(("executor", "module"), [("dask", "distributed"), ("ray", "ray")])
def test_an_executor_that_is_not_installed_is_said_with_the_remedy(tmp_path, monkeypatch, executor, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f'executor="{executor}" needs {executor}: pip install'):
        go(STUDY, tmp_path, executor=executor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "slurm"}, "executor must be one of 'local', 'dask', 'ray'; got 'slurm'"),
        ({"scheduler": "tcp://x"}, 'scheduler must be None with executor="local"'),
        ({"jobs": 0}, "jobs must be a whole number, at least 1; got 0"),
        ({"threads": 0}, "threads must be a whole number, at least 1; got 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        go(STUDY, tmp_path, **options)
    assert message in str(refusal.value)


# --- the board -----------------------------------------------------------------------------------------------------------------------


def test_without_a_terminal_every_finished_cell_is_one_line(tmp_path, capsys):
    go(small_study("raises", tasks=("first",)), tmp_path, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    said = shown.err.splitlines()
    assert len(said) == 6
    assert said[0].startswith("[1/8] first model none, tune ")
    assert ": held-out accuracy 0." in said[0]
    assert "; about 0 s left" in said[0]
    assert "failed (ValueError: this variant raises, in file.py)" in said[1]
    assert said[-1].startswith("[6/6] ")  # that nothing comes of the other variant is known by then


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_a_bar_for_a_running_cell_and_one_for_all():
    pytest.importorskip("rich")
    stream = _Terminal()
    board = _board.make_board(4, 1, 1, stream)
    cell = Cell("mrpc", "models/minilm/", "istar", "final", 3)
    with board:
        board.step(cell, {"step": 20, "steps": 40, "task_loss": 0.5})
        running = board.progress.tasks[1]
        assert (running.description, running.completed, running.total) == ("mrpc minilm istar, final 3", 20, 40)
        assert running.fields["state"] == "loss 0.500"
        board.step(cell, {"step": 30, "steps": 40, "selection": 0.75, "metric": "accuracy"})
        assert board.progress.tasks[1].fields["state"] == "accuracy 0.750"
        board.finish(Record(cell, "done", metric="accuracy", selection=0.8, costs={"seconds": 600.0}))
        board.step(cell, {"step": 40, "steps": 40})  # too late: no bar comes back
        assert [task.description for task in board.progress.tasks] == ["all cells"]
        assert board.progress.tasks[0].completed == 2
    assert "held-out accuracy 0.8000 in 10 min" in stream.getvalue()


def test_a_terminal_without_rich_gets_lines(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    stream = _Terminal()
    with _board.make_board(4, 0, 1, stream) as board:
        board.finish(Record(Cell("mrpc", "minilm", "none", "final", 1), "done", selection=None))
    assert stream.getvalue().startswith("[1/4] mrpc minilm none, final 1: held-out metric no number; about ")


def test_cells_in_other_processes_say_how_far_they_are(tmp_path):
    seen = []

    class Watcher(_board.NoBoard):
        def step(self, cell, state):
            seen.append((cell, state))

    cell = plan(STUDY)[0]
    with runner._watching(tmp_path, Watcher()) as watch:
        watch([cell])
        (tmp_path / f"{cell.key}.json").write_text(json.dumps({"step": 3, "steps": 9}))
        (tmp_path / "unknown.json").write_text("{}")
        start = time.monotonic()
        while not seen and time.monotonic() - start < 10:
            time.sleep(0.02)
    assert seen[0] == (cell, {"step": 3, "steps": 9})
    assert {found.key for found, _ in seen} == {cell.key}


def test_latest_is_what_run_returns(tmp_path):
    assert go(STUDY, tmp_path) == latest(read_records(tmp_path))
