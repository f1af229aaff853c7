"""Train a network on tensors: the loop that experts and evaluations share."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pydistill._util.checks import check_generator
from pydistill._util.settings import Settings, setting
from pydistill.data.dsa import DsaSettings
from pydistill.data.pictures import Pictures
from pydistill.engine.cuda_graph import is_plain
from pydistill.engine.streams import stream_of
from pydistill.errors import DivergedError, InputError
from pydistill.nn.modes import evaluating
from pydistill.training.epoch import EpochRunner, TrainStep, count_correct
from pydistill.training.gradients import gradients_for, logits_of
from pydistill.training.gsam import SharpnessSettings, sharpness_aware
from pydistill.training.sgd import Sgd

_EPOCHS_PER_DRAW = 20
_IMAGES_PER_DRAW = 1 << 16


@dataclass(frozen=True)
class TrainingSettings(Settings):
    """Settings of the training of a network by SGD on the cross entropy."""

    epochs: int = setting(50, "passes over the data", at_least=1, usually_at_most=100_000)
    batch_size: int = setting(256, "images per step; the last step of an epoch takes the remainder", at_least=1)
    lr: float = setting(0.01, "learning rate of the first epoch", above=0)
    momentum: float = setting(0.0, "momentum of SGD", at_least=0, below=1)
    weight_decay: float = setting(0.0, "weight decay of SGD", at_least=0)
    schedule: Literal["constant", "halfway", "cosine"] = setting(
        "constant", "constant, halfway (a tenth of lr after half of the epochs) or cosine (to 0, a step per epoch)"
    )
    dsa: DsaSettings | None = setting(None, "differentiable Siamese augmentation of every batch; null for none")
    sharpness: SharpnessSettings | None = setting(
        None, "sharpness-aware training by GSAM, two passes per step ({} for FTD's); null for plain SGD"
    )

    def lr_at(self, epoch: int) -> float:
        """Return the learning rate of epoch 1 … epochs."""
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

    Every epoch visits the images once in a new order; every batch is augmented separately and is one step of SGD on the
    mean cross entropy, along GSAM's gradient if `settings.sharpness` is set. The data are preprocessed, or bytes that
    are preprocessed batch by batch; only batches are copied. The outcome depends only on the model's parameters, the
    data, the settings and the generator (its state, and its seed for modules that draw random numbers, such as
    dropout).

    Args:
        model: maps [B, C, H, W] to logits [B, K]; on the images' device.
        images: [n, C, H, W], floating point, or pictures.
        labels: [n] int64, or [n, K] class probabilities.
        settings: the recipe.
        generator: on the CPU; orders and augmentations are drawn from it, some epochs ahead where that saves time.
        on_epoch: called after epoch 1 … epochs with the epoch, its mean loss, and the fraction of its (augmented)
            images that were classified correctly while it ran; the model then holds the parameters after that epoch.
        engine: use the C++ engine for the networks that it runs (ConvNet and MLP with ReLU); False: always PyTorch. The
            results agree to rounding.

    Raises:
        InputError: images and labels do not fit each other or the model, or there are none.
        DivergedError: the loss of an epoch, or a parameter at the end, is not finite; the model keeps its last state.
            On a GPU without `on_epoch`, losses are checked every 20 epochs.
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
    """Train as `train` does, one epoch per `next`, so that several networks can take turns.

    Arguments and errors are those of `train`. On a GPU an epoch is queued and hardly waited for. Modules that draw
    random numbers use PyTorch's global generators. The model holds the trained parameters once the generator has ended
    or is closed; if the interpreter exits first, the model is not updated.
    """
    _check(model, images, labels)
    pictures = images if isinstance(images, Pictures) else Pictures(images)
    gradients = sharpness_aware(
        gradients_for(model, pictures, labels, settings.batch_size, engine=engine), model, settings.sharpness
    )
    model.train()
    capturable = _capturable(gradients.parameters)
    optimiser = Sgd(gradients.parameters, settings.momentum, settings.weight_decay, lr_in_memory=capturable)
    train_step = TrainStep(gradients, optimiser, pictures, labels, counts_correct=on_epoch is not None)
    capture_key = _capture_key(model) if capturable else None
    on_gpu = pictures.device.type == "cuda"
    # A callback may look at the generator, so with one nothing is drawn ahead.
    per_draw = 1 if on_epoch is not None else max(1, min(_EPOCHS_PER_DRAW, _IMAGES_PER_DRAW // len(pictures)))
    epochs = EpochRunner(
        train_step,
        settings.batch_size,
        settings.epochs,
        settings.dsa,
        epochs_per_draw=min(per_draw, settings.epochs),
        capture=capture_key is not None,
    )
    losses = torch.zeros(settings.epochs, device=pictures.device)  # per epoch, summed over its images
    check_every = _EPOCHS_PER_DRAW if on_gpu and on_epoch is None else 1
    checked = 0
    is_finalizing = sys.is_finalizing  # a local name: at exit the module may be gone
    try:
        for epoch in range(1, settings.epochs + 1):
            optimiser.set_lr(settings.lr_at(epoch))
            train_step.loss.zero_()
            epochs.run(generator)
            losses[epoch - 1] = train_step.loss
            if on_gpu:  # while the device works
                epochs.draw_ahead(generator)
            if epoch % check_every == 0 or epoch == settings.epochs:
                for number, loss_sum in enumerate(losses[checked:epoch].tolist(), start=checked + 1):
                    if not math.isfinite(mean_loss := loss_sum / len(pictures)):
                        raise _diverged(f"the loss of epoch {number} of {settings.epochs} is {mean_loss}", settings)
                checked = epoch
            if on_epoch is not None and train_step.correct is not None:
                gradients.to_model()
                on_epoch(epoch, mean_loss, float(train_step.correct) / len(pictures))
                gradients.from_model()
                train_step.correct.zero_()
                if capture_key is not None and _capture_key(model) != capture_key:
                    capture_key = _capture_key(model)
                    epochs.invalidate(capture=capture_key is not None)
            yield
        # No loss is computed after the last step, so its parameters are checked.
        if not all(bool(torch.isfinite(parameter).all()) for parameter in gradients.parameters):
            raise _diverged(f"a parameter is not finite after epoch {settings.epochs}", settings)
    finally:
        # PyTorch no longer counts references while the interpreter exits: a view made then aborts the process.
        if not is_finalizing():
            gradients.to_model()


def train_all(
    networks: Sequence[nn.Module],
    seeds: Sequence[int],
    pictures: Pictures,
    labels: Tensor,
    settings: TrainingSettings,
    on_epoch: Callable[[], None] | None,
    after_epoch: Callable[[int, int], None] | None = None,
) -> int:
    """Train the networks, each with its seed, as `train` does; return how many diverged.

    They take turns, an epoch each; `on_epoch` is called after every epoch of every network. Networks that draw random
    numbers in training (dropout) use PyTorch's global generators, so they train one after the other.

    Args:
        after_epoch: called with a network's position and the epoch; the network holds its parameters after the epoch.
    """

    trainings = []
    for number, (network, seed) in enumerate(zip(networks, seeds, strict=True)):
        generator = torch.Generator().manual_seed(seed)
        more: dict[str, Any] = {}
        if after_epoch is not None:
            more["on_epoch"] = lambda epoch, loss, correct, number=number: after_epoch(number, epoch)
        trainings.append(epochs_of(network, pictures, labels, settings, generator=generator, **more))
    if all(is_plain(network) for network in networks):
        return _in_turns(trainings, pictures.device, on_epoch)
    diverged = 0
    for training, seed in zip(trainings, seeds, strict=True):
        with seeded_modules(pictures.device, "training", seed):
            diverged += _in_turns([training], pictures.device, on_epoch)
    return diverged


def _in_turns(
    trainings: Sequence[Generator[None, None, None]], device: torch.device, on_epoch: Callable[[], None] | None
) -> int:
    """Run the trainings to their ends, an epoch each in turns, and return how many diverged.

    On a GPU several trainings run on separate streams.
    """
    count = len(trainings) if device.type == "cuda" and len(trainings) > 1 else 0
    streams = [stream_of("networks", device, number) for number in range(count)]
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream(device))
    diverged = 0
    running = dict(enumerate(trainings))
    try:
        while running:
            for number, training in list(running.items()):
                try:
                    with torch.cuda.stream(streams[number]) if streams else nullcontext():
                        next(training)
                except StopIteration:
                    del running[number]
                except DivergedError:
                    del running[number]
                    diverged += 1
                else:  # not in the `try`: an exception of the callback is never taken for the end of a training
                    if on_epoch is not None:
                        on_epoch()
    finally:  # wait even after an error: memory that a stream still uses must not be freed
        for number in running:
            with torch.cuda.stream(streams[number]) if streams else nullcontext():
                trainings[number].close()
        for stream in streams:
            torch.cuda.current_stream(device).wait_stream(stream)
    return diverged


def _capturable(parameters: Sequence[nn.Parameter]) -> bool:
    """Return whether a CUDA graph may capture a step: in float32 only, in which it reads the rate from GPU memory."""
    return {(theta.device.type, theta.dtype) for theta in parameters} == {("cuda", torch.float32)}


def _capture_key(model: nn.Module) -> Hashable | None:
    """Everything but values that a captured step depends on, or None if the network must not be captured."""
    if not is_plain(model) or torch.is_autocast_enabled("cuda"):
        return None
    memory = tuple((parameter.data_ptr(), parameter.requires_grad) for parameter in model.parameters())
    return memory, tuple(module.training for module in model.modules())


def accuracy(
    model: nn.Module, images: Tensor | Pictures, labels: Tensor, batch_size: int = 256, *, engine: bool = True
) -> float:
    """Compute the fraction of images, in [0, 1], whose largest logit is at their label (of a soft label: its largest).

    The model runs in evaluation mode, without augmentation; its modes are restored. `engine` is as in `train`.

    Raises:
        InputError: images and labels do not fit each other or the model, there are none, or batch_size is below 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, not {batch_size}")
    _check(model, images, labels)
    pictures = images if isinstance(images, Pictures) else Pictures(images)
    with evaluating(model):
        logits_of_batch = logits_of(model, pictures, batch_size, engine=engine)
        correct = torch.zeros((), dtype=torch.int64, device=pictures.device)
        for first in range(0, len(pictures), batch_size):
            batch = pictures.rows(first, first + batch_size)
            correct += count_correct(logits_of_batch(batch), labels[first : first + batch_size])
    return int(correct) / len(pictures)


def derive_seed(*parts: int | str) -> int:
    """Hash the parts to a seed of 63 bits, so that neighbouring seeds share no random numbers."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def seeded_modules(device: torch.device, *parts: int | str) -> Iterator[None]:
    """Seed PyTorch's global generators, which dropout draws from, by `parts` inside, and restore them afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        seed = derive_seed(*parts)
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _diverged(what: str, settings: TrainingSettings) -> DivergedError:
    return DivergedError(f"training diverged: {what}; use an lr below {settings.lr:g}")


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
    """Refuse labels beyond `model.num_classes`, if it has that attribute: on a GPU one would abort the process."""
    classes = getattr(model, "num_classes", None)
    if not isinstance(classes, int):
        return
    if labels.ndim == 2 and labels.shape[1] != classes:
        raise InputError(f"labels are probabilities over {labels.shape[1]} classes, and the model has {classes}")
    if labels.ndim == 1 and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise InputError(f"labels must be from 0 to {classes - 1}, not from {labels.min()} to {labels.max()}")
