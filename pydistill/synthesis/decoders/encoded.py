"""Codes with everything that makes images of them: what a distilled set and a checkpoint store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pydistill._util.settings import from_dict
from pydistill.synthesis.decoders.base import Decoder
from pydistill.synthesis.decoders.settings import DecoderSettings, make_decoder


@dataclass(frozen=True)
class Encoded:
    """Images as the codes of a decoder.

    Attributes:
        description: the decoder's settings, with `shape` and `ipc`, as JSON-able values; None for pixels.
        codes: the tensors that are learned and stored.
        buffers: the constants that decoding needs besides.
        initial_codes: the codes before the first iteration.
    """

    description: dict[str, Any] | None
    codes: dict[str, Tensor]
    buffers: dict[str, Tensor]
    initial_codes: dict[str, Tensor]

    def images(self) -> Tensor:
        """Decode the images [n, C, H, W]."""
        return self._decode(self.codes)

    def initial_images(self) -> Tensor:
        """Decode the images before the first iteration, [n, C, H, W]."""
        return self._decode(self.initial_codes)

    @torch.no_grad()
    def _decode(self, codes: Mapping[str, Tensor]) -> Tensor:
        if self.description is None:
            return codes["images"]
        decoder = described_decoder(self.description)
        decoder.load_buffers(self.buffers)
        return decoder.decode(
            {name: code.float() if code.dtype == torch.bfloat16 else code for name, code in codes.items()}
        )


def described(settings: DecoderSettings | None, shape: tuple[int, int, int], ipc: int) -> dict[str, Any] | None:
    """Describe a decoder by JSON-able values, for `described_decoder`; None for pixels."""
    if settings is None:
        return None
    return settings.without_fit().of_kind() | {"shape": list(shape), "ipc": ipc}


def described_decoder(description: Mapping[str, Any]) -> Decoder:
    """Make the decoder of a description.

    Raises:
        SettingError: a setting does not exist or is outside its limits.
    """
    settings = {name: value for name, value in description.items() if name not in ("shape", "ipc")}
    channels, height, width = map(int, description["shape"])
    return make_decoder(from_dict(DecoderSettings, settings), (channels, height, width), int(description["ipc"]))
