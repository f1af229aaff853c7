"""The published methods, each a combination of the same few choices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydistill.errors import SettingError
from pydistill.matching import Gradient, Selection
from pydistill.synthesis.labels import Labels

Trajectories = Literal["recorded", "convexified"]


@dataclass(frozen=True)
class Method:
    """The choices that distinguish one trajectory-matching method from another.

    Attributes:
        trajectories: `recorded` (the expert's epochs) or `convexified` (waypoints and path-length fractions).
        continuous: starts and targets at real instead of integer epochs (needs convexified trajectories).
        growing: the upper end of the start range grows with the iteration.
        selection: the student step compared with the target: `last` or `nearest`.
        gradient: `exact` or `truncated`.
        labels: `hard`, the experts' `teacher` probabilities, or label logits `learned` from them.
        ema: evaluate and save an exponential moving average of the images.
        ema_warmup: its decay grows to the setting's; otherwise it is constant from the first update.
        progressive: students start at epoch 0, their target moves outward, and real images replace those that overlap.
    """

    trajectories: Trajectories
    continuous: bool
    growing: bool
    selection: Selection
    gradient: Gradient
    labels: Labels
    ema: bool
    ema_warmup: bool = True
    progressive: bool = False


METHODS: dict[str, Method] = {
    # Cazenavette et al., Dataset Distillation by Matching Training Trajectories, CVPR 2022
    "mtt": Method("recorded", False, False, "last", "exact", "hard", False),
    # Liu et al., Dataset Distillation by Automatic Training Trajectories, ECCV 2024
    "att": Method("recorded", False, False, "nearest", "exact", "hard", True),
    # Zhong et al., Towards Stable and Storage-efficient Dataset Distillation: Matching Convexified Trajectory,
    # CVPR 2025. The authors' code computes TESLA's gradient; the paper's method is exact, as here.
    "mct": Method("convexified", True, False, "last", "exact", "hard", False),
    # Cui et al., Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory, ICML 2023
    "tesla": Method("recorded", False, False, "last", "truncated", "hard", False),
    # Du et al., Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation, CVPR 2023; its experts
    # are trained with `sharpness`.
    "ftd": Method("recorded", False, False, "last", "exact", "hard", True, ema_warmup=False),
    # Guo et al., Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching, ICLR 2024; FTD's
    # experts.
    "datm": Method("recorded", False, True, "last", "exact", "learned", False),
    # Our reading of the abstract of Yu et al., Progressive Trajectory Matching for Medical Dataset Distillation, 2024,
    # whose schedule and overlap are not public: not the paper's method.
    "progressive": Method("recorded", False, False, "last", "exact", "hard", False, progressive=True),
}


def method_named(name: str) -> Method:
    """Return the method of that name; SettingError lists the names."""
    if name not in METHODS:
        raise SettingError("method", name, f"one of {', '.join(METHODS)}")
    return METHODS[name]
