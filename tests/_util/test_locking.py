"""One writer of a folder at a time, and no lock that outlives its process."""

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
from pydistill._util.layout import EVALUATIONS_LOCK, LOCK
from pydistill._util.locking import only_writer
from pydistill.errors import InputError
from pydistill.evaluation import evaluations_file as evaluations
from pydistill.evaluation.evaluate import Evaluation
from pydistill.runs.folder import RunFolder

HOLD = """
import sys, time
from pathlib import Path
sys.modules["torch"] = None  # it is slow to import, and a lock needs none
import fcntl, os
descriptor = os.open(Path(sys.argv[1]) / ".lock", os.O_RDWR | os.O_CREAT)
fcntl.flock(descriptor, fcntl.LOCK_EX)
os.write(descriptor, str(os.getpid()).encode())
print("held", flush=True)
time.sleep(60)
"""


def test_a_folder_that_another_process_writes(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"{holder.pid}"), RunFolder(tmp_path).opened():
            pass
    finally:
        holder.kill()
        holder.communicate()
    with RunFolder(tmp_path).opened():  # it died with its process
        assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"


def test_the_same_process_is_not_let_in_twice_either(tmp_path: Path) -> None:
    with only_writer(tmp_path / "new"):
        with pytest.raises(InputError, match=f"{os.getpid()}"), only_writer(tmp_path / "new"):
            pass
        with only_writer(tmp_path / "other"):
            pass
    with only_writer(tmp_path / "new"):
        pass


def test_who_waits_is_let_in_when_the_other_has_ended(tmp_path: Path) -> None:
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


def test_two_evaluations_at_once_lose_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each appends while the other may have read and not yet written."""
    read = evaluations.read_evaluations

    def slowly(run: Path) -> Any:
        rows = read(run)
        time.sleep(0.05)
        return rows

    monkeypatch.setattr(evaluations, "read_evaluations", slowly)
    found = [Evaluation(f"network {number}", (0.5,), 1.0) for number in range(6)]
    with RunFolder(tmp_path).opened(), ThreadPoolExecutor(6) as several:  # while the run is being written
        for done in [several.submit(evaluations.add_evaluations, tmp_path, [row]) for row in found]:
            done.result()
    assert {row["model"] for row in read(tmp_path)} == {row.model for row in found}


def test_an_error_inside_gives_the_folder_free(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="inside"), only_writer(tmp_path):
        raise RuntimeError("inside")
    with only_writer(tmp_path):
        pass


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unavailable)
    with pytest.raises(WriteError), only_writer(tmp_path):
        pass


@pytest.mark.parametrize("name", [LOCK, EVALUATIONS_LOCK])
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_in_place_of_the_lock_is_not_followed(name: str, exists: bool, tmp_path: Path) -> None:
    """A folder from somebody else may hold links to the user's own files."""
    victim, folder = tmp_path / "victim", tmp_path / "folder"
    folder.mkdir()
    (folder / name).symlink_to(victim)
    if exists:
        victim.write_text("precious")
    with pytest.raises(WriteError), only_writer(folder, name=name):
        pass
    assert victim.exists() == exists
    assert not exists or victim.read_text() == "precious"


def test_a_lock_that_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOCK)
    with pytest.raises(WriteError), only_writer(tmp_path):
        pass
