"""AlexNet at the size of CIFAR images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pydistill.errors import InputError
from pydistill.nn import layers

NORMS = ("none", "instance", "batch")
SMALLEST_IMAGE = 8


class AlexNet(nn.Module):
    """Five convolutions (5x5, 5x5, three 3x3) of stride 1, three 2x2 max poolings, then one linear layer.

    The variant of the dataset-distillation papers, without a norm as in their code (the default).
    Differentiable any number of times; no buffers except with norm "batch".

    Source: Krizhevsky, Sutskever and Hinton, NeurIPS 2012; this size: Zhao, Mopuri and Bilen, ICLR 2021.

    Args:
        in_channels: C of the images [B, C, H, W].
        num_classes: K of the logits [B, K].
        image_size: H = W in pixels, or (H, W); both sides at least 8.
        width: channels of the first convolution, an even number; the others have 1.5, 2, 1.5 and 1.5 times
            as many.
        norm: "none", "instance" or "batch", before each activation.
        first_padding: zeros around the image in the first convolution; 2 keeps its size.

    Raises:
        InputError: an argument outside its limits.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: int | Sequence[int],
        width: int = 128,
        norm: str = "none",
        first_padding: int = 2,
    ) -> None:
        super().__init__()
        self.in_channels = layers.integer("in_channels", in_channels, 1)
        self.num_classes = layers.integer("num_classes", num_classes, 1)
        self.image_size = layers.plane_of(image_size)
        self.width = layers.integer("width", width, 2)
        self.norm = layers.one_of("norm", norm, NORMS)
        self.first_padding = layers.integer("first_padding", first_padding, 0)
        if width % 2:
            raise InputError(f"width of an AlexNet must be even, not {width}")
        plane = layers.padded(self.image_size, 5, first_padding)
        least = max(SMALLEST_IMAGE, SMALLEST_IMAGE + 4 - 2 * first_padding)
        if min(self.image_size) < least:
            height, columns = self.image_size
            raise InputError(
                f"images of {height}x{columns} are too small for an AlexNet of first_padding "
                f"{first_padding}: both sides must be at least {least}"
            )

        wider, widest = width * 3 // 2, width * 2
        # (channels, kernel, padding, pooled) of each convolution.
        plan = (
            (width, 5, first_padding, True),
            (wider, 5, 2, True),
            (widest, 3, 1, False),
            (wider, 3, 1, False),
            (wider, 3, 1, True),
        )
        modules: list[nn.Module] = []
        channels = in_channels
        for out_channels, kernel, padding, pooled in plan:
            modules.append(nn.Conv2d(channels, out_channels, kernel, padding=padding))
            channels = out_channels
            norm_layer = layers.make_norm(norm, channels, plane)
            if norm_layer is not None:
                modules.append(norm_layer)
            modules.append(nn.ReLU())
            if pooled:
                modules.append(nn.MaxPool2d(2))
                plane = layers.halved(plane)
        self.features = nn.Sequential(*modules)
        self.classifier = nn.Linear(channels * plane[0] * plane[1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits [B, num_classes] of images [B, in_channels, H, W]."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits
