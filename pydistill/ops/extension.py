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
    """The outcome of loading the compiled ops.

    `config` is the build configuration (None if the extension is not in use), `reason` why it is not in use (None if it
    is), `path` its file (None if there is none), `device_types` the device types that it has kernels for.
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

    Without an extension the reference runs. A RuntimeWarning, once, reports an extension that exists and cannot be
    used: it does not load, was compiled for another torch with another C++ interface, or belongs to an installed
    package that this source tree hides.
    """
    path = _find(PACKAGE)
    if path is None:
        if (hidden := _hidden()) is not None:
            return _unusable(
                f"it belongs to the installed package, which the source tree {PACKAGE}, not built, hides",
                hidden,
                "run in another folder, or build it here too (see docs/building.md)",
            )
        return Extension(None, "the extension pydistill/_C was not built (see docs/building.md)", None)
    try:
        config = _load(path)
    except Exception as error:  # the warning and build_config() report it
        return _unusable(f"it does not load: {type(error).__name__}: {error}", path)
    built, running = _release(config["torch_version"]), _release(torch.__version__)
    if built != running:
        return _unusable(f"it was compiled for torch {built} and this is torch {running}", path)
    return Extension(config, None, path)


def _find(package: Path) -> str | None:
    """Return the extension's file in a package's folder, if there is one."""
    return next((str(path) for suffix in EXTENSION_SUFFIXES if os.path.exists(path := package / f"_C{suffix}")), None)


def _hidden() -> str | None:
    """Return the extension of the copy of this package that comes next in `sys.path`, if there is one."""
    places = (place for place in sys.path if isinstance(place, str))  # Python's import ignores other entries
    copies = [copy for place in places if (copy := _copy_in(place)) is not None]
    if PACKAGE not in copies:
        return None
    after = (copy for copy in copies[copies.index(PACKAGE) :] if copy != PACKAGE)
    return next((path for copy in after if (path := _find(copy)) is not None), None)


def _copy_in(place: str) -> Path | None:
    """Return the folder that a copy of this package has in an entry of `sys.path`; None if the entry is unusable."""
    try:
        return (Path(place or ".") / PACKAGE.name).resolve()
    except (OSError, RuntimeError, ValueError):  # a deleted current folder, circular links: Python's import skips them
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
