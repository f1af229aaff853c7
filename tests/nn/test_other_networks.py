"""MLP, AlexNet, VGG11 and ResNet18: shapes from 8x8 on, published layer sizes, errors that name their limits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pydistill.errors import InputError
from pydistill.nn import MLP, VGG11, AlexNet, ResNet18
from pydistill.nn.resnet import BasicBlock

CONVOLUTIONAL = [AlexNet, VGG11, ResNet18]


def count(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


@pytest.mark.parametrize("network", CONVOLUTIONAL)
@pytest.mark.parametrize("size", [8, 9, 15, 16, 31, 32, (8, 21), 64])
def test_logits_depend_on_the_image_at_every_size(network: type[nn.Module], size: int | tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = network(3, 7, size, width=4)
    height, width = (size, size) if isinstance(size, int) else size
    logits = model(torch.randn(4, 3, height, width))
    assert logits.shape == (4, 7)
    # An instance norm over one pixel would make every row the same.
    assert (logits - logits[:1]).abs().amax() > 1e-3


@pytest.mark.parametrize("network", CONVOLUTIONAL)
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_only_batch_norm_has_buffers(network: type[nn.Module], norm: str) -> None:
    model = network(1, 4, 8, width=4, norm=norm)
    assert bool(list(model.buffers())) == (norm == "batch")
    assert model(torch.randn(3, 1, 8, 8)).shape == (3, 4)


@pytest.mark.parametrize("network", CONVOLUTIONAL)
def test_a_first_padding_of_its_own(network: type[nn.Module]) -> None:
    model = network(1, 10, 28, width=4, first_padding=4)
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    with pytest.raises(InputError, match="first_padding"):
        network(1, 10, 28, width=4, first_padding=-1)


def test_published_parameter_counts_at_cifar_size() -> None:
    with torch.device("meta"):
        # AlexNet: five convolutions with bias, and 192·4·4 features.
        convolutions = 3 * 128 * 25 + 128 * 192 * 25 + 192 * 256 * 9 + 256 * 192 * 9 + 192 * 192 * 9
        assert count(AlexNet(3, 10, 32)) == convolutions + (128 + 192 + 256 + 192 + 192) + 3072 * 10 + 10
        # The known sizes of VGG11 and ResNet18 for ten classes of 32x32 images.
        assert count(VGG11(3, 10, 32)) == 9_231_114
        assert count(ResNet18(3, 10, 32)) == 11_173_962


def test_alexnet_has_no_norm_unless_asked() -> None:
    def norms(model: nn.Module) -> int:
        return sum(isinstance(layer, nn.GroupNorm) for layer in model.modules())

    assert norms(AlexNet(3, 10, 8, width=4)) == 0
    assert norms(AlexNet(3, 10, 8, width=4, norm="instance")) == 5


@pytest.mark.parametrize("network", CONVOLUTIONAL)
def test_an_image_too_small_names_the_limit(network: type[nn.Module]) -> None:
    with pytest.raises(InputError, match="images of 8x7"):
        network(3, 10, (8, 7), width=4)


@pytest.mark.parametrize("network", [VGG11, ResNet18])
def test_a_norm_that_is_not_there_names_those_that_are(network: type[nn.Module]) -> None:
    with pytest.raises(InputError, match="norm"):
        network(3, 10, 32, norm="none")


def test_alexnet_names_its_limits() -> None:
    with pytest.raises(InputError, match="norm"):
        AlexNet(3, 10, 32, norm="layer")
    with pytest.raises(InputError, match="width"):
        AlexNet(3, 10, 32, width=5)
    with pytest.raises(InputError, match="first_padding"):
        AlexNet(3, 10, 11, width=4, first_padding=0)
    assert AlexNet(3, 10, 12, width=4, first_padding=0)(torch.randn(1, 3, 12, 12)).shape == (1, 10)


def test_resnet_at_cifar_size_halves_three_times() -> None:
    def strides(size: int) -> list[int]:
        blocks = [layer for layer in ResNet18(3, 10, size, width=4).modules() if isinstance(layer, BasicBlock)]
        return [block.conv1.stride[0] for block in blocks]

    assert strides(32) == [1, 1, 2, 1, 2, 1, 2, 1]
    assert strides(8) == [1, 1, 2, 1, 2, 1, 1, 1]


def test_vgg_leaves_out_the_poolings_that_a_small_image_has_no_pixels_for() -> None:
    def poolings(size: int) -> int:
        return sum(isinstance(layer, nn.MaxPool2d) for layer in VGG11(3, 10, size, width=2).modules())

    assert [poolings(size) for size in (8, 16, 31, 32, 64)] == [3, 4, 4, 5, 5]


def test_mlp_is_the_published_one() -> None:
    model = MLP(1, 10, 28)
    actual = [(name, tuple(value.shape)) for name, value in model.named_parameters()]
    assert actual == [
        ("layers.0.weight", (128, 784)),
        ("layers.0.bias", (128,)),
        ("layers.2.weight", (128, 128)),
        ("layers.2.bias", (128,)),
        ("layers.4.weight", (10, 128)),
        ("layers.4.bias", (10,)),
    ]


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("size", [1, 5, (3, 8)])
def test_mlp_of_any_depth_and_size(depth: int, size: int | tuple[int, int]) -> None:
    model = MLP(2, 3, size, width=6, depth=depth)
    height, width = (size, size) if isinstance(size, int) else size
    assert model(torch.randn(4, 2, height, width)).shape == (4, 3)
    assert len([layer for layer in model.modules() if isinstance(layer, nn.Linear)]) == depth


def test_mlp_names_its_limits() -> None:
    with pytest.raises(InputError, match="depth"):
        MLP(1, 10, 8, depth=0)
    with pytest.raises(InputError, match="activation"):
        MLP(1, 10, 8, activation="tanh")
