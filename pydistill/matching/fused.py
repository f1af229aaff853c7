"""Backend `fused`: the adjoint sweep in C++ over fused kernels, for the ConvNet of the papers and for MLPs.

The passes of `csrc/engine/student.h` take the place of PyTorch's: one step of training with the distances in the same
pass as the update, and one forward-over-reverse pass of the sweep. Without augmentation both sweeps run in C++ from the
first step to the last; with it, PyTorch makes each batch when its step needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from pydistill.errors import InputError
from pydistill.matching.adjoint import Needed, Points, Sweep, match_by_sweep
from pydistill.matching.batches import BatchPlan
from pydistill.matching.problem import Match, Problem
from pydistill.matching.selection import distance_sums
from pydistill.nn import MLP, ConvNet
from pydistill.nn.flat import layout_of
from pydistill.nn.layers import halved, padded
from pydistill.ops.extension import load_extension

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def why_not_fused(model: nn.Module, like: Tensor) -> str | None:
    """Why the fused engine cannot run this model on the device of `like`, or None if it can."""
    device_type = like.device.type
    extension = load_extension()
    if device_type not in extension.device_types:
        return extension.reason or f"the extension has no kernels for {device_type}"
    if torch.is_autocast_enabled(device_type):
        return "it does not follow autocast"
    return why_not_a_student(model)


def image_shapes(plan: BatchPlan) -> set[torch.Size]:
    """[C, H, W] of the images of all steps; the engine's student takes one."""
    return {plan.sources[at.images].shape[1:] for at in plan.steps}


def why_not_these_images(model: nn.Module, plan: BatchPlan) -> str | None:
    """Why the engine cannot train this network on the plan's images although PyTorch may, or None if it can."""
    shapes = image_shapes(plan)
    if len(shapes) > 1:
        return "it takes images of one shape, and here the steps have several"
    (shape,) = shapes
    if isinstance(model, MLP) and len(shape) != 3:
        return f"it takes images [B, C, H, W], not {['B', *shape]}".replace("'", "")
    return None


def why_not_a_student(model: nn.Module) -> str | None:
    """Why the engine does not know this network, or None if it does."""
    if type(model) not in (ConvNet, MLP):  # a subclass may compute something else
        return f"it runs pydistill.nn.ConvNet and MLP, not {type(model).__name__}"
    assert isinstance(model, (ConvNet, MLP))
    if model.activation != "relu":
        return f"it knows the activation relu, not {model.activation}"
    if isinstance(model, ConvNet) and model.norm not in ("instance", "none"):
        return f"it knows the norms instance and none, not {model.norm}"
    if _was_changed(model):
        return f"this {type(model).__name__} was changed after it was made"
    if any(getattr(module, hooks) for module in model.modules() for hooks in HOOKS):
        return f"this {type(model).__name__} has hooks, which it would not call"
    return None


def _was_changed(model: ConvNet | MLP) -> bool:
    """Whether a layer, its settings, its parameters or its way of computing are no longer those it was made with."""
    if any("forward" in vars(module) for module in model.modules()):
        return True
    settings: tuple[Any, ...] = (model.in_channels, model.num_classes, model.image_size, model.width, model.depth)
    if isinstance(model, ConvNet):
        settings += (model.norm, model.activation, model.pooling, model.first_padding)
    made = _as_made(isinstance(model, ConvNet), *settings)
    return repr(model) != made or layout_of(model).shapes != _shapes(model)


@lru_cache(maxsize=16)
def _as_made(convolutional: bool, *settings: Any) -> str:
    """How a network of these settings describes its layers."""
    with torch.device("meta"):  # no memory and no random numbers
        return repr(ConvNet(*settings) if convolutional else MLP(*settings))


def _shapes(model: ConvNet | MLP) -> tuple[tuple[int, ...], ...]:
    """The shapes of the parameters that the engine expects."""
    shapes: list[tuple[int, ...]] = []
    if isinstance(model, MLP):
        units = [model.in_channels * model.image_size[0] * model.image_size[1]]
        units += [model.width] * (model.depth - 1) + [model.num_classes]
        for fan_in, fan_out in pairwise(units):
            shapes += [(fan_out, fan_in), (fan_out,)]
        return tuple(shapes)
    channels = model.in_channels
    for _ in range(model.depth):
        shapes += [(model.width, channels, 3, 3), (model.width,)]
        if model.norm == "instance":
            shapes += [(model.width,), (model.width,)]
        channels = model.width
    height, width = _features(model, model.image_size)
    return (*shapes, (model.num_classes, model.width * height * width), (model.num_classes,))


def _features(model: ConvNet, plane: tuple[int, int]) -> tuple[int, int]:
    """The plane that the blocks leave of images of this plane."""
    for block in range(model.depth):
        plane = padded(plane, 3, model.first_padding if block == 0 else 1)
        if model.pooling != "none":
            plane = halved(plane)
    return plane


def fused_student(model: nn.Module, images: Sequence[int], like: Tensor) -> Any:
    """The engine's student for this network, batches of up to `images` [B, C, H, W], and dtype and device of `like`.

    It owns the memory of its passes, so the last few are kept and used again.

    Raises:
        InputError: the network does not take such images.
    """
    assert isinstance(model, (ConvNet, MLP))
    channels, *plane = images[1:]
    if isinstance(model, MLP):  # it knows the number of pixels, not their places
        fits = prod(images[1:]) == model.in_channels * prod(model.image_size)
    else:
        fits = len(plane) == 2 and channels == model.in_channels
        fits = fits and _features(model, (plane[0], plane[1])) == _features(model, model.image_size)
    if not fits:
        raise InputError(
            f"{type(model).__name__} cannot run on images of shape {list(images)}: "
            f"it was made for [B, {model.in_channels}, {model.image_size[0]}, {model.image_size[1]}]"
        )
    sizes = (channels, *plane, model.num_classes, model.width, model.depth)
    if isinstance(model, MLP):
        return _student("mlp", (*sizes, 0), "none", "none", 0.0, like.dtype, like.device, images[0])
    norms = [module for module in model.features if isinstance(module, nn.GroupNorm)]
    eps = norms[0].eps if norms else 0.0
    shape = (*sizes, model.first_padding)
    return _student("convnet", shape, model.norm, model.pooling, eps, like.dtype, like.device, images[0])


@lru_cache(maxsize=4)
def _student(
    kind: str,
    sizes: tuple[int, ...],
    norm: str,
    pooling: str,
    eps: float,
    dtype: torch.dtype,
    device: torch.device,
    largest_batch: int,
) -> Any:
    like = torch.empty(0, dtype=dtype, device=device)
    return torch.classes.pydistill.Student(kind, list(sizes), norm, pooling, eps, like, largest_batch, "own", 0)


class FusedSweep(Sweep):
    """Each step by the engine's passes."""

    backend = "fused"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        plan, model = problem.plan, problem.student.model
        (shape,) = image_shapes(plan)
        largest = max(len(plan.sources[at.images]) if at.index is None else len(at.index) for at in plan.steps)
        self.student = fused_student(model, [largest, *shape], problem.start)
        self._check_labels(int(model.num_classes))  # type: ignore[arg-type]
        self.augmented = any(at.draw is not None for at in plan.steps)
        nothing = torch.empty(0, dtype=torch.int64, device=problem.start.device)
        self.images = [at.images for at in plan.steps]
        self.labels = [at.labels for at in plan.steps]
        self.index = [nothing if at.index is None else at.index for at in plan.steps]

    def _check_labels(self, classes: int) -> None:
        plan = self.problem.plan
        for at in plan.steps:
            labels = plan.sources[at.labels]
            if labels.ndim == 2:
                if labels.shape[1] != classes:
                    raise InputError(f"label rows have {labels.shape[1]} classes, the model's logits {classes}")
            elif labels.device.type == "cpu":
                rows = labels if at.index is None else labels[at.index]
                if int(rows.max()) >= classes:
                    raise InputError(
                        f"hard labels must lie in [0, {classes - 1}] for {classes} classes, found {int(rows.max())}"
                    )

    def step_lrs(self, lr: Tensor) -> Tensor:
        """α of each step, [N]."""
        return lr.detach().expand(self.problem.steps).contiguous()

    def train(self) -> tuple[Points, Tensor]:
        problem, plan = self.problem, self.problem.plan
        start, target = problem.start.detach(), problem.target.detach().contiguous()
        points = start.new_empty(problem.steps + 1, start.numel())
        points[0] = start
        sums = torch.empty(problem.steps + 1, 2, dtype=torch.float64, device=start.device)
        sums[0] = distance_sums(start, target)
        lr = self.step_lrs(problem.lr)
        if not self.augmented:
            sources = [source.detach() for source in plan.sources]
            self.student.train(points, sums, target, lr, sources, self.images, self.labels, self.index)
        else:
            for step in range(problem.steps):
                images, labels = plan.rows(plan.sources, step)
                images = plan.augmented(images, step).detach()
                self.student.train_step(points, sums, target, lr, step, images, labels.detach())
        return points, sums

    def go_back(
        self, adjoint: Tensor, lr: Tensor, sources: tuple[Tensor, ...], needed: Needed
    ) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
        exact = self.problem.gradient == "exact"
        rates = self.step_lrs(lr)
        adjoint = adjoint.clone()
        of_lr = torch.zeros_like(rates) if needed.lr else rates.new_empty(0)
        gradients = [
            torch.zeros_like(source) if wanted else source.new_empty(0)
            for source, wanted in zip(sources, needed.sources, strict=True)
        ]
        if not self.augmented:
            values = [source.detach() for source in sources]
            recipe = (values, self.images, self.labels, self.index)
            self.student.sweep(self.points, self.step, rates, *recipe, exact, needed.start, adjoint, of_lr, gradients)
        else:
            self._go_back_step_by_step(adjoint, rates, sources, needed, of_lr, gradients)
        lr_gradient = (of_lr.sum() if lr.ndim == 0 else of_lr) if needed.lr else None
        found = [each if wanted else None for each, wanted in zip(gradients, needed.sources, strict=True)]
        return adjoint, lr_gradient, list(found)

    def _go_back_step_by_step(
        self,
        adjoint: Tensor,
        rates: Tensor,
        sources: tuple[Tensor, ...],
        needed: Needed,
        of_lr: Tensor,
        gradients: list[Tensor],
    ) -> None:
        """The sweep where PyTorch augments each batch: adds to `of_lr` and `gradients`, changes `adjoint`."""
        plan = self.problem.plan
        for step in reversed(range(self.step)):
            at = plan.steps[step]
            wants_product = self.problem.gradient == "exact" and (step > 0 or needed.start)
            wants_images, wants_labels = needed.sources[at.images], needed.sources[at.labels]
            if not (wants_product or wants_images or wants_labels or needed.lr):
                continue
            rows, labels = plan.rows(sources, step)
            with torch.enable_grad():
                rows = rows.detach().requires_grad_(wants_images)
                images = plan.augmented(rows, step)
            inner, product, of_images, of_labels = self.student.adjoint(
                self.points[step], adjoint, images.detach(), labels.detach(), wants_product, wants_images, wants_labels
            )
            if needed.lr:
                of_lr[step] -= inner
            if wants_images:
                (of_rows,) = torch.autograd.grad(images, rows, of_images)
                _subtract(gradients[at.images], at.index, rates[step] * of_rows)
            if wants_labels:
                _subtract(gradients[at.labels], at.index, rates[step] * of_labels)
            if wants_product:
                adjoint -= rates[step] * product


def _subtract(gradient: Tensor, index: Tensor | None, share: Tensor) -> None:
    if index is None:
        gradient -= share
    else:
        gradient.index_add_(0, index, share, alpha=-1)


def match_by_fused(problem: Problem) -> Match:
    """Match with backend `fused`."""
    return match_by_sweep(FusedSweep(problem))
