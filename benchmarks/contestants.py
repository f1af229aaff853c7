"""The hypergradient and its baselines as contestants of `benchmarks.hypergradient`.

A backend's contestant is `pydistill.match(…, backend=NAME).loss.backward()`, to the images and the learning rate;
`torch-memory` is backend `torch` with memory for the graphs of all steps. Beside them stand the published TESLA scheme
(`tesla`) and the sweep by forward over reverse in torch.func (`torch.func`), and two yardsticks: `floor` runs nothing
but the convolutions and matrix products that N student steps and their sweep need, and `arithmetic` is their number of
multiply-adds at the speed of one large matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.harness import CannotRun
from benchmarks.published import augmented_by
from pydistill.data.dsa import DsaSettings
from pydistill.engine.student import release_students
from pydistill.matching import Batches, match
from pydistill.nn import build, layout_of, parse
from pydistill.nn.flat import flatten

BACKENDS = ("autograd", "torch", "fused")
YARDSTICKS = ("floor", "arithmetic")
CONTESTANTS = (*BACKENDS, "torch-memory", "tesla", "torch.func", *YARDSTICKS)

DTYPES = ("float32", "float64")
MATRIX_SIDE = 2048


@dataclass(frozen=True)
class Setting:
    """The problem: network, images, number of student steps, and how it runs.

    `images` is the number of synthetic images, of which a step trains on `batch`; None: every step trains on the
    same `batch` images. `dsa` is the strategy of their augmentation, "" for none.
    """

    model: str = "convnet3"
    width: int = 128
    size: int = 32
    channels: int = 3
    classes: int = 10
    batch: int = 100
    steps: int = 5
    gradient: str = "exact"
    selection: str = "last"
    dtype: str = "float32"
    device: str = "cpu"
    threads: int | None = None
    images: int | None = None
    dsa: str = ""
    budget: str = "100%"

    def network(self) -> nn.Module:
        """The student, freshly initialised in this setting's dtype on its device.

        Raises:
            InputError: there is no such network, or it does not fit the images.
        """
        named = replace(parse(self.model), width=self.width)
        return build(named, self.channels, self.classes, self.size, seed=0).to(self.device, getattr(torch, self.dtype))


@dataclass(frozen=True)
class Gradients:
    """The output of a hypergradient contestant: L, ∂L/∂images, ∂L/∂α, and the matched step K."""

    loss: Tensor
    images: Tensor
    lr: Tensor
    step: int


@dataclass(frozen=True)
class Work:
    """A contestant; a call's seconds times `scale` are reported."""

    call: Callable[[], Gradients | None]
    scale: float = 1.0


class Problem:
    """One matching problem made from its setting: seeded, so that every process has the same numbers.

    The target lies ahead on the student's way, so that without augmentation its last step is the nearest.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.model = setting.network()
        self.layout = layout_of(self.model)
        self.generator = torch.Generator().manual_seed(0)
        count = setting.images or setting.batch
        images = torch.randn(count, setting.channels, setting.size, setting.size, generator=self.generator)
        self.images = images.to(self.model_like())
        self.labels = (torch.arange(count) % setting.classes).to(setting.device)
        self.lr = torch.tensor(0.01).to(self.model_like())
        self.start = flatten(self.model)
        first = (self.images[: setting.batch], self.labels[: setting.batch])
        self.target = self.start - 2 * setting.steps * self.lr * self.gradient(self.start, *first)

    def model_like(self) -> Tensor:
        """Convert a tensor to the problem's dtype and device."""
        return next(self.model.parameters()).detach()

    def batches(self, images: Tensor) -> Batches:
        """Make the steps' batches: all images, or batches and augmentations drawn at every call."""
        setting = self.setting
        if setting.images is None and not setting.dsa:
            return Batches(
                images, self.labels, torch.arange(setting.batch, device=images.device).expand(setting.steps, -1)
            )
        drawn = {"steps": setting.steps, "batch_size": setting.batch, "generator": self.generator}
        dsa = DsaSettings(strategy=setting.dsa) if setting.dsa else None
        return Batches.draw(images, self.labels, dsa=dsa, **drawn)

    def objective(self, theta: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """ℓ(θ, X, Y), a scalar."""
        return F.cross_entropy(functional_call(self.model, self.layout.split(theta), (images,)), labels)

    def gradient(self, theta: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """∇_θ ℓ(θ, X, Y) as a constant, [P]."""
        leaf = theta.detach().requires_grad_()
        return torch.autograd.grad(self.objective(leaf, images, labels), leaf)[0]

    def trained(self, batches: Batches) -> tuple[list[Tensor], Tensor]:
        """θ_0 … θ_N and Σ_k g_k of the student, with no graph."""
        points, total = [self.start], torch.zeros_like(self.start)
        for step in range(len(batches)):
            gradient = self.gradient(points[-1], *batches[step])
            total += gradient
            points.append(points[-1] - self.lr * gradient)
        return points, total

    def normaliser(self) -> Tensor:
        """‖θ_0 − θ*‖²."""
        return (self.start - self.target).square().sum()


def prepare(name: str, setting: Mapping[str, Any]) -> Work:
    """The contestant `name` on the problem of `setting`, whose keys are Setting's.

    Raises:
        CannotRun: it does not do what the setting asks for.
    """
    chosen = Setting(**setting)
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    if name in YARDSTICKS:
        return _floor(chosen) if name == "floor" else _arithmetic(chosen)
    if name in (*BACKENDS, "torch-memory"):
        problem = Problem(chosen)
        return Work(lambda: by_backend(problem, name))
    if chosen.selection != "last":
        raise CannotRun(f"{name} is written for selection 'last' only")
    problem = Problem(chosen)
    return Work(lambda: (by_tesla if name == "tesla" else by_torch_func)(problem))


def release() -> None:
    """Free the memory that is cached between calls."""
    release_students()


def smallest(setting: Mapping[str, Any]) -> dict[str, Any]:
    """The setting with one image and one step."""
    return {**setting, "batch": 1, "steps": 1}


def gradient_of(name: str, setting: Setting) -> str:
    """Return the kind of gradient that a contestant computes; TESLA's is always truncated."""
    return "truncated" if name == "tesla" else setting.gradient


def vectors_bytes(setting: Setting) -> int:
    """Return the size of the N + 1 parameter vectors that the sweep stores by design."""
    parameters = list(setting.network().parameters())
    return (setting.steps + 1) * sum(value.numel() * value.element_size() for value in parameters)


def by_backend(problem: Problem, backend: str) -> Gradients:
    """`match` and backward of this package; backend `autograd` augments by PyTorch, as the published loops do."""
    setting = problem.setting
    images, lr = problem.images.clone().requires_grad_(), problem.lr.clone().requires_grad_()
    choices: dict[str, Any] = {"gradient": setting.gradient, "selection": setting.selection, "backend": backend}
    if backend == "torch-memory":
        choices |= {"backend": "torch", "memory": setting.budget}
    batches: Batches | list[tuple[Tensor, Tensor]] = problem.batches(images)
    if backend == "autograd" and isinstance(batches, Batches) and batches.draws is not None:
        rows = [batches.images.index_select(0, index) for index in batches.index]
        batches = [
            (augmented_by(images, draw), batches.labels[index])
            for images, draw, index in zip(rows, batches.draws, batches.index, strict=True)
        ]
    result = match(problem.model, problem.start, problem.target, batches, lr, **choices)
    torch.autograd.backward(result.loss)
    assert images.grad is not None
    assert lr.grad is not None
    return Gradients(result.loss.detach(), images.grad, lr.grad, result.step)


def by_tesla(problem: Problem) -> Gradients:
    """The truncated gradient, from the sum of the steps' gradients and then one small graph per step.

        G = Σ_k g_k      v = 2 (θ* − θ_0 + α G) / ‖θ_0 − θ*‖²
        ∂L/∂X_k = α ∂⟨v, ∇_θ ℓ(θ_k, X_k)⟩/∂X_k at constant θ_k and v      ∂L/∂α = ⟨v, G⟩

    Source: Cui et al., *Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory*, ICML 2023.
    """
    batches = problem.batches(problem.images)
    points, total = problem.trained(batches)
    normaliser = problem.normaliser()
    direction = 2 * (problem.target - problem.start + problem.lr * total) / normaliser
    to_images = torch.zeros_like(problem.images)
    for step, point in enumerate(points[:-1]):
        theta, rows = point.detach().requires_grad_(), _rows(batches, step).requires_grad_()
        loss = problem.objective(theta, _augmented(rows, batches, step), batches.labels[batches.index[step]])
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
        (to_rows,) = torch.autograd.grad(torch.dot(gradient, direction), rows)
        to_images.index_add_(0, batches.index[step], problem.lr * to_rows)
    loss = (points[-1] - problem.target).square().sum() / normaliser
    return Gradients(loss, to_images, torch.dot(direction, total), problem.setting.steps)


def by_torch_func(problem: Problem) -> Gradients:
    """The adjoint sweep by forward over reverse: `torch.func.jvp` of `torch.func.grad`, along λ.

        (s, H λ, ẊG) = d/dε (ℓ, ∇_θ ℓ, ∇_X ℓ) at (θ_k + ε λ_{k+1}, X_k)
        ∂L/∂X_k = −α ẊG      ∂L/∂α −= s      λ_k = λ_{k+1} − α H λ

    The truncated gradient goes without H λ.
    """
    batches = problem.batches(problem.images)
    points, _ = problem.trained(batches)
    normaliser = problem.normaliser()
    adjoint = 2 * (points[-1] - problem.target) / normaliser
    to_images, to_lr = torch.zeros_like(problem.images), torch.zeros_like(problem.lr)
    for step in reversed(range(problem.setting.steps)):
        with_product = problem.setting.gradient == "exact" and step > 0
        needed = torch.func.grad_and_value(problem.objective, argnums=(1, 0) if with_product else (1,))
        rows, labels = _rows(batches, step).requires_grad_(), batches.labels[batches.index[step]]
        images = _augmented(rows, batches, step)
        constants = (images.detach(), labels)
        along_adjoint: Any = torch.func.jvp(
            lambda theta, needed=needed, constants=constants: needed(theta, *constants), (points[step],), (adjoint,)
        )
        tangents, product = along_adjoint[1]
        (to_rows,) = torch.autograd.grad(images, rows, tangents[0])
        to_images.index_add_(0, batches.index[step], -problem.lr * to_rows)
        to_lr -= product
        if with_product:
            adjoint = adjoint - problem.lr * tangents[1]
    loss = (points[-1] - problem.target).square().sum() / normaliser
    return Gradients(loss, to_images, to_lr, problem.setting.steps)


def _rows(batches: Batches, step: int) -> Tensor:
    """The images that a step trains on, before augmentation."""
    return batches.images.index_select(0, batches.index[step])


def _augmented(rows: Tensor, batches: Batches, step: int) -> Tensor:
    return rows.clone() if batches.draws is None else augmented_by(rows, batches.draws[step])


class _Layer:
    """A convolution or a linear layer as three products, of one batch or of a pair of batches in one call.

    forward: y = x * w      weight: Σ_b x_b ⋆ dy_b      input: dy * wᵀ
    """

    def __init__(self, module: nn.Conv2d | nn.Linear, x: Tensor, y: Tensor, setting: Setting) -> None:
        options = {"dtype": getattr(torch, setting.dtype), "device": setting.device}
        # Room for [x; ẋ] and [dy; dẏ].
        self.x, self.y = (torch.randn(2 * setting.batch, *value.shape[1:], **options) for value in (x, y))
        self.weight = torch.randn(module.weight.shape, **options)
        self.batch = setting.batch
        self.multiply_adds = setting.batch * module.weight[0].numel() * y[0].numel()
        self.conv = module if isinstance(module, nn.Conv2d) else None
        if self.conv is not None:
            self.x, self.y, self.weight = (
                value.contiguous(memory_format=torch.channels_last) for value in (self.x, self.y, self.weight)
            )

    def run(self, product: str, batches: int) -> None:
        """Run one product and drop its result."""
        x, y, w = self.x[: batches * self.batch], self.y[: batches * self.batch], self.weight
        if self.conv is None:
            left, right = {"forward": (x, w.t()), "weight": (y.t(), x), "input": (y, w)}[product]
            torch.mm(left, right)
        elif product == "forward":
            torch.conv2d(x, w, None, self.conv.stride, self.conv.padding)
        else:
            mask = [product == "input", product == "weight", False]
            shape = (self.conv.stride, self.conv.padding, self.conv.dilation, False, [0, 0], 1, mask)
            torch.ops.aten.convolution_backward(y, x, w, None, *shape)


def _layers(setting: Setting) -> list[_Layer]:
    """The student's convolutions and linear layers in the order in which they run."""
    network, result = setting.network(), []

    def note(module: nn.Conv2d | nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        result.append(_Layer(module, inputs[0], output, setting))

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(note)
    with torch.no_grad():
        like = next(network.parameters())
        network(torch.zeros(1, setting.channels, setting.size, setting.size, dtype=like.dtype, device=like.device))
    return result


def _products(layers: list[_Layer], setting: Setting) -> Iterator[tuple[_Layer, str, int]]:
    """Every product of N student steps and of the sweep back through them: (layer, which, batches in the call).

    Student step: forward, weight, input. Sweep step: forward again with the tangent, [x; ẋ] * w in one call and x * ẇ;
    backward likewise, [dy; dẏ] * wᵀ in one call and dy * ẇᵀ; and, for H λ, which step 0 and the truncated gradient do
    without, one weight gradient over [ẋ; x] and [dy; dẏ]. The first layer's input has no tangent, and of its gradients
    the student step needs none and the sweep only the tangent.
    """
    first = layers[0]
    for _ in range(setting.steps):
        yield from ((layer, "forward", 1) for layer in layers)
        for layer in reversed(layers):
            yield layer, "weight", 1
            if layer is not first:
                yield layer, "input", 1
    for step in reversed(range(setting.steps)):
        for layer in layers:
            yield layer, "forward", 1 if layer is first else 2
            yield layer, "forward", 1
        for layer in reversed(layers):
            if setting.gradient == "exact" and step > 0:
                yield layer, "weight", 1 if layer is first else 2
            yield layer, "input", 1 if layer is first else 2
            yield layer, "input", 1


def multiply_adds(setting: Setting) -> int:
    """Count the multiply-adds of the products of N student steps and their sweep."""
    one_image = replace(setting, batch=1)  # the layers hold tensors of their batch
    products = _products(_layers(one_image), setting)
    return setting.batch * sum(layer.multiply_adds * batches for layer, _, batches in products)


def bytes_beyond(setting: Setting, cache: int) -> int:
    """Count the least bytes that these products read and write: their operands and results, once per call, less the
    `cache` bytes that may lie in the processor's cache at the call and after it.
    """
    size = torch.empty((), dtype=getattr(torch, setting.dtype)).element_size()
    one_image = replace(setting, batch=1)
    total = 0
    for layer, _, batches in _products(_layers(one_image), setting):
        planes = setting.batch * batches * (layer.x[0].numel() + layer.y[0].numel())
        total += max(0, size * (planes + layer.weight.numel()) - 2 * cache)
    return total


def _floor(setting: Setting) -> Work:
    layers = _layers(setting)

    @torch.inference_mode()
    def call() -> None:
        for layer, product, batches in _products(layers, setting):
            layer.run(product, batches)

    return Work(call)


def _arithmetic(setting: Setting) -> Work:
    options: dict[str, Any] = {"dtype": getattr(torch, setting.dtype), "device": setting.device}
    left, right, out = (torch.randn(MATRIX_SIDE, MATRIX_SIDE, **options) for _ in range(3))

    def call() -> None:
        torch.mm(left, right, out=out)

    return Work(call, multiply_adds(setting) / MATRIX_SIDE**3)
