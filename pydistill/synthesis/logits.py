"""A network's logits of many images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pydistill.nn.modes import evaluating

CHUNK = 256
"""Images that pass through a network at a time."""


def logits(network: nn.Module, images: Tensor) -> Tensor:
    """Compute the network's logits [n, K] in evaluation mode, without a graph, in the dtype of the images."""
    with evaluating(network):
        return torch.cat([network(chunk) for chunk in chunks(network, images)]).to(images.dtype)


def chunks(network: nn.Module, images: Tensor) -> Iterator[Tensor]:
    """Yield 256 images at a time, in the dtype of the network's parameters."""
    dtype = next((parameter.dtype for parameter in network.parameters()), images.dtype)
    for chunk in torch.split(images, CHUNK):
        yield chunk.to(dtype)
