"""The ConvNet of the dataset-distillation papers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pydistill.errors import InputError
from pydistill.nn import layers


class ConvNet(nn.Module):
    """`depth` blocks of [convolution 3x3, norm, activation, pooling 2x2], then one linear layer.

    Parameters in the published order and under the published names: per block `features.i.weight` and
    `features.i.bias` of the convolution, then of the norm; last `classifier.weight` and `classifier.bias`
    over the features flattened as C, H, W. Differentiable any number of times where the activation is; no
    buffers except with norm "batch".

    Source: Zhao, Mopuri and Bilen, "Dataset condensation with gradient matching", ICLR 2021, after Gidaris
    and Komodakis, CVPR 2018.

    Args:
        in_channels: C of the images [B, C, H, W].
        num_classes: K of the logits [B, K].
        image_size: H = W in pixels, or (H, W).
        width: channels of every block.
        depth: number of blocks, 1 to 6.
        norm: "instance" (one group per channel), "group" (4 groups), "batch", "layer" (over C, H, W), "none".
        activation: "relu", "leaky_relu" (slope 0.01) or "sigmoid".
        pooling: "average", "max" or "none"; an odd last row or column is dropped.
        first_padding: zeros around the image in the first convolution; 1 keeps its size. The published
            experts on one-channel images were trained with 3, which makes 28x28 look like 32x32.

    Raises:
        InputError: an argument outside its limits, or an image too small for the depth.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: int | Sequence[int],
        width: int = 128,
        depth: int = 3,
        norm: str = "instance",
        activation: str = "relu",
        pooling: str = "average",
        first_padding: int = 1,
    ) -> None:
        super().__init__()
        self.in_channels = layers.integer("in_channels", in_channels, 1)
        self.num_classes = layers.integer("num_classes", num_classes, 1)
        self.image_size = layers.plane_of(image_size)
        self.width = layers.integer("width", width, 1)
        self.depth = layers.integer("depth", depth, 1, 6)
        self.norm = layers.one_of("norm", norm, layers.NORMS)
        self.activation = layers.one_of("activation", activation, layers.ACTIVATIONS)
        self.pooling = layers.one_of("pooling", pooling, layers.POOLINGS)
        self.first_padding = layers.integer("first_padding", first_padding, 0)

        self.features, plane = self._make_features()
        self.classifier = nn.Linear(width * plane[0] * plane[1], num_classes)

    def _make_features(self) -> tuple[nn.Sequential, layers.Plane]:
        """Make the blocks; return them and the plane of their output."""
        modules: list[nn.Module] = []
        channels, plane = self.in_channels, self.image_size
        self._check_size()
        for block in range(self.depth):
            padding = self.first_padding if block == 0 else 1
            plane = layers.padded(plane, 3, padding)
            modules.append(nn.Conv2d(channels, self.width, 3, padding=padding))
            channels = self.width
            norm = layers.make_norm(self.norm, channels, plane)
            if norm is not None:
                modules.append(norm)
            modules.append(layers.make_activation(self.activation))
            pooling = layers.make_pooling(self.pooling)
            if pooling is not None:
                modules.append(pooling)
                plane = layers.halved(plane)
        return nn.Sequential(*modules), plane

    def _check_size(self) -> None:
        after_poolings = 1 if self.pooling == "none" else 2**self.depth
        least = max(1, after_poolings - 2 * (self.first_padding - 1))
        height, width = self.image_size
        if min(height, width) < least:
            raise InputError(
                f"images of {height}x{width} are too small for a ConvNet of depth {self.depth}, pooling "
                f"{self.pooling} and first_padding {self.first_padding}: both sides must be at least {least}"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits [B, num_classes] of images [B, in_channels, H, W]."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits
