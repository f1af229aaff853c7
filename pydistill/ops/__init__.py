"""The ops: compiled where there are kernels for the tensor's device, plain PyTorch elsewhere; one set of errors."""

from __future__ import annotations

from pydistill.ops.sgd_step import sgd_step

__all__ = ["sgd_step"]
