"""Cached CUDA streams: PyTorch's allocator and the engine hold memory per stream, so streams are reused."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch


@lru_cache(maxsize=256)
def stream_of(use: str, device: torch.device, number: int = 0) -> Any:
    """Return stream `number` of a use on a GPU that is named by its index ("cuda:0"); other uses get other streams."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
