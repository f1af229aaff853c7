"""ResNet18 at the size of CIFAR images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pydistill.nn import layers

NORMS = ("instance", "batch")
SMALLEST_IMAGE = 8


def _norm(kind: str, channels: int, plane: layers.Plane) -> nn.Module:
    norm = layers.make_norm(kind, channels, plane)
    return nn.Identity() if norm is None else norm


class BasicBlock(nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)).

    The shortcut is the identity, or a strided 1x1 convolution with a norm where the shape changes.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, norm: str, plane: layers.Plane) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = _norm(norm, channels, plane)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = _norm(norm, channels, plane)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), _norm(norm, channels, plane)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Compute features [B, C', H', W'] from features [B, C, H, W]."""
        inner = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(features)))))
        return torch.relu(inner + self.shortcut(features))


class ResNet18(nn.Module):
    """A 3x3 convolution, four stages of two basic blocks, the average over the plane, and one linear layer.

    The variant of the dataset-distillation papers (no 7x7 stem, no first pooling); the last three stages
    halve the plane. On images below 16x16, a stage that would leave fewer than two pixels a side keeps its
    plane: an instance norm of one pixel would erase the signal. Differentiable any number of times; no buffers
    except with norm "batch".

    Source: He, Zhang, Ren and Sun, CVPR 2016; this size: Zhao, Mopuri and Bilen, ICLR 2021.

    Args:
        in_channels: C of the images [B, C, H, W].
        num_classes: K of the logits [B, K].
        image_size: H = W in pixels, or (H, W); both sides at least 8.
        width: channels of the first stage; the others have 2, 4 and 8 times as many.
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
        self.image_size = layers.plane_at_least(image_size, SMALLEST_IMAGE, "a ResNet18")
        self.width = layers.integer("width", width, 1)
        self.norm = layers.one_of("norm", norm, NORMS)
        self.first_padding = layers.integer("first_padding", first_padding, 0)

        plane = layers.padded(self.image_size, 3, first_padding)
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=first_padding, bias=False)
        self.norm1 = _norm(norm, width, plane)
        blocks: list[nn.Module] = []
        channels = width
        for multiple in (1, 2, 4, 8):
            strided = ((plane[0] + 1) // 2, (plane[1] + 1) // 2)
            stride = 2 if multiple > 1 and min(strided) >= 2 else 1
            if stride == 2:
                plane = strided
            blocks.append(BasicBlock(channels, multiple * width, stride, norm, plane))
            channels = multiple * width
            blocks.append(BasicBlock(channels, channels, 1, norm, plane))
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits [B, num_classes] of images [B, in_channels, H, W]."""
        features = self.blocks(torch.relu(self.norm1(self.conv1(images))))
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits
