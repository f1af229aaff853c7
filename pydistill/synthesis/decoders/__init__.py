"""Decoders: from the tensors that are learned and stored (the codes) to the images that networks are trained on."""

from pydistill.synthesis.decoders.base import Decoder
from pydistill.synthesis.decoders.pixels import Pixels

__all__ = ["Decoder", "Pixels"]
