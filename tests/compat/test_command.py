"""The scripts as modules; no error shows a traceback unless `--debug` asks for it."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from pydistill.compat import mtt
from tests.compat.scripts import RUN


@pytest.mark.parametrize("name", ["mtt", "att", "tesla", "mct", "buffer"])
def test_the_commands_run_as_modules(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [name, "--texture", "--res", "x"])
    monkeypatch.delitem(sys.modules, f"pydistill.compat.{name}", raising=False)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(f"pydistill.compat.{name}", run_name="__main__")
    assert stopped.value.code == 2
    assert f"python -m pydistill.compat.{name} --help" in capsys.readouterr().err


def test_debug_shows_the_traceback(here: Path) -> None:
    with pytest.raises(ValueError, match="--texture"):
        mtt.main([*RUN, "--texture", "--debug"])


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (KeyError("lost"), 1, "pydistill: error: unexpected KeyError: 'lost'"),
        (RuntimeError("can't allocate memory"), 1, "pydistill: error: out of memory"),
        (BrokenPipeError(), 1, "pydistill: error: "),
        (KeyboardInterrupt(), 130, "pydistill: stopped"),
    ],
)
def test_no_error_shows_a_traceback(
    error: BaseException, code: int, part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("pydistill.compat.distill.distil", fail)
    assert mtt.main(RUN) == code
    assert capsys.readouterr().err.startswith(part)
    if isinstance(error, KeyError):
        with pytest.raises(KeyError, match="lost"):
            mtt.main([*RUN, "--debug"])
