"""Training a network on tensors: the one loop that experts and evaluation share."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Generator, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pydistill._util.checks import check_fields, check_generator
from pydistill.data.dsa import DsaSettings
from pydistill.data.pictures import Pictures
from pydistill.engine.cuda_graph import is_plain
from pydistill.errors import DivergedError, InputError
from pydistill.training.epoch import EpochRunner, TrainStep, count_correct
from pydistill.training.gradients import GradientBackend, gradients_for, logits_of
from pydistill.training.sgd import Sgd

SCHEDULES = ("constant", "halfway", "cosine")
EPOCHS_TOGETHER = 20
IMAGES_TOGETHER = 1 << 16


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained: SGD on cross entropy.

    Args:
        epochs: passes over the data, at least 1.
        batch_size: images per step; the last step of an epoch takes what is left.
        lr: learning rate of the first epoch, above 0.
        momentum: of SGD, in [0, 1).
        weight_decay: of SGD, at least 0.
        schedule: "constant"; "halfway" (a tenth of lr from epoch epochs//2 + 1 on); "cosine" (to 0 at the end, a step
            per epoch).
        dsa: differentiable Siamese augmentation of every batch, or none.

    Raises:
        InputError: a value outside its limits.
    """

    epochs: int = 50
    batch_size: int = 256
    lr: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: Literal["constant", "halfway", "cosine"] = "constant"
    dsa: DsaSettings | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InputError(f"lr must be a finite number above 0, not {self.lr}")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must be in [0, 1), not {self.momentum}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise InputError(f"weight_decay must be a finite number of at least 0, not {self.weight_decay}")
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule must be one of {', '.join(SCHEDULES)}, not {self.schedule!r}")

    def lr_at(self, epoch: int) -> float:
        """The learning rate of epoch 1 … epochs."""
        if self.schedule == "halfway" and epoch > self.epochs // 2:
            return self.lr * 0.1
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / self.epochs))
        return self.lr


def train(
    model: nn.Module,
    images: Tensor | Pictures,
    labels: Tensor,
    settings: TrainingSettings,
    *,
    generator: torch.Generator,
    on_epoch: Callable[[int, float, float], None] | None = None,
    engine: bool = True,
) -> None:
    """Train `model` in place, and leave it in training mode.

    Each epoch visits the images once in a new order; each batch is augmented by a draw of its own and is one step of
    SGD on the mean cross entropy. The data are already preprocessed, or bytes whose batches are when they are made,
    and stay where they are: nothing is copied but each batch. The outcome depends on the model's parameters, the data,
    the settings and the generator (its state, and its seed for modules that draw random numbers, such as dropout)
    alone.

    Args:
        model: maps [B, C, H, W] to logits [B, K]; on the images' device.
        images: [n, C, H, W], floating point, or pictures.
        labels: [n] int64, or [n, K] class probabilities.
        settings: the recipe.
        generator: on the CPU; orders and augmentations are drawn from it, some epochs ahead where it saves time.
        on_epoch: called after epoch 1 … epochs with the epoch, its mean loss, and the share of its (augmented) images
            that were classified rightly while it ran; the model then holds the parameters after that epoch.
        engine: let the C++ engine compute the gradients of a network that it runs (ConvNet and MLP with ReLU);
            False: PyTorch, always. Both give the same to rounding.

    Raises:
        InputError: images and labels do not fit each other or the model, or there are none.
        DivergedError: the loss of an epoch, or a parameter at the end, is not finite; the model is left as it then is.
            On a GPU, losses are looked at every 20 epochs where there is no `on_epoch`.
    """
    check_generator(generator)
    with seeded_modules(images.device, "training", generator.initial_seed()):
        for _ in epochs_of(model, images, labels, settings, generator=generator, on_epoch=on_epoch, engine=engine):
            pass


def epochs_of(
    model: nn.Module,
    images: Tensor | Pictures,
    labels: Tensor,
    settings: TrainingSettings,
    *,
    generator: torch.Generator,
    on_epoch: Callable[[int, float, float], None] | None = None,
    engine: bool = True,
) -> Generator[None, None, None]:
    """`train`, an epoch whenever the next is asked for, so that several networks can train in turns.

    Arguments and errors are those of `train`. On a GPU an epoch is queued and hardly waited for. Modules that draw
    random numbers draw PyTorch's global ones. The model holds what was learned once the generator has ended or is
    closed; where the interpreter ends first, it is left as it is.
    """
    _check(model, images, labels)
    pictures = images if isinstance(images, Pictures) else Pictures(images)
    passes = gradients_for(model, pictures, labels, settings.batch_size, engine=engine)
    model.train()
    interpreter_ends = sys.is_finalizing  # held here: by then the module may be gone
    try:
        yield from _epochs(model, passes, pictures, labels, settings, generator, on_epoch)
    finally:
        # PyTorch no longer counts references while the interpreter ends: a view made then aborts the process.
        if not interpreter_ends():
            passes.to_model()


def _epochs(
    model: nn.Module,
    passes: GradientBackend,
    pictures: Pictures,
    labels: Tensor,
    settings: TrainingSettings,
    generator: torch.Generator,
    on_epoch: Callable[[int, float, float], None] | None,
) -> Generator[None, None, None]:
    optimiser, captures = _sgd(passes, settings)
    work = TrainStep(passes, optimiser, pictures, labels, count_right=on_epoch is not None)
    replayed_as = _as_replayed(model) if captures else None
    on_gpu = pictures.device.type == "cuda"
    # Without a callback nobody sees when the random numbers are drawn.
    together = 1 if on_epoch is not None else max(1, min(EPOCHS_TOGETHER, IMAGES_TOGETHER // len(pictures)))
    epochs = EpochRunner(
        work,
        settings.batch_size,
        settings.epochs,
        settings.dsa,
        at_a_time=min(together, settings.epochs),
        capture=replayed_as is not None,
    )
    losses = torch.zeros(settings.epochs, device=pictures.device)  # of an epoch: summed over its images
    watched = EPOCHS_TOGETHER if on_gpu and on_epoch is None else 1
    seen = 0
    for epoch in range(1, settings.epochs + 1):
        optimiser.set_lr(settings.lr_at(epoch))
        work.loss.zero_()
        epochs.run(generator)
        losses[epoch - 1] = work.loss
        if on_gpu:  # while it works
            epochs.draw_ahead(generator)
        if epoch % watched == 0 or epoch == settings.epochs:
            for number, loss_sum in enumerate(losses[seen:epoch].tolist(), start=seen + 1):
                if not math.isfinite(mean_loss := loss_sum / len(pictures)):
                    raise _diverged(f"the loss of epoch {number} of {settings.epochs} is {mean_loss}", settings)
            seen = epoch
        if on_epoch is not None and work.right is not None:
            passes.to_model()
            on_epoch(epoch, mean_loss, float(work.right) / len(pictures))
            passes.from_model()
            work.right.zero_()
            if replayed_as is not None and _as_replayed(model) != replayed_as:
                replayed_as = _as_replayed(model)
                epochs.forget(capture=replayed_as is not None)
        yield
    # The last step has no loss after it that would tell.
    if not all(bool(torch.isfinite(each).all()) for each in passes.parameters):
        raise _diverged(f"a parameter is not finite after epoch {settings.epochs}", settings)


def _sgd(passes: GradientBackend, settings: TrainingSettings) -> tuple[Sgd, bool]:
    """The optimiser, and whether its step may be captured as a CUDA graph.

    It may be in float32: there the learning rate is a number in the GPU's memory, which PyTorch reads in float32 only.
    """
    captures = {(each.device.type, each.dtype) for each in passes.parameters} == {("cuda", torch.float32)}
    sgd = Sgd(passes.parameters, settings.momentum, settings.weight_decay, lr_in_memory=captures)
    return sgd, captures


def _as_replayed(model: nn.Module) -> Hashable | None:
    """What of the network a captured step depends on besides values, or None if it must not be captured."""
    if not is_plain(model) or torch.is_autocast_enabled("cuda"):
        return None
    memory = tuple((each.data_ptr(), each.requires_grad) for each in model.parameters())
    return memory, tuple(module.training for module in model.modules())


def accuracy(
    model: nn.Module, images: Tensor | Pictures, labels: Tensor, batch_size: int = 256, *, engine: bool = True
) -> float:
    """Share of the images, in [0, 1], whose largest logit is at their label (or at the largest entry of a soft label).

    The model is asked in evaluation mode, without augmentation, and left in the modes it was in; `engine` is as for
    `train`.

    Raises:
        InputError: images and labels do not fit each other or the model, there are none, or batch_size is below 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, not {batch_size}")
    _check(model, images, labels)
    pictures = images if isinstance(images, Pictures) else Pictures(images)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            logits_of_batch = logits_of(model, pictures, batch_size, engine=engine)
            right = torch.zeros((), dtype=torch.int64, device=pictures.device)
            for first in range(0, len(pictures), batch_size):
                batch = pictures.rows(first, first + batch_size)
                right += count_correct(logits_of_batch(batch), labels[first : first + batch_size])
    finally:
        for module, training in modes:
            module.training = training
    return int(right) / len(pictures)


def check_seed(what: str, seed: int) -> None:
    """Refuse a seed that is not at least 0 and below 2^63; InputError names `what`."""
    if not 0 <= seed < 2**63:
        raise InputError(f"{what} must be at least 0 and below 2^63, not {seed}")


def derive_seed(*parts: int | str) -> int:
    """A seed of 63 bits that depends on every part, so that neighbouring seeds share no random numbers."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def seeded_modules(device: torch.device, *parts: int | str) -> Iterator[None]:
    """Let modules that draw random numbers (dropout) draw those of `parts` inside, and leave PyTorch's global
    generators, which they draw from, as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        seed = derive_seed(*parts)
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _diverged(what: str, settings: TrainingSettings) -> DivergedError:
    return DivergedError(f"training diverged: {what}; take a lower lr than {settings.lr:g}")


def _check(model: nn.Module, images: Tensor | Pictures, labels: Tensor) -> None:
    if images.ndim != 4 or not images.dtype.is_floating_point or len(images) == 0:
        raise InputError(
            f"images must be floating point [n, C, H, W] with n of at least 1, not {images.dtype} {list(images.shape)}"
        )
    if labels.ndim not in (1, 2) or len(labels) != len(images):
        raise InputError(f"labels for {len(images)} images must be [n] or [n, K], not {list(labels.shape)}")
    if labels.ndim == 1 and labels.dtype != torch.int64:
        raise InputError(f"labels [n] must be int64, not {labels.dtype}; class probabilities are [n, K]")
    if labels.ndim == 2 and not labels.is_floating_point():
        raise InputError(f"labels [n, K] must be class probabilities in floating point, not {labels.dtype}")
    parameter = next(model.parameters(), None)
    devices = {images.device, labels.device, *(() if parameter is None else (parameter.device,))}
    if len(devices) > 1:
        raise InputError(f"model, images and labels must be on one device, not on {', '.join(map(str, devices))}")
    _check_classes(model, labels)


def _check_classes(model: nn.Module, labels: Tensor) -> None:
    """Labels within the model's classes, if it tells how many it has: on a GPU a wrong one would be fatal."""
    classes = getattr(model, "num_classes", None)
    if not isinstance(classes, int):
        return
    if labels.ndim == 2 and labels.shape[1] != classes:
        raise InputError(f"labels are probabilities over {labels.shape[1]} classes, and the model has {classes}")
    if labels.ndim == 1 and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise InputError(f"labels must be from 0 to {classes - 1}, not from {labels.min()} to {labels.max()}")
