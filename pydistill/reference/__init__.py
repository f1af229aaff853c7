"""Each op again in plain PyTorch, same name and signature: the tests' oracle, and what runs where none is compiled."""

from __future__ import annotations

from pydistill.reference.adjoint_step import adjoint_step
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
    "sgd_step",
    "softmax_xent",
    "softmax_xent_backward",
    "softmax_xent_backward_jvp",
    "softmax_xent_jvp",
    "trajectory_point",
]
