"""Each op again in plain PyTorch, same name and signature: the tests' oracle, and what runs where none is compiled."""

from __future__ import annotations

from pydistill.reference.sgd_step import sgd_step

__all__ = ["sgd_step"]
