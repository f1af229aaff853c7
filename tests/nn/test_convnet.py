"""The ConvNet: published names and order, shapes at every size, and errors that name their limits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pydistill.errors import InputError
from pydistill.nn import ConvNet
from pydistill.nn.layers import ACTIVATIONS, NORMS, POOLINGS


def test_parameters_have_the_published_names_order_and_shapes() -> None:
    model = ConvNet(3, 10, 32, width=128, depth=3)
    actual = [(name, tuple(value.shape)) for name, value in model.named_parameters()]
    assert actual == [
        ("features.0.weight", (128, 3, 3, 3)),
        ("features.0.bias", (128,)),
        ("features.1.weight", (128,)),
        ("features.1.bias", (128,)),
        ("features.4.weight", (128, 128, 3, 3)),
        ("features.4.bias", (128,)),
        ("features.5.weight", (128,)),
        ("features.5.bias", (128,)),
        ("features.8.weight", (128, 128, 3, 3)),
        ("features.8.bias", (128,)),
        ("features.9.weight", (128,)),
        ("features.9.bias", (128,)),
        ("classifier.weight", (10, 2048)),
        ("classifier.bias", (10,)),
    ]
    assert sum(value.numel() for value in model.parameters()) == 320_010
    assert not list(model.buffers())


def test_without_norm_and_pooling_the_layers_move_up() -> None:
    names = [name for name, _ in ConvNet(3, 10, 8, 4, 2, norm="none", pooling="none").named_parameters()]
    assert names == [
        "features.0.weight",
        "features.0.bias",
        "features.2.weight",
        "features.2.bias",
        "classifier.weight",
        "classifier.bias",
    ]


@pytest.mark.parametrize("size", [8, 9, 13, 32, (8, 15), (17, 9)])
@pytest.mark.parametrize("channels", [1, 3])
def test_logits_at_even_odd_and_oblong_sizes(size: int | tuple[int, int], channels: int) -> None:
    model = ConvNet(channels, 7, size, width=4, depth=3)
    height, width = (size, size) if isinstance(size, int) else size
    assert model.image_size == (height, width)
    logits = model(torch.randn(5, channels, height, width))
    assert logits.shape == (5, 7)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_option_is_kept_and_runs(norm: str, pooling: str, activation: str) -> None:
    model = ConvNet(2, 3, 6, 4, 2, norm, activation, pooling)
    assert (model.norm, model.pooling, model.activation) == (norm, pooling, activation)
    assert model(torch.randn(3, 2, 6, 6)).shape == (3, 3)
    assert bool(list(model.buffers())) == (norm == "batch")


def test_instance_norm_equals_instance_norm_2d() -> None:
    model = ConvNet(3, 10, 8, width=4, depth=1)
    features = torch.randn(2, 4, 8, 8)
    reference = nn.functional.instance_norm(features, eps=1e-5)
    torch.testing.assert_close(model.features[1](features), reference)


def test_first_padding_makes_28_look_like_32() -> None:
    model = ConvNet(1, 10, 28, width=4, depth=3, first_padding=3)
    assert model.classifier.in_features == 4 * 4 * 4
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    assert ConvNet(1, 10, 28, width=4, depth=3).classifier.in_features == 4 * 3 * 3


@pytest.mark.parametrize(("size", "depth", "least"), [(7, 3, 8), ((8, 7), 3, 8), (15, 4, 16), (63, 6, 64), (1, 1, 2)])
def test_an_image_too_small_names_the_limit(size: int | tuple[int, int], depth: int, least: int) -> None:
    with pytest.raises(InputError, match=f"{least}$"):
        ConvNet(3, 10, size, width=4, depth=depth)
    assert ConvNet(3, 10, least, width=4, depth=depth)(torch.randn(2, 3, least, least)).shape == (2, 10)


@pytest.mark.parametrize(("first_padding", "least"), [(0, 10), (1, 8), (2, 6), (5, 1)])
def test_the_limit_counts_the_first_padding(first_padding: int, least: int) -> None:
    model = ConvNet(3, 10, least, width=4, first_padding=first_padding)
    assert model(torch.randn(2, 3, least, least)).shape == (2, 10)
    if least > 1:
        with pytest.raises(InputError, match=f"{least}$"):
            ConvNet(3, 10, least - 1, width=4, first_padding=first_padding)


def test_instance_norm_of_one_pixel_is_refused() -> None:
    with pytest.raises(InputError, match="norm instance"):
        ConvNet(3, 10, 1, width=4, depth=1, pooling="none")
    assert ConvNet(3, 10, 1, 4, 1, norm="none", pooling="none")(torch.randn(2, 3, 1, 1)).shape == (2, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "instancenorm"}, "norm"),
        ({"activation": "gelu"}, "activation"),
        ({"pooling": "avg"}, "pooling"),
        ({"depth": 0}, "depth"),
        ({"depth": 7}, "depth"),
        ({"width": 0}, "width"),
        ({"width": 6, "norm": "group"}, "multiple of 4, not 6"),
        ({"first_padding": -1}, "first_padding"),
        ({"in_channels": 0}, "in_channels"),
        ({"num_classes": True}, "num_classes"),
        ({"image_size": (8, 8, 3)}, "image_size"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"in_channels": 3, "num_classes": 10, "image_size": 32}
    with pytest.raises(InputError, match=message):
        ConvNet(**{**arguments, **change})  # type: ignore[arg-type]
