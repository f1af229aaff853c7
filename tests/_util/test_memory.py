"""Available memory is that of the machine, or less if a cgroup limits it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pydistill._util import memory
from pydistill._util.memory import available_memory, check_memory_available, is_out_of_memory
from pydistill.errors import OutOfMemoryError

GIB = 2**30


def write_cgroup(folder: Path, limit: str, used: int, cached: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached // 2}\nactive_file {cached - cached // 2}\n")


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 GiB available, and a process in the cgroup a/b."""
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {8 * 2**20} kB\n")
    (tmp_path / "cgroup").write_text("4:memory:/old\n0::/a/b\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "groups")
    (tmp_path / "groups" / "a" / "b").mkdir(parents=True)
    return tmp_path / "groups"


def test_memory_of_the_machine_without_a_tighter_limit(cgroups: Path) -> None:
    assert available_memory() == 8 * GIB
    write_cgroup(cgroups / "a" / "b", "max", 5 * GIB)
    assert available_memory() == 8 * GIB
    write_cgroup(cgroups / "a" / "b", str(64 * GIB), 0)
    assert available_memory() == 8 * GIB


def test_tightest_cgroup_limits_the_memory(cgroups: Path) -> None:
    write_cgroup(cgroups / "a" / "b", str(6 * GIB), 2 * GIB)
    assert available_memory() == 4 * GIB
    write_cgroup(cgroups / "a", str(10 * GIB), 7 * GIB)
    assert available_memory() == 3 * GIB
    write_cgroup(cgroups, str(2 * GIB), 1 * GIB)  # as in a container
    assert available_memory() == 1 * GIB
    with pytest.raises(OutOfMemoryError):
        check_memory_available(2 * GIB, "a set", "use a smaller one")


def test_file_cache_counts_as_available(cgroups: Path) -> None:
    write_cgroup(cgroups / "a" / "b", str(6 * GIB), 6 * GIB, cached=3 * GIB)
    assert available_memory() == 3 * GIB
    write_cgroup(cgroups / "a" / "b", str(6 * GIB), 7 * GIB)
    assert available_memory() == 0


@pytest.mark.parametrize("content", ["", "4:memory:/old\n", "0::/../elsewhere\n", None])
def test_unreadable_limits_are_ignored(content: str | None, cgroups: Path, tmp_path: Path) -> None:
    write_cgroup(cgroups, str(GIB), 0)
    (tmp_path / "cgroup").unlink()
    if content is not None:
        (tmp_path / "cgroup").write_text(content)
    assert available_memory() == 8 * GIB
    for meminfo in ("MemAvailable:\n", "MemAvailable: much kB\n", "junk"):
        (tmp_path / "meminfo").write_text(meminfo)
        assert available_memory() is None
    (tmp_path / "meminfo").unlink()
    assert available_memory() is None
    check_memory_available(2**60, "everything", "use less")


@pytest.mark.parametrize(
    ("file", "content"), [("memory.max", "6G\n"), ("memory.current", ""), ("memory.stat", "a 5 6\n")]
)
def test_unreadable_cgroup_is_ignored(file: str, content: str, cgroups: Path) -> None:
    write_cgroup(cgroups / "a", str(6 * GIB), 2 * GIB)
    write_cgroup(cgroups / "a" / "b", str(GIB), 0)
    assert available_memory() == GIB
    (cgroups / "a" / "b" / file).write_text(content)
    assert available_memory() == 4 * GIB


def test_errors_that_say_that_memory_ran_out() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(10**15)
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert not is_out_of_memory(RuntimeError("sizes do not match"))
