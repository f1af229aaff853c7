"""Decoders: from the tensors that are learned and stored (the codes) to the images that networks are trained on."""

from pydistill.synthesis.decoders.base import Decoder
from pydistill.synthesis.decoders.encoded import Encoded, described
from pydistill.synthesis.decoders.pixels import Pixels
from pydistill.synthesis.decoders.settings import DecoderSettings, make_decoder

__all__ = ["Decoder", "DecoderSettings", "Encoded", "Pixels", "described", "make_decoder"]
