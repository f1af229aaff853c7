"""Errors of the commands: one sentence, an exit status, and a traceback with --debug only."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pydistill._util.files import PathError, WriteError, write_text
from pydistill._util.locking import only_writer
from pydistill._util.memory import available_memory, check_memory_available
from pydistill.cli import main
from pydistill.cli.arguments import Output
from pydistill.cli.errors import FAILED, INTERRUPTED, USAGE, exit_status, sentence
from pydistill.errors import DivergedError, FormatError, InputError, Interrupted, MismatchError, SettingError
from pydistill.nn import ModelSettings, build
from pydistill.runs.folder import RunFolder
from tests.cli.commands import SMALL, WHERE, run
from tests.helpers.small_runs import assert_same_outcome

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("error", "part", "status"),
    [
        (InputError("steps must be 1"), "steps must be 1", 2),
        (SettingError("steps", 0, "1"), "steps must be 1, not 0", 2),
        (MismatchError("a and b"), "a and b", 2),
        (DivergedError("too often"), "too often", 1),
        (FormatError("a is damaged"), "a is damaged; ", 1),
        (FormatError("a is damaged; remove it"), "a is damaged; remove it", 1),
        (Interrupted("stopped after 3"), "stopped after 3", 130),
        (FileNotFoundError(2, "No such file", "/a"), "/a ", 2),
        (PermissionError(13, "Permission denied", "/a"), "/a ", 1),
        (NotADirectoryError(20, "Not a directory", "/a/b"), "/a/b ", 2),
        (IsADirectoryError(21, "Is a directory", "/a"), "/a ", 2),
        (OSError(28, "No space left on device"), "disk", 1),
        (MemoryError(), "out of memory; ", 1),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory; ", 1),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory; ", 1),
        (ZeroDivisionError("division\nby zero"), "--debug", 1),
    ],
)
def test_the_sentence_and_the_status_of_an_error(error: Exception, part: str, status: int) -> None:
    assert part in sentence(error)
    assert "\n" not in sentence(error)
    assert exit_status(error) == status


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda parent: parent / "file" / "below", "choose another folder, as none can be created there"),
        (lambda parent: parent / "file", "choose another folder, as none can be created there"),
        (lambda parent: parent / ("x" * 300), "choose a shorter name"),
    ],
    ids=["below a file", "a file", "too long"],
)
def test_a_folder_that_cannot_be_created(make: Callable[[Path], Path], remedy: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = make(tmp_path)
    for write in (lambda: only_writer(folder).__enter__(), lambda: write_text(folder / "file", "")):
        with pytest.raises(PathError, match=remedy) as error:
            write()
        assert exit_status(error.value) == 2


def test_a_file_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(PathError, match="Is a directory") as error:
        write_text(tmp_path, "")
    assert exit_status(error.value) == 2


@pytest.mark.parametrize("replacement", [None, "a file"], ids=["removed", "a file"])
def test_a_run_folder_that_disappears_is_a_failure_not_wrong_usage(replacement: str | None, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.append_metrics({"event": "iteration"})
    shutil.rmtree(folder.path)
    if replacement is not None:
        folder.path.write_text(replacement)
    for write in (
        lambda: folder.append_metrics({"event": "iteration"}),
        lambda: folder.save_checkpoint({}, {"images": torch.ones(1)}),
    ):
        with pytest.raises(WriteError) as error:
            write()
        assert exit_status(error.value) == 1
    assert not folder.path.is_dir()


def test_an_unexpected_error_shows_its_traceback_with_debug_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(values: object) -> int:
        raise KeyError("lost")

    monkeypatch.setattr("pydistill.cli.show.run", fail)
    assert main(["show", "x"]) == FAILED
    assert capsys.readouterr().err.startswith("pydistill: error: unexpected KeyError: 'lost'; ")
    with pytest.raises(KeyError, match="lost"):
        main(["show", "x", "--debug"])


def test_ctrl_c_prints_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(values: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("pydistill.cli.show.run", stop)
    assert main(["show", "x"]) == 130
    assert capsys.readouterr().err == "pydistill: stopped\n"


def test_quiet_shows_warnings_only(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def log_both(values: object) -> Output:
        log = logging.getLogger("pydistill")
        log.info("matching")
        log.warning("beware")
        return Output({}, "")

    monkeypatch.setattr("pydistill.cli.convexify.run", log_both)
    caplog.set_level(logging.INFO)
    assert main(["convexify", "x", "--out", "y", "--quiet"]) == 0
    assert caplog.messages == ["beware"]
    assert main(["convexify", "x", "--out", "y"]) == 0
    assert caplog.messages == ["beware", "matching", "beware"]


def test_other_packages_log_warnings_only() -> None:
    script = """
import logging, sys
import pydistill.cli.show
from pydistill.cli import main

def log_both(values):
    for name in ("torch.fake", "pydistill"):
        logging.getLogger(name).info("it is so of %s", name)
        logging.getLogger(name).warning("beware of %s", name)
    raise KeyboardInterrupt

pydistill.cli.show.run = log_both
sys.exit(main(["show", "x"]))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == INTERRUPTED
    assert done.stderr.splitlines() == [
        "pydistill: beware of torch.fake",
        "pydistill: it is so of pydistill",
        "pydistill: beware of pydistill",
        "pydistill: stopped",
    ]


def test_a_working_directory_that_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "removed"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert main(["--help"]) == USAGE
    assert capsys.readouterr().err.startswith("pydistill: error: the working directory ")


def in_shell(command: str) -> subprocess.CompletedProcess[str]:
    """Run a pipeline whose first status counts."""
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full on this machine")
    line = f"{command}; exit ${{PIPESTATUS[0]}}"
    return subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("redirected", "code", "message"),
    [(">&-", 0, ""), ("| true", 0, ""), ("> /dev/full", 1, "pydistill: error: ")],
)
def test_stdout_that_cannot_be_written(redirected: str, code: int, message: str) -> None:
    done = in_shell(f"{sys.executable} -m pydistill --help {redirected}")
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == (1 if message else 0)


@pytest.mark.parametrize("redirected", [">&-", "| true", "> /dev/full"])
def test_result_that_cannot_be_printed(redirected: str, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    done = in_shell(f"{sys.executable} -m pydistill report {finished} --out {out} {redirected}")
    assert done.returncode == FAILED
    assert done.stderr.startswith("pydistill: error: ")
    assert done.stderr.count("\n") == 1
    assert out.exists()


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    script = """
import os, sys
import pydistill.cli.show
from pydistill.cli import main
from pydistill.cli.arguments import Output

def write(values):
    with open(values.run, "w"):
        os.write(2, b"a library's message")
    return Output({}, "")

pydistill.cli.show.run = write
sys.exit(main())
"""
    done = in_shell(f"{shlex.join([sys.executable, '-c', script, 'show', str(tmp_path / 'file')])} <&- 2>&-")
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize("redirected", ["2>&1 >/dev/null | head -n 1", "2>/dev/full", "2>&-", "2>&1 | head -n 1"])
def test_run_ends_although_stderr_cannot_be_written(
    redirected: str, experts: Path, finished: Path, tmp_path: Path
) -> None:
    script = """
import sys
import pydistill._util.progress
from pydistill.cli import main

pydistill._util.progress.LINE_EVERY_SECONDS = 0.0
sys.exit(main())
"""
    words = ["distill", *SMALL, "--experts", str(experts), "--out", str(tmp_path / "run")]
    done = in_shell(f"{shlex.join([sys.executable, '-c', script, *words])} {redirected}")
    assert done.returncode == (FAILED if redirected.startswith("2>&1 |") else 0), done.stderr
    assert_same_outcome(tmp_path / "run", finished)
    assert (tmp_path / "run" / "summary.json").exists()


def test_too_large_an_allocation_is_refused_in_advance() -> None:
    free = available_memory()
    if free is None:
        pytest.skip("the free memory of this machine is unknown")
    check_memory_available(free // 2, "half of it", "take less")
    with pytest.raises(MemoryError, match=r"all of it needs .* GiB and .* GiB are free; take less"):
        check_memory_available(free * 2, "all of it", "take less")
    with pytest.raises(MemoryError, match="lower its width or the images' size"):
        build(ModelSettings("convnet", width=1_000_000), 3, 10, 32)


def test_an_unfinished_run_has_no_set(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.jsonl").write_bytes((finished / "metrics.jsonl").read_bytes())
    for name, command in (
        ("distilled", ["evaluate", tmp_path]),
        ("best", ["export", tmp_path, "--which=best", "--format=mtt", "--out", "x"]),
        ("best", ["evaluate", tmp_path, "--which=best"]),
    ):
        assert run(*command) == 2
        message = capsys.readouterr().err
        assert f"has no {name}.safetensors" in message
        assert "--which best" not in message
    assert run("show", tmp_path) == 2
    assert f"the run in {tmp_path} has no images yet" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    (tmp_path / "best.safetensors").touch()
    assert run("evaluate", tmp_path) == 2
    assert "--which best" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["distill", "--config=/dev/null/x", *WHERE], "/dev/null/x"),
        (["distill", "--distill.backend=fused", *WHERE], "x "),
        (["experts", "--data.path=/nowhere", "--out", "y"], "--data.path"),
        (["experts", "--data.name=cifar10", "--data.path=/nowhere", "--out", "y"], "--data.path"),
        (["experts", "--data.name=cifar10", "--out", "y"], "data.path"),
        (["distill", "--experts", "/nowhere", "--out", "y"], "/nowhere"),
        (["convexify", "/nowhere", "--out", "y"], "/nowhere"),
        (["import", "--format=mtt", "/nowhere/a.pt", "--out=y.safetensors"], "/nowhere/a.pt"),
        (["evaluate", "/nowhere"], "/nowhere"),
        (["show", "/nowhere"], "/nowhere"),
        (["evaluate", "/"], "/ "),
        (["demo", "--method", "magic"], "--method"),
        (["demo", "--out", ""], "--out"),
        (["demo", "--resume"], "--resume"),
        (["distill", "--experts", "x", "--out="], "--out"),
        (["distill", "--experts=", "--out=y"], "--experts"),
        (["report", "x", "--out", ""], "--out"),
        (["evaluate", ""], "RUN"),
        (["experts", "--device", "abacus", "--out", "y"], "--device must be"),
        (["experts", "--model.name=convnot", "--out", "y"], "--model.name: "),
    ],
)
def test_wrong_usage(arguments: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert name in message
    assert message.startswith("pydistill: error: ")
    assert message.count("\n") == 1


def test_a_pipe_closed_early_is_no_error() -> None:
    command = f"{sys.executable} -m pydistill doctor 2>&1 | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("\n") == 1


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    from pydistill.errors import InputError

    with pytest.raises(InputError):
        run("show", tmp_path, "--debug")


def test_a_folder_of_runs_is_refused_with_the_runs_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "zero").mkdir()
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "distilled.safetensors").touch()
    ending = f"in it; give one of the runs in it, {tmp_path / 'one'} or {tmp_path / 'three'}\n"
    for command in ("evaluate", "show", "report"):
        assert run(command, tmp_path) == 2
        assert capsys.readouterr().err.endswith(ending)


def test_the_demo_refuses_a_folder_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    assert run("demo", "--out", tmp_path) == 2
    assert "is not empty; choose another folder" in capsys.readouterr().err
    assert run("demo", "--out", tmp_path / "file") == 2
    assert f"{tmp_path / 'file'} is a file" in capsys.readouterr().err
