"""Load the compiled module `pydistill._C` once, and remember why it is not in use if it is not."""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Extension:
    """What came of loading the compiled ops.

    `config` is how it was built (None if it is not in use), `reason` why it is not in use (None if it is), `path` its
    file (None if there is none), `device_types` the kinds of device that it has kernels for.
    """

    config: dict[str, Any] | None
    reason: str | None
    path: str | None

    @property
    def device_types(self) -> frozenset[str]:
        """The device types that the extension has kernels for."""
        if self.config is None:
            return frozenset()
        return frozenset({"cpu", "cuda"} if self.config["cuda"] else {"cpu"})


def _release(version: str) -> str:
    return ".".join(version.split("+")[0].split(".")[:2])


@cache
def load_extension() -> Extension:
    """Load the extension on the first call; later calls give the same answer.

    An extension that was never built is no fault: the reference runs instead. One that is there and cannot be used (it
    does not load, or was compiled for another torch, whose C++ interface differs, or belongs to an installed package
    that this one, a source tree, hides) is warned about, once.
    """
    path = _find(PACKAGE)
    if path is None:
        if (hidden := _hidden()) is not None:
            return _unusable(
                f"it is that of the installed package, which the one in {PACKAGE} hides, and that was not built",
                hidden,
                "run in another folder, or build it here too (docs/building.md says how)",
            )
        return Extension(None, "the extension pydistill/_C was not built (docs/building.md says how)", None)
    try:
        config = _load(path)
    except Exception as error:  # whatever it is, it is told in the warning and in build_config()
        return _unusable(f"it does not load: {type(error).__name__}: {error}", path)
    built, running = _release(config["torch_version"]), _release(torch.__version__)
    if built != running:
        return _unusable(f"it was compiled for torch {built} and this is torch {running}", path)
    return Extension(config, None, path)


def _find(package: Path) -> str | None:
    """The library's file beside the modules of a package."""
    return next((str(path) for suffix in EXTENSION_SUFFIXES if os.path.exists(path := package / f"_C{suffix}")), None)


def _hidden() -> str | None:
    """The library of another copy of this package that Python would find after this one.

    Of `sys.path`, Python's import passes over what is no str.
    """
    places = (place for place in sys.path if isinstance(place, str))
    copies = [copy for place in places if (copy := _copy_in(place)) is not None]
    if PACKAGE not in copies:
        return None
    after = (copy for copy in copies[copies.index(PACKAGE) :] if copy != PACKAGE)
    return next((path for copy in after if (path := _find(copy)) is not None), None)


def _copy_in(place: str) -> Path | None:
    """Where a copy of this package lies in a folder of `sys.path`, if one does; None if the folder is passed over."""
    try:
        return (Path(place or ".") / PACKAGE.name).resolve()
    except (OSError, RuntimeError, ValueError):  # the current folder is deleted, links in a circle: as Python's import
        return None


def _load(path: str) -> dict[str, Any]:
    """Import the module, which registers its ops under torch.ops.pydistill; return how it was built."""
    module = _import(path)
    config: dict[str, Any] = module.build_config()
    return config


def _import(path: str) -> ModuleType:
    """Import the file `path` as pydistill._C."""
    name = f"{PACKAGE.name}._C"
    loader = ExtensionFileLoader(name, path)
    spec = spec_from_loader(name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    sys.modules[name] = module
    sys.modules[PACKAGE.name]._C = module  # type: ignore[attr-defined] # as Python's import does
    return module


def _unusable(why: str, path: str | None, remedy: str = "build it again") -> Extension:
    reason = f"the extension {path} is not used: {why}"
    warnings.warn(f"pydistill runs on its PyTorch reference: {reason}; {remedy}", RuntimeWarning, stacklevel=2)
    return Extension(None, reason, path)
