"""A network of the user's own from the command line, as docs/own-model.md has it."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from pydistill.cli import main
from tests.cli.commands import SMALL

PAGE = Path(__file__).parents[2] / "docs" / "own-model.md"
FLAGS = {"evaluate": ["--repeats", "1", "--epochs", "2"]}


def test_the_page_s_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = PAGE.read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(# mynet\.py\n.*?)```", page, re.DOTALL)
    (commands,) = [block for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) if "mynet" in block]
    (tmp_path / "mynet.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    # As for the console script, which does not have the working folder on its path.
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    monkeypatch.delitem(sys.modules, "mynet", raising=False)
    small = [*(flag for flag in SMALL if not flag.startswith("--model")), "--quiet"]
    for line in commands.splitlines():
        words = shlex.split(line)
        assert words[0] == "pydistill"
        assert main([*words[1:], *FLAGS.get(words[1], small)]) == 0
    output = capsys.readouterr().out
    assert re.search(r"\bmynet:small\b.*%", output)
    assert re.search(r"\bmlp2-w16\b.*%", output)
    assert str(tmp_path) in sys.path
