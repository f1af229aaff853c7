"""Each op again in plain PyTorch, same name and signature: the tests' oracle, and what runs where none is compiled."""

from __future__ import annotations

from pydistill.reference.norm_act_pool import (
    norm_act_pool,
    norm_act_pool_backward,
    norm_act_pool_backward_jvp,
    norm_act_pool_jvp,
)
from pydistill.reference.sgd_step import sgd_step

__all__ = [
    "norm_act_pool",
    "norm_act_pool_backward",
    "norm_act_pool_backward_jvp",
    "norm_act_pool_jvp",
    "sgd_step",
]
