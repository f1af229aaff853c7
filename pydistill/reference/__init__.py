"""Every op in plain PyTorch, with the same name and signature: the tests' oracle, and the fallback of the ops."""

from __future__ import annotations

from pydistill.reference.adjoint_step import adjoint_step
from pydistill.reference.augment import augment, augment_backward
from pydistill.reference.norm_act_pool import (
    norm_act_pool,
    norm_act_pool_backward,
    norm_act_pool_backward_jvp,
    norm_act_pool_jvp,
)
from pydistill.reference.sgd_step import sgd_step
from pydistill.reference.softmax_xent import (
    softmax_xent,
    softmax_xent_backward,
    softmax_xent_backward_jvp,
    softmax_xent_jvp,
)
from pydistill.reference.trajectory_point import trajectory_point

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
