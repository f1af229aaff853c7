"""The interface of a decoder, and the product that several are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor


class Decoder(ABC):
    """A map from codes, the tensors that are learned and stored, to images.

    It is applied once per outer iteration, outside the student's steps. The gradient of the codes is the pixels'
    gradient, pulled back through `decode` by autograd.

    Attributes:
        images_per_class: the images of a class, which come in the order of the classes.
    """

    images_per_class: int

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The constants that decoding needs besides the codes, known after `encode`; stored and checkpointed too."""
        return {}

    def load_buffers(self, buffers: Mapping[str, Tensor]) -> None:  # noqa: B027 (most decoders have none)
        """Restore the buffers of these names."""

    def represented(self, images: Tensor) -> Tensor:
        """Return the images [n, C, H, W] whose codes `encode` makes of these; other ones if it leaves some out."""
        return images

    @abstractmethod
    def encode(self, images: Tensor, classes: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the codes whose images are, or come near to, these.

        Args:
            images: [n, C, H, W].
            classes: the class of each image, [n] int64.
            generator: on the CPU, for codes that are fitted from a random start.
        """

    @abstractmethod
    def decode(self, codes: Mapping[str, Tensor]) -> Tensor:
        """Return the images [n, C, H, W] of the codes.

        Derivatives: first order in the codes.
        """

    def compact(self, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the codes as they are stored; they have the same images, bit for bit."""
        return dict(codes)

    def penalty(self, codes: Mapping[str, Tensor]) -> Tensor | None:
        """Return a term of the codes that is added to the matching loss, 0-dim, or None."""
        return None

    def project(self, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the codes after an update, within their limits."""
        return dict(codes)


def separable(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return rows · x · columnsᵀ for every channel of every image: [n, C, h, w] → [n, C, H, W].

    Args:
        rows: [H, h].
        columns: [W, w].
    """
    return rows @ images @ columns.T
