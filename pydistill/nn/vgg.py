"""VGG11 at the size of CIFAR images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pydistill.nn import layers

NORMS = ("instance", "batch")
SMALLEST_IMAGE = 8
STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))
"""Channels of the convolutions of each stage, in multiples of the width."""


class VGG11(nn.Module):
    """Eight convolutions 3x3 with norm and ReLU in five stages, a max pooling after each, one linear layer.

    The variant of the dataset-distillation papers. From 32x32 on, the output pixels of the fifth stage are
    averaged. On smaller images, a pooling that would leave fewer than two pixels a side to the next stage is
    omitted: an instance norm of one pixel would erase the signal. Differentiable any number of times; no
    buffers except with norm "batch".

    Source: Simonyan and Zisserman, ICLR 2015; this size: Zhao, Mopuri and Bilen, ICLR 2021.

    Args:
        in_channels: C of the images [B, C, H, W].
        num_classes: K of the logits [B, K].
        image_size: H = W in pixels, or (H, W); both sides at least 8.
        width: channels of the first convolution; the last has 8 times as many.
        norm: "instance" or "batch".
        first_padding: zeros around the image in the first convolution; 1 keeps its size.

    Raises:
        InputError: an argument outside its limits.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: int | Sequence[int],
        width: int = 64,
        norm: str = "instance",
        first_padding: int = 1,
    ) -> None:
        super().__init__()
        self.in_channels = layers.integer("in_channels", in_channels, 1)
        self.num_classes = layers.integer("num_classes", num_classes, 1)
        self.image_size = layers.plane_at_least(image_size, SMALLEST_IMAGE, "a VGG11")
        self.width = layers.integer("width", width, 1)
        self.norm = layers.one_of("norm", norm, NORMS)
        self.first_padding = layers.integer("first_padding", first_padding, 0)

        modules: list[nn.Module] = []
        channels, plane, padding = (
            in_channels,
            layers.padded(self.image_size, 3, first_padding),
            first_padding,
        )
        for index, stage in enumerate(STAGES):
            for multiple in stage:
                modules.append(nn.Conv2d(channels, multiple * width, 3, padding=padding))
                channels, padding = multiple * width, 1
                norm_layer = layers.make_norm(norm, channels, plane)
                if norm_layer is not None:
                    modules.append(norm_layer)
                modules.append(nn.ReLU())
            is_last = index == len(STAGES) - 1
            if min(layers.halved(plane)) >= (1 if is_last else 2):
                modules.append(nn.MaxPool2d(2))
                plane = layers.halved(plane)
        self.features = nn.Sequential(*modules)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits [B, num_classes] of images [B, in_channels, H, W]."""
        logits: Tensor = self.classifier(self.features(images).mean((2, 3)))
        return logits
