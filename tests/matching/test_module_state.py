"""Modules with state: random numbers, attributes, buffers, memory of the caller's, threads."""

from __future__ import annotations

import random
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pydistill.errors import InputError
from pydistill.matching import match
from pydistill.matching.backends.torch import _warn_of_rounding
from pydistill.nn import build, flatten, parse
from tests.matching.any_module import (
    BACKENDS,
    LABELS,
    PLAIN,
    Network,
    Pairs,
    approximately,
    literal_loss,
    outcome,
    points,
)


def varied(images: Tensor) -> Pairs:
    return [(images[:2], LABELS[:2]), (images, LABELS), (images, LABELS)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_that_begins_later(backend: str) -> None:
    model = Network(lambda self, images: self.net(F.dropout(images, 0.5, self.training) if len(images) > 2 else images))
    torch.manual_seed(1)
    _, of_images, of_lr = outcome(model, backend, varied)
    assert (of_images, of_lr) == approximately((0.40558319, 0.71280140))


GENERATOR = torch.Generator()


def noise_of_numpy(images: Tensor) -> Tensor:
    return torch.from_numpy(np.random.rand(*images.shape))  # noqa: NPY002


def noise_of_python(images: Tensor) -> Tensor:
    return torch.full_like(images, random.random())


def noise_of_a_generator(images: Tensor) -> Tensor:
    return torch.rand(images.shape, generator=GENERATOR, dtype=images.dtype)


@pytest.mark.parametrize("noise", [noise_of_numpy, noise_of_python, noise_of_a_generator])
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_a_step_that_is_another_function_when_run_again(noise: Callable[[Tensor], Tensor], scale: float) -> None:
    model = Network(lambda self, images: self.net(images + scale * noise(images)))
    with pytest.raises(InputError, match="second time"):
        outcome(model, "torch")


def test_a_random_step_in_float32() -> None:
    start, target, images = (value.float() for value in points(819))
    model = Network(lambda self, images: self.net(images + 0.01 * torch.rand(images.shape, generator=GENERATOR)))
    loss = match(model.float(), start, target, [(images.requires_grad_(), LABELS)] * 4, 0.2, backend="torch").loss
    with pytest.raises(InputError, match="second time"):
        loss.backward()


def test_gradients_lost_in_rounding_errors_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """An instance norm of the bias and pixels of 1e-10: in float32 PyTorch's kernels round the pixels away."""
    model = build(parse("convnet1-w4"), 1, 3, 8, seed=0)
    start = flatten(model)
    _, target, images = points(len(start))
    target += start
    images *= 1e-10
    _warn_of_rounding.cache_clear()
    for dtype in (torch.float64, torch.float32):
        pair = (images.to(dtype).requires_grad_(), LABELS)
        assert not caplog.records
        loss = match(model.to(dtype), start.to(dtype), target.to(dtype), [pair] * 4, 0.2, backend="torch").loss
        loss.backward()
    assert "lost in rounding errors" in caplog.text


def test_an_attribute_that_changes_the_function() -> None:
    """The steps see it change as in the published loop; the backward sweep cannot go back to what it was."""

    def forward(self: Any, images: Tensor) -> Tensor:
        self.calls += 1
        return self.net(self.calls * images)

    model = Network(forward)
    model.calls = 0
    assert outcome(model, "autograd") != approximately(PLAIN)
    assert model.calls == 0
    with pytest.raises(InputError, match="second time"):
        outcome(model, "torch")
    assert outcome(model, "torch", memory="1GB") == pytest.approx(outcome(model, "autograd"), rel=1e-12)


def cached_mean(self: Any, images: Tensor) -> Tensor:
    """Subtract the mean of the first images that it sees."""
    if self.stored is None:
        self.stored = images.mean()
    return self.net(images - self.stored)


def cached_weight(self: Any, images: Tensor) -> Tensor:
    """Compute a function of the weight in the first step only."""
    if self.stored is None:
        self.stored = self.net[4].weight.tanh()
    return F.linear(self.net[:4](images), self.stored, self.net[4].bias)


def previous_features(self: Any, images: Tensor) -> Tensor:
    """Add the features of the step before."""
    features = self.net[:2](images).tanh()
    mixed = features if self.stored is None else features + self.stored
    self.stored = features
    return self.net[2:](mixed)


@pytest.mark.parametrize("forward", [cached_mean, cached_weight, previous_features])
def test_a_gradient_through_a_tensor_of_an_earlier_step(forward: Callable[[Any, Tensor], Tensor]) -> None:
    """The full graph has it; backend `torch`, whose steps have graphs of their own, refuses."""
    model, literal_model = Network(forward), Network(forward)
    model.stored = literal_model.stored = None
    start, target, images = points(819)
    images.requires_grad_()
    theta = start.requires_grad_()
    for _ in range(3):
        (gradient,) = torch.autograd.grad(literal_loss(literal_model, theta, images), theta, create_graph=True)
        theta = theta - 0.2 * gradient
    expected_loss = (theta - target).square().sum() / (start - target).square().sum()
    expected = torch.autograd.grad(expected_loss, [images, start])
    pairs = [(images, LABELS)] * 3
    actual = torch.autograd.grad(match(model, start, target, pairs, 0.2, backend="autograd").loss, [images, start])
    for value, right in zip(actual, expected, strict=True):
        assert torch.allclose(value, right, rtol=1e-9, atol=1e-12)
    for memory in (None, "0B", "300kB", "1GB"):
        with pytest.raises(InputError, match="earlier step"):
            match(model, start, target, pairs, 0.2, backend="torch", memory=memory).loss.backward()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_module_that_stores_its_features(backend: str) -> None:
    def forward(self: Any, images: Tensor) -> Tensor:
        self.features = self.net[:4](images)
        return self.net[4](self.features)

    for memory in (None, "100kB", "1GB"):
        assert outcome(Network(forward), backend, memory=memory) == approximately(PLAIN)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("view", [lambda weight: weight.view(-1), lambda weight: weight.data, lambda weight: weight[1]])
def test_a_stored_view_of_a_parameter_is_refused(backend: str, view: Callable[[Tensor], Tensor]) -> None:
    model = Network()
    model.views = [view(model.net[4].weight)]
    with pytest.raises(InputError, match="view"):
        outcome(model, backend)


def test_parameters_in_one_storage() -> None:
    """They are views of one buffer, and overlap with nothing."""
    model = Network()
    model.register_buffer("flat", torch.cat([flatten(model), torch.ones(1, dtype=torch.float64)]))
    assert isinstance(model.flat, Tensor)
    at = 0
    for parameter in model.parameters():
        parameter.data = model.flat[at : at + parameter.numel()].view_as(parameter)
        at += parameter.numel()
    model.flat = model.flat[at:]
    assert outcome(model, "torch") == approximately(PLAIN)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hook_on_a_parameter_is_refused(backend: str) -> None:
    model = Network()
    model.net[4].weight.register_hook(lambda gradient: 0 * gradient)
    with pytest.raises(InputError, match=r"net\.4\.weight"):
        outcome(model, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_lazy_parameter_is_refused(backend: str) -> None:
    start, target, images = points(195)
    with pytest.raises(InputError, match=r"'1\.weight'"):
        match(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), start, target, [(images, LABELS)], 0.2, backend=backend)


RUNS: list[int] = []


def test_another_thread_draws_while_a_step_runs_again() -> None:
    """The run that the gradient comes from has other numbers; later runs have the right ones again."""

    def forward(self: Any, images: Tensor) -> Tensor:
        RUNS.append(len(RUNS))
        if RUNS[-1] == 4:  # of step 3, for its gradient
            torch.rand(1)
        return self.net(F.dropout(images, 0.5))

    RUNS.clear()
    with pytest.raises(InputError, match="another thread"):
        outcome(Network(forward), "torch")


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_module_changes_between_match_and_backward(backend: str) -> None:
    model = Network()
    start, target, images = points(819)
    loss = match(model, start, target, [(images.requires_grad_(), LABELS)] * 4, 0.2, backend=backend).loss
    del model.net
    (of_images,) = torch.autograd.grad(loss, images)
    assert (float(of_images.abs().sum()),) == approximately(PLAIN[1:2])


@pytest.mark.parametrize("memory", [None, "1B", "1GB"])
def test_a_match_is_freed_without_backward(memory: str | None) -> None:
    features: list[weakref.ref[Tensor]] = []

    def forward(self: Any, images: Tensor) -> Tensor:
        hidden = self.net[:4](images)
        features.append(weakref.ref(hidden))
        return self.net[4](hidden)

    start, target, images = points(819)
    match(Network(forward), start, target, [(images.requires_grad_(), LABELS)] * 4, 0.2, backend="torch", memory=memory)
    assert len(features) == 4
    assert all(reference() is None for reference in features)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_callers_memory_is_not_overwritten(backend: str) -> None:
    """By a module that works in place on its input."""

    def forward(self: Any, images: Tensor) -> Tensor:
        return self.net(images.sub_(0.5).div_(0.25))

    start, target, images = points(819)
    before = images.clone()
    lr = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    loss = match(Network(forward), start, target, [(images, LABELS)] * 4, lr, backend=backend).loss
    loss.backward()
    assert lr.grad is not None
    assert (float(loss.detach()), float(lr.grad)) == approximately((1.10822316, 1.14736749))
    assert torch.equal(images, before)
    assert outcome(Network(forward), backend)[::2] == approximately((1.10822316, 1.14736749))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("memory", [None, "1GB"])
def test_a_module_that_writes_to_its_parameters_is_refused(backend: str, steps: int, memory: str | None) -> None:
    def clamps(self: Any, images: Tensor) -> Tensor:
        self.net[4].weight.data.clamp_(-0.1, 0.1)
        return self.net(images)

    start, target, images = points(819)
    before = start.clone()
    with pytest.raises(InputError, match="parameters"):
        match(Network(clamps), start, target, [(images, LABELS)] * steps, 0.2, backend=backend, memory=memory)
    assert torch.equal(start, before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_module_that_changes_a_buffer_is_refused_and_left_alone(backend: str) -> None:
    def forward(self: Any, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.net(images)

    model = Network(forward)
    model.register_buffer("seen", torch.zeros((), dtype=torch.int64))
    with pytest.raises(InputError, match="'seen'"):
        outcome(model, backend)
    assert int(model.seen) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_module_in_several_threads(backend: str) -> None:
    """200 matches over eight threads equal one by itself, and the module is what it was."""
    model, threads, each = Network(), 8, 25
    before = list(model.parameters())
    expected = outcome(model, backend)
    results: list[tuple[float, float, float]] = []

    def several() -> None:
        for _ in range(each):
            results.append(outcome(model, backend))

    workers = [threading.Thread(target=several) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == [expected] * (threads * each)
    assert all(after is old for after, old in zip(model.parameters(), before, strict=True))


class Holder:
    """An object that is not a module and calls one."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, images: Tensor) -> Tensor:
        result: Tensor = self.module(images)
        return result


@pytest.mark.parametrize("backend", BACKENDS)
def test_modules_that_are_reached_in_other_ways(backend: str) -> None:
    in_a_list = Network(lambda self, images: self.again["all"][0](images))
    in_a_list.again = {"all": [in_a_list.net]}
    assert outcome(in_a_list, backend) == approximately(PLAIN)

    closed_over = Network()
    net = closed_over.net

    def forward(self: Any, images: Tensor, depth: int = 2) -> Tensor:
        return forward(self, images, depth - 1) if depth else net(images)

    closed_over.own_forward = forward
    assert outcome(closed_over, backend) == approximately(PLAIN)

    held = Network(lambda self, images: self.holder(images))
    held.holder = Holder(held.net)
    with pytest.raises(InputError, match=r"net\.0\.weight"):
        outcome(held, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_under_no_grad_there_is_no_graph(backend: str) -> None:
    with torch.no_grad():
        start, target, images = points(819)
        result = match(Network(), start, target, [(images.requires_grad_(), LABELS)] * 4, 0.2, backend=backend)
    assert not result.loss.requires_grad
    assert (float(result.loss),) == approximately(PLAIN[:1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_inference_mode_gives_the_loss(backend: str) -> None:
    with torch.inference_mode():
        start, target, images = points(819)
        result = match(Network(), start, target, [(images, LABELS.clone())] * 4, 0.2, backend=backend)
    assert (float(result.loss),) == approximately(PLAIN[:1])


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
def test_inference_tensors_and_other_layouts_are_refused(backend: str) -> None:
    start, target, images = points(819)
    with torch.inference_mode():
        inference = images.clone()
    for wrong in (inference, images.to_sparse(), torch.nested.as_nested_tensor(list(images), layout=torch.jagged)):
        with pytest.raises(InputError, match="images of step 0"):
            match(Network(), start, target, [(wrong, LABELS)], 0.2, backend=backend)


def test_a_budget_of_memory_changes_no_bit() -> None:
    """Whatever number of steps it holds; with group norm, whose backward pass rounds otherwise with a graph."""
    results = [outcome(Network(), "torch", memory=memory) for memory in ("0B", "100kB", "300kB", "1GB", 0.5, "50%")]
    assert results == [results[0]] * 6
    assert results[0] == approximately(PLAIN)


@pytest.mark.parametrize("memory", ["lots", -1, 2.0, True, "4 apples", "110%", float("nan")])
def test_a_budget_that_is_none(memory: Any) -> None:
    with pytest.raises(InputError, match="memory"):
        outcome(Network(), "torch", memory=memory)
