"""Published evaluation protocols by name: how networks are trained on a distilled set, and which accuracy counts."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from pydistill.data.dsa import DsaSettings
from pydistill.errors import SettingError
from pydistill.evaluation.settings import EvaluationSettings

_MTT = EvaluationSettings()

# The learning rate is always the set's own. All augment by DSA and divide the rate by ten half way.
PROTOCOLS = {
    # Cazenavette et al., CVPR 2022; also FTD's, TESLA's, ATT's and MCT's.
    "mtt": _MTT,
    # Guo et al., "Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching", ICLR 2024.
    "datm": replace(_MTT, training=replace(_MTT.training, batch_size=128)),
    # Li et al., "DD-Ranking", 2025: the best test accuracy of every network, looked at every 20 epochs.
    "ddranking": replace(_MTT, best_every=20),
}


def with_protocol(settings: EvaluationSettings, name: str, dsa: DsaSettings | None) -> EvaluationSettings:
    """Return the settings with the named protocol's training and accuracy; networks, repeats and seed stay.

    Args:
        dsa: the augmentation in place of the protocol's, which mirrors images: digits are not mirrored.

    Raises:
        SettingError: there is no such protocol.
    """
    if name not in PROTOCOLS:
        raise SettingError("protocol", name, f"one of {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    return replace(settings, training=replace(protocol.training, dsa=dsa), best_every=protocol.best_every)


def protocol_of(settings: EvaluationSettings) -> str:
    """Name the protocol of the settings: the nearest one, and every value in which they differ from it.

    The number of epochs and the learning rate are not compared: the one is a column of its own, the other the set's.
    Of two protocols that are equally near, the one listed first is named. "mtt", "mtt, batch_size 64, no dsa".
    """
    differences = {name: _differences(settings, protocol) for name, protocol in PROTOCOLS.items()}
    nearest = min(differences, key=lambda name: len(differences[name]))
    return ", ".join([nearest, *differences[nearest]])


def _differences(settings: EvaluationSettings, protocol: EvaluationSettings) -> list[str]:
    mine, theirs = (_compared(one) for one in (settings, protocol))
    if settings.training.dsa is None:
        mine, theirs = ({name: values[name] for name in values if "." not in name} for values in (mine, theirs))
    return [
        f"no {name}" if mine[name] is None or mine[name] is False else f"{name} {mine[name]}"
        for name in mine
        if mine[name] != theirs[name]
    ]


def _compared(settings: EvaluationSettings) -> dict[str, Any]:
    """Return the compared values by name: those of the training, of its augmentation, and `best_every`."""
    training = asdict(settings.training)
    dsa = training.pop("dsa")
    values = {name: value for name, value in training.items() if name not in ("epochs", "lr")}
    values |= {f"dsa.{name}": value for name, value in (dsa or {}).items()}
    return values | {"dsa": dsa is not None, "best_every": settings.best_every}
