"""The guard of a distillation: it rejects bad updates, and ends the run after too many of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pydistill.data import Dataset
from pydistill.distillation.settings import DistillSettings
from pydistill.errors import FormatError

_log = logging.getLogger("pydistill")

What = Literal["loss", "gradient", "lr", "pixels", "labels", "skipped"]
# The settings to change, by what went wrong; for the learning rate, `Refusal.others` adds more.
KNOBS: dict[What, str] = {
    "loss": "lr_image or lr_init",
    "gradient": "lr_image or lr_init",
    "lr": "lr_lr",
    "pixels": "lr_image (or set clip_gradient)",
    "labels": "lr_label",
    "skipped": "skip_loss_above",
}
SCALE_IMAGES = 1000


@dataclass(frozen=True)
class Refusal:
    """Why an update is not applied.

    Attributes:
        what: what went wrong: the loss, a gradient, the learning rate, the pixels or the label logits; `skipped` for a
            loss above `skip_loss_above`, which is not a divergence.
        reason: the same as part of a sentence, with numbers.
        others: alternatives to changing the settings in `KNOBS`.
    """

    what: What
    reason: str
    others: tuple[str, ...] = ()

    @property
    def knob(self) -> str:
        """The settings to change, as part of a sentence."""
        return KNOBS[self.what] + (f" (or {', or '.join(self.others)})" if self.others else "")


@dataclass(frozen=True)
class GuardEvent:
    """An update that was not applied.

    Attributes:
        iteration: the iteration of the update.
        refusal: why.
        rejections: rejected updates within the window, including this one; skipped ones do not count.
    """

    iteration: int
    refusal: Refusal
    rejections: int

    def as_record(self) -> dict[str, Any]:
        """Make the metrics record of this event."""
        return {
            "event": "guard",
            "iteration": self.iteration,
            "what": self.refusal.what,
            "reason": self.refusal.reason,
            "knob": self.refusal.knob,
            "rejections": self.rejections,
        }


_OTHERS = ("lr", "label_logits")  # the learned leaves that are not codes of the images


class Guard:
    """Checks every update before it is applied, and counts the rejected ones.

    More than `max_rejections` within the last `rejection_window` iterations end the run; counting all iterations would
    end a run of a million iterations after a dozen accidents.

    Args:
        settings: the limits.
        scale: the largest |x| of the training images, the unit of `max_pixel`.
    """

    def __init__(self, settings: DistillSettings, scale: float) -> None:
        self._settings = settings
        self._largest_pixel = math.inf if settings.max_pixel is None else settings.max_pixel * scale
        self._largest_lr = math.inf if settings.max_lr is None else settings.max_lr * settings.lr_init
        self.ended: str | None = None
        """Why the run has ended, or None if it has not."""
        self._rejected_at: list[int] = []
        self._skips = 0

    def of_losses(self, losses: Sequence[float]) -> Refusal | None:
        """Check the matching losses of an iteration's segments; return what is wrong, if anything."""
        if not all(math.isfinite(loss) for loss in losses):
            return Refusal("loss", "the matching loss is not finite")
        mean, limit = math.fsum(losses) / len(losses), self._settings.skip_loss_above
        if limit is not None and mean > limit:
            return Refusal("skipped", f"the matching loss {mean:.4g} is above skip_loss_above = {limit:g}")
        return None

    def of_update(
        self,
        gradients: Mapping[str, Tensor],
        values: Mapping[str, Tensor],
        moments: Mapping[str, Tensor],
        images: Tensor,
    ) -> Refusal | None:
        """Check an update: gradients, new values and moments of the learned leaves; return what is wrong, if any.

        Args:
            images: decoded from the new values.
        """
        names = list(gradients)
        checks = [tensors[name].isfinite().all() for tensors in (gradients, values) for name in names]
        checks += [moment.isfinite().all() for moment in moments.values()]
        largest = images.abs().amax()
        # One synchronisation with the device for all checks.
        numbers = torch.stack([check.double() for check in (*checks, largest, values["lr"])]).tolist()
        finite_gradients = dict(zip(names, numbers, strict=False))
        finite_values = dict(zip(names, numbers[len(names) :], strict=False))
        finite_moments = numbers[2 * len(names) : -2]
        for name in names:
            if not finite_gradients[name]:
                return Refusal("gradient", f"the gradient of the {name} is not finite")
        pixel, lr = numbers[-2:]
        other_form = () if self._settings.lr_form == "log" else ("take lr_form = log",)
        if not finite_values["lr"] or lr <= 0:
            return Refusal("lr", f"the student's learning rate would become {lr:.3g}", other_form)
        if lr > self._largest_lr:
            reason = f"would reach {lr:.3g} and max_lr allows {self._largest_lr:.3g}"
            return Refusal("lr", f"the student's learning rate {reason}", (*other_form, "raise max_lr"))
        if not math.isfinite(pixel) or not all(finite_values[name] for name in names if name not in _OTHERS):
            return Refusal("pixels", "the pixels would no longer be finite")
        if pixel > self._largest_pixel:
            return Refusal("pixels", f"a pixel would reach {pixel:.3g} and max_pixel allows {self._largest_pixel:.3g}")
        if not all(finite_values.values()):
            return Refusal("labels", "the label logits would no longer be finite")
        if not all(finite_moments):  # with Adam: an infinite mean square would stop the codes for good
            return Refusal("gradient", "the square of the gradient of the codes is not finite")
        return None

    def refuse(self, iteration: int, refusal: Refusal, back_to: int) -> GuardEvent:
        """Count and log an update that is not applied; end the run if there have been too many.

        Args:
            iteration: the iteration of the update.
            refusal: the reason.
            back_to: the iteration whose state was restored.
        """
        knob, window, allowed = refusal.knob, self._settings.rejection_window, self._settings.max_rejections
        if refusal.what == "skipped":
            self._skips += 1
            if self._skips == 10 ** (len(str(self._skips)) - 1):  # the 1st, 10th, 100th …
                _log.warning(
                    "iteration %d: %s; the update is skipped (%d so far); raise %s if too many are",
                    *(iteration, refusal.reason, self._skips, knob),
                )
            return GuardEvent(iteration, refusal, self._count(iteration))
        self._rejected_at = [earlier for earlier in self._rejected_at if earlier > iteration - window]
        self._rejected_at.append(iteration)
        count = len(self._rejected_at)
        _log.warning(
            "iteration %d: %s; the update was not applied, and the set is restored to iteration %d "
            "(%d of at most %d rejections in %d iterations); lower %s if this continues",
            *(iteration, refusal.reason, back_to, count, allowed, window, knob),
        )
        if count > allowed:
            self.ended = (
                f"{count} updates within {window} iterations had to be rejected, the last (iteration "
                f"{iteration}) because {refusal.reason}; lower {knob} and run again "
                f"(the limit is max_rejections = {allowed})"
            )
        return GuardEvent(iteration, refusal, count)

    def _count(self, iteration: int) -> int:
        return sum(rejected > iteration - self._settings.rejection_window for rejected in self._rejected_at)

    def state(self) -> dict[str, Any]:
        """Return the counts as JSON-able values."""
        return {"rejected_at": list(self._rejected_at), "skips": self._skips, "ended": self.ended}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned; a run that had ended continues if the limits now allow it.

        Raises:
            FormatError: not the state of a guard.
        """
        rejected_at, skips, ended = (state.get(name) for name in ("rejected_at", "skips", "ended"))
        valid = isinstance(rejected_at, list) and all(isinstance(iteration, int) for iteration in rejected_at)
        if not valid or not isinstance(skips, int) or not isinstance(ended, str | None):
            raise FormatError("the state of the guard is damaged")
        self._rejected_at, self._skips = list(state["rejected_at"]), skips
        last = max(self._rejected_at, default=0)
        self.ended = ended if self._count(last) > self._settings.max_rejections else None


def data_scale(dataset: Dataset) -> float:
    """Return the largest |x| of up to 1,000 evenly spaced training images, preprocessed; 1 if all are 0."""
    pictures = dataset.train_pictures
    count = min(len(pictures), SCALE_IMAGES)
    index = torch.arange(count, device=pictures.device) * len(pictures) // count
    largest = float(pictures.batch(index).abs().amax())
    return largest if largest > 0 else 1.0
