"""The build configuration of this copy of pydistill."""

from __future__ import annotations

import platform
from typing import Any

import torch

from pydistill.ops.extension import load_extension

_NOT_COMPILED = ("torch_version", "compiler", "cxx_standard", "openmp", "isa", "cuda_version", "cuda_arch_list")


def build_config() -> dict[str, Any]:
    """Describe how this copy of pydistill was built: its kernels, the compiler, the torch version.

    Returns a dict of
        compiled: whether the compiled extension is in use; if False everything runs on the PyTorch reference,
        reason: why it is not (None if it is), path: the extension's file (None if there is none),
        cuda: whether CUDA kernels are compiled in (even if there is no GPU),
        cuda_version, cuda_arch_list: nvcc's version and the architectures it compiled for,
        torch_version: the torch it was compiled against,
        compiler, cxx_standard, openmp: how the host code was compiled,
        isa: the instruction set that the CPU's loops run with here (avx512, avx2 or baseline; docs/building.md),
        torch_running, python: what it runs on now.
    Entries that come from the extension are None if it is not in use.
    """
    extension = load_extension()
    built: dict[str, Any] = extension.config or {"cuda": False, **dict.fromkeys(_NOT_COMPILED)}
    return {
        "compiled": extension.config is not None,
        "reason": extension.reason,
        "path": extension.path,
        **built,
        "torch_running": torch.__version__,
        "python": platform.python_version(),
    }
