"""Failing to show progress does not stop the work."""

from __future__ import annotations

import io
import sys

import pytest

from pydistill._util.progress import Bar


class BrokenPipe(io.StringIO):
    """A stream without a reader."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal, self.writes = terminal, 0

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        self.writes += 1
        raise BrokenPipeError


@pytest.mark.parametrize("terminal", [False, True])
def test_broken_pipe_stops_output_only(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if terminal:
        pytest.importorskip("tqdm")
    monkeypatch.setattr("pydistill._util.progress.LINE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(sys, "stderr", stream := BrokenPipe(terminal))
    try:
        with Bar("work", 3) as bar:
            bar.say("a line")
            writes = stream.writes
            for _ in range(3):
                bar.step(loss="1.0")
            bar.say("another line")
    except BrokenPipeError:
        pytest.fail("the work stopped")
    assert bar.done == 3
    assert 0 < stream.writes <= writes


def test_closed_standard_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with Bar("work", 1) as bar:
        bar.step()
        bar.say("a line")
    assert capsys.readouterr().out == ""
