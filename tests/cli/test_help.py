"""Help: a first screen per command, and settings by group."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pydistill.cli import COMMANDS, command_module, main

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    told = capsys.readouterr().out
    command = command_module(name)
    assert told.startswith(f"usage: pydistill {name}")
    assert command.ABOUT in " ".join(told.split())
    assert all(line.strip() in told for line in command.EXAMPLES.strip().splitlines())
    assert len(told.splitlines()) < 60
    assert not any(word in told for word in ("Literal", "type: ", "CONFIG", "==SUPPRESS=="))


def test_the_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"\n  {name} " in told for name in COMMANDS)
    assert main([]) == 2
    assert capsys.readouterr().out == told


def test_a_group_s_settings_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "--help", "model"]) == 0
    told = capsys.readouterr().out
    assert "--model.width" in told
    assert "--distill.steps" not in told
    assert main(["help", "distill", "all"]) == 0
    told = capsys.readouterr().out
    assert "--model.width" in told
    assert "--distill.steps" in told
    assert main(["distill", "--help", "presets"]) == 0
    assert "demo/digits-att" in capsys.readouterr().out.splitlines()


def test_experts_show_their_own_settings_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experts", "--help"]) == 0
    told = capsys.readouterr().out
    assert "training.epochs" in told
    assert "lr_image" not in told


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    from pydistill import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pydistill {__version__}\n"


def test_help_and_a_wrong_command_import_no_torch() -> None:
    script = (
        "import sys; from pydistill.cli import main;"
        "assert main(['--help']) == 0; assert main(['distil']) == 2; assert main(['evaluate', '--help']) == 0;"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
