"""The adjoint sweep against the whole graph, in fp64: same loss, step, distances and gradients to everything."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pydistill.data.dsa import DsaSettings
from pydistill.errors import InputError
from pydistill.matching import match
from tests.matching.problems import assert_same, make_case

BOUND = 1e-9

SELECTIONS = [
    {"selection": "last"},
    {"selection": "nearest", "distance": "l1"},
    {"selection": "nearest", "distance": "l2"},
]


@pytest.mark.parametrize("gradient", ["exact", "truncated"])
@pytest.mark.parametrize("options", SELECTIONS, ids=lambda options: "-".join(options.values()))
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_convnet(steps: int, options: dict[str, str], gradient: str) -> None:
    case = make_case(steps=steps, gradient=gradient, **options)
    assert_same(case.run("torch"), case.run("autograd"), BOUND)


@pytest.mark.parametrize("network", ["convnet1-w4", "convnet3-w4", "mlp-w8", "resnet18-w4"])
@pytest.mark.parametrize("augmented", [False, True])
def test_networks(network: str, augmented: bool) -> None:
    dsa = DsaSettings(mode="M") if augmented else None
    case = make_case(network, steps=5, dsa=dsa, selection="nearest")
    assert_same(case.run("torch"), case.run("autograd"), BOUND)


@pytest.mark.parametrize("norm", ["none", "group", "layer", "batch"])
def test_norms(norm: str) -> None:
    from pydistill.nn import ConvNet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ConvNet(2, 3, 8, width=8, depth=2, norm=norm)
    if norm == "batch":
        model.eval()
    case = make_case(model=model, steps=4)
    assert_same(case.run("torch"), case.run("autograd"), BOUND)


@pytest.mark.parametrize("gradient", ["exact", "truncated"])
@pytest.mark.parametrize("per_step_lr", [False, True])
@pytest.mark.parametrize("labels", ["hard", "soft", "logits"])
def test_labels_and_learning_rates(labels: str, per_step_lr: bool, gradient: str) -> None:
    case = make_case(steps=6, labels=labels, per_step_lr=per_step_lr, gradient=gradient)
    assert_same(case.run("torch"), case.run("autograd"), BOUND)


@pytest.mark.parametrize("backend", ["torch", "autograd"])
def test_pairs_and_recipe_are_the_same_problem(backend: str) -> None:
    case = make_case(steps=5, labels="soft", dsa=DsaSettings(), selection="nearest")
    assert_same(case.run(backend, recipe=False), case.run(backend, recipe=True), 1e-12)


@pytest.mark.parametrize("options", SELECTIONS, ids=lambda options: "-".join(options.values()))
def test_an_early_step_is_chosen(options: dict[str, str]) -> None:
    """A large learning rate overshoots a near target, so that `nearest` stops before the last step."""
    case = make_case(steps=12, lr=0.5, distance_to_target=0.002, **options)
    found = case.run("torch")
    assert (found[0].step == 12) == (options["selection"] == "last")
    assert_same(found, case.run("autograd"), BOUND)


def test_dropout_draws_the_same_numbers_in_the_sweep() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(128, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3))
    case = make_case(model=model, steps=5)
    found = case.run("torch")
    assert_same(found, case.run("autograd"), BOUND)
    model.eval()
    assert not torch.equal(case.run("torch")[0].loss, found[0].loss)


def test_the_mode_must_not_change_before_backward() -> None:
    """Dropout switched off in between would give the gradient of another student."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    case = make_case(model=model, steps=2)
    images = case.images.clone().requires_grad_()
    loss = match(case.model, case.start, case.target, [(images, case.labels)] * 2, case.lr, backend="torch").loss
    model.eval()
    with pytest.raises(InputError, match="switched between training and evaluation mode"):
        loss.backward()


def test_autocast_around_the_forward_sweep_alone() -> None:
    """The backward sweep runs the steps again in the forward sweep's precision, wherever backward is called."""
    case = make_case(steps=4)
    case.model, case.start, case.target = case.model.float(), case.start.float(), case.target.float()
    gradients = []
    for inside in (True, False):
        images = case.images.float().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pairs = [(images, case.labels)] * 4
            loss = match(case.model, case.start, case.target, pairs, 0.05, backend="torch").loss
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        gradients.append(images.grad)
    assert torch.equal(*gradients)


def test_a_gradient_that_is_an_expanded_view() -> None:
    """The derivative of a sum over pixels is one number seen at every pixel: it cannot be written to."""

    class SumOverPixels(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.sum((2, 3))

    with torch.random.fork_rng():
        torch.manual_seed(1)
        case = make_case(model=nn.Sequential(SumOverPixels(), nn.Linear(2, 3)), steps=3, lr=0.01)
    assert_same(case.run("torch", recipe=False), case.run("autograd", recipe=False), BOUND)
    images = case.images.clone().requires_grad_()
    pairs = [(images, case.labels)] * 3
    found = [match(case.model, case.start, case.target, pairs, case.lr, backend=each) for each in ("torch", "autograd")]
    one, other = (torch.autograd.grad(each.loss, images)[0] for each in found)
    torch.testing.assert_close(one, other, rtol=BOUND, atol=0)


def test_a_parameter_that_the_output_ignores() -> None:
    class Partial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Linear(128, 3)
            self.unused = nn.Parameter(torch.ones(2))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.used(images.flatten(1)).square()

    with torch.random.fork_rng():
        torch.manual_seed(1)
        case = make_case(model=Partial(), steps=3, lr=0.01)
    assert_same(case.run("torch"), case.run("autograd"), BOUND)


def test_fp32_error_is_no_larger_than_the_oracles_own() -> None:
    """Over ten seeds the fp32 sweep is, in the median, at most twice as far from fp64 as the fp32 graph is."""
    errors: dict[str, list[float]] = {"torch": [], "autograd": []}
    for seed in range(10):
        case = make_case(steps=4, lr=0.02)
        case.images = torch.randn(case.images.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        exact = case.run("autograd")[1]["images"]
        for name in ("model", "start", "target", "images", "lr"):
            value = getattr(case, name)
            setattr(case, name, value.float())
        for backend, found in errors.items():
            gradient = case.run(backend)[1]["images"].double()
            found.append(float((gradient - exact).norm() / exact.norm()))
    medians = {backend: float(torch.tensor(found).median()) for backend, found in errors.items()}
    assert medians["torch"] <= 2 * medians["autograd"] + 1e-6
