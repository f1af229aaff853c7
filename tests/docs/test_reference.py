"""The API reference: it is written without a warning, and every public name has its docstring."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import types
import warnings
from pathlib import Path
from typing import Any

import pytest

import pydistill
from tests.docs.doc_blocks import ROOT


def load_reference() -> Any:
    """docs/reference.py, which is no part of a package."""
    pytest.importorskip("pdoc", reason="the API reference is written by pdoc, of the extra dev")
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_written_without_a_warning(tmp_path: Path) -> None:
    reference = load_reference()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reference.write_reference(tmp_path)
    pages = {str(page.relative_to(tmp_path).with_suffix("")).replace("/", ".") for page in tmp_path.rglob("*.html")}
    assert set(reference.public_modules()) <= pages
    assert "Train a student for N steps of SGD" in (tmp_path / "pydistill.html").read_text()


def public_values(module: types.ModuleType) -> dict[str, Any]:
    """Return the names of `__all__`, or the public names that the module itself defines."""
    if hasattr(module, "__all__"):
        return {name: getattr(module, name) for name in module.__all__}
    own = {name: value for name, value in vars(module).items() if name[0] != "_"}
    return {name: value for name, value in own.items() if getattr(value, "__module__", None) == module.__name__}


def undocumented(module: types.ModuleType) -> list[str]:
    """Public functions, classes and methods without a docstring, of their own or of a class or protocol above."""
    values = public_values(module)
    classes = {name: value for name, value in values.items() if inspect.isclass(value)}
    protocols = [value for value in classes.values() if getattr(value, "_is_protocol", False)]
    documented = {name for protocol in protocols for name, method in vars(protocol).items() if inspect.getdoc(method)}
    explained = [value for value in values.values() if inspect.isfunction(value) or inspect.isclass(value)]
    silent_names = [] if inspect.getdoc(module) else [module.__name__]
    silent_names += [f"{module.__name__}.{value.__name__}" for value in explained if not inspect.getdoc(value)]
    for name, value in classes.items():
        kinds = (types.FunctionType, property, classmethod, staticmethod)
        methods = [name for name, kind in vars(value).items() if name[0] != "_" and isinstance(kind, kinds)]
        silent = [
            method for method in methods if method not in documented and not inspect.getdoc(getattr(value, method))
        ]
        silent_names += [f"{module.__name__}.{name}.{method}" for method in silent]
    return silent_names


def test_every_public_name_is_explained() -> None:
    left_out = tuple(f"pydistill.{name}" for name in load_reference().LEFT_OUT)
    names = [module.name for module in pkgutil.walk_packages(pydistill.__path__, "pydistill.")]
    modules = [importlib.import_module(name) for name in names if "._" not in name and not name.startswith(left_out)]
    assert [name for module in modules for name in undocumented(module)] == []


def test_a_name_that_is_not_explained_is_found() -> None:
    module = types.ModuleType("quiet", "A module.")
    exec("class Told:\n    'Told.'\n    def untold(self): ...\ndef nothing(): ...\n", vars(module))
    assert undocumented(module) == ["quiet.nothing", "quiet.Told.untold"]
