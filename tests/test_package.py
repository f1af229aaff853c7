"""The package's front door: the public names and nothing else, without importing torch."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import types
from pathlib import Path

import pydistill

ROOT = Path(__file__).parents[1]
SUBPACKAGES = {"data", "errors", "nn", "ops", "reference", "trajectories"}


def test_the_public_names_are_all_that_shows() -> None:
    assert dir(pydistill) == sorted(pydistill.__all__)
    assert not [name for name in dir(pydistill) if name.startswith("_") and name != "__version__"]


def test_every_public_name_is_there() -> None:
    for name in pydistill.__all__:
        value = getattr(pydistill, name)
        assert isinstance(value, types.ModuleType) == (name in SUBPACKAGES), name
    for name in ("distill", "evaluate", "load", "match", "train_experts"):
        assert inspect.isfunction(getattr(pydistill, name))


def test_the_functions_stay_functions_whatever_is_imported() -> None:
    """No module of the package has the name of a public function or class."""
    script = (
        "import importlib, pkgutil, types, pydistill;"
        "modules = {module.name for module in pkgutil.iter_modules(pydistill.__path__)};"
        f"print(sorted(modules & (set(pydistill.__all__) - {SUBPACKAGES})))"
    )
    assert _output(script) == "[]"


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = (
        "import sys, pydistill; dir(pydistill);"
        "print(sorted({'torch', 'numpy', 'safetensors', 'matplotlib'} & set(sys.modules)))"
    )
    assert _output(script) == "[]"


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(pydistill, "distil")


def _output(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_package_is_light() -> None:
    """Optional packages that torch does not import itself stay unimported, and CUDA uninitialised."""
    script = (
        "import sys, torch; before = set(sys.modules);"
        "import pydistill, pydistill.nn, pydistill.data, pydistill.distillation.distiller;"
        "import pydistill.evaluation.evaluate;"
        "optional = {'torchvision', 'sklearn', 'matplotlib', 'ruamel', 'tqdm', 'PIL'};"
        "heavy = optional & (set(sys.modules) - before);"
        "assert not heavy, heavy; assert not torch.cuda.is_initialized()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_core_works_without_the_optional_packages(tmp_path: Path) -> None:
    """Without torchvision and ruamel.yaml, matching works, and reading a recipe names the package to install."""
    for name in ("torchvision", "ruamel", "sklearn", "matplotlib", "tqdm"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')")
    script = "from pydistill.cli._doctor import self_test; print(self_test('torch', 'cpu')[0] < 1e-9)"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    common = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": False}
    done = subprocess.run([sys.executable, "-c", script], **common)
    assert done.stdout.strip() == "True", done.stderr
    command = [sys.executable, "-m", "pydistill", "distill", "--preset", "demo/digits-att", "--print_config"]
    done = subprocess.run(command, **common)
    assert done.returncode == 1
    assert "ruamel.yaml: pip install ruamel.yaml" in done.stderr
