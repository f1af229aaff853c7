"""The ops: compiled where there are kernels for the tensor's device, plain PyTorch elsewhere, with the same errors."""

from __future__ import annotations

from pydistill.ops.adjoint_step import adjoint_step
from pydistill.ops.augment import augment, augment_backward
from pydistill.ops.norm_act_pool import (
    norm_act_pool,
    norm_act_pool_backward,
    norm_act_pool_backward_jvp,
    norm_act_pool_jvp,
)
from pydistill.ops.sgd_step import sgd_step
from pydistill.ops.softmax_xent import (
    softmax_xent,
    softmax_xent_backward,
    softmax_xent_backward_jvp,
    softmax_xent_jvp,
)
from pydistill.ops.trajectory_point import trajectory_point

__all__ = [
    "adjoint_step",
    "augment",
    "augment_backward",
    "norm_act_pool",
    "norm_act_pool_backward",
    "norm_act_pool_backward_jvp",
    "norm_act_pool_jvp",
    "sgd_step",
    "softmax_xent",
    "softmax_xent_backward",
    "softmax_xent_backward_jvp",
    "softmax_xent_jvp",
    "trajectory_point",
]
