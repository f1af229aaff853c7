"""Help: one screen per command, and the settings by group."""

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
    output = capsys.readouterr().out
    command = command_module(name)
    assert output.startswith(f"usage: pydistill {name}")
    assert command.ABOUT in " ".join(output.split())
    assert all(line.strip() in output for line in command.EXAMPLES.strip().splitlines())
    assert len(output.splitlines()) < 60
    assert not any(word in output for word in ("Literal", "type: ", "CONFIG", "==SUPPRESS=="))


def test_the_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    output = capsys.readouterr().out
    assert all(f"\n  {name} " in output for name in COMMANDS)
    assert main([]) == 2
    assert capsys.readouterr().out == output


def test_help_of_a_group_explains_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "--help", "model"]) == 0
    output = capsys.readouterr().out
    assert "--model.width" in output
    assert "--distill.steps" not in output
    assert main(["help", "distill", "all"]) == 0
    output = capsys.readouterr().out
    assert "--model.width" in output
    assert "--distill.steps" in output
    assert main(["distill", "--help", "presets"]) == 0
    assert "demo/digits-att" in capsys.readouterr().out.splitlines()


def test_help_of_experts_lists_only_their_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experts", "--help"]) == 0
    output = capsys.readouterr().out
    assert "training.epochs" in output
    assert "lr_image" not in output


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
