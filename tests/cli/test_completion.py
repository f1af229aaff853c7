"""Completion: what each shell offers, and that every script names every flag."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pydistill.cli import COMMANDS, main
from pydistill.cli.completion import SHELLS, words


@pytest.fixture(scope="module")
def known() -> dict[str, dict[str, list[str]]]:
    return words()


def test_the_words(known: dict[str, dict[str, list[str]]]) -> None:
    assert list(known) == list(COMMANDS)
    assert known["distill"]["--distill.backend"] == ["auto", "fused", "torch", "autograd"]
    assert "demo/digits-att" in known["distill"]["--preset"]
    assert "--repeats" in known["evaluate"]


# How each shell is asked what it offers for a LINE, of which the last word is begun; the script is in ./script.
ASK = {
    "bash": """
source ./script; COMP_WORDS=(LINE); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _pydistill; printf '%s\\n' "${COMPREPLY[@]}"
""",
    # compadd and _files work where a key was pressed; these do here what they would do there.
    "zsh": """
compdef() {}
compadd() { shift; print -rl -- ${(M)@:#${words[CURRENT]}*} }
_files() { print -rl -- ${words[CURRENT]}*(N) }
source ./script; words=(LINE); CURRENT=$#words; _pydistill
""",
    "fish": "source ./script; complete -C 'LINE'",
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("pydistill dis", ["distill"]),
        ("pydistill distill --distill.back", ["--distill.backend"]),
        ("pydistill distill --distill.backend f", ["fused"]),
        ("pydistill distill --distill.selection n", ["nearest", "null"]),
        ("pydistill distill --distill.method t", ["tesla"]),
        ("pydistill distill --preset demo/digits-m", ["demo/digits-mct", "demo/digits-mtt"]),
        ("pydistill experts --data.name fa", ["fashion-mnist"]),
        ("pydistill distill --help p", ["presets"]),
        ("pydistill plan --help mo", ["model"]),
        ("pydistill completion z", ["zsh"]),
        ("pydistill --deb", ["--debug"]),
        ("pydistill --debug dis", ["distill"]),
        ("pydistill --debug distill --distill.backend f", ["fused"]),
        ("pydistill show fi", ["file"]),
    ],
)
def test_what_a_shell_offers(
    shell: str, line: str, offered: list[str], known: dict[str, dict[str, list[str]]], tmp_path: Path
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} on this machine")
    (tmp_path / "file").touch()
    (tmp_path / "script").write_text(SHELLS[shell](known))
    begin = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [shell, *begin, "-c", ASK[shell].replace("LINE", line)],
        cwd=tmp_path, env=os.environ | {"HOME": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == offered, done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_every_script_names_every_flag(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    told = capsys.readouterr().out
    assert shell in told.splitlines()[0] or shell in told.splitlines()[1]
    for name in ("distill.steps", "preset", "resume", "smoothing", "repeats"):
        assert f"--{name}" in told or f"-l {name}" in told
