"""How much memory there is: the machine's, or less where a control group allows less."""

from __future__ import annotations

from pathlib import Path

import pytest

from pydistill._util import memory as room
from pydistill._util.memory import available_memory, check_memory_available
from pydistill.errors import OutOfMemoryError

GIB = 2**30


def group(folder: Path, limit: str, used: int, cached: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached // 2}\nactive_file {cached - cached // 2}\n")


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 GiB free, and a process in the group a/b of version 2."""
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {8 * 2**20} kB\n")
    (tmp_path / "cgroup").write_text("4:memory:/old\n0::/a/b\n")
    monkeypatch.setattr(room, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(room, "_OWN_GROUP", tmp_path / "cgroup")
    monkeypatch.setattr(room, "_GROUPS", tmp_path / "groups")
    (tmp_path / "groups" / "a" / "b").mkdir(parents=True)
    return tmp_path / "groups"


def test_without_a_limit_it_is_the_machine_s(groups: Path) -> None:
    assert available_memory() == 8 * GIB
    group(groups / "a" / "b", "max", 5 * GIB)
    assert available_memory() == 8 * GIB


def test_the_tightest_group_decides(groups: Path) -> None:
    group(groups / "a" / "b", str(6 * GIB), 2 * GIB)
    assert available_memory() == 4 * GIB
    group(groups / "a", str(10 * GIB), 7 * GIB)
    assert available_memory() == 3 * GIB
    group(groups, str(2 * GIB), 1 * GIB)  # as a container sees its own
    assert available_memory() == 1 * GIB
    with pytest.raises(OutOfMemoryError, match=r"a set needs 2\.0 GiB and 1\.0 GiB are free; take less"):
        check_memory_available(2 * GIB, "a set", "take less")


def test_the_machine_decides_where_it_has_less(groups: Path) -> None:
    group(groups / "a" / "b", str(64 * GIB), 0)
    assert available_memory() == 8 * GIB


def test_files_in_memory_are_room(groups: Path) -> None:
    group(groups / "a" / "b", str(6 * GIB), 6 * GIB, cached=3 * GIB)
    assert available_memory() == 3 * GIB
    group(groups / "a" / "b", str(6 * GIB), 7 * GIB)
    assert available_memory() == 0


@pytest.mark.parametrize("content", ["", "4:memory:/old\n", "0::/../elsewhere\n", None])
def test_a_machine_that_does_not_tell_its_groups(content: str | None, groups: Path, tmp_path: Path) -> None:
    group(groups, str(GIB), 0)
    (tmp_path / "cgroup").unlink()
    if content is not None:
        (tmp_path / "cgroup").write_text(content)
    assert available_memory() == 8 * GIB
    (tmp_path / "meminfo").unlink()
    assert available_memory() is None
    check_memory_available(2**60, "all", "take less")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("memory.max", "6G\n"),
        ("memory.max", ""),
        ("memory.max", "µ\n"),
        ("memory.current", "about 5\n"),
        ("memory.stat", "anon 5 6\n"),
        ("memory.stat", "active_file many\n"),
    ],
)
def test_a_group_that_tells_in_another_form(file: str, content: str, groups: Path) -> None:
    """It decides nothing; those above it still do."""
    group(groups / "a", str(6 * GIB), 2 * GIB)
    group(groups / "a" / "b", str(GIB), 0)
    assert available_memory() == GIB
    (groups / "a" / "b" / file).write_text(content, encoding="utf-8")
    assert available_memory() == 4 * GIB


@pytest.mark.parametrize("content", ["MemAvailable:\n", "MemAvailable: much kB\n", "MemAvailable: µ kB\n"])
def test_a_machine_that_tells_in_another_form(content: str, groups: Path, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(content, encoding="utf-8")
    assert available_memory() is None
    group(groups, str(GIB), 0)
    assert available_memory() == GIB
