"""Find the CUDA compiler and driver of this machine without using a GPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

SECONDS = 10.0
_DRIVER = Path("/proc/driver/nvidia/version")


def cuda_compiler() -> dict[str, str] | None:
    """Return path and version of the first working nvcc; None if there is none.

    Searches $CUDA_HOME, the PATH and pip's nvidia-cuda-nvcc, as setup.py does.
    """
    places = []
    if home := os.environ.get("CUDA_HOME"):
        places.append(Path(home) / "bin" / "nvcc")
    if on_path := shutil.which("nvcc"):
        places.append(Path(on_path))
    places += sorted(Path(sysconfig.get_paths()["purelib"]).glob("nvidia/*/bin/nvcc"))
    for path in places:
        version = re.search(r"release (\d+\.\d+)", _output([str(path), "--version"]))
        if version is not None:
            return {"path": str(path), "version": version[1]}
    return None


def cuda_driver() -> str | None:
    """Return the NVIDIA driver's version, from nvidia-smi or the kernel module; None if there is no driver."""
    if smi := shutil.which("nvidia-smi"):
        version = re.search(r"\d+\.\d+(\.\d+)?", _output([smi, "--query-gpu=driver_version", "--format=csv,noheader"]))
        if version is not None:
            return version[0]
    try:
        version = re.search(r"Kernel Module.*?(\d+\.\d+(\.\d+)?)", _DRIVER.read_text(encoding="utf-8"))
    except OSError:
        return None
    return None if version is None else version[1]


def _output(command: list[str]) -> str:
    """Return a program's standard output; empty if it cannot be run, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout
