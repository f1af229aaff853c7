"""The settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pydistill._util.checks import SEEDS_BELOW
from pydistill._util.settings import Settings, setting
from pydistill.data.dsa import DsaSettings
from pydistill.errors import SettingError
from pydistill.nn import parse
from pydistill.training.train import TrainingSettings

BASELINES = ("random", "kmeans", "full")
_AT_ONCE_ON_A_GPU = 4

# The papers' protocol.
_TRAINING = TrainingSettings(
    epochs=1000, batch_size=256, momentum=0.9, weight_decay=5e-4, schedule="halfway", dsa=DsaSettings()
)


@dataclass(frozen=True)
class EvaluationSettings(Settings):
    """The protocol of an evaluation: fresh networks are trained on the distilled set and tested.

    The learning rate of `training` is replaced by the set's own. No result depends on `at_once`.

    Raises:
        SettingError: a value is outside its limits.
        InputError: there is no network of one of the names.
    """

    models: tuple[str, ...] = setting(
        (), "networks by short name, such as [convnet3, alexnet]; empty for the student's own"
    )
    repeats: int = setting(5, "fresh networks of each kind", at_least=1, usually_at_most=1_000)
    seed: int = setting(0, "network r of a kind depends on (seed, r) alone", at_least=0, below=SEEDS_BELOW)
    training: TrainingSettings = setting(_TRAINING, "how each network is trained")
    best_every: int | None = setting(
        None,
        "take the best test accuracy of each network, looked at every so many epochs; null: the one after the last",
        at_least=1,
    )
    at_once: int | None = setting(
        None, "networks trained side by side, on a GPU on separate streams; null: 4 on a GPU, else 1", at_least=1
    )
    baselines: tuple[str, ...] = setting(
        ("random",),
        "what the set is compared with at the end: random real images, kmeans: representative ones (each for up to "
        "twice the time of one evaluation), full: all real data; [] for nothing",
    )
    full_epochs: int = setting(200, "epochs on all real data", at_least=1, usually_at_most=100_000)
    full_batch_size: int = setting(512, "images per step on all real data", at_least=1)
    full_lr: float = setting(0.01, "learning rate on all real data", above=0)

    def _check(self) -> None:
        for name in self.models:
            parse(name)
        for name in self.baselines:
            if name not in BASELINES:
                raise SettingError("baselines", name, f"a list of some of {', '.join(BASELINES)}")

    def networks_at_once(self, device: torch.device) -> int:
        """Return how many networks train side by side on this device."""
        if self.at_once is not None:
            return self.at_once
        return _AT_ONCE_ON_A_GPU if device.type == "cuda" else 1
