"""Loading the compiled extension: absent, broken, of another torch, as it should be."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest

from pydistill.ops import extension
from pydistill.ops.extension import load_extension
from tests.helpers.unprivileged import as_unprivileged_user


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """load_extension() as on its first call, without touching the one that the process uses."""
    monkeypatch.setattr(extension, "load_extension", load_extension.__wrapped__)
    return monkeypatch


def test_one_that_was_never_built_is_no_fault(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(extension, "_find", lambda package: None)
    loaded = extension.load_extension()
    assert loaded.device_types == frozenset()
    assert "was not built" in str(loaded.reason)


def test_a_source_tree_that_hides_an_installed_one_says_so(
    fresh: pytest.MonkeyPatch, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """As in the repository's own folder, after `pip install .`."""
    tree, site = tmp_path / "tree" / "pydistill", tmp_path / "site" / "pydistill"
    for copy in (tree, site):
        copy.mkdir(parents=True)
    fresh.setattr(extension, "PACKAGE", tree)
    fresh.setattr(sys, "path", [str(tree.parent), str(site.parent)])
    assert "was not built" in str(extension.load_extension().reason)
    assert not recwarn.list
    library = site / f"_C{EXTENSION_SUFFIXES[0]}"
    library.touch()
    with pytest.warns(RuntimeWarning, match="tree/pydistill"):
        loaded = extension.load_extension()
    assert loaded.config is None
    assert str(library) in str(loaded.reason)


def test_only_what_comes_later_is_hidden(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tree, other = tmp_path / "tree" / "pydistill", tmp_path / "other" / "pydistill"
    for copy in (tree, other):
        copy.mkdir(parents=True)
    (other / f"_C{EXTENSION_SUFFIXES[0]}").touch()
    fresh.setattr(extension, "PACKAGE", tree)
    for places in ([other.parent, tree.parent], [other.parent]):  # an editable install is in no folder of sys.path
        fresh.setattr(sys, "path", [str(place) for place in places])
        assert extension._hidden() is None
    fresh.setattr(sys, "path", [str(tree.parent), str(tree.parent), str(other.parent)])
    assert extension._hidden() is not None


def test_folders_that_cannot_be_looked_into_are_passed_over(fresh: pytest.MonkeyPatch, open_folder: Path) -> None:
    """As Python's own import does it."""
    tree, closed = open_folder / "tree" / "pydistill", open_folder / "closed"
    tree.mkdir(parents=True)
    (closed / "pydistill").mkdir(parents=True)
    circle, gone = open_folder / "circle", open_folder / "gone"
    circle.symlink_to(circle)
    gone.mkdir()
    fresh.setattr(extension, "PACKAGE", tree)
    fresh.setattr(sys, "path", [str(tree.parent), str(closed), str(circle), "\0", ""])
    fresh.chdir(gone)
    gone.rmdir()
    closed.chmod(0)
    try:
        with as_unprivileged_user():
            assert extension._hidden() is None
    finally:
        closed.chmod(0o755)


@pytest.mark.parametrize("place", [b"", b".", None, 0, 3, Path()])
def test_what_is_no_str_is_passed_over(place: Any, fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As Python's own import does it, also where the current folder has a copy."""
    tree, other = tmp_path / "tree" / "pydistill", tmp_path / "other" / "pydistill"
    for copy in (tree, other):
        copy.mkdir(parents=True)
    (other / f"_C{EXTENSION_SUFFIXES[0]}").touch()
    fresh.setattr(extension, "PACKAGE", tree)
    fresh.chdir(other.parent)
    fresh.setattr(sys, "path", [place, str(tree.parent), place])
    assert extension._hidden() is None
    fresh.setattr(sys, "path", [place, str(tree.parent), place, ""])
    assert extension._hidden() is not None


def test_one_that_does_not_load_is_warned_about_and_remembered(fresh: pytest.MonkeyPatch) -> None:
    def broken(path: str) -> None:
        raise ImportError(f"{path}: undefined symbol: _ZN3c10")

    fresh.setattr(extension, "_find", lambda package: "/somewhere/_C.so")
    fresh.setattr(extension, "_import", broken)
    with pytest.warns(RuntimeWarning, match=r"/somewhere/_C\.so"):
        loaded = extension.load_extension()
    assert loaded.device_types == frozenset()
    assert "undefined symbol: _ZN3c10" in str(loaded.reason)


def test_one_of_another_torch_is_not_used(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(extension, "_find", lambda package: "/somewhere/_C.so")
    fresh.setattr(extension, "_load", lambda path: {"torch_version": "1.2.0", "cuda": True})
    with pytest.warns(RuntimeWarning, match=r"torch 1\.2"):
        loaded = extension.load_extension()
    assert loaded.device_types == frozenset()


def test_it_is_loaded_once() -> None:
    assert load_extension() is load_extension()


def test_a_damaged_file_leaves_the_reference_and_says_so(tmp_path: Path) -> None:
    """In a process of its own, on a copy of the package whose extension is no shared library."""
    package = Path(extension.__file__).parent.parent
    copy = tmp_path / "pydistill"
    for source in package.rglob("*.py"):
        target = copy / source.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    (copy / f"_C{EXTENSION_SUFFIXES[0]}").write_bytes(b"not a shared library")
    script = (
        "import warnings, torch\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    from pydistill.ops import sgd_step\n"
        "    from pydistill.ops.build_info import build_config\n"
        "ours = [str(w.message) for w in caught if w.category is RuntimeWarning]\n"
        "assert len(ours) == 1 and 'does not load' in ours[0], ours\n"
        "config = build_config()\n"
        "assert not config['compiled'] and not config['cuda'] and 'does not load' in config['reason'], config\n"
        "one = torch.ones(3)\n"
        "assert sgd_step(one, one, torch.tensor(0.5), one * 0)[1].tolist() == [1.5, 0.75]\n"
        "print('reference runs')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "reference runs\n"


def test_importing_does_not_initialise_cuda() -> None:
    script = "import torch, pydistill.ops; assert not torch.cuda.is_initialized()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not extension.load_extension().device_types, reason="nothing is compiled")
def test_an_instruction_set_that_is_none_is_told_and_the_reference_runs() -> None:
    script = (
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    from pydistill.ops.build_info import build_config\n"
        "    config = build_config()\n"
        "print(*(str(each.message) for each in caught if each.category is RuntimeWarning))\n"
        "assert not config['compiled']\n"
    )
    environment = {**os.environ, "PYDISTILL_ISA": "nonsense"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "PYDISTILL_ISA=nonsense is not one of baseline, avx2, avx512" in done.stdout
