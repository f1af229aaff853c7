"""A disk that is full at any write, a folder that may not be written, and files that are complete or absent."""

from __future__ import annotations

import builtins
import errno
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pydistill._util.files import WriteError, atomic_path, copy_file, write_text
from pydistill.runs import folder as folder_module
from pydistill.runs.folder import CHECKPOINT_FORMAT, RunFolder
from pydistill.runs.run import run_distillation
from pydistill.training.experts import train_experts
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.folder_content import content
from tests.helpers.small_runs import EXPERT, MODEL, assert_same_outcome, recipe
from tests.helpers.unprivileged import as_unprivileged_user

DATA = blobs()
WORK = recipe(iterations=2, checkpoint_every=1)


class Disk:
    """A disk that is full from its nth write on until `left` is None again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        self.writes = 0
        for name in ("fsync", "replace", "truncate", "ftruncate"):
            monkeypatch.setattr(os, name, self.failing(getattr(os, name)))
        monkeypatch.setattr(folder_module, "open", self.open, raising=False)

    def full(self) -> bool:
        self.writes += 1
        return self.left is not None and self.writes > self.left

    def failing(self, call: Any) -> Any:
        def write(*arguments: Any) -> Any:
            if self.full():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*arguments)

        return write

    def open(self, path: Path, mode: str = "r", **options: Any) -> Any:
        if mode == "a" and self.full():
            with builtins.open(path, mode, **options) as handle:
                handle.write('{"event": "iter')  # as much as there was room for
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return builtins.open(path, mode, **options)


def test_a_disk_that_is_full_at_any_write_of_a_run(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    run_distillation(WORK, DATA, store, tmp_path / "undisturbed")
    writes = disk.writes
    assert writes > 20
    for number in range(writes):
        folder = RunFolder(tmp_path / str(number))
        disk.left, disk.writes = number, 0
        with pytest.raises(WriteError) as caught:
            run_distillation(WORK, DATA, store, folder.path, resume=True)
        assert "No space left on device" in str(caught.value)
        assert not list(folder.path.glob("*.tmp"))
        disk.left = None
        if folder.checkpoint_path.exists():
            folder.load_checkpoint()
        run_distillation(WORK, DATA, store, folder.path, resume=True)
        assert_same_outcome(folder.path, tmp_path / "undisturbed")
        shutil.rmtree(folder.path)


def test_a_disk_that_is_full_at_any_write_of_experts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    undisturbed = train_experts(DATA, MODEL, EXPERT, tmp_path / "undisturbed")
    writes = disk.writes
    assert writes >= 2 * (1 + 2 * EXPERT.count)
    for number in range(writes):
        folder = tmp_path / str(number)
        disk.left, disk.writes = number, 0
        with pytest.raises(WriteError, match="No space left on device"):
            train_experts(DATA, MODEL, EXPERT, folder)
        disk.left = None
        if number > 2:
            assert TrajectoryStore.open(folder).verify() == {}
        resumed = train_experts(DATA, MODEL, EXPERT, folder)
        assert resumed.digest == undisturbed.digest
        assert not list(folder.glob("*.tmp"))


def test_a_folder_that_may_only_be_read(store: TrajectoryStore, open_folder: Path) -> None:
    out = open_folder / "run"
    run_distillation(recipe(iterations=2), DATA, store, out)
    out.chmod(0o555)
    before = content(out)
    try:
        with as_unprivileged_user(), pytest.raises(WriteError) as caught:
            run_distillation(recipe(iterations=3), DATA, store, out, resume=True)
        assert str(out) in str(caught.value)
        assert content(out) == before
    finally:
        out.chmod(0o755)
    run_distillation(recipe(iterations=3), DATA, store, out, resume=True)


def test_a_new_run_in_a_folder_that_may_only_be_read(store: TrajectoryStore, open_folder: Path) -> None:
    open_folder.chmod(0o555)
    try:
        with as_unprivileged_user():
            with pytest.raises(WriteError, match="run"):
                run_distillation(recipe(iterations=1), DATA, store, open_folder / "run")
            with pytest.raises(WriteError, match="experts"):
                train_experts(DATA, MODEL, EXPERT, open_folder / "experts")
    finally:
        open_folder.chmod(0o755)
    assert not list(open_folder.iterdir())


def test_a_checkpoint_that_does_not_fit_on_the_disk(tmp_path: Path) -> None:
    """safetensors does not report a full disk by an OSError."""
    folder = RunFolder(tmp_path)

    def state(iteration: int) -> dict[str, Any]:
        return {"config": {}, "distiller": {"iteration": iteration}, "evaluations": {}, "seconds": 0.0}

    folder.save_checkpoint(state(1), {"images": torch.ones(4)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(WriteError, match="File too large"):
            folder.save_checkpoint(state(2), {"images": torch.ones(4000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert folder.load_checkpoint()[0] == {**state(1), "format": CHECKPOINT_FORMAT, "metrics_bytes": 0}
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.safetensors", "metrics.jsonl"}


def test_a_folder_that_cannot_be_made(store: TrajectoryStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="file/run"):
        run_distillation(recipe(), DATA, store, tmp_path / "file" / "run")


def test_a_folder_that_cannot_be_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new file is written, and the message says so."""

    def fails(folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("pydistill._util.files._flush_folder", fails)
    target = tmp_path / "file"
    target.write_text("before")
    with pytest.raises(WriteError, match="is written"):
        write_text(target, "after")
    assert target.read_text() == "after"


def test_a_source_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        copy_file(tmp_path / "source", tmp_path / "copy")
    assert caught.value.filename == str(tmp_path / "source")
    assert not list(tmp_path.iterdir())


def test_atomic_files_are_whole_or_absent(tmp_path: Path) -> None:

    target = tmp_path / "file"
    target.write_text("before")

    def write_and_fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
