"""`pydistill score`: its table, its JSON and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import run


def test_score(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["score", finished, "--full_accuracy", 0.9, "--repeats", 1, "--epochs", 2, "--quiet"]
    assert run(*command) == 0
    text = capsys.readouterr().out
    for name in ("HLR", "IOR", "LRS", "ARS", "per cent", "10 random real images"):
        assert name in text
    assert run(*command, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["cells"]["real_hard"]["mean"] == 0.9
    assert set(record) == {"HLR", "IOR", "alpha", "beta", "LRS", "ARS", "cells"}
    assert run("score", finished, "--full_accuracy", 90) == 2
    assert "--full_accuracy must be a share from 0 to 1" in capsys.readouterr().err
