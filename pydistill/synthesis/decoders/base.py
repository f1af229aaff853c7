"""The interface of a decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor


class Decoder(ABC):
    """A map from codes, the tensors that are learned and stored, to images.

    It is applied once per outer iteration, outside the student's steps. The gradient of the codes is the pixels'
    gradient, pulled back through `decode` by autograd.
    """

    def images_per_class(self, ipc: int) -> int:
        """Return the number of images of a class that the storage of `ipc` images holds."""
        return ipc

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The constants that decoding needs besides the codes; they are stored and checkpointed too."""
        return {}

    @abstractmethod
    def encode(self, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """Return the codes whose images are, or come near to, these.

        Args:
            images: [n, C, H, W].
            classes: the class of each image, [n] int64.
        """

    @abstractmethod
    def decode(self, codes: Mapping[str, Tensor]) -> Tensor:
        """Return the images [n, C, H, W] of the codes.

        Derivatives: first order in the codes.
        """
