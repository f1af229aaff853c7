"""What decides a distillation: the settings of one, each with its limits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from pydistill._util.checks import check_fields
from pydistill.data import DsaSettings
from pydistill.distillation.guard import GuardLimits
from pydistill.distillation.methods import Method, Trajectories, method_named
from pydistill.distillation.optimiser import LrForm, OuterOptimiser
from pydistill.errors import InputError
from pydistill.matching import Backend, Distance, Gradient, Selection
from pydistill.synthesis.set import Initialisation, Labels
from pydistill.trajectories import FractionRule, Smoothing, StartSettings


@dataclass(frozen=True)
class DistillSettings:
    """One distillation; what is null is as the method has it.

    Args:
        method: att, mct, mtt or tesla.
        ipc: images per class.
        iterations: outer iterations, each one update of the pixels.
        steps: N, student steps per iteration.
        expert_epochs: M, epochs of the expert from start to target; real for convexified experts.
        min_start: T⁻, first epoch that a student may start at.
        max_start: T⁺, end of the range of starts (whole starts are below it).
        growing: let the range's end grow from grow_from to max_start over grow_iterations.
        grow_from: the range's end at the first iteration.
        grow_iterations: iterations until it reaches max_start; null means half of all.
        continuous: draw starts from the real numbers (convexified experts only).
        trajectories: recorded or convexified.
        waypoints: w, or their epochs, when recorded experts are convexified on the way; null means 4.
        smoothing: how these waypoints are smoothed; null means as published (neighbours).
        fractions: how far along a segment each epoch is; null means by path length.
        selection: last or nearest, the student step that is compared with the target.
        distance: l1 or l2, the distance of `nearest`.
        gradient: exact or truncated.
        labels: hard, teacher or learned.
        lr_image: learning rate of the pixels.
        lr_lr: learning rate of the student's learning rate.
        lr_label: learning rate of learned label logits.
        lr_init: α₀, the student's learning rate at first.
        lr_form: how α moves: plain (α itself, as published), clamped (the same, but never below lr_min) or log (the
            logarithm of α is what moves, so that α stays above 0; lr_lr is then the rate of the logarithm, and
            lr_lr / lr_init² gives about the steps of plain's lr_lr).
        lr_min: the least α of the clamped form.
        clip_gradient: the most that the norm of the pixels' gradient, over all images together, may be; a longer one
            is shortened to it; null for no limit.
        momentum: of the pixels', the labels' and the learning rate's SGD.
        batch_size: B, synthetic images per student step; null means all of them.
        experts_per_step: E, segments of experts per iteration, each matched on batches of its own; the update takes the
            mean of their gradients.
        initialisation: real (random training images) or noise.
        ema: decay of the image average, 0 for none; null: 0.999 if the method averages, else none.
        dsa: differentiable Siamese augmentation of the student's batches ({} for the published one), or null for none.
        evaluate_every: iterations between evaluations; 0 evaluates at the end only.
        checkpoint_every: iterations between checkpoints.
        skip_loss_above: an iteration whose matching loss is above it is skipped: its update is not applied, which is
            not counted as a rejection; null for no limit.
        max_pixel: how many times the largest |x| of the training images (preprocessed) a pixel may reach; null for no
            limit.
        max_lr: how many times lr_init α may reach; null for no limit.
        snapshot_every: good iterations (finite, update applied) between the states that a rejected one goes back to.
        max_rejections: how many of the last `rejection_window` iterations may be rejected (something not finite,
            lr ≤ 0 or beyond max_lr, a pixel beyond max_pixel) before the run ends with the best set so far.
        rejection_window: iterations over which rejections are counted.
        backend: auto, fused, torch or autograd.
        seed: of everything random in the distillation.
    """

    method: str = "att"
    ipc: int = 1
    iterations: int = 1000
    steps: int = 30
    expert_epochs: float = 2.0
    min_start: float = 0.0
    max_start: float = 2.0
    growing: bool | None = None
    grow_from: float = 0.5
    grow_iterations: int | None = None
    continuous: bool | None = None
    trajectories: Trajectories | None = None
    waypoints: int | list[int] | None = None
    smoothing: Smoothing | None = None
    fractions: FractionRule | None = None
    selection: Selection | None = None
    distance: Distance = "l1"
    gradient: Gradient | None = None
    labels: Labels | None = None
    lr_image: float = 100.0
    lr_lr: float = 1e-7
    lr_label: float = 1.0
    lr_init: float = 0.01
    lr_form: LrForm = "plain"
    lr_min: float = 1e-6
    clip_gradient: float | None = None
    momentum: float = 0.5
    batch_size: int | None = None
    experts_per_step: int = 1
    initialisation: Initialisation = "real"
    ema: float | None = None
    dsa: DsaSettings | None = None
    evaluate_every: int = 0
    checkpoint_every: int = 100
    skip_loss_above: float | None = None
    max_pixel: float | None = 100.0
    max_lr: float | None = 1000.0
    snapshot_every: int = 10
    max_rejections: int = 10
    rejection_window: int = 1000
    backend: Backend = "auto"
    seed: int = 0

    def resolved_method(self) -> Method:
        """The named method with this run's own choices put in.

        Raises:
            InputError: no such method, or real starts on recorded experts.
        """
        chosen: dict[str, Any] = {
            "trajectories": self.trajectories,
            "continuous": self.continuous,
            "growing": self.growing,
            "selection": self.selection,
            "gradient": self.gradient,
            "labels": self.labels,
        }
        method = replace(
            method_named(self.method), **{name: value for name, value in chosen.items() if value is not None}
        )
        if method.continuous and method.trajectories == "recorded":
            raise InputError(
                "continuous starts need trajectories = convexified; recorded experts exist at whole epochs only"
            )
        return method

    def start_settings(self) -> StartSettings:
        """The range of starts."""
        method = self.resolved_method()
        grow_iterations = max(1, self.iterations // 2) if self.grow_iterations is None else self.grow_iterations
        return StartSettings(
            max_start=self.max_start,
            min_start=self.min_start,
            continuous=method.continuous,
            growing=method.growing,
            grow_from=self.grow_from,
            grow_iterations=grow_iterations,
        )

    def ema_decay(self) -> float:
        """Decay of the image average, 0 for none."""
        if self.ema is not None:
            return self.ema
        return 0.999 if self.resolved_method().ema else 0.0

    def outer_optimiser(self) -> OuterOptimiser:
        """How pixels, label logits and the student's learning rate move."""
        rates = {"images": self.lr_image, "lr": self.lr_lr, "label_logits": self.lr_label}
        return OuterOptimiser(rates, self.momentum, self.lr_form, self.lr_min, self.clip_gradient)

    def guard_limits(self, scale: float) -> GuardLimits:
        """What an update may do; `scale` is the largest |x| of the training images."""
        largest = None if self.max_pixel is None else self.max_pixel * scale
        largest_lr = None if self.max_lr is None else self.max_lr * self.lr_init
        return GuardLimits(
            self.max_rejections, self.rejection_window, largest, self.skip_loss_above, largest_lr, self.lr_form
        )

    def check(self) -> None:
        """Refuse settings outside their limits, before anything is loaded; InputError names the setting."""
        check_fields(self)
        self.resolved_method()
        counts = ("ipc", "iterations", "steps", "checkpoint_every", "experts_per_step", "snapshot_every")
        for name in (*counts, "rejection_window"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("evaluate_every", "max_rejections"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be at least 0, not {getattr(self, name)}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed must be at least 0 and below 2^63, not {self.seed}")
        for name in ("lr_image", "lr_lr", "lr_label"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"{name} must be a finite number of at least 0, not {getattr(self, name)}")
        for name in ("lr_init", "lr_min", "expert_epochs"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(f"{name} must be a finite number above 0, not {getattr(self, name)}")
        for name in ("clip_gradient", "skip_loss_above", "max_pixel", "max_lr"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} must be a finite number above 0 (or null for no limit), not {value}")
        if self.lr_form == "clamped" and self.lr_init < self.lr_min:
            raise InputError(
                f"lr_init = {self.lr_init:g} must be at least lr_min = {self.lr_min:g} with lr_form clamped"
            )
        for name in ("momentum", "ema"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise InputError(f"{name} must lie in [0, 1), not {value}")
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1 (or null for all images), not {self.batch_size}")
