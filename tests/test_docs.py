"""Every Python example of README and docs that is whole runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def examples() -> list[tuple[str, str]]:
    """```python blocks that import what they use; what needs the reader's own files is a ```py block."""
    found = []
    for page in PAGES:
        blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        found += [(f"{page.name}-{number}", block) for number, block in enumerate(blocks) if "import " in block]
    return found


@pytest.mark.parametrize(("name", "source"), examples(), ids=[name for name, _ in examples()])
def test_example(name: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    exec(compile(source, name, "exec"), names)
    tensors = [value for value in names.values() if isinstance(value, torch.Tensor) and value.is_floating_point()]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
    assert all(tensor.grad is not None for tensor in tensors if tensor.requires_grad and ".backward()" in source)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_waits_for_its_numbers(page: Path) -> None:
    assert not re.findall(r"\b[A-Z]+_TABLE\b|\bMEASURED\b", page.read_text(encoding="utf-8"))


def test_there_are_examples() -> None:
    assert any(name.startswith("README") for name, _ in examples())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing
