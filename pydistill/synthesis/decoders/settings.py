"""The settings of a decoder, and the decoder that they stand for."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from pydistill._util.settings import Settings, setting
from pydistill.errors import SettingError
from pydistill.synthesis.decoders.base import Decoder
from pydistill.synthesis.decoders.dct import Dct
from pydistill.synthesis.decoders.fitting import Fitting
from pydistill.synthesis.decoders.gaussians import Gaussians, Stored
from pydistill.synthesis.decoders.mirror import Mirror
from pydistill.synthesis.decoders.pixels import Pixels
from pydistill.synthesis.decoders.siren import Siren
from pydistill.synthesis.decoders.upsample import Upsample

Kind = Literal["upsample", "mirror", "dct", "gaussians", "siren"]
_USED_BY = {
    "factor": ("upsample",),
    "coefficients": ("dct",),
    "images": ("gaussians",),
    "stored": ("gaussians",),
    "boundary": ("gaussians",),
    "width": ("siren",),
    "layers": ("siren",),
    "first_omega": ("siren",),
    "omega": ("siren",),
    "fit_steps": ("gaussians", "siren"),
    "fit_lr": ("gaussians", "siren"),
}


@dataclass(frozen=True)
class DecoderSettings(Settings):
    """The choice of a decoder, with the settings of its kind; a setting of another kind is refused."""

    kind: Kind = setting("upsample", "upsample, mirror, dct, gaussians or siren")
    factor: int = setting(2, "upsample: f, of which f² small images take the storage of one", at_least=2)
    coefficients: int = setting(64, "dct: m, coefficients of an image per channel", at_least=1)
    images: int = setting(30, "gaussians: images per class, among which the storage is divided", at_least=1)
    stored: Stored = setting("bfloat16", "gaussians: dtype in which they are stored, float32 or bfloat16")
    boundary: float = setting(0.1, "gaussians: weight of the term that keeps the centres inside", at_least=0)
    width: int = setting(6, "siren: width of the hidden layers", at_least=1)
    layers: int = setting(2, "siren: number of hidden layers", at_least=1)
    first_omega: float = setting(30.0, "siren: ω of the first layer, the frequency of its sines", above=0)
    omega: float = setting(10.0, "siren: ω of the other layers", above=0)
    fit_steps: int = setting(500, "gaussians, siren: steps of the fit to the initial images", at_least=0)
    fit_lr: float = setting(0.01, "gaussians, siren: rate of the fit, by Adam", above=0)

    def _check(self) -> None:
        for item in fields(self):
            kinds, value = _USED_BY.get(item.name, (self.kind,)), getattr(self, item.name)
            if self.kind not in kinds and value != item.default:
                allowed = f"left out with kind {self.kind}"
                raise SettingError(item.name, value, allowed, f"it belongs to kind {' or '.join(kinds)}")

    def of_kind(self) -> dict[str, Any]:
        """Return the settings that the kind has, by name."""
        return {name: value for name, value in asdict(self).items() if self.kind in _USED_BY.get(name, (self.kind,))}

    @property
    def is_fitted(self) -> bool:
        """True if the codes are fitted to the initial images, which takes time."""
        return self.kind in _USED_BY["fit_steps"]

    def without_fit(self) -> DecoderSettings:
        """Return the settings for codes whose values come from elsewhere, such as a checkpoint."""
        return replace(self, fit_steps=0) if self.is_fitted else self


def make_decoder(settings: DecoderSettings | None, shape: tuple[int, int, int], ipc: int) -> Decoder:
    """Make the decoder of these settings; None is for pixels.

    Args:
        shape: (C, H, W) of the images.
        ipc: images per class whose storage the codes have.

    Raises:
        SettingError: a setting does not fit the images' size.
    """
    if settings is None:
        return Pixels(ipc)
    fitting = Fitting(settings.fit_steps, settings.fit_lr)
    match settings.kind:
        case "upsample":
            return Upsample(settings.factor, shape, ipc)
        case "mirror":
            return Mirror(ipc)
        case "dct":
            return Dct(settings.coefficients, shape, ipc)
        case "gaussians":
            return Gaussians(settings.images, settings.stored, settings.boundary, shape, ipc, fitting)
        case "siren":
            return Siren(settings.width, settings.layers, settings.first_omega, settings.omega, shape, ipc, fitting)
