"""The settings of a distillation, each with its limits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch

from pydistill._util.checks import SEEDS_BELOW
from pydistill._util.memory import memory_budget
from pydistill._util.settings import Settings, setting
from pydistill.data import DsaSettings
from pydistill.distillation.methods import Method, Trajectories, method_named
from pydistill.distillation.optimiser import LrForm, OptimiserName, OuterOptimiser
from pydistill.distillation.weighting import MatchedParameters
from pydistill.errors import SettingError
from pydistill.matching import Backend, Distance, Gradient, Selection
from pydistill.synthesis.decoders import DecoderSettings
from pydistill.synthesis.initialisation import Initialisation
from pydistill.synthesis.labels import Labels, LabelStart
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

    method: str = setting("att", "att, datm, ftd, mct, mtt, tesla or progressive")
    ipc: int = setting(1, "images per class", at_least=1)
    iterations: int = setting(
        1000, "outer iterations, one update of the pixels each", at_least=1, usually_at_most=1_000_000
    )
    steps: int = setting(30, "N, student steps per iteration", at_least=1, usually_at_most=10_000)
    expert_epochs: float = setting(
        2.0, "M, epochs of the expert from start to target; real for convexified experts", above=0
    )
    expert_epochs_from: float | None = setting(
        None,
        "M at first, which grows to expert_epochs over grow_iterations, in whole epochs; null: no growth, for "
        "progressive from 1",
        above=0,
    )
    min_start: float = setting(0.0, "T⁻, first epoch that a student may start at", at_least=0)
    max_start: float | None = setting(
        None,
        "T⁺, end of the range of starts (integer starts are below it); null for 2, for progressive epoch 0 only",
        at_least=0,
    )
    growing: bool | None = setting(
        None, "let the range's end grow from grow_from to max_start over grow_iterations; null: as the method"
    )
    grow_from: float = setting(0.5, "the range's end at the first iteration", at_least=0)
    grow_iterations: int | None = setting(
        None, "iterations until the range's end, or M, has grown; null for half of all", at_least=1
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
    match_parameters: MatchedParameters = setting(
        MatchedParameters(), "the parameters that take part in the matching loss"
    )
    gradient: Gradient | None = setting(None, "exact or truncated; null: as the method")
    labels: Labels | None = setting(None, "hard, teacher or learned; null: as the method")
    label_start: LabelStart = setting(
        "probabilities",
        "learned labels at first: probabilities (their logarithm, the mean over the experts), correct_logits (mean "
        "logits of the experts that are right) or one_expert (the first one's logits)",
    )
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
    momentum_label: float | None = setting(
        None, "momentum of learned label logits; null for momentum", at_least=0, below=1
    )
    batch_size: int | None = setting(None, "B, synthetic images per student step; null for all of them", at_least=1)
    experts_per_step: int = setting(
        1,
        "E, expert segments per iteration, with separate batches; the update takes their mean gradient",
        at_least=1,
        usually_at_most=1_000,
    )
    spread_starts: bool = setting(
        False, "spread the starts of an iteration's segments: each is drawn from another of E equal parts of the range"
    )
    initialisation: Initialisation = setting(
        "real",
        "real (random training images), noise, kmeans (representative ones), correct (that experts classify right), "
        "difficulty (a window of each class's order by difficulty) or file (go on from start_from, with its learning "
        "rate and soft labels)",
    )
    kmeans_network: Literal["random", "expert"] = setting(
        "random", "whose features kmeans clusters: random (the student before training, as published) or expert"
    )
    difficulty_start: float = setting(
        0.0,
        "start of the window of initialisation difficulty: the number of hardest images passed over, in units of ipc",
        at_least=0,
    )
    start_from: str | None = setting(None, "the distilled set, a file or a run folder, of initialisation file")
    frozen: float = setting(
        0.0, "share of each class's images, the first ones, that stay as they start", at_least=0, below=1
    )
    redraw_every: int | None = setting(
        None,
        "iterations between searches for synthetic images that overlap, which real ones replace; 0 for never; null for "
        "never, for progressive 500",
        at_least=0,
    )
    redraw_above: float = setting(
        0.95, "cosine similarity of two images' features above which they overlap", above=0, at_most=1
    )
    redraw_share: float = setting(0.1, "largest share of all images replaced at once", above=0, at_most=1)
    ema: float | None = setting(
        None,
        "decay of the image average, 0 for none; null: 0.999 if the method averages, else none",
        at_least=0,
        below=1,
    )
    ema_warmup: bool | None = setting(
        None,
        "let that decay grow from 0.18 with the updates, so that the first images are soon forgotten; false: constant, "
        "as FTD published; null: as the method",
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
        _ = self.start_settings  # checks itself
        self._check_growth()
        self._check_decoder()
        self._check_combinations()

    def _check_growth(self) -> None:
        first = self.expert_epochs_from
        if first is not None and first > self.expert_epochs:
            raise SettingError("expert_epochs_from", first, f"at most expert_epochs = {self.expert_epochs:g}")
        if first is not None and first % 1 and self.resolved_method.trajectories == "recorded":
            raise SettingError("expert_epochs_from", first, "an integer for experts recorded at integer epochs")

    def _check_decoder(self) -> None:
        """Refuse settings that have no meaning with a decoder, or with Adam."""
        if self.redraws_every and self.optimiser == "adam":
            allowed = "0 with optimiser adam, whose moments belong to the images that it replaces"
            raise SettingError("redraw_every", self.redraws_every, allowed)
        if self.decoder is None:
            return
        for name, value in (("frozen", self.frozen), ("redraw_every", self.redraws_every)):
            if value:
                raise SettingError(name, value, "0 with a decoder, which does not store images one by one")
        if self.initialisation == "noise" and self.decoder.kind not in ("upsample", "mirror"):
            allowed = f"real with decoder {self.decoder.kind}, which encodes real images"
            raise SettingError("initialisation", self.initialisation, allowed, "or leave decoder out")

    def _check_combinations(self) -> None:
        """Refuse settings that another one leaves without effect, or that contradict it."""
        if (self.initialisation == "file") != (self.start_from is not None):
            allowed = "null" if self.start_from else "a path"
            allowed += f" with initialisation {self.initialisation}"
            remedy = "or set initialisation to file" if self.start_from else ""
            raise SettingError("start_from", self.start_from, allowed, remedy)
        if self.difficulty_start and self.initialisation != "difficulty":
            allowed = f"0 with initialisation {self.initialisation}"
            raise SettingError(
                "difficulty_start", self.difficulty_start, allowed, "or set initialisation to difficulty"
            )
        if self.kmeans_network != "random" and self.initialisation != "kmeans":
            allowed = f"random with initialisation {self.initialisation}"
            raise SettingError("kmeans_network", self.kmeans_network, allowed, "or set initialisation to kmeans")
        if self.frozen > 1 - 1 / self.ipc + 1e-9:
            allowed = f"at most {1 - 1 / self.ipc:.3g} with ipc = {self.ipc}, so that an image of each class is updated"
            raise SettingError("frozen", self.frozen, allowed)
        if self.frozen and self.initialisation == "noise":
            raise SettingError("frozen", self.frozen, "0 with initialisation noise, as frozen images are real ones")
        if self.label_start != "probabilities" and self.resolved_method.labels != "learned":
            allowed = f"probabilities with labels {self.resolved_method.labels}"
            raise SettingError("label_start", self.label_start, allowed, "or set labels to learned")
        if self.momentum_label is not None and self.resolved_method.labels != "learned":
            allowed = f"null with labels {self.resolved_method.labels}"
            raise SettingError("momentum_label", self.momentum_label, allowed, "or set labels to learned")
        if self.spread_starts and self.experts_per_step == 1:
            allowed = "false with experts_per_step = 1, which has one start per iteration"
            raise SettingError("spread_starts", self.spread_starts, allowed)
        if self.redraws_every and self.resolved_method.labels != "hard":
            allowed = f"0 with labels {self.resolved_method.labels}, which belong to the images that it replaces"
            raise SettingError("redraw_every", self.redraws_every, allowed)
        if self.redraws_every and self.frozen:
            allowed = f"0 with frozen = {self.frozen:g}, as frozen images stay"
            raise SettingError("redraw_every", self.redraws_every, allowed)

    @cached_property
    def resolved_method(self) -> Method:
        """The named method with this run's own choices in place of its."""
        names = ("trajectories", "continuous", "growing", "selection", "gradient", "labels", "ema_warmup")
        chosen = {name: value for name in names if (value := getattr(self, name)) is not None}
        return replace(method_named(self.method), **chosen)

    @cached_property
    def start_settings(self) -> StartSettings:
        """The range of starts."""
        return StartSettings(
            max_start=self.last_start,
            min_start=self.min_start,
            continuous=self.resolved_method.continuous,
            growing=self.resolved_method.growing,
            grow_from=self.grow_from,
            grow_iterations=self.grown_after,
        )

    @property
    def last_start(self) -> float:
        """T⁺, the end of the range of starts."""
        if self.max_start is not None:
            return self.max_start
        if self.resolved_method.progressive:
            return 0.0 if self.resolved_method.continuous else 1.0
        return 2.0

    @property
    def grown_after(self) -> int:
        """The iterations over which the range of starts, or M, grows."""
        return max(1, self.iterations // 2) if self.grow_iterations is None else self.grow_iterations

    @property
    def first_expert_epochs(self) -> float:
        """M₀, the epochs from start to target at the first iteration."""
        if self.expert_epochs_from is not None:
            return self.expert_epochs_from
        return min(1.0, self.expert_epochs) if self.resolved_method.progressive else self.expert_epochs

    def expert_epochs_at(self, iteration: int) -> float:
        """Return the epochs from start to target at iteration i = 0, 1, …

            M(i) = M₀ + ⌊(M₁ − M₀) i / G⌋ before iteration G, M₁ from it on

        M₀ is expert_epochs_from, M₁ expert_epochs and G grow_iterations.
        """
        growth = self.expert_epochs - self.first_expert_epochs
        if iteration >= self.grown_after:
            return self.expert_epochs
        return self.first_expert_epochs + math.floor(growth * iteration / self.grown_after)

    @property
    def redraws_every(self) -> int:
        """The iterations between searches for overlapping images, 0 for none."""
        if self.redraw_every is not None:
            return self.redraw_every
        return 500 if self.resolved_method.progressive else 0

    @property
    def ema_decay(self) -> float:
        """Decay of the image average, 0 for none."""
        if self.ema is not None:
            return self.ema
        return 0.999 if self.resolved_method.ema else 0.0

    def without_start(self) -> DistillSettings:
        """Return the settings for a set whose values come from elsewhere, such as a checkpoint, or do not matter.

        Its images are random real ones, which take no time; no file is read and no code is fitted.
        """
        return replace(
            self,
            initialisation="real",
            start_from=None,
            difficulty_start=0.0,
            label_start="probabilities",
            decoder=None if self.decoder is None else self.decoder.without_fit(),
        )

    def outer_optimiser(self) -> OuterOptimiser:
        """Make the update of pixels, label logits and the student's learning rate."""
        rates = {"lr": self.lr_lr, "label_logits": self.lr_label}
        return OuterOptimiser(
            self.lr_image,
            rates,
            self.momentum,
            self.lr_form,
            self.lr_min,
            self.clip_gradient,
            self.momentum_label,
            self.optimiser,
        )
