"""Marks of tests that need a certain build or machine."""

from __future__ import annotations

import pytest
import torch

from pydistill.ops.build_info import build_config

compiled_only = pytest.mark.skipif(
    not build_config()["compiled"], reason=f"compiled ops only: {build_config()['reason']}"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU is visible")
needs_kernels = pytest.mark.skipif(not build_config()["cuda"], reason="built without CUDA kernels")
