"""Random networks that the fused engine runs, for property tests."""

from __future__ import annotations

import torch
from hypothesis import assume
from hypothesis import strategies as st

from pydistill.errors import InputError
from pydistill.nn import MLP, ConvNet
from tests.matching.engine import Network


def _too_few_pixels(model: ConvNet) -> bool:
    """Return True if an instance norm sees two pixels: they become −1 and 1 whatever they were, so that derivatives are
    differences of nearly equal numbers, in every implementation."""
    height, width = model.image_size
    for block in range(model.depth):
        padding = model.first_padding if block == 0 else 1
        height, width = height + 2 * padding - 2, width + 2 * padding - 2
        if model.norm == "instance" and height * width <= 2:
            return True
        if model.pooling != "none":
            height, width = height // 2, width // 2
    return False


@st.composite
def convnets(draw: st.DrawFn, largest_width: int = 40) -> ConvNet:
    depth = draw(st.integers(1, 6))
    pooling = draw(st.sampled_from(["average", "max", "none"]))
    padding = draw(st.integers(0, 3))
    least = max(1, (1 if pooling == "none" else 2**depth) - 2 * (padding - 1))
    height, width = (least + draw(st.integers(0, 5)) for _ in range(2))
    units = draw(st.integers(1, largest_width if height * width < 300 else 6))
    arguments = (draw(st.integers(1, 5)), draw(st.integers(1, 12)), (height, width), units, depth)
    norm = draw(st.sampled_from(["instance", "none"]))
    with torch.random.fork_rng():
        torch.manual_seed(draw(st.integers(0, 1000)))
        try:
            model = ConvNet(*arguments, norm=norm, pooling=pooling, first_padding=padding).double()
        except InputError:  # an instance norm of one pixel
            model = ConvNet(*arguments, norm="none", pooling=pooling, first_padding=padding).double()
    assume(not _too_few_pixels(model))
    return model


@st.composite
def mlps(draw: st.DrawFn, largest_width: int = 40) -> MLP:
    size = (draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    channels, classes = draw(st.integers(1, 5)), draw(st.integers(1, 12))
    with torch.random.fork_rng():
        torch.manual_seed(draw(st.integers(0, 1000)))
        return MLP(channels, classes, size, draw(st.integers(1, largest_width)), draw(st.integers(1, 4))).double()


def networks(largest_width: int = 40) -> st.SearchStrategy[Network]:
    return st.one_of(convnets(largest_width), convnets(largest_width), mlps(largest_width))
