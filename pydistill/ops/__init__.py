"""The ops: compiled where there are kernels for the tensor's device, plain PyTorch elsewhere; one set of errors."""

from __future__ import annotations

from pydistill.ops.norm_act_pool import (
    norm_act_pool,
    norm_act_pool_backward,
    norm_act_pool_backward_jvp,
    norm_act_pool_jvp,
)
from pydistill.ops.sgd_step import sgd_step

__all__ = [
    "norm_act_pool",
    "norm_act_pool_backward",
    "norm_act_pool_backward_jvp",
    "norm_act_pool_jvp",
    "sgd_step",
]
