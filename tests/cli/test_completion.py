"""Completion: what bash offers, and that every script names every flag."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pydistill.cli import COMMANDS, main
from pydistill.cli.completion import SHELLS, bash, words


@pytest.fixture(scope="module")
def known() -> dict[str, dict[str, list[str]]]:
    return words()


def test_the_words(known: dict[str, dict[str, list[str]]]) -> None:
    assert list(known) == list(COMMANDS)
    assert known["distill"]["--distill.backend"] == ["auto", "fused", "torch", "autograd"]
    assert "demo/digits-att" in known["distill"]["--preset"]
    assert "--repeats" in known["evaluate"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash on this machine")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("pydistill dis", ["distill"]),
        ("pydistill distill --distill.back", ["--distill.backend"]),
        ("pydistill distill --distill.backend f", ["fused"]),
        ("pydistill distill --preset demo/digits-m", ["demo/digits-mct", "demo/digits-mtt"]),
        ("pydistill completion z", ["zsh"]),
        ("pydistill --deb", ["--debug"]),
        ("pydistill --debug dis", ["distill"]),
        ("pydistill --debug distill --distill.backend f", ["fused"]),
        ("pydistill show fi", ["file"]),
    ],
)
def test_what_bash_offers(
    line: str, offered: list[str], known: dict[str, dict[str, list[str]]], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    script = f"{bash(known)}COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _pydistill\n"
    done = subprocess.run(
        ["bash", "-c", f'{script}printf "%s\\n" "${{COMPREPLY[@]}}"'],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_every_script_names_every_flag(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    told = capsys.readouterr().out
    assert shell in told.splitlines()[0] or shell in told.splitlines()[1]
    for name in ("distill.steps", "preset", "resume", "smoothing", "repeats"):
        assert f"--{name}" in told or f"-l {name}" in told
