"""A GPU's streams, always the same ones: PyTorch's allocator and the engine keep memory for each stream."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch


@lru_cache(maxsize=256)
def stream_of(use: str, device: torch.device, number: int = 0) -> Any:
    """The stream of this number that a use has on a GPU, named by its index ("cuda:0"); other uses have others."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
