"""A folder has one writer at a time, and a lock ends with its process."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pydistill._util.files import WriteError
from pydistill._util.layout import LOCK, RESULTS_LOCK
from pydistill._util.locking import only_writer
from pydistill.errors import InputError
from pydistill.evaluation import evaluations_file as evaluations
from pydistill.evaluation.evaluate import Evaluation
from pydistill.runs.folder import RunFolder

HOLD = """
import sys, time
from pathlib import Path
sys.modules["torch"] = None  # slow to import, and not needed here
import fcntl, os
descriptor = os.open(Path(sys.argv[1]) / ".lock", os.O_RDWR | os.O_CREAT)
fcntl.flock(descriptor, fcntl.LOCK_EX)
os.write(descriptor, str(os.getpid()).encode())
print("held", flush=True)
time.sleep(60)
"""


def test_folder_locked_by_another_process(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"{holder.pid}"), RunFolder(tmp_path).opened():
            pass
    finally:
        holder.kill()
        holder.communicate()
    with RunFolder(tmp_path).opened():  # the lock ended with its process
        assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"


def test_lock_excludes_the_same_process(tmp_path: Path) -> None:
    with only_writer(tmp_path / "new"):
        with pytest.raises(InputError, match=f"{os.getpid()}"), only_writer(tmp_path / "new"):
            pass
        with only_writer(tmp_path / "other"):
            pass
    with only_writer(tmp_path / "new"):
        pass


def test_waiting_writer_enters_after_the_other_process_ends(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        entered = threading.Event()

        def wait() -> None:
            with only_writer(tmp_path, wait=True):
                entered.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not entered.wait(0.2)
    finally:
        holder.kill()
        holder.communicate()
    waiting.join(timeout=60)
    assert entered.is_set()


def test_concurrent_evaluations_lose_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow read lets the evaluations overlap between reading and writing the file."""
    read = evaluations.read_evaluations

    def slowly(run: Path, name: str) -> Any:
        rows = read(run, name)
        time.sleep(0.05)
        return rows

    monkeypatch.setattr(evaluations, "read_evaluations", slowly)
    evaluations_to_add = [Evaluation(f"network {number}", (0.5,), 1.0) for number in range(6)]
    with RunFolder(tmp_path).opened(), ThreadPoolExecutor(6) as pool:  # while the run is being written
        for future in [pool.submit(evaluations.add_evaluations, tmp_path, [row]) for row in evaluations_to_add]:
            future.result()
    assert {row["model"] for row in read(tmp_path)} == {row.model for row in evaluations_to_add}


def test_error_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="inside"), only_writer(tmp_path):
        raise RuntimeError("inside")
    with only_writer(tmp_path):
        pass


def test_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unavailable)
    with pytest.raises(WriteError), only_writer(tmp_path):
        pass


@pytest.mark.parametrize("name", [LOCK, RESULTS_LOCK])
@pytest.mark.parametrize("exists", [True, False])
def test_lock_does_not_follow_links(name: str, exists: bool, tmp_path: Path) -> None:
    """A folder created by another user may hold links to this user's files."""
    victim, folder = tmp_path / "victim", tmp_path / "folder"
    folder.mkdir()
    (folder / name).symlink_to(victim)
    if exists:
        victim.write_text("precious")
    with pytest.raises(WriteError), only_writer(folder, name=name):
        pass
    assert victim.exists() == exists
    assert not exists or victim.read_text() == "precious"


def test_lock_that_is_not_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOCK)
    with pytest.raises(WriteError), only_writer(tmp_path):
        pass


@pytest.mark.parametrize("text", ["precious", "1234 precious", "12\n34\n", "1" * 40 + "x"])
def test_file_with_other_content_is_no_lock(text: str, tmp_path: Path) -> None:
    lock = tmp_path / LOCK
    lock.write_text(text)
    with pytest.raises(WriteError), only_writer(tmp_path):
        pass
    assert lock.read_text() == text
