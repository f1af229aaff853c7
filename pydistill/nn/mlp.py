"""The multi-layer perceptron of the dataset-distillation papers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pydistill.nn import layers


class MLP(nn.Module):
    """`depth` linear layers over the flattened image, with an activation between them.

    Published: 3 layers, 128 hidden units, ReLU. Parameters: `layers.i.weight`, `layers.i.bias`, from the image to the
    logits. Differentiable any number of times where the activation is; no buffers.

    Args:
        in_channels: C of the images [B, C, H, W].
        num_classes: K of the logits [B, K].
        image_size: H = W in pixels, or (H, W).
        width: hidden units of every layer but the last.
        depth: number of linear layers, at least 1 (which is a linear classifier).
        activation: "relu", "leaky_relu" (slope 0.01) or "sigmoid".

    Raises:
        InputError: an argument outside its limits.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: int | Sequence[int],
        width: int = 128,
        depth: int = 3,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.in_channels = layers.integer("in_channels", in_channels, 1)
        self.num_classes = layers.integer("num_classes", num_classes, 1)
        self.image_size = layers.plane_of(image_size)
        self.width = layers.integer("width", width, 1)
        self.depth = layers.integer("depth", depth, 1)
        self.activation = layers.one_of("activation", activation, layers.ACTIVATIONS)

        pixels = in_channels * self.image_size[0] * self.image_size[1]
        units = [pixels, *[width] * (depth - 1), num_classes]
        modules: list[nn.Module] = []
        for index in range(depth):
            if index > 0:
                modules.append(layers.make_activation(activation))
            modules.append(nn.Linear(units[index], units[index + 1]))
        self.layers = nn.Sequential(*modules)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits [B, num_classes] of images [B, in_channels, H, W]."""
        logits: Tensor = self.layers(images.flatten(1))
        return logits
