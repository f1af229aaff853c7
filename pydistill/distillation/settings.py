"""The settings of a distillation, each with its limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from pydistill._util.checks import SEEDS_BELOW
from pydistill._util.memory import memory_budget
from pydistill._util.settings import Settings, setting
from pydistill.data import DsaSettings
from pydistill.distillation.methods import Method, Trajectories, method_named
from pydistill.distillation.optimiser import LrForm, OptimiserName, OuterOptimiser
from pydistill.errors import SettingError
from pydistill.matching import Backend, Distance, Gradient, Selection
from pydistill.synthesis.decoders import DecoderSettings
from pydistill.synthesis.initialisation import Initialisation
from pydistill.synthesis.labels import Labels
from pydistill.trajectories import FractionRule, Smoothing, StartSettings


@dataclass(frozen=True)
class DistillSettings(Settings):
    """The settings of a distillation; None stands for the method's choice, or for none.

    The student's learning rate α moves in one of three forms (`lr_form`): plain is α itself, as published; clamped is
    the same, but never below lr_min; log moves the logarithm of α, so that α stays above 0. lr_lr is then the rate of
    the logarithm, and lr_lr / lr_init² gives about the steps of plain's lr_lr.

    An update is rejected if something is not finite, α ≤ 0 or beyond max_lr, or a pixel is beyond max_pixel: the set
    goes back to its last good state. After `max_rejections` within `rejection_window` iterations the run ends with the
    best set so far.
    """

    method: str = setting("att", "att, mct, mtt or tesla")
    ipc: int = setting(1, "images per class", at_least=1)
    iterations: int = setting(
        1000, "outer iterations, one update of the pixels each", at_least=1, usually_at_most=1_000_000
    )
    steps: int = setting(30, "N, student steps per iteration", at_least=1, usually_at_most=10_000)
    expert_epochs: float = setting(
        2.0, "M, epochs of the expert from start to target; real for convexified experts", above=0
    )
    min_start: float = setting(0.0, "T⁻, first epoch that a student may start at", at_least=0)
    max_start: float = setting(2.0, "T⁺, end of the range of starts (integer starts are below it)", at_least=0)
    growing: bool | None = setting(
        None, "let the range's end grow from grow_from to max_start over grow_iterations; null: as the method"
    )
    grow_from: float = setting(0.5, "the range's end at the first iteration", at_least=0)
    grow_iterations: int | None = setting(
        None, "iterations until the range's end reaches max_start; null for half of all", at_least=1
    )
    continuous: bool | None = setting(
        None, "draw real starts instead of integer epochs (convexified experts only); null: as the method"
    )
    trajectories: Trajectories | None = setting(None, "recorded or convexified; null: as the method")
    waypoints: int | list[int] | None = setting(
        None, "number of waypoints, or their epochs, when the run convexifies recorded experts; null for 4", at_least=2
    )
    smoothing: Smoothing | None = setting(
        None, "how these waypoints are smoothed: neighbours, weighted or none; null for neighbours, as published"
    )
    fractions: FractionRule | None = setting(
        None,
        "how far along a segment each epoch is: path, uniform, decreasing or projected; null for path, the path length",
    )
    selection: Selection | None = setting(
        None, "the student step that is compared with the target: last or nearest; null: as the method"
    )
    distance: Distance = setting("l1", "the distance of selection nearest: l1 or l2")
    gradient: Gradient | None = setting(None, "exact or truncated; null: as the method")
    labels: Labels | None = setting(None, "hard, teacher or learned; null: as the method")
    decoder: DecoderSettings | None = setting(
        None, "what is learned and stored instead of pixels, in the storage of ipc images; null for the pixels"
    )
    optimiser: OptimiserName = setting(
        "sgd", "update of the pixels, or of a decoder's codes: sgd, with momentum, or adam"
    )
    lr_image: float = setting(100.0, "learning rate of the pixels, or of a decoder's codes", at_least=0)
    lr_lr: float = setting(1e-7, "learning rate of the student's learning rate", at_least=0)
    lr_label: float = setting(1.0, "learning rate of learned label logits", at_least=0)
    lr_init: float = setting(0.01, "α₀, the student's learning rate at first", above=0)
    lr_form: LrForm = setting("plain", "how α moves: plain, clamped (never below lr_min) or log (its logarithm)")
    lr_min: float = setting(1e-6, "the least α of lr_form clamped", above=0)
    clip_gradient: float | None = setting(
        None,
        "largest norm of the gradient of all pixels, or of the codes; longer ones are shortened; null: none",
        above=0,
    )
    momentum: float = setting(
        0.5, "momentum of the SGD on pixels or codes, labels and learning rate", at_least=0, below=1
    )
    batch_size: int | None = setting(None, "B, synthetic images per student step; null for all of them", at_least=1)
    experts_per_step: int = setting(
        1,
        "E, expert segments per iteration, with separate batches; the update takes their mean gradient",
        at_least=1,
        usually_at_most=1_000,
    )
    initialisation: Initialisation = setting("real", "real (random training images) or noise")
    ema: float | None = setting(
        None,
        "decay of the image average, 0 for none; null: 0.999 if the method averages, else none",
        at_least=0,
        below=1,
    )
    dsa: DsaSettings | None = setting(
        None, "differentiable Siamese augmentation of the student's batches ({} for the published one); null for none"
    )
    evaluate_every: int = setting(0, "iterations between evaluations; 0 evaluates at the end only", at_least=0)
    checkpoint_every: int = setting(100, "iterations between checkpoints", at_least=1)
    skip_loss_above: float | None = setting(
        None,
        "skip, without a rejection, updates whose matching loss is above this; null for no limit",
        above=0,
    )
    max_pixel: float | None = setting(
        100.0,
        "largest pixel, in units of the largest |x| of the preprocessed training images; null: none",
        above=0,
    )
    max_lr: float | None = setting(1000.0, "largest α, in units of lr_init; null for no limit", above=0)
    snapshot_every: int = setting(10, "good iterations between the states that a rejected one goes back to", at_least=1)
    max_rejections: int = setting(10, "rejections within rejection_window that the run survives", at_least=0)
    rejection_window: int = setting(1000, "iterations over which rejections are counted", at_least=1)
    backend: Backend = setting("auto", "auto, fused, torch or autograd")
    memory: str | None = setting(
        None,
        "what backend torch may spend on the graphs of steps, which it then does not run again: 4GB, or 50% of what is "
        "free; null for none",
    )
    seed: int = setting(0, "seed of everything random in the distillation", at_least=0, below=SEEDS_BELOW)

    def _check(self) -> None:
        memory_budget(self.memory, torch.device("cpu"))
        if self.resolved_method.continuous and self.resolved_method.trajectories == "recorded":
            allowed = "false with trajectories recorded, which have integer epochs only"
            raise SettingError("continuous", self.continuous, allowed, "or set trajectories to convexified")
        if self.lr_form == "clamped" and self.lr_init < self.lr_min:
            raise SettingError("lr_init", self.lr_init, f"at least lr_min = {self.lr_min:g} with lr_form clamped")
        if (
            self.initialisation == "noise"
            and self.decoder is not None
            and self.decoder.kind not in ("upsample", "mirror")
        ):
            allowed = f"real with decoder {self.decoder.kind}, which encodes real images"
            raise SettingError("initialisation", self.initialisation, allowed, "or leave decoder out")
        _ = self.start_settings  # checks itself

    @cached_property
    def resolved_method(self) -> Method:
        """The named method with this run's own choices in place of its."""
        names = ("trajectories", "continuous", "growing", "selection", "gradient", "labels")
        chosen = {name: value for name in names if (value := getattr(self, name)) is not None}
        return replace(method_named(self.method), **chosen)

    @cached_property
    def start_settings(self) -> StartSettings:
        """The range of starts."""
        return StartSettings(
            max_start=self.max_start,
            min_start=self.min_start,
            continuous=self.resolved_method.continuous,
            growing=self.resolved_method.growing,
            grow_from=self.grow_from,
            grow_iterations=max(1, self.iterations // 2) if self.grow_iterations is None else self.grow_iterations,
        )

    @property
    def ema_decay(self) -> float:
        """Decay of the image average, 0 for none."""
        if self.ema is not None:
            return self.ema
        return 0.999 if self.resolved_method.ema else 0.0

    def outer_optimiser(self) -> OuterOptimiser:
        """Make the update of pixels, label logits and the student's learning rate."""
        rates = {"lr": self.lr_lr, "label_logits": self.lr_label}
        return OuterOptimiser(
            self.lr_image, rates, self.momentum, self.lr_form, self.lr_min, self.clip_gradient, self.optimiser
        )
